//go:build live && linux

// The tests with the build tag live run the built program as a user would, on
// real clusters, and look at it from outside: what runs, listens and lies around
// while it is at work, and after its end. scripts/live.sh runs them all.
package program_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

const (
	// moduleRoot is where this package's tests find the module.
	moduleRoot = "../../.."
	// runLimit bounds one run; a run of one environment takes about 35 s on a quiet
	// machine.
	runLimit = 5 * time.Minute
	// stageLimit bounds the wait for a stage of a run, or for the end of what was
	// killed.
	stageLimit = 2 * time.Minute
	// pollInterval is how often the machine is looked at.
	pollInterval = 100 * time.Millisecond
)

var (
	// binary is the program under test, and store the warm component store.
	binary, store string
	// goCommand is the one that the Makefile uses too.
	goCommand = cmp.Or(os.Getenv("GO"), "go")
	// programs maps each component to its program in the store.
	programs = map[string]string{}
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		fmt.Fprintln(os.Stderr, "enter the namespace:", enterLoopback(os.Args[1:]))
		os.Exit(exitNamespace)
	}
	os.Exit(prepareAndRun(m))
}

// prepareAndRun builds the program once, and has the components ready in the
// user's own store, which the tests share.
func prepareAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "live-program-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests:", err)
		return 1
	}
	return m.Run()
}

func prepare(dir string) error {
	binary = filepath.Join(dir, "flux-platform-conformance")
	build := exec.Command(goCommand, "build", "-trimpath", "-o", binary, ".")
	build.Dir, build.Env = moduleRoot, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w: %s", err, output)
	}
	root, err := session.Root()
	if err != nil {
		return err
	}
	store = filepath.Join(root, "store")
	components := exec.Command(binary, "components")
	components.Stderr = os.Stderr // a first build takes minutes, and says so
	output, err := components.Output()
	if err != nil {
		return fmt.Errorf("have the components ready: %w", err)
	}
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		programs[fields[0]] = fields[len(fields)-1]
	}
	return nil
}

// user is somebody who runs the program: with a state root, a folder for
// temporary files and an environment of their own, so that their sessions and
// ports are apart from all others.
type user struct {
	home, temporary string
	environ         []string
}

// newUser makes a user. At the end of the test all that is theirs is ended,
// whatever the test left.
func newUser(t *testing.T, environ ...string) *user {
	t.Helper()
	u := &user{home: t.TempDir(), temporary: t.TempDir()}
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "FLUX_CONFORMANCE_") {
			u.environ = append(u.environ, entry)
		}
	}
	u.environ = append(u.environ, session.HomeVariable+"="+u.home, "TMPDIR="+u.temporary)
	u.environ = append(u.environ, environ...)
	t.Cleanup(func() {
		clean := exec.Command(binary, "clean")
		clean.Env = u.environ
		if output, err := clean.CombinedOutput(); err != nil {
			t.Errorf("end what the test left: %v: %s", err, output)
		}
	})
	return u
}

// withStore lets the user's state root share the warm component store.
func (u *user) withStore(t *testing.T) *user {
	t.Helper()
	if err := os.Symlink(store, filepath.Join(u.home, "store")); err != nil {
		t.Fatal(err)
	}
	return u
}

// run is one invocation of the program.
type run struct {
	user      *user
	command   *exec.Cmd
	output    string
	artifacts string
	done      chan struct{}
	// remedy is what mends a start that fails.
	remedy string
	// shown is how far what it prints was looked at.
	shown int
}

// e2e begins a run of the main job in dev.
func (u *user) e2e(t *testing.T, args ...string) *run {
	t.Helper()
	return u.runs(t, append([]string{"e2e", "--environments", "dev"}, args...)...)
}

// runs begins a run of a command that writes a report.
func (u *user) runs(t *testing.T, args ...string) *run {
	t.Helper()
	artifacts := filepath.Join(t.TempDir(), "artifacts")
	r := &run{user: u, command: exec.Command(binary, append(args, "--artifacts", artifacts)...), artifacts: artifacts}
	r.start(t)
	return r
}

// start starts the program in a process group of its own, as a shell does, so
// that it can be sent what a terminal sends to a group.
func (r *run) start(t *testing.T) {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), "output.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	r.output, r.done = output.Name(), make(chan struct{})
	r.command.Env = append(r.user.environ, r.command.Env...)
	r.command.Stdout, r.command.Stderr = output, output
	if r.command.SysProcAttr == nil {
		r.command.SysProcAttr = &syscall.SysProcAttr{}
	}
	r.command.SysProcAttr.Setpgid = true
	if err := r.command.Start(); err != nil {
		t.Fatalf("start %s: %v%s", r.command, err, r.remedy)
	}
	go func() {
		defer close(r.done)
		_ = r.command.Wait() // how it ended stands in its state
	}()
	t.Cleanup(func() {
		r.kill()
		<-r.done
	})
}

// kill ends the program the hard way, and nothing that it started.
func (r *run) kill() { _ = r.command.Process.Kill() }

// interrupt sends what Ctrl-C sends: SIGINT to the whole group.
func (r *run) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-r.command.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatalf("interrupt the run: %v", err)
	}
}

// wait returns the exit code; a run that does not end fails the test.
func (r *run) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(runLimit):
		t.Fatalf("the run did not end within %s:\n%s", runLimit, r.text(t))
	}
	code := r.command.ProcessState.ExitCode()
	if code == exitNamespace {
		t.Fatalf("%s%s", r.text(t), r.remedy)
	}
	return code
}

