package offline

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// program is Kyverno's CLI. Without it the tests fail: they prove nothing then.
func program(t *testing.T) string {
	t.Helper()
	const variable = "FLUX_CONFORMANCE_TEST_BINARIES"
	dir := os.Getenv(variable)
	if dir == "" {
		t.Fatalf("%s is not set: these tests run the real CLI; name a folder that holds kyverno-cli", variable)
	}
	return filepath.Join(dir, "kyverno-cli")
}

func write(t *testing.T, files map[string]string) *example.Library {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "library")
	for name, content := range files {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	library, err := example.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return library
}

const (
	names = `apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: names}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}
  validations:
  - {expression: "object.metadata.name != 'bad'", message: choose another name}
`
	team = `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: team}
spec:
  rules:
  - name: has-team
    match: {any: [{resources: {kinds: [ConfigMap]}}]}
    validate: {message: add the label team, pattern: {metadata: {labels: {team: "?*"}}}}
  - name: sets-owner
    match: {any: [{resources: {kinds: [ConfigMap]}}]}
    mutate: {patchStrategicMerge: {metadata: {labels: {owner: somebody}}}}
  - name: copies
    match: {any: [{resources: {kinds: [Namespace]}}]}
    generate: {apiVersion: v1, kind: Secret, name: regcred, namespace: "{{request.object.metadata.name}}", clone: {name: regcred, namespace: default}}
`
	objects = `apiVersion: v1
kind: ConfigMap
metadata: {name: bad}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: good, labels: {team: a}}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
---
apiVersion: v1
kind: Namespace
metadata: {name: tenant}
`
	header = "apiVersion: cli.kyverno.io/v1alpha1\nkind: Test\nmetadata: {name: test}\npolicies: [../names.yaml, ../team.yaml]\nresources: [../objects.yaml]\n"
)

func TestJudge(t *testing.T) {
	g := NewWithT(t)
	library := write(t, map[string]string{
		"names.yaml": names, "team.yaml": team, "objects.yaml": objects,
		"a/kyverno-test.yaml": header + `results:
- {policy: names, kind: ConfigMap, resources: [bad, good], result: fail}
- {policy: names, kind: Secret, resources: [other], result: skip}
- {policy: team, rule: has-team, kind: ConfigMap, resources: [bad], result: fail, operation: CREATE}
- {policy: team, rule: sets-owner, kind: ConfigMap, resources: [good], patchedResources: patched.yaml, result: pass}
- {policy: team, rule: sets-owner, kind: ConfigMap, resources: [good], patchedResources: wrong.yaml, result: pass}
- {policy: team, rule: copies, kind: Secret, resources: [tenant], generatedResource: copy.yaml, cloneSourceResource: source.yaml, result: pass}
---
` + header + `results:
- {policy: names, kind: ConfigMap, resources: [bad], result: pass}
`,
		"a/patched.yaml":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good, labels: {team: a, owner: somebody}}\n",
		"a/wrong.yaml":        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good, labels: {team: a, owner: nobody}}\n",
		"a/source.yaml":       "apiVersion: v1\nkind: Secret\nmetadata: {name: regcred, namespace: default}\n",
		"a/copy.yaml":         "apiVersion: v1\nkind: Secret\nmetadata: {name: regcred, namespace: tenant}\n",
		"b/kyverno-test.yaml": header + "ressources: x\nresults:\n- {policy: names, kind: ConfigMap, resources: [good], result: pass}\n---\n" + header + "results:\n- {policy: names, kind: ConfigMap, resources: [good], result: pass}\n",
		"c/kyverno-test.yaml": header + "exceptions: [none.yaml]\nresults:\n- {policy: names, kind: ConfigMap, resources: [good], result: pass}\n",
		"d/kyverno-test.yaml": header + "results:\n- {policy: names, kind: ConfigMap, resources: [good], result: pass}\n",
	})
	verdicts, err := Judge(t.Context(), program(t), "", library)
	g.Expect(err).NotTo(HaveOccurred())
	want := []struct {
		verdict example.Verdict
		message string
		content bool
	}{
		{example.Fail, "choose another name", true},
		{example.Pass, "", false},
		{example.Skip, "the policy does not match it", false},
		{example.Fail, "add the label team", true},
		{example.Pass, "mutated ConfigMap/good", true},
		{example.Fail, "Patched resource didn't match", false},
		{example.Pass, "", true},
		{example.Fail, "choose another name", false},
		{example.Unknown, `«kyverno test» fails: error unmarshaling JSON: while decoding JSON: json: unknown field "ressources"`, false},
		{example.Pass, "", true},
		{example.Unknown, "«kyverno test» fails: failed to run test (error: failed to load exceptions (unable to read yaml (open " + library.Dir, false},
		{example.Pass, "", true},
	}
	g.Expect(verdicts).To(HaveLen(len(want)))
	for i, v := range verdicts {
		g.Expect(v.Example).To(BeIdenticalTo(library.Examples()[i]))
		g.Expect(v.Verdict).To(Equal(want[i].verdict), "%s: %s", v.Example, v.Message)
		g.Expect(v.Message).To(ContainSubstring(want[i].message), "%s", v.Example)
		g.Expect(v.Content).To(Equal(want[i].content), "%s: %s", v.Example, v.Message)
	}
}

