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
	// Still says that what is off stopped it all the same.
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
	var out []Deep
	for _, s := range r.sites {
		found, err := s.withoutPolicies(ctx, attacks)
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("environment %s: switch policies off: %w", s.name, err)
		}
	}
	for _, name := range namesOf(attacks, func(o overlay.Overlay) bool { return byFlux(o) && o.Attack.Layer == "policy" }) {
		found, err := r.withoutPolicy(ctx, name, attacks)
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("switch the policy %s off: %w", name, err)
		}
	}
	for _, layer := range r.in.Layers {
		found, err := r.without(ctx, layer, attacks)
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
	conditions = append(conditions, map[string]any{"name": "not-switched-off", "expression": expression})
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
			return overlay.PutBack(context.WithoutCancel(ctx), s.config, []overlay.Sent{sent})
		})
		if err := s.unasked(ctx, name); err != nil {
			return nil, err
		}
	}
	names := func(o overlay.Overlay) bool { return byFlux(o) && o.Attack.Layer == "policy" && o.Attack.By == name }
	for _, round := range rounds(attacks, names) {
		found, err := r.deepRound(ctx, "policy "+name, nil, round)
		out = append(out, found...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// unasked waits until the webhook of a policy has the condition that keeps it from
// being asked.
func (s *site) unasked(ctx context.Context, name string) error {
	kind := schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfigurationList"}
	err := wait.PollUntilContextTimeout(ctx, askPause, askBefore, true, func(ctx context.Context) (bool, error) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := s.sender.Admin().List(ctx, list); err != nil {
			return false, err
		}
		for _, configuration := range list.Items {
			webhooks, _, _ := unstructured.NestedSlice(configuration.Object, "webhooks")
			for _, entry := range webhooks {
				webhook, _ := entry.(map[string]any)
				text, _ := webhook["name"].(string)
				if strings.HasSuffix(text, name) && strings.Contains(fmt.Sprint(webhook["matchConditions"]), "not-switched-off") {
					return true, nil
				}
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("environment %s: the webhook of %s does not take the condition: %w", s.name, name, err)
	}
	return nil
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
func (r *runner) without(ctx context.Context, layer overlay.Overlay, attacks []overlay.Overlay) ([]Deep, error) {
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
	var out []Deep
	rest := rounds(named, byFlux)
	if sent := slices.DeleteFunc(slices.Clone(named), commits); len(sent) > 0 {
		found, err := r.sendUnder(ctx, layer, off, sent)
		out = append(out, found...)
		if err != nil {
			return out, err
		}
	}
	for _, round := range rest {
		found, err := r.deepRound(ctx, off, []overlay.Overlay{layer}, round)
		out = append(out, found...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// sendUnder sends attacks while what switches a layer off lies on the platform.
func (r *runner) sendUnder(ctx context.Context, layer overlay.Overlay, off string, attacks []overlay.Overlay) (out []Deep, err error) {
	on := stage.New(r.in.View)
	defer func() { err = errors.Join(err, on.TakeBack(ctx)) }()
	if err := r.layUnder(ctx, on, []overlay.Overlay{layer}); err != nil {
		return nil, err
	}
	for _, o := range attacks {
		for _, s := range r.of(o) {
			found, err := s.deepSent(ctx, o, off, layer.Layer.Group)
			if err != nil {
				return out, err
			}
			out = append(out, found)
		}
	}
	return out, nil
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

// deepRound commits attacks, on top of what switches a layer off, and sees who
// stops them then.
func (r *runner) deepRound(ctx context.Context, off string, under, attacks []overlay.Overlay) (out []Deep, err error) {
	on := stage.New(r.in.View)
	defer func() { err = errors.Join(err, on.TakeBack(ctx)) }()
	if err := r.layUnder(ctx, on, under); err != nil {
		return nil, err
	}
	if err := on.Lay(ctx, attacks...); err != nil {
		return nil, err
	}
	settled, err := on.Refresh(ctx)
	if err != nil {
		return nil, err
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
	return out, nil
}

// layUnder lays what switches layers off, and waits until Flux's own controllers
// run as they are then declared.
func (r *runner) layUnder(ctx context.Context, on *stage.Stage, under []overlay.Overlay) error {
	if len(under) == 0 {
		return nil
	}
	if err := on.Lay(ctx, under...); err != nil {
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
	for _, o := range under {
		if err := on.Send(ctx, o); err != nil {
			return err
		}
	}
	return nil
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
// can be switched off, that no attack names.
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
			if p.GetKind() == policyKind.Kind && !needed[p.GetName()] {
				missing["policy "+p.GetName()] = true
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
