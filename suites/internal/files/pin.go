package files

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// pinRules judge what comes from outside of the repository.
var pinRules = []rule{
	{Check: check.Check{
		ID:    "FILE-011",
		Title: "what comes from outside is pinned: in production every source, chart and image to one version, elsewhere to a reference that is named",
		Why: "what follows a branch, a range or a mutable tag changes without a commit here: production runs what nobody approved, " +
			"and yesterday's state cannot be had again",
		Remedy: "name a tag, commit or digest, an exact chart version, and an image's complete version or digest; the platform's own repository follows its branch by nature. " +
			"Which environments are production is said by «production» in CONFIG, else by their names",
		Reference: "https://fluxcd.io/flux/components/source/gitrepositories/#reference",
	}, inEnvironment: pins},
	{Check: check.Check{
		ID:        "FILE-018",
		Title:     "every source has an address that can be trusted",
		Why:       "over plain http anyone on the way decides what is applied; a name that looks like the own organisation is somebody else's; a password in a URL is known to all",
		Remedy:    "use https or ssh and the organisation's exact name, and put credentials into secretRef",
		Reference: "https://fluxcd.io/flux/components/source/gitrepositories/#url",
	}, inEnvironment: addresses},
}

//go:embed names.yaml
var namesFile []byte

// names are the words by which things are told apart.
var names = readNames()

func readNames() (out struct{ Production, MovingTags []string }) {
	if err := sigsyaml.UnmarshalStrict(namesFile, &out); err != nil {
		panic(err) // a mistake in this package, seen by every run
	}
	return out
}

// isProduction says whether an environment is held to production's rules: as given
// by name, or, where none is given, as its own name says.
func (r *reading) isProduction(environment string) bool {
	if len(r.production) > 0 {
		return slices.Contains(r.production, environment)
	}
	parts := strings.FieldsFunc(strings.ToLower(environment), func(c rune) bool { return strings.ContainsRune("-_.0123456789", c) })
	return slices.ContainsFunc(parts, func(part string) bool { return slices.Contains(names.Production, part) })
}

func moves(tag string) bool { return slices.Contains(names.MovingTags, strings.ToLower(tag)) }

func pins(r *reading, e *platform.Environment) verdict {
	var v verdict
	strict := r.isProduction(e.Name)
	if !strict {
		v.note = "not production: branches, ranges and partial versions are accepted"
		if !slices.ContainsFunc(r.platform.Environments, func(e *platform.Environment) bool { return r.isProduction(e.Name) }) {
			v.note = "no environment is known as production, so nothing has to be pinned to one version: name it by «production» in CONFIG"
		}
	}
	for _, s := range e.Sources {
		own := s.GetKind() == sourcev1.GitRepositoryKind && platform.SameRepository(s.URL, r.platform.URL)
		if problem := unpinned(s, strict); problem != "" && !own {
			v.add(s.Origin, "%s in environment %s: %s", s.Object, e.Name, problem)
		}
		if s.GetKind() == sourcev1.HelmRepositoryKind {
			for _, c := range s.Charts {
				if problem := unpinnedChart(c.Version, strict); problem != "" {
					v.add(chartAt(e, s, c), "chart %s in environment %s: %s", c.Name, e.Name, problem)
				}
			}
		}
	}
	for _, o := range e.Objects {
		for _, image := range images(o.Object) {
			if problem := mutable(image, strict); problem != "" {
				v.add(o.Origin, "%s in environment %s: image %s %s", o, e.Name, image, problem)
			}
		}
	}
	for _, h := range e.HelmReleases {
		for _, tag := range tagsIn(h) {
			v.add(h.Origin, "%s in environment %s: its values set the image tag %s, which moves", h.Object, e.Name, tag)
		}
	}
	return v
}

// unpinned says what of a source's reference moves.
func unpinned(s *platform.Source, strict bool) string {
	ref := s.Ref
	switch s.GetKind() {
	case sourcev1.GitRepositoryKind, sourcev1.OCIRepositoryKind:
	case sourcev1.BucketKind:
		if strict {
			return "a Bucket has no versions to pin; publish the files as a Git tag or an OCI artifact"
		}
		return ""
	default:
		return ""
	}
	switch {
	case ref == platform.Ref{}:
		return "it names no reference, so a default that moves is taken"
	case ref.Commit != "":
		return ""
	case ref.Name != "":
		if strict && !strings.HasPrefix(ref.Name, "refs/tags/") {
			return fmt.Sprintf("reference %s moves", ref.Name)
		}
	case ref.SemVer != "":
		if strict && !exact(ref.SemVer) {
			return fmt.Sprintf("version %s is a range", ref.SemVer)
		}
	case ref.Tag != "":
		if moves(ref.Tag) {
			return fmt.Sprintf("tag %s moves", ref.Tag)
		}
	case strict:
		return fmt.Sprintf("it follows %s", ref)
	}
	return ""
}

func unpinnedChart(version string, strict bool) string {
	switch version = strings.TrimSpace(version); {
	case version == "" || version == "*":
		return "no version is named, so the newest is taken"
	case strict && !exact(version):
		return fmt.Sprintf("version %s is a range", version)
	}
	return ""
}

// exact says that a version is one, not a range.
func exact(version string) bool {
	_, err := semver.StrictNewVersion(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(version), "="), "v"))
	return err == nil
}

// chartAt is the place of the release that asks for a chart, else of its source.
func chartAt(e *platform.Environment, s *platform.Source, c platform.Chart) platform.Origin {
	for _, h := range e.HelmReleases {
		if asked := h.Spec.Chart; asked != nil && h.Source == s && asked.Spec.Chart == c.Name && asked.Spec.Version == c.Version {
			return h.Origin
		}
	}
	return s.Origin
}

