package live

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

var wholePolicy = Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1}

func examplePolicy(t *testing.T, text string) *example.Policy {
	t.Helper()
	object := map[string]any{}
	NewWithT(t).Expect(yaml.Unmarshal([]byte(text), &object)).To(Succeed())
	return &example.Policy{Object: &unstructured.Unstructured{Object: object}}
}

const twoValidations = `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: two, annotations: {owner: us}}
spec:
  validationActions: [Audit]
  failurePolicy: Ignore
  webhookConfiguration: {timeoutSeconds: 3}
  autogen: {validatingAdmissionPolicy: {enabled: true}, podControllers: {controllers: [deployments]}}
  matchConstraints:
    namespaceSelector: {matchExpressions: [{key: stage, operator: In, values: [prd]}]}
    objectSelector: {matchLabels: {app: x}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}
  matchConditions: [{name: a, expression: "object.a // why\n  == 1"}, {name: b, expression: "object.b == 1"}]
  variables: [{name: v, expression: object.v}]
  validations:
  - {expression: variables.v == 1, message: one}
  - {expression: variables.v == 2, messageExpression: "'two'"}
`

func field(o *unstructured.Unstructured, name string) []any {
	list, _, _ := unstructured.NestedSlice(o.Object, "spec", name)
	return list
}

func TestCopySaysSomethingWheneverItMatches(t *testing.T) {
	g := NewWithT(t)
	in, err := celForm{}.install(subject{policy: examplePolicy(t, twoValidations), aspect: wholePolicy, name: "p0123456789"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.objects).To(HaveLen(1))
	spec, _ := in.objects[0].Object["spec"].(map[string]any)
	g.Expect(spec["validationActions"]).To(Equal([]any{"Warn"}))
	g.Expect(spec["failurePolicy"]).To(Equal("Fail"))
	g.Expect(spec).NotTo(HaveKey("webhookConfiguration"))
	g.Expect(spec["autogen"]).To(Equal(map[string]any{"podControllers": map[string]any{"controllers": []any{"deployments"}}}))
	g.Expect(spec["variables"]).To(HaveLen(1))
	g.Expect(in.objects[0].GetAnnotations()).To(BeEmpty())

	conditions := field(in.objects[0], "matchConditions")
	g.Expect(conditions).To(HaveLen(3))
	g.Expect(conditions[0]).To(HaveKeyWithValue("expression", ContainSubstring("'p0123456789' in request.userInfo.extra['fpc-ask']")))
	g.Expect(conditions[1]).To(HaveKeyWithValue("expression", HaveSuffix("|| (object.a    == 1)")))

	validations := field(in.objects[0], "validations")
	var codes []any
	for _, v := range validations {
		fields, _ := v.(map[string]any)
		codes = append(codes, fields["message"])
		g.Expect(fields).NotTo(HaveKey("messageExpression"))
	}
	g.Expect(codes).To(Equal([]any{"c", "0", "1", "-"}))

	g.Expect(in.canary.GetKind()).To(Equal("ConfigMap"))
	g.Expect(in.canary.GetLabels()).To(Equal(map[string]string{"app": "x"}))
	g.Expect(in.labels).To(Equal(map[string]string{"stage": "prd"}))
}

func TestAspects(t *testing.T) {
	for name, one := range map[string]struct {
		aspect                Aspect
		conditions, rules     int
		codes                 []string
		contains, notContains string
	}{
		"a validation": {Aspect{Validation: 1, Condition: -1, Constraint: -1}, 3, 3, []string{"c", "1", "-"}, "variables.v == 2", "variables.v == 1"},
		"a condition":  {Aspect{Validation: -1, Condition: 1, Constraint: -1}, 2, 3, []string{"c", "0"}, "object.b", "object.a"},
		"a constraint": {Aspect{Validation: -1, Condition: -1, Constraint: 1}, 1, 2, []string{"c", "0"}, "services", "deployments\",\"v1"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			in, err := celForm{}.install(subject{policy: examplePolicy(t, twoValidations), aspect: one.aspect, name: "p0123456789"})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(field(in.objects[0], "matchConditions")).To(HaveLen(one.conditions))
			rules, _, _ := unstructured.NestedSlice(in.objects[0].Object, "spec", "matchConstraints", "resourceRules")
			g.Expect(rules).To(HaveLen(one.rules))
			var codes []string
			for _, v := range field(in.objects[0], "validations") {
				fields, _ := v.(map[string]any)
				code, _ := fields["message"].(string)
				codes = append(codes, code)
			}
			g.Expect(codes).To(Equal(one.codes))
			data, err := in.objects[0].MarshalJSON()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(data)).To(ContainSubstring(one.contains))
			g.Expect(string(data)).NotTo(ContainSubstring(one.notContains))
		})
	}
}

