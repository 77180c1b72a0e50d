package kind

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// docker runs the docker program against one daemon, as its user would.
type docker struct {
	// Environ holds what leads the program to the daemon, as NAME=value, in place
	// of every variable of the process that would.
	Environ []string `json:"environ"`
}

// leading are the variables by which the program finds a daemon.
var leading = []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}

// dockerInEffect is what the process's environment leads to.
func dockerInEffect() docker {
	var d docker
	for _, name := range leading {
		if value := os.Getenv(name); value != "" {
			d.Environ = append(d.Environ, name+"="+value)
		}
	}
	return d
}

func (d docker) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, "docker", args...)
	command.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(leading, name)
	})
	command.Env = append(command.Env, d.Environ...)
	return command
}

// run returns what the command prints. An error holds the command and what it wrote
// of its failure.
func (d docker) run(ctx context.Context, args ...string) (string, error) {
	return d.feed(ctx, nil, args...)
}

// feed is run with something on the command's standard input.
func (d docker) feed(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	command := d.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = stdin, &stdout, &stderr
	err := command.Run()
	if err == nil {
		return stdout.String(), nil
	}
	failed := &commandError{args: args, err: err, output: cmp.Or(strings.TrimSpace(stderr.String()), strings.TrimSpace(stdout.String()))}
	if ctx.Err() != nil {
		// The program was killed for it; what it says of that says nothing.
		failed.err = context.Cause(ctx)
	}
	return "", failed
}

// commandError is a command that failed.
type commandError struct {
	args   []string
	err    error
	output string
}

func (e *commandError) Error() string {
	text := fmt.Sprintf("docker %s: %v", strings.Join(e.args, " "), e.err)
	if e.output != "" {
		text += ": " + e.output
	}
	return text
}

func (e *commandError) Unwrap() error { return e.err }

// said tells whether a command failed with one of these words in its output.
func said(err error, words ...string) bool {
	var failed *commandError
	if !errors.As(err, &failed) {
		return false
	}
	output := strings.ToLower(failed.output)
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(output, word) })
}
