//go:build live && linux

package kind

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// The tests with the build tag live make real clusters on the daemon that docker
// leads to. KIND_NODE_IMAGE names a node image with everything that a control plane
// runs, such as kind's own for the minor of Kubernetes that is declared.
var nodeImage = os.Getenv("KIND_NODE_IMAGE")

const (
	// moduleRoot is where this package's tests find the module.
	moduleRoot = "../../../.."
	probeName  = "registry.internal/flux-platform-conformance/app:live"
	sourceName = "ghcr.io/fluxcd/source-controller:v9.9.9"
	twoNodes   = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n- role: worker\n"
)

// testLog gives the provider's log to the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

// newSession makes a session in this process that ends with the test, with nothing
// left on the daemon.
func newSession(t *testing.T) *session.Session {
	t.Helper()
	g := NewWithT(t)
	root := t.TempDir()
	s, err := session.New(t.Context(), root)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		removal, err := s.Remove(context.Background())
		g.Expect(err).NotTo(HaveOccurred())
		t.Log(removal)
		g.Expect(left(t, s.ID())).To(BeEmpty())
	})
	return s
}

// left is what the daemon has of a session, and of trials, which end with the
// preflight.
func left(t *testing.T, id string) []string {
	t.Helper()
	var found []string
	for _, args := range [][]string{
		{"ps", "--all", "--format", "container {{.Names}}"},
		{"network", "ls", "--format", "network {{.Name}}"},
		{"image", "ls", "--format", "image {{.Repository}}"},
	} {
		printed, err := dockerInEffect().run(context.Background(), args...)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(printed) {
			if strings.Contains(line, id) || strings.Contains(line, "fpc-trial") {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

// volumes are those that the cluster's containers wrote to.
func (c *running) volumes(t *testing.T) []string {
	t.Helper()
	g := NewWithT(t)
	nodes, err := c.docker.own(t.Context(), c.name, c.provider.Network.Name)
	g.Expect(err).NotTo(HaveOccurred())
	var found []string
	for _, node := range nodes {
		printed, err := c.docker.run(t.Context(), "container", "inspect", "--format", `{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}`, node.ID)
		g.Expect(err).NotTo(HaveOccurred())
		found = append(found, strings.Fields(printed)...)
	}
	return found
}

// newProvider finds out about the daemon and makes the session's network.
func newProvider(t *testing.T, s *session.Session, nodes int) Provider {
	t.Helper()
	g := NewWithT(t)
	g.Expect(nodeImage).NotTo(BeEmpty(), "name a node image in KIND_NODE_IMAGE")
	begun := time.Now()
	engine, err := Preflight(t.Context(), PreflightOptions{Nodes: nodes, Image: nodeImage, Record: s.Record})
	g.Expect(err).NotTo(HaveOccurred())
	t.Logf("preflight: %.1fs", time.Since(begun).Seconds())
	network, err := engine.CreateNetwork(t.Context(), "fpc-"+s.ID())
	g.Expect(err).NotTo(HaveOccurred())
	return Provider{
		Engine: engine, Network: network, Image: nodeImage, ProbeImage: probeName, Authority: []byte("-----BEGIN CERTIFICATE-----\n"),
		Repositories: func(string) []string { return []string{"fluxcd/source-controller"} },
	}
}

func newSpec(t *testing.T, s *session.Session, name string) cluster.Spec {
	t.Helper()
	return cluster.Spec{
		Name: name, Dir: filepath.Join(s.Dir(), "clusters", name), Version: "v1.36.0", Ports: s.Port, Marker: s.Marker(), Log: testLog{t},
		Recognize: func(image string) (string, bool) {
			return "source-controller", strings.Contains(image, "fluxcd/source-controller")
		},
		Environ: map[string][]string{"source-controller": {
			"HTTPS_PROXY=http://user:word@172.18.0.1:3128", "NO_PROXY=127.0.0.1", "SSL_CERT_FILE=/somewhere/ca.pem",
		}},
	}
}

// loadApp gives every node images of the app under the names.
func loadApp(t *testing.T, c *running, names ...string) {
	t.Helper()
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "app")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", file, "./scripts/app")
	build.Dir, build.Env = moduleRoot, append(os.Environ(), "CGO_ENABLED=0")
	built, err := build.CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(built))
	program, err := os.ReadFile(file)
	g.Expect(err).NotTo(HaveOccurred())
	var layer bytes.Buffer
	writer := tar.NewWriter(&layer)
	g.Expect(writer.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(program))})).To(Succeed())
	_, err = writer.Write(program)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(writer.Close()).To(Succeed())
	nodes, err := c.nodes(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	for _, name := range names {
		_, err = c.docker.feed(t.Context(), bytes.NewReader(layer.Bytes()), "image", "import", "--change", `ENTRYPOINT ["/app"]`, "-", name)
		g.Expect(err).NotTo(HaveOccurred())
		saved, err := c.docker.run(t.Context(), "image", "save", name)
		g.Expect(err).NotTo(HaveOccurred())
		for _, node := range nodes {
			_, err := c.docker.feed(t.Context(), strings.NewReader(saved), "exec", "--interactive", node.Name, "ctr", "--namespace=k8s.io", "images", "import", "-")
			g.Expect(err).NotTo(HaveOccurred())
		}
		_, err = c.docker.run(t.Context(), "image", "rm", name)
		g.Expect(err).NotTo(HaveOccurred())
	}
}

