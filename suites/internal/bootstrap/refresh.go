package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// stages is the order in which a change passes through Flux: what is fetched,
// what is composed of it, what is made of both.
var stages = []struct {
	name    string
	members func(Object) bool
}{
	{"sources", func(o Object) bool {
		return strings.HasSuffix(o.Kind, "Repository") && !composed(o) || o.Kind == "Bucket"
	}},
	{"composed sources", composed},
	{"root", func(o Object) bool { return o.Kind == "Kustomization" && root(o) }},
	// The root may have changed what the others fetch.
	{"sources", func(o Object) bool { return strings.HasSuffix(o.Kind, "Repository") && !composed(o) }},
	{"composed sources", composed},
	{"Kustomizations", func(o Object) bool { return o.Kind == "Kustomization" && !root(o) }},
}

func composed(o Object) bool { return o.Kind == "GitRepository" && len(o.WaitsFor) > 0 }

func root(o Object) bool { return o.Namespace == Namespace && o.Name == Namespace }

// Refresh makes Flux look at everything again, in the order in which a change
// passes through it: after a commit, a composed source that reconciles before
// the one that it includes would hand on the old content. It returns when every
// controller has acted on its request and everything has settled again.
//
// changed says which sources may have changed; nil: all. What draws on none of
// them, and charts, are left alone: large CRDs take seconds to look through.
func Refresh(ctx context.Context, in SettleInput, changed func(url string) bool) (Settlement, error) {
	if in.Client == nil || in.Timeout <= 0 || in.Stall <= 0 {
		return Settlement{}, errors.New("refresh: client, timeout and stall time are required")
	}
	for _, stage := range stages {
		if err := requestStage(ctx, in, stage.name, stage.members, changed); err != nil {
			return Settlement{}, err
		}
	}
	return Settle(ctx, in)
}

// requestStage asks every member to reconcile and waits until each has acted. A
// member whose dependency is not ready is left alone: it is asked again when the
// dependency is, and Settle does that.
func requestStage(ctx context.Context, in SettleInput, name string, members func(Object) bool, changed func(string) bool) error {
	objects, err := Observe(ctx, in.Client)
	if err != nil {
		return fmt.Errorf("refresh %s: %w", name, err)
	}
	pending := map[Ref]string{}
	drawn := map[Ref]bool{}
	for _, o := range objects {
		drawn[o.Ref] = o.URL != "" && (changed == nil || changed(o.URL))
	}
	for _, o := range objects {
		if !drawn[o.Ref] && !slices.ContainsFunc(o.WaitsFor, func(ref Ref) bool { return drawn[ref] }) {
			continue
		}
		if o.Suspended || !members(o) || o.Kind == "HelmRepository" && o.Ready == "True" && o.Live.Object["status"] == nil {
			continue
		}
		if pending[o.Ref], err = Request(ctx, in.Client, o); err != nil {
			return err
		}
	}
	err = wait.PollUntilContextTimeout(ctx, pollInterval, in.Timeout, true, func(ctx context.Context) (bool, error) {
		objects, err := Observe(ctx, in.Client)
		if err != nil {
			return false, nil //nolint:nilerr // the API server may be busy; the timeout decides
		}
		seen := map[Ref]bool{}
		for _, o := range objects {
			seen[o.Ref] = true
			// A request is acted on when the status repeats it; a health check that
			// still runs is Settle's to await.
			if token, asked := pending[o.Ref]; asked && (o.Handled >= token || o.Suspended || checksHealth(o)) {
				delete(pending, o.Ref)
			}
		}
		for ref := range pending {
			if !seen[ref] {
				delete(pending, ref)
			}
		}
		return len(pending) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("refresh %s: %d objects did not act on the request within %s:\n  %s",
			name, len(pending), in.Timeout, strings.Join(Chain(objects, time.Now()), "\n  "))
	}
	return nil
}

func message(o Object) string {
	_, fields := condition(o.Live, "Reconciling")
	text, _ := fields["message"].(string)
	return text
}
