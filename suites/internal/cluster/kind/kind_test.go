package kind

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

func TestCreateNamesEverythingThatIsMissing(t *testing.T) {
	g := NewWithT(t)
	_, err := Provider{}.Create(t.Context(), cluster.Spec{})
	for _, word := range []string{"Name", "Dir", "Ports", "Marker", "Engine", "Network", "Image", "ProbeImage"} {
		g.Expect(err).To(MatchError(ContainSubstring(word + " is required")))
	}
	g.Expect(Provider{}.Name()).To(Equal("kind"))
}

func TestConfigIsReadAsStrictlyAsKindReadsIt(t *testing.T) {
	const head = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"
	for _, row := range []struct{ name, config, want string }{
		{"an unknown field", head + "nods: []\n", "field nods not found"},
		{"a wrong type", head + "nodes: 3\n", "cannot unmarshal"},
		{"nothing", "", "EOF"},
		{"another kind", "kind: Pod\napiVersion: v1\n", `apiVersion "v1" and kind "Pod"`},
		{"no version", "kind: Cluster\n", "kind reads kind.x-k8s.io/v1alpha4"},
		{"two documents", head + "---\n" + head, "more than one document"},
		{"an unknown role", head + "nodes:\n- role: master\n", `node 0 has role "master"`},
		{"workers alone", head + "nodes:\n- role: worker\n", "no node has the role control-plane"},
		{"an unknown propagation", head + "nodes:\n- extraMounts:\n  - propagation: Sideways\n", "Sideways"},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(CheckConfig([]byte(row.config))).To(MatchError(And(ContainSubstring("kind configuration"), ContainSubstring(row.want))))
		})
	}
	g := NewWithT(t)
	g.Expect(CheckConfig([]byte(head + "nodes:\n- role: control-plane\n- role: worker\n"))).To(Succeed())
	g.Expect(CheckConfig(nil)).To(Succeed())
}

func TestMachineSpecificSettingsAreOurs(t *testing.T) {
	g := NewWithT(t)
	config, err := readConfig([]byte(`kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: theirs
networking: {apiServerAddress: 0.0.0.0, apiServerPort: 1}
kubeadmConfigPatches: ["kind: KubeletConfiguration\nserializeImagePulls: true\n"]
nodes:
- role: control-plane
  image: theirs
  extraMounts: [{hostPath: /a, containerPath: /b}]
- role: worker
`))
	g.Expect(err).NotTo(HaveOccurred())

	machineSpecific(config, "ours", "node:1", "/session/certs.d", 20001)

	g.Expect(config.Name).To(Equal("ours"))
	g.Expect(config.Networking.APIServerAddress).To(Equal("127.0.0.1"))
	g.Expect(config.Networking.APIServerPort).To(Equal(int32(20001)))
	g.Expect(config.KubeadmConfigPatches).To(HaveExactElements(ContainSubstring("failCgroupV1: false"), ContainSubstring("serializeImagePulls: true")))
	mount := v1alpha4.Mount{HostPath: "/session/certs.d", ContainerPath: "/etc/containerd/certs.d", Readonly: true}
	g.Expect(config.Nodes).To(HaveLen(2))
	for _, node := range config.Nodes {
		g.Expect(node.Image).To(Equal("node:1"))
		g.Expect(node.ExtraMounts).To(ContainElement(mount))
	}
	g.Expect(config.Nodes[0].ExtraMounts).To(HaveLen(2))
}

func TestClusterNameIsAHostName(t *testing.T) {
	g := NewWithT(t)
	const network = "fpc-20261123-134623-b78ffd"
	g.Expect(clusterName(network, "dev")).To(Equal(network + "-dev"))
	long := clusterName(network, strings.Repeat("environment", 5))
	g.Expect(len(long + "-control-plane2")).To(BeNumerically("<=", 63))
	g.Expect(long).To(HavePrefix(network + "-env"))
	g.Expect(clusterName(network, strings.Repeat("environment", 5)+"2")).NotTo(Equal(long))
}

func TestVersionsAreComparedByMinor(t *testing.T) {
	g := NewWithT(t)
	g.Expect(compareVersions("", "v1.36.3")).To(Succeed())
	g.Expect(compareVersions("v1.36.4", "v1.36.3")).To(Succeed())
	g.Expect(compareVersions("v1.37.0", "v1.36.3")).To(MatchError(ContainSubstring("the API server is v1.36.3, but v1.37.0 is declared, which is another minor")))
	g.Expect(compareVersions("latest", "v1.36.3")).To(MatchError(ContainSubstring(`the declared version "latest"`)))
}

