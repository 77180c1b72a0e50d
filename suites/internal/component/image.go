package component

import (
	"archive/tar"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	whiteout    = ".wh."
	opaque      = ".wh..wh..opq"
	maxLinks    = 40      // as the Linux kernel follows
	maxProgram  = 2 << 30 // bytes
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// tree is the file system of an image: all layers on top of each other.
type tree struct {
	layers []v1.Layer
	nodes  map[string]node // by absolute path
}

// node is a file, symbolic link or folder of a tree.
type node struct {
	kind   byte   // as in tar
	link   string // of a symbolic link
	layer  int    // of a file: where its bytes are,
	member string // and under which name
	index  int    // and at which place there
}

// openTree reads layers, lowest first.
func openTree(files []string) (*tree, error) {
	t := &tree{nodes: map[string]node{}}
	for i, file := range files {
		layer, err := tarball.LayerFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("read layer %d: %w", i+1, err)
		}
		t.layers = append(t.layers, layer)
		if err := t.add(i); err != nil {
			return nil, fmt.Errorf("read layer %d: %w", i+1, err)
		}
	}
	return t, nil
}

// add lays a layer over the tree.
func (t *tree) add(layer int) error {
	added := map[string]node{}
	err := t.walk(layer, func(index int, header *tar.Header, _ io.Reader) (bool, error) {
		name := absolute(header.Name)
		dir, base := path.Split(name)
		switch {
		case base == opaque:
			t.remove(path.Clean(dir), false)
		case strings.HasPrefix(base, whiteout):
			t.remove(path.Join(dir, strings.TrimPrefix(base, whiteout)), true)
		case header.Typeflag == tar.TypeLink:
			target := absolute(header.Linkname)
			n, ok := added[target]
			if !ok {
				n, ok = t.nodes[target]
			}
			if ok {
				added[name] = n
			}
		default:
			added[name] = node{kind: header.Typeflag, link: header.Linkname, layer: layer, member: header.Name, index: index}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	// What a layer removes is of the layers below, wherever it stands.
	for name, n := range added {
		if old, ok := t.nodes[name]; ok && old.kind == tar.TypeDir && n.kind != tar.TypeDir {
			t.remove(name, false)
		}
		t.nodes[name] = n
	}
	return nil
}

// remove takes away all below name, and name itself if so wanted.
func (t *tree) remove(name string, itself bool) {
	for other := range t.nodes {
		if itself && other == name || strings.HasPrefix(other, strings.TrimSuffix(name, "/")+"/") {
			delete(t.nodes, other)
		}
	}
}

// walk visits the members of a layer until visit says that it is enough.
func (t *tree) walk(layer int, visit func(index int, header *tar.Header, content io.Reader) (more bool, err error)) error {
	content, err := t.layers[layer].Uncompressed()
	if err != nil {
		return err
	}
	defer content.Close()
	archive := tar.NewReader(content)
	for index := 0; ; index++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if more, err := visit(index, header, archive); err != nil || !more {
			return err
		}
	}
}

// file follows name through symbolic links, in its folders too, to a regular
// file.
func (t *tree) file(name string) (node, bool) {
	resolved, rest := "/", strings.Split(strings.Trim(absolute(name), "/"), "/")
	for links := 0; len(rest) > 0; {
		at := path.Join(resolved, rest[0])
		rest = rest[1:]
		n, ok := t.nodes[at]
		switch {
		case ok && n.kind == tar.TypeSymlink:
			if links++; links > maxLinks {
				return node{}, false
			}
			target := n.link
			if !path.IsAbs(target) {
				target = path.Join(resolved, target)
			}
			rest = slices.Concat(strings.Split(strings.Trim(absolute(target), "/"), "/"), rest)
			resolved = "/"
		case len(rest) == 0:
			return n, ok && n.kind == tar.TypeReg
		case ok && n.kind != tar.TypeDir:
			return node{}, false
		default:
			resolved = at // layers need not list their folders
		}
	}
	return node{}, false
}

func absolute(name string) string { return path.Clean("/" + name) }

// extract writes the component's program to a file: the table's path in the
// image, else its entrypoint.
func (s *Store) extract(t *tree, e *entry, config v1.Config, to string) error {
	found, err := t.program(e, config)
	if err != nil {
		return err
	}
	err = t.walk(found.layer, func(index int, header *tar.Header, content io.Reader) (bool, error) {
		if index != found.index {
			return true, nil
		}
		if header.Size > maxProgram {
			return false, fmt.Errorf("%s has %d bytes, more than a program has", header.Name, header.Size)
		}
		return false, s.write(to, io.LimitReader(content, maxProgram))
	})
	if err != nil {
		return err
	}
	if err := s.runs(to); err != nil {
		return fmt.Errorf("%s: %w", absolute(found.member), err)
	}
	return nil
}

// program finds the component in the tree. An entrypoint stands in for the
// table's path only if it is a program of the same name: it may be a wrapper.
func (t *tree) program(e *entry, config v1.Config) (node, error) {
	if e.Path != "" {
		if n, ok := t.file(e.Path); ok {
			return n, nil
		}
	}
	command := slices.Concat(config.Entrypoint, config.Cmd)
	if len(command) == 0 || command[0] == "" {
		return node{}, fmt.Errorf("it has no entrypoint%s", notAt(e))
	}
	entrypoint := command[0]
	if e.Path != "" && path.Base(entrypoint) != path.Base(e.Path) {
		return node{}, fmt.Errorf("its entrypoint is %s%s", entrypoint, notAt(e))
	}
	candidates := []string{path.Join("/", config.WorkingDir, entrypoint)}
	switch {
	case path.IsAbs(entrypoint):
		candidates[0] = entrypoint
	case !strings.Contains(entrypoint, "/"):
		candidates = nil
		for _, dir := range strings.Split(cmp.Or(variable(config.Env, "PATH"), defaultPath), ":") {
			candidates = append(candidates, path.Join(dir, entrypoint))
		}
	}
	for _, candidate := range candidates {
		if n, ok := t.file(candidate); ok {
			return n, nil
		}
	}
	return node{}, fmt.Errorf("its entrypoint %s is not in it%s", entrypoint, notAt(e))
}

func notAt(e *entry) string {
	if e.Path == "" {
		return ""
	}
	return ", and there is no " + e.Path
}

func variable(environ []string, name string) string {
	for _, line := range environ {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return ""
}

// machines are the ELF names of Go's architectures that images are made for.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "386": elf.EM_386,
	"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "riscv64": elf.EM_RISCV,
}

// runs checks that a program from an image can run outside of it: a script or
// a program that is linked with the image's libraries cannot.
func (s *Store) runs(program string) error {
	file, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("not a Linux program: %w", err)
	}
	defer file.Close()
	_, goarch, _ := strings.Cut(s.platform, "/")
	if want, known := machines[goarch]; known && file.Machine != want {
		return fmt.Errorf("a program for %s, not for %s", file.Machine, s.platform)
	}
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(segment.Open(), 4096))
		if err != nil {
			return fmt.Errorf("read its loader: %w", err)
		}
		loader := strings.TrimRight(string(data), "\x00")
		if _, err := os.Stat(loader); err != nil {
			return fmt.Errorf("needs the loader %s, which this machine does not have", loader)
		}
	}
	return nil
}
