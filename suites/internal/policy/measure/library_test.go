package measure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestALibraryHasWhatIsAskedFor(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	g.Expect(WriteLibrary(dir, 14, 63)).To(Succeed())
	tests, err := filepath.Glob(filepath.Join(dir, "*", "kyverno-test.yaml"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(tests).To(HaveLen(14))
	results := 0
	for _, name := range tests {
		data, err := os.ReadFile(name)
		g.Expect(err).NotTo(HaveOccurred())
		for _, line := range []string{"result: pass", "result: fail"} {
			results += strings.Count(string(data), line+"\n")
		}
	}
	g.Expect(results).To(Equal(63))
	g.Expect(WriteLibrary(t.TempDir(), 3, 2)).To(MatchError(ContainSubstring("each policy needs one")))
}
