package suites

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// metadataAddress is where clouds give a node's credentials to whoever asks.
var metadataAddress = netip.MustParseAddr("169.254.169.254")

const metadataPort = 80

var _ = perTenant(check.Check{
	ID: "ISO-007",
	Title: "the tenant's pods are reached from the ingress controller, and reach no other tenant, nothing of what Flux has fetched, " +
		"and no metadata of a cloud",
	Why: "in one network every pod reaches every other: a service that is taken over asks its neighbours, reads all tenants' " +
		"sources where Flux keeps them, and takes the node's credentials",
	Remedy: "deny all traffic of the tenants' namespace by a NetworkPolicy, and open what is needed: names, and what comes from the " +
		"ingress controller; leave Flux's own policies in flux-system",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/network-policies/#default-policies",
	Level:     check.Core,
	Needs:     []string{"Workloads", "NetworkPolicy"},
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	services := servingOf(env, tenant)
	i := slices.IndexFunc(services, func(s serving) bool { return s.serves.Names })
	if i < 0 {
		Skip(notSupported + fmt.Sprintf("no pod of %s is known to hold a program that asks", tenant.Name))
	}
	rolledOut(ctx, env, tenant)
	pods, err := services[i].readyPods(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	expectSome(pods, "no pod of %s is ready to ask from", tenant.Name)
	next, err := neighbour(ctx, env, tenant)
	Expect(err).NotTo(HaveOccurred())
	if next == nil {
		note("no other tenant's service can answer, so none was asked")
	}
	problems, err := patiently(ctx, func(ctx context.Context) ([]string, error) {
		attempts, err := attemptsFrom(ctx, env, tenant, services[i], next, pods[0])
		if err != nil {
			return nil, err
		}
		wrong, undecided := state.ReachProblems(attempts)
		metadata, err := metadataProblems(ctx, env, pods[0])
		return slices.Concat(wrong, undecided, metadata), err
	})
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "where traffic of %s goes otherwise than it must", tenant.Name)
})

// attemptsFrom tries from a tenant's pod what must not be possible, each beside
// the same request from where it must be.
func attemptsFrom(ctx context.Context, env *environment, tenant *platform.Tenant, own serving, next *serving, pod corev1.Pod) ([]state.Reach, error) {
	from := asker{env, pod.Namespace, pod.Name, pod.Spec.Containers[0].Name, "Pod " + pod.Name}
	guest, err := env.guest(ctx)
	if err != nil {
		return nil, err
	}
	ingress := guest.place("a pod in " + guest.namespace)
	base, err := own.address(ctx, env)
	if err != nil {
		return nil, err
	}
	path := own.serves.At(sortedKeys(own.files)[0])
	reached, err := ingress.reach(ctx, base+path, own.service.String(), nil)
	if err != nil {
		return nil, err
	}
	reached.Allowed = true
	out := []state.Reach{reached}
	if next != nil {
		base, err := next.address(ctx, env)
		if err != nil {
			return nil, err
		}
		url := base + next.serves.At(sortedKeys(next.files)[0])
		attempt, err := from.reach(ctx, url, next.service.String(), &ingress)
		if err != nil {
			return nil, err
		}
		out = append(out, attempt)
	}
	artifact, source, err := artifactOf(ctx, env, tenant)
	if err != nil {
		return nil, err
	}
	if artifact != "" {
		flux, err := env.guestIn(ctx, bootstrap.Namespace)
		if err != nil {
			return nil, err
		}
		inside := flux.place("a pod in " + bootstrap.Namespace)
		attempt, err := from.reach(ctx, artifact, "the artifact of "+source, &inside)
		if err != nil {
			return nil, err
		}
		out = append(out, attempt)
	}
	metadata, err := from.reach(ctx, "http://"+net.JoinHostPort(metadataAddress.String(), strconv.Itoa(metadataPort))+"/", "the metadata address "+metadataAddress.String(), nil)
	return append(out, metadata), err
}

// asker is a container that asks.
type asker struct {
	env                       *environment
	namespace, pod, container string
	// name is how failures call it.
	name string
}

func (v *visitor) place(name string) asker {
	return asker{v.env, v.namespace, v.pod, visitorContainer, name}
}

// reach asks once, and the control as well where there is one.
func (p asker) reach(ctx context.Context, url, what string, control *asker) (state.Reach, error) {
	replies, err := p.env.askFrom(ctx, p.namespace, p.pod, p.container, request{url: url})
	if err != nil {
		return state.Reach{}, err
	}
	out := state.Reach{From: p.name, To: what, Answered: replies[0].Status != 0, What: replies[0].Error}
	if out.Answered {
		out.What = fmt.Sprintf("answered with status %d%s", replies[0].Status, byPod(replies[0].Pod))
	}
	if control != nil {
		with, err := control.reach(ctx, url, what, nil)
		if err != nil {
			return state.Reach{}, err
		}
		out.Control = &with
	}
	return out, nil
}

func byPod(name string) string {
	if name == "" {
		return ""
	}
	return " by Pod " + name
}

// neighbour is a Service of the tenant that follows by name and can answer; nil
// where there is none.
func neighbour(ctx context.Context, env *environment, tenant *platform.Tenant) (*serving, error) {
	at := slices.Index(env.Tenants, tenant)
	for _, other := range slices.Concat(env.Tenants[at+1:], env.Tenants[:at]) {
		found, _, err := servings(env.view.Config, other)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			pods, err := s.readyPods(ctx, env)
			if err != nil {
				return nil, err
			}
			if len(pods) > 0 {
				return &s, nil
			}
		}
	}
	return nil, nil
}

// artifactOf is the URL of what Flux has fetched for a tenant, and whose it is;
// empty where nothing was.
func artifactOf(ctx context.Context, env *environment, tenant *platform.Tenant) (url, source string, err error) {
	for _, s := range tenant.Sources {
		live, err := env.live(ctx, s.Object)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", "", fmt.Errorf("read %s: %w", s.Object, err)
		}
		if url, _, _ := unstructured.NestedString(live.Object, "status", "artifact", "url"); url != "" {
			return url, s.String(), nil
		}
	}
	return "", "", nil
}

// metadataProblems says why the policies do not keep a pod from the metadata
// address: nobody answers there outside of a cloud, so that a refusal alone shows
// nothing.
func metadataProblems(ctx context.Context, env *environment, pod corev1.Pod) ([]string, error) {
	policies := &networkingv1.NetworkPolicyList{}
	if err := env.client.List(ctx, policies, client.InNamespace(pod.Namespace)); err != nil {
		return nil, fmt.Errorf("list the network policies of %s: %w", pod.Namespace, err)
	}
	held, allowed := state.EgressTo(policies.Items, pod.Labels, metadataAddress, metadataPort)
	switch {
	case !held:
		return []string{fmt.Sprintf("no NetworkPolicy holds what goes out of Pod %s: it reaches %s where a cloud has it", pod.Name, metadataAddress)}, nil
	case allowed != "":
		return []string{fmt.Sprintf("NetworkPolicy %s lets Pod %s reach %s", allowed, pod.Name, metadataAddress)}, nil
	}
	return nil, nil
}
