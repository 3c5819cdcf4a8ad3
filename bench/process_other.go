//go:build !linux

package main

import (
	"errors"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func groupUsage(int) (usage, error) {
	return usage{}, errors.New("CPU time and memory of a process are read from /proc, so the bench runs on Linux only")
}
