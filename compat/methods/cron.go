package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/cron"
)

// The parts of a job, as they come and go (control-plane.md §12). Which of them are there depends on kinds.
type (
	cronSchedule struct {
		Kind      string             `json:"kind"`
		At        wire.Opt[string]   `json:"at,omitzero"`
		EveryMs   wire.Opt[wire.Int] `json:"everyMs,omitzero"`
		AnchorMs  wire.Opt[wire.Int] `json:"anchorMs,omitzero"`
		Expr      wire.Opt[string]   `json:"expr,omitzero"`
		Zone      wire.Opt[string]   `json:"tz,omitzero"`
		StaggerMs wire.Opt[wire.Int] `json:"staggerMs,omitzero"`
	}
	cronPayload struct {
		Kind                       string                      `json:"kind"`
		Text                       wire.Opt[string]            `json:"text,omitzero"`
		Message                    wire.Opt[string]            `json:"message,omitzero"`
		Model                      wire.Opt[string]            `json:"model,omitzero"`
		Fallbacks                  wire.Opt[wire.List[string]] `json:"fallbacks,omitzero"`
		Thinking                   wire.Opt[string]            `json:"thinking,omitzero"`
		TimeoutSeconds             wire.Opt[wire.Int]          `json:"timeoutSeconds,omitzero"`
		AllowUnsafeExternalContent wire.Opt[bool]              `json:"allowUnsafeExternalContent,omitzero"`
		LightContext               wire.Opt[bool]              `json:"lightContext,omitzero"`
		Deliver                    wire.Opt[bool]              `json:"deliver,omitzero"`
		Channel                    wire.Opt[string]            `json:"channel,omitzero"`
		To                         wire.Opt[string]            `json:"to,omitzero"`
		BestEffortDeliver          wire.Opt[bool]              `json:"bestEffortDeliver,omitzero"`
	}
	cronDelivery struct {
		Mode       wire.Opt[string]          `json:"mode,omitzero"`
		Channel    wire.Opt[string]          `json:"channel,omitzero"`
		To         wire.Opt[string]          `json:"to,omitzero"`
		AccountID  wire.Opt[string]          `json:"accountId,omitzero"`
		BestEffort wire.Opt[bool]            `json:"bestEffort,omitzero"`
		Failure    wire.Opt[cronDestination] `json:"failureDestination,omitzero"`
	}
	cronDestination struct {
		Channel   wire.Opt[string] `json:"channel,omitzero"`
		To        wire.Opt[string] `json:"to,omitzero"`
		AccountID wire.Opt[string] `json:"accountId,omitzero"`
		Mode      wire.Opt[string] `json:"mode,omitzero"`
	}
	cronAlert struct {
		After      wire.Opt[wire.Int] `json:"after,omitzero"`
		Channel    wire.Opt[string]   `json:"channel,omitzero"`
		To         wire.Opt[string]   `json:"to,omitzero"`
		CooldownMs wire.Opt[wire.Int] `json:"cooldownMs,omitzero"`
		Mode       wire.Opt[string]   `json:"mode,omitzero"`
		AccountID  wire.Opt[string]   `json:"accountId,omitzero"`
	}
	cronState struct {
		NextRunMs          wire.Opt[wire.Int] `json:"nextRunAtMs,omitzero"`
		RunningMs          wire.Opt[wire.Int] `json:"runningAtMs,omitzero"`
		LastRunMs          wire.Opt[wire.Int] `json:"lastRunAtMs,omitzero"`
		LastRunStatus      wire.Opt[string]   `json:"lastRunStatus,omitzero"`
		LastStatus         wire.Opt[string]   `json:"lastStatus,omitzero"`
		LastError          wire.Opt[string]   `json:"lastError,omitzero"`
		LastDurationMs     wire.Opt[wire.Int] `json:"lastDurationMs,omitzero"`
		ConsecutiveErrors  wire.Opt[wire.Int] `json:"consecutiveErrors,omitzero"`
		LastDelivered      wire.Opt[bool]     `json:"lastDelivered,omitzero"`
		LastDeliveryStatus wire.Opt[string]   `json:"lastDeliveryStatus,omitzero"`
		LastDeliveryError  wire.Opt[string]   `json:"lastDeliveryError,omitzero"`
		LastFailureAlertMs wire.Opt[wire.Int] `json:"lastFailureAlertAtMs,omitzero"`
		ScheduleErrors     wire.Opt[wire.Int] `json:"scheduleErrorCount,omitzero"`
	}
	cronJob struct {
		ID             string                 `json:"id"`
		AgentID        wire.Opt[string]       `json:"agentId,omitzero"`
		SessionKey     wire.Opt[string]       `json:"sessionKey,omitzero"`
		Name           string                 `json:"name"`
		Description    wire.Opt[string]       `json:"description,omitzero"`
		Enabled        bool                   `json:"enabled"`
		DeleteAfterRun wire.Opt[bool]         `json:"deleteAfterRun,omitzero"`
		CreatedMs      wire.Int               `json:"createdAtMs"`
		UpdatedMs      wire.Int               `json:"updatedAtMs"`
		Schedule       cronSchedule           `json:"schedule"`
		Target         string                 `json:"sessionTarget"`
		WakeMode       string                 `json:"wakeMode"`
		Payload        cronPayload            `json:"payload"`
		Delivery       wire.Opt[cronDelivery] `json:"delivery,omitzero"`
		FailureAlert   wire.Raw               `json:"failureAlert,omitzero"`
		State          cronState              `json:"state"`
	}
	// cronAsked is a job as cron.add takes it and, less what is not there, a patch of one.
	cronAsked struct {
		Name           wire.Opt[string]       `json:"name"`
		AgentID        wire.Opt[string]       `json:"agentId"`
		SessionKey     wire.Opt[string]       `json:"sessionKey"`
		Description    wire.Opt[string]       `json:"description"`
		Enabled        wire.Opt[bool]         `json:"enabled"`
		DeleteAfterRun wire.Opt[bool]         `json:"deleteAfterRun"`
		Schedule       wire.Opt[cronSchedule] `json:"schedule"`
		Target         wire.Opt[string]       `json:"sessionTarget"`
		WakeMode       wire.Opt[string]       `json:"wakeMode"`
		Payload        wire.Opt[cronPayload]  `json:"payload"`
		Delivery       wire.Opt[cronDelivery] `json:"delivery"`
		FailureAlert   wire.Value             `json:"failureAlert"`
		State          wire.Opt[cronState]    `json:"state"`
	}
	cronRun struct {
		At             wire.Opt[wire.Int]  `json:"ts,omitzero"`
		JobID          string              `json:"jobId"`
		Action         string              `json:"action"`
		Status         wire.Opt[string]    `json:"status,omitzero"`
		Error          wire.Opt[string]    `json:"error,omitzero"`
		Summary        wire.Opt[string]    `json:"summary,omitzero"`
		Delivered      wire.Opt[bool]      `json:"delivered,omitzero"`
		DeliveryStatus wire.Opt[string]    `json:"deliveryStatus,omitzero"`
		DeliveryError  wire.Opt[string]    `json:"deliveryError,omitzero"`
		SessionID      wire.Opt[string]    `json:"sessionId,omitzero"`
		SessionKey     wire.Opt[string]    `json:"sessionKey,omitzero"`
		RunAtMs        wire.Opt[wire.Int]  `json:"runAtMs,omitzero"`
		DurationMs     wire.Opt[wire.Int]  `json:"durationMs,omitzero"`
		NextRunMs      wire.Opt[wire.Int]  `json:"nextRunAtMs,omitzero"`
		Model          wire.Opt[string]    `json:"model,omitzero"`
		Provider       wire.Opt[string]    `json:"provider,omitzero"`
		Usage          wire.Opt[cronUsage] `json:"usage,omitzero"`
		JobName        wire.Opt[string]    `json:"jobName,omitzero"`
	}
	cronUsage struct {
		Input      wire.Opt[wire.Int] `json:"input_tokens,omitzero"`
		Output     wire.Opt[wire.Int] `json:"output_tokens,omitzero"`
		Total      wire.Opt[wire.Int] `json:"total_tokens,omitzero"`
		CacheRead  wire.Opt[wire.Int] `json:"cache_read_tokens,omitzero"`
		CacheWrite wire.Opt[wire.Int] `json:"cache_write_tokens,omitzero"`
	}
	cronPage struct {
		Total   int           `json:"total"`
		Offset  int           `json:"offset"`
		Limit   int           `json:"limit"`
		HasMore bool          `json:"hasMore"`
		Next    wire.Opt[int] `json:"nextOffset"`
	}
)

