package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/golden"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/coverage"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/offline"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/report"
)

func object(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// folder builds what was read and judged, one example after the other.
type folder struct {
	report.Input
	test *example.Test
}

func newFolder(policies ...string) *folder {
	f := &folder{test: &example.Test{Place: example.Place{File: "kyverno-test.yaml", Line: 1}, Name: "all", User: &example.User{Name: "beetle", Groups: []string{"tenants"}}}}
	f.Library = &example.Library{Dir: "/policies", Tests: []*example.Test{f.test}}
	f.Live = &live.Judgement{}
	f.Started = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)
	f.Seconds = 12.5
	for i, name := range policies {
		p := &example.Policy{
			Place:  example.Place{File: name + "/policy.yaml", Line: 1},
			Object: object("policies.kyverno.io/v1", "ValidatingPolicy", "", name),
		}
		f.Library.Policies = append(f.Library.Policies, p)
		f.Live.Policies = append(f.Live.Policies, live.PolicyState{Policy: p, Effective: 0.5 + float64(i), Denial: "denied the request: " + name})
	}
	return f
}

// add adds an example of a policy, with what live and offline say.
func (f *folder) add(policy int, name string, expected example.Verdict, said live.Verdict, cli offline.Verdict) *example.Example {
	e := &example.Example{
		Place: example.Place{File: "kyverno-test.yaml", Line: 10 + len(f.test.Examples)}, Test: f.test, Index: len(f.test.Examples),
		Policy: f.Library.Policies[policy], Object: object("v1", "Pod", "apps", name), Operation: "CREATE", Expected: expected,
	}
	f.test.Examples = append(f.test.Examples, e)
	said.Example, cli.Example = e, e
	f.Live.Verdicts = append(f.Live.Verdicts, said)
	f.Offline = append(f.Offline, cli)
	return e
}

func says(v example.Verdict, words ...string) live.Verdict {
	return live.Verdict{Verdict: v, Words: words}
}

func cli(v example.Verdict) offline.Verdict { return offline.Verdict{Verdict: v} }

// rich has every outcome and every agreement.
func rich() report.Input {
	f := newFolder("labels", "limits", "lonely")
	f.Live.Policies[1].Audits, f.Live.Policies[1].Denial = true, ""
	f.Live.Policies[2].Effective, f.Live.Policies[2].Denial = -1, ""
	f.add(0, "good", example.Pass, says(example.Pass), cli(example.Pass))
	f.add(0, "bad", example.Fail, says(example.Fail, "give it a label"), cli(example.Fail))
	wrong := says(example.Pass)
	wrong.Sent, wrong.Notes = "CREATE Pod apps/missed as beetle, dry run", []string{"the server dropped spec.colour"}
	f.add(0, "missed", example.Fail, wrong, cli(example.Pass))
	differs := f.add(0, "differs", example.Fail, says(example.Fail, "\x1b[31mgive it a label\x1b[0m"), offline.Verdict{Verdict: example.Skip, Message: "excluded"})
	differs.Rule = "rule-one"
	f.add(1, "explained", example.Pass, says(example.Fail, "too much"), cli(example.Pass))
	f.add(1, "malformed", example.Fail, live.Verdict{Verdict: example.Invalid, Reason: "spec.containers: Required value"}, cli(example.Fail))
	f.add(1, "unanswered", example.Pass, live.Verdict{Verdict: example.Unknown, Reason: "failed calling webhook: context deadline exceeded"}, cli(example.Pass))
	f.add(1, "attached", example.Pass, live.Verdict{Verdict: example.NotSupported, Reason: "CONNECT ignores dry-run"}, cli(example.Pass))
	words := f.add(1, "other-words", example.Fail, says(example.Fail, "too much"), cli(example.Fail))
	words.Message = "far too much"
	f.Explained = []report.Explanation{
		{Result: f.test.Examples[4].ID(), Live: example.Fail, Offline: example.Pass, Cause: "offline knows no namespaces", Where: "list.yaml:4"},
		{Result: f.test.Examples[0].ID(), Live: example.Fail, Offline: example.Pass, Cause: "nothing", Where: "list.yaml:8"},
	}
	f.Coverage = []coverage.Item{
		{Policy: f.Library.Policies[0], Part: "validation", Name: "0", Failing: "a", Passing: "b"},
		{Policy: f.Library.Policies[0], Part: "operation", Name: "UPDATE", Missing: "no example is updated"},
		{Policy: f.Library.Policies[1], Part: "condition", Name: "tenants", NotSupported: "it asks the network"},
		{Policy: f.Library.Policies[2], Part: "validation", Name: "0", Missing: "no example"},
	}
	f.Library.Findings = []example.Finding{{Place: example.Place{File: "labels/kyverno-test.yaml", Line: 3}, Text: `there is no policy "lables"`}}
	f.Live.Kinds = []live.Kind{{APIVersion: "argoproj.io/v1alpha1", Kind: "Application", Plural: "applications", Namespaced: true}}
	f.Live.Stats = live.Stats{
		Requests: 20, Retries: 1, Installed: 6, Preparing: 2 * time.Second, Asking: time.Second, P50: 8 * time.Millisecond, P99: 40 * time.Millisecond, Workers: 8,
	}
	return f.Input
}

