// Package kind makes clusters of real nodes, each a Docker container, with the
// kind library. Docker is driven by the docker program, as kind itself does, with
// whatever daemon the user's environment leads to.
//
// Everything is written down before it exists, and only that is removed again: the
// containers that carry a cluster's name and are attached to the session's own
// network. A cluster of somebody else is never touched, whatever it is called.
package kind

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kindcluster "sigs.k8s.io/kind/pkg/cluster"
	kindexec "sigs.k8s.io/kind/pkg/exec"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Provider makes clusters out of Docker containers. Engine, Network, Image and
// ProbeImage are required.
type Provider struct {
	// Engine is what Preflight returned, and Network what its CreateNetwork did.
	Engine  Engine
	Network Network
	// Image is the node image. One that the daemon has not is pulled.
	Image string
	// Config is a kind configuration as its user wrote it. Name, image, and the
	// address and port of the API server are ours, whatever it says. Nil: one
	// control plane.
	Config []byte
	// Hosts is a folder of this machine that every node's containerd finds its
	// registries' stand-ins in, in the form of certs.d. It is mounted read-only.
	// Empty: none.
	Hosts string
	// Authority holds certificates, as PEM, that the components of Spec.Environ
	// are to trust. It is required where one of them has a variable
	// SSL_CERT_FILE.
	Authority []byte
	// Repositories are the repository paths, without a registry's host, by which
	// images of a component are recognised; one of several segments also matches
	// below a prefix. It is required for the components of Spec.Environ.
	Repositories func(component string) []string
	// ProbeImage holds the program that probes serve and ask with.
	ProbeImage string
	// Logs is the folder that the nodes' logs are kept in when Create fails.
	// Empty: «logs» in Spec.Dir.
	Logs string
}

var _ cluster.Provider = Provider{}

// Name returns "kind".
func (Provider) Name() string { return "kind" }

func (p Provider) validate(spec cluster.Spec) error {
	problems := []error{spec.Validate()}
	need := func(ok bool, field, why string) {
		if !ok {
			problems = append(problems, fmt.Errorf("%s is required: %s", field, why))
		}
	}
	need(p.Engine.record != nil, "Engine", "Preflight makes it")
	need(p.Network.Name != "", "Network", "nodes are attached to it, and only what is attached to it is removed")
	need(p.Image != "", "Image", "nodes are made from it")
	need(p.ProbeImage != "", "ProbeImage", "probes serve and ask with it")
	return errors.Join(problems...)
}

// Create makes a cluster. It returns when all nodes are Ready and the components of
// spec.Environ are sure to get their variables. When it fails, or ctx ends first,
// nothing of the cluster is left on the daemon; the logs of its nodes are in
// p.Logs then.
func (p Provider) Create(ctx context.Context, spec cluster.Spec) (_ cluster.Cluster, err error) {
	if err := p.validate(spec); err != nil {
		return nil, err
	}
	if spec.Log == nil {
		spec.Log = io.Discard
	}
	spec.Log = cluster.LockedWriter(spec.Log)
	if spec.Dir, err = filepath.Abs(spec.Dir); err != nil {
		return nil, fmt.Errorf("folder of cluster %s: %w", spec.Name, err)
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of cluster %s: %w", spec.Name, err)
	}
	config, err := readConfig(p.Config)
	if err != nil {
		return nil, err
	}
	c := &running{
		provider: p, spec: spec, docker: p.Engine.docker, name: clusterName(p.Network.Name, spec.Name),
		pods: config.Networking.PodSubnet, services: config.Networking.ServiceSubnet,
	}
	there, err := c.docker.containers(ctx, c.name)
	if err != nil {
		return nil, fmt.Errorf("look for containers of cluster %s: %w", c.name, err)
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("containers of a kind cluster %s are there already (%s) and are not ours: they were left alone; remove them with «kind delete cluster --name %s» if nobody needs them", c.name, there[0].Name, c.name)
	}
	entry := clusterEntry{docker: c.docker, Host: p.Engine.Host, Name: c.name, Network: p.Network.Name}
	if err := p.Engine.record(entryCluster, entry); err != nil {
		return nil, fmt.Errorf("write down cluster %s: %w", c.name, err)
	}
	defer func() {
		if err == nil {
			return
		}
		// The caller's context may be what ended Create; clean-up has its own.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if ctx.Err() == nil {
			dir := cmp.Or(p.Logs, filepath.Join(spec.Dir, "logs"))
			if logsErr := c.Logs(undo, dir); logsErr == nil {
				err = fmt.Errorf("%w\nthe nodes' logs are in %s", err, dir)
			} else {
				c.logf("%v", logsErr) // there may be no node yet
			}
		}
		if closeErr := c.Close(undo); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("and then: %w", closeErr))
		}
	}()
	if err := c.create(ctx, config); err != nil {
		return nil, err
	}
	return c, nil
}

// undoLimit bounds what is done after a failed Create.
const undoLimit = 90 * time.Second

// longestName is how long a cluster's name may be: kind adds -control-plane, and
// then it has to be a host name.
const longestName = 63 - len("-control-plane00")

