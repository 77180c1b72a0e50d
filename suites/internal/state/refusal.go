package state

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
