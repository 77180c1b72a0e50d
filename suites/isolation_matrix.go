package suites

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/listing"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// questions is how many reviews are asked at a time: they cost the server little,
// and answering one at a time would leave it waiting.
const questions = 64

// developer is a user whom nobody knows but by his groups.
const developer = "conformance:developer"

var _ = perEnvironment(check.Check{
	ID:    "ISO-009",
	Title: "each identity of a tenant may do with its own objects what its tenant needs, and with nobody's anything else that is not declared with a reason",
	Why: "one rule too wide lets a tenant read another's Secrets, take over its objects or act as it, and shows nowhere " +
		"until somebody does; one too narrow stops the next commit",
	Remedy:    "mend the role or the binding that the message names; a right that has a reason belongs in residuals: of CONFIG, with it",
	Reference: "https://kubernetes.io/docs/concepts/security/rbac-good-practices/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	began := time.Now()
	survey, err := surveyOf(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	expectNone(state.MissingActions(survey.in.Actions), "what has to be asked for, and the server does not know")
	matrix, err := state.NewMatrix(survey.in)
	Expect(err).NotTo(HaveOccurred())

	asking := time.Now()
	latencies, err := survey.ask(ctx, matrix)
	Expect(err).NotTo(HaveOccurred())
	asked := time.Since(asking)
	tried, refused, err := survey.try(ctx, matrix)
	Expect(err).NotTo(HaveOccurred())

	slices.Sort(latencies)
	took := time.Since(began)
	note(fmt.Sprintf("%d cells of %d identities, %d verbs on %d kinds and %d places in %.1f s (%.0f cells/s); "+
		"%d SubjectAccessReviews in %.1f s (%.0f/s, p99 %d ms); %d writes tried as dry-runs, of which policies refused %d",
		len(matrix.Cells), len(matrix.Identities), len(survey.in.Actions), survey.kinds(), len(survey.in.Places), took.Seconds(), float64(len(matrix.Cells))/took.Seconds(),
		len(latencies), asked.Seconds(), float64(len(latencies))/asked.Seconds(), latencies[len(latencies)*99/100].Milliseconds(), tried, refused),
		matrix.Sampling.String())
	content, err := json.Marshal(matrix)
	Expect(err).NotTo(HaveOccurred())
	Expect(current.recorder.Attach(check.Attachment{
		Environment: env.Name, Name: "matrix", Content: content, Text: matrix.HeatMap(true),
	})).To(Succeed())

	expectNone(append(survey.problems, matrix.Problems()...), "rights in %s that nobody expects", env.Name)
	Expect(matrix.Regular).To(Equal(survey.regular()), "cells of identities, verbs, kinds and places")
	Expect(latencies).To(HaveLen(len(matrix.Requests)), "answers")
	if len(survey.writers) > 1 {
		Expect(refused).NotTo(BeZero(), "no write of a tenant on another's object was tried: that they are refused was not seen")
	}
})

// survey is what a matrix is made of, and how its questions are asked.
type survey struct {
	env      *environment
	in       state.MatrixInput
	reviews  *authorizationclient.AuthorizationV1Client
	problems []string
	// writers are the tenants whose reconcilers are known to apply something.
	writers []string
	// words are what the policies say when they refuse.
	words map[string][]string
}

func surveyOf(ctx context.Context, env *environment) (*survey, error) {
	config := rest.CopyConfig(env.config)
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	reviews, err := authorizationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", env.Name, err)
	}
	s := &survey{env: env, reviews: reviews, words: map[string][]string{}}
	for _, policy := range env.Policies {
		s.words[policy.GetName()] = state.PolicyWords(policy.Unstructured)
	}
	discoverer, err := discovery.NewDiscoveryClientForConfig(env.config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", env.Name, err)
	}
	_, served, err := discoverer.ServerGroupsAndResources()
	if err != nil {
		return nil, fmt.Errorf("list the kinds of %s: %w", env.Name, err)
	}
	if s.in.Actions, err = state.Actions(served); err != nil {
		return nil, err
	}
	if s.in.Live, err = liveRBAC(ctx, env); err != nil {
		return nil, err
	}
	if err := s.places(ctx); err != nil {
		return nil, err
	}
	if err := s.identities(ctx); err != nil {
		return nil, err
	}
	if err := s.names(ctx); err != nil {
		return nil, err
	}
	if err := s.rights(); err != nil {
		return nil, err
	}
	s.in.Sampling = state.Sample(s.in, uint64(GinkgoRandomSeed())) //nolint:gosec // seeds are not negative
	return s, s.listed(ctx)
}

