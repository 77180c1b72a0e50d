package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"

	"github.com/your-org/flux-platform-conformance/suites/internal/component/registrytest"
)

// TestMain lets the test binary stand in for a second process.
func TestMain(m *testing.M) {
	if job := os.Getenv("COMPONENT_TEST_JOB"); job != "" {
		os.Exit(helper(job))
	}
	os.Exit(m.Run())
}

// job is what a second process resolves; it prints the components as JSON.
type job struct {
	Dir, Pins string
	Requests  []Request
}

func helper(text string) int {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	store, err := Open(Options{Dir: j.Dir, Pins: os.DirFS(j.Pins), Offline: true})
	if err == nil {
		var components []Component
		if components, err = store.Resolve(context.Background(), j.Requests); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(components)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is a second process that resolves requests.
func process(t *testing.T, store *Store, pins string, requests ...Request) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(job{Dir: store.options.Dir, Pins: pins, Requests: requests})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "COMPONENT_TEST_JOB="+string(text))
	return cmd
}

// family is a module family of the test's own, with a proxy that serves it.
type toyFamily struct {
	pins  string // folder of the pins
	proxy string // folder with the layout of a module proxy
}

var (
	toyModule = module.Version{Path: "example.test/toy", Version: "v1.0.0"}
	depModule = module.Version{Path: "example.test/dep", Version: "v1.0.0"}
)

// makeToys publishes a module with two programs, and pins it.
// The environment of the test is that of a user who fetches modules from there
// only, with an empty module cache.
func makeToys(t *testing.T) toyFamily {
	t.Helper()
	f := toyFamily{pins: t.TempDir(), proxy: t.TempDir()}
	var sums strings.Builder
	publish := func(m module.Version, files map[string]string) {
		sums.WriteString(f.publish(t, m, files))
	}
	publish(depModule, map[string]string{
		"go.mod": "module example.test/dep\n\ngo 1.24.0\n",
		"dep.go": "package dep\n\nconst Greeting = \"hello from\"\n",
	})
	body := "package main\n\nimport \"example.test/dep\"\n\nvar version = \"unset\"\n\nfunc main() { println(dep.Greeting, %q, version) }\n"
	publish(toyModule, map[string]string{
		"go.mod":             "module example.test/toy\n\ngo 1.24.0\n\nrequire example.test/dep v1.0.0\n",
		"main.go":            fmt.Sprintf(body, "toy"),
		"cmd/other/main.go":  fmt.Sprintf(body, "other"),
		"broken/main.go":     "package main\n\nfunc main() { nonsense() }\n",
		"charts/values.yaml": "replicas: 1\n",
	})
	f.write(t, "toy.sum", sums.String())
	f.write(t, "toy.mod", `module pins/toy

go 1.24.0

tool (
	example.test/toy
	example.test/toy/cmd/other
)

require (
	example.test/dep v1.0.0 // indirect
	example.test/toy v1.0.0 // indirect
)
`)
	components := "components:\n"
	for name, pkg := range map[string]string{"toy": "", "other": "/cmd/other", "broken": "/broken"} {
		components += fmt.Sprintf("- {name: %s, repositories: [example/%s], image: \"example.test/example/%s:{version}\", pins: toy, module: example.test/toy, package: example.test/toy%s, ldflags: \"-X main.version={version}/{major}/{minor}\", seconds: 2}\n", name, name, name, pkg)
	}
	f.write(t, componentsFile, components)
	f.write(t, modulesFile, goodModules)
	t.Setenv("GOPROXY", "file://"+filepath.ToSlash(f.proxy))
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOFLAGS", "-modcacherw -mod=mod -tags=nonsense") // -mod and -tags are not for us
	t.Setenv("GOTOOLCHAIN", "local")
	return f
}

