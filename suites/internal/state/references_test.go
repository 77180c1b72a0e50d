package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestReferencesFindsEachForm(t *testing.T) {
	pod := func(fields string) string { return "{kind: Pod, spec: {serviceAccountName: a, " + fields + "}}" }
	for _, row := range []struct {
		name, object string
		want         []state.Reference
	}{
		{"an account that is not named", `{kind: Pod, spec: {}}`, []state.Reference{{Field: "spec.serviceAccountName", Kind: "ServiceAccount", Name: "default"}}},
		{"pull secrets", pod(`imagePullSecrets: [{name: x}]`), []state.Reference{{Field: "spec.imagePullSecrets[0]", Kind: "Secret", Name: "x"}}},
		{
			"devices", pod(`resourceClaims: [{name: g, resourceClaimName: x}, {name: h, resourceClaimTemplateName: "y"}]`),
			[]state.Reference{
				{Field: "spec.resourceClaims[name=g]", Kind: "ResourceClaim", Name: "x"},
				{Field: "spec.resourceClaims[name=h]", Kind: "ResourceClaimTemplate", Name: "y"},
			},
		},
		{
			"volumes of ConfigMaps and Secrets",
			pod(`volumes: [{name: v, configMap: {name: x}}, {name: w, configMap: {name: x, optional: true}}, {name: z, secret: {secretName: s}}]`),
			[]state.Reference{
				{Field: "spec.volumes[name=v]", Kind: "ConfigMap", Name: "x"},
				{Field: "spec.volumes[name=w]", Kind: "ConfigMap", Name: "x", Optional: true},
				{Field: "spec.volumes[name=z]", Kind: "Secret", Name: "s"},
			},
		},
		{
			"projected volumes",
			pod(`volumes: [{name: v, projected: {sources: [{configMap: {name: x}}, {secret: {name: s, optional: true}}, {serviceAccountToken: {path: t}}]}}]`),
			[]state.Reference{
				{Field: "spec.volumes[name=v].projected.sources[0]", Kind: "ConfigMap", Name: "x"},
				{Field: "spec.volumes[name=v].projected.sources[1]", Kind: "Secret", Name: "s", Optional: true},
			},
		},
		{
			"claims", pod(`volumes: [{name: v, persistentVolumeClaim: {claimName: c}}, {name: w, ephemeral: {volumeClaimTemplate: {spec: {dataSource: {kind: PersistentVolumeClaim, name: d}}}}}]`),
			[]state.Reference{
				{Field: "spec.volumes[name=v]", Kind: "PersistentVolumeClaim", Name: "c"},
				{Field: "spec.volumes[name=w].ephemeral.dataSource", Kind: "PersistentVolumeClaim", Name: "d"},
			},
		},
		{
			"drivers' secrets", pod(`volumes: [{name: a, csi: {driver: d, nodePublishSecretRef: {name: s1}}}, {name: b, iscsi: {targetPortal: p, iqn: i, lun: 0, secretRef: {name: s2}}},
				{name: c, cephfs: {monitors: [m], secretRef: {name: s3}}}, {name: d, rbd: {monitors: [m], image: i, secretRef: {name: s4}}}, {name: e, flexVolume: {driver: d, secretRef: {name: s5}}},
				{name: f, scaleIO: {gateway: g, system: s, secretRef: {name: s6}}}, {name: g, storageos: {secretRef: {name: s7}}}, {name: h, cinder: {volumeID: v, secretRef: {name: s8}}},
				{name: i, azureFile: {secretName: s9, shareName: s}}, {name: j, glusterfs: {endpoints: e, path: p}}]`),
			[]state.Reference{
				{Field: "spec.volumes[name=a]", Kind: "Secret", Name: "s1"},
				{Field: "spec.volumes[name=b]", Kind: "Secret", Name: "s2"},
				{Field: "spec.volumes[name=c]", Kind: "Secret", Name: "s3"},
				{Field: "spec.volumes[name=d]", Kind: "Secret", Name: "s4"},
				{Field: "spec.volumes[name=e]", Kind: "Secret", Name: "s5"},
				{Field: "spec.volumes[name=f]", Kind: "Secret", Name: "s6"},
				{Field: "spec.volumes[name=g]", Kind: "Secret", Name: "s7"},
				{Field: "spec.volumes[name=h]", Kind: "Secret", Name: "s8"},
				{Field: "spec.volumes[name=i]", Kind: "Secret", Name: "s9"},
				{Field: "spec.volumes[name=j]", Kind: "Endpoints", Name: "e"},
			},
		},
		{
			"variables of all sorts of containers",
			pod(`initContainers: [{name: i, env: [{name: A, valueFrom: {configMapKeyRef: {name: x, key: k}}}]}],
				containers: [{name: c, env: [{name: B, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}, {name: P, value: plain}]}],
				ephemeralContainers: [{name: e, envFrom: [{configMapRef: {name: "y"}}, {secretRef: {name: z}}]}]`),
			[]state.Reference{
				{Field: "spec.initContainers[name=i].env[name=A]", Kind: "ConfigMap", Name: "x"},
				{Field: "spec.containers[name=c].env[name=B]", Kind: "Secret", Name: "s", Optional: true},
				{Field: "spec.ephemeralContainers[name=e].envFrom[0]", Kind: "ConfigMap", Name: "y"},
				{Field: "spec.ephemeralContainers[name=e].envFrom[1]", Kind: "Secret", Name: "z"},
			},
		},
		{
			"an Ingress", `{kind: Ingress, spec: {defaultBackend: {service: {name: d}}, tls: [{secretName: t}],
				rules: [{host: h, http: {paths: [{backend: {service: {name: s}}}, {backend: {resource: {kind: Bucket, name: b}}}]}}]}}`,
			[]state.Reference{
				{Field: "spec.defaultBackend", Kind: "Service", Name: "d"},
				{Field: "spec.rules[0].http.paths[0].backend", Kind: "Service", Name: "s"},
				{Field: "spec.rules[0].http.paths[1].backend", Kind: "Bucket", Name: "b"},
				{Field: "spec.tls[0].secretName", Kind: "Secret", Name: "t"},
			},
		},
		{
			"an account", `{kind: ServiceAccount, secrets: [{name: x}], imagePullSecrets: [{name: "y"}]}`,
			[]state.Reference{{Field: "secrets[0]", Kind: "Secret", Name: "x"}, {Field: "imagePullSecrets[0]", Kind: "Secret", Name: "y"}},
		},
		{
			"a claim filled from another", `{kind: PersistentVolumeClaim, spec: {dataSourceRef: {kind: PersistentVolumeClaim, name: x}}}`,
			[]state.Reference{{Field: "spec.dataSourceRef", Kind: "PersistentVolumeClaim", Name: "x"}},
		},
		{
			"a claim filled from another namespace", `{kind: PersistentVolumeClaim, spec: {dataSourceRef: {kind: PersistentVolumeClaim, name: x, namespace: other}}}`, nil,
		},
		{
			"an autoscaler", `{kind: HorizontalPodAutoscaler, spec: {scaleTargetRef: {kind: Deployment, name: x}}}`,
			[]state.Reference{{Field: "spec.scaleTargetRef", Kind: "Deployment", Name: "x"}},
		},
		{"a kind that names nothing", `{kind: ConfigMap, data: {name: x}}`, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			found, err := state.References(parse(t, row.object))
			g.Expect(err).NotTo(HaveOccurred())
			account := state.Reference{Field: "spec.serviceAccountName", Kind: "ServiceAccount", Name: "a"}
			if len(found) > 0 && found[0] == account {
				found = found[1:]
			}
			g.Expect(found).To(Equal(row.want))
		})
	}
}

