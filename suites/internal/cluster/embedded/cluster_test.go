package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

const (
	sourceModule    = "github.com/fluxcd/source-controller@v1.9.5"
	kustomizeModule = "github.com/fluxcd/kustomize-controller@v1.9.5"
	helmModule      = "github.com/fluxcd/helm-controller@v1.6.4"
	kyvernoModule   = "github.com/kyverno/kyverno@v1.19.1"
)

// module returns the folder of a Go module, which the go command fetches and
// verifies where it is not there yet.
func module(t *testing.T, version string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", version)
	output, err := cmd.Output()
	var answer struct{ Dir, Error string }
	if parsed := json.Unmarshal(output, &answer); err != nil || parsed != nil || answer.Dir == "" {
		t.Fatalf("module %s: %v %v %s", version, err, parsed, answer.Error)
	}
	return answer.Dir
}

func newClient(t *testing.T, c cluster.Cluster) client.Client {
	t.Helper()
	cl, err := client.New(c.RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// decode reads a stream of manifests.
func decode(t *testing.T, manifests []byte) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// apply sends manifests, namespaces and definitions first.
func apply(t *testing.T, cl client.Client, manifests []byte) {
	t.Helper()
	objects := decode(t, manifests)
	for _, early := range []bool{true, false} {
		for _, object := range objects {
			if (object.GetKind() == "Namespace" || object.GetKind() == "CustomResourceDefinition") != early {
				continue
			}
			if err := cl.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("test"), client.ForceOwnership); err != nil {
				t.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
			}
		}
	}
}

// flux builds a controller's own manifests in a namespace of its own: they give
// rights to the namespace's default account.
func flux(t *testing.T, version, namespace string) []byte {
	t.Helper()
	dir := t.TempDir()
	kustomization := "namespace: " + namespace + "\nresources:\n- namespace.yaml\n"
	for _, part := range []string{"crd", "rbac", "manager"} {
		// kustomize takes folders by relative paths only.
		path, err := filepath.Rel(dir, filepath.Join(module(t, version), "config", part))
		if err != nil {
			t.Fatal(err)
		}
		kustomization += "- " + path + "\n"
	}
	for name, content := range map[string]string{
		"kustomization.yaml": kustomization,
		"namespace.yaml":     "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := result.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// available names the Deployments that have an available replica.
func available(ctx context.Context, cl client.Client) ([]string, error) {
	var list appsv1.DeploymentList
	err := cl.List(ctx, &list)
	var names []string
	for _, d := range list.Items {
		if d.Status.AvailableReplicas > 0 {
			names = append(names, d.Name)
		}
	}
	return names, err
}

// podOf returns the one pod of a Deployment that is not being deleted.
func podOf(ctx context.Context, cl client.Client, namespace, app string) (*corev1.Pod, error) {
	var list corev1.PodList
	if err := cl.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{"app": app}); err != nil {
		return nil, err
	}
	var found *corev1.Pod
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			if found != nil {
				return nil, fmt.Errorf("more than one pod of %s", app)
			}
			found = &list.Items[i]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no pod of %s", app)
	}
	return found, nil
}

// containerOf returns the status of that pod's one container.
func containerOf(ctx context.Context, cl client.Client, namespace, app string) (corev1.ContainerStatus, error) {
	pod, err := podOf(ctx, cl, namespace, app)
	if err != nil {
		return corev1.ContainerStatus{}, err
	}
	if len(pod.Status.ContainerStatuses) != 1 {
		return corev1.ContainerStatus{}, fmt.Errorf("pod %s has %d container statuses", pod.Name, len(pod.Status.ContainerStatuses))
	}
	return pod.Status.ContainerStatuses[0], nil
}

// listeners returns the addresses on which a process listens, as the kernel
// writes them: 0100007F is 127.0.0.1.
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	base := "/proc/" + strconv.Itoa(pid)
	sockets := map[string]bool{}
	descriptors, err := os.ReadDir(base + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range descriptors {
		if target, err := os.Readlink(filepath.Join(base, "fd", d.Name())); err == nil && strings.HasPrefix(target, "socket:[") {
			sockets[strings.Trim(target, "socket:[]")] = true
		}
	}
	var addresses []string
	for _, family := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(base + "/net/" + family)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			const state, inode, listening = 3, 9, "0A"
			fields := strings.Fields(line)
			if len(fields) > inode && fields[state] == listening && sockets[fields[inode]] {
				addresses = append(addresses, fields[1])
			}
		}
	}
	return addresses
}

