package live

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// request is one to the API server.
type request struct {
	// operation is CREATE, UPDATE or DELETE; of the last two the object is stored
	// already.
	operation, subresource string
	object                 *unstructured.Unstructured
	// user asks; nil: an administrator.
	user *example.User
	// copies are the names of those that are asked.
	copies []string
	// real: not in a dry run.
	real bool
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

// send makes a request, again and again while the server, or a webhook that it
// calls, cannot answer.
func (b *Bench) send(ctx context.Context, r request) response { return response{} }
