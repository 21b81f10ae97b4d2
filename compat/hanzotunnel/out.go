package hanzotunnel

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/socket"
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
	less    chan struct{} // closed when less is left to write; nil when nobody waits
}

// maxControl bounds the control frames that wait: who pings and does not read loses pongs.
const maxControl = 1 << 10

// opPing is the opcode of a ping, opClose that of a close.
const (
	opClose = 8
	opPing  = 9
)

// send queues a frame. It does not wait.
func (c *conn) send(f Frame) error { return c.sendText(Append(nil, f), false) }

// sendText queues a message, in front of all others when first is set, and lets those that were held go then.
func (c *conn) sendText(text []byte, first bool) error {
	whole := append(socket.AppendHead(make([]byte, 0, len(text)+10), byte(websocket.MessageText), len(text)), text...)
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

// sendWait queues a frame that may wait until little else does: technician sessions leave room for what else goes to the
// instance. It fails with the context, and when the link has ended.
func (c *conn) sendWait(ctx context.Context, f Frame) error {
	text := Append(nil, f)
	o := &c.out
	for {
		o.mu.Lock()
		if o.dead || len(o.queue) < maxTechQueue && o.bytes < maxTechBytes {
			o.mu.Unlock()
			err := c.sendText(text, false)
			if !errors.Is(err, errBehind) {
				return err
			}
			o.mu.Lock() // others took the room, or the daemon has none: look again when something was written
			if len(o.queue) == 0 {
				o.mu.Unlock()
				return err
			}
		}
		if o.less == nil {
			o.less = make(chan struct{})
		}
		less := o.less
		o.mu.Unlock()
		select {
		case <-less:
		case <-c.ctx.Done():
			return errGone
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
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
		o.tellLess()
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

// tellLess wakes who waits for room. The caller holds mu.
func (o *outbox) tellLess() {
	if o.less != nil {
		close(o.less)
		o.less = nil
	}
}

// die forgets what waits. Nothing is queued after it.
func (c *conn) die() {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	c.door.cfg.Bus.Budget().Add(-o.bytes)
	o.dead, o.queue, o.bytes, o.control = true, nil, 0, nil
	o.tellLess()
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// owner is the link as the library's end of it knows it.
type owner conn

func (o *owner) Hijacked(nc net.Conn) { o.nc = nc }
func (o *owner) Heard()               { (*conn)(o).heard() }

// Control takes one control frame. A close is written when it returns, since the library closes the connection
// then.
func (o *owner) Control(frame []byte) error {
	c := (*conn)(o)
	if err := c.control(frame); err != nil {
		return err
	}
	if frame[0]&0xf == opClose {
		late := time.NewTimer(strangerWait)
		defer late.Stop()
		c.drained(late.C)
	}
	return nil
}
