package check

import (
	"cmp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// mostSuggestions bounds what an error offers: more is a list, not a hint.
const mostSuggestions = 3

// Nearest returns up to three of the candidates that name is likely to be a slip
// for, nearest first. A third of the name's letters may be wrong, two at least;
// case does not count. The result is empty when nothing is near.
func Nearest(name string, candidates []string) []string {
	name = strings.ToLower(strings.TrimSpace(name))
	if name == "" {
		return nil
	}
	allowed := max(2, len([]rune(name))/3)
	type near struct {
		name     string
		distance int
	}
	var found []near
	for _, candidate := range candidates {
		lower := strings.ToLower(candidate)
		distance := levenshtein.ComputeDistance(name, lower)
		// As many mistakes as letters would make every short name a neighbour.
		if distance <= allowed && distance < max(len([]rune(name)), len([]rune(lower))) {
			found = append(found, near{candidate, distance})
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	var names []string
	for _, f := range found {
		if len(names) < mostSuggestions && !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	return names
}

// DidYouMean ends an error about an unknown name: with the nearest candidates,
// else with all of them when they are few enough to read, else with nothing. The
// text begins with its own separator.
func DidYouMean(name string, candidates []string) string {
	if nearest := Nearest(name, candidates); len(nearest) > 0 {
		return "; did you mean " + strings.Join(nearest, " or ") + "?"
	}
	const readable = 12
	if len(candidates) > 0 && len(candidates) <= readable {
		sorted := slices.Sorted(slices.Values(candidates))
		return "; there are " + strings.Join(slices.Compact(sorted), ", ")
	}
	return ""
}
