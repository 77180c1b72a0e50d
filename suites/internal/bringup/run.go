package bringup

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
	"github.com/your-org/flux-platform-conformance/suites/internal/source"
)

// ProgressEvent is the kind of the session's events whose data is a
// progress.Event.
const ProgressEvent = "progress"

// The phases of a bring-up, in their order; clusters, bootstrap and platform are
// per environment.
const (
	phaseDocker     = "docker"
	phaseComponents = "components"
	phaseNode       = "node image"
	phaseImages     = "images"
	phaseSources    = "sources"
	phaseCluster    = "cluster"
	phaseBootstrap  = "bootstrap"
	phasePlatform   = "platform"
)

// Run brings a session up, tells that it is ready, keeps it until ctx ends, and
// takes it down. It is what the supervisor does; assets holds what the program
// ships.
func Run(assets fs.FS, options Options) session.RunFunc {
	return func(ctx context.Context, s *session.Session, emit func(session.Event)) error {
		b := &bringUp{assets: assets, options: options, session: s, emit: emit}
		b.state = State{Options: options, StartedAt: time.Now()}
		measuring, measured := context.WithCancel(ctx)
		go measureIdle(measuring, func(d time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.state.IdleSeconds += d.Seconds()
		})
		err := b.up(ctx)
		measured()
		if err == nil {
			emit(session.Event{Kind: session.KindReady})
			<-ctx.Done()
		}
		// The clean-up has a context of its own: that of the session has ended.
		return errors.Join(err, b.down(context.WithoutCancel(ctx)))
	}
}

type bringUp struct {
	assets  fs.FS
	options Options
	session *session.Session
	emit    func(session.Event)

	config       platform.Config
	platform     *platform.Platform
	environments []*platform.Environment // those that are brought up
	ground       ground
	store        *component.Store
	server       *source.Server
	stop         context.CancelFunc
	fail         context.CancelCauseFunc // ends the bring-up of all environments
	writers      sync.WaitGroup
	// stocking tells that components are wanted for the images of nodes.
	stocking atomic.Bool

	mu       sync.Mutex
	lacking  []error
	state    State
	clusters []cluster.Cluster
}

// tell emits a step of the progress.
func (b *bringUp) tell(e progress.Event) {
	e.Time = time.Now()
	data, err := json.Marshal(e)
	if err != nil {
		return
	}
	b.emit(session.Event{Kind: ProgressEvent, Environment: e.Environment, Phase: e.Phase, Message: strings.TrimSpace(e.Waiting + " " + e.Message), Data: data})
}

// phase tells the begin and the end of a step.
func (b *bringUp) phase(environment, name string, step func() error) error {
	b.tell(progress.Event{Environment: environment, Phase: name})
	err := step()
	b.tell(progress.Event{Environment: environment, Phase: name, Done: true})
	if err != nil && environment != "" {
		return fmt.Errorf("environment %s: %s: %w", environment, name, err)
	}
	return err
}

