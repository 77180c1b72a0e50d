package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// maxBytes bounds a file that is looked into: what a build reads is bounded by
// the same, and nobody writes a larger one by hand.
const maxBytes = 16 << 20

// file is one file that is judged.
type file struct {
	repository *repository
	name       string
	size       int64
	// irregular says what stands there in place of a file, like a pipe.
	irregular string
	// content is nil of a file that is larger than maxBytes.
	content []byte
	// text says that the content is no picture or archive.
	text bool
	// documents and syntax are those of YAML and JSON.
	documents []*yaml.Node
	syntax    *platform.SyntaxError
	// read says that a build reads it, in some environment.
	read bool
}

func (f *file) at(line int) platform.Origin { return f.repository.At(f.name, line) }

func (f *file) structured() bool { return platform.IsYAML(f.name) || path.Ext(f.name) == ".json" }

// template says that it is a template of a chart, which is no YAML yet.
func (f *file) template() bool {
	for dir := path.Dir(f.name); dir != "."; dir = path.Dir(dir) {
		if path.Base(dir) == "templates" && f.repository.has(path.Join(path.Dir(dir), "Chart.yaml")) {
			return true
		}
	}
	return false
}

// repository is one whose files are judged.
type repository struct {
	platform.Repository
	// own says that it is the platform's, or one that a tenant draws on: it is
	// judged whole.
	own bool
	// root says that it is the platform's.
	root bool
	// unknown says that something that draws on it could not even be put together:
	// which files it would read is not known.
	unknown bool
	// values says that it is included by others, and that tenants read nothing of it
	// but values.
	values bool
	files  []*file
	byName map[string]*file
}

func (r *repository) has(name string) bool { return r.byName[name] != nil }

// reading is what all rules look at.
type reading struct {
	platform     *platform.Platform
	repositories []*repository
	// production names the environments that are production; empty: see isProduction.
	production []string
	// partial says that something could not be built: what of its artifact it would
	// read is not known.
	partial bool
}

// files are all that are judged.
func (r *reading) files() []*file {
	var out []*file
	for _, repository := range r.repositories {
		out = append(out, repository.files...)
	}
	return out
}

// in finds the repository of a folder; nil when it is not judged.
func (r *reading) in(folder string) *repository {
	for _, repository := range r.repositories {
		if repository.Folder == folder {
			return repository
		}
	}
	return nil
}

// at finds the file of a place; nil when it is not judged.
func (r *reading) at(place platform.Origin) *file {
	if repository := r.in(place.Folder); repository != nil {
		return repository.byName[place.File]
	}
	return nil
}

// readAll reads what is judged of each repository.
func readAll(ctx context.Context, p *platform.Platform, production []string) (*reading, error) {
	out := &reading{platform: p, production: production}
	type place struct{ folder, file string }
	read := map[place]bool{}
	drawn, manifests := map[string]bool{}, map[string]bool{}
	included, unknown := map[string]bool{}, map[string]bool{}
	for _, e := range p.Environments {
		for _, k := range e.Kustomizations {
			files, whole := k.Reads()
			if !whole && len(files) == 0 {
				unread(k.Source, unknown)
			}
			out.partial = out.partial || !whole && len(files) > 0
			for _, f := range files {
				read[place{f.Folder, f.File}] = true
				if whole && k.Tenant != "" && !isValue(e.Tenant(k.Tenant), f) {
					manifests[f.Folder] = true
				}
			}
		}
		for _, s := range e.Sources {
			for _, include := range s.Include {
				if include.Source != nil {
					included[include.Source.Folder] = true
				}
			}
		}
		for _, t := range e.Tenants {
			for _, s := range t.Sources {
				drawn[s.Folder] = true
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, known := range p.Repositories() {
		r := &repository{
			Repository: known, root: i == 0, own: i == 0 || drawn[known.Folder], unknown: unknown[known.Folder],
			values: i > 0 && included[known.Folder] && !manifests[known.Folder], byName: map[string]*file{},
		}
		out.repositories = append(out.repositories, r)
		for _, name := range known.Files() {
			wanted := read[place{known.Folder, name}]
			if !wanted && !r.own {
				continue
			}
			f := &file{repository: r, name: name, read: wanted}
			r.files = append(r.files, f)
			r.byName[name] = f
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("read %s: %w", f.name, err)
				}
				return f.load()
			})
		}
	}
	return out, group.Wait()
}

