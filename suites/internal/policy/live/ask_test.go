package live

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// answering is a bench whose server answers as handle says; asked are the copies
// that a request names.
func answering(t *testing.T, handle func(w http.ResponseWriter, asked []string)) *Bench {
	t.Helper()
	client := clientOf(t, func(w http.ResponseWriter, r *http.Request) { handle(w, r.Header.Values("Impersonate-Extra-Fpc-Ask")) })
	return &Bench{
		options: Options{Patience: 3 * time.Second}, client: client, limit: newLimit(), copies: map[string]*copyState{},
		kinds: map[schema.GroupVersionKind]resource{
			{Version: "v1", Kind: "ConfigMap"}: {schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, true},
		},
		namespaces: map[string]namespaceState{canaryName + "-" + session: {found: true}},
	}
}

// clientOf is one of a server that answers as handle says.
func clientOf(t *testing.T, handle http.HandlerFunc) *rest.RESTClient {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		handle(w, r)
	}))
	t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL, QPS: -1, WarningHandler: rest.NoWarnings{}}
	config.NegotiatedSerializer, config.GroupVersion = scheme.Codecs.WithoutConversion(), &schema.GroupVersion{}
	client, err := rest.UnversionedRESTClientFor(config)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return client
}

func warn(w http.ResponseWriter, text string) {
	w.Header().Add("Warning", fmt.Sprintf("299 - %q", text))
}

