package source

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutPrivilege lets the locked thread open files as nobody does, where the
// tests run as root.
func withoutPrivilege(t *testing.T) (restore func(), ok bool) {
	t.Helper()
	if os.Geteuid() != 0 {
		return func() {}, true
	}
	if _, err := unix.SetfsuidRetUid(65534); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := unix.SetfsuidRetUid(0); err != nil {
			t.Error(err)
		}
	}, true
}
