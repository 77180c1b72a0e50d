package bringup

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy"
)

// Order is what was seen, while an environment came up, of its policies and of the
// first objects of its tenants. All times are seconds since its API server served.
type Order struct {
	// Until is when it was no longer looked.
	Until    float64       `json:"until"`
	Policies []Canary      `json:"policies"`
	Tenants  []FirstObject `json:"tenants"`
}

// Canary is an example that a policy refuses, asked from when the policy was there
// until it was refused by it.
type Canary struct {
	Policy string `json:"policy"`
	// Example is what was asked; Unasked says why nothing was.
	Example string `json:"example,omitempty"`
	Unasked string `json:"unasked,omitempty"`
	// Present is when the policy was there; nil: never.
	Present *float64 `json:"present,omitempty"`
	// Admitted is when the last canary was sent that was admitted; nil: none was.
	Admitted *float64 `json:"admitted,omitempty"`
	// Refused is when the first refusal by this policy had arrived; nil: never.
	Refused *float64 `json:"refused,omitempty"`
}

// FirstObject is the first object that Flux applied for a tenant.
type FirstObject struct {
	Tenant string `json:"tenant"`
	// Object is «Kind namespace/name»; empty when none came.
	Object string  `json:"object,omitempty"`
	At     float64 `json:"at,omitempty"`
}

const (
	// canaryInterval is how often a policy that is there is asked, and so how exactly
	// the first refusal is known.
	canaryInterval = 100 * time.Millisecond
	// watchInterval is how often it is looked whether a kind is served by now.
	watchInterval = 500 * time.Millisecond
)

// The labels by which Flux's controllers name who applied an object.
var appliers = []string{"kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io"}

// orderWatch looks at one environment until it is stopped.
type orderWatch struct {
	began   time.Time
	objects metadata.Interface
	// as returns a client that acts as who asks for an example.
	as func(policy.Case) (client.Client, error)
	// examples maps the policies, by name, to what their canary asks.
	examples map[string]policy.Case
	// owners maps appliers, as LABEL/NAMESPACE/NAME, to their tenant.
	owners map[string]string

	running sync.WaitGroup
	stop    context.CancelFunc
	seen    func() // stops looking for the tenants' objects

	mu    sync.Mutex
	order Order
}

// watchOrder begins to look; the policies' examples are those of the repositories
// as they are served.
func (b *bringUp) watchOrder(ctx context.Context, config *rest.Config, api client.Client, environment *platform.Environment) (*orderWatch, error) {
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("watch the order of the bring-up: %w", err)
	}
	cases, err := b.cases(ctx, environment)
	if err != nil {
		return nil, err
	}
	w := newOrderWatch(objects, func(c policy.Case) (client.Client, error) {
		actor := rest.CopyConfig(config)
		actor.Impersonate = rest.ImpersonationConfig{UserName: c.User, Groups: c.Groups}
		return client.New(actor, client.Options{Mapper: api.RESTMapper()})
	})
	w.begin(ctx, environment, cases)
	return w, nil
}

func newOrderWatch(objects metadata.Interface, as func(policy.Case) (client.Client, error)) *orderWatch {
	return &orderWatch{began: time.Now(), objects: objects, as: as, examples: map[string]policy.Case{}, owners: map[string]string{}}
}

// begin looks for the policies and the tenants' objects from here on.
func (w *orderWatch) begin(ctx context.Context, environment *platform.Environment, cases []policy.Case) {
	ctx, w.stop = context.WithCancel(ctx)
	looking, seen := context.WithCancel(ctx)
	w.seen = seen
	for _, resource := range w.expectPolicies(environment, cases) {
		w.watch(ctx, resource, metav1.ListOptions{}, func(name, _ string, _ map[string]string) { w.present(ctx, name) })
	}
	for _, kind := range w.expectTenants(environment) {
		resource, _ := meta.UnsafeGuessKindToResource(kind)
		for _, applier := range appliers {
			if w.applies(applier) {
				w.watch(looking, resource, metav1.ListOptions{LabelSelector: applier + "/name"}, func(name, namespace string, labels map[string]string) {
					owner := applier + "/" + labels[applier+"/namespace"] + "/" + labels[applier+"/name"]
					w.applied(w.owners[owner], fmt.Sprintf("%s %s/%s", kind.Kind, namespace, name))
				})
			}
		}
	}
}

// cases reads the examples from the repositories that the environment's policies
// come from. A file that cannot be read is for the checks to tell.
func (b *bringUp) cases(ctx context.Context, environment *platform.Environment) ([]policy.Case, error) {
	var out []policy.Case
	for _, r := range b.state.Repositories {
		if !slices.ContainsFunc(environment.Policies, func(p platform.Object) bool { return platform.SameRepository(p.Origin.Repository, r.URL) }) {
			continue
		}
		folder, _, err := layOut(ctx, r, filepath.Join(b.session.Dir(), "trees"))
		if err != nil {
			return nil, err
		}
		found, _ := policy.LoadCases(folder)
		out = append(out, found...)
	}
	return out, nil
}

