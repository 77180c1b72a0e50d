package program

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/check/dump"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// fill takes down what a report says of the session beside the outcomes.
func fill(ctx context.Context, report *check.Report, view *bringup.View) {
	report.Tenants = view.Platform.TenantNames()
	report.IdleSeconds = view.State.IdleSeconds
	if r, ok := view.State.Repository("platform"); ok {
		report.Platform = check.Platform{Folder: r.Folder, Revision: r.Revision, Dirty: r.Dirty}
	}
	for _, c := range view.State.Components {
		report.Components = append(report.Components, check.Component{
			Name: c.Name, Version: c.Version, Origin: c.Origin, FromCache: c.FromCache, Reference: c.Reference, Digest: c.Digest,
			InPlaceOf: c.InPlaceOf,
		})
	}
	report.Notes = append(report.Notes, view.State.Notes...)
	report.Notes = append(report.Notes, unneeded(view)...)
	report.Notes = append(report.Notes, notRead(view.Platform.Unread)...)
	if len(view.State.FluxAssumed) > 0 {
		report.Notes = append(report.Notes, fmt.Sprintf("the repository has no gotk-components.yaml for %s, so it declares no release of Flux; the pinned one was bootstrapped",
			strings.Join(view.State.FluxAssumed, ", ")))
	}
	for _, e := range view.State.Environments {
		fillEnvironment(ctx, report, view, e)
	}
	fillSources(report, view)
}

// notRead says once what several environments have in common.
func notRead(list []platform.Unread) []string {
	var order []platform.Unread
	environments := map[platform.Unread][]string{}
	for _, u := range list {
		shared := u
		shared.Environment = ""
		if environments[shared] == nil {
			order = append(order, shared)
		}
		environments[shared] = append(environments[shared], u.Environment)
	}
	var out []string
	for _, u := range order {
		text := "not read: " + u.String()
		if names := strings.Join(environments[u], ", "); names != "" {
			text += " (" + names + ")"
		}
		out = append(out, text)
	}
	return out
}

// unneeded says which components of CONFIG stood in for nothing.
func unneeded(view *bringup.View) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(view.Config.Components)) {
		used := slices.ContainsFunc(view.State.Components, func(c component.Component) bool { return c.Name == name && len(c.InPlaceOf) > 0 })
		if !used && !bringup.OfControlPlane(name) {
			out = append(out, fmt.Sprintf("components in CONFIG: %s %s stood in for nothing: no pod asked for a version of it that could not be had", name, view.Config.Components[name]))
		}
	}
	return out
}

func fillEnvironment(ctx context.Context, report *check.Report, view *bringup.View, e bringup.EnvironmentState) {
	environment := check.Environment{Name: e.Name}
	defer func() { report.Environments = append(report.Environments, environment) }()
	for _, f := range e.Findings {
		report.Capabilities = append(report.Capabilities, check.Capability{
			Environment: e.Name, Name: string(f.Capability), Has: f.Has, Evidence: f.Evidence,
		})
	}
	for _, line := range e.Chain {
		report.Notes = append(report.Notes, e.Name+": not ready when the bring-up ended: "+line)
	}
	found, err := e.ClusterReport(ctx)
	if err != nil {
		report.Notes = append(report.Notes, err.Error())
		return
	}
	environment.Kubernetes, environment.Flux = found.Version, fluxVersion(view.Platform.Environment(e.Name))
	report.Processes = append(report.Processes, memoryOf(e.Name, found)...)
	for _, o := range found.Overrides {
		declared := ""
		if o.Declared != nil {
			declared = *o.Declared
		}
		report.Overrides = append(report.Overrides, check.Override{
			Environment: e.Name, Workload: o.Namespace + "/" + o.Workload + "/" + o.Container,
			Kind: string(o.Kind), Name: o.Name, Declared: declared, Effective: o.Effective, Reason: o.Reason,
		})
	}
	for _, pod := range found.Simulated {
		report.SimulatedPods = append(report.SimulatedPods, check.SimulatedPod{Environment: e.Name, Namespace: pod.Namespace, Name: pod.Name, Images: pod.Images})
	}
	for _, backend := range found.SimulatedBackends {
		report.SimulatedBackends = append(report.SimulatedBackends, check.SimulatedBackend{Environment: e.Name, Kind: backend.Kind, Name: backend.Name, Service: backend.Service})
	}
	report.NotHonoured = append(report.NotHonoured, notHonoured(e.Name, found.NotHonoured)...)
}

