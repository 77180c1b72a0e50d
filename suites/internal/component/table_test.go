package component

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	. "github.com/onsi/gomega"
)

// What the program embeds.
const (
	scriptsFolder = "../../../scripts"
	pinsFolder    = scriptsFolder + "/pins"
)

// openProject opens a store of the project's own pins and sources.
func openProject(t *testing.T) *Store {
	t.Helper()
	store, err := Open(Options{Dir: t.TempDir(), Pins: os.DirFS(pinsFolder), Sources: os.DirFS(scriptsFolder)})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestPinsOfTheProjectAreValid(t *testing.T) {
	g := NewWithT(t)
	store := openProject(t)
	shared := []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
		"source-controller", "kustomize-controller", "helm-controller",
		"kyverno", "kyvernopre", "background-controller", "reports-controller", "cleanup-controller", "kyverno-cli",
	}
	g.Expect(store.Providers()).To(Equal([]string{"embedded", "kind"}))
	g.Expect(store.NamesFor("embedded")).To(ConsistOf(append([]string{"kwok", "kwokctl"}, shared...)))
	g.Expect(store.NamesFor("kind")).To(ContainElements(shared))
	g.Expect(store.NamesFor("kind")).To(ContainElements(
		"kubelet", "kubeadm", "kubectl", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr",
		"host-local", "ptp", "loopback", "portmap", "coredns", "traefik", "readiness-checker", "pause", "node-network", "app",
	))
	g.Expect(store.NamesFor("kind")).NotTo(ContainElement("kwok"))
	for _, name := range store.Names() {
		version, ok := store.Pinned(name)
		g.Expect(ok).To(BeTrue(), name)
		e := store.table.byName[name]
		if e.Source != "" {
			g.Expect(version).To(MatchRegexp("^source-[0-9a-f]{12}$"), name)
			continue
		}
		g.Expect(complete(version)).To(BeTrue(), "%s is pinned at %s", name, version)
		g.Expect(e.family.file.Tool).To(ContainElement(HaveField("Path", e.Package)), "%s.mod names the package of %s as a tool, or it would not be tidied with it", e.Pins, name)
		if e.Image == "" {
			continue
		}
		image := render(e.Image, version)
		g.Expect(e.version(image[strings.LastIndex(image, ":")+1:])).To(Equal(version),
			"the version of %s is read back from the tag of its default image", name)
		recognized, _ := store.Recognize(image)
		g.Expect(recognized).To(Equal(name), "default image of %s", name)
	}
	_, ok := store.Pinned("kindnet")
	g.Expect(ok).To(BeFalse())
	for _, path := range []string{
		"github.com/fluxcd/flux2/v2", "github.com/fluxcd/source-controller", "github.com/fluxcd/kustomize-controller",
		"github.com/fluxcd/helm-controller", "github.com/kyverno/kyverno", "github.com/kyverno/api", "github.com/traefik/traefik-helm-chart",
	} {
		_, sum, err := store.pinnedModule(path, "")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(sum).To(HavePrefix("h1:"))
	}
}

// The build of a program decides whether its compiled packages are found in
// Go's build cache again, and what version it tells.
func TestFlagsOfABuild(t *testing.T) {
	g := NewWithT(t)
	store, err := Open(Options{Dir: t.TempDir(), Pins: os.DirFS(pinsFolder)})
	g.Expect(err).NotTo(HaveOccurred())
	e := *store.table.byName["kube-apiserver"]
	e.pinned = "v1.36.3"
	g.Expect(buildFlags(&e)).To(Equal([]string{
		"-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w" +
			" -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3" +
			" -X k8s.io/component-base/version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitTreeState=clean" +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
	}))
}

