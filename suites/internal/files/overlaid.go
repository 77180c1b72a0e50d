package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// OverlaidInput is what Overlaid needs; every field is required.
type OverlaidInput struct {
	// Platform is the one that is changed. Its folders are read and left as they
	// are.
	Platform *platform.Platform
	// Names maps the URL of a repository to the name by which overlays call it.
	Names map[string]string
	// Folders maps the URLs that a folder answers for to that folder, those of Names
	// included.
	Folders map[string]string
	// Dir is an empty folder that takes the copies. The caller removes it, once the
	// platform that is returned is no longer looked at.
	Dir string
	// Overlays are laid over the copies, in this order.
	Overlays []overlay.Overlay
}

// Overlaid copies the repositories that overlays change, lays the overlays over
// the copies, and loads the platform from there: an overlay's files as Judge sees
// them, without a cluster. It errs where an overlay changes a repository that is
// not named or text that is not there, and where the platform cannot be loaded
// then.
func Overlaid(ctx context.Context, in OverlaidInput) (*platform.Platform, error) {
	if in.Platform == nil || in.Dir == "" {
		return nil, errors.New("lay overlays over a copy: a platform and a folder are required")
	}
	root, folders := in.Platform.Root, maps.Clone(in.Folders)
	if folders == nil {
		folders = map[string]string{}
	}
	copies := map[string]string{}
	for _, address := range slices.Sorted(maps.Keys(in.Names)) {
		name := in.Names[address]
		if !slices.Contains(overlay.Repositories, name) {
			continue
		}
		folder, own := folders[address], platform.SameRepository(address, in.Platform.URL)
		if own {
			folder = in.Platform.Root
		}
		target := filepath.Join(in.Dir, name)
		if err := copyRepository(ctx, in.Platform, folder, target); err != nil {
			return nil, err
		}
		copies[name], folders[address] = target, target
		if own {
			root = target
		}
	}
	for _, o := range in.Overlays {
		for _, name := range o.Touches() {
			folder, known := copies[name]
			if !known {
				return nil, fmt.Errorf("%s changes the %s repository, which this platform does not draw on", o.ID, name)
			}
			if err := lay(folder, name, o); err != nil {
				return nil, err
			}
		}
	}
	p, err := platform.Load(ctx, platform.Options{Root: root, Sources: folders, URL: in.Platform.URL})
	if err != nil {
		return nil, fmt.Errorf("load the platform under %s: %w", ids(in.Overlays), err)
	}
	return p, nil
}

func ids(overlays []overlay.Overlay) []string {
	var out []string
	for _, o := range overlays {
		out = append(out, o.ID)
	}
	return out
}

// copyRepository copies what a commit of a folder would hold.
func copyRepository(ctx context.Context, p *platform.Platform, folder, target string) error {
	i := slices.IndexFunc(p.Repositories(), func(r platform.Repository) bool { return r.Folder == folder })
	if i < 0 {
		// It was not read, so that no rule of Git's is known for it: all of it.
		if err := os.CopyFS(target, os.DirFS(folder)); err != nil {
			return fmt.Errorf("copy %s: %w", folder, err)
		}
		return nil
	}
	r := p.Repositories()[i]
	for _, name := range r.Files() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy %s: %w", folder, context.Cause(ctx))
		}
		info, err := os.Lstat(r.Disk(name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		content, err := os.ReadFile(r.Disk(name))
		if err != nil {
			return fmt.Errorf("copy %s: %w", folder, err)
		}
		if err := write(target, name, content); err != nil {
			return err
		}
	}
	return link(target, r.Links())
}

// link makes symbolic links in a folder, in the place of what stands there.
func link(folder string, links map[string]string) error {
	for name, target := range links {
		at := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fmt.Errorf("link %s: %w", at, err)
		}
		if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("link %s: %w", at, err)
		}
		if err := os.Symlink(target, at); err != nil {
			return fmt.Errorf("link %s: %w", at, err)
		}
	}
	return nil
}

func write(folder, name string, content []byte) error {
	at := filepath.Join(folder, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", at, err)
	}
	if err := os.WriteFile(at, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", at, err)
	}
	return nil
}

// lay changes the files of one repository.
func lay(folder, name string, o overlay.Overlay) error {
	changed, err := o.Changed(name, func(file string) ([]byte, error) {
		return os.ReadFile(filepath.Join(folder, filepath.FromSlash(file)))
	})
	if err != nil {
		return err
	}
	for file, content := range changed {
		if content != nil {
			if err := write(folder, file, content); err != nil {
				return err
			}
			continue
		}
		if err := os.Remove(filepath.Join(folder, filepath.FromSlash(file))); err != nil {
			return fmt.Errorf("overlay %s: %w", o.ID, err)
		}
	}
	return link(folder, o.Linked(name))
}
