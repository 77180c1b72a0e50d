package platform

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/envsubst"
	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	sigsyaml "sigs.k8s.io/yaml"
)

const (
	originAnnotation     = "config.kubernetes.io/origin"
	substituteAnnotation = "kustomize.toolkit.fluxcd.io/substitute"
)

// errRemote marks what a build would fetch from elsewhere.
var errRemote = errors.New("fetched from outside of the repository")

// pathError is a spec.path that the artifact does not hold.
type pathError struct{ detail string }

func (e pathError) Error() string { return e.detail }

// syntaxError is a file that is no YAML.
type syntaxError struct {
	at     Origin
	detail string
}

func (e syntaxError) Error() string { return fmt.Sprintf("%s: %s", e.at, e.detail) }

// build is one run of kustomize: what it rendered, and which files it read.
type build struct {
	objects []Object
	tree    *tree
	dir     string // below the tree
	reads   []string
}

// recorder passes a build's reads through: it notes them, and refuses a
// kustomization that names something remote or missing, with the line.
type recorder struct {
	*tree
	reads []string
	seen  map[string]bool
	whole bool // CRDs with their schemas
	cut   bool // a schema was left out
	types bool // a kustomization brought an OpenAPI schema
	err   error
}

func (r *recorder) ReadFile(name string) ([]byte, error) {
	data, err := r.tree.ReadFile(name)
	rel, relErr := r.rel(name)
	if relErr != nil {
		return nil, relErr
	}
	if err != nil {
		if r.err == nil && !errors.Is(err, fs.ErrNotExist) && !r.isDir(rel) {
			r.err = err
		}
		return nil, err
	}
	if !r.seen[rel] {
		r.seen[rel] = true
		r.reads = append(r.reads, rel)
		if err := checkReferences(r.tree, rel, data); err != nil {
			if r.err == nil {
				r.err = err
			}
			return nil, err
		}
	}
	r.types = r.types || bytes.Contains(data, []byte("openapi:"))
	if !r.whole {
		short := withoutSchemas(data)
		r.cut = r.cut || len(short) != len(data)
		data = short
	}
	if err := checkAliases(r.tree, rel, data); err != nil {
		if r.err == nil {
			r.err = err
		}
		return nil, err
	}
	return data, nil
}

var (
	anchorText = regexp.MustCompile(`(?m)(^|[\s\[{,])&[^\s&]`)
	aliasText  = regexp.MustCompile(`(?m)(^|[\s\[{,])\*[^\s*]`)
)

// checkAliases refuses aliases that grow without bound: kustomize follows them,
// and would take the process down with it.
func checkAliases(t *tree, name string, data []byte) error {
	if !isYAML(name) || !anchorText.Match(data) || !aliasText.Match(data) {
		return nil
	}
	f, _ := t.file(name)
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		if decoder.Decode(&node) != nil {
			return nil // the end, or a mistake that kustomize reports as well
		}
		budget := maxValueNodes
		if line, ok := bounded(&node, 0, &budget); !ok {
			return fmt.Errorf("%s: excessive aliasing: an alias contains itself, or the document grows beyond %d values", f.origin(line), maxValueNodes)
		}
	}
}

// bounded counts the nodes below one, aliases followed.
func bounded(node *yaml.Node, depth int, budget *int) (line int, ok bool) {
	*budget--
	if *budget < 0 || depth > maxValueDepth {
		return node.Line, false
	}
	if node.Kind == yaml.AliasNode {
		return bounded(node.Alias, depth+1, budget)
	}
	for _, child := range node.Content {
		if line, ok := bounded(child, depth+1, budget); !ok {
			return line, false
		}
	}
	return 0, true
}

