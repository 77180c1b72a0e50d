package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/stage"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// ofPlatform is how an extent names what is no tenant's.
const ofPlatform = "platform"

// changeAll makes one change after the other, and sees which objects of whom are
// other than before.
func (r *runner) changeAll(ctx context.Context, changes []overlay.Overlay) ([]Verdict, error) {
	var todo [][]overlay.Overlay
	var owners []string
	for _, o := range changes {
		if len(r.of(o)) > 0 {
			todo = append(todo, []overlay.Overlay{o})
			owners = append(owners, r.owners(o.Change)...)
		}
	}
	remains := func(before, after looks) []string { return left(before, after, owners) }
	alone := func(ctx context.Context, one []overlay.Overlay) ([]Verdict, error) { return r.change(ctx, one[0]) }
	return r.chain(ctx, todo, r.lookAround, r.changeLink, remains, alone)
}

// change makes one, behind what has to come first, and sees that nothing is left of
// either.
func (r *runner) change(ctx context.Context, o overlay.Overlay) ([]Verdict, error) {
	before, err := r.lookAround(ctx)
	if err != nil {
		return nil, err
	}
	on := stage.New(r.in.View)
	found, _, err := r.changeLink(ctx, on, []overlay.Overlay{o}, before, stirred{})
	out := found.verdicts
	if err = errors.Join(err, on.TakeBack(ctx)); err != nil {
		return out, err
	}
	after, err := r.lookAround(ctx)
	if err != nil {
		return out, err
	}
	blame(out, "it left a change", left(before, after, r.owners(o.Change)))
	return out, nil
}

// changeLink lays a change in the place of what lies there, behind what has to come
// first, and sees what it reaches.
func (r *runner) changeLink(ctx context.Context, on *stage.Stage, one []overlay.Overlay, before looks, was stirred) (link, looks, error) {
	o := one[0]
	out := link{overlays: one}
	if first := o.Change.First; len(first) > 0 {
		if _, err := r.put(ctx, on, []overlay.Overlay{{ID: o.ID, Environments: o.Environments, Patches: first}}); err != nil {
			return out, nil, err
		}
		var err error
		if before, err = r.lookAround(ctx); err != nil {
			return out, nil, err
		}
		was = stirred{}
	} else if err := on.Swap(ctx); err != nil {
		return out, nil, err
	}
	started := time.Now()
	if err := on.Lay(ctx, o); err != nil {
		return out, nil, err
	}
	settled, err := on.Refresh(ctx)
	if err == nil {
		err = on.Send(ctx, o)
	}
	if err != nil {
		return out, nil, err
	}
	during, err := r.lookAround(ctx)
	if err != nil {
		return out, nil, err
	}
	calm, now := was.calm(before), was.calm(during)
	for _, s := range r.sites {
		changes := state.Changes(calm[s.name], now[s.name])
		if !o.In(s.name) {
			for _, change := range changes {
				out.verdicts = append(out.verdicts, Verdict{Overlay: o, Environment: s.name, Problems: []string{change.String() + ", in an environment that it must not reach"}})
			}
			continue
		}
		v := Verdict{Overlay: o, Environment: s.name, Seconds: time.Since(started).Seconds()}
		v.By = reached(changes)
		v.Problems = beyond(o.Change, s.name, changes)
		if where := o.Change.Where; where != nil {
			object, there := found(where, settled[s.name])
			if text := object.Reason + ": " + object.Message; !there || !strings.Contains(text, o.Change.Says) {
				v.problem("%s must say %q: %s", where, o.Change.Says, text)
			}
		} else if !settled[s.name].Ready() {
			v.problem("not all became ready: %s", strings.Join(settled[s.name].Chain, "; "))
		}
		out.verdicts = append(out.verdicts, v)
	}
	return out, during, nil
}

// owners are the tenants that a change may reach, and their control namespaces;
// empty for the platform.
func (r *runner) owners(e *overlay.Extents) []string {
	var out []string
	if slices.ContainsFunc(append(slices.Clone(e.May), e.Must...), func(x overlay.Extent) bool { return slices.Contains(x.Tenants, ofPlatform) }) {
		out = append(out, "")
	}
	for _, s := range r.sites {
		for _, t := range s.declared.Tenants {
			if slices.ContainsFunc(append(slices.Clone(e.May), e.Must...), func(x overlay.Extent) bool {
				return len(x.Tenants) == 0 || slices.Contains(x.Tenants, t.Name)
			}) {
				out = append(out, t.Name, t.Namespace)
			}
		}
	}
	return out
}

// reached sums up whose objects changed.
func reached(changes []state.Change) string {
	counts := map[string]int{}
	var order []string
	for _, change := range changes {
		for _, owner := range ownersOf(change) {
			if counts[owner] == 0 {
				order = append(order, owner)
			}
			counts[owner]++
		}
	}
	if len(order) == 0 {
		return "nothing changed"
	}
	slices.Sort(order)
	for i, owner := range order {
		order[i] = fmt.Sprintf("%s %d", owner, counts[owner])
	}
	return "changed: " + strings.Join(order, ", ")
}

func ownersOf(change state.Change) []string {
	var out []string
	for _, owner := range change.Owners {
		if owner == "" {
			owner = ofPlatform
		}
		out = append(out, owner)
	}
	return out
}

// beyond lists what changed and may not, and what must have changed and did not.
func beyond(e *overlay.Extents, environment string, changes []state.Change) []string {
	var out []string
	for _, change := range changes {
		inside := func(x overlay.Extent) bool { return within(x, environment, change) }
		if !slices.ContainsFunc(e.May, inside) && !slices.ContainsFunc(e.Must, inside) {
			out = append(out, change.String())
		}
	}
	for _, must := range e.Must {
		if len(must.Environments) > 0 && !slices.Contains(must.Environments, environment) {
			continue
		}
		if !slices.ContainsFunc(changes, func(change state.Change) bool { return within(must, environment, change) }) {
			out = append(out, fmt.Sprintf("nothing changed of tenants %v, kinds %v, and something must", must.Tenants, must.Kinds))
		}
	}
	return out
}

// within says whether a change is inside an extent, with all that own the object.
func within(x overlay.Extent, environment string, change state.Change) bool {
	kind, _, _ := strings.Cut(change.Object, " ")
	return (len(x.Environments) == 0 || slices.Contains(x.Environments, environment)) &&
		(len(x.Kinds) == 0 || slices.Contains(x.Kinds, kind)) &&
		(len(x.Tenants) == 0 || !slices.ContainsFunc(ownersOf(change), func(owner string) bool { return !slices.Contains(x.Tenants, owner) }))
}
