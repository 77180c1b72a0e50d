package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	. "github.com/onsi/gomega"
)

// newSession makes a session in this process, that ends with the test.
func newSession(t *testing.T, root string) *Session {
	t.Helper()
	s, err := New(t.Context(), root)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		if _, err := os.Stat(s.Dir()); err == nil {
			if _, err := s.Remove(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("remove session %s: %v", s.ID(), err)
			}
		}
	})
	return s
}

// abandon lets go of the session as a killed process would; this one is not dead.
func abandon(g Gomega, s *Session) {
	g.Expect(s.Record(EntryOwner, owner{PID: os.Getpid(), Started: "1"})).To(Succeed())
	g.Expect(s.ledger.Close()).To(Succeed())
	g.Expect(s.lock.Close()).To(Succeed())
}

// startSleeper starts a process that carries what is given in its environment.
func startSleeper(t *testing.T, role string, env ...string) *exec.Cmd {
	t.Helper()
	g := NewWithT(t)
	command := play(context.WithoutCancel(t.Context()), role, "", env...)
	stdout, err := command.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(command.Start()).To(Succeed())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	if role == roleDeafSleeper {
		_, err := io.ReadAtLeast(stdout, make([]byte, 4), 4)
		g.Expect(err).NotTo(HaveOccurred())
	}
	return command
}

func modeOf(path string) (os.FileMode, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Mode().Perm(), nil
}

func TestRoot(t *testing.T) {
	g := NewWithT(t)
	wanted := filepath.Join(t.TempDir(), "deep", "down")
	t.Setenv(HomeVariable, wanted)
	g.Expect(Root()).To(Equal(wanted))
	g.Expect(modeOf(wanted)).To(Equal(os.FileMode(0o700)))
	g.Expect(os.ReadDir(wanted)).To(BeEmpty())

	file := filepath.Join(t.TempDir(), "file")
	g.Expect(os.WriteFile(file, nil, 0o600)).To(Succeed())
	t.Setenv(HomeVariable, file)
	_, err := Root()
	g.Expect(err).To(MatchError(And(ContainSubstring(file), ContainSubstring("not a folder"), ContainSubstring(HomeVariable))))
}

func TestExplainSaysHowToMend(t *testing.T) {
	for _, row := range []struct {
		err  error
		want string
	}{
		{syscall.ENOSPC, "free some space"},
		{syscall.EDQUOT, "free some space"},
		{syscall.EROFS, "read-only"},
		{syscall.EACCES, "mend the folder's owner and mode"},
	} {
		wrapped := &os.PathError{Op: "write", Path: "/somewhere", Err: row.err}
		NewWithT(t).Expect(explain(wrapped)).To(MatchError(And(
			ContainSubstring("/somewhere"), ContainSubstring(row.want), ContainSubstring(HomeVariable))))
	}
	other := errors.New("other")
	NewWithT(t).Expect(explain(other)).To(Equal(other))
}

func TestNewWritesTheOwnerDownFirst(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s := newSession(t, root)
	g.Expect(s.ID()).To(MatchRegexp(`^\d{8}-\d{6}-[0-9a-f]{6}$`))
	g.Expect(s.Marker()).To(Equal("FLUX_CONFORMANCE_SESSION=" + s.ID()))
	g.Expect(s.Record("container", map[string]string{"name": "node"})).To(Succeed())

	entries, err := ReadLedger(s.Dir())

	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(entries).To(HaveExactElements(
		HaveField("Kind", EntryOwner),
		And(HaveField("Kind", "container"), HaveField("Detail", MatchJSON(`{"name":"node"}`)))))
	holder, found := readOwner(s.Dir())
	g.Expect(found).To(BeTrue())
	g.Expect(holder.PID).To(Equal(os.Getpid()))
	g.Expect(isAlive(t.Context(), holder)).To(BeTrue())
	_, err = s.Folder("../elsewhere")
	g.Expect(err).To(MatchError(ContainSubstring("leads out of it")))
}

func TestLedgerPassesOverATornLine(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s := newSession(t, root)
	_, err := s.ledger.WriteString(`{"kind":"owner","detail":{"pi`)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ReadLedger(s.Dir())).To(HaveLen(1))
}

