package state

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Use is one object that another names.
type Use struct {
	// Field holds the name.
	Field string `json:"field"`
	// Kind, Namespace and Name of what it names; no namespace: it is of the cluster.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Owner of what is named; OwnersMap fills it in. Empty: it is not known, or
	// there is no such object.
	Owner string `json:"owner"`
}

// uses lists what an object names of its own namespace and of the cluster.
func (o owners) uses(object *unstructured.Unstructured) []Use {
	var out []Use
	list, err := References(object)
	if err != nil {
		list = nil // what cannot be read is said where references are followed
	}
	for _, r := range list {
		out = append(out, Use{Field: r.Field, Kind: r.Kind, Namespace: object.GetNamespace(), Name: r.Name})
	}
	for _, r := range clusterReferences(object) {
		out = append(out, Use{Field: r.Field, Kind: r.Kind, Name: r.Name})
	}
	if object.GetKind() == "RoleBinding" {
		if role, _, _ := unstructured.NestedStringMap(object.Object, "roleRef"); role["kind"] == "Role" {
			out = append(out, Use{Field: "roleRef", Kind: "Role", Namespace: object.GetNamespace(), Name: role["name"]})
		}
	}
	return out
}

// clusterReferences lists the objects without a namespace that an object names.
func clusterReferences(object *unstructured.Unstructured) []Reference {
	var out []Reference
	add := func(kind string, path ...string) {
		if name, _, _ := unstructured.NestedString(object.Object, path...); name != "" {
			out = append(out, Reference{Field: strings.Join(path, "."), Kind: kind, Name: name})
		}
	}
	if path, ok := podSpecs[object.GetKind()]; ok {
		for _, field := range []struct{ name, kind string }{
			{"priorityClassName", "PriorityClass"}, {"runtimeClassName", "RuntimeClass"}, {"nodeName", "Node"},
		} {
			add(field.kind, append(slices.Clone(path), field.name)...)
		}
	}
	switch object.GetKind() {
	case "Ingress":
		add("IngressClass", "spec", "ingressClassName")
		add("IngressClass", "metadata", "annotations", "kubernetes.io/ingress.class")
	case "PersistentVolumeClaim":
		add("StorageClass", "spec", "storageClassName")
		add("PersistentVolume", "spec", "volumeName")
		add("VolumeAttributesClass", "spec", "volumeAttributesClassName")
	case "PersistentVolume":
		add("StorageClass", "spec", "storageClassName")
	case "RoleBinding", "ClusterRoleBinding":
		if kind, _, _ := unstructured.NestedString(object.Object, "roleRef", "kind"); kind == "ClusterRole" {
			add(kind, "roleRef", "name")
		}
	case "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicyBinding":
		add(strings.TrimSuffix(object.GetKind(), "Binding"), "spec", "policyName")
	case "Gateway":
		add("GatewayClass", "spec", "gatewayClassName")
	}
	return out
}

// reaching finds the objects of the cluster that matter to the shared namespaces:
// those that refer into them, with the fields that do, and those that they, or
// objects there, name.
func (o owners) reaching() map[*unstructured.Unstructured][]string {
	spaces := map[string]labels.Set{}
	for _, object := range o.Objects {
		spaces[object.GetNamespace()] = labels.Set{"kubernetes.io/metadata.name": object.GetNamespace()}
	}
	for _, object := range o.Cluster {
		if _, shared := spaces[object.GetName()]; shared && object.GetKind() == "Namespace" {
			spaces[object.GetName()] = labels.Merge(object.GetLabels(), spaces[object.GetName()])
		}
	}
	out := map[*unstructured.Unstructured][]string{}
	from := slices.Clone(o.Objects)
	for _, object := range o.Cluster {
		if fields := refersInto(object, spaces); len(fields) > 0 {
			out[object] = fields
			from = append(from, object)
		}
	}
	for _, object := range from {
		for _, r := range clusterReferences(object) {
			if target, ok := o.byPlace[address{"", r.Kind, r.Name}]; ok && out[target] == nil {
				out[target] = []string{}
			}
		}
	}
	return out
}

