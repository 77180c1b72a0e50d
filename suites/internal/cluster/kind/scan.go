package kind

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// scanScript prints what a node's kernel says of the processes in pods. It needs a
// shell and base64, which every node image has.
//
//go:embed scan.sh
var scanScript string

// scan is what scanScript printed on one node.
type scan struct {
	// peak is the most memory that the node has used, and source the file that
	// says so.
	peak   int64
	source string
	// containers holds the processes of each container by its ID, the first one,
	// which the container runtime started, in front.
	containers map[string][]*process
}

// process is a process in a container.
type process struct {
	pid, parent int
	started     uint64
	uid, gid    int64
	groups      []int64
	effective   uint64
	permitted   uint64
	bounding    uint64
	noNew       bool
	seccomp     int
	peak        int64
	exe         string
	line        []string
	environ     []string
	mounts      []mount
	// memory is in bytes and cpu in thousandths of a processor; 0 is no limit.
	memory, cpu int64
	// shim says that the container runtime started it.
	shim bool
}

// mount is a mounted file system.
type mount struct {
	point    string
	readOnly bool
}

// scanNode runs the script on a node. The variables of the processes in the
// containers named are printed as well.
func (d docker) scanNode(ctx context.Context, node string, withEnviron []string) (*scan, error) {
	args := append([]string{"exec", "--interactive", node, "sh", "-s", "--"}, withEnviron...)
	out, err := d.feed(ctx, strings.NewReader(scanScript), args...)
	if err != nil {
		return nil, err
	}
	s, err := parseScan(out)
	if err != nil {
		return nil, fmt.Errorf("what node %s says of its processes: %w", node, err)
	}
	return s, nil
}

// parseScan reads what the script printed: lines of a word, the process, and a
// value. Nothing that a container can choose stands there but as base64, or in a
// line of its own behind the word and the process.
func parseScan(out string) (*scan, error) {
	s := &scan{containers: map[string][]*process{}}
	byPID := map[int]*process{}
	in := map[int]string{}
	complete := false
	for line := range strings.Lines(out) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "peak":
			source, value, _ := strings.Cut(rest, " ")
			peak, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("line %q: %w", line, err)
			}
			s.peak, s.source = peak, source
			continue
		case "end":
			complete = true
			continue
		}
		first, value, _ := strings.Cut(rest, " ")
		pid, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		if word == "container" {
			byPID[pid] = &process{pid: pid}
			in[pid] = value
			continue
		}
		p := byPID[pid]
		if p == nil {
			return nil, fmt.Errorf("line %q: of a process that no container was named for", line)
		}
		if err := p.take(word, value); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	if !complete {
		return nil, errors.New("it was cut short")
	}
	for pid, p := range byPID {
		// One that ended while it was looked at has no program any more.
		if p.exe != "" && len(p.line) > 0 {
			s.containers[in[pid]] = append(s.containers[in[pid]], p)
		}
	}
	for _, processes := range s.containers {
		slices.SortFunc(processes, func(a, b *process) int {
			switch {
			case a.shim != b.shim && a.shim:
				return -1
			case a.shim != b.shim:
				return 1
			case a.started != b.started && a.started < b.started:
				return -1
			case a.started != b.started:
				return 1
			}
			return a.pid - b.pid
		})
	}
	return s, nil
}

// take notes one value.
func (p *process) take(word, value string) (err error) {
	switch word {
	case "parent":
		p.shim = value == "containerd-shim"
	case "exe":
		p.exe, err = decode(value)
	case "cmdline":
		var text string
		text, err = decode(value)
		p.line = terminated(text)
	case "environ":
		var text string
		text, err = decode(value)
		p.environ = terminated(text)
	case "stat":
		// The name in brackets may hold anything, and the end of the line even.
		fields := strings.Fields(value[strings.LastIndex(value, ")")+1:])
		p.started = math.MaxUint64
		if len(fields) >= 20 {
			p.started, err = strconv.ParseUint(fields[19], 10, 64)
		}
	case "status":
		err = p.takeStatus(value)
	case "mount":
		err = p.takeMount(value)
	case "memory":
		p.memory, err = limit(value)
	case "cpu":
		quota, period, _ := strings.Cut(value, " ")
		var q, of int64
		if q, err = limit(quota); err == nil && q > 0 {
			if of, err = strconv.ParseInt(period, 10, 64); err == nil && of > 0 {
				p.cpu = q * 1000 / of
			}
		}
	default:
		err = errors.New("unknown word")
	}
	return err
}

