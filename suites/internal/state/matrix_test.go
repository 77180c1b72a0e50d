package state_test

import (
	"encoding/json"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestActions(t *testing.T) {
	g := NewWithT(t)
	actions, err := state.Actions([]*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "pods", Namespaced: true, Verbs: metav1.Verbs{"get", "create"}},
			{Name: "pods/exec", Namespaced: true, Verbs: metav1.Verbs{"create"}},
		}},
		{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{{Name: "deployments", Namespaced: true, Verbs: metav1.Verbs{"get"}}}},
		{GroupVersion: "apps/v1beta1", APIResources: []metav1.APIResource{{Name: "deployments", Namespaced: true, Verbs: metav1.Verbs{"get", "list"}}}},
	})
	g.Expect(err).NotTo(HaveOccurred())
	var texts []string
	for _, a := range actions {
		texts = append(texts, a.String())
	}
	g.Expect(texts).To(ContainElements("get pods", "create pods/exec", "get deployments.apps", "list deployments.apps",
		"bind roles.rbac.authorization.k8s.io", "escalate clusterroles.rbac.authorization.k8s.io", "impersonate users"))
	g.Expect(texts).To(HaveLen(5 + 9))
	g.Expect(state.MissingActions(actions)).To(ConsistOf("watch", "update", "patch", "delete", "deletecollection",
		"attach", "portforward", "scale", "eviction", "ephemeralcontainers", "status", "token", "proxy"))
}

// applies is the role of the tenants in these tests, and what each of the other
// texts changes.
const (
	applies = `kind: Role, metadata: {namespace: apps, name: applies}, rules: [
		{apiGroups: [""], resources: [configmaps], verbs: [get, patch]}, {apiGroups: [""], resources: [pods], verbs: [list]}]`
	stars     = `kind: Role, metadata: {namespace: apps, name: applies}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]`
	poor      = `kind: Role, metadata: {namespace: apps, name: applies}, rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}]`
	oneOf     = `kind: Role, metadata: {namespace: apps, name: one}, rules: [{apiGroups: [""], resources: [secrets], verbs: [get], resourceNames: [tls]}]`
	bindsOne  = `kind: RoleBinding, metadata: {namespace: apps, name: one}, roleRef: {kind: Role, name: one}, subjects: [{kind: ServiceAccount, namespace: apps, name: default}]`
	binds     = `kind: RoleBinding, metadata: {namespace: apps, name: beetle}, roleRef: {kind: Role, name: applies}, subjects: [{kind: ServiceAccount, namespace: beetle, name: reconciler}]`
	basics    = `kind: ClusterRole, metadata: {name: "system:basic-user", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, rules: [{apiGroups: [authorization.k8s.io], resources: [selfsubjectaccessreviews], verbs: [create]}]`
	basically = `kind: ClusterRoleBinding, metadata: {name: "system:basic-user"}, roleRef: {kind: ClusterRole, name: "system:basic-user"}, subjects: [{kind: Group, name: "system:authenticated"}]`
)

