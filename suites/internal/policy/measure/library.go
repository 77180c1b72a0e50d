// Package measure holds what the speed of judging policies is measured with:
// libraries of any size in the shapes of public ones, and the pass that creates,
// asserts and deletes one example after the other.
package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// shape is one kind of policy as public libraries have them.
type shape struct {
	name string
	// legacy: it is a ClusterPolicy, with one rule.
	legacy bool
	kind   string
	// spec is that of the policy, and object makes an example; number tells policies
	// and examples of one shape apart.
	spec   func(number int) map[string]any
	object func(number int, good bool) map[string]any
}

// WriteLibrary writes that many policies, each in a folder of its own with a test
// file and objects, which have that many results together: half of them refused,
// or one more. Policies of the CEL types and legacy ones alternate.
func WriteLibrary(dir string, policies, results int) error {
	if policies < 1 || results < policies {
		return fmt.Errorf("write a library of %d policies with %d results: each policy needs one", policies, results)
	}
	for number := range policies {
		s := shapes[number%len(shapes)]
		count := results / policies
		if number < results%policies {
			count++
		}
		if err := s.write(filepath.Join(dir, fmt.Sprintf("%s-%d", s.name, number)), number, count); err != nil {
			return fmt.Errorf("write a library: %w", err)
		}
	}
	return nil
}

func (s shape) write(dir string, number, count int) error {
	name := fmt.Sprintf("%s-%d", s.name, number)
	policy := map[string]any{
		"apiVersion": "policies.kyverno.io/v1", "kind": "ValidatingPolicy",
		"metadata": map[string]any{"name": name}, "spec": s.spec(number),
	}
	if s.legacy {
		policy["apiVersion"], policy["kind"] = "kyverno.io/v1", "ClusterPolicy"
	}
	var objects []string
	var results []any
	for i := range count {
		good := i%2 == 1
		object := s.object(number, good)
		called := fmt.Sprintf("%s-%d-%d", strings.ToLower(s.kind), number, i)
		metadata, _ := object["metadata"].(map[string]any)
		metadata["name"], metadata["namespace"] = called, "default"
		text, err := yaml.Marshal(object)
		if err != nil {
			return err
		}
		objects = append(objects, string(text))
		result := map[string]any{"policy": name, "kind": s.kind, "resources": []any{called}, "result": "fail"}
		if good {
			result["result"] = "pass"
		}
		if s.legacy {
			result["rule"] = "rule"
		} else {
			result["isValidatingPolicy"] = true
		}
		results = append(results, result)
	}
	test := map[string]any{
		"apiVersion": "cli.kyverno.io/v1alpha1", "kind": "Test", "metadata": map[string]any{"name": name},
		"policies": []any{"policy.yaml"}, "resources": []any{"resources.yaml"}, "results": results,
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, content := range map[string]any{"policy.yaml": policy, "kyverno-test.yaml": test, "resources.yaml": strings.Join(objects, "---\n")} {
		text, ok := content.(string)
		if !ok {
			data, err := yaml.Marshal(content)
			if err != nil {
				return err
			}
			text = string(data)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cel is the spec of a ValidatingPolicy.
func cel(group, resource, expression string, conditions ...any) map[string]any {
	spec := map[string]any{
		"validationActions": []any{"Deny"},
		"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
			"apiGroups": []any{group}, "apiVersions": []any{"v1"}, "resources": []any{resource}, "operations": []any{"CREATE", "UPDATE"},
		}}},
		"validations": []any{map[string]any{"expression": expression, "message": "this does not hold: " + expression}},
	}
	if len(conditions) > 0 {
		spec["matchConditions"] = conditions
	}
	return spec
}

// legacy is the spec of a ClusterPolicy.
func legacy(kind string, validate map[string]any) map[string]any {
	validate["failureAction"] = "Enforce"
	validate["message"] = "this is not what is asked for"
	return map[string]any{
		"background": false,
		"rules": []any{map[string]any{
			"name": "rule", "match": map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{kind}}}}},
			"validate": validate,
		}},
	}
}

func pod(image string, labels map[string]any, security map[string]any) map[string]any {
	spec := map[string]any{"containers": []any{map[string]any{"name": "main", "image": image}}}
	if security != nil {
		spec["securityContext"] = security
	}
	return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"labels": labels}, "spec": spec}
}

func deployment(replicas int64) map[string]any {
	labels := map[string]any{"app": "main"}
	template := pod("registry.example/app:1.0", labels, nil)
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{},
		"spec": map[string]any{
			"replicas": replicas, "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{"metadata": template["metadata"], "spec": template["spec"]},
		},
	}
}

