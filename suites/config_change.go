package suites

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
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
	// figures are what else was measured; empty when nothing was.
	figures string
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
		x := newExperiment(r)
		x.attempt = x.round
		r.changed = x
		x.err = x.make(ctx, r.edits(x.found))
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
