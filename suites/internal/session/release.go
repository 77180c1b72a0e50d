package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ReleaseFunc takes down what one ledger entry stands for, and says what that was;
// empty where nothing was left of it. It may be called for what is gone already, or
// never came to be, and by another process than the one that wrote the entry. It
// returns when all of it is gone.
type ReleaseFunc func(ctx context.Context, detail json.RawMessage) (what string, err error)

var (
	releasesMutex sync.RWMutex
	releases      = map[string]ReleaseFunc{}
)

// Register says how ledger entries of a kind are taken down by whoever removes a
// session. Processes, ports and folders need none. Each kind is registered once,
// when the program starts.
func Register(kind string, release ReleaseFunc) {
	releasesMutex.Lock()
	defer releasesMutex.Unlock()
	if releases[kind] != nil {
		panic("session: a second release for ledger entries of kind " + kind)
	}
	releases[kind] = release
}

// releaseEntries takes down what the ledger in dir holds of registered kinds, the
// newest first, and goes on where one cannot be.
func releaseEntries(ctx context.Context, dir string) (released []string, err error) {
	entries, err := ReadLedger(dir)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, entry := range slices.Backward(entries) {
		releasesMutex.RLock()
		release := releases[entry.Kind]
		releasesMutex.RUnlock()
		if release == nil {
			continue
		}
		what, err := release(ctx, entry.Detail)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s of %s: %w", entry.Kind, entry.Time.Format("15:04:05"), err))
		}
		if what != "" {
			released = append(released, what)
		}
	}
	return released, errors.Join(failed...)
}
