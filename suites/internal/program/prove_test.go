package program

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

func outcome(id, environment string, found string) check.Outcome {
	o := check.Outcome{Check: id, Environment: environment, Result: check.Passed}
	if found != "" {
		o.Result, o.Expected, o.Found = check.Failed, "it holds", found
	}
	return o
}

func TestCompare(t *testing.T) {
	fault := overlay.Overlay{ID: "FLT-001", Environments: []string{"dev"}, Expect: overlay.Expect{
		Fails: []string{"BOOT-001", "TEN-001"}, MayFollow: []string{"TEN-002"}, Message: "astray",
	}}
	seen := []check.Outcome{outcome("BOOT-001", "dev", "astray is not ready"), outcome("TEN-001", "dev", "gone"), outcome("CFG-001", "dev", ""), outcome("BOOT-001", "prd", "")}
	for _, test := range []struct {
		name     string
		outcomes []check.Outcome
		problems []string
		failed   []string
	}{
		{"exactly what must", seen, nil, []string{"BOOT-001", "TEN-001"}},
		{"and what may", append(seen[:4:4], outcome("TEN-002", "dev", "so it goes")), nil, []string{"BOOT-001", "TEN-001", "TEN-002"}},
		{"one too few", append(seen[:1:1], seen[2:]...), []string{"TEN-001 must fail and does not"}, []string{"BOOT-001"}},
		{"one too many", append(seen[:4:4], outcome("CFG-002", "dev", "no schema")), []string{"CFG-002 fails and must not: no schema"}, []string{"BOOT-001", "CFG-002", "TEN-001"}},
		{
			"in an environment without the fault", append(seen[:3:3], outcome("BOOT-001", "prd", "astray too")),
			[]string{"BOOT-001 fails in prd too, where the fault is not"},
			[]string{"BOOT-001", "TEN-001"},
		},
		{
			"for another reason", append([]check.Outcome{outcome("BOOT-001", "dev", "a time-out")}, seen[1:]...),
			[]string{`BOOT-001 fails without saying "astray": a time-out`},
			[]string{"BOOT-001", "TEN-001"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			got := trial{fault: fault}
			compare(&got, test.outcomes)
			g.Expect(got.problems).To(Equal(test.problems))
			g.Expect(got.failed).To(Equal(test.failed))
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
			out = append(out, trial{fault: fault, failed: append(append([]string{}, fault.Expect.Fails...), fault.Expect.MayFollow...)})
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
		trials[0].fault.Expect.Fails = append(trials[0].fault.Expect.Fails, "TEN-002")
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
	state := bringup.State{Environments: []bringup.EnvironmentState{{Name: "dev", Findings: []cluster.Finding{
		{Capability: cluster.Workloads, Has: false, Evidence: "no pod runs"}, {Capability: cluster.NetworkPolicy, Has: true},
	}}}}
	g.Expect(lacking(overlay.Overlay{Needs: []string{string(cluster.Workloads)}}, state)).To(Equal("Workloads: no pod runs"))
	g.Expect(lacking(overlay.Overlay{Needs: []string{string(cluster.NetworkPolicy)}}, state)).To(BeEmpty())
	g.Expect(lacking(overlay.Overlay{}, state)).To(BeEmpty())
}
