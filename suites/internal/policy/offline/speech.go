package offline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// row is one of the CLI's results.
type row struct {
	Policy   string `json:"POLICY"`
	Rule     string `json:"RULE"`
	Resource string `json:"RESOURCE"`
	Result   string `json:"RESULT"`
	Reason   string `json:"REASON"`
	Message  string `json:"Message"`
}

// spoken is what the CLI said of one test.
type spoken struct {
	path string
	rows []row
	// ended: it came to the rows.
	ended bool
	// problems are policies that it could not load, which does not end it.
	problems []string
}

type speech struct {
	tests []spoken
	// unreadable are the test files that it could not read, with its words.
	unreadable map[string]string
}

var loading = regexp.MustCompile(`^Loading test .*\( (.*) \) \.\.\.$`)

// parse understands what the CLI prints. The rows of a test are a JSON array whose
// brackets stand alone on their lines.
func parse(stdout []byte) speech {
	out := speech{unreadable: map[string]string{}}
	lines := strings.Split(string(stdout), "\n")
	path := ""
	failing := false
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if found := loading.FindStringSubmatch(line); found != nil {
			out.tests = append(out.tests, spoken{path: found[1]})
			continue
		}
		if line == "Test errors:" {
			failing = true
			continue
		}
		if failing {
			if name, ok := strings.CutPrefix(line, "  Path: "); ok {
				path = name
				out.unreadable[path] = ""
			} else if path != "" && strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "Error: ") {
				text := strings.TrimPrefix(strings.TrimSpace(line), "Error: ")
				out.unreadable[path] = strings.TrimSpace(out.unreadable[path] + " " + text)
			}
			continue
		}
		if len(out.tests) == 0 {
			continue
		}
		current := &out.tests[len(out.tests)-1]
		switch {
		case strings.HasPrefix(line, "  ERROR: "):
			current.problems = append(current.problems, strings.TrimPrefix(line, "  ERROR: "))
		case line == "[]":
			current.ended = true
		case line == "[":
			var text strings.Builder
			for ; i < len(lines); i++ {
				text.WriteString(lines[i])
				text.WriteByte('\n')
				if lines[i] == "]" {
					current.ended = json.Unmarshal([]byte(text.String()), &current.rows) == nil
					break
				}
			}
		}
	}
	return out
}

// crashed is how the words of a Go program begin that crashes.
const crashed = "panic: "

// closing are the CLI's words when it ends early: the last error that it prints, else
// the last line.
func closing(stdout, stderr []byte) string {
	lines := strings.Split(strings.TrimSpace(string(bytes.Join([][]byte{stdout, stderr}, []byte("\n")))), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if text, ok := strings.CutPrefix(lines[i], "Error: "); ok {
			return strings.Join(append([]string{text}, lines[i+1:]...), " ")
		}
	}
	for _, line := range lines {
		if strings.HasPrefix(line, crashed) {
			return line
		}
	}
	return lines[len(lines)-1]
}

// conclude derives the verdict from the rows of one example. An example has several
// where a policy has several rules or makes several things; the worst decides.
func conclude(e *example.Example, rows []row, problems string) (example.Verdict, string, bool) {
	if len(rows) == 0 {
		if problems != "" {
			return example.Error, "the policy is not loaded: " + problems, false
		}
		return example.Unknown, "the CLI has no row of it: it neither changed the object nor compared it with what is expected", true
	}
	content := true
	var worst example.Verdict
	var message string
	for _, r := range rows {
		if r.Result != "Pass" {
			content = false
		}
		v, text := verdictOf(e, r, problems)
		if severity(v) > severity(worst) {
			worst, message = v, text
		}
	}
	return worst, message, content
}

var wanted = regexp.MustCompile(`^Want \S*, got (\S+)$`)

func verdictOf(e *example.Example, r row, problems string) (example.Verdict, string) {
	switch {
	case r.Reason == "Ok":
		return e.Expected, r.Message
	case r.Reason == "Excluded":
		return example.Skip, "the policy does not match it"
	case r.Reason == "Not found" && problems != "":
		return example.Error, "the policy is not loaded: " + problems
	case r.Reason == "Not found":
		return example.Skip, "the policy does not match it"
	case r.Reason == "Invalid Policy":
		return example.Error, "the policy is invalid: " + r.Message
	case r.Reason == "Resource diff":
		return example.Fail, r.Message
	case r.Reason == "Resource error":
		return example.Error, r.Message
	}
	if found := wanted.FindStringSubmatch(r.Reason); found != nil {
		switch v := example.Verdict(found[1]); v {
		case example.Pass, example.Fail, example.Skip, example.Warn, example.Error:
			return v, r.Message
		}
	}
	return example.Unknown, cmp.Or(strings.TrimSpace(r.Reason+": "+r.Message), "the CLI gave no reason")
}

// severity orders verdicts by what the policy as a whole says.
func severity(v example.Verdict) int {
	switch v {
	case example.Skip:
		return 1
	case example.Pass:
		return 2
	case example.Warn:
		return 3
	case example.Fail:
		return 4
	case example.Error:
		return 5
	case example.Unknown:
		return 6
	}
	return 0
}
