package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// Answer says what answers for one URL: exactly one of Repository, Charts and
// Upstream.
type Answer struct {
	// URL as a source names it: https://, http://, ssh:// (or user@host:path),
	// and for Upstream oci://. Trailing slash and .git make no difference, nor
	// does the user; the scheme does.
	URL string
	// Repository is a bare repository.
	Repository string
	// Charts are packaged and offered as a Helm repository.
	Charts []Chart
	// Upstream lets the URL, and what it leads to, through to the real network.
	Upstream bool
}

// kind is the manner in which an answer is given.
type kind int

const (
	kindGit kind = iota + 1
	kindHelm
	kindUpstream
)

// served is an answer made ready.
type served struct {
	address    address
	kind       kind
	repository string
	folder     string // of the packaged charts and their index
	charts     []PackagedChart
}

// answers is the map from URLs to what is served. It is never changed, only
// replaced.
type answers struct {
	exact map[address]*served
}

// prepare checks answers and packages their charts. All mistakes come in one
// error.
func prepare(ctx context.Context, list []Answer, charts *chartStore) (*answers, error) {
	a := &answers{exact: map[address]*served{}}
	var mistakes []error
	for _, answer := range list {
		s, err := prepareOne(ctx, answer, charts)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("answer for %s: %w", answer.URL, err))
			continue
		}
		if _, twice := a.exact[s.address]; twice {
			mistakes = append(mistakes, fmt.Errorf("answer for %s: %s is answered twice: leave one", answer.URL, s.address))
			continue
		}
		a.exact[s.address] = s
	}
	for addr, s := range a.exact {
		if addr.scheme == "ssh" && s.kind == kindUpstream && a.sshHost(addr.host, kindGit) {
			mistakes = append(mistakes, fmt.Errorf("answer for %s: upstream: true cannot stand beside a local answer for another repository of the same ssh host, for what passes is encrypted: name the upstream one by https", addr))
		}
	}
	return a, errors.Join(mistakes...)
}

func prepareOne(ctx context.Context, answer Answer, charts *chartStore) (*served, error) {
	addr, err := parseAddress(answer.URL)
	if err != nil {
		return nil, err
	}
	given := 0
	for _, is := range []bool{answer.Repository != "", len(answer.Charts) > 0, answer.Upstream} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("name exactly one of a repository, charts, and upstream: true")
	}
	s := &served{address: addr}
	switch {
	case answer.Upstream:
		s.kind = kindUpstream
	case addr.scheme == "oci":
		return nil, errors.New("OCI artifacts have no local answer yet: mark the URL upstream: true, or let the source be a GitRepository or a HelmRepository over https")
	case answer.Repository != "":
		s.kind = kindGit
		if s.repository, err = filepath.Abs(answer.Repository); err != nil {
			return nil, err
		}
		if _, err := inBare(ctx, s.repository, "rev-parse", "--git-dir"); err != nil {
			return nil, fmt.Errorf("open the repository: %w", err)
		}
	case addr.scheme == "ssh":
		return nil, errors.New("a Helm repository is not reached by ssh: use https")
	default:
		s.kind = kindHelm
		if s.folder, s.charts, err = charts.repository(answer.Charts); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// sshHost says whether an ssh host (with its port where it is not 22) has an
// answer of the kind.
func (a *answers) sshHost(host string, k kind) bool {
	for addr, s := range a.exact {
		if addr.scheme == "ssh" && addr.host == host && s.kind == k {
			return true
		}
	}
	return false
}

// at finds the answer whose URL is the address or the nearest one above it.
func (a *answers) at(addr address) *served {
	for {
		if s := a.exact[addr]; s != nil {
			return s
		}
		var ok bool
		if addr, ok = addr.parent(); !ok {
			return nil
		}
	}
}

// objects maps the URLs of sources to the objects that name them.
type objects map[address][]string

// asking returns the objects that ask for an address, and the URL to name for
// it. Those are the objects that name the address, or else the nearest URL above
// it. Of a client that has told no more than a host they are all that name
// anything there; where that is one URL, it is the one that is meant.
func (o objects) asking(addr address) (address, []string) {
	for at, ok := addr, true; ok; at, ok = at.parent() {
		if names := o[at]; len(names) > 0 {
			return addr, names
		}
	}
	if addr.path != "" {
		return addr, nil
	}
	var names []string
	var below []address
	for known, of := range o {
		if known.scheme == addr.scheme && known.host == addr.host {
			below, names = append(below, known), append(names, of...)
		}
	}
	if len(below) == 1 {
		addr = below[0]
	}
	slices.Sort(names)
	return addr, slices.Compact(names)
}

// refusal is the text that a client gets for a URL without an answer, and that
// Flux repeats in the condition of the object that asked.
func refusal(url string, names []string) string {
	text := "no local answer for URL " + oneLine(url)
	if len(names) > 0 {
		text += " (asked for by " + oneLine(strings.Join(names, ", ")) + ")"
	}
	if strings.HasPrefix(url, "oci:") {
		return text + ": OCI artifacts cannot be mapped yet; mark it upstream: true"
	}
	return text + ": map it under sources in CONFIG, or mark it upstream: true"
}

// oneLine makes a text safe for a status line and a condition.
func oneLine(text string) string {
	const limit = 1024
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}

// sshAddress is the address of a path at a host and port that were dialled.
func sshAddress(host, port, path string) (address, error) {
	normal, err := normalHost("ssh", net.JoinHostPort(host, port))
	return address{scheme: "ssh", host: normal, path: normalPath(path)}, err
}
