//go:build live

package live

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const oddPolicies = `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-broken}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "object.metadata.name == variables.nowhere +", message: m}]
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-everything}
spec:
  matchConstraints: {resourceRules: [{apiGroups: ["*"], apiVersions: ["*"], operations: ["*"], resources: ["*/*"]}]}
  validations: [{expression: "false", message: nothing at all}]
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-parts}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}
  matchConditions: [{name: a, expression: "object.metadata.name != 'core-small'"}]
  validations:
  - {expression: "object.metadata.name != 'core-large'", message: one}
  - {expression: "object.metadata.name != 'core-other'", message: two}
`

// What is wrong with one policy or one object is told of it alone; the others have
// their verdicts, and the cluster remains as it was.
func TestOddInput(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	write("policies.yaml", oddPolicies)
	object := func(name, data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: core-odd}\ndata: {x: " + data + "}\n---\n"
	}
	write("objects.yaml", object("core-small", "a")+object("core-other", "b")+object("core-large", strings.Repeat("x", 3<<20)))
	write("kyverno-test.yaml", `
apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata: {name: odd}
policies: [policies.yaml]
resources: [objects.yaml]
results:
- {policy: core-broken, kind: ConfigMap, resources: [core-small], result: pass}
- {policy: core-everything, kind: ConfigMap, resources: [core-small, core-other, core-large], result: fail}
- {policy: core-parts, kind: ConfigMap, resources: [core-small, core-other], result: fail}
`)
	l := load(t, dir)
	g.Expect(l.Findings).To(BeEmpty())
	b := open(t, Options{})
	j, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	verdict := map[string]Verdict{}
	for _, v := range j.Verdicts {
		verdict[v.Example.Policy.Object.GetName()+" "+v.Example.Object.GetName()] = v
	}
	g.Expect(verdict["core-broken core-small"].Verdict).To(Equal(example.Unknown))
	g.Expect(verdict["core-everything core-small"].Verdict).To(Equal(example.Fail))
	g.Expect(verdict["core-everything core-other"].Verdict).To(Equal(example.Fail))
	large := verdict["core-everything core-large"]
	g.Expect(large.Verdict).To(Equal(example.Invalid), large.Reason)
	g.Expect(large.Reason).To(ContainSubstring("too large"))
	g.Expect(verdict["core-parts core-small"].Verdict).To(Equal(example.Skip))
	g.Expect(verdict["core-parts core-other"].Refused).To(Equal([]int{1}))
	g.Expect(j.Policies[0].Problem).To(ContainSubstring("<input>:1:"), "the line and the column")
	t.Log(j.Policies[0].Problem, large.Reason)
	g.Expect(j.Policies[1].Denial).To(Equal("nothing at all"), j.Policies[1].DenialProblem)

	part := func(validation, condition, constraint int) Aspect {
		return Aspect{Validation: validation, Condition: condition, Constraint: constraint}
	}
	m, err := b.Probe(t.Context(), l, map[*example.Policy][]Aspect{l.Policies[2]: {
		part(0, -1, -1), part(1, -1, -1), part(-1, 0, -1), part(-1, -1, 0), part(-1, -1, 1),
	}})
	g.Expect(err).NotTo(HaveOccurred())
	var answers [][]Answer
	for _, row := range m[l.Policies[2]].Replies {
		answers = append(answers, []Answer{row[0].Answer, row[1].Answer})
	}
	g.Expect(answers).To(Equal([][]Answer{
		{Silent, Satisfied}, {Silent, Refusing}, {Silent, Refusing}, {Refusing, Refusing}, {Silent, Silent},
	}))

	// What did not change is not installed again.
	again, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again.Stats.Installed).To(BeZero())
	plain := canaryObject("ConfigMap", nil)
	plain.SetNamespace("default")
	got := b.send(context.WithoutCancel(t.Context()), request{operation: opCreate, object: plain})
	g.Expect(got.err).NotTo(HaveOccurred())
}

