// Package overlay reads and applies overlays: files laid over a repository, or
// manifests sent to a cluster as an identity, with what is expected of them.
// Faults, attacks and edits are overlays: one format, one engine.
package overlay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// FileName is the file that makes a folder an overlay.
const FileName = "overlay.yaml"

// APIVersion and Kind are what that file begins with.
const (
	APIVersion = "conformance.flux-platform/v1alpha1"
	Kind       = "Overlay"
)

// Repositories are the ones that an overlay can change.
var Repositories = []string{"platform", "developer", "policies"}

// Overlay is one change and what is expected of it.
type Overlay struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// ID never changes, e.g. FLT-001; its folder is named ID-short-name.
	ID string `json:"id"`
	// Title is one sentence.
	Title string `json:"title"`
	// Environments in which the change takes effect; empty: all. A change to a
	// file reaches every environment that reads the file: name them here.
	Environments []string `json:"environments,omitempty"`
	// Needs are capabilities without which the fault cannot be seen.
	Needs []string `json:"needs,omitempty"`
	// When is «running» (default: after the platform is ready, then reverted) or
	// «bringup» (laid over the repositories before the clusters are made).
	When string `json:"when,omitempty"`
	// Alone says that nothing else can be seen in its environments meanwhile: it
	// keeps commits from taking effect there.
	Alone bool `json:"alone,omitempty"`
	// Patches change files in place.
	Patches []Patch `json:"patches,omitempty"`
	// Links are symbolic links that are committed, each in the place of a file or as
	// a new one.
	Links []Link `json:"links,omitempty"`
	// Given is sent as the cluster's administrator before anything else, and is in
	// force while the attack is tried: the state that it meets.
	Given []Send `json:"given,omitempty"`
	// Objects are sent to the cluster, in this order, once the files are in force.
	Objects []Send `json:"objects,omitempty"`
	// Reviews are requests without a body that only RBAC judges.
	Reviews []Review `json:"reviews,omitempty"`

	// Expect is what the checks must say: the overlay is a fault.
	Expect Expect `json:"expect,omitzero"`
	// Attack is who must stop it, and how one sees that: the overlay is an attack.
	Attack *Attack `json:"attack,omitempty"`
	// Change is what may become of it: the overlay is a change as any.
	Change *Extents `json:"change,omitempty"`
	// Layer is what it switches off: the overlay shows what attacks meet then.
	Layer *Switch `json:"layer,omitempty"`

	// Files maps repository, then path, to the content laid over it; read from
	// the folder files/REPOSITORY/PATH.
	Files map[string]map[string][]byte `json:"-"`
}

// Patch changes one file of a repository.
type Patch struct {
	Repository string `json:"repository"`
	Path       string `json:"path"`
	// Replace swaps a text that must stand in the file exactly once.
	Replace *Replace `json:"replace,omitempty"`
	// Insert adds a text after one that must stand in the file exactly once.
	Insert *Insert `json:"insert,omitempty"`
	// Delete removes the file.
	Delete bool `json:"delete,omitempty"`
}

// Insert adds Text after After, found exactly once.
type Insert struct {
	After string `json:"after"`
	Text  string `json:"text"`
}

// Replace swaps Old, found exactly once, for New.
type Replace struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// Link is a symbolic link in a repository.
type Link struct {
	Repository string `json:"repository"`
	Path       string `json:"path"`
	// Target is what it points to, as it is written: it need not be there.
	Target string `json:"target"`
}

// Send is a manifest sent to the cluster as an identity.
type Send struct {
	// As is the impersonated user; empty: the cluster's administrator.
	As string `json:"as,omitempty"`
	// Groups are those of that user; none: the ones that the API server gives to
	// every service account by itself.
	Groups []string `json:"groups,omitempty"`
	// Operation is «apply» (server-side, the default), «create», «update» (the
	// manifest laid over what stands there, as a whole), «delete», «recreate»
	// (delete, wait until gone, create) or «patch» (the manifest is a merge patch).
	Operation string `json:"operation,omitempty"`
	// Subresource is what of the object is applied or patched, such as resize of a
	// Pod; empty: the object itself.
	Subresource string `json:"subresource,omitempty"`
	// Manifest names the object; File is an alternative to it, a path below the
	// overlay's folder. In both, a name of the form $(NAME) is looked up by the
	// label selector in Select.
	Manifest *unstructured.Unstructured `json:"manifest,omitempty"`
	File     string                     `json:"file,omitempty"`
	// Select finds the object's name by labels where it is generated.
	Select map[string]string `json:"select,omitempty"`
}

