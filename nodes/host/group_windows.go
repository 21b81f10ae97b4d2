package host

import (
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/windows"
)

const foldNames = true

var resumeProcess = windows.NewLazySystemDLL("ntdll.dll").NewProc("NtResumeProcess")

// group is a command and all that it starts, held together by a job object. What it leaves running when it
// ends by itself stays, as on other systems.
type group struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	job windows.Handle // 0 without one
}

// newGroup prepares a command. It gets no console window of its own, also where the daemon has none.
func newGroup(cmd *exec.Cmd) *group {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.CREATE_NO_WINDOW | windows.CREATE_SUSPENDED}
	return &group{cmd: cmd}
}

// start starts the command; it runs once it is in its job, so that nothing it starts is outside.
func (g *group) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.cmd.Start(); err != nil {
		return err
	}
	p, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE|windows.PROCESS_SUSPEND_RESUME, false, uint32(g.cmd.Process.Pid)) //nolint:gosec // a process number is one
	if err == nil {
		defer func() { _ = windows.CloseHandle(p) }() // what it was opened for is done
		err = g.resume(p)
	}
	if err != nil {
		_ = g.cmd.Process.Kill() // it has done nothing yet
		_ = g.cmd.Wait()
		g.closeJob()
	}
	return err
}

// resume puts a suspended process into a job and lets it run.
func (g *group) resume(p windows.Handle) (err error) {
	if g.job, err = windows.CreateJobObject(nil, nil); err != nil {
		return err
	}
	if err := windows.AssignProcessToJobObject(g.job, p); err != nil {
		return err
	}
	if status, _, _ := resumeProcess.Call(uintptr(p)); status != 0 {
		return windows.NTStatus(uint32(status)) //nolint:gosec // a status has 32 bits
	}
	return nil
}

// kill ends the command and all that it has started.
func (g *group) kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.job != 0 && windows.TerminateJobObject(g.job, 1) == nil {
		return nil
	}
	return g.cmd.Process.Kill()
}

// end is for when the command has been waited for.
func (g *group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closeJob()
}

func (g *group) closeJob() {
	if g.job != 0 {
		_ = windows.CloseHandle(g.job) // it keeps nobody
		g.job = 0
	}
}

// writable is not asked of Windows: every directory counts as one that can be changed.
func writable(string) bool { return true }

// signalOf is 0: nothing is ended by signals here.
func signalOf(*os.ProcessState) int { return 0 }
