// Package approvals holds the questions about what may run and their answers. An approval lets
// exactly one thing happen exactly as shown, at most once, or nothing.
//
// States are explicit: pending, allowed, denied, consumed, expired. A record is on disk before
// anybody hears of it, and a use is on disk before the command goes out. The package imports
// leaves and its own sub-packages only; Service owns one goroutine, which expires what nobody
// answered.
package approvals

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Decision is an answer.
type Decision string

// The decisions; the empty one is no answer.
const (
	None        Decision = ""
	AllowOnce   Decision = "allow-once"
	AllowAlways Decision = "allow-always"
	Deny        Decision = "deny"
)

// State is where an approval stands.
type State string

// The states.
const (
	Pending  State = "pending"
	Allowed  State = "allowed"
	Denied   State = "denied"
	Consumed State = "consumed" // allowed once, and used
	Expired  State = "expired"
)

// Plan is what a node said it would run, from system.run.prepare.
type Plan struct {
	Argv       []string
	Cwd        *string
	RawCommand *string
	AgentID    *string
	SessionKey *string
}

// Binding is what an approval covers. Nothing else runs under it.
type Binding struct {
	Argv       []string
	Cwd        *string
	AgentID    *string
	SessionKey *string
	// EnvHash is the SHA-256 in hex over the sorted environment overrides, nil without any.
	EnvHash *string
	// Identity is what the words stand for on the node, nil where the node does not say.
	Identity *Identity
}

// Identity is which files a run opens. A node that gives it runs nothing else under the approval.
type Identity struct {
	// Executable is the program that is started, Script the file that it is given to run when it is
	// an interpreter, Directory where it is started.
	Executable *FileIdentity
	Script     *FileIdentity
	Directory  *FileIdentity
}

// FileIdentity is one file or directory on a node.
type FileIdentity struct {
	// Path is absolute and free of links.
	Path string
	// Device and Inode are 0 where the system of the node has none.
	Device, Inode uint64
	// SHA256 is of the content in hex, empty for a directory.
	SHA256 string
}

// Requester is who asked: what a later use is compared with.
type Requester struct {
	DeviceID  string
	ConnID    string
	Principal string
	ClientID  string
}

// Approval is a question and, once there is one, its answer.
type Approval struct {
	ID    string
	State State
	// Command is text for people: the plan's, else the caller's.
	Command     string
	CommandArgv []string // nil when the caller gave none
	// EnvKeys are the names of the environment overrides, sorted for showing; nil for approvals
	// that are not for a node.
	EnvKeys      []string
	Binding      *Binding
	Plan         *Plan
	Cwd          *string
	NodeID       *string
	Host         *string
	Security     *string
	Ask          *string
	AgentID      *string
	ResolvedPath *string
	SessionKey   *string
	TurnSource   TurnSource
	CreatedAt    time.Time
	ExpiresAt    time.Time
	Requester    Requester
	Decision     Decision
	ResolvedAt   time.Time
	// ResolvedBy is the name that the approver showed; ResolvedBySubject what the daemon verified.
	ResolvedBy        string
	ResolvedBySubject string
	// Uses counts the runs it allowed; LastUsedAt is the last.
	Uses       int
	LastUsedAt time.Time

	// Rule is the rule that asked or decided, Where the place it is written at ("file:line"); empty
	// without one.
	Rule, Where string
	// GrantID is the grant that answered, or that was made with the answer.
	GrantID string
	// Key is the canonical form of the command, by which a grant finds it again; KeyRefused says why
	// there is none.
	Key, KeyRefused string
	// Signs are the signs of obfuscation in the command (nodes-approvals.md §3.13).
	Signs []string
	// Quorum is how many approvers have to allow it; 0 is one. Votes are their answers so far.
	Quorum int
	Votes  []Vote
	// Approvers are the only subjects that may answer; empty is everybody with the scope.
	Approvers []string
	// ExcludeRequester keeps who asked from answering.
	ExcludeRequester bool
	// OnTimeout is what happens when nobody answers: Deny or, for a rule that says so, AllowOnce. None
	// leaves it unanswered.
	OnTimeout Decision
	// EscalateAt is when EscalateTo may answer and are told as well; zero is never.
	EscalateAt time.Time
	EscalateTo []string
	Escalated  bool
}

// Vote is the answer of one approver.
type Vote struct {
	// Subject is who answered, as the daemon verified it, Name as they show themselves.
	Subject, Name string
	Decision      Decision
	At            time.Time
}

// over reports whether the time of an approval has passed. A clock that was set back must not make it
// stand for longer.
func (a Approval) over(now time.Time) bool {
	return now.After(a.ExpiresAt) || now.Before(a.CreatedAt.Add(-a.ExpiresAt.Sub(a.CreatedAt)))
}

// TurnSource is the chat turn that led to the question. ThreadID is text or a number, as sent.
type TurnSource struct {
	Channel   *string
	To        *string
	AccountID *string
	ThreadID  any
}

// RequestIn is the argument of Request.
type RequestIn struct {
	// ID is a name of the caller's choice, made up when empty.
	ID           string
	Command      string
	CommandArgv  []string
	Plan         *Plan
	Env          map[string]string
	Cwd          *string
	NodeID       *string
	Host         *string
	Security     *string
	Ask          *string
	AgentID      *string
	ResolvedPath *string
	SessionKey   *string
	TurnSource   TurnSource
	// Timeout is DefaultTimeout when zero.
	Timeout time.Duration
}