func optPtr[T any](o wire.Opt[T]) *T {
	if v, ok := o.Get(); ok {
		return &v
	}
	return nil
}

func intPtr(o wire.Opt[wire.Int]) *int64 {
	if v, ok := o.Get(); ok {
		n := int64(v)
		return &n
	}
	return nil
}

func ptrOpt[T any](p *T) wire.Opt[T] {
	if p == nil {
		return wire.Opt[T]{}
	}
	return wire.Some(*p)
}

func ptrInt(p *int64) wire.Opt[wire.Int] {
	if p == nil {
		return wire.Opt[wire.Int]{}
	}
	return wire.Some(wire.Int(*p))
}

func nonZeroInt(n int64) wire.Opt[wire.Int] { return wire.NonZero(wire.Int(n)) }

// cleared is a text of a patch: null takes it away, as an empty one does.
func cleared(o wire.Opt[string]) *string {
	if o.IsZero() {
		return nil
	}
	s := o.Or("")
	return &s
}

func scheduleFromLegacy(s cronSchedule) cron.Schedule {
	out := cron.Schedule{
		Kind: cron.Kind(s.Kind), At: s.At.Or(""), EveryMs: int64(s.EveryMs.Or(0)), AnchorMs: intPtr(s.AnchorMs), Expr: s.Expr.Or(""), Zone: s.Zone.Or(""),
		StaggerMs: intPtr(s.StaggerMs),
	}
	if ms, ok := cron.ParseAt(out.At); ok { // the original keeps moments in one form
		out.At = cron.ISO(ms)
	}
	return out
}

