package source

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// fingerprint is every file below a folder with its mode, time and content.
func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		value := fmt.Sprintf("%s %s", info.Mode(), info.ModTime())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			value += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		found[path] = value
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// contents lists a revision as «mode path» → content.
func contents(t *testing.T, bare, revision string) map[string]string {
	t.Helper()
	g := NewWithT(t)
	entries, err := List(t.Context(), bare, revision, "")
	g.Expect(err).NotTo(HaveOccurred())
	found := map[string]string{}
	for _, e := range entries {
		content := e.Object
		if e.mode != modeSubmodule {
			bytes, err := ReadFile(t.Context(), bare, revision, e.Path)
			g.Expect(err).NotTo(HaveOccurred())
			content = string(bytes)
		}
		found[e.mode+" "+e.Path] = content
	}
	return found
}

func TestSnapshotOfWorkingTree(t *testing.T) {
	g := NewWithT(t)
	library := newRepository(t, map[string]string{"library.yaml": "kind: Library\n"})
	libraryHead := command(t, library, "rev-parse", "HEAD")
	dir := newRepository(t, map[string]string{
		".gitignore":        "*.ignored\n",
		".gitattributes":    "* text=auto eol=lf\n*.upper filter=upper\n",
		"kept.yaml":         "kept: true\n",
		"changed.yaml":      "before\n",
		"deleted.yaml":      "gone\n",
		"crlf.yaml":         "a: 1\r\nb: 2\r\n",
		"tracked.ignored":   "tracked all the same\n",
		"run.sh":            "#!/bin/sh\n",
		"plain.sh":          "#!/bin/sh\n",
		"folder/below.yaml": "moved behind a link\n",
		"was/a-file":        "becomes a folder\n",
		"attribute.upper":   "lower\n",
		"umlaut/äöü.yaml":   "präzise\n",
	})
	command(t, dir, "add", "--force", "tracked.ignored")
	command(t, dir, "config", "filter.upper.clean", "tr a-z A-Z")
	command(t, dir, "config", "core.autocrlf", "true")
	command(t, dir, "submodule", "--quiet", "add", library, "libraries/used")
	command(t, dir, "submodule", "--quiet", "add", library, "libraries/unused")
	command(t, dir, "commit", "--quiet", "--message=submodules")
	command(t, dir, "submodule", "--quiet", "deinit", "--force", "libraries/unused")

	write(t, dir, map[string]string{
		"changed.yaml":           "after\r\n",
		"untracked.yaml":         "new: true\n",
		"secret.ignored":         "never\n",
		"excluded.by-info":       "never\n",
		"staged.yaml":            "staged\n",
		"new\nline \"quoted\".y": "odd\n",
		"back\\slash\ttab.yaml":  "odd\n",
		"empty.yaml":             "",
		".git/info/exclude":      "*.by-info\n",
		"nested/inner.yaml":      "another repository\n",
	})
	command(t, dir, "add", "staged.yaml")
	command(t, filepath.Join(dir, "nested"), "init", "--quiet")
	g.Expect(os.Remove(filepath.Join(dir, "deleted.yaml"))).To(Succeed())
	g.Expect(os.Chmod(filepath.Join(dir, "run.sh"), 0o755)).To(Succeed())
	outside := t.TempDir()
	write(t, outside, map[string]string{"below.yaml": "outside\n", "private": "outside\n"})
	g.Expect(os.RemoveAll(filepath.Join(dir, "folder"))).To(Succeed())
	g.Expect(os.Symlink(outside, filepath.Join(dir, "folder"))).To(Succeed())
	g.Expect(os.Symlink(filepath.Join(outside, "private"), filepath.Join(dir, "leads-out"))).To(Succeed())
	g.Expect(os.Symlink("nowhere", filepath.Join(dir, "dangling"))).To(Succeed())
	g.Expect(os.RemoveAll(filepath.Join(dir, "was"))).To(Succeed())
	write(t, dir, map[string]string{"was/a-file/deeper": "now a folder\n"})

	// The user's own configuration, which must not count.
	home := t.TempDir()
	write(t, home, map[string]string{
		".gitconfig":         "[core]\n\tautocrlf = true\n\texcludesFile = " + filepath.Join(home, "ignore") + "\n",
		"ignore":             "untracked.yaml\n",
		".config/git/ignore": "untracked.yaml\n",
	})
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	t.Setenv("GIT_DIR", outside)
	t.Setenv("GIT_INDEX_FILE", filepath.Join(outside, "index"))

	before := fingerprint(t, dir)
	bare := filepath.Join(t.TempDir(), "bare.git")
	revision, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: bare, Branches: []string{"main", "release/1"}, Tags: []string{"v1.0.0"}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(fingerprint(t, dir)).To(Equal(before), "the user's folder, repository and index are as they were")

	files := contents(t, bare, revision.Commit)
	g.Expect(files).To(HaveKey("100644 .gitmodules"))
	delete(files, "100644 .gitmodules")
	g.Expect(files).To(Equal(map[string]string{
		"100644 .gitignore":             "*.ignored\n",
		"100644 .gitattributes":         "* text=auto eol=lf\n*.upper filter=upper\n",
		"100644 kept.yaml":              "kept: true\n",
		"100644 changed.yaml":           "after\r\n",
		"100644 crlf.yaml":              "a: 1\r\nb: 2\r\n",
		"100644 tracked.ignored":        "tracked all the same\n",
		"100755 run.sh":                 "#!/bin/sh\n",
		"100644 plain.sh":               "#!/bin/sh\n",
		"100644 attribute.upper":        "lower\n",
		"100644 umlaut/äöü.yaml":        "präzise\n",
		"100644 untracked.yaml":         "new: true\n",
		"100644 staged.yaml":            "staged\n",
		"100644 new\nline \"quoted\".y": "odd\n",
		"100644 back\\slash\ttab.yaml":  "odd\n",
		"100644 empty.yaml":             "",
		"100644 was/a-file/deeper":      "now a folder\n",
		"120000 folder":                 outside,
		"120000 leads-out":              filepath.Join(outside, "private"),
		"120000 dangling":               "nowhere",
		"160000 libraries/used":         libraryHead,
		"160000 libraries/unused":       libraryHead,
	}))
	g.Expect(revision.Dirty).To(BeTrue())
	g.Expect(revision.Base).To(HaveLen(40))
	g.Expect(revision.Branch).To(Equal("main"))
	g.Expect(revision.Skipped).To(Equal([]string{"nested/"}))
	g.Expect(revision.Submodules).To(Equal([]Submodule{
		{Path: "libraries/unused", URL: library, Commit: libraryHead},
		{Path: "libraries/used", URL: library, Commit: libraryHead, Dir: filepath.Join(resolved(t, dir), "libraries", "used")},
	}))
	for _, ref := range []string{"refs/heads/main", "refs/heads/release/1", "refs/tags/v1.0.0", "HEAD"} {
		g.Expect(resolveCommit(t.Context(), bare, ref)).To(Equal(revision.Commit), ref)
	}
	refs, err := inBare(t.Context(), bare, "for-each-ref", "--format=%(refname)")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(strings.Fields(string(refs))).To(ConsistOf("refs/heads/main", "refs/heads/release/1", "refs/tags/v1.0.0"))
	_, err = inBare(t.Context(), bare, "fsck", "--strict")
	g.Expect(err).NotTo(HaveOccurred())

	again, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: filepath.Join(t.TempDir(), "again.git")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again.Commit).To(Equal(revision.Commit), "one tree gives one commit")

	t.Run("laid out again", func(t *testing.T) {
		g := NewWithT(t)
		out := filepath.Join(t.TempDir(), "out")
		g.Expect(Export(t.Context(), bare, "main", out)).To(Succeed())
		second, err := Snapshot(t.Context(), SnapshotOptions{Dir: out, Into: filepath.Join(t.TempDir(), "second.git")})
		g.Expect(err).NotTo(HaveOccurred())
		exported := contents(t, bare, "main")
		for key := range exported {
			if strings.HasPrefix(key, modeSubmodule) {
				delete(exported, key)
			}
		}
		g.Expect(os.ReadFile(filepath.Join(out, "crlf.yaml"))).To(BeEquivalentTo("a: 1\r\nb: 2\r\n"))
		g.Expect(os.Readlink(filepath.Join(out, "dangling"))).To(Equal("nowhere"))
		info, err := os.Stat(filepath.Join(out, "run.sh"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Mode().Perm() & 0o100).NotTo(BeZero())
		g.Expect(second.Files).To(Equal(len(exported)))
		g.Expect(Export(t.Context(), bare, "main", out)).To(MatchError(ContainSubstring("is not empty: name another folder")))
	})
}

