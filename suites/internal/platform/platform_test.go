package platform

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// files is a repository by path and content.
type files map[string]string

func (f files) with(more files) files {
	out := maps.Clone(f)
	maps.Copy(out, more)
	return out
}

func (f files) without(names ...string) files {
	out := maps.Clone(f)
	for _, name := range names {
		delete(out, name)
	}
	return out
}

func (f files) write(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range f {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	platformURL  = "https://github.com/your-org/small"
	developerURL = "https://github.com/your-org/values"
)

func syncOf(env string) string { return standInSync(platformURL, env) }

func flux(name, namespace, path, extra string) string {
	return `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: ` + name + `
  namespace: ` + namespace + `
spec:
  interval: 1m
  prune: true
  path: ` + path + `
  sourceRef:
    kind: GitRepository
    name: flux-system
    namespace: flux-system
` + extra
}

const configMap = `apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  text: ${greeting} ${missing:=none}
`

// small is the least that is a platform: one environment, one tenant.
func small() files {
	return files{
		"clusters/dev/flux-system/gotk-sync.yaml":     syncOf("dev"),
		"clusters/dev/flux-system/kustomization.yaml": "resources: [gotk-components.yaml, gotk-sync.yaml]\n",
		"clusters/dev/beetle/kustomization.yaml":      flux("beetle", "beetle", "./apps/base", "  targetNamespace: apps\n  namePrefix: dev-\n  serviceAccountName: reconciler\n  postBuild: {substitute: {greeting: hello}}\n"),
		"clusters/dev/kustomization.yaml":             "resources:\n- flux-system\n- beetle/kustomization.yaml\n",
		"apps/base/configmap.yaml":                    configMap,
	}
}

func load(t *testing.T, f files, sources map[string]string) (*Platform, error) {
	t.Helper()
	return Load(context.Background(), Options{Root: f.write(t), Sources: sources})
}

func mustLoad(t *testing.T, f files, sources map[string]string) *Platform {
	t.Helper()
	p, err := load(t, f, sources)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReferencePlatform(t *testing.T) {
	g := NewWithT(t)
	p := referencePlatform(t)
	g.Expect(p.URL).To(Equal("https://github.com/your-org/flux_platform"))
	g.Expect(p.Problems).To(BeEmpty())
	g.Expect(p.TenantNames()).To(ContainElement("beetle"))
	for _, name := range []string{"dev", "prd"} {
		e := p.Environment(name)
		g.Expect(e).NotTo(BeNil(), name)
		g.Expect(e.FluxSystem.SyncAssumed).To(BeFalse())
		g.Expect(e.FluxSystem.ComponentsAssumed).To(BeTrue())
		for _, c := range e.FluxSystem.Controllers {
			if c.Name == "kustomize-controller" {
				g.Expect(c.Flags()).To(HaveKeyWithValue("no-remote-bases", "true"))
				g.Expect(c.Added).To(ContainElement("--no-cross-namespace-refs=true"))
			}
		}
		tenant := e.Tenant("beetle")
		g.Expect(tenant).NotTo(BeNil())
		g.Expect(tenant.Namespace).To(Equal("beetle"))
		g.Expect(tenant.TargetNamespace).To(Equal("apps"))
		g.Expect(tenant.Reconciler).To(Equal(Account{"beetle", "reconciler"}))
		deployment, ok := tenant.Object("Deployment")
		g.Expect(ok).To(BeTrue())
		g.Expect(deployment.GetName()).To(Equal(name + "-beetle-app"))
		g.Expect(deployment.Origin.String()).To(Equal("apps/base/deployment.yaml:2"))
		g.Expect(deployment.GetLabels()).To(HaveKeyWithValue(TenantLabel, "beetle"))
		config, ok := tenant.Object("ConfigMap")
		g.Expect(ok).To(BeTrue())
		g.Expect(config.GetName()).To(MatchRegexp("^" + name + "-beetle-config-[0-9a-z]{10}$"))
		g.Expect(tenant.Values).To(HaveLen(2))
		for _, v := range tenant.Values {
			g.Expect(v.ConfigMap).To(Equal(config.GetName()))
			g.Expect(v.Source.GetName()).To(Equal("developer"))
			g.Expect(v.File.Origin.Repository).To(Equal("https://github.com/your-org/flux_developer"))
			onDisk, err := os.ReadFile(filepath.Join(v.File.Origin.Folder, v.File.Origin.File))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(v.File.Content)).To(Equal(string(onDisk)))
			g.Expect(string(dataOf(config.Unstructured, v.Key))).To(Equal(string(onDisk)))
			g.Expect(Validate(tenant.Schema.Content, v.File.Content)).To(Succeed())
		}
		g.Expect(tenant.Values[0].File.Origin.File).To(Equal("base/beetle/config.yaml"))
		g.Expect(tenant.Values[1].File.Origin.File).To(Equal(name + "/beetle/config.yaml"))
		g.Expect(tenant.Schema.Origin.File).To(Equal("schemas/beetle.schema.json"))
	}
}

func referencePlatform(tb testing.TB) *Platform {
	tb.Helper()
	fixtures, err := filepath.Abs("../../../fixtures")
	if err != nil {
		tb.Fatal(err)
	}
	p, err := Load(context.Background(), Options{
		Root: filepath.Join(fixtures, "flux_platform"),
		Sources: map[string]string{
			"https://github.com/your-org/flux_developer": filepath.Join(fixtures, "flux_developer"),
			"https://github.com/your-org/policies":       filepath.Join(fixtures, "..", "policies"),
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		referencePlatform(b)
	}
}

func TestLoadBuildsAsFluxDoes(t *testing.T) {
	g := NewWithT(t)
	p := mustLoad(t, small(), nil)
	tenant := p.Environment("dev").Tenant("beetle")
	g.Expect(tenant.Claim).To(Equal("folder clusters/dev/beetle"))
	g.Expect(tenant.Objects).To(HaveLen(1))
	o := tenant.Objects[0]
	g.Expect(o.String()).To(Equal("ConfigMap apps/dev-settings"))
	g.Expect(o.Object["data"]).To(HaveKeyWithValue("text", "hello none"))
	g.Expect(o.GetAnnotations()).To(BeEmpty())
	g.Expect(o.Origin.String()).To(Equal("apps/base/configmap.yaml:1"))
	g.Expect(o.Origin.Repository).To(Equal(platformURL))
	g.Expect(o.Owner).To(Equal(tenant.Kustomization))
}

func TestLoadOverlays(t *testing.T) {
	base := small().with(files{
		"apps/base/kustomization.yaml": "resources: [configmap.yaml, deployment.yaml]\nimages: [{name: app, newTag: \"1\", newName: a/b}]\n",
		"apps/base/deployment.yaml":    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec: {template: {spec: {containers: [{name: app, image: app}]}}}\n",
		"apps/extra/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
- target: {kind: Deployment}
  patch: '[{"op": "add", "path": "/spec/replicas", "value": 7}]'
`,
	})
	g := NewWithT(t)
	p := mustLoad(t, base.with(files{
		"clusters/dev/beetle/kustomization.yaml": flux("beetle", "beetle", "apps/base", `  targetNamespace: apps
  nameSuffix: -x
  components: [../extra, ../absent]
  ignoreMissingComponents: true
  images: [{name: app, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}]
  commonMetadata: {labels: {a: b}, annotations: {c: d}}
  patches:
  - target: {kind: ConfigMap}
    patch: '[{"op": "replace", "path": "/data/text", "value": "${text} stays"}]'
`),
	}), nil)
	g.Expect(p.Problems).To(BeEmpty())
	tenant := p.Environment("dev").Tenant("beetle")
	deployment, _ := tenant.Object("Deployment")
	g.Expect(deployment.GetName()).To(Equal("app-x"))
	g.Expect(deployment.GetLabels()).To(HaveKeyWithValue("a", "b"))
	g.Expect(deployment.GetAnnotations()).To(Equal(map[string]string{"c": "d"}))
	spec := deployment.Object["spec"].(map[string]any)
	g.Expect(spec).To(HaveKeyWithValue("replicas", int64(7)))
	g.Expect(deployment.Object).To(HaveKeyWithValue("spec", HaveKey("template")))
	data, err := deployment.MarshalJSON()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(data)).To(ContainSubstring(`"image":"a/b@sha256:0000`))
	config, _ := tenant.Object("ConfigMap")
	g.Expect(config.Object["data"]).To(HaveKeyWithValue("text", "${text} stays"), "without variables nothing is substituted")
}

func TestLoadInclude(t *testing.T) {
	developer := files{
		"base/beetle/config.yaml": "a: ${b}\n", "dev/beetle/config.yaml": "c: d\n",
		"dev/sonar/config.yaml": "secret: sonar\n", "schemas/beetle.schema.json": `{"type":"object"}`,
	}.write(t)
	f := small().with(files{
		"clusters/dev/kustomization.yaml": "resources:\n- flux-system\n- beetle/kustomization.yaml\n- beetle/source.yaml\n",
		"clusters/dev/beetle/source.yaml": `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: outer, namespace: beetle}
spec:
  interval: 1m
  url: ssh://git@github.com/your-org/small.git
  ref: {tag: v1}
  ignore: |
    /*
    !/apps
  include:
  - {repository: {name: inner}, fromPath: base/beetle, toPath: apps/base/values/base}
  - {repository: {name: inner}, fromPath: dev/beetle, toPath: apps/base/values/env}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: inner, namespace: beetle}
spec: {interval: 1m, url: "` + developerURL + `", ref: {branch: main}, secretRef: {name: token}}
`,
		"apps/base/kustomization.yaml":           "configMapGenerator:\n- name: config\n  files: [base.yaml=values/base/config.yaml, env.yaml=values/env/config.yaml]\n",
		"clusters/dev/beetle/kustomization.yaml": strings.Replace(flux("beetle", "beetle", "./apps/base", "  targetNamespace: apps\n"), "name: flux-system\n    namespace: flux-system", "name: outer", 1),
	})
	p := mustLoad(t, f, map[string]string{developerURL + ".git": developer})
	g := NewWithT(t)
	tenant := p.Environment("dev").Tenant("beetle")
	g.Expect(p.Problems).To(BeEmpty())
	g.Expect(tenant.Values).To(HaveLen(2))
	g.Expect(tenant.Values[0].File.Origin.File).To(Equal("base/beetle/config.yaml"))
	g.Expect(tenant.Values[1].Source.GetName()).To(Equal("inner"))
	g.Expect(tenant.Schema).NotTo(BeNil())
	g.Expect(tenant.Sources).To(HaveLen(2))
	refs := p.SourceRefs()
	g.Expect(refs).To(HaveLen(3))
	g.Expect(refs[1].URL).To(Equal(developerURL))
	g.Expect(refs[1].Branch).To(Equal("main"))
	g.Expect(refs[1].Secrets).To(Equal([]SecretRef{{"beetle", "token", "secretRef"}}))
	g.Expect(refs[2].Tag).To(Equal("v1"))

	t.Run("values that are missing are the tenant's problem", func(t *testing.T) {
		g := NewWithT(t)
		empty := files{"base/beetle/other.yaml": "", "dev/beetle/config.yaml": "c: d\n"}.write(t)
		p := mustLoad(t, f, map[string]string{developerURL: empty})
		g.Expect(p.Problems).To(HaveLen(1))
		g.Expect(p.Problems[0].Tenants).To(Equal([]string{"beetle"}))
		g.Expect(p.Problems[0].Error()).To(ContainSubstring("apps/base/kustomization.yaml:3: files: values/base/config.yaml does not exist"))
	})
	t.Run("so is a folder of values that is missing", func(t *testing.T) {
		g := NewWithT(t)
		half := files{"base/beetle/config.yaml": "a: b\n", "dev/sonar/config.yaml": "c: d\n"}.write(t)
		p := mustLoad(t, f, map[string]string{developerURL: half})
		g.Expect(p.Problems).To(HaveLen(1))
		g.Expect(p.Problems[0].Err).To(MatchError(HavePrefix("clusters/dev/beetle/source.yaml:1: GitRepository beetle/outer: include of inner: fromPath \"dev/beetle\" does not exist in " +
			developerURL + "; add it there, or mend fromPath")))
	})
	t.Run("values that a substitution changed are still the developers'", func(t *testing.T) {
		g := NewWithT(t)
		f := f.with(files{"clusters/dev/beetle/kustomization.yaml": f["clusters/dev/beetle/kustomization.yaml"] + "  postBuild: {substitute: {b: changed}}\n"})
		tenant := mustLoad(t, f, map[string]string{developerURL: developer}).Environment("dev").Tenant("beetle")
		g.Expect(tenant.Values).To(HaveLen(2))
		g.Expect(string(tenant.Values[0].File.Content)).To(Equal("a: ${b}\n"))
		g.Expect(string(dataOf(tenant.Objects[0].Unstructured, "base.yaml"))).To(Equal("a: changed\n"))
	})
	t.Run("a source without a local folder is said to be unread", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, f, nil)
		g.Expect(p.Unread).To(HaveLen(1))
		g.Expect(p.Unread[0].String()).To(Equal("clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle in environment dev: no local folder answers for " + developerURL + " of GitRepository beetle/inner"))
		err := p.Unanswered([]string{"https://example.com/other"})
		g.Expect(err).To(MatchError(And(
			ContainSubstring(developerURL+" (GitRepository at branch main) has no local answer"),
			ContainSubstring("clusters/dev/beetle/source.yaml:15: GitRepository beetle/inner"),
			ContainSubstring("- url: "+developerURL),
			Not(ContainSubstring("small")),
		)))
		g.Expect(p.Unanswered([]string{developerURL})).To(Succeed())
	})
}

func TestTenantRules(t *testing.T) {
	label := "    labels: {" + TenantLabel + ": sonar}\n"
	outside := small().without("clusters/dev/beetle/kustomization.yaml").with(files{
		"clusters/dev/kustomization.yaml": "resources: [flux-system, tenants.yaml]\n",
	})
	plain := flux("app", "team", "./apps/base", "  serviceAccountName: robot\n")
	for _, c := range []struct{ name, manifest, claim string }{
		{"label", strings.Replace(plain, "  name: app\n", "  name: app\n"+strings.ReplaceAll(label, "    ", "  "), 1), "label of the Kustomization"},
		{"commonMetadata", plain + "  commonMetadata:\n" + label, "label in spec.commonMetadata"},
		{"account", plain + "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: robot\n  namespace: team\n" + strings.ReplaceAll(label, "    ", "  "), "label of its ServiceAccount"},
		{"namespace", plain + "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: team\n" + strings.ReplaceAll(label, "    ", "  "), "label of its namespace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			p := mustLoad(t, outside.with(files{"clusters/dev/tenants.yaml": c.manifest}), nil)
			tenant := p.Environment("dev").Tenant("sonar")
			g.Expect(tenant).NotTo(BeNil())
			g.Expect(tenant.Claim).To(Equal(c.claim))
			g.Expect(tenant.Namespace).To(Equal("team"))
			g.Expect(tenant.TargetNamespace).To(Equal("team"))
		})
	}
	t.Run("what a tenant brings is the tenant's", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, small().with(files{"apps/base/more.yaml": flux("more", "beetle", "./apps/more", ""), "apps/more/x.yaml": configMap}), nil)
		tenant := p.Environment("dev").Tenant("beetle")
		g.Expect(tenant.Kustomizations).To(HaveLen(2))
		g.Expect(tenant.Objects).To(HaveLen(3))
	})
	t.Run("a HelmRelease makes a tenant", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, outside.with(files{"clusters/dev/tenants.yaml": `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: app, namespace: team, labels: {toolkit.fluxcd.io/tenant: sonar}}
spec: {interval: 1m, chart: {spec: {chart: app, sourceRef: {kind: HelmRepository, name: charts}}}}
`}), nil)
		g.Expect(p.Environment("dev").Tenant("sonar").HelmReleases).To(HaveLen(1))
		g.Expect(p.Unread).To(HaveLen(1))
		g.Expect(p.Unread[0].Why).To(Equal("the source of its chart is declared nowhere that was read"))
	})
	t.Run("an identity without a Kustomization is no tenant", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, small().with(files{
			"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, ns.yaml]\n",
			"clusters/dev/ns.yaml":            "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {toolkit.fluxcd.io/tenant: ghost}}\n",
		}), nil)
		g.Expect(p.TenantNames()).To(Equal([]string{"beetle"}))
		g.Expect(p.Unread).To(HaveLen(1))
		g.Expect(p.Unread[0].String()).To(ContainSubstring("clusters/dev/ns.yaml:1: Namespace x in environment dev: it carries the tenant label of ghost"))
	})
}

