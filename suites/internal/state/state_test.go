package state_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

const tenantLabel = "toolkit.fluxcd.io/tenant"

func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	// Whole numbers are int64, as in what the server returns.
	out := &unstructured.Unstructured{}
	if err := json.Unmarshal(data, &out.Object); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompareSeesEachKindOfDifference(t *testing.T) {
	declared := `
spec:
  replicas: 2
  image: app:1
  limits: {memory: 1Gi, cpu: 500m}
  args: [a, b]
  containers: [{name: app, image: app:1}, {name: side, image: side:1}]
`
	for _, row := range []struct{ name, live, want string }{
		{"what the server defaulted is no difference", `
spec:
  replicas: 2
  image: app:1
  limits: {memory: 1024Mi, cpu: "0.5"}
  args: [a, b]
  policy: Always
  containers: [{name: side, image: side:1}, {name: app, image: app:1, pull: Always}]
`, ""},
		{"another scalar", `
spec:
  replicas: 3
  image: app:1
  limits: {memory: 1Gi, cpu: 500m}
  args: [a, b]
  containers: [{name: app, image: app:1}, {name: side, image: side:1}]
`, "spec.replicas: declared 2, found 3"},
		{"a missing field", `
spec:
  replicas: 2
  limits: {memory: 1Gi, cpu: 500m}
  args: [a, b]
  containers: [{name: app, image: app:1}, {name: side, image: side:1}]
`, `spec.image: declared "app:1", found absent`},
		{"another amount", `
spec:
  replicas: 2
  image: app:1
  limits: {memory: 2Gi, cpu: 500m}
  args: [a, b]
  containers: [{name: app, image: app:1}, {name: side, image: side:1}]
`, `spec.limits.memory: declared "1Gi", found "2Gi"`},
		{"a missing item", `
spec:
  replicas: 2
  image: app:1
  limits: {memory: 1Gi, cpu: 500m}
  args: [a]
  containers: [{name: app, image: app:1}, {name: side, image: side:1}]
`, `spec.args[1]: declared "b", found absent`},
		{"an item too many", `
spec:
  replicas: 2
  image: app:1
  limits: {memory: 1Gi, cpu: 500m}
  args: [a, b]
  containers: [{name: app, image: app:1}, {name: side, image: side:1}, {name: injected, image: x}]
`, "spec.containers[name=injected]: declared absent, found map[image:x name:injected]"},
		{"a named item in another place with another image", `
spec:
  replicas: 2
  image: app:1
  limits: {memory: 1Gi, cpu: 500m}
  args: [a, b]
  containers: [{name: side, image: side:2}, {name: app, image: app:1}]
`, `spec.containers[name=side].image: declared "side:1", found "side:2"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			differences := state.Compare(parse(t, declared).Object, parse(t, row.live).Object)
			if row.want == "" {
				g.Expect(differences).To(BeEmpty())
				return
			}
			g.Expect(differences).To(HaveLen(1))
			g.Expect(differences[0].String()).To(Equal(row.want))
		})
	}
}

func object(kind, name, uid string, labels map[string]string, owner types.UID) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	out.SetNamespace("apps")
	out.SetName(name)
	out.SetUID(types.UID(uid))
	out.SetLabels(labels)
	if owner != "" {
		refs := []any{map[string]any{"apiVersion": "v1", "kind": "Owner", "name": "parent", "uid": string(owner)}}
		if err := unstructured.SetNestedSlice(out.Object, refs, "metadata", "ownerReferences"); err != nil {
			panic(err)
		}
	}
	return out
}

func applied(by, tenant string) map[string]string {
	return map[string]string{
		"kustomize.toolkit.fluxcd.io/namespace": by, "kustomize.toolkit.fluxcd.io/name": by, tenantLabel: tenant,
	}
}

func TestOwners(t *testing.T) {
	beetle := object("ConfigMap", "dev-beetle-config", "1", applied("beetle", "beetle"), "")
	released := map[string]string{"helm.toolkit.fluxcd.io/namespace": "sonar", "helm.toolkit.fluxcd.io/name": "sonar"}
	record := object("Secret", "sh.helm.release.v1.sonar.v1", "1", map[string]string{"owner": "helm"}, "")
	record.Object["type"] = "helm.sh/release.v1"
	kubernetes := object("EndpointSlice", "kubernetes", "1", nil, "")
	kubernetes.SetNamespace("default")
	generated := func(namespace string) *unstructured.Unstructured {
		return object("LimitRange", "baseline", "1", map[string]string{
			"app.kubernetes.io/managed-by": "kyverno", "generate.kyverno.io/policy-name": "baseline",
			"generate.kyverno.io/policy-namespace": namespace,
		}, "")
	}
	report := object("EphemeralReport", "r", "1", nil, "")
	report.SetAPIVersion("reports.kyverno.io/v1")
	for _, row := range []struct {
		name        string
		object      *unstructured.Unstructured
		inventories map[string][]string
		owner       string
		problem     string
	}{
		{"one inventory and its labels agree", beetle, map[string][]string{"Kustomization beetle/beetle": {state.InventoryID(beetle)}}, "beetle", ""},
		{
			"two inventories list it", beetle,
			map[string][]string{"Kustomization beetle/beetle": {state.InventoryID(beetle)}, "Kustomization sonar/sonar": {state.InventoryID(beetle)}},
			"", "listed by the inventories of Kustomization beetle/beetle and Kustomization sonar/sonar",
		},
		{
			"the labels name another", object("ConfigMap", "x", "1", applied("sonar", "beetle"), ""),
			map[string][]string{"Kustomization beetle/beetle": {"apps_x__ConfigMap"}},
			"", "the inventory of Kustomization beetle/beetle lists it, its labels name Kustomization sonar/sonar",
		},
		{
			"the tenant label lies", object("ConfigMap", "x", "1", applied("beetle", "sonar"), ""),
			map[string][]string{"Kustomization beetle/beetle": {"apps_x__ConfigMap"}},
			"", `Kustomization beetle/beetle of tenant beetle applied it, its label toolkit.fluxcd.io/tenant is "sonar"`,
		},
		{
			"no tenant label", object("ConfigMap", "x", "1", map[string]string{
				"kustomize.toolkit.fluxcd.io/namespace": "beetle", "kustomize.toolkit.fluxcd.io/name": "beetle",
			}, ""),
			map[string][]string{"Kustomization beetle/beetle": {"apps_x__ConfigMap"}},
			"", "Kustomization beetle/beetle of tenant beetle applied it, and it carries no label toolkit.fluxcd.io/tenant",
		},
		{
			"labels without an inventory", object("ConfigMap", "x", "1", applied("beetle", "beetle"), ""), nil,
			"", "its labels name Kustomization beetle/beetle, whose inventory does not list it",
		},
		{"a release lists it", object("ConfigMap", "x", "1", released, ""), map[string][]string{"HelmRelease sonar/sonar": {"apps_x__ConfigMap"}}, "sonar", ""},
		{
			"a release of the same name as the Kustomization", object("ConfigMap", "x", "1", applied("sonar", "sonar"), ""),
			map[string][]string{"HelmRelease sonar/sonar": {"apps_x__ConfigMap"}},
			"", "the inventory of HelmRelease sonar/sonar lists it, its labels name Kustomization sonar/sonar",
		},
		{
			"labels of nobody", object("ConfigMap", "x", "1", nil, ""),
			map[string][]string{"HelmRelease sonar/sonar": {"apps_x__ConfigMap"}},
			"", "the inventory of HelmRelease sonar/sonar lists it, its labels name nobody",
		},
		{"Helm's record of a release", record, map[string][]string{"HelmRelease sonar/sonar": {state.InventoryID(record)}}, "sonar", ""},
		{"what Kubernetes keeps in default", kubernetes, nil, "kubernetes", ""},
		{
			"what a policy of the platform makes", generated(""),
			map[string][]string{"Kustomization flux-system/policies": {"_baseline_policies.kyverno.io_GeneratingPolicy"}},
			"platform", "",
		},
		{
			"what a tenant's policy makes", generated("apps"),
			map[string][]string{"Kustomization beetle/beetle": {"apps_baseline_policies.kyverno.io_NamespacedGeneratingPolicy"}},
			"beetle", "",
		},
		{
			"what a policy makes that is gone", generated("apps"),
			map[string][]string{"Kustomization flux-system/policies": {"_baseline_policies.kyverno.io_GeneratingPolicy"}},
			"", "its labels name the policy apps/baseline, which no inventory lists",
		},
		{
			"what a policy makes that two apply", generated(""),
			map[string][]string{
				"Kustomization flux-system/policies": {"_baseline_kyverno.io_ClusterPolicy"}, "Kustomization beetle/beetle": {"_baseline_kyverno.io_ClusterPolicy"},
			},
			"", "the policy that made it is listed by the inventories of Kustomization beetle/beetle and Kustomization flux-system/policies",
		},
		{"nobody", object("ConfigMap", "x", "1", nil, ""), nil, "", "no inventory, label or owner reference names its owner"},
		{"what Kubernetes puts there", object("ConfigMap", "kube-root-ca.crt", "1", nil, ""), nil, "kubernetes", ""},
		{"what Kyverno writes down of a request", report, nil, "kubernetes", ""},
		{"an owner that is gone", object("Pod", "p", "1", nil, "9"), nil, "", "its owner Owner parent does not exist"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			owners := state.Owners(state.OwnersInput{
				Objects: []*unstructured.Unstructured{row.object}, Inventories: row.inventories,
				Tenants:     map[string]string{"Kustomization beetle/beetle": "beetle", "Kustomization sonar/sonar": "sonar", "HelmRelease sonar/sonar": "sonar"},
				TenantLabel: tenantLabel,
			})
			g.Expect(owners).To(HaveLen(1))
			g.Expect(owners[0].Owner).To(Equal(row.owner))
			g.Expect(owners[0].Problem).To(Equal(row.problem))
		})
	}
}

func TestOwnersFollowOwnerReferences(t *testing.T) {
	g := NewWithT(t)
	made := func(kind, name, uid, ownerKind, owner, ownerUID string) *unstructured.Unstructured {
		return parse(t, fmt.Sprintf(`{kind: %s, metadata: {namespace: apps, name: %s, uid: %q, managedFields: [{manager: kube-controller-manager}],
  ownerReferences: [{kind: %s, name: %s, uid: %q}]}}`, kind, name, uid, ownerKind, owner, ownerUID))
	}
	parent := object("Deployment", "app", "1", applied("beetle", "beetle"), "")
	owners := state.Owners(state.OwnersInput{
		Objects:     []*unstructured.Unstructured{parent, made("ReplicaSet", "rs", "2", "Deployment", "app", "1"), made("Pod", "p", "3", "ReplicaSet", "rs", "2")},
		Inventories: map[string][]string{"Kustomization beetle/beetle": {state.InventoryID(parent)}},
		Tenants:     map[string]string{"Kustomization beetle/beetle": "beetle"}, TenantLabel: tenantLabel,
	})
	for _, o := range owners {
		g.Expect(o.Problem).To(BeEmpty())
		g.Expect(o.Owner).To(Equal("beetle"))
	}
	circle := []*unstructured.Unstructured{made("Widget", "a", "1", "Widget", "b", "2"), made("Widget", "b", "2", "Widget", "a", "1")}
	for _, o := range state.Owners(state.OwnersInput{Objects: circle, TenantLabel: tenantLabel}) {
		g.Expect(o.Problem).To(Equal("its owner references go in a circle"))
	}
}

// Anybody can write an owner reference: it gives no object to a tenant that did not
// have it made.
func TestOwnersByForgedReferences(t *testing.T) {
	parent := object("Deployment", "app", "1", applied("beetle", "beetle"), "")
	const controller, somebody = "kube-controller-manager", "kubectl"
	for _, row := range []struct{ name, kind, manager, reference, problem string }{
		{"made by its controller", "ReplicaSet", controller, "apiVersion: apps/v1, kind: Deployment, name: app", ""},
		{"made by somebody", "ReplicaSet", somebody, "apiVersion: apps/v1, kind: Deployment, name: app", "its owner reference names Deployment app, and no controller of Kubernetes has written to it, but kubectl (Update) at 2026-05-04T09:00:00Z"},
		{"a kind that nobody makes of it", "ConfigMap", controller, "apiVersion: apps/v1, kind: Deployment, name: app", "its owner reference names Deployment app, of which Kubernetes makes no ConfigMap"},
		{"another's UID", "ReplicaSet", controller, "apiVersion: apps/v1, kind: Deployment, name: other", "its owner reference names Deployment other, and the UID in it is that of Deployment apps/app"},
		{"what an operator makes of it", "Certificate", somebody, "apiVersion: apps/v1, kind: Deployment, name: app", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			child := parse(t, fmt.Sprintf(`{kind: %s, metadata: {namespace: apps, name: c, uid: "2", ownerReferences: [{%s, uid: "1"}],
  managedFields: [{manager: %s, operation: Update, time: "2026-05-04T09:00:00Z"}]}}`, row.kind, row.reference, row.manager))
			owners := state.Owners(state.OwnersInput{
				Objects:     []*unstructured.Unstructured{parent, child},
				Inventories: map[string][]string{"Kustomization beetle/beetle": {state.InventoryID(parent)}},
				Tenants:     map[string]string{"Kustomization beetle/beetle": "beetle"}, TenantLabel: tenantLabel,
			})
			o, found := ownership(owners, row.kind, "c")
			g.Expect(found).To(BeTrue())
			if row.problem == "" {
				g.Expect(o.Problem).To(BeEmpty())
				g.Expect(o.Owner).To(Equal("beetle"))
				return
			}
			g.Expect(o.Problem).To(HavePrefix(row.problem))
			g.Expect(o.Owner).To(BeEmpty())
		})
	}
}

func TestSelectorCrossings(t *testing.T) {
	service := parse(t, `{kind: Service, metadata: {name: s, labels: {toolkit.fluxcd.io/tenant: beetle}}, spec: {selector: {app: x}}}`)
	narrow := parse(t, `{kind: Service, metadata: {name: s, labels: {toolkit.fluxcd.io/tenant: beetle}}, spec: {selector: {app: x, toolkit.fluxcd.io/tenant: beetle}}}`)
	bare := parse(t, `{kind: Service, metadata: {name: s, labels: {toolkit.fluxcd.io/tenant: beetle}}, spec: {}}`)
	pod := parse(t, `{kind: Pod, metadata: {name: p, labels: {app: x, toolkit.fluxcd.io/tenant: sonar}}}`)
	template := parse(t, `{kind: Deployment, metadata: {name: d, labels: {toolkit.fluxcd.io/tenant: sonar}}, spec: {template: {metadata: {labels: {app: x}}}}}`)
	g := NewWithT(t)
	crossings := state.SelectorCrossings([]*unstructured.Unstructured{service}, []*unstructured.Unstructured{pod, template}, tenantLabel)
	g.Expect(crossings).To(HaveLen(2))
	g.Expect(crossings[0].String()).To(Equal(`Service s of "beetle" selects Deployment d of "sonar"`))
	g.Expect(crossings[1].String()).To(Equal(`Service s of "beetle" selects Pod p of "sonar"`))
	g.Expect(state.SelectorCrossings([]*unstructured.Unstructured{narrow, bare}, []*unstructured.Unstructured{pod, template}, tenantLabel)).To(BeEmpty())
}
