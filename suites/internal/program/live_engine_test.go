//go:build live && linux

package program_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// The live tests of the package that judges policies run against one bench: that of
// a watch, which keeps it.
func TestLivePolicyEngine(t *testing.T) {
	folder := t.TempDir()
	copyPolicies(t, filepath.Join(folder, "library"), "audits")
	u := newUser(t).withStore(t)
	r := u.beside(t, folder, "watch", "library")
	r.shows(t, "Ctrl-C ends it")
	of := r.reaches(t, "the watch", benchUp)
	var state bringup.BenchState
	if _, err := session.ReadState(filepath.Join(of.folder, "session.json"), &state); err != nil {
		t.Fatal(err)
	}
	tests := exec.CommandContext(t.Context(), goCommand, "test", "-tags", "live", "-count", "1", "-v", "./suites/internal/policy/live")
	tests.Dir, tests.Env = moduleRoot, append(os.Environ(), "BENCH_KUBECONFIG="+state.Environment.Kubeconfig)
	output, err := tests.CombinedOutput()
	if err != nil {
		t.Errorf("the tests of the package: %v:\n%s", err, output)
	}
	// A tag or a name that is wrong would leave them all out.
	judged := regexp.MustCompile(`(?m)^--- PASS: (\S+).*$`).FindAllString(string(output), -1)
	if !regexp.MustCompile(`(?m)^--- PASS: TestAPolicyThatIsNeverInForceIsToldOfAlone `).Match(output) {
		t.Errorf("the tests that need a cluster did not run; those that passed: %q", judged)
	}
	t.Logf("%d tests passed", len(judged))
	r.interrupt(t)
	if code := r.wait(t); code != 0 {
		t.Errorf("the watch ended with exit code %d:\n%s", code, r.text(t))
	}
	u.leavesNothing(t)
}
