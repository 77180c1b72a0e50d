package component

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ErrNoComponent marks an image that holds no component: others have to answer
// for it.
var ErrNoComponent = errors.New("not the image of a component")

// Image is an image that was made of a component: FROM scratch, with the
// program at /usr/local/bin. The same program makes the same bytes, wherever
// and whenever. Its layers are not compressed and are read from the program's
// file each time.
type Image struct {
	Component Component
	v1.Image
}

// wish is an image that is wanted.
type wish struct {
	*entry
	ref reference
}

// request asks for the program of the image. A digest is that of the image that
// will be made, and says nothing of where its program comes from.
func (w wish) request() Request {
	if w.ref.tag == "" {
		return Request{Name: w.Name}
	}
	text, _, _ := strings.Cut(w.ref.text, "@")
	return Request{Name: w.Name, Image: text}
}

func (s *Store) wish(text string) (wish, error) {
	ref, err := parseReference(text)
	if err != nil {
		return wish{}, err
	}
	e := s.table.recognize(ref.repository.RepositoryStr())
	if e == nil {
		return wish{}, fmt.Errorf("image %s: %w", text, ErrNoComponent)
	}
	return wish{e, ref}, nil
}

// Base names the layer on which the image of a component stands, which the
// caller of Image gives; empty for an image that stands by itself.
func (s *Store) Base(name string) string {
	if e, known := s.table.byName[name]; known {
		return e.Base
	}
	return ""
}

// Image makes the image that a cluster knows under a reference, of the program
// that Resolve finds for it, or that stands in for it. It lies on the layers of
// base, lowest first. A digest in the reference has to be that of the image
// that is made. Of an image of nothing that the table knows it says
// ErrNoComponent, of one that cannot be had ErrNotPinned.
func (s *Store) Image(ctx context.Context, reference string, base ...v1.Layer) (*Image, error) {
	w, err := s.wish(reference)
	if err != nil {
		return nil, err
	}
	found, err := s.Resolve(ctx, []Request{w.request()})
	instead := s.options.StandIns[w.Name]
	substituted := errors.Is(err, ErrNotPinned) && instead != ""
	if substituted {
		if found, err = s.Resolve(ctx, []Request{{Name: w.Name, Version: instead}}); err != nil {
			err = fmt.Errorf("in place of image %s: %w", reference, err)
		}
	}
	if err != nil {
		return nil, err
	}
	c := found[0]
	c.Requested = reference
	if substituted {
		c.InPlaceOf = []string{reference}
	}
	return s.pack(w, c, base)
}

// Available says what keeps Image from making an image, without a registry and
// without building; nil where nothing is known to. Whether a digest is that of
// the image can be told only once its program is in the cache.
func (s *Store) Available(ctx context.Context, reference string, base ...v1.Layer) error {
	w, err := s.wish(reference)
	if err != nil {
		return err
	}
	t, err := s.target(w.request())
	if err != nil {
		return err
	}
	c, cached := s.lookup(ctx, t)
	switch instead := s.options.StandIns[w.Name]; {
	case cached && w.ref.digest != "":
		_, err := s.pack(w, c, base)
		return err
	case cached, t.buildable():
		return nil
	case instead != "" && w.ref.digest == "":
		stand, err := s.target(Request{Name: w.Name, Version: instead})
		if err != nil {
			return fmt.Errorf("in place of image %s: %w", reference, err)
		}
		if _, cached := s.lookup(ctx, stand); cached || stand.buildable() {
			return nil
		}
		t = stand
	}
	t.tried = errors.New("it is not in the cache")
	return t.notPinned()
}

// epoch is when everything in an image of ours was made.
var epoch = time.Unix(0, 0).UTC()

// pack makes the image of a program.
func (s *Store) pack(w wish, c Component, base []v1.Layer) (*Image, error) {
	fail := func(err error) (*Image, error) {
		return nil, fmt.Errorf("make image %s of %s %s: %w", w.ref.text, c.Name, c.Version, err)
	}
	if w.Base != "" && len(base) == 0 {
		return fail(fmt.Errorf("it stands on the layer %s, which was not given", w.Base))
	}
	if err := static(c.Path); err != nil {
		return fail(err)
	}
	program := "/usr/local/bin/" + w.Name
	top, err := s.layer(w.entry, c, program)
	if err != nil {
		return fail(err)
	}
	_, arch, _ := strings.Cut(s.platform, "/")
	config := v1.Config{
		User:       w.User,
		Entrypoint: []string{program},
		Env:        []string{"PATH=" + defaultPath},
		Labels:     map[string]string{"org.opencontainers.image.version": c.Version},
	}
	for _, variable := range w.Environ {
		config.Env = append(config.Env, strings.ReplaceAll(variable, "{tag}", cmp.Or(w.ref.tag, c.Version)))
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: epoch}, Config: config, RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return fail(err)
	}
	image = mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for i, layer := range slices.Concat(base, []v1.Layer{top}) {
		kind, err := layer.MediaType()
		if err != nil {
			return fail(err)
		}
		what := w.Name + " " + c.Version
		if i < len(base) {
			what = cmp.Or(w.Base, "base")
		}
		image, err = mutate.Append(image, mutate.Addendum{
			Layer: layer, MediaType: ociLayer(kind),
			History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: what},
		})
		if err != nil {
			return fail(err)
		}
	}
	digest, err := image.Digest()
	if err != nil {
		return fail(err)
	}
	if w.ref.digest != "" && w.ref.digest != digest.String() {
		return nil, fmt.Errorf("image %s: %w: its digest is %s, and the image that is made here of %s %s is %s. Name that digest or none, or make the image pullable (network, credentials, a mirror)",
			w.ref.text, ErrNotPinned, w.ref.digest, c.Name, c.Version, digest)
	}
	return &Image{Component: c, Image: image}, nil
}

