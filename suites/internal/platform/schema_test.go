package platform

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

const schema = `{
  "type": "object",
  "required": ["name"],
  "additionalProperties": false,
  "properties": {
    "name": {"type": "string"},
    "port": {"type": "integer", "maximum": 65535},
    "list": {"type": "array", "items": {"enum": ["a", "b"]}},
    "ratio": {"type": "number"},
    "when": {"type": "string"},
    "deep": {"$ref": "#/$defs/deep"}
  },
  "$defs": {"deep": {"type": "object", "properties": {"on": {"type": "boolean"}}}}
}`

func TestValidate(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"valid", "name: x\nport: 80\nlist: [a, b]\nratio: 1.5\nwhen: 2026-01-02\ndeep: {on: true}\n", ""},
		{"aliases", "name: &n x\nwhen: *n\ndeep: &d {on: true}\n", ""},
		{"merge", "deep: &d {on: true}\nname: x\n", ""},
		{"large integer", "name: x\nratio: 18446744073709551615\n", ""},
		{"missing", "port: 80\n", "line 1: /: missing property 'name'"},
		{"wrong type", "name: x\nport: eighty\n", "line 2: /port: got string, want integer"},
		{"a number as text", "name: 12\n", "line 1: /name: got number, want string"},
		{"too large", "name: x\n\nport: 70000\n", "line 3: /port: maximum: got 70,000, want 65,535"},
		{"unknown key", "name: x\nprot: 80\n", "line 2: /: additional properties 'prot' not allowed"},
		{"in a list", "name: x\nlist:\n- a\n- c\n", "line 4: /list/1: value must be one of 'a', 'b'"},
		{"behind a reference", "name: x\ndeep:\n  on: maybe\n", "line 3: /deep/on: got string, want boolean"},
		{"nothing", "", "line 1: /: got null, want object"},
		{"duplicate key", "name: x\nname: y\n", `line 2: duplicate key "name", first on line 1`},
		{"duplicate key below", "name: x\ndeep:\n  on: true\n  on: false\n", `line 4: duplicate key "on", first on line 3`},
		{"two documents", "name: x\n---\nname: y\n", "line 2: a second document begins; one is wanted"},
		{"not YAML", "name: [x\n", "line 2: not valid YAML: "},
		{"key that is no text", "? [a]\n: b\n", "line 1: a key has to be text"},
		{"infinity", "name: x\nratio: .inf\n", "line 2: .inf is no number that JSON knows"},
		{"bomb", bomb, "excessive aliasing"},
		{"alias of itself", "a: &a [*a]\n", "nested more than 200 levels deep"},
		{"merge of text", "<<: x\nname: y\n", "line 1: «<<» takes a mapping"},
		{"too many bytes", strings.Repeat("# long\n", maxValueBytes/7+1), "a ConfigMap holds 1048576 at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			err := Validate([]byte(schema), []byte(c.value))
			if c.want == "" {
				g.Expect(err).NotTo(HaveOccurred())
				return
			}
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
	t.Run("all violations", func(t *testing.T) {
		g := NewWithT(t)
		err := Validate([]byte(schema), []byte("port: x\nwhen: 1\nother: 2\n"))
		g.Expect(err).To(MatchError(And(ContainSubstring("/port"), ContainSubstring("/when"), ContainSubstring("other"), ContainSubstring("name"))))
	})
	t.Run("merge keys are followed", func(t *testing.T) {
		g := NewWithT(t)
		open := `{"properties":{"a":{"required":["x","y"],"properties":{"x":{"const":2}}}}}`
		g.Expect(Validate([]byte(open), []byte("b: &b {x: 1, y: 1}\na:\n  <<: *b\n  x: 2\n"))).To(Succeed())
		g.Expect(Validate([]byte(open), []byte("b: &b {x: 1, y: 1}\na:\n  <<: *b\n"))).To(MatchError(ContainSubstring("/a/x: value must be 2")))
	})
}

func TestBadSchemas(t *testing.T) {
	for _, c := range []struct{ name, schema, want string }{
		{"not JSON", "{", "schema: not valid JSON"},
		{"not a schema", `{"type": "thing"}`, "schema: "},
		{"from the network", `{"$ref": "https://example.invalid/s.json"}`, "https://example.invalid/s.json lies outside of the schema, and is not read; put it under $defs"},
		{"from a file", `{"$ref": "file:///etc/hostname"}`, "file:///etc/hostname lies outside of the schema"},
		{"from a neighbour", `{"$ref": "other.json"}`, "other.json lies outside of the schema"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(Validate([]byte(c.schema), []byte("a: b\n"))).To(MatchError(ContainSubstring(c.want)))
		})
	}
}
