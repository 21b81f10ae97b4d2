package mux

import (
	"io"
	"net"
	"reflect"
	"syscall"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// source reads into buffers with room for a header.
type source struct {
	r io.Reader
	// raw reads a socket that has something, nil for what is no socket or cannot be read so.
	raw syscall.RawConn
	// idle is called before the socket is waited for.
	idle func()
	// size is how much memory a read of others gets: little until it was full once.
	size int
}

const firstRead = 4<<10 - wire.HeaderSize

func newSource(r io.Reader) *source {
	in := &source{r: r, size: firstRead}
	if canRead && socket(r) {
		if c, ok := r.(syscall.Conn); ok {
			in.raw, _ = c.SyscallConn()
		}
	}
	return in
}

// socket tells whether r is a socket of package net itself: what wraps one may do something else when it is read.
func socket(r io.Reader) bool {
	switch r.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	// io.Copy hands on a *net.TCPConn in a wrapper of package net.
	t := reflect.TypeOf(r)
	return t != nil && t.PkgPath() == "net" && t.Name() == "tcpConnWithoutWriteTo"
}

// read returns a buffer, also with an error, and how many bytes are in it behind the room for a header: limit at
// most.
func (in *source) read(limit int) (*buffer, int, error) {
	if in.raw != nil {
		return readRaw(in.raw, limit, in.idle)
	}
	limit = min(limit, in.size)
	buf := newBuffer(wire.HeaderSize + limit)
	n, err := in.r.Read(buf.b[wire.HeaderSize : wire.HeaderSize+limit])
	switch {
	case n == in.size && in.size < wire.MaxPayload:
		in.size = min(16*in.size, wire.MaxPayload)
	case n < firstRead:
		in.size = firstRead
	}
	return buf, n, err
}
