package attack

import (
	"context"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

// What is wrong is said, also of an attack that could not be tried to the end.
func TestProblemsComeFirst(t *testing.T) {
	attack := overlay.Overlay{ID: "ATK-F01", Attack: &overlay.Attack{Layer: "rbac"}}
	g := NewWithT(t)
	g.Expect(Verdict{Overlay: attack, Unsupported: "no pods", Problems: []string{"it left a change"}}.Outcome().Result).To(Equal(check.Failed))
	g.Expect(Verdict{Overlay: attack, Unsupported: "no pods"}.Outcome().Result).To(Equal(check.NotSupported))
	g.Expect(Verdict{Overlay: attack}.Outcome().Result).To(Equal(check.Passed))
}

// What a layer says also while it is off is no proof that it stops anything.
func TestDoubt(t *testing.T) {
	g := NewWithT(t)
	verdicts := []Verdict{
		{Overlay: overlay.Overlay{ID: "ATK-F06"}, Environment: "dev"},
		{Overlay: overlay.Overlay{ID: "ATK-F06"}, Environment: "prd"},
		{Overlay: overlay.Overlay{ID: "ATK-F07"}, Environment: "dev"},
	}
	doubt(verdicts, []Deep{
		{Attack: "ATK-F06", Environment: "dev", Off: "flag --no-remote-bases", Still: true, Words: "no such host\nand more"},
		{Attack: "ATK-F07", Environment: "dev", Off: "flag --no-remote-bases", Next: "rbac"},
	})
	g.Expect(verdicts[0].Outcome().Result).To(Equal(check.NotSupported))
	g.Expect(verdicts[0].Unsupported).To(Equal("with flag --no-remote-bases off it is refused in the same words, so who stops it cannot be told: no such host"))
	g.Expect(verdicts[1].Outcome().Result).To(Equal(check.Passed))
	g.Expect(verdicts[2].Outcome().Result).To(Equal(check.Passed))
}

func TestNarrow(t *testing.T) {
	const inDev, inPrd = "dev: ConfigMap apps/s changed", "prd: ConfigMap apps/s changed"
	for _, test := range []struct {
		name string
		// stray is what changes while these are tried, by their IDs; the last but one
		// time, and ever after.
		stray map[string][][]string
		want  map[string][]string
		tries int
	}{
		{"nothing", nil, map[string][]string{}, 1},
		{
			"one of them",
			map[string][][]string{"A, B": {{inDev}}, "B": {{inDev}}},
			map[string][]string{"B": {"it left a change: ConfigMap apps/s changed"}},
			3,
		},
		{
			"one of them, in an environment where it is not tried",
			map[string][][]string{"A, B": {{inPrd}}, "A": {{inPrd}}},
			map[string][]string{"A": {"it left a change in prd, where nothing was tried: ConfigMap apps/s changed"}},
			3,
		},
		{
			"both together, and none alone",
			map[string][][]string{"A, B": {{inDev}, {inDev}}},
			map[string][]string{
				"A": {"together, A, B leave a change: ConfigMap apps/s changed"},
				"B": {"together, A, B leave a change: ConfigMap apps/s changed"},
			},
			4,
		},
		{"what does not come again", map[string][][]string{"A, B": {{inDev}, nil}}, map[string][]string{}, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			r := &runner{in: Input{Say: func(string, ...any) {}}}
			tries := 0
			seen := map[string]int{}
			found, err := r.narrow(t.Context(), []overlay.Overlay{{ID: "A"}, {ID: "B"}}, func(_ context.Context, round []overlay.Overlay) (verdicts []Verdict, stray []string, err error) {
				tries++
				for _, o := range round {
					verdicts = append(verdicts, Verdict{Overlay: o, Environment: "dev"})
				}
				if all := test.stray[ids(round)]; seen[ids(round)] < len(all) {
					stray = all[seen[ids(round)]]
				}
				seen[ids(round)]++
				return verdicts, stray, nil
			})
			g.Expect(err).NotTo(HaveOccurred())
			problems := map[string][]string{}
			for _, v := range found {
				if len(v.Problems) > 0 {
					problems[v.Overlay.ID] = v.Problems
				}
			}
			g.Expect(problems).To(Equal(test.want))
			g.Expect(found).To(HaveLen(2))
			g.Expect(tries).To(Equal(test.tries))
		})
	}
}