// withoutSchemas empties the schemas of CRDs: megabytes that take kustomize
// seconds, and that no check of the model looks at.
func withoutSchemas(data []byte) []byte {
	const key = "openAPIV3Schema:"
	if !bytes.Contains(data, []byte("kind: CustomResourceDefinition")) || !bytes.Contains(data, []byte(key)) {
		return data
	}
	out := make([]byte, 0, len(data)/8)
	cutting, depth := false, 0
	for line := range bytes.Lines(data) {
		text := bytes.TrimLeft(line, " ")
		indent := len(line) - len(text)
		blank := len(bytes.TrimSpace(text)) == 0
		if cutting && (blank || indent > depth) {
			continue
		}
		cutting = false
		if string(bytes.TrimSpace(text)) == key {
			cutting, depth = true, indent
			out = append(append(out, line[:indent]...), key+" {x-kubernetes-preserve-unknown-fields: true}\n"...)
			continue
		}
		out = append(out, line...)
	}
	return out
}

// buildMutex guards kustomize, whose builds share global state.
var buildMutex sync.Mutex

// runBuild renders dir of t as kustomize-controller renders it for spec; a
// zero spec means a plain kustomize build.
func runBuild(t *tree, dir string, spec kustomizev1.KustomizationSpec) (*build, error) {
	if at, target, ok := t.link(dir); ok {
		return nil, pathError{fmt.Sprintf("path %q: %s is a symbolic link to %s, and Flux leaves symbolic links out of an artifact; put a folder there", "./"+dir, at, target)}
	}
	if !t.isDir(dir) {
		return nil, pathError{fmt.Sprintf("path %q does not exist in the artifact%s", "./"+dir, nearestPath(t, dir))}
	}
	original, name, kustomization, err := kustomizationFor(t, dir)
	if err != nil {
		return nil, err
	}
	if original != nil {
		if err := checkReferences(t, name, original); err != nil {
			return nil, err
		}
	}
	keepOrigin := slices.Contains(kustomization.BuildMetadata, kustypes.OriginAnnotations)
	if err := overlay(t, dir, &kustomization, spec); err != nil {
		return nil, err
	}
	data, err := sigsyaml.Marshal(kustomization)
	if err != nil {
		return nil, fmt.Errorf("write kustomization of %s: %w", dir, err)
	}
	top := t.layer()
	f, ok := t.file(name)
	if !ok {
		f = file{folder: t.root, path: name}
	}
	f.data, f.memory = data, true
	top.add(name, f)
	run := func(whole bool) (*recorder, resmap.ResMap, error) {
		r := &recorder{tree: top, seen: map[string]bool{name: true}, reads: []string{name}, whole: whole}
		result, err := runKustomize(r, t.abs(dir))
		return r, result, err
	}
	r, result, err := run(false)
	if err != nil && r.err == nil && r.cut {
		r, result, err = run(true) // perhaps a patch is made for a schema
	}
	if err != nil {
		return nil, explain(t, r, err)
	}
	b := &build{tree: t, dir: dir, reads: r.reads}
	if err := b.collect(result, keepOrigin); err != nil {
		if twice := repeatedKey(t, r.reads); twice != nil {
			return nil, twice
		}
		return nil, err
	}
	return b, nil
}

// repeatedKey finds a key that stands twice in what a build read, where the build
// or what came of it cannot be read: kustomize tells neither file nor line.
func repeatedKey(t *tree, reads []string) error {
	for _, name := range reads {
		f, ok := t.file(name)
		if !ok || !isYAML(name) {
			continue
		}
		data, err := f.read()
		if err != nil {
			continue
		}
		documents, _ := Decode(bytes.NewReader(data))
		for _, root := range documents {
			for _, twice := range Repeated(root) {
				return syntaxError{at: f.origin(twice.Line), detail: fmt.Sprintf("duplicate key %q, first on line %d", twice.Key, twice.First)}
			}
		}
	}
	return nil
}

func runKustomize(r *recorder, dir string) (result resmap.ResMap, err error) {
	buildMutex.Lock()
	defer buildMutex.Unlock()
	defer func() {
		if r.types { // else one platform's schema would hold for the next build
			openapi.ResetOpenAPI()
		}
	}()
	// kustomize panics on some malformed objects.
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("kustomize build panicked: %v", cause)
		}
	}()
	return krusty.MakeKustomizer(&krusty.Options{
		LoadRestrictions: kustypes.LoadRestrictionsNone,
		PluginConfig:     kustypes.DisabledPluginConfig(),
	}).Run(r, dir)
}

