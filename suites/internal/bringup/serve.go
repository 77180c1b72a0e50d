package bringup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// fluxModule is the Go module of Flux itself; its version is that of the release.
const fluxModule = "github.com/fluxcd/flux2/v2"

// serve takes the snapshots and starts the servers.
func (b *bringUp) serve(ctx context.Context, input Input) error {
	dir, err := b.session.Folder("sources")
	if err != nil {
		return err
	}
	var answers []source.Answer
	group, running := errgroup.WithContext(ctx)
	results := make([]Repository, len(input.Folders))
	addresses := make([]string, 0, len(input.Folders))
	for address := range input.Folders {
		addresses = append(addresses, address)
	}
	slices.Sort(addresses)
	for i, address := range addresses {
		group.Go(func() (err error) {
			results[i], err = b.snapshot(running, input, address, dir)
			return err
		})
	}
	modules, drawn, err := b.moduleAnswers(ctx, input, dir)
	if err := errors.Join(group.Wait(), err); err != nil {
		return err
	}
	results = append(results, drawn...)
	for i, r := range results {
		if results[i].Served, err = source.Head(ctx, r.Bare, r.Branch); err != nil {
			return fmt.Errorf("find what is served for %s: %w", r.URL, err)
		}
		for _, address := range b.spellings(r.URL) {
			answers = append(answers, source.Answer{URL: address, Repository: r.Bare})
		}
	}
	answers = append(answers, modules...)
	b.mu.Lock()
	b.state.Repositories = results
	b.state.Requests = filepath.Join(dir, "server", "requests.jsonl")
	b.mu.Unlock()
	b.server, err = source.Serve(ctx, source.ServerOptions{Dir: filepath.Join(dir, "server"), Host: b.ground.host(), Ports: b.session.Port, Answers: answers})
	if err != nil {
		return err
	}
	asking := map[string][]string{}
	for _, ref := range b.platform.SourceRefs() {
		for _, o := range ref.Objects {
			if name := o.String(); !slices.Contains(asking[ref.URL], name) {
				asking[ref.URL] = append(asking[ref.URL], name)
			}
		}
	}
	b.server.SetObjects(asking)
	return nil
}

// spellings are the URLs by which the platform asks for one repository: over
// https and ssh, say. Each needs an answer of its own.
func (b *bringUp) spellings(address string) []string {
	out := []string{address}
	known := map[string]bool{}
	if normal, err := source.Normalize(address); err == nil {
		known[normal] = true
	}
	for _, ref := range b.platform.SourceRefs() {
		if !platform.SameRepository(ref.URL, address) {
			continue
		}
		if normal, err := source.Normalize(ref.URL); err == nil && !known[normal] {
			known[normal] = true
			out = append(out, ref.URL)
		}
	}
	return out
}

