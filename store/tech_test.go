package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// techSession is a session with every member that is kept.
func techSession(node string, opened time.Time) tech.Session {
	return tech.Session{
		ID: uuid.NewString(), Owner: "iam:al\"ice\x01", Name: "Alice", Tenant: "acme", NodeID: node, Kinds: []message.Kind{message.Terminal, message.File}, ReadOnly: true,
		Directories: []string{"/srv/ü", `C:\Data`}, Status: tech.Active, Emulated: true, OpenedAt: opened, LastActivity: opened.Add(time.Second), Commands: 3, BytesIn: 4, BytesOut: 5,
	}
}

func techRowOf(r tech.Session, op string) tech.Audit {
	return tech.Audit{
		At: r.OpenedAt, SessionID: r.ID, ChannelID: "c1", NodeID: r.NodeID, Subject: r.Owner, Tenant: r.Tenant, Operation: op, Outcome: "ok",
		Detail: map[string]any{"command": "'; DROP TABLE x; --\x00\x1b\\\u202e <&>", "n": 1.0},
	}
}

func closedTech(r tech.Session) tech.Session {
	r.Status, r.Reason, r.ClosedBy, r.ClosedAt = tech.Closed, tech.Idle, "hanzod", r.OpenedAt.Add(time.Hour)
	return r
}

func TestTech(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	at := time.Date(2026, 11, 23, 1, 2, 3, 4_000_000, time.UTC)
	a, b := techSession("acme/n1", at), techSession("acme/n1", at.Add(time.Minute))
	if err := s.OpenTechSession(t.Context(), a, techRowOf(a, "open")); err != nil {
		t.Fatal(err)
	}
	wantIs(t, s.OpenTechSession(t.Context(), b, techRowOf(b, "open")), tech.ErrHeld)
	if rows, err := s.TechAudit("", 0, 9); err != nil || len(rows) != 1 {
		t.Errorf("what failed has left %+v, %v", rows, err)
	}
	_, err := s.TechSession(b.ID)
	wantIs(t, err, tech.ErrUnknown)
	wantIs(t, s.ChangeTechSession(t.Context(), b), tech.ErrUnknown)
	// Closing one that does not hold the node leaves it to who does.
	if err := s.ChangeTechSession(t.Context(), closedTech(a), techRowOf(a, "close")); err != nil {
		t.Fatal(err)
	}
	if err := s.OpenTechSession(t.Context(), b, techRowOf(b, "open")); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeTechSession(t.Context(), closedTech(a)); err != nil {
		t.Fatal(err)
	}
	c := techSession("acme/n1", at.Add(2*time.Minute))
	wantIs(t, s.OpenTechSession(t.Context(), c), tech.ErrHeld)
	if err := s.AppendTechAudit(t.Context(), techRowOf(b, "command"), techRowOf(b, "command_end")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	check(t, s)
	if got, err := s.TechSession(a.ID); err != nil || !reflect.DeepEqual(got, closedTech(a)) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := s.TechSession(b.ID); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("%+v, %v", got, err)
	}
	list := func(in tech.ListIn) (ids []string) {
		t.Helper()
		if in.Limit == 0 {
			in.Limit = 9
		}
		all, err := s.TechSessions(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			ids = append(ids, r.ID)
		}
		return ids
	}
	for _, test := range []struct {
		in   tech.ListIn
		want []string
	}{
		{tech.ListIn{}, []string{b.ID, a.ID}},
		{tech.ListIn{Limit: 1}, []string{b.ID}},
		{tech.ListIn{After: b.ID}, []string{a.ID}},
		{tech.ListIn{After: a.ID}, nil},
		{tech.ListIn{Status: tech.Closed}, []string{a.ID}},
		{tech.ListIn{NodeID: "n1"}, nil},
		{tech.ListIn{Owner: a.Owner, Tenant: "acme", NodeID: "acme/n1"}, []string{b.ID, a.ID}},
		{tech.ListIn{Owner: "iam:alice"}, nil},
		{tech.ListIn{Tenant: "globex"}, nil},
	} {
		if got := list(test.in); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.in, got, test.want)
		}
	}
	rows, err := s.TechAudit(b.ID, 0, 9)
	if err != nil || len(rows) != 3 {
		t.Fatalf("%+v, %v", rows, err)
	}
	want := techRowOf(b, "command")
	want.ID = rows[1].ID
	if !reflect.DeepEqual(rows[1], want) {
		t.Errorf("%+v, want %+v", rows[1], want)
	}
	if next, err := s.TechAudit(b.ID, rows[0].ID, 1); err != nil || len(next) != 1 || next[0].ID != rows[1].ID {
		t.Errorf("%+v, %v", next, err)
	}
	if all, err := s.TechAudit("", 0, 99); err != nil || len(all) != 5 {
		t.Errorf("%+v, %v", all, err)
	}
	if log, err := s.Audit(0, 99); err != nil || len(log) != 5 || log[3].Kind != "tech.command" || log[3].RequestID != b.ID || log[3].NodeID != "acme/n1" || log[3].Subject != b.Owner {
		t.Errorf("%+v, %v", log, err)
	}
	// A node that is removed takes its closed sessions along; the audit stays.
	if err := s.RemoveTechSessions(t.Context(), "acme/n1", techRowOf(b, "close")); err != nil {
		t.Fatal(err)
	}
	if got := list(tech.ListIn{}); !slices.Equal(got, []string{b.ID}) {
		t.Error(got)
	}
	if rows, err := s.TechAudit(a.ID, 0, 9); err != nil || len(rows) != 2 {
		t.Errorf("%+v, %v", rows, err)
	}
	check(t, s)
}

