package attack

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/listing"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// site is one environment while it is attacked.
type site struct {
	name     string
	declared *platform.Environment
	state    bringup.EnvironmentState
	config   *rest.Config
	sender   *overlay.Sender
	lister   *listing.Lister
	serves   func() (served, error)
	// namespaces are those that tenants' objects stand in: shared ones and their own.
	namespaces []string
	// tenants maps what applies objects to the tenant whose it is.
	tenants  map[string]string
	policies []string

	mu        sync.Mutex
	latencies []time.Duration
}

func newSite(declared *platform.Environment, up bringup.EnvironmentState) (*site, error) {
	s := &site{name: declared.Name, declared: declared, state: up, tenants: map[string]string{}}
	var err error
	if s.config, err = up.Config(); err != nil {
		return nil, err
	}
	if s.sender, err = overlay.NewSender(s.config); err != nil {
		return nil, fmt.Errorf("environment %s: %w", s.name, err)
	}
	if s.lister, err = listing.New(s.config); err != nil {
		return nil, fmt.Errorf("environment %s: %w", s.name, err)
	}
	s.serves = serves(s.config)
	for _, tenant := range declared.Tenants {
		for _, k := range tenant.Kustomizations {
			s.tenants[k.String()] = tenant.Name
		}
		for _, h := range tenant.HelmReleases {
			s.tenants[h.String()] = tenant.Name
		}
		for _, namespace := range []string{tenant.TargetNamespace, tenant.Namespace} {
			if namespace != "" && !slices.Contains(s.namespaces, namespace) {
				s.namespaces = append(s.namespaces, namespace)
			}
		}
	}
	for _, p := range declared.Policies {
		s.policies = append(s.policies, p.GetName())
	}
	return s, nil
}

// wide are the kinds of the whole cluster by which rights are given.
var wide = []schema.GroupVersionResource{
	{Version: "v1", Resource: "namespaces"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
	{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"},
}

// reachable are the kinds of the whole cluster that changes may reach beside.
var reachable = slices.Concat(wide, []schema.GroupVersionResource{
	{Group: policyKind.Group, Version: policyKind.Version, Resource: "validatingpolicies"},
})

// look takes down all objects that attacks must leave as they are.
func (s *site) look(ctx context.Context) (state.Snapshot, error) {
	return s.record(ctx, s.namespaces, wide)
}

// lookAround takes down all that changes may reach: the platform's own objects, but
// those of Flux itself and of the policy engine, which come and go.
func (s *site) lookAround(ctx context.Context) (state.Snapshot, error) {
	namespaces := slices.Clone(s.namespaces)
	for _, n := range s.declared.Namespaces {
		if name := n.GetName(); !slices.Contains(namespaces, name) && name != bootstrap.Namespace && name != "kyverno" {
			namespaces = append(namespaces, name)
		}
	}
	return s.record(ctx, namespaces, reachable)
}

func (s *site) record(ctx context.Context, namespaces []string, kinds []schema.GroupVersionResource) (state.Snapshot, error) {
	found := make([][]*unstructured.Unstructured, len(namespaces)+1)
	group, running := errgroup.WithContext(ctx)
	for i, namespace := range namespaces {
		group.Go(func() (err error) {
			found[i], err = s.lister.Namespace(running, namespace)
			return err
		})
	}
	group.Go(func() (err error) {
		found[len(namespaces)], err = s.lister.List(running, "", kinds...)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("environment %s: %w", s.name, err)
	}
	objects := slices.Concat(found...)
	return state.Record(objects, s.appliers(objects)), nil
}

// appliers maps what applied these objects to the tenant whose it is: also what
// attacks add to a tenant's control namespace.
func (s *site) appliers(objects []*unstructured.Unstructured) map[string]string {
	out := maps.Clone(s.tenants)
	for _, object := range objects {
		by := state.Applier(object)
		_, name, _ := strings.Cut(by, " ")
		namespace, _, _ := strings.Cut(name, "/")
		for _, t := range s.declared.Tenants {
			if by != "" && out[by] == "" && t.Namespace == namespace && t.Namespace != t.TargetNamespace {
				out[by] = t.Name
			}
		}
	}
	return out
}

// looks are snapshots by environment.
type looks map[string]state.Snapshot

// look takes down all environments.
func (r *runner) look(ctx context.Context) (looks, error) { return r.lookBy(ctx, (*site).look) }

// lookAround takes down all that changes may reach.
func (r *runner) lookAround(ctx context.Context) (looks, error) {
	return r.lookBy(ctx, (*site).lookAround)
}

func (r *runner) lookBy(ctx context.Context, look func(*site, context.Context) (state.Snapshot, error)) (looks, error) {
	out := looks{}
	for _, s := range r.sites {
		snapshot, err := look(s, ctx)
		if err != nil {
			return nil, err
		}
		out[s.name] = snapshot
	}
	return out, nil
}

// touched lists what differs between two looks beyond what the attackers did to
// their own, which is theirs to change: of others' objects anything, by UID,
// generation, content and owner.
func touched(before, after looks, attackers []string) []string {
	var out []string
	for _, environment := range slices.Sorted(maps.Keys(before)) {
		for _, change := range state.Changes(before[environment], after[environment]) {
			own := func(owner string) bool { return slices.Contains(attackers, owner) }
			if len(change.Owners) > 0 && !slices.ContainsFunc(change.Owners, func(owner string) bool { return !own(owner) }) {
				continue
			}
			if ofAttacker(change.Object, attackers) {
				continue
			}
			out = append(out, environment+": "+change.String())
		}
	}
	sort.Strings(out)
	return out
}

// ofAttacker says whether an object stands in the control namespace of an
// attacker, where the overlay's own Flux objects are.
func ofAttacker(object string, attackers []string) bool {
	_, name, _ := strings.Cut(object, " ")
	namespace, _, _ := strings.Cut(name, "/")
	return slices.Contains(attackers, namespace)
}

// left lists what attackers' own objects are, once all is taken back, that they
// were not: names and contents. What was replaced and put back has another UID and
// other pods.
func left(before, after looks, attackers []string) []string {
	theirs := func(snapshot state.Snapshot) state.Snapshot {
		out := state.Snapshot{}
		for name, recorded := range snapshot {
			if slices.Contains(attackers, recorded.Owner) || ofAttacker(name, attackers) {
				if recorded.Derived || follows(name, recorded.Owner) {
					continue
				}
				recorded = loose(recorded)
			}
			out[name] = recorded
		}
		return out
	}
	var out []string
	for _, environment := range slices.Sorted(maps.Keys(before)) {
		for _, change := range state.Changes(theirs(before[environment]), theirs(after[environment])) {
			out = append(out, environment+": "+change.String())
		}
	}
	return out
}

// loose is what is the same of an object that was made anew, or changed and put back.
func loose(recorded state.Recorded) state.Recorded {
	recorded.UID, recorded.Generation = "", 0
	return recorded.Without(assigned...)
}

// assigned are the fields that the cluster chooses anew for what is made anew.
var assigned = []string{"metadata.annotations.deployment.kubernetes.io/revision", "spec.clusterIP", "spec.clusterIPs[0]"}

// follows says whether an object is made of another one by a controller, or is a
// record that Helm keeps.
func follows(name, owner string) bool {
	kind, _, _ := strings.Cut(name, " ")
	return slices.Contains([]string{"Pod", "ReplicaSet", "EndpointSlice"}, kind) || kind == "Secret" && owner == ""
}

// timed takes down how long a request took.
func (s *site) timed(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latencies = append(s.latencies, time.Since(since))
}
