package ssh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hanzoai/hanzod/client"
)

// legacyPort is the TCP port of a daemon that says of no other.
const legacyPort = 18789

// Exit codes of "hanzod connect", and of a shell that does not find a program.
const (
	exitUnavailable = 69  // no daemon answers
	exitForeign     = 77  // the socket belongs to somebody else
	exitNotFound    = 127 // there is no such program
	exitUsage       = 2   // a hanzod that does not know the command
)

// notFound is what the command line says when it finds no hanzod.
const notFound = "hanzod-is-not-installed"

// where returns where the daemon is, and asks the machine when that is not known.
func (h *Host) where(ctx context.Context) (*place, error) {
	h.mu.Lock()
	p := h.place
	h.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := h.find(ctx)
	if err != nil {
		return nil, err
	}
	if p.foreign != "" {
		return nil, fail(StepFind, CodeForeign, client.Denied, fmt.Sprintf(
			"on %s, %s, so it is not the daemon of that account; nothing was sent", h.d.plan.target().name(), plain(p.foreign)))
	}
	if p.none {
		return nil, h.noDaemon(p.about)
	}
	h.mu.Lock()
	h.place = p
	h.mu.Unlock()
	return p, nil
}

// forget makes the next Dial ask again where the daemon is.
func (h *Host) forget() {
	h.mu.Lock()
	h.place = nil
	h.mu.Unlock()
}

func (h *Host) noDaemon(about string) error {
	t := h.target()
	return fail(StepFind, CodeNoDaemon, client.Unavailable, fmt.Sprintf(
		"no daemon answers for this account on %s (%s); start it there, for instance with: %s hanzod service install. "+
			"If its state is elsewhere, name the state directory", t, plain(about), h.byHand()))
}

// target is how people name the machine.
func (h *Host) target() string {
	if h.left() == "" {
		return h.d.plan.target().name()
	}
	return h.address.Host
}

func (h *Host) byHand() string {
	if h.left() == "" {
		return byHand(h.d.plan.target())
	}
	return "ssh " + h.address.Host
}

// openSocket opens the daemon's socket by forwarding, and by hanzod there where that is refused.
func (h *Host) openSocket(ctx context.Context, l *link) (net.Conn, error) {
	p, err := h.where(ctx)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	route := h.route
	h.mu.Unlock()
	var refusal error
	if p.socket != "" && route != RouteStdio {
		h.d.tell(StepOpen, plain(p.socket))
		data := ssh.Marshal(struct {
			Path     string
			Reserved string
			Port     uint32
		}{Path: p.socket})
		ch, reqs, err := h.channel(ctx, l, "direct-streamlocal@openssh.com", data)
		if err == nil {
			h.mu.Lock()
			h.route = RouteForward
			h.mu.Unlock()
			return forwarded(l, ch, reqs, p.socket), nil
		}
		h.forget()
		var no *ssh.OpenChannelError
		if !errors.As(err, &no) {
			return nil, h.lost(ctx, l, err)
		}
		if route == RouteForward && no.Reason == ssh.ConnectionFailed {
			return nil, h.noDaemon(p.about) // it has worked, so what is missing is the daemon
		}
		refusal = no
	}
	h.d.tell(StepOpen, "by hanzod there, because sockets are not forwarded")
	conn, err := h.openStdio(ctx, p, nil)
	if err != nil {
		h.forget()
		if e, ok := errors.AsType[*client.Error](err); ok && e.Code == CodeNoHanzod && refusal != nil {
			var no *ssh.OpenChannelError
			errors.As(refusal, &no)
			return nil, with(fail(StepOpen, CodeNoHanzod, client.Denied, fmt.Sprintf(
				"%s does not forward the connection to the daemon's socket %s (%s), and hanzod, which could carry it, is not found there. "+
					"Look whether the daemon runs; allow AllowStreamLocalForwarding in its sshd_config, or install hanzod there, in the PATH, in ~/.local/bin or in /usr/local/bin",
				h.target(), p.about, plain(no.Message))), refusal)
		}
		return nil, err
	}
	h.mu.Lock()
	h.route, h.place = RouteStdio, p
	h.mu.Unlock()
	return conn, nil
}

