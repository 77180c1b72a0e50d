package files

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

const (
	platformURL  = "https://github.com/your-org/flux_platform"
	developerURL = "https://github.com/your-org/flux_developer"
	policiesURL  = "https://github.com/your-org/policies"
)

var repositoryNames = map[string]string{platformURL: "platform", developerURL: "developer", policiesURL: "policies"}

// reference is the reference platform, with the folders that answer for it.
func reference(t testing.TB) (*platform.Platform, map[string]string) {
	t.Helper()
	folders := map[string]string{developerURL: "../../../fixtures/flux_developer", policiesURL: "../../../policies"}
	for address, folder := range folders {
		absolute, err := platform.Folder(folder)
		if err != nil {
			t.Fatal(err)
		}
		folders[address] = absolute
	}
	p, err := platform.Load(context.Background(), platform.Options{Root: "../../../fixtures/flux_platform", Sources: folders})
	if err != nil {
		t.Fatal(err)
	}
	return p, folders
}

// under loads the reference platform under an overlay.
func under(t *testing.T, o overlay.Overlay) *platform.Platform {
	t.Helper()
	p, folders := reference(t)
	changed, err := Overlaid(t.Context(), OverlaidInput{
		Platform: p, Names: repositoryNames, Folders: folders, Dir: t.TempDir(), Overlays: []overlay.Overlay{o},
	})
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// found are the findings of one check, over all places that it is judged for.
func found(t *testing.T, p *platform.Platform, id string) string {
	t.Helper()
	outcomes, err := Judge(t.Context(), Input{Platform: p, Checks: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	if len(outcomes) == 0 {
		t.Fatalf("%s was not judged", id)
	}
	var lines []string
	for _, o := range outcomes {
		if err := o.Validate(); err != nil {
			t.Error(err)
		}
		if o.Result == check.Failed {
			lines = append(lines, o.Found)
		}
	}
	return strings.Join(lines, "\n")
}

func object(kind string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": kind}}
}

func TestChecks(t *testing.T) {
	g := NewWithT(t)
	g.Expect(Checks()).To(HaveLen(20))
	for _, c := range Checks() {
		g.Expect(c.Validate()).To(Succeed())
		g.Expect(Is(c.ID)).To(BeTrue())
	}
	g.Expect(Is("BOOT-001")).To(BeFalse())
}

func TestReferencePlatformPasses(t *testing.T) {
	g := NewWithT(t)
	p, _ := reference(t)
	outcomes, err := Judge(t.Context(), Input{Platform: p})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(outcomes).To(HaveLen(48))
	for _, o := range outcomes {
		g.Expect(o.Result).To(Equal(check.Passed), "%s %s %s: %s%s", o.Check, o.Environment, o.Tenant, o.Found, o.Reason)
	}
}

func TestJudgeNarrows(t *testing.T) {
	g := NewWithT(t)
	p, _ := reference(t)
	outcomes, err := Judge(t.Context(), Input{Platform: p, Checks: []string{"FILE-001", "FILE-008", "FILE-011"}, Environments: []string{"dev"}, Tenants: []string{"tiger"}})
	g.Expect(err).NotTo(HaveOccurred())
	places := []string{}
	for _, o := range outcomes {
		places = append(places, strings.TrimSpace(o.Check+" "+o.Environment+" "+o.Tenant))
	}
	g.Expect(places).To(ConsistOf("FILE-001", "FILE-008 dev tiger", "FILE-011 dev"))

	_, err = Judge(t.Context(), Input{})
	g.Expect(err).To(MatchError(ContainSubstring("no platform")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Judge(ctx, Input{Platform: p})
	g.Expect(err).To(MatchError(context.Canceled))
}

const kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"

// Each case is a file that one check finds something in, and nearly the same file
// that it does not.
func TestFindsInAFile(t *testing.T) {
	cases := []struct {
		name, id, repository, path string
		bad, good, want            string
	}{
		{
			"a resource by http", "FILE-001", "platform", "docs/a/kustomization.yaml",
			kustomization + "resources:\n- http://example.com/a.yaml\n", kustomization + "resources:\n- a.yaml\n",
			"docs/a/kustomization.yaml:4: resources: http://example.com/a.yaml comes from elsewhere",
		},
		{
			"a base of a repository", "FILE-001", "platform", "docs/a/kustomization.yaml",
			kustomization + "resources:\n- github.com/acme/base//deploy?ref=v1\n", kustomization + "resources:\n- ./github/acme/base\n",
			":4: resources: github.com/acme/base",
		},
		{
			"an old patch by https", "FILE-001", "platform", "docs/a/kustomization.yaml",
			kustomization + "patchesStrategicMerge:\n- https://example.com/a.yaml\n", kustomization + "patchesStrategicMerge:\n- a.yaml\n",
			"patchesStrategicMerge: https://example.com/a.yaml",
		},
		{
			"a generator in a file of its own", "FILE-001", "platform", "docs/a/generator.yaml",
			"apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: a}\nfiles:\n- a=https://example.com/a\n",
			"apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: a}\nfiles:\n- a=https.example.com.a\n",
			"docs/a/generator.yaml:5: files: https://example.com/a",
		},
		{
			"a generator written into the kustomization", "FILE-001", "platform", "docs/a/kustomization.yaml",
			kustomization + "generators:\n- |\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n  metadata: {name: a}\n  files:\n  - git::https://example.com/a\n",
			kustomization + "generators:\n- |\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n  metadata: {name: a}\n  files:\n  - a.txt\n",
			"docs/a/kustomization.yaml:9: files: git::https://example.com/a",
		},
		{
			"credentials in a URL are not shown", "FILE-001", "platform", "docs/a/kustomization.yaml",
			kustomization + "resources:\n- https://bot:hunter2-Xq9@example.com/a.yaml\n", kustomization + "resources:\n- bot.yaml\n",
			"https://REDACTED@example.com/a.yaml",
		},
		{
			"a chart", "FILE-002", "platform", "docs/a/kustomization.yaml",
			kustomization + "helmCharts:\n- name: a\n", kustomization + "helmCharts: []\n", "helmCharts",
		},
		{
			"a container", "FILE-002", "platform", "docs/a/set.yaml",
			"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations:\n    config.kubernetes.io/function: |\n      container: {image: a}\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations:\n    config.kubernetes.io/local-config: 'true'\n",
			"docs/a/set.yaml:6: the annotation config.kubernetes.io/function",
		},
		{
			"a plugin in the kustomization", "FILE-002", "platform", "docs/a/kustomization.yaml",
			kustomization + "transformers:\n- |\n  apiVersion: acme.example/v1\n  kind: Rewrite\n  metadata: {name: a}\n",
			kustomization + "transformers:\n- |\n  apiVersion: builtin\n  kind: PrefixTransformer\n  metadata: {name: a}\n",
			"acme.example/v1 Rewrite is no generator of kustomize's own",
		},
		{
			"an alias bomb", "FILE-003", "platform", "docs/bomb.yaml",
			bomb(9), bomb(3), "docs/bomb.yaml:",
		},
		{
			"a large file", "FILE-003", "platform", "docs/large.yaml",
			"a: " + strings.Repeat("x", maxBytes), "a: x", "at most 16777216 are read",
		},
		{
			"a path that leaves", "FILE-004", "platform", "docs/a/kustomization.yaml",
			kustomization + "resources:\n- ../../../../x\n", kustomization + "resources:\n- ../../../x\n",
			"docs/a/kustomization.yaml:4: resources: ../../../../x lies outside",
		},
		{
			"an absolute path", "FILE-004", "platform", "docs/a/kustomization.yaml",
			kustomization + "configMapGenerator:\n- name: a\n  files:\n  - token=/var/run/secrets/token\n", kustomization + "configMapGenerator:\n- name: a\n  files:\n  - token=var/run/token\n",
			"/var/run/secrets/token lies outside",
		},
		{
			"an ignored folder of a tenant", "FILE-006", "developer", ".sourceignore",
			"/prd\n", "/docs\n", ".sourceignore:1: leaves out prd/beetle/config.yaml",
		},
		{
			"a private key", "FILE-009", "developer", "notes.txt",
			"-----BEGIN EC PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\n", "notes.txt:1: a private key",
		},
		{
			"a password", "FILE-009", "platform", "docs/a.yaml",
			"database:\n  password: hunter2\n", "database:\n  password: ${DATABASE_PASSWORD}\n", `docs/a.yaml:2: "password" has a value in clear text`,
		},
		{
			"a token by its entropy", "FILE-009", "platform", "docs/a.yaml",
			"apiToken: f3Kd9sLq02MzXv81\n", "apiToken: beetle-credentials\n", `docs/a.yaml:1: "apiToken"`,
		},
		{
			"an environment variable", "FILE-009", "platform", "docs/a.yaml",
			"env:\n- name: DB_PASSWORD\n  value: hunter2\n", "env:\n- name: DB_PASSWORD\n  valueFrom: {secretKeyRef: {name: db, key: password}}\n", `docs/a.yaml:3: "DB_PASSWORD"`,
		},
		{
			"within a block", "FILE-009", "platform", "docs/a.yaml",
			"data:\n  app.ini: |\n    [db]\n    password = hunter2\n", "data:\n  app.ini: |\n    [db]\n    password = $(DB)\n", `docs/a.yaml:4: "password"`,
		},
		{
			"a file of settings", "FILE-009", "platform", "scripts/a.env",
			"export DB_PASSWORD='hunter2'\n", "export DB_PASSWORD=\"${1}\"\n", `scripts/a.env:1: "DB_PASSWORD"`,
		},
		{
			"a Secret", "FILE-010", "platform", "docs/a.yaml",
			"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  a: b\n", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  a: ENC[AES256_GCM,data:x]\nsops: {mac: x}\n",
			`docs/a.yaml:5: Secret "a": stringData "a" is not encrypted`,
		},
		{
			"a Secret in a List", "FILE-010", "platform", "docs/a.yaml",
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}, data: {b: Yg==}}\n",
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {b: Yg==}}\n",
			`docs/a.yaml:4: Secret "a": data "b"`,
		},
		{
			"a generated Secret", "FILE-010", "platform", "docs/a/kustomization.yaml",
			kustomization + "secretGenerator:\n- name: a\n  literals: [b=c]\n", kustomization + "configMapGenerator:\n- name: a\n  literals: [b=c]\n",
			`Secret "a": "b" is generated from a literal`,
		},
		{
			"a key that stands twice", "FILE-013", "platform", "docs/a.yaml",
			"a:\n  b: 1\n  c: 2\n  b: 3\n", "a:\n  b: 1\n  c: {b: 3}\n", `docs/a.yaml:4: duplicate key "b", first on line 2`,
		},
		{
			"no YAML", "FILE-013", "platform", "docs/a.yaml",
			"a: [\n", "a: []\n", "not valid YAML",
		},
		{
			"a file that only one environment has", "FILE-015", "developer", "dev/beetle/extra.yaml",
			"a: b\n", "", "dev/beetle/extra.yaml: is in dev, and prd/beetle/extra.yaml is not there",
		},
		{
			"a carriage return in a value", "FILE-016", "developer", "base/beetle/config.yaml",
			"logging:\r\n  level: info\n", "logging:\n  level: info\n", "base/beetle/config.yaml:1: a carriage return",
		},
		{
			"no UTF-8 in a value", "FILE-016", "developer", "base/sonar/config.yaml",
			"logging:\n  level: \"\xff\"\n", "logging:\n  level: \"ÿ\"\n", "base/sonar/config.yaml:2: bytes that are no UTF-8",
		},
		{
			"text turned round in a manifest", "FILE-016", "platform", "docs/a.yaml",
			"a: \"\u202eb\"\n", "a: \"\u00a0b\"\r\n", "docs/a.yaml:1: U+202E",
		},
		{
			"a manifest among values", "FILE-019", "developer", "base/tiger/config.yaml",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "apiVersion: v1\nkind: ConfigMap\n", `base/tiger/config.yaml:1: is a manifest, of kind "ConfigMap"`,
		},
		{
			"a manifest that is not listed", "FILE-020", "platform", "infrastructure/ingress/more.yaml",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "a: b\n", "infrastructure/ingress/more.yaml:1: is a \"ConfigMap\" that infrastructure/ingress/kustomization.yaml does not list",
		},
		{
			"a schema of nobody", "FILE-020", "developer", "schemas/beetel.schema.json",
			"{}\n", "", "is the schema of beetel, and there is no such tenant; did you mean beetle?",
		},
	}
	// Each has a folder of its own, so that all are laid over one copy.
	place := func(i int, text string) string { return strings.ReplaceAll(text, "docs/", fmt.Sprintf("docs/%d/", i)) }
	lay := func(content func(int) string) *platform.Platform {
		o := overlay.Overlay{ID: "TST-001", Files: map[string]map[string][]byte{}}
		for i, test := range cases {
			name, text := place(i, test.path), content(i)
			if text == "" {
				continue
			}
			if o.Files[test.repository] == nil {
				o.Files[test.repository] = map[string][]byte{}
			}
			if o.Files[test.repository][name] != nil {
				t.Fatalf("%s is in two cases", name)
			}
			o.Files[test.repository][name] = []byte(text)
		}
		return under(t, o)
	}
	bad, good := lay(func(i int) string { return cases[i].bad }), lay(func(i int) string { return cases[i].good })
	for i, test := range cases {
		t.Run(test.id+" "+test.name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(found(t, bad, test.id)).To(ContainSubstring(place(i, test.want)))
			g.Expect(found(t, good, test.id)).To(BeEmpty())
		})
	}
}

// bomb are levels of aliases, each ten times the one before.
func bomb(levels int) string {
	var out strings.Builder
	out.WriteString("l0: &l0 x\n")
	for i := 1; i <= levels; i++ {
		name := string(rune('0' + i))
		below := "*l" + string(rune('0'+i-1))
		out.WriteString("l" + name + ": &l" + name + " [" + strings.Repeat(below+", ", 9) + below + "]\n")
	}
	return out.String()
}

// What a repository that is not ours holds counts only where a build reads it.
func TestPoliciesAreJudgedAsFarAsTheyAreBuilt(t *testing.T) {
	g := NewWithT(t)
	password := []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: apps}\ndata:\n  password: hunter2\n")
	o := overlay.Overlay{ID: "TST-001", Files: map[string]map[string][]byte{"policies": {"capacity/bad.yaml": password}}}
	g.Expect(found(t, under(t, o), "FILE-009")).To(BeEmpty())
	o.Files["policies"]["capacity/policy.yaml"] = password
	g.Expect(found(t, under(t, o), "FILE-009")).To(ContainSubstring(`capacity/policy.yaml:5: "password"`))
}

