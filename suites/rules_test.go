package suites

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

func TestLacks(t *testing.T) {
	for _, row := range []struct {
		name        string
		args        []string
		flag, value string
		want        string
	}{
		{"the flag is there", []string{"--a=1", "--no-remote-bases=true"}, "no-remote-bases", "true", ""},
		{"without a value it is true", []string{"--no-remote-bases"}, "no-remote-bases", "true", ""},
		{"missing", []string{"--a=1"}, "no-remote-bases", "true", "--no-remote-bases is missing"},
		{"switched off", []string{"--no-remote-bases=false"}, "no-remote-bases", "true", `--no-remote-bases is "false"`},
		{"the last one counts", []string{"--no-remote-bases=true", "--no-remote-bases=false"}, "no-remote-bases", "true", `--no-remote-bases is "false"`},
		{"any value will do", []string{"--default-service-account=default"}, "default-service-account", "", ""},
		{"but an empty one", []string{"--default-service-account="}, "default-service-account", "", `--default-service-account is ""`},
		{"a longer flag is another", []string{"--no-remote-bases-x=true"}, "no-remote-bases", "true", "--no-remote-bases is missing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(lacks(row.args, row.flag, row.value)).To(Equal(row.want))
		})
	}
}

func TestUnexplainedComparesWithTheWorkload(t *testing.T) {
	backed := cluster.Backed{
		Origin:   cluster.Origin{Namespace: "kyverno", Workload: "Deployment/k", Pod: "k-1", Container: "c"},
		Process:  cluster.Process{Running: []string{"--a=1", "--port=2000"}},
		Declared: []string{"--a=1", "--port=80"},
	}
	declared := "80"
	override := cluster.Override{Origin: backed.Origin, Kind: cluster.Argument, Name: "port", Declared: &declared, Effective: "2000"}
	other := override
	other.Pod = "k-2"
	g := NewWithT(t)
	args := func(list ...string) map[string][]string { return map[string][]string{"kyverno Deployment/k c": list} }
	g.Expect(unexplained(backed, args("--a=1", "--port=80"), []cluster.Override{override, other})).To(BeEmpty())
	g.Expect(unexplained(backed, args("--a=1", "--port=80"), []cluster.Override{other})).NotTo(BeEmpty())
	g.Expect(unexplained(backed, args("--a=2", "--port=80"), []cluster.Override{override})).To(ConsistOf(ContainSubstring("the workload declares --a=2, its pod does not")))
	g.Expect(unexplained(backed, args("--a=1", "--port=80", "--more"), []cluster.Override{override})).To(ConsistOf(ContainSubstring("--more")))
	g.Expect(unexplained(backed, args("--a=1", "--port=$(PORT)"), []cluster.Override{override})).To(BeEmpty())
}

func TestUnansweredTellsSimulatedWebhooksFromRefusals(t *testing.T) {
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "report.json")
	report := cluster.Report{SimulatedBackends: []cluster.SimulatedBackend{{
		Kind: "ValidatingWebhookConfiguration", Name: "vendor", Webhooks: []string{"check.vendor.example"},
		Service: "vendor/webhook", Pods: []string{"vendor/webhook-1"},
	}}}
	data, err := json.Marshal(map[string]any{"asked": time.Now().Add(time.Hour), "report": report})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(file, data, 0o600)).To(Succeed())
	env := &environment{state: bringup.EnvironmentState{Name: "dev", Report: file}}
	for _, row := range []struct{ name, failure, want string }{
		{
			"nothing answers behind the webhook", `failed calling webhook "check.vendor.example": failed to call webhook`,
			"the webhook check.vendor.example of ValidatingWebhookConfiguration vendor is answered by simulated pods only (vendor/webhook-1)",
		},
		{"another webhook failed", `failed calling webhook "vpol.validate.kyverno.svc-fail": failed to call webhook`, ""},
		{"the webhook refused", `admission webhook "check.vendor.example" denied the request`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(env.unanswered(t.Context(), row.failure)).To(Equal(row.want))
		})
	}
}
