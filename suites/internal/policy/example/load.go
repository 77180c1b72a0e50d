package example

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// TestFile is the name of a test file, as «kyverno test» looks for it.
const TestFile = "kyverno-test.yaml"

// UnexercisedAnnotation of a test names, one in a line, parts of its policies that no
// example can exercise: «PART: CAUSE», where PART is as the report has it, such as
// «operation UPDATE», or the beginning of that.
const UnexercisedAnnotation = "conformance.flux-platform/unexercised"

// MessageAnnotation of a test says which fragment its refusals must contain.
const MessageAnnotation = "conformance.flux-platform/message"

// Load reads all policies and test files below a folder. It errs only when the
// folder itself cannot be read; what is wrong with a file is one of the library's
// findings.
func Load(dir string) (*Library, error) { return load(dir, true) }

// LoadTests is Load, but reads only the test files and what they name: a
// platform's repository holds parts of policies as well that are none by
// themselves, such as patches. It may hold no test at all.
func LoadTests(dir string) (*Library, error) { return load(dir, false) }

func load(dir string, all bool) (*Library, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("read the policies: %w", err)
	}
	if info, err := os.Stat(absolute); err != nil {
		return nil, fmt.Errorf("read the policies: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("read the policies: %s is a file; give the folder in which it stands", dir)
	}
	l := loader{
		library: &Library{Dir: absolute}, files: map[string]*objectFile{},
		policies: map[*unstructured.Unstructured]*Policy{}, resources: map[string]bool{}, said: map[Finding]bool{},
	}
	if err := l.walk(all); err != nil {
		return nil, fmt.Errorf("read the policies: %w", err)
	}
	return l.library, nil
}

// loader reads a folder.
type loader struct {
	library *Library
	// files are those that hold objects, by their absolute paths: each is read
	// once.
	files map[string]*objectFile
	// policies are those of the files, by their objects.
	policies map[*unstructured.Unstructured]*Policy
	// resources are the files that tests name for other things than policies.
	resources map[string]bool
	bindings  []*unstructured.Unstructured
	said      map[Finding]bool
}

// objectFile is a file that holds objects.
type objectFile struct {
	objects []placed
	byName  map[string][]placed
	// list are the objects alone.
	list []*unstructured.Unstructured
	// checked: its policies were compared with their types.
	documents []document
	checked   bool
	// err says why the file could not be read; broken: a document is no YAML.
	err    error
	broken bool
	// findings are told when somebody needs the file.
	findings []Finding
}

func (l *loader) find(place Place, format string, values ...any) {
	l.tell(Finding{place, fmt.Sprintf(format, values...)})
}

// tell keeps a finding; what several tests meet in one file is told once.
func (l *loader) tell(findings ...Finding) {
	for _, f := range findings {
		if !l.said[f] {
			l.said[f] = true
			l.library.Findings = append(l.library.Findings, f)
		}
	}
}

