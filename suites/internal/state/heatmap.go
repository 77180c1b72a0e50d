package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// The colours of a heat map: what is as it has to be, what is there for a reason,
// and what is a surprise.
const (
	calm  = "32"
	warm  = "33"
	alarm = "31;1"
)

// mostColumns is how many owners a heat map shows side by side; beyond that it
// shows an identity's own, the other tenants' and the platform's.
const mostColumns = 8

// mostRows is how many identities a heat map shows one by one; beyond that those
// of a role that hold no surprise are one row.
const mostRows = 24

// tally counts the cells of one identity and one owner.
type tally struct{ needed, residual, guarded, untried, unanswered, may, mayNot, unknown int }

func (t tally) surprises() bool { return t.unanswered+t.may+t.mayNot > 0 }

func (t *tally) add(o tally) {
	t.needed += o.needed
	t.residual += o.residual
	t.guarded += o.guarded
	t.untried += o.untried
	t.unanswered += o.unanswered
	t.may += o.may
	t.mayNot += o.mayNot
	t.unknown += o.unknown
}

// row is an identity, or several, of a heat map.
type row struct {
	name, role string
	tallies    map[string]*tally
	given      int
}

// gather makes one row of those of a role that hold no surprise.
func gather(rows []row) []row {
	if len(rows) <= mostRows {
		return rows
	}
	var out []row
	given, members := map[string]int{}, map[string]int{}
	var order []string
	sums := map[string]*row{}
	for _, r := range rows {
		alarming := false
		for _, t := range r.tallies {
			alarming = alarming || t.surprises()
		}
		if alarming {
			out = append(out, r)
			continue
		}
		sum := sums[r.role]
		if sum == nil {
			sum = &row{role: r.role, tallies: map[string]*tally{}}
			sums[r.role] = sum
			order = append(order, r.role)
		}
		members[r.role]++
		given[r.role] += r.given
		for _, name := range sortedKeys(r.tallies) {
			if sum.tallies[name] == nil {
				sum.tallies[name] = &tally{}
			}
			sum.tallies[name].add(*r.tallies[name])
		}
	}
	for _, role := range order {
		sum := sums[role]
		sum.name, sum.given = fmt.Sprintf("%d without surprise", members[role]), given[role]
		out = append(out, *sum)
	}
	return out
}

// mark is a part of a heat map's cell.
type mark struct {
	count  int
	sign   string
	colour string
}

func (t tally) marks() []mark {
	return []mark{
		{t.needed, "", calm},
		{t.residual, "r", warm},
		{t.guarded, "p", warm},
		{t.untried, "o", warm},
		{t.unknown, "?", warm},
		{t.unanswered, "x", alarm},
		{t.may, "!", alarm},
		{t.mayNot, "-", alarm},
	}
}

// HeatMap is the matrix for a person: who may do how much to whose objects, and
// why what is more than needed is there. With colour it is painted for a terminal.
func (m *Matrix) HeatMap(colour bool) string {
	columns := slices.DeleteFunc(slices.Clone(m.victims), func(victim string) bool { return victim == OfPlatform })
	columns = append(columns, OfPlatform)
	column := func(_ Identity, victim string) string { return victim }
	if len(m.victims) > mostColumns {
		columns = []string{"its own", "other tenants", OfPlatform}
		column = func(identity Identity, victim string) string {
			switch {
			case slices.Contains(identity.Tenants, victim):
				return columns[0]
			case victim == OfPlatform:
				return OfPlatform
			}
			return columns[1]
		}
	}
	tallies := make([]map[string]*tally, len(m.Identities))
	given := make([]int, len(m.Identities))
	counted := map[Request]bool{}
	// What is there for which reason: verbs of each kind.
	reasons := map[string]map[string][]string{}
	for i := range m.Cells {
		c := &m.Cells[i]
		name := column(m.Identities[c.Identity], c.Victim)
		if tallies[c.Identity] == nil {
			tallies[c.Identity] = map[string]*tally{}
		}
		t := tallies[c.Identity][name]
		if t == nil {
			t = &tally{}
			tallies[c.Identity][name] = t
		}
		allowed := m.Allowed(c)
		switch may, mayNot := m.surprise(c); {
		case may:
			t.may++
		case mayNot:
			t.mayNot++
		case !allowed && c.Problem == "":
		case c.Problem != "":
			t.unanswered++
		case c.Expected == Needed:
			t.needed++
		case c.Expected == Guarded && c.RefusedBy == "":
			t.untried++
		case c.Expected == Guarded:
			t.guarded++
		case c.Expected == Unknown:
			t.unknown++
		case c.Expected == Residual:
			t.residual++
		case c.Expected == Given:
			// It is about nobody's objects.
			if q := m.Requests[c.request]; !counted[q] {
				counted[q] = true
				given[c.Identity]++
			}
		}
		if allowed && c.Expected == Residual {
			if reasons[c.Reason] == nil {
				reasons[c.Reason] = map[string][]string{}
			}
			if !slices.Contains(reasons[c.Reason][c.Kind()], c.Verb) {
				reasons[c.Reason][c.Kind()] = append(reasons[c.Reason][c.Kind()], c.Verb)
			}
		}
	}
	paint := func(code, text string) string {
		if !colour || code == "" {
			return text
		}
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	all := make([]row, 0, len(m.Identities))
	for i, identity := range m.Identities {
		all = append(all, row{identity.Name, identity.Role, tallies[i], given[i]})
	}
	rows := [][]string{append([]string{"who", "as"}, columns...)}
	rows[0] = append(rows[0], "everybody's")
	painted := [][]string{rows[0]}
	for _, one := range gather(all) {
		plain, bright := []string{one.name, one.role}, []string{one.name, one.role}
		for _, name := range columns {
			var p, b []string
			if t := one.tallies[name]; t != nil {
				for _, mark := range t.marks() {
					if mark.count > 0 {
						text := fmt.Sprintf("%d%s", mark.count, mark.sign)
						p, b = append(p, text), append(b, paint(mark.colour, text))
					}
				}
			}
			if len(p) == 0 {
				p, b = []string{"·"}, []string{"·"}
			}
			plain, bright = append(plain, strings.Join(p, " ")), append(bright, strings.Join(b, " "))
		}
		text := fmt.Sprint(one.given)
		rows, painted = append(rows, append(plain, text)), append(painted, append(bright, text))
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for j, text := range row {
			widths[j] = max(widths[j], utf8.RuneCountInString(text))
		}
	}
	var out strings.Builder
	for i, row := range painted {
		var line strings.Builder
		for j, text := range row {
			line.WriteString(text)
			line.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(rows[i][j])+2))
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	out.WriteString("\nHow much each identity (rows) may do to what is whose (columns): " + paint(calm, "N") + " needed, " +
		paint(warm, "Nr") + " residual, for the reasons below, " + paint(warm, "Np") + " allowed by RBAC and refused by a policy, " +
		paint(warm, "No") + " allowed by RBAC, with no object there to try it on, " + paint(warm, "N?") + " not judged, " +
		paint(alarm, "Nx") + " tried and not answered as it must be, " +
		paint(alarm, "N!") + " allowed by surprise, " + paint(alarm, "N-") + " needed and not allowed, · nothing.\n")
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		out.WriteString("residual: " + verbsOf(reasons[reason]) + ": " + reason + "\n")
	}
	out.WriteString("judged: " + m.Sampling.String() + "\n")
	return out.String()
}
