package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	repo "helm.sh/helm/v4/pkg/repo/v1"
	"sigs.k8s.io/yaml"
)

func serve(t *testing.T, o ServerOptions) *Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Serve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// last returns the latest request that satisfies the condition.
func last(s *Server, is func(Request) bool) Request {
	requests := s.Requests()
	for i := len(requests) - 1; i >= 0; i-- {
		if is(requests[i]) {
			return requests[i]
		}
	}
	return Request{}
}

func TestGitOverHTTPS(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a: 1\r\n", "ä.yaml": "ä\n"}, SnapshotOptions{Tags: []string{"v1.2.3"}})
	s := serve(t, ServerOptions{Answers: []Answer{{URL: "https://github.com/your-org/flux_platform", Repository: bare}}})
	s.SetObjects(map[string][]string{"https://github.com/your-org/flux_platform.git": {"GitRepository flux-system/flux-system"}})

	for _, u := range []string{
		"https://github.com/your-org/flux_platform",
		"https://github.com/your-org/flux_platform.git",
		"https://github.com/your-org/flux_platform/",
		"https://user:password@GitHub.com:443/your-org/flux_platform",
	} {
		into := filepath.Join(t.TempDir(), "clone")
		result := s.run(t, clientTask{Clone: u, Branch: "main", Into: into})
		g.Expect(result).To(Equal(clientResult{Commit: revision.Commit}), u)
		g.Expect(os.ReadFile(filepath.Join(into, "a.yaml"))).To(BeEquivalentTo("a: 1\r\n"))
		g.Expect(filepath.Join(into, ".git", "shallow")).To(BeAnExistingFile(), "the clone is shallow")
	}
	g.Expect(s.run(t, clientTask{Clone: "https://github.com/your-org/flux_platform", Tag: "v1.2.3"}).Commit).To(Equal(revision.Commit))

	fetch := last(s, func(r Request) bool { return strings.HasSuffix(r.URL, "/git-upload-pack") })
	g.Expect(fetch.Answered).To(BeTrue())
	g.Expect(fetch.Upstream).To(BeFalse())
	g.Expect(fetch.Method).To(Equal("POST"))
	g.Expect(fetch.Status).To(Equal(200))
	g.Expect(fetch.Revision).To(Equal(revision.Commit))
	g.Expect(fetch.Digest).To(HavePrefix("sha256:"))
	g.Expect(fetch.Bytes).To(BeNumerically(">", 100))
	g.Expect(fetch.Source).To(Equal("https://github.com/your-org/flux_platform"))
	g.Expect(fetch.Object).To(Equal("GitRepository flux-system/flux-system"))
	g.Expect(fetch.URL).NotTo(ContainSubstring("password"))
	list := last(s, func(r Request) bool { return strings.HasSuffix(r.URL, "/info/refs") })
	g.Expect(list.Revision).To(Equal(revision.Commit))

	written, err := os.ReadFile(filepath.Join(s.dir, "requests.jsonl"))
	g.Expect(err).NotTo(HaveOccurred())
	lines := bytes.Split(bytes.TrimSpace(written), []byte("\n"))
	g.Expect(lines).To(HaveLen(len(s.Requests())))
	for i, line := range lines {
		var r Request
		g.Expect(json.Unmarshal(line, &r)).To(Succeed())
		g.Expect(r.URL).To(Equal(s.Requests()[i].URL))
	}

	// An overlay is seen by the next fetch.
	second, err := Commit(t.Context(), bare, "main", Change{Files: map[string]*File{"b.yaml": {Content: []byte("b\n")}}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(s.run(t, clientTask{Clone: "https://github.com/your-org/flux_platform", Branch: "main"}).Commit).To(Equal(second.Commit))
}

// git itself speaks version 2 of the protocol and compresses what it sends.
func TestGitItself(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	s := serve(t, ServerOptions{Answers: []Answer{
		{URL: "https://git.example.com/a/b", Repository: bare}, {URL: "http://git.example.com/a/b", Repository: bare},
	}})
	for _, entry := range s.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	t.Setenv("http_proxy", os.Getenv("HTTP_PROXY")) // curl reads no other
	for _, scheme := range []string{"https", "http"} {
		into := filepath.Join(t.TempDir(), "clone")
		command(t, t.TempDir(), "-c", "http.sslCAInfo="+s.CAFile(), "-c", "protocol.version=2", "clone", "--quiet", "--depth=1", scheme+"://git.example.com/a/b.git", into)
		g.Expect(command(t, into, "rev-parse", "HEAD")).To(Equal(revision.Commit))
	}
	fetch := last(s, func(r Request) bool { return strings.HasSuffix(r.URL, "/git-upload-pack") })
	g.Expect(fetch.Revision).To(Equal(revision.Commit))
}

func TestSubmodulesAreServed(t *testing.T) {
	g := NewWithT(t)
	library := newRepository(t, map[string]string{"library.yaml": "kind: Library\n"})
	dir := newRepository(t, map[string]string{"a.yaml": "a\n"})
	command(t, dir, "submodule", "--quiet", "add", library, "library")
	command(t, dir, "config", "--file", ".gitmodules", "submodule.library.url", "https://github.com/your-org/library.git")
	work := t.TempDir()
	bare, mirror := filepath.Join(work, "bare.git"), filepath.Join(work, "mirror.git")
	revision, err := Snapshot(t.Context(), SnapshotOptions{Dir: dir, Into: bare})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revision.Submodules).To(HaveLen(1))
	sub := revision.Submodules[0]
	_, err = Mirror(t.Context(), sub.Dir, mirror, "main", sub.Commit)
	g.Expect(err).NotTo(HaveOccurred())
	s := serve(t, ServerOptions{Answers: []Answer{
		{URL: "https://github.com/your-org/platform", Repository: bare}, {URL: sub.URL, Repository: mirror},
	}})
	into := filepath.Join(t.TempDir(), "clone")
	g.Expect(s.run(t, clientTask{Clone: "https://github.com/your-org/platform", Branch: "main", Recurse: true, Into: into})).To(Equal(clientResult{Commit: revision.Commit}))
	g.Expect(os.ReadFile(filepath.Join(into, "library", "library.yaml"))).To(BeEquivalentTo("kind: Library\n"))

	plain := filepath.Join(t.TempDir(), "clone")
	g.Expect(s.run(t, clientTask{Clone: "https://github.com/your-org/platform", Branch: "main", Into: plain}).Error).To(BeEmpty())
}

func TestRefusals(t *testing.T) {
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	charts := newChart(t, map[string]string{})
	s := serve(t, ServerOptions{Answers: []Answer{
		{URL: "https://github.com/your-org/platform", Repository: bare},
		{URL: "ssh://git@github.com/your-org/platform", Repository: bare},
		{URL: "https://charts.example.com/stable", Charts: []Chart{{Dir: charts}}},
	}})
	s.SetObjects(map[string][]string{
		"https://github.com/your-org/unknown": {"GitRepository beetle/unknown", "GitRepository apps/unknown"},
		"https://charts.example.com/other":    {"HelmRepository traefik/traefik"},
		"ssh://git@gitlab.com/your-org/x":     {"GitRepository sonar/x"},
		"ssh://git@github.com/your-org/x":     {"GitRepository tiger/x"},
		"oci://ghcr.io/your-org/manifests":    {"OCIRepository apps/manifests"},
	})
	mend := ": map it under sources in CONFIG, or mark it upstream: true"
	standIn := s.StandIn("ssh://git@github.com/your-org/platform")
	elsewhere := s.StandIn("ssh://git@gitlab.com/your-org/x")
	foreign, err := newKeyPair("another")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	bySSH := func(u string, secret map[string][]byte) clientTask {
		return clientTask{Clone: u, Branch: "main", Identity: string(secret["identity"]), KnownHosts: string(secret["known_hosts"])}
	}
	t.Run("controls", func(t *testing.T) {
		g := NewWithT(t)
		g.Expect(s.run(t, clientTask{Clone: "https://github.com/your-org/platform", Branch: "main"})).To(Equal(clientResult{Commit: revision.Commit}))
		g.Expect(s.run(t, bySSH("ssh://git@github.com/your-org/platform", standIn))).To(Equal(clientResult{Commit: revision.Commit}))
		g.Expect(s.run(t, clientTask{Helm: "https://charts.example.com/stable/index.yaml"}).Error).To(BeEmpty())
	})
	for name, c := range map[string]struct {
		task      clientTask
		want, url string
	}{
		"git over https": {
			clientTask{Clone: "https://github.com/your-org/unknown.git", Branch: "main"},
			"repository not found: no local answer for URL https://github.com/your-org/unknown (asked for by GitRepository apps/unknown, GitRepository beetle/unknown)" + mend,
			"https://github.com/your-org/unknown",
		},
		"git over http": {
			clientTask{Clone: "http://github.com/your-org/platform", Branch: "main"},
			"repository not found: no local answer for URL http://github.com/your-org/platform" + mend,
			"http://github.com/your-org/platform",
		},
		"another case": {
			clientTask{Clone: "https://github.com/Your-Org/platform", Branch: "main"},
			"no local answer for URL https://github.com/Your-Org/platform" + mend,
			"https://github.com/Your-Org/platform",
		},
		"another port": {
			clientTask{Clone: "https://github.com:8443/your-org/platform", Branch: "main"},
			"no local answer for URL https://github.com:8443/your-org/platform" + mend,
			"https://github.com:8443/your-org/platform",
		},
		"below a repository": {
			clientTask{Clone: "https://github.com/your-org/platform/more", Branch: "main"},
			"no local answer for URL https://github.com/your-org/platform/more" + mend,
			"https://github.com/your-org/platform/more",
		},
		"a way round": {
			clientTask{Clone: "https://github.com/evil/../your-org/platform", Branch: "main"},
			"no local answer for URL https://github.com/evil/../your-org/platform" + mend,
			"https://github.com/evil/../your-org/platform",
		},
		"a Helm repository": {
			clientTask{Helm: "https://charts.example.com/other/index.yaml"},
			"failed to fetch https://charts.example.com/other/index.yaml : 404 no local answer for URL https://charts.example.com/other (asked for by HelmRepository traefik/traefik)" + mend,
			"https://charts.example.com/other",
		},
		"a Helm repository over http": {
			clientTask{Helm: "http://charts.example.com/stable/index.yaml"},
			": 404 no local answer for URL http://charts.example.com/stable" + mend,
			"http://charts.example.com/stable",
		},
		"a chart that is not there": {
			clientTask{Helm: "https://charts.example.com/stable/other-1.0.0.tgz"},
			"404 the local Helm repository has no file other-1.0.0.tgz",
			"https://charts.example.com/stable",
		},
		"a page of a repository": {
			clientTask{Helm: "https://github.com/your-org/platform/raw/main/a.yaml"},
			"is answered by a local Git repository, which has no such file: fetch it with git",
			"https://github.com/your-org/platform",
		},
		"an OCI artifact": {
			clientTask{Image: "ghcr.io/your-org/manifests:v1"},
			"DENIED: no local answer for URL oci://ghcr.io/your-org/manifests (asked for by OCIRepository apps/manifests): OCI artifacts cannot be mapped yet; mark it upstream: true",
			"oci://ghcr.io/your-org/manifests",
		},
		"a chart in a registry": {
			clientTask{OCIChart: "ghcr.io/your-org/charts/demo"},
			"response status code 403: denied: no local answer for URL oci://ghcr.io/your-org/charts/demo: OCI artifacts cannot be mapped yet; mark it upstream: true",
			"oci://ghcr.io/your-org/charts/demo",
		},
		"ssh to a mapped host": {
			bySSH("ssh://git@github.com/your-org/x", standIn),
			"no local answer for URL ssh://github.com/your-org/x (asked for by GitRepository tiger/x)" + mend,
			"ssh://github.com/your-org/x",
		},
		"ssh to another host": {
			bySSH("ssh://git@gitlab.com/your-org/x", elsewhere),
			"no local answer for URL ssh://gitlab.com/your-org/x (asked for by GitRepository sonar/x)" + mend,
			"ssh://gitlab.com/your-org/x",
		},
		"ssh to another host, with its real host key": {
			bySSH("ssh://git@gitlab.com/your-org/x", map[string][]byte{
				"identity": foreign.private, "known_hosts": knownHostsLine("gitlab.com", foreign.signer.PublicKey()),
			}),
			"no local answer for URL ssh://gitlab.com/your-org/x (asked for by GitRepository sonar/x)" + mend,
			"ssh://gitlab.com/your-org/x",
		},
		"ssh to another port": {
			bySSH("ssh://git@github.com:2222/your-org/platform", s.StandIn("ssh://git@github.com:2222/your-org/platform")),
			"no local answer for URL ssh://github.com:2222" + mend,
			"ssh://github.com:2222",
		},
		"ssh with another host key": {
			bySSH("ssh://git@github.com/your-org/platform", map[string][]byte{
				"identity": standIn["identity"], "known_hosts": knownHostsLine("github.com", foreign.signer.PublicKey()),
			}),
			"knownhosts: key mismatch",
			"ssh://github.com/your-org/x",
		},
		"ssh with a foreign key": {
			bySSH("ssh://git@github.com/your-org/platform", map[string][]byte{"identity": foreign.private, "known_hosts": standIn["known_hosts"]}),
			"is not the session's stand-in: let the Secret be made by the session",
			"ssh://github.com/your-org/platform",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			result := s.run(t, c.task)
			g.Expect(result.Error).To(ContainSubstring(c.want))
			logged := last(s, func(r Request) bool { return r.Error != "" && r.Source == c.url })
			g.Expect(logged.Answered).To(BeFalse())
			g.Expect(logged.Error).NotTo(BeEmpty())
			g.Expect(logged.Time).NotTo(BeZero())
		})
	}
}

