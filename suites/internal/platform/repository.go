package platform

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/konfig"
)

// Repository is a local folder that answers for a URL, as a commit of it would
// be: what is tracked, and what is neither tracked nor ignored.
type Repository struct {
	// URL that Flux knows it by.
	URL string
	// Folder is absolute.
	Folder string

	tree    *tree
	ignores []ignoreText
}

// Repositories are the folders that the loader read: the platform's own first,
// then those that sources draw on, by folder.
func (p *Platform) Repositories() []Repository { return p.repositories }

// remember keeps what was read, for those who look at the files themselves.
func (l *loader) remember() {
	add := func(url, folder string, t *tree) {
		r := Repository{URL: url, Folder: folder, tree: t, ignores: ignorePatterns(t, nil)}
		l.platform.repositories = append(l.platform.repositories, r)
	}
	add(l.platform.URL, l.platform.Root, l.base)
	urls := map[string]string{}
	for _, e := range l.platform.Environments {
		for _, s := range e.Sources {
			if s.Folder != "" {
				urls[s.Folder] = s.URL
			}
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(l.sources.trees)) {
		if folder != l.platform.Root {
			add(urls[folder], folder, l.sources.trees[folder])
		}
	}
}

// Files lists the regular files by slash-separated path, sorted.
func (r Repository) Files() []string { return slices.Sorted(maps.Keys(r.tree.files)) }

// Links maps each symbolic link to its target, as it is written. Flux leaves
// symbolic links out of an artifact.
func (r Repository) Links() map[string]string { return r.tree.links }

// Disk is where a file of the repository lies.
func (r Repository) Disk(name string) string {
	return filepath.Join(r.Folder, filepath.FromSlash(name))
}

// At is a place in the repository; line 0 names the file as a whole.
func (r Repository) At(name string, line int) Origin {
	return Origin{Repository: r.URL, Folder: r.Folder, File: name, Line: line}
}

// Ignored is a file that a .sourceignore leaves out.
type Ignored struct {
	File string
	// By is the line that does.
	By Origin
}

// Ignored lists the files below a folder that the .sourceignore files of the
// repository leave out, spec.ignore of a source left aside; "." is the root.
func (r Repository) Ignored(below string) []Ignored {
	if len(r.ignores) == 0 {
		return nil
	}
	type rule struct {
		pattern gitignore.Pattern
		at      Origin
	}
	var rules []rule
	for _, t := range r.ignores {
		var domain []string
		if t.dir != "" && t.dir != "." {
			domain = strings.Split(t.dir, "/")
		}
		number := 0
		for line := range strings.Lines(t.text) {
			number++
			for _, p := range sourceignore.ReadPatterns(strings.NewReader(line), domain) {
				rules = append(rules, rule{p, r.At(path.Join(t.dir, sourceignore.IgnoreFile), number)})
			}
		}
	}
	slices.Reverse(rules) // the last that matches decides
	var out []Ignored
	for _, name := range r.Files() {
		if below != "." && name != below && !strings.HasPrefix(name, below+"/") {
			continue
		}
		parts := strings.Split(name, "/")
		for _, rule := range rules {
			result := rule.pattern.Match(parts, false)
			if result == gitignore.Exclude {
				out = append(out, Ignored{File: name, By: rule.at})
			}
			if result != gitignore.NoMatch {
				break
			}
		}
	}
	return out
}

// Reference is a path or URL that a kustomization or a generator of its own names.
type Reference struct {
	// Field of the file, like resources.
	Field string
	// Path as it is written, without the key that it gets.
	Path string
	// Line counts from 1.
	Line int
	// Folder says that a folder, or a repository, may be meant.
	Folder bool
}

// Remote says whether kustomize would fetch it from elsewhere: a file by http(s),
// or a repository.
func (r Reference) Remote() bool { return isURL(r.Path) || isRemote(r.Path) }

// Leaves says whether it leads out of the repository from the folder dir.
func (r Reference) Leaves(dir string) bool {
	_, ok := within(dir, r.Path)
	return !ok
}

// IsKustomization says whether kustomize would take a file of this name for its
// own; a Flux Kustomization may lie in one as well.
func IsKustomization(name string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name))
}

