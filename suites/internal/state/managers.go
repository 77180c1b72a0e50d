package state

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// reconciler is the name under which Flux applies what a Kustomization renders.
const reconciler = "kustomize-controller"

// kubernetes are the managers of Kubernetes' own programs. They complete objects
// with fields that nobody declares: a revision, a finalizer, a node's port.
var kubernetes = []string{"kube-controller-manager", "kube-apiserver", "kube-scheduler", "kubelet", "cloud-controller-manager"}

// AppliedInput is what AppliedProblems concludes from.
type AppliedInput struct {
	// Declared is the object as rendered, Live as it stands in the cluster.
	Declared, Live *unstructured.Unstructured
	// Kustomization («Kustomization namespace/name») declares it.
	Kustomization string
	// Inventories lists, for each of the kind, what it says it applied.
	Inventories map[string][]string
}

// AppliedProblems says where an object's inventory, labels and field managers do
// not agree that one Kustomization applied it, and nobody else wrote to it. Status
// is not looked at: it is the controllers'.
func AppliedProblems(in AppliedInput) ([]string, error) {
	var out []string
	id := InventoryID(in.Live)
	if !slices.Contains(in.Inventories[in.Kustomization], id) {
		out = append(out, fmt.Sprintf("the inventory of %s, which declares it, does not list it", in.Kustomization))
	}
	if by := Applier(in.Live); by != in.Kustomization {
		out = append(out, fmt.Sprintf("its labels name %s, %s declares it", cmp.Or(by, "nobody"), in.Kustomization))
	}
	applied := false
	for _, entry := range in.Live.GetManagedFields() {
		if entry.Manager == reconciler && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Subresource == "" {
			applied = true
			continue
		}
		written, err := foreignFields(in.Declared, entry)
		if err != nil {
			return nil, err
		}
		if len(written) > 0 {
			as := string(entry.Operation)
			if entry.Subresource != "" {
				as += " of " + entry.Subresource
			}
			out = append(out, fmt.Sprintf("%s (%s) wrote %s", entry.Manager, as, strings.Join(written, ", ")))
		}
	}
	if !applied {
		out = append(out, reconciler+" has applied none of its fields")
	}
	sort.Strings(out)
	return out, nil
}

// foreignFields lists what a manager wrote that is not its to write.
func foreignFields(declared *unstructured.Unstructured, entry metav1.ManagedFieldsEntry) ([]string, error) {
	if entry.FieldsV1 == nil {
		return nil, nil
	}
	set := fieldpath.NewSet()
	if err := set.FromJSON(entry.FieldsV1.GetRawReader()); err != nil {
		return nil, fmt.Errorf("read the fields of %s: %w", entry.Manager, err)
	}
	var out []string
	set.Leaves().Iterate(func(path fieldpath.Path) {
		if !ownBusiness(declared, entry, path) {
			out = append(out, strings.TrimPrefix(path.String(), "."))
		}
	})
	sort.Strings(out)
	return out, nil
}

// ownBusiness says whether a field is a controller's to write: the status, what
// Kubernetes adds to what is declared, a Flux controller's finalizer, and the
// request that makes Flux look again.
func ownBusiness(declared *unstructured.Unstructured, entry metav1.ManagedFieldsEntry, path fieldpath.Path) bool {
	starts := func(names ...string) bool {
		for i, name := range names {
			if i >= len(path) || path[i].FieldName == nil || *path[i].FieldName != name {
				return false
			}
		}
		return true
	}
	switch {
	case entry.Subresource == "status" && starts("status"):
		return true
	case slices.Contains(kubernetes, entry.Manager):
		return !declares(declared.Object, path)
	case strings.HasSuffix(entry.Manager, "-controller") && starts("metadata", "finalizers"):
		return true
	}
	return starts("metadata", "annotations", "reconcile.fluxcd.io/requestedAt")
}

// declares says whether an object has the field at a path.
func declares(object any, path fieldpath.Path) bool {
	if len(path) == 0 {
		return true
	}
	step, rest := path[0], path[1:]
	switch {
	case step.FieldName != nil:
		fields, _ := object.(map[string]any)
		child, ok := fields[*step.FieldName]
		return ok && declares(child, rest)
	case step.Index != nil:
		list, _ := object.([]any)
		return *step.Index < len(list) && declares(list[*step.Index], rest)
	case step.Key != nil:
		list, _ := object.([]any)
		return slices.ContainsFunc(list, func(item any) bool { return hasKey(item, *step.Key) && declares(item, rest) })
	case step.Value != nil:
		list, _ := object.([]any)
		return slices.ContainsFunc(list, func(item any) bool {
			return value.Equals(value.NewValueInterface(item), *step.Value)
		})
	}
	return false
}

