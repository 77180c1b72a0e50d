package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/your-org/flux-platform-conformance/suites/internal/agreement"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// The files that a comparison writes, beside a folder per provider.
const (
	compareFile      = "compare.json"
	compareJUnitFile = "compare.junit.xml"
)

// explanationsFile is the list that the program ships, of the reference platform.
const explanationsFile = "fixtures/agreement.yaml"

// compared are the providers whose outcomes are laid beside each other.
var compared = []string{"embedded", "kind"}

// comparison is what the user wants compared.
type comparison struct {
	input
	// reports are two files of earlier runs; none: both runs are made.
	reports []string
	// explained is the list of explanations; empty: the one that the program ships,
	// where the platform is the one that it ships.
	explained string
}

func (p *program) compareCommand(ctx context.Context) *cobra.Command {
	in := &comparison{}
	c := &cobra.Command{
		Use: "compare", Short: fmt.Sprintf("Judge the platform on %s clusters and lay the outcomes beside each other", strings.Join(compared, " and ")),
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return p.compareRuns(ctx, in, givenFlags(c)) },
	}
	in.flags(c)
	f := c.Flags()
	// Hidden: they are taken for granted by who passes the same flags to every command.
	_ = f.MarkHidden("provider")
	f.StringSliceVar(&in.checks, "checks", nil, "checks to judge: IDs, areas or patterns, by commas (default: all)")
	f.StringSliceVar(&in.reports, "reports", nil, fmt.Sprintf("the reports of two runs that are compared, by commas, in place of two new runs (one on %s)", strings.Join(compared, ", one on ")))
	f.StringVar(&in.explained, "explained", "", "file that explains disagreements (default: that of the reference platform; of another platform none)")
	return c
}

// givenFlags are the names of the flags that the user gave.
func givenFlags(c *cobra.Command) []string {
	var out []string
	c.Flags().Visit(func(f *pflag.Flag) { out = append(out, f.Name) })
	return out
}

// compareRuns is one comparison. Whatever goes wrong, there is a file that says so.
func (p *program) compareRuns(ctx context.Context, in *comparison, given []string) error {
	result, err := p.compareBoth(ctx, in, given)
	if err != nil {
		result = agreement.Fail(err)
	}
	fmt.Fprintln(p.out)
	if err := result.WriteText(p.out); err != nil {
		return err
	}
	code := result.Result.ExitCode()
	if err := writeComparison(in.artifacts, result); err != nil {
		if result.Result != check.RunInvalidInput {
			return err
		}
		fmt.Fprintln(p.errOut, "note: the comparison is not written:", err)
		return exit(code)
	}
	fmt.Fprintf(p.out, "comparison: %s %s\n", filepath.Join(in.artifacts, compareFile), filepath.Join(in.artifacts, compareJUnitFile))
	if code != 0 {
		return exit(code)
	}
	return nil
}

