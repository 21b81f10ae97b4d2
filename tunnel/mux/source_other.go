//go:build !unix

package mux

import (
	"io"
	"syscall"
)

const canRead = false

func readRaw(syscall.RawConn, int, func()) (*buffer, int, error) { return nil, 0, io.ErrNoProgress }
