//go:build live && linux

package program_test

import (
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/nodeimage"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// Where a registry answers, nodes are made from the image that CONFIG names, and
// pull from there whatever a registry has; the session serves the project's own
// programs alone.
func TestLiveKindWithRegistry(t *testing.T) {
	images := newImageRegistry(t)
	node := images.push(t)
	before := dockerNow(t)

	config := filepath.Join(t.TempDir(), "conformance.yaml")
	text := "apiVersion: conformance.flux-platform/v1alpha1\nkind: Config\nnodeImage: " + node + "\nregistries:\n"
	for host := range images.hosts {
		text += fmt.Sprintf("  %s: http://%s/%s\n", host, images.forNodes, host)
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	u := newUser(t).withStore(t)
	r := u.kind(t, "--config", config)
	i := r.reaches(t, "the start of the session", nil)
	report := r.ends(t, check.RunPassed)
	judged(t, report, kindCheck, "dev", "")
	t.Logf("green in %.1f s", report.Seconds)

	if note := "kind with registries: the nodes are made from " + node; !mentions(report.Notes, note) {
		t.Errorf("the report does not note %q: %q", note, report.Notes)
	}
	var ours []string
	for _, c := range report.Components {
		ours = append(ours, c.Name)
		if !images.store.IsOwn(c.Name) {
			t.Errorf("component %s comes from the session, and is in the registry: %+v", c.Name, c)
		}
	}
	if !slices.Contains(ours, "app") {
		t.Errorf("the session served no app of the tenants: %v", ours)
	}
	for _, repository := range []string{
		"registry.k8s.io/kube-apiserver", "registry.k8s.io/kube-proxy", "registry.k8s.io/coredns/coredns",
		"ghcr.io/fluxcd/source-controller", "reg.kyverno.io/kyverno/kyverno",
	} {
		images.gave(t, images.forNodes, repository, "manifests", "blobs")
	}
	// The daemon has the layers of the node image, since it pushed them.
	images.gave(t, images.forDaemon, nodeimage.Repository, "manifests")
	u.leavesNothing(t)
	// What the daemon pulls it keeps, as always.
	docker(t, "image", "rm", node)
	before.again(t, "", i.id)
}

// imageRegistry is a registry of plain HTTP. The daemon takes its images at an
// address of loopback, where it does not insist on HTTPS, and nodes at the gateway
// of a network of the test's own.
type imageRegistry struct {
	// forDaemon and forNodes are HOST:PORT.
	forDaemon, forNodes string
	store               *component.Store
	// hosts are those of the registries whose images are in here.
	hosts map[string]bool

	mu sync.Mutex
	// log has «ADDRESS METHOD PATH STATUS» of each request since it was filled, with
	// the address that was asked.
	log []string
}

func newImageRegistry(t *testing.T) *imageRegistry {
	t.Helper()
	id := docker(t, "network", "create", "flux-conformance-live")
	t.Cleanup(func() { docker(t, "network", "rm", id) })
	gateway := docker(t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", id)
	r := &imageRegistry{hosts: map[string]bool{}}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(t.TempDir())))
	for host, address := range map[string]*string{"127.0.0.1": &r.forDaemon, gateway: &r.forNodes} {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		*address = listener.Addr().String()
		server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r.logging(listener.Addr().String(), handler)}}
		server.Start()
		t.Cleanup(server.Close)
	}
	var err error
	r.store, err = bringup.OpenStore(shipped, filepath.Dir(store), platform.DefaultConfig(), func(component.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shipped is what the program ships, from the working tree.
var shipped = os.DirFS(moduleRoot)

func (r *imageRegistry) logging(address string, inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, asked *http.Request) {
		answer := &answer{ResponseWriter: w, status: http.StatusOK}
		inner.ServeHTTP(answer, asked)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.log = append(r.log, fmt.Sprintf("%s %s %s %d", address, asked.Method, asked.URL.Path, answer.status))
	})
}

// answer takes note of the status of an answer.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// gave fails the test unless these parts of an image were taken at this address.
func (r *imageRegistry) gave(t *testing.T, address, repository string, parts ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, part := range parts {
		if !slices.ContainsFunc(r.log, func(line string) bool {
			return strings.HasPrefix(line, address+" GET /v2/"+repository+"/"+part+"/") && strings.HasSuffix(line, " 200")
		}) {
			t.Errorf("nobody took the %s of %s at %s; asked for was:\n%s", part, repository, address, strings.Join(r.log, "\n"))
		}
	}
}

// push fills the registry with all that registries have of what nodes run, each
// below the host of its own registry, and with a node image of ours, whose
// reference for the daemon it returns.
func (r *imageRegistry) push(t *testing.T) string {
	t.Helper()
	kubernetes, _ := r.store.Pinned("kube-apiserver")
	var requests []component.Request
	for _, one := range r.store.NamesFor("kind") {
		if one != "kyverno-cli" {
			requests = append(requests, component.Request{Name: one})
		}
	}
	found, err := r.store.Resolve(t.Context(), requests)
	if err != nil {
		t.Fatal(err)
	}
	recipe, err := fs.Sub(shipped, "scripts/node")
	if err != nil {
		t.Fatal(err)
	}
	made, err := nodeimage.Build(t.Context(), nodeimage.Options{Dir: store, Recipe: recipe, Programs: found, Kubernetes: kubernetes})
	if err != nil {
		t.Fatal(err)
	}
	iptables, err := component.TarLayer(made.Iptables)
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range r.wanted(t, found, kubernetes) {
		of, _ := r.store.Recognize(reference)
		if r.store.IsOwn(of) {
			continue
		}
		var base []v1.Layer
		if r.store.Base(of) != "" {
			base = append(base, iptables)
		}
		image, err := r.store.Image(t.Context(), reference, base...)
		if err != nil {
			t.Fatal(err)
		}
		r.write(t, reference, image)
		host, _, _ := strings.Cut(reference, "/")
		r.hosts[host] = true
	}
	if _, err := made.Import(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	node := r.forDaemon + "/" + made.Reference
	// It is gone where the test comes to its end.
	t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", node).Run() })
	docker(t, "image", "tag", made.Reference, node)
	docker(t, "image", "push", "--quiet", node)
	docker(t, "image", "rm", node)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
	return node
}

// wanted lists the images of what nodes run: those that kubeadm names, and the
// others by the references of the component table.
func (r *imageRegistry) wanted(t *testing.T, found []component.Component, kubernetes string) []string {
	t.Helper()
	data, err := fs.ReadFile(shipped, "scripts/pins/components.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Components []struct{ Name, Image string }
	}
	if err := yaml.Unmarshal(data, &table); err != nil {
		t.Fatal(err)
	}
	var references []string
	for _, c := range found {
		if c.Name == "kubeadm" {
			output, err := exec.Command(c.Path, "config", "images", "list", "--kubernetes-version", kubernetes).Output()
			if err != nil {
				t.Fatalf("ask kubeadm for its images: %v", err)
			}
			references = append(references, strings.Fields(string(output))...)
		}
		for _, entry := range table.Components {
			if entry.Name == c.Name && entry.Image != "" {
				references = append(references, strings.NewReplacer("{version}", c.Version, "{number}", strings.TrimPrefix(c.Version, "v")).Replace(entry.Image))
			}
		}
	}
	return references
}

func (r *imageRegistry) write(t *testing.T, reference string, image v1.Image) {
	t.Helper()
	to, err := name.ParseReference(r.forDaemon + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, image, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push %s: %v", reference, err)
	}
}