// expectPolicies chooses the canaries, and returns the kinds of their policies.
func (w *orderWatch) expectPolicies(environment *platform.Environment, cases []policy.Case) []schema.GroupVersionResource {
	var out []schema.GroupVersionResource
	for _, p := range environment.Policies {
		if !policy.Validates(p.Unstructured) {
			continue
		}
		canary := Canary{Policy: p.GetName()}
		i := slices.IndexFunc(cases, func(c policy.Case) bool { return c.Policy == p.GetName() && c.Denied && c.Operation == policy.Create })
		if i < 0 {
			canary.Unasked = "it has no example of which it refuses the creation"
		} else {
			w.examples[p.GetName()] = cases[i]
			canary.Example = cases[i].String()
			resource, _ := meta.UnsafeGuessKindToResource(p.GroupVersionKind())
			if !slices.Contains(out, resource) {
				out = append(out, resource)
			}
		}
		w.order.Policies = append(w.order.Policies, canary)
	}
	return out
}

// expectTenants notes who applies objects for tenants, and returns the kinds of
// those objects. What a chart brings is not known beforehand: the kinds that nearly
// all charts have stand for it.
func (w *orderWatch) expectTenants(environment *platform.Environment) []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	add := func(kind schema.GroupVersionKind) {
		if !slices.Contains(out, kind) {
			out = append(out, kind)
		}
	}
	for _, tenant := range environment.Tenants {
		for _, k := range tenant.Kustomizations {
			w.owners[appliers[0]+"/"+k.GetNamespace()+"/"+k.GetName()] = tenant.Name
		}
		for _, r := range tenant.HelmReleases {
			w.owners[appliers[1]+"/"+r.GetNamespace()+"/"+r.GetName()] = tenant.Name
			for _, kind := range []schema.GroupVersionKind{
				{Version: "v1", Kind: "ConfigMap"},
				{Version: "v1", Kind: "Service"},
				{Version: "v1", Kind: "ServiceAccount"},
				{Group: "apps", Version: "v1", Kind: "Deployment"},
				{Group: "apps", Version: "v1", Kind: "StatefulSet"},
			} {
				add(kind)
			}
		}
		for _, o := range tenant.Objects {
			add(o.GroupVersionKind())
		}
		w.order.Tenants = append(w.order.Tenants, FirstObject{Tenant: tenant.Name})
	}
	return out
}

func (w *orderWatch) applies(applier string) bool {
	for owner := range w.owners {
		if strings.HasPrefix(owner, applier+"/") {
			return true
		}
	}
	return false
}

// watch tells of each object of a kind that comes to be, from when the kind is
// served until ctx ends.
func (w *orderWatch) watch(ctx context.Context, resource schema.GroupVersionResource, options metav1.ListOptions, tell func(name, namespace string, labels map[string]string)) {
	w.running.Go(func() {
		wait.UntilWithContext(ctx, func(ctx context.Context) {
			events, err := w.objects.Resource(resource).Watch(ctx, options)
			if err != nil {
				return // the kind is not served yet, or the API server is busy
			}
			defer events.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case event, open := <-events.ResultChan():
					if !open {
						return
					}
					if o, ok := event.Object.(*metav1.PartialObjectMetadata); ok && event.Type == watch.Added {
						tell(o.GetName(), o.GetNamespace(), o.GetLabels())
					}
				}
			}
		}, watchInterval)
	})
}

func (w *orderWatch) since() float64 { return time.Since(w.began).Seconds() }

// present begins to ask the canary of a policy that has come to be.
func (w *orderWatch) present(ctx context.Context, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.order.Policies {
		canary := &w.order.Policies[i]
		if canary.Policy == name && canary.Example != "" && canary.Present == nil {
			at := w.since()
			canary.Present = &at
			w.running.Go(func() { w.ask(ctx, name, canary) })
		}
	}
}

// ask sends a canary until its policy refuses it. What goes wrong until then, a
// webhook that nobody answers yet above all, is no refusal by the policy.
func (w *orderWatch) ask(ctx context.Context, name string, canary *Canary) {
	example := w.examples[name]
	actor, err := w.as(example)
	if err != nil {
		return
	}
	_ = wait.PollUntilContextCancel(ctx, canaryInterval, true, func(ctx context.Context) (bool, error) {
		// The example is written for the labels of namespaces, which may be about to
		// come.
		list, err := w.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, nil
		}
		labels := map[string]map[string]string{}
		for _, n := range list.Items {
			labels[n.GetName()] = n.GetLabels()
		}
		translated := example.Translate(labels)
		sent := w.since()
		answer := policy.Ask(ctx, actor, translated)
		answered := w.since()
		w.mu.Lock()
		defer w.mu.Unlock()
		if answer == nil {
			canary.Admitted = &sent
		}
		if translated.Problem(answer) != "" {
			return false, nil
		}
		canary.Refused = &answered
		return true, nil
	})
}

// applied notes an object of a tenant; the first counts.
func (w *orderWatch) applied(tenant, object string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	missing := false
	for i := range w.order.Tenants {
		first := &w.order.Tenants[i]
		if first.Tenant == tenant && first.Object == "" {
			first.Object, first.At = object, w.since()
		}
		missing = missing || first.Object == ""
	}
	if !missing {
		w.seen()
	}
}

// end stops looking and returns what was seen.
func (w *orderWatch) end() Order {
	w.stop()
	w.running.Wait()
	w.order.Until = w.since()
	return w.order
}
