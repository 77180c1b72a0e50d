package suites

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perEnvironment(check.Check{
	ID:    "ISO-010",
	Title: "no tenant's bytes reach another tenant's pods: not by what pods name, nor by selectors and hosts, nor by what Flux builds their objects from, nor by what NetworkPolicies declare",
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
	for _, object := range seen.cluster {
		if object.GetKind() == "Namespace" {
			in.Namespaces = append(in.Namespaces, object)
		}
	}
	files := &fileOwners{env: env, control: in.Control, readers: env.view.Platform.Readers(), folders: map[platform.Origin][]string{}, unknown: map[string]bool{}}
	in.Artifact = files.of
	list, err := state.Flows(in)
	Expect(err).NotTo(HaveOccurred())
	Expect(files.err).NotTo(HaveOccurred())

	// Whatever comes of the check, the map tells of it.
	found := state.FlowsMap(list)
	found.ByName = append(found.ByName, sortedKeys(files.unknown)...)
	found.Network, err = state.Network(in)
	Expect(err).NotTo(HaveOccurred())
	found.Network.Enforced, found.Network.Evidence = env.enforces()
	if !found.Network.Enforced {
		note(fmt.Sprintf("NetworkPolicies were read as they are declared; that the network keeps to them was not seen here (%s)", found.Network.Evidence))
	}
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

// enforces says whether the session saw NetworkPolicies enforced, and how.
func (e *environment) enforces() (bool, string) {
	for _, finding := range e.state.Findings {
		if finding.Capability == cluster.NetworkPolicy {
			return finding.Has, finding.Evidence
		}
	}
	return false, "nobody tried"
}

// fileOwners tells whose the files of artifacts are: those tenants' whose builds
// read them, in whatever environment.
type fileOwners struct {
	env     *environment
	control []*unstructured.Unstructured
	readers map[platform.Origin][]string
	// folders are the readers of any file in a folder, as they are asked for.
	folders map[platform.Origin][]string
	// unknown are the tenants' sources whose files are not known, and why.
	unknown map[string]bool
	err     error
}

func (f *fileOwners) of(source *unstructured.Unstructured) ([]state.Carried, string) {
	if len(f.folders) == 0 {
		for file, tenants := range f.readers {
			in := platform.Origin{Folder: file.Folder, File: path.Dir(file.File)}
			f.folders[in] = append(f.folders[in], tenants...)
		}
	}
	carried, unknown, err := f.env.view.Platform.Artifact(source, f.control)
	f.err = errors.Join(f.err, err)
	if unknown != "" {
		f.unknown[fmt.Sprintf("%s %s/%s: %s", source.GetKind(), source.GetNamespace(), source.GetName(), unknown)] = true
		return nil, unknown
	}
	out := make([]state.Carried, len(carried))
	for i, c := range carried {
		out[i] = state.Carried{
			Path: c.Path, File: c.Origin.File, Platform: c.Origin.Folder == f.env.view.Platform.Root,
			Tenants: f.tenants(platform.Origin{Folder: c.Origin.Folder, File: c.Origin.File}),
		}
	}
	return out, ""
}

// tenants are those who read a file; of one that nobody reads, those who read what
// is beside it, or in the next folder above. At the top of a repository is what is
// of all.
func (f *fileOwners) tenants(file platform.Origin) []string {
	found := f.readers[file]
	for in := path.Dir(file.File); len(found) == 0 && in != "."; in = path.Dir(in) {
		found = f.folders[platform.Origin{Folder: file.Folder, File: in}]
	}
	found = slices.Clone(found)
	slices.Sort(found)
	return slices.Compact(found)
}

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
