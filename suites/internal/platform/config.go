package platform

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"
)

const (
	// ConfigVersion and ConfigKind open every CONFIG file.
	ConfigVersion = "conformance.flux-platform/v1alpha1"
	// ConfigKind is the kind of a CONFIG file.
	ConfigKind = "Config"

	maxConfigBytes = 1 << 20
)

// Config is a CONFIG file: how a run differs from the defaults.
//
//	apiVersion: conformance.flux-platform/v1alpha1
//	kind: Config
//	platform: ./flux_platform      # PLATFORM= has precedence
//	sources:                       # who answers for a URL
//	- url: https://github.com/your-org/flux_developer
//	  path: ../flux_developer      # a folder, at every reference asked for
//	- url: https://kyverno.github.io/kyverno/
//	  charts:                      # a Helm repository, of Go modules or folders
//	  - {module: github.com/kyverno/kyverno, version: v1.19.1, path: charts/kyverno}
//	  - path: ./charts/mine
//	    dependencies: [{path: ./charts/common}]   # that its folder charts/ lacks
//	- url: https://github.com/kyverno/kyverno
//	  module: {path: github.com/kyverno/kyverno, version: v1.19.1, only: [config/crds]}
//	- url: https://example.com/charts
//	  upstream: true               # fetched from outside, and recorded
//	objects: ./objects             # applied before the bootstrap
//	environments: [dev, prd]       # default: all
//	tenants: [beetle]              # default: all
//	production: [prd]              # default: those whose name says so
//	timeouts: {multiplier: 2, bringUp: 15m}
//	waivers:
//	- {check: CFG-002, environment: dev, tenant: beetle, reason: "moves in May", expires: 2027-01-31}
//	components: {source-controller: v1.9.5}   # in place of versions not to be had
//	registries: {ghcr.io: "127.0.0.1:5000/ghcr.io"}   # or http://HOST…, https://HOST…
//	nodeImage: mirror.example/kindest/node:v1.36.4    # in place of kind's own
//	serves:                        # where services answer with their files
//	- {image: acme/*, path: "/files/{file}"}
//	ingress: {public: "edge/gateway:80"}      # the Service behind an IngressClass
//	developers: [your-org:developers]   # the groups of developers, without rights in a cluster
//	operators: [your-org:platform]       # groups and users of the platform's own people
//	residuals:                     # rights of tenants' identities that the layout does not tell
//	- {identity: reconciler, verbs: [list], resource: events, reason: "…"}
//	strict: false
//
// Paths are relative to the file. Unknown keys, anchors and aliases are refused.
type Config struct {
	// File is the absolute path that was read; empty for the defaults.
	File string
	// Platform is an absolute folder, or empty.
	Platform string
	Sources  []Answer
	// Objects is an absolute folder, or empty.
	Objects      string
	Environments []string
	Tenants      []string
	// Production names the environments that are production; empty: those whose
	// name says so.
	Production []string
	Timeouts   Timeouts
	Waivers    []Waiver
	// Components maps a component to the version that stands in for those that
	// cannot be had.
	Components map[string]string
	// Registries maps a registry host to a base reference that answers for it.
	Registries map[string]string
	// NodeImage is what kind makes nodes from where the image's registry answers;
	// empty for the one that kind's makers publish. It has a tag or a digest.
	NodeImage string
	// Serves says which services answer with the files that they are given.
	Serves []Serves
	// Ingress maps an IngressClass to the Service of its controller, as
	// NAMESPACE/NAME:PORT, where the class itself does not tell.
	Ingress map[string]string
	// Developers are the groups that developer teams are in.
	Developers []string
	// Operators are groups and users that are not held to have no rights: the
	// platform's own people.
	Operators []string
	// Residuals are rights that tenants' identities have for a reason that the
	// layout does not tell.
	Residuals []Residual
	// Strict fails a run for what is otherwise only listed.
	Strict bool
}

// Answer says who answers for a URL: exactly one of Path, Charts, Module and
// Upstream is set.
type Answer struct {
	URL string
	// Path is an absolute folder.
	Path     string
	Charts   []ChartSource
	Module   *Module
	Upstream bool
	// Line in CONFIG; 0 for the defaults that the program ships.
	Line int
}

// ChartSource is a chart of a Helm repository: a folder of a Go module, or, with
// Module empty, an absolute local folder.
type ChartSource struct {
	// Module and Version, or an empty version for the pinned one.
	Module, Version string
	// Path is the chart's folder, below the module if there is one.
	Path string
	// Dependencies are charts that it declares and its folder charts/ lacks.
	Dependencies []ChartSource
}

