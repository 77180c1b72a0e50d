package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// reconcilerOf is the user that Flux impersonates for a tenant, and a client that
// acts as that user does: without naming groups, which the API server adds to a
// service account. A tenant without an account fails the check: it acts with the
// controller's own rights.
func reconcilerOf(env *environment, tenant *platform.Tenant) (string, client.Client) {
	GinkgoHelper()
	account := tenant.Reconciler
	if account.Name == "" {
		Fail(fmt.Sprintf("%s, declared at %s, names no account, and the controller has no default one: it acts as cluster-admin",
			tenant.Kustomization, tenant.Kustomization.Origin))
	}
	user := "system:serviceaccount:" + account.Namespace + ":" + account.Name
	actor, err := env.as(user)
	Expect(err).NotTo(HaveOccurred())
	return user, actor
}

var _ = perTenant(check.Check{
	ID:    "ISO-005",
	Title: "the tenant's reconciler is refused, by name of who refuses, to apply or delete other tenants' objects of each kind, and is not refused its own as another's",
	Why: "in a shared namespace RBAC gives every reconciler the same kinds: unless something looks at whose object " +
		"it is, one tenant's commit takes over or deletes what is another's",
	Remedy:    "let a policy tell whose an object is by who asks, for CREATE, UPDATE and DELETE of each kind that tenants have; see what the message says was not refused",
	Reference: "https://fluxcd.io/flux/installation/configuration/multitenancy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	user, actor := reconcilerOf(env, tenant)
	victims, err := victims(ctx, env, tenant)
	Expect(err).NotTo(HaveOccurred())
	if len(victims) == 0 {
		Skip(notSupported + "no other tenant of this environment has objects that its reconciler applies")
	}
	var policies []string
	for _, p := range env.Policies {
		policies = append(policies, p.GetName())
	}
	var tries []write
	for _, victim := range victims {
		tries = append(tries, write{"apply", victim, false}, write{"delete", victim, false})
	}
	own, err := controls(ctx, env, tenant, victims)
	Expect(err).NotTo(HaveOccurred())
	for _, object := range own {
		tries = append(tries, write{"apply", object, true}, write{"delete", object, true})
	}
	var problems []string
	refused := refusers{}
	// A policy that was changed before this run is in force when its patience ends.
	err = wait.PollUntilContextCancel(ctx, current.timeouts.Poll, true, func(ctx context.Context) (bool, error) {
		var again []write
		problems, again = judgeWrites(tries, refused,
			func(w write) error { return w.send(ctx, actor, tenant) },
			func(answer error) (string, string) { return state.Refusal(answer, user, policies) })
		tries = again
		return len(again) == 0 || time.Now().After(current.inForce), nil
	})
	Expect(err).NotTo(HaveOccurred())
	sort.Strings(problems)
	expectNone(problems, "what %s may do, or may not", user)
})

// write is what a reconciler does with an object, as a dry-run.
type write struct {
	verb   string
	object standing
	// own says that the object is the reconciler's: the control.
	own bool
}

// standing is an object, whose it is, and how it stands in the cluster.
type standing struct {
	platform.Object
	whose string
	live  *unstructured.Unstructured
}

// String names the write in messages.
func (w write) String() string {
	if w.own {
		return fmt.Sprintf("%s of its own %s", w.verb, w.object)
	}
	return fmt.Sprintf("%s of %s of %s", w.verb, w.object, w.object.whose)
}

// send asks the API server as the tenant's reconciler would.
func (w write) send(ctx context.Context, actor client.Client, tenant *platform.Tenant) error {
	switch w.verb {
	case "delete":
		return actor.Delete(ctx, w.object.DeepCopy(), client.DryRunAll)
	case "create":
		// That the name is taken is found out when all have admitted it.
		err := actor.Create(ctx, takenOver(w.object.live, tenant), client.DryRunAll)
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	case "update":
		object := takenOver(w.object.live, tenant)
		object.SetResourceVersion(w.object.live.GetResourceVersion())
		return actor.Update(ctx, object, client.DryRunAll)
	}
	takeover := client.ApplyConfigurationFromUnstructured(takenOver(w.object.live, tenant))
	return actor.Apply(ctx, takeover, client.DryRunAll, client.ForceOwnership, client.FieldOwner("kustomize-controller"))
}

