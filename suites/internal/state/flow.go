package state

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The areas of the paths that bytes take.
const (
	AreaVolume       = "volume"
	AreaProjected    = "projected"
	AreaEnv          = "env"
	AreaEnvFrom      = "envFrom"
	AreaReference    = "reference"
	AreaSelector     = "selector"
	AreaEndpoints    = "endpoints"
	AreaIngress      = "ingress"
	AreaArtifact     = "artifact"
	AreaInclude      = "include"
	AreaSubstitution = "substitution"
	AreaNetwork      = "network"
)

// Flow is one path on which what is one tenant's reaches what is another's, or its
// own: values that a pod reads, requests that it is sent, files that its objects
// are built from.
type Flow struct {
	// Area is the kind of path.
	Area string `json:"area"`
	// From is the tenant whose bytes they are, To the one that gets them; empty:
	// nobody's, that is the platform's.
	From string `json:"from"`
	To   string `json:"to"`
	// Object opens the path, by the value in a field.
	Object string `json:"object"`
	Field  string `json:"field"`
	Value  string `json:"value"`
}

// Crosses says whether the path leads from one tenant to another.
func (f Flow) Crosses() bool { return f.From != "" && f.To != "" && f.From != f.To }

// String is the form in which failures show a path.
func (f Flow) String() string {
	return fmt.Sprintf("%s: %s of %s: from %q to %q: %s", f.Area, f.Field, f.Object, f.From, f.To, f.Value)
}

// FlowInput is what Flows concludes from.
type FlowInput struct {
	// Objects of the shared namespaces, all kinds.
	Objects []*unstructured.Unstructured
	// Control are all Flux objects of the cluster, and the ConfigMaps and Secrets of
	// the namespaces in which tenants' Flux objects are.
	Control []*unstructured.Unstructured
	// Tenants are the names of all.
	Tenants []string
	// TenantOf is the tenant of an object; empty: it is nobody's.
	TenantOf func(*unstructured.Unstructured) string
	// Artifact lists the files in the artifact of a GitRepository; or why they are
	// not known. Nil: of none.
	Artifact func(*unstructured.Unstructured) (files []Carried, unknown string)
	// Namespaces are the objects of that kind, by whose labels NetworkPolicies go.
	Namespaces []*unstructured.Unstructured
}

// Carried is a file in the artifact of a source.
type Carried struct {
	// Path in the artifact, File in its repository.
	Path, File string
	// Platform says that the repository is the platform's own: who writes there is
	// the platform, whoever draws on it.
	Platform bool
	// Tenants are those whose objects are made of it, or of others in its folder.
	Tenants []string
}

// Flows lists every path by which a tenant's bytes reach a pod of its own, or of
// another, and those by which the platform's reach a tenant's, sorted.
func Flows(in FlowInput) ([]Flow, error) {
	c := flows{FlowInput: in, control: map[address]*unstructured.Unstructured{}}
	for _, object := range in.Control {
		c.control[addressOf(object)] = object
	}
	if err := c.named(); err != nil {
		return nil, err
	}
	c.selectors()
	c.endpoints()
	if err := c.hosts(); err != nil {
		return nil, err
	}
	if err := c.policies(); err != nil {
		return nil, err
	}
	for _, object := range in.Control {
		if object.GetDeletionTimestamp() == nil {
			c.flux(object)
		}
	}
	sort.Slice(c.found, func(i, j int) bool {
		a, b := c.found[i], c.found[j]
		return cmp.Or(cmp.Compare(a.To, b.To), cmp.Compare(a.From, b.From), cmp.Compare(a.String(), b.String())) < 0
	})
	return slices.Compact(c.found), nil
}

// flows collects the paths that are found.
type flows struct {
	FlowInput
	control map[address]*unstructured.Unstructured
	found   []Flow
}

func fullName(object *unstructured.Unstructured) string {
	return called(object.GetKind(), object.GetNamespace(), object.GetName())
}

