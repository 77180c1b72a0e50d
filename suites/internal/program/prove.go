package program

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
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
	c.Flags().StringSliceVar(&chosen, "faults", nil, "IDs of faults, or capabilities for all faults that need them, by commas (default: all)")
	return c
}

// prove brings the platform up once, judges it without any fault, then with each,
// those that do not meet at once. Faults that must be there before the clusters
// are made get a session of their own; those that the files alone show need none,
// and come first.
func (p *program) prove(ctx context.Context, in *input, chosen []string) error {
	faults, err := p.faults(chosen)
	if err != nil {
		return invalid{err}
	}
	soft, hard, release := session.Interrupts(ctx, nil)
	defer release()
	started := time.Now()
	var inFiles, live []overlay.Overlay
	for _, fault := range faults {
		alone, err := ofFiles(fault)
		switch {
		case err != nil:
			return invalid{err}
		case alone:
			inFiles = append(inFiles, fault)
		default:
			live = append(live, fault)
		}
	}
	var trials []trial
	err = p.readInput(soft, in, func(read bringup.Input) (err error) {
		trials, err = p.proveFiles(soft, read, inFiles)
		return err
	})
	if err != nil {
		return err
	}
	if len(live) > 0 {
		found, err := p.proveLive(soft, hard, in, live)
		if err != nil {
			return err
		}
		trials = append(trials, found...)
	}
	slices.SortFunc(trials, func(a, b trial) int { return strings.Compare(a.fault.ID, b.fault.ID) })
	fmt.Fprintf(p.out, "\n%d faults in %.0f s\n", len(trials), time.Since(started).Seconds())
	return p.conclude(faults, trials, len(chosen) > 0)
}

// proveLive proves the faults that show on clusters.
func (p *program) proveLive(soft, hard context.Context, in *input, faults []overlay.Overlay) ([]trial, error) {
	r, err := p.start(soft, in, false)
	var trials []trial
	var early []round
	if err == nil {
		trials, early, err = p.proveRunning(soft, in, r, faults)
	}
	if err = errors.Join(err, r.stop(hard)); err != nil {
		return nil, err
	}
	for _, faults := range early {
		found, err := p.proveRound(faults, func(faults round) ([]trial, []string, error) { return p.proveBringUp(soft, hard, in, faults) })
		if err != nil {
			return nil, err
		}
		trials = append(trials, found...)
	}
	return trials, nil
}

func (p *program) faults(chosen []string) ([]overlay.Overlay, error) {
	all, err := overlay.Load(p.assets, faultsFolder, overlay.Fault)
	if err != nil {
		return nil, err
	}
	var ids []string
	for i, fault := range all {
		ids = append(ids, fault.ID)
		if fault.Expect.MayFollow, err = p.followers(fault); err != nil {
			return nil, err
		}
		all[i] = fault
		for _, id := range claims(fault) {
			if _, known := p.suite.Registry.Get(id); !known {
				return nil, fmt.Errorf("fault %s expects the check %s, which does not exist", fault.ID, id)
			}
		}
	}
	if len(chosen) == 0 {
		return all, nil
	}
	var out []overlay.Overlay
	for _, name := range chosen {
		found := 0
		for _, fault := range all {
			if fault.ID != name && !slices.Contains(fault.Needs, name) {
				continue
			}
			found++
			if !slices.ContainsFunc(out, func(other overlay.Overlay) bool { return other.ID == fault.ID }) {
				out = append(out, fault)
			}
		}
		if found == 0 {
			return nil, fmt.Errorf("there is no fault %s%s, nor one that needs such a capability", name, check.DidYouMean(name, ids))
		}
	}
	return out, nil
}

// followers are the checks that a fault says may fail with it. An area stands for
// all of its checks but the disruptive ones: what is not judged does not follow.
func (p *program) followers(fault overlay.Overlay) ([]string, error) {
	var out []string
	for _, name := range fault.Expect.MayFollow {
		checks, err := p.suite.Registry.Select([]string{name})
		if err != nil {
			return nil, fmt.Errorf("fault %s, expect.mayFollow: %w", fault.ID, err)
		}
		for _, c := range checks {
			if c.ID == name || !c.Disruptive {
				out = append(out, c.ID)
			}
		}
	}
	return out, nil
}

