package source

import (
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/windows"
)

// group is a program and all that it starts, held together by a job object.
type group struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	job windows.Handle // 0 without one
}

func newGroup(cmd *exec.Cmd) *group {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.CREATE_NO_WINDOW}
	return &group{cmd: cmd}
}

func (g *group) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.cmd.Start(); err != nil {
		return err
	}
	p, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(g.cmd.Process.Pid)) //nolint:gosec // a process number is one
	if err != nil {
		return nil // it has ended, or is ended alone
	}
	defer func() { _ = windows.CloseHandle(p) }() // what it was opened for is done
	if g.job, err = windows.CreateJobObject(nil, nil); err == nil {
		if windows.AssignProcessToJobObject(g.job, p) != nil {
			_ = windows.CloseHandle(g.job) // the program is ended alone
			g.job = 0
		}
	}
	return nil
}

func (g *group) kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.job != 0 && windows.TerminateJobObject(g.job, 1) == nil {
		return nil
	}
	return g.cmd.Process.Kill()
}

func (g *group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.job != 0 {
		_ = windows.CloseHandle(g.job) // it keeps nobody
		g.job = 0
	}
}
