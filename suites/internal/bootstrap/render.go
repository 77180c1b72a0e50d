// Package bootstrap installs Flux the way «flux bootstrap» does it and waits for
// what Flux then brings up: it renders the two files that a bootstrap commits,
// applies the folder that holds them, asks for reconciliation in the order in
// which objects wait for one another, and explains the chain when they stop.
package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	// Namespace is where Flux runs and where its root objects live.
	Namespace = "flux-system"
	// ComponentsFile is the file that holds the controllers and their CRDs.
	ComponentsFile = "gotk-components.yaml"
	// SyncFile is the file that holds the root GitRepository and Kustomization.
	SyncFile = "gotk-sync.yaml"

	// clusterDomain is the one that the suite's clusters have.
	clusterDomain = "cluster.local"
	// controllerRegistry is where the images of a Flux release are published.
	controllerRegistry = "ghcr.io/fluxcd"
)

// releaseFile matches the two files of a controller's release that the install
// manifests of Flux refer to: their content stands in the controller's module.
var releaseFile = regexp.MustCompile(`^https://[^/]+/[^/]+/([^/]+)/releases/download/([^/]+)/[^/]+\.(crds|deployment)\.yaml$`)

// Components are the controllers that «flux bootstrap» installs and that a
// session can run, in the order in which they are rendered.
var Components = []string{"source-controller", "kustomize-controller", "helm-controller"}

// RenderInput says what ComponentsManifest renders.
type RenderInput struct {
	// Version of Flux, e.g. v2.9.5; required.
	Version string
	// Manifests is the folder of Flux's own module; required.
	Manifests string
	// Controllers maps each component to the folder of its module; required for
	// every one of Components.
	Controllers map[string]string
}

// ComponentsManifest renders gotk-components.yaml from the modules of Flux and
// its controllers: namespace, network policies, roles, CRDs and Deployments,
// with the arguments that «flux bootstrap» sets when no notification-controller
// is installed. It errs when a module lacks a file, or a controller's version is
// not the one that this release of Flux names.
func ComponentsManifest(in RenderInput) ([]byte, error) {
	if in.Version == "" || in.Manifests == "" {
		return nil, errors.New("render the Flux components: version and module folder are required")
	}
	memory := filesys.MakeFsInMemory()
	const root = "/flux"
	for _, folder := range []string{"bases", "policies", "rbac"} {
		if err := copyTree(memory, filepath.Join(in.Manifests, "manifests", folder), path.Join(root, folder)); err != nil {
			return nil, fmt.Errorf("render the Flux components: %w", err)
		}
	}
	for _, name := range Components {
		folder, ok := in.Controllers[name]
		if !ok {
			return nil, fmt.Errorf("render the Flux components: no module folder for %s", name)
		}
		if err := localiseBase(memory, path.Join(root, "bases", name), name, folder); err != nil {
			return nil, fmt.Errorf("render the Flux components: %w", err)
		}
	}
	files := map[string]any{
		"namespace.yaml": map[string]any{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{"name": Namespace, "labels": map[string]string{
				"pod-security.kubernetes.io/warn":         "restricted",
				"pod-security.kubernetes.io/warn-version": "latest",
			}},
		},
		"labels.yaml": map[string]any{
			"apiVersion": "builtin", "kind": "LabelTransformer",
			"metadata": map[string]any{"name": "labels"},
			"labels": map[string]string{
				"app.kubernetes.io/instance": Namespace,
				"app.kubernetes.io/version":  in.Version,
				"app.kubernetes.io/part-of":  "flux",
			},
			"fieldSpecs": []any{
				map[string]any{"path": "metadata/labels", "create": true},
				map[string]any{"path": "spec/template/metadata/labels", "kind": "Deployment", "create": true},
			},
		},
		"roles/kustomization.yaml": kustomization(map[string]any{
			"namespace":  Namespace,
			"resources":  []string{"../rbac"},
			"nameSuffix": "-" + Namespace,
		}),
		"kustomization.yaml": installKustomization(),
	}
	for name, content := range files {
		data, err := yaml.Marshal(content)
		if err != nil {
			return nil, fmt.Errorf("render the Flux components: %s: %w", name, err)
		}
		if err := memory.WriteFile(path.Join(root, name), data); err != nil {
			return nil, fmt.Errorf("render the Flux components: %s: %w", name, err)
		}
	}
	out, err := Build(memory, root)
	if err != nil {
		return nil, fmt.Errorf("render the Flux components from %s: %w", in.Manifests, err)
	}
	return append([]byte("# Flux "+in.Version+", components: "+strings.Join(Components, ",")+"\n"), out...), nil
}

