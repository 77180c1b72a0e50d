package suites

import (
	"context"
	"fmt"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// rendered are the kinds of which every tenant has at least one.
var rendered = []string{"Deployment", "Service", "ConfigMap"}

// declaredOf are the tenant's objects of a kind. Where there are none, what a
// check says of them cannot be judged; whether there must be some is TEN-001's.
func declaredOf(tenant *platform.Tenant, kind string) []platform.Object {
	GinkgoHelper()
	var out []platform.Object
	for _, o := range tenant.Objects {
		if o.GetKind() == kind {
			out = append(out, o)
		}
	}
	if len(out) == 0 {
		Skip(notSupported + "the platform declares no " + kind + " for this tenant")
	}
	return out
}

// listAs reads all objects of these kinds in a namespace.
func listAs(ctx context.Context, env *environment, namespace string, kinds ...schema.GroupVersionKind) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := env.client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("list %s in %s: %w", kind.Kind, namespace, err)
		}
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}

// asStored is a declared object as the API server stores it: a field that is
// declared to be what it is without being declared is not kept.
func asStored(declared platform.Object) (map[string]any, error) {
	typed, err := scheme.Scheme.New(declared.GroupVersionKind())
	if runtime.IsNotRegisteredError(err) {
		return declared.Object, nil
	}
	if err == nil {
		err = convert(declared, typed)
	}
	if err != nil {
		return nil, err
	}
	if secret, ok := typed.(*corev1.Secret); ok {
		for key, text := range secret.StringData {
			if secret.Data == nil {
				secret.Data = map[string][]byte{}
			}
			secret.Data[key] = []byte(text)
		}
		secret.StringData = nil
	}
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return nil, fmt.Errorf("read %s, declared at %s: %w", declared, declared.Origin, err)
	}
	return out, nil
}

var _ = perTenant(check.Check{
	ID:    "TEN-001",
	Title: "the tenant's Deployment, Service and generated ConfigMap are there, with whatever else is declared, as declared",
	Why: "this is what the platform promises a tenant: an object that is missing or other than " +
		"declared is an outage, or a change that nobody committed",
	Remedy:    "compare the declared with the found value; reconcile the tenant's Kustomization, and see who else writes the field (managedFields)",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	var problems []string
	for _, kind := range rendered {
		if _, ok := tenant.Object(kind); !ok {
			problems = append(problems, "the platform declares no "+kind+" for this tenant")
		}
	}
	for _, declared := range tenant.Objects {
		live, err := env.live(ctx, declared)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, err))
			continue
		}
		want, err := asStored(declared)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		for _, difference := range state.Compare(want, live.Object) {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, difference))
		}
	}
	expectNone(problems, "what differs from %s", tenant.Kustomization.Origin)
})

var _ = perTenant(check.Check{
	ID:        "TEN-002",
	Title:     "the pods of the tenant's Deployments run and are available in the declared number",
	Why:       "a Deployment that is admitted but not available serves nobody",
	Remedy:    "look at the pods' events and logs in the artifacts",
	Reference: "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status",
	Level:     check.Core,
	Needs:     []string{"Workloads"},
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	deployments := declaredOf(tenant, "Deployment")
	var problems []string
	// A pod that cannot start is said at once: the rest of the time would not help it.
	Eventually(func(g Gomega, ctx SpecContext) {
		problems = nil
		passing := true
		for _, declared := range deployments {
			found, err := availability(ctx, env, declared)
			g.Expect(err).NotTo(HaveOccurred())
			for _, finding := range found {
				problems = append(problems, fmt.Sprintf("%s: %s", declared, finding.Text))
				passing = passing && finding.Passing
			}
		}
		g.Expect(passing && len(problems) > 0).To(BeFalse(), func() string { return listed(problems, "pods of %s", tenant.Name) })
	}).WithContext(ctx).Should(Succeed())
	expectNone(problems, "pods of %s", tenant.Name)
})

// availability says what keeps the pods of a Deployment from being available.
func availability(ctx context.Context, env *environment, declared platform.Object) ([]state.Finding, error) {
	in := state.AvailabilityInput{}
	err := env.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), &in.Deployment)
	if apierrors.IsNotFound(err) {
		return []state.Finding{{Text: "it is not in the cluster"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", declared, err)
	}
	sets, pods, events := &appsv1.ReplicaSetList{}, &corev1.PodList{}, &corev1.EventList{}
	for _, list := range []client.ObjectList{sets, pods, events} {
		if err := env.client.List(ctx, list, client.InNamespace(declared.GetNamespace())); err != nil {
			return nil, fmt.Errorf("list what became of %s: %w", declared, err)
		}
	}
	in.ReplicaSets, in.Pods, in.Events = sets.Items, pods.Items, events.Items
	return state.AvailabilityFindings(in), nil
}

// rolledOut waits until the controllers are done with the tenant's Deployments as
// they are now, or say that they cannot go on: what is then found of their pods
// stays. Whether it is right is for the checks to say.
func rolledOut(ctx context.Context, env *environment, tenant *platform.Tenant) {
	for _, declared := range tenant.Objects {
		if declared.GetKind() != "Deployment" {
			continue
		}
		// Neither the end of the time nor an error ends a check: it looks itself.
		_ = wait.PollUntilContextTimeout(ctx, current.timeouts.Poll, current.timeouts.Eventually, true, func(ctx context.Context) (bool, error) {
			live := &appsv1.Deployment{}
			if err := env.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), live); err != nil {
				return true, err
			}
			if settled(live) {
				return true, nil
			}
			found, err := availability(ctx, env, declared)
			return slices.ContainsFunc(found, func(f state.Finding) bool { return !f.Passing }), err
		})
	}
}

