package check

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Registry holds the checks of a run by ID. The zero value is empty and ready.
// It is filled before the first check runs and only read after, so it takes no
// lock.
type Registry struct {
	checks map[string]Check
}

// Add registers checks. Each is validated; an ID that is taken is an error, and
// so is one that differs from another in case only. All mistakes are named.
func (r *Registry) Add(checks ...Check) error {
	var errs []error
	for _, c := range checks {
		if err := c.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		if taken, ok := r.checks[c.ID]; ok {
			errs = append(errs, fmt.Errorf("check %s is registered twice: %q and %q", c.ID, taken.Title, c.Title))
			continue
		}
		if r.checks == nil {
			r.checks = map[string]Check{}
		}
		r.checks[c.ID] = c
	}
	return errors.Join(errs...)
}

// Get returns the check with this ID.
func (r *Registry) Get(id string) (Check, bool) {
	c, ok := r.checks[id]
	return c, ok
}

// All returns every check, by area and number.
func (r *Registry) All() []Check {
	all := make([]Check, 0, len(r.checks))
	for _, c := range r.checks {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Check) int { return compareIDs(a.ID, b.ID) })
	return all
}

// Select returns the checks that any of the patterns names, by area and number.
// A pattern is an ID (BOOT-001), an area (BOOT) or a glob over IDs (T*-00?), in
// either case. No pattern at all selects everything. A pattern that names
// nothing is an error that gives the nearest names; all of them are reported in
// one error.
func (r *Registry) Select(patterns []string) ([]Check, error) {
	all := r.All()
	if len(patterns) == 0 {
		return all, nil
	}
	var errs []error
	chosen := map[string]bool{}
	for _, pattern := range patterns {
		if err := choose(pattern, all, chosen); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return slices.DeleteFunc(all, func(c Check) bool { return !chosen[c.ID] }), nil
}

// choose marks the checks that one pattern names.
func choose(pattern string, all []Check, chosen map[string]bool) error {
	wanted := strings.ToUpper(strings.TrimSpace(pattern))
	found := false
	for _, c := range all {
		matched, err := path.Match(wanted, c.ID)
		if err != nil {
			return fmt.Errorf("check pattern %q is malformed: %w", pattern, err)
		}
		if matched || wanted == c.Area() {
			chosen[c.ID], found = true, true
		}
	}
	if found {
		return nil
	}
	names := make([]string, 0, 2*len(all))
	for _, c := range all {
		names = append(names, c.ID)
		if !slices.Contains(names, c.Area()) {
			names = append(names, c.Area())
		}
	}
	return fmt.Errorf("no check is named %q%s", pattern, DidYouMean(pattern, names))
}
