package program

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/report"
)

const (
	somePolicy = `apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: needs-label
spec:
  validationActions: [Deny]
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
  validations:
  - expression: "'team' in object.metadata.?labels.orValue({})"
    message: give it the label team
`
	someTest = `apiVersion: cli.kyverno.io/v1alpha1
kind: Test
metadata:
  name: labels
policies:
- policy.yaml
resources:
- resources.yaml
results:
- policy: needs-label
  resources: [bare]
  kind: ConfigMap
  isValidatingPolicy: true
  result: fail
`
	someResources = `apiVersion: v1
kind: ConfigMap
metadata:
  name: bare
  namespace: apps
`
)

// library is a folder with one policy and one test; the edits make it wrong.
func library(t *testing.T, edits ...edit) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"policy.yaml": somePolicy, "kyverno-test.yaml": someTest, "resources.yaml": someResources} {
		write(name, content)(t, dir)
	}
	all(edits...)(t, dir)
	return dir
}

// The folder that the tests below make wrong is right.
func TestPolicyLibrary(t *testing.T) {
	g := NewWithT(t)
	read, err := loadPolicies(library(t), nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(read.Findings).To(BeEmpty())
	g.Expect(read.Examples()).To(HaveLen(1))
	g.Expect(read.Examples()[0].Expected).To(Equal(example.Fail))
}

// Wrong input is refused before anything is started, with code 2, a report that says
// so, and nothing left.
func TestPoliciesInput(t *testing.T) {
	for _, test := range []struct {
		name  string
		edits []edit
		args  []string // after the folder
		want  []string
	}{
		{"no folder", []edit{func(t *testing.T, dir string) { t.Helper(); remove("")(t, dir) }}, nil, []string{"no such file or directory"}},
		{"no test", []edit{remove("kyverno-test.yaml")}, nil, []string{"a folder of policies holds a kyverno-test.yaml"}},
		{"a test without its policy", []edit{remove("policy.yaml")}, nil, []string{"kyverno-test.yaml:6", "policy.yaml", "there is no example to judge"}},
		{"a test that does not parse", []edit{write("kyverno-test.yaml", "policies: [")}, nil, []string{"kyverno-test.yaml:1", "there is no example to judge"}},
		{
			"an unknown key, strictly",
			[]edit{replace("kyverno-test.yaml", "  result: fail", "  result: fail\n  reslut: fail"), write("more/kyverno-test.yaml", someTest), write("more/policy.yaml", somePolicy), write("more/resources.yaml", someResources)},
			[]string{"--strict"},
			[]string{"kyverno-test.yaml:15", "reslut", "--strict judges nothing then"},
		},
		{"a policy that is not there", nil, []string{"--policy", "needs-lable"}, []string{`there is no policy "needs-lable"`, "did you mean needs-label?"}},
		{"a pattern that matches nothing", nil, []string{"--policy", "other-*"}, []string{`there is no policy "other-*"`}},
		{"a pattern that is none", nil, []string{"--policy", "[a"}, []string{`"[a" is no pattern`}},
		{"no list of explanations", nil, []string{"--explained", "/nowhere.yaml"}, []string{"read the list of explanations: open /nowhere.yaml"}},
		{"another list", nil, []string{"--explained", "testdata/../../../../fixtures/agreement.yaml"}, []string{"«kind: PolicyAgreement»"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			artifacts := t.TempDir()
			i := newInvocation(t, append([]string{"policies", library(t, test.edits...), "--artifacts", artifacts}, test.args...)...)
			g.Expect(i.run(context.Background())).To(Equal(check.RunInvalidInput.ExitCode()), "%s", i.terminal())
			for _, want := range test.want {
				g.Expect(i.terminal()).To(ContainSubstring(want))
			}
			g.Expect(i.terminal()).NotTo(ContainSubstring("components"), "nothing is started")
			g.Expect(i.left(t)).To(BeEmpty())
			content, err := os.ReadFile(filepath.Join(artifacts, report.File))
			g.Expect(err).NotTo(HaveOccurred())
			var written report.Report
			g.Expect(json.Unmarshal(content, &written)).To(Succeed())
			g.Expect(written.Result).To(Equal(check.RunInvalidInput))
			g.Expect(written.Problems).NotTo(BeEmpty())
		})
	}
}

// What is none of the command's is refused with what is meant.
func TestPoliciesArguments(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"policies", "--provider", "kind"}, "PROVIDER is not for policies"},
		{[]string{"policies", "a", "b"}, "policies takes one folder, and there are 2: a, b"},
		{[]string{"policies", "--polcy", "a"}, "did you mean policy?"},
		{[]string{"polices"}, "did you mean policies?"},
	} {
		t.Run(test.want, func(t *testing.T) {
			g := NewWithT(t)
			i := newInvocation(t, test.args...)
			g.Expect(i.run(context.Background())).To(Equal(check.RunInvalidInput.ExitCode()))
			g.Expect(i.terminal()).To(ContainSubstring(test.want))
			g.Expect(i.left(t)).To(BeEmpty())
		})
	}
}

// What is shipped is laid out for the run, read without a finding, and removed.
func TestPoliciesShipped(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t)
	in := &policiesInput{artifacts: t.TempDir()}
	var out report.Input
	g.Expect(i.readPolicies(in, &out)).To(Succeed())
	g.Expect(out.Library.Findings).To(BeEmpty())
	g.Expect(out.Library.Examples()).NotTo(BeEmpty())
	in.clear()
	g.Expect(i.left(t)).To(BeEmpty())
}

// A choice keeps what belongs to the policies that are chosen.
func TestChoosePolicies(t *testing.T) {
	g := NewWithT(t)
	all, err := loadPolicies("../../../policies", nil)
	g.Expect(err).NotTo(HaveOccurred())
	one, err := loadPolicies("../../../policies", []string{"pod-reference-*"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(one.Policies).To(HaveLen(1))
	g.Expect(len(one.Examples())).To(BeNumerically("<", len(all.Examples())))
	for _, e := range one.Examples() {
		g.Expect(e.Policy).To(BeIdenticalTo(one.Policies[0]))
	}
}
