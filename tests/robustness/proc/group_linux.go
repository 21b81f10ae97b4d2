package proc

import "syscall"

// groupAttr makes a process lead a group. A terminal's Ctrl-C does not reach it there, so it also
// ends with the test process, however that ends.
func groupAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
