// Package live asks a live API server with the real Kyverno what policies say of
// examples. It never installs a policy as it stands for that: it installs copies
// under names of its own, each of which answers only requests that name it, and
// always answers something when it is asked: the index of the validation that
// refuses, or that none does. So one request speaks of many policies, no policy
// disturbs another's examples, and silence means that the policy does not match.
package live

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// Verdict is what the server said of one example.
type Verdict struct {
	Example *example.Example
	// Verdict is pass, fail, skip or error as the server has it, or Unknown,
	// Invalid or NotSupported.
	Verdict example.Verdict
	// Refused are the indexes of what refused: validations of a policy of the CEL
	// types, rules of a legacy one.
	Refused []int
	// Words are the policy's own for the refusal, as far as they are known.
	Words []string
	// Reason says why there is no verdict, in the server's words where it has any;
	// for a mutation or generation that is not the expected one, the diff.
	Reason string
	// Sent says what was sent as whom.
	Sent string
	// Notes are what a reader has to know, such as fields that the server dropped.
	Notes []string
	// Seconds is how long the last request took.
	Seconds float64
}

// PolicyState is what became of a policy.
type PolicyState struct {
	Policy *example.Policy
	// Effective is how long after its creation a canary of its generation was
	// answered, in seconds; negative: never, and Problem says what was seen.
	Effective float64
	// Problem says why the policy could not be judged: it does not compile, or is
	// never in force.
	Problem string
	// Audits: as written it refuses nothing; it was judged as if it did.
	Audits bool
	// Denial is the answer with which the policy as written refused an example
	// alone; empty where none was refused. DenialProblem says what went wrong
	// with an enforcing one.
	Denial, DenialProblem string
}

// Kind is one for which the session made a CustomResourceDefinition.
type Kind struct {
	APIVersion, Kind, Plural string
	Namespaced               bool
}

// Stats are what a judgement cost.
type Stats struct {
	Requests, Retries int
	// Installed counts the objects that were created or changed beforehand.
	Installed int
	// Preparing is until every policy was effective, Asking until all was answered.
	Preparing, Asking time.Duration
	// P50 and P99 are of the requests' times; Workers is how many were under way
	// at once at most.
	P50, P99 time.Duration
	Workers  int
}

// Judgement is what was found of a library, verdicts in the order of its
// examples.
type Judgement struct {
	Verdicts []Verdict
	Policies []PolicyState
	// Kinds did not exist on the server and were made for the session.
	Kinds []Kind
	Stats Stats
}

// Aspect is the part of a policy that a copy is made of.
type Aspect struct {
	// Whole: everything that the policy says. Otherwise the fields below name a
	// part, each -1 where it does not.
	Whole bool
	// Validation alone, with all constraints and conditions.
	Validation int
	// Condition alone decides, with all constraints; a refusal means that it holds.
	Condition int
	// Constraint: only this one of the resource rules, and no condition; a refusal
	// means that it matches.
	Constraint int
}

// Answer is what one copy says of one request.
type Answer int

// What a copy can answer.
const (
	// Silent: the copy does not match.
	Silent Answer = iota
	// Satisfied: it matches, and nothing refuses.
	Satisfied
	// Refusing: something refuses.
	Refusing
	// Failing: the evaluation itself errs.
	Failing
	// Unanswered: nothing is known, and Reply.Words says why.
	Unanswered
)

// Reply is what one copy said of one request.
type Reply struct {
	Answer Answer
	// Indexes are those of the validations or rules that refuse.
	Indexes []int
	// Words are the server's for an evaluation that errs, or say why there is no
	// answer.
	Words string
}