func TestSSH(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{Tags: []string{"v1"}})
	s := serve(t, ServerOptions{Answers: []Answer{
		{URL: "ssh://git@github.com/your-org/platform", Repository: bare},
		{URL: "ssh://git@git.example.com:2222/it's/platform!", Repository: bare},
	}})
	for _, u := range []string{"ssh://git@github.com/your-org/platform", "ssh://git@github.com/your-org/platform.git", "ssh://git@github.com:22/your-org/platform", "ssh://git@git.example.com:2222/it's/platform!"} {
		secret := s.StandIn(u)
		g.Expect(secret).To(HaveKey("identity.pub"))
		result := s.run(t, clientTask{Clone: u, Branch: "main", Identity: string(secret["identity"]), KnownHosts: string(secret["known_hosts"])})
		g.Expect(result).To(Equal(clientResult{Commit: revision.Commit}), u)
	}
	fetch := last(s, func(r Request) bool { return r.Method == "SSH" })
	g.Expect(fetch.Answered).To(BeTrue())
	g.Expect(fetch.Revision).To(Equal(revision.Commit))
	g.Expect(fetch.Digest).To(HavePrefix("sha256:"))
	g.Expect(fetch.Source).To(Equal("ssh://git.example.com:2222/it%27s/platform%21"))
	g.Expect(fetch.Error).To(BeEmpty())
}

