package report

import (
	"fmt"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// JUnit renders the report as JUnit XML, one test case for each example. What is
// wrong, invalid or differs without an explanation is a failure, UNKNOWN an error;
// what no live server can be asked is skipped, with the reason. Every finding and
// problem is a case of its own, in error, and so is a policy that could not be
// judged.
func (r Report) JUnit() ([]byte, error) {
	r, err := r.clean()
	if err != nil {
		return nil, err
	}
	var cases []check.TestCase
	for _, one := range r.Results {
		message := &check.TestMessage{
			Type: string(one.Outcome), Message: one.verdicts(), Text: one.details(),
		}
		entry := check.TestCase{Class: one.Policy, Name: one.ID, Seconds: one.Seconds}
		switch {
		case one.Outcome == Unknown:
			entry.Error = message
		case one.Outcome == NotSupported:
			entry.Skipped = &check.TestMessage{Type: string(one.Outcome), Message: first(one.Live.Words), Text: message.Text}
		case one.Failing():
			if !one.Outcome.Failing() {
				message.Type = string(one.Agreement)
			}
			entry.Failure = message
		default:
			entry.Output = message.Text
		}
		cases = append(cases, entry)
	}
	broken := func(class, name, kind, text string) {
		cases = append(cases, check.TestCase{
			Class: class, Name: name, Error: &check.TestMessage{Type: kind, Message: first(text), Text: text},
		})
	}
	for _, p := range r.Policies {
		if p.Problem != "" {
			broken(p.named(), "is judged", string(Unknown), p.Problem)
		}
		if p.DenialProblem != "" {
			broken(p.named(), "refuses as it is written", string(Wrong), p.DenialProblem)
		}
		if p.Unproven && r.Strict {
			broken(p.named(), "has examples", "UNPROVEN", fmt.Sprintf("%s (%s) has no example", p, p.File))
		}
	}
	for _, f := range r.Findings {
		broken("files", f.String(), string(check.RunInvalidInput), f.Text)
	}
	for _, problem := range r.Problems {
		broken("run", first(problem), string(r.Result), problem)
	}
	return check.JUnit("flux-platform-conformance policies", r.Started, r.Seconds, cases)
}

// String is the place of a finding.
func (f Finding) String() string {
	if f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// verdicts are what was expected and what was said, in one line.
func (one Result) verdicts() string {
	text := fmt.Sprintf("expected %s, live %s", one.Expected, one.Live.Verdict)
	if one.Offline.Verdict != "" {
		text += fmt.Sprintf(", offline %s", one.Offline.Verdict)
	}
	return text
}

// details are all that is known of a result, a line or more each.
func (one Result) details() string {
	var lines []string
	for _, field := range one.fields() {
		lines = append(lines, field[0]+": "+field[1])
	}
	return strings.Join(lines, "\n")
}

// fields are what a reader needs to see why a result is as it is: name and value.
func (one Result) fields() [][2]string {
	var out [][2]string
	add := func(name, value string) {
		if value != "" {
			out = append(out, [2]string{name, value})
		}
	}
	what := one.Operation
	if one.Subresource != "" {
		what += " of " + one.Subresource
	}
	add("object", fmt.Sprintf("%s (%s), %s", one.Object, one.Object.APIVersion, what))
	add("identity", one.Identity)
	expected := string(one.Expected)
	if one.ExpectedMessage != "" {
		expected += fmt.Sprintf(", saying %q", one.ExpectedMessage)
	}
	add("expected", expected)
	add("live", one.Live.String())
	if one.Offline.Verdict != "" {
		add("offline", one.Offline.String())
	}
	if one.Cause != "" {
		add("because", fmt.Sprintf("%s (%s)", one.Cause, one.Entry))
	}
	for _, note := range one.Notes {
		add("note", note)
	}
	add("sent", one.Sent)
	add("place", fmt.Sprintf("%s:%d", one.File, one.Line))
	return out
}

func (s Said) String() string {
	if s.Words == "" {
		return string(s.Verdict)
	}
	return fmt.Sprintf("%s: %s", s.Verdict, s.Words)
}

func first(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(line)
}
