package mux

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Limits of a stream.
const (
	// maxQueued is how many bytes a stream queues at most. The streams of a session that have some share crowdBytes
	// evenly, but crowdQueue is each one's.
	maxQueued  = 256 << 10
	crowdBytes = 8 << 20
	crowdQueue = 16 << 10
	// gather is how much ReadFrom reads of a socket that has it before it is sent.
	gather = 192 << 10
	// yieldBytes is how much ReadFrom reads before it lets others run.
	yieldBytes = 128 << 10
	// readMin is what reading is worth while bytes wait to be sent already.
	readMin = 32 << 10
	// takeBytes is how much WriteTo takes at once, or a quarter of the window where that is less: credit goes back in
	// such pieces.
	takeBytes = 256 << 10
	// maxHeads is how many STREAM_RESPONSE_HEAD may wait, maxControls how many STREAM_CONTROL (tunnel.md §4.13).
	maxHeads    = 8
	maxControls = 64
	// lingerTime is how long a stream that was closed here waits for the other end's EOF.
	lingerTime = 10 * time.Second
)

// ResetError is a stream that ended with RESET. Remote says that the other end sent it.
type ResetError struct {
	Code   wire.Code
	Reason string
	Remote bool
}

func (e *ResetError) Error() string {
	if e.Reason == "" {
		return "stream reset: " + e.Code.String()
	}
	return "stream reset: " + e.Code.String() + ": " + e.Reason
}

// Stream is one byte flow in both directions. It is a net.Conn; one goroutine may read while another writes, and
// everything else may be called at any time. Everybody who has one closes or resets it.
type Stream struct {
	s      *Session
	l      *link
	id     uint32
	remote string

	// All below is under the session's lock.
	at [inLists]place
	// rc wakes those that wait for something to read, wc those that wait to write.
	rc, wc sync.Cond

	// out is DATA to be sent, queued its bytes, control frames that go before it.
	out     queue
	control []byte
	queued  int
	// turn is how much of the stream went in its turn.
	turn int
	// in is DATA to be read, inBytes its bytes.
	in      queue
	inBytes int64
	// recvLeft is the credit that the other end has left, recvPend what it will get back, sendLeft the credit here.
	recvLeft, recvPend, sendLeft int64
	// sentBytes and gotBytes are bytes of DATA.
	sentBytes, gotBytes uint64

	// opened is that the other end knows of the stream. sendClosed and recvEOF are ends of the directions.
	opened, sendClosed, eofSent, recvEOF bool
	// closed is that nobody here wants the stream, counted that it holds a place, gone that it is over on the wire.
	closed, counted, gone bool
	err                   error
	done                  chan struct{}
	linger                *time.Timer
	heads                 []wire.ResponseHeadBody
	final                 bool
	accepted              bool
	peerAddr              string
	controls              [][]byte

	readBy, writeBy deadline
	// sink is the socket that WriteTo serves. It is lent while bytes are written to it by the carrier's reader, who
	// counts them in direct. sinkErr is how it failed.
	sink    *direct
	lent    bool
	direct  int64
	sinkErr error
	// writing is where WriteTo writes to at the moment, when its waiting can be ended.
	writing hurried
}

// hurried is a writer whose waiting can be ended.
type hurried interface{ SetWriteDeadline(t time.Time) error }

var (
	_ net.Conn      = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

// ID is the stream's id.
func (st *Stream) ID() uint32 { return st.id }

// Counts are the bytes of DATA that came and went.
func (st *Stream) Counts() (in, out uint64) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return st.gotBytes, st.sentBytes
}

// Index is the carrier that the stream is on.
func (st *Stream) Index() int { return st.l.index }

// failed is why nothing can be done with the stream.
func (st *Stream) failed() error {
	if st.closed {
		return net.ErrClosed
	}
	return st.err
}