func resolved(t *testing.T, dir string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

func TestSnapshotCleanAndDirty(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"a/b.yaml": "one\n", "c.yaml": "two\n"})
	into := filepath.Join(t.TempDir(), "bare.git")
	take := func(o SnapshotOptions) Revision {
		o.Dir, o.Into = dir, into
		revision, err := Snapshot(t.Context(), o)
		g.Expect(err).NotTo(HaveOccurred())
		return revision
	}
	clean := take(SnapshotOptions{})
	g.Expect(clean.Dirty).To(BeFalse())
	g.Expect(clean.Base).To(Equal(command(t, dir, "rev-parse", "HEAD")))
	g.Expect(clean.Files).To(Equal(2))
	g.Expect(clean.Bytes).To(BeEquivalentTo(8))

	write(t, dir, map[string]string{"c.yaml": "three\n"})
	g.Expect(take(SnapshotOptions{}).Dirty).To(BeTrue())
	sub := take(SnapshotOptions{Subdir: "a"})
	g.Expect(sub.Dirty).To(BeFalse(), "the change is outside the folder")
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{"100644 b.yaml": "one\n"}))

	extra := take(SnapshotOptions{Subdir: "a", Branches: []string{"trunk"}, Extra: map[string][]byte{
		"clusters/dev/flux-system/gotk-sync.yaml": []byte("sync\n"),
	}})
	g.Expect(extra.Dirty).To(BeFalse(), "what is added on top is not the user's")
	g.Expect(resolveCommit(t.Context(), into, "trunk~1")).To(Equal(sub.Commit))
	g.Expect(ReadFile(t.Context(), into, "HEAD", "clusters/dev/flux-system/gotk-sync.yaml")).To(BeEquivalentTo("sync\n"))
}

