package tech

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// frameQueue and frameBytes bound what waits for one channel of a link: messages, and their bytes.
	frameQueue = 64
	frameBytes = 4 << 20
	// sayQueue is how many refusals wait for a slow link; more are dropped.
	sayQueue = 64
)

// Sender sends the messages of tunnel.md §3.4 to a server over a link. Its methods may wait for a slow link; they fail when it
// has ended. They may be called concurrently.
type Sender interface {
	// Ready is tunnel_ready.
	Ready(session string) error
	// Data is tunnel_data: an envelope {"type","payload"}.
	Data(channel string, data json.RawMessage) error
	// Error is tunnel_error; about a session, its id stands in the place of a channel's.
	Error(channel, text string) error
}

// Frames serves the messages of tunnel.md §3.4 of one link, for servers that know nothing else: what a command may do is decided
// by the policy of this machine, one by one. Its methods are called by the reader of the link and do not wait.
type Frames struct {
	m     *Module
	to    Sender
	ended <-chan struct{}
	says  chan func()

	mu      sync.Mutex
	opening string        // the session that is being opened, "" without one
	dropped bool          // the one that is being opened was closed meanwhile
	closing chan struct{} // closed when the last one has ended; nil before the first
	session string        // "" without one
	conns   map[string]*frameConn
	turn    int64
	owned   map[string]*message.Muxed // channels of a server of ours
}

// Frames serves a link until ended is closed.
func (m *Module) Frames(to Sender, ended <-chan struct{}) *Frames {
	f := &Frames{m: m, to: to, ended: ended, says: make(chan func(), sayQueue), conns: map[string]*frameConn{}}
	m.wg.Go(func() {
		for {
			select {
			case say := <-f.says:
				say()
			case <-ended:
				return
			}
		}
	})
	return f
}

// refuse tells why something did not work, unless too much of that waits already.
func (f *Frames) refuse(channel string, err error) {
	select {
	case f.says <- func() { _ = f.to.Error(channel, failureOf(err).Error) }: // the link ends when it fails
	default:
	}
}

// linkContext ends with the link.
func (f *Frames) linkContext() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-f.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Open is tunnel_open. It is answered by tunnel_ready, or tunnel_error.
func (f *Frames) Open(session, owner string) {
	if !idOK(session, 64) || len(owner) > maxOwner {
		f.refuse(session[:min(len(session), 64)], errs.New(errs.Invalid, "session_id is no id, or tech_id is too long"))
		return
	}
	f.mu.Lock()
	busy, before := f.opening != "", f.closing
	if !busy {
		f.opening, f.dropped = session, false
	}
	f.mu.Unlock()
	if busy {
		f.refuse(session, ErrHeld)
		return
	}
	f.m.wg.Go(func() {
		ctx, cancel := f.linkContext()
		defer cancel()
		if before != nil { // messages count in the order in which they came
			select {
			case <-before:
			case <-ctx.Done():
			}
		}
		err := f.m.Open(ctx, Session{ID: session, Owner: owner}, Admission{Foreign: true}, f.ended)
		f.mu.Lock()
		f.opening = ""
		dropped := f.dropped
		if err == nil {
			f.session = session
			f.conns = map[string]*frameConn{}
		}
		f.mu.Unlock()
		if err == nil && dropped {
			f.CloseSession(session)
			return
		}
		if err != nil {
			_ = f.to.Error(session, failureOf(err).Error) // the link ends when it fails
			return
		}
		_ = f.to.Ready(session) // the session ends with the link
	})
}

// CloseSession is tunnel_close.
func (f *Frames) CloseSession(session string) {
	f.mu.Lock()
	mine := f.session == session && session != ""
	ended := make(chan struct{})
	if mine {
		f.session, f.closing = "", ended
		for _, c := range f.conns { // the server hears no more of them, not even how their programs ended
			_ = c.Close(nil)
		}
	} else if f.opening == session && session != "" {
		f.dropped = true
	}
	f.mu.Unlock()
	if !mine {
		return // as for a session that was closed
	}
	f.m.wg.Go(func() {
		defer close(ended)
		ctx, cancel := f.linkContext()
		defer cancel()
		if err := f.m.EndSession(ctx, session, "closed by the server", f.ended); err != nil {
			f.refuse(session, err)
		}
	})
}

// Data is tunnel_data: an envelope {"type","payload"}. The first one of a channel opens it.
func (f *Frames) Data(channel string, data json.RawMessage) {
	if !idOK(channel, 36) {
		f.refuse(channel[:min(len(channel), 36)], errs.New(errs.Invalid, "channel_id is 1 to 36 letters, digits, - and _"))
		return
	}
	m, err := message.FromEnvelope(data)
	if err != nil {
		f.refuse(channel, errs.New(errs.Invalid, err.Error()))
		return
	}
	if f.muxed(channel, m) {
		return
	}
	c, err := f.conn(channel, m)
	if err == nil {
		err = c.push(m)
	}
	if err != nil {
		f.refuse(channel, err)
	}
}

