package embedded

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Back-off of a program that keeps ending, as a kubelet has it: the first
// restart is at once.
const (
	backoffFirst = 10 * time.Second
	backoffMost  = 5 * time.Minute
	// backoffReset is how long a program has to run to be trusted again.
	backoffReset = 10 * time.Minute
)

// container is one container of a backed pod. What changes is guarded by the
// pod's mutex.
type container struct {
	pod  *backedPod
	spec *corev1.Container
	init bool

	component string
	path      string
	planned   *plan
	declared  []string

	process  *process
	waiting  corev1.ContainerStateWaiting
	last     *corev1.ContainerStateTerminated
	ended    *corev1.ContainerStateTerminated
	restarts int32
	started  bool
	ready    bool
	log      string
	peak     int64
}

func newContainer(p *backedPod, spec *corev1.Container, init bool) *container {
	c := &container{pod: p, spec: spec, init: init}
	c.waiting = corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	if !init && len(p.pod.Spec.InitContainers) > 0 {
		c.waiting.Reason = "PodInitializing"
	}
	c.component, _ = p.agent.spec.Recognize(spec.Image)
	return c
}

func (c *container) setWaiting(reason, message string) {
	c.pod.mu.Lock()
	c.waiting = corev1.ContainerStateWaiting{Reason: reason, Message: message}
	c.pod.mu.Unlock()
	c.pod.touch()
}

// find gets the program of the container's image.
func (c *container) find(ctx context.Context) error {
	if c.path != "" {
		return nil
	}
	spec := c.pod.agent.spec
	switch {
	case spec.Resolve != nil:
		found, err := spec.Resolve(ctx, c.component, c.spec.Image)
		if err != nil {
			return fmt.Errorf("program of image %s: %w", c.spec.Image, err)
		}
		c.path = found
	case spec.Binaries[c.component] != "":
		c.path = spec.Binaries[c.component]
	default:
		return fmt.Errorf("program of image %s: component %s is not among the binaries", c.spec.Image, c.component)
	}
	return nil
}

// plan works out arguments and variables.
func (c *container) plan(ctx context.Context, id *identity) error {
	env, err := id.sources.environment(ctx, c.spec)
	if err != nil {
		return err
	}
	lookup := func(name string) (string, bool) {
		i := slices.IndexFunc(env, func(v variable) bool { return v.name == name })
		if i < 0 {
			return "", false
		}
		return env[i].value, true
	}
	var args []string
	if len(c.spec.Command) > 1 {
		args = append(args, c.spec.Command[1:]...)
	}
	args = append(args, c.spec.Args...)
	for i := range args {
		args[i] = cluster.Expand(args[i], lookup)
	}
	in := request{
		component: c.component, origin: c.pod.origin(c.spec.Name),
		args: args, env: env,
		root:       filepath.Join(c.pod.dir, "root", c.spec.Name),
		kubeconfig: id.kubeconfig(),
		extra:      c.pod.agent.spec.Environ[c.component],
		marker:     c.pod.agent.spec.Marker,
		port:       c.pod.allocate,
	}
	for _, m := range c.spec.VolumeMounts {
		in.mounts = append(in.mounts, mount{
			path:     path.Clean(m.MountPath),
			host:     filepath.Join(c.pod.volume(m.Name), filepath.FromSlash(m.SubPath)),
			identity: m.MountPath == tokenPath,
		})
	}
	planned, err := c.pod.agent.rules.plan(in)
	if err != nil {
		return fmt.Errorf("component %s: %w", c.component, err)
	}
	for _, folder := range planned.folders {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	c.planned, c.declared = planned, args
	c.pod.overrides = append(c.pod.overrides, planned.overrides...)
	c.pod.notHonoured = append(c.pod.notHonoured, planned.notHonoured...)
	c.pod.notHonoured = append(c.pod.notHonoured, c.unreachableProbes()...)
	return nil
}

// unreachableProbes lists probes of ports on which the program does not listen.
// The caller holds the pod's mutex.
func (c *container) unreachableProbes() []cluster.NotHonoured {
	var list []cluster.NotHonoured
	for _, p := range c.probes() {
		declared, err := c.declaredPort(p.probe)
		if err == nil && c.planned.ports[declared] != 0 {
			continue
		}
		list = append(list, cluster.NotHonoured{
			Origin: c.pod.origin(c.spec.Name), Field: p.field, Declared: fmt.Sprintf("port %d", declared), Fatal: true,
			Reason: "the override table knows of no listener there",
		})
	}
	return list
}

// run starts the program and starts it again as the pod's restartPolicy has it.
// It returns when the program has ended for good, with whether it did well.
func (c *container) run() bool {
	var backoff time.Duration
	for {
		process, err := c.start()
		if err == nil {
			c.attend(process)
			c.note(process)
		} else {
			c.failed(err)
		}
		if c.pod.deleted() {
			return false
		}
		c.pod.mu.Lock()
		ended := c.ended
		c.pod.mu.Unlock()
		good := ended.ExitCode == 0
		policy := c.pod.pod.Spec.RestartPolicy
		if c.init && good || policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && good {
			return good
		}
		if ended.FinishedAt.Sub(ended.StartedAt.Time) >= backoffReset {
			backoff = 0
		}
		c.comeBack(backoff)
		if backoff > 0 && !pause(c.pod.life, backoff) {
			return false
		}
		backoff = min(max(2*backoff, backoffFirst), backoffMost)
	}
}

// comeBack moves the container from ended to waiting for its restart.
func (c *container) comeBack(backoff time.Duration) {
	c.pod.mu.Lock()
	c.last, c.ended = c.ended, nil
	c.waiting = corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	if backoff > 0 {
		c.waiting = corev1.ContainerStateWaiting{
			Reason: "CrashLoopBackOff",
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
				backoff, c.spec.Name, c.pod.pod.Name, c.pod.pod.Namespace, c.pod.pod.UID),
		}
	}
	c.pod.mu.Unlock()
	c.pod.touch()
}

