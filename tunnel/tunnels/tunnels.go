// Package tunnels is the server's end of carriers (tunnel.md §4): sessions with their carriers and bindings, who
// may have them, how they park and resume, and how they end. Streams are of package mux, what visitors reach is of
// package bindings.
//
// It imports errs, identity and packages of tunnel. A Service owns a goroutine for each carrier, which runs in
// Serve, one for each stream that a client opened, and one that looks at the time; Close waits for them.
package tunnels

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
)

// Limits that nothing changes.
const (
	// HelloTime is how long a carrier may wait with its first frame (tunnel.md §4.6).
	HelloTime = 5 * time.Second
	// MaxSilent is how many carriers may be before it.
	MaxSilent = 32
	// DefaultGrace is how long a kill lets streams finish, MaxGrace the longest (tunnel.md §4.8).
	DefaultGrace = 50 * time.Millisecond
	MaxGrace     = 5 * time.Second
	// MaxConnections bounds the carriers of one tunnel.
	MaxConnections = 16
	// PingEvery and PongTime are of the server's PING.
	PingEvery = 20 * time.Second
	PongTime  = 60 * time.Second
	// TicketTime is how long a ticket admits a carrier.
	TicketTime = 30 * time.Second
	// DialTime is how long a stream waits for what it is to reach.
	DialTime = 10 * time.Second
	// byeTime is how long the end of the service may take.
	byeTime = time.Second
)

// The errors of this package.
var (
	ErrUnknown  = errs.Define(errs.NotFound, "tunnels.unknown", "no such tunnel; list them to see which there are")
	ErrGrace    = errs.Define(errs.Invalid, "tunnels.grace", "the grace is 0 to 5000 milliseconds")
	ErrDenied   = errs.Define(errs.Denied, "tunnels.denied", "that takes the scope operator.admin: the tunnel is somebody else's")
	ErrScope    = errs.Define(errs.Denied, "tunnels.scope", "a tunnel takes an operator with the scope operator.write, or the credential of a node")
	ErrRead     = errs.Define(errs.Denied, "tunnels.read", "tunnels are shown to operators with the scope operator.read")
	ErrReach    = errs.Define(errs.Denied, "tunnels.reach", "what this machine reaches is for operators with the scope operator.admin")
	ErrTarget   = errs.Define(errs.Invalid, "tunnels.target", "name a host, and a port from 1 to 65535")
	ErrSilent   = errs.Define(errs.Exhausted, "tunnels.silent", "too many carriers have not said HELLO; come again")
	ErrSessions = errs.Define(errs.Exhausted, "tunnels.sessions", "the session limit is reached; end a tunnel, or come again")
	ErrWatchers = errs.Define(errs.Exhausted, "tunnels.watchers", "too many watch tunnels; end one")
	ErrNoNode   = errs.Define(errs.Unavailable, "tunnels.no_node", "the node is not linked; come again when it is")
	ErrGrants   = errs.Define(errs.Exhausted, "tunnels.grants", "too many ways to nodes are open; close some")
	ErrStopping = errs.Define(errs.Unavailable, "tunnels.stopping", "the daemon stops; come again")
)

// Settings are what the configuration says.
type Settings struct {
	// MaxTunnels bounds all tunnels, MaxPerTenant those of one organisation, or of the gateway's owner.
	MaxTunnels, MaxPerTenant int
	// MaxStreams bounds the streams of a tunnel, Connections its carriers, 1 to MaxConnections.
	MaxStreams, Connections int
	// Grace is how long a tunnel whose carrier was lost keeps its bindings; 0 does not park.
	Grace time.Duration
	// Idle is how long a tunnel without streams and bindings is kept.
	Idle time.Duration
}

// Conn is what a stream that a client opened is joined to: a connection, or a stream of another carrier.
type Conn interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	CloseWrite() error
	Close() error
}

// AuditRow is what is recorded of tunnels.
type AuditRow struct {
	// Action is opened, closed, killed, binding-created, binding-deleted, binding-refused, dial or dial-refused.
	Action string
	// TunnelID, NodeID and Detail say of what.
	TunnelID string
	NodeID   string
	Detail   string
	// Reason is the code of a refusal, or why something ended.
	Reason string
}

// Nodes runs commands on nodes: Invoke as the caller may, InvokeInternal for the daemon.
type Nodes interface {
	// Linked returns the registry's id of a node as the caller names it, and whether it is linked. Those that the
	// caller does not see are unknown.
	Linked(ctx context.Context, c identity.Caller, nodeID string) (id string, linked bool, err error)
	// Offers says whether a node is linked and declares a command. It may be called under locks.
	Offers(nodeID, command string) bool
	Invoke(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) ([]byte, error)
	InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error)
}

// Config of New. Fields are required unless they say otherwise.
type Config struct {
	Settings func() Settings
	// Standing returns nil as long as what let a caller in still does.
	Standing func(c identity.Caller) error
	Bindings *bindings.Service
	Nodes    Nodes
	// Unmarked reports whether the configuration lets callers have a command of nodes, so that no call of it was
	// approved. Nil says that it does not.
	Unmarked func(command string) bool
	// Credential is the principal that the link of a node was let in with, "" when it is not known.
	Credential func(nodeID string) string
	// Reach opens a connection from this machine for a caller that may; nil opens none.
	Reach func(ctx context.Context, host string, port int) (Conn, string, error)
	// Audit records what happened. It may wait for the disk.
	Audit func(ctx context.Context, c identity.Caller, row AuditRow) error
	Now   func() time.Time
	Log   *slog.Logger
}