// input is a matrix of two identities, and two tenants beside the platform, with
// what the server lists by these roles and bindings.
func input(t *testing.T, texts ...string) state.MatrixInput {
	t.Helper()
	in := state.MatrixInput{
		Places: []state.Place{
			{Victim: "beetle"},
			{Victim: "sonar"},
			{Victim: "platform"},
			{Namespace: "apps", Victim: "beetle", Shared: true},
			{Namespace: "apps", Victim: "sonar", Shared: true},
			{Namespace: "apps", Victim: "platform", Shared: true},
			{Namespace: "beetle", Victim: "beetle"},
			{Namespace: "sonar", Victim: "sonar"},
		},
		Actions: []state.Action{
			{Verb: "get", Resource: "configmaps", Namespaced: true},
			{Verb: "patch", Resource: "configmaps", Namespaced: true},
			{Verb: "list", Resource: "pods", Namespaced: true},
			{Verb: "create", Resource: "pods", Subresource: "exec", Namespaced: true},
			{Verb: "get", Resource: "secrets", Namespaced: true},
			{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
		},
		Names: map[state.Named]string{
			{Namespace: "apps", Victim: "beetle", Resource: "configmaps"}: "beetle-config",
			{Namespace: "apps", Victim: "sonar", Resource: "configmaps"}:  "sonar-config",
		},
		Rights: []state.Right{
			{Identity: "beetle/reconciler", Namespace: "apps", Resource: "configmaps", Verbs: []string{"get", "patch"}, Needed: true, Reason: "it applies them"},
			{Identity: "beetle/reconciler", Namespace: "apps", Resource: "pods", Verbs: []string{"list"}, Needed: true, Reason: "it looks at their health"},
		},
		Live: rbac(t, append(texts, basics, basically)...),
	}
	for _, a := range []struct{ namespace, name, role, tenant string }{{"beetle", "reconciler", "reconciler", "beetle"}, {"apps", "default", "workload", ""}} {
		identity := state.Identity{Name: a.namespace + "/" + a.name, Role: a.role}
		identity.User, identity.Groups = state.Account(a.namespace, a.name)
		if a.tenant != "" {
			identity.Tenants = []string{a.tenant}
		}
		in.Identities = append(in.Identities, identity)
		listed := map[string]state.Listed{}
		for _, namespace := range []string{"apps", "beetle", "sonar"} {
			l := state.Listed{Complete: true}
			for _, grant := range in.Live.Grants(a.namespace, a.name) {
				if grant.Namespace == "" || grant.Namespace == namespace {
					l.Rules = append(l.Rules, grant.Rules...)
				}
			}
			listed[namespace] = l
		}
		in.Listed = append(in.Listed, listed)
	}
	return in
}

// answered is the matrix with the answers that RBAC gives, and what the writes
// that RBAC allows are refused by.
func answered(t *testing.T, in state.MatrixInput) *state.Matrix {
	t.Helper()
	if in.Sampling.Pairs == 0 {
		in.Sampling = state.Sample(in, 1)
	}
	m, err := state.NewMatrix(in)
	if err != nil {
		t.Fatal(err)
	}
	grants := make([][]state.Grant, len(in.Identities))
	for i, identity := range in.Identities {
		grants[i] = in.Live.GrantsTo(identity.User, identity.Groups)
	}
	for i, q := range m.Requests {
		allowed := false
		for _, grant := range grants[q.Identity] {
			if grant.Namespace != "" && grant.Namespace != q.Namespace {
				continue
			}
			for _, rule := range grant.Rules {
				has := func(list []string, one string) bool {
					return strings.Contains("|"+strings.Join(list, "|")+"|*|", "|"+one+"|")
				}
				star := len(rule.Verbs) > 0 && rule.Verbs[0] == rbacv1.VerbAll
				resource := strings.TrimSuffix(q.Resource+"/"+q.Subresource, "/")
				named := len(rule.ResourceNames) == 0 || has(rule.ResourceNames, q.Name)
				allowed = allowed || star || has(rule.Verbs, q.Verb) && has(rule.APIGroups, q.Group) && has(rule.Resources, resource) && named
			}
		}
		m.Answer(i, allowed, "")
	}
	guarded, _, _ := m.Tries()
	for _, c := range guarded {
		c.RefusedBy = "guard"
	}
	return m
}

func TestMatrix(t *testing.T) {
	without := func(change func(*state.MatrixInput), texts ...string) func(*testing.T) state.MatrixInput {
		return func(t *testing.T) state.MatrixInput {
			in := input(t, texts...)
			if change != nil {
				change(&in)
			}
			return in
		}
	}
	for _, row := range []struct {
		name  string
		in    func(*testing.T) state.MatrixInput
		wants []string
	}{
		{"all as the layout says", without(nil, applies, binds), nil},
		{"a role with a star", without(nil, stars, binds), []string{
			"beetle/reconciler may, and nothing says that it should, by RoleBinding apps/beetle (Role applies), rule " +
				"{apiGroups: [*], resources: [*], verbs: [*]}: in apps, of beetle, platform, sonar, 6 cells: secrets (get), pods/exec (create)",
		}},
		{"a role of many rules", without(nil, `kind: Role, metadata: {namespace: apps, name: applies}, rules: [
			{apiGroups: [""], resources: [configmaps], verbs: [get, patch]}, {apiGroups: [""], resources: [pods], verbs: [list]}]`, binds,
			`kind: RoleBinding, metadata: {namespace: apps, name: many}, roleRef: {kind: Role, name: many}, subjects: [{kind: ServiceAccount, namespace: apps, name: default}]`,
			`kind: Role, metadata: {namespace: apps, name: many}, rules: [
			{apiGroups: [""], resources: [configmaps], verbs: [get]}, {apiGroups: [""], resources: [configmaps], verbs: [patch]},
			{apiGroups: [""], resources: [pods], verbs: [list]}, {apiGroups: [""], resources: [pods/exec], verbs: [create]}, {apiGroups: [""], resources: [secrets], verbs: [get]}]`), []string{
			"apps/default may, and nothing says that it should, by RoleBinding apps/many (Role many), 5 of its rules: " +
				"in apps, of beetle, platform, sonar, 15 cells: secrets (get), pods/exec (create), configmaps (get patch), pods (list)",
		}},
		{"a role that lacks what is needed", without(nil, poor, binds), []string{
			"beetle/reconciler may not, though it applies them; no rule of any binding grants it: in apps, of beetle, 1 cells: configmaps (patch)",
		}},
		{"no binding", without(nil, applies), []string{
			"beetle/reconciler may not, though it applies them; no rule of any binding grants it: in apps, of beetle, 2 cells: configmaps (get patch)",
			"beetle/reconciler may not, though it looks at their health; no rule of any binding grants it: in apps, of beetle, 1 cells: pods (list)",
		}},
		{"an object that only a role names", without(nil, applies, binds, oneOf, bindsOne), []string{
			"apps/default may, and nothing says that it should, by RoleBinding apps/one (Role one), rule " +
				`{apiGroups: [""], resources: [secrets], verbs: [get], resourceNames: [tls]}: in apps, of platform, 1 cells: secrets (get)`,
		}},
		{"the same, for a reason", without(func(in *state.MatrixInput) {
			in.Rights = append(in.Rights, state.Right{Identity: "apps/default", Namespace: "apps", Resource: "secrets", Verbs: []string{"get"}, Reason: "it serves TLS", Origin: "config:3"})
		}, applies, binds, oneOf, bindsOne), nil},
		{"a reason for what nobody has", without(func(in *state.MatrixInput) {
			in.Rights = append(in.Rights, state.Right{Identity: "apps/default", Namespace: "apps", Resource: "secrets", Verbs: []string{"get"}, Reason: "it serves TLS", Origin: "config:3"})
		}, applies, binds), []string{"config:3: apps/default has no right that this residual is about (secrets): take it out"}},
		{"a tenant of which nothing is known", without(func(in *state.MatrixInput) {
			in.Rights, in.Unknown = nil, map[string]string{"beetle/reconciler": "apps"}
		}, applies, binds), nil},
		{"an identity that may do nothing", without(func(in *state.MatrixInput) { in.Live.ClusterRoleBindings = nil }, applies, binds), []string{
			"apps/default may do nothing at all, not even what Kubernetes gives to everybody: that it is refused shows nothing",
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(answered(t, row.in(t)).Problems()).To(Equal(row.wants))
		})
	}
}

// Every cell is there; questions are shared where the server lists the same
// rights, and never where it does not know all.
func TestMatrixRequests(t *testing.T) {
	g := NewWithT(t)
	in := input(t, applies, binds)
	in.Sampling = state.Sample(in, 1)
	g.Expect(in.Sampling.Sampled()).To(BeFalse())
	g.Expect(in.Sampling.String()).To(Equal("every identity against every place: 16 pairs of 2 tenants"))
	m, err := state.NewMatrix(in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(m.Regular).To(Equal(2 * (5*5 + 1*3)))
	g.Expect(m.Cells).To(HaveLen(m.Regular))
	// The reconciler: in apps two names and none of two verbs, three more; the five
	// once for both other namespaces; one of the cluster. The workload the same, but
	// that apps is like the others.
	g.Expect(m.Requests).To(HaveLen((6 + 3 + 5 + 1) + (4 + 5 + 1)))
	for _, q := range m.Requests {
		g.Expect(q.Verb == "list" && q.Name != "").To(BeFalse(), "a list names no object")
	}

	for i := range in.Listed {
		for namespace, l := range in.Listed[i] {
			l.Complete = false
			in.Listed[i][namespace] = l
		}
	}
	m, err = state.NewMatrix(in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(m.Requests).To(HaveLen(2 * ((6 + 3) + 5 + 5 + 1)))

	in.Sampling = state.Sampling{}
	_, err = state.NewMatrix(in)
	g.Expect(err).To(MatchError(ContainSubstring("2 identities, and places chosen for 0")))

	in.Listed = nil
	_, err = state.NewMatrix(in)
	g.Expect(err).To(MatchError(ContainSubstring("2 identities, and rights listed for 0")))
}

func TestTries(t *testing.T) {
	g := NewWithT(t)
	m := answered(t, input(t, applies, binds))
	guarded, own, closed := m.Tries()
	texts := func(cells []*state.Cell) (out []string) {
		for _, c := range cells {
			out = append(out, m.Identities[c.Identity].Name+" "+c.String()+" "+c.Name)
		}
		return out
	}
	g.Expect(texts(guarded)).To(ConsistOf("beetle/reconciler patch configmaps sonar-config"))
	g.Expect(texts(own)).To(ConsistOf("beetle/reconciler patch configmaps beetle-config"))
	g.Expect(texts(closed)).To(ConsistOf("apps/default patch configmaps beetle-config", "apps/default patch configmaps sonar-config"))

	guarded[0].RefusedBy, guarded[0].Problem = "", "it was admitted"
	g.Expect(m.Problems()).To(ConsistOf("beetle/reconciler: patch configmaps apps/sonar-config of sonar: it was admitted"))
}

func TestTriesLeaveOutWhatIsMissing(t *testing.T) {
	g := NewWithT(t)
	guarded, own, closed := answered(t, input(t, poor, binds)).Tries()
	g.Expect(guarded).To(BeEmpty())
	g.Expect(own).To(BeEmpty(), "what is needed and denied is a surprise already")
	for _, c := range closed {
		g.Expect(c.Expected).NotTo(Equal(state.Needed))
	}
	g.Expect(closed).To(HaveLen(3))
}

func TestHeatMap(t *testing.T) {
	g := NewWithT(t)
	m := answered(t, input(t, stars, binds))
	lines := strings.Split(m.HeatMap(false), "\n")
	g.Expect(lines[:3]).To(Equal([]string{
		"who                as          beetle  sonar     platform  everybody's",
		"beetle/reconciler  reconciler  3 2!    2r 1p 2!  2r 1o 2!  1",
		"apps/default       workload    ·       ·         ·         1",
	}))
	g.Expect(lines).To(ContainElement("residual: pods (list): it looks at their health; RBAC tells objects apart by kind and name, not by whose they are"))
	g.Expect(m.HeatMap(true)).To(ContainSubstring("\x1b[31;1m2!\x1b[0m"))

	content, err := json.Marshal(m)
	g.Expect(err).NotTo(HaveOccurred())
	var read struct {
		Cells   int
		Allowed []struct {
			Identity, Verb, Kind, Victim, Expected, RefusedBy string
			By                                                []string
		}
		Denied []struct{ Kinds map[string][]string }
	}
	g.Expect(json.Unmarshal(content, &read)).To(Succeed())
	count := len(read.Allowed)
	for _, block := range read.Denied {
		for _, verbs := range block.Kinds {
			count += len(verbs)
		}
	}
	g.Expect(count).To(Equal(read.Cells), "every cell is there")
	g.Expect(read.Cells).To(Equal(len(m.Cells)))
	for _, cell := range read.Allowed {
		g.Expect(cell.By).NotTo(BeEmpty(), "%s %s", cell.Verb, cell.Kind)
	}
}

func TestPolicyWords(t *testing.T) {
	g := NewWithT(t)
	policy := parse(t, `{kind: ValidatingPolicy, spec: {validations: [{message: "the name must be\n  your own"}, {message: none of these}]}}`)
	words := state.PolicyWords(policy)
	g.Expect(words).To(HaveLen(2))
	g.Expect(state.InWords("Policy p failed: the name must be your\nown", words)).To(BeTrue())
	g.Expect(state.InWords("Policy p error: failed to compile", words)).To(BeFalse())
	made := parse(t, `{kind: ValidatingPolicy, spec: {validations: [{message: none of these}, {messageExpression: object.metadata.name}]}}`)
	g.Expect(state.PolicyWords(made)).To(BeEmpty())
	g.Expect(state.InWords("anything", nil)).To(BeTrue())
	legacy := parse(t, `{kind: ClusterPolicy, spec: {rules: [{validate: {message: "no {{ request.object.kind }}"}}]}}`)
	g.Expect(state.PolicyWords(legacy)).To(BeEmpty())
}

func TestBound(t *testing.T) {
	g := NewWithT(t)
	users, groups := rbac(t, `kind: RoleBinding, metadata: {namespace: apps, name: b}, roleRef: {kind: ClusterRole, name: view}, subjects: [
		{kind: Group, name: devs}, {kind: Group, name: "system:authenticated"}, {kind: User, name: eve}, {kind: ServiceAccount, namespace: apps, name: x}]`,
		`kind: RoleBinding, metadata: {namespace: other, name: b}, roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: Group, name: ops}]`).Bound("apps")
	g.Expect(users).To(Equal([]string{"eve"}))
	g.Expect(groups).To(Equal([]string{"devs"}))
}