// kinds counts what the verbs are on.
func (s *survey) kinds() int {
	kinds := map[string]bool{}
	for _, a := range s.in.Actions {
		kinds[a.Kind()] = true
	}
	return len(kinds)
}

// regular counts the cells that there have to be.
func (s *survey) regular() int {
	count := map[bool]int{}
	for _, a := range s.in.Actions {
		count[a.Namespaced]++
	}
	cells := 0
	for i := range s.in.Identities {
		for _, p := range s.in.Sampling.Places(i) {
			cells += count[p.Namespace != ""]
		}
	}
	return cells
}

// places are all namespaces, each with those whose objects stand there, and the
// cluster's scope.
func (s *survey) places(ctx context.Context) error {
	namespaces := &corev1.NamespaceList{}
	if err := s.env.client.List(ctx, namespaces); err != nil {
		return fmt.Errorf("list the namespaces: %w", err)
	}
	everybody := []string{state.OfPlatform}
	for _, tenant := range s.env.Tenants {
		everybody = append(everybody, tenant.Name)
	}
	for _, victim := range everybody {
		s.in.Places = append(s.in.Places, state.Place{Victim: victim})
	}
	for _, namespace := range namespaces.Items {
		var victims []string
		for _, tenant := range s.env.Tenants {
			if tenant.Namespace == namespace.Name || tenant.TargetNamespace == namespace.Name {
				victims = append(victims, tenant.Name)
			}
		}
		shared := len(victims) > 1
		if len(victims) != 1 {
			victims = append(victims, state.OfPlatform)
		}
		for _, victim := range victims {
			s.in.Places = append(s.in.Places, state.Place{Namespace: namespace.Name, Victim: victim, Shared: shared})
		}
	}
	return nil
}

