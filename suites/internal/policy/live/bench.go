package live

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// Options say how a bench asks.
type Options struct {
	// Config is an administrator's (group system:masters, who may impersonate).
	// Required.
	Config *rest.Config
	// Patience is how long a copy may take to come into force, and for how long
	// what the server cannot answer is asked again. Default: a minute.
	Patience time.Duration
	// Batch is how many copies are installed at once at most. Default: 100.
	Batch int
	// Progress is told what the bench is about to do; nil: nobody.
	Progress func(string)
}

// Bench asks one API server.
type Bench struct {
	options Options
	config  *rest.Config
	client  *rest.RESTClient
	limit   *limit

	// judging is held by whatever changes what is installed.
	judging sync.Mutex
	// copies are those that are installed, by their names.
	copies map[string]*copyState
	// remembered is what was found of policies that change or make objects.
	remembered map[string]memory
	// podsOnly are the policies that are judged of which all examples are Pods, and
	// that are installed as they stand as well.
	podsOnly map[*example.Policy]bool
	// asked are the names of the objects that each policy is asked about.
	asked map[*example.Policy][]string
	// places counts how many copies an object of an installation belongs to.
	places map[string]int

	mu         sync.Mutex
	kinds      map[schema.GroupVersionKind]resource
	subkinds   map[string]bool
	made       []Kind
	kept       []*unstructured.Unstructured
	namespaces map[string]namespaceState
	served     map[string]bool
	seconds    []float64
	users      map[string]bool
	leftOut    leftOut
	// roles are those that users have without us.
	roles map[string][]string

	requests, retries, disturbances atomic.Int64
	// enteredAt is when the last world was made, in nanoseconds of Unix time.
	enteredAt atomic.Int64
}

// copyState is what is known of an installed copy.
type copyState struct {
	subject subject
	form    form
	installation
	created   time.Time
	effective time.Duration
	// seen: a canary was answered.
	seen bool
	// failed says why it cannot be asked; late: since it is not in force in time.
	failed string
	late   bool
	// proves: the policy as it stands is installed beside the copy, and these are
	// its objects; unwritten says why it is not.
	proves    bool
	written   []*unstructured.Unstructured
	writtenAt time.Time
	unwritten string
	// placed are the objects that were made for it, as far as they were made.
	placed []*unstructured.Unstructured
}

// Open prepares a bench on a server with Kyverno. Close must be called.
func Open(ctx context.Context, o Options) (*Bench, error) {
	if o.Config == nil {
		return nil, errors.New("open a bench: no Config is given")
	}
	if o.Patience <= 0 {
		o.Patience = time.Minute
	}
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	config := rest.CopyConfig(o.Config)
	config.QPS, config.Burst = -1, 0
	config.RateLimiter = nil
	config.WarningHandler = rest.NoWarnings{}
	config.Impersonate = rest.ImpersonationConfig{}
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.GroupVersion = &schema.GroupVersion{}
	config.Timeout = 0
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("open a bench: %w", err)
	}
	b := &Bench{
		options: o, config: config, client: client, limit: newLimit(),
		copies: map[string]*copyState{}, places: map[string]int{}, remembered: map[string]memory{},
		kinds: map[schema.GroupVersionKind]resource{}, subkinds: map[string]bool{}, namespaces: map[string]namespaceState{},
		served: map[string]bool{}, users: map[string]bool{}, roles: map[string][]string{},
	}
	if err := b.discover(); err != nil {
		return nil, err
	}
	if err := b.learnLeftOut(ctx); err != nil {
		return nil, err
	}
	return b, ctx.Err()
}

// defaultBatch is how many copies are there at once. Kyverno looks at each copy
// for the object's kind in every request, so requests become slower with their
// number; yet each batch takes its time to come into force.
const defaultBatch = 100

// say tells what is about to be done.
func (b *Bench) say(format string, args ...any) {
	if b.options.Progress != nil {
		b.options.Progress(fmt.Sprintf(format, args...))
	}
}

// count notes a request.
func (b *Bench) count(seconds float64) {
	b.requests.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seconds = append(b.seconds, seconds)
}

