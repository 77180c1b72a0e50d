package state_test

import (
	"encoding/json"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// sharedNamespace is apps as the platform declares it.
const sharedNamespace = `
apiVersion: v1
kind: Namespace
metadata:
  name: apps
  uid: ns
  labels: {kustomize.toolkit.fluxcd.io/name: root, kustomize.toolkit.fluxcd.io/namespace: flux-system, stage: dev}
`

// world is what a cluster holds beside the object that a test is about.
func world(t *testing.T, more ...string) state.OwnersInput {
	t.Helper()
	in := state.OwnersInput{
		TenantLabel: tenantLabel,
		Inventories: map[string][]string{
			"Kustomization flux-system/root": {"_apps__Namespace", "_quick_scheduling.k8s.io_PriorityClass"},
			"Kustomization beetle/beetle":    {"apps_beetle__Service", "apps_beetle_apps_Deployment"},
			"HelmRelease guard/guard":        {"guard_guard-cleanup-controller_apps_Deployment"},
		},
		Applied: map[string]string{"Kustomization beetle/beetle": "2026-05-04T08:00:00Z"},
		Tenants: map[string]string{"Kustomization beetle/beetle": "beetle"},
		Objects: []*unstructured.Unstructured{object("Service", "beetle", "s", applied("beetle", "beetle"), "")},
		Cluster: []*unstructured.Unstructured{parse(t, sharedNamespace)},
	}
	for _, text := range more {
		o := parse(t, text)
		if o.GetNamespace() == "" {
			in.Cluster = append(in.Cluster, o)
		} else {
			in.Objects = append(in.Objects, o)
		}
	}
	return in
}

func ownership(list []state.Ownership, kind, name string) (state.Ownership, bool) {
	for _, o := range list {
		if o.Kind == kind && o.Name == name {
			return o, true
		}
	}
	return state.Ownership{}, false
}

func TestOwnersOfTheCluster(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, object string
		refers       string // empty: it does not matter to the namespace
		owner        string
		problem      string
	}{
		{
			"a binding of an account that is there", `{kind: ClusterRoleBinding, metadata: {name: x}, subjects: [{kind: ServiceAccount, name: default, namespace: apps}]}`,
			"subjects[0].namespace is apps", "", "no inventory, label or owner reference names its owner",
		},
		{"the same of an account elsewhere", `{kind: ClusterRoleBinding, metadata: {name: x}, subjects: [{kind: ServiceAccount, name: default, namespace: other}]}`, "", "", ""},
		{
			"a binding of all accounts of the namespace", `{kind: ClusterRoleBinding, metadata: {name: x}, subjects: [{kind: Group, name: "system:serviceaccounts:apps"}]}`,
			"subjects[0].name is apps", "", "no inventory",
		},
		{
			"one of all accounts", `{kind: ClusterRoleBinding, metadata: {name: x}, subjects: [{kind: Group, name: "system:serviceaccounts"}]}`,
			"subjects[0] is the group system:serviceaccounts", "", "no inventory",
		},
		{
			"one of an account named as a user", `{kind: ClusterRoleBinding, metadata: {name: x}, subjects: [{kind: User, name: "system:serviceaccount:apps:default"}]}`,
			"subjects[0].name is apps", "", "no inventory",
		},
		{
			"one of Kubernetes", `{kind: ClusterRoleBinding, metadata: {name: "system:discovery"}, roleRef: {kind: ClusterRole, name: "system:discovery"}, subjects: [{kind: Group, name: "system:authenticated"}]}`,
			"subjects[0] is the group system:authenticated", state.OwnerKubernetes, "",
		},
		{
			"one that is labelled so", `{kind: ClusterRoleBinding, metadata: {name: "system:everybody", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, roleRef: {kind: ClusterRole, name: "system:everybody"}, subjects: [{kind: Group, name: "system:authenticated"}]}`,
			"subjects[0] is the group system:authenticated", "", "no inventory",
		},
		{
			"one of its name with another role", `{kind: ClusterRoleBinding, metadata: {name: "system:discovery"}, roleRef: {kind: ClusterRole, name: admin}, subjects: [{kind: Group, name: "system:authenticated"}]}`,
			"subjects[0] is the group system:authenticated", "", "no inventory",
		},
		{
			"one of its name for one group more", `{kind: ClusterRoleBinding, metadata: {name: "system:discovery"}, roleRef: {kind: ClusterRole, name: "system:discovery"}, subjects: [{kind: Group, name: "system:authenticated"}, {kind: Group, name: guests}]}`,
			"subjects[0] is the group system:authenticated", "", "no inventory",
		},
		{
			"a queue of its own", `{kind: FlowSchema, metadata: {name: mine, annotations: {apf.kubernetes.io/autoupdate-spec: "true"}}, spec: {rules: [{subjects: [{kind: Group, name: "system:serviceaccounts"}]}]}}`,
			"spec.rules[0].subjects[0] is the group system:serviceaccounts", "", "no inventory",
		},
		{
			"a webhook that selects by name", `{kind: ValidatingWebhookConfiguration, metadata: {name: x}, webhooks: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: apps}}}]}`,
			"webhooks[0].namespaceSelector selects apps", "", "no inventory",
		},
		{
			"one that selects by label", `{kind: ValidatingWebhookConfiguration, metadata: {name: x}, webhooks: [{namespaceSelector: {matchExpressions: [{key: stage, operator: In, values: [dev]}]}}]}`,
			"webhooks[0].namespaceSelector selects apps", "", "no inventory",
		},
		{"one that leaves it out", `{kind: ValidatingWebhookConfiguration, metadata: {name: x}, webhooks: [{namespaceSelector: {matchExpressions: [{key: stage, operator: NotIn, values: [dev]}]}}]}`, "", "", ""},
		{
			"one without a selector", `{kind: MutatingWebhookConfiguration, metadata: {name: x}, webhooks: [{name: a}]}`,
			"webhooks[0] has no namespaceSelector, so it selects apps", "", "no inventory",
		},
		{
			"a policy without a selector", `{kind: ValidatingPolicy, metadata: {name: x}, spec: {matchConstraints: {resourceRules: []}}}`,
			"spec.matchConstraints has no namespaceSelector, so it selects apps", "", "no inventory",
		},
		{
			"a rule that names namespaces", `{kind: ClusterPolicy, metadata: {name: x}, spec: {rules: [{match: {any: [{resources: {namespaces: [apps]}}]}}]}}`,
			"spec.rules[0].match.any[0].resources.namespaces is apps", "", "no inventory",
		},
		{
			"a volume that somebody wrote", `{kind: PersistentVolume, metadata: {name: x}, spec: {claimRef: {namespace: apps, name: data}}}`,
			"spec.claimRef.namespace is apps", "", "no inventory",
		},
		{
			"an address of a Service", `{kind: IPAddress, metadata: {name: x}, spec: {parentRef: {resource: services, namespace: apps, name: beetle}}}`,
			"spec.parentRef.namespace is apps", "beetle", "",
		},
		{
			"one that a program keeps", `{kind: ValidatingWebhookConfiguration, metadata: {name: x, labels: {webhook.example/managed-by: guard}, managedFields: [{manager: guard, operation: Update}, {manager: cleanup-controller, operation: Update}]}, webhooks: [{name: a}]}`,
			"webhooks[0] has no namespaceSelector, so it selects apps", state.OwnerPlatform, "",
		},
		{
			"one that somebody else wrote to", `{kind: ValidatingWebhookConfiguration, metadata: {name: x, labels: {webhook.example/managed-by: guard}, managedFields: [{manager: kubectl, operation: Update, time: "2026-05-04T09:00:00Z"}]}, webhooks: [{name: a}]}`,
			"webhooks[0] has no namespaceSelector, so it selects apps", "", "its labels say that guard keeps it, and kubectl, which is no program of HelmRelease guard/guard, wrote to it; last written by kubectl (Update) at 2026-05-04T09:00:00Z",
		},
		{
			"one kept by a program of nobody", `{kind: ValidatingWebhookConfiguration, metadata: {name: x, labels: {webhook.example/managed-by: stray}}, webhooks: [{name: a}]}`,
			"webhooks[0] has no namespaceSelector, so it selects apps", "", "its labels say that stray keeps it, and no Kustomization or HelmRelease is named so",
		},
		{"a schema with fields of that name", `{kind: CustomResourceDefinition, metadata: {name: x}, spec: {names: {namespace: apps}, webhooks: [{}]}}`, "", "", ""},
		{
			"a schema converted by a Service there", `{kind: CustomResourceDefinition, metadata: {name: x}, spec: {conversion: {webhook: {clientConfig: {service: {namespace: apps, name: z}}}}}}`,
			"spec.conversion.webhook.clientConfig.service.namespace is apps", "", "no inventory",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			object := parse(t, row.object)
			o, found := ownership(state.Owners(world(t, row.object)), object.GetKind(), object.GetName())
			if row.refers == "" {
				g.Expect(found).To(BeFalse())
				return
			}
			g.Expect(o.Refers).To(ContainElement(row.refers))
			g.Expect(o.Owner).To(Equal(row.owner))
			if row.problem == "" {
				g.Expect(o.Problem).To(BeEmpty())
				return
			}
			g.Expect(o.Problem).To(HavePrefix(row.problem))
			g.Expect(o.String()).To(HavePrefix(o.Kind + " " + o.Name + ": "))
		})
	}
	g := NewWithT(t)
	space, _ := ownership(state.Owners(world(t)), "Namespace", "apps")
	g.Expect(space.Owner).To(Equal(state.OwnerPlatform))
	g.Expect(space.Refers).To(Equal([]string{"it is the namespace"}))
}

