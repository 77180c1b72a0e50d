package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// into reads YAML into a type.
func into[T any](t *testing.T, text string) T {
	t.Helper()
	var out T
	if err := yaml.UnmarshalStrict([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

const podTemplate = `
metadata:
  labels: {app: x, tier: web}
spec:
  automountServiceAccountToken: false
  hostNetwork: false
  securityContext: {runAsNonRoot: true}
  initContainers:
  - name: prepare
    image: tool:1
  containers:
  - name: app
    image: app:1
    resources: {limits: {memory: 1Gi}}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts:
    - {name: config, mountPath: /a}
    - {name: config, mountPath: /b, subPath: b, readOnly: false}
  volumes:
  - {name: config, configMap: {name: config}}
`

// admitted is the pod that the server makes of podTemplate.
func admitted(t *testing.T) *corev1.Pod {
	pod := into[corev1.Pod](t, `
metadata:
  name: x-1
  labels: {app: x, tier: web, pod-template-hash: abc}
spec:
  nodeName: n
  serviceAccountName: default
  serviceAccount: default
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true}
  schedulerName: default-scheduler
  initContainers:
  - name: prepare
    image: tool:1
    imagePullPolicy: IfNotPresent
  containers:
  - name: app
    image: app:1
    imagePullPolicy: IfNotPresent
    resources: {limits: {memory: 1024Mi}}
    securityContext: {allowPrivilegeEscalation: false, procMount: Default, capabilities: {drop: [ALL]}}
    volumeMounts:
    - {name: config, mountPath: /a}
    - {name: config, mountPath: /b, subPath: b}
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
  volumes:
  - {name: config, configMap: {name: config, defaultMode: 420}}
`)
	return &pod
}

func TestPodDifferences(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string
	}{
		{"as the server makes it", func(*corev1.Pod) {}, ""},
		{
			"another image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "app:2" },
			`spec.containers[name=app].image: declared "app:1", found "app:2"`,
		},
		{
			"another image of an init container", func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "tool:2" },
			`spec.initContainers[name=prepare].image: declared "tool:1", found "tool:2"`,
		},
		{
			"another label", func(p *corev1.Pod) { p.Labels["tier"] = "db" },
			`metadata.labels.tier: declared "web", found "db"`,
		},
		{
			"other resources", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = nil },
			`spec.containers[name=app].resources.limits: declared map[memory:1Gi], found absent`,
		},
		{
			"a weaker security context of a container",
			func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil },
			`spec.containers[name=app].securityContext.allowPrivilegeEscalation: declared false, found absent`,
		},
		{
			"a right that is not declared",
			func(p *corev1.Pod) {
				p.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
			},
			`spec.containers[name=app].securityContext.capabilities.add: declared absent, found [NET_ADMIN]`,
		},
		{
			"another security context of the pod", func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsUser = new(int64(0)) },
			`spec.securityContext.runAsUser: declared absent, found 0`,
		},
		{
			"the node's network", func(p *corev1.Pod) { p.Spec.HostNetwork = true },
			`spec.hostNetwork: declared absent, found true`,
		},
		{
			"a container from nowhere", func(p *corev1.Pod) {
				p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}}
			},
			`spec.ephemeralContainers[name=debug]: declared absent, found map[name:debug resources:map[]]`,
		},
		{
			"an environment from nowhere",
			func(p *corev1.Pod) { p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "b"}} },
			`spec.containers[name=app].env[name=A]: declared absent, found map[name:A value:b]`,
		},
		{
			"a volume too many", func(p *corev1.Pod) {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}})
			},
			`spec.volumes[name=kube-api-access-x]: declared absent, found map[name:kube-api-access-x projected:map[sources:<nil>]]`,
		},
		{
			"another account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "admin" },
			`spec.serviceAccountName: declared "default", found "admin"`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			pod := admitted(t)
			row.change(pod)
			differences, err := state.PodDifferences(into[corev1.PodTemplateSpec](t, podTemplate), *pod)
			g.Expect(err).NotTo(HaveOccurred())
			if row.want == "" {
				g.Expect(differences).To(BeEmpty())
				return
			}
			g.Expect(differences).To(HaveLen(1))
			g.Expect(differences[0].String()).To(Equal(row.want))
		})
	}
}

// A pod whose template does not renounce the account's token gets it from the
// server.
func TestPodDifferencesKnowsTheTokenVolume(t *testing.T) {
	g := NewWithT(t)
	template := into[corev1.PodTemplateSpec](t, podTemplate)
	template.Spec.AutomountServiceAccountToken = nil
	pod := admitted(t)
	pod.Spec.AutomountServiceAccountToken = nil
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}})
	mount := corev1.VolumeMount{Name: "kube-api-access-x", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, mount)
	pod.Spec.InitContainers[0].VolumeMounts = append(pod.Spec.InitContainers[0].VolumeMounts, mount)
	g.Expect(state.PodDifferences(template, *pod)).To(BeEmpty())
}
