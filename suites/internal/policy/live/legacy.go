package live

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// legacyGroup is that of Kyverno's policies with rules in JMESPath.
const legacyGroup = "kyverno.io"

// The rules of a copy, each with the index of the rule that it is made of.
const (
	// ruleItself is the rule with a short message.
	ruleItself = "r"
	// ruleTwin refuses whatever the rule is evaluated for: Kyverno passes on no word
	// of a rule that is satisfied.
	ruleTwin = "t"
	// ruleBare is the rule without what may excuse a violation: an exception for
	// some controls of pod security, or that the old object violates it already.
	ruleBare = "x"
	// ruleCanary refuses a canary.
	ruleCanary = "c"
)

// legacyMessage is the message of all rules of copies.
const legacyMessage = "!"

// legacyForm is Kyverno's ClusterPolicy and Policy, of which it judges the rules
// that validate.
type legacyForm struct{}

func (legacyForm) judges(policy *unstructured.Unstructured) bool {
	return isLegacy(policy) && slices.ContainsFunc(rulesOf(policy), judgedRule)
}

func isLegacy(policy *unstructured.Unstructured) bool {
	kind := policy.GetKind()
	return policy.GroupVersionKind().Group == legacyGroup && (kind == "ClusterPolicy" || kind == "Policy")
}

// rulesOf are the rules of a legacy policy; what is not an object is an empty one,
// so that indexes remain.
func rulesOf(policy *unstructured.Unstructured) []map[string]any {
	list, _, _ := unstructured.NestedSlice(policy.Object, "spec", "rules")
	out := make([]map[string]any, len(list))
	for i, entry := range list {
		out[i], _ = entry.(map[string]any)
	}
	return out
}

// judgedRule says whether a rule validates in a way that examples can show.
func judgedRule(rule map[string]any) bool { return unjudged(rule) == "" }

// unjudged says why a rule cannot be judged by its warnings; empty: it can.
func unjudged(rule map[string]any) string {
	if validation, ok := rule["validate"].(map[string]any); ok {
		if validation["manifests"] != nil {
			return "it verifies the signatures of manifests, which needs keys and registries that a test does not bring"
		}
		return ""
	}
	if rule["verifyImages"] != nil {
		return "it verifies the signatures of images, which needs keys and registries that a test does not bring"
	}
	return "it does not validate"
}

func (legacyForm) reason(e *example.Example) string {
	var reason string
	for _, rule := range rulesOf(e.Policy.Object) {
		name, _ := rule["name"].(string)
		if e.Rule != "" && !slices.Contains(ruleNames(name), e.Rule) {
			continue
		}
		why := unjudged(rule)
		if why == "" {
			return ""
		}
		reason = fmt.Sprintf("rule %s: %s", name, why)
	}
	if reason == "" {
		return fmt.Sprintf("%s has no rule %q", e.Policy, e.Rule)
	}
	return reason
}

// autogenPrefixes are those of the rules that Kyverno derives from one for Pods.
var autogenPrefixes = []string{"", "autogen-", "autogen-cronjob-"}

// ruleNames are those that a rule goes by, in the order of autogenPrefixes.
func ruleNames(name string) []string {
	out := make([]string, len(autogenPrefixes))
	for i, prefix := range autogenPrefixes {
		out[i] = prefix + name
		if i > 0 && len(out[i]) > 63 {
			out[i] = out[i][:63]
		}
	}
	return out
}

func (legacyForm) audits(p *example.Policy) bool {
	policy := p.Object
	return !slices.ContainsFunc(rulesOf(policy), func(rule map[string]any) bool {
		return rule["validate"] != nil && (enforces(policy, rule) || overrides(policy.Object["spec"], "validationFailureActionOverrides") || overrides(rule["validate"], "failureActionOverrides"))
	})
}

// enforces says whether a rule refuses, where nothing overrides it.
func enforces(policy *unstructured.Unstructured, rule map[string]any) bool {
	action, found, _ := unstructured.NestedString(rule, "validate", "failureAction")
	if !found {
		action, _, _ = unstructured.NestedString(policy.Object, "spec", "validationFailureAction")
	}
	return strings.EqualFold(action, "Enforce")
}

