package embedded

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// checkHonoured returns what keeps the pod from being started, and notes it for
// the report. Differences that are harmless are noted by tryPrepare.
func (p *backedPod) checkHonoured() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notHonoured = p.minor()
	return fatals(p.notHonoured)
}

// minor lists everything of the pod that can be told before its start.
func (p *backedPod) minor() []cluster.NotHonoured {
	list := podFields(p.pod, p.origin(""))
	for _, c := range slices.Concat(p.initial, p.containers) {
		list = append(list, containerFields(c.spec, c.init, p.pod, p.agent.rules.Components[c.component], p.origin(c.spec.Name))...)
	}
	return list
}

// podFields lists what host processes do not get of a pod.
func podFields(pod *corev1.Pod, origin cluster.Origin) []cluster.NotHonoured {
	var list []cluster.NotHonoured
	add := func(declared bool, field, value, reason string, fatal bool) {
		if declared {
			list = append(list, cluster.NotHonoured{Origin: origin, Field: "spec." + field, Declared: value, Reason: reason, Fatal: fatal})
		}
	}
	s := pod.Spec
	add(s.SecurityContext != nil && !isEmpty(*s.SecurityContext), "securityContext", "set", "the process runs as the user who runs the suite", false)
	add(s.DNSPolicy != corev1.DNSDefault, "dnsPolicy", string(s.DNSPolicy), "there is no cluster DNS; names are those of this machine", false)
	add(s.EnableServiceLinks == nil || *s.EnableServiceLinks, "enableServiceLinks", "true", "variables with the addresses of Services are not set: no Service can be reached", false)
	add(s.HostNetwork, "hostNetwork", "true", "every process has this machine's network, at ports of its own", false)
	add(s.HostPID || s.HostIPC || isTrue(s.ShareProcessNamespace), "shareProcessNamespace", "set", "every process sees this machine's processes", false)
	add(len(s.HostAliases) > 0, "hostAliases", fmt.Sprint(len(s.HostAliases)), "names cannot be given to one process alone", true)
	add(s.DNSConfig != nil, "dnsConfig", "set", "names cannot be resolved for one process alone", true)
	add(s.ActiveDeadlineSeconds != nil, "activeDeadlineSeconds", "set", "it is not watched", true)
	add(len(s.ResourceClaims) > 0, "resourceClaims", "set", "devices cannot be given to a process", true)
	add(len(s.EphemeralContainers) > 0, "ephemeralContainers", "set", "they cannot join a process", false)
	return list
}

func isEmpty(s corev1.PodSecurityContext) bool {
	return s.RunAsUser == nil && s.RunAsGroup == nil && s.RunAsNonRoot == nil && s.FSGroup == nil &&
		s.SeccompProfile == nil && s.AppArmorProfile == nil && s.SELinuxOptions == nil &&
		len(s.SupplementalGroups) == 0 && len(s.Sysctls) == 0 && s.WindowsOptions == nil
}

// containerFields lists what a host process does not get of a container.
func containerFields(c *corev1.Container, init bool, pod *corev1.Pod, r rule, origin cluster.Origin) []cluster.NotHonoured {
	var list []cluster.NotHonoured
	add := func(declared bool, field, value, reason string, fatal bool) {
		if declared {
			list = append(list, cluster.NotHonoured{Origin: origin, Field: field, Declared: value, Reason: reason, Fatal: fatal})
		}
	}
	if len(c.Command) > 0 {
		add(!slices.Contains(r.Entrypoints, path.Base(c.Command[0])), "command", strings.Join(c.Command, " "),
			"it is not the program of the component, which is "+strings.Join(r.Entrypoints, " or "), true)
	}
	add(c.WorkingDir != "" && c.WorkingDir != "/", "workingDir", c.WorkingDir, "the folder is not on this machine", true)
	add(c.Lifecycle != nil, "lifecycle", "set", "hooks are not called", true)
	add(init && c.RestartPolicy != nil, "restartPolicy", "set", "an init container that stays is not known", true)
	add(len(c.VolumeDevices) > 0, "volumeDevices", "set", "devices cannot be given to a process", true)
	add(c.SecurityContext != nil, "securityContext", "set", "the process runs as the user who runs the suite, without confinement", false)
	add(len(c.Resources.Limits) > 0, "resources.limits", quantities(c.Resources.Limits), "they are not enforced", false)
	add(c.TerminationMessagePolicy == corev1.TerminationMessageReadFile && c.TerminationMessagePath != "" && c.TerminationMessagePath != corev1.TerminationMessagePathDefault,
		"terminationMessagePath", c.TerminationMessagePath, "the file is not on this machine; the last lines of the log are shown instead", false)
	for _, p := range []namedProbe{{"startupProbe", c.StartupProbe}, {"readinessProbe", c.ReadinessProbe}, {"livenessProbe", c.LivenessProbe}} {
		if p.probe == nil {
			continue
		}
		add(p.probe.Exec != nil, p.field, "exec", "no program of the image is there", true)
		add(p.probe.GRPC != nil, p.field, "grpc", "it cannot be asked", true)
		add(p.probe.HTTPGet != nil && p.probe.HTTPGet.Host != "", p.field, "httpGet.host", "only the program itself is asked", true)
		add(p.field != "livenessProbe" && p.probe.InitialDelaySeconds > 0, p.field, fmt.Sprintf("initialDelaySeconds %d", p.probe.InitialDelaySeconds),
			"the program is asked from its start on, several times a second until it is ready", false)
	}
	for _, m := range c.VolumeMounts {
		add(m.SubPathExpr != "", "volumeMounts", m.MountPath, "subPathExpr is not known", true)
		i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 || m.MountPath == tokenPath {
			continue
		}
		v := pod.Spec.Volumes[i]
		add(v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.Projected == nil && v.DownwardAPI == nil,
			"volumeMounts", m.MountPath, "volume "+v.Name+" is of a kind that host processes cannot have", true)
		add(v.ConfigMap != nil || v.Secret != nil, "volumeMounts", m.MountPath, "the volume is written once: a change comes with a new pod", false)
	}
	return list
}

func quantities(list corev1.ResourceList) string {
	var out []string
	for name, quantity := range list {
		out = append(out, string(name)+"="+quantity.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
