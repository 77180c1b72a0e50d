package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// legacyGroup is that of Kyverno's policies that are not in CEL.
const legacyGroup = "kyverno.io"

// changes judges policies that change the object of a request, change objects that
// are there already, or make objects. Nothing of that stands in a warning, so each
// example has requests of its own.
type changes struct{}

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
	case legacyGroup:
		if kind := policy.GetKind(); kind != "ClusterPolicy" && kind != "Policy" {
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

// rulesOf are the rules of a legacy policy; they are not copied.
func rulesOf(policy *unstructured.Unstructured) []map[string]any {
	spec, _ := policy.Object["spec"].(map[string]any)
	entries, _ := spec["rules"].([]any)
	var out []map[string]any
	for _, entry := range entries {
		if fields, ok := entry.(map[string]any); ok {
			out = append(out, fields)
		}
	}
	return out
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
	policy *example.Policy
	// name is that of the copy, and the one that is asked.
	name     string
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
	// leaving are namespaces that are being removed, which takes some seconds.
	leaving []*unstructured.Unstructured
	// alone: examples are asked one after another, since they change what is there.
	alone bool
}

func (changes) judge(ctx context.Context, b *Bench, state *PolicyState, verdicts []*Verdict) error {
	trials, err := trialsOf(state, verdicts)
	if err != nil {
		state.Effective, state.Problem = -1, err.Error()
		unanswered(verdicts, err.Error())
		return nil
	}
	for _, t := range trials {
		if err := t.run(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// key tells trials apart.
func (t *trial) key() string {
	key := t.name
	for _, part := range []*trial{t.before, t.upto} {
		key += " "
		if part != nil {
			key += part.name
		}
	}
	return key
}

// unanswered marks verdicts that nothing is known of.
func unanswered(verdicts []*Verdict, why string) {
	for _, v := range verdicts {
		v.Verdict, v.Reason = example.Unknown, why
	}
}

// trialsOf sorts examples by the copies that they ask.
func trialsOf(state *PolicyState, verdicts []*Verdict) ([]*trial, error) {
	var out []*trial
	byKey := map[string]*trial{}
	for _, v := range verdicts {
		made, err := trialOf(state, v)
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

// trialOf is that of an example; nil where it has its verdict already.
func trialOf(state *PolicyState, v *Verdict) (*trial, error) {
	e := v.Example
	if e.NotSupported != "" {
		v.Verdict, v.Reason = example.NotSupported, e.NotSupported
		return nil, nil
	}
	s := subject{policy: state.Policy, exceptions: exceptionsOf(e.Test, state.Policy.Object), aspect: Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1}}
	switch effectOf(state.Policy.Object, e.Rule) {
	case effectMutate:
		return mutation(s, state, e)
	case effectExisting:
		v.Verdict, v.Reason = example.NotSupported, "mutation of existing objects is not judged yet"
	case effectGenerate:
		return generation(s, state, e)
	default:
		v.Verdict, v.Reason = example.NotSupported, fmt.Sprintf("rule %s changes and makes nothing", e.Rule)
	}
	return nil, nil
}

// exceptionsOf are those of a test that are about a policy.
func exceptionsOf(t *example.Test, policy *unstructured.Unstructured) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, exception := range t.Exceptions {
		refs, _, _ := unstructured.NestedSlice(exception.Object, "spec", "policyRefs")
		for _, entry := range refs {
			ref, _ := entry.(map[string]any)
			if ref["name"] == policy.GetName() && ref["kind"] == policy.GetKind() {
				out = append(out, exception)
				break
			}
		}
	}
	return out
}

// exceptionCopies are a policy's exceptions, which hold for its copy.
func exceptionCopies(s subject, namespace string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for i, exception := range s.exceptions {
		object := copyOf(exception, fmt.Sprintf("%s-%d", s.name, i))
		object.SetNamespace(namespace)
		_ = unstructured.SetNestedSlice(object.Object, []any{map[string]any{
			"name": s.name, "kind": s.policy.Object.GetKind(),
		}}, "spec", "policyRefs")
		out = append(out, object)
	}
	return out
}

// nameFor is that of a copy: it is made of all that the copy is made of, so what
// answers to it answers for what the policy says now.
func nameFor(parts ...any) string {
	sum := sha256.New()
	for _, part := range parts {
		text, err := json.Marshal(part)
		if err != nil {
			text = []byte(fmt.Sprint(part))
		}
		sum.Write(text)
		sum.Write([]byte{0})
	}
	return "p" + hex.EncodeToString(sum.Sum(nil))[:10]
}

// run installs a copy, asks it of its examples, and removes it.
func (t *trial) run(ctx context.Context, b *Bench) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	start := time.Now()
	var err error
	if t.alone {
		t.requests, err = b.watchRequests(watching)
	}
	for _, part := range []*trial{t.before, t.upto, t} {
		if part != nil {
			defer part.remove(context.WithoutCancel(ctx), b)
			err = errors.Join(err, part.install(ctx, b))
		}
	}
	if err != nil {
		t.state.Effective, t.state.Problem = -1, err.Error()
		unanswered(t.verdicts, err.Error())
		return ctx.Err()
	}
	t.state.Effective = max(t.state.Effective, time.Since(start).Seconds())
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(mostWorkers)
	if t.alone {
		group.SetLimit(1)
	}
	for _, same := range t.byObject() {
		group.Go(func() error {
			for _, v := range same {
				t.ask(ctx, b, t, v)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// byObject are the verdicts, those of one object together: whether it is there
// matters to each of them.
func (t *trial) byObject() [][]*Verdict {
	var out [][]*Verdict
	index := map[string]int{}
	for _, v := range t.verdicts {
		o := v.Example.Object
		key := o.GroupVersionKind().GroupKind().String() + " " + o.GetNamespace() + "/" + o.GetName()
		if _, known := index[key]; !known {
			index[key] = len(out)
			out = append(out, nil)
		}
		out[index[key]] = append(out[index[key]], v)
	}
	return out
}

// install makes the copy and waits until its canary is answered.
func (t *trial) install(ctx context.Context, b *Bench) error {
	if t.problem != "" {
		return fmt.Errorf("%s: %s", t.policy, t.problem)
	}
	if len(t.labels) > 0 && t.canary.GetNamespace() == "" {
		t.canary.SetNamespace("fpc-" + t.name)
	}
	if err := place(ctx, b, t.canary, t.labels); err != nil {
		return err
	}
	for _, object := range t.objects {
		if err := place(ctx, b, object, nil); err != nil {
			return err
		}
		got := b.send(ctx, request{operation: opCreate, object: object, real: true})
		if got.err != nil && !apierrors.IsAlreadyExists(got.err) {
			return fmt.Errorf("%s is refused: %s", t.policy, asWritten(t, got.err.Error()))
		}
	}
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, b.options.Patience, true, func(ctx context.Context) (bool, error) {
		var done bool
		done, last = t.effective(ctx, b, t)
		return done, nil
	})
	if err == nil {
		return nil
	}
	text := fmt.Sprintf("%s is not in force after %s: %s", t.policy, b.options.Patience, t.status(ctx, b))
	if last != nil {
		text += ": " + last.Error()
	}
	return fmt.Errorf("%s", asWritten(t, text))
}

// status is what Kyverno says of a copy that is not in force.
func (t *trial) status(ctx context.Context, b *Bench) string {
	object, err := b.read(ctx, t.objects[len(t.objects)-1])
	if err != nil {
		return err.Error()
	}
	if object == nil {
		return "it is not there"
	}
	status, _ := json.Marshal(object.Object["status"])
	return "its status is " + string(status)
}

func (t *trial) remove(ctx context.Context, b *Bench) {
	problems := []error{b.forget(ctx, t)}
	if t.requests != nil {
		made := canaryObject("ConfigMap", nil)
		made.SetName(generatedCanary(t.name))
		made.SetNamespace(t.canary.GetNamespace())
		problems = append(problems, b.erase(ctx, t.canary), b.erase(ctx, made))
	}
	for _, namespace := range t.leaving {
		problems = append(problems, b.erase(ctx, namespace))
	}
	if home := t.canary.GetNamespace(); home == "fpc-"+t.name {
		namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
		namespace.SetName(home)
		problems = append(problems, b.erase(ctx, namespace))
	}
	for _, object := range t.objects {
		problems = append(problems, b.erase(ctx, object))
	}
	if err := errors.Join(problems...); err != nil {
		t.state.Problem = strings.TrimPrefix(t.state.Problem+"; "+err.Error(), "; ")
	}
}

// leave removes an object; of a namespace it does not wait until it is gone.
func (t *trial) leave(ctx context.Context, b *Bench, object *unstructured.Unstructured) error {
	if object.GroupVersionKind().GroupKind().String() != "Namespace" {
		return b.erase(ctx, object)
	}
	t.leaving = append(t.leaving, object)
	got := b.send(ctx, request{operation: opDelete, object: object, real: true})
	if got.err != nil && !apierrors.IsNotFound(got.err) {
		return fmt.Errorf("remove %s: %w", identityOf(object), got.err)
	}
	return nil
}

// asWritten gives what a copy said back to the policy that it is one of.
func asWritten(t *trial, text string) string {
	return strings.ReplaceAll(text, t.name, t.policy.Object.GetName())
}

// read returns an object as the server has it; nil: it is not there.
func (b *Bench) read(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	kind, err := b.kind(ctx, object)
	if err != nil {
		return nil, err
	}
	path := kind.path(object.GetNamespace()) + "/" + url.PathEscape(object.GetName())
	got := b.persist(ctx, func(ctx context.Context) response { return b.once(ctx, b.client.Get().AbsPath(path).MaxRetries(0)) })
	if apierrors.IsNotFound(got.err) {
		return nil, nil
	}
	if got.err != nil {
		return nil, fmt.Errorf("read %s %s: %w", object.GetKind(), object.GetName(), got.err)
	}
	return got.object, nil
}

// erase removes an object, and waits until it is gone.
func (b *Bench) erase(ctx context.Context, object *unstructured.Unstructured) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, b.options.Patience, true, func(ctx context.Context) (bool, error) {
		got := b.send(ctx, request{operation: opDelete, object: object, real: true})
		last = got.err
		return apierrors.IsNotFound(got.err), nil
	})
	if err != nil {
		return fmt.Errorf("%s %s is not gone after %s: %w", object.GetKind(), object.GetName(), b.options.Patience, errorOr(last, err))
	}
	return nil
}

func errorOr(first, otherwise error) error {
	if first != nil {
		return first
	}
	return otherwise
}

// place gives an object the namespace that it stands in, which is made where there
// is none of that name.
func place(ctx context.Context, b *Bench, object *unstructured.Unstructured, labels map[string]string) error {
	kind, err := b.kind(ctx, object)
	if err != nil {
		return err
	}
	if !kind.namespaced {
		return nil
	}
	if object.GetNamespace() == "" {
		object.SetNamespace("default")
	}
	return b.inhabit(ctx, object.GetNamespace(), labels)
}

// inhabit makes a namespace, if there is none of that name.
func (b *Bench) inhabit(ctx context.Context, name string, labels map[string]string) error {
	namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	namespace.SetName(name)
	found, err := b.read(ctx, namespace)
	if err == nil && found != nil && found.GetDeletionTimestamp() != nil {
		err = b.erase(ctx, found)
	} else if found != nil {
		return nil
	}
	if err != nil {
		return err
	}
	all := map[string]string{benchLabel: "true"}
	for key, value := range labels {
		all[key] = value
	}
	namespace.SetLabels(all)
	got := b.send(ctx, request{operation: opCreate, object: namespace, real: true})
	if got.err != nil && !apierrors.IsAlreadyExists(got.err) {
		return fmt.Errorf("make namespace %s: %w", name, got.err)
	}
	return nil
}

// stored creates an object with no copy asked, and returns what removes it again.
func (b *Bench) stored(ctx context.Context, object *unstructured.Unstructured) (func() error, error) {
	got := b.send(ctx, request{operation: opCreate, object: object, real: true})
	if got.err != nil {
		return nil, fmt.Errorf("store %s %s: %w", object.GetKind(), object.GetName(), got.err)
	}
	return func() error { return b.erase(context.WithoutCancel(ctx), object) }, nil
}

// note adds what went wrong beside an example.
func note(v *Verdict, err error) {
	if err != nil {
		v.Notes = append(v.Notes, err.Error())
	}
}
