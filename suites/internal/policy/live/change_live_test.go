//go:build live

package live

import (
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	NewWithT(t).Expect(yaml.Unmarshal([]byte(text), &out.Object)).To(Succeed(), text)
	return out
}

// judged judges examples of a policy, each in a test of its own unless it has one.
func judged(t *testing.T, policy string, examples ...*example.Example) (PolicyState, []Verdict) {
	t.Helper()
	p := &example.Policy{Object: object(t, policy)}
	l := &example.Library{Policies: []*example.Policy{p}}
	for _, e := range examples {
		if e.Test == nil {
			e.Test = &example.Test{}
		}
		if !slices.Contains(l.Tests, e.Test) {
			e.Test.Policies = []*example.Policy{p}
			l.Tests = append(l.Tests, e.Test)
		}
		e.Test.Examples = append(e.Test.Examples, e)
		e.Policy = p
		if e.Operation == "" {
			e.Operation = opCreate
		}
	}
	b := open(t, Options{Patience: 30 * time.Second})
	j, err := b.Judge(t.Context(), l)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return j.Policies[0], j.Verdicts
}

const addsLabel = `
apiVersion: policies.kyverno.io/v1
kind: MutatingPolicy
metadata: {name: mutate-adds-label}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [services]}]
  matchConditions: [{name: colourless, expression: "!has(object.metadata.labels) || !('colour' in object.metadata.labels)"}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'colour': 'blue'}}}"}
`

func service(name, labels string) string {
	return "{apiVersion: v1, kind: Service, metadata: {name: mutate-" + name + ", labels: " + labels + "}, spec: {ports: [{port: 80}]}}"
}

func TestAMutatingPolicyIsJudgedByWhatItMakesOfAnObject(t *testing.T) {
	g := NewWithT(t)
	state, got := judged(
		t, addsLabel,
		&example.Example{Object: object(t, service("a", "{}")), Expected: example.Pass, Patched: object(t, service("a", "{colour: blue}"))},
		&example.Example{Object: object(t, service("a", "{}")), Expected: example.Pass, Patched: object(t, service("a", "{colour: red}"))},
		&example.Example{Object: object(t, service("a", "{colour: green}")), Expected: example.Skip},
		&example.Example{Object: object(t, service("a", "{}")), Expected: example.Pass, Operation: opUpdate, Patched: object(t, service("a", "{colour: blue}"))},
	)
	g.Expect(state.Problem).To(BeEmpty())
	for i, want := range []example.Verdict{example.Pass, example.Fail, example.Skip, example.Pass} {
		t.Log(i, got[i].Verdict, got[i].Reason, got[i].Words, got[i].Notes, got[i].Sent, got[i].Seconds)
		g.Expect(got[i].Verdict).To(Equal(want), "example %d", i)
	}
	g.Expect(got[1].Reason).To(ContainSubstring("-    colour: red\n+    colour: blue\n"))
}

const addsDefaults = `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: mutate-adds-defaults}
spec:
  rules:
  - name: team
    match: {any: [{resources: {kinds: [Pod]}}]}
    mutate: {patchStrategicMerge: {metadata: {labels: {+(team): blue}}}}
  - name: network
    match: {any: [{resources: {kinds: [Pod]}}]}
    preconditions: {all: [{key: "{{ request.object.metadata.labels.host }}", operator: Equals, value: "no"}]}
    mutate: {patchStrategicMerge: {spec: {dnsPolicy: Default}}}
`

func TestALegacyMutationIsJudgedByRule(t *testing.T) {
	g := NewWithT(t)
	pod := func(labels, dns string) *unstructured.Unstructured {
		return object(t, "{apiVersion: v1, kind: Pod, metadata: {name: mutate-a, labels: "+labels+"}, spec: {dnsPolicy: "+dns+", containers: [{name: a, image: a}]}}")
	}
	deployment := func(labels string) *unstructured.Unstructured {
		return object(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: mutate-a}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b "+labels+"}}, spec: {containers: [{name: a, image: a}]}}}}")
	}
	_, got := judged(
		t, addsDefaults,
		&example.Example{Rule: "team", Object: pod(`{host: "no"}`, "ClusterFirst"), Expected: example.Pass, Patched: pod(`{host: "no", team: blue}`, "Default")},
		&example.Example{Rule: "network", Object: pod(`{host: "no", team: red}`, "ClusterFirst"), Expected: example.Pass},
		&example.Example{Rule: "team", Object: pod(`{host: "no", team: red}`, "ClusterFirst"), Expected: example.Skip},
		&example.Example{Rule: "network", Object: pod(`{host: "yes"}`, "ClusterFirst"), Expected: example.Skip},
		&example.Example{Rule: "autogen-team", Object: deployment(`, host: "yes"`), Expected: example.Pass, Patched: deployment(`, host: "yes", team: blue`)},
		&example.Example{Rule: "network", Object: pod("{}", "ClusterFirst"), Expected: example.Error},
	)
	for i, want := range []example.Verdict{example.Pass, example.Pass, example.Skip, example.Skip, example.Pass, example.Error} {
		t.Log(i, got[i].Verdict, got[i].Reason, got[i].Words, got[i].Notes, got[i].Sent, got[i].Seconds)
		g.Expect(got[i].Verdict).To(Equal(want), "example %d", i)
	}
}