func (p *program) compareBoth(ctx context.Context, in *comparison, given []string) (agreement.Comparison, error) {
	none := agreement.Comparison{}
	var err error
	if in.artifacts, err = filepath.Abs(in.artifacts); err != nil {
		return none, err
	}
	if err := readyArtifacts(in.artifacts); err != nil {
		return none, err
	}
	for _, name := range []string{compareFile, compareJUnitFile} {
		if err := os.Remove(filepath.Join(in.artifacts, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return none, fmt.Errorf("%w: clear what an earlier comparison left: %w", agreement.ErrBroken, err)
		}
	}
	if err := in.validate(given); err != nil {
		return none, err
	}
	list, err := p.explanations(in)
	if err != nil {
		return none, err
	}
	reports := in.reports
	if len(reports) == 0 {
		if reports, err = p.runBoth(ctx, in); err != nil {
			return none, err
		}
	}
	runs, err := readRuns(reports)
	if err != nil {
		return none, err
	}
	return agreement.Compare(runs[0], runs[1], list)
}

// validate refuses flags that do not go together, and a provider that is not to be
// had, before the first run.
func (in *comparison) validate(given []string) error {
	if slices.Contains(given, "provider") {
		return fmt.Errorf("PROVIDER is not for compare, which judges on %s", strings.Join(compared, " and on "))
	}
	if len(in.reports) == 0 {
		var missing []error
		for _, provider := range compared {
			if !slices.Contains(bringup.Providers(), provider) {
				missing = append(missing, fmt.Errorf("there is no provider %q", provider))
			}
		}
		return errors.Join(missing...)
	}
	if len(in.reports) != len(compared) {
		return fmt.Errorf("--reports takes two reports, by a comma: one of a run on %s; %d are given", strings.Join(compared, ", one of a run on "), len(in.reports))
	}
	for _, name := range given {
		if !slices.Contains([]string{"reports", "explained", "artifacts"}, name) {
			return fmt.Errorf("--%s is for new runs, and --reports compares two that have been made: leave one out", name)
		}
	}
	return nil
}

// explanations reads the list, strictly: an entry that names no check would explain
// nothing, and nobody would know.
func (p *program) explanations(in *comparison) ([]agreement.Explanation, error) {
	name := in.explained
	var data []byte
	var err error
	if name != "" {
		data, err = os.ReadFile(name)
	} else {
		own := in.Platform != ""
		if in.Config != "" {
			config, err := platform.LoadConfig(in.Config)
			if err != nil {
				return nil, err
			}
			own = own || config.Platform != ""
		}
		if own {
			return nil, nil
		}
		name = explanationsFile
		data, err = fs.ReadFile(p.assets, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of explanations: %w", err)
	}
	return agreement.ParseList(name, data, p.suite.Registry, compared)
}

// runBoth judges on one provider after the other, each in a session that ends, and
// returns the reports. A run that could not be carried out ends it.
func (p *program) runBoth(ctx context.Context, in *comparison) ([]string, error) {
	var reports []string
	for _, provider := range compared {
		fmt.Fprintf(p.out, "\n%s\n", provider)
		run := in.input
		run.Provider, run.artifacts = provider, filepath.Join(in.artifacts, provider)
		report := filepath.Join(run.artifacts, check.ReportFile)
		reports = append(reports, report)
		if err := carriedOut(provider, report, p.e2e(ctx, &run)); err != nil {
			return nil, err
		}
	}
	return reports, nil
}

// carriedOut says why a run that ended in this way has nothing to compare; nil when
// it has, failed checks or not.
func carriedOut(provider, report string, err error) error {
	var code exit
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &code):
		return fmt.Errorf("%s: %w: %w", provider, agreement.ErrBroken, err)
	case int(code) == check.RunFailed.ExitCode():
		return nil
	case int(code) == check.RunInvalidInput.ExitCode():
		return fmt.Errorf("the run on %s had wrong input; it says above what", provider)
	default:
		return fmt.Errorf("%s: %w; %s says why", provider, agreement.ErrBroken, report)
	}
}

// readRuns reads the reports and puts them into the order in which providers are
// compared, in whichever they were given.
func readRuns(files []string) ([]agreement.Run, error) {
	var runs []agreement.Run
	var problems []error
	for _, file := range files {
		report, err := check.ReadReport(file)
		if err == nil && !slices.Contains(compared, report.Provider) {
			err = fmt.Errorf("%s is of a run on %q; runs on %s are compared", file, report.Provider, strings.Join(compared, " and on "))
		}
		problems = append(problems, err)
		runs = append(runs, agreement.Run{File: file, Report: report})
	}
	slices.SortStableFunc(runs, func(a, b agreement.Run) int {
		return slices.Index(compared, a.Report.Provider) - slices.Index(compared, b.Report.Provider)
	})
	return runs, errors.Join(problems...)
}

func writeComparison(dir string, result agreement.Comparison) error {
	content, err := json.MarshalIndent(result.Normalised(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode the comparison: %w", err)
	}
	junit, err := result.JUnit()
	if err != nil {
		return err
	}
	return errors.Join(
		check.WriteFile(filepath.Join(dir, compareFile), append(content, '\n')),
		check.WriteFile(filepath.Join(dir, compareJUnitFile), junit),
	)
}
