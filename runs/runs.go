// Package runs keeps commands on nodes from the question to the result. A run is on disk before its
// requester hears of it, is parked while an approval is awaited, outlives its requester and the
// daemon, and goes out at most once: one that went out and whose end was not seen is lost, and nobody
// repeats it.
//
// What lets a run out once is the use of its approval, which approvals record in one transaction
// before the command leaves. A parked run whose approval is unused never left; one whose approval is
// used is never sent again. A run without an approval is on disk as starting before it leaves.
//
// The package imports leaves only. Nodes and approvals reach it through interfaces that runtime wires.
// Service owns one goroutine for each run that has not ended and waits for them in Run.
package runs

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// State is where a run stands.
type State string

// The states. Those from Done on are ends.
const (
	// Preparing: nothing left for the node yet, or it was refused for want of an approval.
	Preparing State = "preparing"
	// Waiting: an approval is awaited.
	Waiting State = "waiting"
	// Starting: it may leave; the node is awaited, or the command is on its way.
	Starting State = "starting"
	Running  State = "running"
	Done     State = "done"
	Refused  State = "refused"
	Denied   State = "denied"
	Expired  State = "expired"
	Failed   State = "failed"
	Lost     State = "lost"
)

// Ended reports whether a run in this state changes no more.
func (s State) Ended() bool {
	switch s {
	case Preparing, Waiting, Starting, Running:
		return false
	default:
		return true
	}
}

// Run is one command on one node.
type Run struct {
	ID     string
	State  State
	NodeID string
	// Argv, Cwd, AgentID and SessionKey are what was asked for; empty texts are left to the node.
	Argv       []string
	Cwd        string
	AgentID    string
	SessionKey string
	// Env holds the values of the environment overrides, as long as the run has not left. They are
	// never shown, logged or audited. EnvKeys are their names, sorted.
	Env     map[string]string
	EnvKeys []string
	// Command is text for people: the node's once it was asked.
	Command string
	// Requester is who asked, and what an approval is bound to.
	Requester Requester
	// Timeout is the limit of the command on the node, zero for none.
	Timeout time.Duration
	// ApprovalTimeout is how long a question stands, zero for the usual time.
	ApprovalTimeout time.Duration
	// WaitForNode is how long a node that is not connected is waited for, zero for not at all.
	WaitForNode time.Duration
	// Tried says that the node does not run it without an approval.
	Tried bool
	// ApprovalID is the approval that it waits for or ran by; it is the run's own id. ExpiresAt is when
	// that question ends, ResolvedBy who answered.
	ApprovalID string
	ExpiresAt  time.Time
	ResolvedBy string
	CreatedAt  time.Time
	StartedAt  time.Time
	EndedAt    time.Time
	// Failure is set in the states Refused, Denied, Expired, Failed and Lost, Result in Done.
	Failure *Failure
	Result  *Result
	// KilledBy is the subject that ended it.
	KilledBy string

	// Streams says that the node sends what the command writes while it runs, Foreign that it was
	// started past Start. Neither is stored.
	Streams bool
	Foreign bool
}

// Requester is who asked, as the daemon verified it.
type Requester struct {
	DeviceID  string
	Paired    bool
	TokenID   string
	Principal string
	ConnID    string
	Scopes    []identity.Scope
	Tenant    string
	// ClientID and DisplayName are what it says of itself.
	ClientID    string
	DisplayName string
	Local       bool
}

// Caller is the requester as domains know it.
func (r Requester) Caller() identity.Caller {
	return identity.Caller{
		Door: identity.DoorInternal, Role: identity.RoleOperator, Scopes: r.Scopes, DeviceID: r.DeviceID, Paired: r.Paired,
		TokenID: r.TokenID, Tenant: r.Tenant, Principal: r.Principal, ConnID: r.ConnID, ClientID: r.ClientID, DisplayName: r.DisplayName, Local: r.Local,
	}
}

func requesterOf(c identity.Caller) Requester {
	return Requester{
		DeviceID: c.DeviceID, Paired: c.Paired, TokenID: c.TokenID, Principal: c.Principal, ConnID: c.ConnID,
		Scopes: c.Scopes, Tenant: c.Tenant, ClientID: c.ClientID, DisplayName: c.DisplayName, Local: c.Local,
	}
}

// Failure is why a run came to no result. Code and Class are those of the error.
type Failure struct {
	Code  string
	Text  string
	Class errs.Class
}

