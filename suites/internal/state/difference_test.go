package state_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestDeviations(t *testing.T) {
	const declared = `
kind: Service
metadata: {name: app, labels: {environment: ENV}}
spec:
  selector: {app: x}
  ports: [{name: http, port: 80, protocol: TCP}]
`
	const live = `
kind: Service
metadata:
  name: app
  uid: "UID"
  labels: {environment: ENV, kustomize.toolkit.fluxcd.io/name: ENV-app}
  annotations: {reconcile.fluxcd.io/requestedAt: ENV, revision: "ENV"}
  managedFields:
  - manager: kustomize-controller
    fieldsV1:
      f:metadata: {f:labels: {f:environment: {}, f:kustomize.toolkit.fluxcd.io/name: {}}}
      f:spec:
        f:selector: {}
        f:ports: {'k:{"port":80,"protocol":"TCP"}': {.: {}, f:name: {}, f:port: {}, f:protocol: {}}}
  - manager: kube-controller-manager
    fieldsV1: {f:metadata: {f:annotations: {f:revision: {}}}}
  - manager: someone
    subresource: status
    fieldsV1: {f:status: {}}
MORE
spec:
  selector: {app: x}
  ports: [{name: http, port: 80, protocol: TCP, targetPort: 80NODEPORT}]
  clusterIP: UID
AFFINITY
status: {loadBalancer: ENV}
`
	object := func(environment, affinity, port, managers string) state.Counterpart {
		affinity = "  " + strings.ReplaceAll(affinity, ", ", "\n  ")
		replacer := strings.NewReplacer("ENV", environment, "UID", "10.0.0."+environment, "AFFINITY", affinity, "NODEPORT", port, "MORE", managers)
		return state.Counterpart{Declared: parse(t, strings.ReplaceAll(declared, "ENV", environment)), Live: parse(t, replacer.Replace(live))}
	}
	prd := object("2", "sessionAffinity: None", "", "")
	const (
		patched      = "  - {manager: kubectl-patch, fieldsV1: {f:spec: {f:sessionAffinity: {}}}}\n"
		edited       = "  - {manager: kubectl-edit, fieldsV1: {f:spec: {f:sessionAffinity: {}}}}\n"
		patchedItem  = `  - {manager: kubectl-patch, fieldsV1: {f:spec: {f:ports: {'k:{"port":80,"protocol":"TCP"}': {f:nodePort: {}}}}}}` + "\n"
		patchedWhole = "  - {manager: kubectl-patch, fieldsV1: {f:spec: {f:sessionAffinityConfig: {}}}}\n"
	)
	for _, row := range []struct {
		name string
		here state.Counterpart
		want []string
	}{
		{"what is declared so, what the server sets and whose work it is to change it", object("1", "sessionAffinity: None", "", ""), nil},
		{"what the server fills in by itself", object("1", "sessionAffinity: None, internalTrafficPolicy: Local", ", nodePort: 30080", ""), nil},
		{"what a controller of Kubernetes wrote", object("1", "sessionAffinity: ClientIP", "", strings.Replace(patched, "kubectl-patch", "kube-controller-manager", 1)), nil},
		{"what admission set here only", object("1", "sessionAffinity: None, externalName: x", "", ""), []string{
			`spec.externalName: "x", set on admission; there absent; neither declares it`,
		}},
		{"a field that somebody wrote", object("1", "sessionAffinity: ClientIP", "", patched), []string{
			`spec.sessionAffinity: "ClientIP", written by kubectl-patch; there "None"; neither declares it`,
		}},
		{"a field that two wrote", object("1", "sessionAffinity: ClientIP", "", patched+edited), []string{
			`spec.sessionAffinity: "ClientIP", written by kubectl-edit and kubectl-patch; there "None"; neither declares it`,
		}},
		{"somebody wrote what is the same there", object("1", "sessionAffinity: None", "", patched), nil},
		{"a field of a list's item", object("1", "sessionAffinity: None", ", nodePort: 30080", patchedItem), []string{
			`spec.ports[name=http].nodePort: 30080, written by kubectl-patch; there absent; neither declares it`,
		}},
		{"all below a field", object("1", "sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}", "", patchedWhole), []string{
			`spec.sessionAffinityConfig.clientIP.timeoutSeconds: 5, written by kubectl-patch; there absent; neither declares it`,
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			var found []string
			for _, d := range state.Deviations(row.here, prd) {
				found = append(found, d.String())
			}
			g.Expect(found).To(Equal(row.want))
			g.Expect(state.Deviations(prd, row.here)).To(BeEmpty(), "it is not the other's")
		})
	}
	g := NewWithT(t)
	set := object("1", "sessionAffinity: ClientIP", "", "")
	g.Expect(state.Deviations(set, prd)).To(HaveLen(1), "it cannot be told whose it is")
	g.Expect(state.Deviations(prd, set)).To(HaveLen(1))
}

func TestDeviationsLeaveDeclaredFieldsToCompare(t *testing.T) {
	g := NewWithT(t)
	written := `{kind: D, metadata: {managedFields: [{manager: someone, fieldsV1: {f:spec: {f:replicas: {}, f:args: {'v:"b"': {}}}}}]}, spec: {replicas: N, args: [a, b]}}`
	live := func(n string) state.Counterpart {
		return state.Counterpart{Declared: parse(t, `{kind: D, spec: {replicas: 1}}`), Live: parse(t, strings.ReplaceAll(written, "N", n))}
	}
	g.Expect(state.Deviations(live("5"), live("1"))).To(BeEmpty())
	undeclared := live("5")
	undeclared.Declared = parse(t, `{kind: D, spec: {}}`)
	g.Expect(state.Deviations(undeclared, live("1"))).To(BeEmpty(), "the other declares it: so they differ as declared")
	other := live("1")
	other.Live = parse(t, `{kind: D, spec: {replicas: 1, args: [a]}}`)
	deviations := state.Deviations(live("1"), other)
	g.Expect(deviations).To(HaveLen(1))
	g.Expect(deviations[0].String()).To(Equal(`spec.args[1]: "b", written by someone; there absent; neither declares it`))
}