// text is all that the program printed.
func (r *run) text(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(r.output)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// report reads report.json.
func (r *run) report(t *testing.T) check.Report {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.artifacts, check.ReportFile))
	if err != nil {
		t.Fatalf("%v; the run printed:\n%s", err, r.text(t))
	}
	var report check.Report
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatalf("read the report: %v", err)
	}
	return report
}

// ends waits for the end of the run, and fails the test unless exit code and
// report both say that it came to this result.
func (r *run) ends(t *testing.T, want check.RunResult) check.Report {
	t.Helper()
	code := r.wait(t)
	report := r.report(t)
	if code != want.ExitCode() || report.Result != want || report.ExitCode != code {
		t.Fatalf("the run ended with exit code %d, report.json says %q (exit code %d); want %q (%d). It printed:\n%s",
			code, report.Result, report.ExitCode, want, want.ExitCode(), r.text(t))
	}
	return report
}

// green waits for the end of a run in which every check of dev passed or is not
// supported, and nothing was left out.
func (r *run) green(t *testing.T) check.Report {
	t.Helper()
	report := r.ends(t, check.RunPassed)
	judgedBut(t, report)
	r.user.leavesNothing(t)
	t.Logf("green in %.1f s", report.Seconds)
	return report
}

// judgedBut fails the test unless every check was judged in dev, or for the whole
// platform, and failed where it is named, and only there.
func judgedBut(t *testing.T, report check.Report, failing ...string) {
	t.Helper()
	judged := map[string]bool{}
	for _, o := range report.Outcomes {
		if o.Environment != "dev" && o.Environment != "" {
			continue
		}
		judged[o.Check] = true
		wanted := []check.Result{check.Passed, check.NotSupported}
		if slices.Contains(failing, o.Check) {
			wanted = []check.Result{check.Failed}
		}
		if !slices.Contains(wanted, o.Result) {
			t.Errorf("check %s %s is %s, want one of %v: %s %s", o.Check, o.Tenant, o.Result, wanted, o.Reason, o.Found)
		}
	}
	for _, c := range report.Checks {
		if !judged[c.ID] {
			t.Errorf("check %s has no outcome in dev", c.ID)
		}
	}
	if len(judged) == 0 {
		t.Error("the report holds no outcome for dev")
	}
}

// leavesNothing fails the test when a session, a leased port or a file is left
// of the user's runs.
func (u *user) leavesNothing(t *testing.T) {
	t.Helper()
	for _, dir := range []string{filepath.Join(u.home, "sessions"), filepath.Join(u.home, "ports"), u.temporary} {
		for _, name := range list(t, dir) {
			if name != "lock" { // that of the folder itself
				t.Errorf("%s is left in %s", name, dir)
			}
		}
	}
	for _, name := range list(t, u.home) {
		if !slices.Contains([]string{"sessions", "ports", "store"}, name) && !strings.HasPrefix(name, "history-") {
			t.Errorf("%s is left in the state root", name)
		}
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// await waits until the condition holds; it fails the test with what the
// condition lacks when that takes longer than stageLimit.
func await(t *testing.T, what string, lacks func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stageLimit)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		missing := lacks()
		if missing == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come within %s: %s", what, stageLimit, missing)
		case <-ticker.C:
		}
	}
}

// reaches waits until processes with all these names run in the session of this
// run.
func (r *run) reaches(t *testing.T, what string, names []string) inventory {
	t.Helper()
	var found inventory
	await(t, what, func() string {
		select {
		case <-r.done:
			t.Fatalf("the run ended before %s:\n%s", what, r.text(t))
		default:
		}
		all := r.user.sessions(t)
		if len(all) == 0 {
			return "there is no session yet"
		}
		for _, one := range all {
			if one.client == r.command.Process.Pid && one.runs(names) {
				found = r.user.complete(t, one)
				return ""
			}
		}
		return fmt.Sprintf("there are %v; the run printed:\n%s", all, r.text(t))
	})
	return found
}

// The stages of a run, by what runs in it: Flux, once the cluster is up; Kyverno,
// when Flux has come that far; the specs.
var (
	bringingUp = []string{"source-controller", "kustomize-controller", "helm-controller"}
	halfWay    = append(slices.Clone(bringingUp), "kyverno")
	judging    = append(slices.Clone(halfWay), "judge")
)

// reference copies the reference platform, and changes files of it.
func reference(t *testing.T, change map[string]func(content string) string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flux_platform")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(moduleRoot, "fixtures", "flux_platform"))); err != nil {
		t.Fatal(err)
	}
	for name, fn := range change {
		file := filepath.Join(dir, filepath.FromSlash(name))
		before, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		after := []byte(fn(string(before)))
		if bytes.Equal(before, after) {
			t.Fatalf("%s of the reference platform is not changed: it has another form than this test knows", name)
		}
		if err := os.WriteFile(file, after, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// written is a change that makes a file.
func written(content string) func(string) string {
	return func(string) string { return content }
}

// replaced is a change that replaces every occurrence of a text.
func replaced(before, after string) func(string) string {
	return func(content string) string { return strings.ReplaceAll(content, before, after) }
}

// listed is a change that adds a file to the resources of dev's kustomization.
func listed(name string) func(string) string {
	return replaced("- infrastructure.yaml\n", "- infrastructure.yaml\n- "+name+"\n")
}
