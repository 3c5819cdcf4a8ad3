//go:build prometheus

package observability

import "syscall"

// reaped makes a process end with this one, even if this one is killed.
func reaped() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
