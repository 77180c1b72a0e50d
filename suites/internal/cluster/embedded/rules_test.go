package embedded

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// planning returns a request that each row changes.
func planning(component string, args ...string) request {
	next := 20000
	got := map[int]int{}
	return request{
		component: component, args: args, root: "/host/root", kubeconfig: "/host/kubeconfig", marker: "SESSION=1",
		port: func(declared int) (int, error) {
			if got[declared] == 0 {
				next++
				got[declared] = next
			}
			return got[declared], nil
		},
	}
}

func TestPlan(t *testing.T) {
	r, err := loadRules()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		in    request
		args  []string
		env   []string
		ports map[int]int
		fatal []string
		fails string
	}{
		{
			name: "source-controller as Flux declares it",
			in: func() request {
				in := planning("source-controller", "--log-level=info", "--enable-leader-election", "--storage-path=/data", "--storage-adv-addr=source-controller.flux-system.svc.cluster.local.")
				in.env = []variable{{name: "TUF_ROOT", value: "/tmp/.sigstore"}}
				in.mounts = []mount{{path: "/data", host: "/host/data"}, {path: "/tmp", host: "/host/tmp"}, {path: tokenPath, host: "/host/token", identity: true}}
				in.extra = []string{"HTTPS_PROXY=http://127.0.0.1:1"}
				return in
			}(),
			args: []string{
				"--log-level=info", "--enable-leader-election=false", "--storage-path=/host/data", "--storage-adv-addr=127.0.0.1:20001",
				"--storage-addr=127.0.0.1:20001", "--metrics-addr=127.0.0.1:20002", "--health-addr=127.0.0.1:20003",
			},
			env: []string{
				"TUF_ROOT=/host/tmp/.sigstore", "TMPDIR=/host/tmp", "HOME=/host/root/home", "PATH=" + systemPath,
				"KUBECONFIG=/host/kubeconfig", "HTTPS_PROXY=http://127.0.0.1:1", "SESSION=1",
			},
			ports: map[int]int{9090: 20001, 8080: 20002, 9440: 20003},
		},
		{
			name: "ports that the platform declares itself, and one that is off",
			in:   planning("kustomize-controller", "--metrics-addr=0", "--health-addr", "0.0.0.0:9999"),
			args: []string{"--metrics-addr=0", "--health-addr=127.0.0.1:20001"},
			env: []string{
				"TMPDIR=/host/root/tmp", "HOME=/host/root/home", "PATH=" + systemPath, "KUBECONFIG=/host/kubeconfig", "SESSION=1",
			},
			ports: map[int]int{9999: 20001},
		},
		{
			name:  "a listener that a flag switches off in name only",
			in:    planning("reports-controller", "--disableMetrics=true"),
			args:  []string{"--disableMetrics=true", "--kubeconfig=/host/kubeconfig", "--metricsPort=20001", "--metricsHost=127.0.0.1"},
			env:   []string{"TMPDIR=/host/root/tmp", "HOME=/host/root/home", "PATH=" + systemPath, "SESSION=1"},
			ports: map[int]int{8000: 20001},
		},
		{
			name: "a port and its host are two flags",
			in:   planning("cleanup-controller", "--cleanupServerPort=9444", "--disableMetrics=false"),
			args: []string{
				"--cleanupServerPort=20001", "--disableMetrics=false", "--kubeconfig=/host/kubeconfig",
				"--cleanupServerHost=127.0.0.1", "--metricsPort=20002", "--metricsHost=127.0.0.1",
			},
			env:   []string{"TMPDIR=/host/root/tmp", "HOME=/host/root/home", "PATH=" + systemPath, "SESSION=1"},
			ports: map[int]int{9444: 20001, 8000: 20002},
		},
		{
			name: "a flag in a volume that the table does not know",
			in: func() request {
				in := planning("kyvernopre", "--config=/etc/it/file.yaml", "--other", "/etc/it")
				in.env = []variable{{name: "HOME", value: "/home/it"}, {name: "PATH", value: "/it"}}
				in.mounts = []mount{{path: "/etc/it", host: "/host/it"}, {path: "/etc/ssl/certs/ca-certificates.crt", host: "/host/ca"}}
				return in
			}(),
			args: []string{"--config=/host/it/file.yaml", "--other=/host/it", "--kubeconfig=/host/kubeconfig"},
			env:  []string{"HOME=/home/it", "PATH=/it", "TMPDIR=/host/root/tmp", "SSL_CERT_FILE=/host/ca", "SESSION=1"},
		},
		{
			name: "a volume that the program would look for in vain",
			in: func() request {
				in := planning("reports-controller")
				in.mounts = []mount{{path: "/etc/unheard-of", host: "/host/it"}, {path: "/var/run/secrets/kyverno/apicall", host: "/host/apicall"}}
				return in
			}(),
			args:  []string{"--kubeconfig=/host/kubeconfig", "--metricsPort=20001", "--metricsHost=127.0.0.1"},
			env:   []string{"TMPDIR=/host/root/tmp", "HOME=/host/root/home", "PATH=" + systemPath, "SESSION=1"},
			ports: map[int]int{8000: 20001},
			fatal: []string{"volumeMounts /etc/unheard-of: nothing tells the program where the volume lies on this machine"},
		},
		{
			name: "an argument in a volume that is no flag",
			in: func() request {
				in := planning("kyverno-cli", "apply", "/policies")
				in.mounts = []mount{{path: "/policies", host: "/host/it"}}
				return in
			}(),
			fails: "names a path in a volume",
		},
		{name: "an address that is none", in: planning("helm-controller", "--health-addr=nonsense"), fails: `--health-addr: "nonsense" is not an address`},
		{name: "a component that the table lacks", in: planning("etcd"), fails: "etcd is not in the override table"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := r.plan(test.in)
			if test.fails != "" {
				g.Expect(err).To(MatchError(ContainSubstring(test.fails)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got.args).To(Equal(test.args))
			g.Expect(got.env).To(Equal(test.env))
			if test.ports == nil {
				test.ports = map[int]int{}
			}
			g.Expect(got.ports).To(Equal(test.ports))
			g.Expect(fatals(got.notHonoured)).To(Equal(test.fatal))
			g.Expect(cluster.Unexplained(test.in.args, got.args, got.overrides)).To(BeEmpty())
			for _, o := range got.overrides {
				g.Expect(o.Reason).NotTo(BeEmpty(), o.Name)
			}
		})
	}
}

