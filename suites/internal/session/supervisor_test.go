package session

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

func TestCtrlCEndsTheSession(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	logFile := filepath.Join(t.TempDir(), "logs", LogName)
	client, written := upTo(t, g, root, "", "SESSION_TEST_LOG="+logFile)

	signalTo(g, client.Process.Pid, syscall.SIGINT)

	var said report
	client.next(g, &said)
	g.Expect(said.Error).To(BeEmpty())
	g.Expect(client.wait(g)).To(BeZero())
	g.Expect(written.alive(t.Context())).To(BeEmpty(), "when the client has ended all is gone")
	written.expectGone(t, g, root)
	log, err := os.ReadFile(logFile)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(log)).To(And(ContainSubstring(" ready\n"), ContainSubstring("the client asked for the end"), ContainSubstring("ended: session "+written.ID)))
}

func TestInterruptedBringUpIsNoFailure(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	client := start(t, root, roleClient, modePending)
	var said report
	client.next(g, &said)
	written := writeDown(t, g, root, said.ID)

	signalTo(g, client.Process.Pid, syscall.SIGTERM)

	client.next(g, &said)
	g.Expect(said).To(Equal(report{ID: written.ID}))
	written.expectGone(t, g, root)
}

func TestSecondCtrlCKillsAndReaps(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	client, written := upTo(t, g, root, modeStuck, "SESSION_TEST_LOG="+filepath.Join(t.TempDir(), LogName))

	signalTo(g, client.Process.Pid, syscall.SIGINT)
	g.Eventually(func() (string, error) {
		log, err := os.ReadFile(filepath.Join(written.Dir, LogName))
		return string(log), err
	}).WithTimeout(patience).Should(ContainSubstring(KindEnding))
	g.Expect(written.alive(t.Context())).To(HaveLen(3))
	signalTo(g, client.Process.Pid, syscall.SIGINT)

	var said report
	client.next(g, &said)
	g.Expect(said.Error).To(And(
		ContainSubstring("did not end in time and was killed"), ContainSubstring("ended 2 processes"), ContainSubstring("its log: ")))
	written.expectGone(t, g, root)
}

func TestFailuresReachTheClient(t *testing.T) {
	for mode, want := range map[string]string{
		modeFail:  "failed: the cluster is on fire",
		modePanic: "failed: panic: the cluster is on fire",
		modeEarly: "failed: it ended before it was ready",
		modeCrash: "panic: the cluster is on fire",
		modeDeaf:  "the clean-up did not end within",
	} {
		t.Run(mode, func(t *testing.T) {
			g, root := NewWithT(t), newRoot(t)
			client := start(t, root, roleClient, mode)
			var said report
			client.next(g, &said)
			id := said.ID
			if mode == modeDeaf {
				client.next(g, &said)
				g.Expect(said.Ready).To(BeTrue())
				signalTo(g, client.Process.Pid, syscall.SIGINT)
			}
			client.next(g, &said)
			g.Expect(said.Ready).To(BeFalse())
			g.Expect(said.Error).To(And(ContainSubstring("session "+id), ContainSubstring(want)))
			g.Expect(client.wait(g)).To(BeZero())
			g.Expect(sessionDir(root, id)).NotTo(BeADirectory())
			g.Expect(Processes(t.Context(), id)).To(BeEmpty())
			g.Expect(os.ReadDir(filepath.Join(root, portsName))).To(HaveLen(1), "the lock only")
		})
	}
}

func TestKilledClientLeavesNothing(t *testing.T) {
	for name, mode := range map[string]string{"ready": "", "coming up": modePending} {
		t.Run(name, func(t *testing.T) {
			g, root := NewWithT(t), newRoot(t)
			client := start(t, root, roleClient, mode)
			var said report
			client.next(g, &said)
			written := writeDown(t, g, root, said.ID)

			signalTo(g, client.Process.Pid, syscall.SIGKILL)

			written.expectGone(t, g, root)
		})
	}
}

func TestKilledSupervisorIsReapedByItsClient(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	client, written := upTo(t, g, root, "")

	signalTo(g, written.PID, syscall.SIGKILL)

	var said report
	client.next(g, &said)
	g.Expect(said.Error).To(And(
		ContainSubstring("ended unexpectedly (signal: killed)"), ContainSubstring("ended 2 processes")))
	written.expectGone(t, g, root)
}

func TestNextRunReapsWhenBothAreKilled(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	client, written := upTo(t, g, root, "")

	signalTo(g, client.Process.Pid, syscall.SIGSTOP)
	signalTo(g, written.PID, syscall.SIGKILL)
	signalTo(g, client.Process.Pid, syscall.SIGKILL)
	client.wait(g)
	g.Eventually(func() ([]int, error) { return written.alive(t.Context()), nil }).
		WithTimeout(patience).Should(HaveLen(2), "its processes outlive it")

	removals, err := ReapStale(t.Context(), root)

	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(removals).To(HaveLen(1))
	g.Expect(removals[0].ID).To(Equal(written.ID))
	g.Expect(removals[0].Processes).To(HaveLen(2))
	g.Expect(removals[0].Ports).To(Equal(written.blocks))
	g.Expect(removals[0].Folder).To(Equal(written.Dir))
	g.Expect(removals[0].String()).To(ContainSubstring("ended 2 processes"))
	written.expectGone(t, g, root)
	g.Expect(ReapStale(t.Context(), root)).To(BeEmpty())
}

