package kind

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// PreflightOptions say what is about to be made.
type PreflightOptions struct {
	// Nodes is how many nodes all clusters have together; 0 is one.
	Nodes int
	// Image is the node image. Where the daemon has it, the disk need not hold it
	// once more. Empty: it is not there.
	Image string
	// Record writes down what is about to be made on the daemon, the Engine's own
	// networks and clusters included. Required.
	Record func(kind string, detail any) error
}

// What nodes take: kind v0.33 with Kubernetes v1.36 and the reference platform, with
// room to spare.
const (
	// imageBytes is what a node image takes on the daemon's disk; 0.9 GB was seen.
	imageBytes = 2 << 30
	// nodeBytes is what one node writes: the images that it pulls, etcd, logs; 1.2 GB
	// was seen.
	nodeBytes = 2 << 30
	// nodeMemory is what the programs of one node and of its pods take.
	nodeMemory = 2 << 30
	// nodeInstances and nodeWatches are the inotify instances and watches that the
	// processes of one node hold; 26 and 420 were seen.
	nodeInstances = 40
	nodeWatches   = 1000
)

const (
	// answerLimit is how long the daemon may take to say who it is.
	answerLimit = 20 * time.Second
	// trialLimit bounds the privileged container, which ends by itself at once.
	trialLimit = time.Minute
)

// Preflight finds out whether clusters can be made on the daemon that the docker
// program leads to, before anything is made there. Whatever is in the way is in
// the error, with what was tried, what was seen, and what to do about it; where
// several things are, all of them, as far as they can be told apart. What it tries
// out is gone when it returns.
func Preflight(ctx context.Context, options PreflightOptions) (Engine, error) {
	engine, err := preflight(ctx, options, machine{})
	if err != nil {
		return Engine{}, fmt.Errorf("make clusters with kind: %w", err)
	}
	return engine, nil
}

func preflight(ctx context.Context, options PreflightOptions, machine limits) (Engine, error) {
	if options.Record == nil {
		return Engine{}, errors.New("nowhere to write down what is made: give Record")
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return Engine{}, fmt.Errorf("the docker program is not there (%w): install Docker; on Debian %s does so and starts a daemon", err, startScript)
	}
	engine := Engine{docker: dockerInEffect(), record: options.Record}
	if err := engine.meet(ctx); err != nil {
		return Engine{}, err
	}
	var findings []error
	add := func(err error) {
		if err != nil {
			findings = append(findings, err)
		}
	}
	add(engine.try(ctx))
	nodes := max(options.Nodes, 1)
	add(engine.checkDisk(ctx, machine, nodes, options.Image))
	add(checkInotify(machine, nodes))
	add(engine.checkMemory(nodes))
	if ctx.Err() != nil {
		return Engine{}, context.Cause(ctx)
	}
	return engine, errors.Join(findings...)
}

// meet finds out what the daemon is.
func (e *Engine) meet(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer within %s", answerLimit))
	defer cancel()
	// An old docker program knows no contexts, and then there is only one address.
	if name, err := e.docker.run(limited, "context", "show"); err == nil && len(e.docker.Environ) == 0 {
		// What the user chose for good may be another by the time of the clean-up.
		e.docker.Environ = []string{"DOCKER_CONTEXT=" + strings.TrimSpace(name)}
	}
	if host, err := e.docker.run(limited, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"); err == nil {
		e.Host = strings.TrimSpace(host)
	}
	out, err := e.docker.run(limited, "info", "--format", "{{json .}}")
	var info struct {
		ServerVersion, DockerRootDir, CgroupVersion, Architecture string
		NCPU                                                      int
		MemTotal                                                  int64
		ServerErrors                                              []string
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &info)
	}
	if err == nil && info.ServerVersion == "" {
		// Some docker programs end well although no daemon answers.
		err = &commandError{args: []string{"info"}, err: errors.New("it names no server"), output: strings.Join(info.ServerErrors, "; ")}
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case said(err, "permission denied"):
		return fmt.Errorf("this user may not talk to the Docker daemon at %s: add the user to the group that owns the socket («sudo usermod --append --groups docker $USER», then log in anew), or run as root: %w", e.Host, err)
	case limited.Err() != nil:
		return fmt.Errorf("the Docker daemon at %s does not answer: look at its log («journalctl --unit docker»), start it again, or start one of its own for the suite with %s: %w", e.Host, startScript, err)
	default:
		return fmt.Errorf("no Docker daemon runs at %s: start it («sudo systemctl start docker»), let DOCKER_HOST or «docker context use» lead to one that runs, or start one of its own for the suite with %s: %w", e.Host, startScript, err)
	}
	e.Version, e.Root, e.Cgroup = info.ServerVersion, info.DockerRootDir, "v"+info.CgroupVersion
	e.CPUs, e.Memory, e.arch = info.NCPU, info.MemTotal, info.Architecture
	return nil
}

// try makes a network as a session's, and runs a privileged container, as each
// node is one.
func (e Engine) try(ctx context.Context) (err error) {
	program, err := trialProgram(e.arch)
	if err != nil {
		return err
	}
	random := make([]byte, 6)
	_, _ = rand.Read(random) // It never fails: crypto/rand.
	name := "fpc-trial-" + hex.EncodeToString(random)
	if err := e.record(entryTrial, trialEntry{docker: e.docker, Host: e.Host, Name: name}); err != nil {
		return err
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialLimit)
		defer cancel()
		if _, removeErr := e.docker.removeTrial(undo, name); removeErr != nil {
			err = errors.Join(err, removeErr)
		}
	}()
	limited, cancel := context.WithTimeoutCause(ctx, trialLimit, fmt.Errorf("no end within %s", trialLimit))
	defer cancel()
	return errors.Join(e.tryNetwork(limited, name), e.tryPrivileged(limited, name, program))
}

