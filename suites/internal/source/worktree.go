package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// entry is one path of a commit to be.
type entry struct {
	path   string // relative to the root, with slashes
	mode   string
	size   int64
	object string // what a submodule points to, or a file that only the repository holds
}

// tree is a folder on its way into a commit.
type tree struct {
	dir     string
	root    *os.Root
	git     bool   // it lies in a Git working tree
	head    string // HEAD of that, or empty
	entries []entry
	skipped []string

	submodules []Submodule

	// Where the file system cannot say it, the index does.
	trustModes, trustLinks bool

	parents map[string]bool // folders seen: true for a real one
}

// openTree finds out what kind of folder it is.
func openTree(ctx context.Context, dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	t := &tree{dir: dir, root: root, trustModes: true, trustLinks: true, parents: map[string]bool{".": true}}
	if err := t.detect(ctx); err != nil {
		root.Close()
		return nil, err
	}
	return t, nil
}

func (t *tree) close() { t.root.Close() }

func (t *tree) run(ctx context.Context, args ...string) ([]byte, error) {
	return gitCommand{dir: t.dir, args: args}.run(ctx)
}

func (t *tree) detect(ctx context.Context) error {
	inside, err := t.run(ctx, "rev-parse", "--is-inside-work-tree")
	if err != nil {
		// Any other message is of a repository that is there and cannot be read.
		var failed *gitError
		if errors.As(err, &failed) && strings.Contains(failed.stderr, "not a git repository (or any") {
			return nil
		}
		return fmt.Errorf("read its Git repository: %w", err)
	}
	if strings.TrimSpace(string(inside)) != "true" {
		return errors.New("it is the inside of a Git repository, not a working tree: name the folder that holds the files")
	}
	t.git = true
	if head, err := t.run(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err == nil {
		t.head = strings.TrimSpace(string(head))
	} else if ctx.Err() != nil {
		return ctx.Err()
	}
	for key, trusted := range map[string]*bool{"core.fileMode": &t.trustModes, "core.symlinks": &t.trustLinks} {
		value, err := t.run(ctx, "config", "--type=bool", "--default=true", key)
		if err != nil {
			return fmt.Errorf("read %s of its Git repository: %w", key, err)
		}
		*trusted = strings.TrimSpace(string(value)) == "true"
	}
	return nil
}

// collect lists what the commit will hold, in a fixed order.
func (t *tree) collect(ctx context.Context, only []string) error {
	collect := t.collectFolder
	if t.git {
		collect = t.collectWorkTree
	}
	if err := collect(ctx, only); err != nil {
		return err
	}
	if t.git && len(t.entries) == 0 {
		// A folder that an enclosing repository ignores as a whole is no part of
		// that repository.
		if _, err := t.run(ctx, "check-ignore", "--quiet", "."); err == nil {
			t.git, t.head = false, ""
			if err := t.collectFolder(ctx, only); err != nil {
				return err
			}
		}
	}
	for _, prefix := range only {
		if !slices.ContainsFunc(t.entries, func(e entry) bool { return below(e.path, prefix) }) {
			return fmt.Errorf("it holds nothing at %q", prefix)
		}
	}
	if len(t.entries) == 0 {
		return errors.New("it holds no file that is not ignored: there is nothing to serve")
	}
	slices.SortFunc(t.entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	slices.Sort(t.skipped)
	if t.git {
		return t.findSubmodules(ctx)
	}
	return nil
}

func wanted(name string, only []string) bool {
	return len(only) == 0 || slices.ContainsFunc(only, func(prefix string) bool { return below(name, prefix) })
}

// collectFolder takes every file of a plain folder.
func (t *tree) collectFolder(ctx context.Context, only []string) error {
	return filepath.WalkDir(t.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read the folder: %w: make it readable, or leave it out", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name, err := filepath.Rel(t.dir, file)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		switch {
		case name == ".":
			return nil
		case d.Name() == ".git":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			onWay := wanted(name, only) || slices.ContainsFunc(only, func(prefix string) bool { return below(prefix, name) })
			if !onWay {
				return fs.SkipDir
			}
			return nil
		case !wanted(name, only):
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("read the folder: %w", err)
		}
		t.take(name, info, "")
		return nil
	})
}

