package attack

import (
	"context"
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

// changeAll makes each change alone, and sees which objects of whom are other than
// before.
func (r *runner) changeAll(ctx context.Context, changes []overlay.Overlay) ([]Verdict, error) {
	var out []Verdict
	for _, o := range changes {
		if len(r.of(o)) == 0 {
			continue
		}
		started := time.Now()
		found, err := r.change(ctx, o)
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("change %s: %w", o.ID, err)
		}
		r.in.Say("%s: %.0f s", o.ID, time.Since(started).Seconds())
	}
	return out, nil
}

// change makes one, behind what has to come first, and sees that nothing is left of
// either.
func (r *runner) change(ctx context.Context, o overlay.Overlay) ([]Verdict, error) {
	before, err := r.lookBy(ctx, (*site).lookAround)
	if err != nil {
		return nil, err
	}
	var out []Verdict
	if first := o.Change.First; len(first) == 0 {
		out, err = r.reach(ctx, o)
	} else {
		prior := overlay.Overlay{ID: o.ID, Environments: o.Environments, Patches: first}
		err = r.onStage(ctx, []overlay.Overlay{prior}, func(stage.Settled) (err error) {
			out, err = r.reach(ctx, o)
			return err
		})
	}
	if err != nil {
		return out, err
	}
	after, err := r.lookBy(ctx, (*site).lookAround)
	if err != nil {
		return out, err
	}
	for _, change := range left(before, after, r.owners(o.Change)) {
		for i := range out {
			if text, here := strings.CutPrefix(change, out[i].Environment+": "); here {
				out[i].problem("it left a change: %s", text)
			}
		}
	}
	return out, nil
}

// reach lays a change over the platform as it is, and sees what it reaches.
func (r *runner) reach(ctx context.Context, o overlay.Overlay) ([]Verdict, error) {
	before, err := r.lookBy(ctx, (*site).lookAround)
	if err != nil {
		return nil, err
	}
	var out []Verdict
	started := time.Now()
	err = r.onStage(ctx, []overlay.Overlay{o}, func(settled stage.Settled) error {
		during, err := r.lookBy(ctx, (*site).lookAround)
		if err != nil {
			return err
		}
		for _, s := range r.sites {
			changes := state.Changes(before[s.name], during[s.name])
			if !o.In(s.name) {
				for _, change := range changes {
					out = append(out, Verdict{Overlay: o, Environment: s.name, Problems: []string{change.String() + ", in an environment that it must not reach"}})
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
			} else if !settled[s.name].Ready() && o.Touches() != nil {
				v.problem("not all became ready: %s", strings.Join(settled[s.name].Chain, "; "))
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
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
