package session

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// The test binary plays all the processes of a session: which one, the environment
// says.
const (
	roleVariable = "SESSION_TEST_ROLE"
	modeVariable = "SESSION_TEST_MODE"

	roleClient      = "client"
	roleSupervisor  = "supervisor"
	roleSleeper     = "sleeper"
	roleDeafSleeper = "deaf-sleeper"
	roleSpawner     = "spawner"
	rolePorts       = "ports"
	roleNobody      = "nobody"

	// Modes of the supervisor; kept is the client's as well.
	modeKept    = "kept"
	modeFail    = "fail"
	modePanic   = "panic"
	modeCrash   = "crash"
	modeEarly   = "early"
	modePending = "pending"
	modeDeaf    = "deaf"
	modeStuck   = "stuck"
)

// patience is how long the tests wait for what is to happen.
const patience = time.Minute

func TestMain(m *testing.M) {
	roles := map[string]func(mode string) error{
		roleClient:      playClient,
		roleSupervisor:  playSupervisor,
		roleSleeper:     playSleeper,
		roleDeafSleeper: playDeafSleeper,
		roleSpawner:     playSpawner,
		rolePorts:       playPorts,
		roleNobody:      playNobody,
	}
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](os.Getenv(modeVariable)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// payload is what the supervisor of the tests writes down about what it started.
type payload struct {
	Pids   []int  `json:"pids"`
	Ports  []int  `json:"ports"`
	Folder string `json:"folder"`
}

// report is a line that a client prints.
type report struct {
	ID    string `json:"id"`
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"`
}

// playClient brings a session up, and ends it at a signal; a kept one it leaves.
func playClient(mode string) error {
	soft, hard, release := Interrupts(context.Background(), nil)
	defer release()
	root, err := Root()
	if err != nil {
		return err
	}
	supervisor, err := Start(soft, StartOptions{
		Root:    root,
		Env:     append(os.Environ(), roleVariable+"="+roleSupervisor),
		Keep:    mode == modeKept,
		LogFile: os.Getenv("SESSION_TEST_LOG"),
	})
	if err != nil {
		return err
	}
	say := json.NewEncoder(os.Stdout)
	if err := say.Encode(report{ID: supervisor.ID()}); err != nil {
		return err
	}
	if err := supervisor.WaitReady(soft); err == nil {
		if err := say.Encode(report{ID: supervisor.ID(), Ready: true}); err != nil {
			return err
		}
		if mode == modeKept {
			return nil
		}
	}
	select {
	case <-soft.Done():
	case <-supervisor.Done():
	}
	err = supervisor.Stop(hard)
	last := report{ID: supervisor.ID()}
	if err != nil {
		last.Error = err.Error()
	}
	return say.Encode(last)
}

func playSupervisor(mode string) error {
	options := ServeOptions{}
	if mode == modeDeaf {
		options.Grace = pollInterval
	}
	return Serve(context.Background(), options, func(ctx context.Context, s *Session, emit func(Event)) error {
		written, err := startThings(ctx, s)
		if err != nil {
			return err
		}
		if err := s.WriteState(written); err != nil {
			return err
		}
		switch mode {
		case modeFail:
			return errors.New("the cluster is on fire")
		case modePanic:
			panic("the cluster is on fire")
		case modeCrash:
			go func() { panic("the cluster is on fire") }()
			<-make(chan struct{})
		case modeEarly:
			return nil
		case modePending:
			<-ctx.Done()
			return errors.New("what a bring-up says that was broken off")
		}
		emit(Event{Kind: KindReady})
		<-ctx.Done()
		if mode == modeDeaf || mode == modeStuck {
			<-make(chan struct{})
		}
		return ctx.Err()
	})
}

// startThings starts what a session may have: a child, one that does not heed
// SIGTERM, a detached grandchild whose parent has ended, ports that they listen on
// and a folder. It ends none of them: that is the session's task.
func startThings(ctx context.Context, s *Session) (payload, error) {
	folder, err := s.Folder("work")
	if err != nil {
		return payload{}, err
	}
	if err := os.WriteFile(filepath.Join(folder, "data"), []byte("data"), 0o400); err != nil {
		return payload{}, err
	}
	if err := os.Chmod(folder, 0o500); err != nil {
		return payload{}, err
	}
	written := payload{Folder: folder}
	for _, role := range []string{roleSleeper, roleSpawner} {
		port, err := s.Port()
		if err != nil {
			return payload{}, err
		}
		written.Ports = append(written.Ports, port)
		if err := s.Record("process", role); err != nil {
			return payload{}, err
		}
		command := play(context.WithoutCancel(ctx), role, "")
		if err := command.Start(); err != nil {
			return payload{}, err
		}
		if role == roleSpawner {
			if err := command.Wait(); err != nil {
				return payload{}, err
			}
		}
	}
	// The client's view of the session's processes has this one in it as well.
	written.Pids = []int{os.Getpid()}
	for len(written.Pids) < 3 {
		processes, err := Processes(ctx, s.ID())
		if err != nil {
			return payload{}, err
		}
		written.Pids = []int{os.Getpid()}
		for _, process := range processes {
			written.Pids = append(written.Pids, process.PID)
		}
		if ctx.Err() != nil {
			return payload{}, ctx.Err()
		}
	}
	return written, nil
}

// playSleeper blocks until it is ended.
func playSleeper(string) error {
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR2)
	<-never
	return nil
}

