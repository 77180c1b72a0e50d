package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// handOver is how long the lock of a session may be held by nobody known: by a
	// supervisor that has not written itself down yet, or by another that cleans up.
	handOver = 30 * time.Second
	// cleanGrace is how long Clean lets a supervisor end its session by itself.
	cleanGrace = 30 * time.Second

	removedPrefix = ".removed-"
)

// ErrRunning says that a session's supervisor lives, so that nothing of the session
// was touched.
var ErrRunning = errors.New("its supervisor is running")

// ErrLeft says that something which a session had written down could not be taken
// down now. The session stays, and whoever reaps it next tries again.
var ErrLeft = errors.New("it stays until what it left can be taken down")

// Removal is what was removed of a session. The zero value is of a session of which
// nothing was left.
type Removal struct {
	ID string `json:"id"`
	// Processes were ended.
	Processes []Process `json:"processes,omitempty"`
	// Released says what was taken down of what callers had written down.
	Released []string `json:"released,omitempty"`
	// Ports are the first ports of the blocks that were released.
	Ports []int `json:"ports,omitempty"`
	// Folder was removed.
	Folder string `json:"folder,omitempty"`
	// Left says what could not be taken down, and why: the session is still there.
	Left string `json:"left,omitempty"`
}

// String says it in one line.
func (r Removal) String() string {
	if r.ID == "" {
		return "nothing was left"
	}
	parts := []string{}
	if len(r.Processes) > 0 {
		names := make([]string, len(r.Processes))
		for i, process := range r.Processes {
			names[i] = process.String()
		}
		parts = append(parts, fmt.Sprintf("ended %d processes: %s", len(r.Processes), strings.Join(names, ", ")))
	}
	if len(r.Released) > 0 {
		parts = append(parts, "removed "+strings.Join(r.Released, ", "))
	}
	if len(r.Ports) > 0 {
		parts = append(parts, fmt.Sprintf("released the port blocks from %s", strings.Trim(fmt.Sprint(r.Ports), "[]")))
	}
	if r.Folder != "" {
		parts = append(parts, "removed "+r.Folder)
	}
	if r.Left != "" {
		parts = append(parts, r.Left)
	}
	if len(parts) == 0 {
		return "session " + r.ID + ": nothing was left"
	}
	return "session " + r.ID + ": " + strings.Join(parts, "; ")
}

// Reap removes what a session left whose supervisor is dead: it ends the processes
// that carry the session's marker, takes down what is written down and registered
// ([Register]), gives back the ports and removes the folder, and waits until all of
// that is gone. What cannot be taken down now is ErrLeft, and keeps the session for
// the next time. It is ErrRunning when the supervisor lives. When
// another process does the same, it waits for it. Reaping what is gone is no error,
// and the removal is zero.
func Reap(ctx context.Context, root, id string) (Removal, error) {
	if !isID(id) {
		return Removal{}, fmt.Errorf("reap session %q: not the ID of a session", id)
	}
	lock, err := lockDead(ctx, root, id)
	if errors.Is(err, fs.ErrNotExist) {
		return Removal{}, nil
	}
	if err != nil {
		return Removal{}, fmt.Errorf("reap session %s: %w", id, err)
	}
	defer lock.Close()
	return dismantle(ctx, root, id)
}

// ReapStale reaps all sessions below the state root whose supervisors are dead, and
// goes on where one cannot be. It returns what it removed, and what has to stay for
// a later time, which is no error; live sessions are left alone, kept or not.
func ReapStale(ctx context.Context, root string) ([]Removal, error) {
	ids, err := sessionIDs(root)
	if err != nil {
		return nil, err
	}
	var removals []Removal
	var failed []error
	for _, id := range ids {
		removal, err := Reap(ctx, root, id)
		if errors.Is(err, ErrRunning) {
			continue
		}
		if err != nil && !errors.Is(err, ErrLeft) {
			failed = append(failed, err)
		}
		if removal.ID != "" {
			removals = append(removals, removal)
		}
	}
	failed = append(failed, removeLeftovers(root))
	return removals, errors.Join(failed...)
}

// Clean ends all sessions below the state root, live ones too, kept or not. A live
// supervisor is asked first, and killed when it takes too long. It returns what it
// ended and removed, and goes on where something cannot be.
func Clean(ctx context.Context, root string) ([]Removal, error) {
	return clean(ctx, root, cleanGrace)
}

func clean(ctx context.Context, root string, grace time.Duration) ([]Removal, error) {
	ids, err := sessionIDs(root)
	if err != nil {
		return nil, err
	}
	var removals []Removal
	var failed []error
	for _, id := range ids {
		removal, err := cleanOne(ctx, root, id, grace)
		if err != nil {
			failed = append(failed, err)
		}
		if removal.ID != "" {
			removals = append(removals, removal)
		}
	}
	failed = append(failed, removeLeftovers(root))
	return removals, errors.Join(failed...)
}

func cleanOne(ctx context.Context, root, id string, grace time.Duration) (Removal, error) {
	removal, err := Reap(ctx, root, id)
	if !errors.Is(err, ErrRunning) {
		return removal, err
	}
	// What the supervisor ends by itself is looked up before.
	live := Removal{ID: id, Folder: sessionDir(root, id)}
	if live.Processes, err = Processes(ctx, id); err != nil {
		return Removal{}, err
	}
	if live.Ports, err = leasedPorts(live.Folder); err != nil {
		return Removal{}, err
	}
	asked, cancel := context.WithTimeout(ctx, grace)
	err = Stop(asked, root, id)
	cancel()
	if err == nil {
		return live, nil
	}
	if ctx.Err() != nil {
		return Removal{}, err
	}
	if holder, found := readOwner(sessionDir(root, id)); found {
		if err := signalOwner(ctx, holder, syscall.SIGKILL); err != nil {
			return Removal{}, fmt.Errorf("kill the supervisor of session %s (process %d): %w", id, holder.PID, err)
		}
		if err := waitDead(ctx, holder); err != nil {
			return Removal{}, err
		}
	}
	_, err = Reap(ctx, root, id)
	return live, err
}

