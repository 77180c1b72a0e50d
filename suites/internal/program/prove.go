package program

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// faultsFolder is where the program's own faults lie.
const faultsFolder = "fixtures/faults"

func (p *program) proveCommand(ctx context.Context) *cobra.Command {
	in := &input{}
	var chosen []string
	c := &cobra.Command{
		Use: "prove", Short: "Lay each fault over the platform and see exactly the checks fail that must", Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return p.prove(ctx, in, chosen) },
	}
	in.flags(c)
	c.Flags().StringSliceVar(&chosen, "faults", nil, "IDs of faults, by commas (default: all)")
	return c
}

// trial is one fault and what became of it.
type trial struct {
	fault    overlay.Overlay
	problems []string
	failed   []string
	seconds  float64
	skipped  string
}

// prove brings the platform up once, judges it without any fault, then with each
// in turn. Faults that must be there before the clusters are made get a session
// of their own.
func (p *program) prove(ctx context.Context, in *input, chosen []string) error {
	faults, err := p.faults(chosen)
	if err != nil {
		return invalid{err}
	}
	soft, hard, release := session.Interrupts(ctx, nil)
	defer release()
	if err := p.prepare(soft, in); err != nil {
		return err
	}
	var trials []trial
	r, err := p.start(soft, in, false)
	if err == nil {
		trials, err = p.proveRunning(soft, in, r, faults)
	}
	if err = errors.Join(err, r.stop(hard)); err != nil {
		return err
	}
	for _, fault := range faults {
		if fault.When != "bringup" {
			continue
		}
		t, err := p.proveBringUp(soft, hard, in, fault)
		if err != nil {
			return fmt.Errorf("fault %s: %w", fault.ID, err)
		}
		trials = append(trials, t)
	}
	return p.conclude(faults, trials, len(chosen) > 0)
}

