package platform

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const header = "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\n"

func loadConfig(t *testing.T, content string) (Config, string, error) {
	t.Helper()
	dir := files{"config.yaml": content, "values/x": "", "objects/x": "", "chart/Chart.yaml": ""}.write(t)
	c, err := LoadConfig(filepath.Join(dir, "config.yaml"))
	return c, dir, err
}

func TestLoadConfig(t *testing.T) {
	g := NewWithT(t)
	c, dir, err := loadConfig(t, header+`platform: .
sources:
- url: https://github.com/your-org/flux_developer
  path: values
- url: https://kyverno.github.io/kyverno/
  charts:
  - {module: github.com/kyverno/kyverno, version: v1.19.1, path: charts/kyverno}
  - {path: chart, dependencies: [{module: github.com/kyverno/api, path: charts/kyverno-api}]}
- url: https://github.com/kyverno/kyverno
  module: {path: github.com/kyverno/kyverno, only: [config/crds]}
- {url: "git@example.com:x/y.git", upstream: true}
objects: ./objects
environments: [dev, prd]
tenants: []
timeouts: {multiplier: 1.5, bringUp: 8m, poll: 1s}
waivers:
- {check: CFG-002, environment: dev, tenant: beetle, reason: moves soon, expires: 2027-01-31}
components: {source-controller: v1.9.5}
registries: {ghcr.io: "127.0.0.1:5000/ghcr.io"}
nodeImage: 127.0.0.1:5000/kindest/node:v1.36.4
serves: [{image: acme/*, path: "/files/{file}"}, {image: tools, path: "/{file}", names: true}]
ingress: {public: "edge/gateway:80"}
developers: [acme:developers]
operators: [acme:platform]
residuals:
- {identity: reconciler, verbs: [list, watch], resource: deployments.apps, reason: its own controller watches}
strict: true
`)
	g.Expect(err).NotTo(HaveOccurred())
	want := DefaultTimeouts()
	want.Multiplier, want.BringUp = 1.5, 8*time.Minute
	want.multiply()
	want.Poll = time.Second
	g.Expect(c).To(Equal(Config{
		File: filepath.Join(dir, "config.yaml"), Platform: dir, Objects: filepath.Join(dir, "objects"),
		Sources: []Answer{
			{URL: "https://github.com/your-org/flux_developer", Path: filepath.Join(dir, "values"), Line: 5},
			{URL: "https://kyverno.github.io/kyverno/", Line: 7, Charts: []ChartSource{
				{Module: "github.com/kyverno/kyverno", Version: "v1.19.1", Path: "charts/kyverno"},
				{Path: filepath.Join(dir, "chart"), Dependencies: []ChartSource{{Module: "github.com/kyverno/api", Path: "charts/kyverno-api"}}},
			}},
			{URL: "https://github.com/kyverno/kyverno", Line: 11, Module: &Module{Path: "github.com/kyverno/kyverno", Only: []string{"config/crds"}}},
			{URL: "git@example.com:x/y.git", Upstream: true, Line: 13},
		},
		Environments: []string{"dev", "prd"},
		Timeouts:     want,
		Waivers: []Waiver{{
			Check: "CFG-002", Environment: "dev", Tenant: "beetle", Reason: "moves soon",
			Expires: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), Line: 19,
		}},
		Components: map[string]string{"source-controller": "v1.9.5"},
		Registries: map[string]string{"ghcr.io": "127.0.0.1:5000/ghcr.io"},
		NodeImage:  "127.0.0.1:5000/kindest/node:v1.36.4",
		Serves:     []Serves{{Image: "acme/*", Path: "/files/{file}"}, {Image: "tools", Path: "/{file}", Names: true}},
		Ingress:    map[string]string{"public": "edge/gateway:80"},
		Developers: []string{"acme:developers"},
		Operators:  []string{"acme:platform"},
		Residuals: []Residual{{
			Identity: "reconciler", Group: "apps", Resource: "deployments", Verbs: []string{"list", "watch"},
			Reason: "its own controller watches", Line: 28,
		}},
		Strict: true,
	}))
	g.Expect(c.Timeouts.Stall).To(Equal(3 * time.Minute))
	g.Expect(DefaultConfig().Timeouts).To(Equal(DefaultTimeouts()))
}

