package suites

import (
	"context"
	"io/fs"

	"github.com/your-org/flux-platform-conformance/suites/internal/program"
)

// Main runs the program with what it ships, and returns its exit code.
func Main(assets fs.FS, args []string) int {
	return program.Main(context.Background(), program.Suite{Judge: judge, Plan: plan, Registry: &registry}, assets, args)
}
