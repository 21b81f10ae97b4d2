package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Limits of what waits to be sent on a carrier and was not asked for by this end.
const (
	maxControl = 1 << 20
	maxPongs   = 64
	maxResets  = 1024
	// maxRefused is how many streams in a row are refused before the other end counts as mad.
	maxRefused = 1000
	// inlineBytes is how much a caller writes itself when the writer has nothing to do; more is worth a goroutine.
	inlineBytes = wire.MaxPayload
	// smallFrame is the largest DATA that is copied next to others, so that a message has few parts.
	smallFrame  = 2 << 10
	scratchSize = 32 << 10
	flushTime   = time.Second
)

// link is a carrier of a session. All its fields but the fixed ones are under the session's lock.
type link struct {
	s     *Session
	index int
	c     Carrier

	// control is whole frames that go before all others.
	control []byte
	pongs   int
	resets  int
	// windows and ready are the streams that have credit to give back, and bytes or frames to send.
	windows, ready list
	streams        int
	// lastPeer is the highest id that the other end opened here.
	lastPeer uint32

	// writing is held by whoever writes a message.
	writing bool
	work    sync.Cond
	// scratch is the frames of a message that are small, parts and sent what belongs to the message being written.
	scratch []byte
	parts   net.Buffers
	sent    []*buffer

	// readErr and writeErr are how the carrier failed, err how it ended.
	readErr, writeErr, err error
	// closing has the writer close the carrier with these.
	closing     bool
	closeCode   int
	closeReason string
	late        *time.Timer
	// pinged is when the oldest PING went that was not answered, pingDue when the next one goes.
	pinged, pingDue time.Time
	asked, answered uint64
	// goroutines is how many of the two still run.
	goroutines int
}

// ping queues a PING.
func (l *link) ping(now time.Time) {
	if l.err != nil {
		return
	}
	l.asked++
	if l.pinged.IsZero() {
		l.pinged = now
	}
	l.control = binary.BigEndian.AppendUint64(wire.AppendHeader(l.control, wire.Ping, 0, 8), l.asked)
	l.work.Signal()
}

// pending tells whether there may be something to write.
func (l *link) pending() bool {
	return len(l.control) > 0 || !l.windows.empty() || !l.ready.empty() || l.index == 0 && l.s.giveBack
}

// kick has what is queued written: at once by the caller when nobody else does and it is little, else by the
// writer. The lock is held, and let go meanwhile when inline.
func (l *link) kick(inline bool) {
	if l.writing || l.closing || l.writeErr != nil {
		return
	}
	if !inline {
		l.work.Signal()
		return
	}
	l.write()
	if l.pending() || l.closing {
		l.work.Signal()
	}
}

// write writes one message. The lock is held, and let go meanwhile.
func (l *link) write() {
	if !l.build() {
		return
	}
	l.writing = true
	l.s.mu.Unlock()
	// The carrier may use up the slices, so they are given a copy of the list.
	parts := l.parts
	err := l.c.Write(parts)
	for i, b := range l.sent {
		b.release()
		l.sent[i] = nil
	}
	clear(l.parts)
	l.s.mu.Lock()
	l.sent, l.parts = l.sent[:0], l.parts[:0]
	l.writing = false
	if err != nil && l.writeErr == nil {
		l.writeErr = err
		// The reader may still find out how the other end closed; it is not waited for long.
		l.late = time.AfterFunc(flushTime, func() { _ = l.c.Close(0, "") })
		l.work.Signal()
	}
}

