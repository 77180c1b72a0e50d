package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// values is a platform whose tenants read a common file and one of their own.
func values(environments, tenants []string) *platform.Platform {
	p := &platform.Platform{}
	for _, e := range environments {
		env := &platform.Environment{Name: e}
		for _, t := range tenants {
			file := func(name string) platform.Value {
				return platform.Value{
					ConfigMap: e + "-" + t, Key: name,
					Source: &platform.Source{Object: platform.Object{Unstructured: &unstructured.Unstructured{}}, Ref: platform.Ref{Branch: "main"}},
					File:   platform.File{Origin: platform.Origin{Folder: "/values", File: name + "/" + t + ".yaml"}},
				}
			}
			env.Tenants = append(env.Tenants, &platform.Tenant{Name: t, Values: []platform.Value{file(e), file("base")}})
		}
		p.Environments = append(p.Environments, env)
	}
	return p
}

func runOn(p *platform.Platform) *run {
	view := &bringup.View{
		Platform: p, Trees: map[string]string{"developer": "/values"},
		State: bringup.State{Repositories: []bringup.Repository{{Name: "developer", Branch: "main"}}},
	}
	r := &run{view: view, checks: []check.Check{{ID: ownValue}, {ID: commonValue}}}
	for _, e := range p.Environments {
		r.all = append(r.all, &environment{Environment: e, view: view})
	}
	r.environments = r.all
	return r
}

func TestValueOf(t *testing.T) {
	p := values([]string{"dev", "prd"}, []string{"beetle"})
	dev, beetle := p.Environments[0], p.Environments[0].Tenants[0]
	alone := values([]string{"dev"}, []string{"beetle"})
	shared := values([]string{"dev", "prd"}, []string{"beetle"})
	shared.Environments[1].Tenants[0].Values = shared.Environments[0].Tenants[0].Values
	apart := values([]string{"dev", "prd"}, []string{"beetle"})
	apart.Environments[1].Tenants[0].Values = apart.Environments[1].Tenants[0].Values[:1]
	for _, row := range []struct {
		name         string
		p            *platform.Platform
		env          *platform.Environment
		tenant       *platform.Tenant
		common       bool
		file, reason string
	}{
		{"its own", p, dev, beetle, false, "dev/beetle.yaml", ""},
		{"the common one", p, dev, beetle, true, "base/beetle.yaml", ""},
		{"no file at all", p, dev, &platform.Tenant{Name: "beetle"}, false, "", "no ConfigMap of beetle is generated from a file of the developers"},
		{"one environment only", alone, alone.Environments[0], alone.Environments[0].Tenants[0], true, "", "beetle is in one environment only: no value is common"},
		{"all files are common", shared, shared.Environments[0], shared.Environments[0].Tenants[0], false, "", "each file of beetle in dev is read in another environment too: no value is of this one alone"},
		{"no file is common", apart, apart.Environments[0], apart.Environments[0].Tenants[0], true, "", "no file is read by beetle in all its environments: no value is common"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			value, reason := valueOf(row.p, row.env, row.tenant, row.common)
			g.Expect(value.File.Origin.File).To(Equal(row.file))
			g.Expect(reason).To(Equal(row.reason))
		})
	}
}

func TestImmovable(t *testing.T) {
	view := runOn(values([]string{"dev"}, []string{"beetle"})).view
	for _, row := range []struct {
		name string
		ref  platform.Ref
		want string
	}{
		{"the branch", platform.Ref{Branch: "main"}, ""},
		{"a tag", platform.Ref{Tag: "v1.0.0"}, ""},
		{"a range of tags", platform.Ref{SemVer: "1.x"}, ""},
		{"a tag by its full name", platform.Ref{Name: "refs/tags/v1"}, ""},
		{"the branch by its full name", platform.Ref{Name: "refs/heads/main"}, ""},
		{"another branch", platform.Ref{Branch: "next"}, "GitRepository beetle/developer follows the branch next, and the session commits to main only"},
		{"another branch by its full name", platform.Ref{Name: "refs/heads/next"}, "GitRepository beetle/developer follows the branch next, and the session commits to main only"},
		{"what Flux takes when nothing is said", platform.Ref{}, "GitRepository beetle/developer follows the branch master, and the session commits to main only"},
		{"a commit", platform.Ref{Branch: "main", Commit: "c0ffee"}, "GitRepository beetle/developer is pinned to the commit c0ffee: no change can arrive"},
	} {
		t.Run(row.name, func(t *testing.T) {
			value := view.Platform.Environments[0].Tenants[0].Values[0]
			value.Source = &platform.Source{Ref: row.ref, Object: declared(t, "", "{kind: GitRepository, metadata: {namespace: beetle, name: developer}}")}
			NewWithT(t).Expect(immovable(view, value)).To(Equal(row.want))
		})
	}
	g := NewWithT(t)
	elsewhere := platform.Value{File: platform.File{Origin: platform.Origin{Repository: "https://example.org/x", Folder: "/x", File: "a.yaml"}}}
	g.Expect(immovable(view, elsewhere)).To(Equal("a.yaml is of https://example.org/x, which this session does not serve from a folder"))
	elsewhere.File.Origin.Folder = "/values"
	g.Expect(immovable(view, elsewhere)).To(Equal("no source of the tenant is known to bring a.yaml"))
}

