package mirror

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// WriteHosts writes the folder that containerd knows as certs.d (config_path of
// its registry settings): every registry's images are asked for here first, and
// then where they are. Mirrors maps a registry's host to a base that answers for
// it, such as ghcr.io to https://mirror.example/ghcr.io, which is asked before
// the registry itself. A base without a scheme is asked by HTTPS, but on
// loopback, which for a node is the node itself. The files hold the credential.
//
// The format is described in
// https://github.com/containerd/containerd/blob/main/docs/hosts.md; a registry
// with a folder of its own does not look into _default, and without «server»
// the last that is asked is the registry itself.
func (s *Server) WriteHosts(dir string, mirrors map[string]string) error {
	ours := "http://" + s.address
	text := fmt.Sprintf("# Asked first; what it does not have comes from the registry itself.\n"+
		"[host.%s]\ncapabilities = [\"pull\", \"resolve\"]\n[host.%s.header]\nAuthorization = %s\n",
		strconv.Quote(ours), strconv.Quote(ours),
		strconv.Quote("Basic "+base64.StdEncoding.EncodeToString([]byte(s.credential))))
	files := map[string]string{"_default": text}
	for host, base := range mirrors {
		address, err := mirrorAddress(base)
		if err != nil {
			return fmt.Errorf("mirror %q of registry %s: %w", base, host, err)
		}
		files[hostFolder(host)] = text + fmt.Sprintf("\n[host.%s]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n", strconv.Quote(address))
	}
	for folder, content := range files {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return fmt.Errorf("write containerd's list of registries: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, folder, "hosts.toml"), []byte(content), 0o600); err != nil {
			return fmt.Errorf("write containerd's list of registries: %w", err)
		}
	}
	return nil
}

// mirrorAddress is where a mirror's repositories begin, as containerd asks for
// them.
func mirrorAddress(base string) (string, error) {
	if !strings.Contains(base, "://") {
		scheme := "https://"
		host, _, _ := strings.Cut(base, "/")
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
			scheme = "http://"
		}
		base = scheme + base
	}
	address, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	if address.Scheme != "http" && address.Scheme != "https" || address.Host == "" || address.User != nil || address.RawQuery != "" {
		return "", errors.New("not HOST[:PORT][/PATH], with http:// or https:// before it or not")
	}
	return address.Scheme + "://" + address.Host + "/v2" + strings.TrimSuffix(address.EscapedPath(), "/"), nil
}

// hostFolder is the folder in which containerd looks for a registry's host.
func hostFolder(host string) string {
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if colon := strings.LastIndexByte(host, ':'); colon > 0 {
		return host[:colon] + "_" + host[colon+1:] + "_"
	}
	return host
}
