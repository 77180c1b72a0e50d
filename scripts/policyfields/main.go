// Command policyfields prints the names of the fields that the kinds of kyverno.io
// have, read from the CustomResourceDefinitions of a release of Kyverno: by these
// package example tells an unknown key of a legacy policy. The Go types themselves
// would bring the clients of all image registries and signature stores along.
//
//	go run ./scripts/policyfields v1.19.1 >suites/internal/policy/example/legacy.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "policyfields: give a version of Kyverno, such as v1.19.1")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "policyfields:", err)
		os.Exit(1)
	}
}

func run(version string) error {
	command := exec.Command("go", "mod", "download", "-json", "github.com/kyverno/kyverno@"+version)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return fmt.Errorf("download Kyverno %s: %w", version, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return fmt.Errorf("download Kyverno %s: %w", version, err)
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "config", "crds", "kyverno", "*polic*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no definitions of policies below %s", module.Dir)
	}
	kinds := map[string]any{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := add(kinds, data); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
	text, err := render(kinds)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// render writes one line for each kind, so that a change is seen where it is.
func render(kinds map[string]any) ([]byte, error) {
	var out bytes.Buffer
	separator := "{\n"
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fields, err := json.Marshal(kinds[kind])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s%q: %s", separator, kind, fields)
		separator = ",\n"
	}
	out.WriteString("\n}\n")
	return out.Bytes(), nil
}

// add adds the fields of a definition's versions, by apiVersion and kind.
func add(kinds map[string]any, data []byte) error {
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &definition); err != nil {
		return err
	}
	for _, version := range definition.Spec.Versions {
		if version.Schema == nil || version.Schema.OpenAPIV3Schema == nil {
			return fmt.Errorf("version %s has no schema", version.Name)
		}
		root := *version.Schema.OpenAPIV3Schema
		// The metadata of all objects is of one form, which no definition states.
		delete(root.Properties, "metadata")
		fields, ok := fieldsOf(&root).(map[string]any)
		if !ok {
			return fmt.Errorf("version %s has no fields", version.Name)
		}
		fields["metadata"] = nil
		kinds[definition.Spec.Group+"/"+version.Name+"/"+definition.Spec.Names.Kind] = fields
	}
	return nil
}

// fieldsOf renders a schema: an object for fields by name, or «*» for any name; a
// list of one for a list; null for what may be anything.
func fieldsOf(schema *apiextensionsv1.JSONSchemaProps) any {
	switch {
	case schema.XPreserveUnknownFields != nil && *schema.XPreserveUnknownFields || schema.XIntOrString:
		return nil
	case schema.Type == "array" && schema.Items != nil && schema.Items.Schema != nil:
		return []any{fieldsOf(schema.Items.Schema)}
	case schema.Type != "object":
		return nil
	case schema.AdditionalProperties != nil:
		if schema.AdditionalProperties.Schema == nil {
			return nil
		}
		return map[string]any{"*": fieldsOf(schema.AdditionalProperties.Schema)}
	case len(schema.Properties) == 0:
		return nil
	}
	out := map[string]any{}
	for name, field := range schema.Properties {
		out[name] = fieldsOf(&field)
	}
	return out
}
