package check_test

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// statement is a valid check.
func statement(id string, scope check.Scope) check.Check {
	return check.Check{
		ID: id, Title: "Statement " + id + " holds", Why: "else something breaks", Remedy: "mend it",
		Reference: "https://example.org/" + id, Level: check.Core, Scope: scope,
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*check.Check)
		want   string
	}{
		{"small letters", func(c *check.Check) { c.ID = "boot-001" }, `id "boot-001" is not of the form AREA-NNN`},
		{"two digits", func(c *check.Check) { c.ID = "BOOT-01" }, `id "BOOT-01" is not of the form AREA-NNN`},
		{"a path", func(c *check.Check) { c.ID = "../BOOT-001" }, `id "../BOOT-001" is not of the form AREA-NNN`},
		{"no title", func(c *check.Check) { c.Title = " " }, "title is empty"},
		{"no why", func(c *check.Check) { c.Why = "" }, "why is empty"},
		{"no remedy", func(c *check.Check) { c.Remedy = "" }, "remedy is empty"},
		{"no reference", func(c *check.Check) { c.Reference = "" }, "reference is empty"},
		{"no level", func(c *check.Check) { c.Level = "" }, `level "" is neither core nor extended`},
		{"unknown scope", func(c *check.Check) { c.Scope = "galaxy" }, `scope "galaxy" is none of platform, environment, tenant`},
		{"empty need", func(c *check.Check) { c.Needs = []string{""} }, "needs has an empty entry"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			c := statement("BOOT-001", check.ScopeEnvironment)
			g.Expect(c.Validate()).To(Succeed())
			test.change(&c)
			g.Expect(c.Validate()).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

func TestValidateNamesAllMistakes(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(check.Check{}.Validate()).To(MatchError(And(
		ContainSubstring("id"), ContainSubstring("title"), ContainSubstring("why"), ContainSubstring("remedy"),
		ContainSubstring("reference"), ContainSubstring("level"), ContainSubstring("scope"))))
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var registry check.Registry
	g.Expect(registry.Add(
		statement("ZZZ-001", check.ScopePlatform),
		statement("TEN-002", check.ScopeTenant),
		statement("TEN-001", check.ScopeTenant),
		statement("BOOT-001", check.ScopeEnvironment),
	)).To(Succeed())

	again := statement("TEN-001", check.ScopeTenant)
	again.Title = "Another one"
	g.Expect(registry.Add(again)).To(MatchError(
		`check TEN-001 is registered twice: "Statement TEN-001 holds" and "Another one"`))
	kept, ok := registry.Get("TEN-001")
	g.Expect(ok).To(BeTrue())
	g.Expect(kept.Title).To(Equal("Statement TEN-001 holds"))
	g.Expect(registry.Add(check.Check{ID: "TEN-003"})).To(MatchError(ContainSubstring("title is empty")))
	_, ok = registry.Get("TEN-003")
	g.Expect(ok).To(BeFalse())

	for _, test := range []struct {
		name     string
		patterns []string
		want     []string
	}{
		{"nothing selects all, in the order of the areas", nil, []string{"BOOT-001", "TEN-001", "TEN-002", "ZZZ-001"}},
		{"an ID", []string{"TEN-002"}, []string{"TEN-002"}},
		{"an area", []string{"TEN"}, []string{"TEN-001", "TEN-002"}},
		{"small letters and spaces", []string{" ten-001 ", "boot"}, []string{"BOOT-001", "TEN-001"}},
		{"a glob", []string{"*-001"}, []string{"BOOT-001", "TEN-001", "ZZZ-001"}},
		{"one named twice", []string{"TEN-001", "TEN-00[12]"}, []string{"TEN-001", "TEN-002"}},
	} {
		chosen, err := registry.Select(test.patterns)
		g.Expect(err).NotTo(HaveOccurred(), test.name)
		ids := make([]string, 0, len(chosen))
		for _, c := range chosen {
			ids = append(ids, c.ID)
		}
		g.Expect(ids).To(Equal(test.want), test.name)
	}

	_, err := registry.Select([]string{"TEN", "TEM-001", "BOTO", "T[", "WHATEVER-*"})
	g.Expect(err).To(MatchError(And(
		ContainSubstring(`no check is named "TEM-001"; did you mean TEN-001 or TEN-002?`),
		ContainSubstring(`no check is named "BOTO"; did you mean BOOT?`),
		ContainSubstring(`check pattern "T[" is malformed`),
		ContainSubstring(`no check is named "WHATEVER-*"; there are BOOT, BOOT-001, TEN, TEN-001, TEN-002, ZZZ, ZZZ-001`),
	)))
	_, err = registry.Select([]string{""})
	g.Expect(err).To(MatchError(ContainSubstring(`no check is named ""`)))
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		candidates []string
		want       []string
	}{
		{"betle", []string{"beetle", "sonar", "tiger"}, []string{"beetle"}},
		{"TIGER ", []string{"beetle", "sonar", "tiger"}, []string{"tiger"}},
		{"dve", []string{"dev", "prd"}, []string{"dev"}},
		{"prod", []string{"dev", "prd"}, []string{"prd"}},
		{"xy", []string{"dev", "prd", "ab"}, nil},
		{"elephant", []string{"dev", "prd"}, nil},
		{"", []string{"dev"}, nil},
		{"team-1", []string{"team-9", "team-2", "team-2", "team-3", "team-10"}, []string{"team-10", "team-2", "team-3"}},
	} {
		NewWithT(t).Expect(check.Nearest(test.name, test.candidates)).To(Equal(test.want), test.name)
	}
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(check.DidYouMean("dve", []string{"prd", "dev"})).To(Equal("; did you mean dev?"))
	g.Expect(check.DidYouMean("staging", []string{"prd", "dev"})).To(Equal("; there are dev, prd"))
	g.Expect(check.DidYouMean("staging", nil)).To(BeEmpty())
	g.Expect(check.DidYouMean("none", make([]string, 100))).To(BeEmpty())
}
