package files

import (
	"bytes"
	"path"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// referenceRules judge what kustomizations name.
var referenceRules = []rule{
	{Check: check.Check{
		ID:    "FILE-001",
		Title: "nothing that is built reads a file over the network",
		Why: "who serves that URL decides what runs, in no commit and past every review; Flux stops remote bases where " +
			"--no-remote-bases is set, and never a file that a generator or a resource names by http(s)",
		Remedy:    "bring the file into the repository, or with GitRepository spec.include into the artifact, and name its path",
		Reference: "https://fluxcd.io/flux/installation/configuration/multitenancy/",
	}, whole: remoteFiles},
	{Check: check.Check{
		ID:        "FILE-002",
		Title:     "no build runs a program, a container or a chart of its own",
		Why:       "a generator that executes is code of whoever commits it, in the controller that holds the rights of all; Flux leaves such plugins off, and the build fails there only after the merge",
		Remedy:    "render what is needed before the commit, or have a HelmRelease install the chart",
		Reference: "https://kubectl.docs.kubernetes.io/guides/extending_kustomize/",
	}, whole: programs},
	{Check: check.Check{
		ID:        "FILE-004",
		Title:     "no path and no symbolic link leads out of the repository",
		Why:       "a path that leaves the tree reads what lies beside it: a token, another tenant's checkout, the machine of whoever builds it by hand",
		Remedy:    "put the file itself below the folder that names it; Flux leaves symbolic links out of an artifact anyway",
		Reference: "https://kubectl.docs.kubernetes.io/faq/kustomize/#security-file-foo-is-not-in-or-below-bar",
	}, whole: leavingPaths},
}

// named is a reference with the file that holds it.
type named struct {
	platform.Reference
	file *file
}

// referencesOf lists what all documents of a file name: its own fields, the
// generators that are written into it, and old-style patches.
func referencesOf(f *file) []named {
	var out []named
	for _, root := range f.documents {
		for _, r := range platform.References(f.name, root) {
			out = append(out, named{r, f})
		}
		if !isKustomize(f, root) {
			continue
		}
		for _, item := range sequence(field(root, "patchesStrategicMerge")) {
			if value := text(item); value != "" && !strings.ContainsAny(value, "\n{") {
				out = append(out, named{platform.Reference{Field: "patchesStrategicMerge", Path: value, Line: item.Line}, f})
			}
		}
		for _, key := range []string{"generators", "transformers", "validators"} {
			for _, item := range sequence(field(root, key)) {
				for _, inline := range written(item) {
					for _, r := range platform.References("inline.yaml", inline) {
						r.Line += item.Line // a block begins below its mark
						out = append(out, named{r, f})
					}
				}
			}
		}
	}
	return out
}

// isKustomize says whether a document is read by kustomize, rather than a Flux
// Kustomization in a file of the same name.
func isKustomize(f *file, root *yaml.Node) bool {
	version := text(field(root, "apiVersion"))
	return platform.IsKustomization(f.name) && (version == "" || strings.HasPrefix(version, "kustomize.config.k8s.io/"))
}

func sequence(node *yaml.Node) []*yaml.Node {
	if node = aliased(node); node == nil || node.Kind != yaml.SequenceNode {
		return nil
	}
	return node.Content
}

// written are the documents that a block of text in a kustomization holds.
func written(item *yaml.Node) []*yaml.Node {
	if !strings.Contains(text(item), "\n") {
		return nil
	}
	documents, _ := decode([]byte(item.Value))
	return documents
}

func remoteFiles(r *reading) verdict {
	var v verdict
	for _, f := range r.files() {
		for _, n := range referencesOf(f) {
			if n.Remote() {
				v.add(f.at(n.Line), "%s: %s comes from elsewhere, not from the artifact", n.Field, shown(n.Path))
			}
		}
	}
	for _, e := range r.platform.Environments {
		for _, k := range e.Kustomizations {
			for _, component := range k.Spec.Components {
				if (platform.Reference{Path: component, Folder: true}).Remote() {
					v.add(k.Origin, "%s in environment %s: spec.components: %s comes from elsewhere, not from the artifact", k, e.Name, shown(component))
				}
			}
		}
	}
	return v
}

// shown is a URL or path as a report may show it: without credentials.
func shown(path string) string { return check.Redact(path) }

// charts are the fields of a kustomization that render charts.
var charts = []string{"helmCharts", "helmChartInflationGenerator", "helmGlobals"}

// functions are the annotations that make an object a program to kustomize.
var functions = []string{"config.kubernetes.io/function", "config.k8s.io/function"}

func programs(r *reading) verdict {
	var v verdict
	for _, f := range r.files() {
		for _, root := range f.documents {
			programsIn(&v, f, root, 0)
			if !isKustomize(f, root) {
				continue
			}
			for _, key := range charts {
				if node := field(root, key); node != nil && len(node.Content) > 0 {
					v.add(f.at(node.Line), "%s: kustomize runs helm for it", key)
				}
			}
			for _, key := range []string{"generators", "transformers", "validators"} {
				for _, item := range sequence(field(root, key)) {
					plugin(&v, f, key, item)
				}
			}
		}
	}
	return v
}

// plugin finds configurations of programs behind an entry of generators,
// transformers or validators.
func plugin(v *verdict, f *file, key string, item *yaml.Node) {
	foreign := func(at *file, line int, root *yaml.Node) {
		if version := text(field(root, "apiVersion")); version != "" && version != "builtin" && !strings.HasPrefix(version, "kustomize.config.k8s.io/") {
			v.add(at.at(line), "%s: %s %s is no generator of kustomize's own, so a program of that name runs", key, version, text(field(root, "kind")))
		}
	}
	for _, root := range written(item) {
		foreign(f, item.Line, root)
		programsIn(v, f, root, item.Line)
	}
	if name := text(item); !strings.Contains(name, "\n") {
		if behind := f.repository.byName[path.Join(path.Dir(f.name), name)]; behind != nil {
			for _, root := range behind.documents {
				foreign(behind, root.Line, root)
			}
		}
	}
}

// programsIn finds what makes one object a program or a chart; line is what is
// added where it is written into another file.
func programsIn(v *verdict, f *file, root *yaml.Node, line int) {
	for _, annotation := range functions {
		if node := field(root, "metadata", "annotations", annotation); node != nil {
			v.add(f.at(line+node.Line), "the annotation %s makes kustomize run what it names", annotation)
		}
	}
	if kind := field(root, "kind"); text(kind) == "HelmChartInflationGenerator" {
		v.add(f.at(line+kind.Line), "a HelmChartInflationGenerator runs helm")
	}
}

func leavingPaths(r *reading) verdict {
	var v verdict
	for _, repository := range r.repositories {
		if repository.own {
			linksThatLeave(&v, repository)
		}
		for _, f := range repository.files {
			if f.irregular != "" {
				v.add(f.at(0), "is no file (%s), and Git holds files only", f.irregular)
			}
			for _, n := range referencesOf(f) {
				if !n.Remote() && n.Leaves(path.Dir(f.name)) {
					v.add(f.at(n.Line), "%s: %s lies outside of the repository", n.Field, shown(n.Path))
				}
			}
		}
	}
	for _, e := range r.platform.Environments {
		for _, k := range e.Kustomizations {
			if leavesRoot(k.Spec.Path) {
				v.add(k.Origin, "%s in environment %s: spec.path %s leads out of the artifact", k, e.Name, k.Spec.Path)
			}
		}
		for _, s := range e.Sources {
			for _, include := range s.Include {
				for _, p := range []struct{ field, path string }{{"fromPath", include.FromPath}, {"toPath", include.ToPath}} {
					if leavesRoot(p.path) {
						v.add(s.Origin, "%s in environment %s: include of %s: %s %s leads out of the repository", s.Object, e.Name, include.Name, p.field, p.path)
					}
				}
			}
		}
		for _, h := range e.HelmReleases {
			if h.Spec.Chart == nil {
				continue
			}
			for _, p := range append([]string{h.Spec.Chart.Spec.Chart}, h.Spec.Chart.Spec.ValuesFiles...) {
				if leavesRoot(p) {
					v.add(h.Origin, "%s in environment %s: chart or values file %s leads out of the artifact", h.Object, e.Name, p)
				}
			}
		}
	}
	return v
}

// leavesRoot says whether a path, taken from the root of an artifact, leads out
// of it; a leading slash is the root itself.
func leavesRoot(p string) bool {
	return (platform.Reference{Path: strings.TrimLeft(p, "/")}).Leaves(".")
}

// linksThatLeave follows each symbolic link by name alone, so that nothing
// outside is touched.
func linksThatLeave(v *verdict, r *repository) {
	links := r.Links()
	for link, target := range links {
		at, steps := link, 0
		for {
			next := path.Join(path.Dir(at), target)
			if path.IsAbs(target) || next == ".." || strings.HasPrefix(next, "../") {
				v.add(r.At(link, 0), "is a symbolic link that leads out of the repository, to %s", target)
				break
			}
			through, rest, more := throughLink(links, next)
			if !more {
				break
			}
			const most = 40 // as many as Linux follows
			if steps++; steps > most {
				v.add(r.At(link, 0), "is a symbolic link that leads round in a circle")
				break
			}
			at, target = through, path.Join(links[through], rest)
			if path.IsAbs(links[through]) {
				target = links[through]
			}
		}
	}
	sortFindings(v)
}

// throughLink finds the first part of a path that is a symbolic link itself.
func throughLink(links map[string]string, name string) (link, rest string, ok bool) {
	for i, c := range name + "/" {
		if c != '/' {
			continue
		}
		if _, ok := links[name[:i]]; ok {
			return name[:i], strings.TrimPrefix(name[i:], "/"), true
		}
	}
	return "", "", false
}

var newline = []byte("\n")

// lineOf is the line of an offset.
func lineOf(content []byte, offset int) int { return bytes.Count(content[:offset], newline) + 1 }
