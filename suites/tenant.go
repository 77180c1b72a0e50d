package suites

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// rendered are the kinds of which every tenant has at least one.
var rendered = []string{"Deployment", "Service", "ConfigMap"}

var _ = perTenant(check.Check{
	ID:    "TEN-001",
	Title: "the tenant's Deployment, Service and generated ConfigMap are there as declared, and the Deployment mounts that ConfigMap",
	Why: "this is what the platform promises a tenant: an object that is missing or other than " +
		"declared is an outage, or a change that nobody committed",
	Remedy:    "compare the declared with the found value; reconcile the tenant's Kustomization, and see who else writes the field (managedFields)",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	var problems []string
	for _, kind := range rendered {
		if _, ok := tenant.Object(kind); !ok {
			problems = append(problems, "the platform declares no "+kind+" for this tenant")
		}
	}
	configMaps := map[string]bool{}
	for _, declared := range tenant.Objects {
		if declared.GetKind() == "ConfigMap" {
			configMaps[declared.GetName()] = true
		}
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(declared.GroupVersionKind())
		err := env.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), live)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, err))
			continue
		}
		for _, difference := range state.Compare(declared.Object, live.Object) {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, difference))
		}
	}
	if deployment, ok := tenant.Object("Deployment"); ok {
		problems = append(problems, mounts(ctx, env, deployment, configMaps)...)
	}
	expectNone(problems, "what differs from %s", tenant.Kustomization.Origin)
})

// mounts says what is wrong with the ConfigMaps that a live Deployment mounts:
// at least one, and none but the tenant's own.
func mounts(ctx SpecContext, env *environment, deployment platform.Object, own map[string]bool) []string {
	live := &appsv1.Deployment{}
	if err := env.client.Get(ctx, client.ObjectKeyFromObject(deployment.Unstructured), live); err != nil {
		return nil // said before
	}
	var out []string
	found := false
	for _, volume := range live.Spec.Template.Spec.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		found = true
		if !own[volume.ConfigMap.Name] {
			out = append(out, fmt.Sprintf("%s mounts the ConfigMap %s, which is not the tenant's", deployment, volume.ConfigMap.Name))
		}
	}
	if !found {
		out = append(out, fmt.Sprintf("%s mounts no ConfigMap", deployment))
	}
	return out
}

var _ = perTenant(check.Check{
	ID:        "TEN-002",
	Title:     "the pods of the tenant's Deployments run and are available in the declared number",
	Why:       "a Deployment that is admitted but not available serves nobody",
	Remedy:    "look at the pods' events and logs in the artifacts",
	Reference: "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status",
	Level:     check.Core,
	Needs:     []string{"Workloads"},
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	for _, declared := range tenant.Objects {
		if declared.GetKind() != "Deployment" {
			continue
		}
		Eventually(func(g Gomega, ctx SpecContext) {
			live := &appsv1.Deployment{}
			g.Expect(env.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), live)).To(Succeed())
			g.Expect(live.Status.ObservedGeneration).To(Equal(live.Generation), "%s has not been looked at since it was changed", declared)
			g.Expect(live.Status.AvailableReplicas).To(Equal(*live.Spec.Replicas), "%s: available replicas", declared)
		}).WithContext(ctx).Should(Succeed())
	}
})

var _ = perTenant(check.Check{
	ID:        "TEN-003",
	Title:     "the pods of the tenant's Deployments were admitted in the declared number, with the declared image and the tenant's label",
	Why:       "Pod Security, quota or a policy may refuse the pods of a Deployment that was itself accepted: only the missing pods tell",
	Remedy:    "read the events of the ReplicaSet: they carry the reason of the refusal",
	Reference: "https://kubernetes.io/docs/concepts/security/pod-security-admission/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	for _, declared := range tenant.Objects {
		if declared.GetKind() != "Deployment" {
			continue
		}
		want := &appsv1.Deployment{}
		Expect(convert(declared, want)).To(Succeed())
		replicas := 1
		if want.Spec.Replicas != nil {
			replicas = int(*want.Spec.Replicas)
		}
		Eventually(func(g Gomega, ctx SpecContext) {
			pods := &corev1.PodList{}
			g.Expect(env.client.List(ctx, pods, client.InNamespace(want.Namespace), client.MatchingLabels(want.Spec.Selector.MatchLabels))).To(Succeed())
			var problems []string
			admitted := 0
			for _, pod := range pods.Items {
				if pod.DeletionTimestamp != nil {
					continue
				}
				admitted++
				if pod.Labels[platform.TenantLabel] != tenant.Name {
					problems = append(problems, fmt.Sprintf("Pod %s has the tenant label %q", pod.Name, pod.Labels[platform.TenantLabel]))
				}
				for i, container := range pod.Spec.Containers {
					if image := want.Spec.Template.Spec.Containers[i].Image; container.Image != image {
						problems = append(problems, fmt.Sprintf("Pod %s has the image %s, declared is %s", pod.Name, container.Image, image))
					}
				}
			}
			g.Expect(admitted).To(Equal(replicas), "pods of %s that were admitted", declared)
			g.Expect(problems).To(BeEmpty(), "pods of %s", declared)
		}).WithContext(ctx).Should(Succeed())
	}
})
