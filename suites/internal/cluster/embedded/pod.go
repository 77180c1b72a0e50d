package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// backedPod looks after one pod whose containers are host processes.
type backedPod struct {
	agent *agent
	// pod is the pod as it was adopted; nothing of it changes.
	pod *corev1.Pod
	ip  string
	dir string

	// life ends when the pod shall end; grace is how long its processes get
	// then. Killing the pod ends the grace period as well.
	life     context.Context
	end      context.CancelFunc
	hard     context.Context
	killHard context.CancelFunc

	mu          sync.Mutex
	grace       time.Duration
	initial     []*container
	containers  []*container
	conditions  map[corev1.PodConditionType]corev1.PodCondition
	startTime   metav1.Time
	ports       map[int]int
	overrides   []cluster.Override
	notHonoured []cluster.NotHonoured
	// phase is set once the pod has finished.
	phase corev1.PodPhase

	// dirty asks for the status to be written.
	dirty chan struct{}
}

func newBackedPod(ctx context.Context, a *agent, pod *corev1.Pod, ip string) *backedPod {
	p := &backedPod{
		agent: a, pod: pod, ip: ip,
		dir:        filepath.Join(a.spec.Dir, "pods", string(pod.UID)),
		conditions: map[corev1.PodConditionType]corev1.PodCondition{},
		startTime:  metav1.Now(),
		ports:      map[int]int{},
		dirty:      make(chan struct{}, 1),
	}
	p.hard, p.killHard = context.WithCancel(ctx)
	p.life, p.end = context.WithCancel(p.hard)
	for i := range pod.Spec.InitContainers {
		p.initial = append(p.initial, newContainer(p, &pod.Spec.InitContainers[i], true))
	}
	for i := range pod.Spec.Containers {
		p.containers = append(p.containers, newContainer(p, &pod.Spec.Containers[i], false))
	}
	return p
}

// origin says where things of the pod come from.
func (p *backedPod) origin(container string) cluster.Origin {
	return cluster.Origin{
		Environment: p.agent.spec.Name, Namespace: p.pod.Namespace,
		Workload: cluster.Workload(p.pod), Pod: p.pod.Name, Container: container,
	}
}

// update takes over what the API server says of the pod.
func (p *backedPod) update(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pod.Status.Conditions {
		// Gates are somebody else's conditions.
		if slices.ContainsFunc(p.pod.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == c.Type }) {
			if old, ok := p.conditions[c.Type]; !ok || old.Status != c.Status {
				p.conditions[c.Type] = c
				p.touch()
			}
		}
	}
	if pod.DeletionTimestamp != nil && p.life.Err() == nil {
		p.grace = time.Duration(valueOr(pod.DeletionGracePeriodSeconds, 30)) * time.Second
		p.end()
	}
}

func valueOr(value *int64, standard int64) int64 {
	if value == nil {
		return standard
	}
	return *value
}

// kill ends the pod without grace.
func (p *backedPod) kill() { p.killHard() }

// touch asks for the status to be written.
func (p *backedPod) touch() {
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

// run backs the pod until it is deleted, or until ctx ends, when its processes
// are killed and its object is left alone.
func (p *backedPod) run(ctx context.Context) {
	defer p.killHard()
	var work sync.WaitGroup
	reporting, stopReporting := context.WithCancel(ctx)
	var reporter sync.WaitGroup
	reporter.Go(func() { p.report(reporting) })

	p.containersRun(&work) //nolint:contextcheck // containers live as long as the pod, which ends before or after ctx

	stopReporting()
	reporter.Wait()
	if !p.deleted() {
		// A pod that has finished stays until somebody deletes it.
		p.untilDone(p.life, p.writeStatus) //nolint:contextcheck // as above
		<-p.life.Done()
	}
	p.untilDone(ctx, func(ctx context.Context) error { return p.agent.remove(ctx, p.pod) })
	work.Wait()
	_ = os.RemoveAll(p.dir)
}

func (p *backedPod) deleted() bool { return p.life.Err() != nil }

// untilDone repeats an act until it succeeds.
func (p *backedPod) untilDone(ctx context.Context, act func(context.Context) error) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
		err := act(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			p.agent.warn(fmt.Errorf("pod %s/%s: %w", p.pod.Namespace, p.pod.Name, err))
		}
		pause(ctx, wait)
	}
}