// subject is what a copy is made of.
type subject struct {
	policy *example.Policy
	// exceptions are those that hold for it, params the objects that it may take
	// parameters from.
	exceptions, params []*unstructured.Unstructured
	aspect             Aspect
	// unserved are the kinds that its rules name and that the server does not know,
	// so that nothing can be of them.
	unserved []string
	// podsOnly: nothing but Pods is asked about, so nothing is lost where Kyverno
	// derives no rules for what makes them.
	podsOnly bool
	// asked are the names of all objects that it is asked about, in order; none: it may
	// be asked about any.
	asked []string
	// updates: it is asked about updates, where a legacy policy lets violations be
	// that the old object has already.
	updates bool
	// name is that of the copy: unique, short, and made of all that the copy is
	// made of. A changed policy has a copy of another name, so whatever answers to
	// a name answers for what the policy says now, and what the webhooks list under
	// that name are its rules of now.
	name string
}

// installation is what makes a copy.
type installation struct {
	// objects in the order of their creation; what is equal in several
	// installations is made once.
	objects []*unstructured.Unstructured
	// canary is an object whose creation, in a dry run, the copy answers whatever
	// its conditions say. Where it stands in a namespace, labels are those that the
	// namespace needs.
	canary *unstructured.Unstructured
	labels map[string]string
	// also are labels that what the canary changes needs.
	also map[string]string
	// anchor is made once on a server, and stays there.
	anchor []*unstructured.Unstructured
	// compile is what the server must accept, in a dry run, for the expressions of
	// the policy to compile, where nobody would say that they do not.
	compile []*unstructured.Unstructured
	// problem says why the copy can match nothing at all, so that no canary can
	// show it to be effective.
	problem string
	// unheard says why Kyverno is not asked where the canary would have to stand.
	unheard string
}

// said is one thing that a copy said.
type said struct {
	copy   string
	answer Answer
	// index is that of the validation or rule; words are what an error says.
	index int
	words string
	// canary: it is the answer to a canary.
	canary bool
	// rule and derived are a family's own.
	rule, derived string
}

// form makes copies of one family of policies and reads what they say. The bench
// installs them, awaits their canaries, asks them of examples, many in one
// request, and removes them.
type form interface {
	// judges says whether the family is this one.
	judges(policy *unstructured.Unstructured) bool
	// install says what makes the copy of a subject. Each copy answers only
	// requests whose user has the extra «fpc-ask» with the copy's name.
	install(s subject) (installation, error)
	// read understands one warning of the server's; false: it is none of this
	// family's.
	read(warning string) (said, bool)
	// reason says why an example of such a policy is none for copies, so that a
	// judge is asked, if there is one; empty: it is for copies.
	reason(e *example.Example) string
	// settle makes one reply of all that a copy said of an example; nothing at all
	// is said by a copy that does not match.
	settle(e *example.Example, all []said) Reply
	// audits says whether the policy as written refuses nothing.
	audits(policy *example.Policy) bool
	// written are the objects of the policy as it stands, which answers only
	// requests that name the subject's copy, under its own name, with its own
	// words. No object at all: its denial cannot be shown, and the text says why.
	written(s subject) (objects []*unstructured.Unstructured, why string, err error)
	// refused says whether a refusal is the policy's own, and with which words.
	refused(policy *unstructured.Unstructured, refusal string) (words string, ok bool)
	// words are the policy's own for what an index names.
	words(policy *unstructured.Unstructured, index int) string
}

// judge judges policies whose examples cannot be told from warnings, such as those
// that change or make objects. It is asked once, for all its policies, while
// nothing else is under way; it uses the bench's world and send, and removes what
// it installs.
type judge interface {
	// judges says whether it is for this policy.
	judges(policy *unstructured.Unstructured) bool
	// judge fills in the verdicts and the states. An error ends the whole judgement:
	// what concerns one example or one policy stands in its verdict or in its state.
	judge(ctx context.Context, b *Bench, tasks []task) error
}

// task is a policy for a judge, with all examples that are none for copies, whose
// verdicts name them already.
type task struct {
	state    *PolicyState
	verdicts []*Verdict
}

// forms and judges are all that there are. A policy that none of them is for is
// NOT_SUPPORTED.
var (
	forms  = []form{celForm{}, legacyForm{}, admissionForm{}}
	judges = []judge{changes{}}
)
