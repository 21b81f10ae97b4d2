package mux

import (
	"sync"
	"sync/atomic"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// sizes are the memory that buffers come in: what a frame holds without and with a header in front, and a whole
// message. The header takes a page more, which what waits to be read does not need.
var sizes = [...]int{512, 4 << 10, pieceSize, wire.MaxPayload, wire.HeaderSize + wire.MaxPayload, wire.MaxMessage}

const (
	// pieceSize is what bytes are kept in that do not nearly fill a frame, so that little memory is empty.
	pieceSize = 16 << 10
	// keepDropped is how many buffers of a stream that is given up go back to their pools.
	keepDropped = 4
	// crumbs is how many bytes have come in small pieces when memory is taken in large ones.
	crumbs = 4 << 10
)

var pools [len(sizes)]sync.Pool

// buffer is memory that goes back to its pool when the last one that holds it lets go.
type buffer struct {
	b     []byte
	refs  atomic.Int32
	class int
}

// newBuffer returns a buffer of n bytes or more, held once. n is at most wire.MaxMessage.
func newBuffer(n int) *buffer {
	class := 0
	for sizes[class] < n {
		class++
	}
	b, _ := pools[class].Get().(*buffer)
	if b == nil {
		b = &buffer{b: make([]byte, sizes[class]), class: class}
	}
	b.refs.Store(1)
	return b
}

func (b *buffer) release() {
	if b != nil && b.refs.Add(-1) == 0 {
		pools[b.class].Put(b)
	}
}

// chunk is bytes in a buffer: those that wait to be sent have room for a header in front.
type chunk struct {
	buf      *buffer
	off, end int
}

func (c chunk) bytes() []byte { return c.buf.b[c.off:c.end] }
func (c chunk) len() int      { return c.end - c.off }

// queue is chunks in order.
type queue struct {
	list []chunk
	head int
}

func (q *queue) empty() bool { return q.head == len(q.list) }

func (q *queue) first() *chunk { return &q.list[q.head] }

// last is the newest chunk, nil when there is none.
func (q *queue) last() *chunk {
	if q.empty() {
		return nil
	}
	return &q.list[len(q.list)-1]
}

func (q *queue) push(c chunk) {
	if q.head > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, c)
}

func (q *queue) pop() chunk {
	c := q.list[q.head]
	q.list[q.head] = chunk{}
	q.head++
	if q.empty() {
		// A stream that was busy once does not keep a long list.
		if cap(q.list) > 64 {
			q.list = nil
		}
		q.list, q.head = q.list[:0], 0
	}
	return c
}

// drop empties the queue and returns how many bytes were in it. Most of the memory is left to the collector: what
// stands in pools counts as in use at the next two collections, and what a stalled stream held is seldom needed soon.
func (q *queue) drop() (n int) {
	for kept := 0; !q.empty(); kept++ {
		c := q.pop()
		n += c.len()
		if kept < keepDropped {
			c.buf.release()
		} else {
			c.buf.refs.Add(-1)
		}
	}
	q.list = nil
	return n
}

// fill appends bytes to the queue, in which others wait: into the last chunk where that has room, else into new ones
// with head bytes of room in front. Of all the memory it takes, less than a piece is empty.
func (q *queue) fill(p []byte, head, waiting int) {
	if c := q.last(); c != nil && c.buf.refs.Load() == 1 {
		// A frame holds wire.MaxPayload bytes, and a chunk becomes one frame.
		n := copy(c.buf.b[c.end:min(len(c.buf.b), c.off+wire.MaxPayload)], p)
		c.end += n
		p = p[n:]
	}
	for len(p) > 0 {
		n := min(len(p), wire.MaxPayload)
		if head == 0 && n < wire.MaxPayload/4*3 {
			n = min(n, pieceSize)
		}
		size := head + n
		if waiting+n > crumbs {
			size = max(size, min(pieceSize, waiting))
		}
		buf := newBuffer(size)
		copy(buf.b[head:], p[:n])
		q.push(chunk{buf: buf, off: head, end: head + n})
		p = p[n:]
	}
}
