package source

import "context"

// Head is the commit that a branch of a bare repository names.
func Head(ctx context.Context, bare, branch string) (string, error) {
	return resolveCommit(ctx, bare, "refs/heads/"+branch)
}