// partialVersion is a tag of which there will be another build: 1, v1.25, 3-alpine.
var partialVersion = regexp.MustCompile(`^v?\d{1,4}(?:\.\d{1,4})?(?:-[A-Za-z]+)?$`)

// mutable says what of an image's name moves.
func mutable(image string, strict bool) string {
	if strings.Contains(image, "@sha256:") {
		return ""
	}
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, ok := strings.Cut(name, ":")
	switch {
	case !ok || tag == "":
		return "has neither tag nor digest"
	case moves(tag):
		return "has a tag that moves"
	case strict && partialVersion.MatchString(tag):
		return "has a tag that is no complete version"
	}
	return ""
}

// images lists those of an object's pods, whatever kind makes them.
func images(object map[string]any) []string {
	var out []string
	for _, at := range [][]string{{"spec"}, {"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}} {
		for _, key := range []string{"initContainers", "containers"} {
			list, _, _ := unstructured.NestedSlice(object, append(slices.Clone(at), key)...)
			for _, item := range list {
				container, _ := item.(map[string]any)
				if image, ok := container["image"].(string); ok {
					out = append(out, image)
				}
			}
		}
	}
	return out
}

// tagsIn lists the image tags in a release's values that move.
func tagsIn(h *platform.HelmRelease) []string {
	if h.Spec.Values == nil {
		return nil
	}
	var values any
	if json.Unmarshal(h.Spec.Values.Raw, &values) != nil {
		return nil // Flux refuses it as well, and says so
	}
	var out []string
	var look func(any)
	look = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			if tag, ok := value["tag"].(string); ok && moves(tag) {
				out = append(out, tag)
			}
			for _, child := range value {
				look(child)
			}
		case []any:
			for _, child := range value {
				look(child)
			}
		}
	}
	look(values)
	slices.Sort(out)
	return slices.Compact(out)
}

func addresses(r *reading, e *platform.Environment) verdict {
	var v verdict
	for _, s := range e.Sources {
		for _, problem := range distrust(s, r.platform.URL) {
			v.add(s.Origin, "%s in environment %s: %s", s.Object, e.Name, problem)
		}
	}
	return v
}

// distrust says what is wrong with a source's address; own is that of the
// platform's repository.
func distrust(s *platform.Source, own string) []string {
	if s.URL == "" {
		return nil
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	insecure, _, _ := unstructured.NestedBool(s.Object.Object, "spec", "insecure")
	host, organisation, scheme := address3(s.URL)
	inside := strings.HasSuffix(host, ".svc") || strings.Contains(host, ".svc.")
	switch {
	case scheme == "http" && !inside:
		add("%s is fetched over plain http", shown(s.URL))
	case insecure && !inside:
		add("spec.insecure lets it be fetched without TLS")
	case scheme == "file" || scheme == "git":
		add("%s is fetched by %s, which proves nobody's identity", shown(s.URL), scheme)
	}
	if parsed, err := url.Parse(s.URL); err == nil && parsed.User != nil {
		if _, given := parsed.User.Password(); given {
			add("the URL holds a password")
		}
	}
	if unescaped, err := url.PathUnescape(s.URL); err != nil || slices.Contains(strings.FieldsFunc(unescaped, func(r rune) bool { return r == '/' || r == '\\' }), "..") {
		add("%s leads through «..» to another repository than its name says", shown(s.URL))
	}
	if strings.ContainsFunc(s.URL, func(r rune) bool { return r > 0x7e || r < 0x21 }) {
		add("%q holds characters that look like others", shown(s.URL))
	}
	ownHost, ownOrganisation, _ := address3(own)
	const short = 4 // shorter names differ in a letter by chance
	switch {
	case host != ownHost && len(ownHost) > short && alike(host, ownHost):
		add("the host %s looks like %s, and is another", host, ownHost)
	case host == ownHost && organisation != ownOrganisation && len(ownOrganisation) > short && alike(organisation, ownOrganisation):
		add("the organisation %s looks like %s, and is another", organisation, ownOrganisation)
	}
	return out
}

// address3 takes host, organisation and scheme out of a URL, or of what ssh knows
// as one.
func address3(address string) (host, organisation, scheme string) {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "ssh", strings.Replace(address, ":", "/", 1)
	}
	host, path, _ := strings.Cut(rest, "/")
	host = host[strings.LastIndexByte(host, '@')+1:]
	host, _, _ = strings.Cut(host, ":")
	organisation, _, _ = strings.Cut(path, "/")
	return strings.ToLower(host), strings.ToLower(organisation), strings.ToLower(scheme)
}

// alike says that two names differ in one letter that is changed, added, left out
// or swapped with its neighbour, or only in characters that look the same.
func alike(a, b string) bool {
	same := strings.NewReplacer("0", "o", "1", "l", "i", "l", "rn", "m", "vv", "w", "-", "", "_", "", ".", "")
	if same.Replace(a) == same.Replace(b) {
		return true
	}
	long, short := []rune(a), []rune(b)
	if len(long) < len(short) {
		long, short = short, long
	}
	i := 0
	for i < len(short) && long[i] == short[i] {
		i++
	}
	switch len(long) - len(short) {
	case 0:
		rest, other := string(long[i:]), string(short[i:])
		swapped := i+1 < len(long) && long[i] == short[i+1] && long[i+1] == short[i] && string(long[i+2:]) == string(short[i+2:])
		return rest == other || string(long[i+1:]) == string(short[i+1:]) || swapped
	case 1:
		return string(long[i+1:]) == string(short[i:])
	}
	return false
}
