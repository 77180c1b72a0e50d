package component

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"

	"github.com/your-org/flux-platform-conformance/suites/internal/component/registrytest"
)

// fakePins declare two components that exist in registries only: tests of the
// registry never get as far as building.
func fakePins() fstest.MapFS {
	return fstest.MapFS{
		componentsFile: {Data: []byte(goodComponents + `- {name: wrapped, repositories: [example/wrapped], image: "example.test/example/wrapped:{number}-0", path: /usr/local/bin/wrapped, pins: toy, module: example.test/toy, package: example.test/toy/cmd/wrapped, seconds: 1}
`)},
		modulesFile: {Data: []byte(goodModules)},
		"toy.mod":   {Data: []byte(goodMod)},
		"toy.sum":   {},
	}
}

// noGo is the environment of a machine without a Go toolchain.
func noGo(name string) string {
	if name == "PATH" {
		return ""
	}
	return os.Getenv(name)
}

// open makes a store without Go and with an empty cache.
func open(t *testing.T, change ...func(*Options)) *Store {
	t.Helper()
	options := Options{Dir: filepath.Join(t.TempDir(), "store"), Pins: fakePins(), Getenv: noGo}
	for _, c := range change {
		c(&options)
	}
	store, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// resolve resolves one request.
func resolve(ctx context.Context, store *Store, request Request) (Component, error) {
	components, err := store.Resolve(ctx, []Request{request})
	if err != nil {
		return Component{}, err
	}
	return components[0], nil
}

// server is a registry on loopback that counts what it is asked.
type server struct {
	host     string
	requests atomic.Int64
	close    func()

	mu   sync.Mutex
	wrap func(http.Handler) http.Handler
}

// serve starts a registry that ends with the test.
func serve(t *testing.T) *server {
	t.Helper()
	s := &server{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	http := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		s.mu.Lock()
		wrap := s.wrap
		s.mu.Unlock()
		if wrap != nil {
			wrap(inner).ServeHTTP(w, r)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	s.host = strings.TrimPrefix(http.URL, "http://")
	s.close = sync.OnceFunc(http.Close)
	t.Cleanup(s.close)
	return s
}

// through lets requests pass a handler first.
func (s *server) through(wrap func(http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrap = wrap
}

// program is the smallest Linux program of this machine's architecture: a
// header, and whatever makes it different from another. With a loader it is
// linked dynamically.
func program(t *testing.T, content, loader string) []byte {
	t.Helper()
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(machines[runtime.GOARCH]),
		Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64, Phoff: 64,
	}
	var segment []byte
	if loader != "" {
		header.Phnum = 1
		var b bytes.Buffer
		_ = binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 64 + 56, Filesz: uint64(len(loader) + 1)})
		segment = append(b.Bytes(), loader+"\x00"...)
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, header)
	b.Write(segment)
	b.WriteString(content)
	return b.Bytes()
}

// layer is a layer with one member.
func layer(t *testing.T, header tar.Header, content []byte) v1.Layer {
	t.Helper()
	l, err := registrytest.Layer(header, content)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func image(t *testing.T, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	i, err := registrytest.Image(config, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// push writes an image or index and returns its digest.
func push(t *testing.T, ref string, what remote.Taggable) string {
	t.Helper()
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	options := []remote.Option{remote.WithContext(t.Context()), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	var digest v1.Hash
	switch w := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(to, w, options...)
		if err == nil {
			digest, err = w.Digest()
		}
	case v1.Image:
		err = remote.Write(to, w, options...)
		if err == nil {
			digest, err = w.Digest()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// toy is an image whose entrypoint is the given program.
func toy(t *testing.T, content []byte) v1.Image {
	t.Helper()
	return image(t, v1.Config{Entrypoint: []string{"/toy"}}, layer(t, tar.Header{Name: "toy", Mode: 0o755}, content))
}

func TestImagesAreNamedByTagDigestOrIndex(t *testing.T) {
	registry := serve(t)
	content := program(t, "the one", "")
	repository := registry.host + "/mirror/example/toy"
	digest := push(t, repository+":v1.4.0", toy(t, content))
	foreign := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	index := push(t, repository+":v1.5.0", mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: toy(t, program(t, "foreign", "")), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: foreign}}},
		mutate.IndexAddendum{Add: toy(t, program(t, "windows", "")), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "windows", Architecture: runtime.GOARCH}}},
		mutate.IndexAddendum{Add: toy(t, content), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
	))
	for name, test := range map[string]struct {
		request            Request
		version, reference string
	}{
		"tag":               {Request{Image: repository + ":v1.4.0"}, "v1.4.0", repository + ":v1.4.0@" + digest},
		"tag and digest":    {Request{Image: repository + ":v1.4.0@" + digest}, "v1.4.0", repository + ":v1.4.0@" + digest},
		"digest":            {Request{Image: repository + "@" + digest}, digest, repository + "@" + digest},
		"digest, version":   {Request{Image: repository + "@" + digest, Version: "1.4.0"}, "v1.4.0", repository + "@" + digest},
		"index":             {Request{Image: repository + ":v1.5.0"}, "v1.5.0", repository + ":v1.5.0@" + digest},
		"index by digest":   {Request{Image: repository + ":v1.5.0@" + index}, "v1.5.0", repository + ":v1.5.0@" + digest},
		"manifest of index": {Request{Image: repository + ":v1.5.0@" + digest}, "v1.5.0", repository + ":v1.5.0@" + digest},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			store := open(t)
			request := test.request
			request.Name = "toy"
			got, err := resolve(t.Context(), store, request)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(os.ReadFile(got.Path)).To(Equal(content))
			g.Expect(got).To(Equal(Component{
				Name: "toy", Version: test.version, Origin: "registry", Reference: test.reference,
				Requested: request.Image, Digest: "sha256:" + hash("%s", content), Path: got.Path,
			}))

			asked := registry.requests.Load()
			again, err := resolve(t.Context(), store, request)
			g.Expect(err).NotTo(HaveOccurred())
			got.FromCache = true
			g.Expect(again).To(Equal(got))
			g.Expect(registry.requests.Load()).To(Equal(asked), "what is cached is not asked for")
			g.Expect(filepath.Glob(filepath.Join(store.folder("toy"), workPrefix+"*"))).To(BeEmpty())
		})
	}
}

