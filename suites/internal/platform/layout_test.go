package platform

import (
	"context"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// tenantsLayout keeps tenants in a folder of their own, with an overlay for
// each environment.
func tenantsLayout() files {
	f := files{
		"tenants/base/team/kustomization.yaml": "namespace: team\nresources: [rbac.yaml, sync.yaml]\n",
		"tenants/base/team/rbac.yaml":          "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: team\n  labels:\n    toolkit.fluxcd.io/tenant: team\n",
		"tenants/base/team/sync.yaml": `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata:
  name: team
spec:
  interval: 1m
  url: https://github.com/your-org/team
  ref:
    branch: main
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: team
spec:
  serviceAccountName: team
  interval: 5m
  prune: true
  sourceRef:
    kind: GitRepository
    name: team
`,
	}
	for _, env := range []string{"staging", "production"} {
		f["clusters/"+env+"/flux-system/gotk-sync.yaml"] = syncOf(env)
		f["clusters/"+env+"/tenants.yaml"] = flux("tenants", "flux-system", "./tenants/"+env, "")
		f["tenants/"+env+"/kustomization.yaml"] = "resources: [../base/team]\npatches: [{path: path.yaml}]\n"
		f["tenants/"+env+"/path.yaml"] = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata:\n  name: team\n  namespace: team\nspec:\n  path: ./" + env + "\n"
	}
	return f
}

// perCluster has apps and infrastructure as HelmReleases, patched per cluster.
func perCluster() files {
	f := files{
		"apps/base/web/kustomization.yaml":               "namespace: web\nresources: [namespace.yaml, repository.yaml, release.yaml]\n",
		"apps/base/web/namespace.yaml":                   "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: web\n  labels:\n    toolkit.fluxcd.io/tenant: web\n",
		"apps/base/web/repository.yaml":                  "apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata:\n  name: charts\nspec:\n  interval: 5m\n  url: https://charts.example.com\n",
		"apps/base/web/release.yaml":                     "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata:\n  name: web\nspec:\n  interval: 5m\n  chart:\n    spec:\n      chart: web\n      sourceRef:\n        kind: HelmRepository\n        name: charts\n",
		"infrastructure/controllers/ingress.yaml":        "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata:\n  name: ingress\n  namespace: flux-system\nspec:\n  interval: 1h\n  url: oci://registry.example.com/ingress\n  ref:\n    semver: 1.x\n---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata:\n  name: ingress\n  namespace: flux-system\nspec:\n  interval: 1h\n  chartRef:\n    kind: OCIRepository\n    name: ingress\n",
		"infrastructure/controllers/kustomization.yaml":  "resources: [ingress.yaml]\n",
		"infrastructure/configs/cluster-issuer/one.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: issuer\n  namespace: flux-system\n",
	}
	for env, version := range map[string]string{"staging": ">=1.0.0-alpha", "production": "1.4.2"} {
		f["clusters/"+env+"/flux-system/gotk-sync.yaml"] = syncOf(env)
		f["clusters/"+env+"/apps.yaml"] = flux("apps", "flux-system", "./apps/"+env, "  dependsOn:\n  - name: infra-configs\n")
		f["clusters/"+env+"/infrastructure.yaml"] = flux("infra-controllers", "flux-system", "./infrastructure/controllers", "") + "---\n" +
			flux("infra-configs", "flux-system", "./infrastructure/configs", "  dependsOn:\n  - name: infra-controllers\n")
		f["apps/"+env+"/kustomization.yaml"] = "resources: [../base/web]\npatches:\n- target: {kind: HelmRelease}\n  patch: |\n    - {\"op\": \"add\", \"path\": \"/spec/chart/spec/version\", \"value\": \"" + version + "\"}\n"
	}
	return f
}

func TestLayouts(t *testing.T) {
	t.Run("tenants with base and overlays", func(t *testing.T) {
		g := NewWithT(t)
		team := files{"staging/app.yaml": configMap, "production/app.yaml": configMap + "---\n" + strings.Replace(configMap, "settings", "more", 1)}.write(t)
		p := mustLoad(t, tenantsLayout(), map[string]string{"https://github.com/your-org/team": team})
		g.Expect(p.Unread).To(BeEmpty())
		g.Expect(p.Problems).To(BeEmpty())
		for env, objects := range map[string]int{"staging": 1, "production": 2} {
			tenant := p.Environment(env).Tenant("team")
			g.Expect(tenant.Claim).To(Equal("label of its ServiceAccount"))
			g.Expect(tenant.Kustomization.Spec.Path).To(Equal("./" + env))
			g.Expect(tenant.Kustomization.Origin.String()).To(Equal("tenants/base/team/sync.yaml:11"))
			g.Expect(tenant.Objects).To(HaveLen(objects))
		}
	})
	t.Run("apps and infrastructure per cluster", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, perCluster(), nil)
		g.Expect(p.Unread).To(BeEmpty())
		for env, version := range map[string]string{"staging": ">=1.0.0-alpha", "production": "1.4.2"} {
			e := p.Environment(env)
			g.Expect(e.Kustomizations).To(HaveLen(4))
			tenant := e.Tenant("web")
			g.Expect(tenant.Claim).To(Equal("label of its namespace"))
			g.Expect(tenant.Kustomization.GetName()).To(Equal("apps"))
			g.Expect(tenant.HelmReleases[0].Source.Charts).To(Equal([]Chart{{"web", version}}))
		}
		refs := p.SourceRefs()
		g.Expect(refs[0].URL).To(Equal("https://charts.example.com"))
		g.Expect(refs[0].Charts).To(ConsistOf(Chart{"web", ">=1.0.0-alpha"}, Chart{"web", "1.4.2"}))
		g.Expect(refs[2].SemVer).To(Equal("1.x"))
	})
	t.Run("a tenant in default", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, small().with(files{
			"clusters/dev/beetle/kustomization.yaml": strings.Replace(flux("app", "flux-system", "./apps/base", "  targetNamespace: default\n"), "  name: app\n", "  name: app\n  labels:\n    "+TenantLabel+": web\n", 1),
		}), nil)
		tenant := p.Environment("dev").Tenant("web")
		g.Expect(tenant.Namespace).To(Equal("flux-system"))
		g.Expect(tenant.TargetNamespace).To(Equal("default"))
		g.Expect(tenant.Objects[0].GetNamespace()).To(Equal("default"))
	})
	t.Run("what environments share is none itself", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, small().with(files{
			"clusters/dev/kustomization.yaml":    "resources: [flux-system, beetle/kustomization.yaml, ../shared]\n",
			"clusters/shared/kustomization.yaml": "resources: [x.yaml]\n",
			"clusters/shared/x.yaml":             configMap,
		}), nil)
		g.Expect(p.Environments).To(HaveLen(1))
	})
}

