package socket

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// whole are buffers for messages with their heads.
var whole = sync.Pool{New: func() any { b := make([]byte, wire.MaxMessage+maxHead); return &b }}

// recordSize is the largest record of TLS, record buffers for one.
const recordSize = 16 << 10

var record = sync.Pool{New: func() any { b := make([]byte, recordSize); return &b }}

var errLarge = errors.New("a message is larger than the other end takes")

// lazy is how old the deadline of a write may be before it is set anew.
const lazy = time.Second

// masked appends the head of a frame with a mask, and the mask.
func (c *Conn) masked(b []byte, opcode byte, n int) ([]byte, uint32) {
	at := len(b) + 1
	b = AppendHead(b, opcode, n)
	b[at] |= 0x80
	key := uint32(c.key.Uint64())
	return binary.LittleEndian.AppendUint32(b, key), key
}

// mask puts src with the mask into dst, which may be src. It returns the mask for what follows.
func mask(dst, src []byte, key uint32) uint32 {
	k := uint64(key)<<32 | uint64(key)
	n := len(src)
	dst = dst[:n]
	for len(src) >= 64 && len(dst) >= 64 {
		s, d := (*[64]byte)(src), (*[64]byte)(dst)
		binary.LittleEndian.PutUint64(d[0:8], binary.LittleEndian.Uint64(s[0:8])^k)
		binary.LittleEndian.PutUint64(d[8:16], binary.LittleEndian.Uint64(s[8:16])^k)
		binary.LittleEndian.PutUint64(d[16:24], binary.LittleEndian.Uint64(s[16:24])^k)
		binary.LittleEndian.PutUint64(d[24:32], binary.LittleEndian.Uint64(s[24:32])^k)
		binary.LittleEndian.PutUint64(d[32:40], binary.LittleEndian.Uint64(s[32:40])^k)
		binary.LittleEndian.PutUint64(d[40:48], binary.LittleEndian.Uint64(s[40:48])^k)
		binary.LittleEndian.PutUint64(d[48:56], binary.LittleEndian.Uint64(s[48:56])^k)
		binary.LittleEndian.PutUint64(d[56:64], binary.LittleEndian.Uint64(s[56:64])^k)
		src, dst = src[64:], dst[64:]
	}
	for len(src) >= 8 && len(dst) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^k)
		src, dst = src[8:], dst[8:]
	}
	for i := range src {
		dst[i] = src[i] ^ byte(k>>(8*(i&7)))
	}
	return bits.RotateLeft32(key, -8*(n&3))
}

// Write implements mux.Carrier. It leaves the parts as they are.
func (c *Conn) Write(parts net.Buffers) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > c.limit {
		return errLarge
	}
	c.write.Lock()
	defer c.write.Unlock()
	return c.message(parts, n)
}

// message writes a message. The caller holds write.
func (c *Conn) message(parts net.Buffers, n int) error {
	if c.shut || c.gone.Load() {
		return net.ErrClosed
	}
	c.hurry()
	if c.vec != nil {
		c.parts = append(append(c.parts[:0], AppendHead(c.head[:0], opBinary, n)), parts...)
		c.left = c.parts
		_, err := c.vec.WriteBuffers(&c.left)
		clear(c.parts)
		return c.lost(err)
	}
	if c.below != nil {
		return c.lost(c.records(parts, n))
	}
	bp := whole.Get().(*[]byte)
	defer whole.Put(bp)
	buf := *bp
	if n+maxHead > len(buf) {
		buf = make([]byte, n+maxHead)
	}
	if c.key == nil {
		b := AppendHead(buf[:0], opBinary, n)
		for _, p := range parts {
			b = append(b, p...)
		}
		return c.put(b)
	}
	b, key := c.masked(buf[:0], opBinary, n)
	for _, p := range parts {
		at := len(b)
		b = b[:at+len(p)]
		key = mask(b[at:], p, key)
	}
	return c.put(b)
}

