package state_test

import (
	"net/netip"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestEgressTo(t *testing.T) {
	const deny = `{metadata: {name: deny}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}`
	policy := func(rule string) string {
		return `{metadata: {name: some}, spec: {podSelector: {matchLabels: {app: x}}, policyTypes: [Egress], egress: [` + rule + `]}}`
	}
	for _, row := range []struct {
		name     string
		policies []string
		held     bool
		allowed  string
	}{
		{"no policy", nil, false, ""},
		{"one that denies all", []string{deny}, true, ""},
		{"one of other pods", []string{`{metadata: {name: o}, spec: {podSelector: {matchLabels: {app: y}}, policyTypes: [Egress]}}`}, false, ""},
		{"one of incoming traffic", []string{`{metadata: {name: i}, spec: {podSelector: {}, policyTypes: [Ingress]}}`}, false, ""},
		{"one that opens everything", []string{deny, policy(`{}`)}, true, "some"},
		{"one that opens the world", []string{deny, policy(`{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}`)}, true, "some"},
		{"the world but this address", []string{deny, policy(`{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.169.254/32]}}]}`)}, true, ""},
		{"another address", []string{deny, policy(`{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}`)}, true, ""},
		{"pods", []string{deny, policy(`{to: [{namespaceSelector: {}}]}`)}, true, ""},
		{"another port", []string{deny, policy(`{ports: [{port: 443}]}`)}, true, ""},
		{"another protocol", []string{deny, policy(`{ports: [{port: 80, protocol: UDP}]}`)}, true, ""},
		{"this port", []string{deny, policy(`{ports: [{port: 80, protocol: TCP}]}`)}, true, "some"},
		{"a range of ports", []string{deny, policy(`{ports: [{port: 1, endPort: 1024}]}`)}, true, "some"},
		{"all ports", []string{deny, policy(`{ports: [{protocol: TCP}]}`)}, true, "some"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			var policies []networkingv1.NetworkPolicy
			for _, text := range row.policies {
				policies = append(policies, into[networkingv1.NetworkPolicy](t, text))
			}
			held, allowed := state.EgressTo(policies, map[string]string{"app": "x"}, netip.MustParseAddr("169.254.169.254"), 80)
			g.Expect(held).To(Equal(row.held))
			g.Expect(allowed).To(Equal(row.allowed))
		})
	}
}

func TestReachProblems(t *testing.T) {
	g := NewWithT(t)
	up := &state.Reach{From: "the ingress", To: "sonar", Allowed: true, Answered: true, What: "status 200"}
	down := &state.Reach{From: "the ingress", To: "sonar", Allowed: true, What: "timeout"}
	problems, undecided := state.ReachProblems([]state.Reach{
		{From: "a", To: "b", What: "timeout", Control: up},
		{From: "c", To: "d", What: "timeout", Control: down},
		{From: "e", To: "f", Answered: true, What: "status 200", Control: up},
		{From: "g", To: "h", Allowed: true, What: "timeout"},
		{From: "i", To: "j", Allowed: true, Answered: true, What: "status 200"},
		{From: "k", To: "l", What: "timeout"},
	})
	g.Expect(problems).To(Equal([]string{"e reaches f: status 200", "g does not reach h: timeout"}))
	g.Expect(undecided).To(Equal([]string{"c does not reach d, and neither does the ingress, which must: timeout"}))
}

func TestControllerServices(t *testing.T) {
	class := into[networkingv1.IngressClass](t, `
metadata:
  name: traefik
  annotations: {meta.helm.sh/release-name: traefik, meta.helm.sh/release-namespace: ingress}
  labels: {app.kubernetes.io/instance: t, app.kubernetes.io/name: traefik, helm.toolkit.fluxcd.io/name: traefik, helm.toolkit.fluxcd.io/namespace: ingress}
`)
	const release = `annotations: {meta.helm.sh/release-name: traefik, meta.helm.sh/release-namespace: ingress}`
	for _, row := range []struct {
		name     string
		services []string
		want     string
	}{
		{"none", nil, ""},
		{"of the same release", []string{
			`{metadata: {name: other, namespace: apps}, spec: {selector: {a: b}, ports: [{port: 80}]}}`,
			`{metadata: {name: metrics, namespace: ingress, ` + release + `}, spec: {selector: {a: b}, ports: [{port: 9100, name: metrics}]}}`,
			`{metadata: {name: traefik, namespace: ingress, ` + release + `}, spec: {selector: {a: b}, ports: [{port: 443, name: websecure}, {port: 8080, name: web}]}}`,
		}, "ingress/traefik:8080 "},
		{"of another release of that name", []string{
			`{metadata: {name: x, annotations: {meta.helm.sh/release-name: traefik, meta.helm.sh/release-namespace: else}}, spec: {selector: {a: b}, ports: [{port: 80}]}}`,
		}, ""},
		{"of the same instance", []string{
			`{metadata: {name: x, namespace: edge, labels: {app.kubernetes.io/instance: t, app.kubernetes.io/name: traefik}}, spec: {selector: {a: b}, ports: [{port: 80}]}}`,
		}, "edge/x:80 "},
		{"by the same Flux object", []string{
			`{metadata: {name: x, namespace: edge, labels: {helm.toolkit.fluxcd.io/name: traefik, helm.toolkit.fluxcd.io/namespace: ingress}}, spec: {selector: {a: b}, ports: [{port: 80}]}}`,
		}, "edge/x:80 "},
		{"without pods", []string{`{metadata: {name: x, ` + release + `}, spec: {ports: [{port: 80}]}}`}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var services []corev1.Service
			for _, text := range row.services {
				services = append(services, into[corev1.Service](t, text))
			}
			got := ""
			for _, found := range state.ControllerServices(class, services) {
				got += found.String() + " "
			}
			NewWithT(t).Expect(got).To(Equal(row.want))
		})
	}
}

func TestWebPort(t *testing.T) {
	for ports, want := range map[string]int32{
		`[{port: 8080}]`: 8080, `[{port: 1}, {port: 2}]`: 0, `[{port: 1}, {port: 2, name: http}]`: 2, `[{port: 53, protocol: UDP}]`: 0,
		`[{port: 80}, {port: 9, appProtocol: http}]`: 9,
	} {
		port, ok := state.WebPort(into[corev1.Service](t, `{spec: {ports: `+ports+`}}`))
		g := NewWithT(t)
		g.Expect(port).To(Equal(want), ports)
		g.Expect(ok).To(Equal(want != 0), ports)
	}
}
