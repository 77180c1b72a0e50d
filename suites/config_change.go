package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// The two checks that change values. One experiment answers for both, for all
// tenants and environments: it is made once, by the first spec that asks.
const (
	ownValue    = "CFG-003"
	commonValue = "CFG-004"
)

var _ = perTenant(check.Check{
	ID: ownValue,
	Title: "a changed value of one tenant in one environment gives that tenant a new ConfigMap and a new pod template there, " +
		"and nothing of anyone else's changes",
	Why: "developers change values, and nothing but a rollout of their own service may come of it: a change " +
		"that does not arrive is a value that nobody runs, and one that reaches another tenant or environment is an incident",
	Remedy: "where it does not arrive, see which of the tenant's sources is suspended or failing, and that the generated " +
		"ConfigMap has a hash suffix; where it reaches another, see what both draw on",
	Reference:  "https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/configmapgenerator/",
	Level:      check.Core,
	Disruptive: true,
}, changesOnly(ownValue))

var _ = perTenant(check.Check{
	ID: commonValue,
	Title: "a changed value that a tenant has in all its environments gives that tenant a new ConfigMap and a new pod template " +
		"in each, and nothing of anyone else's changes",
	Why: "what is common to all environments is changed once and must arrive in each: where one of them keeps the old " +
		"value, two environments that count as alike are not",
	Remedy: "where it does not arrive, see which of the tenant's sources is suspended, pinned or failing in that environment; " +
		"where it reaches another tenant, see what both draw on",
	Reference:  "https://fluxcd.io/flux/components/source/gitrepositories/#include",
	Level:      check.Core,
	Disruptive: true,
}, changesOnly(commonValue))

// changesOnly reports what the experiment found for one tenant in one environment.
func changesOnly(id string) func(SpecContext, *environment, *platform.Tenant) {
	return func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
		found, err := current.changeValues(ctx)
		Expect(err).NotTo(HaveOccurred())
		f := found[place{id, env.Name, tenant.Name}]
		Expect(f).NotTo(BeNil(), "no value of %s was changed in %s", tenant.Name, env.Name)
		if f.unsupported != "" {
			Skip(notSupported + f.unsupported)
		}
		if f.configMap > 0 && f.template > 0 {
			note(fmt.Sprintf("new ConfigMap after %.1f s, new pod template after %.1f s, when Flux is asked to look; "+
				"left to its intervals, within %s", f.configMap.Seconds(), f.template.Seconds(), f.patience))
		}
		expectNone(f.problems, "what is not as it should be after %s was changed", f.file)
	}
}

// place is what one outcome is about.
type place struct{ check, environment, tenant string }

// finding is what the experiment found for one outcome.
type finding struct {
	// unsupported says why the value cannot be changed here; empty when it was.
	unsupported string
	file        string
	problems    []string
	// configMap and template are how long the change took to give the new object,
	// counted from the commit; 0 when it did not, or was not seen doing so.
	configMap, template time.Duration
	// patience is how long it takes at most when nobody asks Flux to look.
	patience time.Duration
}

// edit is one value that is changed, and where that has to arrive.
type edit struct {
	check, tenant string
	// arrives maps the environments to the value there.
	arrives map[string]platform.Value
	// file of repository.
	file       string
	repository bringup.Repository
}

// changeValues changes the values of the selected tenants one after the other in
// the repositories that the session serves, and sees what comes of it in all
// environments of the session. All is taken back before it returns.
func (r *run) changeValues(ctx context.Context) (map[place]*finding, error) {
	if r.changed == nil {
		x := &experiment{run: r, found: map[place]*finding{}, heads: map[string]string{}}
		r.changed = x
		x.err = x.make(ctx)
	}
	return r.changed.found, r.changed.err
}

