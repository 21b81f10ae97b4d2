//go:build unix

package web

import "syscall"

const openNonblock = syscall.O_NONBLOCK
