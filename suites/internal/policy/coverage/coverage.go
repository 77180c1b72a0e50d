// Package coverage tells what of a policy no example exercises. A policy may
// refuse all of its bad examples and hold expressions that have never refused
// anything: evaluation stops at the first that is not satisfied. So each part is
// judged alone, by copies that hold that part only.
package coverage

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
)

// Item is one thing that a policy says.
type Item struct {
	Policy *example.Policy `json:"-"`
	// Part is validation, condition, constraint, operation, exception, rule,
	// mutation or generation.
	Part string `json:"part"`
	// Name says which one.
	Name string `json:"name"`
	// Failing and Passing are the IDs of examples that exercise it: of a condition
	// those for which it holds and does not, of an exception those that it excepts
	// and that are refused in spite of it, of a mutation or a generation those to
	// which it applies and does not.
	Failing string `json:"failing,omitempty"`
	Passing string `json:"passing,omitempty"`
	// Missing says what example is lacking; empty: none.
	Missing string `json:"missing,omitempty"`
	// NotSupported says why no example can exercise it here; empty: one can.
	NotSupported string `json:"notSupported,omitempty"`
}

// Covered says whether nothing is lacking.
func (i Item) Covered() bool { return i.Missing == "" && i.NotSupported == "" }

func (i Item) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s: %s%s", i.Part, i.Name, i.Missing, i.NotSupported))
}

// Aspects are the parts of a policy that have to be asked alone, because the
// policy as a whole does not tell them apart; none where it does.
func Aspects(policy *example.Policy) []live.Aspect {
	var out []live.Aspect
	add := func(count, least int, of func(int) live.Aspect) {
		for i := range count {
			if count >= least {
				out = append(out, of(i))
			}
		}
	}
	if !validates(policy) {
		return nil
	}
	add(len(list(policy, "validations")), 2, func(i int) live.Aspect { return live.Aspect{Validation: i, Condition: -1, Constraint: -1} })
	add(len(list(policy, "matchConditions")), 1, func(i int) live.Aspect { return live.Aspect{Validation: -1, Condition: i, Constraint: -1} })
	add(len(list(policy, "matchConstraints", "resourceRules")), 2, func(i int) live.Aspect { return live.Aspect{Validation: -1, Condition: -1, Constraint: i} })
	return out
}

// kinds of the CEL types: validating ones have validations, and so on.
func validates(policy *example.Policy) bool { return len(list(policy, "validations")) > 0 }

func list(policy *example.Policy, fields ...string) []any {
	out, _, _ := unstructured.NestedSlice(policy.Object.Object, append([]string{"spec"}, fields...)...)
	return out
}

// Input is what the items of one policy are made of.
type Input struct {
	Policy *example.Policy
	// Verdicts are those on all examples of the policy.
	Verdicts []live.Verdict
	// Aspects are what was asked alone, and Replies what was answered: one row for
	// each aspect, one reply for each of Verdicts.
	Aspects []live.Aspect
	Replies [][]live.Reply
}

// Of lists what the policy says, each with the examples that exercise it. A policy
// without examples has items that nothing exercises.
func Of(in Input) []Item {
	var out []Item
	switch {
	case validates(in.Policy):
		out = append(out, in.validations()...)
		out = append(out, in.conditions()...)
		out = append(out, in.constraints()...)
	case len(list(in.Policy, "rules")) > 0:
		out = append(out, in.rules()...)
	default:
		out = append(out, in.application())
	}
	out = append(out, in.operations()...)
	out = append(out, in.exceptions()...)
	for i := range out {
		out[i].Policy = in.Policy
		if out[i].Missing == "" {
			continue
		}
		if cause := in.unexercised(out[i]); cause != "" {
			out[i].Missing, out[i].NotSupported = "", cause
		}
	}
	return out
}

// unexercised is why no example can exercise an item, as a test says; empty: none
// does.
func (in Input) unexercised(i Item) string {
	for _, v := range in.Verdicts {
		for _, u := range v.Example.Test.Unexercised {
			if u.Names(i.Part + " " + i.Name) {
				return u.Cause
			}
		}
	}
	return ""
}

// noConnect says why no example exercises what is about connections alone.
const noConnect = "no test file can ask for it, and a request that is admitted is carried out"

// find returns the ID of the first example that is so; empty when none is.
func (in Input) find(so func(at int, v live.Verdict) bool) string {
	for at, v := range in.Verdicts {
		if so(at, v) {
			return v.Example.ID()
		}
	}
	return ""
}

