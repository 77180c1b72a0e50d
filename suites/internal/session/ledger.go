package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Kinds of ledger entries that this package writes itself. Callers have kinds of
// their own beside them.
const (
	// EntryOwner is a process that holds the session's lock; the last one counts.
	EntryOwner = "owner"
	// EntryPorts is a block of ports leased to the session.
	EntryPorts = "ports"
	// EntryFolder is a folder below the session's.
	EntryFolder = "folder"
)

// Entry is one line of the ledger: something that the session was about to start.
type Entry struct {
	Time time.Time `json:"time"`
	// Kind tells what it is; Detail is whatever the writer gave, as JSON.
	Kind   string          `json:"kind"`
	Detail json.RawMessage `json:"detail"`
}

// owner is the detail of an EntryOwner.
type owner struct {
	PID int `json:"pid"`
	// Started is the process's start as the system gives it; together with PID it
	// names a process of this machine.
	Started string   `json:"started"`
	Command []string `json:"command"`
}

// portBlock is the detail of an EntryPorts; both ends are included.
type portBlock struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// ReadLedger returns the entries of the session in dir, oldest first. A line that a
// killed writer left unfinished is passed over. A session that was killed before it
// wrote anything has none.
func ReadLedger(dir string) ([]Entry, error) {
	data, err := os.ReadFile(filepath.Join(dir, ledgerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	var entries []Entry
	for line := range bytes.Lines(data) {
		var entry Entry
		if json.Unmarshal(line, &entry) == nil {
			entries = append(entries, entry)
		}
	}
	return entries, nil
}

// readOwner returns the process that last wrote itself down as the holder of the
// lock of the session in dir.
func readOwner(dir string) (owner, bool) {
	entries, err := ReadLedger(dir)
	if err != nil {
		return owner{}, false
	}
	var last owner
	found := false
	for _, entry := range entries {
		var detail owner
		if entry.Kind == EntryOwner && json.Unmarshal(entry.Detail, &detail) == nil {
			last, found = detail, true
		}
	}
	return last, found
}

// leasedPorts returns the first ports of the blocks that the session in dir leased.
func leasedPorts(dir string) ([]int, error) {
	entries, err := ReadLedger(dir)
	var firsts []int
	for _, entry := range entries {
		var block portBlock
		if entry.Kind == EntryPorts && json.Unmarshal(entry.Detail, &block) == nil {
			firsts = append(firsts, block.First)
		}
	}
	return firsts, err
}

// appendEntry writes one entry to the end of the open ledger, in one write.
func appendEntry(ledger *os.File, kind string, detail any) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("record a %s in the ledger: %w", kind, err)
	}
	line, err := json.Marshal(Entry{Time: time.Now(), Kind: kind, Detail: raw})
	if err != nil {
		return fmt.Errorf("record a %s in the ledger: %w", kind, err)
	}
	if _, err := ledger.Write(append(line, '\n')); err != nil {
		return explain(fmt.Errorf("record a %s in the ledger: %w", kind, err))
	}
	return nil
}
