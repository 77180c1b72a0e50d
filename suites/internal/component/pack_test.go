package component

import (
	"archive/tar"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/component/registrytest"
)

// ownSource is a program of the project for tests.
func ownSource() fstest.MapFS {
	return fstest.MapFS{
		"own/main.go":      {Data: []byte("package main\n\nimport \"os\"\n\nfunc main() { println(greeting, os.Getenv(\"OWN_VERSION\")) }\n")},
		"own/greeting.go":  {Data: []byte("package main\n\nconst greeting = \"hello from own\"\n")},
		"own/main_test.go": {Data: []byte("package nonsense\n")},
	}
}

const ownComponent = "- {name: own, repositories: [your-org/*], image: 'example.test/example/own:0.0.0', source: own, environ: ['OWN_VERSION={tag}'], user: \"65532\", seconds: 2}\n"

// makeOwn pins the toys and a program of the project's own; the toys have what
// an entry can say of images.
func makeOwn(t *testing.T) (toyFamily, func(*Options)) {
	t.Helper()
	toys := makeToys(t)
	toys.edit(t, componentsFile, "components:\n", "components:\n"+ownComponent)
	toys.edit(t, componentsFile, "name: toy,", "name: toy, path: /opt/toy/toy, user: '65534:65534', standsFor: ['example.test/example/toy:v0.9.0'],")
	toys.edit(t, componentsFile, "name: other,", "name: other, base: iptables,")
	return toys, func(o *Options) { o.Sources = ownSource() }
}

