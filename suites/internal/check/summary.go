package check

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// RunResult is what became of the whole run.
type RunResult string

// The results of a run.
const (
	// RunPassed: every core check passed, was waived, is not supported here or
	// was left out by the user; at least one check was judged.
	RunPassed RunResult = "passed"
	// RunFailed: a core check failed, or a waiver does not stand.
	RunFailed RunResult = "failed"
	// RunInvalidInput: what the user gave cannot be worked with.
	RunInvalidInput RunResult = "invalid-input"
	// RunBroken: the run could not be carried out, so it says nothing about the
	// platform.
	RunBroken RunResult = "broken"
)

// ExitCode is the program's exit code for the result: 0 passed, 1 failed, 2
// invalid input, 3 broken. Anything else counts as broken.
func (r RunResult) ExitCode() int {
	switch r {
	case RunPassed:
		return 0
	case RunFailed:
		return 1
	case RunInvalidInput:
		return 2
	case RunBroken:
		return 3
	default:
		return RunBroken.ExitCode()
	}
}

// Planned is one judgement that a run owes: a check in an environment for a
// tenant, as the check's scope asks.
type Planned struct {
	Check, Environment, Tenant string
	// Skip is why the user's selection leaves it out, for example "not named in
	// CHECKS". Empty means that an outcome must be there.
	Skip string
}

// Plan lists what the checks owe for these environments and their tenants. Skip,
// which may be nil, is asked for each and says why the user's selection leaves
// it out. Plan over everything that the platform has, not over the selection
// alone: else a waiver of something not selected looks like a mistake.
func Plan(checks []Check, environments []string, tenants func(environment string) []string,
	skip func(c Check, environment, tenant string) string,
) []Planned {
	var plan []Planned
	add := func(c Check, environment, tenant string) {
		planned := Planned{Check: c.ID, Environment: environment, Tenant: tenant}
		if skip != nil {
			planned.Skip = skip(c, environment, tenant)
		}
		plan = append(plan, planned)
	}
	for _, c := range checks {
		if c.Scope == ScopePlatform {
			add(c, "", "")
			continue
		}
		for _, environment := range environments {
			if c.Scope == ScopeEnvironment {
				add(c, environment, "")
				continue
			}
			for _, tenant := range tenants(environment) {
				add(c, environment, tenant)
			}
		}
	}
	return plan
}

// SummaryInput is what the result of a run depends on, and nothing else does.
type SummaryInput struct {
	// Checks are all checks that the plan names; required.
	Checks []Check
	// Plan is everything that the run owes; required.
	Plan []Planned
	// Outcomes are those that were recorded.
	Outcomes []Outcome
	// Waivers are the user's.
	Waivers []Waiver
	// Now decides which waivers have expired; required with waivers.
	Now time.Time
	// Invalid says that the input was wrong: the result is invalid-input.
	Invalid error
	// Broken says that the run could not be carried out: the result is broken.
	Broken error
}

// Summary is the result of a run.
type Summary struct {
	Result RunResult
	// Outcomes are the recorded ones with waivers applied and those that the
	// selection skipped added, sorted by check, environment and tenant.
	Outcomes []Outcome
	// Problems are reasons, beside failed checks, why the result is not passed.
	Problems []string
}

// Summarize judges the run as a whole. Wrong input comes before a broken run,
// and a broken run before failed checks: a machine that could not judge
// everything is not to be taken for a platform that fails.
func Summarize(in SummaryInput) Summary {
	checks := make(map[string]Check, len(in.Checks))
	for _, c := range in.Checks {
		checks[c.ID] = c
	}
	outcomes, broken := settle(checks, in.Plan, in.Outcomes)
	switch {
	case in.Broken != nil && len(in.Plan) == 0:
		broken = lines(in.Broken) // it ended before there was anything to judge
	case in.Broken != nil:
		broken = append(lines(in.Broken), broken...)
	}
	// Waivers of what was never judged are no mistake of the user's.
	var waiverProblems []string
	if in.Invalid == nil {
		outcomes, waiverProblems = applyWaivers(outcomes, in.Waivers, in.Now)
	}
	sortOutcomes(outcomes)

	switch {
	case in.Invalid != nil:
		return Summary{RunInvalidInput, outcomes, lines(in.Invalid)}
	case len(broken) > 0:
		return Summary{RunBroken, outcomes, append(broken, waiverProblems...)}
	case len(waiverProblems) > 0:
		return Summary{RunFailed, outcomes, waiverProblems}
	}
	for _, o := range outcomes {
		if o.Result == Failed && checks[o.Check].Level == Core {
			return Summary{RunFailed, outcomes, nil}
		}
	}
	return Summary{RunPassed, outcomes, nil}
}

// settle lays the outcomes beside the plan. It adds what the selection skipped
// and names everything that makes the run say nothing.
func settle(checks map[string]Check, plan []Planned, recorded []Outcome) ([]Outcome, []string) {
	var broken []string
	outcomes := append([]Outcome(nil), recorded...)
	judged, done := 0, map[place]bool{}
	for _, o := range recorded {
		if err := o.Validate(); err != nil {
			broken = append(broken, err.Error())
		}
		if done[o.key()] {
			broken = append(broken, duplicate(o.key()).Error())
		}
		done[o.key()] = true
		if o.Result == Passed || o.Result == Failed {
			judged++
		}
	}
	owed, missing := map[place]bool{}, map[string][]string{}
	for _, p := range plan {
		key := place{p.Check, p.Environment, p.Tenant}
		if _, known := checks[p.Check]; !known {
			broken = append(broken, fmt.Sprintf("%s is planned, but no such check is registered", key))
		}
		owed[key] = true
		switch {
		case done[key]:
		case p.Skip != "":
			outcomes = append(outcomes, Outcome{
				Check: p.Check, Environment: p.Environment, Tenant: p.Tenant, Result: Skipped, Reason: p.Skip,
			})
		default:
			missing[p.Check] = append(missing[p.Check], where(p.Environment, p.Tenant))
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(missing), compareIDs) {
		broken = append(broken, fmt.Sprintf("%s was not judged: %s", id, abridge(missing[id])))
	}
	for _, o := range recorded {
		if !owed[o.key()] {
			broken = append(broken, fmt.Sprintf("%s was judged, but is not in the plan", o.key()))
		}
	}
	if judged == 0 && len(broken) == 0 {
		broken = append(broken, fmt.Sprintf(
			"no check was judged: of %d planned, all are skipped or not supported", len(plan)))
	}
	return outcomes, broken
}

// abridge lists places, a few of them when there are many: a bring-up that failed
// leaves every check of every tenant unjudged.
func abridge(places []string) string {
	const most = 4
	if len(places) <= most {
		return strings.Join(places, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(places[:most-1], "; "), len(places)-most+1)
}

// lines splits joined errors, so that each is a problem of its own, named once: a
// session that fails says so to who waits for it and again at its end.
func lines(err error) []string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || !strings.Contains(err.Error(), "\n") {
		return []string{err.Error()}
	}
	var out []string
	for _, line := range strings.Split(err.Error(), "\n") {
		if !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}
