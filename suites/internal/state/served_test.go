package state_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func good(pod string) state.Answer {
	return state.Answer{Status: 200, Pod: pod, Version: "1.5.0", SHA256: "aaaa", Bytes: 10}
}

func servedInput() *state.ServedInput {
	return &state.ServedInput{
		Pods: []string{"x", "y"}, Names: true, Version: "1.5.0", Files: map[string]string{"base.yaml": "aaaa"},
		Answers: map[string][]state.Answer{"base.yaml": {good("x"), good("y"), good("x")}},
		Known:   map[string]string{"bbbb": "prd/sonar/config.yaml"},
	}
}

func TestServedProblems(t *testing.T) {
	first := func(in *state.ServedInput) *state.Answer { return &in.Answers["base.yaml"][0] }
	for _, row := range []struct {
		name   string
		change func(*state.ServedInput)
		want   []string
		unseen bool
	}{
		{"each pod serves the file", func(*state.ServedInput) {}, nil, false},
		{"no pod is ready", func(in *state.ServedInput) { in.Pods = nil }, []string{"no pod is ready that could answer"}, false},
		{"there is no file", func(in *state.ServedInput) { in.Files = nil }, []string{"there is no file to ask for"}, false},
		{"a pod never answers", func(in *state.ServedInput) { in.Pods = []string{"x", "y", "z"} }, []string{"base.yaml: Pod z, which is ready, has answered none of 3 requests"}, true},
		{"a service that keeps to one pod", func(in *state.ServedInput) { in.Pods, in.Sticky = []string{"x", "y", "z"}, true }, nil, false},
		{"somebody else answers", func(in *state.ServedInput) { first(in).Pod = "w" }, []string{"base.yaml: answered by Pod w, which is none of the ready ones (1 of 3 requests)"}, false},
		{"nobody's name is told", func(in *state.ServedInput) { first(in).Pod = "" }, []string{"base.yaml: answered by Pod (none is named), which is none of the ready ones (1 of 3 requests)"}, false},
		{"other bytes", func(in *state.ServedInput) { first(in).SHA256 = "cccc" }, []string{"base.yaml: served are 10 other bytes (SHA-256 cccc…) by Pod x (1 of 3 requests)"}, false},
		{"bytes of another tenant", func(in *state.ServedInput) { first(in).SHA256 = "bbbb" }, []string{"base.yaml: served are 10 other bytes (SHA-256 bbbb…), which are prd/sonar/config.yaml by Pod x (1 of 3 requests)"}, false},
		{"another version", func(in *state.ServedInput) { first(in).Version = "1.4.0" }, []string{`base.yaml: the version is "1.4.0" by Pod x, declared is "1.5.0" (1 of 3 requests)`}, false},
		{"no version is declared", func(in *state.ServedInput) { in.Version, first(in).Version = "", "x" }, nil, false},
		{"an error", func(in *state.ServedInput) { first(in).Status = 404 }, []string{"base.yaml: answered with status 404 by Pod x (1 of 3 requests)"}, false},
		{
			"no answer at all", func(in *state.ServedInput) {
				in.Answers["base.yaml"] = []state.Answer{{Error: "connection refused"}, {Error: "connection refused"}}
			},
			[]string{
				"base.yaml: no answer: connection refused",
				"base.yaml: Pod x, which is ready, has answered none of 2 requests", "base.yaml: Pod y, which is ready, has answered none of 2 requests",
			},
			true,
		},
		{
			"a service that does not name its pods", func(in *state.ServedInput) {
				in.Names = false
				in.Answers["base.yaml"] = []state.Answer{{Status: 200, SHA256: "aaaa"}}
			},
			nil, false,
		},
		{"nobody was asked", func(in *state.ServedInput) { in.Names, in.Answers = false, nil }, []string{"base.yaml: nobody was asked"}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			in := servedInput()
			row.change(in)
			g.Expect(state.ServedProblems(*in)).To(Equal(row.want))
			g.Expect(in.Seen()).To(Equal(!row.unseen))
		})
	}
}

