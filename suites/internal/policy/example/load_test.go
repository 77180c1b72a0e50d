package example

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// files is a folder by path and content.
type files map[string]string

func (f files) with(name, content string) files {
	f[name] = content
	return f
}

// edited replaces one text of a file.
func (f files) edited(t *testing.T, name, old, replacement string) files {
	t.Helper()
	if strings.Count(f[name], old) != 1 {
		t.Fatalf("%q stands %d times in %s, not once", old, strings.Count(f[name], old), name)
	}
	f[name] = strings.Replace(f[name], old, replacement, 1)
	return f
}

func (f files) write(t testing.TB) string {
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

func (f files) load(t testing.TB) *Library {
	t.Helper()
	library, err := Load(f.write(t))
	if err != nil {
		t.Fatal(err)
	}
	return library
}

// found are the findings as a reader sees them.
func found(findings []Finding) []string {
	var out []string
	for _, f := range findings {
		out = append(out, f.Error())
	}
	return out
}

const (
	namesPolicy = `apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: names
spec:
  validationActions: [Deny]
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
  validations:
  - expression: object.metadata.name != 'bad'
    message: choose another name
`
	labelsPolicy = `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata:
  name: labels
spec:
  rules:
  - name: has-team
    match: {any: [{resources: {kinds: [ConfigMap]}}]}
    validate: {message: add the label team, pattern: {metadata: {labels: {team: "?*"}}}}
`
	namesTest = `apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata:
  name: names
  annotations:
    conformance.flux-platform/message: choose another
policies:
- ../names.yaml
- ../labels.yaml
resources:
- objects.yaml
results:
- policy: names
  isValidatingPolicy: true
  kind: ConfigMap
  resources: [bad]
  result: fail
- policy: labels
  rule: has-team
  kind: ConfigMap
  resources: [default/good, other/good]
  result: pass
`
	objects = `# Two of one name in two namespaces, and another.
---
apiVersion: v1
kind: ConfigMap
metadata: {name: bad}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: good}
--- # with a comment
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: good, namespace: other}}
- {apiVersion: v1, kind: Secret, metadata: {name: hidden}}
`
	testPath = "tests/kyverno-test.yaml"
)

func library() files {
	return files{"names.yaml": namesPolicy, "labels.yaml": labelsPolicy, testPath: namesTest, "tests/objects.yaml": objects}
}

func TestLoad(t *testing.T) {
	g := NewWithT(t)
	f := library().edited(t, testPath, "[default/good, other/good]", "[other/good]")
	l := f.with("alone.yaml", strings.Replace(namesPolicy, "name: names", "name: alone", 1)).
		with("readme.yaml", "about: Policy of kyverno.io/ without any\n").
		with(".hidden/policy.yaml", namesPolicy).
		with("status.yaml", "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: labels}\nstatus: {ready: true}\n").
		load(t)
	g.Expect(found(l.Findings)).To(BeEmpty())
	g.Expect(found(l.Notes)).To(BeEmpty())
	var policies []string
	for _, p := range l.Policies {
		policies = append(policies, p.Place.String()+" "+p.String())
	}
	g.Expect(policies).To(Equal([]string{
		"alone.yaml:1 ValidatingPolicy alone", "labels.yaml:1 ClusterPolicy labels", "names.yaml:1 ValidatingPolicy names",
	}), "one that no test names is there as well, what states a status only is none")
	g.Expect(l.Tests).To(HaveLen(1))
	g.Expect(l.Tests[0].Resources).To(HaveLen(4))
	var examples []string
	for _, e := range l.Examples() {
		examples = append(examples, fmt.Sprintf("%s %s %q", e, e.Expected, e.Message))
	}
	g.Expect(examples).To(Equal([]string{
		`CREATE ConfigMap bad by names (tests/kyverno-test.yaml:13) fail "choose another"`,
		`CREATE ConfigMap good by labels.has-team (tests/kyverno-test.yaml:18) pass ""`,
	}))
	g.Expect(l.Examples()[1].ID()).To(Equal("tests/kyverno-test.yaml#names results[1] ConfigMap other/good"))
	g.Expect(l.Examples()[1].Object.GetNamespace()).To(Equal("other"))
}

func TestLoadNames(t *testing.T) {
	for _, row := range []struct {
		name, resources, specs, kind string
		want                         []string
	}{
		{"a name in all namespaces", "[good]", "", "ConfigMap", []string{"ConfigMap /good", "ConfigMap other/good"}},
		{"what has no namespace is in default", "[default/good]", "", "ConfigMap", []string{"ConfigMap /good"}},
		{"no resources are all", "", "", "ConfigMap", []string{"ConfigMap /bad", "ConfigMap /good", "ConfigMap other/good", "Secret /hidden"}},
		{"a kind with its group", "[good]", "", "v1/ConfigMap", []string{"ConfigMap /good", "ConfigMap other/good"}},
		{"no kind", "[hidden]", "", "", []string{"Secret /hidden"}},
		{"specs", "", "[{version: v1, kind: ConfigMap, namespace: other, name: good}, {version: v1, name: hidden}]", "", []string{"ConfigMap other/good", "Secret /hidden"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			entry := "policy: labels, rule: has-team, result: pass"
			for key, value := range map[string]string{"resources": row.resources, "resourceSpecs": row.specs, "kind": row.kind} {
				if value != "" {
					entry += ", " + key + ": " + value
				}
			}
			f := library()
			f[testPath] = f[testPath][:strings.Index(f[testPath], "results:")] + "results:\n- {" + entry + "}\n"
			l := f.load(t)
			g.Expect(found(l.Findings)).To(BeEmpty())
			var got []string
			for _, e := range l.Examples() {
				got = append(got, e.Object.GetKind()+" "+e.Object.GetNamespace()+"/"+e.Object.GetName())
			}
			g.Expect(got).To(Equal(row.want))
		})
	}
}

// bomb is small, and would be ten to the ninth values.
func bomb() string {
	out := "{b0: &b0 [x]"
	for i := range 9 {
		out += fmt.Sprintf(", b%d: &b%d [%s]", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*b%d, ", i), 10), ", "))
	}
	return out + "}"
}

func TestLoadFinds(t *testing.T) {
	const other = `
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: names}
spec: {validations: [{expression: "true"}]}
`
	edit := func(old, replacement string) files { return library().edited(t, testPath, old, replacement) }
	for _, row := range []struct {
		name     string
		files    files
		want     []string
		examples int
	}{
		{"no folder content", files{"readme.md": "x"}, []string{".: there is neither a policy nor a kyverno-test.yaml below "}, 0},
		{"an empty test file", files{"kyverno-test.yaml": "# nothing\n", "names.yaml": namesPolicy}, []string{"kyverno-test.yaml: it is empty; write a Test of cli.kyverno.io/v1alpha1"}, 0},
		{"what is no YAML", edit("kind: Test\n", "kind: Test: x\n"), []string{testPath + ":2: it is no valid YAML: "}, 0},
		{"what is no YAML in the second document", library().with(testPath, namesTest+"---\na: b: c\n"), []string{testPath + ":24: it is no valid YAML: "}, 3},
		{"another kind", edit("kind: Test\n", "kind: Values\n"), []string{testPath + `:1: it is a Values of "cli.kyverno.io/v1alpha1", where a Test of cli.kyverno.io/v1alpha1 is expected`}, 0},
		{"an unknown key", edit("resources:\n- objects.yaml", "ressources: x\nresources:\n- objects.yaml"), []string{testPath + `:10: unknown key "ressources"; did you mean resources?`}, 3},
		{"an unknown key of a result", edit("  rule: has-team", "  ruel: has-team"), []string{testPath + `:19: unknown key "ruel" of results[1]; did you mean rule?`}, 3},
		{"a key twice", edit("  rule: has-team", "  rule: has-team\n  rule: has-team"), []string{testPath + `:20: the key "rule" stands on line 19 already`}, 3},
		{"a value of another form", edit("result: pass", "result: [pass]"), []string{testPath + ":22: results[1].result is a list, where a text is expected", testPath + ":18: the entry states no result; write result: pass, fail, skip, warn, error"}, 1},
		{"a number for a text", edit("rule: has-team", "rule: 7"), []string{testPath + ":19: results[1].rule is 7, where a text is expected: put it in quotes"}, 3},
		{"an unknown result", edit("result: pass", "result: passed"), []string{testPath + `:22: the result "passed" is none of pass, fail, skip, warn, error; did you mean pass?`}, 1},
		{"an unknown operation", edit("result: pass", "result: pass\n  operation: UPDATES"), []string{testPath + `:23: the operation "UPDATES" is none of CREATE, UPDATE, DELETE; did you mean UPDATE?`}, 1},
		{"no policy", edit("- policy: names\n  is", "- is"), []string{testPath + ":13: the entry names no policy"}, 2},
		{"an unknown policy", edit("- policy: names\n", "- policy: name\n"), []string{testPath + `:13: no policy file of this test holds the policy "name"; did you mean names?`}, 2},
		{"a policy that no result can find", edit("[bad]\n  result: fail\n", "[bad]\n  result: fail\n- {policy: names, kind: ConfigMap, resources: [bad], result: fail}\n").with("names.yaml", "a: b: c\n"), []string{"names.yaml:1: it is no valid YAML: ", testPath + `:13: no policy file of this test holds the policy "names", of which not all can be read`}, 2},
		{"a test without a policy", edit("policies:\n- ../names.yaml\n- ../labels.yaml\n", ""), []string{testPath + `:10: no policy file of this test holds the policy "names": the test names none; list it under policies`, testPath + `:15: no policy file of this test holds the policy "labels": the test names none`}, 0},
		{"an unknown rule", edit("rule: has-team", "rule: has-a-team"), []string{testPath + `:19: ClusterPolicy labels has no rule "has-a-team"; did you mean has-team?`}, 1},
		{"an unknown resource", edit("[bad]", "[worse, bad]"), []string{testPath + `:16: the result matches nothing: no resource file of this test holds "worse"`}, 3},
		{"a resource twice", edit("[bad]", "[bad, bad]"), []string{testPath + `:16: "bad" is named already by this entry`}, 3},
		{"another kind than the object's", edit("kind: ConfigMap\n  resources: [bad]", "kind: Secret\n  resources: [bad]"), []string{testPath + `:15: the kind Secret is not the one of bad, which is a ConfigMap; it was judged all the same`}, 3},
		{"no result", library().with(testPath, namesTest[:strings.Index(namesTest, "results:")]), []string{testPath + `:1: the test "names" has no results`}, 0},
		{"a file that is not there", edit("../names.yaml", "../name.yaml"), []string{testPath + `:8: the policy file "../name.yaml" does not exist; did you mean ../names.yaml?`, testPath + `:13: no policy file of this test holds the policy "names"`}, 2},
		{"a file without its folder", edit("- objects.yaml", "- none/objects.yaml\n- objects.yaml"), []string{testPath + `:11: the resource file "none/objects.yaml" does not exist: nor does its folder`}, 3},
		{"a device", edit("- objects.yaml", "- /dev/zero\n- objects.yaml"), []string{testPath + `:11: the resource file "/dev/zero" is neither a file nor a folder`}, 3},
		{"a pattern", edit("../names.yaml", "../*.yaml\n- ../names.yaml"), []string{testPath + `:8: the policy file "../*.yaml" does not exist: patterns are not expanded`}, 3},
		{"an address", edit("../names.yaml", "https://example.com/names.yaml\n- ../names.yaml"), []string{testPath + `:8: the policy file "https://example.com/names.yaml" is an address, and only files are read`}, 3},
		{"a policy file without a policy", edit("../names.yaml", "objects.yaml\n- ../names.yaml"), []string{testPath + `:8: the policy file "objects.yaml" holds no policy`}, 3},
		{"a resource file without an object", edit("- objects.yaml", "- objects.yaml\n- none.yaml").with("tests/none.yaml", "# none\n"), []string{testPath + `:12: the resource file "none.yaml" holds no object`}, 3},
		{"a resource that is no object", library().with("tests/objects.yaml", objects+"---\na: 1\n"), []string{"tests/objects.yaml:17: it is no object of Kubernetes: "}, 3},
		{"a resource twice in a file", library().with("tests/objects.yaml", objects+"---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, namespace: default}}\n"), []string{"tests/objects.yaml:17: the ConfigMap bad stands on line 3 already, and only that one is judged"}, 3},
		{"a key of a resource twice", library().edited(t, "tests/objects.yaml", "metadata: {name: bad}", "metadata: {name: bad, name: bad}"), []string{"tests/objects.yaml:5: the last one was read: "}, 3},
		{"two policies of one name", library().with("names.yaml", namesPolicy+other), []string{testPath + ":8: two policies of this test are called names, at names.yaml:1 and names.yaml:15", testPath + ":13: 2 policies of this test are called names"}, 2},
		{"a typo in a policy", library().edited(t, "names.yaml", "    message:", "    mesage:"), []string{`names.yaml:12: unknown key "mesage" of spec.validations[0]; did you mean message?`}, 3},
		{"a typo in a policy that no test names", library().with("alone.yaml", "# first\n---\n"+strings.Replace(namesPolicy, "  validations:", "  validation:", 1)), []string{`alone.yaml:12: unknown key "validation" of spec; did you mean validations or evaluation?`}, 3},
		{"a value of another form in a policy", library().edited(t, "names.yaml", "validationActions: [Deny]", "validationActions: Deny"), []string{"names.yaml:6: spec.validationActions is a single value, where a list is expected"}, 3},
		{"a typo in a legacy policy", library().edited(t, "labels.yaml", "validate: {message: add", "validate: {mesage: add"), []string{`labels.yaml:9: unknown key "mesage" of spec.rules[0].validate; did you mean message?`}, 3},
		{"a value of another form in a legacy policy", library().edited(t, "labels.yaml", "{any: [{resources: {kinds: [ConfigMap]}}]}", "{any: {resources: {kinds: [ConfigMap]}}}"), []string{"labels.yaml:8: spec.rules[0].match.any is a mapping, where a list is expected"}, 3},
		{"a version of a legacy policy that is not there", library().edited(t, "labels.yaml", "kyverno.io/v1", "kyverno.io/v3"), []string{"labels.yaml:1: there is no ClusterPolicy of kyverno.io/v3; write one of kyverno.io/v1, kyverno.io/v2beta1"}, 3},
		{"a version that is not there", library().edited(t, "names.yaml", "policies.kyverno.io/v1", "policies.kyverno.io/v2"), []string{"names.yaml:1: there is no ValidatingPolicy of policies.kyverno.io/v2; write one of policies.kyverno.io/v1, policies.kyverno.io/v1alpha1, policies.kyverno.io/v1beta1"}, 3},
		{"a policy that is no YAML", library().with("broken.yaml", "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nspec: a: b\n"), []string{"broken.yaml:3: it is no valid YAML: "}, 3},
		{"a patched resource that is not there", edit("result: pass", "result: pass\n  patchedResources: objects.yaml\n  namespace: x\n  resource: lost"), []string{testPath + `:25: the result matches nothing: no resource file of this test holds "x/lost"`}, 3},
		{"nothing to compare with", edit("result: pass", "result: pass\n  patchedResources: patched.yaml").with("tests/patched.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}"), []string{testPath + `:23: the result matches nothing: "patched.yaml" holds no ConfigMap good of v1 to compare with`}, 2},
		{"an exception that is none", edit("results:", "exceptions: [objects.yaml]\nresults:"), []string{"tests/objects.yaml:3: it is a ConfigMap of v1, where a PolicyException is expected", "tests/objects.yaml:7: ", "tests/objects.yaml:11: ", "tests/objects.yaml:11: "}, 3},
		{"a typo in an exception", edit("results:", "exceptions: [e.yaml]\nresults:").with("tests/e.yaml", "apiVersion: kyverno.io/v2\nkind: PolicyException\nmetadata: {name: e}\nspec:\n  exception: []\n"), []string{`tests/e.yaml:5: unknown key "exception" of spec; did you mean exceptions?`}, 3},
		{"values twice", edit("results:", "variables: values.yaml\nvalues: {}\nresults:").with("tests/values.yaml", "{}"), []string{testPath + `:12: the variables file "values.yaml" is not read, since the test has values`}, 3},
		{"values of an unknown policy", edit("results:", "values: {policies: [{name: label}]}\nresults:"), []string{testPath + `:12: values for the policy "label", which no policy file of this test holds; did you mean labels?`}, 3},
		{"a user of another kind", edit("results:", "userinfo: user.yaml\nresults:").with("tests/user.yaml", "apiVersion: cli.kyverno.io/v1alpha1\nkind: User\nroles: [admin]\nuserInfo: {name: x}\n"), []string{
			`tests/user.yaml:4: unknown key "name" of userInfo; there are extra, groups, uid, username`, testPath + `:12: the userinfo file "user.yaml" is a User`, testPath + `:12: the role "admin" of "user.yaml" is not NAMESPACE:NAME`,
		}, 3},
		{"aliases", library().with(testPath, strings.Replace(namesTest, "results:", "values: {globalValues: {a: &a [1], b: &b [*a, *a]}}\nresults:", 1)), nil, 3},
		{"aliases that multiply", library().with(testPath, "a: &a [1]\n"+strings.Replace(namesTest, "results:", "values: {globalValues: "+bomb()+"}\nresults:", 1)), []string{
			testPath + `:1: unknown key "a"`, testPath + ":", testPath + ":1: the test \"names\" has no results",
		}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			l := row.files.load(t)
			var want []any
			for _, w := range row.want {
				want = append(want, HavePrefix(w))
			}
			g.Expect(found(l.Findings)).To(ConsistOf(want...))
			g.Expect(l.Examples()).To(HaveLen(row.examples), "what no finding concerns is read all the same")
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	g := NewWithT(t)
	dir := library().write(t)
	_, err := Load(filepath.Join(dir, "none"))
	g.Expect(err).To(MatchError(ContainSubstring("no such file or directory")))
	_, err = Load(filepath.Join(dir, "names.yaml"))
	g.Expect(err).To(MatchError(ContainSubstring("names.yaml is a file; give the folder in which it stands")))
}

func TestLoadTests(t *testing.T) {
	g := NewWithT(t)
	l, err := LoadTests(library().with("patch.yaml", "apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\nmetadata: {name: x}\nspec: {$patch: delete}\n").write(t))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found(l.Findings)).To(BeEmpty(), "what no test names is none of its business")
	g.Expect(l.Policies).To(HaveLen(2))
	l, err = LoadTests(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(l.Findings).To(BeEmpty())
}

func TestLoadWorld(t *testing.T) {
	g := NewWithT(t)
	f := library().edited(t, testPath, "results:", `userinfo: user.yaml
variables: values.yaml
exceptions: [exception.yaml]
targetResources: [target.yaml]
paramResources: [target.yaml]
clusterResources: [cluster.yaml]
results:`)
	f["tests/user.yaml"] = "apiVersion: cli.kyverno.io/v1alpha1\nkind: UserInfo\nroles: [apps:edit]\nclusterRoles: [view]\nuserInfo: {username: jane, groups: [a, b], extra: {k: [v]}}\n"
	f["tests/values.yaml"] = `apiVersion: cli.kyverno.io/v1alpha1
kind: Values
metadata: {name: values}
globalValues: {request.operation: UPDATE}
namespaceSelector: [{name: other, labels: {of: selector}}, {name: third, labels: {of: selector}}]
namespaces: [{metadata: {name: other, labels: {of: namespaces}}}]
policies: [{name: labels, resources: [{name: good, values: {request.operation: DELETE}}]}]
subresources:
- subresource: {name: configmaps/part, kind: ConfigMap, version: v1}
  parentResource: {name: things, kind: Thing, group: example.com, version: v1}
`
	f["tests/exception.yaml"] = "apiVersion: policies.kyverno.io/v1\nkind: PolicyException\nmetadata: {name: e}\nspec: {policyRefs: [{name: names, kind: ValidatingPolicy}]}\n"
	f["tests/target.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: target}\n"
	f["tests/cluster.yaml"] = "apiVersion: cli.kyverno.io/v1alpha1\nkind: ClusterResource\nmetadata: {name: c}\nspec:\n  crds: [crd.yaml]\n  resources: [{apiVersion: v1, kind: Secret, metadata: {name: there}}]\n"
	f["tests/crd.yaml"] = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.com}\n"
	l := f.load(t)
	g.Expect(found(l.Findings)).To(BeEmpty())
	test := l.Tests[0]
	g.Expect(test.User).To(Equal(&User{Name: "jane", Groups: []string{"a", "b"}, Roles: []string{"apps:edit"}, ClusterRoles: []string{"view"}, Extra: map[string][]string{"k": {"v"}}}))
	g.Expect(test.Namespaces).To(Equal(map[string]map[string]string{"other": {"of": "namespaces"}, "third": {"of": "selector"}}))
	names := func(list []*unstructured.Unstructured) []string {
		var out []string
		for _, o := range list {
			out = append(out, o.GetKind()+" "+o.GetName())
		}
		return out
	}
	g.Expect(names(test.Exceptions)).To(Equal([]string{"PolicyException e"}))
	g.Expect(names(test.Objects)).To(Equal([]string{"CustomResourceDefinition things.example.com", "Secret there"}))
	g.Expect(names(test.Targets)).To(Equal([]string{"ConfigMap target"}))
	g.Expect(names(test.Params)).To(Equal([]string{"ConfigMap target"}))
	operations := map[string]string{}
	for _, e := range test.Examples {
		operations[e.Policy.Object.GetName()] = e.Operation
		g.Expect(e.Subresource).To(Equal("part"))
		g.Expect(e.Parent).To(Equal(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}))
		g.Expect(e.NotSupported).To(BeEmpty())
	}
	g.Expect(operations).To(Equal(map[string]string{"names": "UPDATE", "labels": "DELETE"}), "values of an object concern legacy policies alone")
}

func TestLoadOldSpelling(t *testing.T) {
	g := NewWithT(t)
	f := library()
	f[testPath] = `name: old
policies: [../labels.yaml]
resources: [objects.yaml]
userinfo: user.yaml
variables: values.yaml
results:
- {policy: labels, rule: has-team, resource: good, namespace: other, kind: ConfigMap, status: fail}
- {policy: labels, rule: autogen-has-team, resource: hidden, kind: Secret, patchedResource: objects.yaml, result: pass}
`
	f["tests/user.yaml"] = "userInfo: {username: jane}\n"
	f["tests/values.yaml"] = "namespaceSelector: [{name: other, labels: {a: b}}]\n"
	l := f.load(t)
	g.Expect(found(l.Findings)).To(BeEmpty())
	g.Expect(found(l.Notes)).To(ConsistOf(
		HavePrefix(testPath+":1: «kyverno test» does not read this form any more"),
		HavePrefix(testPath+`:4: «kyverno test» does not read "user.yaml" any more`),
		HavePrefix(testPath+`:5: «kyverno test» does not read "values.yaml" any more`),
		HavePrefix(testPath+":7: «kyverno test» does not know status any more; write result"),
		HavePrefix(testPath+":7: «kyverno test» does not know resource any more"),
		HavePrefix(testPath+":7: «kyverno test» does not know namespace any more"),
		HavePrefix(testPath+":8: «kyverno test» does not know resource any more"),
		HavePrefix(testPath+":8: «kyverno test» does not know patchedResource any more"),
	))
	g.Expect(l.Tests[0].Name).To(Equal("old"))
	g.Expect(l.Examples()).To(HaveLen(2))
	g.Expect(l.Examples()[0].Expected).To(Equal(Fail))
	g.Expect(l.Examples()[0].Object.GetNamespace()).To(Equal("other"))
	g.Expect(l.Examples()[1].Patched.GetName()).To(Equal("hidden"))
}

func TestLoadOutcomes(t *testing.T) {
	g := NewWithT(t)
	const mutating = "apiVersion: policies.kyverno.io/v1\nkind: MutatingPolicy\nmetadata: {name: change}\nspec:\n  targetMatchConstraints: {}\n"
	const cloning = `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: copy}
spec:
  rules:
  - name: secret
    match: {any: [{resources: {kinds: [ConfigMap]}}]}
    generate: {apiVersion: v1, kind: Secret, name: regcred, clone: {name: regcred, namespace: default}}
`
	f := library()
	f["change.yaml"], f["copy.yaml"] = mutating, cloning
	f["tests/target.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: target}\n"
	f["tests/source.yaml"] = "apiVersion: v1\nkind: Secret\nmetadata: {name: regcred, namespace: default}\n"
	f[testPath] = `apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata: {name: outcomes}
policies: [../change.yaml, ../copy.yaml]
resources: [objects.yaml]
targetResources: [target.yaml]
results:
- {policy: change, isMUtatingPolicy: true, kind: ConfigMap, resources: [target], patchedResources: target.yaml, result: pass}
- {policy: change, kind: ConfigMap, resources: [bad], patchedResources: target.yaml, result: pass}
- {policy: copy, rule: secret, kind: Secret, resources: [bad], generatedResource: source.yaml, cloneSourceResource: source.yaml, result: pass}
- {policy: copy, rule: secret, kind: Secret, resources: [bad], generatedResources: [source.yaml, target.yaml], cloneSourceResource: source.yaml, result: pass}
`
	l := f.load(t)
	g.Expect(found(l.Findings)).To(BeEmpty())
	examples := l.Examples()
	g.Expect(examples).To(HaveLen(4))
	g.Expect(examples[0].Object).To(BeIdenticalTo(l.Tests[0].Targets[0]))
	g.Expect(examples[0].Patched.GetName()).To(Equal("target"))
	g.Expect(examples[1].Patched).To(BeNil(), "the trigger is named, and its target is compared")
	g.Expect(examples[2].Generated).To(HaveLen(1))
	g.Expect(examples[3].Generated).To(HaveLen(2))
	g.Expect(l.Tests[0].Objects).To(HaveLen(1), "what is cloned twice is there once")
}

func TestLoadNotSupported(t *testing.T) {
	policy := func(kind, spec string) string {
		return "apiVersion: policies.kyverno.io/v1\nkind: " + kind + "\nmetadata: {name: names}\nspec: {" + spec + "}\n"
	}
	legacy := func(rule string) string {
		return strings.Replace(labelsPolicy, "    validate: {message: add the label team, pattern: {metadata: {labels: {team: \"?*\"}}}}", rule, 1)
	}
	test := func(more string) files { return library().edited(t, testPath, "results:", more+"\nresults:") }
	for _, row := range []struct {
		name   string
		files  files
		policy string
		want   string
	}{
		{"a context", test("context: context.yaml"), "names", "its test brings a context"},
		{"answers of servers", test("apiCallResponses: [{urlPath: /x, response: {body: {}}}]"), "names", "its test brings apiCallResponses"},
		{"gathered data", test("globalContextEntries: [{name: x, data: {}}]"), "labels", "its test brings globalContextEntries"},
		{"images", library().with("names.yaml", policy("ImageValidatingPolicy", "")), "names", "it verifies images"},
		{"images by a rule", library().with("labels.yaml", legacy("    verifyImages: [{imageReferences: ['*']}]")), "labels", "it verifies images"},
		{"signatures of manifests", library().with("labels.yaml", legacy("    validate: {manifests: {attestors: []}}")), "labels", "it verifies the signatures"},
		{"deleting", library().with("names.yaml", policy("NamespacedDeletingPolicy", "schedule: '* * * * *'")), "names", "it deletes on a schedule"},
		{"cleaning up", library().with("labels.yaml", "apiVersion: kyverno.io/v2\nkind: ClusterCleanupPolicy\nmetadata: {name: labels}\nspec: {schedule: x}\n"), "labels", "it deletes on a schedule"},
		{"another protocol", library().with("names.yaml", policy("ValidatingPolicy", "evaluation: {mode: HTTP}")), "names", "it judges HTTP payloads"},
		{"a connection", test("values: {globalValues: {request.operation: CONNECT}}"), "names", "a CONNECT opens a connection"},
		{"a variable of a rule", test("values: {policies: [{name: labels, rules: [{name: has-team, values: {dictionary.data.team: x}}]}]}"), "labels", "its test states the variable dictionary.data.team of the rule has-team"},
		{"a variable of all", test("values: {globalValues: {team: x}}"), "labels", "its test states the variable team"},
		{"a variable that is not read", test("values: {globalValues: {nobody: x}}"), "labels", ""},
		{"a variable of another policy's kind", test("values: {globalValues: {metadata: x}}"), "names", ""},
		{"a payload", test("jsonPayloads: [payload.json]").with("tests/payload.json", "{}").edited(t, testPath, "[bad]", "[payload.json]"), "names", "it is a JSON payload"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			l := row.files.load(t)
			g.Expect(found(l.Findings)).To(BeEmpty())
			g.Expect(l.Examples()).To(HaveLen(3), "no result is dropped")
			for _, e := range l.Examples() {
				if e.Policy.Object.GetName() == row.policy {
					if row.want == "" {
						g.Expect(e.NotSupported).To(BeEmpty())
					}
					g.Expect(e.NotSupported).To(HavePrefix(row.want))
				}
			}
		})
	}
}

func TestLoadBindings(t *testing.T) {
	g := NewWithT(t)
	l := files{"vap.yaml": `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: names}
spec: {validations: [{expression: "true"}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: one}
spec: {policyName: names, validationActions: [Deny]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: two}
spec: {policyName: others, validationAction: [Deny]}
`}.load(t)
	g.Expect(found(l.Findings)).To(ConsistOf(HavePrefix(`vap.yaml:14: unknown key "validationAction" of spec; did you mean validationActions?`)))
	g.Expect(l.Policies).To(HaveLen(1))
	g.Expect(l.Policies[0].Bindings).To(HaveLen(1))
	g.Expect(l.Policies[0].Bindings[0].GetName()).To(Equal("one"))
}

// Tests of one name are told apart, and lists are read as what they hold.
func TestLoadDocuments(t *testing.T) {
	g := NewWithT(t)
	f := library()
	f["names.yaml"] = "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(namesPolicy), "\n", "\n  ") + "\n"
	f[testPath] += "---\n" + f[testPath]
	l := f.load(t)
	g.Expect(found(l.Findings)).To(BeEmpty())
	g.Expect(l.Tests).To(HaveLen(2))
	g.Expect(l.Tests[1].Name).To(Equal("names (2)"))
	g.Expect(l.Tests[1].Policies[0]).To(BeIdenticalTo(l.Tests[0].Policies[0]), "a policy that several tests name is there once")
	ids := map[string]bool{}
	for _, e := range l.Examples() {
		ids[e.ID()] = true
	}
	g.Expect(ids).To(HaveLen(6))
}

// many is a library of this many results, in one document or in one for each 100.
func many(results int, apart bool) files {
	var objects, entries, tests strings.Builder
	head := strings.Split(namesTest, "results:")[0] + "results:\n"
	tests.WriteString(head)
	for i := range results {
		fmt.Fprintf(&objects, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: object-%d}\n", i)
		entries.Reset()
		if apart && i > 0 && i%100 == 0 {
			tests.WriteString("---\n" + head)
		}
		fmt.Fprintf(&entries, "- policy: labels\n  rule: has-team\n  kind: ConfigMap\n  resources: [object-%d]\n  result: pass\n", i)
		tests.WriteString(entries.String())
	}
	f := library()
	f["tests/objects.yaml"], f[testPath] = objects.String(), tests.String()
	return f
}

func TestLoadMany(t *testing.T) {
	for _, apart := range []bool{false, true} {
		l := many(10_000, apart).load(t)
		g := NewWithT(t)
		g.Expect(l.Findings).To(BeEmpty())
		g.Expect(l.Examples()).To(HaveLen(10_000))
	}
}

func TestLoadLarge(t *testing.T) {
	g := NewWithT(t)
	l := library().with("tests/objects.yaml", objects+"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\ndata: {large: "+strings.Repeat("x", 3<<20)+"}\n").
		edited(t, testPath, "[bad]", "[bad, large]").load(t)
	g.Expect(l.Findings).To(BeEmpty())
	g.Expect(l.Examples()).To(HaveLen(4))
}

func BenchmarkLoad(b *testing.B) {
	for _, results := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(results), func(b *testing.B) {
			dir := many(results, true).write(b)
			for b.Loop() {
				if l, err := Load(dir); err != nil || len(l.Examples()) != results {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*results), "µs/result")
		})
	}
}

// Whatever a test file holds, it is read to an end, and what is found has a place.
func FuzzLoad(f *testing.F) {
	f.Add(namesTest)
	f.Add(namesTest + "---\nname: old\nresults: [{policy: labels, status: fail, resource: good}]\n")
	f.Add("a: &a [*a]")
	f.Add("values: {policies: [{name: labels, rules: [{name: x, foreachValues: {a: [1]}}]}], subresources: [{}]}\n<<: {results: [{}]}")
	f.Add("results: [{resourceSpecs: [{name: bad}], policy: names, result: warn, patchedResources: objects.yaml}]\npolicies: [..]\nresources: [.]")
	f.Fuzz(func(t *testing.T, content string) {
		// Nothing outside of the folder is of interest.
		if strings.Contains(content, "../..") || strings.Contains(content, "/proc") || strings.Contains(content, ": /") || strings.Contains(content, "- /") || strings.Contains(content, "[/") {
			t.Skip()
		}
		dir := library().with(testPath, content).write(t)
		l, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, finding := range l.Findings {
			if finding.File == "" || finding.Text == "" {
				t.Errorf("a finding without place or text: %+v", finding)
			}
		}
		for _, e := range l.Examples() {
			if e.Policy == nil || e.Object == nil || e.Operation == "" || e.ID() == "" {
				t.Errorf("an example that lacks something: %+v", e)
			}
		}
	})
}

func TestWhatNoExampleCanExercise(t *testing.T) {
	g := NewWithT(t)
	const says = "conformance.flux-platform/message: choose another"
	l := library().edited(t, testPath, says, says+"\n    conformance.flux-platform/unexercised: |\n      operation UPDATE:  it stays: as it is\n\n      nothing\n").load(t)
	g.Expect(l.Tests[0].Unexercised).To(Equal([]Unexercised{{Part: "operation UPDATE", Cause: "it stays: as it is"}}))
	g.Expect(found(l.Findings)).To(ConsistOf(ContainSubstring(`unexercised is "nothing"; write «PART: CAUSE»`)))
	one := Unexercised{Part: "operation UPDATE"}
	g.Expect(one.Names("operation UPDATE")).To(BeTrue())
	g.Expect(one.Names("operation UPDATE of all")).To(BeTrue())
	g.Expect(one.Names("operation UPDATES")).To(BeFalse())
}
