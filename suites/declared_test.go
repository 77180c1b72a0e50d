package suites

import (
	"errors"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

func declaredObject(kind, name, file string) platform.Object {
	return platform.Object{
		Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"kind": kind, "metadata": map[string]any{"namespace": "otter", "name": name},
		}},
		Origin: platform.Origin{File: file, Line: 1},
	}
}

func TestUndeclared(t *testing.T) {
	built := &platform.Kustomization{Object: declaredObject("Kustomization", "app", "app.yaml")}
	broken := &platform.Kustomization{Object: declaredObject("Kustomization", "jobs", "jobs.yaml"), Err: errors.New("no such path")}
	unread := &platform.Kustomization{Object: declaredObject("Kustomization", "far", "far.yaml"), Unread: "no folder answers"}
	for _, row := range []struct {
		name                       string
		list                       []*platform.Kustomization
		expectBroken, expectUnread []string
	}{
		{"all can be built", []*platform.Kustomization{built}, nil, nil},
		{"one cannot", []*platform.Kustomization{built, broken}, []string{"jobs.yaml:1: Kustomization otter/jobs: no such path"}, nil},
		{"one is not read", []*platform.Kustomization{unread, built}, nil, []string{"far.yaml:1: Kustomization otter/far: no folder answers"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			gotBroken, gotUnread := undeclared(&platform.Tenant{Name: "otter", Kustomizations: row.list})
			g.Expect(gotBroken).To(Equal(row.expectBroken))
			g.Expect(gotUnread).To(Equal(row.expectUnread))
		})
	}
}

func TestUnreadySaysTheCauseFirst(t *testing.T) {
	values, composed := declaredObject("GitRepository", "values", ""), declaredObject("GitRepository", "composed", "")
	app, release := declaredObject("Kustomization", "app", ""), declaredObject("HelmRelease", "app", "")
	tenant := &platform.Tenant{
		Sources:        []*platform.Source{{Object: composed}, {Object: values}},
		Kustomizations: []*platform.Kustomization{{Object: app}},
		HelmReleases:   []*platform.HelmRelease{{Object: release}},
	}
	live := func(o platform.Object, ready, message string, generation, observed int64) bootstrap.Object {
		return bootstrap.Object{
			Ref:        bootstrap.Ref{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()},
			Generation: generation, Observed: observed, Ready: ready, Reason: "Because", Message: message,
		}
	}
	g := NewWithT(t)
	g.Expect(unready(tenant, []bootstrap.Object{
		live(app, "False", "no artifact", 1, 1), live(composed, "False", "no include", 1, 1), live(values, "True", "of the spec before", 2, 1),
	})).To(Equal([]string{
		"GitRepository otter/values is not ready (Because): of the spec before",
		"GitRepository otter/composed is not ready (Because): no include",
		"Kustomization otter/app is not ready (Because): no artifact",
		"HelmRelease otter/app is not in the cluster",
	}))
	g.Expect(unready(tenant, []bootstrap.Object{
		live(app, "True", "", 1, 1), live(composed, "True", "", 1, 1), live(values, "True", "", 1, 1), live(release, "True", "", 1, 1),
	})).To(BeEmpty())
}