// readable waits for bytes. The lock is held.
func (st *Stream) readable() error {
	for {
		switch {
		case st.closed:
			return net.ErrClosed
		case st.readBy.passed:
			return os.ErrDeadlineExceeded
		case !st.in.empty():
			return nil
		case st.sinkErr != nil:
			return st.sinkErr
		case st.recvEOF:
			return io.EOF
		case st.err != nil:
			return st.err
		}
		st.rc.Wait()
	}
}

// Read reads bytes that the other end sent: io.EOF after its EOF, *ResetError after a reset, ErrClosed after the
// session, os.ErrDeadlineExceeded, net.ErrClosed after Close.
func (st *Stream) Read(p []byte) (int, error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := st.readable(); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) && !st.in.empty() {
		c := st.in.first()
		m := copy(p[n:], c.bytes())
		n += m
		if c.off += m; c.off == c.end {
			st.in.pop().buf.release()
		}
	}
	st.inBytes -= int64(n)
	st.consumed(int64(n))
	return n, nil
}

// consumed gives credit back for bytes that the sink has taken: first the stream's, then the session's.
func (st *Stream) consumed(n int64) {
	s := st.s
	s.hold(-n)
	st.recvPend += n
	s.credit(st)
	s.returned(n)
	st.l.kickWaiting()
}

// kickWaiting wakes the writers for credit.
func (l *link) kickWaiting() {
	if !l.windows.empty() {
		l.kick(false)
	}
	if p := l.s.links[0]; p != nil && l.s.giveBack {
		p.kick(false)
	}
}

// WriteTo gives w what the other end sends until its EOF, without a copy.
func (st *Stream) WriteTo(w io.Writer) (total int64, err error) {
	s := st.s
	sink := newDirect(w)
	var taken []chunk
	var parts net.Buffers
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		for st.lent {
			st.rc.Wait()
		}
		total += st.direct
		st.sink, st.direct = nil, 0
		if err == nil {
			err = st.sinkErr
		}
	}()
	for {
		st.sink = sink
		err := st.readable()
		for st.lent {
			st.rc.Wait()
		}
		if err != nil {
			if err == io.EOF { //nolint:errorlint // readable returns it as it is
				err = nil
			}
			return total, err
		}
		if st.sinkErr != nil {
			return total, st.sinkErr
		}
		st.sink = nil
		size, most := 0, min(takeBytes, int(s.cfg.StreamWindow)/4)
		for !st.in.empty() && (size == 0 || size+st.in.first().len() <= most) {
			c := st.in.pop()
			size += c.len()
			taken = append(taken, c)
		}
		st.inBytes -= int64(size)
		st.writing, _ = w.(hurried)
		if st.gone {
			st.hurry()
		}
		s.mu.Unlock()
		var n int64
		if len(taken) == 1 {
			var m int
			m, err = w.Write(taken[0].bytes())
			n = int64(m)
		} else {
			parts = parts[:0]
			for _, c := range taken {
				parts = append(parts, c.bytes())
			}
			list := parts
			n, err = list.WriteTo(w)
		}
		for i, c := range taken {
			c.buf.release()
			taken[i] = chunk{}
		}
		taken = taken[:0]
		total += n
		if err == nil && n < int64(size) {
			err = io.ErrShortWrite
		}
		s.mu.Lock()
		st.writing = nil
		st.consumed(int64(size))
		if err != nil {
			return total, err
		}
	}
}

// hurry ends the waiting of WriteTo when the stream has failed: a socket that takes nothing would be held for ever.
// What was sent as a whole has some time left. The lock is held.
func (st *Stream) hurry() {
	if st.writing == nil || st.err == nil {
		return
	}
	w, by := st.writing, time.Now()
	if st.recvEOF {
		by = by.Add(lingerTime)
	}
	// It may be a stream of another session, whose lock is not to be taken under this one.
	go func() { _ = w.SetWriteDeadline(by) }() // who writes says what went wrong
}