func TestBadPlatforms(t *testing.T) {
	two := small().with(files{
		"clusters/dev/kustomization.yaml":        "resources: [flux-system, beetle/kustomization.yaml, other/kustomization.yaml]\n",
		"clusters/dev/other/kustomization.yaml":  strings.Replace(flux("o", "o", "./apps/base", "  namePrefix: o-\n"), "  name: o\n", "  name: o\n  labels: {"+TenantLabel+": beetle}\n", 1),
		"clusters/dev/beetle/kustomization.yaml": flux("beetle", "beetle", "./apps/base", ""),
	})
	for _, c := range []struct {
		name string
		f    files
		want []string
	}{
		{
			"no clusters",
			files{"README.md": "hello"},
			[]string{"has no folder clusters/; a platform repository has one folder clusters/ENV"},
		},
		{
			"empty clusters",
			files{"clusters/README.md": ""},
			[]string{"/clusters holds no environment"},
		},
		{
			"environment without flux-system", small().with(files{"clusters/prd/kustomization.yaml": "resources: []\n"}),
			[]string{"clusters/prd is an environment without flux-system: folder clusters/prd/flux-system does not exist", "flux bootstrap --path=clusters/prd"},
		},
		{
			"YAML that does not parse", small().with(files{"clusters/dev/beetle/kustomization.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: [x\n"}),
			[]string{"clusters/dev/beetle/kustomization.yaml:4: not valid YAML: "},
		},
		{
			"kustomization that does not parse", small().with(files{"clusters/dev/kustomization.yaml": "resources:\n- a\n\t- b\n"}),
			[]string{"clusters/dev/kustomization.yaml:2: not valid YAML: found a tab"},
		},
		{
			"path that does not exist", small().with(files{
				"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, infra.yaml]\n",
				"clusters/dev/infra.yaml":         flux("infra", "flux-system", "./app", ""),
			}),
			[]string{"clusters/dev/infra.yaml:1: Kustomization flux-system/infra in environment dev: path \"./app\" does not exist in the artifact; is apps meant?"},
		},
		{
			"path that leads out", small().with(files{
				"clusters/dev/kustomization.yaml": "resources: [flux-system, beetle/kustomization.yaml, infra.yaml]\n",
				"clusters/dev/infra.yaml":         flux("infra", "flux-system", "../../etc", ""),
			}),
			[]string{`path "../../etc" leads out of the artifact`},
		},
		{
			"resource that does not exist", small().with(files{"clusters/dev/kustomization.yaml": "resources:\n- flux-system\n- beetle/kustomizaton.yaml\n"}),
			[]string{"clusters/dev/kustomization.yaml:3: resources: beetle/kustomizaton.yaml does not exist; is clusters/dev/beetle/kustomization.yaml meant?"},
		},
		{
			"resource outside", small().with(files{"clusters/dev/kustomization.yaml": "resources:\n- ../../../x\n"}),
			[]string{"clusters/dev/kustomization.yaml:2: resources: ../../../x lies outside of the repository"},
		},
		{
			"two tenants of one name", two,
			[]string{
				"two tenants of environment dev are named beetle: clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle",
				"clusters/dev/other/kustomization.yaml:1: Kustomization o/o (label of the Kustomization); give each a name of its own",
			},
		},
		{
			"no tenant", small().with(files{"clusters/dev/kustomization.yaml": "resources: [flux-system]\n"}),
			[]string{"has no tenant in any environment (dev); a tenant is a Flux Kustomization with the label " + TenantLabel},
		},
		{
			"no root Kustomization", small().with(files{"clusters/dev/flux-system/kustomization.yaml": "resources: [gotk-components.yaml]\n"}),
			[]string{"clusters/dev/flux-system declares no Kustomization that syncs the cluster; its kustomization.yaml has to list gotk-sync.yaml"},
		},
		{
			"wrong type", small().with(files{"clusters/dev/beetle/kustomization.yaml": flux("beetle", "beetle", "./apps/base", "  timeout: [1]\n")}),
			[]string{"clusters/dev/beetle/kustomization.yaml:1: Kustomization beetle/beetle: "},
		},
		{
			"too large", small().with(files{"clusters/dev/beetle/kustomization.yaml": strings.Repeat("# filler\n", maxFileBytes/9+1)}),
			[]string{"clusters/dev/beetle/kustomization.yaml: the file has 167772", "over the limit of 16777216"},
		},
		{
			"alias bomb", small().with(files{"clusters/dev/beetle/kustomization.yaml": bomb}),
			[]string{"clusters/dev/beetle/kustomization.yaml:", "excessive aliasing"},
		},
		{
			"alias of itself", small().with(files{"clusters/dev/beetle/kustomization.yaml": "a: &a\n  b: *a\n"}),
			[]string{"clusters/dev/beetle/kustomization.yaml:", "excessive aliasing"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := load(t, c.f, nil)
			g.Expect(err).To(HaveOccurred())
			for _, want := range c.want {
				g.Expect(err.Error()).To(ContainSubstring(want))
			}
		})
	}
}

