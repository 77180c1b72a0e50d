package check

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Result is what became of one check in one environment for one tenant.
type Result string

// The results that an outcome can have.
const (
	// Passed: the statement holds.
	Passed Result = "PASSED"
	// Failed: the statement does not hold.
	Failed Result = "FAILED"
	// Waived: it does not hold, and a waiver that is in force says why that is
	// accepted for now. Only Summarize gives this result.
	Waived Result = "WAIVED"
	// Skipped: the user's selection left the check out.
	Skipped Result = "SKIPPED"
	// NotSupported: the cluster lacks a capability that judging needs.
	NotSupported Result = "NOT_SUPPORTED"
)

// results is the order in which counts are given.
var results = []Result{Passed, Failed, Waived, NotSupported, Skipped}

// Outcome is what became of one check, in one environment, for one tenant. Which
// of the two it names follows from the check's scope.
type Outcome struct {
	// Check is the ID.
	Check string `json:"check"`
	// Environment is empty for a check of the whole platform.
	Environment string `json:"environment"`
	// Tenant is empty unless the check is judged per tenant.
	Tenant string `json:"tenant"`
	Result Result `json:"result"`
	// Expected and Found say what a failed check wanted and what it saw.
	Expected string `json:"expected"`
	Found    string `json:"found"`
	// Reason says why a check was skipped or is not supported.
	Reason string `json:"reason"`
	// Seconds is how long judging took.
	Seconds float64 `json:"seconds"`
	// Artifacts is the folder with what was dumped on failure, relative to the
	// report's folder; empty when there is none.
	Artifacts string `json:"artifacts"`
	// Note is what was measured, whatever the result; it decides nothing.
	Note string `json:"note,omitempty"`
	// Waiver is the one that turned FAILED into WAIVED.
	Waiver *Waiver `json:"waiver,omitempty"`
}

// Validate refuses an outcome that would say nothing: a result that only
// Summarize may give, a failure without expectation or finding, a skip without a
// reason.
func (o Outcome) Validate() error {
	var errs []error
	if !idForm.MatchString(o.Check) {
		errs = append(errs, fmt.Errorf("check %q is not of the form AREA-NNN or AREA-XNN", o.Check))
	}
	if o.Tenant != "" && o.Environment == "" {
		errs = append(errs, errors.New("a tenant is named without an environment"))
	}
	if o.Seconds < 0 {
		errs = append(errs, fmt.Errorf("seconds is negative: %v", o.Seconds))
	}
	switch o.Result {
	case Passed:
	case Failed:
		if strings.TrimSpace(o.Expected) == "" || strings.TrimSpace(o.Found) == "" {
			errs = append(errs, errors.New("a failure says what was expected and what was found; one of them is empty"))
		}
	case Skipped, NotSupported:
		if strings.TrimSpace(o.Reason) == "" {
			errs = append(errs, fmt.Errorf("%s needs a reason", o.Result))
		}
	case Waived:
		errs = append(errs, errors.New("WAIVED is given by a waiver, not recorded"))
	default:
		errs = append(errs, fmt.Errorf("result %q is unknown", o.Result))
	}
	if len(errs) > 0 {
		return fmt.Errorf("outcome of %s: %w", o.key(), errors.Join(errs...))
	}
	return nil
}

// place is what one judgement is about; no two outcomes share one.
type place struct{ check, environment, tenant string }

func (p place) String() string {
	return strings.TrimSpace(p.check + " " + where(p.environment, p.tenant))
}

func (o Outcome) key() place {
	return place{o.Check, o.Environment, o.Tenant}
}

// where names environment and tenant for a reader.
func where(environment, tenant string) string {
	switch {
	case environment == "":
		return "whole platform"
	case tenant == "":
		return environment
	default:
		return environment + ", tenant " + tenant
	}
}

func sortOutcomes(outcomes []Outcome) {
	slices.SortFunc(outcomes, func(a, b Outcome) int {
		return cmp.Or(
			compareIDs(a.Check, b.Check),
			strings.Compare(a.Environment, b.Environment),
			strings.Compare(a.Tenant, b.Tenant),
		)
	})
}

// Describe is a failed outcome as plain text for a file: a line per field, those
// without a value left out. Secrets are not taken out of it.
func Describe(c Check, o Outcome) string {
	var text strings.Builder
	for _, part := range []struct{ name, value string }{
		{"expected", o.Expected},
		{"found", o.Found},
		{"why", c.Why},
		{"mend", c.Remedy},
		{"see", c.Reference},
		{"artifacts", o.Artifacts},
		{"measured", o.Note},
	} {
		if part.value != "" {
			fmt.Fprintf(&text, "%s: %s\n", part.name, part.value)
		}
	}
	return text.String()
}
