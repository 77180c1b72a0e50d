package kind

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// fakeDocker puts a docker program of the test's first in PATH: the body of a shell
// script, which finds the command line in $* and the test's folder in $DIR. It
// returns the file that holds every command line.
func fakeDocker(t *testing.T, body string) (calls string) {
	t.Helper()
	g := NewWithT(t)
	dir := t.TempDir()
	script := "#!/bin/sh\nDIR='" + dir + "'\necho \"$*\" >>\"$DIR/calls\"\n" + body + "\n"
	g.Expect(os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755)).To(Succeed())
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return filepath.Join(dir, "calls")
}

func linesOf(g Gomega, file string) []string {
	data, err := os.ReadFile(file)
	g.Expect(err).NotTo(HaveOccurred())
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func TestDockerIsLedByWhatWasInEffect(t *testing.T) {
	g := NewWithT(t)
	for _, name := range leading {
		t.Setenv(name, "")
	}
	t.Setenv("DOCKER_HOST", "unix:///recorded")
	d := dockerInEffect()
	g.Expect(d.Environ).To(Equal([]string{"DOCKER_HOST=unix:///recorded"}))
	t.Setenv("DOCKER_HOST", "unix:///later")
	t.Setenv("DOCKER_CONTEXT", "later")
	fakeDocker(t, `echo "$DOCKER_HOST $DOCKER_CONTEXT."`)

	g.Expect(d.run(t.Context(), "ps")).To(Equal("unix:///recorded .\n"))
}

func TestFailedCommandSaysWhatItWrote(t *testing.T) {
	g := NewWithT(t)
	fakeDocker(t, `echo "Error: No such thing: $2" >&2; exit 1`)

	_, err := docker{}.run(t.Context(), "inspect", "it")

	g.Expect(err).To(MatchError("docker inspect it: exit status 1: Error: No such thing: it"))
	g.Expect(said(err, "no such thing")).To(BeTrue())
}
