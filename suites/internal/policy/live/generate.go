package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

const (
	// generateLabels is how the labels begin that Kyverno gives to what it
	// generates, managedLabel another one.
	generateLabels = "generate.kyverno.io/"
	managedLabel   = "app.kubernetes.io/managed-by"
	// failures is how often Kyverno's background controller tries a request again
	// before that is its last word: it leaves it pending.
	failures = 3
	// canaryPatience is how long a canary is waited for before another one is sent.
	canaryPatience = 3 * time.Second
)

// updateRequests are what Kyverno's admission controller asks its background
// controller for.
var updateRequests = schema.GroupVersionResource{Group: legacyGroup, Version: "v2", Resource: "updaterequests"}

// generation is the trial of an example that a policy makes objects for.
func generation(s subject, state *PolicyState, e *example.Example) (*trial, error) {
	made := generatingCopy
	if s.policy.Object.GroupVersionKind().Group == legacyGroup {
		made = func(s subject) (installation, error) { return legacyGeneratingCopy(s, e.Rule) }
	}
	out, err := trialWith(s, state, made)
	if err != nil {
		return nil, err
	}
	out.alone, out.ask, out.effective = true, askGeneration, generatesForCanary
	return out, nil
}

// generatingCopy is that of a GeneratingPolicy: it makes what it makes for whoever
// asks for it, and a ConfigMap for its canary.
func generatingCopy(s subject) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	spec["failurePolicy"] = "Fail"
	delete(spec, "webhookConfiguration")
	// What is made for a request is the same whether or not it is kept in step
	// afterwards; a copy that did would make anew what the bench takes away.
	spec["evaluation"] = map[string]any{"admission": map[string]any{"enabled": true}}
	var out installation
	if err := selecting(s, spec, false, &out); err != nil {
		return installation{}, err
	}
	entries, _ := spec["generate"].([]any)
	for _, entry := range entries {
		fields, _ := entry.(map[string]any)
		if expression, ok := fields["expression"].(string); ok {
			fields["expression"] = fmt.Sprintf("(%s) ? true : (\n%s\n)", isCanary, expression)
		}
	}
	spec["generate"] = append([]any{map[string]any{"expression": fmt.Sprintf(
		`(%s) ? generator.Apply(%s[{"apiVersion": dyn("v1"), "kind": dyn("ConfigMap"), "metadata": dyn({"name": "%s"})}]) : true`,
		isCanary, inNamespace(object, "", ", "), generatedCanary(s.name))}}, entries...)
	return out, inForce(s, object, &out)
}

// inNamespace is the argument by which an expression of a policy names the namespace
// of the request; none in a policy that is of a namespace itself.
func inNamespace(policy *unstructured.Unstructured, before, after string) string {
	if policy.GetNamespace() != "" {
		return ""
	}
	return before + "request.namespace" + after
}

// legacyGeneratingCopy is that of a rule of a ClusterPolicy or Policy that makes
// objects; of all such rules where none is named.
func legacyGeneratingCopy(s subject, name string) (installation, error) {
	object := copyOf(s.policy.Object, s.name)
	spec, ok := object.Object["spec"].(map[string]any)
	if !ok {
		return installation{}, fmt.Errorf("%s has no spec", s.policy)
	}
	var rules []any
	for _, rule := range rulesOf(object) {
		if ruleEffect(rule) == effectGenerate && (name == "" || rule["name"] == declaredRule(name)) {
			rules = append(rules, rule)
		}
	}
	asking(s, object, spec)
	spec["rules"] = append(rules, map[string]any{
		"name":          canaryName,
		"match":         map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{"ConfigMap"}}}}},
		"preconditions": onlyCanary(),
		"generate": map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "name": generatedCanary(s.name), "namespace": "{{ request.namespace }}",
			"synchronize": false, "data": map[string]any{"data": map[string]any{"canary": s.name}},
		},
	})
	return legacyInstallation(s, object)
}

// requests are Kyverno's update requests, with those that are done and gone.
type requests struct {
	mu     sync.Mutex
	latest map[string]*unstructured.Unstructured
}

// watchRequests keeps what becomes of update requests until ctx ends.
func (b *Bench) watchRequests(ctx context.Context) (*requests, error) {
	client, err := dynamic.NewForConfig(b.config)
	if err != nil {
		return nil, fmt.Errorf("watch update requests: %w", err)
	}
	r := &requests{latest: map[string]*unstructured.Unstructured{}}
	informer := dynamicinformer.NewDynamicSharedInformerFactory(client, 0).ForResource(updateRequests).Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    r.note,
		UpdateFunc: func(_, now any) { r.note(now) },
		DeleteFunc: r.note,
	})
	if err != nil {
		return nil, fmt.Errorf("watch update requests: %w", err)
	}
	go informer.Run(ctx.Done())
	within, cancel := context.WithTimeout(ctx, b.options.Patience)
	defer cancel()
	if !cache.WaitForCacheSync(within.Done(), registration.HasSynced) {
		return nil, fmt.Errorf("watch update requests: no list of them within %s", b.options.Patience)
	}
	return r, nil
}

