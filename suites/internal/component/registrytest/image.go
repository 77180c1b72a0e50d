// Package registrytest puts programs into registries of tests, so that the
// component store can be shown to take them out again.
package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Push makes an image FROM scratch that holds one program, at the absolute path
// entrypoint, for Linux and this machine's architecture, and pushes it to ref
// with the user's credentials.
func Push(ctx context.Context, ref, program, entrypoint string) error {
	to, err := name.ParseReference(ref)
	if err != nil {
		return fmt.Errorf("push %s: %w", program, err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("push %s: %w", program, err)
	}
	layer, err := Layer(tar.Header{Name: strings.TrimPrefix(entrypoint, "/"), Mode: 0o755}, content)
	if err != nil {
		return fmt.Errorf("push %s: %w", program, err)
	}
	image, err := Image(v1.Config{Entrypoint: []string{entrypoint}}, layer)
	if err != nil {
		return fmt.Errorf("push %s: %w", program, err)
	}
	if err := remote.Write(to, image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s to %s: %w", program, ref, err)
	}
	return nil
}

// Layer is a layer of one member, little compressed, for tests wait for it. A
// header without a type is a regular file.
func Layer(header tar.Header, content []byte) (v1.Layer, error) {
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	if header.Typeflag == 0 {
		header.Typeflag = tar.TypeReg
	}
	header.Size = int64(len(content))
	if err := writer.WriteHeader(&header); err != nil {
		return nil, fmt.Errorf("layer with %s: %w", header.Name, err)
	}
	if _, err := writer.Write(content); err != nil {
		return nil, fmt.Errorf("layer with %s: %w", header.Name, err)
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("layer with %s: %w", header.Name, err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithCompressionLevel(gzip.BestSpeed))
}

// Image lays layers on top of each other, lowest first, for Linux and this
// machine's architecture.
func Image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Config: config, RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	return mutate.AppendLayers(image, layers...)
}