func TestReferencesReadsEachKindThatMakesPods(t *testing.T) {
	const spec = `{serviceAccountName: a}`
	for kind, object := range map[string]string{
		"Deployment": `spec: {template: {spec: ` + spec + `}}`, "DaemonSet": `spec: {template: {spec: ` + spec + `}}`,
		"ReplicaSet": `spec: {template: {spec: ` + spec + `}}`, "ReplicationController": `spec: {template: {spec: ` + spec + `}}`,
		"Job": `spec: {template: {spec: ` + spec + `}}`, "CronJob": `spec: {jobTemplate: {spec: {template: {spec: ` + spec + `}}}}`,
		"PodTemplate": `template: {spec: ` + spec + `}`,
	} {
		t.Run(kind, func(t *testing.T) {
			found, err := state.References(parse(t, "{kind: "+kind+", "+object+"}"))
			g := NewWithT(t)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(found).To(HaveLen(1))
			g.Expect(found[0].Name).To(Equal("a"))
		})
	}
	g := NewWithT(t)
	found, err := state.References(parse(t, `{kind: StatefulSet, spec: {serviceName: s, template: {spec: `+spec+`},
		volumeClaimTemplates: [{metadata: {name: v}, spec: {dataSource: {kind: PersistentVolumeClaim, name: c}}}]}}`))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(Equal([]state.Reference{
		{Field: "spec.template.spec.serviceAccountName", Kind: "ServiceAccount", Name: "a"},
		{Field: "spec.serviceName", Kind: "Service", Name: "s"},
		{Field: "spec.volumeClaimTemplates[0].spec.dataSource", Kind: "PersistentVolumeClaim", Name: "c"},
	}))
	_, err = state.References(parse(t, `{kind: Pod, metadata: {name: p}, spec: {containers: none}}`))
	g.Expect(err).To(MatchError(ContainSubstring("read spec of Pod p")))
}