// Service holds the tunnels. Its methods are safe for concurrent use.
type Service struct {
	cfg    Config
	times  times
	silent atomic.Int32 // carriers before their first frame

	over context.Context // ends with the service
	stop context.CancelFunc

	mu       sync.Mutex
	closed   bool
	tunnels  map[string]*tunnel
	byOwner  map[string]int
	ends     ends
	grants   map[int]*Grant
	proofs   proofs
	came     map[string]chan struct{} // by node: closed when it has a carrier
	watchers int
	totals   totals
	wg       sync.WaitGroup
}

// times are what tests make shorter.
type times struct{ hello, ping, pong, ticket, dial, bye time.Duration }

// New returns a service without tunnels.
func New(cfg Config) *Service {
	s := &Service{
		cfg: cfg, times: times{HelloTime, PingEvery, PongTime, TicketTime, DialTime, byeTime}, tunnels: map[string]*tunnel{}, byOwner: map[string]int{},
		ends: newEnds(), grants: map[int]*Grant{}, came: map[string]chan struct{}{}, totals: newTotals(),
	}
	s.over, s.stop = context.WithCancel(context.Background())
	return s
}

// CarrierIn is a carrier that somebody opened.
type CarrierIn struct {
	// Version is the subprotocol, wire.V1 or wire.V2.
	Version  string
	PeerAddr string
	// Transport is websocket or grpc: for people.
	Transport string
	Carrier   mux.Carrier
	// Authenticate proves the credential that older drivers have in HELLO; nil takes none there. It knows from
	// where the carrier came.
	Authenticate func(ctx context.Context, token string) (identity.Caller, error)
}

// Tunnel is a session. Rates are of Watch.
type Tunnel struct {
	// ID is S- and a UUID.
	ID string
	// Tenant is the organisation whose it is, Subject who opened it, NodeID the node that did, if one did.
	Tenant, Subject, NodeID string
	Version                 string
	PeerAddr                string
	CreatedAt               time.Time
	// Transport is what CarrierIn said of the primary carrier.
	Transport string
	// Parked tunnels have lost their carriers, and are kept until ParkedUntil.
	Parked      bool
	ParkedUntil time.Time
	// Closing tunnels take no new streams: they were killed.
	Closing bool
	// Granted is how many carriers it may have, Carriers how many it has.
	Granted, Carriers int
	// Streams are open now, StreamsTotal were since the beginning.
	Streams, MaxStreams int
	StreamsTotal        uint64
	// States are those of Streams, where single tunnels are measured: with All.
	States mux.States
	// Permits are the descriptors it uses, of PermitLimit.
	Permits, PermitLimit int
	// BytesIn came from the client, BytesOut went to it; the rates are in bytes a second.
	BytesIn, BytesOut uint64
	RateIn, RateOut   float64
	// Stalled is how long streams waited for windows.
	Stalled  time.Duration
	Bindings []Binding
}

// Binding is one of a tunnel.
type Binding struct {
	TunnelID string
	ID       int
	// Kind is http or tcp, Mode expose, pull or dial.
	Kind, Mode string
	// Host and Port are where it listens or, of a dial, what it reaches, as NodeID when not empty.
	Host      string
	Port      int
	NodeID    string
	Label     string
	PublicURL string
	Access    string
	CreatedAt time.Time
	// Streams are open now, StreamsTotal were since the beginning.
	Streams      int
	StreamsTotal uint64
	// BytesIn came from the client, BytesOut went to it; the rates are in bytes a second.
	BytesIn, BytesOut uint64
	RateIn, RateOut   float64
}

// Permits are the descriptors that tunnels may use.
type Permits struct{ Used, Limit int }

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		// NodeID confines it to the tunnels of a node when not empty.
		NodeID string
	}
	ListOut struct {
		Tunnels []Tunnel
		Permits Permits
	}
)

// GetIn names a tunnel.
type GetIn struct{ ID string }

// KillIn and KillOut are the arguments and the result of Kill.
type (
	KillIn struct {
		ID string
		// Grace is how long its streams may go on, DefaultGrace when nil.
		Grace *time.Duration
	}
	KillOut struct{ ID string }
)

// WatchIn says how often to look.
type WatchIn struct {
	// Every is the time between snapshots: 100 ms to a minute, a second when 0.
	Every time.Duration
	// NodeID confines it to the tunnels of a node when not empty.
	NodeID string
}

// Snapshot is what Watch tells.
type Snapshot struct {
	At      time.Time
	Tunnels []Tunnel
	Permits Permits
}

// BindKind names the bindings, and streams, that are counted together.
type BindKind struct{ Kind, Mode string }

// StreamResult names the streams that are counted together: Result is ok, reset or refused.
type StreamResult struct{ Kind, Result string }

// Stats are what metrics and health show. All totals are since the start.
type Stats struct {
	// Sessions are the tunnels with a carrier, Parked those without.
	Sessions, Parked int
	// Bindings are those there now, Streams those open now by kind.
	Bindings map[BindKind]int
	Streams  map[string]int
	// States are of the streams on carriers, whoever has opened them.
	States  mux.States
	Permits Permits
	// StreamsTotal are the streams that ended.
	StreamsTotal map[StreamResult]uint64
	// BytesIn came from clients, BytesOut went to them.
	BytesIn, BytesOut uint64
	// Stall is how long senders waited for windows.
	Stall time.Duration
	// Resumes is by result: resumed, expired, unknown.
	Resumes   map[string]uint64
	Takeovers uint64
	Kills     uint64
	// Rejected is by the code of BIND_ERR.
	Rejected map[string]uint64
}

// GrantIn names what a node is to reach.
type GrantIn struct {
	NodeID string
	Host   string
	Port   int
}
