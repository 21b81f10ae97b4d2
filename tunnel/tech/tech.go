// Package tech holds technician sessions: one operator holds one node, works on it over channels, and every act leaves
// a row of the audit log (tunnel.md §3, §5.3 rows 26–33).
//
// It imports leaves and tunnel/tech/message. Nodes are reached through Nodes, the disk through Store.
package tech

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// Limits.
const (
	// MaxSessions bounds the active sessions, MaxChannels the channels of one and MaxWatchers those who watch one.
	MaxSessions = 256
	MaxChannels = 32
	MaxWatchers = 16
	// DefaultIdle ends a session in which nothing happened, DefaultRate is how many commands run in it per minute
	// (tunnel.md §3.5).
	DefaultIdle = 4 * time.Hour
	DefaultRate = 100
	// OpenTime bounds how long a node takes to change its mode.
	OpenTime = 15 * time.Second
)

// Status of a session.
type Status string

// The statuses (tunnel.md §3.3).
const (
	Active Status = "active"
	Closed Status = "closed"
)

// Reason is why a session was closed.
type Reason string

// The reasons.
const (
	ByOperator   Reason = "closed"
	TakenOver    Reason = "taken_over"
	Disconnected Reason = "node_disconnected"
	Restarted    Reason = "daemon_restarted"
	Idle         Reason = "idle"
	Revoked      Reason = "revoked"
	Removed      Reason = "node_removed"
	NodeEnded    Reason = "node_ended"
)

// The errors of this package. The compatibility paths have texts of their own for some (tunnel.md §3.2).
var (
	ErrScope       = errs.Define(errs.Denied, "tech.scope", "a technician session takes the scope operator.write")
	ErrSession     = errs.Define(errs.Invalid, "tech.session_id", "the id of a technician session is a UUID")
	ErrNode        = errs.Define(errs.Invalid, "tech.node_required", "name a node")
	ErrOffline     = errs.Define(errs.NotFound, "tech.node_offline", "the node is not connected; see hanzoctl nodes list")
	ErrUnknown     = errs.Define(errs.NotFound, "tech.unknown", "there is no such technician session")
	ErrForeign     = errs.Define(errs.Denied, "tech.foreign", "the technician session belongs to somebody else")
	ErrHeld        = errs.Define(errs.Conflict, "tech.held", "the node is held by a technician session; close that one, or take it over")
	ErrEnded       = errs.Define(errs.Conflict, "tech.ended", "the technician session is closed; open another one")
	ErrTooMany     = errs.Define(errs.Exhausted, "tech.too_many", "too many technician sessions, channels or watchers; close some first")
	ErrRate        = errs.Define(errs.Exhausted, "tech.rate", "too many commands in this minute; wait, and go on")
	ErrDirectory   = errs.Define(errs.Denied, "tech.directory", "the path is outside of the directories of this technician session")
	ErrKind        = errs.Define(errs.Invalid, "tech.kind", "a channel is terminal, file, registry or service")
	ErrNotAllowed  = errs.Define(errs.Denied, "tech.not_allowed", "this technician session was opened without that kind of channel, or for reading only")
	ErrChannel     = errs.Define(errs.Invalid, "tech.channel_id", "the id of a channel is 1 to 36 letters, digits, - and _")
	ErrChannelUsed = errs.Define(errs.Conflict, "tech.channel_used", "the technician session has a channel of that id")
	ErrMessage     = errs.Define(errs.Invalid, "tech.message", "this message does not belong on a channel of that kind")
	ErrUnsupported = errs.Define(errs.Unavailable, "tech.unsupported", "the node cannot do that in a technician session")
	ErrStopping    = errs.Define(errs.Unavailable, "tech.stopping", "the daemon is stopping")
	ErrDisabled    = errs.Define(errs.Unavailable, "tech.disabled", "technician sessions are switched off; set tunnel.tech.enabled")
)

// Session is one hold of a node.
type Session struct {
	// ID is a UUID.
	ID string
	// Owner is who holds the node, by identity.Caller.Subject; Name is for people. Tenant is the organization of the owner.
	Owner  string
	Name   string
	Tenant string
	NodeID string
	// Kinds are the channels that it may have; ReadOnly allows nothing that changes the node.
	Kinds    []message.Kind
	ReadOnly bool
	// Directories are what commands start in and files are below of; empty leaves that to the node.
	Directories []string
	Status      Status
	// Reason is why it was closed, ClosedBy by whom; empty while it is active.
	Reason   Reason
	ClosedBy string
	// Emulated says that the node does not know of the session: only commands run.
	Emulated bool

	OpenedAt     time.Time
	LastActivity time.Time
	ClosedAt     time.Time // zero while it is active

	// Live, of an active one: the channels, and how many watch.
	Channels []Channel
	Watchers int
	// Commands, BytesIn (to the node) and BytesOut are counted since it was opened.
	Commands          int64
	BytesIn, BytesOut int64
}

