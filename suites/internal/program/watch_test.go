package program

import (
	"context"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

var timeOfTest = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)

// Only what verdicts depend on makes a policy one that has changed.
func TestFingerprints(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		edit    edit
		changed bool
	}{
		{"nothing", all(), false},
		{"a line that moves", replace("policy.yaml", "apiVersion: policies", "# Why it is so.\napiVersion: policies"), false},
		{"an expression", replace("policy.yaml", "'team' in", "'owner' in"), true},
		{"a message", replace("policy.yaml", "give it the label team", "give it a team"), true},
		{"an expected verdict", replace("kyverno-test.yaml", "result: fail", "result: pass"), true},
		{"an object", replace("resources.yaml", "namespace: apps", "namespace: apps\n  labels: {team: a}"), true},
		{"another file", write("README.md", "It demands a label.\n"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			dir := library(t, write("other/policy.yaml", strings.ReplaceAll(somePolicy, "needs-label", "other")))
			before, err := loadPolicies(dir, nil)
			g.Expect(err).NotTo(HaveOccurred())
			test.edit(t, dir)
			after, err := loadPolicies(dir, nil)
			g.Expect(err).NotTo(HaveOccurred())
			const one, other = "ValidatingPolicy needs-label (policy.yaml)", "ValidatingPolicy other (other/policy.yaml)"
			was, is := fingerprints(before), fingerprints(after)
			g.Expect(is).To(And(HaveLen(2), HaveKey(one), HaveKey(other)))
			if test.changed {
				g.Expect(is[one]).NotTo(Equal(was[one]))
			} else {
				g.Expect(is[one]).To(Equal(was[one]))
			}
			g.Expect(is[other]).To(Equal(was[other]))
		})
	}
}

// What is wrong with a file is shown until it is mended, and keeps what was judged.
func TestWatchTells(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t)
	dir := library(t)
	w := &watch{program: i.program, dir: dir, known: map[string]string{}}
	write("policy.yaml", "kind: [")(t, dir)
	g.Expect(w.save(context.Background(), timeOfTest)).To(Succeed())
	g.Expect(i.terminal()).To(And(ContainSubstring("policy.yaml:1"), ContainSubstring("the last state stays until the files can be read")))
	g.Expect(w.library).To(BeNil(), "nothing was taken over")
	i.errOut.Reset()
	write("resources.yaml", someResources+"  labels: {team: a}\n")(t, dir)
	g.Expect(w.save(context.Background(), timeOfTest)).To(Succeed())
	g.Expect(i.terminal()).To(And(ContainSubstring("policy.yaml:1"), ContainSubstring("the last state stays until the files can be read")))
	g.Expect(w.library).To(BeNil(), "another save does not make it right")
	write("policy.yaml", somePolicy)(t, dir)
	mended, err := loadPolicies(dir, nil)
	g.Expect(err).NotTo(HaveOccurred())
	w.known = fingerprints(mended)
	g.Expect(w.save(context.Background(), timeOfTest)).To(Succeed())
	g.Expect(i.out.String()).To(HaveSuffix("the files can be read again\nall policies are well\n"))
	remove("")(t, dir)
	i.errOut.Reset()
	g.Expect(w.save(context.Background(), timeOfTest)).To(Succeed())
	g.Expect(i.terminal()).To(ContainSubstring("no such file or directory; the last state stays"))
}

func TestWatchInput(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t, "watch", t.TempDir(), "--artifacts", t.TempDir())
	g.Expect(i.run(context.Background())).To(Equal(check.RunInvalidInput.ExitCode()))
	g.Expect(i.terminal()).To(ContainSubstring("there is no policy to watch"))
	g.Expect(i.left(t)).To(BeEmpty())
}
