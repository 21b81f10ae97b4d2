package cron

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Kind is how a schedule says when.
type Kind string

// The kinds of schedules, with their legacy names.
const (
	At    Kind = "at"
	Every Kind = "every"
	Cron  Kind = "cron"
)

// Schedule is when a job is due (control-plane.md §12).
type Schedule struct {
	Kind Kind
	// At is the text of a moment: ISO 8601, in UTC where it names no zone, or Unix milliseconds.
	At string
	// EveryMs is the distance of two runs; AnchorMs is the moment that they are counted from.
	EveryMs  int64
	AnchorMs *int64
	// Expr is an expression, Zone the zone of its clocks, "" for that of this machine. StaggerMs is how far
	// jobs of the same minute are spread, nil for what the expression asks for.
	Expr      string
	Zone      string
	StaggerMs *int64
}

// Target is the session that a job is about: "" for jobs that run commands.
type Target string

// The targets, with their legacy names.
const (
	Main     Target = "main"
	Isolated Target = "isolated"
)

// WakeMode says when an agent looks at the event of a job.
type WakeMode string

// The modes, with their legacy names.
const (
	WakeNow           WakeMode = "now"
	WakeNextHeartbeat WakeMode = "next-heartbeat"
)

// PayloadKind is what a job does.
type PayloadKind string

// The kinds of payloads. RunCommand is ours and not shown at the legacy door.
const (
	SystemEvent PayloadKind = "systemEvent"
	AgentTurn   PayloadKind = "agentTurn"
	RunCommand  PayloadKind = "command"
)

// Payload is what a job does: Text of a system event, Turn or Command, by its kind.
type Payload struct {
	Kind    PayloadKind
	Text    string
	Turn    Turn
	Command Command
}

// Turn is what an agent is asked; nil is what was not said.
type Turn struct {
	Message                    string
	Model                      *string
	Fallbacks                  *[]string
	Thinking                   *string
	TimeoutSeconds             *int64
	AllowUnsafeExternalContent *bool
	LightContext               *bool
	Deliver                    *bool
	Channel                    *string
	To                         *string
	BestEffortDeliver          *bool
}

// Command is a command on a node. It passes the same policy and approvals as one that a person runs.
type Command struct {
	NodeID string
	Argv   []string
	Cwd    string
	// Env is handed to the node with each run. It is kept with the job and not shown.
	Env map[string]string
	// Timeout is the limit of the command, zero for the usual one; ApprovalTimeout is how long a question
	// stands, WaitForNode how long a node that is not connected is waited for, both bounded in any case.
	Timeout         time.Duration
	ApprovalTimeout time.Duration
	WaitForNode     time.Duration
}

// Delivery is where the answer of a job goes. Empty texts were not said.
type Delivery struct {
	Mode       string // none, announce or webhook
	Channel    string
	To         string
	AccountID  string
	BestEffort *bool
	Failure    *Destination
}

// Destination is where failures go instead.
type Destination struct{ Channel, To, AccountID, Mode string }

// FailureAlert says whom to tell when a job keeps failing. Off is the false of the legacy door.
type FailureAlert struct {
	Off        bool
	After      *int64
	Channel    string
	To         string
	CooldownMs *int64
	Mode       string
	AccountID  string
}

// MissedMode is what becomes of slots at which the job could not run.
type MissedMode string

// What becomes of missed slots. Each that is left out has a row in the run log.
const (
	// MissedOnce runs the job once for all of them, as the original does after its start.
	MissedOnce MissedMode = "run-once"
	// MissedSkip leaves them out.
	MissedSkip MissedMode = "skip"
	// MissedAll runs the job for each of the last hundred.
	MissedAll MissedMode = "run-all"
	// MissedWithin runs the job once if the last of them is not older than Missed.Within.
	MissedWithin MissedMode = "within"
)

// Missed is the policy for missed slots. The zero value is MissedOnce.
type Missed struct {
	Mode   MissedMode
	Within time.Duration
}

// Status is how a run ended.
type Status string

