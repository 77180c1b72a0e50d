package program

import (
	"os"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/attack"
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

func TestDepthTable(t *testing.T) {
	g := NewWithT(t)
	a, err := depthAttachment(attack.Result{
		Depth: []attack.Deep{
			{Off: "policy p", Attack: "ATK-N01", Environment: "dev"},
			{Off: "rbac", Attack: "ATK-N08", Environment: "dev", Next: "policy q", Words: "Policy q failed: no"},
			{Off: "flag --f", Attack: "ATK-F06", Environment: "dev", Next: "build", Still: true, Words: "BuildFailed: " + strings.Repeat("accumulating ", 20) + "\nCould not resolve host"},
		},
		Needless: []string{"policy idle"},
	})
	g.Expect(err).NotTo(HaveOccurred())
	lines := strings.Split(a.Text, "\n")
	g.Expect(lines[1]).To(HaveSuffix("NOTHING"))
	g.Expect(lines[2]).To(HaveSuffix("policy q"))
	g.Expect(lines[3]).To(And(ContainSubstring("build (in the words of what was switched off): …"), HaveSuffix("accumulating Could not resolve host")), "the cause, in one line")
	g.Expect(lines[4]).To(Equal("no attack needs policy idle"))
}
