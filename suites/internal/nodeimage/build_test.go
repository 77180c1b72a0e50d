package nodeimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
)

// TestMain lets the test binary stand in for a second process.
func TestMain(m *testing.M) {
	if dir := os.Getenv("NODEIMAGE_TEST_DIR"); dir != "" {
		image, err := Build(context.Background(), toy(dir, os.Getenv("NODEIMAGE_TEST_SCRIPT")))
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(image)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// good is a recipe that tells in a file of the programs' folder that it ran.
const good = `#!/bin/bash
set -eu
echo "node image: a step"
echo noise
echo "ran $KUBERNETES_VERSION $DEBIAN_SUITE ${DEBIAN_MIRROR:-none} $(cat "$(dirname "$0")/rootfs/file")" >>"$RAN"
readlink "$1/kubelet" >"$2/node.tar"
echo layer >"$2/iptables.tar"
`

// toy are the options of a recipe that is this script.
func toy(dir, script string) Options {
	o := Options{
		Dir: dir, Kubernetes: "v1.36.3",
		Recipe: fstest.MapFS{
			"build.sh":        {Data: []byte(script)},
			"rootfs/file":     {Data: []byte("overlay")},
			"network/main.go": {Data: []byte("package main")},
		},
	}
	for _, name := range Programs() {
		o.Programs = append(o.Programs, component.Component{Name: name, Path: "/programs/" + name, Digest: "sha256:" + name})
	}
	return o
}

// runs gives the lines that the good recipe left, and tells recipes where.
func runs(t *testing.T) func() []string {
	file := filepath.Join(t.TempDir(), "ran")
	t.Setenv("RAN", file)
	return func() []string {
		text, _ := os.ReadFile(file)
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

// leftovers are the unfinished folders of a store.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "node", workPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestBuildOnce(t *testing.T) {
	g := NewWithT(t)
	ran := runs(t)
	o := toy(t.TempDir(), good)
	var lines []string
	o.Progress = func(line string) { lines = append(lines, line) }
	o.Mirror = "http://mirror.example"

	first, err := Build(t.Context(), o)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.FromCache).To(BeFalse())
	g.Expect(first.Reference).To(Equal("flux-platform-conformance/node:v1.36.3-" + first.Key))
	g.Expect(os.ReadFile(first.Tar)).To(BeEquivalentTo("/programs/kubelet\n"))
	g.Expect(os.ReadFile(first.Iptables)).To(BeEquivalentTo("layer\n"))
	g.Expect(first.Programs).To(HaveKeyWithValue("ptp", "sha256:ptp"))
	g.Expect(ran()).To(Equal([]string{"ran v1.36.3 bookworm http://mirror.example overlay"}))
	g.Expect(lines).To(Equal([]string{"a step"}), "the recipe's own lines, without its noise")

	o.Mirror = "http://other.example"
	second, err := Build(t.Context(), o)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(second.FromCache).To(BeTrue())
	second.FromCache = false
	g.Expect(second).To(Equal(first), "another mirror has the same packages")
	g.Expect(ran()).To(HaveLen(1))
	g.Expect(leftovers(t, o.Dir)).To(BeEmpty())
}

func TestEveryInputCounts(t *testing.T) {
	g := NewWithT(t)
	runs(t)
	dir := t.TempDir()
	keys := map[string]string{}
	for what, change := range map[string]func(*Options){
		"as it is":   func(*Options) {},
		"version":    func(o *Options) { o.Kubernetes = "v1.36.4" },
		"suite":      func(o *Options) { o.Suite = "trixie" },
		"program":    func(o *Options) { o.Programs[3].Digest = "sha256:other" },
		"overlay":    func(o *Options) { o.Recipe.(fstest.MapFS)["rootfs/file"].Data = []byte("other") },
		"recipe":     func(o *Options) { o.Recipe.(fstest.MapFS)["build.sh"].Data = []byte(good + "\n") },
		"a new file": func(o *Options) { o.Recipe.(fstest.MapFS)["rootfs/new"] = &fstest.MapFile{} },
	} {
		o := toy(dir, good)
		change(&o)
		image, err := Build(t.Context(), o)
		g.Expect(err).NotTo(HaveOccurred(), what)
		g.Expect(image.FromCache).To(BeFalse(), what)
		g.Expect(keys).NotTo(HaveKey(image.Key), what)
		keys[image.Key] = what
	}
	for what, change := range map[string]func(*Options){
		"Go sources, whose program is what counts": func(o *Options) { o.Recipe.(fstest.MapFS)["network/main.go"].Data = []byte("package other") },
		"a program that no node has":               func(o *Options) { o.Programs = append(o.Programs, component.Component{Name: "etcd", Digest: "x"}) },
	} {
		o := toy(dir, good)
		change(&o)
		image, err := Build(t.Context(), o)
		g.Expect(err).NotTo(HaveOccurred(), what)
		g.Expect(keys[image.Key]).To(Equal("as it is"), what)
	}
}

func TestBuildRefuses(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*Options)
		says   []string
	}{
		"a missing program":   {func(o *Options) { o.Programs = o.Programs[1:] }, []string{"the program containerd is not among those given"}},
		"an unknown digest":   {func(o *Options) { o.Programs[2].Digest = "" }, []string{"the program ctr has no path or no digest"}},
		"no recipe":           {func(o *Options) { o.Recipe = fstest.MapFS{} }, []string{"read the recipe", "there is no build.sh in it"}},
		"no version":          {func(o *Options) { o.Kubernetes = "" }, []string{"no version of Kubernetes given"}},
		"a failing recipe":    {func(o *Options) { o.Recipe = toy("", "echo before; echo 'node image: no root' >&2; exit 3").Recipe }, []string{"run the recipe build.sh", "exit status 3", "before\nnode image: no root"}},
		"a recipe of nothing": {func(o *Options) { o.Recipe = toy("", "touch $2/iptables.tar").Recipe }, []string{"the recipe ended well and left no node.tar"}},
		"an empty result":     {func(o *Options) { o.Recipe = toy("", "echo x >$2/node.tar; touch $2/iptables.tar").Recipe }, []string{"the recipe ended well and left an empty iptables.tar"}},
		"a folder in the way": {func(o *Options) { o.Dir = filepath.Join("/proc", "store") }, []string{"node image", "/proc/store"}},
	} {
		t.Run(what, func(t *testing.T) {
			g := NewWithT(t)
			o := toy(t.TempDir(), good)
			c.change(&o)
			_, err := Build(t.Context(), o)
			g.Expect(err).To(HaveOccurred())
			for _, words := range c.says {
				g.Expect(err.Error()).To(ContainSubstring(words))
			}
			g.Expect(leftovers(t, o.Dir)).To(BeEmpty())
		})
	}
}

