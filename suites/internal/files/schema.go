package files

import (
	"fmt"
	"path"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// schemaRules judge values by their schemas, and the schemas themselves.
var schemaRules = []rule{
	{Check: check.Check{
		ID:        "FILE-007",
		Title:     "the tenant has a schema of its values, which is valid and closed",
		Why:       "without a schema, or with one that lets any key pass, a key mistyped is accepted and has no effect",
		Remedy:    "add schemas/TENANT.schema.json beside the values; close every object with additionalProperties: false, or say of what kind its free keys are",
		Reference: "https://json-schema.org/understanding-json-schema/reference/object#additionalproperties",
	}, ofTenant: schemas},
	{Check: check.Check{
		ID:        "FILE-008",
		Title:     "each of the tenant's values is valid by its schema",
		Why:       "a value of the wrong type or name rolls out like any other, and fails when the service reads it",
		Remedy:    "mend the value, or the schema in schemas/TENANT.schema.json",
		Reference: "https://json-schema.org/draft/2020-12",
	}, ofTenant: validValues},
}

func schemas(_ *reading, _ *platform.Environment, t *platform.Tenant) verdict {
	v := verdict{}
	if t.Schema == nil {
		v.unknown = withoutValues(t)
		for _, value := range t.Values {
			v.add(value.File.Origin, "has no schema: %s does not exist beside it", path.Join("schemas", t.Name+schemaEnding))
			break
		}
		return v
	}
	at := t.Schema.Origin
	if err := platform.ValidSchema(t.Schema.Content); err != nil {
		v.add(at, "%s", err)
		return v
	}
	documents, syntax := decode(t.Schema.Content)
	if syntax != nil || len(documents) != 1 {
		v.add(at, "is no single JSON document")
		return v
	}
	for _, o := range open(documents[0], "", 0) {
		at.Line = o.line
		v.add(at, "%s", o.why)
	}
	return v
}

type opening struct {
	line int
	why  string
}

// open lists the places where a schema lets keys pass that it does not know. What
// stands under if, then, else and not only tells cases apart; what stands under
// allOf adds to an object that is closed where it is declared.
func open(node *yaml.Node, pointer string, depth int) []opening {
	const deepest = 100
	if depth > deepest {
		return nil
	}
	here := "/" + pointer
	if node.Kind == yaml.ScalarNode {
		if node.ShortTag() == "!!bool" && node.Value == "true" {
			return []opening{{node.Line, here + ": true allows anything"}}
		}
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	has := func(keys ...string) bool {
		for _, key := range keys {
			if field(node, key) != nil {
				return true
			}
		}
		return false
	}
	var out []opening
	free := field(node, "additionalProperties")
	if free == nil {
		free = field(node, "unevaluatedProperties")
	}
	object := describesObjects(field(node, "type")) || has("properties", "patternProperties")
	switch {
	case free == nil && object && !has("$ref", "allOf", "anyOf", "oneOf", "const", "enum"):
		out = append(out, opening{node.Line, fmt.Sprintf("%s: an object without additionalProperties takes any key", here)})
	case free != nil && (free.Kind == yaml.ScalarNode && free.Value == "true" || free.Kind == yaml.MappingNode && len(free.Content) == 0):
		out = append(out, opening{free.Line, fmt.Sprintf("%s: additionalProperties allows any key with any value", here)})
		free = nil
	case !object && pointer == "" && !tells(node, 0):
		out = append(out, opening{node.Line, here + ": the schema says nothing of the type, and so takes anything"})
	}
	into := func(key string, child *yaml.Node) {
		if child != nil {
			out = append(out, open(aliased(child), pointer+key, depth+1)...)
		}
	}
	if free != nil && free.Kind == yaml.MappingNode {
		into("additionalProperties/", free)
	}
	into("items/", field(node, "items"))
	for _, key := range []string{"properties", "patternProperties", "$defs", "definitions"} {
		if children := field(node, key); children != nil && children.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(children.Content); i += 2 {
				into(key+"/"+children.Content[i].Value+"/", children.Content[i+1])
			}
		}
	}
	lists := []string{"prefixItems"}
	if !object && free == nil {
		lists = append(lists, "anyOf", "oneOf", "allOf")
	}
	for _, key := range lists {
		for i, child := range sequence(field(node, key)) {
			into(fmt.Sprintf("%s/%d/", key, i), child)
		}
	}
	return out
}

// tells says whether a schema tells of what type values are: by itself, by one that
// they must match too, or by each of several of which they match one.
func tells(node *yaml.Node, depth int) bool {
	const deepest = 100
	node = aliased(node)
	if depth > deepest || node.Kind != yaml.MappingNode {
		return false
	}
	for _, key := range []string{"type", "$ref", "const", "enum", "properties", "patternProperties"} {
		if field(node, key) != nil {
			return true
		}
	}
	child := func(n *yaml.Node) bool { return tells(n, depth+1) }
	if slices.ContainsFunc(sequence(field(node, "allOf")), child) {
		return true
	}
	for _, key := range []string{"anyOf", "oneOf"} {
		list := sequence(field(node, key))
		if len(list) > 0 && !slices.ContainsFunc(list, func(n *yaml.Node) bool { return !child(n) }) {
			return true
		}
	}
	return false
}

// describesObjects says whether a type, or one of several, is that of objects.
func describesObjects(kind *yaml.Node) bool {
	if text(kind) == "object" {
		return true
	}
	for _, item := range sequence(kind) {
		if text(item) == "object" {
			return true
		}
	}
	return false
}

func validValues(_ *reading, _ *platform.Environment, t *platform.Tenant) verdict {
	v := verdict{unknown: withoutValues(t)}
	switch {
	case v.unknown != "":
		return v
	case t.Schema == nil:
		return verdict{unknown: "it has no schema, as FILE-007 says"}
	case platform.ValidSchema(t.Schema.Content) != nil:
		return verdict{unknown: "its schema is not valid, as FILE-007 says"}
	}
	for _, value := range t.Values {
		if err := platform.Validate(t.Schema.Content, value.File.Content); err != nil {
			ofValue(&v, value.File.Origin, err)
		}
	}
	return v
}
