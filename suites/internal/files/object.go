package files

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// objectRules judge what is built.
var objectRules = []rule{
	{Check: check.Check{
		ID:        "FILE-012",
		Title:     "every object is declared once",
		Why:       "of two that declare one object the last to apply it wins, in silence, and when either stops the object is deleted for both",
		Remedy:    "give the object to one of them, or each a name of its own",
		Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#prune",
	}, inEnvironment: declaredOnce},
	{Check: check.Check{
		ID:        "FILE-014",
		Title:     "the tenant can be built: all that its sources and kustomizations name is there",
		Why:       "after the merge Flux refuses the build, and the tenant stays at its last state while changes seem to be made",
		Remedy:    "mend the file at the line that is named; «kustomize build» of the folder shows the same",
		Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#ready-status",
	}, ofTenant: built},
	{Check: check.Check{
		ID:        "FILE-015",
		Title:     "environments have the same tenants, objects and files, and differ within them only",
		Why:       "what is there in one environment and not in the next was never tried before production, or is missing in it",
		Remedy:    "add the counterpart, or remove what was left; an intended difference in kind is declared by a waiver with its reason",
		Reference: "https://fluxcd.io/flux/guides/repository-structure/",
	}, whole: parity},
}

// twice are kustomize's words for one object from two places of a build.
const twice = "already registered id"

func isTwice(p platform.Problem) bool {
	return p.Conflict() || strings.Contains(p.Err.Error(), twice)
}

func declaredOnce(r *reading, e *platform.Environment) verdict {
	var v verdict
	for _, p := range r.platform.Problems {
		if p.Environment == e.Name && isTwice(p) {
			v.add(p.Where, "%s in environment %s: %s", p.What, e.Name, p.Err)
		}
	}
	return v
}

func built(r *reading, e *platform.Environment, t *platform.Tenant) verdict {
	var v verdict
	for _, p := range r.platform.Problems {
		if p.Environment == e.Name && slices.Contains(p.Tenants, t.Name) && !isTwice(p) {
			v.add(p.Where, "%s in environment %s: %s", p.What, e.Name, p.Err)
		}
	}
	for _, k := range t.Kustomizations {
		if k.Unread != "" {
			v.unknown = fmt.Sprintf("%s is not read: %s", k, k.Unread)
		}
	}
	if len(t.Kustomizations) == 0 {
		v.unknown = notBuilt(t)
	}
	return v
}

func parity(r *reading) verdict {
	var v verdict
	environments := r.platform.Environments
	if len(environments) < 2 {
		v.unknown = "there is one environment: nothing to compare it with"
		return v
	}
	for _, here := range environments {
		for _, there := range environments {
			if here != there {
				lacking(&v, r.platform, here, there)
			}
		}
	}
	for _, repository := range r.repositories {
		if repository.own {
			counterparts(&v, r.platform, repository)
		}
	}
	return v
}

// lacking finds what one environment has and another does not.
func lacking(v *verdict, p *platform.Platform, here, there *platform.Environment) {
	for _, t := range here.Tenants {
		twin := there.Tenant(t.Name)
		switch {
		case twin == nil:
			at := platform.Origin{}
			if t.Kustomization != nil {
				at = t.Kustomization.Origin
			}
			v.add(at, "tenant %s is in %s, and not in %s", t.Name, here.Name, there.Name)
			continue
		case notBuilt(t) != "" || notBuilt(twin) != "":
			continue // it is not known what it has
		}
		have := map[string]int{}
		for _, o := range twin.Objects {
			have[key(p, o)]++
		}
		for _, o := range t.Objects {
			if have[key(p, o)]--; have[key(p, o)] < 0 {
				v.add(o.Origin, "tenant %s has a %s %s in %s, and none of it in %s", t.Name, o.GetKind(), o.GetName(), here.Name, there.Name)
			}
		}
	}
	owned := func(o platform.Object) bool { return o.Owner != nil && o.Owner.Tenant != "" }
	have := map[string]bool{}
	for _, o := range there.Objects {
		have[key(p, o)] = true
	}
	for _, o := range here.Objects {
		missing := o.Origin.File != "" && !owned(o) && !have[key(p, o)]
		if missing && !declaredByTenant(here, there, o) && !unreadThere(there, o) {
			v.add(o.Origin, "%s is in %s, and not in %s", o, here.Name, there.Name)
		}
	}
}

// declaredByTenant says that an object falls away with a tenant that is missing,
// which is said once.
func declaredByTenant(here, there *platform.Environment, o platform.Object) bool {
	for _, t := range here.Tenants {
		if there.Tenant(t.Name) == nil && (o.GetNamespace() == t.Namespace || slices.Contains(strings.Split(o.Origin.File, "/"), t.Name) || o.GetLabels()[platform.TenantLabel] == t.Name) {
			return true
		}
	}
	return false
}

// unreadThere says that the Kustomization which would bring an object is not read
// in the other environment.
func unreadThere(there *platform.Environment, o platform.Object) bool {
	return o.Owner != nil && slices.ContainsFunc(there.Kustomizations, func(k *platform.Kustomization) bool {
		return k.GetName() == o.Owner.GetName() && k.GetNamespace() == o.Owner.GetNamespace() && (k.Err != nil || k.Unread != "")
	})
}

// key names an object the same in all environments: kind and namespace, and its
// name with the environment's taken out; of what is generated the place instead
// of the name, which ends in a hash.
func key(p *platform.Platform, o platform.Object) string {
	name := o.GetName()
	if o.Origin.Line == 0 || o.Owner != nil && o.Owner.Tenant != "" {
		name = o.Origin.Folder + "/" + o.Origin.File
	}
	return fmt.Sprintf("%s %s %s", o.GroupVersionKind().GroupKind(), neutral(p, o.GetNamespace(), "-"), neutral(p, neutral(p, name, "-"), "/"))
}

// neutral takes the names of environments out of a name made of parts.
func neutral(p *platform.Platform, name, separator string) string {
	parts := strings.Split(name, separator)
	for i, part := range parts {
		if p.Environment(part) != nil {
			parts[i] = "ENV"
		}
	}
	return strings.Join(parts, separator)
}

// counterparts finds files in a folder of one environment that the folders of
// others do not have. A folder that only some environments have, like that of a
// missing tenant, is named once.
func counterparts(v *verdict, p *platform.Platform, r *repository) {
	folders := map[string]bool{}
	for _, f := range r.files {
		for dir := path.Dir(f.name); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	for _, f := range r.files {
		parts := strings.Split(f.name, "/")
		for i, part := range parts[:len(parts)-1] {
			here := p.Environment(part)
			if here == nil {
				continue
			}
			for _, there := range p.Environments {
				other := slices.Clone(parts)
				other[i] = there.Name
				// Only where the other environment has such a folder at all.
				if there == here || !folders[strings.Join(other[:i+1], "/")] || r.has(strings.Join(other, "/")) {
					continue
				}
				missing, what := f.name, strings.Join(other, "/")
				for j := i + 2; j < len(parts); j++ {
					if folder := strings.Join(other[:j], "/"); !folders[folder] {
						missing, what = strings.Join(parts[:j], "/"), folder
						break
					}
				}
				v.add(r.At(missing, 0), "is in %s, and %s is not there", here.Name, what)
			}
			break
		}
	}
}
