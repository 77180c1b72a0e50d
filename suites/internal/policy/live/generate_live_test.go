//go:build live

package live

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const makesNetworkPolicy = `
apiVersion: policies.kyverno.io/v1
kind: GeneratingPolicy
metadata: {name: mutate-makes-network-policy}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}]
  matchConditions: [{name: chosen, expression: "has(object.metadata.labels) && 'chosen' in object.metadata.labels"}]
  generate:
  - expression: >-
      generator.Apply(object.metadata.namespace, [{"apiVersion": dyn("networking.k8s.io/v1"), "kind": dyn("NetworkPolicy"),
      "metadata": dyn({"name": object.metadata.name}), "spec": dyn({"podSelector": dyn({}), "policyTypes": dyn([object.metadata.labels['chosen']])})}])
`

const clonesConfigMap = `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: mutate-clones}
spec:
  rules:
  - name: clone
    match: {any: [{resources: {kinds: [Namespace], names: ["mutate-*"]}}]}
    exclude: {any: [{resources: {names: [mutate-without]}}]}
    generate: {apiVersion: v1, kind: ConfigMap, name: cloned, namespace: "{{ request.object.metadata.name }}", synchronize: true, clone: {name: mutate-source, namespace: default}}
`

func networkPolicy(t *testing.T, kind string) []*unstructured.Unstructured {
	return []*unstructured.Unstructured{parsed(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: mutate-a, namespace: mutate-n}, spec: {podSelector: {}, policyTypes: ["+kind+"]}}")}
}

func TestAGeneratingPolicyIsJudgedByWhatItMakes(t *testing.T) {
	g := NewWithT(t)
	chosen := func(labels string) *unstructured.Unstructured {
		out := parsed(t, service("a", labels))
		out.SetNamespace("mutate-n")
		return out
	}
	state, got := judged(
		t, makesNetworkPolicy,
		&example.Example{Object: chosen("{chosen: Ingress}"), Expected: example.Pass, Generated: networkPolicy(t, "Ingress")},
		&example.Example{Object: chosen("{chosen: Ingress}"), Expected: example.Pass, Generated: networkPolicy(t, "Egress")},
		&example.Example{Object: chosen("{}"), Expected: example.Skip},
		&example.Example{Object: chosen("{chosen: Nonsense}"), Expected: example.Error},
	)
	g.Expect(state.Problem).To(BeEmpty())
	for i, want := range []example.Verdict{example.Pass, example.Fail, example.Skip, example.Error} {
		t.Log(i, got[i].Verdict, got[i].Reason, got[i].Words, got[i].Notes, got[i].Sent, got[i].Seconds)
		g.Expect(got[i].Verdict).To(Equal(want), "example %d", i)
		g.Expect(got[i].Notes).To(BeEmpty())
	}
	g.Expect(got[1].Reason).To(ContainSubstring("-  - Egress\n+  - Ingress\n"))
}

func TestALegacyCloneIsJudgedByWhatItMakes(t *testing.T) {
	g := NewWithT(t)
	namespace := func(name string) *unstructured.Unstructured {
		return parsed(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")
	}
	cloned := func(namespace, value string) []*unstructured.Unstructured {
		return []*unstructured.Unstructured{parsed(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: cloned, namespace: "+namespace+"}, data: {key: "+value+"}}")}
	}
	world := &example.Test{Objects: []*unstructured.Unstructured{parsed(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: mutate-source, namespace: default}, data: {key: value}}")}}
	state, got := judged(
		t, clonesConfigMap,
		&example.Example{Test: world, Rule: "clone", Object: namespace("mutate-1"), Expected: example.Pass, Generated: cloned("mutate-1", "value")},
		&example.Example{Test: world, Rule: "clone", Object: namespace("mutate-2"), Expected: example.Pass, Generated: cloned("mutate-2", "other")},
		&example.Example{Test: world, Rule: "clone", Object: namespace("mutate-without"), Expected: example.Skip},
	)
	g.Expect(state.Problem).To(BeEmpty())
	for i, want := range []example.Verdict{example.Pass, example.Fail, example.Skip} {
		t.Log(i, got[i].Verdict, got[i].Reason, got[i].Words, got[i].Notes, got[i].Sent, got[i].Seconds)
		g.Expect(got[i].Verdict).To(Equal(want), "example %d", i)
		g.Expect(got[i].Notes).To(BeEmpty())
	}
}

// What is kept in step is made anew when it is removed: what a copy made stays away,
// and no clean-up waits for it.
func TestWhatAPolicyKeepsInStepIsRemoved(t *testing.T) {
	g := NewWithT(t)
	keeps := strings.Replace(makesNetworkPolicy, "  generate:\n", "  evaluation: {synchronize: {enabled: true}}\n  generate:\n", 1)
	keeps = strings.Replace(keeps, "operations: [CREATE]", "operations: [CREATE, UPDATE]", 1)
	g.Expect(keeps).To(And(ContainSubstring("synchronize"), ContainSubstring("UPDATE")))
	var examples []*example.Example
	for i := range 6 {
		object := parsed(t, service("a", "{chosen: Ingress}"))
		object.SetNamespace("mutate-n")
		examples = append(examples, &example.Example{
			Object: object, Operation: []string{opCreate, opUpdate}[i%2], Expected: example.Pass, Generated: networkPolicy(t, "Ingress"),
		})
	}
	b := open(t, Options{})
	state, got := judgedOn(t, b, keeps, examples...)
	g.Expect(state.Problem).To(BeEmpty())
	for i, v := range got {
		g.Expect(v.Verdict).To(Equal(example.Pass), "example %d: %s", i, v.Reason)
		g.Expect(v.Notes).To(BeEmpty(), "example %d", i)
	}
	g.Consistently(func() (*unstructured.Unstructured, error) {
		return b.read(t.Context(), networkPolicy(t, "Ingress")[0])
	}).WithTimeout(time.Second).Should(BeNil())
}

// TestPoliciesOfOneNamespace judges what changes and makes objects in its own
// namespace alone.
func TestPoliciesOfOneNamespace(t *testing.T) {
	g := NewWithT(t)
	l := load(t, "testdata/namespaced")
	g.Expect(l.Findings).To(BeEmpty())
	j, err := open(t, Options{}).Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	for _, p := range j.Policies {
		g.Expect(p.Problem).To(BeEmpty(), p.Policy.String())
	}
	for _, v := range j.Verdicts {
		g.Expect(v.Verdict).To(Equal(v.Example.Expected), "%s: %s", v.Example, v.Reason)
		g.Expect(v.Notes).To(BeEmpty(), v.Example.String())
	}
}
