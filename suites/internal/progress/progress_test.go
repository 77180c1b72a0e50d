package progress_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/golden"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
)

var start = time.Date(2026, 5, 4, 8, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

// run is a bring-up of two environments.
var run = []progress.Event{
	{Time: at(0), Phase: "components"},
	{Time: at(0.4), Phase: "components", Done: true},
	{Time: at(0.4), Environment: "dev", Phase: "cluster", Waiting: "kube-apiserver", Message: "connection refused"},
	{Time: at(0.5), Environment: "prd", Phase: "cluster", Waiting: "kube-apiserver"},
	{Time: at(6.4), Environment: "dev", Phase: "cluster", Waiting: "Node node-0"},
	{Time: at(7.4), Environment: "dev", Phase: "platform", Waiting: "Kustomization flux-system/infra"},
	{Time: at(8), Environment: "dev", Message: "HTTPS_PROXY is set\nSSL_CERT_FILE is set"},
	{Time: at(9), Environment: "prd", Phase: "cluster", Done: true},
	{Time: at(12.4), Environment: "dev", Phase: "platform", Waiting: "HelmRelease kyverno/kyverno", Message: "not ready"},
	{Time: at(27.4), Environment: "dev", Phase: "platform", Waiting: "Kustomization flux-system/infra", Message: "dependency\nnot ready"},
	{Time: at(29.4), Environment: "dev", Phase: "platform"},
	{Time: at(30), Environment: "dev", Phase: "platform", Done: true},
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var timeline progress.Timeline
	for _, e := range run {
		timeline.Add(e)
	}
	timeline.Add(progress.Event{Time: at(30), Environment: "prd", Phase: "platform", Waiting: "GitRepository a", Expected: 20 * time.Second})

	want := []check.Phase{
		{Name: "components", Started: at(0), Seconds: 0.4},
		{
			Environment: "dev", Name: "cluster", Started: at(0.4), Seconds: 7,
			WaitedFor: []check.Wait{{Object: "kube-apiserver", Seconds: 6}, {Object: "Node node-0", Seconds: 1}},
		},
		{
			Environment: "prd", Name: "cluster", Started: at(0.5), Seconds: 8.5,
			WaitedFor: []check.Wait{{Object: "kube-apiserver", Seconds: 8.5}},
		},
		{
			Environment: "dev", Name: "platform", Started: at(7.4), Seconds: 22.6,
			WaitedFor: []check.Wait{
				{Object: "HelmRelease kyverno/kyverno", Seconds: 15}, {Object: "Kustomization flux-system/infra", Seconds: 7},
			},
		},
		{
			Environment: "prd", Name: "platform", Started: at(30), Seconds: 5, ExpectedSeconds: 20,
			WaitedFor: []check.Wait{{Object: "GitRepository a", Seconds: 5}},
		},
	}
	g.Expect(cmp.Diff(want, timeline.Phases(at(35)))).To(BeEmpty())
	g.Expect(timeline.Phases(at(36))[4].Seconds).To(Equal(6.0), "a phase that goes on is not changed by looking at it")

	var table bytes.Buffer
	g.Expect(progress.WriteTable(&table, timeline.Phases(at(35)))).To(Succeed())
	golden.Compare(t, "table.txt", table.String())
	table.Reset()
	g.Expect(progress.WriteTable(&table, nil)).To(Succeed())
	g.Expect(table.String()).To(BeEmpty())
}

// Clocks of two processes may differ a little; no phase takes less than nothing.
func TestTimelineBackwards(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var timeline progress.Timeline
	timeline.Add(progress.Event{Time: at(2), Environment: "dev", Phase: "cluster", Waiting: "a"})
	timeline.Add(progress.Event{Time: at(1), Environment: "dev", Phase: "cluster", Done: true})
	g.Expect(timeline.Phases(at(0))).To(Equal([]check.Phase{{
		Environment: "dev", Name: "cluster", Started: at(2), WaitedFor: []check.Wait{{Object: "a"}},
	}}))
}

// clock is a clock that stands still until it is set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// screen does what a terminal does with the sequences that a display uses, and
// fails on any other.
func screen(t *testing.T, output string) []string {
	t.Helper()
	up := regexp.MustCompile(`^\r\x1b\[(\d+)A\x1b\[J`)
	colour := regexp.MustCompile(`\x1b\[\d+m`)
	lines := []string{""}
	for output != "" {
		if match := up.FindStringSubmatch(output); match != nil {
			count := 0
			for _, digit := range match[1] {
				count = count*10 + int(digit-'0')
			}
			lines = append(lines[:len(lines)-1-count], "")
			output = output[len(match[0]):]
			continue
		}
		char := output[0]
		output = output[1:]
		if char == '\n' {
			lines = append(lines, "")
			continue
		}
		lines[len(lines)-1] += string([]byte{char})
	}
	for i := range lines {
		lines[i] = colour.ReplaceAllString(lines[i], "")
		if strings.ContainsAny(lines[i], "\x1b\r") {
			t.Errorf("line %d moves the cursor: %q", i, lines[i])
		}
	}
	return lines
}

func TestDisplayPlain(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		display := progress.NewDisplay(progress.Options{
			Out: &out, Colour: true,
			History: progress.History{"dev": {"platform": 18, "cluster": 120}},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { display.Run(ctx) })
		for _, e := range run {
			offset := e.Time.Sub(start)
			<-time.After(time.Until(begin.Add(offset)))
			e.Time = time.Time{}
			display.Handle(e)
		}
		cancel()
		group.Wait()
	})
	golden.Compare(t, "plain.txt", out.String())
}