func (f toyFamily) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.pins, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit replaces text in a file of the pins.
func (f toyFamily) edit(t *testing.T, name, old, replacement string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(f.pins, name))
	if err != nil || !strings.Contains(string(data), old) {
		t.Fatalf("%s does not hold %q (%v)", name, old, err)
	}
	f.write(t, name, strings.ReplaceAll(string(data), old, replacement))
}

// publish puts a module into the proxy and returns its lines of go.sum.
func (f toyFamily) publish(t *testing.T, m module.Version, files map[string]string) string {
	t.Helper()
	source, dir := t.TempDir(), filepath.Join(f.proxy, filepath.FromSlash(m.Path), "@v")
	var problems []error
	for name, content := range files {
		path := filepath.Join(source, filepath.FromSlash(name))
		problems = append(problems, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600))
	}
	problems = append(problems, os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, m.Version+".mod"), []byte(files["go.mod"]), 0o600),
		os.WriteFile(filepath.Join(dir, m.Version+".info"), []byte(`{"Version":"`+m.Version+`"}`), 0o600))
	zip, err := os.Create(filepath.Join(dir, m.Version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	problems = append(problems, modzip.CreateFromDir(zip, m, source), zip.Close())
	sum, err := dirhash.HashZip(zip.Name(), dirhash.Hash1)
	problems = append(problems, err)
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return os.Open(filepath.Join(source, "go.mod"))
	})
	if err := errors.Join(append(problems, err)...); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s %s\n%s %s/go.mod %s\n", m.Path, m.Version, sum, m.Path, m.Version, modSum)
}

// recorder keeps what a store tells.
type recorder struct {
	mu   sync.Mutex
	told []Progress
}

func (r *recorder) tell(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, p)
}

func (r *recorder) phases(component string) []Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	var phases []Phase
	for _, p := range r.told {
		if p.Component == component && (len(phases) == 0 || phases[len(phases)-1] != p.Phase) {
			phases = append(phases, p.Phase)
		}
	}
	return phases
}

func (f toyFamily) open(t *testing.T, change ...func(*Options)) (*Store, *recorder) {
	t.Helper()
	told := &recorder{}
	options := Options{Dir: filepath.Join(t.TempDir(), "store"), Pins: os.DirFS(f.pins), Offline: true, Progress: told.tell}
	for _, c := range change {
		c(&options)
	}
	store, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	return store, told
}

