package policy

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Differences lists the fields in which a case differs from another: of its object,
// of who asks and for what. A part that only one of the two has is one field, and
// so are two of which each stands in the place of the other, and a list that is
// longer. So are the two that say of which kind an object is. Names by which files
// tell examples apart do not count beside another difference.
func (c Case) Differences(from Case) []string {
	var out []string
	name := ""
	for _, field := range differences("", c.Object.Object, from.Object.Object) {
		switch field {
		case "metadata.name":
			name = field
		case "apiVersion", "kind":
			if !slices.Contains(out, "the kind") {
				out = append(out, "the kind")
			}
		default:
			out = append(out, field)
		}
	}
	if c.User != from.User || !slices.Equal(c.Groups, from.Groups) {
		out = append(out, "who asks")
	}
	if c.Operation != from.Operation {
		out = append(out, "the operation")
	}
	if name != "" && len(out) == 0 {
		out = append(out, name)
	}
	return out
}

func differences(path string, a, b any) []string {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return []string{path}
		}
		var keys []string
		for key := range x {
			keys = append(keys, key)
		}
		for key := range y {
			if _, both := x[key]; !both {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		var out, added, missing []string
		for _, key := range keys {
			below := strings.TrimPrefix(path+"."+key, ".")
			left, has := x[key]
			right, had := y[key]
			switch {
			case has && had:
				out = append(out, differences(below, left, right)...)
			case has:
				added = append(added, below)
			default:
				missing = append(missing, below)
			}
		}
		if len(added) < len(missing) {
			added = missing
		}
		return append(out, added...)
	case []any:
		y, ok := b.([]any)
		if !ok {
			return []string{path}
		}
		var out []string
		for i := range min(len(x), len(y)) {
			out = append(out, differences(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])...)
		}
		if len(x) != len(y) {
			out = append(out, path)
		}
		return out
	default:
		if !equality.Semantic.DeepEqual(a, b) {
			return []string{path}
		}
		return nil
	}
}