// add notes a path, unless no tenant is at either end of it.
func (c *flows) add(area, from, to string, object *unstructured.Unstructured, field, format string, args ...any) {
	if from != "" || to != "" {
		c.found = append(c.found, Flow{
			Area: area, From: from, To: to, Object: fullName(object), Field: field, Value: fmt.Sprintf(format, args...),
		})
	}
}

// named are the paths that a name opens.
func (c *flows) named() error {
	list, err := follow(c.Objects)
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.to == nil {
			continue
		}
		from, to := c.TenantOf(r.to), c.TenantOf(r.from)
		area := areaOf(r.Field)
		if r.from.GetKind() == "Ingress" && r.Kind == "Service" {
			// Requests go the way of the name; values come from what is named.
			area, from, to = AreaIngress, to, from
		}
		c.add(area, from, to, r.from, r.Field, "%s %s", r.Kind, r.Name)
	}
	return nil
}

// areaOf tells by the field that holds a name how the bytes get into a pod.
func areaOf(field string) string {
	switch {
	case strings.Contains(field, ".projected.sources["):
		return AreaProjected
	case strings.Contains(field, ".envFrom["):
		return AreaEnvFrom
	case strings.Contains(field, ".env["):
		return AreaEnv
	case strings.Contains(field, "volumes["), strings.Contains(field, "volumeClaimTemplates["):
		return AreaVolume
	}
	return AreaReference
}

// selectors are the paths from a Service to the pods that it selects.
func (c *flows) selectors() {
	var services, workloads []*unstructured.Unstructured
	for _, object := range c.Objects {
		_, pods := podSpecs[object.GetKind()]
		switch {
		case object.GetKind() == "Service":
			services = append(services, object)
		case pods && !idle(object):
			workloads = append(workloads, object)
		}
	}
	for _, match := range selected(services, workloads) {
		selector, _, _ := unstructured.NestedStringMap(match.service.Object, "spec", "selector")
		c.add(AreaSelector, c.TenantOf(match.service), c.TenantOf(match.workload), match.service, "spec.selector",
			"%v selects %s", selector, fullName(match.workload))
	}
}

// endpoints are the paths from a Service to the pods that its slices name, or whose
// addresses stand in them: requests go by these.
func (c *flows) endpoints() {
	known := map[address]*unstructured.Unstructured{}
	at := map[string]*unstructured.Unstructured{}
	for _, object := range c.Objects {
		known[addressOf(object)] = object
		if object.GetKind() != "Pod" {
			continue
		}
		ips, _, _ := unstructured.NestedSlice(object.Object, "status", "podIPs")
		for _, entry := range ips {
			fields, _ := entry.(map[string]any)
			if ip, _ := fields["ip"].(string); ip != "" {
				at[ip] = object
			}
		}
	}
	for _, slice := range c.Objects {
		service := known[address{slice.GetNamespace(), "Service", slice.GetLabels()["kubernetes.io/service-name"]}]
		if slice.GetKind() != "EndpointSlice" || service == nil {
			continue
		}
		list, _, _ := unstructured.NestedSlice(slice.Object, "endpoints")
		for i, entry := range list {
			fields, _ := entry.(map[string]any)
			target, _, _ := unstructured.NestedString(fields, "targetRef", "name")
			if pod := known[address{slice.GetNamespace(), "Pod", target}]; pod != nil {
				c.add(AreaEndpoints, c.TenantOf(service), c.TenantOf(pod), slice, fmt.Sprintf("endpoints[%d].targetRef", i), "Pod %s of Service %s", target, service.GetName())
			}
			addresses, _, _ := unstructured.NestedStringSlice(fields, "addresses")
			for _, ip := range addresses {
				if pod := at[ip]; pod != nil && pod.GetName() != target {
					c.add(AreaEndpoints, c.TenantOf(service), c.TenantOf(pod), slice, fmt.Sprintf("endpoints[%d].addresses", i), "%s of Pod %s, by Service %s", ip, pod.GetName(), service.GetName())
				}
			}
		}
	}
}

