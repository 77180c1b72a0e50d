package platform

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Source is a GitRepository, HelmRepository, OCIRepository, Bucket or HelmChart.
type Source struct {
	Object
	// URL as declared; of a Bucket its endpoint and name. A HelmChart has none,
	// but that of its own source.
	URL string
	// Ref is what is fetched. For OCI the digest stands in Commit.
	Ref Ref
	// Secrets are those that it refers to.
	Secrets []SecretRef
	// Include are the repositories composed into its artifact.
	Include []Include
	// Charts are those that HelmReleases and HelmCharts ask of it.
	Charts []Chart
	// Folder is the local folder that answers for it; empty when there is none.
	Folder string

	ignore string
	sparse []string
}

// Ref is the part of a repository's history that a source asks for. All empty
// means the branch that Flux takes then, master.
type Ref struct {
	Branch, Tag, SemVer, Commit string
	// Name is a full reference, like refs/pull/420/head.
	Name string
}

// Chart is a chart that is asked of a source.
type Chart struct{ Name, Version string }

// SecretRef is a Secret that an object refers to.
type SecretRef struct {
	Namespace, Name string
	Field           string // that refers to it, like secretRef
}

// Include is one entry of a GitRepository's spec.include.
type Include struct {
	Source           *Source // nil when nothing declares it
	Name             string
	FromPath, ToPath string
}

// SourceRef is a URL that the platform asks for at one reference.
type SourceRef struct {
	URL, Kind string
	Ref
	// Charts are those that are asked of a HelmRepository.
	Charts []Chart
	// Secrets that the objects refer to.
	Secrets []SecretRef
	// Objects ask for it, in all environments.
	Objects []Object
	// Folder is the local folder that the loader read for it; empty when none.
	Folder string
}

func newSource(o Object) (*Source, error) {
	s := &Source{Object: o}
	secret := func(field string, ref func() (string, bool)) {
		if name, ok := ref(); ok && name != "" {
			s.Secrets = append(s.Secrets, SecretRef{o.GetNamespace(), name, field})
		}
	}
	nested := func(fields ...string) func() (string, bool) {
		return func() (string, bool) {
			name, ok, err := unstructured.NestedString(o.Object, append([]string{"spec"}, append(fields, "name")...)...)
			return name, ok && err == nil
		}
	}
	convert := func(into any) error { return typed(o, into) }
	var err error
	switch o.GetKind() {
	case sourcev1.GitRepositoryKind:
		var git sourcev1.GitRepository
		err = convert(&git)
		s.URL, s.sparse = git.Spec.URL, git.Spec.SparseCheckout
		if git.Spec.Ignore != nil {
			s.ignore = *git.Spec.Ignore
		}
		if r := git.Spec.Reference; r != nil {
			s.Ref = Ref{Branch: r.Branch, Tag: r.Tag, SemVer: r.SemVer, Commit: r.Commit, Name: r.Name}
		}
		for _, i := range git.Spec.Include {
			s.Include = append(s.Include, Include{Name: i.GitRepositoryRef.Name, FromPath: i.GetFromPath(), ToPath: i.GetToPath()})
		}
	case sourcev1.HelmRepositoryKind:
		var helm sourcev1.HelmRepository
		err = convert(&helm)
		s.URL = helm.Spec.URL
	case sourcev1.OCIRepositoryKind:
		var oci sourcev1.OCIRepository
		err = convert(&oci)
		s.URL = oci.Spec.URL
		if oci.Spec.Ignore != nil {
			s.ignore = *oci.Spec.Ignore
		}
		if r := oci.Spec.Reference; r != nil {
			s.Ref = Ref{Tag: r.Tag, SemVer: r.SemVer, Commit: r.Digest}
		}
	case sourcev1.BucketKind:
		var bucket sourcev1.Bucket
		err = convert(&bucket)
		s.URL = strings.TrimSuffix(bucket.Spec.Endpoint, "/") + "/" + bucket.Spec.BucketName
		if bucket.Spec.Ignore != nil {
			s.ignore = *bucket.Spec.Ignore
		}
	case sourcev1.HelmChartKind:
		var chart sourcev1.HelmChart
		err = convert(&chart)
	}
	secret("secretRef", nested("secretRef"))
	secret("certSecretRef", nested("certSecretRef"))
	secret("proxySecretRef", nested("proxySecretRef"))
	secret("verify.secretRef", nested("verify", "secretRef"))
	return s, err
}

