package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// server holds Flux objects and stands for the API server and the controllers at
// once: what an object becomes when it is asked to reconcile is said beforehand.
// What real controllers do is proved on real clusters; here the conclusions are.
type server struct {
	client.Client
	mu sync.Mutex
	// asked are the objects that were asked to reconcile, in this order.
	asked []string
	// become is what the status of an object is once it was asked, by its name.
	become map[string]string
	// revision is what a source has fetched once it was asked, by its name; begins
	// names the Kustomization that then applies it by itself.
	revision, begins map[string]string
}

func serve(t *testing.T, objects ...string) *server {
	t.Helper()
	s := &server{become: map[string]string{}}
	// The client writes kinds that it meets into its scheme: tests that run side by
	// side cannot share one.
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme)
	for _, text := range objects {
		builder = builder.WithObjects(decoded(t, text))
	}
	s.Client = builder.WithInterceptorFuncs(interceptor.Funcs{Patch: s.patch}).Build()
	return s
}

// patch plays the controller after it was asked: its status repeats the token.
func (s *server) patch(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
	if err := c.Patch(ctx, object, patch, options...); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, object.GetName())
	status, ok := s.become[object.GetName()]
	if !ok {
		return nil
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(object), live); err != nil {
		return err
	}
	fields := map[string]any{"lastHandledReconcileAt": live.GetAnnotations()[requestAnnotation], "observedGeneration": live.GetGeneration()}
	reason, message, _ := strings.Cut(status, ": ")
	ready := "False"
	if reason == "Succeeded" {
		ready = "True"
	}
	fields["conditions"] = []any{map[string]any{"type": "Ready", "status": ready, "reason": reason, "message": message}}
	live.Object["status"] = fields
	if revision := s.revision[object.GetName()]; revision != "" {
		fields["artifact"] = map[string]any{"revision": revision}
		if name := s.begins[object.GetName()]; name != "" {
			applier := &unstructured.Unstructured{}
			applier.SetAPIVersion("kustomize.toolkit.fluxcd.io/v1")
			applier.SetKind("Kustomization")
			if err := c.Get(ctx, client.ObjectKey{Namespace: object.GetNamespace(), Name: name}, applier); err != nil {
				return err
			}
			status, _ := applier.Object["status"].(map[string]any)
			status["lastAttemptedRevision"] = revision
			if err := c.Update(ctx, applier); err != nil {
				return err
			}
		}
	}
	return c.Update(ctx, live)
}

func repository(name, status string) string {
	return fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: %s, namespace: flux-system, generation: 1}\nspec: {url: https://github.com/acme/%s}\n%s", name, name, status)
}

func kustomizationOf(name, spec, status string) string {
	return fmt.Sprintf("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: %s, namespace: flux-system, generation: 1}\nspec: {%s}\n%s", name, spec, status)
}

const (
	ready     = "status: {observedGeneration: 1, conditions: [{type: Ready, status: 'True', reason: Succeeded}]}\n"
	outdated  = "status: {observedGeneration: 0, conditions: [{type: Ready, status: 'True', reason: Succeeded}]}\n"
	fromRoot  = "sourceRef: {kind: GitRepository, name: root}"
	afterCRDs = fromRoot + ", dependsOn: [{name: crds}]"
)

func notReady(reason, message string, more ...string) string {
	return fmt.Sprintf("status: {observedGeneration: 1, conditions: [{type: Ready, status: 'False', reason: %s, message: %s}%s]}\n", reason, message, strings.Join(more, ""))
}

const (
	stalled     = ", {type: Stalled, status: 'True'}"
	reconciling = ", {type: Reconciling, status: 'True'}"
)

func settle(t *testing.T, s *server, change func(*SettleInput)) (Settlement, error) {
	t.Helper()
	in := SettleInput{Client: s, Timeout: time.Minute, Stall: time.Minute}
	if change != nil {
		change(&in)
	}
	return Settle(t.Context(), in)
}

func refs(objects []Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, o.Name)
	}
	return out
}

