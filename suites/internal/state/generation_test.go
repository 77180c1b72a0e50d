package state_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// The name that kustomize gives to a ConfigMap «config» with this one key.
const generatedName = "config-t757gk2bmf"

func generated(t *testing.T, name, value, more string) *unstructured.Unstructured {
	return parse(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: apps}, data: {key: %s}%s}", name, value, more))
}

func consumer(t *testing.T, kind, name, configMap, more string) *unstructured.Unstructured {
	spec := fmt.Sprintf("volumes: [{name: v, configMap: {name: %s}}]", configMap)
	if kind != "Pod" {
		spec = more + "template: {spec: {" + spec + "}}"
	}
	return parse(t, fmt.Sprintf("{kind: %s, metadata: {name: %s, namespace: apps}, spec: {%s}}", kind, name, spec))
}

func TestContentHash(t *testing.T) {
	g := NewWithT(t)
	hash, err := state.ContentHash(generated(t, generatedName, "value", ", immutable: true"), "config")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect("config-" + hash).To(Equal(generatedName))
	g.Expect(state.Generated(generated(t, generatedName, "value", ""))).To(BeTrue())
	g.Expect(state.Generated(generated(t, generatedName, "other", ""))).To(BeFalse())
	g.Expect(state.Generated(generated(t, "config", "value", ""))).To(BeFalse())
}

func TestGenerationProblems(t *testing.T) {
	const old = "config-2222222222"
	live := func(value, more string) *unstructured.Unstructured { return generated(t, generatedName, value, more) }
	deployment := func(name string) *unstructured.Unstructured { return consumer(t, "Deployment", "d", name, "") }
	for _, row := range []struct {
		name     string
		declared *unstructured.Unstructured
		objects  []*unstructured.Unstructured
		want     []string
	}{
		{"as declared", live("value", ""), []*unstructured.Unstructured{live("value", ""), deployment(generatedName)}, nil},
		{
			"a name without a hash", generated(t, "config", "value", ""), nil,
			[]string{"its name does not end in the hash of its content: no pod is replaced when a value changes"},
		},
		{"missing", live("value", ""), []*unstructured.Unstructured{deployment(generatedName)}, []string{"it is not there"}},
		{
			"in another namespace only", live("value", ""), []*unstructured.Unstructured{deployment(generatedName), func() *unstructured.Unstructured {
				out := live("value", "")
				out.SetNamespace("other")
				return out
			}()}, []string{"it is not there"},
		},
		{
			"other content", live("value", ""),
			[]*unstructured.Unstructured{live("other", ""), deployment(generatedName)},
			[]string{"its content has the hash 8k56d5mgg8, its name says t757gk2bmf"},
		},
		{
			"no longer immutable", live("value", ", immutable: true"),
			[]*unstructured.Unstructured{live("value", ""), deployment(generatedName)},
			[]string{"it is declared immutable, and can be changed"},
		},
		{
			"mounted in another generation", live("value", ""),
			[]*unstructured.Unstructured{live("value", ""), deployment(old)},
			[]string{"Deployment d uses another generation, config-2222222222 (spec.template.spec.volumes[name=v])", "nothing uses it"},
		},
		{
			"an older generation left", live("value", ""),
			[]*unstructured.Unstructured{live("value", ""), generated(t, old, "x", ""), deployment(generatedName)},
			[]string{"its older generation config-2222222222 is left, and nothing uses it"},
		},
		{
			"an older generation in the record of a rollout", live("value", ""),
			[]*unstructured.Unstructured{live("value", ""), generated(t, old, "x", ""), deployment(generatedName), consumer(t, "ReplicaSet", "r", old, "replicas: 0, ")},
			[]string{"its older generation config-2222222222 is left, and nothing uses it"},
		},
		{
			"an older generation that a pod still uses", live("value", ""),
			[]*unstructured.Unstructured{live("value", ""), generated(t, old, "x", ""), deployment(generatedName), consumer(t, "Pod", "p", old, "")},
			nil,
		},
		{
			"another tenant's", live("value", ""),
			[]*unstructured.Unstructured{live("value", ""), generated(t, "other-config-2222222222", "x", ""), deployment(generatedName)},
			nil,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			problems, err := state.GenerationProblems(row.declared, row.objects)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(problems).To(Equal(row.want))
		})
	}
}
