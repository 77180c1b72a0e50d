package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Routes of ours carry this number, so that no other's is removed.
const protocol = "253"

const configFile = "etc/cni/net.d/10-node-network.conflist"

// host is the node that the pod runs on, its root mounted at a folder.
type host struct {
	root string
}

// apply makes the host as the plan says. The container runtime learns last of
// the pods' addresses: a pod never starts before its packets can travel.
func (h host) apply(ctx context.Context, p plan) error {
	if err := h.masquerade(ctx, p); err != nil {
		return err
	}
	if err := h.route(ctx, p); err != nil {
		return err
	}
	return h.configure(p)
}

func (h host) masquerade(ctx context.Context, p plan) error {
	if _, err := h.run(ctx, p.rules(), "iptables-restore", "--wait", "--noflush"); err != nil {
		return err
	}
	jump := []string{"POSTROUTING", "-s", p.own.String(), "-j", chain}
	if _, err := h.run(ctx, "", "iptables", append([]string{"--wait", "-t", "nat", "-C"}, jump...)...); err == nil {
		return nil
	}
	_, err := h.run(ctx, "", "iptables", append([]string{"--wait", "-t", "nat", "-A"}, jump...)...)
	return err
}

func (h host) route(ctx context.Context, p plan) error {
	output, err := h.run(ctx, "", "ip", "-json", "-4", "route", "show", "proto", protocol)
	if err != nil {
		return err
	}
	var present []struct{ Dst, Gateway string }
	if len(bytes.TrimSpace(output)) > 0 {
		if err := json.Unmarshal(output, &present); err != nil {
			return fmt.Errorf("read the routes of the node: %w", err)
		}
	}
	right := map[string]bool{}
	for _, r := range present {
		prefix, err := parsePrefix(r.Dst)
		if err != nil {
			return fmt.Errorf("read the routes of the node: %w", err)
		}
		gateway, wanted := p.routes[prefix]
		if wanted && gateway.String() == r.Gateway {
			right[prefix.String()] = true
			continue
		}
		if wanted {
			continue
		}
		if _, err := h.run(ctx, "", "ip", "-4", "route", "del", prefix.String(), "proto", protocol); err != nil {
			return err
		}
	}
	for prefix, gateway := range p.routes {
		if right[prefix.String()] {
			continue
		}
		if _, err := h.run(ctx, "", "ip", "-4", "route", "replace", prefix.String(),
			"via", gateway.String(), "proto", protocol); err != nil {
			return err
		}
	}
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		s += "/32"
	}
	return netip.ParsePrefix(s)
}

func (h host) configure(p plan) error {
	mtu, err := defaultMTU()
	if err != nil {
		return err
	}
	content, err := p.configuration(mtu)
	if err != nil {
		return err
	}
	target := filepath.Join(h.root, configFile)
	if present, err := os.ReadFile(target); err == nil && bytes.Equal(present, content) {
		return nil
	}
	// The runtime reads the folder at any moment: it sees the whole file or none,
	// and takes no name that ends otherwise for a configuration.
	if err := os.WriteFile(target+".new", content, 0o644); err != nil {
		return fmt.Errorf("write the network's configuration: %w", err)
	}
	if err := os.Rename(target+".new", target); err != nil {
		return fmt.Errorf("write the network's configuration: %w", err)
	}
	return nil
}

// defaultMTU is that of the interface that other nodes are reached by.
func defaultMTU() (int, error) {
	links, err := net.Interfaces()
	if err != nil {
		return 0, fmt.Errorf("list the node's interfaces: %w", err)
	}
	mtu := 0
	for _, link := range links {
		if link.Flags&net.FlagLoopback == 0 && link.Flags&net.FlagUp != 0 && strings.HasPrefix(link.Name, "eth") {
			if mtu == 0 || link.MTU < mtu {
				mtu = link.MTU
			}
		}
	}
	if mtu == 0 {
		return 0, errors.New("the node has no interface eth*, which Docker gives to each container")
	}
	return mtu, nil
}

// run runs a program of the host.
func (h host) run(ctx context.Context, input, name string, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "/usr/sbin/"+name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: h.root}
	command.Dir = "/"
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	command.Stdin = strings.NewReader(input)
	var output, said bytes.Buffer
	command.Stdout, command.Stderr = &output, &said
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return output.Bytes(), nil
}
