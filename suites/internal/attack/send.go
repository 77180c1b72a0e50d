package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

// atOnce is how many requests are under way at a time in one environment.
const atOnce = 8

// The API server is asked again, so often, where its answer is no judgement, or
// where one policy answered before another: each has a webhook of its own, all are
// called at once, and the first to refuse is heard.
const (
	askAgain  = 12
	askPause  = 250 * time.Millisecond
	askBefore = time.Minute
)

// sendAll tries what is sent to the API server: objects and reviews.
func (r *runner) sendAll(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, error) {
	var sent []overlay.Overlay
	for _, o := range attacks {
		if !commits(o) && len(o.Given) == 0 && len(o.Objects)+len(o.Reviews) > 0 {
			sent = append(sent, o)
		}
	}
	if len(sent) == 0 {
		return nil, nil
	}
	started := time.Now()
	verdicts, err := r.narrow(ctx, sent, r.sendRound)
	r.requested += time.Since(started)
	r.in.Say("%d attacks sent to the API server in %.1f s", len(sent), time.Since(started).Seconds())
	return verdicts, err
}

// narrow tries attacks together. Where more has changed than they may, they are
// tried again in halves, until it is known whose doing it is. What no half does, and
// all together do again, is the doing of each.
func (r *runner) narrow(ctx context.Context, attacks []overlay.Overlay,
	try func(context.Context, []overlay.Overlay) (verdicts []Verdict, stray []string, err error),
) ([]Verdict, error) {
	verdicts, stray, err := try(ctx, attacks)
	if err != nil || len(stray) == 0 {
		return verdicts, err
	}
	if len(attacks) == 1 {
		blame(verdicts, "it left a change", stray)
		return verdicts, nil
	}
	r.in.Say("%s together: %s", ids(attacks), strings.Join(stray, "; "))
	var out []Verdict
	for _, part := range [][]overlay.Overlay{attacks[:len(attacks)/2], attacks[len(attacks)/2:]} {
		found, err := r.narrow(ctx, part, try)
		out = append(out, found...)
		if err != nil {
			return out, err
		}
	}
	if len(problemsOf(out)) > 0 {
		return out, nil
	}
	again, stray, err := try(ctx, attacks)
	if err != nil || len(stray) == 0 {
		return again, err
	}
	blame(again, "together, "+ids(attacks)+" leave a change", stray)
	return again, nil
}

// blame holds changes against verdicts: those of its environment against each, and
// those of an environment in which nothing was tried against all.
func blame(verdicts []Verdict, what string, stray []string) {
	for _, change := range stray {
		environment, text, _ := strings.Cut(change, ": ")
		elsewhere := !slices.ContainsFunc(verdicts, func(v Verdict) bool { return v.Environment == environment })
		for i := range verdicts {
			switch {
			case elsewhere:
				verdicts[i].problem("%s in %s, where nothing was tried: %s", what, environment, text)
			case verdicts[i].Environment == environment:
				verdicts[i].problem("%s: %s", what, text)
			}
		}
	}
}

