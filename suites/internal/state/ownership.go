package state

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// The owners beside tenants.
const (
	// OwnerPlatform owns what Flux applies for no tenant.
	OwnerPlatform = "platform"
	// OwnerKubernetes owns what Kubernetes itself puts there.
	OwnerKubernetes = "kubernetes"
)

// Ownership is what is known of the owner of one object.
type Ownership struct {
	// Kind, Namespace and Name of the object; no namespace: it is of the cluster.
	Kind, Namespace, Name string
	// Owner is the tenant, OwnerPlatform, OwnerKubernetes, or empty when unknown.
	Owner string
	// By is what tells the owner, e.g. «inventory of Kustomization a/b».
	By string
	// Follows says that By is told by another object, whose owner is this one's.
	Follows bool
	// Written is when the object was last written to and by whom, as far as it says.
	Written string
	// Refers are the fields by which an object of the cluster reaches into the
	// shared namespaces; empty for all others, and for one that is only named there.
	Refers []string
	// Uses are the objects that it names.
	Uses []Use
	// Problem says what is wrong with it; empty when the owner is certain.
	Problem string

	object *unstructured.Unstructured
}

// String is the form in which failures show an object.
func (o Ownership) String() string {
	text := called(o.Kind, o.Namespace, o.Name)
	if o.Problem != "" {
		text += ": " + o.Problem
	}
	return text
}

// UID is that of the object.
func (o Ownership) UID() types.UID { return o.object.GetUID() }

func called(kind, namespace, name string) string {
	if namespace == "" {
		return kind + " " + name
	}
	return kind + " " + namespace + "/" + name
}

// OwnersInput is what Owners concludes from.
type OwnersInput struct {
	// Objects of the shared namespaces, all kinds.
	Objects []*unstructured.Unstructured
	// Cluster are all objects without a namespace, all kinds.
	Cluster []*unstructured.Unstructured
	// Inventories lists, for each Kustomization and HelmRelease («Kind
	// namespace/name»), the objects that it says it applied, as
	// namespace_name_group_kind.
	Inventories map[string][]string
	// Applied says when each of them last applied; those that are not named did not
	// say.
	Applied map[string]string
	// Tenants maps a tenant's Kustomizations and HelmReleases to the tenant.
	Tenants map[string]string
	// TenantLabel is the label that names the tenant on its objects.
	TenantLabel string
}

// owners is what a conclusion is drawn from, by what it is looked up by.
type owners struct {
	OwnersInput
	listed  map[string][]string
	byUID   map[types.UID]*unstructured.Unstructured
	byPlace map[address]*unstructured.Unstructured
}

// address is where an object is found by those who name it.
type address struct{ namespace, kind, name string }

func addressOf(object *unstructured.Unstructured) address {
	return address{object.GetNamespace(), object.GetKind(), object.GetName()}
}

// circle is what is wrong with objects that own each other.
const circle = "its owner references go in a circle"

// conclusion is what is known of an owner.
type conclusion struct {
	owner, by, problem string
	follows            bool
}

// Owners finds the owner of every object of the shared namespaces, and of every
// object of the cluster that refers into them or is named there: by the inventory
// that lists it, the labels that it carries, the program that keeps it, and, for
// what controllers made, the object that owns it, or the policy that has it made.
// Where they disagree, or none speaks, the object has a Problem.
func Owners(in OwnersInput) []Ownership {
	o := owners{
		OwnersInput: in, listed: map[string][]string{},
		byUID: map[types.UID]*unstructured.Unstructured{}, byPlace: map[address]*unstructured.Unstructured{},
	}
	for applier, ids := range in.Inventories {
		for _, id := range ids {
			if !slices.Contains(o.listed[id], applier) {
				o.listed[id] = append(o.listed[id], applier)
			}
		}
	}
	for _, object := range slices.Concat(in.Objects, in.Cluster) {
		o.byUID[object.GetUID()] = object
		o.byPlace[addressOf(object)] = object
	}
	reach := o.reaching()
	out := make([]Ownership, 0, len(in.Objects)+len(reach))
	for _, object := range in.Objects {
		out = append(out, o.ownership(object, nil))
	}
	for _, object := range in.Cluster {
		if fields, ok := reach[object]; ok {
			out = append(out, o.ownership(object, fields))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].String() < out[j].String() })
	return out
}

