// Package approvals holds the questions about what may run and their answers. An approval lets
// exactly one thing happen exactly as shown, at most once, or nothing.
//
// States are explicit: pending, allowed, denied, consumed, expired. A record is on disk before
// anybody hears of it, and a use is on disk before the command goes out. The package imports
// leaves and its own sub-packages only; Service owns one goroutine, which expires what nobody
// answered.
package approvals

import (
	"cmp"
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
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
	// Identity is what the words stand for on the node, nil where the node does not say; Unbound is
	// why not, in words for the approver.
	Identity *Identity
	Unbound  string
	// Call is set for a privileged command other than a run: then Argv names it and its params.
	Call *Call
}

// Identity is which files a run opens. A node that gives it runs nothing else under the approval.
type Identity struct {
	// Executable is the program that is started, Script the file that it is given to run when it is
	// an interpreter, Directory where it is started.
	Executable *FileIdentity
	Script     *FileIdentity
	Directory  *FileIdentity
	// Inner is what else runs as far as the text says.
	Inner []InnerFile
	// Unbound says in words what else runs or is read, and is not bound.
	Unbound []string
}

// InnerFile is a program that another starts, or the script of one.
type InnerFile struct {
	Role string // interpreter, program or script
	FileIdentity
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
	// Paired says that the device is paired.
	Paired bool
	// Tenant is the organisation of who asked, empty for the gateway's own.
	Tenant string
}

// tenant is whose an approval is: that of the node, else, on what all have, that of who asked.
func (a Approval) tenant() string {
	return cmp.Or(identity.NodeTenant(text(a.NodeID)), a.Requester.Tenant)
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

// Brief returns an approval with long texts cut, for lists of many; cut says whether any was. What may
// run is in the whole record alone.
func (a Approval) Brief() (brief Approval, cut bool) {
	size := len(a.Command) + len(a.Key)
	for _, words := range [][]string{a.CommandArgv, a.EnvKeys} {
		for _, w := range words {
			size += len(w)
		}
	}
	texts := []**string{&a.Cwd, &a.NodeID, &a.Host, &a.Security, &a.Ask, &a.AgentID, &a.ResolvedPath, &a.SessionKey}
	for _, t := range texts {
		size += len(text(*t))
	}
	if size <= cutAbove {
		return a, false
	}
	short := func(t **string) {
		if *t != nil {
			s := cutText(**t, cutTo/4)
			*t = &s
		}
	}
	for _, t := range texts {
		short(t)
	}
	a.Command, a.Key = cutText(a.Command, cutTo), cutText(a.Key, cutTo)
	a.CommandArgv, a.EnvKeys = cutWords(a.CommandArgv, cutTo), cutWords(a.EnvKeys, cutTo)
	if a.Binding != nil {
		b := *a.Binding
		b.Argv = a.CommandArgv
		short(&b.Cwd)
		short(&b.AgentID)
		short(&b.SessionKey)
		a.Binding = &b
	}
	a.Plan, a.TurnSource = nil, TurnSource{}
	return a, true
}

// Vote is the answer of one approver.
type Vote struct {
	// Subject is who answered, as the daemon verified it, Name as they show themselves.
	Subject, Name string
	Decision      Decision
	At            time.Time
	// Party is what tells that two votes are of one person.
	Party Party
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
	// Call asks about a privileged command of the node instead of a run. NodeID names the node; of the rest,
	// ID, AgentID, SessionKey, TurnSource and Timeout count.
	Call *CallIn
	// Timeout is DefaultTimeout when zero.
	Timeout time.Duration
}

// ResolveIn is the argument of Resolve.
type ResolveIn struct {
	ID       string
	Decision Decision
	// Grant is a grant to make beside AllowOnce.
	Grant *GrantIn
	// GrantOptional takes AllowAlways even where no grant can be made for the command: legacy clients
	// know no such refusal, and the node stores what it can.
	GrantOptional bool
}

// ListIn is the argument of List.
type ListIn struct {
	// All adds decided and expired approvals, newest first, at most MaxListed.
	All bool
	// Like is the id of an approval: earlier ones of the same executable on the same node are listed,
	// newest first.
	Like string
}

// Requested and Resolved are the payloads of the events exec.approval.requested and
// exec.approval.resolved.
type (
	Requested struct{ Approval Approval }
	Resolved  struct{ Approval Approval }
)

// Changed is the payload of the event exec.approval.changed, which legacy clients do not know: a pending
// approval got a vote, others are asked as well, or nobody answered in time.
type Changed struct{ Approval Approval }

// BelongsTo implements events.Belonging.
func (r Requested) BelongsTo() string { return r.Approval.tenant() }

// BelongsTo implements events.Belonging.
func (r Resolved) BelongsTo() string { return r.Approval.tenant() }

// BelongsTo implements events.Belonging.
func (c Changed) BelongsTo() string { return c.Approval.tenant() }

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
	// PruneAudit removes the rows that are older than the log is to keep, a bounded number in each
	// transaction, and returns how many went.
	PruneAudit(ctx context.Context, now time.Time) (uint64, error)
	// PruneApprovals removes records that ended before the time, keeping at most max.
	PruneApprovals(ctx context.Context, endedBefore time.Time, max int) (int, error)
	// EarlierApprovals returns at most n records that were created before the time and fit, newest
	// first. It looks at scan of them at the most.
	EarlierApprovals(before time.Time, n, scan int, fits func(Approval) bool) ([]Approval, error)
	// Transact runs change in one transaction: all of what it writes, or nothing when it fails; its
	// error is returned as it is. It may run more than once, and not in the caller's goroutine.
	Transact(ctx context.Context, change func(Tx) error) error
	// Grant returns one grant, errs.NotFound when there is none; Grants all of them in order of their
	// ids.
	Grant(id string) (Grant, error)
	Grants() ([]Grant, error)
	// PruneGrants removes grants that ended before the time, keeping at most max of those that ended.
	PruneGrants(ctx context.Context, now, endedBefore time.Time, max int) (int, error)
	AuditLog
}

