// Package live asks a live API server with the real Kyverno what policies say of
// examples. It never installs a policy as it stands for that: it installs copies
// under names of its own, each of which answers only requests that name it, and
// always answers something when it is asked: the index of the validation that
// refuses, or that none does. So one request speaks of many policies, no policy
// disturbs another's examples, and silence means that the policy does not match.
package live

import (
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
)

// subject is what a copy is made of.
type subject struct {
	policy *example.Policy
	// exceptions are those that hold for it.
	exceptions []*unstructured.Unstructured
	aspect     Aspect
	// name is that of the copy, unique and short; generation changes with each
	// change of what it is made of, and stands in what it answers to a canary.
	name, generation string
}

// said is one thing that a copy said.
type said struct {
	copy   string
	answer Answer
	// index is that of the validation or rule; words are what an error says.
	index int
	words string
	// canary: it is the answer to a canary, of this generation.
	canary     bool
	generation string
}

// form makes copies of one family of policies and reads what they say.
type form interface {
	// judges says whether the family is this one.
	judges(policy *unstructured.Unstructured) bool
	// copies are the objects to install for a subject.
	copies(s subject) ([]*unstructured.Unstructured, error)
	// read understands one warning of the server's; false: it is none of this
	// family's.
	read(warning string) ([]said, bool)
}
