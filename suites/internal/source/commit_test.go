package source

import (
	"io/fs"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
)

// snapshotOf makes a bare repository of these files.
func snapshotOf(t *testing.T, files map[string]string, o SnapshotOptions) (bare string, revision Revision) {
	t.Helper()
	o.Dir = t.TempDir()
	write(t, o.Dir, files)
	o.Into = filepath.Join(t.TempDir(), "bare.git")
	revision, err := Snapshot(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return o.Into, revision
}

func TestCommitAndReset(t *testing.T) {
	g := NewWithT(t)
	bare, first := snapshotOf(t, map[string]string{
		"kept.yaml": "kept\n", "changed.yaml": "before\n", "gone.yaml": "gone\n", "folder/a": "a\n", "folder/b": "b\n", "run.sh": "one\n",
	}, SnapshotOptions{Tags: []string{"v1", "v2"}})
	script, err := Commit(t.Context(), bare, "main", Change{Files: map[string]*File{"run.sh": {Content: []byte("one\n"), Mode: 0o755}}})
	g.Expect(err).NotTo(HaveOccurred())

	second, err := Commit(t.Context(), bare, "main", Change{Message: "overlay", Tags: []string{"v1"}, Files: map[string]*File{
		"changed.yaml":   {Content: []byte("after\r\n")},
		"new/deep.yaml":  {Content: []byte("new\n")},
		"gone.yaml":      nil,
		"folder":         nil,
		"run.sh":         {Content: []byte("two\n")},
		"link":           {Content: []byte("../../etc/passwd"), Mode: fs.ModeSymlink},
		"odd \"name\"\n": {Content: nil},
	}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(contents(t, bare, "main")).To(Equal(map[string]string{
		"100644 kept.yaml": "kept\n", "100644 changed.yaml": "after\r\n", "100644 new/deep.yaml": "new\n", "100755 run.sh": "two\n",
		"120000 link": "../../etc/passwd", "100644 odd \"name\"\n": "",
	}))
	g.Expect(resolveCommit(t.Context(), bare, "main~1")).To(Equal(script.Commit))
	g.Expect(resolveCommit(t.Context(), bare, "v1")).To(Equal(second.Commit))
	g.Expect(resolveCommit(t.Context(), bare, "v2")).To(Equal(first.Commit), "a tag that was not named stays")

	back, err := Reset(t.Context(), bare, "main", first.Commit, "v1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(back).To(Equal(Revision{Commit: first.Commit, Branch: "main"}))
	for _, ref := range []string{"main", "v1", "HEAD"} {
		g.Expect(resolveCommit(t.Context(), bare, ref)).To(Equal(first.Commit), ref)
	}

	entries, err := List(t.Context(), bare, "main", "folder")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(entries).To(HaveLen(2))
	g.Expect(entries[0].Path).To(Equal("folder/a"))
	g.Expect(entries[0].Mode).To(Equal(fs.FileMode(0o644)))
	_, err = ReadFile(t.Context(), bare, "main", "missing.yaml")
	g.Expect(err).To(MatchError(fs.ErrNotExist))
}

func TestCommitRefusals(t *testing.T) {
	bare, first := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	for name, c := range map[string]struct {
		branch string
		change Change
		want   string
	}{
		"nothing":       {"main", Change{}, "the change names no file"},
		"no branch":     {"other", Change{Files: map[string]*File{"a.yaml": nil}}, "look up refs/heads/other"},
		"not there":     {"main", Change{Files: map[string]*File{"b.yaml": nil}}, `remove "b.yaml": the branch has no such file or folder`},
		"outside":       {"main", Change{Files: map[string]*File{"../b.yaml": {}}}, "is not a path inside a repository"},
		"absolute":      {"main", Change{Files: map[string]*File{"/b.yaml": {}}}, "is not a path inside a repository"},
		"into .git":     {"main", Change{Files: map[string]*File{"x/.git/config": {}}}, "a repository cannot hold"},
		"a bad tag":     {"main", Change{Files: map[string]*File{"b": {}}, Tags: []string{"a..b"}}, "refs/tags/a..b"},
		"a spaced tag":  {"main", Change{Files: map[string]*File{"b": {}}, Tags: []string{"a\ndelete refs/heads/main"}}, "is not a name for a branch or tag"},
		"an option tag": {"--all", Change{Files: map[string]*File{"b": {}}}, "look up refs/heads/--all"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := Commit(t.Context(), bare, c.branch, c.change)
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
			g.Expect(resolveCommit(t.Context(), bare, "main")).To(Equal(first.Commit), "nothing moved")
		})
	}
}

// A branch that somebody else moved in the meantime is not overwritten.
func TestMoveComparesAndSwaps(t *testing.T) {
	g := NewWithT(t)
	bare, first := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{Tags: []string{"v1"}})
	second, err := Commit(t.Context(), bare, "main", Change{Files: map[string]*File{"b.yaml": {}}})
	g.Expect(err).NotTo(HaveOccurred())
	err = moveRefs(t.Context(), bare, first.Commit, []string{"main"}, []string{"v1"}, first.Commit, "")
	g.Expect(err).To(MatchError(ContainSubstring("but expected " + first.Commit)))
	g.Expect(resolveCommit(t.Context(), bare, "main")).To(Equal(second.Commit))
}

func TestMirror(t *testing.T) {
	g := NewWithT(t)
	dir := newRepository(t, map[string]string{"a.yaml": "a\n"})
	first := command(t, dir, "rev-parse", "HEAD")
	write(t, dir, map[string]string{"a.yaml": "b\n"})
	command(t, dir, "commit", "--quiet", "--all", "--message=second")
	before := fingerprint(t, dir)
	into := filepath.Join(t.TempDir(), "mirror.git")
	revision, err := Mirror(t.Context(), dir, into, "main", first)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revision.Commit).To(Equal(first), "the commit keeps its name")
	g.Expect(ReadFile(t.Context(), into, "main", "a.yaml")).To(BeEquivalentTo("a\n"))
	g.Expect(fingerprint(t, dir)).To(Equal(before))
	_, err = Mirror(t.Context(), dir, into, "main", "missing")
	g.Expect(err).To(MatchError(ContainSubstring("mirror " + dir)))
}
