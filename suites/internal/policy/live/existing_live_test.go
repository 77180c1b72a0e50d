//go:build live

package live

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// Each policy labels Secrets of the trigger's namespace when a Service with the
// label «mark» is created.
var marksSecrets = map[string]string{
	"rules": `
apiVersion: policies.kyverno.io/v1
kind: MutatingPolicy
metadata: {name: mutate-marks}
spec:
  evaluation: {mutateExisting: {enabled: true}}
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}]
  matchConditions: [{name: marks, expression: "has(object.metadata.labels) && 'mark' in object.metadata.labels"}]
  targetMatchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'marked': 'blue'}}}"}
`,
	"expression": `
apiVersion: policies.kyverno.io/v1
kind: MutatingPolicy
metadata: {name: mutate-marks}
spec:
  evaluation: {mutateExisting: {enabled: true}}
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}]
  matchConditions: [{name: marks, expression: "has(object.metadata.labels) && 'mark' in object.metadata.labels"}]
  targetMatchConstraints: {expression: "resource.List('v1', 'secrets', object.metadata.namespace)"}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'marked': 'blue'}}}"}
`,
	"legacy": `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: mutate-marks}
spec:
  rules:
  - name: mark
    match: {any: [{resources: {kinds: [Service], selector: {matchLabels: {mark: "*"}}}}]}
    mutate:
      targets: [{apiVersion: v1, kind: Secret, namespace: "{{ request.namespace }}"}]
      patchStrategicMerge: {metadata: {labels: {marked: blue}}}
`,
}

func TestChangesOfWhatIsThereAreJudgedByWhatBecameOfIt(t *testing.T) {
	secret := func(name, labels string) *unstructured.Unstructured {
		return parsed(t, "{apiVersion: v1, kind: Secret, metadata: {name: "+name+", namespace: mutate-n, labels: "+labels+"}, type: Opaque}")
	}
	trigger := func(labels string) *unstructured.Unstructured {
		out := parsed(t, service("trigger", labels))
		out.SetNamespace("mutate-n")
		return out
	}
	for name, policy := range marksSecrets {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			target, marks, does := secret("mutate-target", "{}"), trigger("{mark: please}"), trigger("{}")
			test := func(resource *unstructured.Unstructured) *example.Test {
				return &example.Test{Targets: []*unstructured.Unstructured{target}, Resources: []*unstructured.Unstructured{resource}}
			}
			state, got := judged(
				t, policy,
				&example.Example{Test: test(marks), Object: target, Expected: example.Pass, Patched: secret("mutate-target", "{marked: blue}")},
				&example.Example{Test: test(marks), Object: target, Expected: example.Pass, Patched: secret("mutate-target", "{marked: red}")},
				&example.Example{Test: test(does), Object: target, Expected: example.Skip, Patched: target},
				&example.Example{Test: test(marks), Object: marks, Expected: example.Pass},
				&example.Example{Test: test(does), Object: does, Expected: example.Skip},
			)
			g.Expect(state.Problem).To(BeEmpty())
			for i, want := range []example.Verdict{example.Pass, example.Fail, example.Skip, example.Pass, example.Skip} {
				t.Log(i, got[i].Verdict, got[i].Reason, got[i].Words, got[i].Notes, got[i].Sent, got[i].Seconds)
				g.Expect(got[i].Verdict).To(Equal(want), "example %d", i)
				g.Expect(got[i].Notes).To(BeEmpty())
			}
			g.Expect(got[1].Reason).To(ContainSubstring("-    marked: red\n+    marked: blue\n"))
		})
	}
}
