package component

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// withoutGo hides the Go toolchain from a store, and nothing else.
func withoutGo(o *Options) { o.Getenv = noGo }

func TestModuleFolder(t *testing.T) {
	read := func(g Gomega, dir string) {
		g.Expect(os.ReadFile(filepath.Join(dir, "charts", "values.yaml"))).To(BeEquivalentTo("replicas: 1\n"))
	}
	for name, test := range map[string]struct {
		change  func(t *testing.T, toys toyFamily)
		options func(*Options)
		inStore bool // not in Go's module cache
	}{
		"with go":                  {},
		"without go from a folder": {options: withoutGo, inStore: true},
		"without go over http": {options: withoutGo, inStore: true, change: func(t *testing.T, toys toyFamily) {
			server := httptest.NewServer(http.FileServer(http.Dir(toys.proxy)))
			t.Cleanup(server.Close)
			t.Setenv("GOPROXY", server.URL+"/,direct")
		}},
		"without go from the second proxy": {options: withoutGo, inStore: true, change: func(t *testing.T, _ toyFamily) {
			t.Setenv("GOPROXY", "file://"+filepath.ToSlash(t.TempDir())+"|"+os.Getenv("GOPROXY"))
		}},
		"without go from the module cache": {options: withoutGo, change: func(t *testing.T, toys toyFamily) {
			store, _ := toys.open(t)
			_, err := store.Module(t.Context(), "example.test/toy", "v1.0.0")
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			t.Setenv("GOPROXY", "off")
		}},
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
			dir, err := store.Module(t.Context(), "example.test/toy", "")
			g.Expect(err).NotTo(HaveOccurred())
			read(g, dir)
			g.Expect(strings.HasPrefix(dir, store.options.Dir)).To(Equal(test.inStore), dir)

			// Once verified, it is there without asking anyone.
			t.Setenv("GOPROXY", "off")
			again, err := Open(store.options)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(again.Module(t.Context(), "example.test/toy", "v1.0.0")).To(Equal(dir))
		})
	}
}

func TestWhatStopsAModule(t *testing.T) {
	for name, test := range map[string]struct {
		module, version string
		change          func(t *testing.T, toys toyFamily)
		options         func(*Options)
		wants           []string
	}{
		"not pinned": {
			module: "example.test/nobody",
			wants:  []string{"module example.test/nobody: neither pullable nor pinned: no version is pinned; add it with its sum to scripts/pins/modules.yaml"},
		},
		"another version": {
			version: "v1.2.3",
			wants:   []string{"module example.test/toy@v1.2.3: neither pullable nor pinned: pinned is v1.0.0"},
		},
		"several versions": {
			change: func(t *testing.T, toys toyFamily) {
				toys.write(t, modulesFile, "modules: [{path: example.test/toy, version: v1.10.0, sum: 'h1:a'}, {path: example.test/toy, version: v1.9.0, sum: 'h1:b'}]\n")
			},
			wants: []string{"module example.test/toy: several versions are pinned (v1.0.0, v1.9.0, v1.10.0): name one"},
		},
		"not to be had": {
			change: func(t *testing.T, _ toyFamily) { t.Setenv("GOPROXY", "off") },
			wants: []string{
				"module example.test/toy@v1.0.0: cannot be fetched: go mod download: example.test/toy@v1.0.0: module lookup disabled by GOPROXY=off",
				"and without the go command: GOPROXY names no proxy", `reach the network or a module proxy (GOPROXY is "off")`,
			},
		},
		"not to be had without go": {
			options: withoutGo,
			change:  func(t *testing.T, _ toyFamily) { t.Setenv("GOPROXY", "file://"+filepath.ToSlash(t.TempDir())) },
			wants:   []string{"cannot be fetched: no Go toolchain in PATH; and without the go command: open ", "no such file or directory"},
		},
		"refused by the proxy": {
			options: withoutGo,
			change: func(t *testing.T, _ toyFamily) {
				server := httptest.NewServer(http.NotFoundHandler())
				t.Cleanup(server.Close)
				t.Setenv("GOPROXY", server.URL)
			},
			wants: []string{"get http://127.0.0.1:", "/example.test/toy/@v/v1.0.0.zip: 404 Not Found"},
		},
		"exchanged": {
			change: func(t *testing.T, toys toyFamily) {
				toys.publish(t, toyModule, map[string]string{"go.mod": "module example.test/toy\n", "main.go": "package main\n"})
			},
			wants: []string{"module example.test/toy@v1.0.0: checksum mismatch: what go mod download got is h1:"},
		},
		"exchanged and without go": {
			options: withoutGo,
			change: func(t *testing.T, toys toyFamily) {
				toys.publish(t, toyModule, map[string]string{"go.mod": "module example.test/toy\n", "main.go": "package main\n"})
			},
			wants: []string{"module example.test/toy@v1.0.0: checksum mismatch: file://"},
		},
		"changed in the module cache": {
			change: func(t *testing.T, toys toyFamily) {
				store, _ := toys.open(t)
				dir, err := store.Module(t.Context(), "example.test/toy", "")
				if err == nil {
					err = os.Chmod(filepath.Join(dir, "main.go"), 0o600)
				}
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, "main.go"), []byte("package evil\n"), 0o600)
				}
				NewWithT(t).Expect(err).NotTo(HaveOccurred())
			},
			wants: []string{"checksum mismatch: folder ", "the folder was changed: go clean -modcache removes it"},
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
			module := test.module
			if module == "" {
				module = "example.test/toy"
			}
			_, err := store.Module(t.Context(), module, test.version)
			g.Expect(err).To(MatchError(And(hold(test.wants...)...)))
			g.Expect(filepath.Glob(filepath.Join(store.options.Dir, "modules", "*.json"))).To(BeEmpty(), "nothing counts as verified")
		})
	}
}

func TestModuleIsInterrupted(t *testing.T) {
	g := NewWithT(t)
	toys := makeToys(t)
	gate := toys.gate(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gate.waiting
		cancel()
	}()
	store, _ := toys.open(t, withoutGo)
	_, err := store.Module(ctx, "example.test/toy", "")
	g.Expect(err).To(MatchError(context.Canceled))
	gate.open()
	_, err = store.Module(t.Context(), "example.test/toy", "")
	g.Expect(err).NotTo(HaveOccurred())
}

// update.sh is how errors say that a version is pinned.
func TestUpdateScriptSaysHowItIsUsed(t *testing.T) {
	g := NewWithT(t)
	script, err := os.Open(filepath.Join(pinsFolder, "update.sh"))
	g.Expect(err).NotTo(HaveOccurred())
	defer script.Close()
	text, err := io.ReadAll(script)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(text)).To(ContainSubstring("scripts/pins/update.sh FAMILY MODULE@VERSION"))
	info, err := script.Stat()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm() & 0o111).NotTo(BeZero())
}
