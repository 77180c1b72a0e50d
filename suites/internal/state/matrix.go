package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// OfPlatform is whose the objects are that are no tenant's.
const OfPlatform = "platform"

// Identity is somebody whose rights a Matrix holds.
type Identity struct {
	// Name is how the matrix calls it, such as beetle/reconciler.
	Name string `json:"name"`
	// Role says what it is there for: reconciler, workload, default, account or
	// developers.
	Role string `json:"role"`
	// User and Groups are what the API server knows it by.
	User   string   `json:"user"`
	Groups []string `json:"groups"`
	// Tenants are those that it acts for: their objects are its own.
	Tenants []string `json:"tenants"`
}

// Action is a verb on a kind, or on a subresource of it.
type Action struct {
	Verb, Group, Resource, Subresource string
	// Namespaced says that objects of the kind are in namespaces.
	Namespaced bool
}

// Kind is what the action is on, such as pods/exec or deployments.apps.
func (a Action) Kind() string {
	kind := a.combined()
	if a.Group != "" {
		kind += "." + a.Group
	}
	return kind
}

func (a Action) combined() string {
	if a.Subresource == "" {
		return a.Resource
	}
	return a.Resource + "/" + a.Subresource
}

// String is «verb kind».
func (a Action) String() string { return a.Verb + " " + a.Kind() }

// Changes says whether the action is a write of a whole object that can be tried
// as a dry-run.
func (a Action) Changes() bool {
	return a.Subresource == "" && slices.Contains([]string{"create", "update", "patch", "delete"}, a.Verb)
}

// whole are the verbs that are not about one object by its name.
var whole = []string{"list", "watch", "deletecollection"}

// What RBAC knows and no discovery tells.
var unlisted = []Action{
	{Verb: "bind", Group: rbacv1.GroupName, Resource: "roles", Namespaced: true},
	{Verb: "escalate", Group: rbacv1.GroupName, Resource: "roles", Namespaced: true},
	{Verb: "bind", Group: rbacv1.GroupName, Resource: "clusterroles"},
	{Verb: "escalate", Group: rbacv1.GroupName, Resource: "clusterroles"},
	{Verb: "impersonate", Resource: "serviceaccounts", Namespaced: true},
	{Verb: "impersonate", Resource: "users"},
	{Verb: "impersonate", Resource: "groups"},
	{Verb: "impersonate", Group: "authentication.k8s.io", Resource: "uids"},
	{Verb: "impersonate", Group: "authentication.k8s.io", Resource: "userextras"},
}

// Actions are all that can be asked of a server: each verb of each kind and
// subresource that it lists, in any version, and what only RBAC knows.
func Actions(lists []*metav1.APIResourceList) ([]Action, error) {
	found := map[Action]bool{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list what can be asked of the server: %w", err)
		}
		for _, r := range list.APIResources {
			resource, subresource, _ := strings.Cut(r.Name, "/")
			for _, verb := range r.Verbs {
				found[Action{verb, version.Group, resource, subresource, r.Namespaced}] = true
			}
		}
	}
	for _, action := range unlisted {
		found[action] = true
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b Action) int {
		return strings.Compare(a.Kind()+" "+a.Verb, b.Kind()+" "+b.Verb)
	}), nil
}

// MissingActions are the verbs and subresources that a matrix has to hold, and
// that these actions have none of.
func MissingActions(actions []Action) []string {
	has := map[string]bool{}
	for _, a := range actions {
		has[a.Verb], has[a.Subresource] = true, true
	}
	var out []string
	for _, wanted := range []string{
		"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "impersonate",
		"exec", "attach", "portforward", "scale", "eviction", "ephemeralcontainers", "status", "token", "proxy",
	} {
		if !has[wanted] {
			out = append(out, wanted)
		}
	}
	return out
}

// Place is a namespace, or with an empty one the cluster's scope, and whose
// objects there.
type Place struct {
	Namespace, Victim string
	// Shared says that several tenants' objects stand there side by side.
	Shared bool
}

// Named says of what kind and whose in which namespace an object is.
type Named struct{ Namespace, Victim, Group, Resource string }

