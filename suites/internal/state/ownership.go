package state

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// The kinds that apply objects, and the groups of the labels name and namespace by
// which they mark them.
var appliers = []struct{ kind, group string }{
	{"Kustomization", "kustomize.toolkit.fluxcd.io"},
	{"HelmRelease", "helm.toolkit.fluxcd.io"},
}

// Applier is who the labels of an object say has applied it, as «Kind
// namespace/name»; empty when they name nobody.
func Applier(object *unstructured.Unstructured) string { return applierOf(object.GetLabels()) }

func applierOf(labels map[string]string) string {
	for _, a := range appliers {
		if name := labels[a.group+"/name"]; name != "" {
			return a.kind + " " + labels[a.group+"/namespace"] + "/" + name
		}
	}
	return ""
}

// Ownership is what is known of the owner of one object.
type Ownership struct {
	// Kind, Namespace and Name of the object.
	Kind, Namespace, Name string
	// Owner is the tenant, «platform», «kubernetes», or empty when unknown.
	Owner string
	// Problem says what is wrong with it; empty when the owner is certain.
	Problem string
}

// String is the form in which failures show an object.
func (o Ownership) String() string {
	text := fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name)
	if o.Problem != "" {
		text += ": " + o.Problem
	}
	return text
}

// OwnersInput is what Owners concludes from.
type OwnersInput struct {
	// Objects of the shared namespace, all kinds.
	Objects []*unstructured.Unstructured
	// Inventories lists, for each Kustomization and HelmRelease («Kind
	// namespace/name»), the objects that it says it applied, as
	// namespace_name_group_kind.
	Inventories map[string][]string
	// Tenants maps a tenant's Kustomizations and HelmReleases to the tenant.
	Tenants map[string]string
	// TenantLabel is the label that names the tenant on its objects.
	TenantLabel string
}

// Owners finds the owner of every object: by the inventory that lists it, the
// labels that it carries, and, for what controllers made, the object that owns
// it, or the policy that has it made. Where they disagree, or none speaks, the object has a Problem.
func Owners(in OwnersInput) []Ownership {
	listed := map[string][]string{}
	for kustomization, ids := range in.Inventories {
		for _, id := range ids {
			listed[id] = append(listed[id], kustomization)
		}
	}
	byUID := map[types.UID]*unstructured.Unstructured{}
	for _, object := range in.Objects {
		byUID[object.GetUID()] = object
	}
	out := make([]Ownership, 0, len(in.Objects))
	for _, object := range in.Objects {
		owner, problem := ownerOf(in, listed, byUID, object, 0)
		out = append(out, Ownership{
			Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(), Owner: owner, Problem: problem,
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].String() < out[j].String() })
	return out
}

// InventoryID is the form in which a Kustomization's inventory names an object.
func InventoryID(object *unstructured.Unstructured) string {
	name := strings.ReplaceAll(object.GetName(), ":", "__")
	return strings.Join([]string{object.GetNamespace(), name, object.GroupVersionKind().Group, object.GetKind()}, "_")
}