// sendRound sends attacks to all their environments. What is refused changes
// nothing: not even what is the attacker's own.
func (r *runner) sendRound(ctx context.Context, attacks []overlay.Overlay) ([]Verdict, []string, error) {
	before, err := r.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	var verdicts []Verdict
	for _, s := range r.sites {
		var here []overlay.Overlay
		for _, o := range attacks {
			if o.In(s.name) && s.lacks(o) == "" {
				here = append(here, o)
			}
		}
		found := make([]Verdict, len(here))
		group, running := errgroup.WithContext(ctx)
		group.SetLimit(atOnce)
		for i, o := range here {
			group.Go(func() (err error) {
				started := time.Now()
				found[i], err = s.try(running, o)
				found[i].Seconds = time.Since(started).Seconds()
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, nil, fmt.Errorf("environment %s: %w", s.name, err)
		}
		verdicts = append(verdicts, found...)
	}
	after, err := r.look(ctx)
	stray := touched(before, after, nil)
	if len(stray) > 0 {
		r.in.Say("changed while attacks were sent: %s", strings.Join(stray, "; "))
		// What came through has failed already, and whatever changed is its doing.
		if slices.ContainsFunc(verdicts, func(v Verdict) bool { return v.By == (stop{}).String() }) {
			stray = nil
		}
	}
	return verdicts, stray, err
}

// try tries one attack in one environment.
func (s *site) try(ctx context.Context, o overlay.Overlay) (v Verdict, err error) {
	v = Verdict{Overlay: o, Environment: s.name}
	if len(o.Reviews) > 0 {
		return v, s.review(ctx, &v)
	}
	var sent []overlay.Sent
	defer func() {
		// What was admitted, or made by a control, is taken back also after an error.
		err = errors.Join(err, overlay.PutBack(context.WithoutCancel(ctx), s.config, sent))
	}()
	for _, object := range o.Objects {
		// First by dry-run: what is not refused then is not sent, since it would only
		// have to be taken back.
		was, found, err := s.send(ctx, object, o.Attack, true)
		if err == nil && wrong(o.Attack, found) == "" {
			was, found, err = s.send(ctx, object, o.Attack, false)
		}
		if err != nil {
			return v, fmt.Errorf("%s: %w", o.ID, err)
		}
		if was.Object != nil {
			sent = append(sent, was)
		}
		v.By, v.Words = found.String(), found.words
		if problem := wrong(o.Attack, found); problem != "" {
			v.problem("%s", problem)
		}
		if o.Attack.Layer == "rbac" && found.layer == "rbac" && object.As != "" && !strings.Contains(found.words, fmt.Sprintf("User %q cannot", object.As)) {
			v.problem("the refusal does not name %s: %s", object.As, found.words)
		}
	}
	if o.Attack.Control == nil || len(v.Problems) > 0 {
		return v, nil
	}
	control, err := o.Controlled()
	if err != nil {
		return v, err
	}
	was, found, err := s.send(ctx, control.Objects[0], nil, !o.Attack.Control.Real)
	if err != nil {
		return v, fmt.Errorf("%s, control: %w", o.ID, err)
	}
	if was.Object != nil {
		sent = append(sent, was)
	}
	if found.layer != "" {
		v.problem("the control must be accepted, and %s refused it: %s", found, found.words)
	}
	return v, nil
}

// send sends one object. It is asked again while the answer is no judgement; and
// by dry-run, where another policy than the one that the attack names was heard.
// What was refused, or no more than a dry-run, has touched nothing: sent is then
// empty.
func (s *site) send(ctx context.Context, object overlay.Send, a *overlay.Attack, dryRun bool) (sent overlay.Sent, found stop, err error) {
	var last string
	tries := 0
	err = wait.PollUntilContextTimeout(ctx, askPause, askBefore, true, func(ctx context.Context) (bool, error) {
		started := time.Now()
		again, answer, err := s.sender.Send(ctx, object, dryRun)
		s.timed(started)
		if err != nil {
			return false, err
		}
		by, unknown := answered(answer, s.policies)
		if unknown && a != nil && a.Layer == "closed" && closed(by.words) {
			by, unknown = stop{layer: a.Layer, words: by.words}, false
		}
		if !dryRun && sent.Object == nil && (answer == nil || unknown) {
			sent = again
		}
		if unknown {
			last = by.words
			return false, nil
		}
		found = by
		tries++
		other := a != nil && a.Layer == "policy" && by.layer == "policy" && !denies(by.by, a.By)
		if other {
			dryRun = true
			return tries >= askAgain, nil
		}
		return true, nil
	})
	if err != nil && last != "" {
		err = fmt.Errorf("%w: %s", err, last)
	}
	return sent, found, err
}

// review asks whether RBAC lets somebody do what the attack does.
func (s *site) review(ctx context.Context, v *Verdict) error {
	for _, review := range v.Overlay.Reviews {
		known, err := s.serves()
		if err != nil {
			return err
		}
		if why := known.unknown(review); why != "" {
			v.problem("%s: %s, so that it is denied shows nothing", review, why)
			continue
		}
		status, err := s.ask(ctx, review)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Overlay.ID, err)
		}
		if status.EvaluationError != "" && !status.Allowed {
			v.problem("%s: the server cannot tell: %s", review, status.EvaluationError)
		}
		v.By, v.Words = "rbac", "denied: "+status.Reason
		if status.Allowed {
			v.By = "nobody"
			v.problem("%s: %s", review, status.Reason)
		}
	}
	if v.Overlay.Attack.Control == nil || len(v.Problems) > 0 {
		return nil
	}
	control, err := v.Overlay.Controlled()
	if err != nil {
		return err
	}
	status, err := s.ask(ctx, control.Reviews[0])
	if err != nil {
		return fmt.Errorf("%s, control: %w", v.Overlay.ID, err)
	}
	if !status.Allowed {
		v.problem("the control must be allowed, and is not: %s", control.Reviews[0])
	}
	return nil
}

// ask has the API server review a request.
func (s *site) ask(ctx context.Context, r overlay.Review) (authorizationv1.SubjectAccessReviewStatus, error) {
	access := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: r.As, Groups: r.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: r.Verb, Group: r.Group, Resource: r.Resource, Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name,
		},
	}}
	if len(access.Spec.Groups) == 0 {
		access.Spec.Groups = groupsOf(r.As)
	}
	started := time.Now()
	err := s.sender.Admin().Create(ctx, access)
	s.timed(started)
	if err != nil {
		return access.Status, fmt.Errorf("a review of %s: %w", r, err)
	}
	return access.Status, nil
}

// groupsOf are the groups that the API server gives to a user by itself.
func groupsOf(user string) []string {
	if parts := strings.Split(user, ":"); len(parts) == 4 && strings.HasPrefix(user, "system:serviceaccount:") {
		return []string{"system:serviceaccounts", "system:serviceaccounts:" + parts[2], "system:authenticated"}
	}
	return []string{"system:authenticated"}
}
