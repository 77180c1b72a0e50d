package policy

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The groups of Kyverno's policies: those in CEL, and the older ones.
const (
	celGroup    = "policies.kyverno.io"
	legacyGroup = "kyverno.io"
)

// refusingHooks are how Kyverno's webhooks begin that ask for policies of a kind that
// are there to refuse. The last kind has none whose name tells the policy.
var refusingHooks = map[string]string{
	"ValidatingPolicy":                "vpol.validate.kyverno.svc",
	"NamespacedValidatingPolicy":      "nvpol.validate.kyverno.svc",
	"ImageValidatingPolicy":           "ivpol.validate.kyverno.svc",
	"NamespacedImageValidatingPolicy": "",
}

// changing are those that ask for policies that change what a request asks for.
var changing = map[string]string{
	"MutatingPolicy":           "mpol.validate.kyverno.svc",
	"NamespacedMutatingPolicy": "nmpol.validate.kyverno.svc",
}

// The webhooks that ask for the older policies.
const (
	legacyValidating = "validate.kyverno.svc"
	legacyMutating   = "mutate.kyverno.svc"
)

// Validates says whether a policy is there to refuse requests: others change or
// make objects, or clean up, and some judge what is no request to the API server.
func Validates(policy *unstructured.Unstructured) bool {
	switch policy.GroupVersionKind().Group {
	case celGroup:
		mode, _, _ := unstructured.NestedString(policy.Object, "spec", "evaluation", "mode")
		_, known := refusingHooks[policy.GetKind()]
		return known && (mode == "" || mode == "Kubernetes")
	case legacyGroup:
		return len(refusing(policy)) > 0
	}
	return false
}

// Changes says whether a policy is there to change what requests ask for. What makes
// objects does so after the request, whose webhook cannot fail closed.
func Changes(policy *unstructured.Unstructured) bool {
	switch policy.GroupVersionKind().Group {
	case celGroup:
		mode, _, _ := unstructured.NestedString(policy.Object, "spec", "evaluation", "mode")
		return changing[policy.GetKind()] != "" && (mode == "" || mode == "Kubernetes")
	case legacyGroup:
		if kind := policy.GetKind(); kind != "ClusterPolicy" && kind != "Policy" {
			return false
		}
		rules, _, _ := unstructured.NestedSlice(policy.Object, "spec", "rules")
		return slices.ContainsFunc(rules, func(entry any) bool {
			fields, _ := entry.(map[string]any)
			return fields["mutate"] != nil
		})
	}
	return false
}

// Webhooks are all webhooks of a cluster. Those that change objects are read like
// the others: what matters here stands in both.
func Webhooks(validating []admissionv1.ValidatingWebhookConfiguration, mutating []admissionv1.MutatingWebhookConfiguration) []admissionv1.ValidatingWebhook {
	var out []admissionv1.ValidatingWebhook
	for _, configuration := range validating {
		out = append(out, configuration.Webhooks...)
	}
	for _, configuration := range mutating {
		for _, hook := range configuration.Webhooks {
			out = append(out, admissionv1.ValidatingWebhook{
				Name: hook.Name, ClientConfig: hook.ClientConfig, Rules: hook.Rules, FailurePolicy: hook.FailurePolicy,
			})
		}
	}
	return out
}

// Open says in what way a policy lets things through that it is there to refuse, or
// to change: by its own fields as they are in the cluster, and by the webhooks that
// ask for it, which have to ask for all that is declared. Of a policy that is not in
// the cluster (live is nil) only what is declared is looked at.
func Open(declared, live *unstructured.Unstructured, webhooks []admissionv1.ValidatingWebhook) []string {
	if !Validates(declared) && !Changes(declared) {
		return nil
	}
	if live == nil {
		return lenient(declared)
	}
	out := lenient(live)
	generated, _, _ := unstructured.NestedBool(live.Object, "status", "generated")
	legacyGenerated, _, _ := unstructured.NestedBool(live.Object, "status", "validatingadmissionpolicy", "generated")
	if generated || legacyGenerated {
		return out // the API server itself evaluates what was generated from it
	}
	for _, base := range asks(declared) {
		out = append(out, holes(declared, asking(declared, base, webhooks))...)
	}
	return out
}

// asks are how the webhooks begin that have to ask for a policy.
func asks(policy *unstructured.Unstructured) []string {
	var out []string
	legacy := policy.GroupVersionKind().Group == legacyGroup
	for _, one := range []struct {
		does        bool
		own, legacy string
	}{
		{Validates(policy), refusingHooks[policy.GetKind()], legacyValidating},
		{Changes(policy), changing[policy.GetKind()], legacyMutating},
	} {
		base := one.own
		if legacy {
			base = one.legacy
		}
		if one.does && base != "" {
			out = append(out, base)
		}
	}
	return out
}

// holes says what of a policy these webhooks, which ask for it, let through.
func holes(declared *unstructured.Unstructured, hooks []admissionv1.ValidatingWebhook) []string {
	if len(hooks) == 0 {
		return []string{"no webhook asks it"}
	}
	var out []string
	for _, hook := range hooks {
		if hook.FailurePolicy == nil || *hook.FailurePolicy != admissionv1.Fail {
			out = append(out, fmt.Sprintf("the webhook %s does not fail closed", hook.Name))
		}
	}
	rules, _, _ := unstructured.NestedSlice(declared.Object, "spec", "matchConstraints", "resourceRules")
	for i, entry := range rules {
		rule, _ := entry.(map[string]any)
		for _, operation := range texts(rule, "operations") {
			for _, resource := range texts(rule, "resources") {
				for _, group := range texts(rule, "apiGroups") {
					if !slices.ContainsFunc(hooks, func(h admissionv1.ValidatingWebhook) bool { return covers(h, group, resource, operation) }) {
						out = append(out, fmt.Sprintf("resourceRules[%d]: no webhook asks on %s of %s.%s", i, operation, resource, group))
					}
				}
			}
		}
	}
	return out
}