// hosts are the requests that two Ingresses take: whose rule comes first is up to
// the controller.
func (c *flows) hosts() error {
	type claim struct {
		ingress           *unstructured.Unstructured
		field, host, path string
	}
	var claims []claim
	for _, object := range c.Objects {
		if object.GetKind() != "Ingress" {
			continue
		}
		var spec networkingv1.IngressSpec
		if err := read(object, &spec, "spec"); err != nil {
			return err
		}
		if spec.DefaultBackend != nil {
			claims = append(claims, claim{object, "spec.defaultBackend", "", "/"})
		}
		for i, rule := range spec.Rules {
			field := fmt.Sprintf("spec.rules[%d]", i)
			if rule.HTTP == nil {
				claims = append(claims, claim{object, field + ".host", rule.Host, "/"})
				continue
			}
			for j, path := range rule.HTTP.Paths {
				claims = append(claims, claim{object, fmt.Sprintf("%s.http.paths[%d]", field, j), rule.Host, cmp.Or(path.Path, "/")})
			}
		}
	}
	for _, mine := range claims {
		for _, other := range claims {
			if mine.ingress == other.ingress || !sameHost(mine.host, other.host) && !under(mine.host, other.host) && other.host != "" {
				continue
			}
			// The requests for mine reach what the other leads to.
			c.add(AreaIngress, c.TenantOf(mine.ingress), c.TenantOf(other.ingress), other.ingress, other.field,
				"host %s, path %s: takes what %s has at host %s, path %s",
				cmp.Or(other.host, "of everybody"), other.path, fullName(mine.ingress), cmp.Or(mine.host, "of everybody"), mine.path)
		}
	}
	return nil
}

// flux are the paths by which files get into what is applied for a tenant.
func (c *flows) flux(object *unstructured.Unstructured) {
	to := c.TenantOf(object)
	text := func(path ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, path...)
		return value
	}
	switch object.GetKind() {
	case "Kustomization":
		c.source(object, to, "spec", "sourceRef")
		if source := c.target(object, "spec", "sourceRef"); !c.carries(object, to, AreaArtifact, "spec.path", source, text("spec", "path"), false) {
			c.path(object, to, AreaArtifact, "spec.path", text("spec", "path"))
		}
		c.inputs(object, to, AreaSubstitution, "spec", "postBuild", "substituteFrom")
	case "HelmRelease":
		c.source(object, to, "spec", "chart", "spec", "sourceRef")
		c.source(object, to, "spec", "chartRef")
		c.inputs(object, to, AreaSubstitution, "spec", "valuesFrom")
	case "GitRepository":
		list, _, _ := unstructured.NestedSlice(object.Object, "spec", "include")
		for i, entry := range list {
			fields, _ := entry.(map[string]any)
			field := fmt.Sprintf("spec.include[%d]", i)
			name, _, _ := unstructured.NestedString(fields, "repository", "name")
			from, _, _ := unstructured.NestedString(fields, "fromPath")
			c.use(object, to, AreaInclude, field+".repository", "GitRepository", object.GetNamespace(), name)
			included := c.control[address{object.GetNamespace(), "GitRepository", name}]
			if !c.carries(object, to, AreaInclude, field+".fromPath", included, from, false) {
				c.path(object, to, AreaInclude, field+".fromPath", from)
			}
		}
		field := "spec.ignore"
		if text("spec", "ignore") == "" {
			// All of a repository is fetched where nobody chose; what is included is
			// chosen, and a build can read whatever is in its artifact.
			if field = "spec.url"; !c.built(object) {
				return
			}
		}
		if c.carries(object, to, AreaArtifact, field, object, "", true) {
			return
		}
		for _, line := range strings.Split(text("spec", "ignore"), "\n") {
			if kept, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
				c.path(object, to, AreaArtifact, "spec.ignore", kept)
			}
		}
	}
}

// built says whether a Kustomization is built from a source itself.
func (c *flows) built(source *unstructured.Unstructured) bool {
	return slices.ContainsFunc(c.Control, func(o *unstructured.Unstructured) bool {
		return o.GetKind() == "Kustomization" && c.target(o, "spec", "sourceRef") == source
	})
}