// Module is a Go module whose folder is served as a repository.
type Module struct {
	Path string
	// Version, or empty for the pinned one.
	Version string
	// Only limits it to these folders of the module.
	Only []string
}

// Waiver accepts a failed check for a while.
type Waiver struct {
	Check string
	// Environment and Tenant limit it; empty means all.
	Environment, Tenant string
	Reason              string
	// Expires is the last day on which it holds, at midnight UTC.
	Expires time.Time
	Line    int
}

//go:embed sources.yaml
var defaultSources []byte

// DefaultConfig is what holds without a CONFIG file.
func DefaultConfig() Config {
	return Config{Timeouts: DefaultTimeouts()}
}

// DefaultSources are the answers that hold where CONFIG gives none for a URL:
// the charts and CRDs that the reference platform draws on, from Go modules.
func DefaultSources() []Answer {
	c := shipped()
	for i := range c.Sources {
		c.Sources[i].Line = 0
	}
	return c.Sources
}

// shipped is what the program says where CONFIG does not.
func shipped() Config {
	c, err := decodeConfig("sources.yaml", "", defaultSources)
	if err != nil {
		panic(fmt.Sprintf("what the program ships cannot be read: %v", err))
	}
	return c
}

// LoadConfig reads a CONFIG file. The error lists all its mistakes, each as
// FILE:LINE: KEY: what is wrong.
func LoadConfig(path string) (Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Config{}, fmt.Errorf("find CONFIG file %s: %w", path, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return Config{}, fmt.Errorf("read CONFIG file: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read CONFIG file: %w", err)
	}
	if len(data) > maxConfigBytes {
		return Config{}, fmt.Errorf("CONFIG file %s has more than %d bytes; is it the right file?", path, maxConfigBytes)
	}
	c, err := decodeConfig(path, filepath.Dir(abs), data)
	if err != nil {
		return Config{}, err
	}
	c.File = abs
	return c, nil
}

// configReader walks the nodes of a CONFIG file and collects its mistakes.
type configReader struct {
	file, dir string
	mistakes  []mistake
}

type mistake struct {
	line int
	text string
}

func (r *configReader) wrong(node *yaml.Node, key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if key != "" {
		text = key + ": " + text
	}
	r.mistakes = append(r.mistakes, mistake{node.Line, text})
}

func decodeConfig(file, dir string, data []byte) (Config, error) {
	r := &configReader{file: file, dir: dir}
	c := DefaultConfig()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return c, fmt.Errorf("%s: the file is empty; a CONFIG file begins with «apiVersion: %s»", file, ConfigVersion)
	case err != nil:
		return c, syntax(file, err)
	}
	if err := decoder.Decode(&second); err == nil {
		r.wrong(&second, "", "a CONFIG file is one document, this is a second one")
	} else if !errors.Is(err, io.EOF) {
		return c, syntax(file, err)
	}
	if len(document.Content) == 1 {
		r.config(document.Content[0], &c)
	}
	slices.SortStableFunc(r.mistakes, func(a, b mistake) int { return a.line - b.line })
	errs := make([]error, 0, len(r.mistakes))
	for _, m := range r.mistakes {
		errs = append(errs, fmt.Errorf("%s:%d: %s", file, m.line, m.text))
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	c.Timeouts.multiply()
	return c, nil
}

func syntax(file string, err error) error {
	line, detail := yamlMistake(err)
	return fmt.Errorf("%s:%d: not valid YAML: %s", file, line, detail)
}

// known is one key of a mapping and what reads its value.
type known map[string]func(node *yaml.Node, key string)

