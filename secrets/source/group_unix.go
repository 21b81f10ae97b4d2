//go:build !windows

package source

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// group is the process group of a program. A child that makes a session of its own leaves it.
type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) group {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return group{cmd}
}

func (g group) start() error { return g.cmd.Start() }

func (g group) end() {}

func (g group) kill() error {
	err := syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
