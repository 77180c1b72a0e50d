package suites

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// What came of one place in the repository belongs together, whatever its name
// became; what is declared in one environment only has no counterpart.
func TestCounterparts(t *testing.T) {
	object := func(kind, name, file string, line int) platform.Object {
		o := declared(t, "", fmt.Sprintf("{apiVersion: v1, kind: %s, metadata: {name: %s}}", kind, name))
		o.Origin = platform.Origin{Folder: "/platform", File: file, Line: line}
		return o
	}
	tenant := func(environment string, more ...platform.Object) *platform.Tenant {
		return &platform.Tenant{Objects: append([]platform.Object{
			object("ConfigMap", environment+"-first-5f", "base/kustomization.yaml", 0),
			object("ConfigMap", environment+"-second-7a", "base/kustomization.yaml", 0),
			object("Service", environment+"-app", "base/app.yaml", 1),
			object("Deployment", environment+"-app", "base/app.yaml", 9),
		}, more...)}
	}
	g := NewWithT(t)
	pairs := counterparts(tenant("dev", object("Ingress", "dev-app", "base/app.yaml", 1)), tenant("prd", object("ConfigMap", "prd-only", "prd/extra.yaml", 1)))
	var found []string
	for _, pair := range pairs {
		found = append(found, pair[0].GetName()+" "+pair[1].GetName())
	}
	g.Expect(found).To(Equal([]string{"dev-first-5f prd-first-5f", "dev-second-7a prd-second-7a", "dev-app prd-app", "dev-app prd-app"}))
	g.Expect(counterparts(tenant("dev"), &platform.Tenant{})).To(BeEmpty())
}