// refersInto lists the fields by which an object of the cluster reaches into
// namespaces, whose labels these are: by name, by a selector that matches them, or
// by naming accounts that are there.
func refersInto(object *unstructured.Unstructured, spaces map[string]labels.Set) []string {
	if _, shared := spaces[object.GetName()]; shared && object.GetKind() == "Namespace" {
		return []string{"it is the namespace"}
	}
	// Schemas have fields of every name.
	if object.GetKind() == "CustomResourceDefinition" {
		service, _, _ := unstructured.NestedStringMap(object.Object, "spec", "conversion", "webhook", "clientConfig", "service")
		if _, shared := spaces[service["namespace"]]; shared {
			return []string{"spec.conversion.webhook.clientConfig.service.namespace is " + service["namespace"]}
		}
		return nil
	}
	w := walker{spaces: spaces}
	for _, key := range sortedKeys(object.Object) {
		if key != "metadata" && key != "status" {
			w.walk(key, object.Object[key])
		}
	}
	return w.found
}

// selecting are the fields below which objects are told by their namespace, too,
// and no selector means every namespace.
var selecting = []string{"webhooks", "matchConstraints", "matchResources"}

// walker goes through the fields of an object of the cluster.
type walker struct {
	spaces map[string]labels.Set
	found  []string
}

func (w *walker) add(format string, args ...any) {
	w.found = append(w.found, fmt.Sprintf(format, args...))
}

func (w *walker) walk(path string, value any) {
	switch value := value.(type) {
	case []any:
		for i, item := range value {
			w.walk(fmt.Sprintf("%s[%d]", path, i), item)
		}
	case map[string]any:
		w.selects(path, value)
		w.subject(path, value)
		for _, key := range sortedKeys(value) {
			if name, text := value[key].(string); text && (key == "namespace" || key == "namespaces") {
				w.names(path+"."+key, name)
				continue
			}
			if list, ok := value[key].([]any); ok && key == "namespaces" {
				for _, item := range list {
					name, _ := item.(string)
					w.names(path+"."+key, name)
				}
				continue
			}
			w.walk(path+"."+key, value[key])
		}
	}
}

func (w *walker) names(path, name string) {
	if _, shared := w.spaces[name]; shared {
		w.add("%s is %s", path, name)
	}
}

// selects notes a selector of namespaces that matches a shared one, and that there
// is none where one could be.
func (w *walker) selects(path string, fields map[string]any) {
	last := path[strings.LastIndex(path, ".")+1:]
	name, _, _ := strings.Cut(last, "[")
	raw, given := fields["namespaceSelector"]
	if !given && !slices.Contains(selecting, name) {
		return
	}
	var selector metav1.LabelSelector
	if object, ok := raw.(map[string]any); ok {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, &selector); err != nil {
			return
		}
	}
	matcher, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return
	}
	for _, space := range sortedKeys(w.spaces) {
		switch {
		case !matcher.Matches(w.spaces[space]):
		case matcher.Empty():
			w.add("%s has no namespaceSelector, so it selects %s", path, space)
		default:
			w.add("%s.namespaceSelector selects %s", path, space)
		}
	}
}

// subject notes users and groups that are accounts of a shared namespace. That of a
// ServiceAccount is told by its namespace.
func (w *walker) subject(path string, fields map[string]any) {
	name, _ := fields["name"].(string)
	switch fields["kind"] {
	case "Group":
		if slices.Contains([]string{"system:serviceaccounts", "system:authenticated"}, name) {
			w.add("%s is the group %s", path, name)
		}
		if space, ok := strings.CutPrefix(name, "system:serviceaccounts:"); ok {
			w.names(path+".name", space)
		}
	case "User":
		if account, ok := strings.CutPrefix(name, "system:serviceaccount:"); ok {
			space, _, _ := strings.Cut(account, ":")
			w.names(path+".name", space)
		}
	}
}

