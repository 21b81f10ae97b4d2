package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hanzoai/hanzod/client"
)

// dialer connects to the machines of a plan, and keeps what a person was asked for once: keys that were
// unlocked, machines that were accepted. It connects one link at a time.
type dialer struct {
	plan     *plan
	prompt   Prompter
	progress func(Step, string)
	patience *patience // of the handshake under way

	mu   sync.Mutex
	keys map[string]ssh.Signer // unlocked, by public key
	yes  map[string]bool       // accepted, by name and key
}

func (d *dialer) tell(step Step, text string) {
	if d.progress != nil {
		d.progress(step, text)
	}
}

// ask asks the person. The time it takes does not count as the machine's.
func (d *dialer) ask(ctx context.Context, step Step, text string, echo bool) (string, error) {
	defer d.patience.hold()()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer, err := d.prompt.Ask(ctx, text, echo)
	if err != nil {
		return "", with(fail(step, CodePrompt, client.Denied, "the question was not answered: "+plain(err.Error())), err)
	}
	return answer, nil
}

func (d *dialer) unlocked(pub ssh.PublicKey) ssh.Signer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keys[string(pub.Marshal())]
}

func (d *dialer) unlock(s ssh.Signer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys[string(s.PublicKey().Marshal())] = s
}

func (d *dialer) accepted(h *hop, key ssh.PublicKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.yes[knownName(h)+" "+string(key.Marshal())]
}

func (d *dialer) accept(h *hop, key ssh.PublicKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.yes[knownName(h)+" "+string(key.Marshal())] = true
}

// link is a connection to the machine, with those to the jump hosts that carry it.
type link struct {
	*ssh.Client
	base  net.Conn // the TCP connection that carries all of it
	under []*ssh.Client
	gone  chan struct{} // closed when the connection has ended
	work  sync.WaitGroup

	mu       sync.Mutex
	sessions int  // programs that run there by this link
	full     bool // the machine runs no more at once
	ended    bool // close waits for what it started
}

// spawn starts a goroutine of the link.
func (l *link) spawn(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		go f() // it ends at once, with the connection
		return
	}
	l.work.Go(f)
}

func (l *link) alive() bool {
	select {
	case <-l.gone:
		return false
	default:
		return true
	}
}

// close ends the link and waits for its goroutines. Without the TCP connection nothing can block: to close
// what is above it would first write to a machine that may be dead.
func (l *link) close() {
	_ = l.base.Close() // nothing of it is needed any more
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.work.Wait()
}

// link connects to the machine through the hops before it.
func (d *dialer) link(ctx context.Context) (*link, error) {
	l := &link{gone: make(chan struct{})}
	var last *meter
	for i := range d.plan.hops {
		h := &d.plan.hops[i]
		conn, err := d.reach(ctx, l.under, h)
		var c *ssh.Client
		if err == nil {
			if l.base == nil {
				l.base = conn
			}
			last = &meter{Conn: conn}
			last.mark()
			c, err = d.handshake(ctx, h, last, l.base)
		}
		if err != nil {
			if l.base != nil {
				_ = l.base.Close() // it was not used
			}
			return nil, err
		}
		last.carry(c)
		if i == len(d.plan.hops)-1 {
			l.Client = c
		} else {
			l.under = append(l.under, c)
		}
	}
	every := d.plan.target().heartbeat
	l.work.Go(func() {
		_ = l.Wait() // it says why, which the channels have said too
		close(l.gone)
		_ = l.base.Close() // it carries nothing any more
		for _, u := range l.under {
			_ = u.Wait() // the same
		}
	})
	l.work.Go(func() { l.beat(last, every) })
	return l, nil
}

