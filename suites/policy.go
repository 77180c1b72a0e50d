package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy"
)

// Cases that store an object for an UPDATE or DELETE do so in the namespace that
// all tenants share, where other checks would see it: hence Serial.
var _ = perEnvironment(check.Check{
	ID:    "POL-001",
	Title: "every policy refuses its bad examples by name and message, and admits the good ones",
	Why: "a policy that is Ready may still refuse nothing, or everything; only a refusal that names " +
		"it proves that it is in force, and only an admitted twin that it refuses for its own reason",
	Remedy:    "read what the API server said of the example; mend the policy, or the example when the rule has changed",
	Reference: "https://kyverno.io/docs/policy-types/validating-policy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	expectSome(env.Policies, "the platform declares no policy of Kyverno: nothing but RBAC and Flux's own flags is between its tenants")
	cases, err := examples(env)
	Expect(err).NotTo(HaveOccurred())
	labels, err := namespaceLabels(ctx, env)
	Expect(err).NotTo(HaveOccurred())
	bad, good := map[string]bool{}, map[string]bool{}
	for i, c := range cases {
		cases[i] = c.Translate(labels)
		if c.Denied {
			bad[c.Policy] = true
		} else {
			good[c.Policy] = true
		}
	}
	problems := judgeCases(ctx, env, cases)
	for _, p := range env.Policies {
		if !bad[p.GetName()] || !good[p.GetName()] {
			problems = append(problems, fmt.Sprintf("%s, declared at %s, needs a bad and a good example: it has bad %t, good %t",
				p, p.Origin, bad[p.GetName()], good[p.GetName()]))
		}
	}
	sort.Strings(problems)
	expectNone(problems, "what the policies' examples show")
}, Serial)

