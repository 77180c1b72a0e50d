package source

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestNormalize(t *testing.T) {
	for raw, want := range map[string]string{
		"https://github.com/org/repo":              "https://github.com/org/repo",
		"https://GitHub.COM/Org/Repo.git":          "https://github.com/Org/Repo",
		"https://github.com/org/repo.git/":         "https://github.com/org/repo",
		"https://github.com:443/org/repo":          "https://github.com/org/repo",
		"https://github.com:8443/org/repo":         "https://github.com:8443/org/repo",
		"https://user:secret@github.com/org/repo":  "https://github.com/org/repo",
		"http://github.com:80/org/repo":            "http://github.com/org/repo",
		"ssh://git@github.com/org/repo":            "ssh://github.com/org/repo",
		"ssh://git@github.com:22/org/repo":         "ssh://github.com/org/repo",
		"ssh://git@github.com:2222/org/repo.git":   "ssh://github.com:2222/org/repo",
		"git@github.com:org/repo.git":              "ssh://github.com/org/repo",
		"oci://ghcr.io/org/manifests":              "oci://ghcr.io/org/manifests",
		"https://[::1]:8443/org/repo":              "https://[::1]:8443/org/repo",
		"https://[::1]/org/repo":                   "https://[::1]/org/repo",
		"https://github.com/org/../evil":           "https://github.com/org/../evil",
		"https://github.com/org/%72epo":            "https://github.com/org/repo",
		"https://github.com/org/a b":               "https://github.com/org/a%20b",
		"https://github.com/org/äöü":               "https://github.com/org/%C3%A4%C3%B6%C3%BC",
		"https://github.com/.git":                  "https://github.com/.git",
		"https://github.com./org/repo":             "https://github.com/org/repo",
		"https://kyverno.github.io/kyverno/":       "https://kyverno.github.io/kyverno",
		"https://kyverno.github.io":                "https://kyverno.github.io",
		"https://dev.azure.com/org/p/_git/repo":    "https://dev.azure.com/org/p/_git/repo",
		"ssh://git@ssh.dev.azure.com/v3/org/p/r":   "ssh://ssh.dev.azure.com/v3/org/p/r",
		"https://gitlab.com/group/sub/project.git": "https://gitlab.com/group/sub/project",
	} {
		g := NewWithT(t)
		g.Expect(Normalize(raw)).To(Equal(want), raw)
	}
	for raw, want := range map[string]string{
		"":                        "the URL is empty",
		"github.com/org/repo":     "is not a URL: write it as https://HOST/PATH",
		"./org:repo":              "is not a URL",
		"ftp://github.com/repo":   "use https, ssh, http or oci",
		"https:///org/repo":       "it names no host",
		"https://github.com/a?b":  "has a query or a fragment",
		"https://github.com/a#b":  "has a query or a fragment",
		"https://git hub.com/a":   "is not a URL",
		"file:///srv/repo":        "use https, ssh, http or oci",
		"https://github.com:x/a":  "is not a URL",
		"https://u:secret@:443/a": "it names no host",
	} {
		g := NewWithT(t)
		_, err := Normalize(raw)
		g.Expect(err).To(MatchError(ContainSubstring(want)), raw)
	}
}

// What is normal stays as it is, however strange, and never leads to another
// host.
func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{
		"https://github.com/org/repo.git", "git@github.com:org/repo", "ssh://git@[::1]:22/.git/", "oci://a/b", "https://a.git.git/x.git.git",
		"https://a%2fb/c", "http://A:80/%2e%2e/b", "ssh://a:022/b", "https://a/%zz", "x:y", "git@[a]:b", "https://a./", "a:b@c/d",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		normal, err := Normalize(raw)
		if err != nil {
			return
		}
		again, err := Normalize(normal)
		if err != nil || again != normal {
			t.Fatalf("%q became %q, and that %q, %v", raw, normal, again, err)
		}
		if !strings.Contains(raw, "://") {
			return
		}
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatalf("%q was taken, though it is no URL", raw)
		}
		n, err := url.Parse(normal)
		if err != nil {
			t.Fatalf("%q became %q, which is no URL", raw, normal)
		}
		if !strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), n.Hostname()) || n.User != nil {
			t.Fatalf("%q became %q", raw, normal)
		}
	})
}

func TestGitService(t *testing.T) {
	for path, want := range map[string][2]string{
		"/org/repo.git/info/refs":       {"/org/repo.git", "/info/refs"},
		"/org/repo/git-upload-pack":     {"/org/repo", "/git-upload-pack"},
		"/org/repo/git-receive-pack":    {"/org/repo", "/git-receive-pack"},
		"/info/refs":                    {"/info/refs", ""},
		"/org/info/refs/x":              {"/org/info/refs/x", ""},
		"/org/info/refs/info/refs":      {"/org/info/refs", "/info/refs"},
		"/kyverno/index.yaml":           {"/kyverno/index.yaml", ""},
		"/org/repo/git-upload-pack.tgz": {"/org/repo/git-upload-pack.tgz", ""},
	} {
		base, service := gitService(path)
		NewWithT(t).Expect([2]string{base, service}).To(Equal(want), path)
	}
}

