package suites

import (
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// flux is a Flux object as it is observed, its live form given as YAML.
func flux(t *testing.T, kind, name, live string, edit ...func(*bootstrap.Object)) bootstrap.Object {
	t.Helper()
	o := bootstrap.Object{Ref: bootstrap.Ref{Kind: kind, Namespace: "otter", Name: name}, Ready: "True", Live: &unstructured.Unstructured{}}
	if err := yaml.Unmarshal([]byte(live), &o.Live.Object); err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(&o)
	}
	return o
}

func on(revision, digest string) func(*bootstrap.Object) {
	return func(o *bootstrap.Object) { o.Revision, o.Digest = revision, digest }
}

func waiting(refs ...bootstrap.Ref) func(*bootstrap.Object) {
	return func(o *bootstrap.Object) { o.WaitsFor = refs }
}

func TestBehind(t *testing.T) {
	git := func(name string) bootstrap.Ref {
		return bootstrap.Ref{Kind: "GitRepository", Namespace: "otter", Name: name}
	}
	chart := bootstrap.Ref{Kind: "HelmChart", Namespace: "otter", Name: "app"}
	plain := flux(t, "GitRepository", "values", "{}", on("main@sha1:2", "sha256:b"))
	composed := func(included, made string) bootstrap.Object {
		return flux(t, "GitRepository", "platform",
			"status: {artifact: {lastUpdateTime: '"+made+"'}, includedArtifacts: [{digest: '"+included+"'}]}", on("main@sha1:1", "sha256:a"), waiting(git("values")))
	}
	looked := func(applied, at string) bootstrap.Object {
		return flux(t, "Kustomization", "app",
			"status: {lastAppliedRevision: '"+applied+"', history: [{lastReconciled: '2026-05-04T08:00:00Z', lastReconciledDuration: 1s}, {lastReconciled: '"+at+"', lastReconciledDuration: 3s}]}",
			waiting(bootstrap.Ref{Kind: "Kustomization", Namespace: "otter", Name: "other"}, git("platform")))
	}
	failing := looked("main@sha1:0", "2026-05-04T10:00:09Z")
	failing.Ready = "False"
	release := func(version string) bootstrap.Object {
		return flux(t, "HelmRelease", "app", "status: {history: [{chartVersion: '"+version+"', status: deployed}, {chartVersion: 9.9.9}]}", waiting(chart))
	}
	for _, row := range []struct {
		name    string
		objects []bootstrap.Object
		want    []string
	}{
		{
			"all on what their sources have",
			[]bootstrap.Object{plain, composed("sha256:b", "2026-05-04T10:00:05Z"), looked("main@sha1:1", "2026-05-04T10:00:08Z"), release("1.2.3"), flux(t, "HelmChart", "app", "{}", on("1.2.3", ""))},
			nil,
		},
		{"an older commit", []bootstrap.Object{composed("sha256:b", "2026-05-04T10:00:05Z"), looked("main@sha1:0", "2026-05-04T10:00:09Z")}, []string{
			`Kustomization otter/app has applied "main@sha1:0", the artifact of GitRepository otter/platform is main@sha1:1`,
		}},
		{"the same commit, before it included something else", []bootstrap.Object{composed("sha256:b", "2026-05-04T10:01:05Z"), looked("main@sha1:1", "2026-05-04T10:00:09Z")}, []string{
			"Kustomization otter/app looked at GitRepository otter/platform last at 10:00:06, its artifact is from 10:01:05: what it includes has changed since, its revision has not",
		}},
		{"an included artifact that is older", []bootstrap.Object{plain, composed("sha256:0", "2026-05-04T10:00:05Z")}, []string{
			`GitRepository otter/platform includes GitRepository otter/values as "sha256:0", whose artifact is sha256:b (main@sha1:2)`,
		}},
		{"an older chart", []bootstrap.Object{release("1.2.2"), flux(t, "HelmChart", "app", "{}", on("1.2.3", ""))}, []string{
			"HelmRelease otter/app has chart version 1.2.2, its chart's artifact is 1.2.3",
		}},
		{"one that failed says so itself", []bootstrap.Object{composed("sha256:b", "2026-05-04T10:00:05Z"), failing}, nil},
		{"a source that is not there says nothing here", []bootstrap.Object{looked("main@sha1:1", "2026-05-04T10:00:08Z"), release("1.2.3")}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(behind(row.objects)).To(Equal(row.want))
		})
	}
}

