package program

import (
	"maps"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// owed are the outcomes of two environments with two tenants each.
var owed = check.Plan([]check.Check{
	{ID: "BOOT-001", Scope: check.ScopeEnvironment},
	{ID: "TEN-001", Scope: check.ScopeTenant},
	{ID: "TEN-002", Scope: check.ScopeTenant},
	{ID: "CFG-001", Scope: check.ScopeTenant},
}, []string{"dev", "prd"}, func(string) []string { return []string{"beetle", "sonar"} }, nil)

// outcome is a failure of what is named «CHECK ENVIRONMENT TENANT».
func outcome(named, found string) check.Outcome {
	fields := append(strings.Fields(named), "")
	return check.Outcome{Check: fields[0], Environment: fields[1], Tenant: fields[2], Result: check.Failed, Expected: "it holds", Found: found}
}

func fault(id string, expect overlay.Expect, environments ...string) overlay.Overlay {
	return overlay.Overlay{ID: id, Environments: environments, Expect: expect}
}

func TestCompare(t *testing.T) {
	astray := fault("FLT-001", overlay.Expect{
		Tenants: []string{"beetle"}, Fails: map[string]string{"BOOT-001": "astray", "TEN-001": "gone"}, MayFollow: []string{"TEN-002"},
	}, "dev")
	wrong := fault("FLT-002", overlay.Expect{Fails: map[string]string{"CFG-001": "differs"}}, "prd")
	seen := func(more ...check.Outcome) []check.Outcome {
		return append([]check.Outcome{
			outcome("BOOT-001 dev", "astray is not ready"), outcome("TEN-001 dev beetle", "it is gone"),
			outcome("CFG-001 prd beetle", "a differs"), outcome("CFG-001 prd sonar", "b differs"),
			{Check: "TEN-001", Environment: "prd", Tenant: "beetle", Result: check.Passed},
		}, more...)
	}
	for _, test := range []struct {
		name     string
		outcomes []check.Outcome
		problems [2][]string
		stray    []string
		failed   []string
		patience bool
	}{
		{name: "exactly what must", outcomes: seen(), failed: []string{"BOOT-001", "TEN-001"}},
		{name: "and what may", outcomes: seen(outcome("TEN-002 dev beetle", "so it goes")), failed: []string{"BOOT-001", "TEN-001", "TEN-002"}},
		{
			name: "one too few", outcomes: append(seen()[:1:1], seen()[2:]...), failed: []string{"BOOT-001"},
			problems: [2][]string{{"TEN-001 dev beetle must fail and does not"}}, patience: true,
		},
		{
			name: "of two tenants one", outcomes: seen()[:3], failed: []string{"BOOT-001", "TEN-001"},
			problems: [2][]string{nil, {"CFG-001 prd sonar must fail and does not"}}, patience: true,
		},
		{
			name: "one too few and one too many", outcomes: append(seen(outcome("CFG-001 dev sonar", "x"))[:1:1], seen(outcome("CFG-001 dev sonar", "x"))[2:]...),
			failed: []string{"BOOT-001"}, problems: [2][]string{{"TEN-001 dev beetle must fail and does not"}}, stray: []string{"CFG-001 dev sonar fails and must not: x"},
		},
		{
			name: "another tenant", outcomes: seen(outcome("TEN-001 dev sonar", "gone too")), failed: []string{"BOOT-001", "TEN-001"},
			stray: []string{"TEN-001 dev sonar fails and must not: gone too"},
		},
		{
			name: "an environment without the fault", outcomes: seen(outcome("BOOT-001 prd", "astray too")), failed: []string{"BOOT-001", "TEN-001"},
			stray: []string{"BOOT-001 prd fails and must not: astray too"},
		},
		{
			name: "for another reason", outcomes: append(seen()[1:], outcome("BOOT-001 dev", "a time-out")), failed: []string{"BOOT-001", "TEN-001"},
			problems: [2][]string{{`BOOT-001 dev fails without saying "astray": a time-out`}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			p := &program{owed: owed}
			trials, stray, patience := p.compare(round{astray, wrong}, test.outcomes)
			g.Expect(trials).To(HaveLen(2))
			g.Expect(trials[0].problems).To(Equal(test.problems[0]))
			g.Expect(trials[1].problems).To(Equal(test.problems[1]))
			g.Expect(trials[0].failed).To(Equal(test.failed))
			g.Expect(trials[1].failed).To(Equal([]string{"CFG-001"}))
			g.Expect(stray).To(Equal(test.stray))
			g.Expect(patience).To(Equal(test.patience))
		})
	}
}

// One judgement can tell of faults that are seen in different outcomes, and of two
// in one outcome of an environment, which says the words of both.
func TestRounds(t *testing.T) {
	tenant := func(id, environment, tenant, check string) overlay.Overlay {
		return fault(id, overlay.Expect{Tenants: []string{tenant}, Fails: map[string]string{check: "x"}}, environment)
	}
	boot := fault("FLT-005", overlay.Expect{Fails: map[string]string{"BOOT-001": "x"}}, "dev")
	bootToo := fault("FLT-006", overlay.Expect{Fails: map[string]string{"BOOT-001": "y"}}, "dev")
	follows := fault("FLT-007", overlay.Expect{Fails: map[string]string{"CFG-001": "x"}, MayFollow: []string{"TEN-001"}}, "dev")
	alone := func(o overlay.Overlay) overlay.Overlay { o.Alone = true; return o }
	patch := func(o overlay.Overlay, path string) overlay.Overlay {
		o.Patches = []overlay.Patch{{Repository: "platform", Path: path, Delete: true}}
		return o
	}
	p := &program{owed: owed, suite: Suite{Registry: &check.Registry{}}}
	if err := p.suite.Registry.Add(check.Check{
		ID: "CFG-003", Title: "x", Why: "x", Remedy: "x", Reference: "x", Level: check.Core, Scope: check.ScopeTenant, Disruptive: true,
	}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		faults []overlay.Overlay
		want   []string
	}{
		{"two tenants", []overlay.Overlay{tenant("FLT-001", "dev", "beetle", "TEN-001"), tenant("FLT-002", "dev", "sonar", "TEN-001")}, []string{"FLT-001, FLT-002"}},
		{"two environments", []overlay.Overlay{tenant("FLT-001", "dev", "beetle", "TEN-001"), tenant("FLT-002", "prd", "beetle", "TEN-001")}, []string{"FLT-001, FLT-002"}},
		{"two checks", []overlay.Overlay{tenant("FLT-001", "dev", "beetle", "TEN-001"), tenant("FLT-002", "dev", "beetle", "CFG-001")}, []string{"FLT-001, FLT-002"}},
		{"one outcome of a tenant", []overlay.Overlay{tenant("FLT-001", "dev", "beetle", "TEN-001"), tenant("FLT-002", "dev", "beetle", "TEN-001")}, []string{"FLT-001", "FLT-002"}},
		{"one that may follow", []overlay.Overlay{tenant("FLT-001", "dev", "beetle", "TEN-001"), follows}, []string{"FLT-001", "FLT-007"}},
		{"one outcome of an environment", []overlay.Overlay{boot, bootToo}, []string{"FLT-005, FLT-006"}},
		{"one that has to be alone in its environment", []overlay.Overlay{boot, alone(bootToo), tenant("FLT-007", "dev", "beetle", "TEN-001"), tenant("FLT-008", "prd", "beetle", "TEN-001")}, []string{"FLT-005, FLT-007, FLT-008", "FLT-006"}},
		{"and lets others be", []overlay.Overlay{alone(boot), tenant("FLT-007", "dev", "beetle", "TEN-001"), tenant("FLT-008", "prd", "beetle", "TEN-001")}, []string{"FLT-005, FLT-008", "FLT-007"}},
		{"one that changes of values tell, and one that they do not", []overlay.Overlay{tenant("FLT-001", "dev", "beetle", "CFG-003"), boot, tenant("FLT-002", "dev", "sonar", "CFG-003")}, []string{"FLT-001, FLT-002", "FLT-005"}},
		{"one file", []overlay.Overlay{patch(boot, "a.yaml"), patch(tenant("FLT-002", "prd", "beetle", "TEN-001"), "a.yaml"), patch(bootToo, "b.yaml")}, []string{"FLT-005, FLT-006", "FLT-002"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, r := range p.rounds(test.faults) {
				got = append(got, r.String())
			}
			NewWithT(t).Expect(got).To(Equal(test.want))
		})
	}
}

func TestFollowers(t *testing.T) {
	g := NewWithT(t)
	registry := &check.Registry{}
	for _, c := range []check.Check{{ID: "TEN-001"}, {ID: "CFG-001"}, {ID: "CFG-002"}, {ID: "CFG-003", Disruptive: true}} {
		c.Title, c.Why, c.Remedy, c.Reference, c.Level, c.Scope = "it holds", "it must", "mend it", "https://fluxcd.io", check.Core, check.ScopeTenant
		g.Expect(registry.Add(c)).To(Succeed())
	}
	p := &program{suite: Suite{Registry: registry}}
	followers := func(names ...string) ([]string, error) {
		return p.followers(fault("FLT-001", overlay.Expect{MayFollow: names}))
	}
	g.Expect(followers()).To(BeEmpty())
	g.Expect(followers("TEN-001", "CFG")).To(Equal([]string{"TEN-001", "CFG-001", "CFG-002"}))
	g.Expect(followers("CFG-003")).To(Equal([]string{"CFG-003"}))
	_, err := followers("CGF")
	g.Expect(err).To(MatchError(`fault FLT-001, expect.mayFollow: no check is named "CGF"; did you mean CFG?`))
}

// What a round leaves open is asked again, alone, before it counts.
func TestProveRound(t *testing.T) {
	faults := round{fault("FLT-001", overlay.Expect{}), fault("FLT-002", overlay.Expect{}), fault("FLT-003", overlay.Expect{})}
	for _, test := range []struct {
		name string
		// problems and stray are what a round says, by the IDs of its faults.
		problems map[string]map[string]string
		stray    map[string]string
		asked    []string
		want     map[string][]string
	}{
		{name: "all is clear", asked: []string{"FLT-001, FLT-002, FLT-003"}},
		{
			name: "one is hidden by another", problems: map[string]map[string]string{"FLT-001, FLT-002, FLT-003": {"FLT-002": "hidden"}},
			asked: []string{"FLT-001, FLT-002, FLT-003", "FLT-002"},
		},
		{
			name: "one does not do what it must", problems: map[string]map[string]string{"FLT-001, FLT-002, FLT-003": {"FLT-002": "late"}, "FLT-002": {"FLT-002": "never"}},
			asked: []string{"FLT-001, FLT-002, FLT-003", "FLT-002"}, want: map[string][]string{"FLT-002": {"never"}},
		},
		{
			name: "one does more than it must", stray: map[string]string{"FLT-001, FLT-002, FLT-003": "more", "FLT-002, FLT-003": "more", "FLT-003": "more"},
			asked: []string{"FLT-001, FLT-002, FLT-003", "FLT-001", "FLT-002, FLT-003", "FLT-002", "FLT-003"}, want: map[string][]string{"FLT-003": {"more"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			var asked []string
			trials, err := newInvocation(t).proveRound(faults, func(r round) (trials []trial, stray []string, err error) {
				asked = append(asked, r.String())
				for _, fault := range r {
					one := trial{fault: fault}
					if problem := test.problems[r.String()][fault.ID]; problem != "" {
						one.problems = []string{problem}
					}
					trials = append(trials, one)
				}
				if words := test.stray[r.String()]; words != "" {
					stray = []string{words}
				}
				return trials, stray, nil
			})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(asked).To(Equal(test.asked))
			g.Expect(trials).To(HaveLen(len(faults)))
			got := map[string][]string{}
			for _, one := range trials {
				if len(one.problems) > 0 {
					got[one.fault.ID] = one.problems
				}
			}
			if test.want == nil {
				test.want = map[string][]string{}
			}
			g.Expect(got).To(Equal(test.want))
		})
	}
}

func TestConclude(t *testing.T) {
	i := newInvocation(t)
	faults, err := i.faults(nil)
	if err != nil {
		t.Fatal(err)
	}
	// Every check fails under some fault, so all of them are caught.
	proved := func() []trial {
		var out []trial
		for _, fault := range faults {
			out = append(out, trial{fault: fault, failed: claims(fault)})
		}
		return out
	}
	t.Run("all proved", func(t *testing.T) {
		g := NewWithT(t)
		i := newInvocation(t)
		g.Expect(i.conclude(faults, proved(), false)).To(Succeed())
		g.Expect(i.terminal()).To(MatchRegexp(`(\d+) of (\d+) faults proved, 0 not supported here; (\d+) of (\d+) checks seen to fail$`))
	})
	t.Run("one did something else", func(t *testing.T) {
		g := NewWithT(t)
		i := newInvocation(t)
		trials := proved()
		trials[0].problems = []string{"it must fail and does not"}
		g.Expect(i.conclude(faults, trials, false)).To(Equal(exit(1)))
		g.Expect(i.errOut.String()).To(Equal("error: 1 faults did not make exactly the expected checks fail\n"))
	})
	t.Run("a check that nothing makes fail", func(t *testing.T) {
		g := NewWithT(t)
		i := newInvocation(t)
		g.Expect(i.suite.Registry.Add(check.Check{
			ID: "TEN-999", Title: "x", Why: "x", Remedy: "x", Reference: "x", Level: check.Core, Scope: check.ScopeTenant,
		})).To(Succeed())
		g.Expect(i.conclude(faults, proved(), false)).To(Equal(exit(1)))
		g.Expect(i.errOut.String()).To(Equal("error: no fault makes these checks fail: TEN-999\n"))
		g.Expect(i.conclude(faults, proved(), true)).To(Succeed(), "with FAULTS nothing is claimed of the others")
	})
	t.Run("one that cannot be seen here", func(t *testing.T) {
		g := NewWithT(t)
		i := newInvocation(t)
		trials := proved()
		trials[0].failed, trials[0].skipped = nil, "Workloads: pods are simulated"
		trials[0].fault.Expect.Fails = maps.Clone(trials[0].fault.Expect.Fails)
		trials[0].fault.Expect.Fails["TEN-002"] = "x"
		g.Expect(i.conclude(faults, trials, false)).To(Succeed())
		g.Expect(i.out.String()).To(ContainSubstring(faults[0].ID + "  NOT_SUPPORTED here: Workloads: pods are simulated"))
		g.Expect(i.out.String()).To(ContainSubstring(" faults proved, 1 not supported here"))
	})
}

func TestFaultsOfUnknownChecks(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t)
	i.suite.Registry = &check.Registry{}
	_, err := i.faults(nil)
	g.Expect(err).To(MatchError(MatchRegexp(`^fault FLT-001 expects the check [A-Z]+-\d+, which does not exist$`)))
}

func TestLacking(t *testing.T) {
	g := NewWithT(t)
	p := &program{owed: owed}
	state := bringup.State{Environments: []bringup.EnvironmentState{{Name: "dev", Findings: []cluster.Finding{
		{Capability: cluster.Workloads, Has: false, Evidence: "no pod runs"}, {Capability: cluster.NetworkPolicy, Has: true},
	}}}}
	g.Expect(p.lacking(overlay.Overlay{Needs: []string{string(cluster.Workloads)}}, state)).To(Equal("Workloads: no pod runs"))
	g.Expect(p.lacking(overlay.Overlay{Needs: []string{string(cluster.NetworkPolicy)}}, state)).To(BeEmpty())
	g.Expect(p.lacking(fault("FLT-001", overlay.Expect{Fails: map[string]string{"BOOT-001": "x"}}, "dev"), state)).To(BeEmpty())
	g.Expect(p.lacking(fault("FLT-001", overlay.Expect{Fails: map[string]string{"BOOT-001": "x"}}, "stg"), state)).To(Equal("BOOT-001 is not judged for [stg] [] here"))
}

func TestFaultsOfUnknownNames(t *testing.T) {
	g := NewWithT(t)
	under := &platform.Platform{Environments: []*platform.Environment{{Name: "dev", Tenants: []*platform.Tenant{{Name: "beetle"}}}}}
	g.Expect(named(fault("FLT-001", overlay.Expect{Tenants: []string{"beetle"}}, "dev"), under)).To(Succeed())
	g.Expect(named(fault("FLT-001", overlay.Expect{}, "stg"), under)).To(MatchError("fault FLT-001 is of the environment stg, which the platform does not have"))
	g.Expect(named(fault("FLT-001", overlay.Expect{Tenants: []string{"newt"}}), under)).To(MatchError("fault FLT-001 is of the tenant newt, which the platform does not have"))
}