// edits lists what is to be changed, and fills in the places where nothing can
// be. They come in an order in which neighbours go together well: each of another
// environment and of another tenant.
func (r *run) edits(found map[place]*finding) []edit {
	var out []edit
	chosen := func(id string) bool {
		return slices.ContainsFunc(r.checks, func(c check.Check) bool { return c.ID == id })
	}
	add := func(id string, env *environment, name string) {
		tenant := env.Tenant(name)
		if tenant == nil || !chosen(id) {
			return
		}
		f := &finding{}
		found[place{id, env.Name, name}] = f
		value, reason := valueOf(env.view.Platform, env.Environment, tenant, id == commonValue)
		if reason == "" {
			reason = immovable(env.view, value)
		}
		if f.unsupported = reason; reason != "" {
			return
		}
		f.file, f.patience = value.File.Origin.File, patience(tenant, value)
		repository, _ := served(env.view, value.File)
		e := edit{check: id, tenant: name, file: f.file, repository: repository, arrives: map[string]platform.Value{env.Name: value}}
		if id == commonValue {
			if i := slices.IndexFunc(out, func(other edit) bool { return other.check == id && other.tenant == name }); i >= 0 {
				return // it was changed for another environment
			}
			for _, other := range r.all {
				if t := other.Tenant(name); t != nil {
					i := slices.IndexFunc(t.Values, func(v platform.Value) bool { return sameFile(v.File, value.File) })
					e.arrives[other.Name] = t.Values[i]
				}
			}
		}
		out = append(out, e)
	}
	var names []string
	for _, name := range r.view.Platform.TenantNames() {
		if r.selects(name) {
			names = append(names, name)
		}
	}
	for step := range max(len(names), len(r.environments)) {
		for i, env := range r.environments {
			if at := (step + i) % max(len(names), len(r.environments)); at < len(names) {
				add(ownValue, env, names[at])
			}
		}
	}
	for _, name := range names {
		for _, env := range r.environments {
			add(commonValue, env, name)
		}
	}
	return out
}

// valueOf finds a file of the developers that the tenant reads in this environment
// and in no other (or, common, in all that it is in), or says why there is none.
func valueOf(p *platform.Platform, env *platform.Environment, tenant *platform.Tenant, common bool) (platform.Value, string) {
	if len(tenant.Values) == 0 {
		return platform.Value{}, fmt.Sprintf("no ConfigMap of %s is generated from a file of the developers", tenant.Name)
	}
	environments := 0
	readers := func(file platform.File) (n int) {
		environments = 0
		for _, e := range p.Environments {
			t := e.Tenant(tenant.Name)
			if t == nil {
				continue
			}
			environments++
			if slices.ContainsFunc(t.Values, func(v platform.Value) bool { return sameFile(v.File, file) }) {
				n++
			}
		}
		return n
	}
	values := slices.SortedFunc(slices.Values(tenant.Values), func(a, b platform.Value) int {
		return cmp.Compare(a.File.Origin.File, b.File.Origin.File)
	})
	for _, value := range values {
		n := readers(value.File)
		if common && n == environments && n > 1 || !common && n == 1 {
			return value, ""
		}
	}
	switch {
	case !common:
		return platform.Value{}, fmt.Sprintf("each file of %s in %s is read in another environment too: no value is of this one alone", tenant.Name, env.Name)
	case environments == 1:
		return platform.Value{}, fmt.Sprintf("%s is in one environment only: no value is common", tenant.Name)
	}
	return platform.Value{}, fmt.Sprintf("no file is read by %s in all its environments: no value is common", tenant.Name)
}

func sameFile(a, b platform.File) bool {
	return a.Origin.Folder == b.Origin.Folder && a.Origin.File == b.Origin.File
}

// served finds the repository of the session that a file is of.
func served(view *bringup.View, file platform.File) (bringup.Repository, bool) {
	for name, folder := range view.Trees {
		if folder == file.Origin.Folder {
			return view.State.Repository(name)
		}
	}
	return bringup.Repository{}, false
}

