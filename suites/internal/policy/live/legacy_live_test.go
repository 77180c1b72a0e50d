//go:build live

package live

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// TestLegacy judges rules of each form, for objects that they pass, refuse, skip
// and cannot be evaluated for; what the files expect is what Kyverno's CLI says.
func TestLegacy(t *testing.T) { expected(t, "testdata/legacy") }

// TestExceptions judges policies of both groups with exceptions, for objects that
// are excepted and for others that differ in their names. The server must allow
// exceptions in the namespace default.
func TestExceptions(t *testing.T) { expected(t, "testdata/exceptions") }

// expected judges a folder, and finds what its files expect.
func expected(t *testing.T, dir string) {
	t.Helper()
	l := load(t, dir)
	g := NewWithT(t)
	g.Expect(l.Findings).To(BeEmpty())
	j, err := open(t, Options{}).Judge(t.Context(), l)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(j.Verdicts).NotTo(BeEmpty())
	seen := map[example.Verdict]bool{}
	for _, v := range j.Verdicts {
		seen[v.Verdict] = true
		if v.Verdict != v.Example.Expected {
			t.Errorf("%s: expected %s, live %s %v: %s", v.Example, v.Example.Expected, v.Verdict, v.Words, v.Reason)
		}
	}
	g.Expect(seen).To(And(HaveKey(example.Pass), HaveKey(example.Fail), HaveKey(example.Skip)))
	for _, p := range j.Policies {
		if p.Problem != "" || p.DenialProblem != "" {
			t.Errorf("%s: problem %q, of its denial %q", p.Policy, p.Problem, p.DenialProblem)
		}
	}
}

// TestRoles judges one user who has other roles in each test.
func TestRoles(t *testing.T) { expected(t, "testdata/roles") }