// onlyLoopback fails when a process of the cluster listens elsewhere.
func onlyLoopback(t *testing.T, report cluster.Report) {
	t.Helper()
	check := func(p cluster.Process) {
		if p.PID == 0 {
			return
		}
		seen := listeners(t, p.PID)
		if len(seen) == 0 {
			t.Errorf("%s listens nowhere: is this looking in the right place?", p.Component)
		}
		for _, address := range seen {
			if !strings.HasPrefix(address, "0100007F:") {
				t.Errorf("%s listens on %s, which is not 127.0.0.1", p.Component, address)
			}
		}
	}
	for _, p := range report.ControlPlane {
		check(p)
	}
	for _, b := range report.Backed {
		check(b.Process)
	}
}

// carryMarker fails when a process of the cluster cannot be found by its marker.
func carryMarker(t *testing.T, spec cluster.Spec, report cluster.Report) {
	t.Helper()
	check := func(p cluster.Process) {
		if p.PID == 0 {
			return
		}
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/environ")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains("\x00"+string(environ), "\x00"+spec.Marker+"\x00") {
			t.Errorf("%s does not carry %s", p.Component, spec.Marker)
		}
	}
	for _, p := range report.ControlPlane {
		check(p)
	}
	for _, b := range report.Backed {
		check(b.Process)
	}
}

// explained fails when a process runs with other arguments than its pod and the
// overrides say.
func explained(t *testing.T, report cluster.Report) {
	t.Helper()
	for _, b := range report.Backed {
		if b.PID == 0 {
			continue
		}
		var overrides []cluster.Override
		for _, o := range report.Overrides {
			if o.Origin == b.Origin {
				overrides = append(overrides, o)
			}
		}
		for _, line := range cluster.Unexplained(b.Declared, b.Running, overrides) {
			t.Errorf("%s: %s", b.Component, line)
		}
	}
}

func logJSON(t *testing.T, what string, value any) {
	t.Helper()
	data, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", what, data)
}