func TestLongOutputOfAFailure(t *testing.T) {
	g := NewWithT(t)
	_, err := Build(t.Context(), toy(t.TempDir(), "for i in $(seq 100); do echo line $i; done; exit 1"))
	g.Expect(err).To(MatchError(And(ContainSubstring("line 100"), ContainSubstring("line 71"), Not(ContainSubstring("line 70\n")))))
}

func TestDamageIsMended(t *testing.T) {
	g := NewWithT(t)
	ran := runs(t)
	o := toy(t.TempDir(), good)
	for what, damage := range map[string]func(Image) error{
		"a shorter file": func(i Image) error { return os.Truncate(i.Tar, 3) },
		"a missing file": func(i Image) error { return os.Remove(i.Iptables) },
		"no record":      func(i Image) error { return os.Remove(filepath.Join(filepath.Dir(i.Tar), "record.json")) },
	} {
		image, err := Build(t.Context(), o)
		g.Expect(err).NotTo(HaveOccurred(), what)
		before := len(ran())
		g.Expect(damage(image)).To(Succeed(), what)
		image, err = Build(t.Context(), o)
		g.Expect(err).NotTo(HaveOccurred(), what)
		g.Expect(image.FromCache).To(BeFalse(), what)
		g.Expect(ran()).To(HaveLen(before+1), what)
	}
}

