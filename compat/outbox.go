package compat

import (
	"errors"
	"net"
	"strconv"
	"sync"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/socket"
)

// frame is a message to send: a text of its own, or an event, whose text all clients share but for
// the number that counts this client's events; 0 for an event that is not counted.
type frame struct {
	own   []byte
	event *rendered
	seq   uint64
	more  *more // what follows own; nil for nothing
	owed  bool  // an answer
}

// more is texts that others have as well, and an end of its own.
type more struct {
	shared [][]byte
	end    []byte
	size   int // of all of it
}

const (
	// frameCost is what a queued frame takes beside its text, sliceCost each part of it that is shared.
	frameCost = 64
	sliceCost = 24
	// maxHead is the longest head of a frame of the server.
	maxHead = 10
	// chunk is how much is written at a time: several small frames, or a part of a large one.
	chunk = 16 << 10
	// step is the same where only the end of a write shows that the client takes something.
	step = 4 << 10
	// maxOwed is how many bytes of answers may be unread before no more is read from a client.
	maxOwed = 256 << 10
	// maxControl bounds the control frames that wait: a client that pings and does not read loses pongs.
	maxControl = 1 << 10
)

// chunks are the buffers in which frames are put together.
var chunks = sync.Pool{New: func() any { b := make([]byte, 0, chunk); return &b }}

// parts is the text of the frame but for what is in more, and the size of all of it. digits is room
// for a number.
func (f *frame) parts(digits []byte) (parts [3][]byte, n int) {
	switch {
	case f.more != nil:
		return [3][]byte{f.own}, len(f.own) + f.more.size
	case f.event == nil:
		return [3][]byte{f.own}, len(f.own)
	case f.seq == 0:
		return [3][]byte{f.event.head}, len(f.event.head)
	}
	digits = strconv.AppendUint(digits, f.seq, 10)
	return [3][]byte{f.event.head, digits, f.event.tail}, len(f.event.head) + len(digits) + len(f.event.tail)
}

// head writes the head of an unmasked text message of n bytes (RFC 6455 §5.2).
func head(b []byte, n int) []byte { return socket.AppendHead(b, byte(websocket.MessageText), n) }

// size is what the frame takes on the wire.
func (f *frame) size() int {
	var digits [20]byte
	var first [maxHead]byte
	_, n := f.parts(digits[:0])
	return len(head(first[:0], n)) + n
}

// cutter appends parts from an offset on, as far as buf has room.
type cutter struct {
	buf []byte
	off int
}

// add returns false when there is no more room.
func (c *cutter) add(p []byte) bool {
	if c.off >= len(p) {
		c.off -= len(p)
		return true
	}
	p, c.off = p[c.off:], 0
	if room := cap(c.buf) - len(c.buf); len(p) > room {
		c.buf = append(c.buf, p[:room]...)
		return false
	}
	c.buf = append(c.buf, p...)
	return true
}

// appendFrom appends what the frame is on the wire from an offset on, as far as buf has room. It
// returns whether that was all.
func (f *frame) appendFrom(buf []byte, off int) ([]byte, bool) {
	var digits [20]byte
	var first [maxHead]byte
	parts, n := f.parts(digits[:0])
	c := cutter{buf, off}
	whole := c.add(head(first[:0], n)) && c.add(parts[0]) && c.add(parts[1]) && c.add(parts[2])
	if whole && f.more != nil {
		for _, p := range f.more.shared {
			if whole = c.add(p); !whole {
				break
			}
		}
		whole = whole && c.add(f.more.end)
	}
	return c.buf, whole
}

// outbox is what waits to be sent. At any time at most one goroutine writes, the one that made busy
// true, and the door waits for it. A frame stays in the queue until it is written, so that a client
// that does not read costs no buffer beside its queue, and none at all for the text of an event.
type outbox struct {
	mu      sync.Mutex
	queue   []frame
	off     int    // how much of queue[0] is written
	taken   int    // how many of the queue are being written, or begun
	control []byte // control frames; they go between messages
	bytes   int    // size of the queue
	owed    int    // size of the answers in it
	seq     uint64
	busy    bool // somebody is writing
	held    bool // nothing but control frames is sent before hello
	closing bool // nothing is queued any more
	ending  bool // somebody closes the connection
	dead    bool // nothing is written any more
	// idle is closed when the last frame was written, for who waits to close, and relief when few answers
	// are left, for who waits to read on; nil while nobody does.
	idle, relief chan struct{}
	// said is closed when the control frames are written; nil while nobody waits for that.
	said chan struct{}
}

// send queues an answer, and writes it in this goroutine when nothing else waits: that saves a
// hand-over for each answer. The caller is the connection's own.
func (c *conn) send(data []byte) {
	mine, _ := c.post(frame{own: data, owed: true}) // nobody is left to hear it
	if !mine {
		return
	}
	if c.raw == nil {
		c.writeOnce()
		return
	}
	c.flush()
}

