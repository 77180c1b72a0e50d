package attack

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

// judgeTries is how often a check is judged until it fails: what it looks at may
// come a moment after the commit.
const judgeTries = 3

// judgeAll tries what only a conformance check sees, and what such a check really
// tries.
func (r *runner) judgeAll(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, error) {
	seen := func(o overlay.Overlay) bool { return o.Attack.Layer == "check" }
	todo := rounds(attacks, seen)
	alone := func(ctx context.Context, round []overlay.Overlay) ([]Verdict, error) {
		return r.narrow(ctx, round, r.judgeRound)
	}
	before, err := r.baseline(ctx, slices.Concat(todo...))
	if err != nil {
		return nil, err
	}
	out, err := r.chain(ctx, todo, r.look, r.judgeLink, r.remains(slices.Concat(todo...)), alone)
	for i := range out {
		passes(&out[i], before)
	}
	if err != nil {
		return out, err
	}
	found, err := r.network(ctx, attacks)
	return append(out, found...), err
}

// baseline has the checks judged that attacks name, before any of those: what fails
// anyhow tells nothing of them.
func (r *runner) baseline(ctx context.Context, attacks []overlay.Overlay) ([]check.Outcome, error) {
	if len(attacks) == 0 {
		return nil, nil
	}
	if r.in.Judge == nil {
		return nil, errors.New("there is nobody to judge checks")
	}
	checks, environments := map[string]bool{}, map[string]bool{}
	for _, o := range attacks {
		checks[o.Attack.By] = true
		for _, s := range r.of(o) {
			environments[s.name] = true
		}
	}
	started := time.Now()
	out, err := r.in.Judge(ctx, fmt.Sprintf("baseline-%d", started.UnixNano()), slices.Sorted(maps.Keys(checks)), slices.Sorted(maps.Keys(environments)))
	r.in.Say("%d checks judged without any attack in %.0f s", len(checks), time.Since(started).Seconds())
	return out, err
}

// passes says whether the check that must fail under an attack was seen to pass
// without it.
func passes(v *Verdict, outcomes []check.Outcome) {
	seen := false
	for _, o := range outcomes {
		if o.Check != v.Overlay.Attack.By || o.Environment != "" && o.Environment != v.Environment {
			continue
		}
		switch o.Result {
		case check.Failed:
			v.problem("%s fails without the attack, too: %s", o.Check, o.Found)
			seen = true
		case check.Passed:
			seen = true
		}
	}
	if !seen {
		v.problem("%s was not seen to pass without the attack", v.Overlay.Attack.By)
	}
}

// judgeRound lays attacks over the platform, has the checks judged that must fail,
// and takes them back.
func (r *runner) judgeRound(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, []string, error) {
	before, err := r.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	on := stage.New(r.in.View)
	out, _, err := r.judgeLink(ctx, on, attacks, before, stirred{})
	if err = errors.Join(err, on.TakeBack(ctx)); err != nil {
		return out.verdicts, nil, err
	}
	after, err := r.look(ctx)
	return out.verdicts, append(out.stray, left(before, after, r.attackers(attacks))...), err
}

// judgeLink lays attacks in the place of what lies there, and has the checks judged
// that must fail.
func (r *runner) judgeLink(ctx context.Context, on *stage.Stage, attacks []overlay.Overlay, before looks, _ stirred) (link, looks, error) {
	out := link{overlays: attacks}
	if r.in.Judge == nil {
		return out, nil, errors.New("there is nobody to judge checks")
	}
	var checks, environments []string
	for _, o := range attacks {
		checks = append(checks, o.Attack.By)
		for _, s := range r.of(o) {
			out.verdicts = append(out.verdicts, Verdict{Overlay: o, Environment: s.name})
			if !slices.Contains(environments, s.name) {
				environments = append(environments, s.name)
			}
		}
	}
	started := time.Now()
	settled, err := r.put(ctx, on, attacks)
	if err != nil {
		return out, nil, err
	}
	for _, o := range attacks {
		if err := on.Send(ctx, o); err != nil {
			return out, nil, err
		}
	}
	out.stray = r.unready(settled, r.attackers(attacks))
	laid := time.Now()
	for try := 1; ; try++ {
		outcomes, err := r.in.Judge(ctx, fmt.Sprintf("%s-%d-%d-%d", attacks[0].ID, len(attacks), try, started.UnixNano()), checks, environments)
		if err != nil {
			return out, nil, err
		}
		open := 0
		for i := range out.verdicts {
			v := &out.verdicts[i]
			v.Problems, v.Seconds = nil, time.Since(started).Seconds()
			sees(v, outcomes)
			open += len(v.Problems)
		}
		if open == 0 || try == judgeTries {
			r.in.Say("  %.0f s until Flux had settled, judged %d times in %.0f s", laid.Sub(started).Seconds(), try, time.Since(laid).Seconds())
			return out, before, nil
		}
	}
}