// clusterName is what kind and Docker call a cluster.
func clusterName(network, environment string) string {
	name := network + "-" + environment
	if len(name) <= longestName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimRight(name[:longestName-9], "-.") + "-" + hex.EncodeToString(sum[:4])
}

// running is one cluster.
type running struct {
	provider Provider
	spec     cluster.Spec
	docker   docker
	// name is what kind and Docker call it.
	name string
	// pods and services are the ranges of their addresses.
	pods, services string

	rest    *rest.Config
	client  kubernetes.Interface
	version string

	closing sync.Mutex
	closed  bool
}

func (c *running) Name() string { return c.spec.Name }

func (c *running) Kubeconfig() string { return filepath.Join(c.spec.Dir, "kubeconfig") }

func (c *running) RESTConfig() *rest.Config { return rest.CopyConfig(c.rest) }

func (c *running) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.spec.Log, c.spec.Name+": "+format+"\n", args...)
}

// phase tells in the log how long a step took.
func (c *running) phase(name string, step func() error) error {
	begun := time.Now()
	err := step()
	if err == nil {
		c.logf("%s: %.1fs", name, time.Since(begun).Seconds())
	}
	return err
}

func (c *running) create(ctx context.Context, config *v1alpha4.Cluster) error {
	begun := time.Now()
	if err := c.phase("node image", func() error { return c.havePulled(ctx) }); err != nil {
		return err
	}
	port, err := c.spec.Ports()
	if err != nil {
		return fmt.Errorf("port for the API server of cluster %s: %w", c.spec.Name, err)
	}
	patched := filepath.Join(c.spec.Dir, "patches")
	if err := writePatches(patched); err != nil {
		return err
	}
	machineSpecific(config, c.name, c.provider.Image, c.provider.Hosts, patched, port)
	if err := c.phase("nodes and control plane", func() error { return c.kind(ctx, config) }); err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	if err := c.phase("interception", func() error { return c.intercept(ctx) }); err != nil {
		return fmt.Errorf("interception in cluster %s: %w", c.spec.Name, err)
	}
	if err := c.phase("nodes Ready", func() error { return c.waitReady(ctx, len(config.Nodes)) }); err != nil {
		return err
	}
	c.logf("created in %.1fs", time.Since(begun).Seconds())
	return nil
}

// havePulled pulls the node image where it is not there: kind does so as well, but
// cannot be stopped then.
func (c *running) havePulled(ctx context.Context) error {
	if _, err := c.docker.run(ctx, "image", "inspect", "--format", "{{.Id}}", c.provider.Image); err == nil {
		return nil
	}
	c.logf("pulling the node image %s", c.provider.Image)
	if _, err := c.docker.run(ctx, "pull", "--quiet", c.provider.Image); err != nil {
		return fmt.Errorf("pull the node image %s: %w", c.provider.Image, err)
	}
	return nil
}

// kind has the library make the containers and what runs in them. The library
// knows no context: when ctx ends its containers are removed under its hands until
// it gives up.
func (c *running) kind(ctx context.Context, config *v1alpha4.Cluster) error {
	release, err := lead(c.docker, c.provider.Network.Name)
	if err != nil {
		return err
	}
	defer release()
	log := &logger{log: c.logf}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = kindcluster.NewProvider(kindcluster.ProviderWithDocker(), kindcluster.ProviderWithLogger(log)).Create(c.name,
			kindcluster.CreateWithV1Alpha4Config(config),
			kindcluster.CreateWithRetain(true), // it would remove by name alone
			kindcluster.CreateWithKubeconfigPath(c.Kubeconfig()),
		)
	}()
	select {
	case <-ended:
		if err != nil {
			return fmt.Errorf("kind could not make cluster %s: %w%s", c.name, err, output(err))
		}
		return nil
	case <-ctx.Done():
	}
	undo := context.WithoutCancel(ctx)
	ticker := time.NewTicker(removePoll)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return fmt.Errorf("make cluster %s: %w", c.name, context.Cause(ctx))
		case <-ticker.C:
			// What cannot be removed now, Close tries again and tells.
			_, _ = c.docker.removeContainers(undo, c.name, c.provider.Network.Name)
		}
	}
}

// output is what the command wrote whose failure kind tells of.
func output(err error) string {
	failed := kindexec.RunErrorForError(err)
	if failed == nil || len(failed.Output) == 0 {
		return ""
	}
	return "\n" + reasons(string(failed.Output))
}

// outputLines is how much of a command's output an error holds: kubeadm writes
// hundreds of lines, and the reason last.
const outputLines = 30

// detail are lines that are of no use without the source: what klog calls
// information, and the places of a stack trace.
var detail = regexp.MustCompile(`^(I\d{4} |\t)`)

// reasons are the last lines of an output that tell a person something.
func reasons(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "\t") && len(lines) > 0 {
			lines = lines[:len(lines)-1] // the function that the place is in
		}
		if line != "" && !detail.MatchString(line) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return strings.TrimSpace(output)
	}
	return strings.Join(lines[max(0, len(lines)-outputLines):], "\n")
}

