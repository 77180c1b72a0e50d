package files

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// valueRules judge where the developers' files go, and what of them does not
// arrive.
var valueRules = []rule{
	{Check: check.Check{
		ID:        "FILE-005",
		Title:     "what the tenant is built from is its own, and of its environment",
		Why:       "one path mistyped gives a service the values of another tenant, or production those of a trial, and every cluster accepts them",
		Remedy:    "mend the path, or spec.include of the tenant's GitRepository, so that it names the tenant's and the environment's own folder",
		Reference: "https://fluxcd.io/flux/components/source/gitrepositories/#include",
	}, ofTenant: ownFiles},
	{Check: check.Check{
		ID:        "FILE-006",
		Title:     "no .sourceignore leaves out what Flux draws on",
		Why:       "a line in .sourceignore empties a folder of the artifact: where Flux lists the folder itself, everything that came from it is pruned",
		Remedy:    "take the line out of .sourceignore; what an artifact needs is said by spec.ignore of its source, which the platform team owns",
		Reference: "https://fluxcd.io/flux/components/source/gitrepositories/#ignore",
	}, whole: ignored},
	{Check: check.Check{
		ID:        "FILE-016",
		Title:     "no control characters and no hidden text stand in values and manifests",
		Why:       "a carriage return, U+0085 or U+2028 ends a line for some readers of YAML and not for others, and text that is drawn backwards is not what a reviewer saw; bytes that are no UTF-8 make a ConfigMap's key binary, without a word",
		Remedy:    "save the file as UTF-8 with line feeds, and remove the character; within a YAML string write it as an escape",
		Reference: "https://yaml.org/spec/1.2.2/#54-line-break-characters",
	}, whole: characters},
	{Check: check.Check{
		ID:        "FILE-017",
		Title:     "no substitution of variables reaches the developers' bytes, and none of them feeds one",
		Why:       "a ${…} in a value is the developers' text: substituted, it becomes empty or another's value; fed into a substitution, it writes manifests",
		Remedy:    "set the annotation kustomize.toolkit.fluxcd.io/substitute: disabled on what is generated from values, and take variables from what the platform team owns",
		Reference: "https://fluxcd.io/flux/components/kustomize/kustomizations/#post-build-variable-substitution",
	}, ofTenant: substitution},
	{Check: check.Check{
		ID:        "FILE-019",
		Title:     "a repository of values holds values only",
		Why:       "a manifest or a kustomization among the values does nothing until a path changes; then developers apply objects as the platform",
		Remedy:    "move manifests to the platform's repository, and leave values and schemas",
		Reference: "https://fluxcd.io/flux/installation/configuration/multitenancy/",
	}, whole: valuesOnly},
	{Check: check.Check{
		ID:        "FILE-020",
		Title:     "no value, schema or manifest is forgotten: some environment reads each",
		Why:       "a file beside the others that no kustomization lists, or values under a name mistyped, have no effect, and nothing says so",
		Remedy:    "list the manifest, mend the name, or remove the file",
		Reference: "https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/resource/",
	}, whole: forgotten},
}

// notBuilt says why it is not known what a tenant is made from; empty when it is.
// That a build fails is FILE-014's to say.
func notBuilt(t *platform.Tenant) string {
	for _, k := range t.Kustomizations {
		switch {
		case k.Err != nil:
			return fmt.Sprintf("%s cannot be built, as FILE-014 says", k)
		case k.Unread != "":
			return fmt.Sprintf("%s is not read: %s", k, k.Unread)
		}
	}
	if len(t.Kustomizations) == 0 {
		return "it has no Kustomization of its own, and charts are not rendered"
	}
	return ""
}

// withoutValues says why nothing is known of a tenant's values; empty when there
// are some.
func withoutValues(t *platform.Tenant) string {
	if reason := notBuilt(t); reason != "" || len(t.Values) > 0 {
		return reason
	}
	return "none of its ConfigMaps is generated from a file, so there are no values to look at"
}