// deliver writes bytes to the socket of WriteTo if it waits for some, and returns those that are left. The lock is
// held, and let go meanwhile.
func (st *Stream) deliver(p []byte) []byte {
	if st.sink == nil || st.lent || !st.in.empty() || st.sinkErr != nil || st.readBy.passed {
		return p
	}
	s := st.s
	sink := st.sink
	st.lent = true
	s.mu.Unlock()
	n, err := sink.write(p)
	s.mu.Lock()
	st.lent = false
	st.direct += int64(n)
	st.consumed(int64(n))
	if err != nil {
		st.sinkErr = err
	}
	if err != nil || n < len(p) || st.closed || st.gone || st.readBy.passed {
		st.rc.Broadcast()
	}
	return p[n:]
}

// room waits until so many bytes may be queued, or any while none are, and returns how many may.
func (st *Stream) room(want int) (int, error) {
	s := st.s
	var since time.Time
	defer func() {
		if !since.IsZero() {
			s.stats.Stalled += time.Since(since)
		}
	}()
	for {
		switch {
		case st.closed:
			return 0, net.ErrClosed
		case st.err != nil:
			return 0, st.err
		case st.sendClosed:
			return 0, io.ErrClosedPipe
		case st.gone:
			return 0, net.ErrClosed
		case st.writeBy.passed:
			return 0, os.ErrDeadlineExceeded
		}
		limit := min(maxQueued, max(crowdQueue, crowdBytes/max(1, s.busy)))
		credit := int(s.allowed(st))
		if n := min(limit, credit) - st.queued; n > 0 && (n >= min(want, limit/2) || st.queued == 0) {
			return n, nil
		}
		if credit <= st.queued {
			if since.IsZero() {
				since = time.Now()
			}
			if st.queued == 0 {
				s.starve(st)
			}
		}
		if st.queued > 0 {
			st.l.kick(false)
		}
		st.wc.Wait()
	}
}

// queue takes note of n more bytes in out.
func (st *Stream) enqueued(n int) {
	if st.queued == 0 {
		st.s.busy++
	}
	st.queued += n
	st.s.queued += int64(n)
	st.l.ready.push(st)
}

// dequeued takes note of n bytes less in out.
func (st *Stream) dequeued(n int) {
	if st.queued -= n; st.queued == 0 {
		st.s.busy--
	}
	st.s.queued -= int64(n)
}

// sendMore has a stream that got credit go on.
func (st *Stream) sendMore() {
	if !st.out.empty() {
		st.l.ready.push(st)
		if !st.l.writing {
			st.l.work.Signal()
		}
	}
	st.wc.Broadcast()
}

// Write queues bytes and waits for credit and room; the errors are those of Read.
func (st *Stream) Write(p []byte) (int, error) {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for {
		n, err := st.room(min(len(p), readMin))
		if err != nil {
			return total, err
		}
		n = min(n, len(p))
		if n > 0 {
			st.out.fill(p[:n], wire.HeaderSize, st.queued)
			st.enqueued(n)
			total += n
			p = p[n:]
		}
		st.l.kick(len(p) == 0 && st.queued <= inlineBytes)
		if len(p) == 0 {
			return total, nil
		}
	}
}

