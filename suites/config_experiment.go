package suites

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// experiment changes values and sees what comes of it.
type experiment struct {
	run   *run
	err   error
	found map[place]*finding
	sites []*site
	// heads are the revisions to go back to, by repository.
	heads map[string]string
	// changed says which sources may have changed.
	changed func(url string) bool
	rounds  int
	// attempt makes a round of edits, and returns what they do not explain.
	attempt func(context.Context, []edit) ([]odd, error)
}

// newExperiment is one that has not been made. A spec that ends before it does
// leaves no findings that others could take for a result.
func newExperiment(r *run) *experiment {
	return &experiment{run: r, found: map[place]*finding{}, heads: map[string]string{}, err: errors.New("the values were not changed to the end")}
}

// make runs the experiment with these edits.
func (x *experiment) make(ctx context.Context, edits []edit) (err error) {
	if len(edits) == 0 {
		return nil
	}
	x.changed = func(address string) bool {
		return slices.ContainsFunc(edits, func(e edit) bool { return platform.SameRepository(e.repository.URL, address) })
	}
	done, err := x.hold(ctx, edits)
	if err != nil {
		return err
	}
	defer done()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	tenants := map[string]int{}
	for _, env := range x.run.all {
		timeouts := x.run.timeouts
		tenants[env.Name] = len(env.Tenants)
		x.sites = append(x.sites, &site{env: env, settle: bootstrap.SettleInput{Client: env.client, Timeout: timeouts.BringUp, Stall: timeouts.Stall}})
	}
	if err := x.everywhere(ctx, func(ctx context.Context, s *site) error { return s.begin(ctx, watching) }); err != nil {
		return err
	}
	defer func() {
		// All is taken back also when somebody interrupts.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.run.timeouts.BringUp)
		defer cancel()
		err = errors.Join(err, x.takeBack(back))
	}()
	for _, round := range together(edits, tenants) {
		if err := x.judge(ctx, round, false); err != nil {
			return err
		}
	}
	return x.everywhere(ctx, x.newKinds)
}

