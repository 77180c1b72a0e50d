package nodeimage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/component"
)

// Repository is the name of our node images in a Docker daemon.
const Repository = "flux-platform-conformance/node"

// defaultSuite is the Debian release whose systemd starts on cgroup v1 and v2.
const defaultSuite = "bookworm"

// Programs are the names of the components that a node has as files.
func Programs() []string {
	return []string{
		"containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kubeadm", "kubectl",
		"host-local", "loopback", "portmap", "ptp", "node-network",
	}
}

// Options says what a node image is made of.
type Options struct {
	// Dir is the component store's folder.
	Dir string
	// Recipe holds build.sh and what it uses.
	Recipe fs.FS
	// Programs are the components of the names that Programs lists, as the store
	// resolved them; others are not looked at.
	Programs []component.Component
	// Kubernetes is the version of the programs, such as v1.36.3.
	Kubernetes string
	// Suite is the Debian release; bookworm when empty.
	Suite string
	// Mirror is where Debian's packages are had; debootstrap's own when empty.
	// It does not change what is made.
	Mirror string
	// Progress, if any, is told what is done, one line at a time.
	Progress func(line string)
}

// Image is a node image on this machine.
type Image struct {
	Kubernetes string `json:"kubernetes"`
	// Key stands for all that the image was made from.
	Key string `json:"key"`
	// Suite is the Debian release.
	Suite string `json:"suite"`
	// Programs are the digests of the node's programs, by name.
	Programs map[string]string `json:"programs"`
	// Digest and Size are those of Tar; the digest is sha256:….
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// IptablesDigest and IptablesSize are those of Iptables.
	IptablesDigest string `json:"iptablesDigest"`
	IptablesSize   int64  `json:"iptablesSize"`
	// Built is when the recipe was run.
	Built time.Time `json:"built"`

	// Reference is the image's name in a Docker daemon.
	Reference string `json:"-"`
	// Tar is the file with the root file system of a node.
	Tar string `json:"-"`
	// Iptables is the file with the base layer of kube-proxy's image.
	Iptables string `json:"-"`
	// FromCache says that nothing was made.
	FromCache bool `json:"-"`
}