// explain prefers what was found in a file, with its line, to kustomize's words.
func explain(t *tree, r *recorder, err error) error {
	if r.err != nil {
		return r.err
	}
	for _, name := range r.reads {
		f, ok := t.file(name)
		if !ok || !isYAML(name) {
			continue
		}
		if data, readErr := f.read(); readErr == nil {
			if syntax := checkSyntax(f, data); syntax != nil {
				return syntax
			}
		}
	}
	return fmt.Errorf("kustomize build failed: %s", strings.ReplaceAll(err.Error(), t.root+string(filepath.Separator), ""))
}

func isYAML(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml" || path.Base(name) == "Kustomization"
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// checkSyntax returns the first mistake of a YAML stream, with its line.
func checkSyntax(f file, data []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		line, detail := yamlMistake(err)
		return syntaxError{at: f.origin(line), detail: "not valid YAML: " + detail}
	}
}

// yamlMistake takes an error of the YAML decoder apart. The decoder counts the
// lines of a mistake of grammar from 0, and those of a wrong character from 1.
func yamlMistake(err error) (line int, detail string) {
	detail = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatchIndex(detail); m != nil {
		line, _ = strconv.Atoi(detail[m[2]:m[3]])
		detail = detail[:m[0]] + detail[m[1]:]
	}
	if line == 0 || strings.Contains(detail, "did not find expected") {
		line++
	}
	return line, detail
}

// kustomizationFor returns the kustomization file of a folder, or the one that
// Flux generates where there is none: all YAML files below, and folders that
// have a kustomization of their own as such.
func kustomizationFor(t *tree, dir string) (original []byte, name string, k kustypes.Kustomization, err error) {
	k.TypeMeta = kustypes.TypeMeta{APIVersion: kustypes.KustomizationVersion, Kind: kustypes.KustomizationKind}
	if name, ok := kustomizationFile(t, dir); ok {
		f, _ := t.file(name)
		data, err := f.read()
		if err != nil {
			return nil, "", k, err
		}
		if err := checkSyntax(f, data); err != nil {
			return nil, "", k, err
		}
		if err := sigsyaml.Unmarshal(data, &k); err != nil {
			return nil, "", k, fmt.Errorf("%s: not a kustomization: %w", f.origin(0), err)
		}
		if len(k.Resources) == 0 {
			// Flux does the same, so that a kustomization with nothing in it is no
			// error; what such a one generates keeps the annotation.
			k.BuildMetadata = []string{kustypes.OriginAnnotations}
		}
		return data, name, k, nil
	}
	err = t.walk(dir, func(name string, isDir bool) error {
		rel := "./" + strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")
		switch {
		case isDir:
			if _, ok := kustomizationFile(t, name); ok {
				k.Resources = append(k.Resources, rel)
				return fs.SkipDir
			}
		case path.Ext(name) == ".yaml" || path.Ext(name) == ".yml":
			k.Resources = append(k.Resources, rel)
		}
		return nil
	})
	if len(k.Resources) == 0 {
		k.Namespace = "_placeholder" // as Flux does: an empty folder renders nothing
	}
	return nil, path.Join(dir, konfig.DefaultKustomizationFileName()), k, err
}

func kustomizationFile(t *tree, dir string) (string, bool) {
	for _, base := range konfig.RecognizedKustomizationFileNames() {
		if name := path.Join(dir, base); hasFile(t, name) {
			return name, true
		}
	}
	return "", false
}

func hasFile(t *tree, name string) bool {
	_, ok := t.file(name)
	return ok
}