// Git cannot keep what an overlay's files are, so links are made by hand.
func TestLinks(t *testing.T) {
	p, folders := reference(t)
	for _, test := range []struct {
		name  string
		links map[string]string
		want  string
	}{
		{"inside", map[string]string{"docs/a": "../apps/base/service.yaml"}, ""},
		{"dangling", map[string]string{"docs/a": "none"}, ""},
		{"absolute", map[string]string{"docs/a": "/var/run/secrets"}, "docs/a: is a symbolic link that leads out of the repository, to /var/run/secrets"},
		{"by steps", map[string]string{"docs/a": "../../x"}, "docs/a: is a symbolic link that leads out of the repository"},
		{"by another", map[string]string{"docs/a": "b/x", "docs/b": ".."}, ""},
		{"out by another", map[string]string{"docs/a": "b/../../x", "docs/b": "/"}, "docs/b: is a symbolic link that leads out"},
		{"in a circle", map[string]string{"docs/a": "b", "docs/b": "a"}, "docs/a: is a symbolic link that leads round in a circle"},
		{"to itself", map[string]string{"docs/a": "a"}, "docs/a: is a symbolic link that leads round in a circle"},
		{"to its own folder", map[string]string{"docs/a": "."}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			dir := t.TempDir()
			g.Expect(copyRepository(t.Context(), p, p.Root, dir)).To(Succeed())
			for name, target := range test.links {
				g.Expect(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)).To(Succeed())
				g.Expect(os.Symlink(target, filepath.Join(dir, name))).To(Succeed())
			}
			changed, err := platform.Load(t.Context(), platform.Options{Root: dir, Sources: folders})
			g.Expect(err).NotTo(HaveOccurred())
			if test.want == "" {
				g.Expect(found(t, changed, "FILE-004")).To(BeEmpty())
			} else {
				g.Expect(found(t, changed, "FILE-004")).To(ContainSubstring(test.want))
			}
		})
	}
}

