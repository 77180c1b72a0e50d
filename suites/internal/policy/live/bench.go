package live

import (
	"context"
	"time"

	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// Options say how a bench asks.
type Options struct {
	// Config is an administrator's (group system:masters, who may impersonate).
	// Required.
	Config *rest.Config
	// Patience is how long a copy may take to come into force, and for how long
	// what the server cannot answer is asked again. Default: a minute.
	Patience time.Duration
	// Batch is how many copies are installed at once at most. Default: what was
	// measured to be good.
	Batch int
	// Progress is told what the bench is about to do; nil: nobody.
	Progress func(string)
}

// Bench asks one API server.
type Bench struct{}

// Open prepares a bench on a server with Kyverno. Close must be called.
func Open(ctx context.Context, o Options) (*Bench, error) { return &Bench{}, nil }

// Judge asks for every example of a library, and returns the verdicts in the order
// of its examples. A second Judge installs only what changed since.
func (b *Bench) Judge(ctx context.Context, l *example.Library) (*Judgement, error) { return nil, nil }

// Probe asks aspects of a policy for all examples of that policy in the library:
// one row for each aspect, one reply for each example, in order.
func (b *Bench) Probe(ctx context.Context, l *example.Library, p *example.Policy, aspects []Aspect) ([][]Reply, error) {
	return nil, nil
}

// Close removes all that the bench made.
func (b *Bench) Close(ctx context.Context) error { return nil }