const bomb = `a: &a [x,x,x,x,x,x,x,x,x,x]
b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]
c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]
d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]
e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]
f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]
`

func TestBadFolders(t *testing.T) {
	g := NewWithT(t)
	dir := small().write(t)
	_, err := Load(context.Background(), Options{})
	g.Expect(err).To(MatchError(ContainSubstring("no platform folder is given; name the root of a platform repository with PLATFORM=")))
	g.Expect(os.Mkdir(filepath.Join(dir, "flux_platform"), 0o755)).To(Succeed())
	_, err = Load(context.Background(), Options{Root: filepath.Join(dir, "flux_platfrom")})
	g.Expect(err).To(MatchError(And(ContainSubstring("flux_platfrom does not exist"), ContainSubstring("is flux_platform meant?"))))
	_, err = Load(context.Background(), Options{Root: filepath.Join(dir, "apps/base/configmap.yaml")})
	g.Expect(err).To(MatchError(ContainSubstring("is a file, the root folder of a repository is wanted")))
	_, err = Load(context.Background(), Options{Root: dir, Sources: map[string]string{developerURL: filepath.Join(dir, "none")}})
	g.Expect(err).To(MatchError(ContainSubstring("folder that answers for " + developerURL + ": folder " + filepath.Join(dir, "none") + " does not exist")))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Load(ctx, Options{Root: dir})
	g.Expect(err).To(MatchError(context.Canceled))
}

