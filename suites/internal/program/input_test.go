package program

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/files"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// assets is what the program ships, from the working tree.
var assets = func() fs.FS {
	root, err := filepath.Abs("../../..")
	if err != nil {
		panic(err)
	}
	return os.DirFS(root)
}()

// suite has the checks that the shipped faults name, and no specs.
func suite(t *testing.T) Suite {
	t.Helper()
	faults, err := overlay.Load(assets, faultsFolder, overlay.Fault)
	if err != nil {
		t.Fatal(err)
	}
	registry := &check.Registry{}
	for _, fault := range faults {
		for _, id := range append(slices.Sorted(maps.Keys(fault.Expect.Fails)), fault.Expect.MayFollow...) {
			if _, known := registry.Get(id); known || !strings.Contains(id, "-") || files.Is(id) { // an area has checks of its own
				continue
			}
			err := registry.Add(check.Check{
				ID: id, Title: "it holds", Why: "it must", Remedy: "mend it", Reference: "https://fluxcd.io",
				Level: check.Core, Scope: check.ScopeEnvironment,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range files.Checks() {
		if err := registry.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	plan := func(view *bringup.View, selection Selection) []check.Planned {
		var environments []string
		for _, e := range view.Platform.Environments {
			environments = append(environments, e.Name)
		}
		chosen, err := registry.Select(selection.Checks)
		if err != nil {
			t.Error(err)
		}
		return check.Plan(registry.All(), environments, func(string) []string { return view.Platform.TenantNames() }, func(c check.Check, _, _ string) string {
			if !slices.ContainsFunc(chosen, func(other check.Check) bool { return other.ID == c.ID }) {
				return "left out"
			}
			return ""
		})
	}
	return Suite{Registry: registry, Plan: plan}
}

// invocation is one run of the program in a state root of its own.
type invocation struct {
	*program
	home        string
	out, errOut bytes.Buffer
}

func newInvocation(t *testing.T, args ...string) *invocation {
	t.Helper()
	i := &invocation{home: t.TempDir()}
	t.Setenv(session.HomeVariable, i.home)
	t.Setenv("NO_COLOR", "1")
	// Input that is not refused must not have this test run itself.
	i.program = &program{suite: suite(t), assets: assets, out: &i.out, errOut: &i.errOut, args: args, executable: "/bin/false"}
	return i
}

// terminal is all that the user sees, with the lines that were wrapped joined.
func (i *invocation) terminal() string {
	return strings.Join(strings.Fields(i.out.String()+i.errOut.String()), " ")
}

// left lists what lies in the state root.
func (i *invocation) left(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(i.home, func(name string, _ fs.DirEntry, err error) error {
		if name != i.home {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// edit changes a copy of a folder; it fails the test when it changes nothing.
type edit func(t *testing.T, dir string)

func at(dir, name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }

func replace(name, old, changed string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		data, err := os.ReadFile(at(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(data), old) != 1 {
			t.Fatalf("%s holds %q %d times, not once", name, old, strings.Count(string(data), old))
		}
		write(name, strings.Replace(string(data), old, changed, 1))(t, dir)
	}
}

func write(name, content string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		if _, err := os.Stat(at(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(at(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func all(edits ...edit) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		for _, e := range edits {
			e(t, dir)
		}
	}
}

// reference copies the reference platform, edits the copy and returns it.
func reference(t *testing.T, e edit) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flux_platform")
	shipped, err := fs.Sub(assets, "fixtures/flux_platform")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, shipped); err != nil {
		t.Fatal(err)
	}
	if e != nil {
		e(t, dir)
	}
	return dir
}

const tenant = "clusters/dev/beetle/kustomization.yaml"

// second declares another Kustomization of the tenant beetle, in a namespace of
// its own.
const second = `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: beetle
  namespace: sonar
  labels:
    toolkit.fluxcd.io/tenant: NAME
spec:
  interval: 10m
  sourceRef:
    kind: GitRepository
    name: flux-system
    namespace: flux-system
  path: ./infrastructure/tenants
  namePrefix: second-
  prune: true
`

// withoutTenant takes the only tenant out of both environments.
func withoutTenant() edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		for _, env := range []string{"dev", "prd"} {
			folders, err := os.ReadDir(filepath.Join(dir, "clusters", env))
			if err != nil {
				t.Fatal(err)
			}
			for _, folder := range folders {
				if name := folder.Name(); folder.IsDir() && name != "flux-system" {
					lines := "- " + name + "/gitrepository.yaml\n- " + name + "/kustomization.yaml\n"
					all(replace("clusters/"+env+"/kustomization.yaml", lines, ""), remove("clusters/"+env+"/"+name))(t, dir)
				}
			}
		}
	}
}

// kinds is how the Kustomization begins that comes first in infrastructure.yaml.
const kinds = "  name: kyverno-crds-policies\n  namespace: flux-system\nspec:\n  interval: 1h\n"

// Each bad input, with what the user must be told. Where the input is a copy of
// the reference platform with one mistake, the same copy without it is the
// control, in TestGoodInputGetsPastTheInput.
func TestBadInput(t *testing.T) {
	config := func(t *testing.T, content string) string {
		t.Helper()
		dir := t.TempDir()
		write("conformance.yaml", content)(t, dir)
		return filepath.Join(dir, "conformance.yaml")
	}
	flags := func(list ...string) func(*testing.T) []string {
		return func(*testing.T) []string { return list }
	}
	platform := func(e edit) func(*testing.T) []string {
		return func(t *testing.T) []string { t.Helper(); return []string{"--platform", reference(t, e)} }
	}
	for _, test := range []struct {
		name string
		args func(t *testing.T) []string
		want []string
	}{
		{
			"no such PLATFORM", func(t *testing.T) []string {
				return []string{"--platform", filepath.Join(reference(t, nil), "..", "flux_platfrom")}
			},
			[]string{"PLATFORM: folder ", "flux_platfrom does not exist; is flux_platform meant?"},
		},
		{
			"PLATFORM is a file", func(t *testing.T) []string {
				return []string{"--platform", filepath.Join(reference(t, nil), "README.md")}
			},
			[]string{"PLATFORM: ", "README.md is a file, the root folder of a repository is wanted"},
		},
		{
			"no such DEVELOPER", func(t *testing.T) []string { return []string{"--developer", filepath.Join(t.TempDir(), "values")} },
			[]string{"DEVELOPER: folder ", "values does not exist"},
		},
		{
			"no clusters", platform(remove("clusters")),
			[]string{"has no folder clusters/; a platform repository has one folder clusters/ENV for each environment, each with a flux-system folder in it"},
		},
		{
			"an environment without flux-system", platform(remove("clusters/prd/flux-system")),
			[]string{"clusters/prd is an environment without flux-system: folder clusters/prd/flux-system does not exist; «flux bootstrap --path=clusters/prd» writes it"},
		},
		{"unknown ENVS", flags("--environments", "dve"), []string{`the platform has no environment "dve"; is dev meant? (it has dev, prd)`}},
		{"unknown TENANTS", flags("--tenants", "betle"), []string{`the platform has no tenant "betle"; is beetle meant? (it has beetle, sonar, tiger)`}},
		{
			"unknown CHECKS", flags("--checks", "TNE,BOOT-01"),
			[]string{`no check is named "TNE"; did you mean TEN?`, `no check is named "BOOT-01"; did you mean BOOT-001 or BOOT-002 or BOOT-003?`},
		},
		{
			"unknown names of all sorts at once", flags("--checks", "TNE", "--environments", "dve", "--tenants", "betle"),
			[]string{`no check is named "TNE"`, `no environment "dve"`, `no tenant "betle"`},
		},
		{
			"YAML that does not parse", platform(replace("clusters/dev/infrastructure.yaml", kinds+"  retryInterval: 30s\n", kinds+"  retryInterval: [30s\n")),
			[]string{"clusters/dev/infrastructure.yaml:11: not valid YAML"},
		},
		{
			"a Kustomization path that does not exist", platform(replace("clusters/prd/infrastructure.yaml", "path: ./infrastructure/tenants", "path: ./infrastructure/tenant")),
			[]string{"clusters/prd/infrastructure.yaml:", "Kustomization flux-system/tenants in environment prd", `path "./infrastructure/tenant" does not exist in the artifact; is infrastructure/tenants meant?`},
		},
		{
			"two tenants of one name", platform(all(
				write("clusters/dev/second.yaml", strings.Replace(second, "NAME", "beetle", 1)),
				replace("clusters/dev/kustomization.yaml", "- beetle/kustomization.yaml\n", "- beetle/kustomization.yaml\n- second.yaml\n"),
			)),
			[]string{"two tenants of environment dev are named beetle", tenant + ":1", "clusters/dev/second.yaml:1", "give each a name of its own"},
		},
		{
			"a platform with no tenant", platform(withoutTenant()),
			[]string{"has no tenant in any environment (dev, prd)", "toolkit.fluxcd.io/tenant"},
		},
		{
			"no such CONFIG", func(t *testing.T) []string {
				return []string{"--config", filepath.Join(t.TempDir(), "conformance.yaml")}
			},
			[]string{"read CONFIG file", "conformance.yaml: no such file or directory"},
		},
		{
			"mistakes in CONFIG, all in one message", func(t *testing.T) []string {
				return []string{"--config", config(t, `apiVersion: conformance.flux-platform/v1alpha1
kind: Config
source: []
timeouts: {multiplier: much}
waivers:
- {check: CFG-2, reason: later, expires: 2027-01-31}
`)}
			},
			[]string{
				`conformance.yaml:3: unknown key "source"; is sources meant?`,
				`conformance.yaml:4: timeouts.multiplier: a number is wanted, this is "much"`,
				`conformance.yaml:6: waivers[0].check: the ID of a check like CFG-002 is wanted, this is "CFG-2"`,
			},
		},
		{
			"an environment in CONFIG that the platform has not", func(t *testing.T) []string {
				return []string{"--config", config(t, "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nenvironments: [stg]\n")}
			},
			[]string{`the platform has no environment "stg"`, "it has dev, prd"},
		},
		{"unknown provider", flags("--provider", "embeded"), []string{`there is no provider "embeded"; did you mean embedded?`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			artifacts := t.TempDir()
			i := newInvocation(t, append([]string{"e2e", "--artifacts", artifacts}, test.args(t)...)...)
			g.Expect(i.run(t.Context())).To(Equal(2), i.terminal())
			report := readReport(t, artifacts)
			g.Expect(report.Result).To(Equal(check.RunInvalidInput))
			g.Expect(report.ExitCode).To(Equal(2))
			g.Expect(report.Outcomes).To(BeEmpty())
			written := strings.Join(strings.Fields(strings.Join(report.Problems, " ")), " ")
			for _, want := range test.want {
				g.Expect(written).To(ContainSubstring(want))
				// A line may be broken at any of its spaces.
				g.Expect(i.terminal()).To(ContainSubstring(want))
			}
			g.Expect(i.out.String()).To(HavePrefix("\nINVALID-INPUT "), "the problem comes first")
			g.Expect(i.out.String()).To(MatchRegexp(`(?m)^invalid-input: `))
			junit, err := os.ReadFile(filepath.Join(artifacts, check.JUnitFile))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(junit)).To(ContainSubstring("invalid-input"))
			g.Expect(i.left(t)).To(BeEmpty(), "what is left in the state root")
		})
	}
}

func readReport(t *testing.T, artifacts string) check.Report {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(artifacts, check.ReportFile))
	if err != nil {
		t.Fatal(err)
	}
	var report check.Report
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	return report
}

func TestGoodInputGetsPastTheInput(t *testing.T) {
	for _, test := range []struct {
		name string
		in   func(t *testing.T) input
	}{
		{"the reference platform", func(*testing.T) input { return input{} }},
		{"a copy of it", func(t *testing.T) input { return input{Options: bringup.Options{Platform: reference(t, nil)}} }},
		{"names that exist", func(*testing.T) input {
			return input{Options: bringup.Options{Provider: "embedded", Environments: []string{"dev"}, Tenants: []string{" beetle"}}, checks: []string{"TEN", "boot-001"}}
		}},
		{"YAML that parses", func(t *testing.T) input {
			return input{Options: bringup.Options{Platform: reference(t, replace("clusters/dev/infrastructure.yaml", kinds+"  retryInterval: 30s\n", kinds+"  retryInterval: 31s\n"))}}
		}},
		{"two tenants of two names", func(t *testing.T) input {
			return input{Options: bringup.Options{Platform: reference(t, all(
				write("clusters/dev/second.yaml", strings.Replace(second, "NAME", "heron", 1)),
				replace("clusters/dev/kustomization.yaml", "- beetle/kustomization.yaml\n", "- beetle/kustomization.yaml\n- second.yaml\n"),
			))}}
		}},
		{"CONFIG without a mistake", func(t *testing.T) input {
			dir := t.TempDir()
			write("conformance.yaml", "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nenvironments: [dev]\ntimeouts: {multiplier: 2}\n")(t, dir)
			return input{Options: bringup.Options{Config: filepath.Join(dir, "conformance.yaml")}}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			i := newInvocation(t)
			in := test.in(t)
			in.artifacts = t.TempDir()
			g.Expect(i.prepare(t.Context(), &in)).To(Succeed())
			g.Expect(i.terminal()).To(BeEmpty())
			g.Expect(i.left(t)).To(BeEmpty())
		})
	}
}

// A platform that asks for a URL without an answer is brought up all the same:
// what is refused is told before, and judged after.
func TestURLWithoutAnAnswerIsAnnounced(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t)
	const canary = "https://git.example/elsewhere/policies"
	in := input{artifacts: t.TempDir(), Options: bringup.Options{Platform: reference(t, replace("infrastructure/kyverno-policies/gitrepository.yaml", "https://github.com/your-org/policies", canary))}}
	g.Expect(i.prepare(t.Context(), &in)).To(Succeed())
	g.Expect(i.terminal()).To(And(
		ContainSubstring("note: some URLs will be refused: "+canary+" (GitRepository at "),
		ContainSubstring("infrastructure/kyverno-policies/gitrepository.yaml:"),
		ContainSubstring("map it in CONFIG under «sources»: - url: "+canary),
	))
}

// What is wrong with one tenant does not keep the others from being judged: it is
// told before, and judged after.
func TestBrokenTenantIsAnnounced(t *testing.T) {
	const sonar = "clusters/dev/sonar/kustomization.yaml"
	for _, test := range []struct {
		name string
		edit edit
		want string
	}{
		{
			"its base is missing", replace(sonar, "path: ./apps/base", "path: ./apps/bass"),
			sonar + `:1: Kustomization sonar/sonar in environment dev: path "./apps/bass" does not exist in the artifact; is apps/base meant?`,
		},
		{
			"its patch is none", replace(sonar, "path: /spec/replicas", "path: /spec/replica/s"),
			sonar + ":1: Kustomization sonar/sonar in environment dev: ",
		},
		{
			"its values are missing", replace("clusters/dev/sonar/gitrepository.yaml", "fromPath: dev/sonar", "fromPath: dev/sonars"),
			`GitRepository sonar/platform: include of developer: fromPath "dev/sonars" does not exist in https://github.com/your-org/flux_developer; add it there, or mend fromPath; is dev/sonar meant?`,
		},
		{
			"its objects are another's", replace(sonar, "namePrefix: dev-sonar-", "namePrefix: dev-beetle-"),
			"Deployment apps/dev-beetle-app in environment dev: declared twice: by Kustomization beetle/beetle of " + tenant + ":1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			i := newInvocation(t)
			in := input{artifacts: t.TempDir(), Options: bringup.Options{Platform: reference(t, test.edit)}}
			g.Expect(i.prepare(t.Context(), &in)).To(Succeed())
			g.Expect(i.terminal()).To(And(HavePrefix("note: some checks will fail: "), ContainSubstring(test.want)))
		})
	}
}

func TestWrongCommandLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"e2"}, `there is no command "e2"; did you mean e2e?; --help lists the commands`},
		{[]string{"e2e", "--platfrom", "x"}, "unknown flag: --platfrom; did you mean platform?; «flux-platform-conformance e2e --help» lists the flags"},
		{[]string{"e2e", "--keep=perhaps"}, `invalid argument "perhaps" for "--keep" flag`},
		{[]string{"e2e", "PLATFORM=x"}, `e2e takes flags only, and "PLATFORM=x" is none; «flux-platform-conformance e2e --help» lists them`},
		{[]string{"up", "--platform", "/there/is/none"}, "PLATFORM: folder /there/is/none does not exist"},
		{[]string{"prove", "--platform", "/there/is/none"}, "PLATFORM: folder /there/is/none does not exist"},
		{[]string{"prove", "--faults", "FLT-0001"}, "there is no fault FLT-0001; did you mean FLT-001"},
		{[]string{"down"}, "no session is running"},
		{[]string{"components", "--provider", "knd"}, `there is no provider "knd"; did you mean kind?`},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			g := NewWithT(t)
			t.Chdir(t.TempDir()) // where the default folder of artifacts is made
			i := newInvocation(t, test.args...)
			g.Expect(i.run(t.Context())).To(Equal(2))
			g.Expect(i.errOut.String()).To(And(HavePrefix("error: "), ContainSubstring(test.want)))
			g.Expect(i.left(t)).To(BeEmpty())
		})
	}
}

