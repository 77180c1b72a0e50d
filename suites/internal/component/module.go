package component

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// verified lies in the store for each module folder that was compared with its
// pinned sum.
type verified struct {
	Dir string `json:"dir"`
	Sum string `json:"sum"`
}

// Module returns the folder of a pinned Go module: charts, custom resource
// definitions and manifests. Its content was compared with the pinned sum. It
// is taken from the module cache, else fetched, with the go command or without.
// An empty version is the pinned one; another is an error, since nothing would
// vouch for it. The folder is shared: do not write to it.
func (s *Store) Module(ctx context.Context, path, version string) (dir string, err error) {
	m, sum, err := s.pinnedModule(path, version)
	if err != nil {
		return "", err
	}
	escaped, err := escape(m)
	if err != nil {
		return "", fmt.Errorf("module %s: %w", m, err)
	}
	file := filepath.Join(s.options.Dir, "modules", strings.ReplaceAll(escaped, "/", "+")+".json")
	if dir, ok := remembered(file, sum); ok {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", s.explain(err)
	}
	unlock, err := s.flock(ctx, "module-"+hash("%s", m)[:16], func(holder string) {
		s.options.Progress(Progress{Component: m.Path, Version: m.Version, Phase: Waiting, Detail: "for " + holder + " that fetches it", Remaining: 1})
	})
	if err != nil {
		return "", fmt.Errorf("module %s: %w", m, err)
	}
	defer unlock()
	if dir, ok := remembered(file, sum); ok {
		return dir, nil
	}
	dir, err = s.moduleDir(ctx, m, sum, escaped)
	if err != nil {
		return "", fmt.Errorf("module %s: %w", m, err)
	}
	data, err := json.Marshal(verified{Dir: dir, Sum: sum})
	if err != nil {
		return "", fmt.Errorf("module %s: %w", m, err)
	}
	if err := writeFile(file, data); err != nil {
		return "", s.explain(err)
	}
	return dir, nil
}

// pinnedModule finds the module's sum.
func (s *Store) pinnedModule(path, version string) (module.Version, string, error) {
	versions := s.table.modules[path]
	pinned := make([]string, 0, len(versions))
	for v := range versions {
		pinned = append(pinned, v)
	}
	slices.SortFunc(pinned, semver.Compare)
	switch {
	case len(pinned) == 0:
		return module.Version{}, "", fmt.Errorf("module %s: %w: no version is pinned; add it with its sum to scripts/pins/%s", path, ErrNotPinned, modulesFile)
	case version == "" && len(pinned) > 1:
		return module.Version{}, "", fmt.Errorf("module %s: several versions are pinned (%s): name one", path, strings.Join(pinned, ", "))
	case version == "":
		version = pinned[0]
	case versions[version] == "":
		return module.Version{}, "", fmt.Errorf("module %s@%s: %w: pinned is %s; use that, or add this one with its sum to scripts/pins/%s", path, version, ErrNotPinned, strings.Join(pinned, ", "), modulesFile)
	}
	return module.Version{Path: path, Version: version}, versions[version], nil
}

// escape is where caches and proxies keep a module: PATH@VERSION.
func escape(m module.Version) (string, error) {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", err
	}
	return path + "@" + version, nil
}

// remembered is the folder that was verified earlier, if it is still there.
func remembered(file, sum string) (dir string, ok bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	var v verified
	if json.Unmarshal(data, &v) != nil || v.Sum != sum {
		return "", false
	}
	info, err := os.Stat(v.Dir)
	return v.Dir, err == nil && info.IsDir()
}