func TestStandIn(t *testing.T) {
	g := NewWithT(t)
	s := serve(t, ServerOptions{})
	g.Expect(s.StandIn("https://github.com/a/b")).To(And(HaveKey("username"), HaveKey("password"), HaveLen(2)))
	g.Expect(s.StandIn("oci://ghcr.io/a/b")).To(BeNil())
	g.Expect(s.StandIn("ssh://git@github.com/a/b")["known_hosts"]).To(BeEquivalentTo(s.KnownHosts("github.com")))
	g.Expect(string(s.KnownHosts("github.com"))).To(HavePrefix("github.com ssh-ed25519 "))
	g.Expect(string(s.KnownHosts("github.com:22"))).To(HavePrefix("github.com ssh-ed25519 "))
	g.Expect(string(s.KnownHosts("github.com:2222"))).To(HavePrefix("[github.com]:2222 ssh-ed25519 "))
	private, public := s.Identity()
	g.Expect(string(private)).To(HavePrefix("-----BEGIN OPENSSH PRIVATE KEY-----"))
	g.Expect(string(public)).To(HavePrefix("ssh-ed25519 "))
	certificate, err := os.ReadFile(s.CAFile())
	g.Expect(err).NotTo(HaveOccurred())
	block, rest := pem.Decode(certificate)
	g.Expect(block.Type).To(Equal("CERTIFICATE"))
	g.Expect(rest).To(BeEmpty(), "the key is nowhere on disk")
}

