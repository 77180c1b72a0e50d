package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kind/pkg/log"
)

// logger gives what kind tells to the log of the cluster, line by line.
type logger struct {
	log func(format string, args ...any)
}

var _ log.Logger = (*logger)(nil)

func (l *logger) say(text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			l.log("kind: %s", line)
		}
	}
}

func (l *logger) Warn(message string)               { l.say(message) }
func (l *logger) Warnf(format string, args ...any)  { l.say(fmt.Sprintf(format, args...)) }
func (l *logger) Error(message string)              { l.say(message) }
func (l *logger) Errorf(format string, args ...any) { l.say(fmt.Sprintf(format, args...)) }

// V leaves aside what kind itself calls debugging.
func (l *logger) V(level log.Level) log.InfoLogger {
	if level > 0 {
		return log.NoopInfoLogger{}
	}
	return informer{l}
}

type informer struct{ *logger }

func (i informer) Info(message string)              { i.say(message) }
func (i informer) Infof(format string, args ...any) { i.say(fmt.Sprintf(format, args...)) }
func (informer) Enabled() bool                      { return true }

// kept are the files that Logs writes of each node, and the commands that print
// them; an empty one is the container's own log.
var kept = []struct {
	file    string
	command []string
}{
	{"boot.log", nil},
	{"kubelet.log", []string{"journalctl", "--no-pager", "--unit=kubelet"}},
	{"containerd.log", []string{"journalctl", "--no-pager", "--unit=containerd"}},
	// The control plane's own containers are not to be asked for their logs when
	// the API server does not answer.
	{"kube-system.log", []string{"find", "/var/log", "-path", "/var/log/pods/kube-system_*", "-name", "*.log", "-exec", "tail", "-n", "200", "{}", "+"}},
}

// Logs writes what the nodes, their kubelets and their container runtimes wrote
// into a folder for each node below dir, and goes on where one cannot be had.
func (c *running) Logs(ctx context.Context, dir string) error {
	nodes, err := c.docker.own(ctx, c.name, c.provider.Network.Name)
	if err != nil {
		return fmt.Errorf("logs of cluster %s: %w", c.spec.Name, err)
	}
	if len(nodes) == 0 {
		return fmt.Errorf("logs of cluster %s: it has no containers", c.spec.Name)
	}
	var failed []error
	for _, node := range nodes {
		folder := filepath.Join(dir, node.Name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("logs of cluster %s: %w", c.spec.Name, err)
		}
		for _, k := range kept {
			args := append([]string{"exec", node.ID}, k.command...)
			if k.command == nil {
				args = []string{"logs", node.ID}
			}
			out, err := c.docker.run(ctx, args...)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s of node %s: %w", k.file, node.Name, err))
				out = err.Error()
			}
			if err := os.WriteFile(filepath.Join(folder, k.file), []byte(out), 0o600); err != nil {
				failed = append(failed, err)
			}
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("logs of cluster %s: %w", c.spec.Name, err)
	}
	return nil
}
