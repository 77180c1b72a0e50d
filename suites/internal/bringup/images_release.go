package bringup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	fluxchart "github.com/fluxcd/pkg/chartutil"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr"
	chartcommon "helm.sh/helm/v4/pkg/chart/common"
	chartvalues "helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// chartOf loads the chart of a release as source-controller will find it. It errs
// where nothing of this session holds it.
func (b *bringUp) chartOf(ctx context.Context, e *platform.Environment, release *platform.HelmRelease) (*chart.Chart, error) {
	from := release.Source
	if from == nil {
		return nil, errors.New(release.Unread)
	}
	var template helmv2.HelmChartTemplateSpec
	switch {
	case release.Spec.Chart != nil:
		template = release.Spec.Chart.Spec
	case from.GetKind() == sourcev1.HelmChartKind:
		var declared sourcev1.HelmChart
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(from.Object.Object, &declared); err != nil {
			return nil, fmt.Errorf("read %s: %w", from, err)
		}
		template = helmv2.HelmChartTemplateSpec{
			Chart: declared.Spec.Chart, Version: declared.Spec.Version,
			ValuesFiles: declared.Spec.ValuesFiles, IgnoreMissingValuesFiles: declared.Spec.IgnoreMissingValuesFiles,
		}
		i := slices.IndexFunc(e.Sources, func(s *platform.Source) bool {
			return s.GetKind() == declared.Spec.SourceRef.Kind && s.GetName() == declared.Spec.SourceRef.Name && s.GetNamespace() == from.GetNamespace()
		})
		if i < 0 {
			return nil, fmt.Errorf("%s names a source that nothing declares", from)
		}
		from = e.Sources[i]
	}
	var loaded *chart.Chart
	var err error
	switch from.GetKind() {
	case sourcev1.HelmRepositoryKind:
		var archive string
		if archive, err = b.server.Chart(from.URL, template.Chart, template.Version); err == nil {
			loaded, err = loader.LoadFile(archive)
		}
	case sourcev1.GitRepositoryKind:
		loaded, err = b.chartOfRepository(ctx, from, template.Chart)
	default:
		err = fmt.Errorf("its chart comes from %s, and of that kind no source is answered here", from)
	}
	if err != nil {
		return nil, err
	}
	return loaded, replaceValues(loaded, template)
}

// chartOfRepository loads a chart that is a folder of a Git repository.
func (b *bringUp) chartOfRepository(ctx context.Context, from *platform.Source, name string) (*chart.Chart, error) {
	i := slices.IndexFunc(b.state.Repositories, func(r Repository) bool { return platform.SameRepository(r.URL, from.URL) })
	if i < 0 {
		return nil, fmt.Errorf("no folder answers %s, which holds its chart", from.URL)
	}
	tree, err := b.tree(ctx, b.state.Repositories[i])
	if err != nil {
		return nil, err
	}
	folder := path.Clean("/" + name)[1:]
	loaded, err := loader.LoadDir(filepath.Join(tree, filepath.FromSlash(folder)))
	if err != nil {
		return nil, fmt.Errorf("load the chart %s of %s: %w", name, from.URL, err)
	}
	var missing []string
	for _, declared := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(d *chart.Chart) bool { return d.Name() == declared.Name }) {
			missing = append(missing, declared.Name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("its chart depends on %s, which its folder does not hold and source-controller would fetch", strings.Join(missing, ", "))
	}
	return loaded, nil
}

// replaceValues gives a chart the values of the files that are asked for in place
// of its own, as source-controller packages it.
func replaceValues(loaded *chart.Chart, template helmv2.HelmChartTemplateSpec) error {
	if len(template.ValuesFiles) == 0 {
		return nil
	}
	var merged map[string]any
	for _, name := range template.ValuesFiles {
		i := slices.IndexFunc(loaded.Raw, func(f *chartcommon.File) bool { return path.Clean(f.Name) == path.Clean(name) })
		if i < 0 && template.IgnoreMissingValuesFiles {
			continue
		}
		if i < 0 {
			return fmt.Errorf("its chart has no file %s, which valuesFiles names", name)
		}
		values, err := chartcommon.ReadValues(loaded.Raw[i].Data)
		if err != nil {
			return fmt.Errorf("read %s of its chart: %w", name, err)
		}
		merged = fluxchart.MergeMaps(merged, values)
	}
	if merged != nil { // else all were missing, and its own stay
		loaded.Values = merged
	}
	return nil
}

// renderer renders charts as helm-controller will, without a cluster: lookups find
// nothing, and what the server knows is what Kubernetes has by itself, with the
// CRDs that the platform declares.
type renderer struct {
	capabilities *chartcommon.Capabilities
	objects      declaredObjects
}

