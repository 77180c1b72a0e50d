package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// WriteText writes the report for a person. Its head are the differences between
// live and offline; then come the table of policies, everything that fails, with the
// place of each, explained differences, what no example exercises, notes, and as the
// last line the result.
func (r Report) WriteText(w io.Writer, options check.TextOptions) error {
	clean, err := r.clean()
	if err != nil {
		return err
	}
	t := &text{Report: clean, options: options}
	if len(t.Results) > 0 {
		t.head()
	}
	t.table()
	for _, one := range t.Results {
		if one.Failing() {
			t.result(one)
		}
	}
	t.failedPolicies()
	for _, one := range t.Results {
		if one.Agreement == DifferenceExplained {
			t.result(one)
		}
	}
	for _, f := range t.Findings {
		t.problem(fmt.Sprintf("%s: %s", f, f.Text))
	}
	for _, problem := range t.Problems {
		t.problem(problem)
	}
	if len(t.Findings)+len(t.Problems) > 0 {
		t.out.WriteString("\n")
	}
	t.coverage()
	t.notes()
	t.last()
	if _, err := io.WriteString(w, t.out.String()); err != nil {
		return fmt.Errorf("write the report on policies: %w", err)
	}
	return nil
}

// WriteState writes what is known of the policies without what is said of a run as a
// whole: after each change, while somebody watches.
func (r Report) WriteState(w io.Writer, options check.TextOptions) error {
	clean, err := r.clean()
	if err != nil {
		return err
	}
	t := &text{Report: clean, options: options}
	t.table()
	for _, one := range t.Results {
		if one.Failing() {
			t.result(one)
		}
	}
	t.failedPolicies()
	t.coverage()
	if _, err := io.WriteString(w, t.out.String()); err != nil {
		return fmt.Errorf("write what policies say: %w", err)
	}
	return nil
}

// text builds the report piece by piece.
type text struct {
	Report
	options check.TextOptions
	out     strings.Builder
}

// head counts the differences: they come before everything else. Of an object that
// the API server itself refuses no policy said anything, so that is none.
func (t *text) head() {
	explained, invalid, invalidExplained := 0, t.Counts.Agreements[InvalidLive], 0
	for _, one := range t.Results {
		switch {
		case one.Agreement != DifferenceExplained:
		case one.Live.Verdict == example.Invalid:
			invalidExplained++
		default:
			explained++
		}
	}
	text := fmt.Sprintf("live and offline: %d unexplained and %d explained differences", t.Counts.Agreements[Differs], explained)
	if invalid+invalidExplained > 0 {
		text += fmt.Sprintf(", %d unexplained and %d explained INVALID", invalid, invalidExplained)
	}
	t.out.WriteString(t.options.Wrapped(text+"; "+counted(agreements, t.Counts.Agreements), 0, 2) + "\n")
}

// words are the outcomes and agreements as they are counted. Only what fails shouts.
var words = map[string]string{
	string(OK): "ok", string(Wrong): "WRONG", string(Invalid): "INVALID", string(Unknown): "UNKNOWN",
	string(Explained): "explained", string(NotSupported): "not supported",
	string(Agree): "agree", string(Differs): "DIFFER", string(InvalidLive): "invalid live",
	string(NotSupportedLive): "offline only", string(NotSupportedOffline): "live only", string(NotCompared): "not compared",
}

// counted is for example «11 ok, 1 WRONG»; «-» when there is none.
func counted[Kind ~string](order []Kind, counts map[Kind]int) string {
	var parts []string
	for _, kind := range order {
		if counts[kind] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[kind], words[string(kind)]))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// table has a row for each policy. Where the terminal is too narrow for it, the
// cells go below the policy.
func (t *text) table() {
	if len(t.Policies) == 0 {
		return
	}
	outcome, agreement := map[string]map[Outcome]int{}, map[string]map[Agreement]int{}
	for _, one := range t.Results {
		if outcome[one.Policy] == nil {
			outcome[one.Policy], agreement[one.Policy] = map[Outcome]int{}, map[Agreement]int{}
		}
		outcome[one.Policy][one.Outcome]++
		agreement[one.Policy][one.Agreement]++
	}
	rows := [][]string{{"policy", "examples", "live", "offline", "coverage"}}
	for _, p := range t.Policies {
		rows = append(rows, []string{
			check.Printable(p.named()), fmt.Sprint(p.Examples), counted(outcomes, outcome[p.named()]),
			counted(agreements, agreement[p.named()]), p.coverage(),
		})
	}
	widths := make([]int, len(rows[0]))
	total := -2
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		total += widths[i] + 2
	}
	for i, row := range rows {
		switch {
		case total > t.options.Columns() && i == 0:
		case total > t.options.Columns():
			t.out.WriteString(t.options.Paint(check.Strong, row[0]) + "\n")
			for j, cell := range row[1:] {
				t.out.WriteString(fmt.Sprintf("  %-9s ", rows[0][j+1]) + t.cell(t.options.Wrapped(cell, 12, 12)))
			}
		default:
			var line strings.Builder
			for j, cell := range row {
				painted := cell
				if i == 0 {
					painted = t.options.Paint(check.Strong, cell)
				} else {
					painted = t.cell(painted)
				}
				line.WriteString(painted)
				if j < len(row)-1 {
					line.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+2))
				}
			}
			t.out.WriteString(line.String() + "\n")
		}
	}
	t.out.WriteString("\n")
}

