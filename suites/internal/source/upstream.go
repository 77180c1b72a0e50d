package source

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	repo "helm.sh/helm/v4/pkg/repo/v1"
	"sigs.k8s.io/yaml"
)

// maxIndex bounds the index of an upstream Helm repository. Flux's own limit is
// 50 MiB (source-controller, --helm-index-max-size).
const maxIndex = 50 << 20

// newUpstreamTransport reaches the real network: with this process's own proxy
// settings, and bodies as they come.
func newUpstreamTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		IdleConnTimeout:       30 * time.Second,
	}
}

// passes finds the upstream answer that an address belongs to: it, or one above
// it, is marked, or such an answer led there.
func (s *Server) passes(current *answers, addr address) (*served, bool) {
	if nearest := current.at(addr); nearest != nil {
		return nearest, nearest.kind == kindUpstream
	}
	s.mu.RLock()
	from, ok := s.learned[addr.String()]
	s.mu.RUnlock()
	if !ok {
		return nil, false
	}
	nearest := current.exact[from]
	return nearest, nearest != nil && nearest.kind == kindUpstream
}

// learn allows a URL that an upstream answer leads to: a redirect, a chart that
// an index names, a registry's token service.
func (s *Server) learn(from *served, target *url.URL) {
	if target.Scheme != "http" && target.Scheme != "https" {
		return
	}
	base, service := gitService(target.Path)
	addr, err := addressOf(&url.URL{Scheme: target.Scheme, Host: target.Host})
	if err != nil {
		return
	}
	if addr.path = strings.TrimRight(base, "/"); service != "" {
		addr.path = normalPath(base)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learned[addr.String()] = from.address
}

// fetchUpstream lets a request through, until its context or the server ends.
func (x *exchange) fetchUpstream(ctx context.Context, from *served) *http.Response {
	x.name(from.address)
	x.entry.Upstream = true
	x.entry.Revision = strings.Join(wants(plainBody(x.body, x.request.Header.Get("Content-Encoding"), maxRequestBody)), ",")
	ctx, stop := context.WithCancel(ctx)
	unbind := context.AfterFunc(x.server.ctx, stop) //nolint:contextcheck // either context ends it
	cancel := func() { unbind(); stop() }
	outgoing := x.request.Clone(ctx)
	outgoing.RequestURI = ""
	outgoing.Body = io.NopCloser(bytes.NewReader(x.body))
	if len(x.body) == 0 {
		outgoing.Body = http.NoBody
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		outgoing.Header.Del(name)
	}
	response, err := x.server.upstream.RoundTrip(outgoing)
	if err != nil {
		cancel()
		return x.refuse(from.address, http.StatusNotFound,
			fmt.Sprintf("URL %s is marked upstream: true, and could not be fetched: %v: see whether this machine reaches it, or map it under sources in CONFIG", oneLine(x.entry.URL), err))
	}
	response.Body = &cancelBody{ReadCloser: response.Body, cancel: cancel}
	if err := x.learnFrom(from, response); err != nil {
		response.Body.Close()
		return x.refuse(from.address, http.StatusNotFound, fmt.Sprintf("URL %s is marked upstream: true: %v", oneLine(x.entry.URL), err))
	}
	return x.logged(response)
}

type cancelBody struct {
	io.ReadCloser

	cancel func()
}

func (b *cancelBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

var tokenRealm = regexp.MustCompile(`realm="([^"]+)"`)

// learnFrom allows what an upstream answer leads to.
func (x *exchange) learnFrom(from *served, response *http.Response) error {
	if target, err := response.Location(); err == nil && response.StatusCode/100 == 3 {
		x.server.learn(from, x.request.URL.ResolveReference(target))
	}
	if match := tokenRealm.FindStringSubmatch(response.Header.Get("Www-Authenticate")); match != nil {
		if target, err := url.Parse(match[1]); err == nil {
			x.server.learn(from, target)
		}
	}
	if response.StatusCode != http.StatusOK || !strings.HasSuffix(x.request.URL.Path, "/index.yaml") {
		return nil
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxIndex+1))
	if err != nil {
		return fmt.Errorf("read its index: %w", err)
	}
	if len(content) > maxIndex {
		return fmt.Errorf("its index is larger than %s", formatBytes(maxIndex))
	}
	response.Body = &cancelBody{ReadCloser: io.NopCloser(bytes.NewReader(content)), cancel: closer(response.Body)}
	var index repo.IndexFile
	if err := yaml.Unmarshal(content, &index); err != nil {
		return nil // what is no index leads nowhere; the client says what is wrong with it
	}
	for _, versions := range index.Entries {
		for _, version := range versions {
			if version == nil {
				continue
			}
			for _, raw := range version.URLs {
				if target, err := url.Parse(raw); err == nil {
					x.server.learn(from, x.request.URL.ResolveReference(target))
				}
			}
		}
	}
	return nil
}

func closer(c io.Closer) func() { return func() { c.Close() } }
