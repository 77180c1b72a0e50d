package embedded

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

func TestTheControlPlaneGetsItsEnvironment(t *testing.T) {
	g := NewWithT(t)
	p := &controlPlane{spec: cluster.Spec{
		Name: "dev", Dir: t.TempDir(), Environ: map[string][]string{"kube-apiserver": {"GOGC=123"}, "kyverno": {"GOGC=456"}},
	}}
	written, err := p.configuration()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(written)).To(MatchRegexp(`extraEnvs:\s+- name: GOGC\s+value: "123"\s+name: kube-apiserver`))
	g.Expect(string(written)).NotTo(ContainSubstring("456"))
}
