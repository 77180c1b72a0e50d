package program

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/offline"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/report"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// settleTime is how long a folder must be quiet after a change: an editor writes,
// renames and touches in one save.
const settleTime = 40 * time.Millisecond

func (p *program) watchCommand(ctx context.Context) *cobra.Command {
	in := &policiesInput{}
	c := &cobra.Command{
		Use: "watch [DIR]", Short: "Keep a session, and judge what changes in a folder of policies at each save (default: the folder policies)",
		Args: in.take,
		RunE: func(*cobra.Command, []string) error { return p.watch(ctx, in) },
	}
	in.flags(c)
	// A watch stops at no wrong file, and writes no report.
	for _, name := range []string{"strict", "explained"} {
		_ = c.Flags().MarkHidden(name)
	}
	return c
}

// watch judges a folder, and again after each save, until it is interrupted.
func (p *program) watch(ctx context.Context, in *policiesInput) error {
	soft, hard, release := p.interrupts(ctx)
	defer release()
	if in.dir == "" {
		in.dir = policiesFolder
	}
	w := &watch{program: p, names: in.names, known: map[string]string{}}
	if err := w.prepare(in); err != nil {
		return invalid{err}
	}
	b, err := p.startBench(soft, in.artifacts)
	if err == nil {
		w.bench = b
		err = w.run(soft)
	}
	if errors.Is(context.Cause(soft), session.ErrInterrupted) {
		err = nil // that is how a watch ends
	}
	return errors.Join(err, b.stop(hard))
}

// watch is what is known of a folder while it is watched.
type watch struct {
	*program
	*bench

	dir     string
	names   []string
	changes *fsnotify.Watcher
	asking  *live.Bench
	library *example.Library
	// known are the fingerprints of the policies with their examples that were judged
	// last; failing are those that did not come out well.
	known   map[string]string
	failing []string
	// told are the findings of the state that was judged last; waiting: those of the
	// files as they are now are others, and that state stays.
	told    []string
	waiting bool
}

// prepare reads the folder for the first time and begins to look at it.
func (w *watch) prepare(in *policiesInput) error {
	var err error
	if in.artifacts, err = filepath.Abs(in.artifacts); err != nil {
		return err
	}
	if err := readyArtifacts(in.artifacts); err != nil {
		return err
	}
	if w.library, err = loadPolicies(in.dir, in.names); err != nil {
		return err
	}
	w.dir = w.library.Dir
	for _, news := range w.news(w.library.Findings) {
		fmt.Fprintln(w.errOut, news)
	}
	w.take(w.library.Findings)
	if len(w.library.Policies) == 0 {
		return fmt.Errorf("%s: there is no policy to watch", w.dir)
	}
	if w.changes, err = fsnotify.NewWatcher(); err != nil {
		return fmt.Errorf("watch %s: %w", w.dir, err)
	}
	return w.look(w.dir)
}

// look adds a folder, and those below it, to what is watched.
func (w *watch) look(dir string) error {
	return filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // it has gone again, or will be read, which tells what is wrong
		}
		if entry.Name() == ".git" {
			return filepath.SkipDir
		}
		if err := w.changes.Add(name); err != nil {
			return fmt.Errorf("watch %s: %w", name, err)
		}
		return nil
	})
}

// run judges all, then what changes.
func (w *watch) run(ctx context.Context) error {
	defer func() { _ = w.changes.Close() }()
	var err error
	if w.asking, err = w.open(ctx); err != nil {
		return err
	}
	err = w.phase(bringup.BenchName, phaseLive, func() error { return w.judge(ctx, w.library, time.Now()) })
	if err != nil {
		return err
	}
	w.doing.Store("")
	fmt.Fprintf(w.out, "watching %s; Ctrl-C ends it\n", w.dir)
	var saved time.Time
	quiet := time.NewTimer(settleTime)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.supervisor.Done():
			return w.supervisor.Err()
		case err := <-w.changes.Errors:
			return fmt.Errorf("watch %s: %w", w.dir, err)
		case change := <-w.changes.Events:
			if change.Op == fsnotify.Chmod {
				continue
			}
			if info, err := os.Stat(change.Name); err == nil && info.IsDir() {
				if err := w.look(change.Name); err != nil {
					return err
				}
			}
			if saved.IsZero() {
				saved = time.Now()
			}
			quiet.Reset(settleTime)
		case <-quiet.C:
			at := saved
			saved = time.Time{}
			if err := w.save(ctx, at); err != nil {
				return err
			}
		}
	}
}

// save reads the folder again. Where something is wrong with a file, that is shown,
// and what was judged last stays.
func (w *watch) save(ctx context.Context, at time.Time) error {
	library, err := loadPolicies(w.dir, w.names)
	if err != nil {
		w.waiting = true
		fmt.Fprintf(w.errOut, "%s %s; the last state stays\n", at.Format(time.TimeOnly), err)
		return nil
	}
	if news := w.news(library.Findings); len(news) > 0 {
		w.waiting = true
		fmt.Fprintf(w.errOut, "%s\n%s the last state stays until the files can be read\n", strings.Join(news, "\n"), at.Format(time.TimeOnly))
		return nil
	}
	w.take(library.Findings)
	w.library = library
	if w.waiting {
		fmt.Fprintf(w.out, "%s the files can be read again\n", at.Format(time.TimeOnly))
	}
	err = w.judge(ctx, library, at)
	w.waiting = false
	return err
}

