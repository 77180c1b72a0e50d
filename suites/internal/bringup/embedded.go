package bringup

import (
	"context"
	"slices"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster/embedded"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// controlPlane are the components that every cluster of the embedded provider is
// made of.
var controlPlane = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kwokctl"}

// OfControlPlane says whether a component is one of those: no platform declares
// its version.
func OfControlPlane(name string) bool { return slices.Contains(controlPlane, name) }

// embeddedGround is that of the embedded provider: the programs run on this
// machine.
type embeddedGround struct {
	*bringUp

	binaries map[string]string
}

func (g *embeddedGround) prepare(ctx context.Context) error {
	return g.phase("", phaseComponents, func() error { return g.components(ctx) })
}

func (g *embeddedGround) host() string { return "" }

// stock leaves it to the pods to name what they run: most are simulated.
func (g *embeddedGround) stock(context.Context) error { return nil }

func (g *embeddedGround) version(b cluster.Backed) string { return g.versionOf(b.Path) }

func (g *embeddedGround) create(ctx context.Context, _ *platform.Environment, spec cluster.Spec) (cluster.Cluster, error) {
	spec.Binaries, spec.Resolve = g.binaries, g.resolve
	return embedded.Provider{}.Create(ctx, spec)
}

func (g *embeddedGround) close(context.Context) error { return nil }

// components has everything ready that the session is known to need; what else a
// platform's pods name is resolved when they appear.
func (g *embeddedGround) components(ctx context.Context) error {
	var requests []component.Request
	for _, name := range g.store.NamesFor(g.provider()) {
		if name == "kyverno-cli" {
			continue
		}
		request := component.Request{Name: name}
		if OfControlPlane(name) || g.uses(name) {
			request.Version = g.config.Components[name]
			requests = append(requests, request)
		}
	}
	components, err := g.store.Resolve(ctx, requests)
	if err != nil {
		return err
	}
	g.binaries = map[string]string{}
	for _, c := range components {
		g.binaries[c.Name] = c.Path
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Components = components
	return nil
}

// uses says whether a component that is no part of the control plane is likely
// to be asked for: Flux always, Kyverno where the platform names it.
func (g *embeddedGround) uses(name string) bool {
	if slices.Contains(bootstrap.Components, name) {
		return true
	}
	for _, e := range g.platform.Environments {
		for _, release := range e.HelmReleases {
			if release.Spec.Chart != nil && release.Spec.Chart.Spec.Chart == "kyverno" {
				return true
			}
		}
		if len(e.Policies) > 0 {
			return true
		}
	}
	return false
}
