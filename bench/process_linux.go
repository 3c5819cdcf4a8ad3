package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownGroup makes a process the first of a group, so that it can be ended with all that it has started, and ends
// it with the bench even if that is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// tick is the unit of the times in /proc, whatever the kernel's own is.
const tick = time.Second / 100

// The places of fields in /proc/PID/stat, counted from the one behind the program's name.
const (
	statGroup  = 2
	statUser   = 11
	statSystem = 12
)

// groupUsage returns what the processes of a group have used. It is zero where there is none any more.
func groupUsage(group int) (usage, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	var sum usage
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) <= statSystem || fields[statGroup] != strconv.Itoa(group) {
			continue
		}
		user, _ := strconv.ParseInt(fields[statUser], 10, 64)
		system, _ := strconv.ParseInt(fields[statSystem], 10, 64)
		sum.cpu += time.Duration(user+system) * tick
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		sum.resident += kibibytes(string(status), "VmRSS:")
		sum.peak += kibibytes(string(status), "VmHWM:")
	}
	return sum, nil
}

// kibibytes returns the value of a field of /proc/PID/status in bytes.
func kibibytes(status, field string) int64 {
	_, rest, _ := strings.Cut(status, "\n"+field)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(words[0], 10, 64)
	return n << 10
}
