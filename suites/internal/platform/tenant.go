package platform

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
)

// tenants applies the rule of the package comment, and fills in what each
// tenant has.
func (w *walk) tenants() []error {
	var errs []error
	owners := map[string]*Tenant{}
	for _, k := range w.env.Kustomizations {
		if k == w.env.FluxSystem.Kustomization {
			continue
		}
		if k.Owner != nil && k.Owner.Tenant != "" {
			// What a tenant brings is the tenant's, whatever it claims.
			k.Tenant, k.claim = k.Owner.Tenant, "brought by "+k.Owner.String()
			owners[k.Tenant].Kustomizations = append(owners[k.Tenant].Kustomizations, k)
			continue
		}
		k.Tenant, k.claim = w.claim(k)
		if k.Tenant == "" {
			continue
		}
		t := owners[k.Tenant]
		if t == nil {
			t = &Tenant{
				Name: k.Tenant, Claim: k.claim, Namespace: k.GetNamespace(), TargetNamespace: k.Spec.TargetNamespace,
				Reconciler: w.account(k.GetNamespace(), k.Spec.ServiceAccountName, "kustomize-controller"), Kustomization: k,
			}
			if t.TargetNamespace == "" {
				t.TargetNamespace = t.Namespace
			}
			owners[k.Tenant] = t
			w.env.Tenants = append(w.env.Tenants, t)
		} else if first := t.Kustomization; first.GetNamespace() != k.GetNamespace() || path.Dir(first.Origin.File) != path.Dir(k.Origin.File) {
			errs = append(errs, fmt.Errorf("two tenants of environment %s are named %s: %s: %s (%s) and %s: %s (%s); give each a name of its own",
				w.env.Name, k.Tenant, first.Origin, first, first.claim, k.Origin, k, k.claim))
			continue
		}
		t.Kustomizations = append(t.Kustomizations, k)
	}
	for _, h := range w.env.HelmReleases {
		w.helmTenant(h, owners)
	}
	for _, o := range w.env.Objects {
		name := o.GetLabels()[TenantLabel]
		if (o.GetKind() == "Namespace" || o.GetKind() == "ServiceAccount") && name != "" && owners[name] == nil {
			w.unread(o, fmt.Sprintf("it carries the tenant label of %s, but no Kustomization or HelmRelease runs for that tenant", name))
		}
	}
	slices.SortFunc(w.env.Tenants, func(a, b *Tenant) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range w.env.Tenants {
		t.collect()
		t.Schema = w.schema(t)
	}
	return errs
}

// claim tells which tenant a Kustomization is of, and by which rule.
func (w *walk) claim(k *Kustomization) (name, why string) {
	if name := k.GetLabels()[TenantLabel]; name != "" {
		return name, "label of the Kustomization"
	}
	if common := k.Spec.CommonMetadata; common != nil && common.Labels[TenantLabel] != "" {
		return common.Labels[TenantLabel], "label in spec.commonMetadata"
	}
	if name, why := w.inherited(k.GetNamespace(), k.Spec.ServiceAccountName); name != "" {
		return name, why
	}
	parts := strings.Split(k.Origin.File, "/")
	platformOwn := k.GetNamespace() == w.env.FluxSystem.Kustomization.GetNamespace() && k.Spec.TargetNamespace == ""
	if len(parts) == 4 && strings.HasPrefix(k.Origin.File, w.env.Path+"/") && parts[2] != fluxNamespace && !platformOwn && k.Origin.Folder == w.platform.Root {
		return parts[2], "folder " + path.Dir(k.Origin.File)
	}
	return "", ""
}

// inherited reads the label of an account and of a namespace.
func (w *walk) inherited(namespace, account string) (name, why string) {
	if account == "" {
		account = w.flag("kustomize-controller", "default-service-account")
	}
	for _, from := range []struct{ id, why string }{
		{"/ServiceAccount/" + namespace + "/" + account, "label of its ServiceAccount"},
		{"/Namespace//" + namespace, "label of its namespace"},
	} {
		if o, ok := w.objects[from.id]; ok && o.GetLabels()[TenantLabel] != "" {
			return o.GetLabels()[TenantLabel], from.why
		}
	}
	return "", ""
}

// account is what applies for an object: the named one, or the controller's
// declared default.
func (w *walk) account(namespace, name, controller string) Account {
	if name == "" {
		name = w.flag(controller, "default-service-account")
	}
	return Account{Namespace: namespace, Name: name}
}

func (w *walk) flag(controller, name string) string {
	for _, c := range w.env.FluxSystem.Controllers {
		if c.Name == controller {
			return c.Flags()[name]
		}
	}
	return ""
}

// helmTenant gives a HelmRelease to its tenant, or makes one of it.
func (w *walk) helmTenant(h *HelmRelease, owners map[string]*Tenant) {
	name, why := h.GetLabels()[TenantLabel], "label of the HelmRelease"
	if h.Owner != nil && h.Owner.Tenant != "" {
		name = h.Owner.Tenant
	}
	if name == "" {
		name, why = w.inherited(h.GetNamespace(), h.Spec.ServiceAccountName)
	}
	if name == "" || h.Owner == nil {
		return
	}
	h.Tenant = name
	if h.Unread == "" {
		h.Unread = "its chart is not rendered, so what it brings is not known"
		if h.Spec.KubeConfig != nil {
			h.Unread = "spec.kubeConfig: it is applied to another cluster"
		}
		w.unread(h.Object, h.Unread)
	}
	t := owners[name]
	if t == nil {
		t = &Tenant{
			Name: name, Claim: why, Namespace: h.GetNamespace(), TargetNamespace: h.Spec.TargetNamespace,
			Reconciler: w.account(h.GetNamespace(), h.Spec.ServiceAccountName, "helm-controller"), Kustomization: h.Owner,
		}
		if t.TargetNamespace == "" {
			t.TargetNamespace = t.Namespace
		}
		owners[name] = t
		w.env.Tenants = append(w.env.Tenants, t)
	}
	t.HelmReleases = append(t.HelmReleases, h)
}

// collect fills in a tenant's sources, objects, values and schema.
func (t *Tenant) collect() {
	var use func(*Source)
	use = func(s *Source) {
		if s == nil || slices.Contains(t.Sources, s) {
			return
		}
		t.Sources = append(t.Sources, s)
		for _, i := range s.Include {
			use(i.Source)
		}
	}
	for _, k := range t.Kustomizations {
		use(k.Source)
		t.Objects = append(t.Objects, k.Objects...)
		if k.build != nil {
			t.Values = append(t.Values, k.values(t.Sources)...)
		}
	}
	for _, h := range t.HelmReleases {
		use(h.Source)
		if !slices.Contains(t.Kustomizations, h.Owner) {
			t.Objects = append(t.Objects, h.Object)
		}
	}
}

// generator is one ConfigMap or Secret generator and the keys that it fills
// from files.
type generator struct {
	name  string
	files []struct{ key, path string } // path below the artifact
}

// values matches the keys of the built ConfigMaps with the files that the
// generators in the build's own files name.
func (k *Kustomization) values(sources []*Source) []Value {
	var out []Value
	generators := k.build.generators()
	for _, o := range k.Objects {
		if o.GetKind() != "ConfigMap" {
			continue
		}
		for _, key := range dataKeys(o.Unstructured) {
			if v, ok := k.value(o, key, generators, sources); ok {
				out = append(out, v)
			}
		}
	}
	return out
}

// value finds the file behind one key: the one with the very bytes, else, as a
// substitution may have changed them, the only one that a generator names for
// the key.
func (k *Kustomization) value(o Object, key string, generators []generator, sources []*Source) (Value, bool) {
	want := dataOf(o.Unstructured, key)
	var candidates []Value
	for _, g := range generators {
		if !strings.Contains(o.GetName(), g.name) {
			continue
		}
		for _, entry := range g.files {
			f, ok := k.build.tree.file(entry.path)
			if entry.key != key || !ok {
				continue
			}
			content, err := f.read()
			if err != nil {
				continue
			}
			v := Value{ConfigMap: o.GetName(), Key: key, File: File{Origin: f.origin(0), Content: content}}
			for _, s := range sources {
				if s.Folder == f.folder && (v.Source == nil || k.Source != s) {
					v.Source = s
				}
			}
			if bytes.Equal(content, want) {
				return v, true
			}
			candidates = append(candidates, v)
		}
	}
	if len(candidates) == 1 {
		return candidates[0], true
	}
	return Value{}, false
}

func dataKeys(o *unstructured.Unstructured) []string {
	var keys []string
	for _, field := range []string{"data", "binaryData"} {
		m, _, _ := unstructured.NestedStringMap(o.Object, field)
		for key := range m {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// dataOf returns the bytes of one key of a ConfigMap.
func dataOf(o *unstructured.Unstructured, key string) []byte {
	if text, ok, _ := unstructured.NestedString(o.Object, "data", key); ok {
		return []byte(text)
	}
	text, _, _ := unstructured.NestedString(o.Object, "binaryData", key)
	data, _ := base64.StdEncoding.DecodeString(text)
	return data
}

// generators reads those of all kustomizations that the build read.
func (b *build) generators() []generator {
	var out []generator
	for _, name := range b.reads {
		f, ok := b.tree.file(name)
		if !ok || !isYAML(name) {
			continue
		}
		data, err := f.read()
		if err != nil || !bytes.Contains(data, []byte("onfigMapGenerator")) {
			continue
		}
		decoder := yaml.NewDecoder(bytes.NewReader(data))
		for {
			var node yaml.Node
			if decoder.Decode(&node) != nil || len(node.Content) == 0 {
				break
			}
			root := node.Content[0]
			if slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name)) {
				for _, item := range items(field(root, "configMapGenerator")) {
					out = append(out, newGenerator(field(item, "name"), item, path.Dir(name)))
				}
			}
			if kind := field(root, "kind"); kind != nil && kind.Value == "ConfigMapGenerator" {
				out = append(out, newGenerator(field(field(root, "metadata"), "name"), root, path.Dir(name)))
			}
		}
	}
	return out
}

func newGenerator(name, node *yaml.Node, dir string) generator {
	var g generator
	if name != nil {
		g.name = name.Value
	}
	for _, item := range items(field(node, "files")) {
		key, file, ok := strings.Cut(item.Value, "=")
		if !ok {
			key, file = path.Base(item.Value), item.Value
		}
		if file, ok := within(dir, file); ok {
			g.files = append(g.files, struct{ key, path string }{key, file})
		}
	}
	return g
}

// schema finds schemas/NAME.schema.json in the repositories that the values
// come from, then in the tenant's other sources.
func (w *walk) schema(t *Tenant) *File {
	var folders []string
	for _, v := range t.Values {
		folders = append(folders, v.File.Origin.Folder)
	}
	for _, s := range t.Sources {
		folders = append(folders, s.Folder)
	}
	name := path.Join("schemas", t.Name+".schema.json")
	for _, folder := range folders {
		tree, ok := w.loader.sources.trees[folder]
		if !ok {
			continue
		}
		if f, ok := tree.file(name); ok {
			if data, err := f.read(); err == nil {
				return &File{Origin: f.origin(1), Content: data}
			}
		}
	}
	return nil
}
