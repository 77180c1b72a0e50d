package check_test

import (
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

var now = time.Date(2026, 5, 4, 23, 59, 0, 0, time.UTC)

func day(t testing.TB, text string) check.Date {
	t.Helper()
	var date check.Date
	if err := date.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return date
}

// The model of the tests: BOOT-001 per environment, TEN-001 per tenant, POL-001
// once.
func model() []check.Check {
	return []check.Check{
		statement("BOOT-001", check.ScopeEnvironment),
		statement("TEN-001", check.ScopeTenant),
		statement("POL-001", check.ScopePlatform),
	}
}

func plan(skip func(c check.Check, environment, tenant string) string) []check.Planned {
	return check.Plan(model(), []string{"dev", "prd"}, func(environment string) []string {
		if environment == "dev" {
			return []string{"beetle", "sonar"}
		}
		return []string{"beetle"}
	}, skip)
}

func allPassed() []check.Outcome {
	return []check.Outcome{
		passed("TEN-001", "prd", "beetle"),
		passed("TEN-001", "dev", "sonar"),
		passed("TEN-001", "dev", "beetle"),
		passed("POL-001", "", ""),
		passed("BOOT-001", "prd", ""),
		passed("BOOT-001", "dev", ""),
	}
}

func replaced(outcomes []check.Outcome, by ...check.Outcome) []check.Outcome {
	for _, o := range by {
		for i := range outcomes {
			if outcomes[i].Check == o.Check && outcomes[i].Environment == o.Environment && outcomes[i].Tenant == o.Tenant {
				outcomes[i] = o
			}
		}
	}
	return outcomes
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	waiver := check.Waiver{Check: "TEN-001", Environment: "dev", Tenant: "sonar", Reason: "moves in May", Expires: day(t, "2026-05-04")}
	expired, unknown, wide := waiver, waiver, waiver
	expired.Expires = day(t, "2026-05-03")
	unknown.Tenant = "tiger"
	wide.Environment, wide.Tenant = "", ""
	notSupported := check.Outcome{Check: "TEN-001", Environment: "dev", Tenant: "sonar", Result: check.NotSupported, Reason: "no Workloads"}
	extended := model()
	extended[1].Level = check.Extended
	onlyBoot := func(c check.Check, _, _ string) string {
		if c.ID == "BOOT-001" {
			return ""
		}
		return "not named in CHECKS"
	}

	for _, test := range []struct {
		name     string
		in       check.SummaryInput
		want     check.RunResult
		problems []string
		// results counts the outcomes.
		results map[check.Result]int
	}{
		{
			"all passed",
			check.SummaryInput{Outcomes: allPassed()},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 6},
		},
		{
			"a core check failed",
			check.SummaryInput{Outcomes: replaced(allPassed(), failed("TEN-001", "dev", "sonar"))},
			check.RunFailed, nil,
			map[check.Result]int{check.Passed: 5, check.Failed: 1},
		},
		{
			"an extended check failed",
			check.SummaryInput{Checks: extended, Outcomes: replaced(allPassed(), failed("TEN-001", "dev", "sonar"))},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 5, check.Failed: 1},
		},
		{
			"not supported",
			check.SummaryInput{Outcomes: replaced(allPassed(), notSupported)},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 5, check.NotSupported: 1},
		},
		{
			"selection",
			check.SummaryInput{Plan: plan(onlyBoot), Outcomes: allPassed()[4:]},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 2, check.Skipped: 4},
		},
		{
			"one not judged",
			check.SummaryInput{Outcomes: allPassed()[1:]},
			check.RunBroken,
			[]string{"TEN-001 was not judged: prd, tenant beetle"},
			map[check.Result]int{check.Passed: 5},
		},
		{
			"none judged",
			check.SummaryInput{},
			check.RunBroken,
			[]string{
				"BOOT-001 was not judged: dev; prd",
				"TEN-001 was not judged: dev, tenant beetle; dev, tenant sonar; prd, tenant beetle",
				"POL-001 was not judged: whole platform",
			},
			nil,
		},
		{
			"everything skipped",
			check.SummaryInput{Plan: plan(func(check.Check, string, string) string { return "no" })},
			check.RunBroken,
			[]string{"no check was judged: of 6 planned, all are skipped or not supported"},
			map[check.Result]int{check.Skipped: 6},
		},
		{
			"nothing planned",
			check.SummaryInput{Plan: []check.Planned{}},
			check.RunBroken,
			[]string{"no check was judged: of 0 planned, all are skipped or not supported"},
			nil,
		},
		{
			"broken before there was a plan, said twice",
			check.SummaryInput{Plan: []check.Planned{}, Broken: errors.Join(errors.New("no disk"), errors.New("no disk"), errors.New("no memory"))},
			check.RunBroken,
			[]string{"no disk", "no memory"},
			nil,
		},
		{
			"judged without a plan",
			check.SummaryInput{Outcomes: append(allPassed(), passed("TEN-001", "prd", "sonar"))},
			check.RunBroken,
			[]string{"TEN-001 prd, tenant sonar was judged, but is not in the plan"},
			map[check.Result]int{check.Passed: 7},
		},
		{
			"judged twice",
			check.SummaryInput{Outcomes: append(allPassed(), failed("POL-001", "", ""))},
			check.RunBroken,
			[]string{"POL-001 whole platform is judged twice; each check is judged once per environment and tenant, and not retried"},
			map[check.Result]int{check.Passed: 6, check.Failed: 1},
		},
		{
			"planned without a check",
			check.SummaryInput{
				Plan:     append(plan(nil), check.Planned{Check: "XXX-001", Environment: "dev"}),
				Outcomes: append(allPassed(), passed("XXX-001", "dev", "")),
			},
			check.RunBroken,
			[]string{"XXX-001 dev is planned, but no such check is registered"},
			map[check.Result]int{check.Passed: 7},
		},
		{
			"broken before failed",
			check.SummaryInput{
				Broken:   errors.Join(errors.New("etcd died"), errors.New("disk full")),
				Outcomes: replaced(allPassed(), failed("POL-001", "", "")),
			},
			check.RunBroken,
			[]string{"etcd died", "disk full"},
			map[check.Result]int{check.Passed: 5, check.Failed: 1},
		},
		{
			"invalid before broken",
			check.SummaryInput{Invalid: errors.New("no such PLATFORM"), Broken: errors.New("etcd died"), Waivers: []check.Waiver{expired}},
			check.RunInvalidInput,
			[]string{"no such PLATFORM"},
			nil,
		},
		{
			"waived on its last day",
			check.SummaryInput{Waivers: []check.Waiver{waiver}, Outcomes: replaced(allPassed(), failed("TEN-001", "dev", "sonar"))},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 5, check.Waived: 1},
		},
		{
			"waived for all",
			check.SummaryInput{
				Waivers:  []check.Waiver{wide},
				Outcomes: replaced(allPassed(), failed("TEN-001", "dev", "sonar"), failed("TEN-001", "prd", "beetle")),
			},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 4, check.Waived: 2},
		},
		{
			"two waivers of one failure",
			check.SummaryInput{
				Waivers: []check.Waiver{wide, waiver}, Outcomes: replaced(allPassed(), failed("TEN-001", "dev", "sonar")),
			},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 5, check.Waived: 1},
		},
		{
			"expired waiver",
			check.SummaryInput{Waivers: []check.Waiver{expired}, Outcomes: replaced(allPassed(), failed("TEN-001", "dev", "sonar"))},
			check.RunFailed,
			[]string{"waiver of TEN-001 in dev for tenant sonar expired after 2026-05-03: mend the check, or renew the waiver with its reason (moves in May)"},
			map[check.Result]int{check.Passed: 5, check.Failed: 1},
		},
		{
			"unmatched waiver",
			check.SummaryInput{Waivers: []check.Waiver{unknown}, Outcomes: allPassed()},
			check.RunFailed,
			[]string{"waiver of TEN-001 in dev for tenant tiger matches no check of this platform: correct its check, environment or tenant, or remove it"},
			map[check.Result]int{check.Passed: 6},
		},
		{
			"waiver no longer needed",
			check.SummaryInput{Waivers: []check.Waiver{waiver}, Outcomes: allPassed()},
			check.RunFailed,
			[]string{"waiver of TEN-001 in dev for tenant sonar is no longer needed, the check passes: remove it"},
			map[check.Result]int{check.Passed: 6},
		},
		{
			"waiver of what is not supported",
			check.SummaryInput{Waivers: []check.Waiver{waiver}, Outcomes: replaced(allPassed(), notSupported)},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 5, check.NotSupported: 1},
		},
		{
			"waiver of what is skipped",
			check.SummaryInput{Waivers: []check.Waiver{waiver}, Plan: plan(onlyBoot), Outcomes: allPassed()[4:]},
			check.RunPassed, nil,
			map[check.Result]int{check.Passed: 2, check.Skipped: 4},
		},
		{
			"malformed waiver",
			check.SummaryInput{Waivers: []check.Waiver{{Check: "TEN-001"}}, Outcomes: allPassed()},
			check.RunFailed,
			[]string{"waiver of TEN-001: reason is empty; say why the failure is accepted\n" +
				"expires is missing; give the last day on which the waiver holds, as 2006-01-31"},
			map[check.Result]int{check.Passed: 6},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			in := test.in
			in.Now = now
			if in.Checks == nil {
				in.Checks = model()
			}
			if in.Plan == nil {
				in.Plan = plan(nil)
			}
			given := append([]check.Outcome(nil), in.Outcomes...)
			summary := check.Summarize(in)
			g.Expect(summary.Result).To(Equal(test.want))
			g.Expect(summary.Problems).To(Equal(test.problems))
			counts := map[check.Result]int{}
			for _, o := range summary.Outcomes {
				counts[o.Result]++
				g.Expect(o.Waiver != nil).To(Equal(o.Result == check.Waived))
			}
			if test.results == nil {
				test.results = map[check.Result]int{}
			}
			g.Expect(counts).To(Equal(test.results))
			g.Expect(in.Outcomes).To(Equal(given), "the input is not changed")
		})
	}
}

