package embedded

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// egress answers the API server's connections into the cluster's network: to
// webhooks and API services behind Services, to pods and to nodes. None of
// their addresses exists on this machine, so each is led to the process that
// backs it, or refused with the reason. So a webhook may name its Service, as
// the platform declares it, and nothing leaves the machine.
type egress struct {
	server *http.Server
	served sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// serveEgress listens on a port of 127.0.0.1. The backend function translates an
// address of the cluster into one of this machine.
func serveEgress(ctx context.Context, port int, config *tls.Config, backend func(string) (string, error)) (*egress, error) {
	e := &egress{conns: map[net.Conn]struct{}{}}
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	e.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e.connect(w, r, backend)
		}),
	}
	e.served.Go(func() { _ = e.server.Serve(tls.NewListener(listener, config)) })
	return e, nil
}

func (e *egress) connect(w http.ResponseWriter, r *http.Request, backend func(string) (string, error)) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT is answered here", http.StatusMethodNotAllowed)
		return
	}
	address, err := backend(r.Host)
	if err != nil {
		// The API server prints the status line only, so the reason goes there.
		refuse(w, fmt.Sprintf("%d %s", http.StatusBadGateway, err))
		return
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	there, err := dialer.DialContext(r.Context(), "tcp", address)
	if err != nil {
		refuse(w, fmt.Sprintf("%d the process behind %s does not answer: %s", http.StatusBadGateway, r.Host, err))
		return
	}
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		_ = here.Close()
		_ = there.Close()
		return
	}
	e.join(here, there)
}

// join copies both ways until either side ends.
func (e *egress) join(here, there net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		_ = here.Close()
		_ = there.Close()
		return
	}
	e.conns[here], e.conns[there] = struct{}{}, struct{}{}
	for _, way := range [][2]net.Conn{{here, there}, {there, here}} {
		e.served.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			e.drop(here, there)
		})
	}
}

// refuse answers with a status line of our own wording.
func refuse(w http.ResponseWriter, status string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	_ = conn.Close()
}

func (e *egress) drop(conns ...net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
		delete(e.conns, conn)
	}
}

// close ends every connection and waits until the last is gone.
func (e *egress) close() {
	_ = e.server.Close()
	e.mu.Lock()
	e.closed = true
	for conn := range e.conns {
		_ = conn.Close()
	}
	e.mu.Unlock()
	e.served.Wait()
}
