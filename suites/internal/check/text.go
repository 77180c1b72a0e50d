package check

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TextOptions is how the text at the end is laid out.
type TextOptions struct {
	// Width is the number of columns; below 40, zero included, it counts as 100.
	Width int
	// Colour allows ANSI colours.
	Colour bool
}

const (
	defaultWidth = 100
	narrowest    = 40
	// platformTitle heads what belongs to no environment; none can be named so.
	platformTitle = "(platform)"
)

// Colour is an ANSI colour of what people read; the words say the same without.
type Colour string

// The colours of results, of what to notice and of titles.
const (
	Good   Colour = "32"
	Bad    Colour = "31;1"
	Notice Colour = "33"
	Strong Colour = "1"
)

// Columns is the width to lay text out for.
func (o TextOptions) Columns() int {
	if o.Width < narrowest {
		return defaultWidth
	}
	return o.Width
}

// Paint colours a value where colours are allowed.
func (o TextOptions) Paint(colour Colour, value string) string {
	if !o.Colour {
		return value
	}
	return "\x1b[" + string(colour) + "m" + value + "\x1b[0m"
}

// WriteText writes the end of a run for a person: the table of areas and
// environments, what checks found out beside their outcomes, each failure with what
// to do about it, notes, and as its last line the result.
func (r Report) WriteText(w io.Writer, options TextOptions) error {
	clean, err := r.normalised()
	if err != nil {
		return err
	}
	options.Width = options.Columns()
	t := &text{Report: clean, options: options, checks: map[string]Check{}}
	for _, c := range clean.Checks {
		t.checks[c.ID] = c
	}
	t.substitutes()
	t.table()
	t.attachments(r.attached)
	t.failures()
	t.problems()
	t.notes()
	t.result()
	if _, err := io.WriteString(w, t.out.String()); err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	return nil
}

// text builds the summary piece by piece.
type text struct {
	Report
	options TextOptions
	checks  map[string]Check
	out     strings.Builder
}

// substitutes comes before everything else: where other versions ran than the
// platform declares, the results are theirs.
func (t *text) substitutes() {
	before := t.out.Len()
	for _, c := range t.Components {
		if len(c.InPlaceOf) > 0 {
			t.note("substituted", fmt.Sprintf("%s %s ran in place of %s, which could not be had",
				c.Name, c.Version, strings.Join(c.InPlaceOf, ", ")))
		}
	}
	if t.out.Len() > before {
		t.out.WriteString("\n")
	}
}

// table counts results per area and environment. Where the environments do not
// fit beside one another, it goes on below.
func (t *text) table() {
	counts := map[[2]string]map[Result]int{}
	var areas, columns []string
	for _, e := range t.Environments {
		columns = append(columns, e.Name)
	}
	for _, o := range t.Outcomes {
		area := areaOf(o.Check)
		if !slices.Contains(areas, area) {
			areas = append(areas, area)
		}
		column := cmp.Or(o.Environment, platformTitle)
		if !slices.Contains(columns, column) {
			columns = append(columns, column)
		}
		key := [2]string{area, column}
		if counts[key] == nil {
			counts[key] = map[Result]int{}
		}
		counts[key][o.Result]++
	}
	if len(areas) == 0 {
		return
	}
	slices.SortFunc(areas, compareAreas)

	const gap = 2
	first := len("area")
	for _, area := range areas {
		first = max(first, len(area))
	}
	widths := make([]int, len(columns))
	for i, column := range columns {
		widths[i] = utf8.RuneCountInString(column)
		for _, area := range areas {
			widths[i] = max(widths[i], len(countsText(counts[[2]string{area, column}])))
		}
	}
	for from := 0; from < len(columns); {
		to, used := from, first
		for to < len(columns) && (to == from || used+gap+widths[to] <= t.options.Width) {
			used += gap + widths[to]
			to++
		}
		var line strings.Builder
		fmt.Fprintf(&line, "%-*s", first, "area")
		for i := from; i < to; i++ {
			fmt.Fprintf(&line, "  %-*s", widths[i], columns[i])
		}
		t.out.WriteString(t.options.Paint(Strong, strings.TrimRight(line.String(), " ")) + "\n")
		for _, area := range areas {
			line.Reset()
			fmt.Fprintf(&line, "%-*s", first, area)
			for i := from; i < to; i++ {
				cell := counts[[2]string{area, columns[i]}]
				padding := widths[i] - len(countsText(cell))
				line.WriteString("  " + t.countsPainted(cell) + strings.Repeat(" ", padding))
			}
			t.out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		}
		t.out.WriteString("\n")
		from = to
	}
}

// attachments shows the text of each, line by line: they are drawn, so nothing is
// wrapped.
func (t *text) attachments(list []Attachment) {
	for _, a := range list {
		body := strings.TrimRight(Redact(a.Text), "\n")
		if body == "" {
			continue
		}
		t.out.WriteString(t.options.Paint(Strong, Printable(a.Name+", "+cmp.Or(a.Environment, platformTitle))) + "\n")
		for _, line := range strings.Split(body, "\n") {
			t.out.WriteString(t.painted(line) + "\n")
		}
		t.out.WriteString("\n")
	}
}

