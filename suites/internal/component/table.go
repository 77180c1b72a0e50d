package component

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"gopkg.in/yaml.v3"
)

const (
	componentsFile = "components.yaml"
	modulesFile    = "modules.yaml"
)

// namePattern is what a component may be called: the name is also a file name.
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// entry is one component of components.yaml; its fields are explained there.
type entry struct {
	Name         string   `yaml:"name"`
	Providers    []string `yaml:"providers"`
	Repositories []string `yaml:"repositories"`
	Image        string   `yaml:"image"`
	Path         string   `yaml:"path"`
	Seconds      int      `yaml:"seconds"`

	Pins    string `yaml:"pins"`
	Module  string `yaml:"module"`
	Package string `yaml:"package"`
	LDFlags string `yaml:"ldflags"`

	Source string `yaml:"source"`

	User      string   `yaml:"user"`
	Environ   []string `yaml:"environ"`
	Base      string   `yaml:"base"`
	StandsFor []string `yaml:"standsFor"`

	order  int
	family *family  // nil with Source
	files  *sources // nil without Source
	// pinned is the version of Module in the family, as v1.2.3; with Source what
	// its content says.
	pinned string
}

func (e *entry) estimate() time.Duration { return time.Duration(e.Seconds) * time.Second }

// of says whether clusters of a provider have the component.
func (e *entry) of(provider string) bool {
	return len(e.Providers) == 0 || slices.Contains(e.Providers, provider)
}

// origin is what the component is built from.
func (e *entry) origin() string {
	if e.files != nil {
		return "scripts/" + e.Source
	}
	return e.Module + "@" + e.pinned
}

// goVersion is the least Go release that can build the component.
func (e *entry) goVersion() string {
	if e.files != nil {
		return sourceGo
	}
	return e.family.goVersion()
}

// standsIn says whether the pinned version runs in place of the image.
func (e *entry) standsIn(ref reference) bool {
	return ref.digest == "" && slices.ContainsFunc(e.StandsFor, func(text string) bool {
		other, err := parseReference(text)
		return err == nil && other.repository == ref.repository && other.tag == ref.tag
	})
}

// family is a pair of alternative module files, in which one build list
// serves several components.
type family struct {
	name     string
	mod, sum []byte
	file     *modfile.File
	sums     map[module.Version]string // h1 hash of the module's files
}

// table is everything that the pins declare.
type table struct {
	entries  []*entry
	byName   map[string]*entry
	families map[string]*family
	modules  map[string]map[string]string // path → version → h1 hash
}