// mapping reads a mapping with known keys only, each at most once.
func (r *configReader) mapping(node *yaml.Node, key string, keys known) {
	if !r.kind(node, key, yaml.MappingNode, "a mapping") {
		return
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	r.each(node, key, func(name, value *yaml.Node) {
		read, ok := keys[name.Value]
		if !ok {
			r.wrong(name, key, "unknown key %q%s (known are %s)", name.Value, suggestion(name.Value, names), strings.Join(names, ", "))
			return
		}
		read(value, join(key, name.Value))
	})
}

// each calls fn for every entry of a mapping, and refuses doubled keys.
func (r *configReader) each(node *yaml.Node, key string, fn func(name, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		if name.Kind != yaml.ScalarNode {
			r.wrong(name, key, "a key has to be text")
			continue
		}
		if line, ok := seen[name.Value]; ok {
			r.wrong(name, key, "key %q stands twice, first on line %d", name.Value, line)
			continue
		}
		seen[name.Value] = name.Line
		fn(name, node.Content[i+1])
	}
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func (r *configReader) kind(node *yaml.Node, key string, kind yaml.Kind, what string) bool {
	switch {
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		r.wrong(node, key, "anchors and aliases are not read here; write the value out")
	case node.Kind != kind || kind == yaml.ScalarNode && node.Tag == "!!null":
		r.wrong(node, key, "%s is wanted, this is %s", what, describe(node))
	default:
		return true
	}
	return false
}

func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if node.Tag == "!!null" {
			return "empty"
		}
		return strconv.Quote(node.Value)
	}
	return "something else"
}

func (r *configReader) text(into *string) func(*yaml.Node, string) {
	return func(node *yaml.Node, key string) {
		if !r.kind(node, key, yaml.ScalarNode, "text") {
			return
		}
		if strings.TrimSpace(node.Value) == "" {
			r.wrong(node, key, "is empty; leave the key out, or give it a value")
			return
		}
		*into = node.Value
	}
}

func (r *configReader) boolean(into *bool) func(*yaml.Node, string) {
	return func(node *yaml.Node, key string) {
		if !r.kind(node, key, yaml.ScalarNode, "true or false") {
			return
		}
		if node.Tag != "!!bool" {
			r.wrong(node, key, "true or false is wanted, this is %q", node.Value)
			return
		}
		*into = strings.EqualFold(node.Value, "true")
	}
}

// folder reads a path to a folder that exists.
func (r *configReader) folder(into *string) func(*yaml.Node, string) {
	return func(node *yaml.Node, key string) {
		var name string
		r.text(&name)(node, key)
		if name == "" {
			return
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(r.dir, name)
		}
		info, err := os.Stat(name)
		switch {
		case err != nil && os.IsNotExist(err):
			r.wrong(node, key, "folder %s does not exist (paths are relative to the CONFIG file)", name)
		case err != nil:
			r.wrong(node, key, "%v", err)
		case !info.IsDir():
			r.wrong(node, key, "%s is a file, a folder is wanted", name)
		default:
			*into = name
		}
	}
}

func (r *configReader) list(node *yaml.Node, key string, item func(node *yaml.Node, key string)) {
	if !r.kind(node, key, yaml.SequenceNode, "a list") {
		return
	}
	for i, entry := range node.Content {
		item(entry, fmt.Sprintf("%s[%d]", key, i))
	}
}

func (r *configReader) texts(into *[]string) func(*yaml.Node, string) {
	return func(node *yaml.Node, key string) {
		r.list(node, key, func(item *yaml.Node, key string) {
			var text string
			r.text(&text)(item, key)
			switch {
			case text == "":
			case slices.Contains(*into, text):
				r.wrong(item, key, "%q stands twice", text)
			default:
				*into = append(*into, text)
			}
		})
	}
}

// table reads a mapping of text to text.
func (r *configReader) table(into *map[string]string, check func(node *yaml.Node, key, value string)) func(*yaml.Node, string) {
	return func(node *yaml.Node, key string) {
		if !r.kind(node, key, yaml.MappingNode, "a mapping") {
			return
		}
		*into = map[string]string{}
		r.each(node, key, func(name, value *yaml.Node) {
			var text string
			r.text(&text)(value, join(key, name.Value))
			if text != "" {
				check(value, join(key, name.Value), text)
				(*into)[name.Value] = text
			}
		})
	}
}