// overrides says whether one of the overrides of an object's field enforces.
func overrides(object any, field string) bool {
	fields, _ := object.(map[string]any)
	list, _ := fields[field].([]any)
	return slices.ContainsFunc(list, func(entry any) bool {
		override, _ := entry.(map[string]any)
		action, _ := override["action"].(string)
		return strings.EqualFold(action, "Enforce")
	})
}

func (legacyForm) install(s subject) (installation, error) {
	policy := s.policy.Object
	if !s.aspect.Whole && s.aspect.Validation < 0 {
		return installation{}, fmt.Errorf("%s: the rules of a legacy policy have no constraints or conditions that can be asked for alone", s.policy)
	}
	exceptions, err := legacyExceptions(s)
	if err != nil {
		return installation{}, err
	}
	var rules []any
	var compile []*unstructured.Unstructured
	kept := map[int]bool{}
	for i, rule := range rulesOf(policy) {
		if judgedRule(rule) && (s.aspect.Whole || s.aspect.Validation == i) {
			kept[i] = true
			if expressions := expressionsOf(s.name, i, rule); expressions != nil {
				compile = append(compile, expressions)
			}
			if withoutKinds(rule, s.unserved) {
				rules = append(rules, copiesOfRule(s, i, rule, exceptions)...)
			}
		}
	}
	if len(kept) == 0 {
		return installation{}, fmt.Errorf("%s has no rule that validates", s.policy)
	}
	object := copyOf(policy, s.name)
	object.SetAPIVersion(legacyGroup + "/v1")
	rules = append(rules, canaryRule())
	spec := map[string]any{"validationFailureAction": "Audit", "background": false, "failurePolicy": "Fail", "rules": rules}
	object.Object["spec"] = spec
	if namedBy(s.name, namedByGroup) {
		share(rules, s.name)
	} else {
		spec["webhookConfiguration"] = webhookOf(policy, s.name, orCanary)
	}
	annotate(policy, object, kept)
	if s.podsOnly {
		object.SetAnnotations(map[string]string{autogenKey: "none"})
	}
	canary := canaryObject("ConfigMap", nil)
	canary.SetNamespace(policy.GetNamespace())
	return installation{objects: append(exceptions, object), canary: canary, compile: compile}, nil
}

// ruleKey is the annotation that tells of which rule expressions are.
const ruleKey = "conformance.flux-platform/rule"

// expressionsOf are the expressions of a rule in CEL as a policy of the API server,
// which Kyverno compiles them as; nil: the rule has none. Kyverno itself says that
// one does not compile in a warning of several lines, which the API server drops.
func expressionsOf(name string, index int, rule map[string]any) *unstructured.Unstructured {
	cel, there, _ := unstructured.NestedMap(rule, "validate", "cel")
	if !there {
		return nil
	}
	spec := map[string]any{
		"failurePolicy": "Fail",
		"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
			"apiGroups": []any{"*"}, "apiVersions": []any{"*"}, "resources": []any{"*"}, "operations": []any{"*"},
		}}},
	}
	for from, to := range map[string]string{"expressions": "validations", "variables": "variables", "auditAnnotations": "auditAnnotations", "paramKind": "paramKind"} {
		if cel[from] != nil {
			spec[to] = cel[from]
		}
	}
	if conditions, ok := rule["celPreconditions"]; ok {
		spec["matchConditions"] = conditions
	}
	ruleName, _ := rule["name"].(string)
	out := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "spec": spec,
	}}
	out.SetName(fmt.Sprintf("%s-%d", name, index))
	out.SetAnnotations(map[string]string{ruleKey: "rule " + ruleName})
	return out
}

