package embedded

import (
	"bytes"
	_ "embed"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

//go:embed overrides.yaml
var overridesYAML []byte

// rules is the override table; overrides.yaml says what each field means.
type rules struct {
	Components map[string]rule `json:"components"`
	Variables  []struct {
		Name string `json:"name"`
		Path string `json:"path"`
	} `json:"variables"`
}

type rule struct {
	Entrypoints []string `json:"entrypoints"`
	Kubeconfig  struct {
		Flag     string `json:"flag"`
		Variable string `json:"variable"`
	} `json:"kubeconfig"`
	Listen []listener `json:"listen"`
	Paths  []struct {
		Flag    string `json:"flag"`
		Default string `json:"default"`
	} `json:"paths"`
	Set []struct {
		Flag     string `json:"flag"`
		Value    string `json:"value"`
		Declared bool   `json:"declared"`
		Reason   string `json:"reason"`
	} `json:"set"`
	Unread []struct {
		Path   string `json:"path"`
		Reason string `json:"reason"`
	} `json:"unread"`
}

type listener struct {
	Flag    string `json:"flag"`
	Default string `json:"default"`
	Form    string `json:"form"`
	Host    string `json:"host"`
	None    string `json:"none"`
}

// loadRules reads the override table strictly.
func loadRules() (*rules, error) {
	var r rules
	if err := yaml.UnmarshalStrict(overridesYAML, &r); err != nil {
		return nil, fmt.Errorf("override table: %w", err)
	}
	for name, rule := range r.Components {
		if (rule.Kubeconfig.Flag == "") == (rule.Kubeconfig.Variable == "") {
			return nil, fmt.Errorf("override table: %s: kubeconfig needs a flag or a variable, and one of them only", name)
		}
		for _, l := range rule.Listen {
			if l.Form != "address" && l.Form != "port" {
				return nil, fmt.Errorf("override table: %s: listen %s: form %q is neither address nor port", name, l.Flag, l.Form)
			}
		}
	}
	return &r, nil
}

// request is what a container declares, and where on this machine things lie.
type request struct {
	component string
	origin    cluster.Origin
	// args and env are those of the pod, with $(VAR) expanded.
	args []string
	env  []variable
	// mounts leads each mounted path to its folder or file.
	mounts []mount
	// root stands for the container's own file system.
	root string
	// kubeconfig holds the identity of the pod.
	kubeconfig string
	// extra are variables beyond the pod's, as NAME=value.
	extra []string
	// marker is the variable that all processes of the session carry.
	marker string
	// port hands out the port that stands for a declared one; it gives the same
	// answer each time.
	port func(declared int) (int, error)
}

// variable is an environment variable of a container.
type variable struct {
	name, value string
	// secret values are kept out of reports.
	secret bool
}

// mount is a volume, or a file of one, in a container.
type mount struct {
	path, host string
	// identity: the ServiceAccount's token lies there.
	identity bool
}

// plan is what a process is given.
type plan struct {
	args, env   []string
	overrides   []cluster.Override
	notHonoured []cluster.NotHonoured
	// ports leads each declared port to that of the process.
	ports map[int]int
	// folders have to exist before the start.
	folders []string
}

const (
	tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// systemPath is what a container's image would set; programs of the suite
	// itself are not to be found by it.
	systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// plan works out how to run a container's program on this machine.
func (r *rules) plan(in request) (*plan, error) {
	rule, ok := r.Components[in.component]
	if !ok {
		return nil, fmt.Errorf("component %s is not in the override table", in.component)
	}
	b := &planner{in: in, plan: &plan{args: slices.Clone(in.args), ports: map[int]int{}}, used: map[string]bool{}}

	if rule.Kubeconfig.Flag != "" {
		b.setFlag(rule.Kubeconfig.Flag, in.kubeconfig, "a host process has no in-cluster configuration; the token in the file is of the pod's own ServiceAccount")
	}
	assigned := map[string]int{}
	for _, l := range rule.Listen {
		port, err := b.listen(l)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", l.Flag, err)
		}
		assigned[l.Flag] = port
	}
	for _, p := range rule.Paths {
		declared, ok := lastFlag(b.in.args, p.Flag)
		if !ok {
			declared = p.Default
		}
		host, mounted := b.hostPath(declared)
		if !mounted {
			host = filepath.Join(in.root, filepath.FromSlash(declared))
			b.folders = append(b.folders, host)
		}
		b.setFlag(p.Flag, host, "the folder "+declared+" of the container lies there on this machine")
	}
	for _, s := range rule.Set {
		if _, ok := lastFlag(in.args, s.Flag); s.Declared && !ok {
			continue
		}
		value, err := render(s.Value, assigned)
		if err != nil {
			return nil, fmt.Errorf("override table: %s: %s: %w", in.component, s.Flag, err)
		}
		b.setFlag(s.Flag, value, s.Reason)
	}
	if err := b.rewriteArgs(); err != nil {
		return nil, err
	}
	b.environment(r, rule)
	b.unused(rule)
	return b.plan, nil
}

// render fills a value of the table.
func render(value string, ports map[string]int) (string, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"port": func(flag string) (int, error) {
			if ports[flag] == 0 {
				return 0, fmt.Errorf("--%s does not listen", flag)
			}
			return ports[flag], nil
		},
	}).Parse(value)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, nil); err != nil {
		return "", err
	}
	return text.String(), nil
}

