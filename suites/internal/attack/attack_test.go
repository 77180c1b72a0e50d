package attack

import (
	"errors"
	"net/http"
	"testing"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func status(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: "Failure", Code: code, Reason: reason, Message: message}}
}

func TestAnswered(t *testing.T) {
	for _, test := range []struct {
		name    string
		answer  error
		want    string
		unknown bool
	}{
		{"nobody", nil, "nobody", false},
		{"rights", status(http.StatusForbidden, metav1.StatusReasonForbidden, `pods is forbidden: User "a" cannot create resource "pods" in API group "" in the namespace "apps"`), "rbac", false},
		{"a policy of Kyverno", status(400, "", `admission webhook "vpol.x" denied the request: Policy selector-tenancy failed: no`), "policy selector-tenancy", false},
		{"two policies of one webhook", status(400, "", `admission webhook "vpol.x" denied the request: Policy a failed: no; Policy b failed: no`), "policy a, b", false},
		{"a policy of the API server", status(403, metav1.StatusReasonForbidden, `x is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no`), "policy p", false},
		{"Pod Security", status(403, metav1.StatusReasonForbidden, `pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged`), "podsecurity", false},
		{"quota", status(403, metav1.StatusReasonForbidden, `pods "x" is forbidden: exceeded quota: apps, requested: pods=1`), "quota", false},
		{"escalation", status(403, metav1.StatusReasonForbidden, `roles "x" is forbidden: user "a" (groups=["b"]) is attempting to grant RBAC permissions not currently held:`), "escalation", false},
		{"the server's own validation", status(422, metav1.StatusReasonInvalid, `ConfigMap "x" is invalid: data[..data]: Invalid value`), "api", false},
		{"too large", status(413, metav1.StatusReasonRequestEntityTooLarge, "limit is 3145728"), "api", false},
		{"a webhook that does not answer", status(500, metav1.StatusReasonInternalError, `failed calling webhook "x": deadline`), "nobody", true},
		{"too many requests", status(429, metav1.StatusReasonTooManyRequests, "later"), "nobody", true},
		{"no connection", errors.New("connection refused"), "nobody", true},
		{"an upgrade that is not asked for", status(400, metav1.StatusReasonBadRequest, "Upgrade request required"), "nobody", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			by, unknown := answered(test.answer, []string{"selector-tenancy"})
			g.Expect(by.String()).To(Equal(test.want))
			g.Expect(unknown).To(Equal(test.unknown))
		})
	}
}

func TestConditioned(t *testing.T) {
	for _, test := range []struct{ name, ready, reason, message, want string }{
		{"ready", "True", "ReconciliationSucceeded", "Applied", "nobody"},
		{"a reference", "False", "AccessDenied", "can't access 'x', cross-namespace references have been blocked", "acl"},
		{"a build", "False", "BuildFailed", "kustomize build failed: x", "build"},
		{"a policy", "False", "ReconciliationFailed", `admission webhook "x" denied the request: Policy p failed: no`, "policy p"},
		{"rights", "False", "ReconciliationFailed", `dry-run failed (Forbidden): User "system:serviceaccount:a:b" cannot patch`, "rbac"},
		{"validation", "False", "ReconciliationFailed", `dry-run failed (Invalid): x is invalid: y`, "api"},
		{"nobody to ask", "False", "ReconciliationFailed", `dry-run failed (InternalError): failed calling webhook "x": connection refused`, "closed"},
		{"anything else", "False", "ArtifactFailed", "kustomization path not found", "flux"},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := conditioned(bootstrap.Object{Ready: test.ready, Reason: test.reason, Message: test.message}, nil)
			NewWithT(t).Expect(found.String()).To(Equal(test.want))
		})
	}
}

func TestWrong(t *testing.T) {
	a := &overlay.Attack{Layer: "policy", By: "mine", Says: "own tenant"}
	for _, test := range []struct {
		name  string
		found stop
		want  string
	}{
		{"as named", stop{"policy", "mine", "of your own tenant"}, ""},
		{"beside another", stop{"policy", "other, mine", "of your own tenant"}, ""},
		{"nobody", stop{}, "nobody refused it, and policy mine must"},
		{"another layer", stop{"rbac", "", "User cannot"}, "rbac refused it, not policy mine: User cannot"},
		{"another policy", stop{"policy", "mine-too", "of your own tenant"}, "policy mine-too refused it, not policy mine"},
		{"another reason", stop{"policy", "mine", "the name"}, `policy mine refused it without saying "own tenant": the name`},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := wrong(a, test.found)
			if test.want == "" {
				NewWithT(t).Expect(found).To(BeEmpty())
				return
			}
			NewWithT(t).Expect(found).To(ContainSubstring(test.want))
		})
	}
}

