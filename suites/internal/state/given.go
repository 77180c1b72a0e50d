package state

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// toAll are the bindings by which the API server gives rights to every user or every
// account, each of the role of its name. They are known by heart, with all that they
// give: whoever can write a role or a binding can label it as one of these.
// Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings
var toAll = map[string]struct {
	groups []string
	rules  []rbacv1.PolicyRule
}{
	"system:basic-user": {
		groups: []string{"system:authenticated"},
		rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}, Verbs: []string{"create"}},
			{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}, Verbs: []string{"create"}},
		},
	},
	"system:discovery": {
		groups: []string{"system:authenticated"},
		rules: get(
			"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"),
	},
	"system:public-info-viewer": {
		groups: []string{"system:authenticated", "system:unauthenticated"},
		rules:  get("/healthz", "/livez", "/readyz", "/version", "/version/"),
	},
	"system:service-account-issuer-discovery": {
		groups: []string{"system:serviceaccounts"},
		rules: get("/.well-known/openid-configuration", "/.well-known/openid-configuration/",
			"/openid/v1/jwks", "/openid/v1/jwks/"),
	},
	"system:cluster-trust-bundle-discovery": {
		groups: []string{"system:serviceaccounts"},
		rules:  []rbacv1.PolicyRule{{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles"}, Verbs: []string{"get", "list", "watch"}}},
	},
}

func get(addresses ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{NonResourceURLs: addresses, Verbs: []string{"get"}}}
}

// defaultRoles are the other roles of the API server that a platform may refer to.
var defaultRoles = []string{
	"cluster-admin", "admin", "edit", "view", "system:aggregate-to-admin", "system:aggregate-to-edit", "system:aggregate-to-view",
	"system:auth-delegator", "system:heapster", "system:kube-aggregator", "system:kube-controller-manager", "system:kube-dns",
	"system:kube-scheduler", "system:kubelet-api-admin", "system:monitoring", "system:node", "system:node-bootstrapper",
	"system:node-problem-detector", "system:node-proxier", "system:persistent-volume-provisioner", "system:volume-scheduler",
	"system:certificates.k8s.io:certificatesigningrequests:nodeclient",
	"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
	"system:certificates.k8s.io:kube-apiserver-client-approver",
	"system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
	"system:certificates.k8s.io:kubelet-serving-approver", "system:certificates.k8s.io:legacy-unknown-approver",
}

// Defaults are the roles and bindings of Kubernetes itself that matter to others,
// each with no more than what Kubernetes gave it. An aggregated role is there without
// what it has collected: that may be anybody's.
func (r RBAC) Defaults() RBAC {
	var out RBAC
	for _, role := range r.ClusterRoles {
		if known, ok := toAll[role.Name]; ok {
			role.Rules, role.AggregationRule = known.rules, nil
		} else if !slices.Contains(defaultRoles, role.Name) || !untouched(&role) {
			continue
		}
		if role.AggregationRule != nil {
			role.Rules = nil
		}
		out.ClusterRoles = append(out.ClusterRoles, role)
	}
	for _, role := range r.Roles {
		if role.Namespace == metav1.NamespaceSystem && role.Name == "extension-apiserver-authentication-reader" && untouched(&role) {
			out.Roles = append(out.Roles, role)
		}
	}
	for _, binding := range r.ClusterRoleBindings {
		known, ok := toAll[binding.Name]
		if !ok || binding.RoleRef.Kind != "ClusterRole" || binding.RoleRef.Name != binding.Name {
			continue
		}
		binding.Subjects = keep(binding.Subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.GroupKind && slices.Contains(known.groups, s.Name)
		})
		out.ClusterRoleBindings = append(out.ClusterRoleBindings, binding)
	}
	return out
}

// untouched says whether nobody but Kubernetes has written to an object, as far as
// its field managers tell.
func untouched(o metav1.Object) bool {
	entries := o.GetManagedFields()
	return len(entries) > 0 && !slices.ContainsFunc(entries, func(e metav1.ManagedFieldsEntry) bool {
		return !slices.Contains(kubernetes, e.Manager) && e.Manager != "clusterrole-aggregation-controller"
	})
}

// The API server's own objects of flow control, which it keeps as they are.
// Source: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#defaults
var (
	flowSchemas = []string{
		"exempt", "probes", "system-leader-election", "endpoint-controller", "workload-leader-election", "system-node-high",
		"system-nodes", "kube-controller-manager", "kube-scheduler", "kube-system-service-accounts", "service-accounts",
		"global-default", "catch-all",
	}
	priorityLevels = []string{
		"exempt", "system", "node-high", "leader-election", "workload-high", "workload-low", "global-default", "catch-all",
	}
)

// kubernetesOwnOfCluster says whether Kubernetes itself puts this object into every
// cluster, and it is no more than that.
func kubernetesOwnOfCluster(object *unstructured.Unstructured) bool {
	if report(object) {
		return true
	}
	name := object.GetName()
	kept := object.GetAnnotations()["apf.kubernetes.io/autoupdate-spec"] == "true"
	switch object.GetKind() {
	case "Namespace":
		return slices.Contains([]string{"default", "kube-system", "kube-public", "kube-node-lease"}, name)
	case "Node", "CSINode":
		return true
	case "PriorityClass":
		return strings.HasPrefix(name, "system-") // the API server refuses others of such names
	case "FlowSchema":
		return kept && slices.Contains(flowSchemas, name)
	case "PriorityLevelConfiguration":
		return kept && slices.Contains(priorityLevels, name)
	case "ClusterRole":
		known, ok := toAll[name]
		if !ok {
			return slices.Contains(defaultRoles, name) && untouched(object)
		}
		var role rbacv1.ClusterRole
		if runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &role) != nil {
			return false
		}
		covered, _ := validation.Covers(known.rules, role.Rules)
		return covered && role.AggregationRule == nil
	case "ClusterRoleBinding":
		var binding rbacv1.ClusterRoleBinding
		if runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &binding) != nil {
			return false
		}
		own := RBAC{ClusterRoleBindings: []rbacv1.ClusterRoleBinding{binding}}.Defaults().ClusterRoleBindings
		return len(own) == 1 && len(own[0].Subjects) == len(binding.Subjects)
	}
	return false
}
