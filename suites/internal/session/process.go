package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// MarkerVariable names the environment variable that every process of a session
// carries; its value is the session's ID.
const MarkerVariable = "FLUX_CONFORMANCE_SESSION"

const (
	// termGrace is how long a process has to end by itself once it was asked to.
	termGrace = 3 * time.Second
	// killGrace is how long the system may take to end what was killed.
	killGrace = 10 * time.Second
)

// Process is a process that carries a session's marker.
type Process struct {
	PID int `json:"pid"`
	// Command is its command line, its arguments parted by blanks.
	Command string `json:"command"`
}

// String gives the process ID and the command line, cut to the width of a line.
func (p Process) String() string {
	const width = 80
	command := p.Command
	if len(command) > width {
		command = strings.ToValidUTF8(command[:width], "") + "…"
	}
	return fmt.Sprintf("%d (%s)", p.PID, command)
}

func marker(id string) string { return MarkerVariable + "=" + id }

// signalMarked sends the signal to the process, if it still is one of the session.
// The handle is had before the marker is read: on Linux it stands for that very
// process, so a stranger who gets the same process ID later is not met.
func signalMarked(ctx context.Context, pid int, id string, signal syscall.Signal) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil //nolint:nilerr // it has ended, which is what is wanted
	}
	defer func() { _ = process.Release() }()
	marked, err := isMarked(ctx, pid, id)
	if err != nil || !marked {
		return err
	}
	return ignoreDone(process.Signal(signal))
}

// signalOwner sends the signal to the process that wrote itself down, if it lives.
func signalOwner(ctx context.Context, holder owner, signal syscall.Signal) error {
	process, err := os.FindProcess(holder.PID)
	if err != nil {
		return nil //nolint:nilerr // it has ended, which is what is wanted
	}
	defer func() { _ = process.Release() }()
	if !isAlive(ctx, holder) {
		return nil
	}
	return ignoreDone(process.Signal(signal))
}

// isAlive tells whether the very process that wrote itself down still runs.
func isAlive(ctx context.Context, holder owner) bool {
	started, err := startOf(ctx, holder.PID)
	return err == nil && started == holder.Started
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// endProcesses ends every process of the session but this one, and waits until they
// are gone. It asks first, and kills what is there after the grace. It returns what
// it found, and an error that names what did not end.
func endProcesses(ctx context.Context, id string) ([]Process, error) {
	var found []Process
	seen := map[int]bool{}
	asked := time.Now()
	empty := 0
	var left []Process
	ctx, cancel := context.WithTimeout(ctx, termGrace+killGrace)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		var err error
		if left, err = Processes(ctx, id); err != nil {
			return false, err
		}
		for pid := range seen {
			if isEnding(pid) {
				empty = 0
				return false, nil
			}
		}
		// A process that starts another and ends while the list is read may hide it
		// once, not twice.
		if len(left) == 0 {
			empty++
			return empty > 1, nil
		}
		empty = 0
		for _, process := range left {
			signal := syscall.SIGKILL
			if time.Since(asked) < termGrace {
				if seen[process.PID] {
					continue
				}
				signal = syscall.SIGTERM
			}
			if !seen[process.PID] {
				seen[process.PID] = true
				found = append(found, process)
			}
			if err := signalMarked(ctx, process.PID, id, signal); err != nil {
				return false, fmt.Errorf("end process %s: %w", process, err)
			}
		}
		return false, nil
	})
	if err != nil && len(left) > 0 {
		return found, fmt.Errorf("end the processes of session %s: %w; still there: %v", id, err, left)
	}
	if err != nil {
		return found, fmt.Errorf("end the processes of session %s: %w", id, err)
	}
	return found, nil
}
