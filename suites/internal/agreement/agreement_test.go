package agreement_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/your-org/flux-platform-conformance/suites/internal/agreement"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/golden"
)

// run is a report of a provider; embedded lacks Workloads, and so has webhooks that
// nothing answers.
func run(provider string, outcomes ...check.Outcome) agreement.Run {
	r := check.Report{
		Provider: provider, Result: check.RunPassed, Started: time.Date(2026, 5, 4, 8, 0, 0, 0, time.UTC), Seconds: 60,
		Checks: []check.Check{
			{ID: "BOOT-001", Title: "Flux runs at the version that the platform declares"},
			{ID: "TEN-001", Title: "a tenant's objects are as declared"},
			{ID: "TEN-002", Title: "a tenant's pods are available"},
		},
		Outcomes: outcomes,
	}
	for _, environment := range []string{"dev", "prd"} {
		r.Capabilities = append(r.Capabilities, check.Capability{Environment: environment, Name: "Workloads", Has: provider == "kind"})
	}
	r.Capabilities = append(r.Capabilities, check.Capability{Environment: "prd", Name: "Ingress"}, check.Capability{Environment: "dev", Name: "Ingress", Has: true})
	if provider == "embedded" {
		r.SimulatedBackends = []check.SimulatedBackend{{Environment: "dev", Kind: "ValidatingWebhookConfiguration", Name: "other"}}
	}
	return agreement.Run{File: provider + "/report.json", Report: r}
}

func outcome(id, environment, tenant string, result check.Result) check.Outcome {
	o := check.Outcome{Check: id, Environment: environment, Tenant: tenant, Result: result, Seconds: 0.5}
	switch result {
	case check.Failed, check.Waived:
		o.Expected, o.Found = "what is declared", "something else"
	case check.NotSupported:
		o.Reason = "Workloads: pods are simulated"
	case check.Skipped:
		o.Reason = "CHECKS leaves it out"
	case check.Passed:
	}
	return o
}

// beetle is the outcome that most tests are about.
func beetle(result check.Result) check.Outcome { return outcome("TEN-001", "dev", "beetle", result) }

// other is an outcome on which both agree, so that something is compared.
func other(id string) check.Outcome { return outcome(id, "dev", "", check.Passed) }

func entry(id, environment, tenant string, embedded, kind check.Result) agreement.Explanation {
	return agreement.Explanation{
		Check: id, Environment: environment, Tenant: tenant, Cause: "kind is slower", Where: "agreement.yaml:4",
		Results: map[string]check.Result{"embedded": embedded, "kind": kind},
	}
}