func TestSymbolicLinks(t *testing.T) {
	outside := files{"secret.yaml": configMap, "flux-system/x.yaml": ""}.write(t)
	for _, c := range []struct{ name, link, to, want string }{
		{"named by a kustomization", "clusters/dev/link.yaml", filepath.Join(outside, "secret.yaml"), "clusters/dev/kustomization.yaml:2: resources: clusters/dev/link.yaml is a symbolic link to " + outside},
		{"as an environment", "clusters/prd", outside, "clusters/prd is a symbolic link to " + outside},
		{"as a path", "infra", outside, `path "./infra": infra is a symbolic link to ` + outside},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			f := small()
			switch c.name {
			case "named by a kustomization":
				f["clusters/dev/kustomization.yaml"] = "resources:\n- link.yaml\n- flux-system\n- beetle/kustomization.yaml\n"
			case "as a path":
				f["clusters/dev/kustomization.yaml"] = "resources: [flux-system, beetle/kustomization.yaml, i.yaml]\n"
				f["clusters/dev/i.yaml"] = flux("i", "flux-system", "infra", "")
			}
			dir := f.write(t)
			g.Expect(os.Symlink(c.to, filepath.Join(dir, c.link))).To(Succeed())
			_, err := Load(context.Background(), Options{Root: dir})
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
	t.Run("that nothing uses", func(t *testing.T) {
		g := NewWithT(t)
		dir := small().write(t)
		g.Expect(os.Symlink(outside, filepath.Join(dir, "docs"))).To(Succeed())
		p, err := Load(context.Background(), Options{Root: dir})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(p.Unread).To(HaveLen(1))
		g.Expect(p.Unread[0].Why).To(ContainSubstring("this one leads out of the repository"))
	})
}

func TestRemoteBasesAreNotFetched(t *testing.T) {
	for _, c := range []struct{ name, kustomization, want string }{
		{"resource", "resources:\n- https://example.invalid/x.yaml\n", "apps/base/kustomization.yaml:2: resources: https://example.invalid/x.yaml is fetched from outside of the repository"},
		{"base", "resources:\n- github.com/your-org/x//base?ref=main\n", "apps/base/kustomization.yaml:2: resources: github.com/your-org/x//base?ref=main is fetched from outside"},
		{"generator", "configMapGenerator:\n- name: a\n  files:\n  - k=http://example.invalid/k\n", "apps/base/kustomization.yaml:4: files: http://example.invalid/k is fetched"},
		{"patch", "resources: [configmap.yaml]\npatches:\n- path: https://example.invalid/p\n", "apps/base/kustomization.yaml:3: patches: https://example.invalid/p is fetched"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			p := mustLoad(t, small().with(files{"apps/base/kustomization.yaml": c.kustomization}), nil)
			g.Expect(p.Unread).To(HaveLen(1))
			g.Expect(p.Unread[0].Why).To(ContainSubstring(c.want))
		})
	}
}

