package kind

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// machine is this machine.
type machine struct{}

func (machine) free(folder string) (bytes int64, known bool, err error) {
	var stat syscall.Statfs_t
	err = syscall.Statfs(folder, &stat)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("statfs %s: %w", folder, err)
	}
	return int64(stat.Bavail) * stat.Bsize, true, nil
}

func (machine) setting(path string) (value int64, known bool, err error) {
	data, err := os.ReadFile(filepath.Join("/proc/sys", path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	value, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return value, err == nil, err
}