// lenient says what a policy's own fields let through.
func lenient(policy *unstructured.Unstructured) []string {
	var out []string
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(policy.Object, fields...)
		return value
	}
	switched := func(fields ...string) {
		if on, found, _ := unstructured.NestedBool(policy.Object, fields...); found && !on {
			out = append(out, strings.Join(fields[1:], ".")+" is false: no request is judged")
		}
	}
	closed := func(fields ...string) {
		if failure := text(fields...); failure != "Fail" && failure != "" {
			out = append(out, fmt.Sprintf("%s is %q, not Fail", strings.Join(fields[1:], "."), failure))
		}
	}
	if policy.GroupVersionKind().Group == celGroup {
		actions, found, _ := unstructured.NestedStringSlice(policy.Object, "spec", "validationActions")
		if found && len(actions) > 0 && !slices.Contains(actions, "Deny") {
			out = append(out, fmt.Sprintf("validationActions is %v, not [Deny]", actions))
		}
		closed("spec", "failurePolicy")
		switched("spec", "evaluation", "admission", "enabled")
		return out
	}
	for _, rule := range refusing(policy) {
		action := rule.action
		if action == "" {
			action = text("spec", "validationFailureAction")
		}
		if !strings.EqualFold(action, "Enforce") {
			out = append(out, fmt.Sprintf("the rule %s is in %s, not in Enforce", rule.name, orDefault(action, "Audit, the default")))
		}
		overrides := rule.overrides
		if len(overrides) == 0 {
			overrides, _, _ = unstructured.NestedSlice(policy.Object, "spec", "validationFailureActionOverrides")
		}
		for _, entry := range overrides {
			fields, _ := entry.(map[string]any)
			if action, _ := fields["action"].(string); strings.EqualFold(action, "Audit") {
				out = append(out, fmt.Sprintf("the rule %s is in Audit in the namespaces %v", rule.name, texts(fields, "namespaces")))
			}
		}
	}
	closed("spec", "failurePolicy")
	closed("spec", "webhookConfiguration", "failurePolicy")
	switched("spec", "admission")
	return out
}

// legacyRule is a rule of a legacy policy that is there to refuse.
type legacyRule struct {
	name, action string
	overrides    []any
}

func refusing(policy *unstructured.Unstructured) []legacyRule {
	if kind := policy.GetKind(); kind != "ClusterPolicy" && kind != "Policy" {
		return nil
	}
	var out []legacyRule
	rules, _, _ := unstructured.NestedSlice(policy.Object, "spec", "rules")
	for _, entry := range rules {
		fields, _ := entry.(map[string]any)
		name, _ := fields["name"].(string)
		var bodies []any
		if validate, ok := fields["validate"]; ok {
			bodies = append(bodies, validate)
		}
		images, _ := fields["verifyImages"].([]any)
		for _, body := range append(bodies, images...) {
			part, _ := body.(map[string]any)
			rule := legacyRule{name: name}
			rule.action, _ = part["failureAction"].(string)
			rule.overrides, _ = part["failureActionOverrides"].([]any)
			out = append(out, rule)
		}
	}
	return out
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// asking are the webhooks that ask for a policy: the one named after it, else
// those that it shares. A shared one's path names its policies; where none names
// this one, all of them may ask for it.
func asking(policy *unstructured.Unstructured, base string, webhooks []admissionv1.ValidatingWebhook) []admissionv1.ValidatingWebhook {
	own := "-finegrained-" + strings.TrimPrefix(policy.GetNamespace()+"-"+policy.GetName(), "-")
	var named, listed, shared []admissionv1.ValidatingWebhook
	for _, hook := range webhooks {
		rest, ours := strings.CutPrefix(hook.Name, base+"-")
		switch {
		case !ours:
		case strings.HasSuffix(rest, own) && !strings.Contains(strings.TrimSuffix(rest, own), "-"):
			named = append(named, hook)
		case strings.Contains(rest, "-finegrained-"):
		case slices.Contains(strings.Split(address(hook), "/"), policy.GetName()):
			listed = append(listed, hook)
		default:
			shared = append(shared, hook)
		}
	}
	for _, hooks := range [][]admissionv1.ValidatingWebhook{named, listed} {
		if len(hooks) > 0 {
			return hooks
		}
	}
	return shared
}

// address is where a webhook asks: the path of its Service, or its URL.
func address(hook admissionv1.ValidatingWebhook) string {
	switch config := hook.ClientConfig; {
	case config.Service != nil && config.Service.Path != nil:
		return *config.Service.Path
	case config.URL != nil:
		return *config.URL
	}
	return ""
}

func texts(from map[string]any, field string) []string {
	list, _, _ := unstructured.NestedStringSlice(from, field)
	return list
}

func covers(hook admissionv1.ValidatingWebhook, group, resource, operation string) bool {
	has := func(list []string, value string) bool {
		return slices.Contains(list, value) || slices.Contains(list, "*")
	}
	return slices.ContainsFunc(hook.Rules, func(rule admissionv1.RuleWithOperations) bool {
		operations := make([]string, 0, len(rule.Operations))
		for _, o := range rule.Operations {
			operations = append(operations, string(o))
		}
		resources := slices.Contains(rule.Resources, "*/*") || has(rule.Resources, resource) || has(rule.Resources, strings.Split(resource, "/")[0]+"/*")
		return has(rule.APIGroups, group) && resources && has(operations, operation)
	})
}