// How runs end, with their legacy names.
const (
	OK      Status = "ok"
	Failed  Status = "error"
	Skipped Status = "skipped"
)

// How deliveries end, with their legacy names.
const (
	Delivered    = "delivered"
	NotDelivered = "not-delivered"
	UnknownYet   = "unknown"
	NotRequested = "not-requested"
)

// State is where a job stands. Moments are Unix milliseconds, 0 for none: slots are compared exactly.
type State struct {
	NextRunMs          int64
	RunningMs          int64
	LastRunMs          int64
	LastRunStatus      Status
	LastStatus         Status
	LastError          string
	LastDurationMs     *int64
	ConsecutiveErrors  *int64
	LastDelivered      *bool
	LastDeliveryStatus string
	LastDeliveryError  string
	LastFailureAlertMs int64
	ScheduleErrors     int64

	// SlotMs is the slot that is being run, 0 for a run that somebody asked for. LastSlotMs is the last one
	// that is done with, run or left out: none at or before it is ever run.
	SlotMs     int64
	LastSlotMs int64
	// RunID is the run of a command that is under way.
	RunID string
}

// Owner is who set a command up: it runs as theirs.
type Owner struct {
	DeviceID string
	Paired   bool
	// Tenant is the organisation of the owner, empty for the gateway's own.
	Tenant      string
	Principal   string
	Scopes      []identity.Scope
	ClientID    string
	DisplayName string
	Local       bool
}

// Caller is the owner as domains know it.
func (o Owner) Caller() identity.Caller {
	return identity.Caller{
		Door: identity.DoorInternal, Role: identity.RoleOperator, Scopes: o.Scopes, DeviceID: o.DeviceID, Paired: o.Paired,
		Tenant: o.Tenant, Principal: o.Principal, ClientID: o.ClientID, DisplayName: o.DisplayName, Local: o.Local,
	}
}

// Job is one scheduled job. A stored one is never changed in place.
type Job struct {
	ID             string
	AgentID        string
	SessionKey     string
	Name           string
	Description    string
	Enabled        bool
	DeleteAfterRun *bool
	CreatedMs      int64
	UpdatedMs      int64
	Schedule       Schedule
	Target         Target
	WakeMode       WakeMode
	Payload        Payload
	Delivery       *Delivery
	FailureAlert   *FailureAlert
	Missed         Missed
	Owner          Owner // of a command
	State          State
}

// own says that a job is of a kind that the legacy door does not know.
func (j *Job) own() bool { return j.Payload.Kind == RunCommand }

// Entry is a row of the run log: how a run ended, or slots that were left out.
type Entry struct {
	// Seq counts the rows of all jobs.
	Seq            uint64
	AtMs           int64
	JobID          string
	Status         Status
	Error          string
	Summary        string
	Delivered      *bool
	DeliveryStatus string
	DeliveryError  string
	SessionID      string
	SessionKey     string
	RunAtMs        int64
	DurationMs     *int64
	NextRunMs      int64
	Model          string
	Provider       string
	Usage          *Usage
	// JobName is filled in when all jobs are asked for.
	JobName string

	// SlotMs is the slot that was run or left out, 0 for a run that somebody asked for. LeftOut is how many
	// slots were left out: 0 for a run, more than 1 where one row stands for those from SlotMs to UntilMs.
	SlotMs  int64
	LeftOut int64
	UntilMs int64
	// RunID, NodeID and ExitCode are those of a command. Own marks rows of kinds that the legacy door does
	// not know.
	RunID    string
	NodeID   string
	ExitCode *int64
	Own      bool
}

// Usage is what a turn cost; nil is what was not said.
type Usage struct{ Input, Output, Total, CacheRead, CacheWrite *int64 }

// Changed is the payload of the events cron and cron.changed. Entry is set for finished ones.
type Changed struct {
	JobID     string
	Action    string // added, updated, removed, started or finished
	NextRunMs int64
	RunAtMs   int64
	Entry     *Entry
}

