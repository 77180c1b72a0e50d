package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// minimumGit is the first release that lets a process switch the user's and the
// system's configuration off (GIT_CONFIG_GLOBAL).
var minimumGit = [2]int{2, 32}

// checkedGit remembers the executables whose version was found good.
var checkedGit sync.Map

// findGit returns the path of a git executable that is new enough.
func findGit(ctx context.Context) (string, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return "", fmt.Errorf("look for git in PATH: %w: install git %d.%d or newer", err, minimumGit[0], minimumGit[1])
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("look for git in PATH: %w", err)
	}
	if _, ok := checkedGit.Load(path); ok {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.Env = gitEnviron()
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: install git %d.%d or newer", path, err, minimumGit[0], minimumGit[1])
	}
	major, minor, ok := gitVersion(string(output))
	if !ok {
		return "", fmt.Errorf("ask %s for its version: it answered %q: install git %d.%d or newer",
			path, strings.TrimSpace(string(output)), minimumGit[0], minimumGit[1])
	}
	if major < minimumGit[0] || major == minimumGit[0] && minor < minimumGit[1] {
		return "", fmt.Errorf("%s is version %d.%d, which cannot leave the user's configuration aside: install git %d.%d or newer",
			path, major, minor, minimumGit[0], minimumGit[1])
	}
	checkedGit.Store(path, true)
	return path, nil
}

// gitVersion reads «git version 2.39.5 (Apple Git-154)».
func gitVersion(output string) (major, minor int, ok bool) {
	fields := strings.Fields(output)
	if len(fields) < 3 || fields[0] != "git" || fields[1] != "version" {
		return 0, 0, false
	}
	parts := strings.SplitN(fields[2], ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.Atoi(parts[1])
	return major, minor, err == nil
}

// gitEnviron is the environment of every git process: this process's own, but
// for what steers git, so that neither the user's nor the machine's
// configuration decides what is served.
func gitEnviron(extra ...string) []string {
	var environ []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "GIT_") && !strings.HasPrefix(entry, "LC_ALL=") {
			environ = append(environ, entry)
		}
	}
	environ = append(environ,
		"GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_OPTIONAL_LOCKS=0",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_NO_REPLACE_OBJECTS=1",
		"LC_ALL=C",
	)
	return append(environ, extra...)
}

// gitSettings stand on every command line. They keep a repository's own
// configuration from running programs, let a folder of another owner be read,
// and leave the user's global excludes (which have a default place that no
// variable switches off) aside.
func gitSettings() []string {
	return []string{
		"-c", "safe.directory=*",
		"-c", "core.hooksPath=" + os.DevNull,
		"-c", "core.excludesFile=" + os.DevNull,
		"-c", "core.fsmonitor=false",
		"-c", "core.quotePath=false",
		"-c", "core.fsync=none",
		"-c", "gc.auto=0",
		"-c", "maintenance.auto=false",
		"-c", "protocol.version=2",
	}
}

// gitError is a git command that failed.
type gitError struct {
	args   []string
	stderr string
	err    error
}

func (e *gitError) Error() string {
	text := "git " + strings.Join(e.args, " ") + ": " + e.err.Error()
	if e.stderr != "" {
		text += ": " + e.stderr
	}
	return text
}

func (e *gitError) Unwrap() error { return e.err }

// gitCommand is one git process.
type gitCommand struct {
	dir   string    // working directory
	bare  string    // bare repository; empty: found from dir
	stdin io.Reader // nil: empty
	args  []string

	// warned, if set, gets what a command that succeeded said on standard error.
	warned *string
}

// run runs the command and returns its standard output.
func (c gitCommand) run(ctx context.Context) ([]byte, error) {
	git, err := findGit(ctx)
	if err != nil {
		return nil, err
	}
	args := gitSettings()
	if c.bare != "" {
		args = append(args, "--git-dir="+c.bare)
	}
	cmd := exec.CommandContext(ctx, git, append(args, c.args...)...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.dir, gitEnviron(), c.stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return nil, &gitError{args: c.args, stderr: strings.TrimSpace(stderr.String()), err: err}
	}
	if c.warned != nil {
		*c.warned = strings.TrimSpace(stderr.String())
	}
	return stdout.Bytes(), nil
}

// inBare runs one git command on a bare repository.
func inBare(ctx context.Context, bare string, args ...string) ([]byte, error) {
	return gitCommand{bare: bare, args: args}.run(ctx)
}

// bareConfig is what every repository of ours says of itself: read only, every
// commit may be asked for by name (a submodule's is), and our passing references
// are not shown.
const bareConfig = `[core]
	repositoryformatversion = 0
	bare = true
	filemode = true
	logAllRefUpdates = false
[gc]
	auto = 0
[http]
	receivepack = false
	uploadpack = true
[uploadpack]
	allowAnySHA1InWant = true
	allowFilter = true
[transfer]
	hideRefs = ` + passingRefs + `
`

// passingRefs holds a commit between its making and the moment when all its
// branches and tags move at once.
const passingRefs = "refs/passing"

// openBare makes the bare repository if there is none, and lets HEAD name the
// branch.
func openBare(ctx context.Context, bare, branch string) error {
	if _, err := os.Stat(filepath.Join(bare, "HEAD")); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(bare, 0o700); err != nil {
			return fmt.Errorf("make the repository %s: %w", bare, err)
		}
		cmd := gitCommand{args: []string{"init", "--quiet", "--bare", "--template=", "--initial-branch=" + branch, bare}}
		if _, err := cmd.run(ctx); err != nil {
			return fmt.Errorf("make the repository %s: %w", bare, err)
		}
		if err := os.WriteFile(filepath.Join(bare, "config"), []byte(bareConfig), 0o600); err != nil {
			return fmt.Errorf("configure the repository %s: %w", bare, err)
		}
		return nil
	}
	if _, err := inBare(ctx, bare, "symbolic-ref", "HEAD", "refs/heads/"+branch); err != nil {
		return fmt.Errorf("let HEAD of %s name branch %s: %w", bare, branch, err)
	}
	return nil
}
