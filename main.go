// The program brings up the clusters of a Flux platform repository, lets real
// Flux and real Kyverno do their work there, and judges what comes of it. This
// file embeds what the program ships; package suites does the rest.
package main

import (
	"embed"
	"os"

	"github.com/your-org/flux-platform-conformance/suites"
)

//go:embed all:fixtures all:kind-config all:policies all:scripts
var assets embed.FS

func main() {
	os.Exit(suites.Main(assets, os.Args[1:]))
}
