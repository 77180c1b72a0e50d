package component

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Phase is what the store does for a component.
type Phase string

// Phases of a component that is not in the cache.
const (
	Waiting  Phase = "waiting"  // for another process that fetches or builds it
	Fetching Phase = "fetching" // its image
	Building Phase = "building" // from the pinned module
	Ready    Phase = "ready"
)

// Progress is one step towards a component that is not in the cache. While a
// build runs it is told every two seconds.
type Progress struct {
	Component string
	Version   string
	Phase     Phase
	// Detail is the image, the module that is downloaded, or who is waited for.
	Detail string
	// Remaining counts the components still to be had, this one included while
	// it is not ready.
	Remaining int
	// Elapsed is the time since the first component was found missing.
	Elapsed time.Duration
	// Estimate is the time that the builds ahead will about take, from the table
	// and the speed so far; zero when nothing is known to be built.
	Estimate time.Duration
}

// String is the line for a person.
func (p Progress) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", p.Phase, p.Component, p.Version)
	if p.Phase == Building {
		b.WriteString(" from source")
	}
	if p.Detail != "" {
		fmt.Fprintf(&b, " (%s)", p.Detail)
	}
	fmt.Fprintf(&b, ": %d to go, %s elapsed", p.Remaining, p.Elapsed.Round(time.Second))
	if p.Estimate > 0 {
		fmt.Fprintf(&b, ", about %s left", p.Estimate.Round(time.Second))
	}
	return b.String()
}

// tally counts what one call of Resolve has still to do.
type tally struct {
	progress func(Progress)
	started  time.Time

	mu        sync.Mutex
	remaining int
	ahead     time.Duration // estimates of the builds not yet done
	estimated time.Duration // estimates of the builds done,
	spent     time.Duration // and what they took
}

// tell reports a step; since is the time that the build at hand runs.
func (r *tally) tell(t *target, phase Phase, detail string, since time.Duration) {
	r.mu.Lock()
	estimate := r.ahead
	if r.estimated > 0 {
		estimate = time.Duration(float64(estimate) * float64(r.spent) / float64(r.estimated))
	}
	if r.ahead > 0 {
		// A build that outlasts its estimate is still not the end.
		estimate = max(estimate-since, time.Second)
	}
	p := Progress{
		Component: t.Name, Version: t.version, Phase: phase, Detail: detail,
		Remaining: r.remaining, Elapsed: time.Since(r.started), Estimate: estimate,
	}
	r.mu.Unlock()
	r.progress(p)
}

func (r *tally) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remaining--
}

// built counts a build; took is zero when another process did it.
func (r *tally) built(t *target, took time.Duration) {
	r.mu.Lock()
	r.remaining--
	r.ahead -= t.estimate()
	if took > 0 {
		r.estimated += t.estimate()
		r.spent += took
	}
	r.mu.Unlock()
	r.tell(t, Ready, "", 0)
}
