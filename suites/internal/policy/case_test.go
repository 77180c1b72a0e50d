package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// files is a policy's folder by path and content.
type files map[string]string

const test = `apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata:
  name: name-of-other-tenant
  annotations:
    conformance.flux-platform/message: the name must be your own
    conformance.flux-platform/control: resources/good.yaml
policies: [policy.yaml]
userinfo: identities/example.yaml
resources: [resources/good.yaml, resources/bad.yaml]
values:
  namespaces:
  - metadata: {name: apps, labels: {example.com/environment: dev}}
results:
- {policy: names, isValidatingPolicy: true, kind: ConfigMap, resources: [dev-example-config], result: pass}
- {policy: names, isValidatingPolicy: true, kind: ConfigMap, resources: [dev-other-config, dev-other-more], operation: DELETE, result: fail}
`

func good() files {
	return files{
		"names/kyverno-test.yaml":       test,
		"names/policy.yaml":             "apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\nmetadata: {name: names}\nspec: {}\n",
		"names/identities/example.yaml": "apiVersion: cli.kyverno.io/v1alpha1\nkind: UserInfo\nmetadata: {name: example}\nuserInfo: {username: someone, groups: [a, b]}\n",
		"names/resources/good.yaml":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dev-example-config, namespace: apps}\n",
		"names/resources/bad.yaml":      "# Both differ in the name.\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: dev-other-config}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: dev-other-more}\n",
	}
}

func (f files) with(name, content string) files {
	f[name] = content
	return f
}

// edited replaces one text of the test file.
func edited(t *testing.T, old, replacement string) files {
	t.Helper()
	if strings.Count(test, old) != 1 {
		t.Fatalf("%q stands %d times in the test file, not once", old, strings.Count(test, old))
	}
	return good().with("names/kyverno-test.yaml", strings.Replace(test, old, replacement, 1))
}

func (f files) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range f {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadCases(t *testing.T) {
	g := NewWithT(t)
	cases, err := LoadCases(good().write(t))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cases).To(HaveLen(3))
	g.Expect(cases[0].String()).To(Equal("names/kyverno-test.yaml name-of-other-tenant results[0] (CREATE of ConfigMap dev-example-config by names)"))
	g.Expect(cases[0].Denied).To(BeFalse())
	g.Expect(cases[0].Message).To(BeEmpty())
	for i, name := range []string{"dev-other-config", "dev-other-more"} {
		c := cases[i+1]
		g.Expect(c.Object.GetName()).To(Equal(name))
		g.Expect([]string{c.Policy, c.Operation, c.User, c.Message}).To(Equal([]string{"names", Delete, "someone", "the name must be your own"}))
		g.Expect(c.Groups).To(Equal([]string{"a", "b"}))
		g.Expect(c.Denied).To(BeTrue())
	}
}

func TestShippedPoliciesLoad(t *testing.T) {
	g := NewWithT(t)
	cases, err := LoadCases("../../../policies")
	g.Expect(err).NotTo(HaveOccurred())
	bad, fine := map[string]int{}, map[string]int{}
	for _, c := range cases {
		if c.Denied {
			bad[c.Policy]++
		} else {
			fine[c.Policy]++
		}
	}
	shipped, err := filepath.Glob("../../../policies/*/policy.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(shipped).NotTo(BeEmpty())
	for _, file := range shipped {
		data, err := os.ReadFile(file)
		g.Expect(err).NotTo(HaveOccurred())
		object := &unstructured.Unstructured{}
		g.Expect(yaml.Unmarshal(data, &object.Object)).To(Succeed())
		if !Validates(object) {
			continue // it refuses nothing
		}
		name := filepath.Base(filepath.Dir(file))
		g.Expect(bad).To(HaveKey(name))
		g.Expect(fine).To(HaveKey(name))
	}
}

// What the tests' own reader finds is tested there.
func TestLoadCasesRefuses(t *testing.T) {
	const at = "read the policies' tests: names/kyverno-test.yaml:"
	for _, row := range []struct {
		name  string
		files files
		want  string
	}{
		{"what the reader finds", edited(t, "userinfo:", "user: x\nuserinfo:"), at + `9: unknown key "user"`},
		{"no user", edited(t, "userinfo: identities/example.yaml\n", ""), at + `14: results[0] of the test "name-of-other-tenant": nobody asks, and a live request is somebody's; name a userinfo file with a username`},
		{"a user's file that is not there", edited(t, "identities/example.yaml", "identities/none.yaml"), at + `9: the userinfo file "identities/none.yaml" does not exist`},
		{"a user's file without a user", good().with("names/identities/example.yaml", "apiVersion: cli.kyverno.io/v1alpha1\nkind: UserInfo\n"), "nobody asks"},
		{"a refusal without words", edited(t, "    conformance.flux-platform/message: the name must be your own\n", ""), at + `15: results[1] of the test "name-of-other-tenant": it expects a refusal, and the annotation conformance.flux-platform/message does not say with which words`},
		{"a result that no request shows", edited(t, "result: pass", "result: warn"), at + `15: results[0] of the test "name-of-other-tenant": the result "warn" is none that a live request shows; write pass, fail, error or skip`},
		{"an operation that opens a connection", edited(t, "DELETE", "CONNECT"), "a CONNECT opens a connection"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := LoadCases(row.files.write(t))
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(row.want)))
		})
	}
}

