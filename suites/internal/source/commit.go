package source

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// File is one file of a change.
type File struct {
	Content []byte
	// Mode is fs.ModeSymlink (Content is then the target), or has an executable
	// bit, or has none. 0 keeps the mode of the file that is there; a new one is
	// then an ordinary file.
	Mode fs.FileMode
}

// Change is what a commit does to the one before it.
type Change struct {
	// Files maps paths to their new content; nil removes the file, or the folder
	// with all it holds. Required.
	Files map[string]*File
	// Tags move to the new commit together with the branch.
	Tags []string
	// Message of the commit. Empty: «change».
	Message string
}

// Commit lays a change on top of a branch. Branch and tags move in one
// transaction, and only if the branch is still where it was. Removing what is
// not there is an error: an overlay that does nothing proves nothing.
func Commit(ctx context.Context, bare, branch string, change Change) (Revision, error) {
	revision, err := commit(ctx, bare, branch, change)
	if err != nil {
		return Revision{}, fmt.Errorf("commit on %s of %s: %w", branch, bare, err)
	}
	return revision, nil
}

func commit(ctx context.Context, bare, branch string, change Change) (Revision, error) {
	if len(change.Files) == 0 {
		return Revision{}, fmt.Errorf("the change names no file")
	}
	bare, err := filepath.Abs(bare)
	if err != nil {
		return Revision{}, err
	}
	parent, err := resolveCommit(ctx, bare, "refs/heads/"+branch)
	if err != nil {
		return Revision{}, err
	}
	there, err := listTree(ctx, bare, parent, true)
	if err != nil {
		return Revision{}, err
	}
	imp, err := startImport(ctx, bare)
	if err != nil {
		return Revision{}, err
	}
	imp.commit(cmp.Or(change.Message, "change"), parent)
	for _, name := range slices.Sorted(maps.Keys(change.Files)) {
		if err := changeFile(imp, there, name, change.Files[name]); err != nil {
			imp.abandon()
			return Revision{}, err
		}
	}
	commits, err := imp.finish()
	if err != nil {
		return Revision{}, err
	}
	if err := imp.move(ctx, commits[0], []string{branch}, change.Tags, parent); err != nil {
		return Revision{}, err
	}
	return Revision{Commit: commits[0], Branch: branch}, nil
}

func changeFile(imp *importer, there map[string]TreeEntry, name string, file *File) error {
	if err := checkPath(name); err != nil {
		return err
	}
	before, exists := there[name]
	if file == nil {
		if !exists {
			return fmt.Errorf("remove %q: the branch has no such file or folder", name)
		}
		imp.remove(name)
		return nil
	}
	mode := modeRegular
	switch {
	case file.Mode&fs.ModeSymlink != 0:
		mode = modeSymlink
	case file.Mode&0o111 != 0:
		mode = modeExecutable
	case file.Mode == 0 && before.mode == modeExecutable:
		mode = modeExecutable
	}
	if err := imp.file(mode, name, int64(len(file.Content)), bytes.NewReader(file.Content)); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	return nil
}

// Reset lets a branch, and the tags that moved with it, name a revision that the
// repository has, which takes back what Commit laid on top.
func Reset(ctx context.Context, bare, branch, revision string, tags ...string) (Revision, error) {
	target, err := resolveCommit(ctx, bare, revision)
	if err == nil {
		err = moveRefs(ctx, bare, target, []string{branch}, tags, "", "")
	}
	if err != nil {
		return Revision{}, fmt.Errorf("reset %s of %s: %w", branch, bare, err)
	}
	return Revision{Commit: target, Branch: branch}, nil
}

func resolveCommit(ctx context.Context, bare, revision string) (string, error) {
	output, err := inBare(ctx, bare, "rev-parse", "--verify", "--end-of-options", revision+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", revision, err)
	}
	return strings.TrimSpace(string(output)), nil
}

// TreeEntry is one path of a commit.
type TreeEntry struct {
	Path string
	// Mode is that of the file: fs.ModeSymlink for a link, fs.ModeIrregular for
	// a submodule, fs.ModeDir for a folder (which [List] leaves out), else 0644
	// or 0755.
	Mode fs.FileMode
	// Object is the name of the blob, or of a submodule's commit.
	Object string

	mode string
}

// List returns the files, links and submodules of a revision at or below path
// (empty: all), ordered by path.
func List(ctx context.Context, bare, revision, path string) ([]TreeEntry, error) {
	entries, err := listTree(ctx, bare, revision, false)
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", revision, bare, err)
	}
	var found []TreeEntry
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if path == "" || below(name, path) {
			found = append(found, entries[name])
		}
	}
	return found, nil
}

