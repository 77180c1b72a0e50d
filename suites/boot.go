package suites

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

var _ = perEnvironment(check.Check{
	ID: "BOOT-001",
	Title: "every declared source, Kustomization and HelmRelease is in the cluster, Ready at its latest generation, " +
		"and on what is served now",
	Why: "an object that is not ready leaves the cluster on an older state, or half of it, one that is ready may be so " +
		"on an older commit, and whatever else is read there says nothing of what was committed",
	Remedy: "read the message: it is Flux's own; mend the first object of the chain, the others wait for it; " +
		"«flux reconcile» an object that is behind its source, and see why it was not told",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#working-with-kustomizations",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	objects, err := atRest(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	expectSome(objects, "the cluster holds no Flux object at all")
	problems := bootstrap.Chain(objects, time.Now())
	for _, o := range objects {
		if problem := notServed(env, o); problem != "" {
			problems = append(problems, problem)
		}
	}
	problems = append(problems, behind(objects)...)
	problems = append(problems, missing(env.Environment, objects)...)
	problems = append(problems, otherChart(env.HelmReleases, objects)...)
	expectNone(problems, "not ready, not up to date or not there, the causes first")
})

// atRest lists the Flux objects once each of them is ready or has failed, or after
// some time as they are: what is under way is neither.
func atRest(ctx context.Context, env *environment) ([]bootstrap.Object, error) {
	patience := time.Now().Add(current.timeouts.Effective)
	var objects []bootstrap.Object
	err := wait.PollUntilContextCancel(ctx, current.timeouts.Poll, true, func(ctx context.Context) (done bool, err error) {
		objects, err = bootstrap.Observe(ctx, env.client)
		busy := slices.ContainsFunc(objects, func(o bootstrap.Object) bool {
			return !o.Current() && !o.Suspended && !o.Stalled && o.Ready != "False"
		})
		return !busy || time.Now().After(patience), err
	})
	return objects, err
}

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

// behind says which objects are ready and have not taken over what those have that
// they draw from: Kustomizations their source's artifact, composed repositories the
// artifacts that they include, releases their chart.
func behind(objects []bootstrap.Object) []string {
	index := map[bootstrap.Ref]bootstrap.Object{}
	for _, o := range objects {
		index[o.Ref] = o
	}
	var out []string
	for _, o := range objects {
		if !o.Current() {
			continue // it says so itself
		}
		switch o.Kind {
		case "Kustomization":
			for _, ref := range o.WaitsFor {
				if source, known := index[ref]; known && ref.Kind != "Kustomization" {
					out = append(out, behindSource(o, source)...)
				}
			}
		case "GitRepository":
			out = append(out, behindIncludes(o, index)...)
		case "HelmRelease":
			for _, ref := range o.WaitsFor {
				release := newest(o)
				if chart, known := index[ref]; known && ref.Kind == "HelmChart" && release["chartVersion"] != chart.Revision {
					out = append(out, fmt.Sprintf("%s has chart version %s, its chart's artifact is %s", o.Ref, release["chartVersion"], chart.Revision))
				}
			}
		}
	}
	return out
}

// behindSource compares what a Kustomization has applied with its source's
// artifact. A composed artifact keeps the outer commit as its revision whatever it
// includes, and nobody is told when only the included part changes: there, when
// Flux last looked counts too.
func behindSource(o, source bootstrap.Object) []string {
	applied, _, _ := unstructured.NestedString(o.Live.Object, "status", "lastAppliedRevision")
	if applied != source.Revision {
		return []string{fmt.Sprintf("%s has applied %q, the artifact of %s is %s", o.Ref, applied, source.Ref, source.Revision)}
	}
	included, _, _ := unstructured.NestedSlice(source.Live.Object, "status", "includedArtifacts")
	if len(included) == 0 {
		return nil
	}
	text, _, _ := unstructured.NestedString(source.Live.Object, "status", "artifact", "lastUpdateTime")
	made, _ := time.Parse(time.RFC3339, text)
	look := lastLook(o)
	// Flux writes whole seconds.
	if look.Add(time.Second).Before(made) {
		return []string{fmt.Sprintf("%s looked at %s last at %s, its artifact is from %s: what it includes has changed since, its revision has not",
			o.Ref, source.Ref, look.Format(time.TimeOnly), made.Format(time.TimeOnly))}
	}
	return nil
}

