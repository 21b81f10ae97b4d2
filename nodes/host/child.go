package host

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Order is a program that a module wants to run.
type Order struct {
	// Argv begins with the program; Text is it for people.
	Argv []string
	Text string
	// Dir is where it runs, Env its whole environment.
	Dir string
	Env []string
	// AgentID is whose policy counts, nil for the main agent. Approved says that a person or a rule of the
	// gateway let it go.
	AgentID  *string
	Approved bool
	// Timeout is how long it may take, 0 for as long as it wants.
	Timeout time.Duration
	// Stdout and Stderr take what it writes; nil drops it. They are called from one goroutine each, and not
	// any more when Wait has returned.
	Stdout, Stderr io.Writer
}

// RefusedError says that the policy of this machine does not let something run.
type RefusedError struct{ Reason, Message string }

func (e *RefusedError) Error() string { return e.Message }

// ErrNoProgram says that there is no such executable.
var ErrNoProgram = errors.New("there is no such executable on this node")

// Ended is how a program came to its end.
type Ended struct {
	// Code is the exit code, negative without one. Signal is the number of the signal that ended it, 0 for none
	// and where systems have none.
	Code, Signal int
	// TimedOut says that its time was up, Cancelled that the context was; its group was killed then.
	TimedOut, Cancelled bool
}

// Child is a running program in a process group (on Windows a job object) of its own. Its standard input is
// closed.
type Child struct {
	PID     int
	cmd     *exec.Cmd
	group   interface{ kill() error }
	end     func()
	pipes   []*os.File
	copied  chan struct{}
	timeout time.Duration

	mu     sync.Mutex
	waited bool
}

// Start asks the policy and starts the program. It fails with a *RefusedError where the policy refuses, with
// ErrNoProgram, and with what the system says. Wait must be called.
func Start(p Policy, o Order) (*Child, error) {
	i, err := admit(p, o)
	if err != nil {
		return nil, err
	}
	return start(i, o)
}

// Program is what the policy lets run, for who starts it in another way than Start does.
type Program struct {
	// Path is the executable, Argv what it is called with, Dir where it runs; Files are for it, from descriptor
	// 3 on, and nil is none at that number.
	Path  string
	Argv  []string
	Dir   string
	Files []*os.File
	// Began is to be called when it has started, Close when it has ended or could not be started.
	Began, Close func()
}

// Admit asks the policy as Start does, and starts nothing. It fails like Start. Order's Stdout, Stderr and Timeout do
// not count.
func Admit(p Policy, o Order) (Program, error) {
	i, err := admit(p, o)
	if err != nil {
		return Program{}, err
	}
	return Program{Path: i.path, Argv: i.argv, Dir: i.dir, Files: i.pass, Began: i.began, Close: i.close}, nil
}

func admit(p Policy, o Order) (*image, error) {
	path := lookup(o.Env, "PATH")
	run, covered, reason, message, err := p.Admit(o.AgentID, o.Argv, o.Dir, path, o.Approved)
	if reason != "" {
		return nil, &RefusedError{reason, message} // err, when there is one, is in it: the file denies then
	}
	if err != nil {
		return nil, err
	}
	dir := o.Dir
	if o.Approved {
		held, refused := canonical(dir)
		if refused != nil {
			return nil, &RefusedError{refused.reason, refused.message}
		}
		defer held.close()
		dir = held.orEmpty()
		if run, err = p.Pin(o.Argv, dir, path); err != nil {
			return nil, ErrNoProgram
		}
	}
	var i *image
	if covered {
		if i, err = exactly(run[0], run); err != nil {
			return nil, &RefusedError{"approval-required", "SYSTEM_RUN_DENIED: " + clip(run[0]) + " cannot be started: " + err.Error()}
		}
	}
	if i == nil {
		i = (&bound{}).byPath(run)
		var ok bool
		if i.path, ok = p.Locate(run[0], dir, path); !ok {
			return nil, ErrNoProgram
		}
	}
	i.dir = dir
	if err := p.Record(o.AgentID, o.Argv, dir, path, o.Text, false); err != nil {
		i.close()
		return nil, err
	}
	return i, nil
}

// start starts an image with pipes that are ours: they can be closed while something still holds their other
// ends.
func start(i *image, o Order) (*Child, error) {
	c := &Child{cmd: exec.CommandContext(context.Background(), i.path), copied: make(chan struct{}), timeout: o.Timeout}
	c.cmd.Args, c.cmd.Dir, c.cmd.ExtraFiles = i.argv, i.dir, i.pass
	c.cmd.Env = append([]string{}, o.Env...) // never nil, which would mean all of the host's own
	var theirs []*os.File
	var copies sync.WaitGroup
	fail := func(err error) (*Child, error) {
		for _, f := range append(theirs, c.pipes...) {
			f.Close()
		}
		i.close()
		return nil, err
	}
	type copying struct {
		to   io.Writer
		from *os.File
	}
	var all []copying
	for _, s := range []struct {
		to   io.Writer
		into *io.Writer
	}{{o.Stdout, &c.cmd.Stdout}, {o.Stderr, &c.cmd.Stderr}} {
		if s.to == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return fail(err)
		}
		c.pipes, theirs = append(c.pipes, r), append(theirs, w)
		*s.into = w
		all = append(all, copying{s.to, r})
	}
	group := newGroup(c.cmd)
	c.group = group
	if err := group.start(); err != nil {
		return fail(err)
	}
	for _, f := range theirs {
		f.Close()
	}
	i.began()
	c.end = func() { group.end(); i.close() }
	c.PID = c.cmd.Process.Pid
	for _, one := range all {
		copies.Go(func() { _, _ = io.Copy(one.to, one.from) }) // a pipe that was closed at the deadline says so here
	}
	go func() {
		copies.Wait()
		close(c.copied)
	}()
	return c, nil
}

// Kill ends the program with its group, unless it has ended.
func (c *Child) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waited {
		_ = c.group.kill() // it may have ended by itself
	}
}

// Wait returns when the program has ended and whoever holds its output has let go of it. When its time or
// ctx ends before, the group is killed and the output is let go of at once. It is called once.
func (c *Child) Wait(ctx context.Context) Ended {
	defer c.end()
	var out Ended
	var timeout <-chan time.Time
	if c.timeout > 0 {
		t := time.NewTimer(c.timeout)
		defer t.Stop()
		timeout = t.C
	}
	gone := make(chan struct{})
	go func() {
		// The output first: until the program is waited for, its number and that of its group are its own.
		<-c.copied
		_ = c.cmd.Wait() // the state says it all
		c.mu.Lock()
		c.waited = true
		c.mu.Unlock()
		close(gone)
	}()
	defer func() {
		for _, f := range c.pipes {
			f.Close()
		}
	}()
	var ended bool
	select {
	case <-gone:
		ended = true
	case <-timeout:
		out.TimedOut = true
	case <-ctx.Done():
		out.Cancelled = true
	}
	if !ended {
		c.Kill()
		for _, f := range c.pipes {
			f.Close()
		}
		<-gone
	}
	out.Code = -1
	if state := c.cmd.ProcessState; state != nil {
		out.Code, out.Signal = state.ExitCode(), signalOf(state)
	}
	return out
}

// IsDir reports why a directory cannot be run in, nil when it can.
func IsDir(dir string) error {
	if dir == "" {
		return nil
	}
	info, err := os.Stat(dir)
	switch e, ok := errors.AsType[*os.PathError](err); {
	case ok:
		return e.Err
	case err != nil:
		return err
	case !info.IsDir():
		return syscall.ENOTDIR
	}
	return nil
}
