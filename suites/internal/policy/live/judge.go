package live

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// disturbancesBorne is how often all is asked again because Kyverno or the server
// went away meanwhile.
const disturbancesBorne = 5

// provenBeside is how many policies as they stand are installed beside their
// copies.
const provenBeside = 30

// query asks one copy about one example.
type query struct {
	example *example.Example
	// object is the example's, where it stands.
	object *unstructured.Unstructured
	copy   string
	// reply is what the copy said; the rest is of the answer that it stood in.
	reply   Reply
	heard   heard
	sent    string
	invalid bool
	asked   bool
	// unsupported: no live server can be asked, and the reply says why.
	unsupported bool
}

// Judge asks for every example of a library, and returns the verdicts in the order
// of its examples. A second Judge installs only what changed since.
func (b *Bench) Judge(ctx context.Context, l *example.Library) (*Judgement, error) {
	b.judging.Lock()
	defer b.judging.Unlock()
	b.reset()
	examples := l.Examples()
	out := &Judgement{Verdicts: make([]Verdict, len(examples)), Policies: make([]PolicyState, len(l.Policies))}
	states := map[*example.Policy]*PolicyState{}
	for i, p := range l.Policies {
		out.Policies[i] = PolicyState{Policy: p, Effective: -1}
		states[p] = &out.Policies[i]
	}
	if err := b.furnish(ctx, l); err != nil {
		return nil, err
	}
	wanted := map[string]subject{}
	var order []string
	want := func(s subject) {
		if _, there := wanted[s.name]; !there {
			wanted[s.name] = s
			order = append(order, s.name)
		}
	}
	bases := map[*example.Policy]subject{}
	for _, p := range l.Policies {
		f := formOf(p.Object)
		if f == nil {
			continue
		}
		states[p].Audits = f.audits(p)
	}
	queries := make([]*query, len(examples))
	single := map[*example.Policy][]*Verdict{}
	for i, e := range examples {
		v := &out.Verdicts[i]
		v.Example = e
		why := cmp.Or(e.NotSupported, b.unreachable(e))
		switch {
		case why != "":
			v.Verdict, v.Reason = example.NotSupported, why
		case forCopies(e):
			s := b.subject(e, Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1})
			want(s)
			if base, there := bases[e.Policy]; !there || len(s.exceptions) < len(base.exceptions) {
				bases[e.Policy] = s
			}
			queries[i] = &query{example: e, object: b.place(e.Object), copy: s.name}
		case judgeOf(e.Policy.Object) != nil:
			single[e.Policy] = append(single[e.Policy], v)
		default:
			v.Verdict, v.Reason = example.NotSupported, unsupported(e)
		}
	}
	// A policy without examples is installed all the same: it may not compile.
	for _, p := range l.Policies {
		if _, there := bases[p]; !there && formOf(p.Object) != nil {
			s := b.newSubject(p, nil, nil, Aspect{Whole: true, Validation: -1, Condition: -1, Constraint: -1}, false)
			bases[p] = s
			want(s)
		}
	}
	// Policies as they stand come into force beside their copies, unless there are
	// so many that they would slow all requests. Of policies of one name, only one
	// can be there as it stands.
	proving := map[string]bool{}
	taken := map[string]bool{}
	for _, p := range l.Policies {
		if s, there := bases[p]; there && len(wanted) <= provenBeside && !states[p].Audits && !taken[key(p.Object)] {
			taken[key(p.Object)], proving[s.name] = true, true
		}
	}
	if err := b.round(ctx, wanted, order, queries, out, proving, func(here []*query) error {
		return b.denials(ctx, bases, states, here)
	}); err != nil {
		return nil, err
	}
	for i, q := range queries {
		if q != nil {
			b.decide(&out.Verdicts[i], q)
		}
	}
	for p, s := range bases {
		state, c := states[p], b.copies[s.name]
		if c == nil {
			continue
		}
		if state.Problem == "" && c.unheard == "" {
			state.Problem = c.failed
		}
		if c.failed == "" {
			state.Effective = c.effective.Seconds()
		}
	}
	start := time.Now()
	for _, judge := range judges {
		var tasks []task
		for _, p := range l.Policies {
			if judgeOf(p.Object) == judge && (formOf(p.Object) == nil || len(single[p]) > 0) {
				tasks = append(tasks, task{states[p], single[p]})
			}
		}
		if err := judge.judge(ctx, b, tasks); err != nil {
			return nil, err
		}
	}
	out.Stats.Asking += time.Since(start)
	b.stats(out)
	return out, nil
}

