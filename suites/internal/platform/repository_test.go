package platform

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestMisplaced(t *testing.T) {
	tenants := []*Tenant{{Name: "beetle"}, {Name: "sonar"}}
	p := &Platform{Environments: []*Environment{{Name: "dev", Tenants: tenants}, {Name: "prd", Tenants: tenants}}}
	g := NewWithT(t)
	g.Expect(p.Misplaced("dev", "beetle", "dev/beetle/config.yaml")).To(BeEmpty())
	g.Expect(p.Misplaced("dev", "beetle", "base/beetle/config.yaml")).To(BeEmpty())
	g.Expect(p.Misplaced("dev", "beetle", "prd/beetle/config.yaml")).To(Equal("which is of the environment prd"))
	g.Expect(p.Misplaced("dev", "beetle", "dev/sonar/config.yaml")).To(Equal("which is of the tenant sonar"))
}

func TestRepositories(t *testing.T) {
	g := NewWithT(t)
	p := mustLoad(t, small().with(files{
		".sourceignore":      "# notes\n/docs\n/apps/*\n!/apps/base\n*.md\n",
		"apps/.sourceignore": "base/configmap.yaml\n",
		"docs/a.txt":         "a",
		"apps/base/READ.md":  "a",
	}), nil)
	repositories := p.Repositories()
	g.Expect(repositories).To(HaveLen(1))
	r := repositories[0]
	g.Expect(r.URL).To(Equal(platformURL))
	g.Expect(r.Files()).To(ContainElements("docs/a.txt", "apps/base/configmap.yaml", ".sourceignore"))
	places := map[string]string{}
	for _, i := range r.Ignored(".") {
		places[i.File] = i.By.String()
	}
	g.Expect(places).To(HaveKeyWithValue("docs/a.txt", ".sourceignore:2"))
	g.Expect(places).To(HaveKeyWithValue("apps/base/READ.md", ".sourceignore:5"))
	g.Expect(places).To(HaveKeyWithValue("apps/base/configmap.yaml", "apps/.sourceignore:1"))
	g.Expect(r.Ignored("clusters")).To(BeEmpty())
}

func TestReads(t *testing.T) {
	g := NewWithT(t)
	p := mustLoad(t, small(), nil)
	k := p.Environments[0].Tenants[0].Kustomization
	reads, built := k.Reads()
	g.Expect(built).To(BeTrue())
	var names []string
	for _, r := range reads {
		names = append(names, r.File)
	}
	g.Expect(names).To(ConsistOf("apps/base/configmap.yaml"))

	broken := mustLoad(t, small().with(files{"apps/base/kustomization.yaml": "resources: [none.yaml]\n"}), nil)
	reads, built = broken.Environments[0].Tenants[0].Kustomization.Reads()
	g.Expect(built).To(BeFalse())
	g.Expect(len(reads)).To(BeNumerically(">", 3), "it is not known which of the artifact it would have read")
}

// kustomize tells neither the file nor the line of a key that stands twice.
func TestKeyThatStandsTwice(t *testing.T) {
	g := NewWithT(t)
	p := mustLoad(t, small().with(files{"apps/base/configmap.yaml": configMap + "data:\n  other: text\n"}), nil)
	g.Expect(p.Problems).To(HaveLen(1))
	g.Expect(p.Problems[0].Err).To(MatchError(`apps/base/configmap.yaml:7: duplicate key "data", first on line 5`))

	documents, err := Decode(strings.NewReader("1: a\n\"1\": b\n? [a]\n: c\nx: {y: 1, z: {y: 2}}\n"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(Repeated(documents[0])).To(BeEmpty())
}