func object(kind, namespace, name, applier, uid string, data string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": kind, "data": map[string]any{"a": data},
		"metadata": map[string]any{"name": name, "namespace": namespace, "uid": uid, "labels": map[string]any{
			"kustomize.toolkit.fluxcd.io/name": applier, "kustomize.toolkit.fluxcd.io/namespace": applier,
		}},
	}}
	return o
}

func lookAt(objects ...*unstructured.Unstructured) looks {
	return looks{"dev": state.Record(objects, map[string]string{"Kustomization beetle/beetle": "beetle", "Kustomization sonar/sonar": "sonar"})}
}

func TestTouched(t *testing.T) {
	g := NewWithT(t)
	mine, theirs := object("ConfigMap", "apps", "b", "beetle", "1", "x"), object("ConfigMap", "apps", "s", "sonar", "2", "x")
	before := lookAt(mine, theirs)
	attackers := []string{"beetle"}
	g.Expect(touched(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "1", "y"), theirs), attackers)).To(BeEmpty(), "an attacker's own")
	g.Expect(touched(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "1", "y"), theirs), nil)).To(HaveLen(1))
	g.Expect(touched(before, lookAt(mine, object("ConfigMap", "apps", "s", "sonar", "3", "x")), attackers)).
		To(ConsistOf(ContainSubstring("ConfigMap apps/s of sonar was replaced")), "the victim's UID")
	g.Expect(touched(before, lookAt(mine, object("ConfigMap", "apps", "s", "beetle", "2", "x")), attackers)).To(HaveLen(1), "a takeover")
	g.Expect(touched(before, lookAt(mine, theirs, object("Kustomization", "beetle", "atk", "flux-system", "9", "")), attackers)).To(BeEmpty())

	g.Expect(left(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "7", "x"), theirs), attackers)).To(BeEmpty(), "made anew with the same content")
	g.Expect(left(before, lookAt(object("ConfigMap", "apps", "b", "beetle", "7", "y"), theirs), attackers)).To(HaveLen(1))
	g.Expect(left(before, lookAt(mine, theirs, object("Kustomization", "beetle", "atk", "flux-system", "9", "")), attackers)).To(HaveLen(1), "what was not taken back")
	g.Expect(left(before, lookAt(mine, object("ConfigMap", "apps", "s", "sonar", "3", "x")), attackers)).To(HaveLen(1))
}

func commit(id, tenant, path string) overlay.Overlay {
	return overlay.Overlay{
		ID: id, Attack: &overlay.Attack{Tenant: tenant, Layer: "build"},
		Files: map[string]map[string][]byte{"platform": {path: nil}},
	}
}

func TestRounds(t *testing.T) {
	g := NewWithT(t)
	alone := commit("ATK-F04", "beetle", "d")
	alone.Alone = true
	var got []string
	for _, round := range rounds([]overlay.Overlay{
		commit("ATK-F01", "beetle", "a"), commit("ATK-F02", "beetle", "b"), commit("ATK-F03", "sonar", "c"), alone, commit("ATK-F05", "beetle", "a"),
	}, byFlux) {
		got = append(got, ids(round))
	}
	g.Expect(got).To(Equal([]string{"ATK-F01, ATK-F02", "ATK-F03", "ATK-F05", "ATK-F04"}))
}

func TestBeyond(t *testing.T) {
	changes := []state.Change{
		{Object: "ConfigMap apps/b", Owners: []string{"beetle"}, What: "changed"},
		{Object: "ResourceQuota apps/q", Owners: []string{""}, What: "changed"},
	}
	for _, test := range []struct {
		name string
		e    overlay.Extents
		want []string
	}{
		{"within", overlay.Extents{May: []overlay.Extent{{Tenants: []string{"beetle"}}, {Tenants: []string{"platform"}, Kinds: []string{"ResourceQuota"}}}}, nil},
		{"another tenant's", overlay.Extents{May: []overlay.Extent{{Tenants: []string{"sonar", "platform"}}}}, []string{"ConfigMap apps/b of beetle changed"}},
		{"another kind", overlay.Extents{May: []overlay.Extent{{Tenants: []string{"beetle", "platform"}, Kinds: []string{"ConfigMap"}}}}, []string{"ResourceQuota apps/q of no tenant changed"}},
		{"another environment", overlay.Extents{May: []overlay.Extent{{Environments: []string{"prd"}}, {Tenants: []string{"beetle"}}}}, []string{"ResourceQuota apps/q of no tenant changed"}},
		{"less than it must", overlay.Extents{May: []overlay.Extent{{}}, Must: []overlay.Extent{{Tenants: []string{"sonar"}}}}, []string{"nothing changed of tenants [sonar], kinds [], and something must"}},
		{"must elsewhere", overlay.Extents{May: []overlay.Extent{{}}, Must: []overlay.Extent{{Tenants: []string{"sonar"}, Environments: []string{"prd"}}}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			NewWithT(t).Expect(beyond(&test.e, "dev", changes)).To(Equal(test.want))
		})
	}
	g := NewWithT(t)
	g.Expect(reached(changes)).To(Equal("changed: beetle 1, platform 1"))
	g.Expect(reached(nil)).To(Equal("nothing changed"))
}