func TestTenantProblemsSpareTheOthers(t *testing.T) {
	two := small().with(files{
		"clusters/dev/kustomization.yaml":       "resources: [flux-system, beetle/kustomization.yaml, sonar/kustomization.yaml]\n",
		"clusters/dev/sonar/kustomization.yaml": flux("sonar", "sonar", "./apps/nowhere", "  targetNamespace: apps\n"),
	})
	g := NewWithT(t)
	p := mustLoad(t, two, nil)
	g.Expect(p.Problems).To(HaveLen(1))
	g.Expect(p.Problems[0].Tenants).To(Equal([]string{"sonar"}))
	g.Expect(p.Problems[0].Conflict()).To(BeFalse())
	g.Expect(p.Problems[0].Error()).To(Equal(`clusters/dev/sonar/kustomization.yaml:1: Kustomization sonar/sonar in environment dev: path "./apps/nowhere" does not exist in the artifact`))
	g.Expect(p.Environment("dev").Tenant("beetle").Objects).To(HaveLen(1))

	t.Run("at another reference", func(t *testing.T) {
		g := NewWithT(t)
		f := two.with(files{
			"clusters/dev/kustomization.yaml":       "resources: [flux-system, beetle/kustomization.yaml, sonar/kustomization.yaml, source.yaml]\n",
			"clusters/dev/sonar/kustomization.yaml": strings.Replace(flux("sonar", "sonar", "./staging", "  targetNamespace: apps\n"), "name: flux-system\n    namespace: flux-system", "name: own", 1),
			"clusters/dev/source.yaml":              "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: own, namespace: sonar}\nspec: {interval: 1m, url: '" + platformURL + "', ref: {branch: sonar}}\n",
		})
		p := mustLoad(t, f, nil)
		g.Expect(p.Problems).To(HaveLen(1))
		g.Expect(p.Problems[0].Err).To(MatchError(`path "./staging" does not exist in the artifact (GitRepository sonar/own asks for branch sonar; for the repository under test the working tree answers at every reference)`))
	})
	t.Run("one object of two tenants", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, two.with(files{"clusters/dev/sonar/kustomization.yaml": flux("sonar", "sonar", "./apps/base", "  targetNamespace: apps\n  namePrefix: dev-\n")}), nil)
		g.Expect(p.Problems).To(HaveLen(1))
		g.Expect(p.Problems[0].Tenants).To(ConsistOf("beetle", "sonar"))
		g.Expect(p.Problems[0].Conflict()).To(BeTrue())
		g.Expect(p.Problems[0].Err).To(MatchError("declared twice: by Kustomization beetle/beetle of clusters/dev/beetle/kustomization.yaml:1 (from apps/base/configmap.yaml:1)" +
			" and by Kustomization sonar/sonar of clusters/dev/sonar/kustomization.yaml:1 (from apps/base/configmap.yaml:1); the one applied last wins, and pruning one deletes it for both"))
	})
}

