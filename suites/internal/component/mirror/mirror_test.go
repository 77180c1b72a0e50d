package mirror

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/component/registrytest"
)

const credential = "node:secret"

// makeImage has a layer that is read from a file and one that is compressed.
func makeImage(t *testing.T, content string) v1.Image {
	t.Helper()
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	err := errors.Join(
		writer.WriteHeader(&tar.Header{Name: "content", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}),
		func() error { _, err := io.WriteString(writer, content); return err }(),
		writer.Close(),
	)
	file := filepath.Join(t.TempDir(), "layer.tar")
	err = errors.Join(err, os.WriteFile(file, archive.Bytes(), 0o600))
	first, layerErr := component.TarLayer(file)
	second, secondErr := registrytest.Layer(tar.Header{Name: "more", Mode: 0o644}, []byte("more"))
	if err := errors.Join(err, layerErr, secondErr); err != nil {
		t.Fatal(err)
	}
	image, err := registrytest.Image(v1.Config{Entrypoint: []string{"/content"}}, first, second)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// store gives images and remembers what it was asked.
type store struct {
	mu     sync.Mutex
	asked  []string
	images map[string]v1.Image
}

func (s *store) image(_ context.Context, reference string) (v1.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, reference)
	if strings.HasPrefix(reference, "registry.example/broken") {
		return nil, errors.New("component broken: neither pullable nor pinned")
	}
	if strings.HasPrefix(reference, "registry.example/others") {
		return nil, fmt.Errorf("image %s: %w", reference, ErrNotOurs)
	}
	if image, ok := s.images[reference]; ok {
		return image, nil
	}
	return nil, fmt.Errorf("image %s: %w", reference, component.ErrNoComponent)
}

// start serves images by reference until the test is over.
func start(t *testing.T, images map[string]v1.Image) (*Server, *store) {
	t.Helper()
	from := &store{images: images}
	s, err := Serve(t.Context(), Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credential: credential, Image: from.image})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, from
}

