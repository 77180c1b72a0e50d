package bringup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// changeSuffix names the lock of who changes what a repository serves.
const changeSuffix = ".changing"

// Change says that this process changes what a repository of the session serves,
// until it calls done: then all is as it was. It waits for others that do. Who comes
// upon changes and nobody who makes them knows that a run was killed.
func (r Repository) Change(ctx context.Context) (done func(), err error) {
	done, err = session.Hold(ctx, r.Bare+changeSuffix)
	if err != nil {
		return nil, fmt.Errorf("change what is served for %s: %w", r.URL, err)
	}
	return done, nil
}

// Mend takes back what a killed run left in the repositories of a session, and
// waits until the clusters have followed. It returns the URLs of those that it
// mended. It waits for a run that is still at it.
func Mend(ctx context.Context, state State) ([]string, error) {
	var mended []string
	repositories := slices.SortedFunc(slices.Values(state.Repositories), func(a, b Repository) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range repositories { // in the order in which others take them
		done, err := r.Change(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		head, err := source.Head(ctx, r.Bare, r.Branch)
		if err != nil {
			return nil, fmt.Errorf("find what is served for %s: %w", r.URL, err)
		}
		if head == r.Served {
			continue
		}
		if _, err := source.Reset(ctx, r.Bare, r.Branch, r.Served, r.Tags...); err != nil {
			return nil, fmt.Errorf("take back what a killed run left in %s: %w", r.URL, err)
		}
		mended = append(mended, r.URL)
	}
	if len(mended) == 0 {
		return nil, nil
	}
	if err := follow(ctx, state, mended); err != nil {
		return nil, fmt.Errorf("%s: what a killed run left was taken back, and the clusters do not follow (end the session, and make a new one): %w", strings.Join(mended, ", "), err)
	}
	return mended, nil
}

// follow has Flux look at these URLs again in all environments, and waits until it
// has settled.
func follow(ctx context.Context, state State, urls []string) error {
	config, err := readConfig(state.Options.Config)
	if err != nil {
		return err
	}
	changed := func(address string) bool {
		return slices.ContainsFunc(urls, func(url string) bool { return platform.SameRepository(url, address) })
	}
	group, running := errgroup.WithContext(ctx)
	for _, e := range state.Environments {
		group.Go(func() error {
			cluster, err := e.Config()
			if err != nil {
				return err
			}
			c, err := client.New(cluster, client.Options{})
			if err != nil {
				return fmt.Errorf("connect to %s: %w", e.Name, err)
			}
			in := bootstrap.SettleInput{Client: c, Timeout: config.Timeouts.BringUp, Stall: config.Timeouts.Stall}
			if _, err := bootstrap.Refresh(running, in, changed); err != nil {
				return fmt.Errorf("environment %s: %w", e.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
