package live

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

func parsed(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	g := NewWithT(t)
	data, err := yaml.YAMLToJSON([]byte(text))
	g.Expect(err).NotTo(HaveOccurred(), text)
	out := &unstructured.Unstructured{}
	g.Expect(json.Unmarshal(data, &out.Object)).To(Succeed(), text)
	return out
}

const pod = `
apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: default
  labels:
    job: 5a1f6a2b-6a53-4f3c-9d0e-0c4de0f7f2a1
  uid: 5a1f6a2b-6a53-4f3c-9d0e-0c4de0f7f2a1
  creationTimestamp: "2026-01-01T00:00:00Z"
  resourceVersion: "7"
  generation: 1
  managedFields: [{manager: a}]
spec:
  containers:
  - name: a
    volumeMounts:
    - name: kube-api-access-x2k9z
  volumes:
  - name: kube-api-access-x2k9z
  - name: kube-api-access-of-mine
`

func TestWhatTheServerSetsMakesNoDifference(t *testing.T) {
	g := NewWithT(t)
	one, two := parsed(t, pod), parsed(t, pod)
	two.SetUID("99999999-6a53-4f3c-9d0e-0c4de0f7f2a1")
	two.SetLabels(map[string]string{"job": "99999999-6a53-4f3c-9d0e-0c4de0f7f2a1"})
	two.SetGeneration(4)
	two.SetAnnotations(map[string]string{})
	spec := two.Object["spec"].(map[string]any)
	spec["volumes"].([]any)[0].(map[string]any)["name"] = "kube-api-access-bbbbb"
	spec["containers"].([]any)[0].(map[string]any)["volumeMounts"].([]any)[0].(map[string]any)["name"] = "kube-api-access-bbbbb"
	g.Expect(difference(settled(one), settled(two))).To(BeEmpty())
	g.Expect(one.GetUID()).NotTo(BeEmpty(), "the object itself is not changed")

	spec["volumes"].([]any)[1].(map[string]any)["name"] = "kube-api-access-of-yours"
	g.Expect(difference(settled(one), settled(two))).To(ContainSubstring("-  - name: kube-api-access-of-mine\n+  - name: kube-api-access-of-yours\n"))
}

func TestTheAddressesOfAServiceAreTheServers(t *testing.T) {
	g := NewWithT(t)
	service := func(text string) *unstructured.Unstructured {
		return settled(parsed(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: "+text+"}"))
	}
	g.Expect(difference(
		service("{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80, nodePort: 30001}]}"),
		service("{clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ports: [{port: 80, nodePort: 30002}]}"),
	)).To(BeEmpty())
	g.Expect(difference(
		service("{clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}"),
		service("{clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ports: [{port: 80}]}"),
	)).To(ContainSubstring("-  clusterIP: None"))
}

func TestADifferenceShowsWhereItStands(t *testing.T) {
	want := parsed(t, "{kind: A, metadata: {name: a}, spec: {aa: 1, bb: 2, cc: 3, dd: 4, ee: 5, ff: {gg: [x, v]}, zz: 1}}")
	got := parsed(t, "{kind: A, metadata: {name: b}, spec: {aa: 1, bb: 2, cc: 3, dd: 4, ee: 5, ff: {gg: [x, w]}, zz: 1}}")
	NewWithT(t).Expect(difference(want, got)).To(Equal(`--- expected
+++ actual
 kind: A
 metadata:
-  name: a
+  name: b
 spec:
   aa: 1
   bb: 2
@@
   ff:
     gg:
     - x
-    - v
+    - w
   zz: 1
`))
}

func TestALongDifferenceLeavesOutWhatIsEqual(t *testing.T) {
	var want, got []string
	for i := range 40 {
		want = append(want, string(rune('a'+i%26))+"-line")
		got = append(got, want[i])
	}
	got[2], got[37] = "changed", "changed too"
	text := unified(want, got)
	g := NewWithT(t)
	g.Expect(text).To(HavePrefix(" a-line\n b-line\n-c-line\n+changed\n d-line\n"))
	g.Expect(text).To(ContainSubstring("@@\n"))
	g.Expect(text).NotTo(ContainSubstring(" t-line\n"))
}
