package attack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/stage"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// Deep is what an attack meets once the layer that it names is off.
type Deep struct {
	Attack      string `json:"attack"`
	Environment string `json:"environment"`
	// Off is what was switched off.
	Off string `json:"off"`
	// Next stopped it then; empty: nothing does.
	Next string `json:"next"`
	// Words are those of the next refusal.
	Words string `json:"words"`
	// Still says that it was stopped in the words of what is off.
	Still bool `json:"still"`
}

// offGroup begins the names of groups for whose members a layer is off.
const offGroup = "flux-platform-conformance:off:"

// deepen switches each layer off that attacks name, and sees what catches them
// next. Policies are off for requests of a group that only this run's requests
// carry, all of them at once; what goes through Flux cannot carry a group, so that
// there the policy is off for everybody, one at a time. Everything else is switched
// off by an overlay.
func (r *runner) deepen(ctx context.Context, attacks []overlay.Overlay) ([]Deep, error) {
	before, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	out, err := r.switchOff(ctx, attacks)
	if err != nil {
		return out, err
	}
	// What came through may have taken others' objects along, or have seen to it that
	// it stays: what attacks applied is removed, and Flux makes anew what is missing.
	// A layer that was off may be another object with the same content.
	owners := []string{""}
	for _, s := range r.sites {
		for _, t := range s.declared.Tenants {
			owners = append(owners, t.Name, t.Namespace)
		}
	}
	after, err := r.look(ctx)
	if err != nil {
		return out, err
	}
	if remaining := left(before, after, owners); len(remaining) > 0 {
		r.in.Say("put right what came through: %s", strings.Join(remaining, "; "))
		for _, s := range r.sites {
			if err := s.sweep(ctx); err != nil {
				return out, err
			}
		}
		if err := stage.New(r.in.View).Heal(ctx); err != nil {
			return out, err
		}
		if after, err = r.look(ctx); err != nil {
			return out, err
		}
	}
	if remaining := left(before, after, owners); len(remaining) > 0 {
		return out, fmt.Errorf("attacks that came through while a layer was off left: %s", strings.Join(remaining, "; "))
	}
	return out, nil
}

// sweep removes what Kustomizations of attacks applied and their removal left.
func (s *site) sweep(ctx context.Context) error {
	for _, namespace := range s.namespaces {
		objects, err := s.lister.Namespace(ctx, namespace)
		if err != nil {
			return fmt.Errorf("environment %s: %w", s.name, err)
		}
		for _, object := range objects {
			if !appliedByAttack(object) {
				continue
			}
			if err := client.IgnoreNotFound(s.sender.Admin().Delete(ctx, object)); err != nil {
				return fmt.Errorf("environment %s: remove %s %s/%s, which an attack left: %w", s.name, object.GetKind(), namespace, object.GetName(), err)
			}
		}
	}
	return nil
}

// appliedByAttack says whether a Flux object of an attack applied an object: those
// are named after it.
func appliedByAttack(object *unstructured.Unstructured) bool {
	_, name, _ := strings.Cut(state.Applier(object), "/")
	return ofAttack(name)
}

// switchOff switches one layer off after the other.
func (r *runner) switchOff(ctx context.Context, attacks []overlay.Overlay) ([]Deep, error) {
	var out []Deep
	for _, s := range r.sites {
		started := time.Now()
		found, err := s.withoutPolicies(ctx, attacks)
		r.in.Say("%s: %d attacks sent with their policy off in %.0f s", s.name, len(found), time.Since(started).Seconds())
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("environment %s: switch policies off: %w", s.name, err)
		}
	}
	for _, name := range namesOf(attacks, func(o overlay.Overlay) bool { return byFlux(o) && o.Attack.Layer == "policy" }) {
		started := time.Now()
		found, err := r.withoutPolicy(ctx, name, attacks)
		r.in.Say("policy %s off: %d attacks committed in %.0f s", name, len(found), time.Since(started).Seconds())
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("switch the policy %s off: %w", name, err)
		}
	}
	for _, layer := range r.in.Layers {
		started := time.Now()
		found, err := r.without(ctx, layer, attacks)
		r.in.Say("%s, %s %s off: %d attacks in %.0f s", layer.ID, layer.Layer.Kind, layer.Layer.Name, len(found), time.Since(started).Seconds())
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("switch %s off: %w", layer.ID, err)
		}
	}
	slices.SortStableFunc(out, func(a, b Deep) int {
		return cmp.Or(strings.Compare(a.Off, b.Off), strings.Compare(a.Attack, b.Attack), strings.Compare(a.Environment, b.Environment))
	})
	return out, nil
}

