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
	"syscall"
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

// What judges policies leaves nothing when it is killed, and a watch that comes after
// it shows what each save changes until Ctrl-C.
func TestLivePoliciesWatched(t *testing.T) {
	folder := t.TempDir()
	copyPolicies(t, filepath.Join(folder, "library"), "audits", "kinds")
	u := newUser(t).withStore(t)

	step(t, "client killed", func(t *testing.T) {
		own, err := filepath.Abs(filepath.Join(moduleRoot, "policies"))
		if err != nil {
			t.Fatal(err)
		}
		// As many policies as keep the CLI busy until the API server has started. It
		// runs below the client, not below the supervisor; the cluster listens to nobody
		// yet.
		r := u.beside(t, folder, "policies", own)
		before := r.reaches(t, "the offline verdicts", []string{"kube-apiserver", "kyverno-cli"})
		before.holds(t, 3, 0)
		r.kill()
		await(t, "the end of the session by itself", func() string { return before.remains(t) })
		u.leavesNothing(t)
	})

	var before inventory
	step(t, "supervisor and client killed", func(t *testing.T) {
		r := u.beside(t, folder, "policies", "library")
		before = r.reaches(t, "Kyverno", benchUp)
		before.holds(t, 6, 4)
		// Stopped first, so that neither sees the other's end.
		for _, pid := range []int{before.supervisor, before.client} {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		killProcess(t, before.supervisor)
		r.kill()
		<-r.done
		if before.remains(t) == "" {
			t.Fatal("nothing is left for the next run to find")
		}
	})

	step(t, "watch", func(t *testing.T) {
		r := u.beside(t, folder, "watch", "library")
		r.reaches(t, "the start of the session", nil)
		if left := before.remains(t); left != "" {
			t.Errorf("the next run began, and left %s", left)
		}
		r.shows(t, "cleaned up after a session that was killed: session "+before.id)
		r.shows(t, "all policies are well")
		r.shows(t, "Ctrl-C ends it")
		policy := filepath.Join(folder, "library/kinds/policy.yaml")
		right, err := os.ReadFile(policy)
		if err != nil {
			t.Fatal(err)
		}
		other := strings.Replace(string(right), "'owner' in", "'colour' in", 1)

		save(t, policy, other)
		r.shows(t, "after the save", "WRONG widget-owner", "expected pass, live fail, offline fail", "say who owns it",
			"1 of 2 policies are not well: ValidatingPolicy widget-owner (kinds/policy.yaml)")
		save(t, policy, strings.Replace(other, "spec:", "spec: [", 1))
		r.shows(t, "kinds/policy.yaml:", "the last state stays until the files can be read")
		// Another save does not make it right.
		save(t, filepath.Join(folder, "library/audits/README.md"), "It demands an owner.\n")
		r.shows(t, "kinds/policy.yaml:", "the last state stays until the files can be read")
		save(t, policy, other)
		r.shows(t, "the files can be read again", "1 of 2 policies are not well")
		save(t, policy, string(right))
		r.shows(t, "after the save", "widget-owner", "all policies are well")
		// One that the server cannot compile is a policy that is not well.
		save(t, policy, strings.Replace(string(right), "'owner' in", "'owner' of", 1))
		r.shows(t, "POLICY ValidatingPolicy widget-owner", "<input>:1:9", "1 of 2 policies are not well")
		save(t, policy, string(right))
		r.shows(t, "after the save", "all policies are well")

		now := r.reaches(t, "what runs at its end", benchUp)
		now.holds(t, 6, 4)
		r.interrupt(t)
		if code := r.wait(t); code != 0 {
			t.Errorf("Ctrl-C ends it with exit code %d, want 0:\n%s", code, r.text(t))
		}
		if left := now.remains(t); left != "" {
			t.Errorf("the interrupted watch leaves %s", left)
		}
		u.leavesNothing(t)
	})
}

// shows waits until the run has printed these parts, one behind the other, behind
// what it was seen to print before. Lines may be broken anywhere between words.
func (r *run) shows(t *testing.T, parts ...string) {
	t.Helper()
	await(t, fmt.Sprintf("%q", parts), func() string {
		rest := strings.Join(strings.Fields(r.text(t)), " ")
		if r.shown > len(rest) {
			return "less was printed than before"
		}
		at := r.shown
		for _, part := range parts {
			i := strings.Index(rest[at:], part)
			if i < 0 {
				select {
				case <-r.done:
					t.Fatalf("the run ended before it printed %q:\n%s", part, r.text(t))
				default:
				}
				return fmt.Sprintf("%q is missing; since then it printed:\n%s", part, rest[r.shown:])
			}
			at += i + len(part)
		}
		r.shown = at
		return ""
	})
}
