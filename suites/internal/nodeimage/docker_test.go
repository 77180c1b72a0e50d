package nodeimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// fakeDocker puts a docker command in PATH that knows the images listed in a
// file, keeps what it loads, and writes down how it was called.
func fakeDocker(t *testing.T, present string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	script := `#!/bin/bash
cd ` + folder + `
echo "$*" >>calls
case "$1 $2" in
"image ls") cat present ;;
"image rm") [[ $3 != *used ]] || { echo "conflict: image is in use" >&2; exit 1; } ;;
"load --quiet") cat >loaded; [[ ! -e full ]] || { echo "no space left on device" >&2; exit 1; } ;;
esac
`
	for name, content := range map[string]string{"docker": script, "present": present} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	return folder
}

// image is a small one, built from a recipe of the tests.
func image(t *testing.T) Image {
	t.Helper()
	runs(t)
	built, err := Build(t.Context(), toy(t.TempDir(), good))
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func TestImport(t *testing.T) {
	g := NewWithT(t)
	i := image(t)
	folder := fakeDocker(t, "")
	var lines []string
	imported, err := i.Import(t.Context(), func(line string) { lines = append(lines, line) })
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(imported).To(BeTrue())
	g.Expect(lines).To(Equal([]string{"Docker takes the node image " + i.Reference}))

	loaded, err := os.ReadFile(filepath.Join(folder, "loaded"))
	g.Expect(err).NotTo(HaveOccurred())
	parts := map[string][]byte{}
	archive := tar.NewReader(bytes.NewReader(loaded))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred())
		parts[header.Name], err = io.ReadAll(archive)
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Expect(string(parts["layer.tar"])).To(Equal("/programs/kubelet\n"))
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	g.Expect(json.Unmarshal(parts["manifest.json"], &manifest)).To(Succeed())
	g.Expect(manifest).To(HaveLen(1))
	g.Expect(manifest[0].RepoTags).To(Equal([]string{i.Reference}))
	g.Expect(string(parts[manifest[0].Config])).To(And(
		ContainSubstring(`"Entrypoint":["/usr/local/bin/entrypoint","/sbin/init"]`),
		ContainSubstring(`"StopSignal":"SIGRTMIN+3"`),
		ContainSubstring(`"container=docker"`),
		ContainSubstring(`"diff_ids":["`+i.Digest+`"]`)))

	var again bytes.Buffer
	g.Expect(i.archive(&again)).To(Succeed())
	g.Expect(again.Bytes()).To(Equal(loaded), "the same bytes at any time")
}

func TestImportWhatIsThere(t *testing.T) {
	g := NewWithT(t)
	i := image(t)
	folder := fakeDocker(t, "sha256:0123")
	imported, err := i.Import(t.Context(), nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(imported).To(BeFalse())
	g.Expect(os.ReadFile(filepath.Join(folder, "calls"))).To(BeEquivalentTo("image ls --quiet --no-trunc " + i.Reference + "\n"))
}

func TestImportFails(t *testing.T) {
	g := NewWithT(t)
	i := image(t)
	folder := fakeDocker(t, "")
	g.Expect(os.WriteFile(filepath.Join(folder, "full"), nil, 0o600)).To(Succeed())
	_, err := i.Import(t.Context(), nil)
	g.Expect(err).To(MatchError(And(ContainSubstring("import the node image: docker load --quiet"), ContainSubstring("no space left on device"))))

	g.Expect(os.Remove(filepath.Join(folder, "full"))).To(Succeed())
	g.Expect(os.Remove(i.Tar)).To(Succeed())
	_, err = i.Import(t.Context(), nil)
	g.Expect(err).To(MatchError(ContainSubstring("node.tar: no such file")))
}

func TestRemove(t *testing.T) {
	g := NewWithT(t)
	folder := fakeDocker(t, Repository+":one\n"+Repository+":two\n")
	g.Expect(Remove(t.Context())).To(Equal([]string{Repository + ":one", Repository + ":two"}))
	calls, err := os.ReadFile(filepath.Join(folder, "calls"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(strings.Split(strings.TrimSpace(string(calls)), "\n")[1:]).To(Equal([]string{"image rm " + Repository + ":one", "image rm " + Repository + ":two"}))

	g.Expect(os.WriteFile(filepath.Join(folder, "present"), []byte(Repository+":used\n"), 0o600)).To(Succeed())
	_, err = Remove(t.Context())
	g.Expect(err).To(MatchError(ContainSubstring("image is in use")))
}