func TestSnapshotWithoutRepository(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"config/crds/a.yaml": "a\n", "config/crds/deep/b.yaml": "b\n", "config/other.yaml": "o\n", "main.go": "package main\n",
		".gitignore": "*.yaml\n", "sub/.git/config": "not served\n", "sub/kept": "kept\n",
	})
	g.Expect(os.Symlink("main.go", filepath.Join(dir, "link"))).To(Succeed())
	into := filepath.Join(t.TempDir(), "bare.git")

	revision, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revision.Base).To(BeEmpty())
	g.Expect(revision.Dirty).To(BeFalse())
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{
		"100644 config/crds/a.yaml": "a\n", "100644 config/crds/deep/b.yaml": "b\n", "100644 config/other.yaml": "o\n",
		"100644 main.go": "package main\n", "100644 .gitignore": "*.yaml\n", "100644 sub/kept": "kept\n", "120000 link": "main.go",
	}))

	_, err = Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into, Only: []string{"config/crds", "main.go"}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{
		"100644 config/crds/a.yaml": "a\n", "100644 config/crds/deep/b.yaml": "b\n", "100644 main.go": "package main\n",
	}))

	_, err = Snapshot(t.Context(), SnapshotOptions{Dir: dir, Subdir: "config", Into: into, Only: []string{"crds"}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{
		"100644 crds/a.yaml": "a\n", "100644 crds/deep/b.yaml": "b\n",
	}))
}

func TestSnapshotOfIgnoredFolder(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{".gitignore": "cache/\n"})
	write(t, dir, map[string]string{"cache/module/crd.yaml": "crd\n"})
	into := filepath.Join(t.TempDir(), "bare.git")
	revision, err := Snapshot(t.Context(), SnapshotOptions{Dir: filepath.Join(dir, "cache", "module"), Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revision.Base).To(BeEmpty(), "it is no part of the repository around it")
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{"100644 crd.yaml": "crd\n"}))
}

func TestSnapshotWithoutCommit(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	command(t, dir, "init", "--quiet")
	write(t, dir, map[string]string{"a.yaml": "a\n"})
	into := filepath.Join(t.TempDir(), "bare.git")
	revision, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revision.Dirty).To(BeTrue())
	g.Expect(revision.Base).To(BeEmpty())
}

func TestSnapshotOfSparseCheckout(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"in/a.yaml": "a\n", "out/b.yaml": "b\n"})
	command(t, dir, "sparse-checkout", "set", "in")
	g.Expect(filepath.Join(dir, "out", "b.yaml")).NotTo(BeAnExistingFile())
	into := filepath.Join(t.TempDir(), "bare.git")
	revision, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revision.Dirty).To(BeFalse())
	g.Expect(contents(t, into, "main")).To(HaveKeyWithValue("100644 out/b.yaml", "b\n"))
}

