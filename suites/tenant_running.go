package suites

import (
	"context"
	"fmt"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perTenant(check.Check{
	ID: "TEN-009",
	Title: "the containers of the tenant's pods run as declared: user, groups, root file system, capabilities, privileges, " +
		"system calls, token and limits, as their node sees them",
	Why: "a security context is a wish until the node carries it out, and a limit is what the kernel enforces: what is declared " +
		"and not in effect protects nobody",
	Remedy: "compare the line with the pod's spec: where that is as declared, the node or its runtime does not honour it; " +
		"where it is not, see who changed the pod, or gave its namespace defaults",
	Reference: "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/",
	Level:     check.Core,
	Needs:     []string{"Workloads"},
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	deployments := declaredOf(tenant, "Deployment")
	rolledOut(ctx, env, tenant)
	problems, err := patiently(ctx, func(ctx context.Context) ([]string, error) {
		report, err := env.state.ClusterReport(ctx)
		if err != nil {
			return nil, err
		}
		if len(report.Containers) == 0 {
			return []string{"the nodes tell of no container at all"}, nil
		}
		var problems []string
		for _, declared := range deployments {
			found, err := runningProblems(ctx, env, declared, report.Containers)
			if err != nil {
				return nil, err
			}
			problems = append(problems, found...)
		}
		return problems, nil
	})
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "where containers of %s run otherwise than declared", tenant.Name)
})

// runningProblems holds the containers of a Deployment's ready pods against its
// declared template.
func runningProblems(ctx context.Context, env *environment, declared platform.Object, containers []cluster.Container) ([]string, error) {
	want := &appsv1.Deployment{}
	if err := convert(declared, want); err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(want.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s: %w", declared, err)
	}
	pods, err := serving{service: declared, pods: selector}.readyPods(ctx, env)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return []string{fmt.Sprintf("%s: none of its pods is ready", declared)}, nil
	}
	limits, err := declaredLimits(env, declared.GetNamespace())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, pod := range pods {
		for _, container := range want.Spec.Template.Spec.Containers {
			where := fmt.Sprintf("%s: container %s of Pod %s", declared, container.Name, pod.Name)
			i := slices.IndexFunc(containers, func(c cluster.Container) bool {
				return c.Namespace == pod.Namespace && c.Pod == pod.Name && c.Container == container.Name
			})
			if i < 0 {
				out = append(out, where+": no node tells of it")
				continue
			}
			for _, problem := range state.RunningProblems(want.Spec.Template.Spec, container, limits, runningAs(containers[i])) {
				out = append(out, where+": "+problem)
			}
		}
	}
	return out, nil
}

func runningAs(c cluster.Container) state.Running {
	return state.Running{
		UID: c.UID, GID: c.GID, Groups: c.Groups, ReadOnlyRoot: c.ReadOnlyRoot,
		Effective: c.Effective, Permitted: c.Permitted, Bounding: c.Bounding,
		NoNewPrivileges: c.NoNewPrivileges, Seccomp: c.Seccomp, Token: c.ServiceAccountToken,
		MemoryLimit: c.MemoryLimit, CPULimit: c.CPULimit,
	}
}

// declaredLimits are the limits that the platform declares for containers of a
// namespace that state none.
func declaredLimits(env *environment, namespace string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for _, object := range env.Objects {
		if object.GetKind() != "LimitRange" || object.GetNamespace() != namespace {
			continue
		}
		limits := &corev1.LimitRange{}
		if err := convert(object, limits); err != nil {
			return nil, err
		}
		for _, item := range limits.Spec.Limits {
			if item.Type != corev1.LimitTypeContainer {
				continue
			}
			for name, quantity := range item.Default {
				out[name] = quantity
			}
		}
	}
	return out, nil
}
