package example

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	policiesv1 "github.com/kyverno/api/api/policies.kyverno.io/v1"
	policiesv1alpha1 "github.com/kyverno/api/api/policies.kyverno.io/v1alpha1"
	policiesv1beta1 "github.com/kyverno/api/api/policies.kyverno.io/v1beta1"
	"go.yaml.in/yaml/v3"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	admissionv1alpha1 "k8s.io/api/admissionregistration/v1alpha1"
	admissionv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	legacyGroup    = "kyverno.io"
	celGroup       = "policies.kyverno.io"
	admissionGroup = "admissionregistration.k8s.io"
)

// policyKinds are the kinds of policies, by their groups.
var policyKinds = map[string][]string{
	legacyGroup: {"ClusterPolicy", "Policy", "CleanupPolicy", "ClusterCleanupPolicy"},
	celGroup: {
		"ValidatingPolicy", "NamespacedValidatingPolicy", "MutatingPolicy", "NamespacedMutatingPolicy",
		"GeneratingPolicy", "NamespacedGeneratingPolicy", "DeletingPolicy", "NamespacedDeletingPolicy",
		"ImageValidatingPolicy", "NamespacedImageValidatingPolicy",
	},
	admissionGroup: {"ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"},
}

// policyTypes are the Go types of policies and of what belongs to them, by
// apiVersion and kind.
var policyTypes = map[string]map[string]any{
	"policies.kyverno.io/v1": {
		"ValidatingPolicy": policiesv1.ValidatingPolicy{}, "NamespacedValidatingPolicy": policiesv1.NamespacedValidatingPolicy{},
		"MutatingPolicy": policiesv1.MutatingPolicy{}, "NamespacedMutatingPolicy": policiesv1.NamespacedMutatingPolicy{},
		"GeneratingPolicy": policiesv1.GeneratingPolicy{}, "NamespacedGeneratingPolicy": policiesv1.NamespacedGeneratingPolicy{},
		"DeletingPolicy": policiesv1.DeletingPolicy{}, "NamespacedDeletingPolicy": policiesv1.NamespacedDeletingPolicy{},
		"ImageValidatingPolicy": policiesv1.ImageValidatingPolicy{}, "NamespacedImageValidatingPolicy": policiesv1.NamespacedImageValidatingPolicy{},
		"PolicyException": policiesv1.PolicyException{},
	},
	"policies.kyverno.io/v1beta1": {
		"ValidatingPolicy": policiesv1beta1.ValidatingPolicy{}, "NamespacedValidatingPolicy": policiesv1beta1.NamespacedValidatingPolicy{},
		"MutatingPolicy": policiesv1beta1.MutatingPolicy{}, "NamespacedMutatingPolicy": policiesv1beta1.NamespacedMutatingPolicy{},
		"GeneratingPolicy": policiesv1beta1.GeneratingPolicy{}, "NamespacedGeneratingPolicy": policiesv1beta1.NamespacedGeneratingPolicy{},
		"DeletingPolicy": policiesv1beta1.DeletingPolicy{}, "NamespacedDeletingPolicy": policiesv1beta1.NamespacedDeletingPolicy{},
		"ImageValidatingPolicy": policiesv1beta1.ImageValidatingPolicy{}, "NamespacedImageValidatingPolicy": policiesv1beta1.NamespacedImageValidatingPolicy{},
		"PolicyException": policiesv1beta1.PolicyException{},
	},
	"policies.kyverno.io/v1alpha1": {
		"ValidatingPolicy": policiesv1alpha1.ValidatingPolicy{}, "MutatingPolicy": policiesv1alpha1.MutatingPolicy{},
		"GeneratingPolicy": policiesv1alpha1.GeneratingPolicy{}, "DeletingPolicy": policiesv1alpha1.DeletingPolicy{},
		"ImageValidatingPolicy": policiesv1alpha1.ImageValidatingPolicy{}, "PolicyException": policiesv1alpha1.PolicyException{},
	},
	"admissionregistration.k8s.io/v1": {
		"ValidatingAdmissionPolicy": admissionv1.ValidatingAdmissionPolicy{}, "ValidatingAdmissionPolicyBinding": admissionv1.ValidatingAdmissionPolicyBinding{},
		"MutatingAdmissionPolicy": admissionv1.MutatingAdmissionPolicy{}, "MutatingAdmissionPolicyBinding": admissionv1.MutatingAdmissionPolicyBinding{},
	},
	"admissionregistration.k8s.io/v1beta1": {
		"ValidatingAdmissionPolicy": admissionv1beta1.ValidatingAdmissionPolicy{}, "ValidatingAdmissionPolicyBinding": admissionv1beta1.ValidatingAdmissionPolicyBinding{},
		"MutatingAdmissionPolicy": admissionv1beta1.MutatingAdmissionPolicy{}, "MutatingAdmissionPolicyBinding": admissionv1beta1.MutatingAdmissionPolicyBinding{},
	},
	"admissionregistration.k8s.io/v1alpha1": {
		"MutatingAdmissionPolicy": admissionv1alpha1.MutatingAdmissionPolicy{}, "MutatingAdmissionPolicyBinding": admissionv1alpha1.MutatingAdmissionPolicyBinding{},
	},
}

func isPolicy(object *unstructured.Unstructured) bool {
	kind := object.GroupVersionKind()
	return slices.Contains(policyKinds[kind.Group], kind.Kind)
}