func TestSettle(t *testing.T) {
	root := repository("root", ready)
	for _, test := range []struct {
		name            string
		objects         []string
		become          map[string]string
		failed, blocked []string
		chain           []string
	}{
		{name: "all is ready", objects: []string{root, kustomizationOf("crds", fromRoot, ready)}},
		{
			name:    "what is suspended is nobody's to wait for",
			objects: []string{root, kustomizationOf("crds", fromRoot+", suspend: true", notReady("BuildFailed", "x"))},
		},
		{
			name:    "a build that fails is terminal, and what depends on it is blocked, to the end of the chain",
			objects: []string{root, kustomizationOf("crds", fromRoot, notReady("BuildFailed", "no such file")), kustomizationOf("app", afterCRDs, ""), kustomizationOf("last", "dependsOn: [{name: app}]", "")},
			failed:  []string{"crds"}, blocked: []string{"app", "last"},
			chain: []string{
				"Kustomization flux-system/crds is not ready (BuildFailed): no such file",
				"Kustomization flux-system/app has no status yet; waits for Kustomization flux-system/crds",
				"Kustomization flux-system/last has no status yet; waits for Kustomization flux-system/app",
			},
		},
		{
			name:    "a health check that failed is terminal",
			objects: []string{root, kustomizationOf("crds", fromRoot, notReady("HealthCheckFailed", "timeout"))},
			failed:  []string{"crds"}, chain: []string{"Kustomization flux-system/crds is not ready (HealthCheckFailed): timeout"},
		},
		{
			name:    "stalled is terminal, whatever the reason",
			objects: []string{root, kustomizationOf("crds", fromRoot, notReady("DependencyNotReady", "x", stalled))},
			failed:  []string{"crds"}, chain: []string{"Kustomization flux-system/crds is not ready (DependencyNotReady): x"},
		},
		{
			name:    "what waits for a missing one is blocked",
			objects: []string{root, kustomizationOf("app", afterCRDs, "")},
			blocked: []string{"app"}, chain: []string{"Kustomization flux-system/app has no status yet; waits for Kustomization flux-system/crds, which does not exist"},
		},
		{
			name:    "what waits for a suspended one is blocked",
			objects: []string{root, kustomizationOf("crds", fromRoot+", suspend: true", ""), kustomizationOf("app", afterCRDs, "")},
			blocked: []string{"app"},
			chain: []string{
				"Kustomization flux-system/crds is suspended",
				"Kustomization flux-system/app has no status yet; waits for Kustomization flux-system/crds",
			},
		},
		{
			name:    "a failure that time may mend is asked for once more, and mends",
			objects: []string{root, kustomizationOf("crds", fromRoot, notReady("ReconciliationFailed", "webhook not reached"))},
			become:  map[string]string{"crds": "Succeeded: applied"},
		},
		{
			name:    "a failure that time may mend is asked for once more, and stays",
			objects: []string{root, kustomizationOf("crds", fromRoot, notReady("ReconciliationFailed", "webhook not reached"))},
			become:  map[string]string{"crds": "ReconciliationFailed: refused"},
			failed:  []string{"crds"}, chain: []string{"Kustomization flux-system/crds is not ready (ReconciliationFailed): refused"},
		},
		{
			name:    "a path that is not there is asked for once more",
			objects: []string{root, kustomizationOf("crds", fromRoot, notReady("ArtifactFailed", "path not found"))},
			become:  map[string]string{"crds": "ArtifactFailed: 'kustomization path not found: x'"},
			failed:  []string{"crds"}, chain: []string{"Kustomization flux-system/crds is not ready (ArtifactFailed): 'kustomization path not found: x'"},
		},
		{
			name: "what waited for one that is ready is asked at once",
			objects: []string{
				root, kustomizationOf("crds", fromRoot, ready), kustomizationOf("app", afterCRDs, notReady("DependencyNotReady", "dependency")),
			},
			become: map[string]string{"app": "Succeeded: applied"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			s := serve(t, test.objects...)
			s.become = test.become
			got, err := settle(t, s, nil)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(refs(got.Failed)).To(Equal(test.failed))
			g.Expect(refs(got.Blocked)).To(Equal(test.blocked))
			g.Expect(got.Ready()).To(Equal(test.failed == nil && test.blocked == nil))
			g.Expect(got.Chain).To(Equal(test.chain))
			g.Expect(got.Objects).To(HaveLen(len(test.objects)))
			for name := range test.become {
				g.Expect(s.asked).To(Equal([]string{name}), "asked once")
			}
		})
	}
}

// Who waits for health has begun already, and would begin once more.
func TestSettleAsksNobodyWhoWaitsForHealth(t *testing.T) {
	g := NewWithT(t)
	const checking = "status: {observedGeneration: 1, conditions: [{type: Ready, status: Unknown}, {type: Reconciling, status: 'True', message: Running health checks}]}\n"
	s := serve(t, repository("root", ready), kustomizationOf("crds", fromRoot, ready), kustomizationOf("app", afterCRDs, checking))
	_, err := settle(t, s, func(in *SettleInput) { in.Timeout = 2 * pollInterval })
	g.Expect(err).To(HaveOccurred())
	g.Expect(s.asked).To(BeEmpty())
}

