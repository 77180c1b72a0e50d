package live

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const (
	// bindingCanary is what the binding is called that binds a copy to its canary,
	// whatever its other bindings say.
	bindingCanary = "c"
	// codeHolds stands before the index of a validation that refuses nothing.
	codeHolds = "+"
	// bindingWithout is a binding that takes no parameters: it shows that a policy
	// is asked where another finds none, which would refuse every request, whether
	// it asks for the copy or not.
	bindingWithout = "w"
)

// admissionForm is Kubernetes' own ValidatingAdmissionPolicy with its bindings.
// The API server itself evaluates it, so a copy may let things pass where the
// policy does. All its validations are evaluated.
type admissionForm struct{}

func (admissionForm) judges(policy *unstructured.Unstructured) bool {
	return policy.GroupVersionKind().Group == "admissionregistration.k8s.io" && policy.GetKind() == "ValidatingAdmissionPolicy"
}

func (admissionForm) reason(*example.Example) string { return "" }

// audits: one that nothing binds refuses nothing either.
func (admissionForm) audits(policy *example.Policy) bool {
	return !slices.ContainsFunc(policy.Bindings, func(binding *unstructured.Unstructured) bool {
		actions, _, _ := unstructured.NestedStringSlice(binding.Object, "spec", "validationActions")
		return slices.Contains(actions, "Deny")
	})
}

func (admissionForm) install(s subject) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	// An annotation that errs would refuse outright.
	delete(spec, "auditAnnotations")
	conditions := aspectConditions(spec, s.aspect)
	out := installation{objects: []*unstructured.Unstructured{object}}
	if _, err := constrain(spec, s.aspect, false, &out); err != nil {
		return installation{}, fmt.Errorf("%s: %w", s.policy, err)
	}
	spec["matchConditions"] = append([]any{map[string]any{"name": "fpc-ask", "expression": selector(s.name)}}, conditions...)
	spec["validations"] = accounted(aspectValidations(spec, s.aspect))
	if kind, _ := spec["paramKind"].(map[string]any); kind != nil {
		out.anchor = paramAnchor(kind)
	}
	bindings := s.policy.Bindings
	if len(bindings) == 0 {
		bindings = []*unstructured.Unstructured{{Object: map[string]any{
			"apiVersion": s.policy.Object.GetAPIVersion(), "kind": "ValidatingAdmissionPolicyBinding", "spec": map[string]any{},
		}}}
	}
	for i, binding := range bindings {
		bound, fields, err := boundCopy(binding, s, strconv.Itoa(i))
		if err != nil {
			return installation{}, err
		}
		reference, _ := fields["paramRef"].(map[string]any)
		if reference != nil && reference["parameterNotFoundAction"] == "Deny" {
			reference["parameterNotFoundAction"] = "Allow"
			without, other, err := boundCopy(binding, s, bindingWithout+strconv.Itoa(i))
			if err != nil {
				return installation{}, err
			}
			delete(other, "paramRef")
			out.objects = append(out.objects, without)
		}
		out.objects = append(out.objects, bound)
	}
	if out.canary != nil {
		// The last one: when it is in force, the others are.
		last, fields, err := boundCopy(bindings[0], s, bindingCanary)
		if err != nil {
			return installation{}, err
		}
		delete(fields, "paramRef")
		rules, _, _ := unstructured.NestedSlice(spec, "matchConstraints", "resourceRules")
		fields["matchResources"] = map[string]any{"resourceRules": []any{rules[len(rules)-1]}}
		out.objects = append(out.objects, last)
	}
	return out, nil
}

// accounted makes each validation say which way it went, and the last one name all
// of them: of one that says nothing the evaluation erred, in words that the server
// does not pass on.
func accounted(validations []any) []any {
	out := slices.Clone(validations[:1])
	var codes []string
	for _, entry := range validations[1:] {
		fields, _ := entry.(map[string]any)
		code, _ := fields["message"].(string)
		if code == codeSatisfied {
			continue
		}
		codes = append(codes, code)
		expression, _ := fields["expression"].(string)
		out = append(out, entry, map[string]any{
			"expression": fmt.Sprintf("(%s) || !(%s)", isCanary, expression), "message": codeHolds + code,
		})
	}
	return append(out, map[string]any{"expression": "false", "message": codeSatisfied + strings.Join(codes, ",")})
}