func compare(t testing.TB, first, second agreement.Run, list ...agreement.Explanation) agreement.Comparison {
	t.Helper()
	c, err := agreement.Compare(first, second, list)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	because := func(reason string) check.Outcome {
		o := beetle(check.NotSupported)
		o.Reason = reason
		return o
	}
	inProduction := func(reason string) check.Outcome {
		o := because(reason)
		o.Environment = "prd"
		return o
	}
	for _, test := range []struct {
		name           string
		embedded, kind check.Outcome
		want           agreement.Verdict
		result         check.RunResult
	}{
		{"both pass", beetle(check.Passed), beetle(check.Passed), agreement.Agree, check.RunPassed},
		{"both fail", beetle(check.Failed), beetle(check.Failed), agreement.Agree, check.RunPassed},
		{"a failure is waived on one side", beetle(check.Failed), beetle(check.Waived), agreement.Agree, check.RunPassed},
		{"one fails", beetle(check.Passed), beetle(check.Failed), agreement.Unexplained, check.RunFailed},
		{"the other fails", beetle(check.Failed), beetle(check.Passed), agreement.Unexplained, check.RunFailed},
		{"a waived failure against a pass", beetle(check.Waived), beetle(check.Passed), agreement.Unexplained, check.RunFailed},
		{"a capability is lacking", beetle(check.NotSupported), beetle(check.Passed), agreement.OneSided, check.RunPassed},
		{"a capability is lacking, and the other fails", beetle(check.NotSupported), beetle(check.Failed), agreement.OneSided, check.RunPassed},
		{"neither has the capability", beetle(check.NotSupported), because("NetworkPolicy: not enforced"), agreement.Neither, check.RunPassed},
		{"a webhook has no program behind it", because("the webhook x of ValidatingWebhookConfiguration other is answered by simulated pods only (a)"), beetle(check.Passed), agreement.OneSided, check.RunPassed},
		{"another webhook", because("the webhook x of ValidatingWebhookConfiguration others is answered by simulated pods only (a)"), beetle(check.Passed), agreement.Unexplained, check.RunFailed},
		{"not supported for another reason", because("the platform declares no Service for this tenant"), beetle(check.Passed), agreement.Unexplained, check.RunFailed},
		{"not supported for a capability that the cluster has", beetle(check.Passed), because("Workloads: no"), agreement.Unexplained, check.RunFailed},
		{"not supported for a capability that another environment lacks", because("Ingress: nothing answers"), beetle(check.Passed), agreement.Unexplained, check.RunFailed},
		{"a webhook of another environment", inProduction("the webhook x of ValidatingWebhookConfiguration other is answered by simulated pods only (a)"), outcome("TEN-001", "prd", "beetle", check.Passed), agreement.Unexplained, check.RunFailed},
		{"left out", beetle(check.Skipped), beetle(check.Skipped), agreement.LeftOut, check.RunPassed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			c := compare(t, run("embedded", other("BOOT-001"), test.embedded), run("kind", other("BOOT-001"), test.kind))
			g.Expect(c.Outcomes).To(HaveLen(2))
			g.Expect(c.Outcomes[1].Verdict).To(Equal(test.want))
			g.Expect(c.Result).To(Equal(test.result))
			g.Expect(c.Problems).To(BeEmpty())
		})
	}
}

// The sides' own results decide nothing: failed checks are said, and counted.
func TestFailuresAreSaid(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	first, second := run("embedded", beetle(check.Failed)), run("kind", beetle(check.Failed))
	first.Report.Result, second.Report.Result = check.RunFailed, check.RunFailed
	c := compare(t, first, second)
	g.Expect(c.Result).To(Equal(check.RunPassed))
	g.Expect(c.Counts).To(Equal(agreement.Counts{Agree: 1, Failing: 1}))
	var text bytes.Buffer
	g.Expect(c.WriteText(&text)).To(Succeed())
	g.Expect(text.String()).To(ContainSubstring("FAILED, and no disagreement (1):\n  TEN-001 (dev, tenant beetle): FAILED on embedded: something else\n"))
	g.Expect(text.String()).To(HaveSuffix("; 1 failed on a side or both\n"))
}

