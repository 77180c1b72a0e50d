package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// belongs is the label of a tenant, in an object's metadata.
func belongs(tenant string) string { return "labels: {" + tenantLabel + ": " + tenant + "}" }

func flowsOf(t *testing.T, objects, control []string) ([]state.Flow, error) {
	t.Helper()
	in := state.FlowInput{
		Tenants:  []string{"beetle", "sonar"},
		TenantOf: func(o *unstructured.Unstructured) string { return state.TenantOf(o, tenantLabel) },
	}
	for _, text := range objects {
		in.Objects = append(in.Objects, parse(t, text))
	}
	for _, text := range control {
		in.Control = append(in.Control, parse(t, text))
	}
	return state.Flows(in)
}

func TestFlowsSeeEachCrossing(t *testing.T) {
	t.Parallel()
	config := `{kind: ConfigMap, metadata: {name: prices, namespace: apps, ` + belongs("sonar") + `}}`
	service := `{kind: Service, metadata: {name: web, namespace: apps, ` + belongs("sonar") + `}, spec: {selector: {app: sonar}}}`
	host := `{kind: Ingress, metadata: {name: web, namespace: apps, ` + belongs("sonar") + `}, spec: {rules: [{host: sonar.example, http: {paths: [{path: /, backend: {}}]}}]}}`
	pod := func(spec string) string {
		return `{kind: Pod, metadata: {name: p, namespace: apps, ` + belongs("beetle") + `}, spec: ` + spec + `}`
	}
	ingress := func(spec string) string {
		return `{kind: Ingress, metadata: {name: b, namespace: apps, ` + belongs("beetle") + `}, spec: ` + spec + `}`
	}
	flux := func(kind, spec string) string {
		return `{kind: ` + kind + `, metadata: {name: b, namespace: beetle, ` + belongs("beetle") + `}, spec: ` + spec + `}`
	}
	for _, row := range []struct {
		name             string
		objects, control []string
		want             string // empty: nothing crosses
	}{
		{
			"a volume",
			[]string{config, pod(`{volumes: [{name: v, configMap: {name: prices}}]}`)},
			nil,
			`volume: spec.volumes[name=v] of Pod apps/p: from "sonar" to "beetle": ConfigMap prices`,
		},
		{
			"a projected volume",
			[]string{config, pod(`{volumes: [{name: v, projected: {sources: [{configMap: {name: prices}}]}}]}`)},
			nil,
			`projected: spec.volumes[name=v].projected.sources[0] of Pod apps/p: from "sonar" to "beetle": ConfigMap prices`,
		},
		{
			"a variable",
			[]string{config, pod(`{containers: [{name: c, env: [{name: A, valueFrom: {configMapKeyRef: {name: prices, key: a}}}]}]}`)},
			nil,
			`env: spec.containers[name=c].env[name=A] of Pod apps/p: from "sonar" to "beetle": ConfigMap prices`,
		},
		{
			"all variables",
			[]string{config, pod(`{containers: [{name: c, envFrom: [{configMapRef: {name: prices}}]}]}`)},
			nil,
			`envFrom: spec.containers[name=c].envFrom[0] of Pod apps/p: from "sonar" to "beetle": ConfigMap prices`,
		},
		{"a pod that has ended", []string{config, `{kind: Pod, metadata: {name: p, namespace: apps, ` + belongs("beetle") +
			`}, spec: {volumes: [{name: v, configMap: {name: prices}}]}, status: {phase: Succeeded}}`}, nil, ""},
		{"the same name elsewhere", []string{config, `{kind: Pod, metadata: {name: p, namespace: other, ` + belongs("beetle") +
			`}, spec: {volumes: [{name: v, configMap: {name: prices}}]}}`}, nil, ""},
		{"what is nobody's", []string{`{kind: ConfigMap, metadata: {name: prices, namespace: apps}}`, pod(`{volumes: [{name: v, configMap: {name: prices}}]}`)}, nil, ""},
		{
			"an account",
			[]string{`{kind: ServiceAccount, metadata: {name: s, namespace: apps, ` + belongs("sonar") + `}}`, pod(`{serviceAccountName: s}`)},
			nil,
			`reference: spec.serviceAccountName of Pod apps/p: from "sonar" to "beetle": ServiceAccount s`,
		},
		{
			"a selector",
			[]string{service, `{kind: Pod, metadata: {name: p, namespace: apps, labels: {app: sonar, ` + tenantLabel + `: beetle}}, spec: {}}`},
			nil,
			`selector: spec.selector of Service apps/web: from "sonar" to "beetle": map[app:sonar] selects Pod apps/p`,
		},
		{
			"an endpoint",
			[]string{service, pod(`{}`), `{kind: EndpointSlice, metadata: {name: e, namespace: apps, labels: {kubernetes.io/service-name: web}}, endpoints: [{targetRef: {kind: Pod, name: p}}]}`},
			nil,
			`endpoints: endpoints[0].targetRef of EndpointSlice apps/e: from "sonar" to "beetle": Pod p of Service web`,
		},
		{
			"an endpoint by its address alone",
			[]string{
				service, `{kind: Pod, metadata: {name: p, namespace: apps, labels: {` + tenantLabel + `: beetle}}, spec: {}, status: {podIPs: [{ip: 10.0.0.7}]}}`,
				`{kind: EndpointSlice, metadata: {name: e, namespace: apps, labels: {kubernetes.io/service-name: web}}, endpoints: [{addresses: [10.0.0.7]}]}`,
			},
			nil,
			`endpoints: endpoints[0].addresses of EndpointSlice apps/e: from "sonar" to "beetle": 10.0.0.7 of Pod p, by Service web`,
		},
		{
			"a backend",
			[]string{service, ingress(`{rules: [{host: b.example, http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}}]}`)},
			nil,
			`ingress: spec.rules[0].http.paths[0].backend of Ingress apps/b: from "beetle" to "sonar": Service web`,
		},
		{
			"a path of a host",
			[]string{host, ingress(`{rules: [{host: SONAR.example, http: {paths: [{path: /b, backend: {}}]}}]}`)},
			nil,
			`ingress: spec.rules[0].http.paths[0] of Ingress apps/b: from "sonar" to "beetle": host SONAR.example, path /b: takes what Ingress apps/web has at host sonar.example, path /`,
		},
		{
			"a pattern of hosts",
			[]string{host, ingress(`{rules: [{host: "*.example", http: {paths: [{backend: {}}]}}]}`)},
			nil,
			`ingress: spec.rules[0].http.paths[0] of Ingress apps/b: from "sonar" to "beetle": host *.example, path /: takes what Ingress apps/web has at host sonar.example, path /`,
		},
		{
			"a rule for every host",
			[]string{host, ingress(`{rules: [{http: {paths: [{path: /, backend: {}}]}}]}`)},
			nil,
			`ingress: spec.rules[0].http.paths[0] of Ingress apps/b: from "sonar" to "beetle": host of everybody, path /: takes what Ingress apps/web has at host sonar.example, path /`,
		},
		{
			"a default backend",
			[]string{host, ingress(`{defaultBackend: {}}`)},
			nil,
			`ingress: spec.defaultBackend of Ingress apps/b: from "sonar" to "beetle": host of everybody, path /: takes what Ingress apps/web has at host sonar.example, path /`,
		},
		{"another host", []string{host, ingress(`{rules: [{host: b.example, http: {paths: [{path: /, backend: {}}]}}]}`)}, nil, ""},
		{
			"an artifact", nil,
			[]string{`{kind: GitRepository, metadata: {name: s, namespace: sonar, ` + belongs("sonar") + `}}`, flux("Kustomization", `{sourceRef: {kind: GitRepository, name: s, namespace: sonar}}`)},
			`artifact: spec.sourceRef of Kustomization beetle/b: from "sonar" to "beetle": GitRepository sonar/s`,
		},
		{
			"the chart of a release", nil,
			[]string{`{kind: HelmRepository, metadata: {name: s, namespace: beetle, ` + belongs("sonar") + `}}`, flux("HelmRelease", `{chart: {spec: {sourceRef: {kind: HelmRepository, name: s}}}}`)},
			`artifact: spec.chart.spec.sourceRef of HelmRelease beetle/b: from "sonar" to "beetle": HelmRepository beetle/s`,
		},
		{
			"a folder", nil,
			[]string{flux("Kustomization", `{path: ./tenants/sonar}`)},
			`artifact: spec.path of Kustomization beetle/b: from "sonar" to "beetle": ./tenants/sonar`,
		},
		{"a folder that its own name leads to", nil, []string{flux("Kustomization", `{path: ./sonar/beetle}`)}, ""},
		{
			"an included repository", nil,
			[]string{`{kind: GitRepository, metadata: {name: s, namespace: beetle, ` + belongs("sonar") + `}}`, flux("GitRepository", `{include: [{repository: {name: s}}]}`)},
			`include: spec.include[0].repository of GitRepository beetle/b: from "sonar" to "beetle": GitRepository beetle/s`,
		},
		{
			"an included folder", nil,
			[]string{flux("GitRepository", `{include: [{repository: {name: x}, fromPath: base/beetle}, {repository: {name: x}, fromPath: base/sonar}]}`)},
			`include: spec.include[1].fromPath of GitRepository beetle/b: from "sonar" to "beetle": base/sonar`,
		},
		{
			"a folder that is not left out", nil,
			[]string{flux("GitRepository", `{ignore: "/*\n!/base/sonar\n"}`)},
			`artifact: spec.ignore of GitRepository beetle/b: from "sonar" to "beetle": /base/sonar`,
		},
		{"a folder that is left out", nil, []string{flux("GitRepository", `{ignore: "/base/sonar\n!/base/sonars\n"}`)}, ""},
		{
			"text put into manifests", nil,
			[]string{`{kind: ConfigMap, metadata: {name: s, namespace: beetle, ` + belongs("sonar") + `}}`, flux("Kustomization", `{postBuild: {substituteFrom: [{kind: ConfigMap, name: s}]}}`)},
			`substitution: spec.postBuild.substituteFrom[0] of Kustomization beetle/b: from "sonar" to "beetle": ConfigMap beetle/s`,
		},
		{
			"values of a release", nil,
			[]string{`{kind: Secret, metadata: {name: s, namespace: beetle, ` + belongs("sonar") + `}}`, flux("HelmRelease", `{valuesFrom: [{kind: Secret, name: s}]}`)},
			`substitution: spec.valuesFrom[0] of HelmRelease beetle/b: from "sonar" to "beetle": Secret beetle/s`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			list, err := flowsOf(t, row.objects, row.control)
			g.Expect(err).NotTo(HaveOccurred())
			found := []string{}
			for _, f := range state.FlowsMap(list).Crossings {
				found = append(found, f.String())
			}
			if row.want == "" {
				g.Expect(found).To(BeEmpty())
				return
			}
			g.Expect(found).To(ContainElement(row.want))
		})
	}
}

