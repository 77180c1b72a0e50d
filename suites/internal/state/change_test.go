package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestChanges(t *testing.T) {
	const (
		labels     = "labels: {kustomize.toolkit.fluxcd.io/namespace: beetle, kustomize.toolkit.fluxcd.io/name: beetle}"
		deployment = "{kind: Deployment, metadata: {namespace: apps, name: d, uid: u, generation: 1, " + labels + "}, spec: {replicas: 1}}"
		replicaSet = "{kind: ReplicaSet, metadata: {namespace: apps, name: r, uid: r, ownerReferences: [{uid: u}]}, spec: {replicas: 1}}"
		pod        = "{kind: Pod, metadata: {namespace: apps, name: p, uid: p, ownerReferences: [{uid: r}]}, spec: {node: n}}"
		service    = "{kind: Service, metadata: {namespace: apps, name: s, uid: s, " + labels + "}}"
		endpoints  = "{kind: Endpoints, metadata: {namespace: apps, name: s, uid: e, generation: 3}, subsets: [a]}"
		quota      = "{kind: ResourceQuota, metadata: {namespace: apps, name: q, uid: q}, spec: {hard: 1}, status: {used: 1}}"
	)
	all := []string{deployment, replicaSet, pod, service, endpoints, quota}
	with := func(objects ...string) []string { return objects }
	for _, row := range []struct {
		name          string
		before, after []string
		want          []string
		derived       bool
	}{
		{"nothing", all, all, nil, false},
		{
			"what became of them is no change", with(deployment, quota),
			with(
				"{kind: Deployment, metadata: {namespace: apps, name: d, uid: u, generation: 1, resourceVersion: '7', managedFields: [{manager: x}], annotations: {reconcile.fluxcd.io/requestedAt: now}, "+labels+"}, spec: {replicas: 1}, status: {x: 1}}",
				"{kind: ResourceQuota, metadata: {namespace: apps, name: q, uid: q}, spec: {hard: 1}, status: {used: 2}}",
				"{kind: Event, metadata: {namespace: apps, name: n}}",
				"{kind: Lease, metadata: {namespace: apps, name: n}}",
				"{kind: PolicyReport, metadata: {namespace: apps, name: n}}",
				"{kind: Pod, metadata: {namespace: apps, name: going, deletionTimestamp: '2026-01-01T00:00:00Z'}}",
			), nil, false,
		},
		{
			"endpoints follow pods", with(service, endpoints),
			with(service, "{kind: Endpoints, metadata: {namespace: apps, name: s, uid: e, generation: 4, annotations: {endpoints.kubernetes.io/last-change-trigger-time: now}}, subsets: [b]}"),
			nil, false,
		},
		{
			"another generation", with(deployment),
			with("{kind: Deployment, metadata: {namespace: apps, name: d, uid: u, generation: 2, " + labels + "}, spec: {replicas: 2}}"),
			[]string{"Deployment apps/d of beetle went from generation 1 to 2: spec.replicas: 1, now 2"},
			false,
		},
		{
			"other content", with(quota),
			with("{kind: ResourceQuota, metadata: {namespace: apps, name: q, uid: q}, spec: {a: 1, b: 2, c: 3, d: 4}}"),
			[]string{"ResourceQuota apps/q of no tenant changed: spec.a: absent, now 1, spec.b: absent, now 2, spec.c: absent, now 3, and 2 more fields"},
			false,
		},
		{
			"another object of the same name and content", with(service),
			with("{kind: Service, metadata: {namespace: apps, name: s, uid: s2, " + labels + "}}"),
			[]string{"Service apps/s of beetle was replaced by another of that name"},
			false,
		},
		{
			"an object of another Kustomization", with(service),
			with("{kind: Service, metadata: {namespace: apps, name: s, uid: s, labels: {kustomize.toolkit.fluxcd.io/namespace: sonar, kustomize.toolkit.fluxcd.io/name: sonar}}}"),
			[]string{
				`Service apps/s of beetle and sonar changed: metadata.labels.kustomize.toolkit.fluxcd.io/name: "beetle", now "sonar", ` +
					`metadata.labels.kustomize.toolkit.fluxcd.io/namespace: "beetle", now "sonar"`,
			},
			false,
		},
		{"one that went", with(deployment, replicaSet, pod), with(deployment, replicaSet), []string{"Pod apps/p of beetle is gone"}, true},
		{"one that came", with(service), with(service, endpoints), []string{"Endpoints apps/s of beetle is new"}, true},
		{"one of nobody that came", nil, with(replicaSet), []string{"ReplicaSet apps/r of no tenant is new"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			record := func(texts []string) state.Snapshot {
				var objects []*unstructured.Unstructured
				for _, text := range texts {
					object := &unstructured.Unstructured{}
					data, err := yaml.YAMLToJSON([]byte(text))
					g.Expect(err).NotTo(HaveOccurred())
					g.Expect(json.Unmarshal(data, &object.Object)).To(Succeed())
					objects = append(objects, object)
				}
				return state.Record(objects, map[string]string{"Kustomization beetle/beetle": "beetle", "Kustomization sonar/sonar": "sonar"})
			}
			var found []string
			for _, change := range state.Changes(record(row.before), record(row.after)) {
				found = append(found, change.String())
				g.Expect(change.Derived).To(Equal(row.derived))
			}
			g.Expect(found).To(Equal(row.want))
		})
	}
}
