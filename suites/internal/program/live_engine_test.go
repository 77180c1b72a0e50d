//go:build live && linux

package program_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// enginePackage holds what judges policies live, and its tests on a cluster.
const enginePackage = "./suites/internal/policy/live"

// The engine's own tests pass on one cluster one behind the other, in any order, beside
// the watch that has it, which goes on judging.
func TestLiveEngine(t *testing.T) {
	folder := t.TempDir()
	copyPolicies(t, filepath.Join(folder, "library"), "audits")
	u := newUser(t).withStore(t)
	r := u.beside(t, folder, "watch", "library")
	r.shows(t, "all policies are well", "Ctrl-C ends it")
	up := r.reaches(t, "what judges policies", benchUp)
	var state bringup.BenchState
	if _, err := session.ReadState(filepath.Join(up.folder, "session.json"), &state); err != nil {
		t.Fatal(err)
	}

	tests := exec.Command(goCommand, "test", "-tags", "live", "-count", "1", "-shuffle", "on", "-timeout", "10m", "-v", enginePackage)
	tests.Dir = moduleRoot
	tests.Env = append(os.Environ(), "BENCH_KUBECONFIG="+state.Environment.Kubeconfig)
	output, err := tests.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", tests, err, output)
	}
	// What is built without the tag tests no cluster.
	if passed := strings.Count(string(output), "\n--- PASS: "); !strings.Contains(string(output), "\n--- PASS: TestAllRefuseOneObject ") {
		t.Errorf("%d tests passed, and those on the cluster are not among them", passed)
	} else {
		t.Logf("%d tests passed", passed)
	}

	policy := filepath.Join(folder, "library/audits/policy.yaml")
	content, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	save(t, policy, strings.Replace(string(content), "say who", "tell who", 1))
	r.shows(t, "after the save", "all policies are well")
	r.interrupt(t)
	if code := r.wait(t); code != 0 {
		t.Errorf("Ctrl-C ends the watch with exit code %d, want 0:\n%s", code, r.text(t))
	}
	if left := up.remains(t); left != "" {
		t.Errorf("the interrupted watch leaves %s", left)
	}
	u.leavesNothing(t)
}