func TestSummarizeSorts(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	summary := check.Summarize(check.SummaryInput{Checks: model(), Plan: plan(nil), Outcomes: allPassed(), Now: now})
	g.Expect(summary.Outcomes).To(Equal([]check.Outcome{
		passed("BOOT-001", "dev", ""),
		passed("BOOT-001", "prd", ""),
		passed("TEN-001", "dev", "beetle"),
		passed("TEN-001", "dev", "sonar"),
		passed("TEN-001", "prd", "beetle"),
		passed("POL-001", "", ""),
	}))
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(check.RunPassed.ExitCode()).To(Equal(0))
	g.Expect(check.RunFailed.ExitCode()).To(Equal(1))
	g.Expect(check.RunInvalidInput.ExitCode()).To(Equal(2))
	g.Expect(check.RunBroken.ExitCode()).To(Equal(3))
	g.Expect(check.RunResult("").ExitCode()).To(Equal(3))
}

func TestDate(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	date := day(t, "2026-02-28")
	g.Expect(date.Over(time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC))).To(BeFalse())
	g.Expect(date.Over(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))).To(BeTrue())
	// It is still the 28th in UTC.
	g.Expect(date.Over(time.Date(2026, 3, 1, 0, 30, 0, 0, time.FixedZone("", 3600)))).To(BeFalse())
	g.Expect(new(check.Date).UnmarshalText([]byte("28.2.2026"))).To(MatchError(`date "28.2.2026" is not of the form 2006-01-31`))
}

