package offline

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

func TestParse(t *testing.T) {
	g := NewWithT(t)
	said := parse([]byte(`Loading test  ( /tmp/x/a/kyverno-test-0-0.yaml ) ...
  Loading values/variables ...
  Loading policies ...
  ERROR: /tmp/x/a/policy.yaml: no such kind
  Loading resources ...
  Checking results ...

[
  {
    "ID": 1,
    "Message": "two\nlines [\n]",
    "POLICY": "12/names",
    "REASON": "Want pass, got fail",
    "RESOURCE": "v1/ConfigMap/default/bad",
    "RESULT": "Fail",
    "RULE": ""
  }
]


Loading test  ( /tmp/x/b (2)/kyverno-test-0-0.yaml ) ...
  Checking results ...

[]

Loading test  ( /tmp/x/c/kyverno-test-0-0.yaml ) ...
  Loading policies ...
`))
	g.Expect(said.unreadable).To(BeEmpty())
	g.Expect(said.tests).To(HaveLen(3))
	g.Expect(said.tests[0]).To(Equal(spoken{
		path: "/tmp/x/a/kyverno-test-0-0.yaml", ended: true, problems: []string{"/tmp/x/a/policy.yaml: no such kind"},
		rows: []row{{Policy: "12/names", Resource: "v1/ConfigMap/default/bad", Result: "Fail", Reason: "Want pass, got fail", Message: "two\nlines [\n]"}},
	}))
	g.Expect(said.tests[1]).To(Equal(spoken{path: "/tmp/x/b (2)/kyverno-test-0-0.yaml", ended: true}))
	g.Expect(said.tests[2]).To(Equal(spoken{path: "/tmp/x/c/kyverno-test-0-0.yaml"}), "it did not come to an end")
}

func TestParseUnreadable(t *testing.T) {
	g := NewWithT(t)
	said := parse([]byte(`
Test errors:
  Path: /tmp/x/a/kyverno-test-0-0.yaml
    Error: error unmarshaling JSON: while decoding JSON: json: unknown field "ressources"
  Path: /tmp/x/b/kyverno-test-0-0.yaml
    Error: first
second
Error: found 2 errors after loading tests
`))
	g.Expect(said.tests).To(BeEmpty())
	g.Expect(said.unreadable).To(Equal(map[string]string{
		"/tmp/x/a/kyverno-test-0-0.yaml": `error unmarshaling JSON: while decoding JSON: json: unknown field "ressources"`,
		"/tmp/x/b/kyverno-test-0-0.yaml": "first second",
	}))
}

func TestClosing(t *testing.T) {
	g := NewWithT(t)
	g.Expect(closing([]byte("Loading\n"), []byte("log line\nError: failed to run test (no such file)\n"))).To(Equal("failed to run test (no such file)"))
	g.Expect(closing([]byte("Loading\n"), []byte("panic: nil map\n\ngoroutine 1 [running]:\nmain.go:1"))).To(Equal("panic: nil map"))
	g.Expect(closing([]byte("one\ntwo\n"), nil)).To(Equal("two"))
}

func TestConclude(t *testing.T) {
	ok := row{Result: "Pass", Reason: "Ok", Message: "fine"}
	want := func(got string) row {
		return row{Result: "Fail", Reason: "Want pass, got " + got, Message: "words of " + got}
	}
	for _, r := range []struct {
		name     string
		expected example.Verdict
		rows     []row
		problems string
		verdict  example.Verdict
		message  string
		content  bool
	}{
		{"as expected", example.Pass, []row{ok}, "", example.Pass, "fine", true},
		{"as expected, a refusal", example.Fail, []row{ok}, "", example.Fail, "fine", true},
		{"another verdict", example.Pass, []row{want("fail")}, "", example.Fail, "words of fail", false},
		{"a warning", example.Pass, []row{want("warn")}, "", example.Warn, "words of warn", false},
		{"an error", example.Pass, []row{want("error")}, "", example.Error, "words of error", false},
		{"a verdict that is none", example.Pass, []row{want("maybe")}, "", example.Unknown, "Want pass, got maybe: words of maybe", false},
		{"several rules, of which the worst decides", example.Pass, []row{ok, want("fail"), want("skip")}, "", example.Fail, "words of fail", false},
		{"several rules, of which one speaks of it", example.Pass, []row{want("skip"), ok}, "", example.Pass, "fine", false},
		{"excluded", example.Pass, []row{{Result: "Pass", Reason: "Excluded", Message: "Excluded"}}, "", example.Skip, "the policy does not match it", true},
		{"not found", example.Fail, []row{{Result: "Fail", Reason: "Not found", Message: "Not found"}}, "", example.Skip, "the policy does not match it", false},
		{"not found since it was not loaded", example.Fail, []row{{Result: "Fail", Reason: "Not found"}}, "p.yaml: no such field", example.Error, "the policy is not loaded: p.yaml: no such field", false},
		{"an invalid policy", example.Fail, []row{{Result: "Skip", Reason: "Invalid Policy", Message: "no rules"}}, "", example.Error, "the policy is invalid: no rules", false},
		{"another outcome", example.Pass, []row{{Result: "Fail", Reason: "Resource diff", Message: "-a +b"}}, "", example.Fail, "-a +b", false},
		{"nothing to compare with", example.Pass, []row{{Result: "Fail", Reason: "Resource error", Message: "not found in manifest"}}, "", example.Error, "not found in manifest", false},
		{"no row", example.Pass, nil, "", example.Unknown, "the CLI has no row of it: it neither changed the object nor compared it with what is expected", true},
		{"no row and no policy", example.Pass, nil, "x", example.Error, "the policy is not loaded: x", false},
	} {
		t.Run(r.name, func(t *testing.T) {
			g := NewWithT(t)
			verdict, message, content := conclude(&example.Example{Expected: r.expected}, r.rows, r.problems)
			g.Expect(verdict).To(Equal(r.verdict))
			g.Expect(message).To(Equal(r.message))
			g.Expect(content).To(Equal(r.content))
		})
	}
}

func TestShares(t *testing.T) {
	g := NewWithT(t)
	of := func(entries int) *document { return &document{entries: make([]any, entries)} }
	all := []*document{of(104), of(1), of(1), of(80)}
	g.Expect(shares(all, 2)).To(Equal([][]*document{all[:1], all[1:]}))
	g.Expect(shares(all, 1)).To(Equal([][]*document{all}))
	total := 0
	for _, share := range shares(all, 16) {
		g.Expect(share).NotTo(BeEmpty())
		total += len(share)
	}
	g.Expect(total).To(Equal(4))
}
