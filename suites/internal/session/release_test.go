package session

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// register registers a kind for one test.
func register(t *testing.T, kind string, release ReleaseFunc) {
	t.Helper()
	Register(kind, release)
	t.Cleanup(func() {
		releasesMutex.Lock()
		defer releasesMutex.Unlock()
		delete(releases, kind)
	})
}

func TestWrittenDownThingsAreTakenDownNewestFirst(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	var order []string
	register(t, "thing", func(_ context.Context, detail json.RawMessage) (string, error) {
		order = append(order, string(detail))
		if string(detail) == `"gone"` {
			return "", nil
		}
		return "the thing " + string(detail), nil
	})
	g.Expect(func() { Register("thing", nil) }).To(PanicWith(ContainSubstring("a second release")))
	s := newSession(t, root)
	for _, name := range []string{"network", "gone", "cluster"} {
		g.Expect(s.Record("thing", name)).To(Succeed())
	}
	g.Expect(s.Record("unregistered", "x")).To(Succeed())

	removal, err := s.Remove(t.Context())

	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(order).To(Equal([]string{`"cluster"`, `"gone"`, `"network"`}))
	g.Expect(removal.Released).To(Equal([]string{`the thing "cluster"`, `the thing "network"`}))
	g.Expect(removal.String()).To(ContainSubstring(`removed the thing "cluster", the thing "network"; removed ` + s.Dir()))
}

func TestWhatCannotBeTakenDownStaysForTheNextRun(t *testing.T) {
	g, root := NewWithT(t), newRoot(t)
	away := errors.New("the daemon does not answer")
	register(t, "thing", func(_ context.Context, detail json.RawMessage) (string, error) {
		if away != nil && string(detail) == `"on the daemon"` {
			return "", away
		}
		return "the thing " + string(detail), nil
	})
	broken, other := newSession(t, root), newSession(t, root)
	g.Expect(broken.Record("thing", "on the daemon")).To(Succeed())
	g.Expect(broken.Record("thing", "here")).To(Succeed())
	_, err := broken.Port()
	g.Expect(err).NotTo(HaveOccurred())
	abandon(g, broken)
	abandon(g, other)

	removals, err := ReapStale(t.Context(), root)

	g.Expect(err).NotTo(HaveOccurred(), "it keeps nobody from a run")
	g.Expect(removals).To(HaveLen(2))
	said := map[string]string{}
	for _, r := range removals {
		said[r.ID] = r.String()
	}
	g.Expect(said[broken.ID()]).To(And(
		ContainSubstring(`removed the thing "here"`), ContainSubstring("it stays until what it left can be taken down"), ContainSubstring("the daemon does not answer")))
	g.Expect(said[other.ID()]).To(ContainSubstring("removed " + other.Dir()))
	g.Expect(other.Dir()).NotTo(BeADirectory())
	g.Expect(ReadLedger(broken.Dir())).To(ContainElement(HaveField("Kind", "thing")))
	g.Expect(leasedPorts(broken.Dir())).To(HaveLen(1))
	leases, err := os.ReadDir(root + "/" + portsName)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(leases).To(HaveLen(2), "its ports are still its own, beside the lock")
	_, err = Clean(t.Context(), root)
	g.Expect(err).To(MatchError(ErrLeft), "who asks for the end of everything hears of it")

	away = nil
	removals, err = ReapStale(t.Context(), root)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(removals).To(HaveLen(1))
	g.Expect(removals[0].Left).To(BeEmpty())
	g.Expect(strings.Contains(removals[0].String(), `the thing "on the daemon"`)).To(BeTrue())
	g.Expect(broken.Dir()).NotTo(BeADirectory())
}
