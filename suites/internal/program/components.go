package program

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

func (p *program) componentsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "components", Short: "Have every component of a cluster ready in the cache, and list them", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
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
			var requests []component.Request
			for _, name := range store.Names() {
				requests = append(requests, component.Request{Name: name})
			}
			found, err := store.Resolve(c.Context(), requests)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
			for _, one := range found {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", one.Name, one.Version, one.Origin, one.Reference, one.Path)
			}
			return table.Flush()
		},
	}
}
