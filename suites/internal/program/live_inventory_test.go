//go:build live && linux

package program_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// inventory is what belongs to one session at a moment, seen from outside.
type inventory struct {
	id, folder string
	// supervisor and client are process IDs.
	supervisor, client int
	processes          []process
	sockets            []socket
	// leases are the files by which ports are leased.
	leases []string
}

func (i inventory) String() string {
	return fmt.Sprintf("session %s with %d processes, %d listening sockets, %d leases", i.id, len(i.processes), len(i.sockets), len(i.leases))
}

// runs says whether processes with all these names belong to the session. One of
// the program itself is named after its command.
func (i inventory) runs(names []string) bool {
	running := map[string]bool{}
	for _, p := range i.processes {
		running[filepath.Base(p.args[0])] = true
		if p.args[0] == binary && len(p.args) > 1 {
			running[p.args[1]] = true
		}
	}
	return !slices.ContainsFunc(names, func(name string) bool { return !running[name] })
}

// process is a process; its start tells it from a later one of the same ID.
type process struct {
	pid   int
	start string
	args  []string
}

// socket is one that is listened on; its inode tells it from a later one at the
// same port.
type socket struct {
	inode string
	ip    net.IP
	port  int
}

// sessions looks at the sessions of the user and their processes, not yet at what
// those hold.
func (u *user) sessions(t *testing.T) []inventory {
	t.Helper()
	var all []inventory
	for _, id := range list(t, filepath.Join(u.home, "sessions")) {
		folder := filepath.Join(u.home, "sessions", id)
		data, err := os.ReadFile(filepath.Join(folder, "session.json"))
		if err != nil {
			continue // no session's folder, or one that begins or ends just now
		}
		var state session.State
		if err := json.Unmarshal(data, &state); err != nil {
			t.Fatalf("read the session file of %s: %v", id, err)
		}
		i := inventory{id: id, folder: folder, supervisor: state.PID, client: state.Client}
		i.processes = processesOf(t, id, folder)
		all = append(all, i)
	}
	return all
}

// complete adds the listening sockets and the leases to a session's processes.
func (u *user) complete(t *testing.T, i inventory) inventory {
	t.Helper()
	i.sockets = socketsOf(t, i.processes)
	for _, name := range list(t, filepath.Join(u.home, "ports")) {
		if lease := filepath.Join(u.home, "ports", name); i.holdsLease(lease) {
			i.leases = append(i.leases, lease)
		}
	}
	return i
}

// holdsLease says whether the lease is the session's: a later one of the same user
// may get the same ports.
func (i inventory) holdsLease(path string) bool {
	holder, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(holder)) == i.id
}

// processesOf finds the processes of a session in three ways, for one that lost
// its marker must not go unseen: by the marker, by the session's folder in its
// arguments, and by its parent.
func processesOf(t *testing.T, id, folder string) []process {
	t.Helper()
	parents, all := map[int]int{}, map[int]process{}
	own := map[int]bool{}
	for _, name := range list(t, "/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		parent, start, ok := statOf(pid)
		arguments, err := os.ReadFile(procFile(pid, "cmdline"))
		if !ok || err != nil || len(arguments) == 0 {
			continue
		}
		environ, _ := os.ReadFile(procFile(pid, "environ")) // a stranger's may not be read
		p := process{pid: pid, start: start, args: strings.Split(strings.TrimRight(string(arguments), "\x00"), "\x00")}
		parents[pid], all[pid] = parent, p
		marked := slices.Contains(strings.Split(string(environ), "\x00"), session.MarkerVariable+"="+id)
		own[pid] = marked || strings.Contains(string(arguments), folder)
	}
	var found []process
	for pid, p := range all {
		for at := pid; at > 1; at = parents[at] {
			if own[at] {
				found = append(found, p)
				break
			}
		}
	}
	slices.SortFunc(found, func(a, b process) int { return a.pid - b.pid })
	return found
}

