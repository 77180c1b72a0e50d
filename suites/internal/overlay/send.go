package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
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

// Sender sends manifests to one cluster, each as its identity.
type Sender struct {
	config *rest.Config
	admin  client.Client

	mu    sync.Mutex
	known map[string]client.Client
}

// NewSender makes a sender for the cluster that config reaches as its
// administrator.
func NewSender(config *rest.Config) (*Sender, error) {
	admin, err := client.New(config, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &Sender{config: config, admin: admin, known: map[string]client.Client{}}, nil
}

// Admin acts as the cluster's administrator.
func (s *Sender) Admin() client.Client { return s.admin }

// As acts as a user with these groups, or with those that the API server gives
// by itself when none is named.
func (s *Sender) As(user string, groups ...string) (client.Client, error) {
	if user == "" {
		return s.admin, nil
	}
	key := user + " " + strings.Join(groups, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.known[key]; c != nil {
		return c, nil
	}
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	c, err := client.New(config, client.Options{Mapper: s.admin.RESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("connect as %q: %w", user, err)
	}
	s.known[key] = c
	return c, nil
}

// Send sends one manifest and returns what it touched, with the server's answer:
// nil where the server did what was asked. err says that it could not be asked. A
// dry-run touches nothing.
func (s *Sender) Send(ctx context.Context, what Send, dryRun bool) (sent Sent, answer, err error) {
	c, err := s.As(what.As, what.Groups...)
	if err != nil {
		return Sent{}, nil, err
	}
	object := what.Manifest.DeepCopy()
	if object.GetName() == "" && object.GetGenerateName() == "" {
		if err := find(ctx, s.admin, object, what.Select); err != nil {
			return Sent{}, nil, err
		}
	}
	before := &unstructured.Unstructured{}
	before.SetGroupVersionKind(object.GroupVersionKind())
	err = s.admin.Get(ctx, client.ObjectKeyFromObject(object), before)
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		before = nil
	case err != nil:
		return Sent{}, nil, fmt.Errorf("read %s: %w", object.GetName(), err)
	}
	if dryRun {
		c = client.NewDryRunClient(c)
	}
	return Sent{Object: object, Before: before}, send(ctx, c, what, object, before, dryRun), nil
}

// SendObjects sends the overlay's manifests to a cluster, each as its identity,
// and returns what it touched, also when it errs in the middle.
func (o Overlay) SendObjects(ctx context.Context, config *rest.Config) ([]Sent, error) {
	sender, err := NewSender(config)
	if err != nil {
		return nil, fmt.Errorf("overlay %s: %w", o.ID, err)
	}
	var out []Sent
	for i, s := range o.Objects {
		sent, answer, err := sender.Send(ctx, s, false)
		if err != nil {
			return out, fmt.Errorf("overlay %s: objects[%d]: %w", o.ID, i, err)
		}
		out = append(out, sent)
		if answer != nil {
			return out, fmt.Errorf("overlay %s: objects[%d]: %s %s %s: %w", o.ID, i, s.Operation, sent.Object.GetKind(), sent.Object.GetName(), answer)
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

func send(ctx context.Context, c client.Client, s Send, object, before *unstructured.Unstructured, dryRun bool) error {
	switch s.Operation {
	case "delete":
		if dryRun {
			return c.Delete(ctx, object.DeepCopy())
		}
		return remove(ctx, c, object)
	case "create":
		if s.Subresource != "" {
			return c.SubResource(s.Subresource).Create(ctx, object.DeepCopy(), object.DeepCopy())
		}
		return c.Create(ctx, object, client.FieldOwner(fieldManager))
	case "update":
		if before == nil {
			return errors.New("there is no such object to update")
		}
		whole := before.DeepCopy()
		mergeInto(whole.Object, object.DeepCopy().Object)
		if s.Subresource != "" {
			return c.SubResource(s.Subresource).Update(ctx, whole, client.FieldOwner(fieldManager))
		}
		return c.Update(ctx, whole, client.FieldOwner(fieldManager))
	case "recreate":
		if before == nil {
			return errors.New("there is no such object to recreate")
		}
		if dryRun {
			return c.Delete(ctx, object.DeepCopy())
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

// PutBack makes objects as they were, in place: what was created is deleted, what
// was changed gets its old content, what was deleted is made anew. Unlike Revert
// it never deletes what stood there before.
func PutBack(ctx context.Context, config *rest.Config, sent []Sent) error {
	c, err := client.New(config, client.Options{})
	if err != nil {
		return fmt.Errorf("put back objects: %w", err)
	}
	for _, s := range slices.Backward(sent) {
		what := s.Object.GetKind() + " " + s.Object.GetName()
		live := s.Object.DeepCopy()
		err := c.Get(ctx, client.ObjectKeyFromObject(s.Object), live)
		there := err == nil
		switch {
		case client.IgnoreNotFound(err) != nil && !meta.IsNoMatchError(err):
			return fmt.Errorf("put back %s: %w", what, err)
		case s.Before == nil && there:
			err = remove(ctx, c, s.Object)
		case s.Before == nil, there && live.GetResourceVersion() == s.Before.GetResourceVersion():
			continue
		case there && live.GetDeletionTimestamp() == nil:
			err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
				if err := c.Get(ctx, client.ObjectKeyFromObject(s.Object), live); err != nil {
					return err
				}
				back := s.Before.DeepCopy()
				back.SetResourceVersion(live.GetResourceVersion())
				if err := c.Update(ctx, back); err != nil {
					return err
				}
				return restoreManagers(ctx, c, back, s.Before)
			})
		default:
			err = Revert(ctx, config, []Sent{s})
		}
		if err != nil {
			return fmt.Errorf("put back %s: %w", what, err)
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
