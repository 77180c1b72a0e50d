// Package golden compares what tests make with files of their testdata.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Compare fails the test where content differs from the file testdata/NAME, byte for
// byte, and shows how. With «go test -update» it writes the file.
func Compare[T string | []byte](t testing.TB, name string, content T) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run the test with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), string(content)); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update when that is meant:\n%s", file, diff)
	}
}
