package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// attempt bounds the wait for an attempt of Flux that is under way: while it makes
// one, an object does not say why the last one failed.
const attempt = 2 * time.Second

// fluxWords are what Flux says of a tenant's objects that are not ready.
func (e *environment) fluxWords(ctx context.Context, tenant *platform.Tenant) ([]string, error) {
	var words []string
	patience := time.Now().Add(attempt)
	err := wait.PollUntilContextCancel(ctx, current.timeouts.Poll, true, func(ctx context.Context) (bool, error) {
		objects, err := bootstrap.Observe(ctx, e.client)
		if err != nil {
			return false, err
		}
		var busy bool
		words, busy = unready(tenant, objects)
		return !busy || time.Now().After(patience), nil
	})
	return words, err
}

// refOf is the name by which what Flux says of a declared object is found.
func refOf(o platform.Object) bootstrap.Ref {
	return bootstrap.Ref{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}
}

// live reads a declared object as it is in the cluster.
func (e *environment) live(ctx context.Context, declared platform.Object) (*unstructured.Unstructured, error) {
	out := &unstructured.Unstructured{}
	out.SetGroupVersionKind(declared.GroupVersionKind())
	return out, e.client.Get(ctx, client.ObjectKeyFromObject(declared.Unstructured), out)
}

// unready says of a tenant's Flux objects why they are not ready, in the order in
// which they draw on each other: what is included, sources, what is made of them.
// One that is busy may have more to say.
func unready(tenant *platform.Tenant, objects []bootstrap.Object) (words []string, busy bool) {
	var declared []platform.Object
	for _, s := range slices.Backward(tenant.Sources) {
		declared = append(declared, s.Object)
	}
	for _, k := range tenant.Kustomizations {
		declared = append(declared, k.Object)
	}
	for _, h := range tenant.HelmReleases {
		declared = append(declared, h.Object)
	}
	for _, o := range declared {
		said, trying := wordsOf(o, objects)
		if said != "" {
			words = append(words, said)
		}
		busy = busy || trying
	}
	return words, busy
}

// wordsOf is what Flux says of an object that is not ready; empty when it is. Of
// one that is not there, the Kustomization that brings it may say why. busy says
// that an attempt is under way.
func wordsOf(o platform.Object, objects []bootstrap.Object) (words string, busy bool) {
	ref := refOf(o)
	i := slices.IndexFunc(objects, func(o bootstrap.Object) bool { return o.Ref == ref })
	switch {
	case i < 0:
		words = ref.String() + " is not in the cluster"
		if o.Owner != nil {
			var why string
			if why, busy = wordsOf(o.Owner.Object, objects); why != "" {
				words += ": " + why
			}
		}
		return words, busy
	case !objects[i].Current():
		return fmt.Sprintf("%s is not ready (%s): %s", ref, objects[i].Reason, objects[i].Message), objects[i].Ready != "False"
	}
	return "", false
}

// undeclared says of which of a tenant's Kustomizations and HelmReleases the
// objects are not known: broken ones cannot be built, of unread ones what they are
// built from is not here.
func undeclared(tenant *platform.Tenant) (broken, unread []string) {
	for _, k := range tenant.Kustomizations {
		switch {
		case k.Err != nil:
			broken = append(broken, fmt.Sprintf("%s: %s: %s", k.Origin, k, k.Err))
		case k.Unread != "":
			unread = append(unread, fmt.Sprintf("%s: %s: %s", k.Origin, k, k.Unread))
		}
	}
	for _, h := range tenant.HelmReleases {
		if h.Unread != "" {
			unread = append(unread, fmt.Sprintf("%s: %s: %s", h.Origin, h, h.Unread))
		}
	}
	return broken, unread
}

// requireDeclared ends a spec of a tenant whose objects are not known: nothing that
// is found in the cluster could be held against them. It fails, unless Flux, which
// reaches what was not read here, has made all of the tenant ready.
func requireDeclared(ctx context.Context, e *environment, tenant *platform.Tenant) {
	GinkgoHelper()
	broken, unread := undeclared(tenant)
	expectNone(broken, "what %s declares cannot be built", tenant.Name)
	if len(unread) == 0 {
		return
	}
	words, err := e.fluxWords(ctx, tenant)
	Expect(err).NotTo(HaveOccurred())
	if len(words) > 0 {
		expectNone(unread, "what %s declares is not known here, and Flux has not made it ready", tenant.Name)
	}
	known := slices.ContainsFunc(tenant.Objects, func(o platform.Object) bool {
		return !slices.ContainsFunc(tenant.HelmReleases, func(h *platform.HelmRelease) bool { return h.Unstructured == o.Unstructured })
	})
	if !known {
		Skip(notSupported + "what the tenant declares is not read here: " + strings.Join(unread, "; "))
	}
}
