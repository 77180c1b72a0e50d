package bringup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster/kind"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/component/mirror"
	"github.com/your-org/flux-platform-conformance/suites/internal/nodeimage"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// publishedNode is the node image that the makers of kind publish for the minor
// of Kubernetes that the pins declare, as the release notes of the kind library
// name it. nodeImage of CONFIG takes its place.
const publishedNode = "docker.io/kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed"

// kindGround is that of the kind provider: a network of the session's own on a
// Docker daemon, a node image, and a registry for the images that no other has.
type kindGround struct {
	*bringUp

	engine  kind.Engine
	network kind.Network
	// node is the node image, as the daemon knows it.
	node string
	// offline is why no registry can be asked; nil where one answers.
	offline error
	mirror  *mirror.Server
	// hosts is the folder by which the nodes find the mirror.
	hosts string

	// programs are the components that are made ready beforehand.
	programs []component.Component
	// made maps the digests of images that were made here to their components.
	made map[string]component.Component
	// iptables is the layer that kube-proxy's image stands on: a file.
	iptables string
}

func (g *kindGround) prepare(ctx context.Context) error {
	if err := g.phase("", phaseDocker, func() error { return g.docker(ctx) }); err != nil {
		return err
	}
	if err := g.phase("", phaseComponents, func() error { return g.components(ctx) }); err != nil {
		return err
	}
	if g.offline != nil {
		if err := g.phase("", phaseNode, func() error { return g.makeNode(ctx) }); err != nil {
			return err
		}
	}
	return g.serveImages(ctx)
}

func (g *kindGround) host() string { return g.network.Gateway }

// docker sees that clusters can be made on the daemon, and makes the network that
// everything else hangs on.
func (g *kindGround) docker(ctx context.Context) error {
	nodes := 0
	for _, environment := range g.environments {
		config, err := g.nodeConfig(environment)
		if err != nil {
			return err
		}
		n, err := kind.Nodes(config)
		if err != nil {
			return fmt.Errorf("environment %s: %w", environment.Name, err)
		}
		nodes += n
	}
	var err error
	if g.engine, err = kind.Preflight(ctx, kind.PreflightOptions{Nodes: nodes, Record: g.session.Record}); err != nil {
		return err
	}
	g.network, err = g.engine.CreateNetwork(ctx, SessionPrefix+g.session.ID())
	return err
}

