package overlay

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Role is what an overlay is there for.
type Role string

// The roles of overlays.
const (
	// Fault is a mistake that checks must find.
	Fault Role = "fault"
	// AttackRole is an attempt that a layer must stop.
	AttackRole Role = "attack"
	// ChangeRole is a change of which is seen what it reaches.
	ChangeRole Role = "change"
	// LayerRole switches a layer off that attacks name.
	LayerRole Role = "layer"
)

// The beginnings of the IDs of what is no fault.
var prefixes = map[Role]string{AttackRole: "ATK-", ChangeRole: "CHG-", LayerRole: "LAY-"}

// Role returns the role of a parsed overlay.
func (o Overlay) Role() Role {
	switch {
	case o.Attack != nil:
		return AttackRole
	case o.Change != nil:
		return ChangeRole
	case o.Layer != nil:
		return LayerRole
	}
	return Fault
}

// Review is a request that only RBAC judges, asked as a SubjectAccessReview.
type Review struct {
	// As is the user; required.
	As string `json:"as"`
	// Groups are that user's; none: those of every service account, where it is one.
	Groups []string `json:"groups,omitempty"`
	// Verb and Resource are required; Group is empty for the core one.
	Verb        string `json:"verb"`
	Group       string `json:"group,omitempty"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource,omitempty"`
	// Namespace is empty for what is of the cluster, or for all namespaces.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// String is the form in which messages show a review.
func (r Review) String() string {
	what := r.Resource
	if r.Subresource != "" {
		what += "/" + r.Subresource
	}
	if r.Group != "" {
		what += "." + r.Group
	}
	if r.Name != "" {
		what += " " + r.Name
	}
	where := "the cluster"
	if r.Namespace != "" {
		where = r.Namespace
	}
	return fmt.Sprintf("%s may %s %s in %s", r.As, r.Verb, what, where)
}

// Attack says who must stop an overlay, and how one sees that.
type Attack struct {
	// Tenant is who attacks; empty: somebody of the platform.
	Tenant string `json:"tenant,omitempty"`
	// Victim is the tenant that it aims at; empty: nobody in particular.
	Victim string `json:"victim,omitempty"`
	// Layer must stop it: one of Layers.
	Layer string `json:"layer"`
	// By is what of the layer does: the policy, the flag, the check.
	By string `json:"by,omitempty"`
	// Says is a fragment of what the refusal must say.
	Says string `json:"says,omitempty"`
	// Why is what success would give; empty: what the layer is there for.
	Why string `json:"why,omitempty"`
	// Where is the object whose condition Ready carries the refusal of a commit.
	Where *Where `json:"where,omitempty"`
	// Then is the object that tells of what stops a commit once the layer is off;
	// none: Where.
	Then *Where `json:"then,omitempty"`
	// Holds is how one sees that it does nothing, where nobody refuses it.
	Holds []Hold `json:"holds,omitempty"`
	// Control is the same with one field changed, which must be accepted.
	Control *Control `json:"control,omitempty"`
}

// Where names a Flux object, and the reason of its condition Ready.
type Where struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Reason of the condition; empty: any.
	Reason string `json:"reason,omitempty"`
}

// String is «Kind namespace/name».
func (w Where) String() string { return w.Kind + " " + w.Namespace + "/" + w.Name }

// Hold is what must be true of an object while the overlay lies there.
type Hold struct {
	// APIVersion is that of the kind; empty for core/v1, apps/v1 and Flux's kinds.
	APIVersion string            `json:"apiVersion,omitempty"`
	Kind       string            `json:"kind"`
	Namespace  string            `json:"namespace,omitempty"`
	Name       string            `json:"name,omitempty"`
	Select     map[string]string `json:"select,omitempty"`
	// Field is a dotted path. Exactly one of Contains, Equals and Absent says what
	// it must be; Absent without a field: there is no such object.
	Field    string  `json:"field,omitempty"`
	Contains string  `json:"contains,omitempty"`
	Equals   *string `json:"equals,omitempty"`
	Absent   bool    `json:"absent,omitempty"`
}

