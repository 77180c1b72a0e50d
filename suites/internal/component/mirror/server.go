package mirror

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
)

// ErrNotOurs is what Options.Image says of an image that others have to answer
// for. component.ErrNoComponent means the same.
var ErrNotOurs = errors.New("not an image of this session")

// Options say what a server answers, and where it listens.
type Options struct {
	// Dir is a folder of the session, where the server keeps its log. Required.
	Dir string
	// Listen is HOST:PORT, an address that nodes reach and nobody else need.
	// Required.
	Listen string
	// Credential is «USER:SECRET», which every client must bring. Empty: one is
	// made. Others who reach the address are kept out by it, so it belongs in no
	// report.
	Credential string
	// Image makes the image of a reference with its registry's host, such as
	// docker.io/library/traefik:v3.6.6. It is asked once for an image that it
	// gives, and again for one that it does not. Required.
	Image func(ctx context.Context, reference string) (v1.Image, error)
	// Log is told of every request when it is over, from any goroutine. May be
	// nil.
	Log func(Request)
}

// Request is one thing that a client asked for. All of them stand in
// requests.jsonl in the server's folder, in the order in which they ended.
type Request struct {
	// Time is when it came, Seconds how long it took.
	Time    time.Time `json:"time"`
	Seconds float64   `json:"seconds"`
	Client  string    `json:"client"` // address
	Method  string    `json:"method"`
	// Reference is the image, or with @ and a digest a part of it; empty for what
	// is not of the registry's protocol.
	Reference string `json:"reference,omitempty"`
	// Status is that of HTTP.
	Status int `json:"status"`
	// Bytes are those of the body that was sent.
	Bytes int64 `json:"bytes"`
	// Error is why it was refused or failed.
	Error string `json:"error,omitempty"`
}

// Counts sums up the requests.
type Counts struct {
	Requests int   `json:"requests"`
	Served   int   `json:"served"`
	NotOurs  int   `json:"notOurs"` // left to the registry that has them
	Refused  int   `json:"refused"` // without the credential
	Failed   int   `json:"failed"`
	Bytes    int64 `json:"bytes"`
}

// Server answers the pulls of one session's nodes.
type Server struct {
	options    Options
	credential string
	address    string
	http       *http.Server
	ctx        context.Context // the server's own life, which no caller's context spans
	cancel     context.CancelFunc
	running    sync.WaitGroup

	making    singleflight.Group
	mu        sync.RWMutex
	manifests map[string]part // by reference
	parts     map[string]part // by digest, manifests among them

	logMu   sync.Mutex
	logFile *os.File
	counts  Counts

	closeOnce sync.Once
	closeErr  error
}

// atOnce bounds how many images Prepare makes at once: each reads a program.
const atOnce = 2

// patience is how long a client may take to send the head of a request.
const patience = 10 * time.Second

// Serve starts the server. The context bounds the start only; Close ends the
// server.
func Serve(ctx context.Context, o Options) (*Server, error) {
	s, err := newServer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("serve images: %w", err)
	}
	return s, nil
}

func newServer(ctx context.Context, o Options) (*Server, error) {
	if o.Dir == "" || o.Listen == "" || o.Image == nil {
		return nil, errors.New("a folder, an address and images are required")
	}
	s := &Server{
		options: o, credential: cmp.Or(o.Credential, "node:"+rand.Text()),
		manifests: map[string]part{}, parts: map[string]part{},
	}
	if user, secret, ok := strings.Cut(s.credential, ":"); !ok || user == "" || secret == "" {
		return nil, errors.New("the credential is not of the form USER:SECRET")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(o.Dir, "requests.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s.logFile = file
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: nodes have to reach this address; it belongs to the network that the clusters are made on", err), file.Close())
	}
	s.address = listener.Addr().String()
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: patience}
	s.running.Go(func() { _ = s.http.Serve(listener) }) // ends with Close
	return s, nil
}

// Address is the HOST:PORT that the server listens on.
func (s *Server) Address() string { return s.address }

// Credential is «USER:SECRET», which clients bring.
func (s *Server) Credential() string { return s.credential }

// Prepare makes images before anyone asks for them, and says of all that cannot
// be had why. Images that are not ours are left out.
func (s *Server) Prepare(ctx context.Context, references []string) error {
	problems := make([]error, len(references))
	group, making := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, reference := range references {
		group.Go(func() error {
			if err := making.Err(); err != nil {
				return context.Cause(making)
			}
			if _, err := s.manifest(reference); err != nil && !notOurs(err) {
				problems[i] = err
			}
			return nil
		})
	}
	return errors.Join(append(problems, group.Wait())...)
}

// Counts sums up the requests that are over.
func (s *Server) Counts() Counts {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.counts
}

// Close ends the server and what it is answering.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.cancel()
		s.closeErr = s.http.Close()
		s.running.Wait()
		s.logMu.Lock()
		defer s.logMu.Unlock()
		s.closeErr = errors.Join(s.closeErr, s.logFile.Close())
		s.logFile = nil
	})
	return s.closeErr
}

// allowed says whether a request brings the session's credential.
func (s *Server) allowed(r *http.Request) bool {
	user, secret, _ := r.BasicAuth()
	given, wanted := sha256.Sum256([]byte(user+":"+secret)), sha256.Sum256([]byte(s.credential))
	return subtle.ConstantTimeCompare(given[:], wanted[:]) == 1
}

// write takes note of a request.
func (s *Server) write(r Request) {
	s.logMu.Lock()
	s.counts.Requests++
	s.counts.Bytes += r.Bytes
	switch {
	case r.Status == http.StatusUnauthorized:
		s.counts.Refused++
	case r.Status == http.StatusNotFound:
		s.counts.NotOurs++
	case r.Error != "" || r.Status >= http.StatusBadRequest:
		s.counts.Failed++
	default:
		s.counts.Served++
	}
	if line, err := json.Marshal(r); err == nil && s.logFile != nil {
		_, _ = s.logFile.Write(append(line, '\n'))
	}
	s.logMu.Unlock()
	if s.options.Log != nil {
		s.options.Log(r)
	}
}