// painted is a line whose control characters are replaced, but for its colours
// where colours are allowed.
func (t *text) painted(line string) string {
	if !t.options.Colour {
		return strings.TrimRight(Printable(ansi.ReplaceAllString(line, "")), " ")
	}
	var out strings.Builder
	for line != "" {
		colour := sgr.FindStringIndex(line)
		if colour == nil {
			break
		}
		out.WriteString(Printable(ansi.ReplaceAllString(line[:colour[0]], "")) + line[colour[0]:colour[1]])
		line = line[colour[1]:]
	}
	return out.String() + Printable(ansi.ReplaceAllString(line, ""))
}

// sgr is a sequence that colours, and does nothing else.
var sgr = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// resultWords are the results as the summary counts them. Only a failure shouts.
var resultWords = map[Result]string{
	Passed: "passed", Failed: "FAILED", Waived: "waived", NotSupported: "not supported", Skipped: "skipped",
}

// countsText is for example "3 passed, 1 FAILED", or "-" when nothing is there.
func countsText(counts map[Result]int) string {
	var parts []string
	for _, result := range results {
		if counts[result] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[result], resultWords[result]))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

func (t *text) countsPainted(counts map[Result]int) string {
	plain := countsText(counts)
	if failed := counts[Failed]; failed > 0 {
		part := fmt.Sprintf("%d %s", failed, resultWords[Failed])
		return strings.Replace(plain, part, t.options.Paint(Bad, part), 1)
	}
	return plain
}

// failures gives each failed check once, with every place where it failed.
func (t *text) failures() {
	for i := 0; i < len(t.Outcomes); {
		id := t.Outcomes[i].Check
		same := i
		for same < len(t.Outcomes) && t.Outcomes[same].Check == id {
			same++
		}
		t.failure(t.checks[id], id, t.Outcomes[i:same])
		i = same
	}
}

func (t *text) failure(c Check, id string, outcomes []Outcome) {
	failed := slices.DeleteFunc(slices.Clone(outcomes), func(o Outcome) bool { return o.Result != Failed })
	if len(failed) == 0 {
		return
	}
	title := id
	if c.Level == Extended {
		title += " (extended)"
	}
	t.out.WriteString(t.options.Paint(Bad, "FAILED") + " " + t.options.Paint(Strong, title) + "  " +
		t.wrapped(c.Title, len("FAILED ")+len(title)+2, 4))
	t.field(2, "why", c.Why)
	t.field(2, "mend", c.Remedy)
	t.field(2, "see", c.Reference)
	for _, o := range failed {
		t.out.WriteString("  " + t.options.Paint(Strong, Printable(where(o.Environment, o.Tenant))) + "\n")
		t.field(4, "expected", o.Expected)
		t.field(4, "found", o.Found)
		t.field(4, "artifacts", o.Artifacts)
	}
	t.out.WriteString("\n")
}

// problems are printed whole: each is a reason for the result.
func (t *text) problems() {
	for _, problem := range t.Problems {
		t.out.WriteString(t.options.Paint(Bad, strings.ToUpper(string(t.Result))) + " " +
			t.wrapped(problem, len(t.Result)+1, 4))
	}
	if len(t.Problems) > 0 {
		t.out.WriteString("\n")
	}
}

func (t *text) notes() {
	before := t.out.Len()
	t.reasons(NotSupported, func(o Outcome) string { return o.Reason })
	t.reasons(Waived, func(o Outcome) string {
		return fmt.Sprintf("until %s: %s", o.Waiver.Expires, o.Waiver.Reason)
	})
	for _, o := range t.Outcomes {
		if o.Note != "" {
			t.note("measured", fmt.Sprintf("%s (%s): %s", o.Check, where(o.Environment, o.Tenant), o.Note))
		}
	}
	for _, refused := range t.RefusedRequests {
		t.note("refused", fmt.Sprintf("%s%s%s", refused.URL,
			prefixed(", asked for by ", refused.Object), prefixed(" in ", refused.Environment)))
	}
	if count := len(t.SimulatedPods); count > 0 {
		t.note("simulated", fmt.Sprintf("%s without a program behind them (%s)", plural(count, "pod"),
			perEnvironment(t.SimulatedPods, func(p SimulatedPod) string { return p.Environment })))
	}
	for _, backend := range t.SimulatedBackends {
		t.note("simulated", fmt.Sprintf("%s %s%s: nothing answers behind Service %s",
			backend.Kind, backend.Name, prefixed(" in ", backend.Environment), backend.Service))
	}
	t.overrides()
	for _, note := range t.Notes {
		t.note("note", note)
	}
	if t.out.Len() > before {
		t.out.WriteString("\n")
	}
}