func TestHostProblems(t *testing.T) {
	input := func() *state.HostsInput {
		asked := func(host, sum, pod string) state.Asked {
			return state.Asked{Host: host, File: "base.yaml", SHA256: sum, Answer: state.Answer{Status: 200, Pod: pod, SHA256: sum, Bytes: 10}}
		}
		nobody := asked("nobody.example", "aaaa", "")
		nobody.Answer = state.Answer{Status: 404, SHA256: "eeee"}
		return &state.HostsInput{
			Tenant: "beetle", Names: true, Pods: map[string]string{"b": "beetle", "s": "sonar"},
			Own: []state.Asked{asked("beetle.example", "aaaa", "b")}, Others: []state.Asked{asked("sonar.example", "bbbb", "s")},
			Nobodys: []state.Asked{nobody},
		}
	}
	for _, row := range []struct {
		name   string
		change func(*state.HostsInput)
		want   []string
	}{
		{"each answers at its host", func(*state.HostsInput) {}, nil},
		{"no host", func(in *state.HostsInput) { in.Own = nil }, []string{"no host of the tenant was asked"}},
		{"another tenant answers", func(in *state.HostsInput) { in.Own[0].Answer = in.Others[0].Answer }, []string{
			"beetle.example, base.yaml: answered by Pod s, of sonar", "beetle.example, base.yaml: served are 10 other bytes by Pod s",
		}},
		{"a stranger answers", func(in *state.HostsInput) { in.Own[0].Answer.Pod = "?" }, []string{"beetle.example, base.yaml: answered by Pod ?, of no tenant"}},
		{"nothing there", func(in *state.HostsInput) { in.Own[0].Answer = state.Answer{Status: 404} }, []string{"beetle.example, base.yaml: answered with status 404"}},
		{"it answers at another's host", func(in *state.HostsInput) { in.Others[0].Answer = in.Own[0].Answer }, []string{"sonar.example is another tenant's, and Pod b of beetle answers there"}},
		{"its file is at another's host", func(in *state.HostsInput) {
			in.Others[0].Answer = in.Own[0].Answer
			in.Others[0].Answer.Pod = ""
		}, []string{"sonar.example is another tenant's, and the file base.yaml of beetle is served there"}},
		{"two tenants have one file", func(in *state.HostsInput) {
			in.Others[0].SHA256, in.Others[0].Answer.SHA256 = "aaaa", "aaaa"
		}, nil},
		{"it answers for any host", func(in *state.HostsInput) { in.Nobodys[0].Answer = in.Own[0].Answer }, []string{"nobody.example is nobody's, and Pod b of beetle answers there"}},
		{"another answers for any host", func(in *state.HostsInput) { in.Nobodys[0].Answer = in.Others[0].Answer }, nil},
		{"pods have no names", func(in *state.HostsInput) { in.Names, in.Own[0].Answer.Pod = false, "" }, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			in := input()
			row.change(in)
			NewWithT(t).Expect(state.HostProblems(*in)).To(Equal(row.want))
		})
	}
}

// roll is a stream of a request a second: the change comes at 10, its bytes from
// 15 on; it is taken back at 30, and has gone at 35.
func roll() *state.RollInput {
	in := &state.RollInput{Old: "old", New: "new", Changed: 10, Back: 30}
	for second := range 50 {
		a := state.Answer{At: float64(second) + 0.5, Status: 200, Pod: "a", SHA256: "old", Bytes: 3}
		switch {
		case second >= 35:
			a.Pod = "c"
		case second >= 15:
			a.Pod, a.SHA256 = "b", "new"
		}
		in.Answers = append(in.Answers, a)
	}
	return in
}

