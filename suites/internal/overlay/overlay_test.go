package overlay_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

const good = `apiVersion: conformance.flux-platform/v1alpha1
kind: Overlay
id: FLT-001
title: A Kustomization names a folder that is not there.
patches:
- repository: platform
  path: clusters/dev/infrastructure.yaml
  replace: {old: ./tenants, new: ./astray}
objects:
- manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps}}
expect:
  fails:
    BOOT-001: astray
`

// changed is the good overlay with one text replaced.
func changed(t testing.TB, old, replacement string) string {
	t.Helper()
	if strings.Count(good, old) != 1 {
		t.Fatalf("%q stands %d times in the good overlay, not once", old, strings.Count(good, old))
	}
	return strings.Replace(good, old, replacement, 1)
}

func TestParse(t *testing.T) {
	g := NewWithT(t)
	o, err := overlay.Parse([]byte(good))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(o.When).To(Equal("running"))
	g.Expect(o.Objects[0].Operation).To(Equal("apply"))
	g.Expect(o.Objects[0].Manifest.GetName()).To(Equal("a"))
	g.Expect(o.In("dev")).To(BeTrue())
	o.Environments = []string{"prd"}
	g.Expect(o.In("dev")).To(BeFalse())
	g.Expect(o.In("prd")).To(BeTrue())
	g.Expect(o.Touches()).To(Equal([]string{"platform"}))
	o.Files = map[string]map[string][]byte{"policies": {"a": nil}}
	g.Expect(o.Touches()).To(Equal([]string{"platform", "policies"}))
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"what is no YAML", "a: [", "parse overlay.yaml: "},
		{"a second document", good + "---\n" + good, "it is one document, this is a second one"},
		{"an unknown key", changed(t, "title:", "name: x\ntitle:"), `unknown field "name"`},
		{"an unknown key below", changed(t, "{old: ./tenants,", "{older: x, old: ./tenants,"), `unknown field "older"`},
		{"a key twice", changed(t, "title:", "id: FLT-002\ntitle:"), `key "id" already set`},
		{"another kind", changed(t, "kind: Overlay", "kind: Fault"), "it must begin with apiVersion conformance.flux-platform/v1alpha1, kind Overlay"},
		{"another version", changed(t, "v1alpha1", "v1"), "it must begin with apiVersion"},
		{"an ID of another form", changed(t, "FLT-001", "FLT-1"), `id "FLT-1" has not the form AAA-000`},
		{"no title", changed(t, "title: A Kustomization names a folder that is not there.\n", ""), "title is missing"},
		{"an unknown time", changed(t, "title:", "when: later\ntitle:"), `when "later" is neither running nor bringup`},
		{"no check", changed(t, "\n    BOOT-001: astray", " {}"), "expect.fails names no check"},
		{"no message", changed(t, "BOOT-001: astray", "BOOT-001: ''"), "expect.fails.BOOT-001 has no message"},
		{"an unknown repository", changed(t, "repository: platform", "repository: plattform"), `patches[0].repository "plattform" is not one of platform, developer, policies`},
		{"a path that leads out", changed(t, "clusters/dev/infrastructure.yaml", "../x.yaml"), `patches[0].path "../x.yaml" is not a path inside the repository`},
		{"a path from the root", changed(t, "clusters/dev/infrastructure.yaml", "/x.yaml"), `patches[0].path "/x.yaml" is not a path inside`},
		{"a path in .git", changed(t, "clusters/dev/infrastructure.yaml", ".git/config"), `patches[0].path ".git/config" is not a path inside`},
		{"no path", changed(t, "  path: clusters/dev/infrastructure.yaml\n", ""), `patches[0].path "" is not a path inside`},
		{"a patch that does nothing", changed(t, "  replace: {old: ./tenants, new: ./astray}\n", ""), "patches[0] needs one of replace, insert, delete"},
		{"a patch that does two things", changed(t, "  replace:", "  delete: true\n  replace:"), "patches[0] needs one of replace, insert, delete"},
		{"a replacement by the same", changed(t, "new: ./astray", "new: ./tenants"), "patches[0].replace changes nothing"},
		{"a replacement of nothing", changed(t, "old: ./tenants", "old: ''"), "patches[0].replace changes nothing"},
		{"an unknown operation", changed(t, "- manifest:", "- operation: make\n  manifest:"), `objects[0].operation "make" is not one of apply, create, update, delete, recreate, patch`},
		{"two manifests", changed(t, "- manifest:", "- file: a.yaml\n  manifest:"), "objects[0] needs one of manifest, file"},
		{"no manifest", changed(t, "- manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps}}", "- as: tiger"), "objects[0] needs one of manifest, file"},
		{"objects without a cluster", changed(t, "title:", "when: bringup\ntitle:"), "objects[0]: before the bring-up there is no cluster to send objects to"},
		{"several mistakes, all of them", "when: later\n", "it must begin with apiVersion conformance.flux-platform/v1alpha1, kind Overlay\nid \"\" has not the form AAA-000 or AAA-X00\ntitle is missing\nwhen \"later\" is neither running nor bringup\nexpect.fails names no check"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := overlay.Parse([]byte(test.data))
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(changed(f, "title:", "when: bringup\ntitle:")))
	for _, name := range []string{"FLT-001-kustomization-without-path", "FLT-006-pod-of-another-image", "FLT-012-rule-too-weak"} {
		data, err := os.ReadFile("../../../fixtures/faults/" + name + "/" + overlay.FileName)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := overlay.Parse(data)
		if err != nil {
			return
		}
		if len(o.Expect.Fails) == 0 {
			t.Fatal("it expects nothing")
		}
		for _, p := range o.Patches {
			if !fs.ValidPath(p.Path) {
				t.Fatalf("path %q", p.Path)
			}
		}
		// What was understood is what stands there: read again, it is the same.
		written, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		again, err := overlay.Parse(written)
		if err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		if rewritten, err := yaml.Marshal(again); err != nil || string(rewritten) != string(written) {
			t.Fatalf("%v\n%s\n%s", err, written, rewritten)
		}
		for _, repository := range o.Touches() {
			_, _ = o.Changed(repository, func(string) ([]byte, error) { return data, nil })
		}
	})
}

