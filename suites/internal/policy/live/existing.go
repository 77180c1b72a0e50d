package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// existing is the trial of an example in which a policy changes objects that are
// there already.
func existing(s subject, state *PolicyState, e *example.Example) (*trial, error) {
	targets := targetsOf(e.Test)
	// The copy changes what the test speaks of and nothing else, so its name is of
	// that as well.
	s = part(s, e.Rule+" "+strings.Join(targets, " "))
	made := func(s subject) (installation, error) { return changingCopy(s, targets) }
	if s.policy.Object.GroupVersionKind().Group == legacyGroup {
		made = func(s subject) (installation, error) { return legacyChangingCopy(s, e.Rule, targets) }
	}
	out, err := trialWith(s, state, made)
	if err != nil {
		return nil, err
	}
	out.alone, out.ask, out.effective = true, askExisting, changesForCanary
	return out, nil
}

// targetsOf are the objects that a policy may change for a test, as
// NAMESPACE/NAME. Where a file states no namespace, it is «default» or none.
func targetsOf(t *example.Test) []string {
	var out []string
	for _, o := range slices.Concat(t.Targets, t.Resources, t.Objects) {
		out = append(out, o.GetNamespace()+"/"+o.GetName())
		if o.GetNamespace() == "" {
			out = append(out, "default/"+o.GetName())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// changingCopy is that of a MutatingPolicy that changes existing objects: it
// changes these targets when it is asked, and one of its canary's.
func changingCopy(s subject, targets []string) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	spec["failurePolicy"] = "Fail"
	spec["evaluation"] = map[string]any{"admission": map[string]any{"enabled": true}, "mutateExisting": map[string]any{"enabled": true}}
	delete(spec, "webhookConfiguration")
	unstructured.RemoveNestedField(spec, "autogen", "mutatingAdmissionPolicy")
	var out installation
	if err := selecting(s, spec, true, &out); err != nil {
		return installation{}, err
	}
	own := fmt.Sprintf("object.metadata.name == '%s'", generatedCanary(s.name))
	canaryRule := map[string]any{
		"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{opCreate, opUpdate},
		"resources": []any{"configmaps"}, "resourceNames": []any{generatedCanary(s.name)},
	}
	constraints, stated := spec["targetMatchConstraints"].(map[string]any)
	expression, selects := constraints["expression"].(string)
	switch {
	case selects:
		constraints["expression"] = fmt.Sprintf("(%s) ? resource.List('v1', 'configmaps'%s) : (\n%s\n)", isCanary, inNamespace(object, ", ", ""), expression)
	case stated:
		rules, _ := constraints["resourceRules"].([]any)
		constraints["resourceRules"] = append(slices.Clone(rules), canaryRule)
		if labels, ok := satisfy(constraints["objectSelector"]); ok {
			out.also = labels
		}
	default:
		matched, _ := spec["matchConstraints"].(map[string]any)
		rules, _ := matched["resourceRules"].([]any)
		if out.canary.GetKind() != "Pod" {
			matched["resourceRules"] = append(slices.Clone(rules), canaryRule)
		}
		out.also = out.canary.GetLabels()
	}
	conditions := []any{
		map[string]any{"name": "fpc-ask", "expression": selector(s.name)},
		map[string]any{"name": "fpc-targets", "expression": fmt.Sprintf(
			"(%s) == (%s) && (%s || ((has(object.metadata.namespace) ? object.metadata.namespace : '') + '/' + object.metadata.name) in [%s])",
			isCanary, own, own, quoted(targets))},
	}
	declared, _ := spec["targetMatchConditions"].([]any)
	for _, entry := range declared {
		condition, _ := entry.(map[string]any)
		text, _ := condition["expression"].(string)
		condition["expression"] = fmt.Sprintf("(%s) || (\n%s\n)", own, text)
		conditions = append(conditions, condition)
	}
	spec["targetMatchConditions"] = conditions
	mutations, _ := spec["mutations"].([]any)
	spec["mutations"] = append(slices.Clone(mutations), markPatch(s.name))
	return out, inForce(s, object, &out)
}

// legacyChangingCopy is that of a rule of a ClusterPolicy or Policy that changes
// existing objects; of all such rules where none is named.
func legacyChangingCopy(s subject, name string, targets []string) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	listed := make([]any, len(targets))
	for i, target := range targets {
		listed[i] = target
	}
	var rules []any
	for _, rule := range rulesOf(object) {
		if ruleEffect(rule) != effectExisting || name != "" && rule["name"] != declaredRule(name) {
			continue
		}
		mutate, _ := rule["mutate"].(map[string]any)
		entries, _ := mutate["targets"].([]any)
		for _, entry := range entries {
			if target, ok := entry.(map[string]any); ok {
				target["preconditions"] = also(target["preconditions"], map[string]any{
					"key": "{{ target.metadata.namespace || '' }}/{{ target.metadata.name }}", "operator": "AnyIn", "value": listed,
				})
			}
		}
		rules = append(rules, rule)
	}
	asking(s, object, spec)
	spec["rules"] = append(rules, map[string]any{
		"name":          canaryName,
		"match":         map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{"ConfigMap"}}}}},
		"preconditions": onlyCanary(),
		"mutate": map[string]any{
			"targets": []any{map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": generatedCanary(s.name), "namespace": "{{ request.namespace }}"}},
			"patchStrategicMerge": map[string]any{
				"metadata": map[string]any{"annotations": map[string]any{appliedKey: s.name}},
			},
		},
	})
	return legacyInstallation(s, object)
}

