package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var usual = []string{
	"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW",
	"SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
}

func TestRunningProblems(t *testing.T) {
	const hardened = `
automountServiceAccountToken: false
securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, supplementalGroups: [7], seccompProfile: {type: RuntimeDefault}}
containers:
- name: app
  securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
  resources: {limits: {memory: 128Mi, cpu: 250m}}
`
	confined := state.Running{
		UID: 65532, GID: 65532, Groups: []int64{7, 65532}, ReadOnlyRoot: true, NoNewPrivileges: true, Seccomp: "filter",
		MemoryLimit: 128 << 20, CPULimit: 250,
	}
	const bare = `containers: [{name: app}]`
	asRoot := state.Running{Effective: usual, Permitted: usual, Bounding: usual, Seccomp: "disabled", Token: true}
	for _, row := range []struct {
		name, pod string
		is        state.Running
		change    func(*state.Running)
		want      []string
	}{
		{"as declared", hardened, confined, func(*state.Running) {}, nil},
		{"nothing declared", bare, asRoot, func(*state.Running) {}, nil},
		{"another user", hardened, confined, func(r *state.Running) { r.UID, r.GID = 1000, 1000 }, []string{"user: declared 65532, in effect 1000", "group: declared 65532, in effect 1000"}},
		{"root after all", `{securityContext: {runAsNonRoot: true}, containers: [{name: app}]}`, asRoot, func(*state.Running) {}, []string{"user: declared none that is root, in effect 0"}},
		{"a container's user goes before the pod's", `{securityContext: {runAsUser: 1}, containers: [{name: app, securityContext: {runAsUser: 2}}]}`, asRoot, func(r *state.Running) {
			r.UID, r.Effective, r.Permitted = 1, nil, nil
		}, []string{"user: declared 2, in effect 1"}},
		{"without a group", hardened, confined, func(r *state.Running) { r.Groups = []int64{65532} }, []string{"supplementary groups: declared 7, in effect [65532]"}},
		{"it can be written to", hardened, confined, func(r *state.Running) { r.ReadOnlyRoot = false }, []string{"read-only root file system: declared true, in effect false"}},
		{"capabilities that were dropped", hardened, confined, func(r *state.Running) { r.Bounding = []string{"NET_RAW", "CHOWN"} }, []string{"bounding capabilities: declared none, in effect CHOWN NET_RAW"}},
		{"one that nobody declared", bare, asRoot, func(r *state.Running) {
			r.Effective, r.Permitted, r.Bounding = append(usual[:14:14], "SYS_ADMIN"), append(usual[:14:14], "SYS_ADMIN"), append(usual[:14:14], "SYS_ADMIN")
		}, []string{
			"effective capabilities: declared AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT, " +
				"in effect AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT",
			"permitted capabilities: declared AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT, " +
				"in effect AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT",
			"bounding capabilities: declared AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT, " +
				"in effect AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT",
		}},
		{"one that was added back", `{containers: [{name: app, securityContext: {capabilities: {drop: [ALL], add: [CAP_NET_BIND_SERVICE]}}}]}`, asRoot, func(r *state.Running) {
			r.Effective, r.Permitted, r.Bounding = []string{"NET_BIND_SERVICE"}, []string{"NET_BIND_SERVICE"}, []string{"NET_BIND_SERVICE"}
		}, nil},
		{"one that was dropped is there", `{containers: [{name: app, securityContext: {capabilities: {drop: [NET_RAW]}}}]}`, asRoot, func(r *state.Running) {
			r.Effective = append(usual[:9:9], usual[10:]...)
			r.Permitted = r.Effective
			r.UID = 0
		}, []string{
			"bounding capabilities: declared AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT, " +
				"in effect AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT",
		}},
		{"a privileged one", `{containers: [{name: app, securityContext: {privileged: true}}]}`, asRoot, func(r *state.Running) { r.Bounding = append(usual[:14:14], "SYS_ADMIN") }, nil},
		{"it may gain rights", hardened, confined, func(r *state.Running) { r.NoNewPrivileges = false }, []string{"no new privileges: declared true, in effect false"}},
		{"no filter", hardened, confined, func(r *state.Running) { r.Seccomp = "disabled" }, []string{"seccomp: declared RuntimeDefault, in effect disabled"}},
		{"a node that filters by itself", bare, asRoot, func(r *state.Running) { r.Seccomp = "filter" }, nil},
		{"a filter where none is wanted", `{securityContext: {seccompProfile: {type: Unconfined}}, containers: [{name: app}]}`, asRoot, func(r *state.Running) { r.Seccomp = "filter" }, []string{"seccomp: declared Unconfined, in effect filter"}},
		{"a token", hardened, confined, func(r *state.Running) { r.Token = true }, []string{"token of the account: declared none, in effect mounted"}},
		{"other limits", hardened, confined, func(r *state.Running) { r.MemoryLimit, r.CPULimit = 64<<20, 0 }, []string{
			"memory limit in bytes: declared 134217728, in effect 67108864", "CPU limit in thousandths: declared 250, in effect none",
		}},
		{"limits that nobody declared", bare, asRoot, func(r *state.Running) { r.CPULimit = 100 }, []string{"CPU limit in thousandths: declared none, in effect 100"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			pod := into[corev1.PodSpec](t, row.pod)
			is := row.is
			row.change(&is)
			NewWithT(t).Expect(state.RunningProblems(pod, pod.Containers[0], nil, is)).To(Equal(row.want))
		})
	}
	pod := into[corev1.PodSpec](t, bare)
	is := asRoot
	is.CPULimit = 100
	given := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	NewWithT(t).Expect(state.RunningProblems(pod, pod.Containers[0], given, is)).To(BeEmpty(), "the namespace is declared to give a limit")
}
