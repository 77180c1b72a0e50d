package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// stopGrace bounds how long a session may take to end before it is killed.
const stopGrace = 45 * time.Second

// running is a session that this process has had brought up.
type running struct {
	supervisor *session.Supervisor
	display    *progress.Display
	stopShow   context.CancelFunc
	shown      chan struct{}
	view       *bringup.View
	root       string
	// kind tells apart sessions that take their own time: the provider, or the bench.
	kind    string
	history progress.History
	// told gets the events that are no progress; nil: nobody does.
	told func(session.Event)
}

// prepare makes the input's paths absolute and refuses what can be refused
// before anything is started.
func (p *program) prepare(ctx context.Context, in *input) error {
	return p.readInput(ctx, in, nil)
}

// readInput does the same, and hands what was read to use, which may be nil,
// while the files that the program ships are laid out.
func (p *program) readInput(ctx context.Context, in *input, use func(bringup.Input) error) error {
	for _, path := range []*string{&in.Platform, &in.Developer, &in.Config, &in.artifacts} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return invalid{err}
		}
		*path = absolute
	}
	for _, names := range [][]string{in.Environments, in.Tenants} {
		for i, name := range names {
			names[i] = strings.TrimSpace(name)
		}
	}
	if err := readyArtifacts(in.artifacts); err != nil {
		return invalid{err}
	}
	if err := clearArtifacts(in.artifacts, p.suite.Registry.All()); err != nil {
		return err
	}
	root, err := session.Root()
	if err != nil {
		return err
	}
	if err := removeStaleInput(root); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(root, fmt.Sprintf("%s%d-", inputPrefix, os.Getpid()))
	if err != nil {
		return fmt.Errorf("read the input: %w", err)
	}
	read, err := bringup.Read(ctx, p.assets, in.Options, dir)
	_, unknown := p.suite.Registry.Select(in.checks)
	wrong := errors.Join(unknown, err)
	var used error
	if wrong == nil && use != nil {
		used = use(read)
	}
	if err := os.RemoveAll(dir); err != nil {
		return errors.Join(wrong, fmt.Errorf("read the input: %w", err))
	}
	if err := context.Cause(ctx); err != nil {
		return err // what was not read to its end is not wrong
	}
	if wrong != nil {
		return invalid{wrong}
	}
	if used != nil {
		return used
	}
	var broken []error
	for _, problem := range read.Platform.Problems {
		broken = append(broken, problem)
	}
	if err := errors.Join(broken...); err != nil {
		fmt.Fprintf(p.errOut, "note: some checks will fail:\n%s\n", err)
	}
	if read.Unanswered != nil {
		fmt.Fprintf(p.errOut, "note: some URLs will be refused:\n%s\n", read.Unanswered)
	}
	return nil
}

// inputPrefix, with the process that made it, names a folder in which the input
// is read before there is a session.
const inputPrefix = "input-"

// removeStaleInput removes such folders of processes that were killed.
func removeStaleInput(root string) error {
	folders, err := filepath.Glob(filepath.Join(root, inputPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for what killed runs left: %w", err)
	}
	for _, folder := range folders {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), inputPrefix), "-")
		pid, err := strconv.Atoi(number)
		if err == nil && syscall.Kill(pid, 0) == nil {
			continue
		}
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("remove what a killed run left: %w", err)
		}
	}
	return nil
}

// interrupts are the contexts of a run that says what an interrupt does.
func (p *program) interrupts(ctx context.Context) (soft, hard context.Context, release func()) {
	return session.Interrupts(ctx, func(count int) {
		if count == 1 {
			fmt.Fprintln(p.errOut, "interrupted: ending the session; once more ends it by force")
		}
	})
}

