package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// appliedKey is the annotation with which a copy marks what it was applied to,
// with its own name: a policy may apply and change nothing.
const appliedKey = "fpc-applied"

// markPatch adds the annotation. It is a JSON patch, since Kyverno does not
// rewrite those where it derives policies for the controllers of pods.
func markPatch(name string) map[string]any {
	const key = "'" + appliedKey + "'"
	return map[string]any{"patchType": "JSONPatch", "jsonPatch": map[string]any{"expression": fmt.Sprintf(
		`has(object.metadata.annotations) ? [JSONPatch{op: "add", path: "/metadata/annotations/" + %s, value: '%s'}] : [JSONPatch{op: "add", path: "/metadata/annotations", value: {%s: '%s'}}]`,
		key, name, key, name)}}
}

// marked says whether a copy marked the object, and returns it without the mark.
func marked(object *unstructured.Unstructured, name string) (*unstructured.Unstructured, bool) {
	out := object.DeepCopy()
	annotations := out.GetAnnotations()
	if annotations[appliedKey] != name {
		return out, false
	}
	delete(annotations, appliedKey)
	out.SetAnnotations(annotations)
	return out, true
}

// mutation is the trial of an example whose object a policy changes.
func mutation(s subject, state *PolicyState, e *example.Example) (*trial, error) {
	switch s.policy.Object.GroupVersionKind().Group {
	case admissionGroup:
		return trialWith(s, state, admissionMutatingCopy)
	case celGroup:
		return trialWith(s, state, mutatingCopy)
	}
	all := mutatingRules(s.policy.Object)
	made, err := trialWith(s, state, rulesUpTo(len(all)))
	index := slices.IndexFunc(all, func(rule any) bool { return rule.(map[string]any)["name"] == declaredRule(e.Rule) })
	if index < 0 || len(all) == 1 {
		return made, err
	}
	if index > 0 && err == nil {
		made.before, err = trialWith(part(s, strconv.Itoa(index)), state, rulesUpTo(index))
	}
	if index < len(all)-1 && err == nil {
		made.upto, err = trialWith(part(s, strconv.Itoa(index+1)), state, rulesUpTo(index+1))
	}
	return made, err
}

// trialWith is a trial with a copy that is made in some way.
func trialWith(s subject, state *PolicyState, made func(subject) (installation, error)) (*trial, error) {
	installed, err := made(s)
	return &trial{subject: s, state: state, installation: installed, ask: askMutation, effective: mutatesCanary}, err
}

// part is a subject of some of the rules, whose copy has a name of its own.
func part(s subject, of string) subject {
	sum := sha256.Sum256([]byte(s.name + " " + of))
	s.name = "p" + hex.EncodeToString(sum[:])[:10]
	return s
}

// mutatingCopy is that of a MutatingPolicy: it changes what asks for it, and marks
// what it was applied to.
func mutatingCopy(s subject) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	spec["failurePolicy"] = "Fail"
	spec["evaluation"] = map[string]any{"admission": map[string]any{"enabled": true}}
	delete(spec, "webhookConfiguration")
	unstructured.RemoveNestedField(spec, "autogen", "mutatingAdmissionPolicy")
	var out installation
	if err := selecting(s, spec, true, &out); err != nil {
		return installation{}, err
	}
	mutations, _ := spec["mutations"].([]any)
	spec["mutations"] = append(slices.Clone(mutations), markPatch(s.name))
	return out, inForce(s, object, &out)
}

// admissionMutatingCopy is that of Kubernetes' own MutatingAdmissionPolicy with its
// bindings, and one for its canary.
func admissionMutatingCopy(s subject) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	object.SetAPIVersion(admissionGroup + "/v1")
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	spec["failurePolicy"] = "Fail"
	var out installation
	if err := selecting(s, spec, false, &out); err != nil {
		return installation{}, err
	}
	mutations, _ := spec["mutations"].([]any)
	spec["mutations"] = append(slices.Clone(mutations), markPatch(s.name))
	bindings := s.policy.Bindings
	if len(bindings) == 0 {
		bindings = []*unstructured.Unstructured{{Object: map[string]any{"kind": "MutatingAdmissionPolicyBinding", "spec": map[string]any{}}}}
	}
	out.objects = append(out.objects, object)
	bind := func(binding *unstructured.Unstructured, suffix string) (map[string]any, error) {
		bound, fields, err := boundCopy(binding, s, suffix)
		if err != nil {
			return nil, err
		}
		bound.SetAPIVersion(admissionGroup + "/v1")
		// This kind of binding has none.
		delete(fields, "validationActions")
		out.objects = append(out.objects, bound)
		return fields, nil
	}
	for i, binding := range bindings {
		if _, err := bind(binding, strconv.Itoa(i)); err != nil {
			return installation{}, err
		}
	}
	if out.canary == nil {
		return out, nil
	}
	// The last one: when it is in force, the others are.
	fields, err := bind(bindings[0], bindingCanary)
	if err != nil {
		return installation{}, err
	}
	rules, _, _ := unstructured.NestedSlice(spec, "matchConstraints", "resourceRules")
	fields["matchResources"] = map[string]any{"resourceRules": []any{rules[len(rules)-1]}}
	return out, nil
}