// ResolveIn is the argument of Resolve.
type ResolveIn struct {
	ID       string
	Decision Decision
}

// ListIn is the argument of List.
type ListIn struct {
	// All adds decided and expired approvals, newest first, at most MaxListed.
	All bool
}

// Requested and Resolved are the payloads of the events exec.approval.requested and
// exec.approval.resolved.
type (
	Requested struct{ Approval Approval }
	Resolved  struct{ Approval Approval }
)

// Store keeps approvals and the audit log. Writes are durable when they return nil.
type Store interface {
	// Approval returns one record, errs.NotFound when there is none.
	Approval(id string) (Approval, error)
	// PendingApprovals returns every record in state pending or allowed, in order of creation.
	LiveApprovals() ([]Approval, error)
	// RecentApprovals returns at most n records, newest first.
	RecentApprovals(n int) ([]Approval, error)
	// CreateApproval writes a new record with its audit row. It fails with errs.Exists when the id
	// is taken.
	CreateApproval(ctx context.Context, a Approval, row Audit) error
	// UpdateApproval reads the record, lets change edit it, and writes it with the audit row that
	// change returns. Nothing is written when change fails; its error is returned as it is.
	UpdateApproval(ctx context.Context, id string, change func(*Approval) (Audit, error)) (Approval, error)
	// AppendAudit writes rows that change nothing else: all of them, in order, or none.
	AppendAudit(ctx context.Context, rows ...Audit) error
	// OpenUses returns the rows of kind AuditUse with a RunID that no later row has, in order.
	OpenUses() ([]Audit, error)
	// PruneApprovals removes records that ended before the time, keeping at most max.
	PruneApprovals(ctx context.Context, endedBefore time.Time, max int) (int, error)
}

// NodeFiles reaches the exec approvals file of a node. It is satisfied by nodes.
type NodeFiles interface {
	// InvokeInternal runs a command on a node past the command policy, which is for callers.
	// Params and the answer are JSON text.
	InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error)
}

// The errors of this package.
var (
	ErrUnknown         = errs.Define(errs.NotFound, "approvals.unknown", "no such approval is pending")
	ErrGone            = errs.Define(errs.NotFound, "approvals.gone", "the approval expired or does not exist")
	ErrTaken           = errs.Define(errs.Exists, "approvals.taken", "an approval with this id is already there")
	ErrDecision        = errs.Define(errs.Invalid, "approvals.decision", "the decision must be allow-once, allow-always or deny")
	ErrIDRequired      = errs.Define(errs.Invalid, "approvals.id_required", "name an approval")
	ErrIDTooLong       = errs.Define(errs.Invalid, "approvals.id_too_long", "the approval id is longer than 200 bytes")
	ErrCommandRequired = errs.Define(errs.Invalid, "approvals.command_required", "name the command to approve")
	ErrNodeRequired    = errs.Define(errs.Invalid, "approvals.node_required", "an approval for a node must name the node")
	ErrPlanRequired    = errs.Define(errs.Invalid, "approvals.plan_required", "an approval for a node needs the plan from system.run.prepare")
	ErrArgvRequired    = errs.Define(errs.Invalid, "approvals.argv_required", "an approval for a node must give the command as argv")
	ErrTooLarge        = errs.Define(errs.Invalid, "approvals.too_large", "the command of an approval may be 256 KiB at the most")
	ErrTimeoutRange    = errs.Define(errs.Invalid, "approvals.timeout_range", "an approval may stand from 1 ms to 7 days")
	ErrTooMany         = errs.Define(errs.Exhausted, "approvals.too_many", "too many approvals are pending; decide some first")

	// The refusals of a privileged run (nodes-approvals.md §2.3). Field runId names the approval.
	ErrMissingRunID  = errs.Define(errs.Invalid, "approvals.missing_run_id", "an approved run must name its approval in runId")
	ErrUnknownRun    = errs.Define(errs.Denied, "approvals.run_unknown", "the approval is unknown or expired")
	ErrRunExpired    = errs.Define(errs.Denied, "approvals.run_expired", "the approval expired")
	ErrRunNoNode     = errs.Define(errs.Denied, "approvals.run_no_node", "the approval is not bound to a node")
	ErrRunNode       = errs.Define(errs.Denied, "approvals.run_node", "the approval is for another node")
	ErrRunDevice     = errs.Define(errs.Denied, "approvals.run_device", "the approval was given to another device")
	ErrRunClient     = errs.Define(errs.Denied, "approvals.run_client", "the approval was given to another client")
	ErrRunMismatch   = errs.Define(errs.Denied, "approvals.run_mismatch", "the approval is for something else")
	ErrRunEnvMissing = errs.Define(errs.Denied, "approvals.run_env_missing", "the approval covers no environment overrides")
	ErrRunEnv        = errs.Define(errs.Denied, "approvals.run_env", "the environment overrides are not the approved ones")
	ErrRunRequired   = errs.Define(errs.Denied, "approvals.run_required", "the run is not approved")
)
