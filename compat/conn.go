package compat

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/compat/schema"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
)

// conn is one client. Its reading goroutine owns it; other goroutines only queue frames, ask for
// its end, or wait in a call of its own.
type conn struct {
	door *Door
	ws   *websocket.Conn
	nc   net.Conn
	raw  syscall.RawConn // nil where nc is not a socket
	peer upgrade
	// proved says that the client was let in; nil where nobody wants to know.
	proved func()
	id     string
	nonce  string

	// caller and what follows are set by the handshake, before any other goroutine knows the
	// connection.
	caller      identity.Caller
	presenceKey string
	node        *nodes.Attachment
	// ctx ends with the connection: its waiting calls end with it.
	ctx    context.Context
	cancel context.CancelFunc
	calls  sync.WaitGroup

	inFlight     atomic.Int32
	tookLarge    bool // room for a first frame; the reading goroutine's own
	unauthorized int  // calls outside the role, in a row; the reading goroutine's own
	pinging      atomic.Bool
	expelled     atomic.Bool  // nothing is served any more
	lastHeard    atomic.Int64 // Unix milliseconds

	out outbox
}

// frame is a message to send. An event has a head and a tail around the number that counts this
// client's events, so that its text is encoded once for all clients.
type frame struct {
	head []byte
	tail []byte // nil for frames without a number
	seq  uint64
}

func (f frame) size() int { return len(f.head) + len(f.tail) }

// outbox is what waits to be sent.
type outbox struct {
	mu      sync.Mutex
	queue   []frame
	bytes   int
	seq     uint64
	busy    bool // somebody is writing
	held    bool // nothing is sent before hello
	closing bool // nothing is queued any more
	// idle is closed when the last frame was written, for who waits to close; nil while nobody does.
	idle chan struct{}
}

func newConn(d *Door, u upgrade) *conn {
	c := &conn{door: d, peer: u, id: uuid.NewString(), nonce: uuid.NewString()}
	c.ctx, c.cancel = context.WithCancel(d.ctx)
	c.heard()
	return c
}

func (c *conn) heard() { c.lastHeard.Store(time.Now().UnixMilli()) }

func (c *conn) silentFor() time.Duration {
	return time.Duration(time.Now().UnixMilli()-c.lastHeard.Load()) * time.Millisecond
}

var (
	// errTooLarge ends a connection whose message is over the limit.
	errTooLarge = errors.New("message over the limit")
	// errEnded says that the connection was ended while reading.
	errEnded = errors.New("connection ended")
)

