package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const procDir = "/proc"

// Processes returns the live processes of this user, other than this one, that
// carry the session's marker, in the order of their process IDs. What has ended and
// was not waited for yet is not live.
func Processes(ctx context.Context, id string) ([]Process, error) {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || !isOwn(entry) {
			continue
		}
		if marked, err := isMarked(ctx, pid, id); err != nil || !marked {
			continue
		}
		command, err := os.ReadFile(procPath(pid, "cmdline"))
		if err != nil {
			continue
		}
		command = bytes.ReplaceAll(bytes.TrimRight(command, "\x00"), []byte{0}, []byte{' '})
		found = append(found, Process{PID: pid, Command: string(command)})
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

// isOwn tells whether the process is this user's.
func isOwn(entry fs.DirEntry) bool {
	info, err := entry.Info()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// isMarked tells whether the process lives and was started with the session's
// marker. A process whose environment may not be read is not one of ours.
func isMarked(_ context.Context, pid int, id string) (bool, error) {
	environ, err := os.ReadFile(procPath(pid, "environ"))
	if err != nil {
		return false, nil //nolint:nilerr // it has ended, or is a stranger's
	}
	return slices.Contains(strings.Split(string(environ), "\x00"), marker(id)), nil
}

// startOf returns when the process started, in clock ticks since the machine did:
// proc_pid_stat(5), field 22. A process that has ended is fs.ErrNotExist, also when
// it was not waited for yet.
func startOf(_ context.Context, pid int) (string, error) {
	path := procPath(pid, "stat")
	data, err := os.ReadFile(path)
	if errors.Is(err, syscall.ESRCH) {
		return "", fs.ErrNotExist
	}
	if err != nil {
		return "", err
	}
	fields := statFields(data)
	if len(fields) <= startField {
		return "", fmt.Errorf("read the start of process %d: %s has an unknown form", pid, path)
	}
	if state := fields[stateField]; state == "Z" || state == "X" {
		return "", fmt.Errorf("process %d has ended: %w", pid, fs.ErrNotExist)
	}
	return fields[startField], nil
}

// isEnding tells whether the process has ended but for threads that still do, and
// until then hold its files and listeners. Its marker cannot be read any more.
func isEnding(pid int) bool {
	data, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return false // it is gone
	}
	fields := statFields(data)
	return len(fields) > threadsField && fields[stateField] == "Z" && fields[threadsField] != "1"
}

// Places in proc_pid_stat(5): fields are numbered from 1 there, and two are cut off.
const stateField, threadsField, startField = 0, 17, 19

// statFields are those behind the second, the name in parentheses, which may hold
// blanks and parentheses.
func statFields(data []byte) []string {
	return strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
}

func procPath(pid int, name string) string {
	return filepath.Join(procDir, strconv.Itoa(pid), name)
}
