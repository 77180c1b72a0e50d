package overlay

import (
	"testing"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A control that takes more away than one thing does not tell which of them was
// refused.
func TestControlRemovesOne(t *testing.T) {
	send := Send{Manifest: &unstructured.Unstructured{Object: map[string]any{
		"one": map[string]any{"a": "x"}, "two": map[string]any{"a": "x", "b": "y"}, "text": "x",
		"items": []any{map[string]any{"kind": "K", "name": "n"}, "z"}, "single": []any{map[string]any{"kind": "K", "name": "n"}},
	}}}
	for field, want := range map[string]string{
		"one": "", "text": "", "single": "", "items[0]": "", "two.b": "",
		"two": "removes two with 2 fields or items", "items": "removes items with 2 fields or items",
	} {
		_, err := send.controlled(Control{Field: field, Remove: true})
		if want == "" {
			gomega.NewWithT(t).Expect(err).NotTo(gomega.HaveOccurred(), field)
			continue
		}
		gomega.NewWithT(t).Expect(err).To(gomega.MatchError(gomega.ContainSubstring(want)), field)
	}
}