func TestWriteText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		file    string
		options check.TextOptions
	}{
		{"text.txt", check.TextOptions{Width: 160}},
		{"text-narrow.txt", check.TextOptions{Width: 50}},
		{"text-colour.txt", check.TextOptions{Width: 160, Colour: true}},
	} {
		t.Run(test.file, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			var text bytes.Buffer
			g.Expect(report.Make(rich()).WriteText(&text, test.options)).To(Succeed())
			golden.Compare(t, test.file, text.Bytes())
			if !test.options.Colour {
				g.Expect(text.String()).NotTo(ContainSubstring("\x1b"), "words of a server move no cursor")
				g.Expect(text.String()).To(HavePrefix("live and offline: 1 unexplained and 1 explained"), "the count heads it, apart from what the API server refuses")
			}
		})
	}
	g := NewWithT(t)
	g.Expect(report.Make(rich()).WriteText(closed{}, check.TextOptions{})).To(MatchError("write the report on policies: pipe closed"))
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, errors.New("pipe closed") }

func TestWriteState(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var text bytes.Buffer
	r := report.Make(rich())
	g.Expect(r.WriteState(&text, check.TextOptions{Width: 120})).To(Succeed())
	g.Expect(text.String()).To(And(ContainSubstring("WRONG"), ContainSubstring("not exercised"), Not(ContainSubstring("invalid-input"))))
	g.Expect(r.Fails(r.Policies[0])).To(BeTrue())
	g.Expect(r.Fails(r.Policies[2])).To(BeFalse(), "no example is an error only strictly")
}

