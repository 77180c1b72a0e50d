package kind

import (
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

func TestImagePattern(t *testing.T) {
	g := NewWithT(t)
	pattern := regexp.MustCompile(imagePattern([]string{"fluxcd/source-controller", "etcd"}))
	for _, image := range []string{
		"ghcr.io/fluxcd/source-controller:v1.9.5", "fluxcd/source-controller", "mirror.example:5000/ghcr.io/fluxcd/source-controller:v1@sha256:00",
		"ghcr.io/fluxcd/source-controller@sha256:00", "etcd:3.6", "registry.k8s.io/etcd:3.6.8-0", "localhost/etcd", "localhost:5000/etcd",
	} {
		g.Expect(pattern.MatchString(image)).To(BeTrue(), image)
	}
	for _, image := range []string{
		"ghcr.io/fluxcd/source-controller-x:v1", "ghcr.io/xfluxcd/source-controller:v1", "ghcr.io/fluxcd/source-controller/x", "registry.k8s.io/some/etcd:3", "etcdx",
	} {
		g.Expect(pattern.MatchString(image)).To(BeFalse(), image)
	}
}

func newRunning() *running {
	return &running{
		pods: "10.244.0.0/16", services: "10.96.0.0/16,fd00::/112",
		provider: Provider{
			Network: Network{Subnet: "172.18.0.0/16"}, Authority: []byte("PEM"),
			Repositories: func(string) []string { return []string{"fluxcd/source-controller"} },
		},
		spec: cluster.Spec{
			Name: "dev",
			Recognize: func(image string) (string, bool) {
				return "source-controller", strings.HasSuffix(image, "/fluxcd/source-controller")
			},
			Environ: map[string][]string{"source-controller": {
				"HTTPS_PROXY=http://user:wo'r\\d@172.18.0.1:1", "HTTP_PROXY=http://172.18.0.1:1", "NO_PROXY=127.0.0.1,localhost", "SSL_CERT_FILE=/here",
			}},
		},
	}
}

func TestInjection(t *testing.T) {
	g := NewWithT(t)
	i, err := newRunning().injection("source-controller")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(i.variables).To(Equal([]variable{
		{name: "HTTPS_PROXY", value: "http://user:wo'r\\d@172.18.0.1:1", secret: true},
		{name: "HTTP_PROXY", value: "http://172.18.0.1:1"},
		{name: "NO_PROXY", value: "127.0.0.1,localhost,10.96.0.0/16,fd00::/112,10.244.0.0/16,172.18.0.0/16,.svc,.cluster.local"},
		{name: "SSL_CERT_FILE", value: "/etc/flux-platform-conformance/authorities.pem"},
	}))

	g.Expect(i.expression()).NotTo(ContainSubstring("wo'r"), "who reads policies or pods reads no credential")
	g.Expect(i.expression()).To(And(
		ContainSubstring(`c.image.matches("^((.+/)?fluxcd/source-controller)(:[^/@]*)?(@.*)?$")`),
		ContainSubstring(`!(e.name in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"])`)))
	kinds := []string{}
	for _, object := range i.objects() {
		g.Expect(object.GetName()).To(Equal("conformance-source-controller"))
		g.Expect(object.GetLabels()).To(HaveKeyWithValue("app.kubernetes.io/managed-by", "flux-platform-conformance"))
		kinds = append(kinds, strings.TrimPrefix(strings.TrimPrefix(typeName(object), "*v1."), "*"))
	}
	g.Expect(kinds).To(Equal([]string{"Secret", "ConfigMap", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"}))
	secret, ok := i.objects()[0].(*corev1.Secret)
	g.Expect(ok).To(BeTrue())
	g.Expect(secret.Data).To(HaveLen(1))
	g.Expect(string(secret.Data["HTTPS_PROXY"])).To(Equal("http://user:wo'r\\d@172.18.0.1:1"))
}

func TestInjectionThatCannotBe(t *testing.T) {
	g := NewWithT(t)
	c := newRunning()
	c.provider.Authority = nil
	_, err := c.injection("source-controller")
	g.Expect(err).To(MatchError(ContainSubstring("give Authority")))

	c = newRunning()
	c.provider.Repositories = nil
	_, err = c.injection("source-controller")
	g.Expect(err).To(MatchError(ContainSubstring("give Repositories")))

	c = newRunning()
	c.provider.Repositories = func(string) []string { return []string{"some/other"} }
	_, err = c.injection("source-controller")
	g.Expect(err).To(MatchError(ContainSubstring("its repository some/other is recognised as")))
}

func TestLackingNamesWhatIsMissing(t *testing.T) {
	g := NewWithT(t)
	i := injection{variables: []variable{{name: "A"}}, authority: []byte("PEM")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
	g.Expect(i.lacking(pod)).To(MatchError("a pod of it has no variable A"))
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A"}}
	g.Expect(i.lacking(pod)).To(MatchError(ContainSubstring("nothing mounted")))
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{MountPath: authorityFolder}}
	g.Expect(i.lacking(pod)).To(Succeed())
}