// says runs a toy and returns what it prints.
func says(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBuildFromThePins(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	store, told := toys.open(t)
	components, err := store.Resolve(t.Context(), []Request{{Name: "other"}, {Name: "toy", Version: "1.0.0"}, {Name: "toy", Image: "example.test/example/toy:v1.0.0"}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(components).To(HaveLen(3))
	for i, name := range []string{"other", "toy"} {
		c := components[i]
		g.Expect(c.Name).To(Equal(name))
		g.Expect(c.Version).To(Equal("v1.0.0"))
		g.Expect(c.Origin).To(Equal("build"))
		g.Expect(c.FromCache).To(BeFalse())
		g.Expect(c.Reference).To(Equal("example.test/toy@v1.0.0"))
		g.Expect(says(t, c.Path)).To(Equal("hello from " + name + " v1.0.0/1/0"))
		content, err := os.ReadFile(c.Path)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(c.Digest).To(Equal("sha256:" + hash("%s", content)))
	}
	g.Expect(components[2].Path).To(Equal(components[1].Path))
	g.Expect(components[2].Requested).To(Equal("example.test/example/toy:v1.0.0"), "the report shows that a build stands for an image")
	g.Expect(told.phases("toy")).To(Equal([]Phase{Building, Ready}))

	// Warm: neither Go nor the pinned module is needed.
	t.Setenv("PATH", "")
	t.Setenv("GOPROXY", "off")
	again, err := Open(store.options)
	g.Expect(err).NotTo(HaveOccurred())
	c, err := resolve(t.Context(), again, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.FromCache).To(BeTrue())
	g.Expect(c.Origin).To(Equal("build"), "how the bytes were once had")
	g.Expect(c.Path).To(Equal(components[1].Path))
}

// Other pins are other inputs: what was built from the old ones is not used.
func TestChangedPinsAreBuiltAgain(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	store, _ := toys.open(t)
	before, err := resolve(t.Context(), store, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	toys.edit(t, componentsFile, "{version}/{major}", "{number}/{major}")
	changed, err := Open(store.options)
	g.Expect(err).NotTo(HaveOccurred())
	after, err := resolve(t.Context(), changed, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(after.FromCache).To(BeFalse())
	g.Expect(says(t, after.Path)).To(Equal("hello from toy 1.0.0/1/0"))
	g.Expect(says(t, before.Path)).To(Equal("hello from toy v1.0.0/1/0"), "who still runs the old one keeps it")
}

// A program that a registry gave runs, and nothing of Go is needed for it.
func TestBuiltProgramThroughARegistry(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	store, _ := toys.open(t)
	built, err := resolve(t.Context(), store, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	registry := serve(t)
	g.Expect(registrytest.Push(t.Context(), registry.host+"/example/toy:v1.0.0", built.Path, "/usr/bin/toy")).To(Succeed())

	t.Setenv("PATH", "")
	other, told := toys.open(t, func(o *Options) {
		o.Offline, o.Mirrors = false, map[string]string{"example.test": registry.host}
	})
	pulled, err := resolve(t.Context(), other, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(pulled.Origin).To(Equal("registry"))
	g.Expect(pulled.Digest).To(Equal(built.Digest))
	g.Expect(says(t, pulled.Path)).To(Equal("hello from toy v1.0.0/1/0"))
	g.Expect(told.phases("toy")).To(Equal([]Phase{Fetching}))
}

// The registry comes before a build; where it has nothing, the build follows.
func TestRegistryThenBuild(t *testing.T) {
	toys := makeToys(t)
	registry := serve(t)
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"not found": nil,
		"refused": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			registry.through(wrap)
			store, _ := toys.open(t, func(o *Options) { o.Offline = false })
			image := registry.host + "/example/toy:v1.0.0"
			got, err := resolve(t.Context(), store, Request{Name: "toy", Image: image})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got.Origin).To(Equal("build"))
			g.Expect(got.Requested).To(Equal(image))
		})
	}
}

func TestWhatStopsABuild(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		change  func(t *testing.T, toys toyFamily)
		options func(*Options)
		wants   []string
	}{
		"no Go": {
			options: func(o *Options) { o.Getenv = noGo },
			wants: []string{
				"component toy v1.0.0: image example.test/example/toy:v1.0.0: registries are switched off; and it cannot be built from example.test/toy@v1.0.0: no Go toolchain in PATH",
				"install Go 1.24.0 or newer, or make the image pullable",
			},
		},
		"Go that does not start": {
			change: func(t *testing.T, _ toyFamily) {
				t.Setenv("PATH", t.TempDir())
				if err := os.WriteFile(filepath.Join(os.Getenv("PATH"), "go"), nil, 0o755); err != nil { //nolint:gosec // a program has to be executable
					t.Fatal(err)
				}
			},
			wants: []string{"the Go toolchain", "does not work: go env: "},
		},
		"Go too old": {
			change: func(t *testing.T, toys toyFamily) { toys.edit(t, "toy.mod", "go 1.24.0", "go 1.999.0") },
			wants:  []string{"the Go toolchain ", "is too old to build it: it is " + runtime.Version(), "toy.mod needs go1.999.0; install Go 1.999.0 or newer", "GOTOOLCHAIN is local"},
		},
		"Go too old and no newer to be fetched": {
			change: func(t *testing.T, toys toyFamily) {
				toys.edit(t, "toy.mod", "go 1.24.0", "go 1.999.0")
				t.Setenv("GOTOOLCHAIN", "auto")
			},
			wants: []string{"is too old: go: download go1.999.0", "install Go 1.999.0 or newer"},
		},
		"module not to be had": {
			change: func(t *testing.T, _ toyFamily) { t.Setenv("GOPROXY", "file://"+filepath.ToSlash(t.TempDir())) },
			wants:  []string{"module example.test/toy@v1.0.0 cannot be fetched: ", "no such file or directory", "reach the network or a module proxy (GOPROXY is file:///"},
		},
		"no module proxy": {
			change: func(t *testing.T, _ toyFamily) { t.Setenv("GOPROXY", "off") },
			wants:  []string{"module example.test/toy@v1.0.0 cannot be fetched: module lookup disabled by GOPROXY=off"},
		},
		"dependency not to be had": {
			change: func(t *testing.T, toys toyFamily) {
				if err := os.RemoveAll(filepath.Join(toys.proxy, "example.test", "dep")); err != nil {
					t.Fatal(err)
				}
			},
			wants: []string{"module example.test/dep@v1.0.0 cannot be fetched: "},
		},
		"module exchanged": {
			change: func(t *testing.T, toys toyFamily) {
				toys.publish(t, depModule, map[string]string{
					"go.mod": "module example.test/dep\n\ngo 1.24.0\n", "dep.go": "package dep\n\nconst Greeting = \"evil\"\n",
				})
			},
			wants: []string{"module example.test/dep@v1.0.0 is not the one that toy.sum was made for: checksum mismatch"},
		},
		"sums incomplete": {
			change: func(t *testing.T, toys toyFamily) {
				toys.edit(t, "toy.sum", "example.test/dep v1.0.0 h1", "example.test/nothing v1.0.0 h1")
			},
			wants: []string{"toy.sum is incomplete: missing go.sum entry", "run scripts/pins/update.sh toy example.test/toy@v1.0.0"},
		},
		"program that does not compile": {
			request: "broken",
			wants:   []string{"component broken v1.0.0: build example.test/toy@v1.0.0: go build: exit status 1", "undefined: nonsense"},
		},
		"another version": {
			request: "toy@v1.2.3",
			wants:   []string{"component toy v1.2.3: neither pullable nor pinned", "registries are switched off", "the pinned version is v1.0.0 (scripts/pins/toy.mod)", "scripts/pins/update.sh toy example.test/toy@v1.2.3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			toys := makeToys(t)
			if test.change != nil {
				test.change(t, toys)
			}
			store, _ := toys.open(t, func(o *Options) {
				if test.options != nil {
					test.options(o)
				}
			})
			request := Request{Name: "toy"}
			if test.request != "" {
				request.Name, request.Version, _ = strings.Cut(test.request, "@")
			}
			_, err := resolve(t.Context(), store, request)
			g.Expect(err).To(MatchError(And(hold(test.wants...)...)))
			g.Expect(store.cached(request.Name)).To(BeEmpty())
			g.Expect(filepath.Glob(filepath.Join(store.folder(request.Name), workPrefix+"*"))).To(BeEmpty())
		})
	}
}

// Before minutes of building, what cannot be had at all is reported.
func TestNothingIsBuiltInVain(t *testing.T) {
	g := NewWithT(t)
	store, told := makeToys(t).open(t)
	_, err := store.Resolve(t.Context(), []Request{{Name: "toy"}, {Name: "other", Version: "v1.2.3"}})
	g.Expect(err).To(MatchError(ErrNotPinned))
	g.Expect(told.phases("toy")).To(BeEmpty())
}

func TestDisk(t *testing.T) {
	t.Run("not writable: a file is in the way", func(t *testing.T) {
		g := NewWithT(t)
		file := filepath.Join(t.TempDir(), "file")
		g.Expect(os.WriteFile(file, nil, 0o600)).To(Succeed())
		store, _ := makeToys(t).open(t, func(o *Options) { o.Dir = filepath.Join(file, "store") })
		_, err := resolve(t.Context(), store, Request{Name: "toy"})
		g.Expect(err).To(MatchError(And(hold("cache folder "+store.options.Dir+" is not writable", "set FLUX_CONFORMANCE_HOME to a folder that is")...)))
	})
	t.Run("not writable: no permission", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may write anywhere")
		}
		g := NewWithT(t)
		dir := t.TempDir()
		g.Expect(os.Chmod(dir, 0o555)).To(Succeed()) //nolint:gosec // the test is about it
		store, _ := makeToys(t).open(t, func(o *Options) { o.Dir = filepath.Join(dir, "store") })
		_, err := resolve(t.Context(), store, Request{Name: "toy"})
		g.Expect(err).To(MatchError(ContainSubstring("is not writable")))
	})
	t.Run("too little space to start", func(t *testing.T) {
		g := NewWithT(t)
		store, told := makeToys(t).open(t)
		store.space = func(string) (uint64, error) { return 700 << 20, nil }
		_, err := store.Resolve(t.Context(), []Request{{Name: "toy"}, {Name: "other"}})
		g.Expect(err).To(MatchError(And(hold("build 2 components: disk full: ", "has 700 MiB free, and 800 MiB may be needed")...)))
		g.Expect(told.phases("toy")).To(BeEmpty())
		_, err = resolve(t.Context(), store, Request{Name: "toy"})
		g.Expect(err).NotTo(HaveOccurred(), "enough for one")
	})
	t.Run("full while fetching", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("needs /dev/full")
		}
		g := NewWithT(t)
		registry := serve(t)
		push(t, registry.host+"/example/toy:v1.0.0", toy(t, program(t, "content", "")))
		store := open(t)
		store.create = func(string) (*os.File, error) { return os.OpenFile("/dev/full", os.O_WRONLY, 0) }
		_, err := resolve(t.Context(), store, Request{Name: "toy", Image: registry.host + "/example/toy:v1.0.0"})
		g.Expect(err).To(MatchError(syscall.ENOSPC))
		g.Expect(err).To(MatchError(And(hold("component toy v1.0.0", "disk full: ", "free some space, or set FLUX_CONFORMANCE_HOME")...)))
		g.Expect(err).NotTo(MatchError(ContainSubstring("Go toolchain")), "building would need more space still")
	})
	t.Run("full while building", func(t *testing.T) {
		store, _ := makeToys(t).open(t)
		got, err := store.target(Request{Name: "toy"})
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		err = store.buildError(got, toolchain{cache: "/the/cache"}, errors.New("exit status 1"), "# example.test/toy\n/usr/lib/go/link: flushing $WORK/b001/exe/a.out: write: no space left on device")
		NewWithT(t).Expect(err).To(MatchError(And(hold("disk full; free some space", "GOCACHE is /the/cache")...)))
	})
	t.Run("free space of a folder to come", func(t *testing.T) {
		g := NewWithT(t)
		dir := t.TempDir()
		here, err := freeSpace(dir)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(here).To(BeNumerically(">", 0))
		_, err = freeSpace(filepath.Join(dir, "a", "b", "c"))
		g.Expect(err).NotTo(HaveOccurred())
	})
}

