package rpc

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/cron"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Cron is what the door needs of cron.Service.
type Cron interface {
	List(context.Context, identity.Caller, cron.ListIn) (cron.ListOut, error)
	Get(ctx context.Context, c identity.Caller, id string) (cron.Job, error)
	Add(context.Context, identity.Caller, cron.AddIn) (cron.Job, error)
	Update(context.Context, identity.Caller, cron.UpdateIn) (cron.Job, error)
	Remove(ctx context.Context, c identity.Caller, id string) (cron.RemoveOut, error)
	RunNow(context.Context, identity.Caller, cron.RunIn) (cron.RunOut, error)
	Runs(context.Context, identity.Caller, cron.RunsIn) (cron.RunsOut, error)
	Status(context.Context, identity.Caller, struct{}) (cron.StatusOut, error)
	Preview(context.Context, identity.Caller, cron.PreviewIn) (cron.PreviewOut, error)
}

type cronServer struct {
	cronv1.UnimplementedCronServiceServer
	s *Server
}

func (k *cronServer) ListJobs(ctx context.Context, req *cronv1.ListJobsRequest) (*cronv1.ListJobsResponse, error) {
	return call(ctx, req, listJobsFromProto, k.s.d.Cron.List, listJobsToProto)
}

func (k *cronServer) GetJob(ctx context.Context, req *cronv1.GetJobRequest) (*cronv1.GetJobResponse, error) {
	return call(ctx, req, idFromProto, k.s.d.Cron.Get, func(j cron.Job) (*cronv1.GetJobResponse, error) {
		return &cronv1.GetJobResponse{Job: jobToProto(j)}, nil
	})
}

func (k *cronServer) AddJob(ctx context.Context, req *cronv1.AddJobRequest) (*cronv1.AddJobResponse, error) {
	return call(ctx, req, addJobFromProto, k.s.d.Cron.Add, func(j cron.Job) (*cronv1.AddJobResponse, error) {
		return &cronv1.AddJobResponse{Job: jobToProto(j)}, nil
	})
}

func (k *cronServer) UpdateJob(ctx context.Context, req *cronv1.UpdateJobRequest) (*cronv1.UpdateJobResponse, error) {
	return call(ctx, req, updateJobFromProto, k.s.d.Cron.Update, func(j cron.Job) (*cronv1.UpdateJobResponse, error) {
		return &cronv1.UpdateJobResponse{Job: jobToProto(j)}, nil
	})
}

func (k *cronServer) RemoveJob(ctx context.Context, req *cronv1.RemoveJobRequest) (*cronv1.RemoveJobResponse, error) {
	return call(ctx, req, idFromProto, k.s.d.Cron.Remove, func(out cron.RemoveOut) (*cronv1.RemoveJobResponse, error) {
		return &cronv1.RemoveJobResponse{Removed: out.Removed}, nil
	})
}

func (k *cronServer) RunJob(ctx context.Context, req *cronv1.RunJobRequest) (*cronv1.RunJobResponse, error) {
	return call(ctx, req, runJobFromProto, k.run, func(out cron.RunOut) (*cronv1.RunJobResponse, error) {
		return &cronv1.RunJobResponse{Ran: out.Ran, Reason: out.Reason}, nil
	})
}

// run stands among the streams while it lasts, as the wait for a run does.
func (k *cronServer) run(ctx context.Context, c identity.Caller, in cron.RunIn) (cron.RunOut, error) {
	live, err := k.s.live(ctx, c, aWatch)
	if err != nil {
		return cron.RunOut{}, err
	}
	defer k.s.streams.remove(live)
	out, err := k.s.d.Cron.RunNow(live.ctx, c, in)
	if err != nil && live.ctx.Err() != nil {
		err = context.Cause(live.ctx)
	}
	return out, err
}

func (k *cronServer) ListRuns(ctx context.Context, req *cronv1.ListRunsRequest) (*cronv1.ListRunsResponse, error) {
	return call(ctx, req, listCronRunsFromProto, k.s.d.Cron.Runs, listCronRunsToProto)
}

func (k *cronServer) GetStatus(ctx context.Context, req *cronv1.GetStatusRequest) (*cronv1.GetStatusResponse, error) {
	return call(ctx, req, nothing, k.s.d.Cron.Status, cronStatusToProto)
}

func (k *cronServer) PreviewSchedule(ctx context.Context, req *cronv1.PreviewScheduleRequest) (*cronv1.PreviewScheduleResponse, error) {
	return call(ctx, req, previewFromProto, k.s.d.Cron.Preview, previewToProto)
}

