package suites

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// The image of the pods that ask: the project's app, which is its own client. The
// tag is of no importance.
const visitorImage = "registry.internal/flux-platform-conformance/app:visitor"

// visitorName begins the names of what a check makes in a cluster to ask from.
const visitorName = "conformance-visitor-"

// visitorContainer is the container of a visitor.
const visitorContainer = "visitor"

// fetch is the command by which the app asks; it is found in the image's PATH.
var fetch = []string{"app", "fetch"}

// requestTime is how long one request may take before it counts as lost: a busy
// machine is slow to answer, and only what nobody answers is lost.
const requestTime = 10 * time.Second

// reply is one line of what the app writes of a request.
type reply struct {
	Time    time.Time `json:"time"`
	Status  int       `json:"status"`
	Pod     string    `json:"pod"`
	Version string    `json:"version"`
	SHA256  string    `json:"sha256"`
	Bytes   int64     `json:"bytes"`
	Error   string    `json:"error"`
	Body    []byte    `json:"body"`
}

// answer is a reply as the judgements take it, its time counted from a moment.
func (r reply) answer(from time.Time) state.Answer {
	return state.Answer{
		At: r.Time.Sub(from).Seconds(), Status: r.Status, Pod: r.Pod, Version: r.Version,
		SHA256: r.SHA256, Bytes: r.Bytes, Error: r.Error,
	}
}

// readReplies reads the lines of one run of the app.
func readReplies(output []byte) ([]reply, error) {
	var out []reply
	decoder := json.NewDecoder(bytes.NewReader(output))
	for {
		var r reply
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read what was answered: %w: %q", err, output)
		}
		out = append(out, r)
	}
}

// visitors are the pods that ask, one in each environment and namespace, made when
// first wanted.
type visitors struct {
	mu   sync.Mutex
	made map[string]*visitor
	// undo takes away what was made, in reverse order.
	undo []func(context.Context) error
}

// visitor is a pod of ours that asks on behalf of a check.
type visitor struct {
	env       *environment
	namespace string
	pod       string
}

// guest finds a pod that asks from a namespace of its own; where policies keep
// traffic out, from that of the ingress controller, whom a platform lets in.
func (e *environment) guest(ctx context.Context) (*visitor, error) {
	namespace := ""
	if e.has(cluster.NetworkPolicy) {
		controllers, reason, err := e.ingressServices(ctx)
		if err != nil {
			return nil, err
		}
		if len(controllers) == 0 {
			return nil, fmt.Errorf("find a namespace whose pods may ask the tenants' services: policies are enforced, and %s", reason)
		}
		for _, class := range sortedKeys(controllers) {
			namespace = controllers[class].Service.Namespace
			break
		}
	}
	return e.guestIn(ctx, namespace)
}

// guestIn finds a pod that asks from a namespace; from one of its own when none is
// named.
func (e *environment) guestIn(ctx context.Context, namespace string) (*visitor, error) {
	e.visitors.mu.Lock()
	defer e.visitors.mu.Unlock()
	if v := e.visitors.made[namespace]; v != nil {
		return v, nil
	}
	v := &visitor{env: e, namespace: namespace}
	if namespace == "" {
		own := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			GenerateName: visitorName,
			Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		}}
		if err := e.client.Create(ctx, own); err != nil {
			return nil, fmt.Errorf("make a namespace to ask from: %w", err)
		}
		v.namespace = own.Name
		e.visitors.undo = append(e.visitors.undo, func(ctx context.Context) error { return e.gone(ctx, own) })
	}
	pod, err := e.lodge(ctx, v.namespace, []corev1.Container{asking(visitorContainer)})
	if err != nil {
		return nil, err
	}
	e.visitors.undo = append(e.visitors.undo, func(ctx context.Context) error { return e.gone(ctx, pod) })
	v.pod = pod.Name
	if e.visitors.made == nil {
		e.visitors.made = map[string]*visitor{}
	}
	e.visitors.made[namespace] = v
	return v, nil
}

// asking is a container of the app with the least rights, which any platform
// should admit. Without arguments it serves, and waits to be told to ask.
func asking(name string, args ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: visitorImage, Args: args,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

// lodge makes a pod of such containers and waits until they run.
func (e *environment) lodge(ctx context.Context, namespace string, containers []corev1.Container) (*corev1.Pod, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: visitorName},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(1)),
			AutomountServiceAccountToken: new(bool), EnableServiceLinks: new(bool),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(int64(65532)), RunAsGroup: new(int64(65532)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: containers,
		},
	}
	var last error
	// The account of a fresh namespace comes a moment after it.
	err := wait.PollUntilContextTimeout(ctx, current.timeouts.Poll, current.timeouts.Eventually, true, func(ctx context.Context) (bool, error) {
		last = e.client.Create(ctx, pod)
		if apierrors.IsForbidden(last) && strings.Contains(last.Error(), "error looking up service account") {
			return false, nil
		}
		return true, last
	})
	if err != nil {
		return nil, fmt.Errorf("make a pod in %s to ask from: %w", namespace, errors.Join(err, last))
	}
	err = wait.PollUntilContextTimeout(ctx, current.timeouts.Poll, current.timeouts.Eventually, true, func(ctx context.Context) (bool, error) {
		if err := e.client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return false, err
		}
		statuses := pod.Status.ContainerStatuses
		waiting := slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.State.Running == nil })
		return pod.Status.Phase == corev1.PodRunning && len(statuses) == len(containers) && !waiting, nil
	})
	if err != nil {
		err = fmt.Errorf("wait until pod %s/%s, which is to ask, runs (%s): %w", namespace, pod.Name, podWords(pod), err)
		return nil, errors.Join(err, e.gone(context.WithoutCancel(ctx), pod))
	}
	return pod, nil
}

