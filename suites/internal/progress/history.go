package progress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// History is how long each phase took last time, in seconds, by environment and
// phase. The zero value knows nothing.
type History map[string]map[string]float64

// LoadHistory reads a history file. A missing file is an empty history; one that
// cannot be read is an error with an empty history, which the caller may use.
func LoadHistory(path string) (History, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return History{}, nil
	}
	if err != nil {
		return History{}, fmt.Errorf("reading the history of runs: %w", err)
	}
	var history History
	if err := json.Unmarshal(content, &history); err != nil {
		return History{}, fmt.Errorf("reading the history of runs from %s, which may be removed: %w", path, err)
	}
	if history == nil { // the file said null
		history = History{}
	}
	return history, nil
}

// SaveHistory replaces the history file as a whole, and makes its folder where it
// is missing.
func SaveHistory(path string, history History) error {
	content, err := json.MarshalIndent(history, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the history of runs: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("creating the folder of the history of runs: %w", err)
	}
	return check.WriteFile(path, append(content, '\n'))
}

// Learn takes over the figures of a run that came to its end. Figures of phases
// that the run did not have are kept.
func (h History) Learn(phases []check.Phase) {
	fresh := History{}
	for _, p := range phases {
		if fresh[p.Environment] == nil {
			fresh[p.Environment] = map[string]float64{}
		}
		fresh[p.Environment][p.Name] += p.Seconds
	}
	for environment, names := range fresh {
		if h[environment] == nil {
			h[environment] = map[string]float64{}
		}
		for name, seconds := range names {
			h[environment][name] = seconds
		}
	}
}

// expected is what the phase took last time in this environment, else the longest
// that it took in another; zero when nothing is known.
func (h History) expected(environment, name string) time.Duration {
	seconds, known := h[environment][name]
	if !known {
		for _, names := range h {
			seconds = max(seconds, names[name])
		}
	}
	return time.Duration(seconds * float64(time.Second))
}
