// Package offline asks Kyverno's CLI what policies say of examples: the verdict of
// «kyverno test» for each example of a library, whatever its test expects.
//
// The CLI prints rows that name neither the test nor the entry they are of, in no
// order. So it is given the same tests with one entry for each example, whose
// policy bears a namespace that is the example's number: the CLI prints it, and
// does not look at it when it looks for the policy.
package offline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// Verdict is what the CLI said of one example.
type Verdict struct {
	Example *example.Example
	// Verdict is what the policy said, Unknown, or NotSupported where the CLI crashes.
	// Of a mutation or generation it is Fail where the outcome is not the expected one.
	Verdict example.Verdict
	// Message is the policy's own for it, or the CLI's words for why there is none.
	Message string
	// Content: «kyverno test» finds nothing wrong with the example.
	Content bool
}

// Judge runs the CLI at this path over the library's tests, in as many processes as
// there are processors, and returns a verdict for each example in the library's
// order. A test that makes the CLI fail as a whole makes the verdicts of its own
// examples Unknown, or NotSupported where it crashes, in the CLI's words. It errs when
// the CLI cannot be run at all. What it lays out meanwhile is in the folder scratch;
// empty: where the system keeps temporary files.
func Judge(ctx context.Context, cli, scratch string, library *example.Library) ([]Verdict, error) {
	if info, err := os.Stat(cli); err != nil {
		return nil, fmt.Errorf("ask Kyverno's CLI: %w", err)
	} else if info.IsDir() {
		return nil, fmt.Errorf("ask Kyverno's CLI: %s is a folder; give the program itself", cli)
	}
	examples := library.Examples()
	out := make([]Verdict, len(examples))
	numbers := make(map[*example.Example]int, len(examples))
	for i, e := range examples {
		numbers[e] = i
		out[i] = Verdict{Example: e, Verdict: example.Unknown, Message: "the CLI did not say anything of it"}
	}
	if len(examples) == 0 {
		return out, nil
	}
	root, err := os.MkdirTemp(scratch, "flux-platform-conformance-offline-")
	if err != nil {
		return nil, fmt.Errorf("ask Kyverno's CLI: %w", err)
	}
	defer func() { _ = os.RemoveAll(root) }()
	m, err := newMirror(root, library)
	if err != nil {
		return nil, fmt.Errorf("lay out the tests for Kyverno's CLI: %w", err)
	}
	j := judge{cli: cli, mirror: m, out: out}
	group, ctx := errgroup.WithContext(ctx)
	for i, share := range shares(documentsOf(library, numbers), runtime.GOMAXPROCS(0)) {
		group.Go(func() error { return j.share(ctx, fmt.Sprintf("%d", i), share) })
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("ask Kyverno's CLI: %w", err)
	}
	return out, nil
}

type judge struct {
	cli    string
	mirror *mirror
	// out is written to by example, each by one process.
	out []Verdict
}

// share judges documents in as few processes as it takes: the CLI ends at the first
// test that it cannot run, which is told so, and goes on with those behind it.
func (j *judge) share(ctx context.Context, name string, documents []*document) error {
	for attempt := 0; len(documents) > 0; attempt++ {
		rest, err := j.attempt(ctx, fmt.Sprintf("%s-%d", name, attempt), documents)
		if err != nil {
			return err
		}
		if len(rest) >= len(documents) {
			return fmt.Errorf("it does not get past %s", documents[0].test)
		}
		documents = rest
	}
	return nil
}

// attempt runs one process and returns the documents that it did not come to.
func (j *judge) attempt(ctx context.Context, name string, documents []*document) ([]*document, error) {
	file := "kyverno-test-" + name + ".yaml"
	byPath, err := j.mirror.write(file, documents)
	if err != nil {
		return nil, err
	}
	stdout, stderr, err := run(ctx, j.cli, "test", j.mirror.folder, "--file-name", file, "--remove-color", "--detailed-results", "--output-format", "json")
	if err := errors.Join(j.mirror.remove(byPath), err); err != nil {
		return nil, err
	}
	said := parse(stdout)
	words := j.mirror.words(closing(stdout, stderr))
	if len(said.unreadable) > 0 {
		return j.unreadable(ctx, name, byPath, said.unreadable)
	}
	asked := map[*document]bool{}
	for _, s := range said.tests {
		queue := byPath[s.path]
		if len(queue) == 0 {
			return nil, fmt.Errorf("it speaks of a test %q that it was not given", s.path)
		}
		d := queue[0]
		byPath[s.path] = queue[1:]
		asked[d] = true
		if !s.ended {
			j.tell(d, words)
			continue
		}
		j.read(d, s)
	}
	var rest []*document
	for _, d := range documents {
		if !asked[d] {
			rest = append(rest, d)
		}
	}
	if len(said.tests) == 0 {
		return nil, fmt.Errorf("it ran no test: %s", words)
	}
	return rest, nil
}

// unreadable tells of the files that the CLI cannot read. It says neither which
// document of a file it means nor anything of the others: so those of such a file
// are asked about one by one.
func (j *judge) unreadable(ctx context.Context, name string, byPath map[string][]*document, paths map[string]string) ([]*document, error) {
	var rest []*document
	for path, documents := range byPath {
		words, bad := paths[path]
		switch {
		case !bad:
			rest = append(rest, documents...)
		case len(documents) == 1:
			j.tell(documents[0], j.mirror.words(words))
		default:
			for i, d := range documents {
				if err := j.share(ctx, fmt.Sprintf("%s-%d", name, i), []*document{d}); err != nil {
					return nil, err
				}
			}
		}
	}
	return rest, nil
}

// tell says of all examples of a document why the CLI could not judge them. Where it
// crashes it says nothing of them, neither that they are right nor wrong.
func (j *judge) tell(d *document, words string) {
	for _, n := range d.numbers {
		if strings.HasPrefix(words, crashed) {
			j.out[n].Verdict, j.out[n].Message = example.NotSupported, "«kyverno test» crashes: "+words
		} else {
			j.out[n].Message = "«kyverno test» fails: " + words
		}
	}
}

// read fills in what the CLI said of a document.
func (j *judge) read(d *document, s spoken) {
	rows := map[int][]row{}
	for _, r := range s.rows {
		number, ok := d.numberOf(r)
		if ok {
			rows[number] = append(rows[number], r)
		}
	}
	for _, n := range d.numbers {
		v := &j.out[n]
		v.Verdict, v.Message, v.Content = conclude(v.Example, rows[n], j.mirror.words(strings.Join(s.problems, "; ")))
		v.Message = j.mirror.words(v.Message)
	}
}