// tenantNamespaces are those that hold tenants' objects.
func (s *survey) tenantNamespaces() []string {
	var out []string
	for _, tenant := range s.env.Tenants {
		out = append(out, tenant.Namespace, tenant.TargetNamespace)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// identities are the tenants' reconcilers and workloads' accounts, all other
// accounts in the tenants' namespaces but the platform's own, and people: the groups
// of developers in CONFIG, and whom a binding there names.
func (s *survey) identities(ctx context.Context) error {
	type account struct{ namespace, name string }
	found := map[account]*state.Identity{}
	add := func(a account, role, tenant string) {
		identity := found[a]
		if identity == nil {
			user, groups := state.Account(a.namespace, a.name)
			identity = &state.Identity{Name: a.namespace + "/" + a.name, Role: role, User: user, Groups: groups, Tenants: []string{}}
			found[a] = identity
		}
		if tenant != "" && !slices.Contains(identity.Tenants, tenant) {
			identity.Tenants = append(identity.Tenants, tenant)
		}
	}
	for _, tenant := range s.env.Tenants {
		if tenant.Reconciler.Name == "" {
			s.problems = append(s.problems, fmt.Sprintf("%s: its %s names no account: it acts with the rights of Flux itself", tenant.Name, tenant.Kustomization))
			continue
		}
		add(account{tenant.Reconciler.Namespace, tenant.Reconciler.Name}, "reconciler", tenant.Name)
	}
	for _, tenant := range s.env.Tenants {
		for _, object := range tenant.Objects {
			references, err := state.References(object.Unstructured)
			if err != nil {
				continue // what is wrong with it is said where it is judged
			}
			for _, reference := range references {
				if reference.Kind == "ServiceAccount" {
					add(account{object.GetNamespace(), reference.Name}, "workload", tenant.Name)
				}
			}
		}
	}
	ours := map[account]bool{}
	for _, object := range s.env.Objects {
		if object.GetKind() == "ServiceAccount" && (object.Owner == nil || object.Owner.Tenant == "") && object.GetLabels()[platform.TenantLabel] == "" {
			ours[account{object.GetNamespace(), object.GetName()}] = true
		}
	}
	for _, namespace := range s.tenantNamespaces() {
		live := &corev1.ServiceAccountList{}
		if err := s.env.client.List(ctx, live, client.InNamespace(namespace)); err != nil {
			return fmt.Errorf("list the accounts of %s: %w", namespace, err)
		}
		for _, object := range live.Items {
			a := account{namespace, object.Name}
			if ours[a] {
				continue
			}
			role, tenant := "account", object.Labels[platform.TenantLabel]
			if object.Name == "default" {
				role = "default"
			}
			for _, t := range s.env.Tenants {
				if tenant == "" && t.Namespace == namespace && t.TargetNamespace != namespace {
					tenant = t.Name
				}
			}
			add(a, role, tenant)
		}
		// Also where nobody made it yet.
		add(account{namespace, "default"}, "default", "")
	}
	for _, identity := range found {
		s.in.Identities = append(s.in.Identities, *identity)
	}
	roles := platform.IdentityRoles
	slices.SortFunc(s.in.Identities, func(a, b state.Identity) int {
		return cmp.Or(cmp.Compare(slices.Index(roles, a.Role), slices.Index(roles, b.Role)), cmp.Compare(a.Name, b.Name))
	})
	groups := s.env.view.Config.Developers
	if len(groups) == 0 {
		groups = []string{"developers"}
	}
	users, bound := s.in.Live.Bound(s.tenantNamespaces()...)
	groups = append(slices.Clone(groups), bound...)
	slices.Sort(groups)
	person := func(name, user, group string) {
		if !slices.Contains(s.env.view.Config.Operators, cmp.Or(group, user)) {
			s.in.Identities = append(s.in.Identities, state.Identity{
				Name: name, Role: "developers", User: user, Groups: append(slices.DeleteFunc([]string{group}, isEmpty), "system:authenticated"), Tenants: []string{},
			})
		}
	}
	for _, group := range slices.Compact(groups) {
		person("group "+group, developer, group)
	}
	for _, user := range users {
		person("user "+user, user, "")
	}
	return nil
}

func isEmpty(s string) bool { return s == "" }

// names finds an object of each kind that somebody has in a place; one that its
// tenant declares before all others.
func (s *survey) names(ctx context.Context) error {
	lister, err := listing.New(s.env.config)
	if err != nil {
		return err
	}
	lister.Patience = current.timeouts.Request
	kinds, err := lister.Metadata(ctx)
	if err != nil {
		return err
	}
	declared := map[string]bool{}
	for _, tenant := range s.env.Tenants {
		for _, object := range tenant.Objects {
			declared[object.String()] = true
		}
	}
	victims := map[string][]string{}
	for _, place := range s.in.Places {
		victims[place.Namespace] = append(victims[place.Namespace], place.Victim)
	}
	s.in.Names = map[state.Named]string{}
	chosen := map[state.Named]bool{} // declared
	for _, kind := range kinds {
		for _, object := range kind.Objects {
			victim := object.Labels[platform.TenantLabel]
			if here := victims[object.Namespace]; len(here) == 1 {
				victim = here[0]
			} else if !slices.Contains(here, victim) {
				victim = state.OfPlatform
			}
			id := state.Named{Namespace: object.Namespace, Victim: victim, Group: kind.Group, Resource: kind.Resource}
			own := declared[kind.Name+" "+object.Namespace+"/"+object.Name]
			if old, ok := s.in.Names[id]; !ok || own && !chosen[id] || own == chosen[id] && object.Name < old {
				s.in.Names[id], chosen[id] = object.Name, own
			}
		}
	}
	// Whom one would act as is no object.
	flux := s.env.FluxSystem.Kustomization.GetNamespace()
	s.in.Names[state.Named{Victim: state.OfPlatform, Resource: "users"}], _ = state.Account(flux, "kustomize-controller")
	s.in.Names[state.Named{Victim: state.OfPlatform, Resource: "groups"}] = "system:masters"
	for _, tenant := range s.env.Tenants {
		user, groups := state.Account(tenant.Reconciler.Namespace, tenant.Reconciler.Name)
		s.in.Names[state.Named{Victim: tenant.Name, Resource: "users"}] = user
		s.in.Names[state.Named{Victim: tenant.Name, Resource: "groups"}] = groups[1]
	}
	return nil
}

// rights are what the tenants' Kustomizations need for what they apply, and what
// CONFIG gives a reason for.
func (s *survey) rights() error {
	s.in.Unknown = map[string]string{}
	for _, tenant := range s.env.Tenants {
		if tenant.Reconciler.Name == "" {
			continue
		}
		name := tenant.Reconciler.Namespace + "/" + tenant.Reconciler.Name
		if broken, unread := undeclared(tenant); len(broken)+len(unread) > 0 {
			s.in.Unknown[name] = tenant.TargetNamespace
			note(fmt.Sprintf("what %s may do in %s is not judged, since what it declares is not known", name, tenant.TargetNamespace))
			continue
		}
		needs := map[state.Named][]string{}
		why := map[state.Named]string{}
		need := func(namespace, group, resource, reason string, verbs ...string) {
			id := state.Named{Namespace: namespace, Group: group, Resource: resource}
			needs[id], why[id] = append(needs[id], verbs...), reason
		}
		for _, object := range tenant.Objects {
			if object.Owner == nil || object.Owner.Tenant != tenant.Name {
				continue
			}
			gvk := object.GroupVersionKind()
			mapping, err := s.env.client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
			if err != nil {
				s.problems = append(s.problems, fmt.Sprintf("%s: the server does not know its kind: %s", object, err))
				continue
			}
			const reason = "a Kustomization reads an object before it applies or removes it"
			verbs := []string{"get", "create", "patch"}
			if object.Owner.Spec.Prune {
				verbs = append(verbs, "delete")
			}
			need(object.GetNamespace(), gvk.Group, mapping.Resource.Resource, reason, verbs...)
			if !object.Owner.Spec.Wait && len(object.Owner.Spec.HealthChecks) == 0 {
				continue
			}
			// By these the health of what makes pods is told; one by one they need not
			// be read, but may.
			const health = "the health of what makes pods is read from them"
			if gvk.Group == "apps" && gvk.Kind == "Deployment" {
				need(object.GetNamespace(), "apps", "replicasets", health, "list")
			}
			if gvk.Group == "apps" || gvk.Group == "batch" {
				need(object.GetNamespace(), "", "pods", health, "list")
			}
		}
		for id, verbs := range needs {
			slices.Sort(verbs)
			verbs = slices.Compact(verbs)
			right := state.Right{
				Identity: name, Namespace: id.Namespace, Group: id.Group, Resource: id.Resource, Verbs: verbs, Needed: true, Reason: why[id],
			}
			s.in.Rights = append(s.in.Rights, right)
			if slices.Equal(verbs, []string{"list"}) {
				right.Verbs, right.Needed = []string{"get"}, false
				s.in.Rights = append(s.in.Rights, right)
			}
		}
		if len(needs) > 0 {
			s.writers = append(s.writers, tenant.Name)
		}
	}
	return s.residuals()
}

// residuals are the rights that CONFIG gives a reason for.
func (s *survey) residuals() error {
	for _, r := range s.env.view.Config.Residuals {
		origin := fmt.Sprintf("%s:%d", s.env.view.Config.File, r.Line)
		i := slices.IndexFunc(s.in.Actions, func(a state.Action) bool {
			return a.Group == r.Group && strings.TrimSuffix(a.Resource+"/"+a.Subresource, "/") == r.Resource
		})
		if i < 0 {
			return fmt.Errorf("%s: residual: the server of %s knows no resource %s of the group %q", origin, s.env.Name, r.Resource, r.Group)
		}
		namespaces := r.Namespaces
		switch {
		case !s.in.Actions[i].Namespaced:
			namespaces = []string{""}
		case len(namespaces) == 0:
			for _, tenant := range s.env.Tenants {
				namespaces = append(namespaces, tenant.TargetNamespace)
			}
			slices.Sort(namespaces)
			namespaces = slices.Compact(namespaces)
		}
		for _, identity := range s.in.Identities {
			for _, namespace := range namespaces {
				if identity.Role == r.Identity {
					s.in.Rights = append(s.in.Rights, state.Right{
						Identity: identity.Name, Namespace: namespace, Group: r.Group, Resource: r.Resource, Verbs: r.Verbs, Reason: r.Reason, Origin: origin,
					})
				}
			}
		}
	}
	return nil
}

// listed asks for each identity's rights in each namespace that is judged for it, as
// that identity.
func (s *survey) listed(ctx context.Context) error {
	s.in.Listed = make([]map[string]state.Listed, len(s.in.Identities))
	var guard sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(questions)
	for i, identity := range s.in.Identities {
		s.in.Listed[i] = map[string]state.Listed{}
		actor, err := s.env.as(identity.User, identity.Groups...)
		if err != nil {
			return err
		}
		namespaces := map[string]bool{}
		for _, place := range s.in.Sampling.Places(i) {
			if place.Namespace != "" {
				namespaces[place.Namespace] = true
			}
		}
		for namespace := range namespaces {
			group.Go(func() error {
				review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
				if err := actor.Create(ctx, review); err != nil {
					return fmt.Errorf("ask for the rights of %s in %s: %w", identity.Name, namespace, err)
				}
				listed := state.Listed{Complete: !review.Status.Incomplete}
				for _, rule := range review.Status.ResourceRules {
					listed.Rules = append(listed.Rules, rbacv1.PolicyRule{
						Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
					})
				}
				guard.Lock()
				defer guard.Unlock()
				s.in.Listed[i][namespace] = listed
				return nil
			})
		}
	}
	return group.Wait()
}

// ask has every question answered, and returns how long each took.
func (s *survey) ask(ctx context.Context, matrix *state.Matrix) ([]time.Duration, error) {
	latencies := make([]time.Duration, len(matrix.Requests))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(questions)
	for i, request := range matrix.Requests {
		group.Go(func() error {
			identity := matrix.Identities[request.Identity]
			began := time.Now()
			answer, err := s.reviews.SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: identity.User, Groups: identity.Groups,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: request.Verb, Group: request.Group, Resource: request.Resource, Subresource: request.Subresource,
					Namespace: request.Namespace, Name: request.Name,
				},
			}}, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("ask whether %s may %s: %w", identity.Name, request.Action, err)
			}
			latencies[i] = time.Since(began)
			status := answer.Status
			// A binding to a role that does not exist grants nothing, and is no reason
			// to know nothing.
			if !status.Allowed && status.EvaluationError != "" && !strings.Contains(status.EvaluationError, "not found") {
				return fmt.Errorf("ask whether %s may %s: the server does not know: %s", identity.Name, request.Action, status.EvaluationError)
			}
			matrix.Answer(i, status.Allowed, status.Reason)
			return nil
		})
	}
	return latencies, group.Wait()
}