func TestSecretsStayOutOfOverrides(t *testing.T) {
	g := NewWithT(t)
	r, err := loadRules()
	g.Expect(err).NotTo(HaveOccurred())
	in := planning("kustomize-controller")
	in.env = []variable{{name: "HTTPS_PROXY", value: "http://user:word@proxy", secret: true}}
	in.extra = []string{"HTTPS_PROXY=http://127.0.0.1:1"}
	got, err := r.plan(in)
	g.Expect(err).NotTo(HaveOccurred())
	for _, o := range got.overrides {
		if o.Declared != nil {
			g.Expect(*o.Declared).NotTo(ContainSubstring("word"), o.Name)
		}
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	for text, want := range map[string]string{
		"":                "",
		"plain":           "plain",
		"$(A)":            "1",
		"x$(A)y$(A)":      "x1y1",
		"$(B)":            "$(A)",
		"$(EMPTY)":        "",
		"$(NONE)":         "$(NONE)",
		"$$(A)":           "$(A)",
		"$$$(A)":          "$1",
		"$A $ $":          "$A $ $",
		"$(A":             "$(A",
		"svc.$(A).local.": "svc.1.local.",
	} {
		got := cluster.Expand(text, func(name string) (string, bool) { v, ok := values[name]; return v, ok })
		NewWithT(t).Expect(got).To(Equal(want), text)
	}
}

func TestResourceFields(t *testing.T) {
	container := &corev1.Container{Name: "it", Resources: corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")},
		Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
	}}
	s := &sources{pod: &corev1.Pod{}, allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi")}}
	for _, test := range []struct{ name, divisor, want string }{
		{"limits.cpu", "", "2"},
		{"limits.cpu", "1m", "1500"},
		{"requests.memory", "1Mi", "64"},
		{"requests.memory", "", "67108864"},
		{"requests.memory", "1Gi", "1"},
		{"limits.memory", "1Gi", "4"},
		{"requests.cpu", "", "0"},
	} {
		ref := &corev1.ResourceFieldSelector{Resource: test.name}
		if test.divisor != "" {
			ref.Divisor = resource.MustParse(test.divisor)
		}
		g := NewWithT(t)
		got, err := s.resource(ref, container)
		g.Expect(err).NotTo(HaveOccurred(), test.name)
		g.Expect(got).To(Equal(test.want), test.name+"/"+test.divisor)
	}
	_, err := s.resource(&corev1.ResourceFieldSelector{Resource: "nonsense"}, container)
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("nonsense")))
}

