package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// actInterval is how often is looked whether somebody has acted on a request: a
// change passes through several objects one after the other, and each of them
// takes a tenth of a second or two.
const actInterval = 50 * time.Millisecond

// Refresh makes Flux look at everything again, in the order in which a change
// passes through it, and returns when all has settled. changed says which sources
// may have changed; nil: all.
func Refresh(ctx context.Context, in SettleInput, changed func(url string) bool) (Settlement, error) {
	if err := Propagate(ctx, in, changed); err != nil {
		return Settlement{}, err
	}
	return Settle(ctx, in)
}

// Propagate has a change pass through Flux: each object that draws on a changed
// source is asked to reconcile as soon as all that it draws on has acted. After a
// commit, a composed source that reconciles before the one that it includes would
// hand on the old content. It returns when each has acted: what was fetched is
// applied, and perhaps not healthy yet.
//
// changed says which sources may have changed; nil: all. What draws on none of
// them, and charts, are left alone: large CRDs take seconds to look through. What
// is suspended passes nothing on.
func Propagate(ctx context.Context, in SettleInput, changed func(url string) bool) error {
	if in.Client == nil || in.Timeout <= 0 || in.Stall <= 0 {
		return errors.New("refresh: client, timeout and stall time are required")
	}
	p := &passage{in: in, changed: changed, asked: map[Ref]*request{}, acted: map[Ref]bool{}}
	if err := wait.PollUntilContextTimeout(ctx, actInterval, in.Timeout, true, p.step); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("refresh: %w", context.Cause(ctx))
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("refresh: %w", err)
		}
		return fmt.Errorf("refresh: %d objects did not act on the request within %s:\n  %s",
			len(p.waiting), in.Timeout, strings.Join(Chain(p.waiting, time.Now()), "\n  "))
	}
	return nil
}

// passage is a change on its way through Flux.
type passage struct {
	in      SettleInput
	changed func(url string) bool
	asked   map[Ref]*request
	acted   map[Ref]bool
	waiting []Object // members that have not acted
	// kinds are those that members are of; nil: not known yet. What comes to be
	// meanwhile reconciles without being asked.
	kinds map[string]bool
	// revisions are those of the sources in the beginning.
	revisions map[Ref]string
}

// request is what one object was asked for.
type request struct {
	token string
	// fresh tells that a health check seen now began after the request.
	fresh bool
	// revision is what it applies without being asked, and since when that is
	// awaited; empty: it was asked.
	revision string
	since    time.Time
}

// startWithin is how long a Kustomization may take to begin by itself.
const startWithin = 3 * time.Second

// step asks those whose turn has come.
func (p *passage) step(ctx context.Context) (bool, error) {
	objects, err := observe(ctx, p.in.Client, func(kind string) bool { return p.kinds == nil || p.kinds[kind] })
	if err != nil {
		return false, nil //nolint:nilerr // the API server may be busy; the timeout decides
	}
	members := p.members(objects)
	if p.revisions == nil {
		p.revisions = map[Ref]string{}
		for _, o := range members {
			p.revisions[o.Ref] = o.Revision
		}
	}
	p.kinds = map[string]bool{}
	index := map[Ref]Object{}
	for _, o := range members {
		p.kinds[o.Kind] = true
		index[o.Ref] = o
	}
	for _, o := range members {
		if r := p.asked[o.Ref]; r != nil && !p.acted[o.Ref] && r.done(o) {
			p.acted[o.Ref] = true
		}
	}
	p.waiting = slices.DeleteFunc(slices.Clone(members), func(o Object) bool { return p.acted[o.Ref] })
	before := upstream(members)
	asked, pending := false, false
	for _, o := range p.waiting {
		r := p.asked[o.Ref]
		switch {
		case r != nil && r.late(o):
			if err := p.ask(ctx, o); err != nil {
				return false, err
			}
			asked = true
		case r != nil:
			pending = true
		case p.begins(o, before[o.Ref], index) != "":
			p.asked[o.Ref] = &request{revision: p.begins(o, before[o.Ref], index), since: time.Now()}
			pending = true
		case !slices.ContainsFunc(before[o.Ref], func(ref Ref) bool { return !p.acted[ref] }):
			if err := p.ask(ctx, o); err != nil {
				return false, err
			}
			asked = true
		}
	}
	if len(p.waiting) > 0 && !asked && !pending {
		// They wait for one another in a circle, which is the platform's mistake.
		for _, o := range p.waiting {
			if err := p.ask(ctx, o); err != nil {
				return false, err
			}
		}
	}
	return len(p.waiting) == 0, nil
}

