package overlay_test

import (
	"os"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

// What the program ships can be read; whether it fits the platform is seen before
// a session starts.
func TestCatalogue(t *testing.T) {
	root := os.DirFS("../../..")
	for _, test := range []struct {
		folder string
		role   overlay.Role
		except []string
	}{
		{"fixtures/attacks", overlay.AttackRole, []string{"layers"}},
		{"fixtures/attacks/layers", overlay.LayerRole, nil},
		{"fixtures/changes", overlay.ChangeRole, nil},
	} {
		t.Run(test.folder, func(t *testing.T) {
			overlays, err := overlay.Load(root, test.folder, test.role, test.except...)
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			NewWithT(t).Expect(overlays).NotTo(BeEmpty())
		})
	}
}