func TestMissing(t *testing.T) {
	env := &platform.Environment{
		Sources:        []*platform.Source{{Object: declaredObject("GitRepository", "platform", "platform.yaml")}, {Object: declaredObject("HelmRepository", "charts", "charts.yaml")}},
		Kustomizations: []*platform.Kustomization{{Object: declaredObject("Kustomization", "app", "app.yaml")}},
		HelmReleases:   []*platform.HelmRelease{{Object: declaredObject("HelmRelease", "app", "app.yaml")}},
	}
	g := NewWithT(t)
	g.Expect(missing(env, []bootstrap.Object{flux(t, "GitRepository", "platform", "{}"), flux(t, "Kustomization", "app", "{}")})).To(Equal([]string{
		"HelmRepository otter/charts, declared at charts.yaml:1, is not in the cluster",
		"HelmRelease otter/app, declared at app.yaml:1, is not in the cluster",
	}))
}

func TestOtherChart(t *testing.T) {
	for _, row := range []struct {
		name, live, wanted string
		want               []string
	}{
		{"the declared version", "history: [{chartVersion: 3.9.1, status: deployed}]", "3.9.1", nil},
		{"a version of the declared range", "history: [{chartVersion: 3.9.1, status: deployed}]", "~3.9.0", nil},
		{"any", "history: [{chartVersion: 3.9.1, status: deployed}]", "*", nil},
		{"another", "history: [{chartVersion: 3.9.1, status: deployed}, {chartVersion: 3.9.2, status: superseded}]", "3.9.2", []string{
			`HelmRelease otter/app, declared at app.yaml:1, has chart version "3.9.1", declared is "3.9.2"`,
		}},
		{"one outside of the range", "history: [{chartVersion: 4.0.0, status: deployed}]", "<4.0.0", []string{
			`HelmRelease otter/app, declared at app.yaml:1, has chart version "4.0.0", declared is "<4.0.0"`,
		}},
		{"failed", "history: [{chartVersion: 3.9.1, status: failed}]", "3.9.1", []string{`HelmRelease otter/app: its newest release is "failed", not deployed`}},
		{"never installed", "conditions: []", "3.9.1", []string{
			`HelmRelease otter/app: its newest release is "", not deployed`,
			`HelmRelease otter/app, declared at app.yaml:1, has chart version "", declared is "3.9.1"`,
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			release := &platform.HelmRelease{Object: declaredObject("HelmRelease", "app", "app.yaml")}
			release.Spec.Chart = &helmv2.HelmChartTemplate{Spec: helmv2.HelmChartTemplateSpec{Version: row.wanted}}
			live := flux(t, "HelmRelease", "app", "status: {"+row.live+"}")
			NewWithT(t).Expect(otherChart([]*platform.HelmRelease{release}, []bootstrap.Object{live})).To(Equal(row.want))
		})
	}
}

func TestUnlockedNamesEveryFlag(t *testing.T) {
	NewWithT(t).Expect(unlocked(map[string][]string{"kustomize-controller": {"--watch-all-namespaces=true", "--no-remote-bases=false"}})).To(Equal([]string{
		"kustomize-controller: --no-cross-namespace-refs is missing: an object may use sources of other namespaces",
		"helm-controller is not installed, so nothing says --no-cross-namespace-refs",
		`kustomize-controller: --no-remote-bases is "false": a build may fetch bases from anywhere`,
		"kustomize-controller: --default-service-account is missing: an object that names no account acts as cluster-admin",
		"helm-controller is not installed, so nothing says --default-service-account",
	}))
}

func TestOtherAPI(t *testing.T) {
	g := NewWithT(t)
	g.Expect(otherAPI("v1.36.3", "v1.36.3", "")).To(BeEmpty())
	g.Expect(otherAPI("v1.36.3", "v1.36.3", "v1.36.3")).To(BeEmpty())
	g.Expect(otherAPI("v1.35.0", "v1.36.3", "")).To(ConsistOf("the API server says v1.35.0, declared is v1.36.3"))
	g.Expect(otherAPI("v1.36.3", "v1.36.3", "v1.35.4")).To(ConsistOf("the API server is v1.36.3, CONFIG asks for v1.35.4"))
	g.Expect(otherAPI("v1.36.3", "", "")).To(ConsistOf(ContainSubstring("no version is declared")))
}

