// Command network is the pod network of a node: it tells the container runtime
// which addresses this node's pods have, leads packets for the pods of other
// nodes to their nodes, and hides a pod's address only from what lies outside
// the pod network.
//
// It is run by a DaemonSet in the host's network namespace, and uses the host's
// own ip and iptables, so that both speak of the same rules.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Rules and routes are put right again this often, whatever removed them.
const repair = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "network:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	name := os.Getenv("NODE_NAME")
	if name == "" {
		return errors.New("NODE_NAME is not set: the DaemonSet gives it from spec.nodeName")
	}
	cluster, err := connect()
	if err != nil {
		return err
	}
	host := host{root: "/host"}
	lists := make(chan []node)
	go follow(ctx, cluster, lists)
	ticker := time.NewTicker(repair)
	defer ticker.Stop()
	var nodes []node
	var said string
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case nodes = <-lists:
		case <-ticker.C:
		}
		p, err := planFor(name, nodes)
		if err == nil {
			err = host.apply(ctx, p)
		}
		report := p.String()
		if err != nil {
			report = err.Error()
		}
		if report != said {
			fmt.Println(report)
			said = report
		}
	}
}

// follow sends every list of nodes until ctx ends. A watch that breaks, or
// cannot be had, is begun anew.
func follow(ctx context.Context, cluster *cluster, lists chan<- []node) {
	for ctx.Err() == nil {
		err := cluster.watch(ctx, func(nodes []node) {
			select {
			case lists <- nodes:
			case <-ctx.Done():
			}
		})
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "network: watch nodes:", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
