package state_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func tenantName(i int) string { return fmt.Sprintf("t-%03d", i) }

// crowd is a matrix of many tenants as the reference platform has them: each with a
// namespace of its own, a reconciler that applies in the shared one, and the
// namespace's default account; kinds of them are made up.
func crowd(t testing.TB, tenants, kinds int, holes ...string) state.MatrixInput {
	t.Helper()
	in := state.MatrixInput{Names: map[state.Named]string{}}
	for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
		in.Actions = append(in.Actions,
			state.Action{Verb: verb, Resource: "configmaps", Namespaced: true},
			state.Action{Verb: verb, Resource: "secrets", Namespaced: true})
		for i := range kinds - 3 {
			in.Actions = append(in.Actions, state.Action{Verb: verb, Group: "example.org", Resource: fmt.Sprintf("kind%03d", i), Namespaced: i%4 > 0})
		}
	}
	in.Actions = append(in.Actions,
		state.Action{Verb: "create", Resource: "pods", Subresource: "exec", Namespaced: true},
		state.Action{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"})
	objects := []string{
		basics, basically,
		`kind: Role, metadata: {namespace: apps, name: applies}, rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, create, patch, delete]}]`,
	}
	in.Places = append(in.Places, state.Place{Victim: state.OfPlatform})
	account := func(namespace, name, role, tenant string) {
		identity := state.Identity{Name: namespace + "/" + name, Role: role, Tenants: []string{tenant}}
		identity.User, identity.Groups = state.Account(namespace, name)
		in.Identities = append(in.Identities, identity)
	}
	for i := range tenants {
		name := tenantName(i)
		in.Places = append(in.Places, state.Place{Victim: name})
		in.Names[state.Named{Namespace: "apps", Victim: name, Resource: "configmaps"}] = name + "-config"
		account(name, "reconciler", "reconciler", name)
		account(name, "default", "default", name)
		objects = append(objects, fmt.Sprintf(`kind: RoleBinding, metadata: {namespace: apps, name: %s}, roleRef: {kind: Role, name: applies}, subjects: [{kind: ServiceAccount, namespace: %s, name: reconciler}]`, name, name))
		in.Rights = append(in.Rights, state.Right{
			Identity: name + "/reconciler", Namespace: "apps", Resource: "configmaps", Verbs: []string{"get", "create", "patch", "delete"}, Needed: true, Reason: "it applies them",
		})
	}
	for i := range tenants {
		in.Places = append(in.Places, state.Place{Namespace: "apps", Victim: tenantName(i), Shared: true})
	}
	in.Places = append(in.Places, state.Place{Namespace: "apps", Victim: state.OfPlatform, Shared: true})
	for _, namespace := range []string{"flux-system", "kube-system", "ingress", "kyverno"} {
		in.Places = append(in.Places, state.Place{Namespace: namespace, Victim: state.OfPlatform})
	}
	for i := range tenants {
		in.Places = append(in.Places, state.Place{Namespace: tenantName(i), Victim: tenantName(i)})
	}
	in.Live = rbac(t, append(objects, holes...)...)
	return in
}

// sampled chooses by a seed, and has the server list the rights where it chose.
func sampled(in state.MatrixInput, seed uint64) state.MatrixInput {
	in.Sampling = state.Sample(in, seed)
	in.Listed = nil
	for i, identity := range in.Identities {
		listed := map[string]state.Listed{}
		grants := in.Live.GrantsTo(identity.User, identity.Groups)
		for _, p := range in.Sampling.Places(i) {
			if _, known := listed[p.Namespace]; known || p.Namespace == "" {
				continue
			}
			l := state.Listed{Complete: true}
			for _, grant := range grants {
				if grant.Namespace == "" || grant.Namespace == p.Namespace {
					l.Rules = append(l.Rules, grant.Rules...)
				}
			}
			listed[p.Namespace] = l
		}
		in.Listed = append(in.Listed, listed)
	}
	return in
}

// asks counts how often the server is asked for an identity's rights.
func asks(in state.MatrixInput) int {
	count := 0
	for _, listed := range in.Listed {
		count += len(listed)
	}
	return count
}

func TestFewTenantsAreJudgedPairByPair(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := state.Sample(crowd(t, state.Exhaustive, 8), 1)
	g.Expect(s.Sampled()).To(BeFalse())
	g.Expect(s.Pairs).To(Equal(2 * 8 * (9 + 9 + 4 + 8)))
	s = state.Sample(crowd(t, state.Exhaustive+1, 8), 1)
	g.Expect(s.Sampled()).To(BeTrue())
}

// Requests and cells grow as the tenants, and as the kinds.
func TestMatrixGrowsAsTenantsAndKinds(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	measure := func(tenants, kinds int) (requests, cells, asked int) {
		in := sampled(crowd(t, tenants, kinds), 1)
		m, err := state.NewMatrix(in)
		g.Expect(err).NotTo(HaveOccurred())
		return len(m.Requests), len(m.Cells), asks(in)
	}
	requests, cells, asked := measure(30, 12)
	more, moreCells, moreAsked := measure(120, 12)
	g.Expect(more).To(And(BeNumerically(">", requests), BeNumerically("<=", 4*requests)))
	g.Expect(float64(moreCells)).To(BeNumerically("~", 4*float64(cells), 0.1*float64(moreCells)))
	g.Expect(float64(moreAsked)).To(BeNumerically("~", 4*float64(asked), 0.1*float64(moreAsked)))
	kinds, kindCells, _ := measure(30, 24)
	g.Expect(kinds).To(BeNumerically("<=", 2*requests))
	g.Expect(float64(kindCells)).To(BeNumerically("~", 2*float64(cells), 0.2*float64(kindCells)))
}

func TestEveryTenantIsSomebodysVictim(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	in := crowd(t, 300, 8)
	for seed := range uint64(5) {
		s := state.Sample(in, seed)
		g.Expect(s.Fewest).To(BeNumerically(">=", 4), "two accounts of the tenants that come before in the ring, at least")
		g.Expect(s.String()).To(ContainSubstring(fmt.Sprintf("sampled, seed %d: %d of %d pairs", seed, s.Pairs, s.OfPairs)))
		g.Expect(s.Places(0)).To(Equal(state.Sample(in, seed).Places(0)), "the same seed chooses the same")
	}
	g.Expect(state.Sample(in, 1).Places(0)).NotTo(Equal(state.Sample(in, 2).Places(0)))
}

// A right too many in an account's own bindings is found wherever it holds and
// whatever the seed; what one policy lets one pair do is found only where the pair
// was chosen.
func TestAHoleOfOneTenantOf300(t *testing.T) {
	t.Parallel()
	binding := func(namespace, role, subject string) string {
		return fmt.Sprintf(`kind: RoleBinding, metadata: {namespace: %s, name: hole}, roleRef: {kind: Role, name: %s}, subjects: [%s]`, namespace, role, subject)
	}
	role := func(namespace, rule string) string {
		return fmt.Sprintf(`kind: Role, metadata: {namespace: %s, name: hole}, rules: [%s]`, namespace, rule)
	}
	const (
		reads = `{apiGroups: [""], resources: [secrets], verbs: [get]}`
		named = `{apiGroups: [""], resources: [secrets], verbs: [get], resourceNames: [t-250-tls]}`
		mine  = `{kind: ServiceAccount, namespace: t-117, name: reconciler}`
	)
	for i, row := range []struct {
		name  string
		holes []string
		wants string
	}{
		{"in its own namespace", []string{role("t-117", reads), binding("t-117", "hole", mine)}, "t-117/reconciler may, and nothing says that it should, by RoleBinding t-117/hole (Role hole)"},
		{"in one other tenant's namespace", []string{role("t-250", reads), binding("t-250", "hole", mine)}, "in t-250, of t-250, 1 cells: secrets (get)"},
		{"in the shared namespace", []string{role("apps", reads), binding("apps", "hole", mine)}, "t-117/reconciler may, and nothing says that it should, by RoleBinding apps/hole"},
		{"on one object in the shared namespace", []string{role("apps", named), binding("apps", "hole", mine)}, "resourceNames: [t-250-tls]}: in apps"},
		{"on one object in another's namespace", []string{role("t-250", named), binding("t-250", "hole", mine)}, "resourceNames: [t-250-tls]}: in t-250"},
		{"in a platform's namespace", []string{role("kyverno", reads), binding("kyverno", "hole", mine)}, "in kyverno, of platform, 1 cells: secrets (get)"},
		{"everywhere", []string{
			`kind: ClusterRole, metadata: {name: hole}, rules: [` + reads + `]`,
			`kind: ClusterRoleBinding, metadata: {name: hole}, roleRef: {kind: ClusterRole, name: hole}, subjects: [` + mine + `]`,
		}, "t-117/reconciler may, and nothing says that it should, by ClusterRoleBinding hole (ClusterRole hole)"},
		{"by a group that all accounts are in", []string{role("t-250", reads), binding("t-250", "hole", `{kind: Group, name: "system:serviceaccounts"}`)}, "t-009/default may, and nothing says that it should, by RoleBinding t-250/hole"},
		{"by its default account", []string{role("t-003", reads), binding("t-003", "hole", `{kind: ServiceAccount, namespace: t-117, name: default}`)}, "t-117/default may, and nothing says that it should, by RoleBinding t-003/hole"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			in := crowd(t, 300, 6, row.holes...)
			g.Expect(answered(t, sampled(in, uint64(i))).Problems()).To(ContainElement(ContainSubstring(row.wants)))
		})
	}
	t.Run("the opposite: a right that is taken away", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		in := crowd(t, 300, 6)
		in.Live.RoleBindings = slices.DeleteFunc(in.Live.RoleBindings, func(b rbacv1.RoleBinding) bool { return b.Name == "t-117" })
		g.Expect(answered(t, sampled(in, 3)).Problems()).To(ContainElement(ContainSubstring("t-117/reconciler may not, though it applies them")))
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		NewWithT(t).Expect(answered(t, sampled(crowd(t, 300, 6), 5)).Problems()).To(BeEmpty())
	})
}

