package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// canaryKinds are what a canary may be, the first that a policy does not exclude.
var canaryKinds = []struct{ resource, kind string }{
	{"configmaps", "ConfigMap"},
	{"secrets", "Secret"},
	{"serviceaccounts", "ServiceAccount"},
	{"limitranges", "LimitRange"},
}

// constrain leaves of the match constraints what the aspect is about, and adds
// what a canary needs: a rule that matches it. A policy for Pods alone, of which
// Kyverno derives rules for Deployments and the like, must keep its single rule,
// so its canary is a Pod; where that rule is not about creations, the expression
// that it returns must hold in its stead.
func constrain(spec map[string]any, aspect Aspect, autogen bool, out *installation) (widened string, err error) {
	constraints, _ := spec["matchConstraints"].(map[string]any)
	if constraints == nil {
		return "", fmt.Errorf("spec.matchConstraints is missing")
	}
	rules, _ := constraints["resourceRules"].([]any)
	if !aspect.Whole && aspect.Constraint >= 0 {
		if aspect.Constraint >= len(rules) {
			return "", fmt.Errorf("spec.matchConstraints.resourceRules has no entry %d", aspect.Constraint)
		}
		rules = []any{rules[aspect.Constraint]}
	}
	objectLabels, ok := satisfy(constraints["objectSelector"])
	namespaceLabels, also := satisfy(constraints["namespaceSelector"])
	if !ok || !also {
		out.problem = "its selectors contradict themselves: it matches nothing"
	}
	out.labels = namespaceLabels
	if autogen && podsAlone(constraints, rules) {
		out.canary = canaryObject("Pod", objectLabels)
		out.canary.Object["spec"] = map[string]any{"containers": []any{map[string]any{"name": "canary", "image": "canary"}}}
		rule, _ := rules[0].(map[string]any)
		operations, _, _ := unstructured.NestedStringSlice(rule, "operations")
		if !slices.Contains(operations, opCreate) && !slices.Contains(operations, "*") {
			widened = fmt.Sprintf("request.operation in [%s]", quoted(operations))
			rule["operations"] = append(slices.Clone(rule["operations"].([]any)), opCreate)
		}
		constraints["resourceRules"] = rules
		return widened, nil
	}
	excluded, _ := constraints["excludeResourceRules"].([]any)
	for _, kind := range canaryKinds {
		if !slices.ContainsFunc(excluded, func(rule any) bool { return covers(rule, kind.resource) }) {
			out.canary = canaryObject(kind.kind, objectLabels)
			constraints["resourceRules"] = append(slices.Clone(rules), map[string]any{
				"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{opCreate},
				"resources": []any{kind.resource}, "resourceNames": []any{canaryName},
			})
			return "", nil
		}
	}
	out.problem = "it excludes every kind that could show it to be in force"
	return "", nil
}

// podsAlone says whether Kyverno derives rules for the controllers of pods.
func podsAlone(constraints map[string]any, rules []any) bool {
	if excluded, _ := constraints["excludeResourceRules"].([]any); len(excluded) > 0 || len(rules) != 1 {
		return false
	}
	if selected, _ := constraints["objectSelector"].(map[string]any); len(selected) > 0 {
		return false
	}
	rule, _ := rules[0].(map[string]any)
	only := func(field, value string) bool {
		list, _, _ := unstructured.NestedStringSlice(rule, field)
		return len(list) == 1 && list[0] == value
	}
	names, _ := rule["resourceNames"].([]any)
	return len(names) == 0 && only("apiGroups", "") && only("apiVersions", "v1") && only("resources", "pods")
}

// covers says whether a rule may be about a kind of the core group.
func covers(entry any, resource string) bool {
	rule, _ := entry.(map[string]any)
	has := func(field string, values ...string) bool {
		list, _, _ := unstructured.NestedStringSlice(rule, field)
		return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(list, v) })
	}
	if names, _, _ := unstructured.NestedStringSlice(rule, "resourceNames"); len(names) > 0 && !slices.Contains(names, canaryName) {
		return false
	}
	return has("apiGroups", "", "*") && has("resources", resource, "*", "*/*")
}

