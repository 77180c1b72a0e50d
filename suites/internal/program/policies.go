package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/coverage"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/offline"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/report"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

const (
	// policiesFolder holds the policies that the program ships, and policyList where
	// live and offline verdicts on them differ.
	policiesFolder = "policies"
	policyList     = "fixtures/policies.yaml"
)

// The phases of judging policies. The CLI works beside all others.
const (
	phaseLive     = "live"
	phaseCoverage = "coverage"
	phaseOffline  = "offline"
	// besideName is the environment of what the CLI does, in the progress.
	besideName = "cli"
)

// policiesInput are the flags and the argument that say which policies are judged.
type policiesInput struct {
	// dir is the folder; empty: what the program ships.
	dir string
	// names choose policies, as names or patterns; none: all.
	names     []string
	strict    bool
	explained string
	artifacts string

	// scratch holds what the program ships; empty where it is not asked for.
	scratch string
}

func (in *policiesInput) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&in.names, "policy", nil, "policies to judge: names or patterns, by commas (default: all)")
	f.BoolVar(&in.strict, "strict", false, "stop at the first file that is wrong, and fail for a policy without examples")
	f.StringVar(&in.explained, "explained", "", "file that explains where live and offline differ (default: that of the policies that the program ships; of others none)")
	f.StringVar(&in.artifacts, "artifacts", "artifacts", fmt.Sprintf("folder for %s and %s", report.File, report.JUnitFile))
	f.String("provider", "", "")
	// Hidden: it is taken for granted by who passes the same flags to every command.
	_ = f.MarkHidden("provider")
}

// take reads the arguments and refuses what is none of ours.
func (in *policiesInput) take(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return invalid{fmt.Errorf("%s takes one folder, and there are %d: %s", c.Name(), len(args), strings.Join(args, ", "))}
	}
	if len(args) == 1 {
		in.dir = args[0]
	}
	if c.Flags().Changed("provider") {
		return invalid{fmt.Errorf("PROVIDER is not for %s: policies are judged on a cluster of this program's own, made of processes", c.Name())}
	}
	return nil
}

func (p *program) policiesCommand(ctx context.Context) *cobra.Command {
	in := &policiesInput{}
	c := &cobra.Command{
		Use: "policies [DIR]", Short: "Judge Kyverno policies by their kyverno-test.yaml files, live and offline (default: the policies that the program ships)",
		Args: in.take,
		RunE: func(*cobra.Command, []string) error { return p.policies(ctx, in) },
	}
	in.flags(c)
	return c
}

// policies is one run. Whatever goes wrong, there is a report that says so.
func (p *program) policies(ctx context.Context, in *policiesInput) error {
	soft, hard, release := p.interrupts(ctx)
	defer release()
	out := report.Input{Command: p.args, Started: time.Now(), Strict: in.strict, Selected: len(in.names) > 0}
	defer in.clear()
	if err := p.readPolicies(in, &out); err != nil {
		if wrong := (invalid{}); errors.As(err, &wrong) {
			out.Invalid = wrong.error
		} else {
			out.Broken = err
		}
		return p.finishPolicies(in, out, nil)
	}
	b, err := p.startBench(soft, in.artifacts)
	if err == nil {
		err = b.judge(soft, &out)
	}
	if err != nil && context.Cause(soft) != nil {
		err = context.Cause(soft)
	}
	out.Broken = errors.Join(err, b.stop(hard))
	return p.finishPolicies(in, out, b)
}

