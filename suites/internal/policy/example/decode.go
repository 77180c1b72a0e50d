package example

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

// text is a string and the line on which it stands.
type text struct {
	string
	line int
}

// located is a field of what wants to know on which line it begins.
type located struct{ line int }

// Bounds on what aliases may multiply a document by, and on how deep it is.
const (
	mostAliased = 200_000
	mostDepth   = 500
)

// decoder reads a parsed document into Go types by their JSON names, goes on after
// what it does not understand, and says so with the line.
type decoder struct {
	file string
	// offset is added to the lines of the nodes.
	offset int
	// folds: the case of keys does not count, as for encoding/json.
	folds    bool
	findings []Finding
	// aliases counts those that are being followed, and aliased the nodes that were
	// read through any.
	aliases, aliased int
	exceeded         bool
}

func (d *decoder) find(node *yaml.Node, format string, values ...any) {
	d.findings = append(d.findings, Finding{
		Place: Place{File: d.file, Line: node.Line + d.offset}, Text: fmt.Sprintf(format, values...),
	})
}

var (
	textType        = reflect.TypeFor[text]()
	locatedType     = reflect.TypeFor[located]()
	unmarshalerType = reflect.TypeFor[json.Unmarshaler]()
)

// decode reads a node into a value that can be set; path names it in findings.
func (d *decoder) decode(node *yaml.Node, to reflect.Value, path string, depth int) {
	if d.exceeds(node, depth) {
		return
	}
	if node.Kind == yaml.AliasNode {
		d.aliases++
		d.decode(node.Alias, to, path, depth+1)
		d.aliases--
		return
	}
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return
	}
	kind := to.Type()
	if kind == textType {
		if d.expect(node, yaml.ScalarNode, path, "a text") && d.isText(node, path) {
			to.Set(reflect.ValueOf(text{node.Value, node.Line + d.offset}))
		}
		return
	}
	if kind.Kind() == reflect.Interface || reflect.PointerTo(kind).Implements(unmarshalerType) {
		d.opaque(node, to, path)
		return
	}
	switch kind.Kind() {
	case reflect.Pointer:
		if to.IsNil() {
			to.Set(reflect.New(kind.Elem()))
		}
		d.decode(node, to.Elem(), path, depth+1)
	case reflect.Struct:
		if d.expect(node, yaml.MappingNode, path, "a mapping") {
			d.fields(node, to, path, depth)
		}
	case reflect.Map:
		if !d.expect(node, yaml.MappingNode, path, "a mapping") {
			return
		}
		to.Set(reflect.MakeMap(kind))
		d.pairs(node, path, depth, func(key, value *yaml.Node) {
			element := reflect.New(kind.Elem()).Elem()
			d.decode(value, element, below(path, key.Value), depth+1)
			if kind.Key().Kind() == reflect.String {
				to.SetMapIndex(reflect.ValueOf(key.Value).Convert(kind.Key()), element)
			}
		})
	case reflect.Slice, reflect.Array:
		if kind.Elem().Kind() == reflect.Uint8 {
			d.opaque(node, to, path)
			return
		}
		if !d.expect(node, yaml.SequenceNode, path, "a list") || kind.Kind() == reflect.Array {
			return
		}
		list := reflect.MakeSlice(kind, len(node.Content), len(node.Content))
		for i, element := range node.Content {
			d.decode(element, list.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
		to.Set(list)
	case reflect.String:
		if d.expect(node, yaml.ScalarNode, path, "a text") && d.isText(node, path) {
			to.SetString(node.Value)
		}
	case reflect.Bool:
		if d.expect(node, yaml.ScalarNode, path, "true or false") {
			switch strings.ToLower(node.Value) {
			case "true", "yes", "on", "y":
				to.SetBool(true)
			case "false", "no", "off", "n":
			default:
				d.find(node, "%s is %q, where true or false is expected", path, node.Value)
			}
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if !d.expect(node, yaml.ScalarNode, path, "a whole number") {
			return
		}
		number, err := strconv.ParseInt(node.Value, 0, 64)
		if err != nil || to.OverflowInt(number) || node.Tag == "!!str" {
			d.find(node, "%s is %q, where a whole number is expected", path, node.Value)
			return
		}
		to.SetInt(number)
	default:
		d.opaque(node, to, path)
	}
}

// expect says so when a node has another form than the one that is read.
func (d *decoder) expect(node *yaml.Node, want yaml.Kind, path, what string) bool {
	if node.Kind == want {
		return true
	}
	forms := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
	if path == "" {
		path = "the document"
	}
	d.find(node, "%s is %s, where %s is expected", path, forms[node.Kind], what)
	return false
}

// isText tells whether a scalar is a text for YAML as well.
func (d *decoder) isText(node *yaml.Node, path string) bool {
	switch node.Tag {
	case "!!int", "!!float", "!!bool":
		d.find(node, "%s is %s, where a text is expected: put it in quotes", path, node.Value)
		return false
	}
	return true
}

// opaque leaves the reading to the type itself.
func (d *decoder) opaque(node *yaml.Node, to reflect.Value, path string) {
	expanded := d.expand(node, 0)
	if d.exceeded {
		return
	}
	data, err := yaml.Marshal(expanded)
	if err != nil {
		d.find(node, "%s cannot be read: %s", path, firstLine(err.Error()))
		return
	}
	into := reflect.New(to.Type())
	if err := sigsyaml.Unmarshal(data, into.Interface()); err != nil {
		d.find(node, "%s cannot be read: %s", path, firstLine(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: ")))
		return
	}
	to.Set(into.Elem())
}

// exceeds tells whether a node is beyond what is read.
func (d *decoder) exceeds(node *yaml.Node, depth int) bool {
	if d.aliases > 0 {
		d.aliased++
	}
	if d.aliased <= mostAliased && depth <= mostDepth {
		return false
	}
	if !d.exceeded {
		d.find(node, "its aliases multiply it beyond what can be read; write them out")
	}
	d.exceeded = true
	return true
}

// expand copies a node with what its aliases stand for.
func (d *decoder) expand(node *yaml.Node, depth int) *yaml.Node {
	if d.exceeds(node, depth) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	if node.Kind == yaml.AliasNode {
		d.aliases++
		defer func() { d.aliases-- }()
		return d.expand(node.Alias, depth+1)
	}
	out := *node
	out.Anchor, out.Content = "", nil
	for _, child := range node.Content {
		out.Content = append(out.Content, d.expand(child, depth+1))
	}
	return &out
}

// fields reads a mapping into a struct.
func (d *decoder) fields(node *yaml.Node, to reflect.Value, path string, depth int) {
	known := map[string]reflect.Value{}
	var names []string
	fieldsOf(to, func(name string, field reflect.Value) {
		names = append(names, name)
		known[d.fold(name)] = field
	}, node.Line+d.offset)
	d.pairs(node, path, depth, func(key, value *yaml.Node) {
		field, ok := known[d.fold(key.Value)]
		if !ok {
			d.unknown(key, path, names)
			return
		}
		d.decode(value, field, below(path, key.Value), depth+1)
	})
}

func (d *decoder) fold(key string) string {
	if d.folds {
		return strings.ToLower(key)
	}
	return key
}

// pairs goes through a mapping, with what it merges, and says which keys stand
// twice.
func (d *decoder) pairs(node *yaml.Node, path string, depth int, each func(key, value *yaml.Node)) {
	if d.exceeds(node, depth) {
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			d.find(key, "a key of %s is no text", path)
			continue
		}
		if key.Tag == "!!merge" {
			d.merged(value, path, depth+1, each)
			continue
		}
		if line, twice := seen[d.fold(key.Value)]; twice {
			d.find(key, "the key %q stands on line %d already; remove one of them", key.Value, line)
			continue
		}
		seen[d.fold(key.Value)] = key.Line + d.offset
		each(key, value)
	}
}

func (d *decoder) merged(value *yaml.Node, path string, depth int, each func(key, value *yaml.Node)) {
	switch {
	case d.exceeds(value, depth):
	case value.Kind == yaml.AliasNode:
		d.aliases++
		d.merged(value.Alias, path, depth+1, each)
		d.aliases--
	case value.Kind == yaml.MappingNode:
		d.pairs(value, path, depth, each)
	case value.Kind == yaml.SequenceNode:
		for _, element := range value.Content {
			d.merged(element, path, depth+1, each)
		}
	}
}

// fieldsOf calls each for the fields of a struct, those of embedded structs
// included, by their JSON names.
func fieldsOf(to reflect.Value, each func(name string, field reflect.Value), line int) {
	kind := to.Type()
	for i := range kind.NumField() {
		field := kind.Field(i)
		if field.Type == locatedType {
			to.Field(i).Set(reflect.ValueOf(located{line}))
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case !field.IsExported() || name == "-":
		case name == "" && (field.Anonymous || strings.Contains(options, "inline")):
			inner := to.Field(i)
			if inner.Kind() == reflect.Pointer {
				if inner.IsNil() {
					inner.Set(reflect.New(inner.Type().Elem()))
				}
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				fieldsOf(inner, each, line)
			}
		case name == "":
			each(field.Name, to.Field(i))
		default:
			each(name, to.Field(i))
		}
	}
}

func below(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
