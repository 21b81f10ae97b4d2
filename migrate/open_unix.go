//go:build unix

package migrate

import "syscall"

// openNow keeps an open from waiting for the other end of a pipe that took the place of a file.
const openNow = syscall.O_NONBLOCK
