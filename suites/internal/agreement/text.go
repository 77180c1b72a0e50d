package agreement

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// WriteText writes the comparison for a person. Its head are the counts; then come
// the disagreements, what was judged on one side only, the outcomes and the times
// beside each other, and as the last line the result.
func (c Comparison) WriteText(w io.Writer) error {
	t := &text{Comparison: c}
	if len(c.Sides) > 0 {
		t.line("%s", c.head())
		t.line("")
		t.disagreements(Unexplained)
		t.disagreements(Explained)
	}
	for _, problem := range c.Problems {
		t.line("%s %s", strings.ToUpper(string(c.Result)), problem)
	}
	if len(c.Sides) > 0 && len(c.Problems) > 0 {
		t.line("")
	}
	t.unjudged()
	t.failing()
	for _, note := range c.Notes {
		t.line("note: %s", note)
	}
	t.outcomes()
	t.times()
	t.line("%s", c.last())
	if _, err := io.WriteString(w, t.out.String()); err != nil {
		return fmt.Errorf("writing the comparison: %w", err)
	}
	return nil
}

// text builds the summary piece by piece.
type text struct {
	Comparison
	out strings.Builder
}

func (t *text) line(format string, args ...any) {
	lines := strings.Split(fmt.Sprintf(format, args...), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(check.Printable(line), " ")
	}
	t.out.WriteString(strings.Join(lines, "\n    ") + "\n")
}

// head are the counts.
func (c Comparison) head() string {
	n := c.Counts
	parts := []string{fmt.Sprintf("%d agree", n.Agree)}
	for _, count := range []struct {
		number int
		words  string
	}{{n.OneSided, "judged on one side only"}, {n.Neither, "judged on neither"}, {n.LeftOut, "left out"}} {
		if count.number > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count.number, count.words))
		}
	}
	return fmt.Sprintf("%s and %s: %d unexplained and %d explained disagreements; %s",
		c.Sides[0].Provider, c.Sides[1].Provider, n.Unexplained, n.Explained, strings.Join(parts, ", "))
}

func (t *text) disagreements(which Verdict) {
	for _, o := range t.Outcomes {
		if o.Verdict != which {
			continue
		}
		t.line("%s %s: %s", which, o.place(), t.results(o))
		t.line("  %s", o.Title)
		if o.Cause != "" {
			t.line("  because %s (%s)", o.Cause, o.Entry)
		}
		for i, said := range o.Said {
			if said.Detail != "" {
				t.line("  %s: %s", t.Sides[i].Provider, said.Detail)
			}
		}
		t.line("")
	}
}

// results is for example «PASSED on embedded, FAILED on kind».
func (t *text) results(o Outcome) string {
	var parts []string
	for i, said := range o.Said {
		parts = append(parts, fmt.Sprintf("%s on %s", said.Result, t.Sides[i].Provider))
	}
	return strings.Join(parts, ", ")
}

// unjudged lists what one side or neither could judge; those with one check and one
// reason together.
func (t *text) unjudged() {
	for judged, side := range t.Sides {
		lacking := 1 - judged
		t.group("only judged on "+side.Provider, func(o Outcome) (string, bool) {
			return t.Sides[lacking].Provider + ": " + o.Said[lacking].Detail, o.Verdict == OneSided && o.Said[lacking].Result == check.NotSupported
		})
	}
	t.group("judged on neither", func(o Outcome) (string, bool) {
		reason := t.Sides[0].Provider + ": " + o.Said[0].Detail
		if o.Said[1].Detail != o.Said[0].Detail {
			reason += "\n" + t.Sides[1].Provider + ": " + o.Said[1].Detail
		}
		return reason, o.Verdict == Neither
	})
}

// failing says plainly what failed, for what both sides say alike is agreement and
// yet no good news. Disagreements have been told.
func (t *text) failing() {
	t.group("FAILED, and no disagreement", func(o Outcome) (string, bool) {
		var found []string
		for i, said := range o.Said {
			if said.Result == check.Failed || said.Result == check.Waived {
				found = append(found, fmt.Sprintf("%s on %s: %s", said.Result, t.Sides[i].Provider, said.Detail))
			}
		}
		return strings.Join(found, "\n"), o.Failing() && (o.Verdict == Agree || o.Verdict == OneSided)
	})
}

