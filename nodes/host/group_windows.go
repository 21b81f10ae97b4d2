package host

import (
	"os/exec"
	"strconv"
)

const foldNames = true

// group is a command and its children as the system's own task killer finds them: those whose parent
// has ended are missed.
type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) group { return group{cmd} }

func (g group) kill() error {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(g.cmd.Process.Pid)).Run()
	return g.cmd.Process.Kill()
}

// writable is not asked of Windows: every directory counts as one that can be changed.
func writable(string) bool { return true }