// records writes a message through TLS, a record after the other, which then go out together.
func (c *Conn) records(parts net.Buffers, n int) error {
	if n+maxHead > recordSize {
		c.below.Gather()
	}
	bp := record.Get().(*[]byte)
	defer record.Put(bp)
	var b []byte
	var key uint32
	if c.key == nil {
		b = AppendHead((*bp)[:0], opBinary, n)
	} else {
		b, key = c.masked((*bp)[:0], opBinary, n)
	}
	var err error
	for _, p := range parts {
		for len(p) > 0 && err == nil {
			if c.key == nil && len(b) == 0 && len(p) >= recordSize {
				n := len(p) / recordSize * recordSize
				_, err = c.nc.Write(p[:n])
				p = p[n:]
				continue
			}
			at := len(b)
			b = b[:min(at+len(p), recordSize)]
			if c.key == nil {
				copy(b[at:], p)
			} else {
				key = mask(b[at:], p[:len(b)-at], key)
			}
			if p = p[len(b)-at:]; len(b) == recordSize {
				_, err = c.nc.Write(b)
				b = b[:0]
			}
		}
	}
	if len(b) > 0 && err == nil {
		_, err = c.nc.Write(b)
	}
	if n+maxHead > recordSize {
		err = errors.Join(err, c.below.Flush())
	}
	return err
}

// put writes bytes. The caller holds write.
func (c *Conn) put(b []byte) error {
	_, err := c.nc.Write(b)
	return c.lost(err)
}

// lost cuts a connection that could not be written to: half of a frame may be on its way.
func (c *Conn) lost(err error) error {
	if err != nil {
		c.shut = true
		c.state.Lock()
		if !c.closing {
			c.cause = err
		}
		c.state.Unlock()
		c.abort()
	}
	return err
}

// hurry sets the time that a write has, unless it was set a moment ago. The caller holds write.
func (c *Conn) hurry() {
	now := time.Now()
	end := now.Add(c.stall)
	if end.Sub(c.deadline) < lazy {
		return
	}
	c.deadline = end
	_ = c.nc.SetWriteDeadline(end) // a connection that is gone fails at the write
	if c.leaving.Load() {
		_ = c.nc.SetWriteDeadline(now.Add(CloseWait)) // as above
	}
}

// sendControl writes a control frame. The caller holds write.
func (c *Conn) sendControl(opcode byte, payload []byte) error {
	buf := make([]byte, 0, maxHead+maxControl)
	if c.key == nil {
		return c.put(append(AppendHead(buf, opcode, len(payload)), payload...))
	}
	b, key := c.masked(buf, opcode, len(payload))
	at := len(b)
	b = append(b, payload...)
	mask(b[at:], b[at:], key)
	return c.put(b)
}

// answer has a pong written: the last, when one waits already, which is what RFC 6455 §5.5.3 allows. The reader
// does not wait for it, and so two ends that do not read cannot wait for each other.
func (c *Conn) answer(payload []byte) {
	c.pongs.Lock()
	defer c.pongs.Unlock()
	c.pong = append(c.pong[:0], payload...)
	if c.pong == nil {
		c.pong = []byte{}
	}
	if c.ponging {
		return
	}
	c.ponging = true
	go func() { // ends when none waits; a write has its time
		for {
			c.write.Lock()
			more := c.ponged()
			c.write.Unlock()
			if !more {
				return
			}
		}
	}()
}

// ponged writes the pong that waits, and reports whether to look again. The caller holds write.
func (c *Conn) ponged() bool {
	c.pongs.Lock()
	payload := c.pong
	if c.pong = nil; payload == nil || c.shut {
		c.ponging = false
		c.pongs.Unlock()
		return false
	}
	c.pongs.Unlock()
	c.hurry()
	return c.sendControl(opPong, payload) == nil || c.shut // then the next look ends it
}

// farewell writes a close, with a code unless that is 0, and nothing after it. Whoever is writing has CloseWait to
// come to its end.
func (c *Conn) farewell(code int, reason string) {
	c.leaving.Store(true)
	_ = c.nc.SetWriteDeadline(time.Now().Add(CloseWait)) // a connection that is gone fails anyway
	c.write.Lock()
	defer c.write.Unlock()
	if c.shut {
		return
	}
	var payload []byte
	if code != 0 {
		payload = append(binary.BigEndian.AppendUint16(make([]byte, 0, maxControl), uint16(code)), cut(reason, maxControl-2)...)
	}
	_ = c.sendControl(opClose, payload) // the connection ends either way
	c.shut = true
}

// cut is the beginning of a text, of n bytes at most, that ends with a whole character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
