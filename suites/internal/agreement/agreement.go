// Package agreement lays the outcomes of two runs, on two kinds of clusters, beside
// each other and says where they disagree, and whether somebody has explained it.
// It is pure: it reads no file and asks no clock.
package agreement

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// SchemaVersion is the version of compare.json. It changes when a field changes
// its meaning or goes away; a new field does not change it.
const SchemaVersion = "1"

// Schema is the JSON Schema (2020-12) of compare.json.
//
//go:embed schema.json
var Schema []byte

// Verdict is what two outcomes of one check, environment and tenant say together.
type Verdict string

// The verdicts on two outcomes.
const (
	// Agree: both sides say that the statement holds, or both that it does not.
	Agree Verdict = "AGREE"
	// Explained: they disagree, and an entry of the list says why.
	Explained Verdict = "EXPLAINED"
	// Unexplained: they disagree, and nobody has said why.
	Unexplained Verdict = "UNEXPLAINED"
	// OneSided: one side lacks a capability that judging needs.
	OneSided Verdict = "ONE_SIDED"
	// Neither: neither side could judge it.
	Neither Verdict = "NEITHER"
	// LeftOut: the user's selection left it out.
	LeftOut Verdict = "LEFT_OUT"
)

// Comparison is what compare.json holds. Of everything that there is twice, the
// first is of the first side. All times are UTC, all durations seconds. Lists are
// never null.
type Comparison struct {
	SchemaVersion string `json:"schemaVersion"`
	// Result and ExitCode are what became of the comparison. Failed checks do not
	// decide it: a platform that fails alike on both sides agrees.
	Result   check.RunResult `json:"result"`
	ExitCode int             `json:"exitCode"`
	Counts   Counts          `json:"counts"`
	// Problems are reasons, beside unexplained disagreements, why the result is not
	// passed.
	Problems []string `json:"problems"`
	// Notes are remarks for the reader that decide nothing.
	Notes []string `json:"notes"`
	// Sides are the runs that were compared: two, or none where there was nothing
	// to compare.
	Sides []Side `json:"sides"`
	// Outcomes are sorted by check, environment and tenant.
	Outcomes []Outcome `json:"outcomes"`
	// Phases say where the time went, in the order of the first side.
	Phases []Phase `json:"phases"`
}

// Counts are how many outcomes have each verdict.
type Counts struct {
	Unexplained int `json:"unexplained"`
	Explained   int `json:"explained"`
	Agree       int `json:"agree"`
	OneSided    int `json:"oneSided"`
	Neither     int `json:"neither"`
	LeftOut     int `json:"leftOut"`
	// Failing are those, of any verdict, that failed on one side at least.
	Failing int `json:"failing"`
}

