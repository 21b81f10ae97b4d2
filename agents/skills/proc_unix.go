//go:build unix

package skills

import (
	"os/exec"
	"syscall"
)

// noWait makes opening a named pipe return at once.
const noWait = syscall.O_NONBLOCK

// ownGroup makes a program the head of a process group that ends with it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// endGroup ends what a program left behind. The group cannot be another one's: its id is that of the
// program, which is taken as long as a member lives.
func endGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // mostly nobody is left
	}
}