func TestLoadCasesGoesOn(t *testing.T) {
	g := NewWithT(t)
	cases, err := LoadCases(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cases).To(BeEmpty(), "a folder may hold no test at all")
	cases, err = LoadCases(good().with("labels/kyverno-test.yaml", "a: [").with("owner/kyverno-test.yaml", "kind: Test").write(t))
	g.Expect(cases).To(HaveLen(3))
	g.Expect(strings.Split(err.Error(), "\n")).To(ConsistOf(
		HavePrefix("read the policies' tests: labels/kyverno-test.yaml:1: "),
		HavePrefix("read the policies' tests: owner/kyverno-test.yaml:1: "),
	))
}

// Only what refuses requests is asked of a live platform here, and that a policy
// does not speak of an example is no proof that it admits any.
func TestLoadCasesOfOthers(t *testing.T) {
	g := NewWithT(t)
	cases, err := LoadCases(edited(t, "result: pass", "result: skip").write(t))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cases[0].Unmatched).To(BeTrue())
	g.Expect(cases[0].Denied).To(BeFalse())
	cases, err = LoadCases(good().with("names/policy.yaml", "apiVersion: policies.kyverno.io/v1\nkind: MutatingPolicy\nmetadata: {name: names}\nspec: {}\n").write(t))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cases).To(BeEmpty())
}

func object(name string, labels map[string]string) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	out.SetName(name)
	out.SetLabels(labels)
	return out
}

func TestTranslate(t *testing.T) {
	const label = "example.com/environment"
	dev := map[string]map[string]string{"apps": {label: "dev", "kubernetes.io/metadata.name": "apps"}}
	live := func(environment string) map[string]map[string]string {
		return map[string]map[string]string{"apps": {label: environment, "kubernetes.io/metadata.name": "apps", "more": "x"}, "kube-system": {}}
	}
	for _, row := range []struct {
		name, from, to string
		live           map[string]map[string]string
		labels, want   map[string]string
	}{
		{"the environment of the examples", "dev-beetle-app", "dev-beetle-app", live("dev"), map[string]string{label: "dev"}, map[string]string{label: "dev"}},
		{"another environment takes its place", "dev-beetle-app", "prd-beetle-app", live("prd"), map[string]string{label: "dev", "app": "x"}, map[string]string{label: "prd", "app": "x"}},
		{"the other way round, so that what is foreign stays foreign", "prd-beetle-app", "dev-beetle-app", live("prd"), map[string]string{label: "prd"}, map[string]string{label: "dev"}},
		{"a third one stays", "uat-beetle-app", "uat-beetle-app", live("prd"), map[string]string{label: "uat"}, map[string]string{label: "uat"}},
		{"only a whole beginning counts", "development", "development", live("prd"), nil, nil},
		{"a namespace that is not there", "dev-beetle-app", "dev-beetle-app", nil, nil, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			c := Case{Object: object(row.from, row.labels), namespaces: dev}
			got := c.Translate(row.live)
			g.Expect(got.Object.GetName()).To(Equal(row.to))
			g.Expect(got.Object.GetLabels()).To(Equal(row.want))
			g.Expect(c.Object).To(Equal(object(row.from, row.labels)), "the example itself is not changed")
		})
	}
}