func canaryObject(kind string, labels map[string]string) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	out.SetName(canaryName)
	if len(labels) > 0 {
		out.SetLabels(labels)
	}
	return out
}

// satisfy finds labels that a selector selects; false: there are none.
func satisfy(selector any) (map[string]string, bool) {
	fields, _ := selector.(map[string]any)
	if len(fields) == 0 {
		return nil, true
	}
	var parsed metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &parsed); err != nil {
		return nil, false
	}
	out := map[string]string{}
	for key, value := range parsed.MatchLabels {
		out[key] = value
	}
	forbidden := func(key, value string) bool {
		return slices.ContainsFunc(parsed.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			return e.Key == key && e.Operator == metav1.LabelSelectorOpNotIn && slices.Contains(e.Values, value)
		})
	}
	for _, e := range parsed.MatchExpressions {
		if _, set := out[e.Key]; set {
			continue
		}
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			for _, value := range e.Values {
				if !forbidden(e.Key, value) {
					out[e.Key] = value
					break
				}
			}
		case metav1.LabelSelectorOpExists:
			for value := "any"; ; value += "-other" {
				if !forbidden(e.Key, value) {
					out[e.Key] = value
					break
				}
			}
		}
	}
	compiled, err := metav1.LabelSelectorAsSelector(&parsed)
	return out, err == nil && compiled.Matches(labels.Set(out))
}

func quoted(values []string) string {
	out := ""
	for i, value := range values {
		if i > 0 {
			out += ", "
		}
		out += "'" + value + "'"
	}
	return out
}

// canaryNamespace gives a copy's canary a namespace with the labels that it needs.
func (b *Bench) canaryNamespace(ctx context.Context, c *copyState) error {
	if c.canary.GetNamespace() != "" {
		c.unheard = b.deaf(c.canary.GetNamespace())
		return b.namespace(ctx, c.canary.GetNamespace(), b.currentLabels(c.canary.GetNamespace()))
	}
	name := c.labels[nameLabel]
	labels := maps.Clone(c.labels)
	delete(labels, nameLabel)
	switch {
	case name != "":
	case len(labels) == 0:
		name = canaryName + "-" + session
	default:
		data, err := json.Marshal(labels) // keys in order
		if err != nil {
			return err
		}
		digest := sha256.Sum256(data)
		name = canaryName + "-" + session + "-" + hex.EncodeToString(digest[:])[:8]
	}
	c.canary.SetNamespace(name)
	c.unheard = b.deaf(name)
	if name == c.labels[nameLabel] && len(labels) == 0 {
		labels = b.currentLabels(name)
	}
	if err := b.namespace(ctx, name, labels); err != nil {
		return err
	}
	if c.canary.GetKind() == "Pod" {
		return b.serve(ctx, []*unstructured.Unstructured{c.canary})
	}
	return nil
}

// await returns when each of the copies has answered a canary or is given up: it
// had that patience, or for half of it nothing else came into force either.
func (b *Bench) await(ctx context.Context, copies []*copyState, patience time.Duration) error {
	start, progress, pause := time.Now(), time.Now(), 50*time.Millisecond
	for {
		open := slices.DeleteFunc(slices.Clone(copies), func(c *copyState) bool { return c.seen || c.failed != "" })
		if len(open) == 0 {
			return nil
		}
		if err := b.disturbing(ctx, open); err != nil {
			return err
		}
		words := b.canaries(ctx, open)
		now := time.Now()
		for _, c := range open {
			if c.seen {
				progress = now
				c.effective = max(now.Sub(c.created), time.Millisecond)
			}
		}
		if now.Sub(start) > patience || now.Sub(progress) > patience/2 {
			for _, c := range open {
				if !c.seen && c.failed == "" {
					c.late = true
					c.failed = fmt.Sprintf("it is not in force %s after its creation: %s%s", now.Sub(c.created).Round(time.Millisecond), b.status(ctx, c), words[c.subject.name])
				}
			}
			return nil
		}
		if err := pauseFor(ctx, pause); err != nil {
			return fmt.Errorf("await that policies are in force: %w", err)
		}
		pause = min(2*pause, 400*time.Millisecond)
	}
}