// try sends, as dry-runs, the writes on others' objects that RBAC allows and a
// policy has to refuse, the same on the tenants' own, and those that RBAC has to
// refuse. It returns how many it sent, and how many policies refused.
func (s *survey) try(ctx context.Context, matrix *state.Matrix) (tried, refused int, err error) {
	guarded, own, closed := matrix.Tries()
	batches := make([]*batch, len(matrix.Identities))
	for i, identity := range matrix.Identities {
		actor, err := s.env.as(identity.User, identity.Groups...)
		if err != nil {
			return 0, 0, err
		}
		tenant := s.env.Tenants[0]
		if len(identity.Tenants) > 0 {
			tenant = s.env.Tenant(identity.Tenants[0])
		}
		batches[i] = &batch{survey: s, identity: identity, actor: actor, tenant: tenant, cells: map[string]*state.Cell{}, answers: map[string]error{}}
	}
	stands := map[string]*standing{}
	for _, c := range slices.Concat(guarded, own, closed) {
		id := c.Kind() + " " + c.Namespace + "/" + c.Name
		if _, known := stands[id]; !known {
			object, err := s.standing(ctx, c)
			if err != nil {
				return 0, 0, err
			}
			stands[id] = object
		}
		if object := stands[id]; object != nil {
			batches[c.Identity].add(c, *object, !matrix.Allowed(c))
		}
	}
	var group errgroup.Group
	for _, b := range batches {
		group.Go(func() error { return b.judge(ctx) })
	}
	err = group.Wait()
	for _, b := range batches {
		tried += len(b.cells)
	}
	for _, c := range guarded {
		if c.RefusedBy != "" {
			refused++
		}
	}
	return tried, refused, err
}