func TestUnreadableFileIsAnError(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	g := NewWithT(t)
	p, folders := reference(t)
	dir := t.TempDir()
	g.Expect(copyRepository(t.Context(), p, p.Root, dir)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "README.md"), nil, 0o000)).To(Succeed())
	g.Expect(os.Chmod(filepath.Join(dir, "README.md"), 0o000)).To(Succeed())
	changed, err := platform.Load(t.Context(), platform.Options{Root: dir, Sources: folders})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = Judge(t.Context(), Input{Platform: changed})
	g.Expect(err).To(MatchError(ContainSubstring("README.md: permission denied; the files are judged by what they hold")))
}

// A picture is no text, and what it holds is nobody's credential.
func TestBinaryFile(t *testing.T) {
	g := NewWithT(t)
	picture := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00"), []byte(strings.Repeat("\x00\xff", 40)+"-----BEGIN EC PRIVATE KEY-----")...)
	o := overlay.Overlay{ID: "TST-001", Files: map[string]map[string][]byte{"platform": {"docs/a.png": picture}}}
	p := under(t, o)
	outcomes, err := Judge(t.Context(), Input{Platform: p})
	g.Expect(err).NotTo(HaveOccurred())
	for _, outcome := range outcomes {
		g.Expect(outcome.Result).To(Equal(check.Passed), outcome.Found)
	}
}

