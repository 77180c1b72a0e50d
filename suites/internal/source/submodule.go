package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// Submodule is a place in a snapshot where another repository belongs.
type Submodule struct {
	// Path is where, from the root of the snapshot.
	Path string `json:"path"`
	// URL is what .gitmodules names for it, unchanged; empty when it names none.
	URL string `json:"url,omitempty"`
	// Commit is what the submodule has checked out, or what is recorded where it
	// is not initialised.
	Commit string `json:"commit"`
	// Dir is its folder on this machine when it is initialised, else empty.
	Dir string `json:"-"`
}

// takeSubmodule keeps a submodule as the reference that it is: to the commit
// that is checked out, as «git add» would.
func (t *tree) takeSubmodule(ctx context.Context, name, recorded string) error {
	sub := Submodule{Path: name, Commit: recorded}
	_, err := t.root.Lstat(filepath.Join(filepath.FromSlash(name), ".git"))
	switch {
	case err == nil:
		dir := filepath.Join(t.dir, filepath.FromSlash(name))
		head, err := gitCommand{dir: dir, args: []string{"rev-parse", "--verify", "HEAD^{commit}"}}.run(ctx)
		if err != nil {
			return fmt.Errorf("read the submodule %q: %w", name, err)
		}
		sub.Commit, sub.Dir = strings.TrimSpace(string(head)), dir
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the submodule %q: %w", name, err)
	}
	t.submodules = append(t.submodules, sub)
	t.entries = append(t.entries, entry{path: name, mode: modeSubmodule, object: sub.Commit})
	return nil
}

// findSubmodules completes the submodules with what .gitmodules says of them.
func (t *tree) findSubmodules(ctx context.Context) error {
	if len(t.submodules) == 0 {
		return nil
	}
	if _, err := t.root.Lstat(".gitmodules"); err != nil {
		return nil // re-rooted below it, or left out
	}
	output, err := t.run(ctx, "config", "-z", "--file", ".gitmodules", "--get-regexp", `^submodule\..*\.(path|url)$`)
	if err != nil {
		return fmt.Errorf("read .gitmodules: %w", err)
	}
	paths, urls := map[string]string{}, map[string]string{}
	for record := range bytes.SplitSeq(output, []byte{0}) {
		key, value, _ := strings.Cut(string(record), "\n")
		if name, ok := strings.CutSuffix(key, ".path"); ok {
			paths[value] = name
		} else if name, ok := strings.CutSuffix(key, ".url"); ok {
			urls[name] = value
		}
	}
	for i, sub := range t.submodules {
		t.submodules[i].URL = urls[paths[sub.Path]]
	}
	return nil
}

// Mirror copies one commit of a repository on this machine, with what it needs,
// into a bare repository, and lets the branch name it. The commit keeps its
// name; so a bare repository that answers for a submodule's URL serves what the
// reference points to. An empty commit means HEAD.
func Mirror(ctx context.Context, dir, into, branch, commit string) (Revision, error) {
	from := gitCommand{dir: dir, args: []string{"rev-parse", "--absolute-git-dir"}}
	location, err := from.run(ctx)
	if err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	if commit == "" {
		commit = "HEAD"
	}
	resolved, err := gitCommand{dir: dir, args: []string{"rev-parse", "--verify", commit + "^{commit}"}}.run(ctx)
	if err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	commit = strings.TrimSpace(string(resolved))
	if into, err = filepath.Abs(into); err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	if err := openBare(ctx, into, branch); err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	// The sending side may not be told to allow any commit, so the objects are
	// packed there and unpacked here.
	pack, err := gitCommand{dir: dir, stdin: strings.NewReader(commit + "\n"), args: []string{
		"--git-dir=" + strings.TrimSpace(string(location)), "pack-objects", "--revs", "--stdout", "--quiet",
	}}.run(ctx)
	if err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	if _, err := (gitCommand{bare: into, stdin: bytes.NewReader(pack), args: []string{"index-pack", "--stdin"}}).run(ctx); err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	if err := moveRefs(ctx, into, commit, []string{branch}, nil, "", ""); err != nil {
		return Revision{}, fmt.Errorf("mirror %s: %w", dir, err)
	}
	return Revision{Commit: commit, Branch: branch, Base: commit}, nil
}
