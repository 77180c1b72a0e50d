//go:build live

package live

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// open opens a bench on the cluster that BENCH_KUBECONFIG names: one with Kyverno
// on which nothing else judges what these tests send.
func open(t *testing.T, o Options) *Bench {
	t.Helper()
	name := os.Getenv("BENCH_KUBECONFIG")
	if name == "" {
		t.Fatal("BENCH_KUBECONFIG must name the kubeconfig of a cluster with Kyverno")
	}
	g := NewWithT(t)
	config, err := clientcmd.BuildConfigFromFlags("", name)
	g.Expect(err).NotTo(HaveOccurred())
	o.Config = config
	o.Progress = func(text string) { t.Log(time.Now().Format("05.000"), text) }
	b, err := Open(t.Context(), o)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		if err := b.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return b
}

func load(t *testing.T, dir string) *example.Library {
	t.Helper()
	l, err := example.Load(dir)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return l
}

// TestFolder judges the folder that BENCH_POLICIES names, and shows what it cost.
func TestFolder(t *testing.T) {
	dir := os.Getenv("BENCH_POLICIES")
	if dir == "" {
		t.Skip("BENCH_POLICIES names no folder")
	}
	l := load(t, dir)
	for _, f := range l.Findings {
		t.Log("finding:", f.Error())
	}
	b := open(t, Options{})
	start := time.Now()
	j, err := b.Judge(t.Context(), l)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	took := time.Since(start)
	counts := map[example.Verdict]int{}
	for _, v := range j.Verdicts {
		counts[v.Verdict]++
		if v.Verdict != v.Example.Expected {
			t.Logf("%s: expected %s, live %s %v %s", v.Example, v.Example.Expected, v.Verdict, v.Words, v.Reason)
		}
	}
	for _, p := range j.Policies {
		t.Logf("%s: effective %.1f s, problem %q, audits %v, denial %q, problem %q", p.Policy, p.Effective, p.Problem, p.Audits, p.Denial, p.DenialProblem)
	}
	t.Logf("%v; kinds %v", counts, j.Kinds)
	t.Logf("%d verdicts in %s: %+v", len(j.Verdicts), took, j.Stats)
}

// five are policies that all refuse one object, each for another webhook: two with
// match conditions, one that lets things pass when it cannot be asked, one of the
// older kind and one of a namespace; and one of Kubernetes' own.
const five = `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: core-first}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  matchConditions: [{name: named, expression: "object.metadata.name.startsWith('core-')"}]
  variables: [{name: colour, expression: "object.data.colour"}]
  validations:
  - {expression: "has(object.data)", message: it needs data}
  - {expression: "variables.colour != 'red'", message: no red}
---
apiVersion: policies.kyverno.io/v1beta1
kind: ValidatingPolicy
metadata: {name: core-second}
spec:
  validationActions: [Audit]
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE, DELETE], resources: [configmaps]}]}
  matchConditions: [{name: labelled, expression: "object.?metadata.labels.?skip.orValue('') != 'yes'"}]
  validations: [{expression: "(request.operation == 'DELETE' ? oldObject : object).data.colour != 'red'", message: no red again}]
---
apiVersion: policies.kyverno.io/v1alpha1
kind: ValidatingPolicy
metadata: {name: core-third}
spec:
  failurePolicy: Ignore
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "object.data.colour != 'red'", message: ignorable red}]
---
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: core-fourth}
spec:
  background: false
  rules:
  - name: red
    match: {any: [{resources: {kinds: [ConfigMap], namespaces: [core-five]}}]}
    validate: {failureAction: Enforce, message: no older red, pattern: {data: {colour: "!red"}}}
---
apiVersion: policies.kyverno.io/v1
kind: NamespacedValidatingPolicy
metadata: {name: core-fifth, namespace: core-five}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "object.data.colour != 'red'", message: no red here}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: core-sixth}
spec:
  paramKind: {apiVersion: v1, kind: Secret}
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  matchConditions: [{name: named, expression: "object.metadata.name.startsWith('core-')"}]
  validations:
  - {expression: "object.data.colour != params.metadata.labels.forbidden", message: no forbidden colour}
  - {expression: "object.data.shade != 'x'", message: no shade}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: core-sixth}
spec:
  policyName: core-sixth
  validationActions: [Deny]
  paramRef: {name: core-params, namespace: core-five, parameterNotFoundAction: Deny}
`

