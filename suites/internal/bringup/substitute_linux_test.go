package bringup

import (
	"context"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/component/registrytest"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// A registry that has one version of Kyverno, and a platform that names others.
func TestAnotherVersionStandsIn(t *testing.T) {
	const declared, there = "reg.kyverno.io/kyverno/kyverno:v0.0.1", "reg.kyverno.io/kyverno/kyverno:v0.0.3"
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	g := NewWithT(t)
	program, err := exec.LookPath("true")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(registrytest.Push(t.Context(), host+"/kyverno/kyverno:v0.0.3", program, "/kyverno")).To(Succeed())
	pins, err := fs.Sub(assets, "scripts/pins")
	g.Expect(err).NotTo(HaveOccurred())

	start := func(g *WithT, components map[string]string) (*bringUp, context.Context) {
		store, err := component.Open(component.Options{Dir: t.TempDir(), Pins: pins, Mirrors: map[string]string{"reg.kyverno.io": host}})
		g.Expect(err).NotTo(HaveOccurred())
		ctx, fail := context.WithCancelCause(t.Context())
		t.Cleanup(func() { fail(nil) })
		return &bringUp{store: store, fail: fail, config: platform.Config{Components: components}}, ctx
	}
	t.Run("where the declared one cannot be had", func(t *testing.T) {
		g := NewWithT(t)
		b, ctx := start(g, map[string]string{"kyverno": "v0.0.3"})
		for _, image := range []string{declared, declared, strings.Replace(declared, "v0.0.1", "v0.0.2", 1)} {
			path, err := b.resolve(ctx, "kyverno", image)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(path).To(BeAnExistingFile())
		}
		g.Expect(b.state.Components).To(HaveLen(1))
		g.Expect(b.state.Components[0].Version).To(Equal("v0.0.3"))
		g.Expect(b.state.Components[0].InPlaceOf).To(Equal([]string{declared, "reg.kyverno.io/kyverno/kyverno:v0.0.2"}))
		g.Expect(ctx.Err()).NotTo(HaveOccurred())
	})
	t.Run("and not where it can", func(t *testing.T) {
		g := NewWithT(t)
		b, ctx := start(g, map[string]string{"kyverno": "v0.0.9"})
		_, err := b.resolve(ctx, "kyverno", there)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(b.state.Components).To(HaveLen(1))
		g.Expect(b.state.Components[0].Version).To(Equal("v0.0.3"))
		g.Expect(b.state.Components[0].InPlaceOf).To(BeEmpty())
	})
	for _, test := range []struct {
		name       string
		components map[string]string
		want       []string
	}{
		{"nothing stands in", nil, []string{"component kyverno v0.0.1: neither pullable nor pinned", "components: {kyverno: v1.19.1} in CONFIG"}},
		{"what stands for another component does not", map[string]string{"kyvernopre": "v0.0.3"}, []string{"component kyverno v0.0.1: neither pullable nor pinned"}},
		{"nor does what cannot be had itself", map[string]string{"kyverno": "v0.0.2"}, []string{"in place of image " + declared + ", by components in CONFIG: component kyverno v0.0.2: neither pullable nor pinned"}},
	} {
		t.Run("the bring-up ends where "+test.name, func(t *testing.T) {
			g := NewWithT(t)
			b, ctx := start(g, test.components)
			_, err := b.resolve(ctx, "kyverno", declared)
			for _, want := range test.want {
				g.Expect(err).To(MatchError(ContainSubstring(want)))
			}
			g.Expect(context.Cause(ctx)).To(Equal(err))
			g.Expect(b.state.Components).To(BeEmpty())
		})
	}
}
