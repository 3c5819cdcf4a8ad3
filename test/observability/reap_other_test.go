//go:build prometheus && !linux

package observability

import "syscall"

func reaped() *syscall.SysProcAttr { return nil }