// namesOf are those that the attacks chosen give as by, each once.
func namesOf(attacks []overlay.Overlay, chosen func(overlay.Overlay) bool) []string {
	names := map[string]bool{}
	for _, o := range attacks {
		if chosen(o) && o.Attack.By != "" {
			names[o.Attack.By] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// policyKind is the kind of the policies that can be switched off.
var policyKind = schema.GroupVersionKind{Group: "policies.kyverno.io", Version: "v1", Kind: "ValidatingPolicy"}

// withoutPolicies sends each attack that names a policy as somebody for whom that
// policy is off.
func (s *site) withoutPolicies(ctx context.Context, attacks []overlay.Overlay) (out []Deep, err error) {
	var here []overlay.Overlay
	for _, o := range attacks {
		if o.Attack.Layer == "policy" && len(o.Objects) > 0 && !commits(o) && o.In(s.name) && s.lacks(o) == "" {
			here = append(here, o)
		}
	}
	names := namesOf(here, func(overlay.Overlay) bool { return true })
	if len(names) == 0 {
		return nil, nil
	}
	var undo []overlay.Sent
	defer func() {
		err = errors.Join(err, s.restore(context.WithoutCancel(ctx), undo, here))
	}()
	for _, name := range names {
		sent, err := s.exempt(ctx, name, fmt.Sprintf("!(%q in request.userInfo.groups)", offGroup+name))
		if err != nil {
			return nil, err
		}
		undo = append(undo, sent)
	}
	found := make([]Deep, len(here))
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, o := range here {
		group.Go(func() (err error) {
			found[i], err = s.deep(running, o, "policy "+o.Attack.By, offGroup+o.Attack.By)
			return err
		})
	}
	return found, group.Wait()
}

// exempt adds a condition to a policy without which nobody asks it.
func (s *site) exempt(ctx context.Context, name, expression string) (overlay.Sent, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(policyKind)
	if err := s.sender.Admin().Get(ctx, client.ObjectKey{Name: name}, live); err != nil {
		return overlay.Sent{}, fmt.Errorf("read the policy %s: %w", name, err)
	}
	sent := overlay.Sent{Object: live.DeepCopy(), Before: live.DeepCopy()}
	conditions, _, _ := unstructured.NestedSlice(live.Object, "spec", "matchConditions")
	conditions = append(conditions, map[string]any{"name": switchedOff, "expression": expression})
	if err := unstructured.SetNestedSlice(live.Object, conditions, "spec", "matchConditions"); err != nil {
		return overlay.Sent{}, err
	}
	if err := s.sender.Admin().Update(ctx, live); err != nil {
		return overlay.Sent{}, fmt.Errorf("change the policy %s: %w", name, err)
	}
	return sent, nil
}

// restore puts policies back and waits until they refuse again what they are there
// to refuse.
func (s *site) restore(ctx context.Context, policies []overlay.Sent, attacks []overlay.Overlay) error {
	if err := overlay.PutBack(ctx, s.config, policies); err != nil {
		return err
	}
	for _, o := range attacks {
		err := wait.PollUntilContextTimeout(ctx, askPause, askBefore, true, func(ctx context.Context) (bool, error) {
			found, _, err := s.probe(ctx, o.Objects[0], offGroup+o.Attack.By)
			return denies(found.by, o.Attack.By) || found.layer == "policy", err
		})
		if err != nil {
			return fmt.Errorf("the policy %s does not refuse %s again: %w", o.Attack.By, o.ID, err)
		}
	}
	return nil
}

// deep sends an attack by dry-run as a member of a group until what is off does
// not stop it any more: what is switched is in force a moment later.
func (s *site) deep(ctx context.Context, o overlay.Overlay, off string, group string) (Deep, error) {
	out := Deep{Attack: o.ID, Environment: s.name, Off: off, Still: true}
	until := time.Now().Add(askBefore / 3)
	err := wait.PollUntilContextTimeout(ctx, askPause, askBefore, true, func(ctx context.Context) (bool, error) {
		for _, object := range o.Objects {
			found, warnings, err := s.probe(ctx, object, group)
			if err != nil {
				return false, err
			}
			out.Next, out.Words = found.String(), found.words
			if found.layer == o.Attack.Layer && (o.Attack.By == "" || denies(found.by, o.Attack.By)) {
				return time.Now().After(until), nil
			}
			out.Still = false
			if found.layer == "" {
				out.Next, out.Words = "", ""
				if violation := later(warnings); violation != "" {
					out.Next, out.Words = "podsecurity, for its pods alone", violation
				}
			} else {
				break
			}
		}
		return true, nil
	})
	if err != nil {
		return out, fmt.Errorf("%s: %w", o.ID, err)
	}
	return out, nil
}

// later is the warning that the pods of what was admitted will be refused.
func later(warnings []string) string {
	for _, text := range warnings {
		if strings.Contains(text, "violate PodSecurity") {
			return text
		}
	}
	return ""
}

// warned collects the warnings of one request.
type warned struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader is called for each warning.
func (w *warned) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// probe sends an object by dry-run as its identity with one group more.
func (s *site) probe(ctx context.Context, object overlay.Send, group string) (found stop, warnings []string, err error) {
	if group != "" && object.As != "" {
		if len(object.Groups) == 0 {
			object.Groups = groupsOf(object.As)
		}
		object.Groups = append(slices.Clone(object.Groups), group)
	}
	heard := &warned{}
	config := rest.CopyConfig(s.config)
	config.WarningHandler = heard
	sender, err := overlay.NewSender(config)
	if err != nil {
		return stop{}, nil, err
	}
	err = wait.PollUntilContextTimeout(ctx, askPause, askBefore, true, func(ctx context.Context) (bool, error) {
		_, answer, err := sender.Send(ctx, object, true)
		if err != nil {
			return false, err
		}
		var unknown bool
		found, unknown = answered(answer, s.policies)
		return !unknown, nil
	})
	return found, heard.texts, err
}

// withoutPolicy commits the attacks that Flux carries to a policy, while nobody
// asks that policy.
func (r *runner) withoutPolicy(ctx context.Context, name string, attacks []overlay.Overlay) (out []Deep, err error) {
	var undo []func() error
	defer func() {
		for _, back := range undo {
			err = errors.Join(err, back())
		}
	}()
	for _, s := range r.sites {
		sent, err := s.exempt(ctx, name, "false")
		if err != nil {
			return nil, err
		}
		undo = append(undo, func() error {
			back := context.WithoutCancel(ctx)
			if err := overlay.PutBack(back, s.config, []overlay.Sent{sent}); err != nil {
				return err
			}
			return s.switched(back, name, false)
		})
		if err := s.switched(ctx, name, true); err != nil {
			return nil, err
		}
	}
	names := func(o overlay.Overlay) bool { return byFlux(o) && o.Attack.Layer == "policy" && o.Attack.By == name }
	return r.deepRounds(ctx, "policy "+name, rounds(attacks, names))
}

// switchedOff names the condition with which a policy is off.
const switchedOff = "not-switched-off"

// switched waits until the webhook of a policy has the condition that keeps it from
// being asked, or has it no more.
func (s *site) switched(ctx context.Context, name string, off bool) error {
	kind := schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfigurationList"}
	err := wait.PollUntilContextTimeout(ctx, askPause, askBefore, true, func(ctx context.Context) (bool, error) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := s.sender.Admin().List(ctx, list); err != nil {
			return false, err
		}
		for _, configuration := range list.Items {
			webhooks, _, _ := unstructured.NestedSlice(configuration.Object, "webhooks")
			if there, known := conditionedOff(webhooks, name); known {
				return there == off, nil
			}
		}
		return !off, nil
	})
	if err != nil {
		return fmt.Errorf("environment %s: the webhook of %s is not as its policy is (off: %v): %w", s.name, name, off, err)
	}
	return nil
}

// conditionedOff says whether the webhook of a policy has the condition, and whether
// there is one. A policy without conditions may share a webhook with others: then
// none is named after it.
func conditionedOff(webhooks []any, policy string) (off, known bool) {
	for _, entry := range webhooks {
		webhook, _ := entry.(map[string]any)
		if name, _ := webhook["name"].(string); strings.HasSuffix(name, "-"+policy) {
			return strings.Contains(fmt.Sprint(webhook["matchConditions"]), switchedOff), true
		}
	}
	return false, false
}

// names says whether an attack names what a switch switches off.
func (r *runner) names(o overlay.Overlay, off overlay.Switch) bool {
	a := o.Attack
	if off.Kind != "flag" {
		return a.Layer == off.Kind && (off.Name == "" || a.By == off.Name)
	}
	return off.Name != "" && a.By == off.Name
}

// without lays what switches a layer off over the platform, and tries the attacks
// that name it.
func (r *runner) without(ctx context.Context, layer overlay.Overlay, attacks []overlay.Overlay) (out []Deep, err error) {
	var named []overlay.Overlay
	for _, o := range attacks {
		if r.names(o, *layer.Layer) && len(r.of(o)) > 0 {
			named = append(named, o)
		}
	}
	if len(named) == 0 {
		return nil, nil
	}
	off := strings.TrimSpace(layer.Layer.Kind + " " + layer.Layer.Name)
	on := stage.New(r.in.View)
	defer func() { err = errors.Join(err, on.TakeBack(ctx)) }()
	if err := r.layUnder(ctx, on, layer); err != nil {
		return nil, err
	}
	for _, o := range slices.DeleteFunc(slices.Clone(named), commits) {
		for _, s := range r.of(o) {
			found, err := s.deepSent(ctx, o, off, layer.Layer.Group)
			if err != nil {
				return out, err
			}
			out = append(out, found)
		}
	}
	committed := rounds(named, byFlux)
	if err := on.Send(ctx, forAccounts(layer, slices.Concat(committed...))); err != nil {
		return out, err
	}
	found, err := r.deepRounds(ctx, off, committed)
	return append(out, found...), err
}

// forAccounts are the objects of a layer that is off for a group, for the accounts
// with which Flux applies attacks: Flux cannot be of a group that is this run's.
func forAccounts(layer overlay.Overlay, attacks []overlay.Overlay) overlay.Overlay {
	out := overlay.Overlay{ID: layer.ID, Environments: layer.Environments}
	seen := map[string]bool{}
	for _, o := range attacks {
		if layer.Layer.Group == "" || o.Attack.Where == nil || seen[o.Attack.Where.Namespace] {
			continue
		}
		namespace := o.Attack.Where.Namespace
		seen[namespace] = true
		for _, object := range layer.Objects {
			manifest := object.Manifest.DeepCopy()
			manifest.Object, _ = renamed(manifest.Object, layer.Layer.Group, "system:serviceaccounts:"+namespace).(map[string]any)
			manifest.SetName(manifest.GetName() + "-" + namespace)
			object.Manifest = manifest
			out.Objects = append(out.Objects, object)
		}
	}
	return out
}

// renamed puts one text for another wherever it is a whole value.
func renamed(value any, old, replacement string) any {
	switch v := value.(type) {
	case string:
		if v == old {
			return replacement
		}
	case map[string]any:
		for key := range v {
			v[key] = renamed(v[key], old, replacement)
		}
	case []any:
		for i := range v {
			v[i] = renamed(v[i], old, replacement)
		}
	}
	return value
}

// deepSent tries objects or reviews while a layer is off.
func (s *site) deepSent(ctx context.Context, o overlay.Overlay, off, group string) (Deep, error) {
	if len(o.Reviews) == 0 {
		return s.deep(ctx, o, off, group)
	}
	out := Deep{Attack: o.ID, Environment: s.name, Off: off}
	for _, review := range o.Reviews {
		review.Groups = append(slices.Clone(review.Groups), groupsOf(review.As)...)
		if group != "" {
			review.Groups = append(review.Groups, group)
		}
		status, err := s.ask(ctx, review)
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.ID, err)
		}
		if !status.Allowed {
			out.Still, out.Next, out.Words = true, "rbac", status.Reason
		}
	}
	return out, nil
}