// readTable reads components.yaml, modules.yaml, and the module files and
// sources that they name. All mistakes are reported together.
func readTable(pins, sources fs.FS) (*table, error) {
	data, err := fs.ReadFile(pins, componentsFile)
	if err != nil {
		return nil, fmt.Errorf("read the component table: %w", err)
	}
	entries, err := parseComponents(data)
	if err != nil {
		return nil, err
	}
	t := &table{entries: entries, byName: map[string]*entry{}, families: map[string]*family{}, modules: map[string]map[string]string{}}
	var problems []error
	for i, e := range entries {
		e.order = i
		t.byName[e.Name] = e
		if e.Source != "" {
			if e.files, err = readSources(sources, e.Source); err != nil {
				problems = append(problems, fmt.Errorf("%s: component %s: %w", componentsFile, e.Name, err))
				continue
			}
			e.pinned = e.files.version()
			continue
		}
		if t.families[e.Pins] == nil {
			f, err := readFamily(pins, e.Pins)
			if err != nil {
				return nil, fmt.Errorf("%s: component %s: %w", componentsFile, e.Name, err)
			}
			t.families[e.Pins] = f
			for m, sum := range f.sums {
				if f.requires(m) {
					t.addModule(m.Path, m.Version, sum)
				}
			}
		}
		e.family = t.families[e.Pins]
		e.pinned = e.family.version(e.Module)
		if e.pinned == "" {
			problems = append(problems, fmt.Errorf("%s: component %s: %s.mod does not require module %s", componentsFile, e.Name, e.Pins, e.Module))
		}
	}
	data, err = fs.ReadFile(pins, modulesFile)
	if err != nil {
		return nil, fmt.Errorf("read the table of modules: %w", err)
	}
	modules, err := parseModules(data)
	if err != nil {
		problems = append(problems, err)
	}
	for m, sum := range modules {
		t.addModule(m.Path, m.Version, sum)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return t, nil
}

func (t *table) addModule(path, version, sum string) {
	if t.modules[path] == nil {
		t.modules[path] = map[string]string{}
	}
	t.modules[path][version] = sum
}

// parseComponents decodes components.yaml and refuses what it does not know.
func parseComponents(data []byte) ([]*entry, error) {
	var file struct {
		Components []*entry `yaml:"components"`
	}
	if err := decodeStrict(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", componentsFile, err)
	}
	if len(file.Components) == 0 {
		return nil, fmt.Errorf("%s: no components", componentsFile)
	}
	var problems []error
	names, repositories := map[string]bool{}, map[string]string{}
	for i, e := range file.Components {
		if e == nil {
			problems = append(problems, fmt.Errorf("%s: entry %d is empty", componentsFile, i+1))
			continue
		}
		bad := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("%s: entry %d (%s): %s", componentsFile, i+1, e.Name, fmt.Sprintf(format, args...)))
		}
		if !namePattern.MatchString(e.Name) {
			bad("name %q does not match %s", e.Name, namePattern)
		}
		if names[e.Name] {
			bad("a second entry of this name")
		}
		names[e.Name] = true
		for _, provider := range e.Providers {
			if !namePattern.MatchString(provider) {
				bad("provider %q does not match %s", provider, namePattern)
			}
		}
		for _, r := range e.Repositories {
			if other, taken := repositories[r]; taken {
				bad("repository %q belongs to %s", r, other)
			}
			repositories[r] = e.Name
			if r == "" || strings.Trim(r, "/") != r {
				bad("repository %q is not a path without a leading or trailing slash", r)
			}
			if stem, wild := strings.CutSuffix(r, "/*"); strings.Contains(stem, "*") || r == "*" || wild && stem == "" {
				bad("repository %q: only the last of several segments may be *", r)
			}
		}
		e.checkImage(bad)
		e.checkOrigin(bad)
		if e.Seconds <= 0 {
			bad("seconds: %d is not an estimate", e.Seconds)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return file.Components, nil
}

// checkImage looks at what an entry says of images.
func (e *entry) checkImage(bad func(format string, args ...any)) {
	if len(e.Repositories) == 0 {
		if e.Image != "" || e.Path != "" || e.User != "" || e.Base != "" || len(e.Environ)+len(e.StandsFor) > 0 {
			bad("repositories: none; no image would be recognised")
		}
		return
	}
	if ref, err := parseReference(render(e.Image, "v1.2.3")); err != nil {
		bad("image: %v", err)
	} else if ref.tag == "" || e.Source == "" && !strings.Contains(e.Image, "{") {
		bad("image %q has no tag made from {version} or {number}", e.Image)
	}
	if e.Path != "" && !strings.HasPrefix(e.Path, "/") {
		bad("path %q is not absolute", e.Path)
	}
	for _, variable := range e.Environ {
		if name, _, found := strings.Cut(variable, "="); !found || name == "" {
			bad("environ: %q is not NAME=VALUE", variable)
		}
	}
	for _, text := range e.StandsFor {
		if ref, err := parseReference(text); err != nil {
			bad("standsFor: %v", err)
		} else if ref.tag == "" || ref.digest != "" || !matches(ref.repository.RepositoryStr(), e.Repositories) {
			bad("standsFor: %q is not an image of this component with a tag", text)
		}
	}
}

// checkOrigin looks at what an entry is built from.
func (e *entry) checkOrigin(bad func(format string, args ...any)) {
	if e.Source != "" {
		if !fs.ValidPath(e.Source) || e.Source == "." {
			bad("source %q is not the path of a folder", e.Source)
		}
		if e.Pins != "" || e.Module != "" || e.Package != "" || e.LDFlags != "" {
			bad("it has both a source and a pinned module")
		}
		return
	}
	if !namePattern.MatchString(e.Pins) {
		bad("pins %q is not the name of a module family", e.Pins)
	}
	if err := module.CheckPath(e.Module); err != nil {
		bad("module: %v", err)
	}
	if err := module.CheckImportPath(e.Package); err != nil {
		bad("package: %v", err)
	} else if e.Package != e.Module && !strings.HasPrefix(e.Package, e.Module+"/") {
		bad("package %s is not in module %s", e.Package, e.Module)
	}
}

// parseModules decodes modules.yaml and refuses what it does not know.
func parseModules(data []byte) (map[module.Version]string, error) {
	var file struct {
		Modules []struct {
			Path    string `yaml:"path"`
			Version string `yaml:"version"`
			Sum     string `yaml:"sum"`
		} `yaml:"modules"`
	}
	if err := decodeStrict(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", modulesFile, err)
	}
	modules := map[module.Version]string{}
	var problems []error
	for _, m := range file.Modules {
		if err := module.Check(m.Path, m.Version); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", modulesFile, err))
		}
		if !strings.HasPrefix(m.Sum, "h1:") {
			problems = append(problems, fmt.Errorf("%s: %s@%s: sum %q is not an h1 hash", modulesFile, m.Path, m.Version, m.Sum))
		}
		modules[module.Version{Path: m.Path, Version: m.Version}] = m.Sum
	}
	return modules, errors.Join(problems...)
}

