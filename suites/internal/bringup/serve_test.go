package bringup

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

func gitObject() platform.Object {
	return platform.Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{"kind": "GitRepository", "apiVersion": "source.toolkit.fluxcd.io/v1"}}}
}

// What is served of the one working tree: each branch and tag that is asked for.
func TestReferences(t *testing.T) {
	const address = "https://github.com/acme/values"
	for _, test := range []struct {
		name           string
		refs           []platform.Ref
		branches, tags []string
	}{
		{"nobody asks", nil, []string{"main"}, nil},
		{"what Flux takes when nothing is said", []platform.Ref{{}}, []string{"master"}, nil},
		{"a branch", []platform.Ref{{Branch: "trunk"}}, []string{"trunk"}, nil},
		{"a tag needs a branch to stand on", []platform.Ref{{Tag: "v1.2.3"}}, []string{"main"}, []string{"v1.2.3"}},
		{"a range, by a version that lies in it", []platform.Ref{{SemVer: ">=1.4.0 <2.0.0"}}, []string{"main"}, []string{"v1.4.0"}},
		{"a range in which nothing lies is Flux's to refuse", []platform.Ref{{SemVer: ">2.0.0 <1.0.0"}}, []string{"main"}, nil},
		{"a range that cannot be read", []platform.Ref{{SemVer: "latest"}}, []string{"main"}, nil},
		{"full names", []platform.Ref{{Name: "refs/heads/next"}, {Name: "refs/tags/v2.0.0"}, {Name: "refs/pull/4/head"}}, []string{"next"}, []string{"v2.0.0"}},
		{"several, each once", []platform.Ref{{Branch: "main"}, {Branch: "main", Commit: "abc"}, {Tag: "v1.0.0"}, {SemVer: "1.0.0"}}, []string{"main"}, []string{"v1.0.0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			sources := []platform.Source{{URL: "https://github.com/acme/other", Ref: platform.Ref{Branch: "foreign", Tag: "v9.9.9"}}}
			for _, ref := range test.refs {
				sources = append(sources, platform.Source{URL: "ssh://git@github.com/acme/values.git", Ref: ref})
			}
			branches, tags := asking(sources...).references(address)
			g.Expect(branches).To(ConsistOf(test.branches))
			g.Expect(tags).To(ConsistOf(test.tags))
		})
	}
}

// Each URL by which one repository is asked for needs an answer of its own.
func TestSpellings(t *testing.T) {
	g := NewWithT(t)
	b := asking(
		platform.Source{URL: "https://github.com/acme/values.git"},
		platform.Source{URL: "ssh://git@github.com/acme/values"},
		platform.Source{URL: "ssh://git@github.com/acme/values", Ref: platform.Ref{Tag: "v1.0.0"}},
		platform.Source{URL: "https://github.com/acme/other"},
	)
	g.Expect(b.spellings("https://github.com/acme/values")).To(Equal([]string{"https://github.com/acme/values", "ssh://git@github.com/acme/values"}))
	g.Expect(b.spellings("https://github.com/acme/other")).To(Equal([]string{"https://github.com/acme/other"}))
}

func TestBarePathTellsURLsApart(t *testing.T) {
	g := NewWithT(t)
	one, two := barePath("/dir", "https://github.com/acme/values"), barePath("/dir", "https://github.com/other/values")
	g.Expect(one).NotTo(Equal(two))
	g.Expect(one).To(MatchRegexp(`^/dir/git/values-[0-9a-f]{8}\.git$`))
	g.Expect(barePath("/dir", "git@github.com:acme/values.git")).To(MatchRegexp(`^/dir/git/values-[0-9a-f]{8}\.git$`))
}

func TestAsChange(t *testing.T) {
	g := NewWithT(t)
	change := AsChange(map[string][]byte{"a": []byte("x"), "gone": nil}, []string{"v1.0.0"}, "FLT-001")
	g.Expect(change.Files).To(HaveLen(2))
	g.Expect(string(change.Files["a"].Content)).To(Equal("x"))
	g.Expect(change.Files["gone"]).To(BeNil())
	g.Expect(change.Tags).To(Equal([]string{"v1.0.0"}))
	g.Expect(change.Message).To(Equal("FLT-001"))
}

func TestModuleVersion(t *testing.T) {
	g := NewWithT(t)
	g.Expect(moduleVersion("/cache/github.com/fluxcd/flux2/v2@v2.9.5")).To(Equal("v2.9.5"))
	g.Expect(moduleVersion("/cache/flux2")).To(BeEmpty())
}