// No finding shows the secret that it found.
func TestCredentialsAreNotShown(t *testing.T) {
	g := NewWithT(t)
	const secret = "hunter2-Xq9zLk7Bv3"
	o := overlay.Overlay{ID: "TST-001", Files: map[string]map[string][]byte{"platform": {
		"docs/a.yaml":     []byte("password: " + secret + "\ntoken: " + secret + "\nurl: https://a:" + secret + "@example.org\n"),
		"docs/s.yaml":     []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  a: " + secret + "\n"),
		"docs/a/x.env":    []byte("API_KEY=" + secret + "\n"),
		"docs/twice.yaml": []byte("a: " + secret + "\na: " + secret + "\n"),
	}}}
	outcomes, err := Judge(t.Context(), Input{Platform: under(t, o)})
	g.Expect(err).NotTo(HaveOccurred())
	failed := 0
	for _, outcome := range outcomes {
		if outcome.Result == check.Failed {
			failed++
		}
		g.Expect(outcome.Found + outcome.Note + outcome.Reason).NotTo(ContainSubstring("hunter2"))
	}
	g.Expect(failed).To(Equal(3))
}

func TestCredential(t *testing.T) {
	g := NewWithT(t)
	for _, test := range []struct {
		name, value string
		want        bool
	}{
		{"password", "changeme", true},
		{"DB_PASSWORD", "Tr0ub4dor$3", true},
		{"adminPassword", "", false},
		{"password", "<your password>", false},
		{"password", "{{ .Values.password }}", false},
		{"password", "********", false},
		{"password", "ENC[AES256_GCM,data:abc]", false},
		{"passwordFile", "hunter2", false},
		{"compass", "north", false},
		{"token", "/var/run/secrets/token", false},
		{"token", "beetle-token-2", false},
		{"clientSecret", "oauth2-proxy-credentials", false},
		{"clientSecret", "f3Kd9sLq02MzXv81", true},
		{"secret", "dev-beetle-tls", false},
		{"apiKey", "7c6a180b36896a0a8c02787eeafb0e4c", true},
		{"auth", "basic", false},
		{"tokenReview", "f3Kd9sLq02MzXv81", false},
		{"name", "f3Kd9sLq02MzXv81", false},
	} {
		g.Expect(credential(test.name, test.value)).To(Equal(test.want), "%s: %s", test.name, test.value)
	}
}

