package platform

import (
	"fmt"
	"time"
)

// Timeouts bound everything that is waited for. [DefaultTimeouts] and
// [LoadConfig] return them with the multiplier already applied.
type Timeouts struct {
	// Multiplier stretches all of them, for machines that are slow or shared.
	Multiplier float64
	// Cluster is for one cluster until its API server answers.
	Cluster time.Duration
	// Bootstrap is for Flux itself until its controllers are Ready.
	Bootstrap time.Duration
	// BringUp is for one platform, from the bootstrap until all that Flux applies
	// has settled.
	BringUp time.Duration
	// Stall ends a wait in which nothing has moved for that long.
	Stall time.Duration
	// Reconcile is for one source or Kustomization after it was asked to.
	Reconcile time.Duration
	// Effective is for a policy that is Ready until it refuses what it forbids.
	Effective time.Duration
	// Request is for one request to an API server.
	Request time.Duration
	// Eventually is for one wait inside a check that names no other bound.
	Eventually time.Duration
	// Poll is the pause between two looks of a wait; the multiplier leaves it
	// alone.
	Poll time.Duration
	// Check is for one check of one tenant.
	Check time.Duration
	// Dump is for collecting what explains a failure.
	Dump time.Duration
	// CleanUp is for taking down what was started.
	CleanUp time.Duration
}

// DefaultTimeouts suit two cores with everything cached.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Multiplier: 1,
		Cluster:    3 * time.Minute,
		Bootstrap:  3 * time.Minute,
		BringUp:    10 * time.Minute,
		Stall:      2 * time.Minute,
		Reconcile:  2 * time.Minute,
		Effective:  10 * time.Second,
		Request:    30 * time.Second,
		Eventually: 30 * time.Second,
		Poll:       200 * time.Millisecond,
		Check:      3 * time.Minute,
		Dump:       time.Minute,
		CleanUp:    time.Minute,
	}
}

// timeoutNames are the keys of CONFIG, in the order of the table.
var timeoutNames = []string{"cluster", "bootstrap", "bringUp", "stall", "reconcile", "effective", "request", "eventually", "poll", "check", "dump", "cleanUp"}

// field returns the place of a key of CONFIG.
func (t *Timeouts) field(name string) *time.Duration {
	return map[string]*time.Duration{
		"cluster": &t.Cluster, "bootstrap": &t.Bootstrap, "bringUp": &t.BringUp, "stall": &t.Stall,
		"reconcile": &t.Reconcile, "effective": &t.Effective, "request": &t.Request,
		"eventually": &t.Eventually, "poll": &t.Poll, "check": &t.Check, "dump": &t.Dump, "cleanUp": &t.CleanUp,
	}[name]
}

// multiply stretches the table by its multiplier.
func (t *Timeouts) multiply() {
	for _, name := range timeoutNames {
		if name == "poll" {
			continue
		}
		d := t.field(name)
		*d = time.Duration(float64(*d) * t.Multiplier)
	}
}

// mostMultiplier keeps a slip of the pen from turning minutes into days.
const mostMultiplier = 100

func checkMultiplier(m float64) error {
	if !(m > 0 && m <= mostMultiplier) {
		return fmt.Errorf("is %v, a number above 0 and up to %d is wanted", m, mostMultiplier)
	}
	return nil
}