// build collects the next message: control frames, then credit, then a frame of each stream in turn.
func (l *link) build() bool {
	s := l.s
	if cap(l.scratch) == 0 {
		l.scratch = make([]byte, 0, scratchSize)
	}
	l.scratch = l.scratch[:0]
	frames, size, from := 0, 0, 0
	flush := func() {
		if len(l.scratch) > from {
			l.parts = append(l.parts, l.scratch[from:len(l.scratch):len(l.scratch)])
			from = len(l.scratch)
		}
	}
	if len(l.control) > 0 {
		n := 0
		for frames < wire.MaxFrames && n < len(l.control) {
			next := wire.HeaderSize + int(binary.BigEndian.Uint32(l.control[n+5:]))
			if n+next > wire.MaxMessage {
				break
			}
			n += next
			frames++
		}
		if n <= smallFrame {
			l.scratch = append(l.scratch, l.control[:n]...)
		} else {
			l.parts = append(l.parts, append([]byte(nil), l.control[:n]...))
		}
		size = n
		l.control = append(l.control[:0], l.control[n:]...)
		if len(l.control) == 0 {
			l.pongs, l.resets = 0, 0
			if cap(l.control) > 64<<10 {
				l.control = nil
			}
		}
	}
	const windowFrame = wire.HeaderSize + 4
	room := func(n int) bool {
		return frames < wire.MaxFrames && size+n <= wire.MaxMessage && len(l.scratch)+n <= scratchSize
	}
	for !l.windows.empty() && room(windowFrame) {
		st := l.windows.pop()
		if st.recvPend > 0 && !st.recvEOF && !st.gone {
			l.scratch = wire.AppendWindow(l.scratch, st.id, uint32(st.recvPend))
			st.recvLeft += st.recvPend
			st.recvPend = 0
			frames++
			size += windowFrame
		}
	}
	if l.index == 0 && s.giveBack && room(windowFrame) {
		s.giveBack = false
		if s.recvPend > 0 {
			l.scratch = wire.AppendWindow(l.scratch, 0, uint32(s.recvPend))
			s.recvLeft += s.recvPend
			s.recvPend = 0
			frames++
			size += windowFrame
		}
	}
	full := false
	for !full && !l.ready.empty() {
		st := l.ready.pop()
		if n := len(st.control); n > 0 {
			count := 0
			for at := 0; at < n; count++ {
				at += wire.HeaderSize + int(binary.BigEndian.Uint32(st.control[at+5:]))
			}
			if frames+count > wire.MaxFrames || size+n > wire.MaxMessage {
				if frames > 0 {
					l.ready.pushFront(st)
					break
				}
				// More than a message: the frames go one by one.
				n = wire.HeaderSize + int(binary.BigEndian.Uint32(st.control[5:]))
				count = 1
				full = true
			}
			if len(l.scratch)+n <= scratchSize {
				l.scratch = append(l.scratch, st.control[:n]...)
			} else {
				flush()
				l.parts = append(l.parts, append([]byte(nil), st.control[:n]...))
			}
			st.control = st.control[n:]
			if len(st.control) == 0 {
				st.control = nil
			}
			st.opened = true
			frames += count
			size += n
			if full {
				l.ready.push(st)
				break
			}
		}
		if !st.out.empty() {
			c := st.out.first()
			n := min(c.len(), int(s.allowed(st)))
			if n <= 0 {
				s.starve(st)
				continue
			}
			if frames == wire.MaxFrames || size+wire.HeaderSize >= wire.MaxMessage {
				l.ready.pushFront(st)
				break
			}
			// A frame is cut where the message ends, but not into crumbs.
			if left := wire.MaxMessage - size - wire.HeaderSize; n > left {
				if left < n/2 {
					l.ready.pushFront(st)
					break
				}
				n = left
			}
			switch {
			case n <= smallFrame && len(l.scratch)+wire.HeaderSize+n <= scratchSize:
				l.scratch = wire.Append(l.scratch, wire.Data, st.id, c.buf.b[c.off:c.off+n])
				if n == c.len() {
					c.buf.release()
				}
			default:
				flush()
				frame := wire.AppendHeader(c.buf.b[c.off-wire.HeaderSize:c.off-wire.HeaderSize], wire.Data, st.id, n)
				l.parts = append(l.parts, frame[:wire.HeaderSize+n])
				if n == c.len() {
					l.sent = append(l.sent, c.buf)
				} else {
					// The rest's header goes over bytes that are sent by then: a stream is cut for want of credit, or
					// where the message ends.
					c.buf.refs.Add(1)
					l.sent = append(l.sent, c.buf)
				}
			}
			frames++
			size += wire.HeaderSize + n
			if n == c.len() {
				st.out.pop()
			} else {
				c.off += n
			}
			st.dequeued(n)
			st.sentBytes += uint64(n)
			st.sendLeft -= int64(n)
			s.sendLeft -= int64(n)
			s.stats.Out += uint64(n)
			st.wc.Broadcast()
			if st.turn += n; !st.out.empty() {
				// Turns are of bytes, so that streams with small chunks get as much as others.
				if st.turn < wire.MaxPayload {
					l.ready.pushFront(st)
				} else {
					st.turn = 0
					l.ready.push(st)
				}
				continue
			}
			st.turn = 0
		}
		if st.sendClosed && !st.eofSent && st.out.empty() {
			if !room(wire.HeaderSize) {
				l.ready.push(st)
				break
			}
			l.scratch = wire.AppendHeader(l.scratch, wire.EOF, st.id, 0)
			frames++
			size += wire.HeaderSize
			st.eofSent = true
			s.settle(st)
		}
	}
	flush()
	s.stats.FramesOut += uint64(frames)
	return frames > 0
}

