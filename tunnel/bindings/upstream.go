package bindings

import (
	"context"
	"net"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The kinds of streams that visitors get (tunnel.md §4.5).
const (
	// KindHTTP is a request and its response with heads as frames, KindTCP is bytes.
	KindHTTP = "http"
	KindTCP  = "tcp"
)

// The errors of Upstream.Open. A *mux.ResetError in what a stream answers is the other end's refusal as well.
var (
	// ErrParked says that the tunnel has lost its carrier and may come back (tunnel.md §4.8).
	ErrParked = errs.Define(errs.Unavailable, "bindings.parked", "the tunnel has lost its carrier; come again")
	// ErrNoCarrier says that the node has no carrier yet (tunnel.md §1.12).
	ErrNoCarrier = errs.Define(errs.Unavailable, "bindings.no_carrier", "the node that exposes this has no carrier yet; come again")
	// ErrStreams says that the tunnel has as many streams as it may (tunnel.md §4.10).
	ErrStreams = errs.Define(errs.Exhausted, "bindings.max_streams", "max streams exceeded")
	// ErrRefused says that the other end did not take the stream.
	ErrRefused = errs.Define(errs.Unavailable, "bindings.refused", "what is exposed cannot be reached")
)

// OpenIn is the stream that a visitor needs.
type OpenIn struct {
	// Kind is KindHTTP with Method, Target, Headers and IsUpgrade, or KindTCP.
	Kind      string
	Method    string
	Target    string // path and query, as the visitor sent them
	Headers   [][2]string
	IsUpgrade bool
	// BindID is the number of the binding at its tunnel, RemoteAddr the visitor's address and port.
	BindID     int
	RemoteAddr string
	// Host and Port are what the binding exposes, where the binding and not the other end knows it.
	Host string
	Port int
	// Name is that of the binding.
	Name string
}

// Upstream is where the streams of a binding go. Its methods are safe for concurrent use. One that has a method
// Close() error is closed when its binding has ended.
type Upstream interface {
	// Open opens a stream. It fails with ErrParked, ErrNoCarrier, ErrStreams or ErrRefused, and with the error of
	// the context.
	Open(ctx context.Context, in OpenIn) (Stream, error)
	// Raw reports whether the other end takes streams of KindTCP for http bindings too.
	Raw() bool
}

// Stream is one flow of bytes; *mux.Stream is one.
type Stream interface {
	net.Conn
	// CloseWrite says that no more bytes follow.
	CloseWrite() error
	// Reset ends both directions.
	Reset(code wire.Code, reason string) error
	// Head waits for the next head of a stream of KindHTTP.
	Head(ctx context.Context) (wire.ResponseHeadBody, error)
}
