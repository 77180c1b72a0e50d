package example

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

const cliGroup = "cli.kyverno.io"

// world is a test while it is read: what its results are expanded from.
type world struct {
	*Test
	loader *loader
	file   string
	// dir is the absolute folder that its paths start from.
	dir string
	// namesPolicies: it lists files of policies, whatever they hold.
	namesPolicies bool
	// unread: not everything in them could be read. missing are the policies that are
	// not found there, as it was told.
	unread                     bool
	missing                    map[string]bool
	policies                   map[string][]*Policy
	resources, targets, params []*objectFile
	values                     valuesSpec
	payloads                   map[string]string
	message                    string
	// unsupported holds for all results.
	unsupported string
	// suggested counts the names that a nearest one was looked for.
	suggested int
	// valueIndex holds the values that are stated for objects, by policy and name;
	// texts what policies say.
	valueIndex map[[2]string][]map[string]any
	texts      map[*Policy]string
}

// testFile reads the tests of a file.
func (l *loader) testFile(name string) {
	relative := l.relative(name)
	data, err := os.ReadFile(name)
	if err != nil {
		l.find(Place{File: relative}, "it cannot be read: %s", reason(err))
		return
	}
	documents := split(data)
	if len(documents) == 0 {
		l.find(Place{File: relative}, "it is empty; write a Test of %s/v1alpha1, or remove it", cliGroup)
	}
	names := map[string]int{}
	for i, d := range documents {
		node, err := d.node()
		if err != nil {
			l.tell(d.problem(relative, err))
			continue
		}
		var file testFile
		reader := decoder{file: relative, offset: d.first - 1, folds: true}
		reader.decode(node, reflect.ValueOf(&file).Elem(), "", 0)
		l.tell(reader.findings...)
		test := &Test{Place: Place{relative, d.line}, Name: cmp.Or(file.Metadata.Name, file.Name.string, fmt.Sprintf("document %d", i+1))}
		if names[test.Name]++; names[test.Name] > 1 {
			test.Name = fmt.Sprintf("%s (%d)", test.Name, names[test.Name])
		}
		w := world{Test: test, loader: l, file: relative, dir: filepath.Dir(name)}
		if w.header(file) {
			test.Document = d.generic()
			w.read(file)
			l.library.Tests = append(l.library.Tests, test)
		}
	}
}

func (w *world) at(line int) Place { return Place{w.file, line} }

func (w *world) note(line int, format string, values ...any) {
	w.loader.library.Notes = append(w.loader.library.Notes, Finding{w.at(line), fmt.Sprintf(format, values...)})
}

// header tells whether the document is a test.
func (w *world) header(file testFile) bool {
	if file.APIVersion.string == "" && file.Kind.string == "" || file.Name.string != "" {
		w.note(w.Line, "«kyverno test» does not read this form any more; write apiVersion: %s/v1alpha1, kind: Test and metadata.name", cliGroup)
	}
	if file.APIVersion.string == "" && file.Kind.string == "" {
		return true
	}
	group, version, _ := strings.Cut(file.APIVersion.string, "/")
	if file.Kind.string != "Test" || group != cliGroup || version != "v1alpha1" {
		w.loader.find(w.Place, "it is a %s of %q, where a Test of %s/v1alpha1 is expected; name the file otherwise, or mend it",
			cmp.Or(file.Kind.string, "document without a kind"), file.APIVersion.string, cliGroup)
		return false
	}
	return true
}

