package platform

import (
	"errors"
	"fmt"
	"slices"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TenantLabel names the tenant that an object belongs to; it is the label that
// «flux create tenant» writes.
const TenantLabel = "toolkit.fluxcd.io/tenant"

// Platform is what a platform repository declares, in all its environments.
type Platform struct {
	// Root is the absolute folder that was read.
	Root string
	// URL is what the root sources call that folder: the URL of the first
	// environment's root GitRepository.
	URL string
	// Environments are ordered by name.
	Environments []*Environment
	// Unread lists what the model does not hold, and why.
	Unread []Unread
	// Problems are the mistakes that concern single tenants: the platform was
	// read in spite of them, and its live checks will fail for these tenants.
	Problems []Problem

	repositories []Repository
	artifacts    *artifacts
}

// Unread is something that the loader did not read.
type Unread struct {
	Environment string
	Where       Origin
	What        string // the object, as «Kind namespace/name»
	Why         string
}

// String renders one line, file:line first.
func (u Unread) String() string {
	if u.Environment == "" {
		return fmt.Sprintf("%s: %s: %s", u.Where, u.What, u.Why)
	}
	return fmt.Sprintf("%s: %s in environment %s: %s", u.Where, u.What, u.Environment, u.Why)
}

// Problem is a mistake in what one or more tenants declare.
type Problem struct {
	Environment string
	Tenants     []string
	Where       Origin
	What        string // the object, as «Kind namespace/name»
	Err         error
}

// Error renders one line, file:line first.
func (p Problem) Error() string {
	return fmt.Sprintf("%s: %s in environment %s: %s", p.Where, p.What, p.Environment, p.Err)
}

// Unwrap gives the cause.
func (p Problem) Unwrap() error { return p.Err }

// Conflict says whether it is that two Kustomizations declare one object, each of
// which can be built.
func (p Problem) Conflict() bool {
	var conflict conflictError
	return errors.As(p.Err, &conflict)
}

// Environment is one cluster of the platform.
type Environment struct {
	// Name is the folder's name, Path its path in the repository: clusters/NAME.
	Name, Path string
	FluxSystem FluxSystem
	// Tenants are ordered by name.
	Tenants []*Tenant
	// Kustomizations are all Flux Kustomizations, the root one first, each
	// before those that it brings.
	Kustomizations []*Kustomization
	Sources        []*Source
	HelmReleases   []*HelmRelease
	Policies       []Object // of kyverno.io and policies.kyverno.io
	Namespaces     []Object
	// Objects are all objects of the environment, the ones above included.
	Objects []Object
}

// Object is something that the repository declares, as built.
type Object struct {
	*unstructured.Unstructured
	Origin Origin
	// Owner is the Kustomization that applies it; nil when only the bootstrap
	// does.
	Owner *Kustomization

	file  string // in the artifact that it was built from
	stand bool   // stands in for what flux bootstrap would write
}

// String renders «Kind namespace/name».
func (o Object) String() string {
	if o.Unstructured == nil {
		return "(no object)"
	}
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

func (o Object) id() string {
	gvk := o.GroupVersionKind()
	return gvk.Group + "/" + gvk.Kind + "/" + o.GetNamespace() + "/" + o.GetName()
}

// Kustomization is a Flux Kustomization.
type Kustomization struct {
	Object
	Spec kustomizev1.KustomizationSpec
	// Source is what its sourceRef names; nil when nothing declares it.
	Source *Source
	// Objects is what its build renders; empty when Unread or Err says why.
	Objects []Object
	// Tenant that it belongs to; empty for the platform's own.
	Tenant string
	// Unread says why it was not built; Err why its build fails.
	Unread string
	Err    error

	build    *build
	artifact *tree  // that it is built from, where it is known
	claim    string // why it is the tenant's
}

// HelmRelease is a Flux HelmRelease. Its chart is not rendered.
type HelmRelease struct {
	Object
	Spec helmv2.HelmReleaseSpec
	// Source is what its chart comes from; nil when nothing declares it.
	Source *Source
	Tenant string
	// Unread says why what it brings is not known; empty for one of the platform's
	// own whose source is known.
	Unread string
}

// FluxSystem is Flux itself as an environment declares it.
type FluxSystem struct {
	// Path of the folder in the repository: clusters/ENV/flux-system.
	Path string
	// Source and Kustomization are the root ones. SyncAssumed tells that the
	// repository has no gotk-sync.yaml yet and they are what «flux bootstrap»
	// would write.
	Source        *Source
	Kustomization *Kustomization
	SyncAssumed   bool
	// ComponentsAssumed tells that the repository has no gotk-components.yaml:
	// of the controllers only what the platform adds is known.
	ComponentsAssumed bool
	// Controllers are ordered by name.
	Controllers []Controller
}

// Controller is a Deployment of flux-system.
type Controller struct {
	Name string
	// Image is empty when gotk-components.yaml is assumed.
	Image string
	// Args are the arguments as declared, after the platform's patches; Added
	// are those that the patches add or change.
	Args, Added []string
	Origin      Origin
}

// Flags returns the names and values of --name=value arguments; an argument
// without a value counts as «true».
func (c Controller) Flags() map[string]string { return flags(c.Args) }

// Tenant is one tenant in one environment.
type Tenant struct {
	Name string
	// Claim says what makes it a tenant: the rule of the package comment.
	Claim string
	// Namespace is the control namespace: where its Flux objects stand.
	Namespace string
	// TargetNamespace is where its workloads go.
	TargetNamespace string
	// Reconciler is the ServiceAccount that applies its objects. Its name is
	// empty when no account is named and no default is declared: then the
	// controller's own rights are used.
	Reconciler Account
	// Kustomization is its outermost one, or the one that applies its
	// HelmReleases when it has no Kustomization of its own.
	Kustomization  *Kustomization
	Kustomizations []*Kustomization
	HelmReleases   []*HelmRelease
	// Sources are those in use: of its Kustomizations and HelmReleases, and what
	// they include.
	Sources []*Source
	// Objects is what it is expected to have: all that its Kustomizations render.
	Objects []Object
	// Values are the developers' files in its ConfigMaps.
	Values []Value
	// Schema is schemas/NAME.schema.json of the repository that the values come
	// from; nil when there is none.
	Schema *File
}

// Account names a ServiceAccount.
type Account struct{ Namespace, Name string }

// Value is one key of a generated ConfigMap and the file that it is made from.
type Value struct {
	ConfigMap string // name as rendered, in the target namespace
	Key       string
	Source    *Source // that the file comes from; nil when unknown
	File      File
}

// File is a file of a repository, with its content.
type File struct {
	Origin  Origin
	Content []byte
}

// Environment returns the one of that name, or nil.
func (p *Platform) Environment(name string) *Environment {
	for _, e := range p.Environments {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// Tenant returns the one of that name, or nil.
func (e *Environment) Tenant(name string) *Tenant {
	for _, t := range e.Tenants {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// TenantNames lists the tenants of all environments, sorted.
func (p *Platform) TenantNames() []string {
	var names []string
	for _, e := range p.Environments {
		for _, t := range e.Tenants {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Object returns the object that the tenant is expected to have, and whether it
// has one; several of one kind are found in Objects.
func (t *Tenant) Object(kind string) (Object, bool) {
	for _, o := range t.Objects {
		if o.GetKind() == kind {
			return o, true
		}
	}
	return Object{}, false
}
