package state

import (
	"fmt"
	"sort"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// Crossing is a selector that matches what belongs to somebody else.
type Crossing struct {
	From, FromTenant string
	To, ToTenant     string
}

// String is the form in which failures show a crossing.
func (c Crossing) String() string {
	return fmt.Sprintf("%s of %q selects %s of %q", c.From, c.FromTenant, c.To, c.ToTenant)
}

// SelectorCrossings lists every Service whose selector matches the pods, or the
// pod template of a workload, of another tenant than its own. A Service without
// a selector matches nothing here.
func SelectorCrossings(services, workloads []*unstructured.Unstructured, tenantLabel string) []Crossing {
	var out []Crossing
	for _, match := range selected(services, workloads) {
		_, tenant := podLabels(match.workload, tenantLabel)
		if own := match.service.GetLabels()[tenantLabel]; tenant != own {
			out = append(out, Crossing{
				From: "Service " + match.service.GetName(), FromTenant: own,
				To: match.workload.GetKind() + " " + match.workload.GetName(), ToTenant: tenant,
			})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].String() < out[j].String() })
	return out
}

// match is a workload whose pods a Service selects.
type match struct{ service, workload *unstructured.Unstructured }

// selected lists what each Service selects. One without a selector selects nothing.
func selected(services, workloads []*unstructured.Unstructured) []match {
	var out []match
	for _, service := range services {
		selector, found, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
		if !found || len(selector) == 0 {
			continue
		}
		for _, workload := range workloads {
			set, _ := podLabels(workload, "")
			if service.GetNamespace() == workload.GetNamespace() && labels.SelectorFromSet(selector).Matches(labels.Set(set)) {
				out = append(out, match{service, workload})
			}
		}
	}
	return out
}

// podLabels are those of a Pod itself or of a workload's template. The tenant is
// that of the object, which admission vouches for.
func podLabels(workload *unstructured.Unstructured, tenantLabel string) (set map[string]string, tenant string) {
	if workload.GetKind() == "Pod" {
		return workload.GetLabels(), workload.GetLabels()[tenantLabel]
	}
	set, _, _ = unstructured.NestedStringMap(workload.Object, "spec", "template", "metadata", "labels")
	return set, workload.GetLabels()[tenantLabel]
}