// A policy for Pods alone has its rules derived for Deployments and the like only
// while Pods are all that it names.
func TestPodsAloneStayAlone(t *testing.T) {
	g := NewWithT(t)
	p := examplePolicy(t, `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: pods}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [pods]}]}
  validations: [{expression: "true"}]
`)
	in, err := celForm{}.install(subject{policy: p, aspect: wholePolicy, name: "p0123456789"})
	g.Expect(err).NotTo(HaveOccurred())
	rules, _, _ := unstructured.NestedSlice(in.objects[0].Object, "spec", "matchConstraints", "resourceRules")
	g.Expect(rules).To(HaveLen(1))
	g.Expect(rules[0]).To(HaveKeyWithValue("operations", []any{"UPDATE", "CREATE"}))
	g.Expect(in.canary.GetKind()).To(Equal("Pod"))
	g.Expect(field(in.objects[0], "matchConditions")).To(ContainElement(HaveKeyWithValue("expression", HaveSuffix("|| (request.operation in ['UPDATE'])"))))
	g.Expect(p.Object.Object["spec"]).NotTo(HaveKey("matchConditions"), "the policy itself stays as it is")
}

func TestWarningsAreUnderstood(t *testing.T) {
	for warning, want := range map[string]said{
		"Policy p0123456789 failed: 3":                                                                      {copy: "p0123456789", answer: Refusing, index: 3, words: "3"},
		"Policy p0123456789 failed: 3 (pod template at spec.template)":                                      {copy: "p0123456789", answer: Refusing, index: 3, words: "3 (pod template at spec.template)"},
		"Policy p0123456789 failed: -":                                                                      {copy: "p0123456789", answer: Satisfied, index: -1, words: "-"},
		"Policy p0123456789 failed: c":                                                                      {copy: "p0123456789", answer: Satisfied, index: -1, words: "c", canary: true},
		"Policy p0123456789 error: error: no such key: x":                                                   {copy: "p0123456789", answer: Failing, index: -1, words: "error: no such key: x"},
		"Validation failed for ValidatingAdmissionPolicy 'p0123456789' with binding 'p0123456789-1': 2":     {copy: "p0123456789", answer: Refusing, index: 2, words: "2", derived: "1"},
		"Validation failed for ValidatingAdmissionPolicy 'p0123456789' with binding 'p0123456789-c': c":     {copy: "p0123456789", answer: Satisfied, index: -1, words: "c", rule: "c", canary: true},
		"Validation failed for ValidatingAdmissionPolicy 'p0123456789' with binding 'p0123456789-0': +2":    {copy: "p0123456789", answer: Satisfied, index: -1, words: "+2", derived: "0"},
		"Validation failed for ValidatingAdmissionPolicy 'p0123456789' with binding 'p0123456789-w0': -0,1": {copy: "p0123456789", answer: Satisfied, index: -1, words: "-0,1", rule: "w", derived: "0"},
	} {
		got, ours := understand(warning)
		NewWithT(t).Expect(ours).To(BeTrue(), warning)
		NewWithT(t).Expect(got).To(Equal(want), warning)
	}
	for _, warning := range []string{
		"unknown field \"spec.x\"", "Policy somebody-elses failed: 3", "Policy p0123456789 passed", "",
	} {
		_, ours := understand(warning)
		NewWithT(t).Expect(ours).To(BeFalse(), warning)
	}
}

func TestConditionThatErrsUnderIgnore(t *testing.T) {
	g := NewWithT(t)
	e := &example.Example{Policy: examplePolicy(t, twoValidations)}
	condition := said{answer: Failing, words: "failed to load context: no such key: a"}
	validation := said{answer: Failing, words: "error: no such key: v"}
	g.Expect(celForm{}.settle(e, []said{condition}).Answer).To(Equal(Silent))
	g.Expect(celForm{}.settle(e, []said{validation}).Answer).To(Equal(Failing))
	unstructured.RemoveNestedField(e.Policy.Object.Object, "spec", "failurePolicy")
	g.Expect(celForm{}.settle(e, []said{condition}).Answer).To(Equal(Failing))
}