// Listed is what the server itself lists as an identity's rights in a namespace.
type Listed struct {
	Rules []rbacv1.PolicyRule
	// Complete says that the server knows of no right beside these.
	Complete bool
}

// Right is one that an identity is known to need, or to have beside.
type Right struct {
	// Identity by its name.
	Identity string
	// Namespace, or empty for what belongs to none.
	Namespace string
	// Group and Resource, which may be a subresource such as pods/log.
	Group, Resource string
	Verbs           []string
	// Needed says that it has to have it; else it may.
	Needed bool
	Reason string
	// Origin is where it is declared, for one that the layout does not tell.
	Origin string
}

// Expectation is what a cell of the matrix has to be.
type Expectation string

const (
	// Denied is everything that has no reason to be allowed.
	Denied Expectation = "denied"
	// Needed has to be allowed: without it the tenant's own objects do not become
	// what its commits say.
	Needed Expectation = "needed"
	// Given is what Kubernetes gives to everybody.
	Given Expectation = "given"
	// Residual may be allowed, for a reason that is told.
	Residual Expectation = "residual"
	// Guarded may be allowed by RBAC, and then somebody else has to refuse it.
	Guarded Expectation = "guarded"
	// Unknown is not judged: what the tenant declares could not be read.
	Unknown Expectation = "unknown"
)

// Cell is one identity, what it asks for, and whose that is.
type Cell struct {
	// Identity is its place in Matrix.Identities.
	Identity int
	*Action
	*Place
	// Name of the object; empty where none is named.
	Name     string
	Expected Expectation
	Reason   string
	// RefusedBy is who refused it when it was tried, Problem what is wrong with
	// the answer.
	RefusedBy, Problem string

	right   *Right
	request int
}

// Request is what the server is asked once, for all cells that it answers.
type Request struct {
	Identity int
	Action
	Namespace, Name string
}

// MatrixInput is what a matrix is made of.
type MatrixInput struct {
	Identities []Identity
	Actions    []Action
	Places     []Place
	// Sampling chose the places that are judged for each identity.
	Sampling Sampling
	// Names has an object of each kind that somebody has in a namespace.
	Names map[Named]string
	// Rights are those that are known.
	Rights []Right
	// Unknown maps the name of an identity to the namespace in which its rights
	// are not known.
	Unknown map[string]string
	// Live are the roles and bindings of the cluster.
	Live RBAC
	// Listed are, for each identity, the rights in each namespace by the server's
	// own list. Where it names the same in two namespaces, one question answers
	// for both; among many tenants also where it names the same for two identities.
	Listed []map[string]Listed
}

// Matrix is who may do what to whose objects.
type Matrix struct {
	Identities []Identity
	Cells      []Cell
	// Requests are those that have to be answered, in Answer.
	Requests []Request
	// Regular counts the cells of identities, actions and the places that are judged
	// for them; the others are objects that a role names.
	Regular int
	// Sampling says what is judged.
	Sampling Sampling

	answers []answer
	grants  [][]Grant
	rights  []Right
	victims []string
	asked   map[Request]int
}

type answer struct {
	allowed bool
	reason  string
}

// key finds the right that a cell is about.
type key struct{ identity, namespace, group, resource, verb string }

