package bringup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// The names of the repositories that overlays can change.
const (
	platformName  = "platform"
	developerName = "developer"
	policiesName  = "policies"
)

// shipped are the folders that the program ships, the names of their
// repositories and the URLs that the reference platform knows them by.
var shipped = []struct{ name, folder, url string }{
	{platformName, "fixtures/flux_platform", "https://github.com/your-org/flux_platform"},
	{developerName, "fixtures/flux_developer", "https://github.com/your-org/flux_developer"},
	{policiesName, "policies", "https://github.com/your-org/policies"},
}

// faultsFolder is where the faults that Options.Overlays names lie.
const faultsFolder = "fixtures/faults"

// Input is what the options lead to, read and validated.
type Input struct {
	Config   platform.Config
	Platform *platform.Platform
	// Environments are those that are brought up.
	Environments []*platform.Environment
	// Folders maps the URLs that a folder answers for to that folder.
	Folders map[string]string
	// Names maps such a URL to the repository's name.
	Names map[string]string
	// Overlays are the faults that are laid over the repositories.
	Overlays []overlay.Overlay
	// Unanswered says which URLs have no answer, who asks for them and how to map
	// them; nil when all have one.
	Unanswered error
}

// Read reads CONFIG, finds the folders that answer for URLs, and reads the
// platform. Everything that it refuses is the user's input. What the program
// ships is laid out below dir.
func Read(ctx context.Context, assets fs.FS, options Options, dir string) (Input, error) {
	var in Input
	var err error
	if in.Config, err = readConfig(options.Config); err != nil {
		return in, err
	}
	if err := knownComponents(assets, in.Config); err != nil {
		return in, err
	}
	if options.Provider != "" && !slices.Contains(Providers(), options.Provider) {
		return in, fmt.Errorf("there is no provider %q%s", options.Provider, check.DidYouMean(options.Provider, Providers()))
	}
	if err := givenFolders(options); err != nil {
		return in, err
	}
	folders := map[string]string{platformName: options.Platform, developerName: options.Developer}
	if folders[platformName] == "" {
		folders[platformName] = in.Config.Platform
	}
	for _, s := range shipped {
		if folders[s.name] == "" {
			if folders[s.name], err = extract(assets, s.folder, filepath.Join(dir, "shipped")); err != nil {
				return in, err
			}
		}
	}
	in.Folders, in.Names = map[string]string{}, map[string]string{}
	for _, s := range in.Config.Sources {
		if s.Path != "" {
			in.add(s.URL, s.URL, s.Path)
		}
	}
	for _, s := range shipped[1:] {
		in.add(s.name, s.url, folders[s.name])
	}
	if options.Developer != "" {
		in.set(developerName, shipped[1].url, folders[developerName])
	}
	load := func() (err error) {
		in.Platform, err = platform.Load(ctx, platform.Options{Root: folders[platformName], Sources: in.Folders})
		return err
	}
	if err := load(); err != nil {
		return in, err
	}
	if options.Developer != "" {
		if err := in.mapDeveloper(folders[developerName]); err != nil {
			return in, err
		}
		if err := load(); err != nil {
			return in, err
		}
	}
	in.dropUnasked()
	in.set(platformName, in.Platform.URL, in.Platform.Root)
	if err := in.narrow(options); err != nil {
		return in, err
	}
	in.Unanswered = in.Platform.Unanswered(in.answered())
	return in, in.findOverlays(assets, options.Overlays)
}

// add lets a folder answer for a URL, unless another does already: CONFIG comes
// before what the program ships.
func (in *Input) add(name, address, folder string) {
	for known := range in.Folders {
		if platform.SameRepository(known, address) {
			if known == address || in.Names[known] == known {
				in.Names[known] = name
			}
			return
		}
	}
	in.Folders[address], in.Names[address] = folder, name
}

// set lets a folder answer for a URL in place of any other: what is given by
// itself comes before CONFIG.
func (in *Input) set(name, address, folder string) {
	maps.DeleteFunc(in.Folders, func(known, _ string) bool { return platform.SameRepository(known, address) })
	maps.DeleteFunc(in.Names, func(known, _ string) bool { return platform.SameRepository(known, address) })
	in.Folders[address], in.Names[address] = folder, name
}

// knownComponents refuses names under «components» in CONFIG that no component
// has.
func knownComponents(assets fs.FS, config platform.Config) error {
	if len(config.Components) == 0 {
		return nil
	}
	store, err := OpenStore(assets, os.TempDir(), config, nil) // it is only asked for names
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(config.Components)) {
		if _, known := store.Pinned(name); !known {
			problems = append(problems, fmt.Errorf("%s: components: there is no component %q%s (there are %s)",
				config.File, name, check.DidYouMean(name, store.Names()), strings.Join(store.Names(), ", ")))
		}
	}
	return errors.Join(problems...)
}