// decodeStrict decodes the one YAML document in data; unknown keys and further
// documents are errors.
func decodeStrict(data []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	return nil
}

func readFamily(pins fs.FS, name string) (*family, error) {
	mod, err := fs.ReadFile(pins, name+".mod")
	if err != nil {
		return nil, fmt.Errorf("read its module family: %w", err)
	}
	sum, err := fs.ReadFile(pins, name+".sum")
	if err != nil {
		return nil, fmt.Errorf("read its module family: %w", err)
	}
	file, err := modfile.Parse(name+".mod", mod, nil)
	if err != nil {
		return nil, fmt.Errorf("parse its module family: %w", err)
	}
	f := &family{name: name, mod: mod, sum: sum, file: file, sums: map[module.Version]string{}}
	for line := range strings.Lines(string(sum)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && !strings.HasSuffix(fields[1], "/go.mod") {
			f.sums[module.Version{Path: fields[0], Version: fields[1]}] = fields[2]
		}
	}
	return f, nil
}

// version is the version at which the family requires a module; empty where it
// does not.
func (f *family) version(path string) string {
	for _, r := range f.file.Require {
		if r.Mod.Path == path {
			return r.Mod.Version
		}
	}
	return ""
}

func (f *family) requires(m module.Version) bool { return f.version(m.Path) == m.Version }

// goVersion is the least Go release that can build the family, such as 1.26.6.
func (f *family) goVersion() string {
	if f.file.Go == nil {
		return "1.16" // what the go command assumes of a file without the directive
	}
	return f.file.Go.Version
}

// render fills the templates of components.yaml for one version.
func render(template, version string) string {
	number := strings.TrimPrefix(version, "v")
	major, rest, _ := strings.Cut(number, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return strings.NewReplacer("{version}", version, "{number}", number, "{major}", major, "{minor}", minor).Replace(template)
}

// canonical writes versions the way Go modules do: 1.2.3 as v1.2.3. What is not
// a version (a tag such as latest) stays as it is.
func canonical(version string) string {
	if !strings.HasPrefix(version, "v") && semver.IsValid("v"+version) {
		return "v" + version
	}
	return version
}

// complete says whether version has all three numbers. Such tags are not moved
// by those who publish them; others are (latest, v1, v1.9).
func complete(version string) bool {
	version = canonical(version)
	release, _, _ := strings.Cut(strings.TrimSuffix(version, semver.Build(version)), "-")
	return semver.IsValid(version) && strings.Count(release, ".") == 2
}

// version reads the component's version from an image tag: the default image
// says how it stands there, as in 3.6.8-0.
func (e *entry) version(tag string) string {
	_, template, _ := strings.Cut(e.Image[strings.LastIndex(e.Image, "/")+1:], ":")
	for _, variable := range []string{"{version}", "{number}"} {
		before, after, found := strings.Cut(template, variable)
		if found && len(tag) > len(before)+len(after) && strings.HasPrefix(tag, before) && strings.HasSuffix(tag, after) {
			return canonical(tag[len(before) : len(tag)-len(after)])
		}
	}
	return canonical(tag)
}

// names lists the components that keep lets through, in the order of the table.
func (t *table) names(keep func(*entry) bool) []string {
	names := make([]string, 0, len(t.entries))
	for _, e := range t.entries {
		if keep(e) {
			names = append(names, e.Name)
		}
	}
	return names
}

func every(*entry) bool { return true }

// recognize finds the component whose image stands at a repository path: one
// that names it, else one that takes any of its kind.
func (t *table) recognize(path string) *entry {
	for _, e := range t.entries {
		if matches(path, slices.DeleteFunc(slices.Clone(e.Repositories), wildcard)) {
			return e
		}
	}
	for _, e := range t.entries {
		if matches(path, e.Repositories) {
			return e
		}
	}
	return nil
}

func wildcard(repository string) bool { return strings.HasSuffix(repository, "/*") }

// matches says whether a repository path is one of those of an entry.
func matches(path string, repositories []string) bool {
	return slices.ContainsFunc(repositories, func(r string) bool {
		if stem, wild := strings.CutSuffix(r, "*"); wild {
			slash := strings.LastIndexByte(path, '/')
			path, r = path[:slash+1], stem
		}
		// A path of one segment, such as etcd, says too little to be looked for
		// below a prefix.
		return path == r || strings.Contains(r, "/") && strings.HasSuffix(path, "/"+r)
	})
}