// takenOver is what a tenant's Kustomization that renders this object sends: the
// object under the labels of that Kustomization. All else is as it stands, so that
// nothing but whose it is can be refused.
func takenOver(live *unstructured.Unstructured, tenant *platform.Tenant) *unstructured.Unstructured {
	object := live.DeepCopy()
	unstructured.RemoveNestedField(object.Object, "status")
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "ownerReferences", "finalizers"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	labels := object.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	if labels[platform.TenantLabel] != "" {
		labels[platform.TenantLabel] = tenant.Name
	}
	labels[kustomizev1.GroupVersion.Group+"/name"] = tenant.Kustomization.GetName()
	labels[kustomizev1.GroupVersion.Group+"/namespace"] = tenant.Kustomization.GetNamespace()
	object.SetLabels(labels)
	return object
}

// refusal is a verb on a kind of other tenants' objects, and who refused it.
type refusal struct {
	verb string
	kind schema.GroupKind
	by   string
}

// refusers are those of a whole check: writes that are asked again are judged by
// what was refused before, too.
type refusers map[refusal]bool

// judgeWrites sends all, and returns what is wrong with the answers and, beside
// each, the write that was answered so. by tells who refused, or why nobody did. A
// policy may keep from deletion what is in use, whoever owns it: where it refuses
// no other tenant's object of the kind, that of the tenant itself shows nothing
// else than that somebody else looked at whose the others are.
func judgeWrites(tries []write, refused refusers, send func(write) error, by func(error) (string, string)) (problems []string, again []write) {
	answers := make([]error, len(tries))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, try := range tries {
		group.Go(func() error {
			answers[i] = send(try)
			return nil
		})
	}
	_ = group.Wait() // none of them errs
	said := make([]string, len(tries))
	for i, try := range tries {
		if try.own {
			continue
		}
		name, problem := by(answers[i])
		if said[i] = problem; problem == "" {
			refused[refusal{try.verb, try.object.GroupVersionKind().GroupKind(), name}] = true
		}
	}
	for i, try := range tries {
		if !try.own || answers[i] == nil {
			continue
		}
		name, problem := by(answers[i])
		guarded := try.verb == "delete" && problem == "" && name != state.ByRBAC &&
			!refused[refusal{try.verb, try.object.GroupVersionKind().GroupKind(), name}]
		if !guarded {
			said[i] = "it must be admitted, but: " + answers[i].Error()
		}
	}
	for i, problem := range said {
		if problem != "" {
			problems = append(problems, fmt.Sprintf("%s: %s", tries[i], problem))
			again = append(again, tries[i])
		}
	}
	return problems, again
}

// byKind are the objects that tenants' reconcilers apply, in the tenants' order.
func byKind(tenants ...*platform.Tenant) map[schema.GroupKind][]platform.Object {
	out := map[schema.GroupKind][]platform.Object{}
	for _, tenant := range tenants {
		for _, object := range tenant.Objects {
			if object.Owner != nil && object.Owner.Tenant == tenant.Name {
				kind := object.GroupVersionKind().GroupKind()
				out[kind] = append(out[kind], object)
			}
		}
	}
	return out
}

// firstThere is the first of some objects that is in the cluster.
func firstThere(ctx context.Context, env *environment, objects []platform.Object) (standing, bool, error) {
	for _, object := range objects {
		live, err := env.live(ctx, object)
		if err == nil {
			return standing{object, object.Owner.Tenant, live}, true, nil
		}
		if !apierrors.IsNotFound(err) {
			return standing{}, false, fmt.Errorf("read %s: %w", object, err)
		}
	}
	return standing{}, false, nil
}

// victims are objects of other tenants, of each kind that these have: one of the
// tenant that follows by name and one of the tenant before, since names that
// begin alike are the ones that a rule takes for each other. What the tenant
// declares, too, is ISO-001's to judge.
func victims(ctx context.Context, env *environment, tenant *platform.Tenant) ([]standing, error) {
	at := slices.Index(env.Tenants, tenant)
	var out []standing
	for _, objects := range byKind(slices.Concat(env.Tenants[at+1:], env.Tenants[:at])...) {
		objects = slices.DeleteFunc(objects, func(o platform.Object) bool {
			return slices.ContainsFunc(tenant.Objects, func(own platform.Object) bool { return own.String() == o.String() })
		})
		next, ok, err := firstThere(ctx, env, objects)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		slices.Reverse(objects)
		before, _, err := firstThere(ctx, env, objects)
		if err != nil {
			return nil, err
		}
		out = append(out, next)
		if before.Unstructured != next.Unstructured {
			out = append(out, before)
		}
	}
	return out, nil
}