func (r *configReader) config(node *yaml.Node, c *Config) {
	var version, kind string
	r.mapping(node, "", known{
		"apiVersion":   r.text(&version),
		"kind":         r.text(&kind),
		"platform":     r.folder(&c.Platform),
		"sources":      func(n *yaml.Node, key string) { r.sources(n, key, c) },
		"objects":      r.folder(&c.Objects),
		"environments": r.texts(&c.Environments),
		"tenants":      r.texts(&c.Tenants),
		"production":   r.texts(&c.Production),
		"timeouts":     func(n *yaml.Node, key string) { r.timeouts(n, key, &c.Timeouts) },
		"waivers":      func(n *yaml.Node, key string) { r.waivers(n, key, c) },
		"components":   r.table(&c.Components, r.version),
		"registries":   r.table(&c.Registries, func(*yaml.Node, string, string) {}),
		"nodeImage":    r.image(&c.NodeImage),
		"serves":       func(n *yaml.Node, key string) { r.serves(n, key, c) },
		"ingress":      r.table(&c.Ingress, r.service),
		"developers":   r.texts(&c.Developers),
		"operators":    r.texts(&c.Operators),
		"residuals":    func(n *yaml.Node, key string) { r.residuals(n, key, c) },
		"strict":       r.boolean(&c.Strict),
	})
	if version != ConfigVersion && node.Kind == yaml.MappingNode {
		r.wrong(node, "apiVersion", "%s is wanted, this is %q", ConfigVersion, version)
	}
	if kind != ConfigKind && node.Kind == yaml.MappingNode {
		r.wrong(node, "kind", "%s is wanted, this is %q", ConfigKind, kind)
	}
}

var semantic = regexp.MustCompile(`^v\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$`)

func (r *configReader) version(node *yaml.Node, key, value string) {
	if !semantic.MatchString(value) {
		r.wrong(node, key, "a version like v1.2.3 is wanted, this is %q", value)
	}
}

// image reads a reference that says which image of a repository is meant.
func (r *configReader) image(into *string) func(*yaml.Node, string) {
	return func(node *yaml.Node, key string) {
		var text string
		r.text(&text)(node, key)
		if text == "" {
			return
		}
		_, err := name.ParseReference(text)
		switch {
		case err != nil:
			r.wrong(node, key, "%q is no image: %v", text, err)
		case !strings.ContainsAny(text[strings.LastIndexByte(text, '/')+1:], ":@"):
			r.wrong(node, key, "an image with its tag or digest is wanted, this is %q", text)
		default:
			*into = text
		}
	}
}

func (r *configReader) sources(node *yaml.Node, key string, c *Config) {
	lines := map[string]int{}
	r.list(node, key, func(item *yaml.Node, key string) {
		a := Answer{Line: item.Line}
		upstream := false
		r.mapping(item, key, known{
			"url":      r.text(&a.URL),
			"path":     r.folder(&a.Path),
			"charts":   func(n *yaml.Node, key string) { r.charts(n, key, &a) },
			"module":   func(n *yaml.Node, key string) { r.module(n, key, &a) },
			"upstream": r.boolean(&upstream),
		})
		if item.Kind != yaml.MappingNode {
			return
		}
		a.Upstream = upstream
		if a.URL == "" {
			if field(item, "url") == nil {
				r.wrong(item, key, "url is missing")
			}
		} else if err := checkURL(a.URL); err != nil {
			r.wrong(field(item, "url"), key+".url", "%v", err)
		} else if line, ok := lines[repositoryKey(a.URL)]; ok {
			r.wrong(item, key, "%s is answered twice, first on line %d", a.URL, line)
		} else {
			lines[repositoryKey(a.URL)] = item.Line
		}
		var given []string
		for _, name := range []string{"path", "charts", "module", "upstream"} {
			if field(item, name) != nil {
				given = append(given, name)
			}
		}
		switch {
		case len(given) == 0:
			r.wrong(item, key, "nothing answers for %s: one of path, charts, module and upstream is wanted", a.URL)
		case len(given) > 1:
			r.wrong(item, key, "%s exclude each other; exactly one is wanted", strings.Join(given, " and "))
		case given[0] == "upstream" && !upstream:
			r.wrong(item, key, "upstream: false answers nothing; leave the entry out, or set it to true")
		}
		c.Sources = append(c.Sources, a)
	})
}

func checkURL(raw string) error {
	if !strings.Contains(raw, "://") && scp.MatchString(raw) {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("%q is no URL: %w", raw, err)
	}
	if !slices.Contains([]string{"https", "http", "ssh", "oci"}, u.Scheme) || u.Host == "" {
		return fmt.Errorf("%q is no URL of a source; https://, ssh://, http:// or oci:// with a host is wanted", raw)
	}
	return nil
}

func (r *configReader) charts(node *yaml.Node, key string, a *Answer) {
	a.Charts = r.chartList(node, key, true)
	if node.Kind == yaml.SequenceNode && len(node.Content) == 0 {
		r.wrong(node, key, "is empty; a Helm repository has one chart at least")
	}
}