var scp = regexp.MustCompile(`^(?:[^@/]+@)?([^:/@]+):(.+)$`)

// repositoryKey brings the ways to write one repository's URL together: scheme,
// user, default port, a trailing slash and .git do not tell repositories apart.
func repositoryKey(raw string) string {
	raw = strings.TrimSpace(raw)
	if !strings.Contains(raw, "://") {
		if m := scp.FindStringSubmatch(raw); m != nil {
			raw = "ssh://" + m[1] + "/" + strings.TrimPrefix(m[2], "/")
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return strings.TrimSuffix(strings.TrimSuffix(raw, "/"), ".git")
	}
	host := strings.ToLower(u.Hostname())
	if port := u.Port(); port != "" && port != "22" && port != "80" && port != "443" {
		host += ":" + port
	}
	return host + strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(path.Clean("/"+u.Path), "/"), ".git"), "/")
}

// SameRepository tells whether two URLs name one repository: scheme, user,
// default port, a trailing slash and .git make no difference.
func SameRepository(a, b string) bool { return repositoryKey(a) == repositoryKey(b) }

// SourceRefs lists every URL that the platform asks for, once for each
// reference, ordered by URL.
func (p *Platform) SourceRefs() []SourceRef {
	type key struct {
		kind, url string
		ref       Ref
	}
	found := map[key]*SourceRef{}
	for _, e := range p.Environments {
		for _, s := range e.Sources {
			if s.URL == "" {
				continue
			}
			k := key{s.GetKind(), s.URL, s.Ref}
			if found[k] == nil {
				found[k] = &SourceRef{URL: s.URL, Kind: s.GetKind(), Ref: s.Ref, Folder: s.Folder}
			}
			r := found[k]
			r.Objects = append(r.Objects, s.Object)
			for _, c := range s.Charts {
				if !slices.Contains(r.Charts, c) {
					r.Charts = append(r.Charts, c)
				}
			}
			for _, secret := range s.Secrets {
				if !slices.Contains(r.Secrets, secret) {
					r.Secrets = append(r.Secrets, secret)
				}
			}
		}
	}
	out := make([]SourceRef, 0, len(found))
	for _, r := range found {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b SourceRef) int {
		return strings.Compare(a.URL+" "+a.Kind+" "+a.String(), b.URL+" "+b.Kind+" "+b.String())
	})
	return out
}

// String renders the reference, like «tag v1.0.0».
func (r Ref) String() string {
	switch {
	case r.Commit != "":
		return "commit " + r.Commit
	case r.Name != "":
		return "reference " + r.Name
	case r.SemVer != "":
		return "version " + r.SemVer
	case r.Tag != "":
		return "tag " + r.Tag
	case r.Branch != "":
		return "branch " + r.Branch
	}
	return "default branch"
}

// VersionTag returns a tag that satisfies SemVer, for a repository that answers
// at every reference; empty when no version is asked for. It errs for a
// constraint that cannot be read, or that none of the versions near the ones it
// names satisfies.
func (r Ref) VersionTag() (string, error) {
	if r.SemVer == "" {
		return "", nil
	}
	constraint, err := semver.NewConstraint(r.SemVer)
	if err != nil {
		return "", fmt.Errorf("version range %q: %w", r.SemVer, err)
	}
	for _, text := range append(versionText.FindAllString(r.SemVer, -1), "1.0.0", "0.1.0") {
		v, err := semver.NewVersion(text)
		if err != nil {
			continue
		}
		candidates := []semver.Version{*v, v.IncPatch(), v.IncMinor(), v.IncMajor()}
		if v.Minor() > 0 {
			candidates = append(candidates, *semver.New(v.Major(), v.Minor()-1, 0, "", ""))
		}
		if v.Major() > 0 {
			candidates = append(candidates, *semver.New(v.Major()-1, 0, 0, "", ""))
		}
		for _, c := range candidates {
			if constraint.Check(&c) {
				return "v" + c.String(), nil
			}
		}
	}
	return "", fmt.Errorf("version range %q: no version near those that it names lies in it", r.SemVer)
}

