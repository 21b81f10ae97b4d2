// Package driver is the client's role on carriers: HELLO, bindings and their local ends, resuming after a lost
// carrier, further carriers with tickets (tunnel.md §4.5 to §4.10). It is what hanzoctl and nodes use, and speaks
// to servers of the published protocol as to hanzod's own.
//
// It imports tunnel/wire, tunnel/mux and the standard library. A Session owns its goroutines; Close and Wait wait
// for them.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Limits (tunnel.md §4.8, §4.10).
const (
	// MaxLocal is how many local sockets a session has at once, MaxTarget how many of them to one target. What arrives
	// for a socket that is not there yet waits within the window of its stream, 1 MiB unless the server says otherwise.
	MaxLocal  = 256
	MaxTarget = 64
	// DefaultGrace is how long after a drop a session tries to come back.
	DefaultGrace = 60 * time.Second
	// firstRetry is the pause before the first attempt to come back; it doubles up to lastRetry.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 5 * time.Second
	// helloWait bounds the answer to HELLO and to JOIN, bindWait that to BIND, unbindWait that to UNBIND at the end.
	helloWait  = 10 * time.Second
	bindWait   = 20 * time.Second
	unbindWait = 2 * time.Second
	// acceptWait is how long a stream of kind dial waits for STREAM_ACCEPT or RESET (tunnel.md §4.13).
	acceptWait = 10 * time.Second
	// localWait bounds a connection attempt to a local target.
	localWait = 10 * time.Second
	// maxBindings bounds the bindings of a session, and with them the waiting answers.
	maxBindings = 256
)

// Options of Connect. Dial is required.
type Options struct {
	// Dial makes a carrier: index 0 is the primary. It is called again after a drop, one call at a time for each
	// index.
	Dial func(ctx context.Context, index int) (mux.Carrier, error)
	// Version is wire.V1, which is the default, or wire.V2.
	Version string
	// MaxConnections is how many carriers to ask for with wire.V2, 1 to 16; 0 asks for none.
	MaxConnections int
	// Token goes into HELLO when it is not empty; otherwise what carries the carrier has proved the caller. It is a
	// secret. TokenKind is bearer when empty; nodes of ours show what their gateway gave them with tunnel.open, of the
	// kind node.
	Token, TokenKind string
	// Resume is the session to go on with, "" for a new one.
	Resume string
	// Plain does not name the capability hanzod.1, as published drivers do not: bindings are then served by the
	// published frames only.
	Plain bool
	// Grace is how long after a drop the session tries to come back; 0 is DefaultGrace, a negative one never tries.
	Grace time.Duration
	// MaxLocal and MaxTarget replace the constants of the same names when they are positive; MaxTarget is a quarter of
	// MaxLocal when only that is. What finds no place waits for one, for ten seconds.
	MaxLocal, MaxTarget int
	// Local connects to local targets; a net.Dialer by default.
	Local func(ctx context.Context, network, address string) (net.Conn, error)
	// Serve admits the streams of kind dial that the server opens: what they name is connected to when it returns
	// nil. Without it they are refused. It must not block.
	Serve func(bindID int, host string, port int) error
	// OnEvent is told what happens, one call at a time. It must not block.
	OnEvent func(Event)
	Log     *slog.Logger
}

// Event is something that happened to a session.
type Event struct {
	Kind EventKind
	// Binding is set for Revoked.
	Binding *Binding
	// Err is why, for Reconnecting and Lost; Text what the server said, for Revoked and GoAway.
	Err  error
	Text string
	// In is the pause before the next attempt, for Reconnecting.
	In time.Duration
}

// EventKind names events.
type EventKind string

// The events.
const (
	// Reconnecting: the primary carrier is gone, the next attempt is in In.
	Reconnecting EventKind = "reconnecting"
	// Resumed: the session goes on with its bindings; Replaced: it is another session with the same bindings.
	Resumed  EventKind = "resumed"
	Replaced EventKind = "replaced"
	// Revoked: a binding went to somebody else, or could not be had again.
	Revoked EventKind = "revoked"
	// GoAway: the server ends the session.
	GoAway EventKind = "goaway"
	// CarrierLost: one of several carriers is gone, with its streams.
	CarrierLost EventKind = "carrier-lost"
)

// The ways in which a server refuses a session, which errors.Is tells apart (tunnel.md §4.8).
var (
	ErrSessionLimit = errors.New("the server takes no further session (SESSION_LIMIT)")
	ErrExpired      = errors.New("the session to resume is gone (RESUME_EXPIRED)")
	ErrRefused      = errors.New("the server refused the session (REFUSED)")
	ErrBeforeHello  = errors.New("the carrier was closed before HELLO was answered (CLOSED_BEFORE_HELLO)")
	// ErrProtocol is a server that breaks the protocol.
	ErrProtocol = errors.New("the server broke the tunnel protocol")
	// ErrClosed is of a session that has ended, ErrAway of one without a carrier at the moment.
	ErrClosed = errors.New("the tunnel session has ended")
	ErrAway   = errors.New("the tunnel has no carrier at the moment; it is trying to come back")
	// ErrLimit is of the limits of this package.
	ErrLimit = errors.New("a limit of the tunnel client is reached")
)

// BindError is a refused binding with a code of tunnel.md §4.5, or wire.ApprovalRequired.
type BindError struct{ Code, Message string }

func (e *BindError) Error() string {
	return fmt.Sprintf("the binding was refused: %s (%s)", e.Message, e.Code)
}

// GoAwayError is how a server ended a session.
type GoAwayError struct {
	Code    wire.Code
	Message string
}

func (e *GoAwayError) Error() string {
	return fmt.Sprintf("the server ended the session: %s (%s)", e.Message, e.Code)
}

// ExposeIn of Expose.
type ExposeIn struct {
	// Target is where visitors end: "8080", ":8080", "host:port" or "[::1]:8080".
	Target string
	// Port is that of the server, 0 for one of its choice.
	Port     int
	Label    string
	Takeover bool
	// TCP exposes bytes rather than HTTP; Subdomain and Access are the host name wanted and who may visit: all of
	// hanzod's own servers.
	TCP               bool
	Subdomain, Access string
}

// PullIn of Pull: connections to a loopback port of the server end at Target.
type PullIn struct {
	Target string
	Port   int
	Label  string
	// Host is 127.0.0.1, which is the default, or ::1.
	Host string
}

// DialIn of DialBinding: streams that this side opens end at Host and Port, seen from the server, or from Node.
// Port 0 leaves both to each call.
type DialIn struct {
	Node, Host string
	Port       int
	Label      string
}

// Binding is one of a session. Its facts may change when the session is replaced.
type Binding struct {
	s *Session
	b *binding
}

// BindingInfo is what the server granted.
type BindingInfo struct {
	ID int
	// Port is the real one; PublicURL "" where there is none.
	Port             int
	PublicURL        string
	Kind, Mode       string
	Target, Label    string
	Node, Host       string
	Revoked          bool
	RevocationReason string
}