// ociLayer is the name that an OCI manifest has for a layer's format.
func ociLayer(kind types.MediaType) types.MediaType {
	switch kind {
	case types.DockerLayer:
		return types.OCILayer
	case types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer
	}
	return kind
}

// static checks that a program needs nothing beside itself: there is nothing
// else in the image.
func static(program string) error {
	file, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("not a Linux program: %w", err)
	}
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked with libraries, which an image FROM scratch does not have", program)
		}
	}
	return nil
}

// Accounts that programs look up; the one with a number is whom images that
// must not run as root commonly run as.
const (
	passwd   = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp:/sbin/nologin\n"
	group    = "root:x:0:\nnonroot:x:65532:\nnobody:x:65534:\n"
	nsswitch = "hosts: files dns\n"
)

// layer holds the program, and what programs expect of every system.
func (s *Store) layer(e *entry, c Component, program string) (v1.Layer, error) {
	info, err := os.Stat(c.Path)
	if err != nil {
		return nil, err
	}
	var head bytes.Buffer
	archive := tar.NewWriter(&head)
	var problems []error
	add := func(header tar.Header, content string) {
		header.ModTime, header.Format = epoch, tar.FormatUSTAR
		if header.Typeflag == tar.TypeReg && header.Size == 0 {
			header.Size = int64(len(content))
		}
		problems = append(problems, archive.WriteHeader(&header))
		if content != "" {
			_, err := io.WriteString(archive, content)
			problems = append(problems, err)
		}
	}
	folders := []string{"etc/", "usr/", "usr/local/", "usr/local/bin/"}
	link := strings.TrimPrefix(e.Path, "/")
	if e.Path != "" && e.Path != program {
		for dir := path.Dir(link); dir != "."; dir = path.Dir(dir) {
			folders = append(folders, dir+"/")
		}
	}
	slices.Sort(folders)
	for _, name := range slices.Compact(folders) {
		add(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, passwd)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, group)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/nsswitch.conf", Mode: 0o644}, nsswitch)
	if e.Path != "" && e.Path != program {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: program, Mode: 0o777}, "")
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(program, "/"), Mode: 0o755, Size: info.Size()}, "")
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	const block = 512 // of a tar archive, which ends with two empty ones
	l := &fileLayer{file: c.Path, inFile: info.Size(), head: head.Bytes(), tail: make([]byte, (block-info.Size()%block)%block+2*block)}
	return l, s.remember(l, c)
}

// remember has the layer's digest beside the program, where it was worked out
// already: the program is read once, not with every run.
func (s *Store) remember(l *fileLayer, c Component) error {
	type note struct {
		Program string `json:"program"` // digest
		Layer   string `json:"layer"`   // digest
	}
	file := filepath.Join(filepath.Dir(c.Path), "layer-"+hash("%s", l.head)[:16]+".json")
	var known note
	if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &known) == nil && known.Program == c.Digest {
		if l.digest, err = v1.NewHash(known.Layer); err == nil {
			return nil
		}
	}
	if err := l.sum(); err != nil {
		return err
	}
	data, err := json.Marshal(note{Program: c.Digest, Layer: l.digest.String()})
	if err != nil {
		return err
	}
	if err := writeFile(file, append(data, '\n')); err != nil {
		return s.explain(err)
	}
	return nil
}

// TarLayer is a layer that is read from an uncompressed tar archive each time,
// and never compressed. The archive must not change.
func TarLayer(file string) (v1.Layer, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read a layer: %w", err)
	}
	l := &fileLayer{file: file, inFile: info.Size()}
	if err := l.sum(); err != nil {
		return nil, fmt.Errorf("read a layer: %w", err)
	}
	return l, nil
}

// fileLayer is an uncompressed layer, most of which is a file.
type fileLayer struct {
	file       string
	inFile     int64 // bytes of it
	head, tail []byte
	digest     v1.Hash
}

func (l *fileLayer) Digest() (v1.Hash, error) { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error) { return l.digest, nil }
func (l *fileLayer) Size() (int64, error) {
	return int64(len(l.head)) + l.inFile + int64(len(l.tail)), nil
}

func (l *fileLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

// Compressed is the layer as it stands; it can be sought in.
func (l *fileLayer) Compressed() (io.ReadCloser, error) {
	file, err := os.Open(l.file)
	if err != nil {
		return nil, err
	}
	size, err := l.Size()
	if err != nil {
		return nil, err
	}
	parts := joined{{bytes.NewReader(l.head), int64(len(l.head))}, {file, l.inFile}, {bytes.NewReader(l.tail), int64(len(l.tail))}}
	return struct {
		io.ReadSeeker
		io.Closer
	}{io.NewSectionReader(parts, 0, size), file}, nil
}

// sum works out the digest.
func (l *fileLayer) sum() error {
	content, err := l.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return err
	}
	l.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return nil
}

// joined reads several things as one.
type joined []struct {
	io.ReaderAt
	size int64
}

// ReadAt fills p from as many of the parts as it takes.
func (j joined) ReadAt(p []byte, at int64) (n int, err error) {
	for _, part := range j {
		if at >= part.size {
			at -= part.size
			continue
		}
		wanted := p[n:min(int64(len(p)), int64(n)+part.size-at)]
		got, err := part.ReadAt(wanted, at)
		n += got
		if got < len(wanted) {
			// The end of a part is not that of the whole.
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		at = 0
	}
	return n, io.EOF
}
