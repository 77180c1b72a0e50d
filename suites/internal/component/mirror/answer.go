package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
)

// part is what a digest names: a manifest, a configuration or a layer.
type part struct {
	digest v1.Hash
	kind   types.MediaType
	size   int64
	open   func() (io.ReadCloser, error)
}

// held is content in memory.
type held struct{ *bytes.Reader }

// Close does nothing.
func (held) Close() error { return nil }

func hold(content []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return held{bytes.NewReader(content)}, nil }
}

// manifest is that of a reference. Its image is made once, however many ask for
// it, and its parts are known from then on.
func (s *Server) manifest(reference string) (part, error) {
	s.mu.RLock()
	found, known := s.manifests[reference]
	s.mu.RUnlock()
	if known {
		return found, nil
	}
	// Whoever asked first may hang up: the others wait for the same image.
	made, err, _ := s.making.Do(reference, func() (any, error) {
		image, err := s.options.Image(s.ctx, reference)
		if err != nil {
			return nil, err
		}
		parts, err := partsOf(image)
		if err != nil {
			return nil, fmt.Errorf("read image %s: %w", reference, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.manifests[reference] = parts[0]
		for _, p := range parts {
			s.parts[p.digest.String()] = p
		}
		return parts[0], nil
	})
	if err != nil {
		return part{}, err
	}
	return made.(part), nil //nolint:forcetypeassert // as above
}

// partsOf takes an image apart; its manifest comes first.
func partsOf(image v1.Image) ([]part, error) {
	raw, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	parsed, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	kind, err := image.MediaType()
	if err != nil {
		return nil, err
	}
	parts := []part{
		{digest, kind, int64(len(raw)), hold(raw)},
		{parsed.Config.Digest, parsed.Config.MediaType, int64(len(config)), hold(config)},
	}
	for _, described := range parsed.Layers {
		layer, err := image.LayerByDigest(described.Digest)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{described.Digest, described.MediaType, described.Size, layer.Compressed})
	}
	return parts, nil
}

// request is what a path of the distribution protocol asks for.
type request struct {
	reference string // with the registry's host, as Options.Image takes it
	object    string // tag or digest
	blob      bool
}

// read understands /v2/NAME/manifests/TAG and /v2/NAME/blobs/DIGEST. The
// registry that nodes really mean stands in the query; without it the name
// begins with its host.
func read(r *http.Request) (request, bool) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		return request{}, false
	}
	name, object := rest, ""
	blob := false
	if at := strings.LastIndex(rest, "/manifests/"); at > 0 {
		name, object = rest[:at], rest[at+len("/manifests/"):]
	} else if at := strings.LastIndex(rest, "/blobs/"); at > 0 {
		name, object, blob = rest[:at], rest[at+len("/blobs/"):], true
	}
	if object == "" || strings.Contains(object, "/") {
		return request{}, false
	}
	if registry := r.URL.Query().Get("ns"); registry != "" {
		name = registry + "/" + name
	}
	separator := ":"
	if strings.Contains(object, ":") {
		separator = "@"
	}
	return request{name + separator + object, object, blob}, true
}

// serve answers one request and takes note of it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	noted := Request{Time: time.Now().UTC(), Client: client, Method: r.Method}
	counted := &counter{ResponseWriter: w}
	err := s.answer(counted, r, &noted)
	if err != nil {
		noted.Error = err.Error()
	}
	noted.Status, noted.Bytes, noted.Seconds = counted.status, counted.bytes, time.Since(noted.Time).Seconds()
	s.write(noted)
}

func (s *Server) answer(w *counter, r *http.Request, noted *Request) error {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if !s.allowed(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="images of this session"`)
		return refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", errors.New("the session's credential is missing"))
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", errors.New("images are only given, not taken"))
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	asked, ok := read(r)
	if !ok {
		return refuse(w, http.StatusNotFound, "UNSUPPORTED", fmt.Errorf("%s is neither a manifest nor a blob", r.URL.Path))
	}
	noted.Reference = asked.reference
	s.mu.RLock()
	found, known := s.parts[asked.object]
	s.mu.RUnlock()
	switch {
	case known:
	case asked.blob:
		// Its image was not asked for here, so it is not ours.
		return refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", fmt.Errorf("%s: %w", asked.reference, ErrNotOurs))
	default:
		var err error
		found, err = s.manifest(asked.reference)
		switch {
		case notOurs(err):
			return refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", err)
		case err != nil:
			// The one status whose text containerd asks for and tells: it ends in
			// the events of the pod.
			return refuse(w, http.StatusForbidden, "DENIED", err)
		}
	}
	return send(w, r, found)
}

// notOurs says whether others have to answer for the image.
func notOurs(err error) bool {
	return errors.Is(err, ErrNotOurs) || errors.Is(err, component.ErrNoComponent)
}

// send serves a part, or the ranges of it that are asked for.
func send(w *counter, r *http.Request, p part) error {
	w.Header().Set("Docker-Content-Digest", p.digest.String())
	w.Header().Set("Content-Type", string(p.kind))
	w.Header().Set("Etag", `"`+p.digest.String()+`"`)
	content, err := p.open()
	if err != nil {
		w.Header().Del("Etag")
		return refuse(w, http.StatusInternalServerError, "UNKNOWN", err)
	}
	defer content.Close()
	if seeker, ok := content.(io.ReadSeeker); ok {
		http.ServeContent(w, r, "", time.Time{}, seeker)
		return w.err
	}
	w.Header().Set("Content-Length", strconv.FormatInt(p.size, 10))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = io.Copy(w, content)
	return err
}

// refuse answers with an error as the distribution protocol has it.
func refuse(w http.ResponseWriter, status int, code string, reason error) error {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]one{"errors": {{code, reason.Error()}}})
	return reason
}

// counter takes note of what is answered.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
	err    error
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}