// Every mistake is told in one message, in the order of the lines.
func TestConfigMistakesComeTogether(t *testing.T) {
	g := NewWithT(t)
	_, dir, err := loadConfig(t, `apiVersion: conformance.flux-platform/v2
kind: Config
platfrom: .
sources:
- url: https://example.com/a
- url: https://example.com/a.git
  path: nowhere
  upstream: true
- url: ftp://example.com
  upstream: no thanks
environments: dev
timeouts: {multiplier: -2, bringUp: 10, stall: -5s, cluster: 48h, bringup: 1m}
waivers:
- {check: CFG2, expires: 2027-13-01}
components: {source-controller: latest}
strict: 1
strict: true
tenants: [a, a, null]
`)
	g.Expect(err).To(HaveOccurred())
	file := filepath.Join(dir, "config.yaml")
	g.Expect(err.Error()).To(Equal(file + `:1: apiVersion: conformance.flux-platform/v1alpha1 is wanted, this is "conformance.flux-platform/v2"
` + file + `:3: unknown key "platfrom"; is platform meant? (known are apiVersion, components, developers, environments, ingress, kind, nodeImage, objects, operators, platform, production, registries, residuals, serves, sources, strict, tenants, timeouts, waivers)
` + file + `:5: sources[0]: nothing answers for https://example.com/a: one of path, charts, module and upstream is wanted
` + file + `:6: sources[1]: https://example.com/a.git is answered twice, first on line 5
` + file + `:6: sources[1]: path and upstream exclude each other; exactly one is wanted
` + file + `:7: sources[1].path: folder ` + filepath.Join(dir, "nowhere") + ` does not exist (paths are relative to the CONFIG file)
` + file + `:9: sources[2].url: "ftp://example.com" is no URL of a source; https://, ssh://, http:// or oci:// with a host is wanted
` + file + `:9: sources[2]: upstream: false answers nothing; leave the entry out, or set it to true
` + file + `:10: sources[2].upstream: true or false is wanted, this is "no thanks"
` + file + `:11: environments: a list is wanted, this is "dev"
` + file + `:12: timeouts.multiplier: is -2, a number above 0 and up to 100 is wanted
` + file + `:12: timeouts.bringUp: a duration like 90s or 10m is wanted, this is "10"
` + file + `:12: timeouts.stall: is -5s, a duration above 0 and up to 24h is wanted
` + file + `:12: timeouts.cluster: is 48h, a duration above 0 and up to 24h is wanted
` + file + `:12: timeouts: unknown key "bringup"; is bringUp meant? (known are bootstrap, bringUp, check, cleanUp, cluster, dump, effective, eventually, multiplier, poll, reconcile, request, stall)
` + file + `:14: waivers[0]: reason is missing
` + file + `:14: waivers[0].check: the ID of a check like CFG-002 is wanted, this is "CFG2"
` + file + `:14: waivers[0].expires: a day like 2027-01-31 is wanted, this is "2027-13-01"
` + file + `:15: components.source-controller: a version like v1.2.3 is wanted, this is "latest"
` + file + `:16: strict: true or false is wanted, this is "1"
` + file + `:17: key "strict" stands twice, first on line 16
` + file + `:18: tenants[1]: "a" stands twice
` + file + `:18: tenants[2]: text is wanted, this is empty`))
}

