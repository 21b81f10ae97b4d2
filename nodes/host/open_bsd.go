//go:build unix && !linux

package host

import "syscall"

// openFlags keep the opening of a pipe or a terminal from waiting for somebody.
const openFlags = syscall.O_NONBLOCK | syscall.O_NOCTTY