// IsYAML says whether a file of this name holds YAML.
func IsYAML(name string) bool { return isYAML(name) }

// References lists what a document of a kustomization, or of a generator of
// kustomize's own that has a file to itself, names.
func References(name string, root *yaml.Node) []Reference {
	var list []reference
	switch version := field(root, "apiVersion"); {
	case IsKustomization(name):
		list = references(root)
	case version != nil && version.Value == "builtin":
		list = generatorReferences(root)
	}
	var out []Reference
	for _, r := range list {
		out = append(out, Reference{Field: r.field, Path: r.path, Line: r.line, Folder: r.folder})
	}
	return out
}

// Decode reads all documents of a YAML stream. The error is a [SyntaxError];
// what stands before the mistake is returned with it.
func Decode(content io.Reader) ([]*yaml.Node, error) {
	var out []*yaml.Node
	decoder := yaml.NewDecoder(content)
	for {
		var node yaml.Node
		switch err := decoder.Decode(&node); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			line, detail := yamlMistake(err)
			return out, SyntaxError{Line: line, Detail: detail}
		}
		if len(node.Content) > 0 {
			out = append(out, node.Content[0])
		}
	}
}

// SyntaxError is a mistake in a YAML stream.
type SyntaxError struct {
	// Line counts from 1.
	Line   int
	Detail string
}

// Error renders line and mistake.
func (e SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Detail) }

// Repetition is a key that stands twice in one mapping.
type Repetition struct {
	Key string
	// First and Line are where it stands; of three the third has the first's, too.
	First, Line int
}

// Repeated lists the keys that stand twice in one mapping of a document. Some
// readers take the first value, some the last, and some refuse the file.
func Repeated(root *yaml.Node) []Repetition {
	var out []Repetition
	var look func(*yaml.Node)
	look = func(node *yaml.Node) {
		lines := map[string]int{}
		for i, child := range node.Content {
			if node.Kind == yaml.MappingNode && i%2 == 0 && child.Kind == yaml.ScalarNode {
				// «1» and "1" are keys of their own.
				name := child.ShortTag() + " " + child.Value
				if first, twice := lines[name]; twice {
					out = append(out, Repetition{Key: child.Value, First: first, Line: child.Line})
				} else {
					lines[name] = child.Line
				}
			}
			look(child)
		}
	}
	look(root)
	return out
}

// Expands says whether a document stays, with its aliases followed, below the
// size and the depth that a value or a manifest needs; where it does not, line
// tells where.
func Expands(root *yaml.Node) (line int, ok bool) {
	budget := maxValueNodes
	return bounded(root, 0, &budget)
}

// ValidSchema says whether a JSON Schema can be used: it is itself valid, and
// refers to nothing outside of itself.
func ValidSchema(schema []byte) error {
	_, err := compileSchema(schema)
	return err
}

// Reads are the files that the Kustomization's build reads. Of one that could not
// be built it is not known which it would: then they are all of its artifact, and
// built is false.
func (k *Kustomization) Reads() (files []Origin, built bool) {
	t, names := k.artifact, []string(nil)
	switch {
	case k.build != nil:
		t, names, built = k.build.tree, k.build.reads, true
	case t != nil:
		_ = t.walk(".", func(name string, isDir bool) error { // only fn errs, and it does not
			if !isDir {
				names = append(names, name)
			}
			return nil
		})
	}
	for _, name := range names {
		if f, ok := t.file(name); ok && !f.memory {
			files = append(files, f.origin(0))
		}
	}
	return files, built
}

// Misplaced says why a file is another tenant's or another environment's, as its
// folders name them; empty when it is not.
func (p *Platform) Misplaced(environment, tenant, file string) string {
	for _, folder := range strings.Split(path.Dir(file), "/") {
		if folder != environment && p.Environment(folder) != nil {
			return "which is of the environment " + folder
		}
		if folder != tenant && slices.Contains(p.TenantNames(), folder) {
			return "which is of the tenant " + folder
		}
	}
	return ""
}