// pause waits, and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// containersRun runs the init containers in order and then the others, and
// returns when all have ended for good.
func (p *backedPod) containersRun(work *sync.WaitGroup) {
	all := append(slices.Clone(p.initial), p.containers...)
	p.touch()
	if !p.prepare(work, all) {
		return
	}
	for _, c := range p.initial {
		if !c.run() {
			if !p.deleted() {
				p.finish(corev1.PodFailed)
			}
			return
		}
	}
	if p.deleted() {
		return
	}
	p.setInitialized()
	results := make([]bool, len(p.containers))
	var running sync.WaitGroup
	for i, c := range p.containers {
		running.Go(func() { results[i] = c.run() })
	}
	running.Wait()
	if p.deleted() {
		return
	}
	if slices.Contains(results, false) {
		p.finish(corev1.PodFailed)
		return
	}
	p.finish(corev1.PodSucceeded)
}

func (p *backedPod) finish(phase corev1.PodPhase) {
	p.mu.Lock()
	p.phase = phase
	p.mu.Unlock()
	p.touch()
}

func (p *backedPod) setInitialized() {
	p.mu.Lock()
	p.setCondition(corev1.PodInitialized, true, "", "")
	p.mu.Unlock()
	p.touch()
}

// prepare makes everything that the containers need. What is missing for now,
// such as a ConfigMap, is shown on the pod and tried again; what this cluster
// cannot do is shown and stays.
func (p *backedPod) prepare(work *sync.WaitGroup, all []*container) bool {
	if problems := p.checkHonoured(); len(problems) > 0 {
		return p.refuse(all, problems)
	}
	var lifetime time.Duration
	id := &identity{sources: p.sources(), dir: p.dir}
	for first := true; ; first = false {
		problem := ""
		lifetime, problem = p.tryPrepare(id, all)
		if problem == "" {
			break
		}
		if p.deleted() {
			return false
		}
		if first {
			p.agent.warn(fmt.Errorf("pod %s/%s waits: %s", p.pod.Namespace, p.pod.Name, problem))
		}
		if !pause(p.life, time.Second) {
			return false
		}
	}
	p.mu.Lock()
	fatal := fatals(p.notHonoured)
	p.mu.Unlock()
	if len(fatal) > 0 {
		return p.refuse(all, fatal)
	}
	if lifetime > 0 {
		work.Go(func() {
			id.keep(p.life, lifetime, func(err error) {
				p.agent.warn(fmt.Errorf("pod %s/%s: %w", p.pod.Namespace, p.pod.Name, err))
			})
		})
	}
	return true
}

// refuse shows why the pod is not started, and waits for its end.
func (p *backedPod) refuse(all []*container, problems []string) bool {
	message := "this pod cannot run as host processes: " + strings.Join(problems, "; ")
	p.agent.warn(fmt.Errorf("pod %s/%s: %s", p.pod.Namespace, p.pod.Name, message))
	for _, c := range all {
		c.setWaiting("CreateContainerConfigError", message)
	}
	<-p.life.Done()
	return false
}

func fatals(list []cluster.NotHonoured) []string {
	var texts []string
	for _, n := range list {
		if n.Fatal {
			texts = append(texts, fmt.Sprintf("%s %s: %s", n.Field, n.Declared, n.Reason))
		}
	}
	return texts
}

func (p *backedPod) sources() *sources {
	return &sources{client: p.agent.client, pod: p.pod, allocatable: allocatable(), podIP: p.ip}
}

// tryPrepare writes identity and volumes, finds the programs and plans every
// container. It returns what is missing, after having shown it on the pod.
func (p *backedPod) tryPrepare(id *identity, all []*container) (lifetime time.Duration, problem string) {
	show := func(reason string, err error, containers ...*container) string {
		for _, c := range containers {
			c.setWaiting(reason, err.Error())
		}
		return err.Error()
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return 0, show("ContainerCreating", err, all...)
	}
	lifetime, err := id.write(p.life, p.agent.admin, p.mountsToken())
	if err != nil {
		return 0, show("ContainerCreating", err, all...)
	}
	if err := p.writeVolumes(id.sources); err != nil {
		return 0, show("ContainerCreating", err, all...)
	}
	// Programs may have to be fetched or built: all at once.
	var finding sync.WaitGroup
	errs := make([]error, len(all))
	for i, c := range all {
		finding.Go(func() { errs[i] = c.find(p.life) })
	}
	finding.Wait()
	for i, c := range all {
		if errs[i] != nil {
			return 0, show("ErrImagePull", errs[i], c)
		}
	}
	p.mu.Lock()
	p.overrides, p.notHonoured = nil, p.minor()
	p.mu.Unlock()
	for _, c := range all {
		if err := c.plan(p.life, id); err != nil {
			return 0, show("CreateContainerConfigError", err, c)
		}
	}
	return lifetime, ""
}

// mountsToken tells whether the pod mounts its ServiceAccount's token.
func (p *backedPod) mountsToken() bool {
	for _, c := range append(slices.Clone(p.pod.Spec.InitContainers), p.pod.Spec.Containers...) {
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
			return true
		}
	}
	return false
}

