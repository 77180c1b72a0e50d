package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// The operations of a request.
const (
	opCreate = "CREATE"
	opUpdate = "UPDATE"
	opDelete = "DELETE"
)

// askExtra is the extra of a request's user that names the copies that are asked.
const askExtra = "fpc-ask"

const (
	// warningsCut is how many characters of warnings the API server passes on in
	// one answer, and warningCut how many of each once there are more: an answer
	// that comes within one warning of the limit may lack some.
	warningsCut = 4096
	warningCut  = 256
	// atOnce is how many copies one request asks at most: as many as may answer
	// with a few words each.
	atOnce = 80
	// requestTimeout is longer than any webhook may take.
	requestTimeout = 40 * time.Second
)

// request is one to the API server.
type request struct {
	// operation is CREATE, UPDATE or DELETE; of the last two the object is stored
	// already.
	operation string
	object    *unstructured.Unstructured
	// subresource is the one of an object of the parent kind that the request is
	// about; empty: the object itself.
	subresource string
	parent      schema.GroupVersionKind
	// user asks; nil: an administrator.
	user *example.User
	// copies are the names of those that are asked.
	copies []string
	// real: not in a dry run.
	real bool
}

func (r request) String() string {
	who := "an administrator"
	if r.user != nil {
		who = fmt.Sprintf("%s %v", r.user.Name, r.user.Groups)
	}
	where := ""
	if ns := r.object.GetNamespace(); ns != "" {
		where = " in " + ns
	}
	return fmt.Sprintf("%s %s %s%s as %s", r.operation, r.object.GetKind(), r.object.GetName(), where, who)
}

// response is the API server's.
type response struct {
	// object is the one that the server answered with; nil on an error.
	object   *unstructured.Unstructured
	warnings []string
	// err is the server's refusal, or says that the server could not be asked
	// within the bench's patience (then unavailable is set).
	err         error
	unavailable bool
	seconds     float64
}

// admitted says whether the request came through admission: that the object is
// there already, or has changed meanwhile, is found out only after it.
func (r response) admitted() bool {
	return r.err == nil || apierrors.IsAlreadyExists(r.err)
}

// send makes a request, again and again while the server, or a webhook that it
// calls, cannot answer.
func (b *Bench) send(ctx context.Context, r request) response {
	gvk := r.object.GroupVersionKind()
	if !r.parent.Empty() {
		gvk = r.parent
	}
	kind, err := b.kind(gvk)
	if err != nil {
		return response{err: err, unavailable: true}
	}
	verb, path := http.MethodPost, kind.path(r.object.GetNamespace())
	object := r.object
	if r.operation != opCreate || r.subresource != "" {
		path += "/" + url.PathEscape(r.object.GetName())
	}
	if r.operation == opUpdate {
		verb = http.MethodPut
	}
	if r.subresource != "" {
		path += "/" + r.subresource
	}
	var body []byte
	if r.operation == opDelete {
		verb, body = http.MethodDelete, []byte(`{"apiVersion":"v1","kind":"DeleteOptions"}`)
	} else if body, err = object.MarshalJSON(); err != nil {
		return response{err: err}
	}
	call := func(ctx context.Context) response {
		q := b.client.Verb(verb).AbsPath(path).MaxRetries(0).Body(body)
		if !r.real {
			q = q.Param("dryRun", "All")
		}
		return b.once(ctx, impersonate(q, r))
	}
	return b.persist(ctx, call)
}

func impersonate(q *rest.Request, r request) *rest.Request {
	user := r.user
	if user == nil {
		if len(r.copies) == 0 {
			return q
		}
		user = &example.User{Name: "kubernetes-admin", Groups: []string{"system:masters", "system:authenticated"}}
	}
	q = q.SetHeader("Impersonate-User", user.Name)
	groups, extras := slices.Clone(user.Groups), []string(nil)
	for _, name := range r.copies {
		if namedBy(name, namedByGroup) {
			groups = append(groups, groupPrefix+name)
		} else {
			extras = append(extras, name)
		}
	}
	if len(groups) > 0 {
		q = q.SetHeader("Impersonate-Group", groups...)
	}
	for name, values := range user.Extra {
		q = q.SetHeader("Impersonate-Extra-"+url.PathEscape(name), values...)
	}
	if len(extras) > 0 {
		q = q.SetHeader("Impersonate-Extra-"+askExtra, extras...)
	}
	return q
}

