package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// validating is a policy called names with these validations, each a message and
// an expression that makes one.
func validating(validations ...[2]string) *unstructured.Unstructured {
	var list []any
	for _, v := range validations {
		fields := map[string]any{"expression": "true"}
		if v[0] != "" {
			fields["message"] = v[0]
		}
		if v[1] != "" {
			fields["messageExpression"] = v[1]
		}
		list = append(list, fields)
	}
	out := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "policies.kyverno.io/v1", "kind": "ValidatingPolicy", "spec": map[string]any{"validations": list},
	}}
	out.SetName("names")
	return out
}

func TestRefuses(t *testing.T) {
	for _, row := range []struct {
		name                string
		message, expression string
		words               string
		want                bool
	}{
		{"its message", "the name is wrong", "", "the name is wrong", true},
		{"for a pod template", "the name is wrong", "", "the name is wrong (pod template at spec.template)", true},
		{"a longer one", "the name is wrong", "", "the name is wrong here", false},
		{"a shorter one", "the name is wrong", "", "the name", false},
		{"no message: Kyverno's own words", "", "", "CEL expression validation failed at index 0", true},
		{"no message: those of another", "", "", "CEL expression validation failed at index 1", false},
		{"a made one", "", `'the name ' + object.metadata.name + " is wrong"`, "the name dev-app is wrong", true},
		{"a made one comes before a fixed one", "fixed", "'the name ' + request.name", "fixed", false},
		{"a made one with other words", "", "'the name ' + request.name", "the label x", false},
		{"texts in brackets are no part of it", "", "'the label ' + object.metadata.labels['a'] + ' is wrong'", "the label x is wrong", true},
		{"a sum in brackets", "", "'at most ' + string(1 + size('abc'))", "at most 4", true},
		{"an optional field is no choice", "", "'the name ' + object.?metadata.name.orValue('')", "the name x", true},
		{"a choice may say anything", "", "size(x) > 1 ? 'many' : 'one' + 'more'", "anything", true},
		{"a method of a text", "", "'of '.upperAscii() + 'mine'", "OF mine", true},
		{"special characters", "", "'(a+b) ' + x", "(a+b) c", true},
		{"and not as a pattern", "", "'(a+b) ' + x", "aab c", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := Expressions(validating([2]string{row.message, row.expression}))[0]
			NewWithT(t).Expect(e.Refuses(row.words)).To(Equal(row.want))
		})
	}
}

func TestUnexercised(t *testing.T) {
	bad := Verdict{Case: Case{Test: "bad", Policy: "names", Operation: Create, User: "someone", Denied: true, Object: object("wrong", nil)}}
	good := Verdict{Case: Case{Test: "good", Policy: "names", Operation: Create, User: "someone", Object: object("right", nil)}}
	unmatched := good
	unmatched.Unmatched = true
	far := good
	far.Test, far.Object, far.User = "far", object("right", map[string]string{"a": "b"}), "another"
	refused := func(words string) Verdict {
		v := bad
		v.Answer = errors.New("denied the request: Policy names failed: " + words)
		return v
	}
	foreign := refused("one")
	foreign.Policy = "labels"
	unwanted := good
	unwanted.Answer = errors.New("denied the request: Policy names failed: one")
	for _, row := range []struct {
		name        string
		validations [][2]string
		verdicts    []Verdict
		want        []string
	}{
		{"proved", [][2]string{{"one"}, {"two"}}, []Verdict{refused("one"), refused("two"), good}, nil},
		{"no example", [][2]string{{"one"}, {"two"}}, []Verdict{refused("one"), good}, []string{"validations[1] (two): no example is refused in these words"}},
		{"an example that is admitted", [][2]string{{"one"}}, []Verdict{bad, good}, []string{"validations[0] (one): no example is refused in these words"}},
		{"another policy's example", [][2]string{{"one"}}, []Verdict{foreign, good}, []string{"validations[0] (one): no example is refused in these words"}},
		{"a good example that is refused", [][2]string{{"one"}}, []Verdict{unwanted, good}, []string{"validations[0] (one): no example is refused in these words"}},
		{"no twin", [][2]string{{"one"}}, []Verdict{refused("one")}, []string{
			"validations[0] (one): it refuses bad (CREATE of ConfigMap wrong by names), and no other example is admitted",
		}},
		{"a twin that differs in more", [][2]string{{"one"}}, []Verdict{refused("one"), far}, []string{
			"validations[0] (one): it refuses bad (CREATE of ConfigMap wrong by names), and no admitted example differs from it in one field; " +
				"the nearest, far (CREATE of ConfigMap right by names), differs in 2: metadata.labels, who asks",
		}},
		{"a twin that the policy does not match", [][2]string{{"one"}}, []Verdict{refused("one"), unmatched}, []string{
			"validations[0] (one): it refuses bad (CREATE of ConfigMap wrong by names), and no other example is admitted",
		}},
		{"the same words twice", [][2]string{{"one"}, {"one"}}, []Verdict{refused("one"), good}, []string{
			"validations[1] (one): validations[0] may refuse in the same words, so no refusal tells that it was this one",
		}},
		{"made words that may be another's", [][2]string{{"one"}, {"", "'on' + x"}}, []Verdict{refused("one"), good}, []string{
			"validations[1] ('on' + x): validations[0] may refuse in the same words, so no refusal tells that it was this one",
		}},
		{"no word of its own", [][2]string{{"", "x"}}, []Verdict{refused("one"), good}, []string{
			"validations[0] (x): no word of its refusal is fixed, so no refusal tells that it was this one",
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(Unexercised(validating(row.validations...), row.verdicts)).To(Equal(row.want))
		})
	}
}

// What is shipped must be able to prove itself: this is the part of it that needs
// no cluster.
func TestShippedExamplesHaveTwins(t *testing.T) {
	g := NewWithT(t)
	cases, err := LoadCases("../../../policies")
	g.Expect(err).NotTo(HaveOccurred())
	// The examples of one test are refused for one reason. An object of another
	// kind may need more than its kind to be one.
	lonely := map[string]bool{}
	for _, bad := range cases {
		if !bad.Denied || bad.Operation != Create {
			continue
		}
		test, _, _ := strings.Cut(bad.Test, " results[")
		twin := slices.ContainsFunc(cases, func(good Case) bool {
			if good.Denied || bad.Policy != good.Policy {
				return false
			}
			// What a policy is not asked about tells something where it is by whom or
			// where it is asked that makes the difference.
			fields := bad.Differences(good)
			asked := !good.Unmatched || slices.Contains(fields, "who asks") || slices.Contains(fields, "metadata.namespace")
			return len(fields) == 1 && asked
		})
		_, seen := lonely[test]
		lonely[test] = !twin && (!seen || lonely[test])
	}
	g.Expect(lonely).NotTo(BeEmpty())
	for test, alone := range lonely {
		g.Expect(alone).To(BeFalse(), "no refused example of %s differs from a good one in one field", test)
	}
}
