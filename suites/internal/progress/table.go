package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// WriteTable writes where the time went: a row per phase, a column per
// environment, and what was waited for longest in that phase. Phases stand in the
// order in which they first began.
func WriteTable(w io.Writer, phases []check.Phase) error {
	var names, environments []string
	seconds := map[[2]string]float64{}
	longest := map[string]check.Phase{}
	for _, p := range phases {
		if !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
		if !slices.Contains(environments, p.Environment) {
			environments = append(environments, p.Environment)
		}
		seconds[[2]string{p.Name, p.Environment}] += p.Seconds
		if len(p.WaitedFor) > 0 {
			if known := longest[p.Name]; len(known.WaitedFor) == 0 || known.WaitedFor[0].Seconds < p.WaitedFor[0].Seconds {
				longest[p.Name] = p
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(environments)

	const padding = 2
	table := tabwriter.NewWriter(w, 0, 0, padding, ' ', 0)
	row := func(cells ...string) {
		// Errors of a tabwriter come back from Flush as well.
		_, _ = fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	header := []string{"phase"}
	for _, environment := range environments {
		if environment == "" {
			environment = "all"
		}
		header = append(header, environment)
	}
	row(append(header, "longest wait")...)
	for _, name := range names {
		cells := []string{name}
		for _, environment := range environments {
			cell := "-"
			if taken, ok := seconds[[2]string{name, environment}]; ok {
				cell = short(taken)
			}
			cells = append(cells, cell)
		}
		wait := "-"
		if p := longest[name]; len(p.WaitedFor) > 0 {
			wait = fmt.Sprintf("%s, %s", printable(p.WaitedFor[0].Object), short(p.WaitedFor[0].Seconds))
			if p.Environment != "" {
				wait = p.Environment + ": " + wait
			}
		}
		row(append(cells, wait)...)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the table of phases: %w", err)
	}
	return nil
}
