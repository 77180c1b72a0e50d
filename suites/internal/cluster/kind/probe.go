package kind

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

const (
	// probePort is what the server of a probe listens on, and servicePort that of
	// its Service, which is another so that only routing leads from one to the other.
	probePort   = 8080
	servicePort = 80
	// startLimit bounds the wait for a probe's pods; routeLimit that for the first
	// answer through a Service; denyLimit is how long a connection is tried that a
	// NetworkPolicy should refuse, and goneLimit how long a probe's namespace may
	// take to go.
	startLimit = 2 * time.Minute
	routeLimit = 30 * time.Second
	denyLimit  = 10 * time.Second
	goneLimit  = 2 * time.Minute
	// refusals is how many requests in a row have to fail before traffic counts as
	// kept out: one may be lost for other reasons.
	refusals = 5
)

// Probe tries what the cluster can do, in a namespace of its own that is gone when
// it returns. Workloads, ServiceRouting and NetworkPolicy are tried with pods of
// ours, Ingress with what is there.
func (c *running) Probe(ctx context.Context, capabilities ...cluster.Capability) ([]cluster.Finding, error) {
	if len(capabilities) == 0 {
		capabilities = cluster.Capabilities()
	}
	found := map[cluster.Capability]cluster.Finding{}
	ours := []cluster.Capability{cluster.Workloads, cluster.ServiceRouting, cluster.NetworkPolicy}
	if slices.ContainsFunc(capabilities, func(c cluster.Capability) bool { return slices.Contains(ours, c) }) {
		p := &probe{cluster: c, wanted: capabilities}
		if err := p.run(ctx); err != nil {
			return nil, fmt.Errorf("probe what cluster %s can do: %w", c.spec.Name, err)
		}
		for _, f := range p.findings {
			found[f.Capability] = f
		}
	}
	if slices.Contains(capabilities, cluster.Ingress) {
		finding, err := c.probeIngress(ctx)
		if err != nil {
			return nil, fmt.Errorf("capability %s of cluster %s: %w", cluster.Ingress, c.spec.Name, err)
		}
		found[cluster.Ingress] = finding
	}
	var findings []cluster.Finding
	for _, capability := range capabilities {
		finding, known := found[capability]
		if !known {
			return nil, fmt.Errorf("capability %s of cluster %s: no probe of it is known", capability, c.spec.Name)
		}
		findings = append(findings, finding)
	}
	return findings, nil
}

// probe tries capabilities with one server and a client on each node.
type probe struct {
	cluster   *running
	wanted    []cluster.Capability
	namespace string
	findings  []cluster.Finding
}

func (p *probe) wants(c cluster.Capability) bool { return slices.Contains(p.wanted, c) }

func (p *probe) find(c cluster.Capability, has bool, format string, args ...any) {
	if p.wants(c) {
		p.findings = append(p.findings, cluster.Finding{Capability: c, Has: has, Evidence: fmt.Sprintf(format, args...)})
	}
}