// lastLook is when the last reconciliation began that a Kustomization's history
// tells of.
func lastLook(o bootstrap.Object) time.Time {
	var out time.Time
	history, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "history")
	for _, entry := range history {
		fields, _ := entry.(map[string]any)
		text, _ := fields["lastReconciled"].(string)
		ended, err := time.Parse(time.RFC3339, text)
		if err != nil {
			continue
		}
		took, _ := fields["lastReconciledDuration"].(string)
		lasted, _ := time.ParseDuration(took)
		if began := ended.Add(-lasted); began.After(out) {
			out = began
		}
	}
	return out
}

// behindIncludes compares the artifacts that a composed repository was made of with
// those that the included repositories have.
func behindIncludes(o bootstrap.Object, index map[bootstrap.Ref]bootstrap.Object) []string {
	var out []string
	artifacts, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "includedArtifacts")
	position := 0
	for _, ref := range o.WaitsFor {
		if ref.Kind != "GitRepository" {
			continue
		}
		included := ""
		if position < len(artifacts) {
			fields, _ := artifacts[position].(map[string]any)
			included, _ = fields["digest"].(string)
		}
		position++
		if source, known := index[ref]; known && included != source.Digest {
			out = append(out, fmt.Sprintf("%s includes %s as %q, whose artifact is %s (%s)", o.Ref, ref, included, source.Digest, source.Revision))
		}
	}
	return out
}

// newest are the text fields of the newest entry of a release's history.
func newest(o bootstrap.Object) map[string]string {
	out := map[string]string{}
	history, _, _ := unstructured.NestedSlice(o.Live.Object, "status", "history")
	if len(history) == 0 {
		return out
	}
	fields, _ := history[0].(map[string]any)
	for name, value := range fields {
		if text, ok := value.(string); ok {
			out[name] = text
		}
	}
	return out
}

// missing lists what is declared and not in the cluster.
func missing(env *platform.Environment, objects []bootstrap.Object) []string {
	live := map[bootstrap.Ref]bool{}
	for _, o := range objects {
		live[o.Ref] = true
	}
	var declared []platform.Object
	for _, s := range env.Sources {
		declared = append(declared, s.Object)
	}
	for _, k := range env.Kustomizations {
		declared = append(declared, k.Object)
	}
	for _, r := range env.HelmReleases {
		declared = append(declared, r.Object)
	}
	var out []string
	for _, o := range declared {
		if !live[refOf(o)] {
			out = append(out, fmt.Sprintf("%s, declared at %s, is not in the cluster", o, o.Origin))
		}
	}
	return out
}

// otherChart says which releases are not deployed, or not at the chart version that
// is declared.
func otherChart(releases []*platform.HelmRelease, objects []bootstrap.Object) []string {
	var out []string
	for _, declared := range releases {
		ref := refOf(declared.Object)
		i := slices.IndexFunc(objects, func(o bootstrap.Object) bool { return o.Ref == ref })
		if i < 0 || objects[i].Suspended {
			continue
		}
		release := newest(objects[i])
		if release["status"] != "deployed" {
			out = append(out, fmt.Sprintf("%s: its newest release is %q, not deployed", ref, release["status"]))
		}
		if declared.Spec.Chart == nil {
			continue
		}
		if wanted := declared.Spec.Chart.Spec.Version; !satisfies(release["chartVersion"], wanted) {
			out = append(out, fmt.Sprintf("%s, declared at %s, has chart version %q, declared is %q", ref, declared.Origin, release["chartVersion"], wanted))
		}
	}
	return out
}

// satisfies says whether a chart's version is the declared one, or within the
// declared range.
func satisfies(version, declared string) bool {
	if version == declared || declared == "" || declared == "*" {
		return true
	}
	constraint, err := semver.NewConstraint(declared)
	if err != nil {
		return false
	}
	parsed, err := semver.NewVersion(version)
	return err == nil && constraint.Check(parsed)
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
	expectNone(unlocked(args), "controllers that are open")
})