func TestProgramsInImages(t *testing.T) {
	registry := serve(t)
	right, wrong := program(t, "right", ""), program(t, "wrong", "")
	file := func(name string, content []byte) v1.Layer {
		return layer(t, tar.Header{Name: name, Mode: 0o755}, content)
	}
	link := func(name, to string) v1.Layer {
		return layer(t, tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}, nil)
	}
	hard := func(name, to string) v1.Layer {
		return layer(t, tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}, nil)
	}
	entrypoint := func(words ...string) v1.Config { return v1.Config{Entrypoint: words} }
	for i, test := range []struct {
		name, component string
		image           v1.Image
		fails           string // empty: the right program is found
	}{
		{"entrypoint", "toy", image(t, entrypoint("/bin/toy", "--flag"), file("bin/toy", right)), ""},
		{"command", "toy", image(t, v1.Config{Cmd: []string{"/bin/toy"}}, file("./bin/toy", right)), ""},
		{"found through PATH", "toy", image(t, v1.Config{Entrypoint: []string{"toy"}, Env: []string{"A=b", "PATH=/no:/opt"}}, file("opt/toy", right), file("bin/toy", wrong)), ""},
		{"found through the usual PATH", "toy", image(t, entrypoint("toy"), file("usr/local/bin/toy", right)), ""},
		{"relative to the working folder", "toy", image(t, v1.Config{Entrypoint: []string{"./toy"}, WorkingDir: "/app"}, file("app/toy", right)), ""},
		{"replaced by a higher layer", "toy", image(t, entrypoint("/toy"), file("toy", wrong), file("toy", right)), ""},
		{"symbolic link", "toy", image(t, entrypoint("/toy"), file("opt/real", right), link("toy", "opt/real")), ""},
		{"chain of links", "toy", image(t, entrypoint("/a"), file("opt/real", right), link("a", "/b"), link("b", "opt/../opt/real")), ""},
		{"linked folder", "toy", image(t, entrypoint("/bin/toy"), file("usr/bin/toy", right), link("bin", "usr/bin")), ""},
		{"link out of the image", "toy", image(t, entrypoint("/toy"), file("real", right), link("toy", "../../../real")), ""},
		{"hard link", "toy", image(t, entrypoint("/toy"), file("real", right), hard("toy", "real")), ""},
		{"hard link to what is replaced later", "toy", image(t, entrypoint("/toy"), file("real", right), hard("toy", "real"), file("real", wrong)), ""},
		{"folder of the table", "wrapped", image(t, entrypoint("/go-runner"), file("go-runner", wrong), file("usr/local/bin/wrapped", right)), ""},
		{"entrypoint of the table's name", "wrapped", image(t, entrypoint("/wrapped"), file("wrapped", right)), ""},

		{"wrapper", "wrapped", image(t, entrypoint("/go-runner"), file("go-runner", wrong)), "its entrypoint is /go-runner, and there is no /usr/local/bin/wrapped"},
		{"nothing to start", "toy", image(t, v1.Config{}, file("toy", wrong)), "it has no entrypoint"},
		{"not there", "toy", image(t, entrypoint("/toy"), file("other", wrong)), "its entrypoint /toy is not in it"},
		{"removed", "toy", image(t, entrypoint("/bin/toy"), file("bin/toy", wrong), file("bin/.wh.toy", nil)), "its entrypoint /bin/toy is not in it"},
		{"folder removed", "toy", image(t, entrypoint("/bin/toy"), file("bin/toy", wrong), file(".wh.bin", nil)), "its entrypoint /bin/toy is not in it"},
		{"folder emptied", "toy", image(t, entrypoint("/bin/toy"), file("bin/toy", wrong), file("bin/.wh..wh..opq", nil)), "its entrypoint /bin/toy is not in it"},
		{"folder replaced by a file", "toy", image(t, entrypoint("/bin/toy"), file("bin/toy", wrong), file("bin", nil)), "its entrypoint /bin/toy is not in it"},
		{"links in a circle", "toy", image(t, entrypoint("/a"), link("a", "b"), link("b", "a")), "its entrypoint /a is not in it"},
		{"script", "toy", image(t, entrypoint("/toy"), file("toy", []byte("#!/bin/sh\n"))), "/toy: not a Linux program"},
		{"dynamically linked", "toy", image(t, entrypoint("/toy"), file("toy", program(t, "", "/lib/ld-nowhere.so.1"))), "/toy: needs the loader /lib/ld-nowhere.so.1, which this machine does not have"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			ref := fmt.Sprintf("%s/case-%d:v1.4.0", registry.host, i)
			push(t, ref, test.image)
			got, err := resolve(t.Context(), open(t), Request{Name: test.component, Image: ref})
			if test.fails != "" {
				g.Expect(err).To(MatchError(ErrNotPinned))
				g.Expect(err).To(MatchError(ContainSubstring("image " + ref + ": " + test.fails)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(os.ReadFile(got.Path)).To(Equal(right))
		})
	}
}

func TestImagesForOtherPlatforms(t *testing.T) {
	registry := serve(t)
	foreign := toy(t, program(t, "foreign", ""))
	foreign, err := mutate.ConfigFile(foreign, &v1.ConfigFile{OS: "linux", Architecture: "mips", Config: v1.Config{Entrypoint: []string{"/toy"}}})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	push(t, registry.host+"/example/toy:v1.4.0", foreign)
	push(t, registry.host+"/example/toy:v1.5.0", mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips"}}}))
	for tag, want := range map[string]string{
		"v1.4.0": "is for linux/mips, not for linux/" + runtime.GOARCH,
		"v1.5.0": "holds nothing for linux/" + runtime.GOARCH,
	} {
		_, err := resolve(t.Context(), open(t), Request{Name: "toy", Image: registry.host + "/example/toy:" + tag})
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring(want)))
	}
}

