package cluster

import (
	"slices"
	"strings"
)

// ConditionSimulated is the type of the condition that a pod carries whose
// containers do not run but are only said to.
const ConditionSimulated = "flux-platform-conformance/Simulated"

// Report is what a cluster says of itself. It lands in report.json.
type Report struct {
	Environment string `json:"environment"`
	Provider    string `json:"provider"`
	// Version is what the API server answered at /version.
	Version string `json:"version"`
	// ControlPlane holds the processes that make the cluster.
	ControlPlane []Process `json:"controlPlane"`
	// Backed holds the containers of known components: those that run as processes
	// of this machine, or that run on a node.
	Backed []Backed `json:"backed"`
	// Overrides holds every difference between what a backed container declares
	// and what its process was given.
	Overrides []Override `json:"overrides"`
	// NotHonoured holds what backed pods declare and this cluster does not do.
	NotHonoured []NotHonoured `json:"notHonoured"`
	// Simulated holds the pods that do not run.
	Simulated []SimulatedPod `json:"simulated"`
	// SimulatedBackends holds webhooks and API services that only simulated
	// pods would answer for: whatever depends on them cannot be judged here.
	SimulatedBackends []SimulatedBackend `json:"simulatedBackends"`
	// Nodes holds the machines that the cluster is made of, where it has any.
	Nodes []Node `json:"nodes,omitempty"`
	// Containers holds every running container of an ordinary pod as its node
	// sees it. Empty where pods do not run in containers.
	Containers []Container `json:"containers,omitempty"`
	// PeakMemory is, where the cluster is made of processes, the largest sum of
	// their resident sets that was seen at one time, in bytes, looked at twice a
	// second; pages that processes share count for each. Where it is made of
	// nodes it is the sum of their own peaks.
	PeakMemory int64 `json:"peakMemory"`
}

// Node is one machine of a cluster.
type Node struct {
	Name string `json:"name"`
	// Role is control-plane or worker.
	Role string `json:"role"`
	// Image is what the node was made from.
	Image string `json:"image"`
	// PeakMemory is the most memory that the node has used at one time, in bytes,
	// page cache included, as the kernel counts it; MemorySource names the file.
	// 0 where the kernel does not tell.
	PeakMemory   int64  `json:"peakMemory"`
	MemorySource string `json:"memorySource,omitempty"`
}

// Container is a running container of a pod as the kernel of its node sees it,
// whatever the pod declares.
type Container struct {
	Origin
	Node string `json:"node"`
	// Image is what the pod names, and ImageID what the node took for it.
	Image   string `json:"image"`
	ImageID string `json:"imageID"`
	// PID is that of the container's first process, on its node.
	PID int `json:"pid"`
	// UID, GID and Groups are those that the process acts with.
	UID    int64   `json:"uid"`
	GID    int64   `json:"gid"`
	Groups []int64 `json:"groups"`
	// ReadOnlyRoot: the container's root file system cannot be written to.
	ReadOnlyRoot bool `json:"readOnlyRoot"`
	// Effective, Permitted and Bounding are sets of capabilities by name, such as
	// NET_ADMIN, in the order of their numbers.
	Effective []string `json:"effective"`
	Permitted []string `json:"permitted"`
	Bounding  []string `json:"bounding"`
	// NoNewPrivileges: no program that the process executes gains rights by that.
	NoNewPrivileges bool `json:"noNewPrivileges"`
	// Seccomp is disabled, strict or filter.
	Seccomp string `json:"seccomp"`
	// ServiceAccountToken: a token of the pod's account is mounted.
	ServiceAccountToken bool `json:"serviceAccountToken"`
	// MemoryLimit is in bytes and CPULimit in thousandths of a processor; 0 is no
	// limit.
	MemoryLimit int64 `json:"memoryLimit"`
	CPULimit    int64 `json:"cpuLimit"`
}

// Process is one program of the cluster as it runs on this machine, or on a node.
type Process struct {
	Component string `json:"component"`
	// Path is the program's file, on this machine or in its container.
	Path string `json:"path"`
	// Version is that of the component which the file is; empty when it is not
	// known.
	Version string `json:"version"`
	// PID is 0 when the process does not run at the moment.
	PID int `json:"pid"`
	// Running holds the arguments as the system tells them of the living
	// process, without the program's own name. Empty when it does not run.
	Running []string `json:"running"`
	// Restarts counts the starts after the first.
	Restarts int `json:"restarts"`
	// PeakMemory is the largest resident set seen over all starts, in bytes; 0
	// where the system does not tell.
	PeakMemory int64 `json:"peakMemory"`
	// Log is the file that holds the output of the last start.
	Log string `json:"log"`
}

// Origin says which container of which pod something belongs to.
type Origin struct {
	Environment string `json:"environment"`
	Namespace   string `json:"namespace"`
	// Workload is the owner of the pod, such as Deployment/source-controller,
	// or Pod/NAME for a pod of its own.
	Workload  string `json:"workload"`
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"`
}

