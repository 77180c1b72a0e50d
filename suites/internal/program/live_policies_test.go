//go:build live && linux

package program_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/report"
)

// oddPolicies holds policies and tests with which something is wrong, each folder
// something else.
const oddPolicies = "testdata/policies"

// said is what becomes of one example.
type said struct {
	outcome   report.Outcome
	live      example.Verdict
	agreement report.Agreement
	// words are a fragment of what the server says, or of why it says nothing.
	words string
}

// oddVerdicts is what becomes of each example of the folder.
var oddVerdicts = map[string]said{
	"owner/kyverno-test.yaml#right results[0] ConfigMap owned":            {report.OK, example.Pass, report.Agree, ""},
	"owner/kyverno-test.yaml#right results[1] ConfigMap bare":             {report.OK, example.Fail, report.Agree, "say who owns it"},
	"owner/kyverno-test.yaml#wrong-expectation results[0] ConfigMap bare": {report.Wrong, example.Fail, report.Agree, "say who owns it"},
	"owner/kyverno-test.yaml#useless results[0] Service beside":           {report.Wrong, example.Skip, report.Agree, "the policy does not apply to it"},
	"rule/kyverno-test.yaml#rule results[0] Service bare":                 {report.OK, example.Fail, report.Agree, "say who owns it"},
	"broken/kyverno-test.yaml#broken results[0] ConfigMap bare":           {report.Unknown, example.Unknown, report.NotCompared, "<input>:1:44"},
	"broken-rule/kyverno-test.yaml#broken-rule results[0] ConfigMap bare": {report.Unknown, example.Unknown, report.NotCompared, "<input>:1:44"},
	"audits/kyverno-test.yaml#audits results[0] ConfigMap owned":          {report.OK, example.Pass, report.Agree, ""},
	"audits/kyverno-test.yaml#audits results[1] ConfigMap bare":           {report.OK, example.Fail, report.Agree, "say who owns it"},
	"refused/kyverno-test.yaml#refused results[0] Service no-such-port":   {report.Invalid, example.Invalid, report.InvalidLive, "spec.ports[0].port: Invalid value: 700000"},
	"kinds/kyverno-test.yaml#kinds results[0] Widget bare":                {report.OK, example.Fail, report.Agree, "say who owns it"},
	"kinds/kyverno-test.yaml#kinds results[1] Widget owned":               {report.OK, example.Pass, report.Agree, ""},
	"large/kyverno-test.yaml#large results[0] ConfigMap bare":             {report.OK, example.Fail, report.Agree, "say who owns it"},
	"large/kyverno-test.yaml#large results[1] ConfigMap large":            {report.Invalid, example.Invalid, report.InvalidLive, "too large"},

	"everything/kyverno-test.yaml#everything results[0] ConfigMap bare":              {report.OK, example.Fail, report.Agree, "nothing at all"},
	"everything/kyverno-test.yaml#everything results[1] ValidatingPolicy of-kyverno": {report.OK, example.Fail, report.Agree, "nothing at all"},
	"everything/kyverno-test.yaml#everything results[2] ConfigMap bare":              {report.OK, example.Fail, report.Agree, "nothing at all"},

	"exceptions/kyverno-test.yaml#exceptions results[0] ConfigMap old":     {report.OK, example.Skip, report.Agree, ""},
	"exceptions/kyverno-test.yaml#exceptions results[1] ConfigMap another": {report.OK, example.Fail, report.Agree, "say who owns it"},
	"exceptions/kyverno-test.yaml#exceptions results[2] ConfigMap owned":   {report.OK, example.Pass, report.Agree, ""},
	"exceptions/kyverno-test.yaml#exceptions results[3] ConfigMap old":     {report.OK, example.Skip, report.Agree, ""},
	"exceptions/kyverno-test.yaml#exceptions results[4] ConfigMap another": {report.OK, example.Fail, report.Agree, "say who owns it"},
	"exceptions/kyverno-test.yaml#exceptions results[5] ConfigMap owned":   {report.OK, example.Pass, report.Agree, ""},

	"mutating/kyverno-test.yaml#mutating results[0] Service one":              {report.OK, example.Pass, report.Agree, ""},
	"mutating/kyverno-test.yaml#mutating results[1] Service other":            {report.Wrong, example.Fail, report.Agree, "-    colour: red\n+    colour: blue\n"},
	"generating/kyverno-test.yaml#generating results[0] Namespace one-closed": {report.OK, example.Pass, report.Agree, ""},
	"generating/kyverno-test.yaml#generating results[1] Namespace other-closed": {
		report.Wrong, example.Fail, report.Agree, "-  - Egress\n+  - Ingress\n",
	},
	"context/kyverno-test.yaml#context results[0] ConfigMap bare": {report.NotSupported, example.NotSupported, report.NotSupportedLive, "its test brings a context"},
}