func TestWhatIsNotRead(t *testing.T) {
	with := func(extra string) files {
		return small().with(files{"clusters/dev/beetle/kustomization.yaml": flux("beetle", "beetle", "./apps/base", extra)})
	}
	t.Run("another cluster", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n  kubeConfig: {secretRef: {name: x}}\n"), nil)
		g.Expect(p.Unread).To(HaveLen(1))
		g.Expect(p.Unread[0].Why).To(Equal("spec.kubeConfig: it is applied to another cluster"))
	})
	t.Run("variables of a Secret", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n  postBuild: {substituteFrom: [{kind: Secret, name: vars}, {kind: ConfigMap, name: none, optional: true}]}\n"), nil)
		g.Expect(p.Unread).To(HaveLen(1))
		g.Expect(p.Unread[0].Why).To(Equal("its postBuild takes variables from Secret vars, which no file declares; they are left as ${NAME}"))
		g.Expect(p.Environment("dev").Tenant("beetle").Objects[0].Object["data"]).To(HaveKeyWithValue("text", "${greeting} ${missing}"))
	})
	t.Run("variables of a ConfigMap are", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n  postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}], substitute: {missing: given}}\n").with(files{
			"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, vars.yaml]\n",
			"clusters/dev/vars.yaml":          "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars, namespace: beetle}\ndata: {greeting: hi, missing: other}\n",
		}), nil)
		g.Expect(p.Environment("dev").Tenant("beetle").Objects[0].Object["data"]).To(HaveKeyWithValue("text", "hi given"))
	})
	t.Run("a source that nothing declares", func(t *testing.T) {
		g := NewWithT(t)
		f := with("  targetNamespace: apps\n")
		f["clusters/dev/beetle/kustomization.yaml"] = strings.Replace(f["clusters/dev/beetle/kustomization.yaml"], "    name: flux-system", "    name: elsewhere", 1)
		p := mustLoad(t, f, nil)
		g.Expect(p.Problems).To(HaveLen(1))
		g.Expect(p.Problems[0].Error()).To(Equal("clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle in environment dev: its source GitRepository elsewhere is declared nowhere"))
	})
	t.Run("an include that nothing declares", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n").with(files{
			"clusters/dev/kustomization.yaml":        "resources: [flux-system, beetle/kustomization.yaml, s.yaml]\n",
			"clusters/dev/beetle/kustomization.yaml": strings.Replace(flux("beetle", "beetle", "./apps/base", "  targetNamespace: apps\n"), "name: flux-system\n    namespace: flux-system", "name: s", 1),
			"clusters/dev/s.yaml":                    "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: s, namespace: beetle}\nspec: {interval: 1m, url: '" + platformURL + "', include: [{repository: {name: none}}]}\n",
		}), nil)
		g.Expect(p.Problems).To(HaveLen(1))
		g.Expect(p.Problems[0].Err).To(MatchError("clusters/dev/s.yaml:1: GitRepository beetle/s includes GitRepository none, which nothing in namespace beetle declares"))
	})
}

