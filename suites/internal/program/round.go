package program

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/stage"
)

// trial is one fault and what became of it.
type trial struct {
	fault    overlay.Overlay
	problems []string
	failed   []string
	skipped  string
}

// round holds faults that do not meet, so that one judgement tells of each.
type round []overlay.Overlay

func (r round) String() string {
	var ids []string
	for _, fault := range r {
		ids = append(ids, fault.ID)
	}
	return strings.Join(ids, ", ")
}

// cell is what one outcome is about.
type cell struct{ check, environment, tenant string }

func (c cell) String() string {
	return strings.Join(slices.DeleteFunc([]string{c.check, c.environment, c.tenant}, func(s string) bool { return s == "" }), " ")
}

// claims are the checks that a fault may make fail.
func claims(fault overlay.Overlay) []string {
	return append(slices.Sorted(maps.Keys(fault.Expect.Fails)), fault.Expect.MayFollow...)
}

// cells are the outcomes of these checks that a fault is to be seen in.
func (p *program) cells(fault overlay.Overlay, checks []string) []cell {
	var out []cell
	for _, owed := range p.owed {
		inTenant := owed.Tenant == "" || len(fault.Expect.Tenants) == 0 || slices.Contains(fault.Expect.Tenants, owed.Tenant)
		inEnvironment := owed.Environment == "" || fault.In(owed.Environment)
		if slices.Contains(checks, owed.Check) && inTenant && inEnvironment {
			out = append(out, cell{owed.Check, owed.Environment, owed.Tenant})
		}
	}
	return out
}

// meet says whether two faults would be seen in one outcome of a tenant, or change
// one thing. Both may be seen in one outcome of an environment, which must then
// say the words of each. A fault that a disruptive check finds meets all that such
// checks need not be judged for: what they change would not arrive where those are.
func (p *program) meet(a, b overlay.Overlay) bool {
	if a.Meets(b) || p.disrupted(a) != p.disrupted(b) {
		return true
	}
	other := p.cells(b, claims(b))
	return slices.ContainsFunc(p.cells(a, claims(a)), func(c cell) bool { return c.tenant != "" && slices.Contains(other, c) })
}

// disrupted says whether a disruptive check is to find a fault.
func (p *program) disrupted(fault overlay.Overlay) bool {
	return slices.ContainsFunc(claims(fault), func(id string) bool {
		c, known := p.suite.Registry.Get(id)
		return known && c.Disruptive
	})
}

// rounds puts each fault into the first round in which it meets none.
func (p *program) rounds(faults []overlay.Overlay) []round {
	var out []round
	for _, fault := range faults {
		i := slices.IndexFunc(out, func(r round) bool {
			return !slices.ContainsFunc(r, func(other overlay.Overlay) bool { return p.meet(fault, other) })
		})
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], fault)
	}
	return out
}

// proveRound proves the faults of a round together. Those that are then still open
// are proved again, each alone; where something failed that none of them claims,
// in halves, until it is known whose it is.
func (p *program) proveRound(faults round, prove func(round) ([]trial, []string, error)) ([]trial, error) {
	trials, stray, err := prove(faults)
	if err != nil {
		return nil, fmt.Errorf("faults %s: %w", faults, err)
	}
	if len(faults) == 1 {
		trials[0].problems = append(trials[0].problems, stray...)
		p.say(trials[0])
		return trials, nil
	}
	var done []trial
	var again []round
	if len(stray) > 0 {
		fmt.Fprintf(p.out, "%s together: %s\n", faults, strings.Join(stray, "; "))
		again = []round{faults[:len(faults)/2], faults[len(faults)/2:]}
	} else {
		for _, t := range trials {
			if len(t.problems) > 0 {
				fmt.Fprintf(p.out, "%s is proved again, alone: %s\n", t.fault.ID, strings.Join(t.problems, "; "))
				again = append(again, round{t.fault})
				continue
			}
			p.say(t)
			done = append(done, t)
		}
	}
	for _, part := range again {
		found, err := p.proveRound(part, prove)
		if err != nil {
			return nil, err
		}
		done = append(done, found...)
	}
	return done, nil
}

