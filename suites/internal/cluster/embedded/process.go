package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is one start of a container's program. It leads a process group of its
// own, so that what it starts goes with it.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	// ended is closed when the program has ended and its group is gone.
	ended chan struct{}
	// finished, exit, signal and peak are set before ended is closed.
	finished time.Time
	exit     int32
	signal   int32
	peak     int64
}

// startProcess starts a program with its output going to a file. It is killed
// when ctx ends.
func startProcess(ctx context.Context, path string, args, env []string, dir, log string) (*process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", path, err)
	}
	// The child has its own copy.
	defer func() { _ = output.Close() }()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error {
		killGroup(cmd.Process.Pid)
		return nil
	}
	cmd.Env, cmd.Dir = env, dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &process{cmd: cmd, started: time.Now(), ended: make(chan struct{})}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	_ = p.cmd.Wait()
	killGroup(p.pid())
	p.finished = time.Now()
	state := p.cmd.ProcessState
	p.exit = int32(state.ExitCode())
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.signal = int32(status.Signal())
		p.exit = 128 + p.signal
	}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		p.peak = usage.Maxrss * rusageUnit
	}
	close(p.ended)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the program to end, kills it when it has not done so within the
// grace period, and waits until it is gone.
func (p *process) stop(grace time.Duration) {
	if grace > 0 {
		_ = syscall.Kill(-p.pid(), syscall.SIGTERM)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.ended:
			return
		case <-timer.C:
		}
	}
	select {
	case <-p.ended:
	default:
		killGroup(p.pid())
		<-p.ended
	}
}

// killGroup kills a process and everything in its group.
func killGroup(pid int) {
	if pid <= 1 {
		return
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
		return
	}
}