// A waiver that is accepted says the same after it was written down and read
// again, and its check can be a folder's name.
func FuzzWaiver(f *testing.F) {
	f.Add("check: TEN-001\nenvironment: dev\ntenant: beetle\nreason: moves\nexpires: 2026-05-04\n")
	f.Add("check: TEN-001\nreason: moves\nexpires: '2026-05-04'\n")
	f.Add("check: ../TEN-001\nreason: moves\nexpires: 2026-13-04\n")
	f.Add("expires: !!timestamp 2026-05-04T00:00:00Z\n")
	f.Add("expires: [1, {a: b}]\nreason: 1\n")
	f.Fuzz(func(t *testing.T, document string) {
		var waiver check.Waiver
		if err := yaml.Unmarshal([]byte(document), &waiver); err != nil || waiver.Validate() != nil {
			return
		}
		written, err := yaml.Marshal(waiver)
		if err != nil {
			t.Fatal(err)
		}
		var again check.Waiver
		if err := yaml.Unmarshal(written, &again); err != nil {
			t.Fatalf("%v in\n%s", err, written)
		}
		if again != waiver {
			t.Fatalf("%v became %v", waiver, again)
		}
		for _, char := range waiver.Check {
			if (char < 'A' || char > 'Z') && (char < '0' || char > '9') && char != '-' {
				t.Fatalf("check %q holds %q", waiver.Check, char)
			}
		}
	})
}