// NewMatrix lays out the cells with what is expected of them.
func NewMatrix(in MatrixInput) (*Matrix, error) {
	if len(in.Listed) != len(in.Identities) {
		return nil, fmt.Errorf("lay out the matrix: %d identities, and rights listed for %d", len(in.Identities), len(in.Listed))
	}
	if len(in.Sampling.chosen) != len(in.Identities) {
		return nil, fmt.Errorf("lay out the matrix: %d identities, and places chosen for %d", len(in.Identities), len(in.Sampling.chosen))
	}
	m := &Matrix{Identities: in.Identities, Sampling: in.Sampling, rights: in.Rights, asked: map[Request]int{}}
	m.Cells = make([]Cell, 0, in.cells())
	main := mainPlaces(in.Places)
	rights := map[key]*Right{}
	for i := range m.rights {
		r := &m.rights[i]
		for _, verb := range r.Verbs {
			k := key{r.Identity, r.Namespace, r.Group, r.Resource, verb}
			// What is needed says more than what may be.
			if old := rights[k]; old == nil || r.Needed && !old.Needed {
				rights[k] = r
			}
		}
	}
	defaults := in.Live.Defaults()
	shared := alike(in.Listed, in.Sampling.Sampled())
	for i, identity := range in.Identities {
		places := in.Sampling.Places(i)
		beside := map[string]bool{}
		for _, p := range places {
			if _, known := beside[p.Victim]; !known {
				// Who was chosen from many is there to be asked for.
				beside[p.Victim] = in.Sampling.Sampled() || near(in, identity, p.Victim)
			}
		}
		m.grants = append(m.grants, in.Live.GrantsTo(identity.User, identity.Groups))
		given := defaults.GrantsTo(identity.User, identity.Groups)
		same := shared[i]
		extra := ruleNames(in.Listed[i])
		add := func(a *Action, p *Place, name string, turn int) {
			c := Cell{Identity: i, Action: a, Place: p, Name: name, request: -1}
			m.expect(&c, in, rights, given)
			q := Request{Identity: i, Action: *a, Namespace: p.Namespace, Name: name}
			if slices.Contains(whole, a.Verb) {
				q.Name = ""
			}
			// Where rules name no object, whose it is makes no difference to them; nor
			// does the namespace, where the rules are the same. What tenants have side by
			// side is asked for by name all the same.
			if list := same[p.Namespace]; len(list) > 0 && (!p.Shared || q.Name == "") {
				who := list[turn%len(list)]
				q.Identity, q.Namespace, q.Name = who.identity, who.namespace, ""
			}
			at, ok := m.asked[q]
			if !ok {
				at = len(m.Requests)
				m.asked[q] = at
				m.Requests = append(m.Requests, q)
			}
			c.request = at
			m.Cells = append(m.Cells, c)
		}
		for at := range places {
			p := &places[at]
			for turn := range in.Actions {
				a := &in.Actions[turn]
				if a.Namespaced != (p.Namespace != "") {
					continue
				}
				name := in.Names[Named{p.Namespace, p.Victim, a.Group, a.Resource}]
				if len(same[p.Namespace]) > 0 && !beside[p.Victim] {
					name = ""
				}
				add(a, p, name, turn)
				m.Regular++
			}
		}
		for at := range main {
			p := &main[at]
			if len(extra[p.Namespace]) == 0 {
				continue
			}
			for turn := range in.Actions {
				a := &in.Actions[turn]
				for _, name := range extra[p.Namespace][schema.GroupResource{Group: a.Group, Resource: a.Resource}] {
					q := Request{Identity: i, Action: *a, Namespace: p.Namespace, Name: name}
					if _, asked := m.asked[q]; !asked && a.Namespaced == (p.Namespace != "") && !slices.Contains(whole, a.Verb) {
						add(a, p, name, turn)
					}
				}
			}
		}
	}
	for _, p := range in.Places {
		m.victims = append(m.victims, p.Victim)
	}
	sort.Strings(m.victims)
	m.victims = slices.Compact(m.victims)
	m.answers = make([]answer, len(m.Requests))
	return m, nil
}

// cells counts those that the input will have, but for names in rules.
func (in MatrixInput) cells() int {
	namespaced := 0
	for _, a := range in.Actions {
		if a.Namespaced {
			namespaced++
		}
	}
	count := 0
	for i := range in.Identities {
		for _, p := range in.Sampling.Places(i) {
			if p.Namespace != "" {
				count += namespaced
				continue
			}
			count += len(in.Actions) - namespaced
		}
	}
	return count
}

// mainPlaces has each namespace once, as the platform's where it is shared.
func mainPlaces(places []Place) []Place {
	main := map[string]Place{}
	for _, p := range places {
		if _, ok := main[p.Namespace]; !ok || p.Victim == OfPlatform {
			main[p.Namespace] = p
		}
	}
	var out []Place
	for _, namespace := range slices.Sorted(maps.Keys(main)) {
		out = append(out, main[namespace])
	}
	return out
}

