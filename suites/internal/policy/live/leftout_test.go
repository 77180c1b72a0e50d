package live

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// TestWhatKyvernoLeavesOut asks, for each object that is left out, about another
// that differs in one thing.
func TestWhatKyvernoLeavesOut(t *testing.T) {
	g := NewWithT(t)
	const webhooks = `{"namespaceSelector": {"matchExpressions": [
		{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["outside"]},
		{"key": "policies", "operator": "NotIn", "values": ["off"]}]}}`
	out, err := parseLeftOut("[*/*,kyverno,*] [*/*,kube-system,*]\n[ClusterRole,*,kyverno:*][Pod/binding,*,*] [apps/v1/ReplicaSet,*,*] [v1/Event,*] [*/scale,small,*]", webhooks)
	g.Expect(err).NotTo(HaveOccurred())
	kind := func(group, version, kind string) schema.GroupVersionKind {
		return schema.GroupVersionKind{Group: group, Version: version, Kind: kind}
	}
	configMap, namespace, pod := kind("", "v1", "ConfigMap"), kind("", "v1", "Namespace"), kind("", "v1", "Pod")
	for _, row := range []struct {
		what                         string
		kind                         schema.GroupVersionKind
		subresource, namespace, name string
		labels                       map[string]string
		says                         string
	}{
		{"in a namespace of Kubernetes' own", configMap, "", "kube-system", "a", nil, "resourceFilters [*/*,kube-system,*]"},
		{"in another", configMap, "", "kube-other", "a", nil, ""},
		{"the namespace itself", namespace, "", "", "kube-system", nil, "resourceFilters [*/*,kube-system,*]"},
		{"another namespace", namespace, "", "", "kube-other", nil, ""},
		{"of a name", kind("rbac.authorization.k8s.io", "v1", "ClusterRole"), "", "", "kyverno:a", nil, "resourceFilters [ClusterRole,*,kyverno:*]"},
		{"of another name", kind("rbac.authorization.k8s.io", "v1", "ClusterRole"), "", "", "other:a", nil, ""},
		{"a subresource", pod, "binding", "default", "a", nil, "[Pod/binding,*,*]"},
		{"the object itself", pod, "", "default", "a", nil, ""},
		{"a subresource of any kind", kind("apps", "v1", "Deployment"), "scale", "small", "a", nil, "[*/scale,small,*]"},
		{"the same elsewhere", kind("apps", "v1", "Deployment"), "scale", "large", "a", nil, ""},
		{"of a group", kind("apps", "v1", "ReplicaSet"), "", "default", "a", nil, "[apps/v1/ReplicaSet,*,*]"},
		{"of another group", kind("other", "v1", "ReplicaSet"), "", "default", "a", nil, ""},
		{"of a version, without a name", kind("", "v1", "Event"), "", "default", "", nil, "[v1/Event,*]"},
		{"of another version", kind("", "v2", "Event"), "", "default", "", nil, ""},
		{"where no webhook asks", configMap, "", "outside", "a", nil, "leaves the namespace outside out"},
		{"a namespace about which none asks", namespace, "", "", "outside", nil, "leaves the namespace outside out"},
		{"by the labels of its namespace", configMap, "", "inside", "a", map[string]string{"policies": "off"}, "leaves the namespace inside out"},
		{"by others", configMap, "", "inside", "a", map[string]string{"policies": "on"}, ""},
		{"in no namespace", kind("", "v1", "Node"), "", "", "a", nil, ""},
	} {
		why := out.why(row.kind, row.subresource, row.namespace, row.name, row.labels)
		if row.says == "" {
			g.Expect(why).To(BeEmpty(), row.what)
		} else {
			g.Expect(why).To(ContainSubstring(row.says), row.what)
		}
	}
	_, err = parseLeftOut("", "{")
	g.Expect(err).To(MatchError(ContainSubstring("its webhooks")))
	none, err := parseLeftOut("", "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(none.why(configMap, "", "kube-system", "a", nil)).To(BeEmpty())
}

// A policy of Kubernetes' own judges what Kyverno leaves out.
func TestKyvernoLeavesNothingOutOfOthersPolicies(t *testing.T) {
	g := NewWithT(t)
	out, err := parseLeftOut("[*/*,kube-system,*]", "")
	g.Expect(err).NotTo(HaveOccurred())
	b := &Bench{leftOut: out}
	for version, says := range map[string]string{admissionGroup + "/v1": "", celGroup + "/v1": "kube-system"} {
		e := &example.Example{
			Test: &example.Test{}, Policy: &example.Policy{Object: &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": "Any"}}},
			Object: parsed(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: kube-system}}"),
		}
		if says == "" {
			g.Expect(b.unreachable(e)).To(BeEmpty())
		} else {
			g.Expect(b.unreachable(e)).To(ContainSubstring(says))
		}
	}
}