// group lists the outcomes that are chosen under a title, those of one check and
// one reason in one entry.
func (t *text) group(title string, chosen func(Outcome) (reason string, ok bool)) {
	type entry struct{ check, reason string }
	var order []entry
	places := map[entry][]string{}
	count := 0
	for _, o := range t.Outcomes {
		reason, ok := chosen(o)
		if !ok {
			continue
		}
		count++
		key := entry{o.Check, reason}
		if places[key] == nil {
			order = append(order, key)
		}
		places[key] = append(places[key], o.place().where())
	}
	if count == 0 {
		return
	}
	t.line("%s (%d):", title, count)
	for _, key := range order {
		t.line("  %s (%s): %s", key.check, abridged(places[key]), key.reason)
	}
	t.line("")
}

// outcomes lays result beside result: a row for each check and environment, and
// for those tenants of which both sides say the same.
func (t *text) outcomes() {
	type row struct {
		check, environment, first, second string
		verdict                           Verdict
	}
	var rows []row
	tenants := map[row][]string{}
	for _, o := range t.Outcomes {
		if o.Verdict == LeftOut {
			continue
		}
		r := row{o.Check, cmp.Or(o.Environment, "-"), string(o.Said[0].Result), string(o.Said[1].Result), o.Verdict}
		if !slices.Contains(rows, r) {
			rows = append(rows, r)
		}
		if o.Tenant != "" {
			tenants[r] = append(tenants[r], o.Tenant)
		}
	}
	if len(rows) == 0 {
		return
	}
	table := t.table("check", "environment", "tenants", t.Sides[0].Provider, t.Sides[1].Provider, "")
	for _, r := range rows {
		word := ""
		if r.verdict != Agree {
			word = strings.ReplaceAll(strings.ToLower(string(r.verdict)), "_", " ")
		}
		if r.verdict == Unexplained {
			word = string(r.verdict)
		}
		table(r.check, r.environment, cmp.Or(abridged(tenants[r]), "-"), r.first, r.second, word)
	}
	table()
}

// times lays the times of the phases beside each other.
func (t *text) times() {
	if len(t.Phases) == 0 {
		return
	}
	first, second := t.Sides[0], t.Sides[1]
	table := t.table("phase", "environment", first.Provider, second.Provider, second.Provider+" : "+first.Provider)
	row := func(name, environment string, seconds []*float64, ratio *float64) {
		cells := []string{name, cmp.Or(environment, "all")}
		for _, taken := range seconds {
			cells = append(cells, number(taken, "%.1f s"))
		}
		table(append(cells, number(ratio, "%.1f"))...)
	}
	for _, p := range t.Phases {
		row(p.Name, p.Environment, p.Seconds, p.Ratio)
	}
	row("the run", "", []*float64{&first.Seconds, &second.Seconds}, ratio(&first.Seconds, &second.Seconds))
	table()
}

func number(value *float64, format string) string {
	if value == nil {
		return "-"
	}
	return fmt.Sprintf(format, *value)
}

// table returns what adds a row; without a cell it ends the table.
func (t *text) table(header ...string) func(cells ...string) {
	var out strings.Builder
	writer := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		if len(cells) > 0 {
			for i, cell := range cells {
				cells[i] = check.Printable(cell)
			}
			_, _ = fmt.Fprintln(writer, strings.Join(cells, "\t"))
			return
		}
		_ = writer.Flush() // a builder takes everything
		for line := range strings.Lines(out.String()) {
			t.out.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
		t.line("")
	}
	row(header...)
	return row
}

// last is the result as the last line says it.
func (c Comparison) last() string {
	if len(c.Sides) == 0 || c.Result == check.RunBroken {
		return fmt.Sprintf("%s: nothing was compared", c.Result)
	}
	line := fmt.Sprintf("%s: %s", c.Result, c.head())
	if c.Counts.Failing > 0 {
		line += fmt.Sprintf("; %d failed on a side or both", c.Counts.Failing)
	}
	return line
}