var versionText = regexp.MustCompile(`\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?`)

// Unanswered is the error that names every URL that none of answered answers
// for, who asks for it where, and how to map it; nil when all are answered.
// The repository under test answers for itself.
func (p *Platform) Unanswered(answered []string) error {
	known := map[string]bool{}
	for _, u := range append(slices.Clone(answered), p.URL) {
		known[repositoryKey(u)] = true
	}
	type asked struct{ refs, by []string }
	var order []string
	open := map[string]*asked{}
	for _, r := range p.SourceRefs() {
		if known[repositoryKey(r.URL)] {
			continue
		}
		if open[r.URL] == nil {
			open[r.URL] = &asked{}
			order = append(order, r.URL)
		}
		a := open[r.URL]
		a.refs = append(a.refs, r.what())
		for _, o := range r.Objects {
			if text := fmt.Sprintf("%s: %s", o.Origin, o); !slices.Contains(a.by, text) {
				a.by = append(a.by, text)
			}
		}
	}
	var errs []error
	for _, u := range order {
		errs = append(errs, fmt.Errorf("%s (%s) has no local answer; it is asked for by\n    %s\n  map it in CONFIG under «sources»:\n    - url: %s\n      path: FOLDER   # or charts:, module:, or upstream: true to fetch it from outside",
			u, strings.Join(open[u].refs, ", "), strings.Join(open[u].by, "\n    "), u))
	}
	return errors.Join(errs...)
}

// what renders the kind and what of it is wanted.
func (r SourceRef) what() string {
	if r.Kind != sourcev1.HelmRepositoryKind {
		return r.Kind + " at " + r.String()
	}
	text := r.Kind
	for _, c := range r.Charts {
		text += " with chart " + strings.TrimSpace(c.Name+" "+c.Version)
	}
	return text
}

// sources finds local folders for URLs and composes artifacts out of them.
type sources struct {
	folders  map[string]string // repository key → folder
	trees    map[string]*tree  // folder → its files
	ignores  map[*tree][]ignoreText
	filtered map[string]*tree // by folder and patterns
}

// folder returns the files of a local folder, read once.
func (s *sources) folder(dir, repository string) (*tree, error) {
	if t, ok := s.trees[dir]; ok {
		return t, nil
	}
	t, err := readFolder(dir, repository)
	if err != nil {
		return nil, err
	}
	s.trees[dir] = t
	return t, nil
}