// news are the findings that the state that was judged last did not have. Lines move
// with every edit.
func (w *watch) news(findings []example.Finding) []string {
	var out []string
	for _, f := range findings {
		if !slices.Contains(w.told, withoutLine(f)) {
			out = append(out, f.Error())
		}
	}
	return out
}

// take makes findings those of the state that is judged.
func (w *watch) take(findings []example.Finding) {
	w.told = nil
	for _, f := range findings {
		w.told = append(w.told, withoutLine(f))
	}
}

func withoutLine(f example.Finding) string { return f.File + ": " + f.Text }

// judge judges the policies of which anything changed, and shows what came of it.
func (w *watch) judge(ctx context.Context, library *example.Library, at time.Time) error {
	prints := fingerprints(library)
	changed := func(p *example.Policy) bool { return w.known[placed(p)] != prints[placed(p)] }
	for name := range w.known {
		if prints[name] == "" {
			fmt.Fprintf(w.out, "%s gone: %s\n", at.Format(time.TimeOnly), name)
			delete(w.known, name)
			w.failing = slices.DeleteFunc(w.failing, func(f string) bool { return f == name })
		}
	}
	if !slices.ContainsFunc(library.Policies, changed) {
		if w.waiting {
			w.state()
		}
		return nil
	}
	narrow(library, changed)
	out := report.Input{Library: library, Started: at}
	group, both := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		out.Live, err = w.asking.Judge(both, library)
		return err
	})
	group.Go(func() error {
		path, err := w.cli(both)
		if err == nil {
			out.Offline, err = offline.Judge(both, path, w.folder(), library)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	verdicts := time.Since(at)
	var err error
	if out.Coverage, err = cover(ctx, w.asking, library, out.Live, everyPolicy); err != nil {
		return err
	}
	for _, p := range library.Policies {
		w.known[placed(p)] = prints[placed(p)]
	}
	return w.show(report.Make(out), at, verdicts)
}

// show writes what is known of the policies that were judged.
func (w *watch) show(r report.Report, at time.Time, verdicts time.Duration) error {
	options := progress.ForFile(os.Stdout, os.Getenv)
	text := check.TextOptions{Width: options.Columns(), Colour: options.Colour}
	fmt.Fprintf(w.out, "\n%s %s after the save\n", at.Format(time.TimeOnly), verdicts.Round(10*time.Millisecond))
	if err := r.WriteState(w.out, text); err != nil {
		return err
	}
	for _, p := range r.Policies {
		name := p.String() + " (" + p.File + ")"
		w.failing = slices.DeleteFunc(w.failing, func(f string) bool { return f == name })
		if r.Fails(p) {
			w.failing = append(w.failing, name)
		}
	}
	w.state()
	return nil
}

// state writes which policies are not well, as they were judged last.
func (w *watch) state() {
	options := progress.ForFile(os.Stdout, os.Getenv)
	text := check.TextOptions{Colour: options.Colour}
	state := text.Paint(check.Good, "all policies are well")
	if len(w.failing) > 0 {
		slices.Sort(w.failing)
		state = text.Paint(check.Bad, fmt.Sprintf("%d of %d policies are not well", len(w.failing), len(w.known))) + ": " + strings.Join(w.failing, ", ")
	}
	fmt.Fprintln(w.out, state)
}

// placed names a policy so that one of another file is another.
func placed(p *example.Policy) string { return p.String() + " (" + p.File + ")" }

// fingerprints are of all that the verdicts on each policy depend on: what it says,
// its examples, and the world that their tests state.
func fingerprints(library *example.Library) map[string]string {
	type world struct {
		Test     example.Test
		Examples []example.Example
	}
	worlds := map[*example.Policy][]world{}
	for _, t := range library.Tests {
		of := map[*example.Policy][]example.Example{}
		var order []*example.Policy
		for _, e := range t.Examples {
			if of[e.Policy] == nil {
				order = append(order, e.Policy)
			}
			one := *e
			// They are looked at by themselves; lines move with every edit.
			one.Test, one.Policy, one.Line = nil, nil, 0
			of[e.Policy] = append(of[e.Policy], one)
		}
		bare := *t
		bare.Policies, bare.Examples, bare.Resources, bare.Line = nil, nil, nil, 0
		for _, p := range order {
			worlds[p] = append(worlds[p], world{bare, of[p]})
		}
	}
	out := map[string]string{}
	for _, p := range library.Policies {
		bare := *p
		bare.Line = 0
		content, err := json.Marshal(struct {
			Policy example.Policy
			Worlds []world
		}{bare, worlds[p]})
		if err != nil {
			content = fmt.Append(nil, time.Now()) // it is judged rather than passed over
		}
		sum := sha256.Sum256(content)
		out[placed(p)] = hex.EncodeToString(sum[:])
	}
	return out
}
