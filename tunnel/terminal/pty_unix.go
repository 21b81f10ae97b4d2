//go:build !windows

package terminal

import (
	"errors"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// ptyDevice is the controlling end of a pseudo-terminal whose other end is the controlling terminal of a
// session of the program's own.
type ptyDevice struct {
	f        *os.File
	raw      syscall.RawConn // of f
	cmd      *exec.Cmd
	draining atomic.Bool
	waited   atomic.Bool
}

func openDevice(s Spec) (device, int, error) {
	opened, tty, err := pty.Open()
	if err != nil {
		return nil, 0, err
	}
	defer tty.Close()
	f, err := polled(opened)
	if err != nil {
		return nil, 0, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	d := &ptyDevice{f: f, raw: raw}
	if err := d.Resize(s.Cols, s.Rows); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	cmd := &exec.Cmd{Path: s.Path, Args: s.Argv, Env: append([]string{}, s.Env...), Dir: s.Dir, Stdin: tty, Stdout: tty, Stderr: tty, ExtraFiles: s.Files}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	d.cmd = cmd
	return d, cmd.Process.Pid, nil
}

// polled makes a file whose reads end with Close and with deadlines: the library leaves it blocking.
func polled(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (d *ptyDevice) Read(p []byte) (int, error) {
	if d.draining.Load() {
		_ = d.f.SetReadDeadline(time.Now().Add(drainQuiet)) // a closed file says so when it is read
	}
	return d.f.Read(p)
}

func (d *ptyDevice) Write(p []byte) (int, error) { return d.f.Write(p) }

// TryWrite implements device.
func (d *ptyDevice) TryWrite(p []byte) (n int) {
	if len(p) == 0 {
		return 0
	}
	_ = d.raw.Write(func(fd uintptr) bool { // what fails here fails in Write, too
		n, _ = unix.Write(int(fd), p)
		return true
	})
	return max(n, 0)
}

func (d *ptyDevice) Resize(cols, rows int) error {
	return d.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols), Row: uint16(rows)}) // clamped
	})
}

func (d *ptyDevice) control(f func(fd int) error) error {
	var inner error
	if err := d.raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (d *ptyDevice) Wait() {
	await(d.cmd)
	d.draining.Store(true)
	_ = d.f.SetReadDeadline(time.Now().Add(drainQuiet)) // for a read under way
}

func (d *ptyDevice) Reap() Exit {
	err := reap(d.cmd)
	d.waited.Store(true)
	state := d.cmd.ProcessState
	if state == nil {
		return Exit{Reason: err.Error()}
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Signal: unix.SignalName(ws.Signal())}
	}
	code := state.ExitCode()
	return Exit{Code: &code}
}

func (d *ptyDevice) Alive() bool { return len(session(d.cmd.Process.Pid)) > 0 }

func (d *ptyDevice) Close() error { return d.f.Close() }

func (d *ptyDevice) Hangup() { d.signal(unix.SIGHUP, unix.SIGCONT) }

func (d *ptyDevice) Terminate() { d.signal(unix.SIGTERM, unix.SIGCONT) }

func (d *ptyDevice) Kill() { d.signal(unix.SIGKILL) }

// signal reaches the group of the program, the group in the foreground, and every other process of the session.
func (d *ptyDevice) signal(signals ...syscall.Signal) {
	leader := d.cmd.Process.Pid
	groups := map[int]bool{}
	_ = d.control(func(fd int) error {
		if fg, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && fg > 1 {
			groups[fg] = true
		}
		return nil
	})
	members := session(leader)
	if !d.waited.Load() {
		groups[leader] = true // nobody else has its number before it was waited for
	}
	for _, p := range members {
		groups[p.group] = true
	}
	for _, s := range signals {
		for g := range groups {
			if g > 1 {
				_ = unix.Kill(-g, s) // it may be gone
			}
		}
	}
}

// member is a process of a session.
type member struct{ pid, group int }
