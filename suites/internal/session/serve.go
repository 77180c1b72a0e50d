package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

const (
	// handOverVariable tells a supervisor that its client made the session, and
	// whether it is to be kept.
	handOverVariable = "FLUX_CONFORMANCE_HANDOVER"
	handOverHeld     = "held"
	handOverKept     = "kept"

	// Descriptors that the client hands over, after the three standard ones.
	eventsDescriptor = 3
	lockDescriptor   = 4

	// stopWord is the line by which a client asks for the end of a session, kept or
	// not.
	stopWord = "stop"

	defaultServeGrace = time.Minute
	flushGrace        = 2 * time.Second
)

var errPanic = errors.New("panic")

// RunFunc brings a session up and keeps it so. It emits KindReady once everything is
// up and [Session.WriteState] has told how to reach it, waits until ctx ends, whose
// cause says why, cleans up and returns. An error of its own ends the session; one
// that only says that ctx ended is none.
type RunFunc func(ctx context.Context, s *Session, emit func(Event)) error

// ServeOptions say how a session is served.
type ServeOptions struct {
	// Grace is how long the function may take to clean up; 0 is a minute. After it,
	// or after a second signal, what it left is ended without it.
	Grace time.Duration
	// Keep makes a session that no client started outlive the end of its standard
	// input; a client says so itself.
	Keep bool
	// Log takes a line for each event; nil is the standard error, which a client
	// leads into the supervisor's log.
	Log io.Writer
}

// Serve is the supervisor: it takes over the session that the client made, or makes
// one where there is no client, runs the function, and at its end removes all that
// is the session's and returns why it failed, if it did.
//
// The session ends when the function returns or panics, when the client asks or,
// unless the session is kept and ready, is gone (its end of this process's standard
// input is closed), at SIGTERM, SIGINT or SIGHUP, and with ctx. Nothing may have
// been started by this process before. It sets the marker in the process's
// environment, so that what is started with that environment carries it.
func Serve(ctx context.Context, options ServeOptions, run RunFunc) error {
	if options.Log == nil {
		options.Log = os.Stderr
	}
	if options.Grace == 0 {
		options.Grace = defaultServeGrace
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	s, events, keep, err := open(ctx, options.Keep)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	server := &server{session: s, keep: keep, queue: newEventQueue(options.Log, events), cancel: cancel}
	defer server.queue.close(flushGrace)

	if err := os.Setenv(MarkerVariable, s.ID()); err != nil {
		_, removeErr := s.Remove(context.WithoutCancel(ctx))
		return errors.Join(fmt.Errorf("set the marker of session %s: %w", s.ID(), err), removeErr)
	}
	err = server.supervise(ctx, options.Grace, signals, run)
	if err != nil {
		server.emit(Event{Kind: KindFailed, Message: err.Error()})
	}
	removal, removeErr := s.Remove(context.WithoutCancel(ctx))
	if removeErr != nil {
		server.emit(Event{Kind: KindFailed, Message: removeErr.Error()})
		return errors.Join(err, removeErr)
	}
	server.emit(Event{Kind: KindEnded, Message: removal.String()})
	return err
}

// open takes over the client's session, and the descriptors with it, or makes one.
func open(ctx context.Context, keep bool) (s *Session, events io.Writer, kept bool, err error) {
	root, err := Root()
	if err != nil {
		return nil, nil, false, err
	}
	mode := os.Getenv(handOverVariable)
	if mode == "" {
		s, err = New(ctx, root)
		return s, nil, keep, err
	}
	if err := os.Unsetenv(handOverVariable); err != nil {
		return nil, nil, false, fmt.Errorf("take over the client's session: %w", err)
	}
	// Or everything that is started would hold the lock, and keep the client waiting.
	syscall.CloseOnExec(eventsDescriptor)
	syscall.CloseOnExec(lockDescriptor)
	lock := os.NewFile(lockDescriptor, lockName)
	s, err = adopt(ctx, root, os.Getenv(MarkerVariable), lock)
	return s, os.NewFile(eventsDescriptor, "events"), mode == handOverKept, err
}

// server is a session being served.
type server struct {
	session *Session
	keep    bool
	queue   *eventQueue
	cancel  context.CancelCauseFunc

	mutex sync.Mutex
	ready bool
	// broken is why a session that is up cannot be used.
	broken error
}

func (v *server) emit(event Event) {
	if event.Time.IsZero() {
		event.Time = time.Now()
	}
	v.queue.put(event)
}

// emitFrom is emit for the function that is run: its readiness is written into the
// session file before anyone hears of it.
func (v *server) emitFrom(event Event) {
	if event.Kind == KindReady {
		if err := v.setReady(); err != nil {
			v.cancel(err)
			return
		}
	}
	v.emit(event)
}

func (v *server) setReady() error {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	v.broken = v.session.change(func(state *State) { state.Ready, state.Kept = true, v.keep })
	v.ready = v.broken == nil
	return v.broken
}

func (v *server) status() (ready bool, broken error) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	return v.ready, v.broken
}

// supervise runs the function until it returns or, once its end was asked for, the
// grace is over.
func (v *server) supervise(ctx context.Context, grace time.Duration, signals <-chan os.Signal, run RunFunc) error {
	returned := make(chan error, 1)
	go func() { returned <- v.guard(ctx, run) }()
	go v.watchClient(os.Stdin)

	select {
	case err := <-returned:
		if ready, broken := v.status(); err == nil && broken == nil && !ready && ctx.Err() == nil {
			err = errors.New("it ended before it was ready")
		}
		return v.verdict(ctx, err)
	case received := <-signals:
		v.cancel(fmt.Errorf("the supervisor was asked to stop (%s)", received))
	case <-ctx.Done():
	}

	v.emit(Event{Kind: KindEnding, Message: context.Cause(ctx).Error()})
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case err := <-returned:
		return v.verdict(ctx, err)
	case received := <-signals:
		return fmt.Errorf("the clean-up was cut short by a second signal (%s)", received)
	case <-late.C:
		return fmt.Errorf("the clean-up did not end within %s", grace)
	}
}

// verdict is why the session failed, given what the function returned. What a
// bring-up says that was broken off is no failure, nor is that its context ended.
func (v *server) verdict(ctx context.Context, err error) error {
	ready, broken := v.status()
	if broken != nil {
		return errors.Join(broken, err)
	}
	if err == nil || ctx.Err() == nil || errors.Is(err, errPanic) {
		return err
	}
	if !ready || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)) {
		v.emit(Event{Kind: KindEnding, Message: "broken off: " + err.Error()})
		return nil
	}
	return err
}

// guard turns a panic of the function into an error.
func (v *server) guard(ctx context.Context, run RunFunc) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, reason, debug.Stack())
		}
	}()
	return run(ctx, v.session, v.emitFrom)
}

// watchClient ends the session when the client asks for it, or is gone.
func (v *server) watchClient(lifeline io.Reader) {
	lines := bufio.NewScanner(lifeline)
	for lines.Scan() {
		if lines.Text() == stopWord {
			v.cancel(errors.New("the client asked for the end"))
			return
		}
	}
	if ready, _ := v.status(); !v.keep || !ready {
		v.cancel(errors.New("the client is gone"))
	}
}
