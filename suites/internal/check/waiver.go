package check

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Date is a day without a clock time, written 2006-01-02.
type Date struct {
	day time.Time
}

// UnmarshalText reads the day from JSON and YAML.
func (d *Date) UnmarshalText(text []byte) error {
	day, err := time.Parse(time.DateOnly, string(text))
	if err != nil {
		return fmt.Errorf("date %q is not of the form 2006-01-31", text)
	}
	d.day = day
	return nil
}

// MarshalText writes the day; the zero value is an empty text.
func (d Date) MarshalText() ([]byte, error) {
	return []byte(d.String()), nil
}

// String is the day as 2006-01-02, empty for the zero value.
func (d Date) String() string {
	if d.IsZero() {
		return ""
	}
	return d.day.Format(time.DateOnly)
}

// IsZero tells whether no day is set.
func (d Date) IsZero() bool {
	return d.day.IsZero()
}

// Over tells whether the whole day has passed, in UTC.
func (d Date) Over(now time.Time) bool {
	return !now.Before(d.day.AddDate(0, 0, 1))
}

// Waiver accepts a failing check for a while, so that a platform can switch the
// gate on step by step. Its tags serve both the user's file and the report.
type Waiver struct {
	// Check is the ID; required, and no pattern.
	Check string `json:"check" yaml:"check"`
	// Environment and Tenant limit the waiver; empty means all of them.
	Environment string `json:"environment" yaml:"environment"`
	Tenant      string `json:"tenant" yaml:"tenant"`
	// Reason says why the failure is accepted; required.
	Reason string `json:"reason" yaml:"reason"`
	// Expires is the last day on which the waiver holds, in UTC; required.
	Expires Date `json:"expires" yaml:"expires"`
}

// Validate names everything that is missing or malformed, in one error.
func (w Waiver) Validate() error {
	var errs []error
	if !idForm.MatchString(w.Check) {
		errs = append(errs, fmt.Errorf("check %q is not of the form AREA-NNN or AREA-XNN", w.Check))
	}
	if strings.TrimSpace(w.Reason) == "" {
		errs = append(errs, errors.New("reason is empty; say why the failure is accepted"))
	}
	if w.Expires.IsZero() {
		errs = append(errs, errors.New("expires is missing; give the last day on which the waiver holds, as 2006-01-31"))
	}
	if len(errs) > 0 {
		return fmt.Errorf("%s: %w", w, errors.Join(errs...))
	}
	return nil
}

// String names the waiver as errors and reports do.
func (w Waiver) String() string {
	text := "waiver of " + w.Check
	if w.Environment != "" {
		text += " in " + w.Environment
	}
	if w.Tenant != "" {
		text += " for tenant " + w.Tenant
	}
	return text
}

func (w Waiver) covers(p place) bool {
	return w.Check == p.check &&
		(w.Environment == "" || w.Environment == p.environment) &&
		(w.Tenant == "" || w.Tenant == p.tenant)
}

// applyWaivers returns the outcomes with FAILED turned into WAIVED where a
// waiver in force covers it, and what is wrong with the waivers: expired, about
// nothing that this run could judge, or about something that passes. A waiver
// whose checks were all skipped or not supported is left alone; nothing is known
// of it.
func applyWaivers(outcomes []Outcome, waivers []Waiver, now time.Time) ([]Outcome, []string) {
	var problems []string
	applied := append([]Outcome(nil), outcomes...)
	for _, waiver := range waivers {
		if err := waiver.Validate(); err != nil {
			problems = append(problems, err.Error())
			continue
		}
		if waiver.Expires.Over(now) {
			problems = append(problems, fmt.Sprintf(
				"%s expired after %s: mend the check, or renew the waiver with its reason (%s)",
				waiver, waiver.Expires, waiver.Reason))
			continue
		}
		matched, failed, passed := 0, 0, 0
		for i, o := range outcomes {
			if !waiver.covers(o.key()) {
				continue
			}
			matched++
			switch o.Result {
			case Failed:
				failed++
				if applied[i].Waiver == nil {
					applied[i].Result, applied[i].Waiver = Waived, &waiver
				}
			case Passed:
				passed++
			case Waived, Skipped, NotSupported:
			}
		}
		switch {
		case matched == 0:
			problems = append(problems, fmt.Sprintf(
				"%s matches no check of this platform: correct its check, environment or tenant, or remove it", waiver))
		case failed == 0 && passed > 0:
			problems = append(problems, fmt.Sprintf(
				"%s is no longer needed, the check passes: remove it", waiver))
		}
	}
	return applied, problems
}

// DateOf is the day of a time, in UTC.
func DateOf(t time.Time) Date { return Date{day: t.UTC().Truncate(24 * time.Hour)} }