// spot is an identity in a namespace, or with an empty one in the cluster's scope.
type spot struct {
	identity  int
	namespace string
}

// alike maps, for each identity, each namespace in which the server lists its rights
// completely, and by no object's name, to all those where they are the same; and
// the cluster's scope likewise, where no list names an object. Among many that
// goes for all identities: a question that is the same for several is asked once,
// now as this one of them, now as that one.
func alike(listed []map[string]Listed, among bool) []map[string][]spot {
	type class struct {
		identity int // or -1
		text     string
	}
	members := map[class][]spot{}
	of := make([]map[string]class, len(listed))
	for i := range listed {
		of[i] = map[string]class{}
		whose := i
		if among {
			whose = -1
		}
		wide := true
		var texts []string
		for _, namespace := range slices.Sorted(maps.Keys(listed[i])) {
			l := listed[i][namespace]
			byName := slices.ContainsFunc(l.Rules, func(r rbacv1.PolicyRule) bool { return len(r.ResourceNames) > 0 })
			if !l.Complete || byName {
				wide = false
				continue
			}
			var rules []string
			for _, rule := range l.Rules {
				rules = append(rules, fmt.Sprint(rule.Verbs, rule.APIGroups, rule.Resources))
			}
			sort.Strings(rules)
			text := strings.Join(rules, "\n")
			texts = append(texts, text)
			id := class{whose, text}
			of[i][namespace] = id
			members[id] = append(members[id], spot{i, namespace})
		}
		if wide {
			sort.Strings(texts)
			id := class{whose, "the cluster's scope\n" + strings.Join(slices.Compact(texts), "\n\n")}
			of[i][""] = id
			members[id] = append(members[id], spot{i, ""})
		}
	}
	out := make([]map[string][]spot, len(listed))
	for i := range listed {
		out[i] = map[string][]spot{}
		for namespace, id := range of[i] {
			out[i][namespace] = members[id]
		}
	}
	return out
}

// near says whether an owner is the platform, the identity's tenant, or one of the
// two beside it by name: names that begin alike are the ones that a rule takes for
// each other. Objects of the others are not asked for by name.
func near(in MatrixInput, identity Identity, victim string) bool {
	if victim == OfPlatform || slices.Contains(identity.Tenants, victim) {
		return true
	}
	var tenants []string
	for _, p := range in.Places {
		if p.Namespace == "" && p.Victim != OfPlatform {
			tenants = append(tenants, p.Victim)
		}
	}
	sort.Strings(tenants)
	own := 0
	if len(identity.Tenants) > 0 {
		own = slices.Index(tenants, identity.Tenants[0])
	}
	distance := (slices.Index(tenants, victim) - own + len(tenants)) % len(tenants)
	return distance <= 1 || distance == len(tenants)-1
}

// ruleNames are the objects that an identity's rules name, by namespace and kind; the
// cluster's scope has those of every namespace's rules.
func ruleNames(listed map[string]Listed) map[string]map[schema.GroupResource][]string {
	out := map[string]map[schema.GroupResource][]string{"": {}}
	for namespace, l := range listed {
		if out[namespace] == nil {
			out[namespace] = map[schema.GroupResource][]string{}
		}
		for _, rule := range l.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					resource, _, _ := strings.Cut(resource, "/")
					kind := schema.GroupResource{Group: group, Resource: resource}
					for _, where := range []string{namespace, ""} {
						out[where][kind] = append(out[where][kind], rule.ResourceNames...)
					}
				}
			}
		}
	}
	for _, kinds := range out {
		for kind, names := range kinds {
			sort.Strings(names)
			kinds[kind] = slices.Compact(names)
		}
	}
	return out
}

// spill is why a right on its own objects is one on others', too.
const spill = "; RBAC tells objects apart by kind and name, not by whose they are"

