package kind

import (
	"context"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Report tells what runs at this moment.
func (c *running) Report(ctx context.Context) (cluster.Report, error) {
	return cluster.Report{Environment: c.spec.Name, Provider: Provider{}.Name(), Version: c.version}, nil
}
