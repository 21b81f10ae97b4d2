//go:build unix

package compat

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// writable says that a frame of maxOffered is written without waiting: a socket that polls as
// writable has room for at least 2,048 bytes, the usual low-water mark, and Linux for a third of
// its buffer.
func writable(raw syscall.RawConn) bool {
	room := false
	err := raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds[:], 0)
		room = err == nil && n == 1 && fds[0].Revents == unix.POLLOUT
	})
	return err == nil && room
}