// folder is an overlay's folder below faults/.
func folder(name, content string, more ...string) fstest.MapFS {
	out := fstest.MapFS{"faults/README.md": {}, "faults/" + name + "/" + overlay.FileName: {Data: []byte(content)}}
	for i := 0; i+1 < len(more); i += 2 {
		out["faults/"+name+"/"+more[i]] = &fstest.MapFile{Data: []byte(more[i+1])}
	}
	return out
}

func TestLoad(t *testing.T) {
	g := NewWithT(t)
	byFile := changed(t, "- manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps}}", "- file: pod.yaml\n  select: {app: x}")
	overlays, err := overlay.Load(folder("FLT-001-astray", byFile,
		"pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {namespace: apps}\n",
		"files/developer/dev/beetle/config.yaml", "a: 1\n"), "faults", overlay.Fault)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(overlays).To(HaveLen(1))
	g.Expect(overlays[0].Objects[0].Manifest.GetKind()).To(Equal("Pod"))
	g.Expect(overlays[0].Files).To(Equal(map[string]map[string][]byte{"developer": {"dev/beetle/config.yaml": []byte("a: 1\n")}}))
	g.Expect(overlays[0].Touches()).To(Equal([]string{"platform", "developer"}))
}

func TestLoadRefuses(t *testing.T) {
	const manifest = "manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps}}"
	nothing := good[:strings.Index(good, "patches:")] + good[strings.Index(good, "expect:"):]
	two := folder("FLT-001-astray", good)
	maps.Copy(two, folder("FLT-001-again", good))
	for _, test := range []struct {
		name string
		fsys fstest.MapFS
		want string
	}{
		{"no folder", fstest.MapFS{}, "read overlays: "},
		{"an empty folder", fstest.MapFS{"faults/README.md": {}}, "read overlays: faults holds none"},
		{"a folder without overlay.yaml", fstest.MapFS{"faults/FLT-001-astray/x.yaml": {}}, "overlay faults/FLT-001-astray: read overlay.yaml: "},
		{"a mistake, with its folder", folder("FLT-001-astray", "a: ["), "overlay faults/FLT-001-astray: parse overlay.yaml: "},
		{"a folder of another name", folder("FLT-002-astray", good), "overlay faults/FLT-002-astray: the folder of FLT-001 must be named FLT-001-short-name"},
		{"a folder without a name", folder("FLT-001", good), "the folder of FLT-001 must be named FLT-001-short-name"},
		{"one ID twice", two, "overlay faults/FLT-001-astray: id FLT-001 is taken by faults/FLT-001-again"},
		{"an unknown repository", folder("FLT-001-astray", good, "files/flux_platform/a.yaml", ""), "files/flux_platform: the first folder must be one of platform, developer, policies"},
		{"a file of no repository", folder("FLT-001-astray", good, "files/a.yaml", ""), "files/a.yaml: the first folder must be one of"},
		{"an overlay that changes nothing", folder("FLT-001-astray", nothing), "it changes nothing: give files/, patches or objects"},
		{"a manifest that is not there", folder("FLT-001-astray", changed(t, manifest, "file: pod.yaml")), "objects[0]: read manifest: open faults/FLT-001-astray/pod.yaml"},
		{"a manifest outside", folder("FLT-001-astray", changed(t, manifest, "file: ../../pod.yaml")), "objects[0]: read manifest: open pod.yaml"},
		{"a manifest that does not parse", folder("FLT-001-astray", changed(t, manifest, "file: pod.yaml"), "pod.yaml", "a: ["), "objects[0]: parse pod.yaml: "},
		{"a manifest of no kind", folder("FLT-001-astray", changed(t, manifest, "file: pod.yaml"), "pod.yaml", "a: 1\n"), "objects[0]: the manifest needs apiVersion and kind"},
		{"a manifest of two objects", folder("FLT-001-astray", changed(t, manifest, "file: pod.yaml"), "pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n"), "objects[0]: parse pod.yaml: it is one document, this is a second one"},
		{"a manifest without a name", folder("FLT-001-astray", changed(t, "{name: a, namespace: apps}", "{namespace: apps}")), "objects[0]: the manifest needs a name, or select"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := overlay.Load(test.fsys, "faults", overlay.Fault)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

// What the project ships loads, and what it replaces stands there once.
func TestShippedFaults(t *testing.T) {
	g := NewWithT(t)
	root := os.DirFS("../../..")
	overlays, err := overlay.Load(root, "fixtures/faults", overlay.Fault)
	g.Expect(err).NotTo(HaveOccurred())
	folders := map[string]string{"platform": "fixtures/flux_platform", "developer": "fixtures/flux_developer", "policies": "policies"}
	for _, o := range overlays {
		for _, repository := range o.Touches() {
			sub, err := fs.Sub(root, folders[repository])
			g.Expect(err).NotTo(HaveOccurred())
			files, err := o.Changed(repository, func(name string) ([]byte, error) { return fs.ReadFile(sub, name) })
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(files).NotTo(BeEmpty())
		}
	}
}

func TestChange(t *testing.T) {
	present := fstest.MapFS{
		"a.yaml": {Data: []byte("one two three two")}, "b.yaml": {Data: []byte("one")}, "c.yaml": {Data: []byte("c")},
	}
	read := func(name string) ([]byte, error) { return fs.ReadFile(present, name) }
	patch := func(name, old, replacement string) overlay.Patch {
		return overlay.Patch{Repository: "platform", Path: name, Replace: &overlay.Replace{Old: old, New: replacement}}
	}
	files := map[string]map[string][]byte{"platform": {"b.yaml": []byte("whole")}, "developer": {"b.yaml": []byte("theirs")}}
	t.Run("files, then patches in their order", func(t *testing.T) {
		g := NewWithT(t)
		o := overlay.Overlay{ID: "FLT-001", Files: files, Patches: []overlay.Patch{
			patch("a.yaml", "one", "1"), patch("a.yaml", "1 two", "2"), patch("b.yaml", "whole", "part"),
			{Repository: "platform", Path: "c.yaml", Delete: true},
			{Repository: "policies", Path: "none.yaml", Delete: true},
		}}
		g.Expect(o.Changed("platform", read)).To(Equal(map[string][]byte{
			"a.yaml": []byte("2 three two"), "b.yaml": []byte("part"), "c.yaml": nil,
		}))
		g.Expect(o.Changed("developer", read)).To(Equal(map[string][]byte{"b.yaml": []byte("theirs")}))
		g.Expect(string(files["platform"]["b.yaml"])).To(Equal("whole"), "the overlay itself stays as it is")
	})
	for _, test := range []struct {
		name  string
		patch overlay.Patch
		want  string
	}{
		{"text that is not there", patch("b.yaml", "two", "2"), `overlay FLT-001: patches[0]: the text to replace stands 0 times in b.yaml of the platform repository, not once: "two"`},
		{"text that is there twice", patch("a.yaml", "two", "2"), `overlay FLT-001: patches[0]: the text to replace stands 2 times in a.yaml of the platform repository, not once: "two"`},
		{"a file that is not there", patch("d.yaml", "two", "2"), "overlay FLT-001: patches[0]: read d.yaml of the platform repository: "},
		{"a removed file that is not there", overlay.Patch{Repository: "platform", Path: "d.yaml", Delete: true}, "overlay FLT-001: patches[0]: read d.yaml of the platform repository: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := overlay.Overlay{ID: "FLT-001", Patches: []overlay.Patch{test.patch}}.Changed("platform", read)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
	t.Run("a reader's error is kept", func(t *testing.T) {
		failure := errors.New("the repository is locked")
		_, err := overlay.Overlay{ID: "FLT-001", Patches: []overlay.Patch{patch("a.yaml", "one", "1")}}.Changed("platform", func(string) ([]byte, error) { return nil, failure })
		NewWithT(t).Expect(err).To(MatchError(failure))
	})
}

func TestMerge(t *testing.T) {
	g := NewWithT(t)
	decode := func(text string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		g.Expect(yaml.Unmarshal([]byte(text), &u.Object)).To(Succeed())
		return u
	}
	before := decode(`apiVersion: v1
kind: Service
metadata:
  name: a
  namespace: apps
  labels: {app: a, tenant: beetle}
  uid: x
  resourceVersion: "7"
  generation: 3
  creationTimestamp: "2026-01-01T00:00:00Z"
  managedFields: [{manager: kustomize-controller}]
spec:
  ports: [{port: 80}]
  selector: {app: a}
status: {loadBalancer: {}}
`)
	kept := before.DeepCopy()
	manifest := decode("metadata: {labels: {tenant: null, extra: x}}\nspec:\n  ports: [{port: 81}]\n")
	g.Expect(overlay.Merge(before, manifest)).To(Equal(decode(`apiVersion: v1
kind: Service
metadata:
  name: a
  namespace: apps
  labels: {app: a, extra: x}
spec:
  ports: [{port: 81}]
  selector: {app: a}
`)))
	g.Expect(before).To(Equal(kept), "what stood there is not changed")
}
