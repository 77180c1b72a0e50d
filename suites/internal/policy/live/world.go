package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// benchLabel tells what the bench made from everything else.
const benchLabel = "conformance.flux-platform/bench"

// resource is how the server calls a kind.
type resource struct {
	schema.GroupVersionResource
	namespaced bool
}

// path is that of the collection.
func (r resource) path(namespace string) string {
	out := "/api/" + r.Version
	if r.Group != "" {
		out = "/apis/" + r.Group + "/" + r.Version
	}
	if r.namespaced {
		out += "/namespaces/" + namespace
	}
	return out + "/" + r.Resource
}

// kind is the resource of a kind.
func (b *Bench) kind(gvk schema.GroupVersionKind) (resource, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, known := b.kinds[gvk]
	if !known {
		return resource{}, fmt.Errorf("the server does not know the kind %s", gvk)
	}
	return r, nil
}

// discover learns which kinds the server has.
func (b *Bench) discover() error {
	client, err := discovery.NewDiscoveryClientForConfig(b.config)
	if err != nil {
		return fmt.Errorf("ask the server for its kinds: %w", err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	// Some groups may be out of order; what is needed of them is missed later.
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return fmt.Errorf("ask the server for its kinds: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				b.subkinds[r.Kind] = true
			} else {
				b.kinds[group.WithKind(r.Kind)] = resource{group.WithResource(r.Name), r.Namespaced}
			}
		}
	}
	return nil
}

// place gives an object the namespace in which it stands when it names none.
func (b *Bench) place(object *unstructured.Unstructured) *unstructured.Unstructured {
	b.mu.Lock()
	r, known := b.kinds[object.GroupVersionKind()]
	b.mu.Unlock()
	switch {
	case !known:
	case r.namespaced && object.GetNamespace() == "":
		object = object.DeepCopy()
		object.SetNamespace("default")
	case !r.namespaced && object.GetNamespace() != "":
		object = object.DeepCopy()
		object.SetNamespace("")
	}
	return object
}

// learn makes the kinds that the server lacks, which take any content.
func (b *Bench) learn(ctx context.Context, objects []*unstructured.Unstructured, policies []*example.Policy) error {
	type family struct{ group, kind string }
	missing := map[family]*unstructured.Unstructured{}
	var order []family
	namespaced := map[family]bool{}
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		b.mu.Lock()
		_, known := b.kinds[gvk]
		b.mu.Unlock()
		if known || gvk.Group == "" || gvk.Kind == "" {
			continue
		}
		f := family{gvk.Group, gvk.Kind}
		if o.GetNamespace() != "" {
			namespaced[f] = true
		}
		if missing[f] == nil {
			missing[f] = b.definition(gvk, plural(gvk, policies))
			order = append(order, f)
		}
		addVersion(missing[f], gvk.Version)
	}
	if len(missing) == 0 {
		return nil
	}
	for _, f := range order {
		object := missing[f]
		scope := "Namespaced"
		if !namespaced[f] && strings.HasPrefix(f.kind, "Cluster") {
			scope = "Cluster"
		}
		_ = unstructured.SetNestedField(object.Object, scope, "spec", "scope")
		if err := b.create(ctx, object); err != nil {
			if apierrors.IsAlreadyExists(err) {
				continue // another version of a kind that is there: nothing that we could change
			}
			return fmt.Errorf("make the kind %s of %s, which the server does not know: %w", f.kind, f.group, err)
		}
		b.keep(object)
		name, _, _ := unstructured.NestedString(object.Object, "spec", "names", "plural")
		versions, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
		for _, v := range versions {
			fields, _ := v.(map[string]any)
			b.made = append(b.made, Kind{APIVersion: fmt.Sprintf("%s/%s", f.group, fields["name"]), Kind: f.kind, Plural: name, Namespaced: scope == "Namespaced"})
		}
	}
	return b.until(ctx, "the server serves the kinds that were made", func(context.Context) (bool, string, error) {
		if err := b.discover(); err != nil {
			return false, "", err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, o := range objects {
			gvk := o.GroupVersionKind()
			if _, known := b.kinds[gvk]; !known && missing[family{gvk.Group, gvk.Kind}] != nil {
				return false, gvk.String() + " is not there", nil
			}
		}
		return true, "", nil
	})
}