// standing reads the object of a cell; nil when it is gone.
func (s *survey) standing(ctx context.Context, c *state.Cell) (*standing, error) {
	kind, err := s.env.client.RESTMapper().KindFor(schema.GroupVersionResource{Group: c.Group, Resource: c.Resource})
	if err != nil {
		return nil, fmt.Errorf("find the kind of %s: %w", c.Kind(), err)
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(kind)
	err = s.env.client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: c.Name}, live)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", kind.Kind, c.Namespace, c.Name, err)
	}
	return &standing{platform.Object{Unstructured: live}, c.Victim, live}, nil
}

// batch are the writes that one identity tries.
type batch struct {
	*survey
	identity state.Identity
	actor    client.Client
	tenant   *platform.Tenant
	// open are those that RBAC lets through, closed the others.
	open, closed []write
	cells        map[string]*state.Cell

	guard   sync.Mutex
	answers map[string]error
}

func (b *batch) add(c *state.Cell, object standing, closed bool) {
	w := write{c.Verb, object, c.Expected == state.Needed}
	if c.Verb == "patch" {
		w.verb = "apply"
	}
	b.cells[w.String()] = c
	if closed {
		b.closed = append(b.closed, w)
		return
	}
	b.open = append(b.open, w)
}

// judge tries all, and writes down in the cells who refused, or what is wrong.
func (b *batch) judge(ctx context.Context) error {
	var policies []string
	for _, p := range b.env.Policies {
		policies = append(policies, p.GetName())
	}
	send := func(w write) error {
		err := w.send(ctx, b.actor, b.tenant)
		b.guard.Lock()
		defer b.guard.Unlock()
		b.answers[w.String()] = err
		return err
	}
	by := func(answer error) (string, string) {
		name, problem := state.Refusal(answer, b.identity.User, policies)
		switch {
		case problem != "":
		case name == state.ByRBAC:
			problem = "RBAC refused it, though the server says that it may: " + answer.Error()
		case !state.InWords(answer.Error(), b.words[name]):
			problem = name + " refused it, and not in its own words: " + answer.Error()
		}
		return name, problem
	}
	refused := refusers{}
	problems := map[string]string{}
	again := b.open
	// A policy that was changed before this run is in force when its patience ends.
	err := wait.PollUntilContextCancel(ctx, current.timeouts.Poll, true, func(context.Context) (bool, error) {
		var said []string
		said, again = judgeWrites(again, refused, send, by)
		clear(problems)
		for i, w := range again {
			problems[w.String()] = strings.TrimPrefix(said[i], w.String()+": ")
		}
		return len(again) == 0 || time.Now().After(current.inForce), nil
	})
	if err != nil {
		return fmt.Errorf("try the writes of %s: %w", b.identity.Name, err)
	}
	said, wrong := judgeWrites(b.closed, refusers{}, send, func(answer error) (string, string) {
		name, problem := state.Refusal(answer, b.identity.User, policies)
		if problem == "" && name != state.ByRBAC {
			problem = "RBAC has to refuse it, and " + name + " did: " + answer.Error()
		}
		return name, problem
	})
	for i, w := range wrong {
		problems[w.String()] = strings.TrimPrefix(said[i], w.String()+": ")
	}
	for _, w := range slices.Concat(b.open, b.closed) {
		c := b.cells[w.String()]
		c.Problem = problems[w.String()]
		if c.Problem == "" && b.answers[w.String()] != nil {
			c.RefusedBy, _ = state.Refusal(b.answers[w.String()], b.identity.User, policies)
		}
	}
	return nil
}
