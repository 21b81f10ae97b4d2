package hanzotunnel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/errs"
)

// The errors of sending.
var (
	errBehind = errs.Define(errs.Exhausted, "hanzotunnel.behind", "the node does not take its requests; too many wait for it")
	errGone   = errs.Define(errs.Unavailable, "hanzotunnel.gone", "the link of the node is gone")
)

// outbox is what waits to be written to an instance: whole frames of the WebSocket. Whoever puts something into
// an empty one starts the goroutine that writes.
type outbox struct {
	mu      sync.Mutex
	queue   [][]byte
	bytes   int
	control []byte // frames of the library, which go first
	held    bool   // messages wait for the registration
	writing bool
	dead    bool
	idle    chan struct{} // closed when nothing is left to write; nil when nobody waits
}

// maxControl bounds the control frames that wait: who pings and does not read loses pongs.
const maxControl = 1 << 10

// opPing is the opcode of a ping, opClose that of a close.
const (
	opClose = 8
	opPing  = 9
)

// head writes the head of an unmasked frame of n bytes (RFC 6455 §5.2).
func head(b []byte, opcode byte, n int) []byte {
	b = append(b, 0x80|opcode)
	switch {
	case n < 126:
		return append(b, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

// send queues a frame. It does not wait.
func (c *conn) send(f Frame) error { return c.sendText(Append(nil, f), false) }

// sendText queues a message, in front of all others when first is set, and lets those that were held go then.
func (c *conn) sendText(text []byte, first bool) error {
	whole := append(head(make([]byte, 0, len(text)+10), byte(websocket.MessageText), len(text)), text...)
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.dead:
		return errGone
	case first:
		o.held = false
		o.queue = slices.Insert(o.queue, 0, whole)
	case len(o.queue) >= maxQueue || o.bytes+len(whole) > maxQueueBytes || c.door.cfg.Bus.Budget().Over():
		return errBehind
	default:
		o.queue = append(o.queue, whole)
	}
	o.bytes += len(whole)
	c.door.cfg.Bus.Budget().Add(len(whole))
	c.write()
	return nil
}

// control queues a control frame.
func (c *conn) control(frame []byte) error {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return net.ErrClosed
	}
	if len(o.control)+len(frame) <= maxControl {
		o.control = append(o.control, frame...)
	}
	c.write()
	return nil
}

// hold keeps messages back until the registration is answered.
func (c *conn) hold() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.held = true
}

// write starts the goroutine that writes, if none does. The caller holds mu.
func (c *conn) write() {
	o := &c.out
	if o.writing || len(o.control) == 0 && (o.held || len(o.queue) == 0) {
		return
	}
	o.writing = true
	c.door.wg.Go(func() { // who queues is counted, or came in by one who is
		for {
			next, ok := c.next()
			if !ok {
				return
			}
			_ = c.nc.SetWriteDeadline(time.Now().Add(writeTime)) // a closed connection fails below
			if _, err := c.nc.Write(next); err != nil {
				c.die()
				c.abort()
				return
			}
		}
	})
}

// next is what to write, false when nothing is left; then the caller is not the one who writes any longer.
func (c *conn) next() ([]byte, bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.dead:
	case len(o.control) > 0:
		next := o.control
		o.control = nil
		return next, true
	case !o.held && len(o.queue) > 0:
		next := o.queue[0]
		o.queue[0] = nil
		if o.queue = o.queue[1:]; len(o.queue) == 0 {
			o.queue = nil
		}
		o.bytes -= len(next)
		c.door.cfg.Bus.Budget().Add(-len(next))
		return next, true
	}
	o.writing = false
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
	return nil, false
}

// drained waits until nothing is left to write, at most until the timer fires.
func (c *conn) drained(late <-chan time.Time) {
	o := &c.out
	o.mu.Lock()
	if !o.writing {
		o.mu.Unlock()
		return
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.mu.Unlock()
	select {
	case <-idle:
	case <-late:
	}
}

// die forgets what waits. Nothing is queued after it.
func (c *conn) die() {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	c.door.cfg.Bus.Budget().Add(-o.bytes)
	o.dead, o.queue, o.bytes, o.control = true, nil, 0, nil
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// hijackWriter gives the library a connection that the door stands behind.
type hijackWriter struct {
	http.ResponseWriter
	c *conn
}

const (
	// readAhead is how much is read from an instance at once: most messages are smaller.
	readAhead = 1 << 10
	// controlRoom holds the largest frame that the library writes, a control frame.
	controlRoom = 256
)

// Hijack implements http.Hijacker.
func (h *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, errors.Join(err, nc.Close())
	}
	h.c.nc = nc
	lc := &libraryConn{nc, h.c, slices.Clone(early)}
	return lc, bufio.NewReadWriter(bufio.NewReaderSize(lc, readAhead), bufio.NewWriterSize(lc, controlRoom)), nil
}

// libraryConn is the connection as the library has it. The library reads; it writes control frames only, and
// those go through the outbox.
type libraryConn struct {
	net.Conn
	c     *conn
	early []byte // what came with the request
}

// Read tells of every byte that arrives: who takes long to send one message is not silent.
func (l *libraryConn) Read(b []byte) (n int, err error) {
	if len(l.early) > 0 {
		n = copy(b, l.early)
		if l.early = l.early[n:]; len(l.early) == 0 {
			l.early = nil
		}
	} else {
		n, err = l.Conn.Read(b)
	}
	if n > 0 {
		l.c.heard()
	}
	return n, err
}

// Write takes one control frame. A close is written when it returns, since the library closes the connection
// then.
func (l *libraryConn) Write(b []byte) (int, error) {
	if err := l.c.control(b); err != nil {
		return 0, err
	}
	if b[0]&0xf == opClose {
		late := time.NewTimer(strangerWait)
		defer late.Stop()
		l.c.drained(late.C)
	}
	return len(b), nil
}
