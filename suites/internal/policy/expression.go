package policy

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Expression is one entry of the validations of a policy.
type Expression struct {
	// Index is its place in spec.validations.
	Index int
	// Says is what it refuses with, as the policy has it: the message, or the
	// expression that makes it.
	Says string

	words   string         // the refusal, where it is a fixed text
	pattern *regexp.Regexp // else what it looks like
	mute    bool           // no word of the refusal is known beforehand
}

// String names the expression in messages.
func (e Expression) String() string { return fmt.Sprintf("validations[%d] (%s)", e.Index, e.Says) }

// podTemplate is what Kyverno adds to the words of a rule that it derived for the
// controllers of pods.
var podTemplate = regexp.MustCompile(` \(pod template at [^)]*\)$`)

// Refuses says whether words, as Refusal returns them, may be this expression's.
func (e Expression) Refuses(words string) bool {
	for _, form := range []string{words, podTemplate.ReplaceAllString(words, "")} {
		if e.pattern == nil && form == e.words || e.pattern != nil && e.pattern.MatchString(form) {
			return true
		}
	}
	return false
}

// Told says whether a refusal tells this expression from another of its policy;
// evaluation stops at the first that is not satisfied, so words that both use say
// nothing of the later one.
func (e Expression) Told(from Expression) bool {
	switch {
	case e.pattern == nil:
		return !from.Refuses(e.words)
	case from.pattern == nil:
		return !e.Refuses(from.words)
	}
	return e.pattern.String() != from.pattern.String()
}

// Mute says that no word of its refusal is known beforehand.
func (e Expression) Mute() bool { return e.mute }

// Expressions lists the validations of a policy that has them.
func Expressions(policy *unstructured.Unstructured) []Expression {
	list, _, _ := unstructured.NestedSlice(policy.Object, "spec", "validations")
	out := make([]Expression, 0, len(list))
	for i, entry := range list {
		fields, _ := entry.(map[string]any)
		message, _ := fields["message"].(string)
		made, _ := fields["messageExpression"].(string)
		e := Expression{Index: i}
		switch {
		case made != "":
			e.Says = made
			e.pattern, e.mute = shape(made)
		case message != "":
			e.Says, e.words = message, strings.TrimSpace(message)
		default:
			// Kyverno's own words for a rule without any.
			e.words = fmt.Sprintf("CEL expression validation failed at index %d", i)
			e.Says = e.words
		}
		out = append(out, e)
	}
	return out
}

// literal is a text in CEL as it stands between two operators.
var literal = regexp.MustCompile(`^(?:'([^'\\]*)'|"([^"\\]*)")$`)

// shape turns an expression that makes a message into a pattern: the texts that it
// joins, in their order, with anything where it puts something else.
func shape(expression string) (pattern *regexp.Regexp, mute bool) {
	var out strings.Builder
	out.WriteString("^(?s)")
	mute = true
	for _, operand := range operands(expression) {
		if found := literal.FindStringSubmatch(operand); found != nil {
			text := found[1] + found[2]
			mute = mute && strings.TrimSpace(text) == ""
			out.WriteString(regexp.QuoteMeta(text))
		} else {
			out.WriteString(".*")
		}
	}
	out.WriteString("$")
	return regexp.MustCompile(out.String()), mute
}

// operands splits at each + that stands outside of brackets and texts; what holds
// a choice or another operator there is one operand.
func operands(expression string) []string {
	var out []string
	depth, begin := 0, 0
	quote := byte(0)
	for i := 0; i < len(expression); i++ {
		switch c := expression[i]; {
		case quote != 0:
			switch c {
			case '\\':
				i++
			case quote:
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case strings.IndexByte("([{", c) >= 0:
			depth++
		case strings.IndexByte(")]}", c) >= 0:
			depth--
		case c == '?' && depth == 0 && (i == 0 || expression[i-1] != '.'):
			return []string{expression}
		case c == '+' && depth == 0:
			out = append(out, strings.TrimSpace(expression[begin:i]))
			begin = i + 1
		}
	}
	return append(out, strings.TrimSpace(expression[begin:]))
}

// Unexercised says which expressions of a policy no verdict proves: each has to
// refuse, in words that are its own, an example beside which another that differs
// in one field is admitted.
func Unexercised(policy *unstructured.Unstructured, verdicts []Verdict) []string {
	var refused, admitted []Verdict
	for _, v := range verdicts {
		switch {
		case v.Policy != policy.GetName() || v.Unmatched:
		case v.Answer == nil:
			admitted = append(admitted, v)
		case v.Denied:
			refused = append(refused, v)
		}
	}
	expressions := Expressions(policy)
	var out []string
	for i, e := range expressions {
		if e.Mute() {
			out = append(out, fmt.Sprintf("%s: no word of its refusal is fixed, so no refusal tells that it was this one", e))
			continue
		}
		var others []string
		for _, other := range expressions[:i] {
			if !e.Told(other) {
				others = append(others, fmt.Sprintf("validations[%d]", other.Index))
			}
		}
		if len(others) > 0 {
			out = append(out, fmt.Sprintf("%s: %s may refuse in the same words, so no refusal tells that it was this one", e, strings.Join(others, ", ")))
			continue
		}
		if problem := e.unproved(policy.GetName(), refused, admitted); problem != "" {
			out = append(out, fmt.Sprintf("%s: %s", e, problem))
		}
	}
	return out
}

// unproved says what an expression lacks; empty when it is proved.
func (e Expression) unproved(policy string, refused, admitted []Verdict) string {
	problem := "no example is refused in these words"
	nearest := -1
	for _, v := range refused {
		if words, named := Refusal(v.Answer, policy); !named || !e.Refuses(words) {
			continue
		}
		if nearest < 0 {
			problem = fmt.Sprintf("it refuses %s, and no other example is admitted", v.Case)
		}
		for _, twin := range admitted {
			fields := v.Differences(twin.Case)
			if len(fields) == 1 {
				return ""
			}
			// A twin without any difference is the same example, admitted once.
			if nearest < 0 || len(fields) < nearest {
				nearest = len(fields)
				problem = fmt.Sprintf("it refuses %s, and no admitted example differs from it in one field; the nearest, %s, differs in %d: %s",
					v.Case, twin.Case, len(fields), strings.Join(fields, ", "))
			}
		}
	}
	return problem
}