// nodeConfig is the kind configuration of an environment; nil where there is none,
// which is one node.
func (g *kindGround) nodeConfig(environment *platform.Environment) ([]byte, error) {
	data, err := fs.ReadFile(g.assets, path.Join("kind-config", environment.Name+".yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("environment %s: read its kind configuration: %w", environment.Name, err)
	}
	return data, nil
}

// components finds out whether registries answer. Where none does, everything that
// is known to run is made ready here; where one does, nodes pull as usual, and what
// is ours alone is made when it is asked for.
func (g *kindGround) components(ctx context.Context) error {
	wanted := cmp.Or(g.config.NodeImage, publishedNode)
	if g.node, g.offline = g.store.Reach(ctx, wanted); g.offline == nil {
		g.note("kind with registries: the nodes are made from %s and pull their images as usual; only the project's own are served from here", wanted)
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	g.note("kind without a registry, since %s: the node image and all images are made here, from Debian packages and pinned modules", g.offline)
	var requests []component.Request
	for _, name := range g.store.NamesFor(g.provider()) {
		if name != "kyverno-cli" {
			requests = append(requests, component.Request{Name: name, Version: g.config.Components[name]})
		}
	}
	found, err := g.store.Resolve(ctx, requests)
	if err != nil {
		return err
	}
	g.programs = found
	return nil
}

// serveImages serves the images that no registry has.
func (g *kindGround) serveImages(ctx context.Context) error {
	port, err := g.session.Port()
	if err != nil {
		return err
	}
	dir, err := g.session.Folder("images")
	if err != nil {
		return err
	}
	g.mirror, err = mirror.Serve(ctx, mirror.Options{
		Dir: dir, Listen: net.JoinHostPort(g.network.Gateway, strconv.Itoa(port)), Image: g.image,
	})
	if err != nil {
		return err
	}
	g.hosts = filepath.Join(dir, "certs.d")
	return g.mirror.WriteHosts(g.hosts, g.config.Registries)
}

// makeNode has the node image of our own ready on the daemon.
func (g *kindGround) makeNode(ctx context.Context) error {
	root, err := session.Root()
	if err != nil {
		return err
	}
	recipe, err := fs.Sub(g.assets, "scripts/node")
	if err != nil {
		return fmt.Errorf("open the recipe of the node image: %w", err)
	}
	tell := func(line string) { g.tell(progress.Event{Phase: phaseNode, Message: line}) }
	made, err := nodeimage.Build(ctx, nodeimage.Options{
		Dir: filepath.Join(root, "store"), Recipe: recipe, Programs: g.programs, Kubernetes: g.kubernetesVersion(), Progress: tell,
	})
	if err != nil {
		return err
	}
	g.node, g.iptables = made.Reference, made.Iptables
	_, err = made.Import(ctx, tell)
	return err
}

// stock has the images made that the nodes will ask for, where no registry has
// them: what cannot be had is told all at once, before there is a cluster.
func (g *kindGround) stock(ctx context.Context) error {
	if g.offline == nil {
		return nil
	}
	g.stocking.Store(true)
	return g.phase("", phaseImages, func() error {
		wanted, err := g.ofCluster(ctx)
		if err != nil {
			return err
		}
		declared, unknown, err := g.images(ctx)
		if err != nil {
			return err
		}
		for _, line := range unknown {
			g.note("%s", line)
		}
		for _, image := range declared {
			if !image.Later && !slices.Contains(wanted, image.Image) {
				wanted = append(wanted, image.Image)
			}
		}
		if err := g.absent(declared); err != nil {
			return err
		}
		return g.mirror.Prepare(ctx, wanted)
	})
}

// absent names the declared images that are made of nothing that we have: without
// a registry they are to be had nowhere.
func (g *kindGround) absent(declared []namedImage) error {
	var problems []error
	for _, image := range declared {
		if _, known := g.store.Recognize(image.Image); !known && !image.Later {
			problems = append(problems, fmt.Errorf("image %s cannot be had: no registry answers (%w), and no component is it; reach a registry, or name a mirror of it under registries in CONFIG", image, g.offline))
		}
	}
	return errors.Join(problems...)
}

// ofCluster lists the images that every cluster runs, as kubeadm names them.
func (g *kindGround) ofCluster(ctx context.Context) ([]string, error) {
	at := slices.IndexFunc(g.programs, func(c component.Component) bool { return c.Name == "kubeadm" })
	if at < 0 {
		return nil, errors.New("list the images of a cluster: kubeadm is not among the components")
	}
	list := exec.CommandContext(ctx, g.programs[at].Path, "config", "images", "list", "--kubernetes-version", g.kubernetesVersion())
	output, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the images of a cluster: %s: %w", strings.Join(list.Args, " "), err)
	}
	return append(strings.Fields(string(output)), ProbeImage), nil
}

// image makes what a node asks for. With registries that is only what they do not
// have; without, whatever the store has a component for.
func (g *kindGround) image(ctx context.Context, reference string) (v1.Image, error) {
	name, known := g.store.Recognize(reference)
	if !known || g.offline == nil && !g.store.IsOwn(name) {
		return nil, mirror.ErrNotOurs
	}
	base, err := g.base(name)
	if err != nil {
		return nil, err
	}
	made, err := g.store.Image(ctx, reference, base...)
	if errors.Is(err, component.ErrNotPinned) {
		g.lack(err)
	}
	if err != nil {
		return nil, err
	}
	g.used(made.Component)
	return made.Image, g.remember(made)
}

// remember keeps by which digests nodes may call an image of ours.
func (g *kindGround) remember(made *component.Image) error {
	manifest, err := made.Digest()
	if err != nil {
		return fmt.Errorf("read the digest of %s: %w", made.Component.Requested, err)
	}
	config, err := made.ConfigName()
	if err != nil {
		return fmt.Errorf("read the digest of %s: %w", made.Component.Requested, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.made[manifest.String()], g.made[config.String()] = made.Component, made.Component
	return nil
}

// version is that of the component whose image a node took. An image from a
// registry is of the version that its tag says; so is a program of our own, which
// has no other.
func (g *kindGround) version(b cluster.Backed) string {
	digest := b.ImageID[strings.LastIndex(b.ImageID, "@")+1:]
	if c, ours := g.made[digest]; ours && !g.store.IsOwn(c.Name) {
		return c.Version
	}
	image, _, _ := strings.Cut(b.Image, "@")
	return image[strings.LastIndex(image, ":")+1:]
}

// base is what the image of a component stands on.
func (g *kindGround) base(name string) ([]v1.Layer, error) {
	switch wanted := g.store.Base(name); wanted {
	case "":
		return nil, nil
	case "iptables":
		layer, err := component.TarLayer(g.iptables)
		if err != nil {
			return nil, fmt.Errorf("read the layer with iptables: %w", err)
		}
		return []v1.Layer{layer}, nil
	default:
		return nil, fmt.Errorf("component %s stands on a layer %q, which nobody makes", name, wanted)
	}
}

func (g *kindGround) create(ctx context.Context, environment *platform.Environment, spec cluster.Spec) (cluster.Cluster, error) {
	config, err := g.nodeConfig(environment)
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(g.server.CAFile())
	if err != nil {
		return nil, fmt.Errorf("read the session's certificate authority: %w", err)
	}
	spec.Version = g.kubernetesVersion()
	return kind.Provider{
		Engine: g.engine, Network: g.network, Image: g.node, Config: config, Hosts: g.hosts, Authority: authority,
		Repositories: g.store.Repositories, ProbeImage: ProbeImage, Logs: g.options.nodeLogs(environment.Name),
	}.Create(ctx, spec)
}

func (g *kindGround) close(ctx context.Context) error {
	var err error
	if g.mirror != nil {
		err = g.mirror.Close()
	}
	if g.network.Name != "" {
		err = errors.Join(err, g.engine.RemoveNetwork(ctx, g.network.Name))
	}
	return err
}

// ProbeImage is the image of the project's own program that probes serve and ask
// with. It is served from here, by whatever tag.
const ProbeImage = "registry.internal/flux-platform-conformance/app:probe"