// canaries asks copies of their canaries, and notes which answered. Whatever a
// copy says, it is in force: a copy of anything else has another name.
func (b *Bench) canaries(ctx context.Context, copies []*copyState) map[string]string {
	groups := map[string]request{}
	for _, c := range copies {
		data, _ := json.Marshal(c.canary.Object) // it was made here
		r := groups[string(data)]
		r.operation, r.object = opCreate, c.canary
		r.copies = append(r.copies, c.subject.name)
		groups[string(data)] = r
	}
	var mu sync.Mutex
	words := map[string]string{}
	var group errgroup.Group
	group.SetLimit(mostWorkers)
	for _, r := range groups {
		group.Go(func() error {
			got := b.ask(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			for _, name := range r.copies {
				b.copies[name].seen = len(got.said[name]) > 0
				if why := got.unanswered[name]; why != "" {
					words[name] = "; its canary: " + why
				}
			}
			return nil
		})
	}
	_ = group.Wait() // what was not answered is seen in the copies
	return words
}

// copyNames finds the names of copies in a refusal.
var copyNames = regexp.MustCompile(`\b` + copyPattern + `\b`)

// disturbing removes the copies that refuse a request that asks nobody: whatever
// makes them do so, they would stand in everybody's way.
func (b *Bench) disturbing(ctx context.Context, copies []*copyState) error {
	plain := canaryObject("ConfigMap", nil)
	plain.SetNamespace(canaryName + "-" + session)
	if err := b.namespace(ctx, plain.GetNamespace(), nil); err != nil {
		return err
	}
	for range len(copies) + 1 {
		got := b.send(ctx, request{operation: opCreate, object: plain})
		if got.admitted() {
			return nil
		}
		found := false
		for _, name := range copyNames.FindAllString(got.err.Error(), -1) {
			c := b.copies[name]
			if c == nil {
				continue
			}
			for _, o := range c.placed {
				if err := b.remove(ctx, o); err != nil {
					return err
				}
			}
			found, c.failed, c.seen = true, "it refuses requests that do not concern it, and was removed: "+got.err.Error(), false
		}
		if !found {
			return fmt.Errorf("a ConfigMap that no copy is asked about is refused: %w", got.err)
		}
	}
	return nil
}

// status is what the server says of the state of a copy. Kyverno gives a legacy policy
// none while its webhooks cannot be changed, and says only in its log why not.
func (b *Bench) status(ctx context.Context, c *copyState) string {
	text := "it has no status"
	for _, o := range c.objects {
		now, err := b.get(ctx, o)
		if err != nil {
			return err.Error()
		}
		if status, found := now.Object["status"]; found && o.GetName() == c.subject.name {
			if data, err := json.Marshal(status); err == nil {
				text = "its status is " + string(data)
			}
		}
	}
	if why := b.unhooked(ctx, c.subject.policy.Object); why != "" {
		text += "; the API server takes no webhook with its match conditions: " + why
	}
	return text
}

// unhooked says why the API server takes no webhook with the match conditions that a
// legacy policy demands; empty: it does, or none are demanded.
func (b *Bench) unhooked(ctx context.Context, policy *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(policy.Object, "spec", "webhookConfiguration", "matchConditions")
	if !isLegacy(policy) || len(conditions) == 0 {
		return ""
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": admissionGroup + "/v1", "kind": "ValidatingWebhookConfiguration",
		"webhooks": []any{map[string]any{
			"name": "match.conditions.of-the-policy", "sideEffects": "None", "admissionReviewVersions": []any{"v1"},
			"clientConfig": map[string]any{"url": "https://127.0.0.1/nobody"}, "matchConditions": conditions,
		}},
	}}
	object.SetName(canaryName + "-" + session)
	got := b.send(ctx, request{operation: opCreate, object: object})
	if got.err == nil || got.unavailable {
		return ""
	}
	why := got.err.Error()
	if _, cause, found := strings.Cut(why, " is invalid: "); found {
		why = cause
	}
	return strings.ReplaceAll(why, "webhooks[0].", "")
}
