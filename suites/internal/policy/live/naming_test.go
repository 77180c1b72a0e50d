package live

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// forbidsKey is a legacy policy that can be asked for with a group.
const forbidsKey = `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: forbid-key}
spec:
  background: true
  rules:
  - name: rule
    match: {any: [{resources: {kinds: [ConfigMap]}}, {resources: {kinds: [v1/Secret]}}]}
    exclude: {any: [{resources: {namespaces: [kube-system]}}]}
    validate:
      failureAction: Enforce
      message: no such requests
      deny: {conditions: {any: [{key: a, operator: AnyIn, value: "{{ request.object.data.keys(@) }}"}]}}
`

func TestHowCopiesAreNamed(t *testing.T) {
	b := answering(t, func(w http.ResponseWriter, _ []string) { admit(w) })
	b.made = []Kind{{Kind: "Widget"}}
	legacy := func(change func(spec, rule map[string]any)) subject {
		object := parsed(t, forbidsKey)
		rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "rules")
		rule, _ := rules[0].(map[string]any)
		spec, _ := object.Object["spec"].(map[string]any)
		spec["rules"] = rules
		change(spec, rule)
		return whole(object)
	}
	kinds := func(kinds ...any) subject {
		return legacy(func(_, rule map[string]any) {
			rule["match"] = map[string]any{"resources": map[string]any{"kinds": kinds}}
		})
	}
	text := func(text string) subject {
		return legacy(func(_, rule map[string]any) { rule["context"] = text })
	}
	namespaced := kinds("ConfigMap")
	namespaced.policy.Object.SetNamespace("team")
	updates := kinds("ConfigMap")
	updates.updates = true
	pods := kinds("Pod")
	pods.podsOnly = true
	excepted := kinds("ConfigMap")
	excepted.exceptions = []*unstructured.Unstructured{parsed(t, `{kind: PolicyException, spec: {match: {any: [{subjects: [{kind: Group, name: "*"}]}]}}}`)}
	for name, one := range map[string]struct {
		subject subject
		how     string
	}{
		"as it stands":                  {legacy(func(_, _ map[string]any) {}), namedByGroup},
		"the old form of a match":       {kinds("ConfigMap"), namedByGroup},
		"Pods, and nothing else asked":  {pods, namedByGroup},
		"rules are derived":             {kinds("Pod"), namedByExtra},
		"every kind":                    {kinds("*"), namedByExtra},
		"a subresource":                 {kinds("Service/status"), namedByExtra},
		"a kind made for the session":   {kinds("ConfigMap", "Widget"), namedByExtra},
		"no kind":                       {kinds(), namedByExtra},
		"asked about updates":           {updates, namedByExtra},
		"of a namespace":                {namespaced, namedByExtra},
		"conditions of its own":         {legacy(func(spec, _ map[string]any) { spec["webhookConfiguration"] = map[string]any{} }), namedByExtra},
		"only its first rule":           {legacy(func(spec, _ map[string]any) { spec["applyRules"] = "One" }), namedByExtra},
		"a rule that changes":           {legacy(func(_, rule map[string]any) { delete(rule, "validate"); rule["mutate"] = map[string]any{} }), namedByExtra},
		"looks at who asks":             {text("{{ request.userInfo.username }}"), namedAlone},
		"looks at the whole request":    {text("{{ request }}"), namedAlone},
		"looks at what is in a request": {text("{{ request.object.spec.requests }} {{request.oldObject}}"), namedByGroup},
		"matches who asks":              {legacy(func(_, rule map[string]any) { rule["exclude"] = map[string]any{"roles": []any{"x"}} }), namedAlone},
		"an exception matches who asks": {excepted, namedAlone},
		"in CEL":                        {whole(parsed(t, twoValidations)), namedByExtra},
		"in CEL, of a group":            {whole(parsed(t, `{apiVersion: policies.kyverno.io/v1, kind: ValidatingPolicy, spec: {validations: [{expression: "'x' in request.userInfo.groups"}]}}`)), namedAlone},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(b.naming(one.subject)).To(Equal(one.how))
			s := b.newSubject(one.subject.policy, one.subject.exceptions, nil, one.subject.aspect, one.subject.updates)
			g.Expect(s.name).To(MatchRegexp("^" + copyPattern + "$"))
			g.Expect(copyNames.FindString("Policy " + s.name + " failed")).To(Equal(s.name))
		})
	}
}

func TestLegacyCopiesThatShareAWebhook(t *testing.T) {
	g := NewWithT(t)
	s := whole(parsed(t, forbidsKey))
	s.name = namedByGroup + "0123456789"
	got, err := legacyForm{}.install(s)
	g.Expect(err).NotTo(HaveOccurred())
	manifests(t, "legacy-shared.golden", got.objects)
	written, why, err := legacyForm{}.written(s)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(why).To(BeEmpty())
	manifests(t, "legacy-shared-written.golden", written)
	heard, ok := legacyForm{}.read("policy " + s.name + ".r0: !")
	g.Expect(ok).To(BeTrue())
	g.Expect(heard).To(Equal(said{copy: s.name, rule: "r", answer: Refusing}))
}

// Who looks at groups is not asked with groups that the bench made up.
func TestGroupsAreForThoseAloneWhoDoNotLookAtThem(t *testing.T) {
	g := NewWithT(t)
	var mu sync.Mutex
	var requests [][]string
	b := answering(t, nil)
	b.client = clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		groups := r.Header.Values("Impersonate-Group")
		extras := r.Header.Values("Impersonate-Extra-Fpc-Ask")
		requests = append(requests, slices.Concat(groups, []string{"/"}, extras))
		admit(w)
	})
	r := about("p0000000001", "g0000000002", "u0000000003", "wg0000000004")
	r.user = &example.User{Name: "owner", Groups: []string{"own"}}
	b.ask(t.Context(), r)
	g.Expect(requests).To(ConsistOf(
		[]string{"own", "fpc-ask:g0000000002", "fpc-ask:wg0000000004", "/", "p0000000001"},
		[]string{"own", "/", "u0000000003"},
	))

	requests = nil
	r.copies = []string{"u0000000003", "p0000000001"}
	b.ask(t.Context(), r)
	g.Expect(requests).To(Equal([][]string{{"own", "/", "u0000000003", "p0000000001"}}))
	g.Expect(r.user.Groups).To(Equal([]string{"own"}))
}
