//go:build !linux

package embedded

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
)

// commandLine returns the program and the arguments of a process, nil for one
// that has ended. ps separates arguments by blanks, so one that holds a blank
// comes in pieces.
func commandLine(pid int) []string {
	if pid <= 0 {
		return nil
	}
	fields := strings.Fields(ps("-ww", "-o", "stat=,command=", "-p", strconv.Itoa(pid)))
	if len(fields) < 2 || strings.HasPrefix(fields[0], "Z") {
		return nil
	}
	return fields[1:]
}

// memory returns the resident set of a living process in bytes: the present one,
// which is also all that can be told of the largest.
func memory(pid int) (now, peak int64) {
	if pid <= 0 {
		return 0, 0
	}
	kilobytes, err := strconv.ParseInt(strings.TrimSpace(ps("-o", "rss=", "-p", strconv.Itoa(pid))), 10, 64)
	if err != nil {
		return 0, 0
	}
	return kilobytes << 10, kilobytes << 10
}

// processes lists every process of the machine.
func processes() []int {
	var pids []int
	for _, field := range strings.Fields(ps("-ax", "-o", "pid=")) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func ps(args ...string) string {
	output, err := exec.CommandContext(context.Background(), "ps", args...).Output()
	if err != nil {
		return ""
	}
	return string(output)
}

// rusageUnit is the unit of a resource usage's largest resident set, in bytes.
const rusageUnit = 1