// start starts the program once.
func (c *container) start() (*process, error) {
	if c.pod.deleted() {
		return nil, errEnded
	}
	c.pod.mu.Lock()
	if c.last != nil {
		c.restarts++
	}
	c.log = filepath.Join(c.pod.agent.spec.Dir, "logs", strings.Join([]string{c.pod.pod.Namespace, c.pod.pod.Name, c.spec.Name}, "_")+".log")
	if c.restarts > 0 {
		c.log = strings.TrimSuffix(c.log, ".log") + "." + strconv.Itoa(int(c.restarts)) + ".log"
	}
	log, planned := c.log, c.planned
	c.pod.mu.Unlock()
	process, err := startProcess(c.pod.hard, c.path, planned.args, planned.env, c.pod.dir, log)
	if err != nil {
		return nil, err
	}
	c.pod.mu.Lock()
	c.process = process
	c.started = c.spec.StartupProbe == nil
	c.ready = c.spec.ReadinessProbe == nil && c.started
	c.pod.mu.Unlock()
	c.pod.touch()
	return process, nil
}

// attend probes the program while it runs, and ends it when the pod ends.
func (c *container) attend(process *process) {
	probing, stop := context.WithCancel(c.pod.life)
	defer stop()
	unhealthy := make(chan struct{})
	if !c.init {
		go c.probe(probing, process, unhealthy)
	}
	select {
	case <-process.ended:
	case <-unhealthy:
		process.stop(time.Duration(valueOr(c.pod.pod.Spec.TerminationGracePeriodSeconds, 30)) * time.Second)
	case <-c.pod.life.Done():
		stop()
		c.endGracefully(process)
	}
}

// endGracefully ends the program within the pod's grace period, or at once when
// the pod is killed.
func (c *container) endGracefully(process *process) {
	c.pod.mu.Lock()
	grace := c.pod.grace
	c.pod.mu.Unlock()
	if c.pod.hard.Err() != nil {
		grace = 0
	}
	process.stop(grace)
}

// note takes down how the program has ended.
func (c *container) note(process *process) {
	c.pod.mu.Lock()
	c.peak = max(c.peak, process.peak)
	c.process = nil
	c.started, c.ready = false, false
	c.ended = &corev1.ContainerStateTerminated{
		ExitCode: process.exit, Signal: process.signal, Reason: "Completed",
		StartedAt: metav1.NewTime(process.started), FinishedAt: metav1.NewTime(process.finished),
		ContainerID: containerID(process),
	}
	if process.exit != 0 {
		c.ended.Reason = "Error"
		c.ended.Message = lastLines(c.log, 5)
	}
	c.pod.mu.Unlock()
	c.pod.touch()
}

// failed takes down that the program could not be started.
func (c *container) failed(err error) {
	now := metav1.Now()
	c.pod.mu.Lock()
	c.ended = &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: err.Error(), StartedAt: now, FinishedAt: now}
	c.pod.mu.Unlock()
	c.pod.touch()
}

func containerID(p *process) string {
	return "process://" + strconv.Itoa(p.pid()) + "-" + strconv.FormatInt(p.started.UnixNano(), 36)
}

// lastLines returns the end of a log, for the pod to show.
func lastLines(path string, count int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	const most = 2048
	text := strings.TrimRight(string(data[max(0, len(data)-most):]), "\n")
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-count):], "\n")
}

// status is what the pod shows of the container. The caller holds the mutex.
func (c *container) status() corev1.ContainerStatus {
	started := c.started
	status := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: "component://" + c.component,
		RestartCount: c.restarts, Ready: c.ready, Started: &started,
	}
	if c.last != nil {
		status.LastTerminationState = corev1.ContainerState{Terminated: c.last}
	}
	switch {
	case c.process != nil:
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.process.started)}
		status.ContainerID = containerID(c.process)
	case c.ended != nil:
		status.State.Terminated = c.ended
		status.ContainerID = c.ended.ContainerID
		status.Ready = c.init && c.ended.ExitCode == 0
	default:
		waiting := c.waiting
		status.State.Waiting = &waiting
	}
	return status
}