// Expect is what the checks must say under an overlay.
type Expect struct {
	// Tenants are those whose outcomes fail, in checks that are judged per tenant;
	// empty: every tenant's.
	Tenants []string `json:"tenants,omitempty"`
	// Fails maps each check that must fail to a fragment of what its failure must
	// say, in every environment and for every tenant that the overlay names.
	Fails map[string]string `json:"fails"`
	// MayFollow lists those that may fail too, by ID or area; all others must pass.
	MayFollow []string `json:"mayFollow,omitempty"`
}

// operations are what can be done with an object.
var operations = []string{"apply", "create", "update", "delete", "recreate", "patch"}

var idPattern = regexp.MustCompile(`^[A-Z]{3}-[A-Z]?[0-9]{2,3}$`)

// Load reads every overlay below dir, sorted by folder, which all have one role;
// the folders named in except are no overlays. It errs on a folder without
// overlay.yaml, an unknown key, an unknown repository, a change that changes
// nothing, another role, and on two overlays of one ID.
func Load(fsys fs.FS, dir string, role Role, except ...string) ([]Overlay, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read overlays: %w", err)
	}
	seen := map[string]string{}
	var out []Overlay
	var problems []error
	for _, entry := range entries {
		if !entry.IsDir() || slices.Contains(except, entry.Name()) {
			continue
		}
		folder := path.Join(dir, entry.Name())
		o, err := loadOne(fsys, folder)
		other, double := seen[o.ID]
		switch {
		case err != nil:
		case o.Role() != role:
			err = fmt.Errorf("it is a %s, and %s holds what is a %s", o.Role(), dir, role)
		case double:
			err = fmt.Errorf("id %s is taken by %s", o.ID, other)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("overlay %s: %w", folder, err))
			continue
		}
		seen[o.ID] = folder
		out = append(out, o)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read overlays: %s holds none", dir)
	}
	return out, nil
}

func loadOne(fsys fs.FS, folder string) (Overlay, error) {
	data, err := fs.ReadFile(fsys, path.Join(folder, FileName))
	if err != nil {
		return Overlay{}, fmt.Errorf("read %s: %w", FileName, err)
	}
	o, err := Parse(data)
	if err != nil {
		return Overlay{}, err
	}
	if !strings.HasPrefix(path.Base(folder), o.ID+"-") {
		return Overlay{}, fmt.Errorf("the folder of %s must be named %s-short-name", o.ID, o.ID)
	}
	for name, list := range map[string][]Send{"given": o.Given, "objects": o.Objects} {
		for i := range list {
			if err := list[i].read(fsys, folder); err != nil {
				return Overlay{}, fmt.Errorf("%s[%d]: %w", name, i, err)
			}
		}
	}
	root := path.Join(folder, "files")
	if _, err := fs.Stat(fsys, root); errors.Is(err, fs.ErrNotExist) {
		return o, o.changesSomething()
	}
	o.Files = map[string]map[string][]byte{}
	err = fs.WalkDir(fsys, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		repository, file, ok := strings.Cut(strings.TrimPrefix(name, root+"/"), "/")
		if !ok || !slices.Contains(Repositories, repository) {
			return fmt.Errorf("files/%s: the first folder must be one of %s", repository, strings.Join(Repositories, ", "))
		}
		content, err := fs.ReadFile(fsys, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if o.Files[repository] == nil {
			o.Files[repository] = map[string][]byte{}
		}
		o.Files[repository][file] = content
		return nil
	})
	if err != nil {
		return Overlay{}, err
	}
	return o, o.changesSomething()
}

func (o Overlay) changesSomething() error {
	if len(o.Files) == 0 && len(o.Patches) == 0 && len(o.Links) == 0 && len(o.Objects) == 0 && len(o.Reviews) == 0 &&
		(o.Attack == nil || o.Attack.Layer != "network") {
		return errors.New("it changes nothing: give files/, patches or objects")
	}
	return o.complete()
}

