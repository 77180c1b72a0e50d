package platform

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	"github.com/go-git/go-git/v5/plumbing/format/index"
)

// readFolder lists the files of a local folder as a commit of it would hold
// them: in a Git working tree what is tracked, and what is not but is not
// ignored either; elsewhere everything. Symbolic links are noted apart, as
// source-controller leaves them out of its artifacts.
func readFolder(folder, repository string) (*tree, error) {
	t := newTree(folder)
	git := openWorktree(folder)
	var descend func(dir string, patterns []gitignore.Pattern) error
	descend = func(dir string, patterns []gitignore.Pattern) error {
		disk := filepath.Join(folder, filepath.FromSlash(dir))
		entries, err := os.ReadDir(disk)
		if err != nil {
			return fmt.Errorf("list folder %s: %w", disk, err)
		}
		if git != nil {
			patterns = git.patterns(disk, patterns)
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			if e.Name() == ".git" || git.ignores(name, e.IsDir(), patterns) {
				continue
			}
			switch {
			case e.IsDir():
				if err := descend(name, patterns); err != nil {
					return err
				}
			case e.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(filepath.Join(disk, e.Name()))
				if err != nil {
					return fmt.Errorf("read symbolic link %s: %w", name, err)
				}
				t.links[name] = target
			default:
				t.add(name, file{repository: repository, folder: folder, path: name})
			}
		}
		return nil
	}
	var patterns []gitignore.Pattern
	if git != nil {
		patterns = git.above
	}
	if err := descend(".", patterns); err != nil {
		return nil, err
	}
	return t, nil
}

// worktree knows what Git tracks and ignores below a folder.
type worktree struct {
	root    string          // of the working tree
	prefix  string          // of the folder below root, slash-separated, "" at the root
	tracked map[string]bool // files and the folders that hold them, below the folder
	above   []gitignore.Pattern
}

// openWorktree returns nil where folder is in no Git working tree that can be
// read: then everything in it counts.
func openWorktree(folder string) *worktree {
	root, gitDir := findGit(folder)
	if gitDir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(gitDir, "index"))
	if err != nil && !os.IsNotExist(err) {
		return nil
	}
	idx := &index.Index{}
	if err == nil && index.NewDecoder(bytes.NewReader(data)).Decode(idx) != nil {
		return nil
	}
	prefix, err := filepath.Rel(root, folder)
	if err != nil {
		return nil
	}
	prefix = filepath.ToSlash(prefix)
	if prefix == "." {
		prefix = ""
	}
	w := &worktree{root: root, prefix: prefix, tracked: map[string]bool{}}
	for _, e := range idx.Entries {
		name, ok := strings.CutPrefix(e.Name, prefix+"/")
		if prefix == "" {
			name, ok = e.Name, true
		}
		if !ok {
			continue
		}
		for ; name != "." && !w.tracked[name]; name = path.Dir(name) {
			w.tracked[name] = true
		}
	}
	w.above = append(w.above, ignoreFile(filepath.Join(commonDir(gitDir), "info", "exclude"), nil)...)
	at := root
	for _, part := range w.domain("") {
		w.above = w.patterns(at, w.above)
		at = filepath.Join(at, part)
	}
	return w
}

// findGit looks for the working tree around folder and its Git directory.
func findGit(folder string) (root, gitDir string) {
	for dir := folder; ; dir = filepath.Dir(dir) {
		dotGit := filepath.Join(dir, ".git")
		info, err := os.Stat(dotGit)
		switch {
		case err != nil:
		case info.IsDir():
			return dir, dotGit
		default: // a linked working tree or a submodule
			data, err := os.ReadFile(dotGit)
			target, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "gitdir: ")
			if err != nil || !ok {
				return "", ""
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(dir, target)
			}
			return dir, target
		}
		if filepath.Dir(dir) == dir {
			return "", ""
		}
	}
}

// commonDir is where a linked working tree keeps what all of them share.
func commonDir(gitDir string) string {
	data, err := os.ReadFile(filepath.Join(gitDir, "commondir"))
	if err != nil {
		return gitDir
	}
	common := strings.TrimSpace(string(data))
	if filepath.IsAbs(common) {
		return common
	}
	return filepath.Join(gitDir, common)
}

// domain is the path of a file of the folder as Git's patterns see it.
func (w *worktree) domain(name string) []string {
	full := path.Join(w.prefix, name)
	if full == "" || full == "." {
		return nil
	}
	return strings.Split(full, "/")
}

// patterns adds those of the .gitignore in the folder disk.
func (w *worktree) patterns(disk string, patterns []gitignore.Pattern) []gitignore.Pattern {
	rel, err := filepath.Rel(w.root, disk)
	if err != nil {
		return patterns
	}
	var domain []string
	if rel != "." {
		domain = strings.Split(filepath.ToSlash(rel), "/")
	}
	own := ignoreFile(filepath.Join(disk, ".gitignore"), domain)
	if len(own) == 0 {
		return patterns
	}
	return append(patterns[:len(patterns):len(patterns)], own...)
}

func (w *worktree) ignores(name string, isDir bool, patterns []gitignore.Pattern) bool {
	if w == nil || w.tracked[name] {
		return false
	}
	return gitignore.NewMatcher(patterns).Match(w.domain(name), isDir)
}

func ignoreFile(name string, domain []string) []gitignore.Pattern {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	var out []gitignore.Pattern
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, gitignore.ParsePattern(line, domain))
		}
	}
	return out
}

// originRemote returns the URL of the remote «origin» when folder is the root
// of a Git working tree, else "".
func originRemote(folder string) string {
	root, gitDir := findGit(folder)
	if gitDir == "" || root != folder {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(commonDir(gitDir), "config"))
	if err != nil {
		return ""
	}
	inOrigin := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inOrigin = line == `[remote "origin"]`
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && inOrigin && strings.TrimSpace(key) == "url" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
