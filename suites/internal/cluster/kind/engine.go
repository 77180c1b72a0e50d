package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Engine is a Docker daemon on which clusters can be made.
type Engine struct {
	// Host is the daemon's address.
	Host string `json:"host"`
	// Version is the daemon's own, and Cgroup the version of the kernel's control
	// groups that it uses.
	Version string `json:"version"`
	Cgroup  string `json:"cgroup"`
	// Root is the folder that images and containers lie in.
	Root string `json:"root"`
	// CPUs and Memory, in bytes, are what all containers have together.
	CPUs   int   `json:"cpus"`
	Memory int64 `json:"memory"`

	arch   string
	docker docker
	record func(kind string, detail any) error
}

// Network is what a session's nodes are attached to.
type Network struct {
	Name string `json:"name"`
	// Gateway is this machine's address on it; the servers that nodes and pods are
	// to reach listen there.
	Gateway string `json:"gateway"`
	// Subnet holds the addresses of the nodes.
	Subnet string `json:"subnet"`
}

// CreateNetwork makes a network for a session's nodes, after it is in the ledger.
// One of that name that is there already is an error, and stays as it is.
func (e Engine) CreateNetwork(ctx context.Context, name string) (Network, error) {
	fail := func(err error) (Network, error) {
		return Network{}, fmt.Errorf("make the network %s: %w", name, err)
	}
	ids, err := e.docker.networks(ctx, name)
	if err != nil {
		return fail(err)
	}
	if len(ids) > 0 {
		return fail(fmt.Errorf("one of that name is there and is not ours: remove it with «docker network rm %s», or leave it and begin another session", name))
	}
	if err := e.record(entryNetwork, networkEntry{docker: e.docker, Host: e.Host, Name: name}); err != nil {
		return fail(err)
	}
	network, err := e.docker.createNetwork(ctx, name)
	if err == nil {
		err = reachable(network.Gateway)
	}
	if err != nil {
		return fail(errors.Join(err, e.RemoveNetwork(context.WithoutCancel(ctx), name)))
	}
	return network, nil
}

// RemoveNetwork removes a network that CreateNetwork made. One that is gone is no
// error.
func (e Engine) RemoveNetwork(ctx context.Context, name string) error {
	_, err := e.docker.removeNetwork(ctx, name)
	return err
}

// createNetwork makes a network with our label.
func (d docker) createNetwork(ctx context.Context, name string) (Network, error) {
	id, err := d.run(ctx, "network", "create", "--driver=bridge", "--label", ownLabel+"="+name, name)
	if said(err, "could not find an available", "address pools have been fully subnetted") {
		err = fmt.Errorf("the daemon's address pools are used up: remove networks that nobody uses with «docker network prune», or widen default-address-pools in daemon.json: %w", err)
	}
	if err != nil {
		return Network{}, err
	}
	return d.inspectNetwork(ctx, strings.TrimSpace(id))
}

// ownLabel marks networks that are ours; its value is their name.
const ownLabel = "flux-platform-conformance"

// networks returns the IDs of all networks of that very name: Docker lets several
// have one.
func (d docker) networks(ctx context.Context, name string) ([]string, error) {
	// The filter matches parts of names.
	out, err := d.run(ctx, "network", "ls", "--no-trunc", "--filter", "name="+name, "--format", "{{.ID}} {{.Name}}")
	if err != nil {
		return nil, err
	}
	var ids []string
	for line := range strings.Lines(out) {
		if id, found, _ := strings.Cut(strings.TrimSpace(line), " "); found == name {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

type inspectedNetwork struct {
	Name   string
	ID     string `json:"Id"`
	Labels map[string]string
	IPAM   struct {
		Config []struct{ Subnet, Gateway string }
	}
}

func (d docker) inspectNetwork(ctx context.Context, id string) (Network, error) {
	out, err := d.run(ctx, "network", "inspect", id)
	if err != nil {
		return Network{}, err
	}
	var found []inspectedNetwork
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return Network{}, fmt.Errorf("docker network inspect %s: %w", id, err)
	}
	for _, n := range found {
		for _, pool := range n.IPAM.Config {
			if ip := net.ParseIP(pool.Gateway); ip != nil && ip.To4() != nil {
				return Network{Name: n.Name, Gateway: pool.Gateway, Subnet: pool.Subnet}, nil
			}
		}
	}
	return Network{}, fmt.Errorf("docker network inspect %s: no gateway with an IPv4 address in %s", id, strings.TrimSpace(out))
}

// removeNetwork removes the networks of that name that carry our label, and says
// how many there were.
func (d docker) removeNetwork(ctx context.Context, name string) (removed int, err error) {
	ids, err := d.networks(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("remove the network %s: %w", name, err)
	}
	var failed []error
	for _, id := range ids {
		out, err := d.run(ctx, "network", "inspect", "--format", `{{index .Labels "`+ownLabel+`"}}`, id)
		switch {
		case said(err, "not found", "no such network"):
			continue
		case err != nil:
			failed = append(failed, err)
			continue
		case strings.TrimSpace(out) != name:
			continue // somebody else's
		}
		_, err = d.run(ctx, "network", "rm", id)
		if err != nil && !said(err, "not found", "no such network") {
			failed = append(failed, err)
			continue
		}
		removed++
	}
	if err := errors.Join(failed...); err != nil {
		return removed, fmt.Errorf("remove the network %s: %w", name, err)
	}
	return removed, nil
}

// reachable says why the servers of a session could not listen on a gateway.
func reachable(gateway string) error {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list the addresses of this machine: %w", err)
	}
	own := func(address net.Addr) bool {
		network, ok := address.(*net.IPNet)
		return ok && network.IP.String() == gateway
	}
	if slices.ContainsFunc(addresses, own) {
		return nil
	}
	return fmt.Errorf("the gateway %s of the daemon's network is no address of this machine, so nodes could not reach the Git and image servers that the suite runs here: "+
		"the daemon runs elsewhere or in a virtual machine; run the suite where the daemon is, or one of its own there with %s", gateway, startScript)
}

// startScript is the cure for most that can be wrong with a daemon on Debian.
const startScript = "«sudo scripts/docker/start.sh»"
