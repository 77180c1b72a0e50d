//go:build live

package live

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// The API server takes no webhook with the match condition of «never», so Kyverno's
// webhooks for legacy policies stay as they are: neither that policy comes into force
// nor any of its kind. It is told of that one, with its status where Kyverno gave it
// one, how long it was waited, and why; the others have their verdicts.
const neverInForce = `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: force-never}
spec:
  validationFailureAction: Enforce
  webhookConfiguration: {matchConditions: [{name: "no such name", expression: "true"}]}
  rules:
  - {name: rule, match: {any: [{resources: {kinds: [ConfigMap]}}]}, validate: {message: never, deny: {}}}
---
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: force-fine}
spec:
  validationFailureAction: Enforce
  rules:
  - {name: rule, match: {any: [{resources: {kinds: [ConfigMap]}}]}, validate: {message: fine, deny: {}}}
---
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: force-never-paints}
spec:
  webhookConfiguration: {matchConditions: [{name: "no such name", expression: "true"}]}
  rules:
  - {name: rule, match: {any: [{resources: {kinds: [ConfigMap]}}]}, mutate: {patchStrategicMerge: {metadata: {labels: {colour: blue}}}}}
---
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: force-paints}
spec:
  rules:
  - {name: rule, match: {any: [{resources: {kinds: [ConfigMap]}}]}, mutate: {patchStrategicMerge: {metadata: {labels: {colour: blue}}}}}
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: force-beside}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "false", message: beside}]
`

func TestAPolicyThatIsNeverInForceIsToldOfAlone(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	write("policies.yaml", neverInForce)
	write("objects.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: force-any}\n")
	write("patched.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: force-any, labels: {colour: blue}}\n")
	write("kyverno-test.yaml", `
apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata: {name: force}
policies: [policies.yaml]
resources: [objects.yaml]
results:
- {policy: force-never, rule: rule, kind: ConfigMap, resources: [force-any], result: fail}
- {policy: force-fine, rule: rule, kind: ConfigMap, resources: [force-any], result: fail}
- {policy: force-never-paints, rule: rule, kind: ConfigMap, resources: [force-any], patchedResources: patched.yaml, result: pass}
- {policy: force-paints, rule: rule, kind: ConfigMap, resources: [force-any], patchedResources: patched.yaml, result: pass}
- {policy: force-beside, kind: ConfigMap, resources: [force-any], result: fail}
`)
	l := load(t, dir)
	g.Expect(l.Findings).To(BeEmpty())
	j, err := open(t, Options{Patience: 12 * time.Second}).Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	never := map[string]bool{"force-never": true, "force-never-paints": true}
	for _, v := range j.Verdicts {
		if want := v.Example.Expected; never[v.Example.Policy.Object.GetName()] {
			g.Expect(v.Verdict).To(Equal(example.Unknown), v.Example.String())
		} else {
			g.Expect(v.Verdict).To(Equal(want), "%s: %s", v.Example, v.Reason)
		}
	}
	for _, p := range j.Policies {
		if !never[p.Policy.Object.GetName()] {
			g.Expect(p.Problem).To(BeEmpty(), p.Policy.String())
			g.Expect(p.Effective).To(BeNumerically(">", 0), p.Policy.String())
			continue
		}
		g.Expect(p.Problem).To(MatchRegexp(`^it is not in force [0-9.m]+s after its creation: (it has no status|its status is \{.*"Not Ready".*\}); the API server takes no webhook with its match conditions: matchConditions\[0\].name: Invalid value: "no such name"`), p.Policy.String())
		g.Expect(p.Effective).To(BeNumerically("<", 0), p.Policy.String())
	}
}