func TestSnapshotRefusals(t *testing.T) {
	dir := newRepository(t, map[string]string{"large.bin": strings.Repeat("x", 3000), "small.yaml": "s\n"})
	file := filepath.Join(dir, "small.yaml")
	empty := t.TempDir()
	broken := t.TempDir()
	write(t, broken, map[string]string{".git": "gitdir: /nowhere/at/all\n", "a.yaml": "a\n"})
	for name, c := range map[string]struct {
		options SnapshotOptions
		want    string
	}{
		"too large":         {SnapshotOptions{Dir: dir, MaxBytes: 2048}, "2 files hold 2.9 KiB, more than the limit of 2.0 KiB; the largest are large.bin (2.9 KiB), small.yaml (2 bytes): list what Flux does not need in .gitignore"},
		"no folder":         {SnapshotOptions{Dir: filepath.Join(dir, "missing")}, "no such folder"},
		"a file":            {SnapshotOptions{Dir: file}, "it is a file: name a folder"},
		"empty":             {SnapshotOptions{Dir: empty}, "it holds no file that is not ignored: there is nothing to serve"},
		"inside .git":       {SnapshotOptions{Dir: filepath.Join(dir, ".git")}, "it is the inside of a Git repository, not a working tree"},
		"broken repository": {SnapshotOptions{Dir: broken}, "read its Git repository"},
		"only nothing":      {SnapshotOptions{Dir: dir, Only: []string{"config/crds"}}, `it holds nothing at "config/crds"`},
		"only outside":      {SnapshotOptions{Dir: dir, Only: []string{"../x"}}, "leads out of the folder"},
		"subfolder outside": {SnapshotOptions{Dir: dir, Subdir: "../x"}, "leads out of the folder"},
		"bad branch":        {SnapshotOptions{Dir: dir, Branches: []string{"main", "a b"}}, `"a b" is not a name for a branch or tag`},
		"bad extra":         {SnapshotOptions{Dir: dir, Extra: map[string][]byte{"../x": nil}}, "is not a path inside a repository"},
		"extra in .git":     {SnapshotOptions{Dir: dir, Extra: map[string][]byte{"a/.Git/x": nil}}, "a repository cannot hold"},
		"nothing asked":     {SnapshotOptions{}, "Dir and Into are required"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			if c.options.Dir != "" {
				c.options.Into = filepath.Join(t.TempDir(), "bare.git")
			}
			_, err := Snapshot(t.Context(), c.options)
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
}

func TestSnapshotNeedsGit(t *testing.T) {
	dir := newRepository(t, map[string]string{"a.yaml": "a\n"})
	for name, c := range map[string]struct{ script, want string }{
		"missing": {"", "install git 2.32 or newer"},
		"too old": {"#!/bin/sh\necho git version 2.25.1\n", "is version 2.25, which cannot leave the user's configuration aside: install git 2.32 or newer"},
		"other":   {"#!/bin/sh\necho hello\n", `it answered "hello": install git 2.32 or newer`},
		"failing": {"#!/bin/sh\nexit 3\n", "exit status 3: install git 2.32 or newer"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			path := t.TempDir()
			if c.script != "" {
				g.Expect(os.WriteFile(filepath.Join(path, "git"), []byte(c.script), 0o755)).To(Succeed()) // a program
			}
			t.Setenv("PATH", path)
			_, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: filepath.Join(t.TempDir(), "bare.git")})
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
}

func TestSnapshotEndsWithItsContext(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"a.yaml": "a\n"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Snapshot(ctx, SnapshotOptions{Dir: dir, Into: filepath.Join(t.TempDir(), "bare.git")})
	g.Expect(err).To(MatchError(context.Canceled))
}

func TestSnapshotNamesWhatItCannotRead(t *testing.T) {
	repository := newRepository(t, map[string]string{"a.yaml": "a\n", "b.yaml": "b\n"})
	folder := filepath.Join(t.TempDir(), "folder")
	write(t, folder, map[string]string{"secret/b.yaml": "b\n"})
	NewWithT(t).Expect(os.Chmod(filepath.Join(repository, "a.yaml"), 0)).To(Succeed())
	NewWithT(t).Expect(os.Chmod(filepath.Join(folder, "secret"), 0)).To(Succeed())
	for name, c := range map[string]struct{ dir, file, want string }{
		"a file":   {repository, `read "a.yaml"`, "permission denied: make it readable, or leave it out with .gitignore"},
		"a folder": {folder, filepath.Join(folder, "secret"), "permission denied: make it readable, or leave it out"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			into := filepath.Join(t.TempDir(), "bare.git")
			g.Expect(openBare(t.Context(), into, "main")).To(Succeed())
			for _, private := range []string{filepath.Dir(filepath.Dir(c.dir)), filepath.Dir(filepath.Dir(into)), into} {
				g.Expect(os.Chmod(private, 0o755)).To(Succeed()) // the tests' own folders, for a moment
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			restore, ok := withoutPrivilege(t)
			if !ok {
				t.Skip("this user reads every file")
			}
			_, err := Snapshot(t.Context(), SnapshotOptions{Dir: c.dir, Into: into})
			restore()
			g.Expect(err).To(MatchError(And(ContainSubstring(c.file), ContainSubstring(c.want))))
		})
	}
}

// git itself only warns of a folder that it cannot open.
func TestSnapshotNamesUnreadableFolderOfWorkingTree(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads every folder")
	}
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"a.yaml": "a\n"})
	write(t, dir, map[string]string{"secret/b.yaml": "b\n"})
	secret := filepath.Join(dir, "secret")
	g.Expect(os.Chmod(secret, 0)).To(Succeed())
	t.Cleanup(func() { _ = os.Chmod(secret, 0o700) }) // so that it can be removed
	_, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: filepath.Join(t.TempDir(), "bare.git")})
	g.Expect(err).To(MatchError(ContainSubstring("could not open directory 'secret/'")))
}

