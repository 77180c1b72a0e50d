package embedded

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

const (
	// canaryNamespace is one that policies leave alone as a rule.
	canaryNamespace = metav1.NamespaceSystem
	// canaryWord is what the canary's container writes if it really runs.
	canaryWord = "the-canary-sings"
	// canaryImage holds a shell and is no component.
	canaryImage = "docker.io/library/busybox:stable"
	// probeTimeout bounds one probe of all capabilities.
	probeTimeout = 30 * time.Second
)

// Probe runs a canary pod of an ordinary image. Where it is said to run but its
// log cannot be had, its container does not run, and neither does anything that
// stands behind a Service, an Ingress or a NetworkPolicy. No connection to an
// address of the cluster is tried from here: it would leave the machine.
func (c *embedded) Probe(ctx context.Context, capabilities ...cluster.Capability) ([]cluster.Finding, error) {
	if len(capabilities) == 0 {
		capabilities = cluster.Capabilities()
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	workloads, err := c.probeWorkloads(ctx)
	if err != nil {
		return nil, fmt.Errorf("capability %s of cluster %s: %w", cluster.Workloads, c.spec.Name, err)
	}
	var findings []cluster.Finding
	for _, capability := range capabilities {
		if capability == cluster.Workloads {
			findings = append(findings, workloads)
			continue
		}
		if workloads.Has {
			return nil, fmt.Errorf("capability %s of cluster %s cannot be decided: an embedded cluster whose ordinary pods run is not known (%s)", capability, c.spec.Name, workloads.Evidence)
		}
		findings = append(findings, cluster.Finding{
			Capability: capability,
			Evidence:   "no ordinary pod runs that traffic could reach or be kept from: " + workloads.Evidence,
		})
	}
	return findings, nil
}

func (c *embedded) probeWorkloads(ctx context.Context) (_ cluster.Finding, err error) {
	pods := c.client.CoreV1().Pods(canaryNamespace)
	pod, err := c.createCanary(ctx)
	if err != nil {
		return cluster.Finding{}, err
	}
	defer func() {
		// The canary goes even when the time is up.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if gone := c.removeCanary(undo, pod.Name); gone != nil && err == nil {
			err = gone
		}
	}()
	started := func(pod *corev1.Pod) bool {
		return pod.Status.Phase == corev1.PodRunning || finished(pod)
	}
	err = wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		pod, err = pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return started(pod), nil
	})
	if err != nil {
		return cluster.Finding{}, fmt.Errorf("canary pod %s/%s does not start (phase %s): %w", canaryNamespace, pod.Name, pod.Status.Phase, err)
	}
	// An error's own text is in the body, whatever its form.
	log, err := pods.GetLogs(pod.Name, &corev1.PodLogOptions{}).Do(ctx).Raw()
	finding := cluster.Finding{Capability: cluster.Workloads}
	switch {
	case ctx.Err() != nil:
		return cluster.Finding{}, fmt.Errorf("log of canary pod: %w", ctx.Err())
	case err == nil && strings.Contains(string(log), canaryWord):
		finding.Has = true
		finding.Evidence = fmt.Sprintf("a pod of image %s wrote to its log what it was told to", canaryImage)
	case err != nil && apierrors.IsForbidden(err):
		return cluster.Finding{}, fmt.Errorf("log of canary pod: %w", err)
	case err != nil:
		finding.Evidence = fmt.Sprintf("a pod of image %s is %s, but its log cannot be had: %s", canaryImage, pod.Status.Phase, answer(log, err))
	default:
		finding.Evidence = fmt.Sprintf("a pod of image %s is %s, but its log lacks what it was told to write", canaryImage, pod.Status.Phase)
	}
	return finding, nil
}

// answer is what the API server had to say: the client leaves its text aside
// where it has asked for something else than an object.
func answer(body []byte, err error) string {
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return status.Message
	}
	return cmp.Or(strings.TrimSpace(string(body)), err.Error())
}

// createCanary creates the pod, as soon as the account is there that it needs.
func (c *embedded) createCanary(ctx context.Context) (*corev1.Pod, error) {
	canary := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "conformance-canary-"},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				Name: "canary", Image: canaryImage, Command: []string{"echo", canaryWord},
			}},
		},
	}
	var pod *corev1.Pod
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		pod, last = c.client.CoreV1().Pods(canaryNamespace).Create(ctx, canary, metav1.CreateOptions{})
		if apierrors.IsForbidden(last) && strings.Contains(last.Error(), "error looking up service account") {
			return false, nil
		}
		return true, last
	})
	if err != nil {
		return nil, fmt.Errorf("create canary pod: %w", errors.Join(err, last))
	}
	return pod, nil
}

func (c *embedded) removeCanary(ctx context.Context, name string) error {
	pods := c.client.CoreV1().Pods(canaryNamespace)
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete canary pod: %w", err)
	}
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := pods.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("canary pod %s/%s does not go: %w", canaryNamespace, name, err)
	}
	return nil
}
