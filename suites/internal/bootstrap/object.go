package bootstrap

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// kinds are the Flux kinds that a bring-up waits for, in the order in which a
// change passes through them.
var kinds = []schema.GroupVersionKind{
	{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "GitRepository"},
	{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "OCIRepository"},
	{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "Bucket"},
	{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "HelmRepository"},
	{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "HelmChart"},
	{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"},
	{Group: "helm.toolkit.fluxcd.io", Version: "v2", Kind: "HelmRelease"},
}

// Ref names a Flux object.
type Ref struct{ Kind, Namespace, Name string }

// String is the form in which messages name an object.
func (r Ref) String() string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// Object is what is known of a Flux object that others may wait for.
type Object struct {
	Ref
	// Generation is the spec's, Observed the one that the status speaks of.
	Generation, Observed int64
	// Ready, Reason and Message are those of the Ready condition; Since is when
	// its status last changed.
	Ready, Reason, Message string
	Since                  time.Time
	// Stalled and Reconciling say whether those conditions hold.
	Stalled, Reconciling bool
	Suspended            bool
	// Revision is the artifact's (sources), the last attempted one (others).
	Revision string
	// Digest is the artifact's.
	Digest string
	// Handled is the last request for reconciliation that was acted on.
	Handled string
	// WaitsFor are the objects that must be ready first: dependencies, sources,
	// included repositories, charts.
	WaitsFor []Ref
	// URL of a source.
	URL string
	// Chart is what a HelmChart asks of its source, by name and version.
	Chart string
	// Live is the object as the server returned it.
	Live *unstructured.Unstructured
}

// Current says whether the object is ready at its latest generation.
func (o Object) Current() bool {
	return o.Ready == "True" && o.Observed == o.Generation
}

// Inventory lists what a Kustomization or HelmRelease says that it applied, as
// namespace_name_group_kind.
func (o Object) Inventory() []string {
	entries, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "inventory", "entries")
	var out []string
	for _, entry := range entries {
		fields, _ := entry.(map[string]any)
		id, _ := fields["id"].(string)
		out = append(out, id)
	}
	return out
}

// Observe lists all Flux objects of a cluster; kinds that the server does not
// know yet are left out.
func Observe(ctx context.Context, c client.Reader) ([]Object, error) {
	return observe(ctx, c, func(string) bool { return true })
}

// observe lists the Flux objects of some kinds.
func observe(ctx context.Context, c client.Reader, wanted func(kind string) bool) ([]Object, error) {
	var out []Object
	for _, gvk := range kinds {
		if !wanted(gvk.Kind) {
			continue
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err := c.List(ctx, list); err != nil {
			if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("list %s: %w", gvk.Kind, err)
		}
		for i := range list.Items {
			out = append(out, read(gvk.Kind, &list.Items[i]))
		}
	}
	return out, nil
}

func read(kind string, live *unstructured.Unstructured) Object {
	o := Object{
		Ref:        Ref{Kind: kind, Namespace: live.GetNamespace(), Name: live.GetName()},
		Generation: live.GetGeneration(), Live: live,
	}
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(live.Object, fields...)
		return value
	}
	o.Observed, _, _ = unstructured.NestedInt64(live.Object, "status", "observedGeneration")
	o.Suspended, _, _ = unstructured.NestedBool(live.Object, "spec", "suspend")
	o.URL = text("spec", "url")
	if kind == "HelmChart" {
		o.Chart = strings.TrimSpace(text("spec", "chart") + " " + text("spec", "version"))
	}
	o.Handled = text("status", "lastHandledReconcileAt")
	o.Revision, o.Digest = text("status", "artifact", "revision"), text("status", "artifact", "digest")
	if o.Revision == "" {
		o.Revision = text("status", "lastAttemptedRevision")
	}
	status, ready := condition(live, "Ready")
	o.Ready = status
	if ready != nil {
		o.Reason, _ = ready["reason"].(string)
		message, _ := ready["message"].(string)
		o.Message = strings.TrimSpace(message)
		since, _ := ready["lastTransitionTime"].(string)
		o.Since, _ = time.Parse(time.RFC3339, since)
	}
	stalled, _ := condition(live, "Stalled")
	reconciling, _ := condition(live, "Reconciling")
	o.Stalled, o.Reconciling = stalled == "True", reconciling == "True"
	// A Helm repository of type oci has no status: it is a mere address.
	if kind == "HelmRepository" && text("spec", "type") == "oci" {
		o.Ready, o.Observed = "True", o.Generation
	}
	o.WaitsFor = waitsFor(kind, live)
	return o
}

