package suites

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// site is one environment during the experiment.
type site struct {
	env        *environment
	settle     bootstrap.SettleInput
	namespaces []string
	// tenants maps Kustomizations and HelmReleases to their tenants.
	tenants map[string]string
	// kinds are those of the objects that were in the namespaces at first, workloads
	// those of the tenants' that have pods.
	kinds     []schema.GroupVersionKind
	workloads []string
	// objects and snapshot are what was there when last looked at.
	objects  []*unstructured.Unstructured
	snapshot state.Snapshot
	// configMaps are those that were there at first.
	configMaps []client.ObjectKey
	// moved are the tenants whose pods a round has replaced, and perhaps still does.
	moved   []string
	lookout lookout
}

var configMap = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}

// begin looks at what is there and watches what will become of it.
func (s *site) begin(ctx, watching context.Context) error {
	s.tenants = appliers(s.env)
	kinds := []schema.GroupVersionKind{configMap}
	for _, tenant := range s.env.Tenants {
		if !slices.Contains(s.namespaces, tenant.TargetNamespace) {
			s.namespaces = append(s.namespaces, tenant.TargetNamespace)
		}
		for _, o := range tenant.Objects {
			if podTemplate(o.Unstructured) != "" && !slices.Contains(kinds, o.GroupVersionKind()) {
				kinds, s.workloads = append(kinds, o.GroupVersionKind()), append(s.workloads, o.GetKind())
			}
		}
	}
	if err := s.look(ctx, true); err != nil {
		return err
	}
	for _, o := range s.objects {
		// What comes and goes by itself is not recorded, and need not be listed.
		if !isNew(o, s.snapshot) && !slices.Contains(s.kinds, o.GroupVersionKind()) {
			s.kinds = append(s.kinds, o.GroupVersionKind())
		}
		if o.GroupVersionKind() == configMap {
			s.configMaps = append(s.configMaps, client.ObjectKeyFromObject(o))
		}
	}
	c, err := client.NewWithWatch(s.env.config, client.Options{Mapper: s.env.client.RESTMapper()})
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	for _, kind := range kinds {
		for _, namespace := range s.namespaces {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
			events, err := c.Watch(watching, list, client.InNamespace(namespace))
			if err != nil {
				return fmt.Errorf("watch %s in %s: %w", kind.Kind, namespace, err)
			}
			go s.lookout.keep(events)
		}
	}
	return nil
}

// look lists the objects of the namespaces: of all kinds, or of those that were
// there at first.
func (s *site) look(ctx context.Context, all bool) error {
	if all {
		var err error
		if s.objects, err = shared(ctx, s.env); err != nil {
			return err
		}
	} else {
		s.objects = nil
		for _, namespace := range s.namespaces {
			found, err := listAs(ctx, s.env, namespace, s.kinds...)
			if err != nil {
				return err
			}
			s.objects = append(s.objects, found...)
		}
	}
	s.snapshot = state.Record(s.objects, s.tenants)
	return nil
}

// tenantOf is the tenant that an object's labels say it was applied for.
func (s *site) tenantOf(o *unstructured.Unstructured) string { return s.tenants[state.Applier(o)] }

// holds says whether an object is a ConfigMap of the tenant that has the edit.
func (s *site) holds(o *unstructured.Unstructured, e edit, mark string) bool {
	if o.GroupVersionKind() != configMap || s.tenantOf(o) != e.tenant {
		return false
	}
	text, ok, _ := unstructured.NestedString(o.Object, "data", e.arrives[s.env.Name].Key)
	return ok && strings.HasSuffix(text, mark)
}

// isNew says whether a snapshot has nothing of that name.
func isNew(o *unstructured.Unstructured, before state.Snapshot) bool {
	_, there := before[fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())]
	return !there
}

// podTemplate is the pod template of an object as text; empty when it has none.
func podTemplate(o *unstructured.Unstructured) string {
	template, ok, _ := unstructured.NestedMap(o.Object, "spec", "template", "spec")
	if !ok {
		return ""
	}
	return fmt.Sprint(template)
}

// runs says whether an object of the tenant has a pod template that names a
// ConfigMap.
func (s *site) runs(o *unstructured.Unstructured, e edit, name string) bool {
	return s.tenantOf(o) == e.tenant && strings.Contains(podTemplate(o), name)
}

// seen is how long after the commit an edit gave what it must.
func (s *site) seen(e edit, mark string, committed time.Time) delay {
	var d delay
	made, at := s.lookout.first(committed, func(o *unstructured.Unstructured) bool { return s.holds(o, e, mark) && isNew(o, s.snapshot) })
	if made == nil {
		return d
	}
	d.configMap = at.Sub(committed)
	if template, at := s.lookout.first(committed, func(o *unstructured.Unstructured) bool { return s.runs(o, e, made.GetName()) }); template != nil {
		d.template = at.Sub(committed)
	}
	return d
}

