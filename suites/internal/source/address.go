package source

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// defaultPorts are left out of a normal URL.
var defaultPorts = map[string]string{"http": "80", "https": "443", "ssh": "22", "oci": "443"}

// address is a URL taken apart: what is compared when an answer is looked for.
type address struct {
	scheme string // http, https, ssh, oci
	host   string // lower case, with the port where it is not the scheme's own
	path   string // begins with a slash, or is empty; without a trailing slash or .git
}

func (a address) String() string {
	return (&url.URL{Scheme: a.scheme, Host: a.host, Path: a.path}).String()
}

// parseAddress reads the URL of a source. Users are dropped: an answer is the
// same for whoever asks. «user@host:path», which .gitmodules files hold, is
// read as ssh.
func parseAddress(raw string) (address, error) {
	if raw == "" {
		return address{}, errors.New("the URL is empty")
	}
	if !strings.Contains(raw, "://") {
		userHost, path, ok := strings.Cut(raw, ":")
		if !ok || userHost == "" || strings.Contains(userHost, "/") {
			return address{}, fmt.Errorf("%q is not a URL: write it as https://HOST/PATH, ssh://git@HOST/PATH, http:// or oci://", raw)
		}
		raw = "ssh://" + userHost + "/" + strings.TrimPrefix(path, "/")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, fmt.Errorf("%q is not a URL: %w", raw, err)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return address{}, fmt.Errorf("%q has a query or a fragment, which a source's URL cannot have", raw)
	}
	return addressOf(u)
}

func addressOf(u *url.URL) (address, error) {
	scheme := strings.ToLower(u.Scheme)
	if _, ok := defaultPorts[scheme]; !ok {
		return address{}, fmt.Errorf("%q has a scheme that no source has: use https, ssh, http or oci", u.Redacted())
	}
	host, err := normalHost(scheme, u.Host)
	if err != nil {
		return address{}, fmt.Errorf("%q: %w", u.Redacted(), err)
	}
	return address{scheme: scheme, host: host, path: normalPath(u.Path)}, nil
}

func normalHost(scheme, hostPort string) (string, error) {
	u := url.URL{Host: hostPort}
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if host == "" || strings.ContainsAny(host, "/@ ") {
		return "", errors.New("it names no host")
	}
	if port == "" || port == defaultPorts[scheme] {
		if strings.Contains(host, ":") {
			return "[" + host + "]", nil
		}
		return host, nil
	}
	return net.JoinHostPort(host, port), nil
}

// normalPath leaves out what a Git server would: trailing slashes and «.git».
// Nothing else: a path with «..» is not the one that it leads to.
func normalPath(path string) string {
	for {
		before := path
		path = strings.TrimRight(path, "/")
		if name, ok := strings.CutSuffix(path, ".git"); ok && name != "" && !strings.HasSuffix(name, "/") {
			path = name
		}
		if path == before {
			break
		}
	}
	if path != "" && !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return path
}

// Normalize returns the form in which the URLs of sources are compared: scheme
// and host in lower case, no user, no default port, no trailing slash or .git.
// The path is compared as it is.
func Normalize(raw string) (string, error) {
	a, err := parseAddress(raw)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// parent is the address one step up; false at the host itself.
func (a address) parent() (address, bool) {
	if a.path == "" {
		return a, false
	}
	a.path = a.path[:strings.LastIndex(a.path, "/")]
	return a, true
}
