// Package bringup makes a session of its parts: it reads the platform, has the
// components ready, serves the sources, creates one cluster per environment,
// bootstraps Flux there and waits until all has settled. What it learns stands in
// the session file; suites see it through a View.
package bringup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// Options say what is brought up. They travel to the supervisor as JSON.
type Options struct {
	// Platform and Developer are absolute folders; empty: the reference ones that
	// the program ships.
	Platform  string `json:"platform,omitempty"`
	Developer string `json:"developer,omitempty"`
	// Config is the absolute path of a CONFIG file; empty: none.
	Config string `json:"config,omitempty"`
	// Provider is embedded when empty.
	Provider string `json:"provider,omitempty"`
	// Environments and Tenants narrow the run; empty: all.
	Environments []string `json:"environments,omitempty"`
	Tenants      []string `json:"tenants,omitempty"`
	// Artifacts is the absolute folder for what outlives the session, such as the
	// logs of nodes that did not come up; empty: none is kept.
	Artifacts string `json:"artifacts,omitempty"`
	// Overlays are the IDs of faults that are laid over the repositories before the
	// clusters are made.
	Overlays []string `json:"overlays,omitempty"`
}

// nodeLogs is where the logs of an environment's nodes are kept; empty where
// nothing is.
func (o Options) nodeLogs(environment string) string {
	if o.Artifacts == "" {
		return ""
	}
	return filepath.Join(o.Artifacts, environment, NodeLogs)
}

// NodeLogs is the folder, below that of an environment, which holds the logs of
// nodes.
const NodeLogs = "nodes"

// SessionPrefix begins the names of what a session has on a Docker daemon.
const SessionPrefix = "fpc-"

// State is what suites need to know of a session; it is the payload of its
// session file.
type State struct {
	Options Options `json:"options"`
	// Repositories are those that this session serves from folders.
	Repositories []Repository `json:"repositories"`
	// Requests is the log of what was asked of the servers, one JSON line each.
	Requests   string                `json:"requests"`
	Components []component.Component `json:"components"`
	// FluxAssumed names the environments whose repository declares no release of
	// Flux, so that the pinned one was bootstrapped.
	FluxAssumed  []string           `json:"fluxAssumed,omitempty"`
	Environments []EnvironmentState `json:"environments"`
	// Notes say what whoever reads the report has to know of the bring-up.
	Notes []string `json:"notes,omitempty"`
	// StartedAt is when the supervisor began.
	StartedAt time.Time `json:"startedAt"`
	// IdleSeconds is how long, during the bring-up, the machine did next to
	// nothing: somebody waited for a timer.
	IdleSeconds float64 `json:"idleSeconds"`
}

// Repository is a folder served as a Git repository.
type Repository struct {
	// Name is platform, developer or policies; other sources have their URL.
	Name string `json:"name"`
	URL  string `json:"url"`
	// Folder is where it was taken from; Dirty says that the folder held changes
	// that were not committed.
	Folder string `json:"folder"`
	Dirty  bool   `json:"dirty"`
	// Bare is the repository that is served.
	Bare     string   `json:"bare"`
	Branch   string   `json:"branch"`
	Tags     []string `json:"tags"`
	Revision string   `json:"revision"`
	// Served is the commit that the session came up with.
	Served string `json:"served"`
}

// EnvironmentState is one cluster of a session.
type EnvironmentState struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	// Report is a file with the cluster's own report; ClusterReport reads it.
	Report   string            `json:"report"`
	Findings []cluster.Finding `json:"findings"`
	// Chain explains what was not ready when the bring-up ended; empty when all
	// was.
	Chain []string `json:"chain"`
	// Waited lists who was waited for, longest first.
	Waited []Wait `json:"waited"`
	// Order is what was seen of policies and tenants while they came to be.
	Order Order `json:"order"`
}

// Wait is how long the bring-up waited for one object although nothing that the
// object waits for was missing.
type Wait struct {
	Object  string  `json:"object"`
	Seconds float64 `json:"seconds"`
}

// Environment returns the state of the environment with that name.
func (s State) Environment(name string) (EnvironmentState, bool) {
	for _, e := range s.Environments {
		if e.Name == name {
			return e, true
		}
	}
	return EnvironmentState{}, false
}

// Repository returns the repository with that name.
func (s State) Repository(name string) (Repository, bool) {
	for _, r := range s.Repositories {
		if r.Name == name {
			return r, true
		}
	}
	return Repository{}, false
}