func TestSettleStopsAtWhatTheSessionRefused(t *testing.T) {
	g := NewWithT(t)
	const refusal = "no local answer for URL"
	s := serve(t, repository("canary", notReady("GitOperationFailed", refusal)), kustomizationOf("app", "sourceRef: {kind: GitRepository, name: canary}", ""))
	got, err := settle(t, s, func(in *SettleInput) {
		in.Refused = func(o Object) (string, bool) { return o.Message, o.Message == refusal }
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(refs(got.Failed)).To(Equal([]string{"canary"}))
	g.Expect(refs(got.Blocked)).To(Equal([]string{"app"}))
	g.Expect(s.asked).To(BeEmpty(), "asking again changes nothing")
}

// Nothing that may still move ends the wait before its time is over; the error
// then carries the chain.
func TestSettleTimesOut(t *testing.T) {
	for _, test := range []struct {
		name, object, line string
	}{
		{"no status yet", kustomizationOf("crds", fromRoot, ""), "Kustomization flux-system/crds has no status yet"},
		{"ready at an older generation", kustomizationOf("crds", fromRoot, outdated), "Kustomization flux-system/crds is not ready (Succeeded): "},
		{"progressing", kustomizationOf("crds", fromRoot, notReady("Progressing", "applying")), "Kustomization flux-system/crds is not ready (Progressing): applying"},
		{"an artifact that is about to come", kustomizationOf("crds", fromRoot, notReady("ArtifactFailed", "not reachable")), "Kustomization flux-system/crds is not ready (ArtifactFailed): not reachable"},
		{
			"a release at its next try",
			"apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: kyverno, namespace: kyverno, generation: 1}\nspec: {}\n" + notReady("InstallFailed", "x", reconciling),
			"HelmRelease kyverno/kyverno is not ready (InstallFailed): x",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			var waiting []string
			got, err := settle(t, serve(t, repository("root", ready), test.object), func(in *SettleInput) {
				in.Timeout = 3 * pollInterval
				in.Progress = func(objects []Object) { waiting = refs(objects) }
			})
			g.Expect(err).To(MatchError(And(HavePrefix("wait for Flux: not settled within 600ms:\n  "), ContainSubstring(test.line))))
			g.Expect(got.Chain).To(ConsistOf(HavePrefix(test.line)))
			g.Expect(waiting).To(HaveLen(1))
			g.Expect(got.Failed).To(BeEmpty())
		})
	}
	t.Run("a cluster without any Flux object", func(t *testing.T) {
		t.Parallel()
		_, err := settle(t, serve(t), func(in *SettleInput) { in.Timeout = 2 * pollInterval })
		NewWithT(t).Expect(err).To(MatchError(HavePrefix("wait for Flux: not settled within 400ms")))
	})
}

func TestSettleStalls(t *testing.T) {
	g := NewWithT(t)
	s := serve(t, repository("root", ready), kustomizationOf("crds", fromRoot, notReady("Progressing", "applying")))
	_, err := settle(t, s, func(in *SettleInput) { in.Stall = 2 * pollInterval })
	g.Expect(err).To(MatchError(And(HavePrefix("wait for Flux: nothing changed for "), HaveSuffix("crds is not ready (Progressing): applying"))))
}

func TestSettleEndsWithItsContext(t *testing.T) {
	g := NewWithT(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, repository("root", ""))
	_, err := Settle(ctx, SettleInput{Client: s, Timeout: time.Minute, Stall: time.Minute, Progress: func([]Object) { cancel() }})
	g.Expect(err).To(MatchError(context.Canceled))
}

// An API server that does not answer for a moment is borne until the stall time.
func TestSettleBearsAnAPIServerThatIsAway(t *testing.T) {
	g := NewWithT(t)
	away := errors.New("connection refused")
	tries := 0
	s := serve(t, repository("root", ready))
	s.Client = interceptor.NewClient(s.Client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if tries++; tries < 3 {
				return away
			}
			return c.List(ctx, list, options...)
		},
	})
	got, err := settle(t, s, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.Ready()).To(BeTrue())

	s.Client = interceptor.NewClient(s.Client.(client.WithWatch), interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return away },
	})
	_, err = settle(t, s, func(in *SettleInput) { in.Stall = 2 * pollInterval })
	g.Expect(err).To(MatchError(And(ContainSubstring("nothing changed for "), ContainSubstring("connection refused"))))
}

