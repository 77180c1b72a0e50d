package live

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const (
	// celGroup is that of Kyverno's policies in CEL.
	celGroup = "policies.kyverno.io"
	// The codes that copies answer beside the indexes of what refuses.
	codeSatisfied = "-"
	codeCanary    = "c"
	// canaryName is that of every canary.
	canaryName = "fpc-canary"
	// inSharedWebhook is always true, and only Kyverno can compile it: so a copy has
	// no webhook of its own, and does not take a call of its own.
	inSharedWebhook = " && (true || image('a/b:c').registry() == 'x')"
	// isCanary holds for a canary; it can be evaluated for any request.
	isCanary = "has(request.name) && request.name == '" + canaryName + "'"
)

// orCanary lets an expression hold for a canary.
func orCanary(expression string) string {
	return fmt.Sprintf("(%s) || (%s)", isCanary, oneLine(expression))
}

// celForm is Kyverno's ValidatingPolicy and its namespaced kind.
type celForm struct{}

func (celForm) judges(policy *unstructured.Unstructured) bool {
	if policy.GroupVersionKind().Group != celGroup {
		return false
	}
	mode, _, _ := unstructured.NestedString(policy.Object, "spec", "evaluation", "mode")
	kind := policy.GetKind()
	return (kind == "ValidatingPolicy" || kind == "NamespacedValidatingPolicy") && (mode == "" || mode == "Kubernetes")
}

func (celForm) audits(policy *example.Policy) bool {
	actions, found, _ := unstructured.NestedStringSlice(policy.Object.Object, "spec", "validationActions")
	// None at all means Deny.
	if !found || len(actions) == 0 {
		return false
	}
	for _, action := range actions {
		if action == "Deny" {
			return false
		}
	}
	return true
}

func (celForm) install(s subject) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	spec["validationActions"] = []any{"Warn"}
	spec["failurePolicy"] = "Fail"
	spec["evaluation"] = map[string]any{"admission": map[string]any{"enabled": true}, "background": map[string]any{"enabled": false}}
	delete(spec, "webhookConfiguration")
	unstructured.RemoveNestedField(spec, "autogen", "validatingAdmissionPolicy")
	if s.podsOnly {
		// Kyverno compiles a policy as often as it derives a form of it, each time that
		// anything about it changes.
		if err := unstructured.SetNestedSlice(spec, []any{}, "autogen", "podControllers", "controllers"); err != nil {
			return installation{}, fmt.Errorf("%s: %w", s.policy, err)
		}
	}
	out := installation{objects: []*unstructured.Unstructured{object}}
	conditions := aspectConditions(spec, s.aspect)
	widen, err := constrain(spec, s.aspect, true, &out)
	if err != nil {
		return installation{}, fmt.Errorf("%s: %w", s.policy, err)
	}
	onlyAsked(spec, s)
	if namespace := object.GetNamespace(); namespace != "" && out.canary != nil {
		out.canary.SetNamespace(namespace)
	}
	all := []any{map[string]any{"name": "fpc-ask", "expression": selector(s.name) + inSharedWebhook}}
	if widen != "" {
		all = append(all, map[string]any{"name": "fpc-operations", "expression": orCanary(widen)})
	}
	spec["matchConditions"] = append(all, conditions...)
	spec["validations"] = aspectValidations(spec, s.aspect)
	exceptions, err := celExceptions(s)
	if err != nil {
		return installation{}, err
	}
	out.objects = append(exceptions, out.objects...)
	return out, nil
}

// onlyAsked has a copy match no objects but those that it is asked about, and canaries.
// For each policy that matches a request Kyverno makes anew what its expressions look at,
// the request and the object in it among that, before it looks at the condition that
// tells whether the copy is asked at all. Where Kyverno derives rules of a policy for
// Pods, it would derive none of one that lists names.
func onlyAsked(spec map[string]any, s subject) {
	constraints, _ := spec["matchConstraints"].(map[string]any)
	rules, _ := constraints["resourceRules"].([]any)
	if len(s.asked) == 0 || podsAlone(constraints, rules) && !s.podsOnly {
		return
	}
	for _, entry := range rules {
		if rule, ok := entry.(map[string]any); ok && rule["resourceNames"] == nil {
			names := []any{canaryName}
			for _, name := range s.asked {
				names = append(names, name)
			}
			rule["resourceNames"] = names
		}
	}
}

// copyOf is a policy with all that it says under another name, and nothing of its
// own metadata.
func copyOf(policy *unstructured.Unstructured, name string) *unstructured.Unstructured {
	out := policy.DeepCopy()
	delete(out.Object, "status")
	metadata := map[string]any{"name": name, "labels": map[string]any{benchLabel: "true"}}
	if policy.GetNamespace() != "" {
		metadata["namespace"] = policy.GetNamespace()
	}
	out.Object["metadata"] = metadata
	return out
}

// aspectConditions are the match conditions of an aspect, each of which a canary
// passes.
func aspectConditions(spec map[string]any, aspect Aspect) []any {
	declared, _ := spec["matchConditions"].([]any)
	var out []any
	for i, entry := range declared {
		condition, _ := entry.(map[string]any)
		if !aspect.Whole && (aspect.Constraint >= 0 || aspect.Condition >= 0 && aspect.Condition != i) {
			continue
		}
		expression, _ := condition["expression"].(string)
		condition["expression"] = orCanary(expression)
		out = append(out, condition)
	}
	return out
}