// openPort opens a port of the loopback interface.
func (h *Host) openPort(ctx context.Context, l *link, port int) (net.Conn, error) {
	p, err := h.where(ctx)
	if err != nil {
		if port == 0 {
			return nil, err
		}
		p = &place{} // the port may answer all the same
	}
	number := port
	if number == 0 {
		if number = p.port; number == 0 {
			number = legacyPort
		}
	}
	h.d.tell(StepOpen, "port "+strconv.Itoa(number))
	data := ssh.Marshal(struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}{"127.0.0.1", uint32(number), "127.0.0.1", 0})
	ch, reqs, err := h.channel(ctx, l, "direct-tcpip", data)
	if err == nil {
		return forwarded(l, ch, reqs, "127.0.0.1:"+strconv.Itoa(number)), nil
	}
	var no *ssh.OpenChannelError
	switch {
	case !errors.As(err, &no):
		return nil, h.lost(ctx, l, err)
	case no.Reason == ssh.ConnectionFailed:
		h.forget()
		return nil, fail(StepOpen, CodeNoDaemon, client.Unavailable, fmt.Sprintf(
			"nothing answers on port %d of %s (%s); look whether the daemon runs there", number, h.target(), plain(no.Message)))
	}
	h.d.tell(StepOpen, "by hanzod there, because ports are not forwarded")
	return h.openStdio(ctx, p, &number)
}

// lost explains a channel that could not be opened although nobody refused it.
func (h *Host) lost(ctx context.Context, l *link, err error) error {
	switch {
	case ctx.Err() != nil:
		return with(fail(StepOpen, client.CodeTimeout, client.Deadline, "opening the daemon's socket on "+h.target()+" was given up"), ctx.Err())
	case l.alive() && errors.Is(err, context.DeadlineExceeded):
		return with(fail(StepOpen, CodeUnreachable, client.Unavailable, fmt.Sprintf("%s did not answer within %s", h.target(), openTime)), err)
	}
	return with(fail(StepOpen, CodeUnreachable, client.Unavailable, "the connection to "+h.target()+" was lost ("+plain(err.Error())+")"), err)
}

// connectLine is the command line that runs hanzod there. It is one that every login shell takes the same
// way: one word in quotes, without quotes, backslashes, line ends or exclamation marks in it. The greeting
// parts what the login shell prints from what the daemon says.
func (h *Host) connectLine(p *place, port *int, greeting string) (string, error) {
	args := " connect --stdio --greet " + greeting
	name := func(flag, path string) error {
		if path == "" {
			return nil
		}
		if !quotable(path) {
			return fail(StepOpen, CodeBadAddress, client.Invalid, "the path "+plain(path)+" cannot be named on the command line of another machine")
		}
		args += " " + flag + ` "` + path + `"`
		return nil
	}
	var err error
	switch {
	case port != nil && *port != 0:
		args += " --port " + strconv.Itoa(*port)
	case port != nil:
		args += " --gateway"
		err = name("--state-dir", h.dir)
	case h.socket != "":
		err = name("--socket", h.socket)
	default:
		err = name("--state-dir", h.dir)
	}
	if err != nil {
		return "", err
	}
	if p != nil && !p.shell && h.dir == "" && h.socket == "" && h.left() == "" {
		return "hanzod" + args, nil // such as Windows
	}
	names := `hanzod "$HOME/.local/bin/hanzod" /usr/local/bin/hanzod /usr/bin/hanzod /opt/homebrew/bin/hanzod`
	if p != nil && p.program != "" && quotable(p.program) {
		names = `"` + p.program + `" ` + names
	}
	return `sh -c 'for h in ` + names + `; do command -v "$h" >/dev/null 2>&1 && exec "$h"` + args +
		`; done; echo ` + notFound + ` >&2; exit 127'`, nil
}

// quotable says whether a text stands for itself in double quotes inside single ones, in every shell.
func quotable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("'\"\\!$`", r) })
}

// openStdio runs hanzod there, on a link that has room for one more program.
func (h *Host) openStdio(ctx context.Context, p *place, port *int) (net.Conn, error) {
	greeting := "hanzod-" + nonce()
	line, err := h.connectLine(p, port, greeting)
	if err != nil {
		return nil, err
	}
	l, ch, reqs, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	return h.greeted(ctx, l, ch, reqs, line, greeting)
}

