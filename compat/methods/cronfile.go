package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/cron"
)

// CronJobFromFile reads a job of the file in which the original keeps them (control-plane.md §12).
func CronJobFromFile(v wire.Value) (cron.Job, error) {
	in, err := CronAddFromLegacy(v)
	if err != nil {
		return cron.Job{}, err
	}
	var rest struct {
		ID        string              `json:"id"`
		CreatedMs wire.Opt[wire.Int]  `json:"createdAtMs"`
		UpdatedMs wire.Opt[wire.Int]  `json:"updatedAtMs"`
		State     wire.Opt[cronState] `json:"state"`
	}
	if err := wire.Decode(v, &rest); err != nil {
		return cron.Job{}, err
	}
	j := cron.Job{
		ID: rest.ID, AgentID: in.AgentID, SessionKey: in.SessionKey, Name: in.Name, Description: in.Description, Enabled: in.Enabled == nil || *in.Enabled,
		DeleteAfterRun: in.DeleteAfterRun, CreatedMs: int64(rest.CreatedMs.Or(0)), UpdatedMs: int64(rest.UpdatedMs.Or(0)), Schedule: in.Schedule,
		Target: in.Target, WakeMode: in.WakeMode, Payload: in.Payload, Delivery: in.Delivery, FailureAlert: in.FailureAlert,
	}
	s := rest.State.Or(cronState{})
	j.State = cron.State{
		NextRunMs: int64(s.NextRunMs.Or(0)), RunningMs: int64(s.RunningMs.Or(0)), LastRunMs: int64(s.LastRunMs.Or(0)),
		LastRunStatus: cron.Status(s.LastRunStatus.Or("")), LastStatus: cron.Status(s.LastStatus.Or("")), LastError: s.LastError.Or(""),
		LastDurationMs: intPtr(s.LastDurationMs), ConsecutiveErrors: intPtr(s.ConsecutiveErrors), LastDelivered: optPtr(s.LastDelivered),
		LastDeliveryStatus: s.LastDeliveryStatus.Or(""), LastDeliveryError: s.LastDeliveryError.Or(""),
		LastFailureAlertMs: int64(s.LastFailureAlertMs.Or(0)), ScheduleErrors: int64(s.ScheduleErrors.Or(0)),
	}
	return j, nil
}

// CronRunFromFile reads a line of the run log of a job.
func CronRunFromFile(v wire.Value) (cron.Entry, error) {
	var r cronRun
	if err := wire.Decode(v, &r); err != nil {
		return cron.Entry{}, err
	}
	e := cron.Entry{
		AtMs: int64(r.At.Or(0)), JobID: r.JobID, Status: cron.Status(r.Status.Or("")), Error: r.Error.Or(""), Summary: r.Summary.Or(""),
		Delivered: optPtr(r.Delivered), DeliveryStatus: r.DeliveryStatus.Or(""), DeliveryError: r.DeliveryError.Or(""),
		SessionID: r.SessionID.Or(""), SessionKey: r.SessionKey.Or(""), RunAtMs: int64(r.RunAtMs.Or(0)), DurationMs: intPtr(r.DurationMs),
		NextRunMs: int64(r.NextRunMs.Or(0)), Model: r.Model.Or(""), Provider: r.Provider.Or(""),
	}
	if u, ok := r.Usage.Get(); ok {
		e.Usage = &cron.Usage{Input: intPtr(u.Input), Output: intPtr(u.Output), Total: intPtr(u.Total), CacheRead: intPtr(u.CacheRead), CacheWrite: intPtr(u.CacheWrite)}
	}
	return e, nil
}

// CronRunToFile is the object of such a line.
func CronRunToFile(e cron.Entry) any {
	e.JobName = ""
	return runToLegacy(e)
}
