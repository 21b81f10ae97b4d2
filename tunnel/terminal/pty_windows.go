package terminal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/charmbracelet/x/conpty"
	"golang.org/x/sys/windows"
)

var (
	resumeProcess       = windows.NewLazySystemDLL("ntdll.dll").NewProc("NtResumeProcess")
	createPseudoConsole = windows.NewLazySystemDLL("kernel32.dll").NewProc("CreatePseudoConsole")
)

// consoleDevice is a pseudo console, whose program and all that it starts are held together by a job object.
type consoleDevice struct {
	c       *conpty.ConPty
	process windows.Handle
	job     windows.Handle
	last    atomic.Int64 // when the last read began, in nanoseconds
	reading atomic.Bool
	closed  sync.Once
	done    chan struct{} // closed by Close
	waited  error
}

func openDevice(s Spec) (device, int, error) {
	if err := createPseudoConsole.Find(); err != nil {
		return nil, 0, errors.New("this Windows has no pseudo consoles; terminals need Windows 10 version 1809, or Server 2019, or later")
	}
	c, err := conpty.New(min(s.Cols, 32767), min(s.Rows, 32767), 0)
	if err != nil {
		return nil, 0, err
	}
	pid, handle, err := c.Spawn(s.Path, s.Argv, &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Sys: &syscall.SysProcAttr{CreationFlags: windows.CREATE_SUSPENDED}})
	if err != nil {
		return nil, 0, errors.Join(err, c.Close())
	}
	d := &consoleDevice{c: c, process: windows.Handle(handle), done: make(chan struct{})}
	d.last.Store(time.Now().UnixNano())
	if err := d.hold(); err != nil {
		_ = windows.TerminateProcess(d.process, 1) // it has done nothing yet
		_ = windows.CloseHandle(d.process)
		return nil, 0, errors.Join(err, c.Close())
	}
	return d, pid, nil
}

// hold puts the suspended program into a job and lets it run.
func (d *consoleDevice) hold() (err error) {
	if d.job, err = windows.CreateJobObject(nil, nil); err != nil {
		return err
	}
	err = windows.AssignProcessToJobObject(d.job, d.process)
	if err == nil {
		if status, _, _ := resumeProcess.Call(uintptr(d.process)); status != 0 {
			err = windows.NTStatus(uint32(status))
		}
	}
	if err != nil {
		_ = windows.CloseHandle(d.job) // it keeps nobody
	}
	return err
}

func (d *consoleDevice) Read(p []byte) (int, error) {
	d.last.Store(time.Now().UnixNano())
	d.reading.Store(true)
	n, err := d.c.Read(p)
	d.reading.Store(false)
	return n, err
}

func (d *consoleDevice) Write(p []byte) (int, error) { return d.c.Write(p) }

// TryWrite implements device: a console has no such write.
func (d *consoleDevice) TryWrite([]byte) int { return 0 }

func (d *consoleDevice) Resize(cols, rows int) error {
	return d.c.Resize(min(cols, 32767), min(rows, 32767))
}

// Wait also closes the console once nothing was read for a moment: nothing else ends a read of it.
func (d *consoleDevice) Wait() {
	if _, err := windows.WaitForSingleObject(d.process, windows.INFINITE); err != nil {
		d.waited = err
	}
	go func() {
		tick := time.NewTicker(drainQuiet / 4)
		defer tick.Stop()
		for {
			select {
			case <-d.done:
				return
			case <-tick.C:
			}
			if d.reading.Load() && time.Since(time.Unix(0, d.last.Load())) >= drainQuiet {
				_ = d.Close() // the reader learns of it
				return
			}
		}
	}()
}

func (d *consoleDevice) Reap() Exit {
	if d.waited != nil {
		return Exit{Reason: d.waited.Error()}
	}
	var code uint32
	if err := windows.GetExitCodeProcess(d.process, &code); err != nil {
		return Exit{Reason: err.Error()}
	}
	n := int(int32(code))
	_ = windows.CloseHandle(d.process) // it has ended
	return Exit{Code: &n}
}

// Alive is not asked of Windows: Kill ends the whole job.
func (d *consoleDevice) Alive() bool { return true }

// Hangup closes nothing yet: a console tells its programs of its end when it is closed, which also ends reading.
func (d *consoleDevice) Hangup() {
	go func() { _, _ = d.c.Write([]byte{3}) }() // Ctrl-C; Close ends the write where nobody reads
}

func (d *consoleDevice) Terminate() { d.Kill() }

func (d *consoleDevice) Kill() {
	if err := windows.TerminateJobObject(d.job, 1); err != nil {
		_ = windows.TerminateProcess(d.process, 1) // it may have ended
	}
}

func (d *consoleDevice) Close() error {
	var err error
	d.closed.Do(func() {
		close(d.done)
		if err = d.c.Close(); err != nil {
			err = fmt.Errorf("close the console: %w", err)
		}
	})
	return err
}
