package attack

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

func TestConditionedOff(t *testing.T) {
	webhooks := []any{
		map[string]any{"name": "vpol.validate.kyverno.svc-fail-finegrained-capacity", "matchConditions": []any{map[string]any{"name": "tenant"}, map[string]any{"name": switchedOff}}},
		map[string]any{"name": "vpol.validate.kyverno.svc-fail-finegrained-config-content", "matchConditions": []any{map[string]any{"name": "tenant"}}},
		map[string]any{"name": "vpol.validate.kyverno.svc-fail"},
	}
	for _, test := range []struct {
		policy     string
		off, known bool
	}{{"capacity", true, true}, {"config-content", false, true}, {"city", false, false}, {"", false, false}} {
		t.Run(test.policy, func(t *testing.T) {
			g := NewWithT(t)
			off, known := conditionedOff(webhooks, test.policy)
			g.Expect(off).To(Equal(test.off))
			g.Expect(known).To(Equal(test.known))
		})
	}
}

// Flux cannot be of this run's group: the accounts that it applies attacks with get
// what the group has, each once.
func TestForAccounts(t *testing.T) {
	g := NewWithT(t)
	const group = "off:rbac"
	binding := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "off"}, "roleRef": map[string]any{"name": "cluster-admin"},
		"subjects": []any{map[string]any{"kind": "Group", "name": group}},
	}}
	layer := overlay.Overlay{ID: "LAY-004", Layer: &overlay.Switch{Kind: "rbac", Group: group}, Objects: []overlay.Send{{Manifest: binding}}}
	in := func(namespace string) overlay.Overlay {
		return overlay.Overlay{Attack: &overlay.Attack{Where: &overlay.Where{Namespace: namespace}}}
	}
	got := forAccounts(layer, []overlay.Overlay{in("beetle"), in("beetle"), in("flux-system"), {Attack: &overlay.Attack{}}})
	var names, groups []string
	for _, object := range got.Objects {
		names = append(names, object.Manifest.GetName())
		value, _ := overlay.Field(object.Manifest.Object, "subjects[0].name")
		text, _ := value.(string)
		groups = append(groups, text)
	}
	g.Expect(names).To(Equal([]string{"off-beetle", "off-flux-system"}))
	g.Expect(groups).To(Equal([]string{"system:serviceaccounts:beetle", "system:serviceaccounts:flux-system"}))
	name, _ := overlay.Field(binding.Object, "subjects[0].name")
	g.Expect(name).To(Equal(group), "the layer itself stays as it is")
	layer.Layer.Group = ""
	g.Expect(forAccounts(layer, []overlay.Overlay{in("beetle")}).Objects).To(BeEmpty(), "off for everybody")
}

// Policies and layers that no attack names are named, also those that can be named
// by none.
func TestNeedless(t *testing.T) {
	g := NewWithT(t)
	policy := func(kind, name string) platform.Object {
		return platform.Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{"kind": kind, "metadata": map[string]any{"name": name}}}}
	}
	r := &runner{
		in: Input{Layers: []overlay.Overlay{{Layer: &overlay.Switch{Kind: "flag", Name: "--needed"}}, {Layer: &overlay.Switch{Kind: "flag", Name: "--idle"}}, {Layer: &overlay.Switch{Kind: "quota"}}}},
		sites: []*site{{declared: &platform.Environment{Policies: []platform.Object{
			policy("ValidatingPolicy", "needed"), policy("ValidatingPolicy", "idle"), policy("MutatingPolicy", "defaults"),
		}}}},
	}
	g.Expect(r.needless([]overlay.Overlay{
		{Attack: &overlay.Attack{Layer: "policy", By: "needed"}}, {Attack: &overlay.Attack{Layer: "build", By: "--needed"}}, {Change: &overlay.Extents{}},
	})).To(Equal([]string{"flag --idle", "policy defaults (a MutatingPolicy: it refuses nothing)", "policy idle", "quota"}))
}

func TestAppliedByAttack(t *testing.T) {
	g := NewWithT(t)
	g.Expect(appliedByAttack(object("ConfigMap", "apps", "b", "atk-f24", "1", "x"))).To(BeTrue())
	g.Expect(appliedByAttack(object("ConfigMap", "apps", "atk-b", "beetle", "1", "x"))).To(BeFalse(), "its own name says nothing")
	g.Expect(appliedByAttack(&unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "atk-b"}}})).To(BeFalse(), "nobody applied it")
}
