package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/identity"
)

// cronJobRecord is one scheduled job. It may hold values of environment variables: it is never logged.
type cronJobRecord struct {
	AgentID        string            `json:"agent_id,omitzero"`
	SessionKey     string            `json:"session_key,omitzero"`
	Name           string            `json:"name,omitzero"`
	Description    string            `json:"description,omitzero"`
	Enabled        bool              `json:"enabled,omitzero"`
	DeleteAfterRun *bool             `json:"delete_after_run,omitzero"`
	CreatedMs      int64             `json:"created_ms,omitzero"`
	UpdatedMs      int64             `json:"updated_ms,omitzero"`
	Schedule       cronSchedule      `json:"schedule,omitzero"`
	Target         cron.Target       `json:"target,omitzero"`
	WakeMode       cron.WakeMode     `json:"wake_mode,omitzero"`
	PayloadKind    cron.PayloadKind  `json:"payload_kind,omitzero"`
	Text           string            `json:"text,omitzero"`
	Turn           *cronTurn         `json:"turn,omitzero"`
	Command        *cronCommand      `json:"command,omitzero"`
	Delivery       *cronDelivery     `json:"delivery,omitzero"`
	FailureAlert   *cronFailureAlert `json:"failure_alert,omitzero"`
	MissedMode     cron.MissedMode   `json:"missed_mode,omitzero"`
	MissedWithin   time.Duration     `json:"missed_within,omitzero"`
	Owner          cronOwner         `json:"owner,omitzero"`
	State          cronState         `json:"state,omitzero"`
}

type cronSchedule struct {
	Kind      cron.Kind `json:"kind,omitzero"`
	At        string    `json:"at,omitzero"`
	EveryMs   int64     `json:"every_ms,omitzero"`
	AnchorMs  *int64    `json:"anchor_ms,omitzero"`
	Expr      string    `json:"expr,omitzero"`
	Zone      string    `json:"zone,omitzero"`
	StaggerMs *int64    `json:"stagger_ms,omitzero"`
}

type cronTurn struct {
	Message                    string    `json:"message,omitzero"`
	Model                      *string   `json:"model,omitzero"`
	Fallbacks                  *[]string `json:"fallbacks,omitzero"`
	Thinking                   *string   `json:"thinking,omitzero"`
	TimeoutSeconds             *int64    `json:"timeout_seconds,omitzero"`
	AllowUnsafeExternalContent *bool     `json:"allow_unsafe_external_content,omitzero"`
	LightContext               *bool     `json:"light_context,omitzero"`
	Deliver                    *bool     `json:"deliver,omitzero"`
	Channel                    *string   `json:"channel,omitzero"`
	To                         *string   `json:"to,omitzero"`
	BestEffortDeliver          *bool     `json:"best_effort_deliver,omitzero"`
}

type cronCommand struct {
	NodeID          string            `json:"node_id,omitzero"`
	Argv            []string          `json:"argv,omitzero"`
	Cwd             string            `json:"cwd,omitzero"`
	Env             map[string]string `json:"env,omitzero"`
	Timeout         time.Duration     `json:"timeout,omitzero"`
	ApprovalTimeout time.Duration     `json:"approval_timeout,omitzero"`
	WaitForNode     time.Duration     `json:"wait_for_node,omitzero"`
}

type cronDelivery struct {
	Mode       string           `json:"mode,omitzero"`
	Channel    string           `json:"channel,omitzero"`
	To         string           `json:"to,omitzero"`
	AccountID  string           `json:"account_id,omitzero"`
	BestEffort *bool            `json:"best_effort,omitzero"`
	Failure    *cronDestination `json:"failure,omitzero"`
}

type cronDestination struct {
	Channel   string `json:"channel,omitzero"`
	To        string `json:"to,omitzero"`
	AccountID string `json:"account_id,omitzero"`
	Mode      string `json:"mode,omitzero"`
}

type cronFailureAlert struct {
	Off        bool   `json:"off,omitzero"`
	After      *int64 `json:"after,omitzero"`
	Channel    string `json:"channel,omitzero"`
	To         string `json:"to,omitzero"`
	CooldownMs *int64 `json:"cooldown_ms,omitzero"`
	Mode       string `json:"mode,omitzero"`
	AccountID  string `json:"account_id,omitzero"`
}

