//go:build !unix

package compat

import "syscall"

// writable is not known here: frames of others are queued.
func writable(syscall.RawConn) bool { return false }