func TestBuildFromOwnSource(t *testing.T) {
	g := NewWithT(t)
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own)
	c, err := resolve(t.Context(), store, Request{Name: "own", Image: "ghcr.io/your-org/beetle:1.5.0"})
	g.Expect(err).NotTo(HaveOccurred())
	t.Setenv("OWN_VERSION", "1.5.0")
	g.Expect(says(t, c.Path)).To(Equal("hello from own 1.5.0"))
	version, _ := store.Pinned("own")
	g.Expect(version).To(MatchRegexp("^source-[0-9a-f]{12}$"))
	path := c.Path
	c.Path, c.Digest = "", ""
	g.Expect(c).To(Equal(Component{Name: "own", Version: version, Origin: "build", Reference: "scripts/own", Requested: "ghcr.io/your-org/beetle:1.5.0"}))

	// Any other tag is the same program; a test of it changes nothing.
	sources := ownSource()
	delete(sources, "own/main_test.go")
	again, _ := toys.open(t, func(o *Options) { o.Dir, o.Sources = store.options.Dir, sources })
	c, err = resolve(t.Context(), again, Request{Name: "own", Image: "ghcr.io/your-org/sonar:3.2.0-rc.4"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.FromCache).To(BeTrue())
	g.Expect(c.Path).To(Equal(path))

	// Another content is another program.
	sources["own/greeting.go"] = &fstest.MapFile{Data: []byte("package main\n\nconst greeting = \"bye from own\"\n")}
	changed, _ := toys.open(t, func(o *Options) { o.Dir, o.Sources = store.options.Dir, sources })
	c, err = resolve(t.Context(), changed, Request{Name: "own"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.FromCache).To(BeFalse())
	g.Expect(says(t, c.Path)).To(Equal("bye from own 1.5.0"))
}

func TestWhatStopsOwnSource(t *testing.T) {
	g := NewWithT(t)
	toys, _ := makeOwn(t)
	store, _ := toys.open(t)
	_, err := resolve(t.Context(), store, Request{Name: "own"})
	g.Expect(err).To(MatchError(And(ContainSubstring("component own"), ContainSubstring("neither pullable nor pinned: it is built from scripts/own, and the store was opened without sources"))))
	for want, sources := range map[string]fstest.MapFS{
		"component own: read its source: open own: file does not exist": {},
		"component own: read its source: no Go files in own":            {"own/README.md": {}},
	} {
		_, err := Open(Options{Dir: t.TempDir(), Pins: os.DirFS(toys.pins), Sources: sources})
		g.Expect(err).To(MatchError(ContainSubstring(want)))
	}
	broken := ownSource()
	broken["own/greeting.go"] = &fstest.MapFile{Data: []byte("package main\n")}
	store, _ = toys.open(t, func(o *Options) { o.Sources = broken })
	_, err = resolve(t.Context(), store, Request{Name: "own"})
	g.Expect(err).To(MatchError(And(ContainSubstring("build scripts/own: go build: exit status 1"), ContainSubstring("undefined: greeting"))))
}

// A program of another version than an image's runs in its place only where the
// table says so, and says so in turn.
func TestStandsFor(t *testing.T) {
	g := NewWithT(t)
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own)
	c, err := resolve(t.Context(), store, Request{Name: "toy", Image: "example.test/example/toy:v0.9.0"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.Version).To(Equal("v1.0.0"))
	g.Expect(c.InPlaceOf).To(Equal([]string{"example.test/example/toy:v0.9.0"}))
	_, err = resolve(t.Context(), store, Request{Name: "toy", Image: "other.test/example/toy:v0.9.0"})
	g.Expect(err).To(MatchError(ErrNotPinned), "the image of another registry is another image")
	c, err = resolve(t.Context(), store, Request{Name: "toy", Image: "example.test/example/toy:v1.0.0"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.InPlaceOf).To(BeEmpty())

	// The very image comes first where there is one, built or not.
	registry := serve(t)
	g.Expect(registrytest.Push(t.Context(), registry.host+"/example/toy:v0.9.0", c.Path, "/opt/toy/toy")).To(Succeed())
	online, _ := toys.open(t, own, func(o *Options) {
		o.Dir, o.Offline, o.Mirrors = store.options.Dir, false, map[string]string{"example.test": registry.host}
	})
	c, err = resolve(t.Context(), online, Request{Name: "toy", Image: "example.test/example/toy:v0.9.0"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.Origin).To(Equal("registry"))
	g.Expect(c.Version).To(Equal("v0.9.0"))
	g.Expect(c.InPlaceOf).To(BeEmpty())
}

// file is one member of an image.
type file struct {
	mode    int64
	link    string
	content string
}

// files reads an image, the layers over each other.
func files(t *testing.T, image v1.Image) map[string]file {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]file{}
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(content)
		for {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			text, readErr := io.ReadAll(archive)
			if err := errors.Join(err, readErr); err != nil {
				t.Fatal(err)
			}
			if !header.ModTime.Equal(epoch) || header.Uid != 0 || header.Gid != 0 {
				t.Errorf("%s tells of the machine that made it: %+v", header.Name, header)
			}
			found[header.Name] = file{header.Mode, header.Linkname, string(text)}
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestImage(t *testing.T) {
	g := NewWithT(t)
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own)
	image, err := store.Image(t.Context(), "mirror.test/example/toy:v1.0.0")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(image.Component.Requested).To(Equal("mirror.test/example/toy:v1.0.0"))
	program, err := os.ReadFile(image.Component.Path)
	g.Expect(err).NotTo(HaveOccurred())
	got := files(t, image)
	g.Expect(slices.Sorted(maps.Keys(got))).To(Equal([]string{
		"etc/", "etc/group", "etc/nsswitch.conf", "etc/passwd", "opt/", "opt/toy/", "opt/toy/toy", "tmp/", "usr/", "usr/local/", "usr/local/bin/", "usr/local/bin/toy",
	}))
	g.Expect(hash("%s", got["usr/local/bin/toy"].content)).To(Equal(hash("%s", program)), "the program, byte for byte")
	g.Expect(got["usr/local/bin/toy"].mode).To(BeEquivalentTo(0o755))
	g.Expect(got["tmp/"].mode).To(BeEquivalentTo(0o1777))
	g.Expect(got["opt/toy/toy"].link).To(Equal("/usr/local/bin/toy"), "where the original has it")
	g.Expect(got["etc/passwd"].content).To(ContainSubstring("nonroot:x:65532:"))

	config, err := image.ConfigFile()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(config.Config).To(Equal(v1.Config{
		User: "65534:65534", Entrypoint: []string{"/usr/local/bin/toy"},
		Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Labels: map[string]string{"org.opencontainers.image.version": "v1.0.0"},
	}))
	g.Expect(config.OS).To(Equal("linux"))
	manifest, err := image.Manifest()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(manifest.MediaType).To(Equal(types.OCIManifestSchema1))
	g.Expect(manifest.Config.MediaType).To(Equal(types.OCIConfigJSON))
	g.Expect(manifest.Layers).To(HaveLen(1))
	g.Expect(manifest.Layers[0].MediaType).To(Equal(types.OCIUncompressedLayer))
	g.Expect(manifest.Layers[0].Digest).To(Equal(config.RootFS.DiffIDs[0]))

	tagged, err := store.Image(t.Context(), "ghcr.io/your-org/beetle:1.5.0")
	g.Expect(err).NotTo(HaveOccurred())
	config, err = tagged.ConfigFile()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(config.Config.Env).To(ContainElement("OWN_VERSION=1.5.0"))
	g.Expect(config.Config.User).To(Equal("65532"))
}

// One program gives one image, whoever makes it, where and when.
func TestImageIsReproducible(t *testing.T) {
	g := NewWithT(t)
	toys, own := makeOwn(t)
	digests := map[string]bool{}
	var cache string
	for range 2 {
		store, _ := toys.open(t, own) // a folder of its own
		cache = store.options.Dir
		image, err := store.Image(t.Context(), "example.test/example/toy:v1.0.0")
		g.Expect(err).NotTo(HaveOccurred())
		digest, err := image.Digest()
		g.Expect(err).NotTo(HaveOccurred())
		digests[digest.String()] = true

		// Once worked out, a digest is not worked out again.
		notes, err := filepath.Glob(filepath.Join(filepath.Dir(image.Component.Path), "layer-*.json"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(notes).To(HaveLen(1))
		layers, err := image.Layers()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(os.WriteFile(notes[0], []byte(`{"program":"`+image.Component.Digest+`","layer":"sha256:`+strings.Repeat("a", 64)+`"}`), 0o600)).To(Succeed())
		noted, err := store.Image(t.Context(), "example.test/example/toy:v1.0.0")
		g.Expect(err).NotTo(HaveOccurred())
		other, err := noted.Layers()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(other[0].Digest()).To(HaveField("Hex", strings.Repeat("a", 64)))
		g.Expect(layers[0].Digest()).NotTo(HaveField("Hex", strings.Repeat("a", 64)))

		// But for another program.
		g.Expect(os.WriteFile(notes[0], []byte(`{"program":"sha256:0","layer":"sha256:`+strings.Repeat("a", 64)+`"}`), 0o600)).To(Succeed())
		again, err := store.Image(t.Context(), "example.test/example/toy:v1.0.0")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(again.Digest()).To(Equal(digest))
	}
	g.Expect(digests).To(HaveLen(1), cache)
}

// An image that names a digest is that image or an error.
func TestImageWithADigest(t *testing.T) {
	g := NewWithT(t)
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own)
	wrong := "sha256:" + strings.Repeat("b", 64)
	for _, reference := range []string{"example.test/example/toy:v1.0.0", "example.test/example/toy"} {
		_, err := store.Image(t.Context(), reference+"@"+wrong)
		g.Expect(err).To(MatchError(ErrNotPinned))
		g.Expect(err).To(MatchError(And(ContainSubstring("its digest is "+wrong), ContainSubstring("made here of toy v1.0.0 is sha256:"))))
		digest := regexp.MustCompile(`v1\.0\.0 is (sha256:[0-9a-f]{64})`).FindStringSubmatch(err.Error())[1]
		image, err := store.Image(t.Context(), reference+"@"+digest)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(image.Digest()).To(HaveField("Hex", strings.TrimPrefix(digest, "sha256:")))
		g.Expect(store.Available(t.Context(), reference+"@"+digest)).To(Succeed())
		g.Expect(store.Available(t.Context(), reference+"@"+wrong)).To(MatchError(ErrNotPinned))
	}
	// A declared version stands in for a tag, never for a digest.
	store.options.StandIns = map[string]string{"toy": "v1.0.0"}
	image, err := store.Image(t.Context(), "example.test/example/toy:v0.1.0")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(image.Component.InPlaceOf).To(Equal([]string{"example.test/example/toy:v0.1.0"}))
	_, err = store.Image(t.Context(), "example.test/example/toy:v0.1.0@"+wrong)
	g.Expect(err).To(MatchError(ErrNotPinned))
}

func TestImageOnABase(t *testing.T) {
	g := NewWithT(t)
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own)
	g.Expect(store.Base("other")).To(Equal("iptables"))
	g.Expect(store.Base("toy")).To(BeEmpty())
	_, err := store.Image(t.Context(), "example.test/example/other:v1.0.0")
	g.Expect(err).To(MatchError("make image example.test/example/other:v1.0.0 of other v1.0.0: it stands on the layer iptables, which was not given"))
	base, err := registrytest.Layer(tar.Header{Name: "usr/sbin/iptables", Mode: 0o755, ModTime: epoch}, []byte("rules"))
	g.Expect(err).NotTo(HaveOccurred())
	image, err := store.Image(t.Context(), "example.test/example/other:v1.0.0", base)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(files(t, image)).To(And(HaveKey("usr/sbin/iptables"), HaveKey("usr/local/bin/other")))
	manifest, err := image.Manifest()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(manifest.Layers).To(HaveLen(2))
	g.Expect(manifest.Layers[0].MediaType).To(Equal(types.OCILayer), "an OCI manifest names layers its own way")
}

func TestAvailable(t *testing.T) {
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own, func(o *Options) { o.StandIns = map[string]string{"broken": "v1.0.0", "other": "v7.0.0"} })
	for reference, want := range map[string]string{
		"example.test/example/toy:v1.0.0":     "",
		"example.test/example/toy:v0.9.0":     "", // it is stood in for
		"example.test/example/broken:v0.9.0":  "", // as its user declares
		"ghcr.io/your-org/beetle:1.5.0":       "",
		"ghcr.io/your-org/beetle":             "",
		"ghcr.io/other-org/beetle:1.5.0":      "image ghcr.io/other-org/beetle:1.5.0: not the image of a component",
		"example.test/example/toy:v0.8.0":     "component toy v0.8.0: neither pullable nor pinned: image example.test/example/toy:v0.8.0: it is not in the cache; the pinned version is v1.0.0",
		"example.test/example/other:v0.8.0":   "component other v7.0.0: neither pullable nor pinned",
		"example.test/example/toy:v1.0.0@sha": `image "example.test/example/toy:v1.0.0@sha"`,
	} {
		t.Run(reference, func(t *testing.T) {
			g := NewWithT(t)
			err := store.Available(t.Context(), reference)
			if want == "" {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(err).To(MatchError(ContainSubstring(want)))
			}
		})
	}
	g := NewWithT(t)
	g.Expect(store.Available(t.Context(), "ghcr.io/other-org/beetle:1.5.0")).To(MatchError(ErrNoComponent))
	g.Expect(filepath.Glob(filepath.Join(store.options.Dir, "components", "*"))).To(BeEmpty(), "nothing was built for the answer")
}

// What needs libraries does not run FROM scratch.
func TestImageOfALinkedProgram(t *testing.T) {
	g := NewWithT(t)
	linked := "/bin/sh"
	if static(linked) == nil {
		t.Skip("this machine's shell is static")
	}
	g.Expect(static(linked)).To(MatchError("/bin/sh is linked with libraries, which an image FROM scratch does not have"))
	toys, own := makeOwn(t)
	store, _ := toys.open(t, own)
	c, err := resolve(t.Context(), store, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(static(c.Path)).To(Succeed())
}

// Layers are read from where they lie, also in parts; a file that was cut
// afterwards is an error and not a shorter layer.
func TestFileLayer(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(t.TempDir(), "program")
	g.Expect(os.WriteFile(path, []byte("program"), 0o600)).To(Succeed())
	l := &fileLayer{file: path, inFile: 7, head: []byte("head"), tail: []byte("tail")}
	g.Expect(l.Size()).To(BeEquivalentTo(15))
	open := func() io.ReadSeekCloser {
		content, err := l.Compressed()
		g.Expect(err).NotTo(HaveOccurred())
		seeker, ok := content.(io.ReadSeekCloser)
		g.Expect(ok).To(BeTrue(), "ranges are served")
		t.Cleanup(func() { _ = seeker.Close() })
		return seeker
	}
	whole := "headprogramtail"
	g.Expect(io.ReadAll(open())).To(BeEquivalentTo(whole))
	for from := range whole {
		content := open()
		_, err := content.Seek(int64(from), io.SeekStart)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(io.ReadAll(content)).To(BeEquivalentTo(whole[from:]))
	}
	g.Expect(os.Truncate(path, 3)).To(Succeed())
	_, err := io.ReadAll(open())
	g.Expect(err).To(MatchError(io.ErrUnexpectedEOF))
	_, err = TarLayer(filepath.Join(t.TempDir(), "missing.tar"))
	g.Expect(err).To(MatchError(ContainSubstring("read a layer: ")))
}

// kubeadm says itself which images it runs; each has to be had, or a cluster
// without a registry would wait for it for ever.
func TestImagesOfKubeadm(t *testing.T) {
	g := NewWithT(t)
	store := openProject(t)
	source, err := store.Module(t.Context(), "k8s.io/kubernetes", "")
	g.Expect(err).NotTo(HaveOccurred())
	text, err := os.ReadFile(filepath.Join(source, "cmd", "kubeadm", "app", "constants", "constants.go"))
	g.Expect(err).NotTo(HaveOccurred())
	constant := func(name string) string {
		found := regexp.MustCompile(`\b` + name + `\s*=\s*"([^"]+)"`).FindSubmatch(text)
		g.Expect(found).NotTo(BeNil(), name)
		return string(found[1])
	}
	version, _ := store.Pinned("kubelet")
	images := []string{
		"registry.k8s.io/etcd:" + constant("DefaultEtcdVersion"),
		"registry.k8s.io/coredns/coredns:" + constant("CoreDNSVersion"),
		"registry.k8s.io/pause:" + constant("PauseVersion"),
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		images = append(images, "registry.k8s.io/"+name+":"+version)
	}
	for _, image := range images {
		g.Expect(store.Available(t.Context(), image)).To(Succeed())
	}
}
