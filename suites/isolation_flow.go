package suites

import (
	"context"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perEnvironment(check.Check{
	ID:    "ISO-010",
	Title: "no tenant's bytes reach another tenant's pods: not by what pods name, nor by selectors and hosts, nor by what Flux builds their objects from",
	Why: "tenants trust what they are built from, configured by and asked: whoever can put bytes there decides what " +
		"the other runs, reads and answers",
	Remedy: "take the other tenant's name out of the field that the message gives; what all may use belongs to the " +
		"platform, without a tenant's label, in a place of its own",
	Reference: "https://fluxcd.io/flux/components/source/gitrepositories/#include",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	seen, err := env.look(ctx)
	Expect(err).NotTo(HaveOccurred())
	flux := seen.flux
	in := state.FlowInput{Objects: seen.shared}
	expectSome(in.Objects, "the tenants' namespaces are empty")
	for _, tenant := range env.Tenants {
		in.Tenants = append(in.Tenants, tenant.Name)
	}
	in.TenantOf = tenantOf(env, flux, in.Objects)
	in.Control, err = control(ctx, env, flux, in.TenantOf)
	Expect(err).NotTo(HaveOccurred())
	list, err := state.Flows(in)
	Expect(err).NotTo(HaveOccurred())

	// Whatever comes of the check, the map tells of it.
	found := state.FlowsMap(list)
	content, err := found.JSON()
	Expect(err).NotTo(HaveOccurred())
	Expect(current.recorder.Attach(check.Attachment{
		Environment: env.Name, Name: "flows", Content: content, Text: found.String(),
	})).To(Succeed())
	var crossings []string
	for _, f := range found.Crossings {
		crossings = append(crossings, f.String())
	}
	expectNone(crossings, "paths from one tenant to another")
	// Of a tenant that is not ready its own checks say why.
	for _, tenant := range env.Tenants {
		if words, _ := unready(tenant, flux); len(words) == 0 {
			Expect(slices.ContainsFunc(found.Own, func(f state.Flow) bool { return f.To == tenant.Name })).
				To(BeTrue(), "no path is known by which anything reaches %s, not even what is its own", tenant.Name)
		}
	}
})

// tenantOf tells the tenant of an object: by its label, by who applied it, or by
// the namespace that is one tenant's.
func tenantOf(env *environment, flux []bootstrap.Object, objects []*unstructured.Unstructured) func(*unstructured.Unstructured) string {
	names, spaces := map[string]bool{}, map[string]string{}
	for _, tenant := range env.Tenants {
		names[tenant.Name] = true
		// A namespace that several share is nobody's.
		if other, taken := spaces[tenant.Namespace]; taken && other != tenant.Name {
			spaces[tenant.Namespace] = ""
			continue
		}
		spaces[tenant.Namespace] = tenant.Name
	}
	for _, object := range objects {
		delete(spaces, object.GetNamespace())
	}
	owned := map[types.UID]string{}
	for _, o := range state.Owners(state.OwnersInput{
		Objects: objects, Inventories: inventories(flux), Tenants: appliers(env), TenantLabel: platform.TenantLabel,
	}) {
		owned[o.UID()] = o.Owner
	}
	return func(object *unstructured.Unstructured) string {
		for _, name := range []string{state.TenantOf(object, platform.TenantLabel), owned[object.GetUID()], spaces[object.GetNamespace()]} {
			if names[name] {
				return name
			}
		}
		return ""
	}
}

// control are all Flux objects, and the ConfigMaps and Secrets beside those of
// tenants, from which Flux takes text for manifests.
func control(ctx context.Context, env *environment, flux []bootstrap.Object, tenantOf func(*unstructured.Unstructured) string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	var spaces []string
	for _, o := range flux {
		out = append(out, o.Live)
		if tenantOf(o.Live) != "" && !slices.Contains(spaces, o.Namespace) {
			spaces = append(spaces, o.Namespace)
		}
	}
	for _, space := range spaces {
		found, err := listAs(ctx, env, space, schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, schema.GroupVersionKind{Version: "v1", Kind: "Secret"})
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}