// inForce completes the installation of a copy in CEL by its exceptions and the
// namespace of its canary.
func inForce(s subject, object *unstructured.Unstructured, out *installation) error {
	if namespace := object.GetNamespace(); namespace != "" && out.canary != nil {
		out.canary.SetNamespace(namespace)
	}
	exceptions, err := celExceptions(s)
	out.objects = append(exceptions, object)
	return err
}

// selecting gives a copy in CEL its match conditions, and constraints that match a
// canary.
func selecting(s subject, spec map[string]any, autogen bool, out *installation) error {
	conditions := aspectConditions(spec, s.aspect)
	widen, err := constrain(spec, s.aspect, autogen, out)
	if err != nil {
		return fmt.Errorf("%s: %w", s.policy, err)
	}
	all := []any{map[string]any{"name": "fpc-ask", "expression": selector(s.name)}}
	if widen != "" {
		all = append(all, map[string]any{"name": "fpc-operations", "expression": orCanary(widen)})
	}
	spec["matchConditions"] = append(all, conditions...)
	return nil
}

// mutatingRules are those of a legacy policy that change the object of a request.
func mutatingRules(policy *unstructured.Unstructured) []any {
	var out []any
	for _, rule := range rulesOf(policy) {
		if ruleEffect(rule) == effectMutate {
			out = append(out, rule)
		}
	}
	return out
}

// rulesUpTo makes a copy of the first so many of the rules that change the object
// of a request.
func rulesUpTo(count int) func(subject) (installation, error) {
	return func(s subject) (installation, error) { return legacyMutatingCopy(s, count) }
}

// legacyMutatingCopy is that of a ClusterPolicy or Policy, with a rule for the
// canary.
func legacyMutatingCopy(s subject, count int) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	rules := mutatingRules(object)[:count]
	asking(s, object, spec)
	spec["rules"] = append(slices.Clone(rules), map[string]any{
		"name":          canaryName,
		"match":         map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{"ConfigMap"}}}}},
		"preconditions": onlyCanary(),
		"mutate": map[string]any{"patchStrategicMerge": map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{appliedKey: s.name}},
		}},
	})
	return legacyInstallation(s, object)
}

// legacyInstallation is that of a copy whose rules keep their names.
func legacyInstallation(s subject, object *unstructured.Unstructured) (installation, error) {
	out := installation{canary: canaryObject("ConfigMap", nil)}
	out.canary.SetNamespace(object.GetNamespace())
	var rules []string
	for _, rule := range rulesOf(object) {
		if name, _ := rule["name"].(string); name != canaryName {
			rules = append(rules, ruleNames(name)...)
		}
	}
	full, copied := s.policy.Object.GetName(), s.name
	if namespace := object.GetNamespace(); namespace != "" {
		full, copied = namespace+"/"+full, namespace+"/"+copied
	}
	for _, exception := range s.exceptions {
		var excepted []any
		entries, _, _ := unstructured.NestedSlice(exception.Object, "spec", "exceptions")
		for _, entry := range entries {
			fields, _ := entry.(map[string]any)
			patterns, _, _ := unstructured.NestedStringSlice(fields, "ruleNames")
			for _, name := range rules {
				if fields["policyName"] == full && slices.ContainsFunc(patterns, func(pattern string) bool { return wildcard(pattern, name) }) {
					excepted = append(excepted, name)
				}
			}
		}
		if len(excepted) == 0 {
			continue
		}
		made, spec, err := exceptionCopy(exception, s, len(out.objects))
		if err != nil {
			return installation{}, err
		}
		spec["exceptions"] = []any{map[string]any{"policyName": copied, "ruleNames": excepted}}
		out.objects = append(out.objects, made)
	}
	out.objects = append(out.objects, object)
	return out, nil
}

