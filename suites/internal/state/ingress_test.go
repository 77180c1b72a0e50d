package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestIngressProblems(t *testing.T) {
	const good = `
spec:
  ingressClassName: web
  rules:
  - host: beetle.dev.example
    http: {paths: [{path: /, backend: {service: {name: beetle, port: {name: http}}}}]}
`
	rule := func(fields string) string { return "{spec: {ingressClassName: web, rules: [" + fields + "]}}" }
	to := func(backend string) string {
		return rule("{host: beetle.dev.example, http: {paths: [{backend: " + backend + "}]}}")
	}
	other := func(host, labels string) []networkingv1.Ingress {
		return []networkingv1.Ingress{into[networkingv1.Ingress](t, `{metadata: {namespace: apps, name: other, labels: {`+labels+`}}, spec: {rules: [{host: "`+host+`"}]}}`)}
	}
	sonar := tenantLabel + ": sonar"
	for _, row := range []struct {
		name, ingress string
		others        []networkingv1.Ingress
		want          []string
	}{
		{"as it must be", good, other("sonar.dev.example", sonar), nil},
		{"by the port's number", to("{service: {name: beetle, port: {number: 80}}}"), nil, nil},
		{
			"another's Service", to("{service: {name: sonar, port: {name: http}}}"), nil,
			[]string{"spec.rules[0].http.paths[0] leads to Service sonar, which is none of the tenant's"},
		},
		{
			"a port by a name that is not there", to("{service: {name: beetle, port: {name: web}}}"), nil,
			[]string{"spec.rules[0].http.paths[0] leads to the port web, which Service beetle does not have"},
		},
		{
			"a port by a number that is not there", to("{service: {name: beetle, port: {number: 8080}}}"), nil,
			[]string{"spec.rules[0].http.paths[0] leads to the port 8080, which Service beetle does not have"},
		},
		{"no Service", to("{resource: {kind: Bucket, name: b}}"), nil, []string{"spec.rules[0].http.paths[0] leads to no Service"}},
		{"no path", rule("{host: beetle.dev.example}"), nil, []string{"spec.rules[0] leads beetle.dev.example nowhere"}},
		{
			"no host", rule("{http: {paths: [{backend: {service: {name: beetle, port: {name: http}}}}]}}"), nil,
			[]string{"spec.rules[0] names no host: it takes the requests for every host"},
		},
		{"no rule", rule(""), nil, []string{"it has no rule"}},
		{
			"a default backend", `{spec: {ingressClassName: web, defaultBackend: {service: {name: beetle, port: {name: http}}}}}`, nil,
			[]string{"its default backend takes the requests for every host that nobody claims"},
		},
		{
			"another tenant's host", good, other("Beetle.dev.example", sonar),
			[]string{`spec.rules[0] has the host beetle.dev.example, which Ingress apps/other of "sonar" claims as Beetle.dev.example`},
		},
		{
			"a host that nobody's Ingress claims too", good, other("beetle.dev.example", ""),
			[]string{`spec.rules[0] has the host beetle.dev.example, which Ingress apps/other of "" claims as beetle.dev.example`},
		},
		{
			"a host under another tenant's pattern", good, other("*.dev.example", sonar),
			[]string{`spec.rules[0] has the host beetle.dev.example, which Ingress apps/other of "sonar" claims as *.dev.example`},
		},
		{"a host under the platform's pattern", good, other("*.dev.example", ""), nil},
		{"a pattern of another domain", good, other("*.example", sonar), nil},
		{
			"a class that is not there", `{spec: {ingressClassName: gone, rules: [{host: beetle.dev.example, http: {paths: [{backend: {service: {name: beetle, port: {number: 80}}}}]}}]}}`, nil,
			[]string{"its class gone does not exist: nothing serves it"},
		},
		{
			"no class", `{spec: {rules: [{host: beetle.dev.example, http: {paths: [{backend: {service: {name: beetle, port: {number: 80}}}}]}}]}}`, nil,
			[]string{"it names no class, and the cluster has no default one: nothing serves it"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			problems := state.IngressProblems(state.IngressInput{
				Ingress: into[networkingv1.Ingress](t, row.ingress), Others: row.others, TenantLabel: tenantLabel,
				Services: map[string]corev1.Service{"beetle": into[corev1.Service](t, `{metadata: {name: beetle}, spec: {ports: [{name: http, port: 80}]}}`)},
				Classes:  []networkingv1.IngressClass{into[networkingv1.IngressClass](t, `{metadata: {name: web}}`)},
			})
			NewWithT(t).Expect(problems).To(Equal(row.want))
		})
	}
	standard := into[networkingv1.IngressClass](t, `{metadata: {name: web, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}}`)
	problems := state.IngressProblems(state.IngressInput{Classes: []networkingv1.IngressClass{standard}})
	NewWithT(t).Expect(problems).To(Equal([]string{"it has no rule"}))
}
