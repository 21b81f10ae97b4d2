//go:build unix

package compat

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// writesRaw says that sockets can be written to without waiting.
const writesRaw = true

// errWouldBlock says that the kernel takes no more at the moment.
var errWouldBlock = errors.New("the socket is full")

// turn is how many chunks are written for one client by somebody who has others to write to, or to
// read from.
const turn = 16

// writeRaw writes until nothing is left or, when it is not to wait, the kernel takes no more or others
// have their turn. A buffer is held only while something is written.
func (c *conn) writeRaw(wait bool) (err error) {
	bp := chunks.Get().(*[]byte)
	left := turn
	waitErr := c.raw.Write(func(fd uintptr) bool {
		if bp == nil {
			bp = chunks.Get().(*[]byte)
		}
		for ; ; left-- {
			if left == 0 && !wait {
				err = errWouldBlock
				return true
			}
			buf, control := c.fill((*bp)[:0])
			if buf == nil {
				return true
			}
			var n int
			n, err = unix.Write(int(fd), buf)
			switch {
			case err == nil:
				c.wrote(n, control)
			case errors.Is(err, syscall.EINTR):
				err = nil
			case errors.Is(err, syscall.EAGAIN):
				if err = errWouldBlock; !wait {
					return true
				}
				err = nil
				chunks.Put(bp)
				bp = nil
				return false
			default:
				return true
			}
		}
	})
	if bp != nil {
		chunks.Put(bp)
	}
	if err == nil {
		err = waitErr
	}
	return err
}
