package source

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"strings"
	"sync"
)

// serveGit answers a request of git's smart protocol with git http-backend,
// which (unlike Git servers in Go) serves shallow clones.
func (x *exchange) serveGit(served *served, service string) *http.Response {
	r := x.request
	x.name(served.address)
	asked := service
	if service == "/info/refs" {
		asked = "/" + r.URL.Query().Get("service")
	}
	switch {
	case asked == "/git-receive-pack":
		return x.refuse(served.address, http.StatusForbidden, "URL "+served.address.String()+" is served read only: change the folder that it is a snapshot of")
	case asked != "/git-upload-pack":
		return x.refuse(served.address, http.StatusForbidden, "URL "+served.address.String()+" is served by git's smart protocol only: use a newer client")
	case service == "/info/refs" && r.Method != http.MethodGet, service != "/info/refs" && r.Method != http.MethodPost:
		return x.refuse(served.address, http.StatusMethodNotAllowed, "method "+r.Method+" is not part of git's protocol")
	}
	x.entry.Revision = strings.Join(wants(plainBody(x.body, r.Header.Get("Content-Encoding"), maxRequestBody)), ",")
	environ := gitEnviron(
		"GIT_PROJECT_ROOT="+served.repository,
		"GIT_HTTP_EXPORT_ALL=1",
	)
	if version := r.Header.Get("Git-Protocol"); isProtocol(version) {
		environ = append(environ, "GIT_PROTOCOL="+version)
	}
	inner := r.Clone(x.server.ctx)
	inner.URL.Path, inner.URL.RawPath = service, ""
	inner.Header.Del("Authorization") // it is for a server that is not asked
	inner.Header.Del("Proxy-Authorization")
	inner.Body = io.NopCloser(bytes.NewReader(x.body))
	x.complaint = &bytes.Buffer{}
	backend := &cgi.Handler{
		Path: x.server.git, Dir: served.repository, Args: append(gitSettings(), "http-backend"),
		Env: environ, Stderr: x.complaint, Logger: log.New(io.Discard, "", 0),
	}
	response := x.server.handle(backend, inner)
	return x.logged(response)
}

// isProtocol says that a client's wish for a protocol version is one, and
// nothing that should not get into an environment.
func isProtocol(wish string) bool {
	return wish != "" && len(wish) < 100 && strings.Trim(wish, "abcdefghijklmnopqrstuvwxyz0123456789=:") == ""
}

// serveChart answers a request for a file of a Helm repository.
func (x *exchange) serveChart(served *served, name string) *http.Response {
	x.name(served.address)
	if x.request.Method != http.MethodGet && x.request.Method != http.MethodHead {
		return x.refuse(served.address, http.StatusMethodNotAllowed, "a Helm repository is only read")
	}
	file, err := served.open(name)
	if err != nil {
		return x.refuse(served.address, http.StatusNotFound, err.Error())
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return x.refuse(served.address, http.StatusInternalServerError, err.Error())
	}
	x.entry.Revision = name
	kind := "application/gzip"
	if name == "index.yaml" {
		kind = "application/yaml"
	}
	response := x.respond(http.StatusOK, "OK")
	response.Header.Set("Content-Type", kind)
	response.ContentLength, response.Body = info.Size(), file
	return x.logged(response)
}

// handle runs a handler and returns what it writes as a response whose body
// streams. Closing the body makes the handler's next write fail.
func (s *Server) handle(h http.Handler, r *http.Request) *http.Response {
	reader, writer := io.Pipe()
	w := &responseWriter{header: http.Header{}, body: writer, started: make(chan struct{})}
	stop := context.AfterFunc(s.ctx, func() { writer.CloseWithError(context.Canceled) })
	s.running.Go(func() {
		defer stop()
		h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		writer.Close()
	})
	<-w.started
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: -1, Body: reader,
	}
}

// responseWriter is the handler's end of a response.
type responseWriter struct {
	header  http.Header
	sent    http.Header
	status  int
	body    *io.PipeWriter
	once    sync.Once
	started chan struct{}
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	})
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}
