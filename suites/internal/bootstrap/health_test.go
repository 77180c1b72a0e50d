package bootstrap

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
)

func deploymentOf(namespace, name, args string, available int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %s, namespace: %s, generation: 1}
spec: {replicas: 1, selector: {}, template: {spec: {containers: [{name: manager, args: [%s]}]}}}
status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, availableReplicas: %d}
`, name, namespace, args, available)
}

// A health check is asked to look again only where the controller takes that as
// an end of the one under way, and nothing is left to wait for.
func TestRecheck(t *testing.T) {
	const checking = ", {type: Reconciling, status: 'True', message: 'Running health checks for revision x'}"
	app := func(inventory, spec string) string {
		return kustomizationOf("app", fromRoot+spec, "status: {observedGeneration: 1, conditions: [{type: Ready, status: Unknown, reason: Progressing, message: x}"+checking+"], inventory: {entries: ["+inventory+"]}}\n")
	}
	const (
		configMap = "{id: apps_values__ConfigMap, v: v1}"
		web       = "{id: apps_web_apps_Deployment, v: v1}"
		crds      = "{id: flux-system_crds_kustomize.toolkit.fluxcd.io_Kustomization, v: v1}"
		policy    = "{id: _tenants_policies.kyverno.io_ValidatingPolicy, v: v1}"
		gated     = "--feature-gates=CancelHealthCheckOnNewRevision=true"
		judged    = ", healthCheckExprs: [{kind: ValidatingPolicy, current: x}]"
	)
	for _, test := range []struct {
		name  string
		gate  string
		app   string
		other string
		asked bool
	}{
		{"all is healthy", gated, app(configMap+","+web, ""), deploymentOf("apps", "web", "", 1), true},
		{"the controller would queue the request", "--log-level=info", app(configMap+","+web, ""), deploymentOf("apps", "web", "", 1), false},
		{"a Deployment is not available", gated, app(configMap+","+web, ""), deploymentOf("apps", "web", "", 0), false},
		{"a Deployment is not there", gated, app(configMap+","+web, ""), deploymentOf("apps", "other", "", 1), false},
		{"a Flux object is ready", gated, app(crds, ""), kustomizationOf("crds", fromRoot, ready), true},
		{"a Flux object is not ready", gated, app(crds, ""), kustomizationOf("crds", fromRoot, outdated), false},
		{"a kind without an expression is Flux's to judge", gated, app(policy, ""), repository("other", ready), false},
		{"a kind with one is looked at again after a second", gated, app(policy, judged), repository("other", ready), true},
		{"nothing is applied yet", gated, app("", ""), repository("other", ready), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			s := serve(t, repository("root", ready), deploymentOf(Namespace, "kustomize-controller", test.gate, 1), test.app, test.other)
			s.become["app"] = "Succeeded: applied"
			got, err := settle(t, s, func(in *SettleInput) {
				if !test.asked {
					in.Timeout = 3 * pollInterval
				}
			})
			if test.asked {
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(got.Ready()).To(BeTrue())
				g.Expect(s.asked).To(Equal([]string{"app"}))
				return
			}
			g.Expect(err).To(MatchError(ContainSubstring("Kustomization flux-system/app is not ready (Progressing): x")))
			g.Expect(s.asked).To(BeEmpty())
		})
	}
}