// Tx is a transaction of the store. What it reads is what it has written.
type Tx interface {
	// Approval returns one record, errs.NotFound when there is none.
	Approval(id string) (Approval, error)
	// CreateApproval fails with errs.Exists when the id is taken.
	CreateApproval(a Approval) error
	// UpdateApproval writes a record that is there.
	UpdateApproval(a Approval) error
	Grant(id string) (Grant, error)
	PutGrant(g Grant) error
	Audit(row Audit) error
}

// NodeFiles reaches the exec approvals file of a node. It is satisfied by nodes.
type NodeFiles interface {
	// InvokeInternal runs a command on a node past the command policy, which is for callers.
	// Params and the answer are JSON text.
	InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error)
	// Binds reports whether a node is connected, and whether it says which files a run would open.
	Binds(nodeID string) (connected, binds bool)
}

// The errors of this package.
var (
	// ErrUnknown is also the refusal of an answer that comes too late: fields state, decision, resolvedBy and
	// resolvedBySubject say who was first.
	ErrUnknown         = errs.Define(errs.NotFound, "approvals.unknown", "no such approval is pending")
	ErrGone            = errs.Define(errs.NotFound, "approvals.gone", "the approval expired or does not exist")
	ErrTaken           = errs.Define(errs.Exists, "approvals.taken", "an approval with this id is already there")
	ErrDecision        = errs.Define(errs.Invalid, "approvals.decision", "the decision must be allow-once, allow-always or deny")
	ErrIDRequired      = errs.Define(errs.Invalid, "approvals.id_required", "name an approval")
	ErrIDTooLong       = errs.Define(errs.Invalid, "approvals.id_too_long", "the approval id is longer than 200 bytes")
	ErrCommandRequired = errs.Define(errs.Invalid, "approvals.command_required", "name the command to approve")
	ErrNodeRequired    = errs.Define(errs.Invalid, "approvals.node_required", "an approval for a node must name the node")
	ErrNodeUnknown     = errs.Define(errs.NotFound, "approvals.node_unknown", "no such node is connected or paired")
	ErrPlanRequired    = errs.Define(errs.Invalid, "approvals.plan_required", "an approval for a node needs the plan from system.run.prepare")
	ErrArgvRequired    = errs.Define(errs.Invalid, "approvals.argv_required", "an approval for a node must give the command as argv")
	ErrTooLarge        = errs.Define(errs.Invalid, "approvals.too_large", "the command of an approval may be 256 KiB at the most")
	ErrTimeoutRange    = errs.Define(errs.Invalid, "approvals.timeout_range", "an approval may stand from 1 ms to 7 days")
	ErrTooMany         = errs.Define(errs.Exhausted, "approvals.too_many", "too many approvals are pending; decide some first")

	// What a node said when it was asked which files a run would open.
	ErrNodeSilent  = errs.Define(errs.Unavailable, "approvals.node_silent", "the node did not say in time which files the command would run; try again")
	ErrNotPrepared = errs.Define(errs.Invalid, "approvals.not_prepared", "the node would not run this")
	ErrNodeBinding = errs.Define(errs.Unavailable, "approvals.node_binding", "the node's answer about its files cannot be read; update the node or this daemon")

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
	ErrRunEnvTwice   = errs.Define(errs.Denied, "approvals.run_env_twice", "two environment overrides have the same name but for blanks around it; leave one out")
	ErrRunParams     = errs.Define(errs.Invalid, "approvals.run_params", "the parameters of the run are no JSON")
	ErrRunUnbound    = errs.Define(errs.Denied, "approvals.run_unbound", "the approval was given without the files that this node binds; ask for a new one")
	ErrRunRequired   = errs.Define(errs.Denied, "approvals.run_required", "the run is not approved")
	// The refusals of privileged commands other than runs.
	ErrCallRequired   = errs.Define(errs.Denied, "approvals.call_required", "the command takes an approval: ask for one (hanzoctl nodes invoke NODE COMMAND --ask), have an operator with the scope operator.admin call it, or list it in gateway.nodes.allowCommands")
	ErrCallParams     = errs.Define(errs.Invalid, "approvals.call_params", "the params of a privileged command must be a JSON object in which no name is there twice")
	ErrCallDenied     = errs.Define(errs.Denied, "approvals.call_denied", "the call was denied")
	ErrCallUnanswered = errs.Define(errs.Unavailable, "approvals.call_unanswered", "nobody answered in time; call it again and have an approver at hand")
	ErrCallOrRun      = errs.Define(errs.Invalid, "approvals.call_or_run", "ask about a command of the node or about a run, not about both")

	ErrRunRevoked = errs.Define(errs.Denied, "approvals.run_revoked", "the grant that allowed the run was revoked")

	// The refusals of rules. Fields rule and where name the rule.
	ErrRuleDenies = errs.Define(errs.Denied, "approvals.rule_denies", "a rule forbids the command")
	// ErrRuleAsks holds the words by which clients know that they have to ask (nodes-approvals.md §8).
	ErrRuleAsks = errs.Define(errs.Denied, "approvals.rule_asks", "SYSTEM_RUN_DENIED: approval required")

	// The refusals of answers.
	ErrNotApprover   = errs.Define(errs.Denied, "approvals.not_approver", "the rule that asks names others as approvers")
	ErrOwnRequest    = errs.Define(errs.Denied, "approvals.own_request", "the rule that asks wants somebody else than who asked to answer")
	ErrVoted         = errs.Define(errs.Conflict, "approvals.voted", "you have allowed it; others have to as well")
	ErrGrantDecision = errs.Define(errs.Invalid, "approvals.grant_decision", "a grant goes with allow-once")
	ErrGrantQuorum   = errs.Define(errs.Denied, "approvals.grant_quorum", "several have to allow this: answer allow-always, which makes a grant when all of them do")
	ErrGrantKey      = errs.Define(errs.Invalid, "approvals.grant_key", "no grant can find this command again")
	ErrGrantLimit    = errs.Define(errs.Invalid, "approvals.grant_limit", "say how far the grant reaches: uses, until, session or, alone, always")
	ErrGrantUses     = errs.Define(errs.Invalid, "approvals.grant_uses", "a grant allows from 1 to 1000000 uses")
	ErrGrantUntil    = errs.Define(errs.Invalid, "approvals.grant_until", "the end of the grant has passed already")
	ErrGrantSession  = errs.Define(errs.Invalid, "approvals.grant_session", "the approval is of no session")
	ErrGrantNote     = errs.Define(errs.Invalid, "approvals.grant_note", "the note of a grant may be 500 bytes at the most")
	ErrGrantPattern  = errs.Define(errs.Invalid, "approvals.grant_pattern", "the pattern must name a program, have no empty word and ** at its end only, and fit the command")
	ErrGrantSigns    = errs.Define(errs.Denied, "approvals.grant_signs", "the command looks obfuscated: only a grant for exactly this command can be made")
	ErrGrantFiles    = errs.Define(errs.Denied, "approvals.grant_files", "the node was away when this was asked, so that a grant would cover any files: ask again, or say that it may")
	ErrGrantPowers   = errs.Define(errs.Denied, "approvals.grant_powers", "a pattern without a near end takes an admin: limit it to 1000 uses or to 7 days")
	ErrGrantRule     = errs.Define(errs.Denied, "approvals.grant_rule", "a rule wants other approvers for this command than you alone")
	ErrGrantCommand  = errs.Define(errs.Invalid, "approvals.grant_command", "name either the command or a pattern")
	ErrGrantID       = errs.Define(errs.Invalid, "approvals.grant_id", "name a grant")
	ErrUnknownGrant  = errs.Define(errs.NotFound, "approvals.grant_unknown", "there is no such grant")
	ErrGrantEnded    = errs.Define(errs.Conflict, "approvals.grant_ended", "the grant was revoked before")
	ErrTooManyGrants = errs.Define(errs.Exhausted, "approvals.too_many_grants", "there are too many grants; revoke some first")
)
