package compat

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent is how much the kernel keeps for a client beyond what is on its way: what is more stays in
// the outbox, where it is counted and may be given up.
const unsent = 64 << 10

// tune prepares the socket of a client.
func tune(raw syscall.RawConn) {
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a socket that is closed already is noticed at its first use
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent) // the kernel keeps more then
	})
}

// acknowledged is how many bytes the other side has acknowledged, 0 when that is not known.
func acknowledged(raw syscall.RawConn) (n int64) {
	if raw == nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // a socket that is closed makes no progress
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int64(info.Bytes_acked)
		}
	})
	return n
}