// reasons lists the outcomes of one result, those with one check and one reason
// together.
func (t *text) reasons(result Result, reason func(Outcome) string) {
	type group struct{ id, reason string }
	var groups []group
	places := map[group][]string{}
	for _, o := range t.Outcomes {
		if o.Result != result {
			continue
		}
		key := group{o.Check, reason(o)}
		if places[key] == nil {
			groups = append(groups, key)
		}
		places[key] = append(places[key], where(o.Environment, o.Tenant))
	}
	for _, key := range groups {
		t.note(resultWords[result], fmt.Sprintf("%s (%s): %s", key.id, abridge(places[key]), key.reason))
	}
}

// overrides counts what differs from what the platform declares; each difference
// stands in the report.
func (t *text) overrides() {
	if count := len(t.Overrides); count > 0 {
		t.note("overrides", fmt.Sprintf("%s of what the platform declares, each with its reason in %s",
			plural(count, "override"), ReportFile))
	}
	if count := len(t.NotHonoured); count > 0 {
		t.note("left out", fmt.Sprintf("%s that pods declare and programs on this machine do not get, each with its reason in %s",
			plural(count, "setting"), ReportFile))
	}
}

// result is the last line.
func (t *text) result() {
	counts := map[Result]int{}
	extended := 0
	for _, o := range t.Outcomes {
		counts[o.Result]++
		if o.Result == Failed && t.checks[o.Check].Level == Extended {
			extended++
		}
	}
	colour := Bad
	if t.Result == RunPassed {
		colour = Good
	}
	line := ": no check was judged"
	if len(t.Outcomes) > 0 {
		line = ": " + countsText(counts)
	}
	if extended > 0 && t.Result == RunPassed {
		line += " (extended, so they do not fail the run)"
	}
	fmt.Fprintf(&t.out, "%s%s; %.1f s\n", t.options.Paint(colour, string(t.Result)), line, t.Seconds)
}

// noteIndent is the width of the longest name of a note, with its gap.
const noteIndent = len("not supported") + 2

func (t *text) note(name, value string) {
	t.out.WriteString(t.options.Paint(Notice, fmt.Sprintf("%-*s", noteIndent, name)) + t.wrapped(value, noteIndent, noteIndent))
}

// field is a named text, wrapped beside its name. An empty one is left out.
func (t *text) field(indent int, name, value string) {
	if value == "" {
		return
	}
	const nameWidth = len("artifacts") + 1
	t.out.WriteString(strings.Repeat(" ", indent) + fmt.Sprintf("%-*s", nameWidth, name) +
		t.wrapped(value, indent+nameWidth, indent+nameWidth))
}

func (t *text) wrapped(value string, at, indent int) string {
	return t.options.Wrapped(value, at, indent)
}

// Wrapped breaks a text between words. The first line begins at column at, the
// others at column indent; line breaks of the text itself are kept, and so is the
// indentation behind them, for the shape of a diff or YAML is worth keeping.
func (o TextOptions) Wrapped(value string, at, indent int) string {
	columns := o.Columns()
	var out strings.Builder
	margin := strings.Repeat(" ", indent)
	for i, line := range strings.Split(strings.TrimRight(value, "\n"), "\n") {
		line = Printable(strings.TrimRight(line, "\r"))
		if i > 0 {
			out.WriteString(margin)
			at = indent
		}
		if at+utf8.RuneCountInString(line) <= columns {
			out.WriteString(line + "\n")
			continue
		}
		lead := line[:len(line)-len(strings.TrimLeft(line, " "))]
		out.WriteString(lead)
		at += len(lead)
		fresh := true
		for _, word := range strings.Fields(line) {
			width := utf8.RuneCountInString(word)
			switch {
			case fresh:
			case at+1+width > columns:
				out.WriteString("\n" + margin)
				at = indent
			default:
				out.WriteString(" ")
				at++
			}
			out.WriteString(word)
			at += width
			fresh = false
		}
		out.WriteString("\n")
	}
	return out.String()
}

// Printable replaces control characters: what a cluster says must not move the
// cursor of the one who reads it.
func Printable(value string) string {
	return strings.Map(func(char rune) rune {
		if char == '\t' {
			return ' '
		}
		if unicode.IsControl(char) || unicode.Is(unicode.Cf, char) {
			return unicode.ReplacementChar
		}
		return char
	}, value)
}

func prefixed(prefix, value string) string {
	if value == "" {
		return ""
	}
	return prefix + value
}

func plural(count int, noun string) string {
	if count == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", count, noun)
}

// perEnvironment counts items, for example "dev 4, prd 4".
func perEnvironment[T any](items []T, environment func(T) string) string {
	var names []string
	counts := map[string]int{}
	for _, item := range items {
		name := cmp.Or(environment(item), platformTitle)
		if counts[name] == 0 {
			names = append(names, name)
		}
		counts[name]++
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, counts[name])
	}
	return strings.Join(names, ", ")
}
