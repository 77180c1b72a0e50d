package state

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Snapshot is what the objects of shared namespaces were at one moment, by
// «Kind namespace/name».
type Snapshot map[string]Recorded

// Recorded is one object of a snapshot.
type Recorded struct {
	UID        types.UID
	Generation int64
	// Owner is the tenant that the object belongs to; empty when it is no tenant's.
	Owner string
	// Derived tells that a controller made the object of another one.
	Derived bool
	// fields are those that describe the object, by path.
	fields map[string]any
}

// Record takes down objects. tenants maps what applies objects («Kind
// namespace/name») to the tenant whose it is: an object is of who applied it, as
// its labels say, or of the object that it was made of. What comes and goes by itself, like events,
// leases and reports, is left out.
func Record(objects []*unstructured.Unstructured, tenants map[string]string) Snapshot {
	byUID := map[types.UID]*unstructured.Unstructured{}
	services := map[string]*unstructured.Unstructured{}
	for _, object := range objects {
		byUID[object.GetUID()] = object
		if object.GetKind() == "Service" {
			services[object.GetNamespace()+"/"+object.GetName()] = object
		}
	}
	out := Snapshot{}
	for _, object := range objects {
		if fleeting(object) {
			continue
		}
		r := Recorded{UID: object.GetUID(), Generation: object.GetGeneration(), fields: map[string]any{}}
		origin := object
		for depth := 0; origin != nil && depth < 8; depth++ {
			if by := Applier(origin); by != "" {
				r.Owner = tenants[by]
				break
			}
			var parent *unstructured.Unstructured
			if references := origin.GetOwnerReferences(); len(references) > 0 {
				parent = byUID[references[0].UID]
			} else if origin.GetKind() == "Endpoints" {
				parent = services[origin.GetNamespace()+"/"+origin.GetName()]
			}
			r.Derived = true
			origin = parent
		}
		r.Derived = r.Derived && r.Owner != ""
		for path, value := range leaves(object.Object) {
			if stands(object.GetKind(), path) {
				r.fields[path] = value
			}
		}
		if follows(object.GetKind()) {
			r.Generation = 0
		}
		out[fmt.Sprintf("%s %s/%s", object.GetKind(), object.GetNamespace(), object.GetName())] = r
	}
	return out
}

// fleeting says whether an object comes and goes without anybody's doing, or is
// about to go.
func fleeting(object *unstructured.Unstructured) bool {
	kind := object.GetKind()
	return kind == "Event" || kind == "Lease" || strings.HasSuffix(kind, "Report") || object.GetDeletionTimestamp() != nil
}

// follows says whether a kind's content is the state of pods.
func follows(kind string) bool { return kind == "Endpoints" || kind == "EndpointSlice" }

// stands says whether a field is of what was said of an object, and not of what
// became of it.
func stands(kind, path string) bool {
	switch {
	case strings.HasPrefix(path, "status"), strings.HasPrefix(path, "metadata.managedFields"),
		path == "metadata.resourceVersion", path == "metadata.generation", path == "metadata.uid", path == "metadata.creationTimestamp",
		strings.HasPrefix(path, "metadata.annotations."+requested):
		return false
	case follows(kind):
		return !strings.HasPrefix(path, "endpoints") && !strings.HasPrefix(path, "subsets") && !strings.HasPrefix(path, "metadata.annotations.")
	}
	return true
}

// Change is one object that is other than it was.
type Change struct {
	// Object is «Kind namespace/name».
	Object string
	// Owners are those that it had before and has now, each once; an object that
	// is no tenant's has the owner "".
	Owners []string
	// Derived tells that a controller made the object of another one.
	Derived bool
	// What became of it.
	What string
}

// String is the form in which failures show a change.
func (c Change) String() string {
	var owners []string
	for _, owner := range c.Owners {
		if owner == "" {
			owner = "no tenant"
		}
		owners = append(owners, owner)
	}
	return fmt.Sprintf("%s of %s %s", c.Object, strings.Join(owners, " and "), c.What)
}

// mostFields bounds how many fields of one object a change shows.
const mostFields = 3

// Changes lists the objects that differ between two snapshots: those that came,
// went or were replaced, and those whose generation or content is another.
func Changes(before, after Snapshot) []Change {
	var out []Change
	for object, was := range before {
		is, there := after[object]
		change := Change{Object: object, Owners: []string{was.Owner}, Derived: was.Derived}
		if !there {
			change.What = "is gone"
			out = append(out, change)
			continue
		}
		if is.Owner != was.Owner {
			change.Owners = append(change.Owners, is.Owner)
		}
		fields := differing(was.fields, is.fields)
		switch {
		case is.UID != was.UID:
			change.What = "was replaced by another of that name"
		case is.Generation != was.Generation:
			change.What = fmt.Sprintf("went from generation %d to %d", was.Generation, is.Generation)
		case len(fields) > 0:
			change.What = "changed"
		default:
			continue
		}
		if len(fields) > mostFields {
			fields = append(fields[:mostFields], fmt.Sprintf("and %d more fields", len(fields)-mostFields))
		}
		if len(fields) > 0 {
			change.What += ": " + strings.Join(fields, ", ")
		}
		out = append(out, change)
	}
	for object, is := range after {
		if _, there := before[object]; !there {
			out = append(out, Change{Object: object, Owners: []string{is.Owner}, Derived: is.Derived, What: "is new"})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Object < out[j].Object })
	return out
}

func differing(was, is map[string]any) []string {
	paths := map[string]bool{}
	for path := range was {
		paths[path] = true
	}
	for path := range is {
		paths[path] = true
	}
	var out []string
	for path := range paths {
		if !same(was[path], is[path]) {
			out = append(out, fmt.Sprintf("%s: %s, now %s", path, text(was[path]), text(is[path])))
		}
	}
	sort.Strings(out)
	return out
}

// Without is the object as recorded, some of its fields left out.
func (r Recorded) Without(paths ...string) Recorded {
	fields := make(map[string]any, len(r.fields))
	for path, value := range r.fields {
		if !slices.Contains(paths, path) {
			fields[path] = value
		}
	}
	r.fields = fields
	return r
}
