// Command app is the service that the tenants of the reference platform run,
// and the client that asks such services. It is the smallest program that shows
// what a tenant's pod was given: it serves its configuration files byte for
// byte, and every answer tells which version and which pod gave it.
//
//	app [--config=FILE]... [--listen=:8080]
//	app fetch --url=URL [--host=HOST] [--count=1 | --interval=20ms] [--timeout=2s] [--body]
//
// The image sets APP_VERSION to its tag. On SIGTERM the service stops being
// ready, goes on serving while its endpoint is taken away, and ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	var wrong *usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.As(err, &wrong):
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// usageError is a command line that cannot be meant.
type usageError struct{ error }

// run does what the command line says until it is done or ctx ends.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	if len(args) > 0 && args[0] == "fetch" {
		return fetchCommand(ctx, args[1:], out, log)
	}
	return serveCommand(ctx, args, log)
}

// parse reads flags; what is neither a flag nor its value is refused.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return &usageError{err}
	}
	if flags.NArg() > 0 {
		return &usageError{fmt.Errorf("%s: unexpected argument %q", flags.Name(), flags.Arg(0))}
	}
	return nil
}
