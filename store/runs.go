package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
)

// runRecord is one run. It holds the values of environment variables as long as the run has not left:
// it is never logged.
type runRecord struct {
	State           runs.State        `json:"state,omitzero"`
	NodeID          string            `json:"node_id,omitzero"`
	Argv            []string          `json:"argv,omitzero"`
	Cwd             string            `json:"cwd,omitzero"`
	AgentID         string            `json:"agent_id,omitzero"`
	SessionKey      string            `json:"session_key,omitzero"`
	Env             map[string]string `json:"env,omitzero"`
	EnvKeys         []string          `json:"env_keys,omitzero"`
	Command         string            `json:"command,omitzero"`
	Requester       runRequester      `json:"requester,omitzero"`
	Timeout         time.Duration     `json:"timeout,omitzero"`
	ApprovalTimeout time.Duration     `json:"approval_timeout,omitzero"`
	WaitForNode     time.Duration     `json:"wait_for_node,omitzero"`
	Tried           bool              `json:"tried,omitzero"`
	ApprovalID      string            `json:"approval_id,omitzero"`
	ExpiresAt       time.Time         `json:"expires_at,omitzero"`
	ResolvedBy      string            `json:"resolved_by,omitzero"`
	CreatedAt       time.Time         `json:"created_at,omitzero"`
	StartedAt       time.Time         `json:"started_at,omitzero"`
	EndedAt         time.Time         `json:"ended_at,omitzero"`
	Failure         *runFailure       `json:"failure,omitzero"`
	Result          *runResult        `json:"result,omitzero"`
	KilledBy        string            `json:"killed_by,omitzero"`
}

type runRequester struct {
	DeviceID    string           `json:"device_id,omitzero"`
	Paired      bool             `json:"paired,omitzero"`
	TokenID     string           `json:"token_id,omitzero"`
	Principal   string           `json:"principal,omitzero"`
	ConnID      string           `json:"conn_id,omitzero"`
	Scopes      []identity.Scope `json:"scopes,omitzero"`
	Tenant      string           `json:"tenant,omitzero"`
	ClientID    string           `json:"client_id,omitzero"`
	DisplayName string           `json:"display_name,omitzero"`
	Local       bool             `json:"local,omitzero"`
}

type runFailure struct {
	Code  string     `json:"code,omitzero"`
	Text  string     `json:"text,omitzero"`
	Class errs.Class `json:"class,omitzero"`
}

// runResult is a result without its output, which has a bucket of its own: listings do not read it.
type runResult struct {
	ExitCode *int   `json:"exit_code,omitzero"`
	Signal   string `json:"signal,omitzero"`
	TimedOut bool   `json:"timed_out,omitzero"`
	Error    string `json:"error,omitzero"`
	// Output says that there was some.
	Output bool `json:"output,omitzero"`
}

// runOutput is what a command wrote.
type runOutput struct {
	Stdout string `json:"stdout,omitzero"`
	Stderr string `json:"stderr,omitzero"`
}

// encodeRun returns the record and the output, nil for none.
func encodeRun(r runs.Run) (record, output []byte, err error) {
	rec := runRecord{
		State: r.State, NodeID: r.NodeID, Argv: r.Argv, Cwd: r.Cwd, AgentID: r.AgentID, SessionKey: r.SessionKey,
		Env: r.Env, EnvKeys: r.EnvKeys, Command: r.Command, Requester: runRequester(r.Requester), Timeout: r.Timeout,
		ApprovalTimeout: r.ApprovalTimeout, WaitForNode: r.WaitForNode, Tried: r.Tried, ApprovalID: r.ApprovalID,
		ExpiresAt: utc(r.ExpiresAt), ResolvedBy: r.ResolvedBy, CreatedAt: utc(r.CreatedAt), StartedAt: utc(r.StartedAt),
		EndedAt: utc(r.EndedAt), KilledBy: r.KilledBy,
	}
	if f := r.Failure; f != nil {
		rec.Failure = &runFailure{f.Code, f.Text, f.Class}
	}
	if x := r.Result; x != nil {
		rec.Result = &runResult{x.ExitCode, x.Signal, x.TimedOut, x.Error, x.OutputGone || x.Stdout != "" || x.Stderr != ""}
		if x.Stdout != "" || x.Stderr != "" {
			if output, err = encode(runOutput{x.Stdout, x.Stderr}); err != nil {
				return nil, nil, err
			}
		}
	}
	record, err = encode(rec)
	return record, output, err
}

