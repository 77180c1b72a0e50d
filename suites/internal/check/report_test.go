package check_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/golden"
)

// example is a report with something in every field and every kind of outcome.
func example(t testing.TB) check.Report {
	t.Helper()
	checks := []check.Check{
		{
			ID: "BOOT-001", Title: "Flux runs at the version that the platform declares",
			Why: "a version that nobody chose was tested by nobody", Remedy: "commit gotk-components.yaml as flux bootstrap writes it",
			Reference: "https://fluxcd.io/flux/installation/", Level: check.Core, Scope: check.ScopeEnvironment,
		},
		{
			ID: "TEN-001", Title: "Each tenant's Deployment is as the platform declares it, with its labels, its image and its replicas",
			Why:    "a Deployment that differs runs something that nobody has reviewed",
			Remedy: "compare the tenant's Kustomization with apps/base, and what its patches change", Reference: "DESIGN.md, Checks",
			Level: check.Core, Scope: check.ScopeTenant,
		},
		{
			ID: "TEN-002", Title: "Each tenant's Deployment is available", Why: "its users are not served",
			Remedy: "read the pods' events", Reference: "DESIGN.md, Checks",
			Level: check.Core, Scope: check.ScopeTenant, Needs: []string{"Workloads"},
		},
		{
			ID: "ISO-001", Title: "Every object in apps has one owner", Why: "an object that two own is deleted by either",
			Remedy: "give the objects different names", Reference: "DESIGN.md, Checks", Level: check.Extended, Scope: check.ScopeEnvironment,
		},
		{
			ID: "POL-001", Title: "Every policy has examples", Why: "a policy without examples proves nothing",
			Remedy: "write kyverno-test.yaml beside it", Reference: "DESIGN.md, Policy verdicts", Level: check.Core, Scope: check.ScopePlatform,
		},
	}
	waiver := check.Waiver{
		Check: "TEN-001", Environment: "prd", Tenant: "sonar", Reason: "sonar moves to two replicas in May", Expires: day(t, "2026-05-31"),
	}
	needs := func(environment, tenant string) check.Outcome {
		return check.Outcome{
			Check: "TEN-002", Environment: environment, Tenant: tenant, Result: check.NotSupported,
			Reason: "needs Workloads, which this cluster lacks: its pods are simulated",
		}
	}
	wrongImage := failed("TEN-001", "dev", "beetle")
	wrongImage.Expected = "image ghcr.io/your-org/beetle:1.2.3"
	wrongImage.Found = "image ghcr.io/your-org/beetle:latest\n--- declared\n+++ running\n-  replicas: 2\n+  replicas: 1"
	wrongImage.Seconds, wrongImage.Artifacts = 0.25, "dev/TEN-001"
	odd := failed("TEN-001", "dev", "sonar")
	odd.Expected = "Deployment apps/dev-sonar-app, which the Kustomization sonar/sonar of the tenant is expected to apply"
	odd.Found = "\x1b[31mnothing\x1b[0m\x00 <&>\u202e; last message: cloning https://bot:hunter2@example.org/repo.git with password: hunter2"
	measured := passed("BOOT-001", "prd", "")
	measured.Note = "Flux was ready after 4.2 s\nKyverno after 9.1 s"
	owner := failed("ISO-001", "prd", "")
	owner.Found = "Service apps/shared is owned by beetle and sonar"
	report := check.Report{
		Started: time.Date(2026, 5, 4, 10, 0, 0, 0, time.FixedZone("CEST", 7200)),
		Seconds: 41.25, IdleSeconds: 1.5,
		Command:  []string{"e2e", "--platform", "fixtures/flux_platform", "--token=hunter2"},
		Provider: "embedded",
		Platform: check.Platform{Folder: "fixtures/flux_platform", Revision: "0123456789abcdef0123456789abcdef01234567", Dirty: true},
		Environments: []check.Environment{
			{Name: "dev", Kubernetes: "v1.36.3", Flux: "v2.9.5"}, {Name: "prd", Kubernetes: "v1.36.3", Flux: "v2.9.5"},
		},
		Tenants: []string{"beetle", "sonar"},
		Checks:  checks,
		Phases: []check.Phase{{
			Environment: "dev", Name: "platform", Started: time.Date(2026, 5, 4, 8, 0, 9, 0, time.UTC), Seconds: 20.5,
			ExpectedSeconds: 18, WaitedFor: []check.Wait{{Object: "HelmRelease kyverno/kyverno", Seconds: 12.5}},
		}},
		Processes: []check.Process{{Name: "kube-apiserver", Environment: "dev", PeakBytes: 512 << 20}},
		Components: []check.Component{{
			Name: "source-controller", Version: "v1.9.5", Origin: "build", FromCache: true,
			Reference: "github.com/fluxcd/source-controller@v1.9.5", Digest: "sha256:" + strings.Repeat("0", 64),
			InPlaceOf: []string{"ghcr.io/fluxcd/source-controller:v1.6.2"},
		}},
		Overrides: []check.Override{
			{
				Environment: "dev", Workload: "Deployment/flux-system/source-controller", Kind: "arg", Name: "--storage-path",
				Declared: "/data", Effective: "SESSION/dev/source-controller", Reason: "the program runs on the host",
			},
			{
				Environment: "dev", Workload: "Deployment/flux-system/source-controller", Kind: "env", Name: "HTTPS_PROXY",
				Effective: "http://127.0.0.1:1", Reason: "sources are answered locally",
			},
			{
				Environment: "prd", Workload: "Deployment/flux-system/source-controller", Kind: "arg", Name: "--storage-path",
				Declared: "/data", Effective: "SESSION/prd/source-controller", Reason: "the program runs on the host",
			},
		},
		SimulatedPods: []check.SimulatedPod{
			{Environment: "dev", Namespace: "apps", Name: "dev-beetle-app-1", Images: []string{"ghcr.io/your-org/beetle:latest"}},
			{Environment: "prd", Namespace: "apps", Name: "prd-beetle-app-1"},
		},
		SimulatedBackends: []check.SimulatedBackend{
			{Environment: "dev", Kind: "ValidatingWebhookConfiguration", Name: "cert-manager", Service: "cert-manager/webhook"},
		},
		Capabilities: []check.Capability{{Environment: "dev", Name: "Workloads", Evidence: "the probe's pod ran no program"}},
		Sources: []check.Source{{
			URL: "https://github.com/your-org/flux_platform", Revision: "main@sha1:0123456789abcdef0123456789abcdef01234567",
		}},
		RefusedRequests: []check.RefusedRequest{{
			Environment: "prd", URL: "https://example.org/charts", Object: "HelmRepository flux-system/other",
			Time: time.Date(2026, 5, 4, 8, 0, 10, 0, time.UTC),
		}},
		Notes: []string{"no cluster is kept; KEEP=1 keeps it"},
	}
	report.Attach(check.Attachment{
		Environment: "dev", Name: "ownership", Content: []byte(`{"tenants":[]}`), Text: "beetle   3 objects, nothing shared\n",
	})
	report.Apply(check.Summarize(check.SummaryInput{
		Checks: checks,
		Plan: check.Plan(checks, []string{"dev", "prd"}, func(string) []string { return []string{"beetle", "sonar"} },
			func(c check.Check, environment, _ string) string {
				if c.ID == "ISO-001" && environment == "dev" {
					return "not named in CHECKS"
				}
				return ""
			}),
		Outcomes: []check.Outcome{
			passed("BOOT-001", "dev", ""), measured,
			wrongImage, odd, passed("TEN-001", "prd", "beetle"), failed("TEN-001", "prd", "sonar"),
			needs("dev", "beetle"), needs("dev", "sonar"), needs("prd", "beetle"), needs("prd", "sonar"),
			owner, passed("POL-001", "", ""),
		},
		Waivers: []check.Waiver{waiver, {Check: "BOOT-001", Reason: "old", Expires: day(t, "2026-05-31")}},
		Now:     now,
	}))
	return report
}