// unlocked names every flag that a controller lacks, by the arguments of each
// controller.
func unlocked(args map[string][]string) []string {
	var problems []string
	for _, rule := range lockdown {
		for _, controller := range rule.controllers {
			given, installed := args[controller]
			if !installed {
				problems = append(problems, fmt.Sprintf("%s is not installed, so nothing says --%s", controller, rule.flag))
				continue
			}
			if problem := lacks(given, rule.flag, rule.value); problem != "" {
				problems = append(problems, fmt.Sprintf("%s: %s: %s", controller, problem, rule.meaning))
			}
		}
	}
	return problems
}

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
	expectSome(report.Backed, "no component runs in this cluster")
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

var _ = perEnvironment(check.Check{
	ID:    "BOOT-004",
	Title: "the API server and every Flux controller run at the declared version",
	Why: "behaviour differs from version to version: what is seen of another one says nothing of the " +
		"one that the platform declares",
	Remedy: "see why the rollout has not come about: a tag that cannot be pulled, a paused Deployment, somebody's edit; " +
		"where another version is meant to stand in, name it in CONFIG under «components»",
	Reference: "https://fluxcd.io/flux/installation/upgrade/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	report, err := env.state.ClusterReport(ctx)
	Expect(err).NotTo(HaveOccurred())
	expectSome(report.Backed, "no component runs in this cluster")
	expectSome(env.FluxSystem.Controllers, "the platform declares no Flux controller in %s", env.FluxSystem.Path)
	deployments := &appsv1.DeploymentList{}
	Expect(env.client.List(ctx, deployments, client.InNamespace(bootstrap.Namespace))).To(Succeed())
	api, err := discovery.NewDiscoveryClientForConfig(env.config)
	Expect(err).NotTo(HaveOccurred())
	served, err := api.ServerVersion()
	Expect(err).NotTo(HaveOccurred())
	components := map[string]string{}
	for _, c := range env.view.State.Components {
		components[c.Name] = c.Version
	}
	problems := otherAPI(served.GitVersion, components["kube-apiserver"], env.view.Config.Components["kube-apiserver"])
	more, substituted := otherVersions(versions{
		declared: env.FluxSystem.Controllers, live: deployments.Items, backed: report.Backed, substitutes: env.view.Config.Components,
		standIn: env.standIn,
	})
	note(substituted...)
	expectNone(append(problems, more...), "what runs at another version than declared")
})

// otherAPI compares what the API server says with the component that the session
// took for it, and that with what CONFIG asks for.
func otherAPI(served, component, substitute string) []string {
	switch {
	case component == "":
		return []string{"the session names no kube-apiserver among its components, so no version is declared"}
	case served != component:
		return []string{fmt.Sprintf("the API server says %s, declared is %s", served, component)}
	case substitute != "" && substitute != component:
		return []string{fmt.Sprintf("the API server is %s, CONFIG asks for %s", component, substitute)}
	}
	return nil
}

// versions is what BOOT-004 compares.
type versions struct {
	declared []platform.Controller
	live     []appsv1.Deployment
	backed   []cluster.Backed
	// substitutes maps a component to the version that CONFIG lets stand in for one
	// that cannot be had.
	substitutes map[string]string
	// standIn says whether what runs was put in the place of the image that a
	// container names, and the report says so. Nil: nothing was.
	standIn func(cluster.Backed) bool
}

