package component

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const recordFile = "record.json"

// record lies beside a cached program. It is written after the program is
// complete and in place, so a program without one is never used.
type record struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Platform  string `json:"platform"`
	Origin    string `json:"origin"`
	Reference string `json:"reference"`
	Digest    string `json:"digest"` // of the program
	Size      int64  `json:"size"`   // of the program, in bytes

	// Of an image: what it answers for.
	Repository string   `json:"repository,omitempty"`
	Tag        string   `json:"tag,omitempty"`
	Digests    []string `json:"digests,omitempty"` // of its index and its manifest

	// Of a build: what it was made from.
	Inputs    string `json:"inputs,omitempty"`
	Toolchain string `json:"toolchain,omitempty"`
}

// key tells programs of one name and version apart.
func (r record) key() string {
	return hash("%s\n%s\n%s\n%v\n%s\n%s", r.Origin, r.Repository, r.Tag, r.Digests, r.Inputs, r.Toolchain)[:16]
}

func (r record) component(dir string, fromCache bool) Component {
	return Component{
		Name: r.Name, Version: r.Version, Origin: r.Origin, FromCache: fromCache,
		Reference: r.Reference, Digest: r.Digest, Path: filepath.Join(dir, r.Name),
	}
}

// hash is the hexadecimal sha256 of the formatted text.
func hash(format string, args ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, format, args...))
	return hex.EncodeToString(sum[:])
}

// folder holds all that is cached of a component for this platform.
func (s *Store) folder(name string) string {
	return filepath.Join(s.options.Dir, "components", name, strings.ReplaceAll(s.platform, "/", "-"))
}

// inputs identifies what a build of t is made from, but for the Go release.
func (s *Store) inputs(t *target) string {
	if t.files != nil {
		return hash("%s\n%s\n%s\n%s\n%v\n%v", t.Source, t.files.sum, sourceGo, s.platform, buildFlags(t.entry), buildEnviron)
	}
	return hash("%s\n%s\n%s\n%s\n%s\n%v", t.family.mod, t.family.sum, t.Package, s.platform, buildFlags(t.entry), buildEnviron)
}

// lookup finds t in the cache, without the network and without reading the
// program itself.
func (s *Store) lookup(ctx context.Context, t *target) (Component, bool) {
	return s.find(ctx, t, s.options.Offline)
}

// find is lookup; moving says whether the image that a moving tag (such as
// latest) once named will do.
func (s *Store) find(ctx context.Context, t *target, moving bool) (Component, bool) {
	records := s.cached(t.Name)
	for _, r := range records {
		if r.Origin == originRegistry && t.answeredBy(r.record, moving) {
			return r.component(r.dir, true), true
		}
	}
	// Another version than the one that is asked for comes after the registry.
	if !t.buildable() || t.standsIn(t.ref) && t.tried == nil && !s.options.Offline {
		return Component{}, false
	}
	inputs := s.inputs(t)
	records = slices.DeleteFunc(records, func(r cached) bool { return r.Origin != originBuild || r.Inputs != inputs })
	if len(records) == 0 {
		return Component{}, false
	}
	// Without a Go toolchain nothing newer could be made: any build will do.
	if tc := s.findToolchain(ctx); tc.err == nil {
		records = slices.DeleteFunc(records, func(r cached) bool { return r.Toolchain != tc.version })
	}
	if len(records) == 0 {
		return Component{}, false
	}
	return records[0].component(records[0].dir, true), true
}

// cached is a record and the folder that it lies in.
type cached struct {
	record
	dir string
	at  time.Time
}

// cached lists what is there in full of a component, newest first. What cannot
// be read is left out, and will be made again.
func (s *Store) cached(name string) []cached {
	files, err := filepath.Glob(filepath.Join(s.folder(name), "*", recordFile))
	if err != nil {
		return nil
	}
	var records []cached
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue
		}
		if r, err := readRecord(file); err == nil {
			records = append(records, cached{r, filepath.Dir(file), info.ModTime()})
		}
	}
	slices.SortStableFunc(records, func(a, b cached) int { return b.at.Compare(a.at) })
	return records
}

// sameImage finds in the cache what the registry says that t's tag names now.
func (s *Store) sameImage(t *target, digest string) (Component, bool) {
	for _, r := range s.cached(t.Name) {
		if r.Origin == originRegistry && t.answeredBy(r.record, true) && slices.Contains(r.Digests, digest) {
			// Now it is the last one that was seen under the tag.
			_ = os.Chtimes(filepath.Join(r.dir, recordFile), time.Time{}, time.Now())
			return r.component(r.dir, true), true
		}
	}
	return Component{}, false
}

// answeredBy says whether a cached image is the one that t names.
func (t *target) answeredBy(r record, moving bool) bool {
	if t.ref.text == "" || t.files != nil || r.Repository != t.ref.repository.Name() {
		return false
	}
	if t.ref.digest != "" {
		return slices.Contains(r.Digests, t.ref.digest)
	}
	return r.Tag == t.ref.tag && (moving || !t.ref.moving())
}

// readRecord reads a record and checks that its program is there in full.
func readRecord(file string) (record, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", file, err)
	}
	if !namePattern.MatchString(r.Name) || r.Size <= 0 {
		return record{}, fmt.Errorf("%s: not a record of a component", file)
	}
	info, err := os.Stat(filepath.Join(filepath.Dir(file), r.Name))
	if err != nil {
		return record{}, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o100 == 0 || info.Size() != r.Size {
		return record{}, fmt.Errorf("%s: the program beside it is not the one recorded", file)
	}
	return r, nil
}

// install moves a finished program into the cache: digest and size are taken
// of what is on the disk, and the record comes last. The caller holds the
// component's lock.
func (s *Store) install(program string, r record) (Component, error) {
	file, err := os.OpenFile(program, os.O_RDWR, 0)
	if err != nil {
		return Component{}, s.explain(err)
	}
	defer file.Close()
	sum := sha256.New()
	if r.Size, err = io.Copy(sum, file); err != nil {
		return Component{}, s.explain(err)
	}
	r.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	r.Platform = s.platform
	if err := errors.Join(file.Chmod(0o755), file.Sync()); err != nil {
		return Component{}, s.explain(err)
	}
	dir := filepath.Join(s.folder(r.Name), safe(r.Version)+"-"+r.key())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Component{}, s.explain(err)
	}
	// An old record must not speak for the new program.
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Component{}, s.explain(err)
	}
	if err := os.Rename(program, filepath.Join(dir, r.Name)); err != nil {
		return Component{}, s.explain(err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return Component{}, fmt.Errorf("record the component: %w", err)
	}
	if err := writeFile(filepath.Join(dir, recordFile), append(data, '\n')); err != nil {
		return Component{}, s.explain(err)
	}
	return r.component(dir, false), nil
}

// safe makes a version fit for a file name.
func safe(version string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == ':' || r == os.PathSeparator || r < ' ' {
			return '_'
		}
		return r
	}, version)
}

// writeFile replaces a file in one step; one that holds data already is left
// alone.
func writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".write-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(data)
	if err := errors.Join(err, temporary.Chmod(0o644), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
