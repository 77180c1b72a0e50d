package component

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that another process holds is tried.
const lockPoll = 100 * time.Millisecond

// lock takes the component's lock, which all processes share, and clears what a
// killed holder left half-written. The kernel drops the lock of a process that
// ends, however it ends.
func (s *Store) lock(ctx context.Context, t *target, run *tally) (unlock func(), err error) {
	folder := s.folder(t.Name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, s.explain(err)
	}
	unlock, err = s.flock(ctx, t.Name, func(holder string) {
		run.tell(t, Waiting, "for "+holder+" that fetches or builds it", 0)
	})
	if err != nil {
		return nil, err
	}
	stale, err := filepath.Glob(filepath.Join(folder, workPrefix+"*"))
	for _, dir := range stale {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		unlock()
		return nil, s.explain(err)
	}
	return unlock, nil
}

// workPrefix marks folders that only the holder of the lock uses.
const workPrefix = ".work-"

// work makes a folder for what is not finished yet, on the same file system as
// the cache. The caller holds the component's lock and calls remove.
func (s *Store) work(name string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(s.folder(name), workPrefix)
	if err != nil {
		return "", nil, s.explain(err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// flock waits for the lock of this name; waiting is called at most once, with
// who holds it.
func (s *Store) flock(ctx context.Context, name string, waiting func(holder string)) (unlock func(), err error) {
	dir := filepath.Join(s.options.Dir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, s.explain(err)
	}
	path := filepath.Join(dir, name+".lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, s.explain(err)
	}
	if err := Lock(ctx, file, waiting); err != nil {
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

// Lock waits for the lock of an open file, which all processes share; waiting is
// called at most once, with who holds it. The kernel drops the lock when the last
// process that has the file open ends, however it ends. The file stays open after
// an error as well.
func Lock(ctx context.Context, file *os.File, waiting func(holder string)) error {
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if !told {
			waiting(holder(file))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the lock %s: %w", file.Name(), context.Cause(ctx))
		case <-ticker.C:
		}
	}
	// Whoever waits reads who holds it; nothing depends on it.
	if file.Truncate(0) == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	return nil
}

// holder names the process that a lock file tells of.
func holder(file *os.File) string {
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil && pid != os.Getpid() {
		return fmt.Sprintf("another process (pid %d)", pid)
	}
	return "another process"
}
