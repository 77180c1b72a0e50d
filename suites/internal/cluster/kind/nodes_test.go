package kind

import (
	"testing"

	. "github.com/onsi/gomega"
)

func TestNodesAreCounted(t *testing.T) {
	g := NewWithT(t)
	g.Expect(Nodes(nil)).To(Equal(1))
	g.Expect(Nodes([]byte("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n- role: worker\n"))).To(Equal(2))
	_, err := Nodes([]byte("nodes: 3"))
	g.Expect(err).To(MatchError(ContainSubstring("kind configuration")))
}
