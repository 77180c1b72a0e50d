package platform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"gopkg.in/yaml.v3"
)

const (
	maxValueBytes = 1 << 20 // what a ConfigMap can hold
	maxValueNodes = 200_000 // after aliases are followed
	maxValueDepth = 200
)

// Validate tells whether a YAML document is valid by a JSON Schema. The error
// lists every violation as «line N: /path: what is wrong». Duplicate keys, more
// than one document, and aliases that multiply beyond what a value needs are
// refused, and so is a schema that refers to anything outside of itself.
func Validate(schema, value []byte) error {
	compiled, err := compileSchema(schema)
	if err != nil {
		return err
	}
	root, document, err := decodeValue(value)
	if err != nil {
		return err
	}
	err = compiled.Validate(document)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	var errs []error
	printer := message.NewPrinter(language.English)
	for _, leaf := range leaves(invalid) {
		where := "/" + strings.Join(leaf.InstanceLocation, "/")
		errs = append(errs, fmt.Errorf("line %d: %s: %s", lineAt(root, leaf), where, leaf.ErrorKind.LocalizedString(printer)))
	}
	return errors.Join(errs...)
}

func compileSchema(schema []byte) (compiled *jsonschema.Schema, err error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("schema: not valid JSON: %w", err)
	}
	const name = "schema.json"
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(name, document); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	compiled, err = compiler.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return compiled, nil
}

// noLoader keeps a schema from reading files or URLs.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s lies outside of the schema, and is not read; put it under $defs", url)
}

// leaves are the violations that have no cause of their own, in the order of
// the document.
func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var out []*jsonschema.ValidationError
	for _, cause := range e.Causes {
		out = append(out, leaves(cause)...)
	}
	slices.SortStableFunc(out, func(a, b *jsonschema.ValidationError) int {
		return slices.Compare(a.InstanceLocation, b.InstanceLocation)
	})
	return out
}

// lineAt finds the line of what a violation is about; of a key that is too much
// the line of that key.
func lineAt(root *yaml.Node, e *jsonschema.ValidationError) int {
	node := root
	line := max(node.Line, 1)
	step := func(name string) bool {
		node = follow(node)
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == name {
					line, node = node.Content[i].Line, node.Content[i+1]
					return true
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(node.Content) {
				node = node.Content[i]
				line = node.Line
				return true
			}
		}
		return false
	}
	for _, name := range e.InstanceLocation {
		if !step(name) {
			return line
		}
	}
	if extra, ok := e.ErrorKind.(*kind.AdditionalProperties); ok && len(extra.Properties) > 0 {
		step(extra.Properties[0])
	}
	return line
}

func follow(node *yaml.Node) *yaml.Node {
	for range maxValueDepth {
		if node.Kind != yaml.AliasNode {
			break
		}
		node = node.Alias
	}
	return node
}

// decodeValue reads one YAML document into what JSON knows.
func decodeValue(value []byte) (*yaml.Node, any, error) {
	if len(value) > maxValueBytes {
		return nil, nil, fmt.Errorf("the value has %d bytes, a ConfigMap holds %d at most", len(value), maxValueBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(value))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return &yaml.Node{Line: 1}, nil, nil
	case err != nil:
		return nil, nil, valueSyntax(err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, nil, fmt.Errorf("line %d: a second document begins; one is wanted", second.Line)
	case !errors.Is(err, io.EOF):
		return nil, nil, valueSyntax(err)
	}
	if len(document.Content) != 1 {
		return &document, nil, nil
	}
	root := document.Content[0]
	budget := maxValueNodes
	out, err := plain(root, 0, &budget)
	return root, out, err
}

func valueSyntax(err error) error {
	line, detail := yamlMistake(err)
	return fmt.Errorf("line %d: not valid YAML: %s", line, detail)
}

// plain turns a node into the values that a JSON document has.
func plain(node *yaml.Node, depth int, budget *int) (any, error) {
	*budget--
	if *budget < 0 {
		return nil, fmt.Errorf("line %d: excessive aliasing: the document grows beyond %d values", node.Line, maxValueNodes)
	}
	if depth > maxValueDepth {
		return nil, fmt.Errorf("line %d: nested more than %d levels deep", node.Line, maxValueDepth)
	}
	switch node.Kind {
	case yaml.AliasNode:
		return plain(node.Alias, depth+1, budget)
	case yaml.SequenceNode:
		out := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			v, err := plain(item, depth+1, budget)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case yaml.MappingNode:
		return plainMapping(node, depth, budget)
	}
	return plainScalar(node)
}

func plainMapping(node *yaml.Node, depth int, budget *int) (any, error) {
	out := map[string]any{}
	seen := map[string]int{}
	var merged []any // what «<<» brings, in order of precedence
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key has to be text; JSON knows no other", key.Line)
		}
		if line, ok := seen[key.Value]; ok {
			return nil, fmt.Errorf("line %d: duplicate key %q, first on line %d", key.Line, key.Value, line)
		}
		seen[key.Value] = key.Line
		v, err := plain(node.Content[i+1], depth+1, budget)
		if err != nil {
			return nil, err
		}
		if key.Tag != "!!merge" {
			out[key.Value] = v
			continue
		}
		if list, ok := v.([]any); ok {
			merged = append(merged, list...)
		} else {
			merged = append(merged, v)
		}
	}
	for _, m := range merged {
		from, ok := m.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("line %d: «<<» takes a mapping, or a list of them", seen["<<"])
		}
		for key, v := range from {
			if _, have := out[key]; !have {
				out[key] = v
			}
		}
	}
	return out, nil
}

func plainScalar(node *yaml.Node) (any, error) {
	switch node.Tag {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		if err := node.Decode(&b); err != nil {
			return nil, fmt.Errorf("line %d: %q is neither true nor false", node.Line, node.Value)
		}
		return b, nil
	case "!!int":
		var i int64
		if err := node.Decode(&i); err == nil {
			return json.Number(strconv.FormatInt(i, 10)), nil
		}
		var u uint64
		if err := node.Decode(&u); err == nil {
			return json.Number(strconv.FormatUint(u, 10)), nil
		}
		return nil, fmt.Errorf("line %d: %s is no whole number of 64 bits", node.Line, node.Value)
	case "!!float":
		var f float64
		if err := node.Decode(&f); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("line %d: %s is no number that JSON knows", node.Line, node.Value)
		}
		return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
	}
	return node.Value, nil
}
