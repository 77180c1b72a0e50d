package kind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

const (
	// reportAttempts is how often a report is begun because containers came and
	// went while the nodes were looked at, and reportPause the time in between: the
	// API server hears of an end about a second late.
	reportAttempts = 8
	reportPause    = 500 * time.Millisecond
)

// Report tells what runs at this moment, as the kernels of the nodes see it; pods
// that are being deleted are left out. A container that the API server says runs
// and that no node has is an error.
func (c *running) Report(ctx context.Context) (cluster.Report, error) {
	for attempt := 1; ; attempt++ {
		report, err := c.report(ctx)
		if !errors.Is(err, errMoved) || attempt == reportAttempts {
			return report, err
		}
		select {
		case <-ctx.Done():
			return cluster.Report{}, errors.Join(err, context.Cause(ctx))
		case <-time.After(reportPause):
		}
	}
}

// errMoved says that what the API server tells and what the nodes show do not fit
// together.
var errMoved = errors.New("containers came and went meanwhile")

func (c *running) report(ctx context.Context) (cluster.Report, error) {
	fail := func(err error) (cluster.Report, error) {
		return cluster.Report{}, fmt.Errorf("report of cluster %s: %w", c.spec.Name, err)
	}
	report := cluster.Report{
		Environment: c.spec.Name, Provider: Provider{}.Name(), Version: c.version,
		ControlPlane: []cluster.Process{}, Backed: []cluster.Backed{}, Overrides: []cluster.Override{},
		NotHonoured: []cluster.NotHonoured{}, Simulated: []cluster.SimulatedPod{}, SimulatedBackends: []cluster.SimulatedBackend{},
	}
	before, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail(err)
	}
	nodes, scans, err := c.scanNodes(ctx, before.Items)
	if err != nil {
		return fail(err)
	}
	report.Nodes = nodes
	for _, node := range nodes {
		report.PeakMemory += node.PeakMemory
	}
	after, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail(err)
	}
	for i := range after.Items {
		pod := &after.Items[i]
		if pod.DeletionTimestamp != nil {
			continue
		}
		if err := c.reportPod(ctx, &report, pod, scans[pod.Spec.NodeName]); err != nil {
			return fail(fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err))
		}
	}
	slices.SortStableFunc(report.Backed, func(a, b cluster.Backed) int { return compare(a.Origin, b.Origin) })
	slices.SortStableFunc(report.Overrides, func(a, b cluster.Override) int { return compare(a.Origin, b.Origin) })
	slices.SortStableFunc(report.Containers, func(a, b cluster.Container) int { return compare(a.Origin, b.Origin) })
	slices.SortStableFunc(report.ControlPlane, func(a, b cluster.Process) int { return cmp.Compare(a.Component, b.Component) })
	return report, nil
}

func compare(a, b cluster.Origin) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Pod, b.Pod))
}