func TestRegistryAddress(t *testing.T) {
	for path, want := range map[string]string{
		"/v2":                              "oci://ghcr.io",
		"/v2/":                             "oci://ghcr.io",
		"/v2/org/app/manifests/v1":         "oci://ghcr.io/org/app",
		"/v2/org/app/blobs/sha256:ab":      "oci://ghcr.io/org/app",
		"/v2/org/app/tags/list":            "oci://ghcr.io/org/app",
		"/v2/org/manifests/manifests/v1":   "oci://ghcr.io/org/manifests",
		"/v2/org/manifests/blobs/uploads/": "oci://ghcr.io/org/manifests",
		"/v2/org/app/referrers/sha256:ab":  "oci://ghcr.io/org/app",
	} {
		NewWithT(t).Expect(registryAddress(address{"https", "ghcr.io", path}).String()).To(Equal(want), path)
	}
}

func packet(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

func TestWants(t *testing.T) {
	g := NewWithT(t)
	a, b := strings.Repeat("a", 40), strings.Repeat("b", 40)
	version0 := packet("want "+a+" multi_ack ofs-delta agent=x\n") + packet("want "+b+"\n") + packet("want "+b+"\n") + packet("deepen 1\n") + "0000" + packet("done\n")
	version2 := packet("command=fetch") + packet("agent=git/2") + "0001" + packet("thin-pack") + packet("want "+a+"\n") + packet("done\n") + "0000"
	g.Expect(wants([]byte(version0))).To(Equal([]string{a, b}))
	g.Expect(wants([]byte(version2))).To(Equal([]string{a}))
	g.Expect(wants([]byte(packet("want main\n") + "zzzz" + packet("want "+a)))).To(BeEmpty())
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := io.WriteString(w, version0)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(w.Close()).To(Succeed())
	g.Expect(wants(plainBody(zipped.Bytes(), "gzip", 1<<20))).To(Equal([]string{a, b}))
	g.Expect(plainBody([]byte("no gzip"), "gzip", 1<<20)).To(BeEmpty())
	g.Expect(advertised([]byte(packet("# service=git-upload-pack\n") + "0000" + packet(a+" HEAD\x00multi_ack\n") + packet(b+" refs/heads/main\n")))).To(Equal(a))
	g.Expect(advertised([]byte(packet(a + " HEAD\x00multi_ack\n")))).To(Equal(a))
	g.Expect(advertised([]byte(packet("# service=git-upload-pack\n") + "0000" + packet("version 2\n")))).To(BeEmpty())
}

func FuzzGitRequest(f *testing.F) {
	a := strings.Repeat("a", 40)
	for _, seed := range []string{packet("want " + a + " agent=x\n"), packet("# service=x\n") + "0000" + packet(a+" HEAD\x00"), "0003", "fffe", "0004", "00"} {
		f.Add([]byte(seed), "gzip")
		f.Add([]byte(seed), "")
	}
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		for _, name := range append(wants(plainBody(body, encoding, 1<<16)), advertised(body)) {
			if name != "" && !isObjectName(name) {
				t.Fatalf("%q is no object", name)
			}
		}
	})
}

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]string{
		"git-upload-pack '/org/repo'":           "git-upload-pack /org/repo",
		"git upload-pack '/org/repo.git'":       "git-upload-pack /org/repo.git",
		"git-receive-pack 'org/repo'":           "git-receive-pack org/repo",
		`git-upload-pack '/it'\''s/rep'\!'o'`:   "git-upload-pack /it's/rep!o",
		"git-upload-pack /org/repo":             "git-upload-pack /org/repo",
		"":                                      "a shell was asked for",
		"ls -l":                                 "is not one of them",
		"git-upload-pack":                       "is not one of them",
		"git-upload-archive '/org/repo'":        "is not one of them",
		"git-upload-pack ''; rm -rf /":          "is not quoted as git does it",
		"git-upload-pack '/org/repo":            "has no closing quote",
		"git-upload-pack $(id)":                 "is not quoted as git does it",
		"git-upload-pack --strict '/org/repo'":  "is not quoted as git does it",
		"git-upload-pack '/org'/repo":           "is not quoted as git does it",
		"git-upload-pack '/a' '/b'":             "is not quoted as git does it",
		"git-upload-pack \"/org/repo\"":         "is not quoted as git does it",
		"git-upload-pack '/org/repo' | sh":      "is not quoted as git does it",
		"scp -t /tmp":                           "is not one of them",
		"git-lfs-authenticate '/a' 'download'":  "is not one of them",
		"git upload-pack":                       "is not one of them",
		"git-upload-pack  '/two spaces are ok'": "git-upload-pack /two spaces are ok",
	} {
		g := NewWithT(t)
		service, path, err := parseCommand(line)
		if err != nil {
			g.Expect(err).To(MatchError(ContainSubstring(want)), line)
			continue
		}
		g.Expect(service+" "+path).To(Equal(want), line)
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"git-upload-pack '/a'", `git-upload-pack '/it'\''s'`, "git upload-pack x", "'", `'\`, `git-upload-pack '\''`} {
		f.Add(seed)
	}
	quote := strings.NewReplacer("'", `'\''`, "!", `'\!'`)
	f.Fuzz(func(t *testing.T, path string) {
		_, _, _ = parseCommand(path) // whatever it is, it ends
		_, unquoted, err := parseCommand("git-upload-pack '" + quote.Replace(path) + "'")
		if err != nil || unquoted != path {
			t.Fatalf("%q came back as %q, %v", path, unquoted, err)
		}
	})
}

// greeting is what a client of SOCKS sends.
func greeting(user, secret string, request ...byte) []byte {
	message := []byte{5, 2, 0, 2, 1, byte(len(user))}
	message = append(message, user...)
	message = append(message, byte(len(secret)))
	message = append(message, secret...)
	return append(message, request...)
}

func TestNegotiate(t *testing.T) {
	admits := func(user, secret string) bool { return user == "u" && secret == "s" }
	byName := append([]byte{5, 1, 0, 3, 10}, append([]byte("github.com"), 0, 22)...)
	for name, c := range map[string]struct {
		message []byte
		want    dialled
		reply   []byte
		err     string
	}{
		"by name":          {greeting("u", "s", byName...), dialled{"github.com", "22"}, []byte{5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, ""},
		"by address":       {greeting("u", "s", 5, 1, 0, 1, 192, 0, 2, 1, 8, 174), dialled{"192.0.2.1", "2222"}, []byte{5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, ""},
		"by IPv6 address":  {greeting("u", "s", append(append([]byte{5, 1, 0, 4}, make([]byte, 15)...), 1, 0, 22)...), dialled{"::1", "22"}, []byte{5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, ""},
		"wrong secret":     {greeting("u", "x", byName...), dialled{}, []byte{5, 2, 1, 1}, "brought a wrong credential"},
		"no credential":    {[]byte{5, 1, 0}, dialled{}, []byte{5, 255}, "brought no credential"},
		"version 4":        {[]byte{4, 1, 0, 22, 1, 2, 3, 4, 0}, dialled{}, nil, "it has version 4, not 5"},
		"another method":   {[]byte{5, 1, 2, 7}, dialled{}, []byte{5, 2}, "it has version 7, not 1"},
		"BIND":             {greeting("u", "s", append([]byte{5, 2}, byName[2:]...)...), dialled{}, []byte{5, 2, 1, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0}, "command 2 is not served: only CONNECT is"},
		"another address":  {greeting("u", "s", 5, 1, 0, 9), dialled{}, []byte{5, 2, 1, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0}, "an address of an unknown kind"},
		"another version":  {greeting("u", "s", 4, 1, 0, 1), dialled{}, []byte{5, 2, 1, 0}, "it has version 4, not 5"},
		"the end too soon": {greeting("u", "s", byName[:9]...), dialled{}, []byte{5, 2, 1, 0}, "unexpected EOF"},
		"nothing":          {nil, dialled{}, nil, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			var reply bytes.Buffer
			target, err := negotiate(bytes.NewReader(c.message), &reply, admits)
			if c.err == "" {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(err).To(MatchError(ContainSubstring(c.err)))
			}
			g.Expect(target).To(Equal(c.want))
			g.Expect(reply.Bytes()).To(Equal(c.reply))
		})
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add(greeting("u", "s", append([]byte{5, 1, 0, 3, 1, 'a'}, 0, 22)...))
	f.Add(greeting("u", "x", 5, 1, 0, 1, 1, 2, 3, 4, 0, 22))
	f.Add([]byte{5, 255})
	f.Fuzz(func(t *testing.T, message []byte) {
		admitted := false
		_, err := negotiate(bytes.NewReader(message), io.Discard, func(user, secret string) bool {
			admitted = user == "u" && secret == "s"
			return admitted
		})
		if err == nil && !admitted {
			t.Fatal("a client without the credential was let in")
		}
	})
}

// Whatever a path holds, fast-import reads it as it was written.
func TestPathsSurviveQuoting(t *testing.T) {
	g := NewWithT(t)
	bare, _ := snapshotOf(t, map[string]string{"a": "a"}, SnapshotOptions{})
	files := map[string]*File{}
	for _, name := range []string{"\"", "a\"b", "back\\slash", "new\nline", "tab\tulator", " space ", "-dash", ":colon", "#hash", "\x01\x7f", "\xff\xfe", "日本", "it's", "a/b/c d"} {
		files[name] = &File{Content: []byte(name)}
	}
	_, err := Commit(t.Context(), bare, "main", Change{Files: files})
	g.Expect(err).NotTo(HaveOccurred())
	for name := range files {
		g.Expect(ReadFile(t.Context(), bare, "main", name)).To(BeEquivalentTo(name), "%q", name)
	}
	out := filepath.Join(t.TempDir(), "out")
	g.Expect(Export(t.Context(), bare, "main", out)).To(Succeed())
}