// Parse decodes one overlay.yaml strictly and validates what can be told from
// it alone; all mistakes are in one error.
func Parse(data []byte) (Overlay, error) {
	var o Overlay
	if err := single(data); err != nil {
		return Overlay{}, fmt.Errorf("parse %s: %w", FileName, err)
	}
	if err := yaml.UnmarshalStrict(data, &o); err != nil {
		return Overlay{}, fmt.Errorf("parse %s: %w", FileName, err)
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if o.APIVersion != APIVersion || o.Kind != Kind {
		problem("it must begin with apiVersion %s, kind %s", APIVersion, Kind)
	}
	if !idPattern.MatchString(o.ID) {
		problem("id %q has not the form AAA-000 or AAA-X00", o.ID)
	}
	if o.Title == "" {
		problem("title is missing")
	}
	if o.When == "" {
		o.When = "running"
	}
	if o.When != "running" && o.When != "bringup" {
		problem("when %q is neither running nor bringup", o.When)
	}
	problems = append(problems, o.roles()...)
	for _, id := range slices.Sorted(maps.Keys(o.Expect.Fails)) {
		if o.Expect.Fails[id] == "" {
			problem("expect.fails.%s has no message: a failure for any reason would do", id)
		}
	}
	problems = append(problems, wrongPatches("patches", o.Patches)...)
	if o.Change != nil {
		problems = append(problems, wrongPatches("change.first", o.Change.First)...)
	}
	problems = append(problems, wrongLinks(o.Links)...)
	problems = append(problems, wrongSends("objects", o.Objects)...)
	problems = append(problems, wrongSends("given", o.Given)...)
	for i, s := range o.Given {
		if s.As != "" {
			problem("given[%d].as: what is given is of the administrator", i)
		}
	}
	if o.When == "bringup" && len(o.Objects) > 0 {
		problem("objects[0]: before the bring-up there is no cluster to send objects to")
	}
	return o, errors.Join(problems...)
}

// wrongSends lists what is wrong with manifests that stand under this name, and
// fills in how they are sent where that is not said.
func wrongSends(name string, sends []Send) []error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for i := range sends {
		s := &sends[i]
		if s.Operation == "" {
			s.Operation = "apply"
		}
		if !slices.Contains(operations, s.Operation) {
			problem("%s[%d].operation %q is not one of %s", name, i, s.Operation, strings.Join(operations, ", "))
		}
		if len(s.Groups) > 0 && s.As == "" {
			problem("%s[%d].groups are nobody's: say as", name, i)
		}
		if s.Subresource != "" && (s.Operation == "delete" || s.Operation == "recreate") {
			problem("%s[%d].subresource: %s knows none", name, i, s.Operation)
		}
		if (s.Manifest == nil) == (s.File == "") {
			problem("%s[%d] needs one of manifest, file", name, i)
		}
	}
	return problems
}

// wrongLinks lists what is wrong with symbolic links.
func wrongLinks(links []Link) []error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for i, l := range links {
		if !slices.Contains(Repositories, l.Repository) {
			problem("links[%d].repository %q is not one of %s", i, l.Repository, strings.Join(Repositories, ", "))
		}
		if !insideRepository(l.Path) {
			problem("links[%d].path %q is not a path inside the repository", i, l.Path)
		}
		if l.Target == "" {
			problem("links[%d].target is missing", i)
		}
	}
	return problems
}

func insideRepository(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.HasPrefix(name+"/", ".git/")
}

// wrongPatches lists what is wrong with patches that stand under this name.
func wrongPatches(name string, patches []Patch) []error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for i, p := range patches {
		if !slices.Contains(Repositories, p.Repository) {
			problem("%s[%d].repository %q is not one of %s", name, i, p.Repository, strings.Join(Repositories, ", "))
		}
		if !insideRepository(p.Path) {
			problem("%s[%d].path %q is not a path inside the repository", name, i, p.Path)
		}
		if ways := count(p.Replace != nil, p.Insert != nil, p.Delete); ways != 1 {
			problem("%s[%d] needs one of replace, insert, delete", name, i)
		}
		if p.Insert != nil && (p.Insert.After == "" || p.Insert.Text == "") {
			problem("%s[%d].insert needs after and text", name, i)
		}
		if p.Replace != nil && (p.Replace.Old == "" || p.Replace.Old == p.Replace.New) {
			problem("%s[%d].replace changes nothing", name, i)
		}
	}
	return problems
}

// single refuses a stream of several documents, of which a decoder would read the
// first and drop the others.
func single(data []byte) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	found := 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var content any
		if yaml.Unmarshal(document, &content) != nil || content != nil {
			found++ // what cannot be read is refused by whoever reads it
		}
		if found > 1 {
			return errors.New("it is one document, this is a second one")
		}
	}
}

// count is how many hold.
func count(conditions ...bool) int {
	n := 0
	for _, holds := range conditions {
		if holds {
			n++
		}
	}
	return n
}

