package state

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The lists of a pod and of a container that the server adds nothing to: what
// stands in them without being declared was put there by somebody. The volume
// with the account's token and the tolerations of every pod are taken out before.
var (
	podLists       = []string{"containers", "initContainers", "ephemeralContainers", "volumes", "hostAliases"}
	containerLists = []string{"args", "command", "env", "envFrom", "ports", "volumeMounts", "volumeDevices"}
	// podSwitches give a pod more than it has without them.
	podSwitches = []string{"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"}
)

// What the server gives every pod that does not renounce it.
const (
	tokenVolume = "kube-api-access-"
	tokenPath   = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// PodDifferences lists what a pod has otherwise than declared by the template
// that it is made of, containers of all sorts by name. Other than [Compare] it
// knows what the server adds to a pod, so that whatever else is there and is not
// declared is a difference in what makes a pod act: its containers and their
// arguments, environment and mounts, its volumes, security contexts and account.
func PodDifferences(template corev1.PodTemplateSpec, pod corev1.Pod) ([]Difference, error) {
	pod = *pod.DeepCopy()
	dropDefaults(template, &pod)
	if template.Spec.ServiceAccountName == "" {
		template.Spec.ServiceAccountName = "default"
	}
	template.Spec.DeprecatedServiceAccount = ""
	want, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&template)
	if err != nil {
		return nil, fmt.Errorf("read the pod template: %w", err)
	}
	have, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod)
	if err != nil {
		return nil, fmt.Errorf("read Pod %s: %w", pod.Name, err)
	}
	spec, live := fields(want, "spec"), fields(have, "spec")
	var out []Difference
	fill(spec, live, podLists)
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		declared, _ := spec[list].([]any)
		found, _ := live[list].([]any)
		for _, item := range found {
			name, _ := nameOf(item)
			wanted, ok := find(declared, name).(map[string]any)
			container, _ := item.(map[string]any)
			if !ok {
				continue // the whole container is a difference
			}
			fill(wanted, container, containerLists)
			path := fmt.Sprintf("spec.%s[name=%s].securityContext", list, name)
			undeclared(path, fields(wanted, "securityContext"), fields(container, "securityContext"), &out)
		}
	}
	undeclared("spec.securityContext", fields(spec, "securityContext"), fields(live, "securityContext"), &out)
	for _, name := range podSwitches {
		if _, declared := spec[name]; !declared && live[name] == true {
			out = append(out, Difference{Path: "spec." + name, Declared: absent, Live: "true"})
		}
	}
	metadata := map[string]any{"labels": fields(want, "metadata")["labels"], "annotations": fields(want, "metadata")["annotations"]}
	out = append(out, Compare(map[string]any{"metadata": metadata, "spec": spec}, have)...)
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// dropDefaults takes out of a pod what the server adds to every one.
func dropDefaults(template corev1.PodTemplateSpec, pod *corev1.Pod) {
	declared := map[corev1.Toleration]bool{}
	for _, t := range template.Spec.Tolerations {
		t.TolerationSeconds = nil
		declared[t] = true
	}
	pod.Spec.Tolerations = keep(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		t.TolerationSeconds = nil
		added := t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable || t.Key == corev1.TaintNodeMemoryPressure
		return declared[t] || !added
	})
	if automount := template.Spec.AutomountServiceAccountToken; automount != nil && !*automount {
		return // the pod renounces the token: if it has one, somebody gave it
	}
	pod.Spec.Volumes = keep(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected == nil || !strings.HasPrefix(v.Name, tokenVolume)
	})
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = keep(containers[i].VolumeMounts, func(m corev1.VolumeMount) bool {
				return m.MountPath != tokenPath || !strings.HasPrefix(m.Name, tokenVolume)
			})
		}
	}
}

func keep[T any](list []T, wanted func(T) bool) []T {
	var out []T
	for _, item := range list {
		if wanted(item) {
			out = append(out, item)
		}
	}
	return out
}

// fill makes lists that are not there into empty ones, where the other side has
// one.
func fill(declared, live map[string]any, lists []string) {
	for _, name := range lists {
		_, a := declared[name]
		_, b := live[name]
		switch {
		case b && !a:
			declared[name] = []any{}
		case a && !b:
			live[name] = []any{}
		}
	}
}

// undeclared adds the fields that only a live security context has. The server
// defaults none of them but the way in which /proc is mounted.
func undeclared(path string, declared, live map[string]any, out *[]Difference) {
	for name, value := range live {
		_, ok := declared[name]
		inner, nested := value.(map[string]any)
		switch {
		case ok && nested:
			undeclared(path+"."+name, fields(declared, name), inner, out)
		case !ok && (name != "procMount" || value != string(corev1.DefaultProcMount)):
			*out = append(*out, Difference{Path: path + "." + name, Declared: absent, Live: text(value)})
		}
	}
}

// fields is a field that holds others; nil, which reads as empty, where there is
// none.
func fields(object map[string]any, name string) map[string]any {
	out, _ := object[name].(map[string]any)
	return out
}
