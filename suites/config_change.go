package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
			note(fmt.Sprintf("ConfigMap after %.1f s, pod template after %.1f s; unasked within %s",
				f.configMap.Seconds(), f.template.Seconds(), f.patience))
		}
		for _, line := range f.once {
			note("seen once and not again: " + line)
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
	// once are changes that did not come again when the edit was made again: whoever
	// made them, it was not the edit.
	once []string
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
		// A spec that ends before the experiment does leaves no findings that others
		// could take for a result.
		x := &experiment{run: r, found: map[place]*finding{}, heads: map[string]string{}, err: errors.New("the values were not changed to the end")}
		x.attempt = x.round
		r.changed = x
		x.err = x.make(ctx)
	}
	return r.changed.found, r.changed.err
}

// edits lists what is to be changed, and fills in the places where nothing can
// be. They come in an order in which neighbours go together well.
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
	// Step by step another tenant's common value, and beside it, in each environment,
	// the own value of yet another tenant.
	for step := range names {
		for _, env := range r.environments {
			add(commonValue, env, names[step])
		}
		for i, env := range r.environments {
			add(ownValue, env, names[(step+1+i)%len(names)])
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

// together groups edits into rounds, one commit each. A round changes no tenant
// twice, no file twice, and in no environment more than half of the tenants, so
// that there are always others that must stay as they are, the same tenant in the
// other environments among them.
func together(edits []edit, tenants map[string]int) [][]edit {
	var out [][]edit
	for _, e := range edits {
		i := slices.IndexFunc(out, func(round []edit) bool {
			arriving := map[string]int{}
			for _, other := range round {
				if other.tenant == e.tenant || other.file == e.file && other.repository.Name == e.repository.Name {
					return false
				}
				for environment := range other.arrives {
					arriving[environment]++
				}
			}
			for environment := range e.arrives {
				if arriving[environment] >= max(1, (tenants[environment]+1)/2) {
					return false
				}
			}
			return true
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
	rounds  int
	// attempt makes a round of edits, and returns what they do not explain.
	attempt func(context.Context, []edit) ([]odd, error)
}

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
	tenants := map[string]int{}
	for _, env := range x.run.all {
		timeouts := x.run.timeouts
		tenants[env.Name] = len(env.Tenants)
		x.sites = append(x.sites, &site{env: env, settle: bootstrap.SettleInput{Client: env.client, Timeout: timeouts.BringUp, Stall: timeouts.Stall}})
	}
	if err := x.everywhere(ctx, func(ctx context.Context, s *site) error { return s.begin(ctx, watching) }); err != nil {
		return err
	}
	defer func() {
		// All is taken back also when somebody interrupts.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.run.timeouts.BringUp)
		defer cancel()
		err = errors.Join(err, x.takeBack(back))
	}()
	for _, round := range together(edits, tenants) {
		if err := x.judge(ctx, round, false); err != nil {
			return err
		}
	}
	return x.everywhere(ctx, x.newKinds)
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

// judge makes a round of edits. Where more has changed than they explain, they are
// made again, in halves, until it is known whose doing it is: what does not come
// again, like drift that a reconciliation has put right, is nobody's.
func (x *experiment) judge(ctx context.Context, edits []edit, again bool) error {
	strange, err := x.attempt(ctx, edits)
	if err != nil || len(strange) == 0 {
		return err
	}
	if len(edits) == 1 && again {
		for _, o := range strange {
			for _, f := range x.answers(edits[0], o.environment) {
				f.problems = append(f.problems, o.String())
			}
		}
		return nil
	}
	halves := [][]edit{edits}
	if len(edits) > 1 {
		halves = [][]edit{edits[:len(edits)/2], edits[len(edits)/2:]}
	}
	for _, half := range halves {
		if err := x.judge(ctx, half, true); err != nil {
			return err
		}
	}
	for _, o := range strange {
		var answers []*finding
		for _, e := range edits {
			answers = append(answers, x.answers(e, o.environment)...)
		}
		if slices.ContainsFunc(answers, func(f *finding) bool { return len(f.problems) > 0 }) {
			continue // it is known whose it is
		}
		for _, f := range answers {
			f.once = append(f.once, o.String())
		}
	}
	return nil
}

// odd is a change that no edit explains.
type odd struct{ environment, what string }

func (o odd) String() string { return fmt.Sprintf("in %s, %s", o.environment, o.what) }

// answers are the findings that an edit's effect in an environment belongs to: the
// one of that environment, or, where the edit does not arrive or is not judged
// there, those of the others.
func (x *experiment) answers(e edit, environment string) []*finding {
	var out []*finding
	for arrives := range e.arrives {
		f := x.found[place{e.check, arrives, e.tenant}]
		if f != nil && arrives == environment {
			return []*finding{f}
		}
		if f != nil {
			out = append(out, f)
		}
	}
	return out
}

// round commits the edits at once, takes down what has not come of them that must,
// and returns what else has changed.
func (x *experiment) round(ctx context.Context, edits []edit) (strange []odd, err error) {
	marks, err := x.commit(ctx, edits)
	if err != nil {
		return nil, err
	}
	committed := time.Now()
	var mu sync.Mutex
	err = x.everywhere(ctx, func(ctx context.Context, s *site) error {
		var here []edit
		for _, e := range edits {
			if _, arrives := e.arrives[s.env.Name]; arrives {
				here = append(here, e)
			}
		}
		delays, err := x.pass(ctx, s, here, marks, committed)
		if err != nil {
			return err
		}
		objects, before := s.objects, s.snapshot
		if err := s.look(ctx, false); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for i, e := range here {
			problems, more, err := s.arrived(ctx, e, objects, before, marks[e.file])
			if err != nil {
				return err
			}
			if f := x.found[place{e.check, s.env.Name, e.tenant}]; f != nil {
				f.problems, f.configMap, f.template = problems, delays[i].configMap, delays[i].template
			}
			strange = append(strange, more...)
		}
		strange = append(strange, s.unexplained(here, before)...)
		return nil
	})
	return strange, err
}

// commit appends a mark to each edit's file, and returns the marks by file.
func (x *experiment) commit(ctx context.Context, edits []edit) (map[string]string, error) {
	x.rounds++
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
		marks[e.file] = mark(e.file, content, x.rounds)
		if files[e.repository.Name] == nil {
			files[e.repository.Name] = map[string][]byte{}
		}
		files[e.repository.Name][e.file] = append(content, marks[e.file]...)
	}
	for name, changed := range files {
		repository, _ := x.run.view.State.Repository(name)
		change := bringup.AsChange(changed, repository.Tags, fmt.Sprintf("Change values for a check, round %d", x.rounds))
		if _, err := source.Commit(ctx, repository.Bare, repository.Branch, change); err != nil {
			return nil, err
		}
	}
	return marks, nil
}

// arrivalTime bounds how long a watch is behind what has been applied.
const arrivalTime = time.Second

// delay is how long an edit took; 0 where it was not seen to arrive.
type delay struct{ configMap, template time.Duration }

// pass has Flux look at the commit. An edit that should have arrived and has not
// gets a second chance: a controller may have read its cache a moment too early.
func (x *experiment) pass(ctx context.Context, s *site, here []edit, marks map[string]string, committed time.Time) ([]delay, error) {
	delays := make([]delay, len(here))
	for range 2 {
		if err := bootstrap.Propagate(ctx, s.settle, x.changed); err != nil {
			return nil, err
		}
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, arrivalTime, true, func(context.Context) (bool, error) {
			for i, e := range here {
				delays[i] = s.seen(e, marks[e.file], committed)
			}
			return !slices.ContainsFunc(delays, func(d delay) bool { return d.configMap == 0 || d.template == 0 }), nil
		})
		if err == nil || ctx.Err() != nil {
			return delays, context.Cause(ctx)
		}
	}
	return delays, nil
}

// unexplained lists what has changed in an environment and is not the work of the
// edits that arrived there: a ConfigMap and what runs with it, of that tenant.
func (s *site) unexplained(here []edit, before state.Snapshot) []odd {
	edited := func(owner string) bool {
		return slices.ContainsFunc(here, func(e edit) bool { return e.tenant == owner })
	}
	var out []odd
	for _, change := range state.Changes(before, s.snapshot) {
		kind, _, _ := strings.Cut(change.Object, " ")
		rolls := change.Derived || kind == configMap.Kind || slices.Contains(s.workloads, kind)
		for _, owner := range change.Owners {
			if rolls && edited(owner) || change.Derived && slices.Contains(s.moved, owner) {
				continue
			}
			out = append(out, odd{s.env.Name, change.String()})
			break
		}
	}
	for _, e := range here {
		s.moved = append(s.moved, e.tenant)
	}
	return out
}

// newKinds looks whether objects have come of a kind that was not there before,
// which the rounds have not listed.
func (x *experiment) newKinds(ctx context.Context, s *site) error {
	before := s.snapshot
	if err := s.look(ctx, true); err != nil {
		return err
	}
	for _, change := range state.Changes(before, s.snapshot) {
		kind, _, _ := strings.Cut(change.Object, " ")
		if slices.ContainsFunc(s.kinds, func(known schema.GroupVersionKind) bool { return known.Kind == kind }) {
			continue
		}
		for place, f := range x.found {
			if place.environment == s.env.Name && f.unsupported == "" {
				f.problems = append(f.problems, odd{s.env.Name, change.String()}.String())
			}
		}
	}
	return nil
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