func TestWaitedNamesWhoHeldUpTheOthers(t *testing.T) {
	g := NewWithT(t)
	s := serve(t, repository("root", ready), kustomizationOf("crds", fromRoot, notReady("Progressing", "applying")), kustomizationOf("app", afterCRDs, ""))
	var order []string
	got, err := settle(t, s, func(in *SettleInput) {
		in.Timeout = 4 * pollInterval
		in.Progress = func(objects []Object) { order = refs(objects) }
	})
	g.Expect(err).To(HaveOccurred())
	g.Expect(order).To(Equal([]string{"crds", "app"}), "first what waits for nothing else")
	g.Expect(got.Waited).To(HaveLen(1))
	g.Expect(got.Waited).To(HaveKey(Ref{"Kustomization", "flux-system", "crds"}))
}

func TestRequiredInput(t *testing.T) {
	g := NewWithT(t)
	for _, in := range []SettleInput{{}, {Client: serve(t), Timeout: time.Second}, {Client: serve(t), Stall: time.Second}} {
		_, err := Settle(t.Context(), in)
		g.Expect(err).To(MatchError("settle: client, timeout and stall time are required"))
		_, err = Refresh(t.Context(), in, nil)
		g.Expect(err).To(MatchError("refresh: client, timeout and stall time are required"))
	}
}

// A change passes through Flux in an order; asking in another hands on what is
// old. What draws on nothing that has changed is left alone.
func TestRefreshAsksInOrder(t *testing.T) {
	inventory := func(ids ...string) string {
		entries := make([]string, 0, len(ids))
		for _, id := range ids {
			entries = append(entries, "{id: flux-system_"+id+"}")
		}
		return strings.Replace(ready, "status: {", "status: {inventory: {entries: ["+strings.Join(entries, ", ")+"]}, ", 1)
	}
	const source, kustomization = "_source.toolkit.fluxcd.io_GitRepository", "_kustomize.toolkit.fluxcd.io_Kustomization"
	for _, test := range []struct {
		name    string
		changed func(string) bool
		want    []string
	}{
		// The root Kustomization may change what the others fetch; it applies its own
		// source too, and that does not wait for it.
		{"all", nil, []string{"root", "flux-system", "other", "composed", "last", "app"}},
		{"what is included", func(url string) bool { return url == "https://github.com/acme/other" }, []string{"other", "composed", "last", "app"}},
		{"what includes", func(url string) bool { return url == "https://github.com/acme/composed" }, []string{"composed", "app"}},
		{"nothing", func(string) bool { return false }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			s := serve(t,
				kustomizationOf("app", "sourceRef: {kind: GitRepository, name: composed}, dependsOn: [{name: last}]", ready),
				kustomizationOf("last", "sourceRef: {kind: GitRepository, name: other}", ready),
				kustomizationOf("flux-system", "sourceRef: {kind: GitRepository, name: root}",
					inventory("flux-system"+kustomization, "root"+source, "other"+source, "composed"+source, "app"+kustomization, "gone"+kustomization, "a__b_rbac_Role")),
				repository("root", ready),
				repository("other", ready),
				strings.Replace(repository("composed", ready), "spec: {", "spec: {include: [{repository: {name: other}}], ", 1),
				strings.Replace(repository("sleeping", ready), "spec: {", "spec: {suspend: true, ", 1),
				kustomizationOf("undisturbed", "sourceRef: {kind: GitRepository, name: sleeping}", ready),
				kustomizationOf("asleep", "suspend: true, sourceRef: {kind: GitRepository, name: root}", ready),
				"apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata: {name: address, namespace: flux-system}\nspec: {type: oci, url: oci://ghcr.io/acme}\n",
			)
			for _, name := range []string{"app", "last", "flux-system", "root", "other", "composed", "undisturbed", "sleeping"} {
				s.become[name] = "Succeeded: done"
			}
			got, err := Refresh(t.Context(), SettleInput{Client: s, Timeout: time.Minute, Stall: time.Minute}, test.changed)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got.Ready()).To(BeTrue())
			g.Expect(s.asked).To(Equal(test.want))
		})
	}
}