// plural is how policies call a kind, else how one would guess.
func plural(gvk schema.GroupVersionKind, policies []*example.Policy) string {
	guess, _ := meta.UnsafeGuessKindToResource(gvk)
	kind := strings.ToLower(gvk.Kind)
	for _, p := range policies {
		rules, _, _ := unstructured.NestedSlice(p.Object.Object, "spec", "matchConstraints", "resourceRules")
		for _, entry := range rules {
			rule, _ := entry.(map[string]any)
			groups, _, _ := unstructured.NestedStringSlice(rule, "apiGroups")
			names, _, _ := unstructured.NestedStringSlice(rule, "resources")
			if !slices.Contains(groups, gvk.Group) {
				continue
			}
			for _, name := range names {
				name, _, _ = strings.Cut(name, "/")
				if len(kind) > 2 && strings.HasPrefix(name, kind[:len(kind)-1]) && len(name) <= len(kind)+3 {
					return name
				}
			}
		}
	}
	return guess.Resource
}

func (b *Bench) definition(gvk schema.GroupVersionKind, plural string) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1",
		"kind":       "CustomResourceDefinition",
		"spec": map[string]any{
			"group":    gvk.Group,
			"names":    map[string]any{"kind": gvk.Kind, "plural": plural, "singular": strings.ToLower(gvk.Kind), "listKind": gvk.Kind + "List"},
			"versions": []any{},
		},
	}}
	out.SetName(plural + "." + gvk.Group)
	out.SetLabels(map[string]string{benchLabel: "true"})
	// Groups of Kubernetes' own are protected.
	out.SetAnnotations(map[string]string{"api-approved.kubernetes.io": "unapproved, made for a test"})
	return out
}

func addVersion(definition *unstructured.Unstructured, version string) {
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range versions {
		if fields, _ := v.(map[string]any); fields["name"] == version {
			return
		}
	}
	versions = append(versions, map[string]any{
		"name": version, "served": true, "storage": len(versions) == 0,
		"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
	})
	_ = unstructured.SetNestedSlice(definition.Object, versions, "spec", "versions")
}

// key names an object on the server.
func key(o *unstructured.Unstructured) string {
	return o.GroupVersionKind().GroupKind().String() + " " + o.GetNamespace() + "/" + o.GetName()
}

// create makes an object as an administrator whom no copy judges.
func (b *Bench) create(ctx context.Context, object *unstructured.Unstructured) error {
	return b.send(ctx, request{operation: opCreate, object: object, real: true}).err
}