// snapshot turns one folder into the repository that answers for a URL, with
// every branch and tag that the platform asks of it.
func (b *bringUp) snapshot(ctx context.Context, input Input, address, dir string) (Repository, error) {
	name := input.Names[address]
	bare := barePath(dir, address)
	branches, tags := b.references(address)
	options := source.SnapshotOptions{Dir: input.Folders[address], Into: bare, Branches: branches, Tags: tags}
	if name == platformName {
		var err error
		if options.Extra, err = b.bootstrapFiles(ctx, input); err != nil {
			return Repository{}, err
		}
	}
	revision, err := source.Snapshot(ctx, options)
	if err != nil {
		return Repository{}, fmt.Errorf("take %s as it is: %w", input.Folders[address], err)
	}
	r := Repository{
		Name: name, URL: address, Folder: input.Folders[address], Dirty: revision.Dirty,
		Bare: bare, Branch: revision.Branch, Tags: tags, Revision: revision.Base,
	}
	for _, o := range input.Overlays {
		if _, err := Lay(ctx, r, o); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Lay commits what an overlay changes in a repository that is served, and returns
// the revision before; empty when the overlay does not touch it.
func Lay(ctx context.Context, r Repository, o overlay.Overlay) (string, error) {
	if !slices.Contains(o.Touches(), r.Name) {
		return "", nil
	}
	revision, err := source.Head(ctx, r.Bare, r.Branch)
	if err != nil {
		return "", err
	}
	files, err := o.Changed(r.Name, func(file string) ([]byte, error) { return source.ReadFile(ctx, r.Bare, revision, file) })
	if err != nil {
		return "", err
	}
	_, err = source.Commit(ctx, r.Bare, r.Branch, AsChange(files, r.Tags, o.ID+" "+o.Title))
	return revision, err
}

// AsChange is the commit that lays files over a repository; nil content removes
// a file.
func AsChange(files map[string][]byte, tags []string, message string) source.Change {
	change := source.Change{Files: map[string]*source.File{}, Tags: tags, Message: message}
	for name, content := range files {
		change.Files[name] = nil
		if content != nil {
			change.Files[name] = &source.File{Content: content}
		}
	}
	return change
}

// references lists the branches and tags that the platform asks of a URL. All
// name the same commit: there is one working tree.
func (b *bringUp) references(address string) (branches, tags []string) {
	for _, ref := range b.platform.SourceRefs() {
		if !platform.SameRepository(ref.URL, address) {
			continue
		}
		add := func(list *[]string, name string) {
			if name != "" && !slices.Contains(*list, name) {
				*list = append(*list, name)
			}
		}
		branch := ref.Branch
		if ref.Ref == (platform.Ref{}) {
			branch = "master" // what Flux takes when nothing is said
		}
		add(&branches, branch)
		add(&tags, ref.Tag)
		// A range that nothing satisfies is left for Flux to refuse.
		if tag, err := ref.VersionTag(); err == nil {
			add(&tags, tag)
		}
		// Of references by their full name, those to branches and tags are served.
		if branch, ok := strings.CutPrefix(ref.Name, "refs/heads/"); ok {
			add(&branches, branch)
		}
		if tag, ok := strings.CutPrefix(ref.Name, "refs/tags/"); ok {
			add(&tags, tag)
		}
	}
	if len(branches) == 0 {
		branches = []string{source.DefaultBranch}
	}
	return branches, tags
}

// bootstrapFiles are those that «flux bootstrap» would commit and the repository
// does not hold.
func (b *bringUp) bootstrapFiles(ctx context.Context, input Input) (map[string][]byte, error) {
	out := map[string][]byte{}
	var components []byte
	for _, e := range input.Platform.Environments {
		flux := e.FluxSystem
		if flux.ComponentsAssumed {
			if components == nil {
				var err error
				if components, err = b.fluxComponents(ctx); err != nil {
					return nil, err
				}
			}
			out[path.Join(flux.Path, bootstrap.ComponentsFile)] = components
			b.mu.Lock()
			b.state.FluxAssumed = append(b.state.FluxAssumed, e.Name)
			b.mu.Unlock()
		}
		if flux.SyncAssumed {
			manifest, err := bootstrap.SyncManifest(bootstrap.SyncInput{URL: input.Platform.URL, Path: e.Path})
			if err != nil {
				return nil, err
			}
			out[path.Join(flux.Path, bootstrap.SyncFile)] = manifest
		}
		own := filepath.Join(input.Platform.Root, filepath.FromSlash(flux.Path), "kustomization.yaml")
		if _, err := os.Stat(own); errors.Is(err, fs.ErrNotExist) {
			manifest, err := bootstrap.FolderKustomization()
			if err != nil {
				return nil, err
			}
			out[path.Join(flux.Path, "kustomization.yaml")] = manifest
		}
	}
	return out, nil
}

// fluxComponents renders gotk-components.yaml from the pinned modules.
func (b *bringUp) fluxComponents(ctx context.Context) ([]byte, error) {
	manifests, err := b.store.Module(ctx, fluxModule, "")
	if err != nil {
		return nil, err
	}
	in := bootstrap.RenderInput{Version: moduleVersion(manifests), Manifests: manifests, Controllers: map[string]string{}}
	for _, name := range bootstrap.Components {
		module, err := b.store.Module(ctx, "github.com/fluxcd/"+name, "")
		if err != nil {
			return nil, err
		}
		in.Controllers[name] = module
	}
	return bootstrap.ComponentsManifest(in)
}

// moduleVersion is the version that a module's folder is named after.
func moduleVersion(folder string) string {
	_, version, _ := strings.Cut(filepath.Base(folder), "@")
	return version
}

// moduleAnswers are those that come from Go modules, chart folders or upstream:
// of CONFIG, and by default what the reference platform draws from outside. What
// becomes a Git repository is returned apart.
func (b *bringUp) moduleAnswers(ctx context.Context, input Input, dir string) (answers []source.Answer, drawn []Repository, err error) {
	var taken []string
	for folder := range input.Folders {
		taken = append(taken, folder)
	}
	for _, s := range append(slices.Clone(input.Config.Sources), platform.DefaultSources()...) {
		same := func(address string) bool { return platform.SameRepository(address, s.URL) }
		if s.Path != "" || slices.ContainsFunc(taken, same) || !b.asks(s.URL) {
			continue
		}
		taken = append(taken, s.URL)
		if s.Module != nil {
			r, err := b.moduleRepository(ctx, s, dir)
			if err != nil {
				return nil, nil, fmt.Errorf("answer for %s: %w", s.URL, err)
			}
			drawn = append(drawn, r)
			continue
		}
		answer := source.Answer{URL: s.URL, Upstream: s.Upstream}
		for _, c := range s.Charts {
			folder := c.Path
			if c.Module != "" {
				module, err := b.store.Module(ctx, c.Module, c.Version)
				if err != nil {
					return nil, nil, fmt.Errorf("answer for %s: %w", s.URL, err)
				}
				folder = filepath.Join(module, filepath.FromSlash(c.Path))
			}
			answer.Charts = append(answer.Charts, source.Chart{Dir: folder})
		}
		answers = append(answers, answer)
	}
	return answers, drawn, nil
}

// moduleRepository serves a folder of a Go module as a Git repository.
func (b *bringUp) moduleRepository(ctx context.Context, s platform.Answer, dir string) (Repository, error) {
	module, err := b.store.Module(ctx, s.Module.Path, s.Module.Version)
	if err != nil {
		return Repository{}, err
	}
	branches, tags := b.references(s.URL)
	bare := barePath(dir, s.URL)
	revision, err := source.Snapshot(ctx, source.SnapshotOptions{
		Dir: module, Only: s.Module.Only, Into: bare, Branches: branches, Tags: tags,
		Message: s.Module.Path + "@" + moduleVersion(module),
	})
	if err != nil {
		return Repository{}, err
	}
	return Repository{Name: s.URL, URL: s.URL, Folder: module, Bare: bare, Branch: revision.Branch, Tags: tags}, nil
}

// barePath is where the repository that answers for a URL lies.
func barePath(dir, address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(dir, "git", named(address)+"-"+hex.EncodeToString(sum[:4])+".git")
}

func (b *bringUp) asks(address string) bool {
	return slices.ContainsFunc(b.platform.SourceRefs(), func(ref platform.SourceRef) bool {
		return platform.SameRepository(ref.URL, address)
	})
}
