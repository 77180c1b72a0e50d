package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/files"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

func (p *program) filesCommand(ctx context.Context) *cobra.Command {
	in := &input{}
	c := &cobra.Command{
		Use: "files", Short: "Judge what the files alone show, in a second, without a cluster", Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return p.files(ctx, in) },
	}
	in.sources(c)
	c.Flags().StringSliceVar(&in.checks, "checks", nil, "checks to judge: IDs, areas or patterns, by commas (default: all of "+files.Area+")")
	return c
}

// files is a run that judges the files and nothing else.
func (p *program) files(ctx context.Context, in *input) error {
	checks := slices.DeleteFunc(p.suite.Registry.All(), func(c check.Check) bool { return !files.Is(c.ID) })
	report := check.Report{Started: time.Now(), Command: p.args, Provider: "none", Checks: checks}
	summary := check.SummaryInput{Checks: checks, Now: report.Started}
	err := p.readInput(ctx, in, func(read bringup.Input) error { return p.judgeFiles(ctx, in, read, &report, &summary) })
	if wrong := (invalid{}); errors.As(err, &wrong) {
		summary.Invalid = err
	} else {
		summary.Broken = err
	}
	return p.finish(in, &report, summary, nil)
}

// judgeFiles judges the files as they were read. Waivers of what a cluster is
// needed for are left alone.
func (p *program) judgeFiles(ctx context.Context, in *input, read bringup.Input, report *check.Report, summary *check.SummaryInput) error {
	chosen, err := p.fileChecks(in.checks)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		return invalid{fmt.Errorf("CHECKS: none of %s is judged by the files alone; «files» judges those of the area %s", strings.Join(in.checks, ", "), files.Area)}
	}
	selection := Selection{Checks: in.checks, Environments: in.Environments, Tenants: in.Tenants}
	summary.Plan = p.planFiles(read, selection)
	summary.Waivers = slices.DeleteFunc(waivers(read.Config.Waivers), func(w check.Waiver) bool { return !files.Is(w.Check) })
	report.Tenants = read.Platform.TenantNames()
	report.Platform.Folder = read.Platform.Root
	report.Notes = append(report.Notes, notRead(read.Platform.Unread)...)
	summary.Outcomes, err = judgedFiles(ctx, read, selection, chosen)
	return err
}

// filesFirst judges the files of a run that goes on to clusters, and says what they
// show: it takes a second, and what comes after takes minutes. clusters is false
// when the selection asks for nothing else. A check that fails does not end the
// run.
func (p *program) filesFirst(ctx context.Context, in *input, read bringup.Input, summary *check.SummaryInput) (clusters bool, err error) {
	all, err := p.suite.Registry.Select(in.checks)
	if err != nil {
		return true, invalid{err}
	}
	chosen, err := p.fileChecks(in.checks)
	if err != nil || len(chosen) == 0 {
		return true, err
	}
	started := time.Now()
	selection := Selection{Checks: in.checks, Environments: in.Environments, Tenants: in.Tenants}
	if summary.Outcomes, err = judgedFiles(ctx, read, selection, chosen); err != nil {
		return true, err
	}
	if clusters = len(chosen) < len(all); !clusters {
		summary.Plan = p.suite.Plan(&bringup.View{Platform: read.Platform}, selection)
		return false, nil
	}
	summary.Plan = p.planFiles(read, selection)
	bad := failed(summary.Outcomes)
	fmt.Fprintf(p.out, "files: %d judged in %.1f s, %d failed\n", len(summary.Outcomes), time.Since(started).Seconds(), len(bad))
	for _, o := range bad {
		first, _, more := strings.Cut(check.Redact(o.Found), "\n")
		if more {
			first += " …"
		}
		fmt.Fprintf(p.out, "  %s: %s\n", strings.TrimSpace(o.Check+" "+o.Environment+" "+o.Tenant), first)
	}
	return true, nil
}

// fileChecks are those of the selection that the files alone decide.
func (p *program) fileChecks(patterns []string) ([]string, error) {
	chosen, err := p.suite.Registry.Select(patterns)
	if err != nil {
		return nil, invalid{err}
	}
	var out []string
	for _, c := range chosen {
		if files.Is(c.ID) {
			out = append(out, c.ID)
		}
	}
	return out, nil
}

