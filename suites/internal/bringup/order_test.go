package bringup

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	metadatafake "k8s.io/client-go/metadata/fake"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy"
)

func declared(apiVersion, kind, namespace, name string) platform.Object {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	o.SetNamespace(namespace)
	o.SetName(name)
	return platform.Object{Unstructured: o}
}

// metadataOf is an object as a watch of metadata tells of it.
func metadataOf(apiVersion, kind, namespace, name string, labels map[string]string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
	}
}

// underTest is an environment with a policy that has an example, one that has
// none, and one that changes objects; and with two tenants.
func underTest() (*platform.Environment, []policy.Case) {
	tenant := func(name string) *platform.Tenant {
		k := declared("kustomize.toolkit.fluxcd.io/v1", "Kustomization", name, "app")
		return &platform.Tenant{
			Name: name, Kustomizations: []*platform.Kustomization{{Object: k}},
			Objects: []platform.Object{declared("v1", "ConfigMap", "apps", name)},
		}
	}
	environment := &platform.Environment{
		Name: "dev", Tenants: []*platform.Tenant{tenant("beetle"), tenant("sonar")},
		Policies: []platform.Object{
			declared("policies.kyverno.io/v1", "ValidatingPolicy", "", "names"),
			declared("policies.kyverno.io/v1", "ValidatingPolicy", "", "labels"),
			declared("policies.kyverno.io/v1", "MutatingPolicy", "", "defaults"),
		},
	}
	example := declared("v1", "ConfigMap", "apps", "wrong").Unstructured
	return environment, []policy.Case{
		{Test: "names", Policy: "names", Operation: policy.Create, Object: example, User: "someone"},
		{Test: "names", Policy: "names", Operation: policy.Delete, Object: example, User: "someone", Denied: true},
		{Test: "names", Policy: "names", Operation: policy.Create, Object: example, User: "someone", Denied: true, Message: "no"},
		{Test: "labels", Policy: "labels", Operation: policy.Delete, Object: example, User: "someone", Denied: true},
	}
}

func newMetadata(t *testing.T) *metadatafake.FakeMetadataClient {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return metadatafake.NewSimpleMetadataClient(scheme)
}

func create(t *testing.T, objects metadata.Interface, resource schema.GroupVersionResource, o *metav1.PartialObjectMetadata) {
	t.Helper()
	made, ok := objects.Resource(resource).Namespace(o.Namespace).(metadatafake.MetadataClient)
	if !ok {
		t.Fatal("the fake client cannot create")
	}
	if _, err := made.CreateFake(o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	policies   = schema.GroupVersionResource{Group: "policies.kyverno.io", Version: "v1", Resource: "validatingpolicies"}
)

func TestOrder(t *testing.T) {
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(10 * time.Second)
	objects := newMetadata(t)
	var asked, inForce atomic.Int32
	w := newOrderWatch(objects, func(c policy.Case) (client.Client, error) {
		g.Expect(c.User).To(Equal("someone"))
		return fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithInterceptorFuncs(interceptor.Funcs{
			Create: func(_ context.Context, _ client.WithWatch, _ client.Object, options ...client.CreateOption) error {
				g.Expect(options).To(ContainElement(client.DryRunAll))
				switch asked.Add(1); {
				case asked.Load() == 1:
					return nil
				case inForce.Load() == 0:
					return errors.New(`failed calling webhook "vpol.validate.kyverno.svc-fail": connection refused`)
				}
				return errors.New("denied the request: Policy names failed: no")
			},
		}).Build(), nil
	})
	environment, cases := underTest()
	w.begin(t.Context(), environment, cases)
	seen := func() (object string, refused bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.order.Tenants[0].Object, w.order.Policies[0].Refused != nil
	}
	g.Consistently(asked.Load, "300ms").Should(BeZero(), "nobody is asked of a policy that is not there")
	create(t, objects, policies, metadataOf("policies.kyverno.io/v1", "ValidatingPolicy", "", "names", nil))
	g.Eventually(asked.Load).Should(BeNumerically(">=", 2))
	create(t, objects, configMaps, metadataOf("v1", "ConfigMap", "apps", "of-nobody", nil))
	create(t, objects, configMaps, metadataOf("v1", "ConfigMap", "apps", "of-the-platform", map[string]string{
		"kustomize.toolkit.fluxcd.io/name": "flux-system", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
	}))
	create(t, objects, configMaps, metadataOf("v1", "ConfigMap", "apps", "beetle", map[string]string{
		"kustomize.toolkit.fluxcd.io/name": "app", "kustomize.toolkit.fluxcd.io/namespace": "beetle",
	}))
	g.Eventually(func() string { object, _ := seen(); return object }).Should(Equal("ConfigMap apps/beetle"))
	inForce.Store(1)
	g.Eventually(func() bool { _, refused := seen(); return refused }).Should(BeTrue())
	before := asked.Load()
	g.Consistently(asked.Load, "300ms").Should(Equal(before), "who has been refused is not asked again")

	found := w.end()
	g.Expect(found.Policies).To(HaveLen(2), "a policy that changes objects refuses none")
	names, labels := found.Policies[0], found.Policies[1]
	g.Expect(names.Example).To(Equal("names (CREATE of ConfigMap wrong by names)"))
	g.Expect(*names.Present).To(BeNumerically("<=", *names.Admitted))
	g.Expect(*names.Admitted).To(BeNumerically("<", found.Tenants[0].At), "a webhook that nobody answers admits nothing")
	g.Expect(*names.Refused).To(BeNumerically(">", found.Tenants[0].At))
	g.Expect(labels.Unasked).To(Equal("it has no example of which it refuses the creation"))
	g.Expect(found.Tenants[1]).To(Equal(FirstObject{Tenant: "sonar"}))
	g.Expect(found.Until).To(BeNumerically(">=", *names.Refused))
}
