package progress

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// Options say where and how a Display draws. Only Out is required.
type Options struct {
	// Out is what is written to.
	Out io.Writer
	// Redraw allows to draw over what was drawn; else plain lines are printed.
	Redraw bool
	// Colour allows ANSI colours; only with Redraw.
	Colour bool
	// Size gives the terminal's columns and rows, asked for at each drawing; nil is
	// 100 by 24.
	Size func() (columns, rows int)
	// Heartbeat is how long plain output stays silent before it says what is waited
	// for; default 10 s.
	Heartbeat time.Duration
	// History gives expected times; nil knows none.
	History History
	// Now is the clock; default time.Now.
	Now func() time.Time
}

const (
	defaultHeartbeat = 10 * time.Second
	redrawInterval   = 200 * time.Millisecond
	defaultColumns   = 100
	defaultRows      = 24
)

// ForFile returns the options for a file: drawing and colours on a terminal
// only, no colours where NO_COLOR is set, plain lines where TERM is dumb.
func ForFile(file *os.File, getenv func(string) string) Options {
	descriptor := int(file.Fd())
	drawing := term.IsTerminal(descriptor) && getenv("TERM") != "dumb"
	return Options{
		Out:    file,
		Redraw: drawing,
		Colour: drawing && getenv("NO_COLOR") == "",
		Size: func() (int, int) {
			columns, rows, err := term.GetSize(descriptor)
			if err != nil {
				return 0, 0
			}
			return columns, rows
		},
	}
}

// Columns is the width to lay text out for.
func (o Options) Columns() int {
	columns, _ := o.size()
	return columns
}

func (o Options) size() (columns, rows int) {
	if o.Size != nil {
		columns, rows = o.Size()
	}
	if columns <= 0 {
		columns = defaultColumns
	}
	if rows <= 0 {
		rows = defaultRows
	}
	return columns, rows
}

// Display shows events as they come. It is safe for concurrent use.
type Display struct {
	options Options

	mu       sync.Mutex
	timeline Timeline
	started  time.Time
	spoke    time.Time // when plain output last said something
	drawn    int       // lines on the terminal that will be drawn over
	partial  []byte    // what Write was given of a line that has not ended
}

// NewDisplay returns a display; Run keeps it moving.
func NewDisplay(options Options) *Display {
	if options.Heartbeat <= 0 {
		options.Heartbeat = defaultHeartbeat
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	options.Colour = options.Colour && options.Redraw
	now := options.Now()
	return &Display{options: options, started: now, spoke: now}
}

// Handle takes an event in and shows it.
func (d *Display) Handle(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = d.options.Now()
	}
	if e.Expected == 0 {
		e.Expected = d.options.History.expected(e.Environment, e.Phase)
	}
	began, ended := d.timeline.Add(e)
	var lines []string
	finished := func() {
		if ended != nil {
			lines = append(lines, d.line(e.Time, ended.Environment, fmt.Sprintf("%s done in %s%s",
				ended.Name, short(ended.Seconds), aside(" (expected %s)", ended.ExpectedSeconds))))
		}
	}
	if !e.Done {
		finished()
	}
	if began && !e.Done && !d.options.Redraw {
		lines = append(lines, d.line(e.Time, e.Environment, e.Phase+aside(" (expected %s)", e.Expected.Seconds())))
	}
	if e.Message != "" && e.Waiting == "" {
		for _, message := range strings.Split(strings.TrimRight(e.Message, "\n"), "\n") {
			lines = append(lines, d.line(e.Time, e.Environment, printable(message)))
		}
	}
	if e.Done {
		finished()
	}
	d.print(lines)
}

// Write prints whole lines above what is redrawn, so that a logger and the
// display can share a terminal. An unfinished line waits for its end.
func (d *Display) Write(content []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.partial = append(d.partial, content...)
	end := bytes.LastIndexByte(d.partial, '\n')
	if end < 0 {
		return len(content), nil
	}
	whole := string(d.partial[:end])
	d.partial = append([]byte(nil), d.partial[end+1:]...)
	d.print(strings.Split(whole, "\n"))
	return len(content), nil
}

// Run redraws, or gives signs of life, until the context ends; then it takes away
// what was drawn. It blocks.
func (d *Display) Run(ctx context.Context) {
	ticker := time.NewTicker(redrawInterval)
	defer ticker.Stop()
	defer d.clear()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			d.tick()
		}
	}
}

// Phases lists all phases so far; see Timeline.Phases.
func (d *Display) Phases() []check.Phase {
	return d.timeline.Phases(d.options.Now())
}