func (p *passage) ask(ctx context.Context, o Object) error {
	token, err := Request(ctx, p.in.Client, o)
	p.asked[o.Ref] = &request{token: token, fresh: !checksHealth(o)}
	return err
}

// begins is the revision that a Kustomization applies without being asked, since
// its source has another one than in the beginning: Flux is told of that, and asking
// would have it apply everything twice. Empty: it has to be asked, because what it
// draws on is composed, which a revision does not tell, or because others act first.
func (p *passage) begins(o Object, before []Ref, index map[Ref]Object) string {
	if o.Kind != "Kustomization" || len(before) != 1 || before[0].Kind == "Kustomization" || !p.acted[before[0]] {
		return ""
	}
	source := index[before[0]]
	if len(source.WaitsFor) > 0 || source.Ready != "True" || source.Revision == p.revisions[source.Ref] {
		return ""
	}
	return source.Revision
}

// late says whether a Kustomization should have begun by itself, and did not.
func (r *request) late(o Object) bool {
	return r.token == "" && o.Revision != r.revision && time.Since(r.since) > startWithin
}

// done says whether an object has acted on the request: its status repeats the
// token, or it has applied everything and waits for health, which is Settle's to
// await. A health check that was under way before says nothing.
func (r *request) done(o Object) bool {
	if r.token == "" {
		return o.Revision == r.revision && (o.Ready == "True" || o.Ready == "False" || checksHealth(o))
	}
	if o.Handled >= r.token {
		return true
	}
	if !checksHealth(o) {
		r.fresh = true
		return false
	}
	return r.fresh
}

// members are the objects that the change passes through, in the order found.
func (p *passage) members(objects []Object) []Object {
	drawn := map[Ref]bool{}
	for more := true; more; { // includes may be nested
		more = false
		for _, o := range objects {
			if drawn[o.Ref] || o.Suspended || !passes(o) {
				continue
			}
			direct := o.URL != "" && (p.changed == nil || p.changed(o.URL))
			if direct || slices.ContainsFunc(o.WaitsFor, func(ref Ref) bool { return drawn[ref] && ref.Kind != "Kustomization" }) {
				drawn[o.Ref], more = true, true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(objects), func(o Object) bool { return !drawn[o.Ref] })
}

// passes says whether a change is followed through an object: sources and what is
// made of them. A Helm repository of type oci is a mere address.
func passes(o Object) bool {
	switch o.Kind {
	case "GitRepository", "OCIRepository", "Bucket", "Kustomization":
		return true
	case "HelmRepository":
		return o.Live.Object["status"] != nil || o.Ready != "True"
	}
	return false
}

// upstream lists for each member those that must act before it: what it waits
// for, and the Kustomization that applies it, which may change what it draws on.
func upstream(members []Object) map[Ref][]Ref {
	known := map[Ref]bool{}
	for _, o := range members {
		known[o.Ref] = true
	}
	out := map[Ref][]Ref{}
	for _, o := range members {
		for _, ref := range o.WaitsFor {
			if known[ref] {
				out[o.Ref] = append(out[o.Ref], ref)
			}
		}
	}
	for _, k := range members {
		// The root Kustomization applies the source that it draws on, and itself:
		// those act before it.
		earlier := reached(out, k.Ref)
		for _, ref := range applied(k) {
			if known[ref] && !earlier[ref] {
				out[ref] = append(out[ref], k.Ref)
			}
		}
	}
	return out
}

// reached are an object itself and all that it waits for, also through others.
func reached(edges map[Ref][]Ref, from Ref) map[Ref]bool {
	out := map[Ref]bool{from: true}
	for next := []Ref{from}; len(next) > 0; next = next[1:] {
		for _, ref := range edges[next[0]] {
			if !out[ref] {
				out[ref] = true
				next = append(next, ref)
			}
		}
	}
	return out
}

// applied lists what a Kustomization says that it applied.
func applied(o Object) []Ref {
	var out []Ref
	for _, id := range o.Inventory() {
		if parts := strings.Split(id, "_"); len(parts) == 4 {
			out = append(out, Ref{Kind: parts[3], Namespace: parts[0], Name: parts[1]})
		}
	}
	return out
}

func message(o Object) string {
	_, fields := condition(o.Live, "Reconciling")
	text, _ := fields["message"].(string)
	return text
}
