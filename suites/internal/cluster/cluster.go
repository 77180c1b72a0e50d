// Package cluster holds what every kind of cluster has in common: how one is
// asked for, what it can do, and what it reports of itself. The kinds
// themselves live in the packages below.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
)

// Capability names something that a cluster can do. Which of them a cluster has
// is found by Cluster.Probe and never assumed from its provider.
type Capability string

const (
	// Workloads: the containers of an ordinary pod really run.
	Workloads Capability = "Workloads"
	// ServiceRouting: a connection to a Service reaches a pod behind it.
	ServiceRouting Capability = "ServiceRouting"
	// Ingress: a request to an Ingress reaches a pod behind it.
	Ingress Capability = "Ingress"
	// NetworkPolicy: a NetworkPolicy keeps traffic out.
	NetworkPolicy Capability = "NetworkPolicy"
)

// Capabilities lists every capability that Cluster.Probe answers for, in the
// order in which reports print them.
func Capabilities() []Capability {
	return []Capability{Workloads, ServiceRouting, Ingress, NetworkPolicy}
}

// Finding is what a probe saw of one capability.
type Finding struct {
	Capability Capability `json:"capability"`
	Has        bool       `json:"has"`
	// Evidence says what was done and what was seen, in one sentence.
	Evidence string `json:"evidence"`
}

// Spec says what cluster to create. Name, Dir, Recognize, Ports and Marker are
// required; the others have the default that their comment names.
type Spec struct {
	// Name is the environment that the cluster stands for; a DNS label.
	Name string
	// Dir is a folder for this cluster alone. It is created with mode 0700.
	Dir string
	// Version is the Kubernetes version that the API server must report, such
	// as v1.36.3; where images decide, another patch level of the same minor is
	// taken. Empty: whatever it is.
	Version string
	// Binaries maps a component's name to its program on this machine. A cluster
	// made of processes needs those of the control plane. A pod's program comes
	// from here only where Resolve is nil: Resolve knows the version that the pod
	// names.
	Binaries map[string]string
	// Recognize names the component that an image holds.
	Recognize func(image string) (name string, ok bool)
	// Resolve finds the program of a component for the very image that a pod
	// names. It may take minutes. Nil: Binaries.
	Resolve func(ctx context.Context, name, image string) (path string, err error)
	// Environ holds environment variables, as NAME=value, that each component
	// gets beyond those of its pod, where each is reported as an override. A control
	// plane that is made of processes gets its own as well.
	Environ map[string][]string
	// Ports hands out a TCP port of 127.0.0.1 that nobody else uses.
	Ports func() (int, error)
	// Marker is a variable, as NAME=value, that every process carries in its
	// environment, so that what is left of a killed run can be found.
	Marker string
	// Log receives progress and warnings, one line each. Nil: discarded.
	Log io.Writer
}

// Validate names everything that is missing from the Spec in one error.
func (s Spec) Validate() error {
	var problems []error
	need := func(ok bool, field, why string) {
		if !ok {
			problems = append(problems, fmt.Errorf("%s is required: %s", field, why))
		}
	}
	need(s.Name != "", "Name", "it names the environment")
	if s.Name != "" && len(validation.IsDNS1123Label(s.Name)) > 0 {
		problems = append(problems, fmt.Errorf("name %q is no DNS label: lower-case letters, digits and dashes", s.Name))
	}
	need(s.Dir != "", "Dir", "the cluster keeps its files there")
	need(s.Recognize != nil, "Recognize", "it tells component images from others")
	need(s.Ports != nil, "Ports", "ports are allocated, never searched for")
	need(s.Marker != "", "Marker", "processes are found by it")
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("cluster spec %q: %w", s.Name, err)
	}
	return nil
}

// Provider makes clusters of one kind.
type Provider interface {
	// Name is the word that users choose the provider by.
	Name() string
	// Create brings a cluster up. After an error nothing of it is left running.
	Create(ctx context.Context, spec Spec) (Cluster, error)
}

// Cluster is one running cluster. All methods may be called from several
// goroutines at once.
type Cluster interface {
	// Name is the environment that the cluster stands for.
	Name() string
	// Kubeconfig is the path of a file, mode 0600, that holds administrator
	// credentials.
	Kubeconfig() string
	// RESTConfig returns a fresh copy of the administrator's client settings,
	// without a client-side rate limit.
	RESTConfig() *rest.Config
	// Probe tries what the cluster can do and answers for the capabilities that
	// are named, for every one when none is. What it finds holds for the moment:
	// Ingress needs a controller and an Ingress, so it is asked for once those are
	// there; the others are asked for before policies could make them fail. A
	// probe that cannot decide is an error, not a finding.
	Probe(ctx context.Context, capabilities ...Capability) ([]Finding, error)
	// Report tells what runs, with what difference from what was declared.
	Report(ctx context.Context) (Report, error)
	// Close ends everything that Create and the cluster started, waits until it
	// is gone, and may be called more than once.
	Close(ctx context.Context) error
}

// LogKeeper is a Cluster whose nodes write logs of their own.
type LogKeeper interface {
	// Logs writes them into a folder for each node below dir.
	Logs(ctx context.Context, dir string) error
}
