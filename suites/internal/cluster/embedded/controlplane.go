package embedded

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// Addresses of the cluster come from 198.18.0.0/15, which RFC 2544 sets aside
// for benchmarks: no network routes it, so an address that leaks out of the
// cluster reaches nobody. Loopback addresses would not do: EndpointSlices
// refuse them. The API server advertises one of RFC 5737's.
const (
	serviceRange     = "198.18.0.0/16"
	simulatedRange   = "198.19.0.0/17"
	backedRange      = "198.19.128.0/18"
	nodeAddress      = "198.19.255.1"
	advertiseAddress = "192.0.2.1"
)

// The control plane's components, by their name in the store and in kwokctl.
var planeComponents = []struct{ store, kwokctl string }{
	{"etcd", "etcd"},
	{"kube-apiserver", "kube-apiserver"},
	{"kube-controller-manager", "kube-controller-manager"},
	{"kube-scheduler", "kube-scheduler"},
	{"kwok", "kwok-controller"},
}

//go:embed stages.yaml
var stages []byte

// controlPlane is what kwokctl starts and what the API server needs beside it.
type controlPlane struct {
	spec    cluster.Spec
	ports   map[string]int
	started bool

	// mu guards what the watch and a report share.
	mu       sync.Mutex
	pids     map[string]int
	restarts map[string]int
	peaks    map[string]int64
	watching sync.WaitGroup
	egress   *egress
	// most is the largest sum of resident sets that was seen at one time.
	most int64
}

func newControlPlane(spec cluster.Spec) (*controlPlane, error) {
	p := &controlPlane{
		spec:  spec,
		ports: map[string]int{}, pids: map[string]int{}, restarts: map[string]int{}, peaks: map[string]int64{},
	}
	var missing []string
	for _, name := range append([]string{"kwokctl"}, storeNames()...) {
		if spec.Binaries[name] == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("cluster %s: no program for %s: an embedded cluster is made of them", spec.Name, strings.Join(missing, ", "))
	}
	for _, name := range []string{"etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "egress"} {
		port, err := spec.Ports()
		if err != nil {
			return nil, fmt.Errorf("port for %s of cluster %s: %w", name, spec.Name, err)
		}
		p.ports[name] = port
	}
	return p, nil
}

func storeNames() []string {
	var names []string
	for _, c := range planeComponents {
		names = append(names, c.store)
	}
	return names
}

// workdir is where kwokctl keeps this cluster.
func (p *controlPlane) workdir() string {
	return filepath.Join(p.spec.Dir, "kwok", "clusters", p.spec.Name)
}

func (p *controlPlane) kubeconfig() string { return filepath.Join(p.spec.Dir, "kubeconfig") }

func (p *controlPlane) pki(name string) string { return filepath.Join(p.workdir(), "pki", name) }

func (p *controlPlane) pidFile(store string) string {
	return filepath.Join(p.workdir(), "pids", kwokctlName(store)+".pid")
}

func (p *controlPlane) log(component string) string {
	return filepath.Join(p.spec.Dir, "logs", component+".log")
}

// start writes the configuration and lets kwokctl start everything. The API
// server is not waited for.
func (p *controlPlane) start(ctx context.Context) error {
	config, err := p.configuration()
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.configFile(), config, 0o600); err != nil {
		return fmt.Errorf("configuration of cluster %s: %w", p.spec.Name, err)
	}
	if err := os.WriteFile(p.egressFile(), []byte(p.egressConfiguration()), 0o600); err != nil {
		return fmt.Errorf("configuration of cluster %s: %w", p.spec.Name, err)
	}
	// Logs outlive the rest, so kwokctl finds its folder for them led elsewhere.
	if err := os.MkdirAll(p.workdir(), 0o700); err != nil {
		return fmt.Errorf("folder of cluster %s: %w", p.spec.Name, err)
	}
	if err := os.Symlink(filepath.Join(p.spec.Dir, "logs"), filepath.Join(p.workdir(), "logs")); err != nil {
		return fmt.Errorf("logs of cluster %s: %w", p.spec.Name, err)
	}
	p.started = true
	// An empty --kubeconfig keeps kwokctl from adding a context to the user's.
	if err := p.kwokctl(ctx, "create", "cluster", "--name="+p.spec.Name, "--config="+p.configFile(), "--kubeconfig="); err != nil {
		return err
	}
	if err := p.tighten(); err != nil {
		return err
	}
	return p.readPIDs()
}