func (p *probe) run(ctx context.Context) (err error) {
	namespaces := p.cluster.client.CoreV1().Namespaces()
	namespace, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "conformance-probe-"}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a namespace: %w", err)
	}
	p.namespace = namespace.Name
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneLimit)
		defer cancel()
		err = errors.Join(err, p.remove(undo))
	}()
	nodes, err := p.cluster.nodes(ctx)
	if err != nil {
		return err
	}
	server, err := p.start(ctx, "server", nodes[0].Name, map[string][]string{"server": {"--listen=:" + strconv.Itoa(probePort)}})
	if err != nil {
		return err
	}
	service, err := p.cluster.client.CoreV1().Services(p.namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: corev1.ServiceSpec{
			Selector: server.Labels,
			Ports:    []corev1.ServicePort{{Port: servicePort, TargetPort: intstr.FromInt32(probePort)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a Service: %w", err)
	}
	if server, err = p.ready(ctx, server.Name); err != nil {
		return err
	}
	var clients []*corev1.Pod
	direct := net.JoinHostPort(server.Status.PodIP, strconv.Itoa(probePort))
	routed := net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(servicePort))
	for i, node := range nodes {
		client, err := p.start(ctx, "client-"+strconv.Itoa(i), node.Name, map[string][]string{
			"direct": {"fetch", "--url=http://" + direct + "/version", "--interval=200ms", "--timeout=1s"},
			"routed": {"fetch", "--url=http://" + routed + "/version", "--interval=200ms", "--timeout=1s"},
		})
		if err != nil {
			return err
		}
		clients = append(clients, client)
	}
	if err := p.workloads(ctx, server, clients, direct); err != nil {
		return err
	}
	if err := p.routing(ctx, server, clients, routed); err != nil {
		return err
	}
	if p.wants(cluster.NetworkPolicy) {
		return p.policy(ctx, clients, direct)
	}
	return nil
}

// start creates a pod on a node, with a container for each command line.
func (p *probe) start(ctx context.Context, name, node string, args map[string][]string) (*corev1.Pod, error) {
	grace := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"conformance-probe": name}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace,
			// The control plane's nodes take pods of ours like any other.
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}
	for container, line := range args {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: container, Image: p.cluster.provider.ProbeImage, Args: line})
	}
	var created *corev1.Pod
	var last error
	// The account of a new namespace comes a moment after it.
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startLimit, true, func(ctx context.Context) (bool, error) {
		created, last = p.cluster.client.CoreV1().Pods(p.namespace).Create(ctx, confined(pod), metav1.CreateOptions{})
		if apierrors.IsForbidden(last) && strings.Contains(last.Error(), "error looking up service account") {
			return false, nil
		}
		return true, last
	})
	if err != nil {
		return nil, fmt.Errorf("make pod %s of image %s: %w", name, p.cluster.provider.ProbeImage, errors.Join(err, last))
	}
	return created, nil
}

// ready waits until all containers of a pod run. That they do not tells of the image
// or of the node as much as of what pods can do: so it decides nothing.
func (p *probe) ready(ctx context.Context, name string) (*corev1.Pod, error) {
	var pod *corev1.Pod
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startLimit, true, func(ctx context.Context) (done bool, err error) {
		if pod, err = p.cluster.client.CoreV1().Pods(p.namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return false, err
		}
		running := 0
		for _, status := range pod.Status.ContainerStatuses {
			if status.State.Running != nil {
				running++
			}
		}
		return running == len(pod.Spec.Containers) && pod.Status.PodIP != "", nil
	})
	if err == nil {
		return pod, nil
	}
	var states []string
	if pod != nil {
		states = append(states, "phase "+string(pod.Status.Phase))
		for _, status := range pod.Status.ContainerStatuses {
			text := status.Name + " " + state(status)
			if status.State.Waiting != nil {
				text += ": " + status.State.Waiting.Message
			}
			states = append(states, text)
		}
	}
	events, listErr := p.cluster.client.CoreV1().Events(p.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if listErr == nil {
		for _, e := range events.Items {
			states = append(states, e.Reason+": "+e.Message)
		}
	}
	return nil, fmt.Errorf("pod %s of image %s does not run: %w: %s", name, p.cluster.provider.ProbeImage, err, strings.Join(states, "; "))
}

// answer is a line that a client wrote of one request.
type answer struct {
	Time   time.Time `json:"time"`
	Status int       `json:"status"`
	Pod    string    `json:"pod"`
	Error  string    `json:"error"`
}

func (a answer) String() string {
	if a.Error != "" {
		return a.Error
	}
	return fmt.Sprintf("status %d from pod %q", a.Status, a.Pod)
}

// answers reads what a client has written so far, oldest first.
func (p *probe) answers(ctx context.Context, pod, container string) ([]answer, error) {
	log, err := p.cluster.client.CoreV1().Pods(p.namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("log of pod %s: %w", pod, err)
	}
	return parseAnswers(string(log))
}

// parseAnswers leaves a last line aside that is not written to its end.
func parseAnswers(log string) ([]answer, error) {
	var all []answer
	lines := bufio.NewScanner(strings.NewReader(log[:strings.LastIndex(log, "\n")+1]))
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil || a.Time.IsZero() {
			return nil, fmt.Errorf("the log of a probe holds what it does not write: %q", lines.Text())
		}
		all = append(all, a)
	}
	return all, lines.Err()
}