// Side is one of the runs.
type Side struct {
	// Provider is the kind of its clusters, and the name of the side.
	Provider string `json:"provider"`
	// Report is the file that was read.
	Report string `json:"report"`
	// Result is what became of the run by itself.
	Result check.RunResult `json:"result"`
	// Problems are the reasons, beside failed checks, for that result.
	Problems []string  `json:"problems"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
}

// Outcome is what both sides say of one check in one environment for one tenant.
type Outcome struct {
	Check string `json:"check"`
	// Title is the check's statement.
	Title string `json:"title"`
	// Environment and Tenant are empty where the check's scope names none.
	Environment string  `json:"environment"`
	Tenant      string  `json:"tenant"`
	Verdict     Verdict `json:"verdict"`
	// Said are the outcomes of the sides.
	Said []Said `json:"said"`
	// Cause and Entry are the explanation and the place where it stands, of an
	// explained disagreement.
	Cause string `json:"cause"`
	Entry string `json:"entry"`
}

// Said is the outcome of one side.
type Said struct {
	Result check.Result `json:"result"`
	// Detail is what a failed check found, or why one was not judged.
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// Phase is one step of both runs.
type Phase struct {
	// Environment is empty for a step that is taken once for all.
	Environment string `json:"environment"`
	Name        string `json:"name"`
	// Seconds is how long it took on each side; null where a side has no such step.
	Seconds []*float64 `json:"seconds"`
	// Ratio is the second side's time for one second of the first's; null where one
	// of them took none.
	Ratio *float64 `json:"ratio"`
}

// Run is a report with the file that it was read from.
type Run struct {
	File   string
	Report check.Report
}

// ErrBroken says that a run could not be carried out, so that there is nothing to
// compare.
var ErrBroken = errors.New("the run could not be carried out")

// place is what an outcome is about.
type place struct{ check, environment, tenant string }

// Compare lays two runs beside each other. It errs where they cannot be compared:
// with ErrBroken where one of them was not carried out, else because the runs are
// not of one platform, one selection and two providers.
func Compare(first, second Run, list []Explanation) (Comparison, error) {
	runs := []Run{first, second}
	if err := comparable(runs); err != nil {
		return Comparison{}, err
	}
	c := Comparison{}
	for _, run := range runs {
		r := run.Report
		c.Sides = append(c.Sides, Side{
			Provider: r.Provider, Report: run.File, Result: r.Result, Problems: r.Problems, Started: r.Started.UTC(), Seconds: r.Seconds,
		})
	}
	titles := map[string]string{}
	for _, known := range first.Report.Checks {
		titles[known.ID] = known.Title
	}
	others := byPlace(second.Report.Outcomes)
	used := make([]int, len(list))
	for _, one := range first.Report.Outcomes {
		other := others[at(one)]
		o := Outcome{
			Check: one.Check, Title: titles[one.Check], Environment: one.Environment, Tenant: one.Tenant,
			Said: []Said{said(one), said(other)}, Verdict: verdict(runs, one, other),
		}
		if o.Verdict == Unexplained {
			c.explain(&o, list, used)
		}
		c.Outcomes = append(c.Outcomes, o)
	}
	for i, entry := range list {
		if used[i] == 0 {
			c.unused(entry)
		}
	}
	c.phases(first.Report.Phases, second.Report.Phases)
	c.conclude()
	return c, nil
}

// comparable says why two runs cannot be compared.
func comparable(runs []Run) error {
	first, second := runs[0].Report, runs[1].Report
	if first.Provider == second.Provider {
		return fmt.Errorf("both runs are of provider %s (%s, %s): compare two kinds of clusters", first.Provider, runs[0].File, runs[1].File)
	}
	var broken, wrong []error
	for _, run := range runs {
		switch run.Report.Result {
		case check.RunPassed, check.RunFailed:
		case check.RunInvalidInput:
			wrong = append(wrong, fmt.Errorf("the run on %s had wrong input: %s", run.Report.Provider, strings.Join(run.Report.Problems, "; ")))
		default:
			broken = append(broken, fmt.Errorf("%s: %w: %s", run.Report.Provider, ErrBroken, strings.Join(run.Report.Problems, "; ")))
		}
	}
	if err := errors.Join(append(wrong, broken...)...); err != nil {
		return err
	}
	if a, b := first.Platform.Revision, second.Platform.Revision; a != b {
		return fmt.Errorf("the runs judged two revisions of the platform, %q and %q: compare runs on one", a, b)
	}
	return differences(runs)
}

// differences says where one run has an outcome, or left one out, and the other
// does not.
func differences(runs []Run) error {
	var errs []error
	for i, run := range runs {
		other := runs[1-i]
		there := byPlace(other.Report.Outcomes)
		var missing, left []string
		for _, o := range run.Report.Outcomes {
			counterpart, found := there[at(o)]
			switch {
			case !found:
				missing = append(missing, at(o).String())
			case o.Result == check.Skipped && counterpart.Result != check.Skipped:
				left = append(left, at(o).String())
			}
		}
		if len(missing) > 0 {
			errs = append(errs, fmt.Errorf("%s has no outcome of what %s has one of: %s; compare runs of one program on one platform",
				other.Report.Provider, run.Report.Provider, abridged(missing)))
		}
		if len(left) > 0 {
			errs = append(errs, fmt.Errorf("the selection of the run on %s left out what that on %s did not: %s; compare runs with one selection",
				run.Report.Provider, other.Report.Provider, abridged(left)))
		}
	}
	return errors.Join(errs...)
}

// verdict is what two outcomes say together, the list left aside.
func verdict(runs []Run, one, other check.Outcome) Verdict {
	first, second := one.Result == check.NotSupported, other.Result == check.NotSupported
	switch {
	case one.Result == check.Skipped:
		return LeftOut // and so on the other side
	case first && second:
		return Neither
	case first && lacks(runs[0].Report, one), second && lacks(runs[1].Report, other):
		return OneSided
	case first || second:
		return Unexplained
	case (one.Result == check.Passed) == (other.Result == check.Passed):
		return Agree // a waiver changes what a failure costs, not what was seen
	default:
		return Unexplained
	}
}

// lacks says whether an outcome is NOT_SUPPORTED for what the report itself says
// that the cluster lacks: a capability, or a program behind a webhook.
func lacks(report check.Report, o check.Outcome) bool {
	here := func(environment string) bool { return o.Environment == "" || o.Environment == environment }
	return slices.ContainsFunc(report.Capabilities, func(c check.Capability) bool {
		return here(c.Environment) && !c.Has && strings.HasPrefix(o.Reason, c.Name+": ")
	}) || slices.ContainsFunc(report.SimulatedBackends, func(b check.SimulatedBackend) bool {
		return here(b.Environment) && strings.Contains(o.Reason, b.Kind+" "+b.Name+" ")
	})
}

// explain looks for the entry that says why two outcomes disagree.
func (c *Comparison) explain(o *Outcome, list []Explanation, used []int) {
	var entries []string
	for i, entry := range list {
		if !entry.covers(*o) || !entry.expects(c.Sides, *o) {
			continue
		}
		used[i]++
		entries = append(entries, entry.Where)
		o.Verdict, o.Cause, o.Entry = Explained, entry.Cause, entries[0]
	}
	if len(entries) > 1 {
		c.Problems = append(c.Problems, fmt.Sprintf("%s all explain %s: leave one", strings.Join(entries, ", "), o.place()))
	}
}

// unused says what is wrong with an entry that explains nothing. One that is about
// what the selection left out is left alone: nothing is known of it.
func (c *Comparison) unused(entry Explanation) {
	var found []string
	looked := false
	for _, o := range c.Outcomes {
		if !entry.covers(o) {
			continue
		}
		looked = looked || o.Verdict != LeftOut
		found = append(found, fmt.Sprintf("%s: %s and %s", o.place().where(), o.Said[0].Result, o.Said[1].Result))
	}
	switch {
	case len(found) == 0:
		c.Problems = append(c.Problems, fmt.Sprintf("%s is about nothing that these runs have: correct its check, environment or tenant, or remove it", entry))
	case looked:
		c.Problems = append(c.Problems, fmt.Sprintf("%s explains no disagreement: remove it, or correct its results (%s)", entry, abridged(found)))
	default:
		c.Notes = append(c.Notes, fmt.Sprintf("%s was not looked at: the selection left its check out", entry))
	}
}

// phases lays the times of the steps beside each other. A step that was taken
// more than once counts as one.
func (c *Comparison) phases(lists ...[]check.Phase) {
	for side, list := range lists {
		for _, p := range list {
			i := slices.IndexFunc(c.Phases, func(known Phase) bool { return known.Name == p.Name && known.Environment == p.Environment })
			if i < 0 {
				i = len(c.Phases)
				c.Phases = append(c.Phases, Phase{Environment: p.Environment, Name: p.Name, Seconds: make([]*float64, len(lists))})
			}
			taken := &c.Phases[i].Seconds[side]
			if *taken == nil {
				*taken = new(float64)
			}
			**taken += p.Seconds
		}
	}
	for i := range c.Phases {
		c.Phases[i].Ratio = ratio(c.Phases[i].Seconds[0], c.Phases[i].Seconds[1])
	}
}

// ratio is null where one of the times is missing or nothing.
func ratio(first, second *float64) *float64 {
	if first == nil || second == nil || *first <= 0 || *second <= 0 {
		return nil
	}
	r := *second / *first
	return &r
}

// conclude counts, and decides the result.
func (c *Comparison) conclude() {
	for _, o := range c.Outcomes {
		switch o.Verdict {
		case Unexplained:
			c.Counts.Unexplained++
		case Explained:
			c.Counts.Explained++
		case Agree:
			c.Counts.Agree++
		case OneSided:
			c.Counts.OneSided++
		case Neither:
			c.Counts.Neither++
		case LeftOut:
			c.Counts.LeftOut++
		}
		if o.Failing() {
			c.Counts.Failing++
		}
	}
	switch {
	case c.Counts.Agree+c.Counts.Explained+c.Counts.Unexplained == 0:
		c.Problems = append(c.Problems, "nothing was judged on both sides: there is nothing that they could agree on")
		c.Result = check.RunBroken
	case c.Counts.Unexplained > 0, len(c.Problems) > 0:
		c.Result = check.RunFailed
	default:
		c.Result = check.RunPassed
	}
}

// Fail is the comparison that could not be made, for this reason.
func Fail(err error) Comparison {
	c := Comparison{Result: check.RunInvalidInput, Problems: []string{err.Error()}}
	if errors.Is(err, ErrBroken) {
		c.Result = check.RunBroken
	}
	return c
}

// Normalised is a copy as compare.json holds it: with version and exit code, and
// without null lists.
func (c Comparison) Normalised() Comparison {
	c.SchemaVersion, c.ExitCode = SchemaVersion, c.Result.ExitCode()
	c.Problems, c.Notes = filled(c.Problems), filled(c.Notes)
	c.Sides, c.Outcomes, c.Phases = filled(c.Sides), filled(c.Outcomes), filled(c.Phases)
	for i := range c.Sides {
		c.Sides[i].Problems = filled(c.Sides[i].Problems)
	}
	return c
}

func filled[T any](list []T) []T {
	return append([]T{}, list...)
}

// Failing says whether the check failed on one side at least, waived or not.
func (o Outcome) Failing() bool {
	return slices.ContainsFunc(o.Said, func(s Said) bool { return s.Result == check.Failed || s.Result == check.Waived })
}

func (o Outcome) place() place { return place{o.Check, o.Environment, o.Tenant} }

func at(o check.Outcome) place { return place{o.Check, o.Environment, o.Tenant} }

func (p place) String() string { return p.check + " (" + p.where() + ")" }

// where names environment and tenant for a reader.
func (p place) where() string {
	switch {
	case p.environment == "":
		return "whole platform"
	case p.tenant == "":
		return p.environment
	default:
		return p.environment + ", tenant " + p.tenant
	}
}

func byPlace(outcomes []check.Outcome) map[place]check.Outcome {
	out := map[place]check.Outcome{}
	for _, o := range outcomes {
		out[at(o)] = o
	}
	return out
}

func said(o check.Outcome) Said {
	return Said{Result: o.Result, Detail: cmp.Or(o.Found, o.Reason), Seconds: o.Seconds}
}

// abridged lists things, a few of them when there are many.
func abridged(list []string) string {
	const most = 4
	if len(list) <= most {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(list[:most-1], "; "), len(list)-most+1)
}