// Control is an attack with one field changed.
type Control struct {
	// Object or Review is the index of what differs.
	Object *int `json:"object,omitempty"`
	Review *int `json:"review,omitempty"`
	// Field is a dotted path with [0] for items and \. for dots in keys; «as» is
	// the identity, also spelled As.
	Field  string `json:"field,omitempty"`
	Value  any    `json:"value,omitempty"`
	Remove bool   `json:"remove,omitempty"`
	As     string `json:"as,omitempty"`
	// Real sends it for real, and takes it back; otherwise it is a dry-run.
	Real bool `json:"real,omitempty"`
	// Without is «given» or «links»: the same where nothing was prepared, or where
	// the files are no links.
	Without string `json:"without,omitempty"`
	// Repository, Path and Replace change a file of the attack, where it is a
	// commit.
	Repository string   `json:"repository,omitempty"`
	Path       string   `json:"path,omitempty"`
	Replace    *Replace `json:"replace,omitempty"`
}

// Extents bound what a change reaches.
type Extents struct {
	// First is what the platform's rules want to be committed, and in force, before
	// the change is: not a part of what is compared.
	First []Patch `json:"first,omitempty"`
	// May lists what may change; anything else must not.
	May []Extent `json:"may,omitempty"`
	// Must lists of what something must change.
	Must []Extent `json:"must,omitempty"`
	// Where is an object whose condition Ready must say Says while the change lies
	// there; none: all are ready.
	Where *Where `json:"where,omitempty"`
	Says  string `json:"says,omitempty"`
}

// Extent is a set of objects; an empty list stands for all.
type Extent struct {
	// Tenants own them; «platform» is what is no tenant's.
	Tenants      []string `json:"tenants,omitempty"`
	Environments []string `json:"environments,omitempty"`
	Kinds        []string `json:"kinds,omitempty"`
}

// Switch is the layer that an overlay switches off.
type Switch struct {
	// Kind is the layer's name, or «flag».
	Kind string `json:"kind"`
	// Name is what attacks give as by; empty: all of the layer.
	Name string `json:"name,omitempty"`
	// Group is one that whoever attacks is given meanwhile: the overlay switches the
	// layer off for its members. Empty: for everybody.
	Group string `json:"group,omitempty"`
}

// Layer is something that can stop an attack.
type Layer struct {
	Name string
	// Gives is what an attack gains that this layer lets through.
	Gives string
	// Mend is where to look then.
	Mend string
	// Refuses says that it refuses, so that there is a control that it does not.
	Refuses bool
	// Named says that attacks must say what of the layer stops them.
	Named bool
}

// Layers are all there are.
func Layers() []Layer {
	return []Layer{
		{"rbac", "whoever asks gets a right that the layout does not give", "look at the Roles and bindings of the identity that is named", true, false},
		{"policy", "a tenant writes what its rights in the shared namespace allow and the policy must not", "look at the policy that is named: is it in force, does it match, does its expression see the field", true, true},
		{"acl", "one tenant's Flux object uses what is another's", "start the controllers with --no-cross-namespace-refs", true, false},
		{"build", "a build takes in what is not in its artifact", "start kustomize-controller with --no-remote-bases, and leave plugins and Helm off", true, false},
		{"flux", "a Flux object acts outside of its source and its identity", "look at the flags and feature gates of the controllers", true, false},
		{"api", "the server stores what nobody can use, or what is read as something else", "the API server itself refuses this; look at its version and feature gates", true, false},
		{"podsecurity", "a pod gets at its node", "label the namespace pod-security.kubernetes.io/enforce: restricted", true, false},
		{"closed", "a request passes that nobody judges while the policy engine is away", "set failurePolicy: Fail in every policy; look at what becomes of the webhook configurations when Kyverno stops", true, false},
		{"quota", "one tenant takes what all have to live on", "look at the ResourceQuota of the shared namespace", true, false},
		{"escalation", "whoever may write roles hands out rights that they do not have", "take the verbs escalate and bind from the role", true, false},
		{"layout", "one tenant's text takes effect where it is read by others", "look at what the repository includes, substitutes and generates", false, false},
		{"network", "one tenant's pods reach another's, or the platform", "look at the NetworkPolicies, and at what enforces them", false, true},
		{"check", "a commit of the platform takes a protection away, and nobody sees it", "the check that is named has to fail: see what it looks at", false, true},
		{"files", "nothing in the cluster can stop it: it has to be seen before the merge", "judge the files before the merge; see the check that is named", false, true},
	}
}

