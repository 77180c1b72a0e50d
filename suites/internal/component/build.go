package component

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	goversion "go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	progressEvery = 2 * time.Second
	// outputKept is how much of the end of the go command's output is kept for
	// the error.
	outputKept = 8 << 10
)

// buildEnviron makes programs that need nothing of the machine they were built
// on, from the pins alone.
var buildEnviron = []string{"CGO_ENABLED=0"}

func buildFlags(e *entry) []string {
	return []string{
		"-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", strings.TrimSpace("-s -w " + render(e.LDFlags, e.pinned)),
	}
}

// toolchain is the Go toolchain of this machine.
type toolchain struct {
	path      string // of the go command
	version   string // such as go1.26.8
	selection string // GOTOOLCHAIN
	cache     string // GOCACHE
	proxy     string // GOPROXY
	err       error
}

// switches says whether the go command may use a newer toolchain than itself.
func (t toolchain) switches() bool {
	_, mode, found := strings.Cut(t.selection, "+")
	if !found {
		mode = t.selection
	}
	return mode == "auto" || mode == "path"
}

// findToolchain asks the go command in PATH about itself, once per process.
func (s *Store) findToolchain(ctx context.Context) toolchain {
	s.goMutex.Lock()
	defer s.goMutex.Unlock()
	if s.goFound.path == "" && s.goFound.err == nil {
		found := s.askToolchain(ctx)
		if ctx.Err() != nil {
			return found
		}
		s.goFound = found
	}
	return s.goFound
}

func (s *Store) askToolchain(ctx context.Context) toolchain {
	path := s.lookPath("go")
	if path == "" {
		return toolchain{err: errors.New("no Go toolchain in PATH")}
	}
	cmd := exec.CommandContext(ctx, path, "env", "GOVERSION", "GOTOOLCHAIN", "GOCACHE", "GOPROXY")
	cmd.Env, cmd.Dir = s.goEnviron(), "/" // outside of any module
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	lines := strings.Split(string(out), "\n")
	if err != nil || len(lines) < 4 {
		return toolchain{err: fmt.Errorf("the Go toolchain %s does not work: go env: %w: %s", path, err, strings.TrimSpace(stderr.String()))}
	}
	return toolchain{path: path, version: lines[0], selection: lines[1], cache: lines[2], proxy: lines[3]}
}

// lookPath finds a program in the PATH of Options.Getenv; empty if there is
// none.
func (s *Store) lookPath(program string) string {
	for _, dir := range filepath.SplitList(s.options.Getenv("PATH")) {
		if path := filepath.Join(dir, program); filepath.IsAbs(path) {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
				return path
			}
		}
	}
	return ""
}

// goVariables are what Options.Getenv may tell the go command differently from
// the environment of this process.
var goVariables = []string{
	"PATH", "HOME", "GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GONOPROXY",
	"GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOTOOLCHAIN", "GOROOT",
}

// goEnviron is the environment of the go command: the user's, without what
// would build something else than the pins say.
func (s *Store) goEnviron(extra ...string) []string {
	environ := os.Environ()
	for _, name := range goVariables {
		if value := s.options.Getenv(name); value != os.Getenv(name) {
			environ = append(environ, name+"="+value)
		}
	}
	flags := []string{"-mod=readonly"} // an empty GOFLAGS would give way to that of go env -w
	for _, flag := range strings.Fields(s.options.Getenv("GOFLAGS")) {
		if flag == "-modcacherw" || strings.HasPrefix(flag, "-p=") {
			flags = append(flags, flag)
		}
	}
	goos, goarch, _ := strings.Cut(s.platform, "/")
	environ = append(environ, buildEnviron...)
	environ = append(environ, "GOFLAGS="+strings.Join(flags, " "), "GOWORK=off", "GO111MODULE=on", "GOOS="+goos, "GOARCH="+goarch)
	return append(environ, extra...)
}

