package policy

import (
	"testing"

	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func decode(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &out.Object); err != nil {
		t.Fatal(err)
	}
	return out
}

func cel(kind, spec string) string {
	return "apiVersion: policies.kyverno.io/v1\nkind: " + kind + "\nmetadata: {name: names}\nspec: " + spec
}

func legacy(spec string) string {
	return "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: names}\nspec: " + spec
}

// TestLenient reads policies as a cluster may not even have them: what they
// declare is enough to see that they refuse nothing.
func TestLenient(t *testing.T) {
	for _, row := range []struct {
		name, manifest string
		want           []string
	}{
		{"refuses", cel("ValidatingPolicy", "{validationActions: [Deny], failurePolicy: Fail}"), nil},
		{"refuses by default", cel("ValidatingPolicy", "{}"), nil},
		{"refuses and writes down", cel("ValidatingPolicy", "{validationActions: [Deny, Audit]}"), nil},
		{"only writes down", cel("ValidatingPolicy", "{validationActions: [Audit]}"), []string{"validationActions is [Audit], not [Deny]"}},
		{
			"of one namespace, only warns, fails open", cel("NamespacedValidatingPolicy", "{validationActions: [Warn], failurePolicy: Ignore}"),
			[]string{"validationActions is [Warn], not [Deny]", `failurePolicy is "Ignore", not Fail`},
		},
		{"of images", cel("ImageValidatingPolicy", "{validationActions: [Audit]}"), []string{"validationActions is [Audit], not [Deny]"}},
		{"looks at what is there only", cel("ValidatingPolicy", "{evaluation: {admission: {enabled: false}}}"), []string{"evaluation.admission.enabled is false: no request is judged"}},
		{"judges no request to an API server", cel("ValidatingPolicy", "{evaluation: {mode: Envoy}, validationActions: [Audit]}"), nil},
		{"changes objects", cel("MutatingPolicy", "{failurePolicy: Fail}"), nil},
		{"changes objects by default", cel("MutatingPolicy", "{}"), nil},
		{"changes objects, fails open", cel("MutatingPolicy", "{failurePolicy: Ignore}"), []string{`failurePolicy is "Ignore", not Fail`}},
		{"changes objects of one namespace, fails open", cel("NamespacedMutatingPolicy", "{failurePolicy: Ignore}"), []string{`failurePolicy is "Ignore", not Fail`}},
		{"changes what is there only", cel("MutatingPolicy", "{evaluation: {admission: {enabled: false}}}"), []string{"evaluation.admission.enabled is false: no request is judged"}},
		{"makes objects, which nothing can make fail closed", cel("GeneratingPolicy", "{failurePolicy: Ignore}"), nil},
		{"another group's kind", "apiVersion: example.com/v1\nkind: ValidatingPolicy\nspec: {validationActions: [Audit]}", nil},
		{"legacy, refuses", legacy("{validationFailureAction: enforce, rules: [{name: r, validate: {}}]}"), nil},
		{"legacy, refuses by its rule", legacy("{rules: [{name: r, validate: {failureAction: Enforce}}]}"), nil},
		{"legacy, in Audit", legacy("{validationFailureAction: Audit, rules: [{name: r, validate: {}}]}"), []string{"the rule r is in Audit, not in Enforce"}},
		{"legacy, without a word", legacy("{rules: [{name: r, validate: {}}]}"), []string{"the rule r is in Audit, the default, not in Enforce"}},
		{
			"legacy, one rule of two", legacy("{validationFailureAction: Enforce, rules: [{name: r, validate: {failureAction: Audit}}, {name: s, validate: {}}]}"),
			[]string{"the rule r is in Audit, not in Enforce"},
		},
		{
			"legacy, of images, fails open", legacy("{validationFailureAction: Audit, failurePolicy: Ignore, rules: [{name: r, verifyImages: [{}, {failureAction: Enforce}]}]}"),
			[]string{"the rule r is in Audit, not in Enforce", `failurePolicy is "Ignore", not Fail`},
		},
		{
			"legacy, in Audit somewhere", legacy("{validationFailureAction: Enforce, validationFailureActionOverrides: [{action: Audit, namespaces: [a, b]}, {action: Enforce, namespaces: [c]}], rules: [{name: r, validate: {}}]}"),
			[]string{"the rule r is in Audit in the namespaces [a b]"},
		},
		{
			"legacy, by its webhook", legacy("{validationFailureAction: Enforce, admission: false, webhookConfiguration: {failurePolicy: Ignore}, rules: [{name: r, validate: {}}]}"),
			[]string{`webhookConfiguration.failurePolicy is "Ignore", not Fail`, "admission is false: no request is judged"},
		},
		{"legacy, that changes objects", legacy("{rules: [{name: r, mutate: {}}, {name: s, generate: {}}]}"), nil},
		{"legacy, that changes objects, fails open", legacy("{failurePolicy: Ignore, rules: [{name: r, mutate: {}}]}"), []string{`failurePolicy is "Ignore", not Fail`}},
		{"legacy, that makes objects", legacy("{failurePolicy: Ignore, rules: [{name: s, generate: {}}]}"), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(Open(decode(t, row.manifest), nil, nil)).To(Equal(row.want))
		})
	}
}

