// Package stage lays overlays over the platform of a running session, has Flux act
// on them, and takes them back. What proves faults and what tries attacks both
// stand on it.
package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// Stage is what lies over the platform of a session at the moment.
type Stage struct {
	view *bringup.View
	// before are the revisions to go back to, of the repositories in which commits
	// lie.
	before map[string]string
	// moved are the repositories of which Flux has not been shown what lies there now.
	moved map[string]bool
	sent  []sentTo
}

// sentTo are the objects that were sent to one cluster.
type sentTo struct {
	config  *rest.Config
	objects []overlay.Sent
}

// New is a stage on which nothing lies.
func New(view *bringup.View) *Stage {
	return &Stage{view: view, before: map[string]string{}, moved: map[string]bool{}}
}

// Lay commits the files of overlays, one after the other.
func (s *Stage) Lay(ctx context.Context, overlays ...overlay.Overlay) error {
	for _, o := range overlays {
		for _, name := range o.Touches() {
			repository, ok := s.view.State.Repository(name)
			if !ok {
				return fmt.Errorf("%s changes the %s repository, which this session does not serve", o.ID, name)
			}
			revision, err := bringup.Lay(ctx, repository, o)
			if err != nil {
				return err
			}
			s.moved[name] = true
			if s.before[name] == "" {
				s.before[name] = revision
			}
		}
	}
	return nil
}

// Swap takes back what lies on the stage and lays the files of others in its place,
// without having Flux look in between.
func (s *Stage) Swap(ctx context.Context, overlays ...overlay.Overlay) error {
	if err := errors.Join(s.revert(ctx), s.reset(ctx)); err != nil {
		return err
	}
	return s.Lay(ctx, overlays...)
}

// revert puts back the objects that were sent. Flux has to look at everything that
// may have been changed meanwhile.
func (s *Stage) revert(ctx context.Context) error {
	var errs []error
	for _, sent := range slices.Backward(s.sent) {
		errs = append(errs, overlay.Revert(ctx, sent.config, sent.objects))
	}
	if len(s.sent) > 0 {
		for _, name := range overlay.Repositories {
			if _, served := s.view.State.Repository(name); served {
				s.moved[name] = true
			}
		}
	}
	s.sent = nil
	return errors.Join(errs...)
}

// reset moves the repositories back to where they were.
func (s *Stage) reset(ctx context.Context) error {
	var errs []error
	for name, revision := range s.before {
		repository, _ := s.view.State.Repository(name)
		s.moved[name] = true
		if _, err := source.Reset(ctx, repository.Bare, repository.Branch, revision, repository.Tags...); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.before, name)
	}
	return errors.Join(errs...)
}

// Committed says whether a commit of an overlay lies on the stage.
func (s *Stage) Committed() bool { return len(s.before) > 0 }

// Send sends the objects of an overlay to each environment that it names.
func (s *Stage) Send(ctx context.Context, o overlay.Overlay) error {
	if len(o.Objects) == 0 {
		return nil
	}
	for _, e := range s.view.State.Environments {
		if !o.In(e.Name) {
			continue
		}
		config, err := e.Config()
		if err != nil {
			return err
		}
		objects, err := o.SendObjects(ctx, config)
		s.sent = append(s.sent, sentTo{config, objects})
		if err != nil {
			return err
		}
	}
	return nil
}

// Settled is how Flux settled, by environment.
type Settled map[string]bootstrap.Settlement

// Ready says whether every object of every environment became ready.
func (s Settled) Ready() bool {
	for _, settlement := range s {
		if !settlement.Ready() {
			return false
		}
	}
	return true
}

// Refresh makes Flux look again at what draws on the sources that have changed,
// and says how it settled.
func (s *Stage) Refresh(ctx context.Context) (Settled, error) {
	settled, err := s.refresh(ctx, s.touched())
	if err == nil {
		clear(s.moved)
	}
	return settled, err
}

// touched says which sources may have changed: those of the repositories that were
// moved since Flux last looked, and all where an object was edited in the cluster, which its
// Kustomization has to put right.
func (s *Stage) touched() func(string) bool {
	if len(s.sent) > 0 {
		return s.view.Changeable
	}
	names := slices.Collect(maps.Keys(s.moved))
	return func(address string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			repository, _ := s.view.State.Repository(name)
			return platform.SameRepository(repository.URL, address)
		})
	}
}

func (s *Stage) refresh(ctx context.Context, changed func(string) bool) (Settled, error) {
	group, running := errgroup.WithContext(ctx)
	var mu sync.Mutex
	out := Settled{}
	for _, e := range s.view.State.Environments {
		group.Go(func() error {
			config, err := e.Config()
			if err != nil {
				return err
			}
			c, err := client.New(config, client.Options{})
			if err != nil {
				return err
			}
			timeouts := s.view.Timeouts()
			settled, err := bootstrap.Refresh(running, bootstrap.SettleInput{Client: c, Timeout: timeouts.BringUp, Stall: timeouts.Stall}, changed)
			if err != nil {
				return fmt.Errorf("environment %s: %w", e.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out[e.Name] = settled
			return nil
		})
	}
	return out, group.Wait()
}

// Heal has Flux put right what is not as the repositories declare it, and waits until
// it has.
func (s *Stage) Heal(ctx context.Context) error {
	settled, err := s.refresh(ctx, s.view.Changeable)
	if err == nil && !settled.Ready() {
		err = errors.New("the platform does not become ready again")
	}
	return err
}

// TakeBack removes everything from the stage and waits until the platform is ready
// again. It does so also when ctx is done: what stays would be taken for the
// platform by whoever comes next.
func (s *Stage) TakeBack(ctx context.Context) error {
	back := context.WithoutCancel(ctx)
	errs := []error{s.revert(back), s.reset(back)}
	if len(s.moved) > 0 {
		settled, err := s.refresh(back, s.touched())
		if err == nil && !settled.Ready() {
			err = errors.New("the platform does not become ready again once the overlay is taken back")
		}
		errs = append(errs, err)
	}
	s.before, s.moved = map[string]string{}, map[string]bool{}
	return errors.Join(errs...)
}