// session opens a channel in which one program can run, on a link that has room for it. Whoever has read the
// requests to their end gives the room back with free.
func (h *Host) session(ctx context.Context) (*link, ssh.Channel, <-chan *ssh.Request, error) {
	for range maxLinks + 1 {
		l, err := h.slot(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		ch, reqs, err := h.channel(ctx, l, "session", nil)
		if err == nil {
			return l, ch, reqs, nil
		}
		others := l.refuse()
		var no *ssh.OpenChannelError
		if !errors.As(err, &no) {
			return nil, nil, nil, h.lost(ctx, l, err)
		}
		// OpenSSH gives one reason for all: when others run, it is taken for MaxSessions.
		if others == 0 {
			return nil, nil, nil, with(fail(StepOpen, CodeRefused, client.Denied, fmt.Sprintf(
				"%s runs no programs for us (%s; MaxSessions of its sshd), and does not forward the connection either", h.target(), plain(no.Message))), err)
		}
	}
	return nil, nil, nil, fail(StepOpen, CodeBusy, client.Exhausted, h.target()+" runs no more programs at once")
}

// greeted runs the command line in a session and waits for its greeting.
func (h *Host) greeted(ctx context.Context, l *link, ch ssh.Channel, reqs <-chan *ssh.Request, line, greeting string) (net.Conn, error) {
	stderr, code := &tail{}, make(chan int, 1)
	l.spawn(func() {
		defer l.free() // the session has ended
		exit := -1
		for r := range reqs {
			if r.Type == "exit-status" && len(r.Payload) >= 4 {
				exit = int(binary.BigEndian.Uint32(r.Payload))
			}
			if r.WantReply {
				_ = r.Reply(false, nil) // the connection may be gone
			}
		}
		code <- exit
	})
	said := make(chan struct{})
	l.spawn(func() {
		defer close(said)
		_, _ = io.Copy(stderr, ch.Stderr()) // it ends with the session
	})
	wait, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	stop := l.limit(wait, ch)
	defer stop()
	ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{line}))
	if err == nil && !ok {
		err = errors.New("the machine runs no programs for us")
	}
	if err == nil {
		err = greet(ch, greeting)
	}
	if err == nil && stop() {
		return &conn{Reader: ch, w: ch, half: ch.CloseWrite, to: string(RouteStdio), done: ch.Close}, nil
	}
	if err == nil {
		err = wait.Err()
	}
	l.spawn(func() { _ = ch.Close() }) // it has failed
	exit := -1
	grace := time.NewTimer(closeTime)
	defer grace.Stop()
	select {
	case <-said:
		select {
		case exit = <-code:
		case <-grace.C:
		}
	case <-grace.C:
	}
	if ctx.Err() != nil || !l.alive() {
		return nil, h.lost(ctx, l, err)
	}
	return nil, h.failedProgram(exit, stderr.String(), err)
}

// failedProgram explains a hanzod there that did not connect.
func (h *Host) failedProgram(exit int, stderr string, err error) error {
	text := plain(stderr)
	if text == "" {
		text = plain(err.Error())
	}
	switch {
	case exit == exitNotFound || strings.Contains(stderr, notFound):
		return fail(StepOpen, CodeNoHanzod, client.NotFound, fmt.Sprintf(
			"hanzod is not found on %s; install it there, in the PATH of a command, in ~/.local/bin or in /usr/local/bin", h.target()))
	case exit == exitUnavailable:
		return h.noDaemon(text)
	case exit == exitForeign:
		return fail(StepOpen, CodeForeign, client.Denied, "on "+h.target()+": "+text)
	case exit == exitUsage:
		return fail(StepOpen, CodeNoHanzod, client.Denied, "hanzod on "+h.target()+" is too old for this ("+text+"); upgrade it")
	}
	return with(fail(StepOpen, CodeRefused, client.Unavailable, fmt.Sprintf(
		"hanzod on %s did not connect (%s); try there by hand: %s hanzod connect --stdio", h.target(), text, h.byHand())), err)
}

// errNoGreeting says that a program ended, or printed other things, before it was connected.
var errNoGreeting = errors.New("it ended before it was connected")

// greet reads up to the line with the greeting, byte by byte: what follows is the daemon's.
func greet(r io.Reader, greeting string) error {
	want := []byte(greeting + "\n")
	seen := make([]byte, 0, 1<<10)
	var b [1]byte
	for range maxNoise {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return errNoGreeting
		}
		if seen = append(seen, b[0]); b[0] == '\n' {
			if bytes.HasSuffix(seen, want) {
				return nil
			}
			seen = seen[:0]
		}
		if len(seen) == cap(seen) { // a long line; only its end can matter
			seen = append(seen[:0], seen[len(seen)-len(want):]...)
		}
	}
	return fmt.Errorf("it printed more than %d bytes and was not connected", maxNoise)
}
