package platform

import (
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	sigsyaml "sigs.k8s.io/yaml"
)

func liveObject(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	if err := sigsyaml.Unmarshal([]byte(text), &out.Object); err != nil {
		t.Fatal(err)
	}
	return out
}

// What a live source carries is told by its own fields, whatever is declared.
func TestArtifact(t *testing.T) {
	g := NewWithT(t)
	p, err := fixture(t, "flux_platform", map[string]string{"https://github.com/your-org/flux_developer": "flux_developer"})
	g.Expect(err).NotTo(HaveOccurred())
	values := liveObject(t, `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: developer, namespace: tiger},
		spec: {url: "https://github.com/your-org/flux_developer.git", interval: 1m, ignore: "/*\n!/dev\n/dev/*\n!/dev/beetle"}}`)
	composed := liveObject(t, `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: platform, namespace: tiger},
		spec: {url: "https://github.com/your-org/flux_platform", interval: 1m, ignore: "/*\n!/apps",
		include: [{repository: {name: developer}, fromPath: dev/beetle, toPath: apps/base/values/env}]}}`)
	elsewhere := liveObject(t, `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: other, namespace: tiger}, spec: {url: "https://example.org/other", interval: 1m}}`)
	among := []*unstructured.Unstructured{composed, values, elsewhere}

	files, unknown, err := p.Artifact(values, among)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(unknown).To(BeEmpty())
	g.Expect(files).To(HaveLen(1))
	g.Expect(files[0].Path).To(Equal("dev/beetle/config.yaml"))

	files, _, err = p.Artifact(composed, among)
	g.Expect(err).NotTo(HaveOccurred())
	paths := map[string]string{}
	for _, f := range files {
		paths[f.Path] = f.Origin.File
	}
	g.Expect(paths).To(HaveKeyWithValue("apps/base/values/env/config.yaml", "dev/beetle/config.yaml"))
	g.Expect(paths).To(HaveKeyWithValue("apps/base/kustomization.yaml", "apps/base/kustomization.yaml"))
	g.Expect(paths).NotTo(HaveKey("clusters/dev/kustomization.yaml"))

	_, unknown, err = p.Artifact(elsewhere, among)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(unknown).To(ContainSubstring("no local folder answers for https://example.org/other"))

	_, unknown, err = p.Artifact(composed, among[:1])
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(unknown).To(ContainSubstring("includes GitRepository developer, which nothing in namespace tiger declares"))
}

func TestReaders(t *testing.T) {
	g := NewWithT(t)
	p, err := fixture(t, "flux_platform", map[string]string{"https://github.com/your-org/flux_developer": "flux_developer"})
	g.Expect(err).NotTo(HaveOccurred())
	readers := p.Readers()
	root, err := Folder(filepath.Join("..", "..", "..", "fixtures", "flux_developer"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(readers[Origin{Folder: root, File: "base/beetle/config.yaml"}]).To(Equal([]string{"beetle"}))
	g.Expect(readers[Origin{Folder: root, File: "prd/tiger/config.yaml"}]).To(Equal([]string{"tiger"}))
	g.Expect(readers[Origin{Folder: p.Root, File: "apps/base/service.yaml"}]).To(Equal([]string{"beetle", "sonar", "tiger"}))
	g.Expect(readers).NotTo(HaveKey(Origin{Folder: root, File: "schemas/tiger.schema.json"}))
}