func configMap(key, value string) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{}, "data": map[string]any{key: value}}
}

// choose returns one of two.
func choose[T any](good bool, one, other T) T {
	if good {
		return one
	}
	return other
}

var shapes = []shape{
	{
		name: "require-label", kind: "Pod",
		spec: func(n int) map[string]any {
			return cel("", "pods", fmt.Sprintf("'team-%d' in object.metadata.?labels.orValue({})", n))
		},
		object: func(n int, good bool) map[string]any {
			return pod("registry.example/app:1.0", map[string]any{choose(good, fmt.Sprintf("team-%d", n), "other"): "x", "app": "main"}, nil)
		},
	},
	{
		name: "no-latest-tag", kind: "Pod", legacy: true,
		spec: func(int) map[string]any {
			return legacy("Pod", map[string]any{"pattern": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": "!*:latest"}}}}})
		},
		object: func(_ int, good bool) map[string]any {
			return pod("registry.example/app:"+choose(good, "1.0", "latest"), map[string]any{"app": "main"}, nil)
		},
	},
	{
		name: "limit-replicas", kind: "Deployment",
		spec: func(n int) map[string]any {
			return cel("apps", "deployments", fmt.Sprintf("object.spec.replicas <= %d", 10+n))
		},
		object: func(n int, good bool) map[string]any { return deployment(int64(10+n) + choose[int64](good, 0, 1)) },
	},
	{
		name: "forbid-key", kind: "ConfigMap", legacy: true,
		spec: func(n int) map[string]any {
			return legacy("ConfigMap", map[string]any{"deny": map[string]any{"conditions": map[string]any{"any": []any{map[string]any{
				"key": fmt.Sprintf("key-%d", n), "operator": "AnyIn", "value": "{{ request.object.data.keys(@) }}",
			}}}}})
		},
		object: func(n int, good bool) map[string]any {
			return configMap(fmt.Sprintf("%s-%d", choose(good, "other", "key"), n), "x")
		},
	},
	{
		name: "no-node-port", kind: "Service",
		spec: func(int) map[string]any {
			return cel("", "services", "object.spec.?type.orValue('ClusterIP') != 'NodePort'")
		},
		object: func(_ int, good bool) map[string]any {
			return map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{}, "spec": map[string]any{
				"type": choose(good, "ClusterIP", "NodePort"), "selector": map[string]any{"app": "main"}, "ports": []any{map[string]any{"port": int64(80)}},
			}}
		},
	},
	{
		name: "run-as-non-root", kind: "Pod", legacy: true,
		spec: func(int) map[string]any {
			set := map[string]any{"runAsNonRoot": true}
			return legacy("Pod", map[string]any{"anyPattern": []any{
				map[string]any{"spec": map[string]any{"securityContext": set}},
				map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"securityContext": set}}}},
			}})
		},
		object: func(_ int, good bool) map[string]any {
			return pod("registry.example/app:1.0", map[string]any{"app": "main"}, map[string]any{"runAsNonRoot": good})
		},
	},
	{
		name: "own-value", kind: "ConfigMap",
		spec: func(n int) map[string]any {
			return cel("", "configmaps", fmt.Sprintf("object.data.size() == 1 && object.data['of-%d'] == 'mine'", n), map[string]any{
				"name": "of-this-policy", "expression": fmt.Sprintf("has(object.data) && 'of-%d' in object.data", n),
			})
		},
		object: func(n int, good bool) map[string]any {
			return configMap(fmt.Sprintf("of-%d", n), choose(good, "mine", "another's"))
		},
	},
	{
		name: "no-wildcard-host", kind: "Ingress",
		spec: func(int) map[string]any {
			return cel("networking.k8s.io", "ingresses", "object.spec.?rules.orValue([]).all(r, !r.?host.orValue('').contains('*'))")
		},
		object: func(n int, good bool) map[string]any {
			path := map[string]any{"path": "/", "pathType": "Prefix", "backend": map[string]any{"service": map[string]any{"name": "main", "port": map[string]any{"number": int64(80)}}}}
			return map[string]any{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": map[string]any{}, "spec": map[string]any{
				"rules": []any{map[string]any{"host": fmt.Sprintf("%s.site-%d.example", choose(good, "www", "*"), n), "http": map[string]any{"paths": []any{path}}}},
			}}
		},
	},
}