// hold keeps other runs on this session from changing the same repositories. It takes
// them by name, so that two runs do not wait for one another.
func (x *experiment) hold(ctx context.Context, edits []edit) (done func(), err error) {
	repositories := map[string]bringup.Repository{}
	for _, e := range edits {
		repositories[e.repository.Name] = e.repository
	}
	var held []func()
	done = func() {
		for _, release := range held {
			release()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(repositories)) {
		release, err := repositories[name].Change(ctx)
		if err != nil {
			done()
			return nil, err
		}
		held = append(held, release)
	}
	return done, nil
}

// everywhere does something in all environments of the session at once.
func (x *experiment) everywhere(ctx context.Context, do func(context.Context, *site) error) error {
	group, running := errgroup.WithContext(ctx)
	for _, s := range x.sites {
		group.Go(func() error {
			if err := do(running, s); err != nil {
				return fmt.Errorf("environment %s: %w", s.env.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// judge makes a round of edits. Where more has changed than they explain, they are
// made again, in halves, until it is known whose doing it is: what does not come
// again, like drift that a reconciliation has put right, is nobody's.
func (x *experiment) judge(ctx context.Context, edits []edit, again bool) error {
	strange, err := x.attempt(ctx, edits)
	if err != nil || len(strange) == 0 {
		return err
	}
	if len(edits) == 1 && again {
		for _, o := range strange {
			for _, f := range x.answers(edits[0], o.environment) {
				f.problems = append(f.problems, o.String())
			}
		}
		return nil
	}
	halves := [][]edit{edits}
	if len(edits) > 1 {
		halves = [][]edit{edits[:len(edits)/2], edits[len(edits)/2:]}
	}
	for _, half := range halves {
		if err := x.judge(ctx, half, true); err != nil {
			return err
		}
	}
	for _, o := range strange {
		var answers []*finding
		for _, e := range edits {
			answers = append(answers, x.answers(e, o.environment)...)
		}
		if slices.ContainsFunc(answers, func(f *finding) bool { return len(f.problems) > 0 }) {
			continue // it is known whose it is
		}
		for _, f := range answers {
			f.once = append(f.once, o.String())
		}
	}
	return nil
}

// odd is a change that no edit explains.
type odd struct{ environment, what string }

func (o odd) String() string { return fmt.Sprintf("in %s, %s", o.environment, o.what) }

// answers are the findings that an edit's effect in an environment belongs to: the
// one of that environment, or, where the edit does not arrive or is not judged
// there, those of the others.
func (x *experiment) answers(e edit, environment string) []*finding {
	var out []*finding
	for arrives := range e.arrives {
		f := x.found[place{e.check, arrives, e.tenant}]
		if f != nil && arrives == environment {
			return []*finding{f}
		}
		if f != nil {
			out = append(out, f)
		}
	}
	return out
}

// round commits the edits at once, takes down what has not come of them that must,
// and returns what else has changed.
func (x *experiment) round(ctx context.Context, edits []edit) (strange []odd, err error) {
	marks, err := x.commit(ctx, edits)
	if err != nil {
		return nil, err
	}
	committed := time.Now()
	var mu sync.Mutex
	err = x.everywhere(ctx, func(ctx context.Context, s *site) error {
		var here []edit
		for _, e := range edits {
			if _, arrives := e.arrives[s.env.Name]; arrives {
				here = append(here, e)
			}
		}
		delays, err := x.pass(ctx, s, here, marks, committed)
		if err != nil {
			return err
		}
		objects, before := s.objects, s.snapshot
		if err := s.look(ctx, false); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for i, e := range here {
			problems, more, err := s.arrived(ctx, e, objects, before, marks[e.file])
			if err != nil {
				return err
			}
			if f := x.found[place{e.check, s.env.Name, e.tenant}]; f != nil {
				f.problems, f.configMap, f.template = problems, delays[i].configMap, delays[i].template
			}
			strange = append(strange, more...)
		}
		strange = append(strange, s.unexplained(here, before)...)
		return nil
	})
	return strange, err
}

// commit appends a mark to each edit's file, and returns the marks by file.
func (x *experiment) commit(ctx context.Context, edits []edit) (map[string]string, error) {
	x.rounds++
	marks := map[string]string{}
	files := map[string]map[string][]byte{}
	for _, e := range edits {
		head, err := source.Head(ctx, e.repository.Bare, e.repository.Branch)
		if err != nil {
			return nil, err
		}
		if x.heads[e.repository.Name] == "" {
			x.heads[e.repository.Name] = head
		}
		content, err := source.ReadFile(ctx, e.repository.Bare, head, e.file)
		if err != nil {
			return nil, err
		}
		marks[e.file] = mark(e.file, content, x.rounds)
		if files[e.repository.Name] == nil {
			files[e.repository.Name] = map[string][]byte{}
		}
		files[e.repository.Name][e.file] = append(content, marks[e.file]...)
	}
	for name, changed := range files {
		repository, _ := x.run.view.State.Repository(name)
		change := bringup.AsChange(changed, repository.Tags, fmt.Sprintf("Change values for a check, round %d", x.rounds))
		if _, err := source.Commit(ctx, repository.Bare, repository.Branch, change); err != nil {
			return nil, err
		}
	}
	return marks, nil
}

// arrivalTime bounds how long a watch is behind what has been applied.
const arrivalTime = time.Second

// delay is how long an edit took; 0 where it was not seen to arrive.
type delay struct{ configMap, template time.Duration }

// pass has Flux look at the commit. An edit that should have arrived and has not
// gets a second chance: a controller may have read its cache a moment too early.
func (x *experiment) pass(ctx context.Context, s *site, here []edit, marks map[string]string, committed time.Time) ([]delay, error) {
	delays := make([]delay, len(here))
	for range 2 {
		if err := bootstrap.Propagate(ctx, s.settle, x.changed); err != nil {
			return nil, err
		}
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, arrivalTime, true, func(context.Context) (bool, error) {
			for i, e := range here {
				delays[i] = s.seen(e, marks[e.file], committed)
			}
			return !slices.ContainsFunc(delays, func(d delay) bool { return d.configMap == 0 || d.template == 0 }), nil
		})
		if err == nil || ctx.Err() != nil {
			return delays, context.Cause(ctx)
		}
	}
	return delays, nil
}

// unexplained lists what has changed in an environment and is not the work of the
// edits that arrived there: a ConfigMap and what runs with it, of that tenant.
func (s *site) unexplained(here []edit, before state.Snapshot) []odd {
	edited := func(owner string) bool {
		return slices.ContainsFunc(here, func(e edit) bool { return e.tenant == owner })
	}
	var out []odd
	for _, change := range state.Changes(before, s.snapshot) {
		kind, _, _ := strings.Cut(change.Object, " ")
		rolls := change.Derived || kind == configMap.Kind || slices.Contains(s.workloads, kind)
		for _, owner := range change.Owners {
			if rolls && edited(owner) || change.Derived && slices.Contains(s.moved, owner) {
				continue
			}
			out = append(out, odd{s.env.Name, change.String()})
			break
		}
	}
	for _, e := range here {
		s.moved = append(s.moved, e.tenant)
	}
	return out
}

// newKinds looks whether objects have come of a kind that was not there before,
// which the rounds have not listed.
func (x *experiment) newKinds(ctx context.Context, s *site) error {
	before := s.snapshot
	if err := s.look(ctx, true); err != nil {
		return err
	}
	for _, change := range state.Changes(before, s.snapshot) {
		kind, _, _ := strings.Cut(change.Object, " ")
		if slices.ContainsFunc(s.kinds, func(known schema.GroupVersionKind) bool { return known.Kind == kind }) {
			continue
		}
		for place, f := range x.found {
			if place.environment == s.env.Name && f.unsupported == "" {
				f.problems = append(f.problems, odd{s.env.Name, change.String()}.String())
			}
		}
	}
	return nil
}

// takeBack lets the repositories be as they were, and waits until the clusters
// are so too.
func (x *experiment) takeBack(ctx context.Context) error {
	if len(x.heads) == 0 {
		return nil
	}
	reset := x.reset(ctx)
	err := x.everywhere(ctx, func(ctx context.Context, s *site) error {
		var missing []string
		for range 2 {
			if _, err := bootstrap.Refresh(ctx, s.settle, x.changed); err != nil {
				return err
			}
			missing = nil
			for _, key := range s.configMaps {
				object := &unstructured.Unstructured{}
				object.SetGroupVersionKind(configMap)
				err := s.env.client.Get(ctx, key, object)
				if client.IgnoreNotFound(err) != nil {
					return fmt.Errorf("read ConfigMap %s: %w", key, err)
				}
				if err != nil {
					missing = append(missing, key.String())
				}
			}
			if len(missing) == 0 {
				return nil
			}
		}
		return fmt.Errorf("the values were taken back, and these ConfigMaps are not there again: %s", strings.Join(missing, ", "))
	})
	return errors.Join(reset, err)
}

// reset lets the repositories be as they were.
func (x *experiment) reset(ctx context.Context) error {
	var errs []error
	for name, head := range x.heads {
		repository, _ := x.run.view.State.Repository(name)
		_, err := source.Reset(ctx, repository.Bare, repository.Branch, head, repository.Tags...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
