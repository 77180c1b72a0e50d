package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Options of [Load].
type Options struct {
	// Root is the platform repository's folder. Required.
	Root string
	// Sources maps a URL to the local folder that answers for it, at every
	// reference. The repository under test needs no entry.
	Sources map[string]string
	// Extra are files laid over Root, by slash-separated path below it: what the
	// bootstrap adds, like clusters/dev/flux-system/gotk-components.yaml.
	Extra map[string][]byte
	// URL of the repository under test where it has no gotk-sync.yaml. Default:
	// the remote «origin» when Root is a Git repository, else
	// https://github.com/your-org/FOLDER.
	URL string
}

// Load reads a platform repository. The error joins all mistakes that concern
// the platform as a whole, each with file and line where it has one; mistakes
// of single tenants stand in Platform.Problems instead, so that the others can
// be judged.
func Load(ctx context.Context, o Options) (*Platform, error) {
	root, err := Folder(o.Root)
	if err != nil {
		return nil, err
	}
	l := &loader{
		options:  o,
		platform: &Platform{Root: root},
		sources:  &sources{folders: map[string]string{}, trees: map[string]*tree{}, ignores: map[*tree][]ignoreText{}, filtered: map[string]*tree{}},
		read:     map[string]bool{},
	}
	for _, url := range slices.Sorted(maps.Keys(o.Sources)) {
		folder, err := Folder(o.Sources[url])
		if err != nil {
			return nil, fmt.Errorf("folder that answers for %s: %w", url, err)
		}
		l.sources.folders[repositoryKey(url)] = folder
	}
	if err := l.clusters(ctx); err != nil {
		return nil, err
	}
	l.remember()
	l.platform.artifacts = &artifacts{sources: l.sources}
	return l.platform, nil
}

