package approvals

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// ended is a run whose result is not recorded yet.
type ended struct {
	use    Audit
	at     time.Time
	sent   bool
	answer []byte
	err    error
}

// results is the runs that ended and whose rows are not written yet. The answer to the caller does not
// wait for them: what is lost with the process is found by its use row, which has no result.
type results struct {
	mu    sync.Mutex
	queue []ended
	bytes int
	lost  int
	wake  chan struct{}
}

// add takes one in. It does not block: past the bounds the answer, or the result, is not kept.
func (r *results) add(e ended) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) >= maxResults {
		r.lost++
		return
	}
	if r.bytes+len(e.answer) > maxResultBytes {
		e.answer, e.err = nil, errResultSize
	}
	r.bytes += len(e.answer)
	r.queue = append(r.queue, e)
	if len(r.queue) == 1 {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (r *results) take() (all []ended, lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, lost = r.queue, r.lost
	r.queue, r.bytes, r.lost = nil, 0, 0
	return all, lost
}

// errResultSize stands for an answer that was too large to wait for its row.
var errResultSize = errors.New("too many answers waited; this one was not looked at")

// useRow is the row of a use that did not come from an approval: what the parameters say.
func (s *Service) useRow(c identity.Caller, nodeID string, p runParams) Audit {
	row := Audit{At: s.now(), Kind: AuditUse, Subject: c.Subject(), NodeID: nodeID}
	if cmd, err := policy.ParseCommand(p.raw["command"], p.raw["rawCommand"]); err == nil {
		row.Argv, row.Command = cmd.Argv, cmd.Text
	}
	row.Cwd, _ = p.text("cwd")
	row.AgentID, _ = p.text("agentId")
	row.SessionKey, _ = p.text("sessionKey")
	if row.RequestID, _ = p.text("runId"); len(row.RequestID) > maxIDBytes {
		row.RequestID = strings.ToValidUTF8(row.RequestID[:maxIDBytes], "")
	}
	return row
}

// policyHash is the hash of the rules in force, "" without any.
func (s *Service) policyHash() string {
	if r, ok := s.rules.(interface{ State() policy.RulesState }); ok {
		return r.State().Hash
	}
	return ""
}

// bindingHash names what an approval covers: SHA-256 in hex over its parts as JSON, "" for nothing. Equal
// bindings have equal hashes, and others have others.
func bindingHash(b *Binding) string {
	if b == nil {
		return ""
	}
	if b.Call != nil {
		return b.Call.Digest
	}
	parts := []any{"binding 1", b.Argv, b.Cwd, b.AgentID, b.SessionKey, b.EnvHash, b.Identity}
	text, err := json.Marshal(parts)
	if err != nil {
		return "" // texts and numbers always marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// newRun names a run in the log.
func newRun() string { return uuid.NewString() }

// begun follows a run whose use is on disk: what it returns hears how it ended, and does not block.
func (s *Service) begun(use Audit) func(sent bool, answer []byte, err error) {
	return func(sent bool, answer []byte, err error) {
		s.results.add(ended{use: use, at: s.now(), sent: sent, answer: answer, err: err})
	}
}

// record writes results as they come, those of resultDelay together, until ctx ends; what waits then is
// written before it returns. It begins with the runs that the daemon did not see the end of.
func (s *Service) record(ctx context.Context) {
	s.recordLost(ctx)
	for ctx.Err() == nil {
		select {
		case <-s.results.wake:
		case <-ctx.Done():
		}
		timer := time.NewTimer(resultDelay)
		select {
		case <-timer.C:
			s.recordAll(ctx)
		case <-ctx.Done():
			timer.Stop()
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastResults)
	defer cancel()
	s.recordAll(last)
}

func (s *Service) recordAll(ctx context.Context) {
	all, lost := s.results.take()
	rows := make([]Audit, 0, min(len(all), resultChunk))
	for i, e := range all {
		rows = append(rows, e.row())
		if len(rows) == resultChunk || i == len(all)-1 {
			if err := s.store.AppendAudit(ctx, rows...); err != nil {
				lost += len(rows)
				s.log.Error("the results of runs could not be recorded", "runs", len(rows), "error", err)
			}
			rows = rows[:0]
		}
	}
	if lost > 0 {
		s.log.Error("runs ended without a result in the audit log; the next start records that their outcome is unknown", "runs", lost)
	}
}

// recordLost closes the uses that have no result: the daemon ended before it knew one.
func (s *Service) recordLost(ctx context.Context) {
	for len(s.lost) > 0 {
		n := min(len(s.lost), resultChunk)
		rows := make([]Audit, n)
		for i, use := range s.lost[:n] {
			rows[i] = resultOf(use, s.now())
			rows[i].Reason = ResultUnknown
			rows[i].Detail = "the daemon ended before it knew how the run ended"
		}
		if err := s.store.AppendAudit(ctx, rows...); err != nil {
			if ctx.Err() == nil {
				s.log.Error("runs without a result could not be recorded", "runs", len(s.lost), "error", err)
			}
			return
		}
		s.lost = s.lost[n:]
	}
}

// The reasons of a result that is not the node's own.
const (
	// ResultUnknown is a run that may have happened: nobody heard how it ended.
	ResultUnknown = "unknown"
	// ResultNotSent is a run that certainly did not happen.
	ResultNotSent = "not-sent"
	// ResultRefused is a run that the policy of the node stopped.
	ResultRefused = "node-refused"
	// ResultFailed is an answer of the node that is no refusal and has no exit code.
	ResultFailed = "failed"
)

// resultOf begins the row of a result with what its use says; argv and the rest are there.
func resultOf(use Audit, at time.Time) Audit {
	return Audit{
		At: at, Kind: AuditResult, Subject: use.Subject, ApprovalID: use.ApprovalID, RunID: use.RunID, NodeID: use.NodeID,
		RequestID: use.RequestID, Command: use.Command, AgentID: use.AgentID, SessionKey: use.SessionKey, Decision: use.Decision,
		Rule: use.Rule, Where: use.Where, Policy: use.Policy, BindingHash: use.BindingHash,
	}
}

// row is what the log says about the end of a run.
func (e ended) row() Audit {
	row := resultOf(e.use, e.at)
	switch failure, ok := errs.As(e.err); {
	case !e.sent:
		row.Reason = ResultNotSent
		row.Detail = "the node did not get it"
	case ok && failure.Field("nodeMessage") != "":
		// The node answered, and did not run it.
		row.Reason, row.Detail = failure.Field("nodeCode"), failure.Field("nodeMessage")
		if strings.HasPrefix(row.Detail, "SYSTEM_RUN_DENIED") {
			row.Kind, row.Reason = AuditRefusal, ResultRefused
		}
		if row.Reason == "" {
			row.Reason = ResultFailed
		}
	case e.err != nil:
		row.Reason = ResultUnknown
		row.Detail = e.err.Error()
	case e.use.call():
		readCallAnswer(e.answer, &row)
	default:
		readAnswer(e.answer, &row)
	}
	return row
}

// call reports whether a use is of a privileged command that need not be a run of the gateway protocol.
func (a Audit) call() bool { return strings.HasPrefix(a.Detail, callDetail) }

// readCallAnswer notes how a privileged command ended. It answered: what it said is its own affair, but for
// how a program ended.
func readCallAnswer(answer []byte, row *Audit) {
	var out map[string]json.RawMessage
	if json.Unmarshal(answer, &out) != nil || out == nil {
		return
	}
	for _, name := range []string{"exitCode", "exit_code"} {
		var code float64
		if raw := out[name]; len(raw) > 0 && string(raw) != "null" && json.Unmarshal(raw, &code) == nil && code == float64(int32(code)) {
			exit := int(code)
			row.ExitCode = &exit
		}
	}
	row.OutputDigest, row.StderrDigest = digest(out["stdout"]), digest(out["stderr"])
}

// readAnswer reads the answer of system.run (nodes-approvals.md §4.5).
func readAnswer(answer []byte, row *Audit) {
	var out map[string]json.RawMessage
	if json.Unmarshal(answer, &out) != nil || out == nil {
		row.Reason, row.Detail = ResultFailed, "the node's answer is not one of system.run"
		return
	}
	var code float64
	if raw := out["exitCode"]; raw != nil && json.Unmarshal(raw, &code) == nil && string(raw) != "null" && code == float64(int32(code)) {
		exit := int(code)
		row.ExitCode = &exit
	}
	row.TimedOut = string(out["timedOut"]) == "true"
	row.OutputDigest, row.StderrDigest = digest(out["stdout"]), digest(out["stderr"])
	if row.ExitCode == nil {
		row.Reason = ResultFailed
		row.Detail = textOf(out["error"])
	}
}

func textOf(raw json.RawMessage) (text string) {
	if json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return text
}

func digest(raw json.RawMessage) string {
	text := textOf(raw)
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