func (p *controlPlane) configFile() string { return filepath.Join(p.spec.Dir, "kwokctl.yaml") }
func (p *controlPlane) egressFile() string { return filepath.Join(p.spec.Dir, "egress.yaml") }

// kwokctl runs kwokctl with an environment of its own: the processes that it
// starts inherit it, the marker among it.
func (p *controlPlane) kwokctl(ctx context.Context, args ...string) error {
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, p.spec.Binaries["kwokctl"], args...)
	cmd.Dir = p.spec.Dir
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = []string{
		p.spec.Marker,
		"KWOK_WORKDIR=" + filepath.Join(p.spec.Dir, "kwok"),
		"HOME=" + p.spec.Dir,
		"KUBECONFIG=" + filepath.Join(p.spec.Dir, "kubeconfig-of-kwokctl"),
		"PATH=" + filepath.Join(p.spec.Dir, "no-programs"),
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cluster %s: kwokctl %s: %w\n%s%s", p.spec.Name, strings.Join(args, " "), err, output.String(), p.tails())
	}
	return nil
}

// configuration is kwokctl's, with KWOK's own and the stages behind it.
func (p *controlPlane) configuration() ([]byte, error) {
	// kwokctl asks kubectl whether the API server answers, looks for it in PATH
	// and downloads it otherwise. We ask the API server ourselves, so any
	// program that ends well will do in its place.
	placeholder, err := exec.LookPath("true")
	if err != nil {
		return nil, fmt.Errorf("cluster %s: kwokctl needs a program that does nothing: %w", p.spec.Name, err)
	}
	type arg struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	type env struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	type patch struct {
		Name      string `json:"name"`
		ExtraArgs []arg  `json:"extraArgs"`
		ExtraEnvs []env  `json:"extraEnvs,omitempty"`
	}
	patches := []patch{
		// The data end with the session: nothing is gained by flushing them.
		{Name: "etcd", ExtraArgs: []arg{{"unsafe-no-fsync", "true"}}},
		{Name: "kube-apiserver", ExtraArgs: []arg{
			{"advertise-address", advertiseAddress},
			{"service-cluster-ip-range", serviceRange},
			{"egress-selector-config-file", p.egressFile()},
			// Services are resolved to endpoints, which the egress knows.
			{"enable-aggregator-routing", "true"},
		}},
		// There is one of each, so nobody has to be elected.
		{Name: "kube-controller-manager", ExtraArgs: []arg{{"leader-elect", "false"}}},
		{Name: "kube-scheduler", ExtraArgs: []arg{{"leader-elect", "false"}}},
	}
	for i, component := range patches {
		for _, variable := range p.spec.Environ[component.Name] {
			name, value, _ := strings.Cut(variable, "=")
			patches[i].ExtraEnvs = append(patches[i].ExtraEnvs, env{name, value})
		}
	}
	config := map[string]any{
		"apiVersion": "config.kwok.x-k8s.io/v1alpha1",
		"kind":       "KwokctlConfiguration",
		"options": map[string]any{
			"runtime":                     "binary",
			"bindAddress":                 "127.0.0.1",
			"securePort":                  true,
			"kubeApiserverPort":           p.ports["kube-apiserver"],
			"etcdPort":                    p.ports["etcd"],
			"etcdPeerPort":                p.ports["etcd-peer"],
			"kubeControllerManagerPort":   p.ports["kube-controller-manager"],
			"kubeSchedulerPort":           p.ports["kube-scheduler"],
			"kwokControllerPort":          p.ports["kwok"],
			"disableQPSLimits":            true,
			"etcdBinary":                  p.spec.Binaries["etcd"],
			"kubeApiserverBinary":         p.spec.Binaries["kube-apiserver"],
			"kubeControllerManagerBinary": p.spec.Binaries["kube-controller-manager"],
			"kubeSchedulerBinary":         p.spec.Binaries["kube-scheduler"],
			"kwokControllerBinary":        p.spec.Binaries["kwok"],
			"kubectlBinary":               placeholder,
			"cacheDir":                    filepath.Join(p.spec.Dir, "kwok", "cache"),
		},
		"componentsPatches": patches,
	}
	kwok := map[string]any{
		"apiVersion": "config.kwok.x-k8s.io/v1alpha1",
		"kind":       "KwokConfiguration",
		"options": map[string]any{
			"cidr":   simulatedRange,
			"nodeIP": nodeAddress,
			// Handed through kwokctl, KWOK's defaults get lost.
			"podPlayStageParallelism":       8,
			"nodePlayStageParallelism":      2,
			"nodeLeaseParallelism":          2,
			"podsOnNodeSyncParallelism":     2,
			"enablePodsOnNodeSyncListPager": true,
		},
	}
	var document bytes.Buffer
	for _, part := range []any{config, kwok} {
		data, err := yaml.Marshal(part)
		if err != nil {
			return nil, fmt.Errorf("configuration of cluster %s: %w", p.spec.Name, err)
		}
		document.Write(data)
		document.WriteString("---\n")
	}
	document.Write(stages)
	return document.Bytes(), nil
}