func (r *configReader) chartList(node *yaml.Node, key string, dependencies bool) []ChartSource {
	var out []ChartSource
	r.list(node, key, func(item *yaml.Node, key string) {
		var c ChartSource
		path := r.text(&c.Path)
		if field(item, "module") == nil {
			path = r.folder(&c.Path)
		}
		keys := known{"module": r.text(&c.Module), "version": r.text(&c.Version), "path": path}
		if dependencies {
			keys["dependencies"] = func(n *yaml.Node, key string) { c.Dependencies = r.chartList(n, key, false) }
		}
		r.mapping(item, key, keys)
		if item.Kind != yaml.MappingNode {
			return
		}
		if field(item, "path") == nil {
			r.wrong(item, key, "path is missing: the chart's folder, in the module or relative to the CONFIG file")
		}
		r.inModule(item, key, c.Module, c.Version, c.Path)
		out = append(out, c)
	})
	return out
}

// inModule checks what belongs to a Go module: its version, and a path below it.
func (r *configReader) inModule(node *yaml.Node, key, module, version, path string) {
	if version != "" {
		if module == "" {
			r.wrong(node, key, "version is that of a module, and no module is named")
		} else {
			r.version(field(node, "version"), key+".version", version)
		}
	}
	if module != "" && path != "" && !filepath.IsLocal(path) {
		r.wrong(node, key, "path %q leads out of the module", path)
	}
}

func (r *configReader) module(node *yaml.Node, key string, a *Answer) {
	var m Module
	r.mapping(node, key, known{"path": r.text(&m.Path), "version": r.text(&m.Version), "only": r.texts(&m.Only)})
	if node.Kind != yaml.MappingNode {
		return
	}
	if field(node, "path") == nil {
		r.wrong(node, key, "path is missing: the module's path, like github.com/kyverno/kyverno")
	}
	for _, only := range append([]string{""}, m.Only...) {
		r.inModule(node, key, m.Path, "", only)
	}
	if m.Version != "" {
		r.version(field(node, "version"), key+".version", m.Version)
	}
	a.Module = &m
}

func (r *configReader) timeouts(node *yaml.Node, key string, t *Timeouts) {
	keys := known{"multiplier": func(n *yaml.Node, key string) {
		var text string
		r.text(&text)(n, key)
		if text == "" {
			return
		}
		m, err := strconv.ParseFloat(text, 64)
		if err != nil {
			r.wrong(n, key, "a number is wanted, this is %q", text)
			return
		}
		if err := checkMultiplier(m); err != nil {
			r.wrong(n, key, "%v", err)
			return
		}
		t.Multiplier = m
	}}
	for _, name := range timeoutNames {
		keys[name] = func(n *yaml.Node, key string) {
			var text string
			r.text(&text)(n, key)
			if text == "" {
				return
			}
			d, err := time.ParseDuration(text)
			switch {
			case err != nil:
				r.wrong(n, key, "a duration like 90s or 10m is wanted, this is %q", text)
			case d <= 0 || d > 24*time.Hour:
				r.wrong(n, key, "is %s, a duration above 0 and up to 24h is wanted", text)
			default:
				*t.field(name) = d
			}
		}
	}
	r.mapping(node, key, keys)
}

var checkID = regexp.MustCompile(`^[A-Z]{2,8}-[0-9]{3}$`)

func (r *configReader) waivers(node *yaml.Node, key string, c *Config) {
	r.list(node, key, func(item *yaml.Node, key string) {
		w := Waiver{Line: item.Line}
		var expires string
		r.mapping(item, key, known{
			"check": r.text(&w.Check), "environment": r.text(&w.Environment), "tenant": r.text(&w.Tenant),
			"reason": r.text(&w.Reason), "expires": r.text(&expires),
		})
		if item.Kind != yaml.MappingNode {
			return
		}
		for _, name := range []string{"check", "reason", "expires"} {
			if field(item, name) == nil {
				r.wrong(item, key, "%s is missing", name)
			}
		}
		if w.Check != "" && !checkID.MatchString(w.Check) {
			r.wrong(field(item, "check"), key+".check", "the ID of a check like CFG-002 is wanted, this is %q", w.Check)
		}
		if expires != "" {
			day, err := time.Parse(time.DateOnly, expires)
			if err != nil {
				r.wrong(field(item, "expires"), key+".expires", "a day like 2027-01-31 is wanted, this is %q", expires)
			}
			w.Expires = day
		}
		c.Waivers = append(c.Waivers, w)
	})
}
