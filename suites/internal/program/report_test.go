package program

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

func TestNotHonouredIsOneNotePerField(t *testing.T) {
	g := NewWithT(t)
	one := func(workload, field, reason string) cluster.NotHonoured {
		return cluster.NotHonoured{Origin: cluster.Origin{Namespace: "kyverno", Workload: workload}, Field: field, Reason: reason}
	}
	g.Expect(notHonoured("dev", []cluster.NotHonoured{
		one("reports", "resources", "no cgroup"), one("admission", "resources", "no cgroup"), one("admission", "resources", "no cgroup"),
		one("admission", "affinity", "one machine"),
	})).To(Equal([]string{
		"dev: affinity is not honoured for programs that run on this machine: one machine (kyverno/admission)",
		"dev: resources is not honoured for programs that run on this machine: no cgroup (kyverno/admission, kyverno/reports)",
	}))
	g.Expect(notHonoured("dev", nil)).To(BeEmpty())
}

func TestNotReadIsSaidOnce(t *testing.T) {
	g := NewWithT(t)
	in := func(environment, file string) platform.Unread {
		return platform.Unread{Environment: environment, Where: platform.Origin{File: file, Line: 3}, What: "Kustomization a/b", Why: "no folder answers"}
	}
	link := platform.Unread{Where: platform.Origin{File: "docs"}, What: "symbolic link to /tmp", Why: "Flux leaves it out"}
	g.Expect(notRead([]platform.Unread{link, in("dev", "a.yaml"), in("dev", "b.yaml"), in("prd", "a.yaml")})).To(Equal([]string{
		"not read: docs: symbolic link to /tmp: Flux leaves it out",
		"not read: a.yaml:3: Kustomization a/b: no folder answers (dev, prd)",
		"not read: b.yaml:3: Kustomization a/b: no folder answers (dev)",
	}))
}

func TestUnneededComponents(t *testing.T) {
	g := NewWithT(t)
	view := &bringup.View{
		Config: platform.Config{Components: map[string]string{"kyverno": "v1.19.1", "helm-controller": "v1.6.4", "etcd": "v3.6.13"}},
		State: bringup.State{Components: []component.Component{
			{Name: "kyverno", InPlaceOf: []string{"kyverno:v1"}}, {Name: "helm-controller"}, {Name: "etcd"},
		}},
	}
	g.Expect(unneeded(view)).To(Equal([]string{
		"components in CONFIG: helm-controller v1.6.4 stood in for nothing: no pod asked for a version of it that could not be had",
	}), "kyverno did, and etcd is what the clusters are made of")
}

