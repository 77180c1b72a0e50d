package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func availabilityInput(t *testing.T) *state.AvailabilityInput {
	return &state.AvailabilityInput{
		Deployment: into[appsv1.Deployment](t, `
metadata: {name: app, uid: "1", generation: 2, annotations: {deployment.kubernetes.io/revision: "2"}}
spec: {replicas: 2}
status: {observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 1}
`),
		ReplicaSets: []appsv1.ReplicaSet{
			into[appsv1.ReplicaSet](t, `
metadata:
  name: app-old
  uid: "2"
  annotations: {deployment.kubernetes.io/revision: "1"}
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: app, uid: "1", controller: true}]
`),
			into[appsv1.ReplicaSet](t, `
metadata:
  name: app-new
  uid: "3"
  annotations: {deployment.kubernetes.io/revision: "2"}
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: app, uid: "1", controller: true}]
`),
		},
		Pods: []corev1.Pod{
			into[corev1.Pod](t, `
metadata: {name: app-old-x, uid: "4", ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: app-old, uid: "2", controller: true}]}
status: {containerStatuses: [{name: app, image: app:0, state: {waiting: {reason: ImagePullBackOff}}}]}
`),
			into[corev1.Pod](t, `
metadata: {name: app-new-y, uid: "5", ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: app-new, uid: "3", controller: true}]}
spec: {containers: [{name: app, image: app:1, readinessProbe: {failureThreshold: 3}}]}
status: {phase: Pending, containerStatuses: [{name: app, image: app:1, state: {waiting: {reason: ContainerCreating}}}]}
`),
		},
		Events: []corev1.Event{
			into[corev1.Event](t, `{type: Normal, reason: Scheduled, message: placed, involvedObject: {uid: "5"}, eventTime: "2026-05-04T08:00:01.000000Z"}`),
			into[corev1.Event](t, `{type: Normal, reason: Pulling, message: pulling, involvedObject: {uid: "5"}, lastTimestamp: "2026-05-04T08:00:02Z", count: 2}`),
			into[corev1.Event](t, `{type: Warning, reason: Foreign, message: of another, involvedObject: {uid: "4"}, lastTimestamp: "2026-05-04T08:00:03Z"}`),
		},
	}
}