// otherVersions goes from what is declared over the live Deployment to the program
// that runs, and says where the image or the version changes. What CONFIG
// substitutes is returned apart.
func otherVersions(in versions) (problems, substituted []string) {
	for _, controller := range in.declared {
		i := slices.IndexFunc(in.live, func(d appsv1.Deployment) bool { return d.Name == controller.Name })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("%s, declared at %s, is not installed", controller.Name, controller.Origin))
			continue
		}
		if image := managerImage(in.live[i]); image != controller.Image {
			problems = append(problems, fmt.Sprintf("%s: declared is %s, its Deployment has %s", controller.Name, controller.Image, image))
		}
		runs := 0
		for _, b := range in.backed {
			if b.Namespace != bootstrap.Namespace || b.Workload != "Deployment/"+controller.Name || b.Init {
				continue
			}
			if len(b.Running) == 0 {
				problems = append(problems, fmt.Sprintf("%s: %s of pod %s does not run: %s", controller.Name, b.Image, b.Pod, b.State))
				continue
			}
			runs++
			if b.Image != controller.Image {
				problems = append(problems, fmt.Sprintf("%s: declared is %s, what runs is %s (version %s, pod %s)", controller.Name, controller.Image, b.Image, b.Version, b.Pod))
			}
		}
		if runs == 0 {
			problems = append(problems, fmt.Sprintf("%s: no program runs for it", controller.Name))
		}
	}
	for _, b := range in.backed {
		tag := imageTag(b.Image)
		substitute := in.substitutes[b.Component]
		where := fmt.Sprintf("%s %s %s", b.Namespace, b.Workload, b.Container)
		switch {
		case b.Init || len(b.Running) == 0 || tag == "" || b.Version == tag:
		case b.Version != "" && b.Version == substitute:
			substituted = append(substituted, fmt.Sprintf("%s names %s; CONFIG puts %s %s in its place", where, b.Image, b.Component, substitute))
		case in.standIn != nil && in.standIn(b):
			substituted = append(substituted, fmt.Sprintf("%s names %s; %s %s stands in for it", where, b.Image, b.Component, b.Version))
		default:
			problems = append(problems, fmt.Sprintf("%s names %s, what runs is version %s of %s", where, b.Image, b.Version, b.Component))
		}
	}
	return problems, substituted
}

// standIn says whether the session put what a container runs in the place of the
// image that it names.
func (e *environment) standIn(b cluster.Backed) bool {
	for _, c := range e.view.State.Components {
		if c.Name == b.Component && c.Version == b.Version && slices.Contains(c.InPlaceOf, b.Image) {
			return true
		}
	}
	return false
}

// managerImage is the image of a controller's Deployment, found as the declared one
// is.
func managerImage(d appsv1.Deployment) string {
	out := ""
	for i, c := range d.Spec.Template.Spec.Containers {
		if c.Name == "manager" || i == 0 {
			out = c.Image
		}
	}
	return out
}

// imageTag is the tag of an image; empty when a digest alone says which is meant.
func imageTag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		return image[colon+1:]
	}
	return ""
}

var _ = perEnvironment(check.Check{
	ID:    "BOOT-005",
	Title: "no object of a tenant came to be before every policy refused what it is there to refuse",
	Why: "what is applied before a policy is in force was never judged, and the next change to it may " +
		"be the first that is",
	Remedy: "let the tenants' Kustomizations depend on the one that applies the policies, and let that one be ready " +
		"only when the policies are in force: by healthCheckExprs on them and on the webhook configuration that names them",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#dependencies",
	Level:     check.Core,
}, func(_ SpecContext, env *environment) {
	problems, seen, reason := outOfOrder(env.state.Order)
	if reason != "" {
		Skip(notSupported + reason)
	}
	note(seen...)
	expectNone(problems, "what came before the policies, in seconds since the API server served")
})

