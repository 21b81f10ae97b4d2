// Package gather is what stands below TLS so that the records of a message go out together: crypto/tls writes each
// record of 16 KiB by itself, and every call of the system wakes the other end.
package gather

import (
	"io"
	"net"
	"sync"

	"github.com/hanzoai/hanzod/tunnel/eager"
)

// size is how much goes out at once.
const size = 128 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, size); return &b }}

// Buffer keeps what is written to a connection from Gather to Flush. The zero value is ready; it takes no memory
// otherwise. Its methods may be used at the same time.
type Buffer struct {
	mu  sync.Mutex
	buf *[]byte
}

// Write writes p to c, or keeps it.
func (g *Buffer) Write(c net.Conn, p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buf == nil {
		return c.Write(p)
	}
	if len(*g.buf)+len(p) > cap(*g.buf) {
		if err := g.out(c); err != nil {
			return 0, err
		}
		if len(p) > cap(*g.buf) {
			return c.Write(p)
		}
	}
	*g.buf = append(*g.buf, p...)
	return len(p), nil
}

func (g *Buffer) out(c net.Conn) error {
	if len(*g.buf) == 0 {
		return nil
	}
	_, err := c.Write(*g.buf)
	*g.buf = (*g.buf)[:0]
	return err
}

// Gather has what is written kept until Flush, as far as there is room.
func (g *Buffer) Gather() {
	b := buffers.Get().(*[]byte)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buf != nil {
		buffers.Put(b)
		return
	}
	g.buf = b
}

// Flush writes what was kept to c and ends Gather.
func (g *Buffer) Flush(c net.Conn) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buf == nil {
		return nil
	}
	err := g.out(c)
	*g.buf = (*g.buf)[:0]
	buffers.Put(g.buf)
	g.buf = nil
	return err
}

// Conn is a connection with a Buffer, for what makes TLS over a connection it is given.
type Conn struct {
	net.Conn
	r io.Reader
	b Buffer
}

// New returns c with a Buffer. It is read eagerly.
func New(c net.Conn) *Conn { return &Conn{Conn: c, r: eager.New(c)} }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) { return c.b.Write(c.Conn, p) }

// Gather has what is written kept until Flush.
func (c *Conn) Gather() { c.b.Gather() }

// Flush writes what was kept.
func (c *Conn) Flush() error { return c.b.Flush(c.Conn) }

// CloseWrite ends what is sent.
func (c *Conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
