package kind

import (
	"bytes"
	"debug/elf"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	. "github.com/onsi/gomega"
)

// fakeMachine has what a test gives it.
type fakeMachine struct {
	bytes    int64
	settings map[string]int64
}

func (m fakeMachine) free(string) (int64, bool, error) { return m.bytes, true, nil }

func (m fakeMachine) setting(path string) (int64, bool, error) {
	value, known := m.settings[path]
	return value, known, nil
}

var roomy = fakeMachine{bytes: 1 << 40, settings: map[string]int64{"fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524288}}

// goodDocker answers as a daemon that clusters can be made on; a test puts its own
// cases before.
const goodDocker = `case "$*" in
"context show") echo default;;
"context inspect"*) echo unix:///var/run/docker.sock;;
info*) echo '{"ServerVersion":"27.0","DockerRootDir":"/data","CgroupVersion":"2","Architecture":"x86_64","NCPU":4,"MemTotal":68719476736}';;
"network create"*) echo 0123;;
"network ls"*) name=${5#name=}; echo "0123 $name";;
"network inspect --format"*) echo "$name" ;;
"network inspect"*) echo '[{"Name":"n","Id":"0123","IPAM":{"Config":[{"Subnet":"127.0.0.0/8","Gateway":"127.0.0.1"}]}}]';;
"image import"*) cat >"$DIR/image.tar";;
esac`

func TestPreflight(t *testing.T) {
	const unreachable = `echo 'Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?' >&2; exit 1`
	for _, row := range []struct {
		name, cases string
		machine     fakeMachine
		nodes       int
		want        []string
		none        string
	}{
		{name: "all is well", machine: roomy},
		{
			name: "not running", machine: roomy, cases: `info*) ` + unreachable + `;;`,
			want: []string{"no Docker daemon runs at unix:///var/run/docker.sock", "systemctl start docker", "scripts/docker/start.sh", "docker info", "Is the docker daemon running"},
		},
		{
			name: "an old program that ends well", machine: roomy, cases: `info*) echo '{"ServerErrors":["Cannot connect"]}';;`,
			want: []string{"no Docker daemon runs", "it names no server", "Cannot connect"},
		},
		{
			name: "no permission", machine: roomy, cases: `info*) echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1;;`,
			want: []string{"this user may not talk to the Docker daemon at unix:///var/run/docker.sock", "usermod --append --groups docker", "permission denied while trying"},
		},
		{
			name: "privileged containers refused, and little disk, and low limits", nodes: 3,
			machine: fakeMachine{bytes: 1 << 30, settings: map[string]int64{"fs/inotify/max_user_instances": 100, "fs/inotify/max_user_watches": 2000}},
			cases:   `run*) echo 'unable to apply caps: operation not permitted' >&2; exit 125;; "image inspect"*) exit 1;;`,
			want: []string{
				"run a privileged container", "docker run --rm", "unable to apply caps: operation not permitted", "scripts/docker/start.sh",
				"has 1.0 GiB left in /data, needed are 8.0 GiB", "docker system prune",
				"fs.inotify.max_user_instances is 100, but 3 nodes need 120", "sysctl fs.inotify.max_user_instances=512",
				"fs.inotify.max_user_watches is 2000, but 3 nodes need 3000",
			},
		},
		{
			name: "enough for a node image that is there", nodes: 3, machine: fakeMachine{bytes: 7 << 30},
		},
		{
			name: "little memory", machine: roomy, nodes: 3, cases: `info*) echo '{"ServerVersion":"27.0","DockerRootDir":"/data","CgroupVersion":"2","Architecture":"x86_64","NCPU":4,"MemTotal":4294967296}';;`,
			want: []string{"has 4.0 GiB of memory, needed are 6.0 GiB: 3 nodes of 2.0 GiB each", "ENVS=NAME"},
		},
		{
			name: "elsewhere", machine: roomy, cases: `"network inspect 0123") echo '[{"IPAM":{"Config":[{"Subnet":"192.0.2.0/24","Gateway":"192.0.2.1"}]}}]';;`,
			want: []string{"the gateway 192.0.2.1 of the daemon's network is no address of this machine", "scripts/docker/start.sh"},
		},
		{
			name: "no addresses left", machine: roomy, cases: `"network create"*) echo 'could not find an available, non-overlapping IPv4 address pool' >&2; exit 1;;`,
			want: []string{"address pools are used up", "docker network prune"},
		},
		{
			name: "another machine's programs", machine: roomy, cases: `info*) echo '{"ServerVersion":"27.0","Architecture":"s390x"}';;`,
			want: []string{"the Docker daemon runs on s390x", "x86_64 and aarch64"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			for _, name := range leading {
				t.Setenv(name, "")
			}
			cases := `case "$*" in ` + row.cases + ` *) false;; esac && exit 0
` + goodDocker
			if row.cases == "" {
				cases = goodDocker
			}
			calls := fakeDocker(t, cases)
			var recorded []string
			options := PreflightOptions{Nodes: row.nodes, Image: "node:1", Record: func(kind string, detail any) error {
				g.Expect(linesOf(g, calls)).NotTo(ContainElement(HavePrefix("network create")), "written down before it exists")
				recorded = append(recorded, kind)
				return nil
			}}

			engine, err := preflight(t.Context(), options, row.machine)

			if row.want == nil {
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(engine.Host).To(Equal("unix:///var/run/docker.sock"))
				g.Expect(engine.docker.Environ).To(Equal([]string{"DOCKER_CONTEXT=default"}))
				g.Expect(engine.Memory).To(Equal(int64(64 << 30)))
				g.Expect(recorded).To(Equal([]string{entryTrial}))
				g.Expect(linesOf(g, calls)).To(ContainElements(HavePrefix("container rm --force --volumes fpc-trial-"), HavePrefix("image rm fpc-trial-")))
				return
			}
			for _, want := range row.want {
				g.Expect(err).To(MatchError(ContainSubstring(want)))
			}
		})
	}
}

func TestPreflightWithoutDocker(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("PATH", t.TempDir())

	_, err := Preflight(t.Context(), PreflightOptions{Record: func(string, any) error { return nil }})

	g.Expect(err).To(MatchError(And(ContainSubstring("the docker program is not there"), ContainSubstring("scripts/docker/start.sh"))))
}

func TestPreflightWithoutALedger(t *testing.T) {
	g := NewWithT(t)
	calls := fakeDocker(t, goodDocker)
	_, err := Preflight(t.Context(), PreflightOptions{})
	g.Expect(err).To(MatchError(ContainSubstring("give Record")))
	g.Expect(calls).NotTo(BeAnExistingFile())

	written := errors.New("the disk is full")
	_, err = Preflight(t.Context(), PreflightOptions{Record: func(string, any) error { return written }})
	g.Expect(err).To(MatchError(written))
	g.Expect(linesOf(g, calls)).NotTo(ContainElement(Or(HavePrefix("network create"), HavePrefix("image import"))))
}

func TestTrialProgramEndsWell(t *testing.T) {
	g := NewWithT(t)
	for arch, machine := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64} {
		data, err := trialProgram(arch)
		g.Expect(err).NotTo(HaveOccurred())
		file, err := elf.NewFile(bytes.NewReader(data))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(file.Machine).To(Equal(machine))
		g.Expect(file.Type).To(Equal(elf.ET_EXEC))
		g.Expect(file.Progs).To(HaveLen(1))
		g.Expect(file.Progs[0].Filesz).To(Equal(uint64(len(data))))
		g.Expect(file.Entry).To(BeNumerically("<", file.Progs[0].Vaddr+file.Progs[0].Filesz))
		if runtime.GOOS == "linux" && (arch == "x86_64") == (runtime.GOARCH == "amd64") {
			program := filepath.Join(t.TempDir(), "true")
			g.Expect(os.WriteFile(program, data, 0o700)).To(Succeed())
			g.Expect(exec.Command(program).Run()).To(Succeed())
		}
	}
}

func TestReachableIsAnAddressOfThisMachine(t *testing.T) {
	g := NewWithT(t)
	g.Expect(reachable("127.0.0.1")).To(Succeed())
	g.Expect(net.ParseIP("192.0.2.1")).NotTo(BeNil())
	g.Expect(reachable("192.0.2.1")).To(MatchError(ContainSubstring("no address of this machine")))
}
