package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// HomeVariable names the environment variable that moves the state root.
	HomeVariable = "FLUX_CONFORMANCE_HOME"

	rootName     = "flux-platform-conformance"
	sessionsName = "sessions"
	portsName    = "ports"
)

// Root returns the state root as an absolute path: $FLUX_CONFORMANCE_HOME or, when
// that is not set, the folder flux-platform-conformance of the user's cache folder.
// It is made, for its owner only, when it is not there. A root that cannot be
// written to is an error.
func Root() (string, error) {
	root := os.Getenv(HomeVariable)
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the user's cache folder for the state root: %w; set %s to a folder", err, HomeVariable)
		}
		root = filepath.Join(cache, rootName)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("resolve the state root: %w", err)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", explain(fmt.Errorf("make the state root: %w", err))
	}
	probe, err := os.CreateTemp(root, ".writable-*")
	if err != nil {
		return "", explain(fmt.Errorf("write to the state root: %w", err))
	}
	err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	if err != nil {
		return "", explain(fmt.Errorf("write to the state root: %w", err))
	}
	return root, nil
}

// explain adds to the error of a file operation what mends it.
func explain(err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		remedy = "the disk or the quota is full: free some space"
	case errors.Is(err, syscall.EROFS):
		remedy = "the file system is read-only"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		remedy = "this user may not write there: mend the folder's owner and mode"
	case errors.Is(err, syscall.ENOTDIR):
		remedy = "something that is not a folder is in the way"
	default:
		return err
	}
	return fmt.Errorf("%w (%s, or set %s to another folder)", err, remedy, HomeVariable)
}
