package program

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

// values is a copy of the developers' repository with edits.
func values(t *testing.T, edits ...edit) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flux_developer")
	if err := os.CopyFS(dir, os.DirFS("../../../fixtures/flux_developer")); err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		e(t, dir)
	}
	return dir
}

func TestFilesOfTheReferencePlatform(t *testing.T) {
	g := NewWithT(t)
	artifacts := t.TempDir()
	i := newInvocation(t, "files", "--artifacts", artifacts)
	g.Expect(i.run(t.Context())).To(Equal(0), i.terminal())
	report := readReport(t, artifacts)
	g.Expect(report.Result).To(Equal(check.RunPassed))
	g.Expect(report.Provider).To(Equal("none"))
	for _, c := range report.Checks {
		g.Expect(c.Area()).To(Equal("FILE"))
	}
	g.Expect(i.left(t)).To(BeEmpty())
}

func TestFilesFail(t *testing.T) {
	g := NewWithT(t)
	artifacts := t.TempDir()
	dir := values(t, replace("prd/tiger/config.yaml", "afterFailures: 25", "afterFailures: often"))
	i := newInvocation(t, "files", "--artifacts", artifacts, "--developer", dir, "--checks", "FILE-007,FILE-008")
	g.Expect(i.run(t.Context())).To(Equal(1), i.terminal())
	g.Expect(i.terminal()).To(ContainSubstring("prd/tiger/config.yaml:10: /alert/afterFailures"))
	failed := 0
	for _, o := range readReport(t, artifacts).Outcomes {
		if o.Result == check.Failed {
			failed++
			g.Expect([]string{o.Check, o.Environment, o.Tenant}).To(Equal([]string{"FILE-008", "prd", "tiger"}))
		}
	}
	g.Expect(failed).To(Equal(1))
}

// A waiver holds as everywhere; one of a check that needs a cluster is left alone.
func TestFilesWaived(t *testing.T) {
	g := NewWithT(t)
	config := filepath.Join(t.TempDir(), "conformance.yaml")
	g.Expect(os.WriteFile(config, []byte(`apiVersion: conformance.flux-platform/v1alpha1
kind: Config
production: [dev, prd]
waivers:
- {check: FILE-011, environment: dev, reason: "pinned in May", expires: 9999-01-01}
- {check: BOOT-001, reason: "of a cluster", expires: 9999-01-01}
`), 0o600)).To(Succeed())
	i := newInvocation(t, "files", "--artifacts", t.TempDir(), "--config", config)
	g.Expect(i.run(t.Context())).To(Equal(0), i.terminal())
	g.Expect(i.terminal()).To(ContainSubstring("1 waived"))
}

func TestFilesRefusesInput(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"no check of the files", []string{"--checks", "BOOT"}, "is judged by the files alone"},
		{"no such check", []string{"--checks", "FILE-999"}, "no check is named"},
		{"no platform", []string{"--platform", "../../../policies"}, "has no folder clusters/"},
		{"no such folder", []string{"--developer", "/there/is/none"}, "does not exist"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			i := newInvocation(t, append([]string{"files", "--artifacts", t.TempDir()}, test.args...)...)
			g.Expect(i.run(t.Context())).To(Equal(2), i.terminal())
			g.Expect(i.terminal()).To(ContainSubstring(test.want))
		})
	}
}

// The main job judges the files first, and asks for no cluster when nothing else
// is selected: this program could not start one.
func TestE2EOfTheFilesAlone(t *testing.T) {
	g := NewWithT(t)
	artifacts := t.TempDir()
	i := newInvocation(t, "e2e", "--artifacts", artifacts, "--checks", "FILE")
	g.Expect(i.run(t.Context())).To(Equal(0), i.terminal())

	// With others, what the files show stands in the report of a run that breaks.
	dir := values(t, write("base/beetel/config.yaml", "a: b\n"))
	i = newInvocation(t, "e2e", "--artifacts", artifacts, "--developer", dir)
	g.Expect(i.run(t.Context())).To(Equal(3), i.terminal())
	g.Expect(i.terminal()).To(ContainSubstring("1 failed FILE-020: base/beetel/config.yaml: is read in no environment"))
	g.Expect(strings.Count(readReport(t, artifacts).Outcomes[0].Check, "FILE")).To(Equal(1))
}

func TestProveFaultsOfTheFiles(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t, "prove", "--artifacts", t.TempDir(), "--faults", "FLT-145,FLT-147,FLT-159")
	g.Expect(i.run(t.Context())).To(Equal(0), i.terminal())
	g.Expect(i.terminal()).To(ContainSubstring("3 of 3 faults proved"))
}

func TestOfFiles(t *testing.T) {
	g := NewWithT(t)
	fault := func(fails ...string) overlay.Overlay {
		o := overlay.Overlay{ID: "FLT-999", Expect: overlay.Expect{Fails: map[string]string{}}}
		for _, id := range fails {
			o.Expect.Fails[id] = "words"
		}
		return o
	}
	g.Expect(ofFiles(fault("FILE-001"))).To(BeTrue())
	g.Expect(ofFiles(fault("CFG-001"))).To(BeFalse())
	_, err := ofFiles(fault("CFG-001", "FILE-001"))
	g.Expect(err).To(MatchError(ContainSubstring("make two faults of it")))
	sent := fault("FILE-001")
	sent.Objects = []overlay.Send{{}}
	_, err = ofFiles(sent)
	g.Expect(err).To(MatchError(ContainSubstring("there is no cluster for its objects")))
}
