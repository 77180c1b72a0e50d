package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AvailabilityInput is what AvailabilityFindings concludes from.
type AvailabilityInput struct {
	Deployment appsv1.Deployment
	// ReplicaSets, Pods and Events are those of its namespace, whosoever's.
	ReplicaSets []appsv1.ReplicaSet
	Pods        []corev1.Pod
	Events      []corev1.Event
}

// mostEvents bounds how many events of one pod a finding shows.
const mostEvents = 3

// hopeless are the reasons for which a container waits that waiting does not
// mend. Of one that ends again and again see crashes.
var hopeless = []string{"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}

// crashes is how often a container has to have ended before it counts as one that
// always does.
const crashes = 2

// AvailabilityFindings says what keeps a Deployment from having exactly the pods
// of its present template, all of them available, and why: what the pods, their
// containers and their events tell. What will not come by waiting is not passing.
func AvailabilityFindings(in AvailabilityInput) []Finding {
	d := in.Deployment
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	status := d.Status
	var out []Finding
	switch {
	case status.ObservedGeneration != d.Generation:
		return []Finding{{Text: "it has not been looked at since it was changed", Passing: true}}
	case status.AvailableReplicas != want || status.UpdatedReplicas != want || status.Replicas != want:
		out = append(out, Finding{Passing: true, Text: fmt.Sprintf("available replicas: %d, declared %d (there are %d, %d of the present template)",
			status.AvailableReplicas, want, status.Replicas, status.UpdatedReplicas)})
	default:
		return nil
	}
	for _, c := range status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			out = append(out, Finding{Text: "its pods are refused: " + c.Message})
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse:
			out = append(out, Finding{Text: fmt.Sprintf("it does not progress (%s): %s", c.Reason, c.Message)})
		}
	}
	pods := in.present()
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	for _, pod := range pods {
		if !ready(pod) {
			out = append(out, in.unready(pod))
		}
	}
	return out
}

// present are the pods of the Deployment's newest ReplicaSet that are not on
// their way out.
func (in AvailabilityInput) present() []corev1.Pod {
	const revision = "deployment.kubernetes.io/revision"
	var newest *appsv1.ReplicaSet
	for i := range in.ReplicaSets {
		rs := &in.ReplicaSets[i]
		if metav1.IsControlledBy(rs, &in.Deployment) && rs.Annotations[revision] == in.Deployment.Annotations[revision] {
			newest = rs
		}
	}
	if newest == nil {
		return nil
	}
	return keep(in.Pods, func(pod corev1.Pod) bool { return pod.DeletionTimestamp == nil && metav1.IsControlledBy(&pod, newest) })
}

// unready says why a pod is not ready.
func (in AvailabilityInput) unready(pod corev1.Pod) Finding {
	out := Finding{Passing: true}
	var words []string
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		said, settled := containerWords(status)
		if said != "" {
			words = append(words, "container "+status.Name+" "+said)
		}
		if settled {
			out.Passing = false
		}
	}
	for _, c := range pod.Status.Conditions {
		ofContainers := slices.Contains([]corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady, corev1.PodInitialized}, c.Type)
		if c.Status == corev1.ConditionFalse && c.Message != "" && !ofContainers {
			words = append(words, fmt.Sprintf("%s is false (%s): %s", c.Type, c.Reason, c.Message))
		}
	}
	if in.neverReady(pod) {
		words = append(words, "its readiness has failed as often as it may")
		out.Passing = false
	}
	if len(words) == 0 {
		words = append(words, "it is "+cmp.Or(string(pod.Status.Phase), "not started"))
	}
	out.Text = fmt.Sprintf("Pod %s is not ready: %s", pod.Name, strings.Join(words, "; "))
	for _, event := range in.last(pod) {
		out.Text += "\n  " + event
	}
	return out
}

// containerWords says what a container that is not ready does, and whether it will
// go on doing so.
func containerWords(status corev1.ContainerStatus) (words string, settled bool) {
	switch s := status.State; {
	case s.Waiting != nil:
		words = fmt.Sprintf("of image %s waits (%s)", status.Image, s.Waiting.Reason)
		if s.Waiting.Message != "" {
			words += ": " + strings.TrimSpace(s.Waiting.Message)
		}
		settled = slices.Contains(hopeless, s.Waiting.Reason) || s.Waiting.Reason == "CrashLoopBackOff" && status.RestartCount >= crashes
	case s.Terminated != nil && s.Terminated.ExitCode != 0:
		words = fmt.Sprintf("of image %s has ended with code %d (%s)", status.Image, s.Terminated.ExitCode, s.Terminated.Reason)
	case s.Running != nil && !status.Ready:
		words = "runs and is not ready"
	}
	if last := status.LastTerminationState.Terminated; last != nil && words != "" {
		words += fmt.Sprintf("; it was restarted %d times, and ended last with code %d (%s)", status.RestartCount, last.ExitCode, last.Reason)
	}
	return words, settled
}

// neverReady says whether the readiness of a container that has started has failed
// as often in a row as its probe allows.
func (in AvailabilityInput) neverReady(pod corev1.Pod) bool {
	failed := int32(0)
	for _, event := range in.Events {
		if event.InvolvedObject.UID == pod.UID && event.Reason == "Unhealthy" && strings.HasPrefix(event.Message, "Readiness probe") {
			failed += max(1, event.Count)
		}
	}
	for _, container := range pod.Spec.Containers {
		i := slices.IndexFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == container.Name })
		if i < 0 || container.ReadinessProbe == nil {
			continue
		}
		status := pod.Status.ContainerStatuses[i]
		if status.State.Running != nil && !status.Ready && failed >= max(1, container.ReadinessProbe.FailureThreshold) {
			return true
		}
	}
	return false
}

// last are the newest events of a pod, oldest first.
func (in AvailabilityInput) last(pod corev1.Pod) []string {
	events := keep(in.Events, func(e corev1.Event) bool { return e.InvolvedObject.UID == pod.UID })
	moment := func(e corev1.Event) metav1.Time {
		switch {
		case e.Series != nil:
			return metav1.Time(e.Series.LastObservedTime)
		case !e.LastTimestamp.IsZero():
			return e.LastTimestamp
		}
		return metav1.Time(e.EventTime)
	}
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return moment(a).Compare(moment(b).Time) })
	var out []string
	for _, e := range events[max(0, len(events)-mostEvents):] {
		out = append(out, fmt.Sprintf("%s %s x%d: %s", e.Type, e.Reason, max(1, e.Count), strings.TrimSpace(e.Message)))
	}
	return out
}