func TestDefaultImageThroughAMirror(t *testing.T) {
	g := NewWithT(t)
	registry := serve(t)
	content := program(t, "mirrored", "")
	digest := push(t, registry.host+"/example.test/toy:v1.0.0", toy(t, content))
	for _, scheme := range []string{"", "http://"} {
		store := open(t, func(o *Options) {
			o.Mirrors = map[string]string{"example.test": scheme + registry.host + "/example.test/"}
		})
		got, err := resolve(t.Context(), store, Request{Name: "toy"})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(os.ReadFile(got.Path)).To(Equal(content))
		g.Expect(got.Reference).To(Equal("example.test/toy:v1.0.0@"+digest), "the image that was asked for, whoever answered")
		g.Expect(got.Requested).To(BeEmpty())
	}
}

func TestCredentials(t *testing.T) {
	registry := serve(t)
	push(t, registry.host+"/example/toy:v1.4.0", toy(t, program(t, "secret", "")))
	registry.through(func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "reader" || password != "open sesame" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			inner.ServeHTTP(w, r)
		})
	})
	login := func(t *testing.T, password string) {
		t.Helper()
		dir := t.TempDir()
		config, err := json.Marshal(map[string]any{"auths": map[string]any{
			registry.host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("reader:" + password))},
		}})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("DOCKER_CONFIG", dir)
	}
	request := Request{Name: "toy", Image: registry.host + "/example/toy:v1.4.0"}
	refused := "registry " + registry.host + " wants other credentials than it was given"

	t.Run("right", func(t *testing.T) {
		login(t, "open sesame")
		got, err := resolve(t.Context(), open(t), request)
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		NewWithT(t).Expect(got.Origin).To(Equal("registry"))
	})
	t.Run("wrong", func(t *testing.T) {
		login(t, "open barley")
		_, err := resolve(t.Context(), open(t), request)
		NewWithT(t).Expect(err).To(MatchError(ErrNotPinned))
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring(refused)))
		NewWithT(t).Expect(err).NotTo(MatchError(ContainSubstring("barley")))
	})
	t.Run("none", func(t *testing.T) {
		t.Setenv("DOCKER_CONFIG", t.TempDir())
		_, err := resolve(t.Context(), open(t), request)
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring(refused)))
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring("docker login " + registry.host)))
	})
}

