package overlay

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldManager is the name under which overlays write.
const fieldManager = "flux-platform-conformance-overlay"

// Sent is an object that an overlay has touched, with what stood there before.
type Sent struct {
	// Object as it was named to the server.
	Object *unstructured.Unstructured
	// Before is the object as it was; nil when there was none.
	Before *unstructured.Unstructured
}

// SendObjects sends the overlay's manifests to a cluster, each as its identity,
// and returns what it touched, also when it errs in the middle.
func (o Overlay) SendObjects(ctx context.Context, config *rest.Config) ([]Sent, error) {
	var out []Sent
	for i, s := range o.Objects {
		identity := rest.CopyConfig(config)
		identity.Impersonate.UserName = s.As
		c, err := client.New(identity, client.Options{})
		if err != nil {
			return out, fmt.Errorf("overlay %s: objects[%d]: connect as %q: %w", o.ID, i, s.As, err)
		}
		object := s.Manifest.DeepCopy()
		if object.GetName() == "" {
			if err := find(ctx, c, object, s.Select); err != nil {
				return out, fmt.Errorf("overlay %s: objects[%d]: %w", o.ID, i, err)
			}
		}
		before := &unstructured.Unstructured{}
		before.SetGroupVersionKind(object.GroupVersionKind())
		err = c.Get(ctx, client.ObjectKeyFromObject(object), before)
		if client.IgnoreNotFound(err) != nil {
			return out, fmt.Errorf("overlay %s: objects[%d]: read %s: %w", o.ID, i, object.GetName(), err)
		}
		if err != nil {
			before = nil
		}
		out = append(out, Sent{Object: object, Before: before})
		if err := send(ctx, c, s, object, before); err != nil {
			return out, fmt.Errorf("overlay %s: objects[%d]: %s %s %s: %w", o.ID, i, s.Operation, object.GetKind(), object.GetName(), err)
		}
	}
	return out, nil
}

func find(ctx context.Context, c client.Client, object *unstructured.Unstructured, labels map[string]string) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(object.GroupVersionKind())
	if err := c.List(ctx, list, client.InNamespace(object.GetNamespace()), client.MatchingLabels(labels)); err != nil {
		return fmt.Errorf("find the %s with labels %v: %w", object.GetKind(), labels, err)
	}
	if len(list.Items) != 1 {
		return fmt.Errorf("find the %s with labels %v: %d objects carry them, not one", object.GetKind(), labels, len(list.Items))
	}
	object.SetName(list.Items[0].GetName())
	return nil
}

func send(ctx context.Context, c client.Client, s Send, object, before *unstructured.Unstructured) error {
	switch s.Operation {
	case "delete":
		return remove(ctx, c, object)
	case "recreate":
		if before == nil {
			return fmt.Errorf("there is no such object to recreate")
		}
		if err := remove(ctx, c, object); err != nil {
			return err
		}
		fresh := Merge(before, object)
		return c.Create(ctx, fresh)
	case "patch":
		data, err := object.MarshalJSON()
		if err != nil {
			return err
		}
		patch := client.RawPatch(types.MergePatchType, data)
		if s.Subresource != "" {
			return c.SubResource(s.Subresource).Patch(ctx, object.DeepCopy(), patch, client.FieldOwner(fieldManager))
		}
		return c.Patch(ctx, object.DeepCopy(), patch, client.FieldOwner(fieldManager))
	default:
		if s.Subresource != "" {
			return c.SubResource(s.Subresource).Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner(fieldManager), client.ForceOwnership)
		}
		return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner(fieldManager), client.ForceOwnership)
	}
}

func remove(ctx context.Context, c client.Client, object *unstructured.Unstructured) error {
	if err := c.Delete(ctx, object.DeepCopy(), client.PropagationPolicy("Background")); client.IgnoreNotFound(err) != nil {
		return err
	}
	return wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object.DeepCopy())
		return err != nil && client.IgnoreNotFound(err) == nil, client.IgnoreNotFound(err)
	})
}

// Merge lays the fields of a manifest over an object that stood on the server,
// ready to be created anew: what the server assigns is left out.
func Merge(before, manifest *unstructured.Unstructured) *unstructured.Unstructured {
	out := before.DeepCopy()
	for _, field := range []string{"resourceVersion", "uid", "creationTimestamp", "generation", "managedFields", "selfLink"} {
		unstructured.RemoveNestedField(out.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(out.Object, "status")
	mergeInto(out.Object, manifest.DeepCopy().Object)
	return out
}

func mergeInto(to, from map[string]any) {
	for key, value := range from {
		child, ok := value.(map[string]any)
		if target, both := to[key].(map[string]any); ok && both {
			mergeInto(target, child)
			continue
		}
		if value == nil {
			delete(to, key)
			continue
		}
		to[key] = value
	}
}

// Revert puts objects that Flux does not heal back by itself: what the overlay
// created is deleted; what it changed or deleted is made as it was.
func Revert(ctx context.Context, config *rest.Config, sent []Sent) error {
	c, err := client.New(config, client.Options{})
	if err != nil {
		return fmt.Errorf("revert objects: %w", err)
	}
	for i := len(sent) - 1; i >= 0; i-- {
		s := sent[i]
		if err := remove(ctx, c, s.Object); err != nil {
			return fmt.Errorf("revert %s %s: %w", s.Object.GetKind(), s.Object.GetName(), err)
		}
		if s.Before == nil {
			continue
		}
		restored := Merge(s.Before, &unstructured.Unstructured{Object: map[string]any{}})
		if err := c.Create(ctx, restored); err != nil {
			return fmt.Errorf("revert %s %s: %w", s.Object.GetKind(), s.Object.GetName(), err)
		}
		if err := restoreManagers(ctx, c, restored, s.Before); err != nil {
			return fmt.Errorf("revert %s %s: %w", s.Object.GetKind(), s.Object.GetName(), err)
		}
	}
	return nil
}

// restoreManagers gives an object that was made anew the field managers that it
// had: whoever makes an object counts as the writer of all its fields, and Flux,
// which finds nothing to change, would not claim them back.
func restoreManagers(ctx context.Context, c client.Client, restored, before *unstructured.Unstructured) error {
	managers, found, err := unstructured.NestedSlice(before.Object, "metadata", "managedFields")
	if err != nil || !found {
		return err
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"managedFields": managers}})
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(c.Patch(ctx, restored, client.RawPatch(types.MergePatchType, data)))
}