// breathe waits while the client leaves many answers unread: it is to read them before it asks more.
func (c *conn) breathe() {
	o := &c.out
	o.mu.Lock()
	if o.owed <= maxOwed || o.dead {
		o.mu.Unlock()
		return
	}
	relief := make(chan struct{})
	o.relief = relief
	o.mu.Unlock()
	<-relief
}

// offer is for the goroutines of others, which a slow client must not keep waiting: they write only
// what the kernel takes at once. It fails when the connection is closing.
func (c *conn) offer(data []byte) error {
	mine, err := c.post(frame{own: data})
	if mine {
		c.flush()
	}
	return err
}

// push is offer for who may not even write.
func (c *conn) push(data []byte) {
	if mine, _ := c.post(frame{own: data}); mine { // nobody is left to hear it
		go c.drain()
	}
}

// post queues a frame and returns whether the caller is to write it.
func (c *conn) post(f frame) (mine bool, err error) {
	o := &c.out
	o.mu.Lock()
	if o.closing {
		err = net.ErrClosed
	} else {
		mine = c.enqueue(f)
	}
	o.mu.Unlock()
	c.door.budget.Relieve()
	return mine, err
}

// event queues an event that the client may see, and returns whether the caller is to write it. A
// client that does not keep up loses droppable events, which it can tell from the gap in the numbers;
// any other event ends its connection (protocol.md §6.2).
func (c *conn) event(e *rendered) (mine bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closing:
		return false
	case e.droppable && o.bytes > maxDroppable:
		o.seq++ // the gap tells of it
		c.door.dropped()
		return false
	case o.bytes > maxBuffered:
		c.tooSlow()
		return false
	default:
		o.seq++
		return c.enqueue(frame{event: e, seq: o.seq})
	}
}

// copyEvent queues an event that is addressed to this client and has no number, and returns whether the
// caller is to write it. A client that does not keep up does without: it has the event itself.
func (c *conn) copyEvent(e *rendered) (mine bool) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.closing || c.out.bytes > maxDroppable {
		return false
	}
	return c.enqueue(frame{event: e})
}

// enqueue appends to the queue, and returns whether the caller is to write it. The caller holds mu
// and the connection is not closing. A queue over its bound ends the connection: frames that are not
// droppable may not be lost silently.
func (c *conn) enqueue(f frame) (mine bool) {
	o := &c.out
	if o.bytes+f.size() > maxBuffered+maxPayload {
		c.tooSlow()
		return false
	}
	o.queue = append(o.queue, f)
	c.keep(&f)
	return c.begin()
}

// keep and forget count what waits, here and in the budget of all readers. The caller holds mu.
func (c *conn) keep(f *frame) {
	c.out.bytes += f.size()
	if f.owed {
		c.out.owed += f.size()
	}
	c.door.budget.Add(f.cost())
	if f.event != nil {
		c.door.budget.Keep(f.event.text)
	}
}

// cost is the memory that nobody else holds.
func (f *frame) cost() int {
	n := frameCost + len(f.own)
	if f.more != nil {
		n += len(f.more.end) + len(f.more.shared)*sliceCost
	}
	return n
}

func (c *conn) forget(f *frame) {
	c.door.budget.Add(-f.cost())
	if f.event != nil {
		c.door.budget.Drop(f.event.text)
	}
	o := &c.out
	o.bytes -= f.size()
	if f.owed {
		o.owed -= f.size()
	}
	if o.owed <= maxOwed/2 {
		wake(&o.relief)
	}
	*f = frame{}
}

// begin makes the caller the one who writes, when there is something to write and nobody does. The
// caller holds mu; the connection is not dead, so that its reading goroutine still counts and the
// door is not done waiting.
func (c *conn) begin() bool {
	o := &c.out
	if o.busy || o.dead || !o.due() {
		return false
	}
	o.busy = true
	c.door.wg.Add(1)
	return true
}

func (o *outbox) due() bool { return len(o.control) > 0 || (!o.held && len(o.queue) > 0) }

// rested is called, with mu held, by the one who writes when it does so no more.
func (c *conn) rested() {
	o := &c.out
	o.busy = false
	if len(o.queue) == 0 {
		o.queue = nil
	}
	wake(&o.idle)
	c.door.wg.Done()
}

// wake lets go who waits.
func wake(who *chan struct{}) {
	if *who != nil {
		close(*who)
		*who = nil
	}
}

// fill puts what comes next together, at most chunk; control says that it is control frames. It
// returns nil when there is nothing any more: then the caller is not the one who writes any longer.
func (c *conn) fill(buf []byte) (_ []byte, control bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.dead || !o.due():
		c.rested()
		return nil, false
	case o.off == 0 && len(o.control) > 0:
		return append(buf, o.control...), true
	}
	off, whole := o.off, true
	for o.taken = 0; whole && o.taken < len(o.queue) && cap(buf)-len(buf) > maxHead; o.taken++ {
		if o.taken > 0 && len(o.control) > 0 {
			break // they go next
		}
		buf, whole = o.queue[o.taken].appendFrom(buf, off)
		off = 0
	}
	return buf, false
}

