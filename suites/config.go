package suites

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perTenant(check.Check{
	ID:    "CFG-001",
	Title: "the generated ConfigMap holds the developers' files byte for byte, the common one and the environment's, and no other key",
	Why: "the developers own these values and nothing else: a byte that is changed on the way, a " +
		"${…} that was substituted or a file that is missing is a change that they did not make",
	Remedy: "see which key differs; values need the annotation kustomize.toolkit.fluxcd.io/substitute: disabled, " +
		"and GitRepository include has to bring both files",
	Reference: "https://fluxcd.io/flux/components/source/gitrepositories/#include",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	expectSome(tenant.Values, "no ConfigMap of %s is generated from a file of the developers", tenant.Name)
	brought, err := broughtFiles(tenant)
	Expect(err).NotTo(HaveOccurred())
	want := map[string]map[string]platform.File{}
	var problems []string
	for _, value := range tenant.Values {
		if want[value.ConfigMap] == nil {
			want[value.ConfigMap] = map[string]platform.File{}
		}
		want[value.ConfigMap][value.Key] = value.File
		delete(brought, value.File.Origin.File)
		if problem := env.view.Platform.Misplaced(env.Name, tenant.Name, value.File.Origin.File); problem != "" {
			problems = append(problems, fmt.Sprintf("key %s comes from %s, %s", value.Key, value.File.Origin, problem))
		}
	}
	for file := range brought {
		problems = append(problems, "no key holds the developers' file "+file)
	}
	for name, files := range want {
		live := &corev1.ConfigMap{}
		if err := env.client.Get(ctx, client.ObjectKey{Namespace: tenant.TargetNamespace, Name: name}, live); err != nil {
			problems = append(problems, fmt.Sprintf("ConfigMap %s: %s", name, err))
			continue
		}
		for key, file := range files {
			found, ok := live.Data[key]
			switch {
			case !ok:
				problems = append(problems, fmt.Sprintf("%s: key %s is missing", name, key))
			case found != string(file.Content):
				problems = append(problems, fmt.Sprintf("%s: key %s differs from %s at byte %d: the file has %d bytes, the key %d",
					name, key, file.Origin, firstDifference(found, string(file.Content)), len(file.Content), len(found)))
			}
		}
		for key := range live.Data {
			if _, ok := files[key]; !ok {
				problems = append(problems, fmt.Sprintf("%s: key %s comes from no file of the developers", name, key))
			}
		}
		for key := range live.BinaryData {
			problems = append(problems, fmt.Sprintf("%s: key %s is binary: the file is not valid UTF-8", name, key))
		}
	}
	sort.Strings(problems)
	expectNone(problems, "where the values of %s are not the developers'", tenant.Name)
})

// broughtFiles are the files that the tenant's sources include from other
// repositories, by their path there.
func broughtFiles(tenant *platform.Tenant) (map[string]bool, error) {
	out := map[string]bool{}
	for _, source := range tenant.Sources {
		for _, include := range source.Include {
			if include.Source == nil || include.Source.Folder == "" {
				return nil, fmt.Errorf("%s includes %s, which is not read here", source.Object, include.Name)
			}
			from := filepath.Join(include.Source.Folder, filepath.FromSlash(include.FromPath))
			err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				relative, err := filepath.Rel(include.Source.Folder, name)
				out[filepath.ToSlash(relative)] = true
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("list what %s includes: %w", source.Object, err)
			}
		}
	}
	return out, nil
}

func firstDifference(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// convert reads a declared object into its type.
func convert(declared platform.Object, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(declared.Object, into); err != nil {
		return fmt.Errorf("read %s, declared at %s: %w", declared, declared.Origin, err)
	}
	return nil
}

var _ = perTenant(check.Check{
	ID:        "CFG-002",
	Title:     "each of the tenant's values is valid by the tenant's schema",
	Why:       "a value of the wrong type or name rolls out like any other and fails when the service reads it",
	Remedy:    "mend the value, or the schema in schemas/TENANT.schema.json of the developer repository",
	Reference: "https://json-schema.org/draft/2020-12",
	Level:     check.Core,
}, func(_ SpecContext, _ *environment, tenant *platform.Tenant) {
	Expect(tenant.Schema).NotTo(BeNil(), "the developer repository has no schemas/%s.schema.json", tenant.Name)
	expectSome(tenant.Values, "no value of %s is known", tenant.Name)
	var problems []string
	for _, value := range tenant.Values {
		if err := platform.Validate(tenant.Schema.Content, value.File.Content); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", value.File.Origin, err))
		}
	}
	expectNone(problems, "values that the schema %s refuses", tenant.Schema.Origin)
})