// egressConfiguration leads every connection that the API server makes into
// the cluster's network to our egress.
func (p *controlPlane) egressConfiguration() string {
	// Plain HTTP over TCP makes the API server panic (it reads the TLS settings
	// unasked), and the path of a Unix socket may not be long, hence TLS.
	return fmt.Sprintf(`apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
      tcp:
        url: https://127.0.0.1:%d
        tlsConfig:
          caBundle: %s
          clientCert: %s
          clientKey: %s
`, p.ports["egress"], p.pki("ca.crt"), p.pki("admin.crt"), p.pki("admin.key"))
}

// tighten takes the group's rights off the credentials that kwokctl wrote.
func (p *controlPlane) tighten() error {
	for _, path := range []string{
		filepath.Join(p.workdir(), "kubeconfig.yaml"),
		filepath.Join(p.workdir(), "kwok.yaml"),
		p.pki("ca.key"), p.pki("admin.key"),
	} {
		if err := os.Chmod(path, 0o600); err != nil {
			return fmt.Errorf("credentials of cluster %s: %w", p.spec.Name, err)
		}
	}
	return nil
}

// credentials writes the administrator's kubeconfig and returns its settings.
func (p *controlPlane) credentials() (*rest.Config, error) {
	read := func(name string) ([]byte, error) {
		data, err := os.ReadFile(p.pki(name))
		if err != nil {
			return nil, fmt.Errorf("credentials of cluster %s: %w", p.spec.Name, err)
		}
		return data, nil
	}
	ca, err := read("ca.crt")
	if err != nil {
		return nil, err
	}
	cert, err := read("admin.crt")
	if err != nil {
		return nil, err
	}
	key, err := read("admin.key")
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[p.spec.Name] = &clientcmdapi.Cluster{Server: p.server(), CertificateAuthorityData: ca}
	config.AuthInfos[p.spec.Name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[p.spec.Name] = &clientcmdapi.Context{Cluster: p.spec.Name, AuthInfo: p.spec.Name}
	config.CurrentContext = p.spec.Name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", p.spec.Name, err)
	}
	if err := os.WriteFile(p.kubeconfig(), data, 0o600); err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", p.spec.Name, err)
	}
	settings, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", p.spec.Name, err)
	}
	settings.QPS = -1
	return settings, nil
}