func (b *bringUp) up(ctx context.Context) error {
	input, err := Read(ctx, b.assets, b.options, b.session.Dir())
	if err != nil {
		return err
	}
	b.config, b.platform, b.environments = input.Config, input.Platform, input.Environments
	if err := b.openStore(); err != nil {
		return err
	}
	if b.ground, err = b.newGround(); err != nil {
		return err
	}
	if err := b.ground.prepare(ctx); err != nil {
		return err
	}
	if err := b.phase("", phaseSources, func() error { return b.serve(ctx, input) }); err != nil {
		return err
	}
	if err := b.ground.stock(ctx); err != nil {
		return err
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	group, running := errgroup.WithContext(ctx)
	running, fail := context.WithCancelCause(running)
	defer fail(nil)
	b.fail = fail
	for _, environment := range b.environments {
		group.Go(func() error { return b.environment(running, writing, environment) })
	}
	if err := group.Wait(); err != nil {
		if cause := context.Cause(running); errors.Is(cause, component.ErrNotPinned) {
			return cause
		}
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortFunc(b.state.Environments, func(x, y EnvironmentState) int { return strings.Compare(x.Name, y.Name) })
	return b.session.WriteState(b.state)
}

func (b *bringUp) openStore() error {
	root, err := session.Root()
	if err != nil {
		return err
	}
	b.store, err = OpenStore(b.assets, root, b.config, func(p component.Progress) {
		phase := phaseComponents
		if b.stocking.Load() {
			phase = phaseImages
		}
		b.tell(progress.Event{Phase: phase, Waiting: p.Component, Message: p.String()})
	})
	return err
}

// OpenStore opens the component store of this machine with the pins that the
// program ships.
func OpenStore(assets fs.FS, root string, config platform.Config, tell func(component.Progress)) (*component.Store, error) {
	scripts, err := fs.Sub(assets, "scripts")
	if err != nil {
		return nil, fmt.Errorf("open the sources: %w", err)
	}
	pins, err := fs.Sub(scripts, "pins")
	if err != nil {
		return nil, fmt.Errorf("open the pins: %w", err)
	}
	return component.Open(component.Options{
		Dir: filepath.Join(root, "store"), Pins: pins, Sources: scripts, Mirrors: config.Registries,
		StandIns: config.Components, Progress: tell,
	})
}

// resolve finds a component for the very image that a pod names; where that is to
// be had nowhere, the version that CONFIG lets stand in. Without either the
// bring-up ends: what this machine lacks says nothing of the platform.
func (b *bringUp) resolve(ctx context.Context, name, image string) (string, error) {
	found, err := b.store.Resolve(ctx, []component.Request{{Name: name, Image: image}})
	instead := b.config.Components[name]
	substituted := errors.Is(err, component.ErrNotPinned) && instead != ""
	if substituted {
		if found, err = b.store.Resolve(ctx, []component.Request{{Name: name, Version: instead}}); err != nil {
			err = fmt.Errorf("in place of image %s, by components in CONFIG: %w", image, err)
		}
	}
	if errors.Is(err, component.ErrNotPinned) {
		b.lack(err)
	}
	if err != nil {
		return "", err
	}
	if substituted {
		found[0].InPlaceOf = []string{image}
	}
	b.used(found[0])
	return found[0].Path, nil
}

// used takes down that a component runs, and in whose place.
func (b *bringUp) used(c component.Component) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.IndexFunc(b.state.Components, func(known component.Component) bool { return known.Path == c.Path })
	if at < 0 {
		b.state.Components = append(b.state.Components, c)
		return
	}
	known := &b.state.Components[at]
	for _, image := range c.InPlaceOf {
		if !slices.Contains(known.InPlaceOf, image) {
			known.InPlaceOf = append(known.InPlaceOf, image)
		}
	}
}

// note has something said in the report.
func (b *bringUp) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Notes = append(b.state.Notes, fmt.Sprintf(format, args...))
}

// lackGrace is how long a lack is kept to itself: the programs of one release are
// asked for at nearly the same time, and are better named together.
const lackGrace = 2 * time.Second

// lack ends the bring-up for want of a component, with all that are found to be
// missing meanwhile.
func (b *bringUp) lack(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lacking) == 0 {
		time.AfterFunc(lackGrace, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.fail(errors.Join(b.lacking...))
		})
	}
	if !slices.ContainsFunc(b.lacking, func(known error) bool { return known.Error() == err.Error() }) {
		b.lacking = append(b.lacking, err)
	}
}

func (b *bringUp) environment(ctx, writing context.Context, environment *platform.Environment) error {
	name := environment.Name
	var c cluster.Cluster
	err := b.phase(name, phaseCluster, func() (err error) {
		c, err = b.cluster(ctx, name, environment, map[string][]string{"source-controller": b.server.Environ()})
		return err
	})
	if err != nil {
		return err
	}
	state := EnvironmentState{Name: name, Kubeconfig: c.Kubeconfig(), Report: filepath.Join(b.session.Dir(), "clusters", name, "report.json")}
	b.writers.Add(1)
	go func() {
		defer b.writers.Done()
		b.keepReport(writing, c, state.Report)
	}()
	api, err := client.New(c.RESTConfig(), client.Options{})
	if err != nil {
		return fmt.Errorf("environment %s: connect: %w", name, err)
	}
	order, err := b.watchOrder(ctx, c.RESTConfig(), api, environment)
	if err != nil {
		return fmt.Errorf("environment %s: %w", name, err)
	}
	// It ends with the bring-up, however that ends.
	defer func() { _ = order.end() }()
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		var err error
		state.Findings, err = b.probe(running, c, probedFirst...)
		return err
	})
	group.Go(func() error {
		return b.phase(name, phaseBootstrap, func() error { return b.bootstrap(running, api, environment) })
	})
	if err := group.Wait(); err != nil {
		return err
	}
	err = b.phase(name, phasePlatform, func() error { return b.settle(ctx, api, name, &state) })
	if err != nil {
		return err
	}
	state.Order = order.end()
	settled, err := b.probe(ctx, c, probedSettled...)
	if err != nil {
		return err
	}
	state.Findings = append(state.Findings, settled...)
	if err := b.writeReport(ctx, c, state.Report); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Environments = append(b.state.Environments, state)
	return nil
}