// Config reaches the cluster as its administrator. It is not throttled: the API
// server says when it is busy.
func (e EnvironmentState) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", e.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of %s: %w", e.Name, err)
	}
	config.QPS, config.Burst = -1, 0
	// It warns of old kinds and names, which listing everything includes.
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// ClusterReport asks the session what the cluster of an environment says of
// itself now.
func (e EnvironmentState) ClusterReport(ctx context.Context) (cluster.Report, error) {
	request := time.Now()
	if err := os.WriteFile(e.Report+requestSuffix, nil, 0o600); err != nil {
		return cluster.Report{}, fmt.Errorf("ask for the report of the cluster of %s: %w", e.Name, err)
	}
	var found reportFile
	err := wait.PollUntilContextTimeout(ctx, reportInterval, reportTimeout, true, func(context.Context) (bool, error) {
		data, err := os.ReadFile(e.Report)
		if err != nil {
			return false, err
		}
		if err := json.Unmarshal(data, &found); err != nil {
			return false, err
		}
		return !found.Asked.Before(request), nil
	})
	if err != nil {
		return cluster.Report{}, fmt.Errorf("read the report of the cluster of %s, asked for at %s: %w", e.Name, request.Format(time.TimeOnly), err)
	}
	return found.Report, nil
}

// reportTimeout bounds the wait for a cluster's report.
const reportTimeout = 20 * time.Second

// View is a session as a suite sees it: its state, and the model of what its
// servers serve at this moment.
type View struct {
	State    State
	Platform *platform.Platform
	Config   platform.Config
	// Trees maps a repository's name to a folder with its content as served.
	Trees map[string]string
	// Revisions maps a repository's name to the commit that is served.
	Revisions map[string]string
}

// Timeouts are those of CONFIG, else the defaults.
func (v *View) Timeouts() platform.Timeouts { return v.Config.Timeouts }

// Open makes a view: it lays the repositories out as they are served now, below
// dir, and reads the platform from there, so that an uncommitted edit made since
// the snapshot does not reach the checks.
func Open(ctx context.Context, state State, dir string) (*View, error) {
	v := &View{State: state, Trees: map[string]string{}, Revisions: map[string]string{}}
	var err error
	if v.Config, err = readConfig(state.Options.Config); err != nil {
		return nil, err
	}
	folders := map[string]string{}
	for _, r := range state.Repositories {
		folder, revision, err := layOut(ctx, r, dir)
		if err != nil {
			return nil, err
		}
		v.Trees[r.Name], v.Revisions[r.Name] = folder, revision
		folders[r.URL] = folder
	}
	v.Platform, err = platform.Load(ctx, platform.Options{Root: v.Trees[platformName], Sources: folders})
	if err != nil {
		return nil, fmt.Errorf("read the platform as it is served: %w", err)
	}
	return v, nil
}

// Changeable says whether a URL is answered by a repository that an overlay can
// change.
func (v *View) Changeable(address string) bool {
	return slices.ContainsFunc(v.State.Repositories, func(r Repository) bool {
		return slices.Contains(overlay.Repositories, r.Name) && platform.SameRepository(r.URL, address)
	})
}

// layOut lays what is served of a repository out below dir, once per revision.
func layOut(ctx context.Context, r Repository, dir string) (folder, revision string, err error) {
	revision, err = source.Head(ctx, r.Bare, r.Branch)
	if err != nil {
		return "", "", fmt.Errorf("find what is served for %s: %w", r.URL, err)
	}
	folder = filepath.Join(dir, filepath.Base(r.Bare)+"-"+revision[:12])
	if _, err := os.Stat(folder); err == nil {
		return folder, revision, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("lay out %s: %w", r.URL, err)
	}
	// Processes that judge in parallel lay out the same folder: the first rename
	// stands.
	fresh, err := os.MkdirTemp(dir, "export-")
	if err != nil {
		return "", "", fmt.Errorf("lay out %s: %w", r.URL, err)
	}
	if err := source.Export(ctx, r.Bare, revision, fresh); err != nil {
		return "", "", fmt.Errorf("lay out %s: %w", r.URL, err)
	}
	if err := os.Rename(fresh, folder); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, other := os.Stat(folder); other != nil {
			return "", "", fmt.Errorf("lay out %s: %w", r.URL, err)
		}
	}
	return folder, revision, nil
}

func readConfig(path string) (platform.Config, error) {
	if path == "" {
		return platform.DefaultConfig(), nil
	}
	return platform.LoadConfig(path)
}