const fiveObjects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: core-red, namespace: core-five}
data: {colour: red, shade: dark}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: core-blue, namespace: core-five}
data: {colour: blue, shade: dark}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other-red, namespace: default, labels: {skip: "yes"}}
data: {colour: red, shade: dark}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: core-odd, namespace: core-five}
data: {shade: dark}
`

func TestAllRefuseOneObject(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	write("policies.yaml", five)
	write("objects.yaml", fiveObjects)
	write("params.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: core-params, namespace: core-five, labels: {forbidden: red}}\n")
	names := []string{"core-first", "core-second", "core-third", "core-fourth", "core-fifth", "core-sixth"}
	// What is expected of core-red, core-blue, other-red and core-odd.
	want := map[string][]example.Verdict{
		"core-first":  {"fail", "pass", "skip", "error"},
		"core-second": {"fail", "pass", "skip", "error"},
		"core-third":  {"fail", "pass", "fail", "error"},
		"core-fourth": {"fail", "pass", "skip", "fail"},
		"core-fifth":  {"fail", "pass", "skip", "error"},
		"core-sixth":  {"fail", "pass", "skip", "error"},
	}
	objects := []string{"core-red", "core-blue", "other-red", "core-odd"}
	var test strings.Builder
	test.WriteString("apiVersion: cli.kyverno.io/v1alpha1\nkind: Test\nmetadata: {name: five}\npolicies: [policies.yaml]\nresources: [objects.yaml]\nparamResources: [params.yaml]\nresults:\n")
	for _, name := range names {
		if name == "core-fourth" && formOf(legacyOf(t, five)) == nil {
			continue
		}
		for i, object := range objects {
			namespace := "core-five/"
			if object == "other-red" {
				namespace = "default/"
			}
			fmt.Fprintf(&test, "- {policy: %s, resources: [%s%s], kind: ConfigMap, result: %s%s}\n", name, namespace, object, want[name][i], map[string]string{"core-sixth": ", isValidatingAdmissionPolicy: true", "core-fourth": ", rule: red"}[name])
		}
	}
	test.WriteString("- {policy: core-second, resources: [core-five/core-blue], kind: ConfigMap, result: pass, operation: UPDATE}\n")
	test.WriteString("- {policy: core-second, resources: [core-five/core-red], kind: ConfigMap, result: fail, operation: UPDATE}\n")
	test.WriteString("- {policy: core-second, resources: [core-five/core-red], kind: ConfigMap, result: fail, operation: DELETE}\n")
	write("kyverno-test.yaml", test.String())
	l := load(t, dir)
	for _, f := range l.Findings {
		t.Error(f.Error())
	}
	b := open(t, Options{Patience: 10 * time.Second})
	j, err := b.Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	for _, v := range j.Verdicts {
		if v.Verdict != v.Example.Expected {
			t.Errorf("%s: live %s %v, %s (%v)", v.Example, v.Verdict, v.Words, v.Reason, v.Notes)
		}
	}
	for _, p := range j.Policies {
		if p.Policy.Object.GetName() == "core-fourth" {
			continue
		}
		g.Expect(p.Problem).To(BeEmpty(), p.Policy.String())
		if p.Audits {
			g.Expect(p.Policy.Object.GetName()).To(Equal("core-second"))
			continue
		}
		g.Expect(p.Denial).To(Or(ContainSubstring("red"), ContainSubstring("forbidden")), "%s: %s", p.Policy, p.DenialProblem)
	}
	t.Logf("%+v", j.Stats)
}

func legacyOf(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	for _, document := range strings.Split(text, "---\n") {
		var object map[string]any
		NewWithT(t).Expect(yaml.Unmarshal([]byte(document), &object)).To(Succeed())
		if object["kind"] == "ClusterPolicy" {
			return &unstructured.Unstructured{Object: object}
		}
	}
	return nil
}
