package state

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Counterpart is one object of a tenant in one environment.
type Counterpart struct {
	// Declared is the object as the platform renders it, Live as the cluster has it.
	Declared, Live *unstructured.Unstructured
}

// Deviation is a field that differs between environments, and that no declaration
// knows.
type Deviation struct {
	// Path of the field, e.g. spec.template.spec.containers[name=app].image.
	Path string
	// Here and There are the values as text in the two environments.
	Here, There string
	// Writers are the field managers that wrote it here; without any, admission or
	// the server set it.
	Writers []string
}

// String is the form in which failures show a deviation.
func (d Deviation) String() string {
	by := "set on admission"
	if len(d.Writers) > 0 {
		by = "written by " + strings.Join(d.Writers, " and ")
	}
	return fmt.Sprintf("%s: %s, %s; there %s; neither declares it", d.Path, d.Here, by, d.There)
}

// filled are the fields that the server fills in by itself where nobody does: it
// allocates them, or they follow from another field, as the pull policy from the
// tag of the image.
var filled = regexp.MustCompile(`(^|\.)(clusterIPs?|ipFamil(ies|yPolicy)|nodePort|healthCheckNodePort|allocateLoadBalancerNodePorts|` +
	`(external|internal)TrafficPolicy|sessionAffinityConfig|imagePullPolicy|rollingUpdate|volumeName)([.\[]|$)`)

// Deviations lists the fields of an object that differ from those of its
// counterpart in another environment, although neither of the two declares them.
// A declared field that is not as declared is Compare's to find.
//
// A field that somebody wrote in one of the two is a deviation of that one; one
// that admission set in one only, of that one; else of both. What Kubernetes' own
// controllers write is their work on the object: a number of replicas, a revision.
func Deviations(here, there Counterpart) []Deviation {
	live, other := leaves(here.Live.Object), leaves(there.Live.Object)
	declared, alsoDeclared := leaves(here.Declared.Object), leaves(there.Declared.Object)
	by, otherBy := writers(here.Live), writers(there.Live)
	var out []Deviation
	for path, ours := range live {
		_, known := declared[path]
		_, alsoKnown := alsoDeclared[path]
		theirs, exists := other[path]
		if known || alsoKnown || !described(path) || same(ours, theirs) {
			continue
		}
		managers := by[path]
		switch {
		case slices.ContainsFunc(append(slices.Clone(managers), otherBy[path]...), func(manager string) bool { return slices.Contains(kubernetes, manager) }):
			continue
		case len(managers) == 0 && (filled.MatchString(path) || exists && len(otherBy[path]) > 0):
			continue
		}
		slices.Sort(managers)
		out = append(out, Deviation{Path: path, Here: text(ours), There: text(theirs), Writers: slices.Compact(managers)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// described says whether a field describes the object, and is not its identity,
// its status, or Flux's note of who applied it.
func described(path string) bool {
	for _, prefix := range []string{
		"metadata.labels.kustomize.toolkit.fluxcd.io/", "metadata.labels.helm.toolkit.fluxcd.io/",
		"metadata.annotations." + requested, "status.",
	} {
		if strings.HasPrefix(path, prefix) {
			return false
		}
	}
	return !strings.HasPrefix(path, "metadata.") || strings.HasPrefix(path, "metadata.labels.") || strings.HasPrefix(path, "metadata.annotations.")
}

// requested is the annotation by which Flux is asked to look at an object now.
const requested = "reconcile.fluxcd.io/requestedAt"

// leaves maps the path of each value that holds no other to that value. Items of
// a list have their name in the path where all have one, else their index.
func leaves(object map[string]any) map[string]any {
	out := map[string]any{}
	collect("", object, out)
	return out
}

func collect(path string, value any, out map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			collect(join(path, key), child, out)
		}
		if len(v) == 0 && path != "" {
			out[path] = v
		}
	case []any:
		for i, child := range v {
			collect(path+place(v, i), child, out)
		}
		if len(v) == 0 {
			out[path] = v
		}
	default:
		out[path] = v
	}
}

func join(path, key string) string { return strings.TrimPrefix(path+"."+key, ".") }

// place is how a path names an item of a list.
func place(list []any, i int) string {
	if byName(list) {
		name, _ := nameOf(list[i])
		return fmt.Sprintf("[name=%s]", name)
	}
	return fmt.Sprintf("[%d]", i)
}

// writers maps the path of each value of an object to the field managers that
// wrote it.
func writers(live *unstructured.Unstructured) map[string][]string {
	out := map[string][]string{}
	for _, entry := range live.GetManagedFields() {
		set := fieldpath.NewSet()
		if entry.FieldsV1 == nil || set.FromJSON(entry.FieldsV1.GetRawReader()) != nil {
			continue
		}
		written := map[string]any{}
		set.Leaves().Iterate(func(path fieldpath.Path) { locate("", live.Object, path, written) })
		for path := range written {
			out[path] = append(out[path], entry.Manager)
		}
	}
	return out
}

// locate collects what holds no other value at and below a path of managedFields,
// which names an item of a list by its keys or itself.
func locate(at string, object any, path fieldpath.Path, out map[string]any) {
	if len(path) == 0 {
		collect(at, object, out)
		return
	}
	step, rest := path[0], path[1:]
	if fields, ok := object.(map[string]any); ok && step.FieldName != nil {
		if child, ok := fields[*step.FieldName]; ok {
			locate(join(at, *step.FieldName), child, rest, out)
		}
		return
	}
	list, _ := object.([]any)
	for i, item := range list {
		if step.Index != nil && *step.Index == i || step.Key != nil && hasKey(item, *step.Key) ||
			step.Value != nil && value.Equals(value.NewValueInterface(item), *step.Value) {
			locate(at+place(list, i), item, rest, out)
		}
	}
}