// Another user of the machine knows the ports, and not the credential.
func TestStrangersAreNotServed(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	s := serve(t, ServerOptions{Credential: "session:secret", Answers: []Answer{
		{URL: "https://github.com/your-org/platform", Repository: bare},
		{URL: "ssh://github.com/your-org/platform", Repository: bare},
		{URL: "http://github.com/your-org/platform", Repository: bare},
	}})
	secret := s.StandIn("ssh://github.com/your-org/platform")
	tasks := []clientTask{
		{Clone: "https://github.com/your-org/platform", Branch: "main"},
		{Clone: "http://github.com/your-org/platform", Branch: "main"},
		{Clone: "ssh://git@github.com/your-org/platform", Branch: "main", Identity: string(secret["identity"]), KnownHosts: string(secret["known_hosts"])},
	}
	for _, task := range tasks {
		g.Expect(s.run(t, task)).To(Equal(clientResult{Commit: revision.Commit}))
	}
	for _, pair := range []string{"", "session:wrong@"} {
		var environ []string
		for _, entry := range s.Environ() {
			environ = append(environ, strings.Replace(entry, "session:secret@", pair, 1))
		}
		want := []string{"Proxy Authentication Required", "status code: 407", "socks connect"}
		for i, task := range tasks {
			g.Expect(runClient(t, environ, task).Error).To(ContainSubstring(want[i]))
		}
	}
	g.Expect(last(s, func(r Request) bool { return r.Status == http.StatusProxyAuthRequired }).Error).To(Equal("the client brought no credential, or a wrong one"))
	g.Expect(last(s, func(r Request) bool { return r.Method == "SOCKS" }).Error).To(ContainSubstring("the SOCKS client brought a wrong credential"))
}

// What pushes, or asks in another manner, is told why it gets nothing.
func TestGitIsReadOnly(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	s := serve(t, ServerOptions{Answers: []Answer{{URL: "http://git.example.com/a/b", Repository: bare}}})
	byProxy := http.ProxyURL(&url.URL{Scheme: "http", User: s.credential, Host: s.web.Addr().String()})
	client := &http.Client{Transport: &http.Transport{Proxy: byProxy, DisableKeepAlives: true}}
	for path, c := range map[string]struct {
		method, want string
		status       int
	}{
		"/a/b/info/refs?service=git-receive-pack": {"GET", "is served read only", 403},
		"/a/b/git-receive-pack":                   {"POST", "is served read only", 403},
		"/a/b/info/refs":                          {"GET", "smart protocol only", 403},
		"/a/b/git-upload-pack":                    {"GET", "is not part of git's protocol", 405},
		"/a/b/HEAD":                               {"GET", "which has no such file", 404},
		"/a/b/objects/info/packs":                 {"GET", "which has no such file", 404},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, "http://git.example.com"+path, nil)
		g.Expect(err).NotTo(HaveOccurred())
		response, err := client.Do(request)
		g.Expect(err).NotTo(HaveOccurred())
		var body bytes.Buffer
		_, err = body.ReadFrom(response.Body)
		response.Body.Close()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(response.StatusCode).To(Equal(c.status), path)
		g.Expect(body.String()).To(ContainSubstring(c.want), path)
	}
	g.Expect(resolveCommit(t.Context(), bare, "main")).To(Equal(revision.Commit))
}