// Of Kubernetes' own policies all validations are evaluated, and an error may be
// lost on the way.
func TestEachValidationIsAccountedFor(t *testing.T) {
	g := NewWithT(t)
	read := func(codes ...string) Reply {
		var all []said
		for _, code := range codes {
			binding, code, _ := cutCode(code)
			s, ok := admissionForm{}.read("Validation failed for ValidatingAdmissionPolicy 'p0123456789' with binding 'p0123456789-" + binding + "': " + code)
			g.Expect(ok).To(BeTrue())
			all = append(all, s)
		}
		return admissionForm{}.settle(nil, all)
	}
	g.Expect(read().Answer).To(Equal(Silent))
	g.Expect(read("0 +0", "0 +1", "0 -0,1").Answer).To(Equal(Satisfied))
	g.Expect(read("0 0", "0 1", "0 -0,1")).To(Equal(Reply{Answer: Refusing, Indexes: []int{0, 1}}))
	g.Expect(read("0 +0", "0 -0,1").Answer).To(Equal(Failing))
	g.Expect(read("0 +0", "0 -0", "1 0", "1 -0")).To(Equal(Reply{Answer: Refusing, Indexes: []int{0}}))
	g.Expect(read("w0 -0")).To(Equal(Reply{Answer: Refusing, Indexes: []int{-1}}))
	g.Expect(read("w0 -0", "0 +0", "0 -0").Answer).To(Equal(Satisfied))
	g.Expect(read("c c").Answer).To(Equal(Silent))
}

