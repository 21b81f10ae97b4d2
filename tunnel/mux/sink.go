package mux

import (
	"io"
	"net"
	"os"
	"syscall"
)

// direct is a socket that WriteTo serves while nothing waits for it: what comes goes into it from the goroutine that
// reads the carrier, as far as it takes it without waiting. That spares a copy and a change of goroutines.
type direct struct {
	c syscall.RawConn
	f func(fd uintptr) bool

	// p is what is written, n how much of it was.
	p   []byte
	n   int
	err error
}

// newDirect returns nil for what is no socket of package net itself.
func newDirect(w io.Writer) *direct {
	if !canRead {
		return nil
	}
	var c syscall.Conn
	switch s := w.(type) {
	case *net.TCPConn:
		c = s
	case *net.UnixConn:
		c = s
	default:
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	d := &direct{c: raw}
	d.f = d.try
	return d
}

// write writes what the socket takes at once. An error is the socket's.
func (d *direct) write(p []byte) (int, error) {
	d.p, d.n, d.err = p, 0, nil
	err := d.c.Write(d.f)
	d.p = nil
	if err == nil && d.err != nil {
		err = os.NewSyscallError("write", d.err)
	}
	return d.n, err
}
