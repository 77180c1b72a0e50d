// Package policy judges Kyverno policies by their ordinary test files
// (cli.kyverno.io/v1alpha1) against a live API server: it reads the files, sends
// each example as the identity that the file names, and tells what was refused,
// by whom and why.
package policy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// TestFile is the name of a test file, as «kyverno test» looks for it.
const TestFile = "kyverno-test.yaml"

// MessageAnnotation of a test says which fragment the refusal must contain.
const MessageAnnotation = "conformance.flux-platform/message"

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
	// Denied says that the policy must refuse, and Message with which words.
	Denied  bool
	Message string
	// namespaces are the labels that the example expects of namespaces.
	namespaces map[string]map[string]string
}

// String names the case in messages.
func (c Case) String() string {
	return fmt.Sprintf("%s (%s of %s %s by %s)", c.Test, c.Operation, c.Object.GetKind(), c.Object.GetName(), c.Policy)
}

// testFile is what is read of a test file; what else it may hold is refused, so
// that nothing is passed over in silence.
type testFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Policies  []string `json:"policies"`
	Resources []string `json:"resources"`
	UserInfo  string   `json:"userinfo"`
	Values    struct {
		Namespaces []struct {
			Metadata struct {
				Name   string            `json:"name"`
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
		} `json:"namespaces"`
	} `json:"values"`
	Results []result `json:"results"`
}

type result struct {
	Policy             string   `json:"policy"`
	IsValidatingPolicy bool     `json:"isValidatingPolicy"`
	Kind               string   `json:"kind"`
	Resources          []string `json:"resources"`
	Operation          string   `json:"operation"`
	Result             string   `json:"result"`
}

type userInfo struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	UserInfo struct {
		Username string   `json:"username"`
		Groups   []string `json:"groups"`
	} `json:"userInfo"`
}

// LoadCases reads every test file below a folder; there may be none. It errs, with
// the file, on what does not parse, a key or a result that it does not know, a
// policy that no policy file holds, an object that no resource file holds, and a
// refusal without a message. The cases of the other files are returned all the
// same.
func LoadCases(dir string) ([]Case, error) {
	var out []Case
	var problems []error
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() != TestFile {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		found, err := loadFile(name)
		if err != nil {
			problems = append(problems, fmt.Errorf("read the policies' tests: %s: %w", filepath.ToSlash(relative), err))
		}
		for i := range found {
			found[i].Test = filepath.ToSlash(relative) + found[i].Test
		}
		out = append(out, found...)
		return nil
	})
	if err != nil {
		problems = append(problems, fmt.Errorf("read the policies' tests: %w", err))
	}
	return out, errors.Join(problems...)
}

func loadFile(name string) ([]Case, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var out []Case
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for index := 1; ; index++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", index, err)
		}
		var file testFile
		if err := yaml.UnmarshalStrict(document, &file); err != nil {
			return nil, fmt.Errorf("document %d: %w", index, err)
		}
		cases, err := file.cases(filepath.Dir(name))
		if err != nil {
			return nil, fmt.Errorf("document %d, test %q: %w", index, file.Metadata.Name, err)
		}
		out = append(out, cases...)
	}
}