// cluster makes one cluster of the session, which takes it down in the end. The
// components that environ names get those variables beside their pods'.
func (b *bringUp) cluster(ctx context.Context, name string, environment *platform.Environment, environ map[string][]string) (cluster.Cluster, error) {
	dir, err := b.session.Folder("clusters/" + name)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "provider.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the provider's log: %w", err)
	}
	c, err := b.ground.create(ctx, environment, cluster.Spec{
		Name: name, Dir: filepath.Join(dir, "cluster"), Recognize: b.store.Recognizer(b.provider()),
		Environ: environ, Ports: b.session.Port, Marker: b.session.Marker(), Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clusters = append(b.clusters, closing{c, log})
	return c, nil
}

// What a cluster can do is tried before the platform's policies could make it
// fail; but an Ingress needs the controller that the platform brings.
var (
	probedFirst   = []cluster.Capability{cluster.Workloads, cluster.ServiceRouting, cluster.NetworkPolicy}
	probedSettled = []cluster.Capability{cluster.Ingress}
)

func (b *bringUp) probe(ctx context.Context, c cluster.Cluster, capabilities ...cluster.Capability) ([]cluster.Finding, error) {
	findings, err := c.Probe(ctx, capabilities...)
	if err != nil {
		return nil, fmt.Errorf("environment %s: probe what the cluster can do: %w", c.Name(), err)
	}
	return findings, nil
}

// closing is a cluster with the log that is closed after it.
type closing struct {
	cluster.Cluster
	log io.Closer
}

func (c closing) Close(ctx context.Context) error {
	return errors.Join(c.Cluster.Close(ctx), c.log.Close())
}

// bootstrap applies what «flux bootstrap» applies: the folder with Flux itself,
// patched as the platform patches it, and the Secrets that sources name and Git
// does not hold.
func (b *bringUp) bootstrap(ctx context.Context, c client.Client, environment *platform.Environment) error {
	objects, err := b.fluxObjects(ctx, environment)
	if err != nil {
		return err
	}
	given, err := b.givenObjects()
	if err != nil {
		return err
	}
	if err := bootstrap.Apply(ctx, c, given); err != nil {
		return err
	}
	secrets, err := b.standIns(ctx, c, environment)
	if err != nil {
		return err
	}
	return bootstrap.Apply(ctx, c, append(secrets, objects...))
}

// fluxObjects are what the folder with Flux itself renders, as it is served.
func (b *bringUp) fluxObjects(ctx context.Context, environment *platform.Environment) ([]*unstructured.Unstructured, error) {
	repository, _ := b.state.Repository(platformName)
	tree, err := b.tree(ctx, repository)
	if err != nil {
		return nil, err
	}
	manifest, err := bootstrap.Build(filesys.MakeFsOnDisk(), filepath.Join(tree, filepath.FromSlash(environment.FluxSystem.Path)))
	if err != nil {
		return nil, err
	}
	objects, err := bootstrap.Decode(manifest)
	if err != nil {
		return nil, fmt.Errorf("read what %s renders: %w", environment.FluxSystem.Path, err)
	}
	return objects, nil
}

// tree is a folder with a repository as it is served.
func (b *bringUp) tree(ctx context.Context, repository Repository) (string, error) {
	folder, _, err := layOut(ctx, repository, filepath.Join(b.session.Dir(), "trees"))
	return folder, err
}

// givenObjects are those of the folder that CONFIG names.
func (b *bringUp) givenObjects() ([]*unstructured.Unstructured, error) {
	if b.config.Objects == "" {
		return nil, nil
	}
	var objects []*unstructured.Unstructured
	err := filepath.WalkDir(b.config.Objects, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		found, err := bootstrap.Decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		objects = append(objects, found...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the objects of CONFIG in %s: %w", b.config.Objects, err)
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("the folder %s, which CONFIG names under «objects», holds no manifest", b.config.Objects)
	}
	return objects, nil
}

// standIns makes the Secrets that sources refer to and nobody provides, with the
// namespaces that they stand in.
func (b *bringUp) standIns(ctx context.Context, c client.Client, environment *platform.Environment) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	seen := map[string]bool{}
	add := func(object map[string]any) {
		u := &unstructured.Unstructured{Object: object}
		if key := u.GetKind() + u.GetNamespace() + "/" + u.GetName(); !seen[key] {
			seen[key] = true
			out = append(out, u)
		}
	}
	for _, s := range environment.Sources {
		for _, ref := range s.Secrets {
			if ref.Field != "secretRef" || declares(environment, ref) {
				continue
			}
			err := c.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &corev1.Secret{})
			if err == nil {
				continue // CONFIG.objects brought it
			}
			if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("look for the Secret %s/%s: %w", ref.Namespace, ref.Name, err)
			}
			data := map[string]any{}
			for key, value := range b.server.StandIn(s.URL) {
				data[key] = base64.StdEncoding.EncodeToString(value)
			}
			add(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": ref.Namespace}})
			add(map[string]any{
				"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
				"metadata": map[string]any{"name": ref.Name, "namespace": ref.Namespace},
			})
		}
	}
	return out, nil
}