// Every value is changed, in few rounds however many there are, and each round
// leaves others as they are.
func TestTogether(t *testing.T) {
	names := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("t%03d", i))
		}
		return out
	}
	for _, row := range []struct{ environments, tenants, rounds int }{
		{1, 1, 1}, {2, 1, 3}, {2, 2, 4}, {2, 3, 3}, {3, 3, 4}, {2, 4, 4}, {2, 10, 5}, {2, 1000, 5},
	} {
		t.Run(fmt.Sprintf("%d environments, %d tenants", row.environments, row.tenants), func(t *testing.T) {
			g := NewWithT(t)
			r := runOn(values(names(row.environments), names(row.tenants)))
			found := map[place]*finding{}
			edits := r.edits(found)
			g.Expect(found).To(HaveLen(2 * row.environments * row.tenants))
			limits := map[string]int{}
			for _, e := range r.all {
				limits[e.Name] = row.tenants
			}
			rounds := together(edits, limits)
			count := len(rounds) // a failure that showed all of them would be read by nobody
			g.Expect(count).To(Equal(row.rounds))
			made := map[place]int{}
			for _, round := range rounds {
				arriving, tenants := map[string]int{}, []string{}
				for _, e := range round {
					g.Expect(tenants).NotTo(ContainElement(e.tenant), "no tenant twice")
					tenants = append(tenants, e.tenant)
					for environment := range e.arrives {
						made[place{e.check, environment, e.tenant}]++
						arriving[environment]++
					}
				}
				for _, n := range arriving {
					g.Expect(n).To(BeNumerically("<=", max(1, (row.tenants+1)/2)))
				}
			}
			for at, f := range found {
				want := 1
				if f.unsupported != "" {
					want = 0
				}
				g.Expect(made[at]).To(Equal(want), "%v", at)
			}
		})
	}
	t.Run("one file of two tenants", func(t *testing.T) {
		both := []edit{{tenant: "a", file: "x"}, {tenant: "b", file: "x"}, {tenant: "c", file: "y"}}
		NewWithT(t).Expect(together(both, nil)).To(HaveLen(2))
	})
}

func TestEditsOfASelection(t *testing.T) {
	g := NewWithT(t)
	r := runOn(values([]string{"dev", "prd"}, []string{"beetle", "sonar"}))
	r.environments, r.tenants = r.all[:1], []string{"sonar"}
	found := map[place]*finding{}
	edits := r.edits(found)
	g.Expect(edits).To(HaveLen(2))
	for _, e := range edits {
		g.Expect(e.tenant).To(Equal("sonar"))
	}
	common := edits[slices.IndexFunc(edits, func(e edit) bool { return e.check == commonValue })]
	g.Expect(common.arrives).To(HaveLen(2), "it arrives where nobody judges it, too")
	x := &experiment{found: found}
	g.Expect(x.answers(common, "prd")).To(ConsistOf(found[place{commonValue, "dev", "sonar"}]), "what it does there is told where it is judged")
	r.checks = r.checks[:1]
	for _, e := range r.edits(map[place]*finding{}) {
		g.Expect(e.check).To(Equal(ownValue))
	}
}

