package state

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// sliceController is who keeps the EndpointSlices of Services with a selector.
const sliceController = "endpointslice-controller.k8s.io"

// Finding is one thing that is not as it must be.
type Finding struct {
	Text string
	// Passing says that a controller may mend it in a moment.
	Passing bool
}

// EndpointsInput is what EndpointFindings concludes from.
type EndpointsInput struct {
	Service corev1.Service
	// Pods and Slices are those of the Service's namespace, whosoever's.
	Pods   []corev1.Pod
	Slices []discoveryv1.EndpointSlice
	// Tenant is the Service's, TenantLabel the label that names it on pods.
	Tenant, TenantLabel string
	// Empty says that the Service is declared to have no pods.
	Empty bool
}

// EndpointFindings says where the endpoints of a Service are not exactly the pods
// of its tenant that its selector matches: a pod that is missing, ready where it
// is not or under another address, an endpoint that is no such pod, and a slice
// that claims the Service without being its.
func EndpointFindings(in EndpointsInput) []Finding {
	var out []Finding
	add := func(passing bool, format string, args ...any) {
		out = append(out, Finding{Text: fmt.Sprintf(format, args...), Passing: passing})
	}
	own := map[types.UID]*corev1.Pod{}
	for i := range in.Pods {
		pod := &in.Pods[i]
		if !selects(in.Service, *pod) || pod.DeletionTimestamp != nil || finished(*pod) {
			continue
		}
		if tenant := pod.Labels[in.TenantLabel]; tenant != in.Tenant {
			add(false, "it selects Pod %s, which is of %q", pod.Name, tenant)
			continue
		}
		own[pod.UID] = pod
	}
	if len(own) == 0 && !in.Empty {
		add(true, "its selector %v matches no pod of the tenant", in.Service.Spec.Selector)
	}
	served := map[types.UID]bool{}
	for _, slice := range in.Slices {
		if slice.Labels[discoveryv1.LabelServiceName] != in.Service.Name {
			continue
		}
		kept := slice.Labels[discoveryv1.LabelManagedBy] == sliceController && metav1.IsControlledBy(&slice, &in.Service)
		if !kept {
			add(false, "EndpointSlice %s claims the Service, and is not kept by %s: it sends to %s", slice.Name, sliceController, addresses(slice))
		}
		for _, endpoint := range slice.Endpoints {
			if !kept {
				continue
			}
			if endpoint.TargetRef != nil {
				served[endpoint.TargetRef.UID] = true
			}
			if problem := in.strange(endpoint, own); problem != "" {
				add(true, "EndpointSlice %s: %s", slice.Name, problem)
			}
		}
		for _, port := range slice.Ports {
			if kept && len(slice.Endpoints) > 0 && port.Port == nil {
				add(true, "EndpointSlice %s: a port of the Service (%s) is none of the pods'", slice.Name, named(port.Name))
			}
		}
	}
	for uid, pod := range own {
		if !served[uid] && pod.Status.PodIP != "" {
			add(true, "no EndpointSlice holds Pod %s (%s)", pod.Name, pod.Status.PodIP)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Text < out[j].Text })
	return out
}

// strange says why an endpoint is not one of the tenant's pods as it is now. One
// that is on its way out is no problem.
func (in EndpointsInput) strange(endpoint discoveryv1.Endpoint, own map[types.UID]*corev1.Pod) string {
	where := strings.Join(endpoint.Addresses, ", ")
	ref := endpoint.TargetRef
	if ref == nil || ref.Kind != "Pod" {
		return where + " is no pod"
	}
	pod, ok := own[ref.UID]
	if !ok {
		if slices.ContainsFunc(in.Pods, func(p corev1.Pod) bool { return p.UID == ref.UID && p.DeletionTimestamp != nil }) {
			return ""
		}
		return fmt.Sprintf("%s is Pod %s, which is no pod of the tenant that the Service selects", where, ref.Name)
	}
	for _, address := range endpoint.Addresses {
		if !slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == address }) {
			return fmt.Sprintf("%s is said to be Pod %s, which has %s", address, pod.Name, pod.Status.PodIP)
		}
	}
	said := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
	if is := ready(*pod) || in.Service.Spec.PublishNotReadyAddresses; said != is {
		return fmt.Sprintf("Pod %s is said to be ready: %t, it is: %t", pod.Name, said, is)
	}
	return ""
}

func selects(service corev1.Service, pod corev1.Pod) bool {
	return len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels))
}

func named(port *string) string {
	if port == nil || *port == "" {
		return "without a name"
	}
	return *port
}

func finished(pod corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func ready(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func addresses(slice discoveryv1.EndpointSlice) string {
	var out []string
	for _, endpoint := range slice.Endpoints {
		out = append(out, endpoint.Addresses...)
	}
	if len(out) == 0 {
		return "nowhere"
	}
	return strings.Join(out, ", ")
}
