package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// AttachVariable names the environment variable that says which session to attach
// to: the path of a session file, or an ID.
const AttachVariable = "FLUX_CONFORMANCE_ATTACH"

// ErrNoSession says that no session that could be attached to is running.
var ErrNoSession = errors.New("no session is running")

// State is what the session file holds, for those who attach.
type State struct {
	ID string `json:"id"`
	// Dir is the session's folder.
	Dir string `json:"dir"`
	// PID is the supervisor's process ID, and Client that of the process that
	// started it.
	PID       int       `json:"pid"`
	Client    int       `json:"client"`
	StartedAt time.Time `json:"startedAt"`
	// Kept says that the session outlives its client.
	Kept bool `json:"kept"`
	// Ready says that everything is up.
	Ready bool `json:"ready"`
	// Payload is what the session's owner gave to WriteState; empty before.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// File is the path of the session file.
func (s State) File() string { return filepath.Join(s.Dir, stateName) }

// WriteState puts the payload into the session file, in place of the last one.
// Readers see the old file or the new one, whole.
func (s *Session) WriteState(payload any) error {
	raw, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("write the session file: %w", err)
	}
	return s.change(func(state *State) { state.Payload = raw })
}

func (s *Session) change(apply func(*State)) error {
	s.stateMutex.Lock()
	defer s.stateMutex.Unlock()
	apply(&s.state)
	data, err := json.MarshalIndent(s.state, "", "  ")
	if err != nil {
		return fmt.Errorf("write the session file: %w", err)
	}
	file, err := os.CreateTemp(s.Dir(), "."+stateName+"-*") // With mode 0600.
	if err != nil {
		return explain(fmt.Errorf("write the session file: %w", err))
	}
	_, err = file.Write(append(data, '\n'))
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), s.state.File())
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return explain(fmt.Errorf("write the session file: %w", err))
	}
	return nil
}

// ReadState reads the session file at path, and its payload into the value that
// payload points to, unless that is nil or the file has none yet. It does not look
// whether the session lives.
func ReadState(path string, payload any) (State, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return State{}, fmt.Errorf("read the session file: %w", err)
	}
	var state State
	if err := json.Unmarshal(data, &state); err != nil {
		return State{}, fmt.Errorf("read the session file %s: %w", path, err)
	}
	if payload != nil && len(state.Payload) > 0 {
		if err := json.Unmarshal(state.Payload, payload); err != nil {
			return State{}, fmt.Errorf("read the payload of the session file %s: %w", path, err)
		}
	}
	return state, nil
}

// Find returns the live sessions below the state root, oldest first, kept or not,
// ready or not.
func Find(ctx context.Context, root string) ([]State, error) {
	ids, err := sessionIDs(root)
	if err != nil {
		return nil, err
	}
	var states []State
	for _, id := range ids {
		dir := sessionDir(root, id)
		live, err := isLive(ctx, dir)
		if err != nil {
			return nil, err
		}
		state, err := ReadState(filepath.Join(dir, stateName), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue // It has just begun, or just ended.
		}
		if err != nil {
			return nil, err
		}
		if live {
			states = append(states, state)
		}
	}
	slices.SortStableFunc(states, func(a, b State) int { return a.StartedAt.Compare(b.StartedAt) })
	return states, nil
}

// Attach returns the session to attach to: the one that $FLUX_CONFORMANCE_ATTACH
// names, or the only kept one. It must be live and ready. That there is none is
// ErrNoSession; that there are several is an error that names them.
func Attach(ctx context.Context, root string) (State, error) {
	reference := os.Getenv(AttachVariable)
	if reference == "" {
		state, err := onlyKept(ctx, root)
		if err != nil {
			return State{}, err
		}
		return state, state.check(ctx)
	}
	path := reference
	if isID(reference) {
		path = filepath.Join(sessionDir(root, reference), stateName)
	}
	state, err := ReadState(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("attach to the session that %s=%s names: %w under that name; unset it, or bring one up with «make up»", AttachVariable, reference, ErrNoSession)
	}
	if err != nil {
		return State{}, fmt.Errorf("attach to the session that %s names: %w", AttachVariable, err)
	}
	return state, state.check(ctx)
}

// onlyKept returns the one kept session that is live.
func onlyKept(ctx context.Context, root string) (State, error) {
	live, err := Find(ctx, root)
	if err != nil {
		return State{}, fmt.Errorf("find a session to attach to: %w", err)
	}
	var kept []State
	var names []string
	for _, state := range live {
		if state.Kept {
			kept = append(kept, state)
			names = append(names, state.ID)
		}
	}
	switch len(kept) {
	case 0:
		return State{}, fmt.Errorf("find a session to attach to: %w: bring one up with «make up»", ErrNoSession)
	case 1:
		return kept[0], nil
	default:
		return State{}, fmt.Errorf("find a session to attach to: %d are running: %s; name one in %s", len(kept), strings.Join(names, ", "), AttachVariable)
	}
}

// check returns why the session cannot be attached to.
func (s State) check(ctx context.Context) error {
	live, err := isLive(ctx, s.Dir)
	switch {
	case err != nil:
		return fmt.Errorf("attach to session %s: %w", s.ID, err)
	case !live:
		return fmt.Errorf("attach to session %s: %w under that name any more: its supervisor (process %d) has ended; bring one up with «make up»", s.ID, ErrNoSession, s.PID)
	case !s.Ready:
		return fmt.Errorf("attach to session %s: it is still coming up; wait until it is ready", s.ID)
	}
	return nil
}

// isLive tells whether the session in dir is held, and by the process that says so
// in the ledger rather than by one that removes what a dead one left.
func isLive(ctx context.Context, dir string) (bool, error) {
	held, err := isHeld(filepath.Join(dir, lockName))
	if err != nil || !held {
		return false, err
	}
	holder, found := readOwner(dir)
	return found && isAlive(ctx, holder), nil
}

// sessionIDs returns the IDs of all sessions that have a folder.
func sessionIDs(root string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, sessionsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the sessions: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if entry.IsDir() && isID(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}