// isValue says whether a file that a tenant's build reads is one of its values.
func isValue(t *platform.Tenant, f platform.Origin) bool {
	return t != nil && slices.ContainsFunc(t.Values, func(v platform.Value) bool {
		return v.File.Origin.Folder == f.Folder && v.File.Origin.File == f.File
	})
}

// unread notes the folders of a source whose artifact is not known, and of what it
// includes.
func unread(s *platform.Source, folders map[string]bool) {
	if s == nil || s.Folder == "" || folders[s.Folder] {
		return
	}
	folders[s.Folder] = true
	for _, include := range s.Include {
		unread(include.Source, folders)
	}
}

// load reads a file, and its documents.
func (f *file) load() error {
	disk := f.repository.Disk(f.name)
	info, err := os.Lstat(disk)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile; the next run judges what is there then
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", disk, err)
	}
	f.size = info.Size()
	if !info.Mode().IsRegular() {
		f.irregular = info.Mode().Type().String()
		return nil
	}
	if f.size > maxBytes {
		return nil
	}
	if f.content, err = os.ReadFile(disk); err != nil {
		return fmt.Errorf("read %s: %w; the files are judged by what they hold, so each has to be readable", disk, err)
	}
	f.parse()
	return nil
}

// parse looks into the content.
func (f *file) parse() {
	f.text = isText(f.content)
	if f.structured() {
		f.documents, f.syntax = decode(f.content)
	}
}

// decode reads the documents of YAML or JSON, up to a mistake.
func decode(content []byte) (documents []*yaml.Node, syntax *platform.SyntaxError) {
	documents, err := platform.Decode(bytes.NewReader(content))
	var mistake platform.SyntaxError
	if errors.As(err, &mistake) {
		syntax = &mistake
	}
	return documents, syntax
}

// isText tells text, perhaps with a few characters that do not belong there, from
// a picture or an archive.
func isText(content []byte) bool {
	head := content[:min(len(content), 8<<10)]
	odd := 0
	for i := 0; i < len(head); {
		r, size := utf8.DecodeRune(head[i:])
		if r == utf8.RuneError && size == 1 && utf8.FullRune(head[i:]) || r == 0 {
			odd++
		}
		i += size
	}
	return odd*20 <= len(head)
}

// field finds the value of a key in a mapping; nil when there is none.
func field(node *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		node = aliased(node)
		if node == nil || node.Kind != yaml.MappingNode {
			return nil
		}
		found := (*yaml.Node)(nil)
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				found = node.Content[i+1]
				break
			}
		}
		node = found
	}
	return aliased(node)
}

// aliased follows an alias; yaml.v3 keeps an alias of an alias from being.
func aliased(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func text(node *yaml.Node) string {
	if node == nil || node.Kind != yaml.ScalarNode {
		return ""
	}
	return node.Value
}

// walk calls visit for each node of a document as it is written, aliases not
// followed, with the key that it is the value of.
func walk(node *yaml.Node, visit func(key, value *yaml.Node)) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			visit(node.Content[i], node.Content[i+1])
			walk(node.Content[i+1], visit)
		}
	case yaml.SequenceNode:
		for _, item := range node.Content {
			visit(nil, item)
			walk(item, visit)
		}
	}
}

// manifests are the objects in a document, those of a List taken apart.
func manifests(root *yaml.Node) []*yaml.Node {
	if text(field(root, "apiVersion")) == "" || text(field(root, "kind")) == "" {
		return nil
	}
	if items := field(root, "items"); strings.HasSuffix(text(field(root, "kind")), "List") && items != nil && items.Kind == yaml.SequenceNode {
		var out []*yaml.Node
		for _, item := range items.Content {
			out = append(out, aliased(item))
		}
		return out
	}
	return []*yaml.Node{root}
}
