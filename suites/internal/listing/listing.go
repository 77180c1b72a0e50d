// Package listing lists all that a cluster holds, of every kind that its server
// lists.
package listing

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// atOnce is how many lists are asked for at a time.
const atOnce = 8

// Lister lists what one cluster holds. It knows the kinds that the server had when
// it was made.
type Lister struct {
	client dynamic.Interface
	// wide are the kinds of the cluster, namespaced the others.
	wide, namespaced []schema.GroupVersionResource
}

// New asks the server for its kinds.
func New(config *rest.Config) (*Lister, error) {
	discoverer, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	lists, err := discoverer.ServerPreferredResources()
	if err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	l := &Lister{}
	if l.client, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list the kinds of the server: %w", err)
		}
		for _, resource := range list.APIResources {
			switch {
			case !slices.Contains(resource.Verbs, "list"), version.Group == "metrics.k8s.io":
			case resource.Namespaced:
				l.namespaced = append(l.namespaced, version.WithResource(resource.Name))
			default:
				l.wide = append(l.wide, version.WithResource(resource.Name))
			}
		}
	}
	return l, nil
}

// Namespace lists all objects of a namespace, of every kind, once each; empty:
// those of the cluster.
func (l *Lister) Namespace(ctx context.Context, namespace string) ([]*unstructured.Unstructured, error) {
	if namespace == "" {
		return l.List(ctx, namespace, l.wide...)
	}
	return l.List(ctx, namespace, l.namespaced...)
}

// List lists the objects of some kinds in a namespace; empty: of the cluster.
func (l *Lister) List(ctx context.Context, namespace string, resources ...schema.GroupVersionResource) ([]*unstructured.Unstructured, error) {
	found := make([][]unstructured.Unstructured, len(resources))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, resource := range resources {
		group.Go(func() error {
			objects, err := l.client.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("list %s in %q: %w", resource.Resource, namespace, err)
			}
			found[i] = objects.Items
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	seen := map[types.UID]bool{}
	for i := range found {
		for j := range found[i] {
			// Some kinds are served by two groups: an object is one by its UID.
			if object := &found[i][j]; !seen[object.GetUID()] {
				seen[object.GetUID()] = true
				out = append(out, object)
			}
		}
	}
	return out, nil
}