// beat ends the link when nothing has come for two heartbeats; after one, it asks for a sign of life.
func (l *link) beat(m *meter, every time.Duration) {
	asked := time.Time{}
	for {
		seen := m.last()
		next := seen.Add(every)
		if !time.Now().Before(next) {
			if next = seen.Add(2 * every); !time.Now().Before(next) {
				_ = l.base.Close() // it is dead
				return
			}
			if asked.Before(seen.Add(every)) {
				asked = time.Now()
				l.spawn(func() {
					// Servers answer also what they do not know. A write to a dead link blocks until it is closed.
					_, _, _ = l.SendRequest(keepalive, true, nil)
				})
			}
		}
		t := time.NewTimer(time.Until(next))
		select {
		case <-l.gone:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// keepalive is a request that asks for nothing.
const keepalive = "keepalive@openssh.com"

// meter notes when something came, and ends what the connection carries as a whole.
type meter struct {
	net.Conn
	at     atomic.Pointer[time.Time]
	failed atomic.Bool                // nothing can be read any more
	top    atomic.Pointer[ssh.Client] // what it carries
}

// carry tells what the connection carries, once its handshake is done.
func (m *meter) carry(c *ssh.Client) {
	m.top.Store(c)
	if m.failed.Load() {
		m.refuse()
	}
}

// refuse makes what the connection carries refuse every write. The library does that by itself only after it
// has told all that wait for a channel that the connection has ended, and who asks for a channel in between
// waits for ever. So one write has to fail before the library hears that nothing can be read.
func (m *meter) refuse() {
	c := m.top.Load()
	if c == nil {
		return // nobody asks it for channels yet
	}
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		_ = m.Conn.Close() // nothing comes from there any more
		_, _, _ = c.SendRequest(keepalive, false, nil)
	}()
	t := time.NewTimer(closeTime)
	defer t.Stop()
	select {
	case <-failed:
	case <-t.C: // a key exchange is under way, and holds it until the caller has returned
	}
}

func (m *meter) mark() {
	now := time.Now()
	m.at.Store(&now)
}

func (m *meter) last() time.Time { return *m.at.Load() }

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if n > 0 {
		m.mark()
	}
	if err != nil {
		m.failed.Store(true)
		m.refuse()
	}
	return n, err
}

// reach opens the TCP connection to a hop, through the hop before it if there is one.
func (d *dialer) reach(ctx context.Context, under []*ssh.Client, h *hop) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, h.connectTime)
	defer cancel()
	if len(under) == 0 {
		d.tell(StepConnect, h.name()+" at "+h.address())
		var n net.Dialer
		conn, err := n.DialContext(ctx, h.network, h.address())
		if err != nil {
			return nil, with(fail(StepConnect, CodeUnreachable, client.Unavailable, fmt.Sprintf(
				"%s does not answer at %s (%s); look whether the machine is up, whether sshd runs there, and at HostName and Port in ~/.ssh/config",
				h.name(), h.address(), reason(err))), err)
		}
		return conn, nil
	}
	jump := &d.plan.hops[len(under)-1]
	d.tell(StepConnect, h.name()+" at "+h.address()+", through "+jump.name())
	conn, err := under[len(under)-1].DialContext(ctx, "tcp", h.address())
	var no *ssh.OpenChannelError
	switch {
	case err == nil:
		return conn, nil
	case errors.As(err, &no) && no.Reason == ssh.Prohibited:
		return nil, with(fail(StepConnect, CodeRefused, client.Denied, fmt.Sprintf(
			"the jump host %s forwards no connections (%s); its AllowTcpForwarding has to allow it", jump.name(), plain(no.Message))), err)
	}
	return nil, with(fail(StepConnect, CodeUnreachable, client.Unavailable, fmt.Sprintf(
		"the jump host %s does not reach %s (%s); look whether that machine is up and whether sshd runs there", jump.name(), h.address(), plain(err.Error()))), err)
}

// reason says in short why a connection failed.
func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return plain(err.Error())
}

// handshake makes an SSH connection of a TCP connection: it knows the machine and logs in.
func (d *dialer) handshake(ctx context.Context, h *hop, conn, base net.Conn) (*ssh.Client, error) {
	k, err := readKnown(h)
	if err != nil {
		_ = conn.Close() // it was not used
		return nil, err
	}
	auth := &login{d: d, h: h, ctx: ctx}
	defer auth.close()
	var at atomic.Value // the step
	at.Store(StepConnect)
	var distrust error
	var first []byte
	d.patience = newPatience(handshakeTime, func() { _ = base.Close() })
	defer d.patience.stop()
	defer context.AfterFunc(ctx, func() { _ = base.Close() })()
	cfg := &ssh.ClientConfig{
		User:              h.user,
		Auth:              auth.methods(),
		HostKeyAlgorithms: k.algorithms(),
		ClientVersion:     "SSH-2.0-hanzod",
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			if first != nil { // a later key exchange, after which nobody is asked again
				if !bytes.Equal(first, key.Marshal()) {
					return errors.New("the machine shows another key than at first")
				}
				return nil
			}
			first = key.Marshal()
			at.Store(StepHostKey)
			d.tell(StepHostKey, h.name()+" shows "+shown(key))
			if distrust = d.trust(ctx, h, k, remote, key); distrust != nil {
				return distrust
			}
			at.Store(StepAuth)
			d.tell(StepAuth, "as "+h.name())
			return nil
		},
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, h.address(), cfg)
	if err == nil {
		return ssh.NewClient(c, chans, reqs), nil
	}
	step, _ := at.Load().(Step)
	return nil, d.explain(ctx, h, k, auth, step, distrust, err)
}

