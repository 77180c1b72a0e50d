package live

import (
	"os"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/golden"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const copyName = "p0123456789"

func whole(policy *unstructured.Unstructured, exceptions ...*unstructured.Unstructured) subject {
	return subject{
		policy: &example.Policy{Object: policy}, exceptions: exceptions, name: copyName,
		aspect: Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1},
	}
}

// manifests compares objects with a file of testdata.
func manifests(t *testing.T, name string, objects []*unstructured.Unstructured) {
	t.Helper()
	g := NewWithT(t)
	got := ""
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		g.Expect(err).NotTo(HaveOccurred())
		got += "---\n" + string(data)
	}
	golden.Compare(t, name, got)
}

func TestLegacyCopies(t *testing.T) {
	g := NewWithT(t)
	data, err := os.ReadFile("testdata/legacy/rules.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	s := whole(parsed(t, string(data)))
	got, err := legacyForm{}.install(s)
	g.Expect(err).NotTo(HaveOccurred())
	manifests(t, "legacy-copies.golden", got.objects)
	g.Expect(got.canary.GetKind()).To(Equal("ConfigMap"))

	data, err = os.ReadFile("testdata/legacy/update/policy.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	s.policy, s.updates = &example.Policy{Object: parsed(t, string(data))}, true
	got, err = legacyForm{}.install(s)
	g.Expect(err).NotTo(HaveOccurred())
	manifests(t, "legacy-updates.golden", got.objects)
}

const mixed = `
apiVersion: kyverno.io/v1
kind: Policy
metadata: {name: mixed, namespace: team}
spec:
  validationFailureAction: enforce
  webhookConfiguration:
    timeoutSeconds: 5
    matchConditions:
    - {name: own, expression: "has(object.data)"}
  rules:
  - name: changes
    match: {any: [{resources: {kinds: [Pod], names: [a]}}]}
    mutate: {patchStrategicMerge: {metadata: {labels: {a: b}}}}
  - name: a-rule-of-a-long-name-of-which-kyverno-leaves-out-the-end-at-some-point
    match:
      any:
      - resources: {kinds: [example.test/v1/Gone]}
      - resources: {kinds: [Pod, Missing]}
    validate:
      cel:
        expressions: [{expression: "true"}]
  - name: nothing-left
    match: {all: [{resources: {kinds: [Missing]}}]}
    validate: {pattern: {spec: "?*"}}
  - name: signed
    match: {any: [{resources: {kinds: [Pod]}}]}
    validate: {manifests: {attestors: []}}
`

func TestLegacyCopyOfAPartOfAPolicy(t *testing.T) {
	g := NewWithT(t)
	policy := parsed(t, mixed)
	s := whole(policy)
	s.unserved = []string{"Missing", "example.test/v1/Gone"}
	got, err := legacyForm{}.install(s)
	g.Expect(err).NotTo(HaveOccurred())
	manifests(t, "legacy-part.golden", got.objects)
	g.Expect(got.canary.GetNamespace()).To(Equal("team"))

	written, why, err := legacyForm{}.written(s)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(why).To(BeEmpty())
	manifests(t, "legacy-written.golden", written)

	reason := func(rule string) string {
		return legacyForm{}.reason(&example.Example{Policy: s.policy, Rule: rule})
	}
	g.Expect(reason("")).To(BeEmpty())
	g.Expect(reason("nothing-left")).To(BeEmpty())
	g.Expect(reason("autogen-cronjob-a-rule-of-a-long-name-of-which-kyverno-leaves-o")).To(BeEmpty())
	g.Expect(reason("changes")).To(Equal("rule changes: it does not validate"))
	g.Expect(reason("signed")).To(ContainSubstring("signatures of manifests"))
	g.Expect(reason("none")).To(ContainSubstring(`has no rule "none"`))

	s.aspect = Aspect{Validation: -1, Condition: 0, Constraint: -1}
	_, err = legacyForm{}.install(s)
	g.Expect(err).To(MatchError(ContainSubstring("no constraints or conditions that can be asked for alone")))
}

func TestLegacyAudits(t *testing.T) {
	g := NewWithT(t)
	audits := func(spec string) bool {
		return legacyForm{}.audits(&example.Policy{Object: parsed(t, "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nspec: "+spec)})
	}
	g.Expect(audits(`{rules: [{validate: {deny: {}}}]}`)).To(BeTrue())
	g.Expect(audits(`{validationFailureAction: Enforce, rules: [{validate: {failureAction: Audit}}]}`)).To(BeTrue())
	g.Expect(audits(`{validationFailureAction: enforce, rules: [{validate: {deny: {}}}]}`)).To(BeFalse())
	g.Expect(audits(`{rules: [{validate: {failureAction: Enforce}}]}`)).To(BeFalse())
	g.Expect(audits(`{validationFailureActionOverrides: [{action: enforce, namespaces: [a]}], rules: [{validate: {deny: {}}}]}`)).To(BeFalse())
}

func TestLegacyWarnings(t *testing.T) {
	at := func(rule, derived string, index int, answer Answer) said {
		return said{copy: copyName, rule: rule, derived: derived, index: index, answer: answer}
	}
	for _, c := range []struct {
		warning string
		want    said
	}{
		{"r0: validation error: !. rule r0 failed at path /spec/containers/0/image/", at("r", "", 0, Refusing)},
		{"r2: validation error: !. rule r2[0] failed at path /a/ rule r2[1] failed at path /b/", at("r", "", 2, Refusing)},
		{"autogen-r13: !", at("r", "autogen-", 13, Refusing)},
		{"autogen-cronjob-r4: validation failure: !", at("r", "autogen-cronjob-", 4, Refusing)},
		{`r5: Validation rule 'r5' failed. It violates PodSecurity "baseline:latest": (Forbidden`, at("r", "", 5, Refusing)},
		{"r6: expression 'object.a' resulted in error: no such key: a", at("r", "", 6, Refusing)},
		{"t0: validation error: !. rule t0 failed at path /_/", at("t", "", 0, Satisfied)},
		{"x1: !", at("x", "", 1, Satisfied)},
	} {
		got, ok := legacyForm{}.read("policy " + copyName + "." + c.warning)
		g := NewWithT(t)
		g.Expect(ok).To(BeTrue(), c.warning)
		g.Expect(got).To(Equal(c.want), c.warning)
	}
	for _, words := range []string{
		"failed to check deny conditions: failed to substitute variables in condition key",
		"validation error: !. rule r0 execution error: resource value 'a' does not match 'b' at path /a/",
		"validation failure: variable substitution failed: no",
	} {
		got, ok := legacyForm{}.read("policy " + copyName + ".r0: " + words)
		g := NewWithT(t)
		g.Expect(ok).To(BeTrue())
		g.Expect(got).To(Equal(said{copy: copyName, rule: "r", answer: Failing, words: words}))
	}
	g := NewWithT(t)
	got, ok := legacyForm{}.read("policy " + copyName + ".c: !")
	g.Expect(ok).To(BeTrue())
	g.Expect(got.canary).To(BeTrue())
	for _, other := range []string{"policy owner.rule: no", "Policy " + copyName + " failed: 0", "policy " + copyName + ".r: !", "unknown field"} {
		_, ok := legacyForm{}.read(other)
		g.Expect(ok).To(BeFalse(), other)
	}
}

func TestLegacySettles(t *testing.T) {
	policy := parsed(t, `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: two}
spec:
  rules:
  - {name: one, validate: {deny: {}}}
  - {name: two, validate: {deny: {}}}
`)
	one := policy.DeepCopy()
	NewWithT(t).Expect(unstructured.SetNestedField(one.Object, "One", "spec", "applyRules")).To(Succeed())
	s := func(rule string, index int, answer Answer) said {
		return said{rule: rule, index: index, answer: answer}
	}
	auto := func(s said) said { s.derived = "autogen-"; return s }
	for name, c := range map[string]struct {
		policy *unstructured.Unstructured
		rule   string
		all    []said
		want   Reply
	}{
		"silence":                           {policy, "", nil, Reply{}},
		"a twin alone is a pass":            {policy, "one", []said{s("t", 0, Satisfied)}, Reply{Answer: Satisfied}},
		"another rule's twin is none":       {policy, "two", []said{s("t", 0, Satisfied)}, Reply{}},
		"both are a failure":                {policy, "one", []said{s("r", 0, Refusing), s("t", 0, Satisfied)}, Reply{Answer: Refusing, Indexes: []int{0}}},
		"the bare rule alone is an excuse":  {policy, "one", []said{s("t", 0, Satisfied), s("x", 0, Satisfied)}, Reply{}},
		"what is bare is violated as well":  {policy, "one", []said{s("r", 0, Refusing), s("t", 0, Satisfied), s("x", 0, Satisfied)}, Reply{Answer: Refusing, Indexes: []int{0}}},
		"an error":                          {policy, "one", []said{{rule: "r", answer: Failing, words: "no"}, s("t", 0, Satisfied)}, Reply{Answer: Failing, Words: "no"}},
		"a derived rule by its base":        {policy, "one", []said{auto(s("t", 0, Satisfied))}, Reply{Answer: Satisfied}},
		"a derived rule by its name":        {policy, "autogen-one", []said{auto(s("t", 0, Satisfied))}, Reply{Answer: Satisfied}},
		"a rule by the name of a derived":   {policy, "autogen-one", []said{s("t", 0, Satisfied)}, Reply{}},
		"one of two refuses":                {policy, "", []said{s("t", 0, Satisfied), s("r", 1, Refusing), s("t", 1, Satisfied)}, Reply{Answer: Refusing, Indexes: []int{1}}},
		"a refusal outweighs an error":      {policy, "", []said{s("r", 0, Refusing), {rule: "r", index: 1, answer: Failing, words: "no"}}, Reply{Answer: Refusing, Indexes: []int{0}}},
		"the first that applies alone":      {one, "", []said{s("t", 0, Satisfied), s("r", 1, Refusing), s("t", 1, Satisfied)}, Reply{Answer: Satisfied}},
		"the second after one that applies": {one, "two", []said{s("t", 0, Satisfied), s("r", 1, Refusing), s("t", 1, Satisfied)}, Reply{}},
		"the second after one that skips":   {one, "two", []said{s("r", 1, Refusing), s("t", 1, Satisfied)}, Reply{Answer: Refusing, Indexes: []int{1}}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &example.Example{Policy: &example.Policy{Object: c.policy}, Rule: c.rule}
			NewWithT(t).Expect(legacyForm{}.settle(e, c.all)).To(Equal(c.want))
		})
	}
}

const block = `admission webhook "validate.kyverno.svc-fail" denied the request: 

resource Pod/default/a was blocked due to the following policies 

owner:
  deny: 'who: owns it?'
  pattern: 'validation error: no. rule pattern failed at path /a/'
p0123456789:
  r1: 'failed to load context: gone'
  t1: '!'
`

func TestLegacyRefusal(t *testing.T) {
	g := NewWithT(t)
	named := func(name string) *unstructured.Unstructured {
		out := &unstructured.Unstructured{}
		out.SetName(name)
		return out
	}
	words, ok := legacyForm{}.refused(named("owner"), block)
	g.Expect(ok).To(BeTrue())
	g.Expect(words).To(Equal("deny: who: owns it?; pattern: validation error: no. rule pattern failed at path /a/"))
	_, ok = legacyForm{}.refused(named("other"), block)
	g.Expect(ok).To(BeFalse())
	_, ok = legacyForm{}.refused(named("owner"), "Policy owner failed: no")
	g.Expect(ok).To(BeFalse())
	g.Expect(blocking(block)).To(ConsistOf(
		said{copy: copyName, rule: "r", index: 1, answer: Failing, words: "failed to load context: gone"},
		said{copy: copyName, rule: "t", index: 1, answer: Satisfied},
	))
	g.Expect(blocking("no")).To(BeEmpty())
}

func TestUnserved(t *testing.T) {
	b := &Bench{kinds: map[schema.GroupVersionKind]resource{
		{Version: "v1", Kind: "Pod"}:                                      {},
		{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}:      {},
		{Group: "apps", Version: "v1", Kind: "Deployment"}:                {},
		{Group: "example.test", Version: "v1alpha1", Kind: "Application"}: {},
	}, subkinds: map[string]bool{"Eviction": true}}
	policy := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "kyverno.io/v1", "kind": "ClusterPolicy",
		"spec": map[string]any{"rules": []any{map[string]any{"match": map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{
			"Pod", "v1/Pod", "*/Pod", "Pod/exec", "Pod.status", "*", "*/*", "apps/v1/Deployment", "apps/*/Deployment", "*/*/Ingress",
			"networking.k8s.io/v1/Ingress/status", "Ingress*", "Eviction", "Application",
			"Gone", "v2/Pod", "apps/v1beta1/Deployment", "other.test/v1alpha1/Application", "Gone/status",
		}}}}}}}},
	}}
	NewWithT(t).Expect(b.unserved(policy)).To(Equal([]string{
		"Gone", "Gone/status", "apps/v1beta1/Deployment", "other.test/v1alpha1/Application", "v2/Pod",
	}))
}

func TestFlatten(t *testing.T) {
	g := NewWithT(t)
	for _, c := range [][2]string{
		{"a == b", "a == b"},
		{"// says\n// why\na ==\n\t b // because", "a == b"},
		{"a == 'http://x' // not\n", "a == 'http://x'"},
		{`a == "it's // \"so\""`, `a == "it's // \"so\""`},
		{"a == '''one\ntwo'''", `a == '''one\ntwo'''`},
		{`a.matches(r'\d+ // "')`, `a.matches(r'\d+ // "')`},
	} {
		g.Expect(flatCEL(c[0])).To(Equal(c[1]))
	}
	g.Expect(flatten(map[string]any{
		"expression": "a\n&& b", "key": "{{ a |\n  b }}\nc", "jmesPath": "a |\nb", "list": []any{"x\ny"},
	})).To(Equal(map[string]any{
		"expression": "a && b", "key": "{{ a |   b }}\nc", "jmesPath": "a | b", "list": []any{"x\ny"},
	}))
}
