package mux

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// ResetError is a stream that ended with RESET. Remote says that the other end sent it.
type ResetError struct {
	Code   wire.Code
	Reason string
	Remote bool
}

func (e *ResetError) Error() string {
	if e.Reason == "" {
		return "stream reset: " + e.Code.String()
	}
	return "stream reset: " + e.Code.String() + ": " + e.Reason
}

// Stream is one byte flow in both directions. It is a net.Conn; one goroutine may read while another writes, and
// everything else may be called at any time. Everybody who has one closes or resets it.
type Stream struct{ s *Session }

var (
	_ net.Conn      = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

// ID is the stream's id, Index the carrier that it is on.
func (st *Stream) ID() uint32 { return 0 }

// Index is the carrier that the stream is on.
func (st *Stream) Index() int { return 0 }

// Read reads bytes that the other end sent: io.EOF after its EOF, *ResetError after a reset, ErrClosed after the
// session, os.ErrDeadlineExceeded, net.ErrClosed after Close.
func (st *Stream) Read(p []byte) (int, error) { return 0, ErrClosed }

// Write queues bytes and waits for credit and room; the errors are those of Read.
func (st *Stream) Write(p []byte) (int, error) { return 0, ErrClosed }

// ReadFrom sends what r has until its end, without a copy and, for sockets, without a buffer while r has nothing.
// It does not close.
func (st *Stream) ReadFrom(r io.Reader) (int64, error) { return 0, ErrClosed }

// WriteTo gives w what the other end sends until its EOF, without a copy.
func (st *Stream) WriteTo(w io.Writer) (int64, error) { return 0, ErrClosed }

// CloseWrite sends EOF behind what is queued.
func (st *Stream) CloseWrite() error { return nil }

// Close sends what is queued and EOF. Bytes that the other end sends from now on are answered with RESET 7, and
// the stream is given up when the other end does not send EOF within ten seconds.
func (st *Stream) Close() error { return nil }

// Reset ends the stream in both directions at once; what is queued is dropped.
func (st *Stream) Reset(code wire.Code, reason string) error { return nil }

// Done is closed when the stream is over: reset, lost, or ended by both sides.
func (st *Stream) Done() <-chan struct{} { return nil }

// Err is why the stream is over: nil while it is not, and when both sides ended it with EOF.
func (st *Stream) Err() error { return ErrClosed }

// SendHead sends STREAM_RESPONSE_HEAD, before any DATA. An informational one has Final false.
func (st *Stream) SendHead(h wire.ResponseHeadBody) error { return ErrClosed }

// Head waits for the next STREAM_RESPONSE_HEAD: informational ones first, the final one last.
func (st *Stream) Head(ctx context.Context) (wire.ResponseHeadBody, error) {
	return wire.ResponseHeadBody{}, ErrClosed
}

// Accept sends STREAM_ACCEPT with the address that was reached, or "".
func (st *Stream) Accept(peerAddr string) error { return ErrClosed }

// Accepted waits for STREAM_ACCEPT and returns its address; *ResetError when the other end refused.
func (st *Stream) Accepted(ctx context.Context) (peerAddr string, err error) { return "", ErrClosed }

// SendControl sends STREAM_CONTROL with a JSON payload of wire.MaxControl bytes at most.
func (st *Stream) SendControl(payload []byte) error { return ErrClosed }

// Control waits for the next STREAM_CONTROL. 64 may wait to be read; more reset the stream with code 8.
func (st *Stream) Control(ctx context.Context) ([]byte, error) { return nil, ErrClosed }

// LocalAddr and RemoteAddr name the stream; the remote one has the visitor's address where STREAM_OPEN had one.
func (st *Stream) LocalAddr() net.Addr { return nil }

// RemoteAddr is the visitor's address where STREAM_OPEN had one, else the carrier's.
func (st *Stream) RemoteAddr() net.Addr { return nil }

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error { return nil }

// SetReadDeadline is of Read and WriteTo.
func (st *Stream) SetReadDeadline(t time.Time) error { return nil }

// SetWriteDeadline is of Write and ReadFrom.
func (st *Stream) SetWriteDeadline(t time.Time) error { return nil }
