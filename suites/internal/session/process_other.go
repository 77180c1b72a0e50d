//go:build !linux

package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Processes returns the live processes of this user, other than this one, that
// carry the session's marker, in the order of their process IDs.
func Processes(ctx context.Context, id string) ([]Process, error) {
	output, err := ps(ctx, "-A", "-E", "-ww", "-o", "pid=,uid=,command=")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var found []Process
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil || pid == os.Getpid() || fields[1] != strconv.Itoa(os.Geteuid()) {
			continue
		}
		// The environment follows the command line, parted by blanks as well.
		command := fields[2:]
		if slices.Contains(command, marker(id)) {
			found = append(found, Process{PID: pid, Command: strings.Join(command, " ")})
		}
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

// isMarked tells whether the process lives and was started with the session's marker.
func isMarked(ctx context.Context, pid int, id string) (bool, error) {
	output, err := ps(ctx, "-E", "-ww", "-o", "command=", "-p", strconv.Itoa(pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.Contains(strings.Fields(output), marker(id)), err
}

// startOf returns when the process started, to the second. A process that has ended
// is fs.ErrNotExist.
func startOf(ctx context.Context, pid int) (string, error) {
	output, err := ps(ctx, "-o", "lstart=", "-p", strconv.Itoa(pid))
	return strings.TrimSpace(output), err
}

// isEnding knows nothing of threads: ps(1) lists a process until all have ended.
func isEnding(int) bool { return false }

// ps runs ps(1). No process that fits is fs.ErrNotExist.
func ps(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "ps", args...)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	output, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) == 0 {
		return "", fs.ErrNotExist
	}
	if err != nil {
		return "", fmt.Errorf("ps %s: %w", strings.Join(args, " "), err)
	}
	return string(output), nil
}
