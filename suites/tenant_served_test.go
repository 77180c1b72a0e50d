package suites

import (
	"bufio"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

const (
	servingService    = "{apiVersion: v1, kind: Service, metadata: {name: dev-app, namespace: apps}, spec: {selector: {app: x}, ports: [{port: 80}]}}"
	servingDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: dev-app, namespace: apps}
spec:
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x, more: z}}
    spec:
      containers:
      - {name: helper, image: "helper:1"}
      - {name: app, image: "ghcr.io/your-org/beetle:1.5.0", volumeMounts: [{name: config, mountPath: /etc/app}]}
      volumes: [{name: config, configMap: {name: dev-config}}]
`
)

func servingTenant(t *testing.T, service, deployment string) *platform.Tenant {
	tenant := &platform.Tenant{Name: "beetle", Objects: []platform.Object{declared(t, "beetle", service), declared(t, "beetle", deployment)}}
	for _, key := range []string{"base.yaml", "env.yaml"} {
		tenant.Values = append(tenant.Values, platform.Value{ConfigMap: "dev-config", Key: key, File: platform.File{Content: []byte(key)}})
	}
	return tenant
}

func TestServings(t *testing.T) {
	const noMatch = "no Service of beetle leads to a Deployment that mounts a file of the developers"
	for _, row := range []struct {
		name, service, deployment, reason, version string
	}{
		{"each file of the Deployment behind the Service", servingService, servingDeployment, "", "1.5.0"},
		{"an image by its digest", servingService, strings.Replace(servingDeployment, ":1.5.0", "@sha256:00", 1), "", ""},
		{"projected files", servingService, strings.Replace(servingDeployment, "configMap: {name: dev-config}", "projected: {sources: [{configMap: {name: dev-config}}]}", 1), "", "1.5.0"},
		{"the Service of others", strings.Replace(servingService, "app: x", "app: z", 1), servingDeployment, noMatch, ""},
		{"a Service that selects nothing", strings.Replace(servingService, "selector: {app: x}, ", "", 1), servingDeployment, noMatch, ""},
		{"nothing is mounted", servingService, strings.Replace(servingDeployment, "name: dev-config", "name: other", 1), noMatch, ""},
		{
			"an image that nobody knows", servingService, strings.Replace(servingDeployment, "ghcr.io/your-org/beetle", "ghcr.io/acme/shop", 1),
			`it is not known where services of the image ghcr.io/acme/shop:1.5.0 answer with their files; say it in CONFIG: serves: [{image: acme/shop, path: "/config/{file}"}]`, "",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			found, reason, err := servings(platform.Config{}, servingTenant(t, row.service, row.deployment))
			g.Expect(err).NotTo(HaveOccurred())
			if row.reason != "" {
				g.Expect(found).To(BeEmpty())
				g.Expect(reason).To(Equal(row.reason))
				return
			}
			g.Expect(found).To(HaveLen(1))
			g.Expect(sortedKeys(found[0].files)).To(Equal([]string{"base.yaml", "env.yaml"}))
			g.Expect(found[0].serves.At("env.yaml")).To(Equal("/config/env.yaml"))
			g.Expect(found[0].version).To(Equal(row.version))
		})
	}
	g := NewWithT(t)
	config := platform.Config{Serves: []platform.Serves{{Image: "acme/*", Path: "/{file}"}}}
	found, _, err := servings(config, servingTenant(t, servingService, strings.Replace(servingDeployment, "your-org/beetle", "acme/shop", 1)))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(HaveLen(1))
	g.Expect(found[0].version).To(BeEmpty(), "its answers name no version")
}

func TestImageRepository(t *testing.T) {
	for image, want := range map[string]string{
		"ghcr.io/acme/shop:1": "acme/shop", "localhost:5000/shop@sha256:0": "shop", "acme/shop": "acme/shop", "shop:1": "shop",
	} {
		NewWithT(t).Expect(imageRepository(image)).To(Equal(want), image)
	}
}

func TestLeadsTo(t *testing.T) {
	rule := networkingv1.HTTPIngressRuleValue{}
	NewWithT(t).Expect(yaml.Unmarshal([]byte(`
