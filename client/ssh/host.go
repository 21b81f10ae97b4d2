package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hanzoai/hanzod/client"
)

// Options say which machine is meant, and who can be asked.
type Options struct {
	// Address is ssh://[user@]host[:port], as ParseAddress takes it. The host may be an alias of
	// ssh_config.
	Address string
	// Socket is the path of the daemon's socket on that machine. It is found when it is empty.
	Socket string
	// StateDir is the state directory of the daemon on that machine, when it is not the one that the daemon
	// takes by itself.
	StateDir string
	// Prompt asks the person; nil when there is none. Then nothing that needs an answer works, such as a
	// machine that is not known, a passphrase, or a password.
	Prompt Prompter
	// Progress hears what is done; nil is nobody. It is called by one goroutine at a time, and must not
	// call the Host.
	Progress func(step Step, text string)
	// Getenv is the environment: HOME (with ~/.ssh), SSH_AUTH_SOCK and what ssh_config refers to. nil is
	// that of the process.
	Getenv func(string) string
	// Program is the user's ssh program, for what this package does not do itself; "ssh" when empty.
	Program string
}

// Host is a machine that is reached by SSH, and the daemon there. It is a client.Way. It connects again by
// itself when Dial finds the connection gone; a person is asked again only for what cannot be kept, such as
// a password. It is safe for concurrent use.
type Host struct {
	address Address
	socket  string // what Options name
	dir     string
	d       *dialer
	program string
	env     func(string) string
	one     chan struct{} // held by who connects

	life context.Context //nolint:containedctx // it ends with Close
	end  context.CancelFunc
	work sync.WaitGroup

	mu        sync.Mutex
	links     []*link
	place     *place // where the daemon is there; nil when not known
	route     Route
	ready     net.Conn // what Connect opened
	readyAt   time.Time
	failed    error // why connecting failed last
	failedAt  time.Time
	processes int
	outside   string // why the ssh program is used; "" when it is not
	closed    bool
}

// Route is how the daemon's socket is reached on the machine.
type Route string

// The routes.
const (
	// RouteForward is a channel to the socket ("direct-streamlocal@openssh.com").
	RouteForward Route = "streamlocal"
	// RouteStdio is "hanzod connect --stdio", run there.
	RouteStdio Route = "hanzod connect --stdio"
	// RouteProgram is the same, run by the user's ssh program.
	RouteProgram Route = "ssh program"
)

// Connect connects to the machine, opens the daemon's socket there, and returns when that has worked. Its
// errors are *client.Error and name the step. ctx bounds Connect alone, with the time that a person needs.
func Connect(ctx context.Context, o Options) (*Host, error) {
	a, err := ParseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	for _, p := range []string{o.Socket, o.StateDir} {
		if strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fail(StepConfig, CodeBadAddress, client.Invalid, "a path on the machine has control characters")
		}
	}
	r, err := newResolver(o)
	if err != nil {
		return nil, err
	}
	var one sync.Mutex
	progress := o.Progress
	if progress != nil {
		progress = func(step Step, text string) {
			one.Lock()
			defer one.Unlock()
			o.Progress(step, text)
		}
	}
	if progress != nil {
		progress(StepConfig, "of "+a.String())
	}
	p, err := r.plan(a)
	if err != nil {
		return nil, err
	}
	h := &Host{
		address: a, socket: o.Socket, dir: o.StateDir, program: o.Program, env: r.getenv, one: make(chan struct{}, 1),
		d: &dialer{plan: p, prompt: o.Prompt, progress: progress, keys: map[string]ssh.Signer{}, yes: map[string]bool{}},
	}
	if h.program == "" {
		h.program = "ssh"
	}
	h.life, h.end = context.WithCancel(context.Background())
	if p.outside != "" {
		h.leave(p.outside)
	}
	conn, err := h.Dial(ctx)
	if err != nil {
		_ = h.Close() // nothing was opened
		return nil, err
	}
	h.mu.Lock()
	h.ready, h.readyAt = conn, time.Now()
	h.mu.Unlock()
	return h, nil
}

// Target is ssh://user@host:port, as far as the address named them.
func (h *Host) Target() string { return h.address.String() }

// Route says how the daemon's socket was reached last.
func (h *Host) Route() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.route)
}

// Dial opens a connection to the daemon's socket on the machine. It implements client.Way. The connection
// has no deadlines (they are os.ErrNoDeadline), and a CloseWrite.
func (h *Host) Dial(ctx context.Context) (net.Conn, error) {
	h.mu.Lock()
	ready := h.ready
	h.ready = nil
	fresh := time.Since(h.readyAt) < readyTime
	h.mu.Unlock()
	if ready != nil {
		if fresh {
			return ready, nil
		}
		_ = ready.Close() // the daemon may have given it up
	}
	return h.open(ctx, nil)
}

