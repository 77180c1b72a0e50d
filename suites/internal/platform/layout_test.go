package platform

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// fixture loads a platform of fixtures/. The map names the folders beside it that
// answer for URLs.
func fixture(t *testing.T, name string, sources map[string]string) (*Platform, error) {
	t.Helper()
	root, err := filepath.Abs("../../../fixtures")
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string]string{}
	for url, folder := range sources {
		folders[url] = filepath.Join(root, folder)
	}
	return Load(context.Background(), Options{Root: filepath.Join(root, name), Sources: folders})
}

// texts are the objects of a list as «Kind namespace/name», sorted.
func texts(objects []Object) []string {
	out := make([]string, 0, len(objects))
	for _, o := range objects {
		out = append(out, o.String())
	}
	slices.Sort(out)
	return out
}

func unreadTexts(p *Platform) []string {
	out := make([]string, 0, len(p.Unread))
	for _, u := range p.Unread {
		out = append(out, u.String())
	}
	return out
}

// Each layout is read into the same model.
func TestLayoutTenants(t *testing.T) {
	const team = "https://github.com/your-org/otter"
	g := NewWithT(t)
	p, err := fixture(t, "layouts/tenants", map[string]string{team: "layouts/tenants_otter"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.URL).To(Equal("ssh://git@github.com/your-org/fleet"))
	g.Expect(p.Unread).To(BeEmpty())
	g.Expect(p.Problems).To(BeEmpty())
	g.Expect(p.Environments).To(HaveLen(2))
	for env, replicas := range map[string]int64{"production": 3, "staging": 1} {
		e := p.Environment(env)
		g.Expect(e.Tenants).To(HaveLen(1))
		g.Expect(e.FluxSystem.SyncAssumed).To(BeFalse())
		g.Expect(e.FluxSystem.ComponentsAssumed).To(BeTrue())
		names := make([]string, 0, len(e.Kustomizations))
		for _, k := range e.Kustomizations {
			names = append(names, k.String())
		}
		g.Expect(names).To(Equal([]string{"Kustomization flux-system/flux-system", "Kustomization flux-system/tenants", "Kustomization otter/otter"}))

		tenant := e.Tenant("otter")
		g.Expect(tenant.Claim).To(Equal("label of its ServiceAccount"))
		g.Expect(tenant.Namespace).To(Equal("otter"))
		g.Expect(tenant.TargetNamespace).To(Equal("otter"))
		g.Expect(tenant.Reconciler).To(Equal(Account{"otter", "otter"}))
		g.Expect(tenant.Kustomization.Spec.Path).To(Equal("./" + env))
		g.Expect(tenant.Kustomization.Origin.String()).To(Equal("tenants/base/otter/sync.yaml:11"))
		g.Expect(tenant.Sources).To(HaveLen(1))
		g.Expect(tenant.Sources[0].URL).To(Equal(team))
		g.Expect(tenant.Sources[0].Ref).To(Equal(Ref{Branch: "main"}))
		g.Expect(texts(tenant.Objects)).To(ConsistOf(
			HavePrefix("ConfigMap otter/settings-"), Equal("Deployment otter/otter"), Equal("Service otter/otter")))
		deployment, _ := tenant.Object("Deployment")
		g.Expect(deployment.Origin.String()).To(Equal("base/deployment.yaml:1"))
		g.Expect(deployment.Origin.Repository).To(Equal(team))
		g.Expect(deployment.Object["spec"]).To(HaveKeyWithValue("replicas", replicas))
		g.Expect(tenant.Values).To(HaveLen(1))
		g.Expect(tenant.Values[0].File.Origin.String()).To(Equal("base/settings.yaml"))
		g.Expect(tenant.Schema).To(BeNil())
	}

	t.Run("without the team's repository", func(t *testing.T) {
		g := NewWithT(t)
		p, err := fixture(t, "layouts/tenants", nil)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(unreadTexts(p)).To(Equal([]string{
			"tenants/base/otter/sync.yaml:11: Kustomization otter/otter in environment production: no local folder answers for " + team + " of GitRepository otter/otter",
			"tenants/base/otter/sync.yaml:11: Kustomization otter/otter in environment staging: no local folder answers for " + team + " of GitRepository otter/otter",
		}))
		g.Expect(p.Environment("staging").Tenant("otter").Objects).To(BeEmpty())
		g.Expect(p.Unanswered(nil)).To(MatchError(And(
			ContainSubstring(team+" (GitRepository at branch main) has no local answer"),
			ContainSubstring("tenants/base/otter/sync.yaml:1: GitRepository otter/otter"),
		)))
	})
}

func TestLayoutReleases(t *testing.T) {
	const traefik, charts = "https://traefik.github.io/charts", "https://charts.your-org.example"
	g := NewWithT(t)
	p, err := fixture(t, "layouts/releases", nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.URL).To(Equal("https://github.com/your-org/releases"))
	g.Expect(p.Problems).To(BeEmpty())
	g.Expect(unreadTexts(p)).To(Equal([]string{
		"apps/base/shop/release.yaml:1: HelmRelease shop/shop in environment production: its chart is not rendered, so what it brings is not known",
		"apps/base/shop/release.yaml:1: HelmRelease shop/shop in environment staging: its chart is not rendered, so what it brings is not known",
	}), "of the platform's own releases nothing has to be known")
	for env, version := range map[string]string{"staging": ">=0.0.0-0", "production": "1.4.2"} {
		e := p.Environment(env)
		names := make([]string, 0, len(e.Kustomizations))
		for _, k := range e.Kustomizations {
			names = append(names, k.GetName())
		}
		g.Expect(names).To(ConsistOf("flux-system", "apps", "infra-controllers", "infra-configs"))
		g.Expect(e.HelmReleases).To(HaveLen(2))
		g.Expect(e.Tenants).To(HaveLen(1))
		tenant := e.Tenant("shop")
		g.Expect(tenant.Claim).To(Equal("label of its namespace"))
		g.Expect(tenant.Namespace).To(Equal("shop"))
		g.Expect(tenant.Kustomization.GetName()).To(Equal("apps"))
		g.Expect(tenant.Kustomizations).To(BeEmpty())
		g.Expect(texts(tenant.Objects)).To(Equal([]string{"HelmRelease shop/shop"}))
		release := tenant.HelmReleases[0]
		g.Expect(release.Source.URL).To(Equal(charts))
		g.Expect(release.Source.Charts).To(Equal([]Chart{{"shop", version}}))
		g.Expect(release.Origin.String()).To(Equal("apps/base/shop/release.yaml:1"))
		g.Expect(tenant.Sources).To(ConsistOf(release.Source))
		g.Expect(texts(e.Objects)).To(ContainElements("Middleware traefik/compress", "Namespace traefik", "Namespace shop"))
	}
	refs := p.SourceRefs()
	g.Expect(refs).To(HaveLen(3))
	g.Expect(refs[0].URL).To(Equal(charts))
	g.Expect(refs[0].Charts).To(ConsistOf(Chart{"shop", ">=0.0.0-0"}, Chart{"shop", "1.4.2"}))
	g.Expect(refs[2].URL).To(Equal(traefik))
	g.Expect(p.Unanswered([]string{charts, traefik})).To(Succeed())
	g.Expect(p.Unanswered([]string{traefik})).To(MatchError(And(
		ContainSubstring(charts+" (HelmRepository with chart shop 1.4.2, shop >=0.0.0-0) has no local answer"),
		ContainSubstring("apps/base/shop/repository.yaml:1: HelmRepository shop/charts"),
	)))
}

func TestLayoutSingle(t *testing.T) {
	g := NewWithT(t)
	p, err := fixture(t, "layouts/single", nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Unread).To(BeEmpty())
	g.Expect(p.Problems).To(BeEmpty())
	g.Expect(p.Environments).To(HaveLen(1))
	e := p.Environment("home")
	g.Expect(e.FluxSystem.SyncAssumed).To(BeTrue())
	g.Expect(e.Tenants).To(HaveLen(1))
	tenant := e.Tenant("notes")
	g.Expect(tenant.Claim).To(Equal("label of the Kustomization"))
	g.Expect(tenant.Namespace).To(Equal("flux-system"))
	g.Expect(tenant.TargetNamespace).To(Equal("default"))
	g.Expect(tenant.Reconciler).To(Equal(Account{Namespace: "flux-system"}), "it acts with the controller's own rights")
	g.Expect(tenant.Kustomization.Source).To(Equal(e.FluxSystem.Source))
	g.Expect(texts(tenant.Objects)).To(ConsistOf(
		HavePrefix("ConfigMap default/notes-"), Equal("Deployment default/notes"), Equal("Service default/notes")))
	g.Expect(tenant.Values).To(HaveLen(1))
	g.Expect(tenant.Values[0].File.Origin.String()).To(Equal("notes/notes.toml"))

	t.Run("without its label no tenant is known, and what could be one is named", func(t *testing.T) {
		g := NewWithT(t)
		_, err := load(t, small().with(files{
			"clusters/dev/kustomization.yaml": "resources: [flux-system, notes.yaml]\n",
			"clusters/dev/notes.yaml":         flux("notes", "flux-system", "./apps/base", "  targetNamespace: default\n"),
		}), nil)
		g.Expect(err).To(MatchError(And(
			ContainSubstring("has no tenant in any environment (dev); a tenant is a Flux Kustomization or HelmRelease with the label "+TenantLabel),
			HaveSuffix("; none of these says whose it is:\n  clusters/dev/notes.yaml:1: Kustomization flux-system/notes"),
		)))
	})
}

// The form in which the platform was first written down: one tenant cannot be
// built, and the other is read as usual.
func TestLiteralExample(t *testing.T) {
	g := NewWithT(t)
	p, err := fixture(t, "literal_example", map[string]string{"https://github.com/your-org/flux_developer": "flux_developer"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Unread).To(BeEmpty())
	g.Expect(p.Problems).To(HaveLen(1))
	g.Expect(p.Problems[0].Tenants).To(Equal([]string{"beetle"}))
	const local = " does not exist: kustomize clones no repository for a single file, and takes this for a path of the artifact; bring the file there with spec.include of the GitRepository"
	g.Expect(strings.Split(p.Problems[0].Error(), "\n")).To(Equal([]string{
		"clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle in environment dev: " +
			"apps/base/configmap-generator.yaml:8: files: github.com/your-org/tenant-repo//base/beetle/config.yaml" + local,
		"apps/base/configmap-generator.yaml:9: files: github.com/your-org/tenant-repo//dev/beetle/config.yaml" + local,
		"apps/base/configmap-generator.yaml:9: files: github.com/your-org/tenant-repo//dev/beetle/config.yaml has the key config.yaml, which line 8 has already; give each entry a key of its own, as KEY=PATH",
	}))
	e := p.Environment("dev")
	g.Expect(e.Tenant("beetle").Objects).To(BeEmpty())
	sonar := e.Tenant("sonar")
	g.Expect(texts(sonar.Objects)).To(ConsistOf(
		HavePrefix("ConfigMap apps/dev-sonar-config-"), Equal("Deployment apps/dev-sonar-app"), Equal("Service apps/dev-sonar-app")))
	g.Expect(sonar.Values).To(HaveLen(2))
	g.Expect(sonar.Values[0].File.Origin.File).To(Equal("base/sonar/config.yaml"))
	g.Expect(sonar.Values[1].File.Origin.File).To(Equal("dev/sonar/config.yaml"))
}

func TestGeneratorFiles(t *testing.T) {
	generator := func(list string) files {
		return files{"apps/base/kustomization.yaml": "configMapGenerator:\n- name: a\n  files:\n" + list}
	}
	for _, c := range []struct{ name, list, want string }{
		{"a repository over ssh", "  - k=git@github.com:your-org/x//k.yaml\n", "apps/base/kustomization.yaml:4: files: git@github.com:your-org/x//k.yaml does not exist: kustomize clones no repository for a single file"},
		{"the same name twice", "  - a/k.yaml\n  - b/k.yaml\n", "apps/base/kustomization.yaml:5: files: b/k.yaml has the key k.yaml, which line 4 has already"},
		{"the same key twice", "  - k=a/k.yaml\n  literals: [k=v]\n", "apps/base/kustomization.yaml:5: literals: k=v has the key k, which line 4 has already"},
		{"a URL beside a mistake", "  - https://example.invalid/k\n  - none.yaml\n", "apps/base/kustomization.yaml:5: files: none.yaml does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			p := mustLoad(t, small().with(generator(c.list)).with(files{"apps/base/a/k.yaml": "x: y\n", "apps/base/b/k.yaml": "x: y\n"}), nil)
			g.Expect(p.Unread).To(BeEmpty())
			g.Expect(p.Problems).To(HaveLen(1))
			g.Expect(p.Problems[0].Err).To(MatchError(ContainSubstring(c.want)))
		})
	}
}

func TestEnvironmentFolders(t *testing.T) {
	t.Run("what environments share is none itself", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, small().with(files{
			"clusters/dev/kustomization.yaml":    "resources: [flux-system, beetle/kustomization.yaml, ../shared]\n",
			"clusters/shared/kustomization.yaml": "resources: [x.yaml]\n",
			"clusters/shared/x.yaml":             configMap,
		}), nil)
		g.Expect(p.Environments).To(HaveLen(1))
	})
	t.Run("one that lies deeper is named", func(t *testing.T) {
		g := NewWithT(t)
		_, err := load(t, small().with(files{"clusters/eu/prd/flux-system/gotk-sync.yaml": syncOf("prd")}), nil)
		g.Expect(err).To(MatchError("clusters/eu/prd/flux-system lies too deep: an environment is a folder directly below clusters/, with flux-system in it; move clusters/eu/prd there"))
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
	t.Run("a source that a controller makes", func(t *testing.T) {
		g := NewWithT(t)
		f := with("  targetNamespace: apps\n").with(files{
			"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, generator.yaml]\n",
			"clusters/dev/generator.yaml":     "apiVersion: source.extensions.fluxcd.io/v1beta1\nkind: ArtifactGenerator\nmetadata: {name: made, namespace: beetle}\nspec: {}\n",
		})
		f["clusters/dev/beetle/kustomization.yaml"] = strings.Replace(f["clusters/dev/beetle/kustomization.yaml"], "    kind: GitRepository\n    name: flux-system", "    kind: ExternalArtifact\n    name: made", 1)
		p := mustLoad(t, f, nil)
		g.Expect(p.Problems).To(BeEmpty())
		g.Expect(unreadTexts(p)).To(Equal([]string{
			"clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle in environment dev: its source is the ExternalArtifact made, which a controller makes in the cluster",
			"clusters/dev/generator.yaml:1: ArtifactGenerator beetle/made in environment dev: this kind is not known here; what its controller makes of it in the cluster is no part of the model",
		}))
	})
	t.Run("tenants that a controller makes", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n").with(files{
			"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, tenants.yaml]\n",
			"clusters/dev/tenants.yaml":       "# many of one\n\napiVersion: fluxcd.controlplane.io/v1\nkind: ResourceSet\nmetadata: {name: tenants, namespace: flux-system}\nspec: {}\n---\napiVersion: notification.toolkit.fluxcd.io/v1beta3\nkind: Alert\nmetadata: {name: known, namespace: flux-system}\nspec: {}\n",
		}), nil)
		g.Expect(unreadTexts(p)).To(Equal([]string{
			"clusters/dev/tenants.yaml:3: ResourceSet flux-system/tenants in environment dev: this kind is not known here; what its controller makes of it in the cluster is no part of the model",
		}))
	})
	t.Run("encrypted Secrets", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n  decryption: {provider: sops}\n"), nil)
		g.Expect(unreadTexts(p)).To(Equal([]string{
			"clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle in environment dev: spec.decryption: its Secrets are known in their encrypted form only",
		}))
	})
	t.Run("a chart in an OCI registry", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, with("  targetNamespace: apps\n").with(files{
			"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, web.yaml]\n",
			"clusters/dev/web.yaml":           "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata: {name: web, namespace: flux-system}\nspec: {interval: 1h, url: oci://registry.example.com/web, ref: {semver: 1.x}}\n---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: web, namespace: flux-system}\nspec: {interval: 1h, chartRef: {kind: OCIRepository, name: web}}\n",
		}), nil)
		g.Expect(p.Environment("dev").HelmReleases[0].Source.Ref.SemVer).To(Equal("1.x"))
		g.Expect(p.Unanswered(nil)).To(MatchError("oci://registry.example.com/web (OCIRepository at version 1.x) has no local answer; it is asked for by\n    clusters/dev/web.yaml:1: OCIRepository flux-system/web\n  OCI artifacts cannot be answered from here; let this one through with CONFIG, under «sources»:\n    - url: oci://registry.example.com/web\n      upstream: true   # fetched from outside, and recorded"))
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