func TestFlowMap(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	list, err := flowsOf(t, []string{
		`{kind: ConfigMap, metadata: {name: own, namespace: apps, ` + belongs("beetle") + `}}`,
		`{kind: ConfigMap, metadata: {name: prices, namespace: apps, ` + belongs("sonar") + `}}`,
		`{kind: ServiceAccount, metadata: {name: default, namespace: apps}}`,
		`{kind: Pod, metadata: {name: p, namespace: apps, ` + belongs("beetle") + `}, spec: {volumes: [{name: v, configMap: {name: own}}, {name: w, configMap: {name: prices}}]}}`,
	}, nil)
	g.Expect(err).NotTo(HaveOccurred())
	found := state.FlowsMap(list)
	g.Expect(found.Crossings).To(HaveLen(1))
	g.Expect(found.Own).To(HaveLen(1))
	g.Expect(found.Platform).To(HaveLen(1))
	g.Expect(found.String()).To(Equal(`beetle    from beetle    volume 1
beetle    from platform  reference 1
beetle    from sonar     CROSSES volume 1
network: 0 policies declare who reaches whom; NOTHING HERE IS KNOWN TO ENFORCE THEM: nobody tried
`))
	content, err := state.FlowsMap(nil).JSON()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).To(Equal(`{"crossings":[],"own":[],"platform":[],"network":{"policies":0,"open":[],"enforced":false,"evidence":""},"byName":[]}`))
}