func turnFromLegacy(p cronPayload) cron.Turn {
	t := cron.Turn{
		Message: p.Message.Or(""), Model: optPtr(p.Model), Thinking: optPtr(p.Thinking), TimeoutSeconds: intPtr(p.TimeoutSeconds),
		AllowUnsafeExternalContent: optPtr(p.AllowUnsafeExternalContent), LightContext: optPtr(p.LightContext), Deliver: optPtr(p.Deliver),
		Channel: optPtr(p.Channel), To: optPtr(p.To), BestEffortDeliver: optPtr(p.BestEffortDeliver),
	}
	if f, ok := p.Fallbacks.Get(); ok {
		list := []string(f)
		t.Fallbacks = &list
	}
	return t
}

func destinationFromLegacy(d cronDestination) cron.Destination {
	return cron.Destination{Channel: d.Channel.Or(""), To: d.To.Or(""), AccountID: d.AccountID.Or(""), Mode: d.Mode.Or("")}
}

// alertFromLegacy reads a failure alert; false is one that is off.
func alertFromLegacy(v wire.Value) (*cron.FailureAlertPatch, error) {
	switch v.Kind() {
	case wire.Bool:
		return &cron.FailureAlertPatch{Off: true}, nil
	case wire.Object:
		var a cronAlert
		err := wire.Decode(v, &a)
		return &cron.FailureAlertPatch{
			After: intPtr(a.After), CooldownMs: intPtr(a.CooldownMs), Channel: optPtr(a.Channel), To: optPtr(a.To), Mode: optPtr(a.Mode), AccountID: optPtr(a.AccountID),
		}, err
	}
	return nil, nil
}