// immovable says why a commit cannot change a value here.
func immovable(view *bringup.View, value platform.Value) string {
	repository, ok := served(view, value.File)
	if !ok {
		return fmt.Sprintf("%s is of %s, which this session does not serve from a folder", value.File.Origin, value.File.Origin.Repository)
	}
	if value.Source == nil {
		return fmt.Sprintf("no source of the tenant is known to bring %s", value.File.Origin)
	}
	// All tags that the platform asks for move with a commit, and one branch.
	ref := value.Source.Ref
	branch, named := strings.CutPrefix(ref.Name, "refs/heads/")
	if !named {
		branch = ref.Branch
	}
	switch {
	case ref.Commit != "":
		return fmt.Sprintf("%s is pinned to the commit %s: no change can arrive", value.Source.Object, ref.Commit)
	case ref.Tag == "" && ref.SemVer == "" && (ref.Name == "" || named) && cmp.Or(branch, "master") != repository.Branch:
		return fmt.Sprintf("%s follows the branch %s, and the session commits to %s only", value.Source.Object, cmp.Or(branch, "master"), repository.Branch)
	}
	return ""
}

// patience is how long a change takes at most when nobody asks Flux to look: the
// source looks at its interval, and whoever includes it at its own. A composed
// artifact keeps its revision, so that the Kustomization is not told of it.
func patience(tenant *platform.Tenant, value platform.Value) time.Duration {
	interval := func(o platform.Object) time.Duration {
		text, _, _ := unstructured.NestedString(o.Object, "spec", "interval")
		d, _ := time.ParseDuration(text)
		return d
	}
	out := interval(value.Source.Object)
	for _, k := range tenant.Kustomizations {
		if !slices.ContainsFunc(k.Objects, func(o platform.Object) bool { return o.GetKind() == "ConfigMap" && o.GetName() == value.ConfigMap }) {
			continue
		}
		for at := value.Source; at != k.Source; {
			i := slices.IndexFunc(tenant.Sources, func(s *platform.Source) bool {
				return slices.ContainsFunc(s.Include, func(include platform.Include) bool { return include.Source == at })
			})
			if i < 0 || tenant.Sources[i] == at {
				break
			}
			at = tenant.Sources[i]
			out += interval(at.Object)
			if at == k.Source {
				out += k.Spec.Interval.Duration
			}
		}
		break
	}
	return out
}

// together groups edits into rounds, one commit each: in a round at most one of
// them arrives in each environment, and no tenant has two, so that what changes is
// known to be of one, or of none.
func together(edits []edit) [][]edit {
	var out [][]edit
	for _, e := range edits {
		i := slices.IndexFunc(out, func(round []edit) bool {
			return !slices.ContainsFunc(round, func(other edit) bool {
				for environment := range other.arrives {
					if _, both := e.arrives[environment]; both {
						return true
					}
				}
				return other.tenant == e.tenant
			})
		})
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], e)
	}
	return out
}

// mark is what a round appends to a file: other bytes that mean the same.
func mark(file string, content []byte, round int) string {
	if extension := path.Ext(file); extension != ".yaml" && extension != ".yml" {
		return "\n"
	}
	text := fmt.Sprintf("# changed by the conformance check, round %d\n", round)
	if len(content) > 0 && content[len(content)-1] != '\n' {
		text = "\n" + text
	}
	return text
}

// experiment changes values and sees what comes of it.
type experiment struct {
	run   *run
	err   error
	found map[place]*finding
	sites []*site
	// heads are the revisions to go back to, by repository.
	heads map[string]string
	// changed says which sources may have changed.
	changed func(url string) bool
}

// site is one environment during the experiment.
type site struct {
	env        *environment
	settle     bootstrap.SettleInput
	namespaces []string
	// tenants maps a Kustomization (namespace/name) to its tenant.
	tenants map[string]string
	// kinds are those of the objects in the namespaces.
	kinds []schema.GroupVersionKind
	// objects and snapshot are what was there before the present round.
	objects  []*unstructured.Unstructured
	snapshot state.Snapshot
	// configMaps are the names of those that were there at first.
	configMaps []client.ObjectKey
	// moved are the tenants whose pods an earlier round has replaced.
	moved   []string
	lookout lookout
}