// What more has changed than is explained is laid to the edit that does it again.
func TestJudgeFindsWhoseDoingItIs(t *testing.T) {
	newExperiment := func() (*experiment, []edit) {
		r := runOn(values([]string{"dev", "prd"}, []string{"beetle", "sonar", "tiger"}))
		x := &experiment{found: map[place]*finding{}}
		return x, together(r.edits(x.found), map[string]int{"dev": 3, "prd": 3})[0]
	}
	told := func(x *experiment, of func(*finding) []string) map[place][]string {
		out := map[place][]string{}
		for at, f := range x.found {
			if lines := of(f); len(lines) > 0 {
				out[at] = lines
			}
		}
		return out
	}
	problems := func(f *finding) []string { return f.problems }
	once := func(f *finding) []string { return f.once }
	strange := []odd{{"prd", "Service apps/x of sonar is gone"}}
	t.Run("nothing", func(t *testing.T) {
		g := NewWithT(t)
		x, edits := newExperiment()
		x.attempt = func(context.Context, []edit) ([]odd, error) { return nil, nil }
		g.Expect(x.judge(t.Context(), edits, false)).To(Succeed())
		g.Expect(told(x, problems)).To(BeEmpty())
	})
	for i := range 3 {
		t.Run(fmt.Sprintf("edit %d does it", i), func(t *testing.T) {
			g := NewWithT(t)
			x, edits := newExperiment()
			g.Expect(edits).To(HaveLen(3))
			culprit := edits[i]
			x.attempt = func(_ context.Context, made []edit) ([]odd, error) {
				if slices.ContainsFunc(made, func(e edit) bool { return e.check == culprit.check && e.tenant == culprit.tenant }) {
					return strange, nil
				}
				return nil, nil
			}
			g.Expect(x.judge(t.Context(), edits, false)).To(Succeed())
			// In production where the edit arrives there, else where it was made.
			environment := "prd"
			if _, arrives := culprit.arrives[environment]; !arrives {
				environment = "dev"
			}
			g.Expect(told(x, problems)).To(Equal(map[place][]string{
				{culprit.check, environment, culprit.tenant}: {"in prd, Service apps/x of sonar is gone"},
			}))
			g.Expect(told(x, once)).To(BeEmpty())
		})
	}
	t.Run("it does not come again", func(t *testing.T) {
		g := NewWithT(t)
		x, edits := newExperiment()
		attempts := 0
		x.attempt = func(context.Context, []edit) ([]odd, error) {
			if attempts++; attempts == 1 {
				return strange, nil
			}
			return nil, nil
		}
		g.Expect(x.judge(t.Context(), edits[:1], false)).To(Succeed())
		g.Expect(attempts).To(Equal(2), "an edit alone is made again, too")
		g.Expect(told(x, problems)).To(BeEmpty())
		g.Expect(told(x, once)).To(HaveLen(1))
	})
	t.Run("a round that cannot be made", func(t *testing.T) {
		x, edits := newExperiment()
		x.attempt = func(context.Context, []edit) ([]odd, error) { return nil, errors.New("no API server") }
		NewWithT(t).Expect(x.judge(t.Context(), edits, false)).To(MatchError("no API server"))
	})
}

func TestMark(t *testing.T) {
	for _, row := range []struct{ name, file, content, want string }{
		{"a comment", "dev/config.yaml", "a: 1\n", "# changed by the conformance check, round 2\n"},
		{"after a last line without an end", "dev/config.yml", "a: 1", "\n# changed by the conformance check, round 2\n"},
		{"an empty file", "dev/config.yaml", "", "# changed by the conformance check, round 2\n"},
		{"a format that may know no comments", "dev/config.json", "{}", "\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(mark(row.file, []byte(row.content), 2)).To(Equal(row.want))
		})
	}
	for _, content := range []string{"a: |\n  text\n", "a: |+\n  text\n\n", "a: >-\n  text", "- {a: 1}", "a: 1\n...\n"} {
		g := NewWithT(t)
		var before, after any
		g.Expect(yaml.Unmarshal([]byte(content), &before)).To(Succeed())
		g.Expect(yaml.Unmarshal([]byte(content+mark("x.yaml", []byte(content), 1)), &after)).To(Succeed())
		g.Expect(after).To(Equal(before), content)
	}
}

// Of a composed artifact nobody is told: its Kustomization looks at its interval.
func TestPatience(t *testing.T) {
	g := NewWithT(t)
	value := platform.Value{ConfigMap: "c", Source: &platform.Source{Object: declared(t, "", "{kind: GitRepository, spec: {interval: 1m}}")}}
	composed := &platform.Source{
		Object:  declared(t, "", "{kind: GitRepository, spec: {interval: 2m}}"),
		Include: []platform.Include{{Source: value.Source}},
	}
	k := &platform.Kustomization{Source: composed, Objects: []platform.Object{declared(t, "", "{kind: ConfigMap, metadata: {name: c}}")}}
	k.Spec.Interval.Duration = 10 * time.Minute
	tenant := &platform.Tenant{Kustomizations: []*platform.Kustomization{{}, k}, Sources: []*platform.Source{composed, value.Source}}
	g.Expect(patience(tenant, value)).To(Equal(13 * time.Minute))
	k.Source = value.Source
	g.Expect(patience(tenant, value)).To(Equal(time.Minute))
}

func TestGrew(t *testing.T) {
	was := declared(t, "", "{apiVersion: v1, kind: ConfigMap, data: {a: x, b: v}}").Unstructured
	for _, row := range []struct {
		name, is string
		want     bool
	}{
		{"by the mark", "{apiVersion: v1, kind: ConfigMap, data: {a: xm, b: v}}", true},
		{"by more", "{apiVersion: v1, kind: ConfigMap, data: {a: xnm, b: v}}", false},
		{"in another key too", "{apiVersion: v1, kind: ConfigMap, data: {a: xm, b: w}}", false},
		{"and has lost a key", "{apiVersion: v1, kind: ConfigMap, data: {a: xm}}", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(grew(was, declared(t, "", row.is).Unstructured, "a", "m")).To(Equal(row.want))
		})
	}
}
