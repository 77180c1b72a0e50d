package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/stage"
)

// givenAll tries the attacks that meet a state which is made for them, each alone.
func (r *runner) givenAll(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, error) {
	var out []Verdict
	for _, o := range attacks {
		if len(o.Given) == 0 {
			continue
		}
		started := time.Now()
		found, err := r.givenRound(ctx, o)
		out = append(out, found...)
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.ID, err)
		}
		r.in.Say("%s: %.0f s", o.ID, time.Since(started).Seconds())
	}
	return out, nil
}

// givenRound makes the state, tries the attack, takes the state back, and tries the
// control. While the state lasts nobody else has to be ready, since it meets all; but
// nobody loses anything, and all are ready in the end.
func (r *runner) givenRound(ctx context.Context, o overlay.Overlay) ([]Verdict, error) {
	before, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	var verdicts []Verdict
	for _, s := range r.of(o) {
		verdicts = append(verdicts, Verdict{Overlay: o, Environment: s.name})
	}
	attackers := r.attackers([]overlay.Overlay{o})
	started := time.Now()
	try := r.sendGiven
	if commits(o) {
		try = r.commitGiven
	}
	stray, err := try(ctx, o, verdicts, func() ([]string, error) {
		during, err := r.look(ctx)
		return touched(before, during, attackers), err
	})
	if err != nil {
		return verdicts, err
	}
	if err := r.clean(ctx); err != nil {
		return verdicts, fmt.Errorf("once the state is taken back: %w", err)
	}
	after, err := r.look(ctx)
	stray = append(stray, left(before, after, attackers)...)
	for i := range verdicts {
		v := &verdicts[i]
		v.Seconds = time.Since(started).Seconds()
	}
	blame(verdicts, "it left a change", stray)
	return verdicts, err
}

// under has something done while the state that an attack meets is in force, and
// takes it back.
func (r *runner) under(ctx context.Context, o overlay.Overlay, do func() error) (err error) {
	for _, s := range r.of(o) {
		var made []overlay.Sent
		defer func() {
			// What is left would be taken for the platform: also after an error.
			back := context.WithoutCancel(ctx)
			err = errors.Join(err, overlay.PutBack(back, s.config, made), s.inForce(back, r.in.View.Timeouts().Reconcile, made))
		}()
		for i, given := range o.Given {
			sent, answer, err := s.sender.Send(ctx, given, false)
			if err == nil {
				made, err = append(made, sent), answer
			}
			if err != nil {
				return fmt.Errorf("given[%d]: %w", i, err)
			}
		}
		if err := s.inForce(ctx, r.in.View.Timeouts().Reconcile, made); err != nil {
			return fmt.Errorf("given: %w", err)
		}
	}
	return do()
}