// start reaps what dead sessions left and has a new one brought up; it returns
// when all has settled. The caller ends it with stop, also after an error.
func (p *program) start(ctx context.Context, in *input, keep bool) (*running, error) {
	in.Artifacts = in.artifacts
	encoded, err := json.Marshal(in.Options)
	if err != nil {
		return nil, fmt.Errorf("hand the input to the supervisor: %w", err)
	}
	r, err := p.launch(ctx, in.Provider, session.StartOptions{
		Args: []string{"supervise", string(encoded)}, Keep: keep, LogFile: filepath.Join(in.artifacts, session.LogName),
	})
	if err != nil {
		return r, err
	}
	if err := r.supervisor.WaitReady(ctx); err != nil {
		return r, err
	}
	return r, r.look(ctx)
}

// launch reaps what dead sessions left and starts the supervisor of a new one,
// whose progress is shown. The options say what runs there; those that are this
// program's own are filled in. Sessions of one kind take alike long. The caller
// ends it with stop, also after an error.
func (p *program) launch(ctx context.Context, kind string, options session.StartOptions) (*running, error) {
	root, err := session.Root()
	if err != nil {
		return nil, err
	}
	removed, err := session.ReapStale(ctx, root)
	for _, r := range removed {
		fmt.Fprintf(p.out, "cleaned up after a session that was killed: %s\n", r)
	}
	if err != nil {
		return nil, fmt.Errorf("clean up after earlier sessions: %w", err)
	}
	r := &running{root: root, kind: kind, told: options.Events, shown: make(chan struct{})}
	if r.history, err = progress.LoadHistory(r.historyFile()); err != nil {
		fmt.Fprintln(p.errOut, "note:", err)
	}
	drawing := progress.ForFile(os.Stdout, os.Getenv)
	drawing.History = r.history
	r.display = progress.NewDisplay(drawing)
	show, stopShow := context.WithCancel(context.WithoutCancel(ctx))
	r.stopShow = stopShow
	go func() {
		defer close(r.shown)
		r.display.Run(show)
	}()
	options.Root, options.Executable, options.Events = root, p.executable, r.event
	r.supervisor, err = session.Start(ctx, options)
	return r, err
}

// look opens a view on what the session serves now.
func (r *running) look(ctx context.Context) error {
	var state bringup.State
	if _, err := session.ReadState(r.supervisor.File(), &state); err != nil {
		return err
	}
	var err error
	r.view, err = bringup.Open(ctx, state, filepath.Join(filepath.Dir(r.supervisor.File()), "trees"))
	return err
}

func (r *running) event(e session.Event) {
	if e.Kind != bringup.ProgressEvent {
		if r.told != nil {
			r.told(e)
		}
		return
	}
	var step progress.Event
	if json.Unmarshal(e.Data, &step) == nil {
		r.display.Handle(step)
	}
}

// historyFile holds how long the phases took.
func (r *running) historyFile() string {
	return filepath.Join(r.root, "history-"+r.kind+".json")
}

// stop ends the session and what is shown of it.
func (r *running) stop(ctx context.Context) error {
	if r == nil {
		return nil
	}
	var err error
	if r.supervisor != nil {
		bounded, cancel := context.WithTimeout(ctx, stopGrace)
		const phase = "delete"
		r.display.Handle(progress.Event{Time: time.Now(), Phase: phase})
		err = r.supervisor.Stop(bounded)
		r.display.Handle(progress.Event{Time: time.Now(), Phase: phase, Done: true})
		cancel()
	}
	r.stopShow()
	<-r.shown
	return err
}

// detach leaves a kept session running and ends what is shown of it.
func (r *running) detach() {
	r.stopShow()
	<-r.shown
}

func (p *program) superviseCommand(ctx context.Context) *cobra.Command {
	return &cobra.Command{
		Use: "supervise OPTIONS", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var options bringup.Options
			if err := json.Unmarshal([]byte(args[0]), &options); err != nil {
				return fmt.Errorf("read the supervisor's options: %w", err)
			}
			return session.Serve(ctx, session.ServeOptions{}, bringup.Run(p.assets, options))
		},
	}
}