// moduleDir gets the module in one of three ways, each verified.
func (s *Store) moduleDir(ctx context.Context, m module.Version, sum, escaped string) (string, error) {
	if dir := s.moduleCache(escaped); dir != "" && verifyDir(dir, m, sum) == nil {
		return dir, nil
	}
	s.options.Progress(Progress{Component: m.Path, Version: m.Version, Phase: Fetching, Detail: "a module that is read", Remaining: 1})
	tc := s.findToolchain(ctx)
	goErr := tc.err
	if goErr == nil {
		var dir string
		if dir, goErr = s.goDownload(ctx, tc, m, sum); goErr == nil || errors.Is(goErr, errFatal) {
			return dir, goErr
		}
	}
	dir, err := s.proxyDownload(ctx, m, sum, escaped)
	if err == nil || errors.Is(err, errFatal) {
		return dir, err
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", fmt.Errorf("cannot be fetched: %w; and without the go command: %w; reach the network or a module proxy (GOPROXY is %q), or fill the module cache on a machine that can", goErr, err, cmp.Or(s.options.Getenv("GOPROXY"), tc.proxy))
}

// moduleCache is the module's folder in Go's module cache; empty if it is not
// there in full.
func (s *Store) moduleCache(escaped string) string {
	root := s.options.Getenv("GOMODCACHE")
	if root == "" {
		gopath := s.options.Getenv("GOPATH")
		if list := filepath.SplitList(gopath); len(list) > 0 {
			gopath = list[0]
		}
		root = filepath.Join(cmp.Or(gopath, filepath.Join(s.options.Getenv("HOME"), "go")), "pkg", "mod")
	}
	path, version, _ := strings.Cut(escaped, "@")
	// The go command marks a folder that it is still writing.
	if _, err := os.Stat(filepath.Join(root, "cache", "download", filepath.FromSlash(path), "@v", version+".partial")); err == nil {
		return ""
	}
	dir := filepath.Join(root, filepath.FromSlash(escaped))
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	return dir
}

// verifyDir compares a folder with the module's pinned sum.
func verifyDir(dir string, m module.Version, sum string) error {
	got, err := dirhash.HashDir(dir, m.String(), dirhash.Hash1)
	if err != nil {
		return err
	}
	return verifySum("folder "+dir, got, sum)
}

func verifySum(what, got, sum string) error {
	if got != sum {
		return fatal{fmt.Errorf("checksum mismatch: %s is %s, pinned is %s", what, got, sum)}
	}
	return nil
}

// goDownload lets the go command fetch the module. Its own check of the sum is
// replaced by ours: the pins know it.
func (s *Store) goDownload(ctx context.Context, tc toolchain, m module.Version, sum string) (string, error) {
	cmd := exec.CommandContext(ctx, tc.path, "mod", "download", "-json", m.String())
	cmd.Dir, cmd.Env = "/", s.goEnviron("GOSUMDB=off")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := runGroup(cmd)
	var answer struct{ Dir, Sum, Error string }
	if json.Unmarshal(stdout.Bytes(), &answer) == nil && answer.Error != "" {
		return "", fmt.Errorf("go mod download: %s", answer.Error)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err := verifySum("what go mod download got", answer.Sum, sum); err != nil {
		return "", err
	}
	if err := verifyDir(answer.Dir, m, sum); err != nil {
		return "", fmt.Errorf("%w; the folder was changed: go clean -modcache removes it", err)
	}
	return answer.Dir, nil
}

// proxyDownload fetches the module by the GOPROXY protocol
// (https://go.dev/ref/mod#goproxy-protocol) into the store.
func (s *Store) proxyDownload(ctx context.Context, m module.Version, sum, escaped string) (string, error) {
	dir := filepath.Join(s.options.Dir, "modules", filepath.FromSlash(escaped))
	path, version, _ := strings.Cut(escaped, "@")
	problems := []error{}
	for _, proxy := range strings.FieldsFunc(s.options.Getenv("GOPROXY"), func(r rune) bool { return r == ',' || r == '|' }) {
		if proxy == "direct" || proxy == "off" {
			continue
		}
		err := s.unzip(ctx, strings.TrimSuffix(proxy, "/")+"/"+path+"/@v/"+version+".zip", m, sum, dir)
		if err == nil || errors.Is(err, errFatal) {
			return dir, err
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		return "", errors.New("GOPROXY names no proxy")
	}
	return "", errors.Join(problems...)
}

// unzip fetches, verifies and unpacks a module's zip file. The caller holds the
// module's lock.
func (s *Store) unzip(ctx context.Context, address string, m module.Version, sum, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return s.explain(err)
	}
	work := dir + ".work" // of a killed holder, if it is there
	if err := os.RemoveAll(work); err != nil {
		return s.explain(err)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return s.explain(err)
	}
	defer os.RemoveAll(work)
	content, err := openURL(ctx, address)
	if err != nil {
		return err
	}
	defer content.Close()
	file := filepath.Join(work, "module.zip")
	if err := s.write(file, io.LimitReader(content, modzip.MaxZipFile)); err != nil {
		return err
	}
	got, err := dirhash.HashZip(file, dirhash.Hash1)
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	if err := verifySum(address, got, sum); err != nil {
		return err
	}
	unpacked := filepath.Join(work, "module")
	if err := modzip.Unzip(unpacked, m, file); err != nil {
		return s.explain(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return s.explain(err)
	}
	if err := os.Rename(unpacked, dir); err != nil {
		return s.explain(err)
	}
	return nil
}

// openURL reads an http, https or file URL.
func openURL(ctx context.Context, address string) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("GOPROXY: %w", err)
	}
	if u.Scheme == "file" {
		return os.Open(filepath.FromSlash(u.Path))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("GOPROXY: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("get %s: %s", u.Redacted(), response.Status)
	}
	return response.Body, nil
}