// AddIn is the argument of Add: a job as it is asked for. Nil is what was not said.
type AddIn struct {
	Name           string
	AgentID        string
	SessionKey     string
	Description    string
	Enabled        *bool
	DeleteAfterRun *bool
	Schedule       Schedule
	Target         Target
	WakeMode       WakeMode
	Payload        Payload
	Delivery       *Delivery
	FailureAlert   *FailureAlert
	Missed         Missed
}

// Patch is what Update changes; nil stays as it is, an empty text is taken away.
type Patch struct {
	Name           *string
	AgentID        *string
	SessionKey     *string
	Description    *string
	Enabled        *bool
	DeleteAfterRun *bool
	Schedule       *Schedule
	Target         Target   // "" stays
	WakeMode       WakeMode // "" stays
	Payload        *PayloadPatch
	Delivery       *DeliveryPatch
	FailureAlert   *FailureAlertPatch
	State          *StatePatch
	Missed         *Missed
}

// PayloadPatch changes a payload of its kind, or replaces one of another.
type PayloadPatch struct {
	Kind    PayloadKind
	Text    *string
	Message *string
	Turn    Turn // but for the message; nil stays
	Command *Command
}

// DeliveryPatch changes a delivery; nil stays.
type DeliveryPatch struct {
	Mode, Channel, To, AccountID *string
	BestEffort                   *bool
	Failure                      *DestinationPatch
}

// DestinationPatch changes where failures go; nil stays.
type DestinationPatch struct{ Channel, To, AccountID, Mode *string }

// FailureAlertPatch changes a failure alert; nil stays.
type FailureAlertPatch struct {
	Off                          bool
	After                        *int64
	CooldownMs                   *int64
	Channel, To, Mode, AccountID *string
}

// StatePatch writes over what is known of a job; nil stays. Whether it runs cannot be written.
type StatePatch struct {
	NextRunMs, LastRunMs                  *int64
	LastRunStatus, LastStatus             *Status
	LastError                             *string
	LastDurationMs, ConsecutiveErrors     *int64
	LastDelivered                         *bool
	LastDeliveryStatus, LastDeliveryError *string
	LastFailureAlertMs                    *int64
}

// ListIn is the argument of List.
type ListIn struct {
	IncludeDisabled bool
	// Enabled is all, enabled, disabled, or "" for what IncludeDisabled says.
	Enabled string
	// Limit is 1 to MaxPage, nil for all that are found, MaxPage of them at the most.
	Limit  *int
	Offset int
	// Query is looked for in name, description and agent, whatever the case.
	Query   string
	SortBy  string // nextRunAtMs (""), updatedAtMs or name
	Descend bool
}

// ListOut is a page of jobs.
type ListOut struct {
	Jobs []Job
	Page Page
}

// Page says which part of a whole was answered.
type Page struct {
	Total, Offset, Limit int
	// Next is where the next page begins, nil at the end.
	Next *int
}

// StatusOut is the result of Status.
type StatusOut struct {
	Enabled bool
	// StorePath is where the original keeps its jobs; here they are in the database.
	StorePath string
	Jobs      int
	// NextMs is when the next job is due, 0 when none is.
	NextMs  int64
	Running int
}

// UpdateIn is the argument of Update.
type UpdateIn struct {
	ID    string
	Patch Patch
}

// RemoveOut is the result of Remove.
type RemoveOut struct{ Removed bool }

// RunIn is the argument of Run: at once, or only if it is due.
type RunIn struct {
	ID  string
	Due bool
}

// RunOut is the result of Run. Reason says why it did not run: not-due or already-running.
type RunOut struct {
	Ran    bool
	Reason string
}

// RunsIn is the argument of Runs.
type RunsIn struct {
	// All asks for the rows of all jobs, whatever ID is.
	All bool
	ID  string
	// Limit is 1 to MaxPage, nil for DefaultRuns.
	Limit            *int
	Offset           int
	Statuses         []Status
	DeliveryStatuses []string
	// Query is looked for in summary, error, id and name of the job, whatever the case.
	Query  string
	Ascend bool
}

