package source

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"helm.sh/helm/v4/pkg/getter"
	oras "oras.land/oras-go/v2/registry/remote"
)

// clientTask is what a child of the test does in the place of
// source-controller: with its libraries, and with nothing but the environment to
// lead it to the server. Go's proxy settings are read once in a process, so no
// test could set them for itself.
type clientTask struct {
	Clone, Branch, Tag   string // URL, reference
	Recurse              bool
	Into                 string
	Identity, KnownHosts string
	Helm                 string // URL
	Image, OCIChart      string // references
}

type clientResult struct {
	Commit, Body, Error string
}

func TestMain(m *testing.M) {
	if task := os.Getenv("SOURCE_TEST_CLIENT"); task != "" {
		os.Exit(beClient(task))
	}
	os.Exit(m.Run())
}

func beClient(encoded string) int {
	var task clientTask
	if err := json.Unmarshal([]byte(encoded), &task); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var result clientResult
	var err error
	switch {
	case task.Clone != "":
		result.Commit, err = clone(task)
	case task.Helm != "":
		var get getter.Getter
		if get, err = getter.NewHTTPGetter(); err == nil {
			var body *bytes.Buffer
			if body, err = get.Get(task.Helm); err == nil {
				result.Body = body.String()
			}
		}
	case task.Image != "":
		var reference name.Reference
		if reference, err = name.ParseReference(task.Image); err == nil {
			_, err = remote.Head(reference)
			if err != nil { // HEAD carries no message
				_, err = remote.Get(reference)
			}
		}
	}
	if task.OCIChart != "" { // Helm's client for registries
		var repository *oras.Repository
		if repository, err = oras.NewRepository(task.OCIChart); err == nil {
			_, _, err = repository.FetchReference(context.Background(), "1.0.0")
		}
	}
	if err != nil {
		result.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return 1
	}
	return 0
}

// clone does what source-controller does for a GitRepository.
func clone(task clientTask) (string, error) {
	transport.UnsupportedCapabilities = nil
	options := &gogit.CloneOptions{URL: task.Clone, SingleBranch: true, Depth: 1, Tags: gogit.NoTags}
	switch {
	case task.Tag != "":
		options.ReferenceName, options.Tags = plumbing.NewTagReferenceName(task.Tag), gogit.TagFollowing
	default:
		options.ReferenceName = plumbing.NewBranchReferenceName(task.Branch)
	}
	if task.Recurse {
		options.RecurseSubmodules = gogit.DefaultSubmoduleRecursionDepth
	}
	if task.Identity != "" {
		keys, err := gitssh.NewPublicKeys("git", []byte(task.Identity), "")
		if err != nil {
			return "", err
		}
		file := filepath.Join(filepath.Dir(task.Into), "known_hosts")
		if err := os.WriteFile(file, []byte(task.KnownHosts), 0o600); err != nil {
			return "", err
		}
		if keys.HostKeyCallback, err = knownhosts.New(file); err != nil {
			return "", err
		}
		options.Auth = &hostKeyAlgorithm{keys}
	}
	repository, err := gogit.PlainClone(task.Into, false, options)
	if err != nil {
		return "", err
	}
	head, err := repository.Head()
	if err != nil {
		return "", err
	}
	return head.Hash().String(), nil
}

type hostKeyAlgorithm struct{ *gitssh.PublicKeys }

func (a *hostKeyAlgorithm) ClientConfig() (*ssh.ClientConfig, error) {
	config, err := a.PublicKeys.ClientConfig()
	if err == nil {
		config.HostKeyAlgorithms = []string{ssh.KeyAlgoED25519}
	}
	return config, err
}

// run has a client do the task with the server's environment.
func (s *Server) run(t *testing.T, task clientTask) clientResult {
	t.Helper()
	return runClient(t, s.Environ(), task)
}

func runClient(t *testing.T, environ []string, task clientTask) clientResult {
	t.Helper()
	g := NewWithT(t)
	if task.Clone != "" && task.Into == "" {
		task.Into = filepath.Join(t.TempDir(), "clone")
	}
	encoded, err := json.Marshal(task)
	g.Expect(err).NotTo(HaveOccurred())
	self, err := os.Executable()
	g.Expect(err).NotTo(HaveOccurred())
	cmd := exec.CommandContext(t.Context(), self)
	for _, entry := range os.Environ() {
		if !strings.Contains(strings.ToUpper(entry), "_PROXY=") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, append(environ, "SOURCE_TEST_CLIENT="+string(encoded), "HOME="+t.TempDir())...)
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	g.Expect(err).NotTo(HaveOccurred())
	var result clientResult
	g.Expect(json.Unmarshal(output, &result)).To(Succeed(), "%s", output)
	return result
}

// command runs git as a user would, without this machine's configuration.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{
		"-c", "user.name=A Developer", "-c", "user.email=developer@example.com", "-c", "init.defaultBranch=main",
		"-c", "protocol.file.allow=always", "-c", "core.autocrlf=false",
	}, args...)...)
	cmd.Dir, cmd.Env = dir, gitEnviron()
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output))
}

// write lays files into a folder, which is made.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for path, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newRepository makes a repository with one commit of these files.
func newRepository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repository")
	write(t, dir, files)
	command(t, dir, "init", "--quiet")
	command(t, dir, "add", "--all")
	command(t, dir, "commit", "--quiet", "--message=first")
	return dir
}
