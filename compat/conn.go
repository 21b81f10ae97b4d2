package compat

import (
	"context"
	"errors"
	"io"
	"net"
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
	raw  syscall.RawConn // for writing without waiting; nil where nc is not a plain socket
	tcp  syscall.RawConn // the TCP connection below nc, nil where there is none
	sent atomic.Int64    // bytes that were written
	peer upgrade
	// proved says that the client was let in; nil where nobody wants to know.
	proved func()
	id     string
	nonce  string

	// caller and what follows are set by the handshake, before any other goroutine knows the
	// connection.
	dialect     wire.Dialect
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
	lastHeard    atomic.Int64 // nanoseconds since the door was made

	out outbox
}

func newConn(d *Door, u upgrade) *conn {
	c := &conn{door: d, peer: u, id: uuid.NewString(), nonce: uuid.NewString()}
	c.ctx, c.cancel = context.WithCancel(d.ctx)
	c.heard()
	return c
}

// heard notes that something came. It goes by the monotonic clock: nobody sets that back.
func (c *conn) heard() { c.lastHeard.Store(int64(time.Since(c.door.began))) }

func (c *conn) silentFor() time.Duration {
	return time.Since(c.door.began) - time.Duration(c.lastHeard.Load())
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
	up := upload{c: c}
	defer up.done()
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
			if limit != maxFirst && !up.grow(size) {
				c.end(websocket.StatusTryAgainLater, "too many large messages at once")
				return nil, errEnded
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
	data := buf[:n:n]
	if n <= smallMessage { // the buffer is used again, or much larger than the message
		data = append(make([]byte, 0, n), data...)
	}
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
		c.breathe()
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
		if c.node != nil {
			c.node.Heard()
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
	c.die()
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
	if o.ending || o.dead {
		o.mu.Unlock()
		return
	}
	o.ending, o.closing = true, true
	c.door.caps.end(c)
	var idle chan struct{}
	if o.busy {
		idle = make(chan struct{})
		o.idle = idle
	}
	o.mu.Unlock()
	if idle != nil {
		timer := time.NewTimer(lastWords)
		select {
		case <-idle:
		case <-timer.C:
		}
		timer.Stop()
	}
	_ = c.ws.Close(code, wire.TruncateUTF8(reason, wire.MaxCloseReason)) // a peer that does not answer is dropped
}

// tooSlow ends a connection whose client is too far behind: what waits is given up, and the client is
// told when it comes to read that. The caller holds out.mu and the connection is not closing.
func (c *conn) tooSlow() {
	waiting := c.out.bytes
	c.out.closing = true
	c.clear()
	c.spawn(func() {
		c.door.cfg.Log.Warn("a client reads too slowly and is closed", "conn", c.id, "client", c.caller.ClientID, "waiting", waiting)
		timer := time.AfterFunc(slowWait, c.abort)
		defer timer.Stop()
		c.end(websocket.StatusPolicyViolation, "slow consumer")
	})
}

// Backlog implements events.Holder.
func (c *conn) Backlog() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.bytes
}

// Evict implements events.Holder: the memory is needed, and this client is the one furthest behind.
func (c *conn) Evict() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.out.closing {
		c.tooSlow()
	}
}

// shutdown is end for a service that stops: it is cut short. Calls that are about to be answered are.
func (c *conn) shutdown(code websocket.StatusCode, reason string) {
	look := time.NewTicker(answerWait / 20)
	defer look.Stop()
	for looks := 0; looks < 20 && c.inFlight.Load() > 0; looks++ {
		<-look.C
	}
	timer := time.AfterFunc(closeWait, c.abort)
	defer timer.Stop()
	c.end(code, reason)
}

// abort drops the network connection; everything that uses it fails at once.
func (c *conn) abort() { _ = c.nc.Close() }

// Invoke implements nodes.Link.
func (c *conn) Invoke(r nodes.Request) error {
	r.Params = c.dialect.InvokeParams(r.Params)
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
