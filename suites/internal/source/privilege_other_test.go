//go:build !linux

package source

import (
	"os"
	"testing"
)

func withoutPrivilege(t *testing.T) (restore func(), ok bool) {
	t.Helper()
	return func() {}, os.Geteuid() != 0
}