// What a pod names has an owner, too; what nobody names is nobody's matter.
func TestOwnersOfWhatIsNamed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	in := world(t,
		`{kind: Pod, metadata: {name: p, namespace: apps}, spec: {priorityClassName: quick, nodeName: n1}}`,
		`{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: quick, labels: {kustomize.toolkit.fluxcd.io/name: root, kustomize.toolkit.fluxcd.io/namespace: flux-system}}}`,
		`{kind: PriorityClass, metadata: {name: other}}`, `{kind: Node, metadata: {name: n1}}`,
	)
	list := state.Owners(in)
	class, found := ownership(list, "PriorityClass", "quick")
	g.Expect(found).To(BeTrue())
	g.Expect(class.Owner).To(Equal(state.OwnerPlatform))
	g.Expect(class.Refers).To(BeEmpty())
	node, _ := ownership(list, "Node", "n1")
	g.Expect(node.Owner).To(Equal(state.OwnerKubernetes))
	_, found = ownership(list, "PriorityClass", "other")
	g.Expect(found).To(BeFalse())
}

func TestOwnersSaySinceWhen(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	in := world(t)
	in.Inventories["Kustomization sonar/sonar"] = []string{"apps_beetle__Service"}
	in.Applied["Kustomization sonar/sonar"] = "2026-05-04T09:00:00Z"
	g.Expect(unstructured.SetNestedSlice(in.Objects[0].Object, []any{
		map[string]any{"manager": "kustomize-controller", "operation": "Apply", "time": "2026-05-04T09:00:01Z"},
		map[string]any{"manager": "kube-controller-manager", "operation": "Update", "subresource": "status", "time": "2026-05-04T10:00:01Z"},
	}, "metadata", "managedFields")).To(Succeed())
	o, _ := ownership(state.Owners(in), "Service", "beetle")
	g.Expect(o.Problem).To(Equal("listed by the inventories of Kustomization beetle/beetle and Kustomization sonar/sonar; " +
		"Kustomization beetle/beetle last applied at 2026-05-04T08:00:00Z; Kustomization sonar/sonar last applied at 2026-05-04T09:00:00Z; " +
		"last written by kustomize-controller (Apply) at 2026-05-04T09:00:01Z"))
}

