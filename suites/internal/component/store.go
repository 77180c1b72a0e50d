package component

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"
)

// Origins of a component's bytes.
const (
	originRegistry = "registry"
	originBuild    = "build"
)

// parallelPulls bounds how many images are fetched at once.
const parallelPulls = 4

// ErrNotPinned marks a version that no registry gave and that is not the pinned
// one: the caller's input has to change, or the pins.
var ErrNotPinned = errors.New("neither pullable nor pinned")

// Component is one program of a cluster and where it came from. It is written
// to the report as it stands.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Origin is how the bytes were once had: "registry" or "build".
	Origin string `json:"origin"`
	// FromCache says that this machine had them already.
	FromCache bool `json:"fromCache"`
	// Reference is the image with the digest of its manifest (registry), or
	// MODULE@VERSION (build).
	Reference string `json:"reference"`
	// Requested is the image that was asked for, as the caller wrote it; with
	// Origin "build" it is not where the bytes came from.
	Requested string `json:"requested,omitempty"`
	// Digest is sha256:… of the program itself.
	Digest string `json:"digest"`
	// InPlaceOf are the images that could not be had and in whose place this
	// component runs: by standsFor of the table, or as the caller decided.
	InPlaceOf []string `json:"inPlaceOf,omitempty"`
	// Path is the program on this machine.
	Path string `json:"-"`
}

// Request names a component that is wanted.
type Request struct {
	// Name is required: a name of the component table.
	Name string
	// Image is the very image that a platform names. Empty: the table's default
	// image at the version wanted, if there is one.
	Image string
	// Version is, where empty, the one that the image's tag says, else the
	// pinned one.
	Version string
}

// Options says where a store keeps and looks for components.
type Options struct {
	// Dir is the cache folder; it is made when something has to be written.
	Dir string
	// Pins holds components.yaml, modules.yaml and the module families.
	Pins fs.FS
	// Sources is the folder scripts, with the programs of our own. Without it they
	// cannot be had.
	Sources fs.FS
	// Platform is OS/ARCHITECTURE of the programs wanted; that of this machine
	// where it is empty.
	Platform string
	// Mirrors maps a registry's host to a base that answers for it, such as
	// "ghcr.io" to "127.0.0.1:5001/ghcr.io". Loopback is asked over HTTP.
	Mirrors map[string]string
	// StandIns are the versions that run in place of images that cannot be had, by
	// component. Image heeds them; who calls Resolve decides by itself.
	StandIns map[string]string
	// Progress, if any, is told what the store does; from any goroutine.
	Progress func(Progress)
	// Offline leaves registries out.
	Offline bool
	// Getenv is os.Getenv unless set. It is asked for PATH and for what the go
	// command reads (GOPROXY, GOMODCACHE, …).
	Getenv func(string) string
}

// Store resolves components. It may be used by many goroutines, and many
// processes may use stores of one folder.
type Store struct {
	options  Options
	table    *table
	platform string // os/arch of the programs wanted

	hosts   sync.Map // registry → *probe
	goMutex sync.Mutex
	goFound toolchain

	// What tests replace to fill a disk.
	space  func(dir string) (free uint64, err error)
	create func(path string) (*os.File, error)
}

// Open reads the pins; a mistake in them is an error. The cache folder is not
// touched.
func Open(options Options) (*Store, error) {
	if options.Dir == "" {
		return nil, errors.New("open the component store: no folder given")
	}
	if options.Pins == nil {
		return nil, errors.New("open the component store: no pins given")
	}
	if options.Getenv == nil {
		options.Getenv = os.Getenv
	}
	if options.Progress == nil {
		options.Progress = func(Progress) {}
	}
	t, err := readTable(options.Pins, options.Sources)
	if err != nil {
		return nil, fmt.Errorf("open the component store: %w", err)
	}
	return &Store{
		options: options, table: t,
		platform: cmp.Or(options.Platform, runtime.GOOS+"/"+runtime.GOARCH),
		space:    freeSpace, create: os.Create,
	}, nil
}

// Names lists the known components in the order in which they are built.
func (s *Store) Names() []string { return s.table.names(every) }

// NamesFor lists the components of a provider's clusters, in the order in which
// they are built.
func (s *Store) NamesFor(provider string) []string {
	return s.table.names(func(e *entry) bool { return e.of(provider) })
}

// Providers lists the providers that the table tells apart.
func (s *Store) Providers() []string {
	var providers []string
	for _, e := range s.table.entries {
		providers = append(providers, e.Providers...)
	}
	slices.Sort(providers)
	return slices.Compact(providers)
}

