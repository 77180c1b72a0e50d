package session

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Kinds of events that this package knows. Callers have kinds of their own beside
// them, and may emit KindReady; the others are emitted by Serve.
const (
	// KindReady says that everything is up, once.
	KindReady = "ready"
	// KindFailed says in Message why the session ends.
	KindFailed = "failed"
	// KindEnding says in Message who asked for the end, when the clean-up begins.
	KindEnding = "ending"
	// KindEnded says in Message what was removed, when all of it is gone.
	KindEnded = "ended"
)

// Event is something that happened in a supervisor, told to its client.
type Event struct {
	// Time is when it happened; Serve fills it in.
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	// Environment is the cluster that it is about; empty for all.
	Environment string `json:"environment,omitempty"`
	// Phase is the step of the bring-up.
	Phase   string `json:"phase,omitempty"`
	Message string `json:"message,omitempty"`
	// Expected is how many seconds the phase usually takes; 0 is unknown.
	Expected float64 `json:"expectedSeconds,omitempty"`
	// Data is what a kind of the caller's needs besides.
	Data json.RawMessage `json:"data,omitempty"`
}

// String gives the event as one line of the log.
func (e Event) String() string {
	words := []string{e.Time.Format(time.RFC3339), e.Kind}
	for _, word := range []string{e.Environment, e.Phase} {
		if word != "" {
			words = append(words, word)
		}
	}
	if e.Message == "" {
		return strings.Join(words, " ")
	}
	return strings.Join(words, " ") + ": " + e.Message
}

// eventQueue hands events to a reader that may be slow, stopped or gone, so that
// nobody who emits one ever waits. Once the reader is gone they are dropped.
type eventQueue struct {
	log io.Writer

	mutex  sync.Mutex
	events []Event
	closed bool

	wake    chan struct{}
	drained chan struct{}
}

// newEventQueue writes every event to the log and, as a JSON line, to the reader;
// a nil reader is one that is gone.
func newEventQueue(log, reader io.Writer) *eventQueue {
	q := &eventQueue{log: log, wake: make(chan struct{}, 1), drained: make(chan struct{})}
	go q.drain(reader)
	return q
}

func (q *eventQueue) put(event Event) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if q.closed {
		return
	}
	_, _ = fmt.Fprintln(q.log, event)
	q.events = append(q.events, event)
	q.wakeUp()
}

// wakeUp tells the goroutine that there is something to do, if it is not told yet.
func (q *eventQueue) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) drain(reader io.Writer) {
	defer close(q.drained)
	for range q.wake {
		q.mutex.Lock()
		events, closed := q.events, q.closed
		q.events = nil
		q.mutex.Unlock()
		for _, event := range events {
			if reader != nil && json.NewEncoder(reader).Encode(event) != nil {
				reader = nil
			}
		}
		if closed {
			return
		}
	}
}

// close waits until the reader has taken what is there, but no longer than limit.
func (q *eventQueue) close(limit time.Duration) {
	q.mutex.Lock()
	q.closed = true
	q.wakeUp()
	q.mutex.Unlock()
	select {
	case <-q.drained:
	case <-time.After(limit):
	}
}