func newRenderer(version string, objects []*unstructured.Unstructured) (*renderer, error) {
	kubernetes, err := chartcommon.ParseKubeVersion(version)
	if err != nil {
		return nil, fmt.Errorf("read Kubernetes' version %q: %w", version, err)
	}
	r := &renderer{capabilities: chartcommon.DefaultCapabilities.Copy(), objects: declaredObjects{known: objects}}
	r.capabilities.KubeVersion, r.capabilities.APIVersions = *kubernetes, builtIn()
	for _, o := range objects {
		r.capabilities.APIVersions = append(r.capabilities.APIVersions, served(o)...)
	}
	return r, nil
}

// builtIn are the versions that a server has by itself, and the kinds in them: by
// default no alphas and betas.
func builtIn() []string {
	out := []string{"apiregistration.k8s.io/v1", "apiregistration.k8s.io/v1/APIService"} // which its clients know apart
	for kind := range scheme.Scheme.AllKnownTypes() {
		version := kind.GroupVersion().String()
		if kind.Version == runtime.APIVersionInternal || strings.Contains(kind.Version, "alpha") || strings.Contains(kind.Version, "beta") {
			continue
		}
		if !slices.Contains(out, version) {
			out = append(out, version)
		}
		out = append(out, version+"/"+kind.Kind)
	}
	return out
}

// served are the versions, and the kinds in them, that a CRD adds to a server.
func served(o *unstructured.Unstructured) []string {
	if o.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	var out []string
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if version["served"] == true {
			name := fmt.Sprintf("%s/%v", group, version["name"])
			out = append(out, name, name+"/"+kind)
		}
	}
	return out
}

// rendered is an object of a release.
type rendered struct {
	object *unstructured.Unstructured
	// hook are the events for which it is made; empty for what is always there.
	hook string
	// later says that none of these comes when the release is installed.
	later bool
}

// render returns what a release brings, hooks included but those that never run.
func (r *renderer) render(ctx context.Context, loaded *chart.Chart, release *platform.HelmRelease) ([]rendered, error) {
	declared := helmv2.HelmRelease{
		ObjectMeta: metav1.ObjectMeta{Name: release.GetName(), Namespace: release.GetNamespace()}, Spec: release.Spec,
	}
	values, err := fluxchart.ChartValuesFromReferences(ctx, logr.Discard(), r.objects, declared.Namespace, declared.GetValues(), declared.Spec.ValuesFrom...)
	if err != nil {
		return nil, err
	}
	capabilities := r.capabilities.Copy()
	if install := declared.GetInstall(); install.CRDs != helmv2.Skip && !install.SkipCRDs {
		for _, crd := range loaded.CRDObjects() {
			objects, err := bootstrap.Decode(crd.File.Data)
			if err != nil {
				return nil, fmt.Errorf("read %s of its chart: %w", crd.Filename, err)
			}
			for _, o := range objects {
				capabilities.APIVersions = append(slices.Clip(capabilities.APIVersions), served(o)...)
			}
		}
	}
	if wanted := loaded.Metadata.KubeVersion; wanted != "" && !chartutil.IsCompatibleRange(wanted, capabilities.KubeVersion.String()) {
		return nil, fmt.Errorf("its chart is for Kubernetes %s, and this is %s", wanted, capabilities.KubeVersion.Version)
	}
	if err := chartutil.ProcessDependencies(loaded, values); err != nil {
		return nil, fmt.Errorf("choose the dependencies of its chart: %w", err)
	}
	// Whether the values fit the chart's schema is Helm's to judge; a schema may
	// lead to the network.
	const skipSchema = true
	top, err := chartvalues.ToRenderValuesWithSchemaValidation(loaded, values, chartcommon.ReleaseOptions{
		Name: declared.GetReleaseName(), Namespace: declared.GetReleaseNamespace(), Revision: 1, IsInstall: true,
	}, capabilities, skipSchema)
	if err != nil {
		return nil, fmt.Errorf("lay its values over those of its chart: %w", err)
	}
	files, err := engine.Engine{}.RenderWithContext(ctx, loaded, top)
	if err != nil {
		return nil, fmt.Errorf("render its chart: %w", err)
	}
	objects, err := decodeFiles(files)
	if err != nil {
		return nil, err
	}
	if objects, err = postRender(objects, &declared); err != nil {
		return nil, err
	}
	var out []rendered
	for _, o := range objects {
		if o.GetNamespace() == "" {
			o.SetNamespace(declared.GetReleaseNamespace())
		}
		if one, runs := hooked(o, &declared); runs {
			out = append(out, one)
		}
	}
	return out, nil
}

// decodeFiles reads the objects of rendered templates, in the order of their names.
func decodeFiles(files map[string]string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		objects, err := bootstrap.Decode([]byte(files[name]))
		if err != nil {
			return nil, fmt.Errorf("read what %s of its chart renders: %w", name, err)
		}
		out = append(out, objects...)
	}
	return out, nil
}