// proveRunning proves the faults that a running platform can have, and returns
// the rounds of those that it must have from the start.
func (p *program) proveRunning(ctx context.Context, in *input, r *running, faults []overlay.Overlay) ([]trial, []round, error) {
	baseline, err := p.judge(ctx, in, r, "baseline", Selection{})
	if err != nil {
		return nil, nil, fmt.Errorf("judge the platform without a fault: %w", err)
	}
	if bad := failed(baseline); len(bad) > 0 {
		return nil, nil, fmt.Errorf("%d checks fail without any fault, the first is %s in %s: %s", len(bad), bad[0].Check, bad[0].Environment, bad[0].Found)
	}
	fmt.Fprintf(p.out, "without a fault: %d outcomes, none failed\n", len(baseline))
	p.owed = slices.DeleteFunc(p.suite.Plan(r.view, Selection{}), func(owed check.Planned) bool {
		_, up := r.view.State.Environment(owed.Environment)
		return owed.Environment != "" && !up
	})
	var trials []trial
	var now, early []overlay.Overlay
	for _, fault := range faults {
		if err := named(fault, r.view.Platform); err != nil {
			return nil, nil, err
		}
		switch reason := p.lacking(fault, r.view.State); {
		case reason != "":
			trials = append(trials, trial{fault: fault, skipped: reason})
		case fault.When == "bringup":
			early = append(early, fault)
		default:
			now = append(now, fault)
		}
	}
	for _, faults := range p.rounds(now) {
		found, err := p.proveRound(faults, func(faults round) ([]trial, []string, error) { return p.proveTogether(ctx, in, r, faults) })
		if err != nil {
			return trials, nil, err
		}
		trials = append(trials, found...)
	}
	return trials, p.rounds(early), nil
}

// named refuses a fault of an environment or tenant that the platform does not
// have: nothing could prove it, and nobody would miss it.
func named(fault overlay.Overlay, under *platform.Platform) error {
	for _, name := range fault.Environments {
		if under.Environment(name) == nil {
			return fmt.Errorf("fault %s is of the environment %s, which the platform does not have", fault.ID, name)
		}
	}
	for _, name := range fault.Expect.Tenants {
		if !slices.Contains(under.TenantNames(), name) {
			return fmt.Errorf("fault %s is of the tenant %s, which the platform does not have", fault.ID, name)
		}
	}
	return nil
}

// lacking says why a fault cannot be seen in this session: a capability that no
// environment has, or no environment or tenant that it names.
func (p *program) lacking(fault overlay.Overlay, state bringup.State) string {
	for _, need := range fault.Needs {
		for _, e := range state.Environments {
			for _, f := range e.Findings {
				if string(f.Capability) == need && !f.Has {
					return need + ": " + f.Evidence
				}
			}
		}
	}
	for id := range fault.Expect.Fails {
		if len(p.cells(fault, []string{id})) == 0 {
			return fmt.Sprintf("%s is not judged for %v %v here", id, fault.Environments, fault.Expect.Tenants)
		}
	}
	return ""
}

func (p *program) say(t trial) {
	verdict := "proved"
	if len(t.problems) > 0 {
		verdict = "NOT PROVED"
	}
	fmt.Fprintf(p.out, "%s %s: fails %s — %s\n", t.fault.ID, verdict, strings.Join(t.failed, ", "), t.fault.Title)
	for _, problem := range t.problems {
		fmt.Fprintf(p.out, "  %s\n", problem)
	}
}

// conclude says what was proved, and what was not: a fault that did not do what it must, or a check that no fault makes fail.
func (p *program) conclude(faults []overlay.Overlay, trials []trial, partial bool) error {
	bad, skipped := 0, 0
	caught := map[string]bool{}
	claimed := map[string]string{}
	for _, t := range trials {
		if len(t.problems) > 0 {
			bad++
		}
		for id := range t.fault.Expect.Fails {
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
