package live

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// anyonePrefix is how the role begins that lets the users of tests do everything.
const anyonePrefix = "fpc-anyone-"

// bearers are the users of a wave whose roles matter: those to whom its tests give
// some, or others gave some before. Kyverno sees bindings a moment after they are
// made or gone.
func (b *Bench) bearers(w *wave) map[string]*example.User {
	out := map[string]*example.User{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range w.tests {
		if t.User == nil {
			continue
		}
		id := userID(t.User)
		if _, before := b.roles[id]; before || len(t.User.Roles)+len(t.User.ClusterRoles) > 0 {
			out[id] = t.User
		}
	}
	return out
}

func userID(user *example.User) string { return fmt.Sprintf("%q %q", user.Name, user.Groups) }

// ownRoles learns which roles users have without us.
func (b *Bench) ownRoles(ctx context.Context, users map[string]*example.User) error {
	for id, user := range users {
		b.mu.Lock()
		_, known := b.roles[id]
		b.mu.Unlock()
		if known {
			continue
		}
		found, err := b.seenRoles(ctx, user, nil)
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.roles[id] = found
		b.mu.Unlock()
	}
	return nil
}

// noticeRoles returns when Kyverno knows that users have their own roles, those that
// their tests give them, and no others.
func (b *Bench) noticeRoles(ctx context.Context, users map[string]*example.User) error {
	for id, user := range users {
		b.mu.Lock()
		want := slices.Concat(b.roles[id], user.Roles, user.ClusterRoles)
		b.mu.Unlock()
		slices.Sort(want)
		if _, err := b.seenRoles(ctx, user, slices.Compact(want)); err != nil {
			return err
		}
	}
	return nil
}

// seenRoles are the roles that Kyverno finds a user to have, in order, once they are
// those that are wanted; nil: whichever they are.
func (b *Bench) seenRoles(ctx context.Context, user *example.User, want []string) ([]string, error) {
	sentinel := "fpc-roles-" + session
	home := canaryName + "-" + session
	if err := b.namespace(ctx, home, nil); err != nil {
		return nil, err
	}
	if err := b.anchor(ctx, []*unstructured.Unstructured{rolesSentinel(sentinel)}); err != nil {
		return nil, err
	}
	object := canaryObject("ConfigMap", nil)
	object.SetNamespace(home)
	var found []string
	err := b.until(ctx, fmt.Sprintf("Kyverno knows the roles of %s", user.Name), func(ctx context.Context) (bool, string, error) {
		got := b.send(ctx, request{operation: opCreate, object: object, user: user, copies: []string{sentinel}})
		for _, warning := range got.warnings {
			if parts := rolesTold.FindStringSubmatch(warning); parts != nil {
				found = readRoles(parts[1], parts[2])
				return want == nil || slices.Equal(found, want), fmt.Sprintf("it finds %q, and should find %q", found, want), nil
			}
		}
		return false, fmt.Sprintf("it says nothing: the warnings are %q (%v)", got.warnings, got.err), nil
	})
	return found, err
}

// rolesTold are the roles and cluster roles in what the sentinel says.
var rolesTold = regexp.MustCompile(`: r(\[.*\]|null)c(\[.*\]|null)$`)

func readRoles(lists ...string) []string {
	out := []string{}
	for _, text := range lists {
		var list []string
		_ = json.Unmarshal([]byte(cmp.Or(text, "null")), &list) // what cannot be read is none of ours
		out = append(out, list...)
	}
	out = slices.DeleteFunc(out, func(role string) bool { return strings.HasPrefix(role, anyonePrefix) })
	slices.Sort(out)
	return slices.Compact(out)
}

// rolesSentinel is a policy that tells the roles of who asks for it.
func rolesSentinel(name string) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": legacyGroup + "/v1", "kind": "ClusterPolicy",
		"spec": map[string]any{
			"validationFailureAction": "Audit", "background": false, "failurePolicy": "Fail",
			"webhookConfiguration": map[string]any{"matchConditions": []any{map[string]any{"name": "fpc-ask", "expression": selector(name)}}},
			"rules": []any{map[string]any{
				"name":  "roles",
				"match": map[string]any{"any": []any{map[string]any{"resources": map[string]any{"kinds": []any{"ConfigMap"}}}}},
				"validate": map[string]any{
					"message":       "r{{ to_string(request.roles || `[]`) }}c{{ to_string(request.clusterRoles || `[]`) }}",
					"failureAction": "Audit", "failureActionOverrides": []any{unaudited()}, "deny": map[string]any{},
				},
			}},
		},
	}}
	out.SetName(name)
	out.SetLabels(map[string]string{benchLabel: "true"})
	return out
}
