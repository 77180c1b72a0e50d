package kind

import (
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

func encoded(words ...string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Join(words, "\x00") + "\x00"))
}

func encodedPath(path string) string { return base64.StdEncoding.EncodeToString([]byte(path)) }

// scanned is what a node with a container that wraps its program says.
var scanned = strings.Join([]string{
	"peak /sys/fs/cgroup/memory.peak 1000",
	"container 12 aaa",
	"status 12 PPid:\t10",
	"status 12 Uid:\t0\t65532\t0\t0",
	"status 12 Gid:\t0\t65532\t0\t0",
	"status 12 Groups:\t4 5 ",
	"status 12 CapEff:\t0000000000000400",
	"status 12 CapPrm:\t0000000000000401",
	"status 12 CapBnd:\t0000020000000401",
	"status 12 NoNewPrivs:\t1",
	"status 12 Seccomp:\t2",
	"status 12 VmHWM:\t   56 kB",
	"stat 12 12 (tini ) x) S 10 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 8 0 500 1 2",
	"exe 12 " + encodedPath("/sbin/tini"),
	"cmdline 12 " + encoded("/sbin/tini", "--", "source-controller", "--a=b\nc"),
	"environ 12 " + encoded("A=1", "B=2"),
	"parent 12 containerd-shim",
	`mount 12 1 2 0:1 / / ro,relatime master:49 - overlay overlay rw`,
	`mount 12 1 2 0:1 / /run/secrets/kubernetes.io/serviceaccount ro,relatime - tmpfs tmpfs rw`,
	`mount 12 1 2 0:1 / /with\040blank rw - tmpfs tmpfs rw`,
	"memory 12 67108864",
	"cpu 12 25000 100000",
	"container 13 aaa",
	"status 13 PPid:\t12",
	"stat 13 13 (source-controll) S 12 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 8 0 501 1 2",
	"exe 13 " + encodedPath("/usr/local/bin/source-controller"),
	"cmdline 13 " + encoded("source-controller", "--a=b\nc"),
	"environ 13 " + encoded("A=1"),
	"parent 13 tini",
	"container 14 aaa", // it ended meanwhile
	"stat 14 ",
	"exe 14 ",
	"cmdline 14 ",
	"parent 14 ",
	"container 15 bbb",
	"status 15 PPid:\t10",
	"stat 15 15 (broken",
	"exe 15 " + encodedPath("/app"),
	"cmdline 15 " + encoded("/app"),
	"parent 15 containerd-shim",
	"mount 15 1 2 0:1 / / ro - overlay overlay rw",
	"mount 15 1 2 0:1 / / rw - overlay overlay rw",
	"memory 15 max",
	"cpu 15 max 100000",
	"end", "",
}, "\n")

func TestScanIsRead(t *testing.T) {
	g := NewWithT(t)
	s, err := parseScan(scanned)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(s.peak).To(Equal(int64(1000)))
	g.Expect(s.source).To(Equal("/sys/fs/cgroup/memory.peak"))
	g.Expect(s.containers).To(HaveLen(2))
	g.Expect(s.containers["aaa"]).To(HaveLen(2), "one has ended meanwhile")
	g.Expect(s.containers["aaa"][0].pid).To(Equal(12), "what the runtime started comes first")

	first := s.containers["aaa"][0]
	g.Expect(first.uid).To(Equal(int64(65532)))
	g.Expect(first.gid).To(Equal(int64(65532)))
	g.Expect(first.groups).To(Equal([]int64{4, 5}))
	g.Expect(capabilityNames(first.effective)).To(Equal([]string{"NET_BIND_SERVICE"}))
	g.Expect(capabilityNames(first.permitted)).To(Equal([]string{"CHOWN", "NET_BIND_SERVICE"}))
	g.Expect(capabilityNames(first.bounding)).To(Equal([]string{"CHOWN", "NET_BIND_SERVICE", "41"}))
	g.Expect(first.noNew).To(BeTrue())
	g.Expect(seccompName(first.seccomp)).To(Equal("filter"))
	g.Expect(first.peak).To(Equal(int64(56 << 10)))
	g.Expect(first.started).To(Equal(uint64(500)))
	g.Expect(first.readOnlyRoot()).To(BeTrue())
	g.Expect(first.mountsOn("/var/run/secrets/kubernetes.io/serviceaccount")).To(BeTrue())
	g.Expect(first.mountsOn("/with blank/")).To(BeTrue())
	g.Expect(first.mountsOn("/var/tmp")).To(BeFalse())
	g.Expect(first.memory).To(Equal(int64(64 << 20)))
	g.Expect(first.cpu).To(Equal(int64(250)))

	main := program(s.containers["aaa"])
	g.Expect(main.pid).To(Equal(13), "what is wrapped counts")
	g.Expect(main.line).To(Equal([]string{"source-controller", "--a=b\nc"}))

	other := s.containers["bbb"][0]
	g.Expect(other.readOnlyRoot()).To(BeFalse(), "the mount on top counts")
	g.Expect(other.memory).To(BeZero())
	g.Expect(other.cpu).To(BeZero())
}

func TestScanThatCannotBeReadIsAnError(t *testing.T) {
	for _, row := range []struct{ name, out, want string }{
		{"nothing", "", "cut short"},
		{"cut", strings.TrimSuffix(scanned, "end\n"), "cut short"},
		{"of no container", "memory 1 2\nend\n", "no container was named"},
		{"an unknown word", "container 1 a\nweather 1 fine\nend\n", "unknown word"},
		{"no number", "container one a\nend\n", "invalid syntax"},
		{"few fields", "container 1 a\nmount 1 1 2\nend\n", "too few fields"},
		{"no set", "container 1 a\nstatus 1 CapEff:\tx\nend\n", "invalid syntax"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := parseScan(row.out)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(row.want)))
		})
	}
}

// The script has to run in whatever shell a node has; none of this machine's
// processes is in a pod.
func TestScanScriptRunsInAPlainShell(t *testing.T) {
	g := NewWithT(t)
	command := exec.Command("sh", "-s", "--", "some", "container")
	command.Stdin = strings.NewReader(scanScript)
	out, err := command.Output()
	g.Expect(err).NotTo(HaveOccurred())
	_, err = parseScan(string(out))
	g.Expect(err).NotTo(HaveOccurred())
}

func TestDeclaredArgumentsAreExpandedByTheContainersOwnNames(t *testing.T) {
	g := NewWithT(t)
	spec := &corev1.Container{Args: []string{"--to=$(HOST):$(PORT)", "$$(HOST)", "--home=$(HOME)"}, Env: []corev1.EnvVar{{Name: "HOST"}, {Name: "PORT"}}}
	environ := []string{"HOME=/", "HOST=here", "HOST=there", "PORT=1"}
	g.Expect(declared(spec, environ)).To(Equal([]string{"--to=here:1", "$(HOST)", "--home=$(HOME)"}))
	spec.EnvFrom = []corev1.EnvFromSource{{}}
	g.Expect(declared(spec, environ)).To(ContainElement("--home=/"))
	spec.Command = []string{"/bin/app", "--port=$(PORT)"}
	g.Expect(declared(spec, environ)).To(HaveExactElements("--port=1", "--to=here:1", "$(HOST)", "--home=/"))
}

func TestTokenMayLieElsewhere(t *testing.T) {
	g := NewWithT(t)
	pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}},
		{Name: "other"},
	}}}
	spec := &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/vault/token"}, {Name: "other", MountPath: "/other"}}}
	g.Expect(tokenPaths(pod, spec)).To(Equal([]string{tokenPath, "/vault/token"}))
}
