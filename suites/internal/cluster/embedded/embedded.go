// Package embedded makes clusters out of processes of this machine: a real
// control plane, made by kwokctl from binaries, and one node that KWOK plays.
// Pods whose images are known components run as host processes of their own,
// with the rights of their own ServiceAccount; every other pod is simulated and
// reported as such. It needs neither Docker nor root nor a network, and nothing
// that it starts listens on another address than 127.0.0.1.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Provider makes embedded clusters. The zero value is ready for use.
type Provider struct{}

var _ cluster.Provider = Provider{}

// Name returns "embedded".
func (Provider) Name() string { return "embedded" }

// Create brings up a control plane and its node. It returns when the API
// server answers, the node takes pods and the controllers work. When it fails,
// or ctx ends first, everything that it had started is gone; files, and logs
// among them, stay in spec.Dir.
func (Provider) Create(ctx context.Context, spec cluster.Spec) (_ cluster.Cluster, err error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if spec.Log == nil {
		spec.Log = io.Discard
	}
	spec.Log = cluster.LockedWriter(spec.Log)
	if spec.Dir, err = filepath.Abs(spec.Dir); err != nil {
		return nil, fmt.Errorf("folder of cluster %s: %w", spec.Name, err)
	}
	for _, dir := range []string{spec.Dir, filepath.Join(spec.Dir, "logs"), filepath.Join(spec.Dir, "pods")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("folder of cluster %s: %w", spec.Name, err)
		}
	}
	rules, err := loadRules()
	if err != nil {
		return nil, err
	}

	c := &embedded{spec: spec}
	defer func() {
		if err == nil {
			return
		}
		// The caller's context may be what ended Create; clean-up has its own.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if closeErr := c.Close(undo); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("and then: %w", closeErr))
		}
	}()

	if c.plane, err = newControlPlane(spec); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := c.plane.start(ctx); err != nil {
		return nil, err
	}
	if c.rest, err = c.plane.credentials(); err != nil {
		return nil, err
	}
	if c.client, err = kubernetes.NewForConfig(c.rest); err != nil {
		return nil, fmt.Errorf("client for cluster %s: %w", spec.Name, err)
	}
	if c.version, err = c.plane.waitServed(ctx, c.client); err != nil {
		return nil, err
	}
	if spec.Version != "" && spec.Version != c.version {
		return nil, fmt.Errorf("cluster %s: the API server is %s, but %s is declared: give a kube-apiserver of that version", spec.Name, c.version, spec.Version)
	}
	_, _ = fmt.Fprintf(spec.Log, "%s: the API server is ready after %.1fs\n", spec.Name, time.Since(begun).Seconds())
	// From here on nobody waits for the caller's context: what runs, runs until
	// Close.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.agent = newAgent(spec, rules, c.client, c.rest)
	c.plane.watch(life, c.agent.pids)
	if err := c.plane.serveEgress(life, c.agent.backend); err != nil {
		return nil, err
	}
	if err := c.agent.start(life); err != nil {
		return nil, err
	}
	if err := waitNode(ctx, c.client, spec.Name, c.plane.restless); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.plane.tails())
	}
	_, _ = fmt.Fprintf(spec.Log, "%s: the node takes pods after %.1fs\n", spec.Name, time.Since(begun).Seconds())
	return c, nil
}

// closeTimeout bounds the clean-up after a failed Create.
const closeTimeout = 30 * time.Second

// embedded is one running cluster.
type embedded struct {
	spec    cluster.Spec
	plane   *controlPlane
	agent   *agent
	rest    *rest.Config
	client  kubernetes.Interface
	version string
	stop    context.CancelFunc

	closing sync.Mutex
	closed  bool
}

func (c *embedded) Name() string { return c.spec.Name }

func (c *embedded) Kubeconfig() string { return c.plane.kubeconfig() }

func (c *embedded) RESTConfig() *rest.Config { return rest.CopyConfig(c.rest) }

// Close kills every process at once: the cluster's data end with it, so there
// is nothing to be orderly about. It then waits until no process and no port is
// left, and removes data and credentials; logs stay.
func (c *embedded) Close(ctx context.Context) error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return nil
	}
	if c.stop != nil {
		c.stop()
	}
	var errs []error
	if c.agent != nil {
		errs = append(errs, c.agent.close(ctx))
	}
	if c.plane != nil {
		errs = append(errs, c.plane.close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close cluster %s: %w", c.spec.Name, err)
	}
	for _, name := range []string{"kwok", "pods", "kubeconfig"} {
		if err := os.RemoveAll(filepath.Join(c.spec.Dir, name)); err != nil {
			errs = append(errs, err)
		}
	}
	c.closed = true
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close cluster %s: %w", c.spec.Name, err)
	}
	return nil
}