// scratch are the buffers that messages are read into before they are copied at their size.
var scratch = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// read returns the next message.
func (c *conn) read(limit int) ([]byte, error) {
	// The connection's own end unblocks this; a context that can end would cost a timer a message.
	typ, r, err := c.ws.Reader(context.Background()) //nolint:contextcheck // see above
	if err != nil {
		return nil, err
	}
	bp := scratch.Get().(*[]byte)
	defer scratch.Put(bp)
	buf, n := *bp, 0
	for {
		if n == len(buf) {
			// Grow a copy of its own: the pool keeps small buffers.
			size := min(2*len(buf), limit+1)
			if limit == maxFirst && size > smallFirst {
				// In one step and used again: what is left behind is a stranger's cost too.
				big, ok := c.roomForLarge()
				if !ok {
					return nil, errEnded
				}
				defer largeFirsts.Put(big)
				copy(*big, buf)
				buf = *big
				continue
			}
			bigger := make([]byte, size)
			copy(bigger, buf)
			buf = bigger
		}
		m, err := r.Read(buf[n:])
		n += m
		if n > limit {
			return nil, errTooLarge
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	data := append(make([]byte, 0, n), buf[:n]...)
	if typ == websocket.MessageText && !utf8.Valid(data) {
		c.end(websocket.StatusInvalidFramePayloadData, "")
		return nil, errEnded
	}
	return data, nil
}

// serve greets the client. The connection then goes on in a goroutine of its own: greeting needs a
// deep stack, which an idle connection would keep.
func (c *conn) serve() {
	c.send(challenge(c.nonce, c.door.cfg.Now()))
	timer := time.AfterFunc(handshakeTimeout, func() { c.end(websocket.StatusNormalClosure, "") })
	// Nor does a stranger get longer than that by leaving the closing handshake unanswered.
	late := time.AfterFunc(handshakeTimeout+strangerWait, c.abort)
	ok := c.handshake()
	timer.Stop()
	late.Stop()
	c.door.greeted(c)
	if c.tookLarge {
		c.door.large.leave(c)
	}
	if !ok {
		c.finish()
		return
	}
	if c.proved != nil {
		c.proved()
	}
	go func() {
		defer c.finish()
		c.loop()
	}()
}

// loop reads and serves requests until the connection ends.
func (c *conn) loop() {
	for {
		data, err := c.read(maxPayload)
		if err != nil {
			if errors.Is(err, errTooLarge) {
				c.end(websocket.StatusMessageTooBig, "")
			}
			return
		}
		if c.expelled.Load() {
			continue // until the connection has ended
		}
		req, ferr := schema.ParseRequest(data)
		if ferr != nil {
			if !ferr.NotJSON {
				c.send(wire.AppendErrorRawID(nil, ferr.ID, wire.ErrorShape{Code: codeInvalid, Message: ferr.Text}))
			}
			continue
		}
		if !c.dispatch(req) {
			return
		}
	}
}

// finish leaves every place that knows the connection. Nothing of it is left when it returns.
func (c *conn) finish() {
	defer c.door.wg.Done()
	c.cancel()
	c.door.caps.end(c)
	c.door.remove(c)
	if c.node != nil {
		c.node.Detach()
	}
	c.out.mu.Lock()
	c.out.closing = true
	c.out.queue, c.out.bytes = nil, 0
	c.out.mu.Unlock()
	_ = c.ws.CloseNow() // the peer is gone, or was told
	c.calls.Wait()
	if c.presenceKey != "" {
		c.door.cfg.Presence.Leave(c.presenceKey)
		c.door.cfg.System.AnnouncePresence()
	}
}

// end closes the connection with a code, after what is queued: an answer comes before the close
// that follows it. Only the first end counts. It waits for the closing handshake, bounded by the
// library to seconds; reading then fails.
func (c *conn) end(code websocket.StatusCode, reason string) {
	o := &c.out
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return
	}
	o.closing = true
	c.door.caps.end(c)
	var idle chan struct{}
	if o.busy {
		idle = make(chan struct{})
		o.idle = idle
	}
	o.mu.Unlock()
	if idle != nil {
		// Every write has a deadline; a client that reads a little at a time has all of it once.
		timer := time.NewTimer(writeTimeout)
		select {
		case <-idle:
		case <-timer.C:
		}
		timer.Stop()
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	_ = c.ws.Close(code, wire.TruncateUTF8(reason, wire.MaxCloseReason)) // a peer that does not answer is dropped
}

// rested is called, with out.mu held, when nobody writes any more.
func (o *outbox) rested() {
	o.busy = false
	o.queue = nil
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// shutdown is end for a service that stops: it is cut short.
func (c *conn) shutdown(code websocket.StatusCode, reason string) {
	timer := time.AfterFunc(closeWait, c.abort)
	defer timer.Stop()
	c.end(code, reason)
}

// abort drops the network connection; everything that uses it fails at once.
func (c *conn) abort() { _ = c.nc.Close() }

// send queues a frame, and writes it in this goroutine when nothing else waits: that saves a
// hand-over for each answer. The caller is the connection's own, so a slow client keeps only
// itself waiting.
func (c *conn) send(data []byte) { _ = c.post(data, func() bool { return true }) }

// offer is send for the goroutines of others, which a slow client must not keep waiting: they
// write only what the kernel takes at once.
func (c *conn) offer(data []byte) error {
	return c.post(data, func() bool {
		return len(data) <= maxOffered && c.raw != nil && writable(c.raw)
	})
}

// post writes a frame in this goroutine when nothing else waits and here says that it may, else
// it queues the frame. It fails when the connection is closing.
func (c *conn) post(data []byte, here func() bool) error {
	o := &c.out
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return net.ErrClosed
	}
	if o.busy || o.held || len(o.queue) > 0 || !here() {
		c.enqueue(frame{head: data})
		o.mu.Unlock()
		return nil
	}
	o.busy = true
	o.mu.Unlock()
	if err := c.write(frame{head: data}); err != nil {
		c.writeFailed()
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.rested()
		return nil
	}
	o.busy = false
	c.startDrain()
	return nil
}

// push queues a frame for the writing goroutine. It never waits, so that a stranger to the
// connection may call it.
func (c *conn) push(f frame) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.out.closing {
		c.enqueue(f)
	}
}

// enqueue appends to the queue. The caller holds out.mu. A queue over its bound ends the
// connection: frames that are not droppable may not be lost silently.
func (c *conn) enqueue(f frame) {
	o := &c.out
	if o.bytes+f.size() > maxBuffered+maxPayload {
		o.closing = true
		o.queue, o.bytes = nil, 0
		c.abort()
		return
	}
	o.queue = append(o.queue, f)
	o.bytes += f.size()
	c.startDrain()
}

// startDrain makes a goroutine write the queue when there is one. The caller holds out.mu.
func (c *conn) startDrain() {
	o := &c.out
	if o.busy || o.held || len(o.queue) == 0 {
		return
	}
	o.busy = true
	c.spawn(c.drain)
}

func (c *conn) drain() {
	o := &c.out
	for {
		o.mu.Lock()
		if len(o.queue) == 0 {
			o.rested()
			o.mu.Unlock()
			return
		}
		f := o.queue[0]
		o.queue[0] = frame{}
		o.queue = o.queue[1:]
		o.bytes -= f.size()
		o.mu.Unlock()
		if err := c.write(f); err != nil {
			c.writeFailed()
			return
		}
	}
}

// assembled are the buffers in which events get their number.
var assembled = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func (c *conn) write(f frame) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	// The library answers pings with a time limit of its own; a limit of ours that has passed by then
	// would fail the answer and with it the connection.
	defer func() { _ = c.nc.SetWriteDeadline(time.Time{}) }()
	if f.tail == nil {
		return c.ws.Write(context.Background(), websocket.MessageText, f.head) //nolint:contextcheck // the deadline bounds it
	}
	bp := assembled.Get().(*[]byte)
	buf := append((*bp)[:0], f.head...)
	buf = strconv.AppendUint(buf, f.seq, 10)
	buf = append(buf, f.tail...)
	err := c.ws.Write(context.Background(), websocket.MessageText, buf) //nolint:contextcheck // the deadline bounds it
	if cap(buf) <= 64<<10 {
		*bp = buf
		assembled.Put(bp)
	}
	return err
}