func TestHelpNamesDefaultsAndExitCodes(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t, "e2e", "--help")
	g.Expect(i.run(t.Context())).To(Equal(0))
	for _, flag := range []string{"artifacts", "checks", "config", "developer", "environments", "keep", "platform", "provider", "tenants"} {
		g.Expect(i.out.String()).To(MatchRegexp(`(?m)^ +--` + flag + `\b.*(default|end it with)`))
	}
	root := newInvocation(t)
	g.Expect(root.run(t.Context())).To(Equal(0))
	g.Expect(root.out.String()).To(ContainSubstring("Exit codes: 0 all core checks passed; 1 a check failed; 2 the input is wrong; 3 the run could not be carried out."))
	g.Expect(root.out.String()).NotTo(MatchRegexp(`(?m)^ +(supervise|judge)\b`))
}

func TestArtifactsFolder(t *testing.T) {
	file := func(t *testing.T) string {
		dir := t.TempDir()
		write("taken", "")(t, dir)
		return filepath.Join(dir, "taken")
	}
	t.Run("a file is in the way", func(t *testing.T) {
		g := NewWithT(t)
		taken := file(t)
		i := newInvocation(t, "e2e", "--artifacts", filepath.Join(taken, "artifacts"))
		g.Expect(i.run(t.Context())).To(Equal(2))
		g.Expect(i.terminal()).To(And(
			ContainSubstring("INVALID-INPUT the folder of artifacts cannot be written to: mkdir "+taken+": not a directory; name another with ARTIFACTS"),
			ContainSubstring("note: there is no report: "),
		))
		g.Expect(i.left(t)).To(BeEmpty())
	})
	t.Run("none is named", func(t *testing.T) {
		g := NewWithT(t)
		t.Chdir(t.TempDir())
		write("dev/mine", "")(t, ".")
		i := newInvocation(t, "e2e", "--artifacts", "")
		g.Expect(i.run(t.Context())).To(Equal(2))
		g.Expect(i.terminal()).To(ContainSubstring("ARTIFACTS names no folder"))
		g.Expect("dev/mine").To(BeAnExistingFile())
	})
	t.Run("it holds what no run wrote", func(t *testing.T) {
		g := NewWithT(t)
		platform := reference(t, write("clusters/dev/cluster/note.txt", "mine"))
		in := input{artifacts: filepath.Join(platform, "clusters"), Options: bringup.Options{Platform: platform}}
		for range 2 { // the second time a report lies there
			g.Expect(newInvocation(t).prepare(t.Context(), &in)).To(Succeed())
			g.Expect(at(platform, tenant)).To(BeAnExistingFile())
			g.Expect(at(platform, "clusters/dev/cluster/note.txt")).To(BeAnExistingFile())
			write(check.ReportFile, "{}")(t, in.artifacts)
		}
	})
	t.Run("it holds what an earlier run wrote", func(t *testing.T) {
		g := NewWithT(t)
		in := input{artifacts: t.TempDir()}
		for _, name := range []string{
			check.ReportFile, check.JUnitFile, session.LogName, SpecsLog, "notes.txt", "dev/notes.txt",
			"dev/TEN-001/failure.txt", "dev/cluster/events.txt", "prd/TEN-001/failure.txt", "prd/cluster/events.txt",
			"dev/ownership.json", "tst/ownership.json", "dev/mine.json", "depth.json",
		} {
			write(name, "{}")(t, in.artifacts)
		}
		write(check.ReportFile, `{"attachments":[{"environment":"dev","name":"ownership"},{"environment":"tst","name":"ownership"},{"name":"depth"}]}`)(t, in.artifacts)
		g.Expect(newInvocation(t).prepare(t.Context(), &in)).To(Succeed())
		var left []string
		g.Expect(filepath.WalkDir(in.artifacts, func(name string, _ fs.DirEntry, err error) error {
			relative, _ := filepath.Rel(in.artifacts, name)
			left = append(left, filepath.ToSlash(relative))
			return err
		})).To(Succeed())
		g.Expect(left).To(Equal([]string{".", "dev", "dev/mine.json", "dev/notes.txt", "notes.txt"}))
	})
}

func TestInterruptedWhileReading(t *testing.T) {
	g := NewWithT(t)
	i := newInvocation(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(session.ErrInterrupted)
	err := i.prepare(ctx, &input{artifacts: t.TempDir()})
	g.Expect(err).To(MatchError(session.ErrInterrupted))
	g.Expect(err).NotTo(BeAssignableToTypeOf(invalid{}), "nothing is wrong with the input")
	g.Expect(i.left(t)).To(BeEmpty())
}
