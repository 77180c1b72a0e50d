package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// ReadReport reads the report.json of a run. What the schema refuses is an error.
func ReadReport(name string) (Report, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return Report{}, fmt.Errorf("read the report of a run: %w", err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
	if err != nil {
		return Report{}, fmt.Errorf("read the report of a run: %s is not JSON: %w", name, err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		return Report{}, fmt.Errorf("read the schema of reports: %w", err)
	}
	const resource = "schema.json"
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(resource, schema); err != nil {
		return Report{}, fmt.Errorf("read the schema of reports: %w", err)
	}
	compiled, err := compiler.Compile(resource)
	if err != nil {
		return Report{}, fmt.Errorf("read the schema of reports: %w", err)
	}
	if err := compiled.Validate(document); err != nil {
		return Report{}, fmt.Errorf("read the report of a run: %s is none, or one of another version of this program: %w", name, err)
	}
	var report Report
	if err := json.Unmarshal(content, &report); err != nil {
		return Report{}, fmt.Errorf("read the report of a run: %s: %w", name, err)
	}
	return report, nil
}