// dropUnasked leaves out what the program ships and the platform does not draw
// on: the policies of the reference platform are nobody else's.
func (in *Input) dropUnasked() {
	for _, s := range shipped[1:] {
		asked := slices.ContainsFunc(in.Platform.SourceRefs(), func(ref platform.SourceRef) bool { return platform.SameRepository(ref.URL, s.url) })
		if !asked {
			maps.DeleteFunc(in.Folders, func(known, _ string) bool { return in.Names[known] == s.name && known == s.url })
			maps.DeleteFunc(in.Names, func(known, name string) bool { return name == s.name && known == s.url })
		}
	}
}

// givenFolders refuses folders that the user names and that are not there.
func givenFolders(options Options) error {
	var problems []error
	for _, given := range []struct{ variable, folder string }{{"PLATFORM", options.Platform}, {"DEVELOPER", options.Developer}} {
		if given.folder == "" {
			continue
		}
		if _, err := platform.Folder(given.folder); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", given.variable, err))
		}
	}
	return errors.Join(problems...)
}

// mapDeveloper finds the URL that DEVELOPER= answers for: the reference one, the
// one named like the folder, or the only one that nothing else answers for.
func (in *Input) mapDeveloper(folder string) error {
	answered := append(in.answered(), in.Platform.URL)
	var open []string
	for _, ref := range in.Platform.SourceRefs() {
		if platform.SameRepository(ref.URL, shipped[1].url) {
			return nil
		}
		same := func(known string) bool { return platform.SameRepository(known, ref.URL) }
		if ref.Kind != "GitRepository" || slices.ContainsFunc(answered, same) || slices.ContainsFunc(open, same) {
			continue
		}
		open = append(open, ref.URL)
	}
	found := slices.IndexFunc(open, func(address string) bool { return named(address) == filepath.Base(folder) })
	switch {
	case found >= 0:
	case len(open) == 1:
		found = 0
	case len(open) == 0:
		return fmt.Errorf("DEVELOPER: there is no URL for %s to answer for: every Git source of the platform has an answer, and none names %s", folder, shipped[1].url)
	default:
		return fmt.Errorf("DEVELOPER: it is not clear which URL %s answers for: %d Git sources have no answer (%s), and none is named like the folder; map it in CONFIG under «sources»",
			folder, len(open), strings.Join(open, ", "))
	}
	// The reference URL is nobody's here: one folder, one URL.
	delete(in.Folders, shipped[1].url)
	delete(in.Names, shipped[1].url)
	in.set(developerName, open[found], folder)
	return nil
}

// named is the last element of a URL, in whatever form, without .git.
func named(address string) string {
	address = strings.TrimSuffix(strings.TrimRight(address, "/"), ".git")
	return address[strings.LastIndexAny(address, "/:")+1:]
}

// answered lists all URLs that have an answer, of whatever kind.
func (in *Input) answered() []string {
	var out []string
	for address := range in.Folders {
		out = append(out, address)
	}
	for _, s := range append(slices.Clone(in.Config.Sources), platform.DefaultSources()...) {
		out = append(out, s.URL)
	}
	return out
}

// narrow applies the selection of environments and validates that of tenants.
func (in *Input) narrow(options Options) error {
	environments := options.Environments
	if len(environments) == 0 {
		environments = in.Config.Environments
	}
	tenants := options.Tenants
	if len(tenants) == 0 {
		tenants = in.Config.Tenants
	}
	if _, err := in.Platform.Select(in.Config.Production, nil); err != nil {
		return fmt.Errorf("%s: production: %w", in.Config.File, err)
	}
	selected, err := in.Platform.Select(environments, tenants)
	if err != nil {
		return err
	}
	for _, e := range selected.Environments {
		in.Environments = append(in.Environments, in.Platform.Environment(e.Name))
	}
	return nil
}

func (in *Input) findOverlays(assets fs.FS, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	overlays, err := overlay.Load(assets, faultsFolder, overlay.Fault)
	if err != nil {
		return err
	}
	for _, id := range ids {
		i := slices.IndexFunc(overlays, func(o overlay.Overlay) bool { return o.ID == id })
		if i < 0 {
			return fmt.Errorf("there is no fault %s", id)
		}
		in.Overlays = append(in.Overlays, overlays[i])
	}
	return nil
}

// extract lays a shipped folder out below dir and returns where it stands.
func extract(assets fs.FS, folder, dir string) (string, error) {
	target := filepath.Join(dir, filepath.FromSlash(folder))
	part, err := fs.Sub(assets, folder)
	if err != nil {
		return "", fmt.Errorf("lay out what the program ships: %w", err)
	}
	if _, err := fs.Stat(part, "."); err != nil {
		return "", fmt.Errorf("lay out what the program ships: %s: %w", folder, err)
	}
	if err := os.CopyFS(target, part); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("lay out what the program ships in %s: %w", target, err)
	}
	return target, nil
}
