package compat

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unsent is how much the kernel keeps for a client beyond what is on its way: what is more stays in
// the outbox, where it is counted and may be given up.
const unsent = 64 << 10

// unacknowledged is how long the other side may acknowledge nothing of what it was sent before the
// kernel gives the connection up, instead of a quarter of an hour: a client whose network is gone is
// not shown as present for longer. It is more than the door itself waits for a client that reads
// nothing.
const unacknowledged = stallAlone + 30*time.Second

// tune prepares the socket of a client.
func tune(raw syscall.RawConn) {
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a socket that is closed already is noticed at its first use
		// Without these the kernel keeps more, and for longer.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
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
