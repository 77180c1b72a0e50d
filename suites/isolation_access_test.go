package suites

import (
	"errors"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

func TestJudgeWrites(t *testing.T) {
	object := func(kind, name, tenant string) standing {
		return standing{Object: declared(t, tenant, "{apiVersion: v1, kind: "+kind+", metadata: {name: "+name+", namespace: apps}}")}
	}
	deleted := func(what standing, own bool) write { return write{"delete", what, own} }
	others, own := object("ConfigMap", "others", "sonar"), object("ConfigMap", "own", "beetle")
	for _, row := range []struct {
		name    string
		tries   []write
		answers map[string]string // who refuses, by the write
		wants   string
	}{
		{
			"others' is refused, its own is not",
			[]write{deleted(others, false), deleted(own, true)},
			map[string]string{"others": "owner"},
			"",
		},
		{
			"its own is refused by who refuses no other's",
			[]write{deleted(others, false), deleted(own, true)},
			map[string]string{"others": "owner", "own": "guard"},
			"",
		},
		{
			"its own is refused as others' are",
			[]write{deleted(others, false), deleted(own, true)},
			map[string]string{"others": "guard", "own": "guard"},
			"must be admitted, but: guard",
		},
		{
			"who refuses its own refuses others' of another kind",
			[]write{deleted(others, false), deleted(object("Service", "more", "sonar"), false), deleted(own, true)},
			map[string]string{"others": "owner", "more": "guard", "own": "guard"},
			"",
		},
		{
			"RBAC refuses its own",
			[]write{deleted(others, false), deleted(own, true)},
			map[string]string{"others": "owner", "own": state.ByRBAC},
			"must be admitted, but: RBAC",
		},
		{
			"who refuses its own is not named",
			[]write{deleted(others, false), deleted(own, true)},
			map[string]string{"others": "owner", "own": "timeout"},
			"must be admitted, but: timeout",
		},
		{
			"its own cannot be applied",
			[]write{{"apply", others, false}, {"apply", own, true}},
			map[string]string{"others": "owner", "own": "guard"},
			"must be admitted, but: guard",
		},
		{
			"others' is admitted",
			[]write{deleted(others, false), deleted(own, true)},
			map[string]string{"own": "guard"},
			"it was admitted",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			problems, again := judgeWrites(row.tries, refusers{}, func(w write) error {
				if by := row.answers[w.object.GetName()]; by != "" {
					return errors.New(by)
				}
				return nil
			}, func(answer error) (string, string) {
				switch {
				case answer == nil:
					return "", "it was admitted"
				case answer.Error() == "timeout":
					return "", "nobody refused it by name"
				}
				return answer.Error(), ""
			})
			g.Expect(again).To(HaveLen(len(problems)))
			if row.wants == "" {
				g.Expect(problems).To(BeEmpty())
			} else {
				g.Expect(problems).To(ConsistOf(ContainSubstring(row.wants)))
			}
		})
	}
	g := NewWithT(t)
	refused := refusers{}
	by := func(error) (string, string) { return "guard", "" }
	refuse := func(write) error { return errors.New("guard") }
	_, _ = judgeWrites([]write{deleted(others, false)}, refused, refuse, by)
	problems, _ := judgeWrites([]write{deleted(own, true)}, refused, refuse, by)
	g.Expect(problems).To(HaveLen(1), "what was refused before counts when a write is asked again")
}