// Whatever is wrong with policies and tests is said of each alone, in the report, in
// JUnit and on the terminal; all others have their verdicts.
func TestLivePolicies(t *testing.T) {
	folder := t.TempDir()
	copyPolicies(t, filepath.Join(folder, "library"))
	large := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\ndata: {x: " + strings.Repeat("x", 3<<20) + "}\n"
	save(t, filepath.Join(folder, "library/large/large.yaml"), large)
	u := newUser(t).withStore(t)
	r := u.beside(t, folder, "policies", "library")
	written := r.tells(t, check.RunInvalidInput)
	u.leavesNothing(t)
	t.Logf("judged in %.1f s", written.Seconds)

	if want := filepath.Join(folder, "library"); written.Folder != want {
		t.Errorf("the report is about %s, want %s", written.Folder, want)
	}
	seen := map[string]bool{}
	for _, one := range written.Results {
		seen[one.ID] = true
		want, known := oddVerdicts[one.ID]
		if got := (said{one.Outcome, one.Live.Verdict, one.Agreement, want.words}); !known || got != want || !strings.Contains(one.Live.Words, want.words) {
			t.Errorf("%s is %s: live %s, offline %s, %s: %s\nwant %+v", one.ID, one.Outcome, one.Live, one.Offline, one.Agreement, one.Sent, want)
		}
	}
	for id := range oddVerdicts {
		if !seen[id] {
			t.Errorf("there is no result %s", id)
		}
	}
	for _, p := range written.Policies {
		if want := strings.HasPrefix(p.Name, "broken"); (p.Problem != "") != want || (p.EffectiveSeconds == nil) != want {
			t.Errorf("the problem of %s is %q, and it was in force after %v s", p, p.Problem, p.EffectiveSeconds)
		}
		if strings.HasPrefix(p.Name, "broken") && !strings.Contains(p.Problem, "<input>:1:44") {
			t.Errorf("the problem of %s names neither line nor column: %s", p, p.Problem)
		}
		if p.DenialProblem != "" {
			t.Errorf("%s does not refuse as it is written: %s", p, p.DenialProblem)
		}
		if strings.HasSuffix(p.Name, "everything") && !strings.Contains(p.Denial, "nothing at all") {
			t.Errorf("%s refuses in other words than its own: %q", p, p.Denial)
		}
		if p.Audits != (p.Name == "audits") || p.Unproven != (p.Name == "unproven") {
			t.Errorf("%s: audits %t, unproven %t", p, p.Audits, p.Unproven)
		}
	}
	if want := []report.Kind{{APIVersion: "example.com/v1", Kind: "Widget"}}; !slices.Equal(written.Kinds, want) {
		t.Errorf("kinds were made for %v, want %v", written.Kinds, want)
	}
	findings := map[string]string{
		"owner/kyverno-test.yaml:44": `no resource file of this test holds "bear"; did you mean bare?`,
		"rule/kyverno-test.yaml:11":  `ClusterPolicy legacy-owner has no rule "ownr"; did you mean owner?`,
	}
	for _, f := range written.Findings {
		want, known := findings[f.String()]
		if !known || !strings.Contains(f.Text, want) {
			t.Errorf("unexpected finding %s: %s", f, f.Text)
		}
		delete(findings, f.String())
	}
	if len(findings) > 0 {
		t.Errorf("nothing is found at %v", findings)
	}
	terminal := strings.Join(strings.Fields(r.text(t)), " ")
	for _, part := range []string{
		"note: 2 files or entries are wrong, which fails the run; everything else is judged",
		"WRONG needs-owner expected pass, live fail, offline fail",
		"WRONG needs-owner expected pass, live skip",
		"UNKNOWN broken expected fail, live UNKNOWN", "UNKNOWN broken-rule.nowhere expected fail, live UNKNOWN",
		"POLICY ValidatingPolicy broken", "POLICY ClusterPolicy broken-rule", "<input>:1:44",
		"INVALID service-owner", "INVALID large",
		"audits as written it refuses nothing; judged as if it did (audits)",
		"unproven no example asks it anything (ValidatingPolicy unproven)",
		"Widget (example.com/v1)",
		"not supported its test brings a context",
		"- colour: red + colour: blue",
		"invalid-input: 16 policies, 28 examples:",
	} {
		if !strings.Contains(terminal, part) {
			t.Errorf("the terminal does not say %q", part)
		}
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", r.text(t))
	}
}