// Two tests state other labels for one namespace: each has its own world.
func TestNamespaceWithOtherLabelsInEachTest(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	write("policies.yaml", `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-staged}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {stage: prd}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "namespaceObject.metadata.labels.?tier.orValue('') != 'one'", message: not here}]
`)
	write("objects.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: core-a, namespace: core-staged}\n")
	var tests string
	for i, labels := range []string{"{stage: prd, tier: one}", "{stage: dev, tier: one}", "{stage: prd, tier: two}"} {
		result := []string{"fail", "skip", "pass"}[i]
		tests += "---\napiVersion: cli.kyverno.io/v1alpha1\nkind: Test\nmetadata: {name: " + result + "}\npolicies: [policies.yaml]\nresources: [objects.yaml]\n" +
			"values: {namespaces: [{metadata: {name: core-staged, labels: " + labels + "}}]}\n" +
			"results: [{policy: core-staged, kind: ConfigMap, resources: [core-a], result: " + result + "}]\n"
	}
	write("kyverno-test.yaml", strings.TrimPrefix(tests, "---\n"))
	l := load(t, dir)
	t.Log(l.Findings)
	b := open(t, Options{})
	j, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(j.Verdicts).To(HaveLen(3))
	for _, v := range j.Verdicts {
		g.Expect(v.Verdict).To(Equal(v.Example.Expected), "%s: %s", v.Example, v.Reason)
	}
}

// What Kyverno's configuration leaves out reaches no policy of Kyverno's, which is no
// verdict of the policy's; one of Kubernetes' own is asked there as everywhere.
func TestWhatReachesNoPolicyIsNotSupported(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	write("policies.yaml", `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-nobody}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "false", message: nobody}]
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-there-only}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kyverno}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "false", message: nobody there}]
---
apiVersion: policies.kyverno.io/v1
kind: NamespacedMutatingPolicy
metadata: {name: core-paints, namespace: kube-system}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'colour': 'blue'}}}"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: core-native}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "false", message: nobody at all}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: core-native}
spec: {policyName: core-native, validationActions: [Deny]}
`)
	objects := ""
	for _, namespace := range []string{"kube-system", "kyverno", "core-left"} {
		objects += "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: in-" + namespace + ", namespace: " + namespace + "}\n---\n"
	}
	write("objects.yaml", objects)
	write("kyverno-test.yaml", `
apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata: {name: left}
policies: [policies.yaml]
resources: [objects.yaml]
values: {namespaces: [{metadata: {name: kube-system, labels: {stage: dev}}}]}
results:
- {policy: core-nobody, kind: ConfigMap, resources: [in-kube-system, in-kyverno, in-core-left], result: fail}
- {policy: core-there-only, kind: ConfigMap, resources: [in-core-left], result: skip}
- {policy: kube-system/core-paints, isMutatingPolicy: true, kind: ConfigMap, resources: [in-core-left], result: skip}
- {policy: core-native, kind: ConfigMap, resources: [in-kube-system], result: fail}
`)
	l := load(t, dir)
	g.Expect(l.Findings).To(BeEmpty())
	b := open(t, Options{})
	j, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	want := []struct {
		verdict example.Verdict
		says    string
	}{
		{example.NotSupported, "resourceFilters [*/*,kube-system,*]"},
		{example.NotSupported, "resourceFilters [*/*,kyverno,*]"},
		{example.Fail, ""},
		{example.NotSupported, "resourceFilters [*/*,kyverno,*]"},
		{example.NotSupported, "resourceFilters [*/*,kube-system,*]"},
		{example.Fail, ""},
	}
	g.Expect(j.Verdicts).To(HaveLen(len(want)))
	for i, v := range j.Verdicts {
		g.Expect(v.Verdict).To(Equal(want[i].verdict), "%s: %s", v.Example, v.Reason)
		g.Expect(v.Reason).To(ContainSubstring(want[i].says), v.Example.String())
	}
	for _, p := range j.Policies {
		g.Expect(p.Problem).To(BeEmpty(), p.Policy.String())
	}
}
