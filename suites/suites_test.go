package suites

import (
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/program"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// TestSuites judges the kept session, or the one that FLUX_CONFORMANCE_ATTACH
// names: for «ginkgo -p ./suites» and for an IDE. Without a session it fails;
// nothing would be proved.
func TestSuites(t *testing.T) {
	root, err := session.Root()
	if err != nil {
		t.Fatal(err)
	}
	found, err := session.Attach(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	var state bringup.State
	if _, err := session.ReadState(found.File(), &state); err != nil {
		t.Fatal(err)
	}
	mended, err := bringup.Mend(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	if len(mended) > 0 {
		t.Logf("a killed run had left changes in %s: they were taken back", strings.Join(mended, ", "))
	}
	view, err := bringup.Open(t.Context(), state, filepath.Join(found.Dir, "trees"))
	if err != nil {
		t.Fatal(err)
	}
	if current, err = attach(view, program.Selection{}, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	suite, reporter := configure(current)
	RunSpecs(t, "Flux platform conformance", suite, reporter)
	if err := current.recorder.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestChecks holds every check against what a check must have.
func TestChecks(t *testing.T) {
	g := NewWithT(t)
	g.Expect(registry.All()).NotTo(BeEmpty())
	for _, c := range registry.All() {
		g.Expect(c.Validate()).To(Succeed())
		g.Expect(c.Level).To(Equal(check.Core))
	}
}
