package sshtest

import "syscall"

// apart gives a process a group of its own, which ends when the test process does.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
