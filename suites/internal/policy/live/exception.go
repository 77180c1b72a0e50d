package live

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// celExceptions are the exceptions of policies.kyverno.io that hold for the policy
// of a subject, rewritten to hold for its copy only. A canary is never excepted.
func celExceptions(s subject) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, exception := range s.exceptions {
		if exception.GroupVersionKind().Group != celGroup {
			continue
		}
		refs, _, err := unstructured.NestedSlice(exception.Object, "spec", "policyRefs")
		if err != nil {
			return nil, fmt.Errorf("PolicyException %s: %w", exception.GetName(), err)
		}
		if !slices.ContainsFunc(refs, func(entry any) bool {
			ref, _ := entry.(map[string]any)
			return ref["name"] == s.policy.Object.GetName() && ref["kind"] == s.policy.Object.GetKind()
		}) {
			continue
		}
		object, spec, err := exceptionCopy(exception, s, len(out))
		if err != nil {
			return nil, err
		}
		spec["policyRefs"] = []any{map[string]any{"name": s.name, "kind": s.policy.Object.GetKind()}}
		conditions, _ := spec["matchConditions"].([]any)
		spec["matchConditions"] = append([]any{map[string]any{"name": "fpc-canary", "expression": "!(" + isCanary + ")"}}, conditions...)
		out = append(out, object)
	}
	return out, nil
}

// legacyExceptions are the exceptions of kyverno.io that hold for rules of the
// policy of a subject, rewritten to hold for those of its copy only.
func legacyExceptions(s subject) ([]*unstructured.Unstructured, error) {
	policy := s.policy.Object
	name, copyName := policy.GetName(), s.name
	if ns := policy.GetNamespace(); ns != "" {
		name, copyName = ns+"/"+name, ns+"/"+copyName
	}
	var out []*unstructured.Unstructured
	for _, exception := range s.exceptions {
		if exception.GroupVersionKind().Group != legacyGroup {
			continue
		}
		entries, _, err := unstructured.NestedSlice(exception.Object, "spec", "exceptions")
		if err != nil {
			return nil, fmt.Errorf("PolicyException %s: %w", exception.GetName(), err)
		}
		var patterns []string
		for _, entry := range entries {
			fields, _ := entry.(map[string]any)
			if fields["policyName"] == name {
				names, _, _ := unstructured.NestedStringSlice(fields, "ruleNames")
				patterns = append(patterns, names...)
			}
		}
		object, spec, err := exceptionCopy(exception, s, len(out))
		if err != nil {
			return nil, err
		}
		if rules := exceptedRules(policy, patterns, excludesControls(exception)); len(rules) > 0 {
			spec["exceptions"] = []any{map[string]any{"policyName": copyName, "ruleNames": rules}}
			out = append(out, object)
		}
	}
	return out, nil
}

// exceptedRules are the rules of a copy that stand for those that patterns name.
// One that lets only some controls of pod security be excepts the rule itself, but
// neither its twin nor its bare form: whether it holds, they tell.
func exceptedRules(policy *unstructured.Unstructured, patterns []string, controls bool) []any {
	var out []any
	for i, rule := range rulesOf(policy) {
		name, _ := rule["name"].(string)
		for form, as := range ruleNames(name) {
			if !slices.ContainsFunc(patterns, func(pattern string) bool { return wildcard(pattern, as) }) {
				continue
			}
			of := autogenPrefixes[form]
			out = append(out, of+ruleItself+strconv.Itoa(i))
			if !controls || !podSecurity(rule) {
				out = append(out, of+ruleTwin+strconv.Itoa(i))
			}
		}
	}
	return out
}

func podSecurity(rule map[string]any) bool {
	_, found, _ := unstructured.NestedMap(rule, "validate", "podSecurity")
	return found
}

// excludesControls says whether an exception lets only some controls of pod
// security be.
func excludesControls(exception *unstructured.Unstructured) bool {
	controls, _, _ := unstructured.NestedSlice(exception.Object, "spec", "podSecurity")
	return len(controls) > 0
}

// exceptionCopy is an exception under a name of the subject's, and its spec.
func exceptionCopy(exception *unstructured.Unstructured, s subject, index int) (*unstructured.Unstructured, map[string]any, error) {
	object := copyOf(exception, fmt.Sprintf("%s-e%d", s.name, index))
	object.SetNamespace("default") // an exception holds for all namespaces, wherever it stands
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return nil, nil, fmt.Errorf("PolicyException %s has no spec", exception.GetName())
	}
	return object, spec, nil
}

// wildcard says whether a text matches a pattern of Kyverno's: «*» is any text,
// «?» one character.
func wildcard(pattern, text string) bool {
	if pattern == "" {
		return text == ""
	}
	switch pattern[0] {
	case '*':
		rest := strings.TrimLeft(pattern, "*")
		for i := range len(text) + 1 {
			if wildcard(rest, text[i:]) {
				return true
			}
		}
		return false
	case '?':
		return text != "" && wildcard(pattern[1:], text[1:])
	}
	return text != "" && text[0] == pattern[0] && wildcard(pattern[1:], text[1:])
}
