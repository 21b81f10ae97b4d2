//go:build unix

package mux

import (
	"errors"
	"syscall"
)

// try writes what the socket takes now, and tells how much that is.
func (d *direct) try(fd uintptr) bool {
	for {
		d.n, d.err = syscall.Write(int(fd), d.p)
		if !errors.Is(d.err, syscall.EINTR) {
			break
		}
	}
	d.n = max(d.n, 0)
	if errors.Is(d.err, syscall.EAGAIN) {
		d.err = nil
	}
	return true
}
