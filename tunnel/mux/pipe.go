package mux

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// pipeDepth is how many messages a pipe holds in each direction.
const pipeDepth = 4

// Pipe returns the two ends of a carrier in memory. It holds a few messages in each direction and takes copies.
func Pipe() (Carrier, Carrier) {
	a, b := make(chan *message, pipeDepth), make(chan *message, pipeDepth)
	left, right := newEnd(), newEnd()
	return &pipe{in: a, out: b, own: left, peer: right}, &pipe{in: b, out: a, own: right, peer: left}
}

type message struct {
	buf *buffer
	n   int
}

// end is how one side closed.
type end struct {
	once sync.Once
	done chan struct{}
	// code and reason are of the first Close.
	code   int
	reason string
}

func newEnd() *end { return &end{done: make(chan struct{})} }

type pipe struct {
	in, out   chan *message
	own, peer *end
	last      *buffer
}

func (p *pipe) take(ctx context.Context) (*message, error) {
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	select {
	case m := <-p.in:
		return m, nil
	case <-p.own.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.peer.done:
	}
	// What was written before the close is still read.
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	if p.peer.code == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return nil, &CloseError{p.peer.code, p.peer.reason}
}

// Read returns the next message.
func (p *pipe) Read(ctx context.Context) ([]byte, error) {
	p.last.release()
	p.last = nil
	m, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	p.last = m.buf
	return m.buf.b[:m.n], nil
}

// Write sends a copy.
func (p *pipe) Write(parts net.Buffers) error {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	if n > wire.MaxMessage {
		return wire.ErrSize
	}
	m := &message{newBuffer(n), 0}
	for _, part := range parts {
		m.n += copy(m.buf.b[m.n:], part)
	}
	select {
	case <-p.own.done:
		return net.ErrClosed
	case <-p.peer.done:
		return io.ErrClosedPipe
	default:
	}
	select {
	case p.out <- m:
		return nil
	case <-p.own.done:
		return net.ErrClosed
	case <-p.peer.done:
		return io.ErrClosedPipe
	}
}

// Close ends both directions.
func (p *pipe) Close(code int, reason string) error {
	p.own.once.Do(func() {
		p.own.code, p.own.reason = code, reason
		close(p.own.done)
	})
	return nil
}

func (p *pipe) RemoteAddr() string { return "pipe" }