// artifact composes what source-controller would make of a source: the
// repository, what it includes, less what .sourceignore and spec.ignore leave
// out, in this order. The reason is set when no local folder is known.
func (s *sources) artifact(src *Source, visiting map[*Source]bool) (t *tree, reason string, err error) {
	if src.Folder == "" {
		return nil, fmt.Sprintf("no local folder answers for %s of %s", src.URL, src.Object), nil
	}
	if visiting[src] {
		return nil, "", fmt.Errorf("%s: %s includes itself", src.Origin, src.Object)
	}
	visiting[src] = true
	defer delete(visiting, src)
	base, err := s.folder(src.Folder, src.URL)
	if err != nil {
		return nil, "", err
	}
	if _, ok := s.ignores[base]; !ok {
		s.ignores[base] = ignorePatterns(base, nil)
	}
	patterns := slices.Clone(s.ignores[base])
	top := base.layer()
	for _, include := range src.Include {
		if include.Source == nil {
			return nil, "", fmt.Errorf("%s: %s includes GitRepository %s, which nothing in namespace %s declares", src.Origin, src.Object, include.Name, src.GetNamespace())
		}
		part, reason, err := s.artifact(include.Source, visiting)
		if err != nil || reason != "" {
			return nil, reason, err
		}
		from, ok := within(".", strings.TrimPrefix(include.FromPath, "/"))
		to, okTo := within(".", strings.TrimPrefix(include.ToPath, "/"))
		if !ok || !okTo {
			return nil, "", fmt.Errorf("%s: %s: include of %s: fromPath %q and toPath %q have to stay below the repository", src.Origin, src.Object, include.Name, include.FromPath, include.ToPath)
		}
		if from == "" {
			from = "."
		}
		if !part.isDir(from) {
			return nil, "", fmt.Errorf("%s: %s: include of %s: fromPath %q does not exist in %s; add it there, or mend fromPath%s", src.Origin, src.Object, include.Name, include.FromPath, include.Source.URL, nearestPath(part, from))
		}
		err = part.walk(from, func(name string, isDir bool) error {
			if !isDir {
				f, _ := part.file(name)
				rel := name
				if from != "." {
					rel = strings.TrimPrefix(name, from+"/")
				}
				top.add(path.Join(to, rel), f)
			}
			return nil
		})
		if err != nil {
			return nil, "", err
		}
	}
	patterns = append(patterns, ignorePatterns(top, base)...)
	if src.ignore != "" {
		patterns = append(patterns, ignoreText{text: src.ignore})
	}
	return s.filter(src, base, top, patterns), "", nil
}

// filter leaves out what the patterns ignore and what a sparse checkout does
// not bring. The base's part is shared among sources with the same rules.
func (s *sources) filter(src *Source, base, top *tree, patterns []ignoreText) *tree {
	matcher := matcher(patterns)
	keep := func(name string, sparse bool) bool {
		if sparse && len(src.sparse) > 0 && !slices.ContainsFunc(src.sparse, func(dir string) bool {
			dir = strings.Trim(strings.TrimPrefix(dir, "./"), "/")
			return strings.HasPrefix(name, dir+"/")
		}) {
			return false
		}
		return !matcher.Match(strings.Split(name, "/"), false)
	}
	key := fmt.Sprintf("%s\x00%s\x00%q\x00%q", src.Folder, src.GetKind(), src.sparse, patterns)
	shared, ok := s.filtered[key]
	if !ok {
		shared = newTree(base.root)
		for l := base; l != nil; l = l.parent {
			for name, f := range l.files {
				if _, have := shared.files[name]; !have && keep(name, true) {
					shared.add(name, f)
				}
			}
			maps.Copy(shared.links, l.links)
		}
		s.filtered[key] = shared
	}
	if len(top.files) == 0 {
		return shared
	}
	out := shared.layer()
	for name, f := range top.files {
		if keep(name, false) {
			out.add(name, f)
		}
	}
	return out
}

// ignoreText is the content of one ignore file and the folder it governs.
type ignoreText struct{ dir, text string }

// ignorePatterns reads the .sourceignore files of the layers above below.
func ignorePatterns(t, below *tree) []ignoreText {
	found := map[string]file{}
	for l := t; l != below; l = l.parent {
		for name, f := range l.files {
			if _, have := found[name]; !have && path.Base(name) == sourceignore.IgnoreFile {
				found[name] = f
			}
		}
	}
	var out []ignoreText
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if data, err := found[name].read(); err == nil {
			out = append(out, ignoreText{path.Dir(name), string(data)})
		}
	}
	return out
}

// matcher follows source-controller: rules of one's own replace the default
// ones, but for Git's own files.
func matcher(texts []ignoreText) gitignore.Matcher {
	var patterns []gitignore.Pattern
	for _, t := range texts {
		var domain []string
		if t.dir != "" && t.dir != "." {
			domain = strings.Split(t.dir, "/")
		}
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(t.text), domain)...)
	}
	if len(patterns) > 0 {
		return sourceignore.NewMatcher(append(sourceignore.VCSPatterns(nil), patterns...))
	}
	return sourceignore.NewDefaultMatcher(nil, nil)
}