// LayerOf returns the layer with a name.
func LayerOf(name string) (Layer, bool) {
	all := Layers()
	if i := slices.IndexFunc(all, func(l Layer) bool { return l.Name == name }); i >= 0 {
		return all[i], true
	}
	return Layer{}, false
}

func layerNames() []string {
	var out []string
	for _, l := range Layers() {
		out = append(out, l.Name)
	}
	return out
}

// roles says what is wrong with what is expected of an overlay.
func (o *Overlay) roles() []error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	expects := len(o.Expect.Fails) > 0 || len(o.Expect.MayFollow) > 0 || len(o.Expect.Tenants) > 0
	switch n := count(expects, o.Attack != nil, o.Change != nil, o.Layer != nil); {
	case n > 1:
		problem("it needs one of expect, attack, change, layer, and there are %d", n)
		return problems
	case n == 0 || expects && len(o.Expect.Fails) == 0:
		problem("expect.fails names no check")
		return problems
	}
	role := o.Role()
	if prefix := prefixes[role]; !strings.HasPrefix(o.ID, prefix) {
		problem("id %q of an overlay that is a %s does not begin with %s", o.ID, role, prefix)
	}
	if role != Fault && o.When == "bringup" {
		problem("when: a %s is of a platform that runs", role)
	}
	if role != AttackRole && len(o.Reviews) > 0 {
		problem("reviews are of attacks")
	}
	if role != AttackRole && len(o.Given) > 0 {
		problem("given is of attacks")
	}
	switch role {
	case AttackRole:
		problems = append(problems, o.attackProblems()...)
	case ChangeRole:
		problems = append(problems, o.Change.problems()...)
	case LayerRole:
		if o.Layer.Kind == "" {
			problem("layer.kind is missing")
		}
	}
	return problems
}

func (e Extents) problems() []error {
	var problems []error
	if len(e.May) == 0 && len(e.Must) == 0 && e.Where == nil {
		problems = append(problems, errors.New("change says neither what may change nor what must"))
	}
	if (e.Where == nil) != (e.Says == "") {
		problems = append(problems, errors.New("change needs both of where, says, or none"))
	}
	return problems
}