// Result is the node's account of a command that was carried out.
type Result struct {
	// ExitCode is nil when the command did not exit by itself.
	ExitCode *int
	// Signal is the name or number of the signal that ended it, when the node says.
	Signal   string
	TimedOut bool
	Stdout   string
	Stderr   string
	// Error is why the command did not start, or how it was ended.
	Error string
	// OutputGone says that Stdout and Stderr are no longer kept.
	OutputGone bool
}

// StartIn is the argument of Start. Empty texts are left to the node.
type StartIn struct {
	// ID is a name of the caller's choice, made up when empty.
	ID              string
	NodeID          string
	Argv            []string
	Cwd             string
	Env             map[string]string
	AgentID         string
	SessionKey      string
	Timeout         time.Duration
	ApprovalTimeout time.Duration
	WaitForNode     time.Duration
}

// ListIn is the argument of List.
type ListIn struct {
	// Live leaves out what has ended.
	Live   bool
	NodeID string
	// States is all when empty.
	States []State
	// Limit is DefaultListed when zero, at most MaxListed.
	Limit int
}

// Changed is the payload of the event run.changed: a run has another state. It holds no output.
type Changed struct{ Run Run }

// BelongsTo implements events.Belonging.
func (c Changed) BelongsTo() string { return c.Run.tenant() }

// tenant is whose a run is: that of the node, else, on what all have, that of who asked.
func (r Run) tenant() string { return cmp.Or(identity.NodeTenant(r.NodeID), r.Requester.Tenant) }

// Audit is a row of the log about a run. Uses and results are recorded by the guard of approvals.
type Audit struct {
	At time.Time
	// Kind is "kill".
	Kind    string
	Subject string
	// ApprovalID is empty for a run without one.
	ApprovalID string
	RunID      string
	NodeID     string
	Command    string
	Argv       []string
	Reason     string
}

// Store keeps runs. Writes are durable when they return nil.
type Store interface {
	// Run returns one run with its output, errs.NotFound when there is none.
	Run(id string) (Run, error)
	// Runs returns all runs without their output, in no order.
	Runs() ([]Run, error)
	// CreateRun writes a new run. It fails with errs.Exists when the id is taken.
	CreateRun(ctx context.Context, r Run) error
	// UpdateRun reads the run, lets change edit it and writes it, with the audit row that change
	// returns, if any. Nothing is written when change fails; its error is returned as it is.
	UpdateRun(ctx context.Context, id string, change func(*Run) (*Audit, error)) (Run, error)
	// AppendRunAudit writes a row about a run that is not stored.
	AppendRunAudit(ctx context.Context, row Audit) error
	// PruneRuns removes runs that ended before the time, and the oldest ended ones as long as more
	// than max are kept; it drops the output of the oldest as long as all of it takes more than bytes.
	PruneRuns(ctx context.Context, endedBefore time.Time, max int, bytes int64) (int, error)
}

// Nodes runs commands. It is satisfied by nodes, in the form that runtime gives them.
type Nodes interface {
	// Run hands system.run to a node and waits for its end. The calls of Observer tell in between when
	// it left. An error is *NodeError when the node answered with one.
	Run(ctx context.Context, c identity.Caller, in Command) (payload []byte, err error)
	// Prepare asks a node what it would run.
	Prepare(ctx context.Context, c identity.Caller, nodeID string, params []byte, wait time.Duration) (payload []byte, err error)
	// Resolve is the full id of what a caller calls a node.
	Resolve(c identity.Caller, nodeID string) string
	// Kill ends a command that runs on a node.
	Kill(ctx context.Context, nodeID, invokeID, runID, by string) error
}

// Command is a system.run on its way.
type Command struct {
	RunID  string
	NodeID string
	// Params is JSON text.
	Params []byte
	// Timeout is how long the answer is waited for, zero for as long as it takes.
	Timeout time.Duration
	// Wait is how long the node is waited for.
	Wait time.Duration
}

// NodeError is what a node answered instead of a result.
type NodeError struct {
	Code, Text string
}

func (e *NodeError) Error() string { return e.Text }

// ErrNeedsApproval is what Nodes return for a command that did not run for want of an approval.
var ErrNeedsApproval = errors.New("an approval is needed")

// ErrStopping is what Nodes return for a command that did not leave because the daemon stops.
var ErrStopping = errors.New("the daemon is stopping")

