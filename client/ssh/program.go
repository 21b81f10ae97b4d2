package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/client"
)

// programArgs are the arguments of the user's ssh program. Address has checked the names, and they stand
// where no option can: behind -l and behind "--".
func (h *Host) programArgs(line string) []string {
	args := []string{
		"-T",
		// Only the one command, whatever else the configuration has for people who log in.
		"-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "-o", "ForwardAgent=no", "-o", "ForwardX11=no",
		"-o", "PermitLocalCommand=no", "-o", "LogLevel=ERROR",
		// A dead link ends, as ours do.
		"-o", "ServerAliveInterval=" + strconv.Itoa(int(Heartbeat/time.Second)), "-o", "ServerAliveCountMax=1",
		"-o", "ConnectTimeout=" + strconv.Itoa(int(connectTime/time.Second)),
	}
	if h.d.prompt == nil {
		args = append(args, "-o", "BatchMode=yes")
	}
	if p := h.d.plan; p.config != "" {
		args = append(args, "-F", p.config)
	}
	if h.address.Port != 0 {
		args = append(args, "-p", strconv.Itoa(h.address.Port))
	}
	if h.address.User != "" {
		args = append(args, "-l", h.address.User)
	}
	return append(args, "--", h.address.Host, line)
}

// openProgram opens the daemon's socket, or a port, by the user's ssh program, one process for each. It
// asks at the terminal by itself.
func (h *Host) openProgram(ctx context.Context, port *int) (net.Conn, error) {
	greeting := "hanzod-" + nonce()
	line, err := h.connectLine(nil, port, greeting)
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath(h.program)
	if err != nil {
		return nil, with(fail(StepConnect, CodeProgram, client.NotFound, fmt.Sprintf(
			"%s, which needs the ssh program, and %s is not found; install OpenSSH", h.left(), plain(h.program))), err)
	}
	h.mu.Lock()
	if h.closed || h.processes >= maxPrograms {
		defer h.mu.Unlock()
		if h.closed {
			return nil, h.life.Err()
		}
		return nil, fail(StepConnect, CodeBusy, client.Exhausted, fmt.Sprintf("%d ssh programs to %s are running", maxPrograms, h.target()))
	}
	h.processes++
	h.work.Add(1)
	h.mu.Unlock()
	over := func() {
		h.mu.Lock()
		h.processes--
		h.mu.Unlock()
		h.work.Done()
	}
	h.d.tell(StepConnect, h.target()+", by the ssh program")
	stderr := &tail{}
	cmd := exec.CommandContext(h.life, path, h.programArgs(line)...)
	cmd.Stderr, cmd.WaitDelay = stderr, closeTime
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		over()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		over()
		return nil, with(fail(StepConnect, CodeProgram, client.Unavailable, "the ssh program does not start: "+plain(err.Error())), err)
	}
	p := &process{cmd: cmd, in: in, out: out, ended: make(chan struct{})}
	limit := connectTime + handshakeTime + openTime
	if h.d.prompt != nil {
		limit += askTime
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(wait, p.cut)
	err = greet(out, greeting)
	if stop() && err == nil {
		go func() {
			defer over()
			select {
			case <-p.closing():
			case <-h.life.Done():
			}
			p.end()
		}()
		h.mu.Lock()
		if port == nil {
			h.route = RouteProgram
		}
		h.mu.Unlock()
		return &conn{Reader: out, w: in, half: in.Close, to: string(RouteProgram), done: p.close}, nil
	}
	if err == nil {
		err = wait.Err()
	}
	p.end()
	over()
	if ctx.Err() != nil {
		return nil, with(fail(StepConnect, client.CodeTimeout, client.Deadline, "connecting to "+h.target()+" by the ssh program was given up"), ctx.Err())
	}
	exit := cmd.ProcessState.ExitCode()
	if exit == 255 || exit == -1 { // the program itself
		text := plain(stderr.String())
		if text == "" {
			text = plain(err.Error())
		}
		return nil, with(fail(StepConnect, CodeProgram, client.Unavailable, fmt.Sprintf(
			"the ssh program does not reach %s (%s); try it by hand: ssh %s", h.target(), text, h.address.Host)), err)
	}
	return nil, h.failedProgram(exit, stderr.String(), err)
}

// process is a running ssh program.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   io.ReadCloser
	once  sync.Once
	ended chan struct{}
}

func (p *process) closing() <-chan struct{} { return p.ended }

// close tells that the connection is not needed any more.
func (p *process) close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}

func (p *process) kill() { _ = p.cmd.Process.Kill() } // it may have ended

// cut kills the program and ends its output, which programs that it has started may hold open.
func (p *process) cut() {
	p.kill()
	_ = p.out.Close() // it is not needed any more
}

// end lets the program end, and makes it.
func (p *process) end() {
	_ = p.in.Close()  // the program may be gone
	_ = p.out.Close() // the same; who reads is not waited for
	t := time.AfterFunc(closeTime, p.kill)
	defer t.Stop()
	_ = p.cmd.Wait() // what matters was in its output
}
