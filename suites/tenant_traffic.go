package suites

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perTenant(check.Check{
	ID:    "TEN-004",
	Title: "the endpoints of the tenant's Service are exactly the tenant's pods that it selects",
	Why: "traffic goes where the EndpointSlices say, whatever the selector: a slice that somebody made, or an " +
		"address that is no longer the pod's, hands a tenant's requests to somebody else",
	Remedy:    "delete the slice that no controller keeps; where a pod is missing, look at its readiness and at the selector",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	services := declaredOf(tenant, "Service")
	rolledOut(ctx, env, tenant)
	var problems []string
	// The controller follows the pods at a moment's distance; what it will not
	// mend is said at once.
	Eventually(func(g Gomega, ctx SpecContext) {
		problems = nil
		passing := true
		for _, declared := range services {
			found, err := endpointFindings(ctx, env, tenant, declared)
			g.Expect(err).NotTo(HaveOccurred())
			for _, finding := range found {
				problems = append(problems, fmt.Sprintf("%s: %s", declared, finding.Text))
				passing = passing && finding.Passing
			}
		}
		g.Expect(passing && len(problems) > 0).To(BeFalse(), func() string { return listed(problems, "endpoints of %s", tenant.Name) })
	}).WithContext(ctx).Should(Succeed())
	expectNone(problems, "endpoints of %s", tenant.Name)
})

func endpointFindings(ctx context.Context, env *environment, tenant *platform.Tenant, declared platform.Object) ([]state.Finding, error) {
	in := state.EndpointsInput{Tenant: tenant.Name, TenantLabel: platform.TenantLabel}
	if err := env.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), &in.Service); err != nil {
		return []state.Finding{{Text: err.Error()}}, nil
	}
	if in.Service.Spec.Type == corev1.ServiceTypeExternalName {
		return []state.Finding{{Text: "it is a mere name for " + in.Service.Spec.ExternalName + ", which is no pod"}}, nil
	}
	pods, slices := &corev1.PodList{}, &discoveryv1.EndpointSliceList{}
	for _, list := range []client.ObjectList{pods, slices} {
		if err := env.client.List(ctx, list, client.InNamespace(declared.GetNamespace())); err != nil {
			return nil, fmt.Errorf("list the endpoints of %s: %w", declared, err)
		}
	}
	in.Pods, in.Slices = pods.Items, slices.Items
	var err error
	in.Empty, err = declaredEmpty(tenant, &in.Service)
	return state.EndpointFindings(in), err
}

// declaredEmpty says whether all Deployments that a Service selects are declared
// to have no pods.
func declaredEmpty(tenant *platform.Tenant, service *corev1.Service) (bool, error) {
	selected := 0
	for _, object := range tenant.Objects {
		if object.GetKind() != "Deployment" {
			continue
		}
		deployment := &appsv1.Deployment{}
		if err := convert(object, deployment); err != nil {
			return false, err
		}
		if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(deployment.Spec.Template.Labels)) {
			continue
		}
		selected++
		if deployment.Spec.Replicas == nil || *deployment.Spec.Replicas > 0 {
			return false, nil
		}
	}
	return selected > 0, nil
}

var _ = perTenant(check.Check{
	ID:    "TEN-006",
	Title: "the tenant's Ingress leads from a host that is the tenant's alone to a port of the tenant's Service",
	Why: "a host that two Ingresses claim goes to whichever the controller read first, and a backend that is not there, " +
		"or is another's, answers in the tenant's name",
	Remedy:    "give each tenant a host of its own, and name the tenant's Service and one of its ports in the backend",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/ingress/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	declared := declaredOf(tenant, "Ingress")
	services, err := liveServices(ctx, env, tenant)
	Expect(err).NotTo(HaveOccurred())
	ingresses, classes := &networkingv1.IngressList{}, &networkingv1.IngressClassList{}
	Expect(env.client.List(ctx, ingresses)).To(Succeed())
	Expect(env.client.List(ctx, classes)).To(Succeed())
	own := map[client.ObjectKey]bool{}
	for _, object := range declared {
		own[client.ObjectKeyFromObject(object.Unstructured)] = true
	}
	live := map[client.ObjectKey]networkingv1.Ingress{}
	var others []networkingv1.Ingress
	for _, ingress := range ingresses.Items {
		if key := client.ObjectKeyFromObject(&ingress); own[key] {
			live[key] = ingress
		} else {
			others = append(others, ingress)
		}
	}
	var problems []string
	for _, object := range declared {
		ingress, there := live[client.ObjectKeyFromObject(object.Unstructured)]
		if !there {
			problems = append(problems, fmt.Sprintf("%s is not in the cluster", object))
			continue
		}
		for _, problem := range state.IngressProblems(state.IngressInput{
			Ingress: ingress, Services: services[ingress.Namespace], Others: others, Classes: classes.Items, TenantLabel: platform.TenantLabel,
		}) {
			problems = append(problems, fmt.Sprintf("%s: %s", object, problem))
		}
	}
	expectNone(problems, "where requests for %s do not reach it", tenant.Name)
})

// liveServices are the tenant's declared Services as they stand in the cluster,
// by namespace and name.
func liveServices(ctx context.Context, env *environment, tenant *platform.Tenant) (map[string]map[string]corev1.Service, error) {
	out := map[string]map[string]corev1.Service{}
	for _, object := range tenant.Objects {
		if object.GetKind() != "Service" {
			continue
		}
		service := corev1.Service{}
		err := env.client.Get(ctx, client.ObjectKeyFromObject(object.Unstructured), &service)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("read %s: %w", object, err)
		}
		if err != nil {
			continue // an Ingress that leads there leads to nothing
		}
		if out[service.Namespace] == nil {
			out[service.Namespace] = map[string]corev1.Service{}
		}
		out[service.Namespace][service.Name] = service
	}
	return out, nil
}
