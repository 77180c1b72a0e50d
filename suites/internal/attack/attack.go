// Package attack tries a catalogue of attacks on the platform of a running session,
// and tells of each who stopped it: by the layer that it names, for the reason that
// it names, with nobody else's objects touched, the control accepted, and everything
// as it was in the end.
package attack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// Input is what Run works on.
type Input struct {
	// View is the session; required.
	View *bringup.View
	// Attacks are tried, Changes are seen how far they reach.
	Attacks, Changes []overlay.Overlay
	// All attacks there are: a policy that none of them names is needless.
	All []overlay.Overlay
	// Layers switch off what attacks name, for Depth.
	Layers []overlay.Overlay
	// Environments are tried; empty: all of the session.
	Environments []string
	// Depth has each layer that attacks name switched off once.
	Depth bool
	// Judge judges conformance checks in environments, on what is served now;
	// required where an attack names one.
	Judge func(ctx context.Context, name string, checks, environments []string) ([]check.Outcome, error)
	// Files judges the files alone, as they are under these overlays; required where
	// an attack names one of its checks.
	Files func(ctx context.Context, checks []string, overlays ...overlay.Overlay) ([]check.Outcome, error)
	// Say tells of what has been done; required.
	Say func(format string, args ...any)
}

// Verdict is what became of one attack, or change, in one environment.
type Verdict struct {
	Overlay     overlay.Overlay
	Environment string
	// By is who stopped it.
	By string
	// Words are those of the refusal.
	Words string
	// Problems say why it counts as failed; none: it was stopped as it must be.
	Problems []string
	// Unsupported is what the cluster lacks for it to be tried.
	Unsupported string
	// Seconds is how long it took, in a round with others.
	Seconds float64
}