func TestDisplayRedraws(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	now := &clock{now: start}
	var out bytes.Buffer
	display := progress.NewDisplay(progress.Options{
		Out: &out, Redraw: true, Colour: true, Now: now.Now,
		Size:    func() (int, int) { return 72, 24 },
		History: progress.History{"prd": {"platform": 18, "cluster": 3}},
	})
	var pictures []string
	for _, e := range run {
		now.set(e.Time)
		display.Handle(e)
		pictures = append(pictures, strings.Join(screen(t, out.String()), "\n"))
	}
	golden.Compare(t, "screens.txt", strings.Join(pictures, "==\n"))
	g.Expect(out.String()).To(ContainSubstring("\x1b[33m"), "prd takes more than twice the expected time")
}

func TestDisplayWithoutColour(t *testing.T) {
	t.Parallel()
	now := &clock{now: start}
	var out bytes.Buffer
	display := progress.NewDisplay(progress.Options{
		Out: &out, Redraw: true, Now: now.Now, History: progress.History{"dev": {"cluster": 1}},
	})
	now.set(at(10))
	display.Handle(progress.Event{Time: at(1), Environment: "dev", Phase: "cluster"})
	NewWithT(t).Expect(out.String()).NotTo(ContainSubstring("m"+"\x1b"), "only the cursor is moved")
	NewWithT(t).Expect(out.String()).NotTo(ContainSubstring("[33m"))
}

// More environments than rows: the last line says how many are not shown.
func TestDisplayOnALowTerminal(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var out bytes.Buffer
	display := progress.NewDisplay(progress.Options{
		Out: &out, Redraw: true, Now: (&clock{now: start}).Now, Size: func() (int, int) { return 20, 5 },
	})
	for _, environment := range []string{"a", "b", "c", "d"} {
		display.Handle(progress.Event{Environment: environment, Phase: "cluster", Waiting: "something with a long name"})
	}
	lines := screen(t, out.String())
	g.Expect(lines).To(HaveLen(4))
	g.Expect(lines[2]).To(Equal("… and 2 more"))
	for _, line := range lines {
		g.Expect(len([]rune(line))).To(BeNumerically("<", 20))
	}
}

func TestDisplayMessagesCannotMoveTheCursor(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	display := progress.NewDisplay(progress.Options{Out: &out, Now: (&clock{now: start}).Now})
	display.Handle(progress.Event{Environment: "dev", Message: "a\x1b[2Jb\x07\u202e"})
	NewWithT(t).Expect(out.String()).To(Equal(" 0.0 s  dev   a [2Jb  \n"))
}

// A logger shares the terminal: its lines come above what is redrawn, whole.
func TestDisplayWrite(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var out bytes.Buffer
	display := progress.NewDisplay(progress.Options{Out: &out, Redraw: true, Now: (&clock{now: start}).Now})
	display.Handle(progress.Event{Environment: "dev", Phase: "cluster"})
	for _, part := range []string{"one\ntw", "o", "\nthree"} {
		count, err := display.Write([]byte(part))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(count).To(Equal(len(part)))
	}
	g.Expect(screen(t, out.String())).To(Equal([]string{"one", "two", " 0.0 s  dev   cluster 0.0 s", ""}))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	display.Run(ctx)
	g.Expect(screen(t, out.String())).To(Equal([]string{"one", "two", "three", ""}), "at the end nothing redrawn is left")
}

func TestForFile(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = file.Close() })
	options := progress.ForFile(file, func(string) string { return "" })
	g.Expect(options.Redraw).To(BeFalse(), "a file is no terminal")
	g.Expect(options.Colour).To(BeFalse())
	g.Expect(options.Columns()).To(Equal(100))
}

func TestHistory(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "state", "history.json")
	history, err := progress.LoadHistory(file)
	g.Expect(err).NotTo(HaveOccurred(), "no history is no mistake")
	history.Learn([]check.Phase{
		{Environment: "dev", Name: "platform", Seconds: 5}, {Environment: "dev", Name: "platform", Seconds: 2}, {Name: "components", Seconds: 1},
	})
	g.Expect(progress.SaveHistory(file, history)).To(Succeed())
	history, err = progress.LoadHistory(file)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(history).To(Equal(progress.History{"dev": {"platform": 7}, "": {"components": 1}}))
	history.Learn([]check.Phase{{Environment: "dev", Name: "cluster", Seconds: 3}})
	g.Expect(history["dev"]).To(Equal(map[string]float64{"platform": 7, "cluster": 3}))

	g.Expect(os.WriteFile(file, []byte("{"), 0o600)).To(Succeed())
	history, err = progress.LoadHistory(file)
	g.Expect(err).To(MatchError(ContainSubstring("which may be removed")))
	g.Expect(history).NotTo(BeNil())
	g.Expect(os.WriteFile(file, []byte("null"), 0o600)).To(Succeed())
	history, err = progress.LoadHistory(file)
	g.Expect(err).NotTo(HaveOccurred())
	history.Learn([]check.Phase{{Name: "components", Seconds: 1}})
}
