//go:build soak && !linux

package soak

import "syscall"

func reaped() *syscall.SysProcAttr { return nil }
