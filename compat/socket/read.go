package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The opcodes of frames (RFC 6455 §5.2).
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

const (
	// maxHead is the largest head of a frame, maxControl the largest payload of a control frame.
	maxHead    = 14
	maxControl = 125
	// smallBuf is what a connection reads into that gets small messages, largeBuf what holds the largest with its
	// head, and middleBuf stands between: who has sent nothing takes little. readAhead is how much is read at once beyond a message that is not all there.
	smallBuf  = 4 << 10
	middleBuf = 32 << 10
	largeBuf  = wire.MaxMessage + readAhead
	readAhead = 16 << 10
	// calm is how many small messages in a row give the large buffer back.
	calm = 16
)

// large are buffers for large messages.
var large = sync.Pool{New: func() any { b := make([]byte, largeBuf); return &b }}

// Violation is what the other end did against the protocol. It was told with the code.
type Violation struct {
	Code   int
	Reason string
}

func (e *Violation) Error() string {
	return fmt.Sprintf("the other end broke the protocol of WebSockets: %s (%d)", e.Reason, e.Code)
}

// reader is what reading needs. The bytes from r to w of the buffer are not read yet.
type reader struct {
	mu     sync.Mutex // held while somebody reads
	buf    []byte
	pooled *[]byte // what buf is of, when it is a large one
	r, w   int
	few    int    // small messages in a row
	joined []byte // the parts so far of a message in parts; nil between messages
	parts  bool   // within a message in parts
}

