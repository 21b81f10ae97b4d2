package tunnels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// maxWays bounds the targets of one binding that leaves them to its streams.
	maxWays = 32
	// maxHost bounds the name of a target in characters.
	maxHost = 253
	// loopback is what a target without a host means.
	loopback = "127.0.0.1"
)

// target is a host and a port.
type target struct {
	host string
	port int
}

func address(host string, port int) string {
	if host == "" && port == 0 {
		return "what its streams name"
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// targetOf checks a target; an empty host is this machine's, or the node's, own.
func targetOf(host string, port int) (target, error) {
	if host == "" {
		host = loopback
	}
	if port < 1 || port > 65535 || len(host) > maxHost || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
		return target{}, ErrTarget
	}
	return target{host, port}, nil
}

// way opens connections to a target.
type way interface {
	open(ctx context.Context, remoteAddr string) (Conn, string, error)
	close()
}

// local is a way from this machine.
type local struct {
	s  *Service
	to target
}

func (l local) open(ctx context.Context, _ string) (Conn, string, error) {
	return l.s.cfg.Reach(ctx, l.to.host, l.to.port)
}

func (local) close() {}

// far is a way from a node.
type far struct{ g *Grant }

func (f far) open(ctx context.Context, remoteAddr string) (Conn, string, error) {
	return f.g.open(ctx, bindings.OpenIn{RemoteAddr: remoteAddr})
}

func (f far) close() { _ = f.g.Close() } // it cannot fail

// reach makes a binding of mode dial: what it may reach is decided now.
func (att *attachment) reach(ctx context.Context, in wire.BindBody) (*binding, error) {
	if in.Kind != kindTCP && in.Kind != kindDial && in.Kind != "" {
		return nil, bindings.ErrInvalidKind
	}
	if in.Takeover != nil && *in.Takeover {
		return nil, bindings.ErrInvalidKind
	}
	in.Kind = kindTCP
	t := att.t
	if err := mayReach(t.caller, in.Node); err != nil {
		return nil, err
	}
	named := in.Host != "" || in.ContainerPort != 0
	var to target
	if named {
		var err error
		if to, err = targetOf(in.Host, in.ContainerPort); err != nil {
			return nil, err
		}
		in.Host = to.host
	} else if in.Node != "" {
		id, _, err := t.s.cfg.Nodes.Linked(ctx, t.caller, in.Node)
		if err != nil {
			return nil, err
		}
		in.Node = id
	}
	b, err := att.reserve(in)
	if err != nil {
		return nil, err
	}
	b.ways = map[target]way{}
	if !named {
		return b, nil
	}
	if _, err = b.to(ctx, to); err != nil {
		t.s.mu.Lock()
		delete(t.binds, b.id)
		t.s.mu.Unlock()
		return nil, err
	}
	return b, nil
}

// mayReach is the rule of who reaches what through a tunnel, before the rules of nodes.
func mayReach(c identity.Caller, node string) error {
	switch {
	case node == "" && !c.Has(identity.ScopeAdmin):
		return ErrReach
	case !c.Has(identity.ScopeWrite):
		return ErrScope
	}
	return nil
}

// to returns the way to a target, which the node is asked for the first time.
func (b *binding) to(ctx context.Context, to target) (way, error) {
	s := b.t.s
	s.mu.Lock()
	w, n := b.ways[to], len(b.ways)
	s.mu.Unlock()
	switch {
	case w != nil:
		return w, nil
	case n >= maxWays:
		return nil, ErrGrants
	}
	if b.node == "" {
		if s.cfg.Reach == nil {
			return nil, ErrReach
		}
		w = local{s, to}
	} else {
		g, err := s.Grant(ctx, b.t.caller, GrantIn{NodeID: b.node, Host: to.host, Port: to.port})
		if err != nil {
			return nil, err
		}
		w = far{g}
	}
	s.mu.Lock()
	other := b.ways[to]
	if other == nil && !b.ended && !b.t.ended {
		b.ways[to] = w
		if f, ok := w.(far); ok {
			b.node = f.g.NodeID
		}
		s.mu.Unlock()
		s.audit(b.t.caller, AuditRow{Action: "dial", TunnelID: b.t.id, NodeID: b.node, Detail: net.JoinHostPort(to.host, strconv.Itoa(to.port))})
		return w, nil
	}
	s.mu.Unlock()
	w.close()
	if other == nil {
		return nil, ErrStopping
	}
	return other, nil
}

// release gives up the ways of a binding.
func (b *binding) release() {
	b.t.s.mu.Lock()
	ways := b.ways
	b.ways, b.ended = nil, true
	b.t.s.mu.Unlock()
	for _, w := range ways {
		w.close()
	}
}

// opened is mux's Open: a stream of the client's, which needs a binding of mode dial.
func (att *attachment) opened(st *mux.Stream, body wire.StreamOpenBody) error {
	if body.Kind != kindDial && body.Kind != kindTCP {
		return refusal("a client opens streams of kind dial")
	}
	t := att.t
	s := t.s
	s.mu.Lock()
	b := t.dialled(body.BindID)
	ok := b != nil && !b.ended && !t.ended && !t.closing && !s.closed
	if ok {
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if !ok {
		s.refused(kindDial)
		return refusal("no binding of mode dial")
	}
	give, ok := s.cfg.Bindings.Permit()
	if !ok {
		s.wg.Done()
		s.refused(kindDial)
		return &mux.ResetError{Code: wire.CodeExhausted, Reason: "no descriptor is left"}
	}
	c := att.follow(st, kindDial, b)
	go func() {
		defer s.wg.Done()
		defer give()
		b.splice(att.over, c, body)
	}()
	return nil
}

func refusal(text string) *mux.ResetError {
	return &mux.ResetError{Code: wire.CodeRefused, Reason: text}
}

// dialled finds the binding of a stream; one that names none means the only one. The caller holds the service's
// mutex.
func (t *tunnel) dialled(id int) *binding {
	var found *binding
	for _, b := range t.binds {
		if b.mode != modeDial || (id != 0 && b.id != id) {
			continue
		}
		if found != nil {
			return nil
		}
		found = b
	}
	return found
}

// splice joins a stream of the client's to what it names.
func (b *binding) splice(ctx context.Context, c *stream, body wire.StreamOpenBody) {
	s := b.t.s
	opening, cancel := context.WithTimeout(ctx, s.times.dial)
	far, peer, err := b.connect(opening, body)
	cancel()
	if err != nil {
		_ = c.Reset(wire.CodeRefused, why(err)) // it may have ended
		return
	}
	if err := c.Accept(peer); err != nil {
		_ = far.Close() // nobody wants it
		_ = c.Reset(wire.CodeCancel, "")
		return
	}
	join(c, far)
}

// connect opens what a stream names, or its binding.
func (b *binding) connect(ctx context.Context, body wire.StreamOpenBody) (Conn, string, error) {
	s := b.t.s
	s.mu.Lock()
	to := target{b.host, b.port}
	s.mu.Unlock()
	if to.port == 0 {
		var err error
		if to, err = targetOf(body.Host, body.Port); err != nil {
			return nil, "", err
		}
	} else if (body.Host != "" && body.Host != to.host) || (body.Port != 0 && body.Port != to.port) {
		return nil, "", ErrTarget.WithText("the binding is for another host and port")
	}
	w, err := b.to(ctx, to)
	if err != nil {
		return nil, "", err
	}
	return w.open(ctx, b.t.peer())
}

func (t *tunnel) peer() string {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.peerAddr
}

// why is the reason of RESET 6, in words that tell no more than the port would.
func why(err error) string {
	var reset *mux.ResetError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timed out"
	case errors.As(err, &reset) && reset.Reason != "":
		return reset.Reason
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("no such host: %s", dns.Name)
	}
	if text := text(err); !strings.HasPrefix(text, "the server failed") {
		return text
	}
	return "the connection failed"
}

// join copies both ways until both have ended; an error of either ends both.
func join(c *stream, far Conn) {
	done := make(chan struct{})
	go func() {
		if _, err := io.Copy(far, c); err == nil {
			_ = far.CloseWrite() // an error is the other direction's too
		} else {
			_ = far.Close() // wakes the other direction
		}
		close(done)
	}()
	_, err := io.Copy(c, far)
	if err != nil {
		_ = c.Reset(wire.CodeCancel, "the connection failed") // wakes the other direction
	} else {
		_ = c.CloseWrite() // an error is the other direction's too
	}
	<-done
	_ = far.Close() // all is said
	_ = c.Close()   // the same
}