// led is what the environment of this process leads kind to at the moment, and how
// many clusters are being made there. The library looks nowhere else.
var led struct {
	sync.Mutex
	network string
	users   int
}

// lead leads kind to a daemon and a network, until release is called.
func lead(d docker, network string) (release func(), err error) {
	led.Lock()
	defer led.Unlock()
	if led.users > 0 && led.network != network {
		return nil, fmt.Errorf("make a cluster on the network %s: this process makes one on %s, and kind can be led to one network at a time", network, led.network)
	}
	for _, variable := range append(slices.Clone(d.Environ), "KIND_EXPERIMENTAL_DOCKER_NETWORK="+network) {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("lead kind to the network %s: %w", network, err)
		}
	}
	led.network = network
	led.users++
	return func() {
		led.Lock()
		defer led.Unlock()
		led.users--
	}, nil
}

// connect reads the credentials that kind wrote, and compares the API server's
// version with the declared one.
func (c *running) connect(ctx context.Context) error {
	if err := os.Chmod(c.Kubeconfig(), 0o600); err != nil {
		return fmt.Errorf("credentials of cluster %s: %w", c.spec.Name, err)
	}
	var err error
	if c.rest, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig()); err != nil {
		return fmt.Errorf("credentials of cluster %s: %w", c.spec.Name, err)
	}
	c.rest.QPS = -1 // no limit on the client's side
	if c.client, err = kubernetes.NewForConfig(c.rest); err != nil {
		return fmt.Errorf("client for cluster %s: %w", c.spec.Name, err)
	}
	err = wait.PollUntilContextTimeout(ctx, pollInterval, readyLimit, true, func(context.Context) (bool, error) {
		served, err := c.client.Discovery().ServerVersion()
		if err != nil {
			c.logf("the API server does not answer yet: %v", err)
			return false, nil
		}
		c.version = served.GitVersion
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("ask the API server of cluster %s for its version: %w", c.spec.Name, err)
	}
	if err := compareVersions(c.spec.Version, c.version); err != nil {
		return fmt.Errorf("cluster %s, made from node image %s: %w", c.spec.Name, c.provider.Image, err)
	}
	if c.spec.Version != "" && c.spec.Version != c.version {
		c.logf("the API server is %s, declared is %s: another patch level of the same minor", c.version, c.spec.Version)
	}
	return nil
}

// compareVersions refuses another minor than the declared one.
func compareVersions(declared, served string) error {
	if declared == "" {
		return nil
	}
	wanted, err := semver.NewVersion(declared)
	if err != nil {
		return fmt.Errorf("the declared version %q: %w", declared, err)
	}
	found, err := semver.NewVersion(served)
	if err != nil {
		return fmt.Errorf("the API server's version %q: %w", served, err)
	}
	if wanted.Major() != found.Major() || wanted.Minor() != found.Minor() {
		return fmt.Errorf("the API server is %s, but %s is declared, which is another minor: give a node image of that one", served, declared)
	}
	return nil
}

const (
	pollInterval = 250 * time.Millisecond
	// readyLimit bounds the wait for what comes within seconds on a quiet machine.
	readyLimit = 4 * time.Minute
)

// waitReady waits until all nodes take pods.
func (c *running) waitReady(ctx context.Context, nodes int) error {
	last := ""
	err := wait.PollUntilContextTimeout(ctx, pollInterval, readyLimit, true, func(ctx context.Context) (bool, error) {
		list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		var waiting []string
		switch {
		case err != nil:
			waiting = []string{err.Error()}
		case len(list.Items) < nodes:
			waiting = []string{fmt.Sprintf("%d of %d nodes have joined", len(list.Items), nodes)}
		default:
			for i := range list.Items {
				waiting = append(waiting, notReady(&list.Items[i])...)
			}
		}
		if now := strings.Join(waiting, "; "); now != last {
			last = now
			if now != "" {
				c.logf("waiting: %s", now)
			}
		}
		return len(waiting) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the nodes of cluster %s: %w: %s", c.spec.Name, err, last)
	}
	return nil
}

// notReady says why a node takes no pods.
func notReady(node *corev1.Node) []string {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return []string{fmt.Sprintf("node %s is not Ready: %s: %s", node.Name, condition.Reason, condition.Message)}
		}
	}
	return []string{fmt.Sprintf("node %s has not said whether it is Ready", node.Name)}
}

// Close removes the cluster's containers with what they wrote, waits until they are
// gone, and removes the credentials. The network is the session's.
func (c *running) Close(ctx context.Context) error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return nil
	}
	begun := time.Now()
	if _, err := c.docker.removeContainers(ctx, c.name, c.provider.Network.Name); err != nil {
		return fmt.Errorf("close cluster %s: %w", c.spec.Name, err)
	}
	if err := os.Remove(c.Kubeconfig()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("close cluster %s: %w", c.spec.Name, err)
	}
	c.closed = true
	c.logf("removed in %.1fs", time.Since(begun).Seconds())
	return nil
}