// Of the writes that a policy has to refuse each tenant's objects are tried by
// somebody: a policy that spares a victim is found. One that spares one pair is found
// where the seed chose the pair; how many it chose stands in the outcome.
func TestWhatASampleCanMiss(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	m := answered(t, sampled(crowd(t, 300, 6), 1))
	guarded, _, _ := m.Tries()
	victims, pairs := map[string]bool{}, map[string]bool{}
	for _, c := range guarded {
		victims[c.Victim] = true
		pairs[m.Identities[c.Identity].Name+" "+c.Victim] = true
	}
	g.Expect(victims).To(HaveLen(300), "each tenant, and what is the platform's is not there to be tried on")
	g.Expect(len(pairs)).To(And(BeNumerically(">=", 300*3), BeNumerically("<=", 300*4)), "and not all of %d", 300*299)
	g.Expect(m.Sampling.String()).To(ContainSubstring("What this can miss: a policy that lets just one pair pass"))
}

func TestSampledMatrixIsTold(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	m := answered(t, sampled(crowd(t, 60, 6, `kind: ClusterRole, metadata: {name: hole}, rules: [{apiGroups: [""], resources: [secrets], verbs: [get]}]`,
		`kind: ClusterRoleBinding, metadata: {name: hole}, roleRef: {kind: ClusterRole, name: hole}, subjects: [{kind: ServiceAccount, namespace: t-017, name: reconciler}]`), 1))
	text := m.HeatMap(false)
	lines := strings.Split(text, "\n")
	g.Expect(len(lines)).To(BeNumerically("<", 20), "nobody reads 120 rows:\n%s", text)
	g.Expect(lines[1]).To(HavePrefix("t-017/reconciler "))
	g.Expect(lines[1]).To(ContainSubstring("!"))
	g.Expect(text).To(ContainSubstring("59 without surprise"))
	g.Expect(text).To(ContainSubstring("sampled, seed 1: "))
	content, err := json.Marshal(m)
	g.Expect(err).NotTo(HaveOccurred())
	var read struct {
		Sampling struct{ Seed, Tenants, Pairs, OfPairs int }
		Judged   string
		Cells    int
		Allowed  []any
		Denied   []struct{ Cells int }
	}
	g.Expect(json.Unmarshal(content, &read)).To(Succeed())
	g.Expect(read.Sampling.Pairs).To(Equal(m.Sampling.Pairs))
	g.Expect(read.Judged).To(Equal(m.Sampling.String()))
	count := len(read.Allowed)
	for _, block := range read.Denied {
		count += block.Cells
	}
	g.Expect(count).To(Equal(read.Cells), "every cell is counted")
}

// BenchmarkMatrix measures the pure part, and counts what a server would be asked.
func BenchmarkMatrix(b *testing.B) {
	for _, tenants := range []int{3, 30, 300} {
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			in := crowd(b, tenants, 64)
			var m *state.Matrix
			asked := 0
			for b.Loop() {
				chosen := sampled(in, 1)
				var err error
				if m, err = state.NewMatrix(chosen); err != nil {
					b.Fatal(err)
				}
				for i := range m.Requests {
					m.Answer(i, false, "")
				}
				_ = m.Problems()
				asked = asks(chosen)
			}
			b.ReportMetric(float64(len(m.Cells)), "cells")
			b.ReportMetric(float64(len(m.Requests)), "reviews")
			b.ReportMetric(float64(asked), "lists")
			b.ReportMetric(float64(len(m.Requests)+asked)/float64(tenants), "requests/tenant")
		})
	}
}
