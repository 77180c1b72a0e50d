package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

// pollInterval is how often a state of another process is looked at.
const pollInterval = 25 * time.Millisecond

// errHeld says that another process holds the lock.
var errHeld = errors.New("held by another process")

// tryLock takes the exclusive lock on the file at path, which it makes where that
// is wanted. The lock lasts until the last descriptor of the returned file is
// closed, in whichever process that is. The error is errHeld when another holds it,
// and fs.ErrNotExist when the file, or its folder, is gone.
func tryLock(path string, create bool) (*os.File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, errHeld)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// Who held it before may have removed the file: then this is a lock on nothing.
	if !isSameFile(file, path) {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, fs.ErrNotExist)
	}
	return file, nil
}

// waitLock takes the lock as tryLock does, and waits until it is free.
func waitLock(ctx context.Context, path string, create bool) (*os.File, error) {
	var file *os.File
	var last error
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(context.Context) (bool, error) {
		file, last = tryLock(path, create)
		if errors.Is(last, errHeld) {
			return false, nil
		}
		return true, last
	})
	if err != nil {
		return nil, errors.Join(last, context.Cause(ctx))
	}
	return file, nil
}

// Hold takes the lock on the file at path for this process as soon as it is free. It
// lasts until it is released or the process ends.
func Hold(ctx context.Context, path string) (release func(), err error) {
	file, err := waitLock(ctx, path, true)
	if err != nil {
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

// lockFolder makes the folder at path, if need be, and keeps other processes from
// changing what it holds until the returned function is called. They do so for
// milliseconds, and the system frees the lock of one that is killed, so it waits for
// as long as that takes.
func lockFolder(path string) (unlock func(), err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, explain(fmt.Errorf("make the folder %s: %w", path, err))
	}
	file, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explain(fmt.Errorf("lock the folder %s: %w", path, err))
	}
	for {
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock the folder %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}

// isHeld tells whether a process holds the lock at path. A file that is not there
// is held by none.
func isHeld(path string) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the lock %s: %w", path, err)
	}
	return false, nil
}

// isSameFile tells whether the open file is the one that path names.
func isSameFile(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(opened, named)
}