// ReadFrom sends what r has until its end, without a copy and, for sockets, without a buffer while r has nothing.
// It does not close.
func (st *Stream) ReadFrom(r io.Reader) (int64, error) {
	s := st.s
	in := newSource(r)
	in.idle = func() {
		s.mu.Lock()
		if !st.out.empty() {
			st.l.kick(true)
		}
		s.mu.Unlock()
	}
	var total int64
	alone := 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if alone >= yieldBytes && len(s.streams) > 1 {
			// Who never waits would keep those from running whose bytes are there too.
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
			alone = 0
		}
		n, err := st.room(readMin)
		if err != nil {
			return total, err
		}
		s.mu.Unlock()
		buf, n, err := in.read(min(n, wire.MaxPayload))
		s.mu.Lock()
		if n > 0 {
			if failed := st.failed(); failed != nil || st.sendClosed {
				buf.release()
				if failed == nil {
					failed = io.ErrClosedPipe
				}
				return total, failed
			}
			total += int64(n)
			alone += n
			if c := st.out.last(); n <= smallFrame && c != nil {
				st.out.fill(buf.b[wire.HeaderSize:wire.HeaderSize+n], wire.HeaderSize, st.queued)
				buf.release()
			} else {
				st.out.push(chunk{buf: buf, off: wire.HeaderSize, end: wire.HeaderSize + n})
			}
			st.enqueued(n)
			// A socket that filled a frame has more to read, most likely: a message takes several. Nobody else's
			// frames wait for that.
			if in.raw == nil || n < wire.MaxPayload || st.queued >= gather {
				st.l.kick(true)
			}
		} else {
			buf.release()
		}
		if err != nil {
			if !st.out.empty() {
				st.l.kick(false)
			}
			if err == io.EOF { //nolint:errorlint // readers return it as it is
				err = nil
			}
			return total, err
		}
	}
}

// CloseWrite sends EOF behind what is queued.
func (st *Stream) CloseWrite() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if err := st.failed(); err != nil {
		return err
	}
	st.closeWrite()
	st.l.kick(st.queued <= inlineBytes)
	return nil
}

func (st *Stream) closeWrite() {
	if st.sendClosed || st.gone {
		return
	}
	st.sendClosed = true
	st.wc.Broadcast()
	if st.out.empty() {
		st.l.ready.push(st)
	}
}

// Close sends what is queued and EOF. Bytes that the other end sends from now on are answered with RESET 7, and
// the stream is given up when the other end does not send EOF within ten seconds.
func (st *Stream) Close() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.closed {
		return nil
	}
	st.closeHere()
	if !st.gone {
		st.closeWrite()
		st.l.kick(false)
		st.waitForEnd(st.sentBytes)
	}
	return nil
}

// closeHere is the part of Close that is not on the wire.
func (st *Stream) closeHere() {
	st.closed = true
	st.dropIn()
	st.rc.Broadcast()
	st.wc.Broadcast()
	st.leave()
}

// leave gives the stream's place to another one, once nobody has it.
func (st *Stream) leave() {
	if st.counted && st.closed && st.gone {
		st.counted = false
		st.s.slots--
	}
}

// waitForEnd gives the stream up when it makes no progress.
func (st *Stream) waitForEnd(sent uint64) {
	st.linger = time.AfterFunc(lingerTime, func() {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		switch {
		case st.gone:
		case st.sentBytes != sent:
			st.waitForEnd(st.sentBytes)
		default:
			_ = st.resetNow(wire.CodeCancel, "the stream was closed and not ended")
		}
	})
}

// Reset ends the stream in both directions at once; what is queued is dropped.
func (st *Stream) Reset(code wire.Code, reason string) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.reset(code, reason)
	st.closeHere()
	return nil
}

// reset ends a stream for a reason of this end.
func (st *Stream) reset(code wire.Code, reason string) {
	if err := st.resetNow(code, reason); err != nil {
		st.s.failed(err)
	}
}

// failed ends the session for an error of a frame.
func (s *Session) failed(err error) {
	if e, ok := err.(*SessionError); ok { //nolint:errorlint // nobody wraps it
		s.fail(e)
	}
}

// resetNow is reset, whose error ends the session.
func (st *Stream) resetNow(code wire.Code, reason string) error {
	if st.gone {
		return nil
	}
	known := st.opened
	st.over(&ResetError{Code: code, Reason: reason})
	if !known {
		return nil
	}
	err := st.l.reset(st.id, code, reason)
	st.l.kick(false)
	return err
}

// dropIn throws away what nobody will read: the session gets its credit, the stream does not.
func (st *Stream) dropIn() {
	n := int64(st.in.drop())
	st.inBytes -= n
	if n > 0 {
		st.s.hold(-n)
		st.s.returned(n)
		st.l.kickWaiting()
	}
}

