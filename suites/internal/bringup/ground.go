package bringup

import (
	"cmp"
	"context"
	"fmt"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// ground is what the clusters of a session are made on: the part of a bring-up
// that differs from provider to provider.
type ground interface {
	// prepare has ready what the clusters need before the first is made.
	prepare(ctx context.Context) error
	// host is the address of this machine at which the clusters reach the
	// session's servers; empty: 127.0.0.1.
	host() string
	// stock has ready what the clusters will run, as far as that is known before
	// there are any. The sources are served.
	stock(ctx context.Context) error
	// version is that of the component which a container runs; empty when it is
	// not known. bringUp.mu is held.
	version(b cluster.Backed) string
	// create makes the cluster of an environment. The spec says what holds for
	// every provider.
	create(ctx context.Context, environment *platform.Environment, spec cluster.Spec) (cluster.Cluster, error)
	// close takes down what prepare made; all clusters are gone by then.
	close(ctx context.Context) error
}

// grounds makes the ground of each provider, the default first.
var grounds = []struct {
	provider string
	of       func(*bringUp) ground
}{
	{"embedded", func(b *bringUp) ground { return &embeddedGround{bringUp: b} }},
	{"kind", func(b *bringUp) ground { return &kindGround{bringUp: b, made: map[string]component.Component{}} }},
}

// Providers lists the kinds of clusters that a session can be made of.
func Providers() []string {
	var out []string
	for _, g := range grounds {
		out = append(out, g.provider)
	}
	return out
}

// provider is what this session's clusters are made of.
func (b *bringUp) provider() string { return cmp.Or(b.options.Provider, Providers()[0]) }

func (b *bringUp) newGround() (ground, error) {
	for _, g := range grounds {
		if g.provider == b.provider() {
			return g.of(b), nil
		}
	}
	return nil, fmt.Errorf("there is no provider %q", b.provider())
}