// tick redraws the lines of the running phases, or says in plain lines what they
// wait for when nothing has been said for a while.
func (d *Display) tick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.options.Now()
	if d.options.Redraw {
		d.print(nil)
		return
	}
	if now.Sub(d.spoke) < d.options.Heartbeat {
		return
	}
	d.spoke = now
	var lines []string
	for _, p := range d.timeline.current() {
		lines = append(lines, d.line(now, p.environment, p.state(now)))
	}
	d.print(lines)
}

func (d *Display) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out strings.Builder
	d.erase(&out)
	if len(d.partial) > 0 {
		out.Write(append(d.partial, '\n'))
		d.partial = nil
	}
	_, _ = io.WriteString(d.options.Out, out.String())
}

// print writes lines that stay and, on a terminal, the running phases below them.
// All of it goes out in one write. A display that cannot write has nobody to tell.
func (d *Display) print(lines []string) {
	var out strings.Builder
	d.erase(&out)
	for _, line := range lines {
		out.WriteString(line + "\n")
	}
	if len(lines) > 0 {
		d.spoke = d.options.Now()
	}
	if d.options.Redraw {
		d.draw(&out)
	}
	if out.Len() > 0 {
		_, _ = io.WriteString(d.options.Out, out.String())
	}
}

func (d *Display) erase(out *strings.Builder) {
	if d.drawn > 0 {
		fmt.Fprintf(out, "\r\x1b[%dA\x1b[J", d.drawn)
		d.drawn = 0
	}
}

func (d *Display) draw(out *strings.Builder) {
	now := d.options.Now()
	columns, rows := d.options.size()
	running := d.timeline.current()
	const reserved = 2 // the cursor's own line, and one that stays in sight
	shown := running[:min(len(running), max(1, rows-reserved-1))]
	for _, p := range shown {
		out.WriteString(d.emphasised(fit(d.line(now, p.environment, p.state(now)), columns-1), p) + "\n")
		d.drawn++
	}
	if left := len(running) - len(shown); left > 0 {
		fmt.Fprintf(out, "… and %d more\n", left)
		d.drawn++
	}
}

// emphasised colours the line of a phase that takes much longer than expected.
func (d *Display) emphasised(line string, p phase) string {
	const muchLonger = 2
	if !d.options.Colour || p.expected == 0 || d.options.Now().Sub(p.started) < muchLonger*p.expected {
		return line
	}
	return "\x1b[33m" + line + "\x1b[0m"
}

// line is for example "  12 s  dev  text".
func (d *Display) line(at time.Time, environment, text string) string {
	if environment == "" {
		environment = "all"
	}
	return fmt.Sprintf("%6s  %-4s  %s", short(max(0, at.Sub(d.started)).Seconds()), environment, text)
}

// state is for example "platform 12 s of about 20 s, waiting 4 s for X: message".
func (p *phase) state(now time.Time) string {
	text := p.name + " " + short(max(0, now.Sub(p.started)).Seconds()) + aside(" of about %s", p.expected.Seconds())
	if p.waiting != "" {
		text += ", waiting"
		if waited := now.Sub(p.waitingSince); waited >= time.Second {
			text += " " + short(waited.Seconds())
		}
		text += " for " + p.waiting
	}
	if p.waiting != "" && p.message != "" {
		text += ": " + p.message
	}
	return printable(strings.ReplaceAll(text, "\n", " "))
}

// short is a duration as people read it: 0.4 s, 12 s, 3 min 05 s.
func short(seconds float64) string {
	const minute = 60
	switch {
	case seconds < 9.95:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 99.5:
		return fmt.Sprintf("%.0f s", seconds)
	default:
		whole := int(seconds + 0.5)
		return fmt.Sprintf("%d min %02d s", whole/minute, whole%minute)
	}
}

func aside(format string, seconds float64) string {
	if seconds <= 0 {
		return ""
	}
	return fmt.Sprintf(format, short(seconds))
}

// fit cuts a line to the columns of the terminal: one that wraps would not be
// erased as a whole.
func fit(line string, columns int) string {
	letters := []rune(line)
	if len(letters) <= columns || columns < 1 {
		return line
	}
	return string(letters[:columns-1]) + "…"
}

// printable keeps control characters of messages from moving the cursor.
func printable(text string) string {
	return strings.Map(func(char rune) rune {
		if unicode.IsControl(char) || unicode.Is(unicode.Cf, char) {
			return ' '
		}
		return char
	}, text)
}