func (p *controlPlane) server() string {
	return "https://127.0.0.1:" + strconv.Itoa(p.ports["kube-apiserver"])
}

// waitServed waits until the API server is ready and returns its version. It
// gives up as soon as etcd or the API server has ended.
func (p *controlPlane) waitServed(ctx context.Context, client kubernetes.Interface) (string, error) {
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		for _, name := range []string{"etcd", "kube-apiserver"} {
			if !p.lives(p.pid(name)) {
				return false, fmt.Errorf("%s has ended", name)
			}
		}
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, last = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(asking)
		return last == nil, nil
	})
	if err != nil {
		return "", fmt.Errorf("cluster %s: the API server is not ready: %w\n%s", p.spec.Name, errors.Join(err, last), p.tails())
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return "", fmt.Errorf("version of cluster %s: %w", p.spec.Name, err)
	}
	return version.GitVersion, nil
}

func (p *controlPlane) pid(component string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pids[component]
}

// readPIDs takes over what kwokctl wrote down of the processes it started.
func (p *controlPlane) readPIDs() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range planeComponents {
		data, err := os.ReadFile(p.pidFile(c.store))
		if err != nil {
			return fmt.Errorf("process of %s of cluster %s: %w", c.store, p.spec.Name, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return fmt.Errorf("process of %s of cluster %s: %w", c.store, p.spec.Name, err)
		}
		if before := p.pids[c.store]; before != 0 && before != pid {
			p.restarts[c.store]++
		}
		p.pids[c.store] = pid
	}
	return nil
}

// watch starts again what has ended, as a kubelet does with static pods: a
// controller gives up when the API server takes more than ten seconds to come,
// and a check may kill the API server. Meanwhile it adds up what all processes
// of the cluster take, those that others returns among them. It ends with ctx.
func (p *controlPlane) watch(ctx context.Context, others func() []int) {
	p.watching.Go(func() {
		_ = wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			var ended []string
			for _, name := range storeNames() {
				if !p.lives(p.pid(name)) {
					ended = append(ended, name)
				}
			}
			p.noteMemory(others())
			if len(ended) == 0 {
				return false, nil
			}
			_, _ = fmt.Fprintf(p.spec.Log, "%s: %s has ended and is started again\n", p.spec.Name, strings.Join(ended, ", "))
			for _, name := range ended {
				p.keepLog(name)
				// kwokctl takes a process that nobody has reaped yet for a running
				// one, so it is made to forget it.
				_ = os.Remove(p.pidFile(name))
			}
			err := p.kwokctl(ctx, "start", "cluster", "--name="+p.spec.Name)
			if err == nil {
				err = p.readPIDs()
			}
			if err != nil && ctx.Err() == nil {
				_, _ = fmt.Fprintf(p.spec.Log, "%s: %s\n", p.spec.Name, err)
			}
			return false, nil
		})
	})
}

// keepLog puts the log of a process that has ended aside, since kwokctl starts
// its successor's at the beginning of the same file.
func (p *controlPlane) keepLog(name string) {
	path := p.log(kwokctlName(name))
	p.mu.Lock()
	number := p.restarts[name]
	p.mu.Unlock()
	_ = os.Rename(path, strings.TrimSuffix(path, ".log")+"."+strconv.Itoa(number)+".log")
}

func kwokctlName(store string) string {
	for _, c := range planeComponents {
		if c.store == store {
			return c.kwokctl
		}
	}
	return store
}

