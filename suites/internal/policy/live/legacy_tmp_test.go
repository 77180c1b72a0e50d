package live

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// TestTmpPrint prints what would be installed for FILE under NAME.
func TestTmpPrint(t *testing.T) {
	data, err := os.ReadFile(os.Getenv("FILE"))
	if err != nil {
		t.Skip(err)
	}
	s := subject{name: os.Getenv("NAME"), aspect: Aspect{Whole: true}}
	for _, doc := range strings.Split(string(data), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil || u.Object == nil {
			continue
		}
		if u.GetKind() == "PolicyException" {
			s.exceptions = append(s.exceptions, u)
		} else {
			s.policy = &example.Policy{Object: u}
		}
	}
	out := []*unstructured.Unstructured{}
	if os.Getenv("WRITTEN") != "" {
		objects, why, err := legacyForm{}.written(s)
		if err != nil || why != "" {
			t.Fatal(why, err)
		}
		out = objects
	} else {
		i, err := legacyForm{}.install(s)
		if err != nil {
			t.Fatal(err)
		}
		out = i.objects
	}
	f, _ := os.Create(os.Getenv("OUT"))
	defer f.Close()
	for _, o := range out {
		b, _ := json.Marshal(o.Object)
		y, _ := yaml.JSONToYAML(b)
		f.WriteString(string(y) + "---\n")
	}
}