func (p *program) faults(chosen []string) ([]overlay.Overlay, error) {
	all, err := overlay.Load(p.assets, faultsFolder)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, fault := range all {
		ids = append(ids, fault.ID)
		for _, id := range append(slices.Clone(fault.Expect.Fails), fault.Expect.MayFollow...) {
			if _, known := p.suite.Registry.Get(id); !known {
				return nil, fmt.Errorf("fault %s expects the check %s, which does not exist", fault.ID, id)
			}
		}
	}
	if len(chosen) == 0 {
		return all, nil
	}
	var out []overlay.Overlay
	for _, id := range chosen {
		i := slices.Index(ids, id)
		if i < 0 {
			return nil, fmt.Errorf("there is no fault %s%s", id, check.DidYouMean(id, ids))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// proveRunning proves the faults that a running platform can have.
func (p *program) proveRunning(ctx context.Context, in *input, r *running, faults []overlay.Overlay) ([]trial, error) {
	baseline, err := p.judge(ctx, in, r, "baseline", Selection{})
	if err != nil {
		return nil, fmt.Errorf("judge the platform without a fault: %w", err)
	}
	if bad := failed(baseline); len(bad) > 0 {
		return nil, fmt.Errorf("%d checks fail without any fault, the first is %s in %s: %s", len(bad), bad[0].Check, bad[0].Environment, bad[0].Found)
	}
	fmt.Fprintf(p.out, "without a fault: %d outcomes, none failed\n", len(baseline))
	var trials []trial
	for _, fault := range faults {
		if fault.When == "bringup" {
			continue
		}
		if reason := lacking(fault, r.view.State); reason != "" {
			trials = append(trials, trial{fault: fault, skipped: reason})
			continue
		}
		t, err := p.proveOne(ctx, in, r, fault)
		if err != nil {
			return trials, fmt.Errorf("fault %s: %w", fault.ID, err)
		}
		p.say(t)
		trials = append(trials, t)
	}
	return trials, nil
}

// lacking names the capability that a fault needs and no environment has.
func lacking(fault overlay.Overlay, state bringup.State) string {
	for _, need := range fault.Needs {
		for _, e := range state.Environments {
			for _, f := range e.Findings {
				if string(f.Capability) == need && !f.Has {
					return need + ": " + f.Evidence
				}
			}
		}
	}
	return ""
}

// proveOne lays a fault over the running platform, judges, and takes it back.
func (p *program) proveOne(ctx context.Context, in *input, r *running, fault overlay.Overlay) (t trial, err error) {
	started := time.Now()
	t.fault = fault
	before, err := commit(ctx, r.view.State, fault)
	if err != nil {
		return t, err
	}
	var sent []sentTo
	defer func() {
		// What was laid over is taken back also after an error, or the next fault
		// would be judged on top of this one.
		back := context.WithoutCancel(ctx)
		for _, s := range sent {
			err = errors.Join(err, overlay.Revert(back, s.config, s.objects))
		}
		for name, revision := range before {
			repository, _ := r.view.State.Repository(name)
			_, resetErr := source.Reset(back, repository.Bare, repository.Branch, revision, repository.Tags...)
			err = errors.Join(err, resetErr)
		}
		settled, refreshErr := p.refresh(back, r)
		if refreshErr == nil && !settled {
			refreshErr = errors.New("the platform does not become ready again once the fault is taken back")
		}
		err = errors.Join(err, refreshErr)
		t.seconds = time.Since(started).Seconds()
	}()
	if len(before) > 0 {
		if _, err := p.refresh(ctx, r); err != nil {
			return t, err
		}
	}
	if sent, err = p.send(ctx, r, fault); err != nil {
		return t, err
	}
	err = p.judgeFault(ctx, in, r, &t)
	return t, err
}

// judgeFault judges until what must fail does: a controller, Kyverno above all,
// acts on a change a moment after it is there. What must not fail may not do so
// in any of the tries.
func (p *program) judgeFault(ctx context.Context, in *input, r *running, t *trial) error {
	const tries = 4
	for try := 1; ; try++ {
		outcomes, err := p.judge(ctx, in, r, fmt.Sprintf("%s-%d", t.fault.ID, try), Selection{})
		if err != nil {
			return err
		}
		t.problems, t.failed = nil, nil
		missing := compare(t, outcomes)
		if !missing || len(t.problems) > 1 || try == tries {
			return nil
		}
	}
}

// commit lays the fault's files over the repositories that are served, and
// returns what to go back to.
func commit(ctx context.Context, state bringup.State, fault overlay.Overlay) (map[string]string, error) {
	before := map[string]string{}
	for _, name := range fault.Touches() {
		repository, ok := state.Repository(name)
		if !ok {
			return before, fmt.Errorf("it changes the %s repository, which this session does not serve", name)
		}
		revision, err := source.Head(ctx, repository.Bare, repository.Branch)
		if err != nil {
			return before, err
		}
		files, err := fault.Change(name, func(path string) ([]byte, error) {
			return source.ReadFile(ctx, repository.Bare, revision, path)
		})
		if err != nil {
			return before, err
		}
		change := bringup.AsChange(files, repository.Tags, fault.ID+" "+fault.Title)
		if _, err := source.Commit(ctx, repository.Bare, repository.Branch, change); err != nil {
			return before, err
		}
		before[name] = revision
	}
	return before, nil
}

// sentTo are the objects that were sent to one cluster.
type sentTo struct {
	config  *rest.Config
	objects []overlay.Sent
}

func (p *program) send(ctx context.Context, r *running, fault overlay.Overlay) ([]sentTo, error) {
	var out []sentTo
	if len(fault.Objects) == 0 {
		return nil, nil
	}
	for _, e := range r.view.State.Environments {
		if !fault.In(e.Name) {
			continue
		}
		config, err := e.Config()
		if err != nil {
			return out, err
		}
		objects, err := fault.SendObjects(ctx, config)
		out = append(out, sentTo{config, objects})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// refresh makes Flux look at everything again and says whether all became ready.
func (p *program) refresh(ctx context.Context, r *running) (bool, error) {
	group, running := errgroup.WithContext(ctx)
	ready := make([]bool, len(r.view.State.Environments))
	for i, e := range r.view.State.Environments {
		group.Go(func() error {
			config, err := e.Config()
			if err != nil {
				return err
			}
			c, err := client.New(config, client.Options{})
			if err != nil {
				return err
			}
			timeouts := r.view.Timeouts()
			settled, err := bootstrap.Refresh(running, bootstrap.SettleInput{Client: c, Timeout: timeouts.BringUp, Stall: timeouts.Stall}, r.view.Changeable)
			if err != nil {
				return fmt.Errorf("environment %s: %w", e.Name, err)
			}
			ready[i] = settled.Ready()
			return nil
		})
	}
	err := group.Wait()
	return !slices.Contains(ready, false), err
}

// compare holds the outcomes against what the fault expects, and says whether a
// check that must fail did not.
func compare(t *trial, outcomes []check.Outcome) (missing bool) {
	expect := t.fault.Expect
	found := map[string][]check.Outcome{}
	for _, o := range failed(outcomes) {
		if !slices.Contains(t.failed, o.Check) {
			t.failed = append(t.failed, o.Check)
		}
		found[o.Check] = append(found[o.Check], o)
	}
	slices.Sort(t.failed)
	for i, id := range expect.Fails {
		switch {
		case len(found[id]) == 0:
			missing = true
			t.problems = append(t.problems, id+" must fail and does not")
		case i == 0 && !slices.ContainsFunc(found[id], func(o check.Outcome) bool { return strings.Contains(o.Found, expect.Message) }):
			t.problems = append(t.problems, fmt.Sprintf("%s fails without saying %q: %s", id, expect.Message, found[id][0].Found))
		}
		for _, o := range found[id] {
			if !t.fault.In(o.Environment) {
				t.problems = append(t.problems, fmt.Sprintf("%s fails in %s too, where the fault is not", id, o.Environment))
			}
		}
	}
	for _, id := range t.failed {
		if !slices.Contains(expect.Fails, id) && !slices.Contains(expect.MayFollow, id) {
			t.problems = append(t.problems, fmt.Sprintf("%s fails and must not: %s", id, found[id][0].Found))
		}
	}
	return missing
}

// proveBringUp proves a fault that is there from the beginning.
func (p *program) proveBringUp(soft, hard context.Context, in *input, fault overlay.Overlay) (t trial, err error) {
	started := time.Now()
	t.fault = fault
	faulty := *in
	faulty.Overlay = fault.ID
	r, err := p.start(soft, &faulty, false)
	if err == nil {
		err = p.judgeFault(soft, in, r, &t)
	}
	err = errors.Join(err, r.stop(hard))
	t.seconds = time.Since(started).Seconds()
	if err == nil {
		p.say(t)
	}
	return t, err
}

func (p *program) say(t trial) {
	verdict := "proved"
	if len(t.problems) > 0 {
		verdict = "NOT PROVED"
	}
	fmt.Fprintf(p.out, "%s %s (%.0f s): fails %s — %s\n", t.fault.ID, verdict, t.seconds, strings.Join(t.failed, ", "), t.fault.Title)
	for _, problem := range t.problems {
		fmt.Fprintf(p.out, "  %s\n", problem)
	}
}

// conclude says what was proved, and what was not: a fault that did
// not do what it must, or a check that no fault makes fail.
func (p *program) conclude(faults []overlay.Overlay, trials []trial, partial bool) error {
	bad, skipped := 0, 0
	caught := map[string]bool{}
	claimed := map[string]string{}
	for _, t := range trials {
		if len(t.problems) > 0 {
			bad++
		}
		for _, id := range t.fault.Expect.Fails {
			if t.skipped != "" {
				claimed[id] = t.skipped
			} else if slices.Contains(t.failed, id) {
				caught[id] = true
			}
		}
	}
	fmt.Fprintf(p.out, "\nfaults × checks:\n")
	for _, t := range trials {
		result := strings.Join(t.failed, " ")
		if t.skipped != "" {
			skipped++
			result = "NOT_SUPPORTED here: " + t.skipped
		}
		fmt.Fprintf(p.out, "  %s  %s\n", t.fault.ID, result)
	}
	var without []string
	for _, c := range p.suite.Registry.All() {
		if !caught[c.ID] && claimed[c.ID] == "" {
			without = append(without, c.ID)
		}
	}
	fmt.Fprintf(p.out, "%d of %d faults proved, %d not supported here; %d of %d checks seen to fail\n",
		len(trials)-bad-skipped, len(faults), skipped, len(caught), len(p.suite.Registry.All()))
	switch {
	case bad > 0:
		fmt.Fprintf(p.errOut, "error: %d faults did not make exactly the expected checks fail\n", bad)
		return exit(check.RunFailed.ExitCode())
	case len(without) > 0 && !partial:
		fmt.Fprintf(p.errOut, "error: no fault makes these checks fail: %s\n", strings.Join(without, ", "))
		return exit(check.RunFailed.ExitCode())
	}
	return nil
}