func kustomization(fields map[string]any) map[string]any {
	out := map[string]any{"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
	for k, v := range fields {
		out[k] = v
	}
	return out
}

// installKustomization sets what bootstrap's own template sets: where events go
// (nowhere), which namespaces are watched, how much is logged, under which name
// artifacts are advertised, and that controllers run on Linux nodes.
func installKustomization() map[string]any {
	resources := []string{"namespace.yaml", "policies", "roles"}
	patches := []any{map[string]any{
		"target": map[string]string{"kind": "Deployment"},
		"patch":  `[{"op":"add","path":"/spec/template/spec/nodeSelector","value":{"kubernetes.io/os":"linux"}}]`,
	}}
	var images []any
	for _, name := range Components {
		resources = append(resources, "bases/"+name)
		args := []string{"--events-addr=", "--watch-all-namespaces=true", "--log-level=info"}
		var ops []string
		for i, arg := range args {
			ops = append(ops, replaceArg(i, arg))
		}
		if name == "source-controller" {
			ops = append(ops, replaceArg(6, "--storage-adv-addr="+name+".$(RUNTIME_NAMESPACE).svc."+clusterDomain+"."))
		}
		patches = append(patches, map[string]any{
			"target": map[string]string{"group": "apps", "version": "v1", "kind": "Deployment", "name": name},
			"patch":  "[" + strings.Join(ops, ",") + "]",
		})
		images = append(images, map[string]string{"name": "fluxcd/" + name, "newName": controllerRegistry + "/" + name})
	}
	return kustomization(map[string]any{
		"namespace": Namespace, "transformers": []string{"labels.yaml"},
		"resources": resources, "patches": patches, "images": images,
	})
}

func replaceArg(index int, value string) string {
	return fmt.Sprintf(`{"op":"replace","path":"/spec/template/spec/containers/0/args/%d","value":%q}`, index, value)
}

// localiseBase points a controller's base at the CRDs and the Deployment in the
// controller's own module instead of the files of its release.
func localiseBase(memory filesys.FileSystem, base, name, module string) error {
	file := path.Join(base, "kustomization.yaml")
	data, err := memory.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the base of %s: %w", name, err)
	}
	var content map[string]any
	if err := yaml.Unmarshal(data, &content); err != nil {
		return fmt.Errorf("parse the base of %s: %w", name, err)
	}
	resources, _ := content["resources"].([]any)
	folders := map[string]string{"crds": "crd", "deployment": "manager"}
	for i, entry := range resources {
		reference, _ := entry.(string)
		match := releaseFile.FindStringSubmatch(reference)
		if match == nil {
			continue
		}
		if version := moduleVersion(module); version != "" && version != match[2] {
			return fmt.Errorf("this release of Flux names %s %s, the pinned module is %s", name, match[2], version)
		}
		folder := folders[match[3]]
		if err := copyTree(memory, filepath.Join(module, "config", folder), path.Join(base, folder)); err != nil {
			return err
		}
		resources[i] = folder
	}
	out, err := yaml.Marshal(content)
	if err != nil {
		return fmt.Errorf("write the base of %s: %w", name, err)
	}
	return memory.WriteFile(file, out)
}

// moduleVersion reads the version off a module folder's name, as the Go tool
// names it; empty when the folder has another form.
func moduleVersion(folder string) string {
	if _, version, ok := strings.Cut(filepath.Base(folder), "@"); ok {
		return version
	}
	return ""
}

func copyTree(memory filesys.FileSystem, from, to string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := path.Join(to, filepath.ToSlash(relative))
		if entry.IsDir() {
			return memory.MkdirAll(target)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return memory.WriteFile(target, data)
	})
}

// Build runs kustomize on a folder as the Flux controllers do: built-in plugins
// only, files outside the folder readable, no remote ones.
func Build(fsys filesys.FileSystem, folder string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsNone
	result, err := krusty.MakeKustomizer(options).Run(fsys, folder)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", folder, err)
	}
	return result.AsYaml()
}

// SyncInput says what SyncManifest writes.
type SyncInput struct {
	// URL of the root source; required.
	URL string
	// Branch of the root source; default main.
	Branch string
	// Path of the environment in the repository, e.g. clusters/dev; required.
	Path string
}

// SyncManifest renders gotk-sync.yaml: the root GitRepository with its Secret
// and the root Kustomization, both named flux-system, with the intervals that
// «flux bootstrap» writes.
func SyncManifest(in SyncInput) ([]byte, error) {
	if in.URL == "" || in.Path == "" {
		return nil, errors.New("render the root sync: URL and path are required")
	}
	if in.Branch == "" {
		in.Branch = "main"
	}
	metadata := map[string]string{"name": Namespace, "namespace": Namespace}
	documents := []any{
		map[string]any{
			"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": metadata,
			"spec": map[string]any{
				"interval": "1m0s", "ref": map[string]string{"branch": in.Branch},
				"secretRef": map[string]string{"name": Namespace}, "url": in.URL,
			},
		},
		map[string]any{
			"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": metadata,
			"spec": map[string]any{
				"interval": "10m0s", "path": "./" + strings.TrimPrefix(in.Path, "./"), "prune": true,
				"sourceRef": map[string]string{"kind": "GitRepository", "name": Namespace},
			},
		},
	}
	var out strings.Builder
	for _, document := range documents {
		data, err := yaml.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("render the root sync: %w", err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return []byte(out.String()), nil
}

// FolderKustomization is the kustomization of a flux-system folder that has
// none: bootstrap writes one that names its two files.
func FolderKustomization() ([]byte, error) {
	return yaml.Marshal(kustomization(map[string]any{"resources": []string{ComponentsFile, SyncFile}}))
}