// podWords say how far a pod of ours has come.
func podWords(pod *corev1.Pod) string {
	words := []string{string(pod.Status.Phase)}
	for _, s := range pod.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			words = append(words, strings.TrimSpace(s.Name+": "+s.State.Waiting.Reason+" "+s.State.Waiting.Message))
		case s.State.Terminated != nil:
			words = append(words, fmt.Sprintf("%s: ended with code %d", s.Name, s.State.Terminated.ExitCode))
		}
	}
	return strings.Join(words, "; ")
}

// gone deletes an object of ours and waits until it is not there any more.
func (e *environment) gone(ctx context.Context, object client.Object) error {
	what := fmt.Sprintf("%T %s/%s", object, object.GetNamespace(), object.GetName())
	if err := e.client.Delete(ctx, object); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("take away %s: %w", what, err)
	}
	err := wait.PollUntilContextTimeout(ctx, current.timeouts.Poll, current.timeouts.CleanUp, true, func(ctx context.Context) (bool, error) {
		err := e.client.Get(ctx, client.ObjectKeyFromObject(object), object)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("take away %s: %w", what, err)
	}
	return nil
}

// takeAway ends all visitors of an environment.
func (e *environment) takeAway(ctx context.Context) error {
	e.visitors.mu.Lock()
	defer e.visitors.mu.Unlock()
	var errs []error
	for _, undo := range slices.Backward(e.visitors.undo) {
		errs = append(errs, undo(ctx))
	}
	e.visitors.undo, e.visitors.made = nil, nil
	return errors.Join(errs...)
}

// What was made to ask from goes when the last check has been judged.
var _ = AfterSuite(func(ctx SpecContext) {
	if current == nil {
		return
	}
	var errs []error
	for _, e := range current.all {
		errs = append(errs, e.takeAway(ctx))
	}
	Expect(errors.Join(errs...)).NotTo(HaveOccurred())
})

// request is what a visitor asks for.
type request struct {
	url string
	// host to ask for; empty: that of the URL.
	host string
	// count is how often; 1 when it is 0.
	count int
}

func (r request) args() []string {
	out := []string{"--url=" + r.url, "--timeout=" + requestTime.String(), fmt.Sprintf("--count=%d", max(1, r.count))}
	if r.host != "" {
		out = append(out, "--host="+r.host)
	}
	return out
}

// ask makes requests from the visitor.
func (v *visitor) ask(ctx context.Context, r request) ([]reply, error) {
	return v.env.askFrom(ctx, v.namespace, v.pod, visitorContainer, r)
}

// askFrom makes requests from within a container whose image is the app.
func (e *environment) askFrom(ctx context.Context, namespace, pod, container string, r request) ([]reply, error) {
	output, err := e.execute(ctx, namespace, pod, container, append(slices.Clone(fetch), r.args()...))
	if err != nil {
		return nil, fmt.Errorf("ask %s from pod %s/%s: %w", r.url, namespace, pod, err)
	}
	replies, err := readReplies(output)
	if err == nil && len(replies) != max(1, r.count) {
		err = fmt.Errorf("ask %s from pod %s/%s: %d answers to %d requests: %q", r.url, namespace, pod, len(replies), max(1, r.count), output)
	}
	return replies, err
}

// execute runs a command in a container and returns what it wrote.
func (e *environment) execute(ctx context.Context, namespace, pod, container string, command []string) ([]byte, error) {
	clientset, err := e.clientset()
	if err != nil {
		return nil, err
	}
	address := clientset.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(e.config, "GET", address.String())
	if err != nil {
		return nil, fmt.Errorf("run %v: %w", command, err)
	}
	var out, errOut bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}); err != nil {
		return nil, fmt.Errorf("run %v: %w: %s", command, err, errOut.String())
	}
	return out.Bytes(), nil
}

func (e *environment) clientset() (*kubernetes.Clientset, error) {
	clientset, err := kubernetes.NewForConfig(rest.CopyConfig(e.config))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e.Name, err)
	}
	return clientset, nil
}

// has says whether the session's probe found a capability.
func (e *environment) has(capability cluster.Capability) bool {
	return slices.ContainsFunc(e.state.Findings, func(f cluster.Finding) bool { return f.Capability == capability && f.Has })
}