func TestTakeovers(t *testing.T) {
	t.Parallel()
	const service = `{apiVersion: v1, kind: Service, metadata: {name: beetle, namespace: apps, uid: s,
  labels: {kustomize.toolkit.fluxcd.io/name: beetle, kustomize.toolkit.fluxcd.io/namespace: beetle, toolkit.fluxcd.io/tenant: beetle},
  managedFields: [{manager: kustomize-controller, operation: Apply}, %s]}}`
	entry := func(manager, subresource, fields string) string {
		return `{manager: ` + manager + `, operation: Apply, subresource: "` + subresource + `", time: "2026-05-04T09:00:00Z", fieldsType: FieldsV1, fieldsV1: ` + fields + `}`
	}
	const port = `{"f:spec": {"f:ports": {}}}`
	for _, row := range []struct{ name, object, want string }{
		{"the owner's program alone", replace(service, entry("kustomize-controller", "", port)), ""},
		{
			"another one", replace(service, entry("kubectl", "", port)),
			"Service apps/beetle of beetle (inventory of Kustomization beetle/beetle, which last applied at 2026-05-04T08:00:00Z): kubectl (Apply) wrote spec.ports at 2026-05-04T09:00:00Z",
		},
		{"another one's status", replace(service, entry("kubectl", "status", `{"f:status": {}}`)), ""},
		{"a request to look again", replace(service, entry("flux", "", `{"f:metadata": {"f:annotations": {"f:reconcile.fluxcd.io/requestedAt": {}}}}`)), ""},
		{"Kubernetes", replace(service, entry("kube-controller-manager", "", port)), ""},
		{"an operator's own", `{kind: Lease, metadata: {name: l, namespace: apps, ownerReferences: [{kind: Service, name: beetle, uid: s}], managedFields: [` + entry("operator", "", port) + `]}}`, ""},
		{
			"an operator's, and somebody else", `{kind: Lease, metadata: {name: l, namespace: apps, ownerReferences: [{kind: Service, name: beetle, uid: s}], managedFields: [` +
				entry("operator", "", port) + `, ` + entry("kubectl", "", port) + `]}}`,
			"Lease apps/l of beetle (owner reference to Service apps/beetle): kubectl (Apply) wrote",
		},
		{
			"Kubernetes' own", `{kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: apps, managedFields: [` + entry("kubectl", "", `{"f:data": {}}`) + `]}}`,
			"ConfigMap apps/kube-root-ca.crt of kubernetes (Kubernetes itself): kubectl (Apply) wrote data at",
		},
		{"a record", `{kind: Event, metadata: {name: e, namespace: apps, managedFields: [` + entry("kubectl", "", `{"f:reason": {}}`) + `]}}`, ""},
		{"an object of nobody, of which is said elsewhere that it is", `{kind: ConfigMap, metadata: {name: x, namespace: apps, managedFields: [` + entry("kubectl", "", `{"f:data": {}}`) + `]}}`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			in := world(t)
			o := parse(t, row.object)
			if o.GetName() == "beetle" {
				in.Objects = nil
			}
			in.Objects = append(in.Objects, o)
			problems, judged, err := state.Takeovers(state.Owners(in), in.Applied, func(*unstructured.Unstructured) bool { return false })
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(judged).NotTo(BeZero())
			if row.want == "" {
				g.Expect(problems).To(BeEmpty())
				return
			}
			g.Expect(problems).To(ContainElement(HavePrefix(row.want)))
		})
	}
}