// onlyCanary are the preconditions that only a canary meets. A rule that names it
// would keep Kyverno from deriving rules for the controllers of pods.
func onlyCanary() map[string]any {
	return map[string]any{"all": []any{map[string]any{
		"key": "{{ request.name || '' }}", "operator": "Equals", "value": canaryName,
	}}}
}

// asking makes a legacy policy answer only requests that ask for it. The
// selector is a condition of the webhook: an unmet precondition would not keep the
// others of its rule from failing.
func asking(s subject, object *unstructured.Unstructured, spec map[string]any) {
	object.SetAnnotations(autogenAnnotations(s.policy.Object))
	for _, field := range []string{"webhookTimeoutSeconds", "validationFailureAction", "validationFailureActionOverrides", "schemaValidation"} {
		delete(spec, field)
	}
	spec["failurePolicy"], spec["background"], spec["admission"] = "Fail", false, true
	spec["mutateExistingOnPolicyUpdate"], spec["generateExisting"] = false, false
	delete(spec, "generateExistingOnPolicyUpdate")
	condition := map[string]any{"name": "fpc-ask", "expression": selector(s.name)}
	conditions, _, _ := unstructured.NestedSlice(spec, "webhookConfiguration", "matchConditions")
	spec["webhookConfiguration"] = map[string]any{"matchConditions": append([]any{condition}, conditions...)}
}

// autogenAnnotations are those of a legacy policy that say for which controllers
// of pods it holds.
func autogenAnnotations(policy *unstructured.Unstructured) map[string]string {
	const key = "pod-policies.kyverno.io/autogen-controllers"
	if value, found := policy.GetAnnotations()[key]; found {
		return map[string]string{key: value}
	}
	return nil
}

// mutatesCanary says whether a copy marks its canary, or errs in its own name.
func mutatesCanary(ctx context.Context, b *Bench, t *trial) (bool, error) {
	got := b.send(ctx, request{operation: opCreate, object: t.canary, copies: []string{t.name}})
	if got.err != nil {
		return strings.Contains(got.err.Error(), t.name), got.err
	}
	_, ok := marked(got.object, t.name)
	return ok, nil
}

// askMutation compares three dry runs: of the object with nobody asked, with the
// copy asked, and of what is expected with nobody asked.
func askMutation(ctx context.Context, b *Bench, t *trial, v *Verdict) {
	e := v.Example
	object := b.place(e.Object)
	bare := request{operation: e.Operation, subresource: e.Subresource, parent: e.Parent, object: object, user: e.Test.User}
	whole := object
	if !e.Parent.Empty() {
		if whole = parent(&query{example: e, object: object}); whole == nil {
			v.Verdict, v.Reason = example.NotSupported, fmt.Sprintf("the %s whose %s it is stands in no file of the test", e.Parent.Kind, e.Subresource)
			return
		}
		whole = b.place(whole)
	}
	if e.Operation == opUpdate || !e.Parent.Empty() {
		stored, undo, got := b.store(ctx, whole)
		if got.err != nil {
			v.Verdict, v.Reason = refusedOr(got), "store the object first: "+got.err.Error()
			return
		}
		defer func() { note(v, undo(context.WithoutCancel(ctx))) }()
		if e.Parent.Empty() {
			bare.object = stored
		}
	} else {
		restore, err := b.vacate(ctx, object)
		if err != nil {
			v.Verdict, v.Reason = example.NotSupported, err.Error()
			return
		}
		if restore != nil {
			defer func() { note(v, restore(context.WithoutCancel(ctx))) }()
		}
	}
	asked := bare
	asked.copies = []string{t.name}
	v.Sent = asked.String()
	base, made := b.latest(ctx, bare), b.latest(ctx, asked)
	v.Seconds = made.seconds
	switch {
	case made.unavailable:
		v.Verdict, v.Reason = example.Unknown, made.err.Error()
		return
	case made.err != nil && strings.Contains(made.err.Error(), t.name):
		v.Verdict, v.Words = example.Error, []string{t.asWritten(made.err.Error())}
		return
	case base.unavailable:
		v.Verdict, v.Reason = example.Unknown, base.err.Error()
		return
	case made.err != nil && base.err != nil:
		v.Verdict, v.Reason = refusedOr(base), base.err.Error()
		return
	case made.err != nil:
		v.Verdict, v.Reason = refusedOr(made), "the API server refuses what the policy makes of it: "+made.err.Error()
		return
	case base.err != nil:
		v.Notes = append(v.Notes, "without the policy the API server refuses it: "+base.err.Error())
	}
	actual, applied := marked(made.object, t.name)
	actual = requested(bare, actual)
	changed := base.object == nil || !equal(requested(bare, base.object), actual)
	if t.policy.Object.GroupVersionKind().Group == legacyGroup {
		// To a legacy rule that changes nothing, nothing was done.
		applied = changed
		if t.before != nil || t.upto != nil {
			without, with := base.object, actual
			if t.before != nil {
				without = sent(ctx, b, bare, t.before, v)
			}
			if t.upto != nil {
				with = sent(ctx, b, bare, t.upto, v)
			}
			if without == nil || with == nil {
				return
			}
			applied = !equal(requested(bare, without), requested(bare, with))
		}
	}
	v.Verdict = example.Skip
	if applied {
		v.Verdict = example.Pass
	}
	if e.Patched == nil {
		return
	}
	expected, problem := b.expected(ctx, bare, e.Patched)
	if problem.err != nil {
		if problem.unavailable {
			v.Verdict, v.Reason = example.Unknown, problem.err.Error()
			return
		}
		v.Notes = append(v.Notes, "the API server refuses the expected object: "+problem.err.Error())
		expected = requested(bare, e.Patched)
	}
	v.judgeDifference(difference(expected, actual), applied)
}

