//go:build live && linux

package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// roleVariable makes the test binary a process that makes a cluster.
const roleVariable = "KIND_TEST_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(roleVariable)
	if root == "" {
		os.Exit(m.Run())
	}
	if err := playSupervisor(root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// playSupervisor makes a session and a cluster until it is killed.
func playSupervisor(root string) error {
	ctx := context.Background()
	s, err := session.New(ctx, root)
	if err != nil {
		return err
	}
	fmt.Println(s.ID())
	name, value, _ := strings.Cut(s.Marker(), "=")
	if err := os.Setenv(name, value); err != nil {
		return err
	}
	engine, err := Preflight(ctx, PreflightOptions{Nodes: 2, Image: nodeImage, Record: s.Record})
	if err != nil {
		return err
	}
	network, err := engine.CreateNetwork(ctx, "fpc-"+s.ID())
	if err != nil {
		return err
	}
	provider := Provider{Engine: engine, Network: network, Image: nodeImage, ProbeImage: probeName, Config: []byte(twoNodes)}
	_, err = provider.Create(ctx, cluster.Spec{
		Name: "prd", Dir: s.Dir() + "/cluster", Ports: s.Port, Marker: s.Marker(),
		Recognize: func(string) (string, bool) { return "", false },
	})
	if err == nil {
		err = errors.New("the cluster is there, and nobody killed its maker")
	}
	return err
}

// foreign makes a container of somebody else's cluster of that name, on a network of
// its own.
func foreign(t *testing.T, name string) (stillRuns func() (string, error)) {
	t.Helper()
	g := NewWithT(t)
	d := dockerInEffect()
	network := "foreign-" + name
	t.Cleanup(func() {
		_, err := d.run(context.Background(), "rm", "--force", "--volumes", network)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = d.run(context.Background(), "network", "rm", network)
		g.Expect(err).NotTo(HaveOccurred())
	})
	_, err := d.run(t.Context(), "network", "create", network)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = d.run(t.Context(), "run", "--detach", "--name", network, "--network", network, "--label", clusterLabel+"="+name, "--entrypoint", "sleep", nodeImage, "600")
	g.Expect(err).NotTo(HaveOccurred())
	return func() (string, error) {
		out, err := d.run(context.Background(), "container", "inspect", "--format", "{{.State.Status}}", network)
		return strings.TrimSpace(out), err
	}
}

// TestLiveKilled kills the maker of a cluster while the nodes come up, and has the
// next run remove what it left, and nothing else.
func TestLiveKilled(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	maker := exec.Command(os.Args[0])
	maker.Env = append(os.Environ(), roleVariable+"="+root)
	out, err := maker.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	var said strings.Builder
	maker.Stderr = &said
	g.Expect(maker.Start()).To(Succeed())
	t.Cleanup(func() {
		_ = maker.Process.Kill()
		_ = maker.Wait()
		_, err := session.Clean(context.Background(), root)
		g.Expect(err).NotTo(HaveOccurred())
	})
	var id string
	_, err = fmt.Fscanln(out, &id)
	g.Expect(err).NotTo(HaveOccurred(), said.String())
	name := clusterName("fpc-"+id, "prd")
	d := dockerInEffect()
	g.Eventually(func() ([]container, error) { return d.own(t.Context(), name, "fpc-"+id) }).WithTimeout(time.Minute).Should(HaveLen(2), said.String())
	c := &running{docker: d, name: name, provider: Provider{Network: Network{Name: "fpc-" + id}}}
	volumes := c.volumes(t)
	g.Expect(volumes).NotTo(BeEmpty())
	stillRuns := foreign(t, name)

	g.Expect(maker.Process.Kill()).To(Succeed())
	_ = maker.Wait()
	g.Expect(left(t, id)).NotTo(BeEmpty())

	entries, err := session.ReadLedger(root + "/sessions/" + id)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(entries).To(ContainElements(HaveField("Kind", entryTrial), HaveField("Kind", entryNetwork), HaveField("Kind", entryCluster)))
	t.Run("without the daemon", func(t *testing.T) {
		g := NewWithT(t)
		fakeDocker(t, "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?' >&2; exit 1")
		removals, err := session.ReapStale(t.Context(), root)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(removals).To(HaveLen(1))
		g.Expect(removals[0].String()).To(And(ContainSubstring("it stays until what it left can be taken down"), ContainSubstring("start it again")))
		t.Log(removals[0])
	})

	removals, err := session.ReapStale(t.Context(), root)

	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(removals).To(HaveLen(1))
	t.Log(removals[0])
	g.Expect(removals[0].String()).To(And(
		ContainSubstring("removed the containers "+name+"-control-plane, "+name+"-worker with their volumes"),
		ContainSubstring("the Docker network fpc-"+id)))
	g.Expect(left(t, id)).To(ConsistOf(HavePrefix("container foreign-"), HavePrefix("network foreign-")))
	for _, volume := range volumes {
		_, err := d.run(t.Context(), "volume", "inspect", volume)
		g.Expect(err).To(MatchError(ContainSubstring("o such volume")))
	}
	g.Expect(stillRuns()).To(Equal("running"))
}

// TestLiveRefused leaves somebody else's cluster of the same name alone.
func TestLiveRefused(t *testing.T) {
	g := NewWithT(t)
	s := newSession(t)
	p := newProvider(t, s, 1)
	stillRuns := foreign(t, clusterName(p.Network.Name, "dev"))

	_, err := p.Create(t.Context(), newSpec(t, s, "dev"))

	g.Expect(err).To(MatchError(And(ContainSubstring("are there already"), ContainSubstring("were left alone"), ContainSubstring("kind delete cluster"))))
	g.Expect(stillRuns()).To(Equal("running"))
	_, err = p.Engine.CreateNetwork(t.Context(), p.Network.Name)
	g.Expect(err).To(MatchError(ContainSubstring("one of that name is there and is not ours")))
}

// TestLiveBroken ends a creation in every way that is not success.
func TestLiveBroken(t *testing.T) {
	g := NewWithT(t)
	s := newSession(t)
	p := newProvider(t, s, 1)
	empty := func(t *testing.T) {
		t.Helper()
		found, err := dockerInEffect().containers(t.Context(), clusterName(p.Network.Name, "dev"))
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		NewWithT(t).Expect(found).To(BeEmpty())
	}

	t.Run("no image", func(t *testing.T) {
		g := NewWithT(t)
		wrong := p
		wrong.Image = "127.0.0.1:9/nothing:1"
		_, err := wrong.Create(t.Context(), newSpec(t, s, "dev"))
		g.Expect(err).To(MatchError(ContainSubstring("pull the node image 127.0.0.1:9/nothing:1: docker pull")))
		empty(t)
	})

	t.Run("kubeadm fails", func(t *testing.T) {
		g := NewWithT(t)
		wrong := p
		wrong.Config = []byte("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nkubeadmConfigPatches:\n- |\n  kind: ClusterConfiguration\n  kubernetesVersion: nonsense\n")
		spec := newSpec(t, s, "dev")
		_, err := wrong.Create(t.Context(), spec)
		g.Expect(err).To(MatchError(And(ContainSubstring("kind could not make cluster"), ContainSubstring(`"nonsense"`), Not(ContainSubstring("cobra")), ContainSubstring("the nodes' logs are in "+spec.Dir))))
		t.Log(err)
		g.Expect(spec.Dir + "/logs/" + clusterName(p.Network.Name, "dev") + "-control-plane/kubelet.log").To(BeAnExistingFile())
		empty(t)
	})

	t.Run("cancelled", func(t *testing.T) {
		g := NewWithT(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			for ctx.Err() == nil {
				if found, err := dockerInEffect().containers(ctx, clusterName(p.Network.Name, "dev")); err == nil && len(found) > 0 {
					cancel(errors.New("the client is gone"))
				}
			}
		}()
		begun := time.Now()
		_, err := p.Create(ctx, newSpec(t, s, "dev"))
		g.Expect(err).To(MatchError(ContainSubstring("the client is gone")))
		t.Logf("ended after %.1fs: %v", time.Since(begun).Seconds(), err)
		empty(t)
	})
	g.Expect(left(t, s.ID())).To(Equal([]string{"network " + p.Network.Name}))
}

// TestLivePreflight asks the real docker program for a daemon that is not there.
func TestLivePreflight(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	_, err := Preflight(t.Context(), PreflightOptions{Record: func(string, any) error { return nil }})
	g.Expect(err).To(MatchError(And(ContainSubstring("no Docker daemon runs at unix:///nowhere/docker.sock"), ContainSubstring("scripts/docker/start.sh"))))
	t.Log(err)
}