// wrote takes out what was written.
func (c *conn) wrote(n int, control bool) {
	c.sent.Add(int64(n))
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return
	}
	if control {
		if o.control = o.control[n:]; len(o.control) == 0 {
			o.control = nil
			wake(&o.said)
		}
		return
	}
	n += o.off
	done := 0
	for ; done < o.taken; done++ {
		size := o.queue[done].size()
		if n < size {
			break
		}
		n -= size
		c.forget(&o.queue[done])
	}
	o.queue, o.off, o.taken = o.queue[done:], n, 0
	if n > 0 {
		o.taken = 1 // the rest of it must follow
	}
}

// flush writes what the kernel takes at once, and leaves the rest to a goroutine. The caller is the
// one who writes.
func (c *conn) flush() {
	if !c.tryWrite() {
		go c.drain()
	}
}

// drain writes until nothing is left. The caller is the one who writes, and waits for the client.
func (c *conn) drain() {
	w := c.watch()
	defer w.stop()
	var err error
	if c.raw != nil {
		err = c.writeRaw(true)
	} else {
		err = c.writeNet()
	}
	if err != nil {
		c.writeFailed()
	}
}

// tryWrite writes what the kernel takes at once. It returns false when there is more: then the caller
// still is the one who writes.
func (c *conn) tryWrite() bool {
	if c.raw == nil {
		return false
	}
	err := c.writeRaw(false)
	if errors.Is(err, errWouldBlock) {
		return false
	}
	if err != nil {
		c.writeFailed()
	}
	return true
}

// writeOnce writes a part in this goroutine, and leaves the rest to another one. The caller is the one
// who writes.
func (c *conn) writeOnce() {
	w := c.watch()
	bp := chunks.Get().(*[]byte)
	buf, control := c.fill((*bp)[:0])
	var err error
	if buf != nil {
		var n int
		n, err = c.nc.Write(buf)
		c.wrote(n, control)
	}
	chunks.Put(bp)
	w.stop()
	switch {
	case err != nil:
		c.writeFailed()
	case buf != nil && !c.done():
		go c.drain()
	}
}

// done reports whether nothing is left; then the caller is not the one who writes any longer.
func (c *conn) done() bool {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dead && o.due() {
		return false
	}
	c.rested()
	return true
}

// writeNet is for connections that are not plain sockets.
func (c *conn) writeNet() error {
	bp := chunks.Get().(*[]byte)
	defer chunks.Put(bp)
	for {
		buf, control := c.fill((*bp)[:0:step])
		if buf == nil {
			return nil
		}
		n, err := c.nc.Write(buf)
		c.wrote(n, control)
		if err != nil {
			return err
		}
	}
}

// writeFailed ends a connection that cannot be written to. The caller is the one who writes.
func (c *conn) writeFailed() {
	c.out.mu.Lock()
	c.die()
	c.rested()
	c.out.mu.Unlock()
	c.abort()
}

// die gives up all that waits. The caller holds mu.
func (c *conn) die() {
	o := &c.out
	o.closing, o.dead, o.held = true, true, false
	o.taken = 0
	c.clear()
	o.control = nil
	wake(&o.relief)
	wake(&o.said)
}

// clear gives up what waits and is not begun. The caller holds mu.
func (c *conn) clear() {
	o := &c.out
	for i := o.taken; i < len(o.queue); i++ {
		c.forget(&o.queue[i])
	}
	if o.queue = o.queue[:o.taken]; o.taken == 0 {
		o.queue, o.off = nil, 0
	}
}

// drop forgets what is queued or held back, for a client that is refused after all.
func (c *conn) drop() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.held = false
	c.clear()
}

// hold keeps frames back until release, so that hello is the first one after the challenge.
func (c *conn) hold() {
	c.out.mu.Lock()
	c.out.held = true
	c.out.mu.Unlock()
}

// release sends hello and then what was held back.
func (c *conn) release(hello ...frame) {
	o := &c.out
	o.mu.Lock()
	o.held = false
	mine := false
	if !o.closing {
		queue := make([]frame, 0, len(hello)+len(o.queue))
		for _, f := range hello {
			queue = append(queue, f)
			c.keep(&f)
		}
		o.queue = append(queue, o.queue...)
		mine = c.begin()
	}
	o.mu.Unlock()
	if mine {
		c.flush()
	}
}

// writeControl takes a control frame of the library: it goes out between messages, before all that
// waits. It returns when a close is written, since the library then closes the connection; the library
// bounds that to seconds.
func (c *conn) writeControl(b []byte) error {
	o := &c.out
	o.mu.Lock()
	if o.dead {
		o.mu.Unlock()
		return net.ErrClosed
	}
	if len(o.control)+len(b) <= maxControl {
		o.control = append(o.control, b...)
	}
	var said chan struct{}
	if b[0]&0xf == opClose {
		if said = o.said; said == nil {
			said = make(chan struct{})
			o.said = said
		}
	}
	mine := c.begin()
	o.mu.Unlock()
	switch {
	case !mine:
	case c.raw == nil:
		c.drain() // the library gives it five seconds
	default:
		c.flush()
	}
	if said != nil {
		<-said
	}
	return nil
}

// opClose is the opcode of a close frame.
const opClose = 8
