package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultMaxBytes is how much a snapshot may hold when nothing else is said.
const DefaultMaxBytes = 512 << 20

// DefaultBranch is the branch of a snapshot when nothing else is said.
const DefaultBranch = "main"

// SnapshotOptions say what becomes a commit, and where.
type SnapshotOptions struct {
	// Dir is the folder: (a folder of) a Git working tree, or any other folder.
	// Required.
	Dir string
	// Subdir is a folder below Dir that becomes the root of the commit.
	Subdir string
	// Only keeps what lies at or below these paths, at the place where it lies.
	// Each must hold something. Empty: everything.
	Only []string
	// Into is the bare repository. It is made when it is not there. Required.
	Into string
	// Branches and Tags are set to the commit. HEAD names the first branch.
	// Without a branch: DefaultBranch.
	Branches, Tags []string
	// MaxBytes limits the sum of the files. 0: DefaultMaxBytes.
	MaxBytes int64
	// Extra are files (path → content) committed on top, as a second commit.
	Extra map[string][]byte
	// Message is the message of the commit. Empty: «snapshot».
	Message string
}

// Revision is one state of a repository.
type Revision struct {
	// Commit is the full object name; Branch the (first) branch that is there.
	Commit string `json:"commit"`
	Branch string `json:"branch"`
	// Base is the HEAD of the working tree that a snapshot was taken of; empty
	// for a folder without one.
	Base string `json:"base,omitempty"`
	// Dirty says that the folder differed from Base. With SnapshotOptions.Only
	// it is not known and stays false.
	Dirty bool `json:"dirty,omitempty"`
	// Files and Bytes count what a snapshot took, SnapshotOptions.Extra aside.
	Files int   `json:"files,omitempty"`
	Bytes int64 `json:"bytes,omitempty"`
	// Skipped are what a snapshot left out because a commit cannot hold it:
	// sockets, devices, repositories inside the folder that are no submodules.
	Skipped []string `json:"skipped,omitempty"`
	// Submodules of a snapshot. They stay references: what answers for their
	// URLs is the caller's to say (see [Mirror]).
	Submodules []Submodule `json:"submodules,omitempty"`
}

// Snapshot turns a folder into one commit of a bare repository: what is tracked
// as it lies on disk, what is untracked and not ignored, nothing of what is
// deleted. Bytes, names, executable bits and symbolic links arrive as they are;
// no end-of-line conversion and no filter takes place. The folder's repository
// and index are not written to. Within a working tree .gitignore and
// .git/info/exclude count; the user's global configuration does not. One tree
// gives one commit, always.
//
// The error names the file that cannot be read, or the largest files when there
// is more than MaxBytes.
func Snapshot(ctx context.Context, o SnapshotOptions) (Revision, error) {
	if o.Dir == "" || o.Into == "" {
		return Revision{}, errors.New("snapshot: Dir and Into are required")
	}
	revision, err := snapshot(ctx, o)
	if err != nil {
		return Revision{}, fmt.Errorf("snapshot of %s: %w", filepath.Join(o.Dir, o.Subdir), err)
	}
	return revision, nil
}

func snapshot(ctx context.Context, o SnapshotOptions) (Revision, error) {
	if o.Subdir != "" && !filepath.IsLocal(o.Subdir) {
		return Revision{}, fmt.Errorf("subfolder %q leads out of the folder", o.Subdir)
	}
	into, err := filepath.Abs(o.Into)
	if err != nil {
		return Revision{}, err
	}
	only, err := cleanPrefixes(o.Only)
	if err != nil {
		return Revision{}, err
	}
	branches := o.Branches
	if len(branches) == 0 {
		branches = []string{DefaultBranch}
	}
	dir, err := resolveFolder(o.Dir, o.Subdir)
	if err != nil {
		return Revision{}, err
	}
	tree, err := openTree(ctx, dir)
	if err != nil {
		return Revision{}, err
	}
	defer tree.close()
	if err := tree.collect(ctx, only); err != nil {
		return Revision{}, err
	}
	bytes, err := withinLimit(tree.entries, cmp.Or(o.MaxBytes, DefaultMaxBytes))
	if err != nil {
		return Revision{}, err
	}
	if err := openBare(ctx, into, branches[0]); err != nil {
		return Revision{}, err
	}
	commits, imp, err := tree.importInto(ctx, into, cmp.Or(o.Message, "snapshot"), o.Extra)
	if err != nil {
		return Revision{}, err
	}
	last := commits[len(commits)-1]
	if err := imp.move(ctx, last, branches, o.Tags, ""); err != nil {
		return Revision{}, err
	}
	revision := Revision{
		Commit: last, Branch: branches[0], Base: tree.head, Files: len(tree.entries), Bytes: bytes,
		Skipped: tree.skipped, Submodules: tree.submodules,
	}
	if len(only) == 0 && tree.git {
		if revision.Dirty, err = tree.differs(ctx, into, commits[0]); err != nil {
			return Revision{}, err
		}
	}
	return revision, nil
}

