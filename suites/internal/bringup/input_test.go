package bringup

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// assets is what the program ships, from the working tree.
var assets = os.DirFS("../../..")

// The URLs of the repositories that the program ships.
const (
	platformURL  = "https://github.com/your-org/flux_platform"
	developerURL = "https://github.com/your-org/flux_developer"
	policiesURL  = "https://github.com/your-org/policies"
)

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// copied lays a shipped folder out under a name of its own, with one text
// replaced by another in all its files.
func copied(t *testing.T, folder, name, old, replacement string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, name)
	sub, err := fs.Sub(assets, folder)
	if err != nil {
		t.Fatal(err)
	}
	err = fs.WalkDir(sub, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(sub, file)
		write(t, dir, file, strings.ReplaceAll(string(data), old, replacement))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func config(t *testing.T, dir, content string) string {
	t.Helper()
	return write(t, dir, "conformance.yaml", "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\n"+content)
}

func TestReadDefaults(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	in, err := Read(t.Context(), assets, Options{}, dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.Names).To(Equal(map[string]string{platformURL: "platform", developerURL: "developer", policiesURL: "policies"}))
	for address, folder := range in.Folders {
		g.Expect(folder).To(HavePrefix(dir), address)
		g.Expect(folder).To(BeADirectory(), address)
	}
	g.Expect(in.Environments).To(HaveLen(2))
	g.Expect(in.Platform.TenantNames()).To(ContainElement("beetle"))
	g.Expect(in.Unanswered).NotTo(HaveOccurred())
	g.Expect(in.Overlays).To(BeEmpty())
}

func TestReadNarrows(t *testing.T) {
	g := NewWithT(t)
	in, err := Read(t.Context(), assets, Options{Environments: []string{"prd"}, Config: config(t, t.TempDir(), "environments: [dev]\n")}, t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.Environments).To(HaveLen(1))
	g.Expect(in.Environments[0].Name).To(Equal("prd"), "what is given by itself comes before CONFIG")
	g.Expect(in.Platform.Environments).To(HaveLen(2), "the model stays whole")

	in, err = Read(t.Context(), assets, Options{Config: config(t, t.TempDir(), "environments: [dev]\n")}, t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.Environments).To(HaveLen(1))
	g.Expect(in.Environments[0].Name).To(Equal("dev"))
}

func TestReadFindsOverlays(t *testing.T) {
	g := NewWithT(t)
	in, err := Read(t.Context(), assets, Options{Overlays: []string{"FLT-001", "FLT-002"}}, t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.Overlays).To(HaveLen(2))
	g.Expect(in.Overlays[1].ID).To(Equal("FLT-002"))
	_, err = Read(t.Context(), assets, Options{Overlays: []string{"FLT-000"}}, t.TempDir())
	g.Expect(err).To(MatchError("there is no fault FLT-000"))
}

// Which URL the developers' folder answers for.
func TestDeveloper(t *testing.T) {
	const acme, other = "https://git.example/acme/values", "https://git.example/acme/more"
	developer := func(t *testing.T, name string) string { return copied(t, "fixtures/flux_developer", name, "", "") }
	reference := func(t *testing.T, old, replacement string) string {
		return copied(t, "fixtures/flux_platform", "flux_platform", old, replacement)
	}
	for _, test := range []struct {
		name     string
		platform func(t *testing.T) string
		folder   string
		config   string
		url      string
	}{
		{name: "the reference URL", platform: func(t *testing.T) string { return reference(t, "", "") }, folder: "anything", url: developerURL},
		{
			name: "the reference URL, in another spelling",
			platform: func(t *testing.T) string {
				return reference(t, developerURL, "ssh://git@github.com/your-org/flux_developer.git")
			},
			folder: "anything", url: developerURL,
		},
		{
			name:     "the reference URL, where CONFIG has another folder for it",
			platform: func(t *testing.T) string { return reference(t, "", "") },
			folder:   "anything", config: "sources: [{url: " + developerURL + ", path: .}]\n", url: developerURL,
		},
		{name: "the only one that is open", platform: func(t *testing.T) string { return reference(t, developerURL, acme) }, folder: "anything", url: acme},
		{
			name: "the one that is named like the folder",
			platform: func(t *testing.T) string {
				dir := reference(t, developerURL, acme)
				write(t, dir, "clusters/dev/more.yaml", gitRepository(other))
				return listed(t, dir)
			},
			folder: "values", url: acme,
		},
		{
			name: "the only one that CONFIG leaves open",
			platform: func(t *testing.T) string {
				dir := reference(t, developerURL, acme)
				write(t, dir, "clusters/dev/more.yaml", gitRepository(other))
				return listed(t, dir)
			},
			folder: "anything", config: "sources: [{url: " + other + ", upstream: true}]\n", url: acme,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			options := Options{Platform: test.platform(t), Developer: developer(t, test.folder)}
			if test.config != "" {
				options.Config = config(t, t.TempDir(), test.config)
			}
			in, err := Read(t.Context(), assets, options, t.TempDir())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(in.Folders).To(HaveKeyWithValue(test.url, options.Developer))
			g.Expect(in.Names).To(HaveKeyWithValue(test.url, "developer"))
			named := 0
			for _, name := range in.Names {
				if name == "developer" {
					named++
				}
			}
			g.Expect(named).To(Equal(1), "faults know one repository by that name")
			values := in.Platform.Environment("dev").Tenant("beetle").Values
			g.Expect(values).NotTo(BeEmpty())
			g.Expect(values[0].File.Origin.Folder).To(Equal(options.Developer), "the model reads from there")
		})
	}
	for _, test := range []struct {
		name     string
		platform func(t *testing.T) string
		config   string
		want     []string
	}{
		{
			"two are open", func(t *testing.T) string {
				dir := reference(t, developerURL, acme)
				write(t, dir, "clusters/dev/more.yaml", gitRepository(other))
				return listed(t, dir)
			},
			"",
			[]string{"DEVELOPER: it is not clear which URL ", "anything answers for: 2 Git sources have no answer (" + other + ", " + acme + "), and none is named like the folder; map it in CONFIG under «sources»"},
		},
		{
			"none is open", func(t *testing.T) string { return reference(t, developerURL, acme) },
			"sources: [{url: " + acme + ", upstream: true}]\n",
			[]string{"DEVELOPER: there is no URL for ", "every Git source of the platform has an answer, and none names " + developerURL},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			options := Options{Platform: test.platform(t), Developer: developer(t, "anything")}
			if test.config != "" {
				options.Config = config(t, t.TempDir(), test.config)
			}
			_, err := Read(t.Context(), assets, options, t.TempDir())
			for _, want := range test.want {
				g.Expect(err).To(MatchError(ContainSubstring(want)))
			}
		})
	}
}

