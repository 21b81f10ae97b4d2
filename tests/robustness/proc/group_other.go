//go:build unix && !linux

package proc

import "syscall"

// groupAttr makes a process lead a group.
func groupAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