// planner builds a plan.
type planner struct {
	*plan
	in request
	// used holds the mounts that something was led to.
	used map[string]bool
}

// setFlag gives a flag its value in effect: in its place where the pod declares
// it, else at the end.
func (b *planner) setFlag(name, value, reason string) {
	o := cluster.Override{
		Origin: b.in.origin, Component: b.in.component,
		Kind: cluster.Argument, Name: name, Effective: value, Reason: reason,
	}
	if declared, ok := lastFlag(b.args, name); ok {
		if declared == value {
			return
		}
		o.Declared = &declared
	}
	b.args = replaceFlag(b.args, name, value)
	b.overrides = append(b.overrides, o)
}

// listen moves one listener to 127.0.0.1 and returns its port, 0 when it is off.
func (b *planner) listen(l listener) (int, error) {
	declared, ok := lastFlag(b.in.args, l.Flag)
	if !ok || declared == "" {
		declared = l.Default
	}
	if l.None != "" && declared == l.None {
		return 0, nil
	}
	number := declared
	if l.Form == "address" {
		var err error
		if _, number, err = net.SplitHostPort(declared); err != nil {
			return 0, fmt.Errorf("%q is not an address: %w", declared, err)
		}
	}
	want, err := strconv.Atoi(number)
	if err != nil {
		return 0, fmt.Errorf("%q has no port: %w", declared, err)
	}
	got, err := b.in.port(want)
	if err != nil {
		return 0, err
	}
	b.ports[want] = got
	const reason = "all clusters share this machine's ports; nothing listens beyond 127.0.0.1"
	if l.Form == "address" {
		b.setFlag(l.Flag, net.JoinHostPort("127.0.0.1", strconv.Itoa(got)), reason)
		return got, nil
	}
	b.setFlag(l.Flag, strconv.Itoa(got), reason)
	b.setFlag(l.Host, "127.0.0.1", reason)
	return got, nil
}

// hostPath leads a path of the container to this machine by the mount that it
// lies in.
func (b *planner) hostPath(containerPath string) (string, bool) {
	if !path.IsAbs(containerPath) {
		return "", false
	}
	clean := path.Clean(containerPath)
	var best *mount
	for i, m := range b.in.mounts {
		inside := clean == m.path || strings.HasPrefix(clean, strings.TrimSuffix(m.path, "/")+"/")
		if inside && (best == nil || len(m.path) > len(best.path)) {
			best = &b.in.mounts[i]
		}
	}
	if best == nil {
		return "", false
	}
	b.used[best.path] = true
	return filepath.Join(best.host, filepath.FromSlash(strings.TrimPrefix(clean, best.path))), true
}

// rewriteArgs leads every other argument that names something in a volume there.
func (b *planner) rewriteArgs() error {
	const reason = "the volume lies there on this machine"
	for i := 0; i < len(b.in.args); i++ {
		arg := b.in.args[i]
		name, value, joined := strings.Cut(arg, "=")
		switch {
		case strings.HasPrefix(arg, "-") && joined:
			name = strings.TrimLeft(name, "-")
		case strings.HasPrefix(arg, "-") || i == 0 || !strings.HasPrefix(b.in.args[i-1], "-") || strings.Contains(b.in.args[i-1], "="):
			if _, mounted := b.hostPath(arg); mounted {
				return fmt.Errorf("argument %q names a path in a volume, and is no flag that could be led elsewhere", arg)
			}
			continue
		default:
			name, value = strings.TrimLeft(b.in.args[i-1], "-"), arg
		}
		if slices.ContainsFunc(b.overrides, func(o cluster.Override) bool { return o.Kind == cluster.Argument && o.Name == name }) {
			continue
		}
		if host, mounted := b.hostPath(value); mounted {
			b.setFlag(name, host, reason)
		}
	}
	return nil
}