// beside begins a run of a command in a working folder, where its artifacts land too.
func (u *user) beside(t *testing.T, folder string, args ...string) *run {
	t.Helper()
	r := &run{user: u, command: exec.Command(binary, append(args, "--artifacts", "artifacts")...), artifacts: filepath.Join(folder, "artifacts")}
	r.command.Dir = folder
	r.start(t)
	return r
}

func copyPolicies(t *testing.T, dir string, names ...string) {
	t.Helper()
	if len(names) == 0 {
		names = list(t, oddPolicies)
	}
	for _, name := range names {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(oddPolicies, name))); err != nil {
			t.Fatal(err)
		}
	}
}

// save writes a file in one step, as editors do.
func save(t *testing.T, name, content string) {
	t.Helper()
	if err := check.WriteFile(name, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

// tells waits for the end of a run that judges policies. Exit code, policies.json and
// JUnit must say the same, and the first be of its schema.
func (r *run) tells(t *testing.T, want check.RunResult) report.Report {
	t.Helper()
	code := r.wait(t)
	content, err := os.ReadFile(filepath.Join(r.artifacts, report.File))
	if err != nil {
		t.Fatalf("%v; the run printed:\n%s", err, r.text(t))
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
	if err == nil {
		err = policySchema(t).Validate(document)
	}
	if err != nil {
		t.Errorf("%s is not of its schema: %v", report.File, err)
	}
	var written report.Report
	if err := json.Unmarshal(content, &written); err != nil {
		t.Fatalf("read %s: %v", report.File, err)
	}
	if code != want.ExitCode() || written.Result != want || written.ExitCode != code {
		t.Fatalf("the run ended with exit code %d, %s says %q (exit code %d); want %q (%d). It printed:\n%s",
			code, report.File, written.Result, written.ExitCode, want, want.ExitCode(), r.text(t))
	}
	r.junit(t, written)
	return written
}

func policySchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(report.Schema))
	if err == nil {
		err = compiler.AddResource("schema.json", schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// junit fails the test unless JUnit has a case for each result, policy that was not
// judged and finding, and says of each what the report says.
func (r *run) junit(t *testing.T, written report.Report) {
	t.Helper()
	type message struct {
		Type string `xml:"type,attr"`
		Text string `xml:",chardata"`
	}
	var file struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Cases    []struct {
			Class   string   `xml:"classname,attr"`
			Name    string   `xml:"name,attr"`
			Failure *message `xml:"failure"`
			Error   *message `xml:"error"`
			Skipped *message `xml:"skipped"`
		} `xml:"testsuite>testcase"`
	}
	content, err := os.ReadFile(filepath.Join(r.artifacts, report.JUnitFile))
	if err == nil {
		err = xml.Unmarshal(content, &file)
	}
	if err != nil {
		t.Fatalf("read JUnit: %v", err)
	}
	want := map[string]int{}
	for _, one := range written.Results {
		kind := "passed"
		switch {
		case one.Outcome == report.Unknown:
			kind = "error UNKNOWN"
		case one.Outcome == report.NotSupported:
			kind = "skipped NOT_SUPPORTED"
		case one.Outcome == report.Wrong || one.Outcome == report.Invalid:
			kind = "failure " + string(one.Outcome)
		case one.Agreement == report.Differs:
			kind = "failure DIFFERS"
		}
		want[one.Policy+": "+one.ID+": "+kind]++
	}
	for _, p := range written.Policies {
		if p.Problem != "" {
			want[p.Name+": is judged: error UNKNOWN"]++
		}
	}
	for _, f := range written.Findings {
		want["files: "+f.String()+": error "+string(check.RunInvalidInput)]++
	}
	counts := map[string]int{}
	for _, c := range file.Cases {
		kind := "passed"
		for name, m := range map[string]*message{"failure": c.Failure, "error": c.Error, "skipped": c.Skipped} {
			if m != nil {
				kind = name + " " + m.Type
				counts[name]++
			}
		}
		want[c.Class+": "+c.Name+": "+kind]--
	}
	for entry, count := range want {
		if count != 0 {
			t.Errorf("JUnit and %s differ by %d of %s", report.File, count, entry)
		}
	}
	if got, counted := fmt.Sprint(file.Tests, file.Failures, file.Errors, file.Skipped), fmt.Sprint(len(file.Cases), counts["failure"], counts["error"], counts["skipped"]); got != counted {
		t.Errorf("JUnit counts %s tests, failures, errors and skipped, and there are %s", got, counted)
	}
}
