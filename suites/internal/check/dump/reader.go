package dump

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// clusterFile is the folder of objects without a namespace; no namespace can be
// named so.
const clusterFile = "_cluster"

// workers bounds the lists that are fetched at once.
const workers = 4

var (
	secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	events  = schema.GroupVersionResource{Version: "v1", Resource: "events"}
)

// resource is one kind of object that the cluster can list.
type resource struct {
	schema.GroupVersionResource
	namespaced bool
}

// reader reads one cluster, within some namespaces and what belongs to none.
type reader struct {
	client     dynamic.Interface
	core       corev1client.CoreV1Interface
	namespaces []string
	resources  []resource
}

// newReader finds out what kinds there are. Where a part of them cannot be had
// (an API service that does not answer), it comes back with the others and an
// error.
func newReader(ctx context.Context, config *rest.Config, namespaces []string) (*reader, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // a dump is short, and the server limits by itself
	config.Timeout = requestTimeout
	config.WarningHandler = rest.NoWarnings{}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	lists, err := disco.ServerPreferredResourcesWithContext(ctx)
	if err != nil {
		err = fmt.Errorf("asking the cluster for its kinds: %w", err)
	}
	r := &reader{client: client, core: core, namespaces: namespaces}
	for _, list := range lists {
		groupVersion, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			err = errors.Join(err, parseErr)
			continue
		}
		for _, found := range list.APIResources {
			candidate := resource{groupVersion.WithResource(found.Name), found.Namespaced}
			if slices.Contains(found.Verbs, "list") && wanted(candidate) {
				r.resources = append(r.resources, candidate)
			}
		}
	}
	return r, err
}

// wanted leaves out what would only be bulk: copies of events, figures, and most
// of what belongs to no namespace.
func wanted(r resource) bool {
	if r.namespaced {
		return r.Resource != "events" && r.Group != "metrics.k8s.io"
	}
	switch {
	case r.Group == "":
		return r.Resource == "namespaces" || r.Resource == "nodes"
	case r.Group == "kyverno.io" || strings.HasSuffix(r.Group, ".kyverno.io"):
		return true
	default:
		return slices.Contains([]string{
			"admissionregistration.k8s.io", "apiregistration.k8s.io", "rbac.authorization.k8s.io",
		}, r.Group)
	}
}

// each calls visit for every object of a kind in the reader's namespaces.
// Secrets of other namespaces are not even asked for.
func (r *reader) each(ctx context.Context, kind resource, visit func(*unstructured.Unstructured) error) error {
	places := []string{metav1.NamespaceAll}
	if kind.GroupVersionResource == secrets {
		places = r.namespaces
	}
	for _, place := range places {
		list := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return r.client.Resource(kind.GroupVersionResource).Namespace(place).List(ctx, options)
		})
		err := list.EachListItem(ctx, metav1.ListOptions{}, func(item runtime.Object) error {
			object, ok := item.(*unstructured.Unstructured)
			if !ok {
				return fmt.Errorf("listing %s gave a %T", kind.GroupResource(), item)
			}
			if kind.namespaced && !slices.Contains(r.namespaces, object.GetNamespace()) {
				return nil
			}
			return visit(object)
		})
		if err != nil {
			return fmt.Errorf("listing %s: %w", kind.GroupResource(), err)
		}
	}
	return nil
}

// learnSecrets tells the redactor the values of all Secrets in sight, so that
// they are taken out of logs and objects wherever they stand.
func (r *reader) learnSecrets(ctx context.Context, redactor *check.Redactor) error {
	return r.each(ctx, resource{secrets, true}, func(object *unstructured.Unstructured) error {
		data, _, err := unstructured.NestedStringMap(object.Object, "data")
		if err != nil {
			return fmt.Errorf("secret %s/%s: %w", object.GetNamespace(), object.GetName(), err)
		}
		for key, value := range data {
			decoded, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return fmt.Errorf("secret %s/%s, key %s: %w", object.GetNamespace(), object.GetName(), key, err)
			}
			redactor.AddSecret(key, string(decoded))
		}
		return nil
	})
}

// writeObjects writes a file per namespace and kind.
func (r *reader) writeObjects(ctx context.Context, folder string, redactor *check.Redactor) error {
	errs := make([]error, len(r.resources))
	var group errgroup.Group
	group.SetLimit(workers)
	for i, kind := range r.resources {
		group.Go(func() error {
			// One kind that cannot be listed does not hide the others.
			errs[i] = r.writeKind(ctx, folder, kind, redactor)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

func (r *reader) writeKind(ctx context.Context, folder string, kind resource, redactor *check.Redactor) error {
	files := map[string]*strings.Builder{}
	err := r.each(ctx, kind, func(object *unstructured.Unstructured) error {
		content, err := yaml.Marshal(presentable(object.Object, redactor))
		if err != nil {
			return fmt.Errorf("encoding %s: %w", object.GetName(), err)
		}
		place := clusterFile
		if kind.namespaced {
			place = object.GetNamespace()
		}
		if files[place] == nil {
			files[place] = &strings.Builder{}
		}
		files[place].WriteString("---\n")
		files[place].Write(content)
		return nil
	})
	errs := []error{err}
	for place, content := range files {
		if err := os.MkdirAll(filepath.Join(folder, place), folderMode); err != nil {
			errs = append(errs, err)
			continue
		}
		name := filepath.Join(folder, place, kind.GroupResource().String()+".yaml")
		errs = append(errs, os.WriteFile(name, []byte(content.String()), fileMode))
	}
	return errors.Join(errs...)
}