// controls are the tenant's own objects, one of each of the victims' kinds that it
// has itself.
func controls(ctx context.Context, env *environment, tenant *platform.Tenant, victims []standing) ([]standing, error) {
	own := byKind(tenant)
	var out []standing
	for _, victim := range victims {
		kind := victim.GroupVersionKind().GroupKind()
		object, ok, err := firstThere(ctx, env, own[kind])
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, object)
		}
		delete(own, kind)
	}
	if len(out) == 0 {
		return nil, errors.New("the tenant has no object of its own of a kind that others have: that it is refused shows nothing")
	}
	return out, nil
}

var _ = perTenant(check.Check{
	ID:    "ISO-006",
	Title: "the tenant's reconciler has no right in any namespace beyond those that the platform declares and Kubernetes gives to all",
	Why: "a right that no file declares was given by hand, or by a chart, and stays when its reason is gone: " +
		"with it a tenant's commit reads or writes what the platform believes closed",
	Remedy:    "delete the binding that the message names, or declare it in the platform's repository where all can see it",
	Reference: "https://kubernetes.io/docs/concepts/security/rbac-good-practices/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	_, actor := reconcilerOf(env, tenant)
	live, err := liveRBAC(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	declared, err := declaredRBAC(env)
	Expect(err).NotTo(HaveOccurred())
	account := tenant.Reconciler
	excess := state.NewExcess(declared.With(live.Defaults()).Grants(account.Namespace, account.Name), live.Grants(account.Namespace, account.Name))
	rights, unknown, err := reviewRights(ctx, env, actor)
	Expect(err).NotTo(HaveOccurred())
	Expect(rights).NotTo(BeEmpty(), "the server lists no right at all, not even those of everybody")
	for namespace, rules := range rights {
		excess.Add(namespace, rules)
	}
	expectNone(excess.Problems(), "rights of %s/%s that the platform does not declare", account.Namespace, account.Name)
	if unknown != "" {
		Skip(notSupported + "the server does not know all rights of an account: " + unknown)
	}
})

// declaredRBAC are the roles and bindings in the platform's own files: what a
// tenant renders is no permission.
func declaredRBAC(env *environment) (state.RBAC, error) {
	var objects []*unstructured.Unstructured
	for _, object := range env.Objects {
		if object.Owner == nil || object.Owner.Tenant == "" {
			objects = append(objects, object.Unstructured)
		}
	}
	return state.ReadRBAC(objects)
}

func liveRBAC(ctx context.Context, env *environment) (state.RBAC, error) {
	objects, err := listAs(ctx, env, "",
		rbacv1.SchemeGroupVersion.WithKind("Role"), rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
		rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"))
	if err != nil {
		return state.RBAC{}, err
	}
	return state.ReadRBAC(objects)
}

// reviewRights asks the API server, as the account itself, what it may do in each
// namespace; unknown says why the answer may leave something out.
func reviewRights(ctx context.Context, env *environment, actor client.Client) (rights map[string][]rbacv1.PolicyRule, unknown string, err error) {
	namespaces := &corev1.NamespaceList{}
	if err := env.client.List(ctx, namespaces); err != nil {
		return nil, "", fmt.Errorf("list the namespaces: %w", err)
	}
	reviews := make([]authorizationv1.SelfSubjectRulesReview, len(namespaces.Items))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, namespace := range namespaces.Items {
		group.Go(func() error {
			reviews[i].Spec.Namespace = namespace.Name
			if err := actor.Create(ctx, &reviews[i]); err != nil {
				return fmt.Errorf("ask for the rights in %s: %w", namespace.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, "", err
	}
	rights = map[string][]rbacv1.PolicyRule{}
	for i, review := range reviews {
		name := namespaces.Items[i].Name
		for _, rule := range review.Status.ResourceRules {
			rights[name] = append(rights[name], rbacv1.PolicyRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		for _, rule := range review.Status.NonResourceRules {
			rights[name] = append(rights[name], rbacv1.PolicyRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
		if review.Status.Incomplete {
			unknown = "in " + name + ": " + review.Status.EvaluationError
		}
	}
	return rights, unknown, nil
}
