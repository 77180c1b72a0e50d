//go:build live && linux

package program_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/elazarl/goproxy"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// A platform whose root source is reached by ssh with the key in a Secret that
// Git does not hold, which is what «flux bootstrap» writes, is green.
func TestLiveSSHRoot(t *testing.T) {
	const url = "ssh://git@github.com/your-org/flux_platform"
	platform := reference(t, map[string]func(string) string{
		"clusters/dev/flux-system/gotk-sync.yaml": replaced("https://github.com/your-org/flux_platform", url),
	})
	report := newUser(t).withStore(t).e2e(t, "--platform", platform).green(t)
	served := slices.ContainsFunc(report.Sources, func(s check.Source) bool {
		return s.URL == strings.Replace(url, "git@", "", 1) && s.Revision != ""
	})
	if !served {
		t.Errorf("the report's sources lack %s: %v", url, report.Sources)
	}
}

// A URL that is marked upstream is fetched from the real network, with the
// program's own proxy and authorities, and stands in the report by revision and
// digest. Here the network is a proxy that leads to a server with a certificate
// that no public authority signed.
func TestLiveUpstream(t *testing.T) {
	const host, path = "example.com", "/team/shared" // the host that the certificate names
	upstream, head := gitServer(t, path)
	authority := filepath.Join(t.TempDir(), "authority.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upstream.Certificate().Raw})
	if err := os.WriteFile(authority, certificate, 0o644); err != nil {
		t.Fatal(err)
	}
	var passed atomic.Int32
	proxy := goproxy.NewProxyHttpServer()
	proxy.Logger = log.New(io.Discard, "", 0)
	proxy.ConnectDialWithReq = func(r *http.Request, network, _ string) (net.Conn, error) {
		if r.Host != host+":443" {
			return nil, fmt.Errorf("nothing but %s is asked for upstream, not %s", host, r.Host)
		}
		passed.Add(1)
		var dialer net.Dialer
		return dialer.DialContext(r.Context(), network, upstream.Listener.Addr().String())
	}
	network := httptest.NewServer(proxy)
	t.Cleanup(network.Close)

	url := "https://" + host + path
	shared := written(fmt.Sprintf(
		"apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: shared, namespace: flux-system}\nspec:\n  interval: 10m\n  url: %s\n  ref: {branch: main}\n", url))
	platform := reference(t, map[string]func(string) string{
		"clusters/dev/shared.yaml":        shared,
		"clusters/dev/kustomization.yaml": listed("shared.yaml"),
		"clusters/prd/shared.yaml":        shared,
		"clusters/prd/kustomization.yaml": listed("shared.yaml"),
	})
	config := filepath.Join(t.TempDir(), "conformance.yaml")
	text := "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nsources:\n- {url: " + url + ", upstream: true}\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	u := newUser(t, "SSL_CERT_FILE="+authority, "HTTPS_PROXY="+network.URL).withStore(t)
	report := u.e2e(t, "--platform", platform, "--config", config).green(t)
	if passed.Load() == 0 {
		t.Error("nothing came through the network's proxy")
	}
	recorded := slices.ContainsFunc(report.Sources, func(s check.Source) bool {
		return s.URL == url && s.Upstream && s.Revision == head && strings.HasPrefix(s.Digest, "sha256:")
	})
	if !recorded {
		t.Errorf("the report's sources lack %s, upstream, at %s with a digest: %v", url, head, report.Sources)
	}
	for _, s := range report.Sources {
		if s.Upstream && s.URL != url {
			t.Errorf("%s was fetched from upstream", s.URL)
		}
	}
}

// gitServer serves one repository with one commit over TLS, and returns that
// commit.
func gitServer(t *testing.T, path string) (server *httptest.Server, head string) {
	t.Helper()
	projects := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		command := exec.Command("git", args...)
		command.Dir = projects
		command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, output)
		}
		return strings.TrimSpace(string(output))
	}
	repository := filepath.Join(projects, filepath.FromSlash(path))
	git("init", "--quiet", "--initial-branch=main", repository)
	git("-C", repository, "-c", "user.name=Upstream", "-c", "user.email=upstream@example.com", "commit", "--quiet", "--allow-empty", "--message=Shared")
	head = git("-C", repository, "rev-parse", "HEAD")
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	server = httptest.NewTLSServer(&cgi.Handler{
		Path: program, Args: []string{"-c", "safe.directory=*", "http-backend"}, Logger: log.New(io.Discard, "", 0), Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + projects, "GIT_HTTP_EXPORT_ALL=1"},
	})
	t.Cleanup(server.Close)
	return server, head
}