// kindOf is the kind of channel that a message belongs on, "" for none.
func kindOf(typ string) message.Kind {
	switch {
	case typ == message.TypeService:
		return message.Service
	case typ == message.TypeRegistry:
		return message.Registry
	case strings.HasPrefix(typ, "terminal"):
		return message.Terminal
	case strings.HasPrefix(typ, "file_"):
		return message.File
	}
	return ""
}

// conn returns the channel of an id, and opens it.
func (f *Frames) conn(channel string, m message.Message) (*frameConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.conns[channel]; c != nil {
		return c, nil
	}
	h, err := f.m.machine.find(f.session, f.ended, true)
	if err != nil {
		return nil, ErrSession
	}
	kind := kindOf(m.Type)
	if kind == "" {
		return nil, ErrMessage
	}
	if len(f.conns) >= MaxChannels && !f.idle() {
		return nil, ErrMany
	}
	served, err := h.begin(channel, kind)
	if err != nil {
		return nil, err
	}
	c := &frameConn{f: f, id: channel, served: served, news: make(chan struct{}, 1), done: make(chan struct{})}
	f.conns[channel] = c
	go func() { // ends with the session
		err := served.serve(context.Background(), c)
		f.mu.Lock()
		if f.conns[channel] == c {
			delete(f.conns, channel)
		}
		f.mu.Unlock()
		h.finish(served)
		if err != nil && h.ctx.Err() == nil {
			f.refuse(channel, err)
		}
	}()
	return c, nil
}

// idle closes the channel that has done nothing for the longest time, as these messages have none that closes one: f.mu is held.
// It is reported false when all do something.
func (f *Frames) idle() bool {
	var oldest *frameConn
	for _, c := range f.conns {
		if c.idle() && (oldest == nil || c.used < oldest.used) {
			oldest = c
		}
	}
	if oldest == nil {
		return false
	}
	delete(f.conns, oldest.id)
	_ = oldest.Close(nil)
	// Its place is free once it has ended.
	oldest.served.h.release(oldest.served)
	return true
}

// frameConn is the message.Conn of one channel of a link.
type frameConn struct {
	f      *Frames
	id     string
	served *served
	news   chan struct{} // holds one token when there is a message
	once   sync.Once
	done   chan struct{}

	mu    sync.Mutex
	queue []message.Message
	bytes int
	used  int64
}

func (c *frameConn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) == 0 && c.served.busy.Load() == 0
}

// push adds a message; it fails and ends the channel when too much waits.
func (c *frameConn) push(m message.Message) error {
	c.mu.Lock()
	size := len(m.Payload) + len(m.Data)
	if len(c.queue) >= frameQueue || len(c.queue) > 0 && c.bytes+size > frameBytes {
		c.mu.Unlock()
		_ = c.Close(nil)
		return errs.New(errs.Exhausted, "too much waits on this channel; it was closed: wait for answers before more is sent")
	}
	c.queue, c.bytes = append(c.queue, m), c.bytes+size
	c.f.turn++ // f.mu is not needed: the reader of the link alone is here
	c.used = c.f.turn
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
	return nil
}

// Receive implements message.Conn.
func (c *frameConn) Receive(ctx context.Context) (message.Message, error) {
	for {
		select {
		case <-c.done:
			return message.Message{}, io.EOF
		default:
		}
		c.mu.Lock()
		if len(c.queue) > 0 {
			m := c.queue[0]
			c.queue = c.queue[1:]
			c.bytes -= len(m.Payload) + len(m.Data)
			c.mu.Unlock()
			return m, nil
		}
		c.mu.Unlock()
		select {
		case <-c.news:
		case <-c.done:
			return message.Message{}, io.EOF
		case <-ctx.Done():
			return message.Message{}, ctx.Err()
		}
	}
}

// Send implements message.Conn.
func (c *frameConn) Send(_ context.Context, m message.Message) error {
	select {
	case <-c.done:
		return io.ErrClosedPipe
	default:
	}
	switch m.Type {
	case message.TypeError:
		var p message.Failure
		if err := m.Into(&p); err != nil {
			return err
		}
		return c.f.to.Error(c.id, p.Error)
	case message.TypeOutput:
		// A server that knows two members only gets as much as a text can say.
		var p message.Output
		if err := m.Into(&p); err != nil {
			return err
		}
		if p.StdoutB64 != nil || p.StderrB64 != nil {
			p.Stdout += strings.ToValidUTF8(string(p.StdoutB64), "\uFFFD")
			p.Stderr += strings.ToValidUTF8(string(p.StderrB64), "\uFFFD")
			m = message.Of(m.Type, p, nil)
		}
	}
	text, err := message.Envelope(m)
	if err != nil {
		return err
	}
	return c.f.to.Data(c.id, text)
}

// Close implements message.Conn.
func (c *frameConn) Close(error) error {
	c.once.Do(func() { close(c.done) })
	return nil
}