// moment writes Unix milliseconds; 0 is absent.
func moment(ms int64) *timestamppb.Timestamp {
	if ms == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(ms))
}

// span writes milliseconds.
func span(ms int64) *durationpb.Duration {
	return &durationpb.Duration{Seconds: ms / 1000, Nanos: int32(ms % 1000 * 1_000_000)}
}

func maybeSpan(ms *int64) *durationpb.Duration {
	if ms == nil {
		return nil
	}
	return span(*ms)
}

func millisOf(t *timestamppb.Timestamp) (*int64, error) {
	if t == nil {
		return nil, nil
	}
	if err := t.CheckValid(); err != nil {
		return nil, errTime.Wrap(err)
	}
	ms := t.AsTime().UnixMilli()
	return &ms, nil
}

func millisIn(d *durationpb.Duration) (*int64, error) {
	if d == nil {
		return nil, nil
	}
	if err := d.CheckValid(); err != nil {
		return nil, errDuration.Wrap(err)
	}
	ms := d.GetSeconds()*1000 + int64(d.GetNanos())/1_000_000
	return &ms, nil
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func wide(p *uint32) *int64 {
	if p == nil {
		return nil
	}
	n := int64(*p)
	return &n
}

func narrow(p *int64) *uint32 {
	if p == nil {
		return nil
	}
	n := uint32(min(max(0, *p), math.MaxUint32))
	return &n
}

func intOf(p *int32) *int {
	if p == nil {
		return nil
	}
	n := int(*p)
	return &n
}

func scheduleFromProto(s *cronv1.Schedule) (cron.Schedule, error) {
	out := cron.Schedule{At: s.GetAt(), Expr: s.GetExpression(), Zone: s.GetTimeZone()}
	every, err := millisIn(s.GetEvery())
	if err != nil {
		return out, err
	}
	if out.AnchorMs, err = millisOf(s.GetAnchor()); err != nil {
		return out, err
	}
	if out.StaggerMs, err = millisIn(s.GetStagger()); err != nil {
		return out, err
	}
	out.EveryMs = orZero(every)
	switch {
	case out.At != "":
		out.Kind = cron.At
	case every != nil:
		out.Kind = cron.Every
	case out.Expr != "":
		out.Kind = cron.Cron
	}
	return out, nil
}

func turnFromProto(t *cronv1.AgentTurn) cron.Turn {
	if t == nil {
		return cron.Turn{}
	}
	out := cron.Turn{
		Message: t.GetMessage(), Model: t.Model, Thinking: t.Thinking, TimeoutSeconds: wide(t.TimeoutSeconds), AllowUnsafeExternalContent: t.AllowUnsafeExternalContent,
		LightContext: t.LightContext, Deliver: t.Deliver, Channel: t.Channel, To: t.To, BestEffortDeliver: t.BestEffortDeliver,
	}
	if f := t.GetFallbacks(); f != nil {
		models := f.GetModels()
		out.Fallbacks = &models
	}
	return out
}

func cronCommandFromProto(c *cronv1.Command) (out cron.Command, err error) {
	out = cron.Command{NodeID: c.GetNodeId(), Argv: c.GetArgv(), Cwd: c.GetCwd(), Env: c.GetEnv()}
	for _, d := range []struct {
		from *durationpb.Duration
		to   *time.Duration
	}{{c.GetTimeout(), &out.Timeout}, {c.GetApprovalTimeout(), &out.ApprovalTimeout}, {c.GetWaitForNode(), &out.WaitForNode}} {
		v, err := durationFromProto(d.from)
		if err != nil {
			return out, err
		}
		*d.to = orZero(v)
	}
	return out, nil
}

func payloadKind(p *cronv1.Payload) cron.PayloadKind {
	switch {
	case p == nil:
	case p.SystemEvent != nil:
		return cron.SystemEvent
	case p.GetAgentTurn() != nil:
		return cron.AgentTurn
	case p.GetCommand() != nil:
		return cron.RunCommand
	}
	return ""
}

func missedFromProto(m *cronv1.Missed) (cron.Missed, error) {
	within, err := durationFromProto(m.GetWithin())
	return cron.Missed{Mode: cron.MissedMode(m.GetPolicy()), Within: orZero(within)}, err
}

func addJobFromProto(r *cronv1.AddJobRequest) (in cron.AddIn, err error) {
	in = cron.AddIn{
		Name: r.GetName(), AgentID: r.GetAgentId(), SessionKey: r.GetSessionKey(), Description: r.GetDescription(), Enabled: r.Enabled,
		DeleteAfterRun: r.DeleteAfterRun, Target: cron.Target(r.GetSessionTarget()), WakeMode: cron.WakeMode(r.GetWakeMode()),
		Payload: cron.Payload{Kind: payloadKind(r.GetPayload()), Text: r.GetPayload().GetSystemEvent(), Turn: turnFromProto(r.GetPayload().GetAgentTurn())},
	}
	if in.Schedule, err = scheduleFromProto(r.GetSchedule()); err != nil {
		return in, err
	}
	if in.Payload.Command, err = cronCommandFromProto(r.GetPayload().GetCommand()); err != nil {
		return in, err
	}
	if d := r.GetDelivery(); d != nil {
		in.Delivery = &cron.Delivery{Mode: d.GetMode(), Channel: d.GetChannel(), To: d.GetTo(), AccountID: d.GetAccountId(), BestEffort: d.BestEffort}
		if f := d.GetFailure(); f != nil {
			in.Delivery.Failure = &cron.Destination{Channel: f.GetChannel(), To: f.GetTo(), AccountID: f.GetAccountId(), Mode: f.GetMode()}
		}
	}
	if a := r.GetFailureAlert(); a != nil {
		in.FailureAlert = &cron.FailureAlert{
			Off: a.GetOff(), After: wide(a.After), Channel: a.GetChannel(), To: a.GetTo(), Mode: a.GetMode(), AccountID: a.GetAccountId(),
		}
		if in.FailureAlert.CooldownMs, err = millisIn(a.GetCooldown()); err != nil {
			return in, err
		}
	}
	in.Missed, err = missedFromProto(r.GetMissed())
	return in, err
}

func updateJobFromProto(r *cronv1.UpdateJobRequest) (in cron.UpdateIn, err error) {
	in.ID = r.GetId()
	in.Patch = cron.Patch{
		Name: r.Name, AgentID: r.AgentId, SessionKey: r.SessionKey, Description: r.Description, Enabled: r.Enabled, DeleteAfterRun: r.DeleteAfterRun,
		Target: cron.Target(r.GetSessionTarget()), WakeMode: cron.WakeMode(r.GetWakeMode()),
	}
	p := &in.Patch
	if r.GetSchedule() != nil {
		s, err := scheduleFromProto(r.GetSchedule())
		if err != nil {
			return in, err
		}
		p.Schedule = &s
	}
	if pl := r.GetPayload(); pl != nil {
		p.Payload = &cron.PayloadPatch{Kind: payloadKind(pl), Text: pl.SystemEvent, Turn: turnFromProto(pl.GetAgentTurn())}
		if t := pl.GetAgentTurn(); t != nil {
			p.Payload.Message, p.Payload.Turn.Message = t.Message, ""
		}
		if pl.GetCommand() != nil {
			c, err := cronCommandFromProto(pl.GetCommand())
			if err != nil {
				return in, err
			}
			p.Payload.Command = &c
		}
	}
	if d := r.GetDelivery(); d != nil {
		p.Delivery = &cron.DeliveryPatch{Mode: d.Mode, Channel: d.Channel, To: d.To, AccountID: d.AccountId, BestEffort: d.BestEffort}
		if f := d.GetFailure(); f != nil {
			p.Delivery.Failure = &cron.DestinationPatch{Channel: f.Channel, To: f.To, AccountID: f.AccountId, Mode: f.Mode}
		}
	}
	if a := r.GetFailureAlert(); a != nil {
		p.FailureAlert = &cron.FailureAlertPatch{Off: a.GetOff(), After: wide(a.After), Channel: a.Channel, To: a.To, Mode: a.Mode, AccountID: a.AccountId}
		if p.FailureAlert.CooldownMs, err = millisIn(a.GetCooldown()); err != nil {
			return in, err
		}
	}
	if r.GetMissed() != nil {
		m, err := missedFromProto(r.GetMissed())
		if err != nil {
			return in, err
		}
		p.Missed = &m
	}
	return in, nil
}

func runJobFromProto(r *cronv1.RunJobRequest) (cron.RunIn, error) {
	return cron.RunIn{ID: r.GetId(), Due: r.GetDue()}, nil
}

func listJobsFromProto(r *cronv1.ListJobsRequest) (cron.ListIn, error) {
	return cron.ListIn{
		Enabled: r.GetEnabled(), Limit: intOf(r.Limit), Offset: int(r.GetOffset()), Query: r.GetQuery(), SortBy: r.GetSortBy(), Descend: r.GetDescending(),
	}, nil
}

func listCronRunsFromProto(r *cronv1.ListRunsRequest) (cron.RunsIn, error) {
	in := cron.RunsIn{
		All: r.GetJobId() == "", ID: r.GetJobId(), Limit: intOf(r.Limit), Offset: int(r.GetOffset()), DeliveryStatuses: r.GetDeliveryStatuses(),
		Query: r.GetQuery(), Ascend: r.GetAscending(),
	}
	for _, s := range r.GetStatuses() {
		in.Statuses = append(in.Statuses, cron.Status(s))
	}
	return in, nil
}

func previewFromProto(r *cronv1.PreviewScheduleRequest) (cron.PreviewIn, error) {
	s, err := scheduleFromProto(r.GetSchedule())
	if err != nil {
		return cron.PreviewIn{}, err
	}
	from, err := millisOf(r.GetFrom())
	return cron.PreviewIn{Schedule: s, FromMs: orZero(from), Count: int(r.GetCount())}, err
}

func previewToProto(out cron.PreviewOut) (*cronv1.PreviewScheduleResponse, error) {
	r := &cronv1.PreviewScheduleResponse{}
	for _, ms := range out.AtMs {
		r.Moments = append(r.Moments, timestamppb.New(time.UnixMilli(ms)))
	}
	return r, nil
}

func pageToProto(p cron.Page) *cronv1.Page {
	out := &cronv1.Page{Total: clampInt32(p.Total), Offset: clampInt32(p.Offset), Limit: clampInt32(p.Limit)}
	if p.Next != nil {
		n := clampInt32(*p.Next)
		out.NextOffset = &n
	}
	return out
}

func listJobsToProto(out cron.ListOut) (*cronv1.ListJobsResponse, error) {
	r := &cronv1.ListJobsResponse{Page: pageToProto(out.Page)}
	for _, j := range out.Jobs {
		r.Jobs = append(r.Jobs, jobToProto(j))
	}
	return r, nil
}

func cronStatusToProto(out cron.StatusOut) (*cronv1.GetStatusResponse, error) {
	return &cronv1.GetStatusResponse{
		Enabled: out.Enabled, Jobs: clampInt32(out.Jobs), Running: clampInt32(out.Running), NextRun: moment(out.NextMs), StorePath: cleanText(out.StorePath),
	}, nil
}

func listCronRunsToProto(out cron.RunsOut) (*cronv1.ListRunsResponse, error) {
	r := &cronv1.ListRunsResponse{Page: pageToProto(out.Page)}
	for _, e := range out.Entries {
		r.Runs = append(r.Runs, cronRunToProto(e))
	}
	return r, nil
}

func cronRunToProto(e cron.Entry) *cronv1.Run {
	out := &cronv1.Run{
		Sequence: e.Seq, At: moment(e.AtMs), JobId: cleanText(e.JobID), JobName: cleanText(e.JobName), Status: string(e.Status), Error: cleanText(e.Error),
		Summary: cleanText(e.Summary), Delivered: e.Delivered, DeliveryStatus: e.DeliveryStatus, DeliveryError: cleanText(e.DeliveryError), SessionId: e.SessionID,
		SessionKey: e.SessionKey, RunAt: moment(e.RunAtMs), Duration: maybeSpan(e.DurationMs), NextRun: moment(e.NextRunMs), Model: e.Model, Provider: e.Provider,
		Slot: moment(e.SlotMs), LeftOut: e.LeftOut, Until: moment(e.UntilMs), RunId: e.RunID, NodeId: cleanText(e.NodeID), Command: e.Own,
	}
	if e.ExitCode != nil {
		code := clampInt32(int(*e.ExitCode))
		out.ExitCode = &code
	}
	if u := e.Usage; u != nil {
		out.Usage = &cronv1.Usage{Input: u.Input, Output: u.Output, Total: u.Total, CacheRead: u.CacheRead, CacheWrite: u.CacheWrite}
	}
	return out
}

func jobToProto(j cron.Job) *cronv1.Job {
	s, st := j.Schedule, j.State
	out := &cronv1.Job{
		Id: j.ID, Name: cleanText(j.Name), Description: cleanText(j.Description), Enabled: j.Enabled, AgentId: cleanText(j.AgentID), SessionKey: cleanText(j.SessionKey),
		DeleteAfterRun: j.DeleteAfterRun, CreatedAt: moment(j.CreatedMs), UpdatedAt: moment(j.UpdatedMs),
		Schedule: &cronv1.Schedule{
			At: s.At, Expression: s.Expr, TimeZone: s.Zone, Stagger: maybeSpan(s.StaggerMs),
		},
		SessionTarget: string(j.Target), WakeMode: string(j.WakeMode), Payload: payloadToProto(j.Payload),
		Missed: &cronv1.Missed{Policy: string(j.Missed.Mode)}, Owner: cleanText(j.Owner.Caller().Subject()),
		State: &cronv1.State{
			NextRun: moment(st.NextRunMs), Running: moment(st.RunningMs), LastRun: moment(st.LastRunMs), LastRunStatus: string(st.LastRunStatus),
			LastStatus: string(st.LastStatus), LastError: cleanText(st.LastError), LastDuration: maybeSpan(st.LastDurationMs),
			ConsecutiveErrors: narrow(st.ConsecutiveErrors), LastDelivered: st.LastDelivered, LastDeliveryStatus: st.LastDeliveryStatus,
			LastDeliveryError: cleanText(st.LastDeliveryError), LastFailureAlert: moment(st.LastFailureAlertMs),
			ScheduleErrors: *narrow(&st.ScheduleErrors), Slot: moment(st.SlotMs), LastSlot: moment(st.LastSlotMs), RunId: st.RunID,
		},
	}
	if s.EveryMs != 0 {
		out.Schedule.Every = span(s.EveryMs)
	}
	if s.AnchorMs != nil {
		out.Schedule.Anchor = timestamppb.New(time.UnixMilli(*s.AnchorMs))
	}
	if j.Missed.Mode == "" {
		out.Missed.Policy = string(cron.MissedOnce)
	}
	if j.Missed.Within != 0 {
		out.Missed.Within = durationpb.New(j.Missed.Within)
	}
	if j.Owner.DeviceID == "" && j.Owner.Principal == "" {
		out.Owner = ""
	}
	if d := j.Delivery; d != nil {
		out.Delivery = &cronv1.Delivery{
			Mode: absentWhenEmpty(d.Mode), Channel: absentWhenEmpty(d.Channel), To: absentWhenEmpty(d.To), AccountId: absentWhenEmpty(d.AccountID), BestEffort: d.BestEffort,
		}
		if f := d.Failure; f != nil {
			out.Delivery.Failure = &cronv1.Destination{
				Channel: absentWhenEmpty(f.Channel), To: absentWhenEmpty(f.To), AccountId: absentWhenEmpty(f.AccountID), Mode: absentWhenEmpty(f.Mode),
			}
		}
	}
	if a := j.FailureAlert; a != nil {
		out.FailureAlert = &cronv1.FailureAlert{
			Off: a.Off, After: narrow(a.After), Channel: absentWhenEmpty(a.Channel), To: absentWhenEmpty(a.To), Cooldown: maybeSpan(a.CooldownMs),
			Mode: absentWhenEmpty(a.Mode), AccountId: absentWhenEmpty(a.AccountID),
		}
	}
	return out
}

// payloadToProto writes what is there: of a stored job that is one of the three.
func payloadToProto(p cron.Payload) *cronv1.Payload {
	out := &cronv1.Payload{SystemEvent: absentWhenEmpty(p.Text)}
	if t := p.Turn; t != (cron.Turn{}) {
		out.AgentTurn = &cronv1.AgentTurn{
			Message: absentWhenEmpty(t.Message), Model: t.Model, Thinking: t.Thinking, TimeoutSeconds: narrow(t.TimeoutSeconds),
			AllowUnsafeExternalContent: t.AllowUnsafeExternalContent, LightContext: t.LightContext, Deliver: t.Deliver, Channel: t.Channel, To: t.To,
			BestEffortDeliver: t.BestEffortDeliver,
		}
		if t.Fallbacks != nil {
			out.AgentTurn.Fallbacks = &cronv1.Fallbacks{Models: *t.Fallbacks}
		}
	}
	if c := p.Command; c.NodeID != "" || len(c.Argv) > 0 {
		out.Command = &cronv1.Command{NodeId: c.NodeID, Argv: c.Argv, Cwd: c.Cwd}
		for k := range c.Env {
			if out.Command.Env == nil {
				out.Command.Env = map[string]string{}
			}
			out.Command.Env[k] = "" // values are never shown
		}
		for _, d := range []struct {
			from time.Duration
			to   **durationpb.Duration
		}{{c.Timeout, &out.Command.Timeout}, {c.ApprovalTimeout, &out.Command.ApprovalTimeout}, {c.WaitForNode, &out.Command.WaitForNode}} {
			if d.from != 0 {
				*d.to = durationpb.New(d.from)
			}
		}
	}
	return out
}
