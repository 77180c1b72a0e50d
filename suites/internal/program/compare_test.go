package program

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/agreement"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// reportOf writes the report of a run on a provider, with one outcome, and returns
// its file.
func reportOf(t *testing.T, provider string, result check.Result, change ...func(*check.Report)) string {
	t.Helper()
	o := check.Outcome{Check: "TEN-001", Environment: "dev", Tenant: "beetle", Result: result}
	if result == check.Failed {
		o.Expected, o.Found = "what is declared", "something else"
	}
	r := check.Report{Provider: provider, Result: check.RunPassed, Started: time.Now(), Seconds: 1, Outcomes: []check.Outcome{o}}
	for _, c := range change {
		c(&r)
	}
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, check.ReportFile)
}

func readComparison(t *testing.T, dir string) agreement.Comparison {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, compareFile))
	if err != nil {
		t.Fatal(err)
	}
	var c agreement.Comparison
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCompareReports(t *testing.T) {
	explained := func(t *testing.T, entry string) string {
		t.Helper()
		dir := t.TempDir()
		write("list.yaml", "apiVersion: conformance.flux-platform/v1alpha1\nkind: Agreement\nexplained:\n"+entry)(t, dir)
		return filepath.Join(dir, "list.yaml")
	}
	const entry = "- {check: TEN-001, results: {embedded: PASSED, kind: FAILED}, cause: kind is slower}\n"
	broken := func(r *check.Report) { r.Result, r.Problems = check.RunBroken, []string{"docker does not answer"} }
	for _, test := range []struct {
		name string
		args func(t *testing.T) []string
		code int
		want string
	}{
		{"agreement", func(t *testing.T) []string {
			return []string{"--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Passed)}
		}, 0, "embedded and kind: 0 unexplained and 0 explained disagreements; 1 agree"},
		{"agreement on a failure", func(t *testing.T) []string {
			return []string{"--reports", reportOf(t, "embedded", check.Failed) + "," + reportOf(t, "kind", check.Failed)}
		}, 0, "TEN-001 (dev, tenant beetle): FAILED on embedded: something else FAILED on kind"},
		{"disagreement with the reports in the other order", func(t *testing.T) []string {
			return []string{"--reports", reportOf(t, "kind", check.Failed) + "," + reportOf(t, "embedded", check.Passed)}
		}, 1, "embedded and kind: 1 unexplained and 0 explained disagreements; 0 agree"},
		{"an explained disagreement", func(t *testing.T) []string {
			return []string{"--explained", explained(t, entry), "--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Failed)}
		}, 0, "embedded and kind: 0 unexplained and 1 explained disagreements"},
		{"an unused entry", func(t *testing.T) []string {
			return []string{"--explained", explained(t, entry), "--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Passed)}
		}, 1, "list.yaml:4: the entry for TEN-001 explains no disagreement"},
		{"two entries", func(t *testing.T) []string {
			return []string{"--explained", explained(t, entry+entry), "--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Failed)}
		}, 1, "all explain TEN-001 (dev, tenant beetle): leave one"},
		{"an unknown check", func(t *testing.T) []string {
			return []string{
				"--explained", explained(t, "- {check: TEN-999, results: {embedded: PASSED, kind: FAILED}, cause: x}\n"),
				"--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Failed),
			}
		}, 2, `list.yaml:4: there is no check "TEN-999"`},
		{"no list there", func(t *testing.T) []string {
			return []string{"--explained", "/there/is/none", "--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Failed)}
		}, 2, "read the list of explanations: open /there/is/none"},
		{"a run that was not carried out", func(t *testing.T) []string {
			return []string{"--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Passed, broken)}
		}, 3, "BROKEN kind: the run could not be carried out: docker does not answer"},
		{"one report", func(t *testing.T) []string {
			return []string{"--reports", reportOf(t, "embedded", check.Passed)}
		}, 2, "--reports takes two reports, by a comma: one of a run on embedded, one of a run on kind; 1 are given"},
		{"no report there", func(t *testing.T) []string {
			return []string{"--reports", "/there/is/none," + reportOf(t, "kind", check.Passed)}
		}, 2, "read the report of a run: open /there/is/none"},
		{"a file that is no report", func(t *testing.T) []string {
			dir := t.TempDir()
			write("report.json", `{"schemaVersion": "1", "outcomes": []}`)(t, dir)
			return []string{"--reports", filepath.Join(dir, "report.json") + "," + reportOf(t, "kind", check.Passed)}
		}, 2, "is none, or one of another version of this program"},
		{"a file that is no JSON", func(t *testing.T) []string {
			return []string{"--reports", explained(t, entry) + "," + reportOf(t, "kind", check.Passed)}
		}, 2, "list.yaml is not JSON"},
		{"of another provider", func(t *testing.T) []string {
			return []string{"--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "existing", check.Passed)}
		}, 2, `is of a run on "existing"; runs on embedded and on kind are compared`},
		{"reports and a selection", func(t *testing.T) []string {
			return []string{"--checks", "TEN", "--reports", reportOf(t, "embedded", check.Passed) + "," + reportOf(t, "kind", check.Passed)}
		}, 2, "--checks is for new runs, and --reports compares two that have been made"},
		{"a provider", func(*testing.T) []string { return []string{"--provider", "kind"} }, 2, "PROVIDER is not for compare, which judges on embedded and on kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			artifacts := t.TempDir()
			write(compareFile, "{}")(t, artifacts)
			i := newInvocation(t, append([]string{"compare", "--artifacts", artifacts}, test.args(t)...)...)
			g.Expect(i.run(t.Context())).To(Equal(test.code), i.terminal())
			g.Expect(i.terminal()).To(ContainSubstring(test.want))
			g.Expect(readComparison(t, artifacts).ExitCode).To(Equal(test.code), "what an earlier comparison left is gone")
			g.Expect(filepath.Join(artifacts, compareJUnitFile)).To(BeAnExistingFile())
			g.Expect(i.left(t)).To(BeEmpty(), "no session was begun")
		})
	}
}

// The list is of the reference platform: another has none unless it is given.
func TestExplanationsOfWhichPlatform(t *testing.T) {
	g := NewWithT(t)
	const head = "apiVersion: conformance.flux-platform/v1alpha1\nkind: Agreement\nexplained:\n"
	const entry = "- {check: TEN-001, results: {embedded: PASSED, kind: FAILED}, cause: x}\n"
	i := newInvocation(t)
	_, err := i.explanations(&comparison{})
	g.Expect(err).NotTo(HaveOccurred(), "the list that the program ships can be read")
	i.assets = fstest.MapFS{explanationsFile: {Data: []byte(head + entry + entry)}}
	dir := t.TempDir()
	write("own.yaml", "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nplatform: .\n")(t, dir)
	write("same.yaml", "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\n")(t, dir)
	write("list.yaml", head+entry)(t, dir)
	for _, test := range []struct {
		platform, config, list string
		want                   int
	}{
		{"", "", "", 2},
		{"", "same.yaml", "", 2},
		{dir, "", "", 0},
		{"", "own.yaml", "", 0},
		{dir, "", "list.yaml", 1},
	} {
		in := &comparison{}
		in.Platform = test.platform
		if test.config != "" {
			in.Config = filepath.Join(dir, test.config)
		}
		if test.list != "" {
			in.explained = filepath.Join(dir, test.list)
		}
		g.Expect(i.explanations(in)).To(HaveLen(test.want), "%+v", test)
	}
}

// A run that cannot be carried out ends the comparison, and the other is not begun.
func TestRunBothEndsAtABrokenRun(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t)
	in := &comparison{}
	in.artifacts = t.TempDir()
	_, err := i.runBoth(context.WithoutCancel(t.Context()), in)
	g.Expect(err).To(MatchError(agreement.ErrBroken))
	g.Expect(err).To(MatchError(ContainSubstring("embedded: ")))
	g.Expect(readReport(t, filepath.Join(in.artifacts, "embedded")).Provider).To(Equal("embedded"))
	g.Expect(filepath.Join(in.artifacts, "kind")).NotTo(BeADirectory())

	in.Platform = "/there/is/none"
	_, err = i.runBoth(context.WithoutCancel(t.Context()), in)
	g.Expect(err).To(MatchError("the run on embedded had wrong input; it says above what"))
}

func TestCarriedOut(t *testing.T) {
	g := NewWithT(t)
	g.Expect(carriedOut("kind", "report.json", nil)).To(Succeed())
	g.Expect(carriedOut("kind", "report.json", exit(1))).To(Succeed(), "failed checks are compared")
	err := carriedOut("kind", "report.json", exit(2))
	g.Expect(err).To(MatchError("the run on kind had wrong input; it says above what"))
	g.Expect(err).NotTo(MatchError(agreement.ErrBroken))
	for _, ended := range []error{exit(3), os.ErrPermission} {
		g.Expect(carriedOut("kind", "report.json", ended)).To(MatchError(agreement.ErrBroken))
	}
	g.Expect(carriedOut("kind", "report.json", exit(3))).To(MatchError("kind: the run could not be carried out; report.json says why"))
}
