package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// drain is how long a service that was told to end goes on serving: until
	// then its endpoint is taken out of every node's rules.
	drain = 5 * time.Second
	// finish is how long the requests that are then still at work may take.
	finish = 10 * time.Second
	// patience is how long a client may take to send the head of a request.
	patience = 5 * time.Second
)

// service answers for one pod.
type service struct {
	files    []string // paths, each with a base name of its own
	version  string
	pod      string
	draining atomic.Bool
}

func newService(files []string, version, pod string) (*service, error) {
	names := map[string]string{}
	for _, file := range files {
		name := filepath.Base(file)
		if other, taken := names[name]; taken {
			return nil, &usageError{fmt.Errorf("--config=%s and --config=%s have one name; each file is served under its base name", other, file)}
		}
		names[name] = file
	}
	return &service{files: files, version: version, pod: pod}, nil
}

func serveCommand(ctx context.Context, args []string, log io.Writer) error {
	var files []string
	flags := flag.NewFlagSet("app", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Func("config", "a `file` that is served under /config/ by its base name; may be repeated", func(file string) error {
		if file == "" {
			return errors.New("no file named")
		}
		files = append(files, file)
		return nil
	})
	address := flags.String("listen", ":8080", "`address` to serve on")
	if err := parse(flags, args); err != nil {
		return err
	}
	pod, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find this pod's name: %w", err)
	}
	s, err := newService(files, cmp.Or(os.Getenv("APP_VERSION"), "unknown"), pod)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return fmt.Errorf("serve on %s: %w", *address, err)
	}
	fmt.Fprintf(log, "app %s in %s: serving %s on %s\n", s.version, s.pod, cmp.Or(strings.Join(s.files, ", "), "no files"), listener.Addr())
	return s.serve(ctx, listener, drain, log)
}

// serve answers until ctx ends, and for the drain after that.
func (s *service) serve(ctx context.Context, listener net.Listener, drain time.Duration, log io.Writer) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: patience}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	fmt.Fprintf(log, "app %s in %s: told to end; serving for %s more\n", s.version, s.pod, drain)
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s while ending: %w", listener.Addr(), err)
	case <-time.After(drain):
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return fmt.Errorf("requests were still at work %s after the end of serving: %w", finish, err)
	}
	return nil
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		for _, path := range s.paths() {
			fmt.Fprintln(w, path)
		}
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(struct {
			Version string `json:"version"`
			Pod     string `json:"pod"`
		}{s.version, s.pod})
	})
	for _, file := range s.files {
		mux.HandleFunc("GET /config/"+filepath.Base(file), func(w http.ResponseWriter, _ *http.Request) {
			// Read anew each time: a mounted ConfigMap may change under a running pod.
			content, err := os.ReadFile(file)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(content)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", s.version)
		w.Header().Set("X-Pod", s.pod)
		if s.draining.Load() {
			// Who keeps connections looks for another pod while this one still
			// answers.
			w.Header().Set("Connection", "close")
		}
		mux.ServeHTTP(w, r)
	})
}

// paths lists what is served.
func (s *service) paths() []string {
	paths := []string{"/", "/healthz", "/readyz", "/version"}
	for _, file := range s.files {
		paths = append(paths, "/config/"+filepath.Base(file))
	}
	return paths
}

// ready says why requests should go elsewhere; nil where they should not.
func (s *service) ready() error {
	if s.draining.Load() {
		return errors.New("this pod was told to end")
	}
	var problems []error
	for _, file := range s.files {
		if _, err := os.ReadFile(file); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