// also adds a condition that must hold too to preconditions, which are a list of
// old, or lists of those that all and of those of which any must hold.
func also(preconditions, condition any) any {
	switch declared := preconditions.(type) {
	case []any:
		return append([]any{condition}, declared...)
	case map[string]any:
		all, _ := declared["all"].([]any)
		declared["all"] = append([]any{condition}, all...)
		return declared
	}
	return map[string]any{"all": []any{condition}}
}

// changesForCanary sends a canary for real and says whether the copy changed what
// stands there for it to change.
func changesForCanary(ctx context.Context, b *Bench, t *trial) (bool, error) {
	target := canaryObject("ConfigMap", t.also)
	target.SetName(generatedCanary(t.name))
	target.SetNamespace(t.canary.GetNamespace())
	for _, object := range []*unstructured.Unstructured{t.canary, target} {
		if err := b.gone(ctx, object); err != nil {
			return false, err
		}
	}
	if err := b.create(ctx, target); err != nil {
		return false, fmt.Errorf("store what the canary is to change: %w", err)
	}
	before := t.requests.of(t)
	got := b.send(ctx, request{operation: opCreate, object: t.canary, copies: []string{t.name}, real: true})
	if got.err != nil {
		return false, got.err
	}
	var found outcome
	changed := false
	var err error
	b.within(ctx, canaryPatience, func(ctx context.Context) bool {
		if found = t.requests.outcomeOf(t, t.canary, before); !found.done {
			return false
		}
		var now *unstructured.Unstructured
		if now, err = b.read(ctx, target); err == nil && now != nil {
			_, changed = marked(now, t.name)
		}
		return true
	})
	switch {
	case changed:
		return true, nil
	case err != nil:
		return false, err
	case found.failure != "":
		// What fails for the canary in the copy's own name is its answer as well.
		return strings.Contains(found.failure, t.name), errors.New(found.failure)
	case !found.requested:
		return false, errors.New("nothing was asked of the background controller for its canary")
	case !found.done:
		return false, errors.New("the background controller does not finish the work on its canary")
	}
	return false, errors.New("the background controller did not change what the canary asks for")
}

// target is an object that a policy may change.
type target struct {
	// stored is as it stood before.
	stored, file *unstructured.Unstructured
	undo         func(context.Context) error
}

