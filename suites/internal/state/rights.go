package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// RBAC are roles and bindings, of a cluster or of what is declared for one.
type RBAC struct {
	Roles               []rbacv1.Role
	ClusterRoles        []rbacv1.ClusterRole
	RoleBindings        []rbacv1.RoleBinding
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
}

// ReadRBAC picks the roles and bindings out of objects.
func ReadRBAC(objects []*unstructured.Unstructured) (RBAC, error) {
	var out RBAC
	for _, object := range objects {
		if object.GroupVersionKind().Group != rbacv1.GroupName {
			continue
		}
		var err error
		switch object.GetKind() {
		case "Role":
			err = add(object, &out.Roles)
		case "ClusterRole":
			err = add(object, &out.ClusterRoles)
		case "RoleBinding":
			err = add(object, &out.RoleBindings)
		case "ClusterRoleBinding":
			err = add(object, &out.ClusterRoleBindings)
		}
		if err != nil {
			return RBAC{}, fmt.Errorf("read %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
	return out, nil
}

func add[T any](object *unstructured.Unstructured, to *[]T) error {
	var out T
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &out)
	*to = append(*to, out)
	return err
}

// With are these roles and bindings and those of another RBAC.
func (r RBAC) With(other RBAC) RBAC {
	return RBAC{
		Roles: slices.Concat(r.Roles, other.Roles), ClusterRoles: slices.Concat(r.ClusterRoles, other.ClusterRoles),
		RoleBindings:        slices.Concat(r.RoleBindings, other.RoleBindings),
		ClusterRoleBindings: slices.Concat(r.ClusterRoleBindings, other.ClusterRoleBindings),
	}
}

// Grant is what one binding gives to an account.
type Grant struct {
	// Binding and Role name the two, e.g. RoleBinding apps/beetle and Role editor.
	Binding, Role string
	// Namespace in which it holds; empty: everywhere.
	Namespace string
	// Rules are empty when the role does not exist.
	Rules []rbacv1.PolicyRule
}

// Account is the user that a ServiceAccount is, and the groups that the API server
// adds to it.
func Account(namespace, name string) (user string, groups []string) {
	return "system:serviceaccount:" + namespace + ":" + name,
		[]string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
}

// Grants lists what the bindings give to a ServiceAccount, by its name or by a
// group that every such account is in.
func (r RBAC) Grants(namespace, name string) []Grant { return r.GrantsTo(Account(namespace, name)) }

// GrantsTo lists what the bindings give to a user of these groups; a
// ServiceAccount is a user, too.
func (r RBAC) GrantsTo(user string, groups []string) []Grant {
	var out []Grant
	for _, b := range r.RoleBindings {
		if bound(b.Subjects, user, groups, b.Namespace) {
			out = append(out, Grant{
				Binding: "RoleBinding " + b.Namespace + "/" + b.Name, Role: b.RoleRef.Kind + " " + b.RoleRef.Name,
				Namespace: b.Namespace, Rules: r.rules(b.RoleRef, b.Namespace),
			})
		}
	}
	for _, b := range r.ClusterRoleBindings {
		if bound(b.Subjects, user, groups, "") {
			out = append(out, Grant{
				Binding: "ClusterRoleBinding " + b.Name, Role: b.RoleRef.Kind + " " + b.RoleRef.Name, Rules: r.rules(b.RoleRef, ""),
			})
		}
	}
	return out
}

// Bound are the users and groups that bindings in these namespaces name, but for
// the system's own, sorted.
func (r RBAC) Bound(namespaces ...string) (users, groups []string) {
	for _, b := range r.RoleBindings {
		if !slices.Contains(namespaces, b.Namespace) {
			continue
		}
		for _, s := range b.Subjects {
			switch {
			case strings.HasPrefix(s.Name, "system:"):
			case s.Kind == rbacv1.GroupKind:
				groups = append(groups, s.Name)
			case s.Kind == rbacv1.UserKind:
				users = append(users, s.Name)
			}
		}
	}
	sort.Strings(users)
	sort.Strings(groups)
	return slices.Compact(users), slices.Compact(groups)
}

func bound(subjects []rbacv1.Subject, user string, groups []string, binding string) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			account, _ := Account(cmp.Or(s.Namespace, binding), s.Name)
			return account == user
		case rbacv1.UserKind:
			return s.Name == user || s.Name == "*"
		case rbacv1.GroupKind:
			return slices.Contains(groups, s.Name)
		}
		return false
	})
}