// overlay lays what a Flux Kustomization asks for over a kustomize file, in the
// way of kustomize-controller: its namespace, prefix and suffix replace the
// file's, its patches, components and images come after them.
func overlay(t *tree, dir string, k *kustypes.Kustomization, spec kustomizev1.KustomizationSpec) error {
	if !slices.Contains(k.BuildMetadata, kustypes.OriginAnnotations) {
		k.BuildMetadata = append(k.BuildMetadata, kustypes.OriginAnnotations)
	}
	if spec.TargetNamespace != "" {
		k.Namespace = spec.TargetNamespace
	}
	if spec.NamePrefix != "" {
		k.NamePrefix = spec.NamePrefix
	}
	if spec.NameSuffix != "" {
		k.NameSuffix = spec.NameSuffix
	}
	for _, p := range spec.Patches {
		patch := kustypes.Patch{Patch: p.Patch}
		if p.Target != nil {
			patch.Target = &kustypes.Selector{LabelSelector: p.Target.LabelSelector, AnnotationSelector: p.Target.AnnotationSelector}
			patch.Target.Group, patch.Target.Version, patch.Target.Kind = p.Target.Group, p.Target.Version, p.Target.Kind
			patch.Target.Name, patch.Target.Namespace = p.Target.Name, p.Target.Namespace
		}
		k.Patches = append(k.Patches, patch)
	}
	for _, component := range spec.Components {
		name, ok := within(dir, component)
		switch {
		case isRemote(component):
			return fmt.Errorf("component %s: %w", component, errRemote)
		case !ok || !t.isDir(name):
			if spec.IgnoreMissingComponents {
				continue
			}
			return fmt.Errorf("component %s does not exist%s", component, nearestPath(t, name))
		}
		k.Components = append(k.Components, component)
	}
	for _, image := range spec.Images {
		i := slices.IndexFunc(k.Images, func(have kustypes.Image) bool { return have.Name == image.Name })
		if i < 0 {
			k.Images = append(k.Images, kustypes.Image{Name: image.Name})
			i = len(k.Images) - 1
		}
		if image.NewName != "" {
			k.Images[i].NewName = image.NewName
		}
		if image.NewTag != "" || image.Digest != "" {
			k.Images[i].NewTag, k.Images[i].Digest = image.NewTag, image.Digest
		}
	}
	return nil
}

// reference is a path that a kustomization names.
type reference struct {
	field, path string
	line        int
	folder      bool // may be a folder
}

