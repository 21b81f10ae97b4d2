// Package eager reads from sockets whose other end is about to answer. Before it waits, it lets others run and looks
// again a few times: on one machine the answer is often there by then, and neither a thread nor a processor has to be
// woken. Where others take long to run, the processors are busy and it would lose its turn, so it waits at once for a
// while. It knows nobody, and both ends use it.
package eager

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Reader reads from a connection of the system's. Its methods may be used at the same time, and do what those of the
// connection do.
type Reader struct {
	c   net.Conn
	raw syscall.RawConn

	mu  sync.Mutex // held by who reads, as the connection would let one read at a time
	p   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

// New returns what to read c with: c itself where it is no socket of the system's, or where looking again is not
// worth it on this system.
func New(c net.Conn) io.Reader {
	if !able {
		return c
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return c // what wraps a connection may do something else when it is read
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return c
	}
	r := &Reader{c: c, raw: raw}
	r.try = func(fd uintptr) bool {
		r.n, r.err = Read(fd, r.p)
		return !errors.Is(r.err, syscall.EAGAIN)
	}
	return r
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p = p
	err := r.raw.Read(r.try)
	r.p = nil
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: r.c.LocalAddr().Network(), Source: r.c.LocalAddr(), Addr: r.c.RemoteAddr(), Err: os.NewSyscallError("read", r.err)}
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}
