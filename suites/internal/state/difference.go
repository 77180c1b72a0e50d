package state

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
)

// Counterpart is one object of a tenant in one environment.
type Counterpart struct {
	// Declared is the object as the platform renders it, Live as the cluster has it.
	Declared, Live *unstructured.Unstructured
}

// Deviation is a field that somebody wrote in one environment, and that no
// declaration knows.
type Deviation struct {
	// Path of the field, e.g. spec.template.spec.containers[name=app].image.
	Path string
	// Here and There are the values as text in the two environments.
	Here, There string
	// Writers are the field managers that wrote it here.
	Writers []string
}

// String is the form in which failures show a deviation.
func (d Deviation) String() string {
	return fmt.Sprintf("%s: %s, written by %s; there %s; neither declares it", d.Path, d.Here, strings.Join(d.Writers, " and "), d.There)
}

// Deviations lists the fields of an object that differ from those of its
// counterpart in another environment, although neither of the two declares them.
// A declared field that is not as declared is Compare's to find.
//
// Only what somebody wrote here counts. What nobody wrote is the server's own, and
// may follow from what is declared: a Deployment's pull policy from the tag of its
// image, the address of a Service from nothing at all. What Kubernetes' own
// controllers write is their work on the object: a number of replicas, a revision.
func Deviations(here, there Counterpart) []Deviation {
	live, other := leaves(here.Live.Object), leaves(there.Live.Object)
	declared, alsoDeclared := leaves(here.Declared.Object), leaves(there.Declared.Object)
	var out []Deviation
	for path, managers := range writers(here.Live) {
		_, known := declared[path]
		_, alsoKnown := alsoDeclared[path]
		value, exists := live[path]
		if known || alsoKnown || !exists || !described(path) || same(value, other[path]) {
			continue
		}
		slices.Sort(managers)
		out = append(out, Deviation{Path: path, Here: text(value), There: text(other[path]), Writers: slices.Compact(managers)})
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

// kubernetesManagers are the field managers of Kubernetes' own controllers.
var kubernetesManagers = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"}

// writers maps the path of each value of an object to the field managers that
// wrote it, those of Kubernetes itself and of its status left out.
func writers(live *unstructured.Unstructured) map[string][]string {
	out := map[string][]string{}
	entries, _, _ := unstructured.NestedSlice(live.Object, "metadata", "managedFields")
	for _, entry := range entries {
		fields, _ := entry.(map[string]any)
		manager, _ := fields["manager"].(string)
		subresource, _ := fields["subresource"].(string)
		written, _ := fields["fieldsV1"].(map[string]any)
		if subresource != "" || slices.Contains(kubernetesManagers, manager) {
			continue
		}
		found := map[string]any{}
		owned("", live.Object, written, found)
		for path := range found {
			out[path] = append(out[path], manager)
		}
	}
	return out
}

// owned collects the leaves of a value that a set of fields names, in the form
// of managedFields: «f:» before a key, «k:» before the keys of a list's item, «v:»
// before an item itself, «.» for what holds them. A set without any means all.
func owned(path string, value any, fields map[string]any, out map[string]any) {
	if len(fields) == 0 {
		collect(path, value, out)
		return
	}
	for key, inner := range fields {
		child, _ := inner.(map[string]any)
		kind, name, _ := strings.Cut(key, ":")
		switch kind {
		case "f":
			if object, ok := value.(map[string]any); ok && object[name] != nil {
				owned(join(path, name), object[name], child, out)
			}
		case "k", "v", "i":
			list, _ := value.([]any)
			for i, item := range list {
				if names(kind, name, i, item) {
					owned(path+place(list, i), item, child, out)
				}
			}
		}
	}
}

// names says whether a key of managedFields is of an item of a list.
func names(kind, key string, i int, item any) bool {
	var want any
	if json.Unmarshal([]byte(key), &want) != nil {
		return false
	}
	switch kind {
	case "i":
		return fmt.Sprint(want) == fmt.Sprint(i)
	case "v":
		return fmt.Sprint(want) == fmt.Sprint(item)
	}
	keys, _ := want.(map[string]any)
	fields, ok := item.(map[string]any)
	for k, v := range keys {
		ok = ok && fmt.Sprint(fields[k]) == fmt.Sprint(v)
	}
	return ok && len(keys) > 0
}
