package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// requestAnnotation asks a Flux controller to reconcile an object now.
const requestAnnotation = "reconcile.fluxcd.io/requestedAt"

// SettleInput says what Settle waits for.
type SettleInput struct {
	Client client.Client
	// Timeout bounds the whole wait; required.
	Timeout time.Duration
	// Stall bounds the time in which nothing changes at all; required.
	Stall time.Duration
	// Progress is told what is waited for, first what itself waits for nothing; may
	// be nil.
	Progress func(waiting []Object)
	// Refused says whether the session refused what this object asks for, and in
	// which words: such a source will not become ready. May be nil.
	Refused func(Object) (string, bool)
}

// Settlement is how a wait ended.
type Settlement struct {
	// Objects are all Flux objects at the end.
	Objects []Object
	// Failed are those that ended in a terminal state, in the order found.
	Failed []Object
	// Blocked are those that wait for a failed or missing one.
	Blocked []Object
	// Waited is, per object, how long it was the one not ready although nothing
	// that it waits for was missing.
	Waited map[Ref]time.Duration
	// Chain explains what is not ready; empty when all is.
	Chain []string
}

// Ready says whether every object that is not suspended is ready.
func (s Settlement) Ready() bool { return len(s.Failed) == 0 && len(s.Blocked) == 0 }

// Settle waits until every Flux object is ready at its latest generation, or
// failed for good, or waits for one that did. Each time an object becomes ready,
// those that waited for it are asked to reconcile at once, since Flux itself
// would look again after its retry interval only. An error means that nothing
// moved for Stall, or that Timeout passed: it carries the chain.
func Settle(ctx context.Context, in SettleInput) (Settlement, error) {
	if in.Client == nil || in.Timeout <= 0 || in.Stall <= 0 {
		return Settlement{}, errors.New("settle: client, timeout and stall time are required")
	}
	s := &settler{
		in: in, ready: map[Ref]string{}, retried: map[Ref]string{},
		rechecked: map[Ref]recheck{}, waited: map[Ref]time.Duration{}, changed: time.Now(), last: time.Now(),
	}
	ctx, cancel := context.WithTimeout(ctx, in.Timeout)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, s.step)
	out := Settlement{Objects: s.objects, Failed: s.failed, Blocked: s.blocked, Waited: s.waited}
	if err != nil || !out.Ready() {
		out.Chain = Chain(s.objects, time.Now())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("not settled within %s", in.Timeout)
	}
	if err != nil {
		return out, fmt.Errorf("wait for Flux: %w:\n  %s", err, strings.Join(out.Chain, "\n  "))
	}
	return out, nil
}

type settler struct {
	in        SettleInput
	objects   []Object
	failed    []Object
	blocked   []Object
	ready     map[Ref]string // ready objects and the state in which dependents were told
	retried   map[Ref]string // failing objects and the request that asked for another try
	rechecked map[Ref]recheck
	waited    map[Ref]time.Duration
	gate      *bool
	snapshot  string
	changed   time.Time
	last      time.Time
}

func (s *settler) step(ctx context.Context) (bool, error) {
	objects, err := Observe(ctx, s.in.Client)
	if err != nil {
		// The API server may be busy for a moment: the stall time decides.
		return false, s.stalled(err.Error())
	}
	s.objects = objects
	now := time.Now()
	passed := now.Sub(s.last)
	s.last = now
	index := map[Ref]Object{}
	var state strings.Builder
	for _, o := range objects {
		index[o.Ref] = o
		fmt.Fprintf(&state, "%s %d %d %s %s %s %s;", o.Ref, o.Generation, o.Observed, o.Ready, o.Reason, o.Message, o.Revision)
	}
	if state.String() != s.snapshot {
		s.snapshot, s.changed = state.String(), now
	}
	if err := s.wake(ctx, objects, index); err != nil {
		return false, err
	}
	if err := s.recheck(ctx, objects, index); err != nil {
		return false, err
	}
	s.failed, s.blocked = nil, nil
	terminal := map[Ref]bool{}
	for _, o := range objects {
		if failed, err := s.terminal(ctx, o); err != nil {
			return false, err
		} else if failed {
			terminal[o.Ref] = true
			s.failed = append(s.failed, o)
		}
	}
	var active, waiting []Object
	for _, o := range objects {
		if o.Current() || o.Suspended || terminal[o.Ref] {
			continue
		}
		waiting = append(waiting, o)
	}
	// An object is blocked when something that it waits for has failed, is
	// missing, suspended or blocked itself; a chain needs as many rounds as it is
	// long.
	blocked := map[Ref]bool{}
	for range waiting {
		for _, o := range waiting {
			for _, ref := range o.WaitsFor {
				target, known := index[ref]
				if !known || terminal[ref] || blocked[ref] || (target.Suspended && !target.Current()) {
					blocked[o.Ref] = true
				}
			}
		}
	}
	for _, o := range waiting {
		if blocked[o.Ref] {
			s.blocked = append(s.blocked, o)
			continue
		}
		// What waits for nothing else is what everything waits for: it comes first.
		if s.unhindered(o, index) {
			s.waited[o.Ref] += passed
			active = slices.Insert(active, 0, o)
		} else {
			active = append(active, o)
		}
	}
	if s.in.Progress != nil {
		s.in.Progress(active)
	}
	if len(objects) > 0 && len(active) == 0 {
		return true, nil
	}
	return false, s.stalled("")
}

