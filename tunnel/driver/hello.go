package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// maxCarriers bounds the carriers of a session (tunnel.md §4.5).
	maxCarriers = 16
	// maxDrain bounds how long streams go on after a GOAWAY with a grace, which the server closes itself.
	maxDrain = 10 * time.Second
	// The WebSocket close codes that this side uses and tells apart.
	closeNormal   = 1000
	closeProtocol = 1002
	closePolicy   = 1008
	closeLater    = 1013
)

// hello is what HELLO_OK said.
type hello struct {
	wire.HelloOKBody
	stream, session uint32
}

// helloBody is HELLO in the order of members in which published drivers write it.
func (s *Session) helloBody(resume string) wire.HelloBody {
	h := wire.HelloBody{Version: s.o.Version, Capabilities: []string{}}
	if s.o.Version == wire.V2 {
		h.Capabilities = append(h.Capabilities, wire.MultiWS)
		h.MaxConnections = s.o.MaxConnections
	}
	if !s.o.Plain {
		h.Capabilities = append(h.Capabilities, wire.Hanzod1)
	}
	if resume != "" {
		h.Resume = &wire.Resume{SessionID: resume}
	}
	if s.o.Token != "" {
		h.Auth = &wire.HelloAuth{Kind: cmp.Or(s.o.TokenKind, "bearer"), Token: s.o.Token}
	}
	return h
}

// first sends the first frame of a carrier and returns the first one of the other end that answers it, with what came
// behind that in its message, which is valid until the next read.
func first(ctx context.Context, c mux.Carrier, t wire.Type, body any, ok, no wire.Type) (f wire.Frame, rest []byte, err error) {
	message, err := wire.AppendBody(nil, t, 0, body)
	if err != nil {
		return f, nil, err
	}
	if err := c.Write(net.Buffers{message}); err != nil {
		return f, nil, fmt.Errorf("%w: %w", ErrBeforeHello, err)
	}
	var away *wire.GoAwayBody
	for {
		message, err := c.Read(ctx)
		if err != nil {
			if ctx.Err() != nil && away == nil {
				return f, nil, fmt.Errorf("the server did not answer in time: %w", context.Cause(ctx))
			}
			return f, nil, refusal(away, err)
		}
		for n := 0; len(message) > 0; n++ {
			if n >= wire.MaxFrames {
				return f, nil, fmt.Errorf("%w: %w", ErrProtocol, wire.ErrFrames)
			}
			if f, message, err = wire.Next(message); err != nil {
				return f, nil, fmt.Errorf("%w: its first message is none (%w)", ErrProtocol, err)
			}
			switch {
			case f.Type == ok || f.Type == no:
				return f, message, nil
			case f.Type == wire.GoAway:
				away = &wire.GoAwayBody{}
				_ = wire.Decode(f.Payload, away) // it means the same without its members
			case f.Type == wire.Ping:
				if err := c.Write(net.Buffers{wire.Append(nil, wire.Pong, 0, f.Payload)}); err != nil {
					return f, nil, refusal(away, err)
				}
			case f.Type >= wire.FirstExtension && f.Type <= wire.LastExtension:
			case away != nil:
			default:
				return f, nil, fmt.Errorf("%w: frame 0x%02x came before the answer to the first frame", ErrProtocol, byte(f.Type))
			}
		}
		if away != nil {
			// The close may say more; who does not close has said enough.
			short, cancel := context.WithTimeout(ctx, time.Second)
			_, err := c.Read(short)
			cancel()
			return f, nil, refusal(away, err)
		}
	}
}

// refusal words the end of a carrier before its first frame was answered (tunnel.md §4.8).
func refusal(away *wire.GoAwayBody, err error) error {
	text, code := "", 0
	if away != nil {
		text = away.Message
	}
	if closed, ok := errors.AsType[*mux.CloseError](err); ok {
		code = closed.Code
		if text == "" {
			text = closed.Reason
		}
	}
	kind := ErrRefused
	switch {
	case away != nil && away.Code == wire.CodeExhausted, code == closeLater, strings.Contains(text, "session limit"):
		kind = ErrSessionLimit
	case strings.Contains(text, "resume"), code == closePolicy && text == "":
		kind = ErrExpired
	case away == nil && text == "":
		if err == nil {
			return ErrBeforeHello
		}
		return fmt.Errorf("%w: %w", ErrBeforeHello, err)
	}
	var why error = &mux.CloseError{Code: code, Reason: text}
	if away != nil {
		why = &GoAwayError{away.Code, away.Message}
	}
	return fmt.Errorf("%w: %w", kind, why)
}

// readHello checks HELLO_OK: windows that are no positive numbers are refused, absent ones are the defaults.
func readHello(payload []byte) (h hello, err error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(payload, &all); err != nil {
		return h, fmt.Errorf("%w: HELLO_OK is not understood", ErrProtocol)
	}
	if h.stream, err = window(all["streamWindow"], wire.StreamWindow); err != nil {
		return h, err
	}
	if h.session, err = window(all["sessionWindow"], wire.SessionWindow); err != nil {
		return h, err
	}
	// The windows were read; as other numbers than whole ones they must not spoil the rest.
	delete(all, "streamWindow")
	delete(all, "sessionWindow")
	clean, _ := json.Marshal(all) // of JSON
	if err := json.Unmarshal(clean, &h.HelloOKBody); err != nil || h.SessionID == "" {
		return h, fmt.Errorf("%w: HELLO_OK is not understood", ErrProtocol)
	}
	return h, nil
}