// webhookOf has the API server ask for a policy only where a request asks for a
// name, and the policy's own match conditions, each changed, hold. So what nobody
// asks for costs Kyverno nothing, and what a rule says remains as it is: even a
// precondition would change it.
func webhookOf(policy *unstructured.Unstructured, name string, change func(string) string) map[string]any {
	own, _, _ := unstructured.NestedSlice(policy.Object, "spec", "webhookConfiguration", "matchConditions")
	for _, entry := range own {
		if condition, ok := entry.(map[string]any); ok {
			expression, _ := condition["expression"].(string)
			condition["expression"] = change(expression)
		}
	}
	return map[string]any{"matchConditions": append([]any{map[string]any{"name": "fpc-ask", "expression": selector(name)}}, own...)}
}

// kindSelector is how a rule names kinds: GROUP/VERSION/KIND/SUBRESOURCE, where all
// but the kind may be missing.
var kindSelector = regexp.MustCompile(`^(?:(?:([^/]+)/)?(v\d(?:(?:alpha|beta)\d)?|\*)/)?([^/.]+)(?:[/.](.+))?$`)

// unserved are the kinds that a legacy policy names and that the server does not
// know. For each of them Kyverno asks the server anew for all that it knows, and
// answers nobody meanwhile.
func (b *Bench) unserved(policy *unstructured.Unstructured) []string {
	if !isLegacy(policy) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	served := func(selector string) bool {
		parts := kindSelector.FindStringSubmatch(selector)
		if parts == nil || b.subkinds[parts[3]] {
			return true
		}
		for gvk := range b.kinds {
			if wildcard(cmp.Or(parts[1], "*"), gvk.Group) && wildcard(cmp.Or(parts[2], "*"), gvk.Version) && wildcard(parts[3], gvk.Kind) {
				return true
			}
		}
		return false
	}
	var out []string
	for _, rule := range rulesOf(policy) {
		for _, resources := range resourcesOf(rule) {
			kinds, _, _ := unstructured.NestedStringSlice(resources, "kinds")
			for _, kind := range kinds {
				if !served(kind) && !slices.Contains(out, kind) {
					out = append(out, kind)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// withoutKinds takes kinds from what a rule matches and excludes, in place; false:
// nothing is left that it can match. A filter for such kinds only matches nothing.
func withoutKinds(rule map[string]any, unserved []string) bool {
	if len(unserved) == 0 {
		return true
	}
	left := func(filter any) bool {
		fields, _ := filter.(map[string]any)
		resources, _ := fields["resources"].(map[string]any)
		kinds, found, _ := unstructured.NestedStringSlice(resources, "kinds")
		if !found || len(kinds) == 0 {
			return true
		}
		kinds = slices.DeleteFunc(kinds, func(kind string) bool { return slices.Contains(unserved, kind) })
		_ = unstructured.SetNestedStringSlice(resources, kinds, "kinds") // of a map that has it
		return len(kinds) > 0
	}
	for _, side := range []string{"match", "exclude"} {
		block, there := rule[side].(map[string]any)
		if !there {
			continue
		}
		none := !left(block)
		if list, ok := block["any"].([]any); ok {
			list = slices.DeleteFunc(list, func(filter any) bool { return !left(filter) })
			block["any"], none = list, len(list) == 0
		} else if list, ok := block["all"].([]any); ok {
			none = slices.ContainsFunc(list, func(filter any) bool { return !left(filter) })
		}
		switch {
		case none && side == "match":
			return false
		case none:
			delete(rule, side)
		}
	}
	return true
}

// autogenKey is the annotation that says for which controllers Kyverno derives
// rules.
const autogenKey = "pod-policies.kyverno.io/autogen-controllers"

// annotate has Kyverno derive the rules that it derives of the policy as written:
// a rule that is not kept in the copy may forbid it for all the others.
func annotate(policy, object *unstructured.Unstructured, kept map[int]bool) {
	value, found := policy.GetAnnotations()[autogenKey]
	for i, rule := range rulesOf(policy) {
		if !kept[i] && preventsAutogen(rule) {
			value, found = "none", true
		}
	}
	if found {
		object.SetAnnotations(map[string]string{autogenKey: value})
	}
}

// preventsAutogen says whether a rule keeps Kyverno from deriving rules of any
// rule of its policy.
func preventsAutogen(rule map[string]any) bool {
	if rule["generate"] != nil {
		return true
	}
	if mutation, ok := rule["mutate"].(map[string]any); ok {
		if mutation["patchesJson6902"] != nil {
			return true
		}
		loops, _ := mutation["foreach"].([]any)
		if slices.ContainsFunc(loops, func(entry any) bool { loop, _ := entry.(map[string]any); return loop["patchesJson6902"] != nil }) {
			return true
		}
	}
	return slices.ContainsFunc(resourcesOf(rule), func(resources map[string]any) bool {
		for _, field := range []string{"name", "names", "selector", "annotations"} {
			if resources[field] != nil {
				return true
			}
		}
		kinds, _, _ := unstructured.NestedStringSlice(resources, "kinds")
		return len(kinds) > 1 && slices.ContainsFunc(kinds, func(kind string) bool { return kind == "Pod" || strings.HasSuffix(kind, "/Pod") })
	})
}

// resourcesOf are the descriptions of resources that a rule matches and excludes.
func resourcesOf(rule map[string]any) []map[string]any {
	var out []map[string]any
	add := func(filter any) {
		fields, _ := filter.(map[string]any)
		if resources, ok := fields["resources"].(map[string]any); ok {
			out = append(out, resources)
		}
	}
	for _, field := range []string{"match", "exclude"} {
		block, _ := rule[field].(map[string]any)
		add(block)
		for _, form := range []string{"any", "all"} {
			list, _ := block[form].([]any)
			for _, filter := range list {
				add(filter)
			}
		}
	}
	return out
}

// canaryRule refuses a canary. It names no object in its match, which would end the
// derivation of rules for the whole policy.
func canaryRule() map[string]any {
	return map[string]any{
		"name":  ruleCanary,
		"match": map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{"ConfigMap"}}}}},
		"preconditions": map[string]any{"all": []any{
			map[string]any{"key": "{{ request.object.metadata.name }}", "operator": "Equals", "value": canaryName},
		}},
		"validate": map[string]any{
			"message": legacyMessage, "failureAction": "Audit", "failureActionOverrides": []any{unaudited()}, "deny": map[string]any{},
		},
	}
}

// share has rules answer in the webhook that copies share, to requests that name the
// copy with a group. There Kyverno evaluates in time for the answer only rules that
// enforce; an override keeps them from refusing, wherever the object stands.
func share(rules []any, name string) {
	for _, entry := range rules {
		rule, _ := entry.(map[string]any)
		matchOnly(rule, name)
		validation, _ := rule["validate"].(map[string]any)
		validation["failureAction"] = "Enforce"
		validation["failureActionOverrides"] = []any{unaudited(), map[string]any{
			"action": "Audit",
			"namespaceSelector": map[string]any{"matchExpressions": []any{
				map[string]any{"key": benchLabel, "operator": "NotIn", "values": []any{"never"}},
			}},
		}}
	}
}

// unaudited is an override that enforces nowhere. Kyverno evaluates all rules that
// audit once more after each request, whoever it asked; which rules those are it
// finds without a look at the selector.
func unaudited() any {
	return map[string]any{
		"action": "Enforce", "namespaces": []any{"*"},
		"namespaceSelector": map[string]any{"matchLabels": map[string]any{benchLabel: "never"}},
	}
}

// lenient says whether a rule lets violations be that the old object has already.
func lenient(policy *unstructured.Unstructured, rule map[string]any) bool {
	validation, _ := rule["validate"].(map[string]any)
	return enforces(policy, rule) && validation["cel"] == nil && validation["assert"] == nil && validation["allowExistingViolations"] != false
}

// copiesOfRule are the rule itself, its twin and, where something may excuse a
// violation, its bare form.
func copiesOfRule(s subject, index int, rule map[string]any, exceptions []*unstructured.Unstructured) []any {
	base := auditing(rule)
	validation, _ := base["validate"].(map[string]any)
	itself := named(base, ruleItself, index)
	lenient := s.updates && lenient(s.policy.Object, rule)
	if lenient {
		// Only a rule that enforces is lenient; an override keeps it from refusing.
		fields, _ := itself["validate"].(map[string]any)
		fields["failureAction"] = "Enforce"
		fields["failureActionOverrides"] = []any{unaudited(), map[string]any{"action": "Audit"}}
	}
	out := []any{itself}
	if validation["assert"] == nil {
		out = append(out, twin(named(base, ruleTwin, index)))
	}
	excepted := validation["podSecurity"] != nil && slices.ContainsFunc(exceptions, excludesControls)
	if excepted || lenient {
		bare := named(base, ruleBare, index)
		out = append(out, bare)
	}
	return out
}

func named(rule map[string]any, letter string, index int) map[string]any {
	out := runtime.DeepCopyJSON(rule)
	out["name"] = letter + strconv.Itoa(index)
	return out
}

// auditing is a rule that refuses nothing, and says so in few words.
func auditing(rule map[string]any) map[string]any {
	out := runtime.DeepCopyJSON(rule)
	delete(out, "reportProperties")
	flatten(out)
	validation, _ := out["validate"].(map[string]any)
	mute(validation)
	validation["failureAction"] = "Audit"
	validation["failureActionOverrides"] = []any{unaudited()}
	return out
}

// mute gives a validation a short message, which no variable can spoil.
func mute(validation map[string]any) {
	validation["message"] = legacyMessage
	muteDeny(validation)
	if cel, ok := validation["cel"].(map[string]any); ok {
		delete(cel, "auditAnnotations")
		delete(cel, "generate")
		expressions, _ := cel["expressions"].([]any)
		for _, entry := range expressions {
			if fields, ok := entry.(map[string]any); ok {
				delete(fields, "messageExpression")
				delete(fields, "reason")
				fields["message"] = legacyMessage
			}
		}
	}
}

// muteDeny takes the messages of conditions, which Kyverno adds to the rule's.
func muteDeny(validation map[string]any) {
	if deny, ok := validation["deny"].(map[string]any); ok {
		removeMessages(deny["conditions"])
	}
	loops, _ := validation["foreach"].([]any)
	for _, entry := range loops {
		if loop, ok := entry.(map[string]any); ok {
			muteDeny(loop)
		}
	}
}

func removeMessages(conditions any) {
	switch conditions := conditions.(type) {
	case []any:
		for _, entry := range conditions {
			if condition, ok := entry.(map[string]any); ok {
				delete(condition, "message")
			}
		}
	case map[string]any:
		removeMessages(conditions["any"])
		removeMessages(conditions["all"])
	}
}

// never is a field of a pattern that no object satisfies; Kyverno looks at it
// after all that holds an anchor, which may still skip the rule.
const never = "_"

// twin makes a rule refuse whatever it is evaluated for, and skip what it skips.
func twin(rule map[string]any) map[string]any {
	validation, _ := rule["validate"].(map[string]any)
	out := map[string]any{
		"message": legacyMessage, "failureAction": validation["failureAction"], "failureActionOverrides": validation["failureActionOverrides"],
	}
	everything := slices.ContainsFunc(resourcesOf(rule), func(resources map[string]any) bool {
		kinds, _, _ := unstructured.NestedStringSlice(resources, "kinds")
		return slices.ContainsFunc(kinds, func(kind string) bool { return kind == "*" || strings.HasSuffix(kind, "/*") })
	})
	switch {
	case validation["cel"] != nil:
		cel, _ := validation["cel"].(map[string]any)
		cel["expressions"] = []any{map[string]any{"expression": "false", "message": legacyMessage}}
		out["cel"] = cel
	case validation["foreach"] != nil:
		loops, _ := validation["foreach"].([]any)
		for _, entry := range loops {
			if loop, ok := entry.(map[string]any); ok {
				twinLoop(loop)
			}
		}
		out["foreach"] = loops
	case validation["deny"] != nil:
		out["deny"] = map[string]any{}
	case anchored(validation["anyPattern"]):
		patterns, _ := validation["anyPattern"].([]any)
		for i, pattern := range patterns {
			patterns[i] = spoil(pattern, everything)
		}
		out["anyPattern"] = patterns
	case anchored(validation["pattern"]):
		out["pattern"] = spoil(validation["pattern"], everything)
	default:
		// Patterns and levels of pod security say nothing of deletions, and neither
		// does this.
		out["pattern"] = spoil(map[string]any{}, everything)
	}
	rule["validate"] = out
	return rule
}

// twinLoop is the twin of one loop, in place.
func twinLoop(loop map[string]any) {
	inner, _ := loop["foreach"].([]any)
	for _, entry := range inner {
		if fields, ok := entry.(map[string]any); ok {
			twinLoop(fields)
		}
	}
	if inner != nil {
		return
	}
	pattern, isMap := loop["pattern"].(map[string]any)
	patterns, isList := loop["anyPattern"].([]any)
	switch {
	case isMap && anchored(pattern):
		loop["pattern"] = spoil(pattern, false)
	case isList && anchored(patterns):
		for i := range patterns {
			patterns[i] = spoil(patterns[i], false)
		}
	default:
		delete(loop, "pattern")
		delete(loop, "anyPattern")
		loop["deny"] = map[string]any{}
	}
}

// spoil makes a pattern one that nothing satisfies. Kyverno lets a policy for
// every kind look at metadata only.
func spoil(pattern any, everything bool) any {
	fields, ok := pattern.(map[string]any)
	if !ok {
		return map[string]any{never: never}
	}
	if !everything {
		fields[never] = never
		return fields
	}
	metadata, ok := fields["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
	}
	metadata[never] = never
	fields["metadata"] = metadata
	return fields
}

var skippingAnchor = regexp.MustCompile(`^<?\(.+\)$`)

// anchored says whether a pattern has anchors that may skip the rule.
func anchored(pattern any) bool {
	switch pattern := pattern.(type) {
	case map[string]any:
		for key, value := range pattern {
			if skippingAnchor.MatchString(strings.TrimSpace(key)) || anchored(value) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(pattern, anchored)
	}
	return false
}

var legacyWarning = regexp.MustCompile(`(?s)^policy (` + copyPattern + `)\.((?:autogen-(?:cronjob-)?)?)([rtxc])(\d*): (.*)$`)

// legacyFailed is how Kyverno says that a rule is violated. That an expression of
// CEL errs is one way to violate it; all else that it says is that the rule could
// not be evaluated.
var legacyFailed = regexp.MustCompile(`(?s)^(validation failure: )*(!$|!; |validation error: !\. rule \S+\[\d+\] |validation error: !\. rule \S+ failed at path |Validation rule '|expression ')`)

func (legacyForm) read(warning string) (said, bool) {
	parts := legacyWarning.FindStringSubmatch(warning)
	if parts == nil {
		return said{}, false
	}
	out := said{copy: parts[1], rule: parts[3], derived: parts[2], index: -1, answer: Satisfied}
	if parts[3] == ruleCanary {
		out.canary = true
		return out, parts[4] == ""
	}
	index, err := strconv.Atoi(parts[4])
	if err != nil {
		return said{}, false
	}
	out.index = index
	switch words := parts[5]; {
	case parts[3] == ruleTwin || parts[3] == ruleBare:
	case legacyFailed.MatchString(words):
		out.answer = Refusing
	default:
		out.answer, out.words = Failing, words
	}
	return out, true
}

// settle makes one reply of all that a copy said of an example.
func (legacyForm) settle(e *example.Example, all []said) Reply {
	policy := e.Policy.Object
	rules := rulesOf(policy)
	one, _, _ := unstructured.NestedString(policy.Object, "spec", "applyRules")
	var out Reply
	for i, rule := range rules {
		name, _ := rule["name"].(string)
		as := ruleNames(name)
		answers := map[string]said{}
		wanted := e.Rule == "" || e.Rule == name
		for _, s := range all {
			if !s.canary && s.index == i {
				answers[s.rule] = s
				wanted = wanted || e.Rule == as[slices.Index(autogenPrefixes, s.derived)]
			}
		}
		now := settleRule(answers)
		switch {
		case !wanted:
		case now.Answer == Refusing:
			out.Answer, out.Indexes = Refusing, append(out.Indexes, i)
		case now.Answer > out.Answer && out.Answer != Refusing:
			out.Answer, out.Words = now.Answer, now.Words
		}
		// Where the policy says so, the first rule that applies is the only one.
		if one == "One" && (now.Answer == Refusing || now.Answer == Satisfied) {
			break
		}
	}
	return out
}

// settleRule makes one reply of what the copies of one rule said. The twin alone
// means that it is satisfied; its bare form beside it, that a violation is excused.
func settleRule(answers map[string]said) Reply {
	itself, spoke := answers[ruleItself]
	_, evaluated := answers[ruleTwin]
	_, bare := answers[ruleBare]
	switch {
	case spoke:
		return Reply{Answer: itself.answer, Words: itself.words}
	case evaluated && !bare:
		return Reply{Answer: Satisfied}
	}
	return Reply{}
}

func (legacyForm) written(s subject) (objects []*unstructured.Unstructured, why string, err error) {
	object := copyOf(s.policy.Object, s.policy.Object.GetName())
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return nil, "", fmt.Errorf("%s has no spec", s.policy)
	}
	if on, found := spec["admission"].(bool); found && !on {
		return nil, "it is not asked at admission", nil
	}
	if one, _ := spec["applyRules"].(string); one == "One" && slices.ContainsFunc(rulesOf(object), func(rule map[string]any) bool { return !judgedRule(rule) }) {
		return nil, "only its first rule that applies is evaluated, and some of its rules cannot be judged", nil
	}
	var rules []any
	kept := map[int]bool{}
	for i, rule := range rulesOf(object) {
		if judgedRule(rule) {
			kept[i] = true
			if withoutKinds(rule, s.unserved) {
				rules = append(rules, rule)
			}
		}
	}
	spec["rules"] = rules
	annotate(s.policy.Object, object, kept)
	if namedBy(s.name, namedByGroup) {
		for _, rule := range rules {
			fields, _ := rule.(map[string]any)
			matchOnly(fields, writtenName(s.name))
		}
		spec["background"] = false // or who asks may not matter
		return []*unstructured.Unstructured{object}, "", nil
	}
	webhook, _ := spec["webhookConfiguration"].(map[string]any)
	if webhook == nil {
		webhook = map[string]any{}
	}
	maps.Copy(webhook, webhookOf(s.policy.Object, writtenName(s.name), func(own string) string { return own }))
	spec["webhookConfiguration"] = webhook
	return []*unstructured.Unstructured{object}, "", nil
}

// legacyBlock is what a refusal by legacy policies says: the words of each rule
// under the name of its policy; nil: it is none.
func legacyBlock(refusal string) map[string]map[string]string {
	_, block, found := strings.Cut(refusal, "blocked due to the following policies")
	if !found {
		return nil
	}
	var out map[string]map[string]string
	if err := yaml.Unmarshal([]byte(block), &out); err != nil {
		return nil
	}
	return out
}

// blocking is what copies said in a refusal: one of which a rule errs refuses,
// whatever its rules are to do.
func blocking(refusal string) []said {
	var out []said
	for name, rules := range legacyBlock(refusal) {
		for rule, words := range rules {
			if s, ok := (legacyForm{}).read(fmt.Sprintf("policy %s.%s: %s", name, rule, words)); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// refused reads the block with which legacy policies refuse: the words of each
// rule under the name of its policy.
func (legacyForm) refused(policy *unstructured.Unstructured, refusal string) (string, bool) {
	rules, found := legacyBlock(refusal)[policy.GetName()]
	var out []string
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		out = append(out, fmt.Sprintf("%s: %s", name, rules[name]))
	}
	return strings.Join(out, "; "), found
}

func (legacyForm) words(policy *unstructured.Unstructured, index int) string {
	rules := rulesOf(policy)
	if index < 0 || index >= len(rules) {
		return ""
	}
	name, _ := rules[index]["name"].(string)
	message, _, _ := unstructured.NestedString(rules[index], "validate", "message")
	if message == "" {
		return name
	}
	return name + ": " + strings.TrimSpace(message)
}