// Stop asks the supervisor of a session to end it, and waits until all of it is
// gone. A session that has ended is no error. What is still there when ctx ends is
// an error that says where to look.
func Stop(ctx context.Context, root, id string) error {
	if !isID(id) {
		return fmt.Errorf("stop session %q: not the ID of a session", id)
	}
	dir := sessionDir(root, id)
	holder := owner{}
	for {
		_, err := Reap(ctx, root, id)
		if err == nil && holder.PID != 0 {
			// Its folder is gone, but it may still be on its way out.
			return waitDead(ctx, holder)
		}
		if !errors.Is(err, ErrRunning) {
			return err
		}
		// The owner changes when the client hands the session over.
		if current, found := readOwner(dir); found && current.PID != holder.PID {
			holder = current
			if err := signalOwner(ctx, holder, syscall.SIGTERM); err != nil {
				return fmt.Errorf("ask the supervisor of session %s (process %d) to stop: %w", id, holder.PID, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop session %s: %w: its supervisor (process %d) still runs; look at %s, or end it by force with «make clean»", id, context.Cause(ctx), holder.PID, filepath.Join(dir, LogName))
		case <-time.After(pollInterval):
		}
	}
}

// lockDead takes the lock of a session whose owner is dead. It is ErrRunning when
// the owner lives, and fs.ErrNotExist when the session is gone.
func lockDead(ctx context.Context, root, id string) (*os.File, error) {
	dir := sessionDir(root, id)
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	var lock *os.File
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		unlock, err := lockFolder(filepath.Join(root, sessionsName))
		if err != nil {
			return false, err
		}
		lock, err = tryLock(filepath.Join(dir, lockName), true)
		unlock()
		if !errors.Is(err, errHeld) {
			return true, err
		}
		if holder, found := readOwner(dir); found && isAlive(ctx, holder) {
			return false, ErrRunning
		}
		return false, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%w while its lock is held by a process that is not in its ledger", err)
	}
	return lock, err
}

func waitDead(ctx context.Context, holder owner) error {
	err := wait.PollUntilContextTimeout(ctx, pollInterval, killGrace, true, func(ctx context.Context) (bool, error) {
		return !isAlive(ctx, holder), nil
	})
	if err != nil {
		return fmt.Errorf("wait for the end of process %d: %w", holder.PID, err)
	}
	return nil
}

// dismantle removes all that belongs to the session, whose lock the caller holds.
// The ledger goes last, so that what cannot be removed stays written down.
func dismantle(ctx context.Context, root, id string) (Removal, error) {
	removal := Removal{ID: id}
	var failed []error
	var err error
	if removal.Processes, err = endProcesses(ctx, id); err != nil {
		// Their folder and ports are still in use.
		return removal, err
	}
	dir := sessionDir(root, id)
	if removal.Released, err = releaseEntries(ctx, dir); err != nil {
		// Their ports may be in use, and their entries have to stay.
		removal.Left = fmt.Sprintf("%v: %s", ErrLeft, strings.ReplaceAll(err.Error(), "\n", "; "))
		return removal, fmt.Errorf("remove session %s in %s: %w: %w", id, dir, ErrLeft, err)
	}
	if removal.Ports, err = releaseBlocks(root, id); err != nil {
		failed = append(failed, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		failed = append(failed, err)
	}
	for _, entry := range entries {
		if entry.Name() == lockName || entry.Name() == ledgerName {
			continue
		}
		if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
			failed = append(failed, err)
		}
	}
	if err := errors.Join(failed...); err != nil {
		return removal, explain(fmt.Errorf("remove what session %s left in %s: %w", id, dir, err))
	}
	// Renamed first: an empty folder without its lock would be a session to others.
	removed := filepath.Join(root, sessionsName, removedPrefix+id)
	err = os.Rename(dir, removed)
	if err == nil {
		err = os.RemoveAll(removed)
	}
	if err != nil {
		return removal, explain(fmt.Errorf("remove the folder of session %s: %w", id, err))
	}
	removal.Folder = dir
	return removal, nil
}

// removeTree removes the file or folder at path and all below it, also below
// folders that their owner may not write to.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// What cannot be changed shows again in the second attempt.
	_ = filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && err == nil {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// removeLeftovers removes what no session owns: folders whose removal was cut short
// and leases of sessions that have no folder.
func removeLeftovers(root string) error {
	entries, err := os.ReadDir(filepath.Join(root, sessionsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list the sessions: %w", err)
	}
	var failed []error
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), removedPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, sessionsName, entry.Name())); err != nil {
			failed = append(failed, explain(fmt.Errorf("remove the folder of a session that has ended: %w", err)))
		}
	}
	_, err = removeLeases(root, func(holder string) bool {
		if !isID(holder) {
			return true
		}
		_, err := os.Stat(sessionDir(root, holder))
		return errors.Is(err, fs.ErrNotExist)
	})
	return errors.Join(append(failed, err)...)
}