// workloads waits until every client has run and written what the server answered.
func (p *probe) workloads(ctx context.Context, server *corev1.Pod, clients []*corev1.Pod, direct string) error {
	for _, client := range clients {
		if _, err := p.ready(ctx, client.Name); err != nil {
			return err
		}
		last, err := p.await(ctx, client.Name, "direct", routeLimit, func(all []answer) bool {
			return slices.ContainsFunc(all, func(a answer) bool { return a.Status == 200 && a.Pod == server.Name })
		})
		if err != nil {
			return fmt.Errorf("a pod on node %s got no answer of pod %s at %s, so nothing can be decided about traffic: %w: %s", client.Spec.NodeName, server.Name, direct, err, last)
		}
	}
	p.find(cluster.Workloads, true, "pods of image %s ran on %s, and wrote to their logs what the one of them answered that serves",
		p.cluster.provider.ProbeImage, count(len(clients), "node"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// await waits until what a client wrote fulfils a condition, and returns its last
// line.
func (p *probe) await(ctx context.Context, pod, container string, limit time.Duration, fulfilled func([]answer) bool) (last string, err error) {
	err = wait.PollUntilContextTimeout(ctx, pollInterval, limit, true, func(ctx context.Context) (bool, error) {
		all, err := p.answers(ctx, pod, container)
		if err != nil {
			return false, err
		}
		if len(all) > 0 {
			last = all[len(all)-1].String()
		}
		return fulfilled(all), nil
	})
	return last, err
}

// routing looks whether the Service leads every client to the server.
func (p *probe) routing(ctx context.Context, server *corev1.Pod, clients []*corev1.Pod, routed string) error {
	for _, client := range clients {
		last, err := p.await(ctx, client.Name, "routed", routeLimit, func(all []answer) bool {
			return slices.ContainsFunc(all, func(a answer) bool { return a.Status == 200 && a.Pod == server.Name })
		})
		switch {
		case err == nil:
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return err
		default:
			p.find(cluster.ServiceRouting, false, "a pod on node %s reached pod %s at its own address, but not in %s through its Service at %s: %s",
				client.Spec.NodeName, server.Name, routeLimit, routed, last)
			return nil
		}
	}
	p.find(cluster.ServiceRouting, true, "pods on %s got the answer of pod %s through the Service at %s", count(len(clients), "node"), server.Name, routed)
	return nil
}

// policy looks whether a policy that lets nothing in keeps the clients out, which
// have been let in so far. It decides when all are kept out, or when at the end of
// the time one still gets in.
func (p *probe) policy(ctx context.Context, clients []*corev1.Pod, direct string) error {
	_, err := p.cluster.client.NetworkingV1().NetworkPolicies(p.namespace).Create(ctx, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "nothing-comes-in"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"conformance-probe": "server"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a NetworkPolicy: %w", err)
	}
	begun := time.Now()
	var refused, reached []string
	for _, client := range clients {
		kept := false
		last, err := p.await(ctx, client.Name, "direct", max(denyLimit-time.Since(begun), time.Second), func(all []answer) bool {
			kept = keptOut(all)
			return kept
		})
		switch {
		case kept:
			refused = append(refused, client.Spec.NodeName+": "+last)
		case err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)):
			return err
		default:
			reached = append(reached, client.Spec.NodeName+": "+last)
		}
	}
	switch {
	case len(reached) == 0:
		p.find(cluster.NetworkPolicy, true, "a policy without a rule kept pods on %s from %s, which had answered them before (%s)",
			count(len(clients), "node"), direct, strings.Join(refused, "; "))
	default:
		p.find(cluster.NetworkPolicy, false, "%s answered pods also %s after a policy without a rule for it was made (%s)",
			direct, denyLimit, strings.Join(reached, "; "))
	}
	return nil
}

// keptOut tells whether the last requests failed, one after the other.
func keptOut(all []answer) bool {
	if len(all) < refusals {
		return false
	}
	return !slices.ContainsFunc(all[len(all)-refusals:], func(a answer) bool { return a.Error == "" })
}

// remove removes the namespace with all that is in it, and waits until it is gone.
func (p *probe) remove(ctx context.Context) error {
	core := p.cluster.client.CoreV1()
	grace := int64(0)
	// The namespace goes sooner without the pods, whose end it would wait for.
	if err := core.Pods(p.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &grace}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("remove the probe's pods: %w", err)
	}
	if err := core.Namespaces().Delete(ctx, p.namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the probe's namespace: %w", err)
	}
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		_, err := core.Namespaces().Get(ctx, p.namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("the probe's namespace %s does not go: %w", p.namespace, err)
	}
	return nil
}
