//go:build !unix

package compat

import "errors"

// writesRaw says that sockets can be written to without waiting.
const writesRaw = false

// errWouldBlock says that the kernel takes no more at the moment.
var errWouldBlock = errors.New("the socket is full")

// writeRaw is for systems where a socket can be written to without waiting. This is none: newConn
// leaves raw nil.
func (c *conn) writeRaw(bool) error { return errors.ErrUnsupported }
