package suites

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy"
)

// Cases that store an object for an UPDATE or DELETE do so in the namespace that
// all tenants share, where other checks would see it: hence Serial, wherever the
// examples are judged.
var _ = perEnvironment(check.Check{
	ID:    "POL-001",
	Title: "every policy refuses its bad examples by name and message, and admits the good ones",
	Why: "a policy that is Ready may still refuse nothing, or everything; only a refusal that names " +
		"it proves that it is in force, and only an admitted twin that it refuses for its own reason",
	Remedy:    "read what the API server said of the example; mend the policy, or the example when the rule has changed",
	Reference: "https://kyverno.io/docs/policy-types/validating-policy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	policies := validating(env)
	expectSome(policies, "the platform declares no policy of Kyverno that refuses anything: nothing but RBAC and Flux's own flags is between its tenants")
	verdicts, problems, err := env.examples.judge(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	bad, good := map[string]bool{}, map[string]bool{}
	for _, v := range verdicts {
		if problem := v.Problem(); problem != "" {
			problems = append(problems, fmt.Sprintf("%s: %s", v.Case, problem))
		}
		switch {
		case v.Denied:
			bad[v.Policy] = true
		case !v.Unmatched:
			good[v.Policy] = true
		}
	}
	for _, p := range policies {
		if !bad[p.GetName()] || !good[p.GetName()] {
			problems = append(problems, fmt.Sprintf("%s, declared at %s, needs a bad and a good example: it has bad %t, good %t",
				p, p.Origin, bad[p.GetName()], good[p.GetName()]))
		}
	}
	sort.Strings(problems)
	expectNone(problems, "what the policies' examples show")
}, Serial)

// noteOthers names the policies that refuse nothing: no request shows here that
// they are in force.
func noteOthers(env *environment) {
	for _, p := range env.Policies {
		switch {
		case policy.Validates(p.Unstructured):
		case policy.Changes(p.Unstructured):
			note(fmt.Sprintf("of %s it is seen that it fails closed, not what it does: it changes objects, and refuses none; its examples are for the command `policies`", p))
		default:
			note(fmt.Sprintf("%s is not judged: it makes objects, and refuses none; its examples are for the command `policies`", p))
		}
	}
}

// validating are the environment's policies that are there to refuse requests.
func validating(env *environment) []platform.Object {
	return slices.DeleteFunc(slices.Clone(env.Policies), func(p platform.Object) bool { return !policy.Validates(p.Unstructured) })
}

// examples are the verdicts on the examples of an environment's policies: asked for
// once in a run, for all checks that read them.
type examples struct {
	mu       sync.Mutex
	judged   bool
	verdicts []policy.Verdict
	problems []string
}

// judge returns the verdicts, and what is wrong with the files that hold the
// examples.
func (e *examples) judge(ctx context.Context, env *environment) ([]policy.Verdict, []string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.judged {
		return e.verdicts, slices.Clone(e.problems), nil
	}
	labels, err := namespaceLabels(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	cases, problems := casesOf(env)
	for i, c := range cases {
		cases[i] = c.Translate(labels)
	}
	verdicts := policy.Judge(ctx, policy.JudgeInput{
		Client: env.client, As: env.as, Patience: current.timeouts.Effective, Poll: current.timeouts.Poll,
	}, cases)
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("judge the policies' examples: %w", err)
	}
	unknown := map[string]int{}
	for _, v := range verdicts {
		if v.UnknownKind() {
			unknown[v.Object.GetKind()+" by "+v.Policy]++
		}
	}
	for _, what := range sortedKeys(unknown) {
		note(fmt.Sprintf("examples that were not judged, since the server does not know the kind: %d of %s", unknown[what], what))
	}
	verdicts = slices.DeleteFunc(verdicts, policy.Verdict.UnknownKind)
	e.verdicts, e.problems, e.judged = verdicts, problems, true
	return verdicts, slices.Clone(problems), nil
}

// casesOf reads the examples from the repositories that the environment's policies
// come from; what is there of policies that the environment does not have is none
// of its business.
func casesOf(env *environment) (cases []policy.Case, problems []string) {
	var folders, names []string
	for _, p := range validating(env) {
		names = append(names, p.GetName())
		if !slices.Contains(folders, p.Origin.Folder) && p.Origin.Folder != "" {
			folders = append(folders, p.Origin.Folder)
		}
	}
	for _, folder := range folders {
		found, err := policy.LoadCases(folder)
		if err != nil {
			problems = append(problems, strings.Split(err.Error(), "\n")...)
		}
		cases = append(cases, found...)
	}
	return slices.DeleteFunc(cases, func(c policy.Case) bool { return !slices.Contains(names, c.Policy) }), problems
}

// namespaceLabels reads the labels of all namespaces: examples are written for
// those of one environment.
func namespaceLabels(ctx context.Context, env *environment) (map[string]map[string]string, error) {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("v1")
	list.SetKind("NamespaceList")
	if err := env.client.List(ctx, list); err != nil {
		return nil, fmt.Errorf("read the namespaces' labels: %w", err)
	}
	out := map[string]map[string]string{}
	for _, item := range list.Items {
		out[item.GetName()] = item.GetLabels()
	}
	return out, nil
}

var _ = perEnvironment(check.Check{
	ID:    "POL-002",
	Title: "every policy denies, fails closed, and its webhook asks for all that the policy speaks of",
	Why: "a policy in Audit writes down what it is there to stop, one that ignores failures stops " +
		"and changes nothing while Kyverno is away, and a webhook that leaves out an operation never asks it",
	Remedy: "set validationActions: [Deny] (failureAction: Enforce on a rule of a ClusterPolicy) and failurePolicy: Fail; " +
		"see who else writes the webhook configuration",
	Reference: "https://kyverno.io/docs/policy-types/validating-policy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	noteOthers(env)
	policies := validating(env)
	expectSome(policies, "the platform declares no policy of Kyverno that refuses anything: nothing but RBAC and Flux's own flags is between its tenants")
	validatingHooks, mutatingHooks := &admissionv1.ValidatingWebhookConfigurationList{}, &admissionv1.MutatingWebhookConfigurationList{}
	Expect(env.client.List(ctx, validatingHooks)).To(Succeed())
	Expect(env.client.List(ctx, mutatingHooks)).To(Succeed())
	webhooks := policy.Webhooks(validatingHooks.Items, mutatingHooks.Items)
	for _, p := range env.Policies {
		if policy.Changes(p.Unstructured) && !policy.Validates(p.Unstructured) {
			policies = append(policies, p)
		}
	}
	var problems []string
	for _, declared := range policies {
		live, err := env.live(ctx, declared)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s, declared at %s, is not in the cluster: %s", declared, declared.Origin, err))
			live = nil
		}
		for _, problem := range policy.Open(declared.Unstructured, live, webhooks) {
			problems = append(problems, fmt.Sprintf("%s, declared at %s: %s", declared, declared.Origin, problem))
		}
	}
	sort.Strings(problems)
	expectNone(problems, "policies that do not hold")
})

var _ = perEnvironment(check.Check{
	ID:    "POL-003",
	Title: "every validation expression of a policy refuses an example of its own, and admits one that differs in one field",
	Why: "the first expression that is not satisfied ends a judgement, so a policy that refuses all of its " +
		"examples may hold expressions that have never refused anything",
	Remedy: "add an example that this expression alone refuses, and beside it a good one that differs in one field; " +
		"give each expression a message that no other of the policy has",
	Reference: "https://kyverno.io/docs/policy-types/validating-policy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	policies := slices.DeleteFunc(validating(env), func(p platform.Object) bool { return len(policy.Expressions(p.Unstructured)) == 0 })
	if len(policies) == 0 {
		Skip(notSupported + "the platform declares no policy with validation expressions (spec.validations)")
	}
	verdicts, problems, err := env.examples.judge(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	for _, p := range policies {
		for _, problem := range policy.Unexercised(p.Unstructured, verdicts) {
			problems = append(problems, fmt.Sprintf("%s, declared at %s: %s", p, p.Origin, problem))
		}
	}
	sort.Strings(problems)
	expectNone(problems, "expressions that no example proves")
}, Serial)
