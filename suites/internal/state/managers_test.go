package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestAppliedProblems(t *testing.T) {
	declared := parse(t, `
apiVersion: v1
kind: Service
metadata: {name: s, namespace: apps, labels: {app: x}}
spec:
  selector: {app: x}
  ports: [{name: http, port: 80, targetPort: http}]
`)
	by := func(manager, operation, subresource, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationType(operation), Subresource: subresource,
			FieldsV1: metav1.NewFieldsV1(fields),
		}
	}
	flux := by("kustomize-controller", "Apply", "", `{"f:spec":{"f:selector":{}}}`)
	const ours = "beetle/beetle"
	for _, row := range []struct {
		name    string
		managed []metav1.ManagedFieldsEntry
		lists   string
		change  func(*unstructured.Unstructured)
		want    []string
	}{
		{"applied by its Kustomization alone", []metav1.ManagedFieldsEntry{flux}, ours, nil, nil},
		{
			"a status, and what controllers add", []metav1.ManagedFieldsEntry{
				flux,
				by("traefik", "Update", "status", `{"f:status":{"f:loadBalancer":{}}}`),
				by("kube-controller-manager", "Update", "status", `{"f:metadata":{"f:annotations":{".":{},"f:deployment.kubernetes.io/revision":{}}},"f:status":{"f:replicas":{}}}`),
				by("kube-controller-manager", "Update", "", `{"f:spec":{"f:ports":{"k:{\"port\":443,\"protocol\":\"TCP\"}":{"f:nodePort":{}},"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:nodePort":{}}}}}`),
				by("helm-controller", "Update", "", `{"f:metadata":{"f:finalizers":{".":{},"v:\"finalizers.fluxcd.io\"":{}}}}`),
				by("flux", "Update", "", `{"f:metadata":{"f:annotations":{".":{},"f:reconcile.fluxcd.io/requestedAt":{}}}}`),
			}, ours, nil, nil,
		},
		{
			"a hand that wrote",
			[]metav1.ManagedFieldsEntry{flux, by("kubectl-edit", "Update", "", `{"f:metadata":{"f:annotations":{".":{},"f:note":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:targetPort":{}}}}}`)},
			ours, nil,
			[]string{`kubectl-edit (Update) wrote metadata.annotations.note, spec.ports[port=80,protocol="TCP"].targetPort`},
		},
		{
			"a hand that forged a name",
			[]metav1.ManagedFieldsEntry{flux, by("kustomize-controller", "Update", "", `{"f:spec":{"f:type":{}}}`)},
			ours, nil,
			[]string{"kustomize-controller (Update) wrote spec.type"},
		},
		{
			"a controller that wrote what is declared",
			[]metav1.ManagedFieldsEntry{flux, by("kube-controller-manager", "Update", "scale", `{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:targetPort":{}}}}}`)},
			ours, nil,
			[]string{`kube-controller-manager (Update of scale) wrote spec.ports[port=80,protocol="TCP"].targetPort`},
		},
		{
			"a spec written by way of the status",
			[]metav1.ManagedFieldsEntry{flux, by("somebody", "Update", "status", `{"f:metadata":{"f:labels":{"f:a":{}}},"f:status":{"f:a":{}}}`)},
			ours, nil,
			[]string{"somebody (Update of status) wrote metadata.labels.a"},
		},
		{
			"never applied",
			[]metav1.ManagedFieldsEntry{by("curl", "Update", "", `{"f:spec":{"f:type":{}}}`)},
			ours, nil,
			[]string{"curl (Update) wrote spec.type", "kustomize-controller has applied none of its fields"},
		},
		{
			"in another inventory",
			[]metav1.ManagedFieldsEntry{flux},
			"sonar/sonar", nil,
			[]string{"the inventory of beetle/beetle, which declares it, does not list it"},
		},
		{
			"with another's labels",
			[]metav1.ManagedFieldsEntry{flux},
			ours,
			func(live *unstructured.Unstructured) { live.SetLabels(applied("sonar", "sonar")) },
			[]string{"its labels name sonar/sonar, beetle/beetle declares it"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			live := declared.DeepCopy()
			live.SetLabels(applied("beetle", "beetle"))
			live.SetManagedFields(row.managed)
			if row.change != nil {
				row.change(live)
			}
			problems, err := state.AppliedProblems(state.AppliedInput{
				Declared: declared, Live: live, Kustomization: ours,
				Inventories: map[string][]string{row.lists: {state.InventoryID(live)}},
			})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(problems).To(Equal(row.want))
		})
	}
	broken := declared.DeepCopy()
	broken.SetManagedFields([]metav1.ManagedFieldsEntry{by("x", "Update", "", `{"k:broken":{}}`)})
	_, err := state.AppliedProblems(state.AppliedInput{Declared: declared, Live: broken})
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("read the fields of x")))
}