// attackProblems are those that overlay.yaml alone shows.
func (o *Overlay) attackProblems() []error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	a := o.Attack
	layer, known := LayerOf(a.Layer)
	if !known {
		problem("attack.layer %q is not one of %s", a.Layer, strings.Join(layerNames(), ", "))
	}
	if layer.Named && a.By == "" {
		problem("attack.by is missing: it says what of the layer %s stops it", a.Layer)
	}
	if a.Victim != "" && a.Victim == a.Tenant {
		problem("attack.victim %s is who attacks: what is its own may change", a.Victim)
	}
	asks := layer.Refuses || a.Layer == "check" || a.Layer == "files"
	if known && asks && a.Says == "" {
		problem("attack.says is missing: a refusal for any reason would do")
	}
	if a.Layer == "layout" && len(a.Holds) == 0 {
		problem("attack.holds is missing: nothing would tell that it does nothing")
	}
	if len(o.Objects) > 0 && len(o.Reviews) > 0 {
		problem("objects and reviews are two attacks")
	}
	if len(o.Reviews) > 0 && a.Layer != "rbac" {
		problem("reviews are judged by rbac, not by %s", a.Layer)
	}
	for i, r := range o.Reviews {
		if r.As == "" || r.Verb == "" || r.Resource == "" {
			problem("reviews[%d] needs as, verb and resource", i)
		}
	}
	for i, h := range a.Holds {
		if h.Kind == "" || h.Name == "" && len(h.Select) == 0 {
			problem("attack.holds[%d] needs a kind, and a name or select", i)
		}
		if count(h.Contains != "", h.Equals != nil, h.Absent) != 1 {
			problem("attack.holds[%d] needs one of contains, equals, absent", i)
		}
		if h.Field == "" && !h.Absent {
			problem("attack.holds[%d].field is missing", i)
		} else if _, err := parseField(h.Field); h.Field != "" && err != nil {
			problem("attack.holds[%d].field: %w", i, err)
		}
	}
	for name, w := range map[string]*Where{"where": a.Where, "then": a.Then} {
		if w != nil && (w.Kind == "" || w.Namespace == "" || w.Name == "") {
			problem("attack.%s needs kind, namespace and name", name)
		}
	}
	if len(o.Given) > 0 && (a.Control == nil || a.Control.Without != "given") {
		problem("given: the control is the same without it: attack.control.without")
	}
	if len(o.Given) > 0 && (!o.Alone || !layer.Refuses || len(o.Reviews) > 0) {
		problem("given: it needs alone: true, since others would meet that state too, and a layer that refuses objects or commits")
	}
	switch c := a.Control; {
	case c == nil && known && layer.Refuses:
		problem("attack.control is missing: what is refused whatever it says shows nothing")
	case c != nil:
		problems = append(problems, c.problems(o)...)
	}
	return problems
}

func (c Control) problems(o *Overlay) []error {
	var problems []error
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("attack.control"+format, args...))
	}
	if count(c.Object != nil, c.Review != nil, c.Replace != nil, c.Without != "") != 1 {
		problem(" needs one of object, review, without, and replace with repository and path")
		return problems
	}
	if c.Without != "" {
		if c.Without != "given" && c.Without != "links" {
			problem(".without %q is neither given nor links", c.Without)
		}
		if c.Without == "given" && len(o.Given) == 0 || c.Without == "links" && len(o.Links) == 0 {
			problem(".without: the attack has no %s", c.Without)
		}
		if c.Field != "" || c.Value != nil || c.Remove || c.As != "" {
			problem(".without is what differs, and there is more")
		}
		return problems
	}
	if c.Replace != nil {
		if !slices.Contains(Repositories, c.Repository) || c.Path == "" {
			problem(" needs the repository (%s) and the path of the file", strings.Join(Repositories, ", "))
		}
		if c.Replace.Old == "" {
			problem(".replace.old is missing")
		}
		if c.Field != "" || c.Value != nil || c.Remove || c.As != "" {
			problem(" changes a file: field, value, remove and as are of objects")
		}
		return problems
	}
	if c.Object != nil && (*c.Object < 0 || *c.Object >= len(o.Objects)) {
		problem(".object: there are %d objects", len(o.Objects))
	}
	if c.Review != nil && (*c.Review < 0 || *c.Review >= len(o.Reviews)) {
		problem(".review: there are %d reviews", len(o.Reviews))
	}
	if c.As != "" {
		if c.Field != "" || c.Value != nil || c.Remove {
			problem(": as is the field, and there is another one")
		}
		return problems
	}
	if c.Field == "" {
		problem(".field is missing")
	} else if _, err := parseField(c.Field); err != nil {
		problem(".field: %w", err)
	}
	if (c.Value != nil) == c.Remove {
		problem(" needs one of value, remove")
	}
	return problems
}

