package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// reapGrace is how long the client may take to remove what its supervisor left.
	reapGrace = time.Minute
	// tailLines is how much of the log an error shows.
	tailLines = 20
)

// StartOptions say how a supervisor is started.
type StartOptions struct {
	// Root is the state root; required.
	Root string
	// Executable is the program; empty is the one that runs.
	Executable string
	// Args are its arguments, without its name; it must call [Serve].
	Args []string
	// Env is its environment; nil is that of this process.
	Env []string
	// Keep makes the session outlive this process once it is ready.
	Keep bool
	// Events is called for each event, one after the other; nil drops them.
	Events func(Event)
	// LogFile is where the supervisor's log is copied when the session has ended;
	// empty is nowhere.
	LogFile string
}

// Supervisor is a supervisor that this process started. Its session ends when this
// process does, however that happens, unless it is kept.
type Supervisor struct {
	options StartOptions
	session *Session
	command *exec.Cmd
	log     *os.File
	stdin   io.WriteCloser

	ready  chan struct{}
	failed chan struct{}
	done   chan struct{}

	mutex sync.Mutex
	// asked says that this process wanted the end, killed that it had to use force.
	asked, killed bool
	failure       error
	err           error
}

// Start makes a session and starts its supervisor, in a session of the system of
// its own, so that the terminal's signals reach this process only. It does not wait
// for readiness; ctx is for the start alone.
func Start(ctx context.Context, options StartOptions) (*Supervisor, error) {
	if options.Root == "" {
		return nil, errors.New("start a supervisor: no state root given")
	}
	if options.Executable == "" {
		var err error
		if options.Executable, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("start a supervisor: find this program: %w", err)
		}
	}
	if options.Env == nil {
		options.Env = os.Environ()
	}
	s, err := New(ctx, options.Root)
	if err != nil {
		return nil, err
	}
	v := &Supervisor{
		options: options, session: s,
		ready: make(chan struct{}), failed: make(chan struct{}), done: make(chan struct{}),
	}
	if err := v.start(ctx); err != nil {
		_, removeErr := s.Remove(context.WithoutCancel(ctx))
		return nil, errors.Join(fmt.Errorf("start the supervisor of session %s: %w", s.ID(), err), removeErr)
	}
	return v, nil
}

func (v *Supervisor) start(ctx context.Context) error {
	var err error
	logPath := filepath.Join(v.session.Dir(), LogName)
	if v.log, err = os.OpenFile(logPath, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return explain(err)
	}
	events, eventsEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	mode := handOverHeld
	if v.options.Keep {
		mode = handOverKept
	}
	// The supervisor outlives ctx: it is to be asked, not killed.
	v.command = exec.CommandContext(context.WithoutCancel(ctx), v.options.Executable, v.options.Args...)
	v.command.Env = append(v.options.Env[:len(v.options.Env):len(v.options.Env)],
		v.session.Marker(), handOverVariable+"="+mode, HomeVariable+"="+v.options.Root)
	v.command.Stdout, v.command.Stderr = v.log, v.log
	v.command.ExtraFiles = []*os.File{eventsEnd, v.session.lock} // As eventsDescriptor and lockDescriptor.
	v.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if v.stdin, err = v.command.StdinPipe(); err == nil {
		err = v.command.Start()
	}
	_ = eventsEnd.Close()
	if err != nil {
		_ = events.Close()
		_ = v.log.Close()
		return err
	}
	// From here on the lock is the supervisor's alone.
	_ = v.session.lock.Close()
	_ = v.session.ledger.Close()

	read := make(chan struct{})
	go func() {
		defer close(read)
		v.readEvents(events)
	}()
	go v.watch(context.WithoutCancel(ctx), events, read)
	return nil
}

// ID is the session's ID.
func (v *Supervisor) ID() string { return v.session.ID() }

// File is the path of the session file, for those who attach.
func (v *Supervisor) File() string { return filepath.Join(v.session.Dir(), stateName) }

// Log is the path of the supervisor's log while the session lives.
func (v *Supervisor) Log() string { return filepath.Join(v.session.Dir(), LogName) }

// WaitReady waits until the session is ready. The error says why it never will be,
// or that ctx ended before.
func (v *Supervisor) WaitReady(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-v.failed:
		return v.reason()
	case <-v.done:
		return v.Err()
	case <-ctx.Done():
		return fmt.Errorf("wait until session %s is ready: %w", v.ID(), context.Cause(ctx))
	}
}

// Done is closed when the supervisor has ended, by itself, asked or killed, and all
// that was the session's is gone, or could not be removed.
func (v *Supervisor) Done() <-chan struct{} { return v.done }

