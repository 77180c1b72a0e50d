package progress

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// Event is one thing that happened. It crosses the session's connection as JSON.
type Event struct {
	// Time is when it happened; the zero value is the moment of its arrival.
	Time time.Time `json:"time"`
	// Environment is empty for what is done once for all.
	Environment string `json:"environment,omitempty"`
	// Phase is the step that the environment is in. The first event of another
	// phase ends the one before. Without a phase the event is its message only.
	Phase string `json:"phase,omitempty"`
	// Waiting is what the phase waits for from now on, for example
	// "Kustomization flux-system/apps"; empty when it no longer waits.
	Waiting string `json:"waiting,omitempty"`
	// Message is what was last seen of that; without Waiting, a line for the user.
	Message string `json:"message,omitempty"`
	// Done ends the phase.
	Done bool `json:"done,omitempty"`
	// Expected is how long the phase will take; zero leaves it to the history.
	Expected time.Duration `json:"expected,omitempty"`
}

// Timeline turns events into phases. The zero value is empty and ready; it is
// safe for concurrent use. Events of one environment must come in order.
type Timeline struct {
	mu       sync.Mutex
	running  map[string]*phase
	finished []check.Phase
}

// phase is one that goes on.
type phase struct {
	environment, name string
	started           time.Time
	expected          time.Duration
	waiting, message  string
	waitingSince      time.Time
	waits             map[string]time.Duration
}

// Add takes an event in. It tells which phase it began and which it ended.
func (t *Timeline) Add(e Event) (began bool, ended *check.Phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Phase == "" {
		return false, nil
	}
	current := t.running[e.Environment]
	if current != nil && current.name != e.Phase {
		ended = t.end(current, e.Time)
		current = nil
	}
	if current == nil {
		began = true
		current = &phase{environment: e.Environment, name: e.Phase, started: e.Time, waits: map[string]time.Duration{}}
		if t.running == nil {
			t.running = map[string]*phase{}
		}
		t.running[e.Environment] = current
	}
	if e.Expected > 0 {
		current.expected = e.Expected
	}
	if e.Waiting != current.waiting {
		current.settle(e.Time)
		current.waiting, current.waitingSince = e.Waiting, e.Time
	}
	current.message = e.Message
	if e.Done {
		ended = t.end(current, e.Time)
	}
	return began, ended
}

// Phases lists all phases by their start; one that goes on counts until now.
func (t *Timeline) Phases(now time.Time) []check.Phase {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.Clone(t.finished)
	for _, p := range t.running {
		all = append(all, p.report(now))
	}
	slices.SortStableFunc(all, func(a, b check.Phase) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.Environment, b.Environment))
	})
	return all
}

// current lists the phases that go on, by environment.
func (t *Timeline) current() []phase {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []phase
	for _, environment := range slices.Sorted(maps.Keys(t.running)) {
		all = append(all, *t.running[environment])
	}
	return all
}

func (t *Timeline) end(p *phase, at time.Time) *check.Phase {
	report := p.report(at)
	t.finished = append(t.finished, report)
	delete(t.running, p.environment)
	return &report
}

// settle books the current wait up to now.
func (p *phase) settle(now time.Time) {
	if p.waiting != "" {
		p.waits[p.waiting] += max(0, now.Sub(p.waitingSince))
	}
}

func (p *phase) report(now time.Time) check.Phase {
	waits := maps.Clone(p.waits)
	if p.waiting != "" {
		waits[p.waiting] += max(0, now.Sub(p.waitingSince))
	}
	report := check.Phase{
		Environment: p.environment, Name: p.name, Started: p.started,
		Seconds: max(0, now.Sub(p.started)).Seconds(), ExpectedSeconds: p.expected.Seconds(),
	}
	for object, duration := range waits {
		report.WaitedFor = append(report.WaitedFor, check.Wait{Object: object, Seconds: duration.Seconds()})
	}
	slices.SortFunc(report.WaitedFor, func(a, b check.Wait) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), strings.Compare(a.Object, b.Object))
	})
	return report
}
