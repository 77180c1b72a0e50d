//go:build live

package live

import (
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// judged judges examples of a policy, each in a test of its own unless it has one.
func judged(t *testing.T, policy string, examples ...*example.Example) (PolicyState, []Verdict) {
	t.Helper()
	return judgedOn(t, open(t, Options{}), policy, examples...)
}

func judgedOn(t *testing.T, b *Bench, policy string, examples ...*example.Example) (PolicyState, []Verdict) {
	t.Helper()
	p := &example.Policy{Object: parsed(t, policy)}
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
	g := NewWithT(t)
	j, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	again, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	for i, v := range again.Verdicts {
		g.Expect(v.Verdict).To(Equal(j.Verdicts[i].Verdict), "asked again: example %d", i)
	}
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
		&example.Example{Object: parsed(t, service("a", "{}")), Expected: example.Pass, Patched: parsed(t, service("a", "{colour: blue}"))},
		&example.Example{Object: parsed(t, service("a", "{}")), Expected: example.Pass, Patched: parsed(t, service("a", "{colour: red}"))},
		&example.Example{Object: parsed(t, service("a", "{colour: green}")), Expected: example.Skip},
		&example.Example{Object: parsed(t, service("a", "{}")), Expected: example.Pass, Operation: opUpdate, Patched: parsed(t, service("a", "{colour: blue}"))},
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
		return parsed(t, "{apiVersion: v1, kind: Pod, metadata: {name: mutate-a, labels: "+labels+"}, spec: {dnsPolicy: "+dns+", containers: [{name: a, image: a}]}}")
	}
	deployment := func(labels string) *unstructured.Unstructured {
		return parsed(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: mutate-a}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b "+labels+"}}, spec: {containers: [{name: a, image: a}]}}}}")
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

const admissionAddsLabel = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: mutate-admission-label}
spec:
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}]
  matchConditions: [{name: colourless, expression: "!has(object.metadata.labels) || !('colour' in object.metadata.labels)"}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'colour': 'blue'}}}"}
`

func TestAMutatingAdmissionPolicyIsJudgedByWhatItMakesOfAnObject(t *testing.T) {
	g := NewWithT(t)
	state, got := judged(
		t, admissionAddsLabel,
		&example.Example{Object: parsed(t, service("a", "{}")), Expected: example.Pass, Patched: parsed(t, service("a", "{colour: blue}"))},
		&example.Example{Object: parsed(t, service("a", "{}")), Expected: example.Pass, Patched: parsed(t, service("a", "{colour: red}"))},
		&example.Example{Object: parsed(t, service("a", "{colour: green}")), Expected: example.Skip},
	)
	g.Expect(state.Problem).To(BeEmpty())
	for i, want := range []example.Verdict{example.Pass, example.Fail, example.Skip} {
		t.Log(i, got[i].Verdict, got[i].Reason, got[i].Words, got[i].Notes, got[i].Sent, got[i].Seconds)
		g.Expect(got[i].Verdict).To(Equal(want), "example %d", i)
	}
}

func TestAMutatingPolicyIsExceptedWhereItsTestSaysSo(t *testing.T) {
	g := NewWithT(t)
	exception := parsed(t, `
apiVersion: policies.kyverno.io/v1
kind: PolicyException
metadata: {name: mutate-excepted, namespace: default}
spec:
  policyRefs: [{name: mutate-adds-label, kind: MutatingPolicy}]
  matchConditions: [{name: one, expression: "object.metadata.name == 'mutate-excepted'"}]
`)
	test := &example.Test{Exceptions: []*unstructured.Unstructured{exception}}
	state, got := judged(
		t, addsLabel,
		&example.Example{Test: test, Object: parsed(t, service("excepted", "{}")), Expected: example.Skip},
		&example.Example{Test: test, Object: parsed(t, service("b", "{}")), Expected: example.Pass},
		&example.Example{Object: parsed(t, service("excepted", "{}")), Expected: example.Pass},
	)
	t.Log(state.Problem, got[0].Verdict, got[1].Verdict, got[2].Verdict)
	g.Expect([]example.Verdict{got[1].Verdict, got[2].Verdict}).To(Equal([]example.Verdict{example.Pass, example.Pass}))
	g.Expect(got[0].Verdict).To(Equal(example.Skip), "this needs a Kyverno that takes exceptions of every namespace")
}

func TestAMutatingPolicyThatDoesNotCompileIsExplained(t *testing.T) {
	g := NewWithT(t)
	broken := strings.Replace(addsLabel, "Object{metadata", "Object{nonsense(", 1)
	state, got := judged(t, broken, &example.Example{Object: parsed(t, service("a", "{}")), Expected: example.Pass})
	g.Expect(state.Problem).To(ContainSubstring("is refused"))
	g.Expect(state.Problem).To(ContainSubstring("nonsense"))
	g.Expect(state.Problem).NotTo(MatchRegexp(`p[0-9a-f]{10}`))
	g.Expect(got[0].Verdict).To(Equal(example.Unknown))
	t.Log(state.Problem)
}