func TestNewRoll(t *testing.T) {
	lost := func(in *state.RollInput, seconds ...int) {
		for _, second := range seconds {
			in.Answers[second] = state.Answer{At: float64(second) + 0.5, Error: "refused"}
		}
	}
	for _, row := range []struct {
		name   string
		change func(*state.RollInput)
		want   []string
	}{
		{"both ways", func(*state.RollInput) {}, nil},
		{"requests are lost", func(in *state.RollInput) { lost(in, 4, 15, 31) }, []string{
			"a request was lost 5.5 s before the change: no answer: refused",
			"a request was lost 5.5 s after the change: no answer: refused",
			"a request was lost 1.5 s after the change back: no answer: refused",
		}},
		{"many are lost", func(in *state.RollInput) { lost(in, 15, 16, 17, 18) }, []string{
			"a request was lost 5.5 s after the change: no answer: refused", "a request was lost 6.5 s after the change: no answer: refused",
			"a request was lost 7.5 s after the change: no answer: refused", "4 of 50 requests were lost",
		}},
		{"it does not arrive", func(in *state.RollInput) {
			for i := range in.Answers {
				in.Answers[i].SHA256, in.Answers[i].Pod = "old", "a"
			}
		}, []string{"the last answer after the change by Pod a still has the bytes before it"}},
		{"it is not taken back", func(in *state.RollInput) {
			for i := range in.Answers[35:] {
				in.Answers[35+i].SHA256 = "new"
			}
		}, []string{"the last answer after the change back by Pod c still has the bytes before it"}},
		{"a pod changes its mind", func(in *state.RollInput) {
			for i := range in.Answers {
				in.Answers[i].Pod = "a"
			}
		}, []string{"Pod a served the old bytes and then the new ones: it was not replaced"}},
		{"other bytes between", func(in *state.RollInput) { in.Answers[15].SHA256 = "?" }, []string{"3 bytes were served by Pod b 5.5 s after the change that are neither the old nor the new ones"}},
		{"nobody was asked before", func(in *state.RollInput) { in.Answers = in.Answers[12:] }, []string{"nobody answered before the change: what came of it cannot be told"}},
		{"nobody was asked after", func(in *state.RollInput) { in.Answers = in.Answers[:9] }, []string{"nobody answered after the change", "nobody answered after the change back"}},
		{"it was new all the time", func(in *state.RollInput) { in.Answers[3].SHA256, in.Answers[3].Pod = "new", "b" }, []string{"the new bytes were served before the change was made"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			in := roll()
			row.change(in)
			NewWithT(t).Expect(state.NewRoll(*in).Problems).To(Equal(row.want))
		})
	}
	g := NewWithT(t)
	found := state.NewRoll(*roll())
	g.Expect(fmt.Sprintf("%d %v %v", found.Requests, found.There, found.Back)).To(Equal("50 {5.5 4.5} {5.5 4.5}"))
	in := roll()
	in.Answers = in.Answers[:9]
	g.Expect(state.NewRoll(*in).There).To(Equal(state.Way{First: -1, Last: -1}))
}

func TestPodsDisturbed(t *testing.T) {
	pods := func() []corev1.Pod {
		return []corev1.Pod{
			into[corev1.Pod](t, `{metadata: {name: a, uid: "1"}, status: {containerStatuses: [{name: app, restartCount: 1}]}}`),
			into[corev1.Pod](t, `{metadata: {name: b, uid: "2"}, status: {phase: Succeeded}}`),
			into[corev1.Pod](t, `{metadata: {name: c, uid: "3", deletionTimestamp: "2026-05-04T08:00:00Z"}}`),
		}
	}
	for _, row := range []struct {
		name   string
		change func([]corev1.Pod) []corev1.Pod
		want   []string
	}{
		{"as they were", func(p []corev1.Pod) []corev1.Pod { return p }, nil},
		{"what was about to go has gone", func(p []corev1.Pod) []corev1.Pod { return p[:1] }, nil},
		{"one is gone", func([]corev1.Pod) []corev1.Pod { return nil }, []string{"Pod a is gone"}},
		{"one is about to go", func(p []corev1.Pod) []corev1.Pod { p[0].DeletionTimestamp = p[2].DeletionTimestamp; return p }, []string{"Pod a is gone"}},
		{"one was replaced", func(p []corev1.Pod) []corev1.Pod { p[0].UID = "9"; return p }, []string{"Pod a was replaced by another of that name"}},
		{"one was restarted", func(p []corev1.Pod) []corev1.Pod { p[0].Status.ContainerStatuses[0].RestartCount = 2; return p }, []string{"container app of Pod a was restarted"}},
		{"one has come", func(p []corev1.Pod) []corev1.Pod {
			return append(p, into[corev1.Pod](t, `{metadata: {name: d, uid: "4"}}`))
		}, []string{"Pod d is new"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(state.PodsDisturbed(pods(), row.change(pods()))).To(Equal(row.want))
		})
	}
}
