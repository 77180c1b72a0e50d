package embedded

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Report tells what runs at this moment; pods that are being deleted are left
// out.
func (c *embedded) Report(ctx context.Context) (cluster.Report, error) {
	report := cluster.Report{
		Environment: c.spec.Name, Provider: Provider{}.Name(), Version: c.version,
		Backed: []cluster.Backed{}, Overrides: []cluster.Override{}, NotHonoured: []cluster.NotHonoured{},
		Simulated: []cluster.SimulatedPod{}, SimulatedBackends: []cluster.SimulatedBackend{},
	}
	report.ControlPlane, report.PeakMemory = c.plane.processes(c.agent.pids())
	for _, pod := range c.agent.workers() {
		if pod.deleted() {
			continue
		}
		pod.mu.Lock()
		for _, container := range slices.Concat(pod.initial, pod.containers) {
			report.Backed = append(report.Backed, container.report())
		}
		report.Overrides = append(report.Overrides, pod.overrides...)
		report.NotHonoured = append(report.NotHonoured, pod.notHonoured...)
		pod.mu.Unlock()
	}
	slices.SortStableFunc(report.Backed, func(a, b cluster.Backed) int { return compare(a.Origin, b.Origin) })
	slices.SortStableFunc(report.Overrides, func(a, b cluster.Override) int { return compare(a.Origin, b.Origin) })
	slices.SortStableFunc(report.NotHonoured, func(a, b cluster.NotHonoured) int { return compare(a.Origin, b.Origin) })

	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return cluster.Report{}, fmt.Errorf("simulated pods of cluster %s: %w", c.spec.Name, err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		mark := condition(pod, cluster.ConditionSimulated)
		if mark == nil {
			continue
		}
		simulated := cluster.SimulatedPod{Namespace: pod.Namespace, Name: pod.Name, Workload: cluster.Workload(pod), Reason: mark.Message}
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			simulated.Images = append(simulated.Images, container.Image)
		}
		report.Simulated = append(report.Simulated, simulated)
	}
	report.SimulatedBackends, err = c.simulatedBackends(ctx, pods.Items)
	if err != nil {
		return cluster.Report{}, fmt.Errorf("webhooks of cluster %s: %w", c.spec.Name, err)
	}
	return report, nil
}

func compare(a, b cluster.Origin) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Pod, b.Pod))
}

// report describes a container. The caller holds the pod's mutex.
func (c *container) report() cluster.Backed {
	backed := cluster.Backed{
		Origin: c.pod.origin(c.spec.Name), Image: c.spec.Image, Init: c.init, Declared: c.declared,
		Process: cluster.Process{
			Component: c.component, Path: c.path, Restarts: int(c.restarts), PeakMemory: c.peak, Log: c.log,
		},
	}
	switch {
	case c.process != nil:
		backed.State = "running"
		backed.PID = c.process.pid()
		if line := commandLine(backed.PID); len(line) > 0 {
			backed.Running = line[1:]
		}
		_, peak := memory(backed.PID)
		c.peak = max(c.peak, peak)
		backed.PeakMemory = c.peak
	case c.ended != nil:
		backed.State = fmt.Sprintf("terminated: %s, exit code %d", c.ended.Reason, c.ended.ExitCode)
	default:
		backed.State = "waiting: " + c.waiting.Reason
	}
	return backed
}

// backends are the kinds that name a Service which the API server calls.
var backends = []struct {
	kind     string
	resource schema.GroupVersionResource
	// services finds the Services in an object, with the webhooks that use each.
	services func(object map[string]any) map[serviceKey][]string
}{
	{"ValidatingWebhookConfiguration", schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}, webhookServices},
	{"MutatingWebhookConfiguration", schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}, webhookServices},
	{"CustomResourceDefinition", schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, func(object map[string]any) map[serviceKey][]string {
		return service(object, "spec", "conversion", "webhook", "clientConfig", "service")
	}},
	{"APIService", schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}, func(object map[string]any) map[serviceKey][]string {
		return service(object, "spec", "service")
	}},
}

// serviceKey is a Service's namespace and name.
type serviceKey struct{ namespace, name string }

func service(object map[string]any, fields ...string) map[serviceKey][]string {
	found, ok, err := unstructured.NestedMap(object, fields...)
	if err != nil || !ok {
		return nil
	}
	namespace, _ := found["namespace"].(string)
	name, _ := found["name"].(string)
	return map[serviceKey][]string{{namespace, name}: nil}
}

func webhookServices(object map[string]any) map[serviceKey][]string {
	found := map[serviceKey][]string{}
	webhooks, _, _ := unstructured.NestedSlice(object, "webhooks")
	for _, item := range webhooks {
		webhook, ok := item.(map[string]any)
		if !ok {
			continue
		}
		name, _ := webhook["name"].(string)
		for key := range service(webhook, "clientConfig", "service") {
			found[key] = append(found[key], name)
		}
	}
	return found
}

// simulatedBackends finds what only simulated pods would answer for.
func (c *embedded) simulatedBackends(ctx context.Context, pods []corev1.Pod) ([]cluster.SimulatedBackend, error) {
	client, err := dynamic.NewForConfig(c.rest)
	if err != nil {
		return nil, err
	}
	list := []cluster.SimulatedBackend{}
	simulated := map[serviceKey][]string{}
	for _, kind := range backends {
		objects, err := client.Resource(kind.resource).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, object := range objects.Items {
			for key, webhooks := range kind.services(object.Object) {
				names, known := simulated[key]
				if !known {
					if names, err = c.simulatedBehind(ctx, key, pods); err != nil {
						return nil, err
					}
					simulated[key] = names
				}
				if len(names) > 0 {
					list = append(list, cluster.SimulatedBackend{
						Kind: kind.kind, Name: object.GetName(), Webhooks: webhooks,
						Service: key.namespace + "/" + key.name, Pods: names,
					})
				}
			}
		}
	}
	return list, nil
}

// simulatedBehind names the pods behind a Service if all of them are simulated.
func (c *embedded) simulatedBehind(ctx context.Context, key serviceKey, pods []corev1.Pod) ([]string, error) {
	service, err := c.client.CoreV1().Services(key.namespace).Get(ctx, key.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(service.Spec.Selector) == 0 {
		return nil, nil
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var names []string
	for i := range pods {
		pod := &pods[i]
		if pod.Namespace != key.namespace || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if condition(pod, cluster.ConditionSimulated) == nil {
			return nil, nil
		}
		names = append(names, pod.Name)
	}
	return names, nil
}