func (r *requests) note(event any) {
	if gone, ok := event.(cache.DeletedFinalStateUnknown); ok {
		event = gone.Obj
	}
	object, ok := event.(*unstructured.Unstructured)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latest[object.GetName()] = object
}

func stateOf(updateRequest *unstructured.Unstructured) string {
	state, _, _ := unstructured.NestedString(updateRequest.Object, "status", "state")
	return state
}

// of are the requests of a copy, by name.
func (r *requests) of(t *trial) map[string]*unstructured.Unstructured {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]*unstructured.Unstructured{}
	for name, object := range r.latest {
		key, _, _ := unstructured.NestedString(object.Object, "spec", "policy")
		if own := key[strings.LastIndex(key, "/")+1:]; own == t.name {
			out[name] = object
		}
	}
	return out
}

// outcome is what became of the requests for one trigger.
type outcome struct {
	// requested: there was one; done: all are.
	requested, done bool
	// generated are the objects that the controller says it made.
	generated []*unstructured.Unstructured
	// failure is what the controller fails at again and again.
	failure string
}

// outcomeOf looks at the requests of a copy for a trigger, but for those that were
// there before.
func (r *requests) outcomeOf(t *trial, trigger *unstructured.Unstructured, before map[string]*unstructured.Unstructured) outcome {
	out := outcome{done: true}
	for name, object := range r.of(t) {
		if before[name] != nil || !triggeredBy(object, trigger) {
			continue
		}
		out.requested = true
		message, _, _ := unstructured.NestedString(object.Object, "status", "message")
		retries, _, _ := unstructured.NestedInt64(object.Object, "status", "retryCount")
		switch state := stateOf(object); {
		case state == "Completed", state == "Skip":
		case message != "" && retries >= failures:
			out.failure = message
		default:
			out.done = false
		}
		made, _, _ := unstructured.NestedSlice(object.Object, "status", "generatedResources")
		for _, entry := range made {
			if fields, ok := entry.(map[string]any); ok {
				out.generated = append(out.generated, resourceSpec(fields))
			}
		}
	}
	out.done = out.done && out.requested
	return out
}

// resourceSpec is an object of which the identity alone is known.
func resourceSpec(fields map[string]any) *unstructured.Unstructured {
	text := func(field string) string { value, _ := fields[field].(string); return value }
	out := &unstructured.Unstructured{Object: map[string]any{}}
	out.SetAPIVersion(text("apiVersion"))
	out.SetKind(text("kind"))
	out.SetNamespace(text("namespace"))
	out.SetName(text("name"))
	return out
}

// triggeredBy says whether a request is for a trigger.
func triggeredBy(updateRequest, trigger *unstructured.Unstructured) bool {
	is := func(fields map[string]any) bool {
		o := resourceSpec(fields)
		return o.GetKind() == trigger.GetKind() && o.GetName() == trigger.GetName() &&
			(o.GetNamespace() == trigger.GetNamespace() || trigger.GetKind() == "Namespace")
	}
	rules, _, _ := unstructured.NestedSlice(updateRequest.Object, "spec", "ruleContext")
	for _, entry := range rules {
		fields, _ := entry.(map[string]any)
		if resource, _ := fields["trigger"].(map[string]any); is(resource) {
			return true
		}
	}
	resource, _, _ := unstructured.NestedMap(updateRequest.Object, "spec", "resource")
	if is(resource) {
		return true
	}
	admission, _, _ := unstructured.NestedMap(updateRequest.Object, "spec", "context", "admissionRequestInfo", "admissionRequest")
	kind, _ := admission["kind"].(map[string]any)
	return is(map[string]any{"kind": kind["kind"], "name": admission["name"], "namespace": admission["namespace"]})
}

// generatedCanary is the ConfigMap that a copy makes of its canary.
func generatedCanary(name string) string { return "fpc-" + name }

// generatesForCanary sends a canary for real and says whether the copy worked on
// it to the end: then the copy is known to both of Kyverno's controllers, and what
// was asked for before has been put to work.
func generatesForCanary(ctx context.Context, b *Bench, t *trial) (bool, error) {
	before := t.requests.of(t)
	if err := b.gone(ctx, t.canary); err != nil {
		return false, err
	}
	got := b.send(ctx, request{operation: opCreate, object: t.canary, copies: []string{t.name}, real: true})
	if got.err != nil {
		return false, got.err
	}
	var found outcome
	done := b.within(ctx, canaryPatience, func(context.Context) bool {
		found = t.requests.outcomeOf(t, t.canary, before)
		return found.done
	})
	switch {
	case !found.requested:
		return false, errors.New("nothing was asked of the background controller for its canary")
	case !done:
		return false, errors.New("the background controller does not finish the work on its canary")
	case found.failure != "":
		// What fails in the copy's own name is its answer as well: the template of
		// another object may need what a canary has not.
		return strings.Contains(found.failure, t.name), errors.New(found.failure)
	}
	return true, nil
}