// DialPort opens a connection to a TCP port of the loopback interface of the machine, that of the daemon
// when port is 0. The connection is as that of Dial.
func (h *Host) DialPort(ctx context.Context, port int) (net.Conn, error) {
	if port < 0 || port > 65535 {
		return nil, fail(StepOpen, CodeBadAddress, client.Invalid, fmt.Sprintf("%d is no port", port))
	}
	return h.open(ctx, &port)
}

// Close ends every connection and waits until nothing of them is left.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	ready := h.ready
	h.ready = nil
	h.mu.Unlock()
	h.end()
	if ready != nil {
		_ = ready.Close() // nobody used it
	}
	h.one <- struct{}{} // nobody connects any more
	h.mu.Lock()
	links := h.links
	h.links = nil
	h.mu.Unlock()
	<-h.one
	for _, l := range links {
		l.close()
	}
	h.work.Wait()
	return nil
}

// open opens the daemon's socket, or a port.
func (h *Host) open(ctx context.Context, port *int) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.life, cancel)()
	conn, err := h.try(ctx, port)
	if err == nil {
		return conn, nil
	}
	if h.life.Err() != nil {
		return nil, fail(StepOpen, CodeClosed, client.Unavailable, "the connection to "+h.Target()+" was closed")
	}
	if _, ok := errors.AsType[*client.Error](err); !ok {
		err = with(fail(StepOpen, CodeUnreachable, client.Unavailable, h.Target()+": "+plain(err.Error())), err)
	}
	return nil, err
}

func (h *Host) try(ctx context.Context, port *int) (net.Conn, error) {
	if h.left() != "" {
		return h.openProgram(ctx, port)
	}
	l, err := h.link(ctx)
	if far, ok := errors.AsType[*beyond](err); ok {
		h.leave(far.what)
		return h.openProgram(ctx, port)
	}
	if err != nil {
		return nil, err
	}
	if port != nil {
		return h.openPort(ctx, l, *port)
	}
	return h.openSocket(ctx, l)
}

// leave leaves the machine to the ssh program from now on.
func (h *Host) leave(why string) {
	h.mu.Lock()
	h.outside = plain(why)
	h.mu.Unlock()
	h.d.tell(StepConfig, "through the ssh program, because "+plain(why))
}

// left says why the machine was left to the ssh program, "" when it was not.
func (h *Host) left() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.outside
}

// link returns a live link, and makes one if there is none.
func (h *Host) link(ctx context.Context) (*link, error) {
	if l := h.live(); l != nil {
		return l, nil
	}
	return h.connect(ctx, func() *link { return h.live() })
}

// live returns a link that is alive and forgets those that are not.
func (h *Host) live() *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.links = slices.DeleteFunc(h.links, func(l *link) bool {
		if l.alive() {
			return false
		}
		h.work.Go(l.close)
		return true
	})
	if len(h.links) == 0 {
		return nil
	}
	return h.links[0]
}

// connect makes a link, unless have finds one once it is this caller's turn.
func (h *Host) connect(ctx context.Context, have func() *link) (*link, error) {
	select {
	case h.one <- struct{}{}:
	case <-ctx.Done():
		return nil, fail(StepConnect, client.CodeTimeout, client.Deadline, "connecting to "+h.Target()+" took too long")
	}
	defer func() { <-h.one }()
	if l := have(); l != nil {
		return l, nil
	}
	h.mu.Lock()
	failed, at, n := h.failed, h.failedAt, len(h.links)
	h.mu.Unlock()
	if h.life.Err() != nil {
		return nil, h.life.Err()
	}
	if n >= maxLinks {
		return nil, fail(StepConnect, CodeBusy, client.Exhausted, fmt.Sprintf(
			"%s runs no more programs at once on %d connections (MaxSessions of its sshd)", h.Target(), maxLinks))
	}
	if failed != nil {
		pause := refusedPause
		if transient(failed) {
			pause = retryPause
		}
		if time.Since(at) < pause {
			return nil, failed
		}
	}
	l, err := h.d.link(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			h.failed, h.failedAt = err, time.Now()
		}
		return nil, err
	}
	h.failed = nil
	h.links = append(h.links, l)
	return l, nil
}

// slot finds a link on which one more program may run. The caller gives it back with free.
func (h *Host) slot(ctx context.Context) (*link, error) {
	take := func() *link {
		h.live()
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, l := range h.links {
			l.mu.Lock()
			ok := !l.full && l.alive()
			if ok {
				l.sessions++
			}
			l.mu.Unlock()
			if ok {
				return l
			}
		}
		return nil
	}
	if l := take(); l != nil {
		return l, nil
	}
	l, err := h.connect(ctx, take)
	if err != nil {
		return nil, err
	}
	// It came from take, which has counted it, or it is new.
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions == 0 {
		l.sessions = 1
	}
	return l, nil
}

// refuse gives back the place of a program that could not run, because so many others do that the machine
// runs no more, and returns their number.
func (l *link) refuse() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions--
	l.full = l.sessions > 0
	return l.sessions
}

// free gives back the place of a program that has ended.
func (l *link) free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions--
	l.full = false
}