func pull(t *testing.T, s *Server, reference string) (v1.Image, error) {
	t.Helper()
	ref, err := name.ParseReference(s.Address() + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	return remote.Image(ref, remote.WithContext(t.Context()), remote.WithAuth(&authn.Basic{Username: "node", Password: "secret"}))
}

// readAll reads everything of an image; what does not match its digest is an
// error of the client's.
func readAll(image v1.Image) error {
	_, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	if len(layers) != 2 {
		return fmt.Errorf("%d layers", len(layers))
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}

// ask sends one request as containerd does.
func ask(t *testing.T, s *Server, method, path, credential string, header ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user, secret, ok := strings.Cut(credential, ":"); ok {
		request.SetBasicAuth(user, secret)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestPull(t *testing.T) {
	g := NewWithT(t)
	image := makeImage(t, "one")
	digest, err := image.Digest()
	g.Expect(err).NotTo(HaveOccurred())
	byTag, byDigest := "ghcr.io/fluxcd/source-controller:v1.9.5", "ghcr.io/fluxcd/helm-controller@"+digest.String()
	s, from := start(t, map[string]v1.Image{byTag: image, byDigest: image})
	// Before anything of it is known: a pod may name a digest only.
	for _, reference := range []string{byDigest, byTag, byTag} {
		got, err := pull(t, s, reference)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(got.Digest()).To(Equal(digest))
		g.Expect(readAll(got)).To(Succeed(), "every part is there, and is what its digest says")
	}
	g.Expect(from.asked).To(Equal([]string{byDigest, byTag}), "an image is made once")

	_, err = pull(t, s, "ghcr.io/fluxcd/source-controller:v1.9.4")
	g.Expect(err).To(MatchError(ContainSubstring("MANIFEST_UNKNOWN: image ghcr.io/fluxcd/source-controller:v1.9.4: not the image of a component")))
	_, err = pull(t, s, "registry.example/broken:v1")
	g.Expect(err).To(MatchError(ContainSubstring("DENIED: component broken: neither pullable nor pinned")))
}

func TestManyPullsAtOnce(t *testing.T) {
	g := NewWithT(t)
	s, from := start(t, map[string]v1.Image{"ghcr.io/your-org/beetle:1.5.0": makeImage(t, strings.Repeat("beetle", 1<<20))})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			got, err := pull(t, s, "ghcr.io/your-org/beetle:1.5.0")
			if err == nil {
				err = readAll(got)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	g.Expect(from.asked).To(HaveLen(1))
}

func TestPrepare(t *testing.T) {
	g := NewWithT(t)
	s, from := start(t, map[string]v1.Image{"ghcr.io/a/b:1": makeImage(t, "one")})
	g.Expect(s.Prepare(t.Context(), []string{"ghcr.io/a/b:1", "registry.example/others:1", "quay.io/c/d:1"})).To(Succeed(), "what others have is theirs to give")
	asked := len(from.asked)
	_, err := pull(t, s, "ghcr.io/a/b:1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(from.asked).To(HaveLen(asked), "it was made before")
	g.Expect(s.Prepare(t.Context(), []string{"registry.example/broken/a:1", "ghcr.io/a/b:1", "registry.example/broken/b:1"})).
		To(MatchError("component broken: neither pullable nor pinned\ncomponent broken: neither pullable nor pinned"), "all that is lacking is named")
	ended, end := context.WithCancel(t.Context())
	end()
	g.Expect(s.Prepare(ended, []string{"ghcr.io/a/b:2"})).To(MatchError(context.Canceled))
}

func TestAnswers(t *testing.T) {
	image := makeImage(t, "one")
	manifest, err := image.Manifest()
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	s, from := start(t, map[string]v1.Image{"docker.io/library/traefik:v3.6.6": image})
	const traefik = "/v2/library/traefik/"
	layer, config := manifest.Layers[0].Digest.String(), manifest.Config.Digest.String()
	// A part is known once its image was asked for.
	response, _ := ask(t, s, http.MethodGet, traefik+"blobs/"+layer+"?ns=docker.io", credential)
	NewWithT(t).Expect(response.StatusCode).To(Equal(http.StatusNotFound))
	response, _ = ask(t, s, http.MethodHead, traefik+"manifests/v3.6.6?ns=docker.io", credential)
	NewWithT(t).Expect(response.StatusCode).To(Equal(http.StatusOK))
	NewWithT(t).Expect(from.asked).To(Equal([]string{"docker.io/library/traefik:v3.6.6"}), "the registry that is meant stands in the query")

	for title, test := range map[string]struct {
		method, path, credential string
		header                   []string
		status                   int
		body                     string
		length                   int64
	}{
		"there":                 {path: "/v2/", status: 200},
		"no credential":         {path: "/v2/", credential: "-", status: 401, body: "the session's credential is missing"},
		"another secret":        {path: traefik + "manifests/v3.6.6?ns=docker.io", credential: "node:guess", status: 401, body: "UNAUTHORIZED"},
		"another user":          {path: traefik + "blobs/" + layer + "?ns=docker.io", credential: "other:secret", status: 401, body: "UNAUTHORIZED"},
		"configuration":         {path: traefik + "blobs/" + config + "?ns=docker.io", status: 200, body: `"Entrypoint":["/content"]`, length: manifest.Config.Size},
		"layer":                 {path: traefik + "blobs/" + layer + "?ns=docker.io", status: 200, body: "one", length: manifest.Layers[0].Size},
		"length of a layer":     {method: http.MethodHead, path: traefik + "blobs/" + layer + "?ns=docker.io", status: 200, length: manifest.Layers[0].Size},
		"rest of a layer":       {path: traefik + "blobs/" + layer + "?ns=docker.io", header: []string{"Range", "bytes=512-514"}, status: 206, body: "one", length: 3},
		"compressed layer":      {path: traefik + "blobs/" + manifest.Layers[1].Digest.String(), status: 200, length: manifest.Layers[1].Size},
		"of another registry":   {path: traefik + "manifests/v3.6.6?ns=quay.io", status: 404, body: "image quay.io/library/traefik:v3.6.6: not the image of a component"},
		"left to others":        {path: "/v2/others/image/manifests/v1?ns=registry.example", status: 404, body: "not an image of this session"},
		"not to be had":         {path: "/v2/broken/manifests/v1?ns=registry.example", status: 403, body: "neither pullable nor pinned"},
		"taken":                 {method: http.MethodPut, path: traefik + "manifests/v3.6.6?ns=docker.io", status: 405, body: "images are only given, not taken"},
		"list of tags":          {path: traefik + "tags/list?ns=docker.io", status: 404, body: "is neither a manifest nor a blob"},
		"something else":        {path: "/metrics", status: 404, body: "is neither a manifest nor a blob"},
		"nothing's manifest":    {path: "/v2/manifests/v1", status: 404, body: "is neither a manifest nor a blob"},
		"manifest of a segment": {path: traefik + "manifests/a/b", status: 404, body: "is neither a manifest nor a blob"},
	} {
		t.Run(title, func(t *testing.T) {
			g := NewWithT(t)
			if test.method == "" {
				test.method = http.MethodGet
			}
			if test.credential == "" {
				test.credential = credential
			}
			response, body := ask(t, s, test.method, test.path, test.credential, test.header...)
			g.Expect(response.StatusCode).To(Equal(test.status), body)
			g.Expect(body).To(ContainSubstring(test.body))
			if test.length > 0 {
				g.Expect(response.ContentLength).To(Equal(test.length))
			}
			if test.status == http.StatusUnauthorized {
				g.Expect(response.Header.Get("WWW-Authenticate")).To(HavePrefix("Basic "))
			}
		})
	}
}

// What was asked, and what came of it, is in the session's folder.
func TestLog(t *testing.T) {
	g := NewWithT(t)
	told := []Request{}
	from := &store{images: map[string]v1.Image{"ghcr.io/a/b:1": makeImage(t, "one")}}
	s, err := Serve(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "images"), Listen: "127.0.0.1:0", Image: from.image, Log: func(r Request) { told = append(told, r) }})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(s.Credential()).To(MatchRegexp("^node:[A-Z2-7]{26}$"), "made, and hard to guess")
	ask(t, s, http.MethodGet, "/v2/a/b/manifests/1?ns=ghcr.io", s.Credential())
	ask(t, s, http.MethodGet, "/v2/a/b/manifests/2?ns=ghcr.io", s.Credential())
	ask(t, s, http.MethodGet, "/v2/a/b/manifests/1?ns=ghcr.io", "node:guess")
	ask(t, s, http.MethodGet, "/v2/broken/manifests/1?ns=registry.example", s.Credential())
	g.Expect(s.Close()).To(Succeed())
	g.Expect(s.Close()).To(Succeed())
	data, err := os.ReadFile(filepath.Join(s.options.Dir, "requests.jsonl"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(data)).NotTo(ContainSubstring(s.Credential()))
	var written []Request
	for line := range strings.Lines(string(data)) {
		var r Request
		g.Expect(json.Unmarshal([]byte(line), &r)).To(Succeed())
		written = append(written, r)
	}
	g.Expect(written).To(Equal(told))
	for i, want := range []struct {
		status    int
		reference string
	}{{200, "ghcr.io/a/b:1"}, {404, "ghcr.io/a/b:2"}, {401, ""}, {403, "registry.example/broken:1"}} {
		g.Expect(written[i].Status).To(Equal(want.status))
		g.Expect(written[i].Reference).To(Equal(want.reference))
		g.Expect(written[i].Client).To(Equal("127.0.0.1"))
		g.Expect(written[i].Bytes).To(BeNumerically(">", 0))
		g.Expect(written[i].Error).To(WithTransform(func(text string) bool { return text != "" }, Equal(want.status != 200)))
	}
	counts := s.Counts()
	g.Expect(counts.Bytes).To(BeNumerically(">", 0))
	counts.Bytes = 0
	g.Expect(counts).To(Equal(Counts{Requests: 4, Served: 1, NotOurs: 1, Refused: 1, Failed: 1}))
}

func TestMistakesInOptions(t *testing.T) {
	from := &store{}
	for title, test := range map[string]struct {
		options Options
		want    string
	}{
		"no folder":         {Options{Listen: "127.0.0.1:0", Image: from.image}, "a folder, an address and images are required"},
		"no secret":         {Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Image: from.image, Credential: "node"}, "not of the form USER:SECRET"},
		"another's address": {Options{Dir: t.TempDir(), Listen: "192.0.2.1:0", Image: from.image}, "nodes have to reach this address"},
	} {
		t.Run(title, func(t *testing.T) {
			_, err := Serve(t.Context(), test.options)
			NewWithT(t).Expect(err).To(MatchError(And(HavePrefix("serve images: "), ContainSubstring(test.want))))
		})
	}
}

func TestWriteHosts(t *testing.T) {
	g := NewWithT(t)
	s, _ := start(t, nil)
	dir := filepath.Join(t.TempDir(), "certs.d")
	g.Expect(s.WriteHosts(dir, map[string]string{
		"ghcr.io":               "https://mirror.example/ghcr.io/",
		"index.docker.io":       "mirror.example:5000",
		"registry.example:5000": "127.0.0.1:5001/example",
	})).To(Succeed())
	ours := `# Asked first; what it does not have comes from the registry itself.
[host."http://` + s.Address() + `"]
capabilities = ["pull", "resolve"]
[host."http://` + s.Address() + `".header]
Authorization = "Basic bm9kZTpzZWNyZXQ="
`
	for folder, then := range map[string]string{
		"_default":               "",
		"ghcr.io":                "https://mirror.example/v2/ghcr.io",
		"docker.io":              "https://mirror.example:5000/v2",
		"registry.example_5000_": "http://127.0.0.1:5001/v2/example",
	} {
		want := ours
		if then != "" {
			want += "\n[host.\"" + then + "\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"
		}
		file := filepath.Join(dir, folder, "hosts.toml")
		g.Expect(os.ReadFile(file)).To(BeEquivalentTo(want), folder)
		info, err := os.Stat(file)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600), "it holds the credential")
	}
	g.Expect(os.ReadDir(dir)).To(HaveLen(4))
	for _, base := range []string{"ftp://mirror.example", "http://", "https://user:secret@mirror.example", "https://mirror.example?x=y"} {
		g.Expect(s.WriteHosts(dir, map[string]string{"ghcr.io": base})).To(MatchError(ContainSubstring(fmt.Sprintf("mirror %q of registry ghcr.io: not HOST", base))))
	}
}