// That a request is denied which nobody could make shows nothing.
func TestReviewsOfWhatThereIs(t *testing.T) {
	known, err := servedBy([]*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "pods", Verbs: []string{"get", "list"}}, {Name: "pods/exec", Verbs: []string{"create", "get"}},
		}},
		{GroupVersion: "rbac.authorization.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "roles", Verbs: []string{"create"}}}},
	})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	for _, test := range []struct {
		review overlay.Review
		want   string
	}{
		{overlay.Review{Verb: "list", Resource: "pods"}, ""},
		{overlay.Review{Verb: "create", Resource: "pods", Subresource: "exec"}, ""},
		{overlay.Review{Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "roles"}, ""},
		{overlay.Review{Verb: "impersonate", Resource: "users"}, ""},
		{overlay.Review{Verb: "list", Resource: "pod"}, "the server has no resource pod"},
		{overlay.Review{Verb: "list", Group: "apps", Resource: "pods"}, "the server has no resource apps/pods"},
		{overlay.Review{Verb: "create", Resource: "pods", Subresource: "exek"}, "the server has no resource pods/exek"},
		{overlay.Review{Verb: "lists", Resource: "pods"}, "nobody can lists pods: the server knows get, list of it"},
		{overlay.Review{Verb: "impersonate", Resource: "pods"}, "nobody can impersonate pods: the server knows get, list of it"},
		{overlay.Review{Verb: "use", Resource: "pod"}, "the server has no resource pod"},
	} {
		NewWithT(t).Expect(known.unknown(test.review)).To(Equal(test.want), "%v", test.review)
	}
}

// A check that fails anyhow does not see the attack.
func TestBaseline(t *testing.T) {
	attack := overlay.Overlay{ID: "ATK-P08", Attack: &overlay.Attack{Layer: "check", By: "POL-002"}}
	for _, test := range []struct {
		name    string
		outcome check.Outcome
		want    []string
	}{
		{"it passes", check.Outcome{Check: "POL-002", Environment: "dev", Result: check.Passed}, nil},
		{"it fails", check.Outcome{Check: "POL-002", Environment: "dev", Result: check.Failed, Found: "x"}, []string{"POL-002 fails without the attack, too: x"}},
		{"it passes elsewhere", check.Outcome{Check: "POL-002", Environment: "prd", Result: check.Passed}, []string{"POL-002 was not seen to pass without the attack"}},
		{"another one passes", check.Outcome{Check: "POL-001", Environment: "dev", Result: check.Passed}, []string{"POL-002 was not seen to pass without the attack"}},
		{"it is not judged", check.Outcome{Check: "POL-002", Environment: "dev", Result: check.NotSupported, Reason: "x"}, []string{"POL-002 was not seen to pass without the attack"}},
	} {
		v := Verdict{Overlay: attack, Environment: "dev"}
		passes(&v, []check.Outcome{test.outcome})
		NewWithT(t).Expect(v.Problems).To(Equal(test.want), test.name)
	}
}

// What the layout makes harmless has to be built first.
func TestLayoutThatWasNotBuilt(t *testing.T) {
	attack := &overlay.Attack{Layer: "layout", Where: &overlay.Where{Kind: "Kustomization", Namespace: "beetle", Name: "beetle"}}
	ready := func(kind, namespace, name, status string) bootstrap.Object {
		return bootstrap.Object{Ref: bootstrap.Ref{Kind: kind, Namespace: namespace, Name: name}, Ready: status, Generation: 1, Observed: 1, Reason: "R", Message: "m"}
	}
	for _, test := range []struct {
		name  string
		other bootstrap.Object
		want  []string
	}{
		{"all is ready", ready("GitRepository", "beetle", "developer", "True"), nil},
		{"its source is not", ready("GitRepository", "beetle", "developer", "False"), []string{"nothing shows that the commit was applied: GitRepository beetle/developer is not ready: R: m"}},
		{"another attack's is not", ready("Kustomization", "beetle", "atk-f08", "False"), nil},
		{"another tenant's is not", ready("GitRepository", "sonar", "developer", "False"), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			v := Verdict{Overlay: overlay.Overlay{Attack: attack}, Environment: "dev"}
			r := &runner{sites: []*site{{name: "dev"}}}
			applied := ready("Kustomization", "beetle", "beetle", "True")
			applied.WaitsFor = []bootstrap.Ref{{Kind: "GitRepository", Namespace: "beetle", Name: "developer"}, {Kind: "Kustomization", Namespace: "flux-system", Name: "tenants"}}
			settled := bootstrap.Settlement{Objects: []bootstrap.Object{applied, test.other}}
			g.Expect(r.judge(t.Context(), &v, settled)).To(Succeed())
			g.Expect(v.Problems).To(Equal(test.want))
		})
	}
}
