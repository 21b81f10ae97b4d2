//go:build !linux

package compat

import "syscall"

// tune prepares the socket of a client. There is nothing to do on this system.
func tune(syscall.RawConn) {}

// acknowledged is how many bytes the other side has acknowledged: this system does not say it in a way
// that is used here.
func acknowledged(syscall.RawConn) int64 { return 0 }