func window(raw json.RawMessage, absent uint32) (uint32, error) {
	if raw == nil {
		return absent, nil
	}
	var n float64
	if string(raw) == "null" || json.Unmarshal(raw, &n) != nil || n < 1 || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%w: HELLO_OK has a window that is no positive number", ErrProtocol)
	}
	return uint32(min(n, math.MaxInt32)), nil
}

// handshake makes a carrier and opens or resumes the session on it.
func (s *Session) handshake(ctx context.Context, resume string) (_ *link, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloWait, errors.New("HELLO took too long"))
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	c, err := s.o.Dial(ctx, 0)
	if err != nil {
		return nil, err
	}
	f, rest, err := first(ctx, c, wire.Hello, s.helloBody(resume), wire.HelloOK, wire.HelloOK)
	var h hello
	if err == nil {
		h, err = readHello(f.Payload)
	}
	if err != nil {
		code := 0
		if errors.Is(err, ErrProtocol) {
			code = closeProtocol
		}
		_ = c.Close(code, "") // it says why it failed already
		return nil, err
	}
	l := &link{hello: h, lost: make(chan struct{}), binds: map[int]chan answer{}, unbinds: map[int]chan answer{}}
	l.extended = !s.o.Plain && slices.Contains(h.Capabilities, wire.Hanzod1)
	l.m = mux.New(mux.Config{
		Client: true, StreamWindow: h.stream, SessionWindow: h.session, MaxStreams: max(h.MaxStreams, defaultStreams), Hanzod1: l.extended,
		Control: func(_ int, f wire.Frame) error { return s.control(l, f) },
		Open:    func(st *mux.Stream, body wire.StreamOpenBody) error { return s.open(l, st, body) },
		Lost:    func(index int, err error) { s.carrierLost(l, index, err) },
	})
	s.took(h)
	if err := l.m.Add(0, c, rest); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBeforeHello, err)
	}
	if err := s.join(ctx, l); err != nil {
		_ = l.m.Close(closeNormal, "")
		return nil, err
	}
	return l, nil
}

// defaultStreams is how many streams a server may open that does not say how many it will.
const defaultStreams = 1024

// took notes the session that HELLO_OK names, and which bindings it has: streams may be in the same message.
func (s *Session) took(h hello) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id = h.SessionID
	for _, b := range s.bindings {
		i := slices.IndexFunc(h.ResumedBinds, func(r wire.ResumedBind) bool { return r.BindID == b.id && b.id != 0 })
		if !h.Resumed || i < 0 {
			b.id = 0
			continue
		}
		b.port = h.ResumedBinds[i].ContainerPort
	}
}