func TestSees(t *testing.T) {
	attack := overlay.Overlay{ID: "ATK-P08", Attack: &overlay.Attack{Layer: "check", By: "POL-002", Says: "[Audit]"}}
	outcome := func(environment string, result check.Result, found string) check.Outcome {
		return check.Outcome{Check: "POL-002", Environment: environment, Result: result, Found: found}
	}
	for _, test := range []struct {
		name     string
		outcomes []check.Outcome
		want     []string
	}{
		{"in its words", []check.Outcome{outcome("dev", check.Failed, "is [Audit]")}, nil},
		{"in other words", []check.Outcome{outcome("dev", check.Failed, "gone")}, []string{`POL-002 fails without saying "[Audit]": gone`}},
		{"not", []check.Outcome{outcome("dev", check.Passed, "")}, []string{"POL-002 must fail, and does not"}},
		{"elsewhere", []check.Outcome{outcome("prd", check.Failed, "is [Audit]")}, []string{"POL-002 was not judged"}},
		{"never", []check.Outcome{outcome("dev", check.NotSupported, "")}, []string{"POL-002 was not judged"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := Verdict{Overlay: attack, Environment: "dev"}
			sees(&v, test.outcomes)
			NewWithT(t).Expect(v.Problems).To(Equal(test.want))
		})
	}
}

func TestOutcome(t *testing.T) {
	g := NewWithT(t)
	attack := overlay.Overlay{ID: "ATK-P08", Attack: &overlay.Attack{Layer: "policy", By: "p", Says: "no"}}
	for _, v := range []Verdict{
		{Overlay: attack, Environment: "dev", By: "policy p"},
		{Overlay: attack, Environment: "dev", Problems: []string{"nobody"}},
		{Overlay: attack, Environment: "dev", Unsupported: "Workloads: none"},
	} {
		g.Expect(v.Outcome().Validate()).To(Succeed())
	}
	g.Expect(Verdict{Overlay: attack, Problems: []string{"nobody"}}.Outcome().Result).To(Equal(check.Failed))
	g.Expect(Verdict{Overlay: attack, Unsupported: "x"}.Outcome().Result).To(Equal(check.NotSupported))
}

func TestNames(t *testing.T) {
	g := NewWithT(t)
	r := &runner{}
	flag := overlay.Overlay{Attack: &overlay.Attack{Layer: "acl", By: "--no-cross-namespace-refs"}}
	quota := overlay.Overlay{Attack: &overlay.Attack{Layer: "quota"}}
	g.Expect(r.names(flag, overlay.Switch{Kind: "flag", Name: "--no-cross-namespace-refs"})).To(BeTrue())
	g.Expect(r.names(flag, overlay.Switch{Kind: "flag", Name: "--no-remote-bases"})).To(BeFalse())
	g.Expect(r.names(quota, overlay.Switch{Kind: "quota"})).To(BeTrue())
	g.Expect(r.names(quota, overlay.Switch{Kind: "flag"})).To(BeFalse())
	g.Expect(groupsOf("system:serviceaccount:beetle:reconciler")).To(Equal([]string{"system:serviceaccounts", "system:serviceaccounts:beetle", "system:authenticated"}))
	g.Expect(groupsOf("jane")).To(Equal([]string{"system:authenticated"}))
}

func TestObservedGeneration(t *testing.T) {
	for _, test := range []struct {
		name    string
		status  map[string]any
		want    int64
		reports bool
	}{
		{"nothing", nil, 0, false},
		{"of a workload", map[string]any{"observedGeneration": int64(2)}, 2, true},
		{"of Flux, where it failed", map[string]any{"observedGeneration": int64(2), "conditions": []any{
			map[string]any{"type": "Reconciling", "observedGeneration": int64(9)}, map[string]any{"type": "Ready", "observedGeneration": int64(3)},
		}}, 3, true},
		{"without a generation", map[string]any{"conditions": []any{map[string]any{"type": "Ready"}}}, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			observed, reports := observedGeneration(&unstructured.Unstructured{Object: map[string]any{"status": test.status}})
			g.Expect(observed).To(Equal(test.want))
			g.Expect(reports).To(Equal(test.reports))
		})
	}
}
