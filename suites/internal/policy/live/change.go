package live

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// changes judges policies that change the object of a request, change objects that
// are there already, or make objects. Nothing of that stands in a warning, so each
// example has requests of its own.
type changes struct{}

// admissionGroup is that of Kubernetes' own policies.
const admissionGroup = "admissionregistration.k8s.io"

func takesParameters(policy *unstructured.Unstructured) bool {
	_, found, _ := unstructured.NestedMap(policy.Object, "spec", "paramKind")
	return found && policy.GroupVersionKind().Group == admissionGroup
}

// effect is what a policy, or a rule of it, does.
type effect int

const (
	effectNone effect = iota
	// effectMutate changes the object of the request.
	effectMutate
	// effectExisting changes objects that are there already.
	effectExisting
	// effectGenerate makes objects.
	effectGenerate
)

func (changes) judges(policy *unstructured.Unstructured) bool {
	return effectOf(policy, "") != effectNone
}

// effectOf is that of a policy, or of the rule of a legacy one that is named;
// without a name, of the first rule that has one.
func effectOf(policy *unstructured.Unstructured, rule string) effect {
	switch policy.GroupVersionKind().Group {
	case celGroup:
		switch policy.GetKind() {
		case "MutatingPolicy", "NamespacedMutatingPolicy":
			if changesExisting(policy) {
				return effectExisting
			}
			return effectMutate
		case "GeneratingPolicy", "NamespacedGeneratingPolicy":
			return effectGenerate
		}
	case admissionGroup:
		if policy.GetKind() == "MutatingAdmissionPolicy" {
			return effectMutate
		}
	case legacyGroup:
		if !isLegacy(policy) {
			return effectNone
		}
		for _, fields := range rulesOf(policy) {
			if rule != "" && fields["name"] != declaredRule(rule) {
				continue
			}
			if found := ruleEffect(fields); found != effectNone {
				return found
			}
		}
	}
	return effectNone
}

// declaredRule is the rule that Kyverno derived one for the controllers of pods
// from.
func declaredRule(name string) string {
	for _, derived := range []string{"autogen-cronjob-", "autogen-"} {
		if declared, ok := strings.CutPrefix(name, derived); ok {
			return declared
		}
	}
	return name
}

func ruleEffect(rule map[string]any) effect {
	if _, ok := rule["generate"].(map[string]any); ok {
		return effectGenerate
	}
	mutate, ok := rule["mutate"].(map[string]any)
	if !ok {
		return effectNone
	}
	if targets, _ := mutate["targets"].([]any); len(targets) > 0 {
		return effectExisting
	}
	return effectMutate
}

// trial is a copy with the examples that ask it.
type trial struct {
	installation
	// subject is what the copy is made of; its name is the one that is asked.
	subject
	state    *PolicyState
	verdicts []*Verdict
	// ask fills in a verdict.
	ask func(ctx context.Context, b *Bench, t *trial, v *Verdict)
	// effective says whether the answer to the canary comes from the copy.
	effective func(ctx context.Context, b *Bench, t *trial) (bool, error)
	// before and upto are copies of the rules before that of the examples, and of
	// those with it: their difference is what that rule does. nil: there are none
	// before, or none behind.
	before, upto *trial
	// requests are Kyverno's to its background controller; nil: none are awaited.
	requests *requests
	// alone: examples are asked one after another, since they change what is there.
	alone bool
	// patience is how long it may take to come into force; 0: as long as the bench's.
	patience time.Duration
}

// judge asks copies that change the object of a request together, since only who
// names them is answered. Those whose effect is real are asked one by one.
func (changes) judge(ctx context.Context, b *Bench, tasks []task) error {
	var together, alone []*trial
	for _, work := range tasks {
		trials, err := b.trials(work.state, work.verdicts)
		if err != nil {
			work.state.Effective, work.state.Problem = -1, err.Error()
			unanswered(work.verdicts, err.Error())
			continue
		}
		for _, t := range trials {
			switch {
			case b.recall(t):
			case t.alone:
				alone = append(alone, t)
			default:
				together = append(together, t)
			}
		}
	}
	for batch := range slices.Chunk(together, trialsAtOnce) {
		b.say("judge what %d policies change", len(batch))
		late, err := b.try(ctx, batch)
		if err != nil {
			return err
		}
		// One of them may have kept the others from coming into force.
		for i, t := range late {
			b.say("judge what %s changes, which was not in force (%d of %d)", t.policy, i+1, len(late))
			t.patience = b.options.Patience / alonePatience
			if _, err := b.try(ctx, []*trial{t}); err != nil {
				return err
			}
		}
	}
	for i, t := range alone {
		b.say("judge what %s does (%d of %d)", t.policy, i+1, len(alone))
		if _, err := b.try(ctx, []*trial{t}); err != nil {
			return err
		}
	}
	return nil
}

