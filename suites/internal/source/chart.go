package source

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	repo "helm.sh/helm/v4/pkg/repo/v1"
	"sigs.k8s.io/yaml"
)

// Chart is a folder that is offered as a packaged chart.
type Chart struct {
	// Dir holds Chart.yaml. Required.
	Dir string
	// Version and AppVersion replace those of Chart.yaml. Empty: as they stand.
	Version, AppVersion string
	// Dependencies are folders of charts that Chart.yaml declares and charts/
	// lacks. One whose version does not meet what is declared (a development
	// tree says v0.0.0) takes the declared version.
	Dependencies []string
}

// PackagedChart is what became of a Chart.
type PackagedChart struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	AppVersion string `json:"appVersion,omitempty"`
	// Digest is that of the archive: «sha256:…».
	Digest string `json:"digest"`
	// Supplied and Missing are declared dependencies: added from elsewhere, and
	// left out because nothing here provides them. Helm installs a chart without
	// a dependency that its values switch off.
	Supplied []string `json:"supplied,omitempty"`
	Missing  []string `json:"missing,omitempty"`

	file string
}

// chartTime stands on everything that a package holds, so that one folder
// always gives one digest.
var chartTime = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// chartStore packages charts into a folder of the session.
type chartStore struct {
	dir string

	mu    sync.Mutex
	count int
}

// repository packages charts and writes their index. It returns the folder.
func (c *chartStore) repository(charts []Chart) (string, []PackagedChart, error) {
	c.mu.Lock()
	c.count++
	dir := filepath.Join(c.dir, fmt.Sprint(c.count))
	c.mu.Unlock()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("package charts: %w", err)
	}
	index := repo.NewIndexFile()
	index.Generated = chartTime
	var packaged []PackagedChart
	for _, ch := range charts {
		p, metadata, err := packageChart(ch, dir)
		if err != nil {
			return "", nil, fmt.Errorf("package the chart %s: %w", ch.Dir, err)
		}
		if index.Has(p.Name, p.Version) {
			return "", nil, fmt.Errorf("package the chart %s: %s %s comes twice: leave one", ch.Dir, p.Name, p.Version)
		}
		if err := index.MustAdd(metadata, p.file, "", strings.TrimPrefix(p.Digest, "sha256:")); err != nil {
			return "", nil, fmt.Errorf("package the chart %s: %w", ch.Dir, err)
		}
		packaged = append(packaged, p)
	}
	for _, versions := range index.Entries {
		for _, version := range versions {
			version.Created = chartTime
		}
	}
	index.SortEntries()
	content, err := yaml.Marshal(index)
	if err != nil {
		return "", nil, fmt.Errorf("write the index of charts: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.yaml"), content, 0o600); err != nil {
		return "", nil, fmt.Errorf("write the index of charts: %w", err)
	}
	return dir, packaged, nil
}

func packageChart(ch Chart, into string) (PackagedChart, *chart.Metadata, error) {
	loaded, err := loader.LoadDir(ch.Dir)
	if err != nil {
		return PackagedChart{}, nil, err
	}
	loaded.Metadata.Version = cmp.Or(ch.Version, loaded.Metadata.Version)
	loaded.Metadata.AppVersion = cmp.Or(ch.AppVersion, loaded.Metadata.AppVersion)
	p := PackagedChart{Name: loaded.Name(), Version: loaded.Metadata.Version, AppVersion: loaded.Metadata.AppVersion}
	for _, dir := range ch.Dependencies {
		name, err := supply(loaded, dir)
		if err != nil {
			return PackagedChart{}, nil, err
		}
		p.Supplied = append(p.Supplied, name)
	}
	for _, declared := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(d *chart.Chart) bool { return d.Name() == declared.Name }) {
			p.Missing = append(p.Missing, declared.Name+" "+declared.Version)
		}
	}
	makeReproducible(loaded)
	file, err := chartutil.Save(loaded, into)
	if err != nil {
		return PackagedChart{}, nil, err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return PackagedChart{}, nil, err
	}
	sum := sha256.Sum256(content)
	p.Digest, p.file = "sha256:"+hex.EncodeToString(sum[:]), filepath.Base(file)
	return p, loaded.Metadata, nil
}

// supply adds the chart of a folder as a dependency that Chart.yaml declares.
func supply(parent *chart.Chart, dir string) (string, error) {
	dependency, err := loader.LoadDir(dir)
	if err != nil {
		return "", fmt.Errorf("load the dependency %s: %w", dir, err)
	}
	for _, declared := range parent.Metadata.Dependencies {
		if declared.Name != dependency.Name() {
			continue
		}
		if slices.ContainsFunc(parent.Dependencies(), func(d *chart.Chart) bool { return d.Name() == declared.Name }) {
			return "", fmt.Errorf("dependency %s lies in charts/ already: do not supply another", declared.Name)
		}
		if !chartutil.IsCompatibleRange(declared.Version, dependency.Metadata.Version) {
			if !chartutil.IsCompatibleRange(declared.Version, declared.Version) { // a range, not a version
				return "", fmt.Errorf("dependency %s has version %s where %s is declared: supply a fitting one",
					declared.Name, dependency.Metadata.Version, declared.Version)
			}
			dependency.Metadata.Version = declared.Version
		}
		parent.AddDependency(dependency)
		return dependency.Name() + " " + dependency.Metadata.Version, nil
	}
	return "", fmt.Errorf("dependency %s (%s) is not declared in Chart.yaml", dependency.Name(), dir)
}

// makeReproducible fixes times, and the order of dependencies, which loading
// leaves to chance.
func makeReproducible(c *chart.Chart) {
	c.StampModTimes(chartTime)
	dependencies := slices.Clone(c.Dependencies())
	slices.SortFunc(dependencies, func(a, b *chart.Chart) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), strings.Compare(a.Metadata.Version, b.Metadata.Version))
	})
	c.SetDependencies(dependencies...)
	for _, dependency := range dependencies {
		makeReproducible(dependency)
	}
}

// open returns a file of the repository: the index or an archive.
func (s *served) open(name string) (*os.File, error) {
	if name != "index.yaml" && !slices.ContainsFunc(s.charts, func(p PackagedChart) bool { return p.file == name }) {
		return nil, errors.New("the local Helm repository has no file " + name)
	}
	return os.Open(filepath.Join(s.folder, name))
}

// Chart is the archive with which a HelmRepository of this URL is answered for a
// chart at a version, or a range of versions; empty: the newest. The file is the
// server's. It errs where nothing local answers the URL with charts.
func (s *Server) Chart(repositoryURL, name, version string) (string, error) {
	addr, err := parseAddress(repositoryURL)
	if err != nil {
		return "", err
	}
	s.mu.RLock()
	found := s.answers.exact[addr]
	s.mu.RUnlock()
	if found == nil || found.kind != kindHelm {
		return "", fmt.Errorf("nothing local answers %s with charts", addr)
	}
	index, err := repo.LoadIndexFile(filepath.Join(found.folder, "index.yaml"))
	if err != nil {
		return "", fmt.Errorf("read what answers %s: %w", addr, err)
	}
	entry, err := index.Get(name, version)
	if err != nil {
		return "", fmt.Errorf("look for %s %s in what answers %s: %w", name, version, addr, err)
	}
	return filepath.Join(found.folder, filepath.Base(entry.URLs[0])), nil
}
