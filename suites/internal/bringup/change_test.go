package bringup

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// What a run that was killed committed is taken back; what nobody changed is left
// alone, and so is what somebody changes who is still there.
func TestMend(t *testing.T) {
	g := NewWithT(t)
	folder, bare := t.TempDir(), filepath.Join(t.TempDir(), "values.git")
	g.Expect(os.WriteFile(filepath.Join(folder, "config.yaml"), []byte("log: info\n"), 0o600)).To(Succeed())
	taken, err := source.Snapshot(t.Context(), source.SnapshotOptions{Dir: folder, Into: bare, Branches: []string{"main"}})
	g.Expect(err).NotTo(HaveOccurred())
	r := Repository{Name: "developer", URL: "https://github.com/your-org/developer", Bare: bare, Branch: "main", Served: taken.Commit}
	state := State{Repositories: []Repository{r}}

	mended, err := Mend(t.Context(), state)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(mended).To(BeEmpty())

	_, err = source.Commit(t.Context(), bare, "main", AsChange(map[string][]byte{"config.yaml": []byte("log: debug\n")}, nil, "Change a value"))
	g.Expect(err).NotTo(HaveOccurred())
	done, err := r.Change(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = Mend(short, state)
	g.Expect(err).To(MatchError(ContainSubstring("held by another process")), "a run is still at it")
	g.Expect(source.Head(t.Context(), bare, "main")).NotTo(Equal(taken.Commit))
	done()

	mended, err = Mend(t.Context(), state)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(mended).To(ConsistOf(r.URL))
	g.Expect(source.Head(t.Context(), bare, "main")).To(Equal(taken.Commit))
}
