//go:build live && linux

package program_test

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/component/registrytest"
)

// With nothing cached, and without a Go toolchain, a first run takes every
// component from the registry and compiles nothing.
func TestLiveFirstRunFromRegistry(t *testing.T) {
	mirrors := mirror(t)
	config := filepath.Join(t.TempDir(), "conformance.yaml")
	var text strings.Builder
	text.WriteString("apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nregistries:\n")
	for host, base := range mirrors {
		fmt.Fprintf(&text, "  %s: %q\n", host, base)
	}
	if err := os.WriteFile(config, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	modules := t.TempDir()
	cache, err := exec.Command(goCommand, "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	downloads := filepath.Join(strings.TrimSpace(string(cache)), "cache", "download")
	u := newUser(t, "PATH="+pathWithoutGo(t), "GOMODCACHE="+modules, "GOPROXY=file://"+downloads)
	report := u.e2e(t, "--config", config).green(t)

	var names []string
	for _, c := range report.Components {
		names = append(names, c.Name)
		if c.Origin != "registry" || c.FromCache || !strings.HasPrefix(c.Digest, "sha256:") || !strings.Contains(c.Reference, "@sha256:") {
			t.Errorf("component %s does not come from the registry with its digests: %+v", c.Name, c)
		}
	}
	for name := range programs {
		if name != "kyverno-cli" && !slices.Contains(names, name) {
			t.Errorf("the report lacks the component %s: %v", name, names)
		}
	}
	for _, name := range list(t, modules) {
		t.Errorf("the module cache was written to: %s", name)
	}
}

// mirror starts a registry that holds the image of every component that a
// cluster runs, by the references of the component table, which are those that
// the reference platform names too. It returns what answers for which host.
func mirror(t *testing.T) map[string]string {
	t.Helper()
	server := httptest.NewServer(registry.New(
		registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(t.TempDir()))))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")

	data, err := os.ReadFile(filepath.Join(moduleRoot, "scripts", "pins", "components.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Components []struct{ Name, Image, Path string }
	}
	if err := yaml.Unmarshal(data, &table); err != nil {
		t.Fatal(err)
	}
	mirrors := map[string]string{}
	for _, c := range table.Components {
		program, known := programs[c.Name]
		if c.Name == "kyverno-cli" || !known {
			continue // no cluster of this provider runs it
		}
		// …/NAME/OS-ARCH/VERSION-HASH/NAME
		version, _, _ := strings.Cut(filepath.Base(filepath.Dir(program)), "-")
		image := strings.NewReplacer("{version}", version, "{number}", strings.TrimPrefix(version, "v")).Replace(c.Image)
		host, _, _ := strings.Cut(image, "/")
		mirrors[host] = address + "/" + host
		entrypoint := c.Path
		if entrypoint == "" {
			entrypoint = "/" + c.Name
		}
		if err := registrytest.Push(t.Context(), address+"/"+image, program, entrypoint); err != nil {
			t.Fatal(err)
		}
	}
	return mirrors
}

// pathWithoutGo is a folder with a link to every program of this machine's PATH
// but those of the Go toolchain.
func pathWithoutGo(t *testing.T) string {
	t.Helper()
	tools := t.TempDir()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		for _, name := range list(t, dir) {
			err := os.Symlink(filepath.Join(dir, name), filepath.Join(tools, name))
			if err != nil && !os.IsExist(err) { // the first folder counts
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"go", "gofmt"} {
		if err := os.Remove(filepath.Join(tools, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	return tools
}