// paramAnchor is a policy that takes parameters of a kind and matches nothing. When
// no policy takes parameters of a kind any more, the API server stops to watch it, and
// for a kind of Kubernetes' own never begins again (1.36.3: the informer is shared, and
// its factory starts none twice): what is made afterwards is not found. So one policy
// remains for as long as the server does, and all benches on it have the same.
func paramAnchor(kind map[string]any) []*unstructured.Unstructured {
	digest := sha256.Sum256(fmt.Append(nil, kind["apiVersion"], kind["kind"]))
	name := "fpc-params-" + hex.EncodeToString(digest[:])[:8]
	object := func(kind string, spec map[string]any) *unstructured.Unstructured {
		out := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "spec": spec,
		}}
		out.SetName(name)
		out.SetLabels(map[string]string{benchLabel: "true"})
		return out
	}
	nothing := map[string]any{"apiGroups": []any{"conformance.flux-platform"}, "apiVersions": []any{"v1"}, "operations": []any{opCreate}, "resources": []any{"nothing"}}
	return []*unstructured.Unstructured{
		object("ValidatingAdmissionPolicy", map[string]any{
			"paramKind":        runtime.DeepCopyJSON(kind),
			"matchConstraints": map[string]any{"resourceRules": []any{nothing}},
			"validations":      []any{map[string]any{"expression": "true"}},
		}),
		object("ValidatingAdmissionPolicyBinding", map[string]any{"policyName": name, "validationActions": []any{"Warn"}}),
	}
}

// boundCopy binds a copy as a binding does, but that it only warns.
func boundCopy(binding *unstructured.Unstructured, s subject, suffix string) (*unstructured.Unstructured, map[string]any, error) {
	out := copyOf(binding, s.name+"-"+suffix)
	fields, ok := out.Object["spec"].(map[string]any)
	if !ok {
		return nil, nil, fmt.Errorf("%s %s has no spec", binding.GetKind(), binding.GetName())
	}
	fields["policyName"] = s.name
	fields["validationActions"] = []any{"Warn"}
	return out, fields, nil
}

var admissionWarning = regexp.MustCompile(`(?s)^Validation failed for ValidatingAdmissionPolicy '(` + copyPattern + `)' with binding '` + copyPattern + `-([cw]?)([0-9]*)': (.*)$`)

var admissionHolds = regexp.MustCompile(`^\+[0-9]+$`)

func (admissionForm) read(warning string) (said, bool) {
	parts := admissionWarning.FindStringSubmatch(warning)
	if parts == nil {
		return said{}, false
	}
	out := said{copy: parts[1], words: parts[4], index: -1, rule: parts[2], derived: parts[3]}
	switch code := parts[4]; {
	case strings.HasPrefix(code, codeSatisfied), admissionHolds.MatchString(code):
		out.answer = Satisfied
	default:
		out = coded(out, code)
	}
	out.canary = out.canary || parts[2] == bindingCanary
	return out, true
}

// settle: a binding that finds none of the parameters that it demands refuses.
func (admissionForm) settle(_ *example.Example, all []said) Reply {
	bound, spoke, failing := map[string]bool{}, map[string]bool{}, false
	for _, s := range all {
		if s.rule == "" {
			bound[s.derived] = true
			failing = failing || s.answer == Failing
			spoke[s.derived+" "+strings.TrimPrefix(s.words, codeHolds)] = true
		}
	}
	var own []said
	for _, s := range all {
		switch {
		case s.rule == "":
			own = append(own, s)
			codes, last := strings.CutPrefix(s.words, codeSatisfied)
			for _, code := range strings.Split(codes, ",") {
				if last && code != "" && !failing && !spoke[s.derived+" "+code] {
					own = append(own, said{answer: Failing, index: -1, words: "the evaluation of validation " + code + " erred, in words that the server does not pass on"})
				}
			}
		case s.rule == bindingWithout && !bound[s.derived]:
			own = append(own, said{answer: Refusing, index: -1})
		}
	}
	return sum(own)
}

func (admissionForm) written(s subject) (objects []*unstructured.Unstructured, why string, err error) {
	object := copyOf(s.policy.Object, s.policy.Object.GetName())
	if err := selectFirst(object, s); err != nil {
		return nil, "", err
	}
	objects = append(objects, object)
	for _, binding := range s.policy.Bindings {
		bound := copyOf(binding, binding.GetName())
		reference, _, _ := unstructured.NestedMap(bound.Object, "spec", "paramRef")
		if reference["parameterNotFoundAction"] == "Deny" {
			// It would refuse everybody's requests.
			_ = unstructured.SetNestedField(bound.Object, "Allow", "spec", "paramRef", "parameterNotFoundAction")
		}
		objects = append(objects, bound)
	}
	return objects, "", nil
}

func (admissionForm) refused(policy *unstructured.Unstructured, refusal string) (string, bool) {
	_, rest, found := strings.Cut(refusal, "ValidatingAdmissionPolicy '"+policy.GetName()+"'")
	if !found {
		return "", false
	}
	_, words, found := strings.Cut(rest, "denied request: ")
	return words, found
}

func (admissionForm) words(policy *unstructured.Unstructured, index int) string {
	if index < 0 {
		return "no parameters were found, and the binding demands some"
	}
	return validationWords(policy, index)
}
