package example

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	sigsyaml "sigs.k8s.io/yaml"
)

// document is one of the YAML documents of a file.
type document struct {
	data []byte
	// first is the line of the file on which data begins, and line the first that
	// says something; both count from 1.
	first, line int
}

// split cuts a file into its documents, and leaves out those that say nothing.
func split(data []byte) []document {
	var out []document
	var current document
	end := func() {
		if current.line > 0 {
			out = append(out, current)
		}
	}
	start := 0
	current.first = 1
	for number, offset := 1, 0; offset < len(data); number++ {
		next := len(data)
		if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
			next = offset + i + 1
		}
		line := data[offset:next]
		if separates(line) {
			current.data = data[start:offset]
			end()
			current = document{first: number + 1}
			start = next
		} else if current.line == 0 {
			if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' && text[0] != '%' {
				current.line = number
			}
		}
		offset = next
	}
	current.data = data[start:]
	end()
	return out
}

// separates tells whether a line ends a document: what else stands on it is a
// comment.
func separates(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	if !ok {
		return false
	}
	text := bytes.TrimSpace(rest)
	return len(text) == 0 || text[0] == '#' && rest[0] != '#'
}

const notYAML = "it is no valid YAML: "

var lineOfError = regexp.MustCompile(`line (\d+)`)

// problem makes a finding of an error of the YAML parser, which counts the lines
// of the document alone.
func (d document) problem(file string, err error) Finding {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.ReplaceAll(strings.TrimPrefix(text, "yaml: "), "\n", " ")
	place := Place{File: file, Line: d.line}
	if found := lineOfError.FindStringSubmatchIndex(text); found != nil {
		if line, err := strconv.Atoi(text[found[2]:found[3]]); err == nil {
			place.Line = d.first + line - 1
			text = strings.TrimPrefix(text[:found[0]]+text[found[1]:], ": ")
		}
	}
	return Finding{Place: place, Text: notYAML + text}
}

// node parses the document so that lines are known.
func (d document) node() (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(d.data, &root); err != nil {
		return nil, err
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		return nil, fmt.Errorf("it is empty")
	}
	return root.Content[0], nil
}

// generic reads a mapping without a type; nil: it is none.
func (d document) generic() map[string]any {
	data, err := sigsyaml.YAMLToJSON(d.data)
	if err != nil {
		return nil
	}
	var out map[string]any
	reader := json.NewDecoder(bytes.NewReader(data))
	reader.UseNumber()
	if err := reader.Decode(&out); err != nil {
		return nil
	}
	return out
}

// placed is an object and where it stands.
type placed struct {
	Place
	object *unstructured.Unstructured
}

// objects reads a document as the API server's clients do, with the elements of a
// list each for itself.
func (d document) objects(file string) ([]placed, []Finding) {
	var findings []Finding
	place := Place{File: file, Line: d.line}
	text, err := sigsyaml.YAMLToJSONStrict(d.data)
	if err != nil {
		// A key that stands twice is the only thing that is read all the same.
		findings = append(findings, d.problem(file, err))
		if text, err = sigsyaml.YAMLToJSON(d.data); err != nil {
			return nil, findings
		}
		findings[0].Text = strings.Replace(findings[0].Text, notYAML, "the last one was read: ", 1)
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(text); err != nil {
		return nil, append(findings, Finding{Place: place, Text: fmt.Sprintf(
			"it is no object of Kubernetes: %s; give it apiVersion, kind and metadata.name", strings.TrimSpace(firstLine(err.Error())))})
	}
	if object.GetAPIVersion() == "" {
		return nil, append(findings, Finding{Place: place, Text: fmt.Sprintf("the %s has no apiVersion; give it one", object.GetKind())})
	}
	if !object.IsList() || !strings.HasSuffix(object.GetKind(), "List") {
		return []placed{{place, object}}, findings
	}
	items, _, _ := unstructured.NestedSlice(object.Object, "items")
	var out []placed
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok || fields["kind"] == nil || fields["apiVersion"] == nil {
			findings = append(findings, Finding{Place: place, Text: fmt.Sprintf("items[%d] of the %s is no object of Kubernetes; give it apiVersion, kind and metadata.name", i, object.GetKind())})
			continue
		}
		out = append(out, placed{place, &unstructured.Unstructured{Object: fields}})
	}
	return out, findings
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	const readable = 200
	if len(line) > readable {
		line = line[:readable] + "…"
	}
	return line
}
