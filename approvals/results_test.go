package approvals_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/errs"
)

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// rows returns the rows of the log after the first n.
func (w *world) rows(n uint64) []approvals.Audit {
	w.tb.Helper()
	rows, err := w.store.Audit(n, 10_000)
	if err != nil {
		w.tb.Fatal(err)
	}
	return rows
}

// settled waits until every use has a result.
func (w *world) settled() {
	w.tb.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		open, err := w.store.OpenUses()
		if err != nil {
			w.tb.Fatal(err)
		}
		if len(open) == 0 {
			return
		}
		if time.Now().After(end) {
			w.tb.Fatalf("%d uses have no result", len(open))
		}
	}
}

var rowTimes = cmpopts.IgnoreFields(approvals.Audit{}, "Seq", "At")

// TestResults: every run that was let through has a use before it goes out, and one row that says how
// it ended.
func TestResults(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.ask(run("a1", "uname", "-a"))
	w.decide("a1", approvals.AllowAlways)

	zero, seven := 0, 7
	denied := errs.New(errs.Unavailable, "x").With("nodeCode", "UNAVAILABLE").With("nodeMessage", "SYSTEM_RUN_DENIED: approval required")
	broken := errs.New(errs.Unavailable, "x").With("nodeCode", "INVALID_REQUEST").With("nodeMessage", "command required")
	const approved = `{"command":["x"],"runId":"a1","approved":true}`
	plain := `{"command":["ls","-l"],"cwd":"/tmp","agentId":"main","sessionKey":"k","env":{"TOKEN":"hunter2"}}`
	for _, c := range []struct {
		name, params string
		sent         bool
		answer       string
		err          error
		want         approvals.Audit
	}{
		{"approved", approved, true, `{"exitCode":0,"timedOut":false,"success":true,"stdout":"hi\n","stderr":"","error":null}`, nil,
			approvals.Audit{Kind: "result", ExitCode: &zero, OutputDigest: sum("hi\n")}},
		{"plain", plain, true, `{"exitCode":7,"timedOut":true,"success":false,"stdout":"","stderr":"no\n","error":null}`, nil,
			approvals.Audit{Kind: "result", ExitCode: &seven, TimedOut: true, StderrDigest: sum("no\n")}},
		{"did not start", plain, true, `{"timedOut":false,"success":false,"stdout":"","stderr":"","error":"no such file"}`, nil,
			approvals.Audit{Kind: "result", Reason: "failed", Detail: "no such file"}},
		{"odd exit code", plain, true, `{"exitCode":1e300}`, nil, approvals.Audit{Kind: "result", Reason: "failed"}},
		{"odd answer", plain, true, `[1]`, nil, approvals.Audit{Kind: "result", Reason: "failed", Detail: "the node's answer is not one of system.run"}},
		{"refused by the node", plain, true, ``, denied,
			approvals.Audit{Kind: "refusal", Reason: "node-refused", Detail: "SYSTEM_RUN_DENIED: approval required"}},
		{"not understood", plain, true, ``, broken, approvals.Audit{Kind: "result", Reason: "INVALID_REQUEST", Detail: "command required"}},
		{"caller gone", approved, true, ``, context.Canceled, approvals.Audit{Kind: "result", Reason: "unknown", Detail: "context canceled"}},
		{"node gone", plain, false, ``, errors.New("gone"), approvals.Audit{Kind: "result", Reason: "not-sent", Detail: "the node did not get it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := uint64(len(w.rows(0)))
			_, ended, err := w.svc.GuardRun(ctx, ann, "n1", []byte(c.params))
			if err != nil {
				t.Fatal(err)
			}
			use := approvals.Audit{
				Kind: "use", Subject: ann.Subject(), NodeID: "n1", Argv: []string{"ls", "-l"}, Command: "ls -l", Cwd: "/tmp",
				AgentID: "main", SessionKey: "k",
			}
			if c.params == approved {
				use = approvals.Audit{
					Kind: "use", Subject: ann.Subject(), NodeID: "n1", Argv: []string{"uname", "-a"}, Command: "uname -a", Cwd: "/srv",
					ApprovalID: "a1", Decision: approvals.AllowAlways,
				}
			}
			rows := w.rows(n)
			if len(rows) != 1 || rows[0].RunID == "" {
				t.Fatalf("before it went out: %+v", rows)
			}
			use.RunID = rows[0].RunID
			ignored := cmpopts.IgnoreFields(approvals.Audit{}, "Command", "Rule", "Where", "Policy", "BindingHash")
			if diff := cmp.Diff(use, rows[0], rowTimes, ignored); diff != "" {
				t.Error(diff)
			}
			ended(c.sent, []byte(c.answer), c.err)
			w.settled()
			want := c.want
			want.Subject, want.NodeID, want.RunID, want.ApprovalID, want.Decision = use.Subject, "n1", use.RunID, use.ApprovalID, use.Decision
			want.AgentID, want.SessionKey = use.AgentID, use.SessionKey
			rows = w.rows(n + 1)
			if len(rows) != 1 {
				t.Fatalf("%d rows", len(rows))
			}
			if diff := cmp.Diff(want, rows[0], rowTimes, ignored); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNoSecretsInRows: the values of environment variables are in no record.
func TestNoSecretsInRows(t *testing.T) {
	w := newWorld(t)
	in := run("a1", "env")
	in.Env = map[string]string{"TOKEN": "hunter2"}
	w.ask(in)
	w.decide("a1", approvals.AllowOnce)
	for _, params := range []string{
		`{"command":["env"],"env":{"TOKEN":"hunter2"}}`,
		`{"command":["env"],"env":{"TOKEN":"hunter2-other"},"runId":"a1","approved":true}`,
		`{"command":["env"],"env":{"TOKEN":"hunter2"},"runId":"a1","approved":true}`,
	} {
		if _, ended, err := w.svc.GuardRun(t.Context(), ann, "n1", []byte(params)); err == nil {
			ended(true, []byte(`{"exitCode":0,"stdout":"TOKEN=hunter2\n"}`), nil)
		}
	}
	w.settled()
	n := 0
	_, _, err := w.svc.ExportAudit(t.Context(), ann, 0, func(r audit.Row) error {
		if n++; bytes.Contains(r.Record, []byte("hunter2")) {
			t.Errorf("row %d holds the value: %s", r.Seq, r.Record)
		}
		return nil
	})
	if err != nil || n < 6 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// TestResultsAtStop: what ended before a stop is recorded by it, and what nobody saw the end of by the
// next start.
func TestResultsAtStop(t *testing.T) {
	w := newWorld(t)
	_, one, err := w.svc.GuardRun(t.Context(), ann, "n1", []byte(`{"command":["one"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.svc.GuardRun(t.Context(), ann, "n1", []byte(`{"command":["two"]}`)); err != nil {
		t.Fatal(err)
	}
	one(true, []byte(`{"exitCode":0}`), nil)
	w.stop()
	rows := w.rows(2)
	if len(rows) != 1 || rows[0].Kind != approvals.AuditResult || rows[0].ExitCode == nil {
		t.Fatalf("%+v", rows)
	}
	w.restart()
	w.settled()
	rows = w.rows(3)
	if len(rows) != 1 || rows[0].Reason != approvals.ResultUnknown || rows[0].Command != "two" || rows[0].ExitCode != nil {
		t.Fatalf("%+v", rows)
	}
}
