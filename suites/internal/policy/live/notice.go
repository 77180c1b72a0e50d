package live

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// notice returns when the API server and Kyverno both know the labels of all
// namespaces as they are now. Each has a copy of its own of a namespace, a moment
// old: a policy of either kind tells which version it sees.
func (b *Bench) notice(ctx context.Context) error {
	b.mu.Lock()
	var names []string
	for name, state := range b.namespaces {
		if state.unseen {
			names = append(names, name)
		}
	}
	b.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	sentinel := "fpc-sentinel-" + session
	if err := b.anchor(ctx, sentinels(sentinel)); err != nil {
		return err
	}
	for _, name := range names {
		object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
		object.SetName(name)
		now, err := b.get(ctx, object)
		if err != nil {
			return fmt.Errorf("look at the labels of the namespace %s: %w", name, err)
		}
		version := now.GetResourceVersion()
		seen := canaryObject("ConfigMap", nil)
		seen.SetNamespace(name)
		// Where Kyverno is not asked, the API server alone has to know.
		knowing := 2
		if b.deaf(name) != "" {
			knowing = 1
		}
		if err := b.until(ctx, fmt.Sprintf("the labels of the namespace %s are known", name), func(ctx context.Context) (bool, string, error) {
			got := b.send(ctx, request{operation: opCreate, object: seen, copies: []string{sentinel}})
			told := 0
			for _, warning := range got.warnings {
				if strings.HasSuffix(warning, ": v"+version) {
					told++
				}
			}
			return told == knowing, fmt.Sprintf("the warnings are %v (%v)", got.warnings, got.err), nil
		}); err != nil {
			return err
		}
		b.mu.Lock()
		state := b.namespaces[name]
		state.unseen = false
		b.namespaces[name] = state
		b.mu.Unlock()
	}
	return nil
}

// sentinels are a policy of Kyverno's and one of the API server's that tell the
// version of a request's namespace.
func sentinels(name string) []*unstructured.Unstructured {
	object := func(apiVersion, kind string, spec map[string]any) *unstructured.Unstructured {
		out := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "spec": spec}}
		out.SetName(name)
		out.SetLabels(map[string]string{benchLabel: "true"})
		return out
	}
	spec := func(selected string) map[string]any {
		return map[string]any{
			"failurePolicy": "Fail",
			"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
				"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{opCreate}, "resources": []any{"configmaps"},
			}}},
			"matchConditions": []any{map[string]any{"name": "fpc-ask", "expression": selected}},
			"validations": []any{map[string]any{
				"expression": "false", "message": "v", "messageExpression": "'v' + namespaceObject.metadata.resourceVersion",
			}},
		}
	}
	kyverno := spec(selector(name) + inSharedWebhook)
	kyverno["validationActions"] = []any{"Warn"}
	kyverno["evaluation"] = map[string]any{"background": map[string]any{"enabled": false}}
	return []*unstructured.Unstructured{
		object(celGroup+"/v1", "ValidatingPolicy", kyverno),
		object("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", spec(selector(name))),
		object("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", map[string]any{"policyName": name, "validationActions": []any{"Warn"}}),
	}
}