func (o owners) ownership(object *unstructured.Unstructured, refers []string) Ownership {
	c := o.ownerOf(object, 0)
	if c.follows && c.problem != "" && c.problem != circle {
		// The other one says more.
		reason, _, _ := strings.Cut(c.problem, "; ")
		c.problem = c.by + ": " + reason
	}
	written, _ := lastWrite(object)
	return Ownership{
		Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(),
		Owner: c.owner, By: c.by, Follows: c.follows, Problem: c.problem, Written: written, Refers: refers,
		Uses: o.uses(object), object: object,
	}
}

// InventoryID is the form in which a Kustomization's inventory names an object.
func InventoryID(object *unstructured.Unstructured) string {
	name := strings.ReplaceAll(object.GetName(), ":", "__")
	return strings.Join([]string{object.GetNamespace(), name, object.GroupVersionKind().Group, object.GetKind()}, "_")
}

// lost is the conclusion that there is no owner; parties are those that may claim
// the object, of whom it is said since when.
func (o owners) lost(object *unstructured.Unstructured, parties []string, format string, args ...any) conclusion {
	text := fmt.Sprintf(format, args...)
	for _, party := range parties {
		if when := o.Applied[party]; when != "" {
			text += fmt.Sprintf("; %s last applied at %s", party, when)
		}
	}
	if written, ok := lastWrite(object); ok {
		text += "; last written by " + written
	}
	return conclusion{problem: text}
}

func (o owners) ownerOf(object *unstructured.Unstructured, depth int) conclusion {
	inventories := slices.Sorted(slices.Values(o.listed[InventoryID(object)]))
	if len(inventories) > 1 {
		return o.lost(object, inventories, "listed by the inventories of %s", strings.Join(inventories, " and "))
	}
	if len(inventories) == 1 {
		return o.ofInventory(object, inventories[0])
	}
	// Of several owners each would do; garbage collection waits for all.
	if references := object.GetOwnerReferences(); len(references) > 0 {
		reference := references[0]
		parent, known := o.byUID[reference.UID]
		if !known {
			return o.lost(object, nil, "its owner %s %s does not exist", reference.Kind, reference.Name)
		}
		if wrong := unmade(object, reference, parent); wrong != "" {
			return o.lost(object, nil, "%s", wrong)
		}
		return o.follow(parent, "owner reference to", depth)
	}
	if parent := o.allocatedFor(object); parent != nil {
		return o.follow(parent, "made for", depth)
	}
	if kubernetesOwn(object) {
		return conclusion{owner: OwnerKubernetes, by: "Kubernetes itself"}
	}
	if policy := generator(object); policy != "" {
		return o.generatedBy(object, policy)
	}
	if keeper := keeperOf(object); keeper != "" {
		return o.keptBy(object, keeper)
	}
	if by := Applier(object); by != "" {
		return o.lost(object, []string{by}, "its labels name %s, whose inventory does not list it", by)
	}
	return o.lost(object, nil, "no inventory, label or owner reference names its owner")
}

// makes lists what Kubernetes' own controllers make of the objects of a kind.
var makes = map[string][]string{
	"Deployment":            {"ReplicaSet"},
	"ReplicaSet":            {"Pod"},
	"ReplicationController": {"Pod"},
	"StatefulSet":           {"Pod", "PersistentVolumeClaim"},
	"DaemonSet":             {"Pod"},
	"CronJob":               {"Job"},
	"Job":                   {"Pod"},
	"Service":               {"EndpointSlice", "Endpoints"},
	"Pod":                   {"PersistentVolumeClaim"},
}

// consist are the kinds that a tenant's microservice consists of: where one belongs to
// another, a controller of Kubernetes made it. Of what else belongs to them an
// operator may know.
var consist = []string{
	"ConfigMap", "CronJob", "DaemonSet", "Deployment", "Endpoints", "EndpointSlice", "HorizontalPodAutoscaler", "Ingress", "Job",
	"NetworkPolicy", "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "ReplicaSet", "Role", "RoleBinding", "Secret",
	"Service", "ServiceAccount", "StatefulSet",
}

