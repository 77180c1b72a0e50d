package files

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// Area is that of all checks of this package.
const Area = "FILE"

// Input of Judge.
type Input struct {
	// Platform is the one that is judged, as it was loaded; required. It is judged
	// whole: a check of one environment may have to look at another.
	Platform *platform.Platform
	// Checks, Environments and Tenants narrow what is judged, by name; an empty
	// list means all. Names that do not exist narrow it to nothing.
	Checks, Environments, Tenants []string
	// Production names the environments that are production; default: those whose
	// name says so.
	Production []string
}

// verdict is what a rule says of one environment, tenant or platform.
type verdict struct {
	// findings are what is wrong, each a line that begins with its file:line.
	findings []string
	// unknown says why nothing can be said, when there are no findings.
	unknown string
	note    string
}

func (v *verdict) add(at platform.Origin, format string, args ...any) {
	line := fmt.Sprintf("%s: %s", at, fmt.Sprintf(format, args...))
	if !slices.Contains(v.findings, line) {
		v.findings = append(v.findings, line)
	}
}

// rule is a check and how it is judged; of the functions it has the one of its
// scope.
type rule struct {
	check.Check
	whole         func(*reading) verdict
	inEnvironment func(*reading, *platform.Environment) verdict
	ofTenant      func(*reading, *platform.Environment, *platform.Tenant) verdict
}

func (r rule) scoped() rule {
	r.Level = check.Core
	switch {
	case r.whole != nil:
		r.Scope = check.ScopePlatform
	case r.inEnvironment != nil:
		r.Scope = check.ScopeEnvironment
	default:
		r.Scope = check.ScopeTenant
	}
	return r
}

// rules are all of them, by ID.
func rules() []rule {
	list := slices.Concat(referenceRules, yamlRules, valueRules, schemaRules, credentialRules, pinRules, objectRules)
	for i := range list {
		list[i] = list[i].scoped()
	}
	slices.SortFunc(list, func(a, b rule) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Checks lists the checks of this package.
func Checks() []check.Check {
	var out []check.Check
	for _, r := range rules() {
		out = append(out, r.Check)
	}
	return out
}

// Is says whether a check is one of this package.
func Is(id string) bool { return strings.HasPrefix(id, Area+"-") }

// Judge judges the selected checks. The error says which file could not be read,
// or that ctx ended; it is never that a check failed.
func Judge(ctx context.Context, in Input) ([]check.Outcome, error) {
	if in.Platform == nil {
		return nil, errors.New("judge the files: no platform is given")
	}
	read, err := readAll(ctx, in.Platform, in.Production)
	if err != nil {
		return nil, err
	}
	selects := func(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }
	var out []check.Outcome
	add := func(r rule, environment, tenant string, judge func() verdict) {
		started := time.Now()
		o := outcome(r.Check, judge())
		o.Environment, o.Tenant, o.Seconds = environment, tenant, time.Since(started).Seconds()
		out = append(out, o)
	}
	for _, r := range rules() {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("judge the files: %w", context.Cause(ctx))
		}
		if !selects(in.Checks, r.ID) {
			continue
		}
		if r.whole != nil {
			add(r, "", "", func() verdict { return r.whole(read) })
			continue
		}
		for _, e := range in.Platform.Environments {
			switch {
			case !selects(in.Environments, e.Name):
			case r.inEnvironment != nil:
				add(r, e.Name, "", func() verdict { return r.inEnvironment(read, e) })
			default:
				for _, t := range e.Tenants {
					if selects(in.Tenants, t.Name) {
						add(r, e.Name, t.Name, func() verdict { return r.ofTenant(read, e, t) })
					}
				}
			}
		}
	}
	return out, nil
}

// outcome turns a verdict into what a report holds of it.
func outcome(c check.Check, v verdict) check.Outcome {
	o := check.Outcome{Check: c.ID, Result: check.Passed, Note: v.note}
	switch {
	case len(v.findings) > 0:
		const most = 30
		shown := v.findings
		if len(shown) > most {
			shown = append(slices.Clone(shown[:most]), fmt.Sprintf("and %d more", len(shown)-most))
		}
		o.Result, o.Expected, o.Found = check.Failed, c.Title, strings.Join(shown, "\n")
	case v.unknown != "":
		o.Result, o.Reason = check.NotSupported, v.unknown
	}
	return o
}