func TestStateIsReplacedWhole(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s := newSession(t, root)
	path := filepath.Join(s.Dir(), stateName)
	done := make(chan error, 1)
	go func() {
		for i := range 200 {
			if err := s.WriteState(payload{Ports: []int{i}, Folder: strings.Repeat("x", i)}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for running := true; running; {
		var got payload
		_, err := ReadState(path, &got)
		g.Expect(err).NotTo(HaveOccurred())
		select {
		case err := <-done:
			g.Expect(err).NotTo(HaveOccurred())
			running = false
		default:
		}
	}
	var got payload
	state, err := ReadState(path, &got)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.Ports).To(Equal([]int{199}))
	g.Expect(state).To(And(HaveField("ID", s.ID()), HaveField("PID", os.Getpid())))
	g.Expect(os.WriteFile(path, []byte("{"), 0o600)).To(Succeed())
	_, err = ReadState(path, nil)
	g.Expect(err).To(MatchError(ContainSubstring(path)))
}

func TestReapFindsProcessesByTheirMarkerOnly(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s, other := newSession(t, root), newSession(t, root)
	// A stranger has the process ID that the ledger names, as after a reuse.
	stranger := startSleeper(t, roleSleeper)
	g.Expect(s.Record(EntryOwner, owner{PID: stranger.Process.Pid, Started: "1"})).To(Succeed())
	others := startSleeper(t, roleSleeper, other.Marker())
	longer := startSleeper(t, roleSleeper, s.Marker()+"0", "X"+s.Marker())
	own := startSleeper(t, roleSleeper, s.Marker())
	deaf := startSleeper(t, roleDeafSleeper, s.Marker())
	want := []int{own.Process.Pid, deaf.Process.Pid}
	slices.Sort(want)
	abandon(g, s)

	removal, err := Reap(t.Context(), root, s.ID())

	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(removal.Processes).To(HaveExactElements(HaveField("PID", want[0]), HaveField("PID", want[1])))
	g.Expect(s.Dir()).NotTo(BeADirectory())
	for _, gone := range want {
		_, err := startOf(t.Context(), gone)
		g.Expect(err).To(MatchError(os.ErrNotExist))
	}
	for _, left := range []*exec.Cmd{stranger, others, longer} {
		_, err := startOf(t.Context(), left.Process.Pid)
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Expect(Find(t.Context(), root)).To(HaveExactElements(HaveField("ID", other.ID())))
}

func TestStopDoesNotSignalAStranger(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s := newSession(t, root)
	stranger := startSleeper(t, roleSleeper)
	holder := owner{PID: stranger.Process.Pid, Started: "1"}
	g.Expect(signalOwner(t.Context(), holder, syscall.SIGKILL)).To(Succeed())
	g.Expect(signalMarked(t.Context(), stranger.Process.Pid, s.ID(), syscall.SIGKILL)).To(Succeed())
	started, err := startOf(t.Context(), stranger.Process.Pid)
	g.Expect(err).NotTo(HaveOccurred())

	// The very same process, rightly named, is signalled.
	holder.Started = started
	g.Expect(signalOwner(t.Context(), holder, syscall.SIGKILL)).To(Succeed())
	g.Eventually(func() error {
		_, err := startOf(t.Context(), stranger.Process.Pid)
		return err
	}).WithTimeout(patience).Should(MatchError(os.ErrNotExist))
}

func TestReapRefusesWhatIsNoSession(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	for _, id := range []string{"", "..", "../../store", "20261123-070501-AB12CD"} {
		_, err := Reap(t.Context(), root, id)
		g.Expect(err).To(MatchError(ContainSubstring("not the ID of a session")))
		g.Expect(Stop(t.Context(), root, id)).To(MatchError(ContainSubstring("not the ID of a session")))
	}
	g.Expect(Reap(t.Context(), root, "20261123-070501-ab12cd")).To(BeZero())
}

func TestReapersAreSafeBesideEachOther(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s := newSession(t, root)
	startSleeper(t, roleSleeper, s.Marker())
	_, err := s.Port()
	g.Expect(err).NotTo(HaveOccurred())
	abandon(g, s)

	removals := make([]Removal, 8)
	var group sync.WaitGroup
	for i := range removals {
		group.Go(func() {
			var err error
			removals[i], err = Reap(t.Context(), root, s.ID())
			if err != nil {
				t.Errorf("reap: %v", err)
			}
		})
	}
	group.Wait()

	done := slices.DeleteFunc(removals, func(r Removal) bool { return r.ID == "" })
	g.Expect(done).To(HaveExactElements(And(HaveField("Processes", HaveLen(1)), HaveField("Ports", HaveLen(1)))))
}

func TestNewIsSafeBesideReapers(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for ctx.Err() == nil {
				if _, err := ReapStale(context.WithoutCancel(ctx), root); err != nil {
					t.Errorf("reap: %v", err)
				}
			}
		})
	}
	for range 20 {
		s, err := New(t.Context(), root)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.Dir()).To(BeADirectory())
		_, err = s.Remove(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.Dir()).NotTo(BeADirectory())
	}
	cancel()
	group.Wait()
}