// TestTechHold: of many that open a session on one node at once one does.
func TestTechHold(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	var mu sync.Mutex
	held := 0
	for range 50 {
		wg.Go(func() {
			r := techSession("n1", start)
			err := s.OpenTechSession(context.Background(), r, techRowOf(r, "open"))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				held++
			} else if !errors.Is(err, tech.ErrHeld) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := s.TechSessions(tech.ListIn{Limit: 99})
	if rows, rowsErr := s.TechAudit("", 0, 99); held != 1 || err != nil || len(all) != 1 || rowsErr != nil || len(rows) != 1 {
		t.Errorf("%d hold the node; %+v, %v", held, all, err)
	}
}

// TestTechCrash kills the daemon after each write of a session's life: what was written is there with its rows and its hold,
// and nothing else.
func TestTechCrash(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	r := techSession("n1", start)
	steps := []func() error{
		func() error { return s.OpenTechSession(t.Context(), r, techRowOf(r, "open")) },
		func() error { return s.AppendTechAudit(t.Context(), techRowOf(r, "command")) },
		func() error { return s.ChangeTechSession(t.Context(), closedTech(r), techRowOf(r, "close")) },
		func() error { return s.RemoveTechSessions(t.Context(), "n1") },
	}
	for i := range len(steps) + 1 {
		if i > 0 {
			if err := steps[i-1](); err != nil {
				t.Fatal(err)
			}
		}
		left := open(t, killed(t, dir))
		check(t, left)
		got, err := left.TechSession(r.ID)
		if there := err == nil; there != (i > 0 && i < 4) || there && got.Status != map[bool]tech.Status{true: tech.Active, false: tech.Closed}[i < 3] {
			t.Errorf("after step %d: %+v, %v", i, got, err)
		}
		rows, err := left.TechAudit(r.ID, 0, 9)
		log, logErr := left.Audit(0, 9)
		if err != nil || logErr != nil || len(rows) != min(i, 3) || len(log) != len(rows) {
			t.Errorf("after step %d: %+v, %v; %+v, %v", i, rows, err, log, logErr)
		}
		err = left.OpenTechSession(t.Context(), techSession("n1", start))
		if held := errors.Is(err, tech.ErrHeld); held != (i == 1 || i == 2) || !held && err != nil {
			t.Errorf("after step %d: %v", i, err)
		}
	}
}

// TestTechRetention: the oldest rows and the oldest closed sessions go; what is active stays.
func TestTechRetention(t *testing.T) {
	s := open(t, t.TempDir())
	var all []tech.Session
	for i := range 40 {
		r := techSession(fmt.Sprint("n", i), start.Add(time.Duration(i)*time.Second))
		all = append(all, r)
		if err := s.OpenTechSession(t.Context(), r, techRowOf(r, "open")); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			if err := s.ChangeTechSession(t.Context(), closedTech(r)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.w.do(t.Context(), func(t *txn) error {
		if err := t.pruneTechRows(3); err != nil {
			return err
		}
		return t.pruneTechSessions(39)
	}); err != nil {
		t.Fatal(err)
	}
	check(t, s)
	rows, err := s.TechAudit("", 0, 99)
	if err != nil || len(rows) != 37 || rows[0].SessionID != all[3].ID {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	for i, r := range all[:3] {
		if rows, err := s.TechAudit(r.ID, 0, 9); err != nil || len(rows) != 0 {
			t.Errorf("%d: %+v, %v", i, rows, err)
		}
	}
	left, err := s.TechSessions(tech.ListIn{Limit: 99})
	if err != nil || len(left) != 40-pruneTech {
		t.Errorf("%d sessions, %v", len(left), err)
	}
	for i, r := range all {
		if _, err := s.TechSession(r.ID); (err == nil) != (i%2 == 0 || i > 2*pruneTech) {
			t.Errorf("%d: %v", i, err)
		}
	}
	// The chained log has its own bounds.
	if log, err := s.Audit(0, 99); err != nil || len(log) != 40 {
		t.Errorf("%d rows, %v", len(log), err)
	}
}