// once makes one call.
func (b *Bench) once(ctx context.Context, q *rest.Request) response {
	within, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	start := time.Now()
	result := q.Do(within)
	out := response{seconds: time.Since(start).Seconds(), err: result.Error()}
	b.count(out.seconds)
	for _, w := range result.Warnings() {
		out.warnings = append(out.warnings, w.Text)
	}
	if out.err != nil {
		return out
	}
	raw, err := result.Raw()
	if err != nil {
		out.err = err
		return out
	}
	out.object = &unstructured.Unstructured{}
	if err := out.object.UnmarshalJSON(raw); err != nil {
		out.err = fmt.Errorf("read the server's answer: %w", err)
	}
	return out
}

// persist repeats a call that was not answered, with longer and longer pauses,
// until the bench's patience is over.
func (b *Bench) persist(ctx context.Context, call func(context.Context) response) response {
	start, pause := time.Now(), 50*time.Millisecond
	for {
		if err := b.limit.acquire(ctx); err != nil {
			return response{err: err, unavailable: true}
		}
		got := call(ctx)
		trouble := b.trouble(got.err)
		b.limit.release(trouble == troubleNone || trouble == troubleShort)
		patience := b.options.Patience
		switch trouble {
		case troubleNone:
			return got
		case troubleGone:
			b.disturbances.Add(1)
		case troubleShort:
			patience /= 12
		}
		if ctx.Err() != nil || time.Since(start) > patience {
			// What the server says of rights that it never grants is its last word.
			got.unavailable = trouble != troubleShort
			return got
		}
		b.retries.Add(1)
		if err := pauseFor(ctx, pause); err != nil {
			got.unavailable = true
			return got
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// trouble is what kept the server from an answer.
type trouble int

const (
	troubleNone trouble = iota
	// troubleShort passes in a moment or never: rights that were just granted.
	troubleShort
	// troubleBusy: the server or a webhook had too much to do.
	troubleBusy
	// troubleGone: the server, or a webhook, was not there. What it knew before,
	// such as the policies in force, it may not know at once when it is back.
	troubleGone
)

// trouble tells a refusal from a failure to answer.
func (b *Bench) trouble(err error) trouble {
	if err == nil {
		return troubleNone
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if utilnet.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
			return troubleBusy
		}
		return troubleGone
	}
	code, text := status.Status().Code, err.Error()
	webhook := strings.Contains(text, "failed calling webhook")
	switch {
	case webhook && (strings.Contains(text, "context deadline exceeded") || strings.Contains(text, "Client.Timeout")):
		return troubleBusy
	case webhook:
		return troubleGone
	case code == http.StatusTooManyRequests, code == http.StatusGatewayTimeout, code == http.StatusRequestTimeout:
		return troubleBusy
	case code >= http.StatusInternalServerError:
		return troubleGone
	case code == http.StatusForbidden && rights(text), strings.Contains(text, "not yet ready to handle request"):
		return troubleShort
	}
	return troubleNone
}

// rights says whether a refusal is one of the server's RBAC.
func rights(text string) bool {
	return strings.Contains(text, "cannot ") && strings.Contains(text, `User "`)
}

// heard is what copies said of one request.
type heard struct {
	// said is what each copy said; one that did not say anything does not match.
	said map[string][]said
	// unanswered says why nothing is known of a copy.
	unanswered map[string]string
	// invalid: the server itself refused the object.
	invalid bool
	// refusal is the server's, whoever refused; notes are warnings that are none of
	// ours.
	refusal string
	notes   []string
	seconds float64
}

func refusalOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ask asks copies about a request, in halves where the answers do not fit into
// one.
func (b *Bench) ask(ctx context.Context, r request) heard {
	alone := func(name string) bool { return namedBy(name, namedAlone) }
	if slices.ContainsFunc(r.copies, alone) && slices.ContainsFunc(r.copies, func(name string) bool { return namedBy(name, namedByGroup) }) {
		first, second := r, r
		first.copies = slices.DeleteFunc(slices.Clone(r.copies), alone)
		second.copies = slices.DeleteFunc(slices.Clone(r.copies), func(name string) bool { return !alone(name) })
		return b.both(ctx, first, second)
	}
	if len(r.copies) > atOnce {
		return b.halves(ctx, r)
	}
	got := b.send(ctx, r)
	out := heard{said: make(map[string][]said, len(r.copies)), unanswered: map[string]string{}, seconds: got.seconds}
	if said := blocking(refusalOf(got.err)); !got.admitted() && len(said) > 0 {
		for _, s := range said {
			out.said[s.copy] = append(out.said[s.copy], s)
		}
		r.copies = slices.DeleteFunc(slices.Clone(r.copies), func(name string) bool { return out.said[name] != nil })
		if len(r.copies) > 0 {
			other := b.ask(ctx, r)
			maps.Copy(other.said, out.said)
			return other
		}
		return out
	}
	if !got.admitted() {
		out.refusal = got.err.Error()
		// A webhook's refusal is none of the server's own.
		out.invalid = !got.unavailable && !denied(out.refusal) && !rights(out.refusal)
		for _, name := range r.copies {
			out.unanswered[name] = out.refusal
		}
		return out
	}
	if !out.hear(got.warnings) {
		return out
	}
	if len(r.copies) > 1 {
		return b.halves(ctx, r)
	}
	// One long warning is all that there is to be said.
	if name := r.copies[0]; len(got.warnings) > 1 || len(out.said[name]) == 0 {
		out.unanswered[name] = fmt.Sprintf("the server passes on %d characters of warnings, and cut the answer", warningsCut)
	}
	return out
}

func (b *Bench) halves(ctx context.Context, r request) heard {
	middle := len(r.copies) / 2
	first, second := r, r
	first.copies, second.copies = r.copies[:middle], r.copies[middle:]
	return b.both(ctx, first, second)
}

// both asks two requests and makes one answer of theirs.
func (b *Bench) both(ctx context.Context, first, second request) heard {
	out, other := b.ask(ctx, first), b.ask(ctx, second)
	maps.Copy(out.said, other.said)
	maps.Copy(out.unanswered, other.unanswered)
	out.invalid = out.invalid || other.invalid
	if out.refusal == "" {
		out.refusal = other.refusal
	}
	return out
}

// hear reads warnings, and says whether some may be missing.
func (h *heard) hear(warnings []string) (cut bool) {
	length := 0
	for _, warning := range warnings {
		length += utf8.RuneCountInString(warning)
		if s, ours := understand(warning); ours {
			h.said[s.copy] = append(h.said[s.copy], s)
		} else {
			h.notes = append(h.notes, warning)
		}
	}
	return length > warningsCut-warningCut
}

// understand asks each family for the meaning of a warning.
func understand(warning string) (said, bool) {
	for _, f := range forms {
		if s, ok := f.read(warning); ok {
			return s, true
		}
	}
	return said{}, false
}

// sum makes one reply of what a copy said: an error outweighs a refusal only where
// nothing refuses, and «nothing refuses» yields to both, since a family whose
// validations are all evaluated says it in any case.
func sum(all []said) Reply {
	rank := map[Answer]int{Silent: 0, Satisfied: 1, Failing: 2, Refusing: 3}
	var out Reply
	for _, s := range all {
		if s.canary {
			continue
		}
		if s.answer == Refusing && !slices.Contains(out.Indexes, s.index) {
			out.Indexes = append(out.Indexes, s.index)
		}
		if rank[s.answer] > rank[out.Answer] {
			out.Answer, out.Words = s.answer, ""
			if s.answer == Failing {
				out.Words = s.words
			}
		}
	}
	slices.Sort(out.Indexes)
	return out
}

// denied says whether a policy or a webhook refused, and not the server itself.
func denied(refusal string) bool {
	return strings.Contains(refusal, "denied the request") || strings.Contains(refusal, "denied request:")
}