// judgeDifference judges by how what a policy made of an object differs from what
// is expected.
func (v *Verdict) judgeDifference(diff string, applied bool) {
	switch {
	case diff == "":
	case applied:
		v.Verdict, v.Reason = example.Fail, diff
	default:
		v.Reason = "the policy does not change it\n" + diff
		if v.Example.Expected == example.Skip {
			v.Verdict = example.Fail
		}
	}
}

// latest sends a dry run; one of an update for what is there by then: a controller
// may change it between two requests.
func (b *Bench) latest(ctx context.Context, r request) response {
	got := b.send(ctx, r)
	for range 5 {
		if !apierrors.IsConflict(got.err) || r.operation != opUpdate || !r.parent.Empty() {
			break
		}
		now, err := b.get(ctx, r.object)
		if err != nil {
			break
		}
		r.object = r.object.DeepCopy()
		r.object.SetResourceVersion(now.GetResourceVersion())
		got = b.send(ctx, r)
	}
	return got
}

// refusedOr is the verdict on what the server did not take: that another webhook
// refused says nothing of the object.
func refusedOr(got response) example.Verdict {
	if got.unavailable || denied(got.err.Error()) {
		return example.Unknown
	}
	return example.Invalid
}

// requested is a settled object without the status that controllers give to what
// is stored, unless the request is about that.
func requested(r request, object *unstructured.Unstructured) *unstructured.Unstructured {
	out := settled(object)
	if r.operation == opUpdate && r.parent.Empty() {
		delete(out.Object, "status")
	}
	return out
}

// sent is what a copy of some of the rules makes of an object; nil: nothing, and
// the verdict says why.
func sent(ctx context.Context, b *Bench, bare request, part *trial, v *Verdict) *unstructured.Unstructured {
	bare.copies = []string{part.name}
	got := b.latest(ctx, bare)
	if got.err != nil {
		v.Verdict, v.Reason = example.Unknown, "some of the rules alone: "+part.asWritten(got.err.Error())
		return nil
	}
	return got.object
}

// expected is what the server makes of the expected object, where the example's
// own stood.
func (b *Bench) expected(ctx context.Context, bare request, patched *unstructured.Unstructured) (*unstructured.Unstructured, response) {
	object := patched.DeepCopy()
	if object.GetNamespace() == "" {
		object.SetNamespace(bare.object.GetNamespace())
	}
	if bare.operation == opUpdate {
		object.SetResourceVersion(bare.object.GetResourceVersion())
	}
	bare.object = object
	got := b.latest(ctx, bare)
	if got.err != nil {
		return nil, got
	}
	return requested(bare, got.object), got
}

// changesExisting says whether a MutatingPolicy changes objects that are there
// already.
func changesExisting(policy *unstructured.Unstructured) bool {
	on, _, _ := unstructured.NestedBool(policy.Object, "spec", "evaluation", "mutateExisting", "enabled")
	return on
}