// askGeneration sends an example for real, waits until the background controller
// has worked on it, compares what it made with what is expected, and removes all
// of it.
func askGeneration(ctx context.Context, b *Bench, t *trial, v *Verdict) {
	e := v.Example
	r := request{operation: e.Operation, subresource: e.Subresource, object: b.place(e.Object), user: e.Test.User, copies: []string{t.name}, real: true}
	v.Sent = r.String()
	trigger := r.object
	tidy := &undoing{b: b, t: t, v: v}
	defer tidy.all(context.WithoutCancel(ctx))
	if !tidy.prepare(ctx, &r) {
		return
	}
	before := t.requests.of(t)
	if !tidy.send(ctx, r) {
		return
	}
	found := t.settle(ctx, b, v, trigger, before)
	tidy.generated = found.generated
	switch {
	case found.failure != "":
		v.Verdict, v.Words = example.Error, []string{t.asWritten(found.failure)}
	case found.requested && !found.done:
		v.Verdict, v.Reason = example.Unknown, fmt.Sprintf("the background controller has not finished after %s", b.options.Patience)
	case len(found.generated) == 0:
		v.Verdict = example.Skip
		if len(e.Generated) > 0 && e.Expected != example.Skip {
			v.Reason = "nothing was generated"
		}
	default:
		compareGenerated(ctx, b, t, v, found.generated)
	}
}

// settle waits until the background controller has worked on a trigger, or surely
// has not been asked to.
func (t *trial) settle(ctx context.Context, b *Bench, v *Verdict, trigger *unstructured.Unstructured, before map[string]*unstructured.Unstructured) outcome {
	var found outcome
	finished := func(context.Context) bool {
		found = t.requests.outcomeOf(t, trigger, before)
		return found.done
	}
	if b.within(ctx, canaryPatience/6, finished) {
		return found
	}
	// What a canary is answered after was put to work before; what is not asked for
	// by then never will be.
	if _, err := t.effective(ctx, b, t); err != nil {
		v.Notes = append(v.Notes, t.asWritten(err.Error()))
	}
	if found = t.requests.outcomeOf(t, trigger, before); found.requested {
		b.within(ctx, b.options.Patience, finished)
	}
	return found
}

// compareGenerated says whether each object that was made is one that is expected,
// and each that is expected was made.
func compareGenerated(ctx context.Context, b *Bench, t *trial, v *Verdict, generated []*unstructured.Unstructured) {
	v.Verdict = example.Pass
	if len(v.Example.Generated) == 0 {
		return
	}
	var reasons []string
	expected := slices.Clone(v.Example.Generated)
	for _, one := range generated {
		actual, err := b.read(ctx, one)
		if err != nil || actual == nil {
			v.Verdict, v.Reason = example.Unknown, fmt.Sprintf("the background controller says that it made %s, which is not there: %v", identityOf(one), err)
			return
		}
		index := slices.IndexFunc(expected, func(want *unstructured.Unstructured) bool { return sameObject(want, actual) })
		if index < 0 {
			reasons = append(reasons, identityOf(one)+" was generated, and is not among what is expected")
			continue
		}
		if diff := b.generatedDifference(ctx, expected[index], actual); diff != "" {
			reasons = append(reasons, identityOf(one)+" is not as expected\n"+diff)
		}
		expected = slices.Delete(expected, index, index+1)
	}
	for _, want := range expected {
		reasons = append(reasons, identityOf(want)+" was not generated")
	}
	if len(reasons) > 0 {
		v.Verdict, v.Reason = example.Fail, strings.Join(reasons, "\n")
	}
}

// sameObject: where a file states no namespace, any will do.
func sameObject(want, actual *unstructured.Unstructured) bool {
	return want.GroupVersionKind() == actual.GroupVersionKind() && want.GetName() == actual.GetName() &&
		(want.GetNamespace() == "" || want.GetNamespace() == actual.GetNamespace())
}

func identityOf(o *unstructured.Unstructured) string {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	return o.GetKind() + " " + name
}