// decodeRun reads a record, without the output.
func decodeRun(id, value []byte) (runs.Run, error) {
	var rec runRecord
	if err := decode(bucketRuns, id, value, &rec); err != nil {
		return runs.Run{}, err
	}
	r := runs.Run{
		ID: string(id), State: rec.State, NodeID: rec.NodeID, Argv: rec.Argv, Cwd: rec.Cwd, AgentID: rec.AgentID, SessionKey: rec.SessionKey,
		Env: rec.Env, EnvKeys: rec.EnvKeys, Command: rec.Command, Requester: runs.Requester(rec.Requester), Timeout: rec.Timeout,
		ApprovalTimeout: rec.ApprovalTimeout, WaitForNode: rec.WaitForNode, Tried: rec.Tried, ApprovalID: rec.ApprovalID,
		ExpiresAt: utc(rec.ExpiresAt), ResolvedBy: rec.ResolvedBy, CreatedAt: utc(rec.CreatedAt), StartedAt: utc(rec.StartedAt),
		EndedAt: utc(rec.EndedAt), KilledBy: rec.KilledBy,
	}
	if f := rec.Failure; f != nil {
		r.Failure = &runs.Failure{Code: f.Code, Text: f.Text, Class: f.Class}
	}
	if x := rec.Result; x != nil {
		r.Result = &runs.Result{ExitCode: x.ExitCode, Signal: x.Signal, TimedOut: x.TimedOut, Error: x.Error, OutputGone: x.Output}
	}
	return r, nil
}

// withOutput adds the output to a run, as far as it is kept.
func withOutput(tx *bolt.Tx, r *runs.Run) error {
	if r.Result == nil || !r.Result.OutputGone {
		return nil
	}
	v := tx.Bucket(bucketRunOutput).Get([]byte(r.ID))
	if v == nil {
		return nil
	}
	var out runOutput
	if err := decode(bucketRunOutput, []byte(r.ID), v, &out); err != nil {
		return err
	}
	r.Result.Stdout, r.Result.Stderr, r.Result.OutputGone = out.Stdout, out.Stderr, false
	return nil
}

// Run implements runs.Store.
func (s *Store) Run(id string) (r runs.Run, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		v := tx.Bucket(bucketRuns).Get([]byte(id))
		if v == nil {
			return runs.ErrUnknown
		}
		if r, err = decodeRun([]byte(id), v); err != nil {
			return err
		}
		return withOutput(tx, &r)
	})
	return r, err
}

// Runs implements runs.Store.
func (s *Store) Runs() (out []runs.Run, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		out, err = all(tx, bucketRuns, decodeRun)
		return err
	})
	return out, err
}

// CreateRun implements runs.Store.
func (s *Store) CreateRun(ctx context.Context, r runs.Run) error {
	key, err := keyOf(r.ID)
	if err != nil {
		return err
	}
	record, _, err := encodeRun(r)
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		if t.get(bucketRuns, key) != nil {
			return runs.ErrTaken
		}
		return t.put(bucketRuns, key, record)
	})
}