func TestClusterRunsFlux(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(60 * time.Second)
	spec := newSpec(t, "dev")
	c := create(t, spec)
	cl := newClient(t, c)
	ctx := t.Context()

	begun := time.Now()
	for namespace, version := range map[string]string{"source-system": sourceModule, "kustomize-system": kustomizeModule, "helm-system": helmModule} {
		apply(t, cl, flux(t, version, namespace))
	}
	g.Eventually(func() ([]string, error) { return available(ctx, cl) }).
		Should(HaveLen(3), func() string { return dump(c) })
	t.Logf("the controllers are available after %s", time.Since(begun).Round(time.Millisecond))
	deployment := &appsv1.Deployment{}

	report, err := c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	logJSON(t, "report", report)
	onlyLoopback(t, report)
	carryMarker(t, spec, report)
	explained(t, report)
	g.Expect(report.Backed).To(HaveLen(3))
	for _, b := range report.Backed {
		g.Expect(b.Running).To(ContainElement("--watch-all-namespaces"))
		g.Expect(b.PeakMemory).To(BeNumerically(">", 1<<20))
	}
	victim := report.Backed[slices.IndexFunc(report.Backed, func(b cluster.Backed) bool { return b.Component == "source-controller" })]
	for _, p := range report.ControlPlane {
		g.Expect(p.Restarts).To(BeZero(), p.Component)
		g.Expect(p.PID).NotTo(BeZero(), p.Component)
	}

	ownIdentity(t, c.(*embedded))
	private(t, spec)

	// The process dies: the pod shows it, and it comes back.
	g.Expect(syscall.Kill(victim.PID, syscall.SIGKILL)).To(Succeed())
	g.Eventually(func() (corev1.ContainerStatus, error) {
		return containerOf(ctx, cl, "source-system", "source-controller")
	}).Should(And(
		HaveField("RestartCount", Equal(int32(1))),
		HaveField("LastTerminationState.Terminated", And(Not(BeNil()), HaveField("ExitCode", Equal(int32(137))), HaveField("Reason", "Error"))),
		HaveField("Ready", BeTrue()),
	))

	// An ordinary pod is said to run, and is listed.
	apply(t, cl, []byte(nginx))
	g.Eventually(func() (int32, error) {
		err := cl.Get(ctx, client.ObjectKey{Namespace: "default", Name: "nginx"}, deployment)
		return deployment.Status.ReadyReplicas, err
	}).Should(Equal(int32(2)))
	report, err = c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(report.Simulated).To(HaveLen(2))
	g.Expect(report.Simulated[0]).To(And(
		HaveField("Workload", "Deployment/nginx"),
		HaveField("Images", ConsistOf("nginx:1.29")),
		HaveField("Reason", ContainSubstring("no component")),
	))
	g.Expect(report.SimulatedBackends).To(ConsistOf(And(
		HaveField("Kind", "ValidatingWebhookConfiguration"), HaveField("Service", "default/nginx"),
		HaveField("Webhooks", ConsistOf("nginx.example.com")), HaveField("Pods", HaveLen(2)))))
	// What depends on it fails at once, and says why.
	err = cl.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "judged", Labels: map[string]string{"judged": "yes"}}})
	g.Expect(err).To(MatchError(ContainSubstring("simulated")))
	g.Expect(cl.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "judged"}})).To(Succeed())

	// A flag that the program does not know: it keeps ending, visibly.
	g.Expect(cl.Get(ctx, client.ObjectKey{Namespace: "source-system", Name: "source-controller"}, deployment)).To(Succeed())
	deployment.Spec.Template.Spec.Containers[0].Args = append(deployment.Spec.Template.Spec.Containers[0].Args, "--no-such-flag")
	g.Expect(cl.Update(ctx, deployment)).To(Succeed())
	g.Eventually(func() (corev1.ContainerStatus, error) {
		return containerOf(ctx, cl, "source-system", "source-controller")
	}).Should(And(
		HaveField("State.Waiting", And(Not(BeNil()), HaveField("Reason", "CrashLoopBackOff"))),
		HaveField("RestartCount", Equal(int32(1))),
		HaveField("LastTerminationState.Terminated.Message", ContainSubstring("no-such-flag")),
		HaveField("Ready", BeFalse()),
	))

	// What is missing for now is waited for; what cannot be is refused.
	apply(t, cl, []byte(demanding))
	for _, app := range []string{"waits", "refused"} {
		g.Eventually(func() (corev1.ContainerStatus, error) { return containerOf(ctx, cl, "default", app) }).
			Should(HaveField("State.Waiting", And(Not(BeNil()), HaveField("Reason", "CreateContainerConfigError"))), app)
	}
	status, err := containerOf(ctx, cl, "default", "refused")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(status.State.Waiting.Message).To(ContainSubstring("livenessProbe exec: no program of the image is there"))
	report, err = c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(report.NotHonoured).To(ContainElement(And(HaveField("Pod", "refused"), HaveField("Field", "livenessProbe"), HaveField("Fatal", BeTrue()))))
	status, err = containerOf(ctx, cl, "default", "waits")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(status.State.Waiting.Message).To(ContainSubstring(`configmaps "flags" not found`))
	g.Expect(cl.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "flags"}, Data: map[string]string{"level": "debug"}})).To(Succeed())
	g.Eventually(func() (corev1.ContainerStatus, error) { return containerOf(ctx, cl, "default", "waits") }).
		Should(HaveField("State.Running", Not(BeNil())))
	report, err = c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(report.Backed).To(ContainElement(And(HaveField("Pod", "waits"), HaveField("Running", ContainElement("--log-level=debug")))))
	explained(t, report)
	for _, name := range []string{"waits", "refused"} {
		g.Expect(cl.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})).To(Succeed())
	}

	// A Job completes, a deleted pod goes.
	apply(t, cl, []byte(job))
	g.Eventually(func() (bool, error) {
		object := &unstructured.Unstructured{}
		object.SetAPIVersion("batch/v1")
		object.SetKind("Job")
		err := cl.Get(ctx, client.ObjectKey{Namespace: "default", Name: "once"}, object)
		succeeded, _, _ := unstructured.NestedInt64(object.Object, "status", "succeeded")
		return succeeded == 1, err
	}).Should(BeTrue())
	g.Expect(cl.Delete(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nginx"}})).To(Succeed())
	for _, namespace := range []string{"source-system", "kustomize-system", "helm-system"} {
		g.Expect(cl.DeleteAllOf(ctx, deployment, client.InNamespace(namespace))).To(Succeed())
	}
	g.Eventually(func() ([]string, error) { return podNames(ctx, cl) }).Should(ConsistOf(HavePrefix("default/once-")))

	// The API server dies and comes back.
	report, err = c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(report.Backed).To(BeEmpty())
	g.Expect(syscall.Kill(report.ControlPlane[1].PID, syscall.SIGKILL)).To(Succeed())
	g.Eventually(func() (cluster.Process, error) {
		report, err := c.Report(ctx)
		if err != nil {
			return cluster.Process{}, err
		}
		return report.ControlPlane[1], nil
	}).Should(And(HaveField("Component", "kube-apiserver"), HaveField("Restarts", 1), HaveField("PID", Not(BeZero()))))

	findings, err := c.Probe(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	logJSON(t, "findings", findings)
	g.Expect(findings).To(HaveLen(len(cluster.Capabilities())))
	g.Expect(findings[0]).To(And(
		HaveField("Capability", cluster.Workloads), HaveField("Has", BeFalse()),
		HaveField("Evidence", ContainSubstring("has no kubelet"))))

	// All of it goes.
	report, err = c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	begun = time.Now()
	g.Expect(c.Close(ctx)).To(Succeed())
	t.Logf("closed after %s", time.Since(begun).Round(time.Millisecond))
	gone(t, spec, report)
	g.Expect(c.Close(ctx)).To(Succeed(), "closing twice")
}

const nginx = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers: [{name: nginx, image: "nginx:1.29", ports: [{containerPort: 443}]}]
---
apiVersion: v1
kind: Service
metadata: {name: nginx, namespace: default}
spec:
  selector: {app: nginx}
  ports: [{port: 443}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: nginx}
webhooks:
  - name: nginx.example.com
    clientConfig: {service: {name: nginx, namespace: default}}
    rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]
    objectSelector: {matchLabels: {judged: "yes"}}
    sideEffects: None
    admissionReviewVersions: [v1]
`

// demanding holds a pod that waits for a ConfigMap, and one with a probe that no
// host process can answer.
const demanding = `
apiVersion: v1
kind: Pod
metadata: {name: waits, namespace: default, labels: {app: waits}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: manager
      image: ghcr.io/fluxcd/kustomize-controller:v1.9.5
      args: [--log-level=$(LEVEL)]
      env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: flags, key: level}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: refused, namespace: default, labels: {app: refused}}
