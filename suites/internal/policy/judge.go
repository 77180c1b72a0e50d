package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// workers is how many requests are under way at once: beyond that the API server
// and Kyverno answer no more of them in a second.
const workers = 8

// Verdict is what the API server said of a case.
type Verdict struct {
	Case
	// Answer is the refusal; nil when the example was admitted.
	Answer error
}

// Problem says how the answer differs from what the case expects; empty when it
// does not.
func (v Verdict) Problem() string { return v.Case.Problem(v.Answer) }

// UnknownKind says that the server does not know the example's kind, so that it
// says nothing of the policy.
func (v Verdict) UnknownKind() bool { return meta.IsNoMatchError(v.Answer) }

// JudgeInput says how Judge asks; all fields are required.
type JudgeInput struct {
	// Client stores the examples that are updated or deleted: an administrator's.
	Client client.Client
	// As returns a client that acts as somebody else.
	As func(user string, groups ...string) (client.Client, error)
	// Patience is for how long an example is asked for again whose answer is not
	// the expected one, Poll the time between: a policy is in force a moment after
	// it is there.
	Patience, Poll time.Duration
}

// Judge asks the API server for its verdict on each case, and returns them in the
// order of the cases. Cases whose object has to be stored share a namespace with
// whatever else stands there. What ends ctx is the answer of the cases that were
// not asked.
func Judge(ctx context.Context, in JudgeInput, cases []Case) []Verdict {
	verdicts := make([]Verdict, len(cases))
	open := make([]int, len(cases))
	for i, c := range cases {
		verdicts[i].Case = c
		open[i] = i
	}
	j := judge{in: in, clients: map[string]client.Client{}}
	patience := time.Now().Add(in.Patience)
	// The last attempt is made in full, so that it is the server's words that are
	// shown and not that time was up.
	err := wait.PollUntilContextCancel(ctx, in.Poll, true, func(ctx context.Context) (bool, error) {
		j.ask(ctx, verdicts, open)
		open = slices.DeleteFunc(open, func(i int) bool { return verdicts[i].Problem() == "" || verdicts[i].UnknownKind() })
		return len(open) == 0 || time.Now().After(patience), nil
	})
	for _, i := range open {
		if err != nil && verdicts[i].Answer == nil {
			verdicts[i].Answer = fmt.Errorf("not asked: %w", err)
		}
	}
	return verdicts
}

type judge struct {
	in      JudgeInput
	clients map[string]client.Client
}

// ask fills in the answers of the verdicts with these indices: of those for which
// nothing has to be there first, then of the others, one world after the other.
func (j *judge) ask(ctx context.Context, verdicts []Verdict, indices []int) {
	worlds := map[string][]int{"": nil}
	for _, i := range indices {
		key := verdicts[i].world()
		worlds[key] = append(worlds[key], i)
	}
	for _, key := range slices.Sorted(maps.Keys(worlds)) {
		indices := worlds[key]
		var undo []func(context.Context) error
		var err error
		if key != "" {
			undo, err = j.storeAll(ctx, verdicts[indices[0]].standing)
		}
		if err == nil {
			j.askIn(ctx, verdicts, indices)
		}
		slices.Reverse(undo)
		for _, remove := range undo {
			err = errors.Join(err, remove(context.WithoutCancel(ctx)))
		}
		if err != nil {
			for _, i := range indices {
				verdicts[i].Answer = err
			}
		}
	}
}

// storeAll makes objects; what it returns removes those that were made, also where
// it errs.
func (j *judge) storeAll(ctx context.Context, objects []*unstructured.Unstructured) (undo []func(context.Context) error, err error) {
	for _, object := range objects {
		remove, err := Store(ctx, j.in.Client, object)
		if err != nil {
			return undo, err
		}
		undo = append(undo, remove)
	}
	return undo, nil
}

// askIn fills in the answers of verdicts whose world stands.
func (j *judge) askIn(ctx context.Context, verdicts []Verdict, indices []int) {
	var group errgroup.Group
	group.SetLimit(workers)
	stored := map[string][]int{}
	var names []string
	for _, i := range indices {
		v := &verdicts[i]
		actor, err := j.as(v.Case)
		switch {
		case err != nil:
			v.Answer = err
		case v.Operation == Create:
			group.Go(func() error {
				v.Answer = Ask(ctx, actor, v.Case)
				return nil
			})
		default:
			// Two examples of one name cannot be there at the same time.
			name := v.Object.GroupVersionKind().GroupKind().String() + v.Object.GetNamespace() + "/" + v.Object.GetName()
			if stored[name] == nil {
				names = append(names, name)
			}
			stored[name] = append(stored[name], i)
		}
	}
	for _, name := range names {
		group.Go(func() error {
			j.askStored(ctx, verdicts, stored[name])
			return nil
		})
	}
	_ = group.Wait() // answers are no errors
}

// as returns the client of who asks; there are few of them, and each takes some
// time to make.
func (j *judge) as(c Case) (client.Client, error) {
	key := c.User + "\n" + strings.Join(c.Groups, "\n")
	if j.clients[key] == nil {
		made, err := j.in.As(c.User, c.Groups...)
		if err != nil {
			return nil, err
		}
		j.clients[key] = made
	}
	return j.clients[key], nil
}

// askStored asks for examples of one name, those that are the same object while it
// is stored once.
func (j *judge) askStored(ctx context.Context, verdicts []Verdict, indices []int) {
	for len(indices) > 0 {
		object := verdicts[indices[0]].Object
		var same, others []int
		for _, i := range indices {
			if equality.Semantic.DeepEqual(verdicts[i].Object, object) {
				same = append(same, i)
			} else {
				others = append(others, i)
			}
		}
		indices = others
		undo, err := Store(ctx, j.in.Client, object)
		for _, i := range same {
			v := &verdicts[i]
			if v.Answer = err; err == nil {
				actor, _ := j.as(v.Case) // it was made before
				v.Answer = Ask(ctx, actor, v.Case)
			}
		}
		if err != nil {
			continue
		}
		if err := undo(context.WithoutCancel(ctx)); err != nil {
			// What stands there now may change the next answers.
			for _, i := range same {
				verdicts[i].Answer = err
			}
		}
	}
}
