package live

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// leftOut is what Kyverno's own configuration keeps from every policy, whatever the
// policies say.
type leftOut struct {
	filters []resourceFilter
	// namespaces are those that its webhooks ask about, as the configuration states
	// them in text; nil: all.
	namespaces labels.Selector
	text       string
}

// resourceFilter is an entry of Kyverno's resourceFilters, each part a pattern.
type resourceFilter struct {
	group, version, kind, subresource, namespace, name string
	text                                               string
}

// configurations selects the ConfigMap that Kyverno's chart, and the manifests made
// from it, configure Kyverno with.
const configurations = "app.kubernetes.io/component=config"

// learnLeftOut reads Kyverno's configuration; where there is none, nothing is left out.
func (b *Bench) learnLeftOut(ctx context.Context) error {
	got := b.persist(ctx, func(ctx context.Context) response {
		return b.once(ctx, b.client.Get().AbsPath("/api/v1/configmaps").Param("labelSelector", configurations).MaxRetries(0))
	})
	if got.err != nil {
		return fmt.Errorf("read what Kyverno's configuration leaves out: %w", got.err)
	}
	list, err := got.object.ToList()
	if err != nil {
		return fmt.Errorf("read what Kyverno's configuration leaves out: %w", err)
	}
	for _, found := range list.Items {
		data, _, _ := unstructured.NestedStringMap(found.Object, "data")
		if data["resourceFilters"] == "" && data["webhooks"] == "" {
			continue
		}
		if b.leftOut, err = parseLeftOut(data["resourceFilters"], data["webhooks"]); err != nil {
			return fmt.Errorf("read what the ConfigMap %s/%s leaves out: %w", found.GetNamespace(), found.GetName(), err)
		}
	}
	return nil
}

var bracketed = regexp.MustCompile(`\[([^\[\]]*)\]`)

// parseLeftOut reads resourceFilters («[KIND,NAMESPACE,NAME] …») and webhooks (JSON
// with a namespaceSelector) as Kyverno does.
func parseLeftOut(filters, webhooks string) (leftOut, error) {
	var out leftOut
	for _, entry := range bracketed.FindAllStringSubmatch(filters, -1) {
		parts := append(strings.Split(entry[1], ","), "", "")
		f := kindPattern(parts[0])
		f.namespace, f.name, f.text = parts[1], parts[2], entry[0]
		out.filters = append(out.filters, f)
	}
	if webhooks == "" {
		return out, nil
	}
	var config struct {
		NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector"`
	}
	if err := json.Unmarshal([]byte(webhooks), &config); err != nil {
		return out, fmt.Errorf("its webhooks: %w", err)
	}
	if config.NamespaceSelector == nil {
		return out, nil
	}
	var err error
	if out.namespaces, err = metav1.LabelSelectorAsSelector(config.NamespaceSelector); err != nil {
		return out, fmt.Errorf("the namespaceSelector of its webhooks: %w", err)
	}
	out.text = metav1.FormatLabelSelector(config.NamespaceSelector)
	return out, nil
}

var versionPattern = regexp.MustCompile(`^(v\d((alpha|beta)\d)?|\*)$`)

// kindPattern reads KIND, VERSION/KIND or GROUP/VERSION/KIND, with «/SUBRESOURCE»
// behind or not.
func kindPattern(text string) resourceFilter {
	parts := strings.Split(text, "/")
	parts = append(parts[:len(parts)-1], strings.Split(parts[len(parts)-1], ".")...)
	out := resourceFilter{group: "*", version: "*"}
	switch {
	case text == "*/*":
		out.kind, out.subresource = "*", "*"
		return out
	case len(parts) == 4 || len(parts) == 3 && !versionPattern.MatchString(parts[0]):
		out.group, out.version, parts = parts[0], parts[1], parts[2:]
	case len(parts) > 1 && versionPattern.MatchString(parts[0]) && (parts[0] != "*" || len(parts) == 3 || strings.ToLower(parts[1]) != parts[1]):
		out.version, parts = parts[0], parts[1:]
	}
	out.kind = parts[0]
	if len(parts) > 1 {
		out.subresource = parts[1]
	}
	return out
}

func (f resourceFilter) matches(gvk schema.GroupVersionKind, subresource, namespace, name string) bool {
	if !wildcard(f.group, gvk.Group) || !wildcard(f.version, gvk.Version) || !wildcard(f.kind, gvk.Kind) || !wildcard(f.subresource, subresource) {
		return false
	}
	return wildcard(f.namespace, namespace) && wildcard(f.name, name) ||
		isNamespace(gvk) && wildcard(f.namespace, name)
}

func isNamespace(gvk schema.GroupVersionKind) bool {
	return gvk.Group == "" && gvk.Version == "v1" && gvk.Kind == "Namespace"
}

// why says why no request for such an object reaches a policy of Kyverno's; empty:
// it does. The labels are those of its namespace.
func (l leftOut) why(gvk schema.GroupVersionKind, subresource, namespace, name string, namespaceLabels map[string]string) string {
	for _, f := range l.filters {
		if f.matches(gvk, subresource, namespace, name) {
			return fmt.Sprintf("Kyverno's configuration leaves it out (resourceFilters %s), so no policy is asked about it", f.text)
		}
	}
	if isNamespace(gvk) {
		namespace = name
	}
	if l.namespaces == nil || namespace == "" {
		return ""
	}
	of := labels.Set{nameLabel: namespace}
	for key, value := range namespaceLabels {
		if key != nameLabel {
			of[key] = value
		}
	}
	if !l.namespaces.Matches(of) {
		return fmt.Sprintf("Kyverno's configuration leaves the namespace %s out (webhooks ask where %s), so no policy is asked about it", namespace, l.text)
	}
	return ""
}

// unreachable says why no request for an example reaches its policy; empty: it does.
// Kubernetes' own policies are not Kyverno's to leave anything out of.
func (b *Bench) unreachable(e *example.Example) string {
	if e.Policy.Object.GroupVersionKind().Group == admissionGroup {
		return ""
	}
	object := b.place(e.Object)
	gvk, labels := object.GroupVersionKind(), e.Test.Namespaces[object.GetNamespace()]
	if !e.Parent.Empty() {
		gvk = e.Parent
	}
	if isNamespace(gvk) {
		labels = maps.Clone(e.Test.Namespaces[object.GetName()])
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, object.GetLabels())
	}
	return b.leftOut.why(gvk, e.Subresource, object.GetNamespace(), object.GetName(), labels)
}

// deaf says why no request in a namespace reaches a policy of Kyverno's, so that no
// canary there is answered; empty: it does.
func (b *Bench) deaf(namespace string) string {
	return b.leftOut.why(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "", namespace, canaryName, b.currentLabels(namespace))
}
