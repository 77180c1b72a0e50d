package live

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const manyRules = `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: many, annotations: {pod-policies.kyverno.io/autogen-controllers: none, other: x}}
spec:
  background: true
  validationFailureAction: Enforce
  rules:
  - {name: checks, match: {}, validate: {message: no}}
  - {name: first, match: {}, mutate: {patchStrategicMerge: {metadata: {labels: {a: b}}}}}
  - {name: far, match: {}, mutate: {targets: [{kind: ConfigMap, preconditions: [{key: a}]}, {kind: Secret}], patchStrategicMerge: {}}}
  - {name: makes, match: {}, generate: {kind: ConfigMap}}
  - {name: second, match: {}, mutate: {patchStrategicMerge: {metadata: {labels: {c: d}}}}}
`

func TestARuleIsJudgedByWhatItDoes(t *testing.T) {
	g := NewWithT(t)
	policy := parsed(t, manyRules)
	for rule, want := range map[string]effect{
		"": effectMutate, "checks": effectNone, "first": effectMutate, "autogen-first": effectMutate, "autogen-cronjob-first": effectMutate,
		"far": effectExisting, "makes": effectGenerate, "absent": effectNone,
	} {
		g.Expect(effectOf(policy, rule)).To(Equal(want), rule)
	}
	for text, want := range map[string]effect{
		"{apiVersion: policies.kyverno.io/v1alpha1, kind: MutatingPolicy}":                                                                   effectMutate,
		"{apiVersion: policies.kyverno.io/v1, kind: NamespacedMutatingPolicy, spec: {evaluation: {mutateExisting: {enabled: true}}}}":        effectExisting,
		"{apiVersion: policies.kyverno.io/v1beta1, kind: NamespacedGeneratingPolicy}":                                                        effectGenerate,
		"{apiVersion: admissionregistration.k8s.io/v1beta1, kind: MutatingAdmissionPolicy}":                                                  effectMutate,
		"{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy}":                                                     effectNone,
		"{apiVersion: policies.kyverno.io/v1, kind: ImageValidatingPolicy}":                                                                  effectNone,
		"{apiVersion: kyverno.io/v2, kind: ClusterCleanupPolicy, spec: {rules: [{name: a, mutate: {patchStrategicMerge: {metadata: {}}}}]}}": effectNone,
	} {
		g.Expect(effectOf(parsed(t, text), "")).To(Equal(want), text)
	}
}

func subjectOf(t *testing.T, text string) subject {
	t.Helper()
	return subject{policy: &example.Policy{Object: parsed(t, text)}, aspect: Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1}, name: "p0123456789"}
}

