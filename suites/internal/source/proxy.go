package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"log"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/elazarl/goproxy"
)

// maxRequestBody bounds what a client may send; a fetch of many branches sends
// some kilobytes.
const maxRequestBody = 32 << 20

// newHTTPServer makes the proxy. TLS is terminated by goproxy; what comes out of
// it, and plain HTTP, is answered by route.
func (s *Server) newHTTPServer(authority tls.Certificate) *http.Server {
	proxy := goproxy.NewProxyHttpServer()
	silent := log.New(io.Discard, "", 0)
	proxy.Logger = silent
	proxy.CertStore = &certificates{known: map[string]*tls.Certificate{}}
	intercept := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&authority)}
	proxy.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(
		func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) { return intercept, host }))
	proxy.OnRequest().DoFunc(
		func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
			return r, s.route(r.Context(), r)
		})
	return &http.Server{
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          silent,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case !s.admits(r):
				s.recordRefused(r, http.StatusProxyAuthRequired, "the client brought no credential, or a wrong one")
				w.Header().Set("Proxy-Authenticate", `Basic realm="session"`)
				http.Error(w, "this proxy serves its own session only", http.StatusProxyAuthRequired)
			case r.Method == http.MethodConnect:
				proxy.ServeHTTP(w, r)
			case !r.URL.IsAbs():
				s.recordRefused(r, http.StatusBadRequest, "the request was not for a proxy")
				http.Error(w, "this is a proxy: it takes requests with an absolute URL", http.StatusBadRequest)
			default:
				s.answerPlain(w, r)
			}
		}),
	}
}

// admits checks the credential. Its digest is compared, so that neither content
// nor length shows in the time it takes.
func (s *Server) admits(r *http.Request) bool {
	header := http.Request{Header: http.Header{"Authorization": r.Header.Values("Proxy-Authorization")}}
	user, secret, _ := header.BasicAuth()
	return s.admitsPair(user, secret)
}

func (s *Server) admitsPair(user, secret string) bool {
	want, _ := s.credential.Password()
	wanted := sha256.Sum256([]byte(s.credential.Username() + ":" + want))
	given := sha256.Sum256([]byte(user + ":" + secret))
	return subtle.ConstantTimeCompare(wanted[:], given[:]) == 1
}

func (s *Server) recordRefused(r *http.Request, status int, reason string) {
	s.record(Request{Time: time.Now(), Method: r.Method, URL: bareURL(r.URL), Status: status, Error: reason})
}

// answerPlain answers a request for an http:// URL. It takes the connection
// over, because a refusal says in its status line why.
func (s *Server) answerPlain(w http.ResponseWriter, r *http.Request) {
	response := s.route(r.Context(), r)
	defer response.Body.Close()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // the client is gone
	}
	defer conn.Close()
	response.Close = true
	_ = response.Write(conn) // the client may be gone; the log says what was served
}

// exchange is one HTTP request on its way to an answer.
type exchange struct {
	server  *Server
	request *http.Request
	body    []byte
	entry   Request

	complaint *bytes.Buffer // what git http-backend said; complete once the body has ended
}

// route answers a request of an intercepted client. The response is never nil.
func (s *Server) route(ctx context.Context, r *http.Request) *http.Response {
	x := &exchange{server: s, request: r, entry: Request{Time: time.Now(), Method: r.Method, URL: bareURL(r.URL)}}
	var err error
	if x.body, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, maxRequestBody)); err != nil {
		return x.refuse(address{}, http.StatusRequestEntityTooLarge, "read the request: "+err.Error())
	}
	r.TransferEncoding, r.ContentLength, r.Body = nil, int64(len(x.body)), io.NopCloser(bytes.NewReader(x.body))
	base, service := gitService(r.URL.Path)
	if service != "" {
		return x.routeGit(ctx, base, service)
	}
	return x.routeFile(ctx)
}

func bareURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// gitService splits the path of a request of git's smart protocol into the
// repository's path and what is asked of it.
func gitService(path string) (base, service string) {
	for _, service := range []string{"/info/refs", "/git-upload-pack", "/git-receive-pack"} {
		if base, ok := strings.CutSuffix(path, service); ok && base != "" {
			return base, service
		}
	}
	return path, ""
}

func (x *exchange) routeGit(ctx context.Context, base, service string) *http.Response {
	at := *x.request.URL
	at.Path, at.RawPath = base, ""
	addr, err := addressOf(&at)
	if err != nil {
		return x.refuse(addr, http.StatusBadRequest, err.Error())
	}
	current := x.server.current()
	if served := current.exact[addr]; served != nil && served.kind == kindGit {
		return x.serveGit(served, service)
	}
	if from, ok := x.server.passes(current, addr); ok {
		return x.fetchUpstream(ctx, from)
	}
	return x.refuseUnmapped(addr)
}