// arrived says what an edit has not led to that it must, and what is odd about
// what it has led to.
func (s *site) arrived(ctx context.Context, e edit, objects []*unstructured.Unstructured, before state.Snapshot, mark string) (problems []string, strange []odd, err error) {
	key := e.arrives[s.env.Name].Key
	i := slices.IndexFunc(s.objects, func(o *unstructured.Unstructured) bool { return s.holds(o, e, mark) && isNew(o, before) })
	if i < 0 {
		if at := slices.IndexFunc(s.objects, func(o *unstructured.Unstructured) bool { return s.holds(o, e, mark) }); at >= 0 {
			return []string{fmt.Sprintf("ConfigMap %s has the changed %s under its old name: pods that run are not replaced", s.objects[at].GetName(), key)}, nil, nil
		}
		why, err := s.hindered(ctx, e.tenant)
		return append([]string{fmt.Sprintf("no new ConfigMap of %s holds the changed file as %s", e.tenant, key)}, why...), nil, err
	}
	made := s.objects[i]
	i = slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return s.tenantOf(o) == e.tenant && grew(o, made, key, mark) })
	if i < 0 {
		strange = append(strange, odd{s.env.Name, fmt.Sprintf("ConfigMap %s of %s holds more changes than that of its %s", made.GetName(), e.tenant, key)})
	}
	runs := false
	for _, o := range s.objects {
		if !s.runs(o, e, made.GetName()) || len(o.GetOwnerReferences()) > 0 {
			continue
		}
		runs = true
		at := slices.IndexFunc(objects, func(was *unstructured.Unstructured) bool { return was.GetUID() == o.GetUID() })
		if i >= 0 && at >= 0 && strings.ReplaceAll(podTemplate(objects[at]), objects[i].GetName(), made.GetName()) != podTemplate(o) {
			strange = append(strange, odd{s.env.Name, fmt.Sprintf("the pod template of %s %s of %s has changed in more than the ConfigMap's name", o.GetKind(), o.GetName(), e.tenant)})
		}
	}
	if !runs {
		problems = append(problems, fmt.Sprintf("no pod template of %s names the new ConfigMap %s", e.tenant, made.GetName()))
	}
	return problems, strange, nil
}

// grew says whether one ConfigMap is another with a mark at the end of a key.
func grew(was, is *unstructured.Unstructured, key, mark string) bool {
	if was.GroupVersionKind() != configMap {
		return false
	}
	old, _, _ := unstructured.NestedStringMap(was.Object, "data")
	data, _, _ := unstructured.NestedStringMap(is.Object, "data")
	if data[key] != old[key]+mark {
		return false
	}
	data[key] = old[key]
	return maps.Equal(old, data)
}

// hindered says which of a tenant's Flux objects a change does not pass.
func (s *site) hindered(ctx context.Context, name string) ([]string, error) {
	tenant := s.env.Tenant(name)
	own := map[bootstrap.Ref]bool{}
	for _, o := range tenant.Sources {
		own[refOf(o.Object)] = true
	}
	for _, o := range tenant.Kustomizations {
		own[refOf(o.Object)] = true
	}
	objects, err := bootstrap.Observe(ctx, s.env.client)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, o := range objects {
		if own[o.Ref] && o.Suspended {
			out = append(out, o.String()+" is suspended")
		}
	}
	for _, line := range bootstrap.Chain(objects, time.Now()) {
		for ref := range own {
			if strings.HasPrefix(line, ref.String()+" is not ready") {
				out = append(out, line)
			}
		}
	}
	return out, nil
}

// lookout takes down what a watch shows, with the time.
type lookout struct {
	mu        sync.Mutex
	sightings []sighting
}

type sighting struct {
	at     time.Time
	object *unstructured.Unstructured
}

// keep takes down what a watch shows until it ends.
func (l *lookout) keep(events watch.Interface) {
	defer events.Stop()
	for event := range events.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Deleted || event.Type == watch.Bookmark {
			continue
		}
		l.mu.Lock()
		l.sightings = append(l.sightings, sighting{time.Now(), object})
		l.mu.Unlock()
	}
}

// first finds the first object since then that is as wanted.
func (l *lookout) first(since time.Time, wanted func(*unstructured.Unstructured) bool) (*unstructured.Unstructured, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sightings {
		if s.at.After(since) && wanted(s.object) {
			return s.object, s.at
		}
	}
	return nil, time.Time{}
}