// Whose a folder is shows by who draws on it, whatever it is called.
func TestFlowsOfFiles(t *testing.T) {
	t.Parallel()
	file := func(path string, tenants ...string) state.Carried {
		return state.Carried{Path: path, File: path, Tenants: tenants}
	}
	platforms := func(f state.Carried) state.Carried {
		f.Platform = true
		return f
	}
	values := `{kind: GitRepository, metadata: {name: values, namespace: tiger, ` + belongs("tiger") + `}, spec: {ignore: "/*\n!/dev"}}`
	composed := `{kind: GitRepository, metadata: {name: composed, namespace: tiger, ` + belongs("tiger") + `}, spec: {include: [
		{repository: {name: values}, fromPath: dev/line-9, toPath: own}, {repository: {name: values}, fromPath: dev/line-7, toPath: more}]}}`
	whole := `{kind: GitRepository, metadata: {name: values, namespace: tiger, ` + belongs("tiger") + `}, spec: {}}`
	builds := `{kind: Kustomization, metadata: {name: tiger, namespace: tiger, ` + belongs("tiger") + `}, spec: {path: ./dev/line-9, sourceRef: {kind: GitRepository, name: values}}}`
	common := `{kind: GitRepository, metadata: {name: everything, namespace: flux-system}}`
	applies := `{kind: Kustomization, metadata: {name: tiger, namespace: tiger, ` + belongs("tiger") + `}, spec: {path: ./dev/line-7, sourceRef: {kind: GitRepository, name: everything, namespace: flux-system}}}`
	for _, row := range []struct {
		name    string
		control []string
		files   map[string][]state.Carried
		unknown string
		wants   []string
	}{
		{"its own folder", []string{values}, map[string][]state.Carried{"values": {file("dev/line-9/c.yaml", "tiger")}}, "", nil},
		{"another's, by include", []string{values, composed}, map[string][]state.Carried{"values": {
			file("dev/line-9/c.yaml", "tiger"), file("dev/line-7/c.yaml", "beetle"), file("dev/line-7/d.yaml", "beetle"),
		}}, "", []string{
			`artifact: spec.ignore of GitRepository tiger/values: from "beetle" to "tiger": dev/line-7/c.yaml and 1 more`,
			`include: spec.include[1].fromPath of GitRepository tiger/composed: from "beetle" to "tiger": dev/line-7: dev/line-7/c.yaml and 1 more`,
		}},
		{"a folder that begins alike", []string{values, composed}, map[string][]state.Carried{"values": {file("dev/line-77/c.yaml")}}, "", nil},
		{"another's, by path", []string{common, applies}, map[string][]state.Carried{"everything": {
			file("dev/line-9/c.yaml", "tiger"), file("dev/line-7/c.yaml", "beetle"),
		}}, "", []string{`artifact: spec.path of Kustomization tiger/tiger: from "beetle" to "tiger": dev/line-7: dev/line-7/c.yaml`}},
		{"one that some share", []string{values}, map[string][]state.Carried{"values": {file("dev/java/c.yaml", "beetle", "tiger")}}, "", []string{
			`artifact: spec.ignore of GitRepository tiger/values: from "beetle" to "tiger": dev/java/c.yaml`,
		}},
		{"one that all share", []string{values}, map[string][]state.Carried{"values": {file("dev/common/c.yaml", "beetle", "sonar", "tiger")}}, "", nil},
		{"one that both are made of, and bears the one's name", []string{values}, map[string][]state.Carried{"values": {file("dev/beetle/c.yaml", "beetle", "tiger")}}, "", []string{
			`artifact: spec.ignore of GitRepository tiger/values: from "beetle" to "tiger": dev/beetle/c.yaml`,
		}},
		{"one of another's name, and nobody's", []string{values}, map[string][]state.Carried{"values": {file("dev/sonar/c.yaml")}}, "", []string{
			`artifact: spec.ignore of GitRepository tiger/values: from "sonar" to "tiger": dev/sonar/c.yaml`,
		}},
		{"the platform's base of some", []string{values}, map[string][]state.Carried{"values": {platforms(file("apps/java/d.yaml", "beetle"))}}, "", nil},
		{"the platform's folder of another's name", []string{values}, map[string][]state.Carried{"values": {platforms(file("values/beetle/d.yaml", "beetle"))}}, "", []string{
			`artifact: spec.ignore of GitRepository tiger/values: from "beetle" to "tiger": values/beetle/d.yaml`,
		}},
		{"a whole repository of which only a part is included", []string{whole, composed}, map[string][]state.Carried{"values": {
			file("dev/line-9/c.yaml", "tiger"), file("dev/line-6/c.yaml", "beetle"),
		}}, "", nil},
		{"a whole repository that is built", []string{whole, builds}, map[string][]state.Carried{"values": {
			file("dev/line-9/c.yaml", "tiger"), file("dev/line-6/c.yaml", "beetle"),
		}}, "", []string{`artifact: spec.url of GitRepository tiger/values: from "beetle" to "tiger": dev/line-6/c.yaml`}},
		{"files that nobody knows", []string{values, composed}, nil, "no folder answers", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			in := state.FlowInput{
				Tenants:  []string{"beetle", "sonar", "tiger"},
				TenantOf: func(o *unstructured.Unstructured) string { return state.TenantOf(o, tenantLabel) },
				Artifact: func(o *unstructured.Unstructured) ([]state.Carried, string) {
					return row.files[o.GetName()], row.unknown
				},
			}
			for _, text := range row.control {
				in.Control = append(in.Control, parse(t, text))
			}
			list, err := state.Flows(in)
			g.Expect(err).NotTo(HaveOccurred())
			var found []string
			for _, f := range state.FlowsMap(list).Crossings {
				found = append(found, f.String())
			}
			g.Expect(found).To(Equal(row.wants))
		})
	}
}

