package component

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// errFatal marks an error after which no other way to the component is tried:
// bytes that are not what was asked for, or a disk that takes nothing.
var errFatal = errors.New("cannot go on")

// fatal marks err without changing its text.
type fatal struct{ error }

func (f fatal) Unwrap() []error { return []error{f.error, errFatal} }

// What building the whole set with nothing cached takes, mostly in the Go build
// cache: measured, 5.7 GiB for 15 programs.
const spacePerBuild = 400 << 20

// explain puts what to do beside an error of the file system.
func (s *Store) explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fatal{fmt.Errorf("disk full: %w; free some space, or set FLUX_CONFORMANCE_HOME to a folder on another disk (all components built from source take about 6 GiB)", err)}
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR):
		return fatal{fmt.Errorf("cache folder %s is not writable: %w; make it writable, or set FLUX_CONFORMANCE_HOME to a folder that is", s.options.Dir, err)}
	}
	return fmt.Errorf("cache folder %s: %w", s.options.Dir, err)
}

// freeSpace is the number of bytes that an ordinary user may still write on
// dir's file system; dir itself may not exist yet.
func freeSpace(dir string) (uint64, error) {
	var stat unix.Statfs_t
	for {
		err := unix.Statfs(dir, &stat)
		if err == nil {
			return stat.Bavail * uint64(stat.Bsize), nil
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, unix.ENOENT) || parent == dir {
			return 0, fmt.Errorf("free space of %s: %w", dir, err)
		}
		dir = parent
	}
}

// enoughSpace fails early rather than after minutes of compiling. Where the
// free space cannot be told, nothing is said.
func (s *Store) enoughSpace(dir string, need uint64) error {
	free, err := s.space(dir)
	if err != nil || free >= need {
		return nil //nolint:nilerr // an unknown file system is no reason to stop
	}
	return fatal{fmt.Errorf("disk full: %s has %s free, and %s may be needed; free some space, or move it (the cache by FLUX_CONFORMANCE_HOME, Go's build cache by GOCACHE)", dir, mebibytes(free), mebibytes(need))}
}

func mebibytes(n uint64) string { return fmt.Sprintf("%d MiB", n>>20) }
