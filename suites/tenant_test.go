package suites

import (
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// declared is an object as a platform's files declare it, by a Kustomization of
// that tenant.
func declared(t *testing.T, tenant, text string) platform.Object {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), object); err != nil {
		t.Fatal(err)
	}
	return platform.Object{Unstructured: object, Owner: &platform.Kustomization{Tenant: tenant}}
}

func TestSettled(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*appsv1.Deployment)
		want   bool
	}{
		{"all pods are of the present template", func(*appsv1.Deployment) {}, true},
		{"the controller has not looked yet", func(d *appsv1.Deployment) { d.Generation = 4 }, false},
		{"a pod of the old template is left", func(d *appsv1.Deployment) { d.Status.Replicas = 3 }, false},
		{"a pod is missing", func(d *appsv1.Deployment) { d.Status.Replicas, d.Status.UpdatedReplicas = 1, 1 }, false},
		{"a pod is missing because it was refused", func(d *appsv1.Deployment) {
			d.Status.Replicas = 0
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue}}
		}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := &appsv1.Deployment{}
			d.Generation, d.Status.ObservedGeneration = 3, 3
			d.Spec.Replicas = new(int32(2))
			d.Status.Replicas, d.Status.UpdatedReplicas = 2, 2
			row.change(d)
			NewWithT(t).Expect(settled(d)).To(Equal(row.want))
		})
	}
}

func TestAsStoredLeavesOutWhatTheServerDoes(t *testing.T) {
	g := NewWithT(t)
	stored, err := asStored(declared(t, "beetle", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {template: {spec: {hostNetwork: false, automountServiceAccountToken: false, containers: [{name: c, stdin: false}]}}}
`))
	g.Expect(err).NotTo(HaveOccurred())
	spec, _, _ := unstructured.NestedMap(stored, "spec", "template", "spec")
	g.Expect(spec).NotTo(HaveKey("hostNetwork"))
	g.Expect(spec).To(HaveKeyWithValue("automountServiceAccountToken", false))
	stored, err = asStored(declared(t, "beetle", `{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}`))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(stored).NotTo(HaveKey("stringData"))
	g.Expect(stored).To(HaveKeyWithValue("data", map[string]any{"a": "Yg=="}))
	custom := declared(t, "beetle", `{apiVersion: example.com/v1, kind: Thing, metadata: {name: x}, spec: {a: false}}`)
	stored, err = asStored(custom)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(stored).To(Equal(custom.Object))
	_, err = asStored(declared(t, "beetle", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: many}}`))
	g.Expect(err).To(MatchError(ContainSubstring("read Deployment d")))
}

func TestDeclaredEmpty(t *testing.T) {
	deployment := func(name, app, replicas string) platform.Object {
		return declared(t, "beetle", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: `+name+`}, spec: {`+replicas+`template: {metadata: {labels: {app: `+app+`}}}}}`)
	}
	service := &corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}
	for _, row := range []struct {
		name    string
		objects []platform.Object
		want    bool
	}{
		{"one pod by default", []platform.Object{deployment("a", "x", "")}, false},
		{"none", []platform.Object{deployment("a", "x", "replicas: 0, "), deployment("b", "other", "")}, true},
		{"some of another", []platform.Object{deployment("a", "x", "replicas: 0, "), deployment("b", "x", "replicas: 1, ")}, false},
		{"nothing is selected", []platform.Object{deployment("a", "other", "replicas: 0, ")}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			empty, err := declaredEmpty(&platform.Tenant{Objects: row.objects}, service)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(empty).To(Equal(row.want))
		})
	}
}

func TestByKindLeavesOutWhatOthersApply(t *testing.T) {
	g := NewWithT(t)
	own := declared(t, "beetle", `{apiVersion: v1, kind: Service, metadata: {name: s}}`)
	platforms := declared(t, "", `{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: h}}`)
	g.Expect(byKind(&platform.Tenant{Name: "beetle", Objects: []platform.Object{own, platforms}})).To(Equal(
		map[schema.GroupKind][]platform.Object{{Kind: "Service"}: {own}}))
}

func TestTakenOverChangesLabelsAlone(t *testing.T) {
	g := NewWithT(t)
	live := declared(t, "sonar", `
apiVersion: v1
kind: Service
metadata:
  name: s
  uid: "1"
  resourceVersion: "2"
  labels: {app: x, toolkit.fluxcd.io/tenant: sonar, kustomize.toolkit.fluxcd.io/name: sonar, kustomize.toolkit.fluxcd.io/namespace: sonar}
  managedFields: [{manager: m}]
spec: {selector: {app: x}}
status: {loadBalancer: {}}
`)
	by := &platform.Tenant{Name: "beetle", Kustomization: &platform.Kustomization{
		Object: declared(t, "", `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: all, namespace: beetle}}`),
	}}
	g.Expect(takenOver(live.Unstructured, by)).To(Equal(declared(t, "", `
apiVersion: v1
kind: Service
metadata:
  name: s
  labels: {app: x, toolkit.fluxcd.io/tenant: beetle, kustomize.toolkit.fluxcd.io/name: all, kustomize.toolkit.fluxcd.io/namespace: beetle}
spec: {selector: {app: x}}
`).Unstructured))
	bare := takenOver(declared(t, "", `{apiVersion: v1, kind: Service, metadata: {name: s}}`).Unstructured, by)
	g.Expect(bare.GetLabels()).NotTo(HaveKey(platform.TenantLabel))
}
