package bootstrap

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// cancelGate is the feature gate with which a request for reconciliation ends a
// health check under way, and the next one begins with a look.
const cancelGate = "CancelHealthCheckOnNewRevision=true"

// Where health cannot be told here, Flux is asked to look again after a second,
// some times; then its own interval holds.
const (
	recheckInterval = time.Second
	mostRechecks    = 5
)

// recheck is what was asked of one Kustomization in one state.
type recheck struct {
	state string
	at    time.Time
	looks int
}

// static are the kinds that are healthy once they are there.
var static = []string{
	"Namespace", "ConfigMap", "Secret", "Service", "ServiceAccount", "ResourceQuota", "LimitRange", "NetworkPolicy",
	"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "GitRepository", "HelmRepository",
}

// recheck asks a Kustomization whose health check has nothing left to wait for to
// look again: kustomize-controller itself looks every five seconds. Where the
// platform does not run it with the gate, a request would only queue a second
// reconciliation behind the first, so none is made.
func (s *settler) recheck(ctx context.Context, objects []Object, index map[Ref]Object) error {
	for _, o := range objects {
		if o.Kind != "Kustomization" || o.Current() || !checksHealth(o) {
			continue
		}
		state := fmt.Sprintf("%d %s", o.Generation, o.Revision)
		if done := s.rechecked[o.Ref]; done.state != state {
			s.rechecked[o.Ref] = recheck{state: state, at: time.Now()}
		} else if done.looks >= mostRechecks || time.Since(done.at) < recheckInterval {
			continue
		}
		cancels, err := s.cancels(ctx)
		if err != nil || !cancels {
			return err
		}
		healthy, known, err := s.healthy(ctx, o, index)
		if err != nil {
			return err
		}
		if known && !healthy {
			continue
		}
		done := s.rechecked[o.Ref]
		if !known && done.looks == 0 && time.Since(done.at) < recheckInterval {
			continue
		}
		s.rechecked[o.Ref] = recheck{state: state, at: time.Now(), looks: done.looks + 1}
		if _, err := Request(ctx, s.in.Client, o); err != nil {
			return err
		}
	}
	return nil
}

// checksHealth says whether a Kustomization has applied everything and waits for
// it to become healthy.
func checksHealth(o Object) bool {
	return o.Reconciling && strings.Contains(message(o), "health check")
}

// cancels says whether kustomize-controller runs with the gate; asked once.
func (s *settler) cancels(ctx context.Context) (bool, error) {
	if s.gate != nil {
		return *s.gate, nil
	}
	controller := &appsv1.Deployment{}
	err := s.in.Client.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: "kustomize-controller"}, controller)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read the flags of kustomize-controller: %w", err)
	}
	found := false
	for _, c := range controller.Spec.Template.Spec.Containers {
		found = found || slices.ContainsFunc(c.Args, func(arg string) bool { return strings.Contains(arg, cancelGate) })
	}
	s.gate = &found
	return found, nil
}

// healthy says whether all that a Kustomization applied is healthy, and whether
// that can be told here: of a kind with health expressions only Flux can.
func (s *settler) healthy(ctx context.Context, o Object, index map[Ref]Object) (healthy, known bool, err error) {
	ids := o.Inventory()
	for _, id := range ids {
		parts := strings.Split(id, "_")
		if len(parts) != 4 {
			return false, false, nil
		}
		namespace, name, kind := parts[0], parts[1], parts[3]
		switch {
		case slices.Contains(static, kind):
		case kind == "Deployment":
			available, err := s.available(ctx, client.ObjectKey{Namespace: namespace, Name: name})
			if err != nil || !available {
				return false, true, err
			}
		default:
			target, isFlux := index[Ref{Kind: kind, Namespace: namespace, Name: name}]
			if !isFlux {
				return false, !judgedByExpression(o, kind), nil
			}
			if !target.Current() {
				return false, true, nil
			}
		}
	}
	return len(ids) > 0, true, nil
}

// judgedByExpression says whether the Kustomization has a health expression for a
// kind. Another kind's health takes Flux's own look: looking again costs a whole
// reconciliation, which for large CRDs is seconds.
func judgedByExpression(o Object, kind string) bool {
	list, _, _ := unstructured.NestedSlice(o.Live.Object, "spec", "healthCheckExprs")
	return slices.ContainsFunc(list, func(entry any) bool {
		fields, _ := entry.(map[string]any)
		return fields["kind"] == kind
	})
}

func (s *settler) available(ctx context.Context, key client.ObjectKey) (bool, error) {
	d := &appsv1.Deployment{}
	if err := s.in.Client.Get(ctx, key, d); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	status := d.Status
	return status.ObservedGeneration == d.Generation && status.UpdatedReplicas == wanted &&
		status.AvailableReplicas == wanted && status.Replicas == wanted, nil
}
