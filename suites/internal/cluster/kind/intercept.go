package kind

import "context"

func (c *running) intercept(ctx context.Context) error { return nil }