// Close removes all that the bench made, but for a policy that matches nothing for each
// kind of parameters that was judged: the server could not read any of them again.
func (b *Bench) Close(ctx context.Context) error {
	b.judging.Lock()
	defer b.judging.Unlock()
	var problems []error
	var all []string
	for name := range b.copies {
		all = append(all, name)
	}
	problems = append(problems, b.uninstall(ctx, all))
	b.mu.Lock()
	kept := b.kept
	b.kept = nil
	namespaces := b.namespaces
	b.namespaces = map[string]namespaceState{}
	b.served, b.users = map[string]bool{}, map[string]bool{}
	b.mu.Unlock()
	for name, state := range namespaces {
		if state.found && !sameLabels(name, state.now, state.before) {
			b.setNamespace(name, state)
			problems = append(problems, b.namespace(ctx, name, nil))
		}
	}
	// What stands in namespaces goes before them, and definitions of kinds last.
	rank := func(o *unstructured.Unstructured) int {
		switch o.GetKind() {
		case "Namespace":
			return 1
		case "CustomResourceDefinition":
			return 2
		}
		return 0
	}
	for stage := range 3 {
		var group errgroup.Group
		group.SetLimit(firstWorkers)
		var mu sync.Mutex
		for _, o := range kept {
			if rank(o) == stage {
				away := b.gone
				if o.GetKind() == "ServiceAccount" && o.GetName() == "default" {
					away = b.remove // the server makes another as long as the namespace is there
				}
				group.Go(func() error {
					if err := away(ctx, o); err != nil {
						mu.Lock()
						defer mu.Unlock()
						problems = append(problems, err)
					}
					return nil
				})
			}
		}
		_ = group.Wait() // the problems are kept above
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("remove what the bench made: %w", err)
	}
	return nil
}

// session tells what this process makes from what another makes on the same
// server at the same time.
var session = strings.ToLower(rand.Text()[:8])

// newSubject gives a copy its name, which is made of all that it is made of.
func (b *Bench) newSubject(policy *example.Policy, exceptions, params []*unstructured.Unstructured, aspect Aspect, updates bool) subject {
	s := subject{
		policy: policy, exceptions: exceptions, params: params, aspect: aspect,
		unserved: b.unserved(policy.Object), podsOnly: b.podsOnly[policy], asked: b.asked[policy], updates: updates && isLegacy(policy.Object),
	}
	digest := sha256.New()
	encode := json.NewEncoder(digest)
	parts := [][]*unstructured.Unstructured{{policy.Object}, policy.Bindings, exceptions, params}
	for _, part := range parts {
		for _, o := range part {
			_ = encode.Encode(o.Object) // writing to a digest cannot fail
		}
		_ = encode.Encode("next")
	}
	_ = encode.Encode(aspect)
	_ = encode.Encode(session)
	_ = encode.Encode([]any{s.unserved, s.podsOnly, s.asked, s.updates})
	// What stands twice in a library, in two files, is one copy all the same.
	s.name = b.naming(s) + hex.EncodeToString(digest.Sum(nil))[:10]
	return s
}

func formOf(policy *unstructured.Unstructured) form {
	for _, f := range forms {
		if f.judges(policy) {
			return f
		}
	}
	return nil
}

func judgeOf(policy *unstructured.Unstructured) judge {
	for _, j := range judges {
		if j.judges(policy) {
			return j
		}
	}
	return nil
}