// A container's volume often belongs to somebody else, and a platform engineer
// may work in a second working tree of the same repository.
func TestSnapshotOfUnusualWorkingTrees(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"a.yaml": "a\n"})
	second := filepath.Join(t.TempDir(), "second")
	command(t, dir, "worktree", "add", "--quiet", "-b", "other", second)
	write(t, second, map[string]string{"b.yaml": "b\n"})
	into := filepath.Join(t.TempDir(), "bare.git")
	_, err := Snapshot(t.Context(), SnapshotOptions{Dir: second, Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{"100644 a.yaml": "a\n", "100644 b.yaml": "b\n"}))

	// The file system of some machines keeps no modes and no links.
	write(t, dir, map[string]string{"run.sh": "#!/bin/sh\n", "link": "a.yaml"})
	command(t, dir, "update-index", "--add", "--chmod=+x", "run.sh")
	object := command(t, dir, "hash-object", "-w", "link")
	command(t, dir, "update-index", "--add", "--cacheinfo", modeSymlink+","+object+",link")
	command(t, dir, "config", "core.fileMode", "false")
	command(t, dir, "config", "core.symlinks", "false")
	_, err = Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(contents(t, into, "main")).To(Equal(map[string]string{"100644 a.yaml": "a\n", "100755 run.sh": "#!/bin/sh\n", "120000 link": "a.yaml"}))

	if os.Geteuid() == 0 {
		g.Expect(os.Chown(dir, 65534, 65534)).To(Succeed())
		_, err = Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into})
		g.Expect(err).NotTo(HaveOccurred(), "of another owner")
	}
}

// A path in conflict stands three times in the index, and once on disk.
func TestSnapshotInTheMiddleOfAMerge(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"a.yaml": "base\n"})
	command(t, dir, "switch", "--quiet", "--create", "theirs")
	write(t, dir, map[string]string{"a.yaml": "theirs\n"})
	command(t, dir, "commit", "--quiet", "--all", "--message=theirs")
	command(t, dir, "switch", "--quiet", "main")
	write(t, dir, map[string]string{"a.yaml": "ours\n"})
	command(t, dir, "commit", "--quiet", "--all", "--message=ours")
	merge := exec.CommandContext(t.Context(), "git", "-c", "user.name=A", "-c", "user.email=a@example.com", "merge", "theirs")
	merge.Dir, merge.Env = dir, gitEnviron()
	g.Expect(merge.Run()).NotTo(Succeed(), "it conflicts")
	into := filepath.Join(t.TempDir(), "bare.git")
	_, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: into})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(contents(t, into, "main")["100644 a.yaml"]).To(ContainSubstring("<<<<<<< HEAD\nours\n"))
}
