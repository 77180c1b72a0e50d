//go:build live && linux

package program_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// The tests that begin with TestLiveKind make clusters with kind, on the Docker
// daemon that docker leads to; «make live PROVIDER=kind» runs them, and them alone.
// Others may use the daemon meanwhile.

// kindCheck is judged by their runs: of the quick ones the one that needs the whole
// platform.
const kindCheck = "BOOT-001"

// However a run ends, the daemon is afterwards as it was before, at the latest when
// the next run has begun; what somebody else has there stays.
func TestLiveKindEnds(t *testing.T) {
	u := newUser(t).withStore(t)
	before := dockerNow(t)

	step(t, "interrupted while the cluster comes up", func(t *testing.T) {
		r := u.kind(t)
		i, nodes := r.reachesNodes(t, "the node's control plane", "kubeadm init")
		kindAtWork(t, i, nodes)
		r.interrupt(t)
		report := r.ends(t, check.RunBroken)
		if !mentions(report.Problems, "interrupted by a signal (interrupt)") {
			t.Errorf("the report does not say that it was interrupted: %q", report.Problems)
		}
		if left := i.remains(t); left != "" {
			t.Errorf("the interrupted run leaves %s", left)
		}
		u.leavesNothing(t)
		before.again(t, "", i.id)
	})

	var killed, next inventory
	var nodes []node
	step(t, "killed while the platform comes up", func(t *testing.T) {
		r := u.kind(t)
		killed, nodes = r.reachesNodes(t, "Flux on the node", bringingUp...)
		kindAtWork(t, killed, nodes)
		// Stopped first, so that neither sees the other's end.
		for _, pid := range []int{killed.supervisor, killed.client} {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		killProcess(t, killed.supervisor)
		r.kill()
		<-r.done
		if left := nodesOf(t, killed.id); len(left) != len(nodes) || killed.remains(t) == "" {
			t.Fatalf("of the nodes %v only %v are left for the next run to find, and %q", nodes, left, killed.remains(t))
		}
	})

	step(t, "the next run, beside somebody else's", func(t *testing.T) {
		somebodys := foreignNode(t, nodes[0])
		r := u.kind(t)
		next = r.reaches(t, "the start of the session", nil)
		report := r.ends(t, check.RunPassed)
		judged(t, report, kindCheck, "dev", "")
		u.leavesNothing(t)
		if left := killed.remains(t); left != "" {
			t.Errorf("after the next run there is still %s", left)
		}
		text := r.text(t)
		for _, part := range []string{
			"cleaned up after a session that was killed: session " + killed.id,
			"removed the containers " + nodes[0].name, " with their volumes", "the Docker network " + network(killed.id),
			"released the port blocks from ", "removed " + killed.folder,
		} {
			if !strings.Contains(text, part) {
				t.Errorf("the next run does not say %q:\n%s", part, text)
			}
		}
		before.again(t, somebodys, killed.id, next.id)
		if found := docker(t, "ps", "--all", "--no-trunc", "--quiet", "--filter", "label="+clusterLabel+"="+nodes[0].cluster); found != somebodys {
			t.Errorf("of somebody else's cluster of the same name the containers are %q, want %s", found, somebodys)
		}
		t.Logf("green in %.1f s", report.Seconds)
	})
	before.again(t, "", killed.id, next.id)
}

// kind begins a run of the main job in dev, on kind.
func (u *user) kind(t *testing.T, args ...string) *run {
	t.Helper()
	return u.e2e(t, append([]string{"--provider", "kind", "--checks", kindCheck}, args...)...)
}

// docker runs the docker program, and returns what it prints.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.Command("docker", args...)
	var said strings.Builder
	command.Stderr = &said
	output, err := command.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s; these tests need a Docker daemon: start it, or let DOCKER_HOST or «docker context use» lead to one",
			strings.Join(args, " "), err, &said)
	}
	return strings.TrimSpace(string(output))
}

// clusterLabel is that by which kind knows the containers of a cluster.
const clusterLabel = "io.x-k8s.kind.cluster"

// network is what a session's network is called; its nodes' names begin so too.
func network(id string) string { return "fpc-" + id }

// node is a container of a session's cluster.
type node struct {
	id, name, cluster, image string
}

func (n node) String() string { return n.name }

// nodesOf lists a session's containers, whatever their state.
func nodesOf(t *testing.T, id string) []node {
	t.Helper()
	var found []node
	printed := docker(t, "ps", "--all", "--no-trunc", "--filter", "name=^"+network(id)+"-", "--format", "{{.ID}}\t{{.Names}}\t{{.Label \""+clusterLabel+"\"}}\t{{.Image}}")
	for line := range strings.Lines(printed) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		found = append(found, node{id: fields[0], name: fields[1], cluster: fields[2], image: fields[3]})
	}
	return found
}