// readyToBuild finds out before the first of many builds what would stop one of
// them.
func (s *Store) readyToBuild(ctx context.Context, builds []*target) error {
	tc := s.findToolchain(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, t := range builds {
		least := "go" + t.goVersion()
		switch {
		case tc.err != nil:
			return fmt.Errorf("component %s: %w; and it cannot be built from %s: %w; install Go %s or newer, or make the image pullable (network, credentials, a mirror)",
				t, t.why(), t.origin(), tc.err, t.goVersion())
		case goversion.IsValid(tc.version) && goversion.Compare(tc.version, least) < 0 && !tc.switches():
			return fmt.Errorf("component %s: the Go toolchain %s is too old to build it: it is %s, and %s needs %s; install Go %s or newer, or let go fetch it (GOTOOLCHAIN is %s; auto would)",
				t, tc.path, tc.version, cmp.Or(t.Source, t.Pins+".mod"), least, t.goVersion(), tc.selection)
		}
	}
	need := uint64(len(builds)) * spacePerBuild
	for _, dir := range []string{s.options.Dir, tc.cache} {
		if err := s.enoughSpace(dir, need); err != nil {
			return fmt.Errorf("build %d components: %w", len(builds), err)
		}
	}
	return nil
}

// place is where t is built: the folder of a module, and a package there.
func (s *Store) place(t *target) (dir, pkg string, err error) {
	if t.files != nil {
		dir, err = s.source(t)
		return dir, ".", err
	}
	dir, err = s.family(t.family)
	return dir, t.Package, err
}

// build builds t from its pinned module or its source. The caller holds the lock.
func (s *Store) build(ctx context.Context, t *target, run *tally) (Component, error) {
	tc := s.findToolchain(ctx)
	if tc.err != nil {
		return Component{}, tc.err
	}
	module, pkg, err := s.place(t)
	if err != nil {
		return Component{}, err
	}
	work, remove, err := s.work(t.Name)
	if err != nil {
		return Component{}, err
	}
	defer remove()
	program := filepath.Join(work, t.Name)
	arguments := slices.Concat([]string{"build"}, buildFlags(t.entry), []string{"-o", program, pkg})
	cmd := exec.CommandContext(ctx, tc.path, arguments...)
	// The go command's own temporary files go where they are cleared even if
	// everything is killed.
	cmd.Dir, cmd.Env = module, s.goEnviron("GOTMPDIR="+work, "PWD="+module)
	output := &output{}
	cmd.Stdout, cmd.Stderr = output, output

	stop := s.report(ctx, t, run, output)
	err = runGroup(cmd)
	stop()
	if err != nil && ctx.Err() != nil {
		return Component{}, fmt.Errorf("building was interrupted; what is compiled stays in the Go build cache, and the next run goes on from there: %w", context.Cause(ctx))
	}
	if err != nil {
		return Component{}, s.buildError(t, tc, err, output.tail())
	}
	return s.install(program, record{
		Name: t.Name, Version: t.pinned, Origin: originBuild,
		Reference: t.origin(),
		Inputs:    s.inputs(t), Toolchain: tc.version,
	})
}

// report tells of the build until stop is called.
func (s *Store) report(ctx context.Context, t *target, run *tally, output *output) (stop func()) {
	began := time.Now()
	run.tell(t, Building, "", 0)
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				run.tell(t, Building, output.downloading(), time.Since(began))
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// family lays a family's module files down as the go command wants them. The
// folder is named after their content, so processes with other pins do not
// meet here.
func (s *Store) family(f *family) (dir string, err error) {
	dir = filepath.Join(s.options.Dir, "pins", f.name+"-"+hash("%s\n%s", f.mod, f.sum)[:16])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", s.explain(err)
	}
	for name, data := range map[string][]byte{"go.mod": f.mod, "go.sum": f.sum} {
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return "", s.explain(err)
		}
	}
	return dir, nil
}

var (
	checksumPattern = regexp.MustCompile(`verifying (\S+@\S+?): checksum mismatch`)
	missingSum      = regexp.MustCompile(`missing go\.sum entry.*`)
	fetchPattern    = regexp.MustCompile(`(?m)(\S+@v[^\s:]+): ((?:reading|Get|invalid|unrecognized|module lookup|git|unknown revision|not found|zip|read|create).*)$`)
	offPattern      = regexp.MustCompile(`downloading (\S+) (\S+)\s+(module lookup disabled by GOPROXY=off)`)
	oldPattern      = regexp.MustCompile(`(?m)^.*requires go >= (\S+) .*$|^.*toolchain not available.*$|^.*golang\.org/toolchain@.*$`)
)

// buildError says what a failed build wants, from what the go command printed.
func (s *Store) buildError(t *target, tc toolchain, err error, output string) error {
	what := "build " + t.origin()
	if strings.Contains(output, "no space left on device") || strings.Contains(output, "disk quota exceeded") {
		return fatal{fmt.Errorf("%s: disk full; free some space (all components take about 6 GiB), or move Go's build cache (GOCACHE is %s) or the component cache (FLUX_CONFORMANCE_HOME): %w\n%s", what, tc.cache, err, output)}
	}
	if m := checksumPattern.FindStringSubmatch(output); m != nil {
		return fatal{fmt.Errorf("%s: module %s is not the one that %s.sum was made for: checksum mismatch; whoever answered (GOPROXY is %s) or the pins were tampered with: %w\n%s", what, m[1], t.Pins, tc.proxy, err, output)}
	}
	if m := missingSum.FindString(output); m != "" {
		return fmt.Errorf("%s: %s.sum is incomplete: %s; run scripts/pins/update.sh %s %s@%s: %w", what, t.Pins, m, t.Pins, t.Module, t.pinned, err)
	}
	if m := oldPattern.FindString(output); m != "" {
		return fmt.Errorf("%s: the Go toolchain %s (%s) is too old: %s; install Go %s or newer: %w", what, tc.path, tc.version, strings.TrimSpace(m), t.goVersion(), err)
	}
	m := fetchPattern.FindStringSubmatch(output)
	if off := offPattern.FindStringSubmatch(output); m == nil && off != nil {
		m = []string{"", off[1] + "@" + off[2], off[3]}
	}
	if m != nil {
		return fmt.Errorf("%s: module %s cannot be fetched: %s; reach the network or a module proxy (GOPROXY is %s), or fill the module cache on a machine that can: %w", what, m[1], m[2], tc.proxy, err)
	}
	return fmt.Errorf("%s: go build: %w\n%s", what, err, output)
}

// output keeps the end of what the go command prints, and the module that it
// downloads.
type output struct {
	mu   sync.Mutex
	text []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if extra := len(o.text) - outputKept; extra > 0 {
		o.text = slices.Delete(o.text, 0, extra)
	}
	return len(p), nil
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.TrimSpace(string(o.text))
}

// downloading is the go command's last line, if it tells of a download.
func (o *output) downloading() string {
	text := o.tail()
	last := text[strings.LastIndexByte(text, '\n')+1:]
	if detail, ok := strings.CutPrefix(last, "go: "); ok && strings.HasPrefix(detail, "downloading ") {
		return detail
	}
	return ""
}