// writeVolumes writes every volume that a container mounts elsewhere than where
// the token lies.
func (p *backedPod) writeVolumes(s *sources) error {
	mounted := map[string]bool{}
	for _, c := range append(slices.Clone(p.pod.Spec.InitContainers), p.pod.Spec.Containers...) {
		for _, m := range c.VolumeMounts {
			mounted[m.Name] = mounted[m.Name] || m.MountPath != tokenPath
		}
	}
	for i := range p.pod.Spec.Volumes {
		v := &p.pod.Spec.Volumes[i]
		if !mounted[v.Name] {
			continue
		}
		if err := s.write(p.life, v, p.volume(v.Name)); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func (p *backedPod) volume(name string) string { return filepath.Join(p.dir, "volumes", name) }

// allocate hands out the port that stands for a declared one, the same each
// time: containers of a pod share their ports, and a restart keeps them.
func (p *backedPod) allocate(declared int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if got, ok := p.ports[declared]; ok {
		return got, nil
	}
	got, err := p.agent.spec.Ports()
	if err != nil {
		return 0, fmt.Errorf("port for %d: %w", declared, err)
	}
	p.ports[declared] = got
	return got, nil
}

// port returns the port that stands for a declared one.
func (p *backedPod) port(declared int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	got, ok := p.ports[declared]
	return got, ok
}

// report writes the status whenever something of it has changed.
func (p *backedPod) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.dirty:
		}
		p.untilDone(ctx, p.writeStatus)
	}
}

func (p *backedPod) writeStatus(ctx context.Context) error {
	return p.agent.patchStatus(ctx, p.pod, p.status())
}

// status is what the pod shows at this moment.
func (p *backedPod) status() corev1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := corev1.PodStatus{
		HostIP: nodeAddress, HostIPs: []corev1.HostIP{{IP: nodeAddress}},
		PodIP: p.ip, PodIPs: []corev1.PodIP{{IP: p.ip}},
		StartTime: &p.startTime,
		QOSClass:  p.pod.Status.QOSClass,
		// The spec is that of the generation which was adopted.
		ObservedGeneration: p.pod.Generation,
	}
	for _, c := range p.initial {
		status.InitContainerStatuses = append(status.InitContainerStatuses, c.status())
	}
	for _, c := range p.containers {
		status.ContainerStatuses = append(status.ContainerStatuses, c.status())
	}
	status.Phase = p.phase
	if status.Phase == "" {
		status.Phase = phaseOf(status)
	}
	p.setCondition(corev1.PodReadyToStartContainers, true, "", "")
	if _, ok := p.conditions[corev1.PodInitialized]; !ok {
		p.setCondition(corev1.PodInitialized, len(p.initial) == 0, "ContainersNotInitialized", "init containers have not ended")
	}
	var unready []string
	for _, c := range status.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	reason, message := "ContainersNotReady", "containers with unready status: ["+strings.Join(unready, " ")+"]"
	if status.Phase == corev1.PodSucceeded {
		reason, message = "PodCompleted", ""
	}
	p.setCondition(corev1.ContainersReady, len(unready) == 0, reason, message)
	ready := len(unready) == 0
	for _, gate := range p.pod.Spec.ReadinessGates {
		if p.conditions[gate.ConditionType].Status != corev1.ConditionTrue && ready {
			ready, reason, message = false, "ReadinessGatesNotReady", "condition "+string(gate.ConditionType)+" is not True"
		}
	}
	p.setCondition(corev1.PodReady, ready, reason, message)
	for _, kind := range slices.Sorted(maps.Keys(p.conditions)) {
		if !slices.ContainsFunc(p.pod.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == kind }) {
			status.Conditions = append(status.Conditions, p.conditions[kind])
		}
	}
	return status
}

// setCondition keeps the time of the last change. The caller holds mu.
func (p *backedPod) setCondition(kind corev1.PodConditionType, is bool, reason, message string) {
	next := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.Now(), ObservedGeneration: p.pod.Generation}
	if is {
		next.Status, next.Reason, next.Message = corev1.ConditionTrue, "", ""
	}
	if old, ok := p.conditions[kind]; ok && old.Status == next.Status {
		next.LastTransitionTime = old.LastTransitionTime
	}
	p.conditions[kind] = next
}

// phaseOf is the phase of a pod that has not finished: it is Pending until each
// container has been started once.
func phaseOf(status corev1.PodStatus) corev1.PodPhase {
	for _, c := range status.ContainerStatuses {
		if c.State.Running == nil && c.State.Terminated == nil && c.LastTerminationState.Terminated == nil {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}

var errEnded = errors.New("the pod ends")