func (e Engine) tryNetwork(ctx context.Context, name string) error {
	network, err := e.docker.createNetwork(ctx, name)
	if err != nil {
		return fmt.Errorf("make a network on the Docker daemon at %s: %w", e.Host, err)
	}
	return reachable(network.Gateway)
}

func (e Engine) tryPrivileged(ctx context.Context, name string, program []byte) error {
	if _, err := e.docker.feed(ctx, bytes.NewReader(archive("true", program)), "image", "import", "-", name); err != nil {
		return fmt.Errorf("give the Docker daemon at %s an image of a few hundred bytes: look at its log and at its disk (%s): %w", e.Host, e.Root, err)
	}
	_, err := e.docker.run(ctx, "run", "--rm", "--name", name, "--privileged", "--cgroupns=private", "--network=none",
		"--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--tmpfs=/tmp", name, "/true")
	if err != nil {
		return fmt.Errorf("run a privileged container, as every node is one: the Docker daemon at %s refuses; where the machine itself lacks a capability («unable to apply caps») "+
			"start a daemon that does without with %s, where a policy forbids it (rootless, user namespaces, an authorisation plug-in) use another daemon: %w", e.Host, startScript, err)
	}
	return nil
}

// archive is a tar file with one program.
func archive(name string, program []byte) []byte {
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	// A buffer takes everything.
	_ = writer.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(program)), Format: tar.FormatUSTAR})
	_, _ = writer.Write(program)
	_ = writer.Close()
	return out.Bytes()
}

// trialProgram is a program that ends at once without an error: an ELF header, one
// segment that holds the whole file, and the system call exit(0).
func trialProgram(arch string) ([]byte, error) {
	var machine uint16
	var code []byte
	switch arch {
	case "x86_64", "amd64":
		machine = 62
		code = []byte{0x31, 0xff, 0xb8, 0x3c, 0x00, 0x00, 0x00, 0x0f, 0x05} // xor edi,edi; mov eax,60; syscall
	case "aarch64", "arm64":
		machine = 183
		code = []byte{0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4} // mov x0,#0; mov x8,#93; svc #0
	default:
		return nil, fmt.Errorf("the Docker daemon runs on %s: there are node images for x86_64 and aarch64 only", arch)
	}
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	var out bytes.Buffer
	for _, field := range []any{
		[]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		uint16(2), machine, uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000),
		code,
	} {
		_ = binary.Write(&out, binary.LittleEndian, field) // a buffer takes everything
	}
	return out.Bytes(), nil
}

// limits tells what this machine has to give.
type limits interface {
	// free is how many bytes the user may still write below a folder; known is
	// false where the folder is not to be seen from here.
	free(folder string) (bytes int64, known bool, err error)
	// setting is a number of the kernel by its path below /proc/sys; known is false
	// where the kernel has no such number.
	setting(path string) (value int64, known bool, err error)
}

// checkDisk compares the space below the daemon's folder with what nodes write.
func (e Engine) checkDisk(ctx context.Context, machine limits, nodes int, image string) error {
	need := int64(nodes) * nodeBytes
	what := fmt.Sprintf("%d nodes of %s each", nodes, gigabytes(nodeBytes))
	if _, err := e.docker.run(ctx, "image", "inspect", "--format", "{{.Id}}", image); image == "" || err != nil {
		need += imageBytes
		what += " and a node image of " + gigabytes(imageBytes)
	}
	free, known, err := machine.free(e.Root)
	if err != nil {
		return fmt.Errorf("see how much space the Docker daemon has in %s: %w", e.Root, err)
	}
	if !known || free >= need {
		return nil
	}
	return fmt.Errorf("the Docker daemon has %s left in %s, needed are %s: %s; make room («docker system df» says what is in it, «docker system prune» removes what nobody uses), or let the daemon's data-root lie on another disk",
		gigabytes(free), e.Root, gigabytes(need), what)
}

func gigabytes(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

// checkMemory compares what the daemon's machine has with what nodes take: all
// clusters are up at the same time.
func (e Engine) checkMemory(nodes int) error {
	need := int64(nodes) * nodeMemory
	if e.Memory >= need {
		return nil
	}
	return fmt.Errorf("the Docker daemon at %s has %s of memory, needed are %s: %d nodes of %s each; bring up fewer environments at once (ENVS=NAME), or let the daemon's machine have more",
		e.Host, gigabytes(e.Memory), gigabytes(need), nodes, gigabytes(nodeMemory))
}

// checkInotify compares the kernel's limits with what nodes use.
func checkInotify(machine limits, nodes int) error {
	var findings []error
	for _, limit := range []struct {
		name string
		each int64
	}{{"max_user_instances", nodeInstances}, {"max_user_watches", nodeWatches}} {
		value, known, err := machine.setting("fs/inotify/" + limit.name)
		if err != nil {
			return fmt.Errorf("read the kernel's limit fs.inotify.%s: %w", limit.name, err)
		}
		if need := int64(nodes) * limit.each; known && value < need {
			findings = append(findings, fmt.Errorf("the kernel's limit fs.inotify.%s is %d, but %d nodes need %d: raise it with «sudo sysctl fs.inotify.%s=%d», and for good in a file in /etc/sysctl.d",
				limit.name, value, nodes, need, limit.name, max(4*need, 512)))
		}
	}
	return errors.Join(findings...)
}
