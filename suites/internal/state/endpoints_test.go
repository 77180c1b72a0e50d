package state_test

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func endpointsInput(t *testing.T) *state.EndpointsInput {
	return &state.EndpointsInput{
		Tenant: "beetle", TenantLabel: tenantLabel,
		Service: into[corev1.Service](t, `
metadata: {name: s, uid: "1"}
spec: {selector: {app: x}}
`),
		Pods: []corev1.Pod{
			into[corev1.Pod](t, `
metadata: {name: a, uid: "2", labels: {app: x, toolkit.fluxcd.io/tenant: beetle}}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
`),
			into[corev1.Pod](t, `
metadata: {name: b, uid: "3", labels: {app: y, toolkit.fluxcd.io/tenant: sonar}}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: "True"}]}
`),
		},
		Slices: []discoveryv1.EndpointSlice{into[discoveryv1.EndpointSlice](t, `
metadata:
  name: s-1
  labels: {kubernetes.io/service-name: s, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}
  ownerReferences: [{apiVersion: v1, kind: Service, name: s, uid: "1", controller: true}]
addressType: IPv4
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: a, uid: "2"}}
ports: [{name: http, port: 80}]
`)},
	}
}

func TestEndpointFindings(t *testing.T) {
	endpoint := func(in *state.EndpointsInput) *discoveryv1.Endpoint { return &in.Slices[0].Endpoints[0] }
	for _, row := range []struct {
		name    string
		change  func(*state.EndpointsInput)
		want    []string
		passing bool
	}{
		{"exactly the tenant's pods", func(*state.EndpointsInput) {}, nil, false},
		{
			"a pod on its way out", func(in *state.EndpointsInput) {
				gone := in.Pods[0].DeepCopy()
				gone.Name, gone.UID, gone.DeletionTimestamp = "c", "4", &metav1.Time{Time: time.Unix(1, 0)}
				in.Pods = append(in.Pods, *gone)
				in.Slices[0].Endpoints = append(in.Slices[0].Endpoints, discoveryv1.Endpoint{
					Addresses: []string{"10.0.0.9"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "c", UID: "4"},
				})
			}, nil, false,
		},
		{
			"another tenant's pod is selected", func(in *state.EndpointsInput) { in.Pods[1].Labels["app"] = "x" },
			[]string{`it selects Pod b, which is of "sonar"`},
			false,
		},
		{
			"nobody is selected", func(in *state.EndpointsInput) {
				in.Service.Spec.Selector = map[string]string{"app": "z"}
				in.Slices = nil
			}, []string{`its selector map[app:z] matches no pod of the tenant`}, true,
		},
		{
			"nobody is declared", func(in *state.EndpointsInput) { in.Pods, in.Slices, in.Empty = nil, nil, true }, nil, false,
		},
		{
			"a pod is missing", func(in *state.EndpointsInput) { in.Slices[0].Endpoints = nil },
			[]string{"no EndpointSlice holds Pod a (10.0.0.1)"},
			true,
		},
		{
			"an endpoint of somebody else", func(in *state.EndpointsInput) {
				in.Slices[0].Endpoints = append(in.Slices[0].Endpoints, discoveryv1.Endpoint{
					Addresses: []string{"10.0.0.2"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "b", UID: "3"},
				})
			}, []string{"EndpointSlice s-1: 10.0.0.2 is Pod b, which is no pod of the tenant that the Service selects"}, true,
		},
		{
			"an address of somebody else", func(in *state.EndpointsInput) { endpoint(in).Addresses = []string{"10.0.0.2"} },
			[]string{"EndpointSlice s-1: 10.0.0.2 is said to be Pod a, which has 10.0.0.1"},
			true,
		},
		{
			"an endpoint without a pod", func(in *state.EndpointsInput) { endpoint(in).TargetRef = nil },
			[]string{"EndpointSlice s-1: 10.0.0.1 is no pod", "no EndpointSlice holds Pod a (10.0.0.1)"},
			true,
		},
		{
			"a pod that is not ready", func(in *state.EndpointsInput) { in.Pods[0].Status.Conditions = nil },
			[]string{"EndpointSlice s-1: Pod a is said to be ready: true, it is: false"},
			true,
		},
		{
			"a port that no pod has", func(in *state.EndpointsInput) { in.Slices[0].Ports[0].Port = nil },
			[]string{"EndpointSlice s-1: a port of the Service (http) is none of the pods'"},
			true,
		},
		{
			"a slice of somebody's making", func(in *state.EndpointsInput) {
				in.Slices = append(in.Slices, into[discoveryv1.EndpointSlice](t, `
metadata: {name: forged, labels: {kubernetes.io/service-name: s, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.7]}]
`))
			}, []string{"EndpointSlice forged claims the Service, and is not kept by endpointslice-controller.k8s.io: it sends to 10.0.0.7"}, false,
		},
		{
			"a slice of another Service", func(in *state.EndpointsInput) {
				other := in.Slices[0].DeepCopy()
				other.Labels["kubernetes.io/service-name"] = "t"
				other.Endpoints[0].Addresses = []string{"10.0.0.8"}
				in.Slices = append(in.Slices, *other)
			}, nil, false,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			in := endpointsInput(t)
			row.change(in)
			var texts []string
			for _, finding := range state.EndpointFindings(*in) {
				texts = append(texts, finding.Text)
				g.Expect(finding.Passing).To(Equal(row.passing))
			}
			g.Expect(texts).To(Equal(row.want))
		})
	}
}