func TestEachRuleOfALegacyPolicyHasTheCopiesThatTellWhatItDoes(t *testing.T) {
	g := NewWithT(t)
	s := subjectOf(t, manyRules)
	rules := func(of *trial) []string {
		var names []string
		for _, rule := range rulesOf(of.objects[len(of.objects)-1]) {
			names = append(names, rule["name"].(string))
		}
		return names
	}
	first, err := mutation(s, nil, &example.Example{Rule: "first"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rules(first)).To(Equal([]string{"first", "second", canaryName}))
	g.Expect(first.before).To(BeNil())
	g.Expect(rules(first.upto)).To(Equal([]string{"first", canaryName}))
	second, err := mutation(s, nil, &example.Example{Rule: "second"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rules(second.before)).To(Equal([]string{"first", canaryName}))
	g.Expect(second.upto).To(BeNil())
	g.Expect(second.before.name).To(Equal(first.upto.name), "the same rules are the same copy")
	g.Expect(first.key()).NotTo(Equal(second.key()))

	copied := first.objects[0]
	g.Expect(copied.GetAnnotations()).To(Equal(map[string]string{"pod-policies.kyverno.io/autogen-controllers": "none"}))
	g.Expect(copied.GetLabels()).To(HaveKey(benchLabel))
	g.Expect(copied.Object["spec"]).To(And(
		HaveKeyWithValue("background", false), HaveKeyWithValue("failurePolicy", "Fail"), Not(HaveKey("validationFailureAction")),
	))
	conditions, _, _ := unstructured.NestedSlice(copied.Object, "spec", "webhookConfiguration", "matchConditions")
	g.Expect(conditions[0]).To(HaveKeyWithValue("expression", selector("p0123456789")))
}

func TestACopyChangesOnlyWhatItsTestSpeaksOf(t *testing.T) {
	g := NewWithT(t)
	test := &example.Test{
		Targets:   []*unstructured.Unstructured{parsed(t, "{kind: ConfigMap, metadata: {name: target, namespace: one}}")},
		Resources: []*unstructured.Unstructured{parsed(t, "{kind: Namespace, metadata: {name: trigger}}")},
	}
	made, err := existing(subjectOf(t, manyRules), nil, &example.Example{Rule: "far", Test: test})
	g.Expect(err).NotTo(HaveOccurred())
	far := rulesOf(made.objects[0])[0]
	targets, _, _ := unstructured.NestedSlice(far, "mutate", "targets")
	allowed := []any{"/trigger", "default/trigger", "one/target"}
	old, _, _ := unstructured.NestedSlice(targets[0].(map[string]any), "preconditions")
	g.Expect(old).To(HaveLen(2), "preconditions of old are a list")
	g.Expect(old[0]).To(HaveKeyWithValue("value", allowed))
	all, _, _ := unstructured.NestedSlice(targets[1].(map[string]any), "preconditions", "all")
	g.Expect(all[0]).To(HaveKeyWithValue("value", allowed))
}

const makesMany = `
apiVersion: policies.kyverno.io/v1
kind: GeneratingPolicy
metadata: {name: makes}
spec:
  evaluation: {synchronize: {enabled: true}, generateExisting: {enabled: true}}
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [namespaces]}]}
  generate:
  - {expression: "generator.Apply('a', [])"}
  - {template: {value: "kind: ConfigMap"}}
`

func TestACopyOfAGeneratingPolicyMakesSomethingOfItsCanary(t *testing.T) {
	g := NewWithT(t)
	out, err := generatingCopy(subjectOf(t, makesMany))
	g.Expect(err).NotTo(HaveOccurred())
	spec := out.objects[0].Object["spec"].(map[string]any)
	g.Expect(spec["evaluation"]).To(Equal(map[string]any{
		"admission": map[string]any{"enabled": true},
	}), "what is there already is left alone, and what is taken away stays away")
	entries := spec["generate"].([]any)
	g.Expect(entries).To(HaveLen(3))
	g.Expect(entries[0]).To(HaveKeyWithValue("expression", ContainSubstring(generatedCanary("p0123456789"))))
	g.Expect(entries[1]).To(HaveKeyWithValue("expression", ContainSubstring("? true : (\ngenerator.Apply('a', [])\n)")))
}

func TestWhatTheBackgroundControllerSaysIsUnderstood(t *testing.T) {
	g := NewWithT(t)
	r := &requests{latest: map[string]*unstructured.Unstructured{}}
	trial := &trial{subject: subject{name: "p0123456789"}}
	trigger := parsed(t, "{kind: Service, metadata: {name: a, namespace: home}}")
	see := func(name, policy, on, status string) {
		r.note(parsed(t, "{metadata: {name: "+name+"}, spec: {policy: "+policy+", ruleContext: [{trigger: "+on+"}]}, status: "+status+"}"))
	}
	here := "{kind: Service, name: a, namespace: home}"
	g.Expect(r.outcomeOf(trial, trigger, nil)).To(Equal(outcome{}), "nothing was asked for")

	see("ur-1", "home/p0123456789", here, "{state: Pending}")
	see("ur-2", "another", here, "{state: Completed}")
	see("ur-3", "p0123456789", "{kind: Service, name: b, namespace: home}", "{state: Completed}")
	g.Expect(r.outcomeOf(trial, trigger, nil)).To(Equal(outcome{requested: true}))
	before := r.of(trial)
	g.Expect(before).To(HaveLen(2))

	see("ur-1", "home/p0123456789", here, "{state: Completed, generatedResources: [{apiVersion: v1, kind: ConfigMap, name: made, namespace: home}]}")
	found := r.outcomeOf(trial, trigger, nil)
	g.Expect(found.done).To(BeTrue())
	g.Expect(identityOf(found.generated[0])).To(Equal("ConfigMap home/made"))
	g.Expect(r.outcomeOf(trial, trigger, before).requested).To(BeFalse(), "it was there before")

	see("ur-4", "p0123456789", here, "{state: Pending, message: no rights, retryCount: 1}")
	g.Expect(r.outcomeOf(trial, trigger, before).done).To(BeFalse(), "it will be tried again")
	see("ur-4", "p0123456789", here, "{state: Pending, message: no rights, retryCount: 3}")
	g.Expect(r.outcomeOf(trial, trigger, before)).To(Equal(outcome{requested: true, done: true, failure: "no rights"}))
}

func TestADifferenceIsAFailureOnlyWhereThePolicyApplies(t *testing.T) {
	for _, row := range []struct {
		diff     string
		applied  bool
		expected example.Verdict
		want     example.Verdict
	}{
		{"", true, example.Pass, example.Pass},
		{"", false, example.Skip, example.Skip},
		{"x", true, example.Pass, example.Fail},
		{"x", false, example.Pass, example.Skip},
		{"x", false, example.Skip, example.Fail},
	} {
		v := &Verdict{Example: &example.Example{Expected: row.expected}, Verdict: example.Skip}
		if row.applied {
			v.Verdict = example.Pass
		}
		v.judgeDifference(row.diff, row.applied)
		g := NewWithT(t)
		g.Expect(v.Verdict).To(Equal(row.want), "%+v", row)
		g.Expect(v.Reason).To(ContainSubstring(row.diff))
	}
}
