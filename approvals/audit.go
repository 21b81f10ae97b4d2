package approvals

import (
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// The kinds of rows that this package writes. Those of devices are in identity, those of node pairings
// in nodes; AuditCheckpoint and AuditChained are the store's own.
const (
	AuditRequest  = "request"
	AuditDecision = "decision"
	// AuditUse is on disk before the command goes out, AuditResult says how it ended. A use without a
	// result is one whose outcome is not known.
	AuditUse    = "use"
	AuditResult = "result"
	// AuditRefusal is a run that was not let through, by the gateway or by the node.
	AuditRefusal = "refusal"
	AuditExpiry  = "expiry"
	AuditPolicy  = "policy"
	// AuditGrant is a grant that was made or revoked, AuditVote an answer that did not decide alone,
	// AuditEscalation that others were asked as well.
	AuditGrant      = "grant"
	AuditVote       = "vote"
	AuditEscalation = "escalation"
	// AuditCheckpoint stands for the rows that were removed before it.
	AuditCheckpoint = "checkpoint"
	// AuditChained follows the rows from before the log was chained.
	AuditChained = "chained"
)

// Audit is one row of the log of what was asked, decided and done, whichever domain wrote it. What
// does not concern a row is empty. A row never holds a secret: no value of an environment variable,
// no token. Text past a bound is cut when the row is written.
type Audit struct {
	// Seq counts from 1 without gaps. The store sets it.
	Seq  uint64
	At   time.Time
	Kind string
	// Subject is who did it, as the daemon verified it.
	Subject    string
	ApprovalID string
	// RunID names the run that a use, a result or a refusal belongs to.
	RunID  string
	NodeID string
	// Command is text for people, Argv what ran or would have run, as far as it is known.
	Command string
	Argv    []string
	// Cwd, AgentID and SessionKey are those of the run.
	Cwd        string
	AgentID    string
	SessionKey string
	Decision   Decision
	// Rule is the name of the rule or grant that decided, Where the place it is written at
	// ("file:line"); empty when an approval decided, or the node alone.
	Rule  string
	Where string
	// Policy is the hash of the rules that were in force, in hex.
	Policy string
	// BindingHash is the SHA-256 over what the approval covers, in hex.
	BindingHash string
	// Reason is the code of a refusal, or what a change is about; Detail says more in plain words.
	Reason string
	Detail string
	// ExitCode is how a run ended, nil when it did not end by itself or never began; TimedOut that the
	// node ended it. OutputDigest and StderrDigest are the SHA-256 of what it wrote to stdout and to
	// stderr, as the node returned it, in hex; empty when that is nothing.
	ExitCode     *int
	TimedOut     bool
	OutputDigest string
	StderrDigest string

	// DeviceID, Role, Scopes and RequestID are those of a row about a device (identity.Audit).
	DeviceID  string
	Role      identity.Role
	Scopes    []identity.Scope
	RequestID string

	// Checkpoint is set on a row of kind AuditCheckpoint.
	Checkpoint *Checkpoint
}

// Checkpoint stands for rows that were removed from the beginning of the log.
type Checkpoint struct {
	// Seq and Hash are of the last row that was removed.
	Seq  uint64
	Hash string
	// Count is how many rows were removed at once, From and To the times of the first and the last.
	Count    uint64
	From, To time.Time
	// Rule is the bound that they were past: rows, bytes or age.
	Rule string
}
