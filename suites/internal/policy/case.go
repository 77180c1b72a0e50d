// Package policy judges Kyverno policies by their ordinary test files
// (cli.kyverno.io/v1alpha1) against a live API server: it reads the files, sends
// each example as the identity that the file names, and tells what was refused,
// by whom and why.
package policy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// The operations of an example.
const (
	Create = "CREATE"
	Update = "UPDATE"
	Delete = "DELETE"
)

// Case is one example and the verdict that is expected of one policy.
type Case struct {
	// Test is where it stands: FILE, the test's name and the result's index.
	Test string
	// Policy is the policy's name.
	Policy string
	// Object is the example.
	Object *unstructured.Unstructured
	// Operation is Create, Update or Delete.
	Operation string
	// User and Groups are who asks.
	User   string
	Groups []string
	// Denied says that the policy must refuse, and Message with which words. Errs
	// says that it refuses because it cannot be evaluated: the words are not its own.
	Denied, Errs bool
	Message      string
	// Unmatched: the policy does not speak of the example; that it is admitted says
	// nothing of what the policy refuses.
	Unmatched bool
	// standing are objects that have to be in the cluster while it is asked.
	standing []*unstructured.Unstructured
	// namespaces are the labels that the example expects of namespaces.
	namespaces map[string]map[string]string
}

// world tells the cases apart for which something else has to stand in the cluster;
// empty: nothing has to.
func (c Case) world() string {
	var out strings.Builder
	for _, object := range c.standing {
		fmt.Fprintln(&out, object.Object)
	}
	return out.String()
}

// String names the case in messages.
func (c Case) String() string {
	return fmt.Sprintf("%s (%s of %s %s by %s)", c.Test, c.Operation, c.Object.GetKind(), c.Object.GetName(), c.Policy)
}

// LoadCases reads every test file below a folder; there may be none. It errs, with
// file and line, on what the tests' own reader finds wrong, and on an example of a
// policy that is there to refuse requests and that cannot be asked of a live
// server: one of nobody, a refusal without a message, an expectation other than
// pass, fail, error and skip. The other cases are returned all the same.
func LoadCases(dir string) ([]Case, error) {
	library, err := example.LoadTests(dir)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, f := range library.Findings {
		problems = append(problems, fmt.Errorf("read the policies' tests: %w", f))
	}
	var out []Case
	told := map[string]bool{}
	for _, e := range library.Examples() {
		if !Validates(e.Policy.Object) {
			continue
		}
		if problem := unasked(e); problem != "" {
			// One entry may hold many examples.
			err := example.Finding{Place: e.Place, Text: fmt.Sprintf("results[%d] of the test %q: %s", e.Index, e.Test.Name, problem)}
			if !told[err.Error()] {
				told[err.Error()] = true
				problems = append(problems, fmt.Errorf("read the policies' tests: %w", err))
			}
			continue
		}
		out = append(out, Case{
			Test:   fmt.Sprintf("%s %s results[%d]", e.File, e.Test.Name, e.Index),
			Policy: e.Policy.Object.GetName(), Object: e.Object, Operation: e.Operation,
			User: e.Test.User.Name, Groups: e.Test.User.Groups,
			Denied: refused(e), Errs: e.Expected == example.Error, Unmatched: e.Expected == example.Skip, Message: e.Message,
			standing: e.Test.Objects, namespaces: e.Test.Namespaces,
		})
	}
	return out, errors.Join(problems...)
}

// refused says that the example is to be refused: a policy that fails closed
// refuses what it cannot evaluate.
func refused(e *example.Example) bool {
	return e.Expected == example.Fail || e.Expected == example.Error
}

// unasked says why an example cannot be asked of a live platform, and how to mend
// it; empty: it can.
func unasked(e *example.Example) string {
	switch {
	case e.NotSupported != "":
		return e.NotSupported
	case e.Test.User == nil || e.Test.User.Name == "":
		return "nobody asks, and a live request is somebody's; name a userinfo file with a username"
	case refused(e) && e.Message == "":
		return fmt.Sprintf("it expects a refusal, and the annotation %s does not say with which words", example.MessageAnnotation)
	case !refused(e) && e.Expected != example.Pass && e.Expected != example.Skip:
		return fmt.Sprintf("the result %q is none that a live request shows; write pass, fail, error or skip", e.Expected)
	case e.Subresource != "":
		return fmt.Sprintf("it is the subresource %s, and only objects themselves are sent", e.Subresource)
	}
	return ""
}

