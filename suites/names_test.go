package suites

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// Tenants and environments are data: no text in the code names one of the
// reference platform, or those that are added to it would be judged otherwise.
func TestNoTenantOrEnvironmentInCode(t *testing.T) {
	g := NewWithT(t)
	var names []string
	environments, err := os.ReadDir("../fixtures/flux_platform/clusters")
	g.Expect(err).NotTo(HaveOccurred())
	for _, environment := range environments {
		names = append(names, environment.Name())
		folders, err := os.ReadDir(filepath.Join("../fixtures/flux_platform/clusters", environment.Name()))
		g.Expect(err).NotTo(HaveOccurred())
		for _, folder := range folders {
			if folder.IsDir() && folder.Name() != "flux-system" {
				names = append(names, folder.Name())
			}
		}
	}
	g.Expect(names).NotTo(BeEmpty())
	named := regexp.MustCompile(`(^|[^/\w])(` + strings.Join(names, "|") + `)\b`) // not /dev/null
	g.Expect(`get pods of "tiger"`).To(MatchRegexp(named.String()))
	files := 0
	err = filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return err
		}
		files++
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, name, nil, parser.SkipObjectResolution)
		ast.Inspect(file, func(node ast.Node) bool {
			if text, ok := node.(*ast.BasicLit); ok && text.Kind == token.STRING && named.MatchString(text.Value) {
				t.Errorf("%s: %s names a tenant or an environment", positions.Position(text.Pos()), text.Value)
			}
			return true
		})
		return err
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(files).To(BeNumerically(">", 50))
}