func TestOtherVersions(t *testing.T) {
	const repository = "ghcr.io/fluxcd/source-controller:"
	deployment := func(image string) appsv1.Deployment {
		d := appsv1.Deployment{}
		d.Name = "source-controller"
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "sidecar", Image: "x"}, {Name: "manager", Image: image}}
		return d
	}
	backed := func(image, version string) cluster.Backed {
		return cluster.Backed{
			Origin: cluster.Origin{Namespace: "flux-system", Workload: "Deployment/source-controller", Pod: "source-controller-1", Container: "manager"},
			Image:  image, Process: cluster.Process{Component: "source-controller", Version: version, Running: []string{"--x"}}, State: "running",
		}
	}
	pulling := backed(repository+"v2", "")
	pulling.Running, pulling.State, pulling.Pod = nil, "waiting: ErrImagePull", "source-controller-2"
	other := backed("ghcr.io/kyverno/kyverno:v1.19.1", "v1.18.2")
	other.Namespace, other.Workload, other.Container, other.Component = "kyverno", "Deployment/kyverno", "kyverno", "kyverno"
	for _, row := range []struct {
		name            string
		declared        string
		live            []appsv1.Deployment
		backed          []cluster.Backed
		substitutes     map[string]string
		want, different []string
	}{
		{"as declared", repository + "v1", []appsv1.Deployment{deployment(repository + "v1")}, []cluster.Backed{backed(repository+"v1", "v1")}, nil, nil, nil},
		{"by a digest", repository + "v1@sha256:0", []appsv1.Deployment{deployment(repository + "v1@sha256:0")}, []cluster.Backed{backed(repository+"v1@sha256:0", "v1")}, nil, nil, nil},
		{"not installed", repository + "v1", nil, nil, nil, []string{"source-controller, declared at (written by flux bootstrap), is not installed"}, nil},
		{
			"edited in the cluster and paused", repository + "v1",
			[]appsv1.Deployment{deployment(repository + "v2")},
			[]cluster.Backed{backed(repository+"v1", "v1")},
			nil,
			[]string{"source-controller: declared is " + repository + "v1, its Deployment has " + repository + "v2"},
			nil,
		},
		{
			"a version that cannot be had", repository + "v2",
			[]appsv1.Deployment{deployment(repository + "v2")},
			[]cluster.Backed{backed(repository+"v1", "v1"), pulling},
			nil,
			[]string{
				"source-controller: declared is " + repository + "v2, what runs is " + repository + "v1 (version v1, pod source-controller-1)",
				"source-controller: " + repository + "v2 of pod source-controller-2 does not run: waiting: ErrImagePull",
			},
			nil,
		},
		{"nothing runs", repository + "v1", []appsv1.Deployment{deployment(repository + "v1")}, nil, nil, []string{"source-controller: no program runs for it"}, nil},
		{
			"another program than its image names", repository + "v1",
			[]appsv1.Deployment{deployment(repository + "v1")},
			[]cluster.Backed{backed(repository+"v1", "v0"), other},
			nil,
			[]string{
				"flux-system Deployment/source-controller manager names " + repository + "v1, what runs is version v0 of source-controller",
				"kyverno Deployment/kyverno kyverno names ghcr.io/kyverno/kyverno:v1.19.1, what runs is version v1.18.2 of kyverno",
			},
			nil,
		},
		{
			"one that CONFIG puts in its place", repository + "v1",
			[]appsv1.Deployment{deployment(repository + "v1")},
			[]cluster.Backed{backed(repository+"v1", "v3")},
			map[string]string{"source-controller": "v3"},
			nil,
			[]string{"flux-system Deployment/source-controller manager names " + repository + "v1; CONFIG puts source-controller v3 in its place"},
		},
		{
			"one that the session puts in its place", repository + "v1",
			[]appsv1.Deployment{deployment(repository + "v1")},
			[]cluster.Backed{backed(repository+"v1", "v1.5.0")},
			nil, nil,
			[]string{"flux-system Deployment/source-controller manager names " + repository + "v1; source-controller v1.5.0 stands in for it"},
		},
		{
			"one that CONFIG would have let stand in", repository + "v1",
			[]appsv1.Deployment{deployment(repository + "v1")},
			[]cluster.Backed{backed(repository+"v1", "v1")},
			map[string]string{"source-controller": "v3"},
			nil, nil,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			problems, substituted := otherVersions(versions{
				declared: []platform.Controller{{Name: "source-controller", Image: row.declared}},
				live:     row.live, backed: row.backed, substitutes: row.substitutes,
				standIn: func(b cluster.Backed) bool { return b.Version == "v1.5.0" },
			})
			g.Expect(problems).To(Equal(row.want))
			g.Expect(substituted).To(Equal(row.different))
		})
	}
}

func TestImageTag(t *testing.T) {
	for image, want := range map[string]string{
		"ghcr.io/fluxcd/source-controller:v1.9.5":          "v1.9.5",
		"ghcr.io/fluxcd/source-controller:v1.9.5@sha256:0": "v1.9.5",
		"ghcr.io/fluxcd/source-controller@sha256:0":        "",
		"localhost:5000/source-controller":                 "",
		"localhost:5000/source-controller:v1":              "v1",
	} {
		NewWithT(t).Expect(imageTag(image)).To(Equal(want), image)
	}
}

