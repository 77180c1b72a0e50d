package component

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// sourceGo is the Go release whose language the programs of our own are written
// in.
const sourceGo = "1.26.0"

// sources is a program of our own: one folder of Go files that need nothing but
// the standard library.
type sources struct {
	files map[string][]byte // by path below the folder
	sum   string            // of all of them, hexadecimal
}

// readSources reads a folder of all, but for its tests. Without all there is
// nothing to be read, and the component cannot be built.
func readSources(all fs.FS, folder string) (*sources, error) {
	s := &sources{files: map[string][]byte{}}
	if all == nil {
		return s, nil
	}
	err := fs.WalkDir(all, folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		content, err := fs.ReadFile(all, name)
		s.files[strings.TrimPrefix(name, folder+"/")] = content
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read its source: %w", err)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(s.files)), func(name string) bool { return path.Dir(name) == "." && path.Ext(name) == ".go" }) {
		return nil, fmt.Errorf("read its source: no Go files in %s", folder)
	}
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		fmt.Fprintf(sum, "%s %d\n%s\n", name, len(s.files[name]), s.files[name])
	}
	s.sum = hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

// version tells the content: programs of our own have no other.
func (s *sources) version() string {
	if s.sum == "" {
		return ""
	}
	return "source-" + s.sum[:12]
}

// source lays the files of t down as a module. The folder is named after their
// content, so processes with other sources do not meet here.
func (s *Store) source(t *target) (dir string, err error) {
	if len(t.files.files) == 0 {
		return "", errors.New("the store was opened without sources")
	}
	dir = filepath.Join(s.options.Dir, "sources", t.Name+"-"+t.files.sum[:16])
	files := maps.Clone(t.files.files)
	files["go.mod"] = fmt.Appendf(nil, "module %s\n\ngo %s\n", t.Name, sourceGo)
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", s.explain(err)
		}
		if err := writeFile(file, content); err != nil {
			return "", s.explain(err)
		}
	}
	return dir, nil
}