type cronOwner struct {
	DeviceID    string           `json:"device_id,omitzero"`
	Paired      bool             `json:"paired,omitzero"`
	Tenant      string           `json:"tenant,omitzero"`
	Principal   string           `json:"principal,omitzero"`
	Scopes      []identity.Scope `json:"scopes,omitzero"`
	ClientID    string           `json:"client_id,omitzero"`
	DisplayName string           `json:"display_name,omitzero"`
	Local       bool             `json:"local,omitzero"`
}

type cronState struct {
	NextRunMs          int64       `json:"next_run_ms,omitzero"`
	RunningMs          int64       `json:"running_ms,omitzero"`
	LastRunMs          int64       `json:"last_run_ms,omitzero"`
	LastRunStatus      cron.Status `json:"last_run_status,omitzero"`
	LastStatus         cron.Status `json:"last_status,omitzero"`
	LastError          string      `json:"last_error,omitzero"`
	LastDurationMs     *int64      `json:"last_duration_ms,omitzero"`
	ConsecutiveErrors  *int64      `json:"consecutive_errors,omitzero"`
	LastDelivered      *bool       `json:"last_delivered,omitzero"`
	LastDeliveryStatus string      `json:"last_delivery_status,omitzero"`
	LastDeliveryError  string      `json:"last_delivery_error,omitzero"`
	LastFailureAlertMs int64       `json:"last_failure_alert_ms,omitzero"`
	ScheduleErrors     int64       `json:"schedule_errors,omitzero"`
	SlotMs             int64       `json:"slot_ms,omitzero"`
	LastSlotMs         int64       `json:"last_slot_ms,omitzero"`
	RunID              string      `json:"run_id,omitzero"`
}

// cronRunRecord is a row of the run log.
type cronRunRecord struct {
	AtMs           int64       `json:"at_ms,omitzero"`
	Status         cron.Status `json:"status,omitzero"`
	Error          string      `json:"error,omitzero"`
	Summary        string      `json:"summary,omitzero"`
	Delivered      *bool       `json:"delivered,omitzero"`
	DeliveryStatus string      `json:"delivery_status,omitzero"`
	DeliveryError  string      `json:"delivery_error,omitzero"`
	SessionID      string      `json:"session_id,omitzero"`
	SessionKey     string      `json:"session_key,omitzero"`
	RunAtMs        int64       `json:"run_at_ms,omitzero"`
	DurationMs     *int64      `json:"duration_ms,omitzero"`
	NextRunMs      int64       `json:"next_run_ms,omitzero"`
	Model          string      `json:"model,omitzero"`
	Provider       string      `json:"provider,omitzero"`
	Usage          *cronUsage  `json:"usage,omitzero"`
	SlotMs         int64       `json:"slot_ms,omitzero"`
	LeftOut        int64       `json:"left_out,omitzero"`
	UntilMs        int64       `json:"until_ms,omitzero"`
	RunID          string      `json:"run_id,omitzero"`
	NodeID         string      `json:"node_id,omitzero"`
	ExitCode       *int64      `json:"exit_code,omitzero"`
	Own            bool        `json:"own,omitzero"`
}

type cronUsage struct {
	Input      *int64 `json:"input,omitzero"`
	Output     *int64 `json:"output,omitzero"`
	Total      *int64 `json:"total,omitzero"`
	CacheRead  *int64 `json:"cache_read,omitzero"`
	CacheWrite *int64 `json:"cache_write,omitzero"`
}

func encodeCronJob(j cron.Job) ([]byte, error) {
	rec := cronJobRecord{
		AgentID: j.AgentID, SessionKey: j.SessionKey, Name: j.Name, Description: j.Description, Enabled: j.Enabled, DeleteAfterRun: j.DeleteAfterRun,
		CreatedMs: j.CreatedMs, UpdatedMs: j.UpdatedMs, Schedule: cronSchedule(j.Schedule), Target: j.Target, WakeMode: j.WakeMode,
		PayloadKind: j.Payload.Kind, Text: j.Payload.Text, MissedMode: j.Missed.Mode, MissedWithin: j.Missed.Within, Owner: cronOwner(j.Owner),
		State: cronState(j.State),
	}
	switch j.Payload.Kind {
	case cron.AgentTurn:
		t := cronTurn(j.Payload.Turn)
		rec.Turn = &t
	case cron.RunCommand:
		c := cronCommand(j.Payload.Command)
		rec.Command = &c
	}
	if d := j.Delivery; d != nil {
		rec.Delivery = &cronDelivery{Mode: d.Mode, Channel: d.Channel, To: d.To, AccountID: d.AccountID, BestEffort: d.BestEffort, Failure: (*cronDestination)(d.Failure)}
	}
	rec.FailureAlert = (*cronFailureAlert)(j.FailureAlert)
	return encode(rec)
}