// A Kustomization is told of its source's new revision by Flux itself: asking would
// have it apply everything twice. Where the revision stays, or does not tell all, it
// is asked.
func TestRefreshLeavesAloneWhatBeginsByItself(t *testing.T) {
	for _, test := range []struct {
		name, revision string
		begins         bool
		include        string
		want           []string
	}{
		{"a new revision", "main@sha1:2", true, "", []string{"root"}},
		{"the revision that it had", "main@sha1:1", true, "", []string{"root", "flux-system"}},
		{"a revision that is composed", "main@sha1:2", true, "include: [{repository: {name: other}}], ", []string{"root", "flux-system"}},
		{"a new revision that nobody applies", "main@sha1:2", false, "", []string{"root", "flux-system"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			first := strings.Replace(ready, "status: {", "status: {artifact: {revision: 'main@sha1:1'}, ", 1)
			s := serve(t,
				strings.Replace(repository("root", first), "spec: {", "spec: {"+test.include, 1),
				repository("other", ready),
				kustomizationOf("flux-system", fromRoot, strings.Replace(ready, "status: {", "status: {lastAttemptedRevision: 'main@sha1:1', ", 1)),
			)
			s.become["root"], s.become["flux-system"] = "Succeeded: done", "Succeeded: done"
			s.revision = map[string]string{"root": test.revision}
			if test.begins {
				s.begins = map[string]string{"root": "flux-system"}
			}
			in := SettleInput{Client: s, Timeout: time.Minute, Stall: time.Minute}
			g.Expect(Propagate(t.Context(), in, func(url string) bool { return strings.HasSuffix(url, "/root") })).To(Succeed())
			g.Expect(s.asked).To(Equal(test.want))
		})
	}
}

// Those that wait for one another in a circle are asked all the same: that they
// do not become ready is for the checks to find.
func TestRefreshOfACircle(t *testing.T) {
	g := NewWithT(t)
	s := serve(t,
		repository("root", ready),
		kustomizationOf("a", fromRoot+", dependsOn: [{name: b}]", ready),
		kustomizationOf("b", fromRoot+", dependsOn: [{name: a}]", ready),
	)
	for _, name := range []string{"root", "a", "b"} {
		s.become[name] = "Succeeded: done"
	}
	g.Expect(Propagate(t.Context(), SettleInput{Client: s, Timeout: time.Minute, Stall: time.Minute}, nil)).To(Succeed())
	g.Expect(s.asked).To(Equal([]string{"root", "a", "b"}))
}

func TestRefreshNamesWhoDoesNotAct(t *testing.T) {
	g := NewWithT(t)
	s := serve(t, repository("root", notReady("GitOperationFailed", "unreachable")), kustomizationOf("app", fromRoot, ready))
	_, err := Refresh(t.Context(), SettleInput{Client: s, Timeout: 2 * pollInterval, Stall: time.Minute}, nil)
	g.Expect(err).To(MatchError("refresh: 2 objects did not act on the request within 400ms:\n  GitRepository flux-system/root is not ready (GitOperationFailed): unreachable"))
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupted"))
	_, err = Refresh(stopped, SettleInput{Client: s, Timeout: time.Minute, Stall: time.Minute}, nil)
	g.Expect(err).To(MatchError("refresh: interrupted"))
}

// A health check that began before the request is of what was applied before.
func TestActedOnARequest(t *testing.T) {
	state := func(handled, message string) Object {
		return read("Kustomization", decoded(t, kustomizationOf("app", "", fmt.Sprintf(
			"status: {lastHandledReconcileAt: %q, conditions: [{type: Reconciling, status: 'True', message: %q}]}", handled, message))))
	}
	const building, checking = "Building manifests", "Running health checks"
	for _, test := range []struct {
		name  string
		fresh bool
		seen  []Object
		want  bool
	}{
		{"its status repeats the token", false, []Object{state("2", "")}, true},
		{"it was asked once more since", false, []Object{state("3", "")}, true},
		{"it acted on an earlier one", true, []Object{state("1", "")}, false},
		{"it builds", true, []Object{state("1", building)}, false},
		{"it waits for health", true, []Object{state("1", checking)}, true},
		{"it still waits for health", false, []Object{state("1", checking)}, false},
		{"it waits for health again", false, []Object{state("1", checking), state("1", building), state("1", checking)}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &request{token: "2", fresh: test.fresh}
			done := false
			for _, o := range test.seen {
				done = r.done(o)
			}
			NewWithT(t).Expect(done).To(Equal(test.want))
		})
	}
}
