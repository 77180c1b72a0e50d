package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// values has bytes that no YAML or text processing would keep.
var values = []byte("greeting: \"hällo\"\r\n\x00end")

// start serves two files, of which the second is not there yet.
func start(t *testing.T) (s *service, server *httptest.Server, missing string) {
	t.Helper()
	dir := t.TempDir()
	base := filepath.Join(dir, "base.yaml")
	missing = filepath.Join(dir, "env.yaml")
	if err := os.WriteFile(base, values, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newService([]string{base, missing}, "1.5.0", "beetle-0")
	if err != nil {
		t.Fatal(err)
	}
	server = httptest.NewServer(s.handler())
	t.Cleanup(server.Close)
	return s, server, missing
}

// get asks once, as the program does, and wants every answer to tell who gave
// it.
func get(t *testing.T, address string) answer {
	t.Helper()
	a := newFetcher(address, "", time.Minute, true).fetch(t.Context())
	if a.Error != "" || a.Version != "1.5.0" || a.Pod != "beetle-0" {
		t.Fatalf("%s: %+v", address, a)
	}
	return a
}

func TestPaths(t *testing.T) {
	_, server, missing := start(t)
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/":                 {200, "/\n/healthz\n/readyz\n/version\n/config/base.yaml\n/config/env.yaml\n"},
		"/healthz":          {200, "ok\n"},
		"/readyz":           {503, "open " + missing + ": no such file or directory\n"},
		"/version":          {200, `{"version":"1.5.0","pod":"beetle-0"}` + "\n"},
		"/config/base.yaml": {200, string(values)},
		"/config/env.yaml":  {500, "open " + missing + ": no such file or directory\n"},
		"/config/else":      {404, "404 page not found\n"},
		"/config/":          {404, "404 page not found\n"},
		"/else":             {404, "404 page not found\n"},
	} {
		t.Run(path, func(t *testing.T) {
			g := NewWithT(t)
			a := get(t, server.URL+path)
			g.Expect(a.Status).To(Equal(want.status))
			g.Expect(string(a.Body)).To(Equal(want.body))
			g.Expect(a.Bytes).To(BeEquivalentTo(len(want.body)))
		})
	}
}

// A mounted file may come and change while the pod runs.
func TestFilesAreReadAsTheyAreNow(t *testing.T) {
	g := NewWithT(t)
	_, server, missing := start(t)
	for _, content := range []string{"replicas: 1\n", "replicas: 2\n"} {
		g.Expect(os.WriteFile(missing, []byte(content), 0o600)).To(Succeed())
		g.Expect(get(t, server.URL+"/readyz").Status).To(Equal(http.StatusOK))
		g.Expect(string(get(t, server.URL+"/config/env.yaml").Body)).To(Equal(content))
	}
}

// Told to end, it is no longer ready and still serves, until the drain is over.
func TestDrain(t *testing.T) {
	g := NewWithT(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	s, err := newService(nil, "1.5.0", "beetle-0")
	g.Expect(err).NotTo(HaveOccurred())
	address := "http://" + listener.Addr().String()
	told, tell := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	log := &bytes.Buffer{}
	go func() { ended <- s.serve(told, listener, time.Second, log) }()
	g.Expect(get(t, address+"/readyz").Status).To(Equal(http.StatusOK))
	tell()
	g.Eventually(func() int { return get(t, address+"/readyz").Status }).Should(Equal(http.StatusServiceUnavailable))
	g.Expect(string(get(t, address+"/readyz").Body)).To(Equal("this pod was told to end\n"))
	response, err := http.Get(address + "/healthz")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(response.Body.Close()).To(Succeed())
	g.Expect(response.StatusCode).To(Equal(http.StatusOK), "it goes on serving")
	g.Expect(response.Close).To(BeTrue(), "who keeps connections is sent elsewhere")
	g.Eventually(ended, time.Minute).Should(Receive(BeNil()))
	g.Expect(log.String()).To(Equal("app 1.5.0 in beetle-0: told to end; serving for 1s more\n"))
	a := newFetcher(address, "", time.Second, false).fetch(t.Context())
	g.Expect(a.Error).To(ContainSubstring("connection refused"))
	g.Expect(a.Status).To(BeZero())
}

// lines runs the program and decodes what it writes.
func lines(t *testing.T, args ...string) []answer {
	t.Helper()
	var out, log bytes.Buffer
	if err := run(t.Context(), append([]string{"fetch"}, args...), &out, &log); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, &log)
	}
	return decode(t, &out)
}

