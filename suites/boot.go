package suites

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

var _ = perEnvironment(check.Check{
	ID:    "BOOT-001",
	Title: "every source, Kustomization and HelmRelease is Ready at its latest generation",
	Why: "an object that is not ready leaves the cluster on an older state, or half of it, " +
		"and whatever else is read there says nothing of what was committed",
	Remedy:    "read the message: it is Flux's own; mend the first object of the chain, the others wait for it",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#working-with-kustomizations",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	objects, err := bootstrap.Observe(ctx, env.client)
	Expect(err).NotTo(HaveOccurred())
	Expect(objects).NotTo(BeEmpty(), "the cluster holds no Flux object at all")
	expectNone(bootstrap.Chain(objects, time.Now()), "not ready, the causes first")
	var stale []string
	live := map[bootstrap.Ref]bool{}
	for _, o := range objects {
		live[o.Ref] = true
		if message := notServed(env, o); message != "" {
			stale = append(stale, message)
		}
	}
	expectNone(stale, "sources that are not on the revision that is served")
	var missing []string
	for _, declared := range env.Kustomizations {
		ref := bootstrap.Ref{Kind: declared.GetKind(), Namespace: declared.GetNamespace(), Name: declared.GetName()}
		if !live[ref] {
			missing = append(missing, fmt.Sprintf("%s, declared at %s", ref, declared.Origin))
		}
	}
	expectNone(missing, "Kustomizations that are declared and not in the cluster")
})

// notServed says how a Git source's artifact differs from what the session
// serves for its URL; empty when it does not, or is not served from here.
func notServed(env *environment, o bootstrap.Object) string {
	if o.Kind != "GitRepository" {
		return ""
	}
	for _, r := range env.view.State.Repositories {
		if platform.SameRepository(r.URL, o.URL) && !strings.HasSuffix(o.Revision, env.view.Revisions[r.Name]) {
			return fmt.Sprintf("%s has %s, served is %s", o.Ref, o.Revision, env.view.Revisions[r.Name])
		}
	}
	return ""
}

// lockdown are the flags without which one tenant's Flux objects reach what is
// another's, and the controllers that have them.
var lockdown = []struct {
	flag, value string
	controllers []string
	meaning     string
}{
	{"no-cross-namespace-refs", "true", []string{"kustomize-controller", "helm-controller"}, "an object may use sources of other namespaces"},
	{"no-remote-bases", "true", []string{"kustomize-controller"}, "a build may fetch bases from anywhere"},
	{"default-service-account", "", []string{"kustomize-controller", "helm-controller"}, "an object that names no account acts as cluster-admin"},
}

var _ = perEnvironment(check.Check{
	ID:    "BOOT-002",
	Title: "every Flux controller runs with the lockdown flags that it has",
	Why: "without them a Flux object of one tenant may use another's sources, fetch code from " +
		"anywhere, or act with the controller's own rights",
	Remedy:    "add the flag to the controller's arguments by a patch in clusters/ENV/flux-system/kustomization.yaml",
	Reference: "https://fluxcd.io/flux/installation/configuration/multitenancy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	deployments := &appsv1.DeploymentList{}
	Expect(env.client.List(ctx, deployments, client.InNamespace(bootstrap.Namespace))).To(Succeed())
	args := map[string][]string{}
	for _, d := range deployments.Items {
		for _, c := range d.Spec.Template.Spec.Containers {
			args[d.Name] = append(args[d.Name], append(slices.Clone(c.Command), c.Args...)...)
		}
	}
	var problems []string
	for _, rule := range lockdown {
		for _, controller := range rule.controllers {
			given, installed := args[controller]
			if !installed {
				problems = append(problems, controller+" is not installed")
				continue
			}
			if problem := lacks(given, rule.flag, rule.value); problem != "" {
				problems = append(problems, fmt.Sprintf("%s: %s: %s", controller, problem, rule.meaning))
			}
		}
	}
	expectNone(problems, "controllers that are open")
})

// lacks says what is wrong with a flag among arguments; an empty value stands
// for any but none. The last one given counts, as with the controllers.
func lacks(args []string, flag, value string) string {
	found, given := "", false
	for _, arg := range args {
		name, v, assigned := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name != flag {
			continue
		}
		found, given = v, true
		if !assigned {
			found = "true"
		}
	}
	switch {
	case !given:
		return "--" + flag + " is missing"
	case value != "" && found != value, found == "":
		return fmt.Sprintf("--%s is %q", flag, found)
	}
	return ""
}

var _ = perEnvironment(check.Check{
	ID:    "BOOT-003",
	Title: "the arguments that the components run with are the declared ones, but for the overrides that the report lists",
	Why: "a component that runs with other arguments than the platform declares is another " +
		"component: what the checks see of it says nothing of the platform",
	Remedy: "compare the two lists; where the platform is right, the provider's override table is wrong, " +
		"and where a pod was changed by hand, let Flux heal it",
	Reference: "the report's section «overrides»",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	report, err := env.state.ClusterReport(ctx)
	Expect(err).NotTo(HaveOccurred())
	Expect(report.Backed).NotTo(BeEmpty(), "no component runs in this cluster")
	deployments := &appsv1.DeploymentList{}
	Expect(env.client.List(ctx, deployments)).To(Succeed())
	declared := map[string][]string{}
	for _, d := range deployments.Items {
		for _, c := range append(slices.Clone(d.Spec.Template.Spec.InitContainers), d.Spec.Template.Spec.Containers...) {
			declared[d.Namespace+" Deployment/"+d.Name+" "+c.Name] = c.Args
		}
	}
	var problems []string
	for _, backed := range report.Backed {
		if backed.Init || len(backed.Running) == 0 {
			continue // it has ended, and its arguments with it
		}
		problems = append(problems, unexplained(backed, declared, report.Overrides)...)
	}
	sort.Strings(problems)
	expectNone(problems, "differences that no override explains")
})

func unexplained(backed cluster.Backed, declared map[string][]string, overrides []cluster.Override) []string {
	where := fmt.Sprintf("%s %s %s", backed.Namespace, backed.Workload, backed.Container)
	var out []string
	own := slices.DeleteFunc(slices.Clone(overrides), func(o cluster.Override) bool {
		return o.Namespace != backed.Namespace || o.Pod != backed.Pod || o.Container != backed.Container
	})
	for _, line := range cluster.Unexplained(backed.Declared, backed.Running, own) {
		out = append(out, where+": "+line)
	}
	// The agent expands variables; what holds none must stand there as declared.
	args, known := declared[where]
	if !known {
		return out
	}
	for i, arg := range args {
		if !strings.Contains(arg, "$(") && (i >= len(backed.Declared) || backed.Declared[i] != arg) {
			out = append(out, where+": the workload declares "+arg+", its pod does not")
		}
	}
	return out
}
