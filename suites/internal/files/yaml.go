package files

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// yamlRules judge files as YAML, whatever they hold.
var yamlRules = []rule{
	{Check: check.Check{
		ID:    "FILE-003",
		Title: "every file and every generated object is of a bounded size, and every YAML document expands to what it says",
		Why: "some lines of aliases expand to gigabytes: the controller that reads them runs out of memory, and reconciles nothing " +
			"for anybody; a ConfigMap of more than 1 MiB is refused only by the API server",
		Remedy:    "write out what the aliases stand for, or split the file; large data belongs into a volume",
		Reference: "https://kubernetes.io/docs/concepts/configuration/configmap/#motivation",
	}, whole: sizes},
	{Check: check.Check{
		ID:        "FILE-013",
		Title:     "every YAML file can be read, with each key once",
		Why:       "of a key that stands twice some readers take the first, some the last, and some refuse the file: what was reviewed is not what runs",
		Remedy:    "mend the line; of a repeated key keep the one that is meant",
		Reference: "https://yaml.org/spec/1.2.2/#3213-node-comparison",
	}, whole: syntax},
}

// maxData is what the API server takes as the data of one ConfigMap or Secret.
const maxData = 1 << 20

func sizes(r *reading) verdict {
	var v verdict
	for _, f := range r.files() {
		if f.size > maxBytes && (f.structured() || f.read) {
			v.add(f.at(0), "has %d bytes; at most %d are read of one file", f.size, maxBytes)
		}
		for _, root := range f.documents {
			if line, ok := platform.Expands(root); !ok {
				v.add(f.at(line), "excessive aliasing or depth: the document grows beyond what a manifest or a value needs")
			}
		}
	}
	for _, e := range r.platform.Environments {
		for _, o := range e.Objects {
			if kind := o.GetKind(); kind != "ConfigMap" && kind != "Secret" {
				continue
			}
			size := 0
			for _, key := range []string{"data", "binaryData", "stringData"} {
				values, _ := o.Object[key].(map[string]any)
				for name, value := range values {
					content, _ := value.(string)
					size += len(name) + len(content)
				}
			}
			if size > maxData {
				v.add(o.Origin, "%s in environment %s has %d bytes of data, the API server takes %d", o, e.Name, size, maxData)
			}
		}
	}
	return v
}

func syntax(r *reading) verdict {
	var v verdict
	for _, f := range r.files() {
		if !platform.IsYAML(f.name) || f.template() {
			continue
		}
		// What is filled in before it is YAML, and what no build reads, is nobody's yet.
		if f.syntax != nil && (f.read || !bytes.Contains(f.content, []byte("{{"))) {
			v.add(f.at(f.syntax.Line), "not valid YAML: %s", f.syntax.Detail)
		}
		for _, root := range f.documents {
			for _, twice := range platform.Repeated(root) {
				v.add(f.at(twice.Line), "duplicate key %s, first on line %d", quoted(twice.Key), twice.First)
			}
		}
	}
	return v
}

// quoted is a key as a report may show it: short, and without control characters.
func quoted(key string) string {
	const most = 60
	if runes := []rune(key); len(runes) > most {
		key = string(runes[:most]) + "…"
	}
	return fmt.Sprintf("%q", key)
}

func sortFindings(v *verdict) { slices.SortFunc(v.findings, strings.Compare) }