func settled(live *appsv1.Deployment) bool {
	if live.Status.ObservedGeneration != live.Generation {
		return false
	}
	for _, condition := range live.Status.Conditions {
		if condition.Type == appsv1.DeploymentReplicaFailure && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return live.Status.Replicas == *live.Spec.Replicas && live.Status.UpdatedReplicas == *live.Spec.Replicas
}

var _ = perTenant(check.Check{
	ID:    "TEN-003",
	Title: "the pods of the tenant's Deployments were admitted in the declared number, and are what the declared template says",
	Why: "Pod Security, quota or a policy may refuse the pods of a Deployment that was itself accepted, and a " +
		"webhook or a hand may change them: only the pods tell",
	Remedy:    "read the events of the ReplicaSet: they carry the reason of a refusal; a pod that differs is replaced when it is deleted, if nobody changes it again",
	Reference: "https://kubernetes.io/docs/concepts/security/pod-security-admission/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	deployments := declaredOf(tenant, "Deployment")
	rolledOut(ctx, env, tenant)
	var problems []string
	for _, declared := range deployments {
		found, err := podProblems(ctx, env, tenant, declared)
		Expect(err).NotTo(HaveOccurred())
		for _, problem := range found {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, problem))
		}
	}
	expectNone(problems, "where pods of %s are not as declared", tenant.Name)
})

// podProblems holds the pods of a Deployment against its declaration.
func podProblems(ctx context.Context, env *environment, tenant *platform.Tenant, declared platform.Object) ([]string, error) {
	want := &appsv1.Deployment{}
	if err := convert(declared, want); err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(want.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s: %w", declared, err)
	}
	pods := &corev1.PodList{}
	if err := env.client.List(ctx, pods, client.InNamespace(want.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("list the pods of %s: %w", declared, err)
	}
	var out []string
	admitted := 0
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil {
			continue
		}
		admitted++
		if label := pod.Labels[platform.TenantLabel]; label != tenant.Name {
			out = append(out, fmt.Sprintf("Pod %s has the tenant label %q", pod.Name, label))
		}
		differences, err := state.PodDifferences(want.Spec.Template, pod)
		if err != nil {
			return nil, err
		}
		for _, difference := range differences {
			out = append(out, fmt.Sprintf("Pod %s: %s", pod.Name, difference))
		}
	}
	replicas := 1
	if want.Spec.Replicas != nil {
		replicas = int(*want.Spec.Replicas)
	}
	if admitted != replicas {
		out = append(out, fmt.Sprintf("%d pods were admitted, declared are %d", admitted, replicas))
		refusals, err := refusals(ctx, env, want)
		if err != nil {
			return nil, err
		}
		out = append(out, refusals...)
	}
	return out, nil
}

// refusals are the controllers' words on why pods of a Deployment are missing.
func refusals(ctx context.Context, env *environment, declared *appsv1.Deployment) ([]string, error) {
	live := &appsv1.Deployment{}
	if err := env.client.Get(ctx, client.ObjectKeyFromObject(declared), live); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	var out []string
	for _, condition := range live.Status.Conditions {
		if condition.Type == appsv1.DeploymentReplicaFailure && condition.Status == corev1.ConditionTrue {
			out = append(out, condition.Message)
		}
	}
	return out, nil
}

// consumers are the kinds that use ConfigMaps, and these themselves.
var consumers = []schema.GroupVersionKind{
	corev1.SchemeGroupVersion.WithKind("ConfigMap"),
	corev1.SchemeGroupVersion.WithKind("Pod"),
	appsv1.SchemeGroupVersion.WithKind("Deployment"),
	appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
	appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
	batchv1.SchemeGroupVersion.WithKind("Job"),
	batchv1.SchemeGroupVersion.WithKind("CronJob"),
}

var _ = perTenant(check.Check{
	ID:    "TEN-005",
	Title: "the tenant's generated ConfigMap bears the hash of its content, cannot be changed if so declared, is what its pods mount, and has left no older one",
	Why: "the hash in the name is what makes a changed value a rollout that can be seen and taken back; content under " +
		"another's hash, or a pod on an older generation, runs on values that nobody committed",
	Remedy: "let kustomize generate the ConfigMap (no disableNameSuffixHash) and mount it by the name that it has in the base; " +
		"delete what is left of older generations, and see why Flux did not prune it",
	Reference: "https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/configmapgenerator/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	var configMaps []platform.Object
	for _, declared := range declaredOf(tenant, "ConfigMap") {
		fromFiles := slices.ContainsFunc(tenant.Values, func(v platform.Value) bool { return v.ConfigMap == declared.GetName() })
		if fromFiles || state.Generated(declared.Unstructured) {
			configMaps = append(configMaps, declared)
		}
	}
	if len(configMaps) == 0 {
		Skip(notSupported + "the platform generates no ConfigMap for this tenant")
	}
	rolledOut(ctx, env, tenant)
	var problems []string
	objects := map[string][]*unstructured.Unstructured{}
	for _, declared := range configMaps {
		namespace := declared.GetNamespace()
		if objects[namespace] == nil {
			found, err := listAs(ctx, env, namespace, consumers...)
			Expect(err).NotTo(HaveOccurred())
			objects[namespace] = found
		}
		found, err := state.GenerationProblems(declared.Unstructured, objects[namespace])
		Expect(err).NotTo(HaveOccurred())
		for _, problem := range found {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, problem))
		}
	}
	expectNone(problems, "what is wrong with the generated ConfigMaps of %s", tenant.Name)
})
