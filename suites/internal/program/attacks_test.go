package program

import (
	"os"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
)

// The catalogue fits the platform that the program ships: every file that it
// changes is there, every control differs in one field.
func TestCatalogueFits(t *testing.T) {
	g := NewWithT(t)
	p := newInvocation(t)
	found, err := p.catalogue(nil)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = attackChecks(found.all)
	g.Expect(err).NotTo(HaveOccurred())
	read, err := bringup.Read(t.Context(), os.DirFS("../../.."), bringup.Options{}, t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	if err := p.examine(found, read); err != nil {
		t.Fatal(err)
	}
}