func TestExplanations(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		list        []agreement.Explanation
		unexplained int
		problems    []string
	}{
		{"explained", []agreement.Explanation{entry("TEN-001", "dev", "beetle", check.Passed, check.Failed)}, 0, nil},
		{"explained, for any tenant", []agreement.Explanation{entry("TEN-001", "dev", "", check.Passed, check.Failed)}, 0, nil},
		{"explained, everywhere", []agreement.Explanation{entry("TEN-001", "", "", check.Passed, check.Failed)}, 0, nil},
		{"explained, for the tenant in any environment", []agreement.Explanation{entry("TEN-001", "", "beetle", check.Passed, check.Failed)}, 0, nil},
		{"nothing explains it", nil, 1, nil},
		{
			"another tenant",
			[]agreement.Explanation{entry("TEN-001", "dev", "sonar", check.Passed, check.Failed)},
			1,
			[]string{"agreement.yaml:4: the entry for TEN-001 in dev for tenant sonar explains no disagreement: remove it, or correct its results (dev, tenant sonar: PASSED and PASSED)"},
		},
		{
			"another environment",
			[]agreement.Explanation{entry("TEN-001", "prd", "", check.Passed, check.Failed)},
			1,
			[]string{"agreement.yaml:4: the entry for TEN-001 in prd was not looked at"},
		},
		{
			"another check",
			[]agreement.Explanation{entry("BOOT-001", "", "", check.Passed, check.Failed)},
			1,
			[]string{"agreement.yaml:4: the entry for BOOT-001 explains no disagreement: remove it, or correct its results (dev: PASSED and PASSED)"},
		},
		{
			"the other way round",
			[]agreement.Explanation{entry("TEN-001", "dev", "beetle", check.Failed, check.Passed)},
			1,
			[]string{"agreement.yaml:4: the entry for TEN-001 in dev for tenant beetle explains no disagreement: remove it, or correct its results (dev, tenant beetle: PASSED and FAILED)"},
		},
		{
			"nothing there",
			[]agreement.Explanation{entry("TEN-001", "test", "", check.Passed, check.Failed)},
			1,
			[]string{"agreement.yaml:4: the entry for TEN-001 in test is about nothing that these runs have: correct its check, environment or tenant, or remove it"},
		},
		{
			"two for one", []agreement.Explanation{
				entry("TEN-001", "dev", "beetle", check.Passed, check.Failed), entry("TEN-001", "", "", check.Passed, check.Failed),
			}, 0, []string{"agreement.yaml:4, agreement.yaml:4 all explain TEN-001 (dev, tenant beetle): leave one"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			same := []check.Outcome{
				other("BOOT-001"), outcome("TEN-001", "dev", "sonar", check.Passed), outcome("TEN-001", "prd", "beetle", check.Skipped),
			}
			c := compare(t, run("embedded", append(same, beetle(check.Passed))...), run("kind", append(same, beetle(check.Failed))...), test.list...)
			g.Expect(c.Counts.Unexplained).To(Equal(test.unexplained))
			g.Expect(c.Counts.Explained).To(Equal(1 - test.unexplained))
			said := append(c.Problems, c.Notes...)
			g.Expect(said).To(HaveLen(len(test.problems)))
			for i, problem := range test.problems {
				g.Expect(said[i]).To(HavePrefix(problem))
			}
			if test.unexplained == 0 && len(test.problems) == 0 {
				g.Expect(c.Result).To(Equal(check.RunPassed))
				g.Expect(c.Outcomes[3].Cause).To(Equal("kind is slower"))
				g.Expect(c.Outcomes[3].Entry).To(Equal("agreement.yaml:4"))
			} else {
				g.Expect(c.Result).To(Equal(check.RunFailed))
			}
		})
	}
}

// An entry that explains nothing fails the run even where nothing disagrees; one
// about what was left out does not.
func TestUnusedEntry(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	list := entry("TEN-001", "", "", check.Passed, check.Failed)
	c := compare(t, run("embedded", beetle(check.Passed)), run("kind", beetle(check.Passed)), list)
	g.Expect(c.Result).To(Equal(check.RunFailed))
	g.Expect(c.Problems).To(ConsistOf(ContainSubstring("explains no disagreement: remove it")))

	c = compare(t, run("embedded", other("BOOT-001"), beetle(check.Skipped)), run("kind", other("BOOT-001"), beetle(check.Skipped)), list)
	g.Expect(c.Result).To(Equal(check.RunPassed))
	g.Expect(c.Notes).To(ConsistOf("agreement.yaml:4: the entry for TEN-001 was not looked at: the selection left its check out"))

	// What one side cannot judge is no disagreement, so that an entry for it goes unused.
	c = compare(t, run("embedded", other("BOOT-001"), beetle(check.NotSupported)), run("kind", other("BOOT-001"), beetle(check.Passed)),
		entry("TEN-001", "", "", check.NotSupported, check.Passed))
	g.Expect(c.Result).To(Equal(check.RunFailed))
}

// A waived failure is one, to an entry as well.
func TestExplainedWaiver(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := compare(t, run("embedded", beetle(check.Passed)), run("kind", beetle(check.Waived)), entry("TEN-001", "", "", check.Passed, check.Failed))
	g.Expect(c.Result).To(Equal(check.RunPassed))
	g.Expect(c.Counts).To(Equal(agreement.Counts{Explained: 1, Failing: 1}))
}

func TestNothingIsCompared(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := compare(t, run("embedded", beetle(check.NotSupported)), run("kind", beetle(check.Passed)))
	g.Expect(c.Result).To(Equal(check.RunBroken))
	g.Expect(c.Problems).To(ConsistOf("nothing was judged on both sides: there is nothing that they could agree on"))
}