// newChart makes a chart with the files beside its own.
func newChart(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "chart")
	write(t, dir, map[string]string{
		"Chart.yaml":          "apiVersion: v2\nname: demo\nversion: 1.2.3\nappVersion: v4.5.6\n",
		"values.yaml":         "replicas: 1\n",
		"templates/demo.yaml": "kind: ConfigMap\n",
	})
	write(t, dir, files)
	return dir
}

func TestHelmRepository(t *testing.T) {
	g := NewWithT(t)
	dir := newChart(t, map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: demo\nversion: 1.2.3\nappVersion: v4.5.6\ndependencies:\n" +
			"- {name: inside, version: 0.1.0}\n- {name: supplied, version: 0.0.1-alpha.4, repository: 'https://example.com'}\n" +
			"- {name: missing, version: 3.0.0, condition: missing.enabled, repository: 'https://example.com'}\n",
		"charts/inside/Chart.yaml":  "apiVersion: v2\nname: inside\nversion: 0.1.0\n",
		"charts/another/Chart.yaml": "apiVersion: v2\nname: another\nversion: 0.1.0\n",
	})
	supplied := filepath.Join(t.TempDir(), "supplied")
	write(t, supplied, map[string]string{"Chart.yaml": "apiVersion: v2\nname: supplied\nversion: v0.0.0\n"})
	charts := []Chart{{Dir: dir, Dependencies: []string{supplied}}, {Dir: newChart(t, nil), Version: "2.0.0", AppVersion: "v9"}}
	answers := []Answer{{URL: "https://charts.example.com/stable/", Charts: charts}}
	s := serve(t, ServerOptions{Answers: answers})

	fetched := s.run(t, clientTask{Helm: "https://charts.example.com/stable/index.yaml"})
	g.Expect(fetched.Error).To(BeEmpty())
	var index repo.IndexFile
	g.Expect(yaml.UnmarshalStrict([]byte(fetched.Body), &index)).To(Succeed())
	g.Expect(index.Entries["demo"]).To(HaveLen(2))
	first, err := index.Get("demo", "1.2.3")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.URLs).To(Equal([]string{"demo-1.2.3.tgz"}))
	latest, err := index.Get("demo", "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(latest.Version + " " + latest.AppVersion).To(Equal("2.0.0 v9"))

	served := s.Charts()["https://charts.example.com/stable"]
	g.Expect(served).To(HaveLen(2))
	g.Expect(served[0].Supplied).To(Equal([]string{"supplied 0.0.1-alpha.4"}))
	g.Expect(served[0].Missing).To(Equal([]string{"missing 3.0.0"}))

	for version, name := range map[string]string{"1.2.3": "demo-1.2.3.tgz", "1.x": "demo-1.2.3.tgz", "": "demo-2.0.0.tgz"} {
		archive, err := s.Chart("https://charts.example.com/stable", "demo", version)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(archive).To(HaveSuffix(name))
		g.Expect(archive).To(BeAnExistingFile())
	}
	_, err = s.Chart("https://charts.example.com/stable/", "demo", "3.x")
	g.Expect(err).To(MatchError(ContainSubstring("look for demo 3.x in what answers https://charts.example.com/stable: ")))
	_, err = s.Chart("https://charts.example.com/other", "demo", "")
	g.Expect(err).To(MatchError("nothing local answers https://charts.example.com/other with charts"))
	g.Expect(served[0].Digest).To(Equal("sha256:" + first.Digest))

	file, err := os.ReadFile(filepath.Join(s.current().at(address{"https", "charts.example.com", "/stable"}).folder, "demo-1.2.3.tgz"))
	g.Expect(err).NotTo(HaveOccurred())
	loaded, err := loader.LoadArchive(bytes.NewReader(file))
	g.Expect(err).NotTo(HaveOccurred())
	var names []string
	for _, d := range loaded.Dependencies() {
		names = append(names, d.Name()+" "+d.Metadata.Version)
	}
	g.Expect(names).To(ConsistOf("inside 0.1.0", "another 0.1.0", "supplied 0.0.1-alpha.4"))
	g.Expect(loaded.Metadata.Dependencies).To(HaveLen(3), "Chart.yaml is as it was")

	archive := s.run(t, clientTask{Helm: "https://charts.example.com/stable/demo-1.2.3.tgz"})
	g.Expect(archive.Error).To(BeEmpty())
	sum := sha256.Sum256(file)
	logged := last(s, func(r Request) bool { return strings.HasSuffix(r.URL, ".tgz") })
	g.Expect(logged.Digest).To(Equal("sha256:" + hex.EncodeToString(sum[:])))
	g.Expect(logged.Revision).To(Equal("demo-1.2.3.tgz"))

	for range 5 { // loading leaves the order of dependencies to chance
		g.Expect(s.SetAnswers(t.Context(), answers)).To(Succeed())
		g.Expect(s.Charts()["https://charts.example.com/stable"]).To(Equal(served), "one folder gives one digest")
	}
}

