package source

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ServerOptions say what a server answers, and where it listens.
type ServerOptions struct {
	// Dir is a folder of the session; the server writes its certificate, its
	// packaged charts and its log there. Required.
	Dir string
	// Host is the address of this machine to listen on. Empty: 127.0.0.1. Nodes
	// that are containers reach another, that of their network's gateway.
	Host string
	// Ports gives a free port for each listener; two are taken. nil: the kernel
	// chooses.
	Ports func() (int, error)
	// Answers is the map from URLs to what is served.
	Answers []Answer
	// Credential is «USER:SECRET», which every client of the proxies must bring.
	// Empty: one is made, which Environ contains. Other users of the machine are
	// kept out by it, so it belongs in no report.
	Credential string
	// NoProxy are hosts, addresses or ranges that clients reach directly, beside
	// the loopback ones.
	NoProxy []string
	// UpstreamRoots are trusted beside the system's authorities for URLs that
	// are let through: PEM. Empty: the system's only.
	UpstreamRoots []byte
	// Log is told of every request when it is over, from any goroutine. May be
	// nil.
	Log func(Request)
}

// Request is one thing that a client asked for. All of them stand in
// requests.jsonl in the server's folder, in the order in which they ended.
type Request struct {
	// Time is when it came.
	Time time.Time `json:"time"`
	// Method is that of HTTP, or «SSH», or «SOCKS» for a connection that was
	// refused before it asked for a path.
	Method string `json:"method"`
	// URL is the whole URL without credentials and query.
	URL string `json:"url"`
	// Source is the URL of the source that it belongs to, in its normal form.
	Source string `json:"source,omitempty"`
	// Object names the objects that have this source, as SetObjects was told.
	Object string `json:"object,omitempty"`
	// Answered says that it was served; Upstream that the real network did.
	Answered bool `json:"answered"`
	Upstream bool `json:"upstream,omitempty"`
	// Status is the HTTP status, or the exit status of an SSH command.
	Status int `json:"status"`
	// Revision is the commit that was fetched (several, by commas, in the rare
	// case) or, for the list of references, the first that was advertised; for
	// charts the name of the archive.
	Revision string `json:"revision,omitempty"`
	// Digest and Bytes are of the body that was served: «sha256:…».
	Digest string `json:"digest,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	// Error is why it was refused or failed.
	Error string `json:"error,omitempty"`
}

// keptRequests is how many requests are kept in memory; all are in the file.
const keptRequests = 20000

// Server answers the sources of one session. It listens on one address only.
type Server struct {
	dir        string
	git        string
	credential *url.Userinfo
	noProxy    []string
	authority  string
	charts     *chartStore
	hostKey    keyPair
	identity   keyPair
	password   string
	upstream   *http.Transport
	log        func(Request)

	ctx    context.Context // the server's own life, which no caller's context spans
	cancel context.CancelFunc

	web, socks *listener
	httpServer *http.Server
	running    sync.WaitGroup // listeners, connections, git processes

	mu      sync.RWMutex
	answers *answers
	objects objects
	learned map[string]address // URLs that an upstream answer led to, and that answer's URL

	logMu    sync.Mutex
	requests []Request
	logFile  *os.File

	closeOnce sync.Once
	closeErr  error
}

// Serve starts the server. The context bounds the start only; Close ends the
// server.
func Serve(ctx context.Context, o ServerOptions) (*Server, error) {
	s, err := newServer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("serve sources: %w", err)
	}
	return s, nil
}

func newServer(ctx context.Context, o ServerOptions) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("a folder is required")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		dir: dir, noProxy: o.NoProxy, log: o.Log, authority: filepath.Join(dir, "ca.crt"),
		charts: &chartStore{dir: filepath.Join(dir, "charts")}, password: rand.Text(),
		objects: objects{}, learned: map[string]address{},
	}
	if s.git, err = findGit(ctx); err != nil {
		return nil, err
	}
	if err := s.checkBackend(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	user, secret, ok := strings.Cut(cmp.Or(o.Credential, "session:"+rand.Text()), ":")
	if !ok || user == "" || secret == "" || len(user) > 255 || len(secret) > 255 {
		return nil, errors.New("the credential is not of the form USER:SECRET with at most 255 bytes each")
	}
	s.credential = url.UserPassword(user, secret)
	if s.upstream, err = upstreamTransport(o.UpstreamRoots); err != nil {
		return nil, err
	}
	if s.hostKey, err = newKeyPair("host"); err != nil {
		return nil, err
	}
	if s.identity, err = newKeyPair("stand-in"); err != nil {
		return nil, err
	}
	if s.answers, err = prepare(ctx, o.Answers, s.charts); err != nil {
		return nil, err
	}
	return s, s.listen(ctx, cmp.Or(o.Host, "127.0.0.1"), o.Ports)
}

// checkBackend makes sure that this git can serve over HTTP.
func (s *Server) checkBackend(ctx context.Context) error {
	output, err := gitCommand{args: []string{"--exec-path"}}.run(ctx)
	if err != nil {
		return err
	}
	program := filepath.Join(strings.TrimSpace(string(output)), "git-http-backend")
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("look for git http-backend: %w: install the whole of git, not its minimal package", err)
	}
	return nil
}

func (s *Server) listen(ctx context.Context, host string, ports func() (int, error)) (err error) {
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.logFile, err = os.OpenFile(filepath.Join(s.dir, "requests.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	authority, err := newAuthority(s.authority)
	if err != nil {
		return fmt.Errorf("make the session's certificate authority: %w", err)
	}
	if s.web, err = listenOn(ctx, host, ports); err != nil {
		return err
	}
	if s.socks, err = listenOn(ctx, host, ports); err != nil {
		return err
	}
	s.httpServer = s.newHTTPServer(authority)
	s.running.Go(func() { _ = s.httpServer.Serve(s.web) }) // ends with Close
	s.running.Go(s.serveSOCKS)
	return nil
}

func listenOn(ctx context.Context, host string, ports func() (int, error)) (*listener, error) {
	port := 0
	if ports != nil {
		var err error
		if port, err = ports(); err != nil {
			return nil, fmt.Errorf("get a port: %w", err)
		}
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp4", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen on port %d of %s: %w", port, host, err)
	}
	return &listener{Listener: l, open: map[*trackedConn]struct{}{}}, nil
}

// listener remembers its connections, because those that a proxy takes over are
// nobody else's to close.
type listener struct {
	net.Listener

	mu     sync.Mutex
	closed bool
	open   map[*trackedConn]struct{}
	all    sync.WaitGroup
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	l.open[tracked] = struct{}{}
	l.all.Add(1)
	return tracked, nil
}

// end closes the listener and every connection, and waits until all are let go.
func (l *listener) end() {
	l.Close()
	l.mu.Lock()
	l.closed = true
	for conn := range l.open {
		conn.Conn.Close() // whoever serves it notices, and closes it in turn
	}
	l.mu.Unlock()
	l.all.Wait()
}

type trackedConn struct {
	net.Conn

	listener *listener
	once     sync.Once
}

func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.listener.mu.Lock()
		delete(c.listener.open, c)
		c.listener.mu.Unlock()
		c.listener.all.Done()
	})
	return err
}

// Environ is what a source-controller needs in its environment to be answered.
// It contains the credential.
func (s *Server) Environ() []string {
	web := (&url.URL{Scheme: "http", User: s.credential, Host: s.web.Addr().String()}).String()
	socks := (&url.URL{Scheme: "socks5", User: s.credential, Host: s.socks.Addr().String()}).String()
	direct := append([]string{"127.0.0.1", "::1", "localhost"}, s.noProxy...)
	return []string{
		"HTTPS_PROXY=" + web,
		"HTTP_PROXY=" + web,
		"ALL_PROXY=" + socks,
		"NO_PROXY=" + strings.Join(direct, ","),
		"SSL_CERT_FILE=" + s.authority,
	}
}

// CAFile is the PEM file of the certificate authority that signs for every host.
func (s *Server) CAFile() string { return s.authority }

// Identity is the one SSH key that the server accepts, in OpenSSH's formats.
func (s *Server) Identity() (private, public []byte) {
	return slices.Clone(s.identity.private), slices.Clone(s.identity.public)
}

// KnownHosts is the known_hosts line by which a client knows this server as
// host, or as host:port.
func (s *Server) KnownHosts(host string) []byte {
	return knownHostsLine(host, s.hostKey.signer.PublicKey())
}

// StandIn is the data of the Secret that a source with this URL refers to and
// that Git does not hold: identity, identity.pub and known_hosts for ssh,
// username and password for http and https, nothing for other URLs.
func (s *Server) StandIn(sourceURL string) map[string][]byte {
	addr, err := parseAddress(sourceURL)
	if err != nil {
		return nil
	}
	switch addr.scheme {
	case "ssh":
		private, public := s.Identity()
		return map[string][]byte{"identity": private, "identity.pub": public, "known_hosts": s.KnownHosts(addr.host)}
	case "http", "https":
		return map[string][]byte{"username": []byte("stand-in"), "password": []byte(s.password)}
	}
	return nil
}

// SetAnswers replaces the whole map. Requests under way end as they began. After
// an error the old map stands.
func (s *Server) SetAnswers(ctx context.Context, list []Answer) error {
	next, err := prepare(ctx, list, s.charts)
	if err != nil {
		return fmt.Errorf("serve sources: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = next
	return nil
}

// SetObjects tells which objects name which URL («GitRepository beetle/platform»),
// for messages and the log. It replaces what was told before; a URL that cannot
// be read is left out, for no request can have it.
func (s *Server) SetObjects(byURL map[string][]string) {
	next := objects{}
	for raw, names := range byURL {
		if addr, err := parseAddress(raw); err == nil {
			next[addr] = append(next[addr], names...)
		}
	}
	for _, names := range next {
		slices.Sort(names)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects = next
}

// Charts are the packaged charts behind each URL that has them, in its normal
// form.
func (s *Server) Charts() map[string][]PackagedChart {
	found := map[string][]PackagedChart{}
	for addr, served := range s.current().exact {
		if served.kind == kindHelm {
			found[addr.String()] = slices.Clone(served.charts)
		}
	}
	return found
}

func (s *Server) current() *answers {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.answers
}

// asking says who asks for an address, and names it as fully as is known.
func (s *Server) asking(addr address) (address, []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects.asking(addr)
}

// Requests returns what was asked so far; of very many, the latest 18,000 at least.
func (s *Server) Requests() []Request {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return slices.Clone(s.requests)
}

// record adds a request that is over to the log.
func (s *Server) record(r Request) {
	s.logMu.Lock()
	if len(s.requests) >= keptRequests {
		s.requests = slices.Delete(s.requests, 0, keptRequests/10)
	}
	s.requests = append(s.requests, r)
	if line, err := json.Marshal(r); err == nil && s.logFile != nil {
		_, _ = s.logFile.Write(append(line, '\n')) // the log in memory remains
	}
	s.logMu.Unlock()
	if s.log != nil {
		s.log(r)
	}
}

// Close ends the listeners, the connections and the git processes, and returns
// when they are gone. It may be called more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.cancel()
		if s.httpServer != nil {
			s.closeErr = s.httpServer.Close()
		}
		for _, l := range []*listener{s.web, s.socks} {
			if l != nil {
				l.end()
			}
		}
		s.running.Wait()
		s.upstream.CloseIdleConnections()
		if s.logFile != nil {
			s.logMu.Lock()
			s.closeErr = errors.Join(s.closeErr, s.logFile.Close())
			s.logFile = nil
			s.logMu.Unlock()
		}
	})
	return s.closeErr
}

func upstreamTransport(roots []byte) (*http.Transport, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificate authorities: %w", err)
	}
	if len(roots) > 0 && !pool.AppendCertsFromPEM(roots) {
		return nil, errors.New("the upstream authorities hold no PEM certificate")
	}
	return newUpstreamTransport(pool), nil
}
