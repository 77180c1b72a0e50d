//go:build live && linux

package program_test

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// What was written down before something was killed is gone after it, and the
// next run of the same user is green.
func TestLiveKilled(t *testing.T) {
	u := newUser(t).withStore(t)

	step(t, "client while bringing up", func(t *testing.T) {
		r := u.e2e(t)
		before := r.reaches(t, "the middle of the bring-up", bringingUp)
		before.atWork(t)
		r.kill()
		await(t, "the end of the session by itself", func() string { return before.remains(t) })
		u.leavesNothing(t)
	})

	step(t, "supervisor while bringing up", func(t *testing.T) {
		r := u.e2e(t)
		before := r.reaches(t, "the middle of the bring-up", halfWay)
		before.atWork(t)
		killProcess(t, before.supervisor)
		report := r.ends(t, check.RunBroken)
		for _, part := range []string{"the supervisor of session " + before.id + " ended unexpectedly (signal: killed)", "what it left was removed", "ended "} {
			if !mentions(report.Problems, part) {
				t.Errorf("the report's problems do not say %q: %q", part, report.Problems)
			}
		}
		if left := before.remains(t); left != "" {
			t.Errorf("the client's end leaves %s", left)
		}
		u.leavesNothing(t)
	})

	var before inventory
	step(t, "both while judging", func(t *testing.T) {
		r := u.e2e(t)
		before = r.reaches(t, "the checks", judging)
		before.atWork(t)
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

	step(t, "the next run", func(t *testing.T) {
		r := u.e2e(t)
		r.reaches(t, "the start of the session", nil)
		if left := before.remains(t); left != "" {
			t.Errorf("the next run began, and left %s", left)
		}
		r.green(t)
		text := r.text(t)
		for _, part := range []string{"cleaned up after a session that was killed: session " + before.id, "ended ", "released the port blocks from ", "removed " + before.folder} {
			if !strings.Contains(text, part) {
				t.Errorf("the next run does not say %q:\n%s", part, text)
			}
		}
	})
}

// Ctrl-C ends a run in an orderly way: the report says that it did, and nothing
// is left.
func TestLiveInterrupted(t *testing.T) {
	for name, at := range map[string][]string{"while bringing up": bringingUp, "while judging": judging} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t).withStore(t)
			r := u.e2e(t)
			before := r.reaches(t, name, at)
			before.atWork(t)
			r.interrupt(t)
			report := r.ends(t, check.RunBroken)
			if !mentions(report.Problems, "interrupted by a signal (interrupt)") {
				t.Errorf("the report does not say that it was interrupted: %q", report.Problems)
			}
			if left := before.remains(t); left != "" {
				t.Errorf("the interrupted run leaves %s", left)
			}
			u.leavesNothing(t)
		})
	}
}

// Two sessions of one user at once are both green, and share no port.
func TestLiveTwoAtOnce(t *testing.T) {
	u := newUser(t).withStore(t)
	one, other := u.e2e(t), u.e2e(t)
	a := one.reaches(t, "the middle of the first bring-up", bringingUp)
	b := other.reaches(t, "the middle of the second bring-up", bringingUp)
	a.atWork(t)
	b.atWork(t)
	if a.id == b.id {
		t.Fatalf("both runs have the session %s", a.id)
	}
	for _, s := range a.sockets {
		if slices.ContainsFunc(b.sockets, func(o socket) bool { return o.port == s.port }) {
			t.Errorf("both sessions listen on port %d", s.port)
		}
	}
	for _, lease := range a.leases {
		if slices.Contains(b.leases, lease) {
			t.Errorf("both sessions hold the lease %s", lease)
		}
	}
	for _, p := range a.processes {
		if slices.ContainsFunc(b.processes, func(o process) bool { return o.pid == p.pid }) {
			t.Errorf("process %d %v belongs to both sessions", p.pid, p.args)
		}
	}
	for _, r := range []*run{one, other} {
		report := r.ends(t, check.RunPassed)
		judgedBut(t, report)
		t.Logf("green beside another in %.1f s", report.Seconds)
	}
	u.leavesNothing(t)
}

// Without a session «down» is a mistake of the user's, and says what mends it.
func TestLiveDownWithoutSession(t *testing.T) {
	r := &run{user: newUser(t), command: exec.Command(binary, "down")}
	r.start(t)
	if code := r.wait(t); code != check.RunInvalidInput.ExitCode() {
		t.Errorf("exit code %d, want %d", code, check.RunInvalidInput.ExitCode())
	}
	if want := session.ErrNoSession.Error() + ": bring one up with «make up»"; !strings.Contains(r.text(t), want) {
		t.Errorf("it says %q, want %q", r.text(t), want)
	}
}

// step runs a part of a test on which the later parts build.
func step(t *testing.T, name string, part func(*testing.T)) {
	t.Helper()
	if !t.Run(name, part) {
		t.FailNow()
	}
}

func mentions(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, part) })
}

func killProcess(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
}