func TestRunsThatCannotBeCompared(t *testing.T) {
	t.Parallel()
	changed := func(r agreement.Run, change func(*check.Report)) agreement.Run {
		change(&r.Report)
		return r
	}
	embedded, kind := run("embedded", beetle(check.Passed)), run("kind", beetle(check.Passed))
	for _, test := range []struct {
		name          string
		first, second agreement.Run
		broken        bool
		want          string
	}{
		{"one provider", embedded, embedded, false, "both runs are of provider embedded (embedded/report.json, embedded/report.json): compare two kinds of clusters"},
		{"a broken run", embedded, changed(kind, func(r *check.Report) {
			r.Result, r.Problems = check.RunBroken, []string{"docker does not answer"}
		}), true, "kind: the run could not be carried out: docker does not answer"},
		{"wrong input", changed(embedded, func(r *check.Report) {
			r.Result, r.Problems = check.RunInvalidInput, []string{"no such folder"}
		}), kind, false, "the run on embedded had wrong input: no such folder"},
		{"two revisions", changed(embedded, func(r *check.Report) { r.Platform.Revision = "abc" }), kind, false, `two revisions of the platform, "abc" and ""`},
		{
			"a tenant is missing", run("embedded", beetle(check.Passed), outcome("TEN-001", "dev", "sonar", check.Passed)), kind, false,
			"kind has no outcome of what embedded has one of: TEN-001 (dev, tenant sonar); compare runs of one program on one platform",
		},
		{
			"a check is missing on the other side", embedded, run("kind", beetle(check.Passed), other("BOOT-001")), false,
			"embedded has no outcome of what kind has one of: BOOT-001 (dev); ",
		},
		{
			"another selection", embedded, run("kind", beetle(check.Skipped)), false,
			"the selection of the run on kind left out what that on embedded did not: TEN-001 (dev, tenant beetle); ",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			_, err := agreement.Compare(test.first, test.second, nil)
			g.Expect(err).To(MatchError(ContainSubstring(test.want)))
			g.Expect(errors.Is(err, agreement.ErrBroken)).To(Equal(test.broken))
			c := agreement.Fail(err).Normalised()
			g.Expect(c.ExitCode).To(Equal(map[bool]int{true: 3, false: 2}[test.broken]))
			g.Expect(c.Problems).To(ConsistOf(ContainSubstring(test.want)))
		})
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	first, second := run("embedded", beetle(check.Passed)), run("kind", beetle(check.Passed))
	first.Report.Phases = []check.Phase{
		{Name: "cluster", Environment: "dev", Seconds: 3},
		{Name: "cluster", Environment: "dev", Seconds: 1},
		{Name: "cluster", Environment: "prd", Seconds: 2},
		{Name: "sources", Seconds: 0},
	}
	second.Report.Phases = []check.Phase{
		{Name: "nodes", Seconds: 9}, {Name: "cluster", Environment: "dev", Seconds: 20}, {Name: "sources", Seconds: 1},
	}
	number := func(n float64) *float64 { return &n }
	g.Expect(compare(t, first, second).Phases).To(Equal([]agreement.Phase{
		{Name: "cluster", Environment: "dev", Seconds: []*float64{number(4), number(20)}, Ratio: number(5)},
		{Name: "cluster", Environment: "prd", Seconds: []*float64{number(2), nil}},
		{Name: "sources", Seconds: []*float64{number(0), number(1)}},
		{Name: "nodes", Seconds: []*float64{nil, number(9)}},
	}))
}