func hook(name, path string, failure admissionv1.FailurePolicyType, operations ...admissionv1.OperationType) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name: name, FailurePolicy: &failure,
		ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Path: &path}},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: operations, Rule: admissionv1.Rule{APIGroups: []string{""}, Resources: []string{"configmaps"}},
		}},
	}
}

func TestOpenReadsTheWebhooks(t *testing.T) {
	const base = "vpol.validate.kyverno.svc-"
	const rules = "{matchConstraints: {resourceRules: [{apiGroups: [''], resources: [configmaps], operations: [CREATE, DELETE]}]}}"
	for _, row := range []struct {
		name, manifest string
		hooks          []admissionv1.ValidatingWebhook
		want           []string
	}{
		{"one of its own", cel("ValidatingPolicy", rules), []admissionv1.ValidatingWebhook{hook(base+"fail-finegrained-names", "/vpol/names", "Fail", "*")}, nil},
		{"none", cel("ValidatingPolicy", rules), nil, []string{"no webhook asks it"}},
		{"one of a policy that is named so in part", cel("ValidatingPolicy", rules), []admissionv1.ValidatingWebhook{hook(base+"fail-finegrained-other-names", "/vpol/other-names", "Fail", "*")}, []string{"no webhook asks it"}},
		{"one of another kind", cel("ValidatingPolicy", rules), []admissionv1.ValidatingWebhook{hook("mpol.validate.kyverno.svc-fail", "/mpol/names", "Fail", "*")}, []string{"no webhook asks it"}},
		{
			"that asks on less", cel("ValidatingPolicy", rules),
			[]admissionv1.ValidatingWebhook{hook(base+"fail-finegrained-names", "/vpol/names", "Fail", "CREATE", "UPDATE")},
			[]string{"resourceRules[0]: no webhook asks on DELETE of configmaps."},
		},
		{
			"that fails open", cel("ValidatingPolicy", rules),
			[]admissionv1.ValidatingWebhook{hook(base+"ignore-finegrained-names", "/vpol/names", "Ignore", "*")},
			[]string{"the webhook vpol.validate.kyverno.svc-ignore-finegrained-names does not fail closed"},
		},
		{
			"a shared one, beside one of others that fails open", cel("ValidatingPolicy", rules),
			[]admissionv1.ValidatingWebhook{hook(base+"fail", "/vpol/labels/names", "Fail", "*"), hook(base+"ignore", "/vpol/more", "Ignore", "*")},
			nil,
		},
		{"a shared one of a group", cel("ValidatingPolicy", rules), []admissionv1.ValidatingWebhook{hook(base+"fail-0123abcd", "/vpol/names", "Fail", "*")}, nil},
		{
			"shared ones that do not say whose they are", cel("ValidatingPolicy", rules),
			[]admissionv1.ValidatingWebhook{hook(base+"fail", "/vpol", "Fail", "*"), hook(base+"ignore", "/vpol", "Ignore", "*")},
			[]string{"the webhook vpol.validate.kyverno.svc-ignore does not fail closed"},
		},
		{
			"of one namespace", "apiVersion: policies.kyverno.io/v1\nkind: NamespacedValidatingPolicy\nmetadata: {name: names, namespace: apps}\nspec: " + rules,
			[]admissionv1.ValidatingWebhook{hook("nvpol.validate.kyverno.svc-fail-finegrained-apps-names", "/nvpol/names", "Fail", "*")},
			nil,
		},
		{"evaluated by the API server itself", cel("ValidatingPolicy", rules) + "\nstatus: {generated: true}", nil, nil},
		{
			"legacy", legacy("{validationFailureAction: Enforce, rules: [{name: r, validate: {}}]}"),
			[]admissionv1.ValidatingWebhook{hook("validate.kyverno.svc-fail", "/validate/fail", "Fail", "*")},
			nil,
		},
		{"one that changes", cel("MutatingPolicy", rules), []admissionv1.ValidatingWebhook{hook("mpol.validate.kyverno.svc-fail-finegrained-names", "/mpol/names", "Fail", "*")}, nil},
		{"none that changes", cel("MutatingPolicy", rules), []admissionv1.ValidatingWebhook{hook(base+"fail-finegrained-names", "/vpol/names", "Fail", "*")}, []string{"no webhook asks it"}},
		{
			"one that changes, and fails open", cel("MutatingPolicy", rules),
			[]admissionv1.ValidatingWebhook{hook("mpol.validate.kyverno.svc-ignore-finegrained-names", "/mpol/names", "Ignore", "*")},
			[]string{"the webhook mpol.validate.kyverno.svc-ignore-finegrained-names does not fail closed"},
		},
		{
			"one that changes on less", cel("MutatingPolicy", rules),
			[]admissionv1.ValidatingWebhook{hook("mpol.validate.kyverno.svc-fail-finegrained-names", "/mpol/names", "Fail", "CREATE")},
			[]string{"resourceRules[0]: no webhook asks on DELETE of configmaps."},
		},
		{
			"legacy, that changes and refuses", legacy("{validationFailureAction: Enforce, rules: [{name: r, validate: {}}, {name: s, mutate: {}}]}"),
			[]admissionv1.ValidatingWebhook{hook("validate.kyverno.svc-fail", "/validate/fail", "Fail", "*"), hook("mutate.kyverno.svc-ignore", "/mutate/ignore", "Ignore", "*")},
			[]string{"the webhook mutate.kyverno.svc-ignore does not fail closed"},
		},
		{"legacy, without one", legacy("{validationFailureAction: Enforce, rules: [{name: r, validate: {}}]}"), nil, []string{"no webhook asks it"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			policy := decode(t, row.manifest)
			found := Open(policy, policy, row.hooks)
			NewWithT(t).Expect(found).To(Equal(row.want))
		})
	}
	// Somebody who narrows the policy in the cluster narrows its webhook with it.
	narrowed := decode(t, cel("ValidatingPolicy", "{validationActions: [Audit]}"))
	found := Open(decode(t, cel("ValidatingPolicy", rules)), narrowed, []admissionv1.ValidatingWebhook{
		hook(base+"fail-finegrained-names", "/vpol/names", "Fail", "CREATE"),
	})
	NewWithT(t).Expect(found).To(Equal([]string{
		"validationActions is [Audit], not [Deny]", "resourceRules[0]: no webhook asks on DELETE of configmaps.",
	}))
}