// RunsOut is a page of the run log.
type RunsOut struct {
	Entries []Entry
	Page    Page
}

// PreviewIn is the argument of Preview.
type PreviewIn struct {
	Schedule Schedule
	// FromMs is the moment to begin after, 0 for now. Count is 5 when zero, 100 at the most.
	FromMs int64
	Count  int
}

// PreviewOut are the next moments at which a schedule is due, without its stagger.
type PreviewOut struct{ AtMs []int64 }

// Change is what one transaction writes.
type Change struct {
	Put    []Job
	Remove []string
	// Append are rows in order. Their Seq is set by the store.
	Append []*Entry
}

// Find says which rows are wanted of the run log.
type Find struct {
	JobID string // "" for all
	// Match says which of them count; nil is all.
	Match  func(*Entry) bool
	Ascend bool
	Offset int
	Limit  int
}

// Keep bounds the run log: rows and bytes of each job, and rows of all.
type Keep struct {
	Rows  int
	Bytes int64
	All   int
}

// Store keeps jobs and the run log. Writes are durable when they return nil.
type Store interface {
	CronJobs() ([]Job, error)
	// WriteCron writes all of a change or nothing.
	WriteCron(ctx context.Context, c Change) error
	// CronRuns returns a page and how many rows there are. An offset beyond the end counts as the end.
	CronRuns(f Find) (rows []Entry, total int, err error)
	// PruneCronRuns drops the oldest rows beyond the bounds.
	PruneCronRuns(ctx context.Context, k Keep) (int, error)
}

// Queue tells the main session of things. It is satisfied by system, in the form that runtime gives it.
type Queue interface {
	// Queue returns when the text is on disk.
	Queue(ctx context.Context, text, key string) error
}

// Heartbeats let the agent of the main session look for work. It is satisfied by heartbeat, in the form that
// runtime gives it.
type Heartbeats interface {
	// RunHeartbeat returns what came of it: ran, skipped or failed, and why.
	RunHeartbeat(ctx context.Context, reason string) (status, why string)
	// Request asks for one later.
	Request(reason string)
}

// Commands runs commands on nodes. It is satisfied by runs, in the form that runtime gives them.
type Commands interface {
	// Both return ErrStopped when the daemon ends first: the run is then as it was left.

	// Start returns when the run is on disk under the id. The same call again is the same run.
	Start(ctx context.Context, c identity.Caller, id string, cmd Command) error
	// Wait returns how the run ended.
	Wait(ctx context.Context, c identity.Caller, id string) (CommandEnd, error)
}

// CommandEnd is how a command ended.
type CommandEnd struct {
	// ExitCode is nil when it did not exit by itself; Failure is why it came to no result.
	ExitCode *int
	TimedOut bool
	Failure  string
	Output   string
}

// Settings are what the configuration says. They may change while jobs run.
type Settings struct {
	Enabled     bool
	StorePath   string
	MainAgent   string
	MaxTurns    int // agent turns at a time
	MaxAttempts int
	Backoff     []time.Duration
	RetryOn     []string // nil for all
	KeepRows    int
	KeepBytes   int64
	Token       func() string // of webhooks, revealed only where it is sent
	Alert       AlertSettings
	Failure     Destination
}

// AlertSettings are those of failure alerts where a job says nothing.
type AlertSettings struct {
	Enabled         bool
	After           int
	Cooldown        time.Duration
	Mode, AccountID string
}