// target is the source that a reference names; nil where it is not there.
func (c *flows) target(object *unstructured.Unstructured, path ...string) *unstructured.Unstructured {
	ref, _, _ := unstructured.NestedStringMap(object.Object, path...)
	return c.control[address{cmp.Or(ref["namespace"], object.GetNamespace()), ref["kind"], ref["name"]}]
}

// carries notes whose files a tenant's object takes from a source: those below a
// folder of its artifact, or of its own repository only, without what it includes.
// It says whether they are known; names of folders have to do where they are not.
func (c *flows) carries(object *unstructured.Unstructured, to, area, field string, source *unstructured.Unstructured, folder string, own bool) bool {
	if to == "" || c.Artifact == nil || source == nil || source.GetKind() != "GitRepository" {
		return false
	}
	files, unknown := c.Artifact(source)
	if unknown != "" {
		return false
	}
	folder = strings.TrimPrefix(path.Clean("/"+folder), "/")
	type share struct {
		first string
		count int
	}
	shares := map[string]*share{}
	for _, f := range files {
		if folder != "" && !strings.HasPrefix(f.Path, folder+"/") || own && f.Path != f.File {
			continue
		}
		for _, from := range c.whose(f, to) {
			if shares[from] == nil {
				shares[from] = &share{first: f.File}
			}
			shares[from].count++
		}
	}
	for _, from := range sortedKeys(shares) {
		what, more := shares[from].first, ""
		if n := shares[from].count - 1; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		if folder != "" {
			what = folder + ": " + what
		}
		c.add(area, from, to, object, field, "%s%s", what, more)
	}
	return true
}

// whose tells the tenants whose bytes a file holds that one of them gets: those
// whose objects are made of it. What all are made of is nobody's in particular, and
// so is the platform's own repository, but for folders that bear the name of who
// draws on them. Names decide where nothing is made of a file, or where some share
// it.
func (c *flows) whose(f Carried, to string) []string {
	named := c.bearer(f.File, to)
	switch {
	case f.Platform:
		if slices.Contains(f.Tenants, named) {
			return []string{named}
		}
		return nil
	case named != "" && (len(f.Tenants) == 0 || slices.Contains(f.Tenants, named)):
		return []string{named}
	case len(f.Tenants) == 1:
		return f.Tenants
	case len(f.Tenants) == len(c.Tenants):
		return nil
	}
	// One that some share is each one's of the others, and the tenant's own.
	return f.Tenants
}

// source is the path from a source's artifact to what is made of it.
func (c *flows) source(object *unstructured.Unstructured, to string, path ...string) {
	ref, _, _ := unstructured.NestedStringMap(object.Object, path...)
	c.use(object, to, AreaArtifact, strings.Join(path, "."), ref["kind"], cmp.Or(ref["namespace"], object.GetNamespace()), ref["name"])
}

// inputs are the paths from ConfigMaps and Secrets whose text is put into
// manifests.
func (c *flows) inputs(object *unstructured.Unstructured, to, area string, path ...string) {
	list, _, _ := unstructured.NestedSlice(object.Object, path...)
	for i, entry := range list {
		fields, _ := entry.(map[string]any)
		kind, _ := fields["kind"].(string)
		name, _ := fields["name"].(string)
		c.use(object, to, area, fmt.Sprintf("%s[%d]", strings.Join(path, "."), i), kind, object.GetNamespace(), name)
	}
}

// use notes the path from an object that is named, if it is there.
func (c *flows) use(object *unstructured.Unstructured, to, area, field, kind, namespace, name string) {
	if target := c.control[address{namespace, kind, name}]; target != nil {
		c.add(area, c.TenantOf(target), to, object, field, "%s", fullName(target))
	}
}

// path notes from whose folder files come, where only the folder's name is known.
func (c *flows) path(object *unstructured.Unstructured, to, area, field, folder string) {
	if from := c.bearer(folder, to); from != "" {
		c.add(area, from, to, object, field, "%s", folder)
	}
}