// reachesNodes waits until programs with all these words in their command lines run
// on one node of this run's session.
func (r *run) reachesNodes(t *testing.T, what string, words ...string) (inventory, []node) {
	t.Helper()
	i := r.reaches(t, "the start of the session", nil)
	var nodes []node
	await(t, what, func() string {
		select {
		case <-r.done:
			t.Fatalf("the run ended before %s:\n%s", what, r.text(t))
		default:
		}
		nodes = nodesOf(t, i.id)
		for _, n := range nodes {
			// It may not have started yet.
			processes, _ := exec.Command("docker", "top", n.id, "-eo", "pid,args").Output()
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(processes), word) }) {
				return ""
			}
		}
		return fmt.Sprintf("the session's nodes are %v; the run printed:\n%s", nodes, r.text(t))
	})
	for _, all := range r.user.sessions(t) {
		if all.id == i.id {
			i = r.user.complete(t, all)
		}
	}
	return i, nodes
}

// kindAtWork fails the test unless the session has what one on kind is expected to
// have in its middle, and listens where only this machine and its nodes reach it.
func kindAtWork(t *testing.T, i inventory, nodes []node) {
	t.Helper()
	t.Logf("written down: %s; nodes %v", i, nodes)
	gateway := docker(t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", network(i.id))
	if i.supervisor == i.client || len(i.processes) == 0 || len(i.leases) == 0 || len(nodes) != 1 {
		t.Fatalf("the session is not in its middle: %s: %v; nodes %v", i, i.processes, nodes)
	}
	if volumes := docker(t, "container", "inspect", "--format", `{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}`, nodes[0].id); volumes == "" {
		t.Errorf("the node %s has no volume, so that none could be left", nodes[0])
	}
	atGateway := false
	for _, s := range i.sockets {
		atGateway = atGateway || s.ip.String() == gateway
		if !s.ip.IsLoopback() && s.ip.String() != gateway {
			t.Errorf("the session listens on %s port %d, which others than this machine and its nodes reach", s.ip, s.port)
		}
	}
	if !atGateway {
		t.Errorf("the session listens nowhere at its network's gateway %s: %v", gateway, i.sockets)
	}
}

// foreignNode makes a container of somebody else's cluster that has the very name of
// a node's, on the daemon's own network, until the test ends. It returns its ID.
func foreignNode(t *testing.T, of node) string {
	t.Helper()
	id := docker(t, "container", "create", "--label", clusterLabel+"="+of.cluster, "--label", "io.x-k8s.kind.role=control-plane", "--entrypoint", "sleep", of.image, "infinity")
	t.Cleanup(func() { docker(t, "container", "rm", "--force", "--volumes", id) })
	return id
}

// daemon is what a Docker daemon has: a line for each container, network, image,
// and volume that no container uses.
type daemon []string

// ofSession is the name of what a session makes on a daemon.
var ofSession = regexp.MustCompile(`\bfpc-[0-9]{8}-[0-9]{6}-[0-9a-f]+`)

// keptImage is the name of what sessions leave for each other.
const keptImage = "flux-platform-conformance/node:"

// dockerNow looks at the daemon, and passes over the sessions of others.
func dockerNow(t *testing.T, own ...string) daemon {
	t.Helper()
	var found daemon
	for _, args := range [][]string{
		{"ps", "--all", "--no-trunc", "--format", "container {{.ID}} {{.Names}}"},
		{"network", "ls", "--no-trunc", "--format", "network {{.ID}} {{.Name}}"},
		{"volume", "ls", "--filter", "dangling=true", "--format", "volume {{.Name}} {{.Labels}}"},
		{"image", "ls", "--all", "--no-trunc", "--format", "image {{.ID}} {{.Repository}}:{{.Tag}}"},
	} {
		for line := range strings.Lines(docker(t, args...)) {
			name := ofSession.FindString(line)
			others := name != "" && !slices.ContainsFunc(own, func(id string) bool { return name == network(id) })
			if !others && !strings.Contains(line, keptImage) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

// again fails the test unless the daemon has what it had before the sessions with
// these IDs, and besides only the container that is named, if any. What others do
// there passes, therefore it waits.
func (d daemon) again(t *testing.T, container string, own ...string) {
	t.Helper()
	await(t, "the daemon as it was before", func() string {
		now := dockerNow(t, own...)
		var differs []string
		for _, line := range now {
			if !slices.Contains(d, line) && (container == "" || !strings.HasPrefix(line, "container "+container+" ")) {
				differs = append(differs, "there is a new "+line)
			}
		}
		for _, line := range d {
			if !slices.Contains(now, line) {
				differs = append(differs, "gone is "+line)
			}
		}
		return strings.Join(differs, "; ")
	})
}