// podsOnly are the policies of which all examples are Pods, and one at least fails:
// so that they are in force with all that Kyverno derives of them is seen in the
// denial as written.
func podsOnly(l *example.Library) map[*example.Policy]bool {
	out := map[*example.Policy]bool{}
	others := map[*example.Policy]bool{}
	for _, e := range l.Examples() {
		f := formOf(e.Policy.Object)
		if f == nil || f.audits(e.Policy) || e.Subresource != "" || e.Object == nil || e.Object.GroupVersionKind() != podKind {
			others[e.Policy] = true
		} else if e.Expected == example.Fail {
			out[e.Policy] = true
		}
	}
	maps.DeleteFunc(out, func(p *example.Policy, _ bool) bool { return others[p] })
	return out
}

// mostAsked is how many names of objects a copy lists at most.
const mostAsked = 200

// namesAsked are those of the objects that each policy is asked about, if it is of a
// type that can list them. A policy is missing that is asked about an object without a
// name, about a part of one, or about too many.
func namesAsked(l *example.Library) map[*example.Policy][]string {
	out := map[*example.Policy][]string{}
	open := map[*example.Policy]bool{}
	for _, e := range l.Examples() {
		switch {
		case !(celForm{}.judges(e.Policy.Object)):
		case e.Object == nil || e.Object.GetName() == "" || e.Subresource != "":
			open[e.Policy] = true
		case !slices.Contains(out[e.Policy], e.Object.GetName()):
			out[e.Policy] = append(out[e.Policy], e.Object.GetName())
		}
	}
	maps.DeleteFunc(out, func(p *example.Policy, names []string) bool { return open[p] || len(names) > mostAsked })
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

var podKind = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}

// forCopies says whether an example is asked of a copy.
func forCopies(e *example.Example) bool {
	f := formOf(e.Policy.Object)
	return f != nil && f.reason(e) == ""
}

// unsupported says why nobody judges an example.
func unsupported(e *example.Example) string {
	if f := formOf(e.Policy.Object); f != nil {
		return f.reason(e)
	}
	kind := e.Policy.Object.GetKind()
	switch {
	case isLegacy(e.Policy.Object):
		return legacyForm{}.reason(e)
	case strings.Contains(kind, "ImageV") || strings.Contains(kind, "ImageVal"):
		return "images are not verified live: that needs keys and registries that a test does not bring"
	case strings.Contains(kind, "Deleting"), strings.Contains(kind, "Cleanup"):
		return "policies that delete objects on a schedule are not judged live"
	}
	return fmt.Sprintf("policies of the kind %s are not judged live", kind)
}

// reset begins a new count.
func (b *Bench) reset() {
	b.requests.Store(0)
	b.retries.Store(0)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seconds = nil
}

func (b *Bench) stats(out *Judgement) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out.Kinds = slices.Clone(b.made)
	out.Stats.Requests, out.Stats.Retries = int(b.requests.Load()), int(b.retries.Load())
	out.Stats.Workers = b.limit.peak()
	slices.Sort(b.seconds)
	if n := len(b.seconds); n > 0 {
		at := func(share float64) time.Duration {
			return time.Duration(b.seconds[min(n-1, int(share*float64(n)))] * float64(time.Second))
		}
		out.Stats.P50, out.Stats.P99 = at(0.5), at(0.99)
	}
}

// furnish makes what the examples of a library need whatever is asked of them: the
// kinds, and the rights of who asks.
func (b *Bench) furnish(ctx context.Context, l *example.Library) error {
	b.podsOnly, b.asked = podsOnly(l), namesAsked(l)
	var objects []*unstructured.Unstructured
	users := map[string]bool{}
	for _, t := range l.Tests {
		objects = append(objects, t.Objects...)
		objects = append(objects, t.Params...)
		objects = append(objects, t.Targets...)
		for _, e := range t.Examples {
			if e.Object != nil {
				objects = append(objects, e.Object)
			}
		}
		if t.User != nil {
			users[t.User.Name] = true
		}
	}
	if err := b.learn(ctx, objects, l.Policies); err != nil {
		return err
	}
	return b.allow(ctx, users)
}

