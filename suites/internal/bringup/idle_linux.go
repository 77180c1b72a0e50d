package bringup

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"
)

// idleInterval is how often it is looked whether anything works.
const idleInterval = 250 * time.Millisecond

// measureIdle adds up, until ctx ends, the time in which this machine's
// processors did next to nothing, so that whoever waited, waited for a timer. On
// a machine that others use too it is a lower bound.
func measureIdle(ctx context.Context, add func(time.Duration)) {
	ticker := time.NewTicker(idleInterval)
	defer ticker.Stop()
	last, lastTime := busyTicks(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			busy, passed := busyTicks(), now.Sub(lastTime)
			// The kernel counts in hundredths of a second: a twentieth of one
			// processor is what the pollers themselves cost.
			worked := time.Duration(busy-last) * 10 * time.Millisecond
			if worked < passed/20 {
				add(passed)
			}
			last, lastTime = busy, now
		}
	}
}

// busyTicks is how long all processors have worked, from the first line of
// /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
func busyTicks() int64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	var busy int64
	for i, field := range bytes.Fields(line) {
		value, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil || i == 4 || i == 5 {
			continue // the name of the line, idle and iowait
		}
		busy += value
	}
	return busy
}