func TestTranslateReferences(t *testing.T) {
	g := NewWithT(t)
	example := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "dev-beetle-app"},
		"spec": map[string]any{
			"replicas": int64(1),
			"volumes":  []any{map[string]any{"name": "config", "configMap": map[string]any{"name": "dev-beetle-config"}}},
			"text":     "of dev-beetle",
			"hosts":    []any{"beetle.dev.example.com", "*.dev.example.com", "of beetle.dev.example.com"},
		},
	}}
	const label = "example.com/environment"
	more := object("dev-beetle-more", nil)
	c := Case{Object: example, standing: []*unstructured.Unstructured{more}, namespaces: map[string]map[string]string{"apps": {label: "dev"}}}
	got := c.Translate(map[string]map[string]string{"apps": {label: "stg-eu"}})
	g.Expect(got.Object.Object).To(Equal(map[string]any{
		"metadata": map[string]any{"name": "stg-eu-beetle-app"},
		"spec": map[string]any{
			"replicas": int64(1),
			"volumes":  []any{map[string]any{"name": "config", "configMap": map[string]any{"name": "stg-eu-beetle-config"}}},
			"text":     "of dev-beetle",
			"hosts":    []any{"beetle.stg-eu.example.com", "*.stg-eu.example.com", "of beetle.dev.example.com"},
		},
	}))
	g.Expect(got.standing[0].GetName()).To(Equal("stg-eu-beetle-more"), "what stands besides is of the same environment")
	g.Expect(more.GetName()).To(Equal("dev-beetle-more"))
	g.Expect(c.Object.GetName()).To(Equal("dev-beetle-app"), "the example itself is not changed")
}

func TestProblem(t *testing.T) {
	refusal := errors.New(`admission webhook "vpol.validate.kyverno.svc-fail" denied the request: Policy names failed: the name must be your own`)
	forbidden := errors.New(`configmaps is forbidden: User "someone" cannot create resource`)
	denied := Case{Policy: "names", Denied: true, Message: "the name must be your own"}
	erring := Case{Policy: "values", Denied: true, Errs: true, Message: "excessive aliasing"}
	fault := errors.New(`admission webhook "vpol.validate.kyverno.svc-fail" denied the request: Policy values error: error: yaml: document contains excessive aliasing`)
	for _, row := range []struct {
		name   string
		c      Case
		answer error
		want   string
	}{
		{"admitted as it must be", Case{Policy: "names"}, nil, ""},
		{"refused as it must be", denied, refusal, ""},
		{"refused and must not be", Case{Policy: "names"}, refusal, "must be admitted, but: " + refusal.Error()},
		{"admitted and must not be", denied, nil, "must be refused, and was admitted"},
		{"refused by another policy", Case{Policy: "labels", Denied: true, Message: "the name must be your own"}, refusal, `must be refused with "Policy labels failed: the name must be your own", but: ` + refusal.Error()},
		{"refused with other words", Case{Policy: "names", Denied: true, Message: "the label"}, refusal, `must be refused with "Policy names failed: the label", but: ` + refusal.Error()},
		{"refused because it errs", erring, fault, ""},
		{"refused because it errs otherwise", Case{Policy: "values", Denied: true, Errs: true, Message: "line 1"}, fault, `must be refused with "Policy values error: … line 1", but: ` + fault.Error()},
		{"erring instead of refusing", Case{Policy: "values", Denied: true, Message: "excessive aliasing"}, fault, `must be refused with "Policy values failed: excessive aliasing", but: ` + fault.Error()},
		{"refusing instead of erring", Case{Policy: "names", Denied: true, Errs: true, Message: "the name"}, refusal, `must be refused with "Policy names error: … the name", but: ` + refusal.Error()},
		{"refused by RBAC", denied, forbidden, `must be refused with "Policy names failed: the name must be your own", but: ` + forbidden.Error()},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(row.c.Problem(row.answer)).To(Equal(row.want))
		})
	}
}

func TestRefusal(t *testing.T) {
	const begin = `admission webhook "vpol.validate.kyverno.svc-fail" denied the request: `
	for _, row := range []struct{ name, answer, want string }{
		{"alone", begin + "Policy names failed: the name; not that one", "the name; not that one"},
		{"before another", begin + "Policy names failed: the name; Policy labels failed: the label", "the name"},
		{"after another", begin + "Policy labels failed: the label; Policy names failed: the name", "the name"},
		{"an error is no refusal", begin + "Policy names error: no such key: spec", ""},
		{"a policy with a longer name", begin + "Policy other-names failed: the name", ""},
		{"another policy's", begin + "Policy labels failed: the label", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			words, found := Refusal(errors.New(row.answer), "names")
			g.Expect(words).To(Equal(row.want))
			g.Expect(found).To(Equal(row.want != ""))
		})
	}
	_, found := Refusal(nil, "names")
	NewWithT(t).Expect(found).To(BeFalse(), "who was admitted was not refused")
}