func TestReasonsLeaveDetailAside(t *testing.T) {
	g := NewWithT(t)
	g.Expect(reasons("I1123 14:03:28.433599     149 init.go:262] loading\nW1123 14:03:28.4 149 x.go:1] odd\n\nerror: it broke\ngithub.com/some/function\n\tsome/file.go:12\nruntime.main\n\truntime/proc.go:290\n")).
		To(Equal("W1123 14:03:28.4 149 x.go:1] odd\nerror: it broke"))
	g.Expect(reasons("I1123 14:03:28.433599     149 init.go:262] loading\n")).To(ContainSubstring("loading"))
	g.Expect(strings.Split(reasons(strings.Repeat("line\n", 100)), "\n")).To(HaveLen(outputLines))
}

func TestOneNetworkAtATime(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("KIND_EXPERIMENTAL_DOCKER_NETWORK", "")
	first, err := lead(docker{}, "one")
	g.Expect(err).NotTo(HaveOccurred())
	second, err := lead(docker{}, "one")
	g.Expect(err).NotTo(HaveOccurred())
	_, err = lead(docker{}, "two")
	g.Expect(err).To(MatchError(ContainSubstring("one network at a time")))
	first()
	second()
	third, err := lead(docker{}, "two")
	g.Expect(err).NotTo(HaveOccurred())
	third()
	g.Expect(os.Getenv("KIND_EXPERIMENTAL_DOCKER_NETWORK")).To(Equal("two"))
}

// A daemon with two containers of one name, on our network and on another.
const twoClusters = `case "$*" in
version*) echo 27.0;;
"ps --all"*) [ -e "$DIR/removed" ] || echo ours; echo theirs;;
"container inspect ours") echo '[{"Id":"ours","Name":"/c-control-plane","Config":{"Labels":{"io.x-k8s.kind.role":"control-plane"},"Image":"node:1"},"HostConfig":{"NetworkMode":"fpc-1"},"NetworkSettings":{"Networks":{"fpc-1":{}}}}]';;
"container inspect theirs") echo '[{"Id":"theirs","Name":"/theirs","Config":{},"HostConfig":{"NetworkMode":"kind"},"NetworkSettings":{"Networks":{"kind":{}}}}]';;
"container rm --force --volumes ours") touch "$DIR/removed";;
"network ls"*) [ -e "$DIR/networkless" ] || echo "a fpc-1"; echo "b fpc-1"; echo "c fpc-10";;
"network inspect --format"*" a") echo fpc-1;;
"network inspect --format"*" b") echo "<no value>";;
"network rm a") touch "$DIR/networkless";;
*) echo "unexpected: $*" >&2; exit 1;;
esac`

func TestReleaseRemovesOnlyWhatIsOurs(t *testing.T) {
	g := NewWithT(t)
	fakeDocker(t, twoClusters)

	g.Expect(releaseCluster(t.Context(), []byte(`{"name":"c","network":"fpc-1"}`))).To(Equal("the containers c-control-plane with their volumes"))
	g.Expect(releaseCluster(t.Context(), []byte(`{"name":"c","network":"fpc-1"}`))).To(BeEmpty())
	g.Expect(releaseNetwork(t.Context(), []byte(`{"name":"fpc-1"}`))).To(Equal("the Docker network fpc-1"))
	g.Expect(releaseNetwork(t.Context(), []byte(`{"name":"fpc-1"}`))).To(BeEmpty())
}

func TestReleaseSaysThatTheDaemonIsAway(t *testing.T) {
	for name, release := range map[string]func(context.Context) (string, error){
		"cluster": func(ctx context.Context) (string, error) {
			return releaseCluster(ctx, []byte(`{"name":"c","network":"fpc-1","host":"unix:///x"}`))
		},
		"network": func(ctx context.Context) (string, error) {
			return releaseNetwork(ctx, []byte(`{"name":"c","host":"unix:///x"}`))
		},
		"trial": func(ctx context.Context) (string, error) {
			return releaseTrial(ctx, []byte(`{"name":"c","host":"unix:///x"}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDocker(t, `echo 'Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?' >&2; exit 1`)
			_, err := release(t.Context())
			NewWithT(t).Expect(err).To(MatchError(And(ContainSubstring("the Docker daemon at unix:///x does not answer"), ContainSubstring("the next run removes"))))
		})
	}
	_, err := releaseCluster(t.Context(), []byte(`[]`))
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("read what the ledger says")))
}

func TestCreateNetworkLeavesOneOfThatNameAlone(t *testing.T) {
	g := NewWithT(t)
	calls := fakeDocker(t, twoClusters)
	recorded := errors.New("recorded")
	engine := Engine{record: func(string, any) error { return recorded }}
	_, err := engine.CreateNetwork(t.Context(), "fpc-1")
	g.Expect(err).To(MatchError(And(ContainSubstring("one of that name is there"), ContainSubstring("docker network rm fpc-1"))))
	_, err = engine.CreateNetwork(t.Context(), "fpc-2")
	g.Expect(err).To(MatchError(recorded))
	g.Expect(linesOf(g, calls)).NotTo(ContainElement(Or(HavePrefix("network create"), HavePrefix("network rm"))))
}
