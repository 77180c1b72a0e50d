// Package example holds Kyverno policies and what their ordinary test files
// (kyverno-test.yaml of cli.kyverno.io/v1alpha1) expect of them.
package example

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Verdict is what a policy says of an object, or why nothing can be said.
type Verdict string

// What a test file may expect, and what a judge may answer.
const (
	Pass  Verdict = "pass"
	Fail  Verdict = "fail"
	Skip  Verdict = "skip"
	Warn  Verdict = "warn"
	Error Verdict = "error"
)

// What only a judge answers.
const (
	// Unknown: the answer does not account for the policy. It is never a verdict.
	Unknown Verdict = "UNKNOWN"
	// Invalid: the API server itself refuses the object, whatever policies say.
	Invalid Verdict = "INVALID"
	// NotSupported: this judge cannot do what the example asks for.
	NotSupported Verdict = "NOT_SUPPORTED"
)

// Place is where something stands.
type Place struct {
	// File is relative to the folder that was read, with slashes.
	File string `json:"file"`
	// Line counts from 1; 0 where none is known.
	Line int `json:"line,omitempty"`
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Library is what was read of a folder.
type Library struct {
	// Dir is the absolute folder.
	Dir string
	// Policies are all below the folder, with tests or without, in the order of
	// their places. A policy that several tests name stands here once.
	Policies []*Policy
	// Tests are the documents of the test files, in the order of their places.
	Tests []*Test
	// Findings are what is wrong with the files. What they concern is left out,
	// unless the text says how it was read; everything else was read all the same.
	Findings []Finding
	// Notes are what is right, but worth to know: spellings that «kyverno test»
	// does not take any more.
	Notes []Finding
}

// Examples are those of all tests, in order.
func (l *Library) Examples() []*Example {
	var out []*Example
	for _, t := range l.Tests {
		out = append(out, t.Examples...)
	}
	return out
}

// Finding is something wrong with a file.
type Finding struct {
	Place
	// Text says what was found and how to mend it.
	Text string `json:"text"`
}

func (f Finding) Error() string { return fmt.Sprintf("%s: %s", f.Place, f.Text) }

// Policy is one policy as its file has it.
type Policy struct {
	Place
	Object *unstructured.Unstructured
	// Bindings are those of a ValidatingAdmissionPolicy or a
	// MutatingAdmissionPolicy.
	Bindings []*unstructured.Unstructured
}

func (p *Policy) String() string { return p.Object.GetKind() + " " + p.Object.GetName() }

// Test is one document of a test file: the world in which its examples stand.
type Test struct {
	Place
	// Name is unique within the file: of several tests of one name the later ones
	// are numbered.
	Name string
	// Policies are those that the document names.
	Policies []*Policy
	// Exceptions are the PolicyExceptions that it names.
	Exceptions []*unstructured.Unstructured
	// User asks; nil: nobody is named, and the judge asks as an administrator.
	User *User
	// Namespaces are those of which it states labels.
	Namespaces map[string]map[string]string
	// Objects are what it expects to be in the cluster: clusterResources and the
	// sources of clones. Params are what policies take parameters from, Targets
	// what they change besides the trigger.
	Objects, Params, Targets []*unstructured.Unstructured
	// Resources are all objects that its examples are taken from.
	Resources []*unstructured.Unstructured
	// Unexercised are the parts of its policies that no example can exercise.
	Unexercised []Unexercised
	// Examples are its results, expanded to one for each object.
	Examples []*Example
	// Document is the test as its file has it, for those who hand it on; numbers
	// are json.Number.
	Document map[string]any
}

// Unexercised is a part of a policy that no example can exercise, as its test says.
type Unexercised struct {
	// Part names it as the report does, or begins so; Cause says why none can.
	Part, Cause string
}

// Names says whether a part of a policy, as the report names it, is the one.
func (u Unexercised) Names(part string) bool {
	rest, found := strings.CutPrefix(part, u.Part)
	return found && (rest == "" || rest[0] == ' ')
}

// User is who asks.
type User struct {
	Name   string
	Groups []string
	// Roles (NAMESPACE:NAME) and ClusterRoles are those that the test says the
	// user is bound to.
	Roles, ClusterRoles []string
	// Extra is what else is known of the user.
	Extra map[string][]string
}

// Example is one result of a test for one object.
type Example struct {
	// Place is that of the entry of «results».
	Place
	Test *Test
	// Index is that of the entry in «results», from 0.
	Index int
	// Policy is the one that the result names, and Rule its rule; empty: the
	// policy as a whole.
	Policy *Policy
	Rule   string
	// Object is the one that is judged, Operation CREATE, UPDATE, DELETE or
	// CONNECT. Of an UPDATE it is the old one as well, as for Kyverno's CLI.
	Object    *unstructured.Unstructured
	Operation string
	// Subresource is the one that the object is of (scale), and Parent the kind
	// that has it; empty: the object is one itself.
	Subresource string
	Parent      schema.GroupVersionKind
	// Expected is what the test file says.
	Expected Verdict
	// Message is a fragment of the refusal, or of what the evaluation fails with;
	// empty: any.
	Message string
	// Patched is what a mutating policy must make of the object, of a target of
	// the object's name or of the trigger; Generated what a generating one must
	// make; nil: not stated.
	Patched   *unstructured.Unstructured
	Generated []*unstructured.Unstructured
	// NotSupported says why no live server can be asked; empty: it can.
	NotSupported string
}

// ID names the example within its library; it never depends on the machine.
func (e *Example) ID() string {
	o := e.Object
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	return fmt.Sprintf("%s#%s results[%d] %s %s", e.Test.File, e.Test.Name, e.Index, o.GetKind(), name)
}

func (e *Example) String() string {
	rule := ""
	if e.Rule != "" {
		rule = "." + e.Rule
	}
	return fmt.Sprintf("%s %s %s by %s%s (%s)", e.Operation, e.Object.GetKind(), e.Object.GetName(), e.Policy.Object.GetName(), rule, e.Place)
}
