package platform

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// nearest returns those of names that are close to name, closest first, three
// at most.
func nearest(name string, names []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	for _, n := range names {
		distance := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(n))
		if distance <= max(2, len(name)/3) || strings.Contains(n, name) && len(name) > 2 {
			found = append(found, candidate{n, distance})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.distance - b.distance })
	var out []string
	for _, c := range found {
		if len(out) < 3 && !slices.Contains(out, c.name) {
			out = append(out, c.name)
		}
	}
	return out
}

// suggestion renders the nearest names for the end of a message.
func suggestion(name string, names []string) string {
	near := nearest(name, names)
	if len(near) == 0 {
		return ""
	}
	return fmt.Sprintf("; is %s meant?", strings.Join(near, " or "))
}

// nearestPath looks at the deepest folder of name that exists for a name close
// to the part that does not.
func nearestPath(t *tree, name string) string {
	for p := name; p != "." && p != "" && p != "/"; p = path.Dir(p) {
		dir := path.Dir(p)
		if !t.isDir(dir) {
			continue
		}
		if near := nearest(path.Base(p), t.list(dir)); len(near) > 0 {
			return fmt.Sprintf("; is %s meant?", path.Join(dir, near[0]))
		}
		break
	}
	return ""
}
