// Package program is the command line: it reads what the user wants, has a
// session brought up, lets the specs judge it, and writes what came of it.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// Selection narrows what is judged; an empty list means all.
type Selection struct{ Checks, Environments, Tenants []string }

// Suite is what the program needs of the specs.
type Suite struct {
	// Judge runs the specs on a session, in this process and at most once, and
	// writes outcomes below runFolder as they are made.
	Judge func(ctx context.Context, view *bringup.View, selection Selection, runFolder string) ([]check.Outcome, error)
	// Plan lists what a run owes.
	Plan func(view *bringup.View, selection Selection) []check.Planned
	// Registry holds all checks.
	Registry *check.Registry
}

// program is one invocation.
type program struct {
	suite  Suite
	assets fs.FS
	out    io.Writer
	errOut io.Writer
	args   []string
	// executable is what supervisors and judges are started from.
	executable string
	// owed are the outcomes of a run without a selection, for «prove».
	owed []check.Planned
}

// exit carries an exit code other than 0 that has been explained already.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// invalid marks an error as the user's input being wrong: exit code 2.
type invalid struct{ error }

func (i invalid) Unwrap() error { return i.error }

// Main runs the program and returns its exit code: 0 all core checks passed, 1 a
// check failed, 2 the input is wrong, 3 the run could not be carried out.
func Main(ctx context.Context, suite Suite, assets fs.FS, args []string) int {
	p := &program{suite: suite, assets: assets, out: os.Stdout, errOut: os.Stderr, args: args}
	var err error
	if p.executable, err = os.Executable(); err != nil {
		fmt.Fprintln(os.Stderr, "error: find this program:", err)
		return check.RunBroken.ExitCode()
	}
	return p.run(ctx)
}

// run carries out the command that the arguments name.
func (p *program) run(ctx context.Context) int {
	root := p.command(ctx)
	root.SetArgs(p.args)
	root.SetOut(p.out)
	root.SetErr(p.errOut)
	err := root.Execute()
	var code exit
	var wrong invalid
	switch {
	case err == nil:
		return check.RunPassed.ExitCode()
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &wrong):
		fmt.Fprintln(p.errOut, "error:", err)
		return check.RunInvalidInput.ExitCode()
	default:
		fmt.Fprintln(p.errOut, "error:", err)
		return check.RunBroken.ExitCode()
	}
}

func (p *program) command(ctx context.Context) *cobra.Command {
	root := &cobra.Command{
		Use:           "flux-platform-conformance",
		Short:         "Judge a Flux platform repository on live clusters",
		Long:          "Brings up one cluster per environment, lets real Flux and real Kyverno bring up the platform there, and judges what comes of it.\n\nExit codes: 0 all core checks passed; 1 a check failed; 2 the input is wrong; 3 the run could not be carried out.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return invalid{fmt.Errorf("there is no command %q%s; --help lists the commands", args[0], check.DidYouMean(args[0], []string{"e2e", "files", "up", "down", "clean", "prove", "attacks", "compare", "policies", "watch"}))}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(p.e2eCommand(ctx), p.filesCommand(ctx), p.compareCommand(ctx), p.upCommand(ctx), p.downCommand(ctx), p.cleanCommand(ctx), p.proveCommand(ctx), p.attacksCommand(ctx),
		p.componentsCommand(ctx), p.policiesCommand(ctx), p.watchCommand(ctx), p.superviseCommand(ctx), p.superviseBenchCommand(ctx), p.measureCommand(ctx), p.judgeCommand(ctx))
	return root
}

// wrongFlag explains a flag that cannot be read, with the nearest names.
func wrongFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return invalid{err}
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return invalid{fmt.Errorf("%w%s; «%s --help» lists the flags", err, check.DidYouMean(unknown.GetSpecifiedName(), names), c.CommandPath())}
}

// noArguments refuses what stands beside the flags.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return invalid{fmt.Errorf("%s takes flags only, and %q is none; «%s --help» lists them", c.Name(), args[0], c.CommandPath())}
}

// input are the flags that say what is brought up.
type input struct {
	bringup.Options
	artifacts string
	checks    []string
	keep      bool
}

func (in *input) flags(c *cobra.Command) {
	in.sources(c)
	c.Flags().StringVar(&in.Provider, "provider", bringup.Providers()[0], "what clusters are made of")
}

// sources are the flags that say what is judged, on whatever clusters.
func (in *input) sources(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&in.Platform, "platform", "", "folder of the platform repository (default: the reference platform that the program ships)")
	f.StringVar(&in.Developer, "developer", "", "folder of the developer repository (default: the one that the program ships)")
	f.StringVar(&in.Config, "config", "", "CONFIG file: sources, objects, environments, time-outs, waivers (default: none)")
	f.StringSliceVar(&in.Environments, "environments", nil, "environments, by commas (default: all)")
	f.StringSliceVar(&in.Tenants, "tenants", nil, "tenants that are judged, by commas (default: all)")
	f.StringVar(&in.artifacts, "artifacts", "artifacts", "folder for report.json, junit.xml and what is dumped on failure")
}

func (p *program) downCommand(ctx context.Context) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the kept session", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			root, err := session.Root()
			if err != nil {
				return err
			}
			found, err := session.Attach(ctx, root)
			if errors.Is(err, session.ErrNoSession) {
				return invalid{err}
			}
			if err != nil {
				return err
			}
			if err := session.Stop(ctx, root, found.ID); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "session %s has ended: its processes, ports and folder are gone\n", found.ID)
			return nil
		},
	}
}

func (p *program) cleanCommand(ctx context.Context) *cobra.Command {
	return &cobra.Command{
		Use: "clean", Short: "End everything of ours on this machine", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			root, err := session.Root()
			if err != nil {
				return err
			}
			removed, err := session.Clean(ctx, root)
			for _, r := range removed {
				fmt.Fprintln(p.out, r)
			}
			if len(removed) == 0 && err == nil {
				fmt.Fprintln(p.out, "nothing of ours was left on this machine")
			}
			return err
		},
	}
}