func TestReferenceCrossings(t *testing.T) {
	of := func(tenant string) string { return "labels: {" + tenantLabel + ": " + tenant + "}" }
	there := []string{
		`{kind: ServiceAccount, metadata: {name: default}}`,
		`{kind: ConfigMap, metadata: {name: hers, ` + of("sonar") + `}}`,
		`{kind: ConfigMap, metadata: {name: own, ` + of("beetle") + `}}`,
		`{kind: ConfigMap, metadata: {name: everybody}}`,
	}
	volume := func(metadata, fields string) string {
		return `{kind: Pod, metadata: {name: p, ` + metadata + `}, spec: {volumes: [{name: v, configMap: {` + fields + `}}]}}`
	}
	for _, row := range []struct{ name, object, want string }{
		{"its own", volume(of("beetle"), "name: own"), ""},
		{"the platform's", volume(of("beetle"), "name: everybody"), ""},
		{"another's", volume(of("beetle"), "name: hers"), `Pod /p of "beetle": spec.volumes[name=v] names the ConfigMap hers of "sonar"`},
		{"another's, though optional", volume(of("beetle"), "name: hers, optional: true"), `Pod /p of "beetle": spec.volumes[name=v] names the ConfigMap hers of "sonar"`},
		{"a tenant's, by nobody", volume("uid: '1'", "name: hers"), `Pod /p of "": spec.volumes[name=v] names the ConfigMap hers of "sonar"`},
		{"missing", volume(of("beetle"), "name: gone"), `Pod /p of "beetle": spec.volumes[name=v] names the ConfigMap gone, which does not exist`},
		{"missing and optional", volume(of("beetle"), "name: gone, optional: true"), ""},
		{"of another namespace", volume(of("beetle")+", namespace: other", "name: own"), `Pod other/p of "beetle": spec.serviceAccountName names the ServiceAccount default, which does not exist`},
		{"by a pod on its way out", volume(of("beetle")+", deletionTimestamp: '2026-01-01T00:00:00Z'", "name: hers"), ""},
		{"by a pod that has ended", `{kind: Pod, metadata: {name: p, ` + of("beetle") + `}, spec: {serviceAccountName: gone}, status: {phase: Succeeded}}`, ""},
		{"by the record of a rollout", `{kind: ReplicaSet, metadata: {name: r, ` + of("beetle") + `}, spec: {replicas: 0, template: {spec: {serviceAccountName: gone}}}}`, ""},
		{"by a job that has ended", `{kind: Job, metadata: {name: j, ` + of("beetle") + `}, spec: {template: {spec: {serviceAccountName: gone}}}, status: {completionTime: "2026-01-01T00:00:00Z"}}`, ""},
		{"by a job that has failed", `{kind: Job, metadata: {name: j, ` + of("beetle") + `}, spec: {template: {spec: {serviceAccountName: gone}}}, status: {conditions: [{type: Failed, status: "True"}]}}`, ""},
		{
			"by a template alone", `{kind: Deployment, metadata: {name: d}, spec: {template: {metadata: {` + of("beetle") + `}, spec: {volumes: [{name: v, configMap: {name: hers}}]}}}}`,
			`Deployment /d of "beetle": spec.template.spec.volumes[name=v] names the ConfigMap hers of "sonar"`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			var objects []*unstructured.Unstructured
			for _, text := range append(there[:len(there):len(there)], row.object) {
				objects = append(objects, parse(t, text))
			}
			problems, _, err := state.ReferenceCrossings(objects, tenantLabel)
			g.Expect(err).NotTo(HaveOccurred())
			if row.want == "" {
				g.Expect(problems).To(BeEmpty())
				return
			}
			g.Expect(problems).To(ContainElement(row.want))
		})
	}
	g := NewWithT(t)
	_, followed, err := state.ReferenceCrossings([]*unstructured.Unstructured{parse(t, volume(of("beetle"), "name: own")), parse(t, volume("uid: '1'", "name: own"))}, tenantLabel)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(followed).To(Equal(2))
}