// CronAddFromLegacy reads cron.add, once it was normalised.
func CronAddFromLegacy(p wire.Value) (cron.AddIn, error) {
	var in cronAsked
	if err := wire.Decode(p, &in); err != nil {
		return cron.AddIn{}, err
	}
	out := cron.AddIn{
		Name: in.Name.Or(""), AgentID: in.AgentID.Or(""), SessionKey: in.SessionKey.Or(""), Description: in.Description.Or(""), Enabled: optPtr(in.Enabled),
		DeleteAfterRun: optPtr(in.DeleteAfterRun), Schedule: scheduleFromLegacy(in.Schedule.Or(cronSchedule{})), Target: cron.Target(in.Target.Or("")),
		WakeMode: cron.WakeMode(in.WakeMode.Or("")),
	}
	if pl, ok := in.Payload.Get(); ok {
		out.Payload = cron.Payload{Kind: cron.PayloadKind(pl.Kind), Text: pl.Text.Or("")}
		if out.Payload.Kind == cron.AgentTurn {
			out.Payload.Turn = turnFromLegacy(pl)
		}
	}
	if d, ok := in.Delivery.Get(); ok {
		out.Delivery = &cron.Delivery{
			Mode: d.Mode.Or(""), Channel: d.Channel.Or(""), To: d.To.Or(""), AccountID: d.AccountID.Or(""), BestEffort: optPtr(d.BestEffort),
		}
		if f, ok := d.Failure.Get(); ok {
			to := destinationFromLegacy(f)
			out.Delivery.Failure = &to
		}
	}
	a, err := alertFromLegacy(in.FailureAlert)
	if a != nil {
		out.FailureAlert = &cron.FailureAlert{Off: a.Off, After: a.After, CooldownMs: a.CooldownMs}
		for _, t := range []struct{ to, from *string }{
			{&out.FailureAlert.Channel, a.Channel}, {&out.FailureAlert.To, a.To}, {&out.FailureAlert.Mode, a.Mode}, {&out.FailureAlert.AccountID, a.AccountID},
		} {
			if t.from != nil {
				*t.to = *t.from
			}
		}
	}
	return out, err
}

// cronID reads which job is meant: id, else jobId.
type cronID struct {
	ID    wire.Opt[string] `json:"id"`
	JobID wire.Opt[string] `json:"jobId"`
}

func (c cronID) id() string { return c.ID.Or(c.JobID.Or("")) }

type cronUpdateParams struct {
	cronID
	Patch cronAsked `json:"patch"`
}

// CronUpdateFromLegacy reads cron.update, once it was normalised.
func CronUpdateFromLegacy(p wire.Value) (cron.UpdateIn, error) {
	var in cronUpdateParams
	if err := wire.Decode(p, &in); err != nil {
		return cron.UpdateIn{}, err
	}
	ask := in.Patch
	out := cron.Patch{
		Name: optPtr(ask.Name), AgentID: cleared(ask.AgentID), SessionKey: cleared(ask.SessionKey), Description: cleared(ask.Description),
		Enabled: optPtr(ask.Enabled), DeleteAfterRun: optPtr(ask.DeleteAfterRun), Target: cron.Target(ask.Target.Or("")), WakeMode: cron.WakeMode(ask.WakeMode.Or("")),
	}
	if s, ok := ask.Schedule.Get(); ok {
		schedule := scheduleFromLegacy(s)
		out.Schedule = &schedule
	}
	if pl, ok := ask.Payload.Get(); ok {
		out.Payload = &cron.PayloadPatch{Kind: cron.PayloadKind(pl.Kind), Text: optPtr(pl.Text), Message: optPtr(pl.Message), Turn: turnFromLegacy(pl)}
		out.Payload.Turn.Message = ""
	}
	if d, ok := ask.Delivery.Get(); ok {
		out.Delivery = &cron.DeliveryPatch{
			Mode: optPtr(d.Mode), Channel: optPtr(d.Channel), To: optPtr(d.To), AccountID: optPtr(d.AccountID), BestEffort: optPtr(d.BestEffort),
		}
		if f, ok := d.Failure.Get(); ok {
			out.Delivery.Failure = &cron.DestinationPatch{Channel: optPtr(f.Channel), To: optPtr(f.To), AccountID: optPtr(f.AccountID), Mode: optPtr(f.Mode)}
		}
	}
	if s, ok := ask.State.Get(); ok {
		out.State = &cron.StatePatch{
			NextRunMs: intPtr(s.NextRunMs), LastRunMs: intPtr(s.LastRunMs), LastRunStatus: (*cron.Status)(optPtr(s.LastRunStatus)),
			LastStatus: (*cron.Status)(optPtr(s.LastStatus)), LastError: optPtr(s.LastError), LastDurationMs: intPtr(s.LastDurationMs),
			ConsecutiveErrors: intPtr(s.ConsecutiveErrors), LastDelivered: optPtr(s.LastDelivered), LastDeliveryStatus: optPtr(s.LastDeliveryStatus),
			LastDeliveryError: optPtr(s.LastDeliveryError), LastFailureAlertMs: intPtr(s.LastFailureAlertMs),
		}
	}
	var err error
	out.FailureAlert, err = alertFromLegacy(ask.FailureAlert)
	return cron.UpdateIn{ID: in.id(), Patch: out}, err
}