// writeFailed ends a connection that cannot be written to.
func (c *conn) writeFailed() {
	c.out.mu.Lock()
	c.out.closing = true
	c.out.bytes = 0
	c.out.rested()
	c.out.mu.Unlock()
	c.abort()
}

// drop forgets what is queued or held back: for a client that is refused after all, or too slow.
func (c *conn) drop() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.held = false
	c.out.queue, c.out.bytes = nil, 0
}

// hold keeps frames back until release, so that hello is the first one after the challenge.
func (c *conn) hold() {
	c.out.mu.Lock()
	c.out.held = true
	c.out.mu.Unlock()
}

// release sends hello and then what was held back.
func (c *conn) release(hello []byte) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = false
	o.queue = append([]frame{{head: hello}}, o.queue...)
	o.bytes += len(hello)
	c.startDrain()
}

// event queues an event that the client may see. A client that does not keep up loses droppable
// events, which it can tell from the gap in the numbers; any other event ends its connection
// (protocol.md §6.2).
func (c *conn) event(e *rendered) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return
	}
	o.seq++
	if o.bytes > maxBuffered {
		if e.droppable {
			c.door.dropped()
			return
		}
		c.spawn(c.slow)
		return
	}
	c.enqueue(frame{head: e.head, tail: e.tail, seq: o.seq})
}

// copyEvent queues an event that is addressed to this client and has no number. One that does not keep
// up does without: it has the event itself.
func (c *conn) copyEvent(data []byte) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.out.closing && c.out.bytes <= maxBuffered {
		c.enqueue(frame{head: data})
	}
}

// slow ends a connection whose client does not read. What waits for it is not sent any more.
func (c *conn) slow() {
	timer := time.AfterFunc(closeWait, c.abort)
	defer timer.Stop()
	c.drop()
	c.end(websocket.StatusPolicyViolation, "slow consumer")
}

// Invoke implements nodes.Link.
func (c *conn) Invoke(r nodes.Request) error {
	payload, err := encodeInvoke(r)
	if err != nil {
		return err
	}
	return c.offer(wire.AppendEvent(nil, "node.invoke.request", payload, wire.Opt[uint64]{}, wire.Opt[wire.StateVersion]{}))
}

// Close implements nodes.Link: a newer connection took the node's place.
func (c *conn) Close(reason string) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.closing {
		return
	}
	c.spawn(func() {
		timer := time.AfterFunc(closeWait, c.abort)
		defer timer.Stop()
		c.end(websocket.StatusPolicyViolation, reason)
	})
}

// expel ends a connection whose device may not be here any more, within a second whatever its client
// does. Owed says that an answer is still to be written.
func (c *conn) expel(reason string, owed bool) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.expelled.Store(true)
	if c.out.closing {
		return
	}
	c.spawn(func() {
		if owed {
			timer := time.NewTimer(answerWait)
			select {
			case <-timer.C:
			case <-c.ctx.Done():
			}
			timer.Stop()
		}
		timer := time.AfterFunc(expelWait, c.abort)
		defer timer.Stop()
		c.end(websocket.StatusPolicyViolation, reason)
	})
}

// spawn starts a goroutine that the door waits for. The caller holds out.mu and the connection is
// not closing: its reading goroutine still counts, so the door is not done waiting.
func (c *conn) spawn(f func()) {
	c.door.wg.Go(f)
}