// Each outcome by itself decides the result of a run in which all else is well.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	invalid := live.Verdict{Verdict: example.Invalid, Reason: "no"}
	for _, test := range []struct {
		name      string
		expected  example.Verdict
		message   string
		live      live.Verdict
		offline   example.Verdict
		outcome   report.Outcome
		agreement report.Agreement
		failing   bool
	}{
		{"as expected", example.Fail, "", says(example.Fail), example.Fail, report.OK, report.Agree, false},
		{"a warning is a refusal", example.Warn, "", says(example.Fail), example.Warn, report.OK, report.Agree, false},
		{"not as expected", example.Pass, "", says(example.Fail), example.Fail, report.Wrong, report.Agree, true},
		{"skipped is no pass", example.Pass, "", says(example.Skip), example.Skip, report.Wrong, report.Agree, true},
		{"in the words that are expected", example.Fail, "a label", says(example.Fail, "give it a label"), example.Fail, report.OK, report.Agree, false},
		{"in other words", example.Fail, "a name", says(example.Fail, "give it a label"), example.Fail, report.Wrong, report.Agree, true},
		{"without words that are expected", example.Fail, "a name", says(example.Fail), example.Fail, report.Wrong, report.Agree, true},
		{"offline differs", example.Fail, "", says(example.Fail), example.Pass, report.OK, report.Differs, true},
		{"offline does not know", example.Fail, "", says(example.Fail), example.Unknown, report.OK, report.Differs, true},
		{"offline cannot be asked", example.Fail, "", says(example.Fail), example.NotSupported, report.OK, report.NotSupportedOffline, false},
		{"offline cannot be asked, and live is not as expected", example.Pass, "", says(example.Fail), example.NotSupported, report.Wrong, report.NotSupportedOffline, true},
		{"neither can be asked", example.Fail, "", says(example.NotSupported), example.NotSupported, report.NotSupported, report.NotSupportedLive, false},
		{"offline was not asked", example.Fail, "", says(example.Fail), "", report.OK, report.NotCompared, false},
		{"invalid", example.Fail, "", invalid, example.Fail, report.Invalid, report.InvalidLive, true},
		{"unknown", example.Fail, "", says(example.Unknown), example.Fail, report.Unknown, report.NotCompared, true},
		{"no verdict at all", example.Fail, "", says(""), example.Fail, report.Unknown, report.NotCompared, true},
		{"not supported", example.Fail, "", says(example.NotSupported), example.Fail, report.NotSupported, report.NotSupportedLive, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			f := newFolder("labels")
			f.add(0, "control", example.Pass, says(example.Pass), cli(example.Pass))
			f.add(0, "one", test.expected, test.live, cli(test.offline)).Message = test.message
			r := report.Make(f.Input)
			g.Expect(r.Results[1].Outcome).To(Equal(test.outcome))
			g.Expect(r.Results[1].Agreement).To(Equal(test.agreement))
			g.Expect(r.Results[1].Failing()).To(Equal(test.failing))
			g.Expect(r.Result).To(Equal(map[bool]check.RunResult{true: check.RunFailed, false: check.RunPassed}[test.failing]))
			g.Expect(r.ExitCode).To(Equal(map[bool]int{true: 1, false: 0}[test.failing]))
		})
	}
}

// What is no example decides the result as well.
func TestResult(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*folder)
		code   int
	}{
		{"well", func(*folder) {}, 0},
		{"a policy that does not compile", func(f *folder) { f.Live.Policies[0].Problem = "1:8: Syntax error" }, 1},
		{"a policy that does not refuse as it is written", func(f *folder) { f.Live.Policies[0].DenialProblem = "it was admitted" }, 1},
		{"a policy without examples", func(f *folder) { f.test.Examples[1].Policy = f.Library.Policies[0] }, 0},
		{"a policy without examples, strictly", func(f *folder) {
			f.test.Examples[1].Policy, f.Strict = f.Library.Policies[0], true
		}, 1},
		{"a finding", func(f *folder) { f.Library.Findings = []example.Finding{{Text: "it does not parse"}} }, 2},
		{"wrong input", func(f *folder) { f.Invalid = errors.New("no such folder") }, 2},
		{"broken", func(f *folder) { f.Broken = errors.New("no cluster") }, 3},
		{"nothing was asked", func(f *folder) { f.Live.Verdicts = nil }, 1},
		{"nothing can be asked", func(f *folder) {
			for i := range f.Live.Verdicts {
				f.Live.Verdicts[i].Verdict = example.NotSupported
			}
		}, 1},
		{"nothing was judged", func(f *folder) { f.Live = nil }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFolder("labels", "limits")
			f.add(0, "one", example.Pass, says(example.Pass), cli(example.Pass))
			f.add(1, "two", example.Pass, says(example.Pass), cli(example.Pass))
			test.change(f)
			r := report.Make(f.Input)
			NewWithT(t).Expect(r.ExitCode).To(Equal(test.code), "%v", r.Problems)
		})
	}
}

