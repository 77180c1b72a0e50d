package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
)

func (p *program) e2eCommand(ctx context.Context) *cobra.Command {
	in := &input{}
	c := &cobra.Command{
		Use: "e2e", Short: "The main job: bring everything up, judge every check, report, and leave nothing behind", Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return p.e2e(ctx, in) },
	}
	in.flags(c)
	c.Flags().StringSliceVar(&in.checks, "checks", nil, "checks to judge: IDs, areas or patterns, by commas (default: all)")
	c.Flags().BoolVar(&in.keep, "keep", false, "keep the session for a look; end it with «down»")
	return c
}

// e2e is one run. Whatever goes wrong, there is a report that says so.
func (p *program) e2e(ctx context.Context, in *input) error {
	started := time.Now()
	soft, hard, release := p.interrupts(ctx)
	defer release()
	report := check.Report{Started: started, Command: p.args, Provider: in.Provider, Checks: p.suite.Registry.All()}
	summary := check.SummaryInput{Checks: p.suite.Registry.All(), Now: started}
	clusters := true
	err := p.readInput(soft, in, func(read bringup.Input) (err error) {
		clusters, err = p.filesFirst(soft, in, read, &summary)
		if !clusters {
			report.Tenants, report.Platform.Folder = read.Platform.TenantNames(), read.Platform.Root
			summary.Waivers = withoutAttacks(waivers(read.Config.Waivers))
		}
		return err
	})
	if wrong := (invalid{}); errors.As(err, &wrong) {
		summary.Invalid = err
	} else {
		summary.Broken = err
	}
	if err != nil || !clusters {
		return p.finish(in, &report, summary, nil)
	}
	r, err := p.start(soft, in, in.keep)
	if err == nil {
		err = p.judgeAll(soft, in, r, &report, &summary)
	}
	if err != nil && context.Cause(soft) != nil {
		err = context.Cause(soft)
	}
	if err == nil && in.keep {
		r.detach()
		fmt.Fprintf(p.out, "session %s is kept; end it with «down»\n", r.supervisor.ID())
	} else {
		err = errors.Join(err, r.stop(hard))
	}
	summary.Broken = err
	return p.finish(in, &report, summary, r)
}

// judgeAll runs the specs beside what the files have shown, takes down what the report needs and,
// where a check failed, dumps what a person needs to see why.
func (p *program) judgeAll(ctx context.Context, in *input, r *running, report *check.Report, summary *check.SummaryInput) error {
	selection := Selection{Checks: in.checks, Environments: in.Environments, Tenants: in.Tenants}
	summary.Plan = p.suite.Plan(r.view, selection)
	summary.Waivers = withoutAttacks(waivers(r.view.Config.Waivers))
	const phase, run = "checks", "run"
	r.display.Handle(progress.Event{Time: time.Now(), Phase: phase})
	outcomes, err := p.judge(ctx, in, r, run, selection)
	r.display.Handle(progress.Event{Time: time.Now(), Phase: phase, Done: true})
	attachments, unread := check.ReadAttachments(r.runFolder(run))
	report.Attach(attachments...)
	err = errors.Join(err, unread)
	fill(ctx, report, r.view)
	if len(failed(outcomes)) > 0 {
		outcomes = p.dump(ctx, in, r, outcomes)
	}
	// Beside what the files have shown.
	summary.Outcomes = append(summary.Outcomes, outcomes...)
	return err
}

// waivers are those of CONFIG in the form of the checks.
func waivers(list []platform.Waiver) []check.Waiver {
	var out []check.Waiver
	for _, w := range list {
		out = append(out, check.Waiver{
			Check: w.Check, Environment: w.Environment, Tenant: w.Tenant, Reason: w.Reason, Expires: check.DateOf(w.Expires),
		})
	}
	return out
}

func failed(outcomes []check.Outcome) []check.Outcome {
	var out []check.Outcome
	for _, o := range outcomes {
		if o.Result == check.Failed {
			out = append(out, o)
		}
	}
	return out
}

// finish writes the report and the end of the run, and turns the result into the
// exit code.
func (p *program) finish(in *input, report *check.Report, summary check.SummaryInput, r *running) error {
	report.Apply(check.Summarize(summary))
	report.Seconds = time.Since(report.Started).Seconds()
	if r != nil && r.display != nil {
		report.Phases = r.display.Phases()
		addWaits(report, r)
		if report.Result == check.RunPassed || report.Result == check.RunFailed {
			r.history.Learn(report.Phases)
			if err := progress.SaveHistory(r.historyFile(), r.history); err != nil {
				fmt.Fprintln(p.errOut, "note:", err)
			}
		}
		fmt.Fprintln(p.out)
		if err := progress.WriteTable(p.out, report.Phases); err != nil {
			return err
		}
		writeMemory(p.out, report)
	}
	fmt.Fprintln(p.out)
	options := progress.ForFile(os.Stdout, os.Getenv)
	if err := report.WriteText(p.out, check.TextOptions{Width: options.Columns(), Colour: options.Colour}); err != nil {
		return err
	}
	code := report.Result.ExitCode()
	if err := report.Write(in.artifacts); err != nil {
		if report.Result != check.RunInvalidInput {
			return err
		}
		// The folder itself may be what is wrong with the input.
		fmt.Fprintln(p.errOut, "note: there is no report:", err)
		return exit(code)
	}
	fmt.Fprintf(p.out, "report: %s\n", strings.Join([]string{
		filepath.Join(in.artifacts, check.ReportFile), filepath.Join(in.artifacts, check.JUnitFile),
	}, " "))
	if code != 0 {
		return exit(code)
	}
	return nil
}
