package component

import (
	"fmt"
	"net"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// reference is an image as a platform names it.
type reference struct {
	text       string // as it was written
	repository name.Repository
	tag        string // empty only beside a digest
	digest     string // sha256:…, or empty
}

// parseReference reads REPOSITORY[:TAG][@DIGEST]. The tag is kept beside a
// digest, where it says which version is meant; without either it is latest.
func parseReference(text string) (reference, error) {
	r := reference{text: text}
	rest, digest, hasDigest := strings.Cut(text, "@")
	if colon := strings.LastIndex(rest, ":"); colon > strings.LastIndex(rest, "/") {
		tag, err := name.NewTag(rest)
		if err != nil {
			return reference{}, fmt.Errorf("image %q: %w", text, err)
		}
		r.repository, r.tag = tag.Repository, tag.TagStr()
	} else {
		repository, err := name.NewRepository(rest)
		if err != nil {
			return reference{}, fmt.Errorf("image %q: %w", text, err)
		}
		r.repository = repository
		if !hasDigest {
			r.tag = name.DefaultTag
		}
	}
	if hasDigest {
		parsed, err := name.NewDigest(r.repository.Name() + "@" + digest)
		if err != nil {
			return reference{}, fmt.Errorf("image %q: %w", text, err)
		}
		r.digest = parsed.DigestStr()
	}
	return r, nil
}

// at is the reference at a digest that a registry gave for it.
func (r reference) at(digest string) string {
	rest, _, _ := strings.Cut(r.text, "@")
	return rest + "@" + digest
}

// moving says whether the registry may answer differently tomorrow.
func (r reference) moving() bool { return r.digest == "" && !complete(r.tag) }

// mirrored is the repository that is asked for r: the mirror's, where one
// answers for r's registry. A base may say how it is asked, with http:// or
// https:// before it; without, loopback is asked over plain HTTP.
func (r reference) mirrored(mirrors map[string]string) (name.Repository, error) {
	base, found := "", false
	for host, to := range mirrors {
		if registry, err := name.NewRegistry(host); err == nil && registry.Name() == r.repository.RegistryStr() {
			base, found = to, true
		}
	}
	if !found {
		return r.repository, nil
	}
	rest, plain := strings.CutPrefix(base, "http://")
	rest, encrypted := strings.CutPrefix(rest, "https://")
	var options []name.Option
	if host, _, _ := strings.Cut(rest, "/"); plain || !encrypted && loopback(host) {
		options = append(options, name.Insecure)
	}
	repository, err := name.NewRepository(strings.TrimSuffix(rest, "/")+"/"+r.repository.RepositoryStr(), options...)
	if err != nil {
		return name.Repository{}, fmt.Errorf("mirror %q of registry %s: %w", base, r.repository.RegistryStr(), err)
	}
	return repository, nil
}

// loopback says whether HOST[:PORT] is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