// askExisting stores the targets of an example, sends what triggers the policy for
// real, and compares what became of the targets with what is expected.
func askExisting(ctx context.Context, b *Bench, t *trial, v *Verdict) {
	e := v.Example
	var targets []target
	defer func() {
		for _, one := range slices.Backward(targets) {
			note(v, one.undo(context.WithoutCancel(ctx)))
		}
	}()
	for _, file := range e.Test.Targets {
		placed := b.place(file)
		if ns := placed.GetNamespace(); ns != "" {
			if err := b.namespace(ctx, ns, b.currentLabels(ns)); err != nil {
				v.Verdict, v.Reason = example.Unknown, err.Error()
				return
			}
		}
		stored, undo, got := b.store(ctx, placed)
		if got.err != nil {
			v.Verdict, v.Reason = refusedOr(got), fmt.Sprintf("store the target %s: %v", identityOf(placed), got.err)
			return
		}
		targets = append(targets, target{stored: stored, file: file, undo: undo})
	}
	triggers := []*unstructured.Unstructured{e.Object}
	if slices.Contains(e.Test.Targets, e.Object) {
		triggers = e.Test.Resources
	}
	for _, trigger := range triggers {
		done, ok := pull(ctx, b, t, v, trigger)
		defer done.all(context.WithoutCancel(ctx))
		if !ok {
			return
		}
	}
	v.Verdict = example.Skip
	for _, one := range targets {
		if slices.Contains(e.Test.Targets, e.Object) && one.file != e.Object {
			continue
		}
		if !compareTarget(ctx, b, t, v, one) {
			return
		}
	}
}

// pull sends a trigger and waits until the background controller has worked on it.
// False: the verdict says why not.
func pull(ctx context.Context, b *Bench, t *trial, v *Verdict, trigger *unstructured.Unstructured) (*undoing, bool) {
	e := v.Example
	r := request{operation: e.Operation, object: b.place(trigger), user: e.Test.User, copies: []string{t.name}, real: true}
	v.Sent = r.String()
	placed := r.object
	tidy := &undoing{b: b, t: t, v: v}
	if !tidy.prepare(ctx, &r) {
		return tidy, false
	}
	before := t.requests.of(t)
	if !tidy.send(ctx, r) {
		return tidy, false
	}
	found := t.settle(ctx, b, v, placed, before)
	switch {
	case found.failure != "":
		v.Verdict, v.Words = example.Error, []string{t.asWritten(found.failure)}
	case found.requested && !found.done:
		v.Verdict, v.Reason = example.Unknown, fmt.Sprintf("the background controller has not finished after %s", b.options.Patience)
	default:
		return tidy, true
	}
	return tidy, false
}

// compareTarget adds to a verdict what became of a target; false: it is settled.
func compareTarget(ctx context.Context, b *Bench, t *trial, v *Verdict, one target) bool {
	e := v.Example
	now, err := b.read(ctx, one.stored)
	if err != nil || now == nil {
		v.Verdict, v.Reason = example.Unknown, fmt.Sprintf("%s is not there any more: %v", identityOf(one.stored), err)
		return false
	}
	actual, applied := marked(now, t.name)
	update := request{operation: opUpdate}
	if t.policy.Object.GroupVersionKind().Group == legacyGroup {
		applied = !equal(requested(update, one.stored), requested(update, actual))
	}
	if applied {
		v.Verdict = example.Pass
	}
	if e.Patched == nil || e.Patched.GroupVersionKind() != now.GroupVersionKind() || e.Patched.GetName() != now.GetName() {
		return true
	}
	want := e.Patched.DeepCopy()
	want.SetNamespace(now.GetNamespace())
	want.SetResourceVersion(now.GetResourceVersion())
	expected := requested(update, want)
	if got := b.latest(ctx, request{operation: opUpdate, object: want}); got.err == nil {
		expected = requested(update, got.object)
	} else if got.unavailable || apierrors.IsConflict(got.err) {
		v.Verdict, v.Reason = example.Unknown, got.err.Error()
		return false
	}
	v.judgeDifference(difference(expected, requested(update, actual)), applied)
	return true
}