func TestReapStaleFinishesWhatWasCutShort(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	id := "20261123-070501-ab12cd"
	// Killed before the lock was there; and between the two steps of the removal.
	g.Expect(os.MkdirAll(sessionDir(root, id), 0o700)).To(Succeed())
	g.Expect(os.MkdirAll(sessionDir(root, removedPrefix+"20261123-070501-ffffff"), 0o700)).To(Succeed())
	g.Expect(os.MkdirAll(filepath.Join(root, portsName), 0o700)).To(Succeed())
	g.Expect(os.WriteFile(leasePath(root, lowestPort), nil, 0o600)).To(Succeed())
	foreign := filepath.Join(root, sessionsName, "notes")
	g.Expect(os.MkdirAll(foreign, 0o700)).To(Succeed())

	g.Expect(ReapStale(t.Context(), root)).To(HaveExactElements(HaveField("ID", id)))

	g.Expect(os.ReadDir(filepath.Join(root, sessionsName))).To(HaveExactElements(HaveField("Name()", lockName), HaveField("Name()", "notes")))
	g.Expect(leasePath(root, lowestPort)).NotTo(BeAnExistingFile())
}

func TestAFolderThatCannotBeRemovedIsAnError(t *testing.T) {
	g := NewWithT(t)
	// Not the test's own folder: an ordinary user must be able to get there.
	root, err := os.MkdirTemp("", "session-")
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if os.Geteuid() == 0 {
		g.Expect(os.Chown(root, nobody, nobody)).To(Succeed())
	}
	process := start(t, root, roleNobody, "")
	said := map[string]string{}
	process.next(g, &said)
	g.Expect(process.wait(g)).To(BeZero())
	g.Expect(said).To(And(
		HaveKeyWithValue("remove", And(ContainSubstring("remove the folder of session "+said["id"]), ContainSubstring("permission denied"), ContainSubstring("owner and mode"))),
		HaveKeyWithValue("new", And(ContainSubstring("make the folder of session"), ContainSubstring("owner and mode"))),
		HaveKeyWithValue("root", And(ContainSubstring("write to the state root"), ContainSubstring("owner and mode")))))

	// It stays written down, and the next run finds it.
	g.Expect(ReadLedger(sessionDir(root, said["id"]))).NotTo(BeEmpty())
	g.Expect(ReapStale(t.Context(), root)).To(HaveExactElements(HaveField("ID", said["id"])))
	g.Expect(sessionDir(root, said["id"])).NotTo(BeADirectory())
}

func TestPortsAreNeverGivenTwice(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	sessions := []*Session{newSession(t, root), newSession(t, root)}
	processes := []*started{}
	for range 2 {
		process := start(t, root, rolePorts, "")
		processes = append(processes, process)
	}
	var mutex sync.Mutex
	given := map[int]bool{}
	give := func(port int) {
		mutex.Lock()
		defer mutex.Unlock()
		if given[port] || port < lowestPort || port > highestPort {
			t.Errorf("port %d was given already, or is out of range", port)
		}
		given[port] = true
	}
	var group sync.WaitGroup
	for _, s := range sessions {
		for range 4 {
			group.Go(func() {
				for range blockSize {
					port, err := s.Port()
					if err != nil {
						t.Errorf("port: %v", err)
					}
					give(port)
				}
			})
		}
	}
	group.Wait()
	for _, process := range processes {
		var ports []int
		process.next(g, &ports)
		for _, port := range ports {
			give(port)
		}
	}
	g.Expect(given).To(HaveLen(2*4*blockSize + 2*3*blockSize))
	for _, process := range processes {
		g.Expect(process.input.Close()).To(Succeed())
		g.Expect(process.wait(g)).To(BeZero())
	}
}

