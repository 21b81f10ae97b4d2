package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
)

// fullRun has every field that is stored.
func fullRun(id string) runs.Run {
	at := time.Date(2026, 3, 17, 10, 0, 0, 123, time.UTC)
	return runs.Run{
		ID: id, State: runs.Done, NodeID: "box", Argv: []string{"a", "<b>"}, Cwd: "/srv", AgentID: "main", SessionKey: "s",
		Env: map[string]string{"A": "1"}, EnvKeys: []string{"A"}, Command: "a '<b>'",
		Requester: runs.Requester{
			DeviceID: "d", Paired: true, TokenID: "t", Principal: "p", ConnID: "c", Scopes: []identity.Scope{identity.ScopeWrite},
			ClientID: "cli", DisplayName: "me", Local: true,
		},
		Timeout: time.Minute, ApprovalTimeout: time.Hour, WaitForNode: time.Second, Tried: true, ApprovalID: id, ExpiresAt: at.Add(1),
		ResolvedBy: "boss", CreatedAt: at, StartedAt: at.Add(2), EndedAt: at.Add(3), KilledBy: "somebody",
		Failure: &runs.Failure{Code: "x", Text: "y", Class: errs.Denied},
		Result:  &runs.Result{ExitCode: new(7), Signal: "TERM", TimedOut: true, Stdout: "out\n", Stderr: "err", Error: "e"},
	}
}

func TestRunsAreKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	want := fullRun("r1")
	begin := want
	begin.State, begin.Result, begin.Failure, begin.EndedAt = runs.Preparing, nil, nil, time.Time{}
	if err := s.CreateRun(ctx, begin); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateRun(ctx, begin); errs.ClassOf(err) != errs.Exists {
		t.Errorf("a second time: %v", err)
	}
	refused := errors.New("no")
	if _, err := s.UpdateRun(ctx, "r1", func(r *runs.Run) (*runs.Audit, error) { r.State = runs.Lost; return nil, refused }); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	if _, err := s.UpdateRun(ctx, "r1", func(r *runs.Run) (*runs.Audit, error) {
		if d := cmp.Diff(begin, *r); d != "" {
			t.Errorf("as it was created:\n%s", d)
		}
		*r = want
		return &runs.Audit{Kind: "kill", Subject: "me", RunID: "r1", Argv: []string{"a"}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	got, err := s.Run("r1")
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	list, err := s.Runs()
	res := *want.Result
	res.Stdout, res.Stderr, res.OutputGone = "", "", true
	want.Result = &res
	if d := cmp.Diff([]runs.Run{want}, list); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if rows, err := s.Audit(0, 10); err != nil || len(rows) != 1 || rows[0].RunID != "r1" || rows[0].Kind != "kill" {
		t.Errorf("%+v, %v", rows, err)
	}
	if _, err := s.Run("r2"); !errors.Is(err, runs.ErrUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := s.UpdateRun(ctx, "r2", nil); !errors.Is(err, runs.ErrUnknown) {
		t.Errorf("%v", err)
	}
	if err := s.CreateRun(ctx, runs.Run{ID: "r3", Argv: []string{"\xff"}}); !errors.Is(err, ErrText) {
		t.Errorf("%v", err)
	}
}

// What has ended goes by age, number and size; what has not stays.
func TestPruneRuns(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	now := time.Now()
	for i := range 20 {
		r := fullRun(fmt.Sprintf("r%02d", i))
		r.EndedAt = now.Add(time.Duration(i-20) * time.Hour)
		if i == 0 {
			r.State, r.Result, r.EndedAt = runs.Waiting, nil, time.Time{}
		} else {
			r.Result.Stdout = strings.Repeat("x", 1000)
		}
		begin := r
		begin.Result = nil
		if err := s.CreateRun(ctx, begin); err != nil {
			t.Fatal(err)
		}
		if _, err := s.UpdateRun(ctx, r.ID, func(to *runs.Run) (*runs.Audit, error) { *to = r; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	left := func() string {
		t.Helper()
		all, err := s.Runs()
		if err != nil {
			t.Fatal(err)
		}
		ids := ""
		for _, r := range all {
			full, err := s.Run(r.ID)
			if err != nil {
				t.Fatal(err)
			}
			ids += " " + r.ID
			if full.Result != nil && full.Result.OutputGone {
				ids += "-"
			}
		}
		if err := s.Check(ctx); err != nil {
			t.Error(err)
		}
		return ids
	}
	for _, tc := range []struct {
		before time.Time
		max    int
		bytes  int64
		n      int
		want   string
	}{
		{now.Add(-16 * time.Hour), 100, 1 << 30, 3, " r00 r04 r05 r06 r07 r08 r09 r10 r11 r12 r13 r14 r15 r16 r17 r18 r19"},
		{now.Add(-99 * time.Hour), 6, 1 << 30, 10, " r00 r14 r15 r16 r17 r18 r19"},
		{now.Add(-99 * time.Hour), 6, 8000, 0, " r00 r14- r15- r16- r17 r18 r19"},
		{now.Add(-99 * time.Hour), 6, 2000, 4, " r00 r18- r19-"},
	} {
		if n, err := s.PruneRuns(ctx, tc.before, tc.max, tc.bytes); n != tc.n || err != nil {
			t.Errorf("%d removed, want %d: %v", n, tc.n, err)
		}
		if got := left(); got != tc.want {
			t.Errorf("left %s, want %s", got, tc.want)
		}
	}
}