// generatedDifference compares an object with what the server would make of it if
// it were as expected; what Kyverno adds to say where it comes from is left out.
func (b *Bench) generatedDifference(ctx context.Context, want, actual *unstructured.Unstructured) string {
	object := want.DeepCopy()
	object.SetNamespace(actual.GetNamespace())
	object.SetResourceVersion(actual.GetResourceVersion())
	bareLabels, bareAnnotations := len(want.GetLabels()) == 0, len(want.GetAnnotations()) == 0
	got := b.latest(ctx, request{operation: opUpdate, object: object})
	expected := object
	if got.err == nil {
		expected = got.object
	}
	both := func(o *unstructured.Unstructured) *unstructured.Unstructured {
		out := settled(o)
		labels := out.GetLabels()
		maps.DeleteFunc(labels, func(key, _ string) bool { return key == managedLabel || strings.HasPrefix(key, generateLabels) })
		out.SetLabels(labels)
		if bareLabels && len(labels) == 0 {
			unstructured.RemoveNestedField(out.Object, "metadata", "labels")
		}
		if bareAnnotations {
			// Kyverno's CLI drops the annotations of what it generates, so that
			// files for it state none.
			unstructured.RemoveNestedField(out.Object, "metadata", "annotations")
		}
		delete(out.Object, "status")
		return out
	}
	return difference(both(expected), both(actual))
}

// undoing knows what an example left behind.
type undoing struct {
	b *Bench
	t *trial
	v *Verdict
	// trigger is what the policy works on, where it is to be removed.
	trigger   *unstructured.Unstructured
	generated []*unstructured.Unstructured
	restore   func(context.Context) error
}

// prepare lets an object that is created not be there, and one that is updated or
// deleted be. False: the verdict says why it cannot.
func (u *undoing) prepare(ctx context.Context, r *request) bool {
	if r.operation == opCreate {
		var err error
		if u.restore, err = u.b.vacate(ctx, r.object); err != nil {
			u.v.Verdict, u.v.Reason = example.NotSupported, err.Error()
		}
		return err == nil
	}
	stored, undo, got := u.b.store(ctx, r.object)
	if got.err != nil {
		u.v.Verdict, u.v.Reason = refusedOr(got), "store the object first: "+got.err.Error()
		return false
	}
	r.object, u.restore = stored, undo
	return true
}

// send sends the request that the policy works on.
func (u *undoing) send(ctx context.Context, r request) bool {
	got := u.b.send(ctx, r)
	u.v.Seconds = got.seconds
	switch {
	case got.err == nil && r.operation == opCreate:
		u.trigger = got.object
	case got.err == nil:
	case !got.unavailable && strings.Contains(got.err.Error(), u.t.name):
		u.v.Verdict, u.v.Words = example.Error, []string{u.t.asWritten(got.err.Error())}
	default:
		u.v.Verdict, u.v.Reason = refusedOr(got), got.err.Error()
	}
	return got.err == nil
}

// all removes everything again, the trigger and the requests for it first: what
// follows them is made again as long as they are there. In a namespace that is being
// removed nothing is made, so what was generated there goes before it is let go.
func (u *undoing) all(ctx context.Context) {
	if u.trigger != nil {
		note(u.v, u.b.remove(ctx, u.trigger))
	}
	note(u.v, u.b.forget(ctx, u.t))
	for _, object := range u.generated {
		note(u.v, u.b.gone(ctx, object))
	}
	if u.trigger != nil {
		note(u.v, u.b.gone(ctx, u.trigger))
	}
	if u.restore != nil {
		note(u.v, u.restore(ctx))
	}
}

// forget removes the requests of a copy that the controller still fails at.
func (b *Bench) forget(ctx context.Context, t *trial) error {
	if t.requests == nil {
		return nil
	}
	var problems []error
	for _, object := range t.requests.of(t) {
		if state := stateOf(object); state == "Failed" || state == "Pending" {
			problems = append(problems, b.gone(ctx, object))
		}
	}
	return errors.Join(problems...)
}

// vacate removes an object that is there and is the bench's own, so that its
// creation can be asked about, and returns what makes it again.
func (b *Bench) vacate(ctx context.Context, object *unstructured.Unstructured) (func(context.Context) error, error) {
	found, err := b.read(ctx, object)
	if err != nil || found == nil {
		return nil, err
	}
	if found.GetDeletionTimestamp() != nil {
		return nil, b.gone(ctx, found)
	}
	b.mu.Lock()
	state, known := b.namespaces[found.GetName()]
	own := found.GetLabels()[benchLabel] != "" || found.GetKind() == "Namespace" && known && !state.found
	b.mu.Unlock()
	if !own {
		return nil, fmt.Errorf("%s is there already and is not the bench's, so it cannot be created", identityOf(found))
	}
	if err := b.gone(ctx, found); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		again := settled(found)
		delete(again.Object, "status")
		b.mu.Lock()
		// What stood in the namespace is gone with it.
		maps.DeleteFunc(b.served, func(name string, _ bool) bool { return strings.Contains(name, " "+found.GetName()+"/") })
		b.mu.Unlock()
		if err := b.create(ctx, again); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make %s again: %w", identityOf(again), err)
		}
		return nil
	}, nil
}