func admit(w http.ResponseWriter) {
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`))
}

func refuse(w http.ResponseWriter, code int, reason, text string) {
	w.WriteHeader(code)
	data, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": text})
	_, _ = w.Write(data)
}

func copyNamed(i int) string { return fmt.Sprintf("p%010x", i) }

func about(names ...string) request {
	object := canaryObject("ConfigMap", nil)
	object.SetName("x")
	object.SetNamespace("default")
	return request{operation: opCreate, object: object, copies: names}
}

// The server passes on no more than 4,096 characters: what is cut is asked again.
func TestCutAnswersAreAskedAgainInHalves(t *testing.T) {
	g := NewWithT(t)
	var requests atomic.Int64
	long := strings.Repeat("x", 100)
	b := answering(t, func(w http.ResponseWriter, asked []string) {
		requests.Add(1)
		length := 0
		for _, name := range asked {
			text := "Policy " + name + " error: " + long
			if length += len(text); length > warningsCut {
				break
			}
			warn(w, text)
		}
		admit(w)
	})
	var names []string
	for i := range 120 {
		names = append(names, copyNamed(i))
	}
	got := b.ask(t.Context(), about(names...))
	g.Expect(got.said).To(HaveLen(120))
	g.Expect(got.unanswered).To(BeEmpty())
	g.Expect(requests.Load()).To(BeNumerically(">", 3))
}

func TestOtherWarningsLeaveNoRoom(t *testing.T) {
	g := NewWithT(t)
	b := answering(t, func(w http.ResponseWriter, _ []string) {
		warn(w, strings.Repeat("x", 3000))
		warn(w, strings.Repeat("y", 1000))
		admit(w)
	})
	got := b.ask(t.Context(), about(copyNamed(1)))
	g.Expect(got.unanswered[copyNamed(1)]).To(ContainSubstring("cut the answer"))
}

func TestWhoRefusedAndWhoCouldNotAnswer(t *testing.T) {
	for name, one := range map[string]struct {
		code           int
		reason, text   string
		invalid, known bool
	}{
		"the server's own validation": {422, "Invalid", `ConfigMap "x" is invalid: data: Too long`, true, false},
		"too large a request":         {413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", true, false},
		"a policy that is not ours":   {400, "", `admission webhook "x" denied the request: Policy other failed: no`, false, false},
		"rights":                      {403, "Forbidden", `configmaps is forbidden: User "x" cannot create resource`, false, false},
		"it is there already":         {409, "AlreadyExists", `configmaps "x" already exists`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			b := answering(t, func(w http.ResponseWriter, _ []string) {
				warn(w, "Policy "+copyNamed(1)+" failed: 0")
				refuse(w, one.code, one.reason, one.text)
			})
			got := b.ask(t.Context(), about(copyNamed(1)))
			g.Expect(got.invalid).To(Equal(one.invalid))
			if one.known {
				g.Expect(got.unanswered).To(BeEmpty())
				g.Expect(got.said).To(HaveKey(copyNamed(1)))
			} else {
				g.Expect(got.unanswered[copyNamed(1)]).To(Equal(one.text))
			}
		})
	}
}

func TestWhatCannotAnswerIsAskedAgain(t *testing.T) {
	for name, one := range map[string]struct {
		code         int
		text         string
		disturbances int
	}{
		"too many requests":   {429, "slow down", 0},
		"a webhook timed out": {500, `Internal error occurred: failed calling webhook "x": context deadline exceeded`, 0},
		"a webhook is gone":   {500, `Internal error occurred: failed calling webhook "x": connect: connection refused`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			var requests atomic.Int64
			b := answering(t, func(w http.ResponseWriter, _ []string) {
				if requests.Add(1) <= 2 {
					refuse(w, one.code, "", one.text)
					return
				}
				warn(w, "Policy "+copyNamed(1)+" failed: 0")
				admit(w)
			})
			got := b.ask(t.Context(), about(copyNamed(1)))
			g.Expect(got.said).To(HaveKey(copyNamed(1)))
			g.Expect(b.retries.Load()).To(BeEquivalentTo(2))
			g.Expect(b.disturbances.Load()).To(BeEquivalentTo(one.disturbances))
		})
	}
	t.Run("for ever", func(t *testing.T) {
		g := NewWithT(t)
		b := answering(t, func(w http.ResponseWriter, _ []string) { refuse(w, 429, "", "slow down") })
		b.options.Patience = 100 * time.Millisecond
		got := b.ask(t.Context(), about(copyNamed(1)))
		g.Expect(got.invalid).To(BeFalse())
		g.Expect(got.unanswered[copyNamed(1)]).To(ContainSubstring("slow down"))
	})
}

// Kyverno goes away in the middle, and when it is back it does not know the
// policies for a while: what was silent meanwhile passes for nothing.
func TestSilenceAfterADisturbanceIsAskedAgain(t *testing.T) {
	g := NewWithT(t)
	var mu sync.Mutex
	requests, awaited := 0, 0
	b := answering(t, func(w http.ResponseWriter, asked []string) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		switch {
		case requests == 3:
			refuse(w, 500, "", `failed calling webhook "x": connect: connection refused`)
			return
		case requests > 3 && requests < 20:
			awaited++ // it is back, and knows nothing
		default:
			for _, name := range asked {
				warn(w, "Policy "+name+" failed: 0")
			}
		}
		admit(w)
	})
	p := examplePolicy(t, twoValidations)
	name := copyNamed(1)
	b.copies[name] = &copyState{subject: subject{policy: p, name: name}, form: celForm{}, installation: installation{canary: about().object}, seen: true}
	var queries []*query
	test := &example.Test{}
	for i := range 12 {
		object := about().object.DeepCopy()
		object.SetName(fmt.Sprint("x", i))
		queries = append(queries, &query{example: &example.Example{Test: test, Policy: p, Object: object, Operation: opCreate}, object: object, copy: name})
	}
	g.Expect(b.askAll(t.Context(), []string{name}, queries)).To(Succeed())
	for _, q := range queries {
		g.Expect(q.reply.Answer).To(Equal(Refusing), q.object.GetName())
	}
	g.Expect(awaited).To(BeNumerically(">", 0))
}

func TestCopyThatRefusesEverybodyIsRemoved(t *testing.T) {
	g := NewWithT(t)
	name := copyNamed(7)
	refusals := 0
	b := answering(t, func(w http.ResponseWriter, _ []string) {
		if refusals++; refusals == 1 {
			refuse(w, 400, "", `admission webhook "x" denied the request: Policy `+name+` failed: 0`)
			return
		}
		admit(w)
	})
	placed := about().object
	b.copies[name] = &copyState{subject: subject{name: name}, placed: []*unstructured.Unstructured{placed}}
	g.Expect(b.disturbing(t.Context(), []*copyState{b.copies[name]})).To(Succeed())
	g.Expect(b.copies[name].failed).To(ContainSubstring("was removed"))
}

func TestLimit(t *testing.T) {
	g := NewWithT(t)
	l := newLimit()
	now := time.Unix(0, 0)
	busy := make(chan struct{})
	l.waiting = []chan struct{}{busy}
	// More workers bring more answers, up to a point.
	rate := func(workers int) float64 { return 100 * float64(min(workers, 20)) }
	for range 200 * window {
		now = now.Add(time.Duration(float64(time.Second) / rate(l.allowed)))
		l.measure(now)
	}
	g.Expect(l.allowed).To(BeNumerically(">", firstWorkers))
	g.Expect(l.allowed).To(BeNumerically("<", mostWorkers))
	before := l.allowed
	l.busy, l.waiting = 1, nil
	l.release(false)
	g.Expect(l.allowed).To(Equal(before / 2))
}

func TestWaves(t *testing.T) {
	g := NewWithT(t)
	b := answering(t, func(w http.ResponseWriter, _ []string) { admit(w) })
	object := func(value string) *unstructured.Unstructured {
		out := about().object
		_ = unstructured.SetNestedField(out.Object, value, "data", "x")
		return out
	}
	tests := []*example.Test{
		{Name: "a", Namespaces: map[string]map[string]string{"x": {"stage": "dev"}}},
		{Name: "b", Namespaces: map[string]map[string]string{"x": {"stage": "prd"}}},
		{Name: "c", Namespaces: map[string]map[string]string{"x": {"stage": "dev"}}, Objects: []*unstructured.Unstructured{object("1")}},
		{Name: "d", Objects: []*unstructured.Unstructured{object("2")}},
		{Name: "e", Objects: []*unstructured.Unstructured{object("1")}},
		{Name: "f", User: &example.User{Name: "u", ClusterRoles: []string{"admin"}, Roles: []string{"y:reader"}}},
		{Name: "g", User: &example.User{Name: "u"}},
	}
	waves := b.waves(tests)
	g.Expect(waves).To(HaveLen(2))
	g.Expect(waves[0].tests).To(And(HaveKey(tests[0]), HaveKey(tests[2]), HaveKey(tests[4]), HaveKey(tests[5])))
	g.Expect(waves[0].objects).To(And(
		HaveKey("ClusterRole.rbac.authorization.k8s.io /admin"), HaveKey("Role.rbac.authorization.k8s.io y/reader"), HaveLen(5),
	))
	g.Expect(waves[1].tests).To(And(HaveKey(tests[1]), HaveKey(tests[3]), HaveKey(tests[6])))
}