func (m *Matrix) expect(c *Cell, in MatrixInput, rights map[key]*Right, given []Grant) {
	identity := in.Identities[c.Identity]
	own := slices.Contains(identity.Tenants, c.Victim)
	c.right = rights[key{identity.Name, c.Namespace, c.Group, c.combined(), c.Verb}]
	namespace, unknown := in.Unknown[identity.Name]
	switch {
	case unknown && namespace == c.Namespace:
		c.Expected, c.Reason = Unknown, "what its tenant declares is not known"
	case c.right != nil && c.right.Needed && own:
		c.Expected, c.Reason = Needed, c.right.Reason
	case c.right != nil && c.Changes() && !own:
		c.Expected, c.Reason = Guarded, c.right.Reason+spill
	case c.right != nil && c.right.Needed:
		c.Expected, c.Reason = Residual, c.right.Reason+spill
	case c.right != nil:
		c.Expected, c.Reason = Residual, c.right.Reason
	case slices.ContainsFunc(given, func(g Grant) bool { _, ok := g.covers(c); return ok }):
		c.Expected, c.Reason = Given, "Kubernetes gives it to everybody"
	default:
		c.Expected = Denied
	}
}

// covers finds the rule by which a grant allows what a cell asks.
func (g Grant) covers(c *Cell) (rbacv1.PolicyRule, bool) {
	if g.Namespace != "" && g.Namespace != c.Namespace {
		return rbacv1.PolicyRule{}, false
	}
	has := func(list []string, one ...string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return s == "*" || slices.Contains(one, s) })
	}
	for _, rule := range g.Rules {
		resources := []string{c.combined()}
		if c.Subresource != "" {
			resources = append(resources, "*/"+c.Subresource)
		}
		if has(rule.Verbs, c.Verb) && has(rule.APIGroups, c.Group) && has(rule.Resources, resources...) &&
			(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, c.Name)) {
			return rule, true
		}
	}
	return rbacv1.PolicyRule{}, false
}

// Answer takes in what the server said to a request, and why.
func (m *Matrix) Answer(request int, allowed bool, reason string) {
	m.answers[request] = answer{allowed, reason}
}

// Allowed says whether RBAC, or whoever else authorises, allows what a cell asks.
func (m *Matrix) Allowed(c *Cell) bool { return m.answers[c.request].allowed }

// source is what allows a cell: a binding with its role, and the rule in it.
type source struct{ binding, rule string }

func (s source) String() string {
	if s.rule == "" {
		return s.binding
	}
	return s.binding + ", rule " + s.rule
}

// By names what allows it: bindings with their role and rule, or where no binding
// does, the server's own word.
func (m *Matrix) By(c *Cell) []string {
	var out []string
	for _, s := range m.sources(c) {
		out = append(out, s.String())
	}
	return out
}

func (m *Matrix) sources(c *Cell) []source {
	var out []source
	for _, grant := range m.grants[c.Identity] {
		if rule, ok := grant.covers(c); ok {
			out = append(out, source{fmt.Sprintf("%s (%s)", grant.Binding, grant.Role), ruleText(rule)})
		}
	}
	if len(out) == 0 {
		out = append(out, source{"no binding that is there now; the server says: " + m.answers[c.request].reason, ""})
	}
	return out
}

// manyRules is how many rules of a role are told one by one.
const manyRules = 4

// ruleText is a rule as one writes it.
func ruleText(rule rbacv1.PolicyRule) string {
	groups := slices.Clone(rule.APIGroups)
	for i, group := range groups {
		if group == "" {
			groups[i] = `""`
		}
	}
	text := fmt.Sprintf("{apiGroups: [%s], resources: [%s], verbs: [%s]", strings.Join(groups, ", "),
		strings.Join(rule.Resources, ", "), strings.Join(rule.Verbs, ", "))
	if len(rule.ResourceNames) > 0 {
		text += ", resourceNames: [" + strings.Join(rule.ResourceNames, ", ") + "]"
	}
	return text + "}"
}

