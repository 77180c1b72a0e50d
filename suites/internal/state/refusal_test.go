package state_test

import (
	"errors"
	"testing"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestRefusal(t *testing.T) {
	const user = "system:serviceaccount:beetle:reconciler"
	services := schema.GroupResource{Resource: "services"}
	forbidden := func(text string) error { return apierrors.NewForbidden(services, "s", errors.New(text)) }
	const webhook = `admission webhook "vpol.validate.kyverno.svc-fail-finegrained-owner" denied the request: `
	for _, row := range []struct {
		name        string
		answer      error
		by, problem string
	}{
		{"admitted", nil, "", "it was admitted"},
		{"RBAC", forbidden(`User "` + user + `" cannot patch resource "services" in API group "" in the namespace "apps"`), "RBAC", ""},
		{
			"RBAC refuses somebody else", forbidden(`User "system:serviceaccount:beetle:other" cannot patch resource "services"`),
			"", `nobody refused it by name: services "s" is forbidden: User "system:serviceaccount:beetle:other" cannot patch resource "services"`,
		},
		{"a policy", errors.New(webhook + "Policy owner failed: not yours"), "owner", ""},
		{"the second policy that it names", errors.New(webhook + "Policy label failed: not yours"), "label", ""},
		{"a policy in the older form", errors.New(webhook + "\n\nresource Service/apps/s was blocked due to the following policies \n\nowner:\n  rule: no"), "owner", ""},
		{"a policy of a longer name", errors.New(`admission webhook "w" denied the request: Policy owner-of-all failed: no`), "", `nobody refused it by name: admission webhook "w" denied the request: Policy owner-of-all failed: no`},
		{
			"the API server's own policy", forbidden(`ValidatingAdmissionPolicy 'cpol-owner' with binding 'cpol-owner-binding' denied request: not yours`),
			"cpol-owner", "",
		},
		{"a webhook that cannot be asked", errors.New(`failed calling webhook "owner": connection refused`), "", `nobody refused it by name: failed calling webhook "owner": connection refused`},
		{"not there", apierrors.NewNotFound(services, "s"), "", `nobody refused it by name: services "s" not found`},
		{"quota", forbidden("exceeded quota: apps"), "", `nobody refused it by name: services "s" is forbidden: exceeded quota: apps`},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			by, problem := state.Refusal(row.answer, user, []string{"owner", "label"})
			g.Expect(by).To(Equal(row.by))
			g.Expect(problem).To(Equal(row.problem))
		})
	}
}
