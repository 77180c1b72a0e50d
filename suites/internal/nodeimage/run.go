package nodeimage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Names of the recipe and of what it leaves.
const (
	script      = "build.sh"
	nodeTar     = "node.tar"
	iptablesTar = "iptables.tar"
)

const (
	// grace is how long an interrupted recipe may take to clear up.
	grace = 20 * time.Second
	// beat is how often a step that lasts is told again.
	beat = 5 * time.Second
	// lastWords is how many lines of the recipe's output an error holds.
	lastWords = 30
)

// run runs the recipe. It inherits the lock, so that even when this process is
// killed, nobody begins in its folder before it has ended.
func run(ctx context.Context, options Options, recipe, programs, out string, lock *os.File) error {
	runtime.LockOSThread() // the parent whose death is signalled is its thread
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(recipe, script), programs, out)
	cmd.Env = append(os.Environ(), "KUBERNETES_VERSION="+options.Kubernetes, "DEBIAN_SUITE="+options.Suite)
	if options.Mirror != "" {
		cmd.Env = append(cmd.Env, "DEBIAN_MIRROR="+options.Mirror)
	}
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.WaitDelay = grace
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	output := tail{started: time.Now(), progress: options.Progress}
	var read sync.WaitGroup
	read.Go(func() { output.read(reader) })
	stop := make(chan struct{})
	read.Go(func() { output.repeat(stop) })
	err := cmd.Run()
	_ = writer.Close()
	close(stop)
	read.Wait()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("the recipe was stopped: %w", cause)
	}
	if err != nil {
		return fmt.Errorf("run the recipe %s: %w\n%s", script, err, strings.Join(output.lines, "\n"))
	}
	return nil
}

// tail passes the recipe's lines on and keeps the last ones.
type tail struct {
	started  time.Time
	progress func(string)

	mu    sync.Mutex
	step  string
	lines []string
}

func (t *tail) read(from io.Reader) {
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		line := scanner.Text()
		step, ours := strings.CutPrefix(line, "node image: ")
		t.mu.Lock()
		if t.lines = append(t.lines, line); len(t.lines) > lastWords {
			t.lines = t.lines[1:]
		}
		if ours {
			t.step = step
		}
		t.mu.Unlock()
		if ours {
			t.progress(step)
		}
	}
	// A line that no buffer holds must not block the recipe.
	_, _ = io.Copy(io.Discard, from)
}

// repeat tells the step at hand again while it lasts.
func (t *tail) repeat(stop <-chan struct{}) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		t.mu.Lock()
		step := t.step
		t.mu.Unlock()
		if step != "" {
			t.progress(fmt.Sprintf("%s: %s elapsed", step, time.Since(t.started).Round(time.Second)))
		}
	}
}
