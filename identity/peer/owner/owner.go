// Package owner says whose process is at the other end of a local socket.
//
// It imports the standard library and x/sys and owns no goroutine.
package owner

import "net"

// Of says who runs the process at the other end of a local socket: of the one that connected, or
// of the one that listens. The process id is for showing only and may be 0. It is an error where the
// system does not tell.
func Of(c *net.UnixConn) (uid, pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { uid, pid, failed = read(int(fd)) }); err != nil {
		return 0, 0, err
	}
	return uid, pid, failed
}