// make runs the experiment.
func (x *experiment) make(ctx context.Context) (err error) {
	edits := x.run.edits(x.found)
	if len(edits) == 0 {
		return nil
	}
	x.changed = func(address string) bool {
		return slices.ContainsFunc(edits, func(e edit) bool { return platform.SameRepository(e.repository.URL, address) })
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for _, env := range x.run.all {
		timeouts := x.run.timeouts
		x.sites = append(x.sites, &site{env: env, settle: bootstrap.SettleInput{Client: env.client, Timeout: timeouts.BringUp, Stall: timeouts.Stall}})
	}
	// What has drifted is put right before anything is changed: else the first
	// commit would seem to have done it.
	err = x.everywhere(ctx, func(ctx context.Context, s *site) error {
		if err := bootstrap.Propagate(ctx, s.settle, x.changed); err != nil {
			return err
		}
		return s.begin(ctx, watching)
	})
	if err != nil {
		return err
	}
	defer func() {
		// All is taken back also when somebody interrupts.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.run.timeouts.BringUp)
		defer cancel()
		err = errors.Join(err, x.takeBack(back))
	}()
	rounds := together(edits)
	for i, round := range rounds {
		if err := x.round(ctx, round, i+1, i == len(rounds)-1); err != nil {
			return err
		}
	}
	return nil
}

// everywhere does something in all environments of the session at once.
func (x *experiment) everywhere(ctx context.Context, do func(context.Context, *site) error) error {
	group, running := errgroup.WithContext(ctx)
	for _, s := range x.sites {
		group.Go(func() error {
			if err := do(running, s); err != nil {
				return fmt.Errorf("environment %s: %w", s.env.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// round commits the edits at once and judges what came of it.
func (x *experiment) round(ctx context.Context, edits []edit, number int, last bool) error {
	marks, err := x.commit(ctx, edits, number)
	if err != nil {
		return err
	}
	committed := time.Now()
	var mu sync.Mutex
	return x.everywhere(ctx, func(ctx context.Context, s *site) error {
		var here *edit
		for i := range edits {
			if _, arrives := edits[i].arrives[s.env.Name]; arrives {
				here = &edits[i]
			}
		}
		arrival, err := x.pass(ctx, s, here, marks, committed)
		if err != nil {
			return err
		}
		before := s.snapshot
		if err := s.look(ctx, last); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if here != nil {
			if f := x.found[place{here.check, s.env.Name, here.tenant}]; f != nil {
				f.configMap, f.template = arrival.configMap, arrival.template
				problems, err := s.arrived(ctx, *here, before, marks[here.file])
				if err != nil {
					return err
				}
				f.problems = append(f.problems, problems...)
			}
		}
		x.blame(s, edits, here, before)
		return nil
	})
}

// commit appends a mark to each edit's file, and returns the marks by file.
func (x *experiment) commit(ctx context.Context, edits []edit, number int) (map[string]string, error) {
	marks := map[string]string{}
	files := map[string]map[string][]byte{}
	for _, e := range edits {
		head, err := source.Head(ctx, e.repository.Bare, e.repository.Branch)
		if err != nil {
			return nil, err
		}
		if x.heads[e.repository.Name] == "" {
			x.heads[e.repository.Name] = head
		}
		content, err := source.ReadFile(ctx, e.repository.Bare, head, e.file)
		if err != nil {
			return nil, err
		}
		marks[e.file] = mark(e.file, content, number)
		if files[e.repository.Name] == nil {
			files[e.repository.Name] = map[string][]byte{}
		}
		files[e.repository.Name][e.file] = append(content, marks[e.file]...)
	}
	for name, changed := range files {
		repository, _ := x.run.view.State.Repository(name)
		change := bringup.AsChange(changed, repository.Tags, fmt.Sprintf("Change values for a check, round %d", number))
		if _, err := source.Commit(ctx, repository.Bare, repository.Branch, change); err != nil {
			return nil, err
		}
	}
	return marks, nil
}

// arrivalTime bounds how long a watch is behind what has been applied.
const arrivalTime = time.Second

// arrival is how long an edit took.
type arrival struct{ configMap, template time.Duration }

// pass has Flux look at the commit. An edit that should have arrived and has not
// gets a second chance: a controller may have read its cache a moment too early.
func (x *experiment) pass(ctx context.Context, s *site, here *edit, marks map[string]string, committed time.Time) (arrival, error) {
	var a arrival
	for range 2 {
		if err := bootstrap.Propagate(ctx, s.settle, x.changed); err != nil {
			return a, err
		}
		if here == nil {
			return a, nil
		}
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, arrivalTime, true, func(context.Context) (bool, error) {
			a = s.seen(*here, marks[here.file], committed)
			return a.configMap > 0 && a.template > 0, nil
		})
		if err == nil || ctx.Err() != nil {
			return a, context.Cause(ctx)
		}
	}
	return a, nil
}

// blame adds what has changed in an environment and should not have. It is the
// doing of the edit that arrived there, or, where none did, of any of the round.
func (x *experiment) blame(s *site, edits []edit, here *edit, before state.Snapshot) {
	suspects := edits
	if here != nil {
		suspects = []edit{*here}
	}
	for _, change := range state.Changes(before, s.snapshot) {
		if !slices.ContainsFunc(change.Owners, func(owner string) bool {
			return (here == nil || owner != here.tenant) && (!change.Derived || !slices.Contains(s.moved, owner))
		}) {
			continue
		}
		for _, e := range suspects {
			for _, f := range x.answers(e, s.env.Name) {
				f.problems = append(f.problems, fmt.Sprintf("in %s, %s", s.env.Name, change))
			}
		}
	}
	if here != nil {
		s.moved = append(s.moved, here.tenant)
	}
}

// answers are the findings that an edit's effect in an environment belongs to: the
// one of that environment, or, where that is not judged, those of the others.
func (x *experiment) answers(e edit, environment string) []*finding {
	if f := x.found[place{e.check, environment, e.tenant}]; f != nil && f.unsupported == "" {
		return []*finding{f}
	}
	var out []*finding
	for arrives := range e.arrives {
		if f := x.found[place{e.check, arrives, e.tenant}]; f != nil {
			out = append(out, f)
		}
	}
	return out
}

// takeBack lets the repositories be as they were, and waits until the clusters
// are so too.
func (x *experiment) takeBack(ctx context.Context) error {
	var errs []error
	for name, head := range x.heads {
		repository, _ := x.run.view.State.Repository(name)
		_, err := source.Reset(ctx, repository.Bare, repository.Branch, head, repository.Tags...)
		errs = append(errs, err)
	}
	if len(x.heads) == 0 {
		return nil
	}
	err := x.everywhere(ctx, func(ctx context.Context, s *site) error {
		var missing []string
		for range 2 {
			if _, err := bootstrap.Refresh(ctx, s.settle, x.changed); err != nil {
				return err
			}
			missing = nil
			for _, key := range s.configMaps {
				object := &unstructured.Unstructured{}
				object.SetGroupVersionKind(configMap)
				err := s.env.client.Get(ctx, key, object)
				if client.IgnoreNotFound(err) != nil {
					return fmt.Errorf("read ConfigMap %s: %w", key, err)
				}
				if err != nil {
					missing = append(missing, key.String())
				}
			}
			if len(missing) == 0 {
				return nil
			}
		}
		return fmt.Errorf("the values were taken back, and these ConfigMaps are not there again: %s", strings.Join(missing, ", "))
	})
	return errors.Join(append(errs, err)...)
}

var configMap = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}

// begin looks at what is there and watches what will become of it.
func (s *site) begin(ctx, watching context.Context) error {
	s.tenants = map[string]string{}
	kinds := []schema.GroupVersionKind{configMap}
	for _, tenant := range s.env.Tenants {
		if !slices.Contains(s.namespaces, tenant.TargetNamespace) {
			s.namespaces = append(s.namespaces, tenant.TargetNamespace)
		}
		for _, k := range tenant.Kustomizations {
			s.tenants[k.GetNamespace()+"/"+k.GetName()] = tenant.Name
		}
		for _, o := range tenant.Objects {
			if podTemplate(o.Unstructured) != "" && !slices.Contains(kinds, o.GroupVersionKind()) {
				kinds = append(kinds, o.GroupVersionKind())
			}
		}
	}
	if err := s.look(ctx, true); err != nil {
		return err
	}
	for _, o := range s.objects {
		if !slices.Contains(s.kinds, o.GroupVersionKind()) {
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
		for _, kind := range s.kinds {
			for _, namespace := range s.namespaces {
				list := &unstructured.UnstructuredList{}
				list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
				if err := s.env.client.List(ctx, list, client.InNamespace(namespace)); err != nil {
					return fmt.Errorf("list %s in %s: %w", kind.Kind, namespace, err)
				}
				for i := range list.Items {
					s.objects = append(s.objects, &list.Items[i])
				}
			}
		}
	}
	s.snapshot = state.Record(s.objects, s.tenants)
	return nil
}

// tenantOf is the tenant whose Kustomization applied an object.
func (s *site) tenantOf(o *unstructured.Unstructured) string {
	labels := o.GetLabels()
	return s.tenants[labels["kustomize.toolkit.fluxcd.io/namespace"]+"/"+labels["kustomize.toolkit.fluxcd.io/name"]]
}

// holds says whether an object is a ConfigMap of the tenant that has the edit.
func (s *site) holds(o *unstructured.Unstructured, e edit, mark string) bool {
	if o.GroupVersionKind() != configMap || s.tenantOf(o) != e.tenant {
		return false
	}
	text, ok, _ := unstructured.NestedString(o.Object, "data", e.arrives[s.env.Name].Key)
	return ok && strings.HasSuffix(text, mark)
}

// isNew says whether nothing of that name was there before the round.
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
func (s *site) seen(e edit, mark string, committed time.Time) arrival {
	var a arrival
	made, at := s.lookout.first(committed, func(o *unstructured.Unstructured) bool { return s.holds(o, e, mark) && isNew(o, s.snapshot) })
	if made == nil {
		return a
	}
	a.configMap = at.Sub(committed)
	if template, at := s.lookout.first(committed, func(o *unstructured.Unstructured) bool { return s.runs(o, e, made.GetName()) }); template != nil {
		a.template = at.Sub(committed)
	}
	return a
}

// arrived says what is wrong with what an edit has led to.
func (s *site) arrived(ctx context.Context, e edit, before state.Snapshot, mark string) ([]string, error) {
	key := e.arrives[s.env.Name].Key
	i := slices.IndexFunc(s.objects, func(o *unstructured.Unstructured) bool { return s.holds(o, e, mark) && isNew(o, before) })
	if i < 0 {
		if old := slices.IndexFunc(s.objects, func(o *unstructured.Unstructured) bool { return s.holds(o, e, mark) }); old >= 0 {
			return []string{fmt.Sprintf("ConfigMap %s has the changed %s under its old name: pods that run are not replaced", s.objects[old].GetName(), key)}, nil
		}
		why, err := s.hindered(ctx, e.tenant)
		return append([]string{fmt.Sprintf("no new ConfigMap of %s holds the changed file as %s", e.tenant, key)}, why...), err
	}
	name := s.objects[i].GetName()
	if !slices.ContainsFunc(s.objects, func(o *unstructured.Unstructured) bool { return s.runs(o, e, name) && len(o.GetOwnerReferences()) == 0 }) {
		return []string{fmt.Sprintf("no pod template of %s names the new ConfigMap %s", e.tenant, name)}, nil
	}
	return nil, nil
}

// hindered says which of a tenant's Flux objects a change does not pass.
func (s *site) hindered(ctx context.Context, name string) ([]string, error) {
	tenant := s.env.Tenant(name)
	own := map[bootstrap.Ref]bool{}
	for _, o := range tenant.Sources {
		own[bootstrap.Ref{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}] = true
	}
	for _, o := range tenant.Kustomizations {
		own[bootstrap.Ref{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}] = true
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
	objects = slices.DeleteFunc(objects, func(o bootstrap.Object) bool { return !own[o.Ref] || o.Suspended })
	return append(out, bootstrap.Chain(objects, time.Now())...), nil
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