// hasKey says whether an item of a list is the one with that key; a part of the
// key that is not declared has the server's default, and tells nothing.
func hasKey(item any, key value.FieldList) bool {
	fields, _ := item.(map[string]any)
	for _, part := range key {
		if found, ok := fields[part.Name]; ok && !value.Equals(value.NewValueInterface(found), part.Value) {
			return false
		}
	}
	return true
}

// lastWrite says who wrote to an object last, but for its status, and when; false
// when it does not say.
func lastWrite(object *unstructured.Unstructured) (string, bool) {
	var last *metav1.ManagedFieldsEntry
	for _, entry := range object.GetManagedFields() {
		if entry.Subresource == "" && entry.Time != nil && (last == nil || last.Time.Before(entry.Time)) {
			last = &entry
		}
	}
	if last == nil {
		return "", false
	}
	return fmt.Sprintf("%s (%s) at %s", last.Manager, last.Operation, moment(last.Time)), true
}

// moment is a time as the server writes it.
func moment(t *metav1.Time) string {
	if t == nil {
		return "a time that nobody noted"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// makers are the programs by which an owner writes, by what tells the owner.
var makers = []struct{ by, manager string }{
	{"inventory of Kustomization ", reconciler},
	{"inventory of HelmRelease ", "helm-controller"},
	{"made by ", "background-controller"},
}

// Takeovers lists where somebody else than the owner's programs wrote to an object
// whose owner is known: a second manager, by whose force the first may have lost
// what it applied. Each names both parties, and since when. What only reports, and
// what Kubernetes keeps for the cluster, is anybody's to write; what left names is
// left to others. judged counts the objects.
func Takeovers(list []Ownership, applied map[string]string, left func(*unstructured.Unstructured) bool) (problems []string, judged int, err error) {
	for _, o := range list {
		free := report(o.object) || o.Kind == "Event" || o.Owner == OwnerKubernetes && o.Namespace == ""
		if o.Problem != "" || free || left(o.object) {
			continue
		}
		judged++
		found, err := takeovers(o, applied)
		if err != nil {
			return nil, 0, err
		}
		problems = append(problems, found...)
	}
	sort.Strings(problems)
	return problems, judged, nil
}

func takeovers(o Ownership, applied map[string]string) ([]string, error) {
	owner, since := o.By, ""
	var maker string
	for _, m := range makers {
		if strings.HasPrefix(o.By, m.by) {
			maker = m.manager
			if when := applied[strings.TrimPrefix(o.By, "inventory of ")]; when != "" {
				since = ", which last applied at " + when
			}
		}
	}
	type write struct {
		manager string
		text    string
	}
	var writes []write
	known := false
	for _, entry := range o.object.GetManagedFields() {
		if entry.Subresource == "status" {
			continue
		}
		if maker != "" && (entry.Manager == maker || strings.HasSuffix(entry.Manager, "-"+maker)) || slices.Contains(kubernetes, entry.Manager) {
			known = true
			continue
		}
		fields, err := foreignFields(&unstructured.Unstructured{}, entry)
		if err != nil {
			return nil, err
		}
		if len(fields) > 0 {
			writes = append(writes, write{entry.Manager, fmt.Sprintf("%s (%s) wrote %s at %s", entry.Manager, entry.Operation, abridged(fields), moment(entry.Time))})
		}
	}
	// What an operator makes of its own objects has the operator as its one manager.
	if o.Follows && maker == "" && !known {
		for _, w := range writes {
			if w.manager != writes[0].manager {
				known = true
			}
		}
		if !known {
			return nil, nil
		}
	}
	var out []string
	for _, w := range writes {
		out = append(out, fmt.Sprintf("%s of %s (%s%s): %s", called(o.Kind, o.Namespace, o.Name), o.Owner, owner, since, w.text))
	}
	return out, nil
}

// abridged are the first of many fields.
func abridged(fields []string) string {
	const most = 6
	if len(fields) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(fields[:most], ", "), len(fields)-most)
	}
	return strings.Join(fields, ", ")
}
