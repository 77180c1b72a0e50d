package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perEnvironment(check.Check{
	ID:    "ISO-001",
	Title: "every object in the tenants' shared namespaces has exactly one owner",
	Why: "an object that two Kustomizations apply belongs to whoever reconciled last, and one that " +
		"nobody owns is never removed: both are how one tenant's change reaches another",
	Remedy:    "remove the object, or its declaration, from one of the two that the message names",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#inventory",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	flux, err := bootstrap.Observe(ctx, env.client)
	Expect(err).NotTo(HaveOccurred())
	in := state.OwnersInput{Inventories: inventories(flux), Tenants: appliers(env), TenantLabel: platform.TenantLabel}
	in.Objects, err = shared(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	expectSome(in.Objects, "the tenants' namespaces are empty")
	owned := map[string]int{}
	var problems []string
	for _, o := range state.Owners(in) {
		if o.Problem != "" {
			problems = append(problems, o.String())
		}
		owned[o.Owner]++
	}
	// A policy may refuse the second one, and nothing shows in the cluster but that
	// its tenant is not ready.
	for _, problem := range env.view.Platform.Problems {
		if problem.Environment == env.Name && problem.Conflict() && len(problem.Tenants) > 0 {
			problems = append(problems, problem.Error())
		}
	}
	expectNone(problems, "objects without exactly one owner")
	// Of a tenant that is not ready its own checks say why.
	for _, tenant := range env.Tenants {
		if words, _ := unready(tenant, flux); len(words) == 0 {
			Expect(owned[tenant.Name]).To(BeNumerically(">", 0), "objects of %s", tenant.Name)
		}
	}
})

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

// everything lists all objects of a namespace, of every kind that the server
// lists, once each.
func everything(ctx context.Context, env *environment, namespace string) ([]*unstructured.Unstructured, error) {
	discoverer, err := discovery.NewDiscoveryClientForConfig(env.config)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", namespace, err)
	}
	lists, err := discoverer.ServerPreferredNamespacedResources()
	if err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	c, err := dynamic.NewForConfig(env.config)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", namespace, err)
	}
	var resources []schema.GroupVersionResource
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list the kinds of the server: %w", err)
		}
		for _, resource := range list.APIResources {
			if slices.Contains(resource.Verbs, "list") && version.Group != "metrics.k8s.io" {
				resources = append(resources, version.WithResource(resource.Name))
			}
		}
	}
	found := make([][]unstructured.Unstructured, len(resources))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, resource := range resources {
		group.Go(func() error {
			objects, err := c.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("list %s in %s: %w", resource.Resource, namespace, err)
			}
			found[i] = objects.Items
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	seen := map[types.UID]bool{}
	for i := range found {
		for j := range found[i] {
			// Some kinds are served by two groups: an object is one by its UID.
			if object := &found[i][j]; !seen[object.GetUID()] {
				seen[object.GetUID()] = true
				out = append(out, object)
			}
		}
	}
	return out, nil
}

var _ = perEnvironment(check.Check{
	ID:    "ISO-002",
	Title: "the selector of every tenant's Service matches that tenant's pods and nobody else's",
	Why: "all tenants share one namespace: a selector without the tenant sends one tenant's traffic " +
		"to another's pods",
	Remedy:    "put the tenant's label into the selector of the Service and of the Deployment; namePrefix and commonMetadata do not touch selectors",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/service/#services-in-kubernetes",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	var services, workloads []*unstructured.Unstructured
	found, err := shared(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	for _, object := range found {
		switch object.GetKind() {
		case "Service":
			services = append(services, object)
		case "Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job":
			workloads = append(workloads, object)
		}
	}
	expectSome(services, "the tenants' namespaces hold no Service")
	expectSome(workloads, "the tenants' namespaces hold no workload")
	var problems []string
	for _, service := range services {
		kind, _, _ := unstructured.NestedString(service.Object, "spec", "type")
		selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
		tenant := service.GetLabels()[platform.TenantLabel]
		if kind != "ExternalName" && selector[platform.TenantLabel] != tenant {
			problems = append(problems, fmt.Sprintf("Service %s of %q selects %v, without its tenant", service.GetName(), tenant, selector))
		}
	}
	for _, crossing := range state.SelectorCrossings(services, workloads, platform.TenantLabel) {
		problems = append(problems, crossing.String())
	}
	expectNone(problems, "selectors that do not stay with their tenant")
})

var _ = perTenant(check.Check{
	ID:    "ISO-003",
	Title: "the inventory, the labels and the field managers of the tenant's objects agree that its Kustomization alone applied them",
	Why: "a field that somebody else wrote is not in Git: Flux leaves it alone unless it is declared, and no commit " +
		"tells how it came there; what another Kustomization applied is the other's to delete",
	Remedy:    "find the manager in metadata.managedFields of the object; put the field into the repository, or delete the object and let Flux apply it anew",
	Reference: "https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	expectSome(tenant.Objects, "the platform declares no object for this tenant")
	flux, err := bootstrap.Observe(ctx, env.client)
	Expect(err).NotTo(HaveOccurred())
	applied := inventories(flux)
	found := 0
	var problems []string
	for _, declared := range tenant.Objects {
		live, err := env.live(ctx, declared)
		if apierrors.IsNotFound(err) {
			continue // that it is missing is not said here
		} else if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, err))
			continue
		}
		found++
		list, err := state.AppliedProblems(state.AppliedInput{
			Declared: declared.Unstructured, Live: live, Inventories: applied,
			Kustomization: declared.Owner.String(),
		})
		Expect(err).NotTo(HaveOccurred())
		for _, problem := range list {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, problem))
		}
	}
	expectNone(problems, "objects of %s that are not its Kustomization's alone", tenant.Name)
	Expect(found).NotTo(BeZero(), "none of the declared objects is in the cluster")
})

var _ = perEnvironment(check.Check{
	ID:    "ISO-004",
	Title: "no object in the tenants' shared namespaces names one of another tenant, or one that does not exist",
	Why: "in a shared namespace a name is all it takes to mount another tenant's values, credentials or data, or to " +
		"lead requests to its Service; and what a name without an object will mean is up to whoever makes one",
	Remedy:    "name an object of the tenant's own; mark what may be missing as optional; let a policy refuse other tenants' names",
	Reference: "https://kubernetes.io/docs/concepts/security/multi-tenancy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	// A pod of an earlier rollout names what Flux has already pruned.
	for _, tenant := range env.Tenants {
		rolledOut(ctx, env, tenant)
	}
	objects, err := shared(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	problems, followed, err := state.ReferenceCrossings(objects, platform.TenantLabel)
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "names that lead out of their tenant")
	Expect(followed).NotTo(BeZero(), "no object with a tenant's label names another object")
})