func TestAvailabilityFindings(t *testing.T) {
	const short = "available replicas: 1, declared 2 (there are 2, 2 of the present template)"
	const events = "\n  Normal Scheduled x1: placed\n  Normal Pulling x2: pulling"
	status := func(in *state.AvailabilityInput) *corev1.ContainerStatus {
		return &in.Pods[1].Status.ContainerStatuses[0]
	}
	for _, row := range []struct {
		name    string
		change  func(*testing.T, *state.AvailabilityInput)
		want    []string
		settled bool
	}{
		{"all are available", func(_ *testing.T, in *state.AvailabilityInput) { in.Deployment.Status.AvailableReplicas = 2 }, nil, false},
		{
			"nobody has looked yet", func(_ *testing.T, in *state.AvailabilityInput) { in.Deployment.Generation = 3 },
			[]string{"it has not been looked at since it was changed"},
			false,
		},
		{
			"a pod of the old template is left, and all are available", func(_ *testing.T, in *state.AvailabilityInput) {
				in.Deployment.Status.Replicas, in.Deployment.Status.AvailableReplicas, in.Deployment.Status.UpdatedReplicas = 3, 2, 1
				in.Pods = in.Pods[:1]
			},
			[]string{"available replicas: 2, declared 2 (there are 3, 1 of the present template)"},
			false,
		},
		{
			"a pod is about to start", func(*testing.T, *state.AvailabilityInput) {},
			[]string{short, "Pod app-new-y is not ready: container app of image app:1 waits (ContainerCreating)" + events},
			false,
		},
		{
			"an image that is nowhere", func(_ *testing.T, in *state.AvailabilityInput) {
				status(in).State.Waiting = &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found\n"}
			},
			[]string{short, "Pod app-new-y is not ready: container app of image app:1 waits (ImagePullBackOff): not found" + events},
			true,
		},
		{
			"it has crashed once", func(t *testing.T, in *state.AvailabilityInput) {
				*status(in) = into[corev1.ContainerStatus](t, `{name: app, image: app:1, restartCount: 1, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2, reason: Error}}}`)
			},
			[]string{short, "Pod app-new-y is not ready: container app of image app:1 waits (CrashLoopBackOff); it was restarted 1 times, and ended last with code 2 (Error)" + events},
			false,
		},
		{
			"it crashes always", func(t *testing.T, in *state.AvailabilityInput) {
				*status(in) = into[corev1.ContainerStatus](t, `{name: app, image: app:1, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2, reason: Error}}}`)
			},
			[]string{short, "Pod app-new-y is not ready: container app of image app:1 waits (CrashLoopBackOff); it was restarted 2 times, and ended last with code 2 (Error)" + events},
			true,
		},
		{
			"an init container fails", func(t *testing.T, in *state.AvailabilityInput) {
				in.Pods[1].Status.InitContainerStatuses = []corev1.ContainerStatus{into[corev1.ContainerStatus](t, `{name: prepare, image: p:1, state: {terminated: {exitCode: 7, reason: Error}}}`)}
				status(in).State.Waiting = nil
			},
			[]string{short, "Pod app-new-y is not ready: container prepare of image p:1 has ended with code 7 (Error)" + events},
			false,
		},
		{
			"no node has room for it", func(t *testing.T, in *state.AvailabilityInput) {
				in.Pods[1].Status = into[corev1.PodStatus](t, `{phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: Unschedulable, message: 0/2 nodes are available}]}`)
			},
			[]string{short, "Pod app-new-y is not ready: PodScheduled is false (Unschedulable): 0/2 nodes are available" + events},
			false,
		},
		{
			"it runs and was asked twice", func(t *testing.T, in *state.AvailabilityInput) {
				*status(in) = into[corev1.ContainerStatus](t, `{name: app, image: app:1, state: {running: {}}}`)
				in.Events = []corev1.Event{into[corev1.Event](t, `{type: Warning, reason: Unhealthy, message: "Readiness probe failed: 503", count: 2, involvedObject: {uid: "5"}}`)}
			},
			[]string{short, "Pod app-new-y is not ready: container app runs and is not ready\n  Warning Unhealthy x2: Readiness probe failed: 503"},
			false,
		},
		{
			"it runs and was asked as often as it may fail", func(t *testing.T, in *state.AvailabilityInput) {
				*status(in) = into[corev1.ContainerStatus](t, `{name: app, image: app:1, state: {running: {}}}`)
				in.Events = []corev1.Event{into[corev1.Event](t, `{type: Warning, reason: Unhealthy, message: "Readiness probe failed: 503", count: 3, involvedObject: {uid: "5"}}`)}
			},
			[]string{short, "Pod app-new-y is not ready: container app runs and is not ready; its readiness has failed as often as it may\n  Warning Unhealthy x3: Readiness probe failed: 503"},
			true,
		},
		{
			"its liveness failed, not its readiness", func(t *testing.T, in *state.AvailabilityInput) {
				*status(in) = into[corev1.ContainerStatus](t, `{name: app, image: app:1, state: {running: {}}}`)
				in.Events = []corev1.Event{into[corev1.Event](t, `{type: Warning, reason: Unhealthy, message: "Liveness probe failed: 503", count: 9, involvedObject: {uid: "5"}}`)}
			},
			[]string{short, "Pod app-new-y is not ready: container app runs and is not ready\n  Warning Unhealthy x9: Liveness probe failed: 503"},
			false,
		},
		{
			"its pods are refused", func(_ *testing.T, in *state.AvailabilityInput) {
				in.Pods = nil
				in.Deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota"}}
			},
			[]string{short, "its pods are refused: exceeded quota"},
			true,
		},
		{
			"its time is up", func(_ *testing.T, in *state.AvailabilityInput) {
				in.Pods = nil
				in.Deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "timed out"}}
			},
			[]string{short, "it does not progress (ProgressDeadlineExceeded): timed out"},
			true,
		},
		{
			"a pod on its way out", func(_ *testing.T, in *state.AvailabilityInput) {
				in.Pods[1].DeletionTimestamp = &metav1.Time{}
			},
			[]string{short},
			false,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			in := availabilityInput(t)
			row.change(t, in)
			var found []string
			settled := false
			for _, finding := range state.AvailabilityFindings(*in) {
				found = append(found, finding.Text)
				settled = settled || !finding.Passing
			}
			g.Expect(found).To(Equal(row.want))
			g.Expect(settled).To(Equal(row.settled))
		})
	}
}