// gate is a module proxy that answers no zip file until it is opened.
type gate struct {
	url     string
	waiting chan struct{} // one value per request that waits
	open    func()
}

func (f toyFamily) gate(t *testing.T) *gate {
	t.Helper()
	opened := make(chan struct{})
	g := &gate{waiting: make(chan struct{}, 100), open: sync.OnceFunc(func() { close(opened) })}
	files := http.FileServer(http.Dir(f.proxy))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".zip") {
			g.waiting <- struct{}{}
			select {
			case <-opened:
			case <-r.Context().Done():
				return
			}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(g.open)
	g.url = server.URL
	t.Setenv("GOPROXY", server.URL)
	return g
}

// left counts the processes of other programs that have text in their
// environment.
func left(text string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	count := 0
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), text) && filepath.Base(filepath.Dir(file)) != fmt.Sprint(os.Getpid()) {
			count++
		}
	}
	return count
}

func TestBuildingIsInterruptedAndGoesOn(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	gate := toys.gate(t)
	store, told := toys.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gate.waiting // go build is in the middle of it
		cancel()
	}()
	_, err := resolve(ctx, store, Request{Name: "toy"})
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(err).To(MatchError(ContainSubstring("component toy v1.0.0: building was interrupted; what is compiled stays in the Go build cache")))
	g.Expect(store.cached("toy")).To(BeEmpty())
	g.Expect(filepath.Glob(filepath.Join(store.folder("toy"), workPrefix+"*"))).To(BeEmpty())
	if runtime.GOOS == "linux" {
		g.Eventually(func() int { return left("GOPROXY=" + gate.url) }).Should(BeZero(), "no process is left")
	}
	gate.open()
	got, err := resolve(t.Context(), store, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(says(t, got.Path)).To(Equal("hello from toy v1.0.0/1/0"))
	g.Expect(told.phases("toy")).To(Equal([]Phase{Building, Ready}))
}

