package bindings

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// delayEOF is how long the end of what a visitor sends is held back from published drivers while they have not
	// answered: they forget what arrives before their own connection is up (tunnel.md §4.7).
	delayEOF = 250 * time.Millisecond
	// delayData is the same for the first bytes, which such a driver loses as well. Visitors that speak first, as those of
	// databases do, would wait for ever.
	delayData = 50 * time.Millisecond
	// openTimeout bounds how long a stream may take to open.
	openTimeout = 15 * time.Second
	// keepAlive finds visitors that vanished.
	keepAlive = 30 * time.Second
)

// acceptTCP serves a port for tcp.
func (p *slot) acceptTCP() {
	for {
		c, err := p.accept()
		if err != nil {
			return
		}
		b := p.cur.Load()
		if b.parked.Load() {
			abort(c) // the visitor comes again
			continue
		}
		if !b.share.take(p.ctx.Done()) {
			abort(c)
			return
		}
		if !p.s.permits.take(p.ctx.Done()) {
			b.share.give()
			abort(c)
			return
		}
		p.s.wg.Go(func() { b.splice(p.ctx, c) })
	}
}

// abort ends a connection so that its other end notices that it did not end well.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // it is being closed
	}
	_ = c.Close() // there is nobody to tell
}

// splice joins a visitor, whose permits are taken, to a stream.
func (b *bound) splice(ctx context.Context, c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetKeepAlivePeriod(keepAlive) // is an old kernel's business
	}
	if !b.begun(ctx) {
		b.s.giveBoth(b.share)
		abort(c)
		return
	}
	open, cancel := context.WithTimeout(ctx, openTimeout)
	st, err := b.permitted(open, OpenIn{Kind: KindTCP, RemoteAddr: c.RemoteAddr().String()})
	cancel()
	if err != nil {
		abort(c)
		return
	}
	defer func() { _ = st.Close() }() // all is said
	var (
		first = make(chan struct{}) // closed by the first byte of the reply
		once  sync.Once
		wg    sync.WaitGroup
	)
	hold := func(d time.Duration) {
		if st.raw {
			return
		}
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-first:
		case <-ctx.Done():
		}
	}
	wg.Go(func() {
		hold(delayData)
		_, err := st.ReadFrom(c)
		if err != nil {
			_ = st.Reset(wire.CodeCancel, "the visitor has gone")
			return
		}
		hold(delayEOF)
		_ = st.CloseWrite() // its reader says what went wrong
	})
	var w io.Writer = c
	if !st.raw {
		w = &noticing{c, func() { once.Do(func() { close(first) }) }}
	}
	_, err = st.WriteTo(w)
	once.Do(func() { close(first) })
	if err != nil {
		_ = st.Reset(wire.CodeCancel, "the visitor has gone") // or the stream has ended already
		abort(c)                                              // wakes the other copy
		wg.Wait()
		return
	}
	_ = closeWrite(c) // the other copy ends by itself
	wg.Wait()
	_ = c.Close() // all is said
}

// noticing tells that something is written.
type noticing struct {
	w    io.Writer
	told func()
}

func (n *noticing) Write(p []byte) (int, error) {
	if n.told != nil && len(p) > 0 {
		n.told()
		n.told = nil
	}
	return n.w.Write(p)
}

// SetWriteDeadline ends the waiting for who takes nothing.
func (n *noticing) SetWriteDeadline(t time.Time) error {
	if c, ok := n.w.(net.Conn); ok {
		return c.SetWriteDeadline(t)
	}
	return nil
}

// held is a stream with its permits.
type held struct {
	Stream
	b    *bound
	raw  bool
	kind string
	once sync.Once
}

// ReadFrom and WriteTo leave the copying to the stream where it can.
func (h *held) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := h.Stream.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return copyPooled(struct{ io.Writer }{h.Stream}, r)
}

// WriteTo implements io.WriterTo.
func (h *held) WriteTo(w io.Writer) (int64, error) {
	if wt, ok := h.Stream.(io.WriterTo); ok {
		return wt.WriteTo(w)
	}
	return copyPooled(w, struct{ io.Reader }{h.Stream})
}

// Close ends the stream and gives its permits back.
func (h *held) Close() error {
	err := h.Stream.Close()
	h.once.Do(func() {
		h.b.forget(h)
		h.b.s.giveBoth(h.b.share)
	})
	return err
}

// permitted opens a stream for somebody whose permits are taken; they are given back with it.
func (b *bound) permitted(ctx context.Context, in OpenIn) (*held, error) {
	up := b.upstream()
	var err error
	switch {
	case b.parked.Load():
		err = ErrParked
	case up == nil:
		err = ErrNoCarrier
	}
	var st Stream
	if err == nil {
		in.BindID, in.Host, in.Port, in.Name = b.BindID, b.targetHost, b.targetPort, b.Name
		st, err = up.Open(ctx, in)
	}
	if err != nil {
		b.s.giveBoth(b.share)
		b.s.opened(in.Kind, err)
		return nil, err
	}
	h := &held{Stream: st, b: b, raw: up.Raw(), kind: in.Kind}
	b.s.opened(in.Kind, nil)
	if err := b.remember(h); err != nil {
		_ = st.Reset(wire.CodeBind, "the binding has ended")
		_ = h.Close() // it is over
		return nil, err
	}
	return h, nil
}

// open opens a stream. Idle ones of the same share make room for it.
func (b *bound) open(ctx context.Context, in OpenIn) (*held, error) {
	if !b.s.both(b.share) {
		b.s.evict(b.share)
		if !b.s.await(ctx, b.share) {
			full := b.share.state()
			b.s.opened(in.Kind, errPermits)
			if full.Used >= full.Limit {
				return nil, ErrStreams
			}
			return nil, errPermits
		}
	}
	return b.permitted(ctx, in)
}

var errPermits = errors.New("no descriptor is left for visitors")

// buffers are for copies whose ends cannot do without.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func copyPooled(w io.Writer, r io.Reader) (int64, error) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	return io.CopyBuffer(w, r, *b)
}

// bufferPool is the same for httputil.
type bufferPool struct{}

func (bufferPool) Get() []byte { return *buffers.Get().(*[]byte) }

func (bufferPool) Put(b []byte) { buffers.Put(&b) }
