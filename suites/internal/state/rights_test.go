package state_test

import (
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

const api = "apiVersion: rbac.authorization.k8s.io/v1, "

func rbac(t testing.TB, texts ...string) state.RBAC {
	t.Helper()
	var objects []*unstructured.Unstructured
	for _, text := range texts {
		objects = append(objects, parse(t, "{"+api+text+"}"))
	}
	out, err := state.ReadRBAC(objects)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func rules(t *testing.T, text string) []rbacv1.PolicyRule { return into[[]rbacv1.PolicyRule](t, text) }

const (
	reader     = `kind: Role, metadata: {namespace: apps, name: reader}, rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]`
	reads      = `kind: RoleBinding, metadata: {namespace: apps, name: reads}, roleRef: {kind: Role, name: reader}, subjects: [{kind: ServiceAccount, namespace: beetle, name: reconciler}]`
	lists      = `kind: ClusterRole, metadata: {name: lister}, rules: [{apiGroups: [""], resources: [secrets], verbs: [get, list]}]`
	listsAll   = `kind: ClusterRoleBinding, metadata: {name: lists}, roleRef: {kind: ClusterRole, name: lister}, subjects: [{kind: Group, name: "system:serviceaccounts:beetle"}]`
	everybody  = `kind: ClusterRole, metadata: {name: "system:basic-user", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, rules: [{nonResourceURLs: [/healthz], verbs: [get]}]`
	forall     = `kind: ClusterRoleBinding, metadata: {name: "system:basic-user", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, roleRef: {kind: ClusterRole, name: "system:basic-user"}, subjects: [{kind: Group, name: "system:authenticated"}]`
	pretending = `kind: ClusterRoleBinding, metadata: {name: debug, labels: {kubernetes.io/bootstrapping: rbac-defaults}}, roleRef: {kind: ClusterRole, name: lister}, subjects: [{kind: Group, name: "system:authenticated"}]`
)

func TestGrants(t *testing.T) {
	binding := func(subject string) string {
		return `kind: RoleBinding, metadata: {namespace: apps, name: reads}, roleRef: {kind: Role, name: reader}, subjects: [` + subject + `]`
	}
	for _, row := range []struct {
		name, subject string
		want          bool
	}{
		{"the account", "{kind: ServiceAccount, namespace: beetle, name: reconciler}", true},
		{"an account of that name elsewhere", "{kind: ServiceAccount, namespace: sonar, name: reconciler}", false},
		{"an account without a namespace", "{kind: ServiceAccount, name: reconciler}", false},
		{"its user", `{kind: User, name: "system:serviceaccount:beetle:reconciler"}`, true},
		{"the accounts of its namespace", `{kind: Group, name: "system:serviceaccounts:beetle"}`, true},
		{"all accounts", `{kind: Group, name: "system:serviceaccounts"}`, true},
		{"everybody", `{kind: Group, name: "system:authenticated"}`, true},
		{"the accounts of another namespace", `{kind: Group, name: "system:serviceaccounts:sonar"}`, false},
		{"administrators", `{kind: Group, name: "system:masters"}`, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			grants := rbac(t, reader, binding(row.subject)).Grants("beetle", "reconciler")
			if !row.want {
				NewWithT(t).Expect(grants).To(BeEmpty())
				return
			}
			NewWithT(t).Expect(grants).To(Equal([]state.Grant{{
				Binding: "RoleBinding apps/reads", Role: "Role reader", Namespace: "apps", Rules: rules(t, `[{apiGroups: [""], resources: [configmaps], verbs: [get]}]`),
			}}))
		})
	}
}

func TestGrantsCollectAggregatedRoles(t *testing.T) {
	found := rbac(t, `kind: ClusterRole, metadata: {name: all}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: all}}]}`,
		`kind: ClusterRole, metadata: {name: part, labels: {to: all}}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]`,
		`kind: ClusterRole, metadata: {name: apart, labels: {to: none}}, rules: [{apiGroups: [""], resources: [secrets], verbs: [get]}]`,
		`kind: ClusterRoleBinding, metadata: {name: b}, roleRef: {kind: ClusterRole, name: all}, subjects: [{kind: Group, name: "system:authenticated"}]`).Grants("beetle", "reconciler")
	g := NewWithT(t)
	g.Expect(found).To(HaveLen(1))
	g.Expect(found[0].Rules).To(Equal(rules(t, `[{apiGroups: [""], resources: [pods], verbs: [get]}]`)))
}

func TestExcess(t *testing.T) {
	const configMaps = `[{apiGroups: [""], resources: [configmaps], verbs: [get]}, {nonResourceURLs: [/healthz], verbs: [get]}]`
	const healthz = `[{nonResourceURLs: [/healthz], verbs: [get]}]`
	for _, row := range []struct {
		name   string
		live   []string
		rights map[string]string
		want   []string
	}{
		{"no more than declared", nil, map[string]string{"apps": configMaps, "other": healthz}, nil},
		{
			"a role in a namespace where it does not hold",
			[]string{reader, `kind: RoleBinding, metadata: {namespace: other, name: copy}, roleRef: {kind: ClusterRole, name: gone}, subjects: [{kind: ServiceAccount, namespace: beetle, name: reconciler}]`},
			map[string]string{"apps": configMaps, "other": configMaps},
			[]string{"no binding that is there now grants in other: get configmaps"},
		},
		{
			"a binding of the cluster",
			[]string{lists, listsAll},
			map[string]string{"apps": `[{apiGroups: [""], resources: [secrets], verbs: [get, list]}]`, "other": `[{apiGroups: [""], resources: [secrets], verbs: [get, list]}]`},
			[]string{"ClusterRoleBinding lists (ClusterRole lister) grants in every namespace: get secrets; list secrets"},
		},
		{
			"a role that was made wider",
			[]string{`kind: Role, metadata: {namespace: apps, name: reader}, rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}, {apiGroups: [apps], resources: [deployments], verbs: [delete], resourceNames: [x]}]`, reads},
			map[string]string{"apps": `[{apiGroups: [apps], resources: [deployments], verbs: [delete], resourceNames: [x]}]`},
			[]string{"RoleBinding apps/reads (Role reader) grants in apps: delete deployments.apps named x"},
		},
		{
			"a binding that pretends to be Kubernetes' own",
			[]string{lists, pretending},
			map[string]string{"apps": `[{apiGroups: [""], resources: [secrets], verbs: [get]}]`},
			[]string{"ClusterRoleBinding debug (ClusterRole lister) grants in apps: get secrets"},
		},
		{
			"an address", nil,
			map[string]string{"apps": `[{nonResourceURLs: [/metrics], verbs: [get]}]`},
			[]string{"no binding that is there now grants in apps: get /metrics"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			live := rbac(t, append(row.live, everybody, forall)...)
			declared := rbac(t, reader, reads).With(live.Defaults())
			excess := state.NewExcess(declared.Grants("beetle", "reconciler"), live.Grants("beetle", "reconciler"))
			for namespace, may := range row.rights {
				excess.Add(namespace, rules(t, may))
			}
			NewWithT(t).Expect(excess.Problems()).To(Equal(row.want))
		})
	}
}

func TestReadRBACNamesWhatItCannotRead(t *testing.T) {
	_, err := state.ReadRBAC([]*unstructured.Unstructured{parse(t, "{"+api+"kind: Role, metadata: {namespace: apps, name: r}, rules: none}")})
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("read Role apps/r")))
}
