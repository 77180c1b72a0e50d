package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// FieldManager is the name under which «flux bootstrap» applies objects; the
// controllers take them over from it.
const FieldManager = "flux"

// pollInterval is how often the API server is asked again; a list of Flux
// objects costs it a millisecond or two.
const pollInterval = 200 * time.Millisecond

// Decode reads the objects of a YAML stream; empty documents are left out and
// lists are unfolded.
func Decode(data []byte) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var out []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode document %d: %w", len(out)+1, err)
		}
		switch {
		case len(object.Object) == 0:
		case object.IsList():
			list, err := object.ToList()
			if err != nil {
				return nil, fmt.Errorf("decode list: %w", err)
			}
			for i := range list.Items {
				out = append(out, &list.Items[i])
			}
		default:
			out = append(out, object)
		}
	}
}

// Apply sends the objects by server-side apply: what others are made from
// first (namespaces and CRDs, awaited until served), then the rest. It errs
// with the object that the server refused and with the server's own words.
func Apply(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	definitions := func(o *unstructured.Unstructured) bool {
		return o.GetKind() == "CustomResourceDefinition" || o.GetKind() == "Namespace"
	}
	ordered := append([]*unstructured.Unstructured(nil), objects...)
	sort.SliceStable(ordered, func(i, j int) bool { return definitions(ordered[i]) && !definitions(ordered[j]) })
	awaited := false
	for _, object := range ordered {
		if !definitions(object) && !awaited {
			if err := awaitDefinitions(ctx, c, ordered); err != nil {
				return err
			}
			awaited = true
		}
		if err := applyOne(ctx, c, object); err != nil {
			return err
		}
	}
	return nil
}

// applyOne asks again while the server does not yet know the kind: discovery
// follows a new CRD a moment later.
func applyOne(ctx context.Context, c client.Client, object *unstructured.Unstructured) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		last = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner(FieldManager), client.ForceOwnership)
		if meta.IsNoMatchError(last) || apierrors.IsServiceUnavailable(last) {
			return false, nil
		}
		return true, nil
	})
	if last == nil {
		last = err
	}
	if last != nil {
		return fmt.Errorf("apply %s: %w", describe(object), last)
	}
	return nil
}

func awaitDefinitions(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		if object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		err := wait.PollUntilContextTimeout(ctx, pollInterval, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			live := &unstructured.Unstructured{}
			live.SetGroupVersionKind(object.GroupVersionKind())
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), live); err != nil {
				return false, client.IgnoreNotFound(err)
			}
			established, _ := condition(live, "Established")
			return established == "True", nil
		})
		if err != nil {
			return fmt.Errorf("wait for %s to be served: %w", describe(object), err)
		}
	}
	return nil
}

func describe(object *unstructured.Unstructured) string {
	if object.GetNamespace() == "" {
		return object.GetKind() + " " + object.GetName()
	}
	return object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
}

func condition(object *unstructured.Unstructured, kind string) (status string, fields map[string]any) {
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range list {
		c, ok := entry.(map[string]any)
		if ok && c["type"] == kind {
			status, _ := c["status"].(string)
			return status, c
		}
	}
	return "", nil
}