// writer writes what nobody wrote himself, and closes the carrier in the end.
func (l *link) writer() {
	s := l.s
	s.mu.Lock()
	for {
		for l.writing || !l.closing && (l.writeErr != nil || !l.pending()) {
			l.work.Wait()
		}
		if l.closing && (l.writeErr != nil || !l.pending() || l.closeCode == 0) {
			break
		}
		l.write()
	}
	code, reason := l.closeCode, l.closeReason
	s.mu.Unlock()
	_ = l.c.Close(code, reason)
	s.mu.Lock()
	l.gone()
}

// close has the writer close the carrier when the control frames are out, in a second at the latest.
func (l *link) close(code int, reason string) {
	if l.closing {
		return
	}
	l.closing, l.closeCode, l.closeReason = true, code, reason
	if l.late != nil {
		l.late.Stop()
	}
	wait := flushTime
	if code == 0 {
		wait = 0
	}
	l.late = time.AfterFunc(wait, func() { _ = l.c.Close(0, "") })
	l.work.Signal()
}

// gone counts a goroutine out, and tells Lost behind the last. The lock is held, and released.
func (l *link) gone() {
	l.goroutines--
	if l.goroutines > 0 {
		l.s.mu.Unlock()
		return
	}
	if l.late != nil {
		l.late.Stop()
	}
	if l.s.links[l.index] == l {
		l.s.links[l.index] = nil
	}
	err := l.err
	l.s.mu.Unlock()
	if l.s.cfg.Lost != nil {
		l.s.cfg.Lost(l.index, err)
	}
	l.s.wait.Done()
}

// reader takes messages until the carrier ends.
func (l *link) reader(first []byte) {
	s := l.s
	err := error(nil)
	if len(first) > 0 {
		err = l.message(first, nil)
	}
	own, _ := l.c.(BufferReader)
	var buf *buffer
	alloc := func(n int) []byte {
		buf.release()
		buf = newBuffer(min(n, wire.MaxMessage))
		return buf.b
	}
	ctx := context.Background()
	for err == nil {
		var m []byte
		buf = nil
		if own != nil {
			m, err = own.ReadBuffer(ctx, alloc)
		} else {
			m, err = l.c.Read(ctx)
		}
		if err != nil {
			buf.release()
			break
		}
		if buf != nil && (len(m) == 0 || &m[0] != &buf.b[0]) {
			buf.release()
			buf = nil
		}
		err = l.message(m, buf)
		buf.release()
	}
	s.mu.Lock()
	l.lost(err)
	l.gone()
}

// lost ends a carrier that failed. The lock is held.
func (l *link) lost(err error) {
	s := l.s
	var wrong *SessionError
	switch {
	case errors.As(err, &wrong):
		s.fail(wrong)
		return
	case s.err != nil:
		l.close(0, "")
		return
	}
	l.readErr = err
	var closed *CloseError
	if l.writeErr != nil && !errors.As(err, &closed) {
		err = l.writeErr
	}
	l.drop(err)
}