// Folder returns the absolute path, without symbolic links, of a folder that
// exists; the error says what is in its place, or which folder beside it may be
// meant.
func Folder(name string) (string, error) {
	if name == "" {
		return "", errors.New("no platform folder is given; name the root of a platform repository with PLATFORM=, or with «platform:» in CONFIG")
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("find folder %s: %w", name, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		var siblings []string
		if entries, err := os.ReadDir(filepath.Dir(abs)); err == nil {
			for _, e := range entries {
				if e.IsDir() {
					siblings = append(siblings, e.Name())
				}
			}
		}
		return "", fmt.Errorf("folder %s does not exist%s", abs, suggestion(filepath.Base(abs), siblings))
	}
	if err != nil {
		return "", fmt.Errorf("find folder %s: %w", abs, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", fmt.Errorf("find folder %s: %w", abs, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is a file, the root folder of a repository is wanted", abs)
	}
	return real, nil
}

type loader struct {
	options  Options
	platform *Platform
	sources  *sources
	base     *tree           // the folder's files
	tree     *tree           // the repository under test, with what bootstrap adds
	read     map[string]bool // files of the repository under test that builds read
}

// clusters loads every environment.
func (l *loader) clusters(ctx context.Context) error {
	root := l.platform.Root
	if info, err := os.Stat(filepath.Join(root, "clusters")); err != nil || !info.IsDir() {
		return fmt.Errorf("%s has no folder clusters/; a platform repository has one folder clusters/ENV for each environment, each with a flux-system folder in it", root)
	}
	base, err := readFolder(root, "")
	if err != nil {
		return err
	}
	l.base, l.tree = base, base.layer()
	for name, data := range l.options.Extra {
		name, ok := within(".", name)
		if !ok {
			return fmt.Errorf("extra file %s lies outside of the repository", name)
		}
		l.tree.add(name, file{folder: root, path: name, data: data, memory: true})
	}
	l.sources.trees[root] = l.tree

	var names, without []string
	for _, name := range l.tree.list("clusters") {
		dir := path.Join("clusters", name)
		switch {
		case strings.HasPrefix(name, ".") || !l.tree.isDir(dir):
		case l.tree.isDir(path.Join(dir, "flux-system")):
			names = append(names, name)
		default:
			without = append(without, dir)
		}
	}
	var errs []error
	for _, link := range slices.Sorted(maps.Keys(base.links)) {
		if strings.HasPrefix(link, "clusters/") && strings.Count(link, "/") == 1 {
			errs = append(errs, fmt.Errorf("%s is a symbolic link to %s, and Flux leaves symbolic links out of an artifact; put a folder there", link, base.links[link]))
		}
	}
	if len(names) == 0 && len(without) == 0 && len(errs) == 0 {
		return fmt.Errorf("%s/clusters holds no environment; one is a folder clusters/ENV with a flux-system folder in it", root)
	}
	if err := l.bootstrap(names); err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("load environment %s: %w", name, err)
		}
		e, err := l.environment(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.platform.Environments = append(l.platform.Environments, e)
	}
	for _, dir := range without {
		if below := l.fluxSystemBelow(dir); below != "" {
			errs = append(errs, fmt.Errorf("%s lies too deep: an environment is a folder directly below clusters/, with flux-system in it; move %s there", below, path.Dir(below)))
		} else if !l.reads(dir) { // else environments share it, and it is none itself
			errs = append(errs, fmt.Errorf("%s is an environment without flux-system: folder %s/flux-system does not exist; «flux bootstrap --path=%s» writes it, and a folder that no environment uses belongs elsewhere", dir, dir, dir))
		}
	}
	for link, target := range base.links {
		l.platform.Unread = append(l.platform.Unread, Unread{
			Where: Origin{Folder: root, File: link}, What: "symbolic link to " + target,
			Why: "Flux leaves symbolic links out of an artifact" + escapes(root, link, target),
		})
	}
	slices.SortFunc(l.platform.Unread, func(a, b Unread) int {
		return strings.Compare(a.Environment+a.Where.File+a.What, b.Environment+b.Where.File+b.What)
	})
	if len(errs) == 0 && len(l.platform.TenantNames()) == 0 {
		errs = append(errs, fmt.Errorf("%s has no tenant in any environment (%s); a tenant is a Flux Kustomization or HelmRelease with the label %s on itself, in its commonMetadata, on its ServiceAccount or on its namespace, or a Kustomization declared in a folder clusters/ENV/TENANT%s",
			root, strings.Join(names, ", "), TenantLabel, l.ownerless()))
	}
	return errors.Join(errs...)
}

