package check

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
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

// junit renders the outcomes as JUnit XML, one test case each; WAIVED,
// NOT_SUPPORTED and SKIPPED are skipped cases with their reason. Every problem of
// the run is a case of its own in error, so that a reader of this file alone does
// not see green where the program failed. Characters that XML does not allow
// become U+FFFD.
func (r Report) junit() ([]byte, error) {
	const name = "flux-platform-conformance"
	suite := junitSuite{
		Name: name, Time: seconds(r.Seconds), Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05"),
	}
	titles := map[string]Check{}
	for _, c := range r.Checks {
		titles[c.ID] = c
	}
	for _, o := range r.Outcomes {
		c := titles[o.Check]
		entry := junitCase{
			Class: className(o), Name: strings.TrimSpace(o.Check + " " + c.Title), Time: seconds(o.Seconds),
			Output: o.Note,
		}
		switch o.Result {
		case Failed:
			entry.Failure = &junitMessage{Message: firstLine(o.Found), Type: string(o.Result), Text: "\n" + Describe(c, o)}
			suite.Failures++
		case Waived:
			entry.Skipped = &junitMessage{
				Message: fmt.Sprintf("%s until %s: %s", o.Result, o.Waiver.Expires, o.Waiver.Reason), Text: "\n" + Describe(c, o),
			}
			suite.Skipped++
		case NotSupported, Skipped:
			entry.Skipped = &junitMessage{Message: fmt.Sprintf("%s: %s", o.Result, o.Reason)}
			suite.Skipped++
		case Passed:
		}
		suite.Cases = append(suite.Cases, entry)
	}
	for _, problem := range r.Problems {
		suite.Errors++
		suite.Cases = append(suite.Cases, junitCase{
			Class: "run", Name: firstLine(problem), Time: seconds(0),
			Error: &junitMessage{Message: firstLine(problem), Type: string(r.Result), Text: problem},
		})
	}
	suite.Tests = len(suite.Cases)
	content, err := xml.MarshalIndent(junitSuites{
		Name: name, Tests: suite.Tests, Failures: suite.Failures, Errors: suite.Errors, Skipped: suite.Skipped,
		Time: suite.Time, Suites: []junitSuite{suite},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", JUnitFile, err)
	}
	return append([]byte(xml.Header), append(content, '\n')...), nil
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
