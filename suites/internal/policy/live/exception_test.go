package live

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestLegacyExceptions(t *testing.T) {
	g := NewWithT(t)
	policy := parsed(t, `
apiVersion: kyverno.io/v1
kind: Policy
metadata: {name: baseline, namespace: team}
spec:
  rules:
  - {name: host-network, match: {any: [{resources: {kinds: [Pod]}}]}, validate: {pattern: {spec: {"=(hostNetwork)": false}}}}
  - {name: baseline, match: {any: [{resources: {kinds: [Pod]}}]}, validate: {podSecurity: {level: baseline}}}
`)
	exception := func(spec string) *unstructured.Unstructured {
		return parsed(t, "apiVersion: kyverno.io/v2\nkind: PolicyException\nmetadata: {name: e, namespace: away}\nspec: "+spec)
	}
	s := whole(policy,
		exception(`{match: {any: [{resources: {names: [a]}}]}, exceptions: [{policyName: team/baseline, ruleNames: [host-*, autogen-host-*]}, {policyName: other, ruleNames: ["*"]}]}`),
		exception(`{exceptions: [{policyName: baseline, ruleNames: ["*"]}]}`),
		exception(`{exceptions: [{policyName: team/baseline, ruleNames: [baseline]}], podSecurity: [{controlName: Host Namespaces}]}`),
		parsed(t, "apiVersion: policies.kyverno.io/v1\nkind: PolicyException\nspec: {policyRefs: [{name: baseline, kind: Policy}]}"),
	)
	got, err := legacyForm{}.install(s)
	g.Expect(err).NotTo(HaveOccurred())
	manifests(t, "legacy-excepted.golden", got.objects)
}

func TestCELExceptions(t *testing.T) {
	g := NewWithT(t)
	policy := parsed(t, "apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\nmetadata: {name: owner}\nspec: {}")
	exception := func(ref, more string) *unstructured.Unstructured {
		return parsed(t, "apiVersion: policies.kyverno.io/v1\nkind: PolicyException\nmetadata: {name: e}\nspec: {policyRefs: [{name: other, kind: ValidatingPolicy}, "+ref+"]"+more+"}")
	}
	got, err := celExceptions(whole(policy,
		exception("{name: owner, kind: NamespacedValidatingPolicy}", ""),
		exception("{name: owner, kind: ValidatingPolicy}", `, reportResult: skip, matchConditions: [{name: a, expression: "object.metadata.name == 'a'"}]`),
	))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(HaveLen(1))
	g.Expect(got[0].Object).To(Equal(map[string]any{
		"apiVersion": "policies.kyverno.io/v1", "kind": "PolicyException",
		"metadata": map[string]any{"name": copyName + "-e0", "namespace": "default", "labels": map[string]any{benchLabel: "true"}},
		"spec": map[string]any{
			"policyRefs":   []any{map[string]any{"name": copyName, "kind": "ValidatingPolicy"}},
			"reportResult": "skip",
			"matchConditions": []any{
				map[string]any{"name": "fpc-canary", "expression": "!(" + isCanary + ")"},
				map[string]any{"name": "a", "expression": "object.metadata.name == 'a'"},
			},
		},
	}))
}

func TestWildcard(t *testing.T) {
	g := NewWithT(t)
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"a*c", "abbc", true},
		{"a*c", "abbd", false},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"**b", "ab", true},
		{"autogen-*", "autogen-a", true},
		{"a", "ab", false},
	} {
		g.Expect(wildcard(c.pattern, c.text)).To(Equal(c.want), "%s %s", c.pattern, c.text)
	}
}
