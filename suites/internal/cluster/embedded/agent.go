package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// agent decides for every pod of the node whether host processes back it or
// KWOK plays it, and looks after those that are backed.
type agent struct {
	spec   cluster.Spec
	rules  *rules
	client kubernetes.Interface
	admin  *rest.Config

	pods   corelisters.PodLister
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu sync.Mutex
	// backed holds the pods by UID until they are deleted.
	backed map[types.UID]*backedPod
	next   netip.Addr
}

// agentWorkers is how many pods are decided upon at once.
const agentWorkers = 8

func newAgent(spec cluster.Spec, rules *rules, client kubernetes.Interface, admin *rest.Config) *agent {
	return &agent{
		spec: spec, rules: rules, client: client, admin: admin,
		backed: map[types.UID]*backedPod{},
		next:   netip.MustParsePrefix(backedRange).Addr(),
	}
}

// start creates the node, watches its pods and returns; all of it ends with
// close.
func (a *agent) start(ctx context.Context) error {
	ctx, a.cancel = context.WithCancel(ctx)
	if err := createNode(ctx, a.client); err != nil {
		return fmt.Errorf("cluster %s: %w", a.spec.Name, err)
	}
	a.queue = workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](100*time.Millisecond, 5*time.Second))
	factory := informers.NewSharedInformerFactoryWithOptions(a.client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", nodeName).String()
		}))
	informer := factory.Core().V1().Pods()
	a.pods = informer.Lister()
	add := func(object any) {
		key, err := cache.DeletionHandlingObjectToName(object)
		if err == nil {
			a.queue.Add(types.NamespacedName{Namespace: key.Namespace, Name: key.Name})
		}
	}
	if _, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, object any) { add(object) },
		DeleteFunc: add,
	}); err != nil {
		return fmt.Errorf("watch pods of cluster %s: %w", a.spec.Name, err)
	}
	factory.StartWithContext(ctx)
	for range agentWorkers {
		a.work.Go(func() {
			for a.nextItem(ctx) {
			}
		})
	}
	return nil
}

func (a *agent) nextItem(ctx context.Context) bool {
	key, shutdown := a.queue.Get()
	if shutdown {
		return false
	}
	defer a.queue.Done(key)
	if err := a.sync(ctx, key); err != nil {
		if ctx.Err() == nil {
			a.warn(fmt.Errorf("pod %s: %w", key, err))
		}
		a.queue.AddRateLimited(key)
		return true
	}
	a.queue.Forget(key)
	return true
}

func (a *agent) warn(err error) {
	_, _ = fmt.Fprintf(a.spec.Log, "%s: %s\n", a.spec.Name, err)
}

// sync brings what runs in line with what the API server holds.
func (a *agent) sync(ctx context.Context, key types.NamespacedName) error {
	pod, err := a.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		a.release(key, "")
		return nil
	}
	if err != nil {
		return err
	}
	a.release(key, pod.UID)
	if worker := a.worker(pod.UID); worker != nil {
		worker.update(pod)
		return nil
	}
	if finished(pod) && pod.DeletionTimestamp == nil {
		return nil
	}
	reason, ok := a.rules.known(pod, a.spec.Recognize)
	if !ok {
		return a.simulate(ctx, pod, reason)
	}
	if pod.DeletionTimestamp != nil || finished(pod) {
		// Nothing of it runs: it was deleted before it was started.
		return a.remove(ctx, pod)
	}
	return a.adopt(ctx, pod)
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// simulate marks a pod for KWOK, once.
func (a *agent) simulate(ctx context.Context, pod *corev1.Pod, reason string) error {
	if condition(pod, cluster.ConditionSimulated) != nil {
		return nil
	}
	return a.patchStatus(ctx, pod, corev1.PodStatus{Conditions: []corev1.PodCondition{{
		Type: cluster.ConditionSimulated, Status: corev1.ConditionTrue,
		Reason: "NoProcess", Message: reason, LastTransitionTime: metav1.Now(),
	}}})
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// patchStatus merges a status into that of the pod, which must still be the
// same pod. A pod that is gone is no error.
func (a *agent) patchStatus(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = a.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) && ctx.Err() == nil && !a.exists(ctx, pod) {
		return nil
	}
	return err
}

// exists tells whether the very pod is still there.
func (a *agent) exists(ctx context.Context, pod *corev1.Pod) bool {
	now, err := a.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return err != nil && !apierrors.IsNotFound(err) || err == nil && now.UID == pod.UID
}

// remove deletes a pod whose processes are gone for good.
func (a *agent) remove(ctx context.Context, pod *corev1.Pod) error {
	err := a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (a *agent) worker(uid types.UID) *backedPod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.backed[uid]
}

// adopt starts to back a pod.
func (a *agent) adopt(ctx context.Context, pod *corev1.Pod) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = a.next.Next()
	if !netip.MustParsePrefix(backedRange).Contains(a.next) {
		return errors.New("the addresses for pods are used up")
	}
	worker := newBackedPod(ctx, a, pod.DeepCopy(), a.next.String())
	a.backed[pod.UID] = worker
	a.work.Go(func() {
		worker.run(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.backed, pod.UID)
	})
	return nil
}

// release kills at once what backs a pod of that name which is not the one with
// the UID any more: it was deleted without asking.
func (a *agent) release(key types.NamespacedName, uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, worker := range a.backed {
		if worker.pod.Namespace == key.Namespace && worker.pod.Name == key.Name && worker.pod.UID != uid {
			worker.kill()
		}
	}
}

// backend translates an address of the cluster into that of a process.
func (a *agent) backend(address string) (string, error) {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q is not an address of the cluster: %w", address, err)
	}
	port, err := strconv.Atoi(number)
	if err != nil {
		return "", fmt.Errorf("%q is not an address of the cluster: %w", address, err)
	}
	if host == nodeAddress || host == nodeName {
		return "", fmt.Errorf("node %s is played by KWOK and has no kubelet: logs, exec and port-forward need the capability %s", nodeName, cluster.Workloads)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, worker := range a.backed {
		if worker.ip != host {
			continue
		}
		if got, ok := worker.port(port); ok {
			return net.JoinHostPort("127.0.0.1", strconv.Itoa(got)), nil
		}
		return "", fmt.Errorf("pod %s/%s does not listen on port %d", worker.pod.Namespace, worker.pod.Name, port)
	}
	return "", fmt.Errorf("no process answers for %s: the pod behind it is simulated or gone", address)
}

// close kills every process and waits until all of the agent has ended.
func (a *agent) close(ctx context.Context) error {
	if a.cancel == nil {
		return nil
	}
	a.cancel()
	a.queue.ShutDown()
	done := make(chan struct{})
	go func() {
		a.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("processes of pods are still there: %w", ctx.Err())
	}
}

// pids returns the processes that run at this moment.
func (a *agent) pids() []int {
	var list []int
	for _, pod := range a.workers() {
		pod.mu.Lock()
		for _, c := range slices.Concat(pod.initial, pod.containers) {
			if c.process != nil {
				list = append(list, c.process.pid())
			}
		}
		pod.mu.Unlock()
	}
	return list
}

// workers returns the pods that are backed.
func (a *agent) workers() []*backedPod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.backed))
}