// Tries are the cells whose writes are tried as dry-runs: those that a policy has
// to refuse, the identity's own that nobody may refuse, and those that RBAC has
// to refuse. The last are of the kinds that others have in a shared namespace.
func (m *Matrix) Tries() (guarded, own, closed []*Cell) {
	kinds := map[string]bool{}
	for _, r := range m.rights {
		if r.Needed {
			kinds[r.Group+"/"+r.Resource] = true
		}
	}
	for i := range m.Cells {
		c := &m.Cells[i]
		if !c.Changes() || c.Name == "" {
			continue
		}
		switch {
		case c.Expected == Guarded && m.Allowed(c):
			guarded = append(guarded, c)
		case c.Expected == Needed && m.Allowed(c):
			own = append(own, c)
		case c.Expected != Needed && c.Shared && kinds[c.Group+"/"+c.Resource] && !m.Allowed(c):
			closed = append(closed, c)
		}
	}
	return guarded, own, closed
}

// surprise says what is wrong with the server's answer to a cell: that it may
// what it should not, or may not what it needs.
func (m *Matrix) surprise(c *Cell) (may, mayNot bool) {
	allowed := m.Allowed(c)
	return allowed && c.Expected == Denied, !allowed && c.Expected == Needed
}

// Problems are all surprises, one line for what grants, or fails to grant, them.
func (m *Matrix) Problems() []string {
	type group struct {
		where, whose map[string]bool
		// kinds maps each kind to its verbs.
		kinds map[string][]string
		cells int
	}
	groups := map[string]*group{}
	add := func(title string, c *Cell) {
		g := groups[title]
		if g == nil {
			g = &group{map[string]bool{}, map[string]bool{}, map[string][]string{}, 0}
			groups[title] = g
		}
		g.where[where(c.Namespace)], g.whose[c.Victim] = true, true
		if !slices.Contains(g.kinds[c.Kind()], c.Verb) {
			g.kinds[c.Kind()] = append(g.kinds[c.Kind()], c.Verb)
		}
		g.cells++
	}
	controls := make([]bool, len(m.Identities))
	var out []string
	type bound struct {
		identity int
		binding  string
	}
	rules := map[bound]map[string]bool{}
	for i := range m.Cells {
		c := &m.Cells[i]
		if may, _ := m.surprise(c); !may {
			continue
		}
		for _, by := range m.sources(c) {
			id := bound{c.Identity, by.binding}
			if rules[id] == nil {
				rules[id] = map[string]bool{}
			}
			rules[id][by.rule] = true
		}
	}
	for i := range m.Cells {
		c := &m.Cells[i]
		controls[c.Identity] = controls[c.Identity] || m.Allowed(c)
		name := m.Identities[c.Identity].Name
		switch may, mayNot := m.surprise(c); {
		case may:
			for _, by := range m.sources(c) {
				if n := len(rules[bound{c.Identity, by.binding}]); n > manyRules {
					by = source{fmt.Sprintf("%s, %d of its rules", by.binding, n), ""}
				}
				add(name+" may, and nothing says that it should, by "+by.String(), c)
			}
		case mayNot:
			add(name+" may not, though "+c.Reason+"; no rule of any binding grants it", c)
		}
		if c.Problem != "" {
			out = append(out, fmt.Sprintf("%s: %s %s of %s: %s", name, c.Action, at(c), c.Victim, c.Problem))
		}
	}
	for title, g := range groups {
		out = append(out, fmt.Sprintf("%s: in %s, of %s, %d cells: %s", title,
			some(slices.Sorted(maps.Keys(g.where)), 8), some(slices.Sorted(maps.Keys(g.whose)), 8), g.cells, verbsOf(g.kinds)))
	}
	for i, some := range controls {
		if !some {
			out = append(out, m.Identities[i].Name+" may do nothing at all, not even what Kubernetes gives to everybody: that it is refused shows nothing")
		}
	}
	used := m.used()
	for i := range m.rights {
		if r := &m.rights[i]; r.Origin != "" && !used[r.Origin] {
			out = append(out, fmt.Sprintf("%s: %s has no right that this residual is about (%s): take it out", r.Origin, r.Identity, r.Resource))
		}
	}
	sort.Strings(out)
	return out
}

// used are the origins of the rights that somebody has.
func (m *Matrix) used() map[string]bool {
	out := map[string]bool{}
	for i := range m.Cells {
		if c := &m.Cells[i]; c.right != nil && c.right.Origin != "" && m.Allowed(c) {
			out[c.right.Origin] = true
		}
	}
	return out
}

