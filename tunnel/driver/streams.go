package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The reasons of RESET 6 (tunnel.md §4.7).
const (
	noService   = "local connect failed"
	badRequest  = "invalid-method-or-target"
	noPlace     = "too many local sockets"
	noBinding   = "no such binding"
	noKind      = "streams of this kind are not served"
	notAdmitted = "not admitted"
)

// open admits a stream of the server on the reading goroutine.
func (s *Session) open(l *link, st *mux.Stream, body wire.StreamOpenBody) error {
	switch body.Kind {
	case kindHTTP, kindTCP:
		b := s.find(body)
		if b == nil {
			return errors.New(noBinding)
		}
		if body.Kind == kindHTTP {
			if !validRequest(body) {
				return errors.New(badRequest)
			}
			s.wg.Go(func() {
				s.local(st, b.target, func(ctx context.Context, c net.Conn) { s.pumpHTTP(ctx, l, st, c, b.target, body) })
			})
			return nil
		}
		s.wg.Go(func() { s.local(st, b.target, func(_ context.Context, c net.Conn) { join(st, c) }) })
		return nil
	case kindDial:
		if s.o.Serve == nil || body.Port < 1 || body.Port > 65535 || body.Host == "" {
			return errors.New(notAdmitted)
		}
		if err := s.o.Serve(body.BindID, body.Host, body.Port); err != nil {
			return err
		}
		target := net.JoinHostPort(body.Host, strconv.Itoa(body.Port))
		s.wg.Go(func() {
			s.local(st, target, func(_ context.Context, c net.Conn) {
				if err := st.Accept(c.RemoteAddr().String()); err != nil {
					_ = c.Close() // the stream is gone
					return
				}
				join(st, c)
			})
		})
		return nil
	}
	return errors.New(noKind)
}

// local connects to a target for a stream and serves it. What arrives before waits in the window of the stream.
func (s *Session) local(st *mux.Stream, target string, serve func(context.Context, net.Conn)) {
	ctx, cancel := context.WithTimeout(s.ctx, localWait)
	gone := make(chan struct{})
	s.wg.Go(func() { // a visitor who leaves ends the attempt
		select {
		case <-st.Done():
			cancel()
		case <-gone:
		}
	})
	c, err := s.connect(ctx, target)
	close(gone)
	cancel()
	if err != nil {
		reason := noService
		if errors.Is(err, ErrLimit) {
			reason = noPlace
		}
		s.log.Debug("a stream found no local service", "target", target, "err", err)
		_ = st.Reset(wire.CodeRefused, reason) // it may be gone
		return
	}
	defer s.places.back(target)
	serve(s.ctx, c)
}

func (s *Session) connect(ctx context.Context, target string) (net.Conn, error) {
	if err := s.places.take(ctx, target); err != nil {
		return nil, err
	}
	c, err := s.o.Local(ctx, "tcp", target)
	if err != nil {
		s.places.back(target)
	}
	return c, err
}

// halfCloser is a connection whose directions end one by one.
type halfCloser interface{ CloseWrite() error }

// join moves bytes both ways until both directions have ended or one broke, and closes both.
func join(st *mux.Stream, c net.Conn) {
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, err := st.WriteTo(c)
		if err == nil {
			if h, ok := c.(halfCloser); ok {
				err = h.CloseWrite()
			}
		}
		if err == nil {
			<-st.Done() // a reset ends the other direction too
			err = st.Err()
		} else if st.Err() == nil {
			_ = st.Reset(wire.CodeCancel, "the local connection broke") // whoever waits at the other end hears of it
		}
		if err != nil {
			_ = c.Close() // ends the other direction
		}
	}()
	if _, err := st.ReadFrom(c); err != nil {
		_ = st.Reset(wire.CodeCancel, "the local connection broke") // nothing when the stream broke
	} else if err := st.CloseWrite(); err != nil {
		_ = st.Reset(wire.CodeCancel, "") // it is gone
	}
	<-up
	_ = c.Close()
	_ = st.Close()
}

// Dialer opens streams of a binding of mode dial.
type Dialer struct{ *Binding }

// DialContext connects to address, seen from the server or from the binding's node; "" is the binding's own. network
// is tcp. It waits at most ten seconds for the other end to accept. What it returns has CloseWrite. Errors are ErrAway,
// ErrClosed, a *mux.ResetError with the reason of the other end, or that of ctx.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "" && network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, net.UnknownNetworkError(network)
	}
	body := wire.StreamOpenBody{Kind: kindDial}
	if address != "" {
		host, port, err := SplitTarget(address)
		if err != nil {
			return nil, err
		}
		body.Host, body.Port = host, port
	}
	l, err := d.s.current(ctx)
	if err != nil {
		return nil, err
	}
	d.s.mu.Lock()
	body.BindID = d.b.id
	if address == "" {
		body.Host, body.Port = d.b.ask.Host, d.b.ask.ContainerPort
	}
	revoked := d.b.revoked
	d.s.mu.Unlock()
	if revoked || body.BindID == 0 {
		return nil, fmt.Errorf("%w: the binding has ended", ErrClosed)
	}
	st, err := l.m.Open(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, acceptWait, errors.New("the other end did not accept in time"))
	defer cancel()
	if _, err := st.Accepted(ctx); err != nil {
		_ = st.Reset(wire.CodeCancel, "not accepted in time") // nothing when it was refused
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
			err = cause
		}
		return nil, err
	}
	return st, nil
}

// Serve accepts connections of a listener and joins each with a stream of the binding, until ctx or the session
// ends, or the listener fails. It closes the listener, and returns when all connections have ended.
func (d *Dialer) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	stopped := context.AfterFunc(d.s.ctx, func() { _ = l.Close() })
	defer stopped()
	defer l.Close()
	target := "listener " + l.Addr().String()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case d.s.ctx.Err() != nil:
			return d.s.closedErr()
		case err != nil:
			return err
		}
		short, cancel := context.WithTimeout(ctx, localWait)
		err = d.s.places.take(short, target)
		cancel()
		if err != nil {
			_ = c.Close() // a limit
			continue
		}
		all.Go(func() {
			defer d.s.places.back(target)
			st, err := d.DialContext(ctx, "tcp", "")
			if err != nil {
				d.s.log.Warn("a connection could not be carried on", "from", c.RemoteAddr(), "err", err)
				_ = c.Close() // the caller sees the end
				return
			}
			end := context.AfterFunc(ctx, func() { _ = st.(*mux.Stream).Reset(wire.CodeCancel, "") })
			defer end()
			join(st.(*mux.Stream), c)
		})
	}
}