// cell paints what shouts.
func (t *text) cell(value string) string {
	for _, word := range []string{"WRONG", "INVALID", "UNKNOWN", "DIFFER", "UNPROVEN", "NOT JUDGED"} {
		value = strings.Replace(value, word, t.options.Paint(check.Bad, word), 1)
	}
	return value
}

// coverage is for example «7 of 9».
func (p Policy) coverage() string {
	covered, missing := 0, 0
	for _, item := range p.Coverage {
		switch {
		case item.covered():
			covered++
		case item.Missing != "":
			missing++
		}
	}
	switch {
	case p.Problem != "":
		return "NOT JUDGED"
	case p.Unproven:
		return "UNPROVEN"
	case covered+missing == 0:
		return "-"
	case missing == 0:
		return fmt.Sprintf("%d, full", covered)
	default:
		return fmt.Sprintf("%d of %d", covered, covered+missing)
	}
}

// result gives one example with all that is known of it.
func (t *text) result(one Result) {
	title, colour := string(one.Outcome), check.Bad
	switch {
	case one.Outcome.Failing():
	case one.Agreement == Differs:
		title = string(Differs)
	default:
		title, colour = string(Explained), check.Notice
	}
	name := one.Policy
	if one.Rule != "" {
		name += "." + one.Rule
	}
	t.out.WriteString(t.options.Paint(colour, title) + " " + t.options.Paint(check.Strong, check.Printable(name)) + "  " +
		t.options.Wrapped(one.verdicts(), len(title)+len(name)+3, 4))
	for _, field := range append(one.fields(), [2]string{"result", one.ID}) {
		t.field(field[0], field[1])
	}
	t.out.WriteString("\n")
}

// failedPolicies gives those that could not be judged, or do not refuse as they are
// written.
func (t *text) failedPolicies() {
	for _, p := range t.Policies {
		if !p.failing(t.Strict) {
			continue
		}
		t.out.WriteString(t.options.Paint(check.Bad, "POLICY") + " " + t.options.Paint(check.Strong, check.Printable(p.String())) + "\n")
		t.field("problem", p.Problem)
		t.field("denial", p.DenialProblem)
		if p.Unproven && t.Strict {
			t.field("unproven", "it has no example; write one that it refuses and one that it lets pass")
		}
		t.field("place", Finding{File: p.File, Line: p.Line}.String())
		t.out.WriteString("\n")
	}
}

// field is a named text below a title. An empty one is left out.
func (t *text) field(name, value string) {
	if value == "" {
		return
	}
	t.out.WriteString(fmt.Sprintf("  %-9s ", name) + t.options.Wrapped(value, 12, 12))
}

func (t *text) problem(text string) {
	t.out.WriteString(t.options.Paint(check.Bad, strings.ToUpper(string(t.Result))) + " " + t.options.Wrapped(text, len(t.Result)+1, 4))
}

// coverage lists what no example exercises.
func (t *text) coverage() {
	for _, p := range t.Policies {
		var missing []Item
		for _, item := range p.Coverage {
			if item.Missing != "" {
				missing = append(missing, item)
			}
		}
		if len(missing) == 0 || p.Unproven {
			continue
		}
		t.out.WriteString(t.options.Paint(check.Notice, "not exercised") + " " + t.options.Paint(check.Strong, check.Printable(p.named())) +
			fmt.Sprintf(" (%s)\n", p.File))
		for _, item := range missing {
			t.out.WriteString("  " + t.options.Wrapped(fmt.Sprintf("%s %s: %s", item.Part, item.Name, item.Missing), 2, 4))
		}
		t.out.WriteString("\n")
	}
}

// mostReasons is how many reasons of one sort a person is shown.
const mostReasons = 8