// install makes copies that are not there yet, and returns when each either
// answered a canary or has failed, and why. Some fail without an error.
func (b *Bench) install(ctx context.Context, subjects []subject, proving map[string]bool) (int, error) {
	var fresh []*copyState
	for _, s := range subjects {
		if b.copies[s.name] != nil {
			continue
		}
		f := formOf(s.policy.Object)
		c := &copyState{subject: s, form: f, proves: proving[s.name]}
		b.copies[s.name] = c
		fresh = append(fresh, c)
		var err error
		if c.installation, err = f.install(s); err != nil {
			c.failed = err.Error()
		} else if c.problem != "" {
			c.failed = c.problem
		}
		if c.canary != nil {
			if err := b.canaryNamespace(ctx, c); err != nil {
				return 0, err
			}
			c.failed = cmp.Or(c.failed, c.unheard)
		}
	}
	installed := atomic.Int64{}
	var group errgroup.Group
	group.SetLimit(mostWorkers)
	for _, c := range fresh {
		if c.failed != "" {
			continue
		}
		if ns := c.subject.policy.Object.GetNamespace(); ns != "" {
			if err := b.namespace(ctx, ns, b.currentLabels(ns)); err != nil {
				return 0, err
			}
		}
		if err := b.plant(ctx, c.anchor); err != nil {
			return 0, err
		}
		group.Go(func() error {
			n, err := b.installOne(ctx, c)
			installed.Add(int64(n))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return int(installed.Load()), err
	}
	if err := b.force(ctx, fresh, b.options.Patience); err != nil {
		return int(installed.Load()), err
	}
	again, err := b.oneByOne(ctx, fresh)
	return int(installed.Load()) + again, err
}

// force returns when each copy is in force or has failed. Of those that share a webhook
// a canary shows only that Kyverno knows them: that the webhook covers their kinds is
// shown by a policy made after them that has a webhook of its own. Kyverno makes all
// webhooks anew, and at once, of the ClusterPolicies that it knows, and it learns of
// them in the order in which they were made.
func (b *Bench) force(ctx context.Context, copies []*copyState, patience time.Duration) error {
	shares := func(c *copyState) bool { return c.failed == "" && namedBy(c.subject.name, namedByGroup) }
	if !slices.ContainsFunc(copies, shares) {
		return b.await(ctx, copies, patience)
	}
	last, err := b.last(ctx)
	if err != nil {
		return err
	}
	if err := b.await(ctx, append(slices.Clone(copies), last), patience); err != nil {
		return err
	}
	for _, c := range copies {
		if last.failed != "" && shares(c) {
			c.failed, c.late, c.seen = "the webhook that it shares is not in force: "+last.failed, true, false
		}
	}
	return b.uninstall(ctx, []string{last.subject.name})
}

// last makes a policy that does nothing but answer its canary.
func (b *Bench) last(ctx context.Context) (*copyState, error) {
	name := namedByExtra + strings.ToLower(hex.EncodeToString([]byte(rand.Text()))[:10])
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": legacyGroup + "/v1", "kind": "ClusterPolicy",
		"spec": map[string]any{
			"validationFailureAction": "Audit", "background": false, "failurePolicy": "Fail",
			"rules": []any{canaryRule()},
		},
	}}
	spec, _ := object.Object["spec"].(map[string]any)
	spec["webhookConfiguration"] = webhookOf(object, name, orCanary)
	object.SetName(name)
	object.SetLabels(map[string]string{benchLabel: "true"})
	c := &copyState{
		subject: subject{policy: &example.Policy{Object: object}, name: name}, form: legacyForm{},
		installation: installation{objects: []*unstructured.Unstructured{object}, canary: canaryObject("ConfigMap", nil)},
	}
	b.copies[name] = c
	if err := b.canaryNamespace(ctx, c); err != nil {
		return nil, err
	}
	_, err := b.installOne(ctx, c)
	return c, err
}

// oneByOne installs those copies again, each beside what is in force, of which a
// whole set did not come into force: a webhook that the API server does not take
// keeps Kyverno from changing any of its kind. What is late alone is removed, so that
// it stands in nobody's way.
func (b *Bench) oneByOne(ctx context.Context, copies []*copyState) (int, error) {
	late := slices.DeleteFunc(slices.Clone(copies), func(c *copyState) bool { return !c.late })
	for _, c := range late {
		if err := b.withdraw(ctx, c); err != nil {
			return 0, err
		}
	}
	if len(late) < 2 {
		return 0, nil
	}
	b.say("%d policies are not in force: see which of them keeps the others from it", len(late))
	installed := 0
	for _, c := range late {
		waited := c.failed
		c.failed, c.late = "", false
		n, err := b.installOne(ctx, c)
		installed += n
		if err == nil {
			err = b.force(ctx, []*copyState{c}, b.options.Patience/alonePatience)
		}
		if err == nil && c.late {
			// It was waited for longer, and more was seen of it, the first time.
			c.failed = waited
			err = b.withdraw(ctx, c)
		}
		if err != nil {
			return installed, err
		}
	}
	return installed, nil
}

// alonePatience is how much sooner a copy alone is given up than a whole set.
const alonePatience = 4

