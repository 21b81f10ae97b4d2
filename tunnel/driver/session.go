package driver

import (
	"context"
	"errors"
	"net"
)

// Session is a tunnel as its client sees it. Its methods may be called concurrently.
type Session struct{ o Options }

type binding struct{ info BindingInfo }

var errSoon = errors.New("tunnel/driver: not there yet")

// Connect opens a session. ctx bounds the first handshake only. An error is that of Dial, one of the refusals of this
// package, a *GoAwayError or ErrProtocol.
func Connect(ctx context.Context, o Options) (*Session, error) { return nil, errSoon }

// Expose binds a port of the server, whose visitors end at a local target. Errors: a *TargetError, a *BindError,
// ErrAway, ErrClosed, ErrLimit.
func (s *Session) Expose(ctx context.Context, in ExposeIn) (*Binding, error) { return nil, errSoon }

// Pull binds a loopback port of the server, whose connections end at a local target. Errors as of Expose.
func (s *Session) Pull(ctx context.Context, in PullIn) (*Binding, error) { return nil, errSoon }

// DialBinding binds the right to open streams, on servers of ours (tunnel.md §4.13). Errors as of Expose; of mode
// dial a server that does not know it answers INVALID_KIND.
func (s *Session) DialBinding(ctx context.Context, in DialIn) (*Dialer, error) { return nil, errSoon }

// Unbind ends a binding and waits for the server to say so.
func (s *Session) Unbind(ctx context.Context, b *Binding) error { return errSoon }

// Bindings returns the bindings that have not ended.
func (s *Session) Bindings() []*Binding { return nil }

// ID is that of the session, which changes when it is replaced.
func (s *Session) ID() string { return "" }

// Extended reports whether the server knows hanzod.1.
func (s *Session) Extended() bool { return false }

// Close ends the bindings, for at most two seconds, and then the session. It waits for the goroutines of the session
// and is idempotent.
func (s *Session) Close() error { return nil }

// Done is closed when the session has ended for good; Err says why then, nil after Close.
func (s *Session) Done() <-chan struct{} { return nil }

// Err is nil before Done.
func (s *Session) Err() error { return nil }

// Wait waits for the end of the session or of ctx.
func (s *Session) Wait(ctx context.Context) error { return errSoon }

// Info is what is known of the binding now.
func (b *Binding) Info() BindingInfo { return b.b.info }

// Dialer opens streams of a binding of mode dial.
type Dialer struct{ *Binding }

// DialContext connects to address, seen from the server or from the binding's node; "" is the binding's own. network
// is tcp. It waits at most ten seconds for the other end to accept. What it returns has CloseWrite.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nil, errSoon
}

// Serve accepts connections of a listener and joins each with a stream of the binding, until ctx or the session
// ends. It closes the listener.
func (d *Dialer) Serve(ctx context.Context, l net.Listener) error { return errSoon }
