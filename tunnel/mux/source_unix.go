//go:build unix

package mux

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/hanzoai/hanzod/tunnel/eager"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const canRead = true

// readRaw waits until the socket has something, and takes memory only then: streams that do nothing have none.
// idle is called before it waits.
func readRaw(c syscall.RawConn, limit int, idle func()) (buf *buffer, n int, err error) {
	waited := c.Read(func(fd uintptr) bool {
		buf = newBuffer(wire.HeaderSize + limit)
		n, err = eager.Read(fd, buf.b[wire.HeaderSize:wire.HeaderSize+limit])
		if errors.Is(err, syscall.EAGAIN) {
			buf.release()
			buf, n = nil, 0
			idle()
			return false
		}
		return true
	})
	switch {
	case waited != nil:
		// A deadline, or the socket was closed.
		return buf, 0, waited
	case err != nil:
		return buf, 0, os.NewSyscallError("read", err)
	case n == 0:
		return buf, 0, io.EOF
	}
	return buf, n, nil
}