// Backed is a container of a known component, and its program: a process of this
// machine, or one of a node.
type Backed struct {
	Origin
	Process
	Image string `json:"image"`
	// ImageID is what the node took for the image; empty where a program of this
	// machine stands in for it.
	ImageID string `json:"imageID,omitempty"`
	// Init: the container has to end before the others start.
	Init bool `json:"init,omitempty"`
	// Declared holds the arguments of the pod, with $(VAR) expanded.
	Declared []string `json:"declared"`
	// State is the container's state as its pod shows it: running, waiting or
	// terminated, with the reason where there is one.
	State string `json:"state"`
}

// OverrideKind tells what an Override changes.
type OverrideKind string

const (
	// Argument: an argument of the command line.
	Argument OverrideKind = "argument"
	// Variable: an environment variable.
	Variable OverrideKind = "variable"
)

// Override is one difference between what a container declares and what its
// process was given.
type Override struct {
	Origin
	Component string       `json:"component"`
	Kind      OverrideKind `json:"kind"`
	// Name is the flag without dashes, or the variable.
	Name string `json:"name"`
	// Declared is the value that the pod gives, nil when it gives none.
	Declared *string `json:"declared"`
	// Effective is the value that the process got.
	Effective string `json:"effective"`
	Reason    string `json:"reason"`
}

// NotHonoured is something that a backed pod declares and that its process does
// not get.
type NotHonoured struct {
	Origin
	// Field is the path of the field in the pod.
	Field string `json:"field"`
	// Declared is its value in short.
	Declared string `json:"declared"`
	Reason   string `json:"reason"`
	// Fatal: without it the program would behave differently, so the container
	// was not started.
	Fatal bool `json:"fatal"`
}

// SimulatedPod is a pod that does not run.
type SimulatedPod struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Workload  string   `json:"workload"`
	Images    []string `json:"images"`
	// Reason says why no process backs it.
	Reason string `json:"reason"`
}

// SimulatedBackend is a webhook or API service whose Service leads to simulated
// pods only.
type SimulatedBackend struct {
	// Kind is ValidatingWebhookConfiguration, MutatingWebhookConfiguration,
	// CustomResourceDefinition or APIService.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Webhooks names those within a webhook configuration.
	Webhooks []string `json:"webhooks,omitempty"`
	// Service is NAMESPACE/NAME.
	Service string   `json:"service"`
	Pods    []string `json:"pods"`
}

// Unexplained compares the arguments that a container declares with those that
// its process runs with, and returns one line for each difference that no
// override accounts for. Overrides of variables are ignored. It knows nothing
// of how overrides are applied: each must stand in the running arguments as
// --NAME=EFFECTIVE exactly once, each declared form of the flag must be gone,
// and what remains must be equal, in order.
func Unexplained(declared, running []string, overrides []Override) []string {
	var lines []string
	declared, running = slices.Clone(declared), slices.Clone(running)
	for _, o := range overrides {
		if o.Kind != Argument {
			continue
		}
		rest, found := without(declared, o.Name)
		declared = rest
		switch {
		case o.Declared == nil && len(found) > 0:
			lines = append(lines, "--"+o.Name+" is declared as "+quote(found)+", but the override says that it is not")
		case o.Declared != nil && !slices.Contains(found, *o.Declared):
			lines = append(lines, "--"+o.Name+" is declared as "+quote(found)+", but the override says "+quote([]string{*o.Declared}))
		}
		rest, found = without(running, o.Name)
		running = rest
		if len(found) != 1 || found[0] != o.Effective {
			lines = append(lines, "--"+o.Name+" runs as "+quote(found)+", but the override says "+quote([]string{o.Effective}))
		}
	}
	for len(declared) > 0 || len(running) > 0 {
		switch {
		case len(declared) > 0 && len(running) > 0 && declared[0] == running[0]:
			declared, running = declared[1:], running[1:]
		case len(declared) > 0 && !slices.Contains(running, declared[0]):
			lines = append(lines, "declared, but not running: "+declared[0])
			declared = declared[1:]
		case len(running) > 0 && !slices.Contains(declared, running[0]):
			lines = append(lines, "running, but not declared: "+running[0])
			running = running[1:]
		default:
			lines = append(lines, "out of order: "+running[0])
			i := slices.Index(declared, running[0])
			declared = slices.Delete(declared, i, i+1)
			running = running[1:]
		}
	}
	return lines
}

// without returns the arguments less every occurrence of a flag, and the values
// that the flag had; one given without a value is "true".
func without(args []string, name string) (rest, values []string) {
	for i := 0; i < len(args); i++ {
		flag, value, joined := strings.Cut(args[i], "=")
		if flag != "-"+name && flag != "--"+name {
			rest = append(rest, args[i])
			continue
		}
		switch {
		case joined:
		case i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			i++
			value = args[i]
		default:
			value = "true"
		}
		values = append(values, value)
	}
	return rest, values
}

func quote(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	return `"` + strings.Join(values, `", "`) + `"`
}
