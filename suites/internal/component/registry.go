package component

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// probeTimeout is how long a registry may take to say that it is there.
	probeTimeout = 3 * time.Second
	// probeValid is how long a process believes that a registry is not there.
	probeValid = time.Minute
)

// probe is what is known of a registry. It is not kept beyond the process: only
// what the cache lacks is asked for, and then asking again costs a moment,
// where an outdated no would cost minutes of building.
type probe struct {
	mu    sync.Mutex
	asked time.Time
	err   error
}

// reach finds out in a moment whether the registry of ref answers at all.
func (s *Store) reach(ctx context.Context, ref reference) error {
	if !strings.HasPrefix(s.platform, "linux/") {
		return fmt.Errorf("images hold programs for Linux, and this is %s", s.platform)
	}
	repository, err := ref.mirrored(s.options.Mirrors)
	if err != nil {
		return err
	}
	host := repository.RegistryStr()
	value, _ := s.hosts.LoadOrStore(host, &probe{})
	p := value.(*probe) //nolint:forcetypeassert // nothing else is stored
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.asked.IsZero() && (p.err == nil || time.Since(p.asked) < probeValid) {
		return p.err
	}
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err = transport.Ping(limited, repository.Registry, remote.DefaultTransport)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx) // says nothing of the registry
	case status(err) != 0:
		err = fmt.Errorf("registry %s refuses this machine: %w", host, err)
	default:
		err = fmt.Errorf("registry %s cannot be reached: %w", host, err)
	}
	p.asked, p.err = time.Now(), err
	return err
}

// fetch takes t's program out of its image. The caller holds the lock.
func (s *Store) fetch(ctx context.Context, t *target, run *tally) (Component, error) {
	repository, err := t.ref.mirrored(s.options.Mirrors)
	if err != nil {
		return Component{}, err
	}
	run.tell(t, Fetching, t.ref.text, 0)
	goos, goarch, _ := strings.Cut(s.platform, "/")
	platform := v1.Platform{OS: goos, Architecture: goarch}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(platform),
	}
	var asked name.Reference = repository.Tag(t.ref.tag)
	if t.ref.digest != "" {
		asked = repository.Digest(t.ref.digest)
	}
	descriptor, err := remote.Get(asked, options...)
	if err != nil {
		if t.ref.digest != "" && t.ref.tag != "" && status(err) == http.StatusNotFound {
			// The registry has the tag, but not the digest that the platform
			// insists on: nothing may stand in for it.
			if other, headErr := remote.Head(repository.Tag(t.ref.tag), options...); headErr == nil {
				return Component{}, fatal{fmt.Errorf("the registry has no such digest; its tag %s is %s: correct the digest or the tag", t.ref.tag, other.Digest)}
			}
		}
		return Component{}, s.registryError(asked, err)
	}
	digests := []string{descriptor.Digest.String()}
	image, err := descriptor.Image()
	if err != nil {
		if descriptor.MediaType.IsIndex() {
			return Component{}, fmt.Errorf("it holds nothing for %s: %w", s.platform, err)
		}
		return Component{}, s.registryError(asked, err)
	}
	manifest, err := image.Digest()
	if err != nil {
		return Component{}, s.registryError(asked, err)
	}
	if manifest.String() != digests[0] {
		digests = append(digests, manifest.String())
	}
	if c, ok := s.sameImage(t, digests[0]); ok {
		return c, nil
	}
	r := record{
		Name: t.Name, Version: t.version, Origin: originRegistry, Reference: t.ref.at(manifest.String()),
		Repository: t.ref.repository.Name(), Tag: t.ref.tag, Digests: digests,
	}
	config, err := image.ConfigFile()
	if err != nil {
		return Component{}, s.registryError(asked, err)
	}
	if !(v1.Platform{OS: config.OS, Architecture: config.Architecture}).Satisfies(platform) {
		return Component{}, fmt.Errorf("it is for %s/%s, not for %s", config.OS, config.Architecture, s.platform)
	}
	if r.Version == "" {
		// Only a digest is known; the image may say what it is.
		r.Version = canonical(config.Config.Labels["org.opencontainers.image.version"])
		if r.Version == "" {
			r.Version = t.ref.digest
		}
	}
	work, remove, err := s.work(t.Name)
	if err != nil {
		return Component{}, err
	}
	defer remove()
	layers, err := s.download(ctx, image, work)
	if err != nil {
		return Component{}, s.registryError(asked, err)
	}
	tree, err := openTree(layers)
	if err != nil {
		return Component{}, err
	}
	program := filepath.Join(work, t.Name)
	if err := s.extract(tree, t.entry, config.Config, program); err != nil {
		return Component{}, err
	}
	return s.install(program, r)
}

// download writes the image's layers to dir, verified against their digests.
func (s *Store) download(ctx context.Context, image v1.Image, dir string) ([]string, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	var need uint64
	for _, layer := range layers {
		size, err := layer.Size()
		if err != nil {
			return nil, err
		}
		need += uint64(max(size, 0))
	}
	// The program itself comes on top, uncompressed.
	if err := s.enoughSpace(dir, 4*need); err != nil {
		return nil, err
	}
	files := make([]string, len(layers))
	for i, layer := range layers {
		if kind, err := layer.MediaType(); err != nil || kind == types.DockerForeignLayer {
			return nil, errors.Join(err, errors.New("a layer is not in the registry"))
		}
		files[i] = filepath.Join(dir, fmt.Sprintf("layer-%d", i))
		if err := s.save(layer, files[i]); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return files, nil
}

func (s *Store) save(layer v1.Layer, path string) error {
	content, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	return s.write(path, content)
}

// write copies content to a new file in the cache folder.
func (s *Store) write(path string, content io.Reader) error {
	file, err := s.create(path)
	if err != nil {
		return s.explain(err)
	}
	defer file.Close()
	source := &source{Reader: content}
	if _, err := io.Copy(file, source); err != nil {
		if source.err != nil {
			return source.err
		}
		return s.explain(err)
	}
	if err := file.Close(); err != nil {
		return s.explain(err)
	}
	return nil
}

// source remembers its own error, to tell it from that of the disk.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// status is the HTTP status that a registry answered with; 0 if it did not.
func status(err error) int {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// registryError says what to do about a registry's answer.
func (s *Store) registryError(asked name.Reference, err error) error {
	host := asked.Context().RegistryStr()
	// The library has no error values for bytes that do not match.
	mismatch := strings.Contains(err.Error(), "does not match requested digest") ||
		strings.Contains(err.Error(), "error verifying")
	switch {
	case errors.Is(err, errFatal):
		return err
	case mismatch:
		return fatal{fmt.Errorf("registry %s sent something else than the digest says: %w", host, err)}
	case status(err) == http.StatusUnauthorized, status(err) == http.StatusForbidden:
		return fmt.Errorf("registry %s wants other credentials than it was given: %w; log in (docker login %s), or point DOCKER_CONFIG at the folder that holds them", host, err, host)
	case status(err) == http.StatusNotFound:
		return fmt.Errorf("registry %s has no image %s: %w", host, asked, err)
	}
	return fmt.Errorf("%s cannot be fetched: %w; try again, or look at the registry's state", asked, err)
}
