//go:build live && linux

package program_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// The names that files alone add. One begins with the name of another tenant, the
// other holds a hyphen.
const (
	addedTenant      = "beetle-api"
	addedEnvironment = "stg-eu"
)

// A tenant more, with a port, an image and a shape of configuration of its own, and
// an environment more are judged as all others are: nothing but files names them.
func TestLiveAddedByFilesAlone(t *testing.T) {
	platform, developer := reference(t, nil), values(t)
	addTenant(t, platform, developer)
	addEnvironment(t, platform, developer)
	u := newUser(t).withStore(t)
	report := u.runs(t, "e2e", "--platform", platform, "--developer", developer).ends(t, check.RunPassed)
	u.leavesNothing(t)
	t.Logf("green in %.1f s", report.Seconds)
	environments := list(t, filepath.Join(platform, "clusters"))
	tenants := slices.DeleteFunc(list(t, filepath.Join(developer, addedEnvironment)), func(name string) bool { return strings.HasPrefix(name, ".") })
	if len(environments) != 3 || len(tenants) != 4 {
		t.Fatalf("the copy has the environments %v and the tenants %v, want 3 and 4", environments, tenants)
	}
	for _, c := range report.Checks {
		for _, environment := range environments {
			switch c.Scope {
			case check.ScopeTenant:
				for _, tenant := range tenants {
					judged(t, report, c.ID, environment, tenant)
				}
			case check.ScopeEnvironment:
				judged(t, report, c.ID, environment, "")
			case check.ScopePlatform:
				judged(t, report, c.ID, "", "")
			}
		}
	}
}

// judged fails the test unless the report holds one outcome of the check there,
// and it passed or is not supported.
func judged(t *testing.T, report check.Report, id, environment, tenant string) {
	t.Helper()
	var found []check.Result
	for _, o := range report.Outcomes {
		if o.Check == id && o.Environment == environment && o.Tenant == tenant {
			found = append(found, o.Result)
		}
	}
	if len(found) != 1 || found[0] != check.Passed && found[0] != check.NotSupported {
		t.Errorf("check %s %s %s has the outcomes %v, want one that passed or is not supported", id, environment, tenant, found)
	}
}

// A tenant whose Kustomization is broken fails its own checks, with Flux's words,
// and those that look at all of Flux; everybody else is judged as usual.
func TestLiveBrokenTenant(t *testing.T) {
	const broken, nowhere, words = "sonar", "./apps/nowhere", "kustomization path not found"
	platform := reference(t, map[string]func(string) string{
		"clusters/dev/" + broken + "/kustomization.yaml": replaced("path: ./apps/base", "path: "+nowhere),
	})
	u := newUser(t).withStore(t)
	report := u.e2e(t, "--platform", platform).ends(t, check.RunFailed)
	u.leavesNothing(t)
	failed := 0
	for _, o := range report.Outcomes {
		switch {
		case o.Result == check.NotSupported || o.Result == check.Skipped:
		case o.Tenant == broken && o.Check == "FILE-014":
			if o.Result != check.Failed || !strings.Contains(o.Found, nowhere) || !strings.Contains(o.Found, broken+"/"+broken) {
				t.Errorf("check %s of %s is %s, want FAILED with %q: %s", o.Check, o.Tenant, o.Result, nowhere, o.Found)
			}
		case o.Result == check.Passed && strings.HasPrefix(o.Check, "FILE-"): // what is wrong is in no file alone
		case o.Tenant == broken || o.Check == "BOOT-001":
			failed++
			if o.Result != check.Failed || !strings.Contains(o.Found, words) || !strings.Contains(o.Found, broken+"/"+broken) {
				t.Errorf("check %s of %s is %s, want FAILED with %q: %s", o.Check, o.Tenant, o.Result, words, o.Found)
			}
		case o.Result != check.Passed:
			t.Errorf("check %s %s is %s, want PASSED: %s", o.Check, o.Tenant, o.Result, o.Found)
		}
	}
	if failed < 2 {
		t.Errorf("%d checks failed for %s", failed, broken)
	}
}

// values copies the developers' values.
func values(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flux_developer")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(moduleRoot, "fixtures", "flux_developer"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// addTenant does what CONTRIBUTING.md says of a tenant: it copies the files of
// another, with the new name in them, and lists them beside the originals.
func addTenant(t *testing.T, platform, developer string) {
	t.Helper()
	const like = "beetle"
	renamed := renaming(like, addedTenant)
	for _, folder := range []string{"infrastructure/namespaces", "infrastructure/tenants"} {
		copied(t, at(platform, folder, like+".yaml"), at(platform, folder, addedTenant+".yaml"), renamed)
		edited(t, at(platform, folder, "kustomization.yaml"), "- "+like+".yaml\n", "- "+like+".yaml\n- "+addedTenant+".yaml\n")
	}
	for _, environment := range list(t, filepath.Join(platform, "clusters")) {
		cluster := at(platform, "clusters", environment)
		for _, name := range []string{"gitrepository.yaml", "kustomization.yaml"} {
			copied(t, at(cluster, like, name), at(cluster, addedTenant, name), renamed)
			line := like + "/" + name + "\n"
			edited(t, at(cluster, "kustomization.yaml"), "- "+line, "- "+line+"- "+renamed(line))
		}
		edited(t, at(cluster, addedTenant, "kustomization.yaml"), "      kind: Deployment\n      name: app\n    patch: |\n",
			"      kind: Deployment\n      name: app\n    patch: |\n"+
				"      - {op: replace, path: /spec/template/spec/containers/0/ports/0/containerPort, value: 9090}\n")
		copied(t, "testdata/"+addedTenant+"/environment.yaml", at(developer, environment, addedTenant, "config.yaml"), nil)
	}
	copied(t, "testdata/"+addedTenant+"/base.yaml", at(developer, "base", addedTenant, "config.yaml"), nil)
	copied(t, "testdata/"+addedTenant+"/schema.json", at(developer, "schemas", addedTenant+".schema.json"), nil)
}

// addEnvironment copies an environment, with the new name in its files, and the
// developers' values for it as they are.
func addEnvironment(t *testing.T, platform, developer string) {
	t.Helper()
	const like = "dev"
	copiedTree(t, at(platform, "clusters", like), at(platform, "clusters", addedEnvironment), renaming(like, addedEnvironment))
	copiedTree(t, at(developer, like), at(developer, addedEnvironment), nil)
}

// renaming replaces a name where it stands as a word.
func renaming(name, by string) func(string) string {
	word := regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`)
	return func(text string) string { return word.ReplaceAllString(text, by) }
}

func at(parts ...string) string { return filepath.Join(parts...) }

// copied makes a file of another, changed unless nothing is to be.
func copied(t *testing.T, from, to string, changed func(string) string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if changed != nil {
		content = []byte(changed(string(content)))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// copiedTree makes a folder of another, file by file.
func copiedTree(t *testing.T, from, to string, changed func(string) string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			copiedTree(t, at(from, entry.Name()), at(to, entry.Name()), changed)
		} else {
			copied(t, at(from, entry.Name()), at(to, entry.Name()), changed)
		}
	}
}

// edited replaces a text that stands in a file once.
func edited(t *testing.T, name, before, after string) {
	t.Helper()
	copied(t, name, name, func(content string) string {
		if n := strings.Count(content, before); n != 1 {
			t.Fatalf("%s holds %q %d times, not once: it has another form than this test knows", name, before, n)
		}
		return strings.Replace(content, before, after, 1)
	})
}
