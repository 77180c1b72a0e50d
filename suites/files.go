package suites

import "github.com/your-org/flux-platform-conformance/suites/internal/files"

// The checks of the files are no specs: the program judges them itself, before
// there is a cluster. They stand in the registry like all others.
var _ = registerFiles()

func registerFiles() bool {
	for _, c := range files.Checks() {
		if err := registry.Add(c); err != nil {
			panic(err) // a mistake in this program, seen by every run
		}
	}
	return true
}
