package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

func TestCreateNamesMissingPrograms(t *testing.T) {
	g := NewWithT(t)
	_, err := Provider{}.Create(t.Context(), cluster.Spec{
		Name: "dev", Dir: t.TempDir(), Binaries: map[string]string{"etcd": "/bin/false"},
		Recognize: recognize, Ports: ports(t), Marker: "A=b",
	})
	g.Expect(err).To(MatchError(And(ContainSubstring("no program for kwokctl, kube-apiserver"), Not(ContainSubstring("etcd")))))
}

func TestCreateUnwinds(t *testing.T) {
	t.Parallel()
	ended := errors.New("the caller has lost patience")
	for _, test := range []struct {
		name string
		// change spoils the spec, and patience bounds Create.
		change   func(*testing.T, *cluster.Spec)
		patience time.Duration
		want     string
	}{
		{
			name: "when etcd ends", patience: time.Minute,
			change: func(t *testing.T, s *cluster.Spec) { s.Binaries["etcd"] = script(t, s.Binaries["etcd"], "exit 7") },
			want:   "etcd has ended",
		},
		{
			name: "when the API server ends", patience: time.Minute,
			change: func(t *testing.T, s *cluster.Spec) {
				s.Binaries["kube-apiserver"] = script(t, s.Binaries["kube-apiserver"], "echo it is not to be >&2; exit 7")
			},
			want: "it is not to be",
		},
		{
			name: "when KWOK keeps ending", patience: time.Minute,
			change: func(t *testing.T, s *cluster.Spec) { s.Binaries["kwok"] = script(t, s.Binaries["kwok"], "exit 7") },
			want:   "kwok has ended 6 times",
		},
		{
			name: "when the version is another", patience: time.Minute,
			change: func(_ *testing.T, s *cluster.Spec) { s.Version = "v1.2.3" },
			want:   "but v1.2.3 is declared",
		},
		{
			name: "when the caller loses patience", patience: 1500 * time.Millisecond,
			want: "context",
		},
		{
			name: "when there are no more ports", patience: time.Minute,
			change: func(_ *testing.T, s *cluster.Spec) {
				s.Ports = func() (int, error) { return 0, errors.New("none left") }
			},
			want: "none left",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			spec := newSpec(t, "dev")
			if test.change != nil {
				test.change(t, &spec)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), test.patience, ended)
			defer cancel()
			_, err := Provider{}.Create(ctx, spec)
			g.Expect(err).To(MatchError(ContainSubstring(test.want)))
			gone(t, spec, cluster.Report{})
		})
	}
}

// script makes a program that tells its version as the real one does, since
// kwokctl asks for it, and otherwise does as told.
func script(t *testing.T, program, act string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(program))
	text := "#!/bin/sh\ncase \"$1\" in --version) exec " + program + " --version;; esac\n" + act + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