func TestMutable(t *testing.T) {
	g := NewWithT(t)
	for image, want := range map[string][2]bool{ // elsewhere, in production
		"app":                         {true, true},
		"app:latest":                  {true, true},
		"localhost:5000/app":          {true, true},
		"localhost:5000/app:1.2.3":    {false, false},
		"app:1.25":                    {false, true},
		"app:v1-alpine":               {false, true},
		"app:1.25.3-alpine":           {false, false},
		"app:20240131":                {false, false},
		"app:a1b2c3d":                 {false, false},
		"app@sha256:" + "0123":        {false, false},
		"app:latest@sha256:" + "0123": {false, false},
	} {
		g.Expect([2]bool{mutable(image, false) != "", mutable(image, true) != ""}).To(Equal(want), image)
	}
}

func TestUnpinned(t *testing.T) {
	g := NewWithT(t)
	git := func(ref platform.Ref) *platform.Source {
		s := &platform.Source{Ref: ref}
		s.Unstructured = object("GitRepository")
		return s
	}
	for _, test := range []struct {
		ref                   platform.Ref
		elsewhere, production bool
	}{
		{platform.Ref{}, true, true},
		{platform.Ref{Branch: "main"}, false, true},
		{platform.Ref{Tag: "v1.0.0"}, false, false},
		{platform.Ref{Tag: "latest"}, true, true},
		{platform.Ref{SemVer: "1.x"}, false, true},
		{platform.Ref{SemVer: "1.2.3"}, false, false},
		{platform.Ref{Branch: "main", Commit: "abc"}, false, false},
		{platform.Ref{Name: "refs/heads/main"}, false, true},
		{platform.Ref{Name: "refs/tags/v1"}, false, false},
	} {
		moves := [2]bool{unpinned(git(test.ref), false) != "", unpinned(git(test.ref), true) != ""}
		g.Expect(moves).To(Equal([2]bool{test.elsewhere, test.production}), "%v", test.ref)
	}
	for version, want := range map[string][2]bool{"": {true, true}, "*": {true, true}, ">=1.0.0 <2.0.0": {false, true}, "1.2": {false, true}, "v1.2.3": {false, false}, "3.9.1": {false, false}} {
		g.Expect([2]bool{unpinnedChart(version, false) != "", unpinnedChart(version, true) != ""}).To(Equal(want), version)
	}
}