// explain says why a handshake failed.
func (d *dialer) explain(ctx context.Context, h *hop, k *known, auth *login, step Step, distrust, err error) error {
	var algos *ssh.AlgorithmNegotiationError
	switch {
	case distrust != nil:
		return distrust
	case ctx.Err() != nil:
		return with(fail(step, client.CodeCanceled, client.Deadline, "connecting to "+h.name()+" was given up"), ctx.Err())
	case d.patience.over():
		return with(fail(step, CodeUnreachable, client.Unavailable, fmt.Sprintf(
			"%s took more than %s; look whether %s is an SSH server and not overloaded", h.name(), handshakeTime, h.address())), err)
	case errors.As(err, &algos):
		if strings.Contains(algos.What, "host key") && len(k.keys) > 0 {
			return fail(StepHostKey, CodeChangedHost, client.Denied, fmt.Sprintf(
				"%s shows no key of a kind that is taken (it has %s)", h.name(), plain(strings.Join(algos.RequestedAlgorithms, ", "))))
		}
		return &beyond{"its algorithms are not known to us (" + plain(algos.What) + ")"}
	case step == StepConnect:
		return with(fail(step, CodeUnreachable, client.Unavailable, fmt.Sprintf(
			"what answers at %s does not speak SSH as it should (%s); look at HostName and Port in ~/.ssh/config", h.address(), handshakeReason(err))), err)
	case auth.locked != nil:
		return auth.locked
	case auth.hard:
		return &beyond{"a key of " + h.name() + " is kept in hardware"}
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e
	}
	text := handshakeReason(err)
	hint := "add your public key there with: ssh-copy-id " + h.name()
	if strings.Contains(strings.ToLower(text), "too many authentication failures") {
		hint = "it was offered more keys than it takes; name the right one with IdentityFile, and say IdentitiesOnly yes, in ~/.ssh/config"
	}
	offered := "nothing was offered"
	if len(auth.offered) > 0 {
		offered = "offered were " + plain(strings.Join(auth.offered, ", "))
	}
	class := client.Denied
	if errors.Is(err, io.EOF) || strings.Contains(text, "reset") || strings.Contains(text, "closed") {
		class = client.Unavailable
	}
	return with(fail(StepAuth, CodeAuth, class, fmt.Sprintf("%s does not let us in (%s); %s; %s", h.name(), text, offered, hint)), err)
}

// handshakeReason is the reason without what the library says about itself.
func handshakeReason(err error) string {
	s := plain(err.Error())
	for {
		cut := strings.TrimPrefix(strings.TrimPrefix(s, "ssh: "), "handshake failed: ")
		if cut == s {
			return s
		}
		s = cut
	}
}

// patience is a time limit that rests while a person is waited for.
type patience struct {
	mu    sync.Mutex
	timer *time.Timer
	left  time.Duration
	since time.Time
	holds int
	ended bool
	end   func()
}

func newPatience(d time.Duration, end func()) *patience {
	p := &patience{left: d, since: time.Now(), end: end}
	p.timer = time.AfterFunc(d, p.fire)
	return p
}

func (p *patience) fire() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.end()
}

// hold makes the limit that of a person until the function that it returns is called.
func (p *patience) hold() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds++; p.holds == 1 {
		p.left -= time.Since(p.since)
		p.timer.Reset(askTime + handshakeTime)
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.holds--; p.holds == 0 && !p.ended {
			p.since = time.Now()
			p.timer.Reset(max(p.left, time.Second))
		}
	}
}

func (p *patience) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func (p *patience) stop() { p.timer.Stop() }

// tail keeps the beginning of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := maxStderr - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