// The CLI crashes at a generating policy of one namespace, and says nothing of the tests
// behind that: those are judged all the same.
func TestJudgeCrash(t *testing.T) {
	g := NewWithT(t)
	library := write(t, map[string]string{
		"names.yaml": names, "team.yaml": team, "objects.yaml": objects,
		"a/kyverno-test.yaml": header + "results:\n- {policy: names, kind: ConfigMap, resources: [bad], result: fail}\n",
		"b/policy.yaml": `apiVersion: policies.kyverno.io/v1
kind: NamespacedGeneratingPolicy
metadata: {name: makes, namespace: home}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}]
  generate:
  - expression: >-
      generator.Apply([{"apiVersion": dyn("v1"), "kind": dyn("ConfigMap"), "metadata": dyn({"name": "made"})}])
`,
		"b/service.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: home}\nspec: {ports: [{port: 80}]}\n",
		"b/made.yaml":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made, namespace: home}\n",
		"b/kyverno-test.yaml": `apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata: {name: crash}
policies: [policy.yaml]
resources: [service.yaml]
results:
- {policy: home/makes, isGeneratingPolicy: true, kind: Service, resources: [home/one], generatedResource: made.yaml, result: pass}
`,
		"c/kyverno-test.yaml": header + "results:\n- {policy: names, kind: ConfigMap, resources: [good], result: pass}\n",
	})
	verdicts, err := Judge(t.Context(), program(t), "", library)
	g.Expect(err).NotTo(HaveOccurred())
	want := []example.Verdict{example.Fail, example.NotSupported, example.Pass}
	g.Expect(verdicts).To(HaveLen(len(want)))
	for i, v := range verdicts {
		g.Expect(v.Verdict).To(Equal(want[i]), "%s: %s", v.Example, v.Message)
	}
	g.Expect(verdicts[1].Message).To(HavePrefix("«kyverno test» crashes: panic: runtime error: "))
}

func TestJudgeCannot(t *testing.T) {
	g := NewWithT(t)
	library := write(t, map[string]string{
		"names.yaml": names, "team.yaml": team, "objects.yaml": objects,
		"a/kyverno-test.yaml": header + "results:\n- {policy: names, kind: ConfigMap, resources: [bad], result: fail}\n",
	})
	_, err := Judge(t.Context(), filepath.Join(t.TempDir(), "none"), "", library)
	g.Expect(err).To(MatchError(ContainSubstring("ask Kyverno's CLI: stat ")))
	_, err = Judge(t.Context(), t.TempDir(), "", library)
	g.Expect(err).To(MatchError(ContainSubstring("is a folder; give the program itself")))
	other := filepath.Join(t.TempDir(), "other")
	g.Expect(os.WriteFile(other, []byte("#!/bin/sh\necho no such command\nexit 1\n"), 0o755)).To(Succeed())
	_, err = Judge(t.Context(), other, "", library)
	g.Expect(err).To(MatchError("ask Kyverno's CLI: it ran no test: no such command"))
}

// Tests may lead out of the folder that is judged.
func TestMirrorOutside(t *testing.T) {
	g := NewWithT(t)
	library := write(t, map[string]string{
		"names.yaml": names, "team.yaml": team, "objects.yaml": objects,
		"a/kyverno-test.yaml": header + "results:\n- {policy: names, kind: ConfigMap, resources: [bad], result: fail}\n",
	})
	part, err := example.Load(filepath.Join(library.Dir, "a"))
	g.Expect(err).NotTo(HaveOccurred())
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	verdicts, err := Judge(t.Context(), program(t), "", part)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(verdicts).To(HaveLen(1))
	g.Expect(verdicts[0].Verdict).To(Equal(example.Fail), verdicts[0].Message)
	left, err := os.ReadDir(temporary)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty(), "nothing stays behind")
}