func ownFiles(r *reading, e *platform.Environment, t *platform.Tenant) verdict {
	v := verdict{unknown: notBuilt(t)}
	judge := func(what string, at platform.Origin) {
		if problem := r.platform.Misplaced(e.Name, t.Name, at.File); problem != "" {
			v.add(at, "%s, %s", what, problem)
		}
	}
	for _, k := range t.Kustomizations {
		files, built := k.Reads()
		if !built {
			continue
		}
		for _, f := range files {
			judge("is read by "+k.String(), f)
		}
	}
	for _, value := range t.Values {
		judge("is the key "+value.Key+" of ConfigMap "+value.ConfigMap, platform.Origin{Folder: value.File.Origin.Folder, File: value.File.Origin.File})
	}
	return v
}

func ignored(r *reading) verdict {
	var v verdict
	judge := func(folder, below, what string, manifests bool) {
		repository := r.in(folder)
		if repository == nil || below == "" {
			return
		}
		for _, i := range repository.Ignored(below) {
			if !manifests || platform.IsYAML(i.File) {
				v.add(i.By, "leaves out %s, which %s draws on", i.File, what)
			}
		}
	}
	for _, e := range r.platform.Environments {
		for _, k := range e.Kustomizations {
			if k.Source != nil && k.Source.Folder != "" {
				judge(k.Source.Folder, path.Join(".", strings.TrimLeft(k.Spec.Path, "/")), fmt.Sprintf("%s in environment %s", k, e.Name), true)
			}
			// What spec.ignore brings back today is one edit from being lost.
			files, built := k.Reads()
			for _, f := range files {
				if built {
					judge(f.Folder, f.File, fmt.Sprintf("%s in environment %s", k, e.Name), false)
				}
			}
		}
		for _, s := range e.Sources {
			for _, include := range s.Include {
				if include.Source != nil {
					judge(include.Source.Folder, path.Join(".", strings.TrimLeft(include.FromPath, "/")), fmt.Sprintf("%s in environment %s", s.Object, e.Name), false)
				}
			}
		}
	}
	return v
}

func substitution(r *reading, e *platform.Environment, t *platform.Tenant) verdict {
	v := verdict{unknown: withoutValues(t)}
	of := map[string]platform.Value{}
	for _, value := range t.Values {
		of[value.ConfigMap] = value
	}
	for _, k := range t.Kustomizations {
		post := k.Spec.PostBuild
		if post == nil || len(post.Substitute) == 0 && len(post.SubstituteFrom) == 0 && post.SubstituteStrategy != kustomizev1.SubstituteStrategyAlways {
			continue
		}
		for _, o := range k.Objects {
			const key = "kustomize.toolkit.fluxcd.io/substitute"
			value, generated := of[o.GetName()]
			if o.GetKind() == "ConfigMap" && generated && o.GetLabels()[key] != kustomizev1.DisabledValue && o.GetAnnotations()[key] != kustomizev1.DisabledValue {
				v.add(o.Origin, "%s is generated from %s, and %s substitutes variables in it: %s is not set to disabled", o, value.File.Origin, k, key)
			}
		}
	}
	for _, k := range e.Kustomizations {
		if k.Spec.PostBuild == nil {
			continue
		}
		for _, from := range k.Spec.PostBuild.SubstituteFrom {
			if value, generated := of[from.Name]; from.Kind == "ConfigMap" && generated && k.GetNamespace() == t.TargetNamespace {
				v.add(k.Origin, "%s takes variables from ConfigMap %s, which is generated from %s", k, from.Name, value.File.Origin)
			}
		}
	}
	return v
}

func valuesOnly(r *reading) verdict {
	var v verdict
	looked := 0
	for _, repository := range r.repositories {
		if !repository.values {
			continue
		}
		looked++
		for _, f := range repository.files {
			if platform.IsKustomization(f.name) {
				v.add(f.at(1), "is a kustomization")
				continue
			}
			for _, root := range f.documents {
				for _, object := range manifests(root) {
					if field(object, "metadata") != nil {
						v.add(f.at(object.Line), "is a manifest, of kind %s", quoted(text(field(object, "kind"))))
					}
				}
			}
		}
	}
	if builtFromValues(&v, r); looked == 0 && len(v.findings) == 0 {
		v.unknown = "no repository is there for values alone: none is only included by others"
	}
	return v
}

