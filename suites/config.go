package suites

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
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
	Expect(tenant.Values).NotTo(BeEmpty(), "no ConfigMap of %s is generated from a file of the developers", tenant.Name)
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
		if problem := misplaced(env, tenant, value.File.Origin.File); problem != "" {
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

// misplaced says why a file of the developers is another tenant's or another
// environment's, as its folders name them.
func misplaced(env *environment, tenant *platform.Tenant, file string) string {
	for _, folder := range strings.Split(path.Dir(file), "/") {
		if folder != env.Name && env.view.Platform.Environment(folder) != nil {
			return "which is of the environment " + folder
		}
		if folder != tenant.Name && slices.Contains(env.view.Platform.TenantNames(), folder) {
			return "which is of the tenant " + folder
		}
	}
	return ""
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
	Expect(tenant.Values).NotTo(BeEmpty(), "no value of %s is known", tenant.Name)
	var problems []string
	for _, value := range tenant.Values {
		if err := platform.Validate(tenant.Schema.Content, value.File.Content); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", value.File.Origin, err))
		}
	}
	expectNone(problems, "values that the schema %s refuses", tenant.Schema.Origin)
})