func TestProduction(t *testing.T) {
	g := NewWithT(t)
	for name, want := range map[string]bool{"prd": true, "prod-eu": true, "eu_production2": true, "live": true, "dev": false, "product": false, "delivery": false, "staging": false} {
		g.Expect((&reading{}).isProduction(name)).To(Equal(want), name)
		g.Expect((&reading{production: []string{"staging"}}).isProduction(name)).To(Equal(name == "staging"), name)
	}
}

func TestDistrust(t *testing.T) {
	g := NewWithT(t)
	const own = "https://github.com/your-org/flux_platform"
	for address, want := range map[string]string{
		"https://github.com/your-org/flux_developer":       "",
		"ssh://git@github.com/your-org/flux_developer":     "",
		"git@github.com:your-org/flux_developer.git":       "",
		"https://github.com/kyverno/kyverno":               "",
		"oci://ghcr.io/acme/charts":                        "",
		"http://minio.storage.svc.cluster.local:9000":      "",
		"http://github.com/your-org/flux_developer":        "plain http",
		"https://github.com/your-0rg/flux_developer":       "looks like your-org",
		"https://github.com/yourorg/flux_developer":        "looks like your-org",
		"https://github.com/your-orgs/flux_developer":      "looks like your-org",
		"https://github.com/yuor-org/flux_developer":       "looks like your-org",
		"https://githud.com/your-org/flux_developer":       "looks like github.com",
		"https://github.com/your-org/../evil/developer":    "leads through",
		"https://github.com/your-org/%2e%2e/evil":          "leads through",
		"https://github.com/уour-org/flux_developer":       "look like others",
		"https://bot:hunter2@github.com/your-org/platform": "holds a password",
		"file:///srv/git": "proves nobody's identity",
	} {
		s := &platform.Source{URL: address}
		s.Unstructured = object("GitRepository")
		problems := strings.Join(distrust(s, own), "; ")
		if want == "" {
			g.Expect(problems).To(BeEmpty(), address)
		} else {
			g.Expect(problems).To(ContainSubstring(want), address)
		}
		g.Expect(problems).NotTo(ContainSubstring("hunter2"))
	}
	s := &platform.Source{URL: "oci://ghcr.io/acme/charts"}
	s.Unstructured = object("OCIRepository")
	s.Object.Object["spec"] = map[string]any{"insecure": true}
	g.Expect(distrust(s, own)).To(ConsistOf(ContainSubstring("without TLS")))
}