var _ = perTenant(check.Check{
	ID:    "CFG-005",
	Title: "the tenant's objects differ from those in its other environments only as declared",
	Why: "what was tried in one environment runs in the next one: a difference that no file shows is why it works " +
		"here and not there, and no review has seen it",
	Remedy: "declare the field, or take it back: see who wrote it (metadata.managedFields), or which mutating policy or " +
		"webhook sets it in one environment only",
	Reference: "https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	compared := 0
	var problems, unknown []string
	for _, other := range current.all {
		twin := other.Tenant(tenant.Name)
		if other == env || twin == nil {
			continue
		}
		// That it cannot be built there is said there.
		if len(twin.Objects) == 0 {
			unknown = append(unknown, other.Name)
			continue
		}
		for _, pair := range counterparts(tenant, twin) {
			here, err := counterpart(ctx, env, pair[0])
			Expect(err).NotTo(HaveOccurred())
			there, err := counterpart(ctx, other, pair[1])
			Expect(err).NotTo(HaveOccurred())
			// That it is missing is said where it is.
			switch {
			case here.Live == nil:
				unknown = append(unknown, env.Name)
				continue
			case there.Live == nil:
				unknown = append(unknown, other.Name)
				continue
			}
			compared++
			for _, deviation := range state.Deviations(here, there) {
				problems = append(problems, fmt.Sprintf("%s, compared with %s of %s: %s", pair[0], pair[1].GetName(), other.Name, deviation))
			}
		}
	}
	expectNone(problems, "differences that no declaration explains")
	switch {
	case compared == 0 && len(unknown) > 0:
		Skip(notSupported + fmt.Sprintf("no object of %s is known and there in %s: there is nothing to compare with", tenant.Name, strings.Join(slices.Compact(slices.Sorted(slices.Values(unknown))), " and ")))
	case compared == 0 && !slices.ContainsFunc(current.all, func(other *environment) bool { return other != env && other.Tenant(tenant.Name) != nil }):
		Skip(notSupported + fmt.Sprintf("this session has %s in %s only: there is nothing to compare with", tenant.Name, env.Name))
	case compared == 0:
		Fail(fmt.Sprintf("none of the declared objects of %s is in two environments", tenant.Name))
	}
})

// counterparts pairs the objects that a tenant has in two environments: those of
// one kind from one place in the repository, in the order rendered, whatever their
// names became. What one environment declares and the other does not has no
// counterpart: that difference is declared.
func counterparts(tenant, other *platform.Tenant) [][2]platform.Object {
	origin := func(o platform.Object) string {
		return fmt.Sprintf("%s %s %s:%d", o.GroupVersionKind().GroupKind(), o.Origin.Folder, o.Origin.File, o.Origin.Line)
	}
	left := map[string][]platform.Object{}
	for _, o := range other.Objects {
		left[origin(o)] = append(left[origin(o)], o)
	}
	var out [][2]platform.Object
	for _, o := range tenant.Objects {
		if twins := left[origin(o)]; len(twins) > 0 {
			out = append(out, [2]platform.Object{o, twins[0]})
			left[origin(o)] = twins[1:]
		}
	}
	return out
}

// counterpart reads an object as it is in an environment; Live is nil where it is
// not there.
func counterpart(ctx context.Context, env *environment, declared platform.Object) (state.Counterpart, error) {
	live, err := env.live(ctx, declared)
	if apierrors.IsNotFound(err) {
		return state.Counterpart{Declared: declared.Unstructured}, nil
	}
	if err != nil {
		return state.Counterpart{}, fmt.Errorf("read %s in %s: %w", declared, env.Name, err)
	}
	return state.Counterpart{Declared: declared.Unstructured, Live: live}, nil
}
