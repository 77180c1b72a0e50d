package cluster

import (
	"testing"

	. "github.com/onsi/gomega"
)

func argument(name, declared, effective string) Override {
	o := Override{Kind: Argument, Name: name, Effective: effective}
	if declared != "" {
		o.Declared = &declared
	}
	return o
}

func TestUnexplained(t *testing.T) {
	declared := []string{"--watch-all", "--metrics-addr=:8080", "--level", "info", "--elect"}
	for _, test := range []struct {
		name      string
		declared  []string
		running   []string
		overrides []Override
		want      []string
	}{
		{name: "equal", declared: declared, running: declared},
		{name: "nothing at all"},
		{
			name: "replaced, added and switched off", declared: declared,
			running: []string{"--watch-all", "--metrics-addr=127.0.0.1:1", "--level", "info", "--elect=false", "--kubeconfig=k"},
			overrides: []Override{
				argument("metrics-addr", ":8080", "127.0.0.1:1"), argument("elect", "true", "false"), argument("kubeconfig", "", "k"),
			},
		},
		{
			name: "two words become one", declared: declared,
			running:   []string{"--watch-all", "--metrics-addr=:8080", "--level=debug", "--elect"},
			overrides: []Override{argument("level", "info", "debug")},
		},
		{
			name: "a variable explains no argument", declared: declared, running: append([]string{"--more"}, declared...),
			overrides: []Override{{Kind: Variable, Name: "more", Effective: "true"}},
			want:      []string{"running, but not declared: --more"},
		},
		{
			name: "an argument dropped", declared: declared, running: declared[1:],
			want: []string{"declared, but not running: --watch-all"},
		},
		{
			name: "an argument changed", declared: []string{"--a=1"}, running: []string{"--a=2"},
			want: []string{"declared, but not running: --a=1", "running, but not declared: --a=2"},
		},
		{
			name: "another order", declared: []string{"--a", "--b"}, running: []string{"--b", "--a"},
			want: []string{"out of order: --b"},
		},
		{
			name: "given twice", declared: []string{"--a=1"}, running: []string{"--a=2", "--a=3"},
			overrides: []Override{argument("a", "1", "2")},
			want:      []string{`--a runs as "2", "3", but the override says "2"`},
		},
		{
			name: "an override that is not in effect", declared: []string{"--a=1"}, running: []string{"--a=1"},
			overrides: []Override{argument("a", "1", "2")},
			want:      []string{`--a runs as "1", but the override says "2"`},
		},
		{
			name: "an override that lies of what is declared", declared: []string{"--a=1"}, running: []string{"--a=2"},
			overrides: []Override{argument("a", "0", "2")},
			want:      []string{`--a is declared as "1", but the override says "0"`},
		},
		{
			name: "an override that hides what is declared", declared: []string{"--a=1"}, running: []string{"--a=2"},
			overrides: []Override{argument("a", "", "2")},
			want:      []string{`--a is declared as "1", but the override says that it is not`},
		},
		{
			name: "one dash is as good as two", declared: []string{"-a=1"}, running: []string{"--a=2"},
			overrides: []Override{argument("a", "1", "2")},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			NewWithT(t).Expect(Unexplained(test.declared, test.running, test.overrides)).To(Equal(test.want))
		})
	}
}

func TestSpecNamesEverythingThatIsMissing(t *testing.T) {
	g := NewWithT(t)
	err := Spec{Name: "Not A Label"}.Validate()
	for _, word := range []string{"DNS label", "Dir", "Recognize", "Ports", "Marker"} {
		g.Expect(err).To(MatchError(ContainSubstring(word)))
	}
}