// trialsAtOnce is how many copies are installed at once: each has a webhook of its
// own, of which one object holds some 500.
const trialsAtOnce = 100

// memory is what a copy said of examples.
type memory struct {
	effective float64
	verdicts  []Verdict
}

// recall fills in what was found of the very same policy and examples before:
// false, if anything differs, or was not found out. Since no verdict depends on
// others, a change of one file asks again about what it concerns.
func (b *Bench) recall(t *trial) bool {
	found, known := b.remembered[t.memo()]
	if !known {
		return false
	}
	for i, v := range t.verdicts {
		own := v.Example
		*v = found.verdicts[i]
		v.Example = own
	}
	t.state.Effective = max(t.state.Effective, found.effective)
	return true
}

// remember keeps what is certain.
func (b *Bench) remember(t *trial, effective float64) {
	out := memory{effective: effective}
	for _, v := range t.verdicts {
		switch v.Verdict {
		case example.Pass, example.Fail, example.Skip, example.Error:
		default:
			return
		}
		if len(v.Notes) > 0 {
			return
		}
		out.verdicts = append(out.verdicts, *v)
	}
	b.remembered[t.memo()] = out
}

// memo is the same for trials of the same.
func (t *trial) memo() string {
	digest := sha256.New()
	encode := json.NewEncoder(digest)
	for _, object := range t.objects {
		_ = encode.Encode(object.Object) // writing to a digest cannot fail
	}
	for _, v := range t.verdicts {
		e, test := v.Example, v.Example.Test
		_ = encode.Encode([]any{
			e.Rule, e.Operation, e.Subresource, e.Parent, e.Expected, e.Object, e.Patched, e.Generated,
			test.User, test.Namespaces, test.Objects, test.Params, test.Targets, test.Resources, test.Exceptions,
		})
	}
	return t.key() + hex.EncodeToString(digest.Sum(nil))
}

// trials sorts examples by the copies that they ask. A policy without examples is
// installed all the same: it may not compile.
func (b *Bench) trials(state *PolicyState, verdicts []*Verdict) ([]*trial, error) {
	if len(verdicts) == 0 {
		e := &example.Example{Policy: state.Policy, Test: &example.Test{}, Operation: opCreate}
		made, err := b.trial(state, &Verdict{Example: e})
		if made == nil || err != nil {
			return nil, err
		}
		return []*trial{made}, nil
	}
	var out []*trial
	byKey := map[string]*trial{}
	for _, v := range verdicts {
		made, err := b.trial(state, v)
		if err != nil {
			return nil, err
		}
		if made == nil {
			continue
		}
		key := made.key()
		if byKey[key] == nil {
			byKey[key] = made
			out = append(out, made)
		}
		byKey[key].verdicts = append(byKey[key].verdicts, v)
	}
	return out, nil
}

// trial is that of an example; nil where it has its verdict already.
func (b *Bench) trial(state *PolicyState, v *Verdict) (*trial, error) {
	e := v.Example
	s := b.subject(e, Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1})
	does := effectOf(state.Policy.Object, e.Rule)
	switch {
	case takesParameters(state.Policy.Object):
		v.Verdict, v.Reason = example.NotSupported, "a MutatingAdmissionPolicy with parameters is not judged live"
	case does == effectMutate && e.Operation == opDelete:
		v.Verdict, v.Reason = example.NotSupported, "an API server takes no changes of what is deleted"
	case does == effectMutate:
		return mutation(s, state, e)
	case does == effectGenerate:
		return generation(s, state, e)
	case does == effectExisting:
		return existing(s, state, e)
	default:
		v.Verdict, v.Reason = example.NotSupported, fmt.Sprintf("the rule %s neither changes nor makes anything", e.Rule)
	}
	return nil, nil
}

