package live

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// TestTestdata reads what the live tests judge, so that it is seen to be whole
// where no server is.
func TestTestdata(t *testing.T) {
	for dir, count := range map[string]int{"testdata/legacy": 36, "testdata/exceptions": 10, "testdata/roles": 12, "testdata/namespaced": 4} {
		g := NewWithT(t)
		l, err := example.Load(dir)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(l.Findings).To(BeEmpty())
		g.Expect(l.Examples()).To(HaveLen(count))
	}
}
