// Package policy is the exec approvals file of one machine: which commands may run on it, and the
// rule that decides on one run (nodes-approvals.md §3 and §7.1).
//
// It also holds what that rule needs and the guard of approvals shares: the text of a command, the
// detection of inline shells, allow-list patterns, and the environment of a run.
//
// It imports errs and the standard library and owns no goroutine. A File may be used concurrently,
// and by several processes at once: a lock file beside it orders their changes.
package policy

import (
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits.
const (
	// MaxFile bounds the file, in bytes; a larger one is refused, never cut.
	MaxFile = 4 << 20
	// MaxCorruptCopies is how many copies of damaged files are kept beside it; the oldest goes.
	MaxCorruptCopies = 5
	// MaxStampedCommand bounds the last command that an entry remembers, in bytes; more is cut.
	MaxStampedCommand = 4096
	// maxLost is how often a change is made again because another program was quicker.
	maxLost = 10
	// stampEvery is how far the time of the last use of an entry may lag behind: people read it in days.
	stampEvery = 10 * time.Second
	// lockWait is how long a change waits for another process before it fails.
	lockWait = 5 * time.Second
	// lockPoll is how often a waiting change looks again.
	lockPoll = 10 * time.Millisecond
)

// Security says what may run at all.
type Security string

// The levels of security, strictest first.
const (
	SecurityDeny      Security = "deny"
	SecurityAllowlist Security = "allowlist"
	SecurityFull      Security = "full"
)

func (s Security) valid() bool {
	return s == SecurityDeny || s == SecurityAllowlist || s == SecurityFull
}

// Ask says when a run needs an approval.
type Ask string

// The values of Ask, least asking first.
const (
	AskOff    Ask = "off"
	AskOnMiss Ask = "on-miss"
	AskAlways Ask = "always"
)

func (a Ask) valid() bool { return a == AskOff || a == AskOnMiss || a == AskAlways }

// The errors of this package.
var (
	ErrHashRequired = errs.Define(errs.Conflict, "policy.hash_required", "say which version of the exec approvals file the change starts from")
	ErrChanged      = errs.Define(errs.Conflict, "policy.changed", "the exec approvals file changed since it was read; read it again")
	ErrInvalid      = errs.Define(errs.Invalid, "policy.invalid", "this is no exec approvals file")
	ErrRead         = errs.Define(errs.Unavailable, "policy.read", "the exec approvals file cannot be read or written")
	ErrCorrupt      = errs.Define(errs.Unavailable, "policy.corrupt", "the exec approvals file is damaged or of a newer version; nothing runs until it is repaired or removed")

	// ErrRawMismatch carries the fields rawCommand and inferred.
	ErrRawMismatch    = errs.Define(errs.Invalid, "policy.raw_mismatch", "rawCommand does not match command")
	ErrMissingCommand = errs.Define(errs.Invalid, "policy.missing_command", "rawCommand requires params.command")
	// ErrMisread refuses an argv whose text for people is not what its shell would run.
	ErrMisread = errs.Define(errs.Invalid, "policy.misread", "the shell would run something else than the text that is shown for it; put -c and the text right behind the shell")
	// ErrUnstable is the refusal to pin an executable that cannot be found.
	ErrUnstable = errs.Define(errs.Denied, "policy.unstable_executable", "approval requires a stable executable path")
)
