package state_test

import (
	"strings"
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
	everybody  = `kind: ClusterRole, metadata: {name: "system:public-info-viewer", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, rules: [{nonResourceURLs: [/healthz], verbs: [get]}]`
	forall     = `kind: ClusterRoleBinding, metadata: {name: "system:public-info-viewer", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, roleRef: {kind: ClusterRole, name: "system:public-info-viewer"}, subjects: [{kind: Group, name: "system:authenticated"}]`
	pretending = `kind: ClusterRoleBinding, metadata: {name: "system:debug", labels: {kubernetes.io/bootstrapping: rbac-defaults}}, roleRef: {kind: ClusterRole, name: lister}, subjects: [{kind: Group, name: "system:authenticated"}]`
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
			[]string{"ClusterRoleBinding system:debug (ClusterRole lister) grants in apps: get secrets"},
		},
		{
			"a role of Kubernetes' own that was made wider",
			[]string{strings.Replace(everybody, "rules: [", `rules: [{apiGroups: [""], resources: [secrets], verbs: [get]}, `, 1)},
			map[string]string{"apps": `[{apiGroups: [""], resources: [secrets], verbs: [get]}]`},
			[]string{"ClusterRoleBinding system:public-info-viewer (ClusterRole system:public-info-viewer) grants in apps: get secrets"},
		},
		{
			"a binding of Kubernetes' own with one more group",
			[]string{
				strings.Replace(strings.ReplaceAll(forall, "system:public-info-viewer", "system:discovery"), "system:authenticated", "system:serviceaccounts:beetle", 1),
				strings.ReplaceAll(everybody, "system:public-info-viewer", "system:discovery"),
			},
			map[string]string{"apps": `[{nonResourceURLs: [/apis], verbs: [get]}]`},
			[]string{"no binding that is there now grants in apps: get /apis"},
		},
		{
			"an address", nil,
			map[string]string{"apps": `[{nonResourceURLs: [/metrics], verbs: [get]}]`},
			[]string{"no binding that is there now grants in apps: get /metrics"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			texts := row.live
			if len(texts) == 0 || !strings.Contains(texts[0], "system:public-info-viewer") {
				texts = append(texts, everybody)
			}
			live := rbac(t, append(texts, forall)...)
			declared := rbac(t, reader, reads).With(live.Defaults())
			excess := state.NewExcess(declared.Grants("beetle", "reconciler"), live.Grants("beetle", "reconciler"))
			for namespace, may := range row.rights {
				excess.Add(namespace, rules(t, may))
			}
			NewWithT(t).Expect(excess.Problems()).To(Equal(row.want))
		})
	}
}

// A role that collects others is no more than what Kubernetes and the platform put
// into it, whatever has been collected.
func TestDefaultsOfWhatWasCollected(t *testing.T) {
	const (
		written = `managedFields: [{manager: kube-apiserver}, {manager: clusterrole-aggregation-controller}]`
		edited  = `managedFields: [{manager: kube-apiserver}, {manager: kubectl-edit}]`
		view    = `kind: ClusterRole, metadata: {name: view, ` + written + `}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: view}}]}, rules: [{apiGroups: [""], resources: [secrets], verbs: [get]}]`
		part    = `kind: ClusterRole, metadata: {name: "system:aggregate-to-view", labels: {to: view}, MANAGED}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]`
		foreign = `kind: ClusterRole, metadata: {name: "system:aggregate-to-views", labels: {to: view, kubernetes.io/bootstrapping: rbac-defaults}, ` + written + `}, rules: [{apiGroups: [""], resources: [secrets], verbs: [get]}]`
		views   = `kind: RoleBinding, metadata: {namespace: apps, name: views}, roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: ServiceAccount, namespace: beetle, name: reconciler}]`
	)
	for managed, want := range map[string]string{written: `[{apiGroups: [""], resources: [pods], verbs: [get]}]`, edited: `[]`, "annotations: {}": `[]`} {
		live := rbac(t, view, strings.Replace(part, "MANAGED", managed, 1), foreign, views)
		found := rbac(t, views).With(live.Defaults()).Grants("beetle", "reconciler")
		g := NewWithT(t)
		g.Expect(found).To(HaveLen(1))
		g.Expect(found[0].Rules).To(ConsistOf(rules(t, want)), managed)
	}
}

func TestReadRBACNamesWhatItCannotRead(t *testing.T) {
	_, err := state.ReadRBAC([]*unstructured.Unstructured{parse(t, "{"+api+"kind: Role, metadata: {namespace: apps, name: r}, rules: none}")})
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("read Role apps/r")))
}