func TestLiveCluster(t *testing.T) {
	g := NewWithT(t)
	s := newSession(t)
	p := newProvider(t, s, 2)
	p.Config = []byte(twoNodes)
	made, err := p.Create(t.Context(), newSpec(t, s, "prd"))
	g.Expect(err).NotTo(HaveOccurred())
	c := made.(*running)
	info, err := os.Stat(c.Kubeconfig())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
	loadApp(t, c, probeName, sourceName)

	t.Run("probe", func(t *testing.T) {
		g := NewWithT(t)
		begun := time.Now()
		findings, err := c.Probe(t.Context(), cluster.Workloads, cluster.ServiceRouting, cluster.NetworkPolicy)
		g.Expect(err).NotTo(HaveOccurred())
		for _, f := range findings {
			t.Logf("%s %v: %s", f.Capability, f.Has, f.Evidence)
		}
		t.Logf("probe: %.1fs", time.Since(begun).Seconds())
		g.Expect(findings).To(HaveLen(3))
		g.Expect(findings[0].Has).To(BeTrue())
		g.Expect(findings[1].Has).To(BeTrue())
		namespaces, err := c.client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		for _, n := range namespaces.Items {
			g.Expect(n.Name).NotTo(HavePrefix("conformance-probe"))
		}
	})

	t.Run("report", func(t *testing.T) {
		g := NewWithT(t)
		// What is injected is to pass the strictest level.
		_, err := c.client.CoreV1().Namespaces().Patch(t.Context(), fluxNamespace, types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		begin(t, c, "source-controller", fluxNamespace, sourceName, []string{"--listen=:9090"})
		report, err := c.Report(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(report.Nodes).To(HaveLen(2))
		for _, n := range report.Nodes {
			t.Logf("%s %s: peak %d MiB (%s)", n.Name, n.Role, n.PeakMemory>>20, n.MemorySource)
			g.Expect(n.PeakMemory).To(BeNumerically(">", 100<<20))
		}
		for _, process := range report.ControlPlane {
			t.Logf("%+v", process)
		}
		for _, container := range report.Containers {
			t.Logf("%+v", container)
		}
		g.Expect(report.ControlPlane).To(HaveLen(4))
		g.Expect(report.ControlPlane[1]).To(And(HaveField("Component", "kube-apiserver"), HaveField("Running", ContainElement(HavePrefix("--etcd-servers=")))))
		g.Expect(report.Backed).To(HaveLen(1))
		backed := report.Backed[0]
		t.Logf("%+v", backed)
		g.Expect(backed.Workload).To(Equal("Deployment/source-controller"))
		g.Expect(backed.Declared).To(Equal([]string{"--listen=:9090"}))
		g.Expect(backed.Running).To(Equal(backed.Declared))
		g.Expect(cluster.Unexplained(backed.Declared, backed.Running, report.Overrides)).To(BeEmpty())
		for _, o := range report.Overrides {
			t.Logf("%s=%s (%v) %s", o.Name, o.Effective, o.Declared, o.Reason)
		}
		g.Expect(report.Overrides).To(ContainElements(
			And(HaveField("Name", "HTTPS_PROXY"), HaveField("Effective", "http://user:word@172.18.0.1:3128"), HaveField("Declared", HaveValue(Equal("http://corporate.example")))),
			And(HaveField("Name", "SSL_CERT_FILE"), HaveField("Effective", "/etc/flux-platform-conformance/authorities.pem")),
			And(HaveField("Name", "NO_PROXY"), HaveField("Effective", "127.0.0.1,10.96.0.0/16,10.244.0.0/16,"+c.provider.Network.Subnet+",.svc,.cluster.local")),
		))
		g.Expect(report.Containers).To(ContainElement(And(
			HaveField("Workload", "Deployment/source-controller"), HaveField("UID", int64(65532)), HaveField("ReadOnlyRoot", true),
			HaveField("Effective", BeEmpty()), HaveField("Bounding", BeEmpty()), HaveField("NoNewPrivileges", true), HaveField("Seccomp", "filter"),
			HaveField("ServiceAccountToken", false), HaveField("MemoryLimit", int64(64<<20)), HaveField("CPULimit", int64(250)),
		)))
		g.Expect(report.Containers).To(ContainElement(And(
			HaveField("Workload", "Deployment/coredns"), HaveField("ServiceAccountToken", true), HaveField("Bounding", []string{"NET_BIND_SERVICE"}),
		)))
	})

	t.Run("ingress", func(t *testing.T) {
		g := NewWithT(t)
		findings, err := c.Probe(t.Context(), cluster.Ingress)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(findings).To(ConsistOf(And(HaveField("Has", false), HaveField("Evidence", ContainSubstring("no Ingress of the cluster")))))
		t.Log(findings[0].Evidence)
	})

	t.Run("logs", func(t *testing.T) {
		g := NewWithT(t)
		dir := t.TempDir()
		g.Expect(c.Logs(t.Context(), dir)).To(Succeed())
		for _, name := range []string{"boot.log", "kubelet.log", "containerd.log"} {
			g.Expect(os.ReadFile(filepath.Join(dir, c.name+"-worker", name))).NotTo(BeEmpty())
		}
	})

	volumes := c.volumes(t)
	g.Expect(volumes).To(HaveLen(2))
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Expect(c.Close(t.Context())).To(Succeed())
	for _, volume := range volumes {
		_, err := c.docker.run(t.Context(), "volume", "inspect", volume)
		g.Expect(err).To(MatchError(ContainSubstring("o such volume")))
	}
	g.Expect(c.Kubeconfig()).NotTo(BeAnExistingFile())
}

// begin deploys the app, confined and limited, and waits until it runs.
func begin(t *testing.T, c *running, name, namespace, image string, args []string) {
	t.Helper()
	g := NewWithT(t)
	pod := confined(&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "manager", Image: image, Args: args,
		Env: []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://corporate.example"}},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
			corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("250m"),
		}},
	}}}})
	labels := map[string]string{"app": name}
	_, err := c.client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() (int32, error) {
		d, err := c.client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return d.Status.AvailableReplicas, err
	}).WithTimeout(time.Minute).Should(Equal(int32(1)))
}
