package live

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A request names the copies that it asks. The first letter of a copy's name says how:
// most copies look for their name in an extra of the request's user, with a match
// condition. For a legacy policy that is dear, since Kyverno compiles the condition
// anew for each request, and gives each policy that has one a webhook of its own. So
// where nothing speaks against it, the rules of a legacy copy match only requests of a
// user who is in a group of the copy's, which Kyverno looks for before all else.
const (
	// namedByExtra is asked with the extra.
	namedByExtra = "p"
	// namedAlone is asked with the extra as well, and never together with a copy that
	// is asked with a group: its policy may look at the groups of who asks.
	namedAlone = "u"
	// namedByGroup is asked with a group.
	namedByGroup = "g"
)

// copyPattern is that of the names of copies.
const copyPattern = `[` + namedByExtra + namedAlone + namedByGroup + `][0-9a-f]{10}`

// groupPrefix is that of the groups that name copies.
const groupPrefix = "fpc-ask:"

// namedBy says whether the copy, or the policy as written, of this name is asked for so.
func namedBy(name, how string) bool {
	return strings.HasPrefix(strings.TrimPrefix(name, writtenPrefix), how)
}

// naming is how the copy of a subject is asked for.
func (b *Bench) naming(s subject) string {
	switch {
	case looksAtUser(s):
		return namedAlone
	case isLegacy(s.policy.Object) && b.sharesWebhook(s):
		return namedByGroup
	}
	return namedByExtra
}

// knownOfRequest is all that a policy may look at of a request without a look at who
// sends it.
var knownOfRequest = regexp.MustCompile(`\brequest\.(object|oldObject|operation|namespace|name|kind|resource|subResource|uid|dryRun)\b`)

var (
	wholeRequest = regexp.MustCompile(`\brequest\b`)
	whoAsks      = regexp.MustCompile(`"(subjects|roles|clusterRoles)":|userInfo|groups`)
)

// looksAtUser says whether the verdict on a request may depend on who sends it.
func looksAtUser(s subject) bool {
	all := slices.Concat([]*unstructured.Unstructured{s.policy.Object}, s.policy.Bindings, s.exceptions)
	return slices.ContainsFunc(all, func(o *unstructured.Unstructured) bool {
		data, err := json.Marshal(o.Object["spec"])
		text := strings.ReplaceAll(string(data), `"apiGroups":`, "")
		return err != nil || whoAsks.MatchString(text) || wholeRequest.MatchString(knownOfRequest.ReplaceAllString(text, ""))
	})
}

// sharesWebhook says whether a legacy policy can be asked for with a group, and gains
// by it: nothing but webhooks of its own may be to its liking, what it says of updates
// depends on whether it enforces, and to derive rules for what makes Pods takes Kyverno
// longer, for each policy that is there, than a condition of one.
func (b *Bench) sharesWebhook(s subject) bool {
	policy := s.policy.Object
	spec, _ := policy.Object["spec"].(map[string]any)
	if policy.GetNamespace() != "" || s.updates || spec["webhookConfiguration"] != nil || spec["applyRules"] == "One" {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(rulesOf(policy), func(rule map[string]any) bool {
		return !judgedRule(rule) || !b.nameable(rule, s.podsOnly)
	})
}

var derivedFrom = []string{"Pod", "DaemonSet", "Deployment", "Job", "StatefulSet", "ReplicaSet", "ReplicationController", "CronJob"}

// nameable says whether each filter that a rule matches by names its kinds, none of
// which has rules derived, or was made for the session: what Kyverno knows of those is
// shown for a webhook of the policy's own alone.
func (b *Bench) nameable(rule map[string]any, podsOnly bool) bool {
	filters := filtersOf(rule)
	return len(filters) > 0 && !slices.ContainsFunc(filters, func(filter map[string]any) bool {
		kinds, _, _ := unstructured.NestedStringSlice(filter, "resources", "kinds")
		return len(kinds) == 0 || slices.ContainsFunc(kinds, func(kind string) bool {
			parts := kindSelector.FindStringSubmatch(kind)
			return parts == nil || strings.ContainsAny(kind, "*?") || parts[4] != "" ||
				!podsOnly && slices.Contains(derivedFrom, parts[3]) || slices.ContainsFunc(b.made, func(made Kind) bool { return made.Kind == parts[3] })
		})
	})
}

// filtersOf are those of which one, or all, must hold for a rule to match.
func filtersOf(rule map[string]any) []map[string]any {
	block, _ := rule["match"].(map[string]any)
	var out []map[string]any
	for _, form := range []string{"any", "all"} {
		list, _ := block[form].([]any)
		for _, entry := range list {
			filter, _ := entry.(map[string]any)
			out = append(out, filter)
		}
	}
	if len(out) == 0 && block != nil {
		out = append(out, block)
	}
	return out
}

// matchOnly has a rule match only requests that name a copy with a group, in place.
func matchOnly(rule map[string]any, name string) {
	for _, filter := range filtersOf(rule) {
		filter["subjects"] = []any{map[string]any{"kind": "Group", "name": groupPrefix + name}}
	}
}

// selector is the condition that a request asks for a copy. A match condition
// that is false ends all the others, errors among them.
func selector(name string) string {
	return fmt.Sprintf("has(request.userInfo.extra) && '%s' in request.userInfo.extra && '%s' in request.userInfo.extra['%s']", askExtra, name, askExtra)
}