// noteMemory looks at what the control plane takes, and at the sum with others.
func (p *controlPlane) noteMemory(others []int) {
	var sum int64
	for _, pid := range others {
		now, _ := memory(pid)
		sum += now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, pid := range p.pids {
		now, peak := memory(pid)
		p.peaks[name] = max(p.peaks[name], peak)
		sum += now
	}
	p.most = max(p.most, sum)
}

// processes reports the control plane, and the most that the whole cluster took.
func (p *controlPlane) processes(others []int) (_ []cluster.Process, most int64) {
	p.noteMemory(others)
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []cluster.Process
	for _, c := range planeComponents {
		process := cluster.Process{
			Component: c.store, Path: p.spec.Binaries[c.store],
			Restarts: p.restarts[c.store], PeakMemory: p.peaks[c.store], Log: p.log(c.kwokctl),
		}
		if pid := p.pids[c.store]; p.lives(pid) {
			process.PID = pid
			process.Running = commandLine(pid)[1:]
		}
		list = append(list, process)
	}
	return list, p.most
}

// serveEgress answers for the cluster's network until ctx ends.
func (p *controlPlane) serveEgress(ctx context.Context, backend func(address string) (string, error)) error {
	cert, err := tls.LoadX509KeyPair(p.pki("admin.crt"), p.pki("admin.key"))
	if err != nil {
		return fmt.Errorf("egress of cluster %s: %w", p.spec.Name, err)
	}
	ca, err := os.ReadFile(p.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("egress of cluster %s: %w", p.spec.Name, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	p.egress, err = serveEgress(ctx, p.ports["egress"], &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}, backend)
	if err != nil {
		return fmt.Errorf("egress of cluster %s: %w", p.spec.Name, err)
	}
	return nil
}

// close kills the control plane and waits until it is gone, its ports with it.
// The watch has to be told to end before, or it would start things again.
func (p *controlPlane) close(ctx context.Context) error {
	p.watching.Wait()
	if !p.started {
		return nil
	}
	pids := p.ownPIDs()
	for _, pid := range pids {
		killGroup(pid)
	}
	// With the API server gone the connections through the egress end.
	if p.egress != nil {
		p.egress.close()
	}
	var left []string
	err := wait.PollUntilContextCancel(ctx, 10*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		left = left[:0]
		for _, pid := range pids {
			if p.lives(pid) {
				left = append(left, "process "+strconv.Itoa(pid))
			}
		}
		for name, port := range p.ports {
			if listening(ctx, port) {
				left = append(left, fmt.Sprintf("port %d of %s", port, name))
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		slices.Sort(left)
		return fmt.Errorf("control plane: still there: %s: %w", strings.Join(left, ", "), err)
	}
	return nil
}

// bin is where kwokctl links the programs that it starts.
func (p *controlPlane) bin() string {
	return filepath.Join(p.workdir(), "bin") + string(filepath.Separator)
}

// lives tells whether a process runs and is one of this control plane: a number
// may have gone to somebody else since it was written down.
func (p *controlPlane) lives(pid int) bool {
	line := commandLine(pid)
	return len(line) > 0 && strings.HasPrefix(line[0], p.bin())
}

// ownPIDs holds every process that runs out of this control plane's folder,
// also one that kwokctl had no time to write down when Create was cut off.
func (p *controlPlane) ownPIDs() []int {
	var pids []int
	for _, pid := range processes() {
		if p.lives(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// listening tells whether anybody accepts connections on a port of 127.0.0.1.
func listening(ctx context.Context, port int) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// restless names a component that keeps ending, if there is one: waiting for it
// would be in vain.
func (p *controlPlane) restless() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, count := range p.restarts {
		if count > 5 {
			return fmt.Errorf("%s has ended %d times", name, count)
		}
	}
	return nil
}

// tails returns the last lines of every log of the control plane, for errors.
func (p *controlPlane) tails() string {
	var text strings.Builder
	for _, c := range planeComponents {
		// The newest log that says anything: a program that has just been started
		// again has said nothing yet.
		logs, _ := filepath.Glob(strings.TrimSuffix(p.log(c.kwokctl), ".log") + "*.log")
		slices.SortFunc(logs, func(a, b string) int { return modified(b).Compare(modified(a)) })
		for _, log := range logs {
			if end := lastLines(log, 5); end != "" {
				fmt.Fprintf(&text, "%s (%s):\n  %s\n", c.store, log, strings.ReplaceAll(end, "\n", "\n  "))
				break
			}
		}
	}
	return text.String()
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