// row is what was answered of an aspect; nil when it was not asked.
func (in Input) row(aspect live.Aspect) []live.Reply {
	if at := slices.Index(in.Aspects, aspect); at >= 0 && at < len(in.Replies) {
		return in.Replies[at]
	}
	return nil
}

// answered returns the ID of the first example to which an aspect answers so; empty
// when it does to none.
func (in Input) answered(row []live.Reply, answer live.Answer) string {
	return in.find(func(at int, _ live.Verdict) bool { return at < len(row) && row[at].Answer == answer })
}

// refuses and admits are what the policy as a whole says.
func refuses(v live.Verdict) bool { return v.Verdict == example.Fail || v.Verdict == example.Warn }
func admits(v live.Verdict) bool  { return v.Verdict == example.Pass }

// item fills in what is missing.
func item(part, name, failing, passing, noFailing, noPassing string) Item {
	i := Item{Part: part, Name: name, Failing: failing, Passing: passing}
	var missing []string
	if failing == "" {
		missing = append(missing, noFailing)
	}
	if passing == "" {
		missing = append(missing, noPassing)
	}
	i.Missing = strings.Join(missing, ", and ")
	return i
}

func (in Input) validations() []Item {
	var out []Item
	entries := list(in.Policy, "validations")
	for i, entry := range entries {
		failing := in.find(func(_ int, v live.Verdict) bool { return refuses(v) })
		passing := in.find(func(_ int, v live.Verdict) bool { return admits(v) })
		if len(entries) > 1 {
			row := in.row(live.Aspect{Validation: i, Condition: -1, Constraint: -1})
			failing, passing = in.answered(row, live.Refusing), in.answered(row, live.Satisfied)
		}
		fields, _ := entry.(map[string]any)
		name := fmt.Sprintf("spec.validations[%d]", i)
		for _, key := range []string{"message", "messageExpression", "expression"} {
			if text, _ := fields[key].(string); text != "" {
				name += fmt.Sprintf(" (%s)", short(text))
				break
			}
		}
		out = append(out, item("validation", name, failing, passing, "no example is refused by it", "it admits no example"))
	}
	return out
}

// short is the beginning of a text on one line.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 60 {
		text = string(runes[:59]) + "…"
	}
	return text
}

func (in Input) conditions() []Item {
	var out []Item
	for i, entry := range list(in.Policy, "matchConditions") {
		row := in.row(live.Aspect{Validation: -1, Condition: i, Constraint: -1})
		fields, _ := entry.(map[string]any)
		out = append(out, item("condition", fmt.Sprintf("spec.matchConditions[%d] (%v)", i, fields["name"]),
			in.answered(row, live.Refusing), in.answered(row, live.Silent),
			"it holds for no example", "it holds for every example"))
	}
	return out
}

func (in Input) constraints() []Item {
	var out []Item
	entries := list(in.Policy, "matchConstraints", "resourceRules")
	for i, entry := range entries {
		matched := func(int) bool { return true }
		if len(entries) > 1 {
			row := in.row(live.Aspect{Validation: -1, Condition: -1, Constraint: i})
			matched = func(at int) bool { return at < len(row) && row[at].Answer == live.Refusing }
		}
		fields, _ := entry.(map[string]any)
		name := fmt.Sprintf("spec.matchConstraints.resourceRules[%d] %v", i, fields["resources"])
		if operations, _ := fields["operations"].([]any); len(operations) == 1 && operations[0] == "CONNECT" {
			out = append(out, Item{Part: "constraint", Name: name, NotSupported: noConnect})
			continue
		}
		out = append(out, item("constraint", name,
			in.find(func(at int, v live.Verdict) bool { return matched(at) && refuses(v) }),
			in.find(func(at int, v live.Verdict) bool { return matched(at) && admits(v) }),
			"no example that it matches is refused", "no example that it matches is admitted"))
	}
	return out
}