// What no registry has is an error that says everything needed to mend it, or
// falls on to a build, which the machine without Go names too.
func TestNotFound(t *testing.T) {
	registry := serve(t)
	push(t, registry.host+"/example/toy:v1.4.0", toy(t, program(t, "there", "")))
	absent := "@sha256:" + strings.Repeat("0", 64)
	for name, test := range map[string]struct {
		image string
		wants []string
	}{
		"tag": {"/example/toy:v9.9.9", []string{
			"component toy v9.9.9: neither pullable nor pinned",
			"registry " + registry.host + " has no image " + registry.host + "/example/toy:v9.9.9",
			"the pinned version is v1.0.0 (scripts/pins/toy.mod)",
			"or pin it: scripts/pins/update.sh toy example.test/toy@v9.9.9",
		}},
		"digest": {"/example/toy" + absent, []string{
			"component toy sha256:000", "neither pullable nor pinned", "has no image",
			"name a version in the image's tag and pin it",
		}},
		"tag and digest": {"/example/toy:v9.9.9" + absent, []string{"component toy v9.9.9: neither pullable nor pinned"}},
		"pinned version": {"/example/toy:v1.0.0", []string{
			"registry " + registry.host + " has no image", "it cannot be built from example.test/toy@v1.0.0: no Go toolchain in PATH; install Go 1.24.0 or newer",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := resolve(t.Context(), open(t), Request{Name: "toy", Image: registry.host + test.image})
			NewWithT(t).Expect(err).To(MatchError(And(hold(test.wants...)...)))
		})
	}
}

// hold matches a text that contains all parts.
func hold(parts ...string) []types.GomegaMatcher {
	var matchers []types.GomegaMatcher
	for _, part := range parts {
		matchers = append(matchers, ContainSubstring(part))
	}
	return matchers
}