// postRender has a release's own patches and images take effect.
func postRender(objects []*unstructured.Unstructured, release *helmv2.HelmRelease) ([]*unstructured.Unstructured, error) {
	var apart []*unstructured.Unstructured
	if release.GetPostRenderStrategy() == helmv2.PostRenderStrategyNoHooks {
		hook := func(o *unstructured.Unstructured) bool { return o.GetAnnotations()[hookAnnotation] != "" }
		for _, o := range objects {
			if hook(o) {
				apart = append(apart, o)
			}
		}
		objects = slices.DeleteFunc(objects, hook)
	}
	for _, p := range release.Spec.PostRenderers {
		if p.Kustomize == nil || len(objects) == 0 {
			continue
		}
		var err error
		if objects, err = kustomized(objects, *p.Kustomize); err != nil {
			return nil, fmt.Errorf("post-render: %w", err)
		}
	}
	return append(objects, apart...), nil
}

func kustomized(objects []*unstructured.Unstructured, with helmv2.Kustomize) ([]*unstructured.Unstructured, error) {
	const root, resources = "/release", "rendered.yaml"
	content := kustypes.Kustomization{
		TypeMeta:  kustypes.TypeMeta{APIVersion: kustypes.KustomizationVersion, Kind: kustypes.KustomizationKind},
		Resources: []string{resources},
	}
	for _, image := range with.Images {
		content.Images = append(content.Images, kustypes.Image{
			Name: image.Name, NewName: image.NewName, NewTag: image.NewTag, Digest: image.Digest,
		})
	}
	for _, p := range with.Patches {
		patch := kustypes.Patch{Patch: p.Patch}
		if t := p.Target; t != nil {
			patch.Target = &kustypes.Selector{LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector}
			patch.Target.Group, patch.Target.Version, patch.Target.Kind = t.Group, t.Version, t.Kind
			patch.Target.Name, patch.Target.Namespace = t.Name, t.Namespace
		}
		content.Patches = append(content.Patches, patch)
	}
	memory := filesys.MakeFsInMemory()
	kustomization, err := yaml.Marshal(content)
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		all = append(append(all, "\n---\n"...), data...)
	}
	if err := errors.Join(
		memory.WriteFile(path.Join(root, "kustomization.yaml"), kustomization),
		memory.WriteFile(path.Join(root, resources), all),
	); err != nil {
		return nil, err
	}
	built, err := bootstrap.Build(memory, root)
	if err != nil {
		return nil, err
	}
	return bootstrap.Decode(built)
}

// hookAnnotation names the events for which Helm makes an object.
const hookAnnotation = "helm.sh/hook"

// hooked says when an object of a release is made, and whether it ever is.
func hooked(o *unstructured.Unstructured, release *helmv2.HelmRelease) (one rendered, runs bool) {
	one = rendered{object: o, hook: o.GetAnnotations()[hookAnnotation]}
	if one.hook == "" {
		return one, true
	}
	install := !release.GetInstall().DisableHooks
	upgrade, rollback, uninstall := !release.GetUpgrade().DisableHooks, !release.GetRollback().DisableHooks, !release.GetUninstall().DisableHooks
	tested := release.GetTest().Enable
	now := map[string]bool{"pre-install": install, "post-install": install, "test": tested, "test-success": tested}
	later := map[string]bool{
		"pre-upgrade": upgrade, "post-upgrade": upgrade, "pre-rollback": rollback, "post-rollback": rollback,
		"pre-delete": uninstall, "post-delete": uninstall,
	}
	one.later = true
	for event := range strings.SplitSeq(one.hook, ",") {
		event = strings.TrimSpace(event)
		runs = runs || now[event] || later[event]
		one.later = one.later && !now[event]
	}
	return one, runs
}

// declaredObjects is a client that finds the Secrets and ConfigMaps that are
// declared, and can do nothing else.
type declaredObjects struct {
	client.Client
	known []*unstructured.Unstructured
}

// Get finds a declared object. One that is encrypted is an error: its values are
// not known.
func (d declaredObjects) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	kind := "ConfigMap"
	if _, ok := into.(*corev1.Secret); ok {
		kind = "Secret"
	}
	for _, o := range d.known {
		if o.GetKind() != kind || o.GetNamespace() != key.Namespace || o.GetName() != key.Name {
			continue
		}
		if _, encrypted := o.Object["sops"]; encrypted {
			return fmt.Errorf("%s %s is encrypted", kind, key)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
			return fmt.Errorf("read %s %s: %w", kind, key, err)
		}
		if secret, ok := into.(*corev1.Secret); ok {
			for name, value := range secret.StringData {
				if secret.Data == nil {
					secret.Data = map[string][]byte{}
				}
				secret.Data[name] = []byte(value)
			}
		}
		return nil
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: strings.ToLower(kind) + "s"}, key.String())
}