// readPolicies refuses what can be refused before anything is started.
func (p *program) readPolicies(in *policiesInput, out *report.Input) error {
	var err error
	if in.artifacts, err = filepath.Abs(in.artifacts); err != nil {
		return invalid{err}
	}
	if err := readyArtifacts(in.artifacts); err != nil {
		return invalid{err}
	}
	for _, name := range []string{report.File, report.JUnitFile, session.LogName} {
		if err := os.Remove(filepath.Join(in.artifacts, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clear what an earlier run left: %w", err)
		}
	}
	if out.Explained, err = p.explainedPolicies(in); err != nil {
		return invalid{err}
	}
	dir := in.dir
	if dir == "" {
		if dir, err = p.shippedPolicies(in); err != nil {
			return err
		}
	}
	if out.Library, err = loadPolicies(dir, in.names); err != nil {
		return invalid{err}
	}
	switch found := len(out.Library.Findings); {
	case len(out.Library.Examples()) == 0:
		return invalid{fmt.Errorf("%s: there is no example to judge%s: a folder of policies holds a %s, whose results name resources%s",
			out.Library.Dir, unasked(out.Library.Policies), example.TestFile, alsoFound(found))}
	case found > 0 && in.strict:
		return invalid{fmt.Errorf("%d files or entries are wrong, and --strict judges nothing then", found)}
	case found > 0:
		for _, f := range out.Library.Findings {
			fmt.Fprintln(p.errOut, f.Error())
		}
		fmt.Fprintf(p.errOut, "note: %d files or entries are wrong, which fails the run; everything else is judged\n", found)
	}
	return nil
}

// unasked names policies of which no test asks anything.
func unasked(policies []*example.Policy) string {
	const most = 5
	if len(policies) == 0 {
		return ""
	}
	var names []string
	for _, p := range policies[:min(len(policies), most)] {
		names = append(names, placed(p))
	}
	if len(policies) > most {
		names = append(names, fmt.Sprintf("and %d more", len(policies)-most))
	}
	return ", and so nothing can be said of " + strings.Join(names, ", ")
}

func alsoFound(findings int) string {
	if findings == 0 {
		return ""
	}
	return "; see what is wrong with the files"
}

// loadPolicies reads a folder, narrowed to the policies that are chosen.
func loadPolicies(dir string, names []string) (*example.Library, error) {
	library, err := example.Load(dir)
	if err != nil {
		return nil, err
	}
	return library, choose(library, names)
}

// choose narrows a library to the policies with these names, or that match these
// patterns; none: all stay. One that chooses nothing is an error.
func choose(library *example.Library, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var known []string
	for _, p := range library.Policies {
		known = append(known, p.Object.GetName())
	}
	chosen := map[string]bool{}
	var problems []error
	for _, name := range names {
		name = strings.TrimSpace(name)
		found := false
		for _, k := range known {
			matches, err := path.Match(name, k)
			if err != nil {
				problems = append(problems, fmt.Errorf("POLICY: %q is no pattern: %w", name, err))
				found = true
				break
			}
			if matches {
				chosen[k], found = true, true
			}
		}
		if !found {
			problems = append(problems, fmt.Errorf("POLICY: there is no policy %q in %s%s", name, library.Dir, check.DidYouMean(name, known)))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	narrow(library, func(p *example.Policy) bool { return chosen[p.Object.GetName()] })
	return nil
}

// narrow leaves those policies in a library that are kept, and what asks them.
func narrow(library *example.Library, kept func(*example.Policy) bool) {
	library.Policies = slices.DeleteFunc(library.Policies, func(p *example.Policy) bool { return !kept(p) })
	for _, t := range library.Tests {
		t.Examples = slices.DeleteFunc(t.Examples, func(e *example.Example) bool { return !kept(e.Policy) })
	}
	library.Tests = slices.DeleteFunc(library.Tests, func(t *example.Test) bool { return len(t.Examples) == 0 })
}

// explainedPolicies reads the list of explained differences.
func (p *program) explainedPolicies(in *policiesInput) ([]report.Explanation, error) {
	name := in.explained
	var data []byte
	var err error
	switch {
	case name != "":
		data, err = os.ReadFile(name)
	case in.dir != "":
		return nil, nil
	default:
		name = policyList
		data, err = fs.ReadFile(p.assets, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of explanations: %w", err)
	}
	return report.ParseList(name, data)
}

// shippedPolicies lays the policies that the program ships out for this run.
func (p *program) shippedPolicies(in *policiesInput) (string, error) {
	root, err := session.Root()
	if err != nil {
		return "", err
	}
	if err := removeStaleInput(root); err != nil {
		return "", err
	}
	if in.scratch, err = os.MkdirTemp(root, fmt.Sprintf("%s%d-", inputPrefix, os.Getpid())); err != nil {
		return "", fmt.Errorf("lay out the policies that the program ships: %w", err)
	}
	part, err := fs.Sub(p.assets, policiesFolder)
	if err == nil {
		err = os.CopyFS(filepath.Join(in.scratch, policiesFolder), part)
	}
	if err != nil {
		return "", fmt.Errorf("lay out the policies that the program ships: %w", err)
	}
	return filepath.Join(in.scratch, policiesFolder), nil
}

// clear removes what was laid out.
func (in *policiesInput) clear() {
	if in.scratch != "" {
		_ = os.RemoveAll(in.scratch) // else the next run removes it
	}
}

// judge has the library judged live and, beside that, offline.
func (b *bench) judge(ctx context.Context, out *report.Input) error {
	group, both := errgroup.WithContext(ctx)
	group.Go(func() error {
		path, err := b.cli(both)
		if err != nil {
			return err
		}
		return b.phase(besideName, phaseOffline, func() error {
			out.Offline, err = offline.Judge(both, path, b.folder(), out.Library)
			return err
		})
	})
	group.Go(func() error {
		asking, err := b.open(both)
		if err != nil {
			return err
		}
		err = b.phase(bringup.BenchName, phaseLive, func() error {
			out.Live, err = asking.Judge(both, out.Library)
			return err
		})
		if err != nil {
			return fmt.Errorf("judge live: %w", err)
		}
		err = b.phase(bringup.BenchName, phaseCoverage, func() error {
			out.Coverage, err = cover(both, asking, out.Library, out.Live, everyPolicy)
			return err
		})
		if err != nil {
			return fmt.Errorf("find what no example exercises: %w", err)
		}
		// A report that cannot be had says nothing of the policies.
		found, err := b.state.Environment.ClusterReport(both)
		if err != nil {
			return err
		}
		b.cluster, out.Memory = found, memoryOf(bringup.BenchName, found)
		return nil
	})
	return group.Wait()
}

// open waits for the cluster and has it ready to be asked. What is made there goes
// with the cluster.
func (b *bench) open(ctx context.Context) (*live.Bench, error) {
	if err := b.await(ctx); err != nil {
		return nil, err
	}
	return b.connect(ctx, live.Options{Progress: func(doing string) {
		if phase, _ := b.doing.Load().(string); phase != "" {
			b.display.Handle(progress.Event{Time: time.Now(), Environment: bringup.BenchName, Phase: phase, Waiting: doing})
		}
	}})
}

// phase shows the begin and the end of a step.
func (b *bench) phase(environment, name string, step func() error) error {
	if environment == bringup.BenchName {
		b.doing.Store(name)
	}
	b.display.Handle(progress.Event{Time: time.Now(), Environment: environment, Phase: name})
	err := step()
	b.display.Handle(progress.Event{Time: time.Now(), Environment: environment, Phase: name, Done: true})
	return err
}

// everyPolicy wants all of them.
func everyPolicy(*example.Policy) bool { return true }

// cover finds what of the policies that are wanted no example exercises. One that does
// not compile, or is never in force, has no parts that could be asked.
func cover(ctx context.Context, asking *live.Bench, library *example.Library, judged *live.Judgement, wanted func(*example.Policy) bool) ([]coverage.Item, error) {
	broken := map[*example.Policy]bool{}
	for _, state := range judged.Policies {
		broken[state.Policy] = state.Problem != ""
	}
	asked := func(p *example.Policy) bool { return !broken[p] && wanted(p) }
	verdicts := map[*example.Policy][]live.Verdict{}
	for _, v := range judged.Verdicts {
		verdicts[v.Example.Policy] = append(verdicts[v.Example.Policy], v)
	}
	aspects := map[*example.Policy][]live.Aspect{}
	for _, p := range library.Policies {
		if parts := coverage.Aspects(p); len(verdicts[p]) > 0 && asked(p) && len(parts) > 0 {
			aspects[p] = parts
		}
	}
	answers, err := asking.Probe(ctx, library, aspects)
	if err != nil {
		return nil, err
	}
	var out []coverage.Item
	for _, p := range library.Policies {
		if !asked(p) {
			continue
		}
		in := coverage.Input{Policy: p, Verdicts: verdicts[p]}
		if m := answers[p]; m != nil {
			in.Aspects, in.Replies = m.Aspects, m.Replies
		}
		out = append(out, coverage.Of(in)...)
	}
	return out, nil
}

// finishPolicies writes the report and turns the result into the exit code.
func (p *program) finishPolicies(in *policiesInput, out report.Input, b *bench) error {
	out.Seconds = time.Since(out.Started).Seconds()
	if b != nil && b.running != nil {
		out.Phases = b.display.Phases()
	}
	r := report.Make(out)
	if len(out.Phases) > 0 {
		if r.Result == check.RunPassed || r.Result == check.RunFailed {
			b.history.Learn(out.Phases)
			if err := progress.SaveHistory(b.historyFile(), b.history); err != nil {
				fmt.Fprintln(p.errOut, "note:", err)
			}
		}
		fmt.Fprintln(p.out)
		if err := progress.WriteTable(p.out, out.Phases); err != nil {
			return err
		}
		writePeaks(p, b.cluster)
	}
	fmt.Fprintln(p.out)
	options := progress.ForFile(os.Stdout, os.Getenv)
	if err := r.WriteText(p.out, check.TextOptions{Width: options.Columns(), Colour: options.Colour}); err != nil {
		return err
	}
	content, err := r.JSON()
	if err != nil {
		return err
	}
	junit, err := r.JUnit()
	if err != nil {
		return err
	}
	files := []string{filepath.Join(in.artifacts, report.File), filepath.Join(in.artifacts, report.JUnitFile)}
	if err := errors.Join(check.WriteFile(files[0], content), check.WriteFile(files[1], junit)); err != nil {
		if r.Result != check.RunInvalidInput {
			return err
		}
		// The folder itself may be what is wrong with the input.
		fmt.Fprintln(p.errOut, "note: there is no report:", err)
	} else {
		fmt.Fprintf(p.out, "report: %s\n", strings.Join(files, " "))
	}
	if r.ExitCode != 0 {
		return exit(r.ExitCode)
	}
	return nil
}

// writePeaks writes what memory the cluster took.
func writePeaks(p *program, found cluster.Report) {
	if found.PeakMemory == 0 {
		return
	}
	const mebibyte = 1 << 20
	fmt.Fprintf(p.out, "\npeak memory, all together at one time: %d MiB;", found.PeakMemory/mebibyte)
	for _, process := range memoryOf(bringup.BenchName, found) {
		if slices.Contains([]string{"kyverno", "kube-apiserver"}, process.Name) {
			fmt.Fprintf(p.out, " %s %d MiB", process.Name, process.PeakBytes/mebibyte)
		}
	}
	fmt.Fprintln(p.out)
}