func (s *Send) read(fsys fs.FS, folder string) error {
	if s.File != "" {
		data, err := fs.ReadFile(fsys, path.Join(folder, s.File))
		if err != nil {
			return fmt.Errorf("read manifest: %w", err)
		}
		if err := single(data); err != nil {
			return fmt.Errorf("parse %s: %w", s.File, err)
		}
		s.Manifest = &unstructured.Unstructured{}
		if err := yaml.Unmarshal(data, &s.Manifest.Object); err != nil {
			return fmt.Errorf("parse %s: %w", s.File, err)
		}
	}
	if s.Manifest.GetKind() == "" || s.Manifest.GetAPIVersion() == "" {
		return errors.New("the manifest needs apiVersion and kind")
	}
	if s.Manifest.GetName() == "" && len(s.Select) == 0 {
		return errors.New("the manifest needs a name, or select")
	}
	return nil
}

// Touches lists the repositories whose files the overlay changes.
func (o Overlay) Touches() []string {
	var out []string
	for _, repository := range Repositories {
		changed := len(o.Files[repository]) > 0
		for _, p := range o.Patches {
			changed = changed || p.Repository == repository
		}
		for _, l := range o.Links {
			changed = changed || l.Repository == repository
		}
		if changed {
			out = append(out, repository)
		}
	}
	return out
}

// Changed computes the files of one repository under the overlay: path to
// content, nil where the file goes. read returns a file's present content.
func (o Overlay) Changed(repository string, read func(path string) ([]byte, error)) (map[string][]byte, error) {
	out := map[string][]byte{}
	for name, content := range o.Files[repository] {
		out[name] = content
	}
	for i, p := range o.Patches {
		if p.Repository != repository {
			continue
		}
		content, changed := out[p.Path]
		if !changed {
			var err error
			if content, err = read(p.Path); err != nil {
				return nil, fmt.Errorf("overlay %s: patches[%d]: read %s of the %s repository: %w", o.ID, i, p.Path, repository, err)
			}
		}
		if p.Delete {
			out[p.Path] = nil
			continue
		}
		old, replacement := p.swap()
		if n := strings.Count(string(content), old); n != 1 {
			return nil, fmt.Errorf("overlay %s: patches[%d]: the text to replace stands %d times in %s of the %s repository, not once: %q",
				o.ID, i, n, p.Path, repository, old)
		}
		out[p.Path] = []byte(strings.Replace(string(content), old, replacement, 1))
	}
	return out, nil
}

// Linked maps the symbolic links that the overlay lays over a repository to what
// they point to.
func (o Overlay) Linked(repository string) map[string]string {
	out := map[string]string{}
	for _, l := range o.Links {
		if l.Repository == repository {
			out[l.Path] = l.Target
		}
	}
	return out
}

// swap is what the patch puts for what.
func (p Patch) swap() (old, replacement string) {
	if p.Insert != nil {
		return p.Insert.After, p.Insert.After + p.Insert.Text
	}
	return p.Replace.Old, p.Replace.New
}

// In says whether the overlay takes effect in an environment.
func (o Overlay) In(environment string) bool {
	return len(o.Environments) == 0 || slices.Contains(o.Environments, environment)
}

// Meets says whether two overlays change one file, or send one object, or one has
// to be alone in an environment of the other: they then cannot be on one platform
// at once.
func (o Overlay) Meets(other Overlay) bool {
	if (o.Alone || other.Alone) && o.together(other) {
		return true
	}
	mine := o.places()
	return slices.ContainsFunc(other.places(), func(place string) bool { return slices.Contains(mine, place) }) ||
		o.inserts(other) || other.inserts(o)
}

// inserts says whether the overlay adds to a file that the other one changes
// otherwise. Both may add to one.
func (o Overlay) inserts(other Overlay) bool {
	theirs := other.places()
	return slices.ContainsFunc(o.Patches, func(p Patch) bool {
		return p.Insert != nil && slices.Contains(theirs, p.Repository+"/"+p.Path)
	})
}

// together says whether there is an environment in which both take effect.
func (o Overlay) together(other Overlay) bool {
	return len(o.Environments) == 0 || len(other.Environments) == 0 || slices.ContainsFunc(o.Environments, other.In)
}

// places are the files and objects that the overlay changes.
func (o Overlay) places() []string {
	var out []string
	for repository, files := range o.Files {
		for name := range files {
			out = append(out, repository+"/"+name)
		}
	}
	for _, p := range o.Patches {
		if p.Insert == nil {
			out = append(out, p.Repository+"/"+p.Path)
		}
	}
	for _, l := range o.Links {
		out = append(out, l.Repository+"/"+l.Path)
	}
	for _, s := range o.Objects {
		out = append(out, fmt.Sprintf("%s %s %s %v %v", s.Manifest.GetKind(), s.Manifest.GetNamespace(), s.Manifest.GetName(), s.Select, o.Environments))
	}
	return out
}