func TestAnswersAreChecked(t *testing.T) {
	bare, _ := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	chart := newChart(t, nil)
	undeclared := newChart(t, nil)
	for name, c := range map[string]struct {
		answers []Answer
		want    []string
	}{
		"nothing":       {[]Answer{{URL: "https://a/b"}}, []string{"answer for https://a/b: name exactly one of a repository, charts, and upstream: true"}},
		"two":           {[]Answer{{URL: "https://a/b", Repository: bare, Upstream: true}}, []string{"name exactly one"}},
		"twice":         {[]Answer{{URL: "https://a/b", Repository: bare}, {URL: "https://A/b.git/", Repository: bare}}, []string{"https://a/b is answered twice: leave one"}},
		"all mistakes":  {[]Answer{{URL: "ftp://a/b", Upstream: true}, {URL: "https://a/b?x=y", Upstream: true}, {URL: "", Upstream: true}, {URL: "/a/b", Upstream: true}}, []string{"use https, ssh, http or oci", "has a query or a fragment", "the URL is empty", `"/a/b" is not a URL`}},
		"no repository": {[]Answer{{URL: "https://a/b", Repository: filepath.Join(bare, "missing")}}, []string{"open the repository"}},
		"oci":           {[]Answer{{URL: "oci://a/b", Repository: bare}}, []string{"OCI artifacts have no local answer yet: mark the URL upstream: true"}},
		"charts by ssh": {[]Answer{{URL: "ssh://a/b", Charts: []Chart{{Dir: chart}}}}, []string{"a Helm repository is not reached by ssh"}},
		"no chart":      {[]Answer{{URL: "https://a/b", Charts: []Chart{{Dir: bare}}}}, []string{"package the chart " + bare}},
		"chart twice":   {[]Answer{{URL: "https://a/b", Charts: []Chart{{Dir: chart}, {Dir: undeclared}}}}, []string{"demo 1.2.3 comes twice: leave one"}},
		"undeclared":    {[]Answer{{URL: "https://a/b", Charts: []Chart{{Dir: chart, Dependencies: []string{undeclared}}}}}, []string{"is not declared in Chart.yaml"}},
		"ssh mixed":     {[]Answer{{URL: "ssh://a/b", Repository: bare}, {URL: "ssh://a/c", Upstream: true}}, []string{"upstream: true cannot stand beside a local answer for another repository of the same ssh host"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := Serve(t.Context(), ServerOptions{Dir: t.TempDir(), Answers: c.answers})
			for _, want := range c.want {
				g.Expect(err).To(MatchError(ContainSubstring(want)))
			}
		})
	}
}

func TestServerNeedsItsOptions(t *testing.T) {
	g := NewWithT(t)
	_, err := Serve(t.Context(), ServerOptions{})
	g.Expect(err).To(MatchError(ContainSubstring("a folder is required")))
	_, err = Serve(t.Context(), ServerOptions{Dir: t.TempDir(), Credential: "secret"})
	g.Expect(err).To(MatchError(ContainSubstring("USER:SECRET")))
	_, err = Serve(t.Context(), ServerOptions{Dir: t.TempDir(), UpstreamRoots: []byte("none")})
	g.Expect(err).To(MatchError(ContainSubstring("hold no PEM certificate")))

	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port // it is one
	_, err = Serve(t.Context(), ServerOptions{Dir: t.TempDir(), Ports: func() (int, error) { return port, nil }})
	g.Expect(err).To(MatchError(ContainSubstring("address already in use")))
}