func TestWebhooksOfBothForms(t *testing.T) {
	one := hook("mutate.kyverno.svc-fail", "/mutate", "Fail", "*")
	found := Webhooks(
		[]admissionv1.ValidatingWebhookConfiguration{{Webhooks: []admissionv1.ValidatingWebhook{hook("a", "/a", "Ignore")}}},
		[]admissionv1.MutatingWebhookConfiguration{{Webhooks: []admissionv1.MutatingWebhook{{
			Name: one.Name, ClientConfig: one.ClientConfig, Rules: one.Rules, FailurePolicy: one.FailurePolicy,
		}}}},
	)
	NewWithT(t).Expect(found).To(Equal([]admissionv1.ValidatingWebhook{hook("a", "/a", "Ignore"), one}))
}

func TestCovers(t *testing.T) {
	hook := func(group, resource string, operations ...admissionv1.OperationType) admissionv1.ValidatingWebhook {
		return admissionv1.ValidatingWebhook{Rules: []admissionv1.RuleWithOperations{{
			Operations: operations, Rule: admissionv1.Rule{APIGroups: []string{group}, Resources: []string{resource}},
		}}}
	}
	g := NewWithT(t)
	g.Expect(covers(hook("apps", "deployments", "CREATE"), "apps", "deployments", "CREATE")).To(BeTrue())
	g.Expect(covers(hook("*", "*/*", "*"), "apps", "deployments", "DELETE")).To(BeTrue())
	g.Expect(covers(hook("apps", "deployments", "CREATE"), "apps", "deployments", "DELETE")).To(BeFalse())
	g.Expect(covers(hook("apps", "deployments", "CREATE"), "", "deployments", "CREATE")).To(BeFalse())
	g.Expect(covers(hook("apps", "deployments", "CREATE"), "apps", "statefulsets", "CREATE")).To(BeFalse())
}