func replace(form, with string) string {
	const mark = "%s"
	for i := range form {
		if form[i:i+len(mark)] == mark {
			return form[:i] + with + form[i+len(mark):]
		}
	}
	return form
}

func TestTakeoversLeaveOutWhatTheyAreTold(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, judged, err := state.Takeovers(state.Owners(world(t)), nil, func(*unstructured.Unstructured) bool { return true })
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(judged).To(BeZero())
}

func TestOwnersMap(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	in := world(t,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: beetle, namespace: apps, uid: d, labels: {kustomize.toolkit.fluxcd.io/name: beetle, kustomize.toolkit.fluxcd.io/namespace: beetle, toolkit.fluxcd.io/tenant: beetle}},
		  spec: {template: {spec: {volumes: [{name: v, configMap: {name: left}}]}}}}`,
		`{kind: ReplicaSet, metadata: {name: beetle-1, namespace: apps, managedFields: [{manager: kube-controller-manager}], ownerReferences: [{kind: Deployment, name: beetle, uid: d}]}, spec: {}}`,
		`{kind: ReplicaSet, metadata: {name: beetle-2, namespace: apps, managedFields: [{manager: kube-controller-manager}], ownerReferences: [{kind: Deployment, name: beetle, uid: d}]}, spec: {}}`,
		`{kind: ServiceAccount, metadata: {name: default, namespace: apps}}`,
		`{kind: ConfigMap, metadata: {name: left, namespace: apps}}`,
	)
	found := state.OwnersMap(state.Owners(in))
	g.Expect(found.Namespaces).To(Equal([]string{"apps"}))
	var owners []string
	for _, group := range found.Owners {
		owners = append(owners, group.Owner)
	}
	g.Expect(owners).To(Equal([]string{"beetle", state.OwnerPlatform, state.OwnerKubernetes, ""}))
	g.Expect(found.String()).To(Equal(`beetle      4 objects
            2 inventory of Kustomization beetle/beetle: Deployment, Service
            2 follow them: ReplicaSet 2
            they name ConfigMap left of nobody, ServiceAccount default of kubernetes
platform    1 objects
            1 inventory of Kustomization flux-system/root: Namespace
kubernetes  1 objects
            1 Kubernetes itself: ServiceAccount
nobody      1 objects
            1 no certain owner: ConfigMap
`))
	content, err := json.Marshal(found)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).NotTo(ContainSubstring("null"))
	g.Expect(string(content)).To(ContainSubstring(`{"field":"spec.template.spec.volumes[name=v]","kind":"ConfigMap","namespace":"apps","name":"left","owner":""}`))
}

// What follows an object that nobody owns says which one that is.
func TestOwnersOfWhatFollowsAnOrphan(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	list := state.Owners(world(t,
		`{kind: Service, metadata: {name: stray, namespace: apps, uid: x, managedFields: [{manager: kubectl, operation: Apply, time: "2026-05-04T09:00:00Z"}]}}`,
		`{kind: EndpointSlice, metadata: {name: stray-1, namespace: apps, managedFields: [{manager: kube-controller-manager}], ownerReferences: [{kind: Service, name: stray, uid: x}]}}`,
		`{kind: IPAddress, metadata: {name: a}, spec: {parentRef: {resource: services, namespace: apps, name: stray}}}`,
	))
	slice, _ := ownership(list, "EndpointSlice", "stray-1")
	g.Expect(slice.Problem).To(Equal("owner reference to Service apps/stray: no inventory, label or owner reference names its owner"))
	ip, _ := ownership(list, "IPAddress", "a")
	g.Expect(ip.Problem).To(Equal("made for Service apps/stray: no inventory, label or owner reference names its owner"))
}