// Channel is a channel of an active session.
type Channel struct {
	ID       string
	Kind     message.Kind
	OpenedAt time.Time
	// What is the command or the file that it is busy with.
	What string
}

// Node is what is asked of a node.
type Node struct {
	// ID is that in the registry.
	ID        string
	Tenant    string
	Connected bool
}

// Nodes is what the service needs of the nodes.
type Nodes interface {
	// Node finds a node as the caller names it. It fails for nodes that the caller does not see.
	Node(c identity.Caller, id string) (Node, error)
	// Open puts a node into tunnel mode for a caller, past everything that decides on it (policy, rule, grant, approval of
	// exactly this session, or admin).
	Open(ctx context.Context, c identity.Caller, in OpenNode) (Lane, error)
	// Mode notes the mode of a node, with the session while it is in tunnel mode, and tells who follows nodes.
	Mode(nodeID, session string)
}

// OpenNode is the argument of Nodes.Open.
type OpenNode struct {
	NodeID      string
	SessionID   string
	Owner       string // whom the node is told
	Kinds       []message.Kind
	ReadOnly    bool
	Directories []string
}

// Lane is a node in tunnel mode, over the link that it had then.
type Lane interface {
	// Channel opens a channel. Closing the lane ends all of them.
	Channel(ctx context.Context, c identity.Caller, id string, kind message.Kind) (message.Conn, error)
	// Close puts the node back into heartbeat mode, when it can still be told.
	Close(ctx context.Context, reason Reason) error
	// Done is closed when the node went away or gave the session up; Err says which (Disconnected or NodeEnded).
	Done() <-chan struct{}
	Err() Reason
	// Emulated says that the node knows nothing of sessions: each command is an invoke of its own.
	Emulated() bool
}

// Audit is a row of the audit log. ListAudit returns them; they outlast sessions and nodes.
type Audit struct {
	ID        uint64
	At        time.Time
	SessionID string
	ChannelID string
	NodeID    string
	// Subject is the operator.
	Subject string
	Tenant  string
	// Operation is one of open, close, takeover, channel_open, channel_close, command, command_end, terminal_open,
	// terminal_exit, file_list, file_read, file_read_end, file_sum, file_write, file_write_end, registry, service, failed,
	// refused, watch.
	Operation string
	// Outcome is ok, or why not.
	Outcome string
	// Detail is what was asked, byte-exact: the command line, the path, and so on.
	Detail map[string]any
}

// Store keeps sessions and their audit. Writes are durable when they return nil.
type Store interface {
	// OpenTechSession adds an active session with its rows, unless its node is held: then it fails with ErrHeld and keeps nothing.
	OpenTechSession(ctx context.Context, s Session, rows ...Audit) error
	// ChangeTechSession replaces a session with its rows. A session that is closed frees its node in the same transaction.
	ChangeTechSession(ctx context.Context, s Session, rows ...Audit) error
	// AppendTechAudit adds rows.
	AppendTechAudit(ctx context.Context, rows ...Audit) error
	// TechSession finds one, also a closed one; ErrUnknown.
	TechSession(id string) (Session, error)
	// TechSessions are all, the newest first, up to a limit, after a session.
	TechSessions(in ListIn) ([]Session, error)
	// TechAudit are the rows of a session, of all when it is empty, oldest first, after a row, up to a limit.
	TechAudit(session string, after uint64, limit int) ([]Audit, error)
	// RemoveTechSessions removes the closed sessions of a node; their audit stays.
	RemoveTechSessions(ctx context.Context, nodeID string, rows ...Audit) error
}

// Settings are the configuration in force (tunnel.tech.*).
type Settings struct {
	Enabled bool
	// Idle and Rate (commands per minute) replace the defaults when they are positive.
	Idle time.Duration
	Rate int
	// Directories bound all sessions; empty leaves it to the nodes.
	Directories []string
}

// OpenIn is the argument of Open.
type OpenIn struct {
	NodeID string
	// Kinds is all of them when it is empty.
	Kinds       []message.Kind
	ReadOnly    bool
	Directories []string
	// Takeover ends a session that holds the node: one's own, or with the scope operator.admin anybody's.
	Takeover bool
}

// ListIn is the argument of List. Only the caller's own sessions are listed without the scope operator.admin.
type ListIn struct {
	NodeID string
	Owner  string
	Status Status
	After  string // a session
	Limit  int
	Tenant string // of the caller, set by the service
}

// Event is what a watcher sees. Type is one of opened, closed, channel_opened, channel_closed, command, output, exit, file,
// registry, service, done, refused, watcher_joined, watcher_left, skipped.
type Event struct {
	Seq       uint64
	At        time.Time
	Type      string
	SessionID string
	ChannelID string
	Kind      message.Kind
	// Who joined or left; who acted.
	Subject string
	// Text is the command line, the path or the reason.
	Text string
	// Stream is stdout, stderr or terminal, with Data; Skipped is how many bytes of output this watcher missed because it did
	// not read.
	Stream   string
	Data     []byte
	ExitCode *int
	Skipped  int64
	Watchers int
}