func (x *exchange) routeFile(ctx context.Context) *http.Response {
	u := x.request.URL
	addr, err := addressOf(&url.URL{Scheme: u.Scheme, Host: u.Host})
	if err != nil {
		return x.refuse(addr, http.StatusBadRequest, err.Error())
	}
	addr.path = strings.TrimRight(u.Path, "/")
	current := x.server.current()
	if from, ok := x.server.passes(current, addr); ok {
		return x.fetchUpstream(ctx, from)
	}
	if isRegistryPath(addr.path) {
		return x.routeRegistry(ctx, current, addr)
	}
	served := current.at(addr)
	switch {
	case served == nil:
		return x.refuseUnmapped(sourceOfFile(addr))
	case served.kind == kindHelm:
		return x.serveChart(served, strings.TrimPrefix(addr.path, served.address.path+"/"))
	default:
		return x.refuse(served.address, http.StatusNotFound,
			fmt.Sprintf("URL %s is answered by a local Git repository, which has no such file: fetch it with git", oneLine(x.entry.URL)))
	}
}

// sourceOfFile is the URL that a source would name for a file that is fetched.
func sourceOfFile(addr address) address {
	addr.path = normalPath(strings.TrimSuffix(addr.path, "/index.yaml"))
	return addr
}

// routeRegistry answers a request for an OCI registry: one day from the map,
// today upstream or not at all.
func (x *exchange) routeRegistry(ctx context.Context, current *answers, addr address) *http.Response {
	named := registryAddress(addr)
	if served := current.at(named); served != nil {
		return x.fetchUpstream(ctx, served)
	}
	if named.path == "" { // the first request of every client
		for known, served := range current.exact {
			if known.scheme == named.scheme && known.host == named.host {
				return x.fetchUpstream(ctx, served)
			}
		}
	}
	return x.refuseUnmapped(named)
}

func isRegistryPath(path string) bool { return below(path, "/v2") }

// registryAddress is the oci:// address that a path of the distribution
// protocol (/v2/NAME/manifests/TAG) belongs to.
func registryAddress(addr address) address {
	name := "/" + strings.TrimPrefix(strings.TrimPrefix(addr.path, "/v2"), "/")
	last := -1 // the last one counts: a repository may be called «manifests»
	for _, part := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		last = max(last, strings.LastIndex(name, part))
	}
	if last >= 0 {
		name = name[:last]
	}
	return address{scheme: "oci", host: addr.host, path: normalPath(name)}
}

// refuseUnmapped refuses a URL that has no answer. The status is one whose body
// the client repeats in full: 404 for go-git, 403 for the clients of registries,
// which take 404 for a missing tag. The status line says the same for clients
// that show only that, as Helm's does.
func (x *exchange) refuseUnmapped(addr address) *http.Response {
	addr, names := x.server.asking(addr)
	status := http.StatusNotFound
	if addr.scheme == "oci" {
		status = http.StatusForbidden
	}
	return x.refuse(addr, status, refusal(addr.String(), names))
}

func (x *exchange) refuse(addr address, status int, reason string) *http.Response {
	x.name(addr)
	x.entry.Status, x.entry.Error = status, reason
	x.server.record(x.entry)
	return x.respond(status, reason)
}

// name says in the log which source the request belongs to.
func (x *exchange) name(addr address) {
	if addr.scheme != "" {
		_, names := x.server.asking(addr)
		x.entry.Source, x.entry.Object = addr.String(), strings.Join(names, ", ")
	}
}

func (x *exchange) respond(status int, reason string) *http.Response {
	reason = oneLine(reason)
	kind, body := "text/plain; charset=utf-8", reason
	if isRegistryPath(x.request.URL.Path) {
		type registryError struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		encoded, err := json.Marshal(map[string][]registryError{"errors": {{Code: "DENIED", Message: reason}}})
		if err == nil {
			kind, body = "application/json", string(encoded)
		}
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, reason), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {kind}}, Request: x.request,
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
	}
}

// logged lets the response's body tell the log what went through it.
func (x *exchange) logged(response *http.Response) *http.Response {
	x.entry.Status = response.StatusCode
	x.entry.Answered = response.StatusCode < http.StatusBadRequest
	response.Request = x.request
	response.Body = &loggedBody{body: response.Body, digest: sha256.New(), exchange: x}
	return response
}

// loggedBody records its exchange when it is closed.
type loggedBody struct {
	body     io.ReadCloser
	digest   hash.Hash
	first    []byte // enough to see the first reference
	exchange *exchange
	once     sync.Once
}

func (b *loggedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.digest.Write(p[:n])
	b.exchange.entry.Bytes += int64(n)
	if room := 4096 - len(b.first); room > 0 {
		b.first = append(b.first, p[:min(n, room)]...)
	}
	entry := &b.exchange.entry
	switch {
	case err == nil || entry.Error != "":
	case err != io.EOF: //nolint:errorlint // a reader returns it unwrapped
		entry.Error = err.Error()
	case b.exchange.complaint != nil && !entry.Answered:
		entry.Error = "git http-backend: " + oneLine(b.exchange.complaint.String())
	}
	return n, err
}

func (b *loggedBody) Close() error {
	err := b.body.Close()
	b.once.Do(func() {
		entry := &b.exchange.entry
		entry.Digest = "sha256:" + hex.EncodeToString(b.digest.Sum(nil))
		if entry.Revision == "" && strings.HasSuffix(b.exchange.request.URL.Path, "/info/refs") {
			entry.Revision = advertised(b.first)
		}
		b.exchange.server.record(*entry)
	})
	return err
}
