package attack

import (
	"context"
	"errors"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/stage"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// What a round before stirred may be another object with the same content; all else
// must be the very same.
func TestCalm(t *testing.T) {
	g := NewWithT(t)
	b, b2, s := object("ConfigMap", "apps", "b", "beetle", "1", "x"), object("ConfigMap", "apps", "b2", "beetle", "2", "x"), object("ConfigMap", "apps", "s", "sonar", "3", "x")
	before := lookAt(b, b2, s)
	was := stir(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "1", "y"), b2, s))
	differs := func(objects ...*unstructured.Unstructured) []string {
		return touched(was.calm(before), was.calm(lookAt(objects...)), nil)
	}
	g.Expect(differs(b, b2, s)).To(BeEmpty())
	g.Expect(differs(object("ConfigMap", "apps", "b", "beetle", "9", "x"), b2, s)).To(BeEmpty(), "stirred, and made anew")
	g.Expect(differs(object("ConfigMap", "apps", "b", "beetle", "1", "y"), b2, s)).To(HaveLen(1), "stirred, and not put back")
	g.Expect(differs(b2, s)).To(HaveLen(1), "stirred, and gone")
	g.Expect(differs(b, object("ConfigMap", "apps", "b2", "beetle", "9", "x"), s)).To(HaveLen(1), "not stirred")
	g.Expect(differs(b, b2, object("ConfigMap", "apps", "s", "sonar", "9", "x"))).To(HaveLen(1), "another's")
	g.Expect(differs(b, b2, s, object("Pod", "apps", "p", "sonar", "8", "x"))).To(HaveLen(1), "a pod of another's")
	g.Expect(differs(b, b2, s, object("Pod", "apps", "p", "beetle", "8", "x"))).To(BeEmpty(), "a pod that follows what was stirred")
}

// chained runs a chain on no cluster. What each round finds is said beforehand, in
// the chain and alone, and what remains in the end.
func chained(t *testing.T, in, alone map[string][]string, stray map[string][]string, remaining []string) (tried []string, problems map[string][]string) {
	t.Helper()
	r := &runner{in: Input{View: &bringup.View{}, Say: func(string, ...any) {}}}
	verdict := func(o overlay.Overlay, found []string) Verdict {
		return Verdict{Overlay: o, Environment: "dev", Problems: found}
	}
	look := func(context.Context) (looks, error) { return looks{"dev": state.Snapshot{}}, nil }
	try := func(_ context.Context, _ *stage.Stage, round []overlay.Overlay, before looks, _ stirred) (link, looks, error) {
		tried = append(tried, round[0].ID)
		return link{overlays: round, verdicts: []Verdict{verdict(round[0], in[round[0].ID])}, stray: stray[round[0].ID]}, before, nil
	}
	again := func(_ context.Context, round []overlay.Overlay) ([]Verdict, error) {
		tried = append(tried, round[0].ID+" alone")
		return []Verdict{verdict(round[0], alone[round[0].ID])}, nil
	}
	todo := [][]overlay.Overlay{{{ID: "A"}}, {{ID: "B"}}, {{ID: "C"}}}
	found, err := r.chain(t.Context(), todo, look, try, func(looks, looks) []string { return remaining }, again)
	if err != nil {
		t.Fatal(err)
	}
	problems = map[string][]string{}
	for _, v := range found {
		if len(v.Problems) > 0 {
			problems[v.Overlay.ID] = v.Problems
		}
	}
	return tried, problems
}

func TestChain(t *testing.T) {
	type found = map[string][]string
	for _, test := range []struct {
		name             string
		in, alone, stray found
		remaining        []string
		tried            []string
		want             found
	}{
		{
			name: "all as it must be", tried: []string{"A", "B", "C"}, want: found{},
		},
		{
			name: "one fails, and alone as well", in: found{"B": {"no"}}, alone: found{"B": {"no, alone"}},
			tried: []string{"A", "B", "C", "B alone"}, want: found{"B": {"no, alone"}},
		},
		{
			name: "one fails because of the one before only", in: found{"B": {"no"}},
			tried: []string{"A", "B", "C", "B alone"}, want: found{},
		},
		{
			name: "something changed, and the one before left it", stray: found{"B": {"dev: x changed"}}, alone: found{"A": {"it left a change"}},
			tried: []string{"A", "B", "C", "A alone", "B alone"}, want: found{"A": {"it left a change"}},
		},
		{
			name: "something changed, and nobody alone did it", stray: found{"B": {"dev: x changed"}},
			tried: []string{"A", "B", "C", "A alone", "B alone"}, want: found{"B": {"after what was tried before it: x changed"}},
		},
		{
			name: "something remains, and the first left it", remaining: []string{"dev: x changed"}, alone: found{"A": {"it left a change"}},
			tried: []string{"A", "B", "C", "A alone", "B alone", "C alone"}, want: found{"A": {"it left a change"}},
		},
		{
			name: "something remains, and nobody alone left it", remaining: []string{"dev: x changed"},
			tried: []string{"A", "B", "C", "A alone", "B alone", "C alone"}, want: found{"C": {"after what was tried before it: x changed"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			tried, problems := chained(t, test.in, test.alone, test.stray, test.remaining)
			g.Expect(tried).To(Equal(test.tried))
			g.Expect(problems).To(Equal(test.want))
		})
	}
}

func TestChainThatBreaks(t *testing.T) {
	g := NewWithT(t)
	r := &runner{in: Input{View: &bringup.View{}, Say: func(string, ...any) {}}}
	look := func(context.Context) (looks, error) { return looks{}, nil }
	try := func(_ context.Context, _ *stage.Stage, round []overlay.Overlay, before looks, _ stirred) (link, looks, error) {
		if round[0].ID == "B" {
			return link{}, nil, errors.New("not settled")
		}
		return link{overlays: round, verdicts: []Verdict{{Overlay: round[0]}}}, before, nil
	}
	found, err := r.chain(t.Context(), [][]overlay.Overlay{{{ID: "A"}}, {{ID: "B"}}}, look, try, nil, nil)
	g.Expect(err).To(MatchError("B: not settled"))
	g.Expect(found).To(HaveLen(1), "what was found until then")
	found, err = r.chain(t.Context(), nil, nil, nil, nil, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(BeEmpty())
}

// What keeps tenants' objects from going back starts from a platform on which they
// have; nothing else has to wait for that.
func TestHinders(t *testing.T) {
	g := NewWithT(t)
	g.Expect(hinders([]overlay.Overlay{{Alone: true}})).To(BeTrue())
	g.Expect(hinders([]overlay.Overlay{{Change: &overlay.Extents{}}, {Change: &overlay.Extents{Where: &overlay.Where{}}}})).To(BeTrue(), "a change that breaks something")
	g.Expect(hinders([]overlay.Overlay{{Attack: &overlay.Attack{Where: &overlay.Where{}}}, {Change: &overlay.Extents{}}})).To(BeFalse())
	before := lookAt(object("ConfigMap", "apps", "b", "beetle", "1", "x"), object("Kustomization", "beetle", "beetle", "flux-system", "2", "x"))
	g.Expect(stir(before, before).ofTenants()).To(BeFalse())
	g.Expect(stir(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "1", "x"), object("Kustomization", "beetle", "beetle", "flux-system", "2", "y"))).ofTenants()).
		To(BeFalse(), "the platform's")
	g.Expect(stir(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "1", "y"))).ofTenants()).To(BeTrue())
}
