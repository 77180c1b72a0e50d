package program

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// bench is a session with one cluster and Kyverno, on which policies are judged.
type bench struct {
	*running
	state bringup.BenchState
	// cluster is the last report of the cluster that was had.
	cluster cluster.Report
	// doing is the phase in which the server is asked.
	doing atomic.Value

	// cliPath gets the program that judges offline, once.
	cliPath chan string
}

// startBench has a bench brought up; it returns at once. The caller ends it with
// stop, also after an error.
func (p *program) startBench(ctx context.Context, artifacts string) (*bench, error) {
	b := &bench{cliPath: make(chan string, 1)}
	var once sync.Once
	var err error
	b.running, err = p.launch(ctx, bringup.BenchName, session.StartOptions{
		Args: []string{superviseBench}, LogFile: filepath.Join(artifacts, session.LogName),
		Events: func(e session.Event) {
			if e.Kind == bringup.CLIEvent {
				once.Do(func() { b.cliPath <- e.Message })
			}
		},
	})
	b.doing.Store(phaseLive)
	if err != nil {
		return b, err
	}
	// Whatever this process starts from here on ends with the session at the latest.
	return b, os.Setenv(session.MarkerVariable, b.supervisor.ID())
}

// cli waits for the program that judges policies offline. It is there long before
// the cluster is.
func (b *bench) cli(ctx context.Context) (string, error) {
	select {
	case found := <-b.cliPath:
		b.cliPath <- found
		return found, nil
	case <-b.supervisor.Done():
		return "", b.supervisor.Err()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// folder is the session's, which goes with it, whatever becomes of this process.
func (b *bench) folder() string { return filepath.Dir(b.supervisor.File()) }

// await waits until the cluster judges policies.
func (b *bench) await(ctx context.Context) error {
	if err := b.supervisor.WaitReady(ctx); err != nil {
		return err
	}
	_, err := session.ReadState(b.supervisor.File(), &b.state)
	return err
}

// connect opens the engine on the cluster, which is up.
func (b *bench) connect(ctx context.Context, o live.Options) (*live.Bench, error) {
	var err error
	if o.Config, err = b.state.Environment.Config(); err != nil {
		return nil, err
	}
	return live.Open(ctx, o)
}

// stop ends the session and what is shown of it.
func (b *bench) stop(ctx context.Context) error {
	if b == nil {
		return nil
	}
	return b.running.stop(ctx)
}

const superviseBench = "supervise-bench"

func (p *program) superviseBenchCommand(ctx context.Context) *cobra.Command {
	return &cobra.Command{
		Use: superviseBench, Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return session.Serve(ctx, session.ServeOptions{}, bringup.Bench(p.assets))
		},
	}
}
