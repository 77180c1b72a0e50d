package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

func (p *program) componentsCommand(ctx context.Context) *cobra.Command {
	var link, provider string
	c := &cobra.Command{
		Use: "components", Short: "Have every component of a cluster ready in the cache, and list them", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			root, err := session.Root()
			if err != nil {
				return err
			}
			store, err := bringup.OpenStore(p.assets, root, platform.DefaultConfig(), func(step component.Progress) {
				fmt.Fprintln(p.errOut, step)
			})
			if err != nil {
				return err
			}
			if known := store.Providers(); !slices.Contains(known, provider) {
				return invalid{fmt.Errorf("there is no provider %q%s", provider, check.DidYouMean(provider, known))}
			}
			var requests []component.Request
			for _, name := range store.NamesFor(provider) {
				requests = append(requests, component.Request{Name: name})
			}
			found, err := store.Resolve(ctx, requests)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
			for _, one := range found {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", one.Name, one.Version, one.Origin, one.Reference, one.Path)
			}
			return errors.Join(table.Flush(), linkAll(found, link))
		},
	}
	c.Flags().StringVar(&provider, "provider", bringup.Providers()[0], "whose clusters' components")
	c.Flags().StringVar(&link, "link", "", "folder to make links in, named after the components (default: none)")
	return c
}

// linkAll makes a link to each program, for tests that run them.
func linkAll(found []component.Component, dir string) error {
	if dir == "" {
		return nil
	}
	for _, one := range found {
		if err := os.Symlink(one.Path, filepath.Join(dir, one.Name)); err != nil {
			return fmt.Errorf("link the components into %s: %w", dir, err)
		}
	}
	return nil
}
