package state

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// admissionPolicy is how the API server names its own admission policies when
// one refuses.
var admissionPolicy = regexp.MustCompile(`ValidatingAdmissionPolicy '([^']+)' with binding '[^']+' denied request`)

// ByRBAC is who refused where it was no policy.
const ByRBAC = "RBAC"

// Refusal tells who refused what a user asked for: ByRBAC, or one of these policies
// by name. Anything else is no refusal but a problem: that it was admitted, that
// the server never came to judge it, or that whoever refused is not named.
func Refusal(answer error, user string, policies []string) (by, problem string) {
	if answer == nil {
		return "", "it was admitted"
	}
	text := answer.Error()
	// A policy's own denial may carry any status; RBAC's names user and verb.
	if apierrors.IsForbidden(answer) && strings.Contains(text, fmt.Sprintf("User %q cannot ", user)) {
		return ByRBAC, ""
	}
	if strings.Contains(text, "denied the request") {
		if i := slices.IndexFunc(policies, func(name string) bool { return names(text, name) }); i >= 0 {
			return policies[i], ""
		}
	}
	if found := admissionPolicy.FindStringSubmatch(text); found != nil {
		return found[1], ""
	}
	return "", "nobody refused it by name: " + text
}

// names says whether a text holds a name that is not a part of a longer one.
func names(text, name string) bool {
	return regexp.MustCompile(`(^|[^a-z0-9.-])` + regexp.QuoteMeta(name) + `($|[^a-z0-9.-])`).MatchString(text)
}

// PolicyWords are the messages of a policy's rules; none when it makes one of them
// up as it goes, so that nobody can tell them beforehand.
func PolicyWords(policy *unstructured.Unstructured) []string {
	var out []string
	add := func(list []any, path ...string) bool {
		for _, entry := range list {
			fields, _ := entry.(map[string]any)
			message, _, _ := unstructured.NestedString(fields, path...)
			if message == "" || strings.Contains(message, "{{") || fields["messageExpression"] != nil {
				return false
			}
			out = append(out, message)
		}
		return true
	}
	validations, _, _ := unstructured.NestedSlice(policy.Object, "spec", "validations")
	rules, _, _ := unstructured.NestedSlice(policy.Object, "spec", "rules")
	if !add(validations, "message") || !add(rules, "validate", "message") {
		return nil
	}
	return out
}

// InWords says whether a refusal holds one of these messages, however its lines
// are broken. Without any it holds them.
func InWords(answer string, words []string) bool {
	plain := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	answer = plain(answer)
	return len(words) == 0 || slices.ContainsFunc(words, func(message string) bool { return strings.Contains(answer, plain(message)) })
}