func declares(environment *platform.Environment, ref platform.SecretRef) bool {
	return slices.ContainsFunc(environment.Objects, func(o platform.Object) bool {
		return o.GetKind() == "Secret" && o.GetNamespace() == ref.Namespace && o.GetName() == ref.Name
	})
}

// settle waits for Flux. What failed for good is the checks' to judge: only a
// platform in which nothing moves any more ends the bring-up.
func (b *bringUp) settle(ctx context.Context, c client.Client, environment string, state *EnvironmentState) error {
	settlement, err := bootstrap.Settle(ctx, b.settleInput(c, environment))
	state.Chain = settlement.Chain
	for ref, waited := range settlement.Waited {
		state.Waited = append(state.Waited, Wait{Object: ref.String(), Seconds: waited.Seconds()})
	}
	sort.Slice(state.Waited, func(i, j int) bool { return state.Waited[i].Seconds > state.Waited[j].Seconds })
	for _, line := range settlement.Chain {
		b.tell(progress.Event{Environment: environment, Phase: phasePlatform, Message: line})
	}
	if err != nil && len(settlement.Objects) == 0 {
		return err
	}
	return ctx.Err()
}

func (b *bringUp) settleInput(c client.Client, environment string) bootstrap.SettleInput {
	var last progress.Event
	return bootstrap.SettleInput{
		Client: c, Timeout: b.config.Timeouts.BringUp, Stall: b.config.Timeouts.Stall,
		Progress: func(waiting []bootstrap.Object) {
			if len(waiting) == 0 {
				return
			}
			o := waiting[0]
			e := progress.Event{Environment: environment, Phase: phasePlatform, Waiting: o.String(), Message: o.Message}
			if e != last {
				last = e
				b.tell(e)
			}
		},
		Refused: b.refused,
	}
}

// refused says whether the session's servers refused the URL of a source.
func (b *bringUp) refused(o bootstrap.Object) (string, bool) {
	if o.URL == "" || !strings.Contains(o.Message, "no local answer for URL") {
		return "", false
	}
	return o.Message, true
}

func (b *bringUp) down(ctx context.Context) error {
	if b.stop != nil {
		b.stop()
	}
	b.writers.Wait()
	var group errgroup.Group
	b.mu.Lock()
	clusters := b.clusters
	b.mu.Unlock()
	for _, c := range clusters {
		group.Go(func() error { return c.Close(ctx) })
	}
	err := group.Wait()
	if b.server != nil {
		err = errors.Join(err, b.server.Close())
	}
	if b.ground != nil {
		err = errors.Join(err, b.ground.close(ctx))
	}
	return err
}

// reportInterval is how often the supervisor looks whether a report is wanted.
const reportInterval = 50 * time.Millisecond

// reportFile is what a report's file holds.
type reportFile struct {
	// Asked is when the cluster was asked; what it says is not older.
	Asked  time.Time      `json:"asked"`
	Report cluster.Report `json:"report"`
}

// requestSuffix names the file beside a report by which a newer one is asked for.
const requestSuffix = ".request"

// keepReport renews the file with the cluster's report whenever that is asked
// for, until ctx ends. A report costs the API server some work: it lists kinds
// that are large.
func (b *bringUp) keepReport(ctx context.Context, c cluster.Cluster, file string) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			// Removed first: who asks from here on is served by the next round.
			if os.Remove(file+requestSuffix) == nil {
				// One that cannot be made leaves the last one standing, and whoever
				// asked waiting until that is an error there.
				_ = b.writeReport(ctx, c, file)
			}
		}
	}
}

func (b *bringUp) writeReport(ctx context.Context, c cluster.Cluster, file string) error {
	asked := time.Now()
	report, err := c.Report(ctx)
	if err != nil {
		return fmt.Errorf("ask the cluster %s for its report: %w", c.Name(), err)
	}
	b.mu.Lock()
	for i := range report.ControlPlane {
		report.ControlPlane[i].Version = b.versionOf(report.ControlPlane[i].Path)
	}
	for i := range report.Backed {
		report.Backed[i].Version = b.ground.version(report.Backed[i])
	}
	b.mu.Unlock()
	data, err := json.Marshal(reportFile{Asked: asked, Report: report})
	if err != nil {
		return fmt.Errorf("encode the report of the cluster %s: %w", c.Name(), err)
	}
	return check.WriteFile(file, data)
}

// versionOf is that of the component which a program's file is; empty when none is.
func (b *bringUp) versionOf(file string) string {
	for _, c := range b.state.Components {
		if c.Path == file {
			return c.Version
		}
	}
	return ""
}
