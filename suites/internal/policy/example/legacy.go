package example

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// legacyText holds the names of the fields of the kinds of kyverno.io: objects for
// fields by name, or «*» for any name; lists of one for lists; null for what may be
// anything. scripts/policyfields makes it for each release of Kyverno.
//
//go:embed legacy.json
var legacyText []byte

// legacyFields are those fields by apiVersion/kind.
var legacyFields = sync.OnceValue(func() map[string]any {
	var out map[string]any
	if err := json.Unmarshal(legacyText, &out); err != nil {
		panic(fmt.Sprintf("legacy.json, which is part of the program, is broken: %v", err))
	}
	return out
})

// compare finds the keys of a node that are none of these fields.
func (d *decoder) compare(node *yaml.Node, fields any, path string, depth int) {
	if fields == nil || d.exceeds(node, depth) || node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return
	}
	if node.Kind == yaml.AliasNode {
		d.aliases++
		d.compare(node.Alias, fields, path, depth+1)
		d.aliases--
		return
	}
	switch known := fields.(type) {
	case []any:
		if d.expect(node, yaml.SequenceNode, path, "a list") {
			for i, element := range node.Content {
				d.compare(element, known[0], fmt.Sprintf("%s[%d]", path, i), depth+1)
			}
		}
	case map[string]any:
		if !d.expect(node, yaml.MappingNode, path, "a mapping") {
			return
		}
		all, anyName := known["*"]
		d.pairs(node, path, depth, func(key, value *yaml.Node) {
			field, ok := known[key.Value]
			switch {
			case ok:
				d.compare(value, field, below(path, key.Value), depth+1)
			case anyName:
				d.compare(value, all, below(path, key.Value), depth+1)
			default:
				d.unknown(key, path, slices.Collect(maps.Keys(known)))
			}
		})
	}
}

// unknown says that a key is none of the names.
func (d *decoder) unknown(key *yaml.Node, path string, names []string) {
	where := ""
	if path != "" {
		where = " of " + path
	}
	d.find(key, "unknown key %q%s%s", key.Value, where, check.DidYouMean(key.Value, names))
}