func TestKeptSessionOutlivesItsClient(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	_, err := Attach(t.Context(), root)
	g.Expect(err).To(And(MatchError(ErrNoSession), MatchError(ContainSubstring("make up"))))

	client, first := upTo(t, g, root, modeKept)
	g.Expect(client.wait(g)).To(BeZero())

	g.Expect(first.alive(t.Context())).To(HaveLen(3))
	g.Expect(ReapStale(t.Context(), root)).To(BeEmpty(), "a kept session is left alone")
	_, err = Reap(t.Context(), root, first.ID)
	g.Expect(err).To(MatchError(ErrRunning))
	g.Expect(first.alive(t.Context())).To(HaveLen(3))
	attached, err := Attach(t.Context(), root)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(attached.ID).To(Equal(first.ID))
	g.Expect(attached).To(HaveField("Kept", true))
	g.Expect(modeOf(attached.File())).To(Equal(os.FileMode(0o600)))
	g.Expect(modeOf(attached.Dir)).To(Equal(os.FileMode(0o700)))

	client, second := upTo(t, g, root, modeKept)
	g.Expect(client.wait(g)).To(BeZero())
	g.Expect(Find(t.Context(), root)).To(HaveExactElements(HaveField("ID", first.ID), HaveField("ID", second.ID)))
	_, err = Attach(t.Context(), root)
	g.Expect(err).To(MatchError(And(ContainSubstring("2 are running"), ContainSubstring(first.ID), ContainSubstring(second.ID), ContainSubstring(AttachVariable))))
	for _, reference := range []string{second.ID, second.File()} {
		t.Setenv(AttachVariable, reference)
		g.Expect(Attach(t.Context(), root)).To(HaveField("ID", second.ID))
	}

	g.Expect(Stop(t.Context(), root, second.ID)).To(Succeed())
	g.Expect(second.alive(t.Context())).To(BeEmpty())
	second.expectGone(t, g, root)
	_, err = Attach(t.Context(), root)
	g.Expect(err).To(And(MatchError(ErrNoSession), MatchError(ContainSubstring(AttachVariable))))
	g.Expect(first.alive(t.Context())).To(HaveLen(3), "the other session stays")
	g.Expect(Stop(t.Context(), root, second.ID)).To(Succeed(), "it has ended")

	g.Expect(Clean(t.Context(), root)).To(HaveExactElements(And(
		HaveField("ID", first.ID), HaveField("Processes", HaveLen(3)), HaveField("Ports", first.blocks))))
	first.expectGone(t, g, root)
}

func TestKeptSessionIsNotKeptBeforeItIsReady(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	client := start(t, root, roleClient, modePending)
	var said report
	client.next(g, &said)
	g.Expect(client.Process.Signal(syscall.SIGSTOP)).To(Succeed())
	written := writeDown(t, g, root, said.ID)

	g.Expect(written).To(And(HaveField("Kept", false), HaveField("Ready", false)))
	t.Setenv(AttachVariable, written.ID)
	_, err := Attach(t.Context(), root)
	g.Expect(err).To(MatchError(ContainSubstring("still coming up")))

	g.Expect(Stop(t.Context(), root, written.ID)).To(Succeed())
	written.expectGone(t, g, root)
	g.Expect(client.Process.Signal(syscall.SIGCONT)).To(Succeed())
	client.next(g, &said)
	g.Expect(said.Error).To(ContainSubstring("was ended from outside"))
}

func TestTwoSessionsDoNotMeet(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	firstClient, first := upTo(t, g, root, "")
	secondClient, second := upTo(t, g, root, "")
	g.Expect(first.blocks).NotTo(ContainElement(BeElementOf(second.blocks)))
	g.Expect(first.Dir).NotTo(Equal(second.Dir))

	signalTo(g, firstClient.Process.Pid, syscall.SIGKILL)
	first.expectGone(t, g, root)
	g.Expect(second.alive(t.Context())).To(HaveLen(3))
	g.Expect(os.ReadFile(leasePath(root, second.blocks[0]))).To(Equal([]byte(second.ID + "\n")))
	g.Expect(second.Folder).To(BeADirectory())

	signalTo(g, secondClient.Process.Pid, syscall.SIGINT)
	second.expectGone(t, g, root)
}

func TestCleanKillsASupervisorThatDoesNotAnswer(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	client, written := upTo(t, g, root, modeKept)
	client.wait(g)
	signalTo(g, written.PID, syscall.SIGSTOP)

	removals, err := clean(t.Context(), root, 10*time.Millisecond)

	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(removals).To(HaveExactElements(And(HaveField("ID", written.ID), HaveField("Processes", HaveLen(3)))))
	written.expectGone(t, g, root)
}

func TestStartNeedsAProgram(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	_, err := Start(t.Context(), StartOptions{Root: root, Executable: filepath.Join(root, "no-such-program")})
	g.Expect(err).To(MatchError(And(ContainSubstring("start the supervisor"), ContainSubstring("no-such-program"))))
	g.Expect(os.ReadDir(filepath.Join(root, sessionsName))).To(HaveLen(1), "the lock only")
	_, err = Start(t.Context(), StartOptions{})
	g.Expect(err).To(MatchError(ContainSubstring("no state root")))
}