// Pinned is the version that the pins declare for a component.
func (s *Store) Pinned(name string) (version string, ok bool) {
	e, ok := s.table.byName[name]
	if !ok {
		return "", false
	}
	return e.pinned, e.pinned != ""
}

// Recognizer is Recognize for the components of a provider's clusters.
func (s *Store) Recognizer(provider string) func(image string) (name string, ok bool) {
	return func(image string) (string, bool) {
		name, ok := s.Recognize(image)
		if !ok || !s.table.byName[name].of(provider) {
			return "", false
		}
		return name, true
	}
}

// Recognize tells which component an image is, by its repository path; tag,
// digest and registry do not matter.
func (s *Store) Recognize(image string) (name string, ok bool) {
	ref, err := parseReference(image)
	if err != nil {
		return "", false
	}
	if e := s.table.recognize(ref.repository.RepositoryStr()); e != nil {
		return e.Name, true
	}
	return "", false
}

// target is a request with everything that the table knows of it.
type target struct {
	*entry
	ref     reference
	version string // empty where only a digest is known
	asked   string // Request.Image
	tried   error  // why no registry gave it
}

// buildable says whether what is built here is what t asks for.
func (t *target) buildable() bool {
	return t.pinned != "" && (t.files != nil || t.version == t.pinned || t.standsIn(t.ref))
}

func (t *target) String() string { return t.Name + " " + cmp.Or(t.version, t.ref.digest) }

// target checks one request.
func (s *Store) target(r Request) (*target, error) {
	e, known := s.table.byName[r.Name]
	if !known {
		return nil, fmt.Errorf("component %q is not in the table (%s)", r.Name, strings.Join(s.table.names(every), ", "))
	}
	t := &target{entry: e, asked: r.Image, version: canonical(r.Version)}
	var err error
	if r.Image == "" {
		t.version = cmp.Or(t.version, e.pinned)
		if e.Image == "" {
			return t, nil
		}
		t.ref, err = parseReference(render(e.Image, t.version))
		if err != nil {
			return nil, fmt.Errorf("component %s: version %q: %w", r.Name, r.Version, err)
		}
		return t, nil
	}
	if t.ref, err = parseReference(r.Image); err != nil {
		return nil, fmt.Errorf("component %s: %w", r.Name, err)
	}
	if other := s.table.recognize(t.ref.repository.RepositoryStr()); other != nil && other != e {
		return nil, fmt.Errorf("component %s: image %s is the component %s", r.Name, r.Image, other.Name)
	}
	if t.ref.tag == "" {
		return t, nil
	}
	if says := e.version(t.ref.tag); t.version == "" {
		t.version = says
	} else if t.version != says {
		return nil, fmt.Errorf("component %s: version %s is asked for, but image %s is %s", r.Name, t.version, r.Image, says)
	}
	return t, nil
}

// Resolve finds all requested components, in the order of the requests: in the
// cache, else in the registries, else by building what is pinned. With
// everything in the cache no registry is asked and nothing is written. Mistakes
// in the requests are reported together, before anything is built. It ends
// early when ctx is done; what was compiled by then is not compiled again.
func (s *Store) Resolve(ctx context.Context, requests []Request) ([]Component, error) {
	targets := make([]*target, len(requests))
	var problems []error
	for i, r := range requests {
		t, err := s.target(r)
		if err != nil {
			problems = append(problems, err)
		}
		targets[i] = t
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}

	// One entry per thing that is wanted, however often it was asked for.
	type identity struct{ name, image, version string }
	key := func(t *target) identity { return identity{t.Name, t.ref.text, t.version} }
	found, missing := map[identity]Component{}, map[identity]*target{}
	for _, t := range targets {
		if c, ok := s.lookup(ctx, t); ok {
			found[key(t)] = c
		} else {
			missing[key(t)] = t
		}
	}
	if len(missing) > 0 {
		wanted := make([]*target, 0, len(missing))
		for _, t := range missing {
			wanted = append(wanted, t)
		}
		slices.SortFunc(wanted, func(a, b *target) int {
			return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.ref.text, b.ref.text))
		})
		got, err := s.obtain(ctx, wanted)
		if err != nil {
			return nil, err
		}
		for i, t := range wanted {
			found[key(t)] = got[i]
		}
	}
	components := make([]Component, len(targets))
	for i, t := range targets {
		components[i] = found[key(t)]
		components[i].Requested = t.asked
		if components[i].Origin == originBuild && t.standsIn(t.ref) {
			components[i].InPlaceOf = []string{t.ref.text}
		}
	}
	return components, nil
}