func (w *world) read(file testFile) {
	w.message = file.Metadata.Annotations[MessageAnnotation]
	w.readUnexercised(file.Metadata.Annotations[UnexercisedAnnotation])
	w.readPolicies(file.Policies)
	w.resources = w.readObjects(file.Resources, "the resource file")
	w.targets = w.readObjects(file.TargetResources, "the target resource file")
	w.params = w.readObjects(file.ParamResources, "the parameter resource file")
	w.Resources, w.Targets, w.Params = lists(w.resources), lists(w.targets), lists(w.params)
	for _, e := range w.readObjects(file.Exceptions, "the exception file") {
		w.loader.compare(e)
		for _, p := range e.objects {
			if !isException(p.object) {
				w.loader.find(p.Place, "it is a %s of %s, where a PolicyException is expected; name it elsewhere in %s",
					p.object.GetKind(), p.object.GetAPIVersion(), w.file)
				continue
			}
			w.Exceptions = append(w.Exceptions, p.object)
		}
	}
	w.readClusterResources(file.ClusterResources)
	w.readUser(file.UserInfo)
	w.readValues(file)
	w.readPayloads(file)
	w.unsupported = unsupportedBy(file)
	if len(file.Results) == 0 {
		w.loader.find(w.Place, "the test %q has no results: it would show nothing; state some, or remove it", w.Name)
	}
	for i, r := range file.Results {
		w.result(i, r)
	}
}

// unsupportedBy says what a test states that no live server can be given.
func unsupportedBy(file testFile) string {
	switch {
	case file.Context.string != "":
		return "its test brings a context, which stands in for what a live server and its registries would answer"
	case len(file.APICallResponses) > 0:
		return "its test brings apiCallResponses, which stand in for servers that a live one would call"
	case len(file.GlobalContextEntries) > 0:
		return "its test brings globalContextEntries, which stand in for what Kyverno would gather itself"
	}
	return ""
}

func (w *world) readPolicies(names []text) {
	w.policies, w.missing, w.namesPolicies = map[string][]*Policy{}, map[string]bool{}, len(names) > 0
	seen := map[string]bool{}
	for _, name := range names {
		paths := w.loader.paths(w.at(name.line), w.dir, name.string, "the policy file", true)
		w.unread = w.unread || len(paths) == 0
		for _, full := range paths {
			if seen[full] {
				continue
			}
			seen[full] = true
			file := w.loader.objects(full)
			w.unread = w.unread || file.err != nil || len(file.findings) > 0
			if file.err != nil {
				w.loader.find(w.at(name.line), "the policy file %q cannot be read: %s", name.string, reason(file.err))
				continue
			}
			w.loader.tell(file.findings...)
			found := w.loader.policiesOf(full)
			if len(found) == 0 && len(file.findings) == 0 && !slices.ContainsFunc(file.list, isBinding) {
				w.loader.find(w.at(name.line), "the policy file %q holds no policy; name one that does", name.string)
			}
			for _, p := range found {
				own := p.Object.GetName()
				for _, other := range w.policies[own] {
					if other.Object.GetNamespace() == p.Object.GetNamespace() {
						w.loader.find(w.at(name.line), "two policies of this test are called %s, at %s and %s: no result tells which one it means; give one of them another name, or a test of its own",
							own, other.Place, p.Place)
					}
				}
				w.policies[own] = append(w.policies[own], p)
				w.Policies = append(w.Policies, p)
			}
		}
	}
}

func (w *world) readObjects(names []text, what string) []*objectFile {
	var out []*objectFile
	seen := map[string]bool{}
	for _, name := range names {
		for _, full := range w.loader.paths(w.at(name.line), w.dir, name.string, what, false) {
			if seen[full] {
				continue
			}
			seen[full] = true
			if file := w.readFile(name, full, what); file != nil {
				out = append(out, file)
			}
		}
	}
	return out
}

// readFile reads a file of objects that the test names; nil: it could not be.
func (w *world) readFile(name text, full, what string) *objectFile {
	file := w.loader.objects(full)
	w.loader.resources[full] = true
	if file.err != nil {
		w.loader.find(w.at(name.line), "%s %q cannot be read: %s", what, name.string, reason(file.err))
		return nil
	}
	w.loader.tell(file.findings...)
	if len(file.objects) == 0 && len(file.findings) == 0 {
		w.loader.find(w.at(name.line), "%s %q holds no object; name one that does", what, name.string)
	}
	return file
}

