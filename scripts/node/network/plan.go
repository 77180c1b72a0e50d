package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// plan is what a node must have so that its pods are on the network.
type plan struct {
	// own are the addresses of this node's pods.
	own netip.Prefix
	// routes lead to the pods of the other nodes, by the node's address.
	routes map[netip.Prefix]netip.Addr
	// network are the addresses of all pods, own ones too, sorted.
	network []netip.Prefix
}

// planFor makes the plan of the node called name. A node that has no addresses
// for pods yet is left out; when it is this one, that is an error.
func planFor(name string, nodes []node) (plan, error) {
	p := plan{routes: map[netip.Prefix]netip.Addr{}}
	for _, n := range nodes {
		pods, ok := ipv4Prefix(n.Spec.PodCIDRs)
		if !ok {
			continue
		}
		p.network = append(p.network, pods)
		if n.Metadata.Name == name {
			p.own = pods
			continue
		}
		for _, a := range n.Status.Addresses {
			address, err := netip.ParseAddr(a.Address)
			if a.Type == "InternalIP" && err == nil && address.Is4() {
				p.routes[pods] = address
				break
			}
		}
	}
	slices.SortFunc(p.network, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	if !p.own.IsValid() {
		return plan{}, fmt.Errorf("node %s has no IPv4 range for its pods yet (spec.podCIDRs)", name)
	}
	return p, nil
}

func ipv4Prefix(ranges []string) (netip.Prefix, bool) {
	for _, r := range ranges {
		if prefix, err := netip.ParsePrefix(r); err == nil && prefix.Addr().Is4() {
			return prefix.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// String says the plan in one line.
func (p plan) String() string {
	var routes []string
	for _, prefix := range p.network {
		if gateway, ok := p.routes[prefix]; ok {
			routes = append(routes, fmt.Sprintf("%s via %s", prefix, gateway))
		}
	}
	if len(routes) == 0 {
		routes = []string{"no other nodes"}
	}
	return fmt.Sprintf("pods of this node: %s; %s", p.own, strings.Join(routes, ", "))
}

// configuration is what the container runtime gives its plugins. Every pod has
// a link of its own to the node (ptp), so that all its packets are routed, and
// rules of Services hold between pods of one node whether or not the machine's
// bridges heed them.
func (p plan) configuration(mtu int) ([]byte, error) {
	type object = map[string]any
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "node-network",
		"plugins": []object{{
			"type":   "ptp",
			"ipMasq": false,
			"mtu":    mtu,
			"ipam": object{
				"type":    "host-local",
				"dataDir": "/run/cni-ipam",
				"ranges":  [][]object{{{"subnet": p.own.String()}}},
				"routes":  []object{{"dst": "0.0.0.0/0"}},
			},
		}, {
			"type":         "portmap",
			"capabilities": object{"portMappings": true},
		}},
	}, "", "  ")
}

const chain = "NODE-NETWORK-MASQ"

// rules is the input of iptables-restore that makes the chain anew in one step.
func (p plan) rules() string {
	var b strings.Builder
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n", chain)
	for _, prefix := range p.network {
		fmt.Fprintf(&b, "-A %s -d %s -j RETURN\n", chain, prefix)
	}
	fmt.Fprintf(&b, "-A %s -d 224.0.0.0/4 -j RETURN\n", chain)
	fmt.Fprintf(&b, "-A %s -j MASQUERADE --random-fully\nCOMMIT\n", chain)
	return b.String()
}
