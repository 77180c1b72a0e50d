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
	"github.com/your-org/flux-platform-conformance/suites/internal/files"
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