// Translate rewrites an example, and what has to stand besides, for a cluster
// whose namespaces carry other labels than the example says: where the two differ
// in a value, the two values change places as label values, at the start of every
// text («dev-…» and «prd-…») and as a part of a host («a.dev.b»), since an example
// names itself and what it refers to.
func (c Case) Translate(live map[string]map[string]string) Case {
	pairs := map[string]string{}
	for namespace, labels := range c.namespaces {
		for key, value := range labels {
			if other, ok := live[namespace][key]; ok && other != value {
				pairs[value], pairs[other] = other, value
			}
		}
	}
	if len(pairs) == 0 {
		return c
	}
	c.Object = translated(c.Object, pairs)
	c.standing = slices.Clone(c.standing)
	for i, object := range c.standing {
		c.standing[i] = translated(object, pairs)
	}
	return c
}

func translated(object *unstructured.Unstructured, pairs map[string]string) *unstructured.Unstructured {
	object = object.DeepCopy()
	object.Object, _ = swap(object.Object, pairs).(map[string]any)
	labels := object.GetLabels()
	for key, value := range labels {
		if to, ok := pairs[value]; ok {
			labels[key] = to
		}
	}
	if len(labels) > 0 {
		object.SetLabels(labels)
	}
	return object
}

// host is what may be the name of a host, or of several.
var host = regexp.MustCompile(`^[a-z0-9*-]+([.][a-z0-9-]+)+$`)

// swap exchanges the beginnings of all texts of a value, and the parts of hosts, in
// place where it can.
func swap(value any, pairs map[string]string) any {
	switch v := value.(type) {
	case map[string]any:
		for key, field := range v {
			v[key] = swap(field, pairs)
		}
	case []any:
		for i, element := range v {
			v[i] = swap(element, pairs)
		}
	case string:
		for from, to := range pairs {
			if rest, ok := strings.CutPrefix(v, from+"-"); ok {
				return to + "-" + rest
			}
		}
		if !host.MatchString(v) {
			break
		}
		parts := strings.Split(v, ".")
		for i, part := range parts {
			if to, ok := pairs[part]; ok {
				parts[i] = to
			}
		}
		return strings.Join(parts, ".")
	}
	return value
}

// Ask sends the example as a dry-run, and returns the API server's refusal; nil
// when it was admitted. That the object is there already is no refusal: the
// server says so after admission.
func Ask(ctx context.Context, c client.Client, example Case) error {
	object := example.Object.DeepCopy()
	var err error
	switch example.Operation {
	case Update:
		// Controllers write a new object's status just then.
		err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			stored, sent := object.DeepCopy(), object.DeepCopy()
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), stored); err != nil {
				return err
			}
			sent.SetResourceVersion(stored.GetResourceVersion())
			return c.Update(ctx, sent, client.DryRunAll)
		})
	case Delete:
		err = c.Delete(ctx, object, client.DryRunAll)
	default:
		err = c.Create(ctx, object, client.DryRunAll)
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Refusal returns the words with which a policy refused, and false when the answer
// names no refusal by it. Of several refusals in one answer each has its own words.
func Refusal(answer error, policy string) (string, bool) {
	if answer == nil {
		return "", false
	}
	_, words, found := strings.Cut(answer.Error(), "Policy "+policy+" failed: ")
	words, _, _ = strings.Cut(words, "; Policy ")
	return words, found
}

// Problem says how the server's answer differs from what is expected; empty when
// it does not. A refusal counts only when it names the policy and its message.
func (c Case) Problem(answer error) string {
	denial := "Policy " + c.Policy + " failed: " + c.Message
	told := answer != nil && strings.Contains(answer.Error(), denial)
	if c.Errs {
		begin := "Policy " + c.Policy + " error: "
		denial = begin + "… " + c.Message
		if answer != nil {
			_, words, found := strings.Cut(answer.Error(), begin)
			told = found && strings.Contains(words, c.Message)
		}
	}
	switch {
	case !c.Denied && answer != nil:
		return "must be admitted, but: " + answer.Error()
	case c.Denied && answer == nil:
		return "must be refused, and was admitted"
	case c.Denied && !told:
		return fmt.Sprintf("must be refused with %q, but: %s", denial, answer)
	}
	return ""
}

// Store makes the object, as whoever c is, so that it can be updated or deleted,
// and returns what takes it away again and waits until it and what it owns are
// gone.
func Store(ctx context.Context, c client.Client, object *unstructured.Unstructured) (undo func(context.Context) error, err error) {
	stored := object.DeepCopy()
	// Many at once are counted by one quota, which the server gives up on in the end.
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { return c.Create(ctx, stored) })
	if err != nil {
		return nil, fmt.Errorf("store the example %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return func(ctx context.Context) error { return Remove(ctx, c, stored) }, nil
}

// Remove deletes an object and waits for a minute at most until it and what it owns are
// gone; one that is not there is no error.
func Remove(ctx context.Context, c client.Client, object *unstructured.Unstructured) error {
	if err := c.Delete(ctx, object, client.PropagationPolicy("Foreground")); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object.DeepCopy())
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("wait until %s %s is gone: %w", object.GetKind(), object.GetName(), err)
	}
	return nil
}
