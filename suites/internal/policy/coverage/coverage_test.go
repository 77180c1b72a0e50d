package coverage

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
)

func policyOf(kind string, spec map[string]any) *example.Policy {
	return &example.Policy{Object: &unstructured.Unstructured{Object: map[string]any{
		"kind": kind, "metadata": map[string]any{"name": "p"}, "spec": spec,
	}}}
}

// verdict is one on an object of that name.
func verdict(name string, said example.Verdict, change ...func(*live.Verdict)) live.Verdict {
	object := &unstructured.Unstructured{Object: map[string]any{"kind": "Pod", "metadata": map[string]any{"name": name}}}
	v := live.Verdict{
		Verdict: said,
		Example: &example.Example{Test: &example.Test{Name: "t", Place: example.Place{File: "f"}}, Object: object, Operation: "CREATE"},
	}
	for _, c := range change {
		c(&v)
	}
	return v
}

func missing(items []Item) []string {
	var out []string
	for _, i := range items {
		if !i.Covered() {
			out = append(out, i.String())
		}
	}
	return out
}

var two = map[string]any{
	"validations": []any{
		map[string]any{"message": "first"}, map[string]any{"message": "second"},
	},
	"matchConditions": []any{map[string]any{"name": "tenant"}},
	"matchConstraints": map[string]any{"resourceRules": []any{
		map[string]any{"resources": []any{"pods"}, "operations": []any{"CREATE"}},
	}},
}

func TestPartsAreJudgedAlone(t *testing.T) {
	g := NewWithT(t)
	p := policyOf("ValidatingPolicy", two)
	aspects := Aspects(p)
	g.Expect(aspects).To(Equal([]live.Aspect{
		{Validation: 0, Condition: -1, Constraint: -1},
		{Validation: 1, Condition: -1, Constraint: -1},
		{Validation: -1, Condition: 0, Constraint: -1},
	}))
	yes, no, silent := live.Reply{Answer: live.Refusing}, live.Reply{Answer: live.Satisfied}, live.Reply{Answer: live.Silent}
	in := Input{
		Policy: p, Aspects: aspects,
		Verdicts: []live.Verdict{verdict("bad", example.Fail), verdict("good", example.Pass), verdict("other", example.Skip)},
		Replies:  [][]live.Reply{{yes, no, silent}, {yes, no, silent}, {yes, yes, silent}},
	}
	g.Expect(missing(Of(in))).To(BeEmpty())

	in.Replies[1] = []live.Reply{no, no, silent}
	in.Replies[2] = []live.Reply{yes, yes, yes}
	g.Expect(missing(Of(in))).To(Equal([]string{
		"validation spec.validations[1] (second): no example is refused by it",
		"condition spec.matchConditions[0] (tenant): it holds for every example",
	}))
}

func TestAPolicyWithoutExamplesIsNotCovered(t *testing.T) {
	g := NewWithT(t)
	items := Of(Input{Policy: policyOf("ValidatingPolicy", two)})
	g.Expect(items).To(HaveLen(5))
	g.Expect(missing(items)).To(HaveLen(5))
}

func TestEachOperationNeedsBothExamples(t *testing.T) {
	g := NewWithT(t)
	p := policyOf("ValidatingPolicy", map[string]any{
		"validations": []any{map[string]any{"expression": "false"}},
		"matchConstraints": map[string]any{"resourceRules": []any{
			map[string]any{"resources": []any{"pods"}, "operations": []any{"*"}},
		}},
	})
	update := func(v *live.Verdict) { v.Example.Operation = "UPDATE" }
	g.Expect(missing(Of(Input{Policy: p, Verdicts: []live.Verdict{
		verdict("bad", example.Fail), verdict("good", example.Pass), verdict("bad", example.Fail, update),
	}}))).To(Equal([]string{
		"operation UPDATE: no example of this operation is admitted",
		"operation DELETE: no example of this operation is refused, and no example of this operation is admitted",
		"operation CONNECT: no test file can ask for it, and a request that is admitted is carried out",
	}))
}