// sees says whether a check that must fail does, in the words that it must use.
func sees(v *Verdict, outcomes []check.Outcome) {
	a := v.Overlay.Attack
	var said []string
	judged := false
	for _, o := range outcomes {
		if o.Check != a.By || o.Environment != "" && o.Environment != v.Environment {
			continue
		}
		judged = judged || o.Result != check.NotSupported
		if o.Result != check.Failed {
			continue
		}
		if strings.Contains(o.Found, a.Says) {
			v.By, v.Words = a.Layer+" "+a.By, o.Found
			return
		}
		said = append(said, o.Found)
	}
	switch {
	case !judged:
		v.problem("%s was not judged", a.By)
	case len(said) == 0:
		v.problem("%s must fail, and does not", a.By)
	default:
		v.problem("%s fails without saying %q: %s", a.By, a.Says, strings.Join(said, "; "))
	}
}

// network has the checks judged that really try a connection.
func (r *runner) network(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, error) {
	var out []Verdict
	var checks, environments []string
	for _, o := range attacks {
		if o.Attack.Layer != "network" {
			continue
		}
		checks = append(checks, o.Attack.By)
		for _, s := range r.of(o) {
			out = append(out, Verdict{Overlay: o, Environment: s.name, By: "network " + o.Attack.By})
			environments = append(environments, s.name)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	if r.in.Judge == nil {
		return out, errors.New("there is nobody to judge checks")
	}
	slices.Sort(environments)
	started := time.Now()
	outcomes, err := r.in.Judge(ctx, "network", checks, slices.Compact(environments))
	if err != nil {
		return out, err
	}
	for i := range out {
		v := &out[i]
		v.Seconds = time.Since(started).Seconds()
		judged := false
		for _, o := range outcomes {
			if o.Check != v.Overlay.Attack.By || o.Environment != v.Environment {
				continue
			}
			switch o.Result {
			case check.NotSupported:
				v.Unsupported, judged = o.Reason, true
			case check.Failed:
				judged = true
				v.problem("%s fails: %s", o.Check, o.Found)
			case check.Passed:
				judged = true
			}
		}
		if !judged {
			v.problem("%s was not judged", v.Overlay.Attack.By)
		}
	}
	return out, nil
}

// fileAll tries what is seen in the files alone.
func (r *runner) fileAll(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, error) {
	var out []Verdict
	for _, o := range attacks {
		if o.Attack.Layer != "files" {
			continue
		}
		started := time.Now()
		if r.in.Files == nil {
			return out, errors.New("there is nobody to judge files")
		}
		checks := []string{o.Attack.By}
		// The control is the platform itself, or the attack with one field changed.
		var accepted []overlay.Overlay
		if o.Attack.Control != nil {
			control, err := o.Controlled()
			if err != nil {
				return out, err
			}
			accepted = append(accepted, control)
		}
		admitted, err := r.in.Files(ctx, checks, accepted...)
		if err != nil {
			return out, fmt.Errorf("%s, control: %w", o.ID, err)
		}
		found, err := r.in.Files(ctx, checks, o)
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.ID, err)
		}
		for _, s := range r.of(o) {
			v := Verdict{Overlay: o, Environment: s.name}
			sees(&v, found)
			for _, outcome := range admitted {
				if outcome.Result == check.Failed && (outcome.Environment == "" || outcome.Environment == s.name) {
					v.problem("the control must be accepted, and %s fails: %s", outcome.Check, outcome.Found)
				}
			}
			v.Seconds = time.Since(started).Seconds()
			out = append(out, v)
		}
	}
	return out, nil
}