// unmade says why an owner reference, which anybody can write, is not that of the
// controller that made an object; empty when it may be.
func unmade(object *unstructured.Unstructured, reference metav1.OwnerReference, parent *unstructured.Unstructured) string {
	if reference.Kind != parent.GetKind() || reference.Name != parent.GetName() {
		return fmt.Sprintf("its owner reference names %s %s, and the UID in it is that of %s", reference.Kind, reference.Name,
			called(parent.GetKind(), parent.GetNamespace(), parent.GetName()))
	}
	group, _, _ := strings.Cut(reference.APIVersion, "/")
	operated := strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io")
	if operated || !slices.Contains(consist, object.GetKind()) || !slices.Contains(consist, reference.Kind) && makes[reference.Kind] == nil {
		return ""
	}
	if !slices.Contains(makes[reference.Kind], object.GetKind()) {
		return fmt.Sprintf("its owner reference names %s %s, of which Kubernetes makes no %s", reference.Kind, reference.Name, object.GetKind())
	}
	for _, entry := range object.GetManagedFields() {
		if entry.Subresource == "" && slices.Contains(kubernetes, entry.Manager) {
			return ""
		}
	}
	by, _ := lastWrite(object)
	return fmt.Sprintf("its owner reference names %s %s, and no controller of Kubernetes has written to it, but %s", reference.Kind, reference.Name, cmp.Or(by, "somebody who is not noted"))
}

// ofInventory concludes from the one inventory that lists an object, and from the
// labels, which have to agree.
func (o owners) ofInventory(object *unstructured.Unstructured, applier string) conclusion {
	if by := Applier(object); by != applier && !helmsRecord(object) {
		return o.lost(object, []string{applier, by}, "the inventory of %s lists it, its labels name %s", applier, cmp.Or(by, "nobody"))
	}
	tenant, ok := o.Tenants[applier]
	if !ok {
		tenant = OwnerPlatform
	}
	// What a chart renders need not be labelled; a wrong label is one all the same.
	label, given := object.GetLabels()[o.TenantLabel]
	switch {
	case ok && given && label != tenant:
		return o.lost(object, []string{applier}, "%s of tenant %s applied it, its label %s is %q", applier, tenant, o.TenantLabel, label)
	case ok && !given && strings.HasPrefix(applier, "Kustomization "):
		return o.lost(object, []string{applier}, "%s of tenant %s applied it, and it carries no label %s", applier, tenant, o.TenantLabel)
	}
	return conclusion{owner: tenant, by: "inventory of " + applier}
}

// follow concludes what is true of the object that another one comes with.
func (o owners) follow(parent *unstructured.Unstructured, how string, depth int) conclusion {
	if depth > 8 {
		return conclusion{problem: circle}
	}
	c := o.ownerOf(parent, depth+1)
	c.by, c.follows = how+" "+called(parent.GetKind(), parent.GetNamespace(), parent.GetName()), true
	return c
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
func (o owners) generatedBy(object *unstructured.Unstructured, policy string) conclusion {
	for _, kind := range generatingKinds {
		switch by := slices.Sorted(slices.Values(o.listed[policy+"_"+kind])); {
		case len(by) > 1:
			return o.lost(object, by, "the policy that made it is listed by the inventories of %s", strings.Join(by, " and "))
		case len(by) == 1:
			_, short, _ := strings.Cut(kind, "_")
			return conclusion{
				owner: cmp.Or(o.Tenants[by[0]], OwnerPlatform), by: "made by " + short + " " + strings.TrimPrefix(strings.Replace(policy, "_", "/", 1), "/"), follows: true,
			}
		}
	}
	return o.lost(object, nil, "its labels name the policy %s, which no inventory lists", strings.TrimPrefix(strings.Replace(policy, "_", "/", 1), "/"))
}

// helmsRecord says whether Helm keeps its record of a release in this object: no
// label can be given to it.
func helmsRecord(object *unstructured.Unstructured) bool {
	kind, _, _ := unstructured.NestedString(object.Object, "type")
	return object.GetKind() == "Secret" && kind == "helm.sh/release.v1"
}

// kubernetesOwn says whether Kubernetes itself puts this object into every
// namespace, into «default», or into every cluster, or a record of what happened
// there is kept in it.
func kubernetesOwn(object *unstructured.Unstructured) bool {
	if object.GetNamespace() == "" {
		return kubernetesOwnOfCluster(object)
	}
	if object.GetNamespace() == "default" && object.GetName() == "kubernetes" {
		return slices.Contains([]string{"Service", "Endpoints", "EndpointSlice"}, object.GetKind())
	}
	// What a policy engine reports of objects comes and goes with them.
	if report(object) {
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
		return mirrored(object)
	}
	return false
}

// mirrored says whether the controller that mirrors a Service's slices made this
// object: it gives it no owner.
func mirrored(object *unstructured.Unstructured) bool {
	return object.GetLabels()["endpoints.kubernetes.io/managed-by"] == "endpoint-controller"
}

// report says whether a policy engine keeps what it found in this object.
func report(object *unstructured.Unstructured) bool {
	return slices.Contains([]string{"wgpolicyk8s.io", "openreports.io", "reports.kyverno.io"}, object.GroupVersionKind().Group)
}
