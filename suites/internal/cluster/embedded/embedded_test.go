package embedded

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// binaries are the programs of the components, from the folder that the
// environment names. Without it the tests fail: they prove nothing then.
func binaries(t *testing.T) map[string]string {
	t.Helper()
	const variable = "FLUX_CONFORMANCE_TEST_BINARIES"
	dir := os.Getenv(variable)
	if dir == "" {
		t.Fatalf("%s is not set: these tests run real programs; name a folder that holds etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok, kwokctl and the controllers", variable)
	}
	paths := map[string]string{}
	for component, file := range map[string]string{
		"etcd": "etcd", "kube-apiserver": "kube-apiserver", "kube-controller-manager": "kube-controller-manager",
		"kube-scheduler": "kube-scheduler", "kwok": "kwok", "kwokctl": "kwokctl",
		"source-controller": "source-controller", "kustomize-controller": "kustomize-controller", "helm-controller": "helm-controller",
		"kyverno": "kyverno", "kyvernopre": "kyverno-init", "background-controller": "background-controller",
		"reports-controller": "reports-controller", "cleanup-controller": "cleanup-controller",
	} {
		path := filepath.Join(dir, file)
		if _, err := os.Stat(path); err != nil {
			path = filepath.Join(dir, component)
		}
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s names a folder without %s: %v", variable, component, err)
		}
		paths[component] = path
	}
	return paths
}

// recognize stands in for the store's: by the last part of the repository.
func recognize(image string) (string, bool) {
	name := image[strings.LastIndexByte(image, '/')+1:]
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	switch name {
	case "source-controller", "kustomize-controller", "helm-controller", "kyverno", "kyvernopre",
		"background-controller", "reports-controller", "cleanup-controller":
		return name, true
	}
	return "", false
}

// ports hands out ports that are free now, each once.
func ports(t *testing.T) func() (int, error) {
	t.Helper()
	var mu sync.Mutex
	given := map[int]bool{}
	return func() (int, error) {
		mu.Lock()
		defer mu.Unlock()
		for range 100 {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return 0, err
			}
			port := listener.Addr().(*net.TCPAddr).Port
			if err := listener.Close(); err != nil {
				return 0, err
			}
			if !given[port] {
				given[port] = true
				return port, nil
			}
		}
		return 0, fmt.Errorf("no free port in a hundred tries")
	}
}

func newSpec(t *testing.T, name string) cluster.Spec {
	t.Helper()
	return cluster.Spec{
		Name: name, Dir: filepath.Join(t.TempDir(), name),
		Binaries: binaries(t), Recognize: recognize, Ports: ports(t),
		Marker: "FLUX_CONFORMANCE_SESSION=" + t.Name(), Log: t.Output(),
	}
}

// create brings a cluster up for one test.
func create(t *testing.T, spec cluster.Spec) cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	begun := time.Now()
	c, err := Provider{}.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("cluster %s is up after %s", spec.Name, time.Since(begun).Round(time.Millisecond))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}