func playDeafSleeper(string) error {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("deaf")
	return playSleeper("")
}

// playSpawner starts a process in a session of the system of its own, and ends.
func playSpawner(string) error {
	command := play(context.Background(), roleSleeper, "")
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return command.Start()
}

// playPorts allocates ports, prints them, and waits for the end of its input.
func playPorts(string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := New(ctx, root)
	if err != nil {
		return err
	}
	ports := make([]int, 3*blockSize)
	for i := range ports {
		if ports[i], err = s.Port(); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		return err
	}
	bufio.NewScanner(os.Stdin).Scan()
	_, err = s.Remove(ctx)
	return err
}

// playNobody makes a session that it cannot remove, and prints what it is told: as
// an ordinary user, since root may remove anything.
func playNobody(string) error {
	if os.Geteuid() == 0 {
		if err := errors.Join(syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			return err
		}
	}
	ctx := context.Background()
	root, err := Root()
	if err != nil {
		return err
	}
	s, err := New(ctx, root)
	if err != nil {
		return err
	}
	sessions := filepath.Dir(s.Dir())
	if err := os.Chmod(sessions, 0o500); err != nil {
		return err
	}
	_, removeErr := s.Remove(ctx)
	_, newErr := New(ctx, root)
	if err := os.Chmod(root, 0o500); err != nil {
		return err
	}
	_, rootErr := Root()
	if err := errors.Join(os.Chmod(root, 0o700), os.Chmod(sessions, 0o700)); err != nil {
		return err
	}
	said := map[string]string{
		"id": s.ID(), "remove": fmt.Sprint(removeErr), "new": fmt.Sprint(newErr), "root": fmt.Sprint(rootErr),
	}
	return json.NewEncoder(os.Stdout).Encode(said)
}

const nobody = 65534

// play makes the command for another process of the test binary.
func play(ctx context.Context, role, mode string, env ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, os.Args[0])
	command.Env = append(os.Environ(), roleVariable+"="+role, modeVariable+"="+mode)
	command.Env = append(command.Env, env...)
	return command
}

// started is a process that a test started, and the lines that it prints.
type started struct {
	*exec.Cmd
	lines *bufio.Scanner
	input io.WriteCloser
	ended chan struct{}
}

// start starts a process of the test binary below the state root, and ends it with
// the test.
func start(t *testing.T, root, role, mode string, env ...string) *started {
	t.Helper()
	g := NewWithT(t)
	p := &started{Cmd: play(context.WithoutCancel(t.Context()), role, mode, append(env, HomeVariable+"="+root)...)}
	stdout, stdoutEnd, err := os.Pipe()
	g.Expect(err).NotTo(HaveOccurred())
	p.Stdout, p.Stderr = stdoutEnd, os.Stderr
	p.lines = bufio.NewScanner(stdout)
	p.lines.Buffer(nil, 1<<20)
	p.input, err = p.StdinPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Start()).To(Succeed())
	g.Expect(stdoutEnd.Close()).To(Succeed())
	p.ended = make(chan struct{})
	go func() {
		defer close(p.ended)
		_ = p.Wait() // How it ended is in ProcessState.
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.ended
		_ = stdout.Close()
	})
	return p
}