func cutCode(text string) (string, string, bool) {
	for i, r := range text {
		if r == ' ' {
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}

func TestOneLine(t *testing.T) {
	for expression, want := range map[string]string{
		"a ==\n\t1":                      "a ==  1",
		"a // b\n&& c // d":              "a  && c",
		`x == "a // b" && y`:             `x == "a // b" && y`,
		`x == 'it\'s // not' // but`:     `x == 'it\'s // not'`,
		`x == r'\' // raw`:               `x == r'\'`,
		"x == '''a\n// b''' + y // gone": "x == '''a\n// b''' + y",
	} {
		NewWithT(t).Expect(oneLine(expression)).To(Equal(want), expression)
	}
}

func TestSatisfy(t *testing.T) {
	for text, want := range map[string]map[string]string{
		`{}`: nil,
		`{matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d, e]}, {key: c, operator: NotIn, values: [d]}]}`: {"a": "b", "c": "e"},
		`{matchExpressions: [{key: a, operator: Exists}, {key: b, operator: DoesNotExist}]}`:                                        {"a": "any"},
	} {
		var selector any
		NewWithT(t).Expect(yaml.Unmarshal([]byte(text), &selector)).To(Succeed())
		got, ok := satisfy(selector)
		NewWithT(t).Expect(ok).To(BeTrue(), text)
		NewWithT(t).Expect(got).To(Equal(want), text)
	}
	_, ok := satisfy(map[string]any{"matchLabels": map[string]any{"a": "b"}, "matchExpressions": []any{
		map[string]any{"key": "a", "operator": "DoesNotExist"},
	}})
	NewWithT(t).Expect(ok).To(BeFalse())
}

const forPods = `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: pods}
spec:
  validationActions: [Deny]
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  validations: [{expression: "object.spec.hostNetwork != true", message: m}]
`

func TestNothingIsDerivedWhereOnlyPodsAreJudged(t *testing.T) {
	pod := func(p *example.Policy, expected example.Verdict) *example.Example {
		return &example.Example{Policy: p, Expected: expected, Operation: opCreate, Object: canaryObject("Pod", nil)}
	}
	deployment := func(p *example.Policy) *example.Example {
		e := pod(p, example.Fail)
		e.Object.SetAPIVersion("apps/v1")
		e.Object.SetKind("Deployment")
		return e
	}
	g := NewWithT(t)
	only, passing, mixed, audits := examplePolicy(t, forPods), examplePolicy(t, forPods), examplePolicy(t, forPods), examplePolicy(t, forPods)
	g.Expect(unstructured.SetNestedStringSlice(audits.Object.Object, []string{"Audit"}, "spec", "validationActions")).To(Succeed())
	library := &example.Library{Tests: []*example.Test{{Examples: []*example.Example{
		pod(only, example.Fail), pod(only, example.Pass), pod(passing, example.Pass), deployment(mixed), pod(mixed, example.Fail), pod(audits, example.Fail),
	}}}}
	g.Expect(podsOnly(library)).To(Equal(map[*example.Policy]bool{only: true}))

	for _, one := range []bool{false, true} {
		in, err := celForm{}.install(subject{policy: only, aspect: wholePolicy, name: "p0123456789", podsOnly: one})
		g.Expect(err).NotTo(HaveOccurred())
		controllers, found, err := unstructured.NestedSlice(in.objects[0].Object, "spec", "autogen", "podControllers", "controllers")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(found).To(Equal(one))
		g.Expect(controllers).To(BeEmpty())
		g.Expect(in.canary.GetKind()).To(Equal("Pod"))
	}
}

func TestACopyMatchesOnlyWhatItIsAskedAbout(t *testing.T) {
	g := NewWithT(t)
	object := func(name string) *unstructured.Unstructured {
		out := canaryObject("ConfigMap", nil)
		out.SetName(name)
		return out
	}
	listed, unnamed, part, many := examplePolicy(t, twoValidations), examplePolicy(t, twoValidations), examplePolicy(t, twoValidations), examplePolicy(t, twoValidations)
	examples := []*example.Example{
		{Policy: listed, Object: object("b")},
		{Policy: listed, Object: object("a")},
		{Policy: listed, Object: object("b")},
		{Policy: unnamed, Object: object("a")},
		{Policy: unnamed, Object: object("")},
		{Policy: part, Object: object("a")},
		{Policy: part, Object: object("a"), Subresource: "scale"},
	}
	for i := range mostAsked + 1 {
		examples = append(examples, &example.Example{Policy: many, Object: object(fmt.Sprint(i))})
	}
	library := &example.Library{Tests: []*example.Test{{Examples: examples}}}
	g.Expect(namesAsked(library)).To(Equal(map[*example.Policy][]string{listed: {"a", "b"}}))

	// The names of each rule, the one for the canary last where there is one.
	names := func(s subject) [][]string {
		s.aspect, s.name = wholePolicy, "p0123456789"
		in, err := celForm{}.install(s)
		g.Expect(err).NotTo(HaveOccurred())
		rules, _, err := unstructured.NestedSlice(in.objects[0].Object, "spec", "matchConstraints", "resourceRules")
		g.Expect(err).NotTo(HaveOccurred())
		var out [][]string
		for _, rule := range rules {
			fields, _ := rule.(map[string]any)
			list, _, err := unstructured.NestedStringSlice(fields, "resourceNames")
			g.Expect(err).NotTo(HaveOccurred())
			out = append(out, list)
		}
		return out
	}
	asked := []string{"a", "b"}
	g.Expect(names(subject{policy: listed, asked: asked})).To(Equal([][]string{{canaryName, "a", "b"}, {canaryName, "a", "b"}, {canaryName}}))
	g.Expect(names(subject{policy: listed})).To(Equal([][]string{nil, nil, {canaryName}}))
	// Rules are derived only of a policy that lists no names.
	g.Expect(names(subject{policy: examplePolicy(t, forPods), asked: asked})).To(Equal([][]string{nil}))
	g.Expect(names(subject{policy: examplePolicy(t, forPods), asked: asked, podsOnly: true})).To(Equal([][]string{{canaryName, "a", "b"}}))
	// Names that the policy itself lists stay.
	own := examplePolicy(t, twoValidations)
	rules, _, err := unstructured.NestedSlice(own.Object.Object, "spec", "matchConstraints", "resourceRules")
	g.Expect(err).NotTo(HaveOccurred())
	rules[0].(map[string]any)["resourceNames"] = []any{"theirs"}
	g.Expect(unstructured.SetNestedSlice(own.Object.Object, rules, "spec", "matchConstraints", "resourceRules")).To(Succeed())
	g.Expect(names(subject{policy: own, asked: asked})[0]).To(Equal([]string{"theirs"}))
}

func TestOneWithoutConditionsKeepsToTheSharedWebhook(t *testing.T) {
	for text, shared := range map[string]bool{forPods: true, twoValidations: false} {
		g := NewWithT(t)
		objects, why, err := celForm{}.written(subject{policy: examplePolicy(t, text), aspect: wholePolicy, name: "p0123456789"})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(why).To(BeEmpty())
		first, _ := field(objects[0], "matchConditions")[0].(map[string]any)
		g.Expect(first["expression"]).To(HavePrefix(selector("wp0123456789")))
		if shared {
			g.Expect(first["expression"]).To(HaveSuffix(inSharedWebhook))
		} else {
			g.Expect(first["expression"]).NotTo(ContainSubstring("image("))
		}
	}
}
