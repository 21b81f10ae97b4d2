package socket

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"slices"
)

// Owner is what stands behind a connection that the library reads, for doors whose messages are text: they write
// whole frames themselves.
type Owner interface {
	// Hijacked is told of the connection, before anything is read.
	Hijacked(net.Conn)
	// Heard is told of every byte that arrives: who takes long to send one message is not silent.
	Heard()
	// Control writes a control frame of the library, which writes nothing else.
	Control(frame []byte) error
}

const (
	// ownerAhead is how much is read at once for an owner: most messages are smaller. The server's own buffer, which
	// a connection would keep for ever, is four times that.
	ownerAhead = 1 << 10
	// controlRoom holds the largest frame that the library writes, a control frame.
	controlRoom = 256
)

// Owned returns a writer for the handshake of the library, whose connection the owner stands behind.
func Owned(w http.ResponseWriter, o Owner) http.ResponseWriter { return &ownedWriter{w, o} }

type ownedWriter struct {
	http.ResponseWriter
	owner Owner
}

// Hijack implements http.Hijacker.
func (w *ownedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, early, err := hijack(w.ResponseWriter)
	if err != nil {
		return nil, nil, err
	}
	w.owner.Hijacked(nc)
	c := &ownedConn{nc, w.owner, early}
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, ownerAhead), bufio.NewWriterSize(c, controlRoom)), nil
}

// hijack takes the connection of a request, with what came behind that already.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, errors.Join(err, nc.Close())
	}
	return nc, slices.Clone(early), nil
}

// ownedConn is the connection as the library has it.
type ownedConn struct {
	net.Conn
	owner Owner
	early []byte // what came with the request
}

// Read implements net.Conn.
func (c *ownedConn) Read(b []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(b, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
	} else {
		n, err = c.Conn.Read(b)
	}
	if n > 0 {
		c.owner.Heard()
	}
	return n, err
}

// Write implements net.Conn.
func (c *ownedConn) Write(b []byte) (int, error) {
	if err := c.owner.Control(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// AppendHead appends the head of a whole frame of n bytes without a mask (RFC 6455 §5.2).
func AppendHead(b []byte, opcode byte, n int) []byte {
	b = append(b, 0x80|opcode)
	switch {
	case n <= maxControl:
		return append(b, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}