func ownerOf(in OwnersInput, listed map[string][]string, byUID map[types.UID]*unstructured.Unstructured, object *unstructured.Unstructured, depth int) (owner, problem string) {
	labels := object.GetLabels()
	inventories := listed[InventoryID(object)]
	sort.Strings(inventories)
	if len(inventories) > 1 {
		return "", "listed by the inventories of " + strings.Join(inventories, " and ")
	}
	if len(inventories) == 1 {
		applier := inventories[0]
		if by := Applier(object); by != applier && !helmsRecord(object) {
			return "", fmt.Sprintf("the inventory of %s lists it, its labels name %s", applier, cmp.Or(by, "nobody"))
		}
		tenant, ok := in.Tenants[applier]
		if !ok {
			tenant = "platform"
		}
		// What a chart renders need not be labelled; a wrong label is one all the same.
		label, given := labels[in.TenantLabel]
		switch {
		case ok && given && label != tenant:
			return "", fmt.Sprintf("%s of tenant %s applied it, its label %s is %q", applier, tenant, in.TenantLabel, label)
		case ok && !given && strings.HasPrefix(applier, "Kustomization "):
			return "", fmt.Sprintf("%s of tenant %s applied it, and it carries no label %s", applier, tenant, in.TenantLabel)
		}
		return tenant, ""
	}
	// Of several owners each would do; garbage collection waits for all.
	if references := object.GetOwnerReferences(); len(references) > 0 {
		reference := references[0]
		parent, known := byUID[reference.UID]
		if !known {
			return "", fmt.Sprintf("its owner %s %s does not exist", reference.Kind, reference.Name)
		}
		if depth > 8 {
			return "", "its owner references go in a circle"
		}
		return ownerOf(in, listed, byUID, parent, depth+1)
	}
	if kubernetesOwn(object) {
		return "kubernetes", ""
	}
	if policy := generator(object); policy != "" {
		return generatedBy(in, listed, policy)
	}
	if by := Applier(object); by != "" {
		return "", fmt.Sprintf("its labels name %s, whose inventory does not list it", by)
	}
	return "", "no inventory, label or owner reference names its owner"
}

// The kinds of policies that make objects, as inventories name them.
var generatingKinds = []string{
	"policies.kyverno.io_GeneratingPolicy", "policies.kyverno.io_NamespacedGeneratingPolicy", "kyverno.io_ClusterPolicy", "kyverno.io_Policy",
}

// generator is the policy of Kyverno that made an object, as «namespace_name», by
// the labels that Kyverno gives to what it keeps; empty when none did.
func generator(object *unstructured.Unstructured) string {
	labels := object.GetLabels()
	name := labels["generate.kyverno.io/policy-name"]
	if name == "" || labels["app.kubernetes.io/managed-by"] != "kyverno" {
		return ""
	}
	return labels["generate.kyverno.io/policy-namespace"] + "_" + name
}

// generatedBy finds the owner of what a policy made: whoever applied the policy.
func generatedBy(in OwnersInput, listed map[string][]string, policy string) (owner, problem string) {
	for _, kind := range generatingKinds {
		switch by := listed[policy+"_"+kind]; {
		case len(by) > 1:
			sort.Strings(by)
			return "", "the policy that made it is listed by the inventories of " + strings.Join(by, " and ")
		case len(by) == 1:
			return cmp.Or(in.Tenants[by[0]], "platform"), ""
		}
	}
	return "", fmt.Sprintf("its labels name the policy %s, which no inventory lists", strings.TrimPrefix(strings.Replace(policy, "_", "/", 1), "/"))
}

// helmsRecord says whether Helm keeps its record of a release in this object: no
// label can be given to it.
func helmsRecord(object *unstructured.Unstructured) bool {
	kind, _, _ := unstructured.NestedString(object.Object, "type")
	return object.GetKind() == "Secret" && kind == "helm.sh/release.v1"
}

// kubernetesOwn says whether Kubernetes itself puts this object into every
// namespace, or into «default», or a record of what happened there is kept in it.
func kubernetesOwn(object *unstructured.Unstructured) bool {
	if object.GetNamespace() == "default" && object.GetName() == "kubernetes" {
		return slices.Contains([]string{"Service", "Endpoints", "EndpointSlice"}, object.GetKind())
	}
	// What a policy engine reports of objects comes and goes with them.
	if slices.Contains([]string{"wgpolicyk8s.io", "openreports.io", "reports.kyverno.io"}, object.GroupVersionKind().Group) {
		return true
	}
	switch object.GetKind() {
	case "ConfigMap":
		return object.GetName() == "kube-root-ca.crt"
	case "ServiceAccount":
		return object.GetName() == "default"
	case "Event":
		return true
	case "Endpoints":
		// The controller that mirrors a Service's slices gives them no owner.
		return object.GetLabels()["endpoints.kubernetes.io/managed-by"] == "endpoint-controller"
	}
	return false
}