func (b *Bench) get(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	kind, err := b.kind(object.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	got := b.persist(ctx, func(ctx context.Context) response {
		return b.once(ctx, b.client.Get().AbsPath(kind.path(object.GetNamespace()), object.GetName()).MaxRetries(0))
	})
	return got.object, got.err
}

func (b *Bench) patch(ctx context.Context, object *unstructured.Unstructured, body any) error {
	kind, err := b.kind(object.GroupVersionKind())
	if err != nil {
		return err
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return b.persist(ctx, func(ctx context.Context) response {
		return b.once(ctx, b.client.Patch(types.MergePatchType).AbsPath(kind.path(object.GetNamespace()), object.GetName()).MaxRetries(0).Body(data))
	}).err
}

// remove takes an object away; one that is gone is no error.
func (b *Bench) remove(ctx context.Context, object *unstructured.Unstructured) error {
	kind, err := b.kind(object.GroupVersionKind())
	if err != nil {
		return err
	}
	body := []byte(`{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"propagationPolicy":"Background"}`)
	got := b.persist(ctx, func(ctx context.Context) response {
		return b.once(ctx, b.client.Verb(http.MethodDelete).AbsPath(kind.path(object.GetNamespace()), object.GetName()).MaxRetries(0).Body(body))
	})
	if apierrors.IsNotFound(got.err) {
		return nil
	}
	if got.err != nil {
		return fmt.Errorf("remove %s %s: %w", object.GetKind(), object.GetName(), got.err)
	}
	return nil
}

// gone removes an object and waits until it is not there any more. Finalizers that
// nobody is there to honour are taken off.
func (b *Bench) gone(ctx context.Context, object *unstructured.Unstructured) error {
	if err := b.remove(ctx, object); err != nil {
		return err
	}
	return b.until(ctx, fmt.Sprintf("%s %s is gone", object.GetKind(), object.GetName()), func(ctx context.Context) (bool, string, error) {
		now, err := b.get(ctx, object)
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		if err != nil {
			return false, "", err
		}
		if len(now.GetFinalizers()) > 0 && object.GetKind() != "CustomResourceDefinition" {
			err := b.patch(ctx, object, map[string]any{"metadata": map[string]any{"finalizers": nil}})
			if err != nil && !apierrors.IsNotFound(err) {
				return false, "", err
			}
		}
		if object.GetKind() == "Namespace" {
			if err := b.finalize(ctx, now); err != nil {
				return false, "", err
			}
		}
		return false, fmt.Sprintf("it is still there, with the finalizers %v", now.GetFinalizers()), nil
	})
}

// finalize lets a namespace go without the controller that would empty it: what
// the bench made there is gone already.
func (b *Bench) finalize(ctx context.Context, namespace *unstructured.Unstructured) error {
	namespace = namespace.DeepCopy()
	unstructured.RemoveNestedField(namespace.Object, "spec", "finalizers")
	body, err := namespace.MarshalJSON()
	if err != nil {
		return err
	}
	got := b.persist(ctx, func(ctx context.Context) response {
		return b.once(ctx, b.client.Put().AbsPath("/api/v1/namespaces", namespace.GetName(), "finalize").MaxRetries(0).Body(body))
	})
	if apierrors.IsNotFound(got.err) || apierrors.IsConflict(got.err) {
		return nil
	}
	return got.err
}

// until waits for what must become true, within the bench's patience.
func (b *Bench) until(ctx context.Context, what string, done func(context.Context) (bool, string, error)) error {
	var seen string
	var failed error
	if b.within(ctx, b.options.Patience, func(ctx context.Context) (ok bool) {
		ok, seen, failed = done(ctx)
		return ok || failed != nil
	}) {
		return failed
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("wait until %s: %s: %w", what, seen, err)
	}
	return fmt.Errorf("wait until %s: after %s, %s", what, b.options.Patience, seen)
}

// keep remembers what Close has to remove.
func (b *Bench) keep(object *unstructured.Unstructured) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, object)
}

// wave is a world in which examples of several tests can stand together.
type wave struct {
	// namespaces have these labels; nil: those that they have without us.
	namespaces map[string]map[string]string
	// objects are there while the wave is asked, by their keys.
	objects map[string]*unstructured.Unstructured
	order   []string
	// users have these roles.
	users map[string]string
	tests map[*example.Test]bool
}

// waves puts tests into as few worlds as their statements allow.
func (b *Bench) waves(tests []*example.Test) []*wave {
	var out []*wave
	for _, t := range tests {
		namespaces, objects := b.needs(t)
		i := slices.IndexFunc(out, func(w *wave) bool { return w.fits(namespaces, objects) && w.knows(t.User) })
		if i < 0 {
			i = len(out)
			out = append(out, &wave{
				namespaces: map[string]map[string]string{}, objects: map[string]*unstructured.Unstructured{},
				users: map[string]string{}, tests: map[*example.Test]bool{},
			})
		}
		w := out[i]
		w.tests[t] = true
		if t.User != nil {
			w.users[t.User.Name] = rolesOf(t.User)
		}
		maps.Copy(w.namespaces, namespaces)
		for _, o := range objects {
			if w.objects[key(o)] == nil {
				w.objects[key(o)] = o
				w.order = append(w.order, key(o))
			}
		}
	}
	return out
}

func (w *wave) fits(namespaces map[string]map[string]string, objects []*unstructured.Unstructured) bool {
	for name, labels := range namespaces {
		if there, stated := w.namespaces[name]; stated && !maps.Equal(there, labels) {
			return false
		}
	}
	for _, o := range objects {
		if there := w.objects[key(o)]; there != nil && !equality.Semantic.DeepEqual(there.Object, o.Object) {
			return false
		}
	}
	return true
}

// knows says whether a user has the same roles here.
func (w *wave) knows(user *example.User) bool {
	if user == nil {
		return true
	}
	roles, there := w.users[user.Name]
	return !there || roles == rolesOf(user)
}

func rolesOf(user *example.User) string { return fmt.Sprintf("%q %q", user.Roles, user.ClusterRoles) }

