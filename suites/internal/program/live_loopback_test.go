//go:build live && linux

package program_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

const (
	// insideVariable tells the test program that it was started in a namespace, to
	// make it ready and then become the program that its arguments name.
	insideVariable = "FLUX_LIVE_INSIDE"
	// exitNamespace says that this did not succeed; no program of ours ends so.
	exitNamespace = 99
	// ordinary is the user in the namespace: not root, whoever runs the tests.
	ordinary = 1000
)

// canaries are one source of each scheme, on hosts that nobody answers for.
var canaries = []struct{ kind, name, url, spec, remedy string }{
	{"GitRepository", "canary-https", "https://git.canary.example/team/repository", "ref: {branch: main}", "map it under sources in CONFIG"},
	{"GitRepository", "canary-ssh", "ssh://git@git.canary.example/team/repository", "ref: {branch: main}\n  secretRef: {name: canary-ssh}", "map it under sources in CONFIG"},
	{"HelmRepository", "canary-helm", "https://charts.canary.example/stable", "", "map it under sources in CONFIG"},
	{"OCIRepository", "canary-oci", "oci://registry.canary.example/team/artifact", "ref: {tag: v1.0.0}", "OCI artifacts cannot be mapped yet; mark it upstream: true"},
}

// Where there is no network but the loopback interface the reference platform is
// green, for an ordinary user; and what it would fetch from outside is refused by
// name, without disturbing anything else.
func TestLiveLoopbackOnly(t *testing.T) {
	t.Run("the reference platform", func(t *testing.T) {
		report := confined(t).green(t)
		if len(report.RefusedRequests) > 0 {
			t.Errorf("requests were refused: %v", report.RefusedRequests)
		}
	})

	t.Run("a canary of each scheme", func(t *testing.T) {
		var manifest strings.Builder
		for _, c := range canaries {
			fmt.Fprintf(&manifest, "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: %s\nmetadata: {name: %s, namespace: flux-system}\nspec:\n  interval: 10m\n  url: %s\n", c.kind, c.name, c.url)
			if c.spec != "" {
				fmt.Fprintf(&manifest, "  %s\n", c.spec)
			}
		}
		platform := reference(t, map[string]func(string) string{
			"clusters/dev/canaries.yaml":      written(manifest.String()),
			"clusters/dev/kustomization.yaml": listed("canaries.yaml"),
			"clusters/prd/canaries.yaml":      written(manifest.String()),
			"clusters/prd/kustomization.yaml": listed("canaries.yaml"),
		})
		r := confined(t, "--platform", platform)
		report := r.ends(t, check.RunFailed)
		judgedBut(t, report, "BOOT-001")
		r.user.leavesNothing(t)
		t.Logf("refused in %.1f s", report.Seconds)

		status, err := os.ReadFile(filepath.Join(r.artifacts, "dev", "BOOT-001", "flux.txt"))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(report.Outcomes, func(o check.Outcome) bool { return o.Check == "BOOT-001" && o.Environment == "dev" })
		for _, c := range canaries {
			object := c.kind + " flux-system/" + c.name
			url := strings.Replace(c.url, "git@", "", 1)
			refusal := fmt.Sprintf("no local answer for URL %s (asked for by %s): %s", url, object, c.remedy)
			for where, text := range map[string]string{
				"Flux's own condition":    string(status),
				"the failure of BOOT-001": report.Outcomes[i].Found,
				"the report's notes":      strings.Join(report.Notes, "\n"),
			} {
				if !strings.Contains(text, refusal) {
					t.Errorf("%s does not say %q:\n%s", where, refusal, text)
				}
			}
			if !slices.ContainsFunc(report.RefusedRequests, func(q check.RefusedRequest) bool {
				return q.URL == url && q.Object == object
			}) {
				t.Errorf("the report's refused requests lack %s of %s: %v", c.url, object, report.RefusedRequests)
			}
		}
	})
}

// confined begins a run of the main job in namespaces of its own, where it is an
// ordinary user and has the loopback interface only.
func confined(t *testing.T, args ...string) *run {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	u := newUser(t).withStore(t)
	r := &run{user: u, artifacts: filepath.Join(t.TempDir(), "artifacts")}
	r.command = exec.Command(self, append([]string{binary, "e2e", "--environments", "dev", "--artifacts", r.artifacts}, args...)...)
	r.command.Env = []string{insideVariable + "=yes"}
	r.command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: ordinary, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: ordinary, HostID: os.Getgid(), Size: 1}},
		// Of all that the namespace's owner may do there, what raising its loopback
		// interface takes.
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
	}
	r.remedy = "; this test needs a user namespace and a network namespace, which the machine refuses: allow them " +
		"(user.max_user_namespaces, user.max_net_namespaces, kernel.apparmor_restrict_unprivileged_userns, a container's seccomp profile)"
	r.start(t)
	return r
}

// enterLoopback raises the loopback interface of the new namespace, makes sure
// that there is no other, gives the right to do so away, and becomes the program
// that args name. It returns only when that fails.
func enterLoopback(args []string) error {
	// Rights and the change into another program are a thread's own.
	runtime.LockOSThread()
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	if len(interfaces) != 1 || interfaces[0].Flags&net.FlagLoopback == 0 {
		return fmt.Errorf("there is more than the loopback interface: %v", interfaces)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give the rights away: %w", err)
	}
	if err := os.Unsetenv(insideVariable); err != nil {
		return err
	}
	return fmt.Errorf("become %s: %w", args[0], syscall.Exec(args[0], args, os.Environ()))
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_UP)
	return errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request), unix.Close(fd))
}
