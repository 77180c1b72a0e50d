package state

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Running is a container as the kernel of its node sees it.
type Running struct {
	// UID, GID and Groups are those that its first process acts with.
	UID, GID int64
	Groups   []int64
	// ReadOnlyRoot: its root file system cannot be written to.
	ReadOnlyRoot bool
	// Effective, Permitted and Bounding are capabilities by name, such as NET_RAW.
	Effective, Permitted, Bounding []string
	// NoNewPrivileges: no program that it executes gains rights by that.
	NoNewPrivileges bool
	// Seccomp is disabled, strict or filter.
	Seccomp string
	// Token: a token of the pod's account is mounted.
	Token bool
	// MemoryLimit is in bytes and CPULimit in thousandths of a processor; 0 is none.
	MemoryLimit, CPULimit int64
}

// usualCapabilities are those that a container has when its pod says nothing of
// them: what containerd and CRI-O agree on, and as root only.
var usualCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

const all = "ALL"

// RunningProblems says where a container runs otherwise than the template of its
// pod declares, or, where that says nothing, otherwise than Kubernetes has it.
// limits are what the namespace is declared to give a container that states none.
func RunningProblems(pod corev1.PodSpec, container corev1.Container, limits corev1.ResourceList, is Running) []string {
	var out []string
	differs := func(what string, declared, found any) {
		out = append(out, fmt.Sprintf("%s: declared %v, in effect %v", what, declared, found))
	}
	context, podContext := container.SecurityContext, pod.SecurityContext
	if context == nil {
		context = &corev1.SecurityContext{}
	}
	if podContext == nil {
		podContext = &corev1.PodSecurityContext{}
	}
	if uid := either(context.RunAsUser, podContext.RunAsUser); uid != nil && *uid != is.UID {
		differs("user", *uid, is.UID)
	}
	if nonRoot := either(context.RunAsNonRoot, podContext.RunAsNonRoot); nonRoot != nil && *nonRoot && is.UID == 0 {
		differs("user", "none that is root", is.UID)
	}
	if gid := either(context.RunAsGroup, podContext.RunAsGroup); gid != nil && *gid != is.GID {
		differs("group", *gid, is.GID)
	}
	groups := slices.Clone(podContext.SupplementalGroups)
	if podContext.FSGroup != nil {
		groups = append(groups, *podContext.FSGroup)
	}
	for _, group := range groups {
		if group != is.GID && !slices.Contains(is.Groups, group) {
			differs("supplementary groups", group, is.Groups)
		}
	}
	if readOnly := context.ReadOnlyRootFilesystem != nil && *context.ReadOnlyRootFilesystem; readOnly != is.ReadOnlyRoot {
		differs("read-only root file system", readOnly, is.ReadOnlyRoot)
	}
	privileged := context.Privileged != nil && *context.Privileged
	if !privileged {
		out = append(out, capabilityProblems(context.Capabilities, is)...)
	}
	if confined := context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation; confined != is.NoNewPrivileges {
		differs("no new privileges", confined, is.NoNewPrivileges)
	}
	profile := either(context.SeccompProfile, podContext.SeccompProfile)
	switch filtered := profile != nil && profile.Type != corev1.SeccompProfileTypeUnconfined; {
	case filtered && is.Seccomp != "filter":
		differs("seccomp", profile.Type, is.Seccomp)
	case !filtered && is.Seccomp != "disabled" && profile != nil:
		differs("seccomp", profile.Type, is.Seccomp)
	}
	if mount := pod.AutomountServiceAccountToken; mount != nil && !*mount && is.Token {
		differs("token of the account", "none", "mounted")
	}
	return append(out, limitProblems(container, limits, is)...)
}

func either[T any](first, second *T) *T {
	if first != nil {
		return first
	}
	return second
}

// capabilityProblems compares the sets of a container that is not privileged. A
// process that is not root holds none, whatever it is bound to.
func capabilityProblems(declared *corev1.Capabilities, is Running) []string {
	bound := slices.Clone(usualCapabilities)
	if declared != nil {
		if slices.Contains(declared.Drop, all) {
			bound = nil
		}
		bound = slices.DeleteFunc(bound, func(name string) bool { return slices.Contains(kernelNames(declared.Drop), name) })
		if slices.Contains(declared.Add, all) {
			return nil // what there is, is the node's to say
		}
		for _, name := range kernelNames(declared.Add) {
			if !slices.Contains(bound, name) {
				bound = append(bound, name)
			}
		}
	}
	slices.Sort(bound)
	held := bound
	if is.UID != 0 {
		held = nil
	}
	var out []string
	for _, set := range []struct {
		name          string
		declared, has []string
	}{{"effective", held, is.Effective}, {"permitted", held, is.Permitted}, {"bounding", bound, is.Bounding}} {
		has := slices.Sorted(slices.Values(set.has))
		if !slices.Equal(has, set.declared) {
			out = append(out, fmt.Sprintf("%s capabilities: declared %s, in effect %s", set.name, listOf(set.declared), listOf(has)))
		}
	}
	return out
}

// kernelNames are capabilities as the kernel calls them.
func kernelNames(list []corev1.Capability) []string {
	var out []string
	for _, name := range list {
		out = append(out, strings.TrimPrefix(strings.ToUpper(string(name)), "CAP_"))
	}
	return out
}

func listOf(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

// limitProblems compares limits: the container's own, else the namespace's.
func limitProblems(container corev1.Container, defaults corev1.ResourceList, is Running) []string {
	var out []string
	for _, limit := range []struct {
		what string
		name corev1.ResourceName
		has  int64
	}{{"memory limit in bytes", corev1.ResourceMemory, is.MemoryLimit}, {"CPU limit in thousandths", corev1.ResourceCPU, is.CPULimit}} {
		quantity, given := container.Resources.Limits[limit.name]
		if !given {
			quantity, given = defaults[limit.name]
		}
		want, none := int64(0), "none"
		if given {
			want = quantity.Value()
			if limit.name == corev1.ResourceCPU {
				want = quantity.MilliValue()
			}
		}
		if want == limit.has {
			continue
		}
		text := func(n int64) string {
			if n == 0 {
				return none
			}
			return fmt.Sprint(n)
		}
		out = append(out, fmt.Sprintf("%s: declared %s, in effect %s", limit.what, text(want), text(limit.has)))
	}
	return out
}
