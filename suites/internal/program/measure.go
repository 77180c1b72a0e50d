package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/measure"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// sizes are the libraries that are measured, in policies and results: the first is
// also judged one example after the other.
var sizes = []struct{ policies, results int }{{14, 63}, {60, 600}, {150, 1500}, {500, 5000}}

// saves is how many times a policy is saved, among that many.
const (
	saves        = 15
	savePolicies = 20
	saveResults  = 200
)

func (p *program) measureCommand(ctx context.Context) *cobra.Command {
	var artifacts string
	var largest int
	c := &cobra.Command{
		Use: "measure", Hidden: true, Args: noArguments,
		Short: "How fast policies are judged: live, offline, one after the other, and after a save",
		RunE: func(*cobra.Command, []string) error {
			soft, hard, release := session.Interrupts(ctx, nil)
			defer release()
			b, err := p.startBench(soft, artifacts)
			if err == nil {
				err = b.await(soft)
			}
			if err == nil {
				err = p.measure(soft, b, largest)
			}
			return errors.Join(err, b.stop(hard))
		},
	}
	c.Flags().StringVar(&artifacts, "artifacts", "artifacts", "folder for the session's log")
	c.Flags().IntVar(&largest, "results", sizes[len(sizes)-1].results, "size of the largest library")
	return c
}

// measure prints each figure as soon as it is there.
func (p *program) measure(ctx context.Context, b *bench, largest int) error {
	scratch, err := os.MkdirTemp(b.folder(), "measure-")
	if err != nil {
		return fmt.Errorf("measure: %w", err)
	}
	cli, err := b.cli(ctx)
	if err != nil {
		return err
	}
	write := func(policies, results int) (*example.Library, error) {
		dir := filepath.Join(scratch, fmt.Sprintf("%d", results))
		if err := measure.WriteLibrary(dir, policies, results); err != nil {
			return nil, err
		}
		return loadPolicies(dir, nil)
	}
	fmt.Fprintf(p.out, "\n%8s %8s %8s %9s %9s %13s %10s %9s %9s %8s\n",
		"policies", "results", "live", "offline", "ratio", "live a result", "requests/s", "p50", "p99", "workers")
	for _, size := range sizes {
		if size.results > largest {
			continue
		}
		library, err := write(size.policies, size.results)
		if err != nil {
			return err
		}
		judged, took, err := b.fresh(ctx, library)
		if err != nil {
			return err
		}
		began := time.Now()
		if said, err := exec.CommandContext(ctx, cli, "test", library.Dir, "--remove-color").CombinedOutput(); err != nil {
			return fmt.Errorf("judge %s offline: %w: %s", library.Dir, err, lastLines(said))
		}
		offline := time.Since(began)
		s := judged.Stats
		fmt.Fprintf(p.out, "%8d %8d %7.1fs %8.1fs %9.2f %11.1fms %10.0f %7.0fms %7.0fms %8d\n",
			size.policies, size.results, took.Seconds(), offline.Seconds(), took.Seconds()/offline.Seconds(),
			float64(took.Milliseconds())/float64(size.results), float64(s.Requests)/(s.Preparing+s.Asking).Seconds(),
			ms(s.P50), ms(s.P99), s.Workers)
		if size == sizes[0] {
			if err := p.measureSequence(ctx, b, library, took); err != nil {
				return err
			}
		}
	}
	library, err := write(savePolicies, saveResults)
	if err != nil {
		return err
	}
	if err := p.measureSaves(ctx, b, library); err != nil {
		return err
	}
	if b.cluster, err = b.state.Environment.ClusterReport(ctx); err != nil {
		return err
	}
	writePeaks(p, b.cluster)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// lastLines are the end of what a program printed.
func lastLines(output []byte) string { return string(output[max(0, len(output)-2000):]) }

// fresh judges a library of which nothing is installed, and removes it again: the
// time is that of the judgement, installation and canaries included.
func (b *bench) fresh(ctx context.Context, library *example.Library) (*live.Judgement, time.Duration, error) {
	asking, err := b.connect(ctx, live.Options{})
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	judged, err := asking.Judge(ctx, library)
	took := time.Since(began)
	if err == nil {
		err = asExpected(judged)
	}
	return judged, took, errors.Join(err, asking.Close(context.WithoutCancel(ctx)))
}

// asExpected refuses a judgement that is not what the library says: a figure for
// wrong answers says nothing.
func asExpected(judged *live.Judgement) error {
	for _, v := range judged.Verdicts {
		if v.Verdict != v.Example.Expected {
			return fmt.Errorf("%s: expected %s, and live it is %s: %s", v.Example, v.Example.Expected, v.Verdict, v.Reason)
		}
	}
	return nil
}

// measureSequence compares with one example after the other.
func (p *program) measureSequence(ctx context.Context, b *bench, library *example.Library, took time.Duration) error {
	config, err := b.state.Environment.Config()
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	began := time.Now()
	count, err := measure.Sequential(ctx, c, library)
	if err != nil {
		return err
	}
	sequence := time.Since(began)
	fmt.Fprintf(p.out, "%17d created, asserted and deleted one after the other: %.1fs, %.0f times the live judgement\n",
		count, sequence.Seconds(), sequence.Seconds()/took.Seconds())
	return nil
}

// measureSaves prints how long it takes from a save to the verdicts, differences
// apart, that «watch» prints of it.
func (p *program) measureSaves(ctx context.Context, b *bench, library *example.Library) error {
	asking, err := b.connect(ctx, live.Options{})
	if err != nil {
		return err
	}
	if _, err = asking.Judge(ctx, library); err != nil {
		return err
	}
	var took []time.Duration
	for i := range saves {
		policy := library.Policies[i%len(library.Policies)]
		name := filepath.Join(library.Dir, filepath.FromSlash(policy.File))
		// Another annotation makes it another policy, with the same verdicts.
		object := policy.Object.DeepCopy()
		object.SetAnnotations(map[string]string{"saved": fmt.Sprint(i)})
		data, err := object.MarshalJSON()
		if err != nil {
			return fmt.Errorf("save a policy: %w", err)
		}
		began := time.Now()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return fmt.Errorf("save a policy: %w", err)
		}
		again, err := loadPolicies(library.Dir, nil)
		if err != nil {
			return err
		}
		judged, err := asking.Judge(ctx, again)
		if err == nil {
			err = asExpected(judged)
		}
		if err == nil {
			_, err = cover(ctx, asking, again, judged, func(p *example.Policy) bool { return p.Object.GetName() == object.GetName() })
		}
		if err != nil {
			return errors.Join(err, asking.Close(context.WithoutCancel(ctx)))
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	fmt.Fprintf(p.out, "save to verdict and coverage, among %d policies with %d results: p50 %.2fs, longest %.2fs of %d\n",
		savePolicies, saveResults, took[len(took)/2].Seconds(), took[len(took)-1].Seconds(), len(took))
	return asking.Close(context.WithoutCancel(ctx))
}
