package bringup

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxkustomize "github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	. "github.com/onsi/gomega"
	chartcommon "helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// serving reads the input and serves its sources, without a cluster.
func serving(t *testing.T, options Options) *bringUp {
	t.Helper()
	t.Setenv(session.HomeVariable, t.TempDir())
	root, err := session.Root()
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.New(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	b := &bringUp{assets: assets, options: options, session: s, emit: func(session.Event) {}}
	t.Cleanup(func() {
		if b.server != nil {
			if err := b.server.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	input, err := Read(t.Context(), assets, options, s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	b.config, b.platform, b.environments = input.Config, input.Platform, input.Environments
	if err := b.openStore(); err != nil {
		t.Fatal(err)
	}
	if b.ground, err = b.newGround(); err != nil {
		t.Fatal(err)
	}
	if err := b.serve(t.Context(), input); err != nil {
		t.Fatal(err)
	}
	return b
}

// names are the images of an environment that run at once, or later.
func names(found []namedImage, environment string, later bool) []string {
	var out []string
	for _, i := range found {
		if i.Environment == environment && i.Later == later {
			out = append(out, i.Image)
		}
	}
	return out
}

// what both environments of the reference platform run.
var common = []string{
	"docker.io/traefik:v3.6.6",
	"ghcr.io/fluxcd/helm-controller:v1.6.4", "ghcr.io/fluxcd/kustomize-controller:v1.9.5", "ghcr.io/fluxcd/source-controller:v1.9.5",
	"reg.kyverno.io/kyverno/background-controller:v1.19.1", "reg.kyverno.io/kyverno/cleanup-controller:v1.19.1",
	"reg.kyverno.io/kyverno/kyverno:v1.19.1", "reg.kyverno.io/kyverno/kyvernopre:v1.19.1", "reg.kyverno.io/kyverno/reports-controller:v1.19.1",
}

func TestImagesOfTheReferencePlatform(t *testing.T) {
	g := NewWithT(t)
	b := serving(t, Options{})
	found, unknown, err := b.images(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(unknown).To(BeEmpty())
	for _, e := range b.environments {
		var apps []string
		for _, tenant := range e.Tenants {
			deployment, declared := tenant.Object("Deployment")
			g.Expect(declared).To(BeTrue())
			apps = append(apps, podImages(deployment.Unstructured)...)
		}
		g.Expect(apps).To(HaveLen(3))
		g.Expect(names(found, e.Name, false)).To(ConsistOf(slices.Concat(common, apps)), e.Name)
		g.Expect(names(found, e.Name, true)).To(BeEmpty(), "the values of the platform turn Kyverno's hooks off")
	}
	g.Expect(names(found, "dev", false)).To(ContainElement("ghcr.io/your-org/beetle:1.5.0"))
	g.Expect(names(found, "prd", false)).To(ContainElement("ghcr.io/your-org/beetle:1.4.2"))
	g.Expect(found).To(ContainElements(
		namedImage{
			Environment: "dev", Image: "reg.kyverno.io/kyverno/kyvernopre:v1.19.1",
			By: []string{"HelmRelease kyverno/kyverno: Deployment kyverno/kyverno-admission-controller"},
		},
		namedImage{Environment: "prd", Image: "ghcr.io/fluxcd/source-controller:v1.9.5", By: []string{"Deployment flux-system/source-controller"}},
	))
	g.Expect(found[0].String()).To(Equal("docker.io/traefik:v3.6.6 (dev, named by HelmRelease ingress/traefik: Deployment ingress/traefik)"))

	// With the hooks of the chart on, what they run is wanted, but not at once.
	release := releaseOf(b.environments[0], "kyverno")
	release.Spec.Values = fluxValues(g, release, map[string]any{"webhooksCleanup": map[string]any{"enabled": true}})
	found, _, err = b.images(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(names(found, "dev", false)).To(HaveLen(12))
	g.Expect(names(found, "dev", true)).NotTo(BeEmpty())
	for _, i := range found {
		if i.Later {
			g.Expect(i.By).To(HaveEach(ContainSubstring("HelmRelease kyverno/kyverno: hook pre-delete: Job kyverno/")))
		}
	}

	// What nothing answers for is said; the rest is listed.
	release.Source.URL = "https://charts.example.org"
	found, unknown, err = b.images(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(unknown).To(ConsistOf("environment dev: the images of HelmRelease kyverno/kyverno are not known: nothing local answers https://charts.example.org with charts"))
	g.Expect(names(found, "dev", false)).To(HaveLen(7))
	g.Expect(names(found, "prd", false)).To(HaveLen(12))
}

// A release whose chart is a folder of the platform, with given values.
func TestImagesOfGivenObjectsAndFolders(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "platform")
	g.Expect(os.CopyFS(root, os.DirFS("../../../fixtures/flux_platform"))).To(Succeed())
	put := func(name, content string) {
		g.Expect(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)).To(Succeed())
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)).To(Succeed())
	}
	put("platform/charts/tool/Chart.yaml", "apiVersion: v2\nname: tool\nversion: 1.0.0\n")
	put("platform/charts/tool/values.yaml", "tag: none\n")
	put("platform/charts/tool/values-small.yaml", "tag: small\n")
	put("platform/charts/tool/templates/job.yaml", `{apiVersion: batch/v1, kind: Job, metadata: {name: "{{ .Release.Name }}"}, spec: {template: {spec: {containers: [{name: x, image: "tool:{{ .Values.tag }}-{{ .Values.extra }}"}]}}}}`)
	put("platform/infrastructure/ingress/tool.yaml", `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: tool, namespace: ingress}
spec:
  interval: 1h
  chart: {spec: {chart: ../charts/tool, valuesFiles: [charts/tool/values-small.yaml, values-small.yaml], ignoreMissingValuesFiles: true,
    sourceRef: {kind: GitRepository, name: flux-system, namespace: flux-system}}}
  valuesFrom: [{kind: Secret, name: given}]
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: part, namespace: ingress}
spec:
  interval: 1h
  chart: {spec: {chart: charts/part, sourceRef: {kind: GitRepository, name: flux-system, namespace: flux-system}}}
`)
	put("platform/charts/part/Chart.yaml", "apiVersion: v2\nname: part\nversion: 1.0.0\ndependencies: [{name: whole, version: 1.0.0, repository: https://charts.example.org}]\n")
	put("platform/infrastructure/ingress/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [helmrepository.yaml, helmrelease.yaml, tool.yaml]\n")
	put("objects/given.yaml", `apiVersion: v1
kind: Secret
metadata: {name: given, namespace: ingress}
stringData: {values.yaml: "extra: given"}
---
apiVersion: v1
kind: Pod
metadata: {name: given, namespace: default}
spec: {containers: [{name: x, image: "given:1"}]}
`)
	put("conformance.yaml", "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nobjects: objects\n")
	b := serving(t, Options{Platform: root, Config: filepath.Join(dir, "conformance.yaml"), Environments: []string{"dev"}})
	found, unknown, err := b.images(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(unknown).To(ConsistOf("environment dev: the images of HelmRelease ingress/part are not known: " +
		"its chart depends on whole, which its folder does not hold and source-controller would fetch"))
	g.Expect(names(found, "dev", false)).To(ContainElements("given:1", "tool:small-given"))
	g.Expect(names(found, "prd", false)).To(BeEmpty(), "this session has no such environment")
}

func releaseOf(e *platform.Environment, name string) *platform.HelmRelease {
	i := slices.IndexFunc(e.HelmReleases, func(r *platform.HelmRelease) bool { return r.GetName() == name })
	return e.HelmReleases[i]
}

// fluxValues are the values of a release with some of them replaced.
func fluxValues(g *WithT, release *platform.HelmRelease, replaced map[string]any) *apiextensionsv1.JSON {
	values := helmv2.HelmRelease{Spec: release.Spec}.GetValues()
	maps.Copy(values, replaced)
	data, err := json.Marshal(values)
	g.Expect(err).NotTo(HaveOccurred())
	return &apiextensionsv1.JSON{Raw: data}
}

func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	out, err := bootstrap.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPodImages(t *testing.T) {
	t.Parallel()
	const spec = "{initContainers: [{name: i, image: init}], containers: [{name: a, image: one}, {name: b, image: two}, {name: c, image: one}, {name: d, image: \"\"}], " +
		"volumes: [{name: v, image: {reference: files}}, {name: w, emptyDir: {}}]}"
	all := []string{"init", "one", "two", "files"}
	for _, test := range []struct {
		name, object string
		want         []string
	}{
		{"a Pod", "{apiVersion: v1, kind: Pod, spec: " + spec + "}", all},
		{"a Deployment", "{apiVersion: apps/v1, kind: Deployment, spec: {template: {spec: " + spec + "}}}", all},
		{"a StatefulSet", "{apiVersion: apps/v1, kind: StatefulSet, spec: {replicas: 2, template: {spec: " + spec + "}}}", all},
		{"a DaemonSet", "{apiVersion: apps/v1, kind: DaemonSet, spec: {template: {spec: " + spec + "}}}", all},
		{"a ReplicaSet", "{apiVersion: apps/v1, kind: ReplicaSet, spec: {template: {spec: " + spec + "}}}", all},
		{"a ReplicationController", "{apiVersion: v1, kind: ReplicationController, spec: {template: {spec: " + spec + "}}}", all},
		{"a Job", "{apiVersion: batch/v1, kind: Job, spec: {template: {spec: " + spec + "}}}", all},
		{"a CronJob", "{apiVersion: batch/v1, kind: CronJob, spec: {jobTemplate: {spec: {template: {spec: " + spec + "}}}}}", all},
		{"nothing runs", "{apiVersion: apps/v1, kind: Deployment, spec: {replicas: 0, template: {spec: " + spec + "}}}", nil},
		{"a suspended CronJob", "{apiVersion: batch/v1, kind: CronJob, spec: {suspend: true, jobTemplate: {spec: {template: {spec: " + spec + "}}}}}", nil},
		{"another group", "{apiVersion: example.org/v1, kind: Deployment, spec: {template: {spec: " + spec + "}}}", nil},
		{"a policy's pattern", "{apiVersion: kyverno.io/v1, kind: ClusterPolicy, spec: {containers: [{image: '!*:latest'}]}}", nil},
		{"no pod at all", "{apiVersion: v1, kind: Pod}", nil},
		{"no object of that kind", "{apiVersion: v1, kind: Pod, spec: {containers: one}}", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(podImages(objects(t, test.object)[0])).To(Equal(test.want))
		})
	}
}

// Objects of what is suspended are not applied, so that nothing runs them.
func TestReconciled(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	root := &platform.Kustomization{}
	root.Owner = root
	of := func(owner *platform.Kustomization, suspend bool) *platform.Kustomization {
		return &platform.Kustomization{Object: platform.Object{Owner: owner}, Spec: kustomizev1.KustomizationSpec{Suspend: suspend}}
	}
	g.Expect(reconciled(nil)).To(BeTrue(), "the bootstrap applies it")
	g.Expect(reconciled(root)).To(BeTrue())
	g.Expect(reconciled(of(root, false))).To(BeTrue())
	g.Expect(reconciled(of(root, true))).To(BeFalse())
	g.Expect(reconciled(of(of(root, true), false))).To(BeFalse())
	for _, test := range []struct {
		release *platform.HelmRelease
		want    bool
	}{
		{&platform.HelmRelease{Object: platform.Object{Owner: root}}, true},
		{&platform.HelmRelease{Object: platform.Object{Owner: of(root, true)}}, false},
		{&platform.HelmRelease{Spec: helmv2.HelmReleaseSpec{Suspend: true}}, false},
		{&platform.HelmRelease{Spec: helmv2.HelmReleaseSpec{KubeConfig: &meta.KubeConfigReference{}}}, false},
	} {
		g.Expect(installed(test.release)).To(Equal(test.want))
	}
	pod := objects(t, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: one}]}}")[0]
	list := []platform.Object{{Unstructured: pod, Owner: of(root, true)}, {Unstructured: pod, Owner: root}}
	g.Expect(applied(&platform.Environment{Objects: list, Tenants: []*platform.Tenant{{Objects: list}}})).To(HaveLen(2))
}

// An image that something runs at once is wanted at once, whatever else names it.
func TestImageList(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	pod := func(name, image string) *unstructured.Unstructured {
		return objects(t, "{apiVersion: v1, kind: Pod, metadata: {name: "+name+"}, spec: {containers: [{name: a, image: "+image+"}]}}")[0]
	}
	list := imageList{environment: "dev"}
	list.add(pod("a", "two"), "HelmRelease x/y: hook post-upgrade: ", true)
	list.add(pod("b", "one"), "", true)
	list.add(pod("c", "two"), "", false)
	list.add(pod("c", "two"), "", false)
	list.add(pod("d", "two"), "", true)
	g.Expect(list.sorted()).To(Equal([]namedImage{
		{Environment: "dev", Image: "one", By: []string{"Pod b"}, Later: true},
		{Environment: "dev", Image: "two", By: []string{"HelmRelease x/y: hook post-upgrade: Pod a", "Pod c", "Pod d"}},
	}))
}

// demo is a chart that shows in the images of its pods what it was rendered with.
func demo(templates map[string]string) *chart.Chart {
	c := &chart.Chart{
		Metadata: &chart.Metadata{APIVersion: "v2", Name: "demo", Version: "1.0.0"},
		Values:   map[string]any{"tag": "own", "nested": map[string]any{"tag": "own"}},
	}
	for name, content := range templates {
		c.Templates = append(c.Templates, &chartcommon.File{Name: "templates/" + name, Data: []byte(content)})
	}
	return c
}

const podTemplate = `{apiVersion: v1, kind: Pod, metadata: {name: p%s}, spec: {containers: [{name: a, image: "%s"}]}}`

func podOf(annotations, image string) string {
	return strings.Replace(strings.Replace(podTemplate, "p%s", "p"+annotations, 1), "%s", image, 1)
}

func TestRender(t *testing.T) {
	t.Parallel()
	release := func(change func(*helmv2.HelmReleaseSpec)) *platform.HelmRelease {
		r := &platform.HelmRelease{Object: platform.Object{Unstructured: objects(t, "{apiVersion: v2, kind: HelmRelease, metadata: {name: demo, namespace: ns}}")[0]}}
		if change != nil {
			change(&r.Spec)
		}
		return r
	}
	declared := objects(t, `apiVersion: v1
kind: ConfigMap
metadata: {name: common, namespace: ns}
data: {values.yaml: "{tag: map, other: map}", flat: flat}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: elsewhere, namespace: other}
data: {values.yaml: "tag: elsewhere"}
---
apiVersion: v1
kind: Secret
metadata: {name: plain, namespace: ns}
data: {values.yaml: dGFnOiBzZWNyZXQ=}
stringData: {more.yaml: "tag: string"}
---
apiVersion: v1
kind: Secret
metadata: {name: sealed, namespace: ns}
data: {values.yaml: ENC}
sops: {}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: as.example.org}
spec: {group: example.org, names: {kind: A}, versions: [{name: v1, served: true}, {name: v2, served: false}]}
`)
	from := func(refs ...meta.ValuesReference) func(*helmv2.HelmReleaseSpec) {
		return func(s *helmv2.HelmReleaseSpec) { s.ValuesFrom = refs }
	}
	kustomized := func(k helmv2.Kustomize, strategy helmv2.PostRenderStrategy) func(*helmv2.HelmReleaseSpec) {
		return func(s *helmv2.HelmReleaseSpec) {
			s.PostRenderers, s.PostRenderStrategy = []helmv2.PostRenderer{{Kustomize: &k}}, strategy
		}
	}
	images := helmv2.Kustomize{Images: []fluxkustomize.Image{{Name: "demo", NewName: "mirror/demo", NewTag: "9"}}}
	patches := helmv2.Kustomize{Patches: []fluxkustomize.Patch{{
		Patch:  "- {op: replace, path: /spec/containers/0/image, value: patched}",
		Target: &fluxkustomize.Selector{Kind: "Pod", Name: "p"},
	}}}
	elsewhere := *patches.DeepCopy()
	elsewhere.Patches[0].Target.Name = "q"
	tag := map[string]string{"a.yaml": podOf("", "demo:{{ .Values.tag }}")}
	hook := func(events string) map[string]string {
		return map[string]string{"a.yaml": podOf(`, annotations: {helm.sh/hook: "`+events+`"}`, "demo:hook")}
	}
	const now, later = false, true
	for _, test := range []struct {
		name      string
		templates map[string]string
		spec      func(*helmv2.HelmReleaseSpec)
		image     string
		later     bool
		want      string // of an error
	}{
		{"its own values", tag, nil, "demo:own", now, ""},
		{"values of the release", tag, func(s *helmv2.HelmReleaseSpec) { s.Values = &apiextensionsv1.JSON{Raw: []byte(`{"tag": "given"}`)} }, "demo:given", now, ""},
		{"values of a ConfigMap", tag, from(meta.ValuesReference{Kind: "ConfigMap", Name: "common"}), "demo:map", now, ""},
		{"values of a Secret", tag, from(meta.ValuesReference{Kind: "Secret", Name: "plain"}), "demo:secret", now, ""},
		{"text of a Secret", tag, from(meta.ValuesReference{Kind: "Secret", Name: "plain", ValuesKey: "more.yaml"}), "demo:string", now, ""},
		{"the later reference", tag, from(meta.ValuesReference{Kind: "ConfigMap", Name: "common"}, meta.ValuesReference{Kind: "Secret", Name: "plain"}), "demo:secret", now, ""},
		{
			"a value at a place",
			map[string]string{"a.yaml": podOf("", "demo:{{ .Values.nested.tag }}")},
			from(meta.ValuesReference{Kind: "ConfigMap", Name: "common", ValuesKey: "flat", TargetPath: "nested.tag"}), "demo:flat", now, "",
		},
		{"values that are not there", tag, from(meta.ValuesReference{Kind: "Secret", Name: "none"}), "", now, "could not resolve Secret chart values reference 'ns/none'"},
		{"values of another namespace", tag, from(meta.ValuesReference{Kind: "ConfigMap", Name: "elsewhere"}), "", now, "'ns/elsewhere'"},
		{"values that need not be there", tag, from(meta.ValuesReference{Kind: "Secret", Name: "none", Optional: true}), "demo:own", now, ""},
		{"encrypted values", tag, from(meta.ValuesReference{Kind: "Secret", Name: "sealed"}), "", now, "Secret ns/sealed is encrypted"},
		{
			"names",
			map[string]string{"a.yaml": podOf("", "{{ .Release.Name }}.{{ .Release.Namespace }}.{{ .Release.IsInstall }}")},
			func(s *helmv2.HelmReleaseSpec) { s.TargetNamespace = "there" }, "there-demo.there.true", now, "",
		},
		{"Kubernetes' version", map[string]string{"a.yaml": podOf("", "{{ .Capabilities.KubeVersion.Version }}")}, nil, "v1.36.3", now, ""},
		{"what a server has", map[string]string{"a.yaml": podOf("", `{{ .Capabilities.APIVersions.Has "apps/v1/Deployment" }}`)}, nil, "true", now, ""},
		{"what it had once", map[string]string{"a.yaml": podOf("", `{{ .Capabilities.APIVersions.Has "policy/v1beta1" }}`)}, nil, "false", now, ""},
		{"what the platform adds", map[string]string{"a.yaml": podOf("", `{{ .Capabilities.APIVersions.Has "example.org/v1/A" }}`)}, nil, "true", now, ""},
		{"what is not served", map[string]string{"a.yaml": podOf("", `{{ .Capabilities.APIVersions.Has "example.org/v2" }}`)}, nil, "false", now, ""},
		{"a lookup", map[string]string{"a.yaml": podOf("", `{{ len (lookup "v1" "ConfigMap" "ns" "common") }}`)}, nil, "0", now, ""},
		{"no YAML", map[string]string{"a.yaml": "a: [", "NOTES.txt": "c: ["}, nil, "", now, "read what demo/templates/a.yaml of its chart renders"},
		{"a template that fails", map[string]string{"a.yaml": `{{ fail "say a tag" }}`}, nil, "", now, "say a tag"},
		{"an image of the release", tag, kustomized(images, ""), "mirror/demo:9", now, ""},
		{"a patch of the release", tag, kustomized(patches, ""), "patched", now, ""},
		{"a patch of another", tag, kustomized(elsewhere, ""), "demo:own", now, ""},
		{"a patch of a hook", hook("pre-install"), kustomized(patches, ""), "patched", now, ""},
		{"no patch of a hook", hook("pre-install"), kustomized(patches, helmv2.PostRenderStrategyNoHooks), "demo:hook", now, ""},
		{"a patch that cannot be", tag, kustomized(helmv2.Kustomize{Patches: []fluxkustomize.Patch{{Patch: "[}"}}}, ""), "", now, "post-render: "},
		{"a hook of the installation", hook("post-install,post-upgrade"), nil, "demo:hook", now, ""},
		{"a hook of an upgrade", hook("post-upgrade, pre-delete"), nil, "demo:hook", later, ""},
		{"a hook of a rollback", hook("pre-rollback"), nil, "demo:hook", later, ""},
		{"a hook that is off", hook("pre-install"), func(s *helmv2.HelmReleaseSpec) { s.Install = &helmv2.Install{DisableHooks: true} }, "", now, ""},
		{"one of two that is off", hook("pre-install,pre-upgrade"), func(s *helmv2.HelmReleaseSpec) { s.Install = &helmv2.Install{DisableHooks: true} }, "demo:hook", later, ""},
		{"a hook of the upgrade that is off", hook("pre-upgrade"), func(s *helmv2.HelmReleaseSpec) { s.Upgrade = &helmv2.Upgrade{DisableHooks: true} }, "", now, ""},
		{"a hook of the removal that is off", hook("post-delete"), func(s *helmv2.HelmReleaseSpec) { s.Uninstall = &helmv2.Uninstall{DisableHooks: true} }, "", now, ""},
		{"a hook of the rollback that is off", hook("pre-rollback"), func(s *helmv2.HelmReleaseSpec) { s.Rollback = &helmv2.Rollback{DisableHooks: true} }, "", now, ""},
		{"a test", hook("test"), nil, "", now, ""},
		{"a test that is run", hook("test"), func(s *helmv2.HelmReleaseSpec) { s.Test = &helmv2.Test{Enable: true} }, "demo:hook", now, ""},
		{"no such event", hook("crd-install"), nil, "", now, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			r, err := newRenderer("v1.36.3", declared)
			g.Expect(err).NotTo(HaveOccurred())
			found, err := r.render(t.Context(), demo(test.templates), release(test.spec))
			if test.want != "" {
				g.Expect(err).To(MatchError(ContainSubstring(test.want)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			if test.image == "" {
				g.Expect(found).To(BeEmpty())
				return
			}
			g.Expect(found).To(HaveLen(1))
			g.Expect(podImages(found[0].object)).To(Equal([]string{test.image}))
			g.Expect(found[0].later).To(Equal(test.later))
			g.Expect(found[0].object.GetNamespace()).NotTo(BeEmpty())
		})
	}
}

func TestRenderKnowsTheChartsOwn(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	r, err := newRenderer("v1.36.3", nil)
	g.Expect(err).NotTo(HaveOccurred())
	release := &platform.HelmRelease{Object: platform.Object{Unstructured: objects(t, "{apiVersion: v2, kind: HelmRelease, metadata: {name: demo, namespace: ns}}")[0]}}
	c := demo(map[string]string{"a.yaml": podOf("", `{{ .Capabilities.APIVersions.Has "example.org/v1" }}`)})
	c.Files = []*chartcommon.File{{Name: "crds/a.yaml", Data: []byte(
		"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: as.example.org}, spec: {group: example.org, names: {kind: A}, versions: [{name: v1, served: true}]}}")}}
	has := func() string {
		found, err := r.render(t.Context(), c, release)
		g.Expect(err).NotTo(HaveOccurred())
		return podImages(found[0].object)[0]
	}
	g.Expect(has()).To(Equal("true"), "CRDs of a chart come before its templates")
	release.Spec.Install = &helmv2.Install{CRDs: helmv2.Skip}
	g.Expect(has()).To(Equal("false"))
	release.Spec.Install = &helmv2.Install{SkipCRDs: true}
	g.Expect(has()).To(Equal("false"))
	part := demo(map[string]string{"a.yaml": podOf("", "part")})
	part.Metadata.Name = "part"
	c.AddDependency(part)
	c.Metadata.Dependencies = []*chart.Dependency{{Name: "part", Version: "1.0.0", Condition: "part.enabled"}}
	g.Expect(r.render(t.Context(), c, release)).To(HaveLen(2))
	release.Spec.Values = &apiextensionsv1.JSON{Raw: []byte(`{"part": {"enabled": false}}`)}
	g.Expect(r.render(t.Context(), c, release)).To(HaveLen(1), "what the values switch off is not rendered")
	c.Metadata.KubeVersion = ">=1.40.0"
	_, err = r.render(t.Context(), c, release)
	g.Expect(err).To(MatchError("its chart is for Kubernetes >=1.40.0, and this is v1.36.3"))
	_, err = newRenderer("newest", nil)
	g.Expect(err).To(MatchError(ContainSubstring(`read Kubernetes' version "newest"`)))
}

func TestReplaceValues(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := demo(nil)
	c.Raw = []*chartcommon.File{
		{Name: "a.yaml", Data: []byte("{x: 1, m: {a: 1}}")}, {Name: "b/c.yaml", Data: []byte("{y: 2, m: {b: 2}}")}, {Name: "bad.yaml", Data: []byte("[")},
	}
	replaced := func(files []string, ignore bool) error {
		return replaceValues(c, helmv2.HelmChartTemplateSpec{ValuesFiles: files, IgnoreMissingValuesFiles: ignore})
	}
	g.Expect(replaced(nil, false)).To(Succeed())
	g.Expect(replaced([]string{"none.yaml"}, true)).To(Succeed())
	g.Expect(c.Values).To(HaveKey("tag"), "its own stay")
	g.Expect(replaced([]string{"none.yaml"}, false)).To(MatchError("its chart has no file none.yaml, which valuesFiles names"))
	g.Expect(replaced([]string{"bad.yaml"}, false)).To(MatchError(ContainSubstring("read bad.yaml of its chart")))
	g.Expect(replaced([]string{"a.yaml", "./b/c.yaml"}, false)).To(Succeed())
	g.Expect(c.Values).To(HaveLen(3))
	g.Expect(c.Values["m"]).To(HaveLen(2))
}

// Where the chart of a release is not to be had, it is said why.
func TestChartOf(t *testing.T) {
	t.Parallel()
	source := func(kind, name string) *platform.Source {
		return &platform.Source{URL: "https://example.org/" + name, Object: platform.Object{Unstructured: objects(t,
			"{apiVersion: source.toolkit.fluxcd.io/v1, kind: "+kind+", metadata: {name: "+name+", namespace: ns}, spec: {chart: ./x, sourceRef: {kind: GitRepository, name: git}}}")[0]}}
	}
	git := source("GitRepository", "git")
	for _, test := range []struct {
		name    string
		release *platform.HelmRelease
		sources []*platform.Source
		want    string
	}{
		{"no source", &platform.HelmRelease{Unread: "the source of its chart is declared nowhere that was read"}, nil, "the source of its chart is declared nowhere that was read"},
		{"an OCIRepository", &platform.HelmRelease{Source: source("OCIRepository", "oci")}, nil, "its chart comes from OCIRepository ns/oci, and of that kind no source is answered here"},
		{"a repository that no folder answers", &platform.HelmRelease{Source: git, Spec: helmv2.HelmReleaseSpec{Chart: &helmv2.HelmChartTemplate{}}}, nil, "no folder answers https://example.org/git, which holds its chart"},
		{"a HelmChart of it", &platform.HelmRelease{Source: source("HelmChart", "chart")}, []*platform.Source{git}, "no folder answers https://example.org/git, which holds its chart"},
		{"a HelmChart of nothing", &platform.HelmRelease{Source: source("HelmChart", "chart")}, nil, "HelmChart ns/chart names a source that nothing declares"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := (&bringUp{}).chartOf(t.Context(), &platform.Environment{Sources: test.sources}, test.release)
			NewWithT(t).Expect(err).To(MatchError(test.want))
		})
	}
}
