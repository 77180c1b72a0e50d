package live

import (
	"context"
	"sync"
	"time"
)

const (
	// firstWorkers requests are under way at first, at most mostWorkers.
	firstWorkers = 8
	mostWorkers  = 64
	// window is how many answers make a measurement.
	window = 64
)

// limit is how many requests may be under way. It grows while more of them bring
// more answers in a second, goes back where they do not, and shrinks at once where
// the server cannot keep up.
type limit struct {
	mu      sync.Mutex
	waiting []chan struct{}
	allowed int
	busy    int
	most    int

	answers int
	since   time.Time
	// rate is that of the last measurement, with last workers.
	rate float64
	last int
	// settled counts the measurements for which nothing is tried.
	settled int
}

func newLimit() *limit { return &limit{allowed: firstWorkers} }

func (l *limit) acquire(ctx context.Context) error {
	l.mu.Lock()
	if l.busy < l.allowed {
		l.busy++
		l.most = max(l.most, l.busy)
		l.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, w := range l.waiting {
			if w == turn {
				l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
				return ctx.Err()
			}
		}
		// The turn came at the same moment: somebody else takes it.
		l.busy--
		l.wake()
		return ctx.Err()
	}
}

func (l *limit) release(answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	if answered {
		l.measure(time.Now())
	} else {
		l.allowed = max(1, l.allowed/2)
		l.answers, l.rate, l.settled = 0, 0, 4
	}
	l.wake()
}

// measure counts an answer, and decides after each window of them. Only a window
// in which all workers had something to do says anything.
func (l *limit) measure(now time.Time) {
	if len(l.waiting) == 0 {
		l.answers = 0
		return
	}
	if l.answers == 0 {
		l.since = now
	}
	l.answers++
	if l.answers <= window {
		return
	}
	rate := float64(window) / max(now.Sub(l.since).Seconds(), 1e-6)
	l.answers = 0
	if l.settled > 0 {
		l.settled--
		return
	}
	if l.rate > 0 && l.allowed > l.last && rate < 1.05*l.rate {
		l.allowed, l.settled = l.last, 16
		l.rate = 0
		return
	}
	l.rate, l.last = rate, l.allowed
	l.allowed = min(mostWorkers, l.allowed+max(1, l.allowed/2))
}

func (l *limit) wake() {
	for l.busy < l.allowed && len(l.waiting) > 0 {
		l.busy++
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
	}
	l.most = max(l.most, l.busy)
}

// peak is how many requests were under way at once at most.
func (l *limit) peak() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}
