package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"
)

// containerd is the program that runs on nodes, with everything of its own.
type containerd struct {
	ctr, socket, hosts string
}

// startContainerd starts the programs of the test binaries; nodes have no
// others. It needs root, as nodes do.
func startContainerd(t *testing.T) *containerd {
	t.Helper()
	const variable = "FLUX_CONFORMANCE_TEST_BINARIES"
	program, ctr := filepath.Join(os.Getenv(variable), "containerd"), filepath.Join(os.Getenv(variable), "ctr")
	if _, err := os.Stat(program); err != nil {
		t.Skipf("%s names no folder with containerd and ctr: flux-platform-conformance components --provider kind --link FOLDER makes one", variable)
	}
	if os.Geteuid() != 0 {
		t.Skip("containerd runs as root only")
	}
	dir := t.TempDir()
	c := &containerd{ctr: ctr, socket: filepath.Join(dir, "containerd.sock"), hosts: filepath.Join(dir, "certs.d")}
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime']\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket)
	file := filepath.Join(dir, "config.toml")
	output, err := os.Create(filepath.Join(dir, "log"))
	if err := errors.Join(err, os.WriteFile(file, []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, "--config", file)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		_ = output.Close()
		if t.Failed() {
			text, _ := os.ReadFile(output.Name())
			t.Logf("containerd:\n%s", text)
		}
	})
	NewWithT(t).Eventually(func() error {
		_, err := c.run(ctx, "version")
		return err
	}, time.Minute).Should(Succeed())
	return c
}

func (c *containerd) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.ctr, append([]string{"--address", c.socket}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (c *containerd) pull(ctx context.Context, reference string) error {
	_, err := c.run(ctx, "images", "pull", "--local", "--snapshotter", "native", "--hosts-dir", c.hosts, reference)
	return err
}

// A node asks the session first, by the credential that its configuration
// holds; what is not there comes from where the reference says; the reason of
// what cannot be had reaches whoever wanted it.
func TestContainerd(t *testing.T) {
	g := NewWithT(t)
	node := startContainerd(t)
	ours := makeImage(t, strings.Repeat("ours", 1<<20))
	s, _ := start(t, map[string]v1.Image{
		"ghcr.io/fluxcd/source-controller:v1.9.5": ours,
		"docker.io/library/traefik:v3.6.6":        ours,
	})

	// Two registries that others run, one of them the mirror of a third.
	upstream := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(upstream.Close)
	host := strings.TrimPrefix(upstream.URL, "http://")
	for _, reference := range []string{host + "/team/tool:v1", host + "/quay/team/tool:v2"} {
		to, err := name.ParseReference(reference)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(remote.Write(to, makeImage(t, reference))).To(Succeed())
	}
	g.Expect(s.WriteHosts(node.hosts, map[string]string{"quay.io": host + "/quay"})).To(Succeed())

	g.Expect(node.pull(t.Context(), "ghcr.io/fluxcd/source-controller:v1.9.5")).To(Succeed())
	g.Expect(node.pull(t.Context(), "docker.io/library/traefik:v3.6.6")).To(Succeed())
	counts := s.Counts()
	g.Expect(counts.Served).To(BeNumerically(">=", 3), "manifest, configuration and layers")
	g.Expect(counts.Bytes).To(BeNumerically(">", 4<<20))
	g.Expect(counts.NotOurs + counts.Refused + counts.Failed).To(BeZero())
	digest, err := ours.Digest()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(node.run(t.Context(), "images", "list")).To(ContainSubstring(digest.String()))

	// What it does not have comes from the registry itself, and from its mirror.
	g.Expect(node.pull(t.Context(), host+"/team/tool:v1")).To(Succeed())
	g.Expect(node.pull(t.Context(), "quay.io/team/tool:v2")).To(Succeed())
	g.Expect(s.Counts().NotOurs).To(BeNumerically(">=", 2), "it was asked first")

	err = node.pull(t.Context(), "registry.example/broken:v1")
	g.Expect(err).To(MatchError(ContainSubstring("component broken: neither pullable nor pinned")))

	// Without the credential nothing is to be had here.
	g.Expect(filepath.Glob(filepath.Join(node.hosts, "*", "hosts.toml"))).To(HaveLen(2))
	file := filepath.Join(node.hosts, "_default", "hosts.toml")
	text, err := os.ReadFile(file)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(file, []byte(strings.Replace(string(text), "Authorization", "X-Nothing", 1)), 0o600)).To(Succeed())
	before := s.Counts()
	g.Expect(node.pull(t.Context(), "ghcr.io/fluxcd/source-controller:v1.9.5")).NotTo(Succeed())
	after := s.Counts()
	g.Expect(after.Refused).To(BeNumerically(">", before.Refused))
	g.Expect(after.Served).To(Equal(before.Served))
}