func TestOutOfOrder(t *testing.T) {
	at := func(seconds float64) *float64 { return &seconds }
	canary := func(policy string, present, admitted, refused *float64) bringup.Canary {
		return bringup.Canary{Policy: policy, Example: "an example", Present: present, Admitted: admitted, Refused: refused}
	}
	names := canary("names", at(20), at(20.1), at(20.4))
	unasked := bringup.Canary{Policy: "quota", Unasked: "it has no example"}
	beetle := func(seconds float64) bringup.FirstObject {
		return bringup.FirstObject{Tenant: "beetle", Object: "Service apps/beetle", At: seconds}
	}
	nothing := bringup.FirstObject{Tenant: "sonar"}
	for _, row := range []struct {
		name           string
		order          bringup.Order
		problems, seen []string
		reason         string
	}{
		{
			"in order",
			bringup.Order{Policies: []bringup.Canary{names, canary("labels", at(20), nil, at(20.2)), unasked}, Tenants: []bringup.FirstObject{nothing, beetle(22)}},
			nil,
			[]string{
				"first refusals: names at 20.4 s, labels at 20.2 s; the first object of a tenant (Service apps/beetle of beetle) came at 22.0 s, 1.6 s after the last of them",
				"a policy was in force 0.4 s after it was there at the latest (names)",
				"quota was not asked: it has no example",
			},
			"",
		},
		{
			"before the policy was there",
			bringup.Order{Policies: []bringup.Canary{names}, Tenants: []bringup.FirstObject{beetle(10), {Tenant: "tiger", Object: "Service apps/tiger", At: 30}}},
			[]string{"beetle: Service apps/beetle was there at 10.0 s, before a canary was refused by names (10.4 s later, at 20.4 s)"},
			[]string{
				"first refusals: names at 20.4 s; the first object of a tenant (Service apps/beetle of beetle) came at 10.0 s, 10.4 s before the last of them",
				"a policy was in force 0.4 s after it was there at the latest (names)",
			},
			"",
		},
		{
			"while its canary was still admitted",
			bringup.Order{Policies: []bringup.Canary{names}, Tenants: []bringup.FirstObject{beetle(20.05)}},
			[]string{"beetle: Service apps/beetle was there at 20.1 s, before a canary was refused by names (0.3 s later, at 20.4 s)"},
			[]string{
				"first refusals: names at 20.4 s; the first object of a tenant (Service apps/beetle of beetle) came at 20.1 s, 0.3 s before the last of them",
				"a policy was in force 0.4 s after it was there at the latest (names)",
			},
			"",
		},
		{
			"between the last canary that was admitted and the refusal: it was not asked at that moment",
			bringup.Order{Policies: []bringup.Canary{names}, Tenants: []bringup.FirstObject{beetle(20.3)}},
			nil,
			[]string{
				"first refusals: names at 20.4 s; the first object of a tenant (Service apps/beetle of beetle) came at 20.3 s, 0.1 s before the last of them",
				"a policy was in force 0.4 s after it was there at the latest (names)",
			},
			"",
		},
		{
			"never in force",
			bringup.Order{Until: 40, Policies: []bringup.Canary{canary("names", at(20), at(39.9), nil)}, Tenants: []bringup.FirstObject{beetle(22)}},
			[]string{"names refused no canary (an example) within 40.0 s"},
			[]string{"first refusals: names never; the first object of a tenant (Service apps/beetle of beetle) came at 22.0 s"},
			"",
		},
		{
			"no policy that can be asked",
			bringup.Order{Policies: []bringup.Canary{unasked}, Tenants: []bringup.FirstObject{beetle(22)}},
			nil, nil,
			"no policy of the platform could be asked a canary; quota was not asked: it has no example",
		},
		{"no policy", bringup.Order{Tenants: []bringup.FirstObject{beetle(22)}}, nil, nil, "no policy of the platform could be asked a canary"},
		{"no tenant's object", bringup.Order{Policies: []bringup.Canary{names}, Tenants: []bringup.FirstObject{nothing}}, nil, nil, "no object of a tenant came to be during the bring-up"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			problems, seen, reason := outOfOrder(row.order)
			g.Expect(problems).To(Equal(row.problems))
			g.Expect(seen).To(Equal(row.seen))
			g.Expect(reason).To(Equal(row.reason))
		})
	}
}

func TestWithoutAccount(t *testing.T) {
	acting := []bootstrap.Object{
		flux(t, "Kustomization", "good", "spec: {serviceAccountName: reconciler}"),
		flux(t, "Kustomization", "root", "spec: {}"),
		flux(t, "HelmRelease", "ghost", "spec: {serviceAccountName: nobody}"),
		flux(t, "HelmRelease", "elsewhere", "spec: {serviceAccountName: nobody, kubeConfig: {secretRef: {name: x}}}"),
	}
	NewWithT(t).Expect(withoutAccount(acting, []string{"otter/reconciler", "sonar/nobody"})).To(Equal([]string{
		"Kustomization otter/root names no account: spec.serviceAccountName is empty",
		"HelmRelease otter/ghost acts as the ServiceAccount otter/nobody, which does not exist",
	}))
}
