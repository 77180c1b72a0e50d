package bootstrap

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/golden"
)

// pinned is what a session renders Flux from.
func pinned(t *testing.T) RenderInput {
	t.Helper()
	store, err := component.Open(component.Options{Dir: t.TempDir(), Pins: os.DirFS("../../../scripts/pins")})
	if err != nil {
		t.Fatal(err)
	}
	module := func(path string) string {
		dir, err := store.Module(t.Context(), path, "")
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	flux := module("github.com/fluxcd/flux2/v2")
	in := RenderInput{Version: moduleVersion(flux), Manifests: flux, Controllers: map[string]string{}}
	for _, name := range Components {
		in.Controllers[name] = module("github.com/fluxcd/" + name)
	}
	return in
}

// The golden file has each object by name, and of the Deployments what the flags
// of «flux bootstrap» decide.
func TestComponentsManifest(t *testing.T) {
	g := NewWithT(t)
	in := pinned(t)
	manifest, err := ComponentsManifest(in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(manifest)).To(HavePrefix("# Flux " + in.Version + ", components: source-controller,kustomize-controller,helm-controller\n"))
	objects, err := Decode(manifest)
	g.Expect(err).NotTo(HaveOccurred())
	var lines []string
	for _, object := range objects {
		line := describe(object) + "\n"
		g.Expect(object.GetLabels()).To(HaveKeyWithValue("app.kubernetes.io/part-of", "flux"), describe(object))
		g.Expect(object.GetLabels()).To(HaveKeyWithValue("app.kubernetes.io/version", in.Version), describe(object))
		if object.GetKind() == "Deployment" {
			line += deployment(t, object)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	golden.Compare(t, "components.golden", strings.Join(lines, ""))
}

func deployment(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	data, err := json.Marshal(object.Object["spec"].(map[string]any)["template"])
	if err != nil {
		t.Fatal(err)
	}
	var template corev1.PodTemplateSpec
	if err := json.Unmarshal(data, &template); err != nil {
		t.Fatal(err)
	}
	container := template.Spec.Containers[0]
	out := fmt.Sprintf("  image %s\n  nodes %v\n  account %s\n", container.Image, template.Spec.NodeSelector, template.Spec.ServiceAccountName)
	for _, arg := range container.Args {
		out += "  " + arg + "\n"
	}
	return out
}

func TestComponentsManifestRefuses(t *testing.T) {
	in := pinned(t)
	without := map[string]string{"source-controller": in.Controllers["source-controller"]}
	other := filepath.Join(t.TempDir(), "source-controller@v1.0.0")
	for _, test := range []struct {
		name string
		in   RenderInput
		want string
	}{
		{"no version", RenderInput{Manifests: in.Manifests}, "version and module folder are required"},
		{"no module", RenderInput{Version: in.Version}, "version and module folder are required"},
		{"an empty module", RenderInput{Version: in.Version, Manifests: t.TempDir(), Controllers: in.Controllers}, "render the Flux components: lstat "},
		{"a controller too few", RenderInput{Version: in.Version, Manifests: in.Manifests, Controllers: without}, "no module folder for kustomize-controller"},
		{
			"a controller of another release",
			RenderInput{Version: in.Version, Manifests: in.Manifests, Controllers: map[string]string{"source-controller": other}},
			"this release of Flux names source-controller " + moduleVersion(in.Controllers["source-controller"]) + ", the pinned module is v1.0.0",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ComponentsManifest(test.in)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

func TestSyncManifest(t *testing.T) {
	g := NewWithT(t)
	manifest, err := SyncManifest(SyncInput{URL: "ssh://git@github.com/acme/platform", Path: "clusters/dev"})
	g.Expect(err).NotTo(HaveOccurred())
	golden.Compare(t, "sync.golden", string(manifest))
	dotted, err := SyncManifest(SyncInput{URL: "ssh://git@github.com/acme/platform", Path: "./clusters/dev", Branch: "main"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(dotted).To(Equal(manifest))
	other, err := SyncManifest(SyncInput{URL: "https://github.com/acme/platform", Path: "clusters/dev", Branch: "trunk"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(other)).To(ContainSubstring("branch: trunk\n"))
	for _, in := range []SyncInput{{Path: "clusters/dev"}, {URL: "https://github.com/acme/platform"}} {
		_, err := SyncManifest(in)
		g.Expect(err).To(MatchError("render the root sync: URL and path are required"))
	}
}

// The two files that a bootstrap writes are what the folder's kustomization names.
func TestFolderKustomization(t *testing.T) {
	g := NewWithT(t)
	memory := filesys.MakeFsInMemory()
	kustomization, err := FolderKustomization()
	g.Expect(err).NotTo(HaveOccurred())
	sync, err := SyncManifest(SyncInput{URL: "https://github.com/acme/platform", Path: "clusters/dev"})
	g.Expect(err).NotTo(HaveOccurred())
	for name, content := range map[string][]byte{
		"kustomization.yaml": kustomization, SyncFile: sync,
		ComponentsFile: []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n"),
	} {
		g.Expect(memory.WriteFile("/flux-system/"+name, content)).To(Succeed())
	}
	built, err := Build(memory, "/flux-system")
	g.Expect(err).NotTo(HaveOccurred())
	objects, err := Decode(built)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(names(objects)).To(ConsistOf("Namespace flux-system", "GitRepository flux-system/flux-system", "Kustomization flux-system/flux-system"))
	_, err = Build(memory, "/nowhere")
	g.Expect(err).To(MatchError(ContainSubstring("build /nowhere: ")))
}

func names(objects []*unstructured.Unstructured) []string {
	var out []string
	for _, object := range objects {
		out = append(out, describe(object))
	}
	return out
}

func TestDecode(t *testing.T) {
	const a, b = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x}\n", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n"
	for _, test := range []struct {
		name, data string
		want       []string
	}{
		{"nothing", "", nil},
		{"comments only", "# a\n---\n# b\n", nil},
		{"documents, some empty", "---\n" + a + "---\n---\n# c\n---\n" + b, []string{"ConfigMap x/a", "Namespace b"}},
		{"a list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: x}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n", []string{"ConfigMap x/a", "Namespace b"}},
		{"JSON", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}`, []string{"Namespace b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			objects, err := Decode([]byte(test.data))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(names(objects)).To(Equal(test.want))
		})
	}
	for name, data := range map[string]string{"no kind": a + "---\nmetadata: {name: c}\n", "no YAML": a + "---\na: [\n"} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(data))
			NewWithT(t).Expect(err).To(MatchError(HavePrefix("decode document 2: ")))
		})
	}
}