func decode(t *testing.T, from io.Reader) []answer {
	t.Helper()
	var answers []answer
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		var a answer
		if err := json.Unmarshal(scanner.Bytes(), &a); err != nil {
			t.Fatalf("%s: %v", scanner.Text(), err)
		}
		answers = append(answers, a)
	}
	return answers
}

func TestFetch(t *testing.T) {
	g := NewWithT(t)
	connections := map[string]bool{}
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		connections[r.RemoteAddr] = true
		mu.Unlock()
		w.Header().Set("X-Pod", "tiger-1")
		w.Header().Set("X-Version", "0.42.0")
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, r.Host)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")

	before := time.Now()
	answers := lines(t, "--url="+server.URL, "--count=3", "--host=tiger.example")
	g.Expect(answers).To(HaveLen(3))
	for _, a := range answers {
		g.Expect(a.Time).To(BeTemporally(">=", before.Truncate(time.Microsecond)))
		a.Time = time.Time{}
		g.Expect(a).To(Equal(answer{
			Status: 200, Pod: "tiger-1", Version: "0.42.0", Bytes: 13,
			SHA256: "98cf71222af33bf9dbe4d681dff16e3378f84e47e8c49ab97967274afb514519",
		}))
	}
	g.Expect(connections).To(HaveLen(3), "each request is routed anew")

	answers = lines(t, "--url="+server.URL, "--body")
	g.Expect(answers).To(HaveLen(1))
	g.Expect(string(answers[0].Body)).To(Equal(host))
	g.Expect(lines(t, "--url="+server.URL+"/elsewhere")[0].Status).To(Equal(http.StatusFound))
}

// An answer that does not come is a line as well, and no failure of the program.
func TestFetchWithoutAnAnswer(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			return
		}
		<-release
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, test := range map[string]struct {
		url    string
		status int
		want   string
	}{
		"nobody":    {closed.URL, 0, "connection refused"},
		"no answer": {server.URL, 0, "Client.Timeout exceeded"},
		"cut short": {server.URL + "/cut", 200, "read the answer: unexpected EOF"},
		"no name":   {"http://nobody.invalid", 0, "nobody.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			answers := lines(t, "--url="+test.url, "--timeout=300ms")
			g.Expect(answers).To(HaveLen(1))
			g.Expect(answers[0].Status).To(Equal(test.status))
			g.Expect(answers[0].Error).To(ContainSubstring(test.want))
		})
	}
}

// The stream ends when it is told to, with the request at hand answered.
func TestFetchUntilToldToEnd(t *testing.T) {
	g := NewWithT(t)
	ctx, end := context.WithCancel(t.Context())
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if requests.Add(1) == 3 {
			end()
		}
	}))
	t.Cleanup(server.Close)
	var out bytes.Buffer
	g.Expect(run(ctx, []string{"fetch", "--url=" + server.URL, "--interval=1ms"}, &out, io.Discard)).To(Succeed())
	answers := decode(t, &out)
	g.Expect(answers).To(HaveLen(3))
	g.Expect(answers).To(HaveEach(HaveField("Status", http.StatusOK)))
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":       {[]string{"--verbose"}, "flag provided but not defined: -verbose"},
		"argument":           {[]string{"serve"}, `app: unexpected argument "serve"`},
		"no file":            {[]string{"--config="}, "no file named"},
		"one name twice":     {[]string{"--config=/a/x.yaml", "--config=/b/x.yaml"}, "--config=/a/x.yaml and --config=/b/x.yaml have one name"},
		"no URL":             {[]string{"fetch"}, "--url=: not the address of a web page"},
		"not a URL":          {[]string{"fetch", "--url=http://%"}, "--url: parse"},
		"not of the web":     {[]string{"fetch", "--url=file:///etc/passwd"}, "--url=file:///etc/passwd: not the address of a web page"},
		"count and interval": {[]string{"fetch", "--url=http://a", "--count=2", "--interval=1s"}, "--count and --interval exclude each other"},
		"no request":         {[]string{"fetch", "--url=http://a", "--count=0"}, "are greater than zero"},
		"no interval":        {[]string{"fetch", "--url=http://a", "--interval=0"}, "are greater than zero"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), test.args, io.Discard, io.Discard)
			var wrong *usageError
			NewWithT(t).Expect(errors.As(err, &wrong)).To(BeTrue())
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
	NewWithT(t).Expect(run(t.Context(), []string{"--help"}, io.Discard, io.Discard)).To(MatchError(flag.ErrHelp))
}