func TestExplanations(t *testing.T) {
	t.Parallel()
	const id = "kyverno-test.yaml#all results[0] Pod apps/one"
	entry := func(live, offline example.Verdict) report.Explanation {
		return report.Explanation{Result: id, Live: live, Offline: offline, Cause: "offline is blind", Where: "list.yaml:4"}
	}
	other := entry(example.Fail, example.Pass)
	other.Result = "kyverno-test.yaml#all results[7] Pod apps/none"
	for _, test := range []struct {
		name     string
		expected example.Verdict
		list     []report.Explanation
		selected bool
		result   check.RunResult
		said     string
	}{
		{"explained", example.Fail, []report.Explanation{entry(example.Fail, example.Pass)}, false, check.RunPassed, ""},
		{"explained, where the test is written for offline", example.Pass, []report.Explanation{entry(example.Fail, example.Pass)}, false, check.RunPassed, ""},
		{
			"the other way round", example.Fail,
			[]report.Explanation{entry(example.Pass, example.Fail)},
			false, check.RunFailed,
			"list.yaml:4: the entry for " + id + " explains no difference: remove it, or correct its results (live fail, offline pass)",
		},
		{
			"about nothing", example.Fail,
			[]report.Explanation{entry(example.Fail, example.Pass), other},
			false, check.RunFailed,
			"list.yaml:4: the entry for " + other.Result + " is about no result of this folder: correct its ID, or remove it",
		},
		{
			"about what was not chosen", example.Fail,
			[]report.Explanation{entry(example.Fail, example.Pass), other},
			true, check.RunPassed,
			"list.yaml:4: the entry for " + other.Result + " was not looked at: the selection left its result out",
		},
		{
			"twice", example.Fail,
			[]report.Explanation{entry(example.Fail, example.Pass), entry(example.Fail, example.Pass)},
			false, check.RunFailed,
			"list.yaml:4, list.yaml:4 all explain " + id + ": leave one",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			f := newFolder("labels")
			f.add(0, "one", test.expected, says(example.Fail), cli(example.Pass))
			f.Explained, f.Selected = test.list, test.selected
			r := report.Make(f.Input)
			g.Expect(r.Result).To(Equal(test.result))
			g.Expect(strings.Join(append(r.Problems, r.Notes...), "\n")).To(Equal(test.said))
		})
	}
	// Where live and offline say the same, no entry makes a wrong result right.
	g := NewWithT(t)
	f := newFolder("labels")
	f.add(0, "one", example.Pass, says(example.Fail), cli(example.Fail))
	f.Explained = []report.Explanation{entry(example.Fail, example.Pass)}
	r := report.Make(f.Input)
	g.Expect(r.Results[0].Outcome).To(Equal(report.Wrong))
	g.Expect(r.Problems).To(ConsistOf(ContainSubstring("explains no difference")))
}