// judgedFiles judges these checks; none chosen judges none.
func judgedFiles(ctx context.Context, read bringup.Input, selection Selection, chosen []string) ([]check.Outcome, error) {
	if len(chosen) == 0 {
		return nil, nil
	}
	outcomes, err := files.Judge(ctx, files.Input{
		Platform: read.Platform, Checks: chosen, Environments: selection.Environments, Tenants: selection.Tenants,
		Production: read.Config.Production,
	})
	if err != nil && context.Cause(ctx) == nil {
		return outcomes, invalid{err} // a file that cannot be read is the user's
	}
	return outcomes, err
}

// planFiles is what a run owes of the files.
func (p *program) planFiles(read bringup.Input, selection Selection) []check.Planned {
	plan := p.suite.Plan(&bringup.View{Platform: read.Platform}, selection)
	return slices.DeleteFunc(plan, func(owed check.Planned) bool { return !files.Is(owed.Check) })
}

// ofFiles says whether a fault shows in the files alone; one that claims checks of
// both kinds is refused.
func ofFiles(fault overlay.Overlay) (bool, error) {
	found := 0
	for id := range fault.Expect.Fails {
		if files.Is(id) {
			found++
		}
	}
	switch {
	case found == 0:
		return false, nil
	case found < len(fault.Expect.Fails):
		return false, fmt.Errorf("fault %s expects checks of %s, which need no cluster, beside others; make two faults of it", fault.ID, files.Area)
	case len(fault.Objects) > 0 || len(fault.Needs) > 0:
		return false, fmt.Errorf("fault %s expects checks of %s, so there is no cluster for its objects and needs", fault.ID, files.Area)
	}
	return true, nil
}

// proveFiles proves the faults that show in the files alone, each over a copy.
func (p *program) proveFiles(ctx context.Context, read bringup.Input, faults []overlay.Overlay) ([]trial, error) {
	if len(faults) == 0 {
		return nil, nil
	}
	started := time.Now()
	baseline, err := files.Judge(ctx, files.Input{Platform: read.Platform, Production: read.Config.Production})
	if err != nil {
		return nil, err
	}
	if bad := failed(baseline); len(bad) > 0 {
		return nil, fmt.Errorf("%d checks of the files fail without any fault, the first is %s %s: %s", len(bad), bad[0].Check, bad[0].Environment, bad[0].Found)
	}
	fmt.Fprintf(p.out, "the files without a fault: %d outcomes, none failed\n", len(baseline))
	p.owed = p.planFiles(read, Selection{})
	var trials []trial
	for _, fault := range faults {
		if err := named(fault, read.Platform); err != nil {
			return nil, err
		}
		for id := range fault.Expect.Fails {
			if len(p.cells(fault, []string{id})) == 0 {
				return nil, fmt.Errorf("fault %s: %s is not judged for %v %v", fault.ID, id, fault.Environments, fault.Expect.Tenants)
			}
		}
	}
	for _, together := range p.rounds(faults) {
		found, err := p.proveRound(together, func(faults round) ([]trial, []string, error) { return p.proveFilesRound(ctx, read, faults) })
		if err != nil {
			return nil, err
		}
		trials = append(trials, found...)
	}
	fmt.Fprintf(p.out, "%d faults of the files in %.1f s\n", len(trials), time.Since(started).Seconds())
	return trials, nil
}

// proveFilesRound lays faults over a copy and judges it.
func (p *program) proveFilesRound(ctx context.Context, read bringup.Input, faults round) (trials []trial, stray []string, err error) {
	dir, err := os.MkdirTemp("", "files-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for a copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	under, err := files.Overlaid(ctx, files.OverlaidInput{
		Platform: read.Platform, Names: read.Names, Folders: read.Folders, Dir: dir, Overlays: faults,
	})
	if err != nil {
		// Nothing can be said of any of them; alone it is known whose it is.
		trials, _, _ = p.compare(faults, nil)
		return trials, []string{err.Error()}, nil
	}
	outcomes, err := files.Judge(ctx, files.Input{Platform: under, Production: read.Config.Production})
	if err != nil {
		return nil, nil, err
	}
	trials, stray, _ = p.compare(faults, outcomes)
	return trials, stray, nil
}
