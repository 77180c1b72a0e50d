package embedded

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// commandLine returns the program and the arguments of a process as the system
// tells them, nil for one that has ended.
func commandLine(pid int) []string {
	if pid <= 0 {
		return nil
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// memory returns the resident set of a living process in bytes: the present one,
// and the largest so far.
func memory(pid int) (now, peak int64) {
	if pid <= 0 {
		return 0, 0
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, 0
	}
	value := func(line []byte, name string) int64 {
		text, ok := bytes.CutPrefix(line, []byte(name+":"))
		if !ok {
			return 0
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(text)), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return kilobytes << 10
	}
	for line := range bytes.Lines(data) {
		now += value(line, "VmRSS")
		peak += value(line, "VmHWM")
	}
	return now, peak
}

// processes lists every process of the machine.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// rusageUnit is the unit of a resource usage's largest resident set, in bytes.
const rusageUnit = 1 << 10
