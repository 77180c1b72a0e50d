package check_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

func passed(id, environment, tenant string) check.Outcome {
	return check.Outcome{Check: id, Environment: environment, Tenant: tenant, Result: check.Passed}
}

func failed(id, environment, tenant string) check.Outcome {
	return check.Outcome{
		Check: id, Environment: environment, Tenant: tenant, Result: check.Failed, Expected: "one", Found: "none",
	}
}

func TestRecorderRefuses(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	recorder, err := check.OpenRecorder(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = recorder.Close() })
	for _, test := range []struct {
		outcome check.Outcome
		want    string
	}{
		{check.Outcome{Check: "BOOT", Result: check.Passed}, `check "BOOT" is not of the form AREA-NNN`},
		{check.Outcome{Check: "BOOT-001", Tenant: "beetle", Result: check.Passed}, "a tenant is named without an environment"},
		{check.Outcome{Check: "BOOT-001", Result: check.Failed, Expected: "x"}, "a failure says what was expected and what was found"},
		{check.Outcome{Check: "BOOT-001", Result: check.Skipped}, "SKIPPED needs a reason"},
		{check.Outcome{Check: "BOOT-001", Result: check.NotSupported}, "NOT_SUPPORTED needs a reason"},
		{check.Outcome{Check: "BOOT-001", Result: check.Waived}, "WAIVED is given by a waiver, not recorded"},
		{check.Outcome{Check: "BOOT-001"}, `result "" is unknown`},
		{check.Outcome{Check: "BOOT-001", Result: check.Passed, Seconds: -1}, "seconds is negative"},
	} {
		g.Expect(recorder.Record(test.outcome)).To(MatchError(ContainSubstring(test.want)))
	}
	g.Expect(recorder.Record(passed("BOOT-001", "dev", ""))).To(Succeed())
	g.Expect(recorder.Record(failed("BOOT-001", "dev", ""))).To(MatchError(ContainSubstring("BOOT-001 dev is judged twice")))
}

// Two recorders stand for two processes: each has a file of its own.
func TestRecordersMerge(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := filepath.Join(t.TempDir(), "run")
	const tenants = 50
	var group sync.WaitGroup
	for _, environment := range []string{"prd", "dev"} {
		recorder, err := check.OpenRecorder(folder)
		g.Expect(err).NotTo(HaveOccurred())
		for i := range tenants {
			group.Go(func() {
				if err := recorder.Record(passed("TEN-001", environment, string(rune('a'+i%26))+string(rune('a'+i/26)))); err != nil {
					t.Error(err)
				}
			})
		}
		t.Cleanup(func() { _ = recorder.Close() })
	}
	group.Wait()

	outcomes, err := check.ReadOutcomes(folder)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(outcomes).To(HaveLen(2 * tenants))
	g.Expect(outcomes[0]).To(Equal(passed("TEN-001", "dev", "aa")))

	other, err := check.OpenRecorder(folder)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(other.Record(failed("TEN-001", "dev", "aa"))).To(Succeed())
	g.Expect(other.Close()).To(Succeed())
	outcomes, err = check.ReadOutcomes(folder)
	g.Expect(err).To(MatchError(ContainSubstring("TEN-001 dev, tenant aa is judged twice")))
	g.Expect(outcomes).To(HaveLen(2 * tenants))
}

func TestReadOutcomesOfAKilledProcess(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	content := `{"check":"BOOT-001","environment":"dev","tenant":"","result":"PASSED","expected":"","found":"","reason":"","seconds":1,"artifacts":""}
{"check":"BOOT-002","environment":"d`
	g.Expect(os.WriteFile(filepath.Join(folder, "outcomes-1.jsonl"), []byte(content), 0o600)).To(Succeed())
	outcomes, err := check.ReadOutcomes(folder)
	g.Expect(err).To(MatchError(ContainSubstring("outcomes-1.jsonl line 2, cut off or written by another version")))
	g.Expect(outcomes).To(HaveLen(1))
}

func TestReadOutcomesOfNothing(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	outcomes, err := check.ReadOutcomes(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(outcomes).To(BeEmpty())
}
