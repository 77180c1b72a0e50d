package platform

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Residual is a right that identities of tenants have beyond what the layout asks
// for, and why.
type Residual struct {
	// Identity is what an identity is there for: reconciler, workload, default,
	// account or developers.
	Identity string
	// Group and Resource, which may be a subresource such as pods/log.
	Group, Resource string
	Verbs           []string
	// Namespaces in which it holds; empty: those that tenants share. What belongs to
	// no namespace has none.
	Namespaces []string
	Reason     string
	Line       int
}

// IdentityRoles are what an identity of tenants can be there for.
var IdentityRoles = []string{"reconciler", "workload", "default", "account", "developers"}

func (r *configReader) residuals(node *yaml.Node, key string, c *Config) {
	r.list(node, key, func(item *yaml.Node, key string) {
		found := Residual{Line: item.Line}
		var kind string
		r.mapping(item, key, known{
			"identity": r.text(&found.Identity), "verbs": r.texts(&found.Verbs), "resource": r.text(&kind),
			"namespaces": r.texts(&found.Namespaces), "reason": r.text(&found.Reason),
		})
		if item.Kind != yaml.MappingNode {
			return
		}
		for _, name := range []string{"identity", "verbs", "resource", "reason"} {
			if field(item, name) == nil {
				r.wrong(item, key, "%s is missing", name)
			}
		}
		if found.Identity != "" && !slices.Contains(IdentityRoles, found.Identity) {
			r.wrong(field(item, "identity"), key+".identity", "one of %s is wanted, this is %q", strings.Join(IdentityRoles, ", "), found.Identity)
		}
		if slices.Contains(found.Verbs, "*") || strings.Contains(kind, "*") {
			r.wrong(item, key, "a star has no reason; name each verb and the resource")
		}
		// As kubectl writes it: deployments.apps, pods/log.
		found.Resource, found.Group, _ = strings.Cut(kind, ".")
		c.Residuals = append(c.Residuals, found)
	})
}