func TestPortPassesOverAStranger(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s := newSession(t, root)
	first, err := s.Port()
	g.Expect(err).NotTo(HaveOccurred())
	next := first + 1
	for !isFreePort(next) {
		next++
	}
	stranger, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: next})
	g.Expect(err).NotTo(HaveOccurred())
	defer stranger.Close()
	g.Expect(s.Port()).To(BeNumerically(">", next))
}

func TestLeases(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	s, live := newSession(t, root), newSession(t, root)
	dead := newSession(t, root)
	abandon(g, dead)
	lease := func(i int, holder string) string {
		path := leasePath(root, lowestPort+i*blockSize)
		g.Expect(os.WriteFile(path, []byte(holder), 0o600)).To(Succeed())
		return path
	}
	g.Expect(os.MkdirAll(filepath.Join(root, portsName), 0o700)).To(Succeed())
	for i := range blockCount {
		lease(i, live.ID()+"\n")
	}
	_, err := s.Port()
	g.Expect(err).To(MatchError(And(
		ContainSubstring("all 187 blocks of 64 ports"), ContainSubstring(live.ID()), ContainSubstring("make down"))))

	for name, holder := range map[string]string{
		"a session that has no folder": "20261123-070501-ab12cd\n",
		"a session that has ended":     dead.ID() + "\n",
		"a writer that was killed":     "",
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			path := lease(17, holder)
			s.nextPort = s.endPort
			port, err := s.Port()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(port).To(And(BeNumerically(">=", lowestPort+17*blockSize), BeNumerically("<", lowestPort+18*blockSize)))
			g.Expect(os.ReadFile(path)).To(Equal([]byte(s.ID() + "\n")))
		})
	}
	g.Expect(leasedPorts(s.Dir())).To(ContainElement(lowestPort + 17*blockSize))
	g.Expect(releaseBlocks(root, s.ID())).To(Equal([]int{lowestPort + 17*blockSize}))
	g.Expect(releaseBlocks(root, live.ID())).To(HaveLen(blockCount - 1))
	_, err = Reap(t.Context(), root, dead.ID())
	g.Expect(err).NotTo(HaveOccurred())
}

func TestRemovalString(t *testing.T) {
	for want, removal := range map[string]Removal{
		"nothing was left":            {},
		"session x: nothing was left": {ID: "x"},
		"session x: ended 2 processes: 7 (etcd --a), 8 (kwok); released the port blocks from 20000 20064; removed /s/x": {
			ID: "x", Processes: []Process{{7, "etcd --a"}, {8, "kwok"}}, Ports: []int{20000, 20064}, Folder: "/s/x",
		},
	} {
		NewWithT(t).Expect(fmt.Sprint(removal)).To(Equal(want))
	}
	long := Process{PID: 9, Command: strings.Repeat("é", 80)}
	NewWithT(t).Expect(long.String()).To(Equal("9 (" + strings.Repeat("é", 40) + "…)"))
}

func TestEventsAreNeverWaitedFor(t *testing.T) {
	g := NewWithT(t)
	reader, writer, err := os.Pipe()
	g.Expect(err).NotTo(HaveOccurred())
	defer reader.Close()
	defer writer.Close()
	// Nobody reads: the pipe is full long before the last event.
	queue := newEventQueue(io.Discard, writer)
	for range 5000 {
		queue.put(Event{Kind: "phase", Message: strings.Repeat("x", 100)})
	}
	queue.close(pollInterval)
	queue.put(Event{Kind: "late"})
	// The reader is gone: what is left is dropped.
	g.Expect(reader.Close()).To(Succeed())
	g.Eventually(queue.drained).WithTimeout(patience).Should(BeClosed())
}