// complete says what is wrong with an overlay whose files have been read: above
// all a control that is not the attack with one field changed.
func (o Overlay) complete() error {
	if o.Attack == nil {
		return nil
	}
	a := o.Attack
	commits := len(o.Touches()) > 0
	layer, _ := LayerOf(a.Layer)
	var problems []error
	if commits && len(o.Objects)+len(o.Reviews) > 0 && layer.Refuses {
		problems = append(problems, errors.New("a commit and objects are two attacks"))
	}
	if commits && layer.Refuses && a.Where == nil {
		problems = append(problems, errors.New("attack.where is missing: it names the object that tells of the refusal"))
	}
	if commits && a.Layer == "layout" && a.Where == nil {
		problems = append(problems, errors.New("attack.where is missing: it names the object that must have applied the commit"))
	}
	if !commits && a.Where != nil {
		problems = append(problems, errors.New("attack.where is of commits: objects and reviews are answered"))
	}
	if a.Control != nil && a.Control.Without == "" && (a.Control.Replace != nil) != commits {
		problems = append(problems, errors.New("attack.control must change what the attack is made of: a file, an object or a review"))
	}
	if len(problems) == 0 && a.Control != nil && a.Control.Replace == nil && a.Control.Without == "" {
		if _, err := o.Controlled(); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// Controlled is the overlay that the control stands for: of objects and reviews
// the one that differs alone, of commits all. It errs where the control equals the
// attack, or differs in more than one field. Of commits that can be told only with
// the repositories at hand: see Files of a control in OneField.
func (o Overlay) Controlled() (Overlay, error) {
	c := o.Attack.Control
	if c == nil {
		return Overlay{}, fmt.Errorf("overlay %s has no control", o.ID)
	}
	out := o
	switch c.Without {
	case "given":
		out.Given = nil
		return out, nil
	case "links":
		out.Links = nil
		return out, nil
	}
	out.Objects, out.Reviews = nil, nil
	switch {
	case c.Replace != nil:
		out.Patches = append(slices.Clone(o.Patches), Patch{Repository: c.Repository, Path: c.Path, Replace: c.Replace})
		return out, nil
	case c.Review != nil:
		review, err := o.Reviews[*c.Review].controlled(*c)
		if err != nil {
			return Overlay{}, fmt.Errorf("attack.control: %w", err)
		}
		out.Reviews = []Review{review}
	default:
		send, err := o.Objects[*c.Object].controlled(*c)
		if err != nil {
			return Overlay{}, fmt.Errorf("attack.control: %w", err)
		}
		out.Objects = []Send{send}
	}
	return out, nil
}

func (s Send) controlled(c Control) (Send, error) {
	out := s
	out.Manifest = s.Manifest.DeepCopy()
	if c.As != "" || c.Field == "as" {
		if c.As == "" {
			c.As, _ = c.Value.(string)
		}
		if c.As == s.As {
			return out, errors.New("it equals the attack")
		}
		out.As = c.As
		return out, nil
	}
	changed, err := change(s.Manifest.Object, c)
	if err != nil {
		return out, err
	}
	out.Manifest = &unstructured.Unstructured{Object: changed}
	if c.Remove {
		removed, _ := Field(s.Manifest.Object, c.Field)
		return out, oneRemoved(c.Field, removed)
	}
	return out, oneLeaf(s.Manifest.Object, changed)
}

func (r Review) controlled(c Control) (Review, error) {
	out := r
	field, value := c.Field, ""
	if c.As != "" {
		field, value = "as", c.As
	} else if !c.Remove {
		text, ok := c.Value.(string)
		if !ok {
			return out, fmt.Errorf("the value of %s is a text", field)
		}
		value = text
	}
	fields := map[string]*string{
		"as": &out.As, "verb": &out.Verb, "group": &out.Group, "resource": &out.Resource,
		"subresource": &out.Subresource, "namespace": &out.Namespace, "name": &out.Name,
	}
	to, known := fields[field]
	if !known {
		return out, fmt.Errorf("a review has no field %q; it has %s", field, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	if *to == value {
		return out, errors.New("it equals the attack")
	}
	*to = value
	return out, nil
}