func TestOpenSchemas(t *testing.T) {
	g := NewWithT(t)
	for schema, want := range map[string]int{
		`{}`:                                            1,
		`{"title": "a"}`:                                1,
		`{"allOf": [{}]}`:                               1,
		`{"allOf": [{"allOf": [{}]}]}`:                  1,
		`{"allOf": [{}, {"type": "string"}]}`:           0,
		`{"anyOf": [{"type": "string"}, {}]}`:           1,
		`{"oneOf": [{"type": "string"}, {"const": 1}]}`: 0,
		`true`:              1,
		`{"type":"object"}`: 1,
		`{"type":"object","additionalProperties":false}`:                                                                                   0,
		`{"type":"object","unevaluatedProperties":false}`:                                                                                  0,
		`{"type":["object","null"],"properties":{"a":{"type":"string"}}}`:                                                                  1,
		`{"type":"object","additionalProperties":true}`:                                                                                    1,
		`{"type":"object","additionalProperties":{}}`:                                                                                      1,
		`{"type":"object","additionalProperties":{"type":"string"}}`:                                                                       0,
		`{"type":"object","additionalProperties":{"type":"object"}}`:                                                                       1,
		`{"type":"array","items":{"type":"object"}}`:                                                                                       1,
		`{"$ref":"#/$defs/a","$defs":{"a":{"type":"object"}}}`:                                                                             1,
		`{"anyOf":[{"type":"null"},{"type":"object"}]}`:                                                                                    1,
		`{"type":"object","additionalProperties":false,"if":{"properties":{"a":{"const":1}}},"then":{"required":["b"]}}`:                   0,
		`{"type":"object","additionalProperties":false,"properties":{"a":{"type":"object"}},"patternProperties":{"^b":{"type":"object"}}}`: 2,
	} {
		documents, _ := decode([]byte(schema))
		g.Expect(documents).To(HaveLen(1), schema)
		g.Expect(open(documents[0], "", 0)).To(HaveLen(want), schema)
	}
}

func TestOverlaidErrs(t *testing.T) {
	g := NewWithT(t)
	p, folders := reference(t)
	lay := func(o overlay.Overlay) error {
		_, err := Overlaid(t.Context(), OverlaidInput{
			Platform: p, Names: map[string]string{platformURL: "platform"}, Folders: folders, Dir: t.TempDir(), Overlays: []overlay.Overlay{o},
		})
		return err
	}
	g.Expect(lay(overlay.Overlay{ID: "TST-001", Files: map[string]map[string][]byte{"developer": {"a": nil}}})).To(MatchError(ContainSubstring("changes the developer repository, which this platform does not draw on")))
	g.Expect(lay(overlay.Overlay{ID: "TST-001", Patches: []overlay.Patch{{Repository: "platform", Path: "README.md", Replace: &overlay.Replace{Old: "no such text", New: "x"}}}})).To(MatchError(ContainSubstring("stands 0 times")))
	g.Expect(lay(overlay.Overlay{ID: "TST-001", Files: map[string]map[string][]byte{"platform": {"clusters/dev/kustomization.yaml": []byte("a: [")}}})).To(MatchError(ContainSubstring("load the platform under [TST-001]")))
	_, err := Overlaid(t.Context(), OverlaidInput{})
	g.Expect(err).To(MatchError(ContainSubstring("are required")))
}

// A Kustomization that builds straight from what tenants include as values must
// not make them something else.
func TestWhatIsBuiltFromValuesIsNamed(t *testing.T) {
	g := NewWithT(t)
	more := func(path string) overlay.Overlay {
		return overlay.Overlay{
			ID: "TST-001",
			Files: map[string]map[string][]byte{
				"developer": {"dev/beetle/kustomization.yaml": []byte(kustomization), "tools/kustomization.yaml": []byte(kustomization)},
				"platform": {"clusters/dev/more.yaml": []byte(`apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: developer, namespace: flux-system}
spec: {interval: 1h, url: "https://github.com/your-org/flux_developer", ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: more, namespace: flux-system}
spec: {interval: 1h, prune: true, serviceAccountName: kustomize-controller, path: ` + path + `, sourceRef: {kind: GitRepository, name: developer}}
`)},
			},
			Patches: []overlay.Patch{{
				Repository: "platform", Path: "clusters/dev/kustomization.yaml",
				Insert: &overlay.Insert{After: "- infrastructure.yaml\n", Text: "- more.yaml\n"},
			}},
		}
	}
	g.Expect(found(t, under(t, more("./dev/beetle")), "FILE-019")).To(ContainSubstring(
		"Kustomization flux-system/more in environment dev builds /dev/beetle of the repository, of which"))
	// Beside what is included nobody's values are built; that a repository of values
	// holds kustomizations at all is named either way.
	g.Expect(found(t, under(t, more("./tools")), "FILE-019")).To(And(
		ContainSubstring("tools/kustomization.yaml:1: is a kustomization"), Not(ContainSubstring("builds"))))
}