// examples reads those that lie in the repositories of the policies.
func examples(env *environment) ([]policy.Case, error) {
	var folders []string
	for _, p := range env.Policies {
		folders = append(folders, p.Origin.Folder)
	}
	slices.Sort(folders)
	var out []policy.Case
	for _, folder := range slices.Compact(folders) {
		found, err := policy.LoadCases(folder)
		if err != nil && !errors.Is(err, policy.ErrNoCases) {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
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

// judgeCases asks the API server for the verdict on each example, and again for
// those that are not as expected while a policy may not be in force yet. It says
// how they differ.
func judgeCases(ctx context.Context, env *environment, cases []policy.Case) []string {
	var problems []string
	patience := time.Now().Add(current.timeouts.Effective)
	// The last attempt is made in full, so that it is the server's words that are
	// shown and not that time was up.
	_ = wait.PollUntilContextCancel(ctx, current.timeouts.Poll, true, func(ctx context.Context) (bool, error) {
		problems = nil
		var again []policy.Case
		for _, c := range cases {
			if problem := judgeCase(ctx, env, c); problem != "" {
				problems = append(problems, fmt.Sprintf("%s: %s", c, problem))
				again = append(again, c)
			}
		}
		cases = again
		return len(again) == 0 || time.Now().After(patience), nil
	})
	return problems
}

// judgeCase asks once; the answer is empty when it is as expected.
func judgeCase(ctx context.Context, env *environment, c policy.Case) string {
	actor, err := env.as(c.User, c.Groups...)
	if err != nil {
		return err.Error()
	}
	if c.Operation != policy.Create {
		undo, err := policy.Store(ctx, env.client, c.Object)
		if err != nil {
			return err.Error()
		}
		defer func() {
			if err := undo(context.WithoutCancel(ctx)); err != nil {
				AddReportEntry("clean-up", err.Error())
			}
		}()
	}
	return c.Problem(policy.Ask(ctx, actor, c))
}

var _ = perEnvironment(check.Check{
	ID:    "POL-002",
	Title: "every policy denies, fails closed, and its webhook asks for all that the policy speaks of",
	Why: "a policy in Audit writes down what it is there to stop, one that ignores failures stops " +
		"nothing while Kyverno is away, and a webhook that leaves out an operation never asks it",
	Remedy:    "set validationActions: [Deny] and failurePolicy: Fail; see who else writes the webhook configuration",
	Reference: "https://kyverno.io/docs/policy-types/validating-policy/",
	Level:     check.Core,
}, func(ctx SpecContext, env *environment) {
	expectSome(env.Policies, "the platform declares no policy of Kyverno: nothing but RBAC and Flux's own flags is between its tenants")
	configurations := &admissionv1.ValidatingWebhookConfigurationList{}
	Expect(env.client.List(ctx, configurations)).To(Succeed())
	var problems []string
	for _, declared := range env.Policies {
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(declared.GroupVersionKind())
		if err := env.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), live); err != nil {
			// What it would let through if it were there is a finding of its own.
			found := append([]string{"not in the cluster: " + err.Error()}, lenient(declared.Unstructured)...)
			problems = append(problems, fmt.Sprintf("%s, declared at %s: %s", declared, declared.Origin, strings.Join(found, "; ")))
			continue
		}
		for _, problem := range append(lenient(live), unasked(declared, configurations.Items)...) {
			problems = append(problems, fmt.Sprintf("%s: %s", declared, problem))
		}
	}
	sort.Strings(problems)
	expectNone(problems, "policies that do not hold")
})

// lenient says in what way a policy itself lets things through.
func lenient(object *unstructured.Unstructured) []string {
	switch kind := object.GroupVersionKind(); {
	case kind.Kind == "ValidatingPolicy":
		var out []string
		actions, _, _ := unstructured.NestedStringSlice(object.Object, "spec", "validationActions")
		if !slices.Equal(actions, []string{"Deny"}) {
			out = append(out, fmt.Sprintf("validationActions is %v, not [Deny]", actions))
		}
		if failure, _, _ := unstructured.NestedString(object.Object, "spec", "failurePolicy"); failure != "Fail" && failure != "" {
			out = append(out, fmt.Sprintf("failurePolicy is %q, not Fail", failure))
		}
		return out
	case kind.Group == "kyverno.io" && (kind.Kind == "ClusterPolicy" || kind.Kind == "Policy"):
		return lenientRules(object)
	}
	return nil // the kinds that validate otherwise, or do not, are not judged here
}

// lenientRules is lenient for policies of the older kinds: each rule may have an
// action of its own, and without any it audits.
func lenientRules(object *unstructured.Unstructured) []string {
	var out []string
	for _, path := range [][]string{{"failurePolicy"}, {"webhookConfiguration", "failurePolicy"}} {
		if failure, _, _ := unstructured.NestedString(object.Object, append([]string{"spec"}, path...)...); failure != "Fail" && failure != "" {
			out = append(out, fmt.Sprintf("failurePolicy is %q, not Fail", failure))
		}
	}
	common, _, _ := unstructured.NestedString(object.Object, "spec", "validationFailureAction")
	rules, _, _ := unstructured.NestedSlice(object.Object, "spec", "rules")
	for _, entry := range rules {
		rule, _ := entry.(map[string]any)
		var judging []map[string]any // what of the rule refuses
		if validate, ok := rule["validate"].(map[string]any); ok {
			judging = append(judging, validate)
		}
		images, _ := rule["verifyImages"].([]any)
		for _, image := range images {
			fields, _ := image.(map[string]any)
			judging = append(judging, fields)
		}
		for _, fields := range judging {
			own, _ := fields["failureAction"].(string)
			if action := cmp.Or(own, common, "Audit"); !strings.EqualFold(action, "Enforce") {
				out = append(out, fmt.Sprintf("rule %v has the action %s, not Enforce: it writes down what it is there to refuse", rule["name"], action))
			}
		}
	}
	return out
}

// unasked says what the policy speaks of and no webhook asks it about, and which
// of its webhooks does not fail closed.
func unasked(declared platform.Object, configurations []admissionv1.ValidatingWebhookConfiguration) []string {
	if declared.GetKind() != "ValidatingPolicy" {
		return nil // the older kinds share webhooks that name none of them
	}
	var out []string
	var hooks []admissionv1.ValidatingWebhook
	for _, configuration := range configurations {
		for _, hook := range configuration.Webhooks {
			if policy.Asks(hook.Name, declared.GetName()) {
				hooks = append(hooks, hook)
			}
		}
	}
	if len(hooks) == 0 {
		return append(out, "no webhook asks it")
	}
	for _, hook := range hooks {
		if hook.FailurePolicy == nil || *hook.FailurePolicy != admissionv1.Fail {
			out = append(out, fmt.Sprintf("the webhook %s does not fail closed", hook.Name))
		}
	}
	rules, _, _ := unstructured.NestedSlice(declared.Object, "spec", "matchConstraints", "resourceRules")
	for i, entry := range rules {
		rule, _ := entry.(map[string]any)
		for _, operation := range texts(rule, "operations") {
			for _, resource := range texts(rule, "resources") {
				for _, group := range texts(rule, "apiGroups") {
					if !slices.ContainsFunc(hooks, func(h admissionv1.ValidatingWebhook) bool { return covers(h, group, resource, operation) }) {
						out = append(out, fmt.Sprintf("resourceRules[%d]: no webhook asks on %s of %s.%s", i, operation, resource, group))
					}
				}
			}
		}
	}
	return out
}

func texts(fields map[string]any, name string) []string {
	out, _, _ := unstructured.NestedStringSlice(fields, name)
	return out
}

func covers(hook admissionv1.ValidatingWebhook, group, resource, operation string) bool {
	has := func(list []string, value string) bool {
		return slices.Contains(list, value) || slices.Contains(list, "*")
	}
	return slices.ContainsFunc(hook.Rules, func(rule admissionv1.RuleWithOperations) bool {
		operations := make([]string, 0, len(rule.Operations))
		for _, o := range rule.Operations {
			operations = append(operations, string(o))
		}
		resources := slices.Contains(rule.Resources, "*/*") || has(rule.Resources, resource) || has(rule.Resources, strings.Split(resource, "/")[0]+"/*")
		return has(rule.APIGroups, group) && resources && has(operations, operation)
	})
}