// inForce waits until objects are what was asked of them: a Deployment has as many
// pods as it names, all ready, and no others; anything of Flux has been looked at.
func (s *site) inForce(ctx context.Context, timeout time.Duration, sent []overlay.Sent) error {
	last := ""
	err := wait.PollUntilContextTimeout(ctx, askPause, timeout, true, func(ctx context.Context) (bool, error) {
		for _, one := range sent {
			live := one.Object.DeepCopy()
			err := s.sender.Admin().Get(ctx, client.ObjectKeyFromObject(live), live)
			switch {
			case apierrors.IsNotFound(err) && one.Before != nil:
				last, err = s.staying(ctx, one.Before)
			case apierrors.IsNotFound(err):
				last, err = "", nil
			case err == nil:
				last, err = s.pending(ctx, live)
			}
			if err != nil || last != "" {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil && last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// pending says what of an object is not yet as it asks for; empty when all is.
func (s *site) pending(ctx context.Context, live *unstructured.Unstructured) (string, error) {
	what := fmt.Sprintf("%s %s/%s", live.GetKind(), live.GetNamespace(), live.GetName())
	if observed, reports := observedGeneration(live); reports && observed < live.GetGeneration() {
		return what + " has not been looked at since it was changed", nil
	}
	if live.GetKind() != "Deployment" {
		return "", nil
	}
	wanted, found, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	if !found {
		wanted = 1
	}
	pods, err := s.pods(ctx, live)
	if err != nil {
		return "", err
	}
	ready := 0
	for _, pod := range pods {
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			ready++
		}
	}
	if len(pods) != int(wanted) || ready != len(pods) {
		return fmt.Sprintf("%s has %d pods, %d of them ready, and asks for %d", what, len(pods), ready, wanted), nil
	}
	return "", nil
}

// staying says what of an object that was deleted is still there.
func (s *site) staying(ctx context.Context, gone *unstructured.Unstructured) (string, error) {
	if gone.GetKind() != "Deployment" {
		return "", nil
	}
	pods, err := s.pods(ctx, gone)
	if err != nil || len(pods) == 0 {
		return "", err
	}
	return fmt.Sprintf("Deployment %s/%s is gone, and %d of its pods are not", gone.GetNamespace(), gone.GetName(), len(pods)), nil
}

// pods are those that a Deployment selects.
func (s *site) pods(ctx context.Context, deployment *unstructured.Unstructured) ([]corev1.Pod, error) {
	labels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "selector", "matchLabels")
	pods := &corev1.PodList{}
	if err := s.sender.Admin().List(ctx, pods, client.InNamespace(deployment.GetNamespace()), client.MatchingLabels(labels)); err != nil {
		return nil, fmt.Errorf("list the pods of Deployment %s/%s: %w", deployment.GetNamespace(), deployment.GetName(), err)
	}
	return pods.Items, nil
}

// observedGeneration is the one that whoever acts on an object has looked at last.
// Flux says so in the condition Ready where it could not do what was asked.
func observedGeneration(live *unstructured.Unstructured) (observed int64, reports bool) {
	observed, reports, _ = unstructured.NestedInt64(live.Object, "status", "observedGeneration")
	conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if generation, there := condition["observedGeneration"].(int64); there && condition["type"] == "Ready" {
			observed, reports = max(observed, generation), true
		}
	}
	return observed, reports
}

// sendGiven sends the objects of an attack while the state lasts, and by dry-run once
// it is taken back.
func (r *runner) sendGiven(ctx context.Context, o overlay.Overlay, verdicts []Verdict, look func() ([]string, error)) (stray []string, err error) {
	alone, attack := o, *o.Attack
	attack.Control, alone.Attack = nil, &attack
	err = r.under(ctx, o, func() error {
		for i := range verdicts {
			v := &verdicts[i]
			found, err := r.site(v.Environment).try(ctx, alone)
			if err != nil {
				return err
			}
			v.By, v.Words, v.Problems = found.By, found.Words, found.Problems
		}
		stray, err = look()
		return err
	})
	if err != nil {
		return stray, err
	}
	for i := range verdicts {
		v := &verdicts[i]
		for _, object := range o.Objects {
			_, found, err := r.site(v.Environment).send(ctx, object, nil, true)
			if err != nil {
				return stray, fmt.Errorf("control: %w", err)
			}
			if found.layer != "" {
				v.problem("the control must be accepted, and %s refused it: %s", found, found.words)
			}
		}
	}
	return stray, nil
}

// commitGiven commits an attack while the state lasts. Once that is taken back, the
// very commit must be accepted: nothing is lost.
func (r *runner) commitGiven(ctx context.Context, o overlay.Overlay, verdicts []Verdict, look func() ([]string, error)) (stray []string, err error) {
	on := stage.New(r.in.View)
	defer func() { err = errors.Join(err, on.TakeBack(ctx)) }()
	err = r.under(ctx, o, func() error {
		if err := on.Lay(ctx, o); err != nil {
			return err
		}
		settled, err := on.Refresh(ctx)
		if err != nil {
			return err
		}
		for i := range verdicts {
			if err := r.judge(ctx, &verdicts[i], settled[verdicts[i].Environment]); err != nil {
				return err
			}
		}
		stray, err = look()
		return err
	})
	if err != nil {
		return stray, err
	}
	settled, err := on.Refresh(ctx)
	for err == nil && shut(settled) && ctx.Err() == nil {
		settled, err = on.Refresh(ctx) // who is ready again may not be asked yet
	}
	if err != nil {
		return stray, fmt.Errorf("control: %w", err)
	}
	for i := range verdicts {
		r.accepted(&verdicts[i], settled[verdicts[i].Environment])
	}
	return stray, nil
}

// shut says whether anything is not ready since the policy engine did not answer.
func shut(settled stage.Settled) bool {
	for _, settlement := range settled {
		for _, o := range settlement.Objects {
			if !o.Current() && closed(o.Message) {
				return true
			}
		}
	}
	return false
}

// closed says whether a text tells that a policy engine could not be asked, and that
// the request was refused for that.
func closed(text string) bool { return strings.Contains(text, "failed calling webhook") }
