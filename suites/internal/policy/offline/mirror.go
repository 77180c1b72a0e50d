package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// mirror is the library's folder laid out with links, so that the paths in its tests
// lead where they did, and other tests can stand in the place of its own.
type mirror struct {
	root, folder, original string
}

func newMirror(root string, library *example.Library) (*mirror, error) {
	// The whole path of the original is repeated: tests may name what is outside.
	m := &mirror{root: root, folder: filepath.Join(root, library.Dir), original: library.Dir}
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return nil, err
	}
	if outside(library) {
		for dir := library.Dir; filepath.Dir(dir) != dir; dir = filepath.Dir(dir) {
			if err := m.linkBeside(dir); err != nil {
				return nil, err
			}
		}
	}
	return m, filepath.WalkDir(library.Dir, func(name string, entry fs.DirEntry, err error) error {
		at := filepath.Join(root, name)
		switch {
		case err != nil && name == library.Dir:
			return err
		case err != nil:
			return nil // what cannot be read is a finding of whoever names it
		case entry.IsDir() && entry.Name() == ".git":
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(at, 0o700)
		case entry.Name() == example.TestFile:
			return nil
		}
		return os.Symlink(name, at)
	})
}

// linkBeside links what stands beside a folder.
func (m *mirror) linkBeside(dir string) error {
	parent := filepath.Dir(dir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil // so it cannot be named either
	}
	for _, entry := range entries {
		name := filepath.Join(parent, entry.Name())
		if name == dir || name == filepath.Clean(m.root) {
			continue
		}
		if err := os.Symlink(name, filepath.Join(m.root, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// outside tells whether any test leads out of the folder.
func outside(library *example.Library) bool {
	for _, test := range library.Tests {
		if leadsOut(test.Document, filepath.Dir(filepath.FromSlash(test.File))) {
			return true
		}
	}
	return false
}

func leadsOut(value any, dir string) bool {
	switch v := value.(type) {
	case map[string]any:
		for _, field := range v {
			if leadsOut(field, dir) {
				return true
			}
		}
	case []any:
		for _, element := range v {
			if leadsOut(element, dir) {
				return true
			}
		}
	case string:
		return strings.HasPrefix(v, "..") && !filepath.IsLocal(filepath.Join(dir, filepath.FromSlash(v)))
	}
	return false
}

// write lays out documents under a name of their own beside the tests that they are
// of, and returns them by the paths that the CLI will name.
func (m *mirror) write(file string, documents []*document) (map[string][]*document, error) {
	byPath := map[string][]*document{}
	contents := map[string]*bytes.Buffer{}
	for _, d := range documents {
		name := filepath.Join(m.folder, filepath.Dir(filepath.FromSlash(d.test.File)), file)
		data, err := d.render()
		if err != nil {
			return nil, fmt.Errorf("write the test %s: %w", d.test.Place, err)
		}
		if contents[name] == nil {
			contents[name] = &bytes.Buffer{}
		}
		contents[name].WriteString("---\n")
		contents[name].Write(data)
		contents[name].WriteString("\n")
		byPath[name] = append(byPath[name], d)
	}
	for name, content := range contents {
		if err := os.WriteFile(name, content.Bytes(), 0o600); err != nil {
			return nil, err
		}
	}
	return byPath, nil
}

// remove takes away what write laid out.
func (m *mirror) remove(byPath map[string][]*document) error {
	var problems []error
	for name := range byPath {
		problems = append(problems, os.Remove(name))
	}
	return errors.Join(problems...)
}

// words are the CLI's, about the original.
func (m *mirror) words(text string) string { return strings.ReplaceAll(text, m.folder, m.original) }

// run runs the CLI, which ends with an error where a test fails: that is none here.
func run(ctx context.Context, cli string, arguments ...string) (stdout, stderr []byte, err error) {
	var out, problems bytes.Buffer
	command := exec.CommandContext(ctx, cli, arguments...)
	// The CLI compiles each policy anew for each object. That leaves much garbage and
	// little that stays: collecting it took a quarter of the CLI's time and more.
	command.Env = append(os.Environ(), "GOGC=400")
	command.Stdout, command.Stderr = &out, &problems
	err = command.Run()
	var ended *exec.ExitError
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil && !errors.As(err, &ended) {
		return nil, nil, fmt.Errorf("run %s: %w", cli, err)
	}
	return out.Bytes(), problems.Bytes(), nil
}