func listTree(ctx context.Context, bare, revision string, folders bool) (map[string]TreeEntry, error) {
	args := []string{"ls-tree", "-r", "-z", "--full-tree"}
	if folders {
		args = append(args, "-t")
	}
	output, err := inBare(ctx, bare, append(args, "--end-of-options", revision)...)
	if err != nil {
		return nil, err
	}
	entries := map[string]TreeEntry{}
	for record := range bytes.SplitSeq(output, []byte{0}) {
		if len(record) == 0 {
			continue
		}
		meta, name, ok := strings.Cut(string(record), "\t")
		fields := strings.Fields(meta)
		if !ok || len(fields) != 3 {
			return nil, fmt.Errorf("git ls-tree printed %q", record)
		}
		e := TreeEntry{Path: name, Object: fields[2], mode: fields[0]}
		switch e.mode {
		case modeSymlink:
			e.Mode = fs.ModeSymlink | 0o777
		case modeSubmodule:
			e.Mode = fs.ModeIrregular
		case modeExecutable:
			e.Mode = 0o755
		case "040000":
			e.Mode = fs.ModeDir | 0o755
		default:
			e.Mode = 0o644
		}
		entries[name] = e
	}
	return entries, nil
}

// ReadFile returns the bytes that a file has at a revision (a link's target for
// a link). A missing file is an error that wraps fs.ErrNotExist.
func ReadFile(ctx context.Context, bare, revision, path string) ([]byte, error) {
	entries, err := listTree(ctx, bare, revision, false)
	if err != nil {
		return nil, fmt.Errorf("read %s at %s of %s: %w", path, revision, bare, err)
	}
	e, ok := entries[path]
	if !ok || e.mode == modeSubmodule {
		return nil, fmt.Errorf("read %s at %s of %s: %w", path, revision, bare, fs.ErrNotExist)
	}
	content, err := inBare(ctx, bare, "cat-file", "blob", e.Object)
	if err != nil {
		return nil, fmt.Errorf("read %s at %s of %s: %w", path, revision, bare, err)
	}
	return content, nil
}

// Export lays the files of a revision out in a folder, which is made when it is
// not there and must be empty otherwise. Bytes, executable bits and links are as
// in the commit; a submodule is an empty folder.
func Export(ctx context.Context, bare, revision, dir string) error {
	if err := export(ctx, bare, revision, dir); err != nil {
		return fmt.Errorf("export %s of %s: %w", revision, bare, err)
	}
	return nil
}

func export(ctx context.Context, bare, revision, dir string) error {
	entries, err := listTree(ctx, bare, revision, false)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if files, err := os.ReadDir(dir); err != nil {
		return err
	} else if len(files) > 0 {
		return fmt.Errorf("%s is not empty: name another folder", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var files []TreeEntry
	var wants strings.Builder
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if err := checkPath(name); err != nil {
			return err
		}
		e := entries[name]
		if e.mode == modeSubmodule {
			if err := root.MkdirAll(filepath.FromSlash(name), 0o755); err != nil {
				return err
			}
			continue
		}
		files = append(files, e)
		wants.WriteString(e.Object + "\n")
	}
	blobs, err := gitCommand{bare: bare, stdin: strings.NewReader(wants.String()), args: []string{"cat-file", "--batch"}}.run(ctx)
	if err != nil {
		return err
	}
	rest := bytes.NewReader(blobs)
	for _, e := range files {
		content, err := nextBlob(rest)
		if err != nil {
			return fmt.Errorf("read %q: %w", e.Path, err)
		}
		if err := layOut(root, e, content); err != nil {
			return fmt.Errorf("write %q: %w", e.Path, err)
		}
	}
	return nil
}

// nextBlob reads one answer of «git cat-file --batch»: «OBJECT blob SIZE», the
// bytes, a line feed.
func nextBlob(r *bytes.Reader) ([]byte, error) {
	var object, kind string
	var size int64
	if _, err := fmt.Fscanf(r, "%s %s %d\n", &object, &kind, &size); err != nil {
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	if kind != "blob" || size > int64(r.Len()) {
		return nil, fmt.Errorf("git cat-file printed %s of %d bytes for %s", kind, size, object)
	}
	content := make([]byte, size+1)
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	return content[:size], nil
}

func layOut(root *os.Root, e TreeEntry, content []byte) error {
	name := filepath.FromSlash(e.Path)
	if dir := filepath.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if e.mode == modeSymlink {
		return root.Symlink(string(content), name)
	}
	return root.WriteFile(name, content, e.Mode.Perm())
}