// builtFromValues finds Kustomizations that build a folder which others include as
// values: whoever may write the values writes their manifests.
func builtFromValues(v *verdict, r *reading) {
	for _, e := range r.platform.Environments {
		for _, k := range e.Kustomizations {
			if k.Source == nil {
				continue
			}
			repository := r.in(k.Source.Folder)
			if repository == nil || repository.root {
				continue
			}
			built := path.Join("/", k.Spec.Path)
			for _, s := range e.Sources {
				if i := slices.IndexFunc(s.Include, func(include platform.Include) bool {
					values := path.Join("/", include.FromPath)
					return include.Source != nil && include.Source.Folder == repository.Folder && (within(built, values) || within(values, built))
				}); i >= 0 {
					v.add(k.Origin, "%s in environment %s builds %s of the repository, of which %s includes %s as values", k, e.Name, built, s, s.Include[i].FromPath)
					break
				}
			}
		}
	}
}

// within says whether a folder is another one, or lies in it.
func within(folder, other string) bool {
	return folder == other || other == "/" || strings.HasPrefix(folder, other+"/")
}

func forgotten(r *reading) verdict {
	var v verdict
	if r.partial {
		v.unknown = "what cannot be built may read files that nothing else does: its artifact counts as read"
	}
	tenants := r.platform.TenantNames()
	for _, repository := range r.repositories {
		if repository.unknown {
			v.unknown = "what draws on " + repository.URL + " cannot be put together, as FILE-014 says: which of its files nothing reads is not known"
			continue
		}
		for _, f := range repository.files {
			switch {
			case f.read || !f.structured() || f.template():
			case repository.values:
				forgottenValue(&v, f, tenants)
			case repository.own:
				forgottenManifest(&v, f)
			}
		}
	}
	return v
}

// schemaEnding is how the name of a tenant's schema ends.
const schemaEnding = ".schema.json"

func forgottenValue(v *verdict, f *file, tenants []string) {
	name, isSchema := strings.CutSuffix(path.Base(f.name), schemaEnding)
	switch {
	case isSchema && slices.Contains(tenants, name):
	case isSchema:
		v.add(f.at(0), "is the schema of %s, and there is no such tenant%s", name, check.DidYouMean(name, tenants))
	case !platform.IsYAML(f.name), strings.HasPrefix(f.name, "."): // settings of tools
	case platform.IsKustomization(f.name): // FILE-019 says what is wrong with it
	default:
		v.add(f.at(0), "is read in no environment%s", meant(f.name, tenants))
	}
}

// meant suggests the tenant whose name a folder nearly has.
func meant(name string, tenants []string) string {
	for _, folder := range strings.Split(path.Dir(name), "/") {
		if len(check.Nearest(folder, tenants)) > 0 && !slices.Contains(tenants, folder) {
			return check.DidYouMean(folder, tenants)
		}
	}
	return ""
}

// forgottenManifest finds a manifest that lies beside a kustomization that is
// read, and that nothing reads.
func forgottenManifest(v *verdict, f *file) {
	if platform.IsKustomization(f.name) {
		return
	}
	listed := ""
	for _, base := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
		beside := f.repository.byName[path.Join(path.Dir(f.name), base)]
		if beside != nil && beside.read && len(beside.documents) > 0 && isKustomize(beside, beside.documents[0]) {
			listed = beside.name
		}
	}
	if listed == "" {
		return
	}
	for _, root := range f.documents {
		kind := text(field(root, "kind"))
		if text(field(root, "apiVersion")) != "" && kind != "" && kind != "Kustomization" && kind != "Component" {
			v.add(f.at(root.Line), "is a %s that %s does not list, and no environment reads", quoted(kind), listed)
			return
		}
	}
}

// ofValue takes what a schema says of a value apart: «line N: …», a line each.
func ofValue(v *verdict, at platform.Origin, err error) {
	for _, line := range strings.Split(err.Error(), "\n") {
		at := at
		if number, rest, ok := strings.Cut(strings.TrimPrefix(line, "line "), ": "); ok && strings.HasPrefix(line, "line ") {
			if n, err := strconv.Atoi(number); err == nil {
				at.Line, line = n, rest
			}
		}
		v.add(at, "%s", line)
	}
}