// Err is nil while the supervisor runs and when it ended well because this process
// wanted it; else it says why it ended, what it left and what the end of its log is.
func (v *Supervisor) Err() error {
	select {
	case <-v.done:
		return v.err
	default:
		return nil
	}
}

// Stop ends the session, kept or not, waits until all of it is gone, and returns
// [Supervisor.Err]. When ctx ends before, the supervisor is killed, what it left is
// removed all the same, and that is in the error.
func (v *Supervisor) Stop(ctx context.Context) error {
	v.mutex.Lock()
	v.asked = true
	// A supervisor that has ended does not read it, which is as well.
	_, _ = io.WriteString(v.stdin, stopWord+"\n")
	_ = v.stdin.Close()
	v.mutex.Unlock()
	select {
	case <-v.done:
		return v.err
	case <-ctx.Done():
	}
	v.mutex.Lock()
	v.killed = true
	v.mutex.Unlock()
	_ = v.command.Process.Kill() // It may have ended by now.
	<-v.done
	return v.err
}

// readEvents hands on the events until the supervisor has closed its end.
func (v *Supervisor) readEvents(events io.Reader) {
	decoder := json.NewDecoder(events)
	ready := false
	for {
		var event Event
		// A killed supervisor may leave half an event behind.
		if decoder.Decode(&event) != nil {
			return
		}
		if v.options.Events != nil {
			v.options.Events(event)
		}
		switch event.Kind {
		case KindReady:
			if !ready {
				close(v.ready)
			}
			ready = true
		case KindFailed:
			v.fail(errors.New(event.Message))
		}
	}
}

// fail adds a reason that the supervisor gave for its end.
func (v *Supervisor) fail(reason error) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.failure == nil {
		close(v.failed)
	}
	v.failure = errors.Join(v.failure, reason)
}

func (v *Supervisor) reason() error {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.failure == nil {
		return nil
	}
	return fmt.Errorf("session %s failed: %w", v.ID(), v.failure)
}

// watch waits for the supervisor's end and removes what it left.
func (v *Supervisor) watch(ctx context.Context, events *os.File, read <-chan struct{}) {
	exit := v.command.Wait()
	// Nothing that the supervisor started has its end of the pipe, so it is at its
	// end; but nobody is to wait for ever if something had.
	_ = events.SetReadDeadline(time.Now().Add(flushGrace))
	<-read
	_ = events.Close()

	ctx, cancel := context.WithTimeout(ctx, reapGrace)
	defer cancel()
	removal, reapErr := Reap(ctx, v.options.Root, v.ID())
	v.err = errors.Join(v.endError(exit, removal), reapErr)
	if v.options.LogFile != "" {
		if err := copyLog(v.log, v.options.LogFile); err != nil {
			v.err = errors.Join(v.err, err)
		}
	}
	_ = v.log.Close()
	close(v.done)
}

// endError says why the supervisor ended, when that is not what this process wanted.
func (v *Supervisor) endError(exit error, removal Removal) error {
	reason := v.reason()
	v.mutex.Lock()
	defer v.mutex.Unlock()
	switch {
	case v.killed && removal.ID != "":
		return fmt.Errorf("the supervisor of session %s did not end in time and was killed; what it left was removed: %s%s%s", v.ID(), removal, v.where(), v.tail())
	case reason != nil:
		return reason
	case v.killed:
		return nil // It had just come to its end.
	case exit != nil:
		return fmt.Errorf("the supervisor of session %s ended unexpectedly (%w); what it left was removed: %s%s%s", v.ID(), exit, removal, v.where(), v.tail())
	case !v.asked:
		return fmt.Errorf("session %s was ended from outside%s", v.ID(), v.where())
	default:
		return nil
	}
}

func (v *Supervisor) where() string {
	if v.options.LogFile == "" {
		return ""
	}
	return "; its log: " + v.options.LogFile
}

// tail gives the last lines of the log.
func (v *Supervisor) tail() string {
	const most = 16 << 10
	info, err := v.log.Stat()
	if err != nil || info.Size() == 0 {
		return ""
	}
	from := max(0, info.Size()-most)
	data := make([]byte, info.Size()-from)
	if _, err := v.log.ReadAt(data, from); err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	return "; the end of its log:\n" + strings.Join(lines, "\n")
}

// copyLog copies the whole log to the file to.
func copyLog(log *os.File, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return explain(fmt.Errorf("keep the supervisor's log: %w", err))
	}
	file, err := os.Create(to)
	if err != nil {
		return explain(fmt.Errorf("keep the supervisor's log: %w", err))
	}
	info, err := log.Stat()
	if err == nil {
		_, err = io.Copy(file, io.NewSectionReader(log, 0, info.Size()))
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return explain(fmt.Errorf("keep the supervisor's log: %w", err))
	}
	return nil
}