paths:
- {path: /, pathType: Prefix, backend: {service: {name: all}}}
- {path: /config/, pathType: Prefix, backend: {service: {name: files}}}
- {path: /config/exact, pathType: Exact, backend: {service: {name: one}}}
`), &rule)).To(Succeed())
	for path, want := range map[string]string{
		"/x": "all", "/config/a": "files", "/config": "files", "/configs": "all", "/config/exact": "one", "/config/exact/x": "files",
	} {
		NewWithT(t).Expect(leadsTo(rule, path)).To(Equal(want), path)
	}
	NewWithT(t).Expect(leadsTo(networkingv1.HTTPIngressRuleValue{}, "/")).To(BeEmpty())
}

func TestDoorsOf(t *testing.T) {
	const ingress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: dev-app, namespace: apps}
spec:
  ingressClassName: traefik
  rules:
  - {host: beetle.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: dev-app}}}]}}
  - {host: "*.example", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: dev-app}}}]}}
`
	controllers := map[string]state.ControllerService{"traefik": {Service: corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1"}}, Port: 80}}
	env := &environment{view: &bringup.View{}}
	for _, row := range []struct {
		name, ingress, reason string
		doors                 int
	}{
		{"its host", ingress, "", 1},
		{"its host that leads to another's Service", strings.Replace(ingress, "{name: dev-app}}", "{name: other}}", 1), "", 1},
		{"its host that leads to a part only", strings.Replace(ingress, "path: /,", "path: /api,", 1), "no host of Ingress apps/dev-app leads to the files of the service", 0},
		{
			"a class of which no controller is known", strings.Replace(ingress, "ingressClassName: traefik", "ingressClassName: nginx", 1),
			`no Service is known that leads to the controller of the IngressClass "nginx"; name it in CONFIG: ingress: {nginx: NAMESPACE/NAME:PORT}`, 0,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			tenant := servingTenant(t, servingService, servingDeployment)
			tenant.Objects = append(tenant.Objects, declared(t, "beetle", row.ingress))
			doors, reason, err := doorsOf(t.Context(), env, tenant, controllers)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(doors).To(HaveLen(row.doors))
			if row.doors == 0 {
				g.Expect(reason).To(Equal(row.reason))
				return
			}
			g.Expect(doors[0].host).To(Equal("beetle.example"))
			g.Expect(doors[0].controller).To(Equal("http://10.0.0.1:80"))
			g.Expect(doors[0].files).To(Equal(map[string]string{"base.yaml": "/config/base.yaml", "env.yaml": "/config/env.yaml"}))
		})
	}
}

func TestReadReplies(t *testing.T) {
	g := NewWithT(t)
	replies, err := readReplies([]byte(`{"time":"2026-05-04T08:00:01.5Z","status":200,"pod":"a","version":"1","sha256":"00","bytes":3}
{"time":"2026-05-04T08:00:02Z","status":0,"error":"refused"}
`))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(replies).To(HaveLen(2))
	g.Expect(replies[1].answer(replies[0].Time)).To(Equal(state.Answer{At: 0.5, Error: "refused"}))
	_, err = readReplies([]byte("exec format error"))
	g.Expect(err).To(MatchError(ContainSubstring(`"exec format error"`)))
}

func TestSteadily(t *testing.T) {
	g := NewWithT(t)
	s := &stream{}
	s.read(bufio.NewScanner(strings.NewReader(strings.Repeat("{\"sha256\":\"old\"}\n", steady))))
	g.Expect(s.steadily("old")).To(BeTrue())
	s.read(bufio.NewScanner(strings.NewReader(strings.Repeat("{\"sha256\":\"new\"}\n", steady-1))))
	g.Expect(s.steadily("old")).To(BeFalse())
	g.Expect(s.steadily("new")).To(BeFalse(), "one of the newest is still old")
	s.read(bufio.NewScanner(strings.NewReader("{\"sha256\":\"new\"}\n")))
	g.Expect(s.steadily("new")).To(BeTrue())
	g.Expect(s.all()).To(HaveLen(2 * steady))
	g.Expect(s.err).NotTo(HaveOccurred())
	s.read(bufio.NewScanner(strings.NewReader("panic\n")))
	g.Expect(s.err).To(MatchError(ContainSubstring(`"panic"`)))
}

func TestDeclaredLimits(t *testing.T) {
	g := NewWithT(t)
	env := &environment{Environment: &platform.Environment{Objects: []platform.Object{
		declared(t, "", "{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: apps}, spec: {limits: [{type: Pod, max: {cpu: 9}}, {type: Container, default: {cpu: 100m}}]}}"),
		declared(t, "", "{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: other}, spec: {limits: [{type: Container, default: {memory: 1Gi}}]}}"),
	}}}
	limits, err := declaredLimits(env, "apps")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(limits).To(HaveLen(1))
	g.Expect(limits.Cpu().String()).To(Equal("100m"))
}