func TestInterruption(t *testing.T) {
	g := NewWithT(t)
	started := filepath.Join(t.TempDir(), "started")
	cleared := filepath.Join(t.TempDir(), "cleared")
	o := toy(t.TempDir(), fmt.Sprintf("trap 'touch %s; exit 1' TERM; touch %s; sleep 60 & wait", cleared, started))
	ctx, stop := context.WithCancelCause(t.Context())
	go func() {
		for {
			if _, err := os.Stat(started); err == nil {
				stop(errors.New("enough"))
				return
			}
		}
	}()
	_, err := Build(ctx, o)
	g.Expect(err).To(MatchError("node image: the recipe was stopped: enough"))
	g.Expect(cleared).To(BeAnExistingFile(), "the recipe may clear up")
	g.Expect(leftovers(t, o.Dir)).To(BeEmpty())
}

func TestTwoAtOnce(t *testing.T) {
	g := NewWithT(t)
	ran := runs(t)
	dir := t.TempDir()
	slow := strings.Replace(good, "set -eu", "set -eu; sleep 0.5", 1)
	var wait sync.WaitGroup
	images := make([]Image, 4)
	errs := make([]error, len(images))
	for i := range images {
		wait.Go(func() { images[i], errs[i] = Build(t.Context(), toy(dir, slow)) })
	}
	wait.Wait()
	made := 0
	for i := range images {
		g.Expect(errs[i]).NotTo(HaveOccurred())
		if !images[i].FromCache {
			made++
		}
	}
	g.Expect(made).To(Equal(1))
	g.Expect(ran()).To(HaveLen(1))
}

// A killed process leaves its recipe running for a moment; nobody else begins
// meanwhile, and what it left is cleared.
func TestKilledProcess(t *testing.T) {
	g := NewWithT(t)
	ran := runs(t)
	dir := t.TempDir()
	started, ended := filepath.Join(t.TempDir(), "started"), filepath.Join(t.TempDir(), "ended")
	self, err := os.Executable()
	g.Expect(err).NotTo(HaveOccurred())
	first := exec.CommandContext(t.Context(), self)
	first.Env = append(os.Environ(), "NODEIMAGE_TEST_DIR="+dir,
		"NODEIMAGE_TEST_SCRIPT="+fmt.Sprintf("trap '' TERM; touch %s; sleep 1; touch %s", started, ended))
	g.Expect(first.Start()).To(Succeed())
	g.Eventually(started, 20*time.Second).Should(BeAnExistingFile())
	g.Expect(first.Process.Signal(syscall.SIGKILL)).To(Succeed())
	_ = first.Wait()
	g.Expect(leftovers(t, dir)).To(HaveLen(1))

	o := toy(dir, good)
	var lines []string
	o.Progress = func(line string) { lines = append(lines, line) }
	_, err = Build(t.Context(), o)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ended).To(BeAnExistingFile(), "the second waits for the first one's recipe")
	g.Expect(lines[0]).To(ContainSubstring(fmt.Sprintf("waiting for another process (pid %d)", first.Process.Pid)))
	g.Expect(leftovers(t, dir)).To(BeEmpty())
	g.Expect(ran()).To(HaveLen(1))
}

// The recipe that the program ships is what the package takes it for.
func TestShippedRecipe(t *testing.T) {
	g := NewWithT(t)
	all := os.DirFS("../../../scripts/node")
	files, err := recipe(all)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(files).To(ContainElements("build.sh", "iptables", "rootfs/usr/local/bin/entrypoint", "rootfs/kind/manifests/default-cni.yaml"))
	text, err := os.ReadFile("../../../scripts/node/build.sh")
	g.Expect(err).NotTo(HaveOccurred())
	for _, name := range Programs() {
		g.Expect(string(text)).To(MatchRegexp(`(?m)^(programs|plugins)=\(.*\b`+name+`\b.*\)$`), "%s is installed", name)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".sh") || file == "iptables" || strings.Contains(file, "/bin/") {
			output, err := exec.CommandContext(t.Context(), "bash", "-n", filepath.Join("../../../scripts/node", file)).CombinedOutput()
			g.Expect(err).NotTo(HaveOccurred(), "%s: %s", file, output)
		}
	}
}