func decode(value string) (string, error) {
	data, err := base64.StdEncoding.DecodeString(value)
	return string(data), err
}

// terminated splits what ends in zero bytes.
func terminated(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
}

// limit reads a limit of a control group: «max», −1 and numbers beyond any machine
// are none.
func limit(value string) (int64, error) {
	if value == "max" {
		return 0, nil
	}
	number, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, err
	}
	if number < 0 || number > math.MaxInt64/2 {
		return 0, nil
	}
	return number, nil
}

func (p *process) takeStatus(line string) (err error) {
	name, rest, _ := strings.Cut(line, ":")
	fields := strings.Fields(rest)
	number := func(i int) (value int64) {
		if err == nil && i >= len(fields) {
			err = errors.New("too few fields")
		}
		if err == nil {
			value, err = strconv.ParseInt(fields[i], 10, 64)
		}
		return value
	}
	bits := func() (value uint64) {
		if len(fields) != 1 {
			err = errors.New("not one field")
			return 0
		}
		value, err = strconv.ParseUint(fields[0], 16, 64)
		return value
	}
	switch name {
	case "PPid":
		p.parent = int(number(0))
	case "Uid":
		p.uid = number(1) // real, effective, saved, file system
	case "Gid":
		p.gid = number(1)
	case "Groups":
		p.groups = []int64{}
		for i := range fields {
			p.groups = append(p.groups, number(i))
		}
	case "CapEff":
		p.effective = bits()
	case "CapPrm":
		p.permitted = bits()
	case "CapBnd":
		p.bounding = bits()
	case "NoNewPrivs":
		p.noNew = number(0) == 1
	case "Seccomp":
		p.seccomp = int(number(0))
	case "VmHWM":
		p.peak = number(0) << 10
	}
	return err
}

// takeMount reads a line of mountinfo: ID, parent, device, root, mount point,
// options of the mount, and more.
func (p *process) takeMount(line string) error {
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return errors.New("too few fields")
	}
	p.mounts = append(p.mounts, mount{
		point: unescape(fields[4]), readOnly: slices.Contains(strings.Split(fields[5], ","), "ro"),
	})
	return nil
}

// unescape turns what stands for blanks and the like back.
func unescape(text string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(text)
}

// readOnlyRoot tells whether the root file system cannot be written to. Of several
// mounts on one point the last one is seen.
func (p *process) readOnlyRoot() bool {
	readOnly := false
	for _, m := range p.mounts {
		if m.point == "/" {
			readOnly = m.readOnly
		}
	}
	return readOnly
}

// mountsOn tells whether something is mounted on a path of the container's, in
// which /var/run may be another name of /run.
func (p *process) mountsOn(point string) bool {
	same := func(path string) string {
		if below, ok := strings.CutPrefix(path, "/var/run/"); ok {
			return "/run/" + below
		}
		return path
	}
	return slices.ContainsFunc(p.mounts, func(m mount) bool { return same(m.point) == same(path.Clean(point)) })
}

// wrappers are programs that only start another one and collect what it leaves.
var wrappers = []string{"tini", "tini-static", "dumb-init", "docker-init", "catatonit"}

// program is the process of a container that does its work: the first one, or the
// one that it wraps.
func program(processes []*process) *process {
	p := processes[0]
	for slices.Contains(wrappers, path.Base(p.exe)) {
		i := slices.IndexFunc(processes, func(child *process) bool { return child.parent == p.pid })
		if i < 0 {
			break
		}
		p = processes[i]
	}
	return p
}

// capabilities are the kernel's, by number.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// capabilityNames names the members of a set; one that this program does not know
// has its number.
func capabilityNames(set uint64) []string {
	names := []string{}
	for i := range 64 {
		switch {
		case set&(1<<i) == 0:
		case i < len(capabilities):
			names = append(names, capabilities[i])
		default:
			names = append(names, strconv.Itoa(i))
		}
	}
	return names
}

// seccompName is the kernel's word for a mode.
func seccompName(mode int) string {
	switch mode {
	case 0:
		return "disabled"
	case 1:
		return "strict"
	case 2:
		return "filter"
	}
	return strconv.Itoa(mode)
}