func TestParseList(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: conformance.flux-platform/v1alpha1\nkind: PolicyAgreement\nexplained:\n"
	for _, test := range []struct{ name, content, want string }{
		{"another kind", strings.Replace(head, "PolicyAgreement", "Agreement", 1), "it begins with «apiVersion: conformance.flux-platform/v1alpha1» and «kind: PolicyAgreement»"},
		{"an unknown key", head + "- {result: a, live: fail, offline: pass, cause: c, until: 2026-01-01}\n", "field until not found"},
		{"nothing said", head + "- {}\n", "l.yaml:4: result is empty; give the ID of a result, as the report has it\nl.yaml:4: cause is empty; say why live and offline differ\nl.yaml:4: live: \"\" is none of"},
		{"no difference", head + "- {result: a, live: warn, offline: fail, cause: c}\n", "l.yaml:4: live and offline are the same: that is no difference"},
		{"an unknown verdict", head + "- {result: a, live: failed, offline: pass, cause: c}\n", `l.yaml:4: live: "failed" is none of [pass fail skip warn error INVALID UNKNOWN]`},
		{"two documents", head + "---\na: 1\n", "it is one YAML document, and there is more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := report.ParseList("l.yaml", []byte(test.content))
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
	g := NewWithT(t)
	list, err := report.ParseList("l.yaml", []byte(head+"- {result: a, live: fail, offline: pass, cause: c}\n"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(list).To(Equal([]report.Explanation{{Result: "a", Live: example.Fail, Offline: example.Pass, Cause: "c", Where: "l.yaml:4"}}))
	shipped, err := os.ReadFile("../../../../fixtures/policies.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	_, err = report.ParseList("fixtures/policies.yaml", shipped)
	g.Expect(err).NotTo(HaveOccurred())
}

func TestJUnit(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	content, err := report.Make(rich()).JUnit()
	g.Expect(err).NotTo(HaveOccurred())
	golden.Compare(t, "junit.xml", content)
	for decoder := xml.NewDecoder(bytes.NewReader(content)); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Expect(string(content)).To(ContainSubstring(fmt.Sprintf(`failures="%d" errors="%d" skipped="%d"`, 4, 3, 1)))
}

// What is written is what the schema describes, and nothing else.
func TestSchema(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(report.Schema))
	g.Expect(err).NotTo(HaveOccurred())
	closeObjects(schema)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	g.Expect(compiler.AddResource("schema.json", schema)).To(Succeed())
	compiled, err := compiler.Compile("schema.json")
	g.Expect(err).NotTo(HaveOccurred())
	validate := func(r report.Report, change func(map[string]any)) error {
		content, err := r.JSON()
		g.Expect(err).NotTo(HaveOccurred())
		var fields map[string]any
		g.Expect(json.Unmarshal(content, &fields)).To(Succeed())
		change(fields)
		content, err = json.Marshal(fields)
		g.Expect(err).NotTo(HaveOccurred())
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		g.Expect(err).NotTo(HaveOccurred())
		return compiled.Validate(document)
	}
	same := func(map[string]any) {}
	g.Expect(validate(report.Make(rich()), same)).To(Succeed())
	g.Expect(validate(report.Make(report.Input{Invalid: errors.New("no such folder")}), same)).To(Succeed())
	g.Expect(validate(report.Make(rich()), func(fields map[string]any) {
		fields["results"].([]any)[0].(map[string]any)["outcome"] = "MAYBE"
	})).To(MatchError(ContainSubstring("outcome")))
	g.Expect(validate(report.Make(rich()), func(fields map[string]any) { delete(fields, "counts") })).To(MatchError(ContainSubstring("counts")))
}

// closeObjects makes a schema refuse fields that it does not name.
func closeObjects(node any) {
	switch node := node.(type) {
	case map[string]any:
		if _, named := node["properties"]; named && node["additionalProperties"] == true {
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

// A reason that a test gives for what no example can exercise has to be one.
func TestAReasonForNothingFails(t *testing.T) {
	t.Parallel()
	problems := func(item coverage.Item) []string {
		f := newFolder("labels")
		f.add(0, "good", example.Pass, says(example.Pass), cli(example.Pass))
		f.test.Policies = f.Library.Policies
		f.test.Unexercised = []example.Unexercised{{Part: "operation UPDATE", Cause: "it stays as it is"}}
		item.Policy = f.Library.Policies[0]
		f.Coverage = []coverage.Item{item}
		return report.Make(f.Input).Problems
	}
	g := NewWithT(t)
	g.Expect(problems(coverage.Item{Part: "operation", Name: "UPDATE", NotSupported: "it stays as it is"})).To(BeEmpty())
	for _, item := range []coverage.Item{
		{Part: "operation", Name: "UPDATE", Failing: "a", Passing: "b"},
		{Part: "operation", Name: "UPDATES", NotSupported: "it stays as it is"},
		{Part: "operation", Name: "DELETE", NotSupported: "another"},
	} {
		g.Expect(problems(item)).To(ConsistOf(ContainSubstring("conformance.flux-platform/unexercised names «operation UPDATE»")), item.String())
	}
}