// memoryOf is what the memory of an environment went to: its nodes, where it has
// any, since they count what their processes share once; else its processes.
func memoryOf(environment string, found cluster.Report) []check.Process {
	var out []check.Process
	add := func(name string, peak int64) {
		out = append(out, check.Process{Name: name, Environment: environment, PeakBytes: peak})
	}
	for _, node := range found.Nodes {
		add("node "+node.Role, node.PeakMemory)
	}
	if len(out) > 0 {
		return out
	}
	for _, process := range found.ControlPlane {
		add(process.Component, process.PeakMemory)
	}
	for _, backed := range found.Backed {
		add(backed.Component, backed.PeakMemory)
	}
	return out
}

// fluxVersion is the release that an environment declares, as the manifests of
// every release label their namespace; empty where they do not.
func fluxVersion(declared *platform.Environment) string {
	if declared == nil {
		return ""
	}
	for _, n := range declared.Namespaces {
		if n.GetName() == bootstrap.Namespace {
			return n.GetLabels()["app.kubernetes.io/version"]
		}
	}
	return ""
}

// notHonoured says in one note per field what backed pods declare and do not get.
func notHonoured(environment string, list []cluster.NotHonoured) []string {
	workloads := map[string][]string{}
	reasons := map[string]string{}
	for _, n := range list {
		name := n.Namespace + "/" + n.Workload
		if !slices.Contains(workloads[n.Field], name) {
			workloads[n.Field] = append(workloads[n.Field], name)
		}
		reasons[n.Field] = n.Reason
	}
	var out []string
	for field, names := range workloads {
		slices.Sort(names)
		out = append(out, fmt.Sprintf("%s: %s is not honoured for programs that run on this machine: %s (%s)", environment, field, reasons[field], strings.Join(names, ", ")))
	}
	slices.Sort(out)
	return out
}

// fillSources reads the log of the session's servers: what was served, once per
// URL and revision, and every refusal.
func fillSources(report *check.Report, view *bringup.View) {
	file, err := os.Open(view.State.Requests)
	if err != nil {
		report.Notes = append(report.Notes, fmt.Sprintf("read the log of the servers: %s", err))
		return
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r source.Request
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		if !r.Answered {
			// The URL of the source is the one that CONFIG can map.
			refused := check.RefusedRequest{URL: cmp.Or(r.Source, r.URL), Object: r.Object, Time: r.Time}
			if !slices.ContainsFunc(report.RefusedRequests, func(o check.RefusedRequest) bool { return o.URL == refused.URL && o.Object == refused.Object }) {
				report.RefusedRequests = append(report.RefusedRequests, refused)
			}
			continue
		}
		s := check.Source{URL: r.Source, Revision: r.Revision, Upstream: r.Upstream}
		if r.Upstream {
			s.Digest = r.Digest
		}
		if r.Revision != "" && !slices.Contains(report.Sources, s) {
			report.Sources = append(report.Sources, s)
		}
	}
}

// addWaits lays what the bring-up waited for beside its phases.
func addWaits(report *check.Report, r *running) {
	if r.view == nil {
		return
	}
	for _, e := range r.view.State.Environments {
		for i := range report.Phases {
			phase := &report.Phases[i]
			if phase.Environment != e.Name || phase.Name != "platform" {
				continue
			}
			phase.WaitedFor = nil
			for _, w := range e.Waited {
				phase.WaitedFor = append(phase.WaitedFor, check.Wait{Object: w.Object, Seconds: w.Seconds})
			}
		}
	}
}

// writeMemory writes the programs that took most memory.
func writeMemory(w io.Writer, report *check.Report) {
	processes := slices.Clone(report.Processes)
	sort.Slice(processes, func(i, j int) bool { return processes[i].PeakBytes > processes[j].PeakBytes })
	var sum int64
	for _, process := range processes {
		sum += process.PeakBytes
	}
	if sum == 0 {
		return
	}
	const mebibyte = 1 << 20
	fmt.Fprintf(w, "\nthe machine idled for %.1f s of the bring-up\npeak memory, all together at most: %d MiB;", report.IdleSeconds, sum/mebibyte)
	for _, process := range processes[:min(3, len(processes))] {
		fmt.Fprintf(w, " %s %s %d MiB", process.Environment, process.Name, process.PeakBytes/mebibyte)
	}
	fmt.Fprintln(w)
}