func TestFillSources(t *testing.T) {
	g := NewWithT(t)
	log := filepath.Join(t.TempDir(), "requests.jsonl")
	g.Expect(os.WriteFile(log, []byte(`{"url":"https://github.com/a/b/info/refs","source":"https://github.com/a/b","answered":true}
{"url":"https://github.com/a/b/git-upload-pack","source":"https://github.com/a/b","answered":true,"revision":"main@sha1:1","digest":"sha256:1"}
{"url":"https://github.com/a/b/git-upload-pack","source":"https://github.com/a/b","answered":true,"revision":"main@sha1:1","digest":"sha256:1"}
{"url":"https://charts.example/index.yaml","source":"https://charts.example","answered":true,"upstream":true,"revision":"1","digest":"sha256:2"}
{"url":"https://canary.example/x/info/refs","source":"https://canary.example/x","object":"GitRepository a/b","time":"2026-01-02T03:04:05Z"}
{"url":"https://canary.example/x","object":"GitRepository a/b","time":"2026-01-02T03:04:06Z"}
half a line
`), 0o600)).To(Succeed())
	var report check.Report
	fillSources(&report, &bringup.View{State: bringup.State{Requests: log}})
	g.Expect(report.Sources).To(Equal([]check.Source{
		{URL: "https://github.com/a/b", Revision: "main@sha1:1"},
		{URL: "https://charts.example", Revision: "1", Digest: "sha256:2", Upstream: true},
	}))
	g.Expect(report.RefusedRequests).To(Equal([]check.RefusedRequest{
		{URL: "https://canary.example/x", Object: "GitRepository a/b", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	}))
	g.Expect(report.Notes).To(BeEmpty())

	report = check.Report{}
	fillSources(&report, &bringup.View{State: bringup.State{Requests: log + ".none"}})
	g.Expect(report.Notes).To(ConsistOf(ContainSubstring("read the log of the servers: open ")))
}

func TestAddWaits(t *testing.T) {
	g := NewWithT(t)
	view := &bringup.View{State: bringup.State{Environments: []bringup.EnvironmentState{
		{Name: "dev", Waited: []bringup.Wait{{Object: "HelmRelease kyverno/kyverno", Seconds: 9}}},
	}}}
	report := check.Report{Phases: []check.Phase{
		{Name: "platform", Environment: "dev"}, {Name: "platform", Environment: "prd"}, {Name: "cluster", Environment: "dev"},
	}}
	addWaits(&report, &running{view: view})
	g.Expect(report.Phases[0].WaitedFor).To(Equal([]check.Wait{{Object: "HelmRelease kyverno/kyverno", Seconds: 9}}))
	g.Expect(report.Phases[1].WaitedFor).To(BeEmpty())
	g.Expect(report.Phases[2].WaitedFor).To(BeEmpty())
	addWaits(&report, &running{}) // a bring-up that ended before there was a view
}

func TestWriteMemory(t *testing.T) {
	g := NewWithT(t)
	var out bytes.Buffer
	writeMemory(&out, &check.Report{})
	g.Expect(out.String()).To(BeEmpty())
	report := check.Report{Processes: []check.Process{
		{Name: "etcd", Environment: "dev", PeakBytes: 50 << 20},
		{Name: "kube-apiserver", Environment: "dev", PeakBytes: 300 << 20},
		{Name: "kwok", Environment: "prd", PeakBytes: 20 << 20},
		{Name: "source-controller", Environment: "prd", PeakBytes: 60 << 20},
	}}
	writeMemory(&out, &report)
	g.Expect(out.String()).To(HaveSuffix("\npeak memory, all together at most: 430 MiB; dev kube-apiserver 300 MiB prd source-controller 60 MiB dev etcd 50 MiB\n"))
	g.Expect(report.Processes[0].Name).To(Equal("etcd"), "the report keeps its order")
}

func TestWaiversOfConfig(t *testing.T) {
	g := NewWithT(t)
	day := time.Date(2027, 5, 31, 0, 0, 0, 0, time.UTC)
	g.Expect(waivers([]platform.Waiver{{Check: "CFG-002", Environment: "dev", Tenant: "beetle", Reason: "moves", Expires: day, Line: 7}})).
		To(Equal([]check.Waiver{{Check: "CFG-002", Environment: "dev", Tenant: "beetle", Reason: "moves", Expires: check.DateOf(day)}}))
}

// A run whose bring-up fails is broken, never a failed platform.
func TestFinish(t *testing.T) {
	for _, test := range []struct {
		name    string
		summary check.SummaryInput
		code    int
		last    string
	}{
		{"broken", check.SummaryInput{Broken: os.ErrDeadlineExceeded}, 3, "broken: no check was judged; "},
		{"invalid", check.SummaryInput{Invalid: os.ErrInvalid, Broken: os.ErrDeadlineExceeded}, 2, "invalid-input: no check was judged; "},
		{"nothing judged", check.SummaryInput{}, 3, "broken: no check was judged; "},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			i := newInvocation(t)
			in := &input{artifacts: t.TempDir()}
			g.Expect(i.finish(in, &check.Report{Started: time.Now()}, test.summary, nil)).To(Equal(exit(test.code)))
			g.Expect(i.out.String()).To(ContainSubstring("\n" + test.last))
			g.Expect(readReport(t, in.artifacts).ExitCode).To(Equal(test.code))
		})
	}
	t.Run("a report that cannot be written breaks the run", func(t *testing.T) {
		g := NewWithT(t)
		i := newInvocation(t)
		dir := t.TempDir()
		write("taken", "")(t, dir)
		err := i.finish(&input{artifacts: filepath.Join(dir, "taken")}, &check.Report{Started: time.Now()}, check.SummaryInput{}, nil)
		g.Expect(err).To(MatchError(ContainSubstring("creating the folder of the report")))
		g.Expect(err).NotTo(BeAssignableToTypeOf(exit(0)))
	})
}