// Read implements mux.Carrier. It may be broken off and begun again; what came is not lost.
func (c *Conn) Read(ctx context.Context) ([]byte, error) {
	if err := c.ended(); err != nil {
		return nil, err // while linger reads
	}
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	message, err := c.next()
	if err == nil {
		return message, nil
	}
	var v *Violation
	var closed *mux.CloseError
	switch {
	case errors.As(err, &closed):
		if !c.begin() {
			return nil, net.ErrClosed // it answers to ours
		}
		code := closed.Code
		if code == CodeNone {
			code = 0
		}
		c.farewell(code, "")
		c.abort()
	case errors.As(err, &v):
		if c.begin() {
			c.farewell(v.Code, v.Reason)
			go c.linger()
		}
	default:
		if ended := c.ended(); ended != nil {
			return nil, ended
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c.abort()
		return nil, lostTo(err)
	}
	return nil, err
}

// watch makes the end of ctx end a read. A context that is seen again costs nothing.
func (c *Conn) watch(ctx context.Context) error {
	done := ctx.Done()
	c.state.Lock()
	defer c.state.Unlock()
	if c.closing {
		return net.ErrClosed
	}
	if done == c.watched {
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.unwatch != nil && !c.unwatch() { // it has ended: its deadline is there, or comes and finds another watched
		_ = c.nc.SetReadDeadline(time.Time{}) // a connection that is gone fails anyway
	}
	c.watched, c.unwatch = done, nil
	if done != nil {
		c.unwatch = context.AfterFunc(ctx, func() {
			c.state.Lock()
			defer c.state.Unlock()
			if c.watched == done {
				_ = c.nc.SetReadDeadline(past) // as above
			}
		})
	}
	return nil
}

// frame is the head of one.
type frame struct {
	final  bool
	opcode byte
	size   int // of the head
	length uint64
	masked bool
	key    uint32
}

// parse reads a head. It reports how many bytes it needs when there are fewer.
func parse(b []byte) (f frame, need int) {
	need = 2
	if len(b) < need {
		return f, need
	}
	f.final, f.opcode, f.masked = b[0]&0x80 != 0, b[0]&0x7f, b[1]&0x80 != 0
	f.length = uint64(b[1] & 0x7f)
	switch f.length {
	case 126:
		need += 2
	case 127:
		need += 8
	}
	at := need
	if f.masked {
		need += 4
	}
	if len(b) < need {
		return f, need
	}
	switch f.length {
	case 126:
		f.length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		f.length = binary.BigEndian.Uint64(b[2:])
	}
	if f.masked {
		f.key = binary.LittleEndian.Uint32(b[at:])
	}
	f.size = need
	return f, 0
}

// check says what is wrong with a frame in its place, nil for nothing.
func (c *Conn) check(f frame) error {
	switch {
	case f.opcode&0x70 != 0:
		return &Violation{CodeProtocol, "a reserved bit is set"}
	case f.masked != (c.key == nil):
		return &Violation{CodeProtocol, "clients mask, and servers do not"}
	}
	switch f.opcode {
	case opClose, opPing, opPong:
		if !f.final || f.length > maxControl {
			return &Violation{CodeProtocol, "a control frame is large or in parts"}
		}
		return nil
	case opContinue:
		if !c.read.parts {
			return &Violation{CodeProtocol, "a part of no message"}
		}
	case opBinary:
		if c.read.parts {
			return &Violation{CodeProtocol, "a message within another"}
		}
	case opText:
		return &Violation{CodeUnsupported, "binary messages only"}
	default:
		return &Violation{CodeProtocol, "an unknown opcode"}
	}
	if f.length > uint64(c.limit-len(c.read.joined)) {
		return &Violation{CodeTooBig, fmt.Sprintf("a message is larger than %d bytes", c.limit)}
	}
	return nil
}

// next returns the next message.
func (c *Conn) next() ([]byte, error) {
	r := &c.read
	r.settle()
	for {
		f, need := parse(r.buf[r.r:r.w])
		if need > 0 {
			if err := c.fill(need); err != nil {
				return nil, err
			}
			continue
		}
		if err := c.check(f); err != nil {
			return nil, err
		}
		all := f.size + int(f.length)
		if err := c.fill(all); err != nil {
			return nil, err
		}
		payload := r.buf[r.r+f.size : r.r+all : r.r+all]
		r.r += all
		if f.masked {
			mask(payload, payload, f.key)
		}
		switch {
		case f.opcode >= opClose:
			if err := c.control(f.opcode, payload); err != nil {
				return nil, err
			}
		case f.final && !r.parts:
			r.count(len(payload))
			return payload, nil
		default:
			r.parts = !f.final
			r.joined = append(r.joined, payload...)
			if f.final {
				message := r.joined
				r.joined = nil
				return message, nil
			}
		}
	}
}

// control takes a control frame. A *mux.CloseError is a close.
func (c *Conn) control(opcode byte, payload []byte) error {
	switch opcode {
	case opPing:
		c.answer(payload)
	case opClose:
		if len(payload) == 0 {
			return &mux.CloseError{Code: CodeNone}
		}
		if len(payload) == 1 {
			return &Violation{CodeProtocol, "half a close code"}
		}
		code, reason := int(binary.BigEndian.Uint16(payload)), payload[2:]
		if !sendable(code) {
			return &Violation{CodeProtocol, "a close code that nobody sends"}
		}
		if !utf8.Valid(reason) {
			return &Violation{CodeNotUTF8, "the reason of a close is no text"}
		}
		return &mux.CloseError{Code: code, Reason: string(reason)}
	}
	return nil
}

// sendable reports whether a code may stand in a close (RFC 6455 §7.4).
func sendable(code int) bool {
	switch {
	case code < 1000, code == 1004, code == 1005, code == 1006, code > 1014 && code < 3000, code > 4999:
		return false
	}
	return true
}

// settle gives the large buffer back when there is no use for it.
func (r *reader) settle() {
	if r.r < r.w {
		return
	}
	r.r, r.w = 0, 0
	if r.pooled != nil && r.few >= calm {
		large.Put(r.pooled)
		r.pooled, r.buf = nil, nil
	}
}

// count notes the size of a message.
func (r *reader) count(n int) {
	if n > smallBuf-maxHead {
		r.few = 0
	} else {
		r.few++
	}
}

// fill reads until n bytes are there, which the largest frame is. The buffer grows with what came, not with what
// was announced.
func (c *Conn) fill(n int) error {
	r := &c.read
	for r.w-r.r < n {
		if r.r == r.w {
			r.r, r.w = 0, 0
		}
		if r.w == len(r.buf) || r.r+n > len(r.buf) && r.r > 0 {
			r.room(n)
		}
		end := len(r.buf)
		if r.pooled != nil {
			end = min(end, r.r+n+readAhead) // what is read too early is moved
		}
		m, err := c.rd.Read(r.buf[r.w:end])
		r.w += m
		if err != nil && r.w-r.r < n {
			return err
		}
	}
	return nil
}

// room makes some for a frame of n bytes: it moves what is there to the front, and takes a larger buffer when the
// one that is there is full.
func (r *reader) room(n int) {
	there := r.buf[r.r:r.w]
	switch {
	case len(r.buf) == 0:
		r.buf = make([]byte, smallBuf)
	case len(there) < len(r.buf):
	case len(r.buf) < middleBuf:
		r.buf = make([]byte, middleBuf)
	case r.pooled == nil && n <= largeBuf:
		r.pooled = large.Get().(*[]byte)
		r.buf = *r.pooled
	default: // a limit above that of carriers
		r.pooled = nil // what was read stands in it: it is not used again
		r.buf = make([]byte, 2*len(there))
	}
	r.w = copy(r.buf, there)
	r.r = 0
}