// drop ends a carrier for the reason err, and with the primary the session. The lock is held.
func (l *link) drop(err error) {
	if l.err == nil {
		l.err = err
	}
	if l.index == 0 {
		l.s.end(l.err, 0, "")
		return
	}
	for _, st := range l.s.streams {
		if st.l == l {
			st.over(&lostError{l.err})
		}
	}
	l.close(0, "")
}

// lostError is why a stream ends with its carrier.
type lostError struct{ cause error }

func (e *lostError) Error() string {
	if e.cause == nil || errors.Is(e.cause, ErrClosed) {
		return ErrClosed.Error()
	}
	return ErrClosed.Error() + ": " + e.cause.Error()
}
func (e *lostError) Is(target error) bool { return target == ErrClosed }
func (e *lostError) Unwrap() error        { return e.cause }

// message handles the frames of a message. What it keeps of a message in buf holds buf; without buf it keeps copies.
func (l *link) message(m []byte, buf *buffer) error {
	s := l.s
	r, err := wire.Read(m, s.cfg.Hanzod1)
	if err != nil {
		return wrong(err)
	}
	keep := buf
	if buf != nil && !bulk(m, len(buf.b)) {
		keep = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return wrong(err)
		}
		if s.err != nil || l.err != nil {
			return ErrClosed
		}
		s.stats.FramesIn++
		if err := s.frame(l, f, keep, len(m)-len(r.Rest())-len(f.Payload)); err != nil {
			return err
		}
	}
	if !l.writing && l.pending() {
		l.work.Signal()
	}
	// Credit for all streams goes on the primary.
	if p := s.links[0]; p != nil && p != l && s.giveBack && !p.writing {
		p.work.Signal()
	}
	return nil
}

func wrong(err error) error {
	return &SessionError{Code: wire.CodeOf(err), Message: err.Error()}
}

// bulk tells whether a message is DATA of one stream that nearly fills its memory, which is then worth holding.
func bulk(m []byte, held int) bool {
	if len(m) < 16<<10 {
		return false
	}
	var stream uint32
	n := 0
	for len(m) > 0 {
		f, rest, err := wire.Next(m)
		if err != nil {
			return false
		}
		if f.Type == wire.Data {
			if stream != 0 && f.Stream != stream {
				return false
			}
			stream = f.Stream
			n += len(f.Payload)
		}
		m = rest
	}
	return n >= held/4*3
}

// list is a queue of streams; a stream is in a list once.
type list struct {
	first, last *Stream
	kind        uint8
}

func (q *list) empty() bool { return q.first == nil }

func (q *list) push(st *Stream) {
	at := &st.at[q.kind]
	if at.in {
		return
	}
	*at = place{in: true, prev: q.last}
	if q.last != nil {
		q.last.at[q.kind].next = st
	} else {
		q.first = st
	}
	q.last = st
}

func (q *list) pushFront(st *Stream) {
	at := &st.at[q.kind]
	if at.in {
		return
	}
	*at = place{in: true, next: q.first}
	if q.first != nil {
		q.first.at[q.kind].prev = st
	} else {
		q.last = st
	}
	q.first = st
}

func (q *list) pop() *Stream {
	st := q.first
	q.remove(st)
	return st
}

func (q *list) remove(st *Stream) {
	at := &st.at[q.kind]
	if !at.in {
		return
	}
	if at.prev != nil {
		at.prev.at[q.kind].next = at.next
	} else {
		q.first = at.next
	}
	if at.next != nil {
		at.next.at[q.kind].prev = at.prev
	} else {
		q.last = at.prev
	}
	*at = place{}
}

// place is where a stream is in a list.
type place struct {
	prev, next *Stream
	in         bool
}

// The lists that a stream may be in.
const (
	inReady = iota
	inWindows
	inStarved
	inHolding
	inLists
)