// ownerless lists what could be a tenant's if it were labelled.
func (l *loader) ownerless() string {
	const most = 8
	var lines []string
	add := func(o Object) {
		if line := fmt.Sprintf("\n  %s: %s", o.Origin, o); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, e := range l.platform.Environments {
		for _, k := range e.Kustomizations {
			if k != e.FluxSystem.Kustomization {
				add(k.Object)
			}
		}
		for _, h := range e.HelmReleases {
			add(h.Object)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("\n  and %d more", len(lines)-most))
	}
	return "; none of these says whose it is:" + strings.Join(lines, "")
}

// fluxSystemBelow finds a folder flux-system that lies deeper than environments do.
func (l *loader) fluxSystemBelow(dir string) string {
	found := ""
	_ = l.tree.walk(dir, func(name string, isDir bool) error { // only fn errs, and it does not
		if isDir && path.Base(name) == fluxNamespace && found == "" {
			found = name
		}
		return nil
	})
	return found
}

func (l *loader) reads(dir string) bool {
	for name := range l.read {
		if strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

// escapes tells whether a link leads out of the folder.
func escapes(root, link, target string) string {
	if !filepath.IsAbs(target) {
		target = filepath.Join(root, filepath.FromSlash(path.Dir(link)), target)
	}
	if rel, err := filepath.Rel(root, target); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "; this one leads out of the repository"
	}
	return ""
}

// walk is the state of loading one environment.
type walk struct {
	*loader
	env     *Environment
	byID    map[string]*Kustomization
	sources map[string]*Source
	objects map[string]Object

	bootstrapped []Object // what «flux bootstrap» applies
}

func (l *loader) environment(ctx context.Context, name string) (*Environment, error) {
	w := &walk{
		loader:  l,
		env:     &Environment{Name: name, Path: path.Join("clusters", name)},
		byID:    map[string]*Kustomization{},
		sources: map[string]*Source{},
		objects: map[string]Object{},
	}
	var errs []error
	root, err := w.fluxSystem()
	if err != nil {
		return nil, fmt.Errorf("environment %s: %w", name, err)
	}
	for {
		k := w.next()
		if k == nil {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("load environment %s: %w", name, err)
		}
		w.build(k)
		if k == root && k.Err != nil {
			return nil, located(k, name)
		}
		errs = append(errs, w.declare(k.Objects, k))
	}
	w.finish()
	errs = append(errs, w.tenants()...)
	errs = append(errs, w.judge()...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return w.env, nil
}

// next returns a Kustomization that is to be built and whose source, with what
// it includes, is declared; when only others are left, these get their reason.
func (w *walk) next() *Kustomization {
	for _, k := range w.env.Kustomizations {
		if k.build != nil || k.Err != nil || k.Unread != "" {
			continue
		}
		kind, namespace, name := k.Spec.SourceRef.Kind, k.Spec.SourceRef.Namespace, k.Spec.SourceRef.Name
		if namespace == "" {
			namespace = k.GetNamespace()
		}
		src := w.sources[kind+"/"+namespace+"/"+name]
		if src == nil {
			continue
		}
		k.Source = src
		if w.resolve(src) {
			return k
		}
	}
	// Nothing more can become known: what waits, waits for ever.
	partial := slices.ContainsFunc(w.env.Kustomizations, func(k *Kustomization) bool { return k.Unread != "" || k.Err != nil })
	for _, k := range w.env.Kustomizations {
		if k.build == nil && k.Err == nil && k.Unread == "" {
			if k.Source != nil {
				return k // its missing include is named by the build
			}
			missing := fmt.Sprintf("its source %s %s is declared nowhere", k.Spec.SourceRef.Kind, k.Spec.SourceRef.Name)
			switch {
			case k.Spec.SourceRef.Kind == sourcev1.ExternalArtifactKind:
				k.Unread = fmt.Sprintf("its source is the ExternalArtifact %s, which a controller makes in the cluster", k.Spec.SourceRef.Name)
			case partial:
				k.Unread = missing + " that was read"
			default:
				k.Err = errors.New(missing)
			}
		}
	}
	return nil
}

// resolve links a source's includes, and tells whether all are declared.
func (w *walk) resolve(s *Source) bool {
	complete := true
	for i := range s.Include {
		if s.Include[i].Source == nil {
			s.Include[i].Source = w.sources[sourcev1.GitRepositoryKind+"/"+s.GetNamespace()+"/"+s.Include[i].Name]
		}
		complete = complete && s.Include[i].Source != nil
	}
	return complete
}

// build renders one Kustomization, or notes why not.
func (w *walk) build(k *Kustomization) {
	if k.Spec.KubeConfig != nil {
		k.Unread = "spec.kubeConfig: it is applied to another cluster"
		return
	}
	t, reason, err := w.loader.sources.artifact(k.Source, map[*Source]bool{})
	if err != nil || reason != "" {
		k.Unread, k.Err = reason, err
		return
	}
	k.artifact = t
	dir, ok := within(".", strings.TrimPrefix(k.Spec.Path, "/"))
	if !ok {
		k.Err = pathError{fmt.Sprintf("path %q leads out of the artifact", k.Spec.Path)}
		return
	}
	if dir == "" {
		dir = "."
	}
	b, err := runBuild(t, dir, k.Spec)
	var missing pathError
	root := w.env.FluxSystem.Source
	if errors.As(err, &missing) && k.Source.Folder == w.platform.Root && k.Source.Ref != root.Ref {
		err = pathError{fmt.Sprintf("%s (%s asks for %s; for the repository under test the working tree answers at every reference)", missing, k.Source, k.Source.Ref)}
	}
	switch {
	case errors.Is(err, errRemote):
		k.Unread = err.Error()
	case err != nil:
		k.Err = err
	default:
		if err := w.postBuild(k, b); err != nil {
			k.Err = err
			return
		}
		k.build = b
		k.Objects = slices.DeleteFunc(slices.Clone(b.objects), func(o Object) bool { return o.stand && !isFlux(o) })
	}
	for _, name := range w.readBy(b) {
		w.read[name] = true
	}
}

func (w *walk) readBy(b *build) []string {
	var out []string
	if b == nil {
		return nil
	}
	for _, name := range b.reads {
		if f, ok := b.tree.file(name); ok && f.folder == w.platform.Root {
			out = append(out, f.path)
		}
	}
	return out
}

// postBuild substitutes variables and adds common metadata.
func (w *walk) postBuild(k *Kustomization, b *build) error {
	vars, unknown := map[string]string{}, false
	if post := k.Spec.PostBuild; post != nil {
		for _, from := range post.SubstituteFrom {
			values, ok := w.variables(from, k.GetNamespace())
			if !ok && !from.Optional {
				unknown = true
				w.unread(k.Object, fmt.Sprintf("its postBuild takes variables from %s %s, which no file declares; they are left as ${NAME}", from.Kind, from.Name))
			}
			for name, value := range values {
				vars[name] = strings.ReplaceAll(value, "\n", "")
			}
		}
		for name, value := range post.Substitute {
			vars[name] = strings.ReplaceAll(value, "\n", "")
		}
	}
	run := len(vars) > 0 || unknown || k.Spec.PostBuild != nil && k.Spec.PostBuild.SubstituteStrategy == kustomizev1.SubstituteStrategyAlways
	for i := range b.objects {
		object := &b.objects[i]
		object.Owner = k
		if run {
			replaced, err := substitute(object.Unstructured, vars, unknown)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", object.Origin, object, err)
			}
			object.Unstructured = replaced
		}
		if common := k.Spec.CommonMetadata; common != nil {
			object.SetLabels(merge(object.GetLabels(), common.Labels))
			object.SetAnnotations(merge(object.GetAnnotations(), common.Annotations))
		}
	}
	return nil
}

func merge(into, from map[string]string) map[string]string {
	if into == nil && len(from) > 0 {
		into = map[string]string{}
	}
	maps.Copy(into, from)
	return into
}

// variables reads the data of a declared ConfigMap or Secret.
func (w *walk) variables(from kustomizev1.SubstituteReference, namespace string) (map[string]string, bool) {
	object, ok := w.objects["/"+from.Kind+"/"+namespace+"/"+from.Name]
	if !ok {
		return nil, false
	}
	out, _, _ := unstructured.NestedStringMap(object.Object, "data")
	if from.Kind == "Secret" {
		out, _, _ = unstructured.NestedStringMap(object.Object, "stringData")
	}
	return out, len(out) > 0
}

func (w *walk) unread(o Object, why string) {
	w.platform.Unread = append(w.platform.Unread, Unread{Environment: w.env.Name, Where: o.Origin, What: o.String(), Why: why})
}

// declare takes over what a build rendered: Kustomizations and sources found
// in it make the walk go on.
func (w *walk) declare(objects []Object, by *Kustomization) error {
	var errs []error
	for _, o := range objects {
		if o.stand && !isFlux(o) {
			continue
		}
		have, known := w.objects[o.id()]
		switch {
		case !known:
		case have.Owner == nil && by != nil:
			// The bootstrap applied it first; what the root Kustomization makes of
			// it is what stays.
		case have.Owner != by:
			w.conflict(have, o)
			continue
		}
		w.objects[o.id()] = o
		switch o.GroupVersionKind().Group {
		case kustomizev1.GroupVersion.Group:
			errs = append(errs, w.kustomization(o))
		case sourcev1.GroupVersion.Group:
			errs = append(errs, w.source(o))
		case helmv2.GroupVersion.Group:
			errs = append(errs, w.helmRelease(o))
		}
	}
	return errors.Join(errs...)
}

func isFlux(o Object) bool {
	return strings.HasSuffix(o.GroupVersionKind().Group, ".toolkit.fluxcd.io")
}

// conflict notes that two Kustomizations declare one object; it concerns the
// tenants of both.
func (w *walk) conflict(have, o Object) {
	w.platform.Problems = append(w.platform.Problems, Problem{
		Environment: w.env.Name, Where: o.Origin, What: o.String(),
		Err: conflictError{first: have, second: o},
	})
}

type conflictError struct{ first, second Object }

func (e conflictError) Error() string {
	by := func(o Object) string {
		text := fmt.Sprintf("%s of %s", o.Owner, o.Owner.Origin)
		if o.Owner.Origin != o.Origin {
			text += fmt.Sprintf(" (from %s)", o.Origin)
		}
		return text
	}
	return fmt.Sprintf("declared twice: by %s and by %s; the one applied last wins, and pruning one deletes it for both", by(e.first), by(e.second))
}

func typed(o Object, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		return fmt.Errorf("%s: %s: %w", o.Origin, o, err)
	}
	return nil
}

func (w *walk) kustomization(o Object) error {
	if o.GetKind() != kustomizev1.KustomizationKind {
		return nil
	}
	var t kustomizev1.Kustomization
	if err := typed(o, &t); err != nil {
		return err
	}
	if k := w.byID[o.id()]; k != nil {
		k.Object, k.Spec = o, t.Spec
		return nil
	}
	k := &Kustomization{Object: o, Spec: t.Spec}
	w.byID[o.id()] = k
	w.env.Kustomizations = append(w.env.Kustomizations, k)
	return nil
}

// source registers a source, with the folder that answers for it.
func (w *walk) source(o Object) error {
	s, err := newSource(o)
	if err != nil {
		return err
	}
	key := repositoryKey(s.URL)
	switch folder, ok := w.loader.sources.folders[key]; {
	case s.URL == "":
	case s.GetKind() == sourcev1.GitRepositoryKind && key == repositoryKey(w.platform.URL):
		s.Folder = w.platform.Root
	case ok:
		s.Folder = folder
	}
	name := s.GetKind() + "/" + s.GetNamespace() + "/" + s.GetName()
	if have := w.sources[name]; have != nil {
		folder := have.Folder
		*have = *s
		have.Folder = folder
		return nil
	}
	w.sources[name] = s
	w.env.Sources = append(w.env.Sources, s)
	return nil
}

func (w *walk) helmRelease(o Object) error {
	if o.GetKind() != helmv2.HelmReleaseKind {
		return nil
	}
	var t helmv2.HelmRelease
	if err := typed(o, &t); err != nil {
		return err
	}
	w.env.HelmReleases = append(w.env.HelmReleases, &HelmRelease{Object: o, Spec: t.Spec})
	return nil
}

// finish links charts with their sources and notes what was not read.
func (w *walk) finish() {
	find := func(kind, namespace, name, own string) *Source {
		if namespace == "" {
			namespace = own
		}
		return w.sources[kind+"/"+namespace+"/"+name]
	}
	chart := func(s *Source, c Chart) {
		if s != nil && !slices.Contains(s.Charts, c) {
			s.Charts = append(s.Charts, c)
		}
	}
	for _, s := range w.env.Sources {
		w.resolve(s)
		if s.GetKind() != sourcev1.HelmChartKind {
			continue
		}
		var t sourcev1.HelmChart
		if typed(s.Object, &t) == nil {
			ref := t.Spec.SourceRef
			chart(find(ref.Kind, "", ref.Name, s.GetNamespace()), Chart{t.Spec.Chart, t.Spec.Version})
		}
	}
	for _, h := range w.env.HelmReleases {
		if c := h.Spec.Chart; c != nil {
			h.Source = find(c.Spec.SourceRef.Kind, c.Spec.SourceRef.Namespace, c.Spec.SourceRef.Name, h.GetNamespace())
			chart(h.Source, Chart{c.Spec.Chart, c.Spec.Version})
		} else if c := h.Spec.ChartRef; c != nil {
			h.Source = find(c.Kind, c.Namespace, c.Name, h.GetNamespace())
		}
		if h.Source == nil {
			h.Unread = "the source of its chart is declared nowhere that was read"
			w.unread(h.Object, h.Unread)
		}
	}
	for _, k := range w.env.Kustomizations {
		if k.Unread != "" {
			w.unread(k.Object, k.Unread)
		}
		if k.Spec.Decryption != nil {
			w.unread(k.Object, "spec.decryption: its Secrets are known in their encrypted form only")
		}
	}
	for _, o := range w.objects {
		w.env.Objects = append(w.env.Objects, o)
	}
	slices.SortFunc(w.env.Objects, func(a, b Object) int { return strings.Compare(a.id(), b.id()) })
	for _, o := range w.env.Objects {
		switch gvk := o.GroupVersionKind(); {
		case gvk.Group == "" && gvk.Kind == "Namespace":
			w.env.Namespaces = append(w.env.Namespaces, o)
		case gvk.Group == "kyverno.io" || gvk.Group == "policies.kyverno.io":
			w.env.Policies = append(w.env.Policies, o)
		case generates(gvk.Group, gvk.Kind):
			w.unread(o, "this kind is not known here; what its controller makes of it in the cluster is no part of the model")
		}
	}
	w.controllers()
}

// generates tells whether objects of a kind are of Flux, or of those who extend
// it, and stand for others that no file holds.
func generates(group, kind string) bool {
	switch group {
	case kustomizev1.GroupVersion.Group, helmv2.GroupVersion.Group, "notification.toolkit.fluxcd.io", "image.toolkit.fluxcd.io":
		return false
	case sourcev1.GroupVersion.Group:
		return !slices.Contains([]string{
			sourcev1.GitRepositoryKind, sourcev1.OCIRepositoryKind, sourcev1.BucketKind, sourcev1.HelmRepositoryKind, sourcev1.HelmChartKind,
		}, kind)
	}
	return strings.HasSuffix(group, ".fluxcd.io") || group == "fluxcd.controlplane.io"
}

// judge sorts failed builds and conflicts: those of tenants are problems of
// theirs, all others mistakes of the platform.
func (w *walk) judge() []error {
	var errs []error
	for _, k := range w.env.Kustomizations {
		switch {
		case k.Err == nil:
		case k.Tenant == "":
			errs = append(errs, located(k, w.env.Name))
		default:
			w.platform.Problems = append(w.platform.Problems, Problem{
				Environment: w.env.Name, Tenants: []string{k.Tenant}, Where: k.Origin, What: k.String(), Err: k.Err,
			})
		}
	}
	for i, p := range w.platform.Problems {
		var c conflictError
		if p.Environment != w.env.Name || !errors.As(p.Err, &c) {
			continue
		}
		for _, o := range []Object{c.first, c.second} {
			if o.Owner.Tenant != "" && !slices.Contains(w.platform.Problems[i].Tenants, o.Owner.Tenant) {
				w.platform.Problems[i].Tenants = append(w.platform.Problems[i].Tenants, o.Owner.Tenant)
			}
		}
	}
	return errs
}

// located prefixes a failed build with the place of its Kustomization; a syntax
// error has a place of its own, which comes first then.
func located(k *Kustomization, env string) error {
	var syntax syntaxError
	if errors.As(k.Err, &syntax) {
		return fmt.Errorf("%w (read by %s of %s, environment %s)", k.Err, k, k.Origin, env)
	}
	return fmt.Errorf("%s: %s in environment %s: %w", k.Origin, k, env, k.Err)
}