// unanswered marks verdicts that nothing is known of.
func unanswered(verdicts []*Verdict, why string) {
	for _, v := range verdicts {
		v.Verdict, v.Reason = example.Unknown, why
	}
}

// key tells trials apart.
func (t *trial) key() string {
	key := t.name
	if t.before != nil {
		key += " after " + t.before.name
	}
	if t.upto != nil {
		key += " up to " + t.upto.name
	}
	return key
}

// try installs copies, asks them of their examples, and removes them. Those of
// several that were not in force in time are returned, and nothing is said of them.
func (b *Bench) try(ctx context.Context, trials []*trial) (late []*trial, err error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	group.SetLimit(firstWorkers)
	defer func() {
		var group errgroup.Group
		group.SetLimit(firstWorkers)
		for _, t := range trials {
			group.Go(func() error {
				t.remove(context.WithoutCancel(ctx), b)
				return nil
			})
		}
		_ = group.Wait() // what went wrong stands in the states
	}()
	effective := make([]float64, len(trials))
	for _, t := range trials {
		for _, part := range t.parts() {
			if err := part.settleIn(ctx, b); err != nil {
				return nil, err
			}
		}
	}
	var mu sync.Mutex
	for i, t := range trials {
		if t.unheard != "" {
			effective[i] = -1
			for _, v := range t.verdicts {
				v.Verdict, v.Reason = example.NotSupported, t.unheard
			}
			continue
		}
		group.Go(func() error {
			start := time.Now()
			if err := t.comeIntoForce(ctx, watching, b); err != nil {
				effective[i] = -1
				if errors.Is(err, errNotInForce) && len(trials) > 1 {
					mu.Lock()
					defer mu.Unlock()
					late = append(late, t)
				} else {
					t.fail(err)
				}
				return ctx.Err()
			}
			effective[i] = time.Since(start).Seconds()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var tests []*example.Test
	open := map[*example.Test][]asked{}
	for i, t := range trials {
		if effective[i] < 0 {
			continue
		}
		t.state.Effective = max(t.state.Effective, effective[i])
		for _, v := range t.verdicts {
			test := v.Example.Test
			if open[test] == nil {
				tests = append(tests, test)
			}
			open[test] = append(open[test], asked{t, v})
		}
	}
	for _, w := range b.waves(tests) {
		var here []asked
		for _, test := range tests {
			if w.tests[test] {
				here = append(here, open[test]...)
			}
		}
		if err := b.askWave(ctx, w, here); err != nil {
			return nil, err
		}
	}
	for i, t := range trials {
		if effective[i] >= 0 {
			b.remember(t, effective[i])
		}
	}
	return late, nil
}

// errNotInForce is the error of a copy whose canary is not answered in time.
var errNotInForce = errors.New("it is not in force")

// comeIntoForce installs all copies of a trial.
func (t *trial) comeIntoForce(ctx, watching context.Context, b *Bench) error {
	var err error
	if t.alone {
		t.requests, err = b.watchRequests(watching)
	}
	for _, part := range t.parts() {
		if err == nil {
			err = part.install(ctx, b)
		}
	}
	return err
}

// parts are the copies of a trial, itself the last.
func (t *trial) parts() []*trial {
	var out []*trial
	for _, part := range []*trial{t.before, t.upto, t} {
		if part != nil {
			out = append(out, part)
		}
	}
	return out
}

// fail says why nothing can be asked.
func (t *trial) fail(err error) {
	t.state.Effective, t.state.Problem = -1, err.Error()
	unanswered(t.verdicts, err.Error())
}

// asked is an example of a trial.
type asked struct {
	*trial
	verdict *Verdict
}

// askWave asks of examples that can stand in one world.
func (b *Bench) askWave(ctx context.Context, w *wave, all []asked) (err error) {
	leave, err := b.enter(ctx, w)
	if leave != nil {
		defer func() { err = errors.Join(err, leave(context.WithoutCancel(ctx))) }()
	}
	if err == nil {
		var objects []*unstructured.Unstructured
		for _, a := range all {
			objects = append(objects, a.verdict.Example.Object)
		}
		err = b.serve(ctx, objects)
	}
	if err == nil {
		err = b.notice(ctx)
	}
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(mostWorkers)
	if len(all) > 0 && all[0].alone {
		group.SetLimit(1)
	}
	for _, same := range byObject(b, all) {
		group.Go(func() error {
			for _, a := range same {
				a.ask(ctx, b, a.trial, a.verdict)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// byObject are examples, those of one object together: whether it is there matters
// to each of them.
func byObject(b *Bench, all []asked) [][]asked {
	var out [][]asked
	index := map[string]int{}
	for _, a := range all {
		name := key(b.place(a.verdict.Example.Object))
		if _, known := index[name]; !known {
			index[name] = len(out)
			out = append(out, nil)
		}
		out[index[name]] = append(out[index[name]], a)
	}
	return out
}

// settleIn makes the namespaces of a copy and of its canary.
func (t *trial) settleIn(ctx context.Context, b *Bench) error {
	if t.canary != nil {
		c := &copyState{subject: t.subject, installation: t.installation}
		if err := b.canaryNamespace(ctx, c); err != nil {
			return err
		}
		t.unheard = c.unheard
	}
	for _, object := range t.objects {
		if ns := object.GetNamespace(); ns != "" {
			if err := b.namespace(ctx, ns, b.currentLabels(ns)); err != nil {
				return err
			}
		}
	}
	return nil
}

// install makes the copy and waits until its canary is answered.
func (t *trial) install(ctx context.Context, b *Bench) error {
	if t.problem != "" {
		return errors.New(t.problem)
	}
	c := &copyState{subject: t.subject, installation: t.installation}
	for _, object := range t.objects {
		got := b.send(ctx, request{operation: opCreate, object: object, real: true})
		if got.unavailable {
			return fmt.Errorf("install a copy of %s: %w", t.policy, got.err)
		}
		if got.err != nil && !apierrors.IsAlreadyExists(got.err) {
			return errors.New(b.whyRefused(ctx, c, got))
		}
	}
	var last error
	patience := cmp.Or(t.patience, b.options.Patience)
	if b.within(ctx, patience, func(ctx context.Context) (done bool) {
		done, last = t.effective(ctx, b, t)
		return done
	}) {
		return nil
	}
	text := fmt.Sprintf("%s after its creation: %s", patience, b.status(ctx, c))
	if last != nil {
		text += "; its canary: " + last.Error()
	}
	return fmt.Errorf("%w %s", errNotInForce, t.asWritten(text))
}

// within says whether something became so in time. Each attempt is made in full,
// so that it is the server's words that are shown and not that time was up.
func (b *Bench) within(ctx context.Context, patience time.Duration, so func(context.Context) bool) bool {
	start, pause := time.Now(), 10*time.Millisecond
	for !so(ctx) {
		if time.Since(start) > patience || pauseFor(ctx, pause) != nil {
			return false
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
	return true
}

// remove takes all copies of a trial away.
func (t *trial) remove(ctx context.Context, b *Bench) {
	var problems []error
	for _, part := range t.parts() {
		for _, object := range part.objects {
			problems = append(problems, b.gone(ctx, object))
		}
	}
	// What it made goes after it, so that it is not made anew.
	if t.requests != nil && t.canary != nil {
		made := canaryObject("ConfigMap", nil)
		made.SetName(generatedCanary(t.name))
		made.SetNamespace(t.canary.GetNamespace())
		problems = append(problems, b.forget(ctx, t), b.gone(ctx, t.canary), b.gone(ctx, made))
	}
	if err := errors.Join(problems...); err != nil {
		t.state.Problem = strings.TrimPrefix(t.state.Problem+"; "+err.Error(), "; ")
	}
}

// asWritten gives what a copy said back to the policy that it is one of.
func (t *trial) asWritten(text string) string {
	return strings.ReplaceAll(text, t.name, t.policy.Object.GetName())
}

// read returns an object as the server has it; nil: it is not there.
func (b *Bench) read(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	found, err := b.get(ctx, object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", identityOf(object), err)
	}
	return found, nil
}

// note adds what went wrong beside an example.
func note(v *Verdict, err error) {
	if err != nil {
		v.Notes = append(v.Notes, err.Error())
	}
}