// example has every verdict.
func example(t testing.TB) agreement.Comparison {
	t.Helper()
	noisy := beetle(check.Failed)
	noisy.Found = "\x1b[31mnothing\x00 answers\n  at 10.0.0.1"
	rolled := outcome("TEN-001", "prd", "beetle", check.Failed)
	undeclared := outcome("TEN-002", "prd", "sonar", check.NotSupported)
	undeclared.Reason = "Workloads: no node"
	outcomes := func(mine ...check.Outcome) []check.Outcome {
		return append([]check.Outcome{other("BOOT-001"), outcome("BOOT-001", "prd", "", check.Failed)}, mine...)
	}
	first := run("embedded", outcomes(
		beetle(check.Passed), outcome("TEN-001", "dev", "sonar", check.Passed),
		outcome("TEN-001", "prd", "beetle", check.Passed), outcome("TEN-001", "prd", "sonar", check.Skipped),
		outcome("TEN-002", "dev", "beetle", check.NotSupported), outcome("TEN-002", "dev", "sonar", check.NotSupported),
		outcome("TEN-002", "prd", "beetle", check.NotSupported), outcome("TEN-002", "prd", "sonar", check.NotSupported),
	)...)
	second := run("kind", outcomes(
		noisy, outcome("TEN-001", "dev", "sonar", check.Passed), rolled, outcome("TEN-001", "prd", "sonar", check.Skipped),
		outcome("TEN-002", "dev", "beetle", check.Passed), outcome("TEN-002", "dev", "sonar", check.Passed),
		outcome("TEN-002", "prd", "beetle", check.Failed), undeclared,
	)...)
	first.Report.Result, second.Report.Result = check.RunFailed, check.RunFailed
	first.Report.Phases = []check.Phase{
		{Name: "sources", Seconds: 0.3}, {Name: "cluster", Environment: "dev", Seconds: 4.1}, {Name: "checks", Seconds: 20},
	}
	second.Report.Phases = []check.Phase{
		{Name: "nodes", Seconds: 1}, {Name: "sources", Seconds: 0.3}, {Name: "cluster", Environment: "dev", Seconds: 20.5}, {Name: "checks", Seconds: 30},
	}
	second.Report.Seconds = 150
	unused := entry("BOOT-001", "", "", check.Passed, check.Failed)
	unused.Where = "agreement.yaml:9"
	return compare(t, first, second, entry("TEN-001", "prd", "", check.Passed, check.Failed), unused)
}

func TestWriteText(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var text bytes.Buffer
	g.Expect(example(t).WriteText(&text)).To(Succeed())
	golden.Compare(t, "text.txt", text.Bytes())
	g.Expect(text.String()).To(HavePrefix("embedded and kind: 1 unexplained and 1 explained disagreements; "), "the count heads it")

	text.Reset()
	g.Expect(agreement.Fail(errors.New("no such report")).WriteText(&text)).To(Succeed())
	g.Expect(text.String()).To(Equal("INVALID-INPUT no such report\ninvalid-input: nothing was compared\n"))
	g.Expect(example(t).WriteText(closed{})).To(MatchError("writing the comparison: pipe closed"))
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, errors.New("pipe closed") }

func TestJUnit(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	content, err := example(t).JUnit()
	g.Expect(err).NotTo(HaveOccurred())
	golden.Compare(t, "junit.xml", content)
	for decoder := xml.NewDecoder(bytes.NewReader(content)); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Expect(string(content)).To(ContainSubstring(`failures="1" errors="1" skipped="5"`))
}

// What is written is what the schema describes, and nothing else.
func TestSchema(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(agreement.Schema))
	g.Expect(err).NotTo(HaveOccurred())
	closeObjects(schema)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	g.Expect(compiler.AddResource("schema.json", schema)).To(Succeed())
	compiled, err := compiler.Compile("schema.json")
	g.Expect(err).NotTo(HaveOccurred())
	validate := func(c agreement.Comparison) error {
		content, err := json.Marshal(c)
		g.Expect(err).NotTo(HaveOccurred())
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		g.Expect(err).NotTo(HaveOccurred())
		return compiled.Validate(document)
	}
	g.Expect(validate(example(t).Normalised())).To(Succeed())
	g.Expect(validate(agreement.Fail(errors.New("no such report")).Normalised())).To(Succeed())
	g.Expect(validate(example(t))).To(MatchError(ContainSubstring("schemaVersion")))
	unknown := example(t).Normalised()
	unknown.Outcomes[0].Verdict = "MAYBE"
	g.Expect(validate(unknown)).To(MatchError(ContainSubstring("verdict")))
	uncaused := example(t).Normalised()
	for i := range uncaused.Outcomes {
		uncaused.Outcomes[i].Cause = ""
	}
	g.Expect(validate(uncaused)).To(MatchError(ContainSubstring("cause")))
}

