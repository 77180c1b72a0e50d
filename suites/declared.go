package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// fluxWords are what Flux says now of a tenant's objects that are not ready.
func (e *environment) fluxWords(ctx context.Context, tenant *platform.Tenant) ([]string, error) {
	objects, err := bootstrap.Observe(ctx, e.client)
	if err != nil {
		return nil, err
	}
	return unready(tenant, objects), nil
}

// unready says of a tenant's Flux objects why they are not ready, in the order in
// which they draw on each other: what is included, sources, what is made of them.
func unready(tenant *platform.Tenant, objects []bootstrap.Object) []string {
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
	var out []string
	for _, o := range declared {
		ref := bootstrap.Ref{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}
		i := slices.IndexFunc(objects, func(o bootstrap.Object) bool { return o.Ref == ref })
		switch {
		case i < 0:
			out = append(out, ref.String()+" is not in the cluster")
		case !objects[i].Current():
			out = append(out, fmt.Sprintf("%s is not ready (%s): %s", ref, objects[i].Reason, objects[i].Message))
		}
	}
	return out
}

// undeclared says of which of a tenant's Kustomizations the objects are not known:
// broken ones cannot be built, of unread ones what they are built from is not
// here.
func undeclared(tenant *platform.Tenant) (broken, unread []string) {
	for _, k := range tenant.Kustomizations {
		switch {
		case k.Err != nil:
			broken = append(broken, fmt.Sprintf("%s: %s: %s", k.Origin, k, k.Err))
		case k.Unread != "":
			unread = append(unread, fmt.Sprintf("%s: %s: %s", k.Origin, k, k.Unread))
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
	if len(unread) > 0 {
		words, err := e.fluxWords(ctx, tenant)
		Expect(err).NotTo(HaveOccurred())
		if len(words) > 0 {
			broken = append(broken, unread...)
		}
	}
	expectNone(broken, "what %s declares cannot be built", tenant.Name)
	if len(unread) > 0 && len(tenant.Objects) == 0 {
		Skip(notSupported + "what the tenant declares is not read here: " + strings.Join(unread, "; "))
	}
}
