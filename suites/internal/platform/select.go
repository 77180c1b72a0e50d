package platform

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Select returns the platform cut down to some environments and tenants; an
// empty list means all. A name that the platform does not have is an error with
// the nearest names, and so is a choice that leaves no tenant.
func (p *Platform) Select(environments, tenants []string) (*Platform, error) {
	var errs []error
	var known []string
	for _, e := range p.Environments {
		known = append(known, e.Name)
	}
	errs = append(errs, unknown("environment", environments, known)...)
	errs = append(errs, unknown("tenant", tenants, p.TenantNames())...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := *p
	out.Environments = nil
	for _, e := range p.Environments {
		if len(environments) > 0 && !slices.Contains(environments, e.Name) {
			continue
		}
		env := *e
		env.Tenants = nil
		for _, t := range e.Tenants {
			if len(tenants) == 0 || slices.Contains(tenants, t.Name) {
				env.Tenants = append(env.Tenants, t)
			}
		}
		out.Environments = append(out.Environments, &env)
	}
	if len(out.TenantNames()) == 0 {
		return nil, fmt.Errorf("environments %s have none of the tenants %s; nothing would be checked", names(environments, known), names(tenants, p.TenantNames()))
	}
	return &out, nil
}

func unknown(what string, wanted, known []string) []error {
	var errs []error
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("the platform has no %s %q%s (it has %s)", what, name, suggestion(name, known), strings.Join(known, ", ")))
		}
	}
	return errs
}

func names(chosen, all []string) string {
	if len(chosen) == 0 {
		chosen = all
	}
	return strings.Join(chosen, ", ")
}