// join adds the further carriers for which there are tickets, at once.
func (s *Session) join(ctx context.Context, l *link) error {
	var wg sync.WaitGroup
	failed := make(chan error, maxCarriers)
	seen := map[int]bool{0: true}
	for _, ticket := range l.hello.JoinTickets {
		if s.o.Version != wire.V2 || ticket.Index >= min(l.hello.ConnectionsGranted, maxCarriers) || ticket.Index < 1 || seen[ticket.Index] {
			continue
		}
		seen[ticket.Index] = true
		wg.Go(func() {
			if err := s.joinOne(ctx, l, ticket); err != nil {
				failed <- fmt.Errorf("carrier %d: %w", ticket.Index, err)
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		if s.o.Plain {
			return err // as published drivers do
		}
		s.log.Warn("the tunnel goes on with fewer carriers", "err", err)
		s.tell(Event{Kind: CarrierLost, Err: err})
	}
	return nil
}

func (s *Session) joinOne(ctx context.Context, l *link, ticket wire.JoinTicket) error {
	c, err := s.o.Dial(ctx, ticket.Index)
	if err != nil {
		return err
	}
	f, rest, err := first(ctx, c, wire.Join, wire.JoinBody{SessionID: l.hello.SessionID, Index: ticket.Index, Nonce: ticket.Nonce}, wire.JoinOK, wire.JoinErr)
	if err == nil && f.Type == wire.JoinErr {
		var e wire.JoinErrBody
		_ = wire.Decode(f.Payload, &e) // a refusal without words is one
		err = fmt.Errorf("%w: %s (%s)", ErrRefused, e.Message, e.Code)
	}
	if err != nil {
		_ = c.Close(0, "") // it says why it failed already
		return err
	}
	return l.m.Add(ticket.Index, c, rest)
}

// carrierLost is told of the end of a carrier by the reading goroutine.
func (s *Session) carrierLost(l *link, index int, err error) {
	if index != 0 {
		if s.ctx.Err() == nil {
			s.tell(Event{Kind: CarrierLost, Err: err})
		}
		return
	}
	l.mu.Lock()
	l.lostErr = err
	l.mu.Unlock()
	close(l.lost)
}

// goneAway ends the carriers after a GOAWAY once the grace is over; without one, at once.
func (s *Session) goneAway(l *link, grace time.Duration) {
	s.wg.Go(func() {
		if grace > 0 {
			ctx, cancel := context.WithTimeout(s.ctx, grace)
			_ = l.m.Drain(ctx) // whatever is left ends now
			cancel()
		}
		_ = l.m.Close(closeNormal, "")
	})
}

// whyLost is why a link ended.
func (l *link) whyLost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return l.away
	}
	if l.lostErr == nil {
		return ErrAway
	}
	return fmt.Errorf("%w: %w", ErrAway, l.lostErr)
}

// supervise keeps the session on a carrier until it ends.
func (s *Session) supervise(l *link) {
	for {
		select {
		case <-l.lost:
		case <-s.ctx.Done():
			_ = l.m.Close(closeNormal, "")
			<-l.lost
		}
		l.mu.Lock()
		away, lost := l.away, l.lostErr
		l.mu.Unlock()
		s.publish(nil)
		_ = l.m.Close(closeNormal, "") // it is gone
		l.m.Wait()                     // nothing opens streams any more
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		if closing {
			s.finish(nil)
			return
		}
		if away != nil {
			s.tell(Event{Kind: GoAway, Err: away, Text: away.Message})
			s.finish(away)
			return
		}
		if err := final(lost); err != nil {
			s.finish(err)
			return
		}
		next, err := s.comeBack(lost)
		if err != nil {
			s.finish(err)
			return
		}
		l = next
	}
}

// final is the error of a session whose carrier ended in a way that coming back does not mend, else nil.
func final(lost error) error {
	if broken, ok := errors.AsType[*mux.SessionError](lost); ok {
		return fmt.Errorf("%w: %w", ErrProtocol, broken)
	}
	if closed, ok := errors.AsType[*mux.CloseError](lost); ok && (closed.Code == closeNormal || closed.Code == closePolicy) {
		return fmt.Errorf("%w: %w", ErrClosed, closed)
	}
	return nil
}

// comeBack makes a new carrier and resumes, until the grace is over.
func (s *Session) comeBack(lost error) (*link, error) {
	began, wait := time.Now(), firstRetry
	last := lost
	for {
		if time.Since(began)+wait > s.o.Grace {
			return nil, fmt.Errorf("%w: the carrier did not come back within %s: %w", ErrClosed, max(s.o.Grace, 0), last)
		}
		s.tell(Event{Kind: Reconnecting, Err: last, In: wait})
		s.log.Info("the tunnel lost its carrier and tries to come back", "in", wait, "err", last)
		if !s.pause(wait) {
			return nil, ErrClosed
		}
		wait = min(2*wait, lastRetry)
		ctx, cancel := context.WithDeadline(s.ctx, began.Add(s.o.Grace+helloWait))
		l, err := s.handshake(ctx, s.ID())
		if errors.Is(err, ErrExpired) {
			l, err = s.handshake(ctx, "")
		}
		if err == nil {
			err = s.rebind(ctx, l)
		}
		cancel()
		switch {
		case err == nil:
			s.publish(l)
			kind := Resumed
			if !l.hello.Resumed {
				kind = Replaced
			}
			s.log.Info("the tunnel is back", "session", l.hello.SessionID, "resumed", l.hello.Resumed)
			s.tell(Event{Kind: kind})
			return l, nil
		case s.ctx.Err() != nil:
			return nil, ErrClosed
		case errors.Is(err, ErrRefused), errors.Is(err, ErrProtocol):
			return nil, err
		}
		last = err
	}
}

// pause waits, and reports whether the session still is.
func (s *Session) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// rebind asks again for the bindings that a new carrier did not bring back, with the ports that they had. An error is
// a carrier that is gone again.
func (s *Session) rebind(ctx context.Context, l *link) error {
	s.mu.Lock()
	var missing []*binding
	for _, b := range s.bindings {
		if b.id == 0 {
			missing = append(missing, b)
		}
	}
	s.mu.Unlock()
	for _, b := range missing {
		s.mu.Lock()
		had := b.port
		s.mu.Unlock()
		err := s.bind(ctx, l, b, had)
		if refused, ok := errors.AsType[*BindError](err); ok && b.wanted == 0 && had != 0 && refused.Code != wire.InvalidKind {
			err = s.bind(ctx, l, b, 0) // any port will do
		}
		refused, ok := errors.AsType[*BindError](err)
		switch {
		case err == nil:
		case ok:
			s.drop(b)
			s.mu.Lock()
			b.revoked, b.reason = true, refused.Message
			s.mu.Unlock()
			s.tell(Event{Kind: Revoked, Binding: &Binding{s, b}, Err: refused, Text: refused.Message})
		default:
			_ = l.m.Close(closeNormal, "")
			return err
		}
	}
	return nil
}