// outOfOrder says, tenant by tenant, which policies were not in force yet when the
// tenant's first object was there: those that were not there themselves, and those
// whose canary was admitted after that. seen is what was measured. The reason says
// why nothing can be concluded.
func outOfOrder(order bringup.Order) (problems, seen []string, reason string) {
	var asked []bringup.Canary
	var unasked, refusals []string
	last, all := 0.0, true
	for _, p := range order.Policies {
		if p.Unasked != "" {
			unasked = append(unasked, fmt.Sprintf("%s was not asked: %s", p.Policy, p.Unasked))
			continue
		}
		asked = append(asked, p)
		if p.Refused == nil {
			problems = append(problems, fmt.Sprintf("%s refused no canary (%s) within %.1f s", p.Policy, p.Example, order.Until))
			refusals, all = append(refusals, p.Policy+" never"), false
			continue
		}
		refusals = append(refusals, fmt.Sprintf("%s at %.1f s", p.Policy, *p.Refused))
		last = max(last, *p.Refused)
	}
	var first bringup.FirstObject
	for _, tenant := range order.Tenants {
		if tenant.Object == "" {
			continue
		}
		if first.Object == "" || tenant.At < first.At {
			first = tenant
		}
		var later []string
		for _, p := range asked {
			switch {
			case p.Refused == nil: // said already
			case p.Present != nil && *p.Present > tenant.At, p.Admitted != nil && *p.Admitted > tenant.At:
				later = append(later, fmt.Sprintf("%s (%.1f s later, at %.1f s)", p.Policy, *p.Refused-tenant.At, *p.Refused))
			}
		}
		if len(later) > 0 {
			problems = append(problems, fmt.Sprintf("%s: %s was there at %.1f s, before a canary was refused by %s", tenant.Tenant, tenant.Object, tenant.At, strings.Join(later, ", ")))
		}
	}
	switch {
	case len(asked) == 0:
		return nil, nil, strings.Join(append([]string{"no policy of the platform could be asked a canary"}, unasked...), "; ")
	case first.Object == "":
		return nil, nil, "no object of a tenant came to be during the bring-up"
	}
	came := fmt.Sprintf("first refusals: %s; the first object of a tenant (%s of %s) came at %.1f s", strings.Join(refusals, ", "), first.Object, first.Tenant, first.At)
	switch margin := first.At - last; {
	case all && margin >= 0:
		came += fmt.Sprintf(", %.1f s after the last of them", margin)
	case all:
		came += fmt.Sprintf(", %.1f s before the last of them", -margin)
	}
	seen = append(seen, came)
	if lag := slowest(asked); lag != "" {
		seen = append(seen, lag)
	}
	return problems, append(seen, unasked...), ""
}

// slowest names the policy that took longest from being there to its first
// refusal.
func slowest(asked []bringup.Canary) string {
	longest, name := -1.0, ""
	for _, p := range asked {
		if p.Present != nil && p.Refused != nil && *p.Refused-*p.Present > longest {
			longest, name = *p.Refused-*p.Present, p.Policy
		}
	}
	if name == "" {
		return ""
	}
	return fmt.Sprintf("a policy was in force %.1f s after it was there at the latest (%s)", longest, name)
}

var _ = perEnvironment(check.Check{
	ID:    "BOOT-006",
	Title: "every Kustomization and HelmRelease names the account that it acts as, and that account exists",
	Why: "an object that names none acts with whatever rights the controller or a default account has, and " +
		"an account that does not exist is whoever creates it next",
	Remedy: "set spec.serviceAccountName, the root Kustomization's and those of the infrastructure included, and declare " +
		"the ServiceAccount in the object's own namespace",
	Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#service-account-reference",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	objects, err := bootstrap.Observe(ctx, env.client)
	Expect(err).NotTo(HaveOccurred())
	accounts := &corev1.ServiceAccountList{}
	Expect(env.client.List(ctx, accounts)).To(Succeed())
	var names []string
	for _, a := range accounts.Items {
		names = append(names, a.Namespace+"/"+a.Name)
	}
	acting := slices.DeleteFunc(objects, func(o bootstrap.Object) bool { return o.Kind != "Kustomization" && o.Kind != "HelmRelease" })
	expectSome(acting, "the cluster holds neither a Kustomization nor a HelmRelease")
	expectNone(withoutAccount(acting, names), "objects that act as nobody in particular")
})

// withoutAccount lists the objects that name no account, or one that is not among
// those of the cluster, given as NAMESPACE/NAME.
func withoutAccount(acting []bootstrap.Object, accounts []string) []string {
	var out []string
	for _, o := range acting {
		name, _, _ := unstructured.NestedString(o.Live.Object, "spec", "serviceAccountName")
		_, remote, _ := unstructured.NestedMap(o.Live.Object, "spec", "kubeConfig")
		switch {
		case name == "":
			out = append(out, fmt.Sprintf("%s names no account: spec.serviceAccountName is empty", o.Ref))
		case remote: // the account is one of another cluster
		case !slices.Contains(accounts, o.Namespace+"/"+name):
			out = append(out, fmt.Sprintf("%s acts as the ServiceAccount %s/%s, which does not exist", o.Ref, o.Namespace, name))
		}
	}
	return out
}