func isBinding(object *unstructured.Unstructured) bool {
	kind := object.GroupVersionKind()
	return kind.Group == admissionGroup && (kind.Kind == "ValidatingAdmissionPolicyBinding" || kind.Kind == "MutatingAdmissionPolicyBinding")
}

func isException(object *unstructured.Unstructured) bool {
	kind := object.GroupVersionKind()
	return kind.Kind == "PolicyException" && (kind.Group == legacyGroup || kind.Group == celGroup)
}

// strict compares the policies of a document with the fields of their kinds: what the API server would drop or refuse is a finding.
func (d document) strict(file string) []Finding {
	root, err := d.node()
	if err != nil {
		return []Finding{d.problem(file, err)}
	}
	reader := decoder{file: file, offset: d.first - 1}
	nodes := []*yaml.Node{root}
	if items := child(root, "items"); items != nil && strings.HasSuffix(value(root, "kind"), "List") {
		nodes = items.Content
	}
	for _, node := range nodes {
		version, kind := value(node, "apiVersion"), value(node, "kind")
		sample, ok := policyTypes[version][kind]
		versions := versionsOf(kind)
		legacy, old := legacyFields()[version+"/"+kind]
		switch {
		case ok:
			reader.decode(node, reflect.New(reflect.TypeOf(sample)).Elem(), "", 0)
		case old:
			reader.compare(node, legacy, "", 0)
		case len(versions) > 0:
			reader.find(node, "there is no %s of %s; write one of %s", kind, version, strings.Join(versions, ", "))
		}
	}
	return reader.findings
}

// child is the value of a key of a mapping, and value its text.
func child(node *yaml.Node, key string) *yaml.Node {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

func value(node *yaml.Node, key string) string {
	if found := child(node, key); found != nil && found.Kind == yaml.ScalarNode {
		return found.Value
	}
	return ""
}

// versionsOf are the apiVersions that have a kind.
func versionsOf(kind string) []string {
	var out []string
	for version, kinds := range policyTypes {
		if _, ok := kinds[kind]; ok {
			out = append(out, version)
		}
	}
	for name := range legacyFields() {
		if version, ok := strings.CutSuffix(name, "/"+kind); ok {
			out = append(out, version)
		}
	}
	slices.Sort(out)
	return out
}

// Legacy tells whether the policy is made of rules: one of kyverno.io.
func (p *Policy) Legacy() bool { return p.Object.GroupVersionKind().Group == legacyGroup }

// rules are those of a legacy policy.
func (p *Policy) rules() []map[string]any {
	field, _, _ := unstructured.NestedFieldNoCopy(p.Object.Object, "spec", "rules")
	list, _ := field.([]any)
	var out []map[string]any
	for _, item := range list {
		if rule, ok := item.(map[string]any); ok {
			out = append(out, rule)
		}
	}
	return out
}

// named are the rules of a name, as a result may give it; all, when it gives none.
func (p *Policy) named(name string) []map[string]any {
	if name == "" {
		return p.rules()
	}
	var out []map[string]any
	for _, rule := range p.rules() {
		if own, _ := rule["name"].(string); slices.Contains([]string{own, "autogen-" + own, "autogen-cronjob-" + own}, name) {
			out = append(out, rule)
		}
	}
	return out
}

func (p *Policy) ruleNames() []string {
	var out []string
	for _, rule := range p.rules() {
		if name, ok := rule["name"].(string); ok {
			out = append(out, name)
		}
	}
	return out
}

// generates and changesOthers tell what a rule of the policy does; empty: any.
func (p *Policy) generates(rule string) bool {
	if strings.HasSuffix(p.Object.GetKind(), "GeneratingPolicy") {
		return true
	}
	return slices.ContainsFunc(p.named(rule), func(r map[string]any) bool { return r["generate"] != nil })
}

func (p *Policy) changesOthers(rule string) bool {
	if strings.HasSuffix(p.Object.GetKind(), "MutatingPolicy") {
		_, found, _ := unstructured.NestedMap(p.Object.Object, "spec", "targetMatchConstraints")
		return found
	}
	return slices.ContainsFunc(p.named(rule), func(r map[string]any) bool {
		_, found, _ := unstructured.NestedSlice(r, "mutate", "targets")
		return found
	})
}

// unsupported says why no live server can be asked about a rule of the policy;
// empty: it can.
func (p *Policy) unsupported(rule string) string {
	switch kind := strings.TrimPrefix(p.Object.GetKind(), "Namespaced"); kind {
	case "ImageValidatingPolicy":
		return "it verifies images, for which a registry with the signed images is needed"
	case "DeletingPolicy", "CleanupPolicy", "ClusterCleanupPolicy":
		return "it deletes on a schedule, which is no answer to a request"
	}
	if mode, _, _ := unstructured.NestedString(p.Object.Object, "spec", "evaluation", "mode"); mode != "" && mode != "Kubernetes" {
		return fmt.Sprintf("it judges %s payloads, which are no requests to the API server", mode)
	}
	if p.Legacy() {
		for _, r := range p.named(rule) {
			if r["verifyImages"] != nil {
				return "it verifies images, for which a registry with the signed images is needed"
			}
			if manifests, found, _ := unstructured.NestedMap(r, "validate", "manifests"); found && manifests != nil {
				return "it verifies the signatures of manifests, for which the signers' keys are needed"
			}
		}
	}
	return ""
}
