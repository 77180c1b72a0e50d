package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// Files in a session's folder.
const (
	lockName   = "lock"
	ledgerName = "ledger.json"
	stateName  = "session.json"
	// LogName is the file in a session's folder that holds all that its supervisor
	// wrote.
	LogName = "supervisor.log"
)

// idPattern is the form of an ID: when it began in UTC, and a random part.
var idPattern = regexp.MustCompile(`^\d{8}-\d{6}-[0-9a-f]{6}$`)

// Session is a session held by this process. Its methods may be called from any
// goroutine.
type Session struct {
	root, id string
	// lock is the session's life: it is free when no process has it open.
	lock   *os.File
	ledger *os.File

	portsMutex        sync.Mutex
	nextPort, endPort int

	stateMutex sync.Mutex
	state      State
}

// New makes a session below the state root: its folder, for this user only, its
// lock, which this process holds from then on, and the ledger with this process as
// the owner. End it with [Session.Remove].
func New(ctx context.Context, root string) (*Session, error) {
	lock, id, err := claim(ctx, root)
	if err != nil {
		return nil, err
	}
	dir := sessionDir(root, id)
	s := &Session{root: root, id: id, lock: lock}
	s.state = State{ID: id, Dir: dir, StartedAt: time.Now(), Client: os.Getpid()}
	if err := s.own(ctx); err != nil {
		_, removeErr := s.Remove(context.WithoutCancel(ctx))
		return nil, errors.Join(fmt.Errorf("begin session %s: %w", id, err), removeErr)
	}
	return s, nil
}

// claim makes the folder of a session and takes its lock. Nobody else looks at the
// folder in between, when it is like that of a session that has ended.
func claim(ctx context.Context, root string) (lock *os.File, id string, err error) {
	unlock, err := lockFolder(filepath.Join(root, sessionsName))
	if err != nil {
		return nil, "", fmt.Errorf("begin a session: %w", err)
	}
	defer unlock()
	var dir string
	for {
		id = newID(time.Now())
		dir = sessionDir(root, id)
		if err = os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return nil, "", explain(fmt.Errorf("make the folder of session %s: %w", id, err))
	}
	if lock, err = waitLock(ctx, filepath.Join(dir, lockName), true); err != nil {
		_ = os.RemoveAll(dir) // As well as may be; the next run finds what stays.
		return nil, "", explain(fmt.Errorf("begin session %s: %w", id, err))
	}
	return lock, id, nil
}

// adopt takes over a session that the client made and whose lock it handed over.
func adopt(ctx context.Context, root, id string, lock *os.File) (*Session, error) {
	dir := sessionDir(root, id)
	if !isSameFile(lock, filepath.Join(dir, lockName)) {
		return nil, fmt.Errorf("take over session %s: the lock that was handed over is not the one in %s", id, dir)
	}
	s := &Session{root: root, id: id, lock: lock}
	var err error
	if s.state, err = ReadState(filepath.Join(dir, stateName), nil); err != nil {
		return nil, fmt.Errorf("take over session %s: %w", id, err)
	}
	if err := s.own(ctx); err != nil {
		return nil, fmt.Errorf("take over session %s: %w", id, err)
	}
	return s, nil
}

// own writes this process down as the owner, in the ledger first.
func (s *Session) own(ctx context.Context) error {
	var err error
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if s.ledger, err = os.OpenFile(filepath.Join(s.Dir(), ledgerName), flags, 0o600); err != nil {
		return explain(fmt.Errorf("open the ledger: %w", err))
	}
	started, err := startOf(ctx, os.Getpid())
	if err != nil {
		return fmt.Errorf("find out when this process started: %w", err)
	}
	if err := s.Record(EntryOwner, owner{PID: os.Getpid(), Started: started, Command: os.Args}); err != nil {
		return err
	}
	return s.change(func(state *State) { state.PID = os.Getpid() })
}

// ID is the session's ID. IDs sort by the second in which the sessions began.
func (s *Session) ID() string { return s.id }

// Dir is the session's folder, an absolute path when the state root is one.
func (s *Session) Dir() string { return sessionDir(s.root, s.id) }

// Marker is the NAME=value by which the session's processes are found: each of them
// must have it in its environment.
func (s *Session) Marker() string { return marker(s.id) }

// Folder makes a folder of that name below the session's, for this user only, after
// it is in the ledger, and returns its path. One that is there already is no error.
func (s *Session) Folder(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("make a folder in session %s: %q leads out of it", s.id, name)
	}
	dir := filepath.Join(s.Dir(), name)
	if err := s.Record(EntryFolder, dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", explain(fmt.Errorf("make a folder in session %s: %w", s.id, err))
	}
	return dir, nil
}

// Record appends to the ledger what is about to be started. The detail must be
// something that JSON can hold.
func (s *Session) Record(kind string, detail any) error {
	return appendEntry(s.ledger, kind, detail)
}

// KeepLogs copies the supervisor's log so far into the folder to, which it makes
// when it is not there. It is for what is worth keeping after the session's end.
func (s *Session) KeepLogs(to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return explain(fmt.Errorf("keep the supervisor's log: %w", err))
	}
	log, err := os.Open(filepath.Join(s.Dir(), LogName))
	if err != nil {
		return fmt.Errorf("keep the supervisor's log: %w", err)
	}
	defer log.Close()
	return copyLog(log, filepath.Join(to, LogName))
}

// Remove ends the session: its processes but this one, its folder, its ports and its
// lock, and returns what there was. It waits until all of it is gone; what is still
// there is in the error.
func (s *Session) Remove(ctx context.Context) (Removal, error) {
	removal, err := dismantle(ctx, s.root, s.id)
	_ = s.ledger.Close()
	_ = s.lock.Close()
	return removal, err
}

func sessionDir(root, id string) string { return filepath.Join(root, sessionsName, id) }

func isID(id string) bool { return idPattern.MatchString(id) }

func newID(now time.Time) string {
	random := make([]byte, 3)
	_, _ = rand.Read(random) // It never fails: crypto/rand.
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(random)
}