// bindings are the roles that a test says its user is bound to, empty where they
// are not there, and what binds them.
func bindings(user *example.User) []*unstructured.Unstructured {
	if user == nil {
		return nil
	}
	var out []*unstructured.Unstructured
	bind := func(kind, namespace, role string) {
		object := func(kind, name string, fields map[string]any) {
			o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind}}
			maps.Copy(o.Object, fields)
			o.SetNamespace(namespace)
			o.SetName(name)
			out = append(out, o)
		}
		object(kind, role, map[string]any{"rules": []any{}})
		digest := sha256.Sum256(fmt.Append(nil, user.Name, "\n", role))
		object(kind+"Binding", "fpc-"+session+"-"+hex.EncodeToString(digest[:])[:8], map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user.Name}},
		})
	}
	for _, role := range user.ClusterRoles {
		bind("ClusterRole", "", role)
	}
	for _, role := range user.Roles {
		if namespace, name, ok := strings.Cut(role, ":"); ok {
			bind("Role", namespace, name)
		}
	}
	return out
}

// needs are the namespaces and objects of a test's world.
func (b *Bench) needs(t *example.Test) (map[string]map[string]string, []*unstructured.Unstructured) {
	namespaces := map[string]map[string]string{}
	var objects []*unstructured.Unstructured
	stand := func(name string) {
		if _, stated := namespaces[name]; !stated && name != "" {
			namespaces[name] = nil
		}
	}
	for name, labels := range t.Namespaces {
		namespaces[name] = labels
	}
	for _, list := range [][]*unstructured.Unstructured{bindings(t.User), t.Objects, t.Params} {
		for _, o := range list {
			o = b.place(o)
			if o.GetKind() == "Namespace" && o.GetAPIVersion() == "v1" {
				if _, stated := t.Namespaces[o.GetName()]; !stated {
					namespaces[o.GetName()] = o.GetLabels()
				}
				continue
			}
			stand(o.GetNamespace())
			objects = append(objects, o)
		}
	}
	for _, e := range t.Examples {
		if e.Object != nil {
			stand(b.place(e.Object).GetNamespace())
		}
	}
	return namespaces, objects
}