func gitRepository(address string) string {
	return "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: more, namespace: flux-system}\nspec: {interval: 1m, url: " + address + "}\n"
}

// listed has the environment dev name the file more.yaml.
func listed(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "clusters", "dev", "kustomization.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "clusters/dev/kustomization.yaml", strings.Replace(string(data), "- infrastructure.yaml\n", "- infrastructure.yaml\n- more.yaml\n", 1))
	return dir
}

// The repository under test answers for itself, whatever CONFIG says.
func TestPlatformAnswersForItself(t *testing.T) {
	g := NewWithT(t)
	dir := copied(t, "fixtures/flux_platform", "mine", "", "")
	elsewhere := copied(t, "fixtures/flux_platform", "elsewhere", "", "")
	in, err := Read(t.Context(), assets, Options{Platform: dir, Config: config(t, t.TempDir(), "sources:\n- {url: "+platformURL+".git, path: "+elsewhere+"}\n")}, t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.Folders).To(HaveKeyWithValue(platformURL, dir))
	g.Expect(in.Names).To(HaveKeyWithValue(platformURL, "platform"))
	g.Expect(in.Folders).NotTo(HaveKey(platformURL + ".git"))
}

// CONFIG comes before what the program ships, and names the platform where
// PLATFORM does not.
func TestConfigComesBeforeWhatIsShipped(t *testing.T) {
	g := NewWithT(t)
	root := copied(t, "fixtures/flux_platform", "mine", "", "")
	policies := copied(t, "policies", "policies", "", "")
	in, err := Read(t.Context(), assets, Options{Config: config(t, filepath.Dir(root), "platform: ./mine\nsources: [{url: "+policiesURL+"/, path: "+policies+"}]\n")}, t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(in.Platform.Root).To(Equal(root))
	g.Expect(in.Folders).To(HaveKeyWithValue(policiesURL+"/", policies))
	g.Expect(in.Names).To(HaveKeyWithValue(policiesURL+"/", "policies"))
	g.Expect(in.Folders).To(HaveLen(3))
}

func TestNamed(t *testing.T) {
	for address, want := range map[string]string{
		"https://github.com/acme/values.git": "values", "https://github.com/acme/values/": "values",
		"ssh://git@github.com/acme/values": "values", "git@github.com:acme/values.git": "values", "git@host:values": "values",
	} {
		NewWithT(t).Expect(named(address)).To(Equal(want), address)
	}
}

// asking is a bring-up of a platform whose sources are these.
func asking(sources ...platform.Source) *bringUp {
	e := &platform.Environment{Name: "dev"}
	for i := range sources {
		sources[i].Object = gitObject()
		e.Sources = append(e.Sources, &sources[i])
	}
	return &bringUp{platform: &platform.Platform{Environments: []*platform.Environment{e}}}
}
