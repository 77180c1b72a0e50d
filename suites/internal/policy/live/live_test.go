//go:build live

package live

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/clientcmd"

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
	t.Log(fmt.Sprintf("%d verdicts in %s: %+v", len(j.Verdicts), took, j.Stats))
}