// closeObjects makes a schema refuse fields that it does not name.
func closeObjects(node any) {
	switch node := node.(type) {
	case map[string]any:
		if node["additionalProperties"] == true {
			node["additionalProperties"] = false
		}
		for _, value := range node {
			closeObjects(value)
		}
	case []any:
		for _, value := range node {
			closeObjects(value)
		}
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	registry := &check.Registry{}
	for _, id := range []string{"TEN-001", "TEN-002", "BOOT-001"} {
		if err := registry.Add(check.Check{
			ID: id, Title: "it holds", Why: "it must", Remedy: "mend it", Reference: "https://fluxcd.io", Level: check.Core, Scope: check.ScopeTenant,
		}); err != nil {
			t.Fatal(err)
		}
	}
	const head = "apiVersion: conformance.flux-platform/v1alpha1\nkind: Agreement\n"
	parse := func(content string) ([]agreement.Explanation, error) {
		return agreement.ParseList("list.yaml", []byte(content), registry, []string{"embedded", "kind"})
	}
	g := NewWithT(t)
	g.Expect(parse(head)).To(BeEmpty())
	g.Expect(parse(head + "explained: []\n")).To(BeEmpty())
	g.Expect(parse(head + `explained:
- check: TEN-001
  results: {embedded: PASSED, kind: FAILED}
  cause: kind is slower
- {check: TEN-002, environment: dev, tenant: beetle, results: {kind: PASSED, embedded: NOT_SUPPORTED}, cause: another}
`)).To(Equal([]agreement.Explanation{
		{Check: "TEN-001", Results: map[string]check.Result{"embedded": check.Passed, "kind": check.Failed}, Cause: "kind is slower", Where: "list.yaml:4"},
		{
			Check: "TEN-002", Environment: "dev", Tenant: "beetle", Cause: "another", Where: "list.yaml:7",
			Results: map[string]check.Result{"embedded": check.NotSupported, "kind": check.Passed},
		},
	}))
	const good = "- {check: TEN-001, results: {embedded: PASSED, kind: FAILED}, cause: kind is slower}\n"
	for _, test := range []struct{ name, content, want string }{
		{"empty", "", "it begins with «apiVersion: "},
		{"another version", strings.Replace(head, "v1alpha1", "v9", 1), "it begins with «apiVersion: "},
		{"another kind", strings.Replace(head, "Agreement", "Config", 1), "it begins with «apiVersion: "},
		{"no YAML", head + "explained: [", "read the list of explanations list.yaml: yaml: line 3: "},
		{"an unknown key", head + "explained:\n- {check: TEN-001, because: x}\n", "field because not found"},
		{"a second document", head + "---\n" + head, "it is one YAML document, and there is more"},
		{"an unknown check", head + "explained:\n" + strings.Replace(good, "TEN-001", "TEN-010", 1), `list.yaml:4: there is no check "TEN-010"; did you mean TEN-001`},
		{"an area", head + "explained:\n" + strings.Replace(good, "TEN-001", "TEN", 1), `list.yaml:4: there is no check "TEN"`},
		{"no check", head + "explained:\n" + strings.Replace(good, "check: TEN-001, ", "", 1), `list.yaml:4: there is no check ""`},
		{"no cause", head + "explained:\n" + strings.Replace(good, "kind is slower", `" "`, 1), "list.yaml:4: cause is empty; say why the two disagree"},
		{"another provider", head + "explained:\n" + strings.Replace(good, "embedded", "existing", 1), `list.yaml:4: results names "existing", which is none of the providers that are compared: embedded, kind`},
		{"one result", head + "explained:\n" + strings.Replace(good, ", kind: FAILED", "", 1), "list.yaml:4: results does not say what is expected on kind"},
		{"no such result", head + "explained:\n" + strings.Replace(good, "FAILED", "BROKEN", 1), `list.yaml:4: results: kind: "BROKEN" is none of [PASSED FAILED NOT_SUPPORTED]`},
		{"the same result", head + "explained:\n" + strings.Replace(good, "FAILED", "PASSED", 1), "list.yaml:4: results are the same on both sides: that is no disagreement"},
		{"two mistakes", head + "explained:\n- {check: NO-001}\n" + strings.Replace(good, "kind is slower", `""`, 1), "list.yaml:5: cause is empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(test.content)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
}
