// Package heartbeat makes agents look for work of their own: each at its interval and within its hours, and
// all of them when something woke them (control-plane.md §3).
//
// What a beat asks is done by a Turn. Where none is wired, a beat that would have asked ends as skipped and
// says so: nothing is reported that did not happen. The package imports leaves only. Service owns no goroutine
// but the one that calls Run.
package heartbeat

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// mergeFor is how long requests are gathered into one beat (control-plane.md §3; frozen).
	mergeFor = 250 * time.Millisecond
	// retryAfter is when a beat that found its agent busy is tried again (control-plane.md §3; frozen).
	retryAfter = time.Second
	// busyWait is how long RunHeartbeat waits for a busy agent (control-plane.md §12; frozen).
	busyWait = 2 * time.Minute
	// maxSleep is how long the runner sleeps at the most, so that a clock that was set is noticed.
	maxSleep = time.Minute
	// maxTurn ends a turn that does not.
	maxTurn = 10 * time.Minute
	// maxRequests is how many different targets can wait for a beat; there are not more agents than that.
	maxRequests = 1000
	// maxFile bounds what is read of a HEARTBEAT.md in bytes (sessions-chat.md §8).
	maxFile = 2 << 20
	// maxPreview cuts the preview of what was said, in characters (control-plane.md §3; frozen).
	maxPreview = 200
	// sameFor is how long the same text is not told twice (control-plane.md §3; frozen).
	sameFor = 24 * time.Hour
)

// okToken is what an agent answers when nothing needs attention (control-plane.md §3; frozen).
const okToken = "HEARTBEAT_OK"

// FileName is the file in the workspace of an agent that says what a beat is to look at.
const FileName = "HEARTBEAT.md"

// Status is how a beat ended.
type Status string

// How beats end, with their legacy names.
const (
	Sent    Status = "sent"
	OKEmpty Status = "ok-empty"
	OKToken Status = "ok-token"
	Skipped Status = "skipped"
	Failed  Status = "failed"
)

// Ran is what RunHeartbeat says of a beat whose turn was taken, whatever came of it.
const Ran = "ran"

// Why beats are skipped, with their legacy names; NoAgents is ours.
const (
	Disabled   = "disabled"
	QuietHours = "quiet-hours"
	EmptyFile  = "empty-heartbeat-file"
	InFlight   = "requests-in-flight"
	NotDue     = "not-due"
	NoTarget   = "no-target"
	Duplicate  = "duplicate"
	NoAgents   = "agents do not run on this hanzod yet"
)

// Report is how a beat ended, and the payload of the event heartbeat. Beats that were not due, not allowed or
// held up leave none.
type Report struct {
	At                     time.Time
	Status                 Status
	To, AccountID, Channel string
	// Preview is the begin of what was said, "" for nothing.
	Preview string
	// Took is nil where nothing was timed.
	Took     *time.Duration
	HasMedia bool
	Reason   string
	Silent   bool
	// Indicator is ok, alert, error or "".
	Indicator string
}

// Agent is one agent that beats, as it is configured.
type Agent struct {
	ID      string
	Default bool
	// Session is the session that beats talk to.
	Session string
	// Interval is zero when the heartbeat is off.
	Interval    time.Duration
	Prompt      string
	Model       string
	Target      string
	AckMaxChars int
	// LightContext gives the turn no file but HEARTBEAT.md.
	LightContext bool
	Workspace    string
	Hours        Hours
}

// TurnIn is what a beat asks of an agent.
type TurnIn struct {
	Agent   Agent
	Prompt  string
	Reason  string
	Session string
}

// TurnOut is what the agent said.
type TurnOut struct {
	Text     string
	HasMedia bool
	// Channel, To and AccountID are where it was delivered, "" when it was not.
	Channel, To, AccountID string
}

// Turn takes a turn of an agent. It returns when the turn is over, or ctx is.
type Turn func(ctx context.Context, in TurnIn) (TurnOut, error)

// Outcome is what came of a request for a beat.
type Outcome struct {
	// Status is Ran, skipped or failed.
	Status string
	// Reason says why when it did not run.
	Reason string
}

// RunIn is the argument of RunNow.
type RunIn struct {
	// Agent is the agent to beat, "" for the default one.
	Agent string
}

// SetIn and SetOut are the argument and the result of SetEnabled.
type (
	SetIn  struct{ Enabled bool }
	SetOut struct{ Enabled bool }
)

// ErrUnknownAgent says that no agent of that name is configured.
var ErrUnknownAgent = errs.Define(errs.NotFound, "heartbeat.unknown_agent", "no agent of that name beats; see hanzoctl status for those that do")
