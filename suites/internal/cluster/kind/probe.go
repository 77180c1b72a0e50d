package kind

import (
	"context"
	"errors"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Probe tries what is named, or everything.
func (c *running) Probe(ctx context.Context, capabilities ...cluster.Capability) ([]cluster.Finding, error) {
	return nil, errors.New("not there yet")
}
