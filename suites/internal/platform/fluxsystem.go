package platform

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/kustomize/api/konfig"
	sigsyaml "sigs.k8s.io/yaml"
)

const (
	componentsFile = "gotk-components.yaml"
	syncFile       = "gotk-sync.yaml"
	fluxNamespace  = "flux-system"
)

// bootstrap finds the URL of the repository under test, and puts stand-ins
// where an environment lacks what «flux bootstrap» writes.
func (l *loader) bootstrap(names []string) error {
	for _, name := range names {
		url, err := l.syncURL(path.Join("clusters", name, fluxNamespace, syncFile))
		if err != nil {
			return err
		}
		if l.platform.URL == "" {
			l.platform.URL = url
		}
	}
	root := l.platform.Root
	for _, url := range []string{l.options.URL, originRemote(root), "https://github.com/your-org/" + filepath.Base(root)} {
		if l.platform.URL == "" {
			l.platform.URL = url
		}
	}
	for t := l.tree; t != nil; t = t.parent {
		for name, f := range t.files {
			f.repository = l.platform.URL
			t.files[name] = f
		}
	}
	for _, name := range names {
		dir := path.Join("clusters", name, fluxNamespace)
		for file, content := range map[string]string{
			componentsFile: standInComponents(),
			syncFile:       standInSync(l.platform.URL, name),
		} {
			if f, ok := l.tree.file(path.Join(dir, file)); ok {
				data, err := f.read()
				if err != nil {
					return err
				}
				if len(outline(data)) > 0 {
					continue
				}
			}
			l.standIn(path.Join(dir, file), content)
		}
		if _, ok := kustomizationFile(l.tree, dir); !ok {
			l.standIn(path.Join(dir, konfig.DefaultKustomizationFileName()),
				"resources:\n- "+componentsFile+"\n- "+syncFile+"\n")
		}
	}
	return nil
}

func (l *loader) standIn(name, content string) {
	l.tree.add(name, file{repository: l.platform.URL, folder: l.platform.Root, path: name, data: []byte(content), memory: true, stand: true})
}

// syncURL reads the root source's URL; empty when the file does not say.
func (l *loader) syncURL(name string) (string, error) {
	f, ok := l.tree.file(name)
	if !ok {
		return "", nil
	}
	data, err := f.read()
	if err != nil {
		return "", err
	}
	if err := checkSyntax(f, data); err != nil {
		return "", err
	}
	for _, text := range documents(data) {
		var object struct {
			Kind string
			Spec struct{ URL string }
		}
		if err := sigsyaml.Unmarshal([]byte(text), &object); err == nil && object.Kind == sourcev1.GitRepositoryKind {
			return object.Spec.URL, nil
		}
	}
	return "", nil
}

// documents splits a YAML stream.
func documents(data []byte) []string {
	return strings.Split("\n"+strings.ReplaceAll(string(data), "\r\n", "\n"), "\n---")
}

// standInSync is the gotk-sync.yaml that «flux bootstrap» writes by default.
func standInSync(url, env string) string {
	return fmt.Sprintf(`apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata:
  name: flux-system
  namespace: flux-system
spec:
  interval: 1m0s
  ref:
    branch: main
  secretRef:
    name: flux-system
  url: %s
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: flux-system
  namespace: flux-system
spec:
  interval: 10m0s
  path: ./clusters/%s
  prune: true
  sourceRef:
    kind: GitRepository
    name: flux-system
`, url, env)
}

// standInComponents holds as much of gotk-components.yaml as a platform's
// patches need: the namespace and the controllers, without arguments.
func standInComponents() string {
	var out strings.Builder
	labels := "\n  labels:\n    app.kubernetes.io/instance: flux-system\n    app.kubernetes.io/part-of: flux\n"
	out.WriteString("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: flux-system" + labels)
	for _, name := range []string{
		"helm-controller", "image-automation-controller", "image-reflector-controller",
		"kustomize-controller", "notification-controller", "source-controller",
	} {
		fmt.Fprintf(&out, `---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: %[1]s
  namespace: flux-system%[2]s---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: flux-system%[2]s    app.kubernetes.io/component: %[1]s
    control-plane: controller
spec:
  replicas: 1
  selector:
    matchLabels:
      app: %[1]s
  template:
    metadata:
      annotations:
        prometheus.io/port: "8080"
      labels:
        app: %[1]s
    spec:
      containers:
      - name: manager
        image: ""
        args: []
        env: []
        resources:
          limits: {}
          requests: {}
        volumeMounts:
        - name: temp
          mountPath: /tmp
      nodeSelector:
        kubernetes.io/os: linux
      serviceAccountName: %[1]s
      volumes:
      - name: temp
        emptyDir: {}
`, name, labels)
	}
	return out.String()
}

