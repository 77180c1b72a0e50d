package suites

import (
	"context"
	"fmt"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	in := state.OwnersInput{Inventories: map[string][]string{}, Tenants: map[string]string{}, TenantLabel: platform.TenantLabel}
	for _, o := range flux {
		entries, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "inventory", "entries")
		for _, entry := range entries {
			fields, _ := entry.(map[string]any)
			id, _ := fields["id"].(string)
			in.Inventories[o.Namespace+"/"+o.Name] = append(in.Inventories[o.Namespace+"/"+o.Name], id)
		}
	}
	for _, tenant := range env.Tenants {
		for _, k := range tenant.Kustomizations {
			in.Tenants[k.GetNamespace()+"/"+k.GetName()] = tenant.Name
		}
	}
	in.Objects, err = shared(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	Expect(in.Objects).NotTo(BeEmpty(), "the tenants' namespaces are empty")
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
	var out []*unstructured.Unstructured
	seen := map[string]bool{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list the kinds of the server: %w", err)
		}
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "list") || version.Group == "metrics.k8s.io" {
				continue
			}
			objects, err := c.Resource(version.WithResource(resource.Name)).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list %s in %s: %w", resource.Name, namespace, err)
			}
			for i := range objects.Items {
				object := &objects.Items[i]
				// Some kinds are served by two groups: an object is one by its UID.
				if key := string(object.GetUID()); !seen[key] {
					seen[key] = true
					out = append(out, object)
				}
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
	Expect(services).NotTo(BeEmpty(), "Services of the tenants")
	Expect(workloads).NotTo(BeEmpty(), "workloads of the tenants")
	var wide []string
	for _, service := range services {
		selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
		if tenant := service.GetLabels()[platform.TenantLabel]; selector[platform.TenantLabel] != tenant {
			wide = append(wide, fmt.Sprintf("Service %s of %q selects %v, without its tenant", service.GetName(), tenant, selector))
		}
	}
	expectNone(wide, "selectors that do not name the tenant")
	var crossings []string
	for _, crossing := range state.SelectorCrossings(services, workloads, platform.TenantLabel) {
		crossings = append(crossings, crossing.String())
	}
	expectNone(crossings, "selectors that cross tenants")
})
