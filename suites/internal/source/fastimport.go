package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Modes of a tree entry, as git writes them.
const (
	modeRegular    = "100644"
	modeExecutable = "100755"
	modeSymlink    = "120000"
	modeSubmodule  = "160000"
)

// signature stands as author and committer on every commit. The date is fixed,
// so that one tree always gives one commit.
const signature = "Flux Platform Conformance <flux-platform-conformance@localhost> 946684800 +0000"

// importer writes commits with git fast-import, which takes bytes, names and
// modes as they are given: no filter, no end-of-line conversion, no index.
type importer struct {
	bare   string
	ref    string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Writer
	stdout *bytes.Buffer
	stderr *bytes.Buffer
	marks  int
	failed error
}

// startImport starts the process. finish or abandon ends it.
func startImport(ctx context.Context, bare string) (*importer, error) {
	git, err := findGit(ctx)
	if err != nil {
		return nil, err
	}
	args := append(gitSettings(), "-c", "fastimport.unpackLimit=0", "--git-dir="+bare,
		"fast-import", "--quiet", "--done", "--date-format=raw")
	cmd := exec.CommandContext(ctx, git, args...)
	cmd.Env = gitEnviron()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start git fast-import: %w", err)
	}
	i := &importer{
		bare: bare, ref: passingRefs + "/" + rand.Text(), cmd: cmd, in: in,
		out: bufio.NewWriterSize(in, 1<<16), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{},
	}
	cmd.Stdout, cmd.Stderr = i.stdout, i.stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start git fast-import: %w", err)
	}
	return i, nil
}

func (i *importer) printf(format string, args ...any) {
	if i.failed == nil {
		_, i.failed = fmt.Fprintf(i.out, format, args...)
	}
}

// commit begins a commit on top of parent; an empty parent begins a history.
// Within one import the commit before is named «:N», with N from 1.
func (i *importer) commit(message, parent string) {
	i.marks++
	i.printf("commit %s\nmark :%d\nauthor %s\ncommitter %s\ndata %d\n%s\n",
		i.ref, i.marks, signature, signature, len(message), message)
	if parent != "" {
		i.printf("from %s\n", parent)
	}
}

// file adds a file or a symbolic link (whose content is its target) and copies
// exactly size bytes; another length is an error.
func (i *importer) file(mode, path string, size int64, content io.Reader) error {
	i.printf("M %s inline %s\ndata %d\n", mode, quotePath(path), size)
	if i.failed != nil {
		return i.failure()
	}
	copied, err := io.Copy(i.out, io.LimitReader(content, size))
	if err != nil {
		if _, i.failed = i.out.Write(nil); i.failed != nil { // it was the writing that failed
			return i.failure()
		}
		return err
	}
	var more [1]byte
	if n, _ := io.ReadFull(content, more[:]); copied != size || n > 0 {
		return errors.New("its length changed while it was read: run again when nothing writes to it")
	}
	i.printf("\n")
	return nil
}

// object adds an entry for an object that the repository has, or a submodule.
func (i *importer) object(mode, path, object string) {
	i.printf("M %s %s %s\n", mode, object, quotePath(path))
}

// remove removes a file, or a folder and all it holds.
func (i *importer) remove(path string) {
	i.printf("D %s\n", quotePath(path))
}

// finish ends the import and returns the commits in the order they were begun.
// The last one is held by i.ref.
func (i *importer) finish() ([]string, error) {
	for mark := 1; mark <= i.marks; mark++ {
		i.printf("get-mark :%d\n", mark)
	}
	i.printf("done\n")
	if i.failed == nil {
		i.failed = i.out.Flush()
	}
	if i.failed != nil {
		return nil, i.failure()
	}
	i.in.Close()
	if err := i.cmd.Wait(); err != nil {
		return nil, &gitError{args: []string{"fast-import"}, stderr: importReason(i.stderr.String()), err: err}
	}
	commits := strings.Fields(i.stdout.String())
	if len(commits) != i.marks {
		return nil, fmt.Errorf("git fast-import named %d commits where %d were made: %q", len(commits), i.marks, i.stdout)
	}
	return commits, nil
}

// abandon ends the process and leaves no commit behind.
func (i *importer) abandon() {
	_ = i.cmd.Process.Kill()
	i.in.Close()
	_ = i.cmd.Wait()
}

// failure ends the process after a write to it failed, and says why it went.
func (i *importer) failure() error {
	i.in.Close()
	if err := i.cmd.Wait(); err != nil {
		return &gitError{args: []string{"fast-import"}, stderr: importReason(i.stderr.String()), err: err}
	}
	return fmt.Errorf("write to git fast-import: %w", i.failed)
}

// importReason keeps the first «fatal:» line of what fast-import printed; the
// crash report after it is long and says nothing more.
func importReason(stderr string) string {
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "fatal:") {
			return strings.TrimSpace(line)
		}
	}
	return strings.TrimSpace(stderr)
}

// quotePath writes a path as fast-import reads it, in C style.
func quotePath(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(path) + `"`
}

// move sets branches and tags to the commit in one transaction and drops the
// passing reference. Where old is given, the first branch must still be there.
func (i *importer) move(ctx context.Context, commit string, branches, tags []string, old string) error {
	return moveRefs(ctx, i.bare, commit, branches, tags, old, i.ref)
}

func moveRefs(ctx context.Context, bare, commit string, branches, tags []string, old, passing string) error {
	var transaction strings.Builder
	transaction.WriteString("start\n")
	write := func(prefix string, names []string, old string) error {
		for _, name := range names {
			if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
				return fmt.Errorf("%q is not a name for a branch or tag", name)
			}
			fmt.Fprintf(&transaction, "update %s%s %s", prefix, name, commit)
			if old != "" {
				fmt.Fprintf(&transaction, " %s", old)
				old = ""
			}
			transaction.WriteString("\n")
		}
		return nil
	}
	if err := errors.Join(write("refs/heads/", branches, old), write("refs/tags/", tags, "")); err != nil {
		return err
	}
	if passing != "" {
		fmt.Fprintf(&transaction, "delete %s\n", passing)
	}
	transaction.WriteString("prepare\ncommit\n")
	cmd := gitCommand{bare: bare, args: []string{"update-ref", "--stdin"}, stdin: strings.NewReader(transaction.String())}
	if _, err := cmd.run(ctx); err != nil {
		return fmt.Errorf("move %s of %s to %s: %w", strings.Join(append(branches[:len(branches):len(branches)], tags...), ", "), bare, commit, err)
	}
	return nil
}