// cases expands the results of one test.
func (f testFile) cases(dir string) ([]Case, error) {
	if f.Kind != "Test" || !strings.HasPrefix(f.APIVersion, "cli.kyverno.io/") {
		return nil, fmt.Errorf("it is a %s of %s, not a Test of cli.kyverno.io", f.Kind, f.APIVersion)
	}
	who, err := readUser(dir, f.UserInfo)
	if err != nil {
		return nil, err
	}
	objects, err := readObjects(dir, f.Resources)
	if err != nil {
		return nil, fmt.Errorf("read a resource: %w", err)
	}
	policies, err := readObjects(dir, f.Policies)
	if err != nil {
		return nil, fmt.Errorf("read a policy: %w", err)
	}
	namespaces := map[string]map[string]string{}
	for _, n := range f.Values.Namespaces {
		namespaces[n.Metadata.Name] = n.Metadata.Labels
	}
	var out []Case
	for i, r := range f.Results {
		c := Case{
			Test: fmt.Sprintf(" %s results[%d]", f.Metadata.Name, i), Policy: r.Policy, Operation: r.Operation,
			User: who.UserInfo.Username, Groups: who.UserInfo.Groups, namespaces: namespaces,
		}
		if c.Operation == "" {
			c.Operation = Create
		}
		switch r.Result {
		// What a policy does not ask about is admitted like what satisfies it.
		case "pass", "skip":
		case "fail":
			c.Denied, c.Message = true, f.Metadata.Annotations[MessageAnnotation]
			if c.Message == "" {
				return nil, fmt.Errorf("results[%d] expects a refusal, and the annotation %s does not say with which words", i, MessageAnnotation)
			}
		default:
			return nil, fmt.Errorf("results[%d]: the result %q is none of pass, fail, skip", i, r.Result)
		}
		if !slices.Contains([]string{Create, Update, Delete}, c.Operation) {
			return nil, fmt.Errorf("results[%d]: the operation %q is not one of CREATE, UPDATE, DELETE", i, c.Operation)
		}
		switch {
		case r.Policy == "":
			return nil, fmt.Errorf("results[%d] names no policy", i)
		case len(r.Resources) == 0:
			return nil, fmt.Errorf("results[%d] names no resource: it would show nothing", i)
		case !slices.ContainsFunc(policies, func(p *unstructured.Unstructured) bool { return p.GetName() == r.Policy }):
			return nil, fmt.Errorf("results[%d]: no policy file holds the policy %q", i, r.Policy)
		}
		for _, name := range r.Resources {
			at := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == r.Kind && o.GetName() == name })
			if at < 0 {
				return nil, fmt.Errorf("results[%d]: no resource file holds the %s %q", i, r.Kind, name)
			}
			c.Object = objects[at]
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it has no result")
	}
	return out, nil
}

func readUser(dir, name string) (userInfo, error) {
	var who userInfo
	if name == "" {
		return who, errors.New("it names no userinfo: a live request is somebody's")
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return who, fmt.Errorf("read the userinfo: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &who); err != nil {
		return who, fmt.Errorf("parse %s: %w", name, err)
	}
	if who.UserInfo.Username == "" {
		return who, fmt.Errorf("%s names no user", name)
	}
	return who, nil
}

func readObjects(dir string, files []string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
		for {
			object := &unstructured.Unstructured{}
			err := decoder.Decode(object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("parse %s: %w", name, err)
			}
			if len(object.Object) > 0 {
				out = append(out, object)
			}
		}
	}
	return out, nil
}

// Translate rewrites an example for a cluster whose namespaces carry other
// labels than the example says: where the two differ in a value, the two values
// change places as label values and at the start of every text («dev-…» and
// «prd-…»), since an example names itself and what it refers to.
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
	c.Object = c.Object.DeepCopy()
	c.Object.Object, _ = swap(c.Object.Object, pairs).(map[string]any)
	labels := c.Object.GetLabels()
	for key, value := range labels {
		if to, ok := pairs[value]; ok {
			labels[key] = to
		}
	}
	if len(labels) > 0 {
		c.Object.SetLabels(labels)
	}
	return c
}

// swap exchanges the beginnings of all texts of a value, in place where it can.
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
		stored := object.DeepCopy()
		if err = c.Get(ctx, client.ObjectKeyFromObject(object), stored); err == nil {
			object.SetResourceVersion(stored.GetResourceVersion())
			err = c.Update(ctx, object, client.DryRunAll)
		}
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
	denial := "Policy " + c.Policy + " failed: "
	switch {
	case !c.Denied && answer != nil:
		return "must be admitted, but: " + answer.Error()
	case c.Denied && answer == nil:
		return "must be refused, and was admitted"
	case c.Denied && !strings.Contains(answer.Error(), denial+c.Message):
		return fmt.Sprintf("must be refused with %q, but: %s", denial+c.Message, answer)
	}
	return ""
}

// Store makes the object, as whoever c is, so that it can be updated or deleted,
// and returns what takes it away again and waits until it and what it owns are
// gone.
func Store(ctx context.Context, c client.Client, object *unstructured.Unstructured) (undo func(context.Context) error, err error) {
	stored := object.DeepCopy()
	if err := c.Create(ctx, stored); err != nil {
		return nil, fmt.Errorf("store the example %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return func(ctx context.Context) error {
		if err := c.Delete(ctx, stored, client.PropagationPolicy("Foreground")); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("remove the example %s %s: %w", object.GetKind(), object.GetName(), err)
		}
		return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			err := c.Get(ctx, client.ObjectKeyFromObject(stored), stored.DeepCopy())
			return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
		})
	}, nil
}