// enter makes a wave's world, and says how to leave it.
func (b *Bench) enter(ctx context.Context, w *wave) (leave func(context.Context) error, err error) {
	names := slices.Sorted(maps.Keys(w.namespaces))
	var group errgroup.Group
	group.SetLimit(mostWorkers)
	for _, name := range names {
		group.Go(func() error { return b.namespace(ctx, name, w.namespaces[name]) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	bearers := b.bearers(w)
	if err := b.ownRoles(ctx, bearers); err != nil {
		return nil, err
	}
	var made []*unstructured.Unstructured
	leave = func(ctx context.Context) error {
		for _, o := range slices.Backward(made) {
			if err := b.gone(ctx, o); err != nil {
				return err
			}
		}
		return nil
	}
	for _, k := range w.order {
		o := w.objects[k]
		switch err := b.create(ctx, o); {
		case apierrors.IsAlreadyExists(err):
		case err != nil:
			return leave, fmt.Errorf("make %s, which a test expects to be in the cluster: %w", k, err)
		default:
			made = append(made, o)
		}
	}
	b.enteredAt.Store(time.Now().UnixNano())
	return leave, b.noticeRoles(ctx, bearers)
}

// namespace makes a namespace with these labels; nil: with none, or those that it
// had before the bench came.
func (b *Bench) namespace(ctx context.Context, name string, labels map[string]string) error {
	b.mu.Lock()
	state, known := b.namespaces[name]
	b.mu.Unlock()
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	object.SetName(name)
	if !known {
		now, err := b.get(ctx, object)
		switch {
		case apierrors.IsNotFound(err):
			object.SetLabels(labels)
			if err := b.create(ctx, object); err != nil {
				return fmt.Errorf("make the namespace %s: %w", name, err)
			}
			state = namespaceState{now: labels}
			b.keep(object)
		case err != nil:
			return fmt.Errorf("look for the namespace %s: %w", name, err)
		default:
			state = namespaceState{now: now.GetLabels(), before: now.GetLabels(), found: true}
		}
		b.setNamespace(name, state)
	}
	want := maps.Clone(labels)
	if labels == nil && state.found {
		want = state.before
	}
	if sameLabels(name, state.now, want) {
		return nil
	}
	change := map[string]any{}
	for k := range state.now {
		if k != nameLabel {
			change[k] = nil
		}
	}
	for k, v := range want {
		change[k] = v
	}
	if err := b.patch(ctx, object, map[string]any{"metadata": map[string]any{"labels": change}}); err != nil {
		return fmt.Errorf("label the namespace %s as a test states: %w", name, err)
	}
	state.now, state.unseen = want, true
	b.setNamespace(name, state)
	return nil
}

func (b *Bench) setNamespace(name string, state namespaceState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.namespaces[name] = state
}

// nameLabel is one that the server itself gives to each namespace.
const nameLabel = "kubernetes.io/metadata.name"

func sameLabels(_ string, a, b map[string]string) bool {
	a, b = maps.Clone(a), maps.Clone(b)
	delete(a, nameLabel)
	delete(b, nameLabel)
	return len(a) == 0 && len(b) == 0 || maps.Equal(a, b)
}

// namespaceState is what is known of a namespace.
type namespaceState struct {
	now, before map[string]string
	// found: it was there before the bench came.
	found bool
	// unseen: its labels changed, and webhooks may not know it yet.
	unseen bool
}

// serve makes what a Pod of an example names: the server admits no Pod without.
func (b *Bench) serve(ctx context.Context, objects []*unstructured.Unstructured) error {
	wanted := map[string]*unstructured.Unstructured{}
	add := func(apiVersion, kind, namespace, name string, fields map[string]any) {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
		maps.Copy(o.Object, fields)
		o.SetName(name)
		o.SetNamespace(namespace)
		o.SetLabels(map[string]string{benchLabel: "true"})
		wanted[key(o)] = o
	}
	for _, o := range objects {
		if o.GetKind() != "Pod" || o.GetAPIVersion() != "v1" {
			continue
		}
		o = b.place(o)
		text := func(field string) string {
			value, _, _ := unstructured.NestedString(o.Object, "spec", field)
			return value
		}
		account := text("serviceAccountName")
		if account == "" {
			account = text("serviceAccount")
		}
		if account == "" {
			account = "default"
		}
		add("v1", "ServiceAccount", o.GetNamespace(), account, nil)
		if name := text("priorityClassName"); name != "" && !strings.HasPrefix(name, "system-") {
			value, found, _ := unstructured.NestedInt64(o.Object, "spec", "priority")
			if !found {
				value = 1000
			}
			add("scheduling.k8s.io/v1", "PriorityClass", "", name, map[string]any{"value": value})
		}
		if name := text("runtimeClassName"); name != "" {
			add("node.k8s.io/v1", "RuntimeClass", "", name, map[string]any{"handler": "runc"})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(wanted)) {
		b.mu.Lock()
		done := b.served[k]
		b.served[k] = true
		b.mu.Unlock()
		if done {
			continue
		}
		err := b.create(ctx, wanted[k])
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("make %s, which an example names: %w", k, err)
		}
		b.keep(wanted[k])
	}
	return nil
}

// store makes an object so that it can be updated or deleted, and returns it as the
// server has it, with what takes it away again. One that is there already is
// changed and then changed back.
func (b *Bench) store(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, func(context.Context) error, response) {
	got := b.send(ctx, request{operation: opCreate, object: object, real: true})
	if got.err == nil {
		return got.object, func(ctx context.Context) error { return b.gone(ctx, object) }, got
	}
	if !apierrors.IsAlreadyExists(got.err) {
		return nil, nil, got
	}
	before, err := b.get(ctx, object)
	if err != nil {
		return nil, nil, response{err: err, unavailable: true}
	}
	changed := object.DeepCopy()
	changed.SetResourceVersion(before.GetResourceVersion())
	got = b.send(ctx, request{operation: opUpdate, object: changed, real: true})
	if got.err != nil {
		return nil, nil, got
	}
	return got.object, func(ctx context.Context) error {
		back := before.DeepCopy()
		back.SetResourceVersion("")
		if err := b.send(ctx, request{operation: opUpdate, object: back, real: true}).err; err != nil {
			return fmt.Errorf("change %s back: %w", key(object), err)
		}
		return nil
	}, got
}
