package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/identity"
)

// fullJob has every field that is stored.
func fullJob(id string, kind cron.PayloadKind) cron.Job {
	yes, n, text, list := true, int64(7), "t", []string{"a", "b"}
	j := cron.Job{
		ID: id, AgentID: "a", SessionKey: "s", Name: "n <b>", Description: "d", Enabled: true, DeleteAfterRun: &yes, CreatedMs: 1, UpdatedMs: 2,
		Schedule: cron.Schedule{Kind: cron.Cron, At: "x", EveryMs: 3, AnchorMs: &n, Expr: "* * * * *", Zone: "UTC", StaggerMs: &n},
		Target:   cron.Main, WakeMode: cron.WakeNow, Payload: cron.Payload{Kind: kind, Text: "text"},
		Delivery: &cron.Delivery{
			Mode: "webhook", Channel: "c", To: "t", AccountID: "a", BestEffort: &yes, Failure: &cron.Destination{Channel: "c", To: "t", AccountID: "a", Mode: "m"},
		},
		FailureAlert: &cron.FailureAlert{Off: true, After: &n, Channel: "c", To: "t", CooldownMs: &n, Mode: "m", AccountID: "a"},
		Missed:       cron.Missed{Mode: cron.MissedWithin, Within: time.Hour},
		Owner: cron.Owner{
			DeviceID: "d", Paired: true, Principal: "p", Scopes: []identity.Scope{identity.ScopeAdmin}, ClientID: "c", DisplayName: "n", Local: true,
		},
		State: cron.State{
			NextRunMs: 1, RunningMs: 2, LastRunMs: 3, LastRunStatus: cron.OK, LastStatus: cron.Failed, LastError: "e", LastDurationMs: &n, ConsecutiveErrors: &n,
			LastDelivered: &yes, LastDeliveryStatus: cron.Delivered, LastDeliveryError: "e", LastFailureAlertMs: 4, ScheduleErrors: 5, SlotMs: 6, LastSlotMs: 7, RunID: "r",
		},
	}
	switch kind {
	case cron.AgentTurn:
		j.Payload.Turn = cron.Turn{
			Message: "m", Model: &text, Fallbacks: &list, Thinking: &text, TimeoutSeconds: &n, AllowUnsafeExternalContent: &yes, LightContext: &yes, Deliver: &yes,
			Channel: &text, To: &text, BestEffortDeliver: &yes,
		}
	case cron.RunCommand:
		j.Payload.Command = cron.Command{
			NodeID: "box", Argv: []string{"ls"}, Cwd: "/", Env: map[string]string{"A": "1"}, Timeout: 1, ApprovalTimeout: 2, WaitForNode: 3,
		}
	}
	return j
}

func TestCronIsKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	jobs := []cron.Job{fullJob("j1", cron.SystemEvent), fullJob("j2", cron.AgentTurn), fullJob("j3", cron.RunCommand)}
	yes, n := true, int64(7)
	row := cron.Entry{
		JobID: "j1", AtMs: 1, Status: cron.OK, Error: "e", Summary: "s", Delivered: &yes, DeliveryStatus: cron.Delivered, DeliveryError: "e", SessionID: "i",
		SessionKey: "k", RunAtMs: 2, DurationMs: &n, NextRunMs: 3, Model: "m", Provider: "p", Usage: &cron.Usage{Input: &n, Output: &n, Total: &n, CacheRead: &n, CacheWrite: &n},
		SlotMs: 4, LeftOut: 5, UntilMs: 6, RunID: "r", NodeID: "n", ExitCode: &n, Own: true,
	}
	written := row
	if err := s.WriteCron(ctx, cron.Change{Put: jobs, Append: []*cron.Entry{&written}}); err != nil {
		t.Fatal(err)
	}
	row.Seq = written.Seq
	for i, end := range []func() error{func() error { return nil }, s.Close} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			s = open(t, dir)
		}
		got, err := s.CronJobs()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(jobs, got); d != "" {
			t.Error(d)
		}
		rows, total, err := s.CronRuns(cron.Find{JobID: "j1", Limit: 10})
		if d := cmp.Diff([]cron.Entry{row}, rows); d != "" || total != 1 || err != nil || row.Seq == 0 {
			t.Error(d, total, err)
		}
		if err := s.Check(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := s.WriteCron(ctx, cron.Change{Remove: []string{"j1", "none"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.CronJobs(); len(got) != 2 || err != nil {
		t.Error(got, err)
	}
}

// TestCronRunLog: pages of one job and of all, in the order of writing, and the bounds of each.
func TestCronRunLog(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	for i := range 30 {
		e := &cron.Entry{JobID: fmt.Sprint("j", i%3), AtMs: int64(1000 - i), Summary: fmt.Sprint(i)}
		if err := s.WriteCron(ctx, cron.Change{Append: []*cron.Entry{e}}); err != nil {
			t.Fatal(err)
		}
	}
	find := func(f cron.Find) string {
		t.Helper()
		rows, total, err := s.CronRuns(f)
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprint(total)
		for _, e := range rows {
			out += " " + e.Summary
		}
		return out
	}
	even := func(e *cron.Entry) bool { return e.AtMs%2 == 0 }
	for _, c := range []struct {
		f    cron.Find
		want string
	}{
		{cron.Find{JobID: "j1", Limit: 3}, "10 28 25 22"},
		{cron.Find{JobID: "j1", Limit: 3, Ascend: true, Offset: 8}, "10 25 28"},
		{cron.Find{Limit: 4}, "30 29 28 27 26"},
		{cron.Find{Limit: 2, Offset: 99}, "30"},
		{cron.Find{Limit: 3, Match: even, Ascend: true}, "15 0 2 4"},
		{cron.Find{JobID: "j", Limit: 3}, "0"}, {cron.Find{JobID: "a\x00b", Limit: 3}, "0"},
	} {
		if got := find(c.f); got != c.want {
			t.Errorf("%+v: %s, want %s", c.f, got, c.want)
		}
	}
	if n, err := s.PruneCronRuns(ctx, cron.Keep{Rows: 4, Bytes: 1 << 20, All: 100}); n != 18 || err != nil {
		t.Error(n, err)
	}
	if got := find(cron.Find{JobID: "j0", Limit: 9}); got != "4 27 24 21 18" {
		t.Error(got)
	}
	if n, err := s.PruneCronRuns(ctx, cron.Keep{Rows: 4, Bytes: 1 << 20, All: 5}); n != 7 || err != nil {
		t.Error(n, err)
	}
	if got := find(cron.Find{Limit: 9}); got != "5 29 28 27 26 25" {
		t.Error(got)
	}
	if n, err := s.PruneCronRuns(ctx, cron.Keep{Rows: 4, Bytes: 1, All: 5}); n != 2 || err != nil {
		t.Error(n, err)
	}
	if got := find(cron.Find{Limit: 9}); got != "3 29 28 27" {
		t.Error(got)
	}
}

// BenchmarkCronLoad is what a start with a thousand jobs costs.
func BenchmarkCronLoad(b *testing.B) {
	s := open(b, b.TempDir())
	var jobs []cron.Job
	for i := range 1000 {
		j := fullJob(fmt.Sprintf("job-%04d", i), cron.SystemEvent)
		j.Delivery, j.FailureAlert, j.Owner = nil, nil, cron.Owner{}
		jobs = append(jobs, j)
	}
	if err := s.WriteCron(b.Context(), cron.Change{Put: jobs}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if got, err := s.CronJobs(); len(got) != 1000 || err != nil {
			b.Fatal(len(got), err)
		}
	}
}