// rules are those of the role that a binding refers to, with what an aggregated
// one collects.
func (r RBAC) rules(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	if ref.Kind == "Role" {
		for _, role := range r.Roles {
			if role.Namespace == namespace && role.Name == ref.Name {
				out = append(out, role.Rules...)
			}
		}
		return out
	}
	for _, role := range r.ClusterRoles {
		if role.Name != ref.Name {
			continue
		}
		out = append(out, role.Rules...)
		if role.AggregationRule == nil {
			continue
		}
		for _, selector := range role.AggregationRule.ClusterRoleSelectors {
			chosen, err := metav1.LabelSelectorAsSelector(&selector)
			if err != nil {
				continue // the API server refuses it, too
			}
			for _, other := range r.ClusterRoles {
				if chosen.Matches(labels.Set(other.Labels)) && other.Name != role.Name {
					out = append(out, other.Rules...)
				}
			}
		}
	}
	return out
}

// Excess collects the rights that an account has and should not have, by what
// grants them.
type Excess struct {
	live     []Grant
	declared []Grant
	// found maps what grants a right to the right to the namespaces.
	found map[string]map[string][]string
	// looked are the namespaces that were added.
	looked map[string]bool
}

// NewExcess compares with what is declared for the account; live tells which
// binding gives it what is more.
func NewExcess(declared, live []Grant) *Excess {
	return &Excess{live: live, declared: declared, found: map[string]map[string][]string{}, looked: map[string]bool{}}
}

// Add takes in what the account may do in a namespace, by the server's word.
func (e *Excess) Add(namespace string, rules []rbacv1.PolicyRule) {
	e.looked[namespace] = true
	_, wider := validation.Covers(within(e.declared, namespace), rules)
	for _, rule := range wider {
		var by []string
		for _, grant := range e.live {
			if grant.Namespace != "" && grant.Namespace != namespace {
				continue
			}
			if ok, _ := validation.Covers(grant.Rules, []rbacv1.PolicyRule{rule}); ok {
				by = append(by, fmt.Sprintf("%s (%s)", grant.Binding, grant.Role))
			}
		}
		if len(by) == 0 {
			by = []string{"no binding that is there now"}
		}
		for _, grant := range by {
			if e.found[grant] == nil {
				e.found[grant] = map[string][]string{}
			}
			e.found[grant][right(rule)] = append(e.found[grant][right(rule)], namespace)
		}
	}
}

// within are the rules that hold in a namespace.
func within(grants []Grant, namespace string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, grant := range grants {
		if grant.Namespace == "" || grant.Namespace == namespace {
			out = append(out, grant.Rules...)
		}
	}
	return out
}

// right is one rule as text; it has one verb, one resource and at most one name.
func right(rule rbacv1.PolicyRule) string {
	if len(rule.NonResourceURLs) > 0 {
		return strings.Join(rule.Verbs, ",") + " " + strings.Join(rule.NonResourceURLs, ",")
	}
	text := strings.Join(rule.Verbs, ",") + " " + strings.Join(rule.Resources, ",")
	if group := strings.Join(rule.APIGroups, ","); group != "" {
		text += "." + group
	}
	if len(rule.ResourceNames) > 0 {
		text += " named " + strings.Join(rule.ResourceNames, ",")
	}
	return text
}

// Problems are the rights that were found, a line for each binding and the
// namespaces in which it gives them.
func (e *Excess) Problems() []string {
	var out []string
	for _, by := range slices.Sorted(maps.Keys(e.found)) {
		rights := map[string][]string{}
		for right, namespaces := range e.found[by] {
			sort.Strings(namespaces)
			namespaces = slices.Compact(namespaces)
			where := strings.Join(namespaces, ", ")
			if len(namespaces) > 1 && len(namespaces) == len(e.looked) {
				where = "every namespace"
			}
			rights[where] = append(rights[where], right)
		}
		for _, where := range slices.Sorted(maps.Keys(rights)) {
			sort.Strings(rights[where])
			out = append(out, fmt.Sprintf("%s grants in %s: %s", by, where, strings.Join(rights[where], "; ")))
		}
	}
	return out
}
