package agreement

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// JUnit renders the comparison as JUnit XML, one test case for each outcome. An
// unexplained disagreement is a failure; what was not judged on both sides is
// skipped, with the reason. Every problem is a case of its own, in error.
func (c Comparison) JUnit() ([]byte, error) {
	var cases []check.TestCase
	var started time.Time
	var seconds float64
	for i, side := range c.Sides {
		if seconds += side.Seconds; i == 0 {
			started = side.Started
		}
	}
	for _, o := range c.Outcomes {
		one := check.TestCase{
			Class: cmp.Or(strings.Trim(o.Environment+"."+o.Tenant, "."), "platform"), Name: strings.TrimSpace(o.Check + " " + o.Title),
		}
		var results, details []string
		for i, said := range o.Said {
			one.Seconds += said.Seconds
			results = append(results, fmt.Sprintf("%s on %s", said.Result, c.Sides[i].Provider))
			if said.Detail != "" {
				details = append(details, c.Sides[i].Provider+": "+said.Detail)
			}
		}
		message := &check.TestMessage{
			Type: string(o.Verdict), Message: strings.Join(results, ", "), Text: strings.Join(details, "\n"),
		}
		switch o.Verdict {
		case Unexplained:
			one.Failure = message
		case OneSided, Neither, LeftOut:
			one.Skipped = message
		case Explained:
			one.Output = fmt.Sprintf("%s\nbecause %s (%s)\n%s", message.Message, o.Cause, o.Entry, message.Text)
		case Agree:
			one.Output = message.Text
		}
		cases = append(cases, one)
	}
	for _, problem := range c.Problems {
		name, _, _ := strings.Cut(problem, "\n")
		cases = append(cases, check.TestCase{
			Class: "comparison", Name: name, Error: &check.TestMessage{Type: string(c.Result), Message: name, Text: problem},
		})
	}
	return check.JUnit("flux-platform-conformance compare", started, seconds, cases)
}