func decodeCronJob(id, value []byte) (cron.Job, error) {
	var rec cronJobRecord
	if err := decode(bucketCronJobs, id, value, &rec); err != nil {
		return cron.Job{}, err
	}
	j := cron.Job{
		ID: string(id), AgentID: rec.AgentID, SessionKey: rec.SessionKey, Name: rec.Name, Description: rec.Description, Enabled: rec.Enabled,
		DeleteAfterRun: rec.DeleteAfterRun, CreatedMs: rec.CreatedMs, UpdatedMs: rec.UpdatedMs, Schedule: cron.Schedule(rec.Schedule), Target: rec.Target,
		WakeMode: rec.WakeMode, Payload: cron.Payload{Kind: rec.PayloadKind, Text: rec.Text}, Missed: cron.Missed{Mode: rec.MissedMode, Within: rec.MissedWithin},
		Owner: cron.Owner(rec.Owner), State: cron.State(rec.State), FailureAlert: (*cron.FailureAlert)(rec.FailureAlert),
	}
	if rec.Turn != nil {
		j.Payload.Turn = cron.Turn(*rec.Turn)
	}
	if rec.Command != nil {
		j.Payload.Command = cron.Command(*rec.Command)
	}
	if d := rec.Delivery; d != nil {
		j.Delivery = &cron.Delivery{Mode: d.Mode, Channel: d.Channel, To: d.To, AccountID: d.AccountID, BestEffort: d.BestEffort, Failure: (*cron.Destination)(d.Failure)}
	}
	return j, nil
}

func encodeCronRun(e *cron.Entry) ([]byte, error) {
	return encode(cronRunRecord{
		AtMs: e.AtMs, Status: e.Status, Error: e.Error, Summary: e.Summary, Delivered: e.Delivered, DeliveryStatus: e.DeliveryStatus,
		DeliveryError: e.DeliveryError, SessionID: e.SessionID, SessionKey: e.SessionKey, RunAtMs: e.RunAtMs, DurationMs: e.DurationMs,
		NextRunMs: e.NextRunMs, Model: e.Model, Provider: e.Provider, Usage: (*cronUsage)(e.Usage), SlotMs: e.SlotMs, LeftOut: e.LeftOut,
		UntilMs: e.UntilMs, RunID: e.RunID, NodeID: e.NodeID, ExitCode: e.ExitCode, Own: e.Own,
	})
}

func decodeCronRun(key, value []byte) (cron.Entry, error) {
	var rec cronRunRecord
	if err := decode(bucketCronRuns, key, value, &rec); err != nil {
		return cron.Entry{}, err
	}
	id, seq, ok := cronRunKey(key)
	if !ok {
		return cron.Entry{}, recordError(bucketCronRuns, key, "its key is none of a run")
	}
	return cron.Entry{
		Seq: seq, JobID: id, AtMs: rec.AtMs, Status: rec.Status, Error: rec.Error, Summary: rec.Summary, Delivered: rec.Delivered,
		DeliveryStatus: rec.DeliveryStatus, DeliveryError: rec.DeliveryError, SessionID: rec.SessionID, SessionKey: rec.SessionKey, RunAtMs: rec.RunAtMs,
		DurationMs: rec.DurationMs, NextRunMs: rec.NextRunMs, Model: rec.Model, Provider: rec.Provider, Usage: (*cron.Usage)(rec.Usage),
		SlotMs: rec.SlotMs, LeftOut: rec.LeftOut, UntilMs: rec.UntilMs, RunID: rec.RunID, NodeID: rec.NodeID, ExitCode: rec.ExitCode, Own: rec.Own,
	}, nil
}

// cronRunKey takes the key of a row apart.
func cronRunKey(key []byte) (id string, seq uint64, ok bool) {
	n := len(key) - 9
	if n < 1 || key[n] != 0 {
		return "", 0, false
	}
	return string(key[:n]), binary.BigEndian.Uint64(key[n+1:]), true
}

// CronJobs implements cron.Store.
func (s *Store) CronJobs() (out []cron.Job, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		out, err = all(tx, bucketCronJobs, decodeCronJob)
		return err
	})
	return out, err
}