// scanNodes looks at all nodes at once.
func (c *running) scanNodes(ctx context.Context, pods []corev1.Pod) ([]cluster.Node, map[string]*scan, error) {
	machines, err := c.nodes(ctx)
	if err != nil {
		return nil, nil, err
	}
	withEnviron := map[string][]string{}
	for i := range pods {
		for _, part := range parts(&pods[i]) {
			// Arguments and overrides are told of components alone.
			if _, known := c.spec.Recognize(part.spec.Image); known && part.status.State.Running != nil {
				withEnviron[pods[i].Spec.NodeName] = append(withEnviron[pods[i].Spec.NodeName], containerID(part.status))
			}
		}
	}
	nodes := make([]cluster.Node, len(machines))
	scans := map[string]*scan{}
	var mutex sync.Mutex
	group, running := errgroup.WithContext(ctx)
	for i, machine := range machines {
		group.Go(func() error {
			s, err := c.docker.scanNode(running, machine.Name, withEnviron[machine.Name])
			if err != nil {
				return err
			}
			nodes[i] = cluster.Node{Name: machine.Name, Role: machine.Role, Image: machine.Image, PeakMemory: s.peak, MemorySource: s.source}
			mutex.Lock()
			defer mutex.Unlock()
			scans[machine.Name] = s
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	return nodes, scans, nil
}

// nodes lists the cluster's containers that are nodes: a cluster of several control
// planes has a load balancer beside them.
func (c *running) nodes(ctx context.Context) ([]container, error) {
	all, err := c.docker.own(ctx, c.name, c.provider.Network.Name)
	if err != nil {
		return nil, err
	}
	nodes := slices.DeleteFunc(all, func(c container) bool { return c.Role != "control-plane" && c.Role != "worker" })
	if len(nodes) == 0 {
		return nil, fmt.Errorf("cluster %s has no containers any more", c.name)
	}
	return nodes, nil
}

// part is a container of a pod with what the API server says of it.
type part struct {
	spec   *corev1.Container
	status corev1.ContainerStatus
	init   bool
}

func parts(pod *corev1.Pod) []part {
	var list []part
	add := func(containers []corev1.Container, statuses []corev1.ContainerStatus, init bool) {
		for i := range containers {
			p := part{spec: &containers[i], init: init}
			for _, status := range statuses {
				if status.Name == p.spec.Name {
					p.status = status
				}
			}
			list = append(list, p)
		}
	}
	add(pod.Spec.InitContainers, pod.Status.InitContainerStatuses, true)
	add(pod.Spec.Containers, pod.Status.ContainerStatuses, false)
	return list
}

// containerID is the ID that the container runtime knows.
func containerID(status corev1.ContainerStatus) string {
	_, id, _ := strings.Cut(status.ContainerID, "://")
	return id
}

// isStatic tells whether a pod is one that a node runs from a file.
func isStatic(pod *corev1.Pod) bool {
	return pod.Annotations[corev1.MirrorPodAnnotationKey] != ""
}

// state is what a pod shows of a container.
func state(status corev1.ContainerStatus) string {
	switch {
	case status.State.Running != nil:
		return "running"
	case status.State.Terminated != nil:
		return fmt.Sprintf("terminated: %s, exit code %d", status.State.Terminated.Reason, status.State.Terminated.ExitCode)
	case status.State.Waiting != nil:
		return "waiting: " + status.State.Waiting.Reason
	}
	return "waiting"
}

// reportPod adds what a pod's containers are.
func (c *running) reportPod(ctx context.Context, report *cluster.Report, pod *corev1.Pod, s *scan) error {
	for _, part := range parts(pod) {
		component, known := c.spec.Recognize(part.spec.Image)
		origin := cluster.Origin{
			Environment: c.spec.Name, Namespace: pod.Namespace, Workload: cluster.Workload(pod), Pod: pod.Name, Container: part.spec.Name,
		}
		var processes []*process
		if part.status.State.Running != nil {
			if s != nil {
				processes = s.containers[containerID(part.status)]
			}
			if len(processes) == 0 {
				return fmt.Errorf("container %s runs, but node %s has no process of it (%s): %w", part.spec.Name, pod.Spec.NodeName, part.status.ContainerID, errMoved)
			}
		}
		if !known {
			component = part.spec.Name
		}
		if isStatic(pod) {
			report.ControlPlane = append(report.ControlPlane, describe(component, pod, part, processes))
			continue
		}
		if len(processes) > 0 {
			report.Containers = append(report.Containers, inside(origin, pod, part, processes[0]))
		}
		if !known {
			continue
		}
		backed := cluster.Backed{
			Origin: origin, Process: describe(component, pod, part, processes), Image: part.spec.Image, ImageID: part.status.ImageID,
			Init: part.init, Declared: part.spec.Args, State: state(part.status),
		}
		if len(processes) > 0 {
			if program(processes).environ == nil {
				return fmt.Errorf("container %s has begun: %w", part.spec.Name, errMoved)
			}
			backed.Declared = declared(part.spec, program(processes).environ)
			overrides, err := c.overrides(ctx, origin, component, pod, part.spec, program(processes).environ)
			if err != nil {
				return err
			}
			report.Overrides = append(report.Overrides, overrides...)
		}
		report.Backed = append(report.Backed, backed)
	}
	return nil
}

// describe is a container's program as it runs.
func describe(component string, pod *corev1.Pod, part part, processes []*process) cluster.Process {
	p := cluster.Process{
		Component: component, Restarts: int(part.status.RestartCount),
		Log: fmt.Sprintf("%s:/var/log/pods/%s_%s_%s/%s/%d.log", pod.Spec.NodeName, pod.Namespace, pod.Name, podUID(pod), part.spec.Name, part.status.RestartCount),
	}
	if len(processes) == 0 {
		return p
	}
	main := program(processes)
	p.Path, p.PID, p.PeakMemory = main.exe, main.pid, main.peak
	p.Running = main.line[min(1, len(main.line)):]
	return p
}

// podUID is the one that a node uses: a static pod's own is that of its file.
func podUID(pod *corev1.Pod) string {
	return cmp.Or(pod.Annotations["kubernetes.io/config.hash"], string(pod.UID))
}

// declared are the arguments of a container with $(VAR) expanded, those in its
// command included. The values are those that the process has; which names may be
// used, the container declares.
func declared(spec *corev1.Container, environ []string) []string {
	lookup := func(name string) (string, bool) {
		named := slices.ContainsFunc(spec.Env, func(e corev1.EnvVar) bool { return e.Name == name })
		if !named && len(spec.EnvFrom) == 0 {
			return "", false
		}
		return value(environ, name)
	}
	var args []string
	if len(spec.Command) > 0 {
		args = append(args, spec.Command[1:]...)
	}
	args = append(args, spec.Args...)
	for i := range args {
		args[i] = cluster.Expand(args[i], lookup)
	}
	return args
}

// value is that of a variable; of several of one name the first counts, as for the
// C library and for Go.
func value(environ []string, name string) (string, bool) {
	for _, variable := range environ {
		if found, value, ok := strings.Cut(variable, "="); ok && found == name {
			return value, true
		}
	}
	return "", false
}

// inside is what the kernel says of a container's first process.
func inside(origin cluster.Origin, pod *corev1.Pod, part part, p *process) cluster.Container {
	return cluster.Container{
		Origin: origin, Node: pod.Spec.NodeName, Image: part.spec.Image, ImageID: part.status.ImageID,
		PID: p.pid, UID: p.uid, GID: p.gid, Groups: p.groups, ReadOnlyRoot: p.readOnlyRoot(),
		Effective: capabilityNames(p.effective), Permitted: capabilityNames(p.permitted), Bounding: capabilityNames(p.bounding),
		NoNewPrivileges: p.noNew, Seccomp: seccompName(p.seccomp),
		ServiceAccountToken: slices.ContainsFunc(tokenPaths(pod, part.spec), p.mountsOn),
		MemoryLimit:         p.memory, CPULimit: p.cpu,
	}
}

// tokenPath is where a pod's token lies unless it says otherwise.
const tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// tokenPaths are the paths in a container where a token of the pod's account would
// lie.
func tokenPaths(pod *corev1.Pod, spec *corev1.Container) []string {
	paths := []string{tokenPath}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil || !slices.ContainsFunc(volume.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			continue
		}
		for _, m := range spec.VolumeMounts {
			if m.Name == volume.Name {
				paths = append(paths, m.MountPath)
			}
		}
	}
	return paths
}
