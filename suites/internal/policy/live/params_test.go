package live

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// An answer that finds no parameters is no verdict yet where a test has just brought
// some; any other is.
func TestParametersThatAreNotSeenYet(t *testing.T) {
	policy := func(kind string, spec map[string]any) *example.Policy {
		return &example.Policy{Object: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "spec": spec,
		}}}
	}
	takes := map[string]any{"paramKind": map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	params := []*unstructured.Unstructured{{}}
	for _, test := range []struct {
		name   string
		policy *example.Policy
		params []*unstructured.Unstructured
		want   bool
	}{
		{"it takes some", policy("ValidatingAdmissionPolicy", takes), params, true},
		{"the test brings none", policy("ValidatingAdmissionPolicy", takes), nil, false},
		{"it takes none", policy("ValidatingAdmissionPolicy", map[string]any{}), params, false},
	} {
		q := &query{example: &example.Example{Policy: test.policy, Test: &example.Test{Params: test.params}}}
		NewWithT(t).Expect(parametrised(q)).To(Equal(test.want), test.name)
	}

	q := &query{copy: "p", example: &example.Example{Policy: policy("ValidatingAdmissionPolicy", takes), Test: &example.Test{}}}
	bound := said{answer: Satisfied, derived: "0", words: codeSatisfied}
	for _, test := range []struct {
		name string
		got  heard
		want bool
	}{
		{"nothing is said", heard{}, true},
		{"the binding that takes none is all that speaks", heard{said: map[string][]said{"p": {{answer: Satisfied, derived: "0", rule: bindingWithout}}}}, true},
		{"the binding speaks", heard{said: map[string][]said{"p": {bound}}}, false},
		{"there is no answer", heard{unanswered: map[string]string{"p": "time-out"}}, false},
	} {
		NewWithT(t).Expect(foundNone(q, test.got)).To(Equal(test.want), test.name)
	}
}