// Build gives the image that the options describe, and makes it where this
// machine does not have it yet. What stops the recipe is an error that holds its
// last words.
func Build(ctx context.Context, options Options) (Image, error) {
	options.Suite = cmp.Or(options.Suite, defaultSuite)
	if options.Progress == nil {
		options.Progress = func(string) {}
	}
	wanted, programs, err := describe(options)
	if err != nil {
		return Image{}, fmt.Errorf("node image: %w", err)
	}
	folder := filepath.Join(options.Dir, "node")
	final := filepath.Join(folder, wanted.Kubernetes+"-"+wanted.Key)
	if image, ok := cached(final, wanted); ok {
		return image, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return Image{}, explain(options.Dir, err)
	}
	lock, err := acquire(ctx, options.Dir, func(holder string) {
		options.Progress("waiting for " + holder + " that makes the node image")
	})
	if err != nil {
		return Image{}, fmt.Errorf("node image: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if image, ok := cached(final, wanted); ok {
		return image, nil
	}
	if err := clear(folder, final); err != nil {
		return Image{}, explain(options.Dir, err)
	}
	work, err := os.MkdirTemp(folder, workPrefix)
	if err != nil {
		return Image{}, explain(options.Dir, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	made, err := makeImage(ctx, options, wanted, programs, work, lock)
	if err != nil {
		return Image{}, explain(options.Dir, err)
	}
	if err := os.Rename(made, final); err != nil {
		return Image{}, explain(options.Dir, err)
	}
	image, ok := cached(final, wanted)
	if !ok {
		return Image{}, fmt.Errorf("node image: what was just made in %s cannot be read back", final)
	}
	image.FromCache = false
	return image, nil
}

// workPrefix marks folders that only the holder of the lock uses.
const workPrefix = ".work-"

// describe is the image that is wanted, as far as it is known before it is made,
// and the paths of its programs.
func describe(options Options) (Image, map[string]string, error) {
	switch {
	case options.Dir == "":
		return Image{}, nil, errors.New("no folder given")
	case options.Recipe == nil:
		return Image{}, nil, errors.New("no recipe given")
	case options.Kubernetes == "":
		return Image{}, nil, errors.New("no version of Kubernetes given")
	}
	image := Image{Kubernetes: options.Kubernetes, Suite: options.Suite, Programs: map[string]string{}}
	paths := map[string]string{}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s %s\n", options.Kubernetes, options.Suite, runtime.GOARCH)
	for _, name := range Programs() {
		at := slices.IndexFunc(options.Programs, func(c component.Component) bool { return c.Name == name })
		if at < 0 {
			return Image{}, nil, fmt.Errorf("the program %s is not among those given", name)
		}
		program := options.Programs[at]
		if program.Digest == "" || program.Path == "" {
			return Image{}, nil, fmt.Errorf("the program %s has no path or no digest", name)
		}
		image.Programs[name], paths[name] = program.Digest, program.Path
		fmt.Fprintf(sum, "%s %s\n", name, program.Digest)
	}
	files, err := recipe(options.Recipe)
	if err != nil {
		return Image{}, nil, err
	}
	for _, name := range files {
		content, err := fs.ReadFile(options.Recipe, name)
		if err != nil {
			return Image{}, nil, fmt.Errorf("read the recipe: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s\n", name, len(content), content)
	}
	image.Key = hex.EncodeToString(sum.Sum(nil))[:12]
	return image, paths, nil
}

// recipe lists the files that the recipe uses. Go sources beside it are those of
// programs that it is given built.
func recipe(all fs.FS) (files []string, err error) {
	err = fs.WalkDir(all, ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.HasSuffix(name, ".go") {
			files = append(files, name)
		}
		return err
	})
	if err == nil && !slices.Contains(files, script) {
		err = fmt.Errorf("there is no %s in it", script)
	}
	if err != nil {
		return nil, fmt.Errorf("read the recipe: %w", err)
	}
	return files, nil
}

// cached is the image in a folder, where it is whole. The digests were computed
// when it was made; that the files have their sizes still is looked at.
func cached(folder string, wanted Image) (Image, bool) {
	text, err := os.ReadFile(filepath.Join(folder, "record.json"))
	if err != nil {
		return Image{}, false
	}
	var image Image
	if err := json.Unmarshal(text, &image); err != nil || image.Key != wanted.Key {
		return Image{}, false
	}
	image.Tar, image.Iptables = filepath.Join(folder, nodeTar), filepath.Join(folder, iptablesTar)
	if !hasSize(image.Tar, image.Size) || !hasSize(image.Iptables, image.IptablesSize) {
		return Image{}, false
	}
	image.Reference = Repository + ":" + image.Kubernetes + "-" + image.Key
	image.FromCache = true
	return image, true
}

func hasSize(file string, size int64) bool {
	info, err := os.Stat(file)
	return err == nil && size > 0 && info.Size() == size
}

// clear removes what killed holders of the lock left, and an image that is not
// whole.
func clear(folder, final string) error {
	stale, err := filepath.Glob(filepath.Join(folder, workPrefix+"*"))
	for _, dir := range append(stale, final) {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// makeImage runs the recipe below work and gives the folder with the result.
func makeImage(ctx context.Context, options Options, wanted Image, programs map[string]string, work string, lock *os.File) (string, error) {
	in, from, out := filepath.Join(work, "recipe"), filepath.Join(work, "programs"), filepath.Join(work, "image")
	if err := copyRecipe(options.Recipe, in); err != nil {
		return "", err
	}
	if err := os.Mkdir(from, 0o755); err != nil {
		return "", err
	}
	for name, path := range programs {
		path, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		if err := os.Symlink(path, filepath.Join(from, name)); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		return "", err
	}
	if err := run(ctx, options, in, from, out, lock); err != nil {
		return "", err
	}
	image := wanted
	image.Built = time.Now().UTC().Truncate(time.Second)
	var err error
	if image.Digest, image.Size, err = digest(filepath.Join(out, nodeTar)); err != nil {
		return "", err
	}
	if image.IptablesDigest, image.IptablesSize, err = digest(filepath.Join(out, iptablesTar)); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(image, "", "  ")
	if err != nil {
		return "", err
	}
	return out, os.WriteFile(filepath.Join(out, "record.json"), append(text, '\n'), 0o644)
}

func copyRecipe(all fs.FS, dir string) error {
	files, err := recipe(all)
	if err != nil {
		return err
	}
	for _, name := range files {
		content, err := fs.ReadFile(all, name)
		if err != nil {
			return fmt.Errorf("read the recipe: %w", err)
		}
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func digest(name string) (string, int64, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", 0, fmt.Errorf("the recipe ended well and left no %s: %w", filepath.Base(name), err)
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", name, err)
	}
	if size == 0 {
		return "", 0, fmt.Errorf("the recipe ended well and left an empty %s", filepath.Base(name))
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), size, nil
}

// explain puts what to do beside an error of the file system.
func explain(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("node image: disk full: %w; free 2 GB in %s, or set FLUX_CONFORMANCE_HOME to a folder on another disk", err, dir)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("node image: %s is not writable: %w; make it writable, or set FLUX_CONFORMANCE_HOME to a folder that is", dir, err)
	}
	return fmt.Errorf("node image: %w", err)
}