// aspectValidations are those of an aspect, with codes for words: first the one
// that only a canary fails, last the one that everything fails.
func aspectValidations(spec map[string]any, aspect Aspect) []any {
	validation := func(expression, code string) any {
		return map[string]any{"expression": expression, "message": code}
	}
	out := []any{validation("!("+isCanary+")", codeCanary)}
	if !aspect.Whole && aspect.Validation < 0 {
		return append(out, validation("false", "0"))
	}
	declared, _ := spec["validations"].([]any)
	for i, entry := range declared {
		if !aspect.Whole && aspect.Validation != i {
			continue
		}
		fields, _ := entry.(map[string]any)
		expression, _ := fields["expression"].(string)
		out = append(out, validation(orCanary(expression), strconv.Itoa(i)))
	}
	return append(out, validation("false", codeSatisfied))
}

var celWarning = regexp.MustCompile(`(?s)^Policy (` + copyPattern + `) (failed|error): (.*)$`)

func (celForm) read(warning string) (said, bool) {
	parts := celWarning.FindStringSubmatch(warning)
	if parts == nil {
		return said{}, false
	}
	out := said{copy: parts[1], words: parts[3], index: -1}
	if parts[2] == "error" {
		out.answer = Failing
		return out, true
	}
	return coded(out, parts[3]), true
}

// coded reads the code that a copy answered. In a Deployment and the like Kyverno
// adds where the pod template stands.
func coded(out said, code string) said {
	code, _, _ = strings.Cut(code, " ")
	switch index, err := strconv.Atoi(code); {
	case code == codeSatisfied:
		out.answer = Satisfied
	case code == codeCanary:
		out.answer, out.canary = Satisfied, true
	case err == nil:
		out.answer, out.index = Refusing, index
	default:
		out.answer = Failing
	}
	return out
}

func (celForm) reason(*example.Example) string { return "" }

// settle: a policy that lets things pass where it cannot be evaluated does not
// match where one of its conditions errs. Its copy cannot let things pass, or an
// unanswered webhook would look like silence.
func (celForm) settle(e *example.Example, all []said) Reply {
	out := sum(all)
	failure, _, _ := unstructured.NestedString(e.Policy.Object.Object, "spec", "failurePolicy")
	if failure == "Ignore" && out.Answer == Failing && strings.HasPrefix(out.Words, "failed to load context: ") {
		return Reply{Words: out.Words}
	}
	return out
}

func (celForm) written(s subject) (objects []*unstructured.Unstructured, why string, err error) {
	object := copyOf(s.policy.Object, s.policy.Object.GetName())
	if on, found, _ := unstructured.NestedBool(object.Object, "spec", "evaluation", "admission", "enabled"); found && !on {
		return nil, "it is not asked at admission", nil
	}
	if err := selectFirst(object, s); err != nil {
		return nil, "", err
	}
	return []*unstructured.Unstructured{object}, "", nil
}

// selectFirst puts the selector of the policy as written before its conditions. One
// of Kyverno's that has none shares a webhook as it stands, and goes on to do so.
func selectFirst(object *unstructured.Unstructured, s subject) error {
	conditions, _, err := unstructured.NestedSlice(object.Object, "spec", "matchConditions")
	if err != nil {
		return fmt.Errorf("%s: %w", s.policy, err)
	}
	expression := selector(writtenName(s.name))
	if len(conditions) == 0 && object.GroupVersionKind().Group == celGroup {
		expression += inSharedWebhook
	}
	conditions = append([]any{map[string]any{"name": "fpc-ask", "expression": expression}}, conditions...)
	if err := unstructured.SetNestedSlice(object.Object, conditions, "spec", "matchConditions"); err != nil {
		return fmt.Errorf("%s: %w", s.policy, err)
	}
	return nil
}

// writtenPrefix stands before the name of a copy that stands for its policy as written.
const writtenPrefix = "w"

// writtenName is what a request asks for when it asks for the policy as written.
func writtenName(copyName string) string { return writtenPrefix + copyName }

func (celForm) refused(policy *unstructured.Unstructured, refusal string) (string, bool) {
	for _, how := range []string{" failed: ", " error: "} {
		if _, words, found := strings.Cut(refusal, "Policy "+policy.GetName()+how); found {
			words, _, _ = strings.Cut(words, "; Policy ")
			return words, true
		}
	}
	return "", false
}

func (celForm) words(policy *unstructured.Unstructured, index int) string {
	return validationWords(policy, index)
}

func validationWords(policy *unstructured.Unstructured, index int) string {
	validations, _, _ := unstructured.NestedSlice(policy.Object, "spec", "validations")
	if index < 0 || index >= len(validations) {
		return ""
	}
	fields, _ := validations[index].(map[string]any)
	if message, _ := fields["message"].(string); message != "" {
		return message
	}
	words, _ := fields["messageExpression"].(string)
	if words == "" {
		words, _ = fields["expression"].(string)
	}
	return words
}

// oneLine is an expression without line breaks and comments: the API server drops a
// warning with a control character, and one about an error quotes the expression.
// What stands in quotes remains.
func oneLine(expression string) string {
	var out strings.Builder
	for i := 0; i < len(expression); {
		rest := expression[i:]
		switch {
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			i += end
		case rest[0] == '"' || rest[0] == '\'':
			end := quotedEnd(rest, i > 0 && strings.ContainsRune("rR", rune(expression[i-1])))
			out.WriteString(rest[:end])
			i += end
		case rest[0] == '\n' || rest[0] == '\r' || rest[0] == '\t':
			out.WriteByte(' ')
			i++
		default:
			out.WriteByte(rest[0])
			i++
		}
	}
	return strings.TrimSpace(out.String())
}

// quotedEnd is where a literal ends that a text begins with.
func quotedEnd(text string, raw bool) int {
	quote := text[:1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(text, triple) {
		quote = triple
	}
	for i := len(quote); i < len(text); i++ {
		switch {
		case text[i] == '\\' && !raw:
			i++
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		}
	}
	return len(text)
}