// deepRounds commits attacks on top of what switches a layer off, one round in the
// place of the other, and sees who stops them then. They are taken back while it is
// still off: what came through goes the way it came.
func (r *runner) deepRounds(ctx context.Context, off string, todo [][]overlay.Overlay) (out []Deep, err error) {
	on := stage.New(r.in.View)
	defer func() { err = errors.Join(err, on.TakeBack(ctx)) }()
	for _, attacks := range todo {
		settled, err := r.put(ctx, on, attacks)
		if err != nil {
			return out, err
		}
		for _, o := range attacks {
			if o.Attack.Where == nil {
				continue
			}
			for _, s := range r.of(o) {
				deep, err := s.next(o, off, settled[s.name])
				if err != nil {
					return out, err
				}
				out = append(out, deep)
			}
		}
	}
	return out, nil
}

// layUnder lays what switches a layer off, and waits until Flux's own controllers
// run as they are then declared.
func (r *runner) layUnder(ctx context.Context, on *stage.Stage, layer overlay.Overlay) error {
	if err := on.Lay(ctx, layer); err != nil {
		return err
	}
	if on.Committed() {
		if _, err := on.Refresh(ctx); err != nil {
			return err
		}
		for _, s := range r.sites {
			if err := s.rolled(ctx); err != nil {
				return err
			}
		}
	}
	return on.Send(ctx, layer)
}

