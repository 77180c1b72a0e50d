package attack

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// stop is who stopped an attack, and in which words.
type stop struct{ layer, by, words string }

// String names the layer and what of it.
func (s stop) String() string {
	switch {
	case s.layer == "":
		return "nobody"
	case s.by == "" || s.by == s.layer:
		return s.layer
	}
	return s.layer + " " + s.by
}

// signals tell layers by their words; the first that is found counts.
var signals = []struct {
	layer string
	words *regexp.Regexp
}{
	{"podsecurity", regexp.MustCompile(`violates PodSecurity`)},
	{"quota", regexp.MustCompile(`exceeded quota|failed quota|is forbidden: (maximum|minimum) .* usage per`)},
	{"escalation", regexp.MustCompile(`is attempting to grant RBAC permissions not currently held|not allowed to set this role binding`)},
	{"rbac", regexp.MustCompile(`User "[^"]+" cannot `)},
	{"acl", regexp.MustCompile(`cross-namespace references have been blocked|can't access '`)},
	{"api", regexp.MustCompile(`is invalid: |Invalid value|\((Invalid|BadRequest|RequestEntityTooLarge|NotFound)\)|no matches for kind|failed to create typed patch object|Request entity too large|may not be more than`)},
}

// denial is how a policy of Kyverno is named when it denies.
var denial = regexp.MustCompile(`Policy ([a-z0-9.-]+) (?:failed|error):`)

// deniers are the policies that a text says deny, of these.
func deniers(text string, policies []string) []string {
	var out []string
	for _, found := range denial.FindAllStringSubmatch(text, -1) {
		out = append(out, found[1])
	}
	if len(out) > 0 {
		return out
	}
	if by, _ := state.Refusal(errors.New(text), "", policies); by != "" && by != state.ByRBAC {
		return []string{by}
	}
	return nil
}

// answered tells who refused a request that a user made; the zero value when
// nobody did. unknown says that the answer is no judgement.
func answered(answer error, policies []string) (by stop, unknown bool) {
	if answer == nil {
		return stop{}, false
	}
	text := answer.Error()
	if denied := deniers(text, policies); len(denied) > 0 {
		return stop{"policy", strings.Join(denied, ", "), text}, false
	}
	if strings.Contains(text, "Upgrade request required") || strings.Contains(text, "unable to upgrade") {
		return stop{}, false // the server would now run what was asked for
	}
	for _, signal := range signals {
		if signal.words.MatchString(text) {
			return stop{layer: signal.layer, words: text}, false
		}
	}
	switch {
	case strings.Contains(text, "failed calling webhook"), apierrors.IsTooManyRequests(answer), apierrors.IsTimeout(answer),
		apierrors.IsServerTimeout(answer), apierrors.IsInternalError(answer), apierrors.IsServiceUnavailable(answer), apierrors.IsConflict(answer):
		return stop{words: text}, true
	}
	if status := apierrors.APIStatus(nil); errors.As(answer, &status) {
		return stop{layer: "api", words: text}, false
	}
	return stop{words: text}, true
}

// conditioned tells who refused, by the Ready condition of a Flux object.
func conditioned(o bootstrap.Object, policies []string) stop {
	text := o.Reason + ": " + o.Message
	if o.Ready != "False" {
		return stop{}
	}
	if denied := deniers(o.Message, policies); len(denied) > 0 {
		return stop{"policy", strings.Join(denied, ", "), text}
	}
	if o.Reason == "AccessDenied" {
		return stop{layer: "acl", words: text}
	}
	if closed(o.Message) {
		return stop{layer: "closed", words: text}
	}
	if o.Reason == "BuildFailed" {
		return stop{layer: "build", words: text}
	}
	for _, signal := range signals {
		if signal.words.MatchString(o.Message) {
			return stop{layer: signal.layer, words: text}
		}
	}
	return stop{layer: "flux", words: text}
}

// wrong says why a stop is not the one that an attack names; empty when it is.
func wrong(a *overlay.Attack, found stop) string {
	switch {
	case found.layer == "":
		return fmt.Sprintf("nobody refused it, and %s must", named(a))
	case found.layer != a.Layer:
		return fmt.Sprintf("%s refused it, not %s: %s", found, named(a), found.words)
	case a.Layer == "policy" && !denies(found.by, a.By):
		return fmt.Sprintf("%s refused it, not %s: %s", found, named(a), found.words)
	case !strings.Contains(found.words, a.Says):
		return fmt.Sprintf("%s refused it without saying %q: %s", found, a.Says, found.words)
	}
	return ""
}

// denies says whether a policy is among those that a refusal names.
func denies(by, policy string) bool {
	for _, name := range strings.Split(by, ", ") {
		if name == policy {
			return true
		}
	}
	return false
}

func named(a *overlay.Attack) string {
	if a.By == "" {
		return a.Layer
	}
	return a.Layer + " " + a.By
}
