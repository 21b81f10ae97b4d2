// Package system answers for the daemon as a whole: health, status, presence, and the end of its
// log.
//
// It imports leaves only; what it counts reaches it through Facts. Service owns one goroutine, which
// refreshes the cached health.
package system

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/system/doctor"
)

// Heartbeat is how often an agent looks for work of its own.
type Heartbeat struct {
	Enabled bool
	// Every is the text of the configuration, "30m" by default.
	Every string
	// Interval is zero when the heartbeat is off.
	Interval    time.Duration
	Prompt      string
	Target      string
	Model       string
	AckMaxChars int
}

// Agent is one configured agent.
type Agent struct {
	ID           string
	Name         string
	Default      bool
	Heartbeat    Heartbeat
	SessionsPath string
	SessionCount int
	// Recent are the sessions that changed last, the newest first.
	Recent []Session
}

// Health says whether the daemon works (control-plane.md §1).
type Health struct {
	At             time.Time
	Took           time.Duration
	DefaultAgentID string
	Agents         []Agent
}

// Status summarises the daemon.
type Status struct {
	At               time.Time
	Version          string
	PID              int
	Uptime           time.Duration
	StateDir         string // empty for callers without the admin scope, as are the next two
	ConfigPath       string
	Socket           string
	Listen           []string
	GRPCListen       string // of the door for other machines, empty when it is closed
	TLSFingerprint   string // SHA-256 of the certificate in hex, empty when nothing speaks TLS
	AuthMode         string
	Connections      int
	NodesConnected   int
	NodesKnown       int
	ApprovalsPending int
	// ConfigFault says why the configuration in force is not that of its file, empty when it is;
	// ConfigPending is when a change of it undoes itself, zero when none does.
	ConfigFault    string
	ConfigPending  time.Time
	PolicyFault    string // why the policy rules are not those of their file, empty when they are
	DefaultAgentID string
	Agents         []Agent
	// Defaults are empty for callers without the admin scope.
	Defaults Defaults
	// QueuedEvents are the texts that wait for the next turn of the main session, oldest first.
	QueuedEvents []string
	// HeartbeatsOn is false while all heartbeats are turned off.
	HeartbeatsOn bool
	// Admin says that the caller may see paths and session details.
	Admin bool
}

// Facts are counted by others and wired at start. Every function is safe for concurrent use.
type Facts struct {
	Connections      func() int
	NodesConnected   func() int
	NodesKnown       func() int
	ApprovalsPending func() int
	// PolicyFault says why the policy rules are not those of their file, "" when they are; nil is never.
	PolicyFault func() string
	// ConfigFault and ConfigPending are those of Status; nil is none.
	ConfigFault   func() string
	ConfigPending func() time.Time
	Listen        func() []string
	// Remote is the address of the gRPC door for other machines and the fingerprint of the certificate;
	// nil when there is neither.
	Remote func() (address, fingerprint string)
	// Agents are the configured ones, without their sessions.
	Agents func() (agents []Agent, defaultID string)
	// Sessions counts the sessions of an agent and returns those that changed last; nil when there are none.
	Sessions func(agentID string, recent int) (count int, last []Session)
	// Defaults are those of an agent; nil when nobody knows.
	Defaults func(agentID string) Defaults
	// HeartbeatsOn is false while heartbeats are turned off; nil is true.
	HeartbeatsOn func() bool
	// Diagnose looks for what is wrong, until ctx ends at the latest; nil finds nothing.
	Diagnose func(ctx context.Context) []doctor.Finding
}

// Versions count the changes of presence and health. They start at 1 and only grow.
type Versions struct{ Presence, Health uint64 }

// Presence is one party seen on the gateway (protocol.md §6.4).
type Presence struct {
	Host             string
	IP               string
	Version          string
	Platform         string
	DeviceFamily     string
	ModelIdentifier  string
	LastInputSeconds *float64
	Mode             string
	Reason           string
	DeviceID         string
	Roles            []identity.Role
	Scopes           []identity.Scope
	InstanceID       string
	Text             string
	At               time.Time
	// Tenant is the organisation of who was seen, empty for the gateway's own.
	Tenant string
	// Key is what the entry stands under, "" for the gateway itself.
	Key string
	// Rev is new with each change of the entry, so that its text can be kept; 0 for the gateway
	// itself, whose time is always now.
	Rev uint64
}

// TailIn and TailOut are the arguments and the result of TailLogs.
type (
	TailIn struct {
		// Cursor is a byte offset from an earlier answer, nil for the end of the file.
		Cursor *int64
		// Limit is the number of lines, 500 when zero, at most 5000.
		Limit int
		// MaxBytes is 250000 when zero, at most 1000000.
		MaxBytes int
	}
	TailOut struct {
		File      string
		Cursor    int64
		Size      int64
		Lines     []string
		Truncated bool
		Reset     bool
	}
)

// The payloads of the events of this package.
type (
	// HealthChanged is the payload of the event health. Versions are those that it shows at least.
	HealthChanged struct {
		Health   Health
		Versions Versions
	}
	// PresenceChanged is the payload of the event presence. Versions are those that it shows at least.
	PresenceChanged struct {
		Entries  []Presence
		Versions Versions
	}
	// Tick is the payload of the event tick.
	Tick struct{ At time.Time }
	// Shutdown is the payload of the event shutdown. RestartExpected is nil when no restart is
	// planned.
	Shutdown struct {
		Reason          string
		RestartExpected *time.Duration
	}
)

// The errors of this package.
var (
	ErrLogRead   = errs.Define(errs.Unavailable, "system.log_read", "the log file cannot be read")
	ErrLogRange  = errs.Define(errs.Invalid, "system.log_range", "limit goes from 1 to 5000, maxBytes from 1 to 1000000, and cursor from 0")
	ErrLocalOnly = errs.Define(errs.Denied, "system.local_only", "the shared secret is shown on the local socket only")
	// ErrBackupLocal and ErrBackupBusy are refusals of a backup.
	ErrBackupLocal = errs.Define(errs.Denied, "system.backup_local", "a backup holds every secret and is made on the local socket only")
	ErrBackupBusy  = errs.Define(errs.Exhausted, "system.backup_busy", "another backup is being made; try again later")
)
