//go:build !windows

package host

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

const foldNames = false

// group is the process group of a command. A child that makes a session of its own leaves it and is
// not killed.
type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) group {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return group{cmd}
}

func (g group) start() error { return g.cmd.Start() }

// end is for when the command has been waited for.
func (g group) end() {}

func (g group) kill() error {
	err := syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// writable reports whether this process may change what is in a directory.
func writable(dir string) bool {
	const wOK = 2
	return syscall.Access(dir, wOK) == nil
}

// signalOf is the number of the signal that ended a process, 0 for none.
func signalOf(state *os.ProcessState) int {
	if s, ok := state.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return int(s.Signal())
	}
	return 0
}
