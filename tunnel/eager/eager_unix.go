//go:build unix && !linux

package eager

import (
	"errors"
	"syscall"
)

const able = false

// Read reads from a socket that does not block, and fails with EAGAIN when there is nothing.
func Read(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}