// resolveFolder returns the folder's real path, or says why it cannot be read.
func resolveFolder(dir, subdir string) (string, error) {
	resolved, err := filepath.Abs(filepath.Join(dir, subdir))
	if err != nil {
		return "", err
	}
	resolved, err = filepath.EvalSymlinks(resolved)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no such folder: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("open the folder: %w", err)
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", errors.New("it is a file: name a folder")
	}
	return resolved, nil
}

func cleanPrefixes(only []string) ([]string, error) {
	var prefixes []string
	for _, prefix := range only {
		clean := path.Clean(filepath.ToSlash(prefix))
		if !filepath.IsLocal(prefix) {
			return nil, fmt.Errorf("path %q leads out of the folder", prefix)
		}
		if clean == "." {
			return nil, nil
		}
		prefixes = append(prefixes, clean)
	}
	return prefixes, nil
}

// below says that name is prefix or lies below it.
func below(name, prefix string) bool {
	return name == prefix || strings.HasPrefix(name, prefix+"/")
}

// withinLimit adds up the files, and names the largest when they are too much.
func withinLimit(entries []entry, limit int64) (int64, error) {
	var total int64
	for _, e := range entries {
		total += e.size
	}
	if total <= limit {
		return total, nil
	}
	largest := slices.SortedFunc(slices.Values(entries), func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.path, b.path))
	})
	var names []string
	for _, e := range largest[:min(5, len(largest))] {
		names = append(names, fmt.Sprintf("%s (%s)", e.path, formatBytes(e.size)))
	}
	return 0, fmt.Errorf("%d files hold %s, more than the limit of %s; the largest are %s: list what Flux does not need in .gitignore, name a smaller folder, or raise the limit",
		len(entries), formatBytes(total), formatBytes(limit), strings.Join(names, ", "))
}

func formatBytes(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// importInto writes the tree as a commit, and the extra files as one on top.
func (t *tree) importInto(ctx context.Context, bare, message string, extra map[string][]byte) ([]string, *importer, error) {
	imp, err := startImport(ctx, bare)
	if err != nil {
		return nil, nil, err
	}
	imp.commit(message, "")
	for _, e := range t.entries {
		if err := t.add(ctx, imp, e); err != nil {
			imp.abandon()
			return nil, nil, err
		}
	}
	if len(extra) > 0 {
		imp.commit("files that the platform needs beside its own", ":1")
		for _, name := range slices.Sorted(maps.Keys(extra)) {
			if err := checkPath(name); err != nil {
				imp.abandon()
				return nil, nil, err
			}
			if err := imp.file(modeRegular, name, int64(len(extra[name])), strings.NewReader(string(extra[name]))); err != nil {
				imp.abandon()
				return nil, nil, fmt.Errorf("add %q: %w", name, err)
			}
		}
	}
	commits, err := imp.finish()
	return commits, imp, err
}

// checkPath refuses a path that a tree of git cannot hold.
func checkPath(name string) error {
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || !filepath.IsLocal(name) || strings.Contains(name, "\x00") {
		return fmt.Errorf("%q is not a path inside a repository: write it relative to the root, with slashes", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") {
			return fmt.Errorf("%q leads into a .git folder, which a repository cannot hold", name)
		}
	}
	return nil
}