spec:
  containers:
    - name: manager
      image: ghcr.io/fluxcd/kustomize-controller:v1.9.5
      livenessProbe: {exec: {command: [ls]}}
`

const job = `
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: default}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: once, image: "busybox:1"}]
`

func podNames(ctx context.Context, cl client.Client) ([]string, error) {
	var list corev1.PodList
	if err := cl.List(ctx, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, pod := range list.Items {
		names = append(names, pod.Namespace+"/"+pod.Name)
	}
	return names, nil
}

// gone fails when a process or a port of a closed cluster is left.
func gone(t *testing.T, spec cluster.Spec, report cluster.Report) {
	t.Helper()
	for _, pid := range processes() {
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err == nil && strings.Contains("\x00"+string(environ), "\x00"+spec.Marker+"\x00") {
			t.Errorf("process %d is left: %q", pid, commandLine(pid))
		}
	}
	for _, p := range report.ControlPlane {
		for _, arg := range p.Running {
			if _, port, ok := strings.Cut(arg, "port="); ok {
				listener, err := net.Listen("tcp", "127.0.0.1:"+port)
				if err != nil {
					t.Errorf("port of %s is left: %v", arg, err)
					continue
				}
				_ = listener.Close()
			}
		}
	}
	for _, left := range []string{"kubeconfig", "kwok/clusters/" + spec.Name + "/pki"} {
		if _, err := os.Stat(filepath.Join(spec.Dir, left)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}

// ownIdentity fails unless the pod's program has the rights of the pod's own
// ServiceAccount, no others, by a token that is bound to the pod and renewed.
func ownIdentity(t *testing.T, c *embedded) {
	t.Helper()
	g := NewWithT(t)
	workers := c.agent.workers()
	worker := workers[slices.IndexFunc(workers, func(p *backedPod) bool { return p.pod.Namespace == "source-system" })]
	id := &identity{sources: worker.sources(), dir: worker.dir}

	config, err := clientcmd.BuildConfigFromFlags("", id.kubeconfig())
	g.Expect(err).NotTo(HaveOccurred())
	own, err := kubernetes.NewForConfig(config)
	g.Expect(err).NotTo(HaveOccurred())
	self, err := own.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(self.Status.UserInfo.Username).To(Equal("system:serviceaccount:source-system:default"))
	g.Expect(self.Status.UserInfo.Extra).To(HaveKeyWithValue("authentication.kubernetes.io/pod-name", authenticationv1.ExtraValue{worker.pod.Name}))
	_, err = own.CoreV1().Secrets("source-system").List(t.Context(), metav1.ListOptions{})
	g.Expect(err).NotTo(HaveOccurred(), "its role allows it")
	err = own.CoreV1().Namespaces().Delete(t.Context(), "source-system", metav1.DeleteOptions{})
	g.Expect(err).To(MatchError(ContainSubstring(`User "system:serviceaccount:source-system:default" cannot delete resource "namespaces"`)))

	// Renewed after four fifths of the lifetime, here of a very short one.
	before, err := os.ReadFile(id.tokenFile())
	g.Expect(err).NotTo(HaveOccurred())
	renewing, stop := context.WithCancel(t.Context())
	defer stop()
	go id.keep(renewing, 50*time.Millisecond, func(err error) { t.Error(err) })
	g.Eventually(func() (string, error) {
		now, err := os.ReadFile(id.tokenFile())
		return string(now), err
	}).WithTimeout(30 * time.Second).Should(And(Not(BeEmpty()), Not(Equal(string(before)))))
}

// private fails when a credential can be read by others, or kwokctl wrote a
// kubeconfig of its own choice.
func private(t *testing.T, spec cluster.Spec) {
	t.Helper()
	secret := 0
	err := filepath.WalkDir(spec.Dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if name != "token" && !strings.HasPrefix(name, "kubeconfig") && !strings.HasSuffix(name, ".key") {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		secret++
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if name == "kubeconfig-of-kwokctl" {
			t.Errorf("%s: kwokctl added a context to a kubeconfig", path)
		}
		return nil
	})
	if err != nil || secret < 5 {
		t.Errorf("%d credentials were found in %s: %v", secret, spec.Dir, err)
	}
	if info, err := os.Stat(spec.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v %v", spec.Dir, info.Mode(), err)
	}
}

// dump tells what a cluster does, for a failed wait.
func dump(c cluster.Cluster) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	report, err := c.Report(ctx)
	if err != nil {
		return err.Error()
	}
	data, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		return err.Error()
	}
	text := string(data)
	for _, b := range report.Backed {
		text += "\n" + b.Component + ": " + lastLines(b.Log, 20)
	}
	return text
}

func TestClusterRunsKyverno(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(90 * time.Second)
	spec := newSpec(t, "prd")
	// The programs of pods are asked for by the image that the pod names.
	programs := maps.Clone(spec.Binaries)
	maps.DeleteFunc(spec.Binaries, func(name, _ string) bool { _, pod := recognize(name); return pod })
	spec.Resolve = func(_ context.Context, name, image string) (string, error) {
		if image != "reg.kyverno.io/kyverno/"+name+":latest" {
			return "", fmt.Errorf("image %s of component %s is not what the manifest names", image, name)
		}
		return programs[name], nil
	}
	c := create(t, spec)
	cl := newClient(t, c)
	ctx := t.Context()
	manifests, err := os.ReadFile(filepath.Join(module(t, kyvernoModule), "config", "install-latest-testing.yaml"))
	g.Expect(err).NotTo(HaveOccurred())

	begun := time.Now()
	apply(t, cl, manifests)
	t.Logf("Kyverno is applied after %s", time.Since(begun).Round(time.Millisecond))
	g.Eventually(func() ([]string, error) { return available(ctx, cl) }).
		Should(HaveLen(4), func() string { return dump(c) })
	t.Logf("Kyverno is available after %s", time.Since(begun).Round(time.Millisecond))

	apply(t, cl, []byte(policy))
	bad := func() *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "judged-", Labels: map[string]string{"colour": "blue"}}}
	}
	g.Eventually(func() error { return cl.Create(ctx, bad(), client.DryRunAll) }).
		Should(MatchError(And(ContainSubstring("colour-is-green"), ContainSubstring("only green will do"))), func() string { return dump(c) })
	t.Logf("the policy is effective after %s", time.Since(begun).Round(time.Millisecond))
	good := bad()
	good.Labels["colour"] = "green"
	g.Expect(cl.Create(ctx, good, client.DryRunAll)).To(Succeed())

	var webhooks admissionv1.ValidatingWebhookConfigurationList
	g.Expect(cl.List(ctx, &webhooks)).To(Succeed())
	g.Expect(webhooks.Items).NotTo(BeEmpty())
	for _, w := range webhooks.Items {
		for _, h := range w.Webhooks {
			t.Logf("%s %s: %v", w.Name, h.Name, h.ClientConfig.Service)
			g.Expect(h.ClientConfig.Service).NotTo(BeNil(), "a webhook names its Service, as on any cluster")
		}
	}

	report, err := c.Report(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	logJSON(t, "report", report)
	onlyLoopback(t, report)
	carryMarker(t, spec, report)
	explained(t, report)
	g.Expect(report.SimulatedBackends).To(BeEmpty())
	for _, b := range report.Backed {
		g.Expect(b.Restarts).To(BeZero(), b.Component)
	}

	begun = time.Now()
	g.Expect(cl.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kyverno"}})).To(Succeed())
	g.Eventually(func() bool {
		err := cl.Get(ctx, client.ObjectKey{Name: "kyverno"}, &corev1.Namespace{})
		return apierrors.IsNotFound(err)
	}).Should(BeTrue(), func() string { return dump(c) })
	t.Logf("Kyverno's namespace is gone after %s", time.Since(begun).Round(time.Millisecond))

	g.Expect(c.Close(ctx)).To(Succeed())
	gone(t, spec, report)
}

const policy = `
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: colour-is-green}
spec:
  validationActions: [Deny]
  matchConstraints:
    resourceRules:
      - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}
  validations:
    - expression: "object.metadata.?labels.?colour.orValue('green') == 'green'"
      message: only green will do
`