func TestBadConfigs(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"empty", "", "the file is empty; a CONFIG file begins with «apiVersion: conformance.flux-platform/v1alpha1»"},
		{"comment only", "# nothing\n", "the file is empty"},
		{"not YAML", header + "sources: [\n", ":4: not valid YAML: "},
		{"a list", "- a\n", ":1: a mapping is wanted, this is a list"},
		{"two documents", header + "---\nkind: Config\n", ":3: a CONFIG file is one document, this is a second one"},
		{"alias", header + "platform: &a .\nobjects: *a\n", ":4: objects: anchors and aliases are not read here; write the value out"},
		{"no charts", header + "sources: [{url: 'https://a.example', charts: []}]\n", ":3: sources[0].charts: is empty; a Helm repository has one chart at least"},
		{"chart outside of its module", header + "sources: [{url: 'https://a.example', charts: [{module: a.example/b, path: ../x}]}]\n", `path "../x" leads out of the module`},
		{"version without module", header + "sources: [{url: 'https://a.example', charts: [{version: v1.0.0, path: .}]}]\n", "version is that of a module, and no module is named"},
		{"module without path", header + "sources: [{url: 'https://a.example', module: {version: v1}}]\n", ":3: sources[0].module: path is missing"},
		{"source without URL", header + "sources: [{upstream: true}]\n", ":3: sources[0]: url is missing"},
		{"a service without its files", header + "serves: [{image: 'a/*', path: /files}]\n", `:3: serves[0].path: a path like /config/{file} is wanted, this is "/files"`},
		{"a service without its image", header + "serves: [{path: '/{file}'}]\n", ":3: serves[0]: image is missing"},
		{"a pattern that is none", header + "serves: [{image: 'a[', path: '/{file}'}]\n", `:3: serves[0].image: "a[" is no pattern: syntax error in pattern`},
		{"an ingress without a port", header + "ingress: {public: edge/gateway}\n", `:3: ingress.public: a Service as NAMESPACE/NAME:PORT is wanted, this is "edge/gateway"`},
		{"a node image that is none", header + "nodeImage: 'a b'\n", `:3: nodeImage: "a b" is no image: could not parse reference: a b`},
		{"a node image of any version", header + "nodeImage: 127.0.0.1:5000/kindest/node\n", `:3: nodeImage: an image with its tag or digest is wanted, this is "127.0.0.1:5000/kindest/node"`},
		{"a residual without a reason", header + "residuals: [{identity: workload, verbs: [get], resource: secrets}]\n", ":3: residuals[0]: reason is missing"},
		{"a residual of nobody", header + "residuals: [{identity: admin, verbs: [get], resource: secrets, reason: x}]\n", `:3: residuals[0].identity: one of reconciler, workload, default, account, developers is wanted, this is "admin"`},
		{"a residual of everything", header + "residuals: [{identity: workload, verbs: ['*'], resource: secrets, reason: x}]\n", ":3: residuals[0]: a star has no reason; name each verb and the resource"},
		{"file as folder", header + "objects: config.yaml\n", "config.yaml is a file, a folder is wanted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			_, _, err := loadConfig(t, c.content)
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
	g := NewWithT(t)
	_, err := LoadConfig(filepath.Join(t.TempDir(), "none.yaml"))
	g.Expect(err).To(MatchError(os.ErrNotExist))
	large := filepath.Join(t.TempDir(), "large.yaml")
	g.Expect(os.WriteFile(large, make([]byte, maxConfigBytes+1), 0o600)).To(Succeed())
	_, err = LoadConfig(large)
	g.Expect(err).To(MatchError(ContainSubstring("has more than 1048576 bytes; is it the right file?")))
}

func TestDefaultSources(t *testing.T) {
	g := NewWithT(t)
	for _, a := range DefaultSources() {
		g.Expect(a.Path).To(BeEmpty(), "the program ships answers that need no folder of the user's")
		g.Expect(a.Upstream).To(BeFalse())
		g.Expect(a.Module != nil || len(a.Charts) > 0).To(BeTrue(), a.URL)
		g.Expect(a.Line).To(BeZero())
	}
	g.Expect(DefaultSources()).NotTo(BeEmpty())
}

func TestServesOf(t *testing.T) {
	c := Config{Serves: []Serves{{Image: "acme/shop", Path: "/own/{file}"}, {Image: "your-org/tiger", Path: "/other/{file}"}}}
	for _, row := range []struct{ image, want string }{
		{"ghcr.io/your-org/beetle:1.5.0", "/config/a.yaml"},
		{"your-org/beetle", "/config/a.yaml"},
		{"mirror.example:5000/ghcr.io/your-org/sonar@sha256:0123", "/config/a.yaml"},
		{"ghcr.io/your-org/tiger:1", "/other/a.yaml"}, // CONFIG comes first
		{"acme/shop:1", "/own/a.yaml"},
		{"acme/shop/more:1", ""},
		{"ghcr.io/not-your-org/beetle:1", ""},
		{"ghcr.io/your-org/beetle/debug", ""},
	} {
		t.Run(row.image, func(t *testing.T) {
			g := NewWithT(t)
			found, ok := c.ServesOf(row.image)
			g.Expect(ok).To(Equal(row.want != ""))
			g.Expect(found.At("a.yaml")).To(Equal(row.want))
		})
	}
}

func TestVersionTag(t *testing.T) {
	for _, c := range []struct{ constraint, want, err string }{
		{"", "", ""},
		{">=1.0.0", "v1.0.0", ""},
		{">1.2.3 <2", "v1.2.4", ""},
		{"~1.4", "v1.4.0", ""},
		{"3.x", "v3.0.0", ""},
		{"<1.0.0", "v0.0.0", ""},
		{"<0.9", "v0.8.0", ""},
		{"nonsense!", "", "improper constraint"},
		{">2 <1", "", "no version near those that it names"},
	} {
		g := NewWithT(t)
		tag, err := Ref{SemVer: c.constraint}.VersionTag()
		if c.err != "" {
			g.Expect(err).To(MatchError(ContainSubstring(c.err)))
			continue
		}
		g.Expect(err).NotTo(HaveOccurred(), c.constraint)
		g.Expect(tag).To(Equal(c.want), c.constraint)
	}
}