// obtain fetches or builds what the cache does not hold. Nothing is built
// before it is known that everything can be had.
func (s *Store) obtain(ctx context.Context, wanted []*target) ([]Component, error) {
	run := &tally{progress: s.options.Progress, started: time.Now(), remaining: len(wanted)}
	got := make([]Component, len(wanted))
	have := make([]bool, len(wanted))
	group, fetching := errgroup.WithContext(ctx)
	group.SetLimit(parallelPulls)
	for i, t := range wanted {
		group.Go(func() error {
			c, err := s.pull(fetching, t, run)
			switch {
			case err == nil:
				got[i], have[i] = c, true
				return nil
			case fetching.Err() != nil:
				return fmt.Errorf("component %s: fetching was interrupted: %w", t, context.Cause(fetching))
			case errors.Is(err, errFatal):
				return fmt.Errorf("component %s: image %s: %w", t, t.ref.text, err)
			}
			t.tried = err
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}

	var builds []*target
	var problems []error
	for i, t := range wanted {
		switch {
		case have[i]:
		case t.buildable():
			builds = append(builds, t)
			run.ahead += t.estimate()
		default:
			problems = append(problems, t.notPinned())
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if len(builds) == 0 {
		return got, nil
	}
	if err := s.readyToBuild(ctx, builds); err != nil {
		return nil, err
	}
	for i, t := range wanted {
		if have[i] {
			continue
		}
		c, err := s.buildOnce(ctx, t, run)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", t, err)
		}
		got[i] = c
	}
	return got, nil
}

// pull takes a component from the cache or its registry, while no other process
// is at the same component.
func (s *Store) pull(ctx context.Context, t *target, run *tally) (Component, error) {
	switch {
	case t.files != nil:
		return Component{}, errors.New("it is a program of this project, which no registry holds")
	case t.ref.text == "":
		return Component{}, errors.New("no registry holds it as an image")
	case s.options.Offline:
		return Component{}, errors.New("registries are switched off")
	}
	if err := s.reach(ctx, t.ref); err != nil {
		return s.unreachable(ctx, t, err)
	}
	unlock, err := s.lock(ctx, t, run)
	if err != nil {
		return Component{}, err
	}
	defer unlock()
	// Another process may have been faster.
	if c, ok := s.lookup(ctx, t); ok {
		run.done()
		return c, nil
	}
	c, err := s.fetch(ctx, t, run)
	if err == nil {
		run.done()
	}
	return c, err
}

// unreachable answers from the cache for a tag that may have moved, since
// nobody is there to say that it did.
func (s *Store) unreachable(ctx context.Context, t *target, err error) (Component, error) {
	if c, ok := s.find(ctx, t, true); ok {
		return c, nil
	}
	return Component{}, err
}

// buildOnce builds a component, unless another process has built it meanwhile.
func (s *Store) buildOnce(ctx context.Context, t *target, run *tally) (Component, error) {
	unlock, err := s.lock(ctx, t, run)
	if err != nil {
		return Component{}, err
	}
	defer unlock()
	if c, ok := s.lookup(ctx, t); ok {
		run.built(t, 0)
		return c, nil
	}
	began := time.Now()
	c, err := s.build(ctx, t, run)
	if err == nil {
		run.built(t, time.Since(began))
	}
	return c, err
}

// notPinned says what was tried for t, what is pinned, and how to pin t.
func (t *target) notPinned() error {
	if t.files != nil {
		return fmt.Errorf("component %s: %w: it is built from %s, and the store was opened without sources", t, ErrNotPinned, t.origin())
	}
	pin := fmt.Sprintf("scripts/pins/update.sh %s %s@%s", t.Pins, t.Module, t.version)
	if t.version == "" || !semver.IsValid(t.version) {
		pin = fmt.Sprintf("name a version in the image's tag and pin it (scripts/pins/update.sh %s %s@VERSION)", t.Pins, t.Module)
	}
	return fmt.Errorf("component %s: %w: %w; the pinned version is %s (scripts/pins/%s.mod). Use the pinned version, let it stand in (components: {%s: %s} in CONFIG), make the image pullable (network, credentials, a mirror), or pin it: %s",
		t, ErrNotPinned, t.why(), t.pinned, t.Pins, t.Name, t.pinned, pin)
}

// why says why no registry gave t.
func (t *target) why() error {
	if t.ref.text == "" {
		return t.tried
	}
	return fmt.Errorf("image %s: %w", t.ref.text, t.tried)
}