// environment builds the variables of the process: the pod's, what stands in
// for the container's own, and what the session adds.
func (b *planner) environment(r *rules, rule rule) {
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, there := values[name]; !there {
			order = append(order, name)
		}
		values[name] = value
	}
	declared := map[string]variable{}
	for _, v := range b.in.env {
		declared[v.name] = v
		set(v.name, v.value)
	}
	override := func(name, value, reason string) {
		o := cluster.Override{
			Origin: b.in.origin, Component: b.in.component,
			Kind: cluster.Variable, Name: name, Effective: value, Reason: reason,
		}
		if v, ok := declared[name]; ok {
			if v.value == value {
				return
			}
			o.Declared = &v.value
			if v.secret {
				hidden := "(from a Secret)"
				o.Declared = &hidden
			}
		}
		set(name, value)
		b.overrides = append(b.overrides, o)
	}
	for _, v := range b.in.env {
		if host, mounted := b.hostPath(v.value); mounted && !v.secret {
			override(v.name, host, "the volume lies there on this machine")
		}
	}
	stand := func(name, value, reason string) {
		if _, ok := declared[name]; !ok {
			override(name, value, reason)
		}
	}
	temporary, mounted := b.hostPath("/tmp")
	if !mounted {
		temporary = filepath.Join(b.in.root, "tmp")
	}
	home := filepath.Join(b.in.root, "home")
	b.folders = append(b.folders, temporary, home)
	stand("TMPDIR", temporary, "the container's /tmp lies there on this machine")
	stand("HOME", home, "the container's home lies there on this machine")
	stand("PATH", systemPath, "the image's own PATH is unknown")
	for _, v := range r.Variables {
		if host, mounted := b.hostPath(v.Path); mounted {
			override(v.Name, host, "the volume lies there on this machine")
		}
	}
	if rule.Kubeconfig.Variable != "" {
		override(rule.Kubeconfig.Variable, b.in.kubeconfig, "a host process has no in-cluster configuration; the token in the file is of the pod's own ServiceAccount")
	}
	for _, pair := range b.in.extra {
		name, value, _ := strings.Cut(pair, "=")
		override(name, value, "the session answers for the sources of the platform")
	}
	name, value, _ := strings.Cut(b.in.marker, "=")
	override(name, value, "names the session that the process belongs to")
	for _, name := range order {
		b.env = append(b.env, name+"="+values[name])
	}
}

// unused lists the mounts that nothing was led to: the program would look for
// them in vain.
func (b *planner) unused(rule rule) {
	for _, m := range b.in.mounts {
		if b.used[m.path] || m.identity || m.path == tokenPath {
			continue
		}
		item := cluster.NotHonoured{
			Origin: b.in.origin, Field: "volumeMounts", Declared: m.path, Fatal: true,
			Reason: "nothing tells the program where the volume lies on this machine",
		}
		for _, u := range rule.Unread {
			if u.Path == m.path {
				item.Fatal, item.Reason = false, u.Reason
			}
		}
		b.notHonoured = append(b.notHonoured, item)
	}
}

// lastFlag returns the value of a flag, the last one where it is given more than
// once, as flag parsers do. A flag without a value is "true".
func lastFlag(args []string, name string) (value string, ok bool) {
	for i, arg := range args {
		flag, joinedValue, joined := strings.Cut(arg, "=")
		if flag != "-"+name && flag != "--"+name {
			continue
		}
		switch {
		case joined:
			value, ok = joinedValue, true
		case i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			value, ok = args[i+1], true
		default:
			value, ok = "true", true
		}
	}
	return value, ok
}

// replaceFlag puts --name=value where the flag first stood, drops its other
// occurrences, and appends it where there was none.
func replaceFlag(args []string, name, value string) []string {
	var out []string
	done := false
	for i := 0; i < len(args); i++ {
		flag, _, joined := strings.Cut(args[i], "=")
		if flag != "-"+name && flag != "--"+name {
			out = append(out, args[i])
			continue
		}
		if !joined && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
		if !done {
			out = append(out, "--"+name+"="+value)
			done = true
		}
	}
	if !done {
		out = append(out, "--"+name+"="+value)
	}
	return out
}

// known tells whether every container of a pod is a component that the table
// has, and says why not.
func (r *rules) known(pod *corev1.Pod, recognize func(string) (string, bool)) (reason string, ok bool) {
	for _, c := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
		name, recognised := recognize(c.Image)
		if !recognised {
			return "image " + c.Image + " is no component of the store", false
		}
		if _, ok := r.Components[name]; !ok {
			return "component " + name + " of image " + c.Image + " cannot run as a process of its own", false
		}
	}
	return "", true
}