func TestRecognize(t *testing.T) {
	store, err := Open(Options{Dir: t.TempDir(), Pins: os.DirFS(pinsFolder)})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	digest := "@sha256:" + strings.Repeat("a", 64)
	for image, want := range map[string]string{
		"ghcr.io/fluxcd/source-controller:v1.9.5":                        "source-controller",
		"ghcr.io/fluxcd/source-controller:v1.9.5" + digest:               "source-controller",
		"ghcr.io/fluxcd/source-controller" + digest:                      "source-controller",
		"fluxcd/source-controller":                                       "source-controller",
		"registry.example:5000/mirror/ghcr.io/fluxcd/helm-controller:v1": "helm-controller",
		"reg.kyverno.io/kyverno/kyverno:v1.19.1":                         "kyverno",
		"kyverno/kyvernopre:v1.19.1":                                     "kyvernopre",
		"registry.k8s.io/kube-apiserver:v1.36.3":                         "kube-apiserver",
		"registry.k8s.io/etcd:3.6.8-0":                                   "etcd",
		"docker.io/bitnami/etcd:3":                                       "",
		"kube-apiserver:v1.36.3":                                         "", // docker.io/library/kube-apiserver
		"ghcr.io/notfluxcd/source-controller:v1.9.5":                     "",
		"ghcr.io/fluxcd/source-controller-extra:v1.9.5":                  "",
		"ghcr.io/xfluxcd/source-controller:v1.9.5":                       "",
		"ghcr.io/fluxcd/source-controller:v1.9.5@sha256:abc":             "",
		"registry.k8s.io/etcd":                                           "etcd",
		"registry.k8s.io/coredns/coredns:v1.14.2":                        "coredns",
		"docker.io/traefik:v3.6.6":                                       "traefik",
		"registry.k8s.io/pause:3.10.2":                                   "pause",
		"ghcr.io/your-org/beetle:1.5.0":                                  "app",
		"your-org/sonar":                                                 "app",
		"mirror.example/ghcr.io/your-org/tiger:0.42.0":                   "app",
		"registry.internal/flux-platform-conformance/app:canary":         "app",
		"mirror.example/your-org/kyverno/kyverno:v1.19.1":                "kyverno",
		"ghcr.io/your-org/team/beetle:1.5.0":                             "",
		"ghcr.io/not-your-org/beetle:1.5.0":                              "",
		"ghcr.io/your-org-too/beetle:1.5.0":                              "",
		"":                                                               "", "UPPER/case": "", "a b": "", "ghcr.io/fluxcd/source-controller:": "",
	} {
		t.Run(image, func(t *testing.T) {
			g := NewWithT(t)
			got, ok := store.Recognize(image)
			g.Expect(got).To(Equal(want))
			g.Expect(ok).To(Equal(want != ""))
		})
	}
}

// A provider knows the components of its own clusters only: on the embedded one
// a pod of anything else is simulated.
func TestRecognizeForAProvider(t *testing.T) {
	g := NewWithT(t)
	store := openProject(t)
	for image, want := range map[string]map[string]string{
		"ghcr.io/fluxcd/source-controller:v1.9.5": {"embedded": "source-controller", "kind": "source-controller"},
		"ghcr.io/your-org/beetle:1.5.0":           {"embedded": "", "kind": "app"},
		"docker.io/traefik:v3.6.6":                {"embedded": "", "kind": "traefik"},
		"registry.k8s.io/kwok/kwok:v0.8.0":        {"embedded": "kwok", "kind": ""},
		"docker.io/library/busybox:1":             {"embedded": "", "kind": ""},
	} {
		for provider, name := range want {
			got, ok := store.Recognizer(provider)(image)
			g.Expect(got).To(Equal(name), "%s on %s", image, provider)
			g.Expect(ok).To(Equal(name != ""))
		}
	}
}

func TestVersions(t *testing.T) {
	g := NewWithT(t)
	e := &entry{Image: "registry.k8s.io:443/etcd:{number}-0"}
	g.Expect(e.version("3.6.8-0")).To(Equal("v3.6.8"))
	g.Expect(e.version("v3.6.8")).To(Equal("v3.6.8"))
	g.Expect(e.version("latest")).To(Equal("latest"))
	g.Expect(e.version("-0")).To(Equal("-0"))
	for _, version := range []string{"v1.2.3", "1.2.3", "v1.2.3-rc.1", "v1.2.3+meta"} {
		g.Expect(complete(version)).To(BeTrue(), version)
	}
	for _, version := range []string{"latest", "v1", "v1.2", "main", "", "v1.2-rc.1.2"} {
		g.Expect(complete(version)).To(BeFalse(), version)
	}
}

