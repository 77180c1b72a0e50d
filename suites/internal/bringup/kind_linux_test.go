package bringup

import (
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// Nodes are made from the image that CONFIG names, else from the published one,
// each taken where CONFIG lets another registry answer.
func TestNodeImage(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	pins, err := fs.Sub(assets, "scripts/pins")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	for _, test := range []struct{ name, configured, named, taken string }{
		{"the published one", "", publishedNode, strings.Replace(publishedNode, "docker.io", host+"/docker.io", 1)},
		{"one of the user's own", host + "/nodes/mine:v1", host + "/nodes/mine:v1", host + "/nodes/mine:v1"},
		{"one through a mirror", "docker.io/nodes/mine:v1", "docker.io/nodes/mine:v1", host + "/docker.io/nodes/mine:v1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			config := platform.Config{NodeImage: test.configured, Registries: map[string]string{"docker.io": "http://" + host + "/docker.io"}}
			store, err := component.Open(component.Options{Dir: t.TempDir(), Pins: pins, Mirrors: config.Registries})
			g.Expect(err).NotTo(HaveOccurred())
			ground := &kindGround{bringUp: &bringUp{store: store, config: config}}
			g.Expect(ground.components(t.Context())).To(Succeed())
			g.Expect(ground.offline).NotTo(HaveOccurred())
			g.Expect(ground.node).To(Equal(test.taken))
			g.Expect(ground.state.Notes).To(ConsistOf(HavePrefix("kind with registries: the nodes are made from " + test.named + " and pull")))
		})
	}
}