// bearer is the tenant whose name a folder, or one above it, bears; the one that
// gets the files before others.
func (c *flows) bearer(folder, to string) string {
	from := ""
	for _, step := range strings.Split(folder, "/") {
		if slices.Contains(c.Tenants, step) && (from == "" || step == to) {
			from = step
		}
	}
	return from
}

// FlowMap says what reaches whom, for one cluster. Lists are never null.
type FlowMap struct {
	// Crossings lead from one tenant to another.
	Crossings []Flow `json:"crossings"`
	// Own lead from a tenant to itself, Platform from or to nobody in particular.
	Own      []Flow `json:"own"`
	Platform []Flow `json:"platform"`
	// Network says what is to be thought of the paths that NetworkPolicies open:
	// they are what is declared, whether or not anything enforces it.
	Network NetworkMap `json:"network"`
	// ByName are the sources whose files are not known, and why: of those the names
	// of folders were judged alone.
	ByName []string `json:"byName"`
}

// NetworkMap is what the NetworkPolicies of the shared namespaces declare beyond
// the paths that their rules open.
type NetworkMap struct {
	Policies int `json:"policies"`
	// Open are the tenants whose pods others' may reach since no policy holds
	// either.
	Open []string `json:"open"`
	// Enforced says whether the network was seen to keep to them; Evidence how.
	Enforced bool   `json:"enforced"`
	Evidence string `json:"evidence"`
}

// String is one line for people.
func (m NetworkMap) String() string {
	text := fmt.Sprintf("network: %d policies declare who reaches whom; ", m.Policies)
	if m.Enforced {
		text += "they are enforced: "
	} else {
		text += "NOTHING HERE IS KNOWN TO ENFORCE THEM: "
	}
	text += cmp.Or(m.Evidence, "nobody tried")
	if len(m.Open) > 0 {
		text += "; no policy keeps other tenants' pods from those of " + some(m.Open, 8)
	}
	return text + "\n"
}

// FlowsMap arranges paths by whether they cross.
func FlowsMap(list []Flow) FlowMap {
	out := FlowMap{Crossings: []Flow{}, Own: []Flow{}, Platform: []Flow{}, ByName: []string{}, Network: NetworkMap{Open: []string{}}}
	for _, f := range list {
		switch {
		case f.Crosses():
			out.Crossings = append(out.Crossings, f)
		case f.From == f.To:
			out.Own = append(out.Own, f)
		default:
			out.Platform = append(out.Platform, f)
		}
	}
	return out
}

// JSON is the map for machines.
func (m FlowMap) JSON() ([]byte, error) {
	content, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the map of flows: %w", err)
	}
	return content, nil
}

// String is the map for people: who gets how many of whose bytes on which paths.
func (m FlowMap) String() string {
	type pair struct{ to, from string }
	counts := map[pair]map[string]int{}
	var pairs []pair
	width := len(OwnerPlatform)
	for _, f := range slices.Concat(m.Crossings, m.Own, m.Platform) {
		p := pair{cmp.Or(f.To, OwnerPlatform), cmp.Or(f.From, OwnerPlatform)}
		if counts[p] == nil {
			counts[p] = map[string]int{}
			pairs = append(pairs, p)
		}
		counts[p][f.Area]++
		width = max(width, len(p.to), len(p.from))
	}
	sort.Slice(pairs, func(i, j int) bool {
		return cmp.Or(cmp.Compare(pairs[i].to, pairs[j].to), cmp.Compare(pairs[i].from, pairs[j].from)) < 0
	})
	var out strings.Builder
	for _, p := range pairs {
		var parts []string
		for _, area := range sortedKeys(counts[p]) {
			parts = append(parts, fmt.Sprintf("%s %d", area, counts[p][area]))
		}
		mark := ""
		if p.to != p.from && p.to != OwnerPlatform && p.from != OwnerPlatform {
			mark = "CROSSES "
		}
		fmt.Fprintf(&out, "%-*s  from %-*s  %s%s\n", width, p.to, width, p.from, mark, strings.Join(parts, ", "))
	}
	out.WriteString(m.Network.String())
	for _, line := range m.ByName {
		out.WriteString("by the names of folders alone: " + line + "\n")
	}
	return out.String()
}