// A digest is never stood in for, not even by the version that is pinned.
func TestWrongDigest(t *testing.T) {
	registry := serve(t)
	digest := push(t, registry.host+"/example/toy:v1.0.0", toy(t, program(t, "there", "")))

	t.Run("of an image that the registry does not have", func(t *testing.T) {
		g := NewWithT(t)
		_, err := resolve(t.Context(), open(t), Request{Name: "toy", Image: registry.host + "/example/toy:v1.0.0@sha256:" + strings.Repeat("0", 64)})
		g.Expect(err).To(MatchError(ContainSubstring("the registry has no such digest; its tag v1.0.0 is " + digest)))
		g.Expect(err).NotTo(MatchError(ContainSubstring("Go toolchain")), "no build is tried")
	})
	t.Run("of a manifest that was exchanged", func(t *testing.T) {
		other, err := toy(t, program(t, "other", "")).RawManifest()
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		registry.through(func(inner http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/manifests/sha256:") {
					w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
					_, _ = w.Write(other)
					return
				}
				inner.ServeHTTP(w, r)
			})
		})
		t.Cleanup(func() { registry.through(nil) })
		store := open(t)
		_, err = resolve(t.Context(), store, Request{Name: "toy", Image: registry.host + "/example/toy@" + digest})
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring("sent something else than the digest says")))
		NewWithT(t).Expect(store.cached("toy")).To(BeEmpty())
	})
	t.Run("of a layer that was exchanged", func(t *testing.T) {
		registry.through(func(inner http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/blobs/") || r.Method != http.MethodGet {
					inner.ServeHTTP(w, r)
					return
				}
				recorder := httptest.NewRecorder()
				inner.ServeHTTP(recorder, r)
				body := recorder.Body.Bytes()
				if !bytes.HasPrefix(body, []byte("{")) { // the configuration stays
					body = slices.Clone(body)
					body[len(body)-1] ^= 1
				}
				_, _ = w.Write(body)
			})
		})
		t.Cleanup(func() { registry.through(nil) })
		store := open(t)
		_, err := resolve(t.Context(), store, Request{Name: "toy", Image: registry.host + "/example/toy:v1.0.0"})
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring("sent something else than the digest says")))
		NewWithT(t).Expect(store.cached("toy")).To(BeEmpty())
	})
	t.Run("control: nothing exchanged", func(t *testing.T) {
		_, err := resolve(t.Context(), open(t), Request{Name: "toy", Image: registry.host + "/example/toy:v1.0.0@" + digest})
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
	})
	t.Run("of what is cached for the tag", func(t *testing.T) {
		g := NewWithT(t)
		store := open(t)
		_, err := resolve(t.Context(), store, Request{Name: "toy", Image: registry.host + "/example/toy:v1.0.0"})
		g.Expect(err).NotTo(HaveOccurred())
		_, err = resolve(t.Context(), store, Request{Name: "toy", Image: registry.host + "/example/toy:v1.0.0@sha256:" + strings.Repeat("0", 64)})
		g.Expect(err).To(MatchError(ContainSubstring("the registry has no such digest")))
	})
}

