// Package mux puts many streams on few carriers: frames of package wire with credit windows for each stream and
// for all of them together, and turns for streams that want to send (tunnel.md §4.7, §4.9).
//
// It imports tunnel/wire and the standard library only, and is the same for both ends.
package mux

import (
	"context"
	"fmt"
	"net"
)

// Carrier takes binary messages from one end to the other, in order: a WebSocket, a gRPC stream, or a pipe in
// memory. One goroutine may read while another writes.
type Carrier interface {
	// Read returns the next message, which is valid until the next call. A *CloseError says how the other end
	// closed; any other error is a carrier that was lost.
	Read(ctx context.Context) ([]byte, error)
	// Write sends the parts as one message of wire.MaxMessage bytes at most. It may wait for a slow reader, keeps
	// nothing of the parts and may overwrite them.
	Write(parts net.Buffers) error
	// Close ends the carrier with a WebSocket close code and a reason, or with 0 at once. It may be called more
	// than once and while others read and write, which then fail.
	Close(code int, reason string) error
	// RemoteAddr is the address of the other end for people, "" when there is none.
	RemoteAddr() string
}

// BufferReader is of carriers that can read a message into memory of the caller, which saves a copy of each.
type BufferReader interface {
	// ReadBuffer is Read, except that the message is in the memory that alloc returned for its size in bytes, or
	// for a larger one, and belongs to the caller. alloc is called once for each message with wire.MaxMessage at most,
	// and its memory is given back by the caller also when ReadBuffer fails.
	ReadBuffer(ctx context.Context, alloc func(n int) []byte) ([]byte, error)
}

// CloseError is how the other end closed a carrier: with the code of a WebSocket, 1005 when it gave none.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("closed with %d", e.Code)
	}
	return fmt.Sprintf("closed with %d: %s", e.Code, e.Reason)
}