// lists joins the objects of files; those of one file are not copied.
func lists(files []*objectFile) []*unstructured.Unstructured {
	if len(files) == 1 {
		return slices.Clip(files[0].list)
	}
	var out []*unstructured.Unstructured
	for _, f := range files {
		out = append(out, f.list...)
	}
	return out
}

// readYAML reads a file of one document into a Go type; false: it could not be.
func (w *world) readYAML(name text, what string, into any) bool {
	files := w.loader.paths(w.at(name.line), w.dir, name.string, what, false)
	if len(files) != 1 {
		if len(files) > 1 {
			w.loader.find(w.at(name.line), "%s %q is a folder; name a file", what, name.string)
		}
		return false
	}
	relative := w.loader.relative(files[0])
	w.loader.resources[files[0]] = true
	data, err := os.ReadFile(files[0])
	if err != nil {
		w.loader.find(w.at(name.line), "%s %q cannot be read: %s", what, name.string, reason(err))
		return false
	}
	documents := split(data)
	if len(documents) != 1 {
		w.loader.find(Place{File: relative}, "it holds %d documents, where one is expected; %s must hold one", len(documents), what)
		if len(documents) == 0 {
			return false
		}
	}
	node, err := documents[0].node()
	if err != nil {
		w.loader.tell(documents[0].problem(relative, err))
		return false
	}
	reader := decoder{file: relative, offset: documents[0].first - 1, folds: true}
	reader.decode(node, reflect.ValueOf(into).Elem(), "", 0)
	w.loader.tell(reader.findings...)
	return true
}

func (w *world) readClusterResources(names []text) {
	for _, name := range names {
		var file clusterResourceFile
		if !w.readYAML(name, "the cluster resource file", &file) {
			continue
		}
		if kind := file.Kind.string; kind != "ClusterResource" {
			w.loader.find(w.at(name.line), "the cluster resource file %q is a %s, where a ClusterResource of %s is expected", name.string, cmp.Or(kind, "document without a kind"), cliGroup)
			continue
		}
		// CustomResourceDefinitions come first: the objects may be of them.
		w.Objects = append(w.Objects, lists(w.readObjects(file.Spec.CRDs, "the file of CustomResourceDefinitions"))...)
		for i, object := range file.Spec.Resources {
			if object == nil || object.GetKind() == "" || object.GetAPIVersion() == "" {
				w.loader.find(w.at(name.line), "resources[%d] of %q is no object of Kubernetes; give it apiVersion, kind and metadata.name", i, name.string)
				continue
			}
			w.Objects = append(w.Objects, object)
		}
	}
}

func (w *world) readUser(name text) {
	if name.string == "" {
		return
	}
	var file userFile
	if !w.readYAML(name, "the userinfo file", &file) {
		w.unsupported = "who asks is not known: the userinfo file was not read"
		return
	}
	if file.APIVersion.string == "" || file.Kind.string == "" {
		w.note(name.line, "«kyverno test» does not read %q any more; write apiVersion: %s/v1alpha1 and kind: UserInfo in it", name.string, cliGroup)
	} else if file.Kind.string != "UserInfo" {
		w.loader.find(w.at(name.line), "the userinfo file %q is a %s, where a UserInfo of %s is expected", name.string, file.Kind.string, cliGroup)
	}
	w.User = &User{
		Name: file.UserInfo.Username, Groups: file.UserInfo.Groups, Roles: file.Roles, ClusterRoles: file.ClusterRoles,
	}
	for key, value := range file.UserInfo.Extra {
		if w.User.Extra == nil {
			w.User.Extra = map[string][]string{}
		}
		w.User.Extra[key] = value
	}
	for _, role := range file.Roles {
		if namespace, own, ok := strings.Cut(role, ":"); !ok || namespace == "" || own == "" {
			w.loader.find(w.at(name.line), "the role %q of %q is not NAMESPACE:NAME", role, name.string)
		}
	}
}

