package bringup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// namedImage is an image that the pods of an environment will run.
type namedImage struct {
	Environment, Image string
	// By are the objects that name it, each as «Kind namespace/name»; those that a
	// chart renders come after their HelmRelease.
	By []string
	// Later says that nothing runs it when the platform comes up, but only a hook
	// of a later upgrade, rollback or uninstall.
	Later bool
}

func (i namedImage) String() string {
	return fmt.Sprintf("%s (%s, named by %s)", i.Image, i.Environment, strings.Join(i.By, ", "))
}

// images lists what the pods of the session's environments will run, before there
// is a cluster: of Flux as it is served, of all objects that the model has, of
// those that CONFIG gives, and of what the charts of HelmReleases render. The
// sources must be served by then. What could not be looked into is told in
// unknown, a sentence each: its images are not known, which by itself is no error.
func (b *bringUp) images(ctx context.Context) (found []namedImage, unknown []string, err error) {
	given, err := b.givenObjects()
	if err != nil {
		return nil, nil, err
	}
	version := b.kubernetesVersion()
	for _, e := range b.environments {
		flux, err := b.fluxObjects(ctx, e)
		if err != nil {
			return nil, nil, fmt.Errorf("environment %s: list its images: %w", e.Name, err)
		}
		list := imageList{environment: e.Name}
		objects := slices.Concat(given, flux, applied(e))
		for _, o := range objects {
			list.add(o, "", false)
		}
		renderer, err := newRenderer(version, objects)
		if err != nil {
			return nil, nil, fmt.Errorf("environment %s: list its images: %w", e.Name, err)
		}
		for _, release := range e.HelmReleases {
			if !installed(release) {
				continue
			}
			err := b.addRelease(ctx, &list, renderer, e, release)
			if ctx.Err() != nil {
				return nil, nil, context.Cause(ctx)
			}
			if err != nil {
				unknown = append(unknown, fmt.Sprintf("environment %s: the images of %s are not known: %s", e.Name, release, err))
			}
		}
		found = append(found, list.sorted()...)
	}
	return found, unknown, nil
}

// kubernetesVersion is that of the clusters.
func (b *bringUp) kubernetesVersion() string {
	const server = "kube-apiserver"
	pinned, _ := b.store.Pinned(server)
	return cmp.Or(b.config.Components[server], pinned)
}

// addRelease adds what the chart of a release renders.
func (b *bringUp) addRelease(ctx context.Context, list *imageList, renderer *renderer, e *platform.Environment, release *platform.HelmRelease) error {
	loaded, err := b.chartOf(ctx, e, release)
	if err != nil {
		return err
	}
	rendered, err := renderer.render(ctx, loaded, release)
	if err != nil {
		return err
	}
	for _, r := range rendered {
		by := release.String() + ": "
		if r.hook != "" {
			by = fmt.Sprintf("%s: hook %s: ", release, r.hook)
		}
		list.add(r.object, by, r.later)
	}
	return nil
}

// applied are the objects of an environment that Flux applies: not those of a
// Kustomization that is suspended, or brought by one that is.
func applied(e *platform.Environment) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	add := func(objects []platform.Object) {
		for _, o := range objects {
			if reconciled(o.Owner) {
				out = append(out, o.Unstructured)
			}
		}
	}
	add(e.Objects)
	for _, t := range e.Tenants {
		add(t.Objects)
	}
	return out
}

// installed says whether a release comes to be in its environment's own cluster.
func installed(release *platform.HelmRelease) bool {
	return !release.Spec.Suspend && release.Spec.KubeConfig == nil && reconciled(release.Owner)
}

// reconciled says whether a Kustomization and those that bring it are.
func reconciled(k *platform.Kustomization) bool {
	seen := map[*platform.Kustomization]bool{} // the root one brings itself
	for ; k != nil && !seen[k]; k = k.Owner {
		if k.Spec.Suspend {
			return false
		}
		seen[k] = true
	}
	return true
}

// imageList collects the images of one environment.
type imageList struct {
	environment string
	found       []namedImage
}

// add lists what the pods of an object run. by is what stands before its name.
func (l *imageList) add(o *unstructured.Unstructured, by string, later bool) {
	name := o.GetKind() + " " + strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
	for _, image := range podImages(o) {
		at := slices.IndexFunc(l.found, func(known namedImage) bool { return known.Image == image })
		if at < 0 {
			at = len(l.found)
			l.found = append(l.found, namedImage{Environment: l.environment, Image: image, Later: true})
		}
		known := &l.found[at]
		known.Later = known.Later && later
		if !slices.Contains(known.By, by+name) {
			known.By = append(known.By, by+name)
		}
	}
}

func (l *imageList) sorted() []namedImage {
	slices.SortFunc(l.found, func(a, b namedImage) int { return strings.Compare(a.Image, b.Image) })
	return l.found
}

// podSpecs says where those kinds of Kubernetes that make pods hold how.
var podSpecs = map[schema.GroupKind][]string{
	{Kind: "Pod"}:                        {"spec"},
	{Kind: "ReplicationController"}:      {"spec", "template", "spec"},
	{Group: "apps", Kind: "DaemonSet"}:   {"spec", "template", "spec"},
	{Group: "apps", Kind: "Deployment"}:  {"spec", "template", "spec"},
	{Group: "apps", Kind: "ReplicaSet"}:  {"spec", "template", "spec"},
	{Group: "apps", Kind: "StatefulSet"}: {"spec", "template", "spec"},
	{Group: "batch", Kind: "CronJob"}:    {"spec", "jobTemplate", "spec", "template", "spec"},
	{Group: "batch", Kind: "Job"}:        {"spec", "template", "spec"},
}

// podImages are the images that the pods of an object need: of their containers
// and of volumes that are images. What is scaled to nothing or suspended runs none.
func podImages(o *unstructured.Unstructured) []string {
	where, known := podSpecs[o.GroupVersionKind().GroupKind()]
	if !known {
		return nil
	}
	if replicas, set, err := unstructured.NestedInt64(o.Object, "spec", "replicas"); set && err == nil && replicas == 0 {
		return nil
	}
	if suspended, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend"); suspended {
		return nil
	}
	raw, _, _ := unstructured.NestedMap(o.Object, where...)
	var spec corev1.PodSpec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &spec); err != nil {
		return nil // the server will refuse it
	}
	var out []string
	add := func(image string) {
		if image != "" && !slices.Contains(out, image) {
			out = append(out, image)
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		add(c.Image)
	}
	for _, v := range spec.Volumes {
		if v.Image != nil {
			add(v.Image.Reference)
		}
	}
	return out
}