// next reads the next line that the process prints into the value.
func (p *started) next(g Gomega, value any) {
	g.Expect(p.lines.Scan()).To(BeTrue(), "the process ended without saying more")
	g.Expect(json.Unmarshal(p.lines.Bytes(), value)).To(Succeed(), p.lines.Text())
}

// wait waits for the end of the process, and returns its exit status.
func (p *started) wait(g Gomega) int {
	g.Eventually(p.ended).WithTimeout(patience).Should(BeClosed())
	return p.ProcessState.ExitCode()
}

// newRoot makes a state root whose sessions end with the test, whatever happens.
func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	t.Setenv(HomeVariable, root)
	t.Cleanup(func() {
		removals, err := clean(context.WithoutCancel(t.Context()), root, time.Second)
		if err != nil {
			t.Errorf("clean up after the test: %v", err)
		}
		if !t.Failed() && len(removals) > 0 {
			t.Errorf("the test left something behind: %v", removals)
		}
	})
	return root
}

// remains is what a session had before its end, written down.
type remains struct {
	State
	payload
	owners map[int]string
	blocks []int
}

// writeDown notes all that the session has, and proves that it is there.
func writeDown(t *testing.T, g Gomega, root, id string) remains {
	t.Helper()
	var r remains
	var err error
	g.Eventually(func() (payload, error) {
		r.State, err = ReadState(filepath.Join(sessionDir(root, id), stateName), &r.payload)
		return r.payload, err
	}).WithTimeout(patience).ShouldNot(BeZero())
	g.Expect(r.Pids).To(HaveLen(3))
	r.owners = map[int]string{}
	for _, pid := range r.Pids {
		r.owners[pid], err = startOf(t.Context(), pid)
		g.Expect(err).NotTo(HaveOccurred(), "process %d", pid)
	}
	g.Expect(r.Pids).To(ContainElement(r.PID))
	g.Expect(r.Ports).To(HaveLen(2))
	r.blocks, err = leasedPorts(r.Dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.blocks).NotTo(BeEmpty())
	for _, first := range r.blocks {
		g.Expect(os.ReadFile(leasePath(root, first))).To(Equal([]byte(id + "\n")))
	}
	g.Expect(r.Folder).To(BeADirectory())
	return r
}

// alive returns which of the processes written down still run.
func (r remains) alive(ctx context.Context) []int {
	var alive []int
	for pid, start := range r.owners {
		if isAlive(ctx, owner{PID: pid, Started: start}) {
			alive = append(alive, pid)
		}
	}
	return alive
}

// expectGone proves that nothing of what was written down is left.
func (r remains) expectGone(t *testing.T, g Gomega, root string) {
	t.Helper()
	g.Eventually(func() ([]int, error) { return r.alive(t.Context()), nil }).WithTimeout(patience).Should(BeEmpty())
	g.Eventually(r.Dir).WithTimeout(patience).ShouldNot(BeADirectory())
	for _, first := range r.blocks {
		g.Expect(leasePath(root, first)).NotTo(BeAnExistingFile())
	}
	for _, port := range r.Ports {
		g.Expect(isFreePort(port)).To(BeTrue(), "port %d", port)
	}
	entries, err := os.ReadDir(filepath.Join(root, sessionsName))
	g.Expect(err).NotTo(HaveOccurred())
	for _, entry := range entries {
		g.Expect(entry.Name()).NotTo(ContainSubstring(r.ID))
	}
}

// upTo starts a client and waits until its session is up.
func upTo(t *testing.T, g Gomega, root, mode string, env ...string) (*started, remains) {
	t.Helper()
	client := start(t, root, roleClient, mode, env...)
	var said report
	client.next(g, &said)
	id := said.ID
	client.next(g, &said)
	g.Expect(said).To(Equal(report{ID: id, Ready: true}))
	return client, writeDown(t, g, root, id)
}

func signalTo(g Gomega, pid int, signal syscall.Signal) {
	g.Expect(syscall.Kill(pid, signal)).To(Succeed())
}
