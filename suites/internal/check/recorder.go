package check

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// outcomeFiles are the recorders' files in the run folder.
const outcomeFiles = "outcomes-*.jsonl"

// Recorder writes outcomes down as they are made. Each process of a run opens
// its own on the same folder and so writes a file of its own: nothing is shared,
// and what a killed process had recorded is kept. It is safe for concurrent use.
type Recorder struct {
	mu   sync.Mutex
	file *os.File
	seen map[place]bool
}

// OpenRecorder creates a file of its own in the run folder, and the folder
// (private to the user) where it is missing.
func OpenRecorder(runFolder string) (*Recorder, error) {
	if err := os.MkdirAll(runFolder, 0o700); err != nil {
		return nil, fmt.Errorf("creating the run folder: %w", err)
	}
	file, err := os.CreateTemp(runFolder, outcomeFiles)
	if err != nil {
		return nil, fmt.Errorf("creating the outcomes file: %w", err)
	}
	return &Recorder{file: file, seen: map[place]bool{}}, nil
}

// Record appends one outcome. A second outcome for the same check, environment
// and tenant is an error: a retry that passes does not unsay a failure.
func (r *Recorder) Record(o Outcome) error {
	if err := o.Validate(); err != nil {
		return err
	}
	line, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding the outcome of %s: %w", o.key(), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[o.key()] {
		return duplicate(o.key())
	}
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("recording the outcome of %s: %w", o.key(), err)
	}
	r.seen[o.key()] = true
	return nil
}

// Close ends recording. What was recorded stays for ReadOutcomes.
func (r *Recorder) Close() error {
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("closing the outcomes file: %w", err)
	}
	return nil
}

// ReadOutcomes merges what every recorder of the run folder has written, sorted.
// An unreadable line and a second outcome of one place are errors; they are
// joined, and come together with the outcomes that could be read.
func ReadOutcomes(runFolder string) ([]Outcome, error) {
	files, err := filepath.Glob(filepath.Join(runFolder, outcomeFiles))
	if err != nil {
		return nil, fmt.Errorf("listing the outcomes of %s: %w", runFolder, err)
	}
	slices.Sort(files)
	var errs []error
	var outcomes []Outcome
	seen := map[place]bool{}
	for _, file := range files {
		read, err := readOutcomeFile(file)
		if err != nil {
			errs = append(errs, err)
		}
		for _, o := range read {
			if seen[o.key()] {
				errs = append(errs, duplicate(o.key()))
				continue
			}
			seen[o.key()] = true
			outcomes = append(outcomes, o)
		}
	}
	sortOutcomes(outcomes)
	return outcomes, errors.Join(errs...)
}

func readOutcomeFile(name string) ([]Outcome, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading outcomes: %w", err)
	}
	var errs []error
	var outcomes []Outcome
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, len(content)+1)
	for number := 1; lines.Scan(); number++ {
		var o Outcome
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&o)
		if err == nil {
			err = o.Validate()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s line %d, cut off or written by another version: %w", name, number, err))
			continue
		}
		outcomes = append(outcomes, o)
	}
	if err := lines.Err(); err != nil {
		errs = append(errs, fmt.Errorf("reading %s: %w", name, err))
	}
	return outcomes, errors.Join(errs...)
}

func duplicate(p place) error {
	return fmt.Errorf("%s is judged twice; each check is judged once per environment and tenant, and not retried", p)
}