func TestTwoStoresBuildOnce(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	gate := toys.gate(t)
	first, _ := toys.open(t)
	second, told := toys.open(t, func(o *Options) { o.Dir = first.options.Dir })
	type answer struct {
		Component
		error
	}
	answers := make(chan answer, 2)
	run := func(s *Store) {
		c, err := resolve(t.Context(), s, Request{Name: "toy"})
		answers <- answer{c, err}
	}
	go run(first)
	<-gate.waiting // the first one builds
	go run(second)
	g.Eventually(func() []Phase { return told.phases("toy") }).Should(ContainElement(Waiting))
	gate.open()
	a, b := <-answers, <-answers
	g.Expect(errors.Join(a.error, b.error)).NotTo(HaveOccurred())
	g.Expect(a.Path).To(Equal(b.Path))
	g.Expect([]bool{a.FromCache, b.FromCache}).To(ConsistOf(true, false))
	g.Expect(told.phases("toy")).To(Equal([]Phase{Waiting, Ready}), "the second one builds nothing")
	g.Expect(told.told[0].String()).To(ContainSubstring("waiting toy v1.0.0 (for another process that fetches or builds it): 1 to go"))
}

func TestWaitingIsInterrupted(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	store, _ := toys.open(t)
	unlock, err := store.flock(t.Context(), "toy", nil)
	g.Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(t.Context())
	other, _ := toys.open(t, func(o *Options) {
		o.Dir, o.Progress = store.options.Dir, func(p Progress) {
			if p.Phase == Waiting {
				cancel()
			}
		}
	})
	_, err = resolve(ctx, other, Request{Name: "toy"})
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(err).To(MatchError(ContainSubstring("component toy v1.0.0: waiting for the lock ")))
	unlock()
	_, err = resolve(t.Context(), other, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
}

func TestTwoProcessesBuildOnce(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	store, _ := toys.open(t)
	requests := []Request{{Name: "toy"}, {Name: "other"}}
	var outputs [2]strings.Builder
	var processes [2]*exec.Cmd
	for i := range processes {
		processes[i] = process(t, store, toys.pins, requests...)
		processes[i].Stdout, processes[i].Stderr = &outputs[i], &outputs[i]
		g.Expect(processes[i].Start()).To(Succeed())
	}
	built := map[string]int{}
	digests := map[string][]string{}
	for i, p := range processes {
		g.Expect(p.Wait()).To(Succeed(), outputs[i].String())
		var components []Component
		g.Expect(json.Unmarshal([]byte(outputs[i].String()), &components)).To(Succeed(), outputs[i].String())
		for _, c := range components {
			if !c.FromCache {
				built[c.Name]++
			}
			g.Expect(c.Digest).NotTo(BeEmpty())
			digests[c.Name] = append(digests[c.Name], c.Digest)
		}
	}
	g.Expect(built).To(Equal(map[string]int{"toy": 1, "other": 1}))
	for name, d := range digests {
		g.Expect(d[0]).To(Equal(d[1]), name)
	}
}

// A process that is killed in the middle leaves neither a lock nor a program;
// the next one goes on.
func TestBuilderIsKilled(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	gate := toys.gate(t)
	store, _ := toys.open(t)
	victim := process(t, store, toys.pins, Request{Name: "toy"})
	g.Expect(victim.Start()).To(Succeed())
	<-gate.waiting
	stale, err := filepath.Glob(filepath.Join(store.folder("toy"), workPrefix+"*"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(stale).To(HaveLen(1), "written down before the kill")
	g.Expect(victim.Process.Kill()).To(Succeed())
	g.Expect(victim.Wait()).To(MatchError(ContainSubstring("signal: killed")))
	if runtime.GOOS == "linux" {
		g.Eventually(func() int { return left("GOPROXY=" + gate.url) }).WithTimeout(10*time.Second).Should(BeZero(), "go build ends with its parent")
	}
	gate.open()
	got, err := resolve(t.Context(), store, Request{Name: "toy"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.FromCache).To(BeFalse())
	g.Expect(says(t, got.Path)).To(Equal("hello from toy v1.0.0/1/0"))
	g.Expect(stale[0]).NotTo(BeADirectory())
}

func TestProgress(t *testing.T) {
	g := NewWithT(t)
	var last Progress
	run := &tally{progress: func(p Progress) { last = p }, started: time.Now(), remaining: 3, ahead: 300 * time.Second}
	slow := &target{entry: &entry{Name: "slow", Seconds: 100}, version: "v1"}
	run.tell(slow, Building, "downloading a v1", 0)
	g.Expect(last.String()).To(Equal("building slow v1 from source (downloading a v1): 3 to go, 0s elapsed, about 5m0s left"))
	run.tell(slow, Building, "", 40*time.Second)
	g.Expect(last.Estimate).To(Equal(260 * time.Second))
	run.tell(slow, Building, "", time.Hour)
	g.Expect(last.Estimate).To(Equal(time.Second), "it is late, but not over")
	run.built(slow, 50*time.Second)
	g.Expect(last).To(And(HaveField("Phase", Ready), HaveField("Remaining", 2), HaveField("Estimate", 100*time.Second)), "this machine is twice as fast as the table's")
	run.built(slow, 0)
	run.built(slow, 50*time.Second)
	g.Expect(last.String()).To(Equal("ready slow v1: 0 to go, 0s elapsed"))
}

// BenchmarkWarmResolve resolves every component of the project, all cached.
func BenchmarkWarmResolve(b *testing.B) {
	store, err := Open(Options{Dir: b.TempDir(), Pins: os.DirFS(pinsFolder)})
	if err != nil {
		b.Fatal(err)
	}
	tc := store.findToolchain(b.Context())
	requests := make([]Request, 0, len(store.table.entries))
	for _, e := range store.table.entries {
		t, err := store.target(Request{Name: e.Name})
		if err == nil {
			err = os.MkdirAll(store.folder(e.Name), 0o755)
		}
		program := filepath.Join(store.folder(e.Name), "program")
		if err == nil {
			err = os.WriteFile(program, []byte("#!/bin/sh\n"), 0o600)
		}
		if err == nil {
			_, err = store.install(program, record{Name: e.Name, Version: e.pinned, Origin: originBuild, Inputs: store.inputs(t), Toolchain: tc.version})
		}
		if err != nil {
			b.Fatal(err)
		}
		requests = append(requests, Request{Name: e.Name})
	}
	for b.Loop() {
		components, err := store.Resolve(b.Context(), requests)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range components {
			if !c.FromCache {
				b.Fatalf("%s is not from the cache", c.Name)
			}
		}
	}
}
