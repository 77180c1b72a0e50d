package suites

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perEnvironment(check.Check{
	ID:    "ISO-002",
	Title: "the selector of every tenant's Service matches that tenant's pods and nobody else's",
	Why: "all tenants share one namespace: a selector without the tenant sends one tenant's traffic " +
		"to another's pods",
	Remedy:    "put the tenant's label into the selector of the Service and of the Deployment; namePrefix and commonMetadata do not touch selectors",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/service/#services-in-kubernetes",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	var services, workloads []*unstructured.Unstructured
	seen, err := env.look(ctx)
	Expect(err).NotTo(HaveOccurred())
	for _, object := range seen.shared {
		switch object.GetKind() {
		case "Service":
			services = append(services, object)
		case "Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job":
			workloads = append(workloads, object)
		}
	}
	expectSome(services, "the tenants' namespaces hold no Service")
	expectSome(workloads, "the tenants' namespaces hold no workload")
	var problems []string
	for _, service := range services {
		kind, _, _ := unstructured.NestedString(service.Object, "spec", "type")
		selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
		tenant := service.GetLabels()[platform.TenantLabel]
		if kind != "ExternalName" && selector[platform.TenantLabel] != tenant {
			problems = append(problems, fmt.Sprintf("Service %s of %q selects %v, without its tenant", service.GetName(), tenant, selector))
		}
	}
	for _, crossing := range state.SelectorCrossings(services, workloads, platform.TenantLabel) {
		problems = append(problems, crossing.String())
	}
	expectNone(problems, "selectors that do not stay with their tenant")
})

var _ = perTenant(check.Check{
	ID:    "ISO-003",
	Title: "the inventory, the labels and the field managers of the tenant's objects agree that its Kustomization alone applied them",
	Why: "a field that somebody else wrote is not in Git: Flux leaves it alone unless it is declared, and no commit " +
		"tells how it came there; what another Kustomization applied is the other's to delete",
	Remedy:    "find the manager in metadata.managedFields of the object; put the field into the repository, or delete the object and let Flux apply it anew",
	Reference: "https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	expectSome(tenant.Objects, "the platform declares no object for this tenant")
	flux, err := bootstrap.Observe(ctx, env.client)
	Expect(err).NotTo(HaveOccurred())
	applied := inventories(flux)
	found := 0
	var problems []string
	for _, declared := range tenant.Objects {
		live, err := env.live(ctx, declared)
		if apierrors.IsNotFound(err) {
			continue // that it is missing is not said here
		} else if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, err))
			continue
		}
		found++
		list, err := state.AppliedProblems(state.AppliedInput{
			Declared: declared.Unstructured, Live: live, Inventories: applied,
			Kustomization: declared.Owner.String(),
		})
		Expect(err).NotTo(HaveOccurred())
		for _, problem := range list {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, problem))
		}
	}
	expectNone(problems, "objects of %s that are not its Kustomization's alone", tenant.Name)
	Expect(found).NotTo(BeZero(), "none of the declared objects is in the cluster")
})

var _ = perEnvironment(check.Check{
	ID:    "ISO-004",
	Title: "no object in the tenants' shared namespaces names one of another tenant, or one that does not exist",
	Why: "in a shared namespace a name is all it takes to mount another tenant's values, credentials or data, or to " +
		"lead requests to its Service; and what a name without an object will mean is up to whoever makes one",
	Remedy:    "name an object of the tenant's own; mark what may be missing as optional; let a policy refuse other tenants' names",
	Reference: "https://kubernetes.io/docs/concepts/security/multi-tenancy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	seen, err := env.look(ctx)
	Expect(err).NotTo(HaveOccurred())
	problems, followed, err := state.ReferenceCrossings(seen.shared, platform.TenantLabel)
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "names that lead out of their tenant")
	Expect(followed).NotTo(BeZero(), "no object with a tenant's label names another object")
})
