//go:build live && linux

package program_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/measure"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/report"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// benchUp is what runs on a bench when it is about to judge.
var benchUp = []string{"kube-apiserver", "kyverno", "background-controller"}

// Kyverno dies in the middle of the asking: all is judged after its restart, and one
// example that must not pass is still told from those that must.
func TestLivePoliciesKyvernoKilled(t *testing.T) {
	// Each eighth policy is about Services, so as many examples are.
	const policies, results, services = 40, 2000, 2000 / 8
	folder := t.TempDir()
	library := filepath.Join(folder, "library")
	if err := measure.WriteLibrary(library, policies, results); err != nil {
		t.Fatal(err)
	}
	const wrong = "no-node-port-12"
	test := filepath.Join(library, wrong, example.TestFile)
	content, err := os.ReadFile(test)
	if err != nil {
		t.Fatal(err)
	}
	save(t, test, strings.Replace(string(content), "result: fail", "result: pass", 1))

	u := newUser(t).withStore(t)
	r := u.beside(t, folder, "policies", "library")
	before := r.reaches(t, "Kyverno", benchUp)
	asked := 0
	await(t, "the middle of the asking", func() string {
		select {
		case <-r.done:
			t.Fatalf("the run ended before that:\n%s", r.text(t))
		default:
		}
		asked = servicesAsked(t, before)
		if asked < services/10 {
			return fmt.Sprintf("%d Services were sent", asked)
		}
		return ""
	})
	killed := kyvernoOf(processesOf(t, before.id, before.folder))
	killProcess(t, killed.pid)
	if asked >= services {
		t.Fatalf("all %d Services had been asked about when Kyverno was killed: this shows nothing", asked)
	}
	await(t, "Kyverno's restart", func() string {
		if now := kyvernoOf(processesOf(t, before.id, before.folder)); now.pid == 0 || now.pid == killed.pid {
			return "it does not run"
		}
		return ""
	})
	written := r.tells(t, check.RunFailed)
	u.leavesNothing(t)
	t.Logf("killed after %d of %d Services; judged in %.1f s, %d of %d requests were made again", asked, services, written.Seconds, written.Stats.Retries, written.Stats.Requests)
	if written.Stats.Retries == 0 {
		t.Error("no request was made again: nobody missed Kyverno")
	}
	if len(written.Results) != results || len(written.Policies) != policies {
		t.Errorf("there are %d results of %d policies, want %d of %d", len(written.Results), len(written.Policies), results, policies)
	}
	var failing []string
	for _, one := range written.Results {
		// Nothing is expected of the one that must not pass but that it is told.
		if one.Policy == wrong && one.Outcome == report.Wrong && one.Expected == example.Pass && one.Live.Verdict == example.Fail {
			failing = append(failing, one.ID)
		} else if one.Outcome != report.OK || one.Live.Verdict != one.Expected || one.Agreement != report.Agree {
			t.Errorf("%s is %s: expected %s, live %s, offline %s", one.ID, one.Outcome, one.Expected, one.Live, one.Offline)
		}
	}
	if len(failing) != 1 {
		t.Errorf("what is expected wrongly was told of %q, want one result", failing)
	}
	for _, p := range written.Policies {
		if p.Problem != "" || p.DenialProblem != "" || p.Denial == "" {
			t.Errorf("%s: problem %q, denial %q, %q", p, p.Problem, p.Denial, p.DenialProblem)
		}
	}
}

// kyvernoOf finds Kyverno's admission controller; none: its ID is 0.
func kyvernoOf(processes []process) process {
	for _, p := range processes {
		if filepath.Base(p.args[0]) == "kyverno" {
			return p
		}
	}
	return process{}
}

// servicesAsked is how many Services were sent to the API server in dry runs, which
// its metrics count; 0 before the session is ready.
func servicesAsked(t *testing.T, i inventory) int {
	t.Helper()
	var state bringup.BenchState
	if _, err := session.ReadState(filepath.Join(i.folder, "session.json"), &state); err != nil || state.Environment.Kubeconfig == "" {
		return 0
	}
	config, err := state.Environment.Config()
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(config.Host + "/metrics")
	if err != nil {
		t.Fatalf("ask the API server for its metrics: %v", err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("read the API server's metrics: %s, %v", response.Status, err)
	}
	total := 0
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, "apiserver_request_total{") && strings.Contains(line, `dry_run="All"`) && strings.Contains(line, `resource="services"`) {
			fields := strings.Fields(line)
			count, err := strconv.Atoi(fields[len(fields)-1])
			if err != nil {
				t.Fatalf("read the API server's metrics: %v", err)
			}
			total += count
		}
	}
	return total
}
