package measure

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// What the pass waits with; the same as the tools that make it.
const (
	poll     = 50 * time.Millisecond
	patience = time.Minute
)

// Sequential makes one test after the other: a namespace of its own, the policy
// until it is Ready, each example created for real and judged by what the server
// answers, then everything deleted in the reverse order, each awaited until it is
// gone. It returns the number of examples, and errs on the first whose verdict is
// not the expected one: a figure for wrong answers says nothing. Tests of CREATE
// without users and exceptions are understood.
func Sequential(ctx context.Context, c client.Client, library *example.Library) (int, error) {
	count := 0
	for number, test := range library.Tests {
		made, err := one(ctx, c, test, fmt.Sprintf("sequential-%d", number))
		count += len(test.Examples)
		for i := len(made) - 1; i >= 0; i-- {
			if gone := policy.Remove(ctx, c, made[i]); err == nil {
				err = gone
			}
		}
		if err != nil {
			return count, fmt.Errorf("judge %s one after the other: %w", test.Name, err)
		}
	}
	return count, nil
}

// one makes what a test needs and judges its examples; it returns what it has made.
func one(ctx context.Context, c client.Client, test *example.Test, namespace string) (made []*unstructured.Unstructured, err error) {
	create := func(object *unstructured.Unstructured) error {
		err := c.Create(ctx, object)
		if err == nil {
			made = append(made, object)
		}
		return err
	}
	space := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}}}
	if err := create(space); err != nil {
		return made, fmt.Errorf("create the namespace %s: %w", namespace, err)
	}
	// Pods are refused until the namespace has its account.
	account := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "default", "namespace": namespace}}}
	if err := await(ctx, c, account, func(*unstructured.Unstructured) bool { return true }); err != nil {
		return made, err
	}
	for _, p := range test.Policies {
		object := p.Object.DeepCopy()
		if err := create(object); err != nil {
			return made, fmt.Errorf("create %s: %w", p, err)
		}
		if err := await(ctx, c, object.DeepCopy(), ready); err != nil {
			return made, err
		}
	}
	for _, e := range test.Examples {
		if err := wait.PollUntilContextTimeout(ctx, poll, patience, true, func(ctx context.Context) (bool, error) {
			object := e.Object.DeepCopy()
			object.SetNamespace(namespace)
			err := create(object)
			denied := apierrors.IsBadRequest(err)
			switch {
			case err != nil && !denied:
				return false, err
			case denied == (e.Expected == example.Fail):
				return true, nil
			case denied:
				return false, err
			}
			// Ready comes before the policy is in force.
			made = made[:len(made)-1]
			return false, policy.Remove(ctx, c, object)
		}); err != nil {
			return made, fmt.Errorf("%s: %w", e, err)
		}
	}
	return made, nil
}

// ready says whether Kyverno calls a policy so; both families have their own place
// for it.
func ready(policy *unstructured.Unstructured) bool {
	if is, found, _ := unstructured.NestedBool(policy.Object, "status", "conditionStatus", "ready"); found {
		return is
	}
	conditions, _, _ := unstructured.NestedSlice(policy.Object, "status", "conditions")
	for _, entry := range conditions {
		if fields, _ := entry.(map[string]any); fields["type"] == "Ready" {
			return fields["status"] == "True"
		}
	}
	return false
}

func await(ctx context.Context, c client.Client, object *unstructured.Unstructured, is func(*unstructured.Unstructured) bool) error {
	err := wait.PollUntilContextTimeout(ctx, poll, patience, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object)
		return err == nil && is(object), client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("wait for %s %s: %w; last seen: %v", object.GetKind(), object.GetName(), err, object.Object["status"])
	}
	return nil
}
