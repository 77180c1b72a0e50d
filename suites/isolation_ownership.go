package suites

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/listing"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perEnvironment(check.Check{
	ID:    "ISO-001",
	Title: "every object in the tenants' shared namespaces, and every object of the cluster that refers into them, has exactly one owner",
	Why: "an object that two Kustomizations apply belongs to whoever reconciled last, and one that " +
		"nobody owns is never removed: both are how one tenant's change reaches another",
	Remedy:    "remove the object, or its declaration, from one of the two that the message names",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#inventory",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	seen, err := env.look(ctx)
	Expect(err).NotTo(HaveOccurred())
	flux := seen.flux
	list, err := owners(env, seen)
	Expect(err).NotTo(HaveOccurred())
	owned := map[string]int{}
	reaching := 0
	var problems []string
	for _, o := range list {
		if o.Problem != "" {
			problems = append(problems, o.String())
		}
		if len(o.Refers) > 0 {
			reaching++
		}
		owned[o.Owner]++
	}
	// Whatever comes of the check, the map tells of it.
	owners := state.OwnersMap(list)
	content, err := json.Marshal(owners)
	Expect(err).NotTo(HaveOccurred())
	Expect(current.recorder.Attach(check.Attachment{
		Environment: env.Name, Name: "ownership", Content: content, Text: owners.String(),
	})).To(Succeed())
	// A policy may refuse the second one, and nothing shows in the cluster but that
	// its tenant is not ready.
	for _, problem := range env.view.Platform.Problems {
		if problem.Environment == env.Name && problem.Conflict() && len(problem.Tenants) > 0 {
			problems = append(problems, problem.Error())
		}
	}
	expectNone(problems, "objects without exactly one owner")
	Expect(reaching).NotTo(BeZero(), "no object of the cluster refers to the tenants' namespaces, not even they themselves")
	// Of a tenant that is not ready its own checks say why.
	for _, tenant := range env.Tenants {
		if words, _ := unready(tenant, flux); len(words) == 0 {
			Expect(owned[tenant.Name]).To(BeNumerically(">", 0), "objects of %s", tenant.Name)
		}
	}
})

var _ = perEnvironment(check.Check{
	ID:    "ISO-008",
	Title: "nobody but their owners' programs writes to the objects in the tenants' shared namespaces, nor to those of the cluster that refer into them",
	Why: "by force anybody takes a field over, and nothing is refused: the owner's next apply takes it back, or, where " +
		"it is not declared, it stays for good, for all tenants",
	Remedy:    "find the manager in metadata.managedFields of the object; put the field into the repository of its owner, or have the owner apply the object anew",
	Reference: "https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	seen, err := env.look(ctx)
	Expect(err).NotTo(HaveOccurred())
	list, err := owners(env, seen)
	Expect(err).NotTo(HaveOccurred())
	// What a tenant declares is held against its declaration, field by field, by the
	// check that is judged for the tenant.
	declared := map[string]bool{}
	for _, tenant := range env.Tenants {
		for _, o := range tenant.Objects {
			declared[state.InventoryID(o.Unstructured)] = true
		}
	}
	problems, judged, err := state.Takeovers(list, appliedAt(seen.flux), func(o *unstructured.Unstructured) bool {
		return declared[state.InventoryID(o)]
	})
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "objects that somebody else than their owner wrote to")
	Expect(judged).NotTo(BeZero(), "no object has an owner")
})

// owners finds whose each object of the shared namespaces is, and of the cluster's
// each that refers into them.
func owners(env *environment, seen *moment) ([]state.Ownership, error) {
	if len(seen.shared) == 0 {
		return nil, fmt.Errorf("the tenants' namespaces in %s are empty", env.Name)
	}
	return state.Owners(state.OwnersInput{
		Objects: seen.shared, Cluster: seen.cluster,
		Inventories: inventories(seen.flux), Applied: appliedAt(seen.flux), Tenants: appliers(env), TenantLabel: platform.TenantLabel,
	}), nil
}

// appliedAt is when each Kustomization and HelmRelease last applied what it lists.
func appliedAt(flux []bootstrap.Object) map[string]string {
	out := map[string]string{}
	for _, o := range flux {
		history, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "history")
		if len(history) == 0 {
			continue
		}
		last, _ := history[0].(map[string]any)
		for _, field := range []string{"lastReconciled", "lastDeployed"} {
			if when, ok := last[field].(string); ok {
				out[o.String()] = when
			}
		}
	}
	return out
}

