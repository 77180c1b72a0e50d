package suites

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// Values are followed where pods run and traffic is routed, through the Service
// that answers with them.
func TestRolloutEdits(t *testing.T) {
	newRollouts := func(has bool, image string) *rollouts {
		p := values([]string{"dev", "prd"}, []string{"beetle", "sonar"})
		r := runOn(p)
		for _, env := range r.all {
			env.state.Findings = []cluster.Finding{{Capability: cluster.Workloads, Has: true}, {Capability: cluster.ServiceRouting, Has: has}}
			env.view = &bringup.View{Platform: p, Trees: r.view.Trees, State: r.view.State}
			for _, tenant := range env.Tenants {
				name := env.Name + "-" + tenant.Name
				tenant.Objects = []platform.Object{
					declared(t, tenant.Name, "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: {selector: {app: x}}}"),
					declared(t, tenant.Name, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: `+name+`}, spec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}, spec: {
  containers: [{name: app, image: "`+image+`", volumeMounts: [{name: config}]}], volumes: [{name: config, configMap: {name: `+name+`}}]}}}}`),
				}
			}
		}
		return &rollouts{experiment: newExperiment(r), asked: map[place]serving{}}
	}
	t.Run("each tenant's own value", func(t *testing.T) {
		g := NewWithT(t)
		x := newRollouts(true, "your-org/x:1")
		edits, err := x.edits()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(edits).To(HaveLen(4))
		for _, e := range edits {
			for environment := range e.arrives {
				g.Expect(e.file).To(Equal(environment + "/" + e.tenant + ".yaml"))
				g.Expect(x.asked[place{servedValue, environment, e.tenant}].service.GetName()).To(Equal(environment + "-" + e.tenant))
			}
		}
	})
	t.Run("a selection", func(t *testing.T) {
		g := NewWithT(t)
		x := newRollouts(true, "your-org/x:1")
		x.run.environments, x.run.tenants = x.run.all[:1], []string{"sonar"}
		edits, err := x.edits()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(edits).To(HaveLen(1))
	})
	t.Run("traffic is not routed", func(t *testing.T) {
		g := NewWithT(t)
		x := newRollouts(false, "your-org/x:1")
		edits, err := x.edits()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(edits).To(BeEmpty())
		g.Expect(x.found).To(BeEmpty())
	})
	t.Run("nobody knows where the files are", func(t *testing.T) {
		g := NewWithT(t)
		x := newRollouts(true, "acme/x:1")
		edits, err := x.edits()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(edits).To(BeEmpty())
		g.Expect(x.found[place{servedValue, "dev", "beetle"}].unsupported).To(ContainSubstring("say it in CONFIG"))
	})
}

func TestConclude(t *testing.T) {
	g := NewWithT(t)
	at := place{servedValue, "dev", "beetle"}
	x := &rollouts{experiment: &experiment{found: map[place]*finding{at: {}}}}
	committed := time.Date(2026, 5, 4, 8, 0, 10, 0, time.UTC)
	f := &flow{at: at, old: "old", new: "new", stream: &stream{}, problems: []string{"said before"}}
	for second := range 30 {
		r := reply{Time: committed.Add(time.Duration(second-10) * time.Second), Status: 200, Pod: "a", SHA256: "old"}
		if second >= 12 && second < 22 {
			r.Pod, r.SHA256 = "b", "new"
		}
		f.stream.replies = append(f.stream.replies, r)
	}
	f.stream.replies[3].Error = "refused"
	x.conclude(f, committed, committed.Add(10*time.Second))
	g.Expect(x.found[at].problems).To(Equal([]string{"said before", "a request was lost 7.0 s before the change: no answer: refused"}))
	g.Expect(x.found[at].figures).To(Equal(fmt.Sprintf("30 requests, one each %s; the change first served after 2.0 s, the value before it last after 1.0 s; "+
		"taken back, it was first served after 2.0 s, the value before it last after 1.0 s", askingInterval)))
}