// operations are those of all resource rules together; a legacy policy's examples
// show what it is asked about.
func (in Input) operations() []Item {
	var asked []string
	for _, entry := range list(in.Policy, "matchConstraints", "resourceRules") {
		fields, _ := entry.(map[string]any)
		operations, _ := fields["operations"].([]any)
		for _, operation := range operations {
			names := []string{fmt.Sprint(operation)}
			if names[0] == "*" {
				names = []string{"CREATE", "UPDATE", "DELETE", "CONNECT"}
			}
			for _, name := range names {
				if !slices.Contains(asked, name) {
					asked = append(asked, name)
				}
			}
		}
	}
	var out []Item
	for _, operation := range asked {
		if operation == "CONNECT" {
			out = append(out, Item{Part: "operation", Name: operation, NotSupported: noConnect})
			continue
		}
		of := func(v live.Verdict) bool { return v.Example.Operation == operation }
		if !validates(in.Policy) {
			if in.find(func(_ int, v live.Verdict) bool { return of(v) && admits(v) }) == "" {
				out = append(out, Item{Part: "operation", Name: operation, Missing: "it applies to no example of this operation"})
			}
			continue
		}
		out = append(out, item("operation", operation,
			in.find(func(_ int, v live.Verdict) bool { return of(v) && refuses(v) }),
			in.find(func(_ int, v live.Verdict) bool { return of(v) && admits(v) }),
			"no example of this operation is refused", "no example of this operation is admitted"))
	}
	return out
}

// rules are those of a legacy policy: what they match is judged with them.
func (in Input) rules() []Item {
	var out []Item
	for i, entry := range list(in.Policy, "rules") {
		fields, _ := entry.(map[string]any)
		name := fmt.Sprint(fields["name"])
		of := func(v live.Verdict) bool { return v.Example.Rule == "" || baseRule(v.Example.Rule) == name }
		applied := in.find(func(_ int, v live.Verdict) bool { return of(v) && admits(v) })
		if fields["validate"] == nil {
			out = append(out, item("rule", name, applied,
				in.find(func(_ int, v live.Verdict) bool { return of(v) && v.Verdict == example.Skip }),
				"it applies to no example", "it applies to every example"))
			continue
		}
		out = append(out, item("rule", name,
			in.find(func(_ int, v live.Verdict) bool { return of(v) && refuses(v) && slices.Contains(v.Refused, i) }), applied,
			"no example is refused by it", "it admits no example"))
	}
	return out
}

// baseRule is the rule that Kyverno makes one for pod controllers from.
func baseRule(rule string) string {
	return strings.TrimPrefix(strings.TrimPrefix(rule, "autogen-cronjob-"), "autogen-")
}

// application is of a policy that changes or makes objects.
func (in Input) application() Item {
	part := "mutation"
	if strings.Contains(in.Policy.Object.GetKind(), "Generating") {
		part = "generation"
	}
	return item(part, in.Policy.Object.GetName(),
		in.find(func(_ int, v live.Verdict) bool { return admits(v) }),
		in.find(func(_ int, v live.Verdict) bool { return v.Verdict == example.Skip }),
		"it applies to no example", "it applies to every example")
}

// exceptions are those that tests lay beside the policy.
func (in Input) exceptions() []Item {
	var names []string
	within := map[string][]live.Verdict{}
	for _, v := range in.Verdicts {
		for _, e := range v.Example.Test.Exceptions {
			if !excepts(e, in.Policy) {
				continue
			}
			name := e.GetName()
			if e.GetNamespace() != "" {
				name = e.GetNamespace() + "/" + name
			}
			if within[name] == nil {
				names = append(names, name)
			}
			within[name] = append(within[name], v)
		}
	}
	var out []Item
	for _, name := range names {
		var excepted, refused string
		for _, v := range within[name] {
			switch {
			case refuses(v) && refused == "":
				refused = v.Example.ID()
			case v.Verdict == example.Skip && excepted == "" && in.refusedWithout(v):
				excepted = v.Example.ID()
			}
		}
		out = append(out, item("exception", name, excepted, refused,
			"it excepts no example that a test without it shows to be refused", "no example is refused in spite of it"))
	}
	return out
}

// excepts says whether an exception names a policy.
func excepts(exception *unstructured.Unstructured, policy *example.Policy) bool {
	for _, path := range []struct{ list, name string }{{"policyRefs", "name"}, {"exceptions", "policyName"}} {
		entries, _, _ := unstructured.NestedSlice(exception.Object, "spec", path.list)
		for _, entry := range entries {
			fields, _ := entry.(map[string]any)
			name := fmt.Sprint(fields[path.name])
			if name[strings.LastIndex(name, "/")+1:] == policy.Object.GetName() {
				return true
			}
		}
	}
	return false
}

// refusedWithout says whether the same request is refused in a test without
// exceptions.
func (in Input) refusedWithout(v live.Verdict) bool {
	return slices.ContainsFunc(in.Verdicts, func(other live.Verdict) bool {
		return refuses(other) && len(other.Example.Test.Exceptions) == 0 &&
			other.Example.Operation == v.Example.Operation && equality.Semantic.DeepEqual(other.Example.Object.Object, v.Example.Object.Object)
	})
}
