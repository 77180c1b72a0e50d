package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// maxFileBytes bounds one file that a build reads. The largest that real
// platforms hold are bundles of CRDs, of a few MiB.
const maxFileBytes = 16 << 20

// file is one file of a tree: on disk, or given as bytes.
type file struct {
	repository string // URL of the repository that holds it
	folder     string // local folder of that repository
	path       string // below that folder
	data       []byte // content, when not on disk
	memory     bool   // data holds the content
	stand      bool   // stands in for what flux bootstrap would write
}

func (f file) disk() string { return filepath.Join(f.folder, filepath.FromSlash(f.path)) }

func (f file) origin(line int) Origin {
	if f.stand {
		return Origin{Repository: f.repository, Folder: f.folder}
	}
	return Origin{Repository: f.repository, Folder: f.folder, File: f.path, Line: line}
}

func (f file) read() ([]byte, error) {
	if f.memory {
		return f.data, nil
	}
	info, err := os.Lstat(f.disk())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s: the file has %d bytes, over the limit of %d for a file that a build reads; split it, or leave it out of the kustomization", f.path, info.Size(), maxFileBytes)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file (%s)", f.path, info.Mode().Type())
	}
	data, err := os.ReadFile(f.disk())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	return data, nil
}

// tree is what an artifact of source-controller would hold: files by
// slash-separated path, layered so that a thousand tenants share one base.
// It implements filesys.FileSystem for kustomize, rooted at root; nothing
// outside of it exists, so a build can read nothing but the artifact.
type tree struct {
	root   string // absolute, as kustomize sees it
	parent *tree
	files  map[string]file
	dirs   map[string]map[string]bool // folder → names in it
	links  map[string]string          // symbolic links, which no artifact holds → their targets
}

func newTree(root string) *tree {
	return &tree{root: root, files: map[string]file{}, dirs: map[string]map[string]bool{}, links: map[string]string{}}
}

// layer returns an empty tree on top of t.
func (t *tree) layer() *tree {
	l := newTree(t.root)
	l.parent = t
	return l
}

func (t *tree) add(name string, f file) {
	t.files[name] = f
	for name != "." {
		dir := path.Dir(name)
		if t.dirs[dir] == nil {
			t.dirs[dir] = map[string]bool{}
		}
		t.dirs[dir][path.Base(name)] = true
		name = dir
	}
}

func (t *tree) file(name string) (file, bool) {
	for l := t; l != nil; l = l.parent {
		if f, ok := l.files[name]; ok {
			return f, true
		}
	}
	return file{}, false
}

func (t *tree) isDir(name string) bool {
	for l := t; l != nil; l = l.parent {
		if _, ok := l.dirs[name]; ok {
			return true
		}
	}
	return name == "."
}

// link finds the symbolic link that name is, or lies behind.
func (t *tree) link(name string) (at, target string, ok bool) {
	for l := t; l != nil; l = l.parent {
		for p := name; p != "."; p = path.Dir(p) {
			if target, ok := l.links[p]; ok {
				return p, target, true
			}
		}
	}
	return "", "", false
}

// list returns the names in a folder, sorted.
func (t *tree) list(dir string) []string {
	names := map[string]bool{}
	for l := t; l != nil; l = l.parent {
		maps.Copy(names, l.dirs[dir])
	}
	return slices.Sorted(maps.Keys(names))
}

// walk calls fn for every file below dir, in the order of filepath.Walk; fn
// may end the descent into a folder by returning fs.SkipDir for it.
func (t *tree) walk(dir string, fn func(name string, isDir bool) error) error {
	for _, base := range t.list(dir) {
		name := path.Join(dir, base)
		_, isFile := t.file(name)
		err := fn(name, !isFile)
		switch {
		case errors.Is(err, fs.SkipDir):
			continue
		case err != nil:
			return err
		case !isFile:
			if err := t.walk(name, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

// rel turns a path that kustomize uses into one of the tree.
func (t *tree) rel(name string) (string, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.root, name)
	}
	rel, err := filepath.Rel(t.root, name)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", &fs.PathError{Op: "open", Path: name, Err: errOutside}
	}
	return filepath.ToSlash(rel), nil
}

var errOutside = fmt.Errorf("outside of the repository: %w", fs.ErrNotExist)

func (t *tree) abs(name string) string { return filepath.Join(t.root, filepath.FromSlash(name)) }

// The rest implements filesys.FileSystem. A build only reads.

var errReadOnly = errors.New("the model is read-only")

func (t *tree) Create(string) (filesys.File, error) { return nil, errReadOnly }
func (t *tree) Mkdir(string) error                  { return errReadOnly }
func (t *tree) MkdirAll(string) error               { return errReadOnly }
func (t *tree) RemoveAll(string) error              { return errReadOnly }
func (t *tree) WriteFile(string, []byte) error      { return errReadOnly }

func (t *tree) Open(name string) (filesys.File, error) {
	data, err := t.ReadFile(name)
	if err != nil {
		return nil, err
	}
	memory := filesys.MakeFsInMemory()
	if err := memory.WriteFile("/file", data); err != nil {
		return nil, err
	}
	return memory.Open("/file")
}

func (t *tree) IsDir(name string) bool {
	rel, err := t.rel(name)
	return err == nil && t.isDir(rel)
}

func (t *tree) Exists(name string) bool {
	rel, err := t.rel(name)
	if err != nil {
		return false
	}
	_, ok := t.file(rel)
	return ok || t.isDir(rel)
}

func (t *tree) ReadDir(name string) ([]string, error) {
	rel, err := t.rel(name)
	if err != nil {
		return nil, err
	}
	if !t.isDir(rel) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return t.list(rel), nil
}

func (t *tree) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	rel, err := t.rel(name)
	if err != nil {
		return "", "", err
	}
	if t.isDir(rel) {
		return filesys.ConfirmedDir(t.abs(rel)), "", nil
	}
	if _, ok := t.file(rel); ok {
		return filesys.ConfirmedDir(t.abs(path.Dir(rel))), path.Base(rel), nil
	}
	return "", "", &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
}

func (t *tree) Glob(pattern string) ([]string, error) {
	rel, err := t.rel(pattern)
	if err != nil {
		return nil, nil //nolint:nilerr // like filepath.Glob: what cannot be read does not match
	}
	var out []string
	err = t.walk(".", func(name string, _ bool) error {
		ok, err := path.Match(rel, name)
		if ok {
			out = append(out, t.abs(name))
		}
		return err
	})
	return out, err
}

func (t *tree) ReadFile(name string) ([]byte, error) {
	rel, err := t.rel(name)
	if err != nil {
		return nil, err
	}
	f, ok := t.file(rel)
	switch {
	case ok:
		return f.read()
	case t.isDir(rel):
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (t *tree) Walk(name string, fn filepath.WalkFunc) error {
	rel, err := t.rel(name)
	if err != nil {
		return fn(name, nil, err)
	}
	return t.walk(rel, func(p string, isDir bool) error {
		return fn(t.abs(p), entry{name: path.Base(p), dir: isDir}, nil)
	})
}

// entry is the little that a Walk of kustomize asks of a file.
type entry struct {
	name string
	dir  bool
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return 0 }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return e.dir }
func (e entry) Sys() any           { return nil }

func (e entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}