// appliers maps the tenants' Kustomizations and HelmReleases («Kind
// namespace/name») to their tenants.
func appliers(env *environment) map[string]string {
	out := map[string]string{}
	for _, tenant := range env.Tenants {
		for _, k := range tenant.Kustomizations {
			out[k.String()] = tenant.Name
		}
		for _, h := range tenant.HelmReleases {
			out[h.String()] = tenant.Name
		}
	}
	return out
}

// inventories are what each Kustomization and HelmRelease («Kind namespace/name»)
// says it applied.
func inventories(flux []bootstrap.Object) map[string][]string {
	out := map[string][]string{}
	for _, o := range flux {
		if o.Kind == "Kustomization" || o.Kind == "HelmRelease" {
			out[o.String()] = inventory(o)
		}
	}
	return out
}

// inventory lists what a Flux object says it applied. Of a HelmRelease its chart
// and Helm's records of it are its own as well, and stand in no list.
func inventory(o bootstrap.Object) []string {
	out := o.Inventory()
	if o.Kind != "HelmRelease" {
		return out
	}
	if chart, _, _ := unstructured.NestedString(o.Live.Object, "status", "helmChart"); chart != "" {
		out = append(out, strings.Replace(chart, "/", "_", 1)+"_source.toolkit.fluxcd.io_HelmChart")
	}
	storage, _, _ := unstructured.NestedString(o.Live.Object, "status", "storageNamespace")
	history, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "history")
	for _, entry := range history {
		release, _ := entry.(map[string]any)
		out = append(out, fmt.Sprintf("%s_sh.helm.release.v1.%v.v%v__Secret", storage, release["name"], release["version"]))
	}
	return out
}

// moment is what an environment held at one time.
type moment struct {
	at time.Time
	// flux are all Flux objects.
	flux []bootstrap.Object
	// shared are all objects of the tenants' shared namespaces, cluster those that
	// are in none.
	shared, cluster []*unstructured.Unstructured
}

// moments keeps the look at an environment that several checks share.
type moments struct {
	guard sync.Mutex
	taken *moment
}

// look is the environment as it is when the first check of a run asks, once all
// that was being rolled out has been: the checks that change what is served come
// after all who look.
func (e *environment) look(ctx context.Context) (*moment, error) {
	e.moments.guard.Lock()
	defer e.moments.guard.Unlock()
	if e.moments.taken == nil {
		// A pod of an earlier rollout names what Flux has already pruned.
		for _, tenant := range e.Tenants {
			rolledOut(ctx, e, tenant)
		}
		m := &moment{at: time.Now()}
		var err error
		if m.flux, err = bootstrap.Observe(ctx, e.client); err != nil {
			return nil, fmt.Errorf("look at %s: %w", e.Name, err)
		}
		if m.shared, err = shared(ctx, e); err != nil {
			return nil, fmt.Errorf("look at %s: %w", e.Name, err)
		}
		if m.cluster, err = everything(ctx, e, metav1.NamespaceAll); err != nil {
			return nil, fmt.Errorf("look at %s: %w", e.Name, err)
		}
		e.moments.taken = m
	}
	note("all kinds listed at " + e.moments.taken.at.UTC().Format("15:04:05Z"))
	return e.moments.taken, nil
}

// shared lists all objects of the namespaces that tenants' workloads go to, each
// namespace once however many tenants share it.
func shared(ctx context.Context, env *environment) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	listed := map[string]bool{}
	for _, tenant := range env.Tenants {
		if listed[tenant.TargetNamespace] {
			continue
		}
		listed[tenant.TargetNamespace] = true
		found, err := everything(ctx, env, tenant.TargetNamespace)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// atOnce is how many requests a check makes of one API server at a time.
const atOnce = 8

// everything lists all objects of a namespace, or, where none is named, those
// without one, of every kind that the server lists, once each.
func everything(ctx context.Context, env *environment, namespace string) ([]*unstructured.Unstructured, error) {
	lister, err := listing.New(env.config)
	if err != nil {
		return nil, err
	}
	lister.Patience = current.timeouts.Request
	return lister.Namespace(ctx, namespace)
}
