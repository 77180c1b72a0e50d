package platform

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The fuzz tests ask for one thing: foreign input gives a result or an error,
// never a panic, and an error says something.

func FuzzConfig(f *testing.F) {
	f.Add([]byte(header + "sources: [{url: 'https://a.example', charts: [{module: m, path: p}]}]\ntimeouts: {multiplier: 2}\n"))
	f.Add([]byte(header + "waivers: [{check: CFG-002, reason: r, expires: 2027-01-31}]\n"))
	f.Add([]byte("a: &a [*a]\n---\n"))
	f.Add(defaultSources)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decodeConfig("config.yaml", t.TempDir(), data); err != nil && !strings.HasPrefix(err.Error(), "config.yaml:") {
			t.Errorf("error does not name the file: %v", err)
		}
	})
}

func FuzzLoad(f *testing.F) {
	for _, content := range small() {
		f.Add([]byte(content), "")
	}
	f.Add([]byte(bomb), "resources: [x.yaml]\n")
	f.Add([]byte("a: &a\n  b: *a\n"), "generators: [x.yaml]\n")
	f.Add([]byte("apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: a}\nfiles: [a=../x]\n"), "generators: [x.yaml]\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, kustomization string) {
		repository := small().with(files{"apps/base/x.yaml": string(data)})
		if kustomization != "" {
			repository["apps/base/kustomization.yaml"] = kustomization
		}
		for name, content := range repository {
			full := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if kustomization == "" {
			_ = os.Remove(filepath.Join(dir, "apps/base/kustomization.yaml"))
		}
		p, err := Load(context.Background(), Options{Root: dir})
		if err == nil && len(p.TenantNames()) == 0 {
			t.Error("a platform without a tenant is no error")
		}
	})
}

func FuzzSubstitute(f *testing.F) {
	f.Add("${a} ${b:=c} $${d} ${e/x/y}", "value", true)
	f.Add("${a^^} ${#a} ${a:0:2} ${", "", false)
	f.Fuzz(func(_ *testing.T, text, value string, unknown bool) {
		object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"text": text}}}
		_, _ = substitute(object, map[string]string{"a": value}, unknown)
	})
}

func FuzzValidate(f *testing.F) {
	f.Add([]byte(schema), []byte("name: x\n"))
	f.Add([]byte(`{"$ref": "#"}`), []byte("a: b\n"))
	f.Add([]byte(`{"pattern": "(a+)+$"}`), []byte(bomb))
	f.Add([]byte(`true`), []byte("<<: [*a]\n"))
	f.Fuzz(func(t *testing.T, schema, value []byte) {
		if err := Validate(schema, value); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

func FuzzOutline(f *testing.F) {
	f.Add([]byte("kind: A\nmetadata: {name: b}\n---\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		lineOf(outline(data), "A", "b")
		withoutSchemas(data)
	})
}