// rolled waits until the Deployments of Flux have no old pods left.
func (s *site) rolled(ctx context.Context) error {
	var last string
	err := wait.PollUntilContextTimeout(ctx, askPause, 2*askBefore, true, func(ctx context.Context) (bool, error) {
		list := &appsv1.DeploymentList{}
		if err := s.sender.Admin().List(ctx, list, client.InNamespace(bootstrap.Namespace)); err != nil {
			return false, err
		}
		for _, d := range list.Items {
			wanted := int32(1)
			if d.Spec.Replicas != nil {
				wanted = *d.Spec.Replicas
			}
			st := d.Status
			if st.ObservedGeneration < d.Generation || st.UpdatedReplicas != wanted || st.Replicas != wanted || st.ReadyReplicas != wanted {
				last = fmt.Sprintf("Deployment %s: %d of %d pods are up to date, %d ready", d.Name, st.UpdatedReplicas, wanted, st.ReadyReplicas)
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("environment %s: Flux does not run with its new flags: %s: %w", s.name, last, err)
	}
	return nil
}

// next is what stops a commit now.
func (s *site) next(o overlay.Overlay, off string, settled bootstrap.Settlement) (Deep, error) {
	deep := Deep{Attack: o.ID, Environment: s.name, Off: off}
	var by stop
	for _, where := range []*overlay.Where{o.Attack.Where, o.Attack.Then} {
		if where == nil || by.layer != "" {
			continue
		}
		object, there := found(where, settled)
		if !there {
			return deep, fmt.Errorf("%s: %s is not there", o.ID, where)
		}
		by = conditioned(object, s.policies)
		if where == o.Attack.Where {
			deep.Still = by.layer == o.Attack.Layer && strings.Contains(by.words, o.Attack.Says)
		}
	}
	if by.layer != "" {
		deep.Next, deep.Words = by.String(), by.words
	}
	return deep, nil
}

// needless are the policies of the platform, and the flags and other layers that
// can be switched off, that no attack names. Those that change or make objects and
// refuse none can be named by no attack, and are listed as what they are.
func (r *runner) needless(all []overlay.Overlay) []string {
	needed := map[string]bool{}
	for _, o := range all {
		if o.Attack != nil && o.Attack.Layer == "policy" {
			needed[o.Attack.By] = true
		}
	}
	missing := map[string]bool{}
	for _, s := range r.sites {
		for _, p := range s.declared.Policies {
			switch {
			case needed[p.GetName()]:
			case p.GetKind() == policyKind.Kind:
				missing["policy "+p.GetName()] = true
			default:
				missing[fmt.Sprintf("policy %s (a %s: it refuses nothing)", p.GetName(), p.GetKind())] = true
			}
		}
	}
	for _, layer := range r.in.Layers {
		if !slices.ContainsFunc(all, func(o overlay.Overlay) bool { return o.Attack != nil && r.names(o, *layer.Layer) }) {
			missing[strings.TrimSpace(layer.Layer.Kind+" "+layer.Layer.Name)] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}