// allocatedFor is the object that an address, a volume or a list of endpoints was
// made for.
func (o owners) allocatedFor(object *unstructured.Unstructured) *unstructured.Unstructured {
	text := func(path ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, path...)
		return value
	}
	switch object.GetKind() {
	case "Endpoints":
		if mirrored(object) {
			return o.byPlace[address{object.GetNamespace(), "Service", object.GetName()}]
		}
	case "IPAddress":
		if text("spec", "parentRef", "resource") == "services" {
			return o.byPlace[address{text("spec", "parentRef", "namespace"), "Service", text("spec", "parentRef", "name")}]
		}
	case "PersistentVolume":
		// One that nobody provisioned was written by somebody, who owns it.
		if object.GetAnnotations()["pv.kubernetes.io/provisioned-by"] != "" {
			return o.byPlace[address{text("spec", "claimRef", "namespace"), "PersistentVolumeClaim", text("spec", "claimRef", "name")}]
		}
	}
	return nil
}

// keeperOf is the program that keeps an object for itself, by the label in which
// such programs say so, other than the one that all charts use.
func keeperOf(object *unstructured.Unstructured) string {
	set := object.GetLabels()
	for _, key := range sortedKeys(set) {
		if strings.HasSuffix(key, "/managed-by") && key != "app.kubernetes.io/managed-by" {
			return set[key]
		}
	}
	return ""
}

// keptBy concludes from the label that names a program: the release of that name
// owns what its own programs, and nobody else, have written.
func (o owners) keptBy(object *unstructured.Unstructured, keeper string) conclusion {
	var releases []string
	found := map[string]bool{}
	for applier := range o.Inventories {
		if strings.HasSuffix(applier, "/"+keeper) && strings.HasPrefix(applier, "HelmRelease ") {
			releases = append(releases, applier)
			found[o.ownerOfApplier(applier)] = true
		}
	}
	if len(releases) == 0 {
		for applier := range o.Inventories {
			if strings.HasSuffix(applier, "/"+keeper) {
				releases = append(releases, applier)
				found[o.ownerOfApplier(applier)] = true
			}
		}
	}
	sort.Strings(releases)
	switch len(found) {
	case 0:
		return o.lost(object, nil, "its labels say that %s keeps it, and no Kustomization or HelmRelease is named so", keeper)
	case 1:
	default:
		return o.lost(object, releases, "its labels say that %s keeps it, which may be of %s", keeper, strings.Join(releases, " or "))
	}
	for _, entry := range object.GetManagedFields() {
		if entry.Subresource != "status" && !o.programOf(releases, keeper, entry.Manager) && !slices.Contains(kubernetes, entry.Manager) {
			return o.lost(object, releases, "its labels say that %s keeps it, and %s, which is no program of %s, wrote to it",
				keeper, entry.Manager, strings.Join(releases, " or "))
		}
	}
	return conclusion{owner: o.ownerOfApplier(releases[0]), by: "kept by " + releases[0], follows: true}
}

func (o owners) ownerOfApplier(applier string) string {
	if tenant, ok := o.Tenants[applier]; ok {
		return tenant
	}
	return OwnerPlatform
}

// programOf says whether a field manager is a program that one of these applied:
// programs are called as their release or the end of their Deployment's name.
func (o owners) programOf(appliers []string, keeper, manager string) bool {
	if manager == keeper {
		return true
	}
	for _, applier := range appliers {
		for _, id := range o.Inventories[applier] {
			parts := strings.Split(id, "_")
			if len(parts) == 4 && parts[3] == "Deployment" && (parts[1] == manager || strings.HasSuffix(parts[1], "-"+manager)) {
				return true
			}
		}
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for key := range m {
		out = append(out, key)
	}
	sort.Strings(out)
	return out
}