func where(namespace string) string {
	if namespace == "" {
		return "the cluster's scope"
	}
	return namespace
}

func at(c *Cell) string {
	if c.Name == "" {
		return "in " + where(c.Namespace)
	}
	return strings.TrimPrefix(c.Namespace+"/"+c.Name, "/")
}

// some are the first of a list, and how many more there are.
func some(list []string, most int) string {
	if len(list) > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}

// telling are kinds that a reader wants to hear of first.
var telling = []string{"secrets", "pods/exec", "serviceaccounts/token", "configmaps", "pods"}

func verbsOf(kinds map[string][]string) string {
	var list []string
	for kind, verbs := range kinds {
		sort.Strings(verbs)
		list = append(list, kind+" ("+strings.Join(verbs, " ")+")")
	}
	rank := func(text string) int {
		kind, _, _ := strings.Cut(text, " ")
		if i := slices.Index(telling, kind); i >= 0 {
			return i
		}
		return len(telling)
	}
	sort.Slice(list, func(i, j int) bool {
		if a, b := rank(list[i]), rank(list[j]); a != b {
			return a < b
		}
		return list[i] < list[j]
	})
	return some(list, 12)
}

// MarshalJSON has every cell that was judged: those that are allowed one by one,
// with what allows them, the others by identity and place as the verbs of each
// kind; where places were sampled, as their number.
func (m *Matrix) MarshalJSON() ([]byte, error) {
	type open struct {
		Identity  string      `json:"identity"`
		Verb      string      `json:"verb"`
		Kind      string      `json:"kind"`
		Namespace string      `json:"namespace,omitempty"`
		Name      string      `json:"name,omitempty"`
		Victim    string      `json:"victim"`
		Expected  Expectation `json:"expected"`
		Reason    string      `json:"reason,omitempty"`
		By        []string    `json:"by"`
		RefusedBy string      `json:"refusedBy,omitempty"`
		Problem   string      `json:"problem,omitempty"`
	}
	type closed struct {
		Identity  string              `json:"identity"`
		Namespace string              `json:"namespace,omitempty"`
		Victim    string              `json:"victim"`
		Cells     int                 `json:"cells"`
		Kinds     map[string][]string `json:"kinds,omitempty"`
		// Needed are those of them that it would need.
		Needed []string `json:"needed,omitempty"`
	}
	out := struct {
		Identities []Identity `json:"identities"`
		Victims    []string   `json:"victims"`
		Sampling   Sampling   `json:"sampling"`
		Judged     string     `json:"judged"`
		Cells      int        `json:"cells"`
		Requests   int        `json:"requests"`
		Allowed    []open     `json:"allowed"`
		Denied     []*closed  `json:"denied"`
	}{Identities: m.Identities, Victims: m.victims, Sampling: m.Sampling, Judged: m.Sampling.String(), Cells: len(m.Cells), Requests: len(m.Requests), Allowed: []open{}, Denied: []*closed{}}
	type block struct {
		identity          int
		namespace, victim string
	}
	blocks := map[block]*closed{}
	for i := range m.Cells {
		c := &m.Cells[i]
		name := m.Identities[c.Identity].Name
		if m.Allowed(c) {
			out.Allowed = append(out.Allowed, open{
				name, c.Verb, c.Kind(), c.Namespace, c.Name, c.Victim, c.Expected, c.Reason, m.By(c), c.RefusedBy, c.Problem,
			})
			continue
		}
		id := block{c.Identity, c.Namespace, c.Victim}
		b := blocks[id]
		if b == nil {
			b = &closed{Identity: name, Namespace: c.Namespace, Victim: c.Victim, Kinds: map[string][]string{}}
			blocks[id] = b
			out.Denied = append(out.Denied, b)
		}
		b.Cells++
		// Of many tenants a list of all that nobody may is longer than anybody reads.
		if !m.Sampling.Sampled() {
			b.Kinds[c.Kind()] = append(b.Kinds[c.Kind()], c.Verb)
		}
		if c.Expected == Needed {
			b.Needed = append(b.Needed, c.String())
		}
	}
	return json.Marshal(out)
}