// fluxSystem builds clusters/ENV/flux-system and returns the root Kustomization.
func (w *walk) fluxSystem() (*Kustomization, error) {
	dir := path.Join(w.env.Path, fluxNamespace)
	system := &w.env.FluxSystem
	system.Path = dir
	for name, assumed := range map[string]*bool{componentsFile: &system.ComponentsAssumed, syncFile: &system.SyncAssumed} {
		f, _ := w.tree.file(path.Join(dir, name))
		*assumed = f.stand
	}
	b, err := runBuild(w.tree, dir, kustomizev1.KustomizationSpec{})
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", dir, err)
	}
	for _, name := range w.readBy(b) {
		w.read[name] = true
	}
	w.bootstrapped = b.objects
	if err := w.declare(b.objects, nil); err != nil {
		return nil, err
	}
	root, err := w.root(dir)
	if err != nil {
		return nil, err
	}
	namespace := root.Spec.SourceRef.Namespace
	if namespace == "" {
		namespace = root.GetNamespace()
	}
	source := w.sources[root.Spec.SourceRef.Kind+"/"+namespace+"/"+root.Spec.SourceRef.Name]
	if source == nil {
		return nil, fmt.Errorf("%s: %s: its source %s %s is not declared in %s", root.Origin, root, root.Spec.SourceRef.Kind, root.Spec.SourceRef.Name, dir)
	}
	source.Folder = w.platform.Root
	system.Kustomization, system.Source = root, source
	return root, nil
}

// root picks the Kustomization that syncs the environment.
func (w *walk) root(dir string) (*Kustomization, error) {
	found := w.env.Kustomizations
	for _, match := range []func(*Kustomization) bool{
		func(k *Kustomization) bool { return k.GetName() == fluxNamespace },
		func(k *Kustomization) bool { return path.Clean(k.Spec.Path) == w.env.Path },
		func(*Kustomization) bool { return len(found) == 1 },
	} {
		if i := slices.IndexFunc(found, match); i >= 0 {
			return found[i], nil
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s declares no Kustomization that syncs the cluster; its kustomization.yaml has to list %s, which «flux bootstrap» writes", dir, syncFile)
	}
	return nil, fmt.Errorf("%s declares %d Kustomizations and none is the root one: none is named %s or has the path ./%s", dir, len(found), fluxNamespace, w.env.Path)
}

// controllers lists the Deployments of flux-system with their arguments.
func (w *walk) controllers() {
	declared := w.declaredArgs()
	for _, o := range w.bootstrapped {
		if o.GetKind() != "Deployment" {
			continue
		}
		if root := w.objects[o.id()]; root.Unstructured != nil {
			o = root
		} else if k := w.env.FluxSystem.Kustomization; k.build != nil {
			if i := slices.IndexFunc(k.build.objects, func(have Object) bool { return have.id() == o.id() }); i >= 0 {
				o = k.build.objects[i]
			}
		}
		var deployment appsv1.Deployment
		if typed(o, &deployment) != nil {
			continue
		}
		c := Controller{Name: o.GetName(), Origin: o.Origin}
		for i, container := range deployment.Spec.Template.Spec.Containers {
			if container.Name == "manager" || i == 0 {
				c.Image, c.Args = container.Image, container.Args
			}
		}
		for _, arg := range c.Args {
			if !slices.Contains(declared[c.Name], arg) {
				c.Added = append(c.Added, arg)
			}
		}
		if w.env.FluxSystem.ComponentsAssumed && len(c.Args) == 0 && strings.HasPrefix(c.Name, "image-") {
			continue // not among the default components, and nothing is said of it
		}
		w.env.FluxSystem.Controllers = append(w.env.FluxSystem.Controllers, c)
	}
	slices.SortFunc(w.env.FluxSystem.Controllers, func(a, b Controller) int { return strings.Compare(a.Name, b.Name) })
}

// declaredArgs reads the controllers' arguments before any patch.
func (w *walk) declaredArgs() map[string][]string {
	out := map[string][]string{}
	f, ok := w.tree.file(path.Join(w.env.FluxSystem.Path, componentsFile))
	if !ok {
		return out
	}
	data, err := f.read()
	if err != nil {
		return out
	}
	for _, text := range documents(data) {
		if !strings.Contains(text, "kind: Deployment") {
			continue
		}
		var deployment appsv1.Deployment
		if sigsyaml.Unmarshal([]byte(text), &deployment) != nil {
			continue
		}
		for _, container := range deployment.Spec.Template.Spec.Containers {
			out[deployment.Name] = append(out[deployment.Name], container.Args...)
		}
	}
	return out
}

func flags(args []string) map[string]string {
	out := map[string]string{}
	for _, arg := range args {
		name, value, ok := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !ok {
			value = "true"
		}
		out[name] = value
	}
	return out
}
