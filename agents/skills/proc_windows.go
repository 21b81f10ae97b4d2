package skills

import (
	"os/exec"
	"strconv"
	"syscall"
)

// noWait is nothing here: the file system has no named pipes.
const noWait = 0

// ownGroup lets a program be ended together with what it started.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
	cmd.Cancel = func() error {
		_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(cmd.Process.Pid)).Run() //nolint:gosec // the id of our own child
		return cmd.Process.Kill()
	}
}

// endGroup has nothing to do: the tree was ended while its head lived.
func endGroup(*exec.Cmd) {}