// Approvals asks for approvals and waits for them. It is satisfied by approvals, in the form that
// runtime gives them.
type Approvals interface {
	// Request asks whether a run may go out as the node said it would. It fails with errs.Exists when
	// there is an approval of that id.
	Request(ctx context.Context, c identity.Caller, q Question) (Approval, error)
	// Wait returns when the approval is decided or over.
	Wait(ctx context.Context, c identity.Caller, id string) (Approval, error)
	// Get returns an approval as it stands.
	Get(ctx context.Context, c identity.Caller, id string) (Approval, error)
	// Withdraw denies the question of a run that was killed.
	Withdraw(ctx context.Context, c identity.Caller, id string) error
}

// Question is what is asked for a run.
type Question struct {
	ID     string
	NodeID string
	// Prepared is the node's whole answer to system.run.prepare, as JSON text.
	Prepared []byte
	Plan     Plan
	Env      map[string]string
	Timeout  time.Duration
}

// Plan is what a node said it would run.
type Plan struct {
	Text       string
	Argv       []string
	RawCommand *string
	Cwd        *string
	AgentID    *string
	SessionKey *string
}

// Approval is what a run has to know of one.
type Approval struct {
	ID string
	// Verdict is where it stands.
	Verdict Verdict
	// Always is set when it was allowed for good.
	Always bool
	// Used counts the runs that left by it.
	Used       int
	ResolvedBy string
	CreatedAt  time.Time
	ExpiresAt  time.Time
	// DeviceID and Principal are whom it is bound to; Argv is what it covers.
	DeviceID, Principal string
	Argv                []string
}

// Verdict is where an approval stands.
type Verdict uint8

// The verdicts.
const (
	Open Verdict = iota
	Allowed
	NotAllowed
	Over
)

// The errors of this package.
var (
	ErrUnknown     = errs.Define(errs.NotFound, "runs.unknown", "no such run is known")
	ErrScope       = errs.Define(errs.Denied, "runs.scope", "to see runs, your own take the scope operator.write, those of others operator.approvals")
	ErrTaken       = errs.Define(errs.Exists, "runs.taken", "a different run has this id")
	ErrNodeUnknown = errs.Define(errs.NotFound, "runs.node_unknown", "no such node is connected or paired")
	ErrNode        = errs.Define(errs.Invalid, "runs.node_required", "name the node to run it on")
	ErrArgv        = errs.Define(errs.Invalid, "runs.command_required", "command required")
	ErrID          = errs.Define(errs.Invalid, "runs.id", "the id of a run is letters, digits, dashes, dots and underscores, 128 at the most")
	ErrText        = errs.Define(errs.Invalid, "runs.text", "the command, its directory and its environment must be valid UTF-8")
	ErrTooLarge    = errs.Define(errs.Invalid, "runs.too_large", "the command and its environment may be 256 KiB at the most")
	ErrTimes       = errs.Define(errs.Invalid, "runs.times", "a command may run for 24 hours, its approval wait for 7 days and its node be waited for an hour, at the most")
	ErrTooMany     = errs.Define(errs.Exhausted, "runs.too_many", "too many runs are under way; wait for some to end, or kill them")
	ErrTooManyMine = errs.Define(errs.Exhausted, "runs.too_many_of_caller", "too many runs of this caller are under way; wait for some to end, or kill them")
	ErrWaiters     = errs.Define(errs.Exhausted, "runs.too_many_waiters", "too many wait for runs; try again later")
	ErrEnded       = errs.Define(errs.Conflict, "runs.ended", "the run has ended")
	ErrStop        = errs.Define(errs.Unavailable, "runs.stopping", "the daemon is stopping; the run stays as it is")
	// ErrCannotKill is for nodes that do not know how; it is told by Nodes.
	ErrCannotKill = errs.Define(errs.Conflict, "runs.cannot_kill", "the node cannot end a command for the gateway; end it on the node")

	// The failures of runs.
	ErrDenied  = errs.Define(errs.Denied, "runs.denied", "the run was denied")
	ErrExpired = errs.Define(errs.Unavailable, "runs.expired", "nobody answered in time; run it again and have an approver at hand")
	ErrLost    = errs.Define(errs.Unknown, "runs.lost", "the command was sent to the node, and how it ended was not seen; it may have run: look before you repeat it")
	ErrNotSent = errs.Define(errs.Unavailable, "runs.not_sent", "the approval was used up, but the command did not reach the node; nothing ran: run it again")
	ErrAnswer  = errs.Define(errs.Unavailable, "runs.bad_answer", "the answer of the node is not understood")
	ErrKilled  = errs.Define(errs.Conflict, "runs.killed", "the run was ended before the command began; nothing ran")
	ErrChanged = errs.Define(errs.Denied, "runs.approval_foreign", "another question has the id of this run; run it again")
)