// CronJobToLegacy writes a job.
func CronJobToLegacy(j cron.Job) any { return jobToLegacy(j) }

func jobToLegacy(j cron.Job) cronJob {
	s, st := j.Schedule, j.State
	out := cronJob{
		ID: j.ID, AgentID: wire.NonZero(j.AgentID), SessionKey: wire.NonZero(j.SessionKey), Name: j.Name, Description: wire.NonZero(j.Description),
		Enabled: j.Enabled, DeleteAfterRun: ptrOpt(j.DeleteAfterRun), CreatedMs: wire.Int(j.CreatedMs), UpdatedMs: wire.Int(j.UpdatedMs),
		Schedule: cronSchedule{
			Kind: string(s.Kind), At: wire.NonZero(s.At), EveryMs: nonZeroInt(s.EveryMs), AnchorMs: ptrInt(s.AnchorMs), Expr: wire.NonZero(s.Expr),
			Zone: wire.NonZero(s.Zone), StaggerMs: ptrInt(s.StaggerMs),
		},
		Target: string(j.Target), WakeMode: string(j.WakeMode), Payload: cronPayload{Kind: string(j.Payload.Kind), Text: wire.NonZero(j.Payload.Text)},
		State: cronState{
			NextRunMs: nonZeroInt(st.NextRunMs), RunningMs: nonZeroInt(st.RunningMs), LastRunMs: nonZeroInt(st.LastRunMs),
			LastRunStatus: wire.NonZero(string(st.LastRunStatus)), LastStatus: wire.NonZero(string(st.LastStatus)), LastError: wire.NonZero(st.LastError),
			LastDurationMs: ptrInt(st.LastDurationMs), ConsecutiveErrors: ptrInt(st.ConsecutiveErrors), LastDelivered: ptrOpt(st.LastDelivered),
			LastDeliveryStatus: wire.NonZero(st.LastDeliveryStatus), LastDeliveryError: wire.NonZero(st.LastDeliveryError),
			LastFailureAlertMs: nonZeroInt(st.LastFailureAlertMs), ScheduleErrors: nonZeroInt(st.ScheduleErrors),
		},
	}
	if t := j.Payload.Turn; j.Payload.Kind != cron.SystemEvent {
		out.Payload.Message, out.Payload.Model, out.Payload.Thinking = wire.NonZero(t.Message), ptrOpt(t.Model), ptrOpt(t.Thinking)
		out.Payload.TimeoutSeconds, out.Payload.AllowUnsafeExternalContent = ptrInt(t.TimeoutSeconds), ptrOpt(t.AllowUnsafeExternalContent)
		out.Payload.LightContext, out.Payload.Deliver, out.Payload.Channel = ptrOpt(t.LightContext), ptrOpt(t.Deliver), ptrOpt(t.Channel)
		out.Payload.To, out.Payload.BestEffortDeliver = ptrOpt(t.To), ptrOpt(t.BestEffortDeliver)
		if t.Fallbacks != nil {
			out.Payload.Fallbacks = wire.Some(wire.List[string](*t.Fallbacks))
		}
	}
	if d := j.Delivery; d != nil {
		to := cronDelivery{
			Mode: wire.Some(d.Mode), Channel: wire.NonZero(d.Channel), To: wire.NonZero(d.To), AccountID: wire.NonZero(d.AccountID), BestEffort: ptrOpt(d.BestEffort),
		}
		if f := d.Failure; f != nil {
			to.Failure = wire.Some(cronDestination{
				Channel: wire.NonZero(f.Channel), To: wire.NonZero(f.To), AccountID: wire.NonZero(f.AccountID), Mode: wire.NonZero(f.Mode),
			})
		}
		out.Delivery = wire.Some(to)
	}
	switch a := j.FailureAlert; {
	case a == nil:
	case a.Off:
		out.FailureAlert = wire.Raw("false")
	default:
		out.FailureAlert = wire.MustMarshal(cronAlert{
			After: ptrInt(a.After), Channel: wire.NonZero(a.Channel), To: wire.NonZero(a.To), CooldownMs: ptrInt(a.CooldownMs), Mode: wire.NonZero(a.Mode),
			AccountID: wire.NonZero(a.AccountID),
		})
	}
	return out
}