// over ends a stream on the wire: nil is both ends' EOF. The lock is held.
func (st *Stream) over(err error) {
	if st.gone {
		return
	}
	s := st.s
	st.gone = true
	if st.err == nil {
		st.err = err
	}
	delete(s.streams, st.id)
	st.l.streams--
	st.l.ready.remove(st)
	st.l.windows.remove(st)
	s.starved.remove(st)
	s.holding.remove(st)
	if n := st.out.drop(); n > 0 {
		st.dequeued(n)
	}
	st.control = nil
	if !st.recvEOF {
		st.dropIn()
	}
	if st.linger != nil {
		st.linger.Stop()
	}
	st.rc.Broadcast()
	st.wc.Broadcast()
	st.hurry()
	if st.done != nil {
		close(st.done)
	}
	st.leave()
	if len(s.streams) == 0 {
		s.drained.Broadcast()
	}
}

// Done is closed when the stream is over: reset, lost, or ended by both sides.
func (st *Stream) Done() <-chan struct{} {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.done == nil {
		st.done = make(chan struct{})
		if st.gone {
			close(st.done)
		}
	}
	return st.done
}

// Err is why the stream is over: nil while it is not, and when both sides ended it with EOF.
func (st *Stream) Err() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return st.err
}

// frame handles a frame of the stream. The lock is held.
func (st *Stream) frame(f wire.Frame) error {
	switch f.Type {
	case wire.EOF:
		if st.recvEOF {
			return st.resetNow(wire.CodeStreamClosed, "EOF after EOF")
		}
		st.recvEOF = true
		st.rc.Broadcast()
		st.s.settle(st)
	case wire.Reset:
		code, reason := wire.ParseReset(f.Payload)
		st.over(&ResetError{Code: code, Reason: reason, Remote: true})
	case wire.ResponseHead:
		var head wire.ResponseHeadBody
		switch {
		case st.s.cfg.Client || st.final || st.inBytes > 0 || st.recvEOF || len(st.heads) >= maxHeads:
			return st.resetNow(wire.CodeProtocol, "a STREAM_RESPONSE_HEAD that is not expected")
		case wire.Decode(f.Payload, &head) != nil:
			return st.resetNow(wire.CodeProtocol, "a STREAM_RESPONSE_HEAD that cannot be read")
		}
		st.final = head.Final
		st.heads = append(st.heads, head)
		st.rc.Broadcast()
	case wire.StreamAccept:
		var body wire.StreamAcceptBody
		if wire.Decode(f.Payload, &body) != nil {
			return st.resetNow(wire.CodeProtocol, "a STREAM_ACCEPT that cannot be read")
		}
		st.accepted, st.peerAddr = true, body.PeerAddr
		st.rc.Broadcast()
	case wire.StreamControl:
		if len(st.controls) >= maxControls {
			return st.resetNow(wire.CodeCalm, "too many control messages that nobody reads")
		}
		st.controls = append(st.controls, append([]byte(nil), f.Payload...))
		st.rc.Broadcast()
	}
	return nil
}

// send queues a frame of the stream that needs no credit.
func (st *Stream) send(t wire.Type, payload []byte) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if err := st.failed(); err != nil {
		return err
	}
	if st.gone || st.sendClosed {
		return net.ErrClosed
	}
	if len(payload) > wire.MaxPayload {
		return wire.ErrSize
	}
	if len(st.control) > maxControls*(wire.HeaderSize+wire.MaxControl) {
		return st.full()
	}
	st.control = wire.Append(st.control, t, st.id, payload)
	st.l.ready.push(st)
	st.l.kick(false)
	return nil
}

func (st *Stream) full() error {
	st.reset(wire.CodeCalm, "control messages are not taken")
	return st.err
}

