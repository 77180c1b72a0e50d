package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/stage"
)

// clean refuses a session that is not as its repositories declare it: what a
// killed run left would be taken for the platform's doing.
func (r *runner) clean(ctx context.Context) error {
	var left []string
	for _, s := range r.sites {
		timeouts := r.in.View.Timeouts()
		settled, err := bootstrap.Settle(ctx, bootstrap.SettleInput{Client: s.sender.Admin(), Timeout: timeouts.Reconcile, Stall: timeouts.Stall})
		if err != nil {
			return fmt.Errorf("environment %s: %w", s.name, err)
		}
		for _, o := range settled.Objects {
			if !o.Current() && !o.Suspended {
				left = append(left, fmt.Sprintf("%s: %s is not ready: %s", s.name, o.Ref, o.Message))
			}
			if ofAttack(o.Name) {
				left = append(left, fmt.Sprintf("%s: %s is of an attack that was not taken back", s.name, o.Ref))
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("the platform is not ready to be attacked:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}

// ofAttack says whether a Flux object is one that an attack or a change brought, by
// its name.
func ofAttack(name string) bool {
	return strings.HasPrefix(name, "atk-") || strings.HasPrefix(name, "chg-")
}

// byFlux says whether an attack is a commit whose fate Flux or the layout decides.
func byFlux(o overlay.Overlay) bool {
	return commits(o) && len(o.Given) == 0 && o.Attack.Layer != "check" && o.Attack.Layer != "files" && o.Attack.Layer != "network"
}

// commitAll tries what goes through Git, many at once where they do not meet.
func (r *runner) commitAll(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, error) {
	return r.chain(ctx, rounds(attacks, byFlux), r.look, r.commitLink, r.remains(attacks), func(ctx context.Context, round []overlay.Overlay) ([]Verdict, error) {
		return r.narrow(ctx, round, r.commitRound)
	})
}

// remains lists what attacks left behind, once all is taken back.
func (r *runner) remains(attacks []overlay.Overlay) func(before, after looks) []string {
	attackers := r.attackers(attacks)
	return func(before, after looks) []string { return left(before, after, attackers) }
}

// rounds puts each attack that is chosen into the first round in which it meets
// none, and in which all are of one tenant: what anybody else's objects become is
// the round's doing. Those that have to be alone come last.
func rounds(attacks []overlay.Overlay, chosen func(overlay.Overlay) bool) [][]overlay.Overlay {
	var out [][]overlay.Overlay
	for _, o := range attacks {
		if !chosen(o) {
			continue
		}
		i := slices.IndexFunc(out, func(round []overlay.Overlay) bool {
			return !slices.ContainsFunc(round, func(other overlay.Overlay) bool {
				return o.Meets(other) || o.Attack.Tenant != other.Attack.Tenant
			})
		})
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], o)
	}
	return append(slices.DeleteFunc(slices.Clone(out), alone), slices.DeleteFunc(out, func(round []overlay.Overlay) bool { return !alone(round) })...)
}

// commitRound commits attacks, sees what Flux says, does the same with their
// controls, and takes them back.
func (r *runner) commitRound(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, []string, error) {
	before, err := r.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	on := stage.New(r.in.View)
	found, _, err := r.commitLink(ctx, on, attacks, before, stirred{})
	if err = errors.Join(err, on.TakeBack(ctx)); err != nil {
		return found.verdicts, nil, err
	}
	after, err := r.look(ctx)
	return found.verdicts, append(found.stray, left(before, after, r.attackers(attacks))...), err
}

// commitLink lays attacks in the place of what lies there, judges them, and puts
// their controls in their place. It returns how everything is under those.
func (r *runner) commitLink(ctx context.Context, on *stage.Stage, attacks []overlay.Overlay, before looks, was stirred) (link, looks, error) {
	out := link{overlays: attacks}
	for _, o := range attacks {
		for _, s := range r.of(o) {
			out.verdicts = append(out.verdicts, Verdict{Overlay: o, Environment: s.name})
		}
	}
	controls, err := controlsOf(attacks)
	if err != nil {
		return out, nil, err
	}
	started := time.Now()
	settled, err := r.put(ctx, on, attacks)
	if err != nil {
		return out, nil, err
	}
	during, err := r.look(ctx)
	if err != nil {
		return out, nil, err
	}
	for i := range out.verdicts {
		v := &out.verdicts[i]
		v.Seconds = time.Since(started).Seconds()
		if err := r.judge(ctx, v, settled[v.Environment]); err != nil {
			return out, nil, err
		}
	}
	attackers := r.attackers(attacks)
	out.stray = append(touched(was.calm(before), was.calm(during), attackers), r.unready(settled, attackers)...)
	if len(controls) == 0 {
		return out, during, nil
	}
	if settled, err = r.put(ctx, on, controls); err != nil {
		return out, nil, fmt.Errorf("controls: %w", err)
	}
	for i := range out.verdicts {
		r.accepted(&out.verdicts[i], settled[out.verdicts[i].Environment])
	}
	now, err := r.look(ctx)
	return out, now, err
}

// put lays overlays in the place of what lies there, and waits until Flux has
// settled.
func (r *runner) put(ctx context.Context, on *stage.Stage, overlays []overlay.Overlay) (stage.Settled, error) {
	if err := on.Swap(ctx, overlays...); err != nil {
		return nil, err
	}
	return on.Refresh(ctx)
}

// controlsOf are the controls of attacks, of those that have one.
func controlsOf(attacks []overlay.Overlay) ([]overlay.Overlay, error) {
	var out []overlay.Overlay
	for _, o := range attacks {
		if o.Attack.Control == nil {
			continue
		}
		control, err := o.Controlled()
		if err != nil {
			return nil, err
		}
		out = append(out, control)
	}
	return out, nil
}

// unready lists the tenants' Flux objects that an attack of others keeps from
// being ready.
func (r *runner) unready(settled stage.Settled, attackers []string) []string {
	var out []string
	for _, s := range r.sites {
		for _, o := range settled[s.name].Objects {
			tenant := s.tenants[o.String()]
			if tenant != "" && !slices.Contains(attackers, tenant) && !o.Current() && !o.Suspended {
				out = append(out, fmt.Sprintf("%s: %s of %s is not ready: %s", s.name, o.Ref, tenant, o.Message))
			}
		}
	}
	return out
}

// found is the Flux object that tells of an attack.
func found(where *overlay.Where, settled bootstrap.Settlement) (bootstrap.Object, bool) {
	for _, o := range settled.Objects {
		if o.Kind == where.Kind && o.Namespace == where.Namespace && o.Name == where.Name {
			return o, true
		}
	}
	return bootstrap.Object{}, false
}

// unbuilt are the Flux objects that are not ready of the one that must have applied a
// commit and of the sources that it draws on: there the commit may have got stuck.
func unbuilt(where *overlay.Where, settled bootstrap.Settlement) []bootstrap.Object {
	var out []bootstrap.Object
	seen := map[bootstrap.Ref]bool{}
	for next := []bootstrap.Ref{{Kind: where.Kind, Namespace: where.Namespace, Name: where.Name}}; len(next) > 0; next = next[1:] {
		i := slices.IndexFunc(settled.Objects, func(o bootstrap.Object) bool { return o.Ref == next[0] })
		if i < 0 || seen[next[0]] {
			continue
		}
		seen[next[0]] = true
		o := settled.Objects[i]
		if !o.Current() && !o.Suspended {
			out = append(out, o)
		}
		for _, ref := range o.WaitsFor {
			if ref.Kind != "Kustomization" && ref.Kind != "HelmRelease" {
				next = append(next, ref)
			}
		}
	}
	return out
}

// judge says what became of an attack that lies on the platform.
func (r *runner) judge(ctx context.Context, v *Verdict, settled bootstrap.Settlement) error {
	a := v.Overlay.Attack
	if a.Where != nil {
		o, there := found(a.Where, settled)
		switch {
		case !there:
			v.problem("%s is not there: the commit did not arrive", a.Where)
			return nil
		case a.Layer == "layout":
			for _, o := range unbuilt(a.Where, settled) {
				v.problem("nothing shows that the commit was applied: %s is not ready: %s: %s", o.Ref, o.Reason, o.Message)
			}
		default:
			by := conditioned(o, r.site(v.Environment).policies)
			v.By, v.Words = by.String(), by.words
			if problem := wrong(a, by); problem != "" {
				v.problem("%s", problem)
			}
			if a.Where.Reason != "" && o.Reason != a.Where.Reason {
				v.problem("%s has the reason %s, not %s: %s", a.Where, o.Reason, a.Where.Reason, o.Message)
			}
		}
	}
	for _, hold := range a.Holds {
		problem, err := r.site(v.Environment).holds(ctx, hold)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Overlay.ID, err)
		}
		if problem != "" {
			v.problem("%s", problem)
		}
	}
	if a.Layer == "layout" && len(v.Problems) == 0 {
		v.By = "layout"
	}
	return nil
}

// accepted says whether a control became ready.
func (r *runner) accepted(v *Verdict, settled bootstrap.Settlement) {
	a := v.Overlay.Attack
	if a.Control == nil || a.Where == nil {
		return
	}
	o, there := found(a.Where, settled)
	switch {
	case !there:
		v.problem("the control must be accepted, and %s is not there", a.Where)
	case !o.Current():
		v.problem("the control must be accepted, and %s is not ready: %s: %s", a.Where, o.Reason, o.Message)
	}
}

func (r *runner) site(name string) *site {
	for _, s := range r.sites {
		if s.name == name {
			return s
		}
	}
	return nil
}

// versions are those of kinds that need not be named.
var versions = map[string]string{
	"ConfigMap": "v1", "Service": "v1", "Pod": "v1", "Secret": "v1", "Namespace": "v1", "ServiceAccount": "v1",
	"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "Ingress": "networking.k8s.io/v1", "NetworkPolicy": "networking.k8s.io/v1",
	"Kustomization": "kustomize.toolkit.fluxcd.io/v1", "GitRepository": "source.toolkit.fluxcd.io/v1", "HelmRelease": "helm.toolkit.fluxcd.io/v2",
}

// holds says what is not as it must be, of any object that is chosen; empty when all
// are.
func (s *site) holds(ctx context.Context, h overlay.Hold) (string, error) {
	version := h.APIVersion
	if version == "" {
		version = versions[h.Kind]
	}
	if version == "" {
		return "", fmt.Errorf("holds: name the apiVersion of %s", h.Kind)
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.FromAPIVersionAndKind(version, h.Kind+"List"))
	options := []client.ListOption{client.InNamespace(h.Namespace)}
	if len(h.Select) > 0 {
		options = append(options, client.MatchingLabels(h.Select))
	}
	if err := s.sender.Admin().List(ctx, list, options...); err != nil {
		return "", fmt.Errorf("holds: list %s in %s: %w", h.Kind, h.Namespace, err)
	}
	items := slices.DeleteFunc(list.Items, func(o unstructured.Unstructured) bool { return h.Name != "" && o.GetName() != h.Name })
	what := strings.TrimSpace(fmt.Sprintf("%s %s/%s", h.Kind, h.Namespace, h.Name))
	if h.Absent && h.Field == "" {
		if len(items) > 0 {
			return fmt.Sprintf("%s%s is there, and must not be", what, items[0].GetName()), nil
		}
		return "", nil
	}
	if len(items) == 0 {
		return what + " is not there", nil
	}
	for _, item := range items {
		value, there := overlay.Field(item.Object, h.Field)
		text := fmt.Sprint(value)
		seen := fmt.Sprintf("%s %s: %s is %q", item.GetKind(), item.GetName(), h.Field, text)
		switch {
		case h.Absent && there:
			return seen + ", and must not be there", nil
		case h.Equals != nil && (!there || text != *h.Equals):
			return fmt.Sprintf("%s, not %q", seen, *h.Equals), nil
		case h.Contains != "" && (!there || !strings.Contains(text, h.Contains)):
			return fmt.Sprintf("%s, without %q", seen, h.Contains), nil
		}
	}
	return "", nil
}