func (v *Verdict) problem(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// Outcome is the verdict in the form of a check's.
func (v Verdict) Outcome() check.Outcome {
	o := check.Outcome{Check: v.Overlay.ID, Environment: v.Environment, Seconds: v.Seconds, Result: check.Passed}
	switch {
	case len(v.Problems) > 0:
		o.Result, o.Expected, o.Found = check.Failed, expected(v.Overlay), strings.Join(v.Problems, "\n")
	case v.Unsupported != "":
		o.Result, o.Reason = check.NotSupported, v.Unsupported
	}
	return o
}

func expected(o overlay.Overlay) string {
	a := o.Attack
	if a == nil {
		return "only what the change may reach is other than before, and all that it must reach is"
	}
	text := "stopped by " + named(a)
	if a.Says != "" {
		text += fmt.Sprintf(", saying %q", a.Says)
	}
	return text + "; nobody else's objects touched, the control accepted, all as before in the end"
}

// Result is what Run found.
type Result struct {
	Verdicts []Verdict
	// Requests is how many were sent, PerSecond how many of them in a second, P99
	// the time within which 99 of 100 were answered.
	Requests  int
	PerSecond float64
	P99       time.Duration
	// Depth says what attacks meet once the layer that they name is off.
	Depth []Deep
	// Needless are policies and flags that no attack needs.
	Needless []string
}

// runner is one run.
type runner struct {
	in    Input
	sites []*site
	// requested is how long requests were under way, all together.
	requested time.Duration
}

// Run tries everything. An error says that something could not be tried, or not
// be taken back: it is no verdict. What was found until then is returned with it.
func Run(ctx context.Context, in Input) (Result, error) {
	var out Result
	if in.View == nil || in.Say == nil {
		return out, errors.New("try attacks: view and say are required")
	}
	r := &runner{in: in}
	for _, up := range in.View.State.Environments {
		declared := in.View.Platform.Environment(up.Name)
		if declared == nil || len(in.Environments) > 0 && !slices.Contains(in.Environments, up.Name) {
			continue
		}
		s, err := newSite(declared, up)
		if err != nil {
			return out, err
		}
		r.sites = append(r.sites, s)
	}
	if len(r.sites) == 0 {
		return out, errors.New("try attacks: the session has no environment that is selected")
	}
	if err := r.clean(ctx); err != nil {
		return out, err
	}
	tried, lacking := r.split(in.Attacks)
	out.Verdicts = lacking
	steps := []func(context.Context, []overlay.Overlay) ([]Verdict, error){r.sendAll, r.commitAll, r.judgeAll, r.fileAll, r.givenAll}
	var err error
	for _, step := range steps {
		var found []Verdict
		found, err = step(ctx, tried)
		out.Verdicts = append(out.Verdicts, found...)
		if err != nil {
			break
		}
	}
	r.measure(&out)
	if err == nil && in.Depth {
		// What meets a state of its own meets it in no round with others.
		out.Depth, err = r.deepen(ctx, slices.DeleteFunc(slices.Clone(tried), func(o overlay.Overlay) bool { return len(o.Given) > 0 }))
		out.Needless = r.needless(in.All)
		doubt(out.Verdicts, out.Depth)
	}
	if err == nil {
		var found []Verdict
		found, err = r.changeAll(ctx, in.Changes)
		out.Verdicts = append(out.Verdicts, found...)
	}
	slices.SortStableFunc(out.Verdicts, func(a, b Verdict) int {
		return cmp.Or(strings.Compare(a.Overlay.ID, b.Overlay.ID), strings.Compare(a.Environment, b.Environment))
	})
	return out, err
}

// doubt takes the verdict back of each attack that is refused in the very words of the
// layer that is off: who stops it cannot be told.
func doubt(verdicts []Verdict, depth []Deep) {
	for _, d := range depth {
		for i := range verdicts {
			v := &verdicts[i]
			if d.Still && v.Overlay.ID == d.Attack && v.Environment == d.Environment {
				words, _, _ := strings.Cut(d.Words, "\n")
				v.Unsupported = fmt.Sprintf("with %s off it is refused in the same words, so who stops it cannot be told: %s", d.Off, words)
			}
		}
	}
}

// split tells what can be tried from what lacks a capability.
func (r *runner) split(attacks []overlay.Overlay) (tried []overlay.Overlay, lacking []Verdict) {
	for _, o := range attacks {
		can := false
		for _, s := range r.sites {
			if !o.In(s.name) {
				continue
			}
			if reason := s.lacks(o); reason != "" {
				lacking = append(lacking, Verdict{Overlay: o, Environment: s.name, Unsupported: reason})
				continue
			}
			can = true
		}
		if can {
			tried = append(tried, o)
		}
	}
	return tried, lacking
}

// lacks says which capability that an overlay needs an environment does not have.
func (s *site) lacks(o overlay.Overlay) string {
	for _, need := range o.Needs {
		for _, f := range s.state.Findings {
			if string(f.Capability) == need && !f.Has {
				return need + ": " + f.Evidence
			}
		}
	}
	return ""
}

// of are the environments in which an overlay is tried.
func (r *runner) of(o overlay.Overlay) []*site {
	var out []*site
	for _, s := range r.sites {
		if o.In(s.name) && s.lacks(o) == "" {
			out = append(out, s)
		}
	}
	return out
}

// tenant is the declared tenant of a name; nil when an environment has none.
func (s *site) tenant(name string) *platform.Tenant {
	for _, t := range s.declared.Tenants {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// attackers are the tenants that attack, and their control namespaces.
func (r *runner) attackers(attacks []overlay.Overlay) []string {
	var out []string
	for _, o := range attacks {
		if o.Attack == nil || o.Attack.Tenant == "" {
			continue
		}
		out = append(out, o.Attack.Tenant)
		for _, s := range r.sites {
			if t := s.tenant(o.Attack.Tenant); t != nil && t.Namespace != t.TargetNamespace {
				out = append(out, t.Namespace)
			}
		}
	}
	return out
}

// measure says how many requests were sent, and how fast they were answered.
func (r *runner) measure(out *Result) {
	var all []time.Duration
	for _, s := range r.sites {
		all = append(all, s.latencies...)
	}
	out.Requests = len(all)
	if len(all) == 0 || r.requested <= 0 {
		return
	}
	slices.Sort(all)
	out.P99 = all[min(len(all)-1, len(all)*99/100)]
	out.PerSecond = float64(len(all)) / r.requested.Seconds()
}

// ids names attacks.
func ids(attacks []overlay.Overlay) string {
	var out []string
	for _, o := range attacks {
		out = append(out, o.ID)
	}
	return strings.Join(out, ", ")
}

// commits says whether an overlay goes through Git.
func commits(o overlay.Overlay) bool { return len(o.Touches()) > 0 }
