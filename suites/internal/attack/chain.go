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

// link is one round of a chain, and what was seen in it.
type link struct {
	overlays []overlay.Overlay
	verdicts []Verdict
	// stray is what changed and may not, whosever doing it is.
	stray []string
}

// open says whether a link has to be tried again, on a platform on which nothing
// else has been.
func (l link) open() bool {
	return len(l.stray) > 0 || slices.ContainsFunc(l.verdicts, func(v Verdict) bool { return len(v.Problems) > 0 })
}

// chain lays rounds over the platform one after the other: each takes the place of
// the one before, so that Flux has to be waited for once between them, and the
// platform alone is looked at in the end. What a round finds other than it was
// before all of them is its own doing, or was left by the one before: those two are
// then tried again, each from the platform as it is to the platform as it is.
func (r *runner) chain(ctx context.Context, todo [][]overlay.Overlay, look func(context.Context) (looks, error),
	try func(context.Context, *stage.Stage, []overlay.Overlay, looks, stirred) (link, looks, error),
	remains func(before, after looks) []string, single func(context.Context, []overlay.Overlay) ([]Verdict, error),
) ([]Verdict, error) {
	if len(todo) == 0 {
		return nil, nil
	}
	before, err := look(ctx)
	if err != nil {
		return nil, err
	}
	links, err := r.forge(ctx, todo, before, try)
	if err != nil {
		return verdictsOf(links), err
	}
	after, err := look(ctx)
	if err != nil {
		return verdictsOf(links), err
	}
	again := make([]bool, len(links))
	for i, l := range links {
		again[i] = again[i] || l.open()
		if len(l.stray) > 0 && i > 0 {
			again[i-1] = true
		}
	}
	remaining := remains(before, after)
	if len(remaining) > 0 {
		for i := range links {
			again[i] = true
		}
		links[len(links)-1].stray = append(links[len(links)-1].stray, remaining...)
	}
	return r.isolate(ctx, links, again, single)
}

// forge lays the rounds over the platform, and takes the last one back.
func (r *runner) forge(ctx context.Context, todo [][]overlay.Overlay, before looks,
	try func(context.Context, *stage.Stage, []overlay.Overlay, looks, stirred) (link, looks, error),
) (links []link, err error) {
	on := stage.New(r.in.View)
	defer func() {
		started := time.Now()
		if err = errors.Join(err, on.TakeBack(ctx)); err == nil {
			r.in.Say("%.0f s to take back what was laid last", time.Since(started).Seconds())
		}
	}()
	was := stirred{}
	for i, round := range todo {
		started := time.Now()
		if i > 0 && (alone(todo[i-1]) || hinders(round) && was.ofTenants()) {
			if err := on.TakeBack(ctx); err != nil {
				return links, fmt.Errorf("before %s: %w", ids(round), err)
			}
		}
		found, now, err := try(ctx, on, round, before, was)
		links = append(links, found)
		if err != nil {
			return links, fmt.Errorf("%s: %w", ids(round), err)
		}
		r.in.Say("%s: %.0f s", ids(round), time.Since(started).Seconds())
		was = stir(before, now)
	}
	return links, nil
}

// alone says whether an overlay has to be alone: nothing else arrives meanwhile.
func alone(round []overlay.Overlay) bool {
	return slices.ContainsFunc(round, func(o overlay.Overlay) bool { return o.Alone })
}

// hinders says whether a round keeps tenants' objects from going back to what they
// were before the round that it replaces: it must find them there already.
func hinders(round []overlay.Overlay) bool {
	return alone(round) || slices.ContainsFunc(round, func(o overlay.Overlay) bool { return o.Change != nil && o.Change.Where != nil })
}

// isolate tries the links again that are marked, each alone. What was out of place
// in a chain and is explained by none of them counts against its link all the same.
func (r *runner) isolate(ctx context.Context, links []link, again []bool,
	try func(context.Context, []overlay.Overlay) ([]Verdict, error),
) ([]Verdict, error) {
	explained := make([]bool, len(links))
	for i := range links {
		if !again[i] {
			continue
		}
		r.in.Say("%s again, alone: %s", ids(links[i].overlays), strings.Join(append(problemsOf(links[i].verdicts), links[i].stray...), "; "))
		found, err := try(ctx, links[i].overlays)
		if err != nil {
			return verdictsOf(links), err
		}
		links[i].verdicts, explained[i] = found, len(problemsOf(found)) > 0
	}
	for i, l := range links {
		if len(l.stray) == 0 || slices.Contains(explained[max(0, i-1):i+1], true) || i == len(links)-1 && slices.Contains(explained, true) {
			continue
		}
		blame(l.verdicts, "after what was tried before it", l.stray)
	}
	return verdictsOf(links), nil
}

func verdictsOf(links []link) []Verdict {
	var out []Verdict
	for _, l := range links {
		out = append(out, l.verdicts...)
	}
	return out
}

func problemsOf(verdicts []Verdict) []string {
	var out []string
	for _, v := range verdicts {
		for _, problem := range v.Problems {
			out = append(out, v.Overlay.ID+": "+problem)
		}
	}
	return out
}

// stirred are, by environment, the objects that are not as they were before a chain,
// and whose they are: until the next round is laid they go back to what they were,
// but what was made anew has another UID, and what was changed another generation.
type stirred map[string]restless

type restless struct{ names, owners map[string]bool }

// stir compares a look with the one before the chain.
func stir(before, now looks) stirred {
	out := stirred{}
	for environment := range before {
		found := restless{map[string]bool{}, map[string]bool{}}
		for _, change := range state.Changes(before[environment], now[environment]) {
			found.names[change.Object] = true
			for _, owner := range change.Owners {
				found.owners[owner] = true
			}
		}
		out[environment] = found
	}
	return out
}

// ofTenants says whether an object of a tenant was stirred.
func (s stirred) ofTenants() bool {
	for _, found := range s {
		for owner := range found.owners {
			if owner != "" {
				return true
			}
		}
	}
	return false
}

// calm leaves of a look what must be the same again: of what was stirred its
// content, and nothing of what controllers make for those whose objects were.
// Everything else stays as strict as it is.
func (s stirred) calm(in looks) looks {
	out := looks{}
	for environment, snapshot := range in {
		found := s[environment]
		out[environment] = state.Snapshot{}
		for name, recorded := range snapshot {
			if (found.names[name] || found.owners[recorded.Owner]) && (recorded.Derived || follows(name, recorded.Owner)) {
				continue
			}
			if found.names[name] {
				recorded = loose(recorded)
			}
			out[environment][name] = recorded
		}
	}
	return out
}