func (s *settler) unhindered(o Object, index map[Ref]Object) bool {
	for _, ref := range o.WaitsFor {
		if !index[ref].Current() {
			return false
		}
	}
	return true
}

func (s *settler) stalled(last string) error {
	if quiet := time.Since(s.changed); quiet > s.in.Stall {
		if last != "" {
			last = ": " + last
		}
		return fmt.Errorf("nothing changed for %s%s", quiet.Round(time.Second), last)
	}
	return nil
}

// wake asks those that waited for what has just become ready.
func (s *settler) wake(ctx context.Context, objects []Object, index map[Ref]Object) error {
	for _, o := range objects {
		if !o.Current() {
			delete(s.ready, o.Ref)
			continue
		}
		state := fmt.Sprintf("%d %s %s", o.Generation, o.Revision, o.Digest)
		if s.ready[o.Ref] == state {
			continue
		}
		s.ready[o.Ref] = state
		for _, dependent := range objects {
			// Who waits for health has begun already: asking would begin once more.
			if dependent.Current() || dependent.Suspended || checksHealth(dependent) || !refers(dependent, o.Ref) || !s.unhindered(dependent, index) {
				continue
			}
			if _, err := Request(ctx, s.in.Client, dependent); err != nil {
				return err
			}
		}
	}
	return nil
}

// refers says whether an object waits for another without being told when that
// becomes ready. Of a source's new artifact every controller is told: asking for
// more would have it reconcile twice.
func refers(o Object, to Ref) bool {
	if o.Kind != "GitRepository" && o.Kind != to.Kind {
		return false
	}
	for _, ref := range o.WaitsFor {
		if ref == to {
			return true
		}
	}
	return false
}

// terminal says whether an object failed for good. A failure that time alone
// may mend is asked for once more before it counts.
func (s *settler) terminal(ctx context.Context, o Object) (bool, error) {
	if o.Current() || o.Suspended {
		delete(s.retried, o.Ref)
		return false, nil
	}
	if s.in.Refused != nil {
		if _, refused := s.in.Refused(o); refused && o.Ready == "False" {
			return true, nil
		}
	}
	if o.Stalled && o.Observed == o.Generation {
		return true, nil
	}
	if o.Ready != "False" || o.Reconciling && o.Kind == "HelmRelease" {
		return false, nil
	}
	switch o.Reason {
	case "BuildFailed", "HealthCheckFailed", "InvalidCELExpression", "AccessDenied":
		return true, nil
	case "DependencyNotReady", "Progressing", "ProgressingWithRetry", "SourceNotReady", "HealthCheckCanceled", "IncludeUnavailable", "NoSourceArtifact", "NoArtifact":
		return false, nil
	}
	if o.Reason == "ArtifactFailed" && !strings.Contains(o.Message, "path not found") {
		return false, nil
	}
	token, asked := s.retried[o.Ref]
	if !asked {
		token, err := Request(ctx, s.in.Client, o)
		if err != nil {
			return false, err
		}
		s.retried[o.Ref] = token
		return false, nil
	}
	return o.Handled == token, nil
}

// Request asks the controller of an object to reconcile it now and returns the
// token that its status repeats once it has.
func Request(ctx context.Context, c client.Client, o Object) (string, error) {
	token := time.Now().UTC().Format(time.RFC3339Nano)
	target := &unstructured.Unstructured{}
	target.SetGroupVersionKind(o.Live.GroupVersionKind())
	target.SetNamespace(o.Namespace)
	target.SetName(o.Name)
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, requestAnnotation, token)
	if err := c.Patch(ctx, target, client.RawPatch(types.MergePatchType, []byte(patch))); client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("ask for the reconciliation of %s: %w", o.Ref, err)
	}
	return token, nil
}
