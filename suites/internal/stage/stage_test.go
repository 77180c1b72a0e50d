package stage

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// urls are those of the repositories of the session, by name.
var urls = map[string]string{
	"platform":  "https://github.com/acme/platform",
	"developer": "https://github.com/acme/developer",
}

// session serves two repositories to no cluster: what is committed is real.
func session(t *testing.T) *bringup.View {
	t.Helper()
	view := &bringup.View{}
	for name, url := range urls {
		folder, bare := t.TempDir(), filepath.Join(t.TempDir(), name+".git")
		if err := os.WriteFile(filepath.Join(folder, "a.txt"), []byte("as it was\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Snapshot(t.Context(), source.SnapshotOptions{Dir: folder, Into: bare, Branches: []string{"main"}}); err != nil {
			t.Fatal(err)
		}
		view.State.Repositories = append(view.State.Repositories, bringup.Repository{Name: name, URL: url, Bare: bare, Branch: "main"})
	}
	return view
}

// content is what a repository serves in a file.
func content(t *testing.T, view *bringup.View, name, file string) string {
	t.Helper()
	repository, _ := view.State.Repository(name)
	data, err := source.ReadFile(t.Context(), repository.Bare, "main", file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// shown are the repositories at which Flux would look.
func shown(s *Stage) []string {
	var out []string
	changed := s.touched()
	for name, url := range urls {
		if changed(url) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func change(id, repository, old, replacement string) overlay.Overlay {
	return overlay.Overlay{ID: id, Title: "t", Patches: []overlay.Patch{{
		Repository: repository, Path: "a.txt", Replace: &overlay.Replace{Old: old, New: replacement},
	}}}
}

// Each overlay stands on the platform as it is, whatever lay there before, and Flux
// looks at what has moved since it last looked, and at nothing else.
func TestSwap(t *testing.T) {
	g := NewWithT(t)
	view := session(t)
	s := New(view)
	g.Expect(s.Committed()).To(BeFalse())
	g.Expect(shown(s)).To(BeEmpty())

	g.Expect(s.Lay(t.Context(), change("FLT-001", "platform", "as it was", "one"), change("FLT-002", "platform", "one", "two"))).To(Succeed())
	g.Expect(content(t, view, "platform", "a.txt")).To(Equal("two\n"))
	g.Expect(s.Committed()).To(BeTrue())
	g.Expect(shown(s)).To(Equal([]string{"platform"}))
	settled, err := s.Refresh(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(settled.Ready()).To(BeTrue())
	g.Expect(shown(s)).To(BeEmpty(), "Flux has looked")

	g.Expect(s.Swap(t.Context(), change("FLT-003", "developer", "as it was", "three"))).To(Succeed())
	g.Expect(content(t, view, "platform", "a.txt")).To(Equal("as it was\n"))
	g.Expect(content(t, view, "developer", "a.txt")).To(Equal("three\n"))
	g.Expect(shown(s)).To(Equal([]string{"developer", "platform"}), "what was taken back has moved as well")
	_, err = s.Refresh(t.Context())
	g.Expect(err).NotTo(HaveOccurred())

	g.Expect(s.Swap(t.Context(), change("FLT-004", "developer", "as it was", "four"))).To(Succeed())
	g.Expect(content(t, view, "developer", "a.txt")).To(Equal("four\n"))
	g.Expect(shown(s)).To(Equal([]string{"developer"}), "the platform has been as it is since Flux looked")

	g.Expect(s.TakeBack(t.Context())).To(Succeed())
	g.Expect(content(t, view, "developer", "a.txt")).To(Equal("as it was\n"))
	g.Expect(s.Committed()).To(BeFalse())
	g.Expect(shown(s)).To(BeEmpty())
}

// What was laid is taken back also when the run was interrupted, and where only a
// part of it could be laid.
func TestTakeBack(t *testing.T) {
	g := NewWithT(t)
	view := session(t)
	s := New(view)
	g.Expect(s.Lay(t.Context(), change("FLT-001", "platform", "as it was", "one"), change("FLT-002", "platform", "nowhere", "two"))).
		To(MatchError(ContainSubstring("overlay FLT-002: patches[0]: the text to replace stands 0 times in a.txt")))
	interrupted, stop := context.WithCancel(t.Context())
	stop()
	g.Expect(s.TakeBack(interrupted)).To(Succeed())
	g.Expect(content(t, view, "platform", "a.txt")).To(Equal("as it was\n"))
	g.Expect(s.TakeBack(t.Context())).To(Succeed(), "nothing lies there")

	g.Expect(s.Lay(t.Context(), change("FLT-003", "policies", "a", "b"))).
		To(MatchError("FLT-003 changes the policies repository, which this session does not serve"))
}

// Of two stages the upper one goes back to what the lower one has laid.
func TestStageOnAStage(t *testing.T) {
	g := NewWithT(t)
	view := session(t)
	under, on := New(view), New(view)
	g.Expect(under.Lay(t.Context(), change("LAY-001", "platform", "as it was", "off"))).To(Succeed())
	g.Expect(on.Swap(t.Context(), change("ATK-F01", "platform", "off", "attacked"))).To(Succeed())
	g.Expect(on.Swap(t.Context(), change("ATK-F02", "platform", "off", "attacked again"))).To(Succeed())
	g.Expect(on.TakeBack(t.Context())).To(Succeed())
	g.Expect(content(t, view, "platform", "a.txt")).To(Equal("off\n"))
	g.Expect(under.TakeBack(t.Context())).To(Succeed())
	g.Expect(content(t, view, "platform", "a.txt")).To(Equal("as it was\n"))
}