func (t *text) notes() {
	before := t.out.Len()
	grouped := func(name string, of func(yield func(reason, of string))) {
		var order []string
		members := map[string][]string{}
		of(func(reason, of string) {
			if members[reason] == nil {
				order = append(order, reason)
			}
			members[reason] = append(members[reason], of)
		})
		for i, reason := range order {
			if i == mostReasons {
				t.note(name, fmt.Sprintf("and %d more, each in %s", len(order)-i, File))
				return
			}
			t.note(name, fmt.Sprintf("%s (%s)", reason, abridged(members[reason])))
		}
	}
	grouped("not supported", func(yield func(reason, of string)) {
		for _, one := range t.Results {
			if one.Outcome == NotSupported {
				yield(first(one.Live.Words), one.Policy+": "+one.Object.String())
			}
		}
	})
	grouped("live only", func(yield func(reason, of string)) {
		for _, one := range t.Results {
			if one.Agreement == NotSupportedOffline {
				yield(first(one.Offline.Words), one.Policy+": "+one.Object.String())
			}
		}
	})
	grouped("unproven", func(yield func(reason, of string)) {
		for _, p := range t.Policies {
			if p.Unproven {
				yield("no example asks it anything", p.String())
			}
		}
	})
	grouped("not covered", func(yield func(reason, of string)) {
		for _, p := range t.Policies {
			for _, item := range p.Coverage {
				if item.NotSupported != "" {
					yield(item.NotSupported, strings.TrimSpace(p.named()+": "+item.Part+" "+item.Name))
				}
			}
		}
	})
	grouped("audits", func(yield func(reason, of string)) {
		for _, p := range t.Policies {
			if p.Audits {
				yield("as written it refuses nothing; judged as if it did", p.named())
			}
		}
	})
	grouped("remark", func(yield func(reason, of string)) {
		for _, one := range t.Results {
			for _, note := range one.Notes {
				if !one.Failing() {
					yield(note, one.Policy+": "+one.Object.String())
				}
			}
		}
	})
	if denied := len(slices.DeleteFunc(slices.Clone(t.Policies), func(p Policy) bool { return p.Denial == "" })); denied > 0 {
		t.note("denials", fmt.Sprintf("%d of %d policies refused an example alone, as they are written; their words stand in %s", denied, len(t.Policies), File))
	}
	if len(t.Kinds) > 0 {
		var kinds []string
		for _, k := range t.Kinds {
			kinds = append(kinds, k.Kind+" ("+k.APIVersion+")")
		}
		t.note("kinds", "the server did not know these, and got a definition that takes any of them: "+strings.Join(kinds, ", "))
	}
	if s := t.Stats; s.Requests > 0 {
		t.note("asked", fmt.Sprintf("%d requests (%d again) in %.1f s, %d at once, p50 %.0f ms, p99 %.0f ms; %.1f s until all policies were in force",
			s.Requests, s.Retries, s.AskingSeconds, s.Workers, 1000*s.P50Seconds, 1000*s.P99Seconds, s.PreparingSeconds))
	}
	for _, note := range t.Notes {
		t.note("note", note)
	}
	if t.out.Len() > before {
		t.out.WriteString("\n")
	}
}

func (t *text) note(name, value string) {
	const indent = len("not supported") + 2
	t.out.WriteString(t.options.Paint(check.Notice, fmt.Sprintf("%-*s", indent, name)) + t.options.Wrapped(value, indent, indent))
}

// last is the result as the last line says it.
func (t *text) last() {
	colour := check.Bad
	if t.Result == check.RunPassed {
		colour = check.Good
	}
	line := ": no example was judged"
	if len(t.Results) > 0 {
		line = fmt.Sprintf(": %d policies, %d examples: %s; %s", t.Counts.Policies, t.Counts.Examples,
			counted(outcomes, t.Counts.Outcomes), counted(agreements, t.Counts.Agreements))
		if t.Counts.Unproven > 0 {
			line += fmt.Sprintf("; %d unproven", t.Counts.Unproven)
		}
		if t.Counts.Coverage > 0 {
			line += fmt.Sprintf("; %d of %d parts covered", t.Counts.Covered, t.Counts.Coverage)
		}
	}
	fmt.Fprintf(&t.out, "%s%s; %.1f s\n", t.options.Paint(colour, string(t.Result)), line, t.Seconds)
}

// abridged lists things, a few of them when there are many.
func abridged(list []string) string {
	const most = 4
	if len(list) <= most {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(list[:most-1], "; "), len(list)-most+1)
}
