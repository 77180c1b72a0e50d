package attack

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

// served maps the resources of an API server to the verbs that it knows of them; a
// subresource is pods/exec, a group is put before: apps/deployments/scale.
type served map[string][]string

// serves asks an API server, once, for its resources.
func serves(config *rest.Config) func() (served, error) {
	return sync.OnceValues(func() (served, error) {
		client, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("list the resources of the server: %w", err)
		}
		_, lists, err := client.ServerGroupsAndResources()
		if err != nil {
			return nil, fmt.Errorf("list the resources of the server: %w", err)
		}
		return servedBy(lists)
	})
}

func servedBy(lists []*metav1.APIResourceList) (served, error) {
	out := served{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list the resources of the server: %w", err)
		}
		for _, r := range list.APIResources {
			key := resource(version.Group, r.Name)
			out[key] = append(out[key], r.Verbs...)
		}
	}
	return out, nil
}

func resource(group, name string) string {
	if group == "" {
		return name
	}
	return group + "/" + name
}

// authorised are the verbs that only authorisation knows, and of what; none: of what
// the server has.
var authorised = map[string][]string{
	"impersonate": {"users", "groups", "serviceaccounts", "authentication.k8s.io/uids", "authentication.k8s.io/userextras"},
	"bind":        {"rbac.authorization.k8s.io/roles", "rbac.authorization.k8s.io/clusterroles"},
	"escalate":    {"rbac.authorization.k8s.io/roles", "rbac.authorization.k8s.io/clusterroles"},
	"use":         nil,
}

// unknown says why a review asks for nothing that anybody could do: that it is
// denied would show nothing. Empty: somebody could.
func (known served) unknown(r overlay.Review) string {
	name := r.Resource
	if r.Subresource != "" {
		name += "/" + r.Subresource
	}
	key := resource(r.Group, name)
	if of, ok := authorised[r.Verb]; ok && (slices.Contains(of, key) || of == nil && known[key] != nil) {
		return ""
	}
	switch verbs := known[key]; {
	case verbs == nil:
		return fmt.Sprintf("the server has no resource %s", key)
	case !slices.Contains(verbs, r.Verb):
		return fmt.Sprintf("nobody can %s %s: the server knows %s of it", r.Verb, key, strings.Join(verbs, ", "))
	}
	return ""
}