// SendHead sends STREAM_RESPONSE_HEAD, before any DATA. An informational one has Final false. wire.ErrSize.
func (st *Stream) SendHead(h wire.ResponseHeadBody) error {
	return st.send(wire.ResponseHead, h.AppendJSON(nil))
}

// wait waits until ready answers true. The lock is held.
func (st *Stream) waitFor(ctx context.Context, ready func() bool) error {
	if ready() {
		return nil
	}
	defer context.AfterFunc(ctx, func() {
		st.s.mu.Lock()
		st.rc.Broadcast()
		st.s.mu.Unlock()
	})()
	for !ready() {
		if err := st.failed(); err != nil {
			return err
		}
		if st.recvEOF || st.gone {
			return io.ErrUnexpectedEOF
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		st.rc.Wait()
	}
	return nil
}

// Head waits for the next STREAM_RESPONSE_HEAD: informational ones first, the final one last. io.ErrUnexpectedEOF
// when the other end said EOF without one.
func (st *Stream) Head(ctx context.Context) (wire.ResponseHeadBody, error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if err := st.waitFor(ctx, func() bool { return len(st.heads) > 0 }); err != nil {
		return wire.ResponseHeadBody{}, err
	}
	head := st.heads[0]
	st.heads = st.heads[1:]
	if len(st.heads) == 0 {
		st.heads = nil
	}
	return head, nil
}

// Accept sends STREAM_ACCEPT with the address that was reached, or "".
func (st *Stream) Accept(peerAddr string) error {
	return st.send(wire.StreamAccept, wire.Encode(wire.StreamAcceptBody{PeerAddr: peerAddr}))
}

// Accepted waits for STREAM_ACCEPT and returns its address; *ResetError when the other end refused.
func (st *Stream) Accepted(ctx context.Context) (peerAddr string, err error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if err := st.waitFor(ctx, func() bool { return st.accepted }); err != nil {
		return "", err
	}
	return st.peerAddr, nil
}

// SendControl sends STREAM_CONTROL with a JSON payload of wire.MaxControl bytes at most, ahead of DATA that waits.
func (st *Stream) SendControl(payload []byte) error {
	if len(payload) > wire.MaxControl {
		return wire.ErrSize
	}
	return st.send(wire.StreamControl, payload)
}

// Control waits for the next STREAM_CONTROL. 64 may wait to be read; more reset the stream with code 8.
func (st *Stream) Control(ctx context.Context) ([]byte, error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if err := st.waitFor(ctx, func() bool { return len(st.controls) > 0 }); err != nil {
		return nil, err
	}
	b := st.controls[0]
	st.controls = st.controls[1:]
	if len(st.controls) == 0 {
		st.controls = nil
	}
	return b, nil
}

// addr is the address of an end of a stream.
type addr string

func (addr) Network() string  { return "tunnel" }
func (a addr) String() string { return string(a) }

// LocalAddr names the stream.
func (st *Stream) LocalAddr() net.Addr { return addr("tunnel") }

// RemoteAddr is the visitor's address where STREAM_OPEN had one, else the carrier's.
func (st *Stream) RemoteAddr() net.Addr {
	if st.remote != "" {
		return addr(st.remote)
	}
	return addr(st.l.c.RemoteAddr())
}

// deadline is a time after which something fails.
type deadline struct {
	timer  *time.Timer
	turn   uint32
	passed bool
}

func (st *Stream) set(d *deadline, wake *sync.Cond, t time.Time) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.turn++
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		wake.Broadcast()
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(wait, func() {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		if d.turn == turn {
			d.passed = true
			wake.Broadcast()
		}
	})
}

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	st.set(&st.readBy, &st.rc, t)
	st.set(&st.writeBy, &st.wc, t)
	return nil
}

// SetReadDeadline is of Read and WriteTo.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.set(&st.readBy, &st.rc, t)
	return nil
}

// SetWriteDeadline is of Write and ReadFrom.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.set(&st.writeBy, &st.wc, t)
	return nil
}