func TestNoRegistry(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	host := listener.Addr().String()
	NewWithT(t).Expect(listener.Close()).To(Succeed())

	t.Run("does not answer", func(t *testing.T) {
		_, err := resolve(t.Context(), open(t), Request{Name: "toy", Image: host + "/example/toy:v1.4.0"})
		NewWithT(t).Expect(err).To(MatchError(And(hold("neither pullable nor pinned", "registry "+host+" cannot be reached", "connection refused")...)))
	})
	t.Run("is switched off", func(t *testing.T) {
		_, err := resolve(t.Context(), open(t, func(o *Options) { o.Offline = true }), Request{Name: "toy", Image: host + "/example/toy:v1.4.0"})
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring("registries are switched off")))
	})
	t.Run("answers with a page", func(t *testing.T) {
		registry := serve(t)
		registry.through(func(http.Handler) http.Handler { return http.NotFoundHandler() })
		_, err := resolve(t.Context(), open(t), Request{Name: "toy", Image: registry.host + "/example/toy:v1.4.0"})
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring("registry " + registry.host + " refuses this machine")))
	})
	t.Run("is asked once for many components", func(t *testing.T) {
		registry := serve(t)
		registry.through(func(http.Handler) http.Handler { return http.NotFoundHandler() })
		_, err := open(t).Resolve(t.Context(), []Request{
			{Name: "toy", Image: registry.host + "/example/toy:v1.4.0"},
			{Name: "toy", Image: registry.host + "/example/toy:v1.5.0"},
			{Name: "wrapped", Image: registry.host + "/example/wrapped:v1.4.0"},
		})
		NewWithT(t).Expect(err).To(MatchError(And(hold("toy v1.4.0", "toy v1.5.0", "wrapped v1.4.0")...)), "all are named")
		NewWithT(t).Expect(registry.requests.Load()).To(BeNumerically("<=", 2), "one request over http, one over https")
	})
}

func TestMovingTags(t *testing.T) {
	g := NewWithT(t)
	registry := serve(t)
	ref := registry.host + "/example/toy:latest"
	request := Request{Name: "toy", Image: ref}
	store := open(t)
	first, second := program(t, "first", ""), program(t, "second", "")

	push(t, ref, toy(t, first))
	got, err := resolve(t.Context(), store, request)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.ReadFile(got.Path)).To(Equal(first))

	got, err = resolve(t.Context(), store, request)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.FromCache).To(BeTrue(), "the tag has not moved")

	push(t, ref, toy(t, second))
	got, err = resolve(t.Context(), store, request)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.FromCache).To(BeFalse())
	g.Expect(os.ReadFile(got.Path)).To(Equal(second), "the tag has moved")

	registry.close()
	offline, err := Open(store.options)
	g.Expect(err).NotTo(HaveOccurred())
	got, err = resolve(t.Context(), offline, request)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.ReadFile(got.Path)).To(Equal(second), "the last one that was seen")
}

func TestHalfWrittenProgramsAreNotUsed(t *testing.T) {
	registry := serve(t)
	content := program(t, "whole", "")
	push(t, registry.host+"/example/toy:v1.4.0", toy(t, content))
	request := Request{Name: "toy", Image: registry.host + "/example/toy:v1.4.0"}
	for name, damage := range map[string]func(path string) error{
		"shorter":        func(path string) error { return os.Truncate(path, 10) },
		"gone":           os.Remove,
		"not executable": func(path string) error { return os.Chmod(path, 0o644) },
		"no record":      func(path string) error { return os.Remove(filepath.Join(filepath.Dir(path), recordFile)) },
		"record cut":     func(path string) error { return os.Truncate(filepath.Join(filepath.Dir(path), recordFile), 20) },
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			store := open(t)
			got, err := resolve(t.Context(), store, request)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(damage(got.Path)).To(Succeed())
			stale := filepath.Join(store.folder("toy"), workPrefix+"left-by-a-killed-process")
			g.Expect(os.Mkdir(stale, 0o755)).To(Succeed())
			again, err := resolve(t.Context(), store, request)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(again.FromCache).To(BeFalse())
			g.Expect(os.ReadFile(again.Path)).To(Equal(content))
			g.Expect(stale).NotTo(BeADirectory())
		})
	}
}

func TestFetchingIsInterrupted(t *testing.T) {
	g := NewWithT(t)
	registry := serve(t)
	push(t, registry.host+"/example/toy:v1.4.0", toy(t, program(t, "slow", "")))
	ctx, cancel := context.WithCancel(t.Context())
	registry.through(func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				cancel()
				<-r.Context().Done()
				return
			}
			inner.ServeHTTP(w, r)
		})
	})
	store := open(t)
	_, err := resolve(ctx, store, Request{Name: "toy", Image: registry.host + "/example/toy:v1.4.0"})
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(err).To(MatchError(ContainSubstring("component toy v1.4.0: fetching was interrupted")))
	g.Expect(store.cached("toy")).To(BeEmpty())
}