// checkReferences refuses what kustomize would fetch over the network, and
// names with its line what does not exist; kustomize's own message buries both.
func checkReferences(t *tree, name string, data []byte) error {
	base := path.Base(name)
	kustomize := slices.Contains(konfig.RecognizedKustomizationFileNames(), base)
	plugin := !kustomize && isYAML(name) && bytes.Contains(data, []byte("apiVersion: builtin"))
	if !kustomize && !plugin {
		return nil
	}
	f, _ := t.file(name)
	if err := checkSyntax(f, data); err != nil {
		return err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var mistakes, remote []error
	for {
		var node yaml.Node
		if decoder.Decode(&node) != nil || len(node.Content) == 0 {
			break
		}
		root := node.Content[0]
		var refs []reference
		var generators []*yaml.Node
		if kustomize {
			refs = references(root)
			generators = slices.Concat(items(field(root, "configMapGenerator")), items(field(root, "secretGenerator")))
		} else if version := field(root, "apiVersion"); version != nil && version.Value == "builtin" {
			refs = generatorReferences(root)
			generators = []*yaml.Node{root}
		}
		for _, ref := range refs {
			switch err := t.check(f, path.Dir(name), ref); {
			case errors.Is(err, errRemote):
				remote = append(remote, err)
			case err != nil:
				mistakes = append(mistakes, err)
			}
		}
		for _, generator := range generators {
			mistakes = append(mistakes, repeatedKeys(f, generator)...)
		}
	}
	if len(mistakes) > 0 {
		return errors.Join(mistakes...)
	}
	return errors.Join(remote...)
}

func (t *tree) check(f file, dir string, ref reference) error {
	at := f.origin(ref.line)
	switch {
	case isURL(ref.path), ref.folder && isRemote(ref.path):
		return fmt.Errorf("%s: %s: %s is %w", at, ref.field, ref.path, errRemote)
	case isRemote(ref.path):
		return fmt.Errorf("%s: %s: %s does not exist: kustomize clones no repository for a single file, and takes this for a path of the artifact; "+
			"bring the file there with spec.include of the GitRepository", at, ref.field, ref.path)
	}
	name, ok := within(dir, ref.path)
	if !ok {
		return fmt.Errorf("%s: %s: %s lies outside of the repository; Flux builds from what is in the artifact only", at, ref.field, ref.path)
	}
	if hasFile(t, name) || ref.folder && t.isDir(name) {
		return nil
	}
	if link, target, ok := t.link(name); ok {
		return fmt.Errorf("%s: %s: %s is a symbolic link to %s, and Flux leaves symbolic links out of an artifact; put the file itself there", at, ref.field, link, target)
	}
	if t.isDir(name) {
		return fmt.Errorf("%s: %s: %s is a folder, a file is wanted", at, ref.field, ref.path)
	}
	return fmt.Errorf("%s: %s: %s does not exist%s", at, ref.field, ref.path, nearestPath(t, name))
}

// references lists the paths in a kustomize file.
func references(root *yaml.Node) []reference {
	if version := field(root, "apiVersion"); version != nil && !strings.HasPrefix(version.Value, "kustomize.config.k8s.io/") {
		return nil
	}
	var out []reference
	scalars := func(key string, folder bool) {
		for _, item := range items(field(root, key)) {
			if item.Kind == yaml.ScalarNode && !strings.Contains(item.Value, "\n") && item.Value != "" {
				out = append(out, reference{key, item.Value, item.Line, folder})
			}
		}
	}
	for _, key := range []string{"resources", "bases", "components", "generators", "transformers", "validators"} {
		scalars(key, true)
	}
	scalars("crds", false)
	scalars("configurations", false)
	for _, key := range []string{"patches", "patchesJson6902", "replacements"} {
		for _, item := range items(field(root, key)) {
			if p := field(item, "path"); p != nil && p.Value != "" {
				out = append(out, reference{key, p.Value, p.Line, false})
			}
		}
	}
	if p := field(field(root, "openapi"), "path"); p != nil {
		out = append(out, reference{"openapi", p.Value, p.Line, false})
	}
	for _, key := range []string{"configMapGenerator", "secretGenerator"} {
		for _, item := range items(field(root, key)) {
			out = append(out, generatorReferences(item)...)
		}
	}
	return out
}

// generatorReferences lists the files of one ConfigMap or Secret generator.
func generatorReferences(root *yaml.Node) []reference {
	var out []reference
	for _, key := range []string{"files", "envs"} {
		for _, item := range items(field(root, key)) {
			name := item.Value
			if _, after, ok := strings.Cut(name, "="); ok && key == "files" {
				name = after
			}
			out = append(out, reference{key, name, item.Line, false})
		}
	}
	for _, key := range []string{"env", "path"} {
		if p := field(root, key); p != nil && p.Kind == yaml.ScalarNode && p.Value != "" {
			out = append(out, reference{key, p.Value, p.Line, false})
		}
	}
	return out
}

// repeatedKeys are the keys that two entries of one generator claim; without a
// key of its own a file has its name for one.
func repeatedKeys(f file, generator *yaml.Node) []error {
	var out []error
	lines := map[string]int{}
	for _, list := range []string{"files", "literals"} {
		for _, item := range items(field(generator, list)) {
			key, _, given := strings.Cut(item.Value, "=")
			if !given {
				key = path.Base(item.Value)
			}
			if first, twice := lines[key]; twice {
				out = append(out, fmt.Errorf("%s: %s: %s has the key %s, which line %d has already; give each entry a key of its own, as KEY=PATH",
					f.origin(item.Line), list, item.Value, key, first))
				continue
			}
			lines[key] = item.Line
		}
	}
	return out
}

func field(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

func items(node *yaml.Node) []*yaml.Node {
	if node == nil || node.Kind != yaml.SequenceNode {
		return nil
	}
	return node.Content
}

var remotePath = regexp.MustCompile(`(?i)^(git::|gh:|[a-z][a-z0-9+.-]*://|github\.com[/:]|[^/]+@[^/]+:)`)

// isRemote tells whether kustomize would take the path of a folder for a
// repository or a URL.
func isRemote(name string) bool { return remotePath.MatchString(name) }

// isURL tells whether kustomize would fetch a single file.
func isURL(name string) bool {
	scheme, _, ok := strings.Cut(strings.ToLower(name), "://")
	return ok && (scheme == "https" || scheme == "http")
}

// collect turns the result into objects with their origins.
func (b *build) collect(result resmap.ResMap, keepOrigin bool) error {
	outlines := map[string][]manifest{}
	for _, res := range result.Resources() {
		data, err := res.MarshalJSON()
		if err != nil {
			return fmt.Errorf("read built object %s: %w", res.CurId(), err)
		}
		object := Object{Unstructured: &unstructured.Unstructured{}}
		if err := utiljson.Unmarshal(data, &object.Object); err != nil {
			return fmt.Errorf("read built object %s: %w", res.CurId(), err)
		}
		annotations := object.GetAnnotations()
		var from struct{ Path, ConfiguredIn string }
		_ = yaml.Unmarshal([]byte(annotations[originAnnotation]), &originYAML{&from.Path, &from.ConfiguredIn})
		if !keepOrigin {
			delete(annotations, originAnnotation)
			object.SetAnnotations(annotations)
			if len(annotations) == 0 {
				unstructured.RemoveNestedField(object.Object, "metadata", "annotations")
			}
		}
		name, generated := from.Path, from.ConfiguredIn != ""
		if generated {
			name = from.ConfiguredIn
		}
		if rel := path.Join(b.dir, name); name != "" && hasFile(b.tree, rel) {
			f, _ := b.tree.file(rel)
			if _, ok := outlines[rel]; !ok {
				data, err := f.read()
				if err != nil {
					return err
				}
				outlines[rel] = outline(data)
			}
			line := 0
			if !generated || len(outlines[rel]) > 0 && outlines[rel][0].kind != kustypes.KustomizationKind {
				line = lineOf(outlines[rel], object.GetKind(), object.GetName())
			}
			object.Origin, object.file = f.origin(line), rel
			object.stand = f.stand
		}
		b.objects = append(b.objects, object)
	}
	return nil
}

// originYAML reads the two fields of kustomize's origin annotation.
type originYAML struct{ path, configuredIn *string }

func (o *originYAML) UnmarshalYAML(node *yaml.Node) error {
	for key, into := range map[string]*string{"path": o.path, "configuredIn": o.configuredIn} {
		if value := field(node, key); value != nil {
			*into = value.Value
		}
	}
	return nil
}

var variableName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

// substitute replaces ${…} in an object as kustomize-controller does after a
// build. Variables that unknown tells of are left as they stand.
func substitute(object *unstructured.Unstructured, vars map[string]string, unknown bool) (*unstructured.Unstructured, error) {
	if object.GetLabels()[substituteAnnotation] == kustomizev1.DisabledValue ||
		object.GetAnnotations()[substituteAnnotation] == kustomizev1.DisabledValue {
		return object, nil
	}
	for name := range vars {
		if !variableName.MatchString(name) {
			return nil, fmt.Errorf("variable %q: a name consists of letters, digits and _, and starts with no digit", name)
		}
	}
	data, err := sigsyaml.Marshal(object.Object)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if !bytes.Contains(data, []byte("$")) {
		return object, nil
	}
	text, err := expand(string(data), vars, unknown)
	if err != nil {
		return nil, err
	}
	out := &unstructured.Unstructured{}
	encoded, err := sigsyaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = utiljson.Unmarshal(encoded, &out.Object)
	}
	if err != nil {
		return nil, fmt.Errorf("not valid YAML after variable substitution: %w", err)
	}
	return out, nil
}

// expand is envsubst, with an error where the library would panic.
func expand(text string, vars map[string]string, unknown bool) (out string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("variable substitution panicked: %v", r)
		}
	}()
	out, err = envsubst.Eval(text, func(name string) (string, bool) {
		value, ok := vars[name]
		if !ok && unknown {
			return "${" + name + "}", true
		}
		return value, true
	})
	if err != nil {
		return "", fmt.Errorf("variable substitution failed: %w", err)
	}
	return out, nil
}