func TestFields(t *testing.T) {
	s := &sources{podIP: "198.19.128.1", pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "n", Namespace: "ns", UID: "u",
			Labels: map[string]string{"b": `say "hi"`, "a": "1"}, Annotations: map[string]string{"x.y/z": "v"},
		},
		Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: nodeName},
	}}
	for path, want := range map[string]string{
		"metadata.name": "n", "metadata.namespace": "ns", "metadata.uid": "u",
		"metadata.labels":               "a=\"1\"\nb=\"say \\\"hi\\\"\"",
		"metadata.labels['a']":          "1",
		"metadata.annotations['x.y/z']": "v",
		"spec.serviceAccountName":       "sa",
		"spec.nodeName":                 nodeName,
		"status.podIP":                  "198.19.128.1",
		"status.hostIP":                 nodeAddress,
	} {
		got, err := s.field(path)
		NewWithT(t).Expect(got, err).To(Equal(want), path)
	}
	_, err := s.field("status.phase")
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("status.phase")))
}

func TestWorkload(t *testing.T) {
	owned := func(kind, name, hash string) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		if kind != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: new(true)}}
		}
		if hash != "" {
			pod.Labels = map[string]string{"pod-template-hash": hash}
		}
		return pod
	}
	for want, pod := range map[string]*corev1.Pod{
		"Pod/p":                        owned("", "", ""),
		"Deployment/source-controller": owned("ReplicaSet", "source-controller-abc", "abc"),
		"ReplicaSet/alone":             owned("ReplicaSet", "alone", ""),
		"Job/once":                     owned("Job", "once", ""),
	} {
		NewWithT(t).Expect(cluster.Workload(pod)).To(Equal(want))
	}
}

func TestFatalFields(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	r := rule{Entrypoints: []string{"it"}}
	for name, test := range map[string]struct {
		pod       corev1.PodSpec
		container corev1.Container
		init      bool
		want      string
	}{
		"nothing special":    {},
		"its own program":    {container: corev1.Container{Command: []string{"/bin/it", "--flag"}}},
		"another program":    {container: corev1.Container{Command: []string{"sh", "-c", "it"}}, want: "not the program of the component"},
		"a working folder":   {container: corev1.Container{WorkingDir: "/work"}, want: "workingDir /work"},
		"a hook":             {container: corev1.Container{Lifecycle: &corev1.Lifecycle{}}, want: "lifecycle"},
		"a sidecar":          {container: corev1.Container{RestartPolicy: &always}, init: true, want: "restartPolicy"},
		"an exec probe":      {container: corev1.Container{LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}}, want: "livenessProbe exec"},
		"a gRPC probe":       {container: corev1.Container{StartupProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{}}}}, want: "startupProbe grpc"},
		"a probe elsewhere":  {container: corev1.Container{ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: "example.com"}}}}, want: "readinessProbe httpGet.host"},
		"host aliases":       {pod: corev1.PodSpec{HostAliases: []corev1.HostAlias{{}}}, want: "hostAliases"},
		"a volume of a host": {pod: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}}}}, container: corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}, want: "volume v is of a kind"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			pod := &corev1.Pod{Spec: test.pod}
			problems := fatals(append(podFields(pod, cluster.Origin{}), containerFields(&test.container, test.init, pod, r, cluster.Origin{})...))
			if test.want == "" {
				g.Expect(problems).To(BeEmpty())
				return
			}
			g.Expect(problems).To(ConsistOf(ContainSubstring(test.want)))
		})
	}
}
