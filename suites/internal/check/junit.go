package check

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Cases     []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitMessage `xml:"failure"`
	Error   *junitMessage `xml:"error"`
	Skipped *junitMessage `xml:"skipped"`
	Output  string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// TestCase is one case of a JUnit file. It passed where Failure, Error and Skipped
// are nil.
type TestCase struct {
	Class, Name             string
	Seconds                 float64
	Failure, Error, Skipped *TestMessage
	Output                  string
}

// TestMessage says what became of a test case.
type TestMessage struct{ Message, Type, Text string }

// JUnit renders cases as JUnit XML: one suite of this name, which began at a time
// and took some seconds. Characters that XML does not allow become U+FFFD.
func JUnit(name string, started time.Time, took float64, cases []TestCase) ([]byte, error) {
	suite := junitSuite{
		Name: name, Tests: len(cases), Time: seconds(took), Timestamp: started.UTC().Format("2006-01-02T15:04:05"),
	}
	message := func(m *TestMessage, count *int) *junitMessage {
		if m == nil {
			return nil
		}
		*count++
		return &junitMessage{Message: m.Message, Type: m.Type, Text: m.Text}
	}
	for _, c := range cases {
		suite.Cases = append(suite.Cases, junitCase{
			Class: c.Class, Name: c.Name, Time: seconds(c.Seconds), Output: c.Output,
			Failure: message(c.Failure, &suite.Failures), Error: message(c.Error, &suite.Errors), Skipped: message(c.Skipped, &suite.Skipped),
		})
	}
	content, err := xml.MarshalIndent(junitSuites{
		Name: name, Tests: suite.Tests, Failures: suite.Failures, Errors: suite.Errors, Skipped: suite.Skipped,
		Time: suite.Time, Suites: []junitSuite{suite},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", JUnitFile, err)
	}
	return append([]byte(xml.Header), append(content, '\n')...), nil
}

// junit renders the outcomes as JUnit XML, one test case each; WAIVED,
// NOT_SUPPORTED and SKIPPED are skipped cases with their reason. Every problem of
// the run is a case of its own in error, so that a reader of this file alone does
// not see green where the program failed.
func (r Report) junit() ([]byte, error) {
	var cases []TestCase
	titles := map[string]Check{}
	for _, c := range r.Checks {
		titles[c.ID] = c
	}
	for _, o := range r.Outcomes {
		c := titles[o.Check]
		entry := TestCase{
			Class: className(o), Name: strings.TrimSpace(o.Check + " " + c.Title), Seconds: o.Seconds, Output: o.Note,
		}
		switch o.Result {
		case Failed:
			entry.Failure = &TestMessage{Message: firstLine(o.Found), Type: string(o.Result), Text: "\n" + Describe(c, o)}
		case Waived:
			entry.Skipped = &TestMessage{
				Message: fmt.Sprintf("%s until %s: %s", o.Result, o.Waiver.Expires, o.Waiver.Reason), Text: "\n" + Describe(c, o),
			}
		case NotSupported, Skipped:
			entry.Skipped = &TestMessage{Message: fmt.Sprintf("%s: %s", o.Result, o.Reason)}
		case Passed:
		}
		cases = append(cases, entry)
	}
	for _, problem := range r.Problems {
		cases = append(cases, TestCase{
			Class: "run", Name: firstLine(problem),
			Error: &TestMessage{Message: firstLine(problem), Type: string(r.Result), Text: problem},
		})
	}
	return JUnit("flux-platform-conformance", r.Started, r.Seconds, cases)
}

// className is environment[.tenant]; a check of the whole platform has neither.
func className(o Outcome) string {
	switch {
	case o.Environment == "":
		return "platform"
	case o.Tenant == "":
		return o.Environment
	default:
		return o.Environment + "." + o.Tenant
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(line)
}

func seconds(s float64) string {
	return strconv.FormatFloat(s, 'f', 3, 64)
}