// dump collects what lies in the clusters of failed checks, and tells each
// outcome where. What cannot be dumped is noted and hides no failure.
func (p *program) dump(ctx context.Context, in *input, r *running, outcomes []check.Outcome) []check.Outcome {
	out := slices.Clone(outcomes)
	for _, e := range r.view.State.Environments {
		if err := p.dumpEnvironment(ctx, in, r, e, out); err != nil {
			fmt.Fprintln(p.errOut, "note: dump of", e.Name, "is not complete:", err)
		}
	}
	return out
}

func (p *program) dumpEnvironment(ctx context.Context, in *input, r *running, e bringup.EnvironmentState, outcomes []check.Outcome) error {
	if len(failed(outcomes)) == 0 {
		return nil
	}
	config, err := e.Config()
	if err != nil {
		return err
	}
	var namespaces []string
	if declared := r.view.Platform.Environment(e.Name); declared != nil {
		for _, n := range declared.Namespaces {
			namespaces = append(namespaces, n.GetName())
		}
		for _, t := range declared.Tenants {
			namespaces = append(namespaces, t.Namespace, t.TargetNamespace)
		}
	}
	slices.Sort(namespaces)
	var logs []string
	if report, err := e.ClusterReport(ctx); err == nil {
		for _, process := range report.ControlPlane {
			logs = append(logs, process.Log)
		}
		for _, backed := range report.Backed {
			logs = append(logs, backed.Log)
		}
	}
	var problems []error
	for i := range outcomes {
		o := &outcomes[i]
		if o.Result != check.Failed || o.Environment != e.Name {
			continue
		}
		judged, _ := p.suite.Registry.Get(o.Check)
		o.Artifacts = filepath.Join(e.Name, o.Check)
		collected := dump.Input{
			RESTConfig: config, Dir: filepath.Join(in.artifacts, e.Name), Check: judged, Outcome: *o,
			Namespaces: slices.Compact(namespaces), Logs: logs,
			PodLogs: slices.ContainsFunc(e.Findings, func(f cluster.Finding) bool { return f.Capability == cluster.Workloads && f.Has }),
		}
		if declared := r.view.Platform.Environment(e.Name); declared != nil {
			if tenant := declared.Tenant(o.Tenant); tenant != nil {
				collected.PodNamespace, collected.PodSelector = tenant.TargetNamespace, platform.TenantLabel+"="+tenant.Name
			}
		}
		_, err := dump.Collect(ctx, collected)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// readyArtifacts makes the folder of artifacts and sees that it can be written
// to: what a run finds out must not be lost at its end.
func readyArtifacts(dir string) error {
	if dir == "" {
		return errors.New("ARTIFACTS names no folder; leave it out for the default, «artifacts»")
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(dir, ".writable-"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("the folder of artifacts cannot be written to: %w; name another with ARTIFACTS", err)
	}
	return nil
}

// clearArtifacts takes away what an earlier run left in the folder, and nothing
// that a run does not write: of the folders of environments what was dumped for
// these checks and what the report lists, and them only when nothing else lies
// there.
func clearArtifacts(dir string, checks []check.Check) error {
	// The report goes after what it lists: by it those files are known as ours.
	attachments := check.AttachmentPaths(dir)
	remove := append(slices.Clone(attachments), check.ReportFile, check.JUnitFile, session.LogName, SpecsLog)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clear what an earlier run left: %w", err)
	}
	var environments []string
	for _, path := range attachments {
		if folder := filepath.Dir(path); folder != "." {
			environments = append(environments, folder)
		}
	}
	for _, entry := range entries {
		var dumped []string
		for _, c := range checks {
			if _, err := os.Lstat(filepath.Join(dir, entry.Name(), c.ID)); err == nil {
				dumped = append(dumped, filepath.Join(entry.Name(), c.ID))
			}
		}
		// The logs of nodes lie alone where no check was judged.
		if nodes, _ := filepath.Glob(filepath.Join(dir, entry.Name(), bringup.NodeLogs, bringup.SessionPrefix+"*")); len(nodes) > 0 {
			dumped = append(dumped, filepath.Join(entry.Name(), bringup.NodeLogs))
		}
		if len(dumped) > 0 {
			environments = append(environments, entry.Name())
			// The checks' folders go last: by them the other is known as ours.
			remove = append(append(remove, filepath.Join(entry.Name(), dump.ClusterFolder)), dumped...)
		}
	}
	for _, name := range remove {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("clear what an earlier run left in %s: %w", dir, err)
		}
	}
	for _, name := range environments {
		_ = os.Remove(filepath.Join(dir, name)) // it stays when something else lies there
	}
	return nil
}
