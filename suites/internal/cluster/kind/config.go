package kind

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	yaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// CheckConfig says what is wrong with a kind configuration that kind itself would
// refuse to read. One that it reads and then finds impossible, Create says.
func CheckConfig(data []byte) error {
	_, err := readConfig(data)
	return err
}

// readConfig reads a configuration as strictly as kind does, which has no such
// function for others. Nothing at all is one control plane.
func readConfig(data []byte) (*v1alpha4.Cluster, error) {
	config := &v1alpha4.Cluster{}
	if data == nil {
		config.APIVersion, config.Kind = "kind.x-k8s.io/v1alpha4", "Cluster"
		v1alpha4.SetDefaultsCluster(config)
		return config, nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(config); err != nil {
		return nil, fmt.Errorf("kind configuration: %w", err)
	}
	if config.APIVersion != "kind.x-k8s.io/v1alpha4" || config.Kind != "Cluster" {
		return nil, fmt.Errorf("kind configuration: apiVersion %q and kind %q: kind reads kind.x-k8s.io/v1alpha4 and Cluster", config.APIVersion, config.Kind)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("kind configuration: more than one document: kind would leave the others aside")
	}
	v1alpha4.SetDefaultsCluster(config)
	planes := 0
	for i, node := range config.Nodes {
		switch node.Role {
		case v1alpha4.ControlPlaneRole:
			planes++
		case v1alpha4.WorkerRole:
		default:
			return nil, fmt.Errorf("kind configuration: node %d has role %q: it is control-plane or worker", i, node.Role)
		}
	}
	if planes == 0 {
		return nil, errors.New("kind configuration: no node has the role control-plane")
	}
	return config, nil
}

// kubelet are settings that make a node of ours start on any machine and keep what
// it has. The user's own patches come after it and win.
const kubelet = `kind: KubeletConfiguration
failCgroupV1: false
serializeImagePulls: false
imageGCHighThresholdPercent: 100
evictionHard:
  imagefs.available: "0%"
  imagefs.inodesFree: "0%"
  memory.available: "0%"
  nodefs.available: "0%"
  nodefs.inodesFree: "0%"
`

// controlPlane makes the programs of a control plane of ours start sooner: nobody
// competes to lead it, none of its first requests is put off, and what etcd holds is
// thrown away with it. A list replaces kind's own, hence the provisioner.
const controlPlane = `kind: ClusterConfiguration
etcd:
  local:
    extraArgs:
    - {name: unsafe-no-fsync, value: "true"}
controllerManager:
  extraArgs:
  - {name: enable-hostpath-provisioner, value: "true"}
  - {name: leader-elect, value: "false"}
  - {name: kube-api-qps, value: "200"}
  - {name: kube-api-burst, value: "400"}
scheduler:
  extraArgs:
  - {name: leader-elect, value: "false"}
`

// patchesPath is where kubeadm on a node looks for patches of what it makes.
const patchesPath = "/kind/patches"

// patches leads kubeadm there.
const patches = `kind: InitConfiguration
patches:
  directory: ` + patchesPath + `
`

// kubeadmPatches are the files there: CoreDNS is asked each second whether it is
// ready, as the first time it is not.
var kubeadmPatches = map[string]string{
	"corednsdeployment+strategic.yaml": `spec:
  template:
    spec:
      containers:
      - name: coredns
        readinessProbe:
          periodSeconds: 1
`,
}

// writePatches writes the patches into a folder.
func writePatches(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the patches for kubeadm: %w", err)
	}
	for name, content := range kubeadmPatches {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write the patches for kubeadm: %w", err)
		}
	}
	return nil
}

// hostsPath is where containerd on a node looks for what stands in for registries.
const hostsPath = "/etc/containerd/certs.d"

// machineSpecific sets in a configuration what differs from machine to machine and
// from session to session.
func machineSpecific(config *v1alpha4.Cluster, name, image, hosts, patched string, port int) {
	config.Name = name
	config.Networking.APIServerAddress = "127.0.0.1"
	config.Networking.APIServerPort = int32(port)
	config.KubeadmConfigPatches = append([]string{kubelet, controlPlane, patches}, config.KubeadmConfigPatches...)
	for i := range config.Nodes {
		config.Nodes[i].Image = image
		mount := func(from, to string) {
			config.Nodes[i].ExtraMounts = append(config.Nodes[i].ExtraMounts, v1alpha4.Mount{HostPath: from, ContainerPath: to, Readonly: true})
		}
		mount(patched, patchesPath)
		if hosts != "" {
			mount(hosts, hostsPath)
		}
	}
}