// statOf reads the parent and the start of a process that runs: proc_pid_stat(5).
func statOf(pid int) (parent int, start string, ok bool) {
	data, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, "", false
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const state, parentField, threads, startField = 0, 1, 17, 19 // numbered from 1, two are cut off
	if len(fields) <= startField || fields[state] == "X" || fields[state] == "Z" && fields[threads] == "1" {
		return 0, "", false // it has ended with all its threads; nobody has asked how yet
	}
	parent, err = strconv.Atoi(fields[parentField])
	return parent, fields[startField], err == nil
}

// socketsOf finds what the processes listen on.
func socketsOf(t *testing.T, processes []process) []socket {
	t.Helper()
	listening := listeningSockets(t)
	var found []socket
	for _, p := range processes {
		for _, name := range list(t, procFile(p.pid, "fd")) {
			link, err := os.Readlink(procFile(p.pid, "fd/"+name))
			if err != nil {
				continue // closed meanwhile
			}
			inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
			if s, ok := listening[inode]; ok && !slices.ContainsFunc(found, func(o socket) bool { return o.inode == inode }) {
				found = append(found, s)
			}
		}
	}
	return found
}

// listeningSockets maps inodes to the TCP sockets of this machine that are
// listened on: proc_net(5).
func listeningSockets(t *testing.T) map[string]socket {
	t.Helper()
	found := map[string]socket{}
	for _, name := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(filepath.Join("/proc/net", name))
		if os.IsNotExist(err) {
			continue // a machine without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			const local, state, inode = 1, 3, 9
			if len(fields) <= inode || fields[state] != "0A" {
				continue
			}
			host, port, _ := strings.Cut(fields[local], ":")
			number, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatalf("read /proc/net/%s: %v", name, err)
			}
			found[fields[inode]] = socket{inode: fields[inode], ip: hexIP(t, host), port: int(number)}
		}
	}
	return found
}

// hexIP reads an address as the kernel writes it: words of four bytes, each in
// the machine's order, which is little-endian wherever these tests run.
func hexIP(t *testing.T, text string) net.IP {
	t.Helper()
	var ip net.IP
	for at := 0; at+8 <= len(text); at += 8 {
		word, err := strconv.ParseUint(text[at:at+8], 16, 32)
		if err != nil {
			t.Fatalf("read the address %s: %v", text, err)
		}
		ip = append(ip, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	return ip
}

// remains says what of an inventory is still there; empty when nothing is.
func (i inventory) remains(t *testing.T) string {
	t.Helper()
	var left []string
	for _, p := range i.processes {
		if _, start, ok := statOf(p.pid); ok && start == p.start && p.pid != i.client {
			left = append(left, fmt.Sprintf("process %d %v", p.pid, p.args))
		}
	}
	listening := listeningSockets(t)
	for _, s := range i.sockets {
		if _, still := listening[s.inode]; still {
			left = append(left, fmt.Sprintf("a listener at %s port %d", s.ip, s.port))
		}
	}
	if _, err := os.Lstat(i.folder); !os.IsNotExist(err) {
		left = append(left, i.folder)
	}
	for _, lease := range i.leases {
		if i.holdsLease(lease) {
			left = append(left, lease)
		}
	}
	return strings.Join(left, "; ")
}

// atWork fails the test unless the inventory holds what a session is expected to
// have in its middle.
func (i inventory) atWork(t *testing.T) {
	t.Helper()
	// A control plane of four, KWOK, three of Flux, the supervisor.
	i.holds(t, 9, 8)
}

// holds fails the test unless the inventory holds at least as many processes and
// listening sockets, all of those on the loopback interface, and a lease.
func (i inventory) holds(t *testing.T, processes, sockets int) {
	t.Helper()
	t.Logf("written down: %s", i)
	if len(i.processes) < processes || len(i.sockets) < sockets || len(i.leases) == 0 || i.supervisor == i.client {
		t.Fatalf("the session is not in its middle: %s: %v", i, i.processes)
	}
	for _, s := range i.sockets {
		if !s.ip.IsLoopback() {
			t.Errorf("the session listens on %s port %d, which others than this machine reach", s.ip, s.port)
		}
	}
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
