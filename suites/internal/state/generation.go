package state

import (
	"fmt"
	"regexp"
	"sort"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/hasher"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// generated is the form of the names that kustomize gives to what it generates:
// ten characters of a hash, without those that could make a word.
var generated = regexp.MustCompile(`^(.+)-([24-9bcdfghkmt]{10})$`)

// ContentHash is the hash by which kustomize would end the name of a ConfigMap or
// Secret with this content; base is the name in front of it.
func ContentHash(object *unstructured.Unstructured, base string) (string, error) {
	named := object.DeepCopy()
	named.SetName(base)
	node, err := yaml.FromMap(named.Object)
	if err != nil {
		return "", fmt.Errorf("read %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	hash, err := (&hasher.Hasher{}).Hash(node)
	if err != nil {
		return "", fmt.Errorf("hash %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return hash, nil
}

// Generated says whether a declared object's name ends in the hash of its content.
func Generated(declared *unstructured.Unstructured) bool {
	parts := generated.FindStringSubmatch(declared.GetName())
	if parts == nil {
		return false
	}
	hash, err := ContentHash(declared, parts[1])
	return err == nil && hash == parts[2]
}

// GenerationProblems says what is wrong with a generated ConfigMap in a namespace
// whose objects these are: it is not there, its content is not the one that its
// name tells, it can be changed although it was declared immutable, something
// uses another generation of it or nothing uses it, or an older generation is
// left that nothing uses. A pod of an earlier rollout keeps its generation.
func GenerationProblems(declared *unstructured.Unstructured, objects []*unstructured.Unstructured) ([]string, error) {
	parts := generated.FindStringSubmatch(declared.GetName())
	if parts == nil {
		return []string{"its name does not end in the hash of its content: no pod is replaced when a value changes"}, nil
	}
	base := parts[1]
	var out []string
	live, older := generations(declared, objects, base)
	if live == nil {
		out = append(out, "it is not there")
	} else {
		hash, err := ContentHash(live, base)
		if err != nil {
			return nil, err
		}
		if hash != parts[2] {
			out = append(out, fmt.Sprintf("its content has the hash %s, its name says %s", hash, parts[2]))
		}
		if want, _, _ := unstructured.NestedBool(declared.Object, "immutable"); want {
			if is, _, _ := unstructured.NestedBool(live.Object, "immutable"); !is {
				out = append(out, "it is declared immutable, and can be changed")
			}
		}
	}
	used := map[string]bool{}
	for _, object := range objects {
		if object.GetNamespace() != declared.GetNamespace() || idle(object) {
			continue
		}
		list, err := References(object)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if r.Kind != declared.GetKind() {
				continue
			}
			used[r.Name] = true
			// A pod is as old as its rollout; what makes new ones must be up to date.
			record := object.GetKind() == "Pod" || object.GetKind() == "ReplicaSet"
			if other := generated.FindStringSubmatch(r.Name); !record && other != nil && other[1] == base && r.Name != declared.GetName() {
				out = append(out, fmt.Sprintf("%s %s uses another generation, %s (%s)", object.GetKind(), object.GetName(), r.Name, r.Field))
			}
		}
	}
	if !used[declared.GetName()] {
		out = append(out, "nothing uses it")
	}
	for _, name := range older {
		if !used[name] {
			out = append(out, fmt.Sprintf("its older generation %s is left, and nothing uses it", name))
		}
	}
	sort.Strings(out)
	return out, nil
}

// generations finds the declared generation and the names of the others.
func generations(declared *unstructured.Unstructured, objects []*unstructured.Unstructured, base string) (live *unstructured.Unstructured, others []string) {
	for _, object := range objects {
		if object.GetKind() != declared.GetKind() || object.GetNamespace() != declared.GetNamespace() {
			continue
		}
		if object.GetName() == declared.GetName() {
			live = object
		} else if parts := generated.FindStringSubmatch(object.GetName()); parts != nil && parts[1] == base {
			others = append(others, object.GetName())
		}
	}
	return live, others
}