func TestEachLegacyRuleNeedsBothExamples(t *testing.T) {
	g := NewWithT(t)
	p := policyOf("ClusterPolicy", map[string]any{"rules": []any{
		map[string]any{"name": "one", "validate": map[string]any{}},
		map[string]any{"name": "two", "validate": map[string]any{}},
		map[string]any{"name": "three", "mutate": map[string]any{}},
	}})
	of := func(rule string, refused ...int) func(*live.Verdict) {
		return func(v *live.Verdict) { v.Example.Rule, v.Refused = rule, refused }
	}
	g.Expect(missing(Of(Input{Policy: p, Verdicts: []live.Verdict{
		verdict("bad", example.Fail, of("autogen-one", 0)), verdict("good", example.Pass, of("one")),
		verdict("good", example.Pass, of("two")), verdict("good", example.Pass, of("three")),
	}}))).To(Equal([]string{"rule two: no example is refused by it", "rule three: it applies to every example"}))
}

func TestAnExceptionExceptsSomethingAndNotEverything(t *testing.T) {
	g := NewWithT(t)
	p := policyOf("ValidatingPolicy", map[string]any{"validations": []any{map[string]any{"expression": "false"}}})
	excepted := &example.Test{Name: "excepted", Exceptions: []*unstructured.Unstructured{{Object: map[string]any{
		"metadata": map[string]any{"name": "e"},
		"spec":     map[string]any{"policyRefs": []any{map[string]any{"name": "p"}}},
	}}}}
	within := func(v *live.Verdict) { v.Example.Test = excepted }
	verdicts := []live.Verdict{
		verdict("bad", example.Fail), verdict("good", example.Pass),
		verdict("bad", example.Skip, within), verdict("worse", example.Fail, within),
	}
	g.Expect(missing(Of(Input{Policy: p, Verdicts: verdicts}))).To(BeEmpty())

	verdicts[0].Verdict = example.Pass
	verdicts[3].Verdict = example.Skip
	g.Expect(missing(Of(Input{Policy: p, Verdicts: verdicts}))).To(ContainElement(
		"exception e: it excepts no example that a test without it shows to be refused, and no example is refused in spite of it"))
}

func TestAMutationAppliesAndDoesNot(t *testing.T) {
	g := NewWithT(t)
	p := policyOf("MutatingPolicy", map[string]any{"mutations": []any{map[string]any{}}})
	g.Expect(Aspects(p)).To(BeEmpty())
	g.Expect(missing(Of(Input{Policy: p, Verdicts: []live.Verdict{verdict("x", example.Pass)}}))).To(Equal(
		[]string{"mutation p: it applies to every example"}))
}

func TestWhatNoExampleCanExerciseHasItsReason(t *testing.T) {
	g := NewWithT(t)
	p := policyOf("ValidatingPolicy", map[string]any{
		"validations": []any{map[string]any{"message": "only"}},
		"matchConstraints": map[string]any{"resourceRules": []any{
			map[string]any{"resources": []any{"pods"}, "operations": []any{"CREATE", "UPDATE", "DELETE"}},
			map[string]any{"resources": []any{"pods/exec"}, "operations": []any{"CONNECT"}},
		}},
	})
	test := &example.Test{Unexercised: []example.Unexercised{{Part: "operation UPDATE", Cause: "it stays as it is"}, {Part: "operation CREATE", Cause: "none"}}}
	row := []live.Reply{{Answer: live.Refusing}, {Answer: live.Refusing}}
	in := Input{Policy: p, Aspects: Aspects(p), Replies: [][]live.Reply{row, row}, Verdicts: []live.Verdict{verdict("a", example.Pass), verdict("b", example.Fail)}}
	for i := range in.Verdicts {
		in.Verdicts[i].Example.Test = test
	}
	items := map[string]Item{}
	for _, i := range Of(in) {
		items[i.Part+" "+i.Name] = i
	}
	g.Expect(items["operation UPDATE"]).To(And(HaveField("Missing", ""), HaveField("NotSupported", "it stays as it is")))
	g.Expect(items["operation DELETE"]).To(And(HaveField("Missing", Not(BeEmpty())), HaveField("NotSupported", "")))
	g.Expect(items["operation CREATE"].Covered()).To(BeTrue(), "what examples exercise needs no reason")
	g.Expect(items["operation CONNECT"].NotSupported).To(Equal(noConnect))
	g.Expect(items["constraint spec.matchConstraints.resourceRules[1] [pods/exec]"]).To(And(HaveField("Missing", ""), HaveField("NotSupported", noConnect)))
}