func (w *world) readValues(file testFile) {
	switch {
	case file.Values != nil:
		w.values = *file.Values
		if file.Variables.string != "" {
			w.loader.find(w.at(file.Variables.line), "the variables file %q is not read, since the test has values; keep one of them", file.Variables.string)
		}
	case file.Variables.string != "":
		var values valuesFile
		if !w.readYAML(file.Variables, "the variables file", &values) {
			return
		}
		if values.APIVersion.string == "" || values.Kind.string == "" {
			w.note(file.Variables.line, "«kyverno test» does not read %q any more; write apiVersion: %s/v1alpha1 and kind: Values in it", file.Variables.string, cliGroup)
		} else if values.Kind.string != "Values" && values.Kind.string != "Value" {
			w.loader.find(w.at(file.Variables.line), "the variables file %q is a %s, where Values of %s are expected", file.Variables.string, values.Kind.string, cliGroup)
		}
		w.values = values.Spec
	}
	w.Namespaces = map[string]map[string]string{}
	for _, n := range w.values.NamespaceSelectors {
		w.Namespaces[n.Name] = n.Labels
	}
	for _, n := range w.values.Namespaces {
		w.Namespaces[n.Name] = n.Labels
	}
	for _, p := range w.values.Policies {
		if w.policies[p.Name.string] == nil && p.Name.line > 0 && file.Values != nil {
			w.loader.find(w.at(p.Name.line), "values for the policy %q, which no policy file of this test holds%s", p.Name.string, check.DidYouMean(p.Name.string, w.policyNames()))
		}
	}
}

func (w *world) policyNames() []string {
	var out []string
	for _, p := range w.Policies {
		out = append(out, p.Object.GetName())
	}
	return out
}

// readPayloads notes what is judged besides objects of Kubernetes, by name.
func (w *world) readPayloads(file testFile) {
	w.payloads = map[string]string{}
	named := slices.Clone(file.JSONPayloads)
	if len(named) == 0 && file.JSONPayload.string != "" {
		named = append(named, file.JSONPayload)
	}
	for kind, names := range map[string][]text{"JSON": named, "HTTP": file.HTTPPayloads, "Envoy": file.EnvoyPayloads} {
		for _, name := range names {
			w.payloads[path.Clean(name.string)] = kind
			for _, full := range w.loader.paths(w.at(name.line), w.dir, name.string, "the "+kind+" payload", false) {
				w.loader.resources[full] = true
			}
		}
	}
}

// subresourceOf tells of which subresource of which kind the object is one.
func (w *world) subresourceOf(object *unstructured.Unstructured) (string, schema.GroupVersionKind) {
	kind := object.GroupVersionKind()
	for _, s := range w.values.Subresources {
		if s.Subresource.Kind == kind.Kind && s.Subresource.Group == kind.Group && (s.Subresource.Version == "" || s.Subresource.Version == kind.Version) {
			if _, name, ok := strings.Cut(s.Subresource.Name, "/"); ok {
				return name, schema.GroupVersionKind{Group: s.ParentResource.Group, Version: s.ParentResource.Version, Kind: s.ParentResource.Kind}
			}
		}
	}
	return "", schema.GroupVersionKind{}
}

// readUnexercised reads which parts no example can exercise.
func (w *world) readUnexercised(annotation string) {
	for line := range strings.Lines(annotation) {
		part, cause, _ := strings.Cut(line, ":")
		one := Unexercised{Part: strings.Join(strings.Fields(part), " "), Cause: strings.TrimSpace(cause)}
		switch {
		case strings.TrimSpace(line) == "":
		case one.Part == "" || one.Cause == "":
			w.loader.find(w.Place, "a line of the annotation %s is %q; write «PART: CAUSE», such as «operation UPDATE: …»", UnexercisedAnnotation, strings.TrimSpace(line))
		default:
			w.Unexercised = append(w.Unexercised, one)
		}
	}
}