// withdraw removes a copy's objects, but for what belongs to another copy as well,
// and its policy as it stands.
func (b *Bench) withdraw(ctx context.Context, c *copyState) error {
	b.erase(ctx, c)
	placed := c.placed
	c.placed = nil
	for _, o := range slices.Backward(placed) {
		b.mu.Lock()
		b.places[key(o)]--
		last := b.places[key(o)] == 0
		b.mu.Unlock()
		if !last {
			continue
		}
		if err := b.remove(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// currentLabels are those of a namespace as it is now.
func (b *Bench) currentLabels(name string) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.namespaces[name].now
}

func (b *Bench) installOne(ctx context.Context, c *copyState) (int, error) {
	count := 0
	for _, o := range c.compile {
		got := b.send(ctx, request{operation: opCreate, object: o})
		if got.unavailable {
			return count, fmt.Errorf("compile the expressions of %s: %w", c.subject.policy, got.err)
		}
		if apierrors.IsInvalid(got.err) {
			c.failed = fmt.Sprintf("it does not compile: %s: %s", o.GetAnnotations()[ruleKey], got.err)
			return count, nil
		}
	}
	for _, o := range c.objects {
		b.mu.Lock()
		c.placed = append(c.placed, o)
		b.places[key(o)]++
		first := b.places[key(o)] == 1
		b.mu.Unlock()
		if !first {
			continue
		}
		got := b.send(ctx, request{operation: opCreate, object: o, real: true})
		if got.unavailable {
			return count, fmt.Errorf("install a copy of %s: %w", c.subject.policy, got.err)
		}
		if got.err != nil && !apierrors.IsAlreadyExists(got.err) {
			c.failed = b.whyRefused(ctx, c, got)
			return count, nil
		}
		count++
	}
	c.created = time.Now()
	if c.proves {
		b.write(ctx, c)
		count += len(c.written)
	}
	return count, nil
}

// plant makes what stays on the server when the bench is closed.
func (b *Bench) plant(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if b.served[key(o)] {
			continue
		}
		if err := b.create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make %s: %w", key(o), err)
		}
		b.served[key(o)] = true
	}
	return nil
}

// anchor makes what stays until the bench is closed.
func (b *Bench) anchor(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if b.served[key(o)] {
			continue
		}
		b.served[key(o)] = true
		if err := b.create(ctx, o); err != nil {
			return fmt.Errorf("make %s: %w", key(o), err)
		}
		b.keep(o)
	}
	return nil
}

// write installs a copy's policy as it stands.
func (b *Bench) write(ctx context.Context, c *copyState) {
	objects, why, err := c.form.written(c.subject)
	if err != nil {
		why = err.Error()
	}
	c.unwritten = why
	if why != "" {
		return
	}
	for _, o := range objects {
		if err := b.create(ctx, o); err != nil {
			c.unwritten = fmt.Sprintf("install it as it is written: %v", err)
			b.erase(ctx, c)
			return
		}
		c.written = append(c.written, o)
	}
	c.writtenAt = time.Now()
}

// erase removes a copy's policy as it stands.
func (b *Bench) erase(ctx context.Context, c *copyState) {
	for _, o := range slices.Backward(c.written) {
		if err := b.remove(context.WithoutCancel(ctx), o); err != nil && c.unwritten == "" {
			c.unwritten = err.Error()
		}
	}
	c.written = nil
}

// whyRefused says why the server does not take a policy, in its words for the
// policy as it stands, so that lines and columns are those of the file.
func (b *Bench) whyRefused(ctx context.Context, c *copyState, got response) string {
	own := copyOf(c.subject.policy.Object, c.subject.name+"o")
	answer := b.send(ctx, request{operation: opCreate, object: own})
	if answer.err != nil && !answer.unavailable {
		got = answer
	}
	words := strings.ReplaceAll(got.err.Error(), c.subject.name+"o", c.subject.policy.Object.GetName())
	for _, w := range got.warnings {
		// That its kind is an old one refuses nothing.
		if !strings.Contains(words, w) && !strings.Contains(w, " is deprecated ") {
			words += "; " + w
		}
	}
	return "it is refused: " + words
}

// uninstall removes copies.
func (b *Bench) uninstall(ctx context.Context, names []string) error {
	var group errgroup.Group
	group.SetLimit(mostWorkers)
	for _, name := range names {
		c := b.copies[name]
		if c == nil {
			continue
		}
		delete(b.copies, name)
		group.Go(func() error { return b.withdraw(ctx, c) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("remove copies: %w", err)
	}
	return nil
}