func TestFlowsOfNetworkPolicies(t *testing.T) {
	t.Parallel()
	pods := []string{
		`{kind: Deployment, metadata: {name: b, namespace: apps, ` + belongs("beetle") + `}, spec: {template: {metadata: {labels: {app: b}}, spec: {}}}}`,
		`{kind: Deployment, metadata: {name: s, namespace: apps, ` + belongs("sonar") + `}, spec: {template: {metadata: {labels: {app: s}}, spec: {}}}}`,
	}
	policy := func(name, spec string) string {
		return `{kind: NetworkPolicy, metadata: {name: ` + name + `, namespace: apps}, spec: ` + spec + `}`
	}
	deny := policy("deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`)
	fromBeetle := policy("from", `{podSelector: {matchLabels: {app: s}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}`)
	for _, row := range []struct {
		name     string
		policies []string
		wants    []string
		open     []string
	}{
		{"none", nil, nil, []string{"beetle", "sonar"}},
		{"all denied", []string{deny}, nil, []string{}},
		{"one lets another in, who is free to send", []string{fromBeetle}, []string{
			`network: spec.ingress[0].from of NetworkPolicy apps/from: from "beetle" to "sonar": pods of beetle, declared`,
		}, []string{"beetle"}},
		{"one lets another in, who is not let out", []string{deny, fromBeetle}, nil, []string{}},
		{"and is let out", []string{deny, fromBeetle, policy("to", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`)}, []string{
			`network: spec.egress[0].to of NetworkPolicy apps/to: from "beetle" to "sonar": pods of sonar, declared`,
			`network: spec.ingress[0].from of NetworkPolicy apps/from: from "beetle" to "sonar": pods of beetle, declared`,
		}, []string{}},
		{"a rule for everybody", []string{policy("all", `{podSelector: {matchLabels: {app: s}}, ingress: [{}]}`)}, []string{
			`network: spec.ingress[0].from of NetworkPolicy apps/all: from "beetle" to "sonar": pods of beetle, declared`,
		}, []string{"beetle"}},
		{"of its own namespace by name", []string{policy("ns", `{podSelector: {matchLabels: {app: s}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: apps}}}]}]}`)}, []string{
			`network: spec.ingress[0].from of NetworkPolicy apps/ns: from "beetle" to "sonar": pods of beetle, declared`,
		}, []string{"beetle"}},
		{"of another namespace", []string{deny, policy("ns", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]}]}`)}, nil, []string{}},
		{"addresses outside", []string{policy("ip", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`)}, nil, []string{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			in := state.FlowInput{
				Tenants:    []string{"beetle", "sonar"},
				TenantOf:   func(o *unstructured.Unstructured) string { return state.TenantOf(o, tenantLabel) },
				Namespaces: []*unstructured.Unstructured{parse(t, `{kind: Namespace, metadata: {name: apps}}`), parse(t, `{kind: Namespace, metadata: {name: ingress}}`)},
			}
			for _, text := range append(append([]string{}, pods...), row.policies...) {
				in.Objects = append(in.Objects, parse(t, text))
			}
			list, err := state.Flows(in)
			g.Expect(err).NotTo(HaveOccurred())
			var found []string
			for _, f := range state.FlowsMap(list).Crossings {
				found = append(found, f.String())
			}
			g.Expect(found).To(Equal(row.wants))
			declared, err := state.Network(in)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(declared.Open).To(Equal(row.open))
			g.Expect(declared.Enforced).To(BeFalse(), "what is declared is not what is enforced")
		})
	}
}