// allow lets users do everything, so that it is policies that refuse.
func (b *Bench) allow(ctx context.Context, users map[string]bool) error {
	var fresh []any
	b.mu.Lock()
	all := maps.Clone(b.users)
	for user := range users {
		all[user] = true
	}
	same := len(all) == len(b.users)
	b.mu.Unlock()
	if same {
		return nil
	}
	for _, user := range slices.Sorted(maps.Keys(all)) {
		fresh = append(fresh, map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user})
	}
	role := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
		"rules": []any{
			map[string]any{"apiGroups": []any{"*"}, "resources": []any{"*"}, "verbs": []any{"*"}},
			map[string]any{"nonResourceURLs": []any{"*"}, "verbs": []any{"*"}},
		},
	}}
	role.SetName(anyonePrefix + session)
	binding := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": anyonePrefix + session},
		"subjects": fresh,
	}}
	binding.SetName(anyonePrefix + session)
	for _, o := range []*unstructured.Unstructured{role, binding} {
		o.SetLabels(map[string]string{benchLabel: "true"})
		err := b.create(ctx, o)
		if apierrors.IsAlreadyExists(err) {
			err = b.patch(ctx, o, o.Object)
		} else if err == nil {
			b.keep(o)
		}
		if err != nil {
			return fmt.Errorf("let the users of the tests do what they ask for: %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users = all
	return nil
}

// subject is what the copy of an example's policy is made of.
func (b *Bench) subject(e *example.Example, aspect Aspect) subject {
	var exceptions, params []*unstructured.Unstructured
	for _, x := range e.Test.Exceptions {
		if names(x, e.Policy.Object) {
			exceptions = append(exceptions, x)
		}
	}
	if _, takes, _ := unstructured.NestedMap(e.Policy.Object.Object, "spec", "paramKind"); takes {
		params = e.Test.Params
	}
	return b.newSubject(e.Policy, exceptions, params, aspect, e.Operation == opUpdate)
}

// names says whether an exception is one from this policy.
func names(exception, policy *unstructured.Unstructured) bool {
	for _, field := range []struct {
		list, name string
	}{{"policyRefs", "name"}, {"exceptions", "policyName"}} {
		list, _, _ := unstructured.NestedSlice(exception.Object, "spec", field.list)
		for _, entry := range list {
			fields, _ := entry.(map[string]any)
			name, _ := fields[field.name].(string)
			if name == policy.GetName() || policy.GetNamespace() != "" && name == policy.GetNamespace()+"/"+policy.GetName() {
				return true
			}
		}
	}
	return false
}

// round installs what is wanted, in batches, and asks all queries; «after» is
// called for each batch while it is there.
func (b *Bench) round(ctx context.Context, wanted map[string]subject, order []string, queries []*query, out *Judgement, proving map[string]bool, after func([]*query) error) error {
	var stale []string
	for name, c := range b.copies {
		// What never worked is tried again.
		if _, still := wanted[name]; !still || c.failed != "" {
			stale = append(stale, name)
		}
	}
	if err := b.uninstall(ctx, stale); err != nil {
		return err
	}
	byCopy := map[string][]*query{}
	for _, q := range queries {
		if q != nil {
			byCopy[q.copy] = append(byCopy[q.copy], q)
		}
	}
	batches := slices.Collect(slices.Chunk(order, b.options.Batch))
	for i, batch := range batches {
		var here []*query
		var tests []*example.Test
		seen := map[*example.Test]bool{}
		var objects []*unstructured.Unstructured
		subjects := make([]subject, 0, len(batch))
		for _, name := range batch {
			subjects = append(subjects, wanted[name])
			for _, q := range byCopy[name] {
				here = append(here, q)
				objects = append(objects, q.object)
				if !seen[q.example.Test] {
					seen[q.example.Test] = true
					tests = append(tests, q.example.Test)
				}
			}
		}
		waves := b.waves(tests)
		if len(waves) == 0 {
			waves = []*wave{{}}
		}
		for j, w := range waves {
			start := time.Now()
			leave, err := b.enter(ctx, w)
			if err == nil && j == 0 {
				err = b.serve(ctx, objects)
			}
			if err == nil && j == 0 {
				b.say("install %d policies (%d of %d)", len(batch), i+1, len(batches))
				var n int
				n, err = b.install(ctx, subjects, proving)
				out.Stats.Installed += n
			}
			if err == nil {
				err = b.notice(ctx)
			}
			out.Stats.Preparing += time.Since(start)
			start = time.Now()
			if err == nil {
				mine := slices.DeleteFunc(slices.Clone(here), func(q *query) bool { return !w.tests[q.example.Test] })
				b.say("ask for %d examples (%d of %d)", len(mine), j+1, len(waves))
				if err = b.askAll(ctx, batch, mine); err == nil {
					err = after(mine)
				}
			}
			if leave != nil {
				if left := leave(context.WithoutCancel(ctx)); err == nil {
					err = left
				}
			}
			out.Stats.Asking += time.Since(start)
			if err != nil {
				return err
			}
		}
		start := time.Now()
		if len(batches) > 1 && i < len(batches)-1 {
			if err := b.uninstall(ctx, batch); err != nil {
				return err
			}
		}
		out.Stats.Asking += time.Since(start)
	}
	return nil
}

// askAll asks queries until nothing disturbed the asking: where Kyverno or the
// server went away, silence means nothing, since a webhook that is back may not
// know each policy at once.
func (b *Bench) askAll(ctx context.Context, batch []string, queries []*query) error {
	var copies []*copyState
	for _, name := range batch {
		if c := b.copies[name]; c != nil && c.failed == "" {
			copies = append(copies, c)
		}
	}
	open := slices.DeleteFunc(slices.Clone(queries), func(q *query) bool { return b.copies[q.copy] == nil || b.copies[q.copy].failed != "" })
	for range disturbancesBorne {
		before := b.disturbances.Load()
		if err := b.askOnce(ctx, open); err != nil {
			return err
		}
		// Copies that do not answer any more show a disturbance that no request saw.
		b.canaries(ctx, copies)
		quiet := b.disturbances.Load() == before && !slices.ContainsFunc(copies, func(c *copyState) bool { return !c.seen })
		if quiet {
			return nil
		}
		open = slices.DeleteFunc(open, func(q *query) bool {
			return q.reply.Answer != Silent && q.reply.Answer != Unanswered || q.invalid
		})
		b.say("Kyverno or the server went away: await it, and ask for %d examples again", len(open))
		for _, c := range copies {
			c.seen = false
		}
		if err := b.force(ctx, copies, b.options.Patience); err != nil {
			return err
		}
	}
	for _, q := range open {
		q.reply = Reply{Answer: Unanswered, Words: "Kyverno or the server went away again and again"}
	}
	return nil
}

// askOnce asks queries, those about the same request together.
func (b *Bench) askOnce(ctx context.Context, queries []*query) error {
	same := map[string][]*query{}
	var order []string
	for _, q := range queries {
		k := b.identity(q)
		if same[k] == nil {
			order = append(order, k)
		}
		same[k] = append(same[k], q)
	}
	var group errgroup.Group
	group.SetLimit(2 * mostWorkers)
	stored := map[string][]string{}
	var storedOrder []string
	for _, k := range order {
		first := same[k][0]
		if first.example.Operation == opCreate && first.example.Subresource == "" {
			group.Go(func() error {
				b.askSame(ctx, first.object, same[k])
				return ctx.Err()
			})
			continue
		}
		// Two objects of one name cannot be there at the same time.
		name := key(first.object)
		if stored[name] == nil {
			storedOrder = append(storedOrder, name)
		}
		stored[name] = append(stored[name], k)
	}
	for _, name := range storedOrder {
		group.Go(func() error {
			for _, k := range stored[name] {
				if err := b.askStored(ctx, same[k]); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// identity is the same for queries that one request can ask.
func (b *Bench) identity(q *query) string {
	e := q.example
	data, _ := json.Marshal([]any{e.Operation, e.Subresource, e.Test.User, q.object.Object}) // all of it was read from JSON
	return string(data)
}

func (b *Bench) askSame(ctx context.Context, object *unstructured.Unstructured, queries []*query) {
	e := queries[0].example
	r := request{operation: e.Operation, object: object, subresource: e.Subresource, parent: e.Parent, user: e.Test.User}
	for _, q := range queries {
		if !slices.Contains(r.copies, q.copy) {
			r.copies = append(r.copies, q.copy)
		}
	}
	got := b.ask(ctx, r)
	if slices.ContainsFunc(queries, parametrised) {
		// How long it takes does not matter: after that it is what the server says.
		_ = wait.PollUntilContextTimeout(ctx, paramsPause, max(paramsUnseen-time.Since(b.entered()), 0), false, func(ctx context.Context) (bool, error) {
			if !slices.ContainsFunc(queries, func(q *query) bool { return parametrised(q) && foundNone(q, got) }) {
				return true, nil
			}
			got = b.ask(ctx, r)
			return false, nil
		})
	}
	for _, q := range queries {
		q.asked, q.heard, q.invalid, q.sent = true, got, got.invalid, r.String()
		if why, open := got.unanswered[q.copy]; open {
			q.reply = Reply{Answer: Unanswered, Words: why}
		} else {
			q.reply = formOf(q.example.Policy.Object).settle(q.example, got.said[q.copy])
		}
	}
}

// Parameters that were just made may not be seen yet by the API server, which learns
// of them by a watch: for so long an answer that finds none is asked for again.
const (
	paramsUnseen = 3 * time.Second
	paramsPause  = 100 * time.Millisecond
)

// entered is when the world was made that examples are asked in.
func (b *Bench) entered() time.Time { return time.Unix(0, b.enteredAt.Load()) }

// parametrised says whether the API server looks for parameters that a test brings.
func parametrised(q *query) bool {
	policy := q.example.Policy.Object
	return admissionForm{}.judges(policy) && takesParameters(policy) && len(q.example.Test.Params) > 0
}

// foundNone says whether an answer is that of a policy without parameters: it says
// nothing, or refuses for that reason.
func foundNone(q *query, got heard) bool {
	if _, open := got.unanswered[q.copy]; open {
		return false
	}
	reply := admissionForm{}.settle(q.example, got.said[q.copy])
	return reply.Answer == Silent || reply.Answer == Refusing && slices.Contains(reply.Indexes, -1)
}

// askStored asks about an object that is stored meanwhile, which no copy judges.
func (b *Bench) askStored(ctx context.Context, queries []*query) error {
	first := queries[0]
	fail := func(invalid bool, words string) {
		for _, q := range queries {
			q.asked, q.invalid = true, invalid
			q.heard = heard{refusal: words}
			q.reply = Reply{Answer: Unanswered, Words: words}
			q.sent = request{operation: q.example.Operation, object: q.object, user: q.example.Test.User}.String()
		}
	}
	stored := first.object
	if !first.example.Parent.Empty() {
		if stored = parent(first); stored == nil {
			fail(false, fmt.Sprintf("the %s whose %s it is stands in no file of the test", first.example.Parent.Kind, first.example.Subresource))
			for _, q := range queries {
				q.unsupported = true
			}
			return nil
		}
		stored = b.place(stored)
	}
	object, undo, got := b.store(ctx, stored)
	if got.err != nil {
		fail(!got.unavailable && !denied(got.err.Error()), "store the object first: "+got.err.Error())
		return nil
	}
	if !first.example.Parent.Empty() {
		object = first.object
	}
	for range 5 {
		// A controller may change the object between two requests.
		b.askSame(ctx, object, queries)
		if !strings.Contains(first.heard.refusal, "the object has been modified") {
			break
		}
		now, err := b.get(ctx, object)
		if err != nil {
			break
		}
		object = now
	}
	if err := undo(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return nil
}

// parent is the object that has the subresource that an example is.
func parent(q *query) *unstructured.Unstructured {
	for _, list := range [][]*unstructured.Unstructured{q.example.Test.Resources, q.example.Test.Objects} {
		for _, o := range list {
			if o.GroupVersionKind().GroupKind() == q.example.Parent.GroupKind() && o.GetName() == q.object.GetName() {
				return o
			}
		}
	}
	return nil
}

// decide makes a verdict of what a copy said.
func (b *Bench) decide(v *Verdict, q *query) {
	policy := q.example.Policy.Object
	v.Sent, v.Notes, v.Seconds = q.sent, q.heard.notes, q.heard.seconds
	c := b.copies[q.copy]
	if c != nil && c.unheard != "" {
		v.Verdict, v.Reason = example.NotSupported, c.unheard
		return
	}
	if c != nil && c.failed != "" {
		v.Verdict, v.Reason = example.Unknown, "the policy cannot be asked: "+c.failed
		return
	}
	form := formOf(policy)
	switch q.reply.Answer {
	case Silent:
		v.Verdict, v.Reason = example.Skip, cmp.Or(q.reply.Words, "the policy does not apply to it")
		if !q.asked {
			v.Verdict, v.Reason = example.Unknown, "it was not asked"
		}
	case Satisfied:
		v.Verdict = example.Pass
	case Refusing:
		v.Verdict = example.Fail
		if policy.GetAnnotations()["policies.kyverno.io/scored"] == "false" {
			v.Verdict = example.Warn
		}
		v.Refused = q.reply.Indexes
		slices.Sort(v.Refused)
		for _, index := range v.Refused {
			v.Words = append(v.Words, form.words(policy, index))
		}
	case Failing:
		v.Verdict, v.Reason = example.Error, q.reply.Words
	default:
		v.Verdict, v.Reason = example.Unknown, q.reply.Words
		switch {
		case q.invalid:
			v.Verdict = example.Invalid
		case q.unsupported:
			v.Verdict = example.NotSupported
		}
	}
}

// denials shows that enforcing policies refuse as they are written.
func (b *Bench) denials(ctx context.Context, bases map[*example.Policy]subject, states map[*example.Policy]*PolicyState, queries []*query) error {
	failing := map[*example.Policy]*query{}
	for _, q := range queries {
		policy := q.example.Policy
		state := states[policy]
		if q.reply.Answer != Refusing || q.copy != bases[policy].name || state.Audits || state.Denial != "" {
			continue
		}
		// One that needs no stored object is the cheapest.
		if now := failing[policy]; now == nil || now.example.Operation != opCreate && q.example.Operation == opCreate {
			failing[policy] = q
		}
	}
	byName := map[string][]*query{}
	for _, q := range failing {
		name := key(q.example.Policy.Object)
		byName[name] = append(byName[name], q)
	}
	if len(byName) == 0 {
		return nil
	}
	b.say("see %d policies refuse as they are written", len(failing))
	// Kyverno takes many new policies at once for little more than one. So all are made
	// before the first is asked, and taken away after the last.
	var writing errgroup.Group
	writing.SetLimit(mostWorkers)
	for _, same := range byName {
		// The one that is there comes first, then the others take its place.
		slices.SortStableFunc(same, func(x, y *query) int {
			return len(b.copies[y.copy].written) - len(b.copies[x.copy].written)
		})
		if c := b.copies[same[0].copy]; len(c.written) == 0 && c.unwritten == "" {
			writing.Go(func() error {
				b.write(ctx, c)
				return ctx.Err()
			})
		}
	}
	if err := writing.Wait(); err != nil {
		return err
	}
	// They come into force about in the order in which they were made. So those made
	// last are asked again and again, and then each of the others about once.
	last := map[form][]*query{}
	for _, same := range byName {
		f := b.copies[same[0].copy].form
		if now := last[f]; now == nil || b.copies[now[0].copy].writtenAt.Before(b.copies[same[0].copy].writtenAt) {
			last[f] = same
		}
	}
	err := b.proveEach(ctx, states, slices.Collect(maps.Values(last)))
	if err == nil {
		err = b.proveEach(ctx, states, slices.Collect(maps.Values(byName)))
	}
	var erasing errgroup.Group
	erasing.SetLimit(mostWorkers)
	for _, q := range failing {
		if c := b.copies[q.copy]; !c.proves {
			erasing.Go(func() error {
				b.erase(ctx, c)
				return nil
			})
		}
	}
	_ = erasing.Wait() // what could not be taken away is kept in the copy
	return err
}

// proveEach shows of policies as they are written that they refuse; those of one name
// take each other's place.
func (b *Bench) proveEach(ctx context.Context, states map[*example.Policy]*PolicyState, policies [][]*query) error {
	var group errgroup.Group
	group.SetLimit(mostWorkers)
	for _, same := range policies {
		group.Go(func() error {
			for i, q := range same {
				state := states[q.example.Policy]
				if state.Denial != "" || state.DenialProblem != "" {
					continue
				}
				c := b.copies[q.copy]
				if i > 0 {
					b.erase(ctx, b.copies[same[i-1].copy])
				}
				if len(c.written) == 0 && (c.unwritten == "" || i > 0) {
					b.write(ctx, c)
				}
				if err := b.prove(ctx, state, c, q); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// prove asks a policy as it stands, alone, about an example that it must refuse.
func (b *Bench) prove(ctx context.Context, state *PolicyState, c *copyState, q *query) error {
	if state.DenialProblem = c.unwritten; c.unwritten != "" {
		return nil
	}
	object := q.object
	if q.example.Operation != opCreate && q.example.Parent.Empty() {
		stored, undo, got := b.store(ctx, q.object)
		if got.err != nil {
			state.DenialProblem = "store an example: " + got.err.Error()
			return nil
		}
		object = stored
		defer func() {
			if err := undo(context.WithoutCancel(ctx)); err != nil && state.DenialProblem == "" {
				state.DenialProblem = err.Error()
			}
		}()
	}
	r := request{
		operation: q.example.Operation, object: object, subresource: q.example.Subresource, parent: q.example.Parent,
		user: q.example.Test.User, copies: []string{writtenName(c.subject.name)},
	}
	err := b.until(ctx, fmt.Sprintf("%s refuses", c.subject.policy), func(ctx context.Context) (bool, string, error) {
		got := b.send(ctx, r)
		if got.err == nil {
			return false, "it was admitted", nil
		}
		words, own := c.form.refused(c.subject.policy.Object, got.err.Error())
		if own {
			state.Denial = words
		}
		return own, got.err.Error(), nil
	})
	if err != nil {
		state.DenialProblem = fmt.Sprintf("as it is written it does not refuse %s: %v", r, err)
	}
	return ctx.Err()
}

// Matrix is what copies of aspects of one policy said of its examples.
type Matrix struct {
	Aspects []Aspect
	// Problems say, for each aspect, why it could not be asked; empty: it was.
	Problems []string
	Examples []*example.Example
	// Replies has a row for each aspect, with a reply for each example.
	Replies [][]Reply
}

// Probe asks aspects of policies about the examples of those policies in the
// library. Examples that no live server can be asked about are Unanswered.
func (b *Bench) Probe(ctx context.Context, l *example.Library, aspects map[*example.Policy][]Aspect) (map[*example.Policy]*Matrix, error) {
	b.judging.Lock()
	defer b.judging.Unlock()
	if err := b.furnish(ctx, l); err != nil {
		return nil, err
	}
	examples := map[*example.Policy][]*example.Example{}
	for _, e := range l.Examples() {
		examples[e.Policy] = append(examples[e.Policy], e)
	}
	wanted := map[string]subject{}
	var order []string
	// The copies that Judge asked stay, or the next Judge would install them anew.
	judged := maps.Clone(b.copies)
	for name, c := range judged {
		wanted[name] = c.subject
	}
	out := map[*example.Policy]*Matrix{}
	var queries []*query
	cells := map[*query]*Reply{}
	for _, p := range l.Policies {
		if len(aspects[p]) == 0 || formOf(p.Object) == nil {
			continue
		}
		m := &Matrix{Aspects: aspects[p], Problems: make([]string, len(aspects[p])), Examples: examples[p]}
		for _, aspect := range aspects[p] {
			row := make([]Reply, len(m.Examples))
			for i, e := range m.Examples {
				if why := cmp.Or(e.NotSupported, b.unreachable(e)); why != "" {
					row[i] = Reply{Answer: Unanswered, Words: why}
					continue
				}
				s := b.subject(e, aspect)
				if _, there := wanted[s.name]; !there {
					order = append(order, s.name)
				}
				wanted[s.name] = s
				q := &query{example: e, object: b.place(e.Object), copy: s.name}
				queries = append(queries, q)
				cells[q] = &row[i]
			}
			m.Replies = append(m.Replies, row)
		}
		out[p] = m
	}
	// Those that are asked and stay make a batch of their own.
	var again []string
	for _, q := range queries {
		if judged[q.copy] != nil && !slices.Contains(again, q.copy) {
			again = append(again, q.copy)
		}
	}
	var unused Judgement
	if err := b.round(ctx, wanted, append(again, order...), queries, &unused, nil, func([]*query) error { return nil }); err != nil {
		return nil, err
	}
	for q, cell := range cells {
		*cell = q.reply
		if c := b.copies[q.copy]; c != nil && c.failed != "" {
			*cell = Reply{Answer: Unanswered, Words: c.failed}
		}
	}
	return out, b.uninstall(ctx, order)
}