// upstreamServer is a server of the «real network»: it is reached through the
// proxy only under the name that its certificate has.
func upstreamServer(t *testing.T, handler http.Handler) (host string, roots []byte) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// throughProxy reaches loopback addresses by the proxy, which Go's clients do
// not do by themselves.
func (s *Server) throughProxy(t *testing.T) *http.Client {
	t.Helper()
	authority, err := os.ReadFile(s.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	transport, err := upstreamTransport(authority)
	if err != nil {
		t.Fatal(err)
	}
	transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", User: s.credential, Host: s.web.Addr().String()})
	transport.ForceAttemptHTTP2 = false
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, client *http.Client, u string) (status, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var buffer bytes.Buffer
	if _, err := buffer.ReadFrom(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.Status, buffer.String()
}

func TestUpstream(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	git := serve(t, ServerOptions{Answers: []Answer{{URL: "http://inner/repo", Repository: bare}}})
	mux := http.NewServeMux()
	host, roots := upstreamServer(t, mux)
	other, otherRoots := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("chart " + r.URL.Path))
	}))
	mux.HandleFunc("/org/", func(w http.ResponseWriter, r *http.Request) { // a Git server
		_, service := gitService(r.URL.Path)
		r.URL.Scheme, r.URL.Host, r.URL.Path = "http", "inner", "/repo"+service
		response := git.route(r.Context(), r)
		defer response.Body.Close()
		w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	})
	mux.HandleFunc("/charts/index.yaml", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("apiVersion: v1\nentries:\n  demo:\n  - name: demo\n    version: 1.0.0\n    urls: ['https://" + other + "/files/demo.tgz', 'relative.tgz']\n"))
	})
	mux.HandleFunc("/charts/relative.tgz", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+other+"/moved/demo.tgz?token=1", http.StatusFound)
	})
	s := serve(t, ServerOptions{UpstreamRoots: append(roots, otherRoots...), Answers: []Answer{
		{URL: "https://" + host + "/org/repo", Upstream: true},
		{URL: "https://" + host + "/charts", Upstream: true},
		{URL: "https://127.0.0.1:1/gone", Upstream: true},
	}})
	client := s.throughProxy(t)

	// git, by its own client: libcurl sends loopback through the proxy if told so.
	into := filepath.Join(t.TempDir(), "clone")
	address := url.URL{Scheme: "http", User: s.credential, Host: s.web.Addr().String()}
	command(t, t.TempDir(), "-c", "http.proxy="+address.String(), "-c", "http.sslCAInfo="+s.CAFile(), "clone", "--quiet", "https://"+host+"/org/repo", into)
	g.Expect(command(t, into, "rev-parse", "HEAD")).To(Equal(revision.Commit))
	fetch := last(s, func(r Request) bool { return strings.HasSuffix(r.URL, "/git-upload-pack") && r.Revision != "" })
	g.Expect(fetch.Upstream).To(BeTrue())
	g.Expect(fetch.Answered).To(BeTrue())
	g.Expect(fetch.Revision).To(Equal(revision.Commit))
	g.Expect(fetch.Digest).To(HavePrefix("sha256:"))

	refused, _ := get(t, client, "https://"+other+"/files/demo.tgz")
	g.Expect(refused).To(HavePrefix("404 no local answer for URL https://"+other+"/files/demo.tgz"), "before the index names it")
	_, index := get(t, client, "https://"+host+"/charts/index.yaml")
	g.Expect(index).To(ContainSubstring("demo"))
	_, named := get(t, client, "https://"+other+"/files/demo.tgz")
	g.Expect(named).To(Equal("chart /files/demo.tgz"))
	_, moved := get(t, client, "https://"+host+"/charts/relative.tgz")
	g.Expect(moved).To(Equal("chart /moved/demo.tgz"))
	sum := sha256.Sum256([]byte(moved))
	logged := last(s, func(r Request) bool { return strings.HasSuffix(r.URL, "/moved/demo.tgz") })
	g.Expect(logged.Digest).To(Equal("sha256:" + hex.EncodeToString(sum[:])))
	g.Expect(logged.Source).To(Equal("https://" + host + "/charts"))
	refused, _ = get(t, client, "https://"+other+"/files/another.tgz")
	g.Expect(refused).To(HavePrefix("404 no local answer"))

	gone, body := get(t, client, "https://127.0.0.1:1/gone/index.yaml")
	g.Expect(gone).To(And(HavePrefix("404 URL https://127.0.0.1:1/gone/index.yaml is marked upstream: true, and could not be fetched:"), ContainSubstring("connection refused")))
	g.Expect(body).To(ContainSubstring("connection refused"))

	// The upstream's certificate is checked by the proxy.
	careful := serve(t, ServerOptions{Answers: []Answer{{URL: "https://" + host + "/charts", Upstream: true}}})
	status, _ := get(t, careful.throughProxy(t), "https://"+host+"/charts/index.yaml")
	g.Expect(status).To(ContainSubstring("certificate signed by unknown authority"))

	// Unmarked, the same URL is refused again.
	g.Expect(s.SetAnswers(t.Context(), nil)).To(Succeed())
	status, _ = get(t, client, "https://"+other+"/files/demo.tgz")
	g.Expect(status).To(HavePrefix("404 no local answer"))
}

