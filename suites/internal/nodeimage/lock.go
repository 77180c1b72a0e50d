package nodeimage

import (
	"context"
	"os"
	"path/filepath"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
)

// acquire waits for the lock that all processes share, and returns the file that
// holds it as long as some process has it open; waiting is called at most once, with
// who holds it.
func acquire(ctx context.Context, dir string, waiting func(holder string)) (*os.File, error) {
	path := filepath.Join(dir, "locks", "node.lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := component.Lock(ctx, file, waiting); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}