// UpdateRun implements runs.Store. Change may run more than once, each time on the run as it is stored,
// and not in the caller's goroutine; it calls no method of the store. It may not change the id.
func (s *Store) UpdateRun(ctx context.Context, id string, change func(*runs.Run) (*runs.Audit, error)) (runs.Run, error) {
	var out runs.Run
	err := s.w.do(ctx, func(t *txn) error {
		key := []byte(id)
		v := t.get(bucketRuns, key)
		if v == nil {
			return runs.ErrUnknown
		}
		r, err := decodeRun(key, v)
		if err != nil {
			return err
		}
		if err := withOutput(t.tx, &r); err != nil {
			return err
		}
		row, err := change(&r)
		if err != nil {
			return err
		}
		if r.ID != id {
			return errs.New(errs.Internal, "a change may not give a run another id")
		}
		record, output, err := encodeRun(r)
		if err != nil {
			return err
		}
		if !bytes.Equal(record, v) {
			if err := t.put(bucketRuns, key, record); err != nil {
				return err
			}
		}
		if output != nil {
			if err := t.put(bucketRunOutput, key, output); err != nil {
				return err
			}
		}
		out = r
		if row == nil {
			return nil
		}
		link, err := linkOf(runRow(*row))
		if err != nil {
			return err
		}
		return t.appendAudit(link)
	})
	if err != nil {
		return runs.Run{}, err
	}
	return out, nil
}

// AppendRunAudit implements runs.Store.
func (s *Store) AppendRunAudit(ctx context.Context, row runs.Audit) error {
	return s.AppendAudit(ctx, runRow(row))
}

func runRow(row runs.Audit) AuditRow {
	return approvals.Audit{
		At: row.At, Kind: row.Kind, Subject: row.Subject, ApprovalID: row.ApprovalID, RunID: row.RunID, NodeID: row.NodeID, Command: row.Command,
		Argv: row.Argv, Reason: row.Reason,
	}
}

// endedRun is what pruning has to know of a run.
type endedRun struct {
	id             string
	at             time.Time
	record, output int
}

// PruneRuns implements runs.Store.
func (s *Store) PruneRuns(ctx context.Context, endedBefore time.Time, max int, limit int64) (int, error) {
	var ended []endedRun
	total := 0
	err := s.view(func(tx *bolt.Tx) error {
		ended, total = nil, 0
		outputs := tx.Bucket(bucketRunOutput)
		return tx.Bucket(bucketRuns).ForEach(func(k, v []byte) error {
			r, err := decodeRun(k, v)
			if err != nil {
				return err
			}
			if r.State.Ended() {
				e := endedRun{r.ID, r.EndedAt, len(v), len(outputs.Get(k))}
				ended = append(ended, e)
				total += e.record + e.output
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	slices.SortFunc(ended, func(a, b endedRun) int { return a.at.Compare(b.at) })
	var whole, outputs []string
	n := 0
	for n < len(ended) && (len(ended)-n > max || ended[n].at.Before(endedBefore)) {
		whole = append(whole, ended[n].id)
		total -= ended[n].record + ended[n].output
		n++
	}
	rest := ended[n:]
	for i := range rest {
		if int64(total) > limit && rest[i].output > 0 {
			outputs = append(outputs, rest[i].id)
			total -= rest[i].output
		}
	}
	for i := 0; i < len(rest) && int64(total) > limit; i++ {
		whole = append(whole, rest[i].id)
		total -= rest[i].record
	}
	for chunk := range slices.Chunk(outputs, pruneChunk) {
		err := s.w.do(ctx, func(t *txn) error {
			for _, id := range chunk {
				if err := t.delete(bucketRunOutput, []byte(id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	removed := 0
	for chunk := range slices.Chunk(whole, pruneChunk) {
		err := s.w.do(ctx, func(t *txn) error {
			for _, id := range chunk { // what has ended stays so
				if err := t.delete(bucketRuns, []byte(id)); err != nil {
					return err
				}
				if err := t.delete(bucketRunOutput, []byte(id)); err != nil {
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

// checkRuns reads every run, and demands that output is that of one that has some.
func checkRuns(tx *bolt.Tx, complain func(error), stop func() error) error {
	records := tx.Bucket(bucketRuns)
	return errors.Join(
		records.ForEach(func(k, v []byte) error {
			_, err := decodeRun(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketRunOutput).ForEach(func(k, v []byte) error {
			complain(decode(bucketRunOutput, k, v, &runOutput{}))
			r, err := decodeRun(k, records.Get(k))
			if err == nil && (r.Result == nil || !r.Result.OutputGone) {
				complain(fmt.Errorf("there is output of run %s, which has none", printable(k)))
			} else if err != nil {
				complain(err)
			}
			return stop()
		}),
	)
}