func TestUpstreamSSH(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	address := l.Addr().String()
	remote := serve(t, ServerOptions{Answers: []Answer{{URL: "ssh://git@" + address + "/org/repo", Repository: bare}}})
	remote.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			host, port, _ := net.SplitHostPort(address)
			remote.serveSSH(conn, dialled{host, port}, time.Now())
			conn.Close()
		}
	})
	s := serve(t, ServerOptions{Answers: []Answer{{URL: "ssh://" + address + "/org/repo", Upstream: true}, {URL: "ssh://127.0.0.1:1/org/repo", Upstream: true}}})
	var environ []string
	for _, entry := range s.Environ() {
		if !strings.HasPrefix(entry, "NO_PROXY=") {
			environ = append(environ, entry)
		}
	}
	fetch := func(u string) clientResult {
		secret := remote.StandIn(u)
		return runClient(t, environ, clientTask{Clone: u, Branch: "main", Identity: string(secret["identity"]), KnownHosts: string(secret["known_hosts"])})
	}
	g.Expect(fetch("ssh://git@" + address + "/org/repo")).To(Equal(clientResult{Commit: revision.Commit}))
	g.Expect(l.Close()).To(Succeed())
	logged := last(s, func(r Request) bool { return r.Method == "SSH" })
	g.Expect(logged.Upstream).To(BeTrue())
	g.Expect(logged.Answered).To(BeTrue())
	g.Expect(logged.Bytes).To(BeNumerically(">", 100))
	g.Expect(fetch("ssh://git@127.0.0.1:1/org/repo").Error).To(And(ContainSubstring("URL ssh://127.0.0.1:1 is marked upstream: true, and could not be reached"), ContainSubstring("connection refused")))
}

func TestUpstreamRegistry(t *testing.T) {
	g := NewWithT(t)
	host, roots := upstreamServer(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	s := serve(t, ServerOptions{UpstreamRoots: roots, Answers: []Answer{{URL: "oci://" + host + "/org/manifests", Upstream: true}}})
	client := s.throughProxy(t)
	pushed, err := name.ParseReference(host + "/org/manifests:v1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(remote.Write(pushed, empty.Image, remote.WithTransport(client.Transport), remote.WithContext(t.Context()))).To(Succeed())
	_, err = remote.Image(pushed, remote.WithTransport(client.Transport))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(last(s, func(r Request) bool { return strings.HasSuffix(r.URL, "/manifests/v1") }).Upstream).To(BeTrue())
	refused, err := name.ParseReference(host + "/org/other:v1")
	g.Expect(err).NotTo(HaveOccurred())
	_, err = remote.Image(refused, remote.WithTransport(client.Transport))
	g.Expect(err).To(MatchError(ContainSubstring("DENIED: no local answer for URL oci://" + host + "/org/other")))
}

func TestCloseEndsEverything(t *testing.T) {
	g := NewWithT(t)
	bare, revision := snapshotOf(t, map[string]string{"a.yaml": "a\n"}, SnapshotOptions{})
	s := serve(t, ServerOptions{Answers: []Answer{{URL: "ssh://github.com/a/b", Repository: bare}, {URL: "https://github.com/a/b", Repository: bare}}})
	var connections []net.Conn
	for _, l := range []*listener{s.web, s.socks} {
		var dialer net.Dialer
		conn, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
		g.Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		connections = append(connections, conn)
	}
	_, err := connections[0].Write([]byte("CONNECT github.com:443 HTTP/1.1\r\nHost: github.com:443\r\n\r\n"))
	g.Expect(err).NotTo(HaveOccurred())

	// A client in the middle of a fetch: git waits for what it wants.
	secret, _ := s.credential.Password()
	dialer, err := proxy.SOCKS5("tcp", s.socks.Addr().String(), &proxy.Auth{User: s.credential.Username(), Password: secret}, nil)
	g.Expect(err).NotTo(HaveOccurred())
	conn, err := dialer.Dial("tcp", "github.com:22")
	g.Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	client, channels, requests, err := ssh.NewClientConn(conn, "github.com:22", &ssh.ClientConfig{
		User: "git", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.identity.signer)}, HostKeyCallback: ssh.FixedHostKey(s.hostKey.signer.PublicKey()),
	})
	g.Expect(err).NotTo(HaveOccurred())
	session, err := ssh.NewClient(client, channels, requests).NewSession()
	g.Expect(err).NotTo(HaveOccurred())
	output, err := session.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(session.Start("git-upload-pack '/a/b'")).To(Succeed())
	first := make([]byte, 44)
	_, err = io.ReadFull(output, first)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(first[4:])).To(Equal(revision.Commit))

	g.Expect(s.Close()).To(Succeed())
	g.Expect(session.Wait()).NotTo(Succeed(), "the fetch was cut off")
	g.Expect(s.Close()).To(Succeed())
	for i, l := range []*listener{s.web, s.socks} {
		var dialer net.Dialer
		_, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
		g.Expect(err).To(MatchError(ContainSubstring("refused")))
		var rest bytes.Buffer
		_, _ = rest.ReadFrom(connections[i]) // it ends
	}
}
