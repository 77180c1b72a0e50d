package attack

import (
	"context"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

// Deep is what an attack meets once the layer that it names is off.
type Deep struct {
	Attack      string `json:"attack"`
	Environment string `json:"environment"`
	// Off is what was switched off.
	Off string `json:"off"`
	// Next stopped it then; empty: nothing does.
	Next string `json:"next"`
	// Words are those of the next refusal.
	Words string `json:"words,omitempty"`
}

func (r *runner) deepen(context.Context, []overlay.Overlay) ([]Deep, error) { return nil, nil }

func (r *runner) needless([]overlay.Overlay) []string { return nil }

func (r *runner) changeAll(context.Context, []overlay.Overlay) ([]Verdict, error) { return nil, nil }
