//go:build unix

package proc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Buffer keeps what a process prints; it may be read while the process runs.
type Buffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	if n := len(b.b) - maxOutput; n > 0 {
		b.b = append(b.b[:0], b.b[n:]...)
	}
	return len(p), nil
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}

// Command is a process that was started.
type Command struct {
	Stdout, Stderr *Buffer
	Began          time.Time
	// Done is closed when the process has ended; Took, Code and Usage hold then.
	Done  chan struct{}
	Took  time.Duration
	Code  int // the exit code; -1 when a signal ended it
	State *os.ProcessState

	cmd   *exec.Cmd
	group bool // it leads a process group, which signals go to
}

// Env is the environment of every process of a test: nothing of the one who runs the test but PATH
// and the temporary directory.
func Env(home string, more ...string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + os.TempDir()}
	if Race {
		env = append(env, "GORACE=atexit_sleep_ms=0") // else each process takes a second more to end
	}
	return append(env, more...)
}

// Run starts a process. The test ends it when it is still there at the end.
func Run(tb testing.TB, home, bin string, env []string, args ...string) *Command {
	tb.Helper()
	c, err := start(bin, args, Env(home, env...), home, nil, false)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.End(syscall.SIGKILL) })
	return c
}

// RunGroup is Run for a program that may start others: it leads a process group, signals go to all
// of it, and what is left of it ends with the test. stdin may be nil.
func RunGroup(tb testing.TB, home, bin string, env []string, stdin io.Reader, args ...string) *Command {
	tb.Helper()
	c, err := start(bin, args, Env(home, env...), home, stdin, true)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.End(syscall.SIGKILL)
		c.Signal(syscall.SIGKILL) // whoever outlived the leader
	})
	return c
}

func start(bin string, args, env []string, wd string, stdin io.Reader, group bool) (*Command, error) {
	c := &Command{Stdout: &Buffer{}, Stderr: &Buffer{}, Done: make(chan struct{}), cmd: exec.Command(bin, args...), group: group}
	if group {
		c.cmd.SysProcAttr = groupAttr()
	}
	c.cmd.Env, c.cmd.Dir, c.cmd.Stdin = env, wd, stdin
	c.cmd.Stdout, c.cmd.Stderr = c.Stdout, c.Stderr
	c.cmd.WaitDelay = time.Second // a child of the process that keeps the output open does not hold us up
	c.Began = time.Now()
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait() // ProcessState says how it ended
		c.Took, c.State = time.Since(c.Began), c.cmd.ProcessState
		c.Code = c.State.ExitCode()
		close(c.Done)
	}()
	return c, nil
}

// PID is the number of the process.
func (c *Command) PID() int { return c.cmd.Process.Pid }

// Signal sends a signal; a process that has ended gets none.
func (c *Command) Signal(s syscall.Signal) {
	if c.group {
		_ = syscall.Kill(-c.PID(), s) // the number stays taken while anyone is in the group
		return
	}
	_ = c.cmd.Process.Signal(s)
}

// End sends a signal and waits for the end, at most for Patience; then the process is killed. It
// returns how long the end took.
func (c *Command) End(s syscall.Signal) time.Duration {
	began := time.Now()
	c.Signal(s)
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	select {
	case <-c.Done:
	case <-limit.C:
		c.Signal(syscall.SIGKILL)
		<-c.Done
	}
	return time.Since(began)
}

// Wait waits for the end and fails the test when it does not come in time.
func (c *Command) Wait(tb testing.TB, limit time.Duration) *Command {
	tb.Helper()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.Done:
	case <-t.C:
		tb.Fatalf("%s did not end within %v\nstdout: %s\nstderr: %s", strings.Join(c.cmd.Args, " "), limit, c.Stdout, c.Stderr)
	}
	return c
}

// Ended reports whether the process has ended.
func (c *Command) Ended() bool {
	select {
	case <-c.Done:
		return true
	default:
		return false
	}
}

// Until waits until ok says so and fails the test after Patience.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	UntilFor(tb, Patience, what, ok)
}

// UntilFor is Until with a limit of its own.
func UntilFor(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := poll(ctx, ok); err != nil {
		tb.Fatalf("waited %v: %s", limit, what)
	}
}

var errWaited = errors.New("waited too long")

func poll(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errWaited
		}
	}
	return nil
}

// Faults are the words of a daemon's output that no run may hold.
func Faults(output string) []string {
	var out []string
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "panicked"} {
		if bytes.Contains([]byte(output), []byte(bad)) {
			out = append(out, strings.TrimSpace(bad))
		}
	}
	return out
}
