package host

import (
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
)

const foldNames = true

// group is a command and its children as the system's own task killer finds them: those whose parent
// has ended are missed.
type group struct{ cmd *exec.Cmd }

// A command gets no console window of its own, also where the daemon has none.
func newGroup(cmd *exec.Cmd) group {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.CREATE_NO_WINDOW}
	return group{cmd}
}

func (g group) kill() error {
	kill := exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(g.cmd.Process.Pid))
	kill.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.CREATE_NO_WINDOW}
	_ = kill.Run() // the process itself is killed in any case
	return g.cmd.Process.Kill()
}

// writable is not asked of Windows: every directory counts as one that can be changed.
func writable(string) bool { return true }