func waitsFor(kind string, live *unstructured.Unstructured) []Ref {
	var out []Ref
	add := func(kind string, fields map[string]any) {
		name, _ := fields["name"].(string)
		if name == "" {
			return
		}
		if k, ok := fields["kind"].(string); ok && k != "" {
			kind = k
		}
		namespace, _ := fields["namespace"].(string)
		if namespace == "" {
			namespace = live.GetNamespace()
		}
		// A repository is included once for each folder that is wanted of it.
		if ref := (Ref{Kind: kind, Namespace: namespace, Name: name}); !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	each := func(kind, key string, fields ...string) {
		list, _, _ := unstructured.NestedSlice(live.Object, fields...)
		for _, entry := range list {
			item, _ := entry.(map[string]any)
			if key != "" {
				item, _ = item[key].(map[string]any)
			}
			add(kind, item)
		}
	}
	one := func(kind string, fields ...string) {
		item, _, _ := unstructured.NestedMap(live.Object, fields...)
		add(kind, item)
	}
	switch kind {
	case "GitRepository":
		each("GitRepository", "repository", "spec", "include")
	case "HelmChart":
		one("HelmRepository", "spec", "sourceRef")
	case "Kustomization":
		each("Kustomization", "", "spec", "dependsOn")
		one("GitRepository", "spec", "sourceRef")
	case "HelmRelease":
		each("HelmRelease", "", "spec", "dependsOn")
		one("OCIRepository", "spec", "chartRef")
		if _, ok, _ := unstructured.NestedMap(live.Object, "spec", "chart"); ok {
			one("HelmRepository", "spec", "chart", "spec", "sourceRef")
			if chart, _, _ := unstructured.NestedString(live.Object, "status", "helmChart"); chart != "" {
				namespace, name, _ := strings.Cut(chart, "/")
				out = append(out, Ref{Kind: "HelmChart", Namespace: namespace, Name: name})
			}
		}
	}
	return out
}

// Chain explains, object by object, what is not ready, since when, with which
// message, and what it waits for in turn. Objects that fail by themselves come
// first: they are where to look.
func Chain(objects []Object, now time.Time) []string {
	index := map[Ref]Object{}
	for _, o := range objects {
		index[o.Ref] = o
	}
	type line struct {
		depth int
		text  string
	}
	var lines []line
	for _, o := range objects {
		if o.Current() {
			continue
		}
		text := o.String()
		switch {
		case o.Suspended:
			text += " is suspended"
		case o.Ready == "":
			text += " has no status yet"
		default:
			text += fmt.Sprintf(" is not ready (%s", o.Reason)
			if !o.Since.IsZero() {
				text += fmt.Sprintf(", since %s", now.Sub(o.Since).Round(time.Second))
			}
			text += "): " + o.Message
		}
		if o.Chart != "" {
			text += "; the chart that it asks for is " + o.Chart
		}
		depth := 0
		for _, ref := range o.WaitsFor {
			target, known := index[ref]
			if !known {
				text += fmt.Sprintf("; waits for %s, which does not exist", ref)
			} else if !target.Current() {
				text += fmt.Sprintf("; waits for %s", ref)
				depth = 1
			}
		}
		lines = append(lines, line{depth, text})
	}
	sort.SliceStable(lines, func(i, j int) bool { return lines[i].depth < lines[j].depth })
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, l.text)
	}
	return out
}
