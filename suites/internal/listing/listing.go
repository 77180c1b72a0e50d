// Package listing lists all that a cluster holds, of every kind that its server
// lists. What cannot be listed is an error and never left out: an object that
// nobody saw is one that no check judges.
package listing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
)

// atOnce is how many lists are asked for at a time.
const atOnce = 8

// DefaultPatience is how long a server that is busy is asked for one list again
// and again, unless the context ends before.
const DefaultPatience = 30 * time.Second

// pause is how long a busy server is left alone before it is asked again.
const pause = 250 * time.Millisecond

// measurements are served as lists and are no objects: they are made up for each
// request and have no UID.
const measurements = "metrics.k8s.io"

// Lister lists what one cluster holds. It knows the kinds that the server had when
// it was made.
type Lister struct {
	// Patience is for one list of a server that is busy; DefaultPatience.
	Patience time.Duration

	client     dynamic.Interface
	metadata   metadata.Interface
	discoverer *discovery.DiscoveryClient
	// wide are the kinds of the cluster, namespaced the others.
	wide, namespaced []schema.GroupVersionResource
	names            map[schema.GroupVersionResource]string
}

// Kind is one with the metadata of all objects of it.
type Kind struct {
	schema.GroupVersionResource
	// Name such as ConfigMap.
	Name    string
	Objects []*metav1.PartialObjectMetadata
}

// New asks the server for its kinds. It errs where the server cannot tell all of
// them, as when the program behind an aggregated API is down.
func New(config *rest.Config) (*Lister, error) {
	l := &Lister{Patience: DefaultPatience, names: map[schema.GroupVersionResource]string{}}
	var err error
	if l.discoverer, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	lists, err := l.discoverer.ServerPreferredResources()
	if err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w; what it holds of them cannot be seen", err)
	}
	if l.client, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	if l.metadata, err = metadata.NewForConfig(metadata.ConfigFor(config)); err != nil {
		return nil, fmt.Errorf("list the kinds of the server: %w", err)
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list the kinds of the server: %w", err)
		}
		for _, resource := range list.APIResources {
			l.names[version.WithResource(resource.Name)] = resource.Kind
			switch {
			case !slices.Contains(resource.Verbs, "list"), version.Group == measurements:
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

// List lists the objects of some kinds in a namespace; empty: of the cluster. The
// error names every kind that could not be listed, and why.
func (l *Lister) List(ctx context.Context, namespace string, resources ...schema.GroupVersionResource) ([]*unstructured.Unstructured, error) {
	found, err := each(resources, func(resource schema.GroupVersionResource) ([]*unstructured.Unstructured, error) {
		return kind[*unstructured.Unstructured](ctx, l, namespace, resource, func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return l.client.Resource(resource).Namespace(namespace).List(ctx, options)
		})
	})
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	seen := map[types.UID]bool{}
	for _, objects := range found {
		for _, object := range objects {
			// Some kinds are served by two groups: an object is one by its UID.
			if !seen[object.GetUID()] {
				seen[object.GetUID()] = true
				out = append(out, object)
			}
		}
	}
	return out, nil
}

// Metadata lists the metadata of all objects of every kind, wherever they are.
func (l *Lister) Metadata(ctx context.Context) ([]Kind, error) {
	return each(slices.Concat(l.wide, l.namespaced), func(resource schema.GroupVersionResource) (Kind, error) {
		objects, err := kind[*metav1.PartialObjectMetadata](ctx, l, metav1.NamespaceAll, resource, func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return l.metadata.Resource(resource).List(ctx, options)
		})
		return Kind{resource, l.names[resource], objects}, err
	})
}

// each lists some kinds, a few at a time. All errors are told.
func each[T any](resources []schema.GroupVersionResource, list func(schema.GroupVersionResource) (T, error)) ([]T, error) {
	out := make([]T, len(resources))
	errs := make([]error, len(resources))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, resource := range resources {
		group.Go(func() error {
			out[i], errs[i] = list(resource)
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	return out, errors.Join(errs...)
}

// kind lists one, page by page, and each page again while the server is busy.
func kind[T any](ctx context.Context, l *Lister, namespace string, resource schema.GroupVersionResource, page pager.ListPageFunc) ([]T, error) {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		var one runtime.Object
		err := l.patiently(ctx, func(ctx context.Context) (err error) {
			one, err = page(ctx, options)
			return err
		})
		return one, err
	})
	// Pages that are too old to go on with are asked for anew, as one.
	list, _, err := pages.List(ctx, metav1.ListOptions{})
	if err == nil {
		var out []T
		err = meta.EachListItem(list, func(object runtime.Object) error {
			o, ok := object.(T)
			if !ok {
				return fmt.Errorf("found a %T where an object is wanted", object)
			}
			out = append(out, o)
			return nil
		})
		if err == nil {
			return out, nil
		}
	}
	if apierrors.IsNotFound(err) {
		gone, asked := l.gone(ctx, resource)
		if gone {
			return nil, nil
		}
		err = errors.Join(err, asked)
	}
	return nil, fmt.Errorf("list %s in %q: %w", resource.GroupResource(), namespace, err)
}

// gone says whether the server no longer knows a kind that it had: then there is
// nothing of it.
func (l *Lister) gone(ctx context.Context, resource schema.GroupVersionResource) (bool, error) {
	var list *metav1.APIResourceList
	err := l.patiently(ctx, func(ctx context.Context) (err error) {
		list, err = l.discoverer.ServerResourcesForGroupVersionWithContext(ctx, resource.GroupVersion().String())
		return err
	})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether there are %s any more: %w", resource.GroupResource(), err)
	}
	there := slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource.Resource })
	return !there, nil
}

// patiently asks again while the server says that it is busy.
func (l *Lister) patiently(ctx context.Context, ask func(context.Context) error) error {
	began := time.Now()
	var busy error
	err := wait.PollUntilContextTimeout(ctx, pause, l.Patience, true, func(ctx context.Context) (bool, error) {
		err := ask(ctx)
		if retry(err) {
			busy = err
			return false, nil
		}
		return err == nil, err
	})
	if busy != nil && wait.Interrupted(err) {
		return fmt.Errorf("the server was busy for %s: %w", time.Since(began).Round(time.Millisecond), busy)
	}
	return err
}

// retry says whether a server that answered so may answer otherwise in a moment.
func retry(err error) bool {
	return err != nil && (apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || net.IsTimeout(err) || net.IsConnectionReset(err) || net.IsConnectionRefused(err))
}