// proveTogether lays faults over the running platform, judges, and takes them
// back.
func (p *program) proveTogether(ctx context.Context, in *input, r *running, faults round) (trials []trial, stray []string, err error) {
	started := time.Now()
	on := stage.New(r.view)
	var laid, judged time.Time
	defer func() {
		// What was laid over is taken back also after an error, or the next round
		// would be judged on top of this one.
		if err = errors.Join(err, on.TakeBack(ctx)); err == nil {
			fmt.Fprintf(p.out, "%s: %.0f s to lay over, %.0f s to judge, %.0f s to take back\n", faults,
				laid.Sub(started).Seconds(), judged.Sub(laid).Seconds(), time.Since(judged).Seconds())
		}
	}()
	if err := on.Lay(ctx, faults...); err != nil {
		return nil, nil, err
	}
	if on.Committed() {
		if _, err := on.Refresh(ctx); err != nil {
			return nil, nil, err
		}
	}
	for _, fault := range faults {
		if err := on.Send(ctx, fault); err != nil {
			return nil, nil, err
		}
	}
	laid = time.Now()
	trials, stray, err = p.judgeFaults(ctx, in, r, faults)
	judged = time.Now()
	return trials, stray, err
}

// proveBringUp proves faults that are there from the beginning.
func (p *program) proveBringUp(soft, hard context.Context, in *input, faults round) (trials []trial, stray []string, err error) {
	faulty := *in
	faulty.Overlays = nil
	for _, fault := range faults {
		faulty.Overlays = append(faulty.Overlays, fault.ID)
	}
	r, err := p.start(soft, &faulty, false)
	if err == nil {
		trials, stray, err = p.judgeFaults(soft, in, r, faults)
	}
	return trials, stray, errors.Join(err, r.stop(hard))
}

// judgeFaults judges until what must fail does: a controller, Kyverno above all,
// acts on a change a moment after it is there. What must not fail may not do so
// in any of the tries. Checks that are disruptive are judged where a fault claims
// them, and in the baseline.
func (p *program) judgeFaults(ctx context.Context, in *input, r *running, faults round) ([]trial, []string, error) {
	var checks []string
	for _, c := range p.suite.Registry.All() {
		if !c.Disruptive || slices.ContainsFunc(faults, p.disrupted) {
			checks = append(checks, c.ID)
		}
	}
	const tries = 4
	for try := 1; ; try++ {
		outcomes, err := p.judge(ctx, in, r, fmt.Sprintf("%s-%d-%d", faults[0].ID, len(faults), try), Selection{Checks: checks})
		if err != nil {
			return nil, nil, err
		}
		trials, stray, patience := p.compare(faults, outcomes)
		if !patience || try == tries {
			return trials, stray, nil
		}
	}
}

// compare holds the outcomes against what the faults of a round expect. stray are
// failures that none of them claims. patience says that all that is wrong is that
// something did not fail, which may yet come.
func (p *program) compare(faults round, outcomes []check.Outcome) (trials []trial, stray []string, patience bool) {
	found := map[cell]string{}
	for _, o := range failed(outcomes) {
		found[cell{o.Check, o.Environment, o.Tenant}] = o.Found
	}
	late, claimed := 0, map[cell]bool{}
	for _, fault := range faults {
		t := trial{fault: fault}
		for _, id := range slices.Sorted(maps.Keys(fault.Expect.Fails)) {
			for _, c := range p.cells(fault, []string{id}) {
				words, failed := found[c]
				switch {
				case !failed:
					late++
					t.problems = append(t.problems, c.String()+" must fail and does not")
				case !strings.Contains(words, fault.Expect.Fails[id]):
					t.problems = append(t.problems, fmt.Sprintf("%s fails without saying %q: %s", c, fault.Expect.Fails[id], words))
				}
			}
		}
		for _, c := range p.cells(fault, claims(fault)) {
			claimed[c] = true
			if _, failed := found[c]; failed && !slices.Contains(t.failed, c.check) {
				t.failed = append(t.failed, c.check)
			}
		}
		slices.Sort(t.failed)
		trials = append(trials, t)
	}
	for _, o := range failed(outcomes) {
		if c := (cell{o.Check, o.Environment, o.Tenant}); !claimed[c] {
			stray = append(stray, fmt.Sprintf("%s fails and must not: %s", c, o.Found))
		}
	}
	wrong := len(stray)
	for _, t := range trials {
		wrong += len(t.problems)
	}
	return trials, stray, late > 0 && late == wrong
}