// The errors of this package. Those of jobs have the words of the original.
var (
	ErrUnknownJob  = errs.Define(errs.NotFound, "cron.unknown_job", "unknown cron job id")
	ErrName        = errs.Define(errs.Invalid, "cron.name", "cron job name is required")
	ErrMainPayload = errs.Define(errs.Invalid, "cron.main_payload", `main cron jobs require payload.kind="systemEvent"`)
	ErrIsolated    = errs.Define(errs.Invalid, "cron.isolated_payload", `isolated cron jobs require payload.kind="agentTurn"`)
	ErrMainAgent   = errs.Define(errs.Invalid, "cron.main_agent", `cron: sessionTarget "main" is only valid for the default agent`)
	ErrWebhookURL  = errs.Define(errs.Invalid, "cron.webhook_url", "cron webhook delivery requires delivery.to to be a valid http(s) URL")
	ErrChannel     = errs.Define(errs.Invalid, "cron.channel_delivery", `cron channel delivery config is only supported for sessionTarget="isolated"`)
	ErrTelegram    = errs.Define(errs.Invalid, "cron.telegram_target", "Invalid Telegram delivery target")
	ErrFailureMain = errs.Define(errs.Invalid, "cron.failure_destination", `cron delivery.failureDestination is only supported for sessionTarget="isolated" unless delivery.mode="webhook"`)
	ErrFailureURL  = errs.Define(errs.Invalid, "cron.failure_url", "cron failure destination webhook requires delivery.failureDestination.to to be a valid http(s) URL")
	ErrPatchText   = errs.Define(errs.Invalid, "cron.patch_text", `cron.update payload.kind="systemEvent" requires text`)
	ErrPatchTurn   = errs.Define(errs.Invalid, "cron.patch_message", `cron.update payload.kind="agentTurn" requires message`)
	ErrExpression  = errs.Define(errs.Invalid, "cron.expression", "the cron expression cannot be read")
	ErrZone        = errs.Define(errs.Invalid, "cron.zone", "the time zone is not known")
	ErrAtFormat    = errs.Define(errs.Invalid, "cron.at_format", "Invalid schedule.at: expected ISO-8601 timestamp")
	ErrAtPast      = errs.Define(errs.Invalid, "cron.at_past", "schedule.at is in the past")
	ErrAtFar       = errs.Define(errs.Invalid, "cron.at_far", "schedule.at is too far in the future")
	ErrRunsID      = errs.Define(errs.Invalid, "cron.runs_id", "invalid id")
	ErrSchedule    = errs.Define(errs.Invalid, "cron.schedule", `a schedule is "at" with a moment, "every" with 1 ms or more, or "cron" with an expression`)
	ErrPayload     = errs.Define(errs.Invalid, "cron.payload", "a payload is a system event with a text, an agent turn with a message, or a command with a node and its words")
	ErrTarget      = errs.Define(errs.Invalid, "cron.target", `the session target is "main" or "isolated", the wake mode "now" or "next-heartbeat"; a command has neither target nor delivery to a channel`)
	ErrMissed      = errs.Define(errs.Invalid, "cron.missed", "the policy for missed slots is skip, run-once, run-all, or within a duration of 1s to 366 days")
	ErrCommand     = errs.Define(errs.Invalid, "cron.command", "a command needs a node and words of 256 KiB at the most with its environment, in valid UTF-8; it may run for 24 hours, its approval wait for a day and its node be waited for an hour")
	ErrOwner       = errs.Define(errs.Denied, "cron.owner", "a command runs as who set it up, and this connection is nobody who lasts: use the local socket or a paired device")
	ErrOwnKind     = errs.Define(errs.Invalid, "cron.own_kind", "this door does not know jobs that run commands; use hanzoctl cron")
	ErrTooLarge    = errs.Define(errs.Invalid, "cron.too_large", "a job may take 1 MiB at the most")
	ErrTooMany     = errs.Define(errs.Exhausted, "cron.too_many", "there are 10000 jobs, which is the most; remove some")
	ErrBusy        = errs.Define(errs.Exhausted, "cron.busy", "too many changes of jobs are waiting; try again later")
	ErrStopped     = errs.Define(errs.Unavailable, "cron.stopped", "the daemon is stopping; what was asked for was not done")
	ErrPreview     = errs.Define(errs.Invalid, "cron.preview", "ask for 1 to 100 moments")
	ErrPage        = errs.Define(errs.Invalid, "cron.page", "a page has 1 to 200 entries and begins at 0 or later")
	ErrFilter      = errs.Define(errs.Invalid, "cron.filter", "a filter or an order is none that this call knows")
)
