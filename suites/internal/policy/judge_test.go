package policy

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// bench is a cluster that refuses what is called wrong, from the second time on that
// it is asked, and counts who asks and what is stored.
type bench struct {
	mu      sync.Mutex
	asked   map[string]int
	stored  map[string]int
	clients int
}

func (b *bench) refuse(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[name]++
	if name == "wrong" && b.asked[name] > 1 {
		return errors.New("denied the request: Policy names failed: the name is wrong")
	}
	return nil
}

func (b *bench) input() JudgeInput {
	administrator := fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
			b.mu.Lock()
			b.stored[o.GetName()]++
			b.mu.Unlock()
			return c.Create(ctx, o, options...)
		},
	}).Build()
	return JudgeInput{
		Client: administrator, Patience: 5 * time.Second, Poll: time.Millisecond,
		As: func(user string, _ ...string) (client.Client, error) {
			if user == "nobody" {
				return nil, errors.New("connect as nobody: refused")
			}
			b.clients++
			return interceptor.NewClient(administrator, interceptor.Funcs{
				Create: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
					return b.refuse(o.GetName())
				},
				Update: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.UpdateOption) error {
					return b.refuse(o.GetName())
				},
				Delete: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.DeleteOption) error {
					return b.refuse(o.GetName())
				},
			}), nil
		},
	}
}

func TestJudge(t *testing.T) {
	g := NewWithT(t)
	b := &bench{asked: map[string]int{}, stored: map[string]int{}}
	example := func(name, operation string, denied bool) Case {
		c := Case{Policy: "names", Operation: operation, User: "someone", Object: object(name, nil), Denied: denied}
		if denied {
			c.Message = "the name is wrong"
		}
		return c
	}
	cases := []Case{
		example("wrong", Create, true), example("right", Create, false), example("right", Update, false), example("right", Delete, false),
	}
	verdicts := Judge(t.Context(), b.input(), cases)
	for i, v := range verdicts {
		g.Expect(v.Case).To(Equal(cases[i]), "verdicts come in the order of the cases")
		g.Expect(v.Problem()).To(BeEmpty())
	}
	g.Expect(b.asked["wrong"]).To(Equal(2), "what is not refused yet is asked again")
	g.Expect(b.asked["right"]).To(Equal(3), "what is as expected is not")
	g.Expect(b.stored).To(Equal(map[string]int{"right": 1}), "one object is stored once for all that is asked of it")
	g.Expect(b.clients).To(Equal(1), "who asks twice connects once")
}

func TestJudgeTellsWhatIsNotAsExpected(t *testing.T) {
	g := NewWithT(t)
	b := &bench{asked: map[string]int{}, stored: map[string]int{}}
	in := b.input()
	in.Patience = time.Millisecond
	admitted := Case{Policy: "names", Operation: Create, User: "someone", Object: object("right", nil), Denied: true, Message: "x"}
	nobody := Case{Policy: "names", Operation: Create, User: "nobody", Object: object("right", nil)}
	verdicts := Judge(t.Context(), in, []Case{admitted, nobody})
	g.Expect(verdicts[0].Problem()).To(Equal("must be refused, and was admitted"))
	g.Expect(verdicts[1].Problem()).To(Equal("must be admitted, but: connect as nobody: refused"))
	ended, end := context.WithCancel(t.Context())
	end()
	g.Expect(Judge(ended, b.input(), []Case{admitted})[0].Answer).To(HaveOccurred())
}

func TestJudgeInAWorld(t *testing.T) {
	g := NewWithT(t)
	b := &bench{asked: map[string]int{}, stored: map[string]int{}}
	in := b.input()
	there := []*unstructured.Unstructured{object("more", nil)}
	cases := []Case{
		{Policy: "names", Operation: Delete, User: "someone", Object: object("right", nil), standing: there},
		{Policy: "names", Operation: Create, User: "someone", Object: object("other", nil), standing: there},
	}
	for _, v := range Judge(t.Context(), in, cases) {
		g.Expect(v.Problem()).To(BeEmpty())
	}
	g.Expect(b.stored).To(Equal(map[string]int{"right": 1, "more": 1}), "what stands there is stored once for all examples of its world")
	g.Expect(in.Client.Get(t.Context(), client.ObjectKey{Name: "more"}, object("more", nil))).To(MatchError(ContainSubstring("not found")), "and gone afterwards")
	twice := []*unstructured.Unstructured{object("more", nil), object("more", nil)}
	in.Patience = time.Millisecond
	v := Judge(t.Context(), in, []Case{{Policy: "names", Operation: Create, User: "someone", Object: object("right", nil), standing: twice}})[0]
	g.Expect(v.Problem()).To(ContainSubstring("store the example ConfigMap more"))
	g.Expect(in.Client.Get(t.Context(), client.ObjectKey{Name: "more"}, object("more", nil))).To(MatchError(ContainSubstring("not found")), "what was stored before is gone, too")
}

func TestJudgeAsksNotAgainWhatTheServerDoesNotKnow(t *testing.T) {
	g := NewWithT(t)
	in := (&bench{asked: map[string]int{}, stored: map[string]int{}}).input()
	asked := 0
	in.As = func(string, ...string) (client.Client, error) {
		return interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
				asked++
				return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: "HTTPRoute"}}
			},
		}), nil
	}
	v := Judge(t.Context(), in, []Case{{Policy: "names", Operation: Create, User: "someone", Object: object("right", nil)}})[0]
	g.Expect(v.UnknownKind()).To(BeTrue())
	g.Expect(asked).To(Equal(1))
	g.Expect(v.Problem()).NotTo(BeEmpty(), "it is no verdict")
}