func (p *program) upCommand(ctx context.Context) *cobra.Command {
	in := &input{}
	c := &cobra.Command{
		Use: "up", Short: "Bring a session up and keep it", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			soft, hard, release := session.Interrupts(ctx, nil)
			defer release()
			if err := p.prepare(soft, in); err != nil {
				return err
			}
			r, err := p.start(soft, in, true)
			if err != nil {
				return errors.Join(err, r.stop(hard))
			}
			r.detach()
			fmt.Fprintf(p.out, "session %s is up\n", r.supervisor.ID())
			for _, e := range r.view.State.Environments {
				fmt.Fprintf(p.out, "  %-8s KUBECONFIG=%s\n", e.Name, e.Kubeconfig)
				for _, line := range e.Chain {
					fmt.Fprintf(p.out, "           not ready: %s\n", line)
				}
			}
			fmt.Fprintf(p.out, "judge it with: go tool ginkgo -p ./suites    end it with: make down\n")
			return nil
		},
	}
	in.flags(c)
	return c
}

// SpecsLog is the file beside the report with what Ginkgo itself printed.
const SpecsLog = "specs.log"

// runFolder is where the specs of one judgement write down what they find.
func (r *running) runFolder(name string) string {
	return filepath.Join(filepath.Dir(r.supervisor.File()), "runs", name)
}

// judge has the specs run on a session, in a process of their own: Ginkgo runs
// its specs once per process, and proving runs them once per fault. The name
// tells apart what is judged on one session.
func (p *program) judge(ctx context.Context, in *input, r *running, name string, selection Selection) ([]check.Outcome, error) {
	dir, runFolder := filepath.Dir(r.supervisor.File()), r.runFolder(name)
	command := exec.CommandContext(ctx, p.executable, "judge", r.supervisor.File(),
		"--run-folder", runFolder, "--trees", filepath.Join(dir, "trees"),
		"--checks", strings.Join(selection.Checks, ","), "--environments", strings.Join(selection.Environments, ","),
		"--tenants", strings.Join(selection.Tenants, ","))
	// The specs end themselves at SIGTERM, with what they had found so far.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = stopGrace
	command.Env = append(os.Environ(), session.MarkerVariable+"="+r.supervisor.ID())
	output, runErr := command.CombinedOutput()
	if err := os.MkdirAll(in.artifacts, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of artifacts: %w", err)
	}
	if err := check.WriteFile(filepath.Join(in.artifacts, SpecsLog), output); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("judge: %w", context.Cause(ctx))
	}
	var ended *exec.ExitError
	if runErr != nil && (!errors.As(runErr, &ended) || ended.ExitCode() != check.RunFailed.ExitCode()) {
		runErr = fmt.Errorf("judge: %w: %s", runErr, output)
	} else {
		runErr = nil
	}
	outcomes, err := check.ReadOutcomes(runFolder)
	if err == nil && runErr == nil && len(outcomes) == 0 {
		err = fmt.Errorf("judge: no outcome was recorded: %s", output)
	}
	return outcomes, errors.Join(runErr, err)
}

// judgeCommand is the process that judge starts.
func (p *program) judgeCommand(ctx context.Context) *cobra.Command {
	var selection Selection
	var runFolder, trees string
	c := &cobra.Command{
		Use: "judge SESSION-FILE", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var state bringup.State
			if _, err := session.ReadState(args[0], &state); err != nil {
				return err
			}
			view, err := bringup.Open(ctx, state, trees)
			if err != nil {
				return err
			}
			outcomes, err := p.suite.Judge(ctx, view, selection, runFolder)
			if err != nil {
				return err
			}
			for _, o := range outcomes {
				if o.Result == check.Failed {
					return exit(check.RunFailed.ExitCode())
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVar(&selection.Checks, "checks", nil, "")
	f.StringSliceVar(&selection.Environments, "environments", nil, "")
	f.StringSliceVar(&selection.Tenants, "tenants", nil, "")
	f.StringVar(&runFolder, "run-folder", "", "")
	f.StringVar(&trees, "trees", "", "")
	return c
}