func TestSelect(t *testing.T) {
	p := mustLoad(t, small().with(files{
		"clusters/prd/flux-system/gotk-sync.yaml": syncOf("prd"),
	}), nil)
	g := NewWithT(t)
	chosen, err := p.Select([]string{"dev"}, []string{"beetle"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(chosen.Environments).To(HaveLen(1))
	g.Expect(p.Environments).To(HaveLen(2))
	_, err = p.Select([]string{"dve"}, []string{"beatle", "zzz"})
	g.Expect(err).To(MatchError(And(
		ContainSubstring(`no environment "dve"; is dev meant? (it has dev, prd)`),
		ContainSubstring(`no tenant "beatle"; is beetle meant? (it has beetle)`),
		ContainSubstring(`no tenant "zzz" (it has beetle)`),
	)))
	_, err = p.Select([]string{"prd"}, nil)
	g.Expect(err).To(MatchError(ContainSubstring("environments prd have none of the tenants beetle; nothing would be checked")))
}

func TestBootstrapStandIns(t *testing.T) {
	g := NewWithT(t)
	p := mustLoad(t, small().without("clusters/dev/flux-system/kustomization.yaml").with(files{
		"clusters/dev/flux-system/gotk-sync.yaml": "# written by flux bootstrap\n",
	}), nil)
	e := p.Environment("dev")
	g.Expect(e.FluxSystem.SyncAssumed).To(BeTrue())
	g.Expect(p.URL).To(HavePrefix("https://github.com/your-org/"))
	g.Expect(e.FluxSystem.Source.Secrets).To(HaveLen(1))
	g.Expect(e.FluxSystem.Source.Origin.String()).To(Equal("(written by flux bootstrap)"))
	for _, o := range e.Objects {
		g.Expect(o.GetKind()).NotTo(Equal("Deployment"), "stand-ins are not part of the model")
	}

	t.Run("give way to what the caller supplies", func(t *testing.T) {
		g := NewWithT(t)
		p, err := Load(context.Background(), Options{Root: small().write(t), Extra: map[string][]byte{
			"clusters/dev/flux-system/gotk-components.yaml": []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: source-controller, namespace: flux-system}\nspec: {template: {spec: {containers: [{name: manager, image: i, args: [--a=b, --c]}]}}}\n"),
		}})
		g.Expect(err).NotTo(HaveOccurred())
		system := p.Environment("dev").FluxSystem
		g.Expect(system.ComponentsAssumed).To(BeFalse())
		g.Expect(system.Controllers).To(HaveLen(1))
		g.Expect(system.Controllers[0].Image).To(Equal("i"))
		g.Expect(system.Controllers[0].Flags()).To(Equal(map[string]string{"a": "b", "c": "true"}))
		g.Expect(system.Controllers[0].Added).To(BeEmpty())
	})
	t.Run("take the remote of a Git repository", func(t *testing.T) {
		g := NewWithT(t)
		p := mustLoad(t, small().with(files{
			"clusters/dev/flux-system/gotk-sync.yaml": "",
			".git/HEAD":   "ref: refs/heads/main\n",
			".git/config": "[remote \"origin\"]\n\turl = git@github.com:your-org/small.git\n",
		}), nil)
		g.Expect(p.URL).To(Equal("git@github.com:your-org/small.git"))
	})
}

func TestIgnoredFilesAreNoPartOfTheRepository(t *testing.T) {
	g := NewWithT(t)
	f := small().with(files{
		".git/HEAD":                  "ref: refs/heads/main\n",
		".git/info/exclude":          "notes\n",
		".gitignore":                 "*.tmp.yaml\n",
		"apps/.gitignore":            "/base/rendered/\n",
		"apps/base/x.tmp.yaml":       configMap,
		"apps/base/rendered/y.yaml":  configMap,
		"apps/base/notes/z.yaml":     configMap,
		".sourceignore":              "/apps/base/left-out.yaml\n",
		"apps/base/left-out.yaml":    configMap,
		"apps/base/README.md":        "text",
		"clusters/.scratch/any.yaml": "x: y\n",
	})
	p := mustLoad(t, f, nil)
	g.Expect(p.Problems).To(BeEmpty())
	g.Expect(p.Environment("dev").Tenant("beetle").Objects).To(HaveLen(1))
}

func TestSameRepository(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"https://github.com/your-org/x", "https://github.com/your-org/x.git/", true},
		{"https://github.com/your-org/x", "ssh://git@github.com/your-org/x", true},
		{"https://github.com/your-org/x", "git@GitHub.com:your-org/x.git", true},
		{"https://github.com:443/your-org/x", "http://github.com/your-org/x", true},
		{"https://github.com/your-org/x", "https://github.com/your-org/xy", false},
		{"https://github.com/your-org/x", "https://gitlab.com/your-org/x", false},
		{"https://example.com:8443/x", "https://example.com/x", false},
	} {
		if got := SameRepository(c.a, c.b); got != c.want {
			t.Errorf("SameRepository(%q, %q) = %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestOutline(t *testing.T) {
	g := NewWithT(t)
	g.Expect(outline([]byte("# one\n---\nkind: \"A\" # x\nmetadata:\n  labels:\n    name: no\n  name: a\n---\n# empty\n---\n\nmetadata: {name: b}\nkind: B\n"))).To(Equal([]manifest{
		{line: 3, kind: "A", name: "a"}, {line: 12, kind: "B", name: "b"},
	}))
}