// validate holds a report against the schema that the package ships.
func validate(t testing.TB, content []byte) error {
	t.Helper()
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(check.Schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("schema.json", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return compiled.Validate(document)
}

func TestWrite(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := filepath.Join(t.TempDir(), "artifacts")
	g.Expect(example(t).Write(folder)).To(Succeed())
	for _, name := range []string{check.ReportFile, check.JUnitFile} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(content)).NotTo(ContainSubstring("hunter2"))
		golden.Compare(t, name, content)
	}
	entries, err := os.ReadDir(folder)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(entries).To(HaveLen(3), "nothing half-written is left beside the attachments")

	content, err := os.ReadFile(filepath.Join(folder, check.ReportFile))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(validate(t, content)).To(Succeed())
	var read check.Report
	g.Expect(json.Unmarshal(content, &read)).To(Succeed())
	g.Expect(read.Result).To(Equal(check.RunFailed))
	g.Expect(read.ExitCode).To(Equal(1))
	g.Expect(read.WaiversUsed).To(HaveLen(1))
}

// A run that broke before it began has a valid report as well.
func TestWriteEmpty(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	var report check.Report
	report.Apply(check.Summarize(check.SummaryInput{Invalid: errors.New("no such PLATFORM")}))
	g.Expect(report.Write(folder)).To(Succeed())
	g.Expect(report.Write(folder)).To(Succeed(), "a second report takes the place of the first")
	content, err := os.ReadFile(filepath.Join(folder, check.ReportFile))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).NotTo(ContainSubstring("null"))
	g.Expect(validate(t, content)).To(Succeed())
	golden.Compare(t, "empty.json", content)
	var text bytes.Buffer
	g.Expect(report.WriteText(&text, check.TextOptions{})).To(Succeed())
	golden.Compare(t, "empty.txt", text.Bytes())
}

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	NewWithT(t).Expect(example(t).Write(folder)).To(Succeed())
	content, err := os.ReadFile(filepath.Join(folder, check.ReportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, from, to, want string }{
		{"another version", `"schemaVersion": "1"`, `"schemaVersion": "2"`, "schemaVersion"},
		{"an unknown result", `"result": "NOT_SUPPORTED"`, `"result": "MAYBE"`, "outcomes"},
		{"a failure without a finding", `"found": "Service apps/shared is owned by beetle and sonar"`, `"found": ""`, "found"},
		{"a waiver on a pass", `"artifacts": ""`, `"artifacts": "", "waiver": {"check":"TEN-001","environment":"","tenant":"","reason":"x","expires":"2026-05-31"}`, "outcomes"},
		{"a time without a zone", `"started": "2026-05-04T08:00:00Z"`, `"started": "2026-05-04 08:00"`, "started"},
		{"a missing field", `"idleSeconds": 1.5,`, ``, "idleSeconds"},
		{"no list", `"notes": [`, `"notes": null, "more": [`, "notes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			changed := strings.Replace(string(content), test.from, test.to, 1)
			g.Expect(changed).NotTo(Equal(string(content)))
			g.Expect(validate(t, []byte(changed))).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

// Every field of the Go types is in the schema, and the other way round.
func TestSchemaIsComplete(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var schema map[string]any
	g.Expect(json.Unmarshal(check.Schema, &schema)).To(Succeed())
	var compare func(path string, node map[string]any, kind reflect.Type)
	compare = func(path string, node map[string]any, kind reflect.Type) {
		if ref, ok := node["$ref"].(string); ok {
			definitions := schema["$defs"].(map[string]any)
			node = definitions[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		}
		g.Expect(node["description"]).NotTo(BeEmpty(), path)
		switch kind.Kind() {
		case reflect.Pointer:
			compare(path, node, kind.Elem())
		case reflect.Slice:
			g.Expect(node["type"]).To(Equal("array"), path)
			items := node["items"].(map[string]any)
			if kind.Elem().Kind() == reflect.Struct {
				if items["description"] == nil && items["$ref"] == nil {
					items["description"] = "an item"
				}
				compare(path+"[]", items, kind.Elem())
			}
		case reflect.Struct:
			if kind == reflect.TypeFor[time.Time]() || kind == reflect.TypeFor[check.Date]() {
				return
			}
			properties := node["properties"].(map[string]any)
			var names []string
			for i := range kind.NumField() {
				if !kind.Field(i).IsExported() {
					continue
				}
				name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
				names = append(names, name)
				g.Expect(properties).To(HaveKey(name), path)
				compare(path+"."+name, properties[name].(map[string]any), kind.Field(i).Type)
			}
			for name := range properties {
				g.Expect(names).To(ContainElement(name), path)
			}
		default:
		}
	}
	compare("report", schema, reflect.TypeFor[check.Report]())
}

func TestJUnit(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	g.Expect(example(t).Write(folder)).To(Succeed())
	content, err := os.ReadFile(filepath.Join(folder, check.JUnitFile))
	g.Expect(err).NotTo(HaveOccurred())
	decoder := xml.NewDecoder(bytes.NewReader(content))
	elements := map[string]int{}
	var classes []string
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred(), "the file is well-formed")
		if start, ok := token.(xml.StartElement); ok {
			elements[start.Name.Local]++
			if start.Name.Local == "testcase" {
				classes = append(classes, start.Attr[0].Value)
			}
		}
	}
	g.Expect(elements).To(Equal(map[string]int{
		"testsuites": 1, "testsuite": 1, "testcase": 14, "failure": 3, "skipped": 6, "error": 1, "system-out": 1,
	}))
	g.Expect(classes).To(ContainElements("dev", "dev.beetle", "platform", "run"))
}

func TestWriteText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		options check.TextOptions
	}{
		{"text.txt", check.TextOptions{}},
		{"text-narrow.txt", check.TextOptions{Width: 48}},
		{"text-colour.txt", check.TextOptions{Width: 120, Colour: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			var text bytes.Buffer
			g.Expect(example(t).WriteText(&text, test.options)).To(Succeed())
			g.Expect(text.String()).NotTo(ContainSubstring("hunter2"))
			golden.Compare(t, test.name, text.Bytes())
		})
	}
}

func TestWriteTextPassed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	report := check.Report{Checks: model(), Seconds: 32, Environments: []check.Environment{{Name: "dev"}, {Name: "prd"}}}
	report.Apply(check.Summarize(check.SummaryInput{Checks: model(), Plan: plan(nil), Outcomes: allPassed(), Now: now}))
	var text bytes.Buffer
	g.Expect(report.WriteText(&text, check.TextOptions{})).To(Succeed())
	golden.Compare(t, "text-passed.txt", text.Bytes())
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("pipe closed") }

func TestWriteFails(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(check.Report{}.WriteText(broken{}, check.TextOptions{})).To(MatchError(ContainSubstring("writing the summary: pipe closed")))
	file := filepath.Join(t.TempDir(), "file")
	g.Expect(os.WriteFile(file, nil, 0o600)).To(Succeed())
	g.Expect(check.Report{}.Write(file)).To(MatchError(ContainSubstring("creating the folder of the report")))
}