const (
	goodComponents = `components:
- {name: toy, repositories: [example/toy], image: "example.test/toy:{version}", pins: toy, module: example.test/toy, package: example.test/toy, seconds: 1}
`
	goodModules = "modules: []\n"
	goodMod     = "module pins/toy\n\ngo 1.24.0\n\nrequire example.test/toy v1.0.0\n"
)

// Every bad table differs from the good one in one place.
func TestMistakesInThePins(t *testing.T) {
	open := func(components, modules, mod string) error {
		_, err := Open(Options{Dir: "unused", Pins: fstest.MapFS{
			componentsFile: {Data: []byte(components)}, modulesFile: {Data: []byte(modules)},
			"toy.mod": {Data: []byte(mod)}, "toy.sum": {Data: nil},
		}})
		return err
	}
	NewWithT(t).Expect(open(goodComponents, goodModules, goodMod)).To(Succeed())
	components := func(old, new string) []string {
		return []string{strings.Replace(goodComponents, old, new, 1), goodModules, goodMod}
	}
	for name, test := range map[string]struct {
		pins []string
		want string
	}{
		"unknown key":          {components("seconds", "colour: red, seconds"), "line 2: field colour not found"},
		"no components":        {[]string{"components: []\n", goodModules, goodMod}, "no components"},
		"empty entry":          {[]string{"components: [null]\n", goodModules, goodMod}, "entry 1 is empty"},
		"two documents":        {[]string{goodComponents + "---\n{}\n", goodModules, goodMod}, "more than one YAML document"},
		"bad name":             {components("name: toy", "name: ../toy"), `entry 1 (../toy): name "../toy" does not match`},
		"name twice":           {[]string{goodComponents + strings.SplitN(goodComponents, "\n", 2)[1], goodModules, goodMod}, "entry 2 (toy): a second entry of this name"},
		"no repository":        {components("[example/toy]", "[]"), "repositories: none"},
		"bad provider":         {components("pins: toy", "providers: [Kind], pins: toy"), `entry 1 (toy): provider "Kind" does not match`},
		"star in the middle":   {components("[example/toy]", "[example/*/toy]"), `repository "example/*/toy": only the last of several segments may be *`},
		"star alone":           {components("[example/toy]", "['*']"), `repository "*": only the last`},
		"variable of no name":  {components("pins: toy", "environ: [TAG], pins: toy"), `environ: "TAG" is not NAME=VALUE`},
		"stands for another":   {components("pins: toy", "standsFor: ['example.test/other:1'], pins: toy"), `standsFor: "example.test/other:1" is not an image of this component with a tag`},
		"stands for a digest":  {components("pins: toy", "standsFor: ['example.test/example/toy@sha256:"+strings.Repeat("0", 64)+"'], pins: toy"), "is not an image of this component with a tag"},
		"module and source":    {components("pins: toy", "source: toy, pins: toy"), "it has both a source and a pinned module"},
		"source outside":       {components("pins: toy, module: example.test/toy, package: example.test/toy", "source: ../toy"), `source "../toy" is not the path of a folder`},
		"repository with /":    {components("[example/toy]", "[/toy]"), `repository "/toy" is not a path`},
		"image without tag":    {components(":{version}", ""), "has no tag made from {version} or {number}"},
		"image that is none":   {components("example.test/toy:", "EXAMPLE//toy:"), "entry 1 (toy): image: "},
		"relative path":        {components("pins", "path: bin/toy, pins"), `path "bin/toy" is not absolute`},
		"package elsewhere":    {components("package: example.test/toy", "package: example.test/other"), "package example.test/other is not in module example.test/toy"},
		"no estimate":          {components("seconds: 1", "seconds: 0"), "seconds: 0 is not an estimate"},
		"family missing":       {components("pins: toy", "pins: nowhere"), "component toy: read its module family: open nowhere.mod"},
		"module not required":  {[]string{goodComponents, goodModules, "module pins/toy\n"}, "toy.mod does not require module example.test/toy"},
		"module file broken":   {[]string{goodComponents, goodModules, "modul pins/toy\n"}, "toy.mod:1: unknown directive: modul"},
		"module without sum":   {[]string{goodComponents, "modules: [{path: example.test/data, version: v1.0.0}]\n", goodMod}, `example.test/data@v1.0.0: sum "" is not an h1 hash`},
		"module of no version": {[]string{goodComponents, "modules: [{path: example.test/data, version: latest, sum: 'h1:x'}]\n", goodMod}, "modules.yaml: "},
	} {
		t.Run(name, func(t *testing.T) {
			NewWithT(t).Expect(open(test.pins[0], test.pins[1], test.pins[2])).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

func TestMistakesInRequests(t *testing.T) {
	store, err := Open(Options{Dir: t.TempDir(), Pins: os.DirFS(pinsFolder)})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	for name, test := range map[string]struct {
		request Request
		want    string
	}{
		"unknown name":      {Request{Name: "kindnet"}, `component "kindnet" is not in the table (etcd, kwok,`},
		"bad image":         {Request{Name: "kyverno", Image: "a b"}, `component kyverno: image "a b"`},
		"another's image":   {Request{Name: "kyverno", Image: "kyverno/kyvernopre:v1.19.1"}, "image kyverno/kyvernopre:v1.19.1 is the component kyvernopre"},
		"bad version":       {Request{Name: "kyverno", Version: "1 19"}, `component kyverno: version "1 19"`},
		"two versions":      {Request{Name: "kyverno", Version: "1.18.0", Image: "kyverno/kyverno:v1.19.1"}, "version v1.18.0 is asked for, but image kyverno/kyverno:v1.19.1 is v1.19.1"},
		"digest of nothing": {Request{Name: "kyverno", Image: "kyverno/kyverno@sha256:12"}, `image "kyverno/kyverno@sha256:12"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := store.Resolve(t.Context(), []Request{test.request, {Name: "nobody"}})
			g.Expect(err).To(MatchError(ContainSubstring(test.want)))
			g.Expect(err).To(MatchError(ContainSubstring(`"nobody" is not in the table`)), "all mistakes are reported")
		})
	}
}

func FuzzComponents(f *testing.F) {
	data, err := os.ReadFile(pinsFolder + "/" + componentsFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(goodComponents))
	f.Add([]byte("components: [null, {name: a}, {name: a}]"))
	f.Add([]byte("components: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseComponents(data)
		if err != nil {
			return
		}
		for _, e := range entries {
			if !namePattern.MatchString(e.Name) || (len(e.Repositories) == 0) != (e.Image == "") || e.Seconds <= 0 {
				t.Errorf("accepted %+v", e)
			}
			if e.Image == "" {
				continue
			}
			if _, err := parseReference(render(e.Image, "v1.2.3")); err != nil {
				t.Errorf("accepted the image of %+v: %v", e, err)
			}
		}
	})
}

func FuzzReference(f *testing.F) {
	f.Add("ghcr.io/fluxcd/source-controller:v1.9.5@sha256:" + strings.Repeat("0", 64))
	f.Add("localhost:5000/a")
	f.Add("a:b:c@")
	f.Add("@sha256:")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := parseReference(text)
		if err != nil {
			return
		}
		if ref.repository.RepositoryStr() == "" || ref.tag == "" && ref.digest == "" {
			t.Errorf("%q: nothing to ask for: %+v", text, ref)
		}
		if strings.ContainsAny(safe(ref.tag), "/\\") {
			t.Errorf("%q: tag %q is no file name", text, ref.tag)
		}
		digest := "sha256:" + strings.Repeat("1", 64)
		again, err := parseReference(ref.at(digest))
		if err != nil || again.repository != ref.repository || again.tag != ref.tag && ref.digest != "" || again.digest != digest {
			t.Errorf("%q at a digest is %q: %+v, %v", text, ref.at(digest), again, err)
		}
	})
}