func (l *loader) walk(all bool) error {
	var candidates, tests []string
	err := filepath.WalkDir(l.library.Dir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && name == l.library.Dir:
			return err
		case err != nil:
			l.find(Place{File: l.relative(name)}, "it cannot be read: %s", reason(err))
			return nil
		case entry.IsDir() && entry.Name() == ".git":
			return filepath.SkipDir
		case entry.IsDir():
		case entry.Name() == TestFile:
			tests = append(tests, name)
		case all && isYAML(name) && !l.hidden(name):
			candidates = append(candidates, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range tests {
		l.testFile(name)
	}
	// What no test names may hold policies as well; what does not is none of our
	// business, unless it seems to be one that does not parse.
	for _, name := range candidates {
		if !l.resources[name] {
			l.unnamed(name)
		}
	}
	if all && len(l.library.Policies) == 0 && len(tests) == 0 {
		l.find(Place{File: "."}, "there is neither a policy nor a %s below %s; give a folder that holds some", TestFile, l.library.Dir)
	}
	l.finish()
	return nil
}

// hidden tells whether a file stands in a folder that tools hide: such as what
// other tests need.
func (l *loader) hidden(name string) bool {
	return slices.ContainsFunc(strings.Split(l.relative(name), "/"), func(part string) bool {
		return strings.HasPrefix(part, ".") && part != "." && part != ".."
	})
}

func isYAML(name string) bool {
	extension := filepath.Ext(name)
	return extension == ".yaml" || extension == ".yml"
}

var kindOfPolicy = regexp.MustCompile(`kind"?: *"?[A-Za-z]*Policy`)

// unnamed reads the policies of a file that no test names.
func (l *loader) unnamed(name string) {
	if l.files[name] == nil {
		data, err := os.ReadFile(name)
		if err != nil {
			l.find(Place{File: l.relative(name)}, "it cannot be read: %s", reason(err))
			return
		}
		ours := bytes.Contains(data, []byte("kyverno.io/")) || bytes.Contains(data, []byte(admissionGroup+"/"))
		if !ours || !kindOfPolicy.Match(data) {
			return
		}
	}
	file := l.objects(name)
	if !file.broken && !slices.ContainsFunc(file.objects, func(p placed) bool { return isPolicy(p.object) || isBinding(p.object) }) {
		return
	}
	l.tell(file.findings...)
	l.policiesOf(name)
}

func (l *loader) finish() {
	slices.SortFunc(l.library.Policies, func(a, b *Policy) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	for _, p := range l.library.Policies {
		if p.Object.GroupVersionKind().Group != admissionGroup {
			continue
		}
		for _, binding := range l.bindings {
			if of, _, _ := unstructured.NestedString(binding.Object, "spec", "policyName"); of == p.Object.GetName() && binding.GetKind() == p.Object.GetKind()+"Binding" {
				p.Bindings = append(p.Bindings, binding)
			}
		}
	}
	byPlace := func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	}
	slices.SortStableFunc(l.library.Findings, byPlace)
	slices.SortStableFunc(l.library.Notes, byPlace)
}

// relative names a file as findings do.
func (l *loader) relative(name string) string {
	relative, err := filepath.Rel(l.library.Dir, name)
	if err != nil {
		return filepath.ToSlash(name)
	}
	return filepath.ToSlash(relative)
}

// objects reads a file once.
func (l *loader) objects(name string) *objectFile {
	if file := l.files[name]; file != nil {
		return file
	}
	file := &objectFile{byName: map[string][]placed{}}
	l.files[name] = file
	data, err := os.ReadFile(name)
	if err != nil {
		file.err = err
		return file
	}
	relative := l.relative(name)
	keys := map[string]Place{}
	for _, d := range split(data) {
		found, findings := d.objects(relative)
		file.findings = append(file.findings, findings...)
		file.broken = file.broken || len(findings) > 0 && strings.HasPrefix(findings[0].Text, notYAML)
		file.documents = append(file.documents, d)
		for _, p := range found {
			if isPolicy(p.object) || isBinding(p.object) {
				file.add(p)
				continue
			}
			key := identity(p.object)
			if first, twice := keys[key]; twice && p.object.GetName() != "" {
				file.findings = append(file.findings, Finding{p.Place, fmt.Sprintf("the %s %s stands on line %d already, and only that one is judged; give it another name",
					p.object.GetKind(), p.object.GetName(), first.Line)})
				continue
			}
			keys[key] = p.Place
			file.add(p)
		}
	}
	return file
}

func (f *objectFile) add(p placed) {
	f.objects = append(f.objects, p)
	f.list = append(f.list, p.object)
	f.byName[p.object.GetName()] = append(f.byName[p.object.GetName()], p)
}

// identity is what no two objects of a cluster share.
func identity(object *unstructured.Unstructured) string {
	kind := object.GroupVersionKind()
	return kind.Group + "/" + kind.Kind + "/" + cmp.Or(object.GetNamespace(), "default") + "/" + object.GetName()
}

// policiesOf returns the policies of a file, compared with their types.
func (l *loader) policiesOf(name string) []*Policy {
	file := l.objects(name)
	if !file.checked {
		for _, p := range file.objects {
			if isBinding(p.object) {
				l.bindings = append(l.bindings, p.object)
			}
			// The end-to-end tests of some libraries state of a policy only what they
			// expect of its status.
			if _, found := p.object.Object["spec"]; isPolicy(p.object) && found {
				policy := &Policy{Place: p.Place, Object: p.object}
				l.policies[p.object] = policy
				l.library.Policies = append(l.library.Policies, policy)
			}
		}
		l.compare(file)
	}
	var out []*Policy
	for _, p := range file.objects {
		if policy := l.policies[p.object]; policy != nil {
			out = append(out, policy)
		}
	}
	return out
}

// compare compares what a file says of policies with the fields that there are.
func (l *loader) compare(file *objectFile) {
	if file.checked {
		return
	}
	file.checked = true
	lines := map[int]string{}
	for _, p := range file.objects {
		if isPolicy(p.object) || isBinding(p.object) || isException(p.object) {
			lines[p.Line] = p.File
		}
	}
	for _, d := range file.documents {
		if name, ok := lines[d.line]; ok {
			l.tell(d.strict(name)...)
		}
	}
}

// paths expands what a test names into files: folders into the YAML files in them,
// all the way down where deep.
func (l *loader) paths(place Place, dir, name, what string, deep bool) []string {
	if strings.Contains(name, "://") {
		l.find(place, "%s %q is an address, and only files are read; download it and name the file", what, name)
		return nil
	}
	full := filepath.FromSlash(name)
	if !filepath.IsAbs(full) {
		full = filepath.Join(dir, full)
	}
	full = filepath.Clean(full)
	info, err := os.Stat(full)
	switch {
	case err != nil && strings.ContainsAny(name, "*?["):
		l.find(place, "%s %q does not exist: patterns are not expanded; name a file or a folder", what, name)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		l.find(place, "%s %q does not exist%s", what, name, nearFile(full, name))
		return nil
	case err != nil:
		l.find(place, "%s %q cannot be read: %s", what, name, reason(err))
		return nil
	case info.Mode().IsRegular():
		return []string{full}
	case !info.IsDir():
		l.find(place, "%s %q is neither a file nor a folder; name one", what, name)
		return nil
	}
	var out []string
	err = filepath.WalkDir(full, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != full && (!deep || strings.HasPrefix(entry.Name(), ".")):
			return filepath.SkipDir
		case !entry.IsDir() && isYAML(name) && entry.Name() != TestFile && (!deep || !strings.HasPrefix(entry.Name(), ".")):
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		l.find(place, "%s %q cannot be read: %s", what, name, reason(err))
	} else if len(out) == 0 {
		l.find(place, "the folder %q of %s holds no YAML file; name another one", name, what)
	}
	return out
}

// nearFile looks for what may be meant by a file that does not exist.
func nearFile(full, name string) string {
	entries, err := os.ReadDir(filepath.Dir(full))
	if err != nil {
		return ": nor does its folder; mend the path"
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	near := check.Nearest(filepath.Base(full), names)
	if len(near) == 0 {
		return "; mend the path, or make the file"
	}
	return fmt.Sprintf("; did you mean %s?", path.Join(path.Dir(filepath.ToSlash(name)), near[0]))
}

// reason is the cause of a file's error without its path.
func reason(err error) string {
	var of *fs.PathError
	if errors.As(err, &of) {
		return of.Err.Error()
	}
	return err.Error()
}