func TestSchemasOfDefinitionsAreLeftOut(t *testing.T) {
	crd := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.example.com
spec:
  versions:
  - name: v1
    schema:
      openAPIV3Schema:
        type: object

        description: |
          openAPIV3Schema: in a text
    served: true
`
	g := NewWithT(t)
	g.Expect(string(withoutSchemas([]byte(crd)))).To(HaveSuffix("    schema:\n      openAPIV3Schema: {x-kubernetes-preserve-unknown-fields: true}\n    served: true\n"))
	g.Expect(string(withoutSchemas([]byte(configMap)))).To(Equal(configMap))

	p := mustLoad(t, small().with(files{
		"clusters/dev/kustomization.yaml": `resources: [flux-system, beetle/kustomization.yaml, crd.yaml]
patches:
- target: {kind: CustomResourceDefinition}
  patch: |
    - {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "patched"}
`,
		"clusters/dev/crd.yaml": crd,
	}), nil)
	for _, o := range p.Environment("dev").Objects {
		if o.GetKind() == "CustomResourceDefinition" {
			data, err := o.MarshalJSON()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(data)).To(ContainSubstring(`"description":"patched"`), "a patch made for a schema finds it")
		}
	}
}

// many is a platform of n tenants.
func many(n int) files {
	f := small()
	list := "resources:\n- flux-system\n"
	for i := range n {
		name := fmt.Sprintf("tenant-%04d", i)
		list += "- " + name + "/kustomization.yaml\n- " + name + "/source.yaml\n"
		f["clusters/dev/"+name+"/kustomization.yaml"] = strings.Replace(flux(name, name, "./apps/base", "  targetNamespace: apps\n  namePrefix: "+name+"-\n  postBuild: {substitute: {greeting: hello}}\n"), "name: flux-system\n    namespace: flux-system", "name: platform", 1)
		f["clusters/dev/"+name+"/source.yaml"] = fmt.Sprintf(`apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata:
  name: platform
  namespace: %s
spec:
  interval: 1m
  url: %s
  ignore: |
    /*
    !/apps
  include:
  - repository: {name: values}
    toPath: apps/base/values
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata:
  name: values
  namespace: %s
spec:
  interval: 1m
  url: %s
`, name, platformURL, name, developerURL)
	}
	f["clusters/dev/kustomization.yaml"] = list
	f["apps/base/kustomization.yaml"] = "resources: [configmap.yaml]\nconfigMapGenerator:\n- {name: config, files: [values/config.yaml]}\n"
	return f
}

func BenchmarkLoadTenants(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir, values := many(n).write(b), files{"config.yaml": "a: b\n"}.write(b)
			for b.Loop() {
				p, err := Load(context.Background(), Options{Root: dir, Sources: map[string]string{developerURL: values}})
				if err != nil {
					b.Fatal(err)
				}
				if len(p.TenantNames()) != n || len(p.Problems) > 0 {
					b.Fatal(len(p.TenantNames()), p.Problems)
				}
			}
		})
	}
}