// WriteCron implements cron.Store.
func (s *Store) WriteCron(ctx context.Context, c cron.Change) error {
	type put struct{ key, value []byte }
	var jobs, rows []put
	for _, j := range c.Put {
		key, err := keyOf(j.ID)
		if err != nil {
			return err
		}
		value, err := encodeCronJob(j)
		if err != nil {
			return err
		}
		jobs = append(jobs, put{key, value})
	}
	for _, e := range c.Append {
		prefix, err := sessionPrefix(e.JobID)
		if err != nil {
			return err
		}
		value, err := encodeCronRun(e)
		if err != nil {
			return err
		}
		rows = append(rows, put{prefix, value})
	}
	return s.w.do(ctx, func(t *txn) error {
		for _, j := range jobs {
			if err := t.put(bucketCronJobs, j.key, j.value); err != nil {
				return err
			}
		}
		for _, id := range c.Remove {
			if err := t.delete(bucketCronJobs, []byte(id)); err != nil {
				return err
			}
		}
		for i, r := range rows {
			seq, err := t.next(bucketCronRuns)
			if err != nil {
				return err
			}
			c.Append[i].Seq = seq
			if err := t.put(bucketCronRuns, binary.BigEndian.AppendUint64(bytes.Clone(r.key), seq), r.value); err != nil {
				return err
			}
		}
		return nil
	})
}

// CronRuns implements cron.Store.
func (s *Store) CronRuns(f cron.Find) (out []cron.Entry, total int, err error) {
	type place struct {
		seq uint64
		key []byte
	}
	err = s.view(func(tx *bolt.Tx) error {
		var found []place
		var prefix []byte
		if f.JobID != "" {
			var err error
			if prefix, err = sessionPrefix(f.JobID); err != nil {
				return nil // no job has such an id
			}
		}
		b := tx.Bucket(bucketCronRuns)
		cur := b.Cursor()
		for k, v := cur.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cur.Next() {
			id, seq, ok := cronRunKey(k)
			if !ok || f.JobID != "" && id != f.JobID {
				continue
			}
			if f.Match != nil {
				e, err := decodeCronRun(k, v)
				if err != nil {
					return err
				}
				if !f.Match(&e) {
					continue
				}
			}
			found = append(found, place{seq, k})
		}
		slices.SortFunc(found, func(a, b place) int {
			n := 1
			if a.seq < b.seq {
				n = -1
			}
			if !f.Ascend {
				n = -n
			}
			return n
		})
		total = len(found)
		from := min(max(0, f.Offset), total)
		for _, p := range found[from:min(total, from+max(0, f.Limit))] {
			e, err := decodeCronRun(p.key, b.Get(p.key))
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	})
	return out, total, err
}

// PruneCronRuns implements cron.Store.
func (s *Store) PruneCronRuns(ctx context.Context, k cron.Keep) (int, error) {
	type row struct {
		seq  uint64
		key  []byte
		size int
	}
	var gone [][]byte
	err := s.view(func(tx *bolt.Tx) error {
		gone = nil
		var kept, job []row
		id := ""
		settle := func() { // the rows of one job, oldest first
			size, n := int64(0), len(job)
			for n > 0 && len(job)-n < k.Rows && size+int64(job[n-1].size) <= k.Bytes {
				n--
				size += int64(job[n].size)
			}
			if n == len(job) && n > 0 {
				n-- // the newest stays, however large
			}
			for _, r := range job[:n] {
				gone = append(gone, r.key)
			}
			kept = append(kept, job[n:]...)
			job = job[:0]
		}
		err := tx.Bucket(bucketCronRuns).ForEach(func(key, v []byte) error {
			of, seq, ok := cronRunKey(key)
			if !ok {
				return nil
			}
			if of != id {
				settle()
				id = of
			}
			job = append(job, row{seq, bytes.Clone(key), len(v)})
			return nil
		})
		settle()
		if n := len(kept) - k.All; n > 0 {
			slices.SortFunc(kept, func(a, b row) int {
				if a.seq < b.seq {
					return -1
				}
				return 1
			})
			for _, r := range kept[:n] {
				gone = append(gone, r.key)
			}
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	removed := 0
	for chunk := range slices.Chunk(gone, pruneChunk) {
		err := s.w.do(ctx, func(t *txn) error {
			for _, key := range chunk {
				if err := t.delete(bucketCronRuns, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += len(chunk)
	}
	return removed, nil
}

// checkCron reads every job and every row of the run log. Rows may outlive their job.
func checkCron(tx *bolt.Tx, complain func(error), stop func() error) error {
	return errors.Join(
		tx.Bucket(bucketCronJobs).ForEach(func(k, v []byte) error {
			_, err := decodeCronJob(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketCronRuns).ForEach(func(k, v []byte) error {
			_, err := decodeCronRun(k, v)
			complain(err)
			return stop()
		}),
	)
}