type cronListParams struct {
	IncludeDisabled bool             `json:"includeDisabled"`
	Limit           wire.Opt[int]    `json:"limit"`
	Offset          wire.Opt[int]    `json:"offset"`
	Query           wire.Opt[string] `json:"query"`
	Enabled         wire.Opt[string] `json:"enabled"`
	SortBy          wire.Opt[string] `json:"sortBy"`
	SortDir         wire.Opt[string] `json:"sortDir"`
}

// CronListFromLegacy reads cron.list.
func CronListFromLegacy(p wire.Value) (cron.ListIn, error) {
	var in cronListParams
	err := wire.Decode(p, &in)
	return cron.ListIn{
		IncludeDisabled: in.IncludeDisabled, Limit: optPtr(in.Limit), Offset: in.Offset.Or(0), Query: in.Query.Or(""), Enabled: in.Enabled.Or(""),
		SortBy: in.SortBy.Or(""), Descend: in.SortDir.Or("") == "desc",
	}, err
}

func pageToLegacy(p cron.Page) cronPage {
	out := cronPage{Total: p.Total, Offset: p.Offset, Limit: p.Limit, HasMore: p.Next != nil, Next: wire.NullOf[int]()}
	if p.Next != nil {
		out.Next = wire.Some(*p.Next)
	}
	return out
}

// CronListToLegacy writes the result of cron.list.
func CronListToLegacy(out cron.ListOut) any {
	list := struct {
		Jobs wire.List[cronJob] `json:"jobs"`
		cronPage
	}{cronPage: pageToLegacy(out.Page)}
	for _, j := range out.Jobs {
		list.Jobs = append(list.Jobs, jobToLegacy(j))
	}
	return list
}

// CronStatusToLegacy writes the result of cron.status.
func CronStatusToLegacy(out cron.StatusOut) any {
	next := wire.NullOf[wire.Int]()
	if out.NextMs != 0 {
		next = wire.Some(wire.Int(out.NextMs))
	}
	return struct {
		Enabled   bool               `json:"enabled"`
		StorePath string             `json:"storePath"`
		Jobs      int                `json:"jobs"`
		Next      wire.Opt[wire.Int] `json:"nextWakeAtMs"`
	}{out.Enabled, out.StorePath, out.Jobs, next}
}

// CronIDFromLegacy reads cron.remove.
func CronIDFromLegacy(p wire.Value) (string, error) {
	var in cronID
	err := wire.Decode(p, &in)
	return in.id(), err
}

// CronRemoveToLegacy writes the result of cron.remove.
func CronRemoveToLegacy(out cron.RemoveOut) any {
	return struct {
		OK      bool `json:"ok"`
		Removed bool `json:"removed"`
	}{true, out.Removed}
}

type cronRunParams struct {
	cronID
	Mode wire.Opt[string] `json:"mode"`
}

// CronRunFromLegacy reads cron.run.
func CronRunFromLegacy(p wire.Value) (cron.RunIn, error) {
	var in cronRunParams
	err := wire.Decode(p, &in)
	return cron.RunIn{ID: in.id(), Due: in.Mode.Or("") == "due"}, err
}