// collectWorkTree takes what git tracks, as it lies on disk, and what it would
// track after «git add --all».
func (t *tree) collectWorkTree(ctx context.Context, only []string) error {
	tracked, err := t.run(ctx, "ls-files", "-z", "--cached", "--stage", "-t")
	if err != nil {
		return fmt.Errorf("list what is tracked: %w", err)
	}
	seen := map[string]bool{}
	for record := range bytes.SplitSeq(tracked, []byte{0}) {
		if len(record) == 0 {
			continue
		}
		meta, name, ok := strings.Cut(string(record), "\t")
		fields := strings.Fields(meta)
		if !ok || len(fields) != 4 {
			return fmt.Errorf("list what is tracked: git printed %q", record)
		}
		if seen[name] || !wanted(name, only) { // a path in conflict comes several times
			continue
		}
		seen[name] = true
		if err := t.takeTracked(ctx, name, fields[0], fields[1], fields[2]); err != nil {
			return err
		}
	}
	var warned string
	others := gitCommand{dir: t.dir, args: []string{"ls-files", "-z", "--others", "--exclude-standard"}, warned: &warned}
	untracked, err := others.run(ctx)
	if err != nil {
		return fmt.Errorf("list what is not tracked: %w", err)
	}
	if warned != "" { // a folder that it cannot read is no error to git
		return fmt.Errorf("list what is not tracked: %s: make it readable, or leave it out with .gitignore", warned)
	}
	for record := range bytes.SplitSeq(untracked, []byte{0}) {
		name := string(record)
		if name == "" || !wanted(strings.TrimSuffix(name, "/"), only) {
			continue
		}
		if strings.HasSuffix(name, "/") { // a repository inside this one
			t.skipped = append(t.skipped, name)
			continue
		}
		info, err := t.root.Lstat(filepath.FromSlash(name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("read %q: %w", name, err)
		default:
			t.take(name, info, "")
		}
	}
	return nil
}

// takeTracked takes one path of the index. The tag is «S» for what a sparse
// checkout leaves out of the working tree.
func (t *tree) takeTracked(ctx context.Context, name, tag, mode, object string) error {
	real, err := t.parentsReal(name)
	if err != nil {
		return err
	}
	var info fs.FileInfo
	if real {
		if info, err = t.root.Lstat(filepath.FromSlash(name)); err != nil && !isGone(err) {
			return fmt.Errorf("read %q: %w: make it readable, or leave it out", name, err)
		}
	}
	switch {
	case info == nil && tag == "S":
		size, err := t.run(ctx, "cat-file", "-s", object)
		if err != nil {
			return fmt.Errorf("read %q, which is not checked out: %w", name, err)
		}
		e := entry{path: name, mode: mode, object: object}
		if _, err := fmt.Sscan(string(size), &e.size); err != nil {
			return fmt.Errorf("read %q, which is not checked out: git printed %q", name, size)
		}
		t.entries = append(t.entries, e)
	case info == nil: // deleted
	case mode == modeSubmodule:
		if info.IsDir() {
			return t.takeSubmodule(ctx, name, object)
		}
		t.take(name, info, "")
	case info.IsDir(): // a folder lies where a file was
	default:
		t.take(name, info, mode)
	}
	return nil
}

// isGone says that nothing lies at a path: neither it nor its folder.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// take adds a file of the file system. Where that cannot tell modes or links,
// the mode of the index does; it is empty for what is not tracked.
func (t *tree) take(name string, info fs.FileInfo, indexed string) {
	e := entry{path: name, size: info.Size()}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		e.mode = modeSymlink
	case !info.Mode().IsRegular():
		t.skipped = append(t.skipped, name)
		return
	case !t.trustLinks && indexed == modeSymlink:
		e.mode = modeSymlink
	case !t.trustModes && (indexed == modeExecutable || indexed == modeRegular):
		e.mode = indexed
	case t.trustModes && info.Mode()&0o100 != 0:
		e.mode = modeExecutable
	default:
		e.mode = modeRegular
	}
	t.entries = append(t.entries, e)
}

// parentsReal says that every folder above name is one, and not a link that
// leads elsewhere: git treats what lay below as deleted.
func (t *tree) parentsReal(name string) (bool, error) {
	dir := path.Dir(name)
	if real, ok := t.parents[dir]; ok {
		return real, nil
	}
	real, err := t.parentsReal(dir)
	if err != nil {
		return false, err
	}
	if real {
		info, err := t.root.Lstat(filepath.FromSlash(dir))
		switch {
		case err == nil:
			real = info.IsDir()
		case isGone(err):
			real = false
		default:
			return false, fmt.Errorf("read %q: %w: make it readable, or leave it out", dir, err)
		}
	}
	t.parents[dir] = real
	return real, nil
}

// add writes one entry into the commit.
func (t *tree) add(ctx context.Context, imp *importer, e entry) error {
	if e.mode == modeSubmodule {
		imp.object(e.mode, e.path, e.object)
		return nil
	}
	content, err := t.open(ctx, e)
	if err != nil {
		return fmt.Errorf("read %q: %w: make it readable, or leave it out with .gitignore", e.path, err)
	}
	defer content.Close()
	if err := imp.file(e.mode, e.path, e.size, content); err != nil {
		return fmt.Errorf("read %q: %w", e.path, err)
	}
	return nil
}

func (t *tree) open(ctx context.Context, e entry) (io.ReadCloser, error) {
	if e.object != "" {
		blob, err := t.run(ctx, "cat-file", "blob", e.object)
		return io.NopCloser(bytes.NewReader(blob)), err
	}
	name := filepath.FromSlash(e.path)
	if e.mode == modeSymlink && t.trustLinks {
		target, err := t.root.Readlink(name)
		return io.NopCloser(strings.NewReader(filepath.ToSlash(target))), err
	}
	return t.root.Open(name)
}

// differs compares the commit's tree with the one that HEAD has for the folder.
func (t *tree) differs(ctx context.Context, bare, commit string) (bool, error) {
	if t.head == "" {
		return true, nil
	}
	now, err := inBare(ctx, bare, "rev-parse", "--verify", commit+"^{tree}")
	if err != nil {
		return false, fmt.Errorf("compare with HEAD: %w", err)
	}
	before, err := t.run(ctx, "rev-parse", "--verify", "--quiet", t.head+":./")
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && ctx.Err() == nil {
			return true, nil // HEAD does not have the folder
		}
		return false, fmt.Errorf("compare with HEAD: %w", err)
	}
	return !bytes.Equal(now, before), nil
}