// CronRunToLegacy writes the result of cron.run.
func CronRunToLegacy(out cron.RunOut) any {
	return struct {
		OK     bool             `json:"ok"`
		Ran    bool             `json:"ran"`
		Reason wire.Opt[string] `json:"reason,omitzero"`
	}{true, out.Ran, wire.NonZero(out.Reason)}
}

type cronRunsParams struct {
	cronID
	Scope            wire.Opt[string] `json:"scope"`
	Limit            wire.Opt[int]    `json:"limit"`
	Offset           wire.Opt[int]    `json:"offset"`
	Statuses         []string         `json:"statuses"`
	Status           wire.Opt[string] `json:"status"`
	DeliveryStatuses []string         `json:"deliveryStatuses"`
	DeliveryStatus   wire.Opt[string] `json:"deliveryStatus"`
	Query            wire.Opt[string] `json:"query"`
	SortDir          wire.Opt[string] `json:"sortDir"`
}

// CronRunsFromLegacy reads cron.runs. Lists win over single words.
func CronRunsFromLegacy(p wire.Value) (cron.RunsIn, error) {
	var in cronRunsParams
	err := wire.Decode(p, &in)
	out := cron.RunsIn{
		ID: in.id(), All: in.Scope.Or("") == "all" || in.Scope.IsZero() && in.id() == "", Limit: optPtr(in.Limit), Offset: in.Offset.Or(0), Query: in.Query.Or(""),
		DeliveryStatuses: in.DeliveryStatuses, Ascend: in.SortDir.Or("") == "asc",
	}
	for _, s := range in.Statuses {
		out.Statuses = append(out.Statuses, cron.Status(s))
	}
	if s, ok := in.Status.Get(); ok && len(out.Statuses) == 0 && s != "all" {
		out.Statuses = []cron.Status{cron.Status(s)}
	}
	if s, ok := in.DeliveryStatus.Get(); ok && len(out.DeliveryStatuses) == 0 {
		out.DeliveryStatuses = []string{s}
	}
	return out, err
}

func runToLegacy(e cron.Entry) cronRun {
	out := cronRun{
		At: nonZeroInt(e.AtMs), JobID: e.JobID, Action: "finished", Status: wire.NonZero(string(e.Status)), Error: wire.NonZero(e.Error), Summary: wire.NonZero(e.Summary),
		Delivered: ptrOpt(e.Delivered), DeliveryStatus: wire.NonZero(e.DeliveryStatus), DeliveryError: wire.NonZero(e.DeliveryError),
		SessionID: wire.NonZero(e.SessionID), SessionKey: wire.NonZero(e.SessionKey), RunAtMs: nonZeroInt(e.RunAtMs), DurationMs: ptrInt(e.DurationMs),
		NextRunMs: nonZeroInt(e.NextRunMs), Model: wire.NonZero(e.Model), Provider: wire.NonZero(e.Provider), JobName: wire.NonZero(e.JobName),
	}
	if u := e.Usage; u != nil {
		out.Usage = wire.Some(cronUsage{
			Input: ptrInt(u.Input), Output: ptrInt(u.Output), Total: ptrInt(u.Total), CacheRead: ptrInt(u.CacheRead), CacheWrite: ptrInt(u.CacheWrite),
		})
	}
	return out
}

// CronRunsToLegacy writes the result of cron.runs.
func CronRunsToLegacy(out cron.RunsOut) any {
	list := struct {
		Entries wire.List[cronRun] `json:"entries"`
		cronPage
	}{cronPage: pageToLegacy(out.Page)}
	for _, e := range out.Entries {
		list.Entries = append(list.Entries, runToLegacy(e))
	}
	return list
}

// CronChangedToLegacy writes the payload of the event cron: of a finished run the row without its time and the
// name of the job.
func CronChangedToLegacy(c cron.Changed) any {
	if c.Entry != nil {
		e := *c.Entry
		e.AtMs, e.JobName = 0, ""
		return runToLegacy(e)
	}
	return cronRun{JobID: c.JobID, Action: c.Action, RunAtMs: nonZeroInt(c.RunAtMs), NextRunMs: nonZeroInt(c.NextRunMs)}
}
